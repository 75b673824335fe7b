"""Second-order descent over abundances on the simplex and parameters in a box, many pixels at once.

minimise f(u), u = (a, p): a ≥ 0, Σa = 1, low ≤ p ≤ high, for an f that gives value, gradient and curvature. Each turn
goes to the minimum of the quadratic model within the region, damped after Levenberg and Marquardt, and is taken only
where f falls (sequential quadratic programming: Nocedal and Wright 2006, 10.1007/978-0-387-40065-5). The curvature is
the exact one where it is positive, so that the end comes fast where a model misses the data.

Pixels are on the last axis of every array, so that all arithmetic runs along them; they are advanced in chunks, and
those that are done leave.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from unmix_jax.linalg import least
from unmix_jax.solvers.active_set import tolerance
from unmix_jax.solvers.lanes import over
from unmix_jax.solvers.worklist import State, work_off

__all__ = [
    "Model",
    "Region",
    "covariance",
    "descend",
    "first_order_gap",
    "on_no_bound",
    "project",
    "quadratic_step",
    "where_needed",
]

LEAVE = 0.4  # share of a chunk that is not done when those that are leave it
ROUNDS = 40  # of a pixel
GAUSS_TURNS = 3  # of a pixel; later ones have the exact curvature
STIFF = 1e6  # damping at which a pixel is given up
TURNS = 200  # of a pixel, after which it is given up; 60 are many
PIVOTS = 6  # and as many as there are unknowns, to the minimum of a quadratic model
NEGLIGIBLE = 1e-6  # squared, of what takes part in a direction
DAMPING = 1e-3  # of the first turn, relative to the curvature


class Model(NamedTuple):
    """A function about a point: value [pixel], gradient [unknown, pixel], curvature [unknown, unknown, pixel].

    It is the Gauss–Newton curvature, which is not negative.
    """

    value: Array
    gradient: Array
    curvature: Array


class Region(NamedTuple):
    """How many unknowns are abundances (they come first), and bounds of the others [parameter]."""

    simplex: int
    low: Array
    high: Array


def descend(
    function: Callable[[Array, State], Model],
    bend: Callable[[Array, State], Array],
    start: Float[Array, "unknown pixel"],
    data: State,
    scale: Float[Array, " pixel"],
    region: Region,
    *,
    chunk: int,
) -> State:
    """Go down from a start until rounding hides what is left.

    Args:
        function: the model at unknowns [unknown, pixel], given the data of these pixels.
        bend: what the exact curvature has besides, called where the descent takes long.
        start: inside the region.
        data: arrays with the pixels last, that the function needs.
        scale: of f, of each pixel: half the squared norm of its spectrum.
        region: simplex and box.
        chunk: pixels that are advanced together.

    Returns:
        ``unknown``, the ``gap`` of f there, and ``steps``, the turns it took.
    """

    def advance(part: State) -> State:
        inputs = {name: part[name] for name in data}

        def turn(part: State) -> State:
            return part | _turn(part, lambda x: function(x, inputs), lambda x: bend(x, inputs), region)

        enough = jnp.sum(~part["done"]) * LEAVE
        return jax.lax.while_loop(lambda part: jnp.sum(~part["done"]) > enough, turn, part)

    size, pixels = start.shape
    state = {
        **data,
        "scale": scale,
        "unknown": start,
        # nothing is known of the start: any value is better
        "value": jnp.full(pixels, jnp.inf, start.dtype),
        "gradient": jnp.zeros((size, pixels), start.dtype),
        "curvature": jnp.zeros((size, size, pixels), start.dtype),
        "gap": jnp.full(pixels, jnp.nan, start.dtype),
        "damping": jnp.full(pixels, DAMPING, start.dtype),
        "steps": jnp.zeros(pixels, jnp.int32),
        "done": ~((scale > 0) & (scale < jnp.inf)),
    }
    state = work_off(advance, state, chunk=chunk, max_rounds=ROUNDS, constant=(*data, "scale"))
    return {name: state[name] for name in ("unknown", "gap", "steps")}


def _turn(part: State, function: Callable[[Array], Model], bend: Callable[[Array], Array], region: Region) -> State:
    """One step of each pixel that is not done; the first one only looks at the start."""
    unknown, value, done, damping, scale = (part[name] for name in ("unknown", "value", "done", "damping", "scale"))
    gradient, curvature = part["gradient"], part["curvature"]
    step = quadratic_step(unknown, gradient, curvature, damping, region)
    trial = project(unknown + step, region)
    step = trial - unknown
    promised = -_inner(step, gradient + 0.5 * _apply(curvature, step))
    new = where_needed(done, lambda: function(trial))
    gap = first_order_gap(trial, new, region)
    late = ~done & (part["steps"] >= GAUSS_TURNS)
    exact = where_needed(~late, lambda: _newton(new.curvature, bend(trial), region.simplex))
    chosen = jnp.where(late, exact, new.curvature)

    # where rounding hides what is promised, the gap decides
    eps = jnp.finfo(unknown.dtype).eps
    size = jnp.maximum(value, scale)  # a model that is far off is larger than the pixel
    hidden = jnp.abs(promised) <= 8 * eps * jnp.sqrt(jnp.maximum(value, 0) * size) + 32 * eps**2 * scale
    first = jnp.isinf(value)
    fall = value - new.value
    nearer = jnp.where(hidden & ~first, gap < 0.5 * part["gap"], fall > 0)
    better = ~done & nearer
    ratio = fall / jnp.where(promised > 0, promised, 1.0)
    eased = jnp.where(ratio > 0.75, damping / 16, jnp.where(ratio > 0.25, damping, damping * 4))
    eased = jnp.where(better, eased, jnp.maximum(damping * 16, DAMPING))
    gap = jnp.where(better, gap, part["gap"])
    small = tolerance(unknown.dtype) * scale
    ended = hidden & ((gap <= 0.1 * small) | ~nearer & ((gap <= small) | (damping > STIFF)))
    ended = ended | (part["steps"] >= TURNS)
    return {
        "unknown": jnp.where(better, trial, unknown),
        "value": jnp.where(better, new.value, value),
        "gradient": jnp.where(better, new.gradient, gradient),
        "curvature": jnp.where(better, chosen, curvature),
        "gap": gap,
        "damping": jnp.where(done | first, damping, eased),
        "steps": part["steps"] + ~(done | first),
        # a start that the function has no number for stays: without this the pixel would never be done
        "done": done | jnp.where(first, ~jnp.isfinite(new.value), ended),
    }


def where_needed(done: Bool[Array, " pixel"], function: Callable[[], Any]) -> Any:
    """What the function gives, or zeros where all pixels are done.

    A branch is also a program of its own: the compiler cannot compute its parts over again for each of their uses,
    which costs many times the function (barriers do not keep it from that).
    """
    shapes = jax.eval_shape(function)
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.cond(jnp.all(done), lambda: nothing, function)


def _newton(curvature: Array, bend: Array, count: int) -> Array:
    """The exact curvature where it is positive, else the Gauss–Newton curvature."""
    exact = curvature + bend
    nothing = jnp.zeros(exact.shape[1:], bool)
    definite = eliminate(_ridged(exact, 0.0, count), nothing, exact[:, :0])[2]
    return jnp.where(definite, exact, curvature)


def quadratic_step(unknown: Array, gradient: Array, curvature: Array, damping: Array, region: Region) -> Array:
    """From a point to the minimum of its damped quadratic model in the region, by block principal pivoting."""
    count, size = region.simplex, len(unknown)
    matrix = _ridged(curvature, damping, count)
    low, high = _bounds(unknown, region)
    low, high = low - unknown, high - unknown
    slope = _slope(unknown, gradient, count)
    inside = (jnp.arange(size) < count)[:, None]
    order = jnp.arange(size)[:, None]

    def solved(at_low: Array, at_high: Array) -> tuple[Array, Array]:
        """The step, and the slope that it leads to."""
        held = at_low | at_high
        fixed = jnp.where(at_low, low, jnp.where(at_high, high, 0.0))
        right = jnp.where(held, 0.0, -gradient - _apply(matrix, fixed))
        one = jnp.where(held | ~inside, 0.0, jnp.ones_like(right))
        found = eliminate(matrix, held, jnp.stack([right, one], 1))[0]
        total = _sum(found[:count, 1])
        share = (_sum(found[:count, 0]) + _sum(fixed[:count])) / jnp.where(total > 0, total, 1.0)
        step = jnp.where(held, fixed, found[:, 0] - found[:, 1] * share)
        return step, gradient + _apply(matrix, step) + jnp.where(inside, share, 0.0)

    def pivot(carry: Any) -> Any:
        at_low, at_high, fewest, patience, turn, _, _ = carry
        step, slope = solved(at_low, at_high)
        small = 8 * jnp.finfo(step.dtype).eps * over(jnp.maximum, jnp.abs(gradient))
        free = ~(at_low | at_high)
        under, above = free & (step < low), free & (step > high)
        wrong = under | above | (at_low & (slope < -small)) | (at_high & (slope > small))
        number = jnp.sum(wrong, 0)
        progress = number < fewest
        block = progress | (patience > 0)
        last = order == jnp.max(jnp.where(wrong, order, -1), 0)
        wrong = wrong & (block | last)
        at_low = jnp.where(wrong, under, at_low)
        at_high = jnp.where(wrong, above, at_high)
        # some abundance is free
        lost = jnp.all(at_low[:count], 0)
        steepest = jnp.arange(count)[:, None] == least(slope[:count].T)
        at_low = at_low.at[:count].set(at_low[:count] & ~(lost & steepest))
        patience = jnp.where(progress, 3, patience - 1)
        return at_low, at_high, jnp.minimum(fewest, number), patience, turn + 1, step, jnp.all(number == 0)

    at_low, at_high = (low >= 0) & (slope > 0), (high <= 0) & (slope < 0)
    pixels = unknown.shape[1]
    start = (
        at_low,
        at_high,
        jnp.full(pixels, size + 1),
        jnp.full(pixels, 3),
        jnp.asarray(0),
        jnp.zeros_like(unknown),
        jnp.asarray(False),
    )
    return jax.lax.while_loop(lambda carry: (carry[4] < PIVOTS + size) & ~carry[6], pivot, start)[5]


def _ridged(curvature: Array, damping: Array | float, count: int) -> Array:
    """Damped; and along the sum of the abundances, where no step goes, as curved as elsewhere (a zero endmember)."""
    size = len(curvature)
    diagonal = jnp.stack([curvature[i, i] for i in range(size)])
    ridge = _sum(diagonal[:count]) / count
    add = jnp.eye(size, dtype=diagonal.dtype)[:, :, None] * (damping * diagonal)
    inside = jnp.arange(size) < count
    return curvature + add + (inside[:, None] & inside[None, :])[:, :, None] * ridge


def _bounds(unknown: Array, region: Region) -> tuple[Array, Array]:
    """Bounds of every unknown, [unknown, 1]."""
    low = jnp.concatenate([jnp.zeros(region.simplex, unknown.dtype), region.low])[:, None]
    high = jnp.concatenate([jnp.full(region.simplex, jnp.inf, unknown.dtype), region.high])[:, None]
    return low, high


def _slope(unknown: Array, gradient: Array, count: int) -> Array:
    """The gradient; of an abundance, against that of the mixture as it is."""
    level = _inner(unknown[:count], gradient[:count])
    return gradient - jnp.where((jnp.arange(len(unknown)) < count)[:, None], level, 0.0)


def eliminate(
    matrix: Float[Array, "n n pixel"], held: Bool[Array, "n pixel"], right: Float[Array, "n k pixel"]
) -> tuple[Float[Array, "n k pixel"], Bool[Array, "n pixel"], Bool[Array, " pixel"]]:
    """``matrix⁻¹ right`` of the free rows, zero for the others and for what depends on those before.

    Gauss and Jordan's elimination of a symmetric, positive semidefinite matrix, without exchanges. Also says which
    rows take part in a direction along which the matrix is zero, and whether there is none.
    """
    size = matrix.shape[0]
    eps = jnp.finfo(matrix.dtype).eps
    diagonal = jnp.stack([matrix[i, i] for i in range(size)])
    tableau = jax.lax.optimization_barrier(jnp.concatenate([matrix, right], 1))
    loose, definite = jnp.zeros_like(held), jnp.ones_like(held[0])
    for j in range(size):
        pivot = tableau[j, j]
        usable = ~held[j] & (pivot > 8 * size * eps * diagonal[j])
        earlier = jnp.square(tableau[:j, j]) * diagonal[:j] > NEGLIGIBLE * diagonal[j]
        takes_part = jnp.concatenate([earlier, jnp.ones_like(held[j : j + 1]), jnp.zeros_like(held[j + 1 :])])
        loose = loose | (takes_part & ~held & ~held[j] & ~usable)
        definite = definite & (usable | held[j])
        row = jnp.where(usable, tableau[j] / jnp.where(usable, pivot, 1.0), 0.0)
        column = jnp.where(usable, tableau[:, j], 0.0)
        tableau = (tableau - column[:, None] * row[None]).at[j].set(row)
    return tableau[:, size:], loose, definite


def project(unknown: Array, region: Region) -> Array:
    """Into the region."""
    abundances = jnp.maximum(unknown[: region.simplex], 0)
    abundances = abundances / _sum(abundances)
    parameters = jnp.clip(unknown[region.simplex :], region.low[:, None], region.high[:, None])
    return jnp.concatenate([abundances, parameters])


def first_order_gap(unknown: Float[Array, "unknown pixel"], model: Model, region: Region) -> Float[Array, " pixel"]:
    """What f may still lose: to first order over the simplex, by the model of second order in each parameter."""
    gradient, curvature = model.gradient, model.curvature
    count = region.simplex
    slope = gradient[:count]
    gap = _inner(unknown[:count], slope) - over(jnp.minimum, slope)
    for j in range(count, len(unknown)):
        steep = curvature[j, j]
        newton = jnp.where(steep > 0, -gradient[j] / jnp.where(steep > 0, steep, 1.0), 0.0)
        step = jnp.clip(unknown[j] + newton, region.low[j - count], region.high[j - count]) - unknown[j]
        gap = gap + jnp.maximum(-step * (gradient[j] + 0.5 * steep * step), 0)
    return jnp.maximum(gap, 0)


def covariance(
    unknown: Float[Array, "unknown pixel"],
    curvature: Float[Array, "unknown unknown pixel"],
    variance: Float[Array, " pixel"],
    region: Region,
) -> tuple[Float[Array, "unknown unknown pixel"], Bool[Array, "unknown pixel"]]:
    """Inverse curvature, over abundances above zero whose sum stays.

    Of a parameter between two limits that much is known: a third of the squared range is the mean square distance of
    anything between them from either. Without it, one that ends on a limit would count as known.

    Args:
        unknown: where the curvature is, [unknown, pixel].
        curvature: [unknown, unknown, pixel].
        variance: of the noise, in the unit of the curvature.
        region: simplex and box.

    Returns:
        The covariance, infinite (and NaN beside it) for what nothing tells; and which unknowns that are.
    """
    size, count = len(unknown), region.simplex
    limited = 3 / jnp.square(region.high - region.low)
    known = jnp.concatenate([jnp.zeros(count, unknown.dtype), jnp.where(limited < jnp.inf, limited, 0.0)])
    matrix = _ridged(curvature + jnp.diag(known)[:, :, None] * variance, 0.0, count)
    held = (unknown <= 0) & (jnp.arange(size) < count)[:, None]
    eye = jnp.where(held[:, None], 0.0, jnp.eye(size, dtype=unknown.dtype)[:, :, None])
    solved, loose, _ = eliminate(matrix, held, eye)
    along = jnp.sum(solved[:, :count], 1)
    total = _sum(along[:count])
    found = variance * (solved - along[:, None] * along[None] / jnp.where(total > 0, total, 1.0))
    beside = loose[:, None] | loose[None, :]
    own = jnp.eye(size, dtype=bool)[:, :, None]
    found = jnp.where(own, jnp.maximum(found, 0), found)
    return jnp.where(beside, jnp.where(own, jnp.inf, jnp.nan), found), loose


def on_no_bound(unknown: Float[Array, "unknown pixel"], region: Region) -> Bool[Array, "unknown pixel"]:
    """What is on no bound."""
    low, high = _bounds(unknown, region)
    return (unknown > low) & (unknown < high)


def _apply(matrix: Array, vector: Array) -> Array:
    total = matrix[:, 0] * vector[0]
    for j in range(1, len(vector)):
        total = total + matrix[:, j] * vector[j]
    return total


def _inner(left: Array, right: Array) -> Array:
    return _sum(left * right)


def _sum(rows: Array) -> Array:
    return over(jnp.add, rows)
