"""Write what belongs to a scene: maps over its pixels as ENVI images, and spectral libraries."""

import csv
import errno
import math
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from unmix_jax import __version__
from unmix_jax.scenes.scene import Scene, SpectralLibrary
from unmix_jax.scenes.units import missing

__all__ = ["MapFile", "library_arrays", "library_names", "write_library", "write_map"]

NODATA = -9999.0
GEOREFERENCE = ("map info", "coordinate system string", "projection info", "geo points", "x start", "y start")
ENVI_UNITS = {"nm": "Nanometers", "um": "Micrometers", "cm-1": "Wavenumber"}
KEYS = {"nm": "wavelength_nm", "cm-1": "wavenumber_cm1"}
COLUMNS = {**KEYS, "um": "wavelength_um"}


def library_names(library: SpectralLibrary) -> tuple[str, ...]:
    """The names of a library, or ``endmember 1``, ``endmember 2``, ... where it has none."""
    return library.names or tuple(f"endmember {i + 1}" for i in range(len(library)))


class MapFile:
    """An image of layers over the pixels of a scene, written rows by rows; it lies on Earth where the scene lies.

    It is ENVI (band sequential, a header ``.hdr`` with the data as ``.img``) or GeoTIFF (``.tif``), -9999 where values
    are not finite; a list of pixels is one line. Layers whose names hold commas, braces or line ends get ``-`` there.
    """

    def __init__(
        self, path: str | Path, names: tuple[str, ...], scene: Scene, *, description: str, dtype: Any = np.float32
    ) -> None:
        """Begin a file.

        Args:
            path: the header, ``.hdr``, or the GeoTIFF, ``.tif``.
            names: one per layer.
            scene: the scene; an image passes its georeferencing on.
            description: what the values are.
            dtype: floating type in the file.

        Raises:
            ImportError: a GeoTIFF without rasterio.
        """
        self.path, self.names, self.dtype = Path(path), tuple(_plain(name) for name in names), np.dtype(dtype)
        rows, columns = scene.shape if len(scene.shape) == 2 else (1, math.prod(scene.shape))
        self._row = scene.shape[-1] if len(scene.shape) == 2 else 1  # pixels of a step of the first axis
        self.shape = rows, columns, len(names)
        about = f"{description}; {_plain(scene.name)}; unmix_jax {__version__}"
        self._raster = self._file = None
        if self.path.suffix == ".tif":
            self._raster = _new_geotiff(self, scene, about)
        else:
            _write_header(self, scene, about)
            self._file = self.path.with_suffix(".img").open("wb", buffering=0)

    def __enter__(self) -> "MapFile":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close()
        if kind is None:
            self.check()

    def close(self) -> None:
        """Write nothing more."""
        for file in (self._raster, self._file):
            if file is not None:
                file.close()

    def check(self) -> None:
        """Look whether all of a file that is closed has reached the disk; GDAL says nothing where it has not.

        Raises:
            OSError: it has not.
        """
        file = self.path if self._raster is not None else self.path.with_suffix(".img")
        promised = math.prod(self.shape) * self.dtype.itemsize
        if file.stat().st_size < promised:
            raise OSError(errno.ENOSPC, f"{file.name} has less than the {promised} bytes of its values")

    def write(self, start: int, values: Float[Any, "*pixel layer"]) -> None:
        """Layers of some rows of the scene, or of some pixels of a list, from ``start`` on."""
        flat = np.asarray(values).reshape(-1, len(self.names))
        clean = np.where(np.isfinite(flat), flat, NODATA).astype(self.dtype).T
        first = start * self._row
        if self._raster is not None:
            row, column = divmod(first, self.shape[1])
            count = max(1, clean.shape[1] // self.shape[1])
            window = ((row, row + count), (column, column + clean.shape[1] // count))
            self._raster.write(clean.reshape(len(clean), count, -1), window=window)
            return
        assert self._file is not None
        for layer, line in enumerate(clean):
            self._file.seek((layer * self.shape[0] * self.shape[1] + first) * self.dtype.itemsize)
            view = np.ascontiguousarray(line).data.cast("B")
            while view:
                view = view[self._file.write(view) :]


def write_map(
    path: str | Path,
    values: Float[Any, "*pixel layer"],
    names: tuple[str, ...],
    scene: Scene,
    *,
    description: str,
    dtype: Any = np.float32,
) -> Path:
    """Write one image over the pixels of a scene, see `MapFile`.

    Args:
        path: the header, ``.hdr``, or the GeoTIFF, ``.tif``.
        values: layers over the pixels of the scene.
        names: one per layer.
        scene: the scene; an image passes its georeferencing on.
        description: what the values are.
        dtype: floating type in the file.

    Returns:
        The header or the GeoTIFF that was written.
    """
    with MapFile(path, names, scene, description=description, dtype=dtype) as file:
        file.write(0, values)
    return file.path


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


def _georeference(scene: Scene) -> dict[str, str]:
    """The header entries that place an image on Earth, as ENVI writes them; only for images."""
    if len(scene.shape) != 2:
        return {}
    held = {str(key).lower(): value for key, value in scene.header.items()}
    found = {}
    for key in GEOREFERENCE:
        if key in held:
            value = held[key]
            text = value if isinstance(value, str) else ",".join(str(part) for part in np.atleast_1d(value))
            text = text.strip().removeprefix("{").removesuffix("}").strip()
            found[key] = text if key in ("x start", "y start") else f"{{{text}}}"
    return found


def _write_header(file: MapFile, scene: Scene, about: str) -> None:
    """The ENVI header of a map."""
    from spectral.io import envi

    lines, samples, bands = file.shape
    header: dict[str, Any] = {
        "description": about,
        "samples": samples,
        "lines": lines,
        "bands": bands,
        "header offset": 0,
        "file type": "ENVI Standard",
        "data type": {"f4": 4, "f8": 5}[file.dtype.str[1:]],
        "interleave": "bsq",
        "byte order": int(sys.byteorder == "big"),
        "band names": list(file.names),
        "data ignore value": f"{NODATA:g}",
        **_georeference(scene),
    }
    envi.write_envi_header(str(file.path), header)


def _new_geotiff(file: MapFile, scene: Scene, about: str) -> Any:
    """A GeoTIFF to be written."""
    try:
        import rasterio
    except ImportError:
        raise missing("geo", "rasterio", f"{file.path}: a GeoTIFF") from None
    rows, columns, count = file.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        raster = rasterio.open(
            file.path, "w", driver="GTiff", width=columns, height=rows, count=count, dtype=file.dtype.name,
            nodata=NODATA, interleave="band", BIGTIFF="IF_SAFER", **_place(scene),
        )  # fmt: skip
    raster.descriptions = file.names
    raster.update_tags(TIFFTAG_IMAGEDESCRIPTION=about)
    return raster


def _place(scene: Scene) -> dict[str, Any]:
    """Coordinate system and transform of an image, out of a GeoTIFF's or an ENVI header."""
    from rasterio import Affine
    from rasterio.errors import CRSError

    if len(scene.shape) != 2:
        return {}
    held = {str(key).lower(): value for key, value in scene.header.items()}
    if {"crs", "transform"} <= set(held):
        return {"crs": held["crs"], "transform": Affine(*held["transform"])}
    system, info = held.get("coordinate system string"), held.get("map info")
    if system is None or not isinstance(info, (list, tuple)) or len(info) < 7:
        return {}
    text = system if isinstance(system, str) else ",".join(str(part) for part in system)
    try:
        column, row, east, north, width, height = (float(value) for value in info[1:7])
        turned = next((float(str(part).partition("=")[2]) for part in info if "rotation" in str(part).lower()), 0.0)
        from rasterio.crs import CRS

        crs = CRS.from_wkt(text.strip().strip("{}"))
    except (ValueError, CRSError):
        return {}
    across, down = math.cos(math.radians(turned)), math.sin(math.radians(turned))  # as GDAL understands the header
    place = across * width, down * width, east + width * (1 - column), down * height, -across * height
    return {"crs": crs, "transform": Affine(*place, north + height * (row - 1))}


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
