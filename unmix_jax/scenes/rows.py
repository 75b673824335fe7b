"""Rows of a scene, read from its file into memory that is there already.

A memory map of a file that becomes shorter while it is read ends the process (SIGBUS), and a bad sector likewise. What
streams a whole scene therefore reads: an error is then an error that can be told, and one buffer serves all blocks.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from unmix_jax.scenes.lazy import LazyCube

__all__ = ["Rows"]

SCRATCH = 8 * 2**20  # bytes that are read at once to be turned from the order of the file
TURNED = 32  # pixels whose bands are gathered at once: what is read stays in the caches


class Rows:
    """The first axis of a cube, or of a list of spectra, read by ranges; by one thread at a time.

    Attributes:
        shape: of the cube, bands last.
        path: file that is read; None: the cube is not a plain file, and is sliced.
        origin: file that a cube which is sliced comes from, where it is known.
        chunk: rows that are stored, and therefore read, together.
    """

    def __init__(self, cube: Any) -> None:
        self.shape = tuple(int(n) for n in cube.shape)
        self._cube, self._file = cube, None
        stored = cube.source if isinstance(cube, LazyCube) else cube
        self._layout = _layout(stored)
        self.chunk = 1 if self._layout is not None else min(_chunk_rows(stored), self.shape[0])
        self._kept: tuple[int, np.ndarray] = (0, np.empty((0, self.row, self.shape[-1])))
        self.path: Path | None = None
        self.origin = _origin(stored)
        if self._layout is not None:
            root, self._offset, self._order = self._layout
            self.path, self._dtype = Path(str(root.filename)), stored.dtype
            self._file = self.path.open("rb", buffering=0)

    def __enter__(self) -> "Rows":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def row(self) -> int:
        """Pixels in a row."""
        return math.prod(self.shape[1:-1])

    def read(self, start: int, stop: int, out: Float[np.ndarray, "pixel band"]) -> None:
        """Rows from ``start`` to before ``stop``, pixel after pixel.

        Args:
            start: first row.
            stop: one beyond the last.
            out: takes them, in its own floating type.

        Raises:
            OSError: the file cannot be read, or is shorter than it was.
        """
        out = out.reshape(stop - start, self.row, self.shape[-1])
        if self._file is None:
            self._slice(start, stop, out)
        elif self._order == "bip" and self._dtype == out.dtype and not isinstance(self._cube, LazyCube):
            self._fill(out, start * self.row * self.shape[-1])
        else:
            each = max(1, SCRATCH // (self.row * self.shape[-1] * self._dtype.itemsize))
            for first in range(start, stop, each):
                last = min(first + each, stop)
                self._turn(first, last, out[first - start : last - start])

    def _slice(self, start: int, stop: int, out: Float[np.ndarray, "row pixel band"]) -> None:
        """From a cube that is sliced: of one in chunks, all rows of a chunk at once, kept until they are past."""
        while start < stop:
            first, values = self._kept
            if not first <= start < first + len(values):
                first, last = start, stop
                if self.chunk > 1:
                    first = start // self.chunk * self.chunk
                    last = min(first + self.chunk, self.shape[0])
                values = np.asarray(self._cube[first:last])
                values = values.reshape(len(values), self.row, self.shape[-1])
                self._kept = (first, values) if self.chunk > 1 else (0, values[:0])
            here = values[start - first : stop - first]
            np.copyto(out[: len(here)], here, casting="unsafe")
            start, out = start + len(here), out[len(here) :]

    def _turn(self, start: int, stop: int, out: Float[np.ndarray, "row pixel band"]) -> None:
        """A few rows that are stored in another order or as other numbers."""
        bands, pixels = self.shape[-1], (stop - start) * self.row
        if self._order == "bip":
            stored = np.empty(out.shape, self._dtype)
            self._fill(stored, start * self.row * bands)
            np.copyto(out, self._values(stored), casting="unsafe")
            return
        if self._order == "bil":
            stored = np.empty((stop - start, bands, self.row), self._dtype)
            self._fill(stored, start * self.row * bands)
        else:
            stored = np.empty((1, bands, pixels), self._dtype)
            for i, band in enumerate(stored[0]):
                self._fill(band, i * math.prod(self.shape[:-1]) + start * self.row)
            out = out.reshape(1, pixels, bands)
        for first in range(0, out.shape[1], TURNED):
            some = slice(first, first + TURNED)
            np.copyto(out[:, some], self._values(stored[:, :, some].swapaxes(1, 2)), casting="unsafe")

    def _values(self, stored: np.ndarray) -> np.ndarray:
        """What the stored numbers mean."""
        return self._cube.values(stored) if isinstance(self._cube, LazyCube) else stored

    def _fill(self, out: np.ndarray, first: int) -> None:
        """Numbers of the file, from one on, into contiguous memory."""
        view = out.data.cast("B")
        place = self._offset + first * self._dtype.itemsize
        assert self._file is not None
        self._file.seek(place)
        while view:
            count = self._file.readinto(view)
            if not count:
                raise OSError(f"{self.path} ends {len(view)} bytes early: it became shorter while it was read")
            view = view[count:]


def _origin(stored: Any) -> Path | None:
    """The file of an open raster or of a NetCDF variable."""
    told = getattr(stored, "path", None) or getattr(stored, "encoding", {}).get("source")
    path = None if told is None else Path(str(told))
    return path if path is not None and path.is_file() else None


def _chunk_rows(stored: Any) -> int:
    """Rows in a chunk of a Zarr array or of a NetCDF variable; 1 of what is not in chunks."""
    chunks: Any = getattr(stored, "chunks", None) or getattr(stored, "encoding", {}).get("chunksizes")
    try:
        return int(chunks[0])
    except (TypeError, IndexError, KeyError):
        return 1


def _layout(stored: Any) -> tuple[np.memmap, int, str] | None:
    """Whole memory map behind an array, byte at which the array begins in its file, order of its axes in it."""
    if not isinstance(stored, np.memmap) or stored.filename is None or not stored.size:
        return None
    root = stored
    while isinstance(root.base, np.memmap):
        root = root.base
    *lead, bands = stored.shape
    size, pixels = stored.dtype.itemsize, math.prod(lead)
    orders = {"bip": _strides((*lead, bands), size), "bsq": (*_strides(tuple(lead), size), pixels * size)}
    if len(lead) == 2:
        orders["bil"] = (bands * lead[1] * size, size, lead[1] * size)
    for order, strides in orders.items():
        if all(n == 1 or s == t for n, s, t in zip(stored.shape, stored.strides, strides, strict=True)):
            return root, root.offset + stored.ctypes.data - root.ctypes.data, order
    return None


def _strides(shape: tuple[int, ...], size: int) -> tuple[int, ...]:
    """Of an array that is stored in this order."""
    return tuple(size * math.prod(shape[i + 1 :]) for i in range(len(shape)))
