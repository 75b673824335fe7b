"""Bring spectral libraries to the bands of a scene by the sensor's full response."""

import warnings
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unmix_jax.linalg import matmul
from unmix_jax.physics.sensor import coverage, response, tabulated
from unmix_jax.scenes.nodata import is_nodata
from unmix_jax.scenes.reading import looked_at
from unmix_jax.scenes.scene import UNKNOWN_QUANTITY, Scene, SpectralAxis, SpectralLibrary

__all__ = ["match", "resample"]

COVERED = 0.499  # share of a band's response that must be known; a band centred on the last channel passes
APART = 3.0  # scales; shadow and haze change brightness by less, and per cent or radiance by far more
IMPLAUSIBLE = 2.0  # reflectance stays below, but for glints
UNLIKE = (
    10.0  # the brightest values of per cent and fractions are some 100 times apart, of scaled integers 10 000 times
)
SAME = 1e-3  # two axes are one where centres differ by less than this share of the band spacing


def resample(library: SpectralLibrary, axis: SpectralAxis) -> SpectralLibrary:
    """The library as a sensor with the bands of `axis` would have measured it.

    Each spectrum is weighed with the response of each band, renormalised over the channels where that spectrum has
    values: with the tabulated response where `axis` has one (`physics.sensor.tabulated`), with a Gaussian of the band's
    width otherwise (`physics.sensor.response`). A band is NaN in a spectrum that knows less than half of
    its response, and False in `good_bands` where this is so for every spectrum. Where `axis` names no widths,
    the local spacing of its bands is taken (the median of the four nearest steps). The resolution of the
    library itself is not taken out (see `physics.sensor`).

    Args:
        library: spectra with an axis; channels marked bad are not used.
        axis: bands in any unit and order; nm and cm⁻¹ are converted.

    Raises:
        ValueError: the library has no axis; library and bands do not overlap (both ranges are named); a
            single band without a width.
    """
    if library.axis is None:
        raise ValueError("the library names no wavelengths, so it cannot be resampled")
    source = library.axis.to(axis.unit)
    order = np.argsort(np.asarray(source.centers), kind="stable")
    spectra = np.asarray(library.spectra)[:, order]
    valid = np.isfinite(spectra)
    if library.good_bands is not None:
        valid &= np.asarray(library.good_bands)[order]
    positions = np.asarray(source.centers)[order]
    if axis.responses is None:
        # What JAX makes of float64 is up to its own setting.
        bands = (np.asarray(a, spectra.dtype) for a in (positions, axis.centers, _widths(axis)))
        weights, inside = _gaussian(*bands)
    else:
        weights, inside = _tabulated(positions, *axis.responses, spectra.dtype)
    values, share = _weigh(np.where(valid, spectra, 0), valid.astype(spectra.dtype), weights, inside)
    known = np.asarray(share) >= COVERED
    if not known.any():
        raise ValueError(f"library and scene do not overlap: {_range(library.axis)} and {_range(axis)}")
    return replace(
        library,
        spectra=np.where(known, np.asarray(values), np.nan).astype(values.dtype),
        axis=axis,
        good_bands=known.any(axis=0),
    )


