"""One pass over the valid pixels of a scene, block of rows by block: their mean and second moments, in float64."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from unmix_jax.scenes.nodata import NODATA, left_out, marks, shown, undeclared, warn_of_fill
from unmix_jax.scenes.rows import Rows
from unmix_jax.scenes.scene import Scene

__all__ = ["Moments", "ValidPixels"]

BLOCK_BYTES = 16 * 2**20


class Moments(NamedTuple):
    """Number of valid pixels, their mean and their second moments about zero, over the good bands."""

    pixels: int
    mean: Float[np.ndarray, " good_band"]
    second: Float[np.ndarray, "good_band good_band"]

    @property
    def covariance(self) -> Float[np.ndarray, "good_band good_band"]:
        """Second moments about the mean."""
        return self.second - np.outer(self.mean, self.mean)


class ValidPixels:
    """The valid pixels and good bands of an array or a scene, read block by block."""

    def __init__(self, pixels: Any) -> None:
        scene = pixels if isinstance(pixels, Scene) else None
        values = pixels.cube if isinstance(pixels, Scene) else pixels
        if not hasattr(values, "shape"):
            values = np.asarray(values)
        if len(values.shape) not in (2, 3) or 0 in values.shape:
            raise ValueError(
                f"pixels must be [pixel, band] or [row, column, band] and not empty, got {tuple(values.shape)}"
            )
        self.shape: tuple[int, ...] = tuple(values.shape[:-1])
        self.bands: int = values.shape[-1]
        self.values = values
        if scene is not None and scene.suspected_nodata is not None:
            fill = shown(scene.suspected_nodata)
            raise ValueError(
                f"the value {fill} repeats in {scene.name} as a fill value does, and would become an endmember: "
                f"open the scene with --nodata {fill} (nodata={fill}), or --nodata none if it is a measurement"
            )
        nodata = None if scene is None else scene.nodata
        self._untold = undeclared(values, nodata)
        self.marks = tuple(float(mark) for mark in marks(NODATA if self._untold else nodata, values.dtype))
        good, mask = (None, None) if scene is None else (scene.good_bands, scene.mask)
        self.good = np.arange(self.bands) if good is None else np.flatnonzero(np.asarray(good))
        self.mask = None if mask is None else np.asarray(mask).reshape(-1)
        warn_of_fill(values, nodata, good, stacklevel=3)
        kind = np.dtype(self.values.dtype)
        self.dtype = kind.newbyteorder("=") if kind.kind == "f" else np.dtype(np.float32)

    def blocks(self) -> Iterator[tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n good_band"]]]:
        """Indices and float64 values of the valid pixels, a few rows at a time."""
        width = math.prod(self.shape[1:])
        rows = max(1, BLOCK_BYTES // (8 * self.bands * width))
        marked = 0
        with Rows(self.values) as source:
            for first in range(0, self.shape[0], rows):
                count = min(rows, self.shape[0] - first)
                block = np.empty((count * width, self.bands))
                source.read(first, first + count, block)
                if len(self.good) < self.bands:
                    block = block[:, self.good]
                valid = np.isfinite(block.sum(axis=1)) & block.any(axis=1)
                start = first * width
                if self.mask is not None:
                    valid &= self.mask[start : start + len(block)]
                for mark in self.marks:
                    missing = (block == mark).any(axis=1)
                    marked += int((valid & missing).sum())
                    valid &= ~missing
                yield start + np.flatnonzero(valid), block if valid.all() else block[valid]
        if self._untold:
            self._untold = False  # told once: the pixels are read several times
            left_out(marked, math.prod(self.shape), stacklevel=4)

    def spectra(self, indices: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n good_band"]:
        """Some pixels as measured, float64."""
        rows, *rest = np.unravel_index(indices, self.shape)
        picked = [np.asarray(self.values[int(row)]) for row in rows]
        if rest:
            picked = [row[column] for row, column in zip(picked, rest[0], strict=True)]
        return np.stack(picked).astype(np.float64)[:, self.good]

    def moments(self) -> Moments:
        """Mean and second moments of the valid pixels; a ValueError where no pixel is valid."""
        total, size = 0, len(self.good)
        mean, second = np.zeros(size), np.zeros((size, size))
        for index, block in self.blocks():
            total += len(index)
            mean += block.sum(axis=0)
            second += block.T @ block
        if not total:
            raise ValueError(f"none of the {math.prod(self.shape)} pixels is valid (NaN, no-data, zero or masked)")
        return Moments(total, mean / total, second / total)

    def on_all_bands(self, rows: Float[np.ndarray, "*n good_band"]) -> Float[Array, "*n band"]:
        """Spectra back on every band of the input, NaN in the bad ones, in the dtype of the data."""
        full = np.full((*rows.shape[:-1], self.bands), np.nan)
        full[..., self.good] = rows
        return self.like_data(full)

    def like_data(self, values: Any) -> Array:
        """A JAX array in the dtype of the data."""
        with np.errstate(over="ignore"):  # squares of the unit may exceed the type: infinite
            return jnp.asarray(np.asarray(values).astype(self.dtype))
