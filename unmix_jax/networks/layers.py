"""What encoders are made of: layers on a batch of pixels, and layers whose outputs are abundances.

A layer is ``layer(x, state, key) -> (x, state)`` on x [..., feature], a list of pixels or of windows of a scene. With
a ``key`` it trains: noise is drawn, batch statistics are used and gathered. Without one it is a fixed function.
``state`` is what a layer gathers and does not train, None for all but `BatchNorm` and `Variational`.

A sum-to-one layer is ``layer(z) -> abundances`` on [..., endmember]: finite, not negative, of sum one for any finite z.
"""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from unmix_jax.linalg import einsum

__all__ = [
    "AbsSum",
    "AngleDense",
    "AugmentedRow",
    "BatchNorm",
    "Dense",
    "Divergence",
    "Dropout",
    "GaussianNoise",
    "Layer",
    "LeakyReLU",
    "MaskedNoise",
    "ReLUSum",
    "Sequential",
    "SiLU",
    "Softmax",
    "SparseReLU",
    "SumToOne",
    "TopK",
    "Unbounded",
    "Variational",
    "added",
    "constrained",
    "glorot",
]

COSINE = 1 - 1e-6  # the largest that has an angle: the derivative of arccos is infinite at 1


class Layer(eqx.Module):
    """One layer of an encoder or a decoder."""

    def gathered(self) -> Any:
        """The state before training."""
        return None

    def constrained(self, before: Any) -> "Layer":
        """The same layer with its parameters inside their limits; taken after each step, ``before`` is without it."""
        return self

    @abstractmethod
    def __call__(
        self, x: Float[Array, "*pixel feature"], state: Any, key: Key[Array, ""] | None
    ) -> tuple[Float[Array, "*pixel unit"], Any]:
        """Outputs of the batch, and the state after it."""


def glorot(key: Key[Array, ""], rows: int, columns: int) -> Float[Array, "rows columns"]:
    """Weights drawn uniformly from ±√(6 / (rows + columns)).

    Reference: Glorot and Bengio 2010, AISTATS.
    """
    limit = (6 / (rows + columns)) ** 0.5
    return jax.random.uniform(key, (rows, columns), minval=-limit, maxval=limit)


class Sequential(Layer):
    """Layers one after another."""

    layers: tuple[Layer, ...]

    def gathered(self) -> Any:
        """One state per layer."""
        return tuple(layer.gathered() for layer in self.layers)

    def __call__(self, x: Any, state: Any, key: Any) -> tuple[Array, Any]:
        """Through all of them; each has its own key."""
        after = []
        for i, (layer, own) in enumerate(zip(self.layers, state, strict=True)):
            x, new = layer(x, own, None if key is None else jax.random.fold_in(key, i))
            after.append(new)
        return x, tuple(after)


class Dense(Layer):
    """x Wᵀ + b, with a row of W for each unit."""

    weight: Float[Array, "unit feature"]
    bias: Float[Array, " unit"] | None = None

    def __call__(self, x: Any, state: Any, key: Any) -> tuple[Array, Any]:
        """Linear in the features."""
        x = einsum("...f,uf->...u", x, self.weight)
        return x if self.bias is None else x + self.bias, state


class AngleDense(Layer):
    """1 − ∠(w_i, x)/π: how near a pixel is in angle to each weight vector.

    Reference: Ozkan, Kaya and Akar 2019 (EndNet), 10.1109/TGRS.2018.2856929.
    """

    weight: Float[Array, "unit feature"]

    def __call__(self, x: Any, state: Any, key: Any) -> tuple[Array, Any]:
        """One for a pixel along the weights, one half for one at right angles, one half for a pixel of zeros."""
        lengths = jnp.sqrt(jnp.sum(x**2, -1, keepdims=True) * jnp.sum(self.weight**2, -1) + jnp.finfo(x.dtype).tiny)
        cosine = jnp.clip(einsum("...f,uf->...u", x, self.weight) / lengths, -COSINE, COSINE)
        return 1 - jnp.arccos(cosine) / jnp.pi, state


