"""From endmembers to abundances in a declared gauge, and from rough endmembers to those of the purest pixels.

Losses that do not see the length of a spectrum, such as the spectral angle, leave abundances undetermined: endmember i
may be scaled by any c_i and its abundances by 1/c_i. What fixes the scales is the gauge, a part of every result.
"""

from collections.abc import Sequence
from typing import Any, Literal

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float

from unmix_jax.driver import unmix
from unmix_jax.metrics import sad
from unmix_jax.solvers.active_set import abundance_tolerance
from unmix_jax.solvers.least_squares import fcls, nnls, prepare
from unmix_jax.solvers.shares import bound_of_shares
from unmix_jax.types import Solution

__all__ = ["Refinement", "as_bright", "has_twins", "read_out", "refine"]

ALIKE = 0.03  # of the median angle between two endmembers of a set: nearer ones are one
LEAST_ANGLE = 1e-4  # radians between two that are not one
THRESHOLDS = tuple(round(0.5 + 0.025 * i, 3) for i in range(20))  # shares from which a pixel may count as pure
WITHIN = 1.01  # the lowest threshold counts whose fit is within this factor of the best
SWEEPS = 20  # of the refinement
FEWEST = 20  # pixels that an endmember is the median of
PURE = 0.9  # share from which a pixel tells the brightness of an endmember


def has_twins(sets: Float[np.ndarray, "set endmember band"]) -> Bool[np.ndarray, " set"]:
    """Whether two endmembers of a set are one: nearer than 3 % of the median angle between two, over all sets.

    Args:
        sets: endmembers, any unit; NaN where a set does not count.

    Returns:
        False also for sets that do not count.
    """
    count = sets.shape[1]
    if count < 2 or np.isnan(sets).all():
        return np.zeros(len(sets), bool)
    angles = np.asarray(sad(sets[:, :, None], sets[:, None]))[:, *np.triu_indices(count, 1)]
    return ~np.isnan(angles[:, 0]) & ~(angles.min(1) > max(LEAST_ANGLE, ALIKE * float(np.nanmedian(angles))))


def read_out(
    pixels: Any,
    endmembers: Float[Any, "endmember band"],
    gauge: Literal["fcls", "projective"] = "projective",
    **options: Any,
) -> Solution:
    """Abundances by given endmembers in a declared gauge.

    - "fcls": the endmembers' own scales; abundances sum to one, and a pixel in the shade is darker material;
    - "projective": endmembers are divided by their greatest value, argmin_a ‖y − aE‖² with a ≥ 0, and a by its sum:
      blind to the brightness of the pixel.

    Args:
        pixels: a `Scene`, or spectra [..., band].
        endmembers: in the unit of the pixels; NaN in bands that do not count.
        gauge: which.
        options: of `unmix`.

    Returns:
        A `Solution`; ``fitted`` of "projective" is what multiplies the endmembers as given. The bound on abundances
        is that of the shares, and ``converged`` asks that of it as well.

    Raises:
        ValueError: an unknown gauge, or an endmember without a positive value.
    """
    spectra = np.asarray(endmembers)
    good = np.isfinite(spectra).all(0)
    for told in (options.get("good_bands"), getattr(pixels, "good_bands", None)):
        good = good if told is None else good & np.asarray(told, bool)
    spectra = np.where(good, spectra, 0)
    weights = None
    if not good.all():
        options, weights = {**options, "good_bands": good}, good
    if gauge == "fcls":
        return unmix(eqx.Partial(fcls, endmembers=prepare(spectra, weights=weights)), pixels, **options)
    if gauge != "projective":
        raise ValueError(f"gauge is 'fcls' or 'projective' for given endmembers, got {gauge!r}")
    peaks = spectra.max(1)
    if not (peaks > 0).all():
        raise ValueError(
            f"endmember {int(np.argmin(peaks > 0))} has no positive value, the gauge divides by the greatest"
        )
    found = unmix(eqx.Partial(nnls, endmembers=prepare(spectra / peaks[:, None], weights=weights)), pixels, **options)
    total = found.abundances.sum(-1, keepdims=True)
    shares = np.divide(found.abundances, total, out=np.full_like(found.abundances, np.nan), where=total > 0)
    given = (found.abundances / peaks).astype(shares.dtype)
    fine = found.converged & (total[..., 0] > 0)  # nothing positive explains the others
    bound = found.abundance_bound
    if bound is not None:
        bound = bound_of_shares(shares, total[..., 0], bound, summed=1, divided=len(spectra))
        fine = fine & (bound <= abundance_tolerance(bound.dtype))
    return eqx.tree_at(
        lambda s: (s.abundances, s.fitted, s.converged, s.abundance_bound), found, (shares, given, fine, bound),
        is_leaf=lambda leaf: leaf is None,
    )  # fmt: skip


