"""HDF5 files, and so NetCDF-4, HDF-EOS5 and MATLAB v7.3, opened so that only the file itself is ever read.

HDF5 lets a file name other files: external links, external storage of a dataset, virtual datasets. The library opens
these without asking. `HdfFile` walks the whole file by hard links before anything is read and refuses all three, and
links in a circle. Everything that is read whole has a limit in bytes; cubes stay in the file (`HdfArray`).

Reference: The HDF Group, "HDF5 File Format Specification Version 3.0", sections IV.A.2.g (links), IV.A.2.h (external
data files) and IV.A.2.i (layouts).
"""

import math
import mmap
import os
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from unmix_jax.scenes.readers.netcdf.errors import readable, text_of
from unmix_jax.scenes.readers.netcdf.hdf_array import HdfArray, turned
from unmix_jax.scenes.units import missing

__all__ = ["HdfArray", "HdfFile", "check_links"]

WHOLE = 256 * 2**20  # bytes of one array that is read whole: lat/lon of a swath are 13 MB, a mask of 10⁸ pixels 100 MB
ATTRIBUTES = 2**20  # bytes of one attribute; HDF5 itself allows 64 KiB in the usual storage
DEPTH = 32  # groups within groups; sensors' products have at most 6 (HDF-EOS5)
OBJECTS = 20_000  # groups and datasets, which are found in 2 s; sensors' products have some hundreds
PATHS = 100_000  # ways from the root to any object, which is what a reader without memory of its path walks
# Most that a cube may be larger than its file. Deflate reaches 1032:1 on a constant; twice that leaves room for chunks
# that were never written. Cubes up to FREE are let through: they fit into memory anyway.
EXPANSION = 2048
FREE = 2**30
SCANNED = 2**29  # bytes of a file that are looked through for heaps; of larger ones both ends, where metadata lie
TEXTS = 256  # strings of variable length that are read at once: many may point at one and the same long text

# Attributes by which netCDF-4 and HDF5 dimension scales hold themselves together; they describe no data.
MACHINERY = frozenset({
    "CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "DIMENSION_LABELS", "_Netcdf4Dimid", "_Netcdf4Coordinates",
    "_NCProperties", "_nc3_strict", "_NCCOPY",
})  # fmt: skip
NO_VARIABLE = "This is a netCDF dimension but not a netCDF variable"  # what netCDF-4 writes as NAME of such a dataset


