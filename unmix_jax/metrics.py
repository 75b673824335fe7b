"""How good is a result? Spectral angles, abundance errors, and the score of a solution against its scene.

The distances and errors are JAX functions with finite gradients everywhere, so that they serve as losses;
alignment and scoring are host-level. Arguments come in this order: estimated, reference.
"""

from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.optimize import linear_sum_assignment

from unmix_jax.linalg import safe_norm
from unmix_jax.scenes.scene import Scene, SpectralLibrary
from unmix_jax.types import Solution

__all__ = [
    "align",
    "consistency",
    "coverage",
    "mean_sad",
    "reconstruction_rmse",
    "rmse",
    "rmse_per_endmember",
    "sad",
    "score",
    "sid",
    "sre",
    "summed_squared_error",
]


def sad(u: Float[Any, "*#batch band"], v: Float[Any, "*#batch band"]) -> Float[Array, "*batch"]:
    r"""Spectral angle distance.

    2 atan2(‖u/‖u‖ - v/‖v‖‖, ‖u/‖u‖ + v/‖v‖‖): arccos of the cosine, but with all its digits and a finite
    gradient at angle 0.

    Args:
        u: spectra, any unit.
        v: spectra, any unit; leading axes broadcast.

    Returns:
        Angle, radians; π/2 where one spectrum is zero.

    Reference:
        Kruse et al. 1993, 10.1016/0034-4257(93)90013-N.
    """

    def unit(spectra: Array) -> Array:
        spectra, _ = _of_size_one(spectra)
        norm = safe_norm(spectra)[..., None]
        return spectra / jnp.where(norm > 0, norm, 1.0)

    a, b = unit(jnp.asarray(u)), unit(jnp.asarray(v))
    return 2 * jnp.arctan2(safe_norm(a - b), safe_norm(a + b))


def sid(u: Float[Any, "*#batch band"], v: Float[Any, "*#batch band"]) -> Float[Array, "*batch"]:
    r"""Spectral information divergence.

    Σ_b (p_b - q_b) (log p_b - log q_b) with p = u/Σu and q = v/Σv. Values below the rounding of the
    greatest of their spectrum, negative ones included, count as that rounding, so that the unit does not matter.

    Args:
        u: spectra, non-negative, any unit.
        v: spectra, non-negative, any unit; leading axes broadcast.

    Returns:
        Divergence, nats; a spectrum without a positive value counts as equal in all bands.

    Reference:
        Chang 2000, 10.1109/18.857802.
    """

    def distribution(spectra: Array) -> Array:
        spectra, _ = _of_size_one(jnp.maximum(spectra, 0.0))
        greatest = jax.lax.stop_gradient(jnp.max(spectra, axis=-1, keepdims=True))
        spectra = jnp.maximum(spectra, jnp.finfo(spectra.dtype).eps * jnp.where(greatest > 0, greatest, 1.0))
        return spectra / jnp.sum(spectra, axis=-1, keepdims=True)

    p, q = distribution(jnp.asarray(u)), distribution(jnp.asarray(v))
    return jnp.sum((p - q) * (jnp.log(p) - jnp.log(q)), axis=-1)


def rmse(estimated: Float[Any, "*pixel endmember"], reference: Float[Any, "*pixel endmember"]) -> Float[Array, ""]:
    r"""Abundance error: the root of the mean over pixels and endmembers of (a - â)².

    Args:
        estimated: abundances, fractions.
        reference: abundances, fractions, endmembers in the same order.

    Returns:
        Error, fraction.
    """
    return _root_mean_square((jnp.asarray(estimated) - jnp.asarray(reference)).reshape(-1))


def rmse_per_endmember(
    estimated: Float[Any, "*pixel endmember"], reference: Float[Any, "*pixel endmember"]
) -> Float[Array, ""]:
    r"""Abundance error by endmember: the mean over endmembers of sqrt(mean over pixels of (a - â)²).

    Args:
        estimated: abundances, fractions.
        reference: abundances, fractions, endmembers in the same order.

    Returns:
        Error, fraction.

    Reference:
        Palsson et al. 2022, eq. 33, 10.1109/JSTARS.2021.3140154.
    """
    difference = jnp.asarray(estimated) - jnp.asarray(reference)
    return jnp.mean(_root_mean_square(difference.reshape(-1, difference.shape[-1]).T))


