"""Endmembers that physics lets vary: generators of spectra from displacements inside a box.

A generator is a callable pytree, ``generator(u) -> [endmember, band]``, with ``u`` one row of displacements for each
endmember: 0 is the library, −1 and +1 are the walls of the box. The spectrum of an endmember depends on its own row
alone. Whoever uses a generator asks for nothing else than what `Variation` lists, and does not know what the
displacements move: `DispersionVariation` moves the oscillators of minerals, `ScaleSlopeShift` any measured spectrum.
"""

from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from unmix_jax.physics import dispersion as dispersion_model
from unmix_jax.physics.box import Box
from unmix_jax.physics.dispersion import Dispersion

__all__ = ["DispersionVariation", "ScaleSlopeShift", "Variation", "linearise"]

FAMILIES = ("frequency", "damping", "strength", "epsilon_inf", "weights")


@runtime_checkable
class Variation(Protocol):
    """What is asked of a generator of endmembers."""

    @property
    def free(self) -> Bool[Any, "endmember parameter"]:
        """False for parameters that are held: padding, or bounds that coincide."""
        ...

    @property
    def width(self) -> Float[Any, "endmember parameter"]:
        """Half the width of the box in the unit of each parameter."""
        ...

    def __call__(self, displacement: Float[Any, "endmember parameter"], /) -> Float[Array, "endmember band"]:
        """Spectra of all endmembers at their displacements."""
        ...

    def select(self, members: Int[Any, " some"], /) -> "Variation":
        """The same for some of the endmembers, in this order; works on tracers."""
        ...


