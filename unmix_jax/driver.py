"""The one driver: any unmixer over any number of pixels.

Pixels are cut into tiles of one fixed size, the last one padded, so that one compilation serves every scene. A tile
is one ``jit``-compiled ``vmap`` of the unmixer; the next one is read from disk while it is computed. Two computations
never run at once on a device: on the CPU, batched factorisations of two programs can wait for each other's threads
forever (jaxlib 0.10), and the cores are busy with one.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Shaped

from unmix_jax.scenes.nodata import NODATA, left_out, marks, undeclared, warn_of_fill
from unmix_jax.scenes.scene import Scene
from unmix_jax.sharding import default_devices
from unmix_jax.tiles import ALIGNMENT, Tiles, default_tile, empty_aligned, float_type, holding, is_aligned
from unmix_jax.types import Solution

__all__ = ["unmix"]


def unmix(
    unmixer: Callable[..., Solution],
    pixels: Scene | Shaped[Any, "*pixel band"],
    *,
    tile: int | None = None,
    key: Any = None,
    good_bands: Bool[Any, " band"] | None = None,
    mask: Bool[Any, "*pixel"] | None = None,
    nodata: float | None = None,
    devices: Sequence[Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Solution:
    """Unmix every pixel of a scene.

    Pixels that hold NaN, infinity or ``nodata`` in a good band, that are zero in all good bands, or that the mask
    leaves out come back as NaN abundances with ``converged`` False.

    Args:
        unmixer: callable pytree from one pixel [band] to its `Solution`: ``eqx.Partial(fcls, endmembers=E)``, a
            trained network. With ``key`` it is called as ``unmixer(pixel, key=key)``.
        pixels: a `Scene`, or spectra with the bands last: [band, ] axes lead, an image is [row, column, band].
            Integers become float32; memory maps are read tile by tile.
        tile: pixels per tile and device; by default at most what fits 8 MiB, or 1024, and so that tiles are full to an
            eighth: a program is compiled for each such size. Results do not depend on it.
        key: random key; pixel number n gets ``jax.random.fold_in(key, n)``, whatever the tile.
        good_bands: bands that count; the others are not looked at, and are zero in the pixels that the unmixer sees.
            Endmembers as an array are prepared without them; an unmixer that was prepared or trained must leave them
            out as well, and any other callable must say so (`on_bands`). Default: those of the scene.
        mask: True where a pixel is to be unmixed. Default: that of the scene.
        nodata: value that marks missing data, after rounding to the type of the pixels; NaN: none does. Default: that
            of the scene. Where nothing says it, pixels of -9999 are left out with a warning, and a warning names any
            other usual fill value that repeats: these pixels are unmixed.
        devices: of this process that compute, each a tile of its own; by default all of the default kind. Results do
            not depend on their number.
        progress: called as ``progress(pixels_done, pixels_in_all)`` after each tile.

    Returns:
        One `Solution` whose leading axes are those of ``pixels``; its arrays are NumPy arrays in host memory.

    Raises:
        ValueError: if shapes disagree, ``tile`` is not positive, or the unmixer looks at bad bands or does not say at
            which bands it looks.
    """
    looked_at = isinstance(pixels, Scene) and pixels.suspected_nodata is not None  # its reader has warned
    if isinstance(pixels, Scene):
        good_bands = pixels.good_bands if good_bands is None else good_bands
        mask = pixels.mask if mask is None else mask
        nodata = pixels.nodata if nodata is None else nodata
        pixels = pixels.cube
    source = pixels if hasattr(pixels, "shape") else np.asarray(pixels)
    if len(source.shape) < 2 or 0 in source.shape:
        raise ValueError(f"pixels must be [..., band] and not empty, got shape {tuple(source.shape)}")
    *lead, bands = source.shape
    total = math.prod(lead)
    if good_bands is not None and np.shape(good_bands) != (bands,):
        raise ValueError(f"good_bands has shape {np.shape(good_bands)}, pixels have {bands} bands")
    if good_bands is not None and not np.any(good_bands):
        raise ValueError("good_bands leaves no band to look at")
    if mask is not None and np.shape(mask) != tuple(lead):
        raise ValueError(f"mask has shape {np.shape(mask)}, pixels have {tuple(lead)}")
    if tile is not None and tile < 1:
        raise ValueError(f"tile must be a positive number of pixels, got {tile}")
    untold = undeclared(source, nodata)
    missing = marks(NODATA if untold else nodata, source.dtype)
    if not looked_at:
        warn_of_fill(source, nodata, good_bands, stacklevel=2)
    dtype = float_type(source.dtype)
    tile = tile or default_tile(total, bands, dtype.itemsize)
    wanted = None if mask is None else np.asarray(mask, bool).reshape(-1)
    tiles = _tiles(source, total, tile, dtype)
    devices = default_devices() if devices is None else devices
    computed = Tiles(
        unmixer, bands, dtype, tile, good_bands=good_bands, nodata=missing, key=key, devices=devices[: len(tiles)]
    )
    together = len(computed.devices)
    groups = [tiles[n : n + together] for n in range(0, len(tiles), together)]

    def stage(group: list[list[slice]]) -> list[np.ndarray]:
        """The pixels of each tile in one aligned block, padded with its first; no copy where none is needed."""
        staged = [whole(pieces) for pieces in group]
        return staged + staged[:1] * (together - len(group))

    def whole(pieces: list[slice]) -> np.ndarray:
        """The pixels of one tile."""
        blocks = [_read(source, rows, dtype) for rows in pieces]
        count = sum(len(block) for block in blocks)
        if len(blocks) == 1 and count == tile and is_aligned(blocks[0]):
            return blocks[0]
        staged = empty_aligned((tile, bands), dtype)
        np.concatenate(blocks, out=staged[:count])
        staged[count:] = staged[0]
        return staged

    def numbers(group: list[list[slice]]) -> list[np.ndarray] | None:
        """Those of the pixels of each tile, for their keys."""
        if key is None:
            return None
        each = [np.concatenate([np.arange(r.start, r.stop, dtype=np.uint32) for r in pieces]) for pieces in group]
        each = [np.resize(some, tile) for some in each]
        return each + each[:1] * (together - len(group))

    result: Any = None
    done = marked = 0
    with ThreadPoolExecutor(1) as reader:  # the next tiles are read while these are computed
        upcoming = reader.submit(stage, groups[0])
        for group, following in zip(groups, [*groups[1:], None], strict=True):
            blocks = upcoming.result()
            if following is not None:
                upcoming = reader.submit(stage, following)
            solution, valid = computed(blocks, numbers(group))
            if result is None:
                result = jax.tree.map(lambda x: np.empty((total, *x.shape[1:]), x.dtype), solution)
            for first, pieces in zip(range(0, computed.size, tile), group, strict=False):
                start = first
                for rows in pieces:
                    part = slice(start, start := start + rows.stop - rows.start)
                    kept = valid[part] if wanted is None else valid[part] & wanted[rows]
                    if untold and not valid[part].all():
                        lost = ~valid[part] if wanted is None else ~valid[part] & wanted[rows]
                        at = slice(part.start - first, part.stop - first)
                        marked += holding(blocks[first // tile][at][lost], missing, good_bands)
                    _store(result, solution, rows, part, kept)
                done += start - first
            if progress is not None:
                progress(done, total)
    if untold:
        left_out(marked, total, stacklevel=2)
    return jax.tree.map(lambda x: x.reshape(*lead, *x.shape[1:]), result)


def _store(result: Solution, solution: Solution, rows: slice, part: slice, kept: np.ndarray) -> None:
    """Copy a part of a tile to its rows of the result; masked pixels become NaN (False, 0)."""
    everything = kept.all()
    for target, leaf in zip(jax.tree.leaves(result), jax.tree.leaves(solution), strict=True):
        target[rows] = leaf[part]
        if not everything:
            target[rows][~kept] = np.nan if target.dtype.kind in "fc" else 0


def _tiles(source: Any, total: int, tile: int, dtype: np.dtype) -> list[list[slice]]:
    """Which pixels each tile holds; odd ends come first, together, so that the others need no copy."""
    head = 0
    if isinstance(source, np.ndarray) and source.dtype == dtype and source.flags.c_contiguous:
        stride, address = source.shape[-1] * dtype.itemsize, source.ctypes.data
        aligned = [n for n in range(ALIGNMENT) if (address + n * stride) % ALIGNMENT == 0]
        if aligned and tile * stride % ALIGNMENT == 0 and total - aligned[0] >= tile:
            head = aligned[0]
    tail = head + (total - head) // tile * tile
    whole = [[slice(n, n + tile)] for n in range(head, tail, tile)]
    ends = [piece for piece in (slice(0, head), slice(tail, total)) if piece.stop > piece.start]
    if head + total - tail > tile:
        return [[ends[0]], [ends[1]], *whole]
    return [ends, *whole] if ends else whole


def _read(source: Any, rows: slice, dtype: np.dtype) -> np.ndarray:
    """Pixels of any array with the bands last, as [pixel, band]."""
    if len(source.shape) > 2:
        if isinstance(source, np.ndarray) and source.flags.c_contiguous:
            source = source.reshape(-1, source.shape[-1])
        else:  # whole rows of the image, then what is wanted of them
            row = math.prod(source.shape[1:-1])
            first, last = rows.start // row, -(-rows.stop // row)
            source = np.asarray(source[first:last]).reshape(-1, source.shape[-1])
            rows = slice(rows.start - first * row, rows.stop - first * row)
    return np.ascontiguousarray(source[rows], dtype)
