"""Autoencoders whose decoder is a mixing model: pixel -> abundances -> pixel, and the endmembers in between."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from unmix_jax.linalg import matmul
from unmix_jax.networks.layers import BatchNorm, Sequential, SumToOne
from unmix_jax.physics.mixing import Linear
from unmix_jax.types import Solution

__all__ = ["Autoencoder", "Decoder", "MLPDecoder", "MixingDecoder", "NetworkUnmixer", "PostNonlinear"]


class Decoder(eqx.Module):
    """From abundances to spectra."""

    @property
    @abstractmethod
    def endmembers(self) -> Float[Array, "endmember band"]:
        """Spectra of pure pixels."""

    def gathered(self) -> Any:
        """The state before training."""
        return None

    @abstractmethod
    def __call__(
        self, abundances: Float[Array, "*pixel endmember"], state: Any, key: Key[Array, ""] | None
    ) -> tuple[Float[Array, "*pixel band"], Any]:
        """Spectra of the batch, and the state after it."""


class MixingDecoder(Decoder):
    """Any mixing model of `unmix_jax.physics`; the linear one by default.

    Attributes:
        spectra: the endmembers, trained unless ``fixed``.
        mixing: the model; its arrays are trained.
        fixed: whether the endmembers are known: then only abundances are learned.
        nonnegative: whether endmembers are kept from falling below zero.
    """

    spectra: Float[Array, "endmember band"]
    mixing: Any = Linear()
    fixed: bool = eqx.field(static=True, default=False)
    nonnegative: bool = eqx.field(static=True, default=True)

    @property
    def endmembers(self) -> Float[Array, "endmember band"]:
        """As they are mixed."""
        return jax.lax.stop_gradient(self.spectra) if self.fixed else self.spectra

    def constrained(self, before: Any) -> "MixingDecoder":
        """Endmembers not below zero; known ones as before, whatever a penalty or an optimiser makes of them."""
        if self.fixed:
            return eqx.tree_at(lambda d: d.spectra, self, before.spectra)
        if not self.nonnegative:
            return self
        return eqx.tree_at(lambda d: d.spectra, self, jnp.maximum(self.spectra, 0))

    def __call__(self, abundances: Any, state: Any, key: Any) -> tuple[Array, Any]:
        """Each pixel mixed."""
        if isinstance(self.mixing, Linear):
            return matmul(abundances, self.endmembers), state
        flat = abundances.reshape(-1, abundances.shape[-1])
        mixed = jax.vmap(lambda s: self.mixing(s, self.endmembers))(flat)
        return mixed.reshape(*abundances.shape[:-1], -1), state


class PostNonlinear(Decoder):
    """A linear mixture, then layers: y = g(sE); the endmembers are the weights of the linear part.

    Reference: Wang, Zhao, Chen and Rahardja 2019 (NAE), 10.1109/LGRS.2019.2900733.
    """

    linear: MixingDecoder
    layers: Sequential

    @property
    def endmembers(self) -> Float[Array, "endmember band"]:
        """Of the linear part."""
        return self.linear.endmembers

    def gathered(self) -> Any:
        """That of the layers."""
        return self.layers.gathered()

    def __call__(self, abundances: Any, state: Any, key: Any) -> tuple[Array, Any]:
        """Mixed, then bent."""
        mixed, _ = self.linear(abundances, None, key)
        return self.layers(mixed, state, key)


class MLPDecoder(Decoder):
    """Layers from abundances to spectra, none a batch norm; the endmembers are what it renders of pure pixels.

    Reference: Palsson, Sveinsson and Ulfarsson 2022, 10.1109/JSTARS.2021.3140154 (nonlinear decoder).
    """

    layers: Sequential
    count: int = eqx.field(static=True)

    def __check_init__(self) -> None:
        if any(isinstance(layer, BatchNorm) for layer in self.layers.layers):
            raise ValueError("pure pixels are no batch: an MLPDecoder has no batch norm")

    @property
    def endmembers(self) -> Float[Array, "endmember band"]:
        """Rendered from the rows of the identity matrix."""
        return self.layers(jnp.eye(self.count), self.layers.gathered(), None)[0]

    def gathered(self) -> Any:
        """That of the layers."""
        return self.layers.gathered()

    def __call__(self, abundances: Any, state: Any, key: Any) -> tuple[Array, Any]:
        """Through the layers."""
        return self.layers(abundances, state, key)


class Autoencoder(eqx.Module):
    """An encoder, a sum-to-one layer and a decoder.

    Attributes:
        encoder: from pixels to one number per endmember.
        simplex: from these to abundances.
        decoder: from abundances to spectra.
    """

    encoder: Sequential
    simplex: SumToOne
    decoder: Decoder

    @property
    def endmembers(self) -> Float[Array, "endmember band"]:
        """Those of the decoder."""
        return self.decoder.endmembers

    def gathered(self) -> Any:
        """State before training: what batch norms gather."""
        return self.encoder.gathered(), self.decoder.gathered()

    def __call__(
        self, pixels: Float[Array, "*pixel band"], state: Any, key: Key[Array, ""] | None = None
    ) -> tuple[Float[Array, "*pixel endmember"], Float[Array, "*pixel band"], Any]:
        """Abundances, rendered spectra, and the state after this batch; with a key it trains."""
        coded, into = self.encoder(pixels, state[0], key)
        abundances = self.simplex(coded)
        if abundances.ndim > pixels.ndim:  # an encoder with several answers for one pixel
            abundances = jnp.mean(abundances, -2)
        rendered, out = self.decoder(abundances, state[1], None if key is None else jax.random.fold_in(key, 1 << 20))
        return abundances, rendered, (into, out)


class NetworkUnmixer(eqx.Module):
    """A trained network as an unmixer: abundances are what its own sum-to-one layer returns.

    Attributes:
        network: the network.
        state: what its batch norms gathered.
        scale: what pixels are divided by.
        good: numbers of the bands that it was trained on; None: all.
    """

    network: Autoencoder
    state: Any
    scale: Float[Array, ""]
    good: Int[Array, " good_band"] | None = None

    def __call__(self, pixel: Float[Any, " band"]) -> Solution:
        """Abundances, and the residual of what the network renders; there is no certificate."""
        seen = pixel if self.good is None else pixel[self.good]
        abundances, rendered, _ = self.network(seen[None] / self.scale, self.state, None)
        residual = jnp.sqrt(jnp.mean((seen - self.scale * rendered[0]) ** 2))
        fine = jnp.isfinite(residual) & jnp.all(jnp.isfinite(abundances))
        nothing = jnp.full_like(residual, jnp.nan)
        return Solution(abundances[0], residual, nothing, jnp.zeros((), jnp.int32), fine)
