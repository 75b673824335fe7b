"""Abundances by least squares, exact and certified: ``ucls``, ``scls``, ``nnls`` and ``fcls``.

Each takes one pixel and the endmembers and returns a `Solution`; batch with ``unmix`` or ``jax.vmap``. Wherever
endmembers stand, an array or what `prepare` made of it may be passed; band weights, noise covariance and baseline
columns are options of `prepare`. All are differentiable in the pixel and in the endmembers, forward and reverse,
by the implicit function theorem on the active set.
"""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unmix_jax.linalg import matmul, solve_symmetric, squared_norm
from unmix_jax.solvers.active_set import Reduced, abundance_tolerance, solve, tolerance
from unmix_jax.solvers.batching import check_pixel
from unmix_jax.solvers.residual import squared_residual
from unmix_jax.solvers.shares import bound_of_shares
from unmix_jax.solvers.tables import Prepared, polynomial_baseline, prepare, prepare_for, whiten_and_detrend
from unmix_jax.types import Solution

__all__ = [
    "fcls",
    "nnls",
    "polynomial_baseline",
    "prepare",
    "prepared",
    "remove_shade",
    "scls",
    "ucls",
]


def ucls(pixel: Float[Any, " band"], endmembers: Float[Any, "endmember band"] | Prepared) -> Solution:
    """Unconstrained least squares.

    argmin_a ½‖y − aE‖² (the shortest such a where endmembers are dependent).

    Args:
        pixel: spectrum, in the unit of the endmembers.
        endmembers: spectra as rows, or `Prepared`.

    Returns:
        A `Solution`; its gap is the exact excess of the objective.

    Raises:
        ValueError: if pixel and endmembers differ in their number of bands.
    """
    return _solve(pixel, endmembers, sum_to_one=False, bounded=False)


def scls(pixel: Float[Any, " band"], endmembers: Float[Any, "endmember band"] | Prepared) -> Solution:
    """Sum-to-one constrained least squares.

    argmin_a ½‖y − aE‖² subject to Σa = 1.

    Args:
        pixel: spectrum, in the unit of the endmembers.
        endmembers: spectra as rows, or `Prepared`.

    Returns:
        A `Solution`; its gap is the exact excess of the objective.

    Raises:
        ValueError: if pixel and endmembers differ in their number of bands.

    Reference: Heinz and Chang 2001, 10.1109/36.911111.
    """
    return _solve(pixel, endmembers, sum_to_one=True, bounded=False)


def nnls(pixel: Float[Any, " band"], endmembers: Float[Any, "endmember band"] | Prepared) -> Solution:
    """Non-negative least squares.

    argmin_a ½‖y − aE‖² subject to a ≥ 0.

    Args:
        pixel: spectrum, in the unit of the endmembers.
        endmembers: spectra as rows, or `Prepared`.

    Returns:
        A `Solution` with a duality gap (infinite where an endmember points away from the mean of all and the gradient
        leaves no bound; then ``converged`` is False).

    Raises:
        ValueError: if pixel and endmembers differ in their number of bands.

    Reference: Lawson and Hanson 1974, Solving Least Squares Problems.
    """
    return _solve(pixel, endmembers, sum_to_one=False, bounded=True)


def fcls(pixel: Float[Any, " band"], endmembers: Float[Any, "endmember band"] | Prepared) -> Solution:
    """Fully constrained least squares.

    argmin_a ½‖y − aE‖² subject to a ≥ 0 and Σa = 1, solved exactly over active sets.

    Args:
        pixel: spectrum, in the unit of the endmembers.
        endmembers: spectra as rows, or `Prepared`.

    Returns:
        A `Solution` with the Frank-Wolfe gap.

    Raises:
        ValueError: if pixel and endmembers differ in their number of bands.

    Reference: Heinz and Chang 2001, 10.1109/36.911111 (problem; their greedy algorithm is not exact).
    """
    return _solve(pixel, endmembers, sum_to_one=True, bounded=True)


def prepared(unmixer: Any, good: Any = None) -> Any:
    """The same unmixer with `prepare` done, for good bands, where it is one of these solvers with an array."""
    if isinstance(unmixer, eqx.Partial) and unmixer.func in (ucls, scls, nnls, fcls):
        endmembers = unmixer.keywords.get("endmembers")
        if endmembers is not None and not isinstance(endmembers, Prepared):
            region = "simplex" if unmixer.func is fcls else "cone"
            tables = (region,) if unmixer.func in (fcls, nnls) else ()
            return eqx.Partial(unmixer.func, endmembers=prepare_for(tables, endmembers, good))
    return unmixer


def remove_shade(solution: Solution, member: int) -> Solution:
    """Fractions of the lit materials: drop the shade (or blackbody) endmember and renormalise.

    a_i / (1 − a_shade); NaN where nothing but shade was found.

    Args:
        solution: of a solver whose endmembers include the shade.
        member: index of the shade endmember; negative counts from the end.

    Returns:
        The solution with one abundance less; residual, gap and flags are those of the fit.

    Raises:
        ValueError: if there is no such endmember, or no other.

    Reference: Ramsey and Christensen 1998, 10.1029/97JB02784.
    """
    count = solution.abundances.shape[-1]
    if count < 2 or not -count <= member < count:
        raise ValueError(f"cannot remove endmember {member} of {count}")
    rest = jnp.delete(solution.abundances, member, axis=-1, assume_unique_indices=True)
    total = jnp.sum(rest, -1, keepdims=True)
    enough = total > 10 * jnp.finfo(total.dtype).eps
    shares = jnp.where(enough, rest / jnp.where(enough, total, 1.0), jnp.nan)
    bound = solution.abundance_bound
    if bound is not None:
        bound = bound_of_shares(shares, total[..., 0], bound, summed=1, divided=count - 1)
    return eqx.tree_at(
        lambda s: (s.abundances, s.covariance, s.abundance_bound),
        solution,
        (shares, None, bound),
        is_leaf=lambda x: x is None,
    )


