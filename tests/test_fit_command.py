"""`unmix-jax fit`: what it makes of a library, what it writes, how it fails."""

import json
import re
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unmix_jax import cli, fitting
from unmix_jax.endmembers.dispersion_fit import DispersionFit, fit_dispersion
from unmix_jax.fitting import fit_library, in_wavenumber, summary
from unmix_jax.physics.dispersion import from_axes, stack
from unmix_jax.scenes.dispersion_files import load_dispersion
from unmix_jax.scenes.library_files import write_library
from unmix_jax.scenes.readers import read_library
from unmix_jax.scenes.scene import SpectralAxis, SpectralLibrary

NAMES = ("Quartz", "Grès/α, fin", "quartz")
MINERALS = stack(
    [
        from_axes([[480.0, 1090.0]], [[0.03, 0.02]], [[0.4, 0.5]], [2.3]),
        from_axes([[700.0]], [[0.05]], [[0.3]], [2.6]),
        from_axes([[600.0, 900.0]], [[0.04, 0.05]], [[0.2, 0.4]], [2.0]),
    ]
)
WAVES = np.arange(400.0, 1401.0, 4.0)
EMISSIVITY = np.asarray(MINERALS(WAVES.astype(np.float32)))
QUICK = ("--axes", 1, "--count", 3, "--starts", 1)


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch):
    """The tests of a process share its compilation cache; the command shall not move it."""
    monkeypatch.setattr(cli, "keep_compilations", lambda: None)


def run(*words):
    return cli.main([str(word) for word in words])


def write(path, spectra=EMISSIVITY, axis=None, names=NAMES):
    axis = SpectralAxis(WAVES, unit="cm-1") if axis is None else axis
    return write_library(path, SpectralLibrary(np.asarray(spectra), axis, names))


def canned(spectra, wavenumber, *, key, **_):
    """A fit that costs nothing: oscillators out of order, one of them padding, with known deviations."""
    spectra = np.asarray(spectra)
    if np.isnan(spectra).all(axis=-1).any():
        raise ValueError("no good band")
    count = len(spectra)
    one = from_axes([[900.0, 500.0, 700.0]], [[0.1, 0.2, 0.3]], [[0.5, 0.6, 0.7]], [2.0])
    one = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), stack([one, one]))
    one = jax.tree.map(lambda leaf: leaf[:, 0], one)
    active = one.active.at[:, 0, 2].set(False)
    variance = jnp.arange(1.0, 12.0) ** 2
    return DispersionFit(
        dispersion=type(one)(one.frequency, one.damping, one.strength, one.epsilon_inf, one.weights, active),
        mse=jnp.full(count, 1e-5),
        criterion=jnp.asarray([[-300.0, jnp.inf]] * count),
        axes=jnp.ones(count, int),
        oscillators=jnp.full((count, 1), 2),
        covariance=jnp.broadcast_to(jnp.diag(variance), (count, 11, 11)),
        converged=jnp.zeros(count, bool),
        outside=jnp.zeros(count, bool),
    )


