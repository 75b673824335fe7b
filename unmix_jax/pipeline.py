"""From the file to the journal: strips of rows are read while others are computed and finished blocks are written.

A strip is what is read at once, of one tile or so: it is small enough to be in the caches still when it is computed. A
block is what is written at once. Reading and writing have a thread each, and so has each of two tiles.
"""

import errno
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

import jax
import numpy as np

from unmix_jax.planning import WAITING, Plan
from unmix_jax.scenes.nodata import left_out, undeclared
from unmix_jax.scenes.rows import Rows
from unmix_jax.scenes.scene import Scene
from unmix_jax.store import Journal, named
from unmix_jax.tiles import Tiles, empty_aligned, holding

__all__ = ["Pipeline", "explained"]

WRONG = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "permission denied",
}


class _Block:
    """Arrays of a block while its tiles come in."""

    def __init__(
        self, number: int, rows: slice, lead: tuple[int, ...], room: dict[str, np.ndarray], strips: int
    ) -> None:
        self.number, self.rows, self.left, self.room = number, rows, strips, room
        self.lead = (rows.stop - rows.start, *lead[1:])
        pixels = int(np.prod(self.lead))
        self.arrays = {name: values[:pixels] for name, values in room.items()}
        self.valid = np.empty(pixels, bool)

    def finished(self, mask: np.ndarray | None) -> dict[str, np.ndarray]:
        """The arrays, with masked pixels as NaN (zero, False)."""
        if mask is not None:
            self.valid &= mask[self.rows].reshape(-1)
        if not self.valid.all():
            for values in self.arrays.values():
                values[~self.valid] = np.nan if values.dtype.kind in "fc" else 0
        return {name: values.reshape(*self.lead, *values.shape[1:]) for name, values in self.arrays.items()}


class _Strip:
    """Rows on their way to the devices."""

    def __init__(self, block: _Block, rows: slice, tiles: int) -> None:
        self.block, self.rows, self.left = block, rows, tiles
        self.buffer: np.ndarray = np.empty(0)


class _Part(NamedTuple):
    """A tile of a strip: which of its pixels, and where they belong in the block."""

    strip: _Strip
    start: int
    pixels: int


