"""CNN-3D against convolutions, its windows, and that the training loop takes it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import assert_close
from jaxtyping import Array, Float, Int

from unmix_jax.networks.abundance import AbundanceNetwork
from unmix_jax.networks.flax_bridge import FlaxLayer
from unmix_jax.networks.layers import Sequential
from unmix_jax.networks.spatial_cnn import CNN3D
from unmix_jax.networks.training import Examples, Schedule, train

BANDS, COUNT = 16, 3
IMAGE = np.random.default_rng(1).normal(size=(12, 12, BANDS)).astype(np.float32)
WINDOWS = np.stack([IMAGE[i : i + 3, i : i + 3] for i in range(5)])


def small(key=0):
    return CNN3D(BANDS, COUNT, rngs=nnx.Rngs(key))


class Batch(eqx.Module):
    """Windows and the class in the middle of each."""

    spectra: Float[Array, "pixel row column band"]
    classes: Int[Array, " pixel"]


class Drawn(eqx.Module):
    """Windows of a padded image; the class is that of the greatest of three bands of a neighbour."""

    image: Float[Array, "row column band"]

    def __call__(self, key, count):
        corners = jax.random.randint(key, (count, 2), 0, 10)
        cut = jax.vmap(lambda at: jax.lax.dynamic_slice(self.image, (at[0], at[1], 0), (3, 3, BANDS)))(corners)
        return Batch(cut, jnp.argmax(cut[:, 0, 1, :COUNT], -1))


def cross_entropy(network, batch, abundances, rendered):
    return -jnp.mean(jnp.log(jnp.take_along_axis(abundances, batch.classes[:, None], 1) + 1e-7))


def test_it_is_convolutions_along_the_spectrum():
    module = small()
    module.eval()
    found = module(jnp.asarray(WINDOWS))
    x = WINDOWS[..., None]
    for layer, size in zip(module.convolutions, (5, 4, 5, 4), strict=True):
        kernel = layer.kernel[...].reshape(1, 1, size, x.shape[-1], -1)
        shape = jax.lax.conv_dimension_numbers(x.shape, kernel.shape, ("NHWDC", "HWDIO", "NHWDC"))
        x = jax.lax.conv_general_dilated(x, kernel, (1, 1, 1), "VALID", dimension_numbers=shape) + layer.bias[...]
        x = jnp.maximum(x, 0)
    assert x.shape == (5, 3, 3, BANDS - 14, 128)
    x = x.reshape(5, -1)
    for layer in module.hidden:
        x = jnp.maximum(layer(x), 0)
    assert [layer.kernel.shape[1] for layer in module.hidden] == [192, 150]
    assert_close(found, module.out(x))


def test_neighbours_count_and_each_in_its_place():
    module = small()
    module.eval()
    found = module(jnp.asarray(WINDOWS))
    assert found.shape == (5, COUNT)
    for turned in (WINDOWS.swapaxes(1, 2), np.where(np.arange(9).reshape(3, 3, 1) == 0, 0, WINDOWS)):
        assert float(jnp.abs(module(jnp.asarray(turned)) - found).max()) > 1e-3


def test_it_drops_in_training_alone():
    layer = FlaxLayer.of(small())
    run = jax.jit(lambda key: layer(jnp.asarray(WINDOWS), layer.gathered(), key)[0])
    first, second = run(jax.random.key(1)), run(jax.random.key(2))
    assert float(jnp.abs(first - second).max()) > 1e-3
    module = small()
    module.eval()
    assert_close(layer(jnp.asarray(WINDOWS), layer.gathered(), None)[0], module(jnp.asarray(WINDOWS)))


def test_it_learns_what_a_neighbour_tells():
    def build(key, start):
        return AbundanceNetwork(Sequential((FlaxLayer.of(CNN3D(BANDS, COUNT, rngs=nnx.Rngs(key))),)))

    drawn = Drawn(jnp.asarray(IMAGE))
    assert isinstance(drawn, Examples)
    schedule = Schedule(6, 32, optax.adam(1e-3), sample=320, together=False)
    trained = train(build, drawn, cross_entropy, schedule, keys=jax.random.split(jax.random.key(0), 2))
    assert (np.asarray(trained.stopped) == -1).all()
    assert (np.asarray(trained.losses[:, -1]) < 0.5 * np.asarray(trained.losses[:, 0])).all()
    abundances = trained.abundances(WINDOWS)
    assert abundances.shape == (2, 5, COUNT)
    np.testing.assert_allclose(abundances.sum(-1), 1, rtol=1e-5)


def test_what_it_cannot_see_is_refused():
    with pytest.raises(ValueError, match="need 15 bands or more, got 14"):
        CNN3D(14, COUNT, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"windows are \[pixel, 3, 3, band\], got shape \(5, 16\)"):
        small()(jnp.zeros((5, BANDS)))
