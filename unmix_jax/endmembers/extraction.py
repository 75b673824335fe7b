"""Endmembers from the pixels of a scene: VCA and N-FINDR.

Both look for the corners of the simplex that the pixels fill. The scene is read once, block by block, for
its second moments (float64) and once more for its few coordinates; the search runs on those. Of a large
scene they are kept in a temporary file; N-FINDR has them once more in the memory of the device, four bytes
for each pixel and endmember.

Pixels may be an array [pixel, band] or [row, column, band], or a `Scene`; invalid pixels and bad bands
are left out as in `unmix_jax.endmembers.subspace`. Endmembers come back on all bands, NaN in the bad ones
of a scene.
"""

import math
import os
import tempfile
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from unmix_jax.endmembers.moments import Moments, ValidPixels
from unmix_jax.endmembers.subspace import eigenvectors
from unmix_jax.linalg import matmul, one_by_one
from unmix_jax.scenes.nodata import FILLS, shown

__all__ = ["Extraction", "nfindr", "vca"]

IN_MEMORY = 128 * 2**20  # bytes of numbers of every pixel
AT_ONCE = 2**18  # pixels
MAX_SWEEPS = 100  # a handful suffice; the volume grows strictly, so that this is only a fuse


class Extraction(eqx.Module):
    """Endmembers and the pixels they came from.

    Attributes:
        endmembers: one spectrum per row, in the unit of the pixels.
        indices: the pixel of each endmember, counted over the flattened pixel axes of the input.
        coordinates: (row, column) of each endmember, where the input was a cube.
        snr: signal-to-noise ratio that chose the projection of VCA, dB.
        volume: volume of the simplex among the first count - 1 principal components (N-FINDR).
    """

    endmembers: Float[Array, "endmember band"]
    indices: Int[Array, " endmember"]
    coordinates: Int[Array, "endmember 2"] | None = None
    snr: Float[Array, ""] | None = None
    volume: Float[Array, ""] | None = None


def _prepare(pixels: Any, count: int, *, most: int) -> tuple[ValidPixels, Moments]:
    """The valid pixels and their moments, once ``count`` is known to be possible."""
    data = ValidPixels(pixels)
    if count < 2:
        raise ValueError(f"a simplex needs at least 2 endmembers, got count={count}")
    bands = len(data.good)
    if count > bands + most:
        raise ValueError(f"at most {bands + most} endmembers can be found in {bands} bands, got count={count}")
    moments = data.moments()
    if count > moments.pixels:
        raise ValueError(f"{count} endmembers were asked of {moments.pixels} valid pixels")
    return data, moments


def _require_rank(
    data: ValidPixels, moments: Moments, powers: Float[np.ndarray, " band"], needed: int, count: int
) -> None:
    """Refuse a simplex of more corners than the pixels span (to the rounding of their dtype)."""
    floor = max(float(np.finfo(data.dtype).eps) ** 2, 1e-15 * len(powers))
    rank = int(np.sum(powers > floor * np.trace(moments.second)))
    if rank < needed:
        raise ValueError(
            f"the pixels span only {rank} dimension(s) of the {needed} that {count} endmembers need; "
            f"ask for fewer endmembers"
        )


def _project(
    data: ValidPixels, basis: Float[np.ndarray, "k good_band"], origin: Float[np.ndarray, " good_band"]
) -> tuple[Float[np.ndarray, "pixel k"], Int[np.ndarray, " pixel"]]:
    """Coordinates of the valid pixels in a basis about an origin, and where those pixels are."""
    total = math.prod(data.shape)
    coordinates, where = _room((total, len(basis)), np.float64), _room((total,), np.int64)
    count = 0
    for index, block in data.blocks():
        here = slice(count, count := count + len(index))
        coordinates[here], where[here] = (block - origin) @ basis.T, index
    return coordinates[:count], where[:count]


