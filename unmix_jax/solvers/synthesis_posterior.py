"""Abundances averaged over which endmembers are in the pixel, by Gibbs sampling of pairs on the simplex."""

import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri
from jaxtyping import Array, Float
from scipy.special import gammaln

from unmix_jax.linalg import matmul, solve_lower
from unmix_jax.solvers.batching import without_derivatives
from unmix_jax.solvers.synthesis_basis import PreparedSynthesis
from unmix_jax.solvers.synthesis_marginal import marginal_of, residual_of, see
from unmix_jax.solvers.synthesis_simplex import back, in_chunks, whiten_rows
from unmix_jax.types import Solution

__all__ = ["posterior"]

CHUNK = 256  # pixels whose chains run side by side
TAIL = 5.0  # standard deviations from where a Gaussian tail is taken as z exp(-z²/2)
ALWAYS = 0.05  # share of turns of an endmember that was not seen
LEAST_CURVATURE = 1e-3  # below, two endmembers are the same to the data
ENOUGH = 0.1  # Monte-Carlo error of a mean or a deviation, in deviations: it adds half a per cent to the whole error
NEGLIGIBLE = 2e-3  # abundance: what is known to that is known well enough
ENOUGH_PRESENCE = 0.025  # Monte-Carlo error of a probability: twice that is 0.05
LOOKS = 4  # of a sweep: states between them are much alike where there are many endmembers
BATCHES = 16  # of the counted sweeps, whose scatter tells the Monte-Carlo error
ROOT_TWO_PI = float(np.sqrt(2 * np.pi))


