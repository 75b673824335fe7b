"""Analysis by synthesis that begins where a network says: as good as the long search, in a part of its time."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from unmix_jax.linalg import matmul
from unmix_jax.networks.inverse import InverseUnmixer
from unmix_jax.solvers.active_set import tolerance
from unmix_jax.solvers.synthesis_map import map_synthesis
from unmix_jax.solvers.synthesis_marginal import Seen, evidence_of, residual_of
from unmix_jax.types import Solution

__all__ = ["Warm", "warm_synthesis"]


class Warm(eqx.Module):
    """What else `warm_synthesis` says of a pixel.

    Attributes:
        novelty: how unlike the training of the networks it is; above 1 it is flagged.
        spread: standard deviation of the abundances between the networks.
        evidence: logarithm of how probable the pixel is at the abundances of the networks and at those of the fit, but
            for what is the same for both.
        chi2: of the fit, see `marginal`.
        network: abundances as the networks have them.
    """

    novelty: Float[Array, "*pixel"]
    spread: Float[Array, "*pixel endmember"]
    evidence: Float[Array, "*pixel two"]
    chi2: Float[Array, "*pixel"]
    network: Float[Array, "*pixel endmember"]


def warm_synthesis(
    pixel: Float[Any, " band"], network: InverseUnmixer, *, members: int = 8, max_steps: int = 2, tol: float = 1e-3
) -> Solution:
    """Networks guess, physics refines, and the more probable of the two is kept.

    The networks' abundances say which endmembers may be there, and where `map_synthesis` begins. Of their abundances
    and its own, those x are kept at which ∫ p(y | x, u) p(u) du is greater, with the endmembers' mean and covariance
    under the prior.

    Args:
        pixel: spectrum, in the unit of the endmembers.
        network: what `learn_inverse` returned.
        members: endmembers that the fit may have, those of greatest abundance.
        max_steps: linearisations at most; the first do most, see `map_synthesis`.
        tol: as for `map_synthesis`.

    Returns:
        A `Solution`. Its gap is that of the abundances given the rendered endmembers that the guess leaves, its
        covariance that of `map_synthesis`; both are NaN where the networks' abundances were kept. There is no bound on
        abundances. ``converged``: the gap holds, where there is one, and the spectrum is not unlike all training.
        ``fitted`` is a `Warm`.

    Raises:
        ValueError: a spectrum of another number of bands than the networks were trained on, no endmember that may move,
            or steps fewer than none.

    Reference:
        Janiczek et al. 2020, arXiv:2007.05996, for both parts.
    """
    prepared = network.endmembers
    seen = network.see(pixel)
    guess, _, spread = network.predict(seen)
    fit = map_synthesis(pixel, prepared, guess=guess, members=members, max_steps=max_steps, tol=tol)
    inside = matmul(seen, prepared.basis.T)
    z = inside - prepared.center
    evidence, left = evidence_of(z, prepared, jnp.stack([guess, fit.abundances]))
    refined = evidence[1] >= evidence[0]
    outside = Seen(z, seen - matmul(inside, prepared.basis), fit)
    residual = jnp.where(refined, fit.residual, residual_of(prepared, outside, left[0]))
    gap = jnp.where(refined, fit.gap, jnp.nan)
    novelty = network.novelty(seen)
    fine = jnp.isfinite(residual) & (novelty <= 1) & ~(gap > tolerance(gap.dtype))
    return Solution(
        abundances=jnp.where(refined, fit.abundances, guess),
        residual=residual,
        gap=gap,
        steps=fit.steps,
        converged=fine,
        covariance=None if fit.covariance is None else jnp.where(refined, fit.covariance, jnp.nan),
        fitted=Warm(novelty, spread, evidence, fit.fitted["chi2"], guess),
        unique=fit.unique,
        abundance_bound=None,  # any of the fit would hold for endmembers that the guess fixes, and not for the networks
    )
