"""Exact least squares in the reduced space, for many pixels at once, with a proof for each.

One contract, `solve` for one pixel; under ``vmap`` the pixels are gathered and a batch kernel runs, chosen by the
number of endmembers:

- up to 4: every support of the table is tried;
- up to 12: block principal pivoting (Judice and Pires 1994, 10.1016/0305-0548(94)90106-6) through the table;
- beyond: `support.py`, a first-order start and block principal pivoting with a Cholesky factor per support.

A table says how far a pixel is from the nearest place where another support would be optimal. Where that is more than
rounding can move the pixel, and the abundances answer so little to rounding that they are within tolerance, the answer
is proved. All other pixels are solved again in float64 from the support that was found, and `certificate.py` bounds the
errors of objective and abundances; a pixel that is still not proved is solved by `pivoting.py`, slow and always right.

Each kernel works on the pixels that are not yet done, gathered into chunks, so that the hardest pixel does not set the
price of all. Inside, the pixels are on the last axis.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unmix_jax.linalg import matmul
from unmix_jax.solvers.batching import batched_operation
from unmix_jax.solvers.certificate import Measured, abundance_tolerance, proved, tolerance
from unmix_jax.solvers.lanes import affine, apply, inner, over, stacked
from unmix_jax.solvers.pivoting import pivot_solve
from unmix_jax.solvers.support import first_guess, support_solve
from unmix_jax.solvers.tables import Geometry, Prepared, Region
from unmix_jax.solvers.worklist import State, first, work_off

__all__ = ["Reduced", "abundance_tolerance", "rounding", "solve", "tolerance"]

ENUMERATION_LIMIT = 4
CHUNK = 1024
REPAIR_CHUNK = 256
DOUBTFUL_CHUNK = 64  # of pixels whose table was not enough: most often there are few, and empty places cost as much
PIVOTS_PER_CHUNK = 2
MAX_CHUNK_ROUNDS = 30  # chunks that a pixel takes part in before it is handed to `pivot_solve`
NEAR_SIDE = 7.0  # times the noise: three to the sure side of one, three that this may cost another, and one
ONE_NEAR_SIDE = 9.0  # see `_block_pivot`
FAR_AWAY = 1e30  # a distance that never counts; its product with a length of zero is zero
# Error of the reduced problem, per length of its vectors, and of the table's normals of length one, per condition
# number of the support; ten units in the last place of float64 were seen.
TABLE_ERROR = 50 * 2.0**-52


class Reduced(eqx.Module):
    """Answer of the reduced problem ``½‖z − Fa‖²``.

    Attributes:
        abundances: the minimiser over the feasible set.
        steps: supports tried or pivots made.
        gap: upper bound on the objective minus its minimum, over half the squared norm of the pixel.
        explained: ``‖z‖² − ‖z − Fa‖²``, what the fit takes of the squared norm.
        bound: on the error of every abundance.
    """

    abundances: Float[Array, "*pixel endmember"]
    steps: Int[Array, "*pixel"]
    gap: Float[Array, "*pixel"]
    explained: Float[Array, "*pixel"]
    bound: Float[Array, "*pixel"]


class Parts(NamedTuple):
    """What the solvers need of `Prepared`, and the length of the brightest endmember as it is multiplied."""

    projector: Float[Array, "band latent"]
    geometry: Geometry
    exact_projector: Float[Array, "band latent"]
    exact: Geometry
    brightest: Float[Array, ""]


def rounding(dtype: Any, bands: int, latent: int, pixel: Any, endmember: Any) -> Any:
    """Error of a distance in the reduced space, for these lengths of the pixel and of the longest endmember.

    Errors of a product of n terms add up like a random walk. One product runs over the bands, one over the dimensions
    of the reduced space. The largest errors of 600 000 pixels in float32 were a third of the first term.
    """
    unit = 0.5 * float(jnp.finfo(dtype).eps)
    return unit * (bands**0.5 * pixel + (latent + 3) ** 0.5 * (pixel + endmember))


def solve(
    problem: Prepared, pixel: Float[Array, " band"], norm: Float[Array, ""], *, sum_to_one: bool, bounded: bool
) -> Reduced:
    """Solve for one pixel: argmin ½‖z − Fa‖² subject to Σa = 1 (``sum_to_one``) and a ≥ 0 (``bounded``).

    Args:
        problem: the prepared endmembers.
        pixel: zero in bands that do not count.
        norm: squared norm of the pixel, as the objective sees it.
        sum_to_one: whether abundances sum to one.
        bounded: whether abundances may not be negative.
    """
    # what is multiplied, and rounds: a baseline or correlated noise may leave little of it
    if problem.whitener is None and problem.baseline is None:
        length, brightest = jnp.sqrt(norm), _longest(problem.geometry)
    else:
        length, brightest = _multiplied(problem, pixel), jnp.max(_multiplied(problem, problem.endmembers))
    parts = Parts(problem.projector, problem.geometry, problem.exact_projector, problem.exact, brightest)
    return _operation(sum_to_one, bounded)(parts, pixel, norm, length)


def _multiplied(problem: Prepared, spectra: Float[Array, "*n band"]) -> Float[Array, "*n"]:
    """Length of spectra as they are multiplied, before anything cancels; no less."""
    if problem.whitener is not None and problem.whitener.ndim == 1:
        spectra = spectra * problem.whitener
    largest = jnp.max(jnp.abs(spectra), -1)
    safe = jnp.where(largest > 0, largest, 1.0)  # squares of very small and very large numbers are zero or infinite
    length = largest * jnp.sqrt(jnp.sum((spectra / safe[..., None]) ** 2, -1))
    if problem.whitener is not None and problem.whitener.ndim == 2:
        length = length * jnp.sqrt(jnp.sum(problem.projector**2))
    return length


@functools.cache
def _operation(sum_to_one: bool, bounded: bool) -> Callable[..., Reduced]:
    """The solver of one feasible set, for one pixel; ``vmap`` makes one larger batch."""
    batch = _bounded if bounded else _linear

    def many(problem: Parts, pixels: Array, norms: Array, lengths: Array) -> Reduced:
        if not len(pixels):  # chunks of nothing have no size
            nothing = jnp.zeros(0, pixels.dtype)
            empty = jnp.zeros((0, problem.geometry.factor.shape[1]), pixels.dtype)
            return Reduced(empty, jnp.zeros(0, jnp.int32), nothing, nothing, nothing)
        # the barrier keeps the transpose out of the product with the bands, which it would slow down
        z = jax.lax.optimization_barrier(matmul(pixels, problem.projector)).T
        return batch(problem, pixels, z, Measured(lengths, problem.brightest, norms), sum_to_one)

    def outline(problem: Parts, pixel: Any, norm: Any, length: Any) -> Any:
        del length

        def one() -> Reduced:
            number = jnp.zeros((), norm.dtype)
            abundances = jnp.zeros(problem.geometry.factor.shape[1], pixel.dtype)
            return Reduced(abundances, jnp.zeros((), jnp.int32), number, number, number)

        return jax.eval_shape(one)

    return batched_operation("least_squares", many, outline)


def _certify(geometry: Geometry, z: Array, abundances: Array, sum_to_one: bool) -> tuple[Array, Array, Array]:
    """Bound on the excess objective from the gradient g at ``abundances``, what the fit explains, and what it leaves.

    Simplex: the Frank-Wolfe gap ``g·a − min g``. Cone: ``g·a + ‖z‖ max_j (−g_j)₊ / (f_j·u)`` with ``u`` the mean
    direction of the endmembers, since no fit better than none has ``Σ a_j f_j·u > ‖z‖``; infinite where an endmember
    has no positive part along ``u`` and its gradient is negative.
    """
    fit = apply(geometry.factor, abundances)
    gradient = apply(geometry.factor.T, fit - z)
    explained, left = inner(2 * z - fit, fit), jnp.sqrt(inner(fit - z, fit - z))
    slack = inner(gradient, abundances)
    if sum_to_one:
        return jnp.maximum(slack - over(jnp.minimum, gradient), 0), explained, left
    reach = geometry.reach[:, None]
    steepness = jnp.where(reach > 0, -gradient / jnp.where(reach > 0, reach, 1.0), jnp.inf)
    downhill = over(jnp.maximum, jnp.where(gradient < 0, steepness, 0.0))
    return jnp.maximum(slack, 0) + jnp.sqrt(inner(z, z)) * downhill, explained, left


def _relative(excess: Array, norms: Array) -> Array:
    """The gap: excess over half the squared norm; NaN for a pixel of zeros."""
    energy = 0.5 * norms
    return jnp.where(energy > 0, excess / jnp.where(energy > 0, energy, 1.0), jnp.nan)


def _linear(problem: Parts, pixels: Array, z: Array, measured: Measured, sum_to_one: bool) -> Reduced:
    """Without bounds: one affine map; the excess is what the free directions could still gain."""
    geometry, exact = problem.geometry, problem.exact

    def affine_solution(geometry: Geometry, z: Array, measured: Measured, bands: int) -> Reduced:
        region = geometry.simplex if sum_to_one else geometry.cone

        def balanced(abundances: Array) -> Array:
            return abundances - (over(jnp.add, abundances) - 1) / len(abundances) if sum_to_one else abundances

        # Abundances sum to one up to rounding only, and the pseudo-inverse would multiply what that leaves of the mean
        # endmember by the condition number: what is left is taken from the mean on.
        middle = jnp.mean(geometry.factor, 1) * (1.0 if sum_to_one else 0.0)
        fit_of = functools.partial(affine, geometry.factor - middle[:, None], offset=middle)

        abundances = balanced(affine(region.linear, z, region.offset))
        # once more from what is left: the pseudo-inverse loses the condition number twice
        abundances = balanced(abundances + apply(region.linear, z - fit_of(abundances)))
        fit = fit_of(abundances)
        left = apply(region.plane.T, z - fit)
        steps = jnp.ones(z.shape[1], jnp.int32)
        explained = inner(2 * z - fit, fit)
        size = measured.length + measured.brightest * jnp.maximum(over(jnp.add, jnp.abs(abundances)), 1.0)
        noise = rounding(z.dtype, bands, len(z), size, 0.0) + TABLE_ERROR * size
        # columns are known to rounding, and what is left of the pixel pulls at the error
        eps = float(jnp.finfo(z.dtype).eps)
        rest = jnp.sqrt(jnp.maximum(measured.energy - explained, 4 * eps * measured.energy))
        noise = noise + region.sensitivity * TABLE_ERROR * measured.brightest * rest
        # a step that is not taken says what the pseudo-inverse itself may have left
        next_step = over(jnp.maximum, jnp.abs(apply(region.linear, z - fit)))
        bound = region.sensitivity * (noise + jnp.sqrt(inner(left, left))) + 2 * next_step
        gap = _relative(0.5 * inner(left, left), measured.energy)
        return Reduced(abundances.T, steps, gap, explained, bound)

    bands, norms = pixels.shape[1], measured.energy
    found = affine_solution(geometry, z, measured, bands)

    def again() -> Reduced:
        with jax.enable_x64(True):
            precise = matmul(pixels.astype(jnp.float64), problem.exact_projector).T
            found = affine_solution(exact, precise, _in_unit(measured, precise, exact), bands)
            return _rounded(found, exact.unit, z.dtype)

    if z.dtype == jnp.float64:
        return again()
    fine = _within(found, norms, 1.0) | ~jnp.isfinite(over(jnp.add, z))

    def mended() -> Reduced:
        """Only where it must be: what a pixel gets does not depend on the others of its tile."""
        return jax.tree.map(lambda x, y: jnp.where(fine.reshape(-1, *[1] * (x.ndim - 1)), x, y), found, again())

    return jax.lax.cond(jnp.all(fine), lambda: found, mended)


def _within(found: Reduced, norms: Array, largest: Any) -> Array:
    """Whether gap and bound are within tolerance, and may be trusted: squares of very small pixels are zero."""
    info = jnp.finfo(found.bound.dtype)
    near = found.bound <= 0.99 * abundance_tolerance(info.dtype) * largest
    return near & ~(found.gap > 0.5 * tolerance(info.dtype)) & (norms > float(info.tiny) / float(info.eps) ** 2)


def _rounded(precise: Reduced, unit: Array, dtype: Any) -> Reduced:
    """An answer in float64 in the precision and in the unit of the pixels, with what rounding adds to the bound."""
    change = jnp.max(jnp.abs(precise.abundances), -1) * jnp.finfo(dtype).eps
    explained = precise.explained * unit**2
    precise = eqx.tree_at(lambda r: (r.bound, r.explained), precise, (precise.bound + change, explained))
    return jax.tree.map(lambda x: x if x.dtype == jnp.int32 else x.astype(dtype), precise)


def _longest(geometry: Geometry) -> Array:
    """Length of the longest endmember in the reduced space."""
    return jnp.sqrt(jnp.max(jnp.diagonal(geometry.gram)))


def _bounded(problem: Parts, pixels: Array, z: Array, measured: Measured, sum_to_one: bool) -> Reduced:
    """The table, where there is one, and float64 for what it does not prove."""
    geometry, exact, exact_projector = problem.geometry, problem.exact, problem.exact_projector
    region = geometry.simplex if sum_to_one else geometry.cone
    count, dtype = geometry.factor.shape[1], z.dtype
    hopeless = ~jnp.isfinite(over(jnp.add, z))
    if region.table is None:
        inside = first_guess(geometry, z, sum_to_one)
        with jax.enable_x64(True):
            precise = matmul(pixels.astype(jnp.float64), exact_projector).T
            solved = _precisely(exact, precise, _in_unit(measured, precise, exact), inside, hopeless, sum_to_one)
            return _rounded(solved, exact.unit, dtype)

    norms, length, brightest = measured.energy, measured.length, measured.brightest
    longest = _longest(geometry)
    noise = rounding(dtype, pixels.shape[1], len(z), length, longest)
    kernel = _enumerate if count <= ENUMERATION_LIMIT else _block_pivot
    abundances, lengths, errors, steps = kernel(region, z, noise, TABLE_ERROR * brightest * (length + brightest))
    abundances = jnp.where(hopeless, jnp.nan, abundances)
    if sum_to_one:
        abundances = abundances / over(jnp.add, abundances)
    excess, explained, left = _certify(geometry, z, abundances, sum_to_one)
    largest = 1.0 if sum_to_one else jnp.maximum(over(jnp.maximum, abundances), 1.0)
    total = jnp.maximum(over(jnp.add, abundances), 1.0)
    reduction = TABLE_ERROR * (length + brightest * total)
    # columns are known to rounding, and what is left of the pixel pulls at the error
    pull = TABLE_ERROR * brightest * jnp.sqrt(norms)
    # The fit of the minimiser is the nearest to the pixel of all fits, and to go there from two pixels brings them no
    # further apart: from this pixel and from this fit, which is its own nearest. Exact fits are proved so, such as pure
    # pixels, which lie on the side of many supports.
    near = left + total * noise + reduction + region.sensitivity * pull
    bound = jnp.minimum((errors + reduction + lengths * pull) * lengths, region.sensitivity * near)
    bound = bound + float(jnp.finfo(dtype).eps) * largest
    found = Reduced(abundances.T, steps, _relative(excess, norms), explained, bound)
    # masked pixels and those that fill a tile are zero: nothing of theirs rounds, and they have no relative gap
    nothing = (over(jnp.maximum, jnp.abs(z)) == 0) & (norms == 0) & (longest > float(jnp.finfo(dtype).tiny) ** 0.5)
    skip = _within(found, jnp.where(nothing, jnp.inf, norms), largest) | hopeless

    def again() -> Reduced:
        """The pixels that are not to be skipped, in float64, a few at a time."""
        with jax.enable_x64(True):
            count_all = len(skip)
            size = min(DOUBTFUL_CHUNK, count_all)
            places, precise = _projected(pixels, exact_projector, ~skip, size)

            def more(state: Any) -> Any:
                turn, found = state
                rows = jax.lax.dynamic_slice(places, (turn * size,), (size,))
                z = jax.lax.dynamic_slice(precise, (turn * size, 0), (size, precise.shape[1])).T
                inside = (found.abundances > 0).at[rows].get(mode="clip").T
                mine = jax.tree.map(lambda x: x.at[rows].get(mode="clip") if x.ndim else x, measured)
                new = _precisely(exact, z, _in_unit(mine, z, exact), inside, rows == count_all, sum_to_one)
                new = _rounded(new, exact.unit, dtype)
                old = jax.tree.map(lambda x: x.at[rows].get(mode="clip"), found)
                new = eqx.tree_at(lambda r: r.steps, new, new.steps + old.steps)
                # near 1 / √eps the table in float64 may prove more than a Gram matrix can
                wins = ~(old.bound <= new.bound) | ~(old.gap <= 0.5 * tolerance(dtype))
                rows = jnp.where(wins, rows, count_all)
                return turn + 1, jax.tree.map(lambda x, y: x.at[rows].set(y, mode="drop"), found, new)

            number = jnp.sum(~skip)
            return jax.lax.while_loop(lambda state: state[0] * size < number, more, (0, found))[1]

    return jax.lax.cond(jnp.all(skip), lambda: found, again)


def _in_unit(measured: Measured, z: Array, exact: Geometry) -> Measured:
    """The same in float64 and in the unit of the exact problem, where it can be had, or what the endmembers can explain
    of the pixels: in float32 squares of very small or large pixels are zero or infinite.
    """
    rounded = 1 + 8 * jnp.finfo(measured.energy.dtype).eps
    inside = inner(z, z)
    length = measured.length.astype(z.dtype) / exact.unit
    energy = measured.energy.astype(z.dtype) / exact.unit**2 * rounded
    return Measured(
        jnp.maximum(jnp.where(jnp.isfinite(length), length, 0.0), jnp.sqrt(inside)),
        jnp.where(jnp.isfinite(measured.brightest), measured.brightest.astype(z.dtype) / exact.unit, _longest(exact)),
        jnp.maximum(jnp.where(jnp.isfinite(energy), energy, 0.0), inside),
    )


def _precisely(exact: Geometry, z: Array, measured: Measured, inside: Array, skip: Array, sum_to_one: bool) -> Reduced:
    """The answer in float64 from these supports, proved where it can be; NaN for pixels to skip."""
    abundances, steps, done = support_solve(exact, z, inside, skip, sum_to_one)
    fixed = {"z": z, "length": measured.length, "energy": measured.energy}
    state = fixed | {"abundances": abundances, "steps": steps, "done": done}

    def robust(chunk: State) -> State:
        """Single pivots: degenerate and dependent endmembers."""
        solve = functools.partial(pivot_solve, sum_to_one=sum_to_one)
        found, turns = jax.vmap(solve, (None, None, 1))(exact.factor, exact.gram, chunk["z"])
        return chunk | {"abundances": found.T, "steps": chunk["steps"] + turns, "done": jnp.ones_like(chunk["done"])}

    state = work_off(robust, state, chunk=REPAIR_CHUNK, max_rounds=1, constant=tuple(fixed))
    if sum_to_one:
        total = over(jnp.add, state["abundances"])
        state["abundances"] = state["abundances"] / jnp.where(total > 0, total, 1.0)
    blank = jnp.full(len(skip), jnp.nan, z.dtype)
    state |= {"gap": blank, "bound": blank, "explained": blank, "done": skip}
    judge = functools.partial(_judged, exact, measured.brightest, sum_to_one)
    state = work_off(judge, state, chunk=REPAIR_CHUNK, max_rounds=1, constant=(*fixed, "abundances", "steps"))
    abundances = jnp.where(skip, jnp.nan, state["abundances"])
    return Reduced(abundances.T, state["steps"], state["gap"], state["explained"], state["bound"])


def _projected(
    pixels: Array, projector: Array, wanted: Array, size: int
) -> tuple[Int[Array, " place"], Float[Array, "place latent"]]:
    """Places of the pixels that are wanted, one after the other, and these pixels in the reduced space, in float64.

    Where there are no more than `size`, only they are converted and multiplied.
    """
    count, latent = len(pixels), projector.shape[1]
    room = -(-count // size) * size

    def few() -> tuple[Array, Array]:
        places = first(wanted, size)
        some = matmul(pixels.at[places].get(mode="clip").astype(projector.dtype), projector)
        empty = jnp.zeros((room - size, latent), projector.dtype)
        return jnp.concatenate([places, jnp.full(room - size, count, jnp.int32)]), jnp.concatenate([some, empty])

    def every() -> tuple[Array, Array]:
        places = first(wanted, room)
        return places, matmul(pixels.astype(projector.dtype), projector).at[places].get(mode="clip")

    if count <= size:
        return every()
    return jax.lax.cond(jnp.sum(wanted) <= size, few, every)  # no loop: it would copy the pixels


def _judged(exact: Geometry, brightest: Array, sum_to_one: bool, chunk: State) -> State:
    """Gap, bound and what the fit explains, of abundances in float64."""
    z, abundances = chunk["z"], chunk["abundances"]
    excess, explained, _ = _certify(exact, z, abundances, sum_to_one)
    sensitivity = (exact.simplex if sum_to_one else exact.cone).sensitivity * len(abundances) ** 0.5
    measured = Measured(chunk["length"], brightest, chunk["energy"])
    sharp, bound = proved(exact.factor, exact.gram, z.T, abundances.T, 0.0, sum_to_one, sensitivity, measured=measured)
    gap = _relative(jnp.minimum(excess, sharp), chunk["energy"])
    return chunk | {"gap": gap, "bound": bound, "explained": explained, "done": jnp.ones_like(chunk["done"])}


def _enumerate(region: Region, z: Array, noise: Array, table_error: Array) -> tuple[Array, Array, Array, Array]:
    """The support whose smallest distance is largest, among all.

    Args:
        region: with a table.
        z: the pixels.
        noise: error of their distances by rounding.
        table_error: what the table adds to the noise, per length of the support: it was computed in float64 and loses
            the condition number.

    Returns:
        Abundances, the largest of their lengths, what that length is to be multiplied with for the error of an
        abundance (infinite: the support is not sure), and the supports that were tried.
    """
    table, lengths = region.table, region.lengths
    assert table is not None
    assert lengths is not None
    count, _, supports = table.shape

    columns = list(z)

    def attempt(carry: Any, support: Array) -> Any:
        best, steepest, abundances = carry
        entries, own = table[:, :, support], lengths[:, support]
        # an endmember that depends on the support has no distance: it does not count, and nothing is proved
        hidden = jnp.isnan(entries[:, -1])
        entries = jnp.where(hidden[:, None], jnp.append(jnp.zeros(len(z), z.dtype), FAR_AWAY), entries)
        forms = [
            functools.reduce(lambda s, j, i=i: s + entries[i, j] * columns[j], range(len(z)), entries[i, -1])  # type: ignore[misc]
            for i in range(count)
        ]
        score = functools.reduce(jnp.minimum, forms)
        better = score > best
        abundances = [jnp.where(better, forms[i] * own[i], abundances[i]) for i in range(count)]
        return (
            jnp.where(better, score, best),
            jnp.where(better, jnp.where(jnp.any(hidden), jnp.inf, jnp.max(own)), steepest),
            abundances,
        ), None

    pixels = z.shape[1]
    nothing = jnp.zeros(pixels, z.dtype)
    start = (jnp.full(pixels, -jnp.inf, z.dtype), nothing, [nothing] * count)
    (best, steepest, abundances), _ = jax.lax.scan(attempt, start, jnp.arange(supports))
    noise = noise + table_error * steepest
    errors = jnp.where(best > noise, noise, jnp.inf)
    return jnp.maximum(jnp.stack(abundances), 0), steepest, errors, jnp.full(pixels, supports, jnp.int32)


def _block_pivot(region: Region, z: Array, noise: Array, table_error: Array) -> tuple[Array, Array, Array, Array]:
    """Block principal pivoting, from the full support, with Murty's rule of one index as the guard.

    Endmembers that rounding does not let us tell in or out are kept in. Where there is one of them, and all other sides
    are far, the minimiser has this support or the one without it: it moves no more than a pixel that is brought to the
    sure side, which is three times the noise away. With the errors at both ends that makes nine.

    Args:
        region: as for `_enumerate`, and so are the others.
        z: the pixels.
        noise: of their distances.
        table_error: what the table adds.

    Returns:
        As `_enumerate`.
    """
    table, lengths = region.table, region.lengths
    assert table is not None
    assert lengths is not None
    count, width, supports = table.shape
    pixels = z.shape[1]
    bits = (1 << jnp.arange(count, dtype=jnp.int32))[:, None]

    def judge(forms: Array, noise: Array, support: Array) -> tuple[Array, Array]:
        # in and out differ by more than the noise of both, or a member could go in and out for ever
        wrong = forms < jnp.where((support & bits) > 0, -2 * noise, noise)
        number = jnp.sum(wrong, 0, dtype=jnp.int32)
        return jnp.sum(jnp.where(wrong, bits, 0), 0, dtype=jnp.int32), number

    full = table[:, :, supports - 1]
    forms = affine(full[:, :-1], z, full[:, -1])
    everyone = jnp.full(pixels, supports - 1, jnp.int32)
    wrong, number = judge(forms, noise, everyone)
    state = {
        "z": z,
        "noise": noise,
        "forms": forms,
        "support": everyone,
        "wrong": wrong,
        "number": number,
        "fewest": number + 1,
        "patience": jnp.full(pixels, 3, jnp.int32),
        "steps": jnp.ones(pixels, jnp.int32),
        "done": number == 0,
    }

    def pivot(s: State) -> State:
        progress = s["number"] < s["fewest"]
        block = progress | (s["patience"] > 0)
        spread = functools.reduce(lambda v, k: v | (v >> k), (1, 2, 4, 8), s["wrong"])
        support = s["support"] ^ jnp.where(block, s["wrong"], spread ^ (spread >> 1))

        def entry(i: int, j: int) -> Array:
            return table[i, j].at[support].get(mode="promise_in_bounds")

        forms = jnp.stack(
            [
                functools.reduce(
                    lambda total, j, i=i: total + entry(i, j) * s["z"][j],  # type: ignore[misc]
                    range(width - 1),
                    entry(i, width - 1),
                )
                for i in range(count)
            ]
        )
        wrong, number = judge(forms, s["noise"], support)
        new = {
            "z": s["z"],
            "noise": s["noise"],
            "forms": forms,
            "support": support,
            "wrong": wrong,
            "number": number,
            "fewest": jnp.minimum(s["fewest"], s["number"]),
            "patience": jnp.where(progress, 3, s["patience"] - 1),
            "steps": s["steps"] + 1,
            "done": number == 0,
        }
        return {name: jnp.where(s["done"], s[name], value) for name, value in new.items()}

    def several(s: State) -> State:
        return jax.lax.fori_loop(0, PIVOTS_PER_CHUNK, lambda _, s: pivot(s), s)

    state = work_off(several, state, chunk=CHUNK, max_rounds=MAX_CHUNK_ROUNDS, constant=("z", "noise"))
    own = stacked([lengths[i].at[state["support"]].get(mode="promise_in_bounds") for i in range(count)])
    forms, longest = state["forms"], over(jnp.maximum, own)
    noise = noise + table_error * longest
    close = over(jnp.add, jnp.where(forms >= NEAR_SIDE * noise, 0.0, 1.0))
    sure = over(jnp.add, jnp.where(forms > noise, 0.0, 1.0)) == 0
    # the side that is near belongs to a member, which is not far outside; others would have been let in
    outside = over(jnp.add, jnp.where((own > 0) | (forms > noise), 0.0, 1.0)) == 0
    apart = state["done"] & (close <= 1) & outside & (over(jnp.minimum, forms) > -3 * noise)
    errors = noise * jnp.where(sure, 1.0, jnp.where(apart, ONE_NEAR_SIDE, jnp.inf))
    abundances = jnp.where(own > 0, jnp.maximum(forms * own, 0), 0.0)  # what depends on the support has no distance
    return abundances, longest, errors, state["steps"]
