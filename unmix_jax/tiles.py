"""One compiled function for tiles of one size, on one device or side by side on several.

Each device has a tile of its own, of the same size whatever their number: so the program of a device, and with it every
bit of the result, does not depend on how many there are. Nothing passes between them.
"""

import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from unmix_jax.linalg import squared_norm
from unmix_jax.solvers.bands import ready, require_bands
from unmix_jax.types import Solution

__all__ = [
    "ALIGNMENT", "TILE_BYTES", "Tiles", "default_tile", "empty_aligned", "float_type", "holding", "is_aligned",
    "rounded",
]  # fmt: skip

TILE_BYTES = 8 * 2**20  # of pixels, per tile: large enough to hide a launch, small enough for the caches
ALIGNMENT = 64  # bytes at which the CPU back end takes an array without copying it
AXIS = "pixel"
LAPACK = re.compile(r"custom_call @(?:lapack|blas)_")
FACTORISATION = re.compile(r"custom_call @(?:lapack|blas)_\w+\(.*?: \(tensor<([0-9x]+)x[a-z]+[0-9]+>")


class Tiles:
    """An unmixer that is compiled for tiles.

    Attributes:
        tile: pixels of a device.
        size: pixels of all devices: what is computed at once.
        devices: that compute.
    """

    def __init__(
        self, unmixer: Callable[..., Solution], bands: int, dtype: np.dtype, tile: int, *, good_bands: Any = None,
        nodata: Sequence[Any] = (), key: Any = None, devices: Sequence[Any],
    ) -> None:  # fmt: skip
        """Put what all tiles share on the devices; nothing is compiled yet.

        Args:
            unmixer: from a pixel to a `Solution`; ValueError where it looks at bad bands, or does not say at which.
            bands: of a pixel.
            dtype: floating type of the pixels.
            tile: pixels of a device.
            good_bands: True where a band counts.
            nodata: the numbers that mark missing data (`scenes.nodata.marks`).
            key: random key; pixel number n gets ``fold_in(key, n)``.
            devices: of this process.
        """
        self.tile, self.bands, self.dtype = tile, bands, dtype
        self.devices = tuple(devices)
        self.size = tile * len(self.devices)
        self.nodata, self.good_bands = tuple(nodata), good_bands
        good = None if good_bands is None or np.all(good_bands) else jnp.asarray(good_bands, bool)
        missing = tuple(jnp.asarray(mark, dtype) for mark in nodata)
        unmixer = ready(unmixer, None if good is None else np.asarray(good_bands, bool))
        if good is not None:
            require_bands(unmixer, np.asarray(good_bands, bool))
        arrays, static = eqx.partition(unmixer, eqx.is_array)
        leaves, tree = jax.tree.flatten(static)
        self._mesh = None
        place: Any = self.devices[0]
        if len(self.devices) > 1:
            self._mesh = Mesh(np.asarray(self.devices), (AXIS,), axis_types=(AxisType.Auto,))
            place = NamedSharding(self._mesh, PartitionSpec())
        self._shared = jax.device_put((arrays, good, missing, key), place)
        self._keyed = key is not None
        self._before: Any = None
        self._kept: Any = None
        self._compiled = _compiled(tuple(leaves), tree, self._mesh)

    def __call__(
        self, blocks: Sequence[np.ndarray], numbers: Sequence[np.ndarray] | None = None
    ) -> tuple[Solution, np.ndarray]:
        """Solution and validity of the pixels of all blocks, in host memory.

        Args:
            blocks: [tile, band] for each device.
            numbers: of the pixels of each block, where there is a key.
        """
        return jax.tree.map(np.asarray, self.start(blocks, numbers))

    def start(
        self, blocks: Sequence[np.ndarray], numbers: Sequence[np.ndarray] | None = None
    ) -> tuple[Solution, Array]:
        """As when called, but the arrays may not be ready yet."""
        return self._compiled(*self._shared, self._place(blocks), None if numbers is None else self._place(numbers))

    def lowered(self) -> Any:
        """The program before it is compiled, kept."""
        if self._before is None:
            self._before = self._compiled.lower(*self._shared, *self._zeros())
        return self._before

    def shapes(self) -> Solution:
        """Shape and type of every part of the solution of a pixel."""
        found = jax.eval_shape(self._compiled, *self._shared, *self._zeros())[0]
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), found)

    def may_wait(self) -> bool:
        """Whether two calls at once may wait for ever, on CPUs, for threads of batches of factorisations (jaxlib 0.10).

        Programs made of `linalg.one_by_one` do not.
        """
        if self.devices[0].platform != "cpu":
            return False
        text = self.lowered().as_text()
        shapes = [shape.split("x") for shape in FACTORISATION.findall(text)]
        return len(shapes) < len(LAPACK.findall(text)) or any(sum(n != "1" for n in shape) > 2 for shape in shapes)

    def bytes(self) -> int:
        """Memory of one device that one call takes, by the compiler: pixels, results, and what is in between."""
        sizes = self._program().memory_analysis()
        if sizes is None:  # a back end that does not say
            return 4 * self.tile * self.bands * self.dtype.itemsize
        return sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes

    def _program(self) -> Any:
        """The compiled program, kept: calls run the same."""
        if self._kept is None:
            self._kept = self.lowered().compile()
        return self._kept

    def _zeros(self) -> tuple[Array, Array | None]:
        """Pixels and numbers of zero."""
        numbers = self._place([np.zeros(self.tile, np.uint32)] * len(self.devices)) if self._keyed else None
        return self._place([np.zeros((self.tile, self.bands), self.dtype)] * len(self.devices)), numbers

    def _place(self, blocks: Sequence[np.ndarray]) -> Array:
        """Each block on its device; without a copy where that is possible."""
        if self._mesh is None:
            return jax.device_put(blocks[0], self.devices[0], may_alias=True)
        parts = [jax.device_put(block, to, may_alias=True) for block, to in zip(blocks, self.devices, strict=True)]
        shape = (self.size, *blocks[0].shape[1:])
        return jax.make_array_from_single_device_arrays(shape, NamedSharding(self._mesh, PartitionSpec(AXIS)), parts)


