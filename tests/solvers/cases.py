"""What the tests of the solvers share: a table of scenes, and oracles in float64 that are independent.

The oracle of the simplex is exact: with `Σa = 1` the error is `aM`, `M = E − 1y`, and minimising
`‖aM‖² + (Σa − 1)²` over `a ≥ 0` finds a multiple of the point of the simplex that minimises `‖aM‖²`:
stretching `a` scales the first term by the square of the stretch, whatever its direction. So SciPy's `nnls`
finds it, up to one normalisation.
"""

import contextlib
import functools
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.linalg
import scipy.optimize

from unmix_jax.solvers import least_squares

__all__ = [
    "SOLVERS",
    "Scene",
    "abundance_scale",
    "excess",
    "numpy_solution",
    "objective",
    "oracle",
    "precision",
    "scene",
    "solve_many",
    "spectra",
]

SOLVERS = ("ucls", "scls", "nnls", "fcls")
KINDS = ("mixed", "sparse", "pure", "noisy", "clean", "outside", "negative", "bright", "dark")
PER_KIND = 6
DEPENDENT = 1e-13  # singular values below this share of the norm are zero


def precision(dtype: Any) -> contextlib.AbstractContextManager:
    """The context in which jax computes in this dtype."""
    return jax.enable_x64(True) if np.dtype(dtype) == np.float64 else contextlib.nullcontext()


def spectra(rng: np.random.Generator, count: int, bands: int) -> np.ndarray:
    """Smooth positive spectra with features of their own, well told apart."""
    position = np.linspace(0, 1, bands)
    slope = rng.uniform(0.2, 0.6, (count, 1)) + rng.uniform(-0.15, 0.35, (count, 1)) * position
    return slope + rng.uniform(-0.15, 0.3, (count, bands))


class Scene(NamedTuple):
    """Endmembers, pixels of every kind, and for the noise-free ones the truth."""

    endmembers: np.ndarray
    pixels: np.ndarray
    truth: np.ndarray
    kinds: np.ndarray


@functools.cache
def scene(count: int, bands: int, dtype: str) -> Scene:
    """A fixed scene of `count` endmembers, rounded to `dtype` (so that an oracle sees the same numbers)."""
    rng = np.random.default_rng([count, bands])
    endmembers = spectra(rng, count, bands)
    kinds = np.repeat(KINDS, PER_KIND)
    truth = rng.dirichlet(np.ones(count), kinds.size)
    few = rng.random(truth.shape) < 2 / count
    truth = np.where((kinds == "sparse")[:, None] & few.any(1, keepdims=True), truth * few, truth)
    truth = np.where((kinds == "pure")[:, None], np.eye(count)[np.arange(kinds.size) % count], truth)
    truth /= truth.sum(1, keepdims=True)
    pixels = truth @ endmembers
    noise = rng.normal(size=pixels.shape) * np.sqrt(np.mean(pixels**2, 1, keepdims=True))
    factor = {"noisy": 10 ** (-30 / 20), "clean": 10 ** (-80 / 20), "outside": 1.0}
    pixels += noise * np.array([factor.get(kind, 0.0) for kind in kinds])[:, None]
    pixels *= np.array([{"negative": -1.0, "bright": 4.0, "dark": 0.2}.get(kind, 1.0) for kind in kinds])[:, None]
    return Scene(endmembers.astype(dtype), pixels.astype(dtype), truth, kinds)


@functools.cache
def compiled(name: str) -> Any:
    """One solver over many pixels and one set of endmembers."""
    return jax.jit(jax.vmap(getattr(least_squares, name), (0, None)))


def numpy_solution(solution: Any) -> Any:
    """The same solution with NumPy arrays."""
    return jax.tree.map(np.asarray, solution)


def solve_many(name: str, pixels: np.ndarray, endmembers: Any, **options: Any) -> Any:
    """Solve all pixels in their own precision; endmembers as an array, options as of `prepare`.

    A few pixels are made as many as a scene has, so that they share what is compiled.
    """
    count = len(pixels)
    padded = pixels[np.minimum(np.arange(max(count, len(KINDS) * PER_KIND)), count - 1)]
    with precision(pixels.dtype):
        prepared = least_squares.prepare(np.asarray(endmembers, pixels.dtype), **options)
        return jax.tree.map(lambda leaf: leaf[:count], numpy_solution(compiled(name)(padded, prepared)))


def oracle(name: str, pixels: Any, endmembers: Any, *, whitener: Any = None, free: Any = None) -> np.ndarray:
    """Abundances [pixel, endmember] in float64; `free` are more rows, fitted without constraint."""
    pixels, endmembers = np.asarray(pixels, float), np.asarray(endmembers, float)
    if whitener is not None:
        pixels, endmembers = pixels @ whitener, endmembers @ whitener
        free = None if free is None else np.asarray(free, float) @ whitener
    if free is not None:  # what the free rows explain is no concern of the others
        outside = scipy.linalg.null_space(np.asarray(free, float))
        pixels, endmembers = pixels @ outside, endmembers @ outside
    return np.array([ORACLES[name](pixel, endmembers) for pixel in pixels])


def _shortest(matrix: np.ndarray, right: np.ndarray, size: float) -> np.ndarray:
    """Least squares of least norm; singular values below a share of `size` are zero."""
    left, singular, rows = np.linalg.svd(matrix, full_matrices=False)
    keep = singular > DEPENDENT * size
    return rows[keep].T @ ((left[:, keep].T @ right) / singular[keep])


def _ucls(pixel: np.ndarray, endmembers: np.ndarray) -> np.ndarray:
    return _shortest(endmembers.T, pixel, np.linalg.norm(endmembers))


def _scls(pixel: np.ndarray, endmembers: np.ndarray) -> np.ndarray:
    count = len(endmembers)
    center = np.full(count, 1 / count)
    free = scipy.linalg.null_space(np.ones((1, count)))
    size = np.linalg.norm(endmembers)
    return center + free @ _shortest((free.T @ endmembers).T, pixel - center @ endmembers, size)


def _nnls(pixel: np.ndarray, endmembers: np.ndarray) -> np.ndarray:
    return scipy.optimize.nnls(endmembers.T, pixel, maxiter=100 * len(endmembers))[0]


def _fcls(pixel: np.ndarray, endmembers: np.ndarray) -> np.ndarray:
    error = endmembers - pixel
    error = error / (np.abs(error).max() or 1.0)
    rows = np.vstack([error.T, np.ones(len(endmembers))])
    right = np.append(np.zeros(len(pixel)), 1.0)
    abundances = scipy.optimize.nnls(rows, right, maxiter=100 * len(endmembers))[0]
    return abundances / abundances.sum()


ORACLES = {"ucls": _ucls, "scls": _scls, "nnls": _nnls, "fcls": _fcls}


def objective(abundances: Any, pixels: Any, endmembers: Any) -> np.ndarray:
    """½‖y − aE‖² in float64."""
    error = np.asarray(pixels, float) - np.asarray(abundances, float) @ np.asarray(endmembers, float)
    return 0.5 * np.sum(error**2, -1)


def excess(abundances: Any, best: Any, pixels: Any, endmembers: Any) -> np.ndarray:
    """How much worse than the best, in units of ½‖y‖²: what `Solution.gap` bounds."""
    worse = objective(abundances, pixels, endmembers) - objective(best, pixels, endmembers)
    return worse / (0.5 * np.sum(np.asarray(pixels, float) ** 2, -1))


def abundance_scale(abundances: Any) -> float:
    """Size of the abundances, at least 1."""
    return max(1.0, float(np.max(np.abs(abundances))))
