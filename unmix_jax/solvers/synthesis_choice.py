"""Noise and prior of `prepare_synthesis` by what they predict of bands that were not fitted.

The likelihood of a pixel is another judge, but it believes in independent noise. Where spectra differ from every
rendered one in some broad way, it takes a flexible library with little noise over a true one, and abundances get
worse. Bands that were left out know better: what endmembers were bent to fit elsewhere does not come true there. They
are left out in blocks wider than a feature, since neighbours within one tell each other.
"""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

from unmix_jax.linalg import matmul
from unmix_jax.physics.variation import Variation
from unmix_jax.solvers.synthesis_basis import PreparedSynthesis, prepare_synthesis
from unmix_jax.solvers.tables import polynomial_baseline
from unmix_jax.types import Solution

__all__ = ["HeldOut", "held_out_rms", "leave_bands_out"]

BLOCKS = 4  # of bands that each fold leaves out, unless their width is given
ROUNDED = 4  # endmembers rendered per pixel: a multiple of this, so that few sizes are compiled


class HeldOut(eqx.Module):
    """Endmembers prepared without some of the bands; `leave_bands_out` makes them.

    Attributes:
        problem: prepared for the bands that are kept.
        left_out: bands to be predicted.
        columns: of the baseline in all bands; None: none.
    """

    problem: PreparedSynthesis
    left_out: Bool[Any, " band"]
    columns: Float[Array, "term band"] | None