class DispersionVariation(eqx.Module):
    """Minerals whose oscillators, permittivities and axis weights move inside a box.

    p(u) = p₀ + u⁺ (h − p₀) − u⁻ (p₀ − l) with the bounds l and h and the positive and negative part of u;
    the weights of the axes are then divided by their sum and multiplied by that of the library.

    The parameters of an endmember are its frequencies, dampings and strengths, axis after axis, then ``epsilon_inf``
    and the weights of the axes.

    Attributes:
        library: minerals with one leading axis, as from `physics.dispersion.stack`.
        box: bounds in the structure of the library.
        wavenumber: cm⁻¹.
    """

    library: Dispersion
    box: Box
    wavenumber: Float[Array, " band"]

    def __init__(self, library: Dispersion, box: Box, wavenumber: Float[Any, "..."]) -> None:
        """Check that the library is stacked and lies in its box.

        Raises:
            ValueError: not one leading axis; bounds that contradict each other or leave the library out; wavenumbers
                that are not one axis.
        """
        if library.frequency.ndim != 3:
            raise ValueError(
                f"library is (endmember, axis, oscillator), got shape {library.frequency.shape}; use stack"
            )
        if len(np.shape(wavenumber)) != 1:
            raise ValueError(f"wavenumber is one axis of bands in cm⁻¹, got shape {np.shape(wavenumber)}")
        corners = [_flat(corner) for corner in (box.lower, library, box.upper)]
        if not any(isinstance(corner, jax.core.Tracer) for corner in corners):
            lower, center, upper = (np.asarray(corner) for corner in corners)
            if not (lower <= upper).all():
                raise ValueError(f"{int((~(lower <= upper)).sum())} lower bounds lie above the upper ones")
            if not ((lower <= center) & (center <= upper)).all():
                outside = int((~((lower <= center) & (center <= upper))).sum())
                raise ValueError(
                    f"the library lies outside of its box in {outside} parameters: "
                    "displacement 0 would not be the library"
                )
        self.library, self.box = library, box
        self.wavenumber = jnp.asarray(wavenumber, jnp.result_type(library.frequency))

    @property
    def free(self) -> Bool[Array, "endmember parameter"]:
        """False where both bounds are the same, as for padding."""
        return _flat(self.box.upper) > _flat(self.box.lower)

    @property
    def width(self) -> Float[Array, "endmember parameter"]:
        """Half the width of the box, cm⁻¹ for frequencies, otherwise dimensionless."""
        return 0.5 * (_flat(self.box.upper) - _flat(self.box.lower))

    def parameters(self, displacement: Float[Any, "endmember parameter"]) -> Dispersion:
        """The minerals at these displacements."""
        moved = {name: self._raw(jnp.asarray(displacement), name) for name in FAMILIES}
        total = jnp.sum(moved["weights"], -1, keepdims=True)
        wanted = jnp.sum(self.library.weights, -1, keepdims=True)
        moved["weights"] = moved["weights"] * jnp.where(total > 0, wanted / jnp.where(total > 0, total, 1.0), 1.0)
        return Dispersion(**moved, active=self.library.active)

    def _raw(self, displacement: Array, name: str) -> Array:
        """One family of parameters, weights not yet normalised."""
        start = 0
        for family in FAMILIES[: FAMILIES.index(name)]:
            start += getattr(self.library, family)[0].size
        center, lower, upper = (getattr(d, name) for d in (self.library, self.box.lower, self.box.upper))
        u = displacement[:, start : start + center[0].size].reshape(center.shape)
        return center + u * jnp.where(u < 0, center - lower, upper - center)

    def __call__(self, displacement: Float[Any, "endmember parameter"]) -> Float[Array, "endmember band"]:
        """Emissivity of each mineral."""
        return self.parameters(displacement)(self.wavenumber)

    def select(self, members: Int[Any, " some"]) -> "DispersionVariation":
        """Some of the minerals."""
        taken = jax.tree.map(lambda leaf: leaf[members], (self.library, self.box))
        return eqx.tree_at(lambda v: (v.library, v.box), self, taken)

    def linearised(
        self, displacement: Float[Any, "endmember parameter"] | None = None, bands: Int[Any, " some"] | None = None
    ) -> tuple[Float[Array, "endmember some"], Float[Array, "endmember parameter some"]]:
        """Spectra and derivatives in closed form; see `linearise`."""
        wavenumber = self.wavenumber if bands is None else self.wavenumber[bands]
        count = self.library.frequency.shape[0]
        u = jnp.zeros_like(self.width) if displacement is None else jnp.asarray(displacement)
        moved = self.parameters(u)
        spectra, slopes = dispersion_model.jacobian(moved, wavenumber)
        weights, raw = moved.weights[..., None], self._raw(u, "weights")[..., None]
        total = jnp.sum(raw, -2, keepdims=True)  # weights are normalised: more of one axis is less of the others
        mean = jnp.sum(weights * slopes.weights, -2, keepdims=True)
        whole = jnp.sum(weights, -2, keepdims=True)
        some = (total > 0) & (whole > 0)
        along = (whole * slopes.weights - mean) / jnp.where(some, total, 1.0)
        slopes = eqx.tree_at(lambda s: s.weights, slopes, jnp.where(some, along, slopes.weights))
        flat = jnp.concatenate([getattr(slopes, name).reshape(count, -1, wavenumber.size) for name in FAMILIES], 1)
        lower, center, upper = (_flat(d) for d in (self.box.lower, self.library, self.box.upper))
        rate = jnp.where(u < 0, center - lower, upper - center)
        return spectra, flat * rate[..., None]


