"""How the spectra of the materials in a pixel become the spectrum of the pixel.

A mixing model is a callable pytree, ``mixing(abundances, endmembers) -> spectrum``, of one pixel. Its array leaves are
what a solver may fit besides the abundances; plain numbers are known. Where light meets one material only, spectra add
up (`Linear`); where it is reflected from one onto another, products of spectra appear (`Nascimento`, `Fan`, `GBM`), or
powers of the linear mixture (`PPNM`, `MLM`). `physics.hapke` has grains that touch.

`PPNM` and `MLM` change a linear mixture band by band: ``response`` does that, and ``linear_part`` undoes it, so that a
spectrum of known nonlinearity is a linear mixture again.
"""

from abc import abstractmethod
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unmix_jax.linalg import matmul, safe_sqrt

__all__ = ["ELMM", "GBM", "MLM", "PPNM", "SCLS", "Fan", "Linear", "Mixing", "Nascimento", "pair_products", "pairs"]


@runtime_checkable
class Mixing(Protocol):
    """Any callable pytree from abundances and endmembers to the spectrum of a pixel."""

    def __call__(
        self, abundances: Float[Any, "endmember"], endmembers: Float[Any, "endmember band"], /
    ) -> Float[Array, "band"]:
        """Spectrum of a pixel, in the unit of the endmembers."""
        ...


def pairs(count: int) -> tuple[np.ndarray, np.ndarray]:
    """First and second endmember of each pair i < j, in the order (0, 1), (0, 2), …, (1, 2), … ."""
    return np.triu_indices(count, 1)


def pair_products(endmembers: Float[Any, "endmember band"]) -> Float[Array, "pair band"]:
    """``m_i ⊙ m_j`` of each pair i < j, in the order of `pairs`: light that met both."""
    endmembers = jnp.asarray(endmembers)
    first, second = pairs(endmembers.shape[0])
    return endmembers[first] * endmembers[second]


class Linear(eqx.Module):
    """Materials side by side: ``y = aE``."""

    def __call__(
        self, abundances: Float[Any, "endmember"], endmembers: Float[Any, "endmember band"]
    ) -> Float[Array, "band"]:
        """Spectrum of a pixel, in the unit of the endmembers."""
        return matmul(jnp.asarray(abundances), jnp.asarray(endmembers))


class Nascimento(eqx.Module):
    """Pairs of materials as materials of their own: ``y = aE + Σ_{i<j} β_ij m_i ⊙ m_j``, with ``Σa + Σβ = 1``.

    Attributes:
        interactions: β_ij, not below zero, in the order of `pairs`.

    Reference:
        Nascimento and Bioucas-Dias 2009, doi:10.1117/12.830492.
    """

    interactions: Float[Array, "pair"]

    def __call__(
        self, abundances: Float[Any, "endmember"], endmembers: Float[Any, "endmember band"]
    ) -> Float[Array, "band"]:
        """Spectrum of a pixel, in the unit of the endmembers."""
        interactions = _of_pairs(self.interactions, endmembers)
        return Linear()(abundances, endmembers) + matmul(interactions, pair_products(endmembers))


class Fan(eqx.Module):
    """Every pair of materials interacts by its shares: ``y = aE + Σ_{i<j} a_i a_j m_i ⊙ m_j``.

    Reference:
        Fan et al. 2009, doi:10.1080/01431160802558659.
    """

    def __call__(
        self, abundances: Float[Any, "endmember"], endmembers: Float[Any, "endmember band"]
    ) -> Float[Array, "band"]:
        """Spectrum of a pixel, in the unit of the endmembers."""
        abundances, endmembers = jnp.asarray(abundances), jnp.asarray(endmembers)
        linear = matmul(abundances, endmembers)
        return linear + 0.5 * (linear**2 - matmul(abundances**2, endmembers**2))


class GBM(eqx.Module):
    """Generalised bilinear: ``y = aE + Σ_{i<j} γ_ij a_i a_j m_i ⊙ m_j``; `Linear` for γ = 0, `Fan` for γ = 1.

    Attributes:
        interactions: γ_ij, between 0 and 1, in the order of `pairs`. That of two materials of which one is absent
            changes nothing.

    Reference:
        Halimi et al. 2011, doi:10.1109/TGRS.2010.2098414.
    """

    interactions: Float[Array, "pair"]

    def __call__(
        self, abundances: Float[Any, "endmember"], endmembers: Float[Any, "endmember band"]
    ) -> Float[Array, "band"]:
        """Spectrum of a pixel, in the unit of the endmembers."""
        abundances = jnp.asarray(abundances)
        first, second = pairs(abundances.shape[0])
        shares = _of_pairs(self.interactions, endmembers) * abundances[first] * abundances[second]
        return Linear()(abundances, endmembers) + matmul(shares, pair_products(endmembers))


