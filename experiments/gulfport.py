"""Gulfport as InfraRender has it: labelled pixels to classify, random mixtures of them, and centroids of each class.

The scene is the 90 × 90 crop of MUUFL Gulfport with the land types that were labelled by hand (UNMIX_JAX_DATA). Its
makers brought the cube to 0 to 1; reflectance is got back by reflectance = (cube - 0.100) / 1.224, found from two other
crops. Dark bands of trees and shadow are then a little below zero (the mean of the trees down to -0.013).

Train and test are blocks of the image, not random pixels, as neighbours are alike. Left and right halves leave five
classes with 30 pixels or more in each: trees, mostly grass, road, buildings, sidewalk; mixed ground and building shadow
are on the left alone. A checkerboard of 30 × 30 blocks has these two as well.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key
from scipy.cluster.vq import kmeans2

from unmix_jax.endmembers.classes import Classes, classes_of
from unmix_jax.endmembers.dispersion_fit import fit_dispersion
from unmix_jax.linalg import einsum
from unmix_jax.physics.dispersion import Dispersion
from unmix_jax.scenes.datasets import load
from unmix_jax.scenes.scene import Scene, SpectralAxis, SpectralLibrary
from unmix_jax.scenes.synthetic import draw_abundances

__all__ = [
    "BLOCKS",
    "HALVES",
    "Draws",
    "Examples",
    "Fitted",
    "Gulfport",
    "Part",
    "centroids",
    "fitted_centroids",
    "gulfport",
    "kept_back",
    "normalised",
    "synthetic",
]

GAIN, OFFSET = 1.224, 0.100  # cube = gain × reflectance + offset
HALVES, BLOCKS = (90, 45), (30, 30)  # rows and columns of a block
FEWEST = 30  # labelled pixels of a class in each part
WIDTH = 90  # pixels in a row of the scene
WINDOW = 3  # rows and columns around a pixel


class Part(NamedTuple):
    """The labelled pixels of the blocks of one colour.

    Attributes:
        spectra: reflectance.
        classes: number of the class of each.
        around: numbers in the image of the pixels around each; beyond the block its own border stands again, so that
            no window looks into the other part.
    """

    spectra: Float[np.ndarray, "pixel band"]
    classes: Int[np.ndarray, " pixel"]
    around: Int[np.ndarray, "pixel row column"]


class Gulfport(NamedTuple):
    """The scene in two parts.

    Attributes:
        image: reflectance of all pixels, row after row.
        wavelength: nm.
        names: of the classes.
        train: to learn from.
        test: to score on.
    """

    image: Float[np.ndarray, "place band"]
    wavelength: Float[np.ndarray, " band"]
    names: tuple[str, ...]
    train: Part
    test: Part

    def library(self) -> SpectralLibrary:
        """The labelled spectra to learn from and their classes, these in the order of `names`."""
        order = np.argsort(self.train.classes, kind="stable")
        classes = tuple(self.names[i] for i in self.train.classes[order])
        return SpectralLibrary(self.train.spectra[order], SpectralAxis(self.wavelength), classes=classes)


def normalised(reflectance: Any) -> Any:
    """Reflectance as the makers of the cube had it, 0 to 1 in the scene: what Beta distributions can take."""
    return GAIN * reflectance + OFFSET


def gulfport(block: tuple[int, int] = HALVES) -> Gulfport:
    """The scene, cut into blocks.

    Args:
        block: rows and columns of a block; those whose row and column add up to an even number are for training.

    Returns:
        The classes with enough pixels in both parts.
    """
    scene = load("muufl_gulfport_90x90")
    assert isinstance(scene, Scene)
    assert scene.axis is not None
    cube = ((np.asarray(scene.cube, np.float64) - OFFSET) / GAIN).astype(np.float32)
    labels = np.asarray(scene.labels)
    row, column = np.indices(labels.shape)
    odd = (row // block[0] + column // block[1]) % 2 == 1
    counts = [min(int((labels[odd] == i).sum()), int((labels[~odd] == i).sum())) for i in range(len(scene.label_names))]
    kept = [i for i, count in enumerate(counts) if i > 0 and count >= FEWEST]
    image = cube.reshape(-1, cube.shape[-1])

    def part(mask: np.ndarray) -> Part:
        rows, columns = np.nonzero(mask & np.isin(labels, kept))
        classes = np.asarray([kept.index(label) for label in labels[rows, columns]])
        around = _around(rows, block[0])[:, :, None] * labels.shape[1] + _around(columns, block[1])[:, None, :]
        return Part(cube[rows, columns], classes, around)

    names = tuple(scene.label_names[i] for i in kept)
    return Gulfport(image, np.asarray(scene.axis.centers), names, part(~odd), part(odd))


def kept_back(part: Part, rows: int = 15) -> tuple[Part, Part]:
    """A part of the scene in two, by stripes of so many rows: to choose by, without the other part of the scene."""
    middle = WINDOW // 2
    odd = part.around[:, middle, middle] // WIDTH // rows % 2 == 1
    return Part(*(of[~odd] for of in part)), Part(*(of[odd] for of in part))


def _around(place: np.ndarray, size: int) -> np.ndarray:
    """Rows or columns next to each, none outside of its block."""
    start = place // size * size
    return np.clip(place[:, None] + np.arange(WINDOW) - WINDOW // 2, start[:, None], start[:, None] + size - 1)


class Examples(eqx.Module):
    """Spectra and abundances of the classes."""

    spectra: Float[Array, "pixel *window band"]
    abundances: Float[Array, "pixel class"]


class Draws(eqx.Module):
    """Random mixtures of labelled pixels; called with a key and a count.

    How many classes a mixture has is drawn from one to `most`, then which, each as likely; their abundances are
    Dirichlet(1), their spectra those of one pixel of each, drawn from all of the class. With one class at most these
    are the pixels themselves, each class as often. "Gulfport synthetic" are mixtures of one to three.

    Attributes:
        image: reflectance of all pixels.
        numbers: of the labelled pixels in the image, or of all that are around them, class after class.
        first: where each class begins among them.
        counts: how many it has.
        most: classes in a mixture.
    """

    image: Float[Array, "place band"]
    numbers: Int[Array, "*labelled"]
    first: Int[Array, " class"]
    counts: Int[Array, " class"]
    most: int = eqx.field(static=True)

    @classmethod
    def of(cls, scene: Gulfport, part: Part, most: int, *, windows: bool = False) -> "Draws":
        """Mixtures of the pixels of a part."""
        middle = WINDOW // 2
        numbers = part.around if windows else part.around[:, middle, middle]
        counts = np.bincount(part.classes, minlength=len(scene.names))
        order = np.argsort(part.classes, kind="stable")
        starts = np.cumsum(counts) - counts
        arrays = [jnp.asarray(array) for array in (scene.image, numbers[order], starts, counts)]
        return cls(arrays[0], arrays[1], arrays[2], arrays[3], most)

    def __call__(self, key: Key[Array, ""], count: int) -> Examples:
        """So many of them."""
        amounts, pixels = jax.random.split(key)
        orders = tuple(range(1, self.most + 1))
        abundances = draw_abundances(amounts, count, len(self.counts), materials=orders)
        chosen = self.first + jax.random.randint(pixels, abundances.shape, 0, self.counts)
        spectra = self.image[self.numbers[chosen]]
        return Examples(einsum("pc,pc...->p...", abundances, spectra), abundances)


def synthetic(scene: Gulfport, count: int, *, seed: int = 0) -> Examples:
    """The test set "Gulfport synthetic": mixtures of one to three pixels of the part to score on."""
    drawn = Draws.of(scene, scene.test, 3)(jax.random.key(seed), count)
    return jax.tree.map(np.asarray, drawn)


def centroids(scene: Gulfport, count: int = 5, *, seed: int = 0) -> tuple[SpectralLibrary, Classes]:
    """Centroids of each class by K-means (k-means++ starts), of the pixels to learn from.

    Args:
        scene: what `gulfport` returns.
        count: centroids of a class.
        seed: of the starts.

    Returns:
        The centroids, and how they add up to classes.
    """
    spectra, names = [], []
    for i, name in enumerate(scene.names):
        mine = scene.train.spectra[scene.train.classes == i].astype(np.float64)
        spectra.append(kmeans2(mine, count, minit="++", seed=seed, iter=100, missing="raise")[0])
        names += [f"{name} {k + 1}" for k in range(count)]
    classes = tuple(name for name in scene.names for _ in range(count))
    library = SpectralLibrary(np.concatenate(spectra), SpectralAxis(scene.wavelength), tuple(names), classes)
    return library, classes_of(library)


class Fitted(NamedTuple):
    """Centroids as minerals.

    Attributes:
        names: of the centroids.
        dispersion: their oscillators, stacked.
        classes: how centroids add up to classes.
        wavenumber: cm⁻¹, increasing: bands in the reverse order of the scene's.
        mse: mean squared error of each.
    """

    names: tuple[str, ...]
    dispersion: Dispersion
    classes: Classes
    wavenumber: Float[np.ndarray, " band"]
    mse: Float[np.ndarray, " centroid"]

    def spectra(self) -> Float[np.ndarray, "centroid band"]:
        """Their reflectance, 1 - emissivity, in the bands of the scene."""
        return 1 - np.asarray(self.dispersion(jnp.asarray(self.wavenumber, jnp.float32)))[:, ::-1]


def fitted_centroids(scene: Gulfport, count: int = 5, *, seed: int = 0, **options: Any) -> Fitted:
    """Centroids as the dispersion model has them, whose emissivity is 1 - reflectance.

    Less than a second after compilation: there is nothing to keep. Parameters cost 2 in the criterion, as in AIC: with
    BIC the error is 4.3e-5, with AIC 2.6e-5, which is InfraRender's figure on its own centroids. Over half of what is
    left is in the fifth of the bands beyond 900 nm, in the sharp absorption of water vapour.

    Args:
        scene: what `gulfport` returns.
        count: centroids of a class.
        seed: of K-means.
        options: of `fit_dispersion`, in place of one axis and AIC.

    Returns:
        A `Fitted`.
    """
    library, classes = centroids(scene, count, seed=seed)
    assert library.axis is not None
    wavenumber = library.axis.to("cm-1").centers[::-1]
    emissivity = 1 - np.asarray(library.spectra)[:, ::-1]
    fit = fit_dispersion(emissivity, SpectralAxis(wavenumber, unit="cm-1"), **({"axes": 1, "penalty": 2} | options))
    return Fitted(library.names, fit.dispersion, classes, wavenumber, np.asarray(fit.mse))
