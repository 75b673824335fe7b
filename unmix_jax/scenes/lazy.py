"""Cubes that stay in their file: read by slices, as floating point numbers of the machine."""

from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np

from unmix_jax.scenes.nodata import NODATA, is_nodata, shown

__all__ = ["NODATA", "LazyCube", "RasterBands", "shown"]


class LazyCube:
    """An array that reads what is indexed, converts it to floating point, scales it and marks gaps as NaN.

    It stands wherever a scene's cube stands: it has a shape and a dtype, it can be sliced, and
    ``np.asarray`` reads all of it.

        value = stored / divisor · gain + offset,   NaN where stored is `nodata`

    Integers become float32. Division is kept apart from multiplication because a file that says "divide by 10 000"
    gives other last bits when it is multiplied by 0.0001.
    """

    def __init__(
        self,
        source: Any,
        *,
        divisor: float = 1.0,
        gain: Any = 1.0,
        offset: Any = 0.0,
        nodata: Any = NODATA,
        zeros_missing: bool = False,
    ) -> None:
        """Wrap an array.

        Args:
            source: array [..., band] that is read when it is indexed.
            divisor: one number.
            gain: one number, or one per band.
            offset: one number, or one per band, in the unit of the values.
            nodata: stored number that marks missing data, one or one per band; None or NaN: none does.
            zeros_missing: whether a stored zero is missing data.
        """
        self.shape = tuple(int(n) for n in source.shape)
        stored = np.dtype(source.dtype)
        self.dtype = np.dtype(stored.newbyteorder("=") if stored.kind == "f" and stored.itemsize > 2 else np.float32)
        self._source, self._divisor, self._zeros = source, float(divisor), zeros_missing
        self._gain, self._offset = (self._per_band(v, name) for v, name in ((gain, "gain"), (offset, "offset")))
        self._nodata = None if nodata is None else self._per_band(nodata, "no-data value")

    def _per_band(self, value: Any, name: str) -> np.ndarray:
        """One number, or one per band."""
        numbers = np.asarray(value, np.float64)
        if numbers.ndim and (numbers == numbers.flat[0]).all():
            numbers = numbers[:1].reshape(())
        if numbers.ndim and numbers.shape != self.shape[-1:]:
            raise ValueError(f"{name} lists {numbers.size} values for {self.shape[-1]} bands")
        return numbers

    def __getitem__(self, index: Any) -> np.ndarray:
        stored = np.asarray(self._source[index])
        if self._scalar:
            return self.values(stored)
        # One number per band follows the bands that the index takes, so these must stand last, as they do in the cube.
        bands = np.asarray(np.broadcast_to(np.arange(self.shape[-1]), self.shape)[index])
        if bands.ndim and bands.size and not any(bands.strides[:-1]):  # bands stand last: one row of numbers serves all
            bands = bands[(0,) * (bands.ndim - 1)]
        return self.values(stored, bands)

    @property
    def _scalar(self) -> bool:
        """Whether one scale and one no-data value serve all bands."""
        return not (self._gain.ndim or self._offset.ndim or (self._nodata is not None and self._nodata.ndim))

    @property
    def meaning(self) -> list[Any]:
        """Divisor, gain, offset, no-data value and whether zeros are missing, as JSON can hold them."""
        nodata = None if self._nodata is None else self._nodata.tolist()
        return [self._divisor, self._gain.tolist(), self._offset.tolist(), nodata, self._zeros]

    @property
    def source(self) -> Any:
        """What is stored."""
        return self._source

    @property
    def scaling(self) -> dict[str, Any]:
        """Divisor, gain, offset, no-data value and rule for zeros, as the constructor takes them."""
        return {
            "divisor": self._divisor, "gain": self._gain, "offset": self._offset, "nodata": self._nodata,
            "zeros_missing": self._zeros,
        }  # fmt: skip

    def values(self, stored: np.ndarray, bands: np.ndarray | None = None) -> np.ndarray:
        """What stored numbers mean.

        Args:
            stored: numbers of the file, bands last unless ``bands`` is given.
            bands: band of each number.
        """

        def of(numbers: np.ndarray) -> Any:
            return numbers if numbers.ndim == 0 or bands is None else np.asarray(numbers[bands])

        values = np.asarray(stored, self.dtype)
        if self._divisor != 1:
            values = values / self.dtype.type(self._divisor)
        if self._gain.ndim or self._gain != 1:
            values = values * of(self._gain).astype(self.dtype)
        if self._offset.ndim or self._offset:
            values = values + of(self._offset).astype(self.dtype)
        gap = None
        if self._nodata is not None:
            gap = is_nodata(stored, of(self._nodata))
        if self._zeros:
            gap = stored == 0 if gap is None else gap | (stored == 0)
        if gap is not None and gap.any():
            values = np.where(gap, self.dtype.type(np.nan), values)
        return values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("a cube that stays in its file cannot become an array without a copy")
        return np.array(self[...], dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={self.shape}, dtype={self.dtype})"

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def reshape(self, *shape: Any) -> np.ndarray:
        """The whole cube, read into memory and reshaped."""
        return self[...].reshape(*shape)


class RasterBands:
    """Bands of an open raster file as [row, column, band]; only the rows asked for are read."""

    def __init__(self, raster: Any, indexes: Sequence[int] | None = None) -> None:
        """Wrap an open file.

        Args:
            raster: of rasterio.
            indexes: numbers of the bands, counted from 1; None: all.
        """
        self._raster, self._lock = raster, Lock()  # the driver reads from several threads, GDAL from one
        self._indexes = list(raster.indexes if indexes is None else indexes)
        self.shape = raster.height, raster.width, len(self._indexes)
        self.path = raster.name
        self.dtype = np.dtype(raster.dtypes[0])

    def __getitem__(self, index: Any) -> np.ndarray:
        first, rest = (index[0], index[1:]) if isinstance(index, tuple) and index else (index, ())
        if isinstance(first, slice):
            start, stop, step = first.indices(self.shape[0])
            rows = range(start, stop, step)
            if step == 1 and rows:
                block = self._rows(start, stop)
            else:
                block = np.empty((len(rows), *self.shape[1:]), self.dtype)
                for i, row in enumerate(rows):
                    block[i] = self._rows(row, row + 1)[0]
            return block[(slice(None), *rest)]
        if isinstance(first, (int, np.integer)):
            row = range(self.shape[0])[first]
            return self._rows(row, row + 1)[0][rest]
        return self._rows(0, self.shape[0])[index]

    def _rows(self, start: int, stop: int) -> np.ndarray:
        """Rows from `start` to before `stop`, [row, column, band]."""
        window = ((start, stop), (0, self.shape[1]))
        try:
            with self._lock:
                return np.moveaxis(self._raster.read(self._indexes, window=window), 0, -1)
        except OSError as error:
            why = f" ({error.__cause__})" if error.__cause__ is not None else ""
            raise OSError(f"{self.path}: rows {start} to {stop} cannot be read, the file is damaged{why}") from None
