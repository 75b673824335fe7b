"""What is in a scene or a library, in words: for the command, and for anyone who opens a strange file."""

from typing import Any

import numpy as np

from unmix_jax.scenes.georeference import place_in_words
from unmix_jax.scenes.lazy import NODATA, shown
from unmix_jax.scenes.nodata import is_nodata
from unmix_jax.scenes.reading import REFLECTANCE_UP_TO, looked_at
from unmix_jax.scenes.scene import UNKNOWN_QUANTITY, Account, Scene, SpectralAxis, SpectralLibrary

__all__ = ["describe"]

LISTED = 40  # entries that are carried, in one line; those that are not understood are all listed


def describe(loaded: Scene | SpectralLibrary) -> list[tuple[str, str]]:
    """Size, bands, masks, names, values and metadata of a scene or a library, as (what, how much) pairs.

    Values are those of some evenly spread rows.

    Args:
        loaded: what a reader returned.
    """
    return _scene(loaded) if isinstance(loaded, Scene) else _library(loaded)


def _scene(scene: Scene) -> list[tuple[str, str]]:
    """The lines of a scene."""
    total = int(np.prod(scene.shape))
    size = " × ".join(f"{n:,}" for n in scene.shape)
    rows = [
        ("scene", scene.name),
        ("pixels", f"{size} (rows × columns) = {total:,}" if len(scene.shape) == 2 else f"{size} spectra"),
        *_bands(scene.axis, scene.bands, scene.good_bands),
    ]
    if "netcdf variables" in scene.header:
        rows.append(("variables", str(scene.header["netcdf variables"])))
    if scene.pixel_names:
        rows.append(("names", _names(scene.pixel_names, len(scene.pixel_names))))
    pixels = looked_at(scene)
    if scene.good_bands is not None:
        pixels = pixels[:, np.asarray(scene.good_bands)]
    missing = ~np.isfinite(pixels).all(axis=-1) | is_nodata(pixels, scene.nodata).any(axis=-1)
    empty = (pixels == 0).all(axis=-1)
    masked = "none" if scene.mask is None else f"{int((~np.asarray(scene.mask)).sum()):,} pixels"
    rows += [
        ("masked", masked),
        ("no-data value", _nodata(scene)),
        ("missing or empty", f"{(missing | empty).mean():.2%} of {len(pixels):,} pixels that were looked at"),
        ("values", _values(pixels[~(missing | empty)], scene)),
    ]
    if scene.endmembers is not None:
        rows.append(("reference endmembers", _names(scene.endmembers.names, len(scene.endmembers))))
    if scene.abundances is not None:
        rows.append(("reference abundances", _names(scene.abundance_names, scene.abundances.shape[-1])))
    if scene.labels is not None:
        rows.append(("labels", _names(scene.label_names, int(np.max(scene.labels)) + 1)))
    return [*rows, ("georeferencing", place_in_words(scene)), *_metadata(scene.account, scene.notes)]


def _library(library: SpectralLibrary) -> list[tuple[str, str]]:
    """The lines of a library."""
    spectra = np.asarray(library.spectra)
    rows = [
        ("spectra", f"{len(library):,}"),
        *_bands(library.axis, spectra.shape[1], library.good_bands),
        ("names", _names(library.names, len(library))),
    ]
    if library.classes:
        rows.append(("classes", _names(tuple(sorted(set(library.classes))), len(set(library.classes)))))
    finite = spectra[np.isfinite(spectra)]
    span = f"{finite.min():.4g} to {finite.max():.4g}" if finite.size else "none is finite"
    if finite.size and REFLECTANCE_UP_TO < np.percentile(finite, 99) <= 100:
        span += " (per cent? then --scale 0.01, or --library-scale 0.01 of unmix)"
    rows.append(("values", span if library.quantity == UNKNOWN_QUANTITY else f"{span}: {library.quantity}"))
    rows.append(("missing", f"{np.isnan(spectra).mean():.1%} of the values"))
    return [*rows, *_metadata(library.account, library.notes)]


def _metadata(account: Account, notes: tuple[str, ...]) -> list[tuple[str, str]]:
    """What became of the metadata, and what may make the numbers wrong."""
    rows = []
    if account.carried:
        rows.append(("metadata carried", _shortened(account.carried)))
    if any(account):
        rows.append(("metadata not understood", ", ".join(account.unknown) or "none"))
    return rows + [("please check", note) for note in notes]


def _shortened(entries: tuple[str, ...]) -> str:
    """Names of entries; of very many, the first."""
    more = f" and {len(entries) - LISTED} more" if len(entries) > LISTED else ""
    return ", ".join(entries[:LISTED]) + more


def _nodata(scene: Scene) -> str:
    """What marks missing data."""
    if scene.stated_nodata is not None:
        return shown(scene.stated_nodata)
    if scene.suspected_nodata is not None:
        return f"not given; {shown(scene.suspected_nodata)} is suspected (--nodata)"
    return f"not given ({NODATA:g} would be taken as missing)"


def _bands(axis: SpectralAxis | None, count: int, good_bands: Any) -> list[tuple[str, str]]:
    """The lines about bands."""
    if axis is None:
        where, width, order = "no wavelengths given", "not given", ""
    else:
        centers = np.asarray(axis.centers)
        unit = axis.unit.replace("cm-1", "cm⁻¹").replace("um", "µm")
        where = f"{centers.min():g} to {centers.max():g} {unit}"
        steps = np.diff(centers)
        order = "" if (steps > 0).all() else ", descending" if (steps < 0).all() else ", not in order"
        fwhm = None if axis.fwhm is None else np.asarray(axis.fwhm)
        width = "not given" if fwhm is None else f"{fwhm.min():.4g} to {fwhm.max():.4g} {unit}"
    bad = np.zeros(0, int) if good_bands is None else np.flatnonzero(~np.asarray(good_bands)) + 1
    listed = ", ".join(map(str, bad[:12])) + (", …" if bad.size > 12 else "")
    return [
        ("bands", f"{count:,}, {where}{order}"),
        ("band widths (FWHM)", width),
        ("bad bands", f"{bad.size} (number {listed}, counted from 1)" if bad.size else "none"),
    ]


def _values(pixels: np.ndarray, scene: Scene) -> str:
    """Range of the values of valid pixels in good bands, and what they look like."""
    if pixels.size == 0:
        return "no pixel is valid"
    low, middle, high = (float(v) for v in (pixels.min(), np.median(pixels), pixels.max()))
    top = float(np.percentile(pixels, 99))
    text = f"{low:.4g} to {high:.4g}, median {middle:.4g} ({scene.cube.dtype})"
    looks = (
        "reflectance or emissivity" if top <= REFLECTANCE_UP_TO
        else "reflectance in percent, or radiance" if top <= 200
        else "reflectance × 10 000, radiance or raw counts"
    )  # fmt: skip
    scaled = "" if top <= REFLECTANCE_UP_TO else " (--scale auto)"
    if scene.quantity == UNKNOWN_QUANTITY:
        return f"{text}: the file does not say what they are (--quantity); they look like {looks}{scaled}"
    if scene.quantity in ("reflectance", "emissivity") and top > REFLECTANCE_UP_TO:
        return f"{text}: {scene.quantity}, but they look like {looks} (--scale)"
    return f"{text}: {scene.quantity}"


def _names(names: tuple[str, ...], count: int) -> str:
    """Some names and how many there are."""
    if not names:
        return f"{count}, not named"
    return f"{count}: " + ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
