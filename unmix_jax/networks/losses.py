"""What networks are trained on: how far a rendered spectrum is from a pixel, and what abundances and weights should be.

A fidelity is ``fidelity(pixels, rendered) -> loss`` on [..., band], a mean over the pixels. A penalty is
``penalty(network, abundances) -> loss``. An `Objective` is one fidelity and weighted penalties. Pixels are a list, or
windows of a scene [window, row, column].
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unmix_jax import metrics
from unmix_jax.linalg import matmul, safe_norm

__all__ = [
    "EndnetFidelity",
    "HyperLaplacian",
    "Lq",
    "Objective",
    "cosine_loss",
    "entry_bounds",
    "l1",
    "l21",
    "minimum_volume",
    "mse",
    "osp",
    "sad",
    "sid",
    "tv",
    "weight_decay",
]


def _cosine(pixels: Array, rendered: Array) -> Array:
    """Cosine of each pair; zero where one is zero."""
    lengths = safe_norm(pixels) * safe_norm(rendered)
    return jnp.sum(pixels * rendered, -1) / jnp.where(lengths > 0, lengths, 1.0)


def sad(pixels: Float[Array, "*pixel band"], rendered: Float[Array, "*pixel band"]) -> Float[Array, ""]:
    """Spectral angle distance in radians, mean over the pixels.

    Reference: Palsson, Sveinsson and Ulfarsson 2022, eq. 24, 10.1109/JSTARS.2021.3140154.
    """
    return jnp.mean(metrics.sad(pixels, rendered))


def cosine_loss(pixels: Float[Array, "*pixel band"], rendered: Float[Array, "*pixel band"]) -> Float[Array, ""]:
    """(1 − cosine) / bands, mean over the pixels: what the survey's published code minimises under the name of SAD.

    It is quadratic in a small angle where `sad` is linear: pixels that fit already count for less.
    """
    return jnp.mean(1 - _cosine(pixels, rendered)) / pixels.shape[-1]


def sid(pixels: Float[Array, "*pixel band"], rendered: Float[Array, "*pixel band"]) -> Float[Array, ""]:
    """Spectral information divergence in nats, mean over the pixels: Σ_b (p − q)(log p − log q) with p = u/Σu.

    A spectrum with negative values is lifted by the most negative one, where `metrics.sid` takes these for zero: there
    they would have no gradient.

    Reference: Chang 2000, 10.1109/18.857802.
    """

    def distribution(spectra: Array) -> Array:
        lifted = spectra - jnp.minimum(jnp.min(spectra, -1, keepdims=True), 0) + 1e-6
        return lifted / jnp.sum(lifted, -1, keepdims=True)

    p, q = distribution(pixels), distribution(rendered)
    return jnp.mean(jnp.sum((p - q) * (jnp.log(p) - jnp.log(q)), -1))


def mse(pixels: Float[Array, "*pixel band"], rendered: Float[Array, "*pixel band"]) -> Float[Array, ""]:
    """Mean squared error over pixels and bands."""
    return jnp.mean((pixels - rendered) ** 2)


class HyperLaplacian(eqx.Module):
    """(|y − ŷ| + ε)^p, mean over pixels and bands, minus log cos(y, ŷ), mean over pixels.

    Errors have heavier tails than a normal distribution for p < 1.

    Reference: Dou, Gao, Zhang, Wang and Wang 2020 (OSPAEU), 10.1109/TGRS.2020.2977819.
    """

    exponent: float = eqx.field(static=True, default=0.7)
    epsilon: float = eqx.field(static=True, default=1e-6)

    def __call__(self, pixels: Float[Array, "*pixel band"], rendered: Float[Array, "*pixel band"]) -> Float[Array, ""]:
        """The loss of a batch."""
        power = jnp.exp(self.exponent * jnp.log(jnp.abs(pixels - rendered) + self.epsilon))
        near = jnp.log(jnp.maximum(_cosine(pixels, rendered), self.epsilon))
        return jnp.mean(power) - jnp.mean(near)


class EndnetFidelity(eqx.Module):
    """mse_weight × mean squared error + angle_weight × mean of −log(1 − angle/π).

    Reference: Ozkan, Kaya and Akar 2019 (EndNet), 10.1109/TGRS.2018.2856929.
    """

    mse_weight: float = eqx.field(static=True, default=0.005)
    angle_weight: float = eqx.field(static=True, default=50.0)

    def __call__(self, pixels: Float[Array, "*pixel band"], rendered: Float[Array, "*pixel band"]) -> Float[Array, ""]:
        """The loss of a batch."""
        near = jnp.maximum(1 - metrics.sad(pixels, rendered) / jnp.pi, 1e-6)
        return self.mse_weight * mse(pixels, rendered) - self.angle_weight * jnp.mean(jnp.log(near))


def l1(network: Any, abundances: Float[Array, "*pixel endmember"]) -> Float[Array, ""]:
    """Σ|s|, mean over the pixels: constant where abundances sum to one."""
    return jnp.mean(jnp.sum(jnp.abs(abundances), -1))


class Lq(eqx.Module):
    """Σ s^q, mean over the pixels, sparse on the simplex for q < 1."""

    exponent: float = eqx.field(static=True, default=0.5)
    epsilon: float = eqx.field(static=True, default=1e-6)

    def __call__(self, network: Any, abundances: Float[Array, "*pixel endmember"]) -> Float[Array, ""]:
        """The penalty of a batch."""
        return jnp.mean(jnp.sum(jnp.exp(self.exponent * jnp.log(jnp.abs(abundances) + self.epsilon)), -1))


def osp(network: Any, abundances: Float[Array, "*pixel endmember"]) -> Float[Array, ""]:
    """Σ_i<j cos(s_·i, s_·j): zero where no two endmembers are in the same pixels (orthogonal sparse prior).

    Reference: Dou et al. 2020 (OSPAEU), 10.1109/TGRS.2020.2977819.
    """
    abundances = abundances.reshape(-1, abundances.shape[-1])
    lengths = safe_norm(abundances.T)
    unit = abundances / jnp.where(lengths > 0, lengths, 1.0)
    products = matmul(unit.T, unit)
    return 0.5 * (jnp.sum(products) - jnp.trace(products))


def l21(network: Any, abundances: Float[Array, "*pixel endmember"]) -> Float[Array, ""]:
    """Σ_i ‖s_·i‖₂ over the square root of the number of pixels: few endmembers in the batch."""
    abundances = abundances.reshape(-1, abundances.shape[-1])
    return jnp.sum(safe_norm(abundances.T)) / abundances.shape[0] ** 0.5


def tv(network: Any, abundances: Float[Array, "*window endmember"]) -> Float[Array, ""]:
    """Total variation: Σ_i |s_i − s_i of the next pixel|, mean along rows plus mean along columns.

    Raises:
        ValueError: abundances that are not windows.

    Reference: Iordache, Bioucas-Dias and Plaza 2012, 10.1109/TGRS.2012.2191590 (of abundance maps).
    """
    if abundances.ndim != 4:
        raise ValueError(f"total variation needs windows [window, row, column, endmember], got {abundances.shape}")
    total = jnp.zeros((), abundances.dtype)
    for axis in (1, 2):
        if abundances.shape[axis] > 1:
            total = total + jnp.mean(jnp.sum(jnp.abs(jnp.diff(abundances, axis=axis)), -1))
    return total


def weight_decay(network: Any, abundances: Float[Array, "*pixel endmember"]) -> Float[Array, ""]:
    """Sum of squares of all weight matrices, endmembers included."""
    matrices = [leaf for leaf in jax.tree.leaves(eqx.filter(network, eqx.is_inexact_array)) if leaf.ndim > 1]
    return sum((jnp.sum(matrix**2) for matrix in matrices), jnp.zeros(()))


def minimum_volume(network: Any, abundances: Float[Array, "*pixel endmember"]) -> Float[Array, ""]:
    """Log det of the endmembers' Gram matrix about their mean, per endmember: small for a small simplex."""
    endmembers = network.endmembers
    away = endmembers - jnp.mean(endmembers, 0)
    gram = matmul(away, away.T) / endmembers.shape[1]
    power = jnp.trace(gram) / len(gram)
    singular = jnp.ones_like(gram) * power / len(gram)  # lifts the direction that centring takes out
    return jnp.linalg.slogdet(gram + singular + 1e-6 * jax.lax.stop_gradient(power) * jnp.eye(len(gram)))[1] / len(gram)


def entry_bounds(network: Any, abundances: Float[Array, "*pixel endmember"]) -> Float[Array, ""]:
    """Sum of what endmembers are below zero and above one, instead of a projection."""
    endmembers = network.endmembers
    return jnp.sum(jnp.maximum(-endmembers, 0)) + jnp.sum(jnp.maximum(endmembers - 1, 0))


class Objective(eqx.Module):
    """fidelity(y, ŷ) + Σ weight × penalty(network, abundances).

    Attributes:
        fidelity: of pixels and what the network renders.
        penalties: pairs of a weight and a penalty; a weight that is a JAX array can be swept without compiling again.
    """

    fidelity: Callable[[Any, Any], Array]
    penalties: tuple[tuple[Any, Callable[[Any, Any], Array]], ...] = ()

    def __call__(self, network: Any, pixels: Array, abundances: Array, rendered: Array) -> Float[Array, ""]:
        """The loss of a batch."""
        loss = self.fidelity(pixels, rendered)
        for weight, penalty in self.penalties:
            loss = loss + weight * penalty(network, abundances)
        return loss
