"""Spectral axes out of what files say about them: lenient in, nm or cm⁻¹ out."""

import difflib
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from unmix_jax.scenes.scene import SpectralAxis

__all__ = ["canonical", "existing", "in_file", "missing", "spectral_axis", "unit_of"]

SPELLINGS = {
    "nm": ("nm", "nanometer", "nanometers", "nanometre", "nanometres", "nanos"),
    "um": ("um", "micron", "microns", "micrometer", "micrometers", "micrometre", "micrometres", "mum"),
    "cm-1": ("cm1", "wavenumber", "wavenumbers", "wavenumbercm1", "1cm", "kayser"),
}
UNKNOWN = ("", "unknown", "unspecified", "none", "index")
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
        fwhm: full widths at half maximum in `unit`; ignored where all are zero (a way of saying unknown).
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
    widths = None if fwhm is None or not np.any(fwhm) else np.asarray(fwhm, float).ravel()
    try:
        axis = SpectralAxis(centers, widths, named)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return axis.to("nm") if named == "um" else axis


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
    return ImportError(f"{what} needs {package}: pip install 'unmix-jax[{extra}]'")


def existing(path: str | Path) -> Path:
    """The path of a file that is there.

    Raises:
        FileNotFoundError: it is not.
    """
    path = Path(path).expanduser()
    if not path.is_file() and not (path.is_dir() and path.suffix.lower() == ".zarr"):
        raise FileNotFoundError(f"{path}: no such file" + (" (it is a folder)" if path.is_dir() else ""))
    return path


@contextmanager
def in_file(path: Path) -> Iterator[None]:
    """Put the name of the file before every error about its content."""
    try:
        yield
    except ValueError as error:
        if str(path.with_suffix("")) in str(error):
            raise
        raise ValueError(f"{path}: {error}") from error