class Pipeline:
    """One pass over the blocks of a scene that are not done.

    Attributes:
        spent: seconds that reading, solving and writing were busy.
    """

    def __init__(
        self, scene: Scene, tiles: Tiles, plan: Plan, journal: Journal, out: Path, *, keyed: bool = False,
        kept: Callable[[int, dict[str, np.ndarray]], None] | None = None,
        progress: Callable[[int, int, float], None] | None = None,
    ) -> None:  # fmt: skip
        """Set what is read, computed and written, and the callbacks for finished blocks; nothing is started."""
        self.scene, self.tiles, self.plan, self.journal, self.out = scene, tiles, plan, journal, out
        self._keyed, self._kept, self._progress = keyed, kept, progress
        self._double = bool(jax.config.read("jax_enable_x64"))
        self._mask = None if scene.mask is None else np.asarray(scene.mask, bool)
        self._row = int(np.prod(scene.shape[1:]))
        self._shapes = named(tiles.shapes())
        self.spent = {"read": 0.0, "solve": 0.0, "write": 0.0}
        self._writes: deque[Future[None]] = deque()
        self._rooms: SimpleQueue[dict[str, np.ndarray]] = SimpleQueue()
        self._flying: deque[tuple[list[_Part], Future[None]]] = deque()
        self._unsure = self._seen = 0
        self._untold, self._marked = undeclared(scene.cube, scene.nodata), list[int]()
        self._done = self._total = 0

    def run(self, own: Iterable[int]) -> None:
        """Unmix those of these blocks that are not done.

        Raises:
            OSError: something cannot be read or written; what was done is kept.
        """
        devices, wanted = len(self.tiles.devices), -(-self.plan.strip * self._row // self.tiles.tile)
        size = wanted * self.tiles.tile, self.scene.bands
        self._free: SimpleQueue[np.ndarray] = SimpleQueue()
        for _ in range(self.plan.buffers):
            self._free.put(empty_aligned(size, self.tiles.dtype))
        pixels = {n: (rows.stop - rows.start) * self._row for n, rows in enumerate(self.journal.store.blocks)}
        todo = [n for n in own if n not in self.journal.done]
        self._total = sum(pixels[n] for n in own)
        self._done = self._total - sum(pixels[n] for n in todo)
        self._report(0)
        with (
            Rows(self.scene.cube) as rows,
            ThreadPoolExecutor(1) as reader,
            ThreadPoolExecutor(1) as self._writer,
            ThreadPoolExecutor(self.plan.in_flight) as self._workers,
        ):
            waiting: list[_Part] = []
            strips = self._strips(todo)
            coming = deque(reader.submit(self._read, rows, s) for s in self._some(strips, self.plan.buffers - 1))
            try:
                while coming:
                    strip = self._read_of(coming.popleft())
                    coming.extend(reader.submit(self._read, rows, s) for s in self._some(strips, 1))
                    for start in range(0, (strip.rows.stop - strip.rows.start) * self._row, self.tiles.tile):
                        count = min(self.tiles.tile, (strip.rows.stop - strip.rows.start) * self._row - start)
                        waiting.append(_Part(strip, start, count))
                        if len(waiting) == devices:
                            self._start(waiting)
                            waiting = []
                if waiting:
                    self._start(waiting)
                while self._flying:
                    self._collect()
                self._written(0)
            except BaseException:
                for _, solving in self._flying:
                    solving.cancel()
                for _ in coming:  # the reader may be waiting for a buffer: give it one, so that it ends
                    self._free.put(np.empty(size, self.tiles.dtype))
                raise
        if self._untold:
            left_out(sum(self._marked), sum(pixels[n] for n in todo), stacklevel=3)

    def _strips(self, todo: list[int]) -> Iterator[_Strip]:
        """All strips of these blocks, in order."""
        for number in todo:
            rows = self.journal.store.blocks[number]
            starts = range(rows.start, rows.stop, self.plan.strip)
            block = _Block(number, rows, self.scene.shape, self._room(), len(starts))
            for start in starts:
                stop = min(start + self.plan.strip, rows.stop)
                yield _Strip(block, slice(start, stop), -(-(stop - start) * self._row // self.tiles.tile))

    def _room(self) -> dict[str, np.ndarray]:
        """Arrays for a block: those of one that is written, where there is one."""
        if not self._rooms.empty():
            return self._rooms.get()
        pixels = self.plan.block * self._row
        return {name: np.empty((pixels, *leaf.shape), leaf.dtype) for name, leaf in self._shapes.items()}

    @staticmethod
    def _some(strips: Iterator[_Strip], count: int) -> list[_Strip]:
        """The next few."""
        return [strip for _, strip in zip(range(count), strips, strict=False)]

    def _read(self, rows: Rows, strip: _Strip) -> _Strip:
        """Fill a buffer; beyond the strip its first pixel stands again."""
        buffer = self._free.get()
        begun = time.perf_counter()
        count = (strip.rows.stop - strip.rows.start) * self._row
        rows.read(strip.rows.start, strip.rows.stop, buffer[:count])
        buffer[count : strip.left * self.tiles.tile] = buffer[0]
        strip.buffer = buffer
        self.spent["read"] += time.perf_counter() - begun
        return strip

    def _read_of(self, coming: "Future[_Strip]") -> _Strip:
        """A strip that was read, or what went wrong."""
        with explained(self.out, self.journal, reading=True):
            return coming.result()

    def _start(self, parts: list[_Part]) -> None:
        """Give each device a tile."""
        self._flying.append((parts, self._workers.submit(self._solve, parts)))
        if len(self._flying) > self.plan.in_flight:
            self._collect()

    def _solve(self, parts: list[_Part]) -> None:
        """Compute tiles and put the results where they belong; where there are fewer than devices, the first again."""
        begun = time.perf_counter()
        size = self.tiles.tile
        given = parts + parts[:1] * (len(self.tiles.devices) - len(parts))
        numbers = None
        if self._keyed:
            firsts = [strip.rows.start * self._row + start for strip, start, _ in given]
            numbers = [np.arange(first, first + size, dtype=np.uint32) for first in firsts]
        with jax.enable_x64(self._double):  # a choice of the thread that it was made in
            solution, fine = self.tiles([strip.buffer[at : at + size] for strip, at, _ in given], numbers)
        leaves = named(solution)
        for i, (strip, start, count) in enumerate(parts):
            here = slice(i * size, i * size + count)
            first = (strip.rows.start - strip.block.rows.start) * self._row + start
            there = slice(first, first + count)
            for name, values in leaves.items():
                strip.block.arrays[name][there] = values[here]
            strip.block.valid[there] = fine[here]
            if self._untold and not fine[here].all():
                lost = ~fine[here]
                if self._mask is not None:
                    at = strip.rows.start * self._row + start
                    lost &= self._mask.reshape(-1)[at : at + count]
                self._marked.append(
                    holding(strip.buffer[start : start + count][lost], self.tiles.nodata, self.tiles.good_bands)
                )
        self.spent["solve"] += time.perf_counter() - begun

    def _collect(self) -> None:
        """Wait for the tiles that were begun first; write a block that is whole."""
        parts, solving = self._flying.popleft()
        solving.result()
        for strip, _, _ in parts:
            strip.left -= 1
            if not strip.left:
                self._free.put(strip.buffer)
                strip.block.left -= 1
                if not strip.block.left:
                    self._write(strip.block)

    def _write(self, block: _Block) -> None:
        """Hand a block to the writer."""
        arrays = block.finished(self._mask)
        self._seen += int(block.valid.sum())
        self._unsure += int(np.sum(block.valid & ~block.arrays["converged"]))
        self._written(WAITING - 1)
        self._writes.append(self._writer.submit(self._keep, block, arrays))
        self._report(block.valid.size)

    def _keep(self, block: _Block, arrays: dict[str, np.ndarray]) -> None:
        """In the writer's thread."""
        begun = time.perf_counter()
        self.journal.write(block.number, arrays)
        if self._kept is not None:
            self._kept(block.number, arrays)
        self._rooms.put(block.room)
        self.spent["write"] += time.perf_counter() - begun

    def _written(self, waiting: int) -> None:
        """Wait until no more blocks wait to be written."""
        with explained(self.out, self.journal):
            while len(self._writes) > waiting:
                self._writes.popleft().result()

    def _report(self, pixels: int) -> None:
        """Say how far it is."""
        self._done += pixels
        if self._progress is not None:
            self._progress(self._done, self._total, self._unsure / max(self._seen, 1))


@contextmanager
def explained(out: Path, journal: Journal | None = None, *, reading: bool = False) -> Iterator[None]:
    """Errors of the disk with what they mean for the run."""
    try:
        yield
    except OSError as error:
        kept = "" if journal is None else (
            f". {len(journal.done)} of {len(journal.store.blocks)} blocks are done and kept; "
            "the same command goes on from there"
        )  # fmt: skip
        number = error.errno or errno.EIO
        if reading:
            raise OSError(number, f"the scene cannot be read: {error}{kept}") from error
        what = WRONG.get(error.errno or 0, str(error))
        raise OSError(number, f"{str(out)!r} cannot be written: {what}{kept}") from error
