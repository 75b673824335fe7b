"""What README and quick start promise runs as it stands there."""

import dataclasses
import re
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import unmix_jax
from unmix_jax.networks.zoo import RECIPES

ROOT = Path(__file__).parents[1]


def blocks(document: str, language: str) -> list[str]:
    """The code blocks of one language in a document."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def execute(code: str, document: str, **names) -> dict:
    """Run a block as a user would, and return its names."""
    namespace = dict(names)
    exec(compile(code, document, "exec"), namespace)
    return namespace


def test_readme_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("README.md", "python")
    assert len(code.strip().splitlines()) <= 12  # ten lines, it says
    names = execute(code, "README.md")
    solution = names["solution"]
    assert solution.abundances.shape == (145, 145, 8)
    assert np.asarray(solution.converged).all()
    assert (tmp_path / "results" / "record.json").exists()


def test_readme_commands_are_single_lines_that_set_everything_up():
    demo, test = (b.strip() for b in blocks("README.md", "bash")[:2])
    for command in (demo, test):
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install")
        assert "\n" not in command
    assert demo.endswith("unmix-jax demo")
    assert "pytest" in test


def test_what_the_readme_links_to_is_there():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("http")]
    assert links
    assert not [link for link in links if not (ROOT / link).is_file()]


@pytest.fixture
def my_files(tmp_path, monkeypatch):
    """The files the quick start speaks of: a small ENVI scene, and a mineral library on finer bands."""
    from spectral.io import envi

    generator = np.random.default_rng(0)
    fine, coarse = np.linspace(400, 2500, 211), np.linspace(450, 2400, 40)
    spectra = np.stack([0.3 + 0.2 * np.sin(fine / (150 + 90 * e)) for e in range(3)]).astype(np.float32)
    endmembers = np.stack([np.interp(coarse, fine, s) for s in spectra])
    cube = generator.dirichlet(np.ones(3), (12, 9)) @ endmembers + 1e-3 * generator.normal(size=(12, 9, 40))
    monkeypatch.chdir(tmp_path)
    axis = {"wavelength units": "Nanometers", "wavelength": list(coarse), "fwhm": [50.0] * 40}
    envi.save_image("my_scene.hdr", cube.astype(np.float32), metadata=axis, ext=".img")
    header = {"wavelength units": "Nanometers", "wavelength": list(fine), "spectra names": ["a", "b", "c"]}
    envi.SpectralLibrary(spectra, header).save("minerals")
    return cube.astype(np.float32), endmembers.astype(np.float32)


def test_scaling_code_runs(my_files, capsys):
    names = execute("\n".join(blocks("docs/scaling.md", "python")), "scaling.md")
    assert names["record"]["pixels"]["valid"] == 12 * 9
    assert names["some"].abundances.shape == (2, 2, 3)
    assert "of memory" in capsys.readouterr().out


def test_quick_start_code_runs(my_files):
    cube, endmembers = my_files
    code = "\n".join(blocks("docs/quick-start.md", "python"))
    pixels = jnp.asarray(cube[0])
    names = execute(code, "quick-start.md", pixels=pixels, pixel=pixels[0], endmembers=endmembers)
    assert names["solution"].abundances.shape == (12, 9, 3)
    assert names["many"].abundances.shape == (9, 3)
    assert names["sensitivity"].shape == (3, 40)


def test_every_doi_of_the_package_is_in_the_list_of_references():
    listed = (ROOT / "docs/references.md").read_text(encoding="utf-8")
    cited = {
        doi.rstrip(".,;)")
        for path in Path(unmix_jax.__file__).parent.rglob("*.py")
        for doi in re.findall(r"\b10\.\d{4,}/[^\s\"]+", path.read_text(encoding="utf-8"))
    }
    assert cited
    assert not [doi for doi in cited if doi not in listed]


def test_changelog_and_citation_name_the_version():
    assert f"version: {unmix_jax.__version__}" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_blind_code_runs(monkeypatch):
    """On every sixth pixel, with short training."""
    for name, recipe in list(RECIPES.items()):
        short = dataclasses.replace(recipe.schedule, epochs=2, sample=64)
        monkeypatch.setitem(RECIPES, name, recipe._replace(schedule=short))
    scene = unmix_jax.load("indian_pines")
    monkeypatch.setattr(unmix_jax, "load", lambda name: eqx.tree_at(lambda s: s.cube, scene, scene.cube[::6, ::6]))
    short, own = blocks("docs/blind.md", "python")
    found = execute(short, "docs/blind.md")["found"]
    assert found.solution.abundances.shape == (25, 25, 4)
    names = execute(own, "docs/blind.md")
    assert np.isfinite(np.asarray(names["trained"].endmembers)).all()
    np.testing.assert_allclose(names["solution"].abundances.sum(1), 1, atol=1e-5)


def test_code_of_networks_from_pure_spectra_runs():
    names = execute("\n".join(blocks("docs/learning.md", "python")), "docs/learning.md")
    for solution in (names["solution"], names["said"], names["refined"]):
        assert np.asarray(solution.abundances).argmax(1).tolist() == [0, 1, 2]
