"""Which physics mixed this pixel: any set of mixing models and solvers compared by their evidence, pixel by pixel.

A model that can do more fits better, whether it is true or not. The evidence, the likelihood averaged over all that the
model allows, charges it for that.
"""

from collections.abc import Mapping
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln, ndtr, ndtri
from jaxtyping import Array, Float, Int

from unmix_jax.linalg import matmul, squared_norm, whiten
from unmix_jax.solvers.batching import without_derivatives
from unmix_jax.solvers.inversion import invert
from unmix_jax.solvers.inversion_prepare import PreparedInversion
from unmix_jax.types import Solution

__all__ = ["Choice", "Compared", "choose", "log_evidence"]

FLAT = 1e-4  # inverse squared range that a parameter is known to at least, so that none is without a width
WIDER = 1.15  # than Laplace's Gaussian: the ratio of integrand and density stays bounded where tails are heavier
LATTICES, POINTS = 8, 128  # independent sets of points, and points of each
CHUNK = 32  # points at once: with a tile of pixels, their spectra are what memory holds
TAIL = 5.0  # standard deviations from where a Gaussian tail is drawn from z exp(-z²/2)
NARROW = 1e-2  # standard deviations: between bounds as near as that, uniformly
UNSURE = 0.03  # error of a probability with which the comparison still counts as done


class Compared(eqx.Module):
    """What comparing models says of a pixel.

    Attributes:
        model: number of the best one.
        log_evidence: of each, in nats; not a number where a model has no solution.
        probability: of each, if all were as likely before.
        error: standard error of each log evidence, in nats; zero by BIC, which is no integral.
    """

    model: Int[Any, "*pixel"]
    log_evidence: Float[Any, "*pixel model"]
    probability: Float[Any, "*pixel model"]
    error: Float[Any, "*pixel model"]


class Choice(eqx.Module):
    """An unmixer that solves a pixel by several, and returns the solution with the greatest evidence; see `choose`.

    Attributes:
        unmixers: the candidates.
        names: of them.
        noise: standard deviation of the noise; None: estimated by each.
        criterion: "evidence" or "bic".
    """

    unmixers: tuple[Any, ...]
    noise: Float[Array, ""] | None
    names: tuple[str, ...] = eqx.field(static=True)
    criterion: str = eqx.field(static=True)

    def __call__(self, pixel: Float[Any, " band"]) -> Solution:
        """The best solution of a pixel; ``fitted`` is a `Compared`, ``steps`` those of all."""
        pixel = without_derivatives("choose", jnp.asarray(pixel))
        solutions = [unmixer(pixel) for unmixer in self.unmixers]
        counts = {solution.abundances.shape[-1] for solution in solutions}
        if len(counts) > 1:
            told = ", ".join(f"{name} {s.abundances.shape[-1]}" for name, s in zip(self.names, solutions, strict=True))
            raise ValueError(f"the candidates differ in their number of abundances: {told}")
        pairs = [self._score(pixel, *pair) for pair in zip(self.unmixers, solutions, strict=True)]
        scores, errors = (jnp.stack(parts) for parts in zip(*pairs, strict=True))
        known = jnp.where(jnp.isnan(scores), -jnp.inf, scores)
        model = jnp.argmax(known)
        probability = jax.nn.softmax(known)
        chosen = Compared(model.astype(jnp.int32), scores, probability, errors)
        # d p_m = p_m (d s_m − Σ_k p_k d s_k)
        share = jnp.eye(len(scores), dtype=scores.dtype) - probability
        unsure = jnp.sqrt(jnp.sum((probability[:, None] * share * jnp.nan_to_num(errors)) ** 2, 1))
        sure = jnp.all(unsure <= UNSURE)
        count, dtype = counts.pop(), solutions[0].abundances.dtype
        unknown = jnp.full((count, count), jnp.nan, dtype)

        def of_winner(values: list[Array]) -> Array:
            return jnp.stack(values)[model]

        return Solution(
            abundances=of_winner([s.abundances for s in solutions]),
            residual=of_winner([s.residual for s in solutions]),
            gap=of_winner([s.gap for s in solutions]),
            steps=sum((s.steps for s in solutions), jnp.zeros((), jnp.int32)),
            converged=of_winner([s.converged for s in solutions]) & sure,
            covariance=of_winner([unknown if s.covariance is None else s.covariance for s in solutions]),
            fitted=chosen,
        )

    def _score(self, pixel: Any, unmixer: Any, solution: Solution) -> tuple[Array, Array]:
        problem = _problem(unmixer)
        if self.criterion == "evidence" and problem is not None:
            return log_evidence(pixel, problem, solution)
        bands = jnp.asarray(pixel.shape[0] if problem is None or problem.good is None else jnp.sum(problem.good))
        count = solution.abundances.shape[-1] - 1
        if problem is not None:
            count = problem.simplex - 1 + len(problem.low)
        likelihood = _likelihood(solution, bands, self.noise, count)
        score = likelihood - 0.5 * count * jnp.log(bands.astype(likelihood.dtype))
        return score, jnp.zeros_like(score)