class BatchNorm(Layer):
    """(x − mean) / √(variance + ε) of each feature, times a scale and plus a shift where it has them.

    In training mean and variance are those of the batch; else those gathered, running means with momentum.

    Reference: Ioffe and Szegedy 2015, arXiv:1502.03167.
    """

    scale: Float[Array, " feature"] | None
    shift: Float[Array, " feature"] | None
    features: int = eqx.field(static=True)
    momentum: float = eqx.field(static=True, default=0.99)
    epsilon: float = eqx.field(static=True, default=1e-3)

    @classmethod
    def plain(cls, features: int, *, scaled: bool = True) -> "BatchNorm":
        """With a scale of one, or without one, and a shift of zero."""
        return cls(jnp.ones(features) if scaled else None, jnp.zeros(features), features)

    def gathered(self) -> Any:
        """Mean zero and variance one."""
        return jnp.zeros(self.features), jnp.ones(self.features)

    def __call__(self, x: Any, state: Any, key: Any) -> tuple[Array, Any]:
        """Normalised features."""
        mean, variance = state
        if key is not None:
            axes = tuple(range(x.ndim - 1))
            mean = jnp.mean(x, axes)
            variance = jnp.mean((x - mean) ** 2, axes)
            kept = self.momentum
            state = (kept * state[0] + (1 - kept) * mean, kept * state[1] + (1 - kept) * variance)
        factor = jax.lax.rsqrt(variance + self.epsilon)
        x = (x - mean) * (factor if self.scale is None else factor * self.scale)
        return x if self.shift is None else x + self.shift, jax.lax.stop_gradient(state)


class LeakyReLU(Layer):
    """x where it is positive, else slope × x; a slope of zero is ReLU."""

    slope: float = eqx.field(static=True, default=0.0)

    def __call__(self, x: Any, state: Any, key: Any) -> tuple[Array, Any]:
        """Each feature by itself."""
        return jnp.where(x > 0, x, self.slope * x), state


class SiLU(Layer):
    """x / (1 + exp(−x)): smooth, for functions that are to be met closely."""

    def __call__(self, x: Any, state: Any, key: Any) -> tuple[Array, Any]:
        """Each feature by itself."""
        return jax.nn.silu(x), state


class SparseReLU(Layer):
    """max(0, x − threshold), with a threshold that is learned and never negative."""

    threshold: Float[Array, " feature"]

    def constrained(self, before: Any) -> "SparseReLU":
        """With no threshold below zero."""
        return SparseReLU(jnp.maximum(self.threshold, 0))

    def __call__(self, x: Any, state: Any, key: Any) -> tuple[Array, Any]:
        """Each feature by itself."""
        return jnp.maximum(x - self.threshold, 0), state


class Dropout(Layer):
    """In training each feature is zero at this rate, and the others are scaled up to make up for it.

    Reference: Srivastava et al. 2014, JMLR 15.
    """

    rate: float = eqx.field(static=True)

    def __call__(self, x: Any, state: Any, key: Any) -> tuple[Array, Any]:
        """Unchanged outside of training."""
        if key is None or self.rate == 0:
            return x, state
        kept = jax.random.bernoulli(key, 1 - self.rate, x.shape)
        return jnp.where(kept, x / (1 - self.rate), 0), state


class GaussianNoise(Layer):
    """White noise of this standard deviation in training."""

    std: float = eqx.field(static=True)

    def __call__(self, x: Any, state: Any, key: Any) -> tuple[Array, Any]:
        """Unchanged outside of training."""
        if key is None or self.std == 0:
            return x, state
        return x + self.std * jax.random.normal(key, x.shape, x.dtype), state


class Divergence(eqx.Module):
    """What a layer adds to the loss of a batch, on its way through the state."""

    value: Float[Array, ""]


def added(state: Any) -> Float[Array, ""]:
    """What the layers with this state add to the loss."""
    parts = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, Divergence))
    return sum((part.value for part in parts if isinstance(part, Divergence)), jnp.zeros(()))


class Variational(Layer):
    """A draw from N(μ, σ²) with x = (μ, log σ²) in training, μ otherwise.

    To the loss it adds weight × KL(N(μ, σ²) ‖ N(0, 1)).

    Reference: Kingma and Welling 2014, arXiv:1312.6114.
    """

    weight: float = eqx.field(static=True)

    def gathered(self) -> Any:
        """Nothing is added yet."""
        return Divergence(jnp.zeros(()))

    def __call__(self, x: Any, state: Any, key: Any) -> tuple[Array, Any]:
        """Half as many features."""
        mean, logarithm = jnp.split(x, 2, -1)
        if key is None:
            return mean, state
        logarithm = jnp.clip(logarithm, -20, 20)
        away = 0.5 * jnp.sum(mean**2 + jnp.exp(logarithm) - 1 - logarithm, -1)
        drawn = mean + jnp.exp(0.5 * logarithm) * jax.random.normal(key, mean.shape, mean.dtype)
        return drawn, Divergence(self.weight * jnp.mean(away))


