"""Windows of a scene, gathered on the device: what networks that look at neighbours are trained on."""

import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

__all__ = ["Windows"]


class Windows(eqx.Module):
    """All windows of one size in a scene that hold valid pixels alone; they may overlap.

    Attributes:
        corners: the first pixel of each window, as a number in the image.
        lookup: which of the valid pixels stands at each place of the image.
        columns: of the image.
        shape: rows and columns of a window.
    """

    corners: Int[Array, " window"]
    lookup: Int[Array, " place"]
    columns: int = eqx.field(static=True)
    shape: tuple[int, int] = eqx.field(static=True)

    @classmethod
    def within(cls, valid: Bool[np.ndarray, "*image"], shape: tuple[int, int]) -> "Windows":
        """Windows of this shape in an image.

        Args:
            valid: True where a pixel is valid, [row, column].
            shape: rows and columns of a window.

        Returns:
            The windows.

        Raises:
            ValueError: not an image, one that is smaller than a window, or no window without an invalid pixel.
        """
        valid = np.asarray(valid, bool)
        if valid.ndim != 2:
            raise ValueError(
                f"this method looks at windows of {shape[0]} × {shape[1]} pixels and needs an image "
                f"[row, column, band], got pixels of shape {valid.shape}"
            )
        if valid.shape[0] < shape[0] or valid.shape[1] < shape[1]:
            raise ValueError(
                f"this method looks at windows of {shape[0]} × {shape[1]} pixels, the scene has only "
                f"{valid.shape[0]} × {valid.shape[1]}"
            )
        sums = np.pad(np.cumsum(np.cumsum(~valid, 0), 1), ((1, 0), (1, 0)))
        down, across = shape
        bad = sums[down:, across:] - sums[:-down, across:] - sums[down:, :-across] + sums[:-down, :-across]
        rows, columns = np.nonzero(bad == 0)
        if len(rows) == 0:
            raise ValueError(
                f"every window of {down} × {across} pixels holds an invalid one (masked, no-data, NaN or zero): "
                f"{int(valid.sum())} of {valid.size} pixels are valid; use a method that looks at single pixels"
            )
        lookup = np.where(valid.ravel(), np.cumsum(valid.ravel()) - 1, 0)
        corners = rows * valid.shape[1] + columns
        return cls(jnp.asarray(corners, jnp.int32), jnp.asarray(lookup, jnp.int32), valid.shape[1], shape)

    def __len__(self) -> int:
        """How many."""
        return self.corners.shape[0]

    @property
    def pixels(self) -> int:
        """Of one window."""
        return math.prod(self.shape)

    def gather(
        self, data: Float[Array, "pixel band"], which: Int[Array, " some"]
    ) -> Float[Array, "some row column band"]:
        """The spectra of some windows.

        Args:
            data: the valid pixels, in the order of the image.
            which: numbers of windows.

        Returns:
            Their spectra.
        """
        inside = jnp.arange(self.shape[0])[:, None] * self.columns + jnp.arange(self.shape[1])
        return data[self.lookup[self.corners[which][:, None, None] + inside]]