def test_a_library_is_fitted_and_written(tmp_path, capsys):
    spectra = EMISSIVITY + np.random.default_rng(1).normal(0, 1e-3, EMISSIVITY.shape).astype(np.float32)
    spectra[0, [3, 50]], spectra[1, 250] = 0, np.nan
    write(tmp_path / "library.csv", spectra)
    assert run("fit", tmp_path / "library.csv", "--zeros", "missing", "--out", tmp_path / "out", *QUICK) == 0
    printed = capsys.readouterr()
    assert printed.err == ""  # no bar where there is no terminal
    names, dispersion, said = load_dispersion(tmp_path / "out" / "parameters.json")
    assert tuple(names) == NAMES
    np.testing.assert_allclose(dispersion(WAVES.astype(np.float32)), EMISSIVITY, atol=2e-3)
    for found, true in zip(dispersion.frequency, MINERALS.frequency, strict=True):
        assert np.abs(np.asarray(found)[:, None] - np.asarray(true)).min(axis=1).max() < 1.0  # each is found
    with np.load(tmp_path / "out" / "fit.npz") as arrays:
        residual = arrays["measured"] - arrays["modelled"]
        assert np.isnan(residual).sum(axis=1).tolist() == [2, 1, 0]
        np.testing.assert_allclose(said["mse"], np.nanmean(residual.astype(np.float64) ** 2, axis=1), rtol=1e-3)
        np.testing.assert_allclose(arrays["modelled"], dispersion(arrays["wavenumber_cm1"]), atol=1e-5)
    modelled = read_library(tmp_path / "out" / "modelled.sli")
    assert modelled.axis.unit == "cm-1"
    np.testing.assert_allclose(modelled.spectra, EMISSIVITY, atol=2e-3)  # without gaps
    record = json.loads((tmp_path / "out" / "record.json").read_text(encoding="utf-8"))
    assert [m["bands"]["missing"] for m in record["minerals"]] == [2, 1, 0]
    assert record["config"]["axes"] == [1]
    assert {p.name for p in (tmp_path / "out" / "plots").iterdir()} == {"Quartz.png", "Grès_α_fin.png", "quartz-2.png"}
    assert (tmp_path / "out" / "overview.png").read_bytes()[:4] == b"\x89PNG"
    for wanted in (*NAMES, "oscillators", "MSE", "3 of 3", "3 (no data or a bad band)", "400 to 1400 cm⁻¹"):
        assert wanted in printed.out


def test_reflectance_over_falling_micrometres_is_the_same_mineral(tmp_path):
    axis = SpectralAxis((1e4 / WAVES)[::-1].copy(), unit="um")
    write(tmp_path / "library.csv", 1 - EMISSIVITY[:1, ::-1], axis, NAMES[:1])
    words = ("--quantity", "reflectance", "--range", 400, 1400.001, "--out", tmp_path / "out")
    assert run("fit", tmp_path / "library.csv", *words, *QUICK) == 0
    _, dispersion, said = load_dispersion(tmp_path / "out" / "parameters.json")
    assert said["mse"][0] < 1e-6
    assert said["fit"]["quantity"] == "reflectance"
    modelled = read_library(tmp_path / "out" / "modelled.sli")
    np.testing.assert_allclose(modelled.axis.centers, WAVES, rtol=1e-5)
    np.testing.assert_allclose(modelled.spectra, 1 - np.asarray(dispersion(modelled.axis.centers)), atol=1e-5)
    np.testing.assert_allclose(modelled.spectra[0], 1 - EMISSIVITY[0], atol=2e-3)


@pytest.mark.parametrize("unit", ["cm-1", "nm", "um"])
@pytest.mark.parametrize("falls", [False, True])
def test_any_axis_comes_out_in_increasing_wavenumber(unit, falls):
    axis = SpectralAxis(WAVES[::-1].copy() if falls else WAVES, unit="cm-1").to(unit)
    values = EMISSIVITY[:, ::-1].copy() if falls else EMISSIVITY.copy()
    values[0, 0], values[1, 0] = -9999, np.nan
    good = np.arange(251) != 50
    out = in_wavenumber(SpectralLibrary(values, axis, NAMES, good_bands=good), (500.0, 1300.0))
    np.testing.assert_allclose(out.axis.centers, WAVES[25:226])
    expected = np.array(EMISSIVITY)
    edge = -1 if falls else 0
    expected[:2, edge] = np.nan
    expected[:, 200 if falls else 50] = np.nan
    np.testing.assert_array_equal(out.spectra, expected[:, 25:226])
    assert (out.axis.unit, out.good_bands, out.spectra.dtype) == ("cm-1", None, np.float32)
    whole = in_wavenumber(SpectralLibrary(values, axis, NAMES))
    assert np.isnan(whole.spectra[:, edge]).tolist() == [True, True, False]


def test_exact_zeros_are_measurements_unless_told_otherwise(tmp_path):
    values = EMISSIVITY.copy()
    values[0, 7] = 0
    path = write(tmp_path / "library.csv", values)
    with pytest.warns(UserWarning, match="1 values are exactly 0 and are fitted as measured"):
        assert in_wavenumber(read_library(path)).spectra[0, 7] == 0
    assert np.isnan(in_wavenumber(read_library(path, zeros="missing")).spectra[0, 7])


