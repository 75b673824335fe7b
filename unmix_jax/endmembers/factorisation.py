"""What blind unmixing finds: endmembers and abundances together, Y ≈ AE, and the way from a scene there and back."""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from unmix_jax.endmembers.moments import ValidPixels

__all__ = ["Factorisation", "Gathered", "gather"]


class Factorisation(eqx.Module):
    """Endmembers and abundances whose product is the pixels.

    Attributes:
        endmembers: one spectrum per row, in the unit of the pixels; NaN in the bad bands of a scene.
        abundances: of every pixel, dimensionless; NaN where a pixel is invalid (masked, no-data, NaN or all zero).
        objective: the function that was minimised, at the end.
        steps: iterations that were taken.
        converged: True where the last of them changed no more than the tolerance allows; False also when anything is
            not finite.
    """

    endmembers: Float[Array, "endmember band"]
    abundances: Float[Array, "*pixel endmember"]
    objective: Float[Array, ""]
    steps: Int[Array, ""]
    converged: Bool[Array, ""]


class Gathered(NamedTuple):
    """The valid pixels of a scene on its good bands, [pixel, band], and where they came from."""

    data: ValidPixels
    values: Float[np.ndarray, "pixel good_band"]
    where: Int[np.ndarray, " pixel"]

    @property
    def mask(self) -> Bool[np.ndarray, "*pixel"]:
        """True where a pixel is among them."""
        mask = np.zeros(math.prod(self.data.shape), bool)
        mask[self.where] = True
        return mask.reshape(self.data.shape)

    def back(self, found: Factorisation) -> Factorisation:
        """The same result on all pixels and bands, NaN where they are invalid."""
        abundances = np.asarray(found.abundances)
        full = np.full((math.prod(self.data.shape), abundances.shape[1]), np.nan, abundances.dtype)
        full[self.where] = abundances
        return Factorisation(
            self.data.on_all_bands(np.asarray(found.endmembers)),
            jnp.asarray(full.reshape(*self.data.shape, -1)),
            found.objective,
            found.steps,
            found.converged,
        )


def gather(pixels: Any, count: int) -> Gathered:
    """The valid pixels, once `count` endmembers are known to be possible.

    Raises:
        ValueError: count < 1, more endmembers than good bands or valid pixels, or no valid pixel.
    """
    data = ValidPixels(pixels)
    if count < 1:
        raise ValueError(f"at least 1 endmember must be asked for, got count={count}")
    if count > len(data.good):
        raise ValueError(f"at most {len(data.good)} endmembers can be found in as many bands, got count={count}")
    indices, blocks = zip(*data.blocks(), strict=True)
    where = np.concatenate(indices)
    if len(where) == 0:
        raise ValueError(f"none of the {math.prod(data.shape)} pixels is valid (NaN, no-data, zero or masked)")
    if count > len(where):
        raise ValueError(f"{count} endmembers were asked of {len(where)} valid pixels")
    values = np.concatenate([block.astype(np.result_type(data.dtype, np.float32)) for block in blocks])
    return Gathered(data, values, where)
