"""How the command reads files: what can make numbers wrong stops a run, or is said on screen, in record and report."""

import json

import numpy as np
import pytest
import spectral.io.envi as envi

from unmix_jax import cli
from unmix_jax.results import read_results
from unmix_jax.scenes.library_files import write_library
from unmix_jax.scenes.scene import SpectralAxis, SpectralLibrary

NAMES = ("soil", "grass", "water")
NM = np.linspace(450.0, 900.0, 12)
SPECTRA = np.stack([np.linspace(0.2, 0.6, 12), 0.3 + 0.25 * np.sin(NM / 90), np.full(12, 0.05)]).astype("f4")
TRUTH = np.random.default_rng(3).dirichlet(np.ones(3), (6, 8)).astype("f4")
CUBE = TRUTH @ SPECTRA


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch):
    """The tests of a process share its compilation cache; the command shall not move it."""
    monkeypatch.setattr(cli, "keep_compilations", lambda: None)


@pytest.fixture
def library(tmp_path):
    return write_library(tmp_path / "library.csv", SpectralLibrary(SPECTRA, SpectralAxis(NM), NAMES))


def scene(folder, cube=CUBE, **header):
    path = folder / "scene.hdr"
    header = {"wavelength": NM.tolist(), "wavelength units": "Nanometers", **header}
    envi.save_image(str(path), cube, metadata=header, dtype=cube.dtype, interleave="bip", force=True)
    return path


def run(*words):
    return cli.main([str(word) for word in words])


def unmix(folder, path, library, *words):
    return run("unmix", path, "--endmembers", library, "--out", folder / "out", *words)


def checked(folder, capsys, text):
    """A run that went well says something in the terminal, in the record and in the report."""
    printed = capsys.readouterr()
    record = read_results(folder / "out").record
    assert text in printed.err
    assert f"Please check: {next(note for note in record['notes'] if text in note)}" in printed.out
    page = " ".join((folder / "out" / "report.html").read_text(encoding="utf-8").split())
    assert text[1:] in page  # a sentence of the page begins with a capital
    return np.asarray(read_results(folder / "out").solution.abundances)


def test_integers_beside_fractions_stop_the_run_until_someone_says_what_to_do(tmp_path, library, capsys):
    path = scene(tmp_path, np.round(CUBE * 10_000).astype("i2"))
    assert unmix(tmp_path, path, library) == 1
    said = capsys.readouterr().err
    assert "hardly be in one scale" in said
    assert "--scale auto" in said
    assert not (tmp_path / "out" / "record.json").exists()
    assert unmix(tmp_path, path, library, "--scale", "auto") == 0
    np.testing.assert_allclose(checked(tmp_path, capsys, "multiplied by 0.0001"), TRUTH, atol=2e-3)
    assert unmix(tmp_path, path, library, "--allow-scale-mismatch", "--overwrite") == 0
    checked(tmp_path, capsys, "hardly be in one scale")
    assert unmix(tmp_path, path, library, "--library-scale", 10_000, "--overwrite") == 0
    np.testing.assert_allclose(read_results(tmp_path / "out").solution.abundances, TRUTH, atol=2e-3)


def test_bands_without_values_do_not_take_the_pixels_with_them(tmp_path, library, capsys):
    cube = CUBE.copy()
    cube[..., [0, 11]] = np.nan
    assert unmix(tmp_path, scene(tmp_path, cube), library) == 0
    abundances = checked(tmp_path, capsys, "bands 1, 12 hold no value in any pixel")
    np.testing.assert_allclose(abundances, TRUTH, atol=1e-3)
    assert read_results(tmp_path / "out").record["bands"] == {"total": 12, "used": 10}


@pytest.mark.parametrize("kind", ["all missing", "never whole", "masked"])
def test_no_pixel_is_left(tmp_path, library, capsys, kind):
    cube = CUBE.copy().reshape(-1, 12)
    if kind == "all missing":
        cube[:] = np.nan
    elif kind == "never whole":
        cube[::2, 3], cube[1::2, 5] = np.nan, np.nan
    np.savez(
        tmp_path / "scene.npz", cube=cube.reshape(6, 8, 12), wavelength_nm=NM, mask=np.full((6, 8), kind != "masked")
    )
    assert unmix(tmp_path, tmp_path / "scene.npz", library) == 1
    assert "no pixel" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out" / "record.json").exists()


