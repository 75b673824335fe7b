"""Unmixing with endmembers that physics lets vary, one pixel in and one `Solution` out.

- `marginal` integrates the variation out: abundances with their covariance, about as fast as fixed endmembers.
- `map_synthesis` fits abundances and displacements together, spectra rendered anew at each step; the one to recommend.
- `alternating` (in `synthesis_alternating`) is the algorithm of the paper that named analysis-by-synthesis.

All take what `prepare_synthesis` made of a generator of endmembers (`physics.variation`) in place of endmembers, and
go through ``unmix``. None knows what the displacements move.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unmix_jax.linalg import matmul, squared_norm
from unmix_jax.physics.variation import linearise
from unmix_jax.solvers.active_set import tolerance
from unmix_jax.solvers.least_squares import fcls
from unmix_jax.solvers.synthesis_alternating import alternating
from unmix_jax.solvers.synthesis_basis import PreparedSynthesis, prepare_synthesis
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

__all__ = ["PreparedSynthesis", "alternating", "map_synthesis", "marginal", "prepare_synthesis"]

CHUNK = 64  # pixels whose covariances are in memory at once
FITTED_CHUNK = 8  # pixels whose derivatives are
SHORTEST = 0.02  # of a step, before it is given up


class _Seen(eqx.Module):
    """A pixel as the solvers see it: in the basis, and what lies outside of it."""

    z: Array
    outside: Array
    start: Solution


def marginal(pixel: Float[Any, "band"], endmembers: PreparedSynthesis, *, reweightings: int = 3) -> Solution:
    """Abundances with the variation of the endmembers integrated out.

    argmin_x ½ (y − xm) V⁻¹ (y − xm)ᵀ over x ≥ 0, Σx = 1, with V = noise + Σ_i x_i² C_i, where m_i and C_i are mean and
    covariance of endmember i under the prior. V is that of the abundances before, FCLS's at first. Derivatives in the
    pixel are those of the iteration.

    Args:
        pixel: spectrum, in the unit of the endmembers.
        endmembers: what `prepare_synthesis` made of a generator.
        reweightings: how often V is set anew; the answer hardly moves after three.

    Returns:
        A `Solution`. Its gap is that of the last weighted problem, its residual what neither the endmembers nor their
        variation explain, its covariance (m V⁻¹ mᵀ)⁻¹ on the support, zero elsewhere. ``fitted`` holds ``chi2``, the
        whitened squared error over its degrees of freedom, near 1 for a spectrum that the library can render;
        ``log_likelihood`` of the pixel at its abundances, to choose noise and prior by; and ``change``, the greatest
        change of an abundance in the last turn.

    Raises:
        ValueError: if pixel and endmembers differ in their number of bands.

    Reference:
        Janiczek et al. 2020, eq. 7, arXiv:2007.05996, for the problem; generalised least squares for the method.
    """
    return _marginal(_see(pixel, endmembers), endmembers, reweightings)


def _marginal(seen: _Seen, endmembers: PreparedSynthesis, reweightings: int) -> Solution:
    """`marginal` of a pixel in the basis."""

    def reweighted(prepared: PreparedSynthesis, z: Array, start: Array) -> Any:
        rows = jnp.concatenate([prepared.mean, z[None]])

        def whitened(abundances: Array) -> tuple[Array, Array]:
            return whiten_rows(jnp.tensordot(abundances**2, prepared.covariance, 1), rows)

        abundances, change = start, jnp.zeros_like(z[0])
        gap = jnp.zeros_like(z[0])
        for _ in range(reweightings):
            white, _ = whitened(abundances)
            new = simplex_solve(white[:-1], white[-1])
            gap = frank_wolfe_gap(white[:-1], white[-1], new)
            abundances, change = new, jnp.max(jnp.abs(new - abundances))
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
    return _solution(endmembers, seen, abundances, left, gap, seen.start.steps, covariance, fitted, True)


def map_synthesis(
    pixel: Float[Any, "band"],
    endmembers: PreparedSynthesis,
    *,
    max_steps: int = 8,
    members: int = 10,
    reweightings: int = 3,
    tol: float = 1e-3,
) -> Solution:
    """The most probable abundances and displacements, spectra rendered anew at each step.

    argmin_{x, u} ½‖y − xE(u)‖² + ½ Σ (u / prior)² over x ≥ 0, Σx = 1, −1 ≤ u ≤ 1, in the whitened basis. Each step
    linearises E at u, solves for x and u together (u in closed form, x exactly over active sets with the covariance
    that the free u cause), and is shortened until the objective falls. Starts at `marginal`. The derivative in the
    pixel is that of the last linearised problem.

    Args:
        pixel: spectrum, in the unit of the endmembers.
        endmembers: what `prepare_synthesis` made of a generator.
        max_steps: linearisations at most.
        members: endmembers that may move in a step, those of greatest abundance.
        reweightings: of `marginal`.
        tol: the step that lowers the objective by less than this share of it is the last.

    Returns:
        A `Solution`. Its gap is that of the abundances given the rendered endmembers; its covariance that of
        `marginal` with the endmembers linearised where they were found. ``fitted`` holds ``displacement``
        [endmember, parameter], ``objective``, ``history`` of the objective, NaN after the last step, and ``chi2``.

    Raises:
        ValueError: if pixel and endmembers differ in their number of bands.

    Reference:
        Janiczek et al. 2020, eq. 7, arXiv:2007.05996, with a prior in place of the bare box.
    """
    seen = _see(pixel, endmembers)
    first = _marginal(seen, endmembers, reweightings).abundances
    kept = min(members, endmembers.count)

    def fit(prepared: PreparedSynthesis, z: Array, start: Array) -> Any:
        problem = _Joint(jax.lax.stop_gradient(prepared), jax.lax.stop_gradient(z), kept)
        state = jax.lax.stop_gradient(problem.descend(jax.lax.stop_gradient(start), max_steps, tol))
        point, u = state["spectra"], state["u"]
        final = simplex_solve(point, problem.z)
        gap = frank_wolfe_gap(point, problem.z, final)
        chosen, slopes, covariance = problem.tangent(final, u)
        target = z + jnp.tensordot(u[chosen], slopes, 2)
        white, _ = whiten_rows(covariance, jnp.concatenate([point, target[None]]))
        error = white[-1] - matmul(final, white[:-1])
        last = simplex_solve(jax.lax.stop_gradient(white[:-1]), white[-1])
        final = jax.lax.stop_gradient(final) + last - jax.lax.stop_gradient(last)  # its derivative, not its value
        objective = problem.objective(final, point, u)
        left = z - matmul(final, point)
        summary = {name: state[name] for name in ("u", "history", "steps", "done")}
        return final, gap, summary, objective, error, left, support_covariance(white[:-1], final)

    answer = in_chunks(fit, endmembers, (seen.z, first), size=FITTED_CHUNK)
    abundances, gap, state, objective, error, left, covariance = answer
    abundances = jnp.where(endmembers.varies, abundances, seen.start.abundances)
    fitted = {
        "displacement": state["u"],
        "objective": objective,
        "history": state["history"],
        "chi2": (squared_norm(error) + squared_norm(seen.outside)) / endmembers.freedom,
    }
    done = state["done"] | ~endmembers.varies
    return _solution(endmembers, seen, abundances, left, gap, state["steps"], covariance, fitted, done)


class _Joint(eqx.Module):
    """The problem of `map_synthesis` for one pixel."""

    prepared: PreparedSynthesis
    z: Array
    members: int = eqx.field(static=True)

    def objective(self, abundances: Array, spectra: Array, u: Array) -> Array:
        prior = self.prepared.prior
        scaled = jnp.where(prior > 0, u / jnp.where(prior > 0, prior, 1.0), 0.0)
        return 0.5 * squared_norm(self.z - matmul(abundances, spectra)) + 0.5 * jnp.sum(scaled**2)

    def render(self, chosen: Array, u: Array, spectra: Array) -> Array:
        """Spectra with the rows of the chosen endmembers rendered at their displacements."""
        return spectra.at[chosen].set(self.prepared.reduce(self.prepared.generator.select(chosen)(u[chosen])))

    def tangent(self, abundances: Array, u: Array) -> tuple[Array, Array, Array]:
        """Which endmembers move, what of the pixel moves with them, and the covariance of that under the prior."""
        chosen = jax.lax.top_k(abundances, self.members)[1]
        _, slopes = linearise(self.prepared.generator.select(chosen), u[chosen])
        slopes = self.prepared.reduce_slopes(slopes) * abundances[chosen, None, None]
        scaled = (slopes * self.prepared.prior[chosen][..., None]).reshape(-1, self.z.shape[0])
        return chosen, slopes, matmul(scaled.T, scaled)

    def expected(self, abundances: Array) -> tuple[Array, Array]:
        """Displacements that the linear model of the prior expects, and their spectra; none if that is worse."""
        prepared = self.prepared
        covariance = jnp.tensordot(abundances**2, prepared.covariance, 1)
        error, factor = whiten_rows(covariance, (self.z - matmul(abundances, prepared.mean))[None])
        chosen = jax.lax.top_k(abundances, self.members)[1]
        pull = matmul(prepared.slopes[chosen], back(factor, error[0]))
        aim = jnp.clip(prepared.prior[chosen] ** 2 * abundances[chosen, None] * pull, -1, 1)
        u = jnp.zeros_like(prepared.prior).at[chosen].set(aim)
        spectra = self.render(chosen, u, prepared.rest)
        better = self.objective(abundances, spectra, u) < self.objective(abundances, prepared.rest, 0 * u)
        return jnp.where(better, u, 0.0), jnp.where(better, spectra, prepared.rest)

    def step(self, state: dict[str, Array], tol: float) -> dict[str, Array]:
        """One Gauss-Newton step for abundances and displacements together."""
        abundances, u, spectra, objective = (state[k] for k in ("abundances", "u", "spectra", "objective"))
        chosen, slopes, covariance = self.tangent(abundances, u)
        target = self.z + jnp.tensordot(u[chosen], slopes, 2)
        white, factor = whiten_rows(covariance, jnp.concatenate([spectra, target[None]]))
        wanted = simplex_solve(white[:-1], white[-1])
        pull = matmul(slopes, back(factor, white[-1] - matmul(wanted, white[:-1])))
        aim = jnp.clip(self.prepared.prior[chosen] ** 2 * pull, -1, 1)

        def attempt(trial: Any) -> Any:
            length = 0.5 * trial[0]
            a = abundances + length * (wanted - abundances)
            v = u.at[chosen].set(u[chosen] + length * (aim - u[chosen]))
            e = self.render(chosen, v, spectra)
            return length, a, v, e, self.objective(a, e, v)

        def worse(trial: Any) -> Array:
            return ~(trial[-1] <= objective) & (trial[0] > SHORTEST)

        first = (jnp.full_like(objective, 2.0), abundances, u, spectra, jnp.full_like(objective, jnp.inf))
        _, a, v, e, reached = jax.lax.while_loop(worse, attempt, first)
        accepted = reached <= objective
        new = {
            "abundances": jnp.where(accepted, a, abundances),
            "u": jnp.where(accepted, v, u),
            "spectra": jnp.where(accepted, e, spectra),
            "objective": jnp.where(accepted, reached, objective),
            "steps": state["steps"] + 1,
            "done": ~accepted | (objective - reached <= tol * objective),
        }
        new["history"] = state["history"].at[new["steps"]].set(new["objective"])
        return {name: jnp.where(state["done"], state[name], value) for name, value in new.items()}

    def descend(self, start: Array, max_steps: int, tol: float) -> dict[str, Array]:
        """Steps until one gains too little."""
        u, spectra = self.expected(start)
        objective = self.objective(start, spectra, u)
        state = {
            "abundances": start,
            "u": u,
            "spectra": spectra,
            "objective": objective,
            "history": jnp.full(max_steps + 1, jnp.nan, start.dtype).at[0].set(objective),
            "steps": jnp.asarray(0, jnp.int32),
            "done": ~jnp.isfinite(objective),
        }
        return jax.lax.while_loop(lambda s: ~s["done"] & (s["steps"] < max_steps), lambda s: self.step(s, tol), state)


def _see(pixel: Any, prepared: PreparedSynthesis) -> _Seen:
    """The pixel in the basis, and where fixed endmembers put it."""
    start = fcls(pixel, prepared.library)
    white = whiten_and_detrend(prepared.library, jnp.asarray(pixel, prepared.basis.dtype))
    inside = matmul(white, prepared.basis.T)
    return _Seen(inside - prepared.center, white - matmul(inside, prepared.basis), start)


def _solution(
    prepared: PreparedSynthesis,
    seen: _Seen,
    abundances: Array,
    left: Array,
    gap: Array,
    steps: Array,
    covariance: Array,
    fitted: dict[str, Array],
    done: Any,
) -> Solution:
    """The result; `left` is what the noise has of the pixel, in the basis."""
    error = (matmul(left, prepared.basis) + seen.outside) * prepared.noise
    residual = jnp.sqrt(jnp.maximum(squared_norm(error) / prepared.bands, jnp.finfo(error.dtype).tiny))
    gap = jnp.where(prepared.varies, gap, seen.start.gap)
    fine = jnp.isfinite(jnp.sum(abundances)) & (gap <= tolerance(gap.dtype))
    return Solution(
        abundances=abundances,
        residual=jnp.where(prepared.varies, residual, seen.start.residual),
        gap=gap,
        steps=steps,
        converged=fine & done,
        covariance=covariance,
        fitted=fitted,
        unique=seen.start.unique,
    )
