"""What a recipe is, how one is followed, and what most recipes are made of.

A recipe says how a network is built for a number of bands and endmembers, what it minimises and how it is trained. The
recipes themselves are in `dense_recipes`, `spatial_recipes` and `denoising_recipes`; `zoo` has all of them.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Key

from unmix_jax.endmembers.extraction import vca
from unmix_jax.networks.autoencoder import Autoencoder
from unmix_jax.networks.layers import Dense, Layer, LeakyReLU, glorot
from unmix_jax.networks.losses import Objective
from unmix_jax.networks.training import Schedule, Trained, checked, train
from unmix_jax.networks.windows import Windows

__all__ = ["Recipe", "adam", "begin", "dense", "follow", "rmsprop", "some", "spectra", "stack", "vca_start"]

MOST = 20_000  # pixels that moments are taken of


class Recipe(NamedTuple):
    """A method.

    Attributes:
        build: ``build(key, bands, count, start)`` to the network before training.
        objective: what it minimises.
        schedule: how it is trained.
        start: ``start(key, pixels, count)`` to what a seed begins at, of pixels divided by their greatest value; None:
            of random weights alone.
        window: rows and columns of the windows that it is trained on; None: single pixels.
        neighbours: how many pixels away neighbours count when it unmixes; 0: a pixel is unmixed by itself.
        keep: ``keep(key, pixels, count)`` to True where a pixel is trained on, one choice for all seeds, by the key of
            the first; None: everywhere.
    """

    build: Callable[[Key[Array, ""], int, int, Any], Autoencoder]
    objective: Objective
    schedule: Schedule
    start: Callable[[Key[Array, ""], Float[np.ndarray, "pixel band"], int], Any] | None = None
    window: tuple[int, int] | None = None
    neighbours: int = 0
    keep: Callable[[Key[Array, ""], Float[np.ndarray, "pixel band"], int], Bool[np.ndarray, " pixel"]] | None = None


def rmsprop(rate: Any, momentum: float | None = None) -> optax.GradientTransformation:
    """With the constants that the published codes have."""
    return optax.rmsprop(rate, decay=0.9, eps=1e-7, eps_in_sqrt=False, momentum=momentum)


def adam(rate: float, first: float = 0.9) -> optax.GradientTransformation:
    """With the constants that the published codes have."""
    return optax.adam(rate, b1=first, eps=1e-7)


def dense(key: Any, inputs: int, outputs: int, *, bias: bool = False) -> Dense:
    """A layer of Glorot's weights."""
    return Dense(glorot(key, outputs, inputs), jnp.zeros(outputs) if bias else None)


def stack(key: Any, bands: int, widths: tuple[int, ...], slope: float, *, bias: bool = False) -> list[Layer]:
    """Dense layers, each followed by a leaky ReLU."""
    layers: list[Layer] = []
    for i, (inputs, outputs) in enumerate(zip((bands, *widths), widths, strict=False)):
        layers += [dense(jax.random.fold_in(key, i), inputs, outputs, bias=bias), LeakyReLU(slope)]
    return layers


def spectra(key: Any, count: int, bands: int) -> Float[Array, "endmember band"]:
    """Glorot's weights, none below zero."""
    return jnp.maximum(glorot(key, count, bands), 0)


def some(pixels: Any) -> Float[np.ndarray, "pixel band"]:
    """Enough pixels for moments, evenly over the scene, in double precision."""
    values = np.asarray(pixels)
    return np.asarray(values[:: -(-len(values) // MOST)], np.float64)


def vca_start(key: Any, pixels: Any, count: int) -> Float[np.ndarray, "endmember band"]:
    """The purest pixels."""
    return np.asarray(vca(key, pixels, count).endmembers)


def begin(recipe: Recipe, pixels: Float[Any, "pixel band"], count: int, keys: Key[Array, " seed"]) -> Any:
    """What each seed begins at, as `train` takes it; None where a recipe begins at random weights alone."""
    if recipe.start is None:
        return None
    values = np.asarray(pixels)
    scaled = values / values.max()
    drawn = [recipe.start(key, scaled, count) for key in keys]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *drawn)


def follow(
    recipe: Recipe,
    pixels: Float[Any, "pixel band"],
    count: int,
    *,
    keys: Key[Array, " seed"],
    valid: Bool[Any, "*image"] | None = None,
    epochs: int | None = None,
    checkpoint: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Trained:
    """Train one network per key as the recipe says; batches are no larger than what there is.

    Args:
        recipe: of the method.
        pixels: valid spectra, any unit, in the order of the image.
        count: of endmembers.
        keys: one per seed.
        valid: True where a pixel of the image [row, column] is among them, for methods that look at windows.
        epochs: instead of the recipe's.
        checkpoint: as `train` takes it.
        progress: as `train` takes it.

    Returns:
        A `Trained`.

    Raises:
        ValueError: a method that looks at windows, and no image, one with another number of valid pixels, or one
            without a window of valid pixels; what `train` refuses.
    """
    values = checked(pixels)
    windows = None
    if recipe.window is not None:
        image = np.ones(len(values), bool) if valid is None else np.asarray(valid, bool)
        if image.sum() != len(values):
            raise ValueError(f"the image has {int(image.sum())} valid pixels, got {len(values)}")
        windows = Windows.within(image, recipe.window)
    elif recipe.keep is not None:
        values = values[recipe.keep(keys[0], values / values.max(), count)]
    schedule = recipe.schedule
    available = len(values if windows is None else windows) if schedule.sample is None else schedule.sample
    schedule = dataclasses.replace(schedule, batch=min(schedule.batch, available), epochs=epochs or schedule.epochs)

    def build(key: Any, start: Any) -> Any:
        return recipe.build(key, values.shape[1], count, start)

    return train(
        build, values, recipe.objective, schedule,
        keys=keys, starts=begin(recipe, values, count, keys), windows=windows, checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