def summed_squared_error(
    estimated: Float[Any, "*pixel class"], reference: Float[Any, "*pixel class"]
) -> Float[Array, ""]:
    r"""The mean over samples of Σ over classes of (a - â)²: the "MSE" of analysis-by-synthesis tables.

    Args:
        estimated: abundances, fractions.
        reference: abundances, fractions, classes in the same order.

    Returns:
        Error, fraction².

    Reference:
        Janiczek et al. 2020, arXiv:2007.05996.
    """
    return jnp.mean(jnp.sum((jnp.asarray(estimated) - jnp.asarray(reference)) ** 2, axis=-1))


def sre(estimated: Float[Any, "*pixel endmember"], reference: Float[Any, "*pixel endmember"]) -> Float[Array, ""]:
    r"""Signal-to-reconstruction error of abundances: 10 log₁₀(‖X‖² / ‖X - X̂‖²).

    Args:
        estimated: abundances X̂, fractions.
        reference: abundances X, fractions, endmembers in the same order.

    Returns:
        Ratio, dB; higher is better, infinite for an exact estimate.

    Reference:
        Iordache et al. 2011, 10.1109/TGRS.2010.2098413.
    """
    estimated, reference = jnp.asarray(estimated), jnp.asarray(reference)
    signal, error = (_root_mean_square(values.reshape(-1)) for values in (reference, reference - estimated))
    return 20 * jnp.log10(signal / error)


def reconstruction_rmse(
    reconstructed: Float[Any, "*pixel band"], pixels: Float[Any, "*pixel band"]
) -> Float[Array, ""]:
    r"""Reconstruction error: the root of the mean over bands and pixels of (y - ŷ)².

    Args:
        reconstructed: modelled spectra.
        pixels: measured spectra, in the same unit.

    Returns:
        Error, in the unit of the spectra.
    """
    return _root_mean_square((jnp.asarray(reconstructed) - jnp.asarray(pixels)).reshape(-1))


def _root_mean_square(values: Float[Array, "*batch n"]) -> Float[Array, "*batch"]:
    """Root mean square over the last axis, with gradient zero at zero."""
    values, size = _of_size_one(values)
    return size[..., 0] * (safe_norm(values) / np.sqrt(values.shape[-1]))


def _of_size_one(values: Float[Array, "*batch n"]) -> tuple[Float[Array, "*batch n"], Float[Array, "*batch 1"]]:
    """Values divided by a power of two near their greatest magnitude, and that power, 1 where all are zero.

    Squares of what is divided neither overflow nor vanish, whatever the unit, and the division rounds nothing. The
    power is a constant to derivatives: what it is multiplied with again has the same value and slope for any other.
    """
    values = jnp.asarray(values, jnp.result_type(values.dtype, float))
    greatest = jax.lax.stop_gradient(jnp.max(jnp.abs(values), axis=-1, keepdims=True))
    _, exponent = jnp.frexp(greatest)
    # A subnormal number keeps its digits when it is left as it is; its reciprocal would overflow.
    usable = (greatest >= jnp.finfo(values.dtype).tiny) & jnp.isfinite(greatest)
    size = jnp.where(usable, jnp.ldexp(jnp.ones_like(greatest), exponent - 1), 1.0)
    return values / size, size


def coverage(
    estimated: Float[Any, "*n"], std: Float[Any, "*n"], reference: Float[Any, "*n"], *, sigmas: float = 1.0
) -> Float[Array, ""]:
    r"""Share of the truths inside the reported interval: mean of |a - â| ≤ sigmas · std.

    Args:
        estimated: estimates.
        std: their reported standard deviations, in the same unit.
        reference: truths.
        sigmas: half width of the interval, in standard deviations (0.683 is expected at 1, 0.954 at 2).

    Returns:
        Share, between 0 and 1.
    """
    error = jnp.abs(jnp.asarray(estimated) - jnp.asarray(reference))
    return jnp.mean(error <= sigmas * jnp.asarray(std), dtype=error.dtype)


def _angles(
    estimated: Float[Any, "estimate _"], reference: Float[Any, "endmember _"]
) -> Float[np.ndarray, "endmember estimate"]:
    """Angle of every reference to every estimate over the bands that are finite in both sets."""
    found, truth = (np.asarray(spectra) for spectra in (estimated, reference))
    if found.ndim != 2 or truth.ndim != 2 or found.shape[1] != truth.shape[1]:
        raise ValueError(
            f"endmembers must be [endmember, band] with the same bands, got {found.shape} and {truth.shape}"
        )
    bands = np.isfinite(found).all(axis=0) & np.isfinite(truth).all(axis=0)
    if not bands.any():
        raise ValueError("the two sets of endmembers have no band that is finite in both")
    return np.stack([np.asarray(sad(spectrum, found[:, bands])) for spectrum in truth[:, bands]])


