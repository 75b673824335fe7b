"""Tableaux of few members each: the small problems inside `working_set`, for many pixels at once.

With unknowns ``x`` (abundances, and the multiplier of their sum) and ``y = K x + c`` (gradients), a pivot exchanges one
x for its y. The block of what is pivoted in is then the inverse of FᵀF + D on the support, and the last column holds
the abundances inside and the reduced gradients outside. Pixels are first, members sit in slots, and a slot that holds
the number of members of the library is empty.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unmix_jax.linalg import least, matmul

__all__ = [
    "Dictionary", "at", "couplings", "dense", "descend", "diagonal", "extended", "feasible", "mixture", "nearest",
    "stiffness_of", "tableau_of", "take_up",
]  # fmt: skip

SIZES = (16, 32, 56)  # slots, the fewest that are enough
JITTER = 1  # units in the last place on the diagonal of FᵀF
INDEPENDENT = 100  # units in the last place of its squared length: closer to the span of the support a member depends


class Dictionary(eqx.Module):
    """The reduced problem of a library: ``½‖z − Fa‖²``, and what bounds Σa."""

    factor: Float[Any, "latent member"]
    reach: Float[Any, " member"]
    gram: Float[Any, "member member"] | None  # of small libraries


def dense(members: Array, amounts: Array, count: int) -> Float[Array, "pixel member"]:
    """Abundances of all members, from working sets [pixel, slot]."""
    pixel = jnp.arange(len(members))[:, None]
    return jnp.zeros((len(members), count), amounts.dtype).at[pixel, members].add(amounts, mode="drop")


def at(values: Any, members: Array) -> Array:
    """The values [pixel or 1, member or 1] of the members in each slot."""
    if values.shape[1] == 1:
        return jnp.broadcast_to(values, members.shape)
    values = jnp.broadcast_to(values, (len(members), values.shape[1]))
    return jnp.take_along_axis(values, jnp.minimum(members, values.shape[1] - 1), 1)


def mixture(dictionary: Dictionary, members: Array, amounts: Array) -> Array:
    """``F a``."""
    if dictionary.gram is not None:
        return matmul(dense(members, amounts, dictionary.factor.shape[1]), dictionary.factor.T)
    return matmul(amounts[:, None], _columns(dictionary, members))[:, 0]


def couplings(dictionary: Dictionary, members: Array, others: Array, scale: Array, sum_to_one: bool) -> Array:
    """FᵀF between slots and others, scaled, [pixel, slot, other]; a constant keeps it definite on the simplex."""
    if dictionary.gram is not None:
        there = members[..., None], others[:, None]
        product = dictionary.gram.at[there].get(mode="fill", fill_value=0.0)
    else:
        product = matmul(_columns(dictionary, members), _columns(dictionary, others).mT)
    return product / scale + (1.0 if sum_to_one else 0.0)


def _columns(dictionary: Dictionary, members: Array) -> Array:
    """Columns of F, zero for empty slots, [pixel, slot, latent]."""
    return dictionary.factor.T.at[members].get(mode="fill", fill_value=0.0)


def stiffness_of(
    dictionary: Dictionary,
    ridges: Array,
    members: Array,
    amounts: Array,
    reduce: Callable[[Array, Array], Array],
    sum_to_one: bool,
) -> Array:
    """How the amounts of a chunk answer to their ridges: ``a_j a_k [(FᵀF + D)⁻¹]_jk``, on the simplex where asked for.

    ``−2`` times the sum over the members j of a group and k of another is the derivative of the squared norm of the
    one in the ridge of the other.

    Args:
        dictionary: the library.
        ridges: of the members, [pixel or 1, member].
        members: working sets [pixel, slot], supports first.
        amounts: of the members [pixel, slot].
        reduce: from [pixel, slot, slot] and members [pixel, slot] to what is wanted of them.
        sum_to_one: whether Σa = 1.
    """
    slots = members.shape[1]
    scale = jnp.max(jnp.sum(dictionary.factor**2, 0))
    scale = jnp.where(scale > 0, scale, 1.0)
    sizes = [few for few in SIZES if few < slots] + [slots]

    def with_slots(few: int) -> Callable[[], Array]:
        def terms() -> Array:
            chosen, amount = members[:, :few], amounts[:, :few]
            tableau = tableau_of(dictionary, ridges, chosen, scale, sum_to_one)
            tableau, inside = take_up(tableau, amount > 0, jnp.any(amount > 0, 1), sum_to_one)
            inside = inside[:, :few]
            inverse = jnp.where(inside[:, :, None] & inside[:, None], tableau[:, :few, :few], 0.0)
            return reduce(inverse * amount[:, :, None] * amount[:, None] / scale, chosen)

        return terms

    needed = jnp.max(jnp.sum(amounts > 0, 1))
    branch = jnp.minimum(jnp.searchsorted(jnp.asarray(sizes), needed), len(sizes) - 1)
    return jax.lax.switch(branch, [with_slots(few) for few in sizes])


def diagonal(ridges: Any, members: Array, count: int, scale: Array) -> Array:
    """What is added to the diagonal of FᵀF, scaled; one for empty slots."""
    ridge = 0.0 if ridges is None else at(ridges, members) / scale
    return jnp.where(members < count, ridge + JITTER * jnp.finfo(scale.dtype).eps, 1.0)


def nearest(dictionary: Dictionary, ridges: Any, members: Array, scale: Array, sum_to_one: bool) -> Array:
    """Squared distance from the span of the support below which members depend on it; infinite for empty slots."""
    lengths = jnp.sum(dictionary.factor**2, 0)[None] / scale
    squares = at(lengths, members) + diagonal(ridges, members, lengths.shape[1], scale) + (1.0 if sum_to_one else 0.0)
    tight = INDEPENDENT * jnp.finfo(squares.dtype).eps * squares
    return jnp.where(members < lengths.shape[1], tight, jnp.inf)


def tableau_of(dictionary: Dictionary, ridges: Any, members: Array, scale: Array, sum_to_one: bool) -> Array:
    """``y = K x + c`` of these members, c = 0 in the last column; the multiplier of the sum is the last unknown."""
    pixels, slots = members.shape
    matrix = couplings(dictionary, members, members, scale, sum_to_one)
    ridge = diagonal(ridges, members, dictionary.factor.shape[1], scale)
    matrix = matrix + jnp.eye(slots, dtype=matrix.dtype) * ridge[:, None]
    if sum_to_one:
        edge = jnp.ones((pixels, slots, 1), matrix.dtype)
        matrix = jnp.concatenate([matrix, -edge], 2)
        matrix = jnp.concatenate([matrix, jnp.concatenate([edge, jnp.zeros_like(edge[:, :1])], 1).mT], 1)
    return jnp.concatenate([matrix, jnp.zeros_like(matrix[..., :1])], 2)


def _pivot(tableau: Array, chosen: Array, moves: Array) -> Array:
    """Principal pivot transform: exchange of ``x`` and ``y`` of one unknown of each pixel."""
    pixel = jnp.arange(len(tableau))
    row, column = jax.lax.optimization_barrier((tableau[pixel, chosen], tableau[pixel, :, chosen]))
    inverse = 1 / jnp.where(moves, jnp.take_along_axis(row, chosen[:, None], 1)[:, 0], 1.0)[:, None]
    across, down = row * inverse, column * inverse
    across = jnp.where(moves[:, None], across, 0.0)
    new = tableau - column[:, :, None] * across[:, None, :]
    here = jnp.arange(row.shape[1]) == chosen[:, None]
    chosen = jnp.where(moves, chosen, len(column[0]))
    new = new.at[pixel, :, jnp.where(moves, chosen, row.shape[1])].set(down, mode="drop")
    return new.at[pixel, chosen].set(jnp.where(here, inverse, -across), mode="drop")


def take_up(tableau: Array, support: Array, active: Array, sum_to_one: bool) -> tuple[Array, Array]:
    """Pivot the support in, slot after slot; what depends on the rest of it stays out."""
    pixels, size = tableau.shape[:2]
    slots = support.shape[1]
    tight = INDEPENDENT * jnp.finfo(tableau.dtype).eps * jnp.diagonal(tableau[:, :slots, :slots], axis1=1, axis2=2)
    inside = jnp.zeros((pixels, size), bool)
    first = 0
    if sum_to_one:
        for chosen in (0, slots):
            tableau = _pivot(tableau, jnp.full(pixels, chosen), active)
            inside = inside.at[:, chosen].set(active)
        first = 1

    def step(slot: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        tableau, inside = carry
        moves = active & support[:, slot] & (tableau[:, slot, slot] > tight[:, slot])
        return _pivot(tableau, jnp.full(pixels, slot), moves), inside.at[:, slot].set(moves)

    occupied = jnp.max(jnp.where(active, jnp.sum(support, 1), 0))
    return jax.lax.fori_loop(first, occupied, step, (tableau, inside))


def extended(tableau: Array, inside: Array, slot: Array, couple: Array, sum_to_one: bool) -> Array:
    """The tableau with candidates in these slots; ``couple`` is their part of K, [pixel, unknown, candidate].

    Members that went out before stay in their slots without tie to the new ones: they may not come in.
    """
    size = tableau.shape[1]
    pixel = jnp.arange(len(tableau))[:, None]
    within = inside[..., None]
    inner = jnp.where(within, couple, 0.0)
    column = jnp.where(within, -matmul(tableau[..., :size], inner), 0.0)  # x of the support, per candidate
    turned = (inner.at[:, -1].multiply(-1.0) if sum_to_one else inner).mT  # Kᵀ: the multiplier has the other sign
    row = jnp.where(inside[:, None], matmul(turned, tableau[..., :size]), 0.0)
    corner = jnp.take_along_axis(couple, jnp.minimum(slot, size - 1)[..., None], 1) + matmul(turned, column)
    tableau = tableau.at[pixel, :, slot].set(column.mT, mode="drop")
    tableau = tableau.at[pixel, slot, :size].set(row, mode="drop")
    return tableau.at[pixel[..., None], slot[..., None], slot[:, None]].set(corner, mode="drop")


def feasible(amounts: Array, sum_to_one: bool) -> Array:
    """Amounts whose sum is one, where it has to be."""
    if not sum_to_one:
        return amounts
    total = jnp.sum(amounts, 1, keepdims=True)
    return amounts / jnp.where(total > 0, total, 1.0)


def descend(
    tableau: Array, inside: Array, tight: Array, point: Array, active: Array, limit: Array, sum_to_one: bool
) -> tuple[Array, Array, Array, Array]:
    """The small problem by single pivots from a point of its feasible set: tableau, support, point and pivots.

    In comes who descends by more than ``limit`` and is farther than ``tight`` (squared) from the span of the support.
    """
    pixels, slots = tight.shape
    slot = jnp.arange(inside.shape[1])

    def step(state: Any) -> Any:
        tableau, inside, point, turns, done = state
        constant, within = tableau[:, :slots, -1], inside[:, :slots]
        goal = jnp.where(within, constant, 0.0)
        blocked = within & (goal < 0)
        hit = jnp.any(blocked, 1)
        # back to the boundary along the way, and out with the member that was hit
        fraction = jnp.where(blocked, point / jnp.where(blocked, point - goal, 1.0), jnp.inf)
        leaving = least(fraction)
        way = jnp.clip(jnp.min(fraction, 1), 0, 1)[:, None]
        walked = jnp.where(slot[:slots] == leaving[:, None], 0.0, jnp.maximum(point + way * (goal - point), 0))
        # or in with the member of steepest descent, unless it depends on those that are in
        diagonal = jnp.diagonal(tableau[:, :slots, :slots], axis1=1, axis2=2)
        descent = jnp.where(within | ~(diagonal > tight), jnp.inf, constant)
        entering = least(descent / limit)
        optimal = ~hit & ~jnp.any(descent < -limit, 1)
        chosen = jnp.where(hit, leaving, entering)
        moves = ~done & ~optimal
        point = jnp.where(done[:, None], point, jnp.where(hit[:, None], walked, goal))
        flips = (slot == chosen[:, None]) & moves[:, None]
        return _pivot(tableau, chosen, moves), inside ^ flips, point, turns + moves, done | optimal

    def unfinished(state: Any) -> Array:
        return jnp.any(~state[-1] & (state[-2] < 3 * slots + 20))

    state = (tableau, inside, point, jnp.zeros(pixels, jnp.int32), ~active)
    tableau, inside, point, turns, _ = jax.lax.while_loop(unfinished, step, state)
    return tableau, inside, feasible(jnp.maximum(point, 0), sum_to_one), turns
