"""The solver that is always right: primal active set on a principal-pivot tableau, one pivot a step.

The Karush-Kuhn-Tucker conditions are linear: with the unknowns ``x = (a, λ)`` and the tableau ``y = K x + c``, a
support is a set of pivots. The tableau shows both the abundances inside the support and the reduced gradient
outside, and its diagonal the squared distance of each endmember to the span of the support: an endmember that
depends on the others is never let in, so duplicates and rank-deficient libraries are harmless. The objective falls
with every accepted point (Lawson and Hanson 1974; Best 1984 for the equality constraint).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unmix_jax.linalg import least, matmul

__all__ = ["pivot_solve"]


def pivot_solve(
    factor: Float[Array, "latent endmember"],
    gram: Float[Array, "endmember endmember"],
    z: Float[Array, " latent"],
    *,
    sum_to_one: bool,
) -> tuple[Float[Array, " endmember"], Int[Array, ""]]:
    """Abundances of one pixel by single pivots, and how many it took.

    Minimises ½‖z − Fa‖² over a ≥ 0 (and Σa = 1), with the Gram matrix FᵀF. At most 6 R + 20 pivots are made.
    """
    count = factor.shape[1]
    eps = jnp.finfo(z.dtype).eps
    scale = jnp.trace(gram) / count
    scale = jnp.where(scale > 0, scale, 1.0)
    shift = scale if sum_to_one else 0.0  # constant on the simplex; keeps every diagonal positive
    gram = gram + shift
    target = matmul(z, factor) + shift
    lagrange = jnp.ones((count, 1), z.dtype) if sum_to_one else jnp.zeros((count, 1), z.dtype)
    tableau = jnp.block([[gram, -lagrange], [lagrange.T, jnp.zeros((1, 1), z.dtype)]])
    constant = jnp.append(-target, -1.0 if sum_to_one else 0.0)
    diagonal = jnp.diag(gram)
    small = 30 * eps * jnp.maximum(jnp.max(jnp.abs(target)), scale)

    def pivot(tableau: Array, constant: Array, p: Array) -> tuple[Array, Array]:
        """Principal pivot transform: exchange ``x_p`` and ``y_p``."""
        inverse = 1 / tableau[p, p]
        row, column = tableau[p] * inverse, tableau[:, p]
        new = tableau - column[:, None] * row[None, :]
        new = new.at[p].set(-row).at[:, p].set(column * inverse).at[p, p].set(inverse)
        shift = constant[p] * inverse
        return new, (constant - column * shift).at[p].set(-shift)

    inside = jnp.zeros(count, bool)
    point = jnp.zeros(count, z.dtype)
    if sum_to_one:  # start at the nearest vertex
        vertex = least(0.5 * diagonal - target)
        tableau, constant = pivot(tableau, constant, vertex)
        tableau, constant = pivot(tableau, constant, jnp.asarray(count))
        inside = inside.at[vertex].set(True)
        point = point.at[vertex].set(1.0)

    def unfinished(state: Any) -> Array:
        return ~state[-1] & (state[-2] < 6 * count + 20)

    def step(state: Any) -> Any:
        tableau, constant, inside, point, steps, _ = state
        goal = jnp.where(inside, constant[:count], 0.0)
        blocked = inside & (goal < -10 * eps)
        # back to the boundary along the way, and out with the endmember that was hit
        fraction = jnp.where(blocked, point / jnp.where(blocked, point - goal, 1.0), jnp.inf)
        leaving = least(fraction)
        hit = jnp.any(blocked)
        walked = jnp.maximum(point + jnp.clip(fraction[leaving], 0, 1) * (goal - point), 0).at[leaving].set(0)
        # or in with the endmember of steepest descent, unless it depends on those that are in
        independent = jnp.diag(tableau)[:count] > 100 * eps * jnp.maximum(diagonal, scale * eps)
        descent = jnp.where(inside | ~independent, jnp.inf, constant[:count])
        entering = least(descent)
        optimal = ~hit & ~(descent[entering] < -small)
        chosen = jnp.where(hit, leaving, entering)
        moved = pivot(tableau, constant, chosen)
        tableau = jnp.where(optimal, tableau, moved[0])
        constant = jnp.where(optimal, constant, moved[1])
        inside = jnp.where(optimal, inside, inside.at[chosen].set(~inside[chosen]))
        point = jnp.where(hit, walked, goal)
        return tableau, constant, inside, point, steps + 1, optimal

    state = (tableau, constant, inside, point, jnp.asarray(0, jnp.int32), jnp.asarray(False))
    _, _, _, point, steps, _ = jax.lax.while_loop(unfinished, step, state)
    point = jnp.maximum(point, 0)
    return (point / jnp.sum(point) if sum_to_one else point), steps
