"""The dense autoencoders of the survey, one short recipe each.

Those that begin at VCA's endmembers take them as ``start``, in units of the greatest value of the pixels.

Reference: Palsson, Sveinsson and Ulfarsson 2022, 10.1109/JSTARS.2021.3140154, and the methods' own papers.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from unmix_jax.linalg import inverse, matmul
from unmix_jax.networks.autoencoder import Autoencoder, MixingDecoder, PostNonlinear
from unmix_jax.networks.layers import (
    AbsSum,
    AngleDense,
    BatchNorm,
    Dense,
    Dropout,
    LeakyReLU,
    MaskedNoise,
    ReLUSum,
    Sequential,
    Softmax,
    SparseReLU,
    TopK,
)
from unmix_jax.networks.losses import (
    EndnetFidelity,
    HyperLaplacian,
    Lq,
    Objective,
    cosine_loss,
    entry_bounds,
    mse,
    osp,
    sad,
    sid,
    weight_decay,
)
from unmix_jax.networks.recipes import Recipe, adam, dense, rmsprop, spectra, stack, vca_start
from unmix_jax.networks.training import Schedule

__all__ = ["DENSE"]


def simple(key: Any, bands: int, count: int, start: Any) -> Autoencoder:
    """Dense, leaky ReLU, batch norm, softmax (survey, Fig. 7)."""
    first, second = jax.random.split(key)
    encoder = Sequential((dense(first, bands, count), LeakyReLU(0.1), BatchNorm.plain(count)))
    return Autoencoder(encoder, Softmax(), MixingDecoder(spectra(second, count, bands)))


def daeu(key: Any, bands: int, count: int, start: Any) -> Autoencoder:
    """Four dense layers, batch norm, a learned threshold."""
    first, second = jax.random.split(key)
    layers = stack(first, bands, (9 * count, 6 * count, 3 * count, count), 0.1)
    encoder = Sequential((*layers, BatchNorm.plain(count), SparseReLU(jnp.zeros(count))))
    return Autoencoder(encoder, ReLUSum(), MixingDecoder(spectra(second, count, bands)))


def sidaeu(key: Any, bands: int, count: int, start: Any) -> Autoencoder:
    """One dense layer, batch norm, a learned threshold."""
    first, second = jax.random.split(key)
    encoder = Sequential((dense(first, bands, count), BatchNorm.plain(count), SparseReLU(jnp.zeros(count))))
    return Autoencoder(encoder, ReLUSum(), MixingDecoder(spectra(second, count, bands)))


def endnet(std: float) -> Callable[..., Autoencoder]:
    """Angles to the endmembers, the two nearest kept.

    Where no unit is on, the published code returns no abundance at all, and such a pixel trains nothing; here shares
    sum to one, so that it trains the first two. Without noise that is rare, with a noise of 0.3 it is a third of the
    pixels of Samson.
    """

    def build(key: Any, bands: int, count: int, start: Any) -> Autoencoder:
        encoder = Sequential((
            MaskedNoise(0.4, std), AngleDense(start), BatchNorm.plain(count, scaled=False), Dropout(0.1), LeakyReLU(),
        ))  # fmt: skip
        return Autoencoder(encoder, TopK(2), MixingDecoder(start))

    return build


def ospaeu(key: Any, bands: int, count: int, start: Any) -> Autoencoder:
    """Two dense layers that begin as the least-squares unmixing by VCA's endmembers.

    The published code leaves outliers out of the training and subtracts the least value of each pixel; here neither is
    done: both cost accuracy on Samson.
    """
    encoder = Sequential((
        Dense(start, jnp.zeros(count)), LeakyReLU(),
        Dense(inverse(matmul(start, start.T)), jnp.zeros(count)), BatchNorm.plain(count),
    ))  # fmt: skip
    return Autoencoder(encoder, Softmax(), MixingDecoder(start, nonnegative=False))


def nae(key: Any, bands: int, count: int, start: Any) -> Autoencoder:
    """A deep encoder, and after the linear mixture a nonlinear part that begins as the identity.

    The published code has a sigmoid there and trains it to be the identity first, which a leaky ReLU is from the
    start where spectra are positive.
    """
    first, second = jax.random.split(key)
    layers = stack(first, bands, (128, 64, 16), 0.1, bias=True)
    encoder = Sequential((*layers, dense(jax.random.fold_in(second, 0), 16, count, bias=True)))
    nearly = jnp.eye(bands)
    bend = Sequential((Dense(nearly, jnp.zeros(bands)), LeakyReLU(0.1), Dense(nearly, jnp.zeros(bands))))
    return Autoencoder(encoder, AbsSum(), PostNonlinear(MixingDecoder(start, nonnegative=False), bend))


def slow_decoder(fast: float, slow: float) -> optax.GradientTransformation:
    """Adam with one rate for the encoder and another for the decoder."""

    def labels(network: Any) -> Any:
        def named(part: Any, name: str) -> Any:
            return jax.tree.map(lambda _: name, part)

        return type(network)(named(network.encoder, "encoder"), network.simplex, named(network.decoder, "decoder"))

    return optax.multi_transform({"encoder": adam(fast), "decoder": adam(slow)}, labels)


DENSE: dict[str, Recipe] = {
    "simple": Recipe(simple, Objective(sad), Schedule(40, 15, rmsprop(1e-3))),
    "simple_cosine": Recipe(simple, Objective(cosine_loss), Schedule(40, 15, rmsprop(1e-3))),
    "daeu": Recipe(daeu, Objective(cosine_loss), Schedule(40, 6, rmsprop(1e-3))),
    "daeu_sad": Recipe(daeu, Objective(sad), Schedule(40, 6, rmsprop(1e-3))),
    "sidaeu": Recipe(sidaeu, Objective(sid), Schedule(40, 5, rmsprop(1e-3))),
    "endnet": Recipe(
        endnet(0.0),
        Objective(EndnetFidelity(), ((1e-5, weight_decay),)),
        Schedule(40, 64, adam(1e-3, 0.7), sample=4000),
        start=vca_start,
    ),
    "endnet_noisy": Recipe(
        endnet(0.3),
        Objective(EndnetFidelity(), ((1e-5, weight_decay),)),
        Schedule(40, 64, adam(1e-3, 0.7), sample=4000),
        start=vca_start,
    ),
    "ospaeu": Recipe(
        ospaeu,
        Objective(HyperLaplacian(), ((1.0, Lq(0.7)), (0.5 / 256, osp), (10 / 256, entry_bounds))),
        Schedule(39, 256, adam(1e-3), sample=None, alternate=("encoder", "encoder", "decoder")),
        start=vca_start,
    ),
    "nae": Recipe(
        nae,
        Objective(mse, ((1e-5, weight_decay),)),
        Schedule(40, 1024, slow_decoder(1e-3, 1e-5), sample=None),
        start=vca_start,
    ),
}
