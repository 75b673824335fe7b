"""The arrays of a run on disk: a Zarr group, written block of rows by block, and what of it is done.

Every leaf of a `Solution` is one array, chunked by blocks and not compressed: then a chunk is a file of its numbers,
which is written and read here as such, many times as fast as through the library. A block counts as done when a line of
the journal says so; the line holds checksums, so that a block that did not reach the disk before the power failed is
found and computed again.
"""

import json
import os
import shutil
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from unmix_jax.scenes.checked import check_zarr
from unmix_jax.types import Solution

__all__ = [
    "LOCK", "UNFINISHED", "Journal", "Store", "claim", "named", "open_group", "settle", "solution_of", "sync",
    "write_json",
]  # fmt: skip

FIELDS = ("abundances", "residual", "gap", "steps", "converged", "covariance", "unique", "abundance_bound")
FITTED = "fitted"
SETTLED = "blocks-settled.jsonl"
UNFINISHED = "unfinished"
LOCK = "lock"


def named(solution: Solution) -> dict[str, Any]:
    """The leaves of a solution by name; of ``fitted``, ``fitted`` or ``fitted.<path>``."""
    found = {name: getattr(solution, name) for name in FIELDS}
    for path, leaf in jax.tree_util.tree_leaves_with_path(solution.fitted):
        inner = jax.tree_util.keystr(path, simple=True, separator=".")
        found[f"{FITTED}.{inner}" if inner else FITTED] = leaf
    return {name: value for name, value in found.items() if value is not None}


def solution_of(arrays: Mapping[str, Any]) -> Solution:
    """A solution from its leaves; what was in ``fitted`` comes back by name, one leaf without a name as it is."""
    inner = {name.removeprefix(FITTED + "."): arrays[name] for name in arrays if name.startswith(FITTED)}
    fitted = inner.get(FITTED, inner or None)
    return Solution(**{name: arrays[name] for name in FIELDS if name in arrays}, fitted=fitted)


