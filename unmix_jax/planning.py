"""How much memory a run over a scene takes, before it begins, and how large its tiles and blocks are."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unmix_jax.scenes.nodata import NODATA, marks, undeclared
from unmix_jax.scenes.rows import Rows
from unmix_jax.scenes.scene import Scene
from unmix_jax.sharding import default_devices
from unmix_jax.store import named
from unmix_jax.tiles import Tiles, default_tile, float_type, rounded
from unmix_jax.types import Solution

__all__ = ["Plan", "plan_run"]

STRIP_BYTES = 8 * 2**20  # of pixels that are read at once: four strips fit the last cache beside what is computed
BLOCK_BYTES = 64 * 2**20  # of pixels in a block: what is written and done at once
WAITING = 2  # blocks that may wait to be written
IN_FLIGHT = 2  # tiles that a device is given at once
SHARE = 0.8  # of the free memory that a run may take
LEAST = 16  # pixels of a tile
GROUPS = "/sys/fs/cgroup/"
CONTAINERS = (
    (f"{GROUPS}memory.max", f"{GROUPS}memory.current", f"{GROUPS}memory.stat", "inactive_file"),
    (
        f"{GROUPS}memory/memory.limit_in_bytes",
        f"{GROUPS}memory/memory.usage_in_bytes",
        f"{GROUPS}memory/memory.stat",
        "total_inactive_file",
    ),
)


class Plan(NamedTuple):
    """Sizes of a run.

    Attributes:
        tile: pixels that a device computes at once.
        strip: rows that are read at once.
        block: rows that are written and done at once.
        blocks: how many.
        buffers: strips that are in memory.
        host_bytes: memory for pixels and results that are on their way.
        device_bytes: memory of a device for tiles, results and what is in between, by its compiler.
        output_bytes: of the arrays and maps that are written, at most.
        in_flight: tiles that a device is given at once.
    """

    tile: int
    strip: int
    block: int
    blocks: int
    buffers: int
    host_bytes: int
    device_bytes: int
    output_bytes: int
    in_flight: int

    def __str__(self) -> str:
        return (
            f"{self.blocks} block{'s' * (self.blocks > 1)} of {self.block} rows in tiles of {self.tile} pixels: "
            f"{_size(self.host_bytes)} of memory, {_size(self.device_bytes)} on the device, "
            f"{_size(self.output_bytes)} of results"
        )


def plan_run(
    scene: Scene, unmixer: Callable[..., Solution], *, tile: int | None = None, strip: int | None = None,
    block: int | None = None, memory: float | None = None, devices: Sequence[Any] | None = None, key: Any = None,
    good_bands: Any = None, maps: int = 1,
) -> tuple[Plan, Tiles]:  # fmt: skip
    """Choose tiles that fit the device and blocks that fit the memory.

    Args:
        scene: what is unmixed.
        unmixer: as in `unmix`.
        tile: pixels that a device computes at once; None: as many as fit its caches, fewer where its memory is small.
        strip: rows that are read at once; None: those of about a tile.
        block: rows that are written at once, a multiple of the strip; None: about 64 MiB of pixels.
        memory: bytes that the run may take; None: four fifths of what is free.
        devices: as in `unmix`.
        key: as in `unmix`.
        good_bands: as in `unmix`.
        maps: kinds of images that are written.

    Returns:
        The sizes, and the compiled tiles.

    Raises:
        ValueError: a tile that is not positive, or does not fit; memory that is too small for any.
    """
    if tile is not None and tile < 1:
        raise ValueError(f"tile must be a positive number of pixels, got {tile}")
    devices = default_devices() if devices is None else devices
    rows, row, bands = scene.shape[0], math.prod(scene.shape[1:]), scene.bands
    dtype = float_type(scene.cube.dtype)
    free = _free_memory() * SHARE if memory is None else memory
    wide = row * bands * dtype.itemsize
    nodata = marks(NODATA if undeclared(scene.cube, scene.nodata) else scene.nodata, scene.cube.dtype)
    options: dict[str, Any] = {"good_bands": good_bands, "nodata": nodata, "key": key, "devices": devices}
    shapes = named(Tiles(unmixer, bands, dtype, LEAST, **options).shapes())
    pixel = sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in shapes.values())
    single = sum(name in shapes for name in ("residual", "gap", "abundance_bound"))
    mapped = 4 * maps * (2 * math.prod(shapes["abundances"].shape) + single)  # with those without shade
    with Rows(scene.cube) as source:
        chunk = 0 if source.chunk == 1 else source.chunk * wide
    chosen = tile, strip, block
    usual = most = max(1024, STRIP_BYTES // (bands * dtype.itemsize))
    while True:
        strip = chosen[1] or (_strip(rows, row, usual) if tile is None else min(rows, max(1, tile // row)))
        size = tile or (
            rounded(strip * row) if strip * row <= 1.5 * usual else default_tile(row, bands, dtype.itemsize)
        )
        size = min(size, rounded(usual)) if tile is None and usual < most else size
        block = chosen[2] or min(rows, strip * max(1, int(min(BLOCK_BYTES, usual * bands * 32) / wide / strip)))
        tiles = Tiles(unmixer, bands, dtype, size, **options)
        flying = 1 if tiles.may_wait() else IN_FLIGHT
        needed = flying * tiles.bytes()
        buffers = (flying + 1) * len(devices) + 1
        out = -(-(buffers + 1) * strip // block) + WAITING + 1  # blocks of results: some come in, some wait
        on_host = all(device.platform == "cpu" for device in devices)
        padded = -(-strip * row // size) * size * bands * dtype.itemsize
        host = chunk + buffers * padded + out * block * row * pixel + on_host * len(devices) * needed
        limit = _device_memory(devices[0], free)
        if needed <= limit and host <= free:
            break
        if chosen != (None, None, None) or usual <= LEAST:
            takes, what = (needed, "the device's ") if needed > limit else (host, "")
            raise ValueError(
                f"tiles of {size} pixels and blocks of {block} rows take {_size(takes)} of {what}memory, "
                f"and {_size(min(limit, free))} may be taken"
                + (": give a smaller tile" if tile is not None and strip > 1 else "")
            )
        usual = max(LEAST, usual // 2)
    written = rows * row * (pixel + mapped)
    return Plan(size, strip, block, -(-rows // block), buffers, int(host), int(needed), written, flying), tiles


def _strip(rows: int, row: int, usual: int | float) -> int:
    """Rows of about a tile, so many that little of the tile is empty."""
    most = max(1, round(usual / row))
    if most >= rows:
        return rows
    return max(range((most + 1) // 2, most + 1), key=lambda n: (round(n * row / rounded(n * row), 2), n))


def _free_memory() -> int:
    """Bytes that new arrays may take on this machine, or in the part of it that this process may use."""
    import psutil

    free = psutil.virtual_memory().available
    for most, now, stat, pages in CONTAINERS:  # a container's own limit; what it keeps of files can be let go
        try:
            told = dict(line.split() for line in Path(stat).read_text(encoding="ascii").splitlines())
            used = int(Path(now).read_text(encoding="ascii")) - int(told.get(pages, 0))
            free = min(free, int(Path(most).read_text(encoding="ascii")) - used)
        except (OSError, ValueError):
            continue
    return max(free, 0)


def _device_memory(device: Any, host: int | float) -> int | float:
    """Bytes that may be taken of a device: what is free of its own memory, or of that of the host."""
    stats = device.memory_stats() if device.platform != "cpu" else None
    if not stats or "bytes_limit" not in stats:
        return host
    return SHARE * (stats["bytes_limit"] - stats.get("bytes_in_use", 0))


def _size(count: int | float) -> str:
    """Bytes in words."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
