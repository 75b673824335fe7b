"""The search behind `mesma`: every model at every pixel, the best of each level, and which level wins.

A model costs its linear forms: some thirty operations for three spectra, whatever the number of bands. Pixels are on
the SIMD lanes; a turn goes through a few models and keeps the least RMSE and where it was, so that nothing grows with
pixels times models. What a level found is measured band by band. Where its residual is refused, the pixel goes through
the level once more, and every model that would be the best of those that pass is measured.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from unmix_jax.linalg import squared_norm
from unmix_jax.solvers.mesma_prepare import BLOCK, PreparedMesma, unpack
from unmix_jax.solvers.worklist import State, work_off

__all__ = ["Found", "Seen", "search"]

CAREFUL = 64  # pixels that go through a level together once more


class Seen(eqx.Module):
    """What the search needs of a pixel.

    Attributes:
        pixel: in bands that count, less shade.
        x: products of what is left of it beside the main direction with the unit spectra.
        s: part along the main direction.
        rest: squared norm of what is left beside it.
    """

    pixel: Float[Array, "*pixel band"]
    x: Float[Array, "*pixel member"]
    s: Float[Array, "*pixel"]
    rest: Float[Array, "*pixel"]


class Found(eqx.Module):
    """The model that won at a pixel.

    Attributes:
        level: which of the levels; -1: none has a model that passes.
        model: its number among all models.
        fractions: of its spectra, zero in empty slots.
        root: U of the model by rows, ``(E Eᵀ)⁻¹ = U Uᵀ``, zero in empty slots.
        covariance: of the fractions of classes and shade, at noise of one.
        rmse: of the best model of each level; infinite where none passes.
        tried: models gone through.
    """

    level: Int[Array, "*pixel"]
    model: Int[Array, "*pixel"]
    fractions: Float[Array, "*pixel slot"]
    root: Float[Array, "*pixel number"]
    covariance: Float[Array, "*pixel class class"]
    rmse: Float[Array, "*pixel level"]
    tried: Int[Array, "*pixel"]


def search(problem: PreparedMesma, seen: Seen) -> Found:
    """The best model of one pixel; ``vmap`` makes one batch of many."""
    arrays, static = eqx.partition(problem, eqx.is_array)

    @jax.custom_batching.custom_vmap
    def many(arrays: Any, seen: Seen) -> Found:
        # the barriers keep transposes out of the products with the bands, which they would slow down
        found = _search(eqx.combine(arrays, static), jax.lax.optimization_barrier(seen))
        return jax.lax.optimization_barrier(found)

    @many.def_vmap
    def _(axis_size: int, in_batched: Any, arrays: Any, seen: Seen) -> Any:
        full = jax.tree.map(
            lambda x, batched: x if batched else jnp.broadcast_to(x, (axis_size, *x.shape)), seen, in_batched[1]
        )
        if any(jax.tree.leaves(in_batched[0])):  # every pixel has its own limits or library: nothing to share
            axes = jax.tree.map(lambda batched: 0 if batched else None, in_batched[0])
            found = jax.vmap(lambda arrays, seen: _search(eqx.combine(arrays, static), seen), (axes, 0))(arrays, full)
        else:
            found = many(arrays, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), full))
            found = jax.tree.map(lambda x: x.reshape(axis_size, -1, *x.shape[1:]), found)
        return found, jax.tree.map(lambda _: True, found)

    return jax.tree.map(lambda x: x[0], many(arrays, jax.tree.map(lambda x: x[None], seen)))


class _Lanes(eqx.Module):
    """What a model reads of pixels, which are the last axis.

    Attributes:
        x: as in `Seen`.
        first: form of a spectrum that is the first of its model.
        left: what such a spectrum leaves of the squared norm.
        s: as in `Seen`.
    """

    x: Float[Array, "member pixel"]
    first: Float[Array, "member pixel"]
    left: Float[Array, "member pixel"]
    s: Float[Array, " pixel"]

    def of(self, pixels: Int[Array, " pixel"]) -> "_Lanes":
        """Those of some pixels."""
        return jax.tree.map(lambda a: a.at[..., pixels].get(mode="clip"), self)


Pick = Callable[[Array, int], Array]  # of the rows of members, that of the spectrum in a slot


def _lanes(problem: PreparedMesma, seen: Seen) -> _Lanes:
    x, along = seen.x.T, problem.along[:, None]
    left = seen.s**2 * problem.across[:, None] + seen.rest - x * (2 * seen.s * along + x)
    first, left = jax.lax.optimization_barrier((x + along * seen.s, left))
    return _Lanes(x, first, left, seen.s)


def _shared(index: Array) -> Pick:
    """Rows of one model for all pixels."""
    return lambda rows, slot: rows[index[slot]]


def _own(index: Array) -> Pick:
    """Rows of a model [slot, pixel] that every pixel has for itself."""
    return lambda rows, slot: rows.at[index[slot], jnp.arange(rows.shape[1])].get(mode="promise_in_bounds")


def _sum(terms: Sequence[Array]) -> Array:
    return functools.reduce(jnp.add, terms)


def _fit(lanes: _Lanes, pick: Pick, form: Any, slots: int) -> tuple[list[Array], Array]:
    """Fractions by least squares, and the squared residual."""
    linear, upper = unpack(form, slots)
    x = [pick(lanes.x, slot) for slot in range(slots)]
    forms, squared = [pick(lanes.first, 0)], pick(lanes.left, 0)
    for row in linear:
        forms.append(_sum([c * x for c, x in zip(row, [*x[: len(row) - 1], lanes.s], strict=True)]))
        squared = squared - forms[-1] ** 2
    return [_sum([c * q for c, q in zip(row, forms[i:], strict=True)]) for i, row in enumerate(upper)], squared


def _score(problem: PreparedMesma, lanes: _Lanes, pick: Pick, form: Any, filled: Array) -> Array:
    """Squared residual; infinite where fractions or shade are outside their limits, or something is NaN."""
    fractions, squared = _fit(lanes, pick, form, problem.slots)
    (low, high), (darkest, brightest) = problem.limits.pairs
    shade = 1 - _sum(fractions)
    judged = [
        fractions[0],
        *(jnp.where(slot < filled, fractions[slot], fractions[0]) for slot in range(1, len(fractions))),
    ]
    least, greatest = functools.reduce(jnp.minimum, judged), functools.reduce(jnp.maximum, judged)
    kept = (least >= low) & (greatest <= high) & (shade >= darkest) & (shade <= brightest)
    return jnp.where(kept, jnp.maximum(squared, 0), jnp.inf)


def _search(problem: PreparedMesma, seen: Seen) -> Found:
    """Every level, then the best of the levels."""
    lanes, pixels = _lanes(problem, seen), seen.s.shape[0]
    bounds = jnp.asarray([*zip(problem.starts[:-1], problem.starts[1:], strict=True)], jnp.int32)
    sizes, counts = (jnp.asarray(n, jnp.int32) for n in (problem.sizes, problem.counts))

    def level(_: None, which: Any) -> tuple[None, State]:
        return None, _level(problem, lanes, seen, *which)

    _, best = jax.lax.scan(level, None, (bounds, sizes, counts))  # one body for all, compiled once
    chosen = _choose(problem, best["squared"], seen)
    position = best["model"].at[jnp.maximum(chosen, 0), jnp.arange(pixels)].get(mode="promise_in_bounds")
    index, form = _looked_up(problem, position)
    won = chosen >= 0
    fractions = [jnp.where(won, f, 0.0) for f in _fit(lanes, _own(index), form, problem.slots)[0]]
    upper = [[jnp.where(won, u, 0.0) for u in row] for row in unpack(form, problem.slots).upper]
    missing = jnp.asarray([BLOCK * start - sum(problem.counts[:n]) for n, start in enumerate(problem.starts[:-1])])
    return Found(
        level=chosen,
        model=jnp.where(won, position - missing[jnp.maximum(chosen, 0)].astype(jnp.int32), -1),
        fractions=jnp.stack(fractions, 1),
        root=jnp.stack([u for row in upper for u in row], 1),
        covariance=_covariance(problem, index, upper),
        rmse=jnp.sqrt(best["squared"] / seen.pixel.shape[1]).T,
        tried=jnp.sum(best["tried"], 0),
    )


def _covariance(problem: PreparedMesma, index: Array, upper: list[list[Array]]) -> Float[Array, "pixel class class"]:
    """``D U (D U)ᵀ``, where D has the spectra in their classes and their negative sum in shade."""
    classes, slots = len(problem.classes), problem.slots
    classes_of = problem.class_of[index]
    columns = []
    for column in range(slots):
        of = [upper[slot][column - slot] for slot in range(column + 1)]
        rows = [_sum([jnp.where(classes_of[i] == c, u, 0.0) for i, u in enumerate(of)]) for c in range(classes)]
        columns.append(jnp.stack(jax.lax.optimization_barrier([*rows, -_sum(of)])))
    return jnp.moveaxis(_sum([c[:, None] * c[None] for c in columns]), -1, 0)


def _looked_up(problem: PreparedMesma, model: Int[Array, " pixel"]) -> tuple[Array, Array]:
    """Members [slot, pixel] and numbers [number, pixel] of a model for each pixel."""
    index = problem.index.reshape(-1, problem.slots)
    form = problem.form.reshape(-1, problem.form.shape[2])
    return index[model].T, form[model].T


def _level(
    problem: PreparedMesma, lanes: _Lanes, seen: Seen, bounds: Int[Array, " 2"], size: Array, count: Array
) -> State:
    """Best model of a level that passes, its squared residual as the bands have it (infinite: none), models tried."""
    pixels = lanes.s.shape[0]

    def turn(block: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        best, where = carry
        index, form = problem.index[block], problem.form[block]
        scores = [_score(problem, lanes, _shared(index[m]), form[m], size) for m in range(BLOCK)]
        least = jax.lax.optimization_barrier(functools.reduce(jnp.minimum, scores, best))
        return least, jnp.where(least < best, block, where)

    start = jnp.full(pixels, jnp.inf, lanes.s.dtype), jnp.full(pixels, -1, jnp.int32)
    _, where = jax.lax.fori_loop(bounds[0], bounds[1], turn, start)

    # which model of the block; where all are infinite here, one was within a limit by rounding, and is looked for again
    def looked(m: Array) -> Array:
        index, form = _looked_up(problem, jnp.maximum(where, 0) * BLOCK + m)
        return _score(problem, lanes, _own(index), form, size)

    scores = jax.lax.map(looked, jnp.arange(BLOCK, dtype=jnp.int32))
    model = jnp.maximum(where, 0) * BLOCK + jnp.argmin(scores, 0).astype(jnp.int32)
    lost = jnp.all(jnp.isinf(scores), 0)
    squared, passed = _measured(problem, lanes, seen.pixel, model)
    hopeless = (where < 0) | (~lost & ~(squared <= _rmse_limit(problem, seen.pixel.shape[1])))
    state = {
        "pixel": jnp.arange(pixels, dtype=jnp.int32),
        "model": model,
        "squared": jnp.where(hopeless, jnp.inf, squared),
        "tried": jnp.broadcast_to(count, pixels),
        "done": (passed & ~lost) | hopeless,
    }
    again = functools.partial(_again, problem, lanes, seen.pixel, bounds, size)
    return work_off(again, state, chunk=CAREFUL, max_rounds=1, constant=("pixel",))


def _rmse_limit(problem: PreparedMesma, bands: int) -> Array:
    """Greatest squared residual."""
    return bands * problem.limits.rmse**2


def _refused(problem: PreparedMesma, error: Float[Array, "*n"], axis: int) -> Bool[Array, "..."]:
    """Whether the residual is above its limit in too many consecutive bands, which are an axis."""
    least, length, bands = jnp.abs(error), 1, error.shape[axis]
    if problem.limits.bands > bands:
        return jnp.zeros(error.shape[1 - axis], bool)
    while length < problem.limits.bands:  # the least over so many bands, from that over fewer
        by, rest = min(length, problem.limits.bands - length), least.shape[axis]
        least = jnp.minimum(
            jax.lax.slice_in_dim(least, 0, rest - by, axis=axis), jax.lax.slice_in_dim(least, by, rest, axis=axis)
        )
        length += by
    return jnp.max(least, axis) > problem.limits.residual


def _measured(problem: PreparedMesma, lanes: _Lanes, pixel: Array, model: Array) -> tuple[Array, Array]:
    """Squared residual of a model for each pixel [pixel, band], band by band, and whether it passes."""
    index, form = _looked_up(problem, model)
    error = pixel
    for slot, fraction in enumerate(_fit(lanes, _own(index), form, problem.slots)[0]):
        error = error - fraction[:, None] * problem.spectra[index[slot]]
    error = jax.lax.optimization_barrier(error)
    squared = jax.vmap(squared_norm)(error)
    return squared, (squared <= _rmse_limit(problem, error.shape[1])) & ~_refused(problem, error, 1)


def _again(problem: PreparedMesma, lanes: _Lanes, pixel: Array, bounds: Array, size: Array, part: State) -> State:
    """The level once more for a few pixels, with every model measured that would be the best of those that pass."""
    lanes, pixel = lanes.of(part["pixel"]), pixel.at[part["pixel"]].get(mode="clip").T
    bands, pixels = pixel.shape
    # what the bands say differs from the search by rounding: nothing near the limit is left out
    limit = 1.001 * _rmse_limit(problem, bands) + 1e-5 * jnp.sum(pixel**2, 0)
    limit = jnp.where(part["done"], -1.0, limit)

    def turn(model: Array, carry: Any) -> Any:
        index, form = problem.index[model // BLOCK, model % BLOCK], problem.form[model // BLOCK, model % BLOCK]
        score = _score(problem, lanes, _shared(index), form, size)
        wanted = (score < carry[0]) & (score <= limit)

        def measure(carry: Any) -> Any:
            error = pixel
            for slot, fraction in enumerate(_fit(lanes, _shared(index), form, problem.slots)[0]):
                error = error - fraction * problem.spectra[index[slot]][:, None]
            error = jax.lax.optimization_barrier(error)
            squared = jnp.sum(error**2, 0)
            better = wanted & (squared <= _rmse_limit(problem, bands)) & ~_refused(problem, error, 0)
            return tuple(jnp.where(better, new, old) for new, old in zip((score, model, squared), carry, strict=True))

        return jax.lax.cond(jnp.any(wanted), measure, lambda carry: carry, carry)

    infinite = jnp.full(pixels, jnp.inf, pixel.dtype)
    start = infinite, jnp.zeros(pixels, jnp.int32), infinite
    _, model, squared = jax.lax.fori_loop(bounds[0] * BLOCK, bounds[1] * BLOCK, turn, start)
    new = {"model": model, "squared": squared, "tried": 2 * part["tried"]}
    kept = {name: jnp.where(part["done"], part[name], value) for name, value in new.items()}
    return part | kept | {"done": jnp.ones_like(part["done"])}


def _choose(problem: PreparedMesma, squared: Float[Array, "level pixel"], seen: Seen) -> Int[Array, " pixel"]:
    """Which level wins; -1 where none has a model that passes."""
    bands, dtype = seen.pixel.shape[1], seen.s.dtype
    rounding = (4 * jnp.finfo(dtype).eps) ** 2 * (seen.s**2 + seen.rest)  # nothing is fitted better than that
    chosen, best = jnp.full(seen.s.shape, -1, jnp.int32), jnp.full_like(seen.s, jnp.inf)
    for number, (size, value) in enumerate(zip(problem.sizes, squared, strict=True)):
        if problem.criterion == "fusion":
            cost = jnp.sqrt(value / bands)
            better = (cost + problem.limits.fusion <= best) & (cost < best)
        else:
            cost = jnp.maximum(value, rounding)
            misfit = bands * jnp.log(cost / bands) if problem.noise is None else cost / problem.noise**2
            cost = misfit + size * jnp.log(jnp.asarray(bands, dtype))
            better = cost < best
        better = better & jnp.isfinite(value)
        chosen, best = jnp.where(better, number, chosen), jnp.where(better, cost, best)
    return chosen
