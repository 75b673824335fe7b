"""Flax NNX modules beside the rest: as a layer of an encoder, and as an unmixer.

Whatever holds physics is an Equinox module; networks that do not may be Flax modules. `FlaxLayer` carries one: its
parameters are trained by `train` as those of any layer, its batch statistics are gathered, and its random numbers come
from the key of the step.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from unmix_jax.linalg import matmul
from unmix_jax.networks.layers import Layer, Softmax, SumToOne
from unmix_jax.types import Solution

__all__ = ["FlaxLayer", "FlaxUnmixer"]


class FlaxLayer(Layer):
    """A Flax NNX module as a layer: ``module(x)`` on a batch [..., feature].

    Attributes:
        parameters: what is trained.
        statistics: of batch norms, before training.
        structure: the module without its arrays.
        random: where it keeps its random numbers, and which of these are keys.
    """

    parameters: Any
    statistics: Any
    structure: Any = eqx.field(static=True)
    random: Any = eqx.field(static=True)

    @classmethod
    def of(cls, module: nnx.Module) -> "FlaxLayer":
        """A module as it is.

        Raises:
            ValueError: one with variables that are neither parameters, batch statistics nor random numbers.
        """
        parts: Any = nnx.split(module, nnx.Param, nnx.BatchStat, nnx.RngState, ...)
        structure, parameters, statistics, random, rest = parts
        if jax.tree.leaves(rest):
            kinds = sorted({type(one).__name__ for _, one in nnx.to_flat_state(rest)})
            raise ValueError(
                f"a module may hold parameters, batch statistics and random numbers, got {', '.join(kinds)} too"
            )
        leaves, tree = jax.tree.flatten(random)
        keys = tuple(bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)) for leaf in leaves)
        return cls(parameters, statistics, structure, (tree, keys))

    def gathered(self) -> Any:
        """Batch statistics before training."""
        return self.statistics

    def __call__(self, x: Any, state: Any, key: Any) -> tuple[Array, Any]:
        """What the module makes of a batch; with a key it trains."""
        tree, keys = self.random
        own = jax.random.key(0) if key is None else key
        numbers = [jax.random.fold_in(own, i) if is_key else jnp.zeros((), jnp.uint32) for i, is_key in enumerate(keys)]
        held = jax.tree.map(lambda leaf: leaf, (self.parameters, state))  # variables of the trace that we are in
        module: Any = nnx.merge(self.structure, *held, jax.tree.unflatten(tree, numbers), nnx.State({}))
        if key is None:
            module.eval()
            return module(x), state
        module.train()
        found = module(x)
        return found, jax.lax.stop_gradient(nnx.state(module, nnx.BatchStat))


class FlaxUnmixer(eqx.Module):
    """A Flax NNX module as an unmixer.

    Attributes:
        layer: the module.
        state: its batch statistics.
        simplex: from what it returns to abundances.
        endmembers: for the residual; None: it is NaN.
    """

    layer: FlaxLayer
    state: Any
    simplex: SumToOne = Softmax(1.0)
    endmembers: Float[Array, "endmember band"] | None = None

    @classmethod
    def of(cls, module: nnx.Module, *, simplex: SumToOne | None = None, endmembers: Any = None) -> "FlaxUnmixer":
        """A module ``module(pixels) -> scores`` on [pixel, band], one score for each endmember."""
        layer = FlaxLayer.of(module)
        spectra = None if endmembers is None else jnp.asarray(endmembers)
        return cls(layer, layer.gathered(), simplex or Softmax(1.0), spectra)

    def __call__(self, pixel: Float[Any, " band"]) -> Solution:
        """Abundances, and the residual of their linear mixture; there is no certificate."""
        scores, _ = self.layer(pixel[None], self.state, None)
        abundances = self.simplex(scores)[0]
        nothing = jnp.full((), jnp.nan, abundances.dtype)
        residual = nothing
        if self.endmembers is not None:
            residual = jnp.sqrt(jnp.mean((pixel - matmul(abundances, self.endmembers)) ** 2))
        fine = jnp.all(jnp.isfinite(abundances))
        return Solution(abundances, residual, nothing, jnp.zeros((), jnp.int32), fine)
