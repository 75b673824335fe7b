"""Derivatives of abundances and residual equal central differences of the oracle, in float64."""

import functools
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close
from solvers.cases import SOLVERS, oracle, scene, spectra

from unmix_jax.physics.mixing import Linear
from unmix_jax.physics.variation import ScaleSlopeShift
from unmix_jax.solvers import least_squares
from unmix_jax.solvers.compositional import bcm, ncm
from unmix_jax.solvers.compositional_prepare import prepare_bcm, prepare_ncm
from unmix_jax.solvers.distributions import Normal, beta_from_moments
from unmix_jax.solvers.evidence import choose
from unmix_jax.solvers.inversion import invert
from unmix_jax.solvers.inversion_prepare import prepare_inversion
from unmix_jax.solvers.least_squares import polynomial_baseline, prepare
from unmix_jax.solvers.sparse import lp_sunsal, sunsal
from unmix_jax.solvers.synthesis import alternating, posterior, prepare_synthesis

STEP = 1e-6
ACCURACY = 50  # of the differences, in units of the float64 tolerance
over_solvers = pytest.mark.parametrize("name", SOLVERS)
pytestmark = pytest.mark.usefixtures("x64")


def generic(count, bands, pixels=4, seed=0):
    """Pixels that leave some endmembers out, and none on the brink."""
    rng = np.random.default_rng([seed, count])
    endmembers = spectra(rng, count, bands)
    truth = rng.dirichlet(np.ones(count), pixels)
    truth[:, 0] = -0.2
    return truth @ endmembers + 0.02 * rng.normal(size=(pixels, bands)), endmembers


def differences(function, x):
    """Derivative of `function` in every entry of `x`, on the last axes."""
    columns = []
    for i in range(x.size):
        change = np.zeros(x.size)
        change[i] = STEP
        change = change.reshape(x.shape)
        columns.append((function(x + change) - function(x - change)) / (2 * STEP))
    return np.stack(columns, -1).reshape(*np.shape(columns[0]), *x.shape)


def rms(name, pixel, endmembers, **options):
    abundances = oracle(name, pixel[None], endmembers, **options)[0]
    return np.sqrt(np.mean((pixel - abundances @ endmembers) ** 2))


@pytest.mark.parametrize(("name", "count", "bands"), [*((name, 3, 6) for name in SOLVERS), ("fcls", 14, 16)])
def test_abundances_forward_and_reverse(name, count, bands):
    pixels, endmembers = generic(count, bands, 2)
    solver = getattr(least_squares, name)

    def abundances(pixel, endmembers):
        return solver(pixel, endmembers).abundances

    forward = jax.jit(jax.vmap(jax.jacfwd(abundances, (0, 1)), (0, None)))(pixels, endmembers)
    reverse = jax.jit(jax.vmap(jax.jacrev(abundances, (0, 1)), (0, None)))(pixels, endmembers)
    for i, pixel in enumerate(pixels):
        by_pixel = differences(lambda y: oracle(name, y[None], endmembers)[0], pixel)
        by_endmembers = differences(lambda e, y=pixel: oracle(name, y[None], e)[0], endmembers)
        for result in (forward, reverse):
            assert_close(result[0][i], by_pixel, scale=ACCURACY)
            assert_close(result[1][i], by_endmembers, scale=ACCURACY)
    active = oracle(name, pixels, endmembers) == 0
    assert active.any() == (name in ("nnls", "fcls"))


@over_solvers
def test_second_derivatives_in_the_endmembers(name):
    pixels, endmembers = generic(3, 6, 1)
    weights = jnp.arange(1.0, 4.0)

    def value(endmembers):
        return jnp.sum(getattr(least_squares, name)(pixels[0], endmembers).abundances * weights)

    slope = jax.jit(jax.grad(value))
    found = jax.jit(jax.hessian(value))(endmembers)
    assert np.abs(found).max() > 0.1
    assert_close(found, differences(lambda e: np.asarray(slope(e)), endmembers), scale=ACCURACY)


