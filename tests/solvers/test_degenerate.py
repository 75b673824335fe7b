"""Dependent endmembers, pixels that say nothing, numbers of any size: a valid optimum and a flag."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from solvers.cases import (
    SOLVERS,
    compiled,
    excess,
    numpy_solution,
    objective,
    oracle,
    scene,
    solve_many,
    spectra,
)

from unmix_jax.solvers import certificate, least_squares
from unmix_jax.solvers.least_squares import prepare
from unmix_jax.solvers.sparse import prepare_sparse, sunsal

over_solvers = pytest.mark.parametrize("name", SOLVERS)
over_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
BOUND = {"float32": 5e-5, "float64": 1e-12}


def duplicates(rng, count, bands):
    endmembers = spectra(rng, count, bands)
    endmembers[-1] = endmembers[0]
    return endmembers


def all_equal(rng, count, bands):
    return np.repeat(spectra(rng, 1, bands), count, 0)


def affine(rng, count, bands):
    """The last is a mixture of two others, exactly so in float32."""
    endmembers = np.round(spectra(rng, count, bands) * 256) / 256
    endmembers[-1] = 0.25 * endmembers[0] + 0.75 * endmembers[1]
    return endmembers


def collinear(rng, count, bands):
    """The last is a multiple of the first: dependent for the cone, not for the simplex."""
    endmembers = spectra(rng, count, bands)
    endmembers[-1] = 2 * endmembers[0]
    return endmembers


def zero(rng, count, bands):
    endmembers = spectra(rng, count, bands)
    endmembers[1] = 0
    return endmembers


def two_zeros(rng, count, bands):
    endmembers = spectra(rng, count, bands)
    endmembers[:2] = 0
    return endmembers


def all_zero(rng, count, bands):
    return np.zeros((count, bands))


# unique under (no equality constraint, sum to one)
CASES = {
    duplicates: (False, False),
    all_equal: (False, False),
    affine: (False, False),
    collinear: (False, True),
    zero: (False, True),
    two_zeros: (False, False),
    all_zero: (False, False),
}
SHAPES = [(3, 7), (13, 30)]  # supports are enumerated, and searched


def pixels_of(rng, endmembers, dtype):
    """Inside, at the border, outside, and pixels of no size or sign in particular."""
    count, bands = endmembers.shape
    shares = rng.dirichlet(np.full(count, 0.5), 12)
    pixels = shares @ endmembers
    pixels[4:8] += 0.02 * rng.normal(size=(4, bands))
    pixels[8:] = rng.normal(size=(4, bands))
    return pixels.astype(dtype)


def check_bound(solution, best, dtype):
    """A finite bound holds; what is not unique has none; and what converged has one that is small."""
    limit = certificate.abundance_tolerance(dtype) * np.maximum(np.abs(solution.abundances).max(1), 1)
    assert np.all(solution.converged == (solution.abundance_bound <= limit))
    assert np.all(solution.unique | ~np.isfinite(solution.abundance_bound))
    known = np.isfinite(solution.abundance_bound)
    error = np.abs(solution.abundances - best).max(1)
    # the oracle itself is not exact
    assert np.all(error[known] <= solution.abundance_bound[known] + 1e-9 * np.abs(best[known]).max(1))


def check_optimum(name, solution, pixels, endmembers, dtype):
    assert np.isfinite(solution.abundances).all()
    best = oracle(name, pixels, endmembers)
    assert np.all(excess(solution.abundances, best, pixels, endmembers) < BOUND[dtype])
    assert solution.gap.max() <= BOUND[dtype]
    check_bound(solution, best, dtype)
    if name in ("nnls", "fcls"):
        assert solution.abundances.min() >= 0
    if name in ("scls", "fcls"):
        assert_close(solution.abundances.sum(1), np.ones(len(pixels)))


@over_solvers
@over_dtypes
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("make", CASES)
def test_dependent_endmembers_give_an_optimum_and_a_flag(name, dtype, shape, make):
    rng = np.random.default_rng(7)
    endmembers = make(rng, *shape).astype(dtype)
    pixels = pixels_of(rng, endmembers, dtype)
    if make is all_zero:
        pixels[:8] = rng.normal(size=(8, shape[1]))
    solution = solve_many(name, pixels, endmembers)
    check_optimum(name, solution, pixels, endmembers, dtype)
    if CASES[make][name in ("scls", "fcls")]:
        assert solution.unique.all()
        assert solution.converged.all()
    elif name in ("ucls", "scls"):
        assert not solution.unique.any()
    else:  # where the dependent endmembers take no part, the others are known
        assert not solution.unique[:4].any()


@over_solvers
@pytest.mark.parametrize(("shape", "dtype"), [((5, 3), "float32"), ((5, 3), "float64"), ((13, 6), "float64")])
def test_more_endmembers_than_bands(name, shape, dtype):
    rng = np.random.default_rng(8)
    endmembers = spectra(rng, *shape).astype(dtype)
    pixels = pixels_of(rng, endmembers, dtype)
    solution = solve_many(name, pixels, endmembers)
    check_optimum(name, solution, pixels, endmembers, dtype)
    assert not solution.unique[:4].any()


@over_solvers
def test_dependent_tracers(name):
    """The other path: endmembers known only inside jit, one set for each pixel."""
    rng = np.random.default_rng(9)
    endmembers = duplicates(rng, 3, 8)
    pixels = pixels_of(rng, endmembers, "float64")
    with jax.enable_x64(True):
        batch = jax.jit(jax.vmap(getattr(least_squares, name)))
        solution = numpy_solution(batch(pixels, np.repeat(endmembers[None], len(pixels), 0)))
    check_optimum(name, solution, pixels, endmembers, "float64")
    assert not solution.unique[:4].any()


@over_solvers
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("condition", [1e4, 1e6, 1e8])
def test_nearly_equal_minerals(name, shape, condition):
    """Two endmembers differ by 1/condition: always an optimum, and the truth as far as it is known."""
    rng = np.random.default_rng(10)
    endmembers = spectra(rng, *shape)
    endmembers[-1] = endmembers[0] + rng.normal(size=shape[1]) / condition
    truth = rng.dirichlet(np.ones(shape[0]), 12)
    exact = solve_many(name, truth @ endmembers, endmembers)
    if condition < 1e6:  # beyond, float64 may not prove it
        assert exact.converged.all()
    if name in (
        "nnls",
        "fcls",
    ):  # the others answer to random pixels with abundances as large as the condition
        pixels = pixels_of(rng, endmembers, "float64")
        check_optimum(name, solve_many(name, pixels, endmembers), pixels, endmembers, "float64")
        assert np.abs(exact.abundances - truth).max() < max(1e-12, 1e-14 * condition**2)
    else:
        assert np.abs(exact.abundances - truth).max() < 1e-13 * max(condition, 1e-8 * condition**2)
    check_bound(exact, truth, "float64")


@over_solvers
@pytest.mark.parametrize("condition", [1e3, 1e5, 1e7, 1e9])
def test_nearly_equal_minerals_in_float32(name, condition):
    """Pixels in float32 are solved in float64 where they have to be: what differs in float32 is told apart."""
    rng = np.random.default_rng(12)
    endmembers = spectra(rng, 8, 12)
    endmembers[-1] = endmembers[0] + rng.normal(size=12) / condition
    pixels = rng.dirichlet(np.ones(8), 12) @ endmembers
    pixels[4:] += 0.01 * rng.normal(size=(8, 12))
    pixels, endmembers = pixels.astype("f4"), endmembers.astype("f4")
    solution = solve_many(name, pixels, endmembers)
    assert np.isfinite(solution.abundances).all()
    best = oracle(name, pixels, endmembers)
    if condition < 1e6:  # beyond, a pixel on which rounding alone is left is not proved in float64 either
        assert solution.converged.all()
    if condition < 1e8:
        check_bound(solution, best, "float32")
    elif name in ("ucls", "scls"):  # the two are equal
        assert not solution.unique.any()
    if name in ("nnls", "fcls") or condition < 1e6:  # beyond, the free answer is as large as the condition
        assert np.all(excess(solution.abundances, best, pixels, endmembers) < BOUND["float32"])


@over_dtypes
def test_one_endmember(dtype):
    case = scene(1, 3, dtype)
    endmember = case.endmembers[0].astype(float)
    along = case.pixels.astype(float) @ endmember / (endmember @ endmember)
    for name, expected in {
        "ucls": along, "nnls": np.maximum(along, 0), "scls": np.ones(54), "fcls": np.ones(54)
    }.items():  # fmt: skip
        solution = solve_many(name, case.pixels, case.endmembers)
        assert_close(solution.abundances[:, 0], expected.astype(dtype))
        assert solution.converged.all()
        assert solution.unique.all()


@over_solvers
@over_dtypes
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_black_pixel_is_solved(name, dtype, shape):
    case = scene(*shape, dtype)
    solution = solve_many(name, np.zeros((12, shape[1]), dtype), case.endmembers)
    expected = oracle(name, np.zeros((1, shape[1])), case.endmembers)
    assert_close(solution.abundances, np.repeat(expected, 12, 0))
    assert solution.converged.all()
    assert not (solution.gap > 0).any()  # relative to nothing


@over_solvers
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_pixels_that_are_not_finite_are_flagged_and_disturb_nobody(name, bad, shape):
    case = scene(*shape, "float32")
    clean = solve_many(name, case.pixels[:12], case.endmembers)
    pixels = case.pixels[:12].copy()
    pixels[3, 2] = bad
    solution = solve_many(name, pixels, case.endmembers)
    others = np.arange(12) != 3
    assert not solution.converged[3]
    assert not np.isfinite(solution.residual[3])
    assert solution.converged[others].all()
    assert_close(solution.abundances[others], clean.abundances[others])


@over_solvers
@over_dtypes
@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_pixels_of_another_size_than_the_endmembers(name, dtype, factor):
    """An optimum all the same, to the precision of ‖E‖², which is what sums to one here."""
    case = scene(3, 7, dtype)
    pixels = (case.pixels[:12] * factor).astype(dtype)
    solution = solve_many(name, pixels, case.endmembers)
    best = oracle(name, pixels, case.endmembers)
    size = objective(np.zeros_like(best), pixels, case.endmembers) + 0.5 * np.sum(case.endmembers.astype(float) ** 2)
    worse = objective(solution.abundances, pixels, case.endmembers) - objective(best, pixels, case.endmembers)
    assert np.all(worse / size < BOUND[dtype])
    assert np.isfinite(solution.gap).all()
    assert np.all(solution.gap * np.sum(pixels.astype(float) ** 2, 1) / 2 <= 10 * BOUND[dtype] * size)
    if name in ("ucls", "nnls"):
        assert solution.converged.all()


def test_endmembers_that_point_everywhere_leave_no_bound_but_an_optimum():
    """Spectra of either sign, as after the removal of a continuum."""
    rng = np.random.default_rng(11)
    endmembers = rng.normal(size=(3, 7))
    pixels = rng.normal(size=(12, 7))
    solution = solve_many("nnls", pixels, endmembers)
    assert_close(solution.abundances, oracle("nnls", pixels, endmembers))
    assert solution.converged.all()


numbers = st.integers(-4, 8).map(lambda n: n / 4)


@over_solvers
@given(endmembers=arrays(float, (3, 4), elements=numbers), pixel=arrays(float, 4, elements=numbers))
def test_karush_kuhn_tucker(name, endmembers, pixel):
    """Small numbers of few values: ties, zeros, duplicates and dependence come of themselves."""
    with jax.enable_x64(True):
        solution = numpy_solution(compiled(name)(pixel[None], prepare(endmembers)))
    abundances = solution.abundances[0]
    assert np.isfinite(abundances).all()
    gradient = (abundances @ endmembers - pixel) @ endmembers.T
    size = 1e-9 * (1 + np.sum(np.abs(endmembers)) ** 2)
    if name == "ucls":
        assert np.abs(gradient).max() < size
    elif name == "scls":
        assert abs(abundances.sum() - 1) < 1e-12 * (1 + np.abs(abundances).sum())
        assert np.ptp(gradient) < size
    else:
        assert abundances.min() >= 0
        level = 0.0 if name == "nnls" else gradient[abundances > 0].mean()
        assert gradient.min() - level > -size
        assert np.abs(gradient[abundances > 0] - level).max(initial=0) < size
    if name == "fcls":
        assert abs(abundances.sum() - 1) < 1e-12
    rows = endmembers if name in ("ucls", "nnls") else np.hstack([endmembers, np.ones((3, 1))])
    singular = np.linalg.svd(rows, compute_uv=False)
    if not 1e-12 < singular[-1] / max(singular[0], 1e-30) < 1e-8:
        assert bool(solution.unique[0]) == bool(singular[-1] > 1e-9 * singular[0])


def test_eager_solvers_stand_degeneracy():
    solution = least_squares.fcls(jnp.asarray([1.0, 1.0]), jnp.asarray([[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]]))
    assert_close(solution.abundances[:2].sum(), 1.0)
    assert not bool(solution.unique)


@pytest.mark.parametrize(("count", "bands"), [(3, 100), (5, 30), (12, 25)])
def test_nearly_equal_endmembers_are_told_apart(count, bands):
    """Condition number 1e7: float64 holds what is needed to 1e-9, a solver on the Gram matrix loses all of it."""
    rng = np.random.default_rng(count)
    endmembers = rng.uniform(size=(count, bands))
    endmembers[1] = endmembers[0] + 1e-6 * rng.standard_normal(bands)
    truth = rng.dirichlet(np.ones(count), 54)
    truth[:20, : count // 2] = 0
    truth /= truth.sum(1, keepdims=True)
    with jax.enable_x64(True):
        for name in ("fcls", "nnls"):
            solution = solve_many(name, truth @ endmembers, endmembers)
            assert np.abs(solution.abundances - truth).max() < 1e-8
            check_bound(solution, truth, "float64")


def test_vmap_takes_numpy_pixels():
    rng = np.random.default_rng(0)
    endmembers, pixels = spectra(rng, 3, 7), rng.uniform(size=(4, 7))
    problem = prepare(endmembers)
    eager = jax.vmap(lambda pixel: least_squares.fcls(pixel, problem))(pixels.astype(np.float32))
    assert_close(eager.abundances, solve_many("fcls", pixels.astype(np.float32), endmembers).abundances)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0)], ids=str)
@pytest.mark.parametrize("name", [*SOLVERS, "sunsal"])
def test_no_pixels(name, shape):
    """Of a scene, of no scenes, and of scenes without any."""
    endmembers = spectra(np.random.default_rng(0), 3, 7).astype(np.float32)
    solver = sunsal if name == "sunsal" else getattr(least_squares, name)
    prepared = (prepare_sparse if name == "sunsal" else prepare)(endmembers)
    for _ in shape:
        solver = jax.vmap(solver, (0, None))
    found = jax.jit(solver)(np.zeros((*shape, 7), np.float32), prepared)
    assert found.abundances.shape == (*shape, 3)
    assert found.gap.shape == shape
