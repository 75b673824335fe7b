"""Input as it comes: what a user is told, and what comes out where there is still something to compute.

Each reader, solver and writer has such tests of its own; here the whole way is gone, from file to maps.
"""

import equinox as eqx
import numpy as np
import pytest
from helpers import assert_close
from solvers.cases import oracle, spectra

from unmix_jax import Scene, SpectralAxis, SpectralLibrary, cli, fcls, prepare, unmix
from unmix_jax.scenes.library import match
from unmix_jax.scenes.library_files import write_library

BANDS, COUNT = 12, 3
CENTERS = np.linspace(500.0, 2300.0, BANDS)
ENDMEMBERS = spectra(np.random.default_rng(0), COUNT, BANDS).astype(np.float32)
TRUTH = np.random.default_rng(1).dirichlet(np.ones(COUNT), (4, 5)).astype(np.float32)
CUBE = TRUTH @ ENDMEMBERS


def solved(scene, library):
    """The way of the command: onto the scene's bands, prepare, unmix."""
    matched = match(scene, library)
    prepared = prepare(matched.spectra, weights=matched.good_bands)
    return unmix(eqx.Partial(fcls, endmembers=prepared), scene, good_bands=matched.good_bands, tile=32)


def library_of(endmembers, centers=CENTERS):
    return SpectralLibrary(np.asarray(endmembers, np.float32), SpectralAxis(np.asarray(centers)))


@pytest.mark.parametrize(
    "order", [slice(None, None, -1), [3, 0, 7, 1, 2, 4, 11, 5, 6, 10, 9, 8]], ids=["down", "mixed"]
)
@pytest.mark.parametrize("which", ["scene", "library", "both"])
def test_axes_that_descend_or_jump(order, which):
    """Bands are compared by their wavelength, never by their place."""
    mine = order if which in ("scene", "both") else slice(None)
    theirs = order if which in ("library", "both") else slice(None)
    axis, library = SpectralAxis(CENTERS[mine]), library_of(ENDMEMBERS[:, theirs], CENTERS[theirs])
    seen = match(Scene(CUBE[..., mine], axis), library).spectra  # resampled where the orders differ
    solution = solved(Scene(TRUTH @ seen, axis), library)
    assert_close(solution.abundances, TRUTH)
    assert solution.converged.all()


def test_missing_and_black_pixels_are_masked_and_the_rest_is_solved():
    cube = CUBE.copy()
    cube[0, 0], cube[1, 1, 4], cube[2, 2], cube[3, 3, 7], cube[3, 4] = np.nan, np.nan, -9999, -9999, 0
    holes = np.any(cube != CUBE, -1)
    assert holes.sum() == 5
    solution = solved(Scene(cube, SpectralAxis(CENTERS), nodata=-9999.0), library_of(ENDMEMBERS))
    assert np.isnan(solution.abundances[holes]).all()
    assert not solution.converged[holes].any()
    assert_close(solution.abundances[~holes], TRUTH[~holes])
    assert solution.converged[~holes].all()


def test_negative_reflectance_is_data():
    """Atmospheric correction overshoots; the optimum is that of the numbers as they are."""
    cube = CUBE.copy()
    cube[..., :4] -= 0.5
    cube[0] *= -1
    solution = solved(Scene(cube, SpectralAxis(CENTERS)), library_of(ENDMEMBERS))
    expected = oracle("fcls", cube.reshape(-1, BANDS), ENDMEMBERS).reshape(TRUTH.shape)
    assert_close(solution.abundances, expected)
    assert solution.converged.all()


def test_one_endmember_takes_all():
    solution = solved(Scene(CUBE, SpectralAxis(CENTERS)), library_of(ENDMEMBERS[:1]))
    assert_close(solution.abundances, np.ones((4, 5, 1)))
    assert_close(solution.residual, np.sqrt(np.mean((CUBE - ENDMEMBERS[0]) ** 2, -1)))
    assert solution.unique.all()


def test_duplicate_endmembers_share_and_are_flagged():
    solution = solved(Scene(CUBE, SpectralAxis(CENTERS)), library_of(ENDMEMBERS[[0, 1, 2, 0]]))
    shared = solution.abundances[..., :3].copy()
    shared[..., 0] += solution.abundances[..., 3]
    assert_close(shared, TRUTH)
    assert solution.gap.max() < 3e-5
    assert np.array_equal(solution.converged, solution.unique)  # the optimum, but nothing is known of the abundances
    assert not solution.unique.any()


