"""The products that solvers use, at full float32 precision.

On recent GPUs a float32 product runs in TF32 (three digits) unless asked otherwise: a solver that promises a
certificate asks here, once.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["einsum", "matmul", "safe_norm", "squared_norm"]

HIGHEST = jax.lax.Precision.HIGHEST


def matmul(left: Array, right: Array) -> Array:
    """``left @ right`` at the highest precision of the device."""
    return jnp.matmul(left, right, precision=HIGHEST)


def einsum(subscripts: str, *operands: Array) -> Array:
    """``jnp.einsum`` at the highest precision of the device."""
    return jnp.einsum(subscripts, *operands, precision=HIGHEST)


def squared_norm(vector: Float[Array, "n"]) -> Float[Array, ""]:
    """``‖v‖²`` as an inner product, which compilers reduce faster than a sum of squares."""
    return jnp.matmul(vector, vector, precision=HIGHEST)


def safe_norm(vector: Float[Array, "*batch n"]) -> Float[Array, "*batch"]:
    """Euclidean norm over the last axis whose gradient at zero is zero instead of NaN."""
    squared = jnp.sum(vector**2, axis=-1)
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)
