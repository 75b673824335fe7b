"""Fit Lorentz oscillators to emissivity spectra: how many, on how many crystal axes, and with what certainty.

The search adds one oscillator at a time where the residual asks for it, refines all of them by Levenberg-Marquardt,
then takes away those that do not pay; several axes start from the single axis, split. The best fit met is kept, by an
information criterion (see `endmembers.oscillator_search`).
"""

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from unmix_jax.endmembers.oscillator_search import Search, rounding, search
from unmix_jax.endmembers.oscillators import Target, covariance
from unmix_jax.physics.box import Box
from unmix_jax.physics.dispersion import PADDING, Dispersion, check_wavenumber
from unmix_jax.scenes.scene import SpectralAxis

__all__ = ["DispersionFit", "fit_dispersion"]

TILE = 256  # spectra at once on an accelerator; a CPU takes one after the other
BOUNDS = {
    "frequency": (0.85, 1.15),  # times the first and the last wavenumber
    "damping": (1e-6, 3.0),
    "strength": (1e-7, 30.0),
    "epsilon_inf": (1.0, 8.0),
    "weights": (0.02, 1.0),
}
SHAPES = {"frequency": (1, 1), "damping": (1, 1), "strength": (1, 1), "epsilon_inf": (1,), "weights": (1,)}
NO_EMISSIVITY = -0.5, 1.5  # values beyond are no emissivity, whatever the noise
STATIONARY = 0.02  # greatest cosine between residual and derivative of a fit that has converged


class DispersionFit(eqx.Module):
    """Fitted minerals and how far to trust them.

    The parameters in a row, as in the covariance, are frequency, damping and strength, each [axis, oscillator], then
    epsilon_inf and weights, each [axis].

    Attributes:
        dispersion: the minerals, padded alike; call it with wavenumbers in cm⁻¹.
        mse: mean squared error of the emissivity over the weighted bands.
        criterion: information criterion of the best fit with each of the numbers of axes tried, in their order.
        axes: number of crystal axes kept.
        oscillators: number kept on each axis.
        covariance: Gauss-Newton covariance of the parameters in a row, in their units, for noise of the variance that
            the residual has; zero for padding and for parameters at a bound.
        converged: True where the residual is orthogonal to all that the parameters can do, or zero to rounding.
        outside: True where good values of the spectrum are below 0 or above 1.
    """

    dispersion: Dispersion
    mse: Float[Array, "*batch"]
    criterion: Float[Array, "*batch tried"]
    axes: Int[Array, "*batch"]
    oscillators: Int[Array, "*batch axis"]
    covariance: Float[Array, "*batch parameter parameter"]
    converged: Bool[Array, "*batch"]
    outside: Bool[Array, "*batch"]