class HdfFile:
    """An HDF5 file whose links were checked; it stays open until it is closed or forgotten.

    Attributes:
        path: the file.
        size: its bytes.
        names: every dataset by its full name without the leading slash, such as ``location/lat``; a dataset that has
            two names stands under both.
        groups: every group by its full name; the root is "".
    """

    def __init__(self, path: str | Path) -> None:
        """Open a file to read, and check all of its links.

        Args:
            path: the file.

        Raises:
            ValueError: not HDF5, damaged, names another file, links in a circle, or too many objects.
            ImportError: h5py is not installed.
        """
        try:
            import h5py
        except ImportError:
            raise missing("io", "h5py", f"{path}: an HDF5 file") from None
        self._h5 = h5py
        self.path = Path(path)
        self.size = os.path.getsize(self.path)
        with readable(self.path, "it"):
            if not h5py.is_hdf5(str(self.path)):
                raise ValueError(f"{self.path} is not an HDF5 (NetCDF-4) file, or it is truncated")
            _check_heaps(self.path, self.size)
            self._file = h5py.File(self.path, "r", locking="best-effort")
        try:
            with readable(self.path, "its list of objects"):
                self._walk()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "HdfFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __contains__(self, name: str) -> bool:
        return name.strip("/") in self.names

    def close(self) -> None:
        """Close the file; arrays that stay in it can no longer be read."""
        self.names = dict[str, Any]()
        self.groups = dict[str, Any]()
        self._file.close()

    def _walk(self) -> None:
        """Find all objects by hard links; refuse whatever leads out of the file or in a circle."""
        h5 = self._h5
        self.names, self.groups = {}, {}
        self._names_of: dict[int, str] = {}
        self._inside: dict[int, list[int]] = {_address(h5, self._file.id): []}  # objects that a group leads to
        self.aliases: list[str] = []  # further names of groups that have one already
        soft: list[tuple[int, Any, bytes, str]] = []
        root = self._file.id
        waiting = deque([(h5.h5o.open(root, b"/"), _address(h5, root), "", 0)])
        self.groups[""] = waiting[0][0]
        while waiting:
            group, here, prefix, depth = waiting.popleft()
            inside = self._inside[here]
            for name in group:
                full = f"{prefix}/{name.decode(errors='replace')}".lstrip("/")
                kind = group.links.get_info(name).type
                if kind == h5.h5l.TYPE_SOFT:
                    soft.append((here, group, name, full))
                    continue
                if kind != h5.h5l.TYPE_HARD:
                    raise ValueError(f"{self.path}: {full} is a link to another file, which is refused: copy it in")
                found = h5.h5o.open(group, name)
                at = _address(h5, found)
                inside.append(at)
                if isinstance(found, h5.h5d.DatasetID):
                    self._check_storage(found, full)
                    self.names[full] = found
                    self._names_of.setdefault(at, full)
                    self._inside.setdefault(at, [])
                elif isinstance(found, h5.h5g.GroupID):
                    if at in self._inside:
                        self.aliases.append(full)
                        continue
                    if depth >= DEPTH:
                        raise ValueError(f"{self.path}: groups lie more than {DEPTH} deep: {full[:80]}…")
                    self.groups[full] = found
                    self._names_of[at] = full
                    self._inside[at] = []
                    waiting.append((found, at, full, depth + 1))
                if len(self.names) + len(self.groups) + len(self.aliases) + len(soft) > OBJECTS:
                    raise ValueError(f"{self.path} has more than {OBJECTS} objects")
        self._resolve(soft)
        self._check_circles()

    def _resolve(self, soft: Sequence[tuple[int, Any, bytes, str]]) -> None:
        """Soft links, now that no link is left that leads out of the file; those that lead nowhere are left out."""
        h5 = self._h5
        for here, group, name, full in soft:
            try:
                found = h5.h5o.open(group, name)
            except (KeyError, OSError, RuntimeError, ValueError):
                continue
            at = _address(h5, found)
            self._inside[here].append(at)
            if isinstance(found, h5.h5d.DatasetID):
                self.names.setdefault(full, found)
            elif isinstance(found, h5.h5g.GroupID):
                self.aliases.append(full)

    def _check_circles(self, inside: Mapping[int, Sequence[int]] | None = None) -> int:
        """Number of ways from the root to all objects.

        Raises:
            ValueError: there is a circle, or there are too many ways.
        """
        inside = self._inside if inside is None else inside
        arriving = dict.fromkeys(inside, 0)
        for members in inside.values():
            for at in members:
                arriving[at] = arriving.get(at, 0) + 1
        root = _address(self._h5, self._file.id)
        ways = dict.fromkeys(arriving, 0)
        ways[root] = 1
        free = [at for at, count in arriving.items() if count == 0]
        done = 0
        while free:
            here = free.pop()
            done += 1
            for at in inside.get(here, ()):
                ways[at] += ways[here]
                arriving[at] -= 1
                if arriving[at] == 0:
                    free.append(at)
        if done < len(arriving):
            names = sorted(self._names_of.get(at, "/") for at, count in arriving.items() if count)
            raise ValueError(f"{self.path}: links in a circle, through {names[0] or '/'}: they are refused")
        total = sum(ways.values())
        if total > PATHS:
            raise ValueError(f"{self.path}: its links make more than {PATHS} paths to its objects")
        return total

    def _check_storage(self, dataset: Any, name: str) -> None:
        """Refuse a dataset whose numbers lie in another file.

        Nothing but the list of properties is asked for: the shape of a virtual dataset would open its sources.
        """
        properties = dataset.get_create_plist()
        if properties.get_external_count() > 0:
            raise ValueError(f"{self.path}: the data of {name} lie in another file, which is refused: copy them in")
        if properties.get_layout() == self._h5.h5d.VIRTUAL:
            raise ValueError(
                f"{self.path}: {name} is a virtual dataset, made of other datasets or files, which is refused: write "
                "it out as a plain one"
            )

    def _dataset(self, name: str) -> Any:
        """A dataset by its full name.

        Raises:
            ValueError: there is none.
        """
        name = name.strip("/")
        if name not in self.names:
            raise ValueError(f"{self.path} has no dataset {name!r}; it has {self.listing()}")
        return self.names[name]

    def listing(self, most: int = 40) -> str:
        """Names of the datasets with their shapes, for messages."""
        words = [f"{name} {'×'.join(map(str, self.shape(name))) or 'scalar'}" for name in self.variables()]
        return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "") or "none"

    def variables(self) -> list[str]:
        """Names of the datasets that hold something: dimensions of netCDF-4 without a variable are left out."""
        return [name for name in self.names if not self.is_bare_dimension(name)]

    def is_bare_dimension(self, name: str) -> bool:
        """Whether a dataset only stands for a dimension of netCDF-4 that has no variable."""
        found = self._dataset(name)
        with readable(self.path, name):
            return str(self._machinery(found, "NAME")).startswith(NO_VARIABLE)

    def shape(self, name: str) -> tuple[int, ...]:
        """Declared shape of a dataset; () of a scalar and of one without data."""
        with readable(self.path, name):
            return tuple(int(n) for n in self._dataset(name).shape or ())

    def dtype(self, name: str) -> np.dtype:
        """Type of the numbers of a dataset.

        Raises:
            ValueError: a type that NumPy does not have.
        """
        with readable(self.path, f"the type of {name}"):
            return np.dtype(self._dataset(name).dtype)

    def is_text(self, name: str) -> bool:
        """Whether a dataset holds text."""
        dtype = self.dtype(name)
        return dtype.kind in "SU" or self._h5.check_string_dtype(dtype) is not None

    def dimensions(self, name: str) -> tuple[str | None, ...]:
        """Full names of the dimension scales of a dataset (dimensions of netCDF-4), or else labels of its axes.

        None stands where an axis has neither.
        """
        found = self._dataset(name)
        with readable(self.path, f"the dimensions of {name}"):
            rank = len(found.shape or ())
            names: list[str | None] = [None] * rank
            scale = self._machinery(found, "CLASS") == "DIMENSION_SCALE"
            if scale and rank == 1:
                return (name.strip("/"),)
            for axis, addresses in enumerate(self._scales(found, rank)):
                names[axis] = next((self._names_of[at] for at in addresses if at in self._names_of), None)
            if scale and None in names:  # a coordinate variable of several axes names them by numbers
                names = self._numbered_dimensions(found, names)
            labels = None if any(names) else self._machinery(found, "DIMENSION_LABELS")
            labels = [labels] if isinstance(labels, str) else labels or []
            if len(labels) == rank:
                names = [label or None for label in labels]
            return tuple(names)

    def _machinery(self, found: Any, name: str) -> Any:
        """The value of an attribute that holds netCDF-4 together; None where there is none."""
        h5a = self._h5.h5a
        return self._attribute(h5a.open(found, name.encode())) if h5a.exists(found, name.encode()) else None

    def _scales(self, found: Any, rank: int) -> list[list[int]]:
        """Addresses of the dimension scales of each axis.

        The attribute is read as it stands: HDF5's own functions for dimension scales free memory twice when a
        reference is damaged.
        """
        h5 = self._h5
        if not h5.h5a.exists(found, b"DIMENSION_LIST"):
            return []
        attribute = h5.h5a.open(found, b"DIMENSION_LIST")
        dtype = _numpy_type(attribute)
        if tuple(attribute.shape) != (rank,) or dtype is None:
            return []
        if h5.check_ref_dtype(h5.check_vlen_dtype(dtype) or np.dtype("i1")) is not h5.Reference:
            return []
        stored = np.empty(rank, dtype)
        attribute.read(stored)
        return [
            [
                _address(h5, target) for reference in np.ravel(references)[:OBJECTS]
                if reference and (target := h5.h5r.dereference(reference, self._file.id)) is not None
            ]
            for references in stored
        ]  # fmt: skip

    def _numbered_dimensions(self, found: Any, names: list[str | None]) -> list[str | None]:
        """Dimensions of a netCDF-4 coordinate variable of several axes, which are given by number only."""
        numbers = np.ravel(self._machinery(found, "_Netcdf4Coordinates")).tolist()
        if len(numbers) != len(names):
            return names
        by_number = {self._machinery(dataset, "_Netcdf4Dimid"): name for name, dataset in self.names.items()}
        return [by_number.get(number, old) for number, old in zip(numbers, names, strict=True)]

    def read(self, name: str, limit: int = WHOLE) -> np.ndarray:
        """A whole dataset; text comes as an array of str.

        Args:
            name: full name.
            limit: most bytes that it may take.

        Raises:
            ValueError: absent, too large, damaged, or of a type that holds neither numbers nor text.
        """
        found, dtype, shape = self._dataset(name), self.dtype(name), self.shape(name)
        count = math.prod(shape)
        size = count * max(dtype.itemsize, 1)
        if size > limit:
            raise ValueError(
                f"{self.path}: {name} declares {size:,} bytes ({'×'.join(map(str, shape))}); what is read whole may "
                f"have {limit:,}"
            )
        with readable(self.path, name):
            if found.shape is None:
                return np.empty(0, dtype)
            dataset = self._h5.Dataset(found)
            if self._h5.check_string_dtype(dtype) is not None:
                return self._text(dataset, dtype, shape, limit)
            if dtype.kind not in "biufcSUV" or dtype.hasobject:
                raise ValueError(f"{self.path}: {name} holds neither numbers nor text ({dtype})")
            return np.asarray(dataset[()])

    def _text(self, dataset: Any, dtype: np.dtype, shape: tuple[int, ...], limit: int) -> np.ndarray:
        """Text of a dataset. Strings of variable length are read a few at a time, and their lengths are counted."""
        if self._h5.check_string_dtype(dtype).length is not None:
            stored = np.asarray(dataset[()]).ravel()
        elif len(shape) != 1:
            if math.prod(shape) > TEXTS:
                raise ValueError(f"{self.path}: {dataset.name} holds {math.prod(shape)} texts in {len(shape)} axes")
            stored = np.asarray(dataset[()], object).ravel()
        else:
            parts, total = [], 0
            for first in range(0, shape[0], TEXTS):
                part = np.asarray(dataset[first : first + TEXTS], object)
                total += sum(len(text) for text in part)
                if total > limit:
                    raise ValueError(f"{self.path}: {dataset.name} holds more than {limit:,} bytes of text")
                parts.append(part)
            stored = np.concatenate(parts) if parts else np.empty(0, object)
        words = [text_of(text) for text in stored]
        return np.array(words, dtype=str).reshape(shape) if words else np.empty(shape, "U1")

    def attribute_types(self, name: str = "") -> dict[str, np.dtype]:
        """Types of the numeric attributes of a dataset or a group, by the names of the attributes."""
        holder = self._holder(name)
        h5, found = self._h5, {}
        with readable(self.path, f"the attributes of {name or 'the file'}"):
            for i in range(h5.h5a.get_num_attrs(holder)):
                attribute = h5.h5a.open(holder, index=i)
                dtype = _numpy_type(attribute)
                if dtype is not None and dtype.kind in "biuf":
                    found[attribute.get_name().decode(errors="replace")] = dtype
        return found

    def _holder(self, name: str) -> Any:
        """The group or dataset of this name."""
        name = name.strip("/")
        return self.groups[name] if name in self.groups else self._dataset(name)

    def attributes(self, name: str = "") -> dict[str, Any]:
        """Attributes of a dataset or a group as text, numbers, lists of text or arrays; None where NumPy cannot say it.

        Attributes by which netCDF-4 and dimension scales hold themselves together are left out, and so are references.

        Args:
            name: full name; "" is the file itself.

        Raises:
            ValueError: damaged, or an attribute of more than a mebibyte.
        """
        holder = self._holder(name)
        h5, found = self._h5, {}
        with readable(self.path, f"the attributes of {name or 'the file'}"):
            for i in range(h5.h5a.get_num_attrs(holder)):
                attribute = h5.h5a.open(holder, index=i)
                key = attribute.get_name().decode(errors="replace")
                if key in MACHINERY:
                    continue
                with readable(self.path, f"attribute {key} of {name or 'the file'}"):
                    found[key] = self._attribute(attribute)
        return found

    def _attribute(self, attribute: Any) -> Any:
        """The value of an attribute; None where it is empty or holds references."""
        h5 = self._h5
        if attribute.get_space().get_simple_extent_type() == h5.h5s.NULL:
            return None
        dtype, shape = _numpy_type(attribute), tuple(attribute.shape)
        if dtype is None:
            return None
        count = math.prod(shape)
        # A text of variable length is as long as its file at most, and several may be one and the same.
        varies = dtype.hasobject
        if count * max(dtype.itemsize, 1) > ATTRIBUTES or (varies and count > TEXTS and count * self.size > WHOLE):
            raise ValueError(
                f"{self.path}: attribute {attribute.get_name().decode(errors='replace')} declares {count:,} values: "
                f"more than {ATTRIBUTES:,} bytes are refused"
            )
        if h5.check_string_dtype(dtype) is None and varies:
            return None
        values = np.empty(shape, dtype)
        attribute.read(values)
        if h5.check_string_dtype(dtype) is not None or dtype.kind == "S":
            words = [text_of(text) for text in values.ravel()]
            return words[0] if len(words) == 1 else words
        if values.size == 1 and dtype.kind in "biufc":
            return values.reshape(())[()].item()
        return values

    def array(self, name: str, order: Sequence[int] | None = None) -> HdfArray:
        """A dataset that stays in its file.

        Args:
            name: full name.
            order: axes of the dataset that become axis 0, 1, … of the array; those left out have length 1.

        Raises:
            ValueError: text or other things that are no numbers; far larger than the file can hold; a filter
                that is not installed.
        """
        return HdfArray(self, name, order)

    def mapped(self, name: str, order: Sequence[int] | None = None) -> np.ndarray | None:
        """A dataset as a memory map, where it lies in the file in one piece, as it is; None where it does not.

        This is read without the HDF5 library, several times faster.

        Args:
            name: full name.
            order: as in `array`.

        Raises:
            ValueError: as `array`.
        """
        array, found = self.array(name, order), self._dataset(name)
        with readable(self.path, f"the storage of {name}"):
            properties, h5t = found.get_create_plist(), self._h5.h5t
            if properties.get_layout() != self._h5.h5d.CONTIGUOUS or array.dtype.kind not in "iuf":
                return None
            start, shape = found.get_offset(), self.shape(name)
            size = math.prod(shape) * array.dtype.itemsize
            plain = found.get_type().equal(h5t.py_create(array.dtype)) and properties.get_nfilters() == 0
            if not plain or start is None or not 0 < size == found.get_storage_size() or start + size > self.size:
                return None  # what was never written lies nowhere
            return turned(np.memmap(self.path, array.dtype, "r", start, shape), array.order)

    def check_size(self, name: str) -> None:
        """Refuse a dataset that is far larger than its file can hold.

        Raises:
            ValueError: it is.
        """
        found, dtype, shape = self._dataset(name), self.dtype(name), self.shape(name)
        size, words = math.prod(shape) * dtype.itemsize, "×".join(map(str, shape))
        with readable(self.path, f"the storage of {name}"):
            properties = found.get_create_plist()
            plain = properties.get_layout() != self._h5.h5d.CHUNKED
            if plain and 0 < found.get_storage_size() != size:
                raise ValueError(f"{self.path}: {name} declares {size:,} bytes, {found.get_storage_size():,} are there")
            most = self.size if plain and found.get_storage_size() else max(FREE, EXPANSION * self.size)
            if size > most:
                raise ValueError(
                    f"{self.path}: {name} declares {size:,} bytes ({words}) in a file of {self.size:,} bytes: damaged, "
                    "or made to fill the memory"
                )
            if not plain:
                chunk = math.prod(properties.get_chunk()) * dtype.itemsize
                if chunk > max(FREE, size):
                    raise ValueError(f"{self.path}: a chunk of {name} declares {chunk:,} bytes")
                self._check_filters(properties, name)

    def _check_filters(self, properties: Any, name: str) -> None:
        """Refuse a dataset that is packed by a filter that HDF5 has not here; hdf5plugin brings the usual ones."""
        h5z = self._h5.h5z
        for i in range(properties.get_nfilters()):
            code, _, _, said = properties.get_filter(i)
            if h5z.filter_avail(code):
                continue
            with suppress(ImportError):
                import hdf5plugin  # noqa: F401
            if not h5z.filter_avail(code):
                raise ValueError(
                    f"{self.path}: {name} is packed by filter {code} ({text_of(said) or 'no name'}), which the "
                    "installed HDF5 cannot unpack: pip install hdf5plugin, or repack it with h5repack -f GZIP=4"
                )


