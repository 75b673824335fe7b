"""One pixel outside, a batch inside: kernels of many pixels behind the contract of one."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

__all__ = ["batched"]


def batched(function: Callable[..., Any], problem: Any, *own: Any) -> Any:
    """``function(problem, *own)`` of many pixels at once, for one pixel; ``vmap`` makes one larger batch of them.

    Args:
        function: takes the problem, which all pixels share, and arrays with the pixels first; so are its results.
        problem: any pytree.
        *own: what belongs to this pixel, without that axis.

    Returns:
        What the function says of this pixel.
    """
    arrays, static = eqx.partition(problem, eqx.is_array)

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
