"""Least squares on the simplex where every pixel has its own endmembers and noise, a chunk of pixels at a time."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unmix_jax.linalg import inverse, matmul, solve_lower, squared_norm, whiten
from unmix_jax.solvers.pivoting import pivot_solve
from unmix_jax.solvers.tables import directions

__all__ = ["back", "frank_wolfe_gap", "in_chunks", "simplex_solve", "support_covariance", "whiten_rows"]

ROUNDING = 16  # of a covariance, in units of the last place of its greatest variance: less, and some have no factor


def in_chunks(function: Callable[..., Any], shared: Any, own: tuple[Array, ...], *, size: int) -> Any:
    """``function(shared, *own)`` of one pixel; a ``vmap`` over it computes `size` pixels at a time.

    What a pixel needs for itself (a covariance, derivatives of its endmembers) is then in memory for a chunk and
    not for a tile. Derivatives are those of `function`.
    """
    arrays, static = eqx.partition(shared, eqx.is_array)

    def call(arrays: Any, *own: Array) -> Any:
        return function(eqx.combine(arrays, static), *own)

    @jax.custom_batching.custom_vmap
    def chunked(arrays: Any, *own: Array) -> Any:
        return call(arrays, *own)

    @chunked.def_vmap
    def _(axis_size: int, in_batched: Any, arrays: Any, *own: Array) -> Any:
        if any(jax.tree.leaves(in_batched[0])):  # every pixel has its own endmembers: nothing to share
            axes = jax.tree.map(lambda batched: 0 if batched else None, list(in_batched))
            result = jax.vmap(call, axes)(arrays, *own)
        else:
            full = [
                x if batched else jnp.broadcast_to(x, (axis_size, *x.shape))
                for x, batched in zip(own, in_batched[1:], strict=True)
            ]
            chunk = max(1, min(size, axis_size))
            result = jax.lax.map(lambda one: call(arrays, *one), tuple(full), batch_size=chunk)
        return result, jax.tree.map(lambda _: True, result)

    @jax.custom_jvp
    def differentiable(arrays: Any, *own: Array) -> Any:
        return chunked(arrays, *own)

    @differentiable.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        return jax.jvp(call, primals, tangents)

    return differentiable(arrays, *own)


def whiten_rows(
    covariance: Float[Array, "rank rank"], rows: Float[Array, "row rank"]
) -> tuple[Float[Array, "row rank"], Float[Array, "rank rank"]]:
    """Rows times the inverse root of ``1 + covariance``, and its Cholesky factor.

    What rounding makes of the covariance counts as noise: where it is far greater than one, there would be no factor.
    """
    rounding = ROUNDING * jnp.finfo(covariance.dtype).eps * jnp.max(jnp.diag(covariance))
    return whiten(covariance + (1 + rounding) * jnp.eye(covariance.shape[0], dtype=covariance.dtype), rows)


def back(factor: Float[Array, "rank rank"], white: Float[Array, " rank"]) -> Float[Array, " rank"]:
    """From a whitened error ``L⁻¹ e`` to ``(1 + C)⁻¹ e = L⁻ᵀ L⁻¹ e``: what the noise has of it."""
    return solve_lower(factor, white[:, None], transpose=True)[:, 0]


def simplex_solve(
    endmembers: Float[Array, "endmember rank"],
    pixel: Float[Array, " rank"],
    slope: Float[Array, " endmember"] | None = None,
) -> Float[Array, " endmember"]:
    """argmin_x ½‖y − xE‖² + x·slope over the simplex, by single pivots and one refinement.

    Derivatives in the endmembers and the pixel by the implicit function theorem on the support.
    """
    if slope is None:
        return _solve(endmembers, pixel)
    # a coordinate of its own, so small in the endmembers and so large in the pixel that only the product counts
    small = jnp.asarray(1e-3, pixel.dtype)
    return _solve(jnp.concatenate([endmembers, small * slope[:, None]], 1), jnp.append(pixel, -1 / small))


@jax.custom_jvp
def _solve(endmembers: Array, pixel: Array) -> Array:
    return _solved(endmembers, pixel)


@jax.jit  # traced once for all places of a program
def _solved(endmembers: Array, pixel: Array) -> Array:
    factor, _, _ = directions(endmembers.T)
    gram = matmul(factor.T, factor)
    start, _ = pivot_solve(factor, gram, pixel, sum_to_one=True)
    solve = _bordered(gram, start > 0)
    point = start
    for _ in range(2):  # corrected with the gradient of the unsquared problem
        point = point + solve(matmul(endmembers, pixel - matmul(point, endmembers)))
    return jnp.where(jnp.all(point >= 0) & jnp.all(jnp.isfinite(point)), point / jnp.sum(point), start)


@_solve.defjvp
def _(primals: Any, tangents: Any) -> Any:
    endmembers, pixel = primals
    abundances = _solve(endmembers, pixel)

    def uphill(endmembers: Array, pixel: Array) -> Array:
        return matmul(endmembers, pixel - matmul(abundances, endmembers))

    _, change = jax.jvp(uphill, primals, tangents)
    return abundances, _bordered(matmul(endmembers, endmembers.T), abundances > 0)(change)


def frank_wolfe_gap(
    endmembers: Float[Array, "endmember rank"],
    pixel: Float[Array, " rank"],
    abundances: Float[Array, " endmember"],
    slope: Float[Array, " endmember"] | None = None,
) -> Float[Array, ""]:
    """Bound on the excess of the objective of `simplex_solve`, over ½‖y‖²; NaN where that is not finite."""
    gradient = matmul(endmembers, matmul(abundances, endmembers) - pixel) + (0.0 if slope is None else slope)
    excess = jnp.maximum(jnp.sum(gradient * abundances) - jnp.min(gradient), 0)
    energy = 0.5 * squared_norm(pixel)
    gap = jnp.where(energy > 0, excess / jnp.where(energy > 0, energy, 1.0), 0.0)
    return jnp.where(jnp.isfinite(energy), gap, jnp.nan)


def _bordered(gram: Array, inside: Array) -> Callable[[Array], Array]:
    """How abundances of the support, with a sum that stays, answer a force on them."""
    eps = jnp.finfo(gram.dtype).eps
    scale = jnp.max(jnp.diag(gram))
    scale = jnp.where(scale > 0, scale, 1.0)
    both = inside[:, None] & inside[None, :]
    matrix = jnp.where(both, gram, 0.0) + jnp.diag(jnp.where(inside, 20 * eps * scale, scale))
    answers = jnp.where(both, inverse(matrix), 0.0)
    ones, several = jnp.sum(answers, 1), jnp.sum(inside) > 1  # one alone cannot move, whatever rounding says

    def solve(right: Array) -> Array:
        answer = matmul(answers, right)
        return jnp.where(several, answer - ones * jnp.sum(answer) / jnp.sum(ones), 0.0)

    return solve


def support_covariance(
    endmembers: Float[Array, "endmember rank"], abundances: Float[Array, " endmember"]
) -> Float[Array, "endmember endmember"]:
    """Covariance of the abundances of the support under unit noise: (E Eᵀ)⁻¹ where the sum is held."""
    solve = _bordered(matmul(endmembers, endmembers.T), abundances > 0)
    covariance = jax.vmap(solve)(jnp.eye(abundances.shape[0], dtype=abundances.dtype))
    return 0.5 * (covariance + covariance.T)
