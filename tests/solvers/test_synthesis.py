"""Unmixing with endmembers that vary: laws over two generators and three solvers."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close
from solvers.varied import BANDS, GENERATORS, NOISE, SOLVERS, minerals, prepared, rendered, rmse, scaled, scene, unmix

from unmix_jax.physics.variation import ScaleSlopeShift
from unmix_jax.solvers.least_squares import fcls, prepare
from unmix_jax.solvers.synthesis import alternating, map_synthesis, marginal, prepare_synthesis

each_solver = pytest.mark.parametrize("solver", ["marginal", "map"])
each_generator = pytest.mark.parametrize("kind", GENERATORS)


@functools.cache
def solved(solver, kind):
    return unmix(eqx.Partial(SOLVERS[solver], endmembers=prepared(kind)), scene(kind)[0])


@each_generator
@each_solver
def test_better_than_fixed_endmembers_and_on_the_simplex(solver, kind):
    pixels, truth, _ = scene(kind)
    fixed = unmix(eqx.Partial(fcls, endmembers=prepared(kind).library), pixels)
    found = solved(solver, kind)
    assert rmse(found.abundances, truth) < 0.75 * rmse(fixed.abundances, truth)
    assert np.all(found.abundances >= 0)
    assert_close(found.abundances.sum(-1), np.ones(len(pixels), np.float32))
    assert found.converged.mean() > 0.8
    assert np.all(found.residual < fixed.residual)


@each_solver
def test_tolerance_zero_is_fcls_exactly(solver):
    pixels, _, _ = scene("minerals")
    still = prepared("minerals", 0.0)
    library = np.asarray(still.library.endmembers)
    found = unmix(eqx.Partial(SOLVERS[solver], endmembers=still), pixels)
    exact = unmix(eqx.Partial(fcls, endmembers=still.library), pixels)
    assert np.array_equal(found.abundances, exact.abundances)
    plain = unmix(eqx.Partial(fcls, endmembers=prepare(library)), pixels)
    np.testing.assert_allclose(found.abundances, plain.abundances, atol=2e-5)
    assert np.array_equal(found.residual, exact.residual)
    assert found.converged.all()


@pytest.mark.parametrize(("solver", "kind"), [("marginal", "minerals"), ("map", "scale, slope, shift")])
def test_vmap_is_a_loop_and_the_tile_does_not_matter(solver, kind):
    pixels = scene(kind)[0][:9]
    unmixer = eqx.Partial(SOLVERS[solver], endmembers=prepared(kind))
    many, alone = solved(solver, kind), unmix(unmixer, pixels, tile=1)
    # the other ends where a step gains less than a thousandth, which rounding decides
    near = {"marginal": 2e-4, "map": 1e-3}[solver]
    np.testing.assert_allclose(alone.abundances, many.abundances[:9], atol=near)
    if solver == "map":
        np.testing.assert_allclose(alone.fitted["objective"], many.fitted["objective"][:9], rtol=1e-4)
    np.testing.assert_allclose(alone.residual, many.residual[:9], rtol=1e-2)
    if solver == "marginal":  # the other one takes long to compile
        one = eqx.filter_jit(unmixer)(pixels[5])
        np.testing.assert_allclose(one.abundances, many.abundances[5], atol=2e-4)
        np.testing.assert_allclose(one.residual, many.residual[5], rtol=1e-2)


@functools.cache
def differentiated(solver):
    """A weighted sum of the abundances with its derivative in the pixel, and the solution that it comes from."""
    solve = {"marginal": marginal, "map": functools.partial(map_synthesis, max_steps=30, tol=1e-9)}[solver]

    def value(pixel, problem):
        found = solve(pixel, problem)
        return jnp.sum(jnp.arange(5.0) * found.abundances), found

    return jax.jit(jax.value_and_grad(value, has_aux=True))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", ["minerals"])
def test_truth_without_noise(kind):
    """A pixel of the library itself has no error to explain; one of moved endmembers is found by fitting them."""
    generator = GENERATORS[kind]()
    problem = prepare_synthesis(generator, noise=1e-5, rank=40, samples=64, prior=0.3)
    truth = np.array([0.5, 0.3, 0.0, 0.2, 0.0])
    rng = np.random.default_rng(1)
    u = 0.3 * rng.normal(size=generator.free.shape) * np.asarray(generator.free)
    exact, moved = truth @ np.asarray(rendered(generator, jnp.asarray([0 * u, u])))
    exact, moved = (differentiated("map")(jnp.asarray(pixel), problem)[0][1] for pixel in (exact, moved))
    np.testing.assert_allclose(exact.abundances, truth, atol=2e-3)
    np.testing.assert_allclose(moved.abundances, truth, atol=6e-2)
    assert float(moved.residual) < 1e-4


@each_generator
def test_the_objective_falls(kind):
    history = solved("map", kind).fitted["history"]
    for row, last in zip(history, solved("map", kind).fitted["objective"], strict=True):
        row = row[np.isfinite(row)]
        assert np.all(np.diff(row) <= 0)
        assert last <= row[-1] * (1 + 1e-4) + 1e-2
    assert np.nanmean(history[:, 0]) > 1.05 * np.mean(solved("map", kind).fitted["objective"])


@pytest.mark.parametrize("kind", ["scale, slope, shift"])
def test_no_worse_than_a_plain_optimiser_of_the_same_objective(kind):
    """Adam on displacements, abundances by a softmax, started where the solver starts, 1000 steps."""
    problem, pixels = prepared(kind), scene(kind)[0][:6]
    found = solved("map", kind)
    first = solved("marginal", kind).abundances[:6]

    def objective(parameters, pixel):
        x = jax.nn.softmax(parameters[0])
        spectra = problem.reduce(problem.generator(parameters[1]))
        scaled = jnp.where(problem.prior > 0, parameters[1] / jnp.where(problem.prior > 0, problem.prior, 1), 0)
        return 0.5 * jnp.sum((problem.reduce(pixel) - x @ spectra) ** 2) + 0.5 * jnp.sum(scaled**2)

    @jax.jit
    @jax.vmap
    def plain(pixel, start):
        parameters = (jnp.log(start + 1e-4), jnp.zeros(problem.prior.shape))
        zeros = jax.tree.map(jnp.zeros_like, parameters)

        def step(state, number):
            parameters, mean, square = state
            slope = jax.grad(objective)(parameters, pixel)
            mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, slope)
            square = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, square, slope)
            parameters = jax.tree.map(
                lambda p, m, v: p - 0.02 * m / (1 - 0.9**number) / (jnp.sqrt(v / (1 - 0.999**number)) + 1e-8),
                parameters,
                mean,
                square,
            )
            return ((parameters[0], jnp.clip(parameters[1], -1, 1)), mean, square), None

        (parameters, _, _), _ = jax.lax.scan(step, (parameters, zeros, zeros), jnp.arange(1.0, 1001))
        return objective(parameters, pixel)

    reached = np.asarray(plain(pixels, first))
    assert np.mean(found.fitted["objective"][:6] <= 1.01 * reached + 1e-2) >= 5 / 6


def test_coverage_of_what_is_found():
    pixels, truth, _ = scene("minerals", pixels=400)
    found = unmix(eqx.Partial(marginal, endmembers=prepared("minerals")), pixels)
    error = np.abs(found.abundances - truth)
    std = np.sqrt(np.diagonal(found.covariance, axis1=1, axis2=2))
    there = found.abundances > 0
    assert abs(np.mean(error[there] <= std[there]) - 0.683) < 0.08
    assert abs(np.mean(error[there] <= 2 * std[there]) - 0.954) < 0.05


@each_solver
def test_a_spectrum_that_the_library_cannot_render_is_flagged(solver):
    pixels = scene("minerals")[0][:8]
    alien = pixels + 0.1 * np.sin(np.arange(len(BANDS), dtype=np.float32))
    found = unmix(eqx.Partial(SOLVERS[solver], endmembers=prepared("minerals")), np.concatenate([pixels, alien]))
    assert np.all(found.fitted["chi2"][:8] < 2)
    assert np.all(found.fitted["chi2"][8:] > 10)


def test_the_likelihood_finds_noise_and_prior():
    pixels = scene("minerals", pixels=200)[0]

    def evidence(noise, width):
        problem = prepare_synthesis(minerals(), noise=noise, prior=width * 3**-0.5, rank=40, samples=256)
        return float(np.sum(unmix(eqx.Partial(marginal, endmembers=problem), pixels).fitted["log_likelihood"]))

    right = evidence(NOISE, 1.0)
    assert all(right > evidence(*other) for other in ((NOISE / 3, 1.0), (NOISE * 3, 1.0), (NOISE, 0.3)))


@each_solver
def test_derivatives_in_the_pixel_are_the_differences(solver):
    with jax.enable_x64(True):
        problem = prepare_synthesis(minerals(0.3), noise=NOISE, rank=40, samples=64)
        pixel = jnp.asarray(scene("minerals")[0][3], jnp.float64)
        both = differentiated(solver)
        slope = both(pixel, problem)[1]
        direction = jnp.asarray(np.random.default_rng(0).normal(size=pixel.shape))
        step = 1e-5
        ends = [both(pixel + sign * step * direction, problem)[0][0] for sign in (1, -1)]
        difference = (ends[0] - ends[1]) / (2 * step)
        assert np.isfinite(slope).all()
        tolerance = 1e-4 if solver == "marginal" else 0.2  # Gauss-Newton leaves out the curvature of the spectra
        np.testing.assert_allclose(float(slope @ direction), float(difference), rtol=tolerance)


@pytest.mark.parametrize("solver", ["marginal"])
def test_bands_that_do_not_count_do_not_count(solver):
    pixels = scene("minerals")[0][:8]
    good = np.ones(len(BANDS), bool)
    good[[0, 7, 40, 80]] = False
    problem = prepared("minerals")
    masked = prepare_synthesis(minerals(), noise=NOISE, rank=40, samples=256, good_bands=good)
    spoiled = np.where(good, pixels, np.float32(55.0))
    solve = eqx.Partial(SOLVERS[solver], endmembers=masked)
    assert_close(unmix(solve, spoiled).abundances, unmix(solve, pixels).abundances)
    near = unmix(eqx.Partial(SOLVERS[solver], endmembers=problem), pixels).abundances
    assert np.abs(unmix(solve, spoiled).abundances - near).max() < 0.2


@pytest.mark.parametrize("solver", ["marginal"])
def test_a_baseline_is_fitted_along(solver):
    pixels = scene("minerals")[0][:16]
    position = np.linspace(-1, 1, len(BANDS), dtype=np.float32)
    problem = prepare_synthesis(minerals(), noise=NOISE, rank=40, samples=256, baseline=2)
    solve = eqx.Partial(SOLVERS[solver], endmembers=problem)
    bent = pixels + np.float32(0.2) - np.float32(0.1) * position + np.float32(0.05) * position**2
    np.testing.assert_allclose(unmix(solve, bent).abundances, unmix(solve, pixels).abundances, atol=2e-3)


def test_noise_per_band_weighs_the_bands():
    pixels = scene("minerals")[0][:8]
    noise = np.where(np.arange(len(BANDS)) < 40, NOISE, 1e3)
    half = prepare_synthesis(minerals(), noise=noise, rank=40, samples=256)
    masked = prepare_synthesis(minerals(), noise=NOISE, rank=40, samples=256, good_bands=np.arange(len(BANDS)) < 40)
    a, b = (unmix(eqx.Partial(marginal, endmembers=p), pixels).abundances for p in (half, masked))
    np.testing.assert_allclose(a, b, atol=5e-3)


@each_generator
def test_alternating_starts_at_fcls_and_lowers_the_error(kind):
    pixels = scene(kind)[0][:6]
    generator = GENERATORS[kind]()
    found = unmix(eqx.Partial(alternating, endmembers=generator, steps=10, record=True), pixels)
    library = np.asarray(generator(jnp.zeros(generator.free.shape)))
    exact = unmix(eqx.Partial(fcls, endmembers=prepare(library)), pixels)
    np.testing.assert_allclose(found.fitted["path"][:, 0], exact.abundances, atol=1e-4)
    assert_close(found.fitted["path"][:, -1], found.abundances)
    assert np.all(found.fitted["history"][:, -1] < found.fitted["history"][:, 0])
    assert np.abs(found.fitted["displacement"]).max() <= 1
    once = unmix(eqx.Partial(alternating, endmembers=generator, steps=1), pixels)
    np.testing.assert_allclose(once.abundances, exact.abundances, atol=1e-4)


@pytest.mark.usefixtures("x64")
def test_alternating_takes_the_steps_of_adam_in_the_units_of_the_parameters():
    """Against a loop in NumPy: SLSQP is replaced by FCLS, Adam written out, the gradient by differences."""
    generator = ScaleSlopeShift(np.asarray(scaled().endmembers, np.float64)[:3], scale=0.1, slope=0.1, shift=0.0)
    pixel = np.asarray(scene("scale, slope, shift")[0][0], np.float64)
    found = jax.jit(lambda pixel, generator: alternating(pixel, generator, steps=4, learning_rate=0.02))(
        jnp.asarray(pixel), generator
    )
    render, solve = jax.jit(lambda u: generator(u)), jax.jit(fcls)
    slope_of = jax.jit(jax.grad(lambda r, x: jnp.mean((pixel - x @ generator(r / divisor)) ** 2)))
    raw = np.zeros(generator.free.shape)
    mean, square = raw.copy(), raw.copy()
    width = np.asarray(generator.width)
    divisor = np.where(width > 0, width, 1.0)
    for number in range(1, 5):
        spectra = np.asarray(render(jnp.asarray(raw / divisor)))
        x = np.asarray(solve(jnp.asarray(pixel), prepare(spectra)).abundances)
        slope = np.asarray(slope_of(jnp.asarray(raw), jnp.asarray(x)))
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        if number < 4:
            move = mean / (1 - 0.9**number) / (np.sqrt(square / (1 - 0.999**number)) + 1e-8)
            raw = np.clip(raw - 0.02 * move * (width > 0), -width, width)
    np.testing.assert_allclose(found.abundances, x, atol=1e-6)
    np.testing.assert_allclose(found.fitted["displacement"], raw / divisor, atol=1e-6)


def test_a_penalty_makes_abundances_sparser():
    pixels = scene("minerals")[0][:8]
    plain, sparse = (
        unmix(eqx.Partial(alternating, endmembers=minerals(), steps=1, **options), pixels).abundances
        for options in ({}, {"penalty": 3e-3, "exponent": 0.5})
    )
    assert np.sum(sparse > 1e-3) < np.sum(plain > 1e-3)
    assert_close(sparse.sum(-1), np.ones(8, np.float32))