class ScaleSlopeShift(eqx.Module):
    """Measured spectra that may be scaled, tilted and shifted along the bands.

    E(u)_b = l + (1 + s u₁ + t u₂ ξ_b)(E₀(b − d u₃) − l), with ξ from −1 to 1 over the bands and the level l that stays
    (1 for emissivity, 0 for reflectance); E₀ is interpolated linearly between bands.

    Attributes:
        endmembers: the library.
        scale: greatest relative change of the contrast.
        slope: greatest relative change of the contrast at the ends of the spectrum.
        shift: greatest shift, in bands.
        level: the value that no change of contrast moves.
    """

    endmembers: Float[Array, "endmember band"]
    scale: Float[Array, ""]
    slope: Float[Array, ""]
    shift: Float[Array, ""]
    level: Float[Array, ""]

    def __init__(
        self,
        endmembers: Float[Any, "..."],
        *,
        scale: float = 0.1,
        slope: float = 0.05,
        shift: float = 1.0,
        level: float = 0.0,
    ) -> None:
        """Check shapes and signs.

        Raises:
            ValueError: endmembers that are not [endmember, band] with two bands or more, or a range that is negative or
                not finite.
        """
        if len(np.shape(endmembers)) != 2 or np.shape(endmembers)[1] < 2:
            raise ValueError(f"endmembers are [endmember, band] with at least two bands, got {np.shape(endmembers)}")
        if not all(0 <= value < np.inf for value in (scale, slope, shift)):
            raise ValueError(f"scale, slope and shift are finite and not below zero, got {scale}, {slope}, {shift}")
        self.endmembers = jnp.asarray(endmembers, jnp.result_type(float, endmembers))
        self.scale, self.slope, self.shift, self.level = (
            jnp.asarray(value, self.endmembers.dtype) for value in (scale, slope, shift, level)
        )

    @property
    def free(self) -> Bool[Array, "endmember parameter"]:
        """False where the range is zero."""
        return self.width > 0

    @property
    def width(self) -> Float[Array, "endmember parameter"]:
        """Ranges of scale, slope and shift."""
        ranges = jnp.stack([self.scale, self.slope, self.shift])
        return jnp.broadcast_to(ranges, (self.endmembers.shape[0], 3))

    def __call__(self, displacement: Float[Any, "endmember parameter"]) -> Float[Array, "endmember band"]:
        """Each spectrum shifted and with its contrast changed."""
        scale, slope, shift = (jnp.asarray(displacement) * self.width).T
        bands = self.endmembers.shape[1]
        index = jnp.arange(bands, dtype=self.endmembers.dtype)
        position = 2 * index / (bands - 1) - 1
        moved = jax.vmap(lambda spectrum, by: jnp.interp(index - by, index, spectrum))(self.endmembers, shift)
        contrast = 1 + scale[:, None] + slope[:, None] * position
        return self.level + contrast * (moved - self.level)

    def select(self, members: Int[Any, " some"]) -> "ScaleSlopeShift":
        """Some of the endmembers."""
        return eqx.tree_at(lambda v: v.endmembers, self, self.endmembers[members])


def linearise(
    generator: Variation,
    displacement: Float[Any, "endmember parameter"] | None = None,
    bands: Int[Any, " some"] | None = None,
) -> tuple[Float[Array, "endmember some"], Float[Array, "endmember parameter some"]]:
    """Spectra of the endmembers and how they answer to small displacements.

    E_i(u) ≈ E_i + Σ_d u_d J_id, with J = ∂E/∂u at the given displacement.

    Args:
        generator: the endmembers.
        displacement: where; None is the library. A generator that knows its derivatives in closed form has a method
            ``linearised``, which is then asked.
        bands: only these, by number; None is all.

    Returns:
        The spectra, and the derivatives in the unit of the spectra; zero for held parameters.
    """
    free = generator.free
    if hasattr(generator, "linearised"):
        spectra, slopes = generator.linearised(displacement, bands)
    else:
        at = jnp.zeros(free.shape, jnp.result_type(generator.width)) if displacement is None else displacement

        def along(parameter: Array) -> Array:
            """Every endmember moved along its parameter of this number at once: rows do not see each other."""
            direction = jnp.zeros_like(at).at[:, parameter].set(1.0)
            return some(jax.jvp(generator, (at,), (direction,))[1])

        def some(spectra: Array) -> Array:
            return spectra if bands is None else spectra[:, bands]

        spectra = some(generator(at))
        slopes = jnp.moveaxis(jax.lax.map(along, jnp.arange(free.shape[1])), 0, 1)
    return spectra, jnp.where(free[..., None], slopes, 0.0)


def _flat(mineral: Dispersion) -> Float[Array, "endmember parameter"]:
    """Parameters one after another."""
    return jnp.concatenate([getattr(mineral, name).reshape(mineral.active.shape[0], -1) for name in FAMILIES], 1)
