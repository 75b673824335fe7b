"""Denoising, stacked and variational autoencoders: the closed form against its definition, and laws of the recipes."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close

from unmix_jax.networks import denoising
from unmix_jax.networks.denoising import KnownDense, LogisticSum, UnitDecoder, marginalised_denoiser
from unmix_jax.networks.denoising_recipes import DENOISING, abundances_of, no_outlier, stacked
from unmix_jax.networks.layers import Dense, LeakyReLU, Sequential
from unmix_jax.networks.losses import mse
from unmix_jax.networks.recipes import follow

SIDE, BANDS, COUNT = 12, 14, 3
RNG = np.random.default_rng(5)
WAVE = np.linspace(0, 1, BANDS)
ENDMEMBERS = 0.5 + 0.4 * np.sin(np.asarray([[2.0], [5.0], [9.0]]) * WAVE + [[0.0], [1.0], [2.0]])
TRUTH = RNG.dirichlet(np.full(COUNT, 0.4), SIDE * SIDE)
PIXELS = (40 * (TRUTH @ ENDMEMBERS + 0.005 * RNG.standard_normal((SIDE * SIDE, BANDS)))).astype(np.float32)
UNIT = PIXELS / PIXELS.max()
KEYS = jax.random.split(jax.random.key(0), 2)


def short(name, epochs=4, **changed):
    recipe = DENOISING[name]
    schedule = dataclasses.replace(recipe.schedule, batch=16, sample=144, epochs=epochs)
    return recipe._replace(schedule=schedule, **changed)


@pytest.fixture(scope="module")
def trained():
    return {name: follow(short(name), PIXELS, COUNT, keys=KEYS) for name in DENOISING}


def test_the_denoiser_is_the_least_squares_fit_over_all_corruptions():
    pixels, rate = RNG.uniform(0.1, 3, (30, 4)), 0.3
    masks = np.asarray(np.meshgrid(*[[0, 1]] * 4)).reshape(4, -1).T
    weights = np.prod(np.where(masks == 1, 1 - rate, rate), 1)
    rows = np.concatenate([np.c_[pixels * mask, np.ones(30)] * w**0.5 for mask, w in zip(masks, weights, strict=True)])
    wanted = np.concatenate([pixels * w**0.5 for w in weights])
    expected = np.linalg.lstsq(rows, wanted, rcond=None)[0].T
    weight, bias = marginalised_denoiser(pixels, rate)
    assert_close(weight, expected[:, :-1])
    assert_close(bias, expected[:, -1])


def test_layers_of_denoisers_follow_one_another():
    weight, bias = marginalised_denoiser(PIXELS, 0.1)
    once = PIXELS @ weight.T + bias
    second, shift = marginalised_denoiser(once, 0.1)
    both, moved = marginalised_denoiser(PIXELS, 0.1, layers=2)
    assert_close(PIXELS @ both.T + moved, once @ second.T + shift, scale=40)


def test_without_corruption_pixels_stay_and_the_unit_does_not_matter():
    weight, bias = marginalised_denoiser(PIXELS, 0.0)
    assert_close(PIXELS @ weight.T + bias, PIXELS, scale=40)
    weight, bias = marginalised_denoiser(PIXELS, 0.05, layers=3)
    same, scaled = marginalised_denoiser(1e4 * PIXELS.astype(float), 0.05, layers=3)
    assert_close(same, weight)
    assert_close(scaled, 1e4 * bias, scale=1e4)
    dead = PIXELS * (np.arange(BANDS) != 3)
    weight, bias = marginalised_denoiser(dead, 0.05)
    assert np.isfinite(weight).all()
    assert_close((dead @ weight.T + bias)[:, 3], np.zeros(len(dead)), scale=40)


@pytest.mark.parametrize(("rate", "layers"), [(-0.1, 1), (1.0, 1), (0.1, 0)])
def test_denoisers_that_cannot_be(rate, layers):
    with pytest.raises(ValueError, match="from 0 to below 1 and at least one layer"):
        marginalised_denoiser(PIXELS, rate, layers)


def test_logistic_shares_are_their_equation_and_finite():
    z = RNG.normal(size=(5, 3)).astype(np.float32)
    slope, shift = np.float32([1.0, 2.0, -0.5]), np.float32([0.0, -1.0, 0.3])
    wanted = 1 / (1 + np.exp(-(slope * z + shift)))
    layer = LogisticSum(jnp.asarray(slope), jnp.asarray(shift))
    assert_close(layer(jnp.asarray(z)), wanted / wanted.sum(1, keepdims=True))
    alone, _ = denoising.AugmentedLogistic(jnp.asarray(slope), jnp.asarray(shift))(jnp.asarray(z), None, None)
    assert_close(alone, wanted)
    for hard in (np.full((2, 3), -1e4, np.float32), np.asarray([[-200, -201, 500]], np.float32)):
        value, slopes = jax.value_and_grad(lambda z: jnp.sum(layer(z) ** 2))(jnp.asarray(hard))
        assert np.isfinite(float(value))
        assert np.isfinite(np.asarray(slopes)).all()
        assert_close(layer(jnp.asarray(hard)).sum(1), np.ones(len(hard)))


def test_limits_and_what_is_not_trained():
    decoder = UnitDecoder(jnp.asarray([[-0.5, 0.5, 1.5]]))
    assert_close(decoder.constrained(decoder).spectra, np.asarray([[0.0, 0.5, 1.0]]))
    known = KnownDense(jnp.eye(3), jnp.ones(3))
    moved = KnownDense(2 * jnp.eye(3), jnp.zeros(3))
    np.testing.assert_array_equal(moved.constrained(known).weight, np.eye(3))
    slope = eqx.filter_grad(lambda layer: jnp.sum(layer(jnp.ones((2, 3)), None, None)[0]))(known)
    np.testing.assert_array_equal(slope.weight, np.zeros((3, 3)))


def test_a_tied_network_renders_with_the_weights_of_its_encoder(trained):
    found = trained["mdae"].unmixer(0)
    network = found.network
    abundances, rendered, _ = network(jnp.asarray(UNIT), found.state)
    assert_close(network.endmembers, network.encoder.layers[1].weight)
    assert_close(rendered, np.asarray(abundances) @ np.asarray(network.endmembers))
    penalty = denoising.below_zero(network, abundances)
    assert_close(penalty, np.float32(np.maximum(-np.asarray(network.endmembers), 0).sum()))


def test_the_denoised_pixel_adds_to_the_loss_in_training_alone(trained):
    found = trained["udas"].unmixer(0)
    network, state = found.network, found.network.gathered()
    _, rendered, trains = network(jnp.asarray(UNIT), state, KEYS[0])
    weight, bias = marginalised_denoiser(UNIT, 1e-5, layers=12)
    clean = jnp.asarray(UNIT @ weight.T + bias, jnp.float32)
    assert_close(trains[2].value, 1e-4 * float(mse(clean, rendered)))
    assert float(network(jnp.asarray(UNIT), state)[2][2].value) == 0
    assert_close(network.denoiser.weight, np.float32(weight))  # as before training
    rows = np.linalg.norm(np.asarray(network.encoder.layers[0].weight), axis=1).sum()
    np.testing.assert_allclose(float(denoising.row_norms(network, jnp.asarray(TRUTH))), rows, rtol=1e-5)


@pytest.mark.parametrize("name", DENOISING)
def test_recipes_learn_and_stay_within_their_limits(trained, name):
    found = trained[name]
    losses, spectra = np.asarray(found.losses), np.asarray(found.endmembers) / PIXELS.max()
    assert np.all(losses[:, 1:].min(1) < losses[:, 0])  # some begin near the end, where the last epoch is chance
    assert (np.asarray(found.stopped) == -1).all()
    if name != "mdae":  # a penalty, no limit
        assert spectra.min() >= 0
    if name == "udas":
        assert spectra.max() <= 1
    shares = np.asarray(found.abundances(PIXELS))
    assert shares.min() >= 0
    assert_close(shares.sum(-1), np.ones((2, len(PIXELS))))


def test_outliers_are_left_out_and_little_else():
    strange = UNIT.copy()
    strange[[7, 80]] = RNG.uniform(0, 1, (2, BANDS))
    kept = no_outlier(KEYS[0], strange, COUNT)
    assert not kept[[7, 80]].any()
    assert kept.mean() > 0.9
    np.testing.assert_array_equal(no_outlier(KEYS[0], strange, COUNT), kept)


def test_a_uniform_scene_keeps_what_is_not_uniform():
    uniform = np.concatenate([np.tile(UNIT[:1], (3 * len(UNIT), 1)), UNIT])
    assert no_outlier(KEYS[0], uniform, COUNT)[3 * len(UNIT) :].mean() > 0.5


def test_stacked_autoencoders_begin_near_the_abundances_of_the_endmembers_they_know():
    start = stacked(KEYS[0], UNIT, COUNT)
    layers = [layer for pair in start["layers"] for layer in (Dense(*map(jnp.asarray, pair)), LeakyReLU(0.1))]
    encoder = Sequential((*layers, Dense(jnp.asarray(start["weight"]), jnp.asarray(start["bias"]))))
    coded, _ = encoder(jnp.asarray(UNIT), encoder.gathered(), None)
    error = np.asarray(coded) - abundances_of(UNIT, start["spectra"])
    assert np.sqrt(np.mean(error**2)) < 0.05
    for weight, _ in start["layers"]:
        assert_close(weight @ weight.T, np.eye(len(weight)))