def posterior(
    pixel: Float[Any, " band"],
    endmembers: PreparedSynthesis,
    *,
    sweeps: int = 1000,
    odds: float | Float[Any, ""] = 0.5,
    reweightings: int = 3,
    covariance: bool = True,
    key: Any = None,
) -> Solution:
    """Mean and covariance of the abundances, averaged over which endmembers are in the pixel.

    E[x | y] under p(x | y) ∝ p(x) N(y; xm, V), with m and V as in `marginal`. The prior p(x) makes k + 1 endmembers
    `odds` times as probable as k, all sets of k equally so, and is flat over the simplex of the set. A chain of pairs
    runs over sets and abundances at once: an endmember and one of those present share the sum of the two anew, by
    their exact conditional distribution, which includes that one of them takes all. A quarter of the sweeps, with V of
    `marginal`, finds where to look: the others have V at the second moments of these, and turn more often to
    endmembers that were seen. A tenth of each part is not counted. Derivatives are not defined.

    What is returned is an average over a chain of finite length, and its Monte-Carlo standard errors are returned too.
    They fall with the square root of `sweeps`: at 1000, that of a standard deviation is typically 3 to 6 % of it.

    They do not cover that V is held. Against quadrature over three endmembers with V = noise + Σ x_i² C_i at every x,
    that moves means by 0.06 standard deviations (root mean square), nine of ten standard deviations by less than 6 %
    and probabilities by up to 0.03; where the variation is as large as the differences of the endmembers (scales that
    vary by 10 %, noise of 0.02), means by 0.14 standard deviations and probabilities by up to 0.15.

    Args:
        pixel: spectrum, in the unit of the endmembers.
        endmembers: what `prepare_synthesis` made of a generator.
        sweeps: of as many pairs as there are endmembers.
        odds: how probable one endmember more is, before the pixel is seen.
        reweightings: of `marginal`, where the chain starts.
        covariance: report it in full; ``fitted["deviation"]`` is there in any case.
        key: random key; a fixed one where it is left out, so that a call repeats itself.

    Returns:
        A `Solution`: the mean, the covariance around it, ``fitted["presence"]``, the probability that an endmember is
        in the pixel at all, the ``deviation`` of each abundance, and ``chi2`` of `marginal`. ``fitted["mean_error"]``,
        ``fitted["deviation_error"]`` and ``fitted["presence_error"]`` [endmember] are the Monte-Carlo standard errors
        of abundances, deviations and presence: how much another key would change them (one standard deviation), from
        the scatter of the means of 16 batches of sweeps. They cannot know of a set of endmembers that the chain never
        reached. The gap is undefined (NaN). ``converged``: in every endmember the error of the mean and that of the
        deviation are at most a tenth of the deviation, or 0.002, and that of the presence at most 0.025; more sweeps
        help where they are not, four times as many halve the errors.

    Raises:
        ValueError: if pixel and endmembers differ in their number of bands, there are fewer than 20 sweeps, or odds
            that are not finite and above zero (those that are traced leave ``converged`` False).

    Reference:
        Dobigeon et al. 2008, doi:10.1109/TSP.2008.917851, for Gibbs sampling on the simplex; George & McCulloch 1997,
        Statistica Sinica 7, 339, for averaging over sets of predictors.
    """
    if sweeps < 20:
        raise ValueError(f"a posterior takes 20 sweeps or more, got {sweeps}")
    if not isinstance(odds, jax.core.Tracer) and not 0 < odds < np.inf:
        raise ValueError(f"odds are finite and above zero, got {odds}")
    pixel, endmembers = without_derivatives("posterior", (pixel, endmembers))
    seen = see(pixel, endmembers)
    first = marginal_of(seen, endmembers, reweightings)
    key = jax.random.key(0) if key is None else key

    def sample(shared: tuple[PreparedSynthesis, Array], z: Array, start: Array, seed: Array) -> Any:
        prepared, prior = shared
        scouts, followers = jax.random.split(jax.random.wrap_key_data(seed))

        def run(squares: Array, state: Array, chances: Array, sweeps: int, key: Array) -> Any:
            rows, factor = whiten_rows(jnp.tensordot(squares, prepared.covariance, 1), prepared.mean - z)
            return _chain(matmul(rows, rows.T), prior, chances, state, sweeps, key), factor

        some = sweeps // 4
        one, _ = run(start**2, start, jnp.ones_like(start), some, scouts)
        squares = one["mean"] ** 2 + jnp.diag(one["covariance"])
        two, factor = run(squares, one["state"], ALWAYS + jnp.sqrt(one["presence"]), sweeps - some, followers)
        mean = two["mean"]
        error = solve_lower(factor, (z - matmul(mean, prepared.mean))[:, None])[:, 0]
        errors = {name: two[name] for name in ("mean_error", "deviation_error", "presence_error")}
        return mean, two["covariance"], two["presence"], errors, back(factor, error)

    weights = jnp.asarray(_log_weights(endmembers.count), seen.z.dtype)
    weights = weights + jnp.log(odds) * jnp.arange(endmembers.count + 1)
    own = (seen.z, first.abundances, jax.random.key_data(key))
    mean, spread, presence, errors, left = in_chunks(sample, (endmembers, weights), own, size=CHUNK)
    deviation = jnp.sqrt(jnp.maximum(jnp.diagonal(spread), 0))
    residual = residual_of(endmembers, seen, left)
    enough = jnp.maximum(ENOUGH * deviation, NEGLIGIBLE)
    settled = (errors["mean_error"] <= enough) & (errors["deviation_error"] <= enough)
    settled = settled & (errors["presence_error"] <= ENOUGH_PRESENCE)
    finite = jnp.isfinite(residual + jnp.sum(mean) + jnp.log(odds))  # a chain of comparisons with NaN stands still
    return eqx.tree_at(
        lambda s: (s.abundances, s.residual, s.gap, s.steps, s.converged, s.covariance, s.fitted),
        first,
        (
            mean,
            residual,
            jnp.full_like(first.gap, jnp.nan),
            jnp.asarray(sweeps, jnp.int32),
            finite & jnp.all(settled),
            spread if covariance else None,
            {"presence": presence, "deviation": deviation, **errors, "chi2": first.fitted["chi2"]},
        ),
    )


def _log_weights(count: int) -> np.ndarray:
    """Logarithm of the density of the prior where as many endmembers are present as the index says."""
    k = np.arange(1, count + 1)
    return np.append(-np.inf, gammaln(k) - (gammaln(count + 1) - gammaln(k + 1) - gammaln(count - k + 1)))


