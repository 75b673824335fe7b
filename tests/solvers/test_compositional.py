"""Compositional models: the likelihood that SciPy has, least squares where nothing varies, error bars that hold."""

from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from helpers import assert_close
from scipy.optimize import minimize
from scipy.stats import beta as beta_law
from scipy.stats import multivariate_normal

from unmix_jax.driver import unmix
from unmix_jax.scenes.scene import SpectralLibrary
from unmix_jax.solvers.compositional import (
    bcm,
    bcm_neighbours,
    ncm,
    prepare_bcm,
    prepare_ncm,
    spectral_neighbours,
)
from unmix_jax.solvers.compositional_views import beta_energy
from unmix_jax.solvers.distributions import Normal, beta_from_moments, fit_beta, fit_normal
from unmix_jax.solvers.least_squares import fcls, prepare

in_float64 = pytest.mark.usefixtures("x64")

BANDS = 24
X = np.linspace(0, 1, BANDS)
MEANS = np.stack([0.2 + 0.4 * X, 0.55 - 0.3 * X + 0.1 * np.sin(9 * X), 0.4 + 0.2 * np.cos(7 * X)])
MODES = np.stack([[0.06 * np.ones(BANDS), 0.02 * np.sin(5 * X)], [0.04 * X, 0 * X], [0.03 * (1 - X), 0.03 * X**2]])
REST = np.array([1e-5, 4e-5, 2e-5])
NOISE = 0.004
PIXELS = 300  # of every batch, so that each model compiles once
DRAW = np.random.default_rng(6)


def normal():
    return Normal(MEANS, MODES, REST)


def covariance(abundances, noise=NOISE):
    own = np.einsum("emb,emc->ebc", MODES, MODES) + REST[:, None, None] * np.eye(BANDS)
    return np.tensordot(abundances**2, own, 1) + noise**2 * np.eye(BANDS)


@cache
def drawn():
    """Abundances, and pixels that each draw endmembers of their own."""
    rng = np.random.default_rng(7)
    abundances = 0.1 + 0.7 * rng.dirichlet(np.ones(3), PIXELS)
    abundances[:3] = np.eye(3)
    own = MEANS + np.einsum("pem,emb->peb", rng.standard_normal((PIXELS, 3, 2)), MODES)
    own = own + np.sqrt(REST)[:, None] * rng.standard_normal((PIXELS, 3, BANDS))
    pixels = np.einsum("pe,peb->pb", abundances, own) + NOISE * rng.standard_normal((PIXELS, BANDS))
    return abundances, pixels


@eqx.filter_jit
def batch(solver, endmembers, pixels):
    return jax.vmap(lambda pixel: solver(pixel, endmembers))(pixels)


@jax.jit
def least_squares(pixel, endmembers):
    return fcls(pixel, prepare(endmembers))


def by_likelihood(pixel, endmembers):
    return ncm(pixel, endmembers, estimate="likelihood")


def likely(abundances, pixel, noise=NOISE):
    return multivariate_normal(abundances @ MEANS, covariance(abundances, noise)).logpdf(pixel)


@in_float64
def test_likelihood_is_that_of_scipy_and_no_greater_is_near():
    _, pixels = drawn()
    solution = batch(by_likelihood, prepare_ncm(normal(), noise=NOISE), pixels)
    for i in range(8):
        told = float(solution.fitted["log_likelihood"][i])
        assert_close(told, likely(np.asarray(solution.abundances[i]), pixels[i]))
        best = minimize(
            lambda a, y=pixels[i]: -likely(a, y),
            solution.abundances[i],
            bounds=[(0, 1)] * 3,
            constraints={"type": "eq", "fun": lambda a: a.sum() - 1},
            method="SLSQP",
            options={"ftol": 1e-12},
        )
        assert told >= -best.fun - 1e-6
    assert np.mean(solution.converged) > 0.9
    np.testing.assert_allclose(np.sum(solution.abundances, 1), 1, atol=1e-12)
    assert np.min(solution.abundances) >= 0


