"""Compositional models: every pixel mixes its own draw of each material's spectrum. ``ncm`` and ``bcm``.

The mean of a pixel is then ``aM`` and its covariance ``N + Σ_i a_i² C_i``: what is likely of a spectrum depends on the
abundances twice. The likelihoods are maximised over the simplex by second-order descent, many pixels at once; the
inverse information is the covariance of the estimate. There are no derivatives: an error says so.
"""

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from unmix_jax.linalg import matmul, safe_sqrt, squared_norm
from unmix_jax.solvers.active_set import tolerance
from unmix_jax.solvers.batching import batched, check_pixel, without_derivatives
from unmix_jax.solvers.compositional_prepare import PreparedCompositional, prepare_bcm, prepare_ncm
from unmix_jax.solvers.compositional_views import Moments, Reduced
from unmix_jax.solvers.least_squares import fcls
from unmix_jax.solvers.simplex_box import Region, covariance, descend, first_order_gap, project, quadratic_step
from unmix_jax.solvers.worklist import State, work_off
from unmix_jax.types import Solution

__all__ = ["PreparedCompositional", "bcm", "bcm_neighbours", "ncm", "prepare_bcm", "prepare_ncm", "spectral_neighbours"]

TURNS = 100  # of weighted least squares
SLOW = 0.9  # of the gap is left after a turn: then it takes half the step that it took
SHORTEST = 1 / 16  # of a step
STALLED = 4  # turns that bring the estimate no nearer to rest: rounding does not let it
LAST = 12  # turns after a descent, until its estimate is at rest
INSIDE = 1e-4  # how near to 0 and 1 a Beta is asked for its density


def ncm(
    pixel: Float[Any, " band"],
    endmembers: PreparedCompositional,
    *,
    estimate: Literal["weighted", "likelihood"] = "weighted",
) -> Solution:
    """Abundances under the normal compositional model, where every pixel draws its own endmembers.

    With r = y − aM and V(a) = N + Σ_i a_i² C_i, over a ≥ 0, Σa = 1, from fully constrained least squares on the means:

    - weighted: a = argmin_x ½ (y − xM) V(a)⁻¹ (y − xM)ᵀ, the fixed point of weighted least squares. V weighs, and is no
      evidence itself, which holds better where spectra are not quite normal: on real bundles its error is smaller and
      its covariance nearer to the truth. Where all bands and endmembers vary alike it is fully constrained least
      squares.
    - likelihood: argmin_a ½ r V⁻¹ rᵀ + ½ log det V, the published objective. It is not convex; what is found is a
      stationary point.

    Args:
        pixel: spectrum, in the unit of the endmembers.
        endmembers: what `prepare_ncm` made of their distributions.
        estimate: which of them.

    Returns:
        A `Solution`. Its residual is what the mean endmembers leave; its gap what the objective (with V as it is, where
        V weighs) could still lose, to first order over the simplex, over half the squared norm of the pixel about the
        mean of all endmembers, in units of V at the start, and half the number of bands; its covariance the inverse of
        the information on all abundances (M V⁻¹ Mᵀ, or Fisher's) with their sum held, but not the bounds: one that
        ended at zero has an error too. It is infinite where the spectrum does not tell an abundance. For spectra that
        are drawn from these distributions it covers what it says; on real bundles less, since materials are not
        normally distributed and their covariances are fitted to a few spectra (field spectra of five materials, half of
        them held out: one standard deviation covers 0.65 of the abundances of materials that are there, two cover
        0.88). ``converged`` says that the estimate is the stationary point: the gap is within its tolerance, and a full
        step would move no abundance by more than 3e-4 (1e-7 in float64). It says nothing of the model. ``fitted`` holds
        ``log_likelihood``, and ``chi2``, r V⁻¹ rᵀ over the number of bands: far above 1, the pixel is none of these
        mixtures.
        Abundances are constants of differentiation.

    Raises:
        ValueError: distributions or an estimate of another kind, or different numbers of bands.

    Reference:
        Stein 2003, Application of the normal compositional model to the analysis of hyperspectral imagery, IEEE WARSD;
        Eches, Dobigeon, Mailhes and Tourneret 2010, 10.1109/TIP.2010.2042993. Theirs have isotropic covariances and no
        noise of the sensor, and are sampled.
    """
    if not isinstance(endmembers, PreparedCompositional) or not isinstance(endmembers.view, Reduced):
        raise ValueError("ncm takes what prepare_ncm made of normal distributions")
    if estimate not in ("weighted", "likelihood"):
        raise ValueError(f"estimate is 'weighted' or 'likelihood', got {estimate!r}")
    return _solved(_weighted if estimate == "weighted" else _descended, _pixel(pixel, endmembers), endmembers)


