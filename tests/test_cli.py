"""The command, end to end: what it writes, what it says, how it fails."""

import dataclasses
import json
import re
import subprocess
import sys
import warnings
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unmix_jax import cli
from unmix_jax.blind import METHODS
from unmix_jax.networks.encoders import ENCODERS
from unmix_jax.networks.mixtures import MIXTURE_RECIPES
from unmix_jax.networks.zoo import RECIPES
from unmix_jax.results import read_results
from unmix_jax.scenes.library_files import write_library
from unmix_jax.scenes.readers import read_library
from unmix_jax.scenes.scene import SpectralAxis, SpectralLibrary
from unmix_jax.unmixing import BLIND, LINEAR

NAMES = ("Grès, fin", "forêt (été)", "shade")
CENTERS = np.linspace(450.0, 900.0, 12)
SPECTRA = np.stack([np.linspace(0.2, 0.6, 12), 0.3 + 0.25 * np.sin(CENTERS / 90), np.full(12, 0.02)]).astype(np.float32)


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch):
    """The tests of a process share its compilation cache; the command shall not move it."""
    monkeypatch.setattr(cli, "keep_compilations", lambda: None)


@pytest.fixture
def scene(tmp_path):
    """A scene of 6 × 8 mixtures with one missing pixel, its truth, and a library beside it."""
    truth = np.random.default_rng(3).dirichlet(np.ones(3), (6, 8)).astype(np.float32)
    truth[0, 1], truth[2, 2], truth[5, 7] = np.eye(3)
    cube = truth @ SPECTRA
    cube[4, 4] = np.nan
    path = tmp_path / "scene.npz"
    names = np.asarray(NAMES)
    np.savez(path, cube=cube, wavelength_nm=CENTERS, endmembers=SPECTRA, abundances=truth, names=names)
    write_library(tmp_path / "library.csv", SpectralLibrary(SPECTRA, SpectralAxis(CENTERS), NAMES))
    return path, truth


def run(*words):
    return cli.main([str(word) for word in words])


def test_unmix_with_a_library_recovers_the_truth(scene, tmp_path, capsys):
    path, truth = scene
    assert run("unmix", path, "--endmembers", tmp_path / "library.csv", "--out", tmp_path / "out") == 0
    results = read_results(tmp_path / "out")
    expected = truth.copy()
    expected[4, 4] = np.nan
    np.testing.assert_allclose(results.solution.abundances, expected, atol=2e-4)
    assert results.endmembers.names == NAMES
    assert results.record["pixels"]["masked"] == 1
    assert results.record["config"]["method"] == "fcls"
    assert {"read", "endmembers", "unmix"} <= results.record["timings_s"].keys()
    printed = capsys.readouterr()
    assert "forêt (été)" in printed.out
    assert "1 block of 6 rows in tiles of" in printed.out
    assert str(tmp_path / "out" / "report.html") in printed.out
    assert printed.err == ""  # no bar where there is no terminal


@pytest.mark.parametrize("extract", ["vca", "nfindr"])
def test_unmix_with_extracted_endmembers(scene, tmp_path, extract):
    path, _ = scene
    assert run("unmix", path, "--extract", extract, "--count", 3, "--out", tmp_path / "out") == 0
    found = np.asarray(read_results(tmp_path / "out").solution.abundances)
    corners = np.stack([found[0, 1], found[2, 2], found[5, 7]])
    np.testing.assert_allclose(corners @ corners.T, np.eye(3), atol=1e-2)  # pure pixels, in some order
    assert "taken from pixels of the scene" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("method", ["nnls", "scls", "ucls"])
def test_methods(scene, tmp_path, method):
    path, truth = scene
    assert (
        run(
            "unmix",
            path,
            "--endmembers",
            tmp_path / "library.csv",
            "--method",
            method,
            "--out",
            tmp_path / "o",
        )
        == 0
    )
    found = np.asarray(read_results(tmp_path / "o").solution.abundances)
    np.testing.assert_allclose(found[:4], truth[:4], atol=5e-3)


