"""What is missing: the one rule by which a value stands for no data, and values that look as if they did."""

import math
import warnings
from typing import Any

import numpy as np

__all__ = [
    "DELETED", "FEW", "FILLS", "NODATA", "is_nodata", "left_out", "marks", "shown", "suspected_fill", "undeclared",
    "warn_of_fill",
]  # fmt: skip

NODATA = -9999.0  # what marks missing data in the files of this field, unless they say otherwise
DELETED = 1e30  # magnitudes above are marks, not spectra: USGS marks deleted channels with -1.23e34, ISIS with -3.4e38
# What the files of this field use as fill values; a value that is none of these must stand out much further.
# -9999 also appears scaled, as -0.9999 and -99.99.
FILLS = (-9999.0, -0.9999, -99.99, -999.0, -32768.0, 32767.0, -32767.0, 65535.0, -2147483648.0, 2147483647.0)
REPEATS, FEW = 8, 1e-4  # a value that stands less often than both is taken for an outlier
LOOKED_AT = 1024  # pixels of an array in memory: a border of fill values is seen, and it takes less than a millisecond


def shown(value: float) -> str:
    """A stored number as a user would write it: whole where it is whole, else as short as it can be in float32."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 2**53 else str(np.float32(value))


def marks(nodata: Any, dtype: Any) -> tuple[np.ndarray, ...]:
    """The numbers of a type that mark missing data, given what a file or a user calls it.

    A value is missing where it equals the no-data value after both are rounded to the type of the data: -9999.9 or
    -3.40282347e38, written as text, is no float32. Doubles are often made of singles, so that of float64 data the
    no-data value in single precision counts as well.

    Args:
        nodata: one number, or one per band; None or NaN: nothing marks missing data.
        dtype: of the data, as stored.

    Returns:
        None, one or two numbers (or numbers per band), which a value is compared with.
    """
    if nodata is None or np.isnan(nodata).all():
        return ()
    numbers, dtype = np.asarray(nodata, np.float64), np.dtype(dtype)
    if dtype.kind != "f":
        return (numbers,)
    with np.errstate(over="ignore"):  # what overflows is infinite, and so are the values that are missing anyway
        own = numbers.astype(dtype.newbyteorder("="))
        single = numbers.astype(np.float32).astype(own.dtype)
    return (own,) if dtype.itemsize <= 4 or np.array_equal(own, single, equal_nan=True) else (own, single)


def is_nodata(values: np.ndarray, nodata: Any) -> np.ndarray:
    """True where a value is the no-data value.

    Args:
        values: as stored, bands last.
        nodata: one number, or one per band; None or NaN: nothing marks missing data.
    """
    values = np.asarray(values)
    numbers = marks(nodata, values.dtype)
    found = np.zeros(values.shape, bool) if not numbers else values == numbers[0]
    return found if len(numbers) < 2 else found | (values == numbers[1])


def undeclared(pixels: Any, nodata: Any) -> bool:
    """Whether nothing says what marks missing data: -9999 is then left out, with a warning.

    Args:
        pixels: an array, or a cube that stays in its file, whose reader has decided it.
        nodata: what is said; NaN says that nothing does.
    """
    return nodata is None and not hasattr(pixels, "scaling")


def left_out(count: int, total: int, *, stacklevel: int) -> None:
    """Warn of pixels that hold -9999 where nothing says what that is."""
    if count:
        warnings.warn(
            f"the value {shown(NODATA)} stands in {count:,} of {total:,} pixels, and nothing says what it is: these "
            f"pixels are left out. Give nodata={shown(NODATA)} (of `unmix` or of the `Scene`) if it marks missing "
            "data, nodata=math.nan if it is a measurement",
            stacklevel=stacklevel + 1,
        )


def warn_of_fill(pixels: Any, nodata: Any, good: Any = None, *, stacklevel: int) -> None:
    """Warn of a value that repeats in an array as a fill value does, and that nothing calls one: it stays.

    Args:
        pixels: [..., band]; some evenly spread ones are looked at, where they are in memory (of NumPy or JAX). What
            stays in its file was looked at when it was opened.
        nodata: what marks missing data; NaN: the user says that nothing does, and no value is suspected.
        good: True where a band is used; None: all are.
        stacklevel: as of `warnings.warn`.
    """
    in_memory = isinstance(pixels, np.ndarray) and not isinstance(pixels, np.memmap)
    if not (in_memory or hasattr(pixels, "addressable_shards")) or (nodata is not None and math.isnan(nodata)):
        return
    *lead, bands = pixels.shape
    step = max(1, math.ceil((math.prod(lead) / LOOKED_AT) ** (1 / len(lead))))
    some = np.asarray(pixels[(slice(None, None, step),) * len(lead)]).reshape(-1, bands)
    missing = is_nodata(some, NODATA if nodata is None else nodata)
    good = np.ones(bands, bool) if good is None else np.asarray(good, bool)
    ends = (float(np.fmin.reduce(some, axis=None)), float(np.fmax.reduce(some, axis=None)))
    if not missing.any() and not any(_in_use(end) or abs(end) >= DELETED for end in ends):
        return  # for speed: a value that is no usual fill value is not looked for
    fill = suspected_fill(some.astype(np.float64), missing, good)  # float16 could not be compared with 1e30
    if fill is None or not (_in_use(fill) or abs(fill) >= DELETED):
        return
    count = int(is_nodata(some[:, good], fill).any(axis=1).sum())
    warnings.warn(
        f"the value {shown(fill)} repeats as a fill value does, in {count:,} of {len(some):,} pixels that were looked "
        f"at, and nothing says what it is: it is taken as a measurement. Give nodata={shown(fill)} (of `unmix` or of "
        "the `Scene`) if it marks missing data, nodata=math.nan if it is a measurement",
        stacklevel=stacklevel + 1,
    )


def _in_use(value: float) -> bool:
    """Whether files use a value as a fill value."""
    return any(abs(value - fill) <= 1e-6 * abs(fill) for fill in FILLS)


def suspected_fill(stored: np.ndarray, missing: np.ndarray, good: np.ndarray) -> float | None:
    """A stored value that repeats as a fill value does; None where there is none.

    A magnitude above 1e30 is one. Otherwise it is an end of the range of all values, it fills a whole pixel (one value
    in all of its bands is no spectrum) or repeats in many, and it is one of those in use for this, or lies further from
    all others than these lie from each other.

    Args:
        stored: [pixel, band], as in the file.
        missing: where a value is known to be missing, because the file says so.
        good: bands that are used.
    """
    values = np.where(missing, np.nan, stored)[:, good]
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return None
    if (huge := finite[np.abs(finite) >= DELETED]).size:
        return float(huge[0])
    for end in (float(finite.min()), float(finite.max())):
        at, rest = values == end, finite[finite != end]
        whole = values.shape[1] > 1 and bool(at.all(axis=1).any())
        if end == 0 or rest.size == 0 or not (whole or at.sum() >= max(REPEATS, FEW * finite.size)):
            continue
        low, high = float(rest.min()), float(rest.max())
        apart = low - end if end < low else end - high
        in_use = _in_use(end)
        if apart > high - low or (in_use and apart > 0):
            return float(round(end)) if abs(end) >= 1 and abs(end - round(end)) < 1e-6 * abs(end) else float(end)
    return None
