"""What penalties on the norms of groups of abundances share: their majorant, and steps that hasten its fixed point.

``‖a‖ ≤ ‖a‖²/(2η) + η/2`` with equality at η = ‖a‖ turns a norm into a ridge; problem and majorant are convex in
(a, η) together. Solving for a and setting η = ‖a‖ in turns converges to the minimum, the slower the closer a group is to
vanishing; the logarithm of η then moves by steps in constant ratio, which a secant foresees.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["group_tolerance", "hastened"]

LONGEST = 40.0  # times the plain step


def group_tolerance(dtype: object) -> float:
    """Largest relative gap that counts as solved, by precision."""
    return 3e-5 if jnp.finfo(dtype).bits == 32 else 1e-8  # type: ignore[arg-type]


def hastened(
    change: Float[Array, "*group"], before: Float[Array, "*group"], factor: Float[Array, "*group"]
) -> Float[Array, "*group"]:
    """How many times the plain step to take, of each group by itself.

    If the plain step shrinks in the ratio ρ, a step of f times its length leaves ``1 − f (1 − ρ)`` of it: so ρ follows from
    two steps, and ``1/(1 − ρ)`` times the next one ends where all of them would.

    Args:
        change: plain step that is due.
        before: plain step that was due last.
        factor: how many times it was taken; 0 where there was none.
    """
    known = (factor > 0) & (jnp.abs(before) > 0)
    left = jnp.where(known, change / jnp.where(known, before, 1.0), 0.0)
    slowness = jnp.where(known, (1 - left) / jnp.where(known, factor, 1.0), 1.0)  # 1 − ρ
    return jnp.clip(1 / jnp.maximum(slowness, 1 / LONGEST), 1.0, LONGEST)