def test_shade_and_baseline(scene, tmp_path):
    path, _ = scene
    with np.load(path) as arrays:
        lifted = {**arrays, "cube": arrays["cube"] + np.linspace(0.1, 0.2, 12, dtype=np.float32)}
    np.savez(path, **lifted)
    words = (
        "--endmembers",
        tmp_path / "library.csv",
        "--shade",
        "shade",
        "--baseline",
        1,
        "--out",
        tmp_path / "out",
    )
    assert run("unmix", path, *words) == 0
    from spectral.io import envi

    image = envi.open(str(tmp_path / "out" / "abundances_without_shade.hdr"))
    assert image.metadata["band names"] == ["Grès- fin", "forêt (été)"]
    values = np.asarray(image.load())
    assert values[4, 4, 0] == -9999
    lit = values[values[..., 0] != -9999]
    np.testing.assert_allclose(lit.sum(axis=-1), 1, atol=1e-5)
    assert read_results(tmp_path / "out").solution.fitted.shape == (6, 8, 2)
    assert read_results(tmp_path / "out").record["residual_rms"] < 1e-3


def test_x64_is_double_and_stays_in_its_run(scene, tmp_path, capsys):
    path, _ = scene
    assert run("unmix", path, "--endmembers", tmp_path / "library.csv", "--x64", "--out", tmp_path / "out") == 0
    results = read_results(tmp_path / "out")
    assert results.record["environment"]["float64"] is True
    assert results.record["gap"]["worst"] < 1e-12
    valid = results.record["pixels"]["valid"]
    said = " ".join(capsys.readouterr().out.split())
    assert f"pixels, optimum reached {valid} (100 %)" in said
    assert f"pixels, abundances within 1e-06 of it {valid} (100 %)" in said
    assert results.record["abundance_bound"]["largest"] <= 1e-6
    assert jnp.zeros(1).dtype == (np.float64 if jax.config.read("jax_enable_x64") else np.float32)


def test_a_list_of_spectra(scene, tmp_path):
    path, truth = scene
    np.savez(path, pixels=(truth @ SPECTRA).reshape(-1, 12), wavelength_nm=CENTERS)
    assert run("unmix", path, "--endmembers", tmp_path / "library.csv", "--out", tmp_path / "out") == 0
    np.testing.assert_allclose(read_results(tmp_path / "out").solution.abundances, truth.reshape(-1, 3), atol=2e-4)


def test_an_envi_scene_keeps_its_place_on_earth(scene, tmp_path):
    from spectral.io import envi

    _, truth = scene
    place = ["UTM", "1", "1", "500000", "4100000", "30", "20", "12", "North", "WGS-84"]
    header = {"wavelength": list(CENTERS / 1000), "wavelength units": "Micrometers", "map info": place}
    envi.save_image(str(tmp_path / "cube.hdr"), truth @ SPECTRA, metadata=header, interleave="bil")
    words = ("--endmembers", tmp_path / "library.csv", "--out", tmp_path / "out")
    assert run("unmix", tmp_path / "cube.hdr", *words) == 0
    image = envi.open(str(tmp_path / "out" / "abundances.hdr"))
    assert image.metadata["map info"] == place
    np.testing.assert_allclose(np.asarray(image.load()), truth, atol=2e-4)