def fit_dispersion(
    spectra: Float[Any, "*batch bands"],
    wavenumber: Float[Any, " band"] | SpectralAxis,
    *,
    axes: int | Sequence[int] = (1, 2),
    count: int | None = None,
    start: str = "curvature",
    starts: int = 2,
    l1: float | int = 1e-9,
    penalty: float | int | None = None,
    weights: Any = None,
    linewidth: float | int | None = None,
    bounds: Mapping[str, Sequence[float | int]] | None = None,
    key: Key[Array, ""] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DispersionFit:
    """Fit the dispersion model to emissivity spectra.

    Minimises Σ_b w_b (e_b − ê_b)² / Σ_b w_b + λ Σ_k S_k over the box, finally without the L1 term. Numbers of
    oscillators and axes are those with the least n ln MSE + P ln n (BIC) for n bands and P parameters: three per
    oscillator, one permittivity per axis, all weights but one. Oscillators closer than a linewidth are merged only
    where that criterion agrees.

    Args:
        spectra: emissivity; NaN is ignored. Each of an array of spectra is fitted as it would be alone; those with so
            few good bands that they get fewer oscillators than the others are compiled apart.
        wavenumber: cm⁻¹, increasing; numbers that look like wavelengths are refused unless a `SpectralAxis` says
            that they are not.
        axes: numbers of crystal axes to try, or one number.
        count: most oscillators per axis; None: 15, or fewer for a spectrum with few good bands.
        start: where the search begins: "curvature" adds oscillators where the spectrum asks for them, one after the
            other; "many" thins out 50, spread over all bands.
        starts: independent searches per spectrum and number of axes; the first is without chance.
        l1: the price λ of strength during the search.
        penalty: price of a parameter in the criterion; None: ln n (BIC); 2 is AIC.
        weights: of the bands, 0 to ignore one; [band], or [*batch band] for each spectrum its own.
        bounds: (least, greatest) per name of `Dispersion`, cm⁻¹ for the frequency. By default frequencies from 0.85
            times the least to 1.15 times the greatest wavenumber, damping to 3, strength to 30, epsilon_inf 1 to 8,
            weights from 0.02. A single axis has weight 1 whatever the bounds.
        linewidth: least linewidth of an oscillator, cm⁻¹; None: the sampling step, below which noise would be fitted.
        key: random key of the later starts.
        progress: called as ``progress(done, total)``, in spectra, after each tile: one spectrum on a CPU.

    Returns:
        The minerals with their errors, in the dtype of the spectra, at least float32.

    Raises:
        ValueError: wavenumbers that descend or are wavelengths, shapes that disagree, values that are no emissivity,
            negative weights, a spectrum with too few good bands for the parameters, options out of range, or bounds
            that leave nothing: no weights that sum to one, no damping as wide as the least linewidth.

    Reference:
        Janiczek et al. 2020, eq. 6 and section 3, arXiv:2007.05996.
    """
    wavenumber = _bands(wavenumber)
    values, good, lead = _read(spectra, wavenumber, weights)
    axes = _numbers(axes)
    starts = _whole("starts", starts)
    count = None if count is None else _whole("count", count)
    if start not in ("curvature", "many"):
        raise ValueError(f"start is 'curvature' or 'many', got {start!r}")
    if not l1 >= 0:
        raise ValueError(f"l1 must not be negative, got {l1}")
    if linewidth is not None and not linewidth > 0:
        raise ValueError(f"the least linewidth must be above zero (cm⁻¹), got {linewidth}")
    if penalty is not None and not penalty >= 0:
        raise ValueError(f"the penalty of a parameter must not be negative, got {penalty}")
    bands, which = np.unique((good > 0).sum(axis=-1), return_inverse=True)
    places = np.array([_places(count, number, max(axes)) for number in bands.tolist()])[which.reshape(-1)]
    narrowest = float(np.min(np.diff(wavenumber))) if linewidth is None else float(linewidth)
    limits = _limits(bounds, wavenumber, narrowest, axes)
    key = jax.random.key(0) if key is None else key
    results, order = [], []
    for own in np.unique(places).tolist():  # by the number of places, so that no spectrum decides for another
        group = np.flatnonzero(places == own)
        tile = 1 if jax.default_backend() == "cpu" else min(TILE, len(group))
        for first in range(0, len(group), tile):
            rows = group[np.minimum(np.arange(first, first + tile), len(group) - 1)]
            targets = functools.partial(
                _target, values[rows], good[rows], wavenumber, narrowest, limits, (l1, penalty), starts
            )
            found = search(targets, axes, own, start, starts, key)
            shape = max(axes), int(places.max())
            picked = [_best_start(s, targets(n), tile, starts, shape) for s, n in zip(found, axes, strict=True)]
            fresh = len(group[first : first + tile])
            results.append(jax.tree.map(lambda leaf, n=fresh: leaf[:n], _best_axes(picked, jnp.asarray(axes))))
            order += rows[:fresh].tolist()
            if progress is not None:
                progress(len(order), len(values))
    outside = jnp.asarray(np.any((good > 0) & ((values < 0) | (values > 1)), axis=-1))
    fit = jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[np.argsort(order)], *results)
    fit = DispersionFit(**fit, outside=outside)
    return jax.tree.map(lambda leaf: leaf.reshape(*lead, *leaf.shape[1:]), fit)


def _target(
    values: np.ndarray,
    good: np.ndarray,
    wavenumber: np.ndarray,
    linewidth: float,
    limits: Mapping[str, tuple[float, float]],
    prices: tuple[float, float | None],
    starts: int,
    axes: int,
) -> Target:
    """What is fitted with a number of axes; each spectrum once for every start."""
    dtype = jax.dtypes.canonicalize_dtype(values.dtype)
    spectra, weights = (jnp.repeat(jnp.asarray(a, dtype), starts, axis=0) for a in (values, good))
    limits = {**limits, "weights": _weight_limits(limits["weights"], axes)}
    low, high = (
        Dispersion(
            **{n: jnp.full(SHAPES[n], pair[i], dtype) for n, pair in limits.items()}, active=jnp.ones((1, 1), bool)
        )
        for i in (0, 1)
    )
    step = jnp.asarray(linewidth, dtype)
    l1, penalty = prices
    bands = jnp.sum(weights > 0, axis=1).astype(dtype)
    each = jnp.log(bands) if penalty is None else jnp.full_like(bands, penalty)
    return Target(
        jnp.asarray(wavenumber, dtype), spectra, weights, Box(low, high), step, l1 * jnp.sum(weights, axis=1), each
    )


