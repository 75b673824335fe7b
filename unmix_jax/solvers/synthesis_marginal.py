"""Abundances with the variation of the endmembers integrated out, and what all solvers of such endmembers share."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unmix_jax.linalg import matmul, squared_norm
from unmix_jax.solvers.active_set import tolerance
from unmix_jax.solvers.least_squares import fcls
from unmix_jax.solvers.synthesis_basis import PreparedSynthesis
from unmix_jax.solvers.synthesis_simplex import (
    back,
    frank_wolfe_gap,
    in_chunks,
    simplex_solve,
    support_covariance,
    whiten_rows,
)
from unmix_jax.solvers.tables import whiten_and_detrend
from unmix_jax.types import Solution

__all__ = ["Seen", "evidence_of", "marginal", "marginal_of", "residual_of", "see", "solution"]

CHUNK = 64  # pixels whose covariances are in memory at once


class Seen(eqx.Module):
    """A pixel as the solvers see it: in the basis, and what lies outside of it."""

    z: Array
    outside: Array
    start: Solution


def marginal(
    pixel: Float[Any, " band"],
    endmembers: PreparedSynthesis,
    *,
    reweightings: int = 3,
    covariance: bool = True,
    displacement: bool = False,
) -> Solution:
    """Abundances with the variation of the endmembers integrated out.

    argmin_x ½ (y − xm) V⁻¹ (y − xm)ᵀ over x ≥ 0, Σx = 1, with V = noise + Σ_i x_i² C_i, where m_i and C_i are mean and
    covariance of endmember i under the prior. V is that of the abundances before, FCLS's at first. Derivatives in the
    pixel are those of the iteration.

    Args:
        pixel: spectrum, in the unit of the endmembers.
        endmembers: what `prepare_synthesis` made of a generator.
        reweightings: how often V is set anew; the answer hardly moves after three.
        covariance: report it; for a million pixels of forty endmembers it is the square of that, 6 GB.
        displacement: also say where the endmembers are expected.

    Returns:
        A `Solution`. Its gap is that of the last weighted problem, its residual what neither the endmembers nor their
        variation explain, its covariance (m V⁻¹ mᵀ)⁻¹ on the support, zero elsewhere. ``fitted`` holds ``chi2``, the
        whitened squared error over its degrees of freedom, near 1 for a spectrum that the library can render;
        ``log_likelihood`` of the pixel at its abundances, to choose noise and prior by; ``change``, the greatest
        change of an abundance in the last turn; and, if asked for, ``displacement`` [endmember, parameter], the best
        linear estimate, not beyond the walls of the box.

    Raises:
        ValueError: if pixel and endmembers differ in their number of bands, or there is no reweighting.

    Reference:
        Janiczek et al. 2020, eq. 7, arXiv:2007.05996, for the problem; generalised least squares for the method.
    """
    found = marginal_of(see(pixel, endmembers), endmembers, reweightings, displacement)
    return found if covariance else eqx.tree_at(lambda s: s.covariance, found, None)


def marginal_of(seen: Seen, endmembers: PreparedSynthesis, reweightings: int, displacement: bool = False) -> Solution:
    """`marginal` of a pixel in the basis."""
    if reweightings < 1:
        raise ValueError(f"reweightings must be positive, got {reweightings}")

    def reweighted(prepared: PreparedSynthesis, z: Array, start: Array) -> Any:
        rows = jnp.concatenate([prepared.mean, z[None]])

        def whitened(abundances: Array) -> tuple[Array, Array]:
            return whiten_rows(jnp.tensordot(abundances**2, prepared.covariance, 1), rows)

        def turn(_: Any, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            abundances = state[0]
            white, _ = whitened(abundances)
            new = simplex_solve(white[:-1], white[-1])
            return new, frank_wolfe_gap(white[:-1], white[-1], new), jnp.max(jnp.abs(new - abundances))

        nothing = jnp.zeros_like(z[0])
        abundances, gap, change = jax.lax.fori_loop(0, reweightings, turn, (start, nothing, nothing))
        white, factor = whitened(abundances)
        error = white[-1] - matmul(abundances, white[:-1])
        half = jnp.sum(jnp.log(jnp.diag(factor)))
        return abundances, gap, change, error, half, back(factor, error), support_covariance(white[:-1], abundances)

    answer = in_chunks(reweighted, endmembers, (seen.z, seen.start.abundances), size=CHUNK)
    abundances, gap, change, error, half, left, covariance = answer
    abundances = jnp.where(endmembers.varies, abundances, seen.start.abundances)
    squared = squared_norm(error) + squared_norm(seen.outside)
    fitted = {
        "chi2": squared / endmembers.freedom,
        "log_likelihood": -0.5 * squared - half - endmembers.log_scale,
        "change": change,
    }
    if displacement:
        pull = matmul(endmembers.slopes, left)
        fitted["displacement"] = jnp.clip(endmembers.prior**2 * abundances[:, None] * pull, -1, 1)
    return solution(endmembers, seen, abundances, left, gap, seen.start.steps, covariance, fitted, True)


def evidence_of(
    z: Float[Array, " rank"], endmembers: PreparedSynthesis, abundances: Float[Array, "candidate endmember"]
) -> tuple[Float[Array, " candidate"], Float[Array, "candidate rank"]]:
    """How probable a pixel is at each of several abundances, the variation integrated out, and what noise has of it.

    −½ (y − xm) V⁻¹ (y − xm)ᵀ − ½ log|V|, with V as in `marginal`; what does not depend on x is left out.
    """

    def weighed(prepared: PreparedSynthesis, z: Array, abundances: Array) -> tuple[Array, Array]:
        found = []
        for x in abundances:
            covariance = jnp.tensordot(x**2, prepared.covariance, 1)
            error, factor = whiten_rows(covariance, (z - matmul(x, prepared.mean))[None])
            evidence = -0.5 * squared_norm(error[0]) - jnp.sum(jnp.log(jnp.diag(factor)))
            found.append((evidence, back(factor, error[0])))
        return jnp.stack([one for one, _ in found]), jnp.stack([left for _, left in found])

    return in_chunks(weighed, endmembers, (z, abundances), size=CHUNK)


def see(pixel: Any, prepared: PreparedSynthesis) -> Seen:
    """The pixel in the basis, and where fixed endmembers put it; in the precision of the endmembers."""
    pixel = jnp.asarray(pixel, prepared.basis.dtype)
    start = fcls(pixel, prepared.library)
    white = whiten_and_detrend(prepared.library, pixel)
    inside = matmul(white, prepared.basis.T)
    return Seen(inside - prepared.center, white - matmul(inside, prepared.basis), start)


def solution(
    prepared: PreparedSynthesis,
    seen: Seen,
    abundances: Array,
    left: Array,
    gap: Array,
    steps: Array,
    covariance: Array,
    fitted: dict[str, Array],
    done: Any,
) -> Solution:
    """The result; `left` is what the noise has of the pixel, in the basis."""
    residual = jnp.where(prepared.varies, residual_of(prepared, seen, left), seen.start.residual)
    gap = jnp.where(prepared.varies, gap, seen.start.gap)
    fine = jnp.isfinite(jnp.sum(abundances) + residual) & (gap <= tolerance(gap.dtype))
    return Solution(
        abundances=abundances,
        residual=residual,
        gap=gap,
        steps=steps,
        converged=fine & done,
        covariance=covariance,
        fitted=fitted,
        unique=seen.start.unique,
    )


def residual_of(prepared: PreparedSynthesis, seen: Seen, left: Array) -> Array:
    """Root mean square of what neither the endmembers nor their variation explain."""
    white = matmul(left, prepared.basis) + seen.outside
    error = white * prepared.noise if prepared.noise.ndim == 1 else matmul(white, prepared.noise)
    return jnp.sqrt(jnp.maximum(squared_norm(error) / prepared.bands, jnp.finfo(error.dtype).tiny))
