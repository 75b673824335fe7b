"""NetCDF classic files (`.nc` that are not HDF5): 32-bit and 64-bit offsets, and 64-bit data.

The header is read here and checked against the size of the file; arrays are memory maps. SciPy's reader is not used: it
sets every global attribute of a file as an attribute of its own object, so that one called ``variables`` or ``fp``
breaks it, and it knows nothing of 64-bit data.

Reference: Unidata, "NetCDF Classic Format Specification" (The NetCDF User's Guide, appendix B), in its versions CDF-1,
CDF-2 and CDF-5.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from unmix_jax.scenes.readers.netcdf.errors import readable, text_of
from unmix_jax.scenes.readers.netcdf.hdf import WHOLE
from unmix_jax.scenes.readers.netcdf.hdf_array import turned

__all__ = ["ClassicFile", "is_classic"]

TYPES = {
    1: "i1", 2: "S1", 3: "i2", 4: "i4", 5: "f4", 6: "f8",
    7: "u1", 8: "u2", 9: "u4", 10: "i8", 11: "u8",
}  # fmt: skip
DIMENSION, VARIABLE, ATTRIBUTE = 10, 11, 12
OBJECTS = 100_000  # dimensions, variables and attributes; products have some hundreds
ATTRIBUTE_BYTES = 2**20


class Variable(NamedTuple):
    """Where a variable stands in its file."""

    dimensions: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype
    attributes: dict[str, Any]
    types: dict[str, np.dtype]
    begin: int
    record: bool


def is_classic(start: bytes) -> bool:
    """Whether a file that begins with these bytes is a NetCDF classic file."""
    return start[:3] == b"CDF" and start[3:4] in (b"\x01", b"\x02", b"\x05")


class ClassicFile:
    """A NetCDF classic file, with the same methods as `unmix_jax.scenes.readers.netcdf.hdf.HdfFile`.

    Attributes:
        path: the file.
        size: its bytes.
        names: the variables by name.
        groups: "" only: these files have no groups.
    """

    def __init__(self, path: str | Path) -> None:
        """Read the header of a file.

        Args:
            path: the file.

        Raises:
            ValueError: not NetCDF classic, truncated or damaged.
        """
        self.path = Path(path)
        self.groups: dict[str, Any] = {"": None}
        with self.path.open("rb") as stream:
            self.size = stream.seek(0, 2)
            stream.seek(0)
            with readable(self.path, "its header"):
                self._read(_Words(stream, self.size, self.path))

    def _read(self, words: "_Words") -> None:
        """The whole header."""
        start = words.take(4)
        if not is_classic(start):
            raise ValueError(f"{self.path} is not a NetCDF classic file")
        words.version = start[3]
        records = words.count()
        dimensions: list[tuple[str, int]] = []
        for _ in range(words.listed(DIMENSION)):
            dimensions.append((words.name(), words.count()))
        self._attributes, self._types = words.attributes()
        self.names: dict[str, Variable] = {}
        sizes: list[tuple[str, int]] = []
        for _ in range(words.listed(VARIABLE)):
            name, rank = words.name(), words.count()
            if rank > 1024:  # NC_MAX_VAR_DIMS of the netCDF library
                raise ValueError(f"{self.path}: {name} declares {rank} axes")
            at = [dimensions[words.count()] for _ in range(rank)]
            attributes, types = words.attributes()
            dtype = words.type()
            words.count()  # vsize: it follows from the rest, and does not hold that of large variables
            begin = words.integer(4 if words.version == 1 else 8)
            record = bool(at) and at[0][1] == 0
            inner = math.prod(length for _, length in at[record:]) * dtype.itemsize
            if record:
                sizes.append((name, inner))
            shape = tuple(length for _, length in at)
            self.names[name] = Variable(tuple(n for n, _ in at), shape, dtype, attributes, types, begin, record)
        # One record holds a part of each record variable, each filled up to 4 bytes; a variable that is alone is not.
        self._record = sizes[0][1] if len(sizes) == 1 else sum(size + -size % 4 for _, size in sizes)
        if sizes and records in (2**32 - 1, 2**64 - 1):  # written as a stream: the number follows from the size
            first = min(self.names[name].begin for name, _ in sizes)
            records = max(0, self.size - first) // max(1, self._record)
        for name, _ in sizes:
            self.names[name] = self.names[name]._replace(shape=(records, *self.names[name].shape[1:]))

    def __contains__(self, name: str) -> bool:
        return name.strip("/") in self.names

    def close(self) -> None:
        """Nothing is open."""

    def _variable(self, name: str) -> Variable:
        """A variable by its name.

        Raises:
            ValueError: there is none.
        """
        name = name.strip("/")
        if name not in self.names:
            raise ValueError(f"{self.path} has no variable {name!r}; it has {self.listing()}")
        return self.names[name]

    def listing(self, most: int = 40) -> str:
        """Names of the variables with their shapes, for messages."""
        words = [f"{name} {'×'.join(map(str, of.shape)) or 'scalar'}" for name, of in self.names.items()]
        return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "") or "none"

    def variables(self) -> list[str]:
        """Names of the variables."""
        return list(self.names)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a variable."""
        return self._variable(name).shape

    def dtype(self, name: str) -> np.dtype:
        """Type of the numbers of a variable."""
        return self._variable(name).dtype

    def is_text(self, name: str) -> bool:
        """Whether a variable holds text."""
        return self._variable(name).dtype.kind == "S"

    def dimensions(self, name: str) -> tuple[str | None, ...]:
        """Names of the dimensions of a variable."""
        return self._variable(name).dimensions

    def attributes(self, name: str = "") -> dict[str, Any]:
        """Attributes of a variable, or of the file, as text, numbers or arrays."""
        return dict(self._attributes if not name.strip("/") else self._variable(name).attributes)

    def attribute_types(self, name: str = "") -> dict[str, np.dtype]:
        """Types of the numeric attributes of a variable, or of the file."""
        return dict(self._types if not name.strip("/") else self._variable(name).types)

    def read(self, name: str, limit: int = WHOLE) -> np.ndarray:
        """A whole variable; text comes as an array of str, its last axis joined.

        Args:
            name: of the variable.
            limit: most bytes that it may take.

        Raises:
            ValueError: absent, too large, or it ends beyond the file.
        """
        of = self._variable(name)
        size = math.prod(of.shape) * of.dtype.itemsize
        if size > limit:
            raise ValueError(
                f"{self.path}: {name} declares {size:,} bytes ({'×'.join(map(str, of.shape))}); what is read whole may "
                f"have {limit:,}"
            )
        values = np.array(self._mapped(name))
        if of.dtype.kind != "S":
            return values.astype(of.dtype.newbyteorder("="))
        if values.ndim == 0:
            return np.asarray(text_of(values.tobytes()))
        words = [text_of(row.tobytes()) for row in values.reshape(-1, values.shape[-1])] if values.size else []
        return np.array(words, dtype=str).reshape(values.shape[:-1]) if words else np.empty(values.shape[:-1], "U1")

    def array(self, name: str, order: Sequence[int] | None = None) -> np.ndarray:
        """A variable that stays in its file, as a memory map.

        Args:
            name: of the variable.
            order: axes of the variable that become axis 0, 1, … of the array; those left out have length 1.

        Raises:
            ValueError: text, or it ends beyond the file.
        """
        if self.is_text(name):
            raise ValueError(f"{self.path}: {name} holds no numbers")
        stored = self._mapped(name)
        order = range(stored.ndim) if order is None else order
        if any(stored.shape[axis] != 1 for axis in range(stored.ndim) if axis not in order):
            raise ValueError(f"{self.path}: {name} has shape {stored.shape}; axes that are left out must have length 1")
        return turned(stored, order)

    def mapped(self, name: str, order: Sequence[int] | None = None) -> np.ndarray:
        """The same as `array`."""
        return self.array(name, order)

    def _mapped(self, name: str) -> np.ndarray:
        """The memory of a variable in the order of the file, after checking that it is there."""
        of = self._variable(name)
        if 0 in of.shape:
            return np.empty(of.shape, of.dtype)
        inner = math.prod(of.shape[of.record :]) * of.dtype.itemsize
        ends = of.begin + ((of.shape[0] - 1) * self._record + inner if of.record else inner)
        if of.begin < 0 or ends > self.size:
            raise ValueError(f"{self.path}: {name} ends at byte {ends:,}, the file has {self.size:,}: it is truncated")
        if not of.record or self._record == inner:
            return np.memmap(self.path, of.dtype, "r", of.begin, of.shape)
        strides = (self._record, *(math.prod(of.shape[i + 1 :]) * of.dtype.itemsize for i in range(1, len(of.shape))))
        whole = np.memmap(self.path, np.uint8, "r", 0, (self.size,))
        return np.ndarray(of.shape, of.dtype, whole, of.begin, strides)