def choose(
    candidates: Mapping[str, Any], *, noise: float | None = None, criterion: Literal["evidence", "bic"] = "evidence"
) -> Choice:
    """An unmixer that takes for each pixel the best of several.

    argmax_m log p(y | m). By "evidence", for inversions of mixing models, that is the integral of the likelihood over
    all abundances and parameters (`log_evidence`); other solvers, and all by "bic", have
    log L − ½ k log n, with k free abundances and parameters and n bands.

    Args:
        candidates: unmixers by name, for instance ``eqx.Partial(invert, endmembers=prepare_inversion(...))``; of any
            other, the likelihood is what its ``fitted["log_likelihood"]`` says, or that of its residual, and what it
            fits besides abundances does not count as free.
        noise: standard deviation of the noise, alike in all bands, in the unit of the pixels, for the latter; None:
            each estimates its own. Inversions have theirs from `prepare_inversion`: given for all, or for none.
        criterion: which of the two.

    Returns:
        A `Choice`: an unmixer whose ``fitted`` is a `Compared`. Its ``converged`` says that the solution of the best
        model has converged, and that no probability has a standard error above 0.03.

    Raises:
        ValueError: no candidate, an unknown criterion, noise that is known to some only, or a parameter with neither
            limits nor a prior: how much a model allows must be said.

    Reference:
        MacKay 1992, 10.1162/neco.1992.4.3.415; Schwarz 1978, 10.1214/aos/1176344136.
    """
    if not candidates:
        raise ValueError("choose needs candidates, got none")
    if criterion not in ("evidence", "bic"):
        raise ValueError(f"criterion is 'evidence' or 'bic', got {criterion!r}")
    if noise is not None and not noise > 0:
        raise ValueError(f"noise must be above zero, got {noise}")
    for name, unmixer in candidates.items():
        problem = _problem(unmixer)
        known = noise is not None if problem is None else problem.known_noise
        if known != (noise is not None):
            told = "knows its noise, and choose does not" if known else "knows no noise, and choose does"
            raise ValueError(
                f"{name} {told}: give noise to choose and to every prepare_inversion, or to none; a likelihood with "
                "known noise cannot be compared with one whose noise is estimated"
            )
        if problem is not None and criterion == "evidence":
            open_ended = ~np.isfinite(np.asarray(problem.high - problem.low)) & (np.asarray(problem.precision) == 0)
            if open_ended.any():
                raise ValueError(
                    f"parameter {int(np.argmax(open_ended))} of {name} has neither two limits nor a prior, so there is "
                    "no telling how much the model allows: give prepare_inversion limits or spread"
                )
    level = None if noise is None else jnp.asarray(noise, float)
    return Choice(tuple(candidates.values()), level, tuple(candidates), criterion)


