"""What solvers claim of their abundances, judged by the oracle in long double: problems, solvers, and one verdict.

A problem is a library, pixels of every kind, and a penalty, rounded to the precision in which they are solved: the
oracle gets the same numbers. `judged` compares what one solver says with what is so. The tests draw few problems;
`experiments/honesty.py` draws many.
"""

import contextlib
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from solvers.oracles import Exact, exact, prepared_rows

from unmix_jax.scenes.datasets import load
from unmix_jax.solvers import least_squares, sparse

__all__ = [
    "LIBRARIES",
    "METHODS",
    "OPTIONS",
    "PIXELS",
    "Problem",
    "Verdict",
    "judged",
    "libraries",
    "problem",
    "solved",
    "truth",
]

TOLERANCE = {"float32": 1e-3, "float64": 1e-6}  # what `converged` says of the abundances
OPTIONS = ("plain", "weights", "noise", "baseline")
LIBRARIES = ("random", "signed", "mica77", "usgs1995", "pruned", "collinear", "duplicate", "dim", "zero")
PIXELS = ("inside", "face", "faint", "noisy", "face noisy", "outside", "pure", "negative", "nothing", "few")


class Method(NamedTuple):
    """A solver: how it is called and prepared, and its problem in words of the oracle."""

    call: Callable[..., Any]
    prepare: Callable[..., Any]
    options: tuple[str, ...]
    bounded: bool
    sum_to_one: bool
    penalty: bool = False


def _method(name: str, bounded: bool, sum_to_one: bool) -> Method:
    solver = getattr(least_squares, name)
    return Method(lambda y, p, l1: solver(y, p), least_squares.prepare, OPTIONS, bounded, sum_to_one)


def _sparse(sum_to_one: bool) -> Method:
    def call(y: Any, p: Any, l1: Any) -> Any:
        return sparse.sunsal(y, p, l1=l1, sum_to_one=sum_to_one)

    return Method(call, sparse.prepare_sparse, OPTIONS[:3], True, sum_to_one, not sum_to_one)


METHODS: dict[str, Method] = {
    "ucls": _method("ucls", False, False),
    "scls": _method("scls", False, True),
    "nnls": _method("nnls", True, False),
    "fcls": _method("fcls", True, True),
    "sunsal": _sparse(False),
    "sunsal_sum": _sparse(True),
}


class Problem(NamedTuple):
    """Pixels and library in one precision, the options of `prepare`, and the penalty."""

    pixels: np.ndarray
    endmembers: np.ndarray
    options: dict[str, np.ndarray]
    l1: float


class Verdict(NamedTuple):
    """What was found of each pixel.

    Attributes:
        wrong: a finite bound is violated, or a minimiser that is not the only one is called unique, has a finite bound
            or is called converged, or something is called converged beyond its tolerance.
        ratio: error over bound; NaN where there is no bound, or the oracle does not know.
        error: distance of the abundances from the minimiser; NaN where the oracle does not know.
        certified: converged, and the bound is at most 1e-3.
        decided: whether the oracle knows.
    """

    wrong: np.ndarray
    ratio: np.ndarray
    error: np.ndarray
    certified: np.ndarray
    decided: np.ndarray


def libraries() -> tuple[str, ...]:
    """Kinds of libraries for which there are data."""
    there = "UNMIX_JAX_DATA" in os.environ and (Path(os.environ["UNMIX_JAX_DATA"]) / "usgs1995_library").is_dir()
    return tuple(kind for kind in LIBRARIES if there or kind not in ("usgs1995", "pruned"))


@functools.cache
def _measured(kind: str) -> np.ndarray:
    """Spectra of a library that was measured, [member, band]."""
    names = {"mica77": "usgs_mica77", "usgs1995": "usgs1995_library", "pruned": "usgs1995_library/pruned_3deg"}
    library = load(names[kind])
    spectra = np.asarray(library.spectra, float)
    bands = np.isfinite(spectra).mean(0) > 0.9  # some of usgs_mica77 begin at longer wavelengths
    complete = np.isfinite(spectra[:, bands]).all(1)
    return np.unique(spectra[complete][:, bands], axis=0)  # some are recorded twice


