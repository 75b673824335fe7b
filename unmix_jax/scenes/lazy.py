"""Cubes that stay in their file: read by slices, as floating point numbers of the machine."""

from threading import Lock
from typing import Any

import numpy as np

__all__ = ["NODATA", "LazyCube", "RasterBands"]

NODATA = -9999.0  # what marks missing data in the files of this field, unless they say otherwise


class LazyCube:
    """An array that reads what is indexed, converts it to floating point, scales it and marks gaps as NaN.

    It stands wherever a scene's cube stands: it has a shape and a dtype, it can be sliced, and
    ``np.asarray`` reads all of it. Values are ``stored / divisor + offset``, NaN where the stored number is
    `nodata`. Integers become float32.
    """

    def __init__(
        self, source: Any, *, divisor: float = 1.0, offset: float = 0.0, nodata: float | None = NODATA
    ) -> None:
        self._source, self._divisor, self._offset, self._nodata = source, divisor, offset, nodata
        self.shape = tuple(int(n) for n in source.shape)
        stored = np.dtype(source.dtype)
        self.dtype = np.dtype(stored.newbyteorder("=") if stored.kind == "f" else np.float32)

    def __getitem__(self, index: Any) -> np.ndarray:
        return self.values(np.asarray(self._source[index]))

    @property
    def meaning(self) -> list[float | None]:
        """Divisor, offset and the number that marks missing data."""
        return [self._divisor, self._offset, self._nodata]

    @property
    def source(self) -> Any:
        """What is stored."""
        return self._source

    def values(self, stored: np.ndarray) -> np.ndarray:
        """What stored numbers mean."""
        values = np.asarray(stored, self.dtype)
        if self._divisor != 1:
            values = values / self.dtype.type(self._divisor)
        if self._offset:
            values = values + self.dtype.type(self._offset)
        if self._nodata is not None and (gap := stored == self._nodata).any():
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
    """The bands of an open raster file as [row, column, band]; only the rows asked for are read."""

    def __init__(self, raster: Any) -> None:
        self._raster, self._lock = raster, Lock()  # the driver reads from several threads, GDAL from one
        self.shape = raster.height, raster.width, raster.count
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
        with self._lock:
            return np.moveaxis(self._raster.read(window=((start, stop), (0, self.shape[1]))), 0, -1)
