"""Bounds on parameters: a box with two corners of the structure of the parameters, and unit coordinates inside.

`to_unit`, `from_unit` and `clip` take any pytree. Leaves that are not floating-point arrays (masks, counts, names)
are passed through. A parameter whose bounds coincide is held: its unit coordinate is 0 and its derivatives are zero.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from unmix_jax.physics.dispersion import PADDING, Dispersion, used_axes

__all__ = ["Box", "box_around", "clip", "default_box", "from_unit", "to_unit"]

# What an oscillator can be at all; also where rendering keeps its digits.
LIMITS = {
    "frequency": (1.0, jnp.inf),
    "damping": (1e-6, jnp.inf),
    "strength": (0.0, jnp.inf),
    "epsilon_inf": (1.0, jnp.inf),
    "weights": (0.0, 1.0),
}
BROAD = {"damping": (1e-6, 3.0), "strength": (1e-7, 3.0), "epsilon_inf": (1.0, 8.0), "weights": (0.0, 1.0)}


class Box(eqx.Module):
    """Bounds of parameters.

    Attributes:
        lower: least values, in the structure of the parameters; leaves may broadcast against theirs.
        upper: greatest values.
    """

    lower: PyTree
    upper: PyTree


def to_unit(box: Box, parameters: PyTree) -> PyTree:
    """Coordinates of parameters in their box.

    u = (p − l) / (h − l) with the bounds l and h, 0 where they are the same.

    Args:
        box: bounds in the units of the parameters.
        parameters: in the structure of the bounds.

    Returns:
        The same structure, dimensionless: 0 at the lower and 1 at the upper bound, beyond that outside of the box.

    Raises:
        ValueError: another structure than that of the bounds.
    """

    def scaled(value: Array, lower: Array, upper: Array) -> Array:
        held = lower == upper
        return jnp.where(held, 0.0, jnp.where(held, 0.0, value - lower) / jnp.where(held, 1.0, upper - lower))

    return _leafwise(scaled, parameters, box)


def from_unit(box: Box, unit: PyTree) -> PyTree:
    """Parameters at coordinates of their box: the inverse of `to_unit`, exact at both ends.

    p = (1 − u) l + u h with the bounds l and h.

    Args:
        box: bounds in the units of the parameters.
        unit: coordinates, from 0 to 1 inside the box.

    Raises:
        ValueError: another structure than that of the bounds.
    """

    def placed(value: Array, lower: Array, upper: Array) -> Array:
        held = lower == upper
        inner = jnp.where(held, 0.0, value)
        return jnp.where(held, lower, (1 - inner) * lower + inner * upper)

    return _leafwise(placed, unit, box)


def clip(box: Box, parameters: PyTree) -> PyTree:
    """The nearest parameters inside the box.

    Args:
        box: bounds in the units of the parameters.
        parameters: in the structure of the bounds.

    Raises:
        ValueError: another structure than that of the bounds.
    """
    return _leafwise(jnp.clip, parameters, box)


def _leafwise(function: Callable[[Array, Array, Array], Array], parameters: PyTree, box: Box) -> PyTree:
    """Apply a function of value, lower and upper bound to the floating-point leaves."""

    def leaf(value: Any, lower: Any, upper: Any) -> Any:
        if not jnp.issubdtype(getattr(value, "dtype", type(value)), jnp.floating):
            return value
        return function(jnp.asarray(value), jnp.asarray(lower), jnp.asarray(upper))

    return jax.tree.map(leaf, parameters, box.lower, box.upper)


def box_around(
    dispersion: Dispersion,
    *,
    frequency: float = 1e-2,
    damping: float = 5e-3,
    strength: float = 5e-2,
    epsilon_inf: float = 1e-4,
    weights: float = 1e-4,
) -> Box:
    """The box around a fitted mineral, or a library of them, by a relative tolerance for each kind of parameter.

    p (1 ± t), within what is physical: damping at least 1e-6, strength and weights not below zero, weights not above
    and `epsilon_inf` not below one. The box holds p even where that is not physical. Padding is held.

    Args:
        dispersion: the centre of the box.
        frequency: tolerance, dimensionless; the defaults are those of the paper's code.
        damping: tolerance.
        strength: tolerance.
        epsilon_inf: tolerance.
        weights: tolerance.

    Raises:
        ValueError: a tolerance below zero or NaN.

    Reference:
        Janiczek et al. 2020, section 4, arXiv:2007.05996.
    """
    tolerances = {
        "frequency": frequency,
        "damping": damping,
        "strength": strength,
        "epsilon_inf": epsilon_inf,
        "weights": weights,
    }
    wrong = {name: value for name, value in tolerances.items() if not value >= 0}
    if wrong:
        raise ValueError(f"relative tolerances are not below zero, got {wrong}")

    def bounds(name: str, center: Array) -> tuple[Array, Array]:
        margin = tolerances[name] * jnp.abs(center)
        least, most = LIMITS[name]
        lower = jnp.minimum(jnp.maximum(center - margin, least), center)
        return lower, jnp.maximum(jnp.minimum(center + margin, most), center)

    return _box(dispersion, bounds)


def default_box(wavenumber: Float[Any, " band"], dispersion: Dispersion) -> Box:
    """The box for a mineral of which nothing is known.

    Frequencies from 0.85 times the least to 1.15 times the greatest wavenumber, damping from 1e-6 and strength from
    1e-7 to 3, `epsilon_inf` from 1 to 8, weights from 0 to 1. Padding is held.

    Args:
        wavenumber: the bands that will be fitted, cm⁻¹.
        dispersion: gives shape, dtype and padding.

    Reference:
        Janiczek et al. 2020, arXiv:2007.05996, and its published code.
    """
    bands = jnp.asarray(wavenumber)
    given = {**BROAD, "frequency": (0.85 * jnp.min(bands), 1.15 * jnp.max(bands))}

    def bounds(name: str, center: Array) -> tuple[Array, Array]:
        lower, upper = (jnp.asarray(bound, center.dtype) for bound in given[name])
        return jnp.broadcast_to(lower, center.shape), jnp.broadcast_to(upper, center.shape)

    return _box(dispersion, bounds)


def _box(dispersion: Dispersion, bounds: Callable[[str, Array], tuple[Array, Array]]) -> Box:
    """A box from the bounds of each kind of parameter; both bounds of padding are the same."""
    used, corners = used_axes(dispersion), {}
    for name in LIMITS:
        center = getattr(dispersion, name)
        real = dispersion.active if center.ndim == dispersion.active.ndim else used
        held = jnp.asarray(PADDING[name], center.dtype)
        corners[name] = [jnp.where(real, bound, held) for bound in bounds(name, center)]
    return Box(*(Dispersion(**{n: c[i] for n, c in corners.items()}, active=dispersion.active) for i in (0, 1)))