@over_solvers
@pytest.mark.parametrize("option", ["weights", "noise_covariance", "baseline"])
def test_options_of_the_problem(name, option):
    """Weights, noise and baseline columns have derivatives too."""
    pixels, endmembers = generic(3, 8, 1)
    rng = np.random.default_rng(4)
    slope = np.linspace(-1, 1, 8)
    start = {
        "weights": rng.uniform(0.5, 2, 8),
        "noise_covariance": np.diag(rng.uniform(0.5, 2, 8)) + 0.1,
        "baseline": np.stack([np.ones(8), slope]),
    }[option]
    along = rng.normal(size=start.shape)
    along = along + along.T if option == "noise_covariance" else along

    @jax.jit
    def value(amount):
        prepared = prepare(endmembers, **{option: start + amount * along})
        return jnp.sum(getattr(least_squares, name)(pixels[0], prepared).abundances * jnp.arange(1.0, 4.0))

    numbers = (float(value(STEP)) - float(value(-STEP))) / (2 * STEP)
    assert abs(numbers) > 1e-6
    for derivative in (jax.grad(value)(0.0), jax.jacfwd(value)(0.0)):
        assert_close(derivative, np.float64(numbers), scale=ACCURACY)


@over_solvers
def test_float32_loses_nothing_of_the_condition(name):
    """Two alike endmembers, condition number 1000: squared in float32 a tenth of a derivative was lost."""
    rng = np.random.default_rng(5)
    endmembers = spectra(rng, 4, 12)
    endmembers[3] = endmembers[2] + 2e-3 * rng.normal(size=12)
    pixel = np.array([0.2, 0.3, 0.25, 0.25]) @ endmembers
    pixel, endmembers = pixel.astype(np.float32), endmembers.astype(np.float32)
    assert np.linalg.cond(endmembers) > 700

    def total(pixel, endmembers):
        return jnp.sum(getattr(least_squares, name)(pixel, endmembers).abundances * jnp.arange(1.0, 5.0))

    exact = [np.asarray(x) for x in jax.grad(total, (0, 1))(pixel.astype(float), endmembers.astype(float))]
    with jax.enable_x64(False):
        for mode in (jax.grad, jax.jacfwd):
            found = [np.asarray(x) for x in mode(total, (0, 1))(jnp.asarray(pixel), jnp.asarray(endmembers))]
            assert all(x.dtype == np.float32 for x in found)
            for x, y in zip(found, exact, strict=True):
                assert np.abs(x - y).max() < 1e-3 * np.abs(y).max()


@pytest.mark.parametrize("solver", [sunsal, lambda y, e: lp_sunsal(y, e, lp=1e-3)])
def test_what_has_no_derivatives_says_so(solver):
    pixels, endmembers = generic(3, 6, 1)
    for mode in (jax.grad, jax.jacfwd):
        with pytest.raises(TypeError, match="no derivatives"):
            mode(lambda y: jnp.sum(solver(y, endmembers).abundances))(jnp.asarray(pixels[0]))
        with pytest.raises(TypeError, match="no derivatives"):
            mode(lambda e: jnp.sum(solver(pixels[0], e).abundances))(jnp.asarray(endmembers))


def others(spectra):
    """Solvers of other problems with these endmembers, of a pixel."""
    varied = ScaleSlopeShift(spectra, scale=0.1, slope=0.1, shift=0.0)
    synthesis = prepare_synthesis(varied, noise=0.01, rank=8, samples=8)
    linear = eqx.Partial(invert, endmembers=prepare_inversion(spectra, Linear(), noise=0.01))
    return {
        "ncm": partial(ncm, endmembers=prepare_ncm(Normal.isotropic(spectra, 0.01))),
        "bcm": partial(bcm, endmembers=prepare_bcm(beta_from_moments(spectra, np.full(spectra.shape, 1e-4)))),
        "posterior": partial(posterior, endmembers=synthesis),
        "alternating": partial(alternating, endmembers=varied),
        "choose": choose({"linear": linear}, noise=0.01),
    }


