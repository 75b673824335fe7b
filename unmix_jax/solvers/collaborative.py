"""Collaborative sparse unmixing: the pixels of a scene agree on which members of the library there are."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unmix_jax.linalg import matmul
from unmix_jax.solvers.batching import without_derivatives
from unmix_jax.solvers.group_penalty import PAUSE, group_tolerance, longer, newton_share
from unmix_jax.solvers.sparse import PreparedLibrary, penalty_weight, prepare_sparse
from unmix_jax.solvers.tableau import dense, stiffness_of
from unmix_jax.solvers.working_set import CHUNK, empty, solve_on_working_sets
from unmix_jax.solvers.worklist import State
from unmix_jax.types import Solution

__all__ = ["clsunsal"]

ROWS = 128  # members whose steps are foreseen together
ENTRIES = 8  # members that come in at a time
NEGLIGIBLE = 0.05  # of the largest norm: a member below may be left out where that is optimal by itself


def clsunsal(
    pixels: Float[Any, "pixel band"],
    library: Float[Any, "member band"] | PreparedLibrary,
    *,
    l21: Any,
    slots: int | None = None,
    max_steps: int = 200,
) -> Solution:
    """Sparse unmixing of a scene whose pixels share few members of the library.

    argmin_A ½‖Y − AE‖²_F + l21 Σ_j ‖A_:j‖₂ subject to A ≥ 0: a member is used by many pixels or by none. Exact: ridges
    stand for the norms (`group_penalty`), each problem is solved exactly, until the duality gap says that no better
    abundances exist.

    Args:
        pixels: spectra of the whole scene, in the unit of the library. Those that hold NaN take no part.
        library: spectra as rows, or `PreparedLibrary`.
        l21: weight of the penalty, in the squared unit of the pixels; what suits grows with the square root of their
            number. 0 is non-negative least squares.
        slots: most members of one mixture, as in `sunsal`.
        max_steps: most problems with ridges that are solved.

    Returns:
        A `Solution` with a leading pixel axis. Gap and ``converged`` are those of the scene (relative to ½‖Y‖²_F), the
        same for each pixel that took part; ``steps`` counts problems with ridges. ``fitted`` are the norms ‖A_:j‖₂
        [member].

    Raises:
        ValueError: if pixels and library differ in their number of bands, or l21 is negative.

    Reference: Iordache et al. 2014, 10.1109/TGRS.2013.2240001 (problem; their splitting method is not exact).
    """
    problem = library if isinstance(library, PreparedLibrary) else prepare_sparse(library)
    if len(np.shape(pixels)) != 2 or pixels.shape[1] != problem.endmembers.shape[1]:
        wanted = problem.endmembers.shape[1]
        raise ValueError(f"clsunsal takes a scene of [pixel, {wanted} bands] for this library, got {np.shape(pixels)}")
    pixels = jnp.asarray(pixels, jnp.result_type(pixels.dtype, problem.endmembers.dtype))
    problem, pixels = without_derivatives("clsunsal", (problem, pixels))
    if problem.good is not None:
        pixels = jnp.where(problem.good, pixels, 0.0)
    l21 = penalty_weight("l21", l21, pixels.dtype)
    there = jnp.isfinite(jnp.sum(pixels, 1))
    z = matmul(jnp.where(there[:, None], pixels, 0.0), problem.projector)
    abundances, norms, gap, steps = _solve(problem, z, l21, slots, max_steps)

    error = jnp.where(there[:, None], pixels, 0.0) - matmul(abundances, problem.endmembers)
    if problem.good is not None:
        error = jnp.where(problem.good, error, 0.0)
    bands = pixels.shape[1] if problem.good is None else jnp.sum(problem.good)
    return Solution(
        abundances=jnp.where(there[:, None], abundances, jnp.nan),
        residual=jnp.where(there, jnp.sqrt(jnp.sum(error**2, 1) / bands), jnp.nan),
        gap=jnp.where(there, gap, jnp.nan),
        steps=jnp.full(len(pixels), steps),
        converged=there & (gap <= group_tolerance(pixels.dtype)),
        fitted=norms,
    )


def _solve(
    problem: PreparedLibrary, z: Array, l21: Array, slots: int | None, max_steps: int
) -> tuple[Array, Array, Array, Array]:
    """Abundances [pixel, member], norms of the members, relative gap and steps."""
    factor, count = problem.dictionary.factor, problem.endmembers.shape[0]
    lengths = jnp.sum(factor**2, 0)
    energy = 0.5 * jnp.sum(z**2)
    energy = jnp.where(energy > 0, energy, 1.0)
    never = 1e3 * jnp.sqrt(jnp.max(lengths)) * jnp.sqrt(jnp.max(jnp.sum(z**2, 1)))
    size = min(count, ROWS)
    enough = 0.5 * group_tolerance(z.dtype)

    def solved(eta: Array, start: Any, l1: Any = 0.0) -> Any:
        used = eta > 0
        costs = jnp.where(used, l1, never)[None]
        ridges = jnp.where(used, l21 / jnp.where(used, eta, 1.0), 0.0)[None]
        found = solve_on_working_sets(
            problem.dictionary, z.T, lambda part: (costs, ridges), {}, sum_to_one=False, slots=slots, start=start
        )
        return {name: found[name] for name in ("members", "amounts", "rest", "excess")}

    def judged(found: Any) -> State:
        """Objective, relative gap, norms of the members, who should leave, and where those that enter should start."""
        abundances = dense(found["members"].T, found["amounts"].T, count)
        norms = jnp.sqrt(jnp.sum(abundances**2, 0))
        rest = found["rest"].T
        pull = matmul(rest, factor)
        strength = jnp.sqrt(jnp.sum(jnp.maximum(pull, 0) ** 2, 0))
        left = jnp.sum(rest**2)
        objective = 0.5 * left + l21 * jnp.sum(norms)
        # the residual, shrunk until no member pulls harder than the penalty, is feasible for the dual
        shrink = jnp.minimum(1.0, l21 / jnp.maximum(jnp.max(strength), jnp.finfo(z.dtype).tiny))
        dual = shrink * jnp.sum(rest * z) - 0.5 * shrink**2 * left
        gap = jnp.where(l21 > 0, objective - dual, jnp.sum(found["excess"])) / energy
        alone = jnp.sqrt(jnp.sum(jnp.maximum(pull + lengths * abundances, 0) ** 2, 0))
        leave = (alone <= l21) & (norms <= NEGLIGIBLE * jnp.max(norms))
        least = jnp.sort(strength)[-min(ENTRIES, count)]
        enter = jnp.where(
            (strength > l21) & (strength >= least) | (norms > 0),
            jnp.maximum(strength - l21, 0) / jnp.where(lengths > 0, lengths, 1.0),
            0.0,
        )
        return {
            "objective": objective,
            "gap": gap,
            "norms": norms,
            "leave": leave,
            "enter": enter,
        }

    def step(state: Any) -> Any:
        eta, now, caution = state["eta"], state["now"], state["caution"]
        # members come and go in plain steps; between two such the steps are long
        absent, leave = now["norms"] == 0, now["leave"] & (now["norms"] > 0)
        plain = ~state["fell"] | (jnp.any(leave | (absent & (now["enter"] > 0))) & (state["since"] >= PAUSE))
        swap = plain & state["fell"]
        target = jnp.where(absent, jnp.where(swap, caution * now["enter"], 0.0), now["norms"])
        target = jnp.where(leave & swap, 0.0, target)

        def foreseen() -> Array:
            """Newton's step on η, where the minimum over A is taken as a function of η: convex, with η ≥ 0."""
            used = (eta > 0) & (now["norms"] > 0)
            row = jnp.where(used, jnp.cumsum(used) - 1, size).astype(jnp.int32)
            ridges = jnp.where(used, l21 / jnp.where(used, eta, 1.0), 0.0)
            stiff = _stiffness(problem, ridges, state["found"], row, size)
            blank = jnp.zeros(size, z.dtype)
            inner, norms = blank.at[row].set(eta, mode="drop"), blank.at[row].set(now["norms"], mode="drop")
            share = newton_share(inner, norms, jnp.full(size, l21), stiff).at[row].get(mode="fill", fill_value=0.0)
            return jnp.where(row < size, eta * (1 + state["length"] * share), target)

        new = jax.lax.cond(plain, lambda: target, foreseen)
        # first with the penalty spread evenly over the pixels, for all members; from there the strongest go on
        opening = state["steps"] == 0
        found = solved(jnp.where(opening, jnp.inf, new), state["found"], jnp.where(opening, even, 0.0))
        then = judged(found)
        strong = jnp.where(then["norms"] > NEGLIGIBLE * jnp.max(then["norms"]), then["norms"], 0.0)
        new = jnp.where(opening, strong, new)
        fell = then["objective"] <= now["objective"] * (1 + 4 * jnp.finfo(z.dtype).eps)
        length = longer(state["length"], plain, fell)
        kept = then | {"objective": jnp.where(opening, jnp.inf, then["objective"])}
        best = _either(then["gap"] < state["best"][1]["gap"], (found, then), state["best"])
        # where a long step went too far, plain steps start from where it came from
        return {
            "eta": jnp.where(fell, new, eta), "fell": fell, "length": length,
            "caution": jnp.where(fell, jnp.minimum(2 * caution, 1.0), jnp.where(swap, 0.1, 1.0) * caution),
            "best": best, "since": jnp.where(swap, 0, state["since"] + 1),
            "found": _either(fell, found, state["found"]), "now": _either(fell, kept, now), "steps": state["steps"] + 1,
        }  # fmt: skip

    even = l21 / jnp.sqrt(jnp.asarray(len(z), z.dtype))
    nothing = empty(problem.dictionary, z.T, slots)
    found = {name: nothing[name] for name in ("members", "amounts", "rest", "excess")}
    now = judged(found) | {"objective": jnp.asarray(jnp.inf, z.dtype), "gap": jnp.asarray(jnp.inf, z.dtype)}
    state: Any = {
        "eta": jnp.zeros(count, z.dtype), "fell": jnp.asarray(True), "caution": jnp.ones((), z.dtype),
        "length": jnp.ones((), z.dtype), "since": jnp.asarray(PAUSE),
        "best": (found, now), "found": found, "now": now, "steps": jnp.asarray(0, jnp.int32),
    }  # fmt: skip
    state = jax.lax.while_loop(lambda s: (s["best"][1]["gap"] > enough) & (s["steps"] < max_steps), step, state)
    found, now = state["best"]
    abundances = dense(found["members"].T, found["amounts"].T, count)
    return abundances, now["norms"], jnp.maximum(now["gap"], 0), state["steps"]


def _stiffness(problem: PreparedLibrary, ridges: Array, found: State, row: Array, size: int) -> Array:
    """How norms answer to ridges, summed over the pixels; ``row`` is that of each member in the result."""
    members, amounts = found["members"].T, found["amounts"].T
    pixels, slots = members.shape
    few = min(CHUNK, pixels)
    row = jnp.append(row, size)

    def summed(terms: Array, members: Array) -> Array:
        blank = jnp.zeros((size, size), terms.dtype)
        return blank.at[row[members][:, :, None], row[members][:, None]].add(terms, mode="drop")

    def chunk(total: Array, part: tuple[Array, Array]) -> tuple[Array, None]:
        return total + stiffness_of(problem.dictionary, ridges[None], part[0], part[1], summed, False), None

    wide = ((0, -pixels % few), (0, 0))
    parts = jnp.pad(members, wide, constant_values=len(row) - 1), jnp.pad(amounts, wide)
    parts = jax.tree.map(lambda x: x.reshape(-1, few, slots), parts)
    return jax.lax.scan(chunk, jnp.zeros((size, size), amounts.dtype), parts)[0]


def _either(condition: Array, new: Any, old: Any) -> Any:
    """One of two states."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), new, old)
