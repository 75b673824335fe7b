"""Shape checks on, compilations quick and kept, and the fixtures every test may ask for.

Most of the time goes to compilation, so programs are compiled with few optimisations, and fused loops by XLA's older
emitters, which take a third of the time; as users have them: `JAX_DISABLE_MOST_OPTIMIZATIONS=0 pytest`.

Tests are collected in `importlib` mode, so that files of the same name may stand in different folders;
`pythonpath` in `pyproject.toml` makes `from helpers import assert_close` work in all of them.
"""

import os
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import count
from pathlib import Path

# before JAX; also of commands that tests run
if os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1").lower() not in (
    "0", "false", "off", "no", "n", "f"
) and version("jaxlib").startswith("0.10."):  # one that does not know the flag would end at once  # fmt: skip
    quick = "--xla_cpu_use_fusion_emitters=false"
    os.environ["XLA_FLAGS"] = f"{quick} {os.environ.get('XLA_FLAGS', '')}"  # what is set already comes last, and wins

import hypothesis
import jax
import pytest
from jaxtyping import install_import_hook
from memory import forget_programs

install_import_hook("unmix_jax", "beartype.beartype")  # before anything imports the package

hypothesis.settings.register_profile("unmix", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("unmix")  # the first example compiles, and every run tests the same ones

if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


@pytest.fixture(scope="module", autouse=True)
def compiled_programs_are_let_go() -> Iterator[None]:
    """A module compiles a thousand of them."""
    yield
    forget_programs()


@pytest.fixture
def shared_data() -> Path:
    """The folder of benchmark scenes that do not ship with the project."""
    folder = os.environ.get("UNMIX_JAX_DATA")
    if not folder:
        pytest.skip("UNMIX_JAX_DATA is not set")
    return Path(folder)


@pytest.fixture
def getkey() -> Callable[[], jax.Array]:
    """A function that returns a new random key at each call, the same ones in every run."""
    numbers = count(2026)
    return lambda: jax.random.key(next(numbers))


@pytest.fixture
def x64() -> Iterator[None]:
    """Run the test in float64: `@pytest.mark.usefixtures("x64")`."""
    with jax.enable_x64(True):
        yield