def _room(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array for numbers of every pixel of a scene: of a large one, in a file that is gone when it is let go."""
    if math.prod(shape) * np.dtype(dtype).itemsize <= IN_MEMORY:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile() as file:
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(file.fileno(), 0, math.prod(shape) * np.dtype(dtype).itemsize)
            except OSError as error:
                raise OSError(
                    error.errno, f"no room for temporary files in {tempfile.gettempdir()} (TMPDIR)"
                ) from error
        return np.memmap(file, dtype, "w+", shape=shape)


def _parts(count: int) -> list[slice]:
    """Some pixels at a time."""
    return [slice(start, min(start + AT_ONCE, count)) for start in range(0, count, AT_ONCE)]


def _extraction(
    data: ValidPixels,
    where: Int[np.ndarray, " endmember"],
    denoised: Float[np.ndarray, "endmember good_band"] | None,
    **found: Any,
) -> Extraction:
    """The answer, with raw spectra read from the scene unless denoised ones are given."""
    measured = data.spectra(where)
    _refuse_fill(data, where, measured)
    if denoised is None:
        denoised = measured
    coordinates = None
    if len(data.shape) == 2:
        coordinates = jnp.asarray(np.stack(np.unravel_index(where, data.shape), axis=1).astype(np.int32))
    found = {name: data.like_data(value) for name, value in found.items()}
    return Extraction(data.on_all_bands(denoised), jnp.asarray(where.astype(np.int32)), coordinates, **found)


def _refuse_fill(
    data: ValidPixels, where: Int[np.ndarray, " endmember"], measured: Float[np.ndarray, "endmember good_band"]
) -> None:
    """Refuse pixels that hold fill values: one value in all bands, far from all others, or a usual fill value.

    Raises:
        ValueError: naming the pixel and the value.
    """
    for number, spectrum in enumerate(measured):
        others = np.delete(measured, number, axis=0)
        low, high = float(others.min()), float(others.max())
        value = next((fill for fill in FILLS if (np.abs(spectrum - fill) <= 1e-6 * abs(fill)).any()), None)
        apart = max(low - spectrum[0], spectrum[0] - high)
        if value is None and len(spectrum) > 2 and (spectrum == spectrum[0]).all() and apart > high - low:
            value = float(spectrum[0])
        if value is not None:
            place = ", ".join(str(int(i)) for i in np.unravel_index(where[number], data.shape))
            fill = shown(value)
            raise ValueError(
                f"the pixel at ({place}) would become an endmember, but its value {fill} looks like a fill value: open "
                f"the scene with --nodata {fill} (nodata={fill}), or mask the pixel"
            )


def vca(
    key: Key[Array, ""],
    pixels: Any,
    count: int,
    *,
    snr: float | None = None,
    denoise: bool = True,
) -> Extraction:
    r"""Vertex component analysis: the extreme pixels along directions orthogonal to those found before.

    With y the pixels in the signal subspace, A the corners so far and w ~ N(0, I), each step takes
    argmax_n |f·y_n| for f = (I - A A⁺) w / ‖(I - A A⁺) w‖. Above 15 + 10 log₁₀(count) dB the pixels are
    projected onto `count` dimensions and divided by their component along the mean (which takes out
    illumination); below, onto count - 1 principal components with a constant appended.

    Args:
        key: random key of the directions.
        pixels: spectra, any unit; an array or a `Scene`.
        count: number of endmembers, at least 2.
        snr: signal-to-noise ratio in dB; None: estimated as in the paper.
        denoise: return the pixels projected onto the signal subspace, as the authors do, not as measured.

    Returns:
        Endmembers, in the order found, with their pixels and the signal-to-noise ratio used.

    Raises:
        ValueError: a count that the bands, pixels or rank of the data do not allow, or no valid pixel.

    Reference:
        Nascimento & Bioucas-Dias 2005, 10.1109/TGRS.2005.844293.
    """
    data, moments = _prepare(pixels, count, most=0)
    powers, components = eigenvectors(moments.covariance)
    if snr is None:
        snr = _estimate_snr(moments, powers, count)
    if snr < 15 + 10 * math.log10(count):
        _require_rank(data, moments, powers, count - 1, count)
        basis, origin = components[: count - 1], moments.mean
        points, index = _project(data, basis, origin)
        radius = math.sqrt(max(np.max(np.sum(points[some] ** 2, axis=1)) for some in _parts(len(points))))
        directions = _room((len(points), count), np.float64)
        directions[:, :-1], directions[:, -1] = points, radius
    else:
        powers, components = eigenvectors(moments.second)
        _require_rank(data, moments, powers, count, count)
        basis, origin = components[:count], np.zeros_like(moments.mean)
        points, index = _project(data, basis, origin)
        directions = _room(points.shape, np.float64)
        for some in _parts(len(points)):
            height = (points[some] @ (basis @ moments.mean))[:, None]
            # A pixel orthogonal to the mean has no projective image; it cannot be a corner.
            directions[some] = np.where(height != 0, points[some] / np.where(height != 0, height, 1.0), 0.0)
    # The draw is float32 everywhere, so that the answer to a key does not depend on jax_enable_x64.
    draws = np.asarray(jax.random.normal(key, (count, count), dtype=jnp.float32), dtype=np.float64)
    chosen = _extremes(directions, draws)
    denoised = origin + points[chosen] @ basis if denoise else None
    return _extraction(data, index[chosen], denoised, snr=snr)


def _estimate_snr(moments: Moments, powers: Float[np.ndarray, " band"], count: int) -> float:
    """10 log₁₀ of (P_x - p/L P_y) / (P_y - P_x), P_x the power inside mean + p principal components.

    Of N pixels the mean and the components take 1 + p degrees of freedom: what they leave outside is enlarged by
    N / (N - 1 - p). The paper does not.
    """
    free = moments.pixels - 1 - count
    outside = float(np.sum(powers[count:])) * moments.pixels / max(free, 1)
    power = float(np.trace(moments.second))
    signal = power - outside - count / len(powers) * power
    # Rounding leaves about 1e-15 of the power outside noise-free data.
    if outside <= 1e-15 * power:
        return math.inf
    return 10 * math.log10(signal / outside) if signal > 0 else -math.inf


def _extremes(points: Float[np.ndarray, "pixel k"], draws: Float[np.ndarray, "k k"]) -> Int[np.ndarray, " k"]:
    """The pixel farthest along each draw, once that is made orthogonal to the corners so far."""
    count = len(draws)
    corners = np.zeros((count, count))
    corners[-1, 0] = 1.0  # as the authors start: the first direction is orthogonal to the last axis
    chosen = np.zeros(count, dtype=np.int64)
    for step, draw in enumerate(draws):
        direction = draw - corners @ (np.linalg.pinv(corners) @ draw)
        direction /= np.linalg.norm(direction)
        most = -1.0
        for some in _parts(len(points)):
            reach = np.abs(points[some] @ direction)
            best = int(np.argmax(reach))
            if reach[best] > most:
                most, chosen[step] = reach[best], some.start + best
        corners[:, step] = points[chosen[step]]
    return chosen


def nfindr(
    key: Key[Array, ""],
    pixels: Any,
    count: int,
    *,
    restarts: int = 8,
    denoise: bool = False,
) -> Extraction:
    r"""N-FINDR: the pixels whose simplex has the largest volume.

    Maximises |det [1; z]| / (count - 1)! over the pixels z in count - 1 principal components. One corner
    at a time is replaced by the best of all pixels: the volume is linear in each corner, so the test of
    every pixel is one product with the cofactors of the others. Sweeps go on until no single replacement
    helps; the best of several random starts, searched together, is returned.

    Args:
        key: random key of the starts.
        pixels: spectra, any unit; an array or a `Scene`.
        count: number of endmembers, at least 2.
        restarts: number of random starts.
        denoise: return the pixels projected onto mean + principal components, not as measured.

    Returns:
        Endmembers with their pixels and the volume of the simplex.

    Raises:
        ValueError: a count that the bands, pixels or rank of the data do not allow, no valid pixel, or
            restarts < 1.

    Reference:
        Winter 1999, 10.1117/12.366289.
    """
    if restarts < 1:
        raise ValueError(f"restarts must be at least 1, got {restarts}")
    data, moments = _prepare(pixels, count, most=1)
    powers, components = eigenvectors(moments.covariance)
    _require_rank(data, moments, powers, count - 1, count)
    basis = components[: count - 1]
    points, index = _project(data, basis, moments.mean)
    # Ratios of volumes do not change with the scale of an axis: unit variances keep float32 exact enough.
    spread = np.sqrt(powers[: count - 1])
    raised = np.empty((len(points), count), data.dtype)
    raised[:, 0] = 1
    for some in _parts(len(points)):
        raised[some, 1:] = points[some] / spread
    lifted = jnp.asarray(raised)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(restarts))
    starts = jax.vmap(lambda k: jax.random.randint(k, (count,), 0, len(points)))(keys)
    corners = np.asarray(_climb(lifted, starts))
    volumes = np.abs(np.linalg.det(np.insert(points[corners], 0, 1.0, axis=-1))) / math.factorial(count - 1)
    best = int(np.argmax(volumes))
    chosen = corners[best]
    denoised = moments.mean + points[chosen] @ basis if denoise else None
    return _extraction(data, index[chosen], denoised, volume=volumes[best])


@one_by_one
def _orthogonal(columns: Array) -> Array:
    """A square orthogonal matrix that begins with a basis of the columns."""
    return jnp.linalg.qr(columns, mode="complete")[0]


@jax.jit  # the one jit of this module: a while loop around products with all pixels
def _climb(
    points: Float[Array, "pixel endmember"], starts: Int[Array, "restart endmember"]
) -> Int[Array, "restart endmember"]:
    """Replace corners by the best pixel until no replacement enlarges the volume, for all starts at once."""
    count = points.shape[1]
    margin = 1 + 100 * jnp.finfo(points.dtype).eps

    def replace(which: Array, corners: Array) -> Array:
        others = points[corners[(which + 1 + jnp.arange(count - 1)) % count]]
        # Orthogonal to the other corners, even where those are dependent (a start may hold equal pixels).
        cofactors = _orthogonal(others.T)[:, -1]
        heights = jnp.abs(matmul(points, cofactors))
        better = jnp.argmax(heights)
        old = corners[which]
        return corners.at[which].set(jnp.where(heights[better] > margin * heights[old], better, old))

    def sweep(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        corners, _, sweeps = state
        improved = jax.lax.fori_loop(0, count, replace, corners)
        return improved, jnp.any(improved != corners), sweeps + 1

    def search(start: Array) -> Array:
        state = (start, jnp.asarray(True), jnp.asarray(0))
        return jax.lax.while_loop(lambda s: s[1] & (s[2] < MAX_SWEEPS), sweep, state)[0]

    return jax.vmap(search)(starts)
