"""The autoencoders of the survey that look at neighbours.

Reference: Palsson, Sveinsson and Ulfarsson 2022, 10.1109/JSTARS.2021.3140154, and the methods' own papers.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from unmix_jax.networks.autoencoder import Autoencoder, MixingDecoder
from unmix_jax.networks.layers import BatchNorm, Dense, Dropout, GaussianNoise, LeakyReLU, Sequential, Softmax
from unmix_jax.networks.losses import Objective, cosine_loss
from unmix_jax.networks.recipes import Recipe, rmsprop, some
from unmix_jax.networks.spatial import Convolution, SpatialDecoder, SpatialDropout, Tasks
from unmix_jax.networks.training import Schedule

__all__ = ["SPATIAL"]

TASKS = 4  # pixels in a row
DIRECTIONS = 40  # that the pixels are seen in by the first convolution of CNNAEU


def normal(key: Any, mean: float, std: float, *shape: int) -> Any:
    """Weights drawn from a normal distribution."""
    return mean + std * jax.random.normal(key, shape)


def mtaeu(key: Any, bands: int, count: int, start: Any) -> Autoencoder:
    """Four pixels in a row, coded together, each by its own last layer, with one decoder for all.

    To unmix, a pixel stands in all four places, and the four answers are averaged.

    Reference: Palsson, Sveinsson and Ulfarsson 2019 (MTAEU), 10.1109/ACCESS.2019.2944072.
    """
    keys = jax.random.split(key, TASKS + 2)
    shared = Sequential((
        GaussianNoise(0.05), Dense(normal(keys[0], 0.01, 0.1, bands, TASKS * bands)), LeakyReLU(0.2), Dropout(0.5),
        BatchNorm.plain(bands),
    ))  # fmt: skip

    def task(key: Any) -> Sequential:
        return Sequential(
            (Dense(normal(key, 0.01, 0.1, count, bands)), LeakyReLU(0.2), BatchNorm.plain(count), Dropout(0.1))
        )

    encoder = Sequential((Tasks(shared, tuple(task(one) for one in keys[2:])),))
    decoder = MixingDecoder(jnp.maximum(normal(keys[1], 0.01, 0.1, count, bands), 0))
    return Autoencoder(encoder, Softmax(3.0), decoder)


def cnnaeu(key: Any, bands: int, count: int, start: Any) -> Autoencoder:
    """A convolution of 3 × 3 pixels, one of 1 × 1, and a decoder in which 13 × 13 pixels add to a spectrum.

    Batch norms gather what they see and use it afterwards; in the published code they are made anew in each call. The
    first convolution sees the pixels in the 40 directions that hold most of them, at a quarter of the cost; in Samson
    what it leaves out is 6e-6 of their power; under heavy noise it is three quarters of the noise.

    Reference: Palsson, Ulfarsson and Sveinsson 2021 (CNNAEU), 10.1109/TGRS.2020.2992743.
    """
    first, second, third = jax.random.split(key, 3)
    encoder = Sequential((
        Convolution(normal(first, 0.0, 0.3, 3, 3, bands, 48), start), LeakyReLU(0.02), BatchNorm.plain(48),
        SpatialDropout(0.2),
        Convolution(normal(second, 0.0, 0.3, 1, 1, 48, count)), LeakyReLU(0.02), BatchNorm.plain(count),
        SpatialDropout(0.2),
    ))  # fmt: skip
    return Autoencoder(
        encoder, Softmax(3.0), SpatialDecoder(jnp.maximum(normal(third, 0.0, 0.3, 13, 13, count, bands), 0))
    )


def directions(key: Any, pixels: Any, count: int) -> Float[np.ndarray, "direction band"]:
    """An orthonormal basis of nearly all that the pixels are: the eigenvectors of their second moments."""
    values = some(pixels)
    found = np.linalg.eigh(values.T @ values)[1][:, ::-1][:, : max(DIRECTIONS, count)]
    return np.ascontiguousarray(found.T)


def slower(step: Any) -> Any:
    """A rate that falls with the steps."""
    return 1e-3 / (1 + 1e-4 * step)


SPATIAL: dict[str, Recipe] = {
    "mtaeu": Recipe(mtaeu, Objective(cosine_loss), Schedule(60, 15, rmsprop(slower)), window=(1, TASKS)),
    "cnnaeu": Recipe(
        cnnaeu,
        Objective(cosine_loss),
        Schedule(320, 15, rmsprop(3e-3), sample=250, together=False),
        start=directions,
        window=(40, 40),
        neighbours=7,
    ),
}