def _library(rng: np.random.Generator, kind: str, count: int, bands: int, closeness: float) -> np.ndarray:
    """Spectra of this kind; closeness is the relative difference of those that are alike."""
    if kind in ("mica77", "usgs1995", "pruned"):
        spectra = _measured(kind)
        members = rng.choice(len(spectra), count, replace=len(spectra) < count)
        chosen = np.linspace(0, spectra.shape[1] - 1, bands).round().astype(int)
        return spectra[members][:, chosen]
    if kind == "signed":
        return rng.normal(size=(count, bands))
    position = np.linspace(0, 1, bands)
    slope = rng.uniform(0.2, 0.6, (count, 1)) + rng.uniform(-0.15, 0.35, (count, 1)) * position
    spectra = slope + rng.uniform(-0.15, 0.3, (count, bands))
    if kind == "dim":
        spectra *= 10 ** rng.uniform(-4, 0, (count, 1))
    if kind == "zero":
        spectra[rng.integers(count)] = 0
    if kind in ("collinear", "duplicate"):
        for _ in range(max(1, count // 8)):
            one, other = rng.integers(count, size=2)
            spectra[one] = spectra[other] * (1 + (kind == "collinear") * closeness * rng.normal(size=bands))
    return spectra


def _mixtures(rng: np.random.Generator, kind: str, count: int) -> np.ndarray:
    """Abundances of one pixel."""
    shares = rng.dirichlet(np.ones(count))
    if kind in ("face", "face noisy", "faint", "few"):
        used = np.zeros(count, bool)
        used[rng.permutation(count)[: max(1, min(5 if kind == "few" else count // 2, count))]] = True
        shares = np.where(used, shares, 10 ** rng.uniform(-10, -4) * shares if kind == "faint" else 0.0)
    if kind == "pure":
        shares = np.eye(count)[rng.integers(count)]
    return shares / shares.sum()


def problem(
    rng: np.random.Generator,
    dtype: str,
    *,
    library: str,
    option: str = "plain",
    count: int,
    bands: int,
    pixels: int,
    closeness: float = 1e-4,
    scale: float = 1.0,
    dimming: float = 1.0,
    snr: float = 40.0,
    penalty: float = 0.0,
    kinds: tuple[str, ...] = PIXELS,
) -> Problem:
    """A library of one kind and pixels of these kinds in turn.

    Args:
        rng: random numbers.
        dtype: to which everything is rounded.
        library: one of `LIBRARIES`.
        option: one of `OPTIONS`.
        count: endmembers.
        bands: bands.
        pixels: their number.
        closeness: relative difference of collinear spectra.
        scale: unit of endmembers and pixels.
        dimming: pixels are multiplied by it, endmembers are not.
        snr: of noisy pixels, in dB.
        penalty: l1, relative to the one that leaves nothing of a typical pixel.
        kinds: of pixels, from `PIXELS`.
    """
    spectra = _library(rng, library, count, bands, closeness)
    kind = np.resize(np.asarray(kinds), pixels)
    truth = np.array([_mixtures(rng, str(one), count) for one in kind])
    rounded = (spectra * scale).astype(dtype)
    signal = truth @ rounded.astype(float)
    level = np.sqrt(np.mean(signal**2, 1, keepdims=True))
    noise = np.select([np.isin(kind, ("noisy", "face noisy", "few")), kind == "outside"], [10 ** (-snr / 20), 1.0], 0.0)
    signal = signal + noise[:, None] * level * rng.normal(size=signal.shape)
    signal = signal * np.select([kind == "negative", kind == "nothing"], [-1.0, 0.0], 1.0)[:, None] * dimming
    options: dict[str, np.ndarray] = {}
    if option == "weights":
        options["weights"] = rng.uniform(0.1, 10, bands) * (rng.random(bands) > 0.1)
    if option == "noise":
        apart = np.abs(np.arange(bands)[:, None] - np.arange(bands))
        sigma = 0.01 * scale * rng.uniform(0.5, 2, bands)
        options["noise_covariance"] = rng.uniform(0, 0.9) ** apart * sigma[:, None] * sigma
    if option == "baseline":
        options["baseline"] = np.polynomial.legendre.legvander(np.linspace(-1, 1, bands), 1).T
    drawn = signal.astype(dtype)
    l1 = 0.0
    if penalty:
        whitener, white = prepared_rows(rounded, **options)
        strength = float(np.median(np.max(np.abs((drawn.astype(np.longdouble) @ whitener) @ white.T), 1)))
        l1 = float(np.clip(penalty * strength, *(np.finfo(dtype).tiny, np.finfo(dtype).max)).astype(dtype))
    return Problem(drawn, rounded, options, l1)


@functools.cache
def _compiled(name: str) -> Any:
    """One solver over many pixels and one library."""
    return jax.jit(jax.vmap(METHODS[name].call, (0, None, None)))


def solved(name: str, given: Problem) -> Any:
    """The solution of a method, in the precision of the pixels, as NumPy arrays."""
    wide = given.pixels.dtype == np.float64
    with jax.enable_x64(True) if wide else contextlib.nullcontext():
        prepared = METHODS[name].prepare(given.endmembers, **given.options)
        penalty = jnp.asarray(given.l1, given.pixels.dtype)
        return jax.tree.map(np.asarray, _compiled(name)(given.pixels, prepared, penalty))


def truth(name: str, given: Problem) -> Exact:
    """What the oracle says of it."""
    method = METHODS[name]
    l1 = given.l1 if method.penalty else 0.0
    return exact(
        given.pixels, given.endmembers, bounded=method.bounded, sum_to_one=method.sum_to_one, l1=l1, **given.options
    )


def judged(name: str, given: Problem, known: Exact | None = None) -> Verdict:
    """Compare what a method says of its abundances with the oracle."""
    solution = solved(name, given)
    known = truth(name, given) if known is None else known
    abundances = np.asarray(solution.abundances, np.longdouble)
    largest = np.maximum(np.abs(abundances).max(1).astype(float), 1.0)
    limit = TOLERANCE[str(given.pixels.dtype)] * largest
    converged = np.asarray(solution.converged)
    bound = getattr(solution, "abundance_bound", None)
    # without a bound, what is called converged is claimed to be within the tolerance
    bound = np.where(converged, limit, np.inf) if bound is None else np.asarray(bound, float)
    knows = known.verified & np.isfinite(known.error)
    apart = np.abs(abundances - known.abundances).max(1).astype(float)
    error = np.where(knows, np.maximum(apart - known.error, 0.0), np.nan)
    claimed = np.isfinite(bound)
    unique = np.zeros(len(bound), bool) if solution.unique is None else np.asarray(solution.unique)
    too_far = knows & claimed & ~(error <= bound)
    not_alone = known.several & (claimed | converged | unique)
    beyond = converged & ~(bound <= limit * (1 + 1e-6))
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(knows & claimed, np.where(error > 0, error / bound, 0.0), np.nan)
    return Verdict(
        wrong=too_far | not_alone | beyond,
        ratio=ratio,
        error=error,
        certified=converged & (bound <= 1e-3),
        decided=knows | known.several,
    )