@in_float64
def test_likelihood_where_the_modes_span_the_means():
    """Brightness that varies: nothing of the means is left beside the modes, and rounding must not stand for it."""
    abundances, _ = drawn()
    bright = Normal(MEANS, np.stack([0.05 * MEANS, MODES[:, 0]], 1), REST)
    own = np.einsum("emb,emc->ebc", bright.modes, bright.modes) + REST[:, None, None] * np.eye(BANDS)
    rng = np.random.default_rng(9)
    pixels = (abundances @ MEANS) * (1 + 0.05 * rng.standard_normal((PIXELS, 1)))
    pixels = pixels + NOISE * rng.standard_normal(pixels.shape)
    problem = prepare_ncm(bright, noise=NOISE)
    basis = np.asarray(problem.view.basis)
    np.testing.assert_allclose(basis @ basis.T, np.eye(len(basis)), atol=1e-10)
    solution = batch(ncm, problem, pixels)
    for i in range(4):
        a = np.asarray(solution.abundances[i])
        law = multivariate_normal(a @ MEANS, np.tensordot(a**2, own, 1) + NOISE**2 * np.eye(BANDS))
        assert_close(solution.fitted["log_likelihood"][i], law.logpdf(pixels[i]))


def assert_fixed_point(solution, pixels, good):
    """Least squares weighted by what the abundances say leads to these abundances."""
    assert np.mean(solution.converged) > 0.98
    for i in np.flatnonzero(solution.converged)[:6]:
        a = np.asarray(solution.abundances[i])
        root = np.linalg.inv(np.linalg.cholesky(covariance(a)[np.ix_(good, good)]))
        again = least_squares(root @ pixels[i, good], MEANS[:, good] @ root.T).abundances
        np.testing.assert_allclose(a, again, atol=1e-6)
        wrong = (pixels[i] - a @ MEANS)[good]
        assert_close(solution.residual[i], np.sqrt(np.mean(wrong**2)))


@in_float64
def test_weighted_least_squares_ends_where_its_weights_lead():
    _, pixels = drawn()
    solution = batch(ncm, prepare_ncm(normal(), noise=NOISE), pixels)
    assert_fixed_point(solution, pixels, np.ones(BANDS, bool))
    for i in range(4):
        assert_close(solution.fitted["log_likelihood"][i], likely(np.asarray(solution.abundances[i]), pixels[i]))


@in_float64
@pytest.mark.parametrize("solver", [ncm, by_likelihood], ids=["weighted", "likelihood"])
def test_error_bars_hold_for_what_the_model_draws(solver):
    abundances, pixels = drawn()
    solution = batch(solver, prepare_ncm(normal(), noise=NOISE), pixels)
    spread = np.sqrt(np.diagonal(solution.covariance, axis1=1, axis2=2))
    inside = np.all(solution.abundances > 0, 1) & (np.arange(PIXELS) >= 3)
    off = np.abs(solution.abundances - abundances)[inside] / spread[inside]
    assert 0.60 < np.mean(off <= 1) < 0.76
    assert 0.91 < np.mean(off <= 2) < 0.985
    assert 0.85 < np.mean(solution.fitted["chi2"]) < 1  # two of 24 went into the fit


@in_float64
def test_error_bars_hold_where_an_estimate_ends_at_zero():
    """Abundances near zero, some of which are estimated as none: neither those nor the others are known for that."""
    rng = np.random.default_rng(12)
    abundances = rng.dirichlet(np.full(3, 0.3), PIXELS)
    own = MEANS + np.einsum("pem,emb->peb", rng.standard_normal((PIXELS, 3, 2)), MODES)
    own = own + np.sqrt(REST)[:, None] * rng.standard_normal((PIXELS, 3, BANDS))
    pixels = np.einsum("pe,peb->pb", abundances, own) + NOISE * rng.standard_normal((PIXELS, BANDS))
    solution = batch(ncm, prepare_ncm(normal(), noise=NOISE), pixels)
    spread = np.sqrt(np.diagonal(solution.covariance, axis1=1, axis2=2))
    zero, fine = np.asarray(solution.abundances) == 0, np.asarray(solution.converged)
    assert np.mean(zero) > 0.1
    assert np.all(spread > 0)
    np.testing.assert_allclose(np.sum(solution.covariance, -1), 0, atol=1e-10)
    off = np.abs(solution.abundances - abundances) / spread
    assert np.mean(off[fine] <= 1) > 0.66
    assert np.mean(off[zero & fine[:, None]] <= 2) > 0.95
    assert np.mean(off[~zero & fine[:, None]] <= 1) > 0.62


