"""The laws of the four solvers, over sizes and precisions."""

import functools

import jax
import numpy as np
import pytest
from helpers import assert_close
from solvers.cases import (
    SOLVERS,
    abundance_scale,
    excess,
    objective,
    oracle,
    scene,
    solve_many,
)

from unmix_jax.solvers import least_squares
from unmix_jax.solvers.least_squares import prepare

# (endmembers, bands): the sizes at which the method changes come in both precisions
SIZES = [(*size, dtype) for dtype in ("float32", "float64") for size in [(1, 3), (3, 7), (40, 60)]]
SIZES += [(13, 30, "float32"), (5, 30, "float64")]
EPS = {"float32": 6e-8, "float64": 1.2e-16}

over_sizes = pytest.mark.parametrize(("count", "bands", "dtype"), SIZES)
over_solvers = pytest.mark.parametrize("name", SOLVERS)


@functools.cache
def solved(name, count, bands, dtype):
    case = scene(count, bands, dtype)
    return case, solve_many(name, case.pixels, case.endmembers)


@functools.cache
def best(name, count, bands, dtype):
    case = scene(count, bands, dtype)
    return oracle(name, case.pixels, case.endmembers)


def largest_gap(count, dtype):
    return {"float32": 5e-5 if count < 40 else 1e-4, "float64": 1e-12 if count < 40 else 1e-10}[dtype]


@over_solvers
@over_sizes
def test_the_oracle_agrees(name, count, bands, dtype):
    _, solution = solved(name, count, bands, dtype)
    expected = best(name, count, bands, dtype)
    assert solution.abundances.dtype == dtype
    assert_close(solution.abundances, expected, scale=abundance_scale(expected))


@over_solvers
@over_sizes
def test_the_truth_is_recovered_where_there_is_no_noise(name, count, bands, dtype):
    case, solution = solved(name, count, bands, dtype)
    exact = np.isin(case.kinds, ("mixed", "sparse", "pure"))
    assert_close(solution.abundances[exact], case.truth[exact])
    assert solution.residual[exact].max() < {"float32": 2e-6, "float64": 1e-12}[dtype]


@over_solvers
@over_sizes
def test_constraints_hold(name, count, bands, dtype):
    _, solution = solved(name, count, bands, dtype)
    if name in ("nnls", "fcls"):
        assert solution.abundances.min() >= 0
    if name in ("scls", "fcls"):
        size = np.maximum(1, np.abs(solution.abundances.astype(float)).sum(1))
        assert np.all(np.abs(solution.abundances.astype(float).sum(1) - 1) < 40 * EPS[dtype] * size)


@over_solvers
@over_sizes
def test_the_gap_bounds_the_excess_and_is_small(name, count, bands, dtype):
    case, solution = solved(name, count, bands, dtype)
    worse = excess(solution.abundances, best(name, count, bands, dtype), case.pixels, case.endmembers)
    rounding = 60 * EPS[dtype] * abundance_scale(solution.abundances) ** 2  # that of Σa = 1 included
    assert np.all(worse <= solution.gap + rounding)
    assert np.all(solution.gap >= 0)
    assert solution.gap.max() <= largest_gap(count, dtype)
    assert solution.converged.all()
    assert solution.unique.all()


@over_solvers
@over_sizes
def test_the_residual_is_that_of_the_abundances(name, count, bands, dtype):
    """To a part in a thousand above the rounding of the pixel: at 30 dB, at 80 dB, far from any mixture."""
    case, solution = solved(name, count, bands, dtype)
    direct = np.sqrt(2 * objective(solution.abundances, case.pixels, case.endmembers) / bands)
    rounding = 2 * EPS[dtype] * np.abs(case.pixels).max(1) * abundance_scale(solution.abundances)
    assert np.all(np.abs(solution.residual - direct) <= 1e-3 * direct + rounding)
    noisy = np.isin(case.kinds, ("noisy", "clean"))
    if name == "fcls" and bands > count:
        assert np.all(direct[noisy] > 20 * rounding[noisy])  # so the law says something there


@over_solvers
@pytest.mark.parametrize(("count", "bands", "dtype"), [(3, 7, "float32"), (5, 30, "float64"), (13, 30, "float64")])
def test_order_of_endmembers_and_unit_of_spectra_do_not_matter(name, count, bands, dtype):
    case, solution = solved(name, count, bands, dtype)
    order = np.random.default_rng(0).permutation(count)
    scale = abundance_scale(solution.abundances)
    permuted = solve_many(name, case.pixels, case.endmembers[order])
    assert_close(permuted.abundances, solution.abundances[:, order], scale=scale)
    for factor in (1e-6, 1e4):
        scaled = solve_many(name, (case.pixels * factor).astype(dtype), (case.endmembers * factor).astype(dtype))
        assert_close(scaled.abundances, solution.abundances, scale=scale)
        assert_close(scaled.residual / factor, solution.residual, scale=np.abs(case.pixels).max())
        assert scaled.converged.all()


@over_solvers
@pytest.mark.parametrize("factor", [1e-15, 1e12])
def test_units_of_any_size(name, factor):
    case, solution = solved(name, 3, 7, "float32")
    pixels, endmembers = (case.pixels * factor).astype("f4"), (case.endmembers * factor).astype("f4")
    scaled = solve_many(name, pixels, endmembers)
    assert_close(scaled.abundances, solution.abundances, scale=abundance_scale(solution.abundances))
    assert scaled.converged.all()


def test_dtype_follows_the_data_whatever_the_flag():
    case, solution = solved("fcls", 3, 7, "float32")
    with jax.enable_x64(True):
        same = jax.jit(jax.vmap(least_squares.fcls, (0, None)))(case.pixels, prepare(case.endmembers))
    assert same.abundances.dtype == same.residual.dtype == same.gap.dtype == np.float32
    assert_close(same.abundances, solution.abundances)


def test_integer_endmembers_are_taken_as_numbers():
    solution = solve_many("fcls", np.array([[2.0, 3.0, 1.0]], "f4"), np.array([[4, 0, 0], [0, 6, 2]]))
    assert_close(solution.abundances, np.array([[0.5, 0.5]]))


@pytest.mark.parametrize(("count", "bands"), [(1, 9), (4, 30)])
def test_a_black_endmember_turns_the_sum_into_a_bound(count, bands):
    """FCLS with a shade of zeros is NNLS under Σa ≤ 1."""
    case = scene(4, bands, "float64")
    endmembers = case.endmembers[:count]
    shaded = solve_many("fcls", case.pixels, np.vstack([endmembers, np.zeros((1, bands))]))
    free = oracle("nnls", case.pixels, endmembers)
    within = free.sum(1) <= 1
    assert within.any()
    assert not within.all()
    assert_close(shaded.abundances[within, :count], free[within])
    assert_close(shaded.abundances[~within, :count], oracle("fcls", case.pixels[~within], endmembers))
    assert_close(shaded.abundances.sum(1), np.ones(len(case.pixels)))
    assert shaded.converged.all()
    assert shaded.unique.all()