class Store:
    """Arrays over the rows of a scene, in blocks; each block of an array is one chunk, and one plain file of its bytes.

    Attributes:
        path: of the Zarr group.
        blocks: rows of each block.
    """

    def __init__(self, path: Path, shapes: Mapping[str, Any], lead: tuple[int, ...], block: int) -> None:
        """Say what is in a group; nothing is read or written.

        Args:
            path: folder of the group, ``.zarr``.
            shapes: by name, what has the ``shape`` and ``dtype`` of a leaf of one pixel.
            lead: pixel axes, rows first.
            block: rows of a chunk.
        """
        self.path, self.lead, self.block = path, lead, block
        self.shapes = {name: (tuple(leaf.shape), np.dtype(leaf.dtype)) for name, leaf in shapes.items()}
        self.blocks = [slice(start, min(start + block, lead[0])) for start in range(0, lead[0], block)]

    def create(self) -> Any:
        """The group, empty, in place of any that is there; arrays hold NaN, or zero where they are not floating."""
        import zarr

        shutil.rmtree(self.path, ignore_errors=True)
        group = zarr.create_group(str(self.path), zarr_format=3)
        for name, (inner, dtype) in self.shapes.items():
            shape = (*self.lead, *inner)
            fill = np.nan if dtype.kind == "f" else 0
            chunks = tuple(max(1, n) for n in (self.block, *shape[1:]))
            group.create_array(name, shape=shape, chunks=chunks, dtype=dtype, fill_value=fill, compressors=None)
        return group

    def write(self, number: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Write a block; what was there of it stays until what is new is whole."""
        for name, values in arrays.items():
            inner, dtype = self.shapes[name]
            missing = self.block - len(values)
            file = self._file(name, number)
            file.parent.mkdir(parents=True, exist_ok=True)
            part = file.with_name(f"{file.name}.part")
            with part.open("wb", buffering=0) as out:
                _write(out, values.astype(dtype.newbyteorder("<"), copy=False))
                if missing:  # a chunk is always whole
                    fill = np.nan if dtype.kind == "f" else 0
                    _write(out, np.full((missing, *self.lead[1:], *inner), fill, dtype.newbyteorder("<")))
            os.replace(part, file)

    def read(self, number: int, names: Iterable[str]) -> dict[str, np.ndarray]:
        """Some arrays of a block; those that the group does not have are left out.

        Raises:
            OSError: a block that is not there, or not whole.
        """
        rows = self.blocks[number].stop - self.blocks[number].start
        found = {}
        for name in (name for name in names if name in self.shapes):
            inner, dtype = self.shapes[name]
            values = np.empty((self.block, *self.lead[1:], *inner), dtype.newbyteorder("<"))
            with self._file(name, number).open("rb", buffering=0) as file:
                if file.readinto(values.reshape(-1).view(np.uint8).data) != values.nbytes:
                    raise OSError(f"block {number} of {name} in {self.path} is not whole")
            found[name] = values[:rows].astype(dtype, copy=False)
        return found

    def _file(self, name: str, number: int) -> Path:
        """Where a chunk is, as Zarr has it."""
        axes = len(self.lead) - 1 + len(self.shapes[name][0])
        return self.path.joinpath(name, "c", str(number), *("0",) * axes)


def open_group(path: Path) -> Any:
    """A group that is there, to read by name.

    Raises:
        ValueError: it is damaged.
    """
    import zarr

    check_zarr(path)
    try:
        return zarr.open_group(str(path), mode="r")
    except (ValueError, KeyError, OSError) as error:
        raise ValueError(f"{path} is not a Zarr group, or is damaged ({error})") from error


class Journal:
    """Which blocks of a store are done, by any process that took part, now or before a stop.

    Attributes:
        done: numbers of these blocks.
    """

    def __init__(self, folder: Path, store: Store, process: int) -> None:
        """Read what was done before, and begin a file of this process.

        Args:
            folder: of the journals.
            store: of the run.
            process: number of this one, for the name of its file.
        """
        self.store, self._folder = store, folder
        self.done = set(_journalled(folder))
        path = folder / f"blocks-{process}.jsonl"
        self._file = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_APPEND, 0o644)

    def close(self) -> None:
        """Write nothing more."""
        os.close(self._file)

    def write(self, number: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Write a block, and then that it is there."""
        self.store.write(number, arrays)
        line = json.dumps({"block": number, "sums": {name: _sum(values) for name, values in arrays.items()}})
        told = memoryview(line.encode() + b"\n")
        while told:
            told = told[os.write(self._file, told) :]
        self.done.add(number)

    def complete(self) -> bool:
        """Whether all blocks are done, as far as any process has written."""
        if self._folder.is_dir():
            return set(_journalled(self._folder)) >= set(range(len(self.store.blocks)))
        return True  # the first process has put all in place already


def claim(out: Path) -> Any:
    """The lock of the unfinished run in a folder, which must be there; it is let go by ``release``.

    Raises:
        ValueError: another run holds it.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(out / UNFINISHED / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise ValueError(f"another run is writing to {str(out)!r}: wait for it, or choose another folder") from None
    return lock


def sync(path: Path) -> None:
    """Wait until a file is on the disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def settle(folder: Path, store: Store) -> None:
    """Make one journal of those of earlier attempts; blocks whose arrays are not what was written are left out."""

    def holds(number: int, sums: Mapping[str, int]) -> bool:
        try:
            arrays = store.read(number, sums)
        except OSError:
            return False
        return all(_sum(values) == sums[name] for name, values in arrays.items())

    found = {n: sums for n, sums in _journalled(folder).items() if n < len(store.blocks) and holds(n, sums)}
    lines = [json.dumps({"block": number, "sums": sums}) + "\n" for number, sums in found.items()]
    part = folder / "settled.part"
    part.write_text("".join(lines), encoding="utf-8")
    sync(part)
    os.replace(part, folder / SETTLED)
    for path in (*folder.glob("blocks-*.jsonl"), *folder.glob("failed-*")):
        if path.name != SETTLED:
            path.unlink()


def _journalled(folder: Path) -> dict[int, dict[str, int]]:
    """Blocks that are said to be done, and their checksums; the last line of a journal may have been cut off."""
    found = {}
    for path in sorted(folder.glob("blocks-*.jsonl")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                content = json.loads(line)
                number, sums = int(content["block"]), dict(content["sums"])
            except (ValueError, TypeError, KeyError):
                continue
            found[number] = sums
    return found


def _write(file: Any, values: np.ndarray) -> None:
    """All bytes of an array."""
    view = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
    while view:
        view = view[file.write(view) :]


def _sum(values: Any) -> int:
    """Checksum."""
    return zlib.crc32(np.ascontiguousarray(values).data)


def write_json(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Write JSON in one step (a crash leaves no half file) and return what a reader will see."""
    text = json.dumps(content, indent=2, default=_jsonable, allow_nan=False, ensure_ascii=False)
    part = path.with_suffix(".part")
    part.write_bytes((text + "\n").encode("utf-8", "backslashreplace"))  # paths that are no UTF-8 have surrogates
    sync(part)
    os.replace(part, path)
    return json.loads(text)


def _jsonable(value: Any) -> Any:
    """NumPy and JAX values, paths and tuples as JSON."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)
