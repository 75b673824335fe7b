"""The contract of one pixel: what a solver takes, and how a function of many pixels becomes one of a single pixel."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["batched", "check_pixel", "without_derivatives"]


def batched(function: Callable[..., Any], shared: Any, *own: Any) -> Any:
    """``function(shared, *own)`` of many pixels at once, for one pixel; ``vmap`` makes one larger batch of them.

    Args:
        function: of a pytree that all pixels share and of pytrees with a leading pixel axis, to another of these.
        shared: endmembers, and whatever else does not depend on the pixel.
        own: what belongs to this pixel, without that axis.
    """
    arrays, static = eqx.partition(shared, eqx.is_array)

    @jax.custom_batching.custom_vmap
    def many(arrays: Any, *own: Any) -> Any:
        # the barriers keep transposes out of the products with the bands, which they would slow down
        answer = function(eqx.combine(arrays, static), *jax.lax.optimization_barrier(own))
        return jax.lax.optimization_barrier(answer)

    @many.def_vmap
    def _(axis_size: int, in_batched: Any, arrays: Any, *own: Any) -> Any:
        if any(jax.tree.leaves(in_batched[0])):  # every pixel has its own endmembers: nothing to share
            axes = jax.tree.map(lambda batched: 0 if batched else None, list(in_batched))
            answer = jax.vmap(lambda arrays, *own: function(eqx.combine(arrays, static), *own), axes)(arrays, *own)
        else:
            full = jax.tree.map(
                lambda x, batched: x if batched else jnp.broadcast_to(x, (axis_size, *x.shape)),
                own,
                tuple(in_batched[1:]),
            )
            answer = many(arrays, *jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), full))
            answer = jax.tree.map(lambda x: x.reshape(axis_size, -1, *x.shape[1:]), answer)
        return answer, jax.tree.map(lambda _: True, answer)

    return jax.tree.map(lambda x: x[0], many(arrays, *jax.tree.map(lambda x: x[None], own)))


def without_derivatives(solver: str, inputs: Any) -> Any:
    """The same arrays, which refuse to be differentiated: a derivative of zero, or of some steps of a loop, is wrong.

    Args:
        solver: its name, for the message.
        inputs: a pytree of all that the answer depends on.

    Raises:
        TypeError: where the answer is differentiated.
    """
    arrays, rest = eqx.partition(inputs, eqx.is_inexact_array)

    @jax.custom_jvp
    def same(arrays: Any) -> Any:
        return arrays

    @same.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        raise TypeError(
            f"{solver} has no derivatives; take nnls, fcls or invert, which have them, "
            "or hand over jax.lax.stop_gradient(pixel) where none is wanted"
        )

    return eqx.combine(same(arrays), rest)


def check_pixel(pixel: Any, bands: int) -> None:
    """Refuse what is not one pixel of as many bands as the endmembers have.

    Raises:
        ValueError: several pixels, or another number of bands.
    """
    if len(np.shape(pixel)) != 1:
        raise ValueError(f"one pixel is [band], got shape {np.shape(pixel)}; use unmix or jax.vmap for many")
    if np.shape(pixel)[0] != bands:
        raise ValueError(f"endmembers have {bands} bands, pixels have {np.shape(pixel)[0]}")
