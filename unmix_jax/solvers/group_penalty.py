"""What penalties on the norms of groups of abundances share: Newton's method on the ridges that stand for the norms.

``‖a‖ ≤ ‖a‖²/(2η) + η/2`` with equality at η = ‖a‖ turns a norm into a ridge, and ``½‖r‖² + λ Σ ‖a_g‖²/(2η_g) + η_g/2``
is convex in abundances and η together. Its minimum over the abundances, which active sets find exactly, is a convex
function of few unknowns η ≥ 0, with derivatives ``λ/2 (1 − ‖a_g‖²/η_g²)``. Setting η = ‖a‖ in turns took hundreds of
steps where Newton's method takes a dozen.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

__all__ = ["PAUSE", "group_tolerance", "longer", "newton_share"]

PAUSE = 3  # steps between two at which groups come and go
SWEEPS = 40


def group_tolerance(dtype: Any) -> float:
    """Largest relative gap that counts as solved, by precision."""
    return 3e-5 if jnp.finfo(dtype).bits == 32 else 1e-8


def newton_share(
    eta: Float[Array, "*batch group"],
    norms: Float[Array, "*batch group"],
    weight: Float[Array, "*batch group"],
    stiffness: Float[Array, "*batch group group"],
) -> Float[Array, "*batch group"]:
    """Change of η that Newton's method asks for, as a share of it, between −90 % and tenfold.

    Args:
        eta: positive for groups that take part.
        norms: of the groups at their minimum for this η.
        weight: λ of each group.
        stiffness: Σ a_j a_k (FᵀF + D)⁻¹_jk over the members j, k of two groups: how norms answer to ridges.
    """
    used = (eta > 0) & (norms > 0)
    safe = jnp.where(used, eta, 1.0)
    ridge = jnp.where(used, weight / safe, 0.0)
    pull = jnp.where(used, weight * norms**2 / safe, 0.0)
    slope = jnp.where(used, 0.5 * (weight * eta - pull), 0.0)
    curvature = -ridge[..., :, None] * stiffness * ridge[..., None, :] + jnp.eye(eta.shape[-1]) * pull[..., None]
    diagonal = jnp.diagonal(curvature, axis1=-2, axis2=-1)
    diagonal = diagonal + 1e-9 * jnp.max(diagonal, -1, keepdims=True) + jnp.finfo(eta.dtype).tiny
    last = jnp.max(jnp.where(used, jnp.arange(1, eta.shape[-1] + 1), 0))

    def one(turn: Array, share: Array) -> Array:
        """The minimum of the quadratic model along one group."""
        group = turn % jnp.maximum(last, 1)
        descent = slope[..., group] + jnp.sum(curvature[..., group, :] * share, -1)
        moved = jnp.clip(share[..., group] - descent / diagonal[..., group], -0.9, 9.0)
        return share.at[..., group].set(jnp.where(used[..., group], moved, 0.0))

    return jax.lax.fori_loop(0, SWEEPS * last, one, jnp.zeros_like(eta))


def longer(
    length: Float[Array, "*batch"], plain: Bool[Array, "*batch"], fell: Bool[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """Share of the next Newton step: all of it, less where the last one went too far."""
    return jnp.where(plain, length, jnp.where(fell, jnp.minimum(2 * length, 1.0), 0.3 * length))
