"""The package as a whole: who may import whom, what a module says of itself, what importing it costs."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import unmix_jax

ROOT = Path(unmix_jax.__file__).parent
MODULES = {p.relative_to(ROOT.parent).with_suffix(""): p for p in sorted(ROOT.rglob("*.py"))}
FILES = pytest.mark.parametrize("path", MODULES.values(), ids=[".".join(m.parts) for m in MODULES])

# Parts of the package in the order in which they may import: each only itself and what stands above.
# Parts of one row may not import each other, but for the pairs in ALLOWED.
ORDER = (
    {"types", "linalg", "sharding"},
    {"physics"},
    {"scenes"},
    {"metrics"},
    {"solvers"},
    {"endmembers"},
    {"networks"},
    {"tiles", "store"},
    {"driver", "planning", "results"},
    {"pipeline", "readout"},
    {"resuming"},
    {"streaming"},
    {"blind", "page"},
    {"plots", "report", "export", "fitting", "learning"},
    {"cli", "arguments", "help", "unmixing", "terminal", "demo", "__main__"},
)
ALLOWED = {
    ("report", "plots"),
    ("export", "plots"),
    ("report", "export"),
    ("fitting", "plots"),
    ("cli", "arguments"),
    ("cli", "demo"),
    ("cli", "help"),
    ("cli", "terminal"),
    ("cli", "unmixing"),
    ("unmixing", "terminal"),
    ("__main__", "cli"),
}
LEVEL = {part: level for level, row in enumerate(ORDER) for part in row}


def part_of(module: str) -> str:
    """The part of the package a dotted name belongs to, such as `solvers`; empty for the package itself."""
    pieces = module.split(".")
    return pieces[1] if len(pieces) > 1 else ""


def imports_of(path: Path, module: str) -> set[str]:
    """The dotted names inside the package that a file imports anywhere, relative imports resolved."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == ROOT.name}


def may_import(source: str, target: str) -> bool:
    """Whether a part of the package may import another."""
    if source == target or (source, target) in ALLOWED:
        return True
    return LEVEL[target] < LEVEL[source]


def test_imports_run_one_way():
    wrong = []
    for name, path in MODULES.items():
        module = ".".join(name.parts).removesuffix(".__init__")
        source = part_of(module)
        if not source:
            continue  # the package itself loads its names lazily
        assert source in LEVEL, f"{module} has no place in the order of imports"
        for imported in imports_of(path, module):
            target = part_of(imported)
            # `from unmix_jax import __version__` and other names of the package itself cost nothing
            if target in LEVEL and not may_import(source, target):
                wrong.append(f"{module} imports {imported}")
            elif target and target not in LEVEL and not target.startswith("__"):
                wrong.append(f"{module} imports {imported} through the package: name its home")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("source", "target", "allowed"),
    [
        ("solvers", "physics", True),
        ("physics", "solvers", False),
        ("scenes", "solvers", False),
        ("driver", "results", False),
        ("report", "plots", True),
        ("plots", "report", False),
        ("cli", "demo", True),
        ("results", "plots", False),
    ],
)
def test_the_order_means_what_it_says(source, target, allowed):
    assert may_import(source, target) is allowed


def test_relative_imports_are_seen(tmp_path):
    path = tmp_path / "fcls.py"
    path.write_text("from ..cli import main\nfrom . import iteration\nimport unmix_jax.plots\n")
    found = imports_of(path, "unmix_jax.solvers.fcls")
    assert found == {"unmix_jax.cli.main", "unmix_jax.solvers.iteration", "unmix_jax.plots"}


@FILES
def test_module_opens_with_a_docstring(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@FILES
def test_module_neither_prints_nor_pickles(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    assert "print" not in called or path.name == "cli.py"
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
    }
    assert imported.isdisjoint({"pickle", "cloudpickle", "dill", "joblib", "shelve"})
    pickles = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword)
        and node.arg == "allow_pickle"
        and not (isinstance(node.value, ast.Constant) and node.value.value is False)
    ]
    assert not pickles


@pytest.mark.parametrize("name", sorted(unmix_jax.__all__))
def test_public_name_resolves_and_explains_itself(name):
    value = getattr(unmix_jax, name)
    if name != "__version__":
        assert (value.__doc__ or "").strip()
        assert value.__name__ == name


@FILES
def test_what_a_module_exports_is_there_and_explains_itself(path):
    name = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
    module = import_module(name)
    for public in getattr(module, "__all__", ()):
        value = getattr(module, public)
        if callable(value):
            assert (value.__doc__ or "").strip(), f"{name}.{public} has no docstring"


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'unmixx'"):
        _ = unmix_jax.unmixx


def test_importing_the_package_loads_no_heavy_library():
    heavy = ("jax", "numpy", "scipy", "equinox", "matplotlib", "xarray")
    code = f"import sys, unmix_jax; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
