"""The convolutional baselines on Gulfport: trained on draws of labelled pixels by the project's one training loop.

CNN-1D and CNN-3D minimise the cross-entropy of the abundances, as published; CNN-1D Modified (InfraRender) their
squared error. All end in a softmax, and are trained by Adam with a rate that falls to zero along a cosine. Steps, batch
and rate were chosen before any test spectrum was seen, and are not tuned.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from gulfport import Draws, Examples
from jaxtyping import Array, Float, Key

from unmix_jax.networks.abundance import AbundanceNetwork, Whiten
from unmix_jax.networks.encoders import ENCODERS
from unmix_jax.networks.flax_bridge import FlaxLayer
from unmix_jax.networks.layers import Sequential
from unmix_jax.networks.spatial_cnn import CNN3D
from unmix_jax.networks.training import Schedule, Trained, train

__all__ = ["NETWORKS", "cross_entropy", "learn", "predict", "squared_error"]

NOISE = 1e-3  # reflectance, for the scale of the inputs alone
LEAST = 1e-7  # abundance in a logarithm
EVERY = 50  # steps of an epoch
TILE = 256  # spectra at once in inference


def cross_entropy(network: Any, batch: Examples, abundances: Array, rendered: Any) -> Float[Array, ""]:
    """−Σ_c a_c log â_c, mean over the batch."""
    return -jnp.mean(jnp.sum(batch.abundances * jnp.log(abundances + LEAST), -1))


def squared_error(network: Any, batch: Examples, abundances: Array, rendered: Any) -> Float[Array, ""]:
    """Σ_c (a_c − â_c)², mean over the batch."""
    return jnp.mean(jnp.sum((batch.abundances - abundances) ** 2, -1))


NETWORKS = {"cnn1d": cross_entropy, "cnn1d_modified": squared_error, "cnn3d": cross_entropy}


def learn(
    name: str, draws: Draws, keys: Key[Array, " seed"], *, steps: int = 2000, batch: int = 128, rate: float = 1e-3,
    **options: Any,
) -> Trained:  # fmt: skip
    """Train one network per key.

    Args:
        name: of the network, one of `NETWORKS`.
        draws: what is drawn at each step; of windows for `cnn3d`.
        keys: one per seed.
        steps: rounded up to whole epochs of 50.
        batch: spectra of a step.
        rate: of the first step.
        options: of `train`, such as a checkpoint.

    Returns:
        A `Trained`.
    """
    seen = draws(jax.random.key(0), 4096).spectra
    features = Whiten.of(np.asarray(seen).reshape(-1, seen.shape[-1])[:20_000], np.full(seen.shape[-1], NOISE))
    count = len(draws.counts)

    def build(key: Any, start: Any) -> AbundanceNetwork:
        if name != "cnn3d":
            return AbundanceNetwork(ENCODERS[name](key, features, count))
        module = CNN3D(seen.shape[-1], count, window=seen.shape[1], rngs=nnx.Rngs(key))
        return AbundanceNetwork(Sequential((features.plain(), FlaxLayer.of(module))))

    epochs = -(-steps // EVERY)
    optimiser = optax.adam(optax.cosine_decay_schedule(rate, epochs * EVERY))
    schedule = Schedule(epochs, batch, optimiser, sample=EVERY * batch, together=False)
    return train(build, draws, NETWORKS[name], schedule, keys=keys, **options)


@eqx.filter_jit
def _abundances(network: AbundanceNetwork, state: Any, spectra: Array) -> Array:
    """Of one tile, in inference."""
    return network(spectra, state, None)[0]


def predict(trained: Trained, seed: int, spectra: Float[Any, "pixel *window band"]) -> Float[np.ndarray, "pixel class"]:
    """Abundances by the network of one seed, tile by tile."""
    every = trained.networks, trained.states
    network, state = jax.tree.map(lambda leaf: leaf[seed] if eqx.is_array(leaf) else leaf, every)
    values = np.asarray(spectra, np.float32)
    found = []
    for start in range(0, len(values), TILE):
        tile = values[start : start + TILE]
        full = np.concatenate([tile, np.repeat(tile[:1], TILE - len(tile), 0)])
        found.append(np.asarray(_abundances(network, state, jnp.asarray(full)))[: len(tile)])
    return np.concatenate(found)