def test_a_run_that_was_interrupted_goes_on(scene, tmp_path, capsys, monkeypatch):
    path, _ = scene
    words = ("unmix", path, "--endmembers", tmp_path / "library.csv", "--out", tmp_path / "out", "--tile", 16)
    with monkeypatch.context() as patch:
        patch.setattr("unmix_jax.store.Journal.write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run(*words) == 130
    with monkeypatch.context() as patch:
        patch.setattr("unmix_jax.store.Journal.write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        assert run(*words) == 1
    assert "cannot be written: the disk is full. 0 of 1 blocks are done" in capsys.readouterr().err
    assert run(*words, "--maps", "geotiff") == 1
    assert "holds an unfinished run of something else: option maps was" in capsys.readouterr().err
    assert run("score", tmp_path / "out", path) == 1
    assert "an unfinished one is in unfinished" in capsys.readouterr().err
    assert run(*words) == 0
    assert read_results(tmp_path / "out").record["stream"]["tile"] == 16
    assert (tmp_path / "out" / "report.html").exists()
    assert not (tmp_path / "out" / "unfinished").exists()


def test_the_report_of_a_large_scene_is_drawn_of_some_of_it(scene, tmp_path, monkeypatch):
    path, _ = scene
    monkeypatch.setattr("unmix_jax.unmixing.SHOWN_BYTES", 6 * 8 * 12 * 4 / 5)
    assert run("unmix", path, "--endmembers", tmp_path / "library.csv", "--out", tmp_path / "out") == 0
    assert "6 × 8 × 12" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert read_results(tmp_path / "out").solution.abundances.shape == (6, 8, 3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--tile", "16"), "--tile goes with fcls"),
        (("--memory", "1.0"), "--memory goes with fcls"),
        (("--maps", "geotiff"), "--maps goes with fcls"),
        (("--processes", "2"), "--processes and --process go with --coordinator"),
    ],
)
def test_blind_methods_run_in_one_piece(scene, tmp_path, capsys, words, said):
    words = ("unmix", scene[0], "--endmembers", 3, "--method", "nmf", "--out", tmp_path / "out", *words)
    assert run(*words) == 1
    assert said in capsys.readouterr().err


def test_maps_and_memory(scene, tmp_path, capsys):
    path, _ = scene
    words = ("unmix", path, "--endmembers", tmp_path / "library.csv", "--out", tmp_path / "out")
    assert run(*words, "--memory", 1e-6) == 1
    assert "may be taken" in capsys.readouterr().err
    assert run(*words, "--maps", "geotiff", "envi", "--memory", 1.0) == 0
    assert {"abundances.tif", "abundances.img", "results.zarr"} <= {file.name for file in (tmp_path / "out").iterdir()}


def test_score(scene, tmp_path, capsys):
    path, _ = scene
    assert run("unmix", path, "--endmembers", tmp_path / "library.csv", "--out", tmp_path / "out") == 0
    assert run("score", tmp_path / "out", path) == 0
    scores = json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8"))
    assert scores["rmse"] < 1e-3
    assert scores["pixels_scored"] == 47
    assert "rmse per endmember" in capsys.readouterr().out


@pytest.mark.parametrize("ending", [".sli", ".csv", ".npz"])
def test_endmembers(scene, tmp_path, capsys, ending):
    path, _ = scene
    out = tmp_path / f"found{ending}"
    assert run("endmembers", path, "--count", 3, "--out", out) == 0
    library = read_library(out)
    assert library.spectra.shape == (3, 12)
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("HySime", "HFC", "NWHFC", "row", "column"))
    assert run("endmembers", path, "--count", 3, "--out", out) == 1
    assert "would be replaced" in capsys.readouterr().err


def test_bands_bad_in_the_scene_do_not_count(scene, tmp_path):
    """A broken band of the scene, for endmembers of the scene and for those of a library."""
    path, truth = scene
    cube = truth @ SPECTRA
    cube[..., 5] = 7.0
    np.savez(path, cube=cube, wavelength_nm=CENTERS, good_bands=np.arange(12) != 5)
    for options in (("--endmembers", tmp_path / "library.csv"), ("--count", 3)):
        assert run("unmix", path, *options, "--out", tmp_path / "out", "--overwrite") == 0
        results = read_results(tmp_path / "out")
        assert results.record["bands"] == {"total": 12, "used": 11}
        assert results.record["residual_rms"] < 1e-3
        assert np.isnan(results.endmembers.spectra[:, 5]).all()


def test_auto_takes_the_smallest_estimate(scene, tmp_path, capsys):
    path, _ = scene
    assert run("unmix", path, "--out", tmp_path / "out") == 0
    said = capsys.readouterr().out
    count = len(read_results(tmp_path / "out").endmembers)
    assert f"{count} are taken" in said
    assert "NWHFC" in said


def test_info_counts_pixels_as_unmixing_does(scene, capsys):
    path, truth = scene
    cube = truth @ SPECTRA
    cube[0, :3, 4] = -9999
    cube[1, :3, 7] = -9999  # in a bad band
    np.savez(path, cube=cube, wavelength_nm=CENTERS, good_bands=np.arange(12) != 7)
    assert run("info", path) == 0
    assert "6.25% of 48 pixels" in capsys.readouterr().out


def test_info_of_scene_and_library(scene, tmp_path, capsys):
    path, _ = scene
    assert run("info", path) == 0
    said = capsys.readouterr().out
    for wanted in ("6 × 8", "12, 450 to 900 nm", "Grès, fin", "they look like reflectance", "georeferencing"):
        assert wanted in said
    assert run("info", tmp_path / "library.csv") == 0
    assert "forêt (été)" in capsys.readouterr().out


def test_foreign_names_are_mapped(scene, tmp_path, capsys):
    _, truth = scene
    np.savez(tmp_path / "foreign.npz", Y=truth @ SPECTRA, lam=CENTERS)
    assert run("info", tmp_path / "foreign.npz", "--key", "cube=Y", "--key", "wavelength_nm=lam") == 0
    assert "450 to 900 nm" in capsys.readouterr().out
    assert run("info", tmp_path / "foreign.npz", "--key", "cube") == 1
    assert "NAME=KEY" in capsys.readouterr().err


