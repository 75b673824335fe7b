"""Inversion of mixing models: truth recovered, SciPy's optimum reached, limits kept, what cannot be told said."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from helpers import assert_close
from scipy.optimize import minimize

from unmix_jax.driver import unmix
from unmix_jax.physics.hapke import Hapke
from unmix_jax.physics.mixing import ELMM, GBM, MLM, PPNM, SCLS, Fan, Linear, Nascimento, pair_products, split
from unmix_jax.solvers.inversion import invert, prepare_inversion
from unmix_jax.solvers.least_squares import fcls, prepare
from unmix_jax.solvers.uncertainty import cramer_rao

DRAW = np.random.default_rng(21)
BANDS = 40
X = np.linspace(0, 1, BANDS)
ENDMEMBERS = np.stack([0.1 + 0.5 * X, 0.5 - 0.3 * X + 0.2 * np.sin(9 * X), 0.3 + 0.25 * np.cos(7 * X)])
ABUNDANCES = DRAW.dirichlet(np.ones(3), 24)
ABUNDANCES[:4] = [[1, 0, 0], [0, 0.5, 0.5], [0.2, 0, 0.8], [0, 0, 1]]
PIXELS = 200  # of every batch, so that each model compiles once


class Raised(eqx.Module):
    """A model that the package does not know: light that the sensor adds to a linear mixture."""

    fitted: ClassVar[tuple[str, ...]] = ("offset",)

    offset: jax.Array

    def __call__(self, abundances, endmembers):
        return abundances @ endmembers + self.offset


MODELS = {  # where the fit starts, and what pixels are made by
    "Fan": (Fan, Fan),
    "GBM": (lambda: GBM(jnp.full(3, 0.5)), lambda: GBM(jnp.array([0.3, 0.6, 0.8]))),
    "PPNM": (lambda: PPNM(jnp.zeros(())), lambda: PPNM(jnp.asarray(0.25))),
    "PPNM, bent down": (lambda: PPNM(jnp.zeros(())), lambda: PPNM(jnp.asarray(-0.3))),
    "MLM": (lambda: MLM(jnp.zeros(())), lambda: MLM(jnp.asarray(0.7))),
    "Hapke": (Hapke, Hapke),
    "of a user": (lambda: Raised(jnp.zeros(())), lambda: Raised(jnp.asarray(0.07))),
}
each_model = pytest.mark.parametrize("name", MODELS)
in_float64 = pytest.mark.usefixtures("x64")


@eqx.filter_jit
def batch(problem, pixels):
    return jax.vmap(lambda pixel: invert(pixel, problem))(pixels)


def solve(problem, pixels):
    solution = batch(problem, np.resize(pixels, (PIXELS, np.shape(pixels)[1])))
    return jax.tree.map(lambda x: np.asarray(x)[: len(pixels)], solution)


def single(pixel, problem):
    return jax.tree.map(lambda x: x[0], solve(problem, np.asarray(pixel)[None]))


def rendered(name, abundances=ABUNDANCES):
    model = MODELS[name][1]()
    return np.asarray(jax.vmap(lambda a: model(a, jnp.asarray(ENDMEMBERS)))(jnp.asarray(abundances)))


def noisy(name, level=0.004):
    pixels = rendered(name)
    return pixels + level * np.random.default_rng(3).standard_normal(pixels.shape)


def arrays(model):
    """Its fitted numbers."""
    return jax.tree.leaves(split(model, model.fitted)[0])


def parameters(model):
    return np.concatenate([np.ravel(leaf) for leaf in arrays(model)] or [[]])


@in_float64
@each_model
def test_laws(name):
    """All in one test, so that one process compiles the model and no other waits for its own."""
    for law in LAWS[name]:
        law(*([name] if law in OF_ANY else []))


def noise_free_truth_comes_back(name):
    solution = solve(prepare_inversion(ENDMEMBERS, MODELS[name][0]()), rendered(name))
    np.testing.assert_allclose(solution.abundances, ABUNDANCES, atol=1e-7)
    assert np.all(solution.converged)
    assert np.max(solution.gap) < 1e-12
    told = np.all(ABUNDANCES > 0, 1)
    for found, truth in zip(arrays(solution.fitted.mixing), arrays(MODELS[name][1]()), strict=False):
        np.testing.assert_allclose(found[told], np.broadcast_to(truth, found[told].shape), atol=1e-5)


def no_objective_is_above_that_of_slsqp(name):
    start, pixels = MODELS[name][0](), noisy(name)[:8]
    problem = prepare_inversion(ENDMEMBERS, start)
    solution = solve(problem, pixels)
    unknown_arrays, rest = eqx.partition(start, eqx.is_inexact_array)
    leaves, tree = jax.tree.flatten(unknown_arrays)
    sizes = np.cumsum([3, *[leaf.size for leaf in leaves]])

    @jax.jit
    def objective(unknown, pixel):
        parts = [unknown[a:b].reshape(x.shape) for a, b, x in zip(sizes[:-1], sizes[1:], leaves, strict=True)]
        model = eqx.combine(jax.tree.unflatten(tree, parts), rest)
        return 0.5 * jnp.sum((model(unknown[:3], jnp.asarray(ENDMEMBERS)) - pixel) ** 2)

    slope = jax.jit(jax.grad(objective))
    bounds = [(0, 1)] * 3 + list(zip(np.asarray(problem.low), np.asarray(problem.high), strict=True))
    for n, pixel in enumerate(pixels):
        theirs = minimize(
            lambda u, y=pixel: float(objective(u, y)),
            np.concatenate([np.full(3, 1 / 3), parameters(start)]),
            jac=lambda u, y=pixel: np.asarray(slope(u, y)),
            bounds=bounds,
            constraints={"type": "eq", "fun": lambda u: u[:3].sum() - 1},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 300},
        )
        ours = 0.5 * BANDS * float(solution.residual[n]) ** 2
        assert ours <= theirs.fun * (1 + 1e-9)
    assert np.all(solution.converged)


@pytest.mark.parametrize("name", ["MLM"])
def test_float32_is_near_float64(name):
    with jax.enable_x64(True):
        pixels = noisy(name, 0.001)
        exact = solve(prepare_inversion(ENDMEMBERS, MODELS[name][0]()), pixels)
    single = solve(prepare_inversion(ENDMEMBERS.astype(np.float32), MODELS[name][0]()), pixels.astype(np.float32))
    assert single.abundances.dtype == np.float32
    assert np.all(single.converged)
    interior = np.all(ABUNDANCES > 0.02, 1)
    np.testing.assert_allclose(single.residual, exact.residual, rtol=2e-3)
    np.testing.assert_allclose(single.abundances[interior], exact.abundances[interior], atol=2e-2)


@in_float64
def test_one_at_a_time_and_the_driver_equal_the_batch():
    pixels, start = noisy("Fan")[:5], Fan()
    many = solve(prepare_inversion(ENDMEMBERS, start), pixels)
    one = jax.jit(lambda pixel: invert(pixel, ENDMEMBERS, start))
    for n, pixel in enumerate(pixels):
        np.testing.assert_allclose(one(pixel).abundances, many.abundances[n], atol=1e-9)
        np.testing.assert_allclose(one(pixel).covariance, many.covariance[n], rtol=1e-5, atol=1e-15)
    driven = unmix(eqx.Partial(invert, endmembers=ENDMEMBERS, mixing=start), pixels, tile=PIXELS)
    np.testing.assert_allclose(driven.abundances, many.abundances, atol=1e-9)


def turned_endmembers_turn_abundances():
    pixels, order = noisy("PPNM"), [2, 0, 1]
    straight = solve(prepare_inversion(ENDMEMBERS, PPNM(jnp.zeros(()))), pixels)
    turned = solve(prepare_inversion(ENDMEMBERS[order], PPNM(jnp.zeros(()))), pixels)
    np.testing.assert_allclose(turned.abundances, straight.abundances[:, order], atol=1e-8)


@in_float64
def test_linear_is_fully_constrained_least_squares():
    pixels = noisy("Fan")
    solution = solve(prepare_inversion(ENDMEMBERS, Linear()), pixels)
    exact = jax.vmap(lambda pixel: fcls(pixel, prepare(ENDMEMBERS)))(jnp.asarray(pixels))
    assert_close(solution.abundances, exact.abundances)


@in_float64
def test_pairs_of_nascimento_are_materials():
    two = ENDMEMBERS[:2]
    shares = np.random.default_rng(5).dirichlet(np.ones(3), 6)
    spectra = np.concatenate([two, np.asarray(pair_products(two))])
    solution = solve(prepare_inversion(two, Nascimento(jnp.full(1, 0.1))), shares @ spectra)
    np.testing.assert_allclose(solution.abundances, shares[:, :2], atol=1e-7)
    np.testing.assert_allclose(solution.fitted.mixing.interactions, shares[:, 2:], atol=1e-7)
    assert solution.covariance.shape == (6, 2, 2)


@in_float64
def test_scales_need_a_prior_and_follow_it():
    truth = ELMM(jnp.array([1.1, 0.9, 1.0]))
    pixel = np.asarray(truth(jnp.array([0.5, 0.3, 0.2]), jnp.asarray(ENDMEMBERS)))
    start = ELMM(jnp.ones(3))
    loose = single(pixel, prepare_inversion(ENDMEMBERS, start, noise=1e-3))
    assert not loose.unique
    assert np.isinf(np.diag(loose.fitted.covariance)).all()
    tied = prepare_inversion(ENDMEMBERS, start, noise=1e-3, spread=ELMM(jnp.full(3, 0.05)))
    solution = single(pixel, tied)
    assert solution.unique
    assert solution.converged
    assert np.isfinite(solution.fitted.covariance).all()
    np.testing.assert_allclose(solution.fitted.mixing.scales * solution.abundances, [0.55, 0.27, 0.2], atol=2e-3)


def covariance_is_that_of_cramer_and_rao(name):
    start, pixel = MODELS[name][0](), noisy(name)[10]
    solution = single(pixel, prepare_inversion(ENDMEMBERS, start))
    unknowns = len(solution.fitted.covariance)
    noise = solution.residual * np.sqrt(BANDS / (BANDS - unknowns + 1))
    bound = cramer_rao(eqx.combine(solution.fitted.mixing, start), solution.abundances, ENDMEMBERS, noise)
    np.testing.assert_allclose(solution.fitted.covariance, bound.covariance, rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(solution.covariance.sum(0), 0, atol=1e-9)


def abundances_are_covered(name):
    draw = np.random.default_rng(8)
    abundances = 0.15 + 0.55 * draw.dirichlet(np.ones(3), 6 * PIXELS)
    pixels = rendered(name, abundances)
    pixels = pixels + 0.001 * draw.standard_normal(pixels.shape)
    problem = prepare_inversion(ENDMEMBERS, MODELS[name][0]())
    parts = [solve(problem, part) for part in np.split(pixels, 6)]
    spread = np.sqrt(np.diagonal(np.concatenate([part.covariance for part in parts]), axis1=1, axis2=2))
    error = np.abs(np.concatenate([part.abundances for part in parts]) - abundances)
    assert abs(np.mean(error <= spread) - 0.683) < 0.05
    assert abs(np.mean(error <= 2 * spread) - 0.954) < 0.05


@in_float64
def test_derivatives_equal_central_differences():
    start, pixel, draw = MLM(jnp.zeros(())), noisy("MLM", 0.0005)[10], np.random.default_rng(6)
    weights = draw.standard_normal(4)

    def answer(pixel, endmembers):
        solution = invert(pixel, endmembers, start)
        return jnp.append(solution.abundances, solution.fitted.mixing.probability) @ weights

    slopes = jax.jit(jax.grad(answer, (0, 1)))(jnp.asarray(pixel), jnp.asarray(ENDMEMBERS))

    def moved(step, pixel_by, endmembers_by):
        problem = prepare_inversion(ENDMEMBERS + step * endmembers_by, start)
        solution = single(pixel + step * pixel_by, problem)
        return np.append(solution.abundances, solution.fitted.mixing.probability) @ weights

    step, nothing = 1e-6, np.zeros(BANDS)
    for by in ((draw.standard_normal(BANDS), np.zeros((3, BANDS))), (nothing, draw.standard_normal((3, BANDS)))):
        change = (moved(step, *by) - moved(-step, *by)) / (2 * step)
        np.testing.assert_allclose(sum(np.sum(s * b) for s, b in zip(slopes, by, strict=True)), change, rtol=2e-4)


# ------------------------------------------------------------------------------------------------ bad input


def identical_endmembers_are_said():
    twice = ENDMEMBERS[[0, 1, 0]]
    solution = single(ENDMEMBERS[0] * 0.7 + ENDMEMBERS[1] * 0.3, prepare_inversion(twice, PPNM(jnp.zeros(()))))
    assert solution.converged
    assert not solution.unique
    np.testing.assert_allclose(solution.abundances[0] + solution.abundances[2], 0.7, atol=1e-8)


def pure_pixel_tells_nothing_of_interactions():
    pure = single(ENDMEMBERS[0], prepare_inversion(ENDMEMBERS, MODELS["GBM"][0]()))
    np.testing.assert_allclose(pure.abundances, [1, 0, 0], atol=1e-9)
    np.testing.assert_allclose(pure.fitted.mixing.interactions, 0.5)
    np.testing.assert_allclose(np.diag(pure.fitted.covariance)[3:], 1 / 3, rtol=1e-6)


@in_float64
def test_pixels_far_darker_than_the_model_can_be_come_to_an_end():
    """The misfit is many times the pixel, and so is its rounding; a descent that takes no note of it never ends."""
    bright, limits = 5 * ENDMEMBERS, (PPNM(jnp.asarray(-0.3)), PPNM(jnp.asarray(0.3)))
    dark = 0.05 * ABUNDANCES @ ENDMEMBERS + 0.002 * np.random.default_rng(5).standard_normal((24, BANDS))
    found = solve(prepare_inversion(bright, PPNM(jnp.zeros(())), limits=limits), dark)
    assert found.converged.all()
    assert found.steps.max() < 80


@in_float64
def test_parameters_may_be_known_and_pixels_may_have_endmembers_of_their_own():
    scales = np.linspace(0.8, 1.1, 6)[:, None, None]
    own, shares = scales * ENDMEMBERS, ABUNDANCES[4:10]
    known = PPNM(0.25)
    pixels = jax.vmap(known)(jnp.asarray(shares), jnp.asarray(own))
    solution = jax.jit(jax.vmap(lambda pixel, spectra: invert(pixel, spectra, known, fit=())))(pixels, own)
    np.testing.assert_allclose(solution.abundances, shares, atol=1e-8)
    assert solution.fitted.mixing.nonlinearity is None
    assert solution.fitted.covariance.shape == (6, 3, 3)


@in_float64
def test_limits_of_a_phase_function_are_those_of_what_is_fitted():
    start = Hapke(phase_function="legendre", b=jnp.asarray(-0.2))
    limits = tuple(Hapke(phase_function="legendre", b=jnp.asarray(b)) for b in (-1.0, 1.0))
    problem = prepare_inversion(ENDMEMBERS, start, limits=limits, fit=("b",))
    np.testing.assert_array_equal([problem.low, problem.high, problem.center], [[-1], [1], [-0.2]])
    pixel = start(jnp.array([0.5, 0.3, 0.2]), jnp.asarray(ENDMEMBERS))  # where it starts it is linear in albedo
    np.testing.assert_allclose(
        problem.straighten(pixel), np.array([0.5, 0.3, 0.2]) @ problem.mixing.albedo_of(ENDMEMBERS)
    )


@in_float64
def test_one_endmember():
    solution = single(0.7 * ENDMEMBERS[0], prepare_inversion(ENDMEMBERS[:1], SCLS(jnp.ones(()))))
    np.testing.assert_allclose(solution.abundances, [1.0])
    np.testing.assert_allclose(solution.fitted.mixing.brightness, 0.7)
    assert solution.unique


def folded_spectra_end_on_the_limit():
    problem = prepare_inversion(ENDMEMBERS, PPNM(jnp.zeros(())))
    folded = PPNM(jnp.asarray(-2.0))(jnp.array([0.3, 0.3, 0.4]), jnp.asarray(ENDMEMBERS))  # 1 + 2bs < 0 in many bands
    solution = single(folded, problem)
    assert np.isfinite(solution.abundances).all()
    assert np.asarray(solution.fitted.mixing.nonlinearity) >= np.asarray(problem.low[0])
    assert solution.residual > 1e-3


def light_that_hardly_returns():
    near = 1 - 1e-4
    dark = MLM(jnp.asarray(near))(jnp.array([0.3, 0.3, 0.4]), jnp.asarray(ENDMEMBERS))
    found = single(dark, prepare_inversion(ENDMEMBERS, MLM(jnp.zeros(()))))
    np.testing.assert_allclose(found.abundances, [0.3, 0.3, 0.4], atol=1e-4)
    np.testing.assert_allclose(found.fitted.mixing.probability, near, atol=1e-6)


def what_is_no_spectrum_does_not_converge(name):
    pixels = np.tile(rendered(name)[5], (4, 1))
    pixels[0, 3], pixels[1], pixels[2, 2] = np.nan, 0.0, np.inf
    solution = solve(prepare_inversion(ENDMEMBERS, MODELS[name][0]()), pixels)
    assert not solution.converged[0]
    assert not solution.converged[2]
    assert solution.converged[3]


def reflectances_without_an_albedo_are_fitted():
    bright = rendered("Hapke")[5].copy()
    bright[:3] = [1.2, -0.1, 0.0]
    solution = single(bright, prepare_inversion(ENDMEMBERS, Hapke()))
    assert solution.converged
    assert np.isfinite(solution.abundances).all()


@in_float64
def test_bands_that_do_not_count_may_hold_anything():
    good = np.arange(BANDS) > 5
    endmembers, pixel = ENDMEMBERS.copy(), rendered("Fan")[8].copy()
    endmembers[:, ~good], pixel[~good] = np.nan, 1e9
    solution = single(pixel, prepare_inversion(endmembers, Fan(), good_bands=good))
    np.testing.assert_allclose(solution.abundances, ABUNDANCES[8], atol=1e-9)
    assert solution.residual < 1e-9


OF_ANY = (
    noise_free_truth_comes_back,
    abundances_are_covered,
    what_is_no_spectrum_does_not_converge,
    no_objective_is_above_that_of_slsqp,
    covariance_is_that_of_cramer_and_rao,
)
LAWS = {
    "Fan": OF_ANY[:2],
    "GBM": (*OF_ANY[:4], pure_pixel_tells_nothing_of_interactions),
    "PPNM": (
        *OF_ANY,
        turned_endmembers_turn_abundances,
        identical_endmembers_are_said,
        folded_spectra_end_on_the_limit,
    ),
    "PPNM, bent down": OF_ANY[:3],
    "MLM": (*OF_ANY[:4], light_that_hardly_returns),
    "Hapke": (*OF_ANY, reflectances_without_an_albedo_are_fitted),
    "of a user": OF_ANY[:3],
}


WRONG = {
    "no model": (lambda: invert(ENDMEMBERS[0], ENDMEMBERS), "needs a mixing model"),
    "two models": (lambda: invert(ENDMEMBERS[0], prepare_inversion(ENDMEMBERS, Fan()), Fan()), "do not give another"),
    "bands": (lambda: invert(ENDMEMBERS[0, 1:], ENDMEMBERS, Fan()), "40 bands, pixels have 39"),
    "an image": (lambda: invert(ENDMEMBERS, ENDMEMBERS, Fan()), "one pixel is"),
    "endmembers": (lambda: prepare_inversion(ENDMEMBERS[0], Fan()), "must be \\[endmember, band\\]"),
    "NaN": (lambda: prepare_inversion(np.full((2, 4), np.nan), Fan()), "NaN or infinite"),
    "noise": (lambda: prepare_inversion(ENDMEMBERS, Fan(), noise=0.0), "above zero"),
    "noise of bands": (lambda: prepare_inversion(ENDMEMBERS, Fan(), noise=np.ones(3)), "one number or 40"),
    "good bands": (lambda: prepare_inversion(ENDMEMBERS, Fan(), good_bands=np.ones(3, bool)), "40 bands"),
    "no band": (lambda: prepare_inversion(ENDMEMBERS, Fan(), good_bands=np.zeros(BANDS, bool)), "no band to look at"),
    "too bright": (lambda: prepare_inversion(1 + ENDMEMBERS, Hapke()), "endmember 0 has reflectance 1.1"),
    "dark": (lambda: prepare_inversion(ENDMEMBERS - 0.2, Hapke()), "none below zero"),
    "start": (lambda: prepare_inversion(ENDMEMBERS, MLM(jnp.asarray(1.5))), "outside its limits"),
    "interactions": (lambda: prepare_inversion(ENDMEMBERS, GBM(jnp.zeros(2))), "3 pairs"),
    "prior": (lambda: prepare_inversion(ENDMEMBERS, ELMM(jnp.ones(3)), spread=ELMM(jnp.ones(3))), "give noise"),
    "spread": (
        lambda: prepare_inversion(ENDMEMBERS, ELMM(jnp.ones(3)), noise=0.1, spread=ELMM(jnp.zeros(3))),
        "above zero",
    ),
    "limits": (
        lambda: prepare_inversion(ENDMEMBERS, MLM(jnp.zeros(())), limits=(Fan(), Fan())),
        "limits holds Fan",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors_say_what_arrived(name, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the messages are for users
    call, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        call()
