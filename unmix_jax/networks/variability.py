"""Endmembers that vary as measured ones do: a generative model with two numbers, learned from bundles of spectra."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from unmix_jax.networks.autoencoder import Autoencoder, MLPDecoder
from unmix_jax.networks.layers import Layer, Sequential, Unbounded, Variational
from unmix_jax.networks.losses import Objective, mse
from unmix_jax.networks.recipes import adam, dense, stack
from unmix_jax.networks.training import Schedule, train

__all__ = ["LatentDisc", "learn_disc"]

LATENT = 2  # numbers that a spectrum is coded by
SLOPE = 0.1  # of the leaky ReLUs


class Sigmoid(Layer):
    """1 / (1 + exp(−x)): spectra in units of the greatest value of the library, never below zero."""

    def __call__(self, x: Any, state: Any, key: Any) -> tuple[Array, Any]:
        """Each feature by itself."""
        return jax.nn.sigmoid(x), state


class LatentDisc(eqx.Module):
    """Endmembers drawn from discs of a latent space: E_i = g(c_i + r √u (cos φ, sin φ)), u in [0, 1], φ in [0, 2π).

    A function from a key to spectra, as `scenes.synthetic.synthesize` takes it.

    Attributes:
        layers: the decoder g, to spectra divided by ``scale``.
        scale: greatest value of the library.
        centres: codes c of the reference spectra.
        radius: r of the discs, in units of the standard deviation of the prior.
        codes: of the spectra of the library.
        names: of the endmembers.

    Reference:
        Palsson, Sveinsson and Ulfarsson 2022, sec. IV-D, 10.1109/JSTARS.2021.3140154.
    """

    layers: Sequential
    scale: Float[Array, ""]
    centres: Float[Array, "endmember 2"]
    radius: Float[Array, ""]
    codes: Float[Array, "spectrum 2"]
    names: tuple[str, ...] = eqx.field(static=True)

    @property
    def references(self) -> Float[Array, "endmember band"]:
        """Decoded centres, in the unit of the library."""
        return self.decode(self.centres)

    def decode(self, codes: Float[Array, "*batch 2"]) -> Float[Array, "*batch band"]:
        """Spectra of codes, in the unit of the library, not negative."""
        return self.scale * self.layers(codes, self.layers.gathered(), None)[0]

    def draw(self, key: Key[Array, ""]) -> Float[Array, "endmember 2"]:
        """One code for each endmember, uniform in its disc."""
        u, turn = jax.random.uniform(key, (2, len(self.centres)), self.centres.dtype)
        angle = 2 * jnp.pi * turn
        return self.centres + (self.radius * jnp.sqrt(u) * jnp.stack([jnp.cos(angle), jnp.sin(angle)])).T

    def __call__(self, key: Key[Array, ""]) -> Float[Array, "endmember band"]:
        """One spectrum for each endmember."""
        return self.decode(self.draw(key))

    def with_radius(self, radius: float) -> "LatentDisc":
        """The same with discs of another radius.

        Raises:
            ValueError: a radius below zero, or not finite.
        """
        return eqx.tree_at(lambda disc: disc.radius, self, _checked(radius, self.centres.dtype))


def learn_disc(
    key: Key[Array, ""],
    spectra: Float[Any, "spectrum band"],
    classes: Any,
    *,
    radius: float = 0.1,
    weight: float = 1e-4,
    widths: tuple[int, ...] = (64, 32),
    epochs: int = 400,
    batch: int = 32,
    rate: float = 1e-3,
) -> LatentDisc:
    """Learn a variational autoencoder of a library with bundles, and put a disc around the code of each bundle's mean.

    argmin of the mean over spectra and bands of (y − ŷ)², plus weight × KL(N(μ, σ²) ‖ N(0, 1)), with spectra y divided
    by the greatest value, the encoder (μ, log σ²) and the decoder ŷ of a code drawn from N(μ, σ²).

    The survey publishes no settings. Ours: dense layers of 64 and 32 units, a leaky ReLU of 0.1 after each, two latent
    numbers, the same widths back and a sigmoid; Adam. With a greater weight spectra blur, with a smaller one codes
    leave the unit of the prior, and a disc of the same radius holds less variability.

    Args:
        key: random key.
        spectra: the library, any unit, not negative.
        classes: the class of each spectrum; endmembers are in the order in which their classes come. A class may have
            one spectrum.
        radius: of the discs, in units of the standard deviation of the prior.
        weight: of the divergence.
        widths: units of the encoder's layers; the decoder has them in reverse.
        epochs: passes over the library.
        batch: spectra of a step; no more than there are.
        rate: of Adam.

    Returns:
        A `LatentDisc`.

    Raises:
        ValueError: no spectra, or some that are not finite, negative, or all zero; not one class for each; a radius
            below zero; a weight, epochs or batch that cannot be; a training that leaves the finite.

    Reference:
        Palsson, Sveinsson and Ulfarsson 2022, sec. IV-D, 10.1109/JSTARS.2021.3140154; Kingma and Welling 2014,
        arXiv:1312.6114; Borsoi, Imbiriba and Bermudez 2020, 10.1109/TCI.2019.2948726.
    """
    library = np.asarray(spectra)
    if library.ndim != 2 or 0 in library.shape:
        raise ValueError(f"spectra are [spectrum, band] and not empty, got shape {library.shape}")
    if len(classes) != len(library):
        raise ValueError(f"each of {len(library)} spectra needs a class, got {len(classes)}")
    if not np.isfinite(library).all() or library.min() < 0:
        raise ValueError("spectra of a library must be finite and not negative")
    if not (0 <= weight < np.inf and min(epochs, batch) >= 1):
        asked = f"got {weight}, {epochs} and {batch}"
        raise ValueError(f"weight must be finite and not below zero, epochs and batch positive, {asked}")
    belongs, bands = np.asarray(classes, str), library.shape[1]
    names = tuple(str(one) for one in dict.fromkeys(belongs))
    checked = _checked(radius, jnp.result_type(float, library))

    def build(own: Key[Array, ""], start: Any) -> Autoencoder:
        first, second = jax.random.split(own)
        coded = dense(jax.random.fold_in(first, len(widths)), (bands, *widths)[-1], 2 * LATENT, bias=True)
        encoder = Sequential((*stack(first, bands, widths, SLOPE, bias=True), coded, Variational(weight)))
        back = widths[::-1]
        rendered = dense(jax.random.fold_in(second, len(back)), (LATENT, *back)[-1], bands, bias=True)
        decoder = Sequential((*stack(second, LATENT, back, SLOPE, bias=True), rendered, Sigmoid()))
        return Autoencoder(encoder, Unbounded(), MLPDecoder(decoder, LATENT))

    schedule = Schedule(epochs, min(batch, len(library)), adam(rate), sample=None)
    trained = train(build, library, Objective(mse), schedule, keys=key[None], every=epochs)
    if int(trained.stopped[0]) >= 0:
        raise ValueError(f"training met a loss that is not finite at step {int(trained.stopped[0])}: lower the rate")
    learned = trained.unmixer(0)
    means = np.stack([library[belongs == name].mean(0) for name in names])

    def codes(of: np.ndarray) -> Array:
        return learned.network(jnp.asarray(of) / learned.scale, learned.state, None)[0]

    layers: Any = learned.network.decoder
    return LatentDisc(layers.layers, learned.scale, codes(means), checked, codes(library), names)


def _checked(radius: float, dtype: Any) -> Float[Array, ""]:
    """A radius as an array."""
    if not 0 <= radius < np.inf:
        raise ValueError(f"radius of a disc is finite and not below zero, got {radius}")
    return jnp.asarray(radius, dtype)
