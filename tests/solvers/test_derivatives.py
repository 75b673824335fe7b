"""Derivatives of abundances and residual equal central differences of the oracle, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close
from solvers.cases import SOLVERS, oracle, scene, spectra

from unmix_jax.solvers import least_squares
from unmix_jax.solvers.least_squares import polynomial_baseline, prepare

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
