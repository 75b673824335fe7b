"""Small linear algebra for many pixels, with the pixels on the SIMD lanes.

Arrays are [row, pixel] with few rows: a batch of tiny vectors stored so that every operation runs along the pixels.
Compilers do poorly on the other order, where the innermost loop has three turns.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unmix_jax.linalg import matmul

__all__ = ["affine", "apply", "inner", "over", "stacked"]

UNROLL_LIMIT = 12


def affine(
    matrix: Float[Array, "row column"], x: Float[Array, "column pixel"], offset: Float[Array, " row"]
) -> Float[Array, "row pixel"]:
    """``matrix @ x + offset[:, None]``."""
    rows, columns = matrix.shape
    if max(rows, columns) > UNROLL_LIMIT:
        return matmul(matrix, x) + offset[:, None]
    parts = [x[j] for j in range(columns)]
    out = [
        functools.reduce(lambda s, j, i=i: s + matrix[i, j] * parts[j], range(columns), offset[i])  # type: ignore[misc]
        for i in range(rows)
    ]
    return stacked([jnp.broadcast_to(row, x.shape[1:]) for row in out])


def apply(matrix: Float[Array, "row column"], x: Float[Array, "column pixel"]) -> Float[Array, "row pixel"]:
    """``matrix @ x``."""
    return affine(matrix, x, jnp.zeros(matrix.shape[0], matrix.dtype))


def stacked(rows: Sequence[Array]) -> Array:
    """``jnp.stack`` of computed rows.

    The barrier has each computed by itself: otherwise for each of its uses, and in a loop that asks at every element
    which row it is in.
    """
    return jnp.stack(jax.lax.optimization_barrier(list(rows)))


def inner(left: Float[Array, "row pixel"], right: Float[Array, "row pixel"]) -> Float[Array, " pixel"]:
    """Inner product of each pixel's two vectors."""
    return over(jnp.add, left * right)


def over(combine: Callable[[Array, Array], Array], x: Float[Array, "row pixel"]) -> Float[Array, " pixel"]:
    """Reduce the rows of each pixel by ``jnp.add``, ``jnp.minimum`` or ``jnp.maximum``."""
    if len(x) > UNROLL_LIMIT:
        whole: dict[Any, Callable[..., Array]] = {jnp.add: jnp.sum, jnp.minimum: jnp.min, jnp.maximum: jnp.max}
        return whole[combine](x, axis=0)
    return functools.reduce(combine, list(x))  # fuses with what made and what uses it; a reduction does not