@pytest.mark.parametrize(("ends", "unit"), [((3.0, 99.0), "cm-1"), ((4000.0, 9000.0), "cm-1"), ((400.0, 1400.0), "nm")])
def test_an_axis_beyond_all_vibrations_is_doubted(ends, unit):
    with pytest.warns(UserWarning, match=r"vibrations of minerals lie mostly from 100 to 3800\. Is the unit .* right"):
        in_wavenumber(SpectralLibrary(EMISSIVITY, SpectralAxis(np.linspace(*ends, 251), unit=unit)))


def test_near_infrared_is_fitted(tmp_path, capsys):
    axis = SpectralAxis(np.linspace(400.0, 1000.0, 41), unit="nm")
    waves = np.asarray(axis.to("cm-1").centers, np.float32)
    mineral = from_axes([[14000.0]], [[0.1]], [[0.05]], [2.3])
    write(tmp_path / "library.csv", np.asarray(mineral(waves))[None], axis, NAMES[:1])
    words = ("--axes", 1, "--count", 1, "--starts", 1)
    assert run("fit", tmp_path / "library.csv", "--out", tmp_path / "out", *words) == 0
    printed = capsys.readouterr()
    assert "the library covers 10000 to 25000 cm⁻¹; vibrations" in printed.err
    assert printed.err.count("\n") == 1
    _, dispersion, said = load_dispersion(tmp_path / "out" / "parameters.json")
    np.testing.assert_allclose(dispersion.frequency[0, 0, 0], 14000.0, atol=5.0)
    assert said["mse"][0] < 1e-9


def test_parameters_stand_in_order_with_their_deviations(tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "fit_dispersion", canned)
    fitted = fit_library(tmp_path / "out", SpectralLibrary(EMISSIVITY, SpectralAxis(WAVES, unit="cm-1"), NAMES))
    np.testing.assert_array_equal(fitted.dispersion.frequency[:, 0, :2], [[500, 900]] * 3)
    _, dispersion, said = load_dispersion(tmp_path / "out" / "parameters.json")
    np.testing.assert_array_equal(dispersion.strength[:, 0], np.asarray([[0.6, 0.5]] * 3, np.float32))
    assert said["criterion"] == [[-300.0, None]] * 3
    assert said["converged"] == [False] * 3
    with np.load(tmp_path / "out" / "fit.npz") as arrays:
        assert arrays["active"][0, 0].tolist() == [True, True, False]
        np.testing.assert_allclose(arrays["frequency_std"][0, 0], [2, 1, 3])
        np.testing.assert_allclose(arrays["strength_std"][0, 0], [8, 7, 9])
        np.testing.assert_allclose(arrays["weights_std"][0], [11])
    columns, rows, _ = summary(fitted.record)
    assert dict(zip(columns, rows[0], strict=True))["converged"] == "no"


def test_a_spectrum_that_cannot_be_fitted_is_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fitting, "fit_dispersion", canned)
    spectra = EMISSIVITY.copy()
    spectra[1] = 0
    write(tmp_path / "library.csv", spectra)
    assert run("fit", tmp_path / "library.csv", "--out", tmp_path / "out") == 0
    printed = capsys.readouterr()
    assert printed.err == "unmix-jax: warning: Grès/α, fin is left out: no good band\n"
    assert "2 of 3" in printed.out
    assert load_dispersion(tmp_path / "out" / "parameters.json")[0] == ["Quartz", "quartz"]


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_one_refusal_among_many_does_not_stop_an_accelerator(tmp_path, monkeypatch, backend):
    seen = []
    monkeypatch.setattr(fitting, "fit_dispersion", lambda s, w, **o: seen.append(len(s)) or canned(s, w, **o))
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    done = []
    spectra = np.where(np.arange(3)[:, None] == 1, np.nan, EMISSIVITY)
    with pytest.warns(UserWarning, match="left out"):
        fit_library(
            tmp_path / "out",
            SpectralLibrary(spectra, SpectralAxis(WAVES, unit="cm-1"), NAMES),
            progress=lambda *a: done.append(a),
        )
    assert seen == ([1, 1, 1] if backend == "cpu" else [3, 1, 1, 1])
    assert done == [(1, 3), (2, 3), (3, 3)]


