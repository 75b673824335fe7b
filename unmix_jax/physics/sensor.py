"""Spectral response: what a sensor's broad bands make of a finely sampled spectrum.

A band is a Gaussian of the given full width at half maximum. The spectrum between two samples is taken to
be a straight line, and the Gaussian is integrated over these straight lines exactly, tails included. So a
flat or a linear spectrum is reproduced whatever the grid, and a band narrower than the sampling turns
smoothly into linear interpolation, where a sum of Gaussian values over cells would miss every sample and
return 0/0.

The sampled spectra are taken as they are: a source that was itself measured with width f_s comes out with
√(f_s² + f_t²). To have a resolution of f_t after all, ask for √(f_t² − f_s²).

Broad bands of multispectral sensors are no Gaussians; `tabulated` takes their measured response in its place.
"""

import math

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf
from jaxtyping import Array, Float
from numpy.polynomial.legendre import leggauss

__all__ = ["coverage", "response", "tabulated"]

# Python numbers, not NumPy scalars: these would turn float32 into float64 where x64 is on.
ROOT_TWO, ROOT_TWO_PI = math.sqrt(2), math.sqrt(2 * math.pi)
SIGMA_PER_FWHM = 1 / (2 * math.sqrt(2 * math.log(2)))
QUADRATURE = [((n + 1) / 2, w / 2) for n, w in zip(*(a.tolist() for a in leggauss(5)), strict=True)]
FINE = 0.5  # cells narrower than this many sigmas: quadrature is exact there, differences of erf cancel


def response(
    source: Float[Array, " source"],
    target_centers: Float[Array, " target"],
    target_fwhm: Float[Array, " target"],
) -> Float[Array, "target source"]:
    """Weights that turn spectra sampled at `source` into the bands of a sensor.

    R_ts = ∫ G_t(x) h_s(x) dx / ∫ G_t(x) dx over the range of the source, where G_t is the Gaussian of band t and h_s
    the hat function of sample s (1 there, linearly down to 0 at its neighbours). Each row sums to one; a row without
    any response inside the range is all zero (see `coverage`). Differentiable in the centres and widths. A width of
    zero is linear interpolation.

    Args:
        source: increasing sample positions, at least two, in any spectral unit; steps may vary.
        target_centers: band centres, in any order, in the unit of `source`.
        target_fwhm: full widths at half maximum, in the unit of `source`.

    Returns:
        The matrix to apply as ``spectra @ response.T``, dimensionless.

    Raises:
        ValueError: fewer than two source samples.
    """
    if source.shape[0] < 2:
        raise ValueError(f"a spectral response needs at least 2 source samples, got {source.shape[0]}")
    center, sigma = target_centers[:, None], _sigma(target_centers, target_fwhm)[:, None]
    low, high = (source[:-1] - center) / sigma, (source[1:] - center) / sigma
    left, right = _cell_weights(low, high)
    weights = jnp.pad(left, ((0, 0), (0, 1))) + jnp.pad(right, ((0, 0), (1, 0)))
    total = jnp.sum(weights, axis=1, keepdims=True)
    seen = total > float(jnp.finfo(weights.dtype).tiny)
    return jnp.where(seen, weights / jnp.where(seen, total, 1.0), 0.0)


def coverage(
    source: Float[Array, " source"],
    target_centers: Float[Array, " target"],
    target_fwhm: Float[Array, " target"],
) -> Float[Array, " target"]:
    """Share of each band's response that lies inside the range of the source.

    c_t = Φ((max s − μ_t) / σ_t) − Φ((min s − μ_t) / σ_t)

    Args:
        source: sample positions, in any spectral unit and order.
        target_centers: band centres, in the unit of `source`.
        target_fwhm: full widths at half maximum, in the unit of `source`.

    Returns:
        Between 0 and 1; one half for a narrow band centred on the first or last sample.
    """
    sigma = _sigma(target_centers, target_fwhm)
    return _normal_cdf((jnp.max(source) - target_centers) / sigma) - _normal_cdf(
        (jnp.min(source) - target_centers) / sigma
    )


