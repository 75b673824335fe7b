"""Encoders from a spectrum to a score for each material: dense layers, and two convolutional baselines in Flax.

Reference: Zhang, Sun, Zhang, Wu and Jiao 2018, Hyperspectral unmixing via deep convolutional neural networks, IEEE GRSL
15, 1755, for CNN-1D; Janiczek et al. 2020 (InfraRender) for what was modified.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Key

from unmix_jax.networks.flax_bridge import FlaxLayer
from unmix_jax.networks.layers import Layer, LeakyReLU, Sequential
from unmix_jax.networks.recipes import dense

__all__ = ["CNN1D", "ENCODERS"]

WIDTHS = (256, 256, 256)
KERNELS = ((5, 3), (4, 6), (5, 12), (4, 24))  # width and number of each convolution
HIDDEN = 150


class CNN1D(nnx.Module):
    """Four convolutions along the spectrum, of 3, 6, 12 and 24 kernels 5, 4, 5 and 4 bands wide, then dense layers.

    As published each is followed by a maximum of two neighbours, and there is one hidden dense layer of 150. Modified,
    there are no maxima and two hidden layers. Spectra are padded where they have too few bands for a layer.
    """

    def __init__(self, bands: int, count: int, *, modified: bool, rngs: nnx.Rngs) -> None:
        self.modified = modified
        self.convolutions: Any = nnx.List([])
        width, channels = bands, 1
        for size, kernels in KERNELS:
            self.convolutions.append(nnx.Conv(channels, kernels, (size,), padding="SAME", rngs=rngs))
            width, channels = width if modified else -(-width // 2), kernels
        sizes = (width * channels, *([HIDDEN] * (2 if modified else 1)))
        self.hidden = nnx.List([nnx.Linear(inputs, outputs, rngs=rngs) for inputs, outputs in pairwise(sizes)])
        self.out = nnx.Linear(HIDDEN, count, rngs=rngs)

    def __call__(self, spectra: Array) -> Array:
        """A score for each material, [pixel, endmember]."""
        x = spectra[..., None]
        for convolution in self.convolutions:
            x = nnx.relu(convolution(x))
            if not self.modified:
                x = nnx.max_pool(x, (2,), (2,), "SAME")
        x = x.reshape(len(x), -1)
        for layer in self.hidden:
            x = nnx.relu(layer(x))
        return self.out(x)


def _dense(key: Key[Array, ""], features: Any, count: int) -> Sequential:
    """Features, then three dense layers of 256."""
    sizes = (features.basis.shape[0], *WIDTHS, count)
    layers: list[Layer] = [features]
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        layers.append(dense(jax.random.fold_in(key, i), inputs, outputs, bias=True))
        if i < len(WIDTHS):
            layers.append(LeakyReLU(0.1))
    return Sequential(tuple(layers))


def _convolutional(modified: bool) -> Callable[[Key[Array, ""], Any, int], Sequential]:
    """The mixtures' mean taken away and divided by their spread, then CNN-1D."""

    def build(key: Key[Array, ""], features: Any, count: int) -> Sequential:
        module = CNN1D(features.mean.shape[0], count, modified=modified, rngs=nnx.Rngs(key))
        return Sequential((features.plain(), FlaxLayer.of(module)))

    return build


ENCODERS: Mapping[str, Callable[[Key[Array, ""], Any, int], Sequential]] = MappingProxyType(
    {"dense": _dense, "cnn1d": _convolutional(False), "cnn1d_modified": _convolutional(True)}
)
