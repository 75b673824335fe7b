"""The one driver: any unmixer over any number of pixels.

Pixels are cut into tiles of one fixed size, the last one padded, so that one compilation serves every scene. A tile
is one ``jit``-compiled ``vmap`` of the unmixer; two worker threads keep the cores (or the copy to a device and the
computation on it) busy. Scenes on disk are read tile by tile.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from unmix_jax.scenes.scene import Scene
from unmix_jax.solvers.least_squares import prepared
from unmix_jax.types import Solution

__all__ = ["unmix"]

TILE_BYTES = 16 * 2**20  # of pixels, per tile: large enough to hide a launch, small enough for two in memory
ALIGNMENT = 64  # bytes at which the CPU back end takes an array without copying it
WORKERS = 2


def unmix(
    unmixer: Callable[..., Solution],
    pixels: Scene | Float[Any, "*pixel band"],
    *,
    tile: int | None = None,
    key: Any = None,
    good_bands: Bool[Any, "band"] | None = None,
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
        tile: pixels per tile; by default what fills 16 MiB, at least 1024. Results do not depend on it.
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
    if mask is not None and np.shape(mask) != tuple(lead):
        raise ValueError(f"mask has shape {np.shape(mask)}, pixels have {tuple(lead)}")
    if tile is not None and tile < 1:
        raise ValueError(f"tile must be a positive number of pixels, got {tile}")
    dtype = _float_type(source.dtype)
    tile = tile or _default_tile(bands, dtype.itemsize, total)
    wanted = None if mask is None else np.asarray(mask, bool).reshape(-1)
    good = None if good_bands is None or np.all(good_bands) else jnp.asarray(good_bands, bool)
    nodata_ = None if nodata is None or math.isnan(nodata) else jnp.asarray(nodata, dtype)
    unmixer = prepared(unmixer)

    out: list[Any] = []  # leaves of the result, made when the first tile shows their shapes

    def run(start: int, stop: int) -> int:
        block = _read(source, start, stop, dtype)
        if len(block) < tile or not _aligned(block):
            staged = _empty_aligned((tile, bands), dtype)
            staged[: len(block)] = block
            staged[len(block) :] = block[0]
            block = staged
        device = jax.device_put(block, may_alias=True)
        with jax.profiler.TraceAnnotation("unmix tile"):
            solution, valid = _tile(unmixer, device, good, nodata_, key, jnp.asarray(start, jnp.uint32))
        leaves, tree = jax.tree.flatten(solution)
        if not out:
            out.extend((tree, [np.empty((total, *x.shape[1:]), x.dtype) for x in leaves]))
        rows = slice(start, stop)
        for target, leaf in zip(out[1], leaves, strict=True):
            target[rows] = np.asarray(leaf)[: stop - start]
        _blank(jax.tree.unflatten(out[0], [x[rows] for x in out[1]]), np.asarray(valid)[: stop - start], wanted, rows)
        return stop - start

    done = 0
    spans = _spans(source, total, tile, dtype)
    done += run(*spans[0])  # compiles once, and makes the outputs
    if progress is not None:
        progress(done, total)
    with ThreadPoolExecutor(WORKERS) as pool:
        for count in pool.map(lambda span: run(*span), spans[1:]):
            done += count
            if progress is not None:
                progress(done, total)
    leaves = [x.reshape(*lead, *x.shape[1:]) for x in out[1]]
    return jax.tree.unflatten(out[0], leaves)


@eqx.filter_jit
def _tile(
    unmixer: Any, pixels: Array, good: Array | None, nodata: Array | None, key: Any, start: Array
) -> tuple[Solution, Array]:
    """One tile: mask, clean, and unmix every pixel of it."""
    if good is not None:
        pixels = jnp.where(good, pixels, 0.0)
    # a sum tells NaN and infinity at the cost of one read; no square of a physical spectrum overflows
    size = jnp.sum(jnp.abs(pixels), -1)
    valid = jnp.isfinite(size) & (size > 0)
    if nodata is not None:
        missing = pixels == nodata
        valid &= ~jnp.any(missing if good is None else missing & good, -1)
    if key is None:
        return jax.vmap(unmixer)(pixels), valid
    numbers = start + jnp.arange(pixels.shape[0], dtype=jnp.uint32)
    keys = jax.vmap(lambda n: jax.random.fold_in(key, n))(numbers)
    return jax.vmap(lambda pixel, key: unmixer(pixel, key=key))(pixels, keys), valid


def _blank(part: Solution, valid: np.ndarray, wanted: np.ndarray | None, rows: slice) -> None:
    """Write NaN (False, 0) where a pixel is masked, in place."""
    if wanted is not None:
        valid = valid & wanted[rows]
    if valid.all():
        return
    for leaf in jax.tree.leaves(part):
        kind = np.asarray(leaf).dtype.kind
        leaf[~valid] = np.nan if kind in "fc" else 0


def _float_type(dtype: Any) -> np.dtype:
    """The floating type that pixels are unmixed in."""
    dtype = np.dtype(dtype)
    if dtype.kind != "f" or dtype.itemsize < 4:
        dtype = np.dtype(np.float32)
    return np.dtype(jax.dtypes.canonicalize_dtype(dtype.newbyteorder("=")))


def _default_tile(bands: int, itemsize: int, total: int) -> int:
    """A multiple of 1024 that fills `TILE_BYTES`, or the power of two that holds a small scene."""
    tile = max(1024, TILE_BYTES // (bands * itemsize) // 1024 * 1024)
    return min(tile, 1 << max(total - 1, 63).bit_length())


def _spans(source: Any, total: int, tile: int, dtype: np.dtype) -> list[tuple[int, int]]:
    """Start and stop of each tile; the first may be short, so that the others start at an aligned address."""
    first = 0
    if isinstance(source, np.ndarray) and source.dtype == dtype and source.flags.c_contiguous:
        stride, address = source.shape[-1] * dtype.itemsize, source.ctypes.data
        aligned = [n for n in range(ALIGNMENT) if (address + n * stride) % ALIGNMENT == 0]
        if tile * stride % ALIGNMENT == 0 and aligned and total > tile:
            first = aligned[0]
    starts = ([0] if first else []) + list(range(first, total, tile))
    return [(start, stop) for start, stop in zip(starts, [*starts[1:], total], strict=True)]


def _read(source: Any, start: int, stop: int, dtype: np.dtype) -> np.ndarray:
    """Pixels ``start`` to ``stop`` of any array with the bands last, as [pixel, band]."""
    if len(source.shape) == 2:
        block = source[start:stop]
    elif isinstance(source, np.ndarray) and source.flags.c_contiguous:
        block = source.reshape(-1, source.shape[-1])[start:stop]
    else:  # whole rows of the image, then what is wanted of them
        row = math.prod(source.shape[1:-1])
        first, last = start // row, -(-stop // row)
        block = np.asarray(source[first:last]).reshape(-1, source.shape[-1])
        block = block[start - first * row : stop - first * row]
    return np.ascontiguousarray(block, dtype)


def _aligned(block: np.ndarray) -> bool:
    """Whether the CPU back end can use this memory as it is."""
    return block.ctypes.data % ALIGNMENT == 0


def _empty_aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialised array at an aligned address."""
    size = math.prod(shape) * dtype.itemsize
    buffer = np.empty(size + ALIGNMENT, np.uint8)
    offset = -buffer.ctypes.data % ALIGNMENT
    return buffer[offset : offset + size].view(dtype).reshape(shape)