def test_more_endmembers_than_bands_fit_and_are_flagged():
    many = np.vstack([ENDMEMBERS, 0.9 * ENDMEMBERS + 0.05, ENDMEMBERS**2])[:, :5]
    solution = solved(Scene(CUBE[..., :5], SpectralAxis(CENTERS[:5])), library_of(many, CENTERS[:5]))
    assert solution.residual.max() < 1e-4
    assert_close(solution.abundances.sum(-1), np.ones((4, 5)))
    assert solution.gap.max() < 3e-5
    assert np.array_equal(solution.converged, solution.unique)  # the optimum, but nothing is known of the abundances
    assert not solution.unique.all()


@pytest.mark.parametrize("shape", [(0, BANDS), (3, 0)])
def test_an_empty_library_is_refused(shape):
    with pytest.raises(ValueError, match="at least one spectrum of at least one band"):
        SpectralLibrary(np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match="at least one spectrum"):
        library_of(ENDMEMBERS).select([])


# The command: one line that names the file and the trouble, and exit status 1.


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Files good and bad, in the folder where the command runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "keep_compilations", lambda: None)
    np.savez("scene.npz", cube=CUBE, wavelength_nm=CENTERS)
    np.savez("bare.npz", cube=CUBE)
    write_library(tmp_path / "library.csv", library_of(ENDMEMBERS))
    write_library(tmp_path / "elsewhere.csv", library_of(ENDMEMBERS, CENTERS + 5000))
    np.savez("seven.npz", spectra=ENDMEMBERS[:, :7])
    np.savez("nobody.npz", spectra=ENDMEMBERS[:0], wavelength_nm=CENTERS)
    (tmp_path / "blank.csv").write_text("")
    np.savez("objects.npz", cube=np.array([CUBE, None], dtype=object))
    header = (
        "ENVI\nsamples = 5\nlines = {lines}\nbands = 12\ndata type = 4\ninterleave = bip\nbyte order = 0\n"
        "wavelength units = Nanometers\nwavelength = {{" + ", ".join(map(str, CENTERS)) + "}}\n"
    )
    for name, lines, size in (("torn", 4, CUBE.nbytes // 2), ("tall", 9, CUBE.nbytes)):
        (tmp_path / f"{name}.hdr").write_text(header.format(lines=lines))
        (tmp_path / f"{name}.img").write_bytes(CUBE.astype("<f4").tobytes()[:size])
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "run.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        ("scene.npz --endmembers elsewhere.csv", ["overlap", "500", "5500"]),
        ("scene.npz --endmembers seven.npz", ["7 bands", "12"]),
        ("bare.npz --endmembers seven.npz", ["7 bands", "12"]),
        ("scene.npz --endmembers nobody.npz", ["nobody.npz", "at least one spectrum"]),
        ("scene.npz --endmembers blank.csv", ["blank.csv", "empty"]),
        ("torn.hdr --endmembers library.csv", ["torn", str(CUBE.nbytes), str(CUBE.nbytes // 2)]),
        ("tall.hdr --endmembers library.csv", ["tall", str(CUBE.nbytes), str(CUBE.nbytes // 4 * 9)]),
        ("objects.npz --endmembers library.csv", ["objects.npz", "pickle"]),
        ("scene.npz --endmembers library.csv --out used", ["used", "belong to no run"]),
    ],
)
def test_the_command_says_what_is_wrong(folder, capsys, words, messages):
    assert cli.main(["unmix", *words.split()]) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("unmix-jax: error: ")
    assert "\n" not in said
    for message in messages:
        assert message in said
    assert not (folder / "unmix-results").exists()


def test_missing_units_are_guessed_and_said(folder, capsys):
    text = (folder / "tall.hdr").read_text().replace("lines = 9", "lines = 4")
    (folder / "tall.hdr").write_text(text.replace("wavelength units = Nanometers\n", ""))
    assert cli.main(["info", "tall.hdr"]) == 0
    captured = capsys.readouterr()
    assert "nm is assumed" in captured.err
    assert "500 to 2300 nm" in captured.out
