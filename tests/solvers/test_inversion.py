"""Inversion of mixing models: truth recovered, SciPy's optimum reached, limits kept, what cannot be told said."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close
from scipy.optimize import minimize

from unmix_jax.driver import unmix
from unmix_jax.physics.hapke import Hapke
from unmix_jax.physics.mixing import ELMM, GBM, MLM, PPNM, SCLS, Fan, Linear, Nascimento, pair_products
from unmix_jax.solvers.inversion import invert, prepare_inversion
from unmix_jax.solvers.least_squares import fcls, prepare
from unmix_jax.solvers.uncertainty import cramer_rao

DRAW = np.random.default_rng(21)
BANDS = 40
X = np.linspace(0, 1, BANDS)
ENDMEMBERS = np.stack([0.1 + 0.5 * X, 0.5 - 0.3 * X + 0.2 * np.sin(9 * X), 0.3 + 0.25 * np.cos(7 * X)])
ABUNDANCES = DRAW.dirichlet(np.ones(3), 24)
ABUNDANCES[:4] = [[1, 0, 0], [0, 0.5, 0.5], [0.2, 0, 0.8], [0, 0, 1]]
REPEATED = jnp.full(3, 0.5)
MODELS = {  # where the fit starts, and what pixels are made by
    "Linear": (lambda: Linear(), lambda: Linear()),
    "Fan": (lambda: Fan(), lambda: Fan()),
    "GBM": (lambda: GBM(jnp.full(3, 0.5)), lambda: GBM(jnp.array([0.3, 0.6, 0.8]))),
    "PPNM": (lambda: PPNM(jnp.zeros(())), lambda: PPNM(jnp.asarray(0.25))),
    "PPNM, bent down": (lambda: PPNM(jnp.zeros(())), lambda: PPNM(jnp.asarray(-0.3))),
    "MLM": (lambda: MLM(jnp.zeros(())), lambda: MLM(jnp.asarray(0.7))),
    "SCLS": (lambda: SCLS(jnp.ones(())), lambda: SCLS(jnp.asarray(0.6))),
    "Hapke": (lambda: Hapke(), lambda: Hapke()),
    "Hapke, b unknown": (
        lambda: Hapke(phase_function="legendre", b=jnp.asarray(-0.2)),
        lambda: Hapke(phase_function="legendre", b=jnp.asarray(-0.4)),
    ),
}
each_model = pytest.mark.parametrize("name", MODELS)
in_float64 = pytest.mark.usefixtures("x64")


@eqx.filter_jit
def solve(problem, pixels):
    return jax.vmap(lambda pixel: invert(pixel, problem))(pixels)


def rendered(name, abundances=ABUNDANCES):
    model = MODELS[name][1]()
    return np.asarray(jax.vmap(lambda a: model(a, jnp.asarray(ENDMEMBERS)))(jnp.asarray(abundances)))


def noisy(name, level=0.004):
    pixels = rendered(name)
    return pixels + level * np.random.default_rng(3).standard_normal(pixels.shape)


def parameters(model):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))] or [[]])


@in_float64
@each_model
def test_noise_free_truth_comes_back(name):
    solution = solve(prepare_inversion(ENDMEMBERS, MODELS[name][0]()), rendered(name))
    np.testing.assert_allclose(solution.abundances, ABUNDANCES, atol=1e-7)
    assert np.all(solution.converged)
    assert np.max(solution.gap) < 1e-12
    told = np.all(ABUNDANCES > 0, 1)
    truth = parameters(MODELS[name][1]())
    found = np.column_stack(
        [np.reshape(x, (24, -1)) for x in jax.tree.leaves(eqx.filter(solution.fitted.mixing, eqx.is_inexact_array))]
        or [np.zeros((24, 0))]
    )
    np.testing.assert_allclose(found[told], np.tile(truth, (told.sum(), 1)), atol=1e-5)


@in_float64
@each_model
def test_no_objective_is_above_that_of_slsqp(name):
    start, pixels = MODELS[name][0](), noisy(name)[:8]
    problem = prepare_inversion(ENDMEMBERS, start)
    solution = solve(problem, pixels)
    arrays, rest = eqx.partition(start, eqx.is_inexact_array)
    leaves, tree = jax.tree.flatten(arrays)
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


@each_model
def test_float32_is_near_float64(name):
    pixels = noisy(name, 0.001)
    with jax.enable_x64(True):
        exact = solve(prepare_inversion(ENDMEMBERS, MODELS[name][0]()), pixels)
    single = solve(prepare_inversion(ENDMEMBERS.astype(np.float32), MODELS[name][0]()), pixels.astype(np.float32))
    assert single.abundances.dtype == np.float32
    assert np.all(single.converged)
    interior = np.all(ABUNDANCES > 0.02, 1)
    np.testing.assert_allclose(single.residual, exact.residual, rtol=2e-3)
    np.testing.assert_allclose(single.abundances[interior], exact.abundances[interior], atol=2e-2)


@in_float64
@pytest.mark.parametrize("name", ["GBM", "PPNM", "MLM", "Hapke"])
def test_batch_equals_one_at_a_time_and_the_driver(name):
    pixels = noisy(name)[:5]
    problem = prepare_inversion(ENDMEMBERS, MODELS[name][0]())
    many = solve(problem, pixels)
    one = eqx.filter_jit(invert)
    for n, pixel in enumerate(pixels):
        alone = one(pixel, problem)
        np.testing.assert_allclose(alone.abundances, many.abundances[n], atol=1e-9)
        np.testing.assert_allclose(alone.covariance, many.covariance[n], rtol=1e-5)
    driven = unmix(eqx.Partial(invert, endmembers=ENDMEMBERS, mixing=MODELS[name][0]()), pixels, tile=8)
    np.testing.assert_allclose(driven.abundances, many.abundances, atol=1e-9)


@in_float64
def test_turned_endmembers_turn_abundances():
    pixels, order = noisy("PPNM"), [2, 0, 1]
    straight = solve(prepare_inversion(ENDMEMBERS, PPNM(jnp.zeros(()))), pixels)
    turned = solve(prepare_inversion(ENDMEMBERS[order], PPNM(jnp.zeros(()))), pixels)
    np.testing.assert_allclose(turned.abundances, straight.abundances[:, order], atol=1e-8)


@in_float64
def test_linear_is_fully_constrained_least_squares():
    pixels = noisy("Linear")
    solution = solve(prepare_inversion(ENDMEMBERS, Linear()), pixels)
    exact = jax.vmap(lambda pixel: fcls(pixel, prepare(ENDMEMBERS)))(jnp.asarray(pixels))
    assert_close(solution.abundances, exact.abundances)


@in_float64
def test_pairs_of_nascimento_are_materials():
    shares = DRAW.dirichlet(np.ones(6), 6)
    spectra = np.concatenate([ENDMEMBERS, np.asarray(pair_products(ENDMEMBERS))])
    solution = solve(prepare_inversion(ENDMEMBERS, Nascimento(REPEATED)), shares @ spectra)
    np.testing.assert_allclose(solution.abundances, shares[:, :3], atol=1e-7)
    np.testing.assert_allclose(solution.fitted.mixing.interactions, shares[:, 3:], atol=1e-7)
    assert solution.covariance.shape == (6, 3, 3)


@in_float64
def test_scales_need_a_prior_and_follow_it():
    truth = ELMM(jnp.array([1.1, 0.9, 1.0]))
    pixel = np.asarray(truth(jnp.array([0.5, 0.3, 0.2]), jnp.asarray(ENDMEMBERS)))
    start = ELMM(jnp.ones(3))
    loose = invert(pixel, ENDMEMBERS, start)
    assert not loose.unique
    assert np.isinf(np.diag(loose.fitted.covariance)).all()
    tied = prepare_inversion(ENDMEMBERS, start, noise=1e-3, spread=ELMM(jnp.full(3, 0.05)))
    solution = invert(pixel, tied)
    assert solution.unique
    assert solution.converged
    assert np.isfinite(solution.fitted.covariance).all()
    np.testing.assert_allclose(solution.fitted.mixing.scales * solution.abundances, [0.55, 0.27, 0.2], atol=2e-3)


@in_float64
@pytest.mark.parametrize("name", ["Linear", "Fan", "PPNM", "Hapke", "SCLS"])
def test_covariance_is_that_of_cramer_and_rao_at_the_noise_given(name):
    start, pixel = MODELS[name][0](), noisy(name)[10]
    level = np.linspace(0.003, 0.006, BANDS)
    solution = invert(pixel, prepare_inversion(ENDMEMBERS, start, noise=level))
    bound = cramer_rao(solution.fitted.mixing, solution.abundances, ENDMEMBERS, level)
    np.testing.assert_allclose(solution.fitted.covariance, bound.covariance, rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(solution.covariance.sum(0), 0, atol=1e-9)


@in_float64
@pytest.mark.parametrize("name", MODELS)
def test_coverage_of_interior_abundances(name):
    abundances = 0.15 + 0.55 * DRAW.dirichlet(np.ones(3), 1500)
    pixels = rendered(name, abundances)
    pixels = pixels + 0.001 * DRAW.standard_normal(pixels.shape)
    solution = solve(prepare_inversion(ENDMEMBERS, MODELS[name][0]()), pixels)
    spread = np.sqrt(np.diagonal(solution.covariance, axis1=1, axis2=2))
    error = np.abs(solution.abundances - abundances)
    assert abs(np.mean(error <= spread) - 0.683) < 0.05
    assert abs(np.mean(error <= 2 * spread) - 0.954) < 0.05


@in_float64
@pytest.mark.parametrize("name", ["PPNM", "MLM", "GBM", "Hapke"])
def test_derivatives_equal_central_differences(name):
    start = MODELS[name][0]()
    pixel = noisy(name, 0.0005)[10]

    @jax.jit
    def answer(pixel, endmembers):
        solution = invert(pixel, endmembers, start)
        leaves = jax.tree.leaves(eqx.filter(solution.fitted.mixing, eqx.is_inexact_array))
        return jnp.concatenate([solution.abundances, *[jnp.ravel(leaf) for leaf in leaves]])

    towards, around = DRAW.standard_normal(BANDS), DRAW.standard_normal(ENDMEMBERS.shape)
    step = 1e-6
    ahead = answer(pixel + step * towards, ENDMEMBERS + step * around)
    behind = answer(pixel - step * towards, ENDMEMBERS - step * around)
    _, change = jax.jvp(answer, (jnp.asarray(pixel), jnp.asarray(ENDMEMBERS)), (towards, around))
    np.testing.assert_allclose(change, (ahead - behind) / (2 * step), rtol=2e-4, atol=1e-5)
    weights = DRAW.standard_normal(change.shape)
    slope = jax.grad(lambda y: answer(y, jnp.asarray(ENDMEMBERS)) @ weights)(jnp.asarray(pixel))
    _, along = jax.jvp(lambda y: answer(y, jnp.asarray(ENDMEMBERS)), (jnp.asarray(pixel),), (towards,))
    np.testing.assert_allclose(slope @ towards, along @ weights, rtol=1e-8)


# ------------------------------------------------------------------------------------------------ bad input


@in_float64
def test_identical_endmembers_and_a_pure_pixel_are_said():
    twice = np.concatenate([ENDMEMBERS, ENDMEMBERS[:1]])
    solution = invert(np.asarray(ENDMEMBERS[0] * 0.7 + ENDMEMBERS[1] * 0.3), twice, PPNM(jnp.zeros(())))
    assert solution.converged
    assert not solution.unique
    assert np.isinf(solution.covariance[0, 0] if solution.abundances[0] > 0 else solution.covariance[3, 3])
    pure = invert(ENDMEMBERS[0], ENDMEMBERS, GBM(REPEATED))
    np.testing.assert_allclose(pure.abundances, [1, 0, 0], atol=1e-9)
    np.testing.assert_allclose(pure.fitted.mixing.interactions, 0.5)
    np.testing.assert_allclose(np.diag(pure.fitted.covariance)[3:], 1 / 3, rtol=1e-6)


@in_float64
def test_two_endmembers_and_one():
    for model, truth in ((GBM(jnp.full(1, 0.5)), GBM(jnp.full(1, 0.9))), (MLM(jnp.zeros(())), MLM(jnp.asarray(0.5)))):
        pixel = truth(jnp.array([0.3, 0.7]), jnp.asarray(ENDMEMBERS[:2]))
        np.testing.assert_allclose(invert(pixel, ENDMEMBERS[:2], model).abundances, [0.3, 0.7], atol=1e-8)
    alone = invert(PPNM(jnp.asarray(0.2)).response(ENDMEMBERS[0]), ENDMEMBERS[:1], PPNM(jnp.zeros(())))
    np.testing.assert_allclose(alone.fitted.mixing.nonlinearity, 0.2, atol=1e-9)
    np.testing.assert_allclose(alone.abundances, [1.0])


@in_float64
def test_beyond_what_models_allow_the_limit_holds():
    problem = prepare_inversion(ENDMEMBERS, PPNM(jnp.zeros(())))
    folded = PPNM(jnp.asarray(-2.0))(jnp.array([0.3, 0.3, 0.4]), jnp.asarray(ENDMEMBERS))  # 1 + 2bs < 0 in many bands
    solution = invert(folded, problem)
    assert np.isfinite(solution.abundances).all()
    assert np.asarray(solution.fitted.mixing.nonlinearity) >= np.asarray(problem.low[0])
    assert solution.residual > 1e-3
    near = 1 - 1e-4
    dark = MLM(jnp.asarray(near))(jnp.array([0.3, 0.3, 0.4]), jnp.asarray(ENDMEMBERS))
    found = invert(dark, ENDMEMBERS, MLM(jnp.asarray(0.5)))
    np.testing.assert_allclose(found.abundances, [0.3, 0.3, 0.4], atol=1e-4)
    np.testing.assert_allclose(found.fitted.mixing.probability, near, atol=1e-6)


@in_float64
def test_pixels_that_are_not_spectra():
    pixels = np.tile(rendered("MLM")[5], (4, 1))
    pixels[0, 3], pixels[1], pixels[2, 2] = np.nan, 0.0, np.inf
    for name in ("MLM", "PPNM", "Hapke"):
        solution = solve(prepare_inversion(ENDMEMBERS, MODELS[name][0]()), pixels)
        assert not solution.converged[0]
        assert not solution.converged[2]
        assert solution.converged[3]
    bright = rendered("Hapke")[5].copy()
    bright[:3] = [1.2, -0.1, 0.0]  # no albedo has these
    solution = invert(bright, ENDMEMBERS, Hapke())
    assert solution.converged
    assert np.isfinite(solution.abundances).all()


def test_bands_that_do_not_count_may_hold_anything():
    good = np.arange(BANDS) > 5
    endmembers, pixel = ENDMEMBERS.copy(), rendered("MLM")[8].copy()
    endmembers[:, ~good], pixel[~good] = np.nan, 1e9
    for model in (MLM(jnp.zeros(())), PPNM(jnp.zeros(()))):
        solution = invert(pixel, prepare_inversion(endmembers, model, good_bands=good))
        shorter = invert(pixel[good], prepare_inversion(endmembers[:, good], model))
        np.testing.assert_allclose(solution.abundances, shorter.abundances, atol=1e-4)
        np.testing.assert_allclose(solution.residual, shorter.residual, rtol=1e-3, atol=1e-6)


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
    "limits": (lambda: prepare_inversion(ENDMEMBERS, MLM(jnp.zeros(())), limits=(Fan(), Fan())), "limits has 0 arrays"),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors_say_what_arrived(name):
    call, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        call()
