"""The products and factorisations that solvers use: at full float32 precision, and safe to batch.

On recent GPUs a float32 product runs in TF32 (three digits) unless asked otherwise: a solver that promises a
certificate asks here, once.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax.linalg import cholesky, triangular_solve
from jaxtyping import Array, Float, Int

__all__ = [
    "einsum",
    "inverse",
    "least",
    "matmul",
    "one_by_one",
    "safe_norm",
    "safe_sqrt",
    "solve_lower",
    "solve_symmetric",
    "squared_norm",
    "svd",
    "whiten",
]

HIGHEST = jax.lax.Precision.HIGHEST


def matmul(left: Array, right: Array) -> Array:
    """``left @ right`` at the highest precision of the device."""
    left, right = jnp.asarray(left), jnp.asarray(right)
    if left.dtype == right.dtype and 0 < left.ndim < 3 and 0 < right.ndim < 3:
        # without a type asked for: JAX would ask for it again outside ``enable_x64`` when it transposes
        return jax.lax.dot_general(left, right, (((left.ndim - 1,), (0,)), ((), ())), precision=HIGHEST)
    return jnp.matmul(left, right, precision=HIGHEST)


def einsum(subscripts: str, *operands: Array) -> Array:
    """``jnp.einsum`` at the highest precision of the device."""
    return jnp.einsum(subscripts, *operands, precision=HIGHEST)


def squared_norm(vector: Float[Array, " n"]) -> Float[Array, ""]:
    """``‖v‖²`` as an inner product, which compilers reduce faster than a sum of squares."""
    return jnp.matmul(vector, vector, precision=HIGHEST)


def safe_sqrt(value: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Square root whose derivative at zero is zero instead of infinite; zero below. NaN stays NaN."""
    no_root = value <= 0  # false for NaN, which a comparison the other way round would turn into zero
    return jnp.where(no_root, 0.0, jnp.sqrt(jnp.where(no_root, 1.0, value)))


def least(values: Float[Array, "*batch n"]) -> Int[Array, "*batch"]:
    """Place of the smallest value over the last axis, the first of several.

    ``jnp.argmin`` is lowered outside ``jax.enable_x64`` and then fails for float64 inside a program in float32.
    """
    count = values.shape[-1]
    here = values == jnp.min(values, -1, keepdims=True)
    return jnp.min(jnp.where(here, jnp.arange(count, dtype=jnp.int32), jnp.int32(count - 1)), -1)


def safe_norm(vector: Float[Array, "*batch n"]) -> Float[Array, "*batch"]:
    """Euclidean norm over the last axis whose gradient at zero is zero instead of NaN."""
    return safe_sqrt(jnp.sum(vector**2, axis=-1))


def one_by_one(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of arrays, whose ``vmap`` on the CPU computes one member of the batch after the other.

    For factorisations. A batch of them is spread over the threads of the process, and the thread that spreads it waits
    for the others: as many such batches at once as there are threads, and all wait forever (jaxlib 0.10). One at a time
    they are as fast on one core. Other devices compute the batch. Derivatives are for the caller to state, as `whiten`
    and `solve_lower` do: in reverse there are none.
    """

    @jax.custom_batching.custom_vmap
    def single(*arrays: Array) -> Any:
        return function(*arrays)

    @single.def_vmap
    def _(axis_size: int, in_batched: Any, *arrays: Any) -> Any:
        full = [
            jnp.asarray(x) if batched else jnp.broadcast_to(x, (axis_size, *x.shape))  # vmap may hand over NumPy
            for x, batched in zip(arrays, in_batched, strict=True)
        ]

        def in_turn(*full: Array) -> Any:
            return jax.lax.map(lambda one: single(*one), full)

        result = jax.lax.platform_dependent(*full, cpu=in_turn, default=jax.vmap(function))
        return result, jax.tree.map(lambda _: True, result)

    return single


@one_by_one
def _whiten(matrix: Array, rows: Array) -> tuple[Array, Array]:
    factor = cholesky(matrix, symmetrize_input=False)
    return triangular_solve(factor, rows, lower=True, transpose_a=True), factor


@one_by_one
def _inverse(matrix: Array) -> Array:
    factor = cholesky(matrix, symmetrize_input=False)
    root = triangular_solve(factor, jnp.eye(factor.shape[0], dtype=factor.dtype), lower=True, left_side=True)
    return matmul(root.T, root)


_forward = one_by_one(partial(triangular_solve, lower=True, left_side=True))
_backward = one_by_one(partial(triangular_solve, lower=True, left_side=True, transpose_a=True))
_general = one_by_one(jnp.linalg.solve)
_svd = one_by_one(partial(jnp.linalg.svd, full_matrices=False))


@jax.custom_jvp
def whiten(
    matrix: Float[Array, "n n"], rows: Float[Array, "row n"]
) -> tuple[Float[Array, "row n"], Float[Array, "n n"]]:
    """``rows L⁻ᵀ`` and L, lower triangular with ``L Lᵀ = matrix``; NaN where that is not positive definite."""
    return _whiten(matrix, rows)


@whiten.defjvp
def _(primals: Any, tangents: Any) -> Any:
    white, factor = whiten(*primals)
    inner = solve_lower(factor, solve_lower(factor, tangents[0]).T)
    inner = jnp.tril(0.5 * (inner + inner.T)) - 0.5 * jnp.diag(jnp.diag(inner))
    turned = solve_lower(factor, tangents[1].T).T
    return (white, factor), (turned - matmul(white, inner.T), matmul(factor, inner))


@jax.custom_jvp
def inverse(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Inverse of a symmetric positive definite matrix; NaN where it is not definite."""
    return _inverse(matrix)


@inverse.defjvp
def _(primals: Any, tangents: Any) -> Any:
    found = inverse(*primals)
    return found, -matmul(matmul(found, tangents[0]), found)


def solve_lower(
    factor: Float[Array, "n n"], right: Float[Array, "n column"], *, transpose: bool = False
) -> Float[Array, "n column"]:
    """``L⁻¹ right`` of a lower triangular L, or ``L⁻ᵀ right``."""
    forward, backward = (lambda _, b: _forward(factor, b)), (lambda _, b: _backward(factor, b))
    matrix, solve, solve_transposed = (factor.T, backward, forward) if transpose else (factor, forward, backward)
    return jax.lax.custom_linear_solve(partial(matmul, matrix), right, solve, solve_transposed)


def solve_symmetric(matrix: Float[Array, "n n"], right: Float[Array, " n"]) -> Float[Array, " n"]:
    """``matrix⁻¹ right`` of a symmetric matrix, definite or not."""

    def solve(_: Any, right: Array) -> Array:
        with jax.enable_x64(matrix.dtype == jnp.float64):
            return _general(matrix, right)

    return jax.lax.custom_linear_solve(partial(matmul, matrix), right, solve, symmetric=True)


def svd(matrix: Float[Array, "row column"]) -> tuple[Array, Array, Array]:
    """Left vectors, singular values and right vectors, without those of value zero beyond the smaller side."""
    return tuple(_svd(matrix))