class _OfLinear(eqx.Module):
    """A linear mixture whose bands are then changed, each by itself."""

    @abstractmethod
    def response(self, linear: Float[Any, "*shape"]) -> Float[Array, "*shape"]:
        """What becomes of a linear mixture."""

    def __call__(
        self, abundances: Float[Any, "endmember"], endmembers: Float[Any, "endmember band"]
    ) -> Float[Array, "band"]:
        """Spectrum of a pixel, in the unit of the endmembers."""
        return self.response(Linear()(abundances, endmembers))


class PPNM(_OfLinear):
    """Polynomial post-nonlinear: ``y = s + b s ⊙ s`` with ``s = aE``.

    Attributes:
        nonlinearity: b; 0 is `Linear`, simulations draw it from −0.3 to 0.3.

    Reference:
        Altmann et al. 2012, doi:10.1109/TIP.2012.2187668.
    """

    nonlinearity: Float[Array, ""]

    def response(self, linear: Float[Any, "*shape"]) -> Float[Array, "*shape"]:
        """``s + b s²``."""
        return linear + self.nonlinearity * jnp.square(linear)

    def linear_part(self, spectrum: Float[Any, "*shape"]) -> Float[Array, "*shape"]:
        """The s of a spectrum, ``2y / (1 + √(1 + 4by))``; NaN where none has 1 + 2bs ≥ 0, that is where 1 + 4by < 0."""
        spectrum = jnp.asarray(spectrum)
        inside = 1 + 4 * self.nonlinearity * spectrum
        return jnp.where(inside >= 0, 2 * spectrum / (1 + safe_sqrt(inside)), jnp.nan)


class MLM(_OfLinear):
    """Multilinear: light meets another material with probability P each time, ``y = (1 − P) s / (1 − P s)``, s = aE.

    Attributes:
        probability: P, below 1; 0 is `Linear`. Below zero, as some codes allow, spectra become brighter.

    Reference:
        Heylen and Scheunders 2016, doi:10.1109/TGRS.2015.2453915.
    """

    probability: Float[Array, ""]

    def response(self, linear: Float[Any, "*shape"]) -> Float[Array, "*shape"]:
        """``(1 − P) s / (1 − P s)``; NaN from the pole on, Ps ≥ 1."""
        linear, probability = jnp.asarray(linear), jnp.asarray(self.probability)
        return _divide((1 - probability) * linear, 1 - probability * linear)

    def linear_part(self, spectrum: Float[Any, "*shape"]) -> Float[Array, "*shape"]:
        """The s of a spectrum, ``y / (1 − P + P y)``; NaN from the pole on."""
        spectrum = jnp.asarray(spectrum)
        return _divide(spectrum, 1 - self.probability + self.probability * spectrum)


class ELMM(eqx.Module):
    """Each endmember with a brightness of its own: ``y = Σ_i a_i ψ_i m_i``.

    Attributes:
        scales: ψ, above zero. Without more (a prior, neighbours) one pixel tells the products aψ only.

    Reference:
        Drumetz et al. 2016, doi:10.1109/TIP.2016.2579259.
    """

    scales: Float[Array, "endmember"]

    def __call__(
        self, abundances: Float[Any, "endmember"], endmembers: Float[Any, "endmember band"]
    ) -> Float[Array, "band"]:
        """Spectrum of a pixel, in the unit of the endmembers."""
        return Linear()(abundances * self.scales, endmembers)


class SCLS(eqx.Module):
    """One brightness for the pixel (illumination, slope): ``y = ψ aE``, of scaled constrained least squares.

    Attributes:
        brightness: ψ, above zero.

    Reference:
        Veganzones et al. 2014, A new extended linear mixing model to address spectral variability, WHISPERS.
    """

    brightness: Float[Array, ""]

    def __call__(
        self, abundances: Float[Any, "endmember"], endmembers: Float[Any, "endmember band"]
    ) -> Float[Array, "band"]:
        """Spectrum of a pixel, in the unit of the endmembers."""
        return self.brightness * Linear()(abundances, endmembers)


def _of_pairs(interactions: Any, endmembers: Any) -> Array:
    """Interactions, one for each pair."""
    count, shape = np.shape(endmembers)[0], np.shape(interactions)
    if shape != (count * (count - 1) // 2,):
        raise ValueError(f"{count} endmembers have {count * (count - 1) // 2} pairs, interactions have shape {shape}")
    return jnp.asarray(interactions)


def _divide(above: Array, below: Array) -> Array:
    """A quotient where the denominator is above zero, NaN elsewhere, with derivatives that know it."""
    possible = below > 0
    return jnp.where(possible, above / jnp.where(possible, below, 1.0), jnp.nan)
