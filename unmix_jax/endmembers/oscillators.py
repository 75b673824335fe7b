"""Least squares for one mineral: Levenberg-Marquardt on its oscillators, and the moves that change their number.

All functions here see one spectrum and a fixed number of axes and of places for oscillators; those not in use are
padding, so that a search over numbers of oscillators compiles once. The parameters in a row ("flat") are frequency,
damping and strength, each [axis, oscillator], then epsilon_inf and weights, each [axis].

The last weight is one minus the others: derivatives are taken along that constraint.
"""

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve, solve_triangular
from jaxtyping import Array, Bool, Float, Int, Key

from unmix_jax.linalg import matmul, squared_norm
from unmix_jax.physics.box import Box
from unmix_jax.physics.dispersion import Dispersion, emissivity, jacobian

__all__ = ["Candidates", "Target", "covariance", "drop", "flat", "grow", "prices", "refine", "restore", "weighted"]

FAMILIES = ("frequency", "damping", "strength", "epsilon_inf", "weights")
FIRST_DAMPING, LEAST_DAMPING, MOST_DAMPING = 1e-2, 1e-7, 1e4  # of Marquardt, relative to the diagonal
EASE, TIGHTEN = 0.3, 4.0  # what an accepted and a refused step make of it
RIDGE = 3e-3  # how much of a candidate must be new, relative to the diagonal
FRACTIONS = (1.0, 0.5, 0.25, 0.1, 0.03)  # of the strength that the linear model wants, for a new oscillator
FIRST_STRENGTHS = 1e-4, 2.0  # bounds on it


class Target(NamedTuple):
    """What is fitted: bands in cm⁻¹, values, weights (zero: ignored), the box and the least linewidth.

    The corners of the box have one axis with one oscillator, which stand for all.

    `l1` is the price of strength, in the unit of the sum of weighted squares; `penalty` that of a parameter, in the
    criterion.
    """

    wavenumber: Float[Array, " band"]
    spectrum: Float[Array, " band"]
    weights: Float[Array, " band"]
    box: Box
    linewidth: Float[Array, ""]
    l1: Float[Array, ""]
    penalty: Float[Array, ""]


class Candidates(NamedTuple):
    """Oscillators that may be added to a fit: cm⁻¹, and linewidth over frequency."""

    frequency: Float[Array, " candidate"]
    damping: Float[Array, " candidate"]


def flat(mineral: Dispersion) -> Float[Array, " parameter"]:
    """All parameters in a row, padding included."""
    return jnp.concatenate([getattr(mineral, name).reshape(-1) for name in FAMILIES])


def restore(values: Float[Array, " parameter"], like: Dispersion) -> Dispersion:
    """The inverse of `flat`; shapes and the active oscillators are those of `like`."""
    leaves, start = {}, 0
    for name in FAMILIES:
        shape, size = getattr(like, name).shape, getattr(like, name).size
        leaves[name] = values[start : start + size].reshape(shape)
        start += size
    return Dispersion(**leaves, active=like.active)


def _varied(active: Bool[Array, "axis oscillator"]) -> Bool[Array, " parameter"]:
    """Which of the parameters in a row are free: those of active oscillators, and all weights but the last."""
    axes = active.shape[0]
    own = active.reshape(-1)
    return jnp.concatenate([own, own, own, jnp.ones(axes, bool), jnp.arange(axes) < axes - 1])


def _slopes(mineral: Dispersion, wavenumber: Array) -> tuple[Array, Array]:
    """Emissivity, and its derivatives [parameter, band] along the constraint on the weights."""
    rendered, by = jacobian(mineral, wavenumber)
    rows = [getattr(by, name).reshape(-1, wavenumber.shape[0]) for name in FAMILIES]
    rows[-1] = rows[-1] - rows[-1][-1]
    return rendered, jnp.concatenate(rows)


def _by_step(mineral: Dispersion) -> Array:
    """Derivative of each parameter by its step: steps of damping are relative."""
    ones = jnp.ones_like(flat(mineral))
    size = mineral.frequency.size
    return ones.at[size : 2 * size].set(mineral.damping.reshape(-1))


class _Normal(NamedTuple):
    """Penalised cost, Gauss-Newton matrix and downhill gradient in the coordinates of a step."""

    cost: Float[Array, ""]
    matrix: Float[Array, "parameter parameter"]
    downhill: Float[Array, " parameter"]


def weighted(mineral: Dispersion, target: Target) -> tuple[Float[Array, " band"], Float[Array, "parameter band"]]:
    """Residual and derivatives by a step, times the root of the weights."""
    rendered, slopes = _slopes(mineral, target.wavenumber)
    root = jnp.sqrt(target.weights)
    return (target.spectrum - rendered) * root, slopes * _by_step(mineral)[:, None] * root


