"""The one result type, and the one contract of every unmixer."""

from typing import Any, Protocol, runtime_checkable

import equinox as eqx
from jaxtyping import Bool, Float, Int

__all__ = ["Solution", "Unmixer"]


class Solution(eqx.Module):
    """What a solver learned about one pixel (``vmap`` and ``unmix`` add leading pixel axes).

    Attributes:
        abundances: fraction of each endmember, dimensionless.
        residual: root mean square of ``pixel - prediction`` over the good bands, in the unit of the pixel.
        gap: optimality certificate of the objective: Frank-Wolfe (duality) gap divided by half the squared norm of
            the pixel, an upper bound on the excess of the objective; NaN where it is undefined.
        steps: iterations or pivots that were taken.
        converged: True where the solver reached what it promises: the gap and, for solvers that bound them, the
            abundances (``abundance_bound``) are within their tolerance; False also when anything is not finite.
        covariance: covariance of the abundances, where the solver estimates one.
        fitted: whatever else was estimated (baseline coefficients, model parameters, ...).
        unique: False where another abundance vector may fit exactly as well (duplicate or dependent
            endmembers, more endmembers than bands).
        abundance_bound: upper bound on the distance of every abundance from the exact minimiser for this pixel,
            rounding errors included; infinite where the minimiser is not unique or nothing can be proved. None for
            solvers without such a bound.
    """

    abundances: Float[Any, "*pixel endmember"]
    residual: Float[Any, "*pixel"]
    gap: Float[Any, "*pixel"]
    steps: Int[Any, "*pixel"]
    converged: Bool[Any, "*pixel"]
    covariance: Float[Any, "*pixel endmember endmember"] | None = None
    fitted: Any = None
    unique: Bool[Any, "*pixel"] | None = None
    abundance_bound: Float[Any, "*pixel"] | None = None


@runtime_checkable
class Unmixer(Protocol):
    """Any callable pytree from one pixel to its `Solution`: a solver with its endmembers, a trained network."""

    def __call__(self, pixel: Float[Any, " band"], /) -> Solution:
        """Unmix one pixel, [band] in the unit of the endmembers."""
        ...
