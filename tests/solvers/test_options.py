"""Weights, noise covariance, baseline, shade, and what is refused."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import scipy.linalg
from helpers import assert_close
from solvers.cases import SOLVERS, abundance_scale, excess, oracle, scene, solve_many

from unmix_jax.solvers.least_squares import (
    fcls,
    nnls,
    polynomial_baseline,
    prepare,
    remove_shade,
    scls,
    ucls,
)

COUNT, BANDS = 3, 9
RNG = np.random.default_rng(5)
WEIGHTS = np.where(np.arange(BANDS) % 4 == 1, 0.0, RNG.uniform(0.1, 10, BANDS))
GOOD = WEIGHTS > 0
MIXING = RNG.normal(size=(BANDS, BANDS))
COVARIANCE = 1e-4 * (MIXING @ MIXING.T + np.eye(BANDS))
COLUMNS = np.vstack([np.ones(BANDS), np.linspace(-1, 1, BANDS)])

over_solvers = pytest.mark.parametrize("name", SOLVERS)
over_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def root_mean_square(error):
    return np.sqrt(np.mean(np.asarray(error, float) ** 2, -1))


@over_solvers
@over_dtypes
def test_weights(name, dtype):
    case = scene(COUNT, BANDS, dtype)
    pixels, endmembers = case.pixels.copy(), case.endmembers.copy()
    pixels[::2, ~GOOD], pixels[1::2, ~GOOD] = np.nan, 1e6  # whatever they hold
    solution = solve_many(name, pixels, endmembers, weights=WEIGHTS)
    expected = oracle(name, case.pixels, endmembers, whitener=np.diag(np.sqrt(WEIGHTS)))
    assert_close(solution.abundances, expected, scale=abundance_scale(expected))
    assert solution.converged.all()
    error = (pixels - solution.abundances.astype(float) @ endmembers)[:, GOOD]
    assert_close(solution.residual, root_mean_square(error).astype(dtype), scale=0.01)
    root = np.sqrt(WEIGHTS[GOOD])
    seen = [np.asarray(x, float)[..., GOOD] * root for x in (pixels, endmembers)]
    rounding = {"float32": 2e-6, "float64": 1e-13}[dtype] * abundance_scale(expected) ** 2
    assert np.all(excess(solution.abundances, expected, *seen) <= solution.gap + rounding)


@over_solvers
def test_a_mask_of_good_bands_is_dropping_the_others(name):
    case = scene(COUNT, BANDS, "float64")
    endmembers = case.endmembers.copy()
    endmembers[:, ~GOOD] = np.nan
    dropped = solve_many(name, case.pixels[:, GOOD], case.endmembers[:, GOOD])
    for weights in (GOOD, GOOD.astype(float)):
        masked = solve_many(name, case.pixels, endmembers, weights=weights)
        assert_close(masked.abundances, dropped.abundances, scale=abundance_scale(dropped.abundances))
        assert_close(masked.residual, dropped.residual)
        assert masked.converged.all()


@over_solvers
def test_a_diagonal_covariance_is_a_row_of_weights(name):
    case = scene(COUNT, BANDS, "float64")
    variance = 1 / (WEIGHTS + 0.1)
    weighted = solve_many(name, case.pixels, case.endmembers, weights=1 / variance)
    whitened = solve_many(name, case.pixels, case.endmembers, noise_covariance=np.diag(variance))
    assert_close(whitened.abundances, weighted.abundances, scale=abundance_scale(weighted.abundances))
    assert_close(whitened.residual, weighted.residual)
    assert_close(whitened.gap, weighted.gap)


@over_solvers
@pytest.mark.parametrize(("dtype", "weights"), [("float64", None), ("float32", GOOD)])
def test_noise_covariance(name, dtype, weights):
    case = scene(COUNT, BANDS, dtype)
    kept = np.ones(BANDS, bool) if weights is None else weights
    whitener = scipy.linalg.inv(scipy.linalg.cholesky(COVARIANCE[np.ix_(kept, kept)], lower=True)).T
    expected = oracle(name, case.pixels[:, kept], case.endmembers[:, kept], whitener=whitener)
    solution = solve_many(name, case.pixels, case.endmembers, noise_covariance=COVARIANCE, weights=weights)
    assert_close(solution.abundances, expected, scale=abundance_scale(expected))
    assert solution.converged.all()
    error = (case.pixels - solution.abundances.astype(float) @ case.endmembers)[:, kept]
    assert_close(solution.residual, root_mean_square(error).astype(dtype), scale=0.01)


@over_solvers
@pytest.mark.parametrize(("dtype", "whitened"), [("float64", False), ("float32", True)])
def test_baseline_columns_are_free_endmembers(name, dtype, whitened):
    case = scene(COUNT, BANDS, dtype)
    drift = RNG.normal(size=(len(case.pixels), len(COLUMNS)))
    pixels = (case.pixels + drift @ COLUMNS).astype(dtype)
    options = {"noise_covariance": COVARIANCE} if whitened else {}
    whitener = scipy.linalg.inv(scipy.linalg.cholesky(COVARIANCE, lower=True)).T if whitened else None
    solution = solve_many(name, pixels, case.endmembers, baseline=COLUMNS, **options)
    expected = oracle(name, pixels, case.endmembers, whitener=whitener, free=COLUMNS)
    assert_close(solution.abundances, expected, scale=2 * abundance_scale(expected))
    left = pixels - solution.abundances.astype(float) @ case.endmembers
    error = left - solution.fitted.astype(float) @ COLUMNS
    assert_close(solution.residual, root_mean_square(error).astype(dtype), scale=0.01)
    see = np.eye(BANDS) if whitener is None else whitener
    best = np.linalg.lstsq((COLUMNS @ see).T, (left @ see).T, rcond=None)[0].T
    assert_close(solution.fitted, best.astype(dtype), scale=10)
    exact = np.isin(case.kinds, ("mixed", "sparse", "pure"))
    assert_close(solution.fitted[exact], drift[exact].astype(dtype), scale=10)
    assert solution.converged.all()


@pytest.mark.parametrize("name", ["ucls", "fcls"])
def test_a_degree_is_the_polynomial_in_the_band_index(name):
    case = scene(COUNT, BANDS, "float64")
    by_degree = solve_many(name, case.pixels, case.endmembers, baseline=1)
    by_columns = solve_many(name, case.pixels, case.endmembers, baseline=COLUMNS)
    assert_close(by_degree.abundances, by_columns.abundances, scale=abundance_scale(by_columns.abundances))
    assert_close(by_degree.fitted, by_columns.fitted)


def test_baseline_and_weights_leave_bad_bands_alone():
    case = scene(COUNT, BANDS, "float64")
    pixels = case.pixels + COLUMNS[1]
    dropped = solve_many("fcls", pixels[:, GOOD], case.endmembers[:, GOOD], baseline=COLUMNS[:, GOOD])
    pixels[:, ~GOOD] = np.nan
    masked = solve_many("fcls", pixels, case.endmembers, baseline=COLUMNS, weights=GOOD)
    for field in ("abundances", "residual", "fitted"):
        assert_close(getattr(masked, field), getattr(dropped, field))


def test_the_size_of_the_weights_is_of_no_concern():
    case = scene(COUNT, BANDS, "float64")
    plain = solve_many("fcls", case.pixels, case.endmembers, weights=WEIGHTS)
    for factor in (1e-9, 1e9):
        solution = solve_many("fcls", case.pixels, case.endmembers, weights=WEIGHTS * factor)
        assert_close(solution.abundances, plain.abundances)
        assert_close(solution.residual, plain.residual)
        assert solution.converged.all()


def test_one_enormous_weight_is_a_constraint():
    """FCLS whose first band weighs 1e8 fits that band."""
    case = scene(COUNT, BANDS, "float64")
    noisy = case.kinds == "noisy"
    solution = solve_many(
        "fcls", case.pixels[noisy], case.endmembers, weights=np.where(np.arange(BANDS) == 0, 1e8, 1.0)
    )
    assert_close((solution.abundances @ case.endmembers)[:, 0], case.pixels[noisy, 0], scale=10)
    assert solution.converged.all()


def test_weights_may_be_tracers():
    case = scene(COUNT, BANDS, "float64")
    expected = solve_many("fcls", case.pixels, case.endmembers, weights=WEIGHTS)

    def run(weights):
        prepared = prepare(case.endmembers, weights=weights)
        return jax.vmap(fcls, (0, None))(case.pixels, prepared)

    with jax.enable_x64(True):
        solution = jax.jit(run)(WEIGHTS)
    assert_close(solution.abundances, expected.abundances)
    assert_close(solution.residual, expected.residual)


@pytest.mark.parametrize("degree", [0, 1, 4])
def test_polynomial_baseline(degree):
    wavelengths = np.array([2400.0, 400.0, 900.0, 1000.0, 1700.0])
    columns = polynomial_baseline(wavelengths, degree)
    assert columns.shape == (degree + 1, 5)
    position = (wavelengths - 1400) / 1000
    legendre = [position**0, position, (3 * position**2 - 1) / 2, (5 * position**3 - 3 * position) / 2]
    assert_close(columns[:4], np.array(legendre)[: degree + 1])
    assert np.linalg.matrix_rank(columns) == degree + 1


@pytest.mark.parametrize("degree", [-1, 5])
def test_polynomials_that_bands_cannot_tell_are_refused(degree):
    with pytest.raises(ValueError, match=rf"degree {degree} .* 0 to 4"):
        polynomial_baseline(np.arange(5.0), degree)


@pytest.mark.parametrize("member", [0, 2, -1])
def test_shade_is_taken_out(member):
    case = scene(COUNT, BANDS, "float32")
    endmembers = case.endmembers.copy()
    endmembers[member] = 0
    solution = solve_many("fcls", case.truth.astype("f4") @ endmembers, endmembers)
    lit = remove_shade(solution, member)
    rest = np.delete(case.truth, member, 1)
    total = rest.sum(1, keepdims=True)
    expected = np.where(total > 1e-3, rest / np.where(total > 0, total, 1), np.nan).astype("f4")
    assert np.isnan(expected).any()
    assert_close(lit.abundances, expected)
    for field in ("residual", "gap", "converged"):
        assert getattr(lit, field) is getattr(solution, field)


@pytest.mark.parametrize(("count", "member"), [(3, 3), (3, -4), (1, 0)])
def test_shade_that_is_not_there(count, member):
    case = scene(count, BANDS, "float32")
    solution = solve_many("ucls", case.pixels, case.endmembers)
    with pytest.raises(ValueError, match=rf"endmember {member} of {count}"):
        remove_shade(solution, member)


@pytest.fixture
def plain_calls(monkeypatch):
    """Without shape checks, as users call: the messages are for them."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def with_nan(array):
    array = np.array(array, float)
    array.flat[0] = np.nan
    return array


