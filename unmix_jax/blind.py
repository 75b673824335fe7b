"""Endmembers and abundances from the pixels alone: several seeds, a choice without truth, a read-out with its gauge."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key
from scipy.optimize import linear_sum_assignment

from unmix_jax.driver import unmix
from unmix_jax.endmembers.archetypal import archetypal
from unmix_jax.endmembers.extraction import vca
from unmix_jax.endmembers.factorisation import Factorisation, Gathered, gather
from unmix_jax.endmembers.nmf import nmf
from unmix_jax.metrics import align, sad
from unmix_jax.networks.autoencoder import NetworkUnmixer
from unmix_jax.networks.recipes import follow
from unmix_jax.networks.zoo import RECIPES
from unmix_jax.readout import Refinement, as_bright, has_twins, read_out, refine
from unmix_jax.types import Solution

__all__ = ["METHODS", "Blind", "Consensus", "consensus", "unmix_blind"]

Gauge = Literal["own", "fcls", "projective"]
RECOMMENDED = "daeu_sad"  # whose runs the recommended method refines
METHODS = ("recommended", *RECIPES, "archetypal", "nmf")
SEEDS = {"archetypal": 5, "nmf": 5, "cnnaeu": 5}  # 25 for all others
STRIP = 256  # rows of an image that are unmixed at once
MOST = 20_000  # pixels that the refinement looks at
OUTLIER = 10.0  # times as bright as 99.9 % of the pixels


class Consensus(eqx.Module):
    """What the runs of several seeds say of each other.

    Attributes:
        chosen: the run that is nearest to all others that count.
        collapsed: runs that do not count: stopped, with a spectrum of zeros, or with two spectra that are one.
        distances: mean spectral angle between the aligned endmembers of two runs, radians.
        consistency: mean distance between two runs that count, radians; NaN where there is one.
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
    collapsed |= has_twins(np.where(collapsed[:, None, None], np.nan, spectra))
    fine = np.flatnonzero(~collapsed)
    if len(fine) == 0:
        raise ValueError(f"all {len(spectra)} runs have collapsed: fewer endmembers, more pixels, or another method")
    distances = np.full((len(spectra), len(spectra)), np.nan)
    for i in fine:
        angles = np.asarray(sad(spectra[fine][:, :, None], spectra[i][None, None]))
        distances[i, fine] = [one[linear_sum_assignment(one)].mean() for one in angles]
    among = distances[np.ix_(fine, fine)]
    pairs = among[np.triu_indices(len(fine), 1)]
    agreement = float(pairs.mean()) if len(pairs) else float("nan")
    return Consensus(int(fine[among.sum(1).argmin()]), collapsed, distances, agreement)


class Blind(eqx.Module):
    """What blind unmixing found.

    Attributes:
        method: of `METHODS`.
        endmembers: in the unit of the pixels; NaN in bad bands.
        solution: abundances by them, residual and certificate.
        gauge: that of the abundances: "own" are as the method returned them; see `read_out` for the others.
        runs: endmembers of each seed, in the order of those above; NaN in bad bands.
        consensus: what the runs say of each other.
        losses: of each seed and epoch, where a network was trained.
        stopped: the step at which each seed met what is not finite, or −1, where a network was trained.
        refinement: where endmembers were refined.
    """

    method: str = eqx.field(static=True)
    endmembers: Float[np.ndarray, "endmember band"]
    solution: Solution
    gauge: Gauge = eqx.field(static=True)
    runs: Float[np.ndarray, "seed endmember band"]
    consensus: Consensus
    losses: Float[np.ndarray, "seed epoch"] | None = None
    stopped: Int[np.ndarray, " seed"] | None = None
    refinement: Refinement | None = None


