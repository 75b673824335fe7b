"""Mineral spectra from physics: Lorentz oscillators, optical constants, emissivity of a surface.

A crystal answers light along each of its optical axes as a set of damped oscillators. Their sum is the permittivity
ε = θ + 2iφ, its square root the refractive index n + ik, and Fresnel's equations give what the surface reflects; what
it does not reflect it emits. The axes add up by their weights.

Everything is dimensionless inside: with r = w/f the frequency squared cancels from each oscillator, and
1 − r² = (f − w)(f + w) / f² keeps all digits near the resonance. Nothing of what follows subtracts numbers that are
nearly equal, so float32 is enough, and derivatives are finite wherever damping is.
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from unmix_jax.physics.fresnel import refract, transmittance

__all__ = [
    "Dispersion",
    "check_wavenumber",
    "emissivity",
    "from_axes",
    "jacobian",
    "permittivity",
    "reflectance",
    "refractive_index",
    "stack",
    "trim",
    "unstack",
    "used_axes",
]

SHARPEST = 1e-15  # least squared linewidth over frequency: the pole of an oscillator without damping stays finite
MICROMETRE, NANOMETRE = 100.0, 5000.0  # cm^-1: an axis wholly below or above is a wavelength by all appearances


class Dispersion(eqx.Module):
    """Lorentz oscillators of a mineral along its crystal axes; called with wavenumbers it gives the emissivity.

    Leading axes hold many minerals (see `stack`). An oscillator that is not `active` is padding: it adds exactly
    nothing and its derivatives are exactly zero, whatever its numbers. So is an axis of weight zero without any
    active oscillator.

    Attributes:
        frequency: resonance, cm⁻¹.
        damping: linewidth divided by the frequency, above zero.
        strength: S = 4πρ, dimensionless, not below zero.
        epsilon_inf: permittivity far above all resonances.
        weights: share of each axis in the spectrum; they should sum to one.
        active: False for padding.
    """

    frequency: Float[Array, "*batch axis oscillator"]
    damping: Float[Array, "*batch axis oscillator"]
    strength: Float[Array, "*batch axis oscillator"]
    epsilon_inf: Float[Array, "*batch axis"]
    weights: Float[Array, "*batch axis"]
    active: Bool[Array, "*batch axis oscillator"]

    def __call__(self, wavenumber: Float[Any, " band"]) -> Float[Array, "*batch band"]:
        """Emissivity at normal incidence; see `emissivity`."""
        return emissivity(self, wavenumber)


def permittivity(
    dispersion: Dispersion, wavenumber: Float[Any, " band"]
) -> tuple[Float[Array, "*batch axis band"], Float[Array, "*batch axis band"]]:
    """Complex permittivity along each crystal axis.

    ε = θ + 2iφ = ε∞ + Σ_k S_k f_k² / (f_k² − w² − i γ_k f_k w)

    Args:
        dispersion: the oscillators.
        wavenumber: cm⁻¹, above zero, in any order.

    Returns:
        θ, the real part, and φ, half the imaginary part.

    Reference:
        Janiczek et al. 2020, eq. 2-3, arXiv:2007.05996.
    """
    wavenumber = jnp.asarray(wavenumber)
    epsilon_inf = jnp.where(used_axes(dispersion), dispersion.epsilon_inf, 1.0)
    start = jnp.broadcast_to(epsilon_inf[..., None], (*epsilon_inf.shape, *wavenumber.shape))
    leaves = dispersion.frequency, dispersion.damping, dispersion.strength, epsilon_inf, wavenumber
    start = start.astype(jnp.result_type(*leaves))

    @jax.checkpoint  # a gradient needs the memory of one oscillator, not of all, and is faster for it
    def add(total: tuple[Array, Array], oscillator: list[Array]) -> tuple[tuple[Array, Array], None]:
        real, imaginary = _oscillations(oscillator, wavenumber)
        return (total[0] + real, total[1] + imaginary), None

    one_by_one = [jnp.moveaxis(leaf, -2, 0) for leaf in _oscillators(dispersion)]
    (theta, imaginary), _ = jax.lax.scan(add, (start, jnp.zeros_like(start)), one_by_one)
    return theta, 0.5 * imaginary


def _oscillators(dispersion: Dispersion) -> list[Array]:
    """Frequency, damping and strength with an axis for the bands; harmless constants in place of padding."""
    active = dispersion.active
    frequency = jnp.where(active, dispersion.frequency, 1.0)
    damping = jnp.where(active, dispersion.damping, 1.0)
    strength = jnp.where(active, dispersion.strength, 0.0)
    return [frequency[..., None], damping[..., None], strength[..., None]]


def _oscillations(oscillators: Sequence[Array], wavenumber: Array) -> tuple[Array, Array]:
    """Real and imaginary part of what each oscillator adds to the permittivity at each band."""
    frequency, damping, strength = oscillators
    ratio = wavenumber / frequency
    offset = (frequency - wavenumber) * (frequency + wavenumber) / frequency**2
    width = damping * ratio
    response = strength / jnp.maximum(offset**2 + width**2, SHARPEST)
    return response * offset, response * width


def refractive_index(
    dispersion: Dispersion, wavenumber: Float[Any, " band"]
) -> tuple[Float[Array, "*batch axis band"], Float[Array, "*batch axis band"]]:
    """Refractive index and extinction coefficient along each crystal axis.

    n + ik = √ε, that is n² − k² = θ and nk = φ

    Args:
        dispersion: the oscillators.
        wavenumber: cm⁻¹, above zero, in any order.

    Returns:
        n and k, dimensionless, not below zero.
    """
    return refract(*permittivity(dispersion, wavenumber))


def emissivity(
    dispersion: Dispersion,
    wavenumber: Float[Any, " band"],
    *,
    angle: float | Float[Array, ""] | None = None,
    polarisation: str | None = None,
) -> Float[Array, "*batch band"]:
    """Emissivity of a smooth surface, the mean over the crystal axes.

    e = Σ_x α_x (1 − |r_x|²) with Fresnel's r_x (see `physics.fresnel`); each axis counts as an isotropic medium.

    Args:
        dispersion: the oscillators.
        wavenumber: cm⁻¹, above zero, in any order.
        angle: between the ray and the normal of the surface, degrees, below 90; None is normal incidence.
        polarisation: across ("s") or in ("p") the plane of incidence; None is the mean of both.

    Returns:
        Between 0 and 1 where the weights sum to one; an array of minerals is rendered at once.

    Reference:
        Janiczek et al. 2020, eq. 1-5, arXiv:2007.05996.
    """
    passed = transmittance(*permittivity(dispersion, wavenumber), angle=angle, polarisation=polarisation)
    return _mean_over_axes(dispersion, passed)


def reflectance(
    dispersion: Dispersion,
    wavenumber: Float[Any, " band"],
    *,
    angle: float | Float[Array, ""] | None = None,
    polarisation: str | None = None,
) -> Float[Array, "*batch band"]:
    """Specular reflectance of a smooth surface, the mean over the crystal axes.

    R = Σ_x α_x |r_x|², one minus the emissivity where the weights sum to one. Arguments as for `emissivity`.
    """
    passed = transmittance(*permittivity(dispersion, wavenumber), angle=angle, polarisation=polarisation)
    return _mean_over_axes(dispersion, 1 - passed)


def used_axes(dispersion: Dispersion) -> Bool[Array, "*batch axis"]:
    """False for the axes that are padding: without weight and without active oscillators."""
    return jnp.any(dispersion.active, axis=-1) | (dispersion.weights > 0)


def _mean_over_axes(dispersion: Dispersion, spectra: Array) -> Array:
    """Sum of the axes by their weights."""
    weights = jnp.where(used_axes(dispersion), dispersion.weights, 0.0)
    return jnp.sum(weights[..., None] * spectra, axis=-2)


def jacobian(dispersion: Dispersion, wavenumber: Float[Any, " band"]) -> tuple[Float[Array, "*batch band"], Dispersion]:
    """Emissivity at normal incidence and its derivatives with respect to every parameter.

    A band feels an oscillator through the permittivity of its axis alone, ∂e/∂f_k = ∂e/∂θ ∂θ/∂f_k + ∂e/∂φ ∂φ/∂f_k,
    so that time and memory are those of the result. `jax.jacfwd` would need that once more for each parameter.

    Args:
        dispersion: the oscillators.
        wavenumber: cm⁻¹, above zero, in any order.

    Returns:
        The emissivity, and the derivatives in place of the parameters with a last axis of bands; zero for padding.
    """
    wavenumber, weights = jnp.asarray(wavenumber), dispersion.weights[..., None]
    spectra, pull = jax.vjp(transmittance, *permittivity(dispersion, wavenumber))
    by_theta, by_phi = pull(weights * jnp.ones_like(spectra))
    given = _oscillators(dispersion)

    def by(position: int) -> Array:
        """Derivative with respect to the frequencies (0), dampings (1) or strengths (2)."""

        def along(values: Array) -> tuple[Array, Array]:
            return _oscillations([*given[:position], values, *given[position + 1 :]], wavenumber)

        _, (real, imaginary) = jax.jvp(along, (given[position],), (jnp.ones_like(given[position]),))
        slope = by_theta[..., None, :] * real + 0.5 * by_phi[..., None, :] * imaginary
        return jnp.where(dispersion.active[..., None], slope, 0.0)

    used = used_axes(dispersion)[..., None]
    by_axis = [jnp.where(used, slope, 0.0) for slope in (by_theta, spectra)]
    slopes = [by(0), by(1), by(2), *by_axis]  # set in place: with bands they have not the shapes of parameters
    derivatives = eqx.tree_at(
        lambda d: [d.frequency, d.damping, d.strength, d.epsilon_inf, d.weights], dispersion, slopes
    )
    return _mean_over_axes(dispersion, spectra), derivatives


PADDING: dict[str, Any] = {
    "frequency": 1.0,
    "damping": 1.0,
    "strength": 0.0,
    "active": False,
    "epsilon_inf": 1.0,
    "weights": 0.0,
}


def from_axes(
    frequency: Any,
    damping: Any,
    strength: Any,
    epsilon_inf: Any,
    weights: Any = None,
) -> Dispersion:
    """A mineral from one list of oscillators per crystal axis, padded to the longest.

    Args:
        frequency: for each axis its resonances, cm⁻¹.
        damping: for each axis linewidths over frequencies.
        strength: for each axis the strengths.
        epsilon_inf: one number per axis.
        weights: one number per axis; None gives all the same, summing to one.

    Raises:
        ValueError: numbers of axes or of oscillators that differ, or no axis.
    """
    lists = (frequency, damping, strength)
    rows = [[np.asarray(row, float).reshape(-1) for row in each] for each in lists]
    sizes = [[row.size for row in each] for each in rows]
    if not sizes[0] or sizes[1:] != sizes[:1] * 2:
        raise ValueError(f"oscillators per axis differ, or there is no axis: frequency, damping, strength have {sizes}")
    axes, longest = len(sizes[0]), max(sizes[0])
    weights = np.full(axes, 1 / axes) if weights is None else weights
    per_axis = [np.asarray(values, float).reshape(-1) for values in (epsilon_inf, weights)]
    if any(values.size != axes for values in per_axis):
        raise ValueError(f"{axes} axes, but {per_axis[0].size} epsilon_inf and {per_axis[1].size} weights")
    padded = [
        np.array([_pad(row, (longest,), PADDING[name]) for row in each])
        for name, each in zip(("frequency", "damping", "strength"), rows, strict=True)
    ]
    active = np.arange(longest) < np.array(sizes[0])[:, None]
    return Dispersion(*(jnp.asarray(leaf) for leaf in (*padded, *per_axis, active)))


def stack(dispersions: Sequence[Dispersion]) -> Dispersion:
    """Many minerals as one, with a leading library axis; axes and oscillators are padded to the greatest number.

    Works on values, outside of compiled functions.

    Args:
        dispersions: minerals without leading axes.

    Returns:
        A `Dispersion` that renders to `[library, band]`.

    Raises:
        ValueError: an empty list, or a member that is itself a stack.
    """
    if not dispersions:
        raise ValueError("a library has at least one mineral, got none")
    if any(d.frequency.ndim != 2 for d in dispersions):
        raise ValueError(
            f"stack takes minerals of shape (axis, oscillator), got {[d.frequency.shape for d in dispersions]}"
        )
    axes, oscillators = (max(d.frequency.shape[i] for d in dispersions) for i in (0, 1))

    def stacked(name: str) -> Array:
        members = [np.asarray(getattr(d, name)) for d in dispersions]
        shape = (axes, oscillators)[: members[0].ndim]
        return jnp.asarray(np.stack([_pad(member, shape, PADDING[name]) for member in members]))

    return Dispersion(**{name: stacked(name) for name in PADDING})


def unstack(library: Dispersion) -> list[Dispersion]:
    """The minerals of a stacked library, each without its padding.

    Args:
        library: with one leading axis, as from `stack`.

    Raises:
        ValueError: another number of leading axes.
    """
    if library.frequency.ndim != 3:
        raise ValueError(f"unstack takes (library, axis, oscillator), got shape {library.frequency.shape}")
    return [trim(jax.tree.map(lambda leaf, i=i: leaf[i], library)) for i in range(library.frequency.shape[0])]


def trim(dispersion: Dispersion) -> Dispersion:
    """The same mineral without padding: active oscillators first, as few of them and of axes as there are.

    Works on values, outside of compiled functions. At least one axis and one oscillator are kept.

    Args:
        dispersion: one mineral, without leading axes.

    Raises:
        ValueError: leading axes.
    """
    if dispersion.frequency.ndim != 2:
        raise ValueError(f"trim takes one mineral (axis, oscillator), got shape {dispersion.frequency.shape}")
    leaves = {name: np.asarray(getattr(dispersion, name)) for name in PADDING}
    used = np.array(used_axes(dispersion))
    used[0] |= not used.any()
    order = np.argsort(~leaves["active"][used], axis=-1, kind="stable")
    order = order[:, : max(1, int(leaves["active"].sum(axis=-1).max()))]

    def trimmed(leaf: np.ndarray) -> Array:
        kept = leaf[used]
        return jnp.asarray(np.take_along_axis(kept, order, axis=-1) if kept.ndim == 2 else kept)

    return Dispersion(**{name: trimmed(leaf) for name, leaf in leaves.items()})


def _pad(array: np.ndarray, shape: tuple[int, ...], value: Any) -> np.ndarray:
    """The array with `value` behind it up to the shape."""
    return np.pad(
        array, [(0, want - have) for want, have in zip(shape, array.shape, strict=True)], constant_values=value
    )


def check_wavenumber(wavenumber: Any, *, known: bool = False) -> None:
    """Refuse an axis that is not increasing wavenumbers in cm⁻¹.

    Rendering takes any order and never raises; a fit asks first.

    Args:
        wavenumber: what is to be cm⁻¹.
        known: whether the unit is certain; otherwise sizes that are usual for wavelengths are refused.

    Raises:
        ValueError: empty, NaN or infinite, not above zero, descending or unordered, or by its size a wavelength.
    """
    values = np.asarray(wavenumber)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"wavenumber is one axis of bands in cm⁻¹, got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"wavenumber has {int((~np.isfinite(values)).sum())} values that are NaN or infinite")
    if values.min() <= 0:
        raise ValueError(f"wavenumbers are above zero, got {values.min():g}")
    if not known and values.max() < MICROMETRE:
        raise ValueError(
            f"wavenumbers from {values.min():g} to {values.max():g} look like wavelengths in µm; "
            "cm⁻¹ is wanted: 1e4 / wavelength, in increasing order"
        )
    if not known and values.min() > NANOMETRE:
        raise ValueError(
            f"wavenumbers from {values.min():g} to {values.max():g} look like wavelengths in nm; "
            "cm⁻¹ is wanted: 1e7 / wavelength, in increasing order; if they are cm⁻¹, give a SpectralAxis that says so"
        )
    steps = np.diff(values)
    if steps.size and np.all(steps < 0):
        raise ValueError("wavenumber descends; reverse it and the spectrum with [..., ::-1]")
    if np.any(steps <= 0):
        at = int(np.argmax(steps <= 0))
        raise ValueError(f"wavenumber does not increase: {values[at]:g} is followed by {values[at + 1]:g}")
