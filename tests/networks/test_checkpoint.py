"""Checkpoints: what goes in comes out, and what is not one, or is for something else, is refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from unmix_jax.driver import unmix
from unmix_jax.networks.abundance import learn_abundances
from unmix_jax.networks.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from unmix_jax.scenes.scene import Scene, SpectralAxis, SpectralLibrary

BANDS = 12
AXIS = SpectralAxis(np.linspace(400.0, 950.0, BANDS), np.full(BANDS, 40.0), "nm")
SPECTRA = np.random.default_rng(0).uniform(0.1, 0.9, (3, BANDS)).astype(np.float32)
GOOD = np.arange(BANDS) != 5
LIBRARY = SpectralLibrary(spectra=SPECTRA, axis=AXIS, names=("clay", "lime", "mica"), good_bands=GOOD)
CUBE = np.random.default_rng(1).uniform(0.1, 0.9, (4, 5, BANDS)).astype(np.float32)


def learned(encoder):
    unmixer = learn_abundances(
        jax.random.key(0), SPECTRA, std=0.01, steps=50, batch=16, networks=2, encoder=encoder, good=np.flatnonzero(GOOD)
    )
    return Checkpoint(unmixer, LIBRARY, encoder, {"steps": 50, "recipe": "ppnm"})


@pytest.fixture(scope="module")
def checkpoint():
    return learned("dense")


@pytest.fixture
def path(tmp_path, checkpoint):
    return save_checkpoint(tmp_path / "clays.npz", checkpoint)


@pytest.mark.parametrize("encoder", ["dense", "cnn1d"])
def test_what_is_kept_comes_back(encoder, tmp_path, checkpoint):
    kept = checkpoint if encoder == "dense" else learned(encoder)
    found = load_checkpoint(save_checkpoint(tmp_path / "kept.npz", kept))
    before, after = unmix(kept.unmixer, CUBE), unmix(found.unmixer, CUBE)
    np.testing.assert_array_equal(after.abundances, before.abundances)
    np.testing.assert_array_equal(after.converged, before.converged)
    assert found.library.names == LIBRARY.names
    np.testing.assert_array_equal(found.library.good_bands, GOOD)
    assert (found.encoder, found.settings) == (encoder, {"steps": 50, "recipe": "ppnm"})
    found.check(Scene(CUBE, axis=AXIS, good_bands=GOOD), LIBRARY)
    found.check(Scene(CUBE))


def test_scenes_of_another_sensor_are_refused(checkpoint):
    shifted = SpectralAxis(AXIS.centers + 3, AXIS.fwhm, "nm")
    with pytest.raises(ValueError, match="another sensor: its bands are up to 3 nm away"):
        checkpoint.check(Scene(CUBE, axis=shifted))
    with pytest.raises(ValueError, match="of a sensor of 12 bands, the scene has 11"):
        checkpoint.check(Scene(CUBE[..., 1:]))
    worse = GOOD & (np.arange(BANDS) != 8)
    with pytest.raises(ValueError, match=r"1 bands that the checkpoint looks at are bad in the scene .* number 8"):
        checkpoint.check(Scene(CUBE, axis=AXIS, good_bands=worse))
    checkpoint.check(Scene(CUBE, axis=AXIS.to("um")))  # the same bands in another unit


def test_a_larger_library_and_one_without_names_are_known(checkpoint, tmp_path):
    scene, more = Scene(CUBE, axis=AXIS), np.concatenate([CUBE[0, :1], SPECTRA[::-1]])
    checkpoint.check(scene, dataclasses.replace(LIBRARY, spectra=more, names=("soil", "mica", "lime", "clay")))
    unnamed = SpectralLibrary(spectra=np.where(GOOD, SPECTRA, np.nan).astype(np.float32), axis=AXIS)
    found = load_checkpoint(save_checkpoint(tmp_path / "unnamed.npz", checkpoint._replace(library=unnamed)))
    assert found.library.names == ("endmember 1", "endmember 2", "endmember 3")
    np.testing.assert_array_equal(found.library.good_bands, GOOD)
    found.check(scene, unnamed)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"encoder": "transformer"}, "an encoder is one of dense"),
        (
            {"library": dataclasses.replace(LIBRARY, spectra=SPECTRA[:2], names=())},
            "know 3 materials, the library has 2",
        ),
    ],
)
def test_what_could_not_be_read_again_is_not_written(changes, said, checkpoint, tmp_path):
    with pytest.raises(ValueError, match=said):
        save_checkpoint(tmp_path / "kept.npz", checkpoint._replace(**changes))
    assert not list(tmp_path.iterdir())


def test_a_library_that_has_changed_is_refused(checkpoint):
    scene = Scene(CUBE, axis=AXIS)
    for changed in (
        dataclasses.replace(LIBRARY, spectra=SPECTRA + np.float32(0.001)),
        dataclasses.replace(LIBRARY, names=("clay", "lime", "marl")),
        dataclasses.replace(LIBRARY, spectra=SPECTRA[:2], names=("clay", "lime")),
    ):
        with pytest.raises(ValueError, match="library has changed since the training"):
            checkpoint.check(scene, changed)
    checkpoint.check(scene, dataclasses.replace(LIBRARY, spectra=SPECTRA * np.float32(1 + 1e-6)))  # rounding
    nothing = np.where(GOOD, SPECTRA, np.nan).astype(np.float32)  # what a bad band holds does not matter
    checkpoint.check(scene, dataclasses.replace(LIBRARY, spectra=nothing))


def altered(path, **changes):
    """The file with some of its arrays changed, or left out where they are None."""
    with np.load(path) as held:
        arrays = {name: held[name] for name in held.files} | changes
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"about": None}, "not a checkpoint, or is damaged"),
        ({"about": "{"}, "not a checkpoint, or is damaged"),
        ({"about": json.dumps([1])}, "not a checkpoint of format 1"),
        ({"about": json.dumps({"format": 99})}, "not a checkpoint of format 1"),
        ({"about": json.dumps({"format": 1})}, "is damaged"),
        ({"leaf0": None}, "is damaged"),
        ({"leaf0": np.zeros((2, 3), np.float32)}, r"array 0 of the networks has shape \(2, 3\)"),
        ({"spectra": SPECTRA * 2}, "its spectra are not those that it was trained on"),
        ({"features_basis": np.zeros((2, 2), np.float32)}, "is damaged"),
        ({"leaf0": np.asarray([print, 1], object)}, "is not a checkpoint, or is damaged.*allow_pickle"),
    ],
)
def test_damaged_and_hostile_files_are_refused(changes, said, path):
    with pytest.raises(ValueError, match=said):
        load_checkpoint(altered(path, **changes))


def test_half_a_file_is_refused(path, tmp_path):
    whole = path.read_bytes()
    for content in (b"", b"not a checkpoint", whole[: len(whole) // 2]):
        (tmp_path / "half.npz").write_bytes(content)
        with pytest.raises(ValueError, match="not a checkpoint, or is damaged"):
            load_checkpoint(tmp_path / "half.npz")
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        load_checkpoint(tmp_path / "none.npz")
