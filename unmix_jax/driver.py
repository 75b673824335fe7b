"""The one driver: any unmixer over any number of pixels.

Pixels are cut into tiles of one fixed size, the last one padded, so that one compilation serves every scene. A tile
is one ``jit``-compiled ``vmap`` of the unmixer; the next one is read from disk while it is computed. Two computations
never run at once: on the CPU, batched factorisations of two programs can wait for each other's threads forever
(jaxlib 0.10), and the cores are busy with one.
"""

import functools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Shaped

from unmix_jax.linalg import squared_norm
from unmix_jax.scenes.scene import Scene
from unmix_jax.solvers import inversion, least_squares, sparse
from unmix_jax.types import Solution

__all__ = ["unmix"]

TILE_BYTES = 8 * 2**20  # of pixels, per tile: large enough to hide a launch, small enough for the caches
ALIGNMENT = 64  # bytes at which the CPU back end takes an array without copying it


def unmix(
    unmixer: Callable[..., Solution],
    pixels: Scene | Shaped[Any, "*pixel band"],
    *,
    tile: int | None = None,
    key: Any = None,
    good_bands: Bool[Any, " band"] | None = None,
    mask: Bool[Any, "*pixel"] | None = None,
    nodata: float | None = None,
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
        tile: pixels per tile; by default at most what fits 8 MiB, or 1024, and so that tiles are full to an eighth: a
            program is compiled for each such size. Results do not depend on it.
        key: random key; pixel number n gets ``jax.random.fold_in(key, n)``, whatever the tile.
        good_bands: bands to look at when deciding whether a pixel is masked; bad bands are set to zero. Default:
            those of the scene.
        mask: True where a pixel is to be unmixed. Default: that of the scene.
        nodata: value that marks missing data. Default: that of the scene.
        progress: called as ``progress(pixels_done, pixels_in_all)`` after each tile.

    Returns:
        One `Solution` whose leading axes are those of ``pixels``; its arrays are NumPy arrays in host memory.

    Raises:
        ValueError: if shapes disagree or ``tile`` is not positive.
    """
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
    dtype = _float_type(source.dtype)
    tile = tile or _default_tile(total, bands, dtype.itemsize)
    wanted = None if mask is None else np.asarray(mask, bool).reshape(-1)
    good = None if good_bands is None or np.all(good_bands) else jnp.asarray(good_bands, bool)
    nodata_ = None if nodata is None or math.isnan(nodata) else jnp.asarray(nodata, dtype)
    arrays, static = eqx.partition(least_squares.prepared(inversion.prepared(sparse.prepared(unmixer))), eqx.is_array)
    leaves, tree = jax.tree.flatten(static)
    compiled = _compiled(tuple(leaves), tree)

    def stage(pieces: list[slice]) -> np.ndarray:
        """The pixels of one tile in one aligned block, padded with its first pixel; no copy where none is needed."""
        blocks = [_read(source, rows, dtype) for rows in pieces]
        count = sum(len(block) for block in blocks)
        if len(blocks) == 1 and count == tile and _aligned(blocks[0]):
            return blocks[0]
        staged = _empty_aligned((tile, bands), dtype)
        np.concatenate(blocks, out=staged[:count])
        staged[count:] = staged[0]
        return staged

    def compute(block: np.ndarray, pieces: list[slice]) -> tuple[Solution, np.ndarray]:
        """Solution and validity of one tile, in host memory."""
        numbers = None
        if key is not None:
            numbers = np.concatenate([np.arange(r.start, r.stop, dtype=np.uint32) for r in pieces])
            numbers = np.resize(numbers, tile)
        device = jax.device_put(block, may_alias=True)
        computed = compiled(arrays, device, good, nodata_, key, numbers)
        return jax.tree.map(np.asarray, computed)

    result: Any = None
    done = 0
    tiles = _tiles(source, total, tile, dtype)
    with ThreadPoolExecutor(1) as reader:  # the next tile is read while this one is computed
        upcoming = reader.submit(stage, tiles[0])
        for pieces, following in zip(tiles, [*tiles[1:], None], strict=True):
            block = upcoming.result()
            if following is not None:
                upcoming = reader.submit(stage, following)
            solution, valid = compute(block, pieces)
            if result is None:
                result = jax.tree.map(lambda x: np.empty((total, *x.shape[1:]), x.dtype), solution)
            start = 0
            for rows in pieces:
                part = slice(start, start := start + rows.stop - rows.start)
                kept = valid[part] if wanted is None else valid[part] & wanted[rows]
                _store(result, solution, rows, part, kept)
            done += start
            if progress is not None:
                progress(done, total)
    return jax.tree.map(lambda x: x.reshape(*lead, *x.shape[1:]), result)


def _store(result: Solution, solution: Solution, rows: slice, part: slice, kept: np.ndarray) -> None:
    """Copy a part of a tile to its rows of the result; masked pixels become NaN (False, 0)."""
    everything = kept.all()
    for target, leaf in zip(jax.tree.leaves(result), jax.tree.leaves(solution), strict=True):
        target[rows] = leaf[part]
        if not everything:
            target[rows][~kept] = np.nan if target.dtype.kind in "fc" else 0


@functools.lru_cache(maxsize=64)
def _compiled(leaves: tuple[Any, ...], tree: Any) -> Callable[..., tuple[Solution, Array]]:
    """The compiled tile function of one kind of unmixer (``eqx.filter_jit`` would hash it anew for each tile)."""
    return jax.jit(functools.partial(_tile, jax.tree.unflatten(tree, leaves)))


def _tile(
    static: Any, arrays: Any, pixels: Array, good: Any, nodata: Any, key: Any, numbers: Any
) -> tuple[Solution, Array]:
    """One tile: mask, clean, and unmix every pixel of it."""
    unmixer = eqx.combine(arrays, static)
    if good is not None:
        pixels = jnp.where(good, pixels, 0.0)
    # one read tells NaN, infinity and all zero; it is the very sum that least squares needs, so it costs nothing
    size = jax.vmap(squared_norm)(pixels)
    valid = jnp.isfinite(size) & (size > 0)
    if nodata is not None:
        missing = pixels == nodata
        valid &= ~jnp.any(missing if good is None else missing & good, -1)
    if key is None:
        return jax.vmap(unmixer)(pixels), valid
    keys = jax.vmap(lambda n: jax.random.fold_in(key, n))(numbers)
    return jax.vmap(lambda pixel, key: unmixer(pixel, key=key))(pixels, keys), valid


def _float_type(dtype: Any) -> np.dtype:
    """The floating type that pixels are unmixed in."""
    dtype = np.dtype(dtype)
    if dtype.kind != "f" or dtype.itemsize < 4:
        dtype = np.dtype(np.float32)
    return np.dtype(jax.dtypes.canonicalize_dtype(dtype.newbyteorder("=")))


def _default_tile(total: int, bands: int, itemsize: int) -> int:
    """As few tiles of at most `TILE_BYTES`, or 1024 pixels, as hold all, of a size with few significant bits.

    So few programs serve all scenes, and at most an eighth of what is computed is padding, but for a handful of pixels.
    """
    full = max(1024, TILE_BYTES // (bands * itemsize) // 1024 * 1024)
    share = -(-total // -(-total // full))
    grain = max(16, (1 << (share.bit_length() - 1)) // 8)
    return -(-share // grain) * grain


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


def _aligned(block: np.ndarray) -> bool:
    """Whether the CPU back end can use this memory as it is."""
    return block.ctypes.data % ALIGNMENT == 0


def _empty_aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialised array at an aligned address."""
    size = math.prod(shape) * dtype.itemsize
    buffer = np.empty(size + ALIGNMENT, np.uint8)
    offset = -buffer.ctypes.data % ALIGNMENT
    return buffer[offset : offset + size].view(dtype).reshape(shape)
