"""Exact least squares in the reduced space, for many pixels at once, with a certificate for each.

One contract, `solve` for one pixel; under ``vmap`` the pixels are gathered and a batch kernel runs, chosen by the
number of endmembers:

- up to 4: every support of the table is tried;
- up to 12: block principal pivoting (Judice and Pires 1994, 10.1016/0305-0548(94)90106-6) through the table;
- beyond: `support.py`, a first-order start and block principal pivoting with a Cholesky factor per support.

Each works on the pixels that are not yet done, gathered into chunks, so that the hardest pixel does not set the
price of all. A pixel that a kernel leaves with too large a duality gap (degenerate or dependent endmembers) is
solved again by `pivoting.py`, slow and always right. Inside, the pixels are on the last axis.
"""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unmix_jax.solvers.lanes import affine, apply, inner, over
from unmix_jax.solvers.pivoting import pivot_solve, refine
from unmix_jax.solvers.support import support_solve
from unmix_jax.solvers.tables import Geometry
from unmix_jax.solvers.worklist import State, work_off

__all__ = ["Reduced", "solve", "tolerance"]

ENUMERATION_LIMIT = 4
CHUNK = 1024
REPAIR_CHUNK = 256
PIVOTS_PER_CHUNK = 2
MAX_CHUNK_ROUNDS = 30  # chunks that a pixel takes part in before it is handed to `pivot_solve`


class Reduced(eqx.Module):
    """Answer of the reduced problem ``½‖z − Fa‖²``.

    Attributes:
        abundances: the minimiser over the feasible set.
        steps: supports tried or pivots made.
        excess: upper bound on the objective minus its minimum.
        explained: ``‖z‖² − ‖z − Fa‖²``, what the fit takes of the squared norm.
    """

    abundances: Float[Array, "*pixel endmember"]
    steps: Int[Array, "*pixel"]
    excess: Float[Array, "*pixel"]
    explained: Float[Array, "*pixel"]


def tolerance(dtype: Any) -> float:
    """Largest relative gap that counts as solved, by precision."""
    return 3e-5 if jnp.finfo(dtype).bits == 32 else 1e-12


def solve(geometry: Geometry, z: Float[Array, " latent"], *, sum_to_one: bool, bounded: bool) -> Reduced:
    """Solve for one pixel: argmin ½‖z − Fa‖² subject to Σa = 1 (``sum_to_one``) and a ≥ 0 (``bounded``)."""
    answer = _many(sum_to_one, bounded)(geometry, z[None])
    return jax.tree.map(lambda x: x[0], answer)


@functools.cache
def _many(sum_to_one: bool, bounded: bool) -> Callable[..., Reduced]:
    """The batch solver of one feasible set; ``vmap`` over it flattens into one larger batch."""
    batch = _bounded if bounded else _linear

    @jax.custom_batching.custom_vmap
    def many(geometry: Geometry, z: Array) -> Reduced:
        # the barriers keep the transposes out of the products with the bands, which they would slow down
        answer = batch(geometry, jax.lax.optimization_barrier(z).T, sum_to_one)
        return jax.lax.optimization_barrier(answer)

    @many.def_vmap
    def _(axis_size: int, in_batched: Any, geometry: Geometry, z: Array) -> Any:
        geometry_batched, z_batched = in_batched
        if any(jax.tree.leaves(geometry_batched)):  # every pixel has its own endmembers: nothing to share
            axes = jax.tree.map(lambda batched: 0 if batched else None, geometry_batched)
            alone = _alone if bounded else batch
            own = jax.vmap(lambda geometry, z: alone(geometry, z.T, sum_to_one), (axes, 0 if z_batched else None))
            answer = own(geometry, z)
        else:
            answer = many(geometry, z.reshape(-1, z.shape[-1]))
            answer = jax.tree.map(lambda x: x.reshape(*z.shape[:-1], *x.shape[1:]), answer)
        return answer, jax.tree.map(lambda _: True, answer)

    return many


def _certify(geometry: Geometry, z: Array, abundances: Array, sum_to_one: bool) -> tuple[Array, Array]:
    """Bound on the excess objective from the gradient g at ``abundances``, and what the fit explains.

    Simplex: the Frank-Wolfe gap ``g·a − min g``. Cone: ``g·a + ‖z‖ max_j (−g_j)₊ / (f_j·u)`` with ``u`` the mean
    direction of the endmembers, since no fit better than none has ``Σ a_j f_j·u > ‖z‖``; NaN where an endmember has
    no positive part along ``u`` and its gradient is negative.
    """
    fit = apply(geometry.factor, abundances)
    gradient = apply(geometry.factor.T, fit - z)
    explained = inner(2 * z - fit, fit)
    slack = inner(gradient, abundances)
    if sum_to_one:
        return jnp.maximum(slack - over(jnp.minimum, gradient), 0), explained
    reach = jnp.where(geometry.reach > 0, geometry.reach, jnp.nan)[:, None]
    downhill = over(jnp.maximum, jnp.where(gradient < 0, -gradient / reach, 0.0))
    return jnp.maximum(slack, 0) + jnp.sqrt(inner(z, z)) * downhill, explained


def _linear(geometry: Geometry, z: Array, sum_to_one: bool) -> Reduced:
    """Without bounds: one affine map; the excess is what the free directions could still gain."""
    region = geometry.simplex if sum_to_one else geometry.cone
    abundances = affine(region.linear, z, region.offset)
    fit = apply(geometry.factor, abundances)
    left = apply(region.plane.T, z - fit)
    steps = jnp.ones(z.shape[1], jnp.int32)
    return Reduced(abundances.T, steps, 0.5 * inner(left, left), inner(2 * z - fit, fit))


