"""Write maps over the pixels of a scene, as ENVI images or GeoTIFFs."""

import errno
import math
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from unmix_jax import __version__
from unmix_jax.scenes.scene import Scene
from unmix_jax.scenes.units import missing

__all__ = ["MapFile", "write_map"]

NODATA = -9999.0
GEOREFERENCE = ("map info", "coordinate system string", "projection info", "geo points", "x start", "y start")


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