def unmix_blind(
    key: Key[Array, ""],
    pixels: Any,
    count: int,
    *,
    method: str = "recommended",
    seeds: int | None = None,
    gauge: Gauge = "projective",
    checkpoint: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Blind:
    """Endmembers and abundances from the pixels alone.

    A method runs once for each seed, and the run is taken that is nearest to all others (`consensus`). "recommended"
    is the autoencoder DAEU trained on the true spectral angle, whose run is then refined (`refine`, on at most 20 000
    pixels drawn at random). Angles do not tell how bright an endmember is: it is made as bright as the pixels that are
    nearly pure (but in the gauge "own").

    Args:
        key: random key.
        pixels: a `Scene`, or spectra [..., band], any unit; masked and invalid pixels are never trained on.
        count: of endmembers.
        method: of `METHODS`: "recommended", a recipe of `networks.zoo`, "archetypal" or "nmf".
        seeds: number of runs; None: 25, or 5 of "archetypal", "nmf" and "cnnaeu".
        gauge: of the abundances: "projective" and "fcls" as in `read_out`, "own" as the method itself returns them,
            which "recommended" cannot; "cnnaeu" then sees zeros in place of invalid neighbours.
        checkpoint: file of a network's training, to go on from after an interruption.
        progress: called as ``progress(done, all)``, epochs of a network, runs of another method.

    Returns:
        A `Blind`.

    Raises:
        ValueError: an unknown method or gauge, fewer than two endmembers, more than the valid pixels, the bands or the
            dimensions of the data allow, no valid pixel, runs that have all collapsed, or a method that looks at
            windows and pixels that are no image, one smaller than a window, or one without a window of valid pixels.

    Reference:
        Palsson, Sveinsson and Ulfarsson 2022, 10.1109/JSTARS.2021.3140154 (the autoencoders).
    """
    if method not in METHODS:
        raise ValueError(f"method is one of {', '.join(METHODS)}, got {method!r}")
    if gauge not in ("own", "fcls", "projective") or (gauge == "own" and method == "recommended"):
        asked = (
            "'fcls' or 'projective' for refined endmembers"
            if method == "recommended"
            else "'own', 'fcls' or 'projective'"
        )
        raise ValueError(f"gauge is {asked}, got {gauge!r}")
    seeds = SEEDS.get(method, 25) if seeds is None else seeds
    if count < 2 or seeds < 1:
        raise ValueError(f"blind unmixing needs at least 2 endmembers and 1 seed, got {count} and {seeds}")
    gathered = gather(pixels, count)
    vca(key, pixels, count)  # refuses more endmembers than the data have dimensions
    _warn_of_outliers(gathered.values)
    keys = jax.random.split(key, seeds)
    if method in ("archetypal", "nmf"):
        return _factorised(keys, pixels, count, method, gauge, gathered, progress)
    recipe = RECIPES[RECOMMENDED if method == "recommended" else method]
    trained = follow(
        recipe, gathered.values, count,
        keys=keys, valid=gathered.mask, checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
    sets = np.asarray(trained.endmembers)
    losses, stopped = np.asarray(trained.losses), np.asarray(trained.stopped)
    agreed = consensus(sets, stopped >= 0)
    chosen, refinement = sets[agreed.chosen], None
    few = gathered.values
    if len(few) > MOST:
        few = few[np.asarray(jax.random.choice(jax.random.fold_in(key, 1), len(few), (MOST,), replace=False))]
    if method == "recommended":
        refinement = refine(few, chosen)
        chosen = refinement.endmembers
    elif gauge != "own":
        chosen = as_bright(few, chosen)
    back = gathered.data.on_all_bands
    endmembers = np.asarray(back(chosen))
    if gauge == "own" and recipe.neighbours:
        solution = _on_image(trained.unmixer(agreed.chosen), gathered, recipe.neighbours)
    elif gauge == "own":
        good = jnp.asarray(gathered.data.good)
        unmixer = eqx.tree_at(lambda u: u.good, trained.unmixer(agreed.chosen), good, is_leaf=_absent)
        solution = unmix(unmixer, pixels, mask=gathered.mask)
    else:
        solution = read_out(pixels, endmembers, gauge, mask=gathered.mask)
    runs = np.asarray(back(np.stack([_aligned(run, chosen) for run in sets])))
    return Blind(method, endmembers, solution, gauge, runs, agreed, losses, stopped, refinement)


def _on_image(unmixer: NetworkUnmixer, gathered: Gathered, halo: int) -> Solution:
    """A network that needs the neighbours of a pixel, on strips of the image, zero where pixels are invalid."""
    lead = gathered.data.shape
    image = np.zeros((*lead, gathered.values.shape[1]), gathered.values.dtype)
    seen = gathered.mask
    image[seen] = gathered.values
    network = unmixer.network
    shares: list[np.ndarray] = []
    residual: list[np.ndarray] = []

    @jax.jit
    def strip(pixels: Any, there: Any) -> tuple[Any, Any]:
        coded, _ = network.encoder(pixels[None] / unmixer.scale, unmixer.state[0], None)
        abundances = jnp.where(there[None, ..., None], network.simplex(coded), 0)
        rendered, _ = network.decoder(abundances, unmixer.state[1], None)
        return abundances[0], jnp.sqrt(jnp.mean((pixels - unmixer.scale * rendered[0]) ** 2, -1))

    for top in range(0, lead[0], STRIP):
        first, last = max(0, top - halo), top + STRIP + halo
        found = (np.asarray(part) for part in strip(image[first:last], seen[first:last]))
        for kept, part in zip((shares, residual), found, strict=True):
            kept.append(part[top - first : top - first + STRIP])
    abundances = np.where(seen[..., None], np.concatenate(shares), np.nan)
    left = np.where(seen, np.concatenate(residual), np.nan)
    fine = seen & np.isfinite(left) & np.isfinite(abundances).all(-1)
    return Solution(abundances, left, np.full_like(left, np.nan), np.zeros(lead, np.int32), fine)


def _factorised(
    keys: Any, pixels: Any, count: int, method: str, gauge: Gauge, gathered: Gathered, progress: Any
) -> Blind:
    """The methods that find endmembers and abundances at once, one run after another."""
    found = []
    for key in keys:
        found.append((archetypal if method == "archetypal" else nmf)(key, pixels, count))
        if progress is not None:
            progress(len(found), len(keys))
    good = gathered.data.good
    sets = np.stack([np.asarray(one.endmembers)[:, good] for one in found])
    agreed = consensus(sets)
    chosen = found[agreed.chosen]
    endmembers = np.asarray(chosen.endmembers)
    solution = _own(chosen, gathered) if gauge == "own" else read_out(pixels, endmembers, gauge, mask=gathered.mask)
    runs = np.asarray(gathered.data.on_all_bands(np.stack([_aligned(run, sets[agreed.chosen]) for run in sets])))
    return Blind(method, endmembers, solution, gauge, runs, agreed)


def _own(found: Factorisation, gathered: Gathered) -> Solution:
    """A factorisation as it is; there is no certificate."""
    abundances = np.asarray(found.abundances)
    lead, flat = abundances.shape[:-1], abundances.reshape(-1, abundances.shape[-1])
    fitted = flat[gathered.where] @ np.asarray(found.endmembers)[:, gathered.data.good]
    residual = np.full(len(flat), np.nan, abundances.dtype)
    residual[gathered.where] = np.sqrt(np.mean((gathered.values - fitted) ** 2, 1))
    residual = residual.reshape(lead)
    steps = np.full(lead, int(found.steps), np.int32)
    fine = np.isfinite(residual) & bool(found.converged)
    return Solution(abundances, residual, np.full_like(residual, np.nan), steps, fine)


def _warn_of_outliers(values: np.ndarray) -> None:
    """One pixel that glares is what all others are divided by."""
    bright = values.max(1)
    usual = float(np.quantile(bright, 0.999, method="lower"))
    if bright.max() > OUTLIER * usual > 0:
        warnings.warn(
            f"the brightest pixel has {bright.max():.4g}, of the others 99.9 % have at most {usual:.4g}: mask it, "
            f"or networks see little of the rest",
            stacklevel=3,
        )


def _aligned(run: np.ndarray, to: np.ndarray) -> np.ndarray:
    """A run in the order of the endmembers that were chosen; one that is not finite stays as it is."""
    return run[align(run, to)] if np.isfinite(run).all() else run


def _absent(leaf: Any) -> bool:
    """Whether a leaf is None."""
    return leaf is None