def align(estimated: Float[Any, "estimate _"], reference: Float[Any, "endmember _"]) -> Int[np.ndarray, " endmember"]:
    r"""Match estimated endmembers to reference ones (Hungarian assignment of least total SAD).

    ``estimated[align(estimated, reference)]`` is in the order of the reference; estimates beyond the
    number of references are left out. Bands that are not finite in both sets are ignored.

    Args:
        estimated: endmembers found, any unit.
        reference: endmembers to match, on the same bands.

    Returns:
        For each reference endmember, the index of its estimate.

    Raises:
        ValueError: fewer estimates than references, or bands that differ.
    """
    angles = _angles(estimated, reference)
    if angles.shape[1] < angles.shape[0]:
        raise ValueError(f"{angles.shape[1]} estimated endmembers cannot match {angles.shape[0]} reference endmembers")
    return linear_sum_assignment(angles)[1]


def mean_sad(estimated: Float[Any, "estimate _"], reference: Float[Any, "endmember _"]) -> float:
    r"""Mean over the reference endmembers of the SAD to their aligned estimate (mSAD).

    Args:
        estimated: endmembers found, in any order and unit.
        reference: endmembers to match, on the same bands.

    Returns:
        Angle, radians.

    Raises:
        ValueError: fewer estimates than references, or bands that differ.
    """
    order = align(estimated, reference)
    return float(_angles(estimated, reference)[np.arange(len(order)), order].mean())


def consistency(sets: Float[Any, "seed endmember band"]) -> float:
    r"""Mean pairwise aligned SAD between the endmember sets of several seeds; needs no reference.

    Args:
        sets: one set of endmembers per seed, in any order and unit.

    Returns:
        Angle, radians; 0 when all seeds agree.

    Raises:
        ValueError: fewer than two sets.
    """
    if len(sets) < 2:
        raise ValueError(f"consistency compares at least 2 sets of endmembers, got {len(sets)}")
    return float(np.mean([mean_sad(one, other) for one, other in combinations(sets, 2)]))


def score(
    solution: Solution,
    scene: Scene,
    *,
    endmembers: Float[Any, "endmember band"] | SpectralLibrary | None = None,
) -> dict[str, float]:
    """Score a solution against whatever reference its scene has.

    Pixels with NaN abundances (masked, no-data) are left out. Where the scene has reference endmembers and
    ``endmembers`` are given, both are aligned by SAD first and the abundances follow. Without ``endmembers``
    the abundances must be in the order of the reference, or of the scene's endmembers: these are then summed
    by class where the reference abundances are classes; members that it does not name count as absent.

    Args:
        solution: of every pixel of the scene.
        scene: with its references.
        endmembers: those that the abundances belong to, on the scene's bands.

    Returns:
        Numbers by name: always ``pixels_scored``, ``pixels_total``, ``converged_share``, ``gap_max`` and
        ``reconstruction_rmse`` (unit of the scene); ``certified_share`` (optimum reached, and abundances proven within
        the solver's limit of it), ``abundance_bound_max`` and ``abundance_bound_median`` (of the finite bounds) and
        ``without_bound_share`` where the solution has bounds on abundances; ``mean_sad`` and ``sad_<name>`` (radians)
        with reference endmembers; ``rmse``, ``rmse_per_endmember``, ``rmse_<name>``, ``summed_squared_error``, ``sre``
        and ``abundance_pixels_scored`` with reference abundances, and then ``coverage_1sigma`` and
        ``coverage_2sigma`` where the solution carries a covariance.

    Raises:
        ValueError: pixels, bands or endmembers of solution and scene do not match; no pixel to score.
    """
    abundances = np.asarray(solution.abundances)
    if abundances.shape[:-1] != scene.shape:
        raise ValueError(f"the solution has pixels {abundances.shape[:-1]}, the scene {scene.shape}")
    scored = np.isfinite(abundances).all(axis=-1)
    if not scored.any():
        raise ValueError(f"none of the {scored.size} pixels has finite abundances")
    gap = np.asarray(solution.gap)[scored]
    numbers = {
        "pixels_scored": float(scored.sum()),
        "pixels_total": float(scored.size),
        "converged_share": float(np.asarray(solution.converged)[scored].mean()),
        "gap_max": float(np.nanmax(gap)) if np.isfinite(gap).any() else float("nan"),
        "reconstruction_rmse": float(np.sqrt(np.mean(np.asarray(solution.residual)[scored] ** 2))),
    }
    if solution.abundance_bound is not None:
        numbers |= _bounds(np.asarray(solution.abundance_bound)[scored], gap, np.asarray(solution.converged)[scored])
    order = None
    if endmembers is not None and scene.endmembers is not None:
        order, angles = _score_endmembers(endmembers, scene)
        numbers |= angles
    if scene.abundances is not None:
        numbers |= _score_abundances(solution, scene, scored, order)
    return numbers


