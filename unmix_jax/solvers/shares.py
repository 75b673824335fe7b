"""How far sums and shares of abundances can be from those of the exact minimiser, by the bound on the abundances."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

__all__ = ["bound_of_shares", "bound_of_sums"]

ROUNDINGS = 8  # of the bound itself: more than the operations that it takes


def bound_of_sums(sums: Float[Any, "*pixel sum"], bound: Float[Any, "*pixel"], *, summed: Any) -> Float[Any, "*pixel"]:
    """Bound on sums S of k abundances at most, each within δ of the exact minimiser.

        |S − S*| ≤ k δ + k eps |S|

    The second term is the rounding of the sum.

    Args:
        sums: S, fraction.
        bound: δ, fraction; infinite where there is none.
        summed: k, a number.

    Returns:
        The bound for the worst of the sums, fraction.
    """
    eps = float(jnp.finfo(bound.dtype).eps)
    return (1 + ROUNDINGS * eps) * summed * (bound + eps * abs(sums).max(-1))


def bound_of_shares(
    shares: Float[Any, "*pixel share"], total: Float[Any, "*pixel"], bound: Float[Any, "*pixel"], *, summed: Any,
    divided: Any,
) -> Float[Any, "*pixel"]:  # fmt: skip
    """Bound on shares f = S / L, where S sums some of the abundances of L, each within δ of the exact minimiser.

    With k abundances in S, n in L and R = L − S, ``S/L − S*/L* = ((S − S*) R − S (R − R*)) / (L L*)``, so

        |S/L − S*/L*| ≤ (k |1 − f| + (n − k) |f|) δ / (L − n δ)   where L > n δ, and nothing is known elsewhere.

    Sums and division round by no more than (k + n) eps |f|.

    Args:
        shares: f, fraction.
        total: L, fraction.
        bound: δ, fraction; infinite where there is none.
        summed: k, a number, or one for each share.
        divided: n, the abundances in L, a number.

    Returns:
        The bound for the worst of the shares, fraction; infinite where nothing is proved, NaN where ``shares`` or
        ``bound`` are.
    """
    xp = np if isinstance(shares, np.ndarray) else jnp
    eps = float(jnp.finfo(bound.dtype).eps)
    worst, most = abs(shares).max(-1), xp.max(xp.asarray(summed))
    moves = (summed * abs(1 - shares) + (divided - summed) * abs(shares)).max(-1)
    least = total * (1 - divided * eps) - divided * bound
    proved = least > 0
    limit = moves * xp.where(proved, bound / xp.where(proved, least, xp.ones_like(least)), xp.zeros_like(least))
    limit = ((1 + ROUNDINGS * eps) * (limit + (most + divided) * eps * worst)).astype(bound.dtype)
    infinite = xp.full_like(limit, np.inf)
    undefined = xp.isnan(worst) | xp.isnan(bound)
    return xp.where(undefined, xp.full_like(limit, np.nan), xp.where(proved, limit, infinite))