def bcm(pixel: Float[Any, " band"], endmembers: PreparedCompositional) -> Solution:
    """Abundances under the beta compositional model, by the likelihood of the Beta that has the mixture's moments.

    argmin_a −Σ_b log Beta(y_b; E_b, V_b) over a ≥ 0, Σa = 1, with E = Σ_i a_i μ_i and V = N + Σ_i a_i² v_i: a sum of
    Betas is none, and is replaced by the one with its mean and variance. Bands count as independent, which those of a
    material are not: the covariance is therefore too small, by as much as bands are alike, and abundances are often
    better with `ncm`.

    Args:
        pixel: spectrum, dimensionless; values beyond 10⁻⁴ from 0 and 1 count as that.
        endmembers: what `prepare_bcm` made of their distributions.

    Returns:
        A `Solution` as of `ncm`; its gap is over half the number of bands and half the whitened squared pixel.

    Raises:
        ValueError: distributions of another kind, or pixel and endmembers of different numbers of bands.

    Reference:
        Du, Zare, Gader and Dranishnikov 2014, 10.1109/JSTARS.2014.2330347.
    """
    if not isinstance(endmembers, PreparedCompositional) or not isinstance(endmembers.view, Moments):
        raise ValueError("bcm takes what prepare_bcm made of beta distributions")
    pixel = _pixel(pixel, endmembers)
    return _solved(_descended, pixel, endmembers, jnp.clip(pixel, INSIDE, 1 - INSIDE), jnp.zeros_like(pixel))


def bcm_neighbours(
    neighbours: Float[Any, "neighbour band"],
    endmembers: PreparedCompositional,
    *,
    match_spread: bool = True,
    linear_spread: bool | Bool[Any, ""] = False,
) -> Solution:
    """Abundances that neighbouring pixels share, by the moments of their Beta distributions: the published estimators.

    argmin_a ½ Σ_b (ŷ_b − E_b)² K / V̂_b + ½ Σ_b (V̂_b − V_b)² (K − 1) / 2V̂_b² over a ≥ 0, Σa = 1, where ŷ and V̂ are
    mean and variance of K pixels in each band, each weighted by how well K pixels tell it. Without the spread it is
    argmin_a ½‖ŷ − E‖², fully constrained least squares on the means (published as BCM-QP; with the spread, BCM-MH).

    Args:
        neighbours: a pixel and those like it (`spectral_neighbours`) or around it, dimensionless.
        endmembers: what `prepare_bcm` made of their distributions.
        match_spread: whether the spread counts.
        linear_spread: V = Σ_i a_i v_i in place of Σ_i a_i² v_i, which is what the authors' released code compares.

    Returns:
        A `Solution` as of `bcm`; its residual is that of the mean of the pixels.

    Raises:
        ValueError: fewer than two neighbours, distributions of another kind, or different numbers of bands.

    Reference:
        Du, Zare, Gader and Dranishnikov 2014, 10.1109/JSTARS.2014.2330347; code: 10.5281/zenodo.2638288.
    """
    if not isinstance(endmembers, PreparedCompositional) or not isinstance(endmembers.view, Moments):
        raise ValueError("bcm_neighbours takes what prepare_bcm made of beta distributions")
    if len(np.shape(neighbours)) != 2 or np.shape(neighbours)[0] < 2:
        raise ValueError(f"neighbours are [neighbour, band], two or more, got shape {np.shape(neighbours)}")
    neighbours = jax.vmap(lambda one: _pixel(one, endmembers))(jnp.asarray(neighbours))
    mean, spread = jnp.mean(neighbours, 0), jnp.var(neighbours, 0, ddof=1)
    if not match_spread:
        return fcls(mean, endmembers.library)
    endmembers = eqx.tree_at(lambda p: p.view.linear, endmembers, jnp.asarray(linear_spread))
    return _solved(_descended, mean, endmembers, mean, spread, float(len(neighbours)))