@in_float64
def test_equal_isotropic_spread_is_least_squares():
    abundances, pixels = drawn()
    plain = np.asarray(batch(fcls, prepare(MEANS), pixels).abundances)
    alike = prepare_ncm(Normal.isotropic(MEANS, 0.03))
    np.testing.assert_allclose(batch(ncm, alike, pixels).abundances, plain, atol=1e-8)
    # of the likelihood that is so in the limit, where nothing is left of the pixel
    faint = prepare_ncm(Normal(MEANS, 1e-4 * MODES, np.full(3, 1e-10)))
    np.testing.assert_allclose(batch(by_likelihood, faint, abundances @ MEANS).abundances, abundances, atol=1e-4)


@in_float64
def test_beta_without_spread_is_least_squares():
    abundances, _ = drawn()
    still = prepare_bcm(beta_from_moments(MEANS, 1e-9), noise=1e-3)
    np.testing.assert_allclose(batch(bcm, still, abundances @ MEANS).abundances, abundances, atol=1e-4)


@in_float64
def test_beta_likelihood_is_that_of_scipy():
    rng = np.random.default_rng(3)
    abundances, _ = drawn()
    variance = np.stack([0.01 * MEANS[0] ** 2, 4e-4 * np.ones(BANDS), 1e-3 * X + 1e-4])
    law = beta_from_moments(MEANS, variance)
    own = rng.beta(law.alpha, law.beta, (PIXELS, 3, BANDS))
    pixels = np.einsum("pe,peb->pb", abundances, own)
    solution = batch(bcm, prepare_bcm(law), pixels)

    def likely(a, pixel):
        mean, spread = a @ MEANS, a**2 @ variance
        total = mean * (1 - mean) / spread - 1
        return beta_law.logpdf(pixel, mean * total, (1 - mean) * total).sum()

    for i in range(3, 9):
        told = float(solution.fitted["log_likelihood"][i])
        assert_close(told, likely(np.asarray(solution.abundances[i]), pixels[i]))
        assert told >= likely(abundances[i], pixels[i])
    spread = np.sqrt(np.diagonal(solution.covariance, axis1=1, axis2=2))
    inside = np.all(solution.abundances > 0, 1) & (np.arange(PIXELS) >= 3)
    off = np.abs(solution.abundances - abundances)[inside] / spread[inside]
    assert 0.62 < np.mean(off <= 1) < 0.75


@in_float64
def test_derivatives_of_the_beta_are_those_of_its_logarithm():
    def energy(inputs):
        level, mean, variance = inputs
        total = mean * (1 - mean) / variance - 1
        return -jax.scipy.stats.beta.logpdf(level, mean * total, (1 - mean) * total)

    @jax.jit
    def both(inputs):
        return beta_energy(*inputs), energy(inputs), jax.grad(energy)(inputs), jax.hessian(energy)(inputs)

    for inputs in ([0.3, 0.32, 1e-3], [0.9, 0.7, 0.05], [0.02, 0.01, 4e-3], [0.5, 0.49, 1e-4]):
        (value, by_mean, by_variance, flat, mixed, bent), plain, slope, curvature = both(jnp.asarray(inputs))
        assert_close(value, plain)
        np.testing.assert_allclose([by_mean, by_variance], slope[1:], rtol=1e-6)
        np.testing.assert_allclose([[flat, mixed], [mixed, bent]], curvature[1:, 1:], rtol=1e-5)


@in_float64
def test_neighbours_share_their_moments():
    rng = np.random.default_rng(4)
    variance = np.stack([4e-3 * X + 1e-4, 1e-3 * np.ones(BANDS), 4e-3 * (1 - X) + 1e-4])
    law = beta_from_moments(MEANS, variance)
    truth = np.array([0.5, 0.3, 0.2])
    pixels = np.einsum("e,keb->kb", truth, rng.beta(law.alpha, law.beta, (400, 3, BANDS)))
    problem = prepare_bcm(law)
    plain = bcm_neighbours(pixels, problem, match_spread=False)
    np.testing.assert_allclose(plain.abundances, least_squares(pixels.mean(0), MEANS).abundances, atol=1e-12)
    solve = eqx.filter_jit(bcm_neighbours)
    both = solve(pixels, problem, linear_spread=jnp.asarray(False))
    off = np.abs(both.abundances - truth) / np.sqrt(np.diag(both.covariance))
    assert both.converged
    assert np.all(off < 4)
    assert np.all(np.diag(both.covariance) < 1e-4)
    linear = solve(pixels, problem, linear_spread=jnp.asarray(True))
    assert np.abs(linear.abundances - truth).max() > np.abs(both.abundances - truth).max()  # draws do not add up so


