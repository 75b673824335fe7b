"""What a smooth surface lets through, from the permittivity of the medium behind it (vacuum or air before it).

The permittivity is ε = θ + 2iφ. No nearly equal numbers are subtracted: also where almost everything is reflected
(θ < 0, φ → 0) float32 keeps its digits and derivatives stay finite.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["refract", "transmittance"]

SMALLEST = 1e-30  # least squared permittivity: its root has no derivative at zero


def refract(
    theta: Float[Any, "*shape"], phi: Float[Any, "*shape"]
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Refractive index and extinction coefficient of a permittivity.

    n + ik = √(θ + 2iφ): first the greater of the two, which is a sum, then the other one from nk = φ.

    Args:
        theta: real part of the permittivity.
        phi: half its imaginary part, not below zero.

    Returns:
        n and k, dimensionless, not below zero.
    """
    positive = theta >= 0
    modulus = jnp.sqrt(jnp.maximum(theta**2 + 4 * phi**2, SMALLEST))
    greater = jnp.sqrt(0.5 * (modulus + jnp.where(positive, theta, -theta)))
    smaller = phi / greater
    return jnp.where(positive, greater, smaller), jnp.where(positive, smaller, greater)


def transmittance(
    theta: Float[Any, "*shape"],
    phi: Float[Any, "*shape"],
    *,
    angle: float | Float[Any, ""] | None = None,
    polarisation: str | None = None,
) -> Float[Array, "*shape"]:
    """Share of the light that a smooth surface does not reflect, by Fresnel's equations: its emissivity.

    At normal incidence 1 − |r|² = 4n / ((n + 1)² + k²). Off it, with c and s the cosine and sine of the angle and
    q = √(ε − s²), 1 − |r_s|² = 4 c Re q / |c + q|² and 1 − |r_p|² = 4 c Re q (|q|² + s²) / |εc + q|².

    Args:
        theta: real part of the permittivity.
        phi: half its imaginary part, not below zero.
        angle: between the ray and the normal of the surface, degrees, below 90; None is normal incidence.
        polarisation: field across ("s") or in ("p") the plane of incidence; None is the mean of both.

    Returns:
        Between 0 and 1, dimensionless.

    Raises:
        ValueError: another polarisation.

    Reference:
        Born and Wolf 1999, Principles of Optics, 7th ed., 1.5 and 14.2.
    """
    if polarisation not in (None, "s", "p"):
        raise ValueError(f"polarisation is 's', 'p' or None for their mean, got {polarisation!r}")
    if angle is None:
        n, k = refract(theta, phi)
        return 4 * n / ((n + 1) ** 2 + k**2)
    radians = jnp.deg2rad(jnp.asarray(angle, jnp.result_type(theta)))
    cosine, sine = jnp.cos(radians), jnp.sin(radians)
    n, k = refract(theta - sine**2, phi)
    across = 4 * cosine * n / ((cosine + n) ** 2 + k**2)
    along = 4 * cosine * n * (n**2 + k**2 + sine**2)
    along = along / ((theta * cosine + n) ** 2 + (2 * phi * cosine + k) ** 2)
    if polarisation is None:
        return 0.5 * (across + along)
    return across if polarisation == "s" else along