def tabulated(
    source: Float[np.ndarray, " source"],
    samples: Float[np.ndarray, " sample"],
    responses: Float[np.ndarray, "target sample"],
) -> tuple[Float[np.ndarray, "target source"], Float[np.ndarray, " target"]]:
    """Weights that turn spectra sampled at `source` into bands whose response is tabulated.

    R_ts = ∫ r_t(x) h_s(x) dx / ∫ r_t(x) dx over the range of the source, where r_t is the response of band t, linear
    between its samples and zero outside, and h_s the hat function of sample s, as in `response`. Both are straight
    lines between the samples of either, so that Simpson's rule is exact there. Computed in NumPy and double precision,
    once per pair of a library and a sensor; nothing is differentiated.

    Args:
        source: increasing sample positions, at least two.
        samples: increasing positions of the response table, at least two, in the unit of `source`.
        responses: response of each band at them, in any unit; only its shape counts.

    Returns:
        The matrix to apply as ``spectra @ matrix.T``, dimensionless, each row of it summing to one or all zero; and the
        share of each band's response inside the range of the source, between 0 and 1.

    Raises:
        ValueError: fewer than two samples; positions that do not increase; a band without any response.
    """
    source, samples, responses = (np.asarray(a, np.float64) for a in (source, samples, responses))
    for name, positions in (("source", source), ("response", samples)):
        if positions.ndim != 1 or len(positions) < 2 or not (np.diff(positions) > 0).all():
            raise ValueError(f"{name} samples must be at least 2 positions that increase")
    whole = np.trapezoid(responses, samples, axis=1)
    if not (whole > 0).all():
        raise ValueError(f"band {int(np.flatnonzero(~(whole > 0))[0]) + 1} has no response")
    inside = samples[(samples > source[0]) & (samples < source[-1])]
    nodes = np.union1d(source, inside)
    low, high = nodes[:-1], nodes[1:]
    middle = (low + high) / 2
    cell = np.clip(np.searchsorted(source, middle) - 1, 0, len(source) - 2)
    start, step = source[cell], np.diff(source)[cell]
    right = np.zeros((len(responses), len(middle)))  # integral of the response times the rising line of each cell
    total = np.zeros_like(right)
    for at, weight in ((low, 1 / 6), (middle, 4 / 6), (high, 1 / 6)):
        values = np.stack([np.interp(at, samples, band, left=0.0, right=0.0) for band in responses])
        values *= weight * (high - low)
        total += values
        right += values * ((at - start) / step)
    weights = np.zeros((len(responses), len(source)))
    for band, rising, both in zip(weights, right, total, strict=True):
        np.add.at(band, cell + 1, rising)
        np.add.at(band, cell, both - rising)
    seen = total.sum(axis=1, keepdims=True)
    matrix = np.divide(weights, seen, out=np.zeros_like(weights), where=seen > 0)
    return matrix, np.clip(seen[:, 0] / whole, 0.0, 1.0)


def _sigma(centers: Array, fwhm: Array) -> Array:
    """Standard deviation of each band, kept above the rounding of its centre."""
    smallest = float(jnp.finfo(jnp.result_type(centers, fwhm)).eps) * jnp.abs(centers)
    return jnp.maximum(fwhm * SIGMA_PER_FWHM, smallest)


def _normal_cdf(z: Array) -> Array:
    """Standard normal distribution function."""
    return 0.5 * (1 + erf(z / ROOT_TWO))


def _normal_pdf(z: Array) -> Array:
    """Standard normal density."""
    return jnp.exp(-0.5 * z**2) / ROOT_TWO_PI


def _cell_weights(low: Array, high: Array) -> tuple[Array, Array]:
    """Integrals of the standard normal density times the falling and the rising line of each cell."""
    width = high - low
    fine_left, fine_right = jnp.zeros_like(width), jnp.zeros_like(width)
    for node, weight in QUADRATURE:
        density = weight * width * _normal_pdf(low + node * width)
        fine_left, fine_right = fine_left + (1 - node) * density, fine_right + node * density
    fine = width < FINE
    safe = jnp.where(fine, 1.0, width)
    mass = _normal_cdf(high) - _normal_cdf(low)
    moment = _normal_pdf(low) - _normal_pdf(high)  # integral of z times the density
    left, right = (high * mass - moment) / safe, (moment - low * mass) / safe
    return jnp.where(fine, fine_left, left), jnp.where(fine, fine_right, right)