@pytest.mark.parametrize("name", ["ncm", "bcm", "posterior", "alternating", "choose"])
def test_averages_and_searches_have_no_derivatives_and_say_so(name):
    pixels, endmembers = generic(3, 12, 1)
    solver = others(np.clip(endmembers, 0.05, 0.95))[name]
    for mode in (jax.grad, jax.jacfwd):
        with pytest.raises(TypeError, match="has no derivatives"):
            mode(lambda y: jnp.sum(solver(y).abundances))(jnp.asarray(np.clip(pixels[0], 0.05, 0.95)))


@over_solvers
def test_a_loss_of_the_residual(name):
    """The gradient of the fit itself, with the endmembers shared by all pixels."""
    pixels, endmembers = generic(4, 8)
    solver = getattr(least_squares, name)

    def loss(pixels, endmembers):
        return jnp.sum(jax.vmap(solver, (0, None))(pixels, endmembers).residual)

    value, (by_pixels, by_endmembers) = jax.jit(jax.value_and_grad(loss, (0, 1)))(pixels, endmembers)
    expected = functools.partial(lambda y, e: sum(rms(name, pixel, e) for pixel in y))
    assert_close(float(value), expected(pixels, endmembers))
    assert_close(by_pixels, differences(lambda y: expected(y, endmembers), pixels), scale=ACCURACY)
    assert_close(by_endmembers, differences(lambda e: expected(pixels, e), endmembers), scale=ACCURACY)


@over_solvers
def test_prepared_endmembers_carry_the_gradient(name):
    """`prepare` inside the loss, with weights and a baseline, under vmap."""
    pixels, endmembers = generic(3, 8)
    weights = np.linspace(0.5, 2, 8)
    weights[3] = 0
    kept = np.diag(np.sqrt(weights))
    columns = polynomial_baseline(np.arange(8.0), 1)
    goal = np.linspace(1, 2, 3)
    solver = getattr(least_squares, name)

    def loss(endmembers):
        problem = prepare(endmembers, weights=weights, baseline=columns)
        return jnp.sum(jax.vmap(solver, (0, None))(pixels, problem).abundances * goal)

    def expected(endmembers):
        return np.sum(oracle(name, pixels, endmembers, whitener=kept, free=columns) * goal)

    assert_close(jax.jit(jax.grad(loss))(endmembers), differences(expected, endmembers), scale=ACCURACY)


@over_solvers
def test_gradients_of_pixels_with_endmembers_prepared_outside(name):
    """The tables of supports in use: the path of the driver."""
    case = scene(3, 7, "float64")
    pixels, endmembers = generic(3, 7)
    prepared = prepare(endmembers)
    solver = getattr(least_squares, name)

    def loss(pixel):
        solution = solver(pixel, prepared)
        return jnp.sum(solution.abundances**2) + solution.residual

    def expected(pixel):
        return np.sum(oracle(name, pixel[None], endmembers)[0] ** 2) + rms(name, pixel, endmembers)

    gradients = jax.jit(jax.vmap(jax.grad(loss)))(pixels)
    assert_close(gradients, np.array([differences(expected, y) for y in pixels]), scale=ACCURACY)
    assert np.isfinite(jax.jit(jax.vmap(jax.grad(loss)))(case.pixels)).all()


@over_solvers
def test_gradients_are_finite_where_there_is_no_derivative(name):
    """Exact fits, black pixels, duplicate and black endmembers."""
    endmembers = np.array([[1.0, 2.0, 1.0], [1.0, 2.0, 1.0], [0.0, 0.0, 0.0], [3.0, 1.0, 1.0]])
    pixels = np.array([[1.0, 2.0, 1.0], [0.0, 0.0, 0.0], [2.0, 1.5, 1.0], [0.0, 1.0, -1.0]])
    solver = getattr(least_squares, name)

    def loss(pixel, endmembers):
        solution = solver(pixel, endmembers)
        return jnp.sum(solution.abundances**2) + solution.residual

    gradients = jax.jit(jax.vmap(jax.grad(loss, (0, 1)), (0, None)))(pixels, endmembers)
    for gradient in gradients:
        assert np.isfinite(gradient).all()
