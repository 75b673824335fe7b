"""The spectral response against closed forms and against quadrature."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close
from scipy.integrate import quad

from unmix_jax.physics import sensor
from unmix_jax.physics.sensor import SIGMA_PER_FWHM, coverage

response = jax.jit(sensor.response)  # much less to compile than one operation at a time

UNEVEN = np.sort(np.random.default_rng(0).uniform(400, 1000, 301))
GRIDS = {"even": np.linspace(400, 1000, 301), "uneven": UNEVEN, "coarse": np.linspace(400, 1000, 13)}
WIDTHS = [0.0, 1e-3, 0.7, 4.0, 30.0]
CENTERS = np.array([650.0, 520.0, 801.37])  # far from the ends, in no order


def bands(grid, width, dtype=np.float64):
    arrays = (GRIDS[grid], CENTERS, np.full(3, width))
    return [jnp.asarray(a, dtype) for a in arrays]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("grid", GRIDS)
def test_flat_and_linear_spectra_are_exact(grid, width, dtype):
    source, centers, fwhm = bands(grid, width, dtype)
    matrix = response(source, centers, fwhm)
    assert matrix.dtype == dtype
    assert_close(matrix.sum(1), np.ones(3, dtype))
    assert (matrix >= -1e-6).all()
    assert_close(matrix @ (source / 1000), centers / 1000)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("width", [4.0, 11.0, 60.0])
def test_gaussian_features_add_widths_in_quadrature(width):
    source = jnp.linspace(300.0, 1100.0, 8001)
    center, depth_at, feature = 650.0, 655.0, 12.0
    sigma, own = feature * SIGMA_PER_FWHM, width * SIGMA_PER_FWHM
    spectrum = jnp.exp(-0.5 * ((source - depth_at) / sigma) ** 2)
    both = np.hypot(sigma, own)
    expected = sigma / both * np.exp(-0.5 * ((center - depth_at) / both) ** 2)
    matrix = response(source, jnp.array([center]), jnp.array([width]))
    np.testing.assert_allclose(float((matrix @ spectrum)[0]), expected, rtol=2e-5)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("width", [0.7, 9.0, 200.0])
def test_equals_quadrature_of_the_straight_lines(width):
    source = np.array([400.0, 407.0, 409.0, 430.0, 470.0, 470.5, 520.0])
    spectrum = np.array([0.1, 0.9, 0.3, 0.5, 0.0, 1.0, 0.4])
    center, sigma = 429.0, width * SIGMA_PER_FWHM

    def integral(function):
        pieces = pairwise(source)
        knots = center - 3 * sigma, center, center + 3 * sigma
        return sum(
            quad(function, a, b, points=[k for k in knots if a < k < b] or None, epsabs=1e-13)[0] for a, b in pieces
        )

    weight = lambda x: np.exp(-0.5 * ((x - center) / sigma) ** 2)  # noqa: E731
    expected = integral(lambda x: weight(x) * np.interp(x, source, spectrum)) / integral(weight)
    matrix = response(jnp.asarray(source), jnp.array([center]), jnp.array([width]))
    np.testing.assert_allclose(float((matrix @ spectrum)[0]), expected, rtol=1e-9)


@pytest.mark.parametrize("width", [0.0, 1e-6, 0.3])
def test_narrow_bands_interpolate(width):
    source = jnp.linspace(400.0, 1000.0, 61)
    centers = jnp.array([405.0, 447.5, 600.0])
    spectrum = jnp.asarray(np.random.default_rng(1).uniform(size=61), jnp.float32)
    matrix = response(source, centers, jnp.full(3, width))
    expected = np.interp(centers, source, spectrum)
    np.testing.assert_allclose(matrix @ spectrum, expected, atol=0.02 * width + 1e-4)


def test_repeated_source_positions_stay_finite():
    source = jnp.array([400.0, 410.0, 410.0, 420.0, 430.0])
    matrix = sensor.response(source, jnp.array([412.0, 410.0]), jnp.array([8.0, 0.0]))  # without jit
    assert np.isfinite(matrix).all()
    assert_close(matrix.sum(1), np.ones(2, np.float32))


def test_rows_outside_the_range_are_zero_and_coverage_says_so():
    source = jnp.linspace(400.0, 1000.0, 101)
    centers, fwhm = jnp.array([700.0, 400.0, 1000.0, 2000.0, 1005.0]), jnp.full(5, 10.0)
    share = coverage(source, centers, fwhm)
    z = 5 / (10 * SIGMA_PER_FWHM)
    outside = 0.5 * (1 - float(jax.scipy.special.erf(z / np.sqrt(2))))
    np.testing.assert_allclose(share, [1.0, 0.5, 0.5, 0.0, outside], atol=1e-5)
    matrix = response(source, centers, fwhm)
    assert_close(matrix.sum(1), np.array([1, 1, 1, 0, 1], np.float32))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("width", [0.8, 3.9, 4.1, 40.0])  # cells of 2 nm: both formulas and their seam
@pytest.mark.parametrize("argument", [1, 2])
def test_gradients_equal_central_differences(argument, width):
    source = jnp.linspace(400.0, 1000.0, 301)
    spectrum = 0.5 + 0.3 * jnp.sin(source / 17.0)
    arguments = [source, jnp.array([651.3, 520.2, 400.9]), jnp.full(3, width)]

    def rendered(value):
        return response(*[value if i == argument else a for i, a in enumerate(arguments)]) @ spectrum

    value, step = arguments[argument], 1e-4
    forward = jnp.diagonal(jax.jit(jax.jacfwd(rendered))(value))
    backward = jnp.diagonal(jax.jit(jax.jacrev(rendered))(value))
    numeric = (rendered(value + step) - rendered(value - step)) / (2 * step)
    np.testing.assert_allclose(forward, numeric, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(backward, forward, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("width", [0.0, 1e-3])
def test_gradients_of_narrow_bands_are_finite(width):
    source = jnp.linspace(400.0, 1000.0, 301)
    total = lambda c, f: jnp.sum(response(source, c, f) @ source)  # noqa: E731
    slope, _ = gradients = jax.jit(jax.grad(total, argnums=(0, 1)))(jnp.array([601.0, 10.0]), jnp.full(2, width))
    assert all(np.isfinite(g).all() for g in gradients)
    np.testing.assert_allclose(slope, [1.0, 0.0], atol=0.05)


def test_one_source_sample_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        sensor.response(jnp.array([500.0]), jnp.array([500.0]), jnp.array([10.0]))
