"""The search behind `mesma`: every model at every pixel, the best of each level, and which level wins.

A model costs its linear forms: some thirty operations for three spectra, whatever the number of bands. Pixels are on
the SIMD lanes; a turn goes through a few models and keeps the least RMSE and where it was, so that nothing grows with
pixels times models. What a level found is measured band by band. Where its residual is refused, the pixel goes through
the level once more, and every model that would be the best of those that pass is measured.
"""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from unmix_jax.solvers.mesma_prepare import BLOCK, Level, PreparedMesma, unpack
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
        model: number of the model within its level.
        fractions: of its spectra, zero in empty slots.
        root: U, ``(E Eᵀ)⁻¹ = U Uᵀ`` for its spectra, zero in empty slots.
        rmse: of the best model of each level; infinite where none passes.
        tried: models gone through.
    """

    level: Int[Array, "*pixel"]
    model: Int[Array, "*pixel"]
    fractions: Float[Array, "*pixel slot"]
    root: Float[Array, "*pixel slot slot"]
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
        if any(jax.tree.leaves(in_batched[0])):  # every pixel has its own library: nothing to share
            axes = jax.tree.map(lambda batched: 0 if batched else None, in_batched[0])
            own = jax.vmap(lambda arrays, seen: _search(eqx.combine(arrays, static), seen), (axes, 0))
            found = own(arrays, full)
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
    s: Float[Array, "pixel"]

    def of(self, pixels: Int[Array, "pixel"]) -> "_Lanes":
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


def _fit(lanes: _Lanes, pick: Pick, form: Any, size: int) -> tuple[list[Array], Array]:
    """Fractions by least squares, and the squared residual."""
    linear, upper = unpack(form, size)
    x = [pick(lanes.x, slot) for slot in range(size)]
    forms, squared = [pick(lanes.first, 0)], pick(lanes.left, 0)
    for row in linear:
        q = functools.reduce(
            lambda total, pair: total + pair[0] * pair[1], zip(row[:-1], x, strict=False), row[-1] * lanes.s
        )
        forms.append(q)
        squared = squared - q * q
    fractions = [
        functools.reduce(
            lambda total, pair: total + pair[0] * pair[1], zip(u[1:], forms[i + 1 :], strict=True), u[0] * q
        )
        for i, (u, q) in enumerate(zip(upper, forms, strict=True))
    ]
    return fractions, squared


def _score(problem: PreparedMesma, lanes: _Lanes, pick: Pick, form: Any, size: int) -> Array:
    """Squared residual; infinite where fractions or shade are outside their limits, or something is NaN."""
    fractions, squared = _fit(lanes, pick, form, size)
    (low, high), (darkest, brightest) = problem.limits.pairs
    shade = 1 - functools.reduce(jnp.add, fractions)
    least, greatest = functools.reduce(jnp.minimum, fractions), functools.reduce(jnp.maximum, fractions)
    kept = (least >= low) & (greatest <= high) & (shade >= darkest) & (shade <= brightest)
    return jnp.where(kept, jnp.maximum(squared, 0), jnp.inf)


def _search(problem: PreparedMesma, seen: Seen) -> Found:
    """Every level, then the best of the levels."""
    lanes, pixels = _lanes(problem, seen), seen.s.shape[0]
    best = [_level(problem, level, lanes, seen) for level in problem.levels]
    chosen = _choose(problem, [b["squared"] for b in best], seen)
    tried = functools.reduce(jnp.add, [b["tried"] for b in best])
    slots, bands = problem.slots, seen.pixel.shape[1]
    fractions, root = jnp.zeros((slots, pixels), lanes.s.dtype), jnp.zeros((slots, slots, pixels), lanes.s.dtype)
    model = jnp.full(pixels, -1, jnp.int32)
    for number, (level, found) in enumerate(zip(problem.levels, best, strict=True)):
        size, won = level.size, chosen == number
        index, form = _looked_up(level, jnp.maximum(found["model"], 0))
        part, _ = _fit(lanes, _own(index), form, size)
        upper = [[jnp.zeros(pixels, lanes.s.dtype)] * i + row for i, row in enumerate(unpack(form, size)[1])]
        fractions = fractions.at[:size].set(jnp.where(won, jnp.stack(part), fractions[:size]))
        root = root.at[:size, :size].set(jnp.where(won, jnp.stack([jnp.stack(r) for r in upper]), root[:size, :size]))
        model = jnp.where(won, found["model"], model)
    rmse = jnp.sqrt(jnp.stack([b["squared"] for b in best], 1) / bands)
    return Found(chosen, model, fractions.T, jnp.moveaxis(root, -1, 0), rmse, tried)


def _looked_up(
    level: Level, model: Int[Array, "pixel"]
) -> tuple[Int[Array, "slot pixel"], Float[Array, "number pixel"]]:
    """Members and numbers of a model for each pixel."""
    index, form = level.index.reshape(-1, level.size), level.form.reshape(-1, level.form.shape[2])
    return index[model].T, form[model].T


def _level(problem: PreparedMesma, level: Level, lanes: _Lanes, seen: Seen) -> dict[str, Array]:
    """Best model of a level that passes (-1: none), its squared residual as the bands have it, and models tried."""
    size, pixels = level.size, lanes.s.shape[0]

    def turn(carry: tuple[Array, Array], block: Any) -> tuple[tuple[Array, Array], None]:
        (best, where), (number, index, form) = carry, block
        least = functools.reduce(
            lambda least, m: jnp.minimum(least, _score(problem, lanes, _shared(index[m]), form[m], size)),
            range(BLOCK),
            best,
        )
        least = jax.lax.optimization_barrier(least)
        return (least, jnp.where(least < best, number, where)), None

    blocks = jnp.arange(len(level.index), dtype=jnp.int32)
    start = (jnp.full(pixels, jnp.inf, lanes.s.dtype), jnp.full(pixels, -1, jnp.int32))
    (_, where), _ = jax.lax.scan(turn, start, (blocks, level.index, level.form))

    # which model of the block; where all are infinite here, one was within a limit by rounding, and is looked for again
    looked = [_looked_up(level, jnp.maximum(where, 0) * BLOCK + m) for m in range(BLOCK)]
    scores = jnp.stack([_score(problem, lanes, _own(index), form, size) for index, form in looked])
    model = jnp.where(where >= 0, where * BLOCK + jnp.argmin(scores, 0).astype(jnp.int32), -1)

    squared, passed = _measured(problem, level, lanes, seen.pixel, model)
    lost = jnp.all(jnp.isinf(scores), 0)
    hopeless = (model < 0) | (~lost & (squared > _rmse_limit(problem, seen.pixel.shape[1])))
    state = {
        "pixel": jnp.arange(pixels),
        "model": jnp.where(hopeless, -1, model),
        "squared": jnp.where(hopeless, jnp.inf, squared),
        "tried": jnp.full(pixels, level.count, jnp.int32),
        "done": (passed & ~lost) | hopeless,
    }
    careful = functools.partial(_again, problem, level, lanes, seen.pixel)
    return work_off(careful, state, chunk=CAREFUL, max_rounds=1, constant=("pixel",))


def _rmse_limit(problem: PreparedMesma, bands: int) -> Array:
    """Greatest squared residual."""
    return bands * problem.limits.rmse**2


def _passes(problem: PreparedMesma, error: Float[Array, "pixel band"], squared: Array) -> Bool[Array, "pixel"]:
    """Whether RMSE and the residual over consecutive bands are within their limits."""
    run, wanted = jnp.abs(error) > problem.limits.residual, problem.limits.bands
    length, bands = 1, error.shape[1]
    while length < wanted:  # runs of a length, and of that length further on, make longer ones
        by = min(length, wanted - length, bands)
        run = run & jnp.pad(run, ((0, 0), (0, by)))[:, by:]
        length += by
        if by == bands:
            break
    return (squared <= _rmse_limit(problem, bands)) & ~jnp.any(run, 1)


def _measured(
    problem: PreparedMesma, level: Level, lanes: _Lanes, pixel: Float[Array, "pixel band"], model: Int[Array, "pixel"]
) -> tuple[Array, Array]:
    """Squared residual of a model for each pixel, band by band, and whether it passes."""
    index, form = _looked_up(level, jnp.maximum(model, 0))
    fractions, _ = _fit(lanes, _own(index), form, level.size)
    error = pixel
    for slot, fraction in enumerate(fractions):
        error = error - fraction[:, None] * problem.spectra[index[slot]]
    error = jax.lax.optimization_barrier(error)
    squared = jnp.sum(error**2, 1)
    return squared, _passes(problem, error, squared) & (model >= 0)


def _again(problem: PreparedMesma, level: Level, lanes: _Lanes, pixel: Array, part: State) -> State:
    """The level once more for a few pixels, with every model measured that would be the best of those that pass."""
    lanes, pixel, size = lanes.of(part["pixel"]), pixel.at[part["pixel"]].get(mode="clip"), level.size
    # what the bands say differs from the search by rounding: nothing near the limit is left out
    limit = 1.001 * _rmse_limit(problem, pixel.shape[1]) + 1e-5 * jnp.sum(pixel**2, 1)
    limit = jnp.where(part["done"], -1.0, limit)

    def measure(m: Array, carry: Any, scores: Array, number: Array, index: Array, form: Array) -> Any:
        best, kept, squared = carry
        fractions, _ = _fit(lanes, _shared(index[m]), form[m], size)
        error = pixel
        for slot, fraction in enumerate(fractions):
            error = error - fraction[:, None] * problem.spectra[index[m, slot]]
        error = jax.lax.optimization_barrier(error)
        measured = jnp.sum(error**2, 1)
        better = (scores[m] < best) & (scores[m] <= limit) & _passes(problem, error, measured)
        return (
            jnp.where(better, scores[m], best),
            jnp.where(better, number * BLOCK + m, kept),
            jnp.where(better, measured, squared),
        )

    def turn(carry: Any, block: Any) -> tuple[Any, None]:
        number, index, form = block
        scores = jnp.stack([_score(problem, lanes, _shared(index[m]), form[m], size) for m in range(BLOCK)])
        scores = jax.lax.optimization_barrier(scores)

        def one(m: Array, carry: Any) -> Any:
            wanted = jnp.any((scores[m] < carry[0]) & (scores[m] <= limit))
            return jax.lax.cond(wanted, lambda c: measure(m, c, scores, number, index, form), lambda c: c, carry)

        wanted = jnp.any((scores < carry[0]) & (scores <= limit))
        return jax.lax.cond(wanted, lambda c: jax.lax.fori_loop(0, BLOCK, one, c), lambda c: c, carry), None

    pixels = pixel.shape[0]
    infinite = jnp.full(pixels, jnp.inf, pixel.dtype)
    blocks = jnp.arange(len(level.index), dtype=jnp.int32)
    start = (infinite, jnp.full(pixels, -1, jnp.int32), infinite)
    (_, kept, squared), _ = jax.lax.scan(turn, start, (blocks, level.index, level.form))
    return part | {
        "model": jnp.where(part["done"], part["model"], kept),
        "squared": jnp.where(part["done"], part["squared"], squared),
        "tried": jnp.where(part["done"], part["tried"], part["tried"] + level.count),
        "done": jnp.ones_like(part["done"]),
    }


def _choose(problem: PreparedMesma, squared: list[Array], seen: Seen) -> Int[Array, "pixel"]:
    """Which level wins; -1 where none has a model that passes."""
    bands, dtype = seen.pixel.shape[1], seen.s.dtype
    rounding = (4 * jnp.finfo(dtype).eps) ** 2 * (seen.s**2 + seen.rest)  # nothing is fitted better than that
    chosen, best = jnp.full(seen.s.shape, -1, jnp.int32), jnp.full_like(seen.s, jnp.inf)
    for number, (level, value) in enumerate(zip(problem.levels, squared, strict=True)):
        if problem.criterion == "fusion":
            cost = jnp.sqrt(value / bands)
            better = (cost + problem.limits.fusion <= best) & (cost < best)
        else:
            cost = jnp.maximum(value, rounding)
            misfit = bands * jnp.log(cost / bands) if problem.noise is None else cost / problem.noise**2
            cost = misfit + level.size * jnp.log(jnp.asarray(bands, dtype))
            better = cost < best
        better = better & jnp.isfinite(value)
        chosen, best = jnp.where(better, number, chosen), jnp.where(better, cost, best)
    return chosen