def _chain(gram: Array, weights: Array, chances: Array, state: Array, sweeps: int, key: Array) -> dict[str, Array]:
    """Moments over the sweeps and their Monte-Carlo errors, a tenth left out.

    `gram` is that of the endmembers less the pixel, whitened. Endmembers have their turn at random with these relative
    `chances`. What is averaged are the expectations after each move, given where the chain was before it and which
    pair was met: they vary less than the states themselves.
    """
    count = state.shape[0]
    looks = min(count, LOOKS)
    moves = -(-count // looks)
    burn = max(sweeps // 10, 1)
    counted = sweeps - burn
    batches = min(BATCHES, counted)
    order = jnp.triu(jnp.ones((count, count), state.dtype))  # a product with it is a cumulative sum
    chances = chances / jnp.sum(chances)
    upto = matmul(chances, order)
    nothing = jnp.zeros_like(state)

    def sweep(carry: dict[str, Array], number: Array) -> tuple[dict[str, Array], None]:
        point = carry["state"] / jnp.sum(carry["state"])
        draws = jax.random.uniform(jax.random.fold_in(key, number), (looks, moves, 4), state.dtype)

        def move(turn: Array, at: tuple[Array, Array, _Expected], draws: Array) -> tuple[Array, Array, _Expected]:
            return _move(gram, weights, chances, upto, order, at[:2], draws[turn])

        def look(turn: Array, both: tuple[Array, ...]) -> tuple[Array, ...]:
            point, slope, first, square, product, presence = both
            begun = (point, slope, _Expected(nothing, point[0], nothing, nothing))
            steps = functools.partial(move, draws=draws[turn])
            point, slope, expected = jax.lax.fori_loop(0, moves, steps, begun)
            away = expected.mean - state  # from where the chain began: digits would be lost from zero
            apart = expected.direction * jnp.sqrt(expected.variance)
            product = product + jnp.outer(away, away) + jnp.outer(apart, apart)
            square = square + away**2 + apart**2
            return point, slope, first + away, square, product, presence + expected.presence

        begun = (point, matmul(gram, point), nothing, nothing, carry["product"], nothing)
        point, _, first, square, product, presence = jax.lax.fori_loop(0, looks, look, begun)
        late = number >= burn
        batch = jnp.maximum(number - burn, 0) * batches // counted
        here = jnp.where(late, jnp.stack([first, square, presence]), 0.0) / looks
        return {
            "state": point,
            "product": jnp.where(late, product, carry["product"]),
            "batches": carry["batches"].at[batch].add(here),
        }, None

    empty = {"product": jnp.outer(nothing, nothing), "batches": jnp.zeros((batches, 3, count), state.dtype)}
    total, _ = jax.lax.scan(sweep, {"state": state, **empty}, jnp.arange(sweeps))
    mean, _, presence = jnp.sum(total["batches"], 0) / counted
    spread = total["product"] / (counted * looks) - jnp.outer(mean, mean)
    deviation = jnp.sqrt(jnp.maximum(jnp.diag(spread), 0))
    sizes = np.bincount(np.arange(counted) * batches // counted)[:, None, None]
    of_batch = total["batches"] / jnp.asarray(sizes, state.dtype)
    means, squares = of_batch[:, 0], of_batch[:, 1]
    squares = squares - 2 * mean * means + mean**2  # about the mean of all
    error = _standard_error(jnp.stack([means, squares, of_batch[:, 2]]))
    wide = deviation > 0
    never = 1 / (1 + counted * looks * moves * chances) if count > 1 else nothing  # one alone is certain
    return {
        "state": total["state"],
        "mean": jnp.where(presence > 0, jnp.maximum(state + mean, 0), 0.0),
        "covariance": spread,
        "presence": presence,
        "mean_error": error[0],
        "deviation_error": jnp.where(wide, 0.5 * error[1] / jnp.where(wide, deviation, 1.0), 0.0),
        # what never came in so many turns is not known to be absent better than that
        "presence_error": jnp.maximum(error[2], never),
    }


def _standard_error(batches: Float[Array, "number batch endmember"]) -> Float[Array, "number endmember"]:
    """Standard error of the mean over all batches, from their scatter.

    States that follow each other are alike, and so are batches that are too short for an endmember that seldom has its
    turn: batches twice and four times as long show that, and the greatest of the errors counts.
    """
    greatest = jnp.zeros_like(batches[:, 0])
    while batches.shape[1] >= 4:
        many = batches.shape[1]
        greatest = jnp.maximum(greatest, jnp.std(batches, 1, ddof=1) / many**0.5)
        half = many // 2
        batches = 0.5 * (batches[:, 0 : 2 * half : 2] + batches[:, 1 : 2 * half : 2])
    return greatest


class _Expected(NamedTuple):
    """What a move leads to on average, given its pair: mean of the point, its variance along the direction in which
    the pair exchanges, and how probably each endmember is present after it.
    """

    mean: Array
    variance: Array
    direction: Array
    presence: Array


def _move(
    gram: Array,
    weights: Array,
    chances: Array,
    upto: Array,
    order: Array,
    both: tuple[Array, Array],
    draw: Array,
) -> tuple[Array, Array, _Expected]:
    """An endmember and a present partner share their sum anew; `both` are abundances and the gradient.

    A pair is met at other rates where both are present, as either may be the one whose turn it is, than where one is:
    each outcome is weighed by the rate at which its pair would be met again, so that the chain is reversible.
    """
    point, slope = both
    index = jnp.arange(point.shape[0])
    turn = jnp.minimum(jnp.sum(draw[0] >= upto), point.shape[0] - 1)
    ours_now = index == turn
    present = (point > 0) & ~ours_now
    rank = matmul(present.astype(point.dtype), order)
    others = rank[-1]
    picked = present & (rank == jnp.floor(draw[1] * others) + 1)
    partner = jnp.sum(jnp.where(picked, index, 0))
    row, ours = gram[partner], gram[turn]
    mine = point[turn]
    total = mine + point[partner]
    curvature = jnp.maximum(ours[turn] + row[partner] - 2 * ours[partner], LEAST_CURVATURE)
    deviation = jax.lax.rsqrt(curvature)
    mode = mine - (slope[turn] - slope[partner]) / curvature
    low, high = -mode / deviation, (total - mode) / deviation
    mirrored = low + high < 0
    inside, z = _truncated(jnp.where(mirrored, -high, low), jnp.where(mirrored, -low, high), draw[2])
    share = mode + deviation * jnp.where(mirrored, -z, z)
    share = jnp.clip(share, 1e-4 * total, (1 - 1e-4) * total)

    present_now = others.astype(jnp.int32)  # with the partner, without ours
    log_both = weights[present_now + 1] + jnp.log(ROOT_TWO_PI * deviation) + inside
    log_none = weights[present_now] - 0.5 * low**2
    log_all = weights[present_now] - 0.5 * high**2
    top = jnp.maximum(jnp.maximum(log_both, log_none), log_all)
    p_both = jnp.exp(log_both - top) * (chances[turn] + chances[partner])
    p_none = jnp.exp(log_none - top) * chances[turn]
    p_all = jnp.exp(log_all - top) * chances[partner]
    whole = p_both + p_none + p_all
    p_both, p_none, p_all = p_both / whole, p_none / whole, p_all / whole
    alone = others <= 0  # nobody to exchange with
    mean = jnp.where(alone, mine, p_both * share + p_all * total)
    variance = p_both * (share - mean) ** 2 + p_none * mean**2 + p_all * (total - mean) ** 2
    direction = ours_now.astype(point.dtype) - picked
    exists = jnp.where(ours_now, p_both + p_all, jnp.where(picked, p_both + p_none, point > 0))
    expected = _Expected(
        jnp.where(ours_now, mean, jnp.where(picked, total - mean, point)),
        jnp.where(alone, 0.0, variance),
        direction,
        jnp.where(alone, (point > 0).astype(point.dtype), exists),
    )
    share = jnp.where(draw[3] < p_both, share, jnp.where(draw[3] < p_both + p_none, 0.0, total))
    share = jnp.where(alone, mine, share)
    moved = jnp.where(ours_now, share, jnp.where(picked, total - share, point))
    return moved, slope + (share - mine) * (ours - row), expected


def _truncated(low: Array, high: Array, draw: Array) -> tuple[Array, Array]:
    """Logarithm of the mass of a standard normal between two bounds, low + high ≥ 0, and a draw from there."""
    upper, beyond = ndtr(-low), ndtr(-high)
    mass = upper - beyond
    normal = -ndtri(jnp.clip(upper - draw * mass, 1e-30, 1.0))
    narrow = high - low < 1e-2
    flat = low + draw * (high - low)
    middle = 0.5 * (low + high)
    far = jnp.maximum(low, TAIL)
    ratio = -jnp.expm1(-0.5 * (high - low) * (high + low))  # of the mass above `low`, what lies below `high`
    rayleigh = jnp.sqrt(far**2 - 2 * jnp.log1p(-draw * ratio))
    in_tail = low > TAIL
    log_tail = -0.5 * far**2 - jnp.log(far * ROOT_TWO_PI) - 1 / far**2 + jnp.log(jnp.maximum(ratio, 1e-30))
    log_flat = jnp.log(jnp.maximum(high - low, 1e-30)) - 0.5 * middle**2 - jnp.log(ROOT_TWO_PI)
    log_mass = jnp.where(narrow, log_flat, jnp.where(in_tail, log_tail, jnp.log(jnp.maximum(mass, 1e-30))))
    z = jnp.where(narrow, flat, jnp.where(in_tail, rayleigh, normal))
    return log_mass, jnp.clip(z, low, high)
