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
from jax.scipy.special import gammaln, log_ndtr
from jaxtyping import Array, Float, Int

from unmix_jax.linalg import matmul, squared_norm, whiten
from unmix_jax.solvers.inversion import invert
from unmix_jax.solvers.inversion_prepare import PreparedInversion
from unmix_jax.types import Solution

__all__ = ["Choice", "Compared", "choose", "laplace"]

FLAT = 1e-4  # inverse squared range that a parameter is known to at least, so that none is without a width


class Compared(eqx.Module):
    """What comparing models says of a pixel.

    Attributes:
        model: number of the best one.
        log_evidence: of each, in nats; not a number where a model has no solution.
        probability: of each, if all were as likely before.
    """

    model: Int[Any, "*pixel"]
    log_evidence: Float[Any, "*pixel model"]
    probability: Float[Any, "*pixel model"]


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
        solutions = [unmixer(pixel) for unmixer in self.unmixers]
        counts = {solution.abundances.shape[-1] for solution in solutions}
        if len(counts) > 1:
            told = ", ".join(f"{name} {s.abundances.shape[-1]}" for name, s in zip(self.names, solutions, strict=True))
            raise ValueError(f"the candidates differ in their number of abundances: {told}")
        scores = jnp.stack([self._score(pixel, *pair) for pair in zip(self.unmixers, solutions, strict=True)])
        known = jnp.where(jnp.isnan(scores), -jnp.inf, scores)
        model = jnp.argmax(known)
        chosen = Compared(model.astype(jnp.int32), scores, jax.nn.softmax(known))
        count, dtype = counts.pop(), solutions[0].abundances.dtype
        unknown = jnp.full((count, count), jnp.nan, dtype)

        def of_winner(values: list[Array]) -> Array:
            return jnp.stack(values)[model]

        return Solution(
            abundances=of_winner([s.abundances for s in solutions]),
            residual=of_winner([s.residual for s in solutions]),
            gap=of_winner([s.gap for s in solutions]),
            steps=sum((s.steps for s in solutions), jnp.zeros((), jnp.int32)),
            converged=of_winner([s.converged for s in solutions]),
            covariance=of_winner([unknown if s.covariance is None else s.covariance for s in solutions]),
            fitted=chosen,
        )

    def _score(self, pixel: Any, unmixer: Any, solution: Solution) -> Array:
        problem = _problem(unmixer)
        if self.criterion == "evidence" and problem is not None:
            return laplace(pixel, problem, solution)
        bands = jnp.asarray(pixel.shape[0] if problem is None or problem.good is None else jnp.sum(problem.good))
        count = solution.abundances.shape[-1] - 1
        if problem is not None:
            count = problem.simplex - 1 + len(problem.low)
        likelihood = _likelihood(solution, bands, self.noise, count)
        return likelihood - 0.5 * count * jnp.log(bands.astype(likelihood.dtype))


