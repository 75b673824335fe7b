"""An exact oracle of the convex problems, in long double: `exact`.

The problem is min ½‖y − aE‖² + l1 Σa over ``a ≥ 0``, over the simplex (where l1 changes nothing) or without bounds.
All products are formed in 80-bit floating point from the numbers that the solver got; nothing of the package is used.

1. E is reduced to R × R by Householder reflections, once.
2. SciPy's `nnls` finds a support in float64, for each pixel.
3. The problem on this support is solved by a factorisation in float64, refined with remainders in long double until
   the corrections are below 1e-17. Pixels whose support is too badly conditioned for it go on to step 5.
4. Abundances and gradients are computed in long double. Where all abundances are positive and all other gradients
   clearly so, the point is the minimiser.
5. All other pixels: the active-set method of Lawson and Hanson in long double, from SciPy's support on, by
   Gram-Schmidt orthogonalisation that is done twice.

A minimiser is `single` where the members whose gradient is zero or nearly so are (affinely) independent, `several`
where one of them can be exchanged for others at no cost. Neither is said where long double cannot decide it.
"""

from typing import Any, NamedTuple

import numpy as np
import scipy.optimize

__all__ = ["Exact", "exact", "prepared_rows"]

LONG = np.longdouble
EPS = float(np.finfo(LONG).eps)
EXACT_ENOUGH = EPS < 1e-18  # not on machines where long double is float64
ROUNDING = 100.0  # errors of long double in a gradient or a remainder, in eps: a few products over up to 500 numbers
DEPENDENT = 64 * EPS  # length of what Gram-Schmidt leaves of a dependent column, per length of the column
REFINED = 1e-17  # the last correction, relative to the abundances
CHUNK = 2048  # pixels whose members are gathered at once


class Exact(NamedTuple):
    """What the oracle knows of each pixel.

    Attributes:
        abundances: [pixel, endmember] in long double.
        verified: whether the conditions of optimality hold, up to the rounding of long double.
        error: how far the abundances may be from the exact ones; infinite where that is not known.
        single: the minimiser is proved to be the only one.
        several: it is proved that there are others.
    """

    abundances: np.ndarray
    verified: np.ndarray
    error: np.ndarray
    single: np.ndarray
    several: np.ndarray