def test_another_run_is_refused_before_anything_is_computed(scene, tmp_path, capsys, monkeypatch):
    path, _ = scene
    words = ("unmix", path, "--endmembers", tmp_path / "library.csv", "--out", tmp_path / "out")
    assert run(*words) == 0
    with monkeypatch.context() as patch:
        patch.setattr("unmix_jax.driver.unmix", lambda *_, **__: pytest.fail("computed in vain"))
        assert run(*words) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert run(*words, "--overwrite") == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("info", "nowhere.hdr"), "nowhere.hdr: no such file"),
        (("unmix", "SCENE", "--endmembers", "nowhere.sli"), "nowhere.sli"),
        (("unmix", "SCENE", "--endmembers", "LIBRARY", "--shade", "fog"), "no endmember is named 'fog'"),
        (("unmix", "SCENE", "--endmembers", "LIBRARY", "--baseline", "40"), "baseline degree 40"),
        (("unmix", "SCENE", "--count", "40"), "40"),
        (("unmix", "SCENE", "--endmembers", "LIBRARY", "--count", "3"), "--count is for endmembers"),
        (("unmix", "SCENE", "--endmembers", "3", "--count", "3"), "both say how many"),
        (("unmix", "SCENE", "--endmembers", "LIBRARY", "--method", "daeu"), "finds endmembers itself"),
        (("unmix", "SCENE", "--method", "daeu", "--baseline", "2"), "--baseline goes with"),
        (("unmix", "SCENE", "--count", "3", "--seeds", "4"), "--seeds goes with"),
        (("unmix", "SCENE", "--count", "3", "--gauge", "fcls"), "--gauge goes with"),
        (("unmix", "SCENE", "--count", "3", "--method", "recommended", "--gauge", "own"), "refined endmembers"),
        (("info", "indian_pine"), "there is indian_pines"),
        (("info", "indian_pines", "--key", "cube=Y"), "indian_pines is a dataset"),
        (("info", "LIBRARY", "--key", "spectra=Y"), "key 'spectra' means nothing for this format; it knows class"),
        (("score", ".", "SCENE"), "no finished run"),
    ],
)
def test_errors_are_one_line(scene, tmp_path, capsys, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    paths = {"SCENE": scene[0], "LIBRARY": tmp_path / "library.csv"}
    words = [str(paths.get(word, word)) for word in words]
    assert run(*words) == 1
    said = capsys.readouterr().err
    assert said.startswith("unmix-jax: error: ")
    assert message in said
    assert said.count("\n") == 1
    with pytest.raises((ValueError, OSError)):
        run(*words, "--debug")


def test_a_wrong_shade_is_found_before_the_run(scene, tmp_path):
    run(
        "unmix",
        scene[0],
        "--endmembers",
        tmp_path / "library.csv",
        "--shade",
        "fog",
        "--out",
        tmp_path / "out",
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("method", "gauge"), [("simple", "own"), ("recommended", "projective")])
def test_unmix_blind(scene, tmp_path, capsys, method, gauge, monkeypatch):
    for name, recipe in list(RECIPES.items()):
        short = dataclasses.replace(recipe.schedule, epochs=2, sample=64)
        monkeypatch.setitem(RECIPES, name, recipe._replace(schedule=short))
    path, _ = scene
    words = ("--endmembers", 3, "--method", method, "--gauge", gauge, "--seeds", 2, "--out", tmp_path / "out")
    assert run("unmix", path, *words) == 0
    results = read_results(tmp_path / "out")
    assert len(results.endmembers) == 3
    kept = np.asarray(results.solution.abundances).reshape(-1, 3)
    assert np.isnan(kept).any(1).sum() == 1
    np.testing.assert_allclose(np.nansum(kept, 1)[~np.isnan(kept).any(1)], 1, atol=1e-3)
    assert results.record["runs"]["seeds"] == 2
    assert results.record["runs"]["gauge"] == gauge
    with np.load(tmp_path / "out" / "runs.npz") as runs:
        assert runs["endmembers"].shape == (2, 3, 12)
        assert runs["losses"].shape == (2, 2)
        assert (runs["stopped"] == -1).all()
        assert ("thresholds" in runs) == (method == "recommended")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "All endmembers of all runs" in page
    assert ("can be from the optimum" in page) == (gauge != "own")
    assert "runs, of which collapsed" in capsys.readouterr().out


def test_the_command_knows_all_blind_methods():
    assert set(BLIND) == set(METHODS)
    assert set(get_args(cli.args.Recipe)) == set(MIXTURE_RECIPES)
    assert set(get_args(cli.args.Encoder)) == set(ENCODERS)
    said = re.findall(r"\w+", cli.unmix.__doc__)
    assert {*LINEAR, *BLIND} <= set(said)


def trained(tmp_path, *words):
    return run("train", tmp_path / "library.csv", "--out", tmp_path / "clays.npz", "--steps", 50, *words)


def test_networks_are_trained_and_unmix_with_what_they_know(scene, tmp_path, capsys):
    path, truth = scene
    assert trained(tmp_path, "--sensor", path, "--networks", 2, "--recipe", "linear") == 0
    said = capsys.readouterr().out
    assert all(word in said for word in (*NAMES, "12 of 12", "linear", "Written"))
    assert not list(tmp_path.glob("*.training.npz"))
    assert run("unmix", path, "--method", tmp_path / "clays.npz", "--out", tmp_path / "out") == 0
    assert "like the training" in capsys.readouterr().out
    results = read_results(tmp_path / "out")
    found = np.asarray(results.solution.abundances)
    assert np.isnan(found[4, 4]).all()
    assert np.sqrt(np.nanmean((found - truth) ** 2)) < 0.5 * np.sqrt(np.mean((1 / 3 - truth) ** 2))
    assert results.endmembers.names == NAMES
    assert results.record["network"]["settings"]["recipe"] == "linear"
    assert results.record["network"]["flagged_share"] < 0.5
    assert "synthetic mixtures of the pure spectra only" in (tmp_path / "out/report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--out", "x.csv"), "a checkpoint is an .npz file, got x.csv"),
        (("--names", "shade", "gold"), "the library has no gold; it has Grès, fin, forêt (été), shade"),
        (("--snr", "nan"), "the signal to noise is a number of decibels, got nan"),
        (("--names", "shade"), "at least two endmembers"),
    ],
)
def test_trainings_that_cannot_be(words, said, scene, tmp_path, capsys):
    assert run("train", tmp_path / "library.csv", "--steps", 50, "--out", tmp_path / "clays.npz", *words) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "clays.npz").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--method", "magic"), "--method is one of fcls, nnls"),
        (("--method", "none.npz"), "there is no checkpoint none.npz"),
        (("--method", "none.npz", "--shade", "shade"), "--shade does not go with a checkpoint"),
        (("--method", "none.npz", "--count", 3), "a checkpoint brings its own"),
    ],
)
def test_methods_that_there_are_not(words, said, scene, tmp_path, capsys):
    assert run("unmix", scene[0], "--out", tmp_path / "out", *words) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words", [(), ("fly",), ("unmix",), ("train", "x", "--recipe", "magic"), ("info", "x", "--no")]
)
def test_wrong_usage(words, capsys):
    assert run(*words) == 2
    capsys.readouterr()