def match(scene: Scene, library: SpectralLibrary, *, allow_scale_mismatch: bool | None = False) -> SpectralLibrary:
    """The library on the bands of the scene, ready to unmix with.

    Resampled only where the axes differ; where one of the two names no wavelengths the numbers of bands must
    agree. `good_bands` is False where the scene's band is bad or where any spectrum has no value; there all
    spectra are NaN, so that a fit that forgets to leave these bands out, by
    ``prepare(library.spectra, weights=library.good_bands)``, fails instead of being wrong.

    Args:
        scene: whose bands are wanted.
        library: spectra in the quantity and scale of the scene.
        allow_scale_mismatch: go on, with a note and a warning, where the two can hardly be in one scale; None: they
            are not compared, as for endmembers that come from the scene.

    Returns:
        The library on the scene's bands, with `good_bands` set.

    Raises:
        ValueError: different numbers of bands without wavelengths to compare (both are named); no overlap; no
            band in which every spectrum has a value; scene and library more than three times apart in scale.
    """
    if scene.axis is None or library.axis is None:
        if library.spectra.shape[1] != scene.bands:
            which = "the scene" if scene.axis is None else "the library"
            raise ValueError(
                f"the library has {library.spectra.shape[1]} bands, the scene has {scene.bands}, and {which} "
                "names no wavelengths to resample by"
            )
        matched = library
    else:
        matched = _reordered(library, scene.axis) or resample(library, scene.axis)
    spectra = np.asarray(matched.spectra)
    good = np.isfinite(spectra).all(axis=0)
    for marked in (matched.good_bands, scene.good_bands):
        good = good if marked is None else good & np.asarray(marked)
    if not good.any():
        raise ValueError("there is no good band of the scene in which every spectrum of the library has a value")
    notes = list(matched.notes)
    notes += _left_out(scene, library, good)
    told = len(notes)  # what was left out or assumed is said in the record; a mismatch is warned of at once
    if allow_scale_mismatch is not None and (found := _mismatch(scene, spectra[:, good], good)) is not None:
        mismatch, certain = found
        if certain and not allow_scale_mismatch:
            raise ValueError(
                f"{mismatch}. Give the scene's scale (--scale, or --scale auto) or the library's (--library-scale), or "
                "go on as it is with --allow-scale-mismatch (allow_scale_mismatch=True)"
            )
        notes.append(mismatch)
    known = {q for q in (scene.quantity, library.quantity) if q != UNKNOWN_QUANTITY}
    if len(known) > 1:
        notes.append(f"the scene holds {scene.quantity}, the library {library.quantity}")
    for note in notes[told:]:
        warnings.warn(note, stacklevel=2)
    return replace(
        matched,
        notes=tuple(notes),
        spectra=np.where(good, spectra, np.nan).astype(spectra.dtype),
        axis=matched.axis if scene.axis is None else scene.axis,
        good_bands=good,
    )


def _reordered(library: SpectralLibrary, axis: SpectralAxis) -> SpectralLibrary | None:
    """The library on these bands if it has the very same, in whatever order; else None."""
    if library.axis is None or len(library.axis) != len(axis):
        return None
    source = library.axis.to(axis.unit)
    if _same(axis, source):
        return library
    ours, theirs = np.argsort(np.asarray(axis.centers)), np.argsort(np.asarray(source.centers))
    order = np.empty_like(theirs)
    order[ours] = theirs
    fwhm = None if source.fwhm is None else source.fwhm[order]
    responses = None if source.responses is None else (source.responses[0], source.responses[1][order])
    if not _same(axis, SpectralAxis(source.centers[order], fwhm, axis.unit, responses)):
        return None
    good = None if library.good_bands is None else library.good_bands[order]
    return replace(library, spectra=library.spectra[:, order], axis=axis, good_bands=good)


def _left_out(scene: Scene, library: SpectralLibrary, good: np.ndarray) -> list[str]:
    """Notes on good bands of the scene that the library does not cover, and on band widths that are assumed."""
    notes: list[str] = []
    if scene.axis is None or library.axis is None:
        return notes
    wanted = np.ones(scene.bands, bool) if scene.good_bands is None else np.asarray(scene.good_bands)
    if (lost := wanted & ~good).any():
        centers = np.asarray(scene.axis.centers)[lost]
        span = f"{centers.min():g} to {centers.max():g} {_unit(scene.axis)}"
        notes.append(
            f"{int(lost.sum())} good bands of the scene ({span}) are left out: not all spectra of the library, which "
            f"covers {_range(library.axis)}, have values there"
        )
    coarse = len(library.axis) > 1 and not _same(library.axis, scene.axis)
    if scene.axis.fwhm is None and scene.axis.responses is None and coarse:
        widths = _widths(scene.axis)
        notes.append(
            "the scene gives no band widths (FWHM): the library is resampled with the distance between bands as width "
            f"({widths.min():.3g} to {widths.max():.3g} {_unit(scene.axis)})"
        )
    return notes


def _unit(axis: SpectralAxis) -> str:
    """The unit of an axis, for messages."""
    return axis.unit.replace("-1", "⁻¹")