def _weight_limits(pair: tuple[float, float], axes: int) -> tuple[float, float]:
    """Least and greatest weight of an axis that leave the others within their bounds, for a sum of one."""
    if axes == 1:
        return 0.0, 1.0
    low, high = pair
    return max(low, 1 - high * (axes - 1)), min(high, 1 - low * (axes - 1))


def _limits(
    bounds: Mapping[str, Any] | None, wavenumber: Any, linewidth: float, axes: tuple[int, ...]
) -> dict[str, tuple[float, float]]:
    """Least and greatest value of each kind of parameter, checked to leave something."""
    low, high = BOUNDS["frequency"]
    limits = BOUNDS | {"frequency": (low * float(wavenumber[0]), high * float(wavenumber[-1]))}
    for name, pair in (bounds or {}).items():
        if name not in limits:
            raise ValueError(f"bounds are for {', '.join(limits)}; got {name!r}")
        if np.shape(pair) != (2,) or not 0 <= pair[0] < pair[1]:
            raise ValueError(f"bounds of {name} are (least, greatest), not below zero; got {pair}")
        limits[name] = (float(pair[0]), float(pair[1]))
    low, high = limits["weights"]
    for number in axes:
        if number > 1 and not number * low <= 1 <= number * high:
            raise ValueError(f"bounds of weights ({low:g}, {high:g}) leave no {number} weights that sum to one")
    least, widest = limits["frequency"][0], limits["damping"][1]
    if widest * least < linewidth:
        raise ValueError(
            f"damping up to {widest:g} at the least frequency of {least:g} cm⁻¹ is a linewidth of {widest * least:g} "
            f"cm⁻¹, below the least linewidth of {linewidth:g} cm⁻¹: raise either bound or lower the linewidth"
        )
    return limits


