"""Endmembers from discs of a latent space."""

import equinox as eqx
import jax
import numpy as np
import pytest

from unmix_jax.networks.variability import LatentDisc, learn_disc
from unmix_jax.scenes.synthetic import synthesize

RNG = np.random.default_rng(0)
MEANS = np.stack([np.linspace(0.1, 0.5, 12), np.linspace(0.6, 0.2, 12), np.full(12, 0.3)])
COUNTS = (20, 20, 1)
CLASSES = np.repeat(["rock", "grass", "water"], COUNTS)
BRIGHT = RNG.uniform(0.7, 1.3, (len(CLASSES), 1))
LIBRARY = (np.repeat(MEANS, COUNTS, 0) * BRIGHT).astype(np.float32)


@pytest.fixture(scope="module")
def disc():
    return learn_disc(jax.random.key(0), LIBRARY, CLASSES, widths=(8,), epochs=40, batch=8, rate=1e-2)


def test_radius_zero_is_the_references(disc):
    exact = disc.with_radius(0.0)
    assert disc.names == ("rock", "grass", "water")
    assert disc.codes.shape == (41, 2)
    np.testing.assert_array_equal(exact(jax.random.key(5)), disc.references)
    assert disc.references.shape == (3, 12)
    assert (disc.references >= 0).all()
    mixed = synthesize(jax.random.key(1), exact, np.eye(3, dtype=np.float32))
    np.testing.assert_allclose(mixed.spectra, disc.references, rtol=1e-5)


def test_classes_are_told_apart(disc):
    near = np.linalg.norm(disc.references[:2, None] - MEANS[None], axis=2).argmin(1)
    assert near.tolist() == [0, 1]


def test_draws_lie_in_the_disc_and_fill_it(disc):
    keys = jax.random.split(jax.random.key(2), 2000)
    far = np.linalg.norm(eqx.filter_vmap(disc.draw)(keys) - disc.centres, axis=-1)
    assert far.max() <= 0.1 * (1 + 1e-4)
    np.testing.assert_allclose((far**2).mean(0), 0.1**2 / 2, rtol=0.1)  # uniform in area


def test_spread_grows_with_the_radius(disc):
    keys = jax.random.split(jax.random.key(3), 200)
    spread = [eqx.filter_vmap(disc.with_radius(r))(keys).std(0).mean() for r in (0.05, 0.2, 0.4)]
    assert 0 < spread[0] < spread[1] < spread[2]


def test_same_key_same_spectra(disc):
    np.testing.assert_array_equal(disc(jax.random.key(4)), disc(jax.random.key(4)))
    assert (disc(jax.random.key(4)) != disc(jax.random.key(5))).any()
    assert isinstance(disc.with_radius(1.0), LatentDisc)


@pytest.mark.parametrize(
    ("spectra", "classes", "radius", "message"),
    [
        (np.zeros((0, 4), np.float32), (), 0.1, "not empty"),
        (np.array([[1, np.nan]], np.float32), ("a",), 0.1, "finite"),
        (np.array([[1, -1]], np.float32), ("a",), 0.1, "not negative"),
        (np.zeros((1, 4), np.float32), ("a",), 0.1, "positive values"),
        (np.ones((2, 4), np.float32), ("a",), 0.1, "needs a class"),
        (np.ones((1, 4), np.float32), ("a",), -0.1, "below zero"),
    ],
)
def test_bad_input_is_refused(spectra, classes, radius, message):
    with pytest.raises(ValueError, match=message):
        learn_disc(jax.random.key(0), spectra, classes, radius=radius)


@pytest.mark.parametrize("options", [{"weight": float("nan")}, {"batch": 0}, {"epochs": 0}])
def test_settings_that_cannot_be(options):
    with pytest.raises(ValueError, match="epochs and batch positive"):
        learn_disc(jax.random.key(0), np.ones((2, 4), np.float32), ("a", "b"), **options)


def test_bad_radius_is_refused(disc):
    for radius in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="radius"):
            disc.with_radius(radius)