def _solve(pixel: Float[Any, " band"], endmembers: Any, *, sum_to_one: bool, bounded: bool) -> Solution:
    """One pixel through projection, solver, residual and certificate."""
    problem = endmembers if isinstance(endmembers, Prepared) else prepare(endmembers)
    check_pixel(pixel, problem.endmembers.shape[1])
    pixel = jnp.asarray(pixel, jnp.result_type(pixel.dtype, problem.endmembers.dtype))
    if problem.good is not None:
        pixel = jnp.where(problem.good, pixel, 0.0)
    plain = problem.whitener is None and problem.baseline is None
    norm = squared_norm(pixel if plain else whiten_and_detrend(problem, pixel))
    abundances, answer = _differentiable(pixel, problem, norm, sum_to_one, bounded)

    baseline = None
    if plain:
        squared = squared_residual(pixel, abundances, problem.endmembers, norm, answer.explained)
    else:
        error = pixel - matmul(abundances, problem.endmembers)
        if problem.baseline is not None and problem.baseline_map is not None:
            baseline = matmul(error, problem.baseline_map)
            error = error - matmul(baseline, problem.baseline)
        if problem.good is not None:
            error = jnp.where(problem.good, error, 0.0)
        squared = squared_norm(error)
    bands = pixel.shape[0] if problem.good is None else jnp.sum(problem.good)
    region = problem.geometry.simplex if sum_to_one else problem.geometry.cone
    largest = jnp.maximum(jnp.max(jnp.abs(answer.abundances)), 1.0)
    near = answer.bound <= abundance_tolerance(pixel.dtype) * largest
    return Solution(
        abundances=abundances,
        residual=_root(squared / bands),
        gap=answer.gap,
        steps=answer.steps,
        converged=jnp.isfinite(squared) & near & ~(answer.gap > tolerance(pixel.dtype)),
        fitted=baseline,
        unique=(region.unique | jnp.isfinite(answer.bound)) & jnp.isfinite(squared),
        abundance_bound=answer.bound,
    )


def _root(squared: Array) -> Array:
    """Square root with a zero gradient at zero."""
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), squared)


def _differentiable(
    pixel: Array, problem: Prepared, norm: Array, sum_to_one: bool, bounded: bool
) -> tuple[Array, Reduced]:
    """Abundances with derivatives in the pixel and in the prepared problem, and the answer they come from."""
    fixed = jax.lax.stop_gradient((problem, pixel, norm))
    answer = jax.lax.stop_gradient(solve(*fixed, sum_to_one=sum_to_one, bounded=bounded))
    metric = _Metric(problem.whitener, problem.good, problem.baseline, problem.baseline_map)
    return _attached(sum_to_one, bounded)(pixel, problem.endmembers, metric, answer.abundances), answer


class _Metric(eqx.Module):
    """What the objective makes of a spectrum before it squares it; the fields are those of `Prepared`."""

    whitener: Array | None
    good: Array | None
    baseline: Array | None
    baseline_map: Array | None


@functools.cache
def _attached(sum_to_one: bool, bounded: bool) -> Any:
    """The identity of abundances, whose derivatives are those of the minimiser on its support.

    There the gradient ``(aE − y) W Eᵀ`` is constant, so ``da = −H⁻¹ d(gradient)`` with H the Gram matrix of the support
    (bordered by the sum). H squares the condition number, so all of it is in float64; and it is made of the very
    endmembers, so that second derivatives follow from the first.
    """

    @jax.custom_jvp
    def attached(pixel: Array, spectra: Array, metric: _Metric, abundances: Array) -> Array:
        del pixel, spectra, metric
        return abundances

    @attached.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        pixel, spectra, metric, abundances = primals
        found = attached(*primals)
        inside = abundances > 0 if bounded else jnp.ones_like(abundances, bool)
        with jax.enable_x64(True):

            def double(tree: Any) -> Any:
                return jax.tree.map(
                    lambda x: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
                )

            def gradient(pixel: Array, spectra: Array, metric: _Metric) -> Array:
                error = whiten_and_detrend(metric, matmul(double(found), spectra) - pixel)
                return jnp.where(inside, matmul(whiten_and_detrend(metric, spectra), error), 0.0)

            exact = double((pixel, spectra, metric))
            _, change = jax.jvp(gradient, exact, double(tuple(tangents[:3])))
            white = whiten_and_detrend(exact[2], exact[1])
            answer = _newton(matmul(white, white.T), inside, change, sum_to_one)
            return found, answer.astype(abundances.dtype)

    return attached


def _newton(gram: Array, inside: Array, change: Array, sum_to_one: bool) -> Array:
    """How the abundances of the support answer a change of the gradient."""
    count = gram.shape[0]
    scale = jax.lax.stop_gradient(jnp.trace(gram)) / count
    both = inside[:, None] & inside[None, :]
    matrix = jnp.where(both, gram, 0.0) + jnp.diag(jnp.where(inside, jnp.finfo(gram.dtype).eps * scale, scale))
    if not sum_to_one:
        return -solve_symmetric(matrix, change)
    border = scale * inside.astype(gram.dtype)
    bordered = jnp.block([[matrix, border[:, None]], [border[None, :], jnp.zeros((1, 1), gram.dtype)]])
    return -solve_symmetric(bordered, jnp.append(change, 0.0))[:count]