def _whole(name: str, value: Any) -> int:
    """A number of things, checked."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be a whole number, got {value!r}") from None
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {number}")
    return number


def _numbers(axes: Any) -> tuple[int, ...]:
    """Numbers of crystal axes to try, each once."""
    try:
        given = np.atleast_1d(axes).tolist()
        numbers = tuple(dict.fromkeys(operator.index(number) for number in given))
    except (TypeError, ValueError):
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise ValueError(f"axes are numbers of crystal axes to try, such as (1, 2), got {axes!r}")
    return numbers


def _bands(wavenumber: Any) -> np.ndarray:
    """Wavenumbers in cm⁻¹, checked; a wavelength by its size is refused where no unit comes along."""
    if isinstance(wavenumber, SpectralAxis):
        values = np.asarray(wavenumber.to("cm-1").centers)
        check_wavenumber(values, known=True)
        return values
    check_wavenumber(wavenumber)
    return np.asarray(wavenumber)


def _read(spectra: Any, wavenumber: Any, weights: Any) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """Spectra and weights as [spectrum, band], checked; bad values are 1 with weight 0."""
    values = np.asarray(spectra)
    if np.iscomplexobj(values):
        raise ValueError(f"spectra are real, got {values.dtype}")
    if values.dtype.kind != "f" or values.dtype.itemsize < 4:
        values = values.astype(np.float32)
    bands = np.shape(wavenumber)[0]
    if values.ndim == 0 or values.shape[-1] != bands:
        raise ValueError(f"spectra have shape {values.shape}, the last axis of which is not the {bands} wavenumbers")
    if values.size == 0:
        raise ValueError(f"there is no spectrum in shape {values.shape}")
    given = np.ones(bands) if weights is None else np.asarray(weights, float)
    try:
        given = np.broadcast_to(given, values.shape)
    except ValueError:
        raise ValueError(f"weights have shape {given.shape}, spectra {values.shape}") from None
    if not (np.isfinite(given).all() and (given >= 0).all()):
        raise ValueError("weights are finite and not below zero")
    good = np.where(np.isfinite(values), given, 0.0)
    if (empty := ~(good > 0).any(axis=-1)).any():
        raise ValueError(f"{int(empty.sum())} of {empty.size} spectra have no good band")
    values = np.where(good > 0, values, np.asarray(1, values.dtype))
    low, high = float(values.min()), float(values.max())
    if low < NO_EMISSIVITY[0] or high > NO_EMISSIVITY[1]:
        raise ValueError(
            f"good bands hold values from {low:g} to {high:g}; emissivity is between 0 and 1, up to noise. "
            "Give missing bands the weight 0; emissivity is 1 - reflectance"
        )
    lead = values.shape[:-1]
    return values.reshape(-1, bands), good.reshape(-1, bands), lead


def _places(count: int | None, bands: int, axes: int) -> int:
    """Places for oscillators on each axis, so that the bands determine all parameters."""
    most = (bands - 1 - 2 * axes) // (3 * axes)
    if most < 1 or (count is not None and count > most):
        parameters = 3 * axes * (count or 1) + 2 * axes - 1
        raise ValueError(
            f"{bands} good bands are too few for {axes} axes of {count or 1} oscillators: "
            f"{parameters} parameters need at least {parameters + 2} bands"
        )
    return count if count is not None else max(1, min(15, most // 2))


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _best_start(found: Search, target: Target, each: int, starts: int, shape: tuple[int, int]) -> dict[str, Any]:
    """The best start of every spectrum with its covariance, padded to a shape of axes and oscillators."""
    best = jnp.argmin(found.criterion.reshape(each, starts), axis=1) + starts * jnp.arange(each)
    found, spectrum, weights = jax.tree.map(lambda leaf: leaf[best], (found, target.spectrum, target.weights))
    unit, free = jax.lax.map(
        lambda lane: covariance(lane[0], target._replace(spectrum=lane[1], weights=lane[2])),
        (found.best, spectrum, weights),
    )
    mse = found.squares / jnp.sum(weights, axis=1)
    variance = found.squares / jnp.maximum(jnp.sum(weights > 0, axis=1) - free, 1)
    mineral, places = _padded(found.best, shape)
    size = shape[0] * (3 * shape[1] + 2)
    wide = jnp.zeros((each, size, size), unit.dtype).at[:, places[:, None], places].set(unit)
    return {
        "dispersion": mineral,
        "mse": mse,
        "criterion": found.criterion,
        "oscillators": jnp.sum(mineral.active, axis=-1),
        "covariance": wide * variance[:, None, None],
        "converged": (found.cosine < STATIONARY) | (mse <= rounding(mse.dtype)),
    }


def _padded(mineral: Dispersion, shape: tuple[int, int]) -> tuple[Dispersion, np.ndarray]:
    """The mineral with more axes and oscillators, and where its parameters in a row are among those of the result."""
    own = mineral.active.shape[1:]
    room = [(0, 0), *((0, wide - narrow) for wide, narrow in zip(shape, own, strict=True))]
    leaves = {}
    for name, fill in PADDING.items():
        leaf = getattr(mineral, name)
        leaf = jnp.where(mineral.active, leaf, jnp.asarray(fill, leaf.dtype)) if leaf.ndim == 3 else leaf
        leaves[name] = jnp.pad(leaf, room[: leaf.ndim], constant_values=fill)
    size, axes = shape[0] * shape[1], shape[0]
    oscillator = np.arange(size).reshape(shape)[: own[0], : own[1]].reshape(-1)
    axis = np.arange(own[0])
    blocks = [oscillator, size + oscillator, 2 * size + oscillator, 3 * size + axis, 3 * size + axes + axis]
    return Dispersion(**leaves), np.concatenate(blocks)


@jax.jit
def _best_axes(picked: list[dict[str, Any]], axes: Int[Array, " tried"]) -> dict[str, Any]:
    """The best number of axes of every spectrum."""
    criterion = jnp.stack([one["criterion"] for one in picked], axis=-1)
    winner = jnp.argmin(criterion, axis=-1)
    kept = jax.tree.map(lambda *leaves: jnp.stack(leaves)[winner, jnp.arange(winner.shape[0])], *picked)
    return kept | {"criterion": criterion, "axes": axes[winner]}
