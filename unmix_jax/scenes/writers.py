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
from unmix_jax.scenes.georeference import envi_entries, geotiff_profile, place_of
from unmix_jax.scenes.ortho import ortho_place, ortho_shape, orthorectify
from unmix_jax.scenes.scene import Scene
from unmix_jax.scenes.units import missing

__all__ = ["MapFile", "write_map"]

NODATA = -9999.0


class MapFile:
    """An image of layers over the pixels of a scene, written rows by rows; it lies on Earth where the scene lies.

    It is ENVI (band sequential, a header ``.hdr`` with the data as ``.img``) or GeoTIFF (``.tif``), -9999 where values
    are not finite (with ``infinite``, where they are NaN); a list of pixels is one line. Layers whose names hold
    commas, braces or line ends get ``-`` there.
    With ``ortho`` it is an image over the grid of the scene's table (GLT), and lies where that grid lies.
    """

    def __init__(
        self, path: str | Path, names: tuple[str, ...], scene: Scene, *, description: str, dtype: Any = np.float32,
        ortho: bool = False, infinite: bool = False,
    ) -> None:  # fmt: skip
        """Begin a file.

        Args:
            path: the header, ``.hdr``, or the GeoTIFF, ``.tif``.
            names: one per layer.
            scene: the scene; an image passes its georeferencing on.
            description: what the values are.
            dtype: floating type in the file.
            ortho: whether rows that are written are those of the grid of the scene's table (GLT).
            infinite: whether infinite values mean something and are written as they are.

        Raises:
            ImportError: a GeoTIFF without rasterio.
            ValueError: ``ortho``, and the scene has no table.
        """
        self.path, self.names, self.dtype = Path(path), tuple(_plain(name) for name in names), np.dtype(dtype)
        image = ortho_shape(scene) if ortho else scene.shape
        self.ortho, self._infinite = ortho, infinite
        rows, columns = image if len(image) == 2 else (1, math.prod(image))
        self._row = columns if len(image) == 2 else 1  # pixels of a step of the first axis
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
        """Look whether all of a file that is closed has reached the disk, and whether its header says what it is.

        GDAL says nothing where bytes are missing.

        Raises:
            OSError: bytes are missing, or the header reads as that of another image.
        """
        file = self.path if self._raster is not None else self.path.with_suffix(".img")
        promised = math.prod(self.shape) * self.dtype.itemsize
        if file.stat().st_size < promised:
            raise OSError(errno.ENOSPC, f"{file.name} has less than the {promised} bytes of its values")
        if self._raster is None:
            _check_header(self)

    def write(self, start: int, values: Float[Any, "*pixel layer"], *, layer: int = 0) -> None:
        """Layers of some rows of the scene (or of its grid), or of some pixels of a list, from ``start`` on.

        Args:
            start: first row, or first pixel of a list.
            values: over whole rows, or pixels.
            layer: number of the first layer of these values, where they are not all of them.
        """
        values = np.asarray(values)
        layers = 1 if values.ndim == 1 or len(self.names) == 1 else values.shape[-1]
        flat = values.reshape(-1, layers)
        there = ~np.isnan(flat) if self._infinite else np.isfinite(flat)
        clean = np.where(there, flat, NODATA).astype(self.dtype).T
        first = start * self._row
        if self._raster is not None:
            row, column = divmod(first, self.shape[1])
            count = max(1, clean.shape[1] // self.shape[1])
            window = ((row, row + count), (column, column + clean.shape[1] // count))
            numbers = [layer + i + 1 for i in range(layers)]
            self._raster.write(clean.reshape(len(clean), count, -1), indexes=numbers, window=window)
            return
        assert self._file is not None
        for number, line in enumerate(clean, layer):
            self._file.seek((number * self.shape[0] * self.shape[1] + first) * self.dtype.itemsize)
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
    ortho: bool = False,
) -> Path:
    """Write one image over the pixels of a scene, see `MapFile`.

    Args:
        path: the header, ``.hdr``, or the GeoTIFF, ``.tif``.
        values: layers over the pixels of the scene.
        names: one per layer.
        scene: the scene; an image passes its georeferencing on.
        description: what the values are.
        dtype: floating type in the file.
        ortho: write the values on the grid of the scene's table (GLT), see `unmix_jax.scenes.ortho.orthorectify`.

    Returns:
        The header or the GeoTIFF that was written.
    """
    with MapFile(path, names, scene, description=description, dtype=dtype, ortho=ortho) as file:
        file.write(0, orthorectify(values, scene) if ortho else values)
    return file.path


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
        **(envi_entries(ortho_place(scene), (lines, samples)) if file.ortho else envi_entries(scene, scene.shape))[0],
    }
    envi.write_envi_header(str(file.path), header)


def _check_header(file: MapFile) -> None:
    """Read a header back: names and places out of files stand in it, and the sizes must be those that were written."""
    from spectral.io import envi

    lines, samples, bands = file.shape
    wanted = {"lines": lines, "samples": samples, "bands": bands, "header offset": 0, "interleave": "bsq"}
    try:
        found = envi.read_envi_header(str(file.path))
    except (envi.EnviException, UnicodeDecodeError) as error:
        raise OSError(f"{file.path.name} cannot be read back: {error}") from None
    for name, value in wanted.items():
        if str(found.get(name)) != str(value):
            raise OSError(f"{file.path.name} cannot be read back: {name} is {found.get(name)!r} and not {value!r}")


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
            nodata=NODATA, interleave="band", BIGTIFF="IF_SAFER",
            **geotiff_profile(ortho_place(scene) if file.ortho else place_of(scene)),
        )  # fmt: skip
    raster.descriptions = file.names
    raster.update_tags(TIFFTAG_IMAGEDESCRIPTION=about)
    return raster


def _plain(name: str) -> str:
    """A name that an ENVI list can hold."""
    return "".join("-" if c in ",{}=" or not c.isprintable() else c for c in name).strip() or "-"