def spectral_neighbours(pixels: Float[Any, "pixel band"], count: int) -> Int[Array, "pixel count"]:
    """For each pixel the pixels that are nearest to it, itself first.

    argmin_j ‖y_i − y_j‖²

    Args:
        pixels: spectra, any unit.
        count: how many, the pixel included.

    Returns:
        Their numbers; a pixel that is not finite is nobody's neighbour, and its own only one.

    Raises:
        ValueError: more neighbours than pixels, or fewer than one.
    """
    pixels = jnp.asarray(pixels)
    if pixels.ndim != 2 or not 1 <= count <= pixels.shape[0]:
        raise ValueError(f"{count} neighbours among pixels of shape {pixels.shape}: wanted [pixel, band], and as many")
    numbers = jnp.arange(len(pixels))
    fine = jnp.all(jnp.isfinite(pixels), 1)
    safe = jnp.where(fine[:, None], pixels, 0.0)
    norms = jnp.sum(safe**2, 1)

    def nearest(number: Array) -> Array:
        far = jnp.where(fine & fine[number], norms - 2 * matmul(safe, safe[number]), jnp.inf)
        far = far.at[number].set(-jnp.inf)
        found = jax.lax.top_k(-far, count)[1]
        return jnp.where(jnp.isinf(far[found]), number, found)

    return jax.lax.map(nearest, numbers, batch_size=64)


def _solved(
    method: Callable[..., Any], pixel: Array, endmembers: PreparedCompositional, *own: Array | float
) -> Solution:
    """One pixel through start, method and certificate; `own` is what the view wants to know of it."""
    pixel, endmembers, own = without_derivatives("a compositional model (ncm, bcm)", (pixel, endmembers, own))
    view: Any = endmembers.view
    start = fcls(pixel, endmembers.library).abundances
    seen = jax.lax.stop_gradient({"start": start, **view.see(pixel, *own)})
    abundances, gap, steps, spread, loose, moved, facts = batched(method, endmembers, seen)
    squared = squared_norm(pixel - matmul(abundances, endmembers.mean))
    used = pixel.shape[0] if endmembers.good is None else jnp.sum(endmembers.good)
    fine = jnp.isfinite(squared + gap)
    return Solution(
        abundances=jnp.where(fine, abundances, jnp.nan),
        residual=safe_sqrt(squared / used),
        gap=gap,
        steps=steps,
        converged=fine & (gap <= tolerance(pixel.dtype)) & (moved <= _rest(pixel.dtype)),
        covariance=spread,
        fitted=facts,
        unique=~jnp.any(loose),
    )


def _weighted(endmembers: PreparedCompositional, seen: dict[str, Array]) -> Any:
    """The fixed points of weighted least squares of many pixels, which are the first axis here and the last inside."""
    view: Any = endmembers.view
    start, data, region = _last(endmembers, seen)
    scale = view.scale(start, data)
    small, rest = 0.1 * tolerance(start.dtype) * scale, 0.1 * _rest(start.dtype)

    def advance(part: State) -> State:
        here, half = view.weighted(part["unknown"], {name: part[name] for name in data})
        gap = first_order_gap(part["unknown"], here, region)
        step = quadratic_step(part["unknown"], here.gradient, here.curvature, jnp.zeros_like(gap), region)
        slow = gap > SLOW * part["gap"]  # the steps are too long and overshoot
        share = jnp.where(slow, jnp.maximum(0.5 * part["share"], SHORTEST), jnp.minimum(1.2 * part["share"], 1))
        # where noise is far below the pixel, a gap that is nothing beside it is still many standard deviations
        moved = jnp.max(jnp.abs(step), 0)
        stalled = jnp.where(moved > 0.7 * part["moved"], part["stalled"] + 1, 0)
        ended = (gap <= part["small"]) & ((moved <= rest) | (stalled >= STALLED))
        ended = ended | (part["steps"] >= TURNS) | ~jnp.isfinite(gap)
        new = {
            "unknown": jnp.where(ended, part["unknown"], project(part["unknown"] + share * step, region)),
            "share": share,
            "steps": part["steps"] + ~ended,
            "gap": gap,
            "moved": moved,
            "stalled": stalled,
            "squared": 2 * here.value,
            "half": half,
            "curvature": here.curvature,
            "done": ended,
        }
        return part | {name: jnp.where(part["done"], part[name], x) for name, x in new.items()}

    nothing = jnp.zeros_like(scale)
    state = {
        **data,
        "small": small,
        "unknown": start,
        "steps": jnp.zeros(scale.shape, jnp.int32),
        "gap": jnp.full_like(scale, jnp.inf),
        "moved": jnp.full_like(scale, jnp.inf),
        "stalled": jnp.zeros(scale.shape, jnp.int32),
        "share": jnp.ones_like(scale),
        "squared": nothing,
        "half": nothing,
        "curvature": jnp.zeros((endmembers.count, *start.shape), start.dtype),
        "done": jnp.zeros(scale.shape, bool),
    }
    state = work_off(advance, state, chunk=view.chunk, max_rounds=TURNS + 1, constant=(*data, "small"))
    spread, loose = _errors(state["unknown"], state["curvature"], region)
    facts = {
        "log_likelihood": -0.5 * state["squared"] - state["half"] - view.log_scale,
        "chi2": state["squared"] / view.bands,
    }
    gap = state["gap"] / scale
    return state["unknown"].T, gap, state["steps"], jnp.moveaxis(spread, -1, 0), loose.T, state["moved"], facts