def check_links(path: str | Path, *, limit: int | None = None) -> None:
    """Refuse an HDF5 file that leads out of itself or in a circle, before another library reads it.

    References between objects (cells and structs of MATLAB v7.3) are followed too.

    Args:
        path: the file.
        limit: most bytes that all of its datasets together may declare, for readers that read a file whole; an object
            that is reached in several ways counts as often.

    Raises:
        ValueError: not HDF5, damaged, links to other files, a circle of links or references, a group with two names,
            more bytes declared than the limit.
    """
    with HdfFile(path) as file:
        if file.aliases:
            raise ValueError(f"{path}: the group {file.aliases[0]} is a second name of another: it is refused")
        inside = {at: list(members) for at, members in file._inside.items()}
        for name, found in file.names.items():
            with readable(file.path, name):
                inside[_address(file._h5, found)] += _references(file, name, found)
        file._check_circles(inside)
        if limit is not None:
            total = sum(math.prod(file.shape(name)) * max(1, file.dtype(name).itemsize) for name in file.names)
            if total > limit:
                raise ValueError(f"{path} declares {total:,} bytes of arrays; {limit:,} may be read at once")


def _check_heaps(path: Path, size: int) -> None:
    """Refuse damaged heaps of texts and references: the HDF5 library (2.0 still) never returns from some of them.

    Such a heap ("GCOL", HDF5 File Format Specification III.E) is a run of objects, each with its size, which the
    library follows without looking whether it gets on.
    """
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        parts = [(0, size)] if size <= SCANNED else [(0, SCANNED // 4), (size - SCANNED // 4, size)]
        for first, last in parts:
            at = data.find(b"GCOL\x01", first, last)
            while at >= 0:
                for width in (8, 4):  # of lengths in this file; nearly all have 8, where 4 gives no plausible size
                    length = int.from_bytes(data[at + 8 : at + 8 + width], "little")
                    if 4096 <= length <= size - at:
                        _follow_heap(data, at, length, width, path)
                        break
                at = data.find(b"GCOL\x01", at + 5, last)


def _follow_heap(data: Any, start: int, length: int, width: int, path: Path) -> None:
    """Go through the objects of a heap as the HDF5 library does."""
    head = 8 + width
    at, end = start + head, start + length
    while at + head <= end:
        number = int.from_bytes(data[at : at + 2], "little")
        size = int.from_bytes(data[at + 8 : at + head], "little")
        needed = size if number == 0 else head + size + -size % 8
        if not 0 < needed <= end - at:
            raise ValueError(f"{path}: a heap of texts at byte {start} is damaged")
        at += needed


def _references(file: HdfFile, name: str, found: Any) -> list[int]:
    """Addresses of the objects that a dataset of references points at."""
    h5 = file._h5
    if h5.check_ref_dtype(file.dtype(name)) is not h5.Reference:
        return []
    count = math.prod(file.shape(name))
    if count > OBJECTS:
        raise ValueError(f"{file.path}: {name} holds more than {OBJECTS} references")
    addresses = []
    for reference in np.asarray(h5.Dataset(found)[()], object).ravel():
        if not reference:
            continue
        target = h5.h5r.dereference(reference, file._file.id)
        if target is not None:
            addresses.append(_address(h5, target))
    return addresses


def _numpy_type(attribute: Any) -> np.dtype | None:
    """The type of an attribute, None where NumPy has none like it."""
    try:
        return np.dtype(attribute.dtype)
    except (TypeError, ValueError):
        return None


def _address(h5: Any, found: Any) -> int:
    """Where an object lies in its file, which tells objects apart."""
    return int(h5.h5o.get_info(found).addr)
