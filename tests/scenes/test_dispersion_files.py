"""Files of dispersion parameters: what is written comes back, and what is broken is named."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unmix_jax.physics.dispersion import emissivity, from_axes, stack, unstack
from unmix_jax.scenes.datasets import refractive_index
from unmix_jax.scenes.dispersion_files import load_dispersion, save_dispersion

BANDS = np.linspace(400.0, 1400.0, 51)
NAMES = ["quartz", "Schwarzkörper"]
LIBRARY = stack(
    [
        from_axes([[450.1, 1070.0], [1160.0]], [[0.02, 0.007], [0.01]], [[0.8, 0.66], [0.9]], [2.36, 2.38], [0.3, 0.7]),
        from_axes([[600.0]], [[0.1]], [[0.0]], [1.005]),
    ]
)


def oscillator(**changes):
    return {"frequency": 600.0, "damping": 0.1, "strength": 0.2, **changes}


def document(**changes):
    """A good file with one thing changed."""
    axis = {"weight": 1.0, "epsilon_inf": 2.0, "oscillators": [oscillator()]}
    mineral = {"name": "quartz", "axes": [axis]}
    whole = {"format": "unmix_jax dispersion parameters", "version": 1, "minerals": [mineral]}
    for holder in (whole, mineral, axis, axis["oscillators"][0]):
        for key in holder.keys() & changes.keys():
            holder[key] = changes.pop(key)
    return whole


def test_round_trip_is_exact(tmp_path):
    path = save_dispersion(
        tmp_path / "library.json", NAMES, LIBRARY, mse=np.float32([1e-5, 2e-6]), source="a test", files=("a", "b")
    )
    names, library, metadata = load_dispersion(path)
    assert names == NAMES
    jax.tree.map(np.testing.assert_array_equal, library, LIBRARY)
    np.testing.assert_array_equal(emissivity(library, BANDS), emissivity(LIBRARY, BANDS))
    assert metadata == {"source": "a test", "mse": [1e-5, 2e-6], "files": ["a", "b"]}
    assert [p.name for p in tmp_path.iterdir()] == ["library.json"]
    again = save_dispersion(tmp_path / "again.json", names, library, **metadata)
    assert again.read_text() == path.read_text()


@pytest.mark.usefixtures("x64")
def test_float64_is_exact(tmp_path):
    library = stack([from_axes([[np.pi * 300]], [[1 / 3]], [[0.1]], [2.2])])
    _, back, _ = load_dispersion(save_dispersion(tmp_path / "library.json", ["a"], library))
    jax.tree.map(np.testing.assert_array_equal, back, library)


def test_file_is_for_people(tmp_path):
    content = json.loads(save_dispersion(tmp_path / "library.json", NAMES, LIBRARY, mse=[1e-5, None]).read_text())
    assert content["units"]["frequency"] == "cm^-1"
    first, second = content["minerals"]
    assert first["axes"][0]["oscillators"][0] == {"frequency": 450.1, "damping": 0.02, "strength": 0.8}
    assert [len(axis["oscillators"]) for axis in first["axes"]] == [2, 1]
    assert len(second["axes"]) == 1
    assert second["name"] == "Schwarzkörper"


@pytest.mark.parametrize(
    ("names", "library", "metadata", "message"),
    [
        (["one"], LIBRARY, {}, "1 names for 2"),
        (NAMES, LIBRARY, {"axes": 3}, "axes"),
        (NAMES, LIBRARY, {"model": object()}, "no place"),
        (["bad"], stack([from_axes([[600.0]], [[np.nan]], [[0.1]], [2.0])]), {}, r"library.json: "),
        (["bad"], stack([from_axes([[600.0]], [[0.0]], [[0.1]], [2.0])]), {}, r"'damping' of oscillator 0 of axis 0"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, names, library, metadata, message):
    with pytest.raises(ValueError, match=message):
        save_dispersion(tmp_path / "library.json", names, library, **metadata)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "the file must be an object"),
        ({}, "the format is None"),
        (document(format="something"), "'something'"),
        (document(version=2), "version 2"),
        (document(minerals=[]), "no minerals"),
        (document(minerals={"quartz": {}}), "'minerals' must be a list"),
        (document(minerals=[3]), "mineral 0 must be an object"),
        (document(name=None), "name of mineral 0"),
        (document(axes=None), "'axes' of mineral 'quartz'"),
        (document(axes=[]), "no axis"),
        (document(axes=["x"]), "axis 0 of mineral 'quartz'"),
        (document(weight=0), "sum to 0, not to one"),
        (document(weight=-1), "'weight' of axis 0 of mineral 'quartz'"),
        (document(epsilon_inf="2"), "'epsilon_inf'"),
        (document(oscillators=[None]), "oscillator 0 of axis 0 of mineral 'quartz'"),
        (document(oscillators=[oscillator(), {"frequency": 3}]), "'damping' of oscillator 1"),
        (document(frequency=0), "'frequency'"),
        (document(frequency=10**40), "'frequency'"),
        (document(damping=True), "'damping'"),
        (document(strength=-0.1), "'strength'"),
        (document(strength=float("nan")), "'strength'"),
        (document(strength=float("inf")), "'strength'"),
        ({"endmembers": 3}, "'endmembers' must be an object"),
        ({"endmembers": {"a": {"modes": [3]}}}, "a mode of endmember 'a'"),
        ({"endmembers": {"a": {"modes": 3}}}, "'modes'"),
        (
            {"endmembers": {"a": {"modes": [{"freqs_cm1": [1.0], "gammas": [], "four_pi_rho": [1.0]}]}}},
            r"\[1, 0, 1\]",
        ),
        ({"endmembers": {}}, "no minerals"),
    ],
)
def test_broken_files_are_named(tmp_path, content, message):
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: .*{message}"):
        load_dispersion(path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b'{"a": NaN'])
def test_what_is_not_json_is_named(tmp_path, content):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: not a JSON file"):
        load_dispersion(path)


def test_every_truncation_is_named(tmp_path):
    text = save_dispersion(tmp_path / "library.json", NAMES, LIBRARY).read_text().rstrip()
    path = tmp_path / "broken.json"
    for length in range(0, len(text), 97):
        path.write_text(text[:length])
        with pytest.raises(ValueError, match=re.escape(str(path))):
            load_dispersion(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.json"):
        load_dispersion(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    ("name", "minerals", "axes", "oscillators"),
    [("infrarender", 38, 70, 1099), ("rogers_tes", 42, 84, 1742)],
)
def test_exports_of_infrarender(shared_data, tmp_path, name, minerals, axes, oscillators):
    names, library, metadata = load_dispersion(shared_data / "feely" / f"{name}_dispersion_params.json")
    assert len(names) == minerals
    assert names[0] == "Actinolite"
    assert int(jnp.sum(library.weights > 0)) == axes
    assert int(jnp.sum(library.active)) == oscillators
    assert metadata["wavenumber_unit"] == "cm^-1"
    assert len(metadata["fit_range_cm1"]) == minerals
    np.testing.assert_allclose(jnp.sum(library.weights, -1), 1, rtol=1e-6)
    back_names, back, _ = load_dispersion(save_dispersion(tmp_path / "mine.json", names, library, **metadata))
    assert back_names == names
    jax.tree.map(np.testing.assert_array_equal, back, library)


def complex_emissivity(mineral, axis, wavenumber):
    """One axis in complex arithmetic."""
    active = np.asarray(mineral.active)[axis]
    f, g, s = (np.asarray(getattr(mineral, n), float)[axis][active] for n in ("frequency", "damping", "strength"))
    w = wavenumber[:, None]
    permittivity = float(mineral.epsilon_inf[axis]) + np.sum(s * f**2 / (f**2 - w**2 - 1j * g * f * w), -1)
    index = np.sqrt(permittivity)
    return 1 - np.abs((index - 1) / (index + 1)) ** 2


def test_the_shipped_minerals_render_to_their_stated_errors():
    """Every mineral against the optical constants it was fitted to, which ship too."""
    names, library, said = load_dispersion()
    assert {"hematite", "dolomite", "corundum", "kaolinite", "illite", "montmorillonite", "anhydrite"} <= set(names)
    rows = zip(unstack(library), said["tables"], said["mse"], said["first_cm1"], said["last_cm1"], strict=True)
    for mineral, tables, mse, low, high in rows:
        assert mse < 1e-4
        squares = []
        for axis, table in enumerate(tables):
            wavelength, n, k = (np.asarray(a, float) for a in refractive_index(table))
            wavenumber, first = np.unique(1e7 / wavelength, return_index=True)
            inside = (wavenumber >= low) & (wavenumber <= high)
            index = (n + 1j * k)[first][inside]
            measured = 1 - np.abs((index - 1) / (index + 1)) ** 2
            squares.append((complex_emissivity(mineral, axis, wavenumber[inside]) - measured) ** 2)
        assert np.mean(np.concatenate(squares)) == pytest.approx(mse, rel=0.02, abs=1e-9)


def test_float32_is_enough_for_the_shipped_minerals():
    names, library, said = load_dispersion()
    wavenumber = np.arange(min(said["first_cm1"]), max(said["last_cm1"]), 1.0)
    single = np.asarray(emissivity(library, wavenumber.astype(np.float32)))
    with jax.enable_x64(True):
        _, double, _ = load_dispersion()
        assert double.frequency.dtype == np.float64
        worst = np.abs(single - np.asarray(emissivity(double, wavenumber))).max(axis=-1)
    assert dict(zip(names, worst, strict=True)) == {name: pytest.approx(0, abs=1e-5) for name in names}
