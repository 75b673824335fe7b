"""Datasets that stay in their HDF5 file and are read as they are indexed."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from unmix_jax.scenes.readers.netcdf.errors import first_line, readable

__all__ = ["HdfArray", "turned"]

AT_ONCE = 256 * 2**20  # bytes of the rows that are said to be stored together, where a chunk covers many rows
STRIDED = 32 * 2**20  # bytes read at once where only every n-th row or column is kept


class HdfArray:
    """A dataset that stays in its file and is read as it is indexed, its axes in another order where asked for.

    h5py lets one thread at a time into the HDF5 library, so any thread may read.

    Attributes:
        shape: in the order of the array.
        dtype: of the stored numbers.
        chunks: shape of what is stored together, in the order of the array; None: not in chunks. Where a chunk covers
            very many rows, fewer are said, so that those who read whole chunks of rows need not hold them all.
        path: the file.
        name: full name of the dataset.
    """

    def __init__(self, file: Any, name: str, order: Sequence[int] | None = None) -> None:
        stored = file.shape(name)
        self.order = tuple(range(len(stored))) if order is None else tuple(int(axis) for axis in order)
        dropped = [axis for axis in range(len(stored)) if axis not in self.order]
        if len(set(self.order)) != len(self.order) or any(not 0 <= axis < len(stored) for axis in self.order):
            raise ValueError(f"{file.path}: {name} has {len(stored)} axes; {self.order} is no order of them")
        if any(stored[axis] != 1 for axis in dropped):
            raise ValueError(f"{file.path}: {name} has shape {stored}; axes other than {self.order} must have length 1")
        self.dtype = file.dtype(name)
        if self.dtype.kind not in "biufc":
            raise ValueError(f"{file.path}: {name} holds no numbers ({self.dtype})")
        file.check_size(name)
        self.path, self.name = file.path, name.strip("/")
        self.shape = tuple(stored[axis] for axis in self.order)
        self._file, self._rank = file, len(stored)  # the file stays open as long as one of its arrays is in use
        self._dataset = file._h5.Dataset(file._dataset(name))
        self.chunks = self._chunks()

    def _chunks(self) -> tuple[int, ...] | None:
        """Shape of the chunks as it is told."""
        with readable(self.path, f"the chunks of {self.name}"):
            stored = self._dataset.chunks
        if stored is None or not self.order:
            return None
        chunks = [min(int(stored[axis]), self.shape[i]) for i, axis in enumerate(self.order)]
        row = max(1, math.prod(self.shape[1:]) * self.dtype.itemsize)
        chunks[0] = max(1, min(chunks[0], AT_ONCE // row))
        return tuple(chunks)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"HdfArray({self.name!r}, shape={self.shape}, dtype={self.dtype})"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("an array that stays in its file cannot become one in memory without a copy")
        return np.asarray(self[...], dtype)

    def __getitem__(self, index: Any) -> np.ndarray:
        parts = _expanded(index, self.ndim)
        if parts is None:  # new axes and masks of several axes: as NumPy does it, with everything in memory
            return self._box([slice(0, n) for n in self.shape], [1] * self.ndim)[index]
        box, steps, rest = [], [], []
        for part, length in zip(parts, self.shape, strict=True):
            kept, step, remaining = _axis(part, length)
            box.append(kept)
            steps.append(step)
            rest.append(remaining)
        return self._box(box, steps)[tuple(rest)]

    def _box(self, box: Sequence[slice], steps: Sequence[int]) -> np.ndarray:
        """Every n-th number along each axis of a box; at most `STRIDED` bytes are in memory beside the result."""
        counts = [len(range(s.start, s.stop, step)) for s, step in zip(box, steps, strict=True)]
        if 0 in counts or not box or all(step == 1 for step in steps):
            return self._plain(box)
        out = np.empty(counts, self.dtype)
        thin = tuple(slice(None, None, step) for step in steps[1:])
        row = max(1, math.prod(s.stop - s.start for s in box[1:]) * self.dtype.itemsize)
        each = max(1, STRIDED // row)
        for first in range(0, counts[0], each):
            last = min(first + each, counts[0])
            begin = box[0].start + first * steps[0]
            rows = slice(begin, box[0].start + (last - 1) * steps[0] + 1, steps[0])
            out[first:last] = self._plain([rows, *box[1:]])[(slice(None), *thin)]
        return out

    def _plain(self, box: Sequence[slice]) -> np.ndarray:
        """The numbers in a box, axes in the order of the array."""
        select: list[Any] = [0] * self._rank
        for axis, part in zip(self.order, box, strict=True):
            select[axis] = part
        try:
            stored = np.asarray(self._dataset[tuple(select)])
        except (OSError, RuntimeError, ValueError, LookupError, TypeError, MemoryError) as error:
            raise OSError(f"{self.path}: {self.name} cannot be read ({first_line(error)})") from None
        kept = sorted(self.order)
        return np.ascontiguousarray(turned(stored, [kept.index(axis) for axis in self.order]))


def turned(stored: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """A view with these axes of an array in this order; the others have length 1.

    Args:
        stored: the array; a memory map stays one.
        order: its axes that become axis 0, 1, ….
    """
    kept = sorted(order)
    return stored[tuple(slice(None) if axis in kept else 0 for axis in range(stored.ndim))].transpose(
        [kept.index(axis) for axis in order]
    )


def _expanded(index: Any, axes: int) -> list[Any] | None:
    """One index per axis; None where the index has new axes, or masks of several axes."""
    parts = [_plain_index(part) for part in (index if isinstance(index, tuple) else (index,))]
    if any(part is None or (isinstance(part, np.ndarray) and part.dtype == bool and part.ndim != 1) for part in parts):
        return None
    dots = [i for i, part in enumerate(parts) if part is Ellipsis]
    if len(dots) > 1:
        raise IndexError("an index can only have a single ellipsis ('...')")
    if len(parts) - len(dots) > axes:
        raise IndexError(f"too many indices: the array has {axes} axes, {len(parts) - len(dots)} were indexed")
    gap = [slice(None)] * (axes - len(parts) + len(dots))
    at = dots[0] if dots else len(parts)
    return [*parts[:at], *gap, *parts[at + len(dots) :]]


def _plain_index(part: Any) -> Any:
    """A whole number as int; a list or an array as an array of whole numbers or of true and false."""
    if isinstance(part, slice) or part is None or part is Ellipsis:
        return part
    if isinstance(part, int | np.integer) and not isinstance(part, bool | np.bool_):
        return int(part)
    array = np.asarray(part)
    if array.size == 0 and array.dtype.kind == "f":
        array = array.astype(np.intp)
    if array.dtype.kind not in "iub":
        raise IndexError(f"an index is made of whole numbers, slices or masks, not {type(part).__name__}")
    return array


def _axis(part: Any, length: int) -> tuple[slice, int, Any]:
    """What to read along one axis, its step, and what to index the read part with."""
    if isinstance(part, slice):
        steps = range(*part.indices(length))
        if len(steps) == 0:
            return slice(0, 0), 1, slice(None)
        low, high = min(steps[0], steps[-1]), max(steps[0], steps[-1])
        return slice(low, high + 1), abs(steps.step), slice(None) if steps.step > 0 else slice(None, None, -1)
    if isinstance(part, int):
        if not -length <= part < length:
            raise IndexError(f"index {part} is out of bounds for an axis of length {length}")
        at = part % length
        return slice(at, at + 1), 1, 0
    if part.dtype == bool:
        if len(part) != length:
            raise IndexError(f"a mask of {len(part)} values for an axis of length {length}")
        part = np.flatnonzero(part)
    if part.size == 0:
        return slice(0, 0), 1, part.astype(np.intp)
    if part.min() < -length or part.max() >= length:
        raise IndexError(f"an index is out of bounds for an axis of length {length}")
    part = np.where(part < 0, part + length, part)
    low, high = int(part.min()), int(part.max())
    return slice(low, high + 1), 1, part - low