def _descended(endmembers: PreparedCompositional, seen: dict[str, Array]) -> Any:
    """The estimates of many pixels, which are the first axis here and the last inside."""
    view: Any = endmembers.view
    start, data, region = _last(endmembers, seen)
    scale = view.scale(start, data)
    found = descend(view.model, view.bend, start, data, scale, region, chunk=view.chunk)
    found |= _at_rest(view, found["unknown"], data, region)
    unknown = found["unknown"]
    curvature, facts = view.judge(unknown, data)
    spread, loose = _errors(unknown, curvature, region)
    gap = found["gap"] / jnp.where(scale > 0, scale, jnp.nan)
    steps = found["steps"] + found["turns"]
    return unknown.T, gap, steps, jnp.moveaxis(spread, -1, 0), loose.T, found["moved"], facts


def _rest(dtype: Any) -> float:
    """How far an abundance may still be sent by a full step, where the estimate counts as found."""
    return 3e-4 if jnp.finfo(dtype).bits == 32 else 1e-7


def _at_rest(view: Any, start: Array, data: State, region: Region) -> State:
    """Scoring steps from where a descent ended, taken as long as the next one is shorter.

    The descent ends where rounding hides the fall of the objective. In float32 that may be several standard deviations
    from the minimum, where the noise is far below the pixel: the gradient still tells the way.
    """
    enough = 0.1 * _rest(start.dtype)

    def advance(part: State) -> State:
        here = view.model(part["trial"], {name: part[name] for name in data})
        gap = first_order_gap(part["trial"], here, region)
        step = quadratic_step(part["trial"], here.gradient, here.curvature, jnp.zeros_like(gap), region)
        moved = jnp.max(jnp.abs(step), 0)
        better = moved < part["moved"]
        step = jnp.where(better, step, 0.5 * part["step"])
        unknown = jnp.where(better, part["trial"], part["unknown"])
        nearest = jnp.where(better, moved, part["moved"])
        new = {
            "trial": project(unknown + step, region),
            "unknown": unknown,
            "step": step,
            "moved": nearest,
            "gap": jnp.where(better, gap, part["gap"]),
            "turns": part["turns"] + 1,
            "done": (nearest <= enough) | ~jnp.isfinite(moved),
        }
        return part | {name: jnp.where(part["done"], part[name], x) for name, x in new.items()}

    pixels = start.shape[1]
    state = {
        **data,
        "trial": start,
        "unknown": start,
        "step": jnp.zeros_like(start),
        "moved": jnp.full(pixels, jnp.inf, start.dtype),
        "gap": jnp.full(pixels, jnp.nan, start.dtype),
        "turns": jnp.full(pixels, -1, jnp.int32),  # the first only looks
        "done": jnp.zeros(pixels, bool),
    }
    state = work_off(advance, state, chunk=view.chunk, max_rounds=LAST, constant=tuple(data))
    return {name: state[name] for name in ("unknown", "moved", "gap", "turns")}


def _errors(unknown: Array, information: Array, region: Region) -> tuple[Array, Array]:
    """Inverse information on all abundances, with their sum held, and which of those above zero nothing tells.

    An abundance that ended at zero is not known to be zero, and those above zero are not known as well as if it were:
    what would hold it there is the bound, which the truth may be away from.
    """
    variance = jnp.ones_like(unknown[0])
    spread, _ = covariance(jnp.ones_like(unknown), information, variance, region)
    _, loose = covariance(unknown, information, variance, region)
    return spread, loose


def _last(endmembers: PreparedCompositional, seen: dict[str, Array]) -> tuple[Array, State, Region]:
    """Start and data of many pixels with these on the last axis, and the simplex."""
    data = {name: jnp.moveaxis(x, 0, -1) for name, x in seen.items() if name != "start"}
    start = seen["start"].T
    return start, data, Region(endmembers.count, jnp.zeros(0, start.dtype), jnp.zeros(0, start.dtype))


def _pixel(pixel: Any, endmembers: PreparedCompositional) -> Array:
    """One pixel in the precision of the endmembers, zero in bands that do not count."""
    check_pixel(pixel, endmembers.mean.shape[1])
    pixel = jnp.asarray(pixel, endmembers.mean.dtype)
    return pixel if endmembers.good is None else jnp.where(endmembers.good, pixel, 0.0)