def test_spectral_neighbours_are_the_nearest():
    pixels = DRAW.random((40, 5)).astype(np.float32)
    pixels[7, 2] = np.nan
    found = np.asarray(jax.jit(spectral_neighbours, static_argnums=1)(pixels, 4))
    distance = np.linalg.norm(pixels[:, None] - pixels, axis=2)
    distance[np.isnan(distance)] = np.inf
    np.fill_diagonal(distance, -1)
    for i in range(40):
        if i != 7:
            assert found[i, 0] == i
            assert set(found[i]) == set(np.argsort(distance[i])[:4])
    assert set(found[7]) == {7}


@in_float64
def test_batch_driver_and_single_pixel_agree_and_order_does_not_matter():
    _, pixels = drawn()
    pixels = pixels.copy()
    pixels[5] = np.nan
    problem = prepare_ncm(normal(), noise=NOISE)
    whole = batch(ncm, problem, pixels)
    driven = unmix(eqx.Partial(ncm, endmembers=problem), pixels, tile=128)
    np.testing.assert_allclose(driven.abundances, whole.abundances, atol=1e-7)
    one = eqx.filter_jit(ncm)(pixels[9], problem)
    np.testing.assert_allclose(one.abundances, whole.abundances[9], atol=1e-7)
    order = np.array([2, 0, 1])
    turned = batch(ncm, prepare_ncm(Normal(MEANS[order], MODES[order], REST[order]), noise=NOISE), pixels)
    fine = np.asarray(whole.converged & turned.converged)
    np.testing.assert_allclose(
        np.asarray(turned.abundances)[fine], np.asarray(whole.abundances)[fine][:, order], atol=1e-5
    )
    assert np.isnan(driven.abundances[5]).all()
    assert not driven.converged[5]
    assert np.isfinite(np.delete(driven.abundances, 5, 0)).all()


def test_float32_is_near_float64():
    _, pixels = drawn()
    with jax.enable_x64(True):
        exact = jax.tree.map(np.asarray, batch(ncm, prepare_ncm(normal(), noise=NOISE), pixels))
    rough = batch(ncm, prepare_ncm(normal(), noise=NOISE), pixels.astype(np.float32))
    away = np.abs(np.asarray(rough.abundances) - exact.abundances)[np.asarray(exact.converged)]
    assert rough.abundances.dtype == np.float32
    assert np.max(away) < 2e-3
    assert np.mean(rough.converged) > 0.9


@in_float64
def test_bands_that_do_not_count_may_hold_anything():
    _, pixels = drawn()
    good = np.ones(BANDS, bool)
    good[[2, 11]] = False
    pixels = pixels.copy()
    pixels[:, ~good] = np.nan
    means = np.where(good, MEANS, np.nan)
    masked = batch(ncm, prepare_ncm(Normal(means, MODES, REST), noise=NOISE, good_bands=good), pixels)
    assert_fixed_point(masked, pixels, good)
    beta = beta_from_moments(np.where(good, MEANS, -1.0), 1e-3, good_bands=good)
    beta = prepare_bcm(beta, noise=NOISE, good_bands=good)
    pixels[5, 3] = np.nan  # in a band that counts
    found, other = (batch(bcm, beta, np.where(good, pixels, value)).abundances for value in (np.nan, 0.9))
    np.testing.assert_array_equal(found, other)
    assert np.isnan(found[5]).all()
    assert np.isfinite(np.delete(found, 5, 0)).all()


def bundle(count=12):
    rng = np.random.default_rng(8)
    own = MEANS[:, None] + np.einsum("ekm,emb->ekb", rng.standard_normal((3, count, 2)), MODES)
    own = own + 0.01 * rng.standard_normal(own.shape)
    return own.reshape(-1, BANDS), np.repeat(["soil", "tree", "water"], count).tolist()