def default_tile(total: int, bands: int, itemsize: int) -> int:
    """As few tiles of at most `TILE_BYTES`, or 1024 pixels, as hold all, of a size with few significant bits.

    So few programs serve all scenes, and at most an eighth of what is computed is padding, but for a handful of pixels.
    """
    full = max(1024, TILE_BYTES // (bands * itemsize) // 1024 * 1024)
    return rounded(-(-total // -(-total // full)))


def rounded(count: int) -> int:
    """A number with few significant bits, at most an eighth above this one, and not below 16."""
    grain = max(16, (1 << (count.bit_length() - 1)) // 8)
    return -(-count // grain) * grain


def float_type(dtype: Any) -> np.dtype:
    """The floating type that pixels are unmixed in."""
    dtype = np.dtype(dtype)
    if dtype.kind != "f" or dtype.itemsize < 4:
        dtype = np.dtype(np.float32)
    return np.dtype(jax.dtypes.canonicalize_dtype(dtype.newbyteorder("=")))


def is_aligned(block: np.ndarray) -> bool:
    """Whether the CPU back end can use this memory as it is."""
    return block.ctypes.data % ALIGNMENT == 0


def holding(pixels: np.ndarray, missing: Sequence[Any], good_bands: Any) -> int:
    """How many of some pixels, as they were computed, hold a number that marks missing data in a band that counts."""
    good = slice(None) if good_bands is None else np.asarray(good_bands, bool)
    return int(sum((pixels[:, good] == pixels.dtype.type(mark)).any(axis=1).sum() for mark in missing))


def empty_aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialised array at an aligned address."""
    size = math.prod(shape) * dtype.itemsize
    buffer = np.empty(size + ALIGNMENT, np.uint8)
    offset = -buffer.ctypes.data % ALIGNMENT
    return buffer[offset : offset + size].view(dtype).reshape(shape)


@functools.lru_cache(maxsize=64)
def _compiled(leaves: tuple[Any, ...], tree: Any, mesh: Mesh | None) -> Any:
    """The compiled tile function of one kind of unmixer (``eqx.filter_jit`` would hash it anew for each tile)."""
    function = functools.partial(_tile, jax.tree.unflatten(tree, leaves))
    if mesh is None:
        return jax.jit(function)
    all_, own = PartitionSpec(), PartitionSpec(AXIS)
    specs = (all_, all_, all_, all_, own, own)  # carries of loops begin as constants: their axes are not checked
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=own, check_vma=False))


def _tile(
    static: Any, arrays: Any, good: Any, nodata: tuple[Array, ...], key: Any, pixels: Array, numbers: Any
) -> tuple[Solution, Array]:
    """One tile: mask, clean, and unmix every pixel of it."""
    unmixer = eqx.combine(arrays, static)
    if good is not None:
        pixels = jnp.where(good, pixels, 0.0)
    # one read tells NaN, infinity and all zero; it is the very sum that least squares needs, so it costs nothing
    size = jax.vmap(squared_norm)(pixels)
    valid = jnp.isfinite(size) & (size > 0)

    def looked_at() -> Array:
        """Band by band: squares of very small pixels are zero, and of very large ones infinite."""
        return jnp.all(jnp.isfinite(pixels), -1) & jnp.any(pixels != 0, -1)

    valid = jax.lax.cond(jnp.all(valid), lambda: valid, looked_at)
    for mark in nodata:

        def unmarked(mark: Array = mark) -> Array:
            missing = pixels == mark
            return ~jnp.any(missing if good is None else missing & good, -1)

        # another read only where the sum of squares leaves room for the mark, up to rounding
        room = valid & (size >= 0.99 * mark**2)
        valid &= jax.lax.cond(jnp.any(room), unmarked, lambda room=room: jnp.ones_like(room))
    if key is None:
        return jax.vmap(unmixer)(pixels), valid
    keys = jax.vmap(lambda n: jax.random.fold_in(key, n))(numbers)
    return jax.vmap(lambda pixel, key: unmixer(pixel, key=key))(pixels, keys), valid
