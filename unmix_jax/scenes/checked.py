"""What array files declare is checked before a library believes it: sizes, types and codecs of .npz, .mat and Zarr.

NumPy, SciPy and Zarr allocate what a file declares, SciPy's reader of MATLAB files ends the process where the file is
damaged in certain places, and some codecs of Zarr run code. So a file is first walked through as its format says, in
time that is linear in its size, and refused where it does not hold together.

References: "MAT-File Format", The MathWorks, R2024a; NumPy enhancement proposal 1 (.npy and .npz); Zarr storage
specification, versions 2 and 3.
"""

import json
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["NpzArrays", "check_room", "check_zarr", "mat_variables"]

SHARE = 0.5  # of the free memory that one array may take
EXPANDS = 100  # times its stored size; spectra compress to a third, and masks to a hundredth
SMALL = 64 * 2**20  # bytes that may expand as they like
DEPTH = 16  # structs, cells and groups inside each other
METADATA_BYTES, METADATA_FILES = 2**20, 10_000  # of a Zarr group: a description has a few kilobytes


def check_room(count: float | int, what: str) -> None:
    """Refuse an array that would not fit the memory.

    Args:
        count: bytes.
        what: the array and its file, for the message.

    Raises:
        ValueError: it takes more than half of what is free.
    """
    import psutil

    free = psutil.virtual_memory().available
    if count > SHARE * free:
        raise ValueError(f"{what} declares {count / 2**30:.3g} GiB; {free / 2**30:.3g} GiB of memory are free")


