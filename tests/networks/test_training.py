"""One training loop: the same key gives the same result, whatever runs beside it or between; what is bad stops."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
from helpers import assert_close

from unmix_jax.metrics import mean_sad
from unmix_jax.networks.autoencoder import Autoencoder, MixingDecoder, MLPDecoder
from unmix_jax.networks.layers import BatchNorm, Dense, GaussianNoise, LeakyReLU, Sequential, Softmax, glorot
from unmix_jax.networks.losses import Objective, mse, sad, weight_decay
from unmix_jax.networks.recipes import follow
from unmix_jax.networks.training import Schedule, train
from unmix_jax.networks.zoo import RECIPES
from unmix_jax.physics.mixing import PPNM

BANDS, COUNT = 12, 3
RNG = np.random.default_rng(3)
WAVE = np.linspace(0, 1, BANDS)
ENDMEMBERS = (0.5 + 0.4 * np.sin(np.asarray([[2.0], [5.0], [9.0]]) * WAVE + [[0.0], [1.0], [2.0]])).astype(np.float32)
TRUTH = RNG.dirichlet(np.full(COUNT, 0.4), 300).astype(np.float32)
PIXELS = 40 * (TRUTH @ ENDMEMBERS + 0.005 * RNG.standard_normal((300, BANDS)).astype(np.float32))
KEYS = jax.random.split(jax.random.key(0), 3)
SCHEDULE = Schedule(6, 10, optax.rmsprop(1e-2), sample=200)
OBJECTIVE = Objective(sad)


def build(key, start=None):
    first, second = jax.random.split(key)
    encoder = Sequential(
        (Dense(glorot(first, COUNT, BANDS)), GaussianNoise(0.01), LeakyReLU(0.1), BatchNorm.plain(COUNT))
    )
    return Autoencoder(encoder, Softmax(), MixingDecoder(jnp.maximum(glorot(second, COUNT, BANDS), 0)))


def quiet(key, start=None):
    network = build(key)
    kept = tuple(layer for layer in network.encoder.layers if not isinstance(layer, GaussianNoise))
    return eqx.tree_at(lambda n: n.encoder, network, Sequential(kept))


def run(keys=KEYS, schedule=SCHEDULE, objective=OBJECTIVE, builder=build, pixels=PIXELS, **options):
    return train(builder, pixels, objective, schedule, keys=keys, **options)


def same(one, other):
    for x, y in zip(
        jax.tree.leaves(eqx.filter(one, eqx.is_array)), jax.tree.leaves(eqx.filter(other, eqx.is_array)), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def test_it_learns_the_endmembers_up_to_their_scale():
    found = run(schedule=Schedule(60, 10, optax.rmsprop(1e-2), sample=200))
    assert found.endmembers.shape == (3, COUNT, BANDS)
    assert np.asarray(found.endmembers).min() >= 0
    assert np.all(np.asarray(found.losses)[:, -1] < 0.5 * np.asarray(found.losses)[:, 0])
    assert min(mean_sad(own, ENDMEMBERS) for own in np.asarray(found.endmembers)) < 0.1
    shares = np.asarray(found.abundances(PIXELS))
    assert shares.shape == (3, 300, COUNT)
    assert_close(shares.sum(-1), np.ones((3, 300)))


def test_the_same_key_gives_the_same_result_alone_and_in_company():
    found = run()
    same(found, run())
    alone = run(KEYS[1:2])
    assert_close(alone.endmembers[0], found.endmembers[1], scale=40)
    assert not np.array_equal(np.asarray(found.endmembers[0]), np.asarray(found.endmembers[1]))


def test_looking_more_often_changes_nothing(tmp_path):
    told = []
    often = run(every=2, progress=lambda done, total: told.append((done, total)))
    same(often, run(every=6))
    assert told == [(2, 6), (4, 6), (6, 6)]


def test_a_run_that_was_stopped_goes_on(tmp_path):
    path = tmp_path / "run.npz"

    def interrupt(done, total):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(every=2, checkpoint=path, progress=interrupt)
    told = []
    resumed = run(every=2, checkpoint=path, progress=lambda done, total: told.append(done))
    assert told == [6]
    same(resumed, run(every=2))
    with pytest.raises(ValueError, match="holds another run"):
        run(KEYS[:2], every=2, checkpoint=path)


def test_a_seed_that_leaves_the_finite_is_stopped_and_the_others_go_on():
    def falls(pixels, rendered):
        return jnp.where(jnp.max(rendered) > 5, jnp.nan, mse(pixels, rendered))

    def begun(key, start):
        return eqx.tree_at(lambda n: n.decoder.spectra, build(key), start)

    starts = np.stack([ENDMEMBERS, 10 * ENDMEMBERS, 0.9 * ENDMEMBERS]) * (40 / PIXELS.max())
    options = {"objective": Objective(falls), "builder": begun}
    found = run(starts=starts, **options)
    np.testing.assert_array_equal(np.asarray(found.stopped), [-1, 0, -1])
    assert_close(found.endmembers[1], np.float32(starts[1]) * PIXELS.max(), scale=40)  # the last good state
    assert np.isnan(np.asarray(found.losses)[1]).all()
    alone = run(KEYS[::2], starts=starts[::2], **options)
    assert_close(found.endmembers[::2], alone.endmembers, scale=40)
    assert np.isfinite(np.asarray(alone.losses)).all()


def test_every_part_in_its_turn():
    def after(*turns):
        return run(schedule=Schedule(len(turns), 10, optax.sgd(0.1), 200, (*turns, "all")))

    start = run(schedule=Schedule(0, 10, optax.sgd(0.1), 200, ("encoder", "all")))

    def moved(found):
        pairs = [(found.endmembers, start.endmembers)]
        pairs += [(x.networks.encoder.layers[0].weight for x in (found, start))]
        return [bool(np.any(np.asarray(x) != np.asarray(y))) for x, y in pairs]

    assert moved(after("encoder")) == [False, True]
    assert moved(after("decoder")) == [True, False]
    assert moved(after("decoder", "encoder")) == [True, True]


def test_without_a_sample_every_pixel_is_seen_once_in_an_epoch():
    still = Schedule(2, 50, optax.sgd(0.0), None)  # six whole batches of a network that stays as it is
    found = run(schedule=still, objective=Objective(lambda pixels, rendered: jnp.mean(pixels)))
    assert_close(found.losses, np.full((3, 2), np.mean(PIXELS) / PIXELS.max(), np.float32))


def test_patience_ends_a_run_that_does_not_get_better():
    still = Schedule(30, 200, optax.sgd(0.0), sample=200)
    told = []
    found = run(schedule=still, builder=quiet, patience=4, every=2, progress=lambda done, total: told.append(done))
    assert told[-1] < 12
    found = run(schedule=still, builder=quiet, patience=4, every=2, objective=Objective(lambda x, y: mse(x, y) - 9.0))
    assert np.isnan(np.asarray(found.losses)[:, -1]).all()


def test_known_endmembers_and_any_physics():
    def known(key, start=None):
        network = build(key)
        spectra = jnp.asarray(ENDMEMBERS / (PIXELS.max() / 40))
        decoder = MixingDecoder(spectra, PPNM(jnp.asarray(0.1)), fixed=True)
        return eqx.tree_at(lambda n: n.decoder, network, decoder)

    found = run(builder=known, objective=Objective(mse), schedule=Schedule(60, 10, optax.adam(1e-2), sample=200))
    for own in np.asarray(found.endmembers):
        assert_close(own, 40 * ENDMEMBERS, scale=40)
    decayed = run(builder=known, objective=Objective(mse, ((1.0, weight_decay),)))
    assert_close(decayed.endmembers[0], 40 * ENDMEMBERS, scale=40)
    error = np.asarray(found.abundances(PIXELS)) - TRUTH
    assert np.sqrt(np.mean(error**2)) < 0.12
    assert np.all(np.abs(np.asarray(found.networks.decoder.mixing.nonlinearity) - 0.1) > 1e-3)  # trained


def test_endmembers_of_an_mlp_are_what_it_renders_of_pure_pixels():
    layers = Sequential((Dense(glorot(jax.random.key(1), BANDS, COUNT)), LeakyReLU(0.1)))
    decoder = MLPDecoder(layers, COUNT)
    assert_close(decoder.endmembers, decoder(jnp.eye(COUNT), decoder.gathered(), None)[0])
    with pytest.raises(ValueError, match="no batch norm"):
        MLPDecoder(Sequential((*layers.layers, BatchNorm.plain(BANDS))), COUNT)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains(name):
    recipe = RECIPES[name]
    whole, window = recipe.schedule, recipe.window and (min(recipe.window[0], 6), min(recipe.window[1], 6))
    few = 128 if window is None else 16
    short = dataclasses.replace(whole, batch=min(whole.batch, few), sample=few)
    recipe = recipe._replace(schedule=short, window=window)
    image = np.ones((15, 20), bool)
    found = follow(recipe, PIXELS, COUNT, keys=KEYS[:2], valid=image, epochs=len(whole.alternate))
    assert np.isfinite(np.asarray(found.endmembers)).all()
    assert (np.asarray(found.stopped) == -1).all()
    assert np.isfinite(np.asarray(found.losses)).all()
    pixels = PIXELS.reshape(1, 15, 20, BANDS) if recipe.neighbours else PIXELS
    shares = np.asarray(found.abundances(pixels))
    assert shares.min() >= 0
    assert_close(shares.sum(-1), np.ones((2, *pixels.shape[:-1])))


@pytest.mark.parametrize(
    ("pixels", "batch", "message"),
    [
        (np.ones((3, 4, 5), np.float32), 2, r"\[pixel, band\]"),
        (np.full((30, BANDS), np.nan, np.float32), 2, "finite"),
        (np.zeros((30, BANDS), np.float32), 2, "greatest is 0"),
        (PIXELS, 500, "a batch has 500 pixels, there are 200"),
    ],
)
def test_bad_input(pixels, batch, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        run(schedule=Schedule(2, batch, optax.sgd(0.1), sample=200), pixels=pixels)
