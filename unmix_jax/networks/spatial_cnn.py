"""CNN-3D: a convolutional baseline that sees the neighbours of a pixel, in Flax.

Reference: Zhang, Sun, Zhang, Wu and Jiao 2018, Hyperspectral unmixing via deep convolutional neural networks, IEEE GRSL
15, 1755. Its layers and their sizes are as later comparisons quote them.
"""

from itertools import pairwise
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

__all__ = ["CNN3D"]

KERNELS = ((5, 16), (4, 32), (5, 64), (4, 128))  # width and number of each convolution
DROPPED = 2  # the last convolutions are followed by dropout
RATE = 0.2
HIDDEN = (192, 150)
FEWEST = 1 + sum(size - 1 for size, _ in KERNELS)  # bands


class CNN3D(nnx.Module):
    """Four convolutions of 16, 32, 64 and 128 kernels 1 × 1 × 5, 1 × 1 × 4, 1 × 1 × 5 and 1 × 1 × 4, then dense layers.

    They run along the spectrum of each pixel of a window, with the same weights; where neighbours are combined is the
    first dense layer. There is no padding; a fifth of the last two convolutions' outputs are dropped in training. A
    convolution is a product of its weights with shifted copies of the bands: a tenth of the time of what a compiler
    makes of convolutions and their slopes on a CPU.
    """

    def __init__(self, bands: int, count: int, *, window: int = 3, rngs: nnx.Rngs) -> None:
        if bands < FEWEST:
            raise ValueError(f"four convolutions without padding need {FEWEST} bands or more, got {bands}")
        self.window = window
        self.convolutions: Any = nnx.List([])
        channels = 1
        for size, kernels in KERNELS:
            self.convolutions.append(nnx.Linear(size * channels, kernels, rngs=rngs))
            channels = kernels
        self.drop = nnx.Dropout(RATE, rngs=rngs)
        sizes = (window**2 * (bands - FEWEST + 1) * channels, *HIDDEN)
        self.hidden: Any = nnx.List([nnx.Linear(inputs, outputs, rngs=rngs) for inputs, outputs in pairwise(sizes)])
        self.out = nnx.Linear(HIDDEN[-1], count, rngs=rngs)

    def __call__(self, windows: Array) -> Array:
        """A score for each material in the middle of each window, [pixel, endmember], from [pixel, row, column, band].

        Raises:
            ValueError: windows of another size.
        """
        if windows.ndim != 4 or windows.shape[1:3] != (self.window, self.window):
            raise ValueError(f"windows are [pixel, {self.window}, {self.window}, band], got shape {windows.shape}")
        x = windows.reshape(-1, windows.shape[-1], 1)  # a kernel that is 1 × 1 in space sees one pixel
        for i, ((size, _), convolution) in enumerate(zip(KERNELS, self.convolutions, strict=True)):
            left = x.shape[1] - size + 1
            x = nnx.relu(convolution(jnp.concatenate([x[:, k : k + left] for k in range(size)], -1)))
            if i >= len(self.convolutions) - DROPPED:
                x = self.drop(x)
        x = x.reshape(len(windows), -1)
        for layer in self.hidden:
            x = nnx.relu(layer(x))
        return self.out(x)