class NpzArrays(Mapping[str, np.ndarray]):
    """The arrays of an `.npz` file, each checked and read when it is asked for."""

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            ValueError: it is no `.npz` file.
        """
        self.path = path
        try:
            self._file = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, struct.error) as error:
            raise ValueError(f"{path} is not a readable .npz file ({error})") from None
        self._members = {info.filename.removesuffix(".npy"): info for info in self._file.infolist()}

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __getitem__(self, name: str) -> np.ndarray:
        info = self._members[name]
        what = f"{name!r} in {self.path}"
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{what} is encrypted or compressed in a way that NumPy does not write")
        try:
            with self._file.open(info) as stream:
                dtype, count = _npy_header(stream, what)
                held = info.file_size - stream.tell()
                if count * dtype.itemsize != held:
                    raise ValueError(f"{what} declares {count * dtype.itemsize} bytes and holds {held}")
                if held > SMALL and held > EXPANDS * max(1, info.compress_size):
                    raise ValueError(
                        f"{what} expands from {info.compress_size} to {held} bytes, as no measurement does; save it "
                        "without compression if it is one"
                    )
                check_room(held, what)
            with self._file.open(info) as stream:
                return np.lib.format.read_array(stream, allow_pickle=False)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, struct.error, RuntimeError) as error:
            raise ValueError(f"{what} is damaged ({error})") from None

    def close(self) -> None:
        """Read nothing more."""
        self._file.close()


def _npy_header(stream: Any, what: str) -> tuple[np.dtype, int]:
    """Type and number of the values of an array.

    Raises:
        ValueError: no array, or one of Python objects.
    """
    try:
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, _, dtype = read[min(version, (2, 0))](stream)
    except Exception as error:  # NumPy parses the header as Python does, which fails in many ways
        raise ValueError(f"{what} is not a readable array ({' '.join(str(error).split())})") from None
    if dtype.hasobject:
        raise ValueError(
            f"{what} cannot be read as a plain array; pickled Python objects are refused because loading them can run "
            "any code"
        )
    return dtype, math.prod(shape)


# ---------------------------------------------------------------- MATLAB, version 5 to 7

# Bytes of one number, by its type.
SIZES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8, 16: 1, 17: 2, 18: 4}
MATRIX, COMPRESSED = 14, 15
CELL, STRUCT, OBJECT, CHAR, SPARSE = 1, 2, 3, 4, 5
NUMERIC = range(6, 16)  # classes of arrays of numbers
COMPLEX = 0x0800


def mat_variables(path: Path) -> list[str]:
    """The variables of a MATLAB file of version 5 to 7 that can be read: arrays, text, cells and structs of these.

    Args:
        path: a file that is no v7.3 file.

    Raises:
        ValueError: the file is damaged, or of version 4.
    """
    content = path.read_bytes()
    if len(content) < 128 or content[126:128] not in (b"IM", b"MI"):
        raise ValueError(f"{path} is not a MATLAB file of version 5 or later: save it again with the option -v7")
    order = "<" if content[126:128] == b"IM" else ">"
    view, at, names, budget = memoryview(content), 128, [], len(content)
    while at < len(view):
        if len(view) - at < 8:
            raise ValueError(f"{path} is a damaged MATLAB file: it ends in the middle of a variable")
        kind, size, start, at = _tag(view, at, order, path)
        part = view
        if kind == COMPRESSED:
            at = start + size  # compressed variables are not padded
            part = memoryview(_decompressed(view[start:at], path))
            budget += len(part)
            check_room(budget, str(path))
            kind, size, start, _ = _tag(part, 0, order, path)
        if kind == MATRIX and (name := _variable(part, start, size, order, path)):
            names.append(name)
    return names


def _tag(view: memoryview, at: int, order: str, path: Path) -> tuple[int, int, int, int]:
    """Type, bytes, start of the data, and start of what follows, of an element.

    Raises:
        ValueError: an unknown type, or more bytes than there are.
    """
    if at + 8 > len(view):
        raise ValueError(f"{path} is a damaged MATLAB file: it ends in the middle of a variable")
    (word,) = struct.unpack_from(f"{order}I", view, at)
    if word >> 16:  # a small element has its bytes in the tag
        kind, size, start, end = word & 0xFFFF, word >> 16, at + 4, at + 8
        fits = size <= 4
    else:
        kind, size, start = word, struct.unpack_from(f"{order}I", view, at + 4)[0], at + 8
        end = start + -(-size // 8) * 8
        fits = start + size <= len(view)
    if not fits or (kind not in SIZES and kind not in (MATRIX, COMPRESSED)):
        raise ValueError(f"{path} is a damaged MATLAB file: an element of type {kind} declares {size} bytes")
    return kind, size, start, end


def _decompressed(part: memoryview, path: Path) -> bytes:
    """The bytes of a compressed variable.

    Raises:
        ValueError: damaged, or expanding as no measurement does.
    """
    most = max(SMALL, EXPANDS * len(part))
    stream = zlib.decompressobj()
    try:
        found = stream.decompress(part, most)
    except zlib.error as error:
        raise ValueError(f"{path} is a damaged MATLAB file: {error}") from None
    if stream.unconsumed_tail:
        raise ValueError(f"{path}: a variable expands from {len(part)} to more than {most} bytes: save it with -v6")
    if not stream.eof:
        raise ValueError(f"{path} is a damaged MATLAB file: a compressed variable is not whole")
    return found


def _variable(view: memoryview, start: int, size: int, order: str, path: Path, depth: int = 0) -> str | None:
    """Walk through an array; its name, or None where it is of a class that is not read.

    Raises:
        ValueError: it does not hold together.
    """

    def damaged(what: str) -> ValueError:
        return ValueError(f"{path} is a damaged MATLAB file: {what}")

    if depth > DEPTH:
        raise damaged(f"structs and cells are more than {DEPTH} deep")
    if size == 0:  # an empty cell
        return ""
    view = view[: start + size]
    kind, count, at, end = _tag(view, start, order, path)
    if (kind, count) != (6, 8):
        raise damaged("a variable without its flags")
    flags = struct.unpack_from(f"{order}I", view, at)[0]
    form = flags & 0xFF
    if form not in (CELL, STRUCT, OBJECT, CHAR, SPARSE, *NUMERIC):
        return None  # functions and objects of classes, which have other parts
    kind, count, at, end = _tag(view, end, order, path)
    if kind != 5 or count % 4 or not 8 <= count <= 4 * 32:
        raise damaged("a variable without its sizes")
    sizes = struct.unpack_from(f"{order}{count // 4}i", view, at)
    if min(sizes) < 0:
        raise damaged(f"a variable of the sizes {sizes}")
    kind, count, at, end = _tag(view, end, order, path)
    if kind not in (1, 2, 16):
        raise damaged("a variable without its name")
    name = bytes(view[at : at + count]).decode("latin-1")
    total = math.prod(sizes)
    if form in (CELL, STRUCT, OBJECT):
        parts = total
        if form == OBJECT:
            kind, count, at, end = _tag(view, end, order, path)
        if form != CELL:
            kind, count, at, end = _tag(view, end, order, path)
            if (kind, count) != (5, 4):
                raise damaged(f"{name!r} is a struct without the length of its fields' names")
            (length,) = struct.unpack_from(f"{order}i", view, at)
            kind, count, at, end = _tag(view, end, order, path)
            if kind not in (1, 2, 16) or length < 1 or count % length:
                raise damaged(f"{name!r} is a struct without the names of its fields")
            parts = total * (count // length)
        if parts * 8 > len(view) - end:
            raise damaged(f"{name!r} declares {parts} parts in {len(view) - end} bytes")
        readable = True
        for _ in range(parts):
            kind, count, at, end = _tag(view, end, order, path)
            if kind != MATRIX:
                raise damaged(f"a part of {name!r} is no array")
            readable &= _variable(view, at, count, order, path, depth + 1) is not None
        return name if readable else None
    pieces = 1 + bool(flags & COMPLEX)
    if form == SPARSE:
        return None  # no cube and no spectrum is sparse
    for _ in range(pieces):
        kind, count, at, end = _tag(view, end, order, path)
        if kind not in SIZES or (form != CHAR and count != total * SIZES[kind]) or (form == CHAR and count > 4 * total):
            raise damaged(f"{name!r} declares {' × '.join(map(str, sizes))} values and holds {count} bytes")
    return name


# ---------------------------------------------------------------- Zarr

# Codecs that turn bytes into bytes, or numbers into numbers; none of them can be made to run code.
CODECS = {
    "bytes", "endian", "transpose", "gzip", "zlib", "zstd", "blosc", "lz4", "lzma", "bz2", "crc32c", "crc32", "adler32",
    "shuffle", "delta", "fixedscaleoffset", "quantize", "bitround", "packbits", "vlen-utf8", "sharding_indexed",
    "numcodecs.zlib", "numcodecs.gzip", "numcodecs.zstd", "numcodecs.blosc", "numcodecs.lz4", "numcodecs.lzma",
    "numcodecs.bz2", "numcodecs.shuffle", "numcodecs.delta", "numcodecs.crc32", "numcodecs.adler32",
    "numcodecs.fixedscaleoffset", "numcodecs.quantize", "numcodecs.bitround", "numcodecs.packbits",
}  # fmt: skip


def check_zarr(path: Path) -> None:
    """Refuse a Zarr group whose metadata name a codec that may run code, a link, or chunks that do not fit the memory.

    Args:
        path: the folder of the group.

    Raises:
        ValueError: naming the array at fault.
    """
    waiting, seen = [(path, 0)], 0
    while waiting:
        folder, depth = waiting.pop()
        described = False
        for name in ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata"):
            file = folder / name
            if file.is_symlink():
                raise ValueError(f"{file} is a link; a group must hold its own files")
            if file.is_file():
                described = True
                _check_node(_json(file), file)
        if not described and folder != path:
            continue  # chunks
        for inner in folder.iterdir() if described else ():
            seen += 1
            if seen > METADATA_FILES and depth:
                break
            if inner.is_symlink():
                raise ValueError(f"{inner} is a link; a group must hold its own files")
            if inner.is_dir() and depth < DEPTH:
                waiting.append((inner, depth + 1))


def _json(file: Path) -> Any:
    """The content of a metadata file.

    Raises:
        ValueError: it is none.
    """
    if file.stat().st_size > METADATA_BYTES:
        raise ValueError(f"{file} has {file.stat().st_size} bytes: that is no description of an array")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not readable JSON ({error})") from None


def _check_node(node: Any, file: Path) -> None:
    """Check the description of one array or group."""
    if not isinstance(node, dict):
        raise ValueError(f"{file} does not describe an array or a group")
    for codec in _codecs(node, file):
        if codec not in CODECS:
            raise ValueError(
                f"{file}: the codec {codec!r} is refused: it is none of those that only turn bytes into numbers"
            )
    shape = node.get("shape")
    if shape is None:
        return
    grid = node.get("chunk_grid")
    chunks: Any = grid.get("configuration", {}).get("chunk_shape") if isinstance(grid, dict) else node.get("chunks")
    for what, sizes in (("shape", shape), ("chunks", chunks)):
        if not isinstance(sizes, list) or not all(isinstance(n, int) and 0 <= n < 2**48 for n in sizes):
            raise ValueError(f"{file}: {what} must be a list of whole numbers, got {str(sizes)[:80]}")
    if len(shape) != len(chunks):
        raise ValueError(f"{file}: {len(chunks)} sizes of chunks for {len(shape)} axes")
    check_room(8.0 * math.prod(chunks), f"a chunk of {file}")


def _codecs(node: dict[str, Any], file: Path) -> list[str]:
    """Names of all codecs of an array, those inside of shards too."""
    found: list[str] = []
    waiting = [node.get("compressor"), node.get("filters"), node.get("codecs")]
    while waiting:
        part = waiting.pop()
        if part is None:
            continue
        if isinstance(part, list):
            waiting += part
        elif isinstance(part, str):
            found.append(part)
        elif isinstance(part, dict):
            name = part.get("id", part.get("name"))
            found.append(str(name))
            inner = part.get("configuration", {})
            if isinstance(inner, dict):
                waiting += [inner.get("codecs"), inner.get("index_codecs")]
        else:
            raise ValueError(f"{file}: {str(part)[:80]} is not a codec")
    return found
