"""The contract of one pixel: what a solver takes, and how a function of many pixels becomes one of a single pixel."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from jax.interpreters import batching, mlir
from jaxtyping import Array

__all__ = ["batched", "batched_operation", "check_pixel", "without_derivatives"]


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
        if not len(jax.tree.leaves(own)[0]):  # chunks of nothing have no size: the shapes of one pixel, without it
            one = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype), own)
            answer = jax.eval_shape(lambda arrays, *own: function(eqx.combine(arrays, static), *own), arrays, *one)
            return jax.tree.map(lambda x: jnp.zeros((0, *x.shape[1:]), x.dtype), answer)
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
            inner = jax.tree.leaves(full)[0].shape[1]  # by number: of no pixels at all there may be any number
            answer = many(arrays, *jax.tree.map(lambda x: x.reshape(axis_size * inner, *x.shape[2:]), full))
            answer = jax.tree.map(lambda x: x.reshape(axis_size, inner, *x.shape[1:]), answer)
        return answer, jax.tree.map(lambda _: True, answer)

    return jax.tree.map(lambda x: x[0], many(arrays, *jax.tree.map(lambda x: x[None], own)))


def batched_operation(name: str, function: Callable[..., Any], outline: Callable[..., Any]) -> Callable[..., Any]:
    """`batched` as one operation of JAX: ``operation(shared, *own)`` of one pixel, traced once.

    `batched` traces its function for one pixel, to know what it returns, and again for all. This asks `outline`, and
    traces when the program is compiled: half of the time before the compiler begins. There are no derivatives.

    Args:
        name: in programs as they are printed.
        function: as of `batched`, of pytrees of arrays.
        outline: from the same arguments, of one pixel, to a pytree of `jax.ShapeDtypeStruct` of its answer.
    """
    operation = jax.extend.core.Primitive(name)
    operation.multiple_results = True

    def flat(*leaves: Array, structure: Any, pixel_leaves: int) -> list[Array]:
        # the barriers keep transposes out of the products with the bands, which they would slow down
        own = jax.lax.optimization_barrier(leaves[-pixel_leaves:])
        shared, own = jax.tree.unflatten(structure, [*leaves[:-pixel_leaves], *own])
        return jax.lax.optimization_barrier(jax.tree.leaves(function(shared, *own)))

    @functools.cache
    def compiled(**options: Any) -> Any:
        return jax.jit(functools.partial(flat, **options))

    def rule(leaves: Any, axes: Any, *, structure: Any, pixel_leaves: int) -> Any:
        options = {"structure": structure, "pixel_leaves": pixel_leaves}
        size = next(x.shape[axis] for x, axis in zip(leaves, axes, strict=True) if axis is not None)
        common = axes[:-pixel_leaves]
        if any(axis is not None for axis in common):  # every pixel has its own endmembers
            answers = jax.vmap(functools.partial(flat, **options), axes)(*leaves)
            return answers, [0] * len(answers)
        own = [
            jnp.broadcast_to(x, (size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)
            for x, axis in zip(leaves[-pixel_leaves:], axes[-pixel_leaves:], strict=True)
        ]
        inner = own[0].shape[1]  # by number: of no pixels at all there may be any number
        merged = [x.reshape(size * inner, *x.shape[2:]) for x in own]
        answers = operation.bind(*leaves[:-pixel_leaves], *merged, **options)
        return [x.reshape(size, inner, *x.shape[1:]) for x in answers], [0] * len(answers)

    @operation.def_abstract_eval
    def _(*leaves: Any, structure: Any, pixel_leaves: int) -> Any:
        pixels = leaves[-1].shape[0]
        own = [jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in leaves[-pixel_leaves:]]
        shared, own = jax.tree.unflatten(structure, [*leaves[:-pixel_leaves], *own])
        return [jax.core.ShapedArray((pixels, *x.shape), x.dtype) for x in jax.tree.leaves(outline(shared, *own))]

    operation.def_impl(lambda *leaves, **options: compiled(**options)(*leaves))
    batching.primitive_batchers[operation] = rule
    mlir.register_lowering(operation, mlir.lower_fun(flat, multiple_results=True))

    def call(shared: Any, *own: Any) -> Any:
        leaves, structure = jax.tree.flatten((shared, jax.tree.map(lambda x: x[None], own)))
        answers = operation.bind(*leaves, structure=structure, pixel_leaves=len(jax.tree.leaves(own)))
        return jax.tree.unflatten(jax.tree.structure(outline(shared, *own)), [x[0] for x in answers])

    return call


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
