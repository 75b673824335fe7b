"""Inverse rendering: a network from a spectrum to abundances and to where in its box each endmember is.

`learn_inverse` draws mixtures of endmembers that physics lets vary (`physics.variation`), trains networks on them and
returns an unmixer. What they say of a spectrum can be rendered by the same physics.

Reference: Janiczek et al. 2020, Differentiable programming for hyperspectral unmixing using a physics-based dispersion
model (InfraRender), arXiv:2007.05996.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from unmix_jax.linalg import matmul, squared_norm
from unmix_jax.networks.abundance import Whiten, optimiser, refuse_failed
from unmix_jax.networks.encoders import ENCODERS
from unmix_jax.networks.layers import Dense, Sequential, Softmax
from unmix_jax.networks.recipes import dense
from unmix_jax.networks.training import Examples, Schedule, train
from unmix_jax.networks.varied import Varied, VariedExamples, VariedRecipe
from unmix_jax.solvers.synthesis_basis import PreparedSynthesis
from unmix_jax.solvers.tables import whiten_and_detrend
from unmix_jax.types import Solution

__all__ = ["InverseNetwork", "InverseRendering", "InverseUnmixer", "Predicted", "builder", "learn_inverse"]

DRAWS, AT_ONCE = 8192, 64  # mixtures that features are chosen by
STEPS = 50  # of the optimiser between two looks at progress
LOOKED_AT = 128  # mixtures of a batch that are rendered again, about: displacements are many more than abundances
HIDDEN = 256  # what abundances and displacements are read from
PUBLISHED = {"infrarender": 150}
PLAIN = VariedRecipe()


class InverseNetwork(eqx.Module):
    """An encoder, and two layers on what it makes of a spectrum: abundances, and displacements that are free.

    Attributes:
        encoder: from whitened spectra to hidden numbers.
        shares: from these, where they are positive, to one for each endmember.
        moves: to one for each displacement that is free, one endmember after another.
    """

    encoder: Sequential
    shares: Dense
    moves: Dense

    def gathered(self) -> Any:
        """State before training."""
        return self.encoder.gathered()

    def __call__(
        self, spectra: Float[Array, "pixel band"], state: Any, key: Key[Array, ""] | None = None
    ) -> tuple[Float[Array, "pixel endmember"], Float[Array, "pixel hidden"], Any]:
        """Abundances, what they were read from, and the state after this batch; with a key it trains."""
        hidden, state = self.encoder(spectra, state, key)
        hidden = jax.nn.relu(hidden)
        return Softmax(1.0)(self.shares(hidden, None, None)[0]), hidden, state

    def displaced(self, hidden: Float[Array, "pixel hidden"]) -> Float[Array, "pixel free"]:
        """Displacements, between the walls of the box."""
        return jnp.tanh(self.moves(hidden, None, None)[0])


class InverseRendering(eqx.Module):
    """Mean of Σ(a − â)², plus a weight times the mean square of z − ẑ over that of z.

    ẑ = Σ_i â_i (m_i + Σ_d û_id J_id) is what the prediction looks like, in the basis of the endmembers, with mean and
    derivatives of each under the prior; it is looked at in some 128 spectra of a large batch.

    Attributes:
        mean: m.
        slopes: J, of the displacements that are free, one endmember after another.
        whose: the endmember of each.
        groups: how endmembers add up to the classes that a is of; None: a is of endmembers.
        reconstruction: the weight.
    """

    mean: Float[Array, "endmember rank"]
    slopes: Float[Array, "free rank"]
    whose: Int[Array, " free"]
    groups: Float[Array, "endmember class"] | None = None
    reconstruction: float = eqx.field(static=True, default=0.1)

    def __call__(self, network: Any, batch: Varied, abundances: Array, hidden: Array) -> Float[Array, ""]:
        """The loss of a batch."""
        told = abundances if self.groups is None else abundances @ self.groups
        loss = jnp.mean(jnp.sum((told - batch.abundances) ** 2, -1))
        if self.reconstruction:
            step = max(1, len(abundances) // LOOKED_AT)
            some = abundances[::step]
            moved = some[:, self.whose] * network.displaced(hidden[::step])
            away = jnp.mean((some @ self.mean + moved @ self.slopes - batch.clean[::step]) ** 2)
            loss = loss + self.reconstruction * away / jnp.mean(batch.clean**2)
        return loss


class Predicted(eqx.Module):
    """What else an inverse network says of a pixel.

    Attributes:
        novelty: how unlike all training mixtures it is; above 1 it is flagged, as one in a thousand of these are.
        spread: standard deviation of the abundances between the networks; zero of one alone.
        chi2: squared error of the rendered prediction, in units of the noise, over its degrees of freedom.
        displacement: where in its box each endmember is, if asked for.
    """

    novelty: Float[Array, "*pixel"]
    spread: Float[Array, "*pixel endmember"]
    chi2: Float[Array, "*pixel"]
    displacement: Float[Array, "*pixel endmember parameter"] | None = None


class InverseUnmixer(eqx.Module):
    """Trained networks as an unmixer: abundances and displacements are the mean of theirs.

    Attributes:
        endmembers: that they were trained on.
        networks: of all seeds, arrays with a leading seed axis.
        states: what their batch norms gathered.
        features: how all of them see a whitened spectrum.
        limits: of the two novelties, which training mixtures rarely exceed.
        encoder: its name.
        displacement: keep the displacements: [endmember, parameter] for each pixel is much.
    """

    endmembers: PreparedSynthesis
    networks: InverseNetwork
    states: Any
    features: Whiten
    limits: Float[Array, " two"]
    encoder: str = eqx.field(static=True, default="deep")
    displacement: bool = eqx.field(static=True, default=False)

    def __call__(self, pixel: Float[Any, " band"]) -> Solution:
        """Abundances; the residual is that of the prediction, rendered; there is no certificate.

        `converged` is False where the spectrum is flagged.

        Raises:
            ValueError: a spectrum of another number of bands than the networks were trained on.
        """
        prepared = self.endmembers
        seen = self.see(pixel)
        abundances, displacement, spread = self.predict(seen)
        error = seen - whiten_and_detrend(prepared.library, matmul(abundances, prepared.generator(displacement)))
        away = error * prepared.noise if prepared.noise.ndim == 1 else matmul(error, prepared.noise)
        residual = jnp.sqrt(squared_norm(away) / prepared.bands)
        novelty = self.novelty(seen)
        fine = jnp.isfinite(residual) & (novelty <= 1)
        kept = displacement if self.displacement else None
        found = Predicted(novelty, spread, squared_norm(error) / prepared.freedom, kept)
        return Solution(
            abundances, residual, jnp.full_like(residual, jnp.nan), jnp.zeros((), jnp.int32), fine, fitted=found
        )

    def see(self, pixel: Float[Any, " band"]) -> Float[Array, " band"]:
        """The pixel as the networks see it: whitened, without baseline."""
        bands = self.endmembers.basis.shape[1]
        if jnp.shape(pixel) != (bands,):
            raise ValueError(f"the networks were trained on spectra of {bands} bands, got shape {jnp.shape(pixel)}")
        return whiten_and_detrend(self.endmembers.library, jnp.asarray(pixel, self.endmembers.basis.dtype))

    def predict(
        self, seen: Float[Array, " band"]
    ) -> tuple[Float[Array, " endmember"], Float[Array, "endmember parameter"], Float[Array, " endmember"]]:
        """Abundances, displacements, and the spread of the abundances."""
        arrays, static = eqx.partition((self.networks, self.states), eqx.is_array)

        def one(arrays: Any) -> tuple[Array, Array]:
            network, state = eqx.combine(arrays, static)
            abundances, hidden, _ = network(seen[None], state, None)
            return abundances[0], network.displaced(hidden)[0]

        each, moves = jax.vmap(one)(arrays)
        free = self.endmembers.prior > 0
        place = jnp.nonzero(free.ravel(), size=moves.shape[1])[0]
        displacement = jnp.zeros(free.size, moves.dtype).at[place].set(jnp.mean(moves, 0)).reshape(free.shape)
        return jnp.mean(each, 0), displacement, jnp.std(each, 0)

    def novelty(self, seen: Float[Array, " band"]) -> Float[Array, ""]:
        """How unlike all training mixtures it is; above 1 it is flagged."""
        within, outside = self.features.novelty(seen)
        return jnp.maximum(within / self.limits[0], outside / self.limits[1])


def builder(encoder: str, features: Whiten, count: int, free: int) -> Callable[[Key[Array, ""]], InverseNetwork]:
    """What makes of a key a network before training, for so many endmembers and displacements."""
    hidden = PUBLISHED.get(encoder, HIDDEN)

    def build(key: Key[Array, ""]) -> InverseNetwork:
        keys = jax.random.split(key, 3)
        return InverseNetwork(
            ENCODERS[encoder](keys[0], features, hidden),
            dense(keys[1], hidden, count, bias=True),
            dense(keys[2], hidden, free, bias=True),
        )

    return build


def learn_inverse(
    key: Key[Array, ""],
    endmembers: PreparedSynthesis,
    *,
    recipe: VariedRecipe = PLAIN,
    examples: Examples | None = None,
    groups: Float[Any, "endmember class"] | None = None,
    networks: int = 1,
    encoder: str = "deep",
    steps: int = 10_000,
    batch: int = 512,
    rate: float = 6e-3,
    reconstruction: float = 0.1,
    checkpoint: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> InverseUnmixer:
    """Train networks to invert the rendering of mixtures whose endmembers vary.

    Args:
        key: random key.
        endmembers: what `prepare_synthesis` made of a generator, with the noise of the sensor.
        recipe: how mixtures are made.
        examples: what is learned from in their place, such as labelled spectra; it draws batches like `Varied`.
        groups: one where an endmember belongs to a class, for examples with abundances of classes; the networks still
            say those of endmembers.
        networks: how many, of other random numbers, one after another; their mean is better than one.
        encoder: a name in `encoders.ENCODERS`; "infrarender" is that of the reference, with convolutions.
        steps: of the optimiser, Adam with a rate that falls to zero along a cosine; rounded up to a multiple of 50.
        batch: mixtures in a step.
        rate: of the first step.
        reconstruction: weight of the rendered spectrum beside the abundances, see `InverseRendering`; zero:
            displacements are not learned and are zero.
        checkpoint: file that keeps the state of the training; where it exists, training goes on from it. Another key,
            recipe, encoder or number of steps is refused; the rate is not compared.
        progress: called as ``progress(steps_done, steps)``.

    Returns:
        An `InverseUnmixer`.

    Raises:
        ValueError: fewer than two endmembers or fewer than a mixture needs, groups that fit neither endmembers nor
            examples, an unknown encoder, nothing to train, or a training that met a loss that is not finite (its
            checkpoint is deleted).
    """
    if encoder not in ENCODERS:
        raise ValueError(f"an encoder is one of {', '.join(ENCODERS)}, got {encoder!r}")
    if min(networks, steps, batch) < 1:
        raise ValueError(f"networks, steps and batch must be positive, got {networks}, {steps} and {batch}")
    if endmembers.count < 2:
        raise ValueError(f"at least two endmembers are to be told apart, got {endmembers.count}")
    examples = VariedExamples(endmembers, recipe) if examples is None else examples
    told = eqx.filter_eval_shape(lambda key: examples(key, 2), key).abundances.shape[1]
    wanted, own = (endmembers.count, told), (endmembers.count,) * 2 if groups is None else np.shape(groups)
    if own != wanted:
        raise ValueError(f"examples tell of {told} materials, so that groups are of shape {wanted}, got {own}")
    drawing, training, testing = jax.random.split(key, 3)
    usual = np.asarray(_spectra(examples, drawing))
    features = Whiten.of(usual, np.ones(usual.shape[1]))
    free = np.asarray(endmembers.prior) > 0
    build = builder(encoder, features, endmembers.count, int(free.sum()))

    whose = jnp.asarray(np.nonzero(free)[0])
    objective = InverseRendering(
        endmembers.mean,
        endmembers.slopes[free],
        whose,
        None if groups is None else jnp.asarray(groups, endmembers.mean.dtype),
        reconstruction if free.any() else 0.0,
    )
    epochs = -(-steps // STEPS)
    schedule = Schedule(epochs, batch, optimiser(rate, epochs * STEPS), sample=STEPS * batch, together=False)
    trained = train(
        lambda key, start: build(key), examples, objective, schedule,
        keys=jax.random.split(training, networks), checkpoint=checkpoint,
        progress=None if progress is None else lambda done, all_: progress(done * STEPS, all_ * STEPS),
    )  # fmt: skip
    refuse_failed(trained, rate, checkpoint)
    limits = features.limits(_spectra(examples, testing))
    networks_ = trained.networks
    if not reconstruction:
        still = jax.tree.map(jnp.zeros_like, networks_.moves)
        networks_ = eqx.tree_at(lambda network: network.moves, networks_, still)
    return InverseUnmixer(endmembers, networks_, trained.states, features, limits, encoder)


@eqx.filter_jit
def _spectra(examples: Examples, key: Array) -> Array:
    """Enough mixtures to tell what is usual, of many batches: those of one share what was rendered for it."""
    drawn = jax.lax.map(lambda own: examples(own, AT_ONCE).spectra, jax.random.split(key, DRAWS // AT_ONCE))
    return drawn.reshape(DRAWS, -1)
