"""How far abundances can be from the exact minimiser: rigorous bounds on the objective and on every abundance.

For ``f(a) = ½‖z − Fa‖² + c·a`` over a ≥ 0, or over a ≥ 0 with Σa = 1, a feasible point a and the minimiser a*, let
``g = Fᵀ(Fa − z) + c`` (less ``g·a`` where abundances sum to one), ``d = a* − a`` and ``u = ‖Fd‖``. The minimum is
optimal and f is quadratic, so ``u² ≤ −g·d``. Take a set W of endmembers that holds all that are used, and all whose
gradient is nearly zero; let N be the others, with a = 0. With T the longest column (from Fa, on the simplex), and q the
length of what remains of the pixel along the columns of W,

    −g·d ≤ q ‖F_W d_W‖ − Σ_N g_j a*_j   and   ‖F_W d_W‖ ≤ u + T Σ_N a*_j,   so   u² ≤ q u − Σ_N (g_j − q T) a*_j.

Where every ``m_j = g_j − q T`` of N is positive, therefore

    u ≤ q,   Σ_N a*_j ≤ q² / (4 min m),   f(a) − f(a*) ≤ q²/2,   ‖F_W d_W‖ ≤ q + T q² / (4 min m),

and the abundances of W differ by no more than ``‖F_W d_W‖`` times the lengths of the rows of the pseudo-inverse of F_W.
That is the condition number times q, not its square root. Rounding errors are added to q and taken from every gradient.
The largest is that of the gradient of a poor fit: columns are known to rounding, what is left of the pixel pulls at the
error, and abundances answer with the square of the condition number. Everything here is in float64, whatever the
precision of the pixels.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unmix_jax.linalg import matmul

__all__ = ["ROUNDING", "Measured", "abundance_tolerance", "packed", "proved", "slot_sizes", "tolerance"]

SLOTS = (12, 24, 48, 96)  # sizes a set of endmembers is padded to; each is compiled
# Errors of float64 in what is left of a pixel, in units of eps (‖z‖ + T): a product over 500 bands and one over the
# endmembers, each of which grows with the square root of their number, with a margin of ten.
ROUNDING = 500.0
GRADIENT_ROUNDING = 10.0  # units in the last place, per term of a random walk
NEARLY = 8.0  # errors: a gradient that is smaller may be zero
TURNS = 3  # enlargements of W: each takes in what the last remainder does not exclude


class Measured(NamedTuple):
    """What a reduced problem was made of, whose rounding it inherits.

    A baseline or correlated noise may take nearly all of a pixel away, and leaves the rounding of all.

    Attributes:
        length: of the pixels as they are multiplied, [pixel].
        brightest: length of the brightest endmember as it is multiplied.
        energy: squared norm of the pixels as the objective sees them, no less, [pixel].
    """

    length: Any
    brightest: Any
    energy: Any


def tolerance(dtype: Any) -> float:
    """Largest relative gap that counts as solved, by precision."""
    return 3e-5 if jnp.finfo(dtype).bits == 32 else 1e-12


def abundance_tolerance(dtype: Any) -> float:
    """Largest bound on the error of an abundance that counts as solved, by precision."""
    return 1e-3 if jnp.finfo(dtype).bits == 32 else 1e-6


def slot_sizes(count: int) -> list[int]:
    """Sizes of packed sets of some of so many endmembers."""
    return [size for size in SLOTS if size < count] + [min(count, SLOTS[-1])]


def packed(inside: Array, slots: int) -> tuple[Array, Array]:
    """The endmembers of each set [pixel, endmember] in slots, in their order; index and whether a slot is taken."""
    pixels, count = inside.shape
    slot = jnp.where(inside, jnp.cumsum(inside, -1) - 1, slots)
    members = jnp.full((pixels, slots), count)
    pixel = jnp.arange(pixels)[:, None]
    members = members.at[pixel, slot].set(jnp.arange(count)[None, :], mode="drop")
    return jnp.minimum(members, count - 1), members < count


def proved(
    factor: Float[Array, "latent endmember"],
    gram: Float[Array, "endmember endmember"] | None,
    z: Float[Array, "pixel latent"],
    abundances: Float[Array, "pixel endmember"],
    costs: Any,
    sum_to_one: bool,
    sensitivity: Any = jnp.inf,
    *,
    measured: Measured,
) -> tuple[Float[Array, " pixel"], Float[Array, " pixel"]]:
    """Bounds on ``f(a) − f(a*)`` and on the largest ``|a_j − a*_j|``, infinite where nothing is proved.

    Args:
        factor: F, in float64.
        gram: FᵀF; None: it is computed for each set.
        z: the pixels, in float64.
        abundances: feasible points, in float64.
        costs: c, [pixel or 1, endmember or 1], or zero.
        sum_to_one: the simplex instead of the cone.
        sensitivity: norm of the pseudo-inverse of F, which bounds that of every set of columns; infinite where it is
            not known. Where it is small enough, no set has to be factored.
        measured: what was reduced to z and F.
    """
    count = factor.shape[1]
    lengths = jnp.sqrt(jnp.sum(factor**2, 0))
    longest = jnp.max(lengths)
    scale = jnp.where(longest > 0, longest, 1.0)
    fit = matmul(abundances, factor.T)
    costs = jnp.asarray(costs, z.dtype)
    if sum_to_one and (costs.ndim == 0 or costs.shape[-1] == 1):  # a constant, whose rounding would hide the rest
        costs = jnp.zeros((), z.dtype)
    costs = jnp.broadcast_to(costs, abundances.shape)
    gradient = matmul(fit - z, factor) + costs
    if sum_to_one:
        gradient = gradient - jnp.sum(gradient * abundances, -1, keepdims=True)
    reach = 2 * scale if sum_to_one else scale  # T: no column is farther than this from a mixture
    inside = jnp.sum(z**2, -1)
    brightest = jnp.maximum(measured.brightest, scale)
    largest = jnp.maximum(jnp.sum(abundances, -1), 1.0 if sum_to_one else 0.0)
    size = jnp.maximum(measured.length, jnp.sqrt(inside)) + brightest * largest
    cost = jnp.max(jnp.abs(costs), -1) / scale
    # squares below the smallest number are zero
    error = ROUNDING * jnp.finfo(z.dtype).eps * (size + cost) + 1e4 * float(jnp.finfo(z.dtype).tiny) ** 0.5

    # rounding of the gradient itself, which the columns of a set answer to with their condition number. The reduction
    # turns every column a little, also towards what is left of the pixel outside of the reduced space.
    rest = jnp.sqrt(jnp.sum((fit - z) ** 2, -1) + jnp.maximum(measured.energy - inside, 0.0))
    unsure = GRADIENT_ROUNDING * jnp.finfo(z.dtype).eps * count**0.5 * (scale * cost + brightest * rest)

    def concluded(near: Array, left: Array, sensitivity: Any) -> tuple[Array, Array, Array]:
        """Excess, bound and q, from the set W and what is left along it."""
        q = left + error
        margin = jnp.min(jnp.where(near, jnp.inf, gradient - ((error + q) * reach)[:, None]), -1)
        fine = (margin > 0) & jnp.isfinite(q) & jnp.isfinite(sensitivity)
        outside = jnp.where(fine & jnp.isfinite(margin), q**2 / (4 * jnp.where(margin > 0, margin, 1.0)), 0.0)
        bound = jnp.where(fine, sensitivity, 0.0) * (q + reach * outside) + outside
        return jnp.where(fine, 0.5 * q**2, jnp.inf), jnp.where(fine, bound, jnp.inf), q

    near = (abundances > 0) | (gradient <= (NEARLY * error * reach)[:, None])
    left = sensitivity * (jnp.sqrt(jnp.sum(jnp.where(near, gradient, 0.0) ** 2, -1)) + unsure)
    excess, bound, _ = concluded(near, left, sensitivity)
    sizes = slot_sizes(count)

    def turn(state: Any) -> Any:
        threshold, excess, bound, done, turns = state
        near = (abundances > 0) | (gradient <= threshold[:, None])
        many = jnp.sum(near, -1)
        needed = jnp.max(jnp.where(done, 0, jnp.minimum(many, sizes[-1])))

        def with_slots(slots: int) -> Any:
            return lambda: _along(factor, gram, gradient, near, slots, scale, sum_to_one)

        branch = jnp.searchsorted(jnp.asarray(sizes), needed)
        left, own = jax.lax.switch(branch, [with_slots(slots) for slots in sizes])
        left = left + jnp.where(jnp.isfinite(own), own, 0.0) * unsure
        new, closer, q = concluded(near, left, jnp.where(many <= sizes[-1], own, jnp.inf))
        wins = ~done & (closer < bound)
        done = done | jnp.isfinite(closer)
        threshold = jnp.maximum(threshold, 2 * (error + q) * reach)
        return threshold, jnp.where(wins, new, excess), jnp.where(wins, closer, bound), done, turns + 1

    enough = 0.1 * abundance_tolerance(z.dtype)
    state: Any = (NEARLY * error * reach, excess, bound, (bound <= enough) | ~jnp.isfinite(size), 0)
    unfinished = lambda state: jnp.any(~state[-2]) & (state[-1] < TURNS)  # noqa: E731
    _, excess, bound, _, _ = jax.lax.while_loop(unfinished, turn, state)
    return excess, bound


def _along(
    factor: Array, gram: Array | None, gradient: Array, near: Array, slots: int, scale: Array, sum_to_one: bool
) -> tuple[Array, Array]:
    """What is left of each pixel along the columns of its set, and how strongly abundances of the set answer to it."""
    index, filled = packed(near, slots)
    both = filled[:, :, None] & filled[:, None, :]
    if gram is None:
        columns = factor.T[index]
        inner = matmul(columns, columns.mT)
    else:
        inner = gram[index[:, :, None], index[:, None, :]]
    # on the simplex a constant changes nothing, and lets a set hold one member more than it has dimensions
    inner = jnp.where(both, inner / scale**2 + (1.0 if sum_to_one else 0.0), jnp.eye(slots))
    inverse = _inverse(inner)
    pull = jnp.where(filled, jnp.take_along_axis(gradient, index, -1), 0.0)
    turned = jnp.sum(inverse * pull[:, None], -1)
    left = jnp.sum(turned * pull, -1)
    diagonal = jnp.where(filled, jnp.diagonal(inverse, axis1=1, axis2=2), 0.0)
    condition = jnp.sum(diagonal, -1) * jnp.sum(jnp.where(filled, jnp.diagonal(inner, axis1=1, axis2=2), 0.0), -1)
    if sum_to_one:
        ones = jnp.sum(jnp.where(both, inverse, 0.0), -1)
        total = jnp.sum(ones, -1)
        left = left - jnp.sum(jnp.where(filled, turned, 0.0), -1) ** 2 / total
        diagonal = diagonal - ones**2 / total[:, None]
    # the inverse has a relative error of eps times the condition number of the Gram matrix: a tenth of it may be wrong
    sound = (condition * slots * jnp.finfo(inverse.dtype).eps < 0.05) & (jnp.min(diagonal, -1) >= 0)
    sensitivity = jnp.where(sound, 1.1 * jnp.sqrt(jnp.maximum(jnp.max(diagonal, -1), 0.0)), jnp.inf) / scale
    return 1.1 * jnp.sqrt(jnp.maximum(left, 0.0)) / scale, sensitivity


def _inverse(matrix: Float[Array, "pixel n n"]) -> Float[Array, "pixel n n"]:
    """Inverses of positive definite matrices, by pivots on the diagonal; not finite or negative where they are not.

    Along the pixels, where a call of LAPACK for each takes longer than all its arithmetic.
    """

    def pivot(k: Array, matrix: Array) -> Array:
        here = jnp.arange(matrix.shape[-1]) == k
        row, column = matrix[:, k], matrix[:, :, k]
        step = 1 / jnp.take_along_axis(row, jnp.full((len(row), 1), k), 1)
        across = row * step
        new = matrix - column[:, :, None] * across[:, None, :]
        new = jnp.where(here[:, None], jnp.where(here, step, across)[:, None, :], new)
        return jnp.where(here & ~here[:, None], -(column * step)[:, :, None], new)

    return jax.lax.fori_loop(0, matrix.shape[-1], pivot, matrix)
