"""Write spectral libraries."""

import csv
from pathlib import Path
from typing import Any

import numpy as np

from unmix_jax import __version__
from unmix_jax.scenes.scene import SpectralLibrary

__all__ = ["library_arrays", "library_names", "write_library"]

ENVI_UNITS = {"nm": "Nanometers", "um": "Micrometers", "cm-1": "Wavenumber"}
KEYS = {"nm": "wavelength_nm", "cm-1": "wavenumber_cm1"}
COLUMNS = {**KEYS, "um": "wavelength_um"}


def library_names(library: SpectralLibrary) -> tuple[str, ...]:
    """The names of a library, or ``endmember 1``, ``endmember 2``, ... where it has none."""
    return library.names or tuple(f"endmember {i + 1}" for i in range(len(library)))


def write_library(path: str | Path, library: SpectralLibrary) -> Path:
    """Write a spectral library as ENVI ``.sli`` (with its ``.hdr``), ``.csv`` or ``.npz``.

    ENVI headers cannot hold commas, braces or line ends inside a name: they become ``-`` there. The other
    two keep names as they are. A ``.csv`` has one row per band and, after the axis, one column per spectrum.

    Args:
        path: file to write; the ending chooses the format.
        library: the spectra.

    Returns:
        The file that was written.

    Raises:
        ValueError: the ending is none of the three.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() in (".sli", ".hdr"):
        return _write_sli(path, library)
    if path.suffix.lower() == ".csv":
        return _write_csv(path, library)
    if path.suffix.lower() == ".npz":
        np.savez(path, **library_arrays(library))
        return path
    raise ValueError(f"{path.name}: a library is written as .sli, .csv or .npz, not {path.suffix or 'without'!r}")


def library_arrays(library: SpectralLibrary) -> dict[str, Any]:
    """The arrays of a library under the names of the project's scene file.

    Args:
        library: the spectra; an axis in µm is converted to nm.

    Returns:
        ``endmembers``, ``names``; where known, ``wavelength_nm`` or ``wavenumber_cm1``, ``fwhm``,
        ``good_bands``.
    """
    arrays: dict[str, Any] = {
        "endmembers": np.asarray(library.spectra),
        "names": np.asarray(library_names(library), dtype=np.str_),
    }
    if library.axis is not None:
        axis = library.axis if library.axis.unit == "cm-1" else library.axis.to("nm")
        arrays[KEYS[axis.unit]] = np.asarray(axis.centers)
        if axis.fwhm is not None:
            arrays["fwhm"] = np.asarray(axis.fwhm)
    if library.good_bands is not None:
        arrays["good_bands"] = np.asarray(library.good_bands)
    return arrays


def _plain(name: str) -> str:
    """A name that an ENVI list can hold."""
    return "".join("-" if c in ",{}\n\r=" else c for c in name).strip() or "-"


def _write_sli(path: Path, library: SpectralLibrary) -> Path:
    """ENVI spectral library: ``.sli`` and ``.hdr``."""
    from spectral.io import envi

    header: dict[str, Any] = {"spectra names": [_plain(name) for name in library_names(library)]}
    if library.axis is not None:
        header["wavelength"] = [float(c) for c in np.asarray(library.axis.centers)]
        header["wavelength units"] = ENVI_UNITS[library.axis.unit]
        if library.axis.fwhm is not None:
            header["fwhm"] = [float(w) for w in np.asarray(library.axis.fwhm)]
    if library.good_bands is not None:
        header["bbl"] = [int(good) for good in np.asarray(library.good_bands)]
    spectra = np.asarray(library.spectra, dtype=np.float32)
    envi.SpectralLibrary(spectra, header).save(str(path.with_suffix("")), f"unmix_jax {__version__}")
    return path.with_suffix(".sli")


def _write_csv(path: Path, library: SpectralLibrary) -> Path:
    """One row per band; the first column is the axis (or the band number)."""
    axis = library.axis
    bands = np.arange(1, library.spectra.shape[1] + 1) if axis is None else np.asarray(axis.centers)
    label = (
        "band" if axis is None else {"nm": "wavelength_nm", "um": "wavelength_um", "cm-1": "wavenumber_cm1"}[axis.unit]
    )
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([label, *library_names(library)])
        for band, values in zip(bands.tolist(), np.asarray(library.spectra).T.tolist(), strict=True):
            writer.writerow([repr(band), *("" if np.isnan(v) else repr(v) for v in values)])
    return path