def _penalty(mineral: Dispersion, target: Target) -> Array:
    """The L1 term of eq. 6."""
    return target.l1 * jnp.sum(jnp.where(mineral.active, mineral.strength, 0.0))


def _normal(mineral: Dispersion, target: Target) -> _Normal:
    """What a Gauss–Newton step needs; the cost is infinite where the weights leave their bounds."""
    residual, slopes = weighted(mineral, target)
    price = jnp.zeros_like(flat(mineral)).at[2 * mineral.frequency.size : 3 * mineral.frequency.size].set(target.l1)
    last, box = mineral.weights[-1], target.box
    allowed = (last >= 0.99 * box.lower.weights[0]) & (last <= (1 + 1e-5) * box.upper.weights[0])
    cost = jnp.where(allowed, squared_norm(residual) + _penalty(mineral, target), jnp.inf)
    return _Normal(cost, matmul(slopes, slopes.T), matmul(slopes, residual) - 0.5 * price)


def _scale(matrix: Float[Array, "n n"], free: Bool[Array, " n"]) -> Float[Array, " n"]:
    """Factors that bring the diagonal of a Gauss-Newton matrix to one; zero for what is held."""
    tiny = float(jnp.finfo(matrix.dtype).tiny) * 1e6
    return jnp.where(free, jax.lax.rsqrt(jnp.maximum(jnp.diag(matrix), tiny)), 0.0)


def _factor(matrix: Array, scales: Array, damping: Array | float) -> Array:
    """Cholesky factor of the scaled matrix with a damped diagonal; rows that are held become the identity."""
    scaled = matrix * scales[:, None] * scales
    return jnp.linalg.cholesky(scaled + jnp.diag(jnp.where(scales > 0, damping + LEAST_DAMPING, 1.0)))


def _bounds(mineral: Dispersion, target: Target) -> tuple[Array, Array]:
    """Bounds of the parameters in a row; an oscillator is no narrower than the sampling."""

    def like_mineral(corner: Dispersion) -> Dispersion:
        return jax.tree.map(lambda value, bound: jnp.broadcast_to(bound, value.shape), mineral, corner)

    low, high = like_mineral(target.box.lower), like_mineral(target.box.upper)
    narrowest = jnp.maximum(low.damping, target.linewidth / mineral.frequency)
    return flat(replace(low, damping=narrowest)), flat(high)


def _inside(mineral: Dispersion, target: Target) -> Dispersion:
    """The nearest mineral in the box, the last weight following from the others."""
    frequency = jnp.clip(mineral.frequency, target.box.lower.frequency, target.box.upper.frequency)
    mineral = replace(mineral, frequency=frequency)
    mineral = restore(jnp.clip(flat(mineral), *_bounds(mineral, target)), mineral)
    return replace(mineral, weights=mineral.weights.at[-1].set(1 - jnp.sum(mineral.weights[:-1])))


def _stepped(mineral: Dispersion, step: Array, target: Target) -> Dispersion:
    """The mineral after a step, inside the box."""
    by = restore(step, mineral)
    moved = Dispersion(
        mineral.frequency + by.frequency,
        mineral.damping * jnp.exp(jnp.clip(by.damping, -2.0, 2.0)),
        mineral.strength + by.strength,
        mineral.epsilon_inf + by.epsilon_inf,
        mineral.weights + by.weights,
        mineral.active,
    )
    return _inside(moved, target)


def _free(mineral: Dispersion, target: Target, downhill: Array) -> Array:
    """Parameters that may move: active, and not at a wall that the descent runs into."""
    low, high = _bounds(mineral, target)
    values, slack = flat(mineral), 1 + 1e-5
    at_low, at_high = values <= low * slack, values * slack >= high
    return _varied(mineral.active) & ~(at_low & (downhill < 0)) & ~(at_high & (downhill > 0))


