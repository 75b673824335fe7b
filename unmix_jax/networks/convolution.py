"""Convolutions over windows of a scene, in the forms that cost least on a CPU; both have slopes of their own.

One window after another is worked on, so that what is in between stays in the cache of the processor.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unmix_jax.linalg import HIGHEST, einsum, matmul

__all__ = ["convolve", "convolve_wide"]

NHWC = ("NHWC", "HWIO", "NHWC")


@jax.custom_vjp
def convolve(
    x: Float[Array, "window row column feature"], kernel: Float[Array, "down across feature unit"]
) -> Float[Array, "window row column unit"]:
    """y[i, j] = Σ_kl x[i + k − ⌊K/2⌋, j + l − ⌊L/2⌋] W[k, l], zero beyond the border.

    The slope by the kernel is a product of matrices, a fraction of the cost of what a compiler makes of it.

    Args:
        x: windows.
        kernel: weights of the neighbours, odd numbers of them.

    Returns:
        As many pixels.

    Raises:
        ValueError: an even number of rows or columns of weights.
    """
    _check(kernel)
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=NHWC, precision=HIGHEST)


def _convolve_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return convolve(x, kernel), (x, kernel)


def _convolve_backward(kept: tuple[Array, Array], slope: Array) -> tuple[Array, Array]:
    x, kernel = kept
    down, across, features, units = kernel.shape
    rows, columns = x.shape[1:3]

    def one(total: Array, given: tuple[Array, Array]) -> tuple[Array, None]:
        window, along = given
        padded = jnp.pad(window, ((down // 2,) * 2, (across // 2,) * 2, (0, 0)))
        shifted = [padded[k : k + rows, m : m + columns] for k in range(down) for m in range(across)]
        return total + matmul(
            along.reshape(-1, units).T, jnp.concatenate(shifted, -1).reshape(rows * columns, -1)
        ), None

    by_kernel = jax.lax.scan(one, jnp.zeros((units, down * across * features), x.dtype), (x, slope))[0]
    by_x = convolve(slope, jnp.swapaxes(kernel[::-1, ::-1], 2, 3))
    return by_x, by_kernel.T.reshape(kernel.shape)


convolve.defvjp(_convolve_forward, _convolve_backward)


def convolve_wide(
    x: Float[Array, "window row column feature"], kernel: Float[Array, "down across feature unit"]
) -> Float[Array, "window row column unit"]:
    """The same as `convolve` up to rounding, for few features, many units and a large kernel.

    The rows of a window are transformed: y = F⁻¹ Σ_l (F x)[j + l] (F W)[l], a product of small matrices for each
    frequency and one product back. For 13 × 13 neighbours and three features that is a quarter of the operations.

    Args:
        x: windows.
        kernel: weights of the neighbours, odd numbers of them.

    Returns:
        As many pixels.

    Raises:
        ValueError: an even number of rows or columns of weights.
    """
    _check(kernel)
    windows, rows, columns, _ = x.shape
    down, across, _, units = kernel.shape
    into, taps, back = _transforms(rows, down, x.dtype)
    seen = einsum("gci,pijr->pgjcr", into, x)  # c: real and imaginary part
    seen = jnp.pad(seen, ((0, 0), (0, 0), (across // 2,) * 2, (0, 0), (0, 0)))
    seen = jnp.stack([seen[:, :, k : k + columns] for k in range(across)], 3)
    real, imaginary = einsum("gck,klrb->cglrb", taps, kernel)
    parts = jnp.stack([jnp.stack([real, -imaginary], 2), jnp.stack([imaginary, real], 2)])
    seen = seen.reshape(windows, len(into), columns, -1)
    return _by_frequency(seen, parts.reshape(2, len(into), -1, units), back)


@jax.custom_vjp
def _by_frequency(
    seen: Float[Array, "window frequency column tap"],
    parts: Float[Array, "two frequency tap unit"],
    back: Float[Array, "two row frequency"],
) -> Float[Array, "window row column unit"]:
    """y[i, j] = Σ_cg B[c, i, g] (A[g, j] · W[c, g])."""
    frequencies, columns, units = seen.shape[1], seen.shape[2], parts.shape[3]

    def one(window: Array) -> Array:
        mixed = [matmul(window, part).reshape(frequencies, -1) for part in parts]
        return (matmul(back[0], mixed[0]) + matmul(back[1], mixed[1])).reshape(-1, columns, units)

    return jax.lax.map(one, seen)


def _by_frequency_forward(seen: Array, parts: Array, back: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    return _by_frequency(seen, parts, back), (seen, parts, back)


def _by_frequency_backward(kept: tuple[Array, Array, Array], slope: Array) -> tuple[Array, Array, Any]:
    seen, parts, back = kept
    frequencies, columns, units = seen.shape[1], seen.shape[2], parts.shape[3]
    turned = seen.swapaxes(2, 3), jnp.concatenate([*parts], 2).swapaxes(1, 2), jnp.concatenate([*back.swapaxes(1, 2)])
    windows, both_parts, forwards = jax.lax.optimization_barrier(turned)  # transposed once, not in each product

    def one(total: Array, given: tuple[Array, Array]) -> tuple[Array, Array]:
        window, along = given
        into = matmul(forwards, along.reshape(len(along), -1)).reshape(2, frequencies, columns, units)
        both = jnp.concatenate([*into], 2)
        return total + matmul(window, both), matmul(both, both_parts)

    nothing = jnp.zeros((frequencies, seen.shape[3], 2 * units), seen.dtype)
    by_both, by_seen = jax.lax.scan(one, nothing, (windows, slope))
    return by_seen, jnp.stack(jnp.split(by_both, 2, 2)), None


_by_frequency.defvjp(_by_frequency_forward, _by_frequency_backward)


def _check(kernel: Array) -> None:
    """Refuse weights without a middle."""
    if kernel.shape[0] % 2 == 0 or kernel.shape[1] % 2 == 0:
        raise ValueError(f"a convolution needs odd numbers of weights, got {kernel.shape[0]} × {kernel.shape[1]}")


def _transforms(size: int, taps: int, dtype: Any) -> tuple[Array, Array, Array]:
    """Cosines and sines: of the rows, of the weights, and back; long enough that nothing comes in around the end."""
    length = size + taps // 2
    length += length % 2
    frequency = np.arange(length // 2 + 1)

    def wave(positions: np.ndarray, sign: int) -> np.ndarray:
        return np.exp(sign * 2j * np.pi * np.outer(frequency, positions) / length)

    twice = np.where((frequency == 0) | (frequency == length // 2), 1.0, 2.0)
    into, weights = wave(np.arange(size), -1), wave(np.arange(taps) - taps // 2, 1)
    back = wave(np.arange(size), 1).T * twice / length
    forwards, of_weights = (jnp.asarray(np.stack([part.real, part.imag], 1), dtype) for part in (into, weights))
    return forwards, of_weights, jnp.asarray(np.stack([back.real, -back.imag]), dtype)
