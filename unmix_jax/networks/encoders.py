"""Encoders from a spectrum to a score for each material: dense layers, and published convolutional ones in Flax.

Reference: Zhang, Sun, Zhang, Wu and Jiao 2018, Hyperspectral unmixing via deep convolutional neural networks, IEEE GRSL
15, 1755, for CNN-1D; Janiczek et al. 2020 (InfraRender), arXiv:2007.05996, for what was modified, and for their own.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Key

from unmix_jax.networks.flax_bridge import FlaxLayer
from unmix_jax.networks.layers import Layer, LeakyReLU, Sequential, SiLU
from unmix_jax.networks.recipes import dense

__all__ = ["CNN1D", "ENCODERS"]

KERNELS = ((5, 3), (4, 6), (5, 12), (4, 24))  # width and number of each convolution
HIDDEN = 150
BOTH = 32  # bands at least for convolutions that stay within a spectrum


class CNN1D(nnx.Module):
    """Four convolutions along the spectrum, of 3, 6, 12 and 24 kernels 5, 4, 5 and 4 bands wide, then dense layers.

    Zhang's has a maximum of two neighbours after each and one hidden layer of 150. Modified by InfraRender, there are
    no maxima and two hidden layers. InfraRender's own has maxima after the last two. Spectra are padded, but for this
    last one where they have bands enough.
    """

    def __init__(
        self, bands: int, count: int, *, maxima: Sequence[bool], hidden: int, padded: bool = True, rngs: nnx.Rngs
    ) -> None:
        self.maxima = tuple(maxima)
        self.padding = "SAME" if padded or bands < BOTH else "VALID"
        self.convolutions: Any = nnx.List([])
        width, channels = bands, 1
        for (size, kernels), halved in zip(KERNELS, maxima, strict=True):
            self.convolutions.append(nnx.Conv(channels, kernels, (size,), padding=self.padding, rngs=rngs))
            width -= 0 if self.padding == "SAME" else size - 1
            if halved:
                width = -(-width // 2) if self.padding == "SAME" else width // 2
            channels = kernels
        sizes = (width * channels, *([HIDDEN] * hidden))
        self.hidden = nnx.List([nnx.Linear(inputs, outputs, rngs=rngs) for inputs, outputs in pairwise(sizes)])
        self.out = nnx.Linear(HIDDEN, count, rngs=rngs)

    def __call__(self, spectra: Array) -> Array:
        """A score for each material, [pixel, endmember]."""
        x = spectra[..., None]
        for convolution, halved in zip(self.convolutions, self.maxima, strict=True):
            x = nnx.relu(convolution(x))
            if halved:
                x = nnx.max_pool(x, (2,), (2,), self.padding)
        x = x.reshape(len(x), -1)
        for layer in self.hidden:
            x = nnx.relu(layer(x))
        return self.out(x)


def _dense(widths: tuple[int, ...], between: Layer) -> Callable[[Key[Array, ""], Any, int], Sequential]:
    """Features, then dense layers."""

    def build(key: Key[Array, ""], features: Any, count: int) -> Sequential:
        sizes = (features.basis.shape[0], *widths, count)
        layers: list[Layer] = [features]
        for i, (inputs, outputs) in enumerate(pairwise(sizes)):
            layers.append(dense(jax.random.fold_in(key, i), inputs, outputs, bias=True))
            if i < len(widths):
                layers.append(between)
        return Sequential(tuple(layers))

    return build


def _convolutional(**made: Any) -> Callable[[Key[Array, ""], Any, int], Sequential]:
    """The mixtures' mean taken away and divided by their spread, then CNN-1D."""

    def build(key: Key[Array, ""], features: Any, count: int) -> Sequential:
        module = CNN1D(features.mean.shape[0], count, **made, rngs=nnx.Rngs(key))
        return Sequential((features.plain(), FlaxLayer.of(module)))

    return build


ENCODERS: Mapping[str, Callable[[Key[Array, ""], Any, int], Sequential]] = MappingProxyType(
    {
        "dense": _dense((256,) * 3, LeakyReLU(0.1)),
        "deep": _dense((512,) * 4, SiLU()),
        "cnn1d": _convolutional(maxima=(True,) * 4, hidden=1),
        "cnn1d_modified": _convolutional(maxima=(False,) * 4, hidden=2),
        "infrarender": _convolutional(maxima=(False, False, True, True), hidden=1, padded=False),
    }
)