def choose(
    candidates: Mapping[str, Any], *, noise: float | None = None, criterion: Literal["evidence", "bic"] = "evidence"
) -> Choice:
    """An unmixer that takes for each pixel the best of several.

    argmax_m log p(y | m). By "evidence", for inversions of mixing models, that is Laplace's approximation of the
    integral of the likelihood over all abundances and parameters (`laplace`); other solvers, and all by "bic", have
    log L − ½ k log n, with k free abundances and parameters and n bands.

    Args:
        candidates: unmixers by name, for instance ``eqx.Partial(invert, endmembers=prepare_inversion(...))``; of any
            other, the likelihood is what its ``fitted["log_likelihood"]`` says, or that of its residual, and what it
            fits besides abundances does not count as free.
        noise: standard deviation of the noise, alike in all bands, in the unit of the pixels, for the latter; None:
            each estimates its own. Inversions have theirs from `prepare_inversion`: given for all, or for none.
        criterion: which of the two.

    Returns:
        A `Choice`: an unmixer whose ``fitted`` is a `Compared`.

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


def laplace(pixel: Float[Any, " band"], problem: PreparedInversion, solution: Solution) -> Float[Array, ""]:
    """Logarithm of the evidence of a mixing model, from its inversion of a pixel.

    log ∫ p(y | a, p) p(a) p(p) da dp, with abundances uniform on the simplex and parameters uniform between their
    limits (or under their prior): the integrand is taken as Gaussian about the solution. An abundance or parameter
    inside is integrated as far as its limits reach, each by itself; one on a bound, where the objective rises with
    slope λ and curvature h, contributes ∫ exp(−λx − ½hx²) dx.

    Args:
        pixel: spectrum.
        problem: what `prepare_inversion` made of endmembers and model, with two limits or a prior for each parameter.
        solution: of `invert`.

    Returns:
        Nats. Without known noise, that of the residual is taken, which the data have then been used for.

    Reference:
        MacKay 2003, Information Theory, Inference, and Learning Algorithms, chapter 27; the bounds are ours.
    """
    unknown = jnp.concatenate([solution.abundances, *map(jnp.ravel, jax.tree.leaves(solution.fitted.mixing))])
    count, size = problem.simplex, len(unknown)
    pixel = jnp.asarray(pixel, unknown.dtype)
    pixel = pixel if problem.good is None else jnp.where(problem.good, pixel, 0.0)

    def spectrum(unknown: Array) -> Array:
        return problem.whiten(problem.at(unknown[count:])(unknown[:count], problem.endmembers))

    error, rows = spectrum(unknown) - problem.whiten(pixel), jax.jacfwd(spectrum)(unknown)
    bands = jnp.asarray(len(pixel) if problem.good is None else jnp.sum(problem.good), unknown.dtype)
    squared, unit = squared_norm(error), jnp.ones((), unknown.dtype)
    if not problem.known_noise:
        free = jnp.sum((unknown > 0) & (jnp.arange(size) < count)) - 1 + size - count
        unit = jnp.maximum(squared / jnp.maximum(bands - free, 1), jnp.finfo(unknown.dtype).tiny)
    scale = 0.0 if problem.root is None else jnp.sum(jnp.log(jnp.where(problem.root > 0, problem.root, 1.0)))
    likelihood = -0.5 * squared / unit - 0.5 * bands * jnp.log(2 * jnp.pi * unit) + scale

    low = jnp.concatenate([jnp.zeros(count, unknown.dtype), problem.low])
    high = jnp.concatenate([jnp.ones(count, unknown.dtype), problem.high])
    reach, away = high - low, unknown[count:] - problem.center
    precision = jnp.concatenate([jnp.zeros(count, unknown.dtype), problem.precision])
    gradient = matmul(error, rows) / unit + precision * (unknown - jnp.concatenate([unknown[:count], problem.center]))
    weak = jnp.where(jnp.isfinite(reach), FLAT / reach**2, 0.0)
    curvature = matmul(rows.T, rows) / unit + jnp.diag(precision + weak)

    # coordinates without the greatest abundance, which answers for the sum
    pivot = jnp.argmax(unknown[:count])
    moves = jnp.eye(size, dtype=unknown.dtype)
    moves = moves.at[:, pivot].add(-(jnp.arange(size) < count).astype(unknown.dtype))
    gradient, curvature = matmul(moves, gradient), matmul(matmul(moves, curvature), moves.T)
    counted = jnp.arange(size) != pivot
    at_low = counted & (unknown <= low) & (gradient > 0)
    at_high = counted & (unknown >= high) & (gradient < 0)
    inside = counted & ~at_low & ~at_high
    both = inside[:, None] & inside[None, :]
    scales = jnp.sqrt(jnp.where(inside, jnp.diag(curvature), 1.0))
    matrix = jnp.where(both, curvature / scales[:, None] / scales, jnp.eye(size, dtype=unknown.dtype))
    root, factor = whiten(matrix, jnp.eye(size, dtype=unknown.dtype))
    found = matmul(root, root.T)
    spread = jnp.where(both, found / scales[:, None] / scales, 0.0)
    determinant = 2 * jnp.sum(jnp.log(jnp.diag(factor)) + jnp.log(scales))
    free = jnp.sum(inside)
    volume = 0.5 * free * jnp.log(2 * jnp.pi) - 0.5 * determinant

    width = jnp.sqrt(jnp.where(inside, jnp.diag(spread), 1.0))
    reached = _log_between((low - unknown) / width, (high - unknown) / width)
    # what the free ones do not take of the curvature of one on a bound
    beside = jnp.where(inside[None, :], curvature, 0.0)
    stiff = jnp.maximum(jnp.diag(curvature - matmul(matmul(beside, spread), beside.T)), jnp.diag(curvature) * 1e-6)
    edge = _log_from_edge(jnp.abs(gradient), stiff, reach)
    bounded = jnp.sum(jnp.where(inside, reached, jnp.where(at_low | at_high, edge, 0.0)))

    gaussian = problem.precision > 0
    prior = gammaln(jnp.asarray(float(count), unknown.dtype))
    known = (
        0.5 * jnp.log(jnp.where(gaussian, problem.precision, 1.0) / (2 * jnp.pi)) - 0.5 * problem.precision * away**2
    )
    prior = prior + jnp.sum(jnp.where(gaussian, known, -jnp.log(jnp.where(gaussian, 1.0, reach[count:]))))
    return likelihood + prior + volume + bounded


def _log_between(below: Array, above: Array) -> Array:
    """Logarithm of what the standard normal distribution has from `below` (not above zero) to `above` (not below)."""
    left, right = log_ndtr(jnp.minimum(below, 0.0)), log_ndtr(-jnp.maximum(above, 0.0))
    return jnp.log1p(-jnp.minimum(jnp.exp(left) + jnp.exp(right), 1 - 1e-6))


def _log_from_edge(slope: Array, curvature: Array, reach: Array) -> Array:
    """Log ∫₀^reach exp(−slope x − ½ curvature x²) dx, for slopes that are not negative."""
    root = jnp.sqrt(curvature)
    z = slope / root
    near = log_ndtr(-z) + 0.5 * z**2 + 0.5 * jnp.log(2 * jnp.pi)
    far = -jnp.log(jnp.maximum(z, 1.0)) - jnp.log1p(1 / jnp.maximum(z, 1.0) ** 2)
    whole = jnp.where(z < 8, near, far) - jnp.log(root)
    return jnp.minimum(whole, jnp.log(jnp.where(jnp.isfinite(reach), reach, 1e30)))


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
