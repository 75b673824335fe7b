"""Factorisations: the linear algebra of NumPy, derivatives, and no batch whose threads wait for each other."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from unmix_jax.linalg import inverse, one_by_one, solve_lower, solve_symmetric, svd, whiten
from unmix_jax.physics.variation import ScaleSlopeShift
from unmix_jax.solvers.least_squares import fcls, nnls
from unmix_jax.solvers.synthesis import alternating, map_synthesis, marginal, posterior, prepare_synthesis

pytestmark = pytest.mark.usefixtures("x64")

RNG = np.random.default_rng(5)
ROOTS = RNG.normal(size=(3, 6, 9))
DEFINITE = ROOTS @ ROOTS.transpose(0, 2, 1)
LOWER = np.linalg.cholesky(DEFINITE)
SYMMETRIC = DEFINITE - 8 * np.eye(6)
COLUMNS = RNG.normal(size=(3, 6, 4))
TRANSPOSED = LOWER.transpose(0, 2, 1)

# what is computed of a batch, its arguments, and what NumPy says
FUNCTIONS = {
    "whiten": (lambda m, c: whiten(m, c.T)[0].T, (DEFINITE, COLUMNS), np.linalg.solve(LOWER, COLUMNS)),
    "factor": (lambda m, c: whiten(m, c.T)[1], (DEFINITE, COLUMNS), LOWER),
    "inverse": (inverse, (DEFINITE,), np.linalg.inv(DEFINITE)),
    "solve_lower": (solve_lower, (LOWER, COLUMNS), np.linalg.solve(LOWER, COLUMNS)),
    "solve_upper": (
        functools.partial(solve_lower, transpose=True),
        (LOWER, COLUMNS),
        np.linalg.solve(TRANSPOSED, COLUMNS),
    ),
    "solve_symmetric": (solve_symmetric, (SYMMETRIC, COLUMNS[..., 0]), np.linalg.solve(SYMMETRIC, COLUMNS)[..., 0]),
}
each = pytest.mark.parametrize("name", FUNCTIONS)


@each
def test_agrees_with_numpy_alone_and_in_a_batch(name):
    function, arguments, wanted = FUNCTIONS[name]
    arguments = [jnp.asarray(a) for a in arguments]
    close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)
    close(jax.jit(function)(*(a[1] for a in arguments)), wanted[1])
    close(jax.jit(jax.vmap(function))(*arguments), wanted)
    close(jax.vmap(jax.vmap(function))(*(jnp.stack([a, a[::-1]]) for a in arguments))[1], wanted[::-1])
    if len(arguments) > 1:
        close(jax.vmap(function, (None, 0))(arguments[0][0], arguments[1])[0], wanted[0])


@each
def test_derivatives_forward_and_reverse_alone_and_in_a_batch(name):
    function, arguments, _ = FUNCTIONS[name]

    def symmetric_or_lower(first, *others):
        first = jnp.tril(first) if "solve_" in name and name != "solve_symmetric" else 0.5 * (first + first.T)
        return function(first, *others)

    check_grads(jax.jit(symmetric_or_lower), tuple(a[0] for a in arguments), order=1, rtol=1e-4)
    check_grads(jax.jit(jax.vmap(symmetric_or_lower)), arguments, order=1, rtol=1e-4)


def test_svd_is_that_of_numpy():
    left, values, right = jax.vmap(svd)(COLUMNS)
    np.testing.assert_allclose(values, np.linalg.svd(COLUMNS, compute_uv=False), rtol=1e-9)
    np.testing.assert_allclose(left * values[:, None] @ right, COLUMNS, rtol=1e-9)


def test_nan_where_a_matrix_is_not_positive_definite():
    batch = np.stack([DEFINITE[0], -DEFINITE[1], DEFINITE[2]])
    for found in (jax.vmap(inverse)(batch), jax.vmap(whiten)(batch, COLUMNS.transpose(0, 2, 1))[0]):
        assert np.array_equal(np.isfinite(found).all((1, 2)), [True, False, True])


# No program holds a batch of LAPACK calls.


def batches(function, *arguments):
    """LAPACK calls of the program for the CPU whose first operand has more than two axes of more than one member."""
    text = jax.jit(function).trace(*arguments).lower(lowering_platforms=("cpu",)).as_text()
    calls = re.findall(r"custom_call @(lapack_\w+|blas_\w+)\(.*?: \(tensor<([0-9x]+)x[a-z]+[0-9]+>", text)
    assert len(calls) == len(re.findall(r"custom_call @(?:lapack|blas)_", text))
    return [name for name, shape in calls if sum(n != "1" for n in shape.split("x")) > 2], len(calls)


def minerals(count, bands=60):
    spectra = 0.5 + 0.4 * np.random.default_rng(count).uniform(size=(count, bands))
    return spectra.astype(np.float32)


def prepared():
    generator = ScaleSlopeShift(minerals(14), scale=0.05, slope=0.05, level=1.0)
    return prepare_synthesis(generator, noise=1e-3, rank=30, samples=16)


def total(solver):
    return lambda pixel, endmembers: jnp.sum(solver(pixel, endmembers).abundances ** 2)


SOLVERS = {
    "fcls": (fcls, lambda: minerals(14)),
    "fcls of few": (fcls, lambda: minerals(5)),
    "nnls": (nnls, lambda: minerals(14)),
    "gradient of fcls": (jax.grad(total(fcls)), lambda: minerals(14)),
    "gradient of nnls": (jax.grad(total(nnls)), lambda: minerals(14)),
    "marginal": (marginal, prepared),
    "gradient of marginal": (jax.grad(total(marginal)), prepared),
    "map": (map_synthesis, prepared),
    "posterior": (posterior, prepared),
    "alternating": (alternating, lambda: prepared().generator),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_no_program_batches_its_factorisations(name):
    """Threads that wait for each other: `one_by_one` says how."""
    solver, endmembers = SOLVERS[name]
    with jax.enable_x64(False):
        found, calls = batches(jax.vmap(solver, (0, None)), minerals(7), endmembers())
        if "fcls" in name or "nnls" in name:  # and where each pixel has its own
            found += batches(jax.vmap(solver), minerals(7), jnp.stack([endmembers()] * 7))[0]
    assert calls > 0 or "few" in name or name == "alternating"
    assert not found


def test_a_batch_would_be_found():
    found, _ = batches(jax.vmap(jnp.linalg.cholesky), DEFINITE)
    assert found == ["lapack_dpotrf_ffi"]
    assert batches(jax.vmap(one_by_one(jnp.linalg.cholesky)), DEFINITE) == ([], 1)
