"""Parts of the denoising autoencoders: a denoiser in closed form, tied weights, a decoder within limits."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unmix_jax.linalg import matmul, safe_norm
from unmix_jax.networks.autoencoder import Autoencoder, MixingDecoder
from unmix_jax.networks.layers import Dense, Divergence, Layer, SumToOne
from unmix_jax.networks.losses import mse

__all__ = [
    "AugmentedLogistic",
    "Denoised",
    "KnownDense",
    "LogisticSum",
    "TiedAutoencoder",
    "UnitDecoder",
    "below_zero",
    "marginalised_denoiser",
    "row_norms",
]


def marginalised_denoiser(
    pixels: Float[Any, "pixel band"], rate: float, layers: int = 1
) -> tuple[Float[np.ndarray, "band band"], Float[np.ndarray, " band"]]:
    r"""The affine map that best gives pixels back of which each band was set to zero at random.

    With a one below each pixel x, S = Σ x xᵀ, and q = 1 − rate for bands and 1 for the one, the least mean squared
    error over all corruptions is that of W = P Q⁺ with P_ij = S_ij q_j, Q_ij = S_ij q_i q_j and Q_ii = S_ii q_i. Each
    further layer is the denoiser of what the layer before makes of the pixels.

    Args:
        pixels: spectra, any unit; all finite.
        rate: probability that a band is set to zero, at least 0 and below 1.
        layers: how many, one after another.

    Returns:
        Weight and bias of all layers together: a denoised pixel is ``weight @ pixel + bias``; the bias is in the unit
        of the pixels.

    Raises:
        ValueError: a rate outside of [0, 1), or no layer.

    Reference: Chen, Xu, Weinberger and Sha 2012, arXiv:1206.4683 (without the squashing between layers).
    """
    if not 0 <= rate < 1 or layers < 1:
        raise ValueError(f"a denoiser needs a rate from 0 to below 1 and at least one layer, got {rate} and {layers}")
    values = np.asarray(pixels, np.float64)
    peak = max(np.abs(values).max(), np.finfo(float).tiny)  # the one is then about as large as a band
    values = np.concatenate([values / peak, np.ones((len(values), 1))], 1)
    moments = values.T @ values / len(values)
    kept = np.full(len(moments), 1 - rate)
    kept[-1] = 1
    whole = np.eye(len(moments))
    for _ in range(layers):
        corrupted = moments * np.outer(kept, kept)
        np.fill_diagonal(corrupted, np.diag(moments) * kept)
        layer = (moments * kept) @ np.linalg.pinv(corrupted, rcond=1e-13, hermitian=True)
        layer[-1] = np.eye(len(moments))[-1]
        moments, whole = layer @ moments @ layer.T, layer @ whole
    return whole[:-1, :-1], peak * whole[:-1, -1]


class AugmentedLogistic(Layer):
    """1 / (1 + exp(−(a x + b))), with a and b of each feature learned."""

    slope: Float[Array, " feature"]
    shift: Float[Array, " feature"]

    @classmethod
    def plain(cls, features: int, slope: float = 1.0, shift: float = 0.0) -> "AugmentedLogistic":
        """The same for all features."""
        return cls(jnp.full(features, slope), jnp.full(features, shift))

    def __call__(self, x: Any, state: Any, key: Any) -> tuple[Array, Any]:
        """Each feature by itself."""
        return jax.nn.sigmoid(self.slope * x + self.shift), state


class LogisticSum(SumToOne):
    """l_i / Σ_j l_j with l = 1 / (1 + exp(−(a z + b))), with a and b of each endmember learned.

    In logarithms, softmax(log l): finite where every l is zero in floating point.

    Reference: Guo, Wang and Qi 2015 (mDAE), 10.1109/WHISPERS.2015.8075378.
    """

    slope: Float[Array, " endmember"]
    shift: Float[Array, " endmember"]

    def __call__(self, z: Any) -> Array:
        """Equal shares where all are great."""
        return jax.nn.softmax(jax.nn.log_sigmoid(self.slope * z + self.shift), -1)


class KnownDense(Dense):
    """x Wᵀ + b that is not trained."""

    def constrained(self, before: Any) -> "KnownDense":
        """As before."""
        return before

    def __call__(self, x: Any, state: Any, key: Any) -> tuple[Array, Any]:
        """Linear in the features."""
        return Dense(*jax.lax.stop_gradient((self.weight, self.bias)))(x, state, key)


class UnitDecoder(MixingDecoder):
    """A mixing model with endmembers from zero to one, the greatest value of the pixels."""

    def constrained(self, before: Any) -> MixingDecoder:
        """With no endmember below zero or above one."""
        limited = super().constrained(before)
        return eqx.tree_at(lambda d: d.spectra, limited, jnp.minimum(limited.spectra, 1))


class TiedAutoencoder(Autoencoder):
    """An autoencoder without a decoder of its own: its endmembers are the weights of a layer of the encoder.

    Attributes:
        tied: number of that layer, a `Dense` one.
    """

    decoder: Any = None
    tied: int = eqx.field(static=True, default=-1)

    @property
    def endmembers(self) -> Float[Array, "endmember band"]:
        """The weights of the tied layer."""
        layer: Any = self.encoder.layers[self.tied]
        return layer.weight

    def gathered(self) -> Any:
        """That of the encoder alone."""
        return self.encoder.gathered(), None

    def __call__(self, pixels: Any, state: Any, key: Any = None) -> tuple[Array, Array, Any]:
        """As any autoencoder; the mixture is linear."""
        coded, into = self.encoder(pixels, state[0], key)
        abundances = self.simplex(coded)
        return abundances, matmul(abundances, self.endmembers), (into, None)


class Denoised(Autoencoder):
    """An autoencoder that is also to render what a denoiser makes of a pixel.

    To the loss it adds weight × mean of (D(y) − ŷ)².

    Attributes:
        denoiser: D, of pixels divided by their greatest value.
        weight: of the second aim.

    Reference: Qu and Qi 2019 (uDAS), IEEE TGRS 57, 1698.
    """

    denoiser: KnownDense
    weight: float = eqx.field(static=True)

    def gathered(self) -> Any:
        """That of encoder and decoder, and nothing added yet."""
        return *super().gathered(), Divergence(jnp.zeros(()))

    def __call__(self, pixels: Any, state: Any, key: Any = None) -> tuple[Array, Array, Any]:
        """As any autoencoder."""
        abundances, rendered, (into, out) = super().__call__(pixels, state[:2], key)
        if key is None:
            return abundances, rendered, (into, out, state[2])
        clean, _ = self.denoiser(pixels, None, None)
        return abundances, rendered, (into, out, Divergence(self.weight * mse(clean, rendered)))


def below_zero(network: Any, abundances: Float[Array, "*pixel endmember"]) -> Float[Array, ""]:
    """Sum of what endmembers are below zero."""
    return jnp.sum(jnp.maximum(-network.endmembers, 0))


def row_norms(network: Any, abundances: Float[Array, "*pixel endmember"]) -> Float[Array, ""]:
    """Σ_i ‖w_i‖₂ of the rows of the first layer's weights: few endmembers are used.

    Reference: Qu and Qi 2019 (uDAS), IEEE TGRS 57, 1698.
    """
    return jnp.sum(safe_norm(network.encoder.layers[0].weight))
