"""Sparse unmixing and bundles: SciPy's optimum, penalties that vanish, gaps that bound, and large libraries."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from scipy.optimize import minimize, nnls

from unmix_jax.driver import unmix
from unmix_jax.solvers.bundles import bundle_fcls, prepare_bundles
from unmix_jax.solvers.collaborative import clsunsal
from unmix_jax.solvers.least_squares import fcls
from unmix_jax.solvers.sparse import lp_sunsal, prepare_sparse, sunsal

in_float64 = pytest.mark.usefixtures("x64")

BANDS, MEMBERS, PIXELS = 20, 30, 12
DRAW = np.random.default_rng(11)
X = np.linspace(0, 1, BANDS)
LIBRARY = np.stack([0.5 + 0.3 * np.sin((1 + k / 4) * X * 6 + k) + 0.02 * k / MEMBERS for k in range(MEMBERS)])
TRUTH = np.zeros((PIXELS, MEMBERS))
for row in TRUTH:
    row[DRAW.choice(MEMBERS, 3, replace=False)] = DRAW.dirichlet(np.ones(3))
SPECTRA = TRUTH @ LIBRARY + 0.01 * DRAW.standard_normal((PIXELS, BANDS))


def objective(a, pixel, l1):
    return 0.5 * np.sum((pixel - a @ LIBRARY) ** 2) + l1 * np.sum(a)


@pytest.fixture(scope="module")
def solve():
    return eqx.filter_jit(
        lambda pixels, library, l1, sum_to_one: jax.vmap(
            lambda pixel: sunsal(pixel, library, l1=l1, sum_to_one=sum_to_one)
        )(pixels)
    )


@in_float64
@pytest.mark.parametrize("l1", [0.0, 0.01, 0.1])
def test_sunsal_has_the_optimum(solve, l1):
    solution = solve(SPECTRA, prepare_sparse(LIBRARY), jnp.asarray(l1), False)
    assert np.all(solution.converged)
    assert np.max(solution.gap) <= 1e-12
    for pixel, found in zip(SPECTRA, np.asarray(solution.abundances), strict=True):
        gradient = LIBRARY @ (found @ LIBRARY - pixel) + l1  # the conditions of the optimum of a convex problem
        assert found.min() >= 0
        assert gradient.min() > -1e-9
        assert abs(gradient @ found) < 1e-9
        if l1 == 0:
            assert objective(found, pixel, l1) <= objective(nnls(LIBRARY.T, pixel)[0], pixel, l1) + 1e-10


@in_float64
def test_on_the_simplex_it_is_fcls_whatever_the_penalty(solve):
    plain = jax.vmap(lambda pixel: fcls(pixel, LIBRARY))(SPECTRA)
    for l1 in (0.0, 0.3):
        solution = solve(SPECTRA, prepare_sparse(LIBRARY), jnp.asarray(l1), True)
        np.testing.assert_allclose(np.sum(solution.abundances, 1), 1, atol=1e-12)
        np.testing.assert_allclose(solution.residual, plain.residual, atol=1e-9)


@in_float64
def test_driver_single_pixel_and_no_data_agree(solve):
    pixels = SPECTRA.copy()
    pixels[3] = np.nan
    problem, l1 = prepare_sparse(LIBRARY), jnp.asarray(0.01)
    whole = solve(pixels, problem, l1, False)
    driven = unmix(eqx.Partial(sunsal, library=problem, l1=l1), pixels, tile=PIXELS)
    np.testing.assert_allclose(driven.abundances, whole.abundances, atol=1e-10)
    one = eqx.filter_jit(sunsal)(pixels[0], problem, l1=l1)
    np.testing.assert_allclose(one.abundances, whole.abundances[0], atol=1e-10)
    assert np.isnan(driven.abundances[3]).all()
    assert not driven.converged[3]


def test_float32_is_near_float64(solve):
    rough = solve(SPECTRA.astype(np.float32), prepare_sparse(LIBRARY.astype(np.float32)), jnp.asarray(0.05), False)
    with jax.enable_x64(True):
        exact = solve(SPECTRA, prepare_sparse(LIBRARY), jnp.asarray(0.05), False)
    assert np.all(rough.converged)
    for one, other, pixel in zip(rough.abundances, exact.abundances, SPECTRA, strict=True):
        excess = objective(np.asarray(one, float), pixel, 0.05) - objective(np.asarray(other), pixel, 0.05)
        assert excess < 1e-4 * 0.5 * np.sum(pixel**2)


@in_float64
def test_concave_penalty_is_sparser_and_stationary(solve):
    problem = prepare_sparse(LIBRARY)
    plain = solve(SPECTRA, problem, jnp.asarray(0.0), True)

    def one(pixel):
        return lp_sunsal(pixel, problem, lp=jnp.asarray(0.02), p=jnp.asarray(0.5))

    solution = jax.jit(jax.vmap(one))(SPECTRA)
    assert np.all(solution.converged)
    assert np.sum(solution.abundances > 1e-6) < np.sum(plain.abundances > 1e-6)

    def penalised(a, pixel):
        return 0.5 * np.sum((pixel - a @ LIBRARY) ** 2) + 0.02 * np.sum((a + 1e-3) ** 0.5) ** 2

    for pixel, found in zip(SPECTRA[:4], np.asarray(solution.abundances), strict=False):
        for step in DRAW.dirichlet(np.ones(MEMBERS), 20):  # no way down nearby
            near = (1 - 1e-5) * found + 1e-5 * step
            assert penalised(near, pixel) >= penalised(found, pixel) - 1e-11


@in_float64
def test_collaborative_has_the_optimum_of_scipy():
    library, pixels = LIBRARY[::6], SPECTRA[:3]

    def whole(flat):
        a = flat.reshape(3, -1)
        left = a @ library - pixels
        norms = np.sqrt(np.sum(a**2, 0) + 1e-18)
        gradient = left @ library.T + 0.3 * a / norms
        return 0.5 * np.sum(left**2) + 0.3 * np.sum(norms), gradient.ravel()

    solution = clsunsal(jnp.asarray(pixels), library, l21=jnp.asarray(0.3))
    found = np.asarray(solution.abundances)
    best = minimize(
        whole,
        np.full(found.size, 0.2),
        jac=True,
        bounds=[(0, None)] * found.size,
        options={"ftol": 1e-15, "gtol": 1e-10},
    )
    assert whole(found.ravel())[0] <= best.fun + 1e-7
    assert np.all(solution.converged)
    gap = float(solution.gap[0]) * 0.5 * np.sum(pixels**2)
    assert whole(found.ravel())[0] - best.fun <= gap + 1e-7


CLASSES = [f"class {k // 10}" for k in range(MEMBERS)]


@in_float64
def test_bundles_without_a_penalty_are_fcls_over_all_spectra():
    problem = prepare_bundles(LIBRARY, CLASSES)
    solution = jax.jit(jax.vmap(lambda pixel: bundle_fcls(pixel, problem)))(SPECTRA)
    plain = jax.vmap(lambda pixel: fcls(pixel, LIBRARY))(SPECTRA)
    np.testing.assert_allclose(solution.residual, plain.residual, atol=1e-9)
    members = np.asarray(solution.fitted)
    np.testing.assert_allclose(solution.abundances, members.reshape(PIXELS, 3, 10).sum(2), atol=1e-12)
    assert np.all(solution.converged)


@in_float64
def test_the_group_penalty_has_the_optimum_of_scipy():
    problem = prepare_bundles(LIBRARY[::5], [CLASSES[k] for k in range(0, MEMBERS, 5)])
    solution = jax.jit(jax.vmap(lambda pixel: bundle_fcls(pixel, problem, group=jnp.asarray(0.05))))(SPECTRA[:4])
    library = LIBRARY[::5]

    def whole(a, pixel):
        norms = np.sqrt(np.sum(a.reshape(3, 2) ** 2, 1) + 1e-18)
        return 0.5 * np.sum((pixel - a @ library) ** 2) + 0.05 * norms.sum()

    for pixel, found in zip(SPECTRA, np.asarray(solution.fitted), strict=False):
        best = minimize(
            whole,
            np.full(6, 1 / 6),
            args=(pixel,),
            bounds=[(0, 1)] * 6,
            constraints={"type": "eq", "fun": lambda a: a.sum() - 1},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        assert whole(found, pixel) <= best.fun + 1e-6
    assert np.all(solution.converged)


WRONG = {
    "bands": (lambda: sunsal(jnp.ones(3), LIBRARY), "bands"),
    "penalty": (lambda: sunsal(jnp.ones(BANDS), LIBRARY, l1=-1.0), "l1"),
    "exponent": (lambda: lp_sunsal(jnp.ones(BANDS), LIBRARY, lp=0.1, p=2.0), "p must be"),
    "scene": (lambda: clsunsal(jnp.ones(BANDS), LIBRARY, l21=0.1), "scene of"),
    "classes": (lambda: prepare_bundles(LIBRARY, ["a"]), "1 classes for 30"),
    "empty class": (lambda: prepare_bundles(LIBRARY[:2], ["a", "b"], order=["a", "b", "c"]), "'c' has no spectrum"),
    "left out": (lambda: prepare_bundles(LIBRARY[:2], ["a", "b"], order=["a"]), "leaves it out"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said(name, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    call, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        call()
