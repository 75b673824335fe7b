"""Exact penalised least squares over libraries of any size: a few members at a time, certified over all.

    minimise ½‖z − Fa‖² + Σ c_j a_j + ½ Σ d_j a_j²   over a ≥ 0, or over a ≥ 0 with Σa = 1

for many pixels, with linear costs c ≥ 0 and ridges d ≥ 0. Each pixel keeps the few members it needs, in slots. A round
takes the gradient of the whole library (one product for a chunk of pixels), lets the steepest member of each part of
the library in, and solves the small problem exactly, by a primal active set (Lawson and Hanson 1974) on a tableau of
principal pivots. The tableau comes from FᵀF, what it is asked from F itself: each round corrects the abundances by the
gradient of what is left of the pixel, so that float32 holds. Nothing is as large as the square of the library.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unmix_jax.linalg import matmul
from unmix_jax.solvers.worklist import State, work_off

__all__ = ["Dictionary", "dense", "excess_of", "solve_on_working_sets", "stiffness_of"]

CHUNK = 256
ROUNDS = 8  # of a chunk, after which it is put together again from pixels that are not done
MAX_CHUNK_ROUNDS = 24
PARTS = 4  # of the library, each of which may send one member a round
SIZES = (16, 32, 56)  # slots, the fewest that are enough
SLOTS = 80  # most members of a pixel, where the caller does not say
JITTER = 16  # units in the last place on the diagonal of FᵀF: what it cannot tell anyway
PATIENCE = 6  # rounds without progress

Terms = Callable[[State], tuple[Any, Any]]


class Dictionary(eqx.Module):
    """The reduced problem of a library: ``½‖z − Fa‖²``, and what bounds Σa."""

    factor: Float[Any, "latent member"]
    reach: Float[Any, "member"]
    gram: Float[Any, "member member"] | None  # of small libraries


def solve_on_working_sets(
    dictionary: Dictionary,
    z: Float[Array, "latent pixel"],
    terms: Terms,
    own: State,
    *,
    sum_to_one: bool,
    slots: int | None = None,
    start: State | None = None,
) -> State:
    """Solve for a batch of pixels.

    Args:
        dictionary: the library.
        z: the pixels, reduced.
        terms: from the state of a chunk to costs and ridges (None: none), each [pixel or 1, member or 1].
        own: what ``terms`` needs of each pixel, pixels last.
        sum_to_one: the simplex instead of the cone.
        slots: most members of a working set; None: one more than the rank can be, at most `SLOTS`.
        start: an earlier answer, whose supports are taken up.

    Returns:
        The state: ``members`` and ``amounts`` [slot, pixel], ``rest`` (z − Fa), ``steps``, ``objective``, ``excess``
        (bound on the objective minus its minimum), ``alone`` (no absent member could be as good).
    """
    latent, count = dictionary.factor.shape
    slots = min(count, slots or min(latent + 1, SLOTS))
    pixels, dtype = z.shape[1], z.dtype
    state = {
        "z": z,
        "members": jnp.full((slots, pixels), count, jnp.int32),
        "amounts": jnp.zeros((slots, pixels), dtype),
        "rest": z,
        "objective": jnp.full(pixels, jnp.nan, dtype),
        "excess": jnp.full(pixels, jnp.inf, dtype),
        "steps": jnp.zeros(pixels, jnp.int32),
        "alone": jnp.zeros(pixels, bool),
        "done": ~jnp.isfinite(jnp.sum(z, 0)),
    } | own
    if start is not None:
        state |= {"members": start["members"], "amounts": start["amounts"]}
    sizes = [size for size in SIZES if size < slots] + [slots]

    def advance(part: State) -> State:
        costs, ridges = terms(part)
        occupied = jnp.max(jnp.where(part["done"], 0, jnp.sum(part["amounts"] > 0, 0)))
        needed = occupied + PARTS
        branch = jnp.minimum(jnp.searchsorted(jnp.asarray(sizes), needed), len(sizes) - 1)
        own_names = ("z", "members", "amounts", "steps", "done")
        small = {name: jnp.moveaxis(part[name], -1, 0) for name in own_names}

        def with_slots(size: int) -> Callable[[State], State]:
            def run(small: State) -> State:
                found = _rounds(dictionary, costs, ridges, small, size, size == slots, sum_to_one)
                wide = ((0, 0), (0, slots - size))
                members = jnp.pad(found["members"], wide, constant_values=count)
                return found | {"members": members, "amounts": jnp.pad(found["amounts"], wide)}

            return run

        found = jax.lax.switch(branch, [with_slots(size) for size in sizes], small)
        new = {name: jnp.moveaxis(x, 0, -1) for name, x in found.items()}
        return part | {name: jnp.where(part["done"], part[name], value) for name, value in new.items()}

    state = work_off(advance, state, chunk=CHUNK, max_rounds=MAX_CHUNK_ROUNDS, constant=("z", *own))
    return state | {"excess": jnp.where(jnp.isfinite(state["excess"]), state["excess"], jnp.nan)}


def dense(members: Array, amounts: Array, count: int) -> Float[Array, "pixel member"]:
    """Abundances of all members, from working sets [pixel, slot]."""
    pixel = jnp.arange(len(members))[:, None]
    return jnp.zeros((len(members), count), amounts.dtype).at[pixel, members].add(amounts, mode="drop")


def _at(values: Any, members: Array) -> Array:
    """The values [pixel or 1, member or 1] of the members in each slot."""
    if values.shape[1] == 1:
        return jnp.broadcast_to(values, members.shape)
    values = jnp.broadcast_to(values, (len(members), values.shape[1]))
    return jnp.take_along_axis(values, jnp.minimum(members, values.shape[1] - 1), 1)


def _mixture(dictionary: Dictionary, members: Array, amounts: Array) -> Array:
    """``F a``."""
    if dictionary.gram is not None:
        return matmul(dense(members, amounts, dictionary.factor.shape[1]), dictionary.factor.T)
    return matmul(amounts[:, None], _columns(dictionary, members))[:, 0]


def _couplings(dictionary: Dictionary, members: Array, others: Array, scale: Array, sum_to_one: bool) -> Array:
    """FᵀF between the slots and other members, scaled, [pixel, slot, other]; a constant keeps it positive on the simplex."""
    if dictionary.gram is not None:
        there = members[..., None], others[:, None]
        product = dictionary.gram.at[there].get(mode="fill", fill_value=0.0)
    else:
        product = matmul(_columns(dictionary, members), _columns(dictionary, others).mT)
    return product / scale + (1.0 if sum_to_one else 0.0)


def _columns(dictionary: Dictionary, members: Array) -> Array:
    """Columns of F, zero for empty slots, [pixel, slot, latent]."""
    return dictionary.factor.T.at[members].get(mode="fill", fill_value=0.0)


def _times(tensor: Array, vector: Array) -> Array:
    """``tensor @ vector`` of each pixel."""
    return matmul(tensor, vector[..., None])[..., 0]


def _rounds(
    dictionary: Dictionary, costs: Any, ridges: Any, part: State, slots: int, most: bool, sum_to_one: bool
) -> State:
    """Rounds of a chunk on working sets of so many slots (``most``: there are no larger ones); pixels are first here."""
    factor = dictionary.factor
    count = factor.shape[1]
    z = part["z"]
    pixels, dtype = len(z), z.dtype
    eps = jnp.finfo(dtype).eps
    lengths = jnp.sum(factor**2, 0)
    scale = jnp.max(lengths)
    scale = jnp.where(scale > 0, scale, 1.0)
    norm = jnp.sqrt(jnp.sum(z**2, 1))
    # what rounding leaves of a gradient: on the cone it goes with the length of the member
    small = 8 * eps * (jnp.maximum(norm, jnp.sqrt(scale)) if sum_to_one else norm)[:, None]
    length = jnp.where(sum_to_one | (lengths <= 0), jnp.sqrt(scale), jnp.sqrt(lengths))
    size = slots + sum_to_one  # of the tableau: the multiplier of the sum is its last unknown
    pixel = jnp.arange(pixels)

    # supports first
    kept = part["amounts"] > 0
    place = jnp.where(kept, jnp.cumsum(kept, 1) - 1, slots)
    members = jnp.full((pixels, slots), count, jnp.int32).at[pixel[:, None], place].set(part["members"], mode="drop")
    amounts = jnp.zeros((pixels, slots), dtype).at[pixel[:, None], place].set(part["amounts"], mode="drop")
    if sum_to_one:  # from nothing: the nearest vertex
        half = 0.5 * lengths + costs - matmul(z, factor) + (0.0 if ridges is None else 0.5 * ridges)
        fresh = ~jnp.any(kept, 1)
        members = members.at[:, 0].set(jnp.where(fresh, jnp.argmin(half, 1).astype(jnp.int32), members[:, 0]))
        amounts = amounts.at[:, 0].set(jnp.where(fresh, 1.0, amounts[:, 0]))

    tableau = _tableau(dictionary, ridges, members, scale, sum_to_one)
    tableau, inside = _take_up(tableau, amounts > 0, ~part["done"], sum_to_one)
    amounts = _feasible(jnp.where(inside[:, :slots], amounts, 0.0), sum_to_one)

    def one_round(state: State) -> State:
        members, amounts, inside = state["members"], state["amounts"], state["inside"]
        rest = z - _mixture(dictionary, members, amounts)
        gradient = costs - matmul(rest, factor)
        cost, ridge = _at(costs, members), None if ridges is None else _at(ridges, members)
        objective = 0.5 * jnp.sum(rest**2, 1) + jnp.sum(cost * amounts, 1)
        if ridge is not None:
            gradient = gradient + ridges * dense(members, amounts, count)
            objective = objective + 0.5 * jnp.sum(ridge * amounts**2, 1)
        own = jnp.where(members < count, gradient.at[pixel[:, None], members].get(mode="clip"), 0.0)
        slack = jnp.sum(own * amounts, 1)
        excess = excess_of(dictionary, gradient, costs, slack, objective, norm, sum_to_one)
        absent = jnp.where(inside[:, :slots], members, count)
        outside = gradient.at[pixel[:, None], absent].set(jnp.inf, mode="drop")
        common = slack if sum_to_one else jnp.zeros(pixels, dtype)

        candidates, descent = _candidates((outside - common[:, None]) / length, PARTS)
        wanted = (descent < -small) & (descent < 0.1 * descent[:, :1])
        falls = objective < state["objective"] - 4 * eps * norm**2
        closer = excess < 0.7 * state["excess"]
        patience = jnp.where(falls | closer, PATIENCE, state["patience"] - 1)
        live = ~state["done"] & ~state["leaves"]
        now = {
            "members": members, "amounts": amounts, "rest": rest, "objective": objective, "excess": excess,
            "alone": jnp.min((outside - common[:, None]) / length, 1) > small[:, 0],
        }  # fmt: skip
        best = _chosen(live & ~(excess > state["excess"]), now, state["best"])

        # candidates take the slots that are free
        free = ~inside[:, :slots]
        nobody = ~jnp.any(wanted, 1) | (most & ~jnp.any(free, 1))
        finished = (nobody & state["settled"]) | (patience <= 0)
        crowded = jnp.sum(free, 1) < jnp.minimum(jnp.sum(wanted, 1), 2)
        leaves = live & ~finished & (crowded & (not most) | (state["round"] == ROUNDS - 1))
        active = live & ~finished & ~leaves
        rank = jnp.cumsum(free, 1) - 1
        sent = jnp.minimum(rank, candidates.shape[1] - 1)
        new = free & (rank < candidates.shape[1]) & jnp.take_along_axis(wanted, sent, 1) & active[:, None]
        members = jnp.where(new, jnp.take_along_axis(candidates, sent, 1), jnp.where(free, count, members))
        members = jnp.where(active[:, None], members, state["members"])
        slot = jnp.stack([jnp.argmax(new & (rank == k), 1) for k in range(candidates.shape[1])], 1)
        exists = jnp.stack([jnp.any(new & (rank == k), 1) for k in range(candidates.shape[1])], 1)
        couple = _couplings(dictionary, members, candidates, scale, sum_to_one)
        self = (jnp.arange(slots)[:, None] == slot[:, None]) & exists[:, None]
        couple = couple + jnp.where(self, _ridge(ridges, candidates, count, scale)[:, None], 0.0)
        if sum_to_one:
            couple = jnp.concatenate([couple, jnp.ones_like(couple[:, :1])], 1)
        tableau = _extended(state["tableau"], inside, jnp.where(exists, slot, size), couple, sum_to_one)

        # what the tableau says of the point, from the gradient of what is left
        local = jnp.where(members < count, gradient.at[pixel[:, None], members].get(mode="clip"), 1.0) / scale
        local = jnp.where(free & ~new, 1.0, local)
        known = jnp.where(inside[:, :slots], amounts, local)
        if sum_to_one:
            off = jnp.sum(amounts, 1, keepdims=True) - 1
            local, known = jnp.concatenate([local, off], 1), jnp.concatenate([known, 0 * off], 1)
        shift = _times(tableau[..., :-1], jnp.where(inside, local, 0.0))
        tableau = tableau.at[..., -1].set(known - shift)
        limit = 0.5 * small * _at(length[None], members) / scale
        tableau, inside, point, turns = _descend(tableau, inside, members < count, amounts, active, limit, sum_to_one)
        return {
            "members": members, "amounts": jnp.where(active[:, None], point, state["amounts"]), "inside": inside,
            "tableau": tableau, "patience": patience, "settled": turns == 0,
            "best": best, "now": _chosen(live, now, state["now"]), "leaves": state["leaves"] | leaves,
            "objective": jnp.where(live, objective, state["objective"]),
            "excess": jnp.where(live, jnp.minimum(excess, state["excess"]), state["excess"]),
            "steps": state["steps"] + turns + active, "done": state["done"] | (live & finished), "round": state["round"] + 1,
        }  # fmt: skip

    best = {
        "members": members, "amounts": amounts, "rest": z, "objective": jnp.full(pixels, jnp.nan, dtype),
        "excess": jnp.full(pixels, jnp.inf, dtype), "alone": jnp.zeros(pixels, bool),
    }  # fmt: skip
    state = {
        "members": members, "amounts": amounts, "inside": inside, "tableau": tableau,
        "patience": jnp.full(pixels, PATIENCE, jnp.int32), "settled": jnp.zeros(pixels, bool),
        "best": best, "now": best, "leaves": jnp.zeros(pixels, bool),
        "objective": jnp.full(pixels, jnp.inf, dtype), "excess": jnp.full(pixels, jnp.inf, dtype),
        "steps": part["steps"], "done": part["done"], "round": jnp.asarray(0),
    }  # fmt: skip
    state = jax.lax.while_loop(lambda s: jnp.any(~s["done"] & ~s["leaves"]), one_round, state)
    found = _chosen(state["done"], state["best"], state["now"])
    return found | {"steps": state["steps"], "done": state["done"]}


def _chosen(mask: Array, new: State, old: State) -> State:
    """New values of the pixels of the mask, old ones of the others."""
    return {k: jnp.where(mask.reshape(-1, *[1] * (v.ndim - 1)), v, old[k]) for k, v in new.items()}


def _feasible(amounts: Array, sum_to_one: bool) -> Array:
    """Amounts whose sum is one, where it has to be."""
    if not sum_to_one:
        return amounts
    total = jnp.sum(amounts, 1, keepdims=True)
    return amounts / jnp.where(total > 0, total, 1.0)


def stiffness_of(
    dictionary: Dictionary,
    ridges: Array,
    members: Array,
    amounts: Array,
    reduce: Callable[[Array, Array], Array],
    sum_to_one: bool,
) -> Array:
    """How the amounts of a chunk answer to their ridges: ``a_j a_k [(FᵀF + D)⁻¹]_jk``, on the simplex where asked for.

    ``−2`` times the sum over the members j of a group and k of another is the derivative of the squared norm of the one in
    the ridge of the other.

    Args:
        dictionary: the library.
        ridges: of the members, [pixel or 1, member].
        members: working sets [pixel, slot], supports first.
        amounts: of the members [pixel, slot].
        reduce: from [pixel, slot, slot] and members [pixel, slot] to what is wanted of them.
        sum_to_one: whether Σa = 1.
    """
    pixels, slots = members.shape
    scale = jnp.max(jnp.sum(dictionary.factor**2, 0))
    scale = jnp.where(scale > 0, scale, 1.0)
    sizes = [few for few in SIZES if few < slots] + [slots]

    def with_slots(few: int) -> Callable[[], Array]:
        def terms() -> Array:
            chosen, amount = members[:, :few], amounts[:, :few]
            tableau = _tableau(dictionary, ridges, chosen, scale, sum_to_one)
            tableau, inside = _take_up(tableau, amount > 0, jnp.any(amount > 0, 1), sum_to_one)
            inside = inside[:, :few]
            inverse = jnp.where(inside[:, :, None] & inside[:, None], tableau[:, :few, :few], 0.0)
            return reduce(inverse * amount[:, :, None] * amount[:, None] / scale, chosen)

        return terms

    needed = jnp.max(jnp.sum(amounts > 0, 1))
    branch = jnp.minimum(jnp.searchsorted(jnp.asarray(sizes), needed), len(sizes) - 1)
    return jax.lax.switch(branch, [with_slots(few) for few in sizes])


def _ridge(ridges: Any, members: Array, count: int, scale: Array) -> Array:
    """What is added to the diagonal of FᵀF, scaled; one for empty slots."""
    ridge = 0.0 if ridges is None else _at(ridges, members) / scale
    return jnp.where(members < count, ridge + JITTER * jnp.finfo(scale.dtype).eps, 1.0)


def _tableau(dictionary: Dictionary, ridges: Any, members: Array, scale: Array, sum_to_one: bool) -> Array:
    """``y = K x + c`` of these members, c = 0 in the last column; the multiplier of the sum is the last unknown."""
    pixels, slots = members.shape
    matrix = _couplings(dictionary, members, members, scale, sum_to_one)
    ridge = _ridge(ridges, members, dictionary.factor.shape[1], scale)
    matrix = matrix + jnp.eye(slots, dtype=matrix.dtype) * ridge[:, None]
    if sum_to_one:
        edge = jnp.ones((pixels, slots, 1), matrix.dtype)
        matrix = jnp.concatenate([matrix, -edge], 2)
        matrix = jnp.concatenate([matrix, jnp.concatenate([edge, jnp.zeros_like(edge[:, :1])], 1).mT], 1)
    return jnp.concatenate([matrix, jnp.zeros_like(matrix[..., :1])], 2)


def excess_of(
    dictionary: Dictionary, gradient: Array, costs: Any, slack: Array, value: Array, norm: Array, sum_to_one: bool
) -> Array:
    """Bound on the objective minus its minimum.

    Simplex: ``g·a − min g``. Cone: ``g·a + Σ a*_j (−g_j)₊`` at the unknown minimum a*, of which two things are sure:
    ``Σ a*_j f_j·u ≤ ‖z‖`` along the mean direction u of the library, and ``Σ c_j a*_j`` is no more than the objective
    here. The smaller bound counts; infinite where there is none.
    """
    if sum_to_one:
        return jnp.maximum(slack - jnp.min(gradient, 1), 0)
    downhill = jnp.maximum(-gradient, 0)

    def worst(scale: Any) -> Array:
        ratio = downhill / jnp.where(scale > 0, scale, 1.0)
        return jnp.max(jnp.where(downhill > 0, jnp.where(scale > 0, ratio, jnp.inf), 0.0), 1)

    return jnp.maximum(slack, 0) + jnp.minimum(norm * worst(dictionary.reach), value * worst(costs))


def _candidates(gradient: Array, parts: int) -> tuple[Array, Array]:
    """The steepest member of each part of the library and its gradient, the steepest first, [pixel, part]."""
    pixels, count = gradient.shape
    parts = min(parts, count)
    length = -(-count // parts)
    padded = jnp.pad(gradient, ((0, 0), (0, parts * length - count)), constant_values=jnp.inf)
    padded = padded.reshape(pixels, parts, length)
    best = jnp.argmin(padded, 2).astype(jnp.int32) + length * jnp.arange(parts, dtype=jnp.int32)
    value = jnp.min(padded, 2)
    order = jnp.argsort(value, 1)
    return jnp.take_along_axis(best, order, 1), jnp.take_along_axis(value, order, 1)


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


def _take_up(tableau: Array, support: Array, active: Array, sum_to_one: bool) -> tuple[Array, Array]:
    """Pivot the support in, slot after slot; what depends on the rest of it stays out."""
    pixels, size = tableau.shape[:2]
    slots = support.shape[1]
    tight = 4 * jnp.finfo(tableau.dtype).eps
    inside = jnp.zeros((pixels, size), bool)
    first = 0
    if sum_to_one:
        for chosen in (0, slots):
            tableau = _pivot(tableau, jnp.full(pixels, chosen), active)
            inside = inside.at[:, chosen].set(active)
        first = 1

    def step(slot: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        tableau, inside = carry
        moves = active & support[:, slot] & (tableau[:, slot, slot] > tight)
        return _pivot(tableau, jnp.full(pixels, slot), moves), inside.at[:, slot].set(moves)

    occupied = jnp.max(jnp.where(active, jnp.sum(support, 1), 0))
    return jax.lax.fori_loop(first, occupied, step, (tableau, inside))


def _extended(tableau: Array, inside: Array, slot: Array, couple: Array, sum_to_one: bool) -> Array:
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


def _descend(
    tableau: Array, inside: Array, filled: Array, point: Array, active: Array, limit: Array, sum_to_one: bool
) -> tuple[Array, Array, Array, Array]:
    """The small problem by single pivots from a point of its feasible set: tableau, support, point and pivots."""
    pixels, slots = filled.shape
    eps = jnp.finfo(tableau.dtype).eps
    slot = jnp.arange(inside.shape[1])

    def step(state: Any) -> Any:
        tableau, inside, point, turns, done = state
        constant, within = tableau[:, :slots, -1], inside[:, :slots]
        goal = jnp.where(within, constant, 0.0)
        blocked = within & (goal < 0)
        hit = jnp.any(blocked, 1)
        # back to the boundary along the way, and out with the member that was hit
        fraction = jnp.where(blocked, point / jnp.where(blocked, point - goal, 1.0), jnp.inf)
        leaving = jnp.argmin(fraction, 1)
        way = jnp.clip(jnp.min(fraction, 1), 0, 1)[:, None]
        walked = jnp.where(slot[:slots] == leaving[:, None], 0.0, jnp.maximum(point + way * (goal - point), 0))
        # or in with the member of steepest descent, unless it depends on those that are in
        diagonal = jnp.diagonal(tableau[:, :slots, :slots], axis1=1, axis2=2)
        descent = jnp.where(within | ~filled | (diagonal < 4 * eps), jnp.inf, constant)
        entering = jnp.argmin(descent / limit, 1)
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
    return tableau, inside, _feasible(jnp.maximum(point, 0), sum_to_one), turns
