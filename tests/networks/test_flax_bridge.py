"""Flax modules as layers and as unmixers, against the modules themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import assert_close

from unmix_jax.driver import unmix
from unmix_jax.networks.autoencoder import Autoencoder, MixingDecoder
from unmix_jax.networks.encoders import CNN1D
from unmix_jax.networks.flax_bridge import FlaxLayer, FlaxUnmixer
from unmix_jax.networks.layers import Sequential, Softmax
from unmix_jax.networks.losses import Objective, mse
from unmix_jax.networks.training import Schedule, train

BANDS, COUNT = 8, 3
PIXELS = np.random.default_rng(1).uniform(0.1, 0.9, (40, BANDS)).astype(np.float32)


class Small(nnx.Module):
    """With all that a layer may keep."""

    def __init__(self, *, rngs):
        self.first = nnx.Linear(BANDS, 6, rngs=rngs)
        self.norm = nnx.BatchNorm(6, momentum=0.5, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(6, COUNT, rngs=rngs)

    def __call__(self, x):
        return self.last(self.drop(nnx.relu(self.norm(self.first(x)))))


class Strange(nnx.Module):
    """With a variable of its own kind."""

    def __init__(self):
        self.counter = nnx.Cache(jnp.zeros(()))


def test_outside_of_training_it_is_the_module():
    module = Small(rngs=nnx.Rngs(0))
    layer = FlaxLayer.of(module)
    found, state = layer(jnp.asarray(PIXELS), layer.gathered(), None)
    module.eval()
    assert_close(found, module(PIXELS))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), state, layer.gathered()))


def test_in_training_it_drops_and_gathers():
    layer = FlaxLayer.of(Small(rngs=nnx.Rngs(0)))
    run = jax.jit(lambda key: layer(jnp.asarray(PIXELS), layer.gathered(), key))
    (first, state), (second, _), (again, _) = run(jax.random.key(1)), run(jax.random.key(2)), run(jax.random.key(1))
    assert float(jnp.abs(first - second).max()) > 1e-3  # other features are dropped
    assert np.array_equal(first, again)
    hidden = PIXELS @ layer.parameters["first"]["kernel"][...] + layer.parameters["first"]["bias"][...]
    assert_close(state["norm"]["mean"][...], 0.5 * hidden.mean(0), scale=1)


def test_it_is_trained_as_the_encoder_of_an_autoencoder():
    spectra = jnp.asarray(PIXELS[:COUNT])
    mixed = np.random.default_rng(2).dirichlet(np.ones(COUNT), 200).astype(np.float32) @ PIXELS[:COUNT]

    def build(key, start):
        layer = FlaxLayer.of(Small(rngs=nnx.Rngs(key)))
        return Autoencoder(Sequential((layer,)), Softmax(1.0), MixingDecoder(spectra / mixed.max(), fixed=True))

    schedule = Schedule(30, 20, optax.adam(1e-2), sample=None)
    trained = train(build, mixed, Objective(mse), schedule, keys=jax.random.split(jax.random.key(0), 2))
    assert (np.asarray(trained.losses[:, -1]) < 0.5 * np.asarray(trained.losses[:, 0])).all()
    assert float(jnp.abs(trained.losses[0] - trained.losses[1]).max()) > 0
    solution = unmix(trained.unmixer(0), mixed)
    assert solution.converged.all()
    np.testing.assert_allclose(solution.abundances.sum(1), 1, rtol=1e-5)


def test_a_module_is_an_unmixer():
    module = Small(rngs=nnx.Rngs(3))
    solution = unmix(FlaxUnmixer.of(module, endmembers=PIXELS[:COUNT]), PIXELS)
    module.eval()
    wanted = jax.nn.softmax(module(PIXELS))
    assert_close(solution.abundances, wanted)
    assert_close(solution.residual, np.sqrt(np.mean((PIXELS - wanted @ PIXELS[:COUNT]) ** 2, 1)))
    assert np.isnan(unmix(FlaxUnmixer.of(module), PIXELS).residual).all()


def test_what_it_cannot_carry_is_refused():
    with pytest.raises(ValueError, match="batch statistics and random numbers, got Cache too"):
        FlaxLayer.of(Strange())


@pytest.mark.parametrize(
    ("maxima", "padded", "width"),
    [
        ((True,) * 4, True, {1: 1, 3: 1, 50: 4}),
        ((False,) * 4, True, {1: 1, 3: 3, 50: 50}),
        ((False, False, True, True), False, {1: 1, 3: 1, 50: 8}),  # 50, 46, 43, 39 halved: 19, 16 halved
    ],
)
@pytest.mark.parametrize("bands", [1, 3, 50])
def test_convolutions_take_any_number_of_bands(bands, maxima, padded, width):
    module = CNN1D(bands, COUNT, maxima=maxima, hidden=2, padded=padded, rngs=nnx.Rngs(0))
    found = module(jnp.ones((2, bands)))
    assert found.shape == (2, COUNT)
    assert np.isfinite(found).all()
    assert module.hidden[0].kernel.shape == (24 * width[bands], 150)
    assert len(module.hidden) == 2
