"""Colour composites: a scene as a picture."""

from typing import Any

import numpy as np
from jaxtyping import Float

from unmix_jax.scenes.nodata import is_nodata
from unmix_jax.scenes.scene import Scene

__all__ = ["composite"]

VISIBLE = (640.0, 550.0, 460.0)


def composite(
    scene: Scene, *, percentile: float = 2.0, limit: int = 500
) -> tuple[Float[np.ndarray, "row column 4"], str]:
    """The scene in red, green, blue and opacity; principal components where it does not see all three.

    Args:
        scene: an image; of a memory map, only what is shown is read.
        percentile: share of the pixels (%) that saturates at each end of each colour.
        limit: longest side of the picture; larger scenes are thinned to every n-th pixel.

    Returns:
        The picture, values from 0 to 1, masked pixels transparent; and what the colours are, in words.

    Raises:
        ValueError: the scene is a list of spectra.
    """
    if len(scene.shape) != 2:
        raise ValueError(f"a picture needs a scene [row, column, band], got {tuple(scene.cube.shape)}")
    step = max(1, -(-max(scene.shape) // limit))
    bands = _visible(scene)
    if bands is None or scene.axis is None:
        spectra = np.asarray(scene.cube[::step, ::step], dtype=np.float32)
        valid = _valid(scene, spectra, step)
        picture = _stretch(_components(spectra, valid, scene.good_bands), valid, percentile)
        return picture, "first three principal components"
    image = np.asarray(scene.cube[::step, ::step, np.asarray(bands)], dtype=np.float64)
    at = ", ".join(f"{c:.0f}" for c in np.asarray(scene.axis.to("nm").centers)[bands])
    return _stretch(image, _valid(scene, image, step), percentile), f"colours at {at} nm"


def _visible(scene: Scene) -> list[int] | None:
    """Good bands nearest to red, green and blue, where the scene sees all three."""
    if scene.axis is None:
        return None
    centers = np.asarray(scene.axis.to("nm").centers, dtype=np.float64)
    good = np.ones(centers.size, bool) if scene.good_bands is None else np.asarray(scene.good_bands)
    distance = np.where(good, np.abs(centers - np.asarray(VISIBLE)[:, None]), np.inf)
    nearest = distance.argmin(axis=1)
    if distance.min(axis=1).max() > 25 or len(set(nearest.tolist())) < 3:
        return None
    return [int(b) for b in nearest]


def _valid(scene: Scene, values: np.ndarray, step: int) -> np.ndarray:
    """True where an image pixel is neither masked nor missing."""
    valid = np.isfinite(values).all(axis=-1) & ~is_nodata(values, scene.nodata).any(axis=-1)
    return valid if scene.mask is None else valid & np.asarray(scene.mask)[::step, ::step]


def _components(spectra: np.ndarray, valid: np.ndarray, good_bands: Any) -> np.ndarray:
    """First three principal components of an image; the largest loading is positive, fewer are repeated."""
    if good_bands is not None:
        spectra = spectra[..., np.asarray(good_bands)]
    pixels = spectra[valid]
    if pixels.shape[0] < 2:
        return np.zeros((*spectra.shape[:2], 3))
    centred = pixels - pixels.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    vectors = vectors[:, ::-1][:, :3]
    vectors = vectors * np.sign(np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0))
    image = (np.where(valid[..., None], spectra, pixels.mean(axis=0)) - pixels.mean(axis=0)) @ vectors
    return np.concatenate([image] * 3, axis=-1)[..., [0, 1, 2]] if image.shape[-1] >= 3 else image[..., [0, -1, -1]]


def _stretch(image: np.ndarray, valid: np.ndarray, percentile: float) -> np.ndarray:
    """Colours from 0 to 1 with transparent invalid pixels, [row, column, 4]."""
    if not valid.any():
        return np.zeros((*valid.shape, 4))
    low, high = np.percentile(image[valid], (percentile, 100 - percentile), axis=0)
    scaled = (image - low) / np.where(high > low, high - low, 1)
    colour = np.clip(np.where(valid[..., None], scaled, 0), 0, 1)
    return np.concatenate([colour, valid[..., None].astype(np.float64)], axis=-1)