def test_a_run_that_is_stopped_leaves_what_it_has_found(tmp_path, monkeypatch, capsys):
    calls = []

    def stops(*words, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return canned(*words, **options)

    monkeypatch.setattr(fitting, "fit_dispersion", stops)
    write(tmp_path / "library.csv")
    assert run("fit", tmp_path / "library.csv", "--out", tmp_path / "out") == 130
    assert load_dispersion(tmp_path / "out" / "parameters.json")[0] == list(NAMES[:2])
    assert len(list((tmp_path / "out" / "plots").iterdir())) == 2
    assert not (tmp_path / "out" / "record.json").exists()  # so that it does not look finished
    capsys.readouterr()


def test_another_run_is_kept_or_replaced_as_a_whole(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fitting, "fit_dispersion", canned)
    write(tmp_path / "library.csv")
    words = ("fit", tmp_path / "library.csv", "--out", tmp_path / "out")
    assert run(*words, "--names", "Quartz", "Grès/α, fin") == 0
    assert run(*words) == 1
    assert "holds another run" in capsys.readouterr().err
    assert run(*words, "--overwrite", "--axes", 1, "--names", "quartz") == 0
    assert [p.name for p in (tmp_path / "out" / "plots").iterdir()] == ["quartz.png"]
    monkeypatch.setattr(fitting, "fit_dispersion", fit_dispersion)
    assert run(*words, "--overwrite", "--count", 400) == 1  # nothing to put in its place
    assert (tmp_path / "out" / "record.json").exists()
    capsys.readouterr()


def test_x64_is_double(tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "fit_dispersion", canned)
    write(tmp_path / "library.csv")
    assert run("fit", tmp_path / "library.csv", "--out", tmp_path / "out", "--names", "Quartz", "--x64") == 0
    with np.load(tmp_path / "out" / "fit.npz") as arrays:
        assert arrays["measured"].dtype == np.float64
    record = json.loads((tmp_path / "out" / "record.json").read_text(encoding="utf-8"))
    assert record["environment"]["float64"] is True


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("BARE",), "names no wavelengths"),
        (("LIBRARY", "--range", 2000, 3000), "no band lies from 2000 to 3000 cm⁻¹: the library covers 400 to 1400"),
        (("LIBRARY", "--range", 900, 500), "LOW HIGH"),
        (("LIBRARY", "--names", "Calcite"), "no member named 'Calcite'"),
        (("LIBRARY", "--count", 400), "too few"),
        (("LIBRARY", "--range", 500, 520), "too few"),
        (("LIBRARY", "--axes", 0), "axes, count and starts are at least 1"),
        (("LIBRARY", "--starts", 0), "starts are at least 1"),
        (("PERCENT",), "emissivity"),
        (("indian_pines",), "without reference endmembers"),
        (("nowhere.csv",), "no such file"),
    ],
)
def test_errors_are_one_line(tmp_path, capsys, words, message):
    paths = {"BARE": tmp_path / "bare.npz", "LIBRARY": tmp_path / "library.csv", "PERCENT": tmp_path / "percent.csv"}
    np.savez(paths["BARE"], spectra=EMISSIVITY)
    write(paths["LIBRARY"])
    write(paths["PERCENT"], 100 * EMISSIVITY)
    words = [paths.get(word, word) for word in words]
    assert run("fit", *words, "--out", tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert said.startswith("unmix-jax: error: ")
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_quantity_is_one_of_two(tmp_path):
    with warnings.catch_warnings(), pytest.raises(ValueError, match="emissivity or reflectance"):
        fit_library(tmp_path / "out", SpectralLibrary(EMISSIVITY), quantity="radiance")


def test_the_page_on_minerals_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[1] / "docs/dispersion.md").read_text(encoding="utf-8")
    names: dict = {}
    for code in re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        exec(compile(code, "dispersion.md", "exec"), names)
    assert names["names"] == ["my mineral"]
    np.testing.assert_allclose(names["spectra"][0], names["emissivity"], atol=2e-3)
    for example in re.findall(r"^```json\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        Path("example.json").write_text(example, encoding="utf-8")
        assert load_dispersion("example.json")[0] == ["quartz"]