class MaskedNoise(Layer):
    """White noise that leaves each feature alone at this rate, and is scaled up elsewhere, in training.

    Reference: Ozkan, Kaya and Akar 2019 (EndNet), 10.1109/TGRS.2018.2856929.
    """

    rate: float = eqx.field(static=True)
    std: float = eqx.field(static=True)

    def __call__(self, x: Any, state: Any, key: Any) -> tuple[Array, Any]:
        """Unchanged outside of training."""
        if key is None or self.std == 0:
            return x, state
        first, second = jax.random.split(key)
        noise, _ = Dropout(self.rate)(jax.random.normal(first, x.shape, x.dtype), None, second)
        return x + self.std * noise, state


def constrained(tree: Any, before: Any) -> Any:
    """A network with all parameters inside their limits: the projection after a step.

    Args:
        tree: the network after the step.
        before: the same network before it, to which parameters go back that are not to be trained.

    Returns:
        The network.
    """

    def limited(node: Any) -> bool:
        return getattr(type(node), "constrained", Layer.constrained) is not Layer.constrained

    return jax.tree.map(
        lambda node, old: node.constrained(old) if limited(node) else node, tree, before, is_leaf=limited
    )


class SumToOne(eqx.Module):
    """A layer whose outputs are abundances."""

    @abstractmethod
    def __call__(self, z: Float[Array, "*pixel endmember"]) -> Float[Array, "*pixel endmember"]:
        """Abundances: not negative, of sum one."""


class Unbounded(SumToOne):
    """z as it is, for networks whose code is no abundance."""

    def __call__(self, z: Any) -> Array:
        """Unchanged."""
        return z


class Softmax(SumToOne):
    """exp(scale z_i) / Σ_j exp(scale z_j): sparser the greater the scale, never zero."""

    scale: float = eqx.field(static=True, default=1.0)

    def __call__(self, z: Any) -> Array:
        """Equal shares where all are equal."""
        return jax.nn.softmax(self.scale * z, -1)


class ReLUSum(SumToOne):
    """max(z, 0) over its sum; equal shares where none is positive."""

    def __call__(self, z: Any) -> Array:
        """The negative ones are zero."""
        return _over_sum(jnp.maximum(z, 0))


class AbsSum(SumToOne):
    """|z| over its sum; equal shares where all are zero."""

    def __call__(self, z: Any) -> Array:
        """Blind to signs."""
        return _over_sum(jnp.abs(z))


class TopK(SumToOne):
    """|z| over its sum, of the ``count`` greatest max(z, 0) alone; the others are zero."""

    count: int = eqx.field(static=True)

    def __call__(self, z: Any) -> Array:
        """Of equal ones at the border, the first; where none is positive, equal shares of the first ``count``."""
        z = jnp.maximum(z, 0)
        count = min(self.count, z.shape[-1])
        kept = jnp.sum(jax.nn.one_hot(jax.lax.top_k(z, count)[1], z.shape[-1], dtype=z.dtype), -2)
        return _over_sum(z * kept, kept)


class AugmentedRow(SumToOne):
    """The abundances nearest to z where a row of ``delta`` asks for a sum of one, then max(·, 0) over its sum.

    argmin_s ‖s − z‖² + delta² (1 − Σs)² = z + (1 − Σz) delta² / (1 + delta² n), for n endmembers.

    Reference: Heinz and Chang 2001, 10.1109/36.911111, for the row.
    """

    delta: float = eqx.field(static=True, default=15.0)

    def __call__(self, z: Any) -> Array:
        """An affine shift of all, then `ReLUSum`."""
        squared = self.delta**2
        missing = 1 - jnp.sum(z, -1, keepdims=True)
        return _over_sum(jnp.maximum(z + missing * squared / (1 + squared * z.shape[-1]), 0))


def _over_sum(values: Array, allowed: Array | None = None) -> Array:
    """Values that are not negative over their sum; equal shares of those allowed where all are zero, or below 1e-28."""
    values = values * 2.0**-30  # sums of huge values are infinite
    total = jnp.sum(values, -1, keepdims=True)
    something = total > jnp.finfo(values.dtype).tiny
    equal = jnp.ones_like(values) if allowed is None else allowed
    return jnp.where(something, values, equal) / jnp.where(something, total, jnp.sum(equal, -1, keepdims=True))