def _mismatch(scene: Scene, spectra: np.ndarray, good: np.ndarray) -> tuple[str, bool] | None:
    """Why scene and library can hardly be in one scale: one in per cent, scaled integers or radiance, the other not.

    A mixture whose abundances sum to one has no greater norm than the brightest endmember. So the typical pixel may not
    exceed it by much, and the brightest pixels may not stay far below the darkest endmember. Water and shadow are that
    dark beside bright minerals, so this second test, and that of the greatest values, count only where one of the two
    cannot be reflectance.

    Returns:
        The reason, and whether it is certain: where both can be reflectance, the library may lack a bright member.
    """
    pixels = looked_at(scene)[:, good]
    whole = np.isfinite(pixels).all(axis=1) & (pixels != 0).any(axis=1)
    whole &= ~is_nodata(pixels, scene.nodata).any(axis=1)
    pixels = pixels[whole].astype(np.float64)
    if len(pixels) == 0 or not spectra.any():
        return None
    sizes = np.sqrt(np.mean(np.square(pixels), axis=1))
    members = np.sqrt(np.mean(np.square(spectra.astype(np.float64)), axis=1))
    typical, bright = float(np.median(sizes)), float(np.percentile(sizes, 95))
    darkest, brightest = float(members[members > 0].min()), float(members.max())
    values, pure = float(np.percentile(pixels, 99)), float(spectra.max())
    middle, ordinary = float(np.median(pixels)), float(np.median(spectra))  # a hot pixel moves the maximum, not these
    unlike = max(values, pure) > UNLIKE * min(values, pure) and max(middle, ordinary) > UNLIKE * min(middle, ordinary)
    one_is_reflectance = min(values, pure) <= IMPLAUSIBLE < max(values, pure)
    if typical <= APART * brightest and not (one_is_reflectance and (unlike or bright * APART < darkest)):
        return None
    reason = (
        "the scene and the library can hardly be in one scale: the root mean square of a typical pixel is "
        f"{typical:.4g}, of bright ones {bright:.4g}, of the library's spectra {darkest:.4g} to {brightest:.4g}"
    )
    return reason, max(values, pure) > IMPLAUSIBLE


@jax.jit
def _gaussian(
    source: Float[Array, " source"], centers: Float[Array, " band"], widths: Float[Array, " band"]
) -> tuple[Float[Array, "band source"], Float[Array, " band"]]:
    """Weights of Gaussian bands, and the share of each band's response inside the range of the source.

    Compiled here because resampling runs outside every other compiled function.
    """
    return response(source, centers, widths), coverage(source, centers, widths)


def _tabulated(positions: Any, samples: Any, values: Any, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """The same of tabulated bands; channels at one and the same wavelength share its weight."""
    distinct, where, count = np.unique(positions, return_inverse=True, return_counts=True)
    weights, inside = tabulated(distinct, np.asarray(samples), np.asarray(values))
    return (weights / count)[:, where].astype(dtype), inside.astype(dtype)


@jax.jit
def _weigh(
    spectra: Float[Array, "member source"],
    valid: Float[Array, "member source"],
    weights: Float[Array, "band source"],
    inside: Float[Array, " band"],
) -> tuple[Float[Array, "member band"], Float[Array, "member band"]]:
    """Weighted means over the valid channels, and the share of each band's response they know."""
    known = matmul(valid, weights.T)
    values = matmul(spectra, weights.T) / jnp.where(known > 0, known, 1.0)
    return values, known * inside


def _widths(axis: SpectralAxis) -> Float[Any, " band"]:
    """Band widths of an axis, estimated from the spacing in file order where it names none."""
    widths = np.zeros(len(axis)) if axis.fwhm is None else np.asarray(axis.fwhm)
    if (widths > 0).all():
        return widths
    steps = np.abs(np.diff(np.asarray(axis.centers)))
    if len(steps) == 0:
        raise ValueError("one band without a width: its FWHM cannot be estimated from its neighbours")
    spacing = np.array([np.median(steps[max(i - 2, 0) : i + 2]) for i in range(len(axis))])
    return np.where(widths > 0, widths, spacing)


def _same(one: SpectralAxis, other: SpectralAxis) -> bool:
    """Whether two axes are the same bands up to the rounding of files; an axis without responses leaves them open."""
    if len(one) != len(other):
        return False
    other = other.to(one.unit)
    centers = np.asarray(one.centers)
    spacing = np.median(np.abs(np.diff(centers))) if len(centers) > 1 else centers[0]
    if not np.all(np.abs(centers - np.asarray(other.centers)) <= SAME * spacing):
        return False
    if one.responses is None or other.responses is None:
        return True
    (at, ours), (there, theirs) = (tuple(np.asarray(a, float) for a in axis.responses or ()) for axis in (one, other))
    peaks = [r.max(axis=1, keepdims=True) for r in (ours, theirs)]
    moved = np.stack([np.interp(at, there, band, left=0.0, right=0.0) for band in theirs / peaks[1]])
    return bool(np.all(np.abs(ours / peaks[0] - moved) <= SAME))


def _range(axis: SpectralAxis) -> str:
    """The range of an axis with its unit, for messages."""
    centers = np.asarray(axis.centers)
    return f"{centers.min():g} to {centers.max():g} {axis.unit.replace('-1', '⁻¹')}"
