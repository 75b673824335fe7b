"""Layers of networks that see neighbours: convolutions, and several pixels unmixed at once."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unmix_jax.linalg import einsum
from unmix_jax.networks.autoencoder import Decoder
from unmix_jax.networks.convolution import convolve, convolve_wide
from unmix_jax.networks.layers import Layer, Sequential

__all__ = ["Convolution", "SpatialDecoder", "SpatialDropout", "Tasks"]


class Convolution(Layer):
    """Each pixel from its neighbours, zero beyond the border of the window.

    Attributes:
        weight: of each neighbour, for odd numbers of rows and columns.
        basis: orthonormal rows that span the pixels; where it is given, the convolution is of the coordinates in it,
            with the weights projected, which is the same function of pixels in the span and costs as many times less
            as it has fewer rows than there are features. It is not trained.
    """

    weight: Float[Array, "down across feature unit"]
    basis: Float[Array, "direction feature"] | None = None

    def constrained(self, before: Any) -> "Convolution":
        """The basis stays."""
        return self if self.basis is None else eqx.tree_at(lambda c: c.basis, self, before.basis)

    def __call__(self, x: Any, state: Any, key: Any) -> tuple[Array, Any]:
        """Linear in the features of a pixel and its neighbours.

        Raises:
            ValueError: single pixels, which have no neighbours.
        """
        if x.ndim != 4:
            raise ValueError(
                f"a convolution needs windows or an image [window, row, column, feature], got shape {x.shape}: "
                f"a network that looks at neighbours cannot unmix single pixels"
            )
        if self.basis is None:
            return convolve(x, self.weight), state
        basis = jax.lax.stop_gradient(self.basis)
        coordinates = einsum("...f,df->...d", x, basis)
        return convolve(coordinates, einsum("df,klfu->kldu", basis, self.weight)), state


class SpatialDropout(Layer):
    """In training a feature is zero in the whole window at this rate, and the others are scaled up to make up for it.

    Reference: Tompson, Goroshin, Jain, LeCun and Bregler 2015, arXiv:1411.4280.
    """

    rate: float = eqx.field(static=True)

    def __call__(self, x: Any, state: Any, key: Any) -> tuple[Array, Any]:
        """Unchanged outside of training."""
        if key is None or self.rate == 0:
            return x, state
        kept = jax.random.bernoulli(key, 1 - self.rate, (x.shape[0], 1, 1, x.shape[-1]))
        return jnp.where(kept, x / (1 - self.rate), 0), state


class Tasks(Layer):
    """Several pixels coded at once: layers that all share, then layers for each.

    In training, windows [window, row, column, feature] of as many pixels as there are tasks become [window, row,
    column, unit]. Single pixels [pixel, feature] are given to all tasks, with an answer from each, [pixel, task, unit].

    Attributes:
        shared: from the features of all pixels of a window, one after another.
        tasks: from what is shared to the code of one pixel.
    """

    shared: Sequential
    tasks: tuple[Sequential, ...]

    def gathered(self) -> Any:
        """Of the shared layers, and of each task."""
        return self.shared.gathered(), tuple(task.gathered() for task in self.tasks)

    def __call__(self, x: Any, state: Any, key: Any) -> tuple[Array, Any]:
        """A code for each pixel.

        Raises:
            ValueError: neither a list of pixels nor windows, or windows of another number of pixels.
        """
        windows = x.ndim == 4
        if not windows and x.ndim != 2:
            raise ValueError(f"tasks need [pixel, feature] or [window, row, column, feature], got shape {x.shape}")
        if windows and x.shape[1] * x.shape[2] != len(self.tasks):
            raise ValueError(f"windows must have {len(self.tasks)} pixels, got {x.shape[1]} × {x.shape[2]}")
        together = x.reshape(len(x), -1) if windows else jnp.tile(x, (1, len(self.tasks)))
        first, second = (None, None) if key is None else jax.random.split(key)
        coded, shared = self.shared(together, state[0], first)
        codes, after = [], []
        for i, (task, own) in enumerate(zip(self.tasks, state[1], strict=True)):
            code, new = task(coded, own, None if second is None else jax.random.fold_in(second, i))
            codes.append(code)
            after.append(new)
        stacked = jnp.stack(codes, 1)
        return stacked.reshape(*x.shape[:3], -1) if windows else stacked, (shared, tuple(after))


class SpatialDecoder(Decoder):
    """A pixel from its own abundances and those of its neighbours: y[i, j] = Σ_kl s[i + k, j + l] W[k, l].

    The endmembers are the sum of the weights over the neighbours: what a wide area of one material looks like.

    Reference: Palsson, Ulfarsson and Sveinsson 2021 (CNNAEU), 10.1109/TGRS.2020.2992743.
    """

    weight: Float[Array, "down across endmember band"]

    @property
    def endmembers(self) -> Float[Array, "endmember band"]:
        """Over all neighbours."""
        return jnp.sum(self.weight, (0, 1))

    def constrained(self, before: Any) -> "SpatialDecoder":
        """No weight below zero."""
        return SpatialDecoder(jnp.maximum(self.weight, 0))

    def __call__(self, abundances: Any, state: Any, key: Any) -> tuple[Array, Any]:
        """Each window by itself, zero beyond its border."""
        return convolve_wide(abundances, self.weight), state