class _Words:
    """The parts of a header, read one after the other; nothing may be longer than what is left of the file."""

    def __init__(self, stream: BinaryIO, size: int, path: Path) -> None:
        self._stream, self._left, self.path, self.version = stream, size, path, 1
        self._objects = 0

    def take(self, count: int) -> bytes:
        """The next bytes."""
        if not 0 <= count <= self._left:
            raise ValueError(f"{self.path} is truncated: its header asks for {count:,} bytes, {self._left:,} are left")
        self._left -= count
        return self._stream.read(count)

    def integer(self, size: int) -> int:
        """A whole number of so many bytes."""
        return int.from_bytes(self.take(size), "big", signed=False)

    def count(self) -> int:
        """A number of something: 8 bytes in CDF-5, 4 before."""
        return self.integer(8 if self.version == 5 else 4)

    def name(self) -> str:
        """A name, filled up to 4 bytes."""
        length = self.count()
        if length > 4096:
            raise ValueError(f"{self.path}: a name declares {length:,} characters: the file is damaged")
        return text_of(self.take(length + -length % 4)[:length])

    def type(self) -> np.dtype:
        """A type of numbers."""
        number = self.integer(4)
        if number not in TYPES:
            raise ValueError(f"{self.path}: a type is {number}, none of {', '.join(map(str, TYPES))}")
        return np.dtype(TYPES[number]).newbyteorder(">")

    def listed(self, kind: int) -> int:
        """Number of elements of a list of this kind."""
        tag, count = self.integer(4), self.count()
        if tag not in (0, kind) or (tag == 0 and count):
            raise ValueError(f"{self.path}: a list begins with {tag} where {kind} is expected: the file is damaged")
        self._objects += count
        if self._objects > OBJECTS:
            raise ValueError(f"{self.path}: its header declares more than {OBJECTS} parts")
        return count

    def attributes(self) -> tuple[dict[str, Any], dict[str, np.dtype]]:
        """A list of attributes, and the types of those that are numbers."""
        values: dict[str, Any] = {}
        types: dict[str, np.dtype] = {}
        for _ in range(self.listed(ATTRIBUTE)):
            name, dtype, count = self.name(), self.type(), self.count()
            size = count * dtype.itemsize
            if size > ATTRIBUTE_BYTES:
                raise ValueError(f"{self.path}: attribute {name} declares {size:,} bytes; {ATTRIBUTE_BYTES:,} may be")
            data = self.take(size + -size % 4)[:size]
            if dtype.kind == "S":
                values[name] = text_of(data)
                continue
            numbers = np.frombuffer(data, dtype).astype(dtype.newbyteorder("="))
            types[name] = numbers.dtype
            values[name] = numbers[0].item() if numbers.size == 1 else numbers
        return values, types