def prepared_rows(
    rows: Any, *, weights: Any = None, noise_covariance: Any = None, baseline: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """The matrix [band, band'] in long double that whitens rows and removes the baseline, and the rows after it."""
    rows = np.asarray(rows, LONG)
    bands = rows.shape[1]
    good = np.ones(bands, bool) if weights is None else np.asarray(weights) > 0
    if noise_covariance is not None:
        covariance = np.where(good[:, None] & good, np.asarray(noise_covariance, LONG), np.eye(bands, dtype=LONG))
        whitener = _inverse_lower(_cholesky(covariance)).T * good[:, None]
    else:
        whitener = np.diag(np.ones(bands, LONG) if weights is None else np.sqrt(np.asarray(weights, LONG)))
    if baseline is not None:
        columns = np.where(good, np.asarray(baseline, LONG), 0) @ whitener
        basis, _, _ = _orthogonalised(columns.T)
        whitener = whitener - (whitener @ basis) @ basis.T
    return whitener, rows @ whitener


def exact(
    pixels: Any, endmembers: Any, *, bounded: bool = True, sum_to_one: bool = False, l1: Any = 0.0, **options: Any
) -> Exact:
    """Solve every pixel.

    Args:
        pixels: [pixel, band], as the solver got them.
        endmembers: [endmember, band], as the solver got them.
        bounded: whether abundances are not negative.
        sum_to_one: whether they sum to one.
        l1: weight of the penalty, for bounded abundances without a sum.
        options: weights, noise covariance and baseline columns, as of `prepare`.
    """
    pixels, endmembers = np.asarray(pixels, LONG), np.asarray(endmembers, LONG)
    if options:
        whitener, endmembers = prepared_rows(endmembers, **options)
        pixels = pixels @ whitener
    basis, factor = _reduced(endmembers.T)
    latent = pixels @ basis
    unit = _power_of_two(np.sqrt((factor**2).sum(0).max()))
    factor, latent = factor / unit, latent / unit
    own = np.ones(len(latent), LONG)
    if not sum_to_one:  # a tiny pixel has tiny abundances: its own unit changes nothing else
        own = _power_of_two(np.sqrt((latent**2).sum(1)))
        latent = latent / own[:, None]
    costs = np.zeros(len(latent), LONG) if sum_to_one else LONG(l1) / unit**2 / own
    found = _bounded(latent, factor, costs, sum_to_one) if bounded else _unbounded(latent, factor, sum_to_one)
    return found._replace(abundances=found.abundances * own[:, None], error=found.error * own.astype(float))


def _unbounded(latent: np.ndarray, factor: np.ndarray, sum_to_one: bool) -> Exact:
    """One factorisation for all pixels."""
    pixels, count = len(latent), factor.shape[1]
    columns, sizes = _columns(factor, range(count), sum_to_one)
    right = (latent - factor[:, 0] if sum_to_one else latent).T
    q, r, kept = _orthogonalised(columns, sizes)
    free = np.zeros((columns.shape[1], pixels), LONG)
    free[kept] = _solved_upper(r, q.T @ right)
    abundances = np.vstack([1 - free.sum(0), free]).T if sum_to_one else free.T
    independent = len(kept) == columns.shape[1]
    size = np.sqrt((right**2).sum(0)) + np.sqrt((abundances**2).sum(1))
    error = ROUNDING * EPS * size / _least_singular(r) if independent else np.full(pixels, np.inf)
    everywhere = np.ones(pixels, bool)
    return Exact(
        abundances.reshape(pixels, count), everywhere, np.asarray(error, float),
        everywhere & independent & (np.asarray(error) < 0.1 * np.maximum(1, np.abs(abundances).max(1))),
        everywhere & (not independent),
    )  # fmt: skip


def _bounded(latent: np.ndarray, factor: np.ndarray, costs: np.ndarray, sum_to_one: bool) -> Exact:
    """Supports of float64, refined; the rest in long double."""
    pixels, count = len(latent), factor.shape[1]
    starts = np.array(
        [_support(z, factor.astype(float), float(c), sum_to_one) for z, c in zip(latent, costs, strict=True)]
    )
    starts = starts.reshape(pixels, count)
    found = Exact(np.zeros((pixels, count), LONG), *(np.zeros(pixels, kind) for kind in (bool, float, bool, bool)))
    sizes = starts.sum(1)
    for size in np.unique(sizes):
        here = np.flatnonzero(sizes == size)
        for some in np.array_split(here, -(-len(here) // CHUNK)):
            part = _on_supports(latent[some], factor, costs[some], starts[some], int(size), sum_to_one)
            for whole, piece in zip(found, part, strict=True):
                whole[some] = piece
    for i in np.flatnonzero(~found.verified):
        for whole, piece in zip(found, _lawson_hanson(latent[i], factor, costs[i], starts[i], sum_to_one), strict=True):
            whole[i] = piece
    return found


def _support(z: np.ndarray, factor: np.ndarray, cost: float, sum_to_one: bool) -> np.ndarray:
    """Members of the minimiser, as far as float64 sees them."""
    z = np.asarray(z, float)
    if sum_to_one:  # the point of the cone over (error, 1) that is nearest to (0, 1) is a multiple of the minimiser
        shifted = factor - z[:, None]
        shifted = shifted / (np.abs(shifted).max() or 1.0)
        rows, right = np.vstack([shifted, np.ones(shifted.shape[1])]), np.append(np.zeros(len(z)), 1.0)
    else:
        rows, right = factor, z
        if cost:  # Σ F a = z − c w with Fᵀw = 1 has the gradient of the penalty, where the rows allow it
            right = z - cost * np.linalg.lstsq(factor.T, np.ones(factor.shape[1]), rcond=None)[0]
    try:
        found = scipy.optimize.nnls(rows, right, maxiter=100 * factor.shape[1])[0] > 0
    except RuntimeError:
        found = np.zeros(factor.shape[1], bool)
    if sum_to_one and not found.any():
        found[np.argmin(((factor - z[:, None]) ** 2).sum(0))] = True
    return found


def _on_supports(
    latent: np.ndarray, factor: np.ndarray, costs: np.ndarray, support: np.ndarray, size: int, sum_to_one: bool
) -> tuple[np.ndarray, ...]:
    """Many supports of one size: a factorisation in float64, remainders in long double."""
    pixels, count = support.shape
    members = np.nonzero(support)[1].reshape(pixels, size)
    columns = np.moveaxis(factor.T[members], 1, 2)  # [pixel, latent, member]
    target = latent
    if sum_to_one:
        target, columns = latent - columns[:, :, 0], columns[:, :, 1:] - columns[:, :, :1]
    width = columns.shape[2]
    free = np.zeros((pixels, width), LONG)
    settled = np.zeros(pixels, bool)
    least = np.ones(pixels)
    if width == 0:
        settled[:] = True
    elif width <= columns.shape[1]:
        r = np.linalg.qr(columns.astype(float))[1]
        least = np.linalg.svd(r, compute_uv=False)[:, -1]
        sound = least > 1e-7  # below, seminormal equations in float64 do not converge
        inverse = np.linalg.inv(np.where(sound[:, None, None], r, np.eye(width)))
        for _ in range(12):
            rest = target - (columns * free[:, None]).sum(2)
            pull = ((columns * rest[:, :, None]).sum(1) - (0 if sum_to_one else costs[:, None])).astype(float)
            step = np.einsum("pij,pj->pi", inverse, np.einsum("pji,pj->pi", inverse, pull))
            free = free + step
            settled = sound & (np.abs(step).max(1) <= REFINED * np.abs(free).max(1).astype(float))
            if settled[sound].all():
                break
    inside = np.hstack([1 - free.sum(1, keepdims=True), free]) if sum_to_one else free
    abundances = np.zeros((pixels, count), LONG)
    np.put_along_axis(abundances, members, inside, 1)
    fit = abundances @ factor.T
    gradient = (fit - latent) @ factor + costs[:, None]
    size_of = 1 + np.sqrt((latent**2).sum(1)) + np.sqrt((fit**2).sum(1)) + costs
    if sum_to_one:
        gradient = gradient - (gradient * abundances).sum(1, keepdims=True)
    noise = ROUNDING * EPS * size_of.astype(float)
    error = noise / least
    clear = np.where(support, np.inf, gradient.astype(float)).min(1) > np.maximum(4 * noise, 4 * error)
    positive = np.where(support, abundances.astype(float), np.inf).min(1) > error
    done = settled & clear & positive
    return abundances, done, np.where(done, error, np.inf), done, np.zeros(pixels, bool)


def _lawson_hanson(
    z: np.ndarray, factor: np.ndarray, cost: Any, start: np.ndarray, sum_to_one: bool
) -> tuple[np.ndarray, bool, float, bool, bool]:
    """One pixel in long double."""
    count = factor.shape[1]
    lengths = np.sqrt((factor**2).sum(0))
    noise = ROUNDING * EPS * (1 + np.sqrt((z**2).sum()) + lengths.max() + cost)
    abundances, inside, _ = _feasible(z, factor, cost, np.flatnonzero(start), np.zeros(count, LONG), sum_to_one)
    refused = np.zeros(count, bool)
    seen = np.inf
    for _ in range(20 * count + 100):
        gradient = factor.T @ (factor @ abundances - z) + cost
        if sum_to_one:
            gradient = gradient - gradient @ abundances
        outside = np.ones(count, bool)
        outside[inside] = False
        candidate = np.where(outside & ~refused, gradient, np.inf)
        j = int(np.argmin(candidate))
        if not candidate[j] < -noise:
            break
        tried, members, fine = _feasible(z, factor, cost, [*inside, j], abundances, sum_to_one)
        rest = z - factor @ tried
        value = 0.5 * (rest @ rest) + cost * tried.sum()
        if not fine or not value < seen:
            refused[j] = True  # its gain is below rounding
            continue
        abundances, inside, seen = tried, members, value
        refused[:] = False
    verified = bool((gradient[outside] >= -4 * noise).all()) and bool((abundances >= 0).all())
    near = np.flatnonzero(outside & (gradient < 16 * noise) & (lengths > 0))
    if sum_to_one:
        near = np.flatnonzero(outside & (gradient < 16 * noise))
    columns, sizes = _columns(factor, [*inside, *near], sum_to_one)
    _, r, kept = _orthogonalised(columns, sizes)
    width = len(inside) - (1 if sum_to_one else 0)
    # a member that can be made of those in use: something of it can be had for nothing
    several = False
    for i in range(len(near)):
        alone = _orthogonalised(*_columns(factor, [*inside, near[i]], sum_to_one))[2]
        if width not in alone:
            several = True
    zero_used = not sum_to_one and bool((lengths[abundances > 0] == 0).any())
    several = verified and (several or zero_used)
    independent = len(kept) == columns.shape[1]
    least = float(_least_singular(r)) if independent else 0.0
    error = float(4 * noise) / least if least > 0 else np.inf
    # members near zero may have to be let in: that moves the others, by no more than what their gradient asks for
    single = verified and independent and error < 1e-3
    return abundances, verified, error if verified else np.inf, single, several


def _columns(factor: np.ndarray, members: Any, sum_to_one: bool) -> tuple[np.ndarray, np.ndarray]:
    """Columns of the members, on the simplex their differences to the first, and the lengths they are made of."""
    chosen = factor[:, list(members)]
    lengths = np.sqrt((chosen**2).sum(0))
    if sum_to_one:
        return chosen[:, 1:] - chosen[:, :1], np.maximum(lengths[1:], lengths[0])
    return chosen, lengths


def _feasible(
    z: np.ndarray, factor: np.ndarray, cost: Any, members: Any, abundances: np.ndarray, sum_to_one: bool
) -> tuple[np.ndarray, list[int], bool]:
    """The minimiser on a support, or on what is left of it where abundances become negative."""
    members = [int(j) for j in members]
    newest = members[-1] if members else None
    count = factor.shape[1]
    first = True
    while True:
        best = np.zeros(count, LONG)
        columns, sizes = _columns(factor, members, sum_to_one)
        target = z - factor[:, members[0]] if sum_to_one else z
        q, r, kept = _orthogonalised(columns, sizes)
        if len(kept) < columns.shape[1]:
            dropped = [k for k in range(columns.shape[1]) if k not in kept]
            if not first or abundances.any():
                return abundances, members[:-1], False
            members = [m for k, m in enumerate(members) if k - (1 if sum_to_one else 0) not in dropped]
            continue
        free = _solved_upper(r, (q.T @ target)[:, None])[:, 0]
        if not sum_to_one and cost:
            free = free - _solved_upper(r, _solved_lower(r.T, np.full((len(kept), 1), cost)))[:, 0]
        best[members] = np.concatenate([[1 - free.sum()], free]) if sum_to_one else free
        if all(best[j] > 0 for j in members):
            return best, members, True
        if first and newest is not None and not abundances[members].any():
            # no feasible point yet: leave out what is negative
            worst = min(members, key=lambda j: best[j])
            members.remove(worst)
            if not members:
                if not sum_to_one:
                    return np.zeros(count, LONG), [], True
                nearest = int(np.argmin(((factor - z[:, None]) ** 2).sum(0)))
                best = np.zeros(count, LONG)
                best[nearest] = 1
                return best, [nearest], True
            continue
        first = False
        if newest is not None and abundances[newest] == 0 and best[newest] <= 0:
            return abundances, members, False  # rounding: its gradient asked for it
        step = min(abundances[j] / (abundances[j] - best[j]) for j in members if best[j] <= 0)
        abundances = abundances + step * (best - abundances)
        leaving = [j for j in members if best[j] <= 0 and abundances[j] <= EPS * np.abs(abundances).max()]
        if not leaving:
            leaving = [min((j for j in members if best[j] <= 0), key=lambda j: abundances[j])]
        abundances[leaving] = 0
        members = [j for j in members if j not in leaving]
        if sum_to_one:
            abundances = abundances / abundances.sum()


def _reduced(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal basis [band, latent] and factor [latent, endmember] of a matrix [band, endmember]."""
    bands, count = matrix.shape
    if bands <= count:
        return np.eye(bands, dtype=LONG), matrix
    unit = _power_of_two(np.abs(matrix).max())
    r = (matrix / unit).copy()
    vectors = []
    for k in range(count):
        v = r[k:, k].copy()
        length = np.sqrt(v @ v)
        if length > 0:
            v[0] += np.copysign(length, v[0])
            v /= np.sqrt(v @ v)
            r[k:, k:] -= 2 * np.outer(v, v @ r[k:, k:])
        vectors.append(v if length > 0 else None)
    q = np.eye(bands, count, dtype=LONG)
    for k in reversed(range(count)):
        v = vectors[k]
        if v is not None:
            q[k:] -= 2 * np.outer(v, v @ q[k:])
    return q, np.triu(r[:count]) * unit


def _orthogonalised(columns: np.ndarray, sizes: Any = None) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Q, R and the columns that do not depend on those before them, by Gram-Schmidt done twice.

    Sizes are lengths of what columns are differences of, which is what their rounding depends on.
    """
    rows, count = columns.shape
    sizes = np.sqrt((columns**2).sum(0)) if sizes is None else sizes
    q, r = np.zeros((rows, min(rows, count)), LONG), np.zeros((min(rows, count), count), LONG)
    kept: list[int] = []
    for k in range(count):
        v, before = columns[:, k].copy(), len(kept)
        for _ in range(2):
            part = q[:, :before].T @ v
            v = v - q[:, :before] @ part
            r[:before, k] += part
        left = np.sqrt(v @ v)
        if before < len(q.T) and left > DEPENDENT * sizes[k]:
            q[:, before], r[before, k] = v / left, left
            kept.append(k)
    return q[:, : len(kept)], r[: len(kept), kept], kept


def _solved_upper(r: np.ndarray, right: np.ndarray) -> np.ndarray:
    """R⁻¹ b, back substitution."""
    x = np.zeros((len(r), right.shape[1]), LONG)
    for k in reversed(range(len(r))):
        x[k] = (right[k] - r[k, k + 1 :] @ x[k + 1 :]) / r[k, k]
    return x


def _solved_lower(lower: np.ndarray, right: np.ndarray) -> np.ndarray:
    """L⁻¹ b, forward substitution."""
    x = np.zeros((len(lower), right.shape[1]), LONG)
    for k in range(len(lower)):
        x[k] = (right[k] - lower[k, :k] @ x[:k]) / lower[k, k]
    return x


def _inverse_lower(lower: np.ndarray) -> np.ndarray:
    """L⁻¹."""
    return _solved_lower(lower, np.eye(len(lower), dtype=LONG))


def _cholesky(matrix: np.ndarray) -> np.ndarray:
    """L of a positive definite matrix L Lᵀ."""
    lower = np.zeros_like(matrix)
    for k in range(len(matrix)):
        column = matrix[k:, k] - lower[k:, :k] @ lower[k, :k]
        lower[k:, k] = column / np.sqrt(column[0])
    return lower


def _least_singular(r: np.ndarray) -> float:
    """A lower estimate of the least singular value of a triangular matrix, from its inverse."""
    if not len(r):
        return 1.0
    inverse = _solved_upper(r, np.eye(len(r), dtype=LONG))
    return float(1 / np.sqrt((inverse**2).sum()))


def _power_of_two(length: Any) -> Any:
    """A power of two near a length; one for nothing."""
    length = np.asarray(length, LONG)
    return np.where(length > 0, np.exp2(np.round(np.log2(np.where(length > 0, length, 1)))), LONG(1))