def refine(
    mineral: Dispersion, target: Target, steps: Int[Array, ""] | int
) -> tuple[Dispersion, Float[Array, ""], Float[Array, ""]]:
    """Levenberg-Marquardt in a box, with Marquardt's scaling; a step that does not help is taken back.

    Returns:
        The best mineral met, its weighted sum of squares (without the L1 term), and the greatest cosine between the
        residual and a free derivative, which is zero at a minimum.
    """
    mineral = _inside(mineral, target)

    def body(_: Array, state: tuple[Dispersion, _Normal, Array]) -> tuple[Dispersion, _Normal, Array]:
        now, normal, damping = state
        scales = _scale(normal.matrix, _free(now, target, normal.downhill))
        factor = _factor(normal.matrix, scales, damping)
        step = cho_solve((factor, True), normal.downhill * scales) * scales
        trial = _stepped(now, step, target)
        there = _normal(trial, target)
        better = there.cost < normal.cost
        damping = jnp.where(better, damping * EASE, damping * TIGHTEN)
        kept = jax.tree.map(lambda new, old: jnp.where(better, new, old), (trial, there), (now, normal))
        return *kept, jnp.clip(damping, LEAST_DAMPING, MOST_DAMPING)

    # Knowing nothing, the first round makes a step of zero and accepts it: one trace of the Jacobian serves all.
    nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(_normal, mineral, target))
    unknown = nothing._replace(cost=jnp.full_like(nothing.cost, jnp.inf))
    start = (mineral, unknown, jnp.asarray(FIRST_DAMPING / EASE, target.spectrum.dtype))
    mineral, normal, _ = jax.lax.fori_loop(0, steps + 1, body, start)
    squares = jnp.maximum(normal.cost - _penalty(mineral, target), 0.0)
    cosines = normal.downhill * _scale(normal.matrix, _free(mineral, target, normal.downhill))
    return mineral, squares, jnp.max(jnp.abs(cosines)) / jnp.sqrt(jnp.maximum(squares, 1e-30))


def grow(
    mineral: Dispersion,
    target: Target,
    standing: tuple[Array, Array],
    key: Key[Array, ""],
    heat: Float[Array, ""],
    offers: Candidates,
    count: int,
) -> Dispersion:
    """Minerals with one oscillator more, the most promising ones.

    With d the derivative of the spectrum with respect to the strength of a candidate at zero and d' what of d the
    parameters so far cannot do, the squares fall by (d'·r)² / (d'·d') in the linear model (a score test).

    Args:
        mineral: where the fit stands.
        target: the data.
        standing: its residual and derivatives, from `weighted`.
        key: random key.
        heat: standard deviation of the log-normal factor on each score; 0 takes the best.
        offers: candidates, tried on every axis.
        count: number of minerals wanted.

    Returns:
        Minerals with a leading axis; the same one where no place is left.
    """
    residual, slopes = standing
    axes, places = mineral.active.shape
    total = offers.frequency.shape[0]

    def widened(old: Array, new: Array | float) -> Array:
        return jnp.concatenate([old, jnp.broadcast_to(jnp.asarray(new, old.dtype), (axes, total))], axis=1)

    extended = Dispersion(
        widened(mineral.frequency, offers.frequency),
        widened(mineral.damping, offers.damping),
        widened(mineral.strength, 0.0),
        mineral.epsilon_inf,
        mineral.weights,
        jnp.concatenate([mineral.active, jnp.ones((axes, total), bool)], axis=1),
    )
    new = jacobian(extended, target.wavenumber)[1].strength[:, places:].reshape(axes * total, -1)
    new = new * jnp.sqrt(target.weights)
    matrix = matmul(slopes, slopes.T)
    scales = _scale(matrix, _varied(mineral.active))
    factor = _factor(matrix, scales, RIDGE)
    scaled = slopes * scales[:, None]
    known = solve_triangular(factor, matmul(scaled, jnp.concatenate([new, residual[None]]).T), lower=True)
    length = jnp.sum(new**2, axis=1)
    fresh = length - jnp.sum(known[:, :-1] ** 2, axis=0)
    along = matmul(new, residual) - matmul(known[:, -1], known[:, :-1])
    possible = (fresh > 1e-3 * length) & (along > 0)
    strength = along / jnp.where(possible, fresh, 1.0)
    scores = jnp.where(possible, along * strength, 0.0) * jnp.exp(
        heat * jax.random.normal(key, along.shape, jnp.float32)
    )
    scores = jnp.where(jnp.repeat(jnp.all(mineral.active, axis=1), total), 0.0, scores).astype(residual.dtype)
    frequency, damping = jnp.tile(offers.frequency, axes), jnp.tile(offers.damping, axes)
    axis_of = jnp.repeat(jnp.arange(axes), total)

    def pick(scores: Array, _: None) -> tuple[Array, Dispersion]:
        best = jnp.argmax(scores)
        where = axis_of[best], jnp.argmin(mineral.active[axis_of[best]])

        def added(fraction: Array) -> Dispersion:
            first = jnp.clip(strength[best], *FIRST_STRENGTHS) * fraction
            return Dispersion(
                mineral.frequency.at[where].set(frequency[best]),
                mineral.damping.at[where].set(damping[best]),
                mineral.strength.at[where].set(first),
                mineral.epsilon_inf,
                mineral.weights,
                mineral.active.at[where].set(True),
            )

        trials = jax.vmap(added)(jnp.asarray(FRACTIONS, residual.dtype))
        misfits = emissivity(trials, target.wavenumber) - target.spectrum
        chosen = jnp.argmin(matmul(misfits**2, target.weights))
        room = ~jnp.all(mineral.active)
        result = jax.tree.map(lambda new, old: jnp.where(room, new[chosen], old), trials, mineral)
        width = frequency[best] * damping[best]
        near = (axis_of == axis_of[best]) & (jnp.abs(frequency - frequency[best]) < width)
        return jnp.where(near, -1.0, scores), result

    return jax.lax.scan(pick, scores, length=count)[1]


