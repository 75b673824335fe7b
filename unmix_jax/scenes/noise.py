"""Noise for simulated scenes: how large a sensor makes it, and drawing it.

A thermal sensor has noise that is about constant in radiance. Emissivity is radiance divided by the Planck
function, so its noise grows towards both ends of the spectrum, where little is emitted.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer, Key, Real

from unmix_jax.physics.planck import planck

__all__ = ["add_noise", "emissivity_noise_std", "nesr_from_nedt", "noise_covariance", "snr_std"]


def emissivity_noise_std(
    wavenumber: Real[ArrayLike, "*#shape"],
    temperature: Real[ArrayLike, "*#shape"],
    nesr: Real[ArrayLike, "*#shape"],
    downwelling: Float[ArrayLike, "*#shape"] = 0.0,
) -> Float[Array, "*shape"]:
    """Standard deviation of emissivity that was divided out of a noisy radiance.

    σ_ε(ν) = σ_L / |B(ν, T) − L↓|

    The reference prints the variance as σ_L² / B; dividing a radiance by B divides its variance by B², and that is
    what is computed. The temperature is taken as known.

    Args:
        wavenumber: cm⁻¹.
        temperature: of the surface, K.
        nesr: noise-equivalent spectral radiance σ_L, W m⁻² sr⁻¹ (cm⁻¹)⁻¹: one for all bands, or one
            for each (`nesr_from_nedt`).
        downwelling: radiance that falls on the surface and is taken out with it, in the unit of `nesr`.

    Returns:
        Standard deviation, fraction.

    Raises:
        ValueError: negative noise or temperature; wavenumbers that are not positive or look like µm.

    Reference:
        Janiczek et al. 2020, section on noise, arXiv:2007.05996.
    """
    _refuse_negative(nesr=nesr)
    return jnp.asarray(nesr) / jnp.abs(planck(wavenumber, temperature) - downwelling)


def nesr_from_nedt(
    wavenumber: Real[ArrayLike, "*#shape"],
    temperature: Real[ArrayLike, "*#shape"],
    nedt: Real[ArrayLike, "*#shape"],
) -> Float[Array, "*shape"]:
    """Radiance noise of a sensor whose noise is given as a temperature difference.

    NESR(ν) = NEΔT · ∂B/∂T(ν, T)

    Args:
        wavenumber: cm⁻¹.
        temperature: at which the temperature difference is given, K (data sheets: mostly 300 K).
        nedt: noise-equivalent temperature difference, K.

    Returns:
        Noise-equivalent spectral radiance, W m⁻² sr⁻¹ (cm⁻¹)⁻¹.

    Raises:
        ValueError: negative noise or temperature; wavenumbers that are not positive or look like µm.
    """
    _refuse_negative(temperature=temperature, nedt=nedt)
    kelvin = 1.0 * jnp.asarray(temperature)
    slope = jax.jvp(lambda t: planck(wavenumber, t), (kelvin,), (jnp.ones_like(kelvin),))[1]
    return jnp.asarray(nedt) * slope


def snr_std(spectra: Real[Any, "*pixel band"], snr: Real[ArrayLike, ""]) -> Float[Array, ""]:
    """Standard deviation of white noise that gives a scene a signal-to-noise ratio.

    SNR = 10 log₁₀(E‖x‖² / E‖n‖²), so σ = √mean(x²) · 10^(−SNR/20).

    The means run over the whole scene, so that all its pixels and bands get the same noise and dark pixels
    have a lower ratio of their own; `jax.vmap` gives each pixel the same ratio instead.

    Args:
        spectra: noise-free, any unit; NaN is left out.
        snr: signal-to-noise ratio, dB.

    Returns:
        Standard deviation, in the unit of the spectra; NaN where all of them are.

    Reference:
        Bioucas-Dias and Nascimento 2008, 10.1109/TGRS.2008.918089.
    """
    spectra = 1.0 * jnp.asarray(spectra)  # squares of integers overflow
    return jnp.sqrt(jnp.nanmean(jnp.square(spectra))) * 10.0 ** (-jnp.asarray(snr) / 20)


def add_noise(
    key: Key[Array, ""],
    spectra: Real[Any, "*pixel band"],
    std: Real[ArrayLike, "*_"],
    *,
    first_pixel: Integer[ArrayLike, ""] = 0,
) -> Float[Array, "*pixel band"]:
    """Spectra with independent Gaussian noise in every pixel and band.

    Pixel number n, counted through the leading axes, draws from ``jax.random.fold_in(key, n)``: its noise
    depends neither on the tile it comes in nor on how many pixels follow.

    Args:
        key: random key.
        spectra: one spectrum, a list or an image of them, any unit.
        std: standard deviation in the unit of the spectra, of any shape that broadcasts to theirs: a number, one
            for each band (`emissivity_noise_std`), or ``std[:, None]`` for one of each pixel.
        first_pixel: number in the scene of the first of these pixels.

    Returns:
        Noisy spectra, in the dtype of `spectra` (integers become floats); nothing is clipped.

    Raises:
        ValueError: a negative standard deviation, or one whose shape does not fit.
    """
    _refuse_negative(std=std)
    spectra = 1.0 * jnp.asarray(spectra)
    *pixels, bands = spectra.shape
    try:
        std = jnp.broadcast_to(jnp.asarray(std, spectra.dtype), spectra.shape)
    except ValueError:
        raise ValueError(f"std has shape {np.shape(std)}, which does not fit spectra of {spectra.shape}") from None
    numbers = jnp.asarray(first_pixel, jnp.uint32) + jnp.arange(math.prod(pixels), dtype=jnp.uint32)
    draw = jax.vmap(lambda n: jax.random.normal(jax.random.fold_in(key, n), (bands,), spectra.dtype))
    return spectra + std * draw(numbers).reshape(spectra.shape)


def _refuse_negative(**arguments: ArrayLike) -> None:
    """Raise where an argument can be seen to be negative; under ``jit`` it cannot."""
    for name, values in arguments.items():
        if not isinstance(values, jax.core.Tracer) and (np.asarray(values) < 0).any():
            raise ValueError(f"{name} must not be negative, got {np.nanmin(values):g}")


def noise_covariance(
    position: Real[Any, "..."], noise: float | Real[Any, "..."], *, broad: float, length: float
) -> Float[np.ndarray, "band band"]:
    """Covariance of noise of two kinds: of the sensor, band by band, and of a model that is wrong in broad ways.

    C_bc = σ_b² δ_bc + τ² exp(−|ν_b − ν_c| / ℓ)

    Laboratory endmembers are never quite those of the rock. What they miss is smooth along the spectrum, and hundreds
    of bands that miss it together are not hundreds of witnesses.

    Args:
        position: where each band lies, wavenumber in cm⁻¹ or wavelength in nm.
        noise: standard deviation σ of the sensor, one for all bands or one for each, in the unit of the spectra.
        broad: standard deviation τ of what the model misses, likewise.
        length: ℓ over which it changes, in the unit of `position`.

    Returns:
        What `prepare` takes as ``noise_covariance`` and `prepare_synthesis` as ``noise``, in the squared unit of the
        spectra. τ and ℓ may be those of greatest likelihood (``fitted["log_likelihood"]`` of `marginal`).

    Raises:
        ValueError: a position that is not one axis, noise or length that is not positive, a negative τ, or shapes that
            disagree.

    Reference:
        Kennedy & O'Hagan 2001, doi:10.1111/1467-9868.00294, for the discrepancy of a model as a Gaussian process;
        Uhlenbeck & Ornstein 1930, doi:10.1103/PhysRev.36.823, for the covariance.
    """
    position, std = np.asarray(position, float), np.asarray(noise, float)
    if position.ndim != 1 or std.shape not in ((), position.shape):
        raise ValueError(
            f"position is one axis of bands and noise one number or as many, got {position.shape}, {std.shape}"
        )
    if not (np.isfinite(std).all() and (std > 0).all() and np.isfinite(position).all()):
        raise ValueError("noise is a standard deviation: finite and above zero; positions are finite")
    if not (0 <= broad < math.inf and 0 < length < math.inf):
        raise ValueError(f"broad is not below zero and length above it, got {broad} and {length}")
    apart = np.abs(position[:, None] - position)
    return np.diag(np.broadcast_to(std**2, position.shape)) + broad**2 * np.exp(-apart / length)