def test_rows_columns_and_bands_of_a_scene_alone(tmp_path, library):
    words = ("--rows", "1:5", "--columns", 2, 8, "--bands", "2-11", "--bad-bands", 5, "--quantity", "reflectance")
    assert unmix(tmp_path, scene(tmp_path), library, *words) == 0
    results = read_results(tmp_path / "out")
    np.testing.assert_allclose(results.solution.abundances, TRUTH[1:5, 2:8], atol=1e-3)
    assert results.record["scene"]["quantity"] == "reflectance"
    assert results.record["bands"] == {"total": 12, "used": 9}
    assert json.loads((tmp_path / "out" / "record.json").read_text())["config"]["columns"] == ["2", "8"]


def test_each_file_has_its_own_unit(tmp_path, library, capsys):
    table = np.column_stack([NM / 1000, SPECTRA.T])
    (tmp_path / "bare.csv").write_text("\n".join(",".join(f"{v:.6f}" for v in row) for row in table))
    np.savez(tmp_path / "scene.npz", cube=CUBE, wavelength=NM)
    words = ("--unit", "nm", "--library-unit", "um")
    assert unmix(tmp_path, tmp_path / "scene.npz", tmp_path / "bare.csv", *words) == 0
    np.testing.assert_allclose(read_results(tmp_path / "out").solution.abundances, TRUTH, atol=1e-3)
    assert unmix(tmp_path, scene(tmp_path), library, "--unit", "um", "--overwrite") == 1
    assert "scene.hdr: the file states that its axis is in nm, --unit says um" in capsys.readouterr().err


def test_values_that_nobody_names_are_called_values(tmp_path, library, capsys):
    assert unmix(tmp_path, scene(tmp_path), library) == 0
    assert "RMS residual (value)" in capsys.readouterr().out


def test_a_suspected_fill_value_is_named_and_stops_extraction(tmp_path, library, capsys):
    cube = CUBE.copy()
    cube[2, 2:5] = -0.9999
    path = scene(tmp_path, cube)
    assert run("info", path) == 0
    assert "not given; -0.9999 is suspected (--nodata)" in capsys.readouterr().out
    assert run("unmix", path, "--count", 3, "--out", tmp_path / "out") == 1
    assert "would become an endmember" in capsys.readouterr().err
    assert run("unmix", path, "--count", 3, "--out", tmp_path / "out", "--nodata", "-0.9999") == 0
    assert read_results(tmp_path / "out").record["pixels"]["masked"] == 3
    assert run("endmembers", path, "--count", 3, "--out", tmp_path / "e.csv", "--nodata", "-1e34") == 1
    assert "looks like a fill value" in capsys.readouterr().err


def test_a_list_of_spectra_is_unmixed_by_name(tmp_path, library, capsys):
    samples = tuple(f"sample {i}" for i in range(25))
    mixed = TRUTH.reshape(-1, 3)[:25] @ SPECTRA
    path = write_library(tmp_path / "samples.sli", SpectralLibrary(mixed, SpectralAxis(NM), samples))
    assert unmix(tmp_path, path, library, "--export", "csv") == 0
    printed = capsys.readouterr().out
    assert "sample 0" in printed
    assert "sample 19" in printed
    assert "sample 20" not in printed
    results = read_results(tmp_path / "out")
    np.testing.assert_allclose(results.solution.abundances, TRUTH.reshape(-1, 3)[:25], atol=1e-3)
    rows = (tmp_path / "out" / "abundances.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 26
    assert "sample 24" in rows[-1]
    assert "sample 19" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--rows", "5"), "--rows takes a first and one beyond the last"),
        (("--rows", "5", "90"), "rows run from 0 to 6; 5 to 90"),
        (("--bands", "0-4"), "bands are numbers from 1 to 12"),
        (("--key", "cube"), "--key takes NAME=KEY"),
        (("--library-key", "x"), "--library-key takes NAME=KEY"),
        (("--force-unit",), "force_unit needs the unit"),
        (("--range", "1", "2"), "no good band is left"),
    ],
)
def test_options_that_do_not_fit(tmp_path, library, capsys, words, message):
    assert unmix(tmp_path, scene(tmp_path), library, *words) == 1
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1