def test_distributions_are_those_of_their_bundles():
    spectra, classes = bundle()
    law = fit_normal(spectra, classes, modes=3)
    assert law.names == ("soil", "tree", "water")
    assert law.modes.shape == (3, 3, BANDS)
    np.testing.assert_allclose(law.mean[1], spectra[12:24].mean(0))
    # nothing is lost along the modes, and the rest is what a spectrum left out shows
    own = spectra[:12]
    left = []
    for i in range(len(own)):
        others = np.delete(own, i, 0)
        modes = np.linalg.svd(others - others.mean(0))[2][:3]
        error = own[i] - others.mean(0)
        left.append(np.sum((error - error @ modes.T @ modes) ** 2) / (BANDS - 3))
    np.testing.assert_allclose(law.rest[0], np.mean(left))
    direction = law.modes[0, 0] / np.linalg.norm(law.modes[0, 0])
    variance = np.sum((law.modes[0] @ direction) ** 2) + law.rest[0]
    np.testing.assert_allclose(variance, np.var(own @ direction, ddof=1) * (1 + 1 / len(own)))
    beta = fit_beta(SpectralLibrary(spectra, classes=tuple(classes)))
    np.testing.assert_allclose(beta.mean[2], spectra[24:].mean(0))
    np.testing.assert_allclose(beta.variance[2], spectra[24:].var(0, ddof=1) * 13 / 12)


def test_bundles_of_few_spectra():
    spectra, classes = bundle()
    rows = [0, 1, 12, 13, 14, 24, 25, 26, 27]
    law = fit_normal(spectra[rows], [classes[row] for row in rows])
    assert np.isfinite(law.modes).all()
    assert np.all(law.rest > 0)
    assert [np.count_nonzero(np.any(modes, 1)) for modes in law.modes] == [1, 1, 2]


def test_one_endmember_is_all_there_is():
    alone = prepare_ncm(Normal.isotropic(MEANS[:1], 0.1), noise=NOISE)
    solution = eqx.filter_jit(ncm)(jnp.asarray(1.1 * MEANS[0], jnp.float32), alone)
    assert float(solution.abundances[0]) == 1.0


WRONG = {
    "one spectrum": (lambda: fit_normal(bundle()[0][:13], ["a"] * 12 + ["b"]), "class 'b' has one spectrum"),
    "one spectrum, beta": (lambda: fit_beta(bundle()[0][:13], ["a"] * 12 + ["b"]), "take the spread from elsewhere"),
    "no classes": (lambda: fit_normal(bundle()[0]), "names no classes"),
    "classes": (lambda: fit_normal(bundle()[0], ["a"] * 3), "3 classes for 36 spectra"),
    "not finite": (lambda: fit_normal(np.full((3, 4), np.nan), ["a"] * 3), "spectrum 0"),
    "modes": (lambda: fit_normal(*bundle(), modes=-1), "must not be negative"),
    "beta above one": (lambda: beta_from_moments(MEANS + 0.5, 1e-3), "lies between 0 and 1"),
    "variance": (lambda: beta_from_moments(MEANS, -1e-3), "must not be negative"),
    "singular": (lambda: prepare_ncm(Normal(MEANS, MODES, 0 * REST)), "covariance is singular"),
    "noise below zero": (lambda: prepare_ncm(normal(), noise=-1.0), "not negative"),
    "noise of some": (lambda: prepare_ncm(normal(), noise=np.arange(24.0)), "every band that counts"),
    "noise shape": (lambda: prepare_ncm(normal(), noise=np.ones(3)), "got shape"),
    "no band": (lambda: prepare_ncm(normal(), noise=0.1, good_bands=np.zeros(BANDS, bool)), "no band"),
    "modes shape": (lambda: prepare_ncm(Normal(MEANS, MODES[:2], REST), noise=0.1), "modes have shape"),
    "pixel": (lambda: ncm(jnp.ones(7), prepare_ncm(normal(), noise=0.1)), "pixels have 7"),
    "image": (lambda: ncm(jnp.ones((2, BANDS)), prepare_ncm(normal(), noise=0.1)), "use unmix or jax.vmap"),
    "kind": (lambda: bcm(jnp.ones(BANDS), prepare_ncm(normal(), noise=0.1)), "prepare_bcm"),
    "other kind": (lambda: ncm(jnp.ones(BANDS), prepare_bcm(beta_from_moments(MEANS, 1e-3))), "prepare_ncm"),
    "estimate": (lambda: ncm(jnp.ones(BANDS), prepare_ncm(normal(), noise=0.1), estimate="mode"), "'mode'"),
    "neighbours": (lambda: bcm_neighbours(jnp.ones((1, BANDS)), prepare_bcm(beta_from_moments(MEANS, 1e-3))), "two or"),
    "too many": (lambda: spectral_neighbours(jnp.ones((3, 4)), 5), "5 neighbours"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said(name, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    call, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        call()