class Refinement(eqx.Module):
    """Endmembers after near-pure refinement.

    Attributes:
        endmembers: in the unit of the pixels.
        threshold: share from which a pixel counted as pure; NaN where none could be taken, and nothing was refined.
        thresholds: those that were tried.
        angles: mean spectral angle between the pixels and their best nonnegative fit after each, radians; infinite
            where two endmembers became one.
    """

    endmembers: Float[np.ndarray, "endmember band"]
    threshold: float = eqx.field(static=True)
    thresholds: Float[np.ndarray, " threshold"]
    angles: Float[np.ndarray, " threshold"]


def refine(
    pixels: Float[Any, "pixel band"],
    endmembers: Float[Any, "endmember band"],
    thresholds: float | Sequence[float] = THRESHOLDS,
    *,
    sweeps: int = SWEEPS,
) -> Refinement:
    """Near-pure refinement: endmembers become medians of the pixels that are nearly theirs alone.

    Repeated: s = projective abundances; E_i = median of the unit spectra with s_i above the threshold, or of the twenty
    with the greatest s_i where fewer are (fewer where there are less than eighty pixels for each endmember). Of several
    thresholds the lowest is taken after which the pixels are within one per cent as near to the cone of the endmembers,
    by their mean spectral angle, as after any: too low, and the endmembers are mixtures; too high, and they are a few
    odd pixels; both fit worse. No reference is used.

    Args:
        pixels: spectra, any unit, finite and not zero.
        endmembers: to begin at.
        thresholds: shares from which a pixel counts as pure; one, or several to choose from.
        sweeps: repetitions; it ends before where nothing changes.

    Returns:
        A `Refinement`; endmembers have the median length of the pixels that they are medians of.

    Raises:
        ValueError: a threshold that is not a share.
    """
    tried = np.sort(np.atleast_1d(np.asarray(thresholds, float)))
    if not (len(tried) and ((tried > 0) & (tried < 1)).all()):
        raise ValueError(f"thresholds are shares between 0 and 1, got {thresholds}")
    spectra = np.asarray(pixels, np.float32)
    lengths = np.linalg.norm(spectra, axis=1)
    unit = spectra / lengths[:, None]
    first = np.asarray(endmembers, np.float32)
    ends = [_medians(unit, lengths, first, float(threshold), sweeps) for threshold in tried]
    twins = has_twins(np.stack([first, *(found for found, _ in ends)]))[1:]
    angles = np.where(twins, np.inf, [angle for _, angle in ends])
    if twins.all():
        return Refinement(first, float("nan"), tried, angles)
    taken = int(np.flatnonzero(angles <= WITHIN * angles.min())[0])
    return Refinement(ends[taken][0], float(tried[taken]), tried, angles)


def _medians(
    unit: np.ndarray, lengths: np.ndarray, found: np.ndarray, threshold: float, sweeps: int
) -> tuple[np.ndarray, float]:
    """The fixed point of one threshold, and the mean angle of the fit by it."""
    fewest = max(1, min(FEWEST, len(unit) // (4 * len(found))))
    before: Any = None
    for sweep in range(sweeps + 1):
        fit = read_out(unit, found, "projective")
        shares = np.nan_to_num(fit.abundances)
        pure = shares > threshold
        few = np.argpartition(-shares, fewest - 1, 0)[:fewest]
        for i in np.flatnonzero(pure.sum(0) < fewest):
            pure[few[:, i], i] = True
        if sweep == sweeps or (before is not None and (pure == before).all()):
            break
        before = pure
        medians = np.stack([np.median(unit[mine], 0) for mine in pure.T])
        bright = np.stack([np.median(lengths[mine]) for mine in pure.T])
        found = medians / np.linalg.norm(medians, axis=1, keepdims=True) * bright[:, None]
    angle = np.arcsin(np.clip(fit.residual * unit.shape[1] ** 0.5, 0, 1))
    return found, float(np.mean(angle))


def as_bright(
    pixels: Float[Any, "pixel band"], endmembers: Float[Any, "endmember band"]
) -> Float[np.ndarray, "endmember band"]:
    """Endmembers as long as the pixels that are nearly theirs alone, in the median.

    Args:
        pixels: spectra, any unit, finite and not zero.
        endmembers: whose directions count.

    Returns:
        Endmembers in the unit of the pixels; those that above nine tenths of no pixel is, by the twenty purest pixels.
    """
    values, endmembers = np.asarray(pixels), np.asarray(endmembers)
    shares = np.nan_to_num(read_out(values, endmembers).abundances)
    lengths = np.linalg.norm(values, axis=1)
    least = np.sort(shares, 0)[-min(FEWEST, len(shares))]
    bright = [np.median(lengths[s >= min(PURE, limit)]) for s, limit in zip(shares.T, least, strict=True)]
    return endmembers / np.linalg.norm(endmembers, axis=1, keepdims=True) * np.asarray(bright)[:, None]