E = np.arange(6.0).reshape(2, 3) ** 2


@pytest.mark.usefixtures("plain_calls")
@pytest.mark.parametrize(
    ("endmembers", "options", "message"),
    [
        (np.ones(3), {}, r"\[endmember, band\].*\(3,\)"),
        (np.ones((0, 3)), {}, r"not empty, got \(0, 3\)"),
        (np.ones((2, 0)), {}, r"not empty, got \(2, 0\)"),
        (with_nan(E), {}, "finite"),
        (np.where(E == 4, np.inf, E), {}, "finite"),
        (E, {"weights": np.ones(4)}, r"weights have shape \(4,\), the endmembers 3 bands"),
        (E, {"weights": [1.0, -1.0, 1.0]}, "not negative"),
        (E, {"weights": [1.0, np.nan, 1.0]}, "finite"),
        (E, {"weights": [1.0, np.inf, 1.0]}, "finite"),
        (E, {"weights": [0.0, 0.0, 0.0]}, "positive in at least one band"),
        (E, {"weights": np.zeros(3, bool)}, "positive in at least one band"),
        (E, {"noise_covariance": np.eye(2)}, r"\(2, 2\), wanted \(3, 3\)"),
        (E, {"noise_covariance": -np.eye(3)}, "not positive definite"),
        (E, {"noise_covariance": np.ones((3, 3))}, "not positive definite"),
        (E, {"noise_covariance": with_nan(np.eye(3))}, "finite|not positive definite"),
        (E, {"baseline": np.ones((1, 4))}, r"\(1, 4\), the endmembers 3 bands"),
        (E, {"baseline": with_nan(np.ones((1, 3)))}, "finite"),
        (E, {"baseline": 3}, "degree 3"),
    ],
)
def test_what_cannot_be_prepared_is_refused(endmembers, options, message):
    options = {k: np.asarray(v) if isinstance(v, list) else v for k, v in options.items()}
    with pytest.raises(ValueError, match=message):
        prepare(endmembers, **options)


def test_nan_in_bands_that_do_not_count_is_fine():
    prepared = prepare(with_nan(E), weights=np.array([False, True, True]))
    assert np.isfinite(prepared.projector).all()
    assert prepared.count == 2


@pytest.mark.usefixtures("plain_calls")
@pytest.mark.parametrize("solver", [ucls, scls, nnls, fcls])
@pytest.mark.parametrize("wrap", [prepare, jnp.asarray])
def test_band_counts_that_differ_are_named(solver, wrap):
    with pytest.raises(ValueError, match="endmembers have 3 bands, pixels have 5"):
        solver(jnp.ones(5), wrap(E))


@pytest.mark.usefixtures("plain_calls")
def test_many_pixels_at_once_are_sent_to_the_driver():
    with pytest.raises(ValueError, match=r"one pixel is \[band\].*\(4, 3\).*vmap"):
        fcls(jnp.ones((4, 3)), prepare(E))
