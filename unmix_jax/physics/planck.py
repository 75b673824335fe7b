"""Thermal emission: Planck radiance, brightness temperature, and emissivity out of radiance.

Everything is elementwise and broadcasts as NumPy does: one temperature for all bands, or ``temperature[:, None]``
for a column of pixels. Wavenumbers are in cm⁻¹ and their radiance in W m⁻² sr⁻¹ (cm⁻¹)⁻¹ (a thousand times what
is printed as mW m⁻² sr⁻¹ (cm⁻¹)⁻¹); wavelengths are in nm and their radiance in W m⁻² sr⁻¹ µm⁻¹. Temperatures are
in K. The constants are the exact ones of the SI of 2019 (CODATA 2018).

Float32 is enough: a radiance is right to (4 + x) · 2.5e-7 of itself, where x is the exponent hcν / kT (5 at 1000 cm⁻¹
and 300 K), unless it is too small for a normal number and becomes zero. A brightness temperature is right to 1e-6 of
itself.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

__all__ = [
    "brightness_temperature",
    "brightness_temperature_wavelength",
    "emissivity",
    "planck",
    "planck_wavelength",
    "radiance",
]

H, C, K = 6.62607015e-34, 299792458.0, 1.380649e-23  # J s, m/s, J/K: exact by definition
FIRST = 2 * H * C**2  # W m² sr⁻¹
SECOND = H * C / K  # m K
PER_CM, PER_UM = 1e2, 1e6  # in a metre: radiation constants in these units keep float32 far from its limits
MICROMETRES_BELOW = 100  # no sensor looks only beyond 100 µm or only below 100 nm: such an axis is in µm


def planck(wavenumber: Real[ArrayLike, "*#shape"], temperature: Real[ArrayLike, "*#shape"]) -> Float[Array, "*shape"]:
    """Spectral radiance of a blackbody per wavenumber.

    B(ν, T) = 2hc²ν³ / (exp(x) − 1) with x = hcν / kT

    Differentiable in both arguments, with finite gradients at any positive temperature.

    Args:
        wavenumber: cm⁻¹.
        temperature: K; zero gives zero.

    Returns:
        Radiance, W m⁻² sr⁻¹ (cm⁻¹)⁻¹.

    Raises:
        ValueError: wavenumbers that are not positive or look like µm, a negative temperature. Values under
            ``jit``, ``grad`` and ``vmap`` cannot be looked at, here and in all functions of this module.
    """
    scale, ratio = _per_wavenumber(wavenumber)
    return _emitted(scale, ratio / _kelvin(temperature))


def planck_wavelength(
    wavelength: Real[ArrayLike, "*#shape"], temperature: Real[ArrayLike, "*#shape"]
) -> Float[Array, "*shape"]:
    """Spectral radiance of a blackbody per wavelength.

    B(λ, T) = 2hc²λ⁻⁵ / (exp(x) − 1) with x = hc / λkT

    Args:
        wavelength: nm.
        temperature: K; zero gives zero.

    Returns:
        Radiance, W m⁻² sr⁻¹ µm⁻¹.

    Raises:
        ValueError: wavelengths that are not positive or look like µm, a negative temperature.
    """
    scale, ratio = _per_wavelength(wavelength)
    return _emitted(scale, ratio / _kelvin(temperature))


def brightness_temperature(
    radiance: Float[ArrayLike, "*#shape"], wavenumber: Real[ArrayLike, "*#shape"]
) -> Float[Array, "*shape"]:
    """Temperature of the blackbody that has this radiance per wavenumber: the inverse of `planck`.

    T = hcν / (k ln(1 + 2hc²ν³ / L))

    Args:
        radiance: W m⁻² sr⁻¹ (cm⁻¹)⁻¹.
        wavenumber: cm⁻¹.

    Returns:
        Temperature, K; zero for zero radiance, NaN for a negative one (noise can make it so).

    Raises:
        ValueError: wavenumbers that are not positive or look like µm.
    """
    scale, ratio = _per_wavenumber(wavenumber)
    return ratio / _exponent(scale, radiance)


def brightness_temperature_wavelength(
    radiance: Float[ArrayLike, "*#shape"], wavelength: Real[ArrayLike, "*#shape"]
) -> Float[Array, "*shape"]:
    """Temperature of the blackbody that has this radiance per wavelength: the inverse of `planck_wavelength`.

    T = hc / (λk ln(1 + 2hc²λ⁻⁵ / L))

    Args:
        radiance: W m⁻² sr⁻¹ µm⁻¹.
        wavelength: nm.

    Returns:
        Temperature, K; zero for zero radiance, NaN for a negative one.

    Raises:
        ValueError: wavelengths that are not positive or look like µm.
    """
    scale, ratio = _per_wavelength(wavelength)
    return ratio / _exponent(scale, radiance)


def radiance(
    emissivity: Float[ArrayLike, "*#shape"],
    wavenumber: Real[ArrayLike, "*#shape"],
    temperature: Real[ArrayLike, "*#shape"],
    downwelling: Float[ArrayLike, "*#shape"] = 0.0,
) -> Float[Array, "*shape"]:
    """Radiance that leaves an opaque surface: what it emits, and what it reflects of the light from above.

    L = ε B(ν, T) + (1 − ε) L↓

    Args:
        emissivity: fraction.
        wavenumber: cm⁻¹.
        temperature: of the surface, K.
        downwelling: radiance L↓ that falls on it, W m⁻² sr⁻¹ (cm⁻¹)⁻¹.

    Returns:
        Radiance, W m⁻² sr⁻¹ (cm⁻¹)⁻¹.

    Raises:
        ValueError: wavenumbers that are not positive or look like µm, a negative temperature.
    """
    downwelling = jnp.asarray(downwelling)
    return downwelling + emissivity * (planck(wavenumber, temperature) - downwelling)


def emissivity(
    radiance: Float[ArrayLike, "*#shape"],
    wavenumber: Real[ArrayLike, "*#shape"],
    temperature: Real[ArrayLike, "*#shape"],
    downwelling: Float[ArrayLike, "*#shape"] = 0.0,
) -> Float[Array, "*shape"]:
    """Emissivity of an opaque surface of known temperature: the inverse of `radiance`.

    ε = (L − L↓) / (B(ν, T) − L↓)

    Args:
        radiance: that leaves the surface, W m⁻² sr⁻¹ (cm⁻¹)⁻¹.
        wavenumber: cm⁻¹.
        temperature: of the surface, K.
        downwelling: radiance L↓ that falls on it, W m⁻² sr⁻¹ (cm⁻¹)⁻¹.

    Returns:
        Emissivity, fraction; not finite where the surface is as bright as what it reflects, since no
        measurement can tell there.

    Raises:
        ValueError: wavenumbers that are not positive or look like µm, a negative temperature.
    """
    downwelling = jnp.asarray(downwelling)
    return (jnp.asarray(radiance) - downwelling) / (planck(wavenumber, temperature) - downwelling)


def _per_wavenumber(wavenumber: ArrayLike) -> tuple[Array, Array]:
    """Radiance scale 2hc²ν³, and hcν / k in K."""
    wavenumber = _axis(wavenumber, "wavenumber", "cm⁻¹")
    return FIRST * PER_CM**4 * wavenumber**3, SECOND * PER_CM * wavenumber


def _per_wavelength(wavelength: ArrayLike) -> tuple[Array, Array]:
    """Radiance scale 2hc²λ⁻⁵, and hc / λk in K."""
    micrometres = 1e-3 * _axis(wavelength, "wavelength", "nm")
    return FIRST * PER_UM**4 / micrometres**5, SECOND * PER_UM / micrometres


def _emitted(scale: Array, x: Array) -> Array:
    """``scale / (exp(x) - 1)`` without overflow; exp(-x) in halves, or it is zero long before the product is."""
    half = jnp.exp(-x / 2)
    return half * (scale * half) / -jnp.expm1(-x)


def _exponent(scale: Array, radiance: ArrayLike) -> Array:
    """``log(1 + scale / radiance)``, also where the ratio overflows."""
    root, large = jnp.sqrt(scale) / jnp.sqrt(radiance), 1e9
    return jnp.log1p(jnp.minimum(root, large) ** 2) + 2 * jnp.log(jnp.maximum(root / large, 1.0))


def _axis(values: ArrayLike, name: str, unit: str) -> Array:
    """A spectral axis in floating point, refused where it can be seen to be wrong."""
    if not isinstance(values, jax.core.Tracer):
        seen = np.asarray(values)
        if (seen <= 0).any():
            raise ValueError(f"{name} must be positive, in {unit}, got {np.nanmin(seen):g}")
        if seen.size > 1 and seen.max() < MICROMETRES_BELOW:  # a single number says too little
            raise ValueError(f"{name} must be in {unit}; up to {seen.max():g} it looks like µm")
    return 1.0 * jnp.asarray(values)


def _kelvin(temperature: ArrayLike) -> Array:
    """A temperature, refused where it can be seen to be negative."""
    if not isinstance(temperature, jax.core.Tracer) and (np.asarray(temperature) < 0).any():
        raise ValueError(f"temperature must not be negative, in K, got {np.nanmin(temperature):g}")
    return jnp.asarray(temperature)