def _alone(geometry: Geometry, z: Array, sum_to_one: bool) -> Reduced:
    """Pixels whose endmembers are theirs alone: single pivots."""
    robust = functools.partial(pivot_solve, sum_to_one=sum_to_one)
    abundances, steps = jax.vmap(robust, (None, 1))(geometry, z)
    return _judged(geometry, z, abundances, steps, sum_to_one)


def _judged(geometry: Geometry, z: Array, abundances: Array, steps: Array, sum_to_one: bool) -> Reduced:
    """The abundances [pixel, endmember] with their supports solved to full precision, certified."""
    polish = functools.partial(refine, sum_to_one=sum_to_one)
    abundances = jax.vmap(polish, (None, 1, 0))(geometry, z, abundances)
    excess, explained = _certify(geometry, z, abundances.T, sum_to_one)
    return Reduced(abundances, steps, excess, explained)


def _bounded(geometry: Geometry, z: Array, sum_to_one: bool) -> Reduced:
    """Fast kernel, certificate, and single pivots for what is not certified."""
    region = geometry.simplex if sum_to_one else geometry.cone
    if region.table is None:
        abundances, steps = support_solve(geometry, z, sum_to_one)
    elif region.table.shape[0] <= ENUMERATION_LIMIT:
        abundances, steps = _enumerate(region.table, z)
    else:
        abundances, steps = _block_pivot(region.table, z)
    if sum_to_one:
        abundances = abundances / over(jnp.add, abundances)
    excess, explained = _certify(geometry, z, abundances, sum_to_one)
    norm = inner(z, z)
    enough = 0.5 * tolerance(z.dtype) * norm
    hopeless = ~jnp.isfinite(norm)

    def again(chunk: State) -> State:
        """The better of two ways: the support that was found solved to full precision, or single pivots."""
        refined = _judged(geometry, chunk["z"], chunk["abundances"].T, jnp.zeros_like(chunk["steps"]), sum_to_one)
        for new in (refined, _alone(geometry, chunk["z"], sum_to_one)):
            better = (new.excess < chunk["excess"]) | ~jnp.isfinite(chunk["excess"])
            chunk = {
                "z": chunk["z"],
                "abundances": jnp.where(better, new.abundances.T, chunk["abundances"]),
                "steps": chunk["steps"] + new.steps,
                "excess": jnp.where(better, new.excess, chunk["excess"]),
                "explained": jnp.where(better, new.explained, chunk["explained"]),
                "done": jnp.ones_like(chunk["done"]),
            }
        return chunk

    state = {
        "z": z,
        "abundances": abundances,
        "steps": steps,
        "excess": excess,
        "explained": explained,
        "done": (excess <= enough) | hopeless,
    }
    state = work_off(again, state, chunk=REPAIR_CHUNK, max_rounds=1, constant=("z",))
    return Reduced(state["abundances"].T, state["steps"], state["excess"], state["explained"])


def _enumerate(table: Array, z: Array) -> tuple[Array, Array]:
    """The support whose worst form is best, among all."""
    count, _, supports = table.shape

    columns = list(z)

    def attempt(carry: Any, support: Array) -> Any:
        best, abundances = carry
        entries = table[:, :, support]
        forms = [
            functools.reduce(lambda s, j, i=i: s + entries[i, j] * columns[j], range(len(z)), entries[i, -1])  # type: ignore[misc]
            for i in range(count)
        ]
        score = functools.reduce(jnp.minimum, forms)
        better = score > best
        abundances = [
            jnp.where(better, jnp.where((support >> i) & 1 == 1, forms[i], 0.0), abundances[i]) for i in range(count)
        ]
        return (jnp.where(better, score, best), abundances), None

    pixels = z.shape[1]
    start = (jnp.full(pixels, -jnp.inf, z.dtype), [jnp.zeros(pixels, z.dtype)] * count)
    (_, abundances), _ = jax.lax.scan(attempt, start, jnp.arange(supports))
    return jnp.maximum(jnp.stack(abundances), 0), jnp.full(pixels, supports, jnp.int32)


def _block_pivot(table: Array, z: Array) -> tuple[Array, Array]:
    """Block principal pivoting, from the full support, with Murty's rule of one index as the guard."""
    count, width, supports = table.shape
    pixels = z.shape[1]
    bits = (1 << jnp.arange(count, dtype=jnp.int32))[:, None]
    small = -jnp.asarray(1e-6 if z.dtype == jnp.float32 else 1e-13, z.dtype)

    def judge(forms: Array) -> tuple[Array, Array]:
        wrong = forms < small
        number = jnp.sum(wrong, 0, dtype=jnp.int32)
        return jnp.sum(jnp.where(wrong, bits, 0), 0, dtype=jnp.int32), number

    full = table[:, :, supports - 1]
    forms = affine(full[:, :-1], z, full[:, -1])
    wrong, number = judge(forms)
    state = {
        "z": z,
        "forms": forms,
        "support": jnp.full(pixels, supports - 1, jnp.int32),
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
        wrong, number = judge(forms)
        new = {
            "z": s["z"],
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

    state = work_off(several, state, chunk=CHUNK, max_rounds=MAX_CHUNK_ROUNDS, constant=("z",))
    member = (state["support"] >> jnp.arange(count)[:, None]) & 1
    return jnp.maximum(jnp.where(member == 1, state["forms"], 0), 0), state["steps"]