def leave_bands_out(
    generator: Variation,
    *,
    folds: int = 5,
    block: int | None = None,
    good_bands: Bool[Any, " band"] | None = None,
    baseline: int | Float[Any, "term band"] | None = None,
    rank: int = 100,
    samples: int = 256,
    **options: Any,
) -> tuple[HeldOut, ...]:
    """Prepare endmembers that vary several times, each time without other bands; each good band is left out once.

    Args:
        generator: the endmembers and how they vary.
        folds: how many times.
        block: neighbouring bands that are left out together: more than a feature is wide. The default leaves four
            blocks out of each fold.
        good_bands: bands that count at all.
        baseline: as for `prepare_synthesis`.
        rank: as for `prepare_synthesis`; a choice needs less than a result.
        samples: likewise.
        options: noise, prior and whatever else `prepare_synthesis` takes.

    Returns:
        What `held_out_rms` takes, for any solver and any pixels.

    Raises:
        ValueError: fewer than two folds, fewer blocks than folds, a fold without good bands to fit or to predict, and
            what `prepare_synthesis` refuses.

    Reference:
        Stone 1974, doi:10.1111/j.2517-6161.1974.tb00994.x, for choosing by prediction; Roberts et al. 2017,
        doi:10.1111/ecog.02881, for blocks where neighbours are alike.
    """
    bands = jax.eval_shape(lambda g: g(jnp.zeros_like(g.width)), generator).shape[1]
    block = max(1, -(-bands // (BLOCKS * max(folds, 1)))) if block is None else block
    if folds < 2:
        raise ValueError(f"bands are left out in two folds or more, got {folds}")
    if block < 1 or -(-bands // block) < folds:
        raise ValueError(f"{bands} bands in blocks of {block} do not make {folds} folds")
    good = np.ones(bands, bool) if good_bands is None else np.asarray(good_bands, bool)
    if good.shape != (bands,):
        raise ValueError(f"good_bands has shape {good.shape}, the endmembers {bands} bands")
    number = (np.arange(bands) // block) % folds
    for fold in range(folds):
        if not (good & (number == fold)).any() or not (good & (number != fold)).any():
            raise ValueError(f"fold {fold + 1} of {folds} has no good band to predict, or none to fit; use fewer")
    columns = polynomial_baseline(np.arange(float(bands)), baseline) if isinstance(baseline, int) else baseline

    def without(fold: int) -> HeldOut:
        problem = prepare_synthesis(
            generator, good_bands=good & (number != fold), baseline=columns, rank=rank, samples=samples, **options
        )
        own = None if columns is None else jnp.asarray(columns, problem.basis.dtype)
        return HeldOut(problem, good & (number == fold), own)

    return tuple(without(fold) for fold in range(folds))


def held_out_rms(
    solver: Callable[..., Solution],
    held_out: Sequence[HeldOut],
    pixels: Shaped[Any, "pixel band"],
    *,
    tile: int = 64,
) -> Float[np.ndarray, " pixel"]:
    """How far each pixel is from what was predicted of the bands left out.

    √(mean_b (y − xE(u) − cP)²), with abundances x, displacements u and baseline c found without band b. Fixed
    endmembers are the case of a prior of zero. To choose among settings, take the least mean of the squares over some
    pixels.

    Args:
        solver: of one pixel that tells displacements: ``eqx.Partial(marginal, displacement=True)``, or `map_synthesis`
            likewise. One object for several calls is compiled once.
        held_out: from `leave_bands_out`.
        pixels: spectra, in the unit of the endmembers; whatever bands hold that do not count is not looked at.
        tile: pixels at a time; displacements are much to keep.

    Returns:
        In the unit of the pixels; NaN for a pixel that holds NaN or infinity in a band that counts.

    Raises:
        ValueError: nothing from `leave_bands_out`, pixels of another shape, a tile below one, or a solver that tells
            no displacements.
    """
    if not held_out:
        raise ValueError("held_out is empty; leave_bands_out makes it")
    pixels = np.asarray(pixels)
    bands = held_out[0].left_out.size
    if pixels.ndim != 2 or pixels.shape[1] != bands or not len(pixels):
        raise ValueError(f"pixels have shape {pixels.shape}, wanted [pixel, {bands}], one pixel at least")
    if tile < 1:
        raise ValueError(f"tile must be a positive number of pixels, got {tile}")
    good = np.any([np.asarray(one.left_out) for one in held_out], axis=0)
    pixels = np.where(good, pixels, 0.0).astype(held_out[0].problem.basis.dtype)
    tile = min(tile, len(pixels))
    padded = pixels[np.minimum(np.arange(-(-len(pixels) // tile) * tile), len(pixels) - 1)]
    squared = np.zeros(len(padded))
    for one in held_out:
        seen = np.where(one.left_out, np.float32(0), padded)
        for at in range(0, len(padded), tile):
            rows = slice(at, at + tile)
            error = padded[rows] - _predicted(solver, one, seen[rows])
            squared[rows] += np.sum(np.where(one.left_out, error.astype(np.float64), 0.0) ** 2, 1)
    finite = np.isfinite(pixels).all(1)
    return np.where(finite, np.sqrt(squared[: len(pixels)] / good.sum()), np.nan)


def _predicted(solver: Callable[..., Solution], one: HeldOut, pixels: np.ndarray) -> np.ndarray:
    """All bands of the pixels as the solver has them from the bands that are kept."""
    found = _solved(solver, one.problem, jnp.asarray(pixels))
    if not isinstance(found.fitted, dict) or "displacement" not in found.fitted:
        raise ValueError("the solver tells no displacements; call it with displacement=True")
    abundances = np.nan_to_num(np.asarray(found.abundances))
    most = int((abundances > 0).sum(1).max(initial=1))
    most = min(-(-most // ROUNDED) * ROUNDED, abundances.shape[1])
    chosen = np.argsort(-abundances, axis=1)[:, :most]
    own = np.take_along_axis(np.asarray(found.fitted["displacement"]), chosen[..., None], 1)
    shares = np.take_along_axis(abundances, chosen, 1)
    return np.asarray(_rendered(one, *map(jnp.asarray, (pixels, chosen, shares, own))))


@eqx.filter_jit
def _solved(solver: Callable[..., Solution], problem: PreparedSynthesis, pixels: Array) -> Solution:
    found = jax.vmap(lambda pixel: solver(pixel, problem))(pixels)
    return eqx.tree_at(lambda s: s.covariance, found, None, is_leaf=lambda leaf: leaf is None)


@eqx.filter_jit
def _rendered(one: HeldOut, pixels: Array, chosen: Array, abundances: Array, displacement: Array) -> Array:
    """Mixtures of rendered endmembers, and the baseline that they leave in the bands that are kept."""

    def mixed(pixel: tuple[Array, Array, Array]) -> Array:
        members, shares, u = pixel
        return matmul(shares, one.problem.generator.select(members)(u))

    mixtures = jax.lax.map(mixed, (chosen, abundances, displacement))
    to_coefficients = one.problem.library.baseline_map
    if one.columns is None or to_coefficients is None:
        return mixtures
    return mixtures + matmul(matmul(pixels - mixtures, to_coefficients), one.columns)