def test_interruption(scene, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("unmix_jax.scenes.opening.open_any", interrupt)
    assert run("info", scene[0]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_warnings_about_data_are_one_line(scene, monkeypatch, capsys):
    def warn(*_, **__):
        warnings.warn("no wavelength unit\nis given", stacklevel=1)
        raise ValueError("stop here")

    monkeypatch.setattr("unmix_jax.scenes.opening.open_any", warn)
    assert run("info", scene[0]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "unmix-jax: warning: no wavelength unit is given",
        "unmix-jax: error: stop here",
    ]


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_of_every_command(command, capsys):
    assert run(command, "--help") == 0
    said = capsys.readouterr().out
    assert f"usage: unmix-jax {command}" in said
    assert "Examples:" in said
    assert "Args" not in said
    assert command in cli.HELP


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["unmix", "--help"]])
def test_help_imports_nothing_heavy(words):
    code = (
        "import sys; from unmix_jax.cli import main; status = main(sys.argv[1:]);"
        "heavy = {'jax', 'jaxlib', 'matplotlib', 'numpy', 'equinox', 'scipy'} & set(sys.modules);"
        "assert not heavy, heavy; sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "unmix-jax" in done.stdout


def test_compilations_are_kept_where_the_user_keeps_caches(scene, tmp_path):
    import os

    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    words = [
        "unmix",
        str(scene[0]),
        "--endmembers",
        str(tmp_path / "library.csv"),
        "--out",
        str(tmp_path / "out"),
    ]
    subprocess.run([sys.executable, "-m", "unmix_jax", *words], env=environment, check=True, capture_output=True)
    assert any((tmp_path / "cache" / "unmix_jax").iterdir())


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    from unmix_jax import terminal

    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    before = jax.config.jax_compilation_cache_dir
    terminal.keep_compilations()
    assert jax.config.jax_compilation_cache_dir == before
