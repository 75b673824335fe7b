"""A network from spectrum to abundances that has seen synthetic mixtures of reference spectra only.

`learn_abundances` draws mixtures by a `MixtureRecipe` on the device, trains one network or several on them, and returns
an unmixer for one sensor and any number of materials. Spectra unlike all that it was trained on are flagged.

Reference: after Sigiuk 2026, Evaluating Deep Learning Spectral Unmixing From Pure Reference Spectra, Metaspectral.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from unmix_jax.linalg import matmul
from unmix_jax.networks.encoders import ENCODERS
from unmix_jax.networks.layers import Layer, Sequential, Softmax, SumToOne
from unmix_jax.networks.mixtures import Drawn, MixtureExamples, MixtureRecipe
from unmix_jax.networks.training import Schedule, Trained, train
from unmix_jax.types import Solution

__all__ = [
    "AbundanceNetwork",
    "AbundanceUnmixer",
    "Confidence",
    "Scale",
    "Supervised",
    "Whiten",
    "learn_abundances",
    "optimiser",
    "refuse_failed",
]

BINS = 256  # most bands that a network sees; neighbours are averaged above that
DRAWS = 8192  # mixtures that features are chosen by
BRIGHTEST = 1.5  # reflectance of a fraction, with room for what is brighter than the reference
RARE = 1e-3  # share of the training mixtures that are flagged
PLAIN = MixtureRecipe()
STEPS = 50  # of the optimiser in an epoch of training, between two looks at progress


class Whiten(Layer):
    """Coordinates of a spectrum in the directions in which training mixtures stand out of the noise.

    z = D Vᵀ (x − mean)/std, where V are eigenvectors of the mixtures' covariance in units of the noise, with
    eigenvalues λ > 1, and D = √(λ − 1)/λ, so that directions that are nearly noise count for little. Not trained.

    Attributes:
        mean: of the mixtures.
        std: of the noise.
        basis: V.
        gains: D.
        powers: λ.
    """

    mean: Float[Array, " band"]
    std: Float[Array, " band"]
    basis: Float[Array, "feature band"]
    gains: Float[Array, " feature"]
    powers: Float[Array, " feature"]

    @classmethod
    def of(cls, spectra: Float[Any, "pixel band"], std: Float[Any, " band"]) -> "Whiten":
        """The directions of these mixtures, which have noise in them."""
        values, noise = np.asarray(spectra, np.float64), np.asarray(std, np.float64)
        mean = values.mean(0)
        powers, vectors = np.linalg.eigh(np.cov(((values - mean) / noise).T).reshape(len(noise), len(noise)))
        powers, vectors = powers[::-1], vectors[:, ::-1]
        edge = (1 + np.sqrt(len(noise) / len(values))) ** 2  # the greatest eigenvalue of so much noise alone
        kept = max(1, int(np.sum(powers > edge)))
        gains = np.sqrt(np.maximum(powers[:kept] - 1, 1e-3)) / powers[:kept]
        arrays = (mean, noise, vectors[:, :kept].T, gains, powers[:kept])
        return cls(*(jnp.asarray(np.ascontiguousarray(array), jnp.float32) for array in arrays))

    def constrained(self, before: Any) -> "Whiten":
        """As it was."""
        return before

    def __call__(self, x: Any, state: Any, key: Any) -> tuple[Array, Any]:
        """Features of a batch."""
        return jax.lax.stop_gradient(self.gains * self._within((x - self.mean) / self.std)), state

    def plain(self) -> "Scale":
        """The mean taken away, and all divided by one number: as large as the mixtures spread, noise left out."""
        power = jnp.sum((self.powers - 1)[:, None] * (self.basis * self.std) ** 2, 0)
        return Scale(self.mean, 1 / jnp.sqrt(jnp.mean(power)))

    def novelty(self, spectra: Float[Array, "*pixel band"]) -> tuple[Float[Array, "*pixel"], Float[Array, "*pixel"]]:
        """Mean square of the coordinates, and of what is outside of all directions; about one in training."""
        away = (spectra - self.mean) / self.std
        within = self._within(away)
        left = away.shape[-1] - within.shape[-1]
        outside = jnp.sum(away**2, -1) - jnp.sum(within**2, -1)
        return jnp.mean(within**2 / self.powers, -1), jnp.maximum(outside, 0) / max(left, 1)

    def limits(self, spectra: Float[Array, "pixel band"]) -> Float[Array, " two"]:
        """What the two novelties of one training mixture in a thousand exceed; infinite where no band is left over."""
        limits = jnp.asarray([jnp.quantile(one, 1 - RARE / 2) for one in self.novelty(spectra)])
        return limits.at[1].set(jnp.where(self.basis.shape[0] < self.basis.shape[1], limits[1], jnp.inf))

    def unexplained(self, spectra: Float[Array, "*pixel band"]) -> Float[Array, "*pixel"]:
        """Root mean square of what is outside of all directions, in the unit of the spectra."""
        away = (spectra - self.mean) / self.std
        return jnp.sqrt(jnp.mean((self.std * (away - matmul(self._within(away), self.basis))) ** 2, -1))

    def _within(self, away: Array) -> Array:
        return matmul(away, self.basis.T)


class Scale(Layer):
    """(x − mean) × gain. Not trained."""

    mean: Float[Array, " band"]
    gain: Float[Array, ""]

    def constrained(self, before: Any) -> "Scale":
        """As it was."""
        return before

    def __call__(self, x: Any, state: Any, key: Any) -> tuple[Array, Any]:
        """Each band by itself."""
        return jax.lax.stop_gradient((x - self.mean) * self.gain), state


class AbundanceNetwork(eqx.Module):
    """An encoder and a sum-to-one layer; there is no decoder: mixtures are rendered by what they were drawn with.

    Attributes:
        encoder: from spectra to one number per endmember.
        simplex: from these to abundances.
    """

    encoder: Sequential
    simplex: SumToOne = Softmax(1.0)

    def gathered(self) -> Any:
        """State before training."""
        return self.encoder.gathered()

    def __call__(
        self, spectra: Float[Array, "*window band"], state: Any, key: Key[Array, ""] | None = None
    ) -> tuple[Float[Array, "*pixel endmember"], None, Any]:
        """Abundances, nothing rendered, and the state after this batch; with a key it trains.

        An encoder may see a window of the scene for each pixel.
        """
        coded, state = self.encoder(spectra, state, key)
        return self.simplex(coded), None, state


class Supervised(eqx.Module):
    """Mean of Σ(a − â)², plus a weight times the mean square of y − ŷ over that of y.

    ŷ is what the predicted abundances look like, mixed as the example was.

    Attributes:
        reconstruction: the weight.
    """

    reconstruction: float = eqx.field(static=True, default=0.1)

    def __call__(self, network: Any, batch: Drawn, abundances: Array, rendered: Any) -> Float[Array, ""]:
        """The loss of a batch."""
        loss = jnp.mean(jnp.sum((abundances - batch.abundances) ** 2, -1))
        if self.reconstruction:
            away = jnp.mean((batch.render(abundances) - batch.clean) ** 2)
            loss = loss + self.reconstruction * away / jnp.mean(batch.spectra**2)
        return loss


class Confidence(eqx.Module):
    """What else a network says of a pixel.

    Attributes:
        novelty: how unlike all training mixtures it is; above 1 it is flagged, as one in a thousand of these are.
        spread: standard deviation of the abundances between the networks; zero of one alone.
    """

    novelty: Float[Array, "*pixel"]
    spread: Float[Array, "*pixel endmember"]


class AbundanceUnmixer(eqx.Module):
    """Trained networks as an unmixer: abundances are the mean of theirs.

    Attributes:
        networks: of all seeds, arrays with a leading seed axis.
        states: what their batch norms gathered.
        features: how all of them see a spectrum.
        limits: of the two novelties, which training mixtures rarely exceed.
        group: how many neighbouring bands are averaged to one that the networks see.
        good: numbers of the bands that it was trained on; None: all.
    """

    networks: AbundanceNetwork
    states: Any
    features: Whiten
    limits: Float[Array, " two"]
    group: int = eqx.field(static=True, default=1)
    good: Int[Array, " good_band"] | None = None

    def __call__(self, pixel: Float[Any, " band"]) -> Solution:
        """Abundances; the residual is what of the spectrum no training mixture explains; there is no certificate.

        `converged` is False where the spectrum is flagged.
        """
        seen = _averaged(pixel if self.good is None else pixel[self.good], self.group)
        arrays, static = eqx.partition((self.networks, self.states), eqx.is_array)

        def one(arrays: Any) -> Array:
            network, state = eqx.combine(arrays, static)
            return network(seen[None], state, None)[0][0]

        each = jax.vmap(one)(arrays)
        within, outside = self.features.novelty(seen)
        novelty = jnp.maximum(within / self.limits[0], outside / self.limits[1])
        abundances = jnp.mean(each, 0)
        residual = self.features.unexplained(seen)
        fine = jnp.isfinite(residual) & jnp.all(jnp.isfinite(abundances)) & (novelty <= 1)
        nothing = jnp.full_like(residual, jnp.nan)
        found = Confidence(novelty, jnp.std(each, 0))
        return Solution(abundances, residual, nothing, jnp.zeros((), jnp.int32), fine, fitted=found)


def learn_abundances(
    key: Key[Array, ""],
    endmembers: Float[Any, "endmember band"],
    *,
    std: float | Float[Any, " band"],
    recipe: MixtureRecipe = PLAIN,
    networks: int = 1,
    encoder: str = "dense",
    steps: int = 4000,
    batch: int = 512,
    rate: float = 2e-3,
    reconstruction: float = 0.1,
    good: Int[Any, " good_band"] | None = None,
    checkpoint: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> AbundanceUnmixer:
    """Train networks on synthetic mixtures of reference spectra alone.

    Args:
        key: random key.
        endmembers: one reference spectrum of each material, in the bands of the sensor.
        std: standard deviation of the sensor's noise, of each band or one for all, in the unit of the endmembers.
        recipe: how mixtures are made.
        networks: how many, of other random numbers; their mean is better than one, and their spread tells of doubt.
        encoder: a name in `encoders.ENCODERS`: "dense", "deep", "cnn1d", "cnn1d_modified" or "infrarender".
        steps: of the optimiser, Adam with a rate that falls to zero along a cosine; rounded up to a multiple of 50.
        batch: mixtures in a step.
        rate: of the first step.
        reconstruction: weight of the rendered spectrum beside the abundances, see `Supervised`.
        good: numbers of the bands to use; None: all.
        checkpoint: file that keeps the state of the training; where it exists, training goes on from it.
        progress: called as ``progress(steps_done, steps)``.

    Returns:
        An `AbundanceUnmixer`.

    Raises:
        ValueError: fewer than two endmembers, values or noise that are not finite or not positive, endmembers that a
            model cannot mix or that are no fractions, an unknown encoder, nothing to train, or a training that met a
            loss that is not finite (its checkpoint is deleted).
    """
    if encoder not in ENCODERS:
        raise ValueError(f"an encoder is one of {', '.join(ENCODERS)}, got {encoder!r}")
    if min(networks, steps, batch) < 1:
        raise ValueError(f"networks, steps and batch must be positive, got {networks}, {steps} and {batch}")
    spectra, noise = _checked(endmembers, std, good)
    if spectra.max() > BRIGHTEST and (recipe.grains or recipe.models != ("linear",)):
        raise ValueError(
            f"endmembers go up to {float(spectra.max()):g}: mixing models take reflectances as fractions of one; "
            "divide by the scale of the data, or mix by the linear model alone and without grains"
        )
    group = -(-spectra.shape[1] // BINS)
    seen = jnp.asarray(_averaged(jnp.asarray(spectra), group))
    size = jnp.asarray(np.sqrt(_averaged(jnp.asarray(noise**2), group) / _counts(spectra.shape[1], group)))
    examples = MixtureExamples(seen, size, recipe)
    drawing, training, testing = jax.random.split(key, 3)
    usual = np.asarray(_spectra(examples, drawing))
    if not np.isfinite(usual).all():
        raise ValueError(
            f"these endmembers cannot be mixed by {', '.join(recipe.models)}: reflectances must lie above 0 and not "
            f"above 1, these go from {float(spectra.min()):g} to {float(spectra.max()):g}"
        )
    features = Whiten.of(usual, size)

    def build(key: Any, start: Any) -> AbundanceNetwork:
        return AbundanceNetwork(ENCODERS[encoder](key, features, len(seen)))

    epochs = -(-steps // STEPS)
    schedule = Schedule(epochs, batch, optimiser(rate, epochs * STEPS), sample=STEPS * batch)
    trained = train(
        build, examples, Supervised(reconstruction), schedule,
        keys=jax.random.split(training, networks), checkpoint=checkpoint,
        progress=None if progress is None else lambda done, all_: progress(done * STEPS, all_ * STEPS),
    )  # fmt: skip
    refuse_failed(trained, rate, checkpoint)
    limits = features.limits(_spectra(examples, testing))
    bands = None if good is None else jnp.asarray(good, jnp.int32)
    return AbundanceUnmixer(trained.networks, trained.states, features, limits, group, bands)


@eqx.filter_jit
def _spectra(examples: MixtureExamples, key: Array) -> Array:
    """Enough mixtures to tell what is usual."""
    return examples(key, DRAWS).spectra


def refuse_failed(trained: Trained, rate: float, checkpoint: str | Path | None) -> None:
    """Delete the state of a training that met a loss that is not finite, or each later call would begin there.

    Raises:
        ValueError: it did.
    """
    if (np.asarray(trained.stopped) >= 0).any():
        if checkpoint is not None:
            Path(checkpoint).unlink(missing_ok=True)
        raise ValueError(
            f"the loss was not finite after {int(np.max(trained.stopped))} steps: a lower rate than {rate:g} may help"
        )


@functools.lru_cache(maxsize=32)
def optimiser(rate: float, steps: int) -> optax.GradientTransformation:
    """Adam with a rate that falls to zero along a cosine: one object for each, as a training is compiled for it."""
    return optax.adam(optax.cosine_decay_schedule(rate, steps))


def _counts(bands: int, group: int) -> np.ndarray:
    """How many bands are averaged to each."""
    return np.diff(np.append(np.arange(0, bands, group), bands))


def _averaged(spectra: Float[Array, "*pixel band"], group: int) -> Float[Array, "*pixel bin"]:
    """Means of so many neighbouring bands, of fewer at the end."""
    if group == 1:
        return spectra
    counts = _counts(spectra.shape[-1], group)
    padded = jnp.pad(spectra, [(0, 0)] * (spectra.ndim - 1) + [(0, len(counts) * group - spectra.shape[-1])])
    return jnp.sum(padded.reshape(*spectra.shape[:-1], len(counts), group), -1) / counts.astype(np.float32)


def _checked(endmembers: Any, std: Any, good: Any) -> tuple[np.ndarray, np.ndarray]:
    """Reference spectra and noise in the bands to use."""
    spectra = np.asarray(endmembers, np.float32)
    if spectra.ndim != 2 or len(spectra) < 2:
        raise ValueError(f"at least two endmembers [endmember, band] are to be told apart, got shape {spectra.shape}")
    noise = np.broadcast_to(np.asarray(std, np.float32), spectra.shape[1:])
    if good is not None:
        spectra, noise = spectra[:, np.asarray(good)], noise[np.asarray(good)]
    if spectra.shape[1] == 0 or not np.isfinite(spectra).all() or spectra.max() <= 0:
        raise ValueError("endmembers must be finite and have positive values: leave bad bands out by `good`")
    if not np.isfinite(noise).all() or noise.min() <= 0:
        raise ValueError(f"the noise must be above zero in every band, got {float(np.min(noise)):g}")
    return spectra, noise
