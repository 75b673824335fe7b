"""One pixel, a loop, a batch and a batch of batches are the same problem."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close
from solvers.cases import SOLVERS, abundance_scale, numpy_solution, oracle, scene, solve_many

from unmix_jax.solvers import least_squares
from unmix_jax.solvers.least_squares import prepare

over_sizes = pytest.mark.parametrize(
    ("name", "count", "bands"), [*((name, 3, 7) for name in SOLVERS), ("fcls", 13, 30)]
)


@over_sizes
def test_eager_loop_and_nested_vmap_are_the_batch(name, count, bands):
    case = scene(count, bands, "float64")
    solution = solve_many(name, case.pixels, case.endmembers)
    solver = getattr(least_squares, name)
    scale = abundance_scale(solution.abundances)
    with jax.enable_x64(True):
        prepared = prepare(case.endmembers)
        for i in (0, 20, 33):
            one = solver(jnp.asarray(case.pixels[i]), prepared)
            assert_close(one.abundances, solution.abundances[i], scale=scale)
            assert_close(one.residual, solution.residual[i])
            assert bool(one.converged)
        image = case.pixels.reshape(6, -1, bands)
        nested = jax.jit(jax.vmap(jax.vmap(solver, (0, None)), (0, None)))(image, prepared)
    for field in ("abundances", "residual", "converged"):
        actual, expected = getattr(nested, field), getattr(solution, field)
        assert_close(np.reshape(actual, expected.shape), expected, scale=scale)


@over_sizes
def test_every_pixel_may_have_endmembers_of_its_own(name, count, bands):
    case = scene(count, bands, "float64")
    rng = np.random.default_rng(1)
    pixels = case.pixels[::9].reshape(2, 3, bands)
    own = case.endmembers * rng.uniform(0.8, 1.2, (2, 3, count, 1)) + rng.uniform(0, 0.05, (2, 3, count, bands))
    expected = np.array(
        [[oracle(name, y[None], e)[0] for y, e in zip(*row, strict=True)] for row in zip(pixels, own, strict=True)]
    )
    with jax.enable_x64(True):
        batch = jax.jit(jax.vmap(jax.vmap(getattr(least_squares, name))))
        solution = numpy_solution(batch(pixels, own))
    assert_close(solution.abundances, expected, scale=abundance_scale(expected))
    assert solution.converged.all()
    assert solution.unique.all()


@over_sizes
def test_endmembers_may_be_tracers(name, count, bands):
    """One set for all pixels: the tables of supports are not there, the answers are."""
    case = scene(count, bands, "float64")
    expected = oracle(name, case.pixels, case.endmembers)
    with jax.enable_x64(True):
        batch = jax.jit(jax.vmap(getattr(least_squares, name), (0, None)))
        solution = numpy_solution(batch(case.pixels, case.endmembers))
    assert_close(solution.abundances, expected, scale=abundance_scale(expected))
    assert solution.converged.all()
    assert solution.unique.all()


def test_one_pixel_per_set_of_endmembers():
    """The pixel is shared and the endmembers are the batch."""
    case = scene(3, 7, "float64")
    sets = case.endmembers * np.random.default_rng(2).uniform(0.8, 1.2, (5, 3, 1))
    with jax.enable_x64(True):
        solution = jax.jit(jax.vmap(least_squares.fcls, (None, 0)))(case.pixels[20], sets)
    expected = np.concatenate([oracle("fcls", case.pixels[20:21], e) for e in sets])
    assert_close(np.asarray(solution.abundances), expected)
