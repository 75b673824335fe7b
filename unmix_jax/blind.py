"""Endmembers and abundances from the pixels alone: several seeds, a choice without truth, a read-out with its gauge.

Losses that do not see the length of a spectrum, such as the spectral angle, leave abundances undetermined: endmember i
may be scaled by any c_i and its abundances by 1/c_i. What fixes the scales is the gauge, a part of every result.
"""

from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from unmix_jax.driver import unmix
from unmix_jax.metrics import align, sad
from unmix_jax.solvers.least_squares import fcls, nnls
from unmix_jax.types import Solution

__all__ = ["Consensus", "consensus", "read_out", "refine"]

Gauge = Literal["network", "fcls", "projective"]
ALIKE = 0.02  # radians: two endmembers of one run that are nearer are one
SWEEPS = 20  # of the refinement
FEWEST = 20  # pixels that an endmember is the median of


class Consensus(eqx.Module):
    """What the runs of several seeds say of each other.

    Attributes:
        chosen: the run that is nearest to all others that count.
        collapsed: runs that do not count: stopped, with a spectrum of zeros, or with two spectra that are one.
        distances: mean spectral angle between the aligned endmembers of two runs, radians.
        consistency: mean distance between two runs that count, radians.
    """

    chosen: int = eqx.field(static=True)
    collapsed: Bool[np.ndarray, " seed"]
    distances: Float[np.ndarray, "seed seed"]
    consistency: float = eqx.field(static=True)


def consensus(sets: Float[Any, "seed endmember band"], stopped: Bool[Any, " seed"] | None = None) -> Consensus:
    """The medoid of several sets of endmembers under the aligned spectral angle; needs no reference.

    argmin_s Σ_t d(s, t) over the runs that have not collapsed.

    Args:
        sets: endmembers of each run, any unit, in any order.
        stopped: runs that met a loss that is not finite.

    Returns:
        A `Consensus`.

    Raises:
        ValueError: no set, or all runs have collapsed.
    """
    spectra = np.asarray(sets, np.float64)
    if spectra.ndim != 3 or 0 in spectra.shape:
        raise ValueError(f"sets of endmembers are [seed, endmember, band] and not empty, got {spectra.shape}")
    collapsed: np.ndarray = ~np.all(np.isfinite(spectra), (1, 2)) | np.any(np.all(spectra == 0, 2), 1)
    if stopped is not None:
        collapsed |= np.asarray(stopped, bool)
    count = spectra.shape[1]
    if count > 1:
        own = np.asarray(sad(spectra[:, :, None], spectra[:, None]))[:, *np.triu_indices(count, 1)]
        collapsed |= ~(own.min(1) > ALIKE)
    fine = np.flatnonzero(~collapsed)
    if len(fine) == 0:
        raise ValueError(f"all {len(spectra)} runs have collapsed: fewer endmembers, more pixels, or another method")
    distances = np.full((len(spectra), len(spectra)), np.nan)
    for at, i in enumerate(fine):
        distances[i, i] = 0.0
        for j in fine[:at]:
            order = align(spectra[j], spectra[i])
            distances[i, j] = distances[j, i] = float(np.mean(sad(spectra[j][order], spectra[i])))
    among = distances[np.ix_(fine, fine)]
    pairs = among[np.triu_indices(len(fine), 1)]
    return Consensus(int(fine[among.sum(1).argmin()]), collapsed, distances, float(pairs.mean()) if len(pairs) else 0.0)


def read_out(
    pixels: Any, endmembers: Float[Any, "endmember band"], gauge: Gauge = "projective", **options: Any
) -> Solution:
    """Abundances by given endmembers in a declared gauge.

    - "fcls": the endmembers' own scales; abundances sum to one, and a pixel in the shade is darker material;
    - "projective": endmembers are divided by their greatest value, argmin_a ‖y − aE‖² with a ≥ 0, and a by its sum:
      blind to the brightness of the pixel.

    Args:
        pixels: a `Scene`, or spectra [..., band].
        endmembers: in the unit of the pixels.
        gauge: which.
        options: of `unmix`.

    Returns:
        A `Solution`.

    Raises:
        ValueError: an unknown gauge.
    """
    if gauge == "fcls":
        return unmix(eqx.Partial(fcls, endmembers=jnp.asarray(endmembers)), pixels, **options)
    if gauge != "projective":
        raise ValueError(f"gauge is 'fcls' or 'projective' for given endmembers, got {gauge!r}")
    spectra = jnp.asarray(endmembers)
    spectra = spectra / jnp.nanmax(spectra, 1, keepdims=True)
    found = unmix(eqx.Partial(nnls, endmembers=spectra), pixels, **options)
    total = found.abundances.sum(-1, keepdims=True)
    shares = np.divide(found.abundances, total, out=np.full_like(found.abundances, np.nan), where=total > 0)
    return eqx.tree_at(lambda s: s.abundances, found, shares)


def refine(
    pixels: Float[Any, "pixel band"],
    endmembers: Float[Any, "endmember band"],
    threshold: float,
    *,
    sweeps: int = SWEEPS,
) -> Float[np.ndarray, "endmember band"]:
    """Near-pure refinement: endmembers become medians of the pixels that are nearly theirs alone.

    Repeated: s = projective abundances; E_i = median of the unit spectra with s_i above the threshold, or of the twenty
    with the greatest s_i where fewer are.

    Args:
        pixels: spectra, any unit, finite and not zero.
        endmembers: to begin at.
        threshold: share from which a pixel counts as pure.
        sweeps: repetitions; it ends before where nothing changes.

    Returns:
        Endmembers as unit spectra.

    Raises:
        ValueError: a threshold that is not a share.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold is a share between 0 and 1, got {threshold}")
    spectra = np.asarray(pixels, np.float32)
    unit = spectra / np.linalg.norm(spectra, axis=1, keepdims=True)
    found = np.asarray(endmembers, np.float32)
    before: Any = None
    for _ in range(sweeps):
        shares = np.nan_to_num(read_out(unit, found, "projective").abundances)
        pure = shares > threshold
        few = np.argpartition(-shares, min(FEWEST, len(shares)) - 1, 0)[:FEWEST]
        for i in np.flatnonzero(pure.sum(0) < FEWEST):
            pure[few[:, i], i] = True
        if before is not None and (pure == before).all():
            break
        before = pure
        found = np.stack([np.median(unit[mine], 0) for mine in pure.T])
    return found / np.linalg.norm(found, axis=1, keepdims=True)