def _bounds(bound: np.ndarray, gap: np.ndarray, converged: np.ndarray) -> dict[str, float]:
    """What is proved of the scored pixels; a solver with bounds says ``converged`` where gap and bound are small."""
    known = np.isfinite(bound)
    return {
        "certified_share": float((converged & known & np.isfinite(gap)).mean()),
        "abundance_bound_max": float(bound[known].max()) if known.any() else float("nan"),
        "abundance_bound_median": float(np.median(bound[known])) if known.any() else float("nan"),
        "without_bound_share": float(1 - known.mean()),
    }


def _score_endmembers(endmembers: Any, scene: Scene) -> tuple[np.ndarray, dict[str, float]]:
    """Alignment to the scene's endmembers, and the angles after it."""
    assert scene.endmembers is not None
    found = np.asarray(endmembers.spectra if isinstance(endmembers, SpectralLibrary) else endmembers)
    reference = np.asarray(scene.endmembers.spectra)
    if scene.good_bands is not None and found.shape[-1] == reference.shape[-1] == scene.bands:
        found, reference = (values[:, np.asarray(scene.good_bands)] for values in (found, reference))
    order = align(found, reference)
    angles = _angles(found, reference)[np.arange(len(order)), order]
    names = scene.endmembers.names or tuple(str(i) for i in range(len(order)))
    return order, {"mean_sad": float(angles.mean())} | {
        f"sad_{name}": float(angle) for name, angle in zip(names, angles, strict=True)
    }


def _score_abundances(
    solution: Solution, scene: Scene, scored: np.ndarray, order: np.ndarray | None
) -> dict[str, float]:
    """Errors of the abundances in the order of the reference, over the scored pixels that have one."""
    reference = np.asarray(scene.abundances)
    scored = scored & np.isfinite(reference).all(axis=-1)
    if not scored.any():
        raise ValueError("no pixel has both finite abundances and a finite reference")
    truth, estimated = reference[scored], np.asarray(solution.abundances)[scored]
    aligned = estimated if order is None else estimated[:, order]
    grouped, truth, names = _comparable(aligned, truth, scene)
    if grouped.shape[1] != truth.shape[1]:
        raise ValueError(f"the solution has {grouped.shape[1]} abundances, the reference of the scene {truth.shape[1]}")
    errors = grouped - truth
    numbers = {
        "rmse": float(rmse(grouped, truth)),
        "rmse_per_endmember": float(rmse_per_endmember(grouped, truth)),
        "summed_squared_error": float(summed_squared_error(grouped, truth)),
        "sre": float(sre(grouped, truth)),
        "abundance_pixels_scored": float(scored.sum()),
    }
    numbers |= {f"rmse_{name}": float(np.sqrt(np.mean(error**2))) for name, error in zip(names, errors.T, strict=True)}
    if solution.covariance is not None and grouped is aligned:
        variance = np.diagonal(np.asarray(solution.covariance)[scored], axis1=-2, axis2=-1)
        std = np.sqrt(variance if order is None else variance[:, order])
        for sigmas in (1, 2):
            share = coverage(grouped, std, truth, sigmas=float(sigmas))
            numbers[f"coverage_{sigmas}sigma"] = float(share)
    return numbers


def _comparable(
    abundances: np.ndarray, truth: np.ndarray, scene: Scene
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Abundances and reference of the same things: members, or the classes of the scene's endmembers."""
    library, names = scene.endmembers, scene.abundance_names
    if not names or library is None or abundances.shape[1] != len(library) or names == library.names:
        return abundances, truth, names or tuple(str(i) for i in range(truth.shape[1]))
    if set(names) <= set(library.names):  # what the reference does not name is not there
        full = np.zeros_like(truth, shape=abundances.shape)
        full[:, [library.names.index(name) for name in names]] = truth
        return abundances, full, library.names
    member = np.asarray(library.classes or library.names)[:, None] == np.asarray(names)
    return abundances @ member.astype(abundances.dtype), truth, names
