"""Spectral axes out of what files say about them: lenient in, nm or cm⁻¹ out."""

import difflib
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from unmix_jax.scenes.scene import SpectralAxis

__all__ = [
    "axis_of_names",
    "canonical",
    "existing",
    "in_file",
    "missing",
    "quantity_in",
    "spectral_axis",
    "unit_of",
]

SPELLINGS = {
    "nm": ("nm", "nanometer", "nanometers", "nanometre", "nanometres", "nanos"),
    "um": ("um", "micron", "microns", "micrometer", "micrometers", "micrometre", "micrometres", "mum"),
    "cm-1": ("cm1", "wavenumber", "wavenumbers", "wavenumbercm1", "1cm", "kayser"),
}
UNKNOWN = ("", "unknown", "unspecified", "none", "index")
# A number and its unit as a word of its own. Names are cut before they are searched: a line of digits would otherwise
# cost the square of its length.
CENTRE = re.compile(
    r"(\d+(?:\.\d+)?)\s*(nm|nanomet(?:er|re)s?|[uµμ]m|micromet(?:er|re)s?|microns?|cm-1|cm\^-1|cm⁻¹)(?![\w-])", re.I
)
NAME_LENGTH = 200
QUANTITIES = {
    "reflectance": ("reflectance", "reflectivity", "rho", "albedo"),
    "emissivity": ("emissivity", "emittance"),
    "radiance": ("radiance",),
    "brightness temperature": ("brightness temperature",),
    "transmittance": ("transmittance", "transmission"),
    "absorbance": ("absorbance",),
    "raw counts": ("dn", "counts", "raw", "digital number", "digital numbers"),
}
MICROMETRES_BELOW = 25  # no optical band is at 25 nm, few sensors go beyond 25 µm


def unit_of(text: str | None) -> str | None:
    """The unit a text names, ``nm``, ``um`` or ``cm-1``; None where it names none.

    Args:
        text: as found in a file or given by the user: ``Nanometers``, ``µm``, ``cm^-1``, ``Wavenumber`` ...

    Raises:
        ValueError: the text names something that is not one of these units.
    """
    plain = re.sub(r"[^a-z0-9]", "", (text or "").lower().replace("µ", "u").replace("μ", "u"))
    plain = plain.replace("⁻¹", "1").replace("minus", "")
    if plain in UNKNOWN:
        return None
    for unit, spellings in SPELLINGS.items():
        if plain in spellings:
            return unit
    close = difflib.get_close_matches(plain, [s for v in SPELLINGS.values() for s in v], 1, 0.8)
    if len(plain) > 4 and close:
        return next(unit for unit, spellings in SPELLINGS.items() if close[0] in spellings)
    raise ValueError(f"spectral unit {text!r} is not one of nm, um (µm), cm-1")


def spectral_axis(values: Any, *, fwhm: Any = None, unit: str | None = None, where: str) -> SpectralAxis:
    """The axis of a file: micrometres become nm, wavenumbers stay cm⁻¹, the order of the bands is kept.

    Args:
        values: band centres in `unit`.
        fwhm: full widths at half maximum in `unit`; zero says unknown.
        unit: as the file or the user names it; None: guessed with a warning (all below 25: µm, else nm).
        where: file name for messages.

    Raises:
        ValueError: unknown unit; centres that are not finite and positive; widths that do not fit.
    """
    named = unit_of(unit)
    centers = np.asarray(values, float).ravel()
    if named is None:
        named = "um" if np.nanmax(centers, initial=0) < MICROMETRES_BELOW else "nm"
        said = "µm" if named == "um" else "nm"
        warnings.warn(f"{where}: no wavelength unit is given; {said} is assumed", stacklevel=2)
    if len(centers) > 1 and np.ptp(centers) == 0:
        raise ValueError(f"{where}: all wavelengths are {centers[0]:g}")
    widths = None if fwhm is None or not np.any(fwhm) else np.asarray(fwhm, float).ravel()
    if widths is not None and not (np.isfinite(widths).all() and (widths >= 0).all()):
        raise ValueError(f"{where}: band widths (fwhm) must be finite and not negative")
    try:
        axis = SpectralAxis(centers, widths, named)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return axis.to("nm") if named == "um" else axis


def axis_of_names(names: Sequence[str]) -> tuple[np.ndarray, str] | None:
    """Band centres out of the names of bands, where these are unmistakable: a number with its unit in every name.

    Args:
        names: such as ``Band 12 (652.31 Nanometers)`` or ``0.652 µm``.

    Returns:
        The centres and their unit (nm, um or cm-1); None where a name holds no or several such numbers, units differ,
        centres repeat, or fewer than nine in ten steps run in one direction.
    """
    found = [CENTRE.findall(name[:NAME_LENGTH]) for name in names]
    if len(found) < 2 or any(len(matches) != 1 for matches in found):
        return None
    units = {unit_of(matches[0][1]) for matches in found}
    centers = np.asarray([float(matches[0][0]) for matches in found])
    rising = float(np.mean(np.diff(centers) > 0))
    if len(units) != 1 or len(np.unique(centers)) < len(centers) or not (centers > 0).all():
        return None
    return (centers, str(units.pop())) if max(rising, 1 - rising) >= 0.9 else None


def quantity_in(text: str) -> str | None:
    """The quantity that a text names as a whole word, such as ``Surface Reflectance``; None where it names none or two.

    Args:
        text: a title, a long name or a unit out of a file.
    """
    words = " ".join(re.split(r"[^a-z]+", text.lower()))
    named = [quantity for quantity, spellings in QUANTITIES.items() if any(f" {s} " in f" {words} " for s in spellings)]
    return named[0] if len(named) == 1 else None


def canonical(header: Mapping[str, Any], known: tuple[str, ...]) -> dict[str, Any]:
    """A header whose keys are lower case, single-spaced, and corrected to the `known` ones they misspell."""
    plain = {re.sub(r"[\s_]+", " ", str(k)).strip().lower(): v for k, v in header.items()}
    result = {k: v for k, v in plain.items() if k in known}
    for key, value in plain.items():
        close = key if key in known else next(iter(difflib.get_close_matches(key, known, 1, 0.85)), key)
        result.setdefault(close, value)
    return result


def missing(extra: str, package: str, what: str) -> ImportError:
    """The one message about an optional dependency that is not installed."""
    return ImportError(f"{what} needs {package}: in the clone of unmix_jax, pip install '.[{extra}]'")


def existing(path: str | Path) -> Path:
    """The path of a file or a folder that is there.

    Raises:
        FileNotFoundError: it is not.
    """
    path = Path(path).expanduser()
    if not path.is_file() and not path.is_dir():
        raise FileNotFoundError(f"{path}: no such file")
    return path


@contextmanager
def in_file(path: Path) -> Iterator[None]:
    """Every error about the content of a file as one line with the file's name: a `ValueError`, or an `OSError`."""
    try:
        yield
    except ImportError:
        raise
    except MemoryError as error:
        raise ValueError(f"{path}: reading it takes more memory than there is") from error
    except OSError as error:
        if str(path) in str(error) or str(path.with_suffix("")) in str(error):
            raise
        raise OSError(error.errno, f"{path}: {' '.join(str(error).split())}") from error
    except ValueError as error:
        if str(path.with_suffix("")) in str(error) and "\n" not in str(error):
            raise
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error
    except Exception as error:  # libraries have errors of their own for damaged files: KeyError, zlib.error
        what = " ".join(str(error).split()) or "no reason given"
        raise ValueError(f"{path} cannot be read ({type(error).__name__}: {what})") from error
