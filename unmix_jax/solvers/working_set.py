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

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unmix_jax.linalg import least, matmul
from unmix_jax.solvers.tableau import (
    SIZES,
    Dictionary,
    at,
    couplings,
    dense,
    descend,
    diagonal,
    extended,
    feasible,
    mixture,
    nearest,
    tableau_of,
    take_up,
)
from unmix_jax.solvers.worklist import State, work_off

__all__ = ["CHUNK", "empty", "excess_of", "solve_on_working_sets"]

CHUNK = 256
ROUNDS = 8  # of a chunk, after which it is put together again from pixels that are not done
MAX_CHUNK_ROUNDS = 24
PARTS = 4  # of the library, each of which may send one member a round
SLOTS = 80  # most members of a pixel, where the caller does not say
PATIENCE = 6  # rounds without progress

Terms = Callable[[State], tuple[Any, Any]]


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
    count = dictionary.factor.shape[1]
    state = empty(dictionary, z, slots) | own
    slots = len(state["members"])
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


def empty(dictionary: Dictionary, z: Float[Array, "latent pixel"], slots: int | None) -> State:
    """The state before anything is known."""
    latent, count = dictionary.factor.shape
    slots = min(count, slots or min(latent + 1, SLOTS))
    pixels, dtype = z.shape[1], z.dtype
    return {
        "z": z,
        "members": jnp.full((slots, pixels), count, jnp.int32),
        "amounts": jnp.zeros((slots, pixels), dtype),
        "rest": z,
        "objective": jnp.full(pixels, jnp.nan, dtype),
        "excess": jnp.full(pixels, jnp.inf, dtype),
        "steps": jnp.zeros(pixels, jnp.int32),
        "alone": jnp.zeros(pixels, bool),
        "done": ~jnp.isfinite(jnp.sum(z, 0)),
    }


def _times(tensor: Array, vector: Array) -> Array:
    """``tensor @ vector`` of each pixel."""
    return matmul(tensor, vector[..., None])[..., 0]


def _rounds(
    dictionary: Dictionary, costs: Any, ridges: Any, part: State, slots: int, most: bool, sum_to_one: bool
) -> State:
    """Rounds of a chunk on working sets of so many slots (``most``: there are no more); pixels are first here."""
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
        members = members.at[:, 0].set(jnp.where(fresh, least(half), members[:, 0]))
        amounts = amounts.at[:, 0].set(jnp.where(fresh, 1.0, amounts[:, 0]))

    tableau = tableau_of(dictionary, ridges, members, scale, sum_to_one)
    tableau, inside = take_up(tableau, amounts > 0, ~part["done"], sum_to_one)
    amounts = feasible(jnp.where(inside[:, :slots], amounts, 0.0), sum_to_one)

    def one_round(state: Any) -> Any:
        members, amounts, inside = state["members"], state["amounts"], state["inside"]
        rest = z - mixture(dictionary, members, amounts)
        gradient = costs - matmul(rest, factor)
        cost, ridge = at(costs, members), None if ridges is None else at(ridges, members)
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
        slot = jnp.stack([least(jnp.where(new & (rank == k), 0.0, 1.0)) for k in range(candidates.shape[1])], 1)
        exists = jnp.stack([jnp.any(new & (rank == k), 1) for k in range(candidates.shape[1])], 1)
        couple = couplings(dictionary, members, candidates, scale, sum_to_one)
        self = (jnp.arange(slots)[:, None] == slot[:, None]) & exists[:, None]
        couple = couple + jnp.where(self, diagonal(ridges, candidates, count, scale)[:, None], 0.0)
        if sum_to_one:
            couple = jnp.concatenate([couple, jnp.ones_like(couple[:, :1])], 1)
        tableau = extended(state["tableau"], inside, jnp.where(exists, slot, size), couple, sum_to_one)

        # what the tableau says of the point, from the gradient of what is left
        local = jnp.where(members < count, gradient.at[pixel[:, None], members].get(mode="clip"), 1.0) / scale
        local = jnp.where(free & ~new, 1.0, local)
        known = jnp.where(inside[:, :slots], amounts, local)
        if sum_to_one:
            off = jnp.sum(amounts, 1, keepdims=True) - 1
            local, known = jnp.concatenate([local, off], 1), jnp.concatenate([known, 0 * off], 1)
        shift = _times(tableau[..., :-1], jnp.where(inside, local, 0.0))
        tableau = tableau.at[..., -1].set(known - shift)
        limit = 0.5 * small * at(length[None], members) / scale
        tight = nearest(dictionary, ridges, members, scale, sum_to_one)
        tableau, inside, point, turns = descend(tableau, inside, tight, amounts, active, limit, sum_to_one)
        return {
            "members": members, "amounts": jnp.where(active[:, None], point, state["amounts"]), "inside": inside,
            "tableau": tableau, "patience": patience, "settled": turns == 0,
            "best": best, "now": _chosen(live, now, state["now"]), "leaves": state["leaves"] | leaves,
            "objective": jnp.where(live, objective, state["objective"]),
            "excess": jnp.where(live, jnp.minimum(excess, state["excess"]), state["excess"]),
            "steps": state["steps"] + turns + active, "done": state["done"] | (live & finished),
            "round": state["round"] + 1,
        }  # fmt: skip

    best: State = {
        "members": members, "amounts": amounts, "rest": z, "objective": jnp.full(pixels, jnp.nan, dtype),
        "excess": jnp.full(pixels, jnp.inf, dtype), "alone": jnp.zeros(pixels, bool),
    }  # fmt: skip
    state: Any = {
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
    best = least(padded) + length * jnp.arange(parts, dtype=jnp.int32)
    value = jnp.min(padded, 2)
    order = jnp.argsort(value, 1)
    return jnp.take_along_axis(best, order, 1), jnp.take_along_axis(value, order, 1)