def drop(
    mineral: Dispersion,
    slopes: Float[Array, "parameter band"],
    key: Key[Array, ""],
    heat: Float[Array, ""],
    count: int,
) -> Dispersion:
    """Minerals with one oscillator less, those that should cost least.

    Without oscillator k the squares rise by S_k² over its diagonal entry of H⁻¹ in the linear model, H being the
    Gauss-Newton matrix. An oscillator of the same axis within a linewidth inherits the strength: the two are merged,
    which the search keeps only where the criterion agrees.

    Args:
        mineral: where the fit stands.
        slopes: its derivatives, from `weighted`.
        key: random key.
        heat: standard deviation of the log-normal factor on each price; 0 takes the cheapest.
        count: number of minerals wanted.

    Returns:
        Minerals with a leading axis; the same one where a single oscillator is left.
    """
    rises = jnp.where(mineral.active, prices(mineral, slopes), jnp.inf).reshape(-1)
    rises = rises * jnp.exp(heat * jax.random.normal(key, rises.shape, jnp.float32)).astype(rises.dtype)
    places = mineral.active.shape[1]
    last = jnp.sum(mineral.active) <= 1

    def without(place: Array) -> Dispersion:
        axis, which = place // places, place % places
        frequency, width = mineral.frequency[axis], mineral.frequency[axis] * mineral.damping[axis]
        apart = jnp.abs(frequency - frequency[which]) / jnp.maximum(width, width[which])
        apart = jnp.where(mineral.active[axis] & (jnp.arange(places) != which), apart, jnp.inf)
        heir = jnp.argmin(apart)
        inherited = jnp.where((apart[heir] < 1) & ~last, mineral.strength[axis, which], 0.0)
        return Dispersion(
            mineral.frequency,
            mineral.damping,
            mineral.strength.at[axis, heir].add(inherited),
            mineral.epsilon_inf,
            mineral.weights,
            mineral.active.at[axis, which].set(last),
        )

    return jax.vmap(without)(jnp.resize(jnp.argsort(rises), (count,)))  # a few places more than once


def prices(mineral: Dispersion, slopes: Float[Array, "parameter band"]) -> Float[Array, "axis oscillator"]:
    """By how much the squares should rise without each oscillator, [axis, oscillator]."""
    matrix = matmul(slopes, slopes.T)
    scales = _scale(matrix, _varied(mineral.active))
    inverse = cho_solve((_factor(matrix, scales, 1e-5), True), jnp.eye(len(scales), dtype=scales.dtype))
    variances = restore(jnp.diag(inverse) * scales**2, mineral).strength
    return mineral.strength**2 / jnp.maximum(variances, 1e-30)


def covariance(mineral: Dispersion, target: Target) -> tuple[Float[Array, "parameter parameter"], Float[Array, ""]]:
    """Gauss-Newton covariance of the parameters in a row for unit noise variance, and how many of them are free.

    Parameters at a wall are held: their variance is zero, as is that of padding. The last weight varies against the
    others.
    """
    rendered, slopes = _slopes(mineral, target.wavenumber)
    root = jnp.sqrt(target.weights)
    downhill = matmul(slopes, (target.spectrum - rendered) * target.weights)
    free = _free(mineral, target, downhill)
    slopes = jnp.where(free[:, None], slopes * root, 0.0)
    lengths = jnp.sqrt(jnp.sum(slopes**2, axis=1))
    scales = jnp.where(lengths > 0, 1 / jnp.where(lengths > 0, lengths, 1.0), 0.0)
    # A QR factorisation keeps the digits that squaring would lose; the rows below hold what is not free.
    below = jnp.where(scales > 0, 10 * float(jnp.finfo(root.dtype).eps), 1.0)
    triangle = jnp.linalg.qr(jnp.concatenate([slopes.T * scales, jnp.diag(below)]), mode="r")
    inverse = solve_triangular(triangle, jnp.eye(len(scales), dtype=scales.dtype)) * scales[:, None]
    matrix = matmul(inverse, inverse.T)
    axes = mineral.weights.shape[0]
    matrix = matrix.at[-1].set(-jnp.sum(matrix[-axes:-1], axis=0))
    return matrix.at[:, -1].set(-jnp.sum(matrix[:, -axes:-1], axis=1)), jnp.sum(free).astype(root.dtype)