def log_evidence(
    pixel: Float[Any, " band"], problem: PreparedInversion, solution: Solution
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Logarithm of the evidence of a mixing model, by importance sampling about its inversion of a pixel.

    log ∫ p(y | a, p) p(a) p(p) da dp, with abundances uniform on the simplex and parameters uniform between their
    limits (or under their prior). Points are drawn one coordinate after another from the Gaussian of Laplace's
    approximation, a little wider, each within what its limits and those before it leave (Geweke, Hajivassiliou and
    Keane), and the integrand is computed exactly at 1024 of them. A second maximum, far from the solution, is not seen.

    Args:
        pixel: spectrum, [band], in the unit of the endmembers.
        problem: what `prepare_inversion` made of endmembers and model, with two limits or a prior for each parameter.
        solution: of `invert`.

    Returns:
        Nats, and their standard error, from the scatter of eight independent sets of points. Without known noise, that
        of the residual is taken, which the data have then been used for. Not a number without a solution.

    Reference:
        MacKay 2003, Information Theory, Inference, and Learning Algorithms, chapters 27 and 29; Hajivassiliou,
        McFadden and Ruud 1996, 10.1016/0304-4076(94)01716-6, for the truncated Gaussian.
    """
    unknown = jnp.concatenate([solution.abundances, *map(jnp.ravel, jax.tree.leaves(solution.fitted.mixing))])
    count, size = problem.simplex, len(unknown)
    pixel = jnp.asarray(pixel, unknown.dtype)
    pixel = pixel if problem.good is None else jnp.where(problem.good, pixel, 0.0)

    def spectrum(unknown: Array) -> Array:
        return problem.whiten(problem.at(unknown[count:])(unknown[:count], problem.endmembers))

    white = problem.whiten(pixel)
    bands = jnp.asarray(len(pixel) if problem.good is None else jnp.sum(problem.good), unknown.dtype)
    squared, unit = squared_norm(spectrum(unknown) - white), jnp.ones((), unknown.dtype)
    if not problem.known_noise:
        free = jnp.sum((unknown > 0) & (jnp.arange(size) < count)) - 1 + size - count
        unit = jnp.maximum(squared / jnp.maximum(bands - free, 1), jnp.finfo(unknown.dtype).tiny)
    scale = 0.0 if problem.root is None else jnp.sum(jnp.log(jnp.where(problem.root > 0, problem.root, 1.0)))

    low = jnp.concatenate([jnp.zeros(count, unknown.dtype), problem.low])
    high = jnp.concatenate([jnp.ones(count, unknown.dtype), problem.high])
    precision = jnp.concatenate([jnp.zeros(count, unknown.dtype), problem.precision])
    center = jnp.concatenate([unknown[:count], problem.center])
    gaussian = problem.precision > 0
    reach = (problem.high - problem.low)[: size - count]
    density = gammaln(jnp.asarray(float(count), unknown.dtype)) + jnp.sum(
        jnp.where(
            gaussian,
            0.5 * jnp.log(jnp.where(gaussian, problem.precision, 1.0) / (2 * jnp.pi)),
            -jnp.log(jnp.where(gaussian, 1.0, reach)),
        )
    )
    constant = density - 0.5 * bands * jnp.log(2 * jnp.pi * unit) + scale

    def logarithm(unknown: Array) -> Array:
        """Of likelihood times prior, without constants."""
        misfit = squared_norm(spectrum(unknown) - white) / unit
        return -0.5 * misfit - 0.5 * jnp.sum(precision * (unknown - center) ** 2)

    if size == 1:  # the one abundance is 1: nothing to integrate
        return logarithm(unknown) + constant, jnp.zeros_like(unit)

    # coordinates without the greatest abundance, which answers for the sum
    eye = jnp.eye(size, dtype=unknown.dtype)
    pivot = jnp.argmax(unknown[:count])
    moves = eye.at[:, pivot].add(-(jnp.arange(size) < count).astype(unknown.dtype))
    rows = jax.jacfwd(spectrum)(unknown)
    gradient = matmul(spectrum(unknown) - white, rows) / unit + precision * (unknown - center)
    weak = jnp.where(jnp.isfinite(high - low), FLAT / (high - low) ** 2, 0.0)
    curvature = matmul(rows.T, rows) / unit + jnp.diag(precision + weak)
    gradient, curvature = matmul(moves, gradient), matmul(matmul(moves, curvature), moves.T)
    others = jnp.arange(size) != pivot
    bound = others & (((unknown <= low) & (gradient > 0)) | ((unknown >= high) & (gradient < 0)))
    # those on a bound are drawn first: the others, drawn given them, need not know of the truncation
    kept = jnp.argsort(jnp.where(bound, 0, jnp.where(others, 1, 2)), stable=True)[: size - 1]
    gradient, curvature, bound, eye = gradient[kept], curvature[kept][:, kept], bound[kept], eye[1:, 1:]
    abundance = kept < count
    scales = jnp.sqrt(jnp.diag(curvature))
    ridge = 4 * size * jnp.finfo(unknown.dtype).eps  # only of where is looked, not of what is found
    matrix = curvature / scales[:, None] / scales + ridge * eye
    # of those on a bound each has the slope there and, as if the others stayed, the curvature that the free ones leave
    free, both = ~bound, bound[:, None] & bound
    inverse_root = whiten(jnp.where(free[:, None] & free, matrix, eye), jnp.where(free, matrix, 0.0))[0]
    taken = matmul(inverse_root, inverse_root.T)
    stiff = jnp.maximum(jnp.diag(matrix - taken), 1e-6)
    matrix = jnp.where(both, taken + jnp.diag(stiff), matrix)
    # the inverse of a matrix with rows and columns turned round has a lower triangular root
    backwards = whiten(matrix[::-1, ::-1], eye)[0][::-1, ::-1]
    root = WIDER * backwards / scales[:, None]
    pull = jnp.where(bound, gradient, 0.0) / scales  # where they are free, what is left of it is rounding
    middle = unknown[kept] - matmul(matmul(backwards, backwards.T), pull) / scales
    lows, highs = low[kept], high[kept]

    def one(draws: Array) -> Array:
        """Logarithm of what is integrated over the density of the draw."""
        rest, total, point = jnp.ones_like(unit), jnp.zeros_like(unit), unknown
        normal: list[Array] = []
        for j in range(size - 1):
            base = middle[j] + sum((root[j, k] * z for k, z in enumerate(normal)), jnp.zeros_like(unit))
            top = jnp.where(abundance[j], jnp.maximum(rest, jnp.finfo(unknown.dtype).tiny), highs[j])
            z, log_density = _drawn((lows[j] - base) / root[j, j], (top - base) / root[j, j], draws[j])
            value = jnp.clip(base + root[j, j] * z, lows[j], top)
            rest = rest - jnp.where(abundance[j], value, 0.0)
            total = total + log_density - jnp.log(root[j, j])
            point = point.at[kept[j]].set(value)
            normal.append(z)
        return logarithm(point.at[pivot].set(jnp.maximum(rest, 0.0))) - total

    def some(_: None, draws: Array) -> tuple[None, Array]:
        return None, jax.nn.logsumexp(jax.vmap(one)(draws))

    draws = jnp.asarray(_lattices(size - 1), unknown.dtype)
    _, sums = jax.lax.scan(some, None, draws)
    each = jax.nn.logsumexp(sums.reshape(LATTICES, -1), axis=1) - np.log(POINTS)
    whole = jax.nn.logsumexp(each) - np.log(LATTICES)
    error = jnp.std(jnp.exp(each - whole), ddof=1) / LATTICES**0.5
    return whole + constant, error


def _lattices(size: int) -> np.ndarray:
    """Points of the unit cube, [chunk, point, size]: `LATTICES` shifted ones, each of `POINTS`.

    Additive recurrences with the powers of the root of ``x^(size + 1) = x + 1``, and random shifts, whose scatter tells
    the error (Cranley and Patterson 1976, 10.1137/0713071).
    """
    ratio = 2.0
    for _ in range(60):
        ratio = (1 + ratio) ** (1 / (size + 1))
    steps = np.arange(1, POINTS + 1)[:, None] * ratio ** -np.arange(1.0, size + 1)
    shifts = np.random.default_rng(0).random((LATTICES, 1, size))
    points = (steps + shifts) % 1
    return np.clip(points, 1e-6, 1 - 1e-6).reshape(-1, CHUNK, size)


def _drawn(low: Array, high: Array, draw: Array) -> tuple[Array, Array]:
    """A number between two bounds, after a standard normal there or nearly so, and the logarithm of its density."""
    mirrored = low + high < 0
    low, high = jnp.where(mirrored, -high, low), jnp.where(mirrored, -low, high)
    width = high - low
    # where nearly all is within, in a narrow place, and in the tail
    upper = ndtr(-low)
    mass = jnp.maximum(upper - ndtr(-high), 1e-30)
    normal = -ndtri(jnp.clip(upper - draw * mass, 1e-30, 1.0))
    normal = jnp.clip(normal, low, high)
    log_normal = -0.5 * normal**2 - 0.5 * jnp.log(2 * jnp.pi) - jnp.log(mass)
    narrow, in_tail = width < NARROW, low > TAIL
    flat = low + draw * width
    far, up_to = jnp.maximum(low, TAIL), jnp.maximum(high, TAIL)
    ratio = -jnp.expm1(-0.5 * (up_to - far) * (up_to + far))
    tail = jnp.clip(jnp.sqrt(far**2 - 2 * jnp.log1p(-draw * ratio)), far, up_to)
    log_tail = jnp.log(tail) - 0.5 * (tail - far) * (tail + far) - jnp.log(jnp.maximum(ratio, 1e-30))
    log_flat = -jnp.log(jnp.maximum(width, jnp.finfo(width.dtype).tiny))
    z = jnp.where(narrow, flat, jnp.where(in_tail, tail, normal))
    return jnp.where(mirrored, -z, z), jnp.where(narrow, log_flat, jnp.where(in_tail, log_tail, log_normal))


def _likelihood(solution: Solution, bands: Array, noise: Array | None, count: int) -> Array:
    """Logarithm of the likelihood of a solution, of itself or of its residual."""
    told = solution.fitted.get("log_likelihood") if isinstance(solution.fitted, dict) else None
    if told is not None:
        return told
    dtype = solution.residual.dtype
    variance = solution.residual**2 * bands / jnp.maximum(bands - count, 1)
    variance = jnp.maximum(variance, jnp.finfo(dtype).tiny) if noise is None else noise.astype(dtype) ** 2
    return -0.5 * bands * (solution.residual**2 / variance + jnp.log(2 * jnp.pi * variance))


def _problem(unmixer: Any) -> PreparedInversion | None:
    """The prepared problem of an unmixer that is an inversion."""
    if isinstance(unmixer, eqx.Partial) and unmixer.func is invert:
        problem = unmixer.keywords.get("endmembers")
        if isinstance(problem, PreparedInversion):
            return problem
        raise ValueError("an inversion among the candidates needs what prepare_inversion made of its model")
    return None