# ------------------------------------------------------------------ nothing is lost


def test_endmembers_never_replace_the_header_of_their_scene(tmp_path, capsys):
    path = scene(tmp_path)
    before = path.read_bytes()
    (tmp_path / "link.hdr").symlink_to(path)
    for out in ("scene.sli", "scene.hdr", "./scene.sli", "link.sli"):
        for words in ((), ("--overwrite",)):
            assert run("endmembers", path, "--count", 3, "--out", tmp_path / out, *words) == 1
            assert "an input is never an output" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert run("endmembers", path, "--count", 3, "--out", tmp_path / "e.sli") == 0
    assert run("endmembers", path, "--count", 3, "--out", tmp_path / "e.sli") == 1
    assert "e.hdr would be replaced: choose another file, or --overwrite" in capsys.readouterr().err
    assert run("endmembers", path, "--count", 3, "--out", tmp_path / "e.sli", "--overwrite") == 0


def test_overwrite_replaces_runs_and_nothing_else(tmp_path, library, capsys):
    path = scene(tmp_path)
    held = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    for out in (tmp_path, tmp_path / "." / ".."):
        assert run("unmix", path, "--endmembers", library, "--out", out, "--overwrite") == 1
        assert "an input is never an output" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    write_library(tmp_path / "mine" / "endmembers.sli", SpectralLibrary(SPECTRA, SpectralAxis(NM), NAMES))
    assert run("unmix", path, "--endmembers", library, "--out", tmp_path / "mine", "--overwrite") == 1
    assert "belong to no run (endmembers.hdr, endmembers.sli)" in capsys.readouterr().err
    assert unmix(tmp_path, path, library) == 0
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert unmix(tmp_path, path, library, "--overwrite") == 1
    assert "belong to no run (notes.txt)" in capsys.readouterr().err
    (tmp_path / "out" / "notes.txt").unlink()
    assert unmix(tmp_path, path, library, "--overwrite") == 0
    assert unmix(tmp_path, tmp_path / "out" / "abundances.hdr", library, "--overwrite") == 1
    assert "an input is never an output" in capsys.readouterr().err
    assert held == {name: (tmp_path / name).read_bytes() for name in held}


def test_scores_do_not_replace_other_files(tmp_path, library, capsys):
    np.savez(tmp_path / "truth.npz", cube=CUBE, wavelength_nm=NM, endmembers=SPECTRA, abundances=TRUTH, names=NAMES)
    assert unmix(tmp_path, tmp_path / "truth.npz", library) == 0
    (tmp_path / "notes.txt").write_text("mine")
    assert run("score", tmp_path / "out", tmp_path / "truth.npz", "--out", tmp_path / "notes.txt") == 1
    assert "notes.txt would be replaced" in capsys.readouterr().err
    assert run("score", tmp_path / "out", tmp_path / "truth.npz", "--out", tmp_path / "truth.npz", "--overwrite") == 1
    assert "an input is never an output" in capsys.readouterr().err
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert run("score", tmp_path / "out", tmp_path / "truth.npz") == 0


def test_control_characters_of_a_file_do_not_reach_the_terminal(tmp_path, capsys):
    names = ("soil\x1b]0;gotcha\x07", "grass\x1b[2J", "\u202ewater")
    np.savez(tmp_path / "scene.npz", cube=CUBE, wavelength_nm=NM, endmembers=SPECTRA, abundances=TRUTH, names=names)
    assert run("info", tmp_path / "scene.npz") == 0
    assert run("info", tmp_path / "no\x1b[31mwhere.hdr") == 1
    printed = capsys.readouterr()
    assert "\\x1b[2J" in printed.out
    for text in (printed.out, printed.err):
        assert all(c.isprintable() or c == "\n" for c in text)
