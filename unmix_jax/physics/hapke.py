"""Reflectance of particulate surfaces, and mixtures of grains that touch, after Hapke.

A grain scatters the share w of the light it meets, the single-scattering albedo; γ = √(1 − w). What a surface of such
grains reflects follows from w, and albedos, unlike reflectances, add up by the cross-sections of the grains. So an
intimate mixture is a linear one in w: `Hapke` renders it, `albedo_of` undoes the reflectance, and `albedo_from_index`
has w from the optical constants of a mineral, such as `physics.dispersion.refractive_index` gives.

Bright surfaces have 1 − w near zero, dark ones w: both are carried, so that float32 keeps its digits at either end.
"""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unmix_jax.linalg import matmul, safe_sqrt

__all__ = ["Hapke", "albedo_from_index", "chandrasekhar"]

PHASE_FUNCTIONS = ("isotropic", "legendre", "henyey-greenstein")
H_FUNCTIONS = ("two-stream", "2002")
FILLING = 1.209  # of the porosity factor
TURNS = 40  # of the search for 1 − γ; Newton's steps need six, halvings are for the rest


def chandrasekhar(
    gamma: float | Float[Any, "..."], cosine: float | Float[Any, "..."], *, function: str = "two-stream"
) -> Float[Array, "..."]:
    """Hapke's approximations to Chandrasekhar's H function of isotropic scatterers.

    "two-stream": H = (1 + 2x) / (1 + 2xγ), within 4.1 %. "2002": 1/H = 1 − w x [r₀ + (1 − 2r₀x)/2 · ln((1 + x)/x)] with
    r₀ = (1 − γ)/(1 + γ), within 1 %.

    Args:
        gamma: √(1 − w), between 0 and 1.
        cosine: x, of the angle to the normal, above zero.
        function: "two-stream" or "2002".

    Returns:
        H, dimensionless, at least 1.

    Raises:
        ValueError: another function.

    Reference:
        Hapke 1981, doi:10.1029/JB086iB04p03039; Hapke 2002, doi:10.1006/icar.2002.6853.
    """
    if function not in H_FUNCTIONS:
        raise ValueError(f"H is one of {H_FUNCTIONS}, got {function!r}")
    gamma = jnp.asarray(gamma)
    if function == "two-stream":
        return (1 + 2 * cosine) / (1 + 2 * cosine * gamma)
    diffuse = (1 - gamma) / (1 + gamma)
    inner = diffuse + 0.5 * (1 - 2 * diffuse * cosine) * jnp.log1p(1 / cosine)
    return 1 / (1 - (1 - gamma) * (1 + gamma) * cosine * inner)


class Hapke(eqx.Module):
    """Intimate mixture: the reflectance of grains whose albedos add up, w̄ = Σ f_i w_i.

    REFF = K w̄ / (4(μ₀ + μ)) · {[1 + B(g)] p̄(g) + H(μ₀/K) H(μ/K) − 1}, divided by that of a perfect standard (w = 1,
    isotropic, K = 1) where `standard` says so. Called as ``mixing(abundances, endmembers)`` with the reflectances of
    the endmembers in the same geometry.

    Abundances are shares of the cross-section; where `density` and `diameter` are given, they are shares of the mass,
    f_i ∝ c_i / (ρ_i d_i). All fields are known, of whatever type; ``fit=("b", "c")`` has a solver fit those.

    Attributes:
        incidence: angle of the light to the normal, degrees, below 90.
        emergence: angle of the sensor to the normal, degrees, below 90.
        phase: angle g between light and sensor, degrees; None: the sensor looks across, incidence + emergence.
        standard: True for reflectance relative to a surface of w = 1, False for the reflectance factor, relative to a
            Lambertian one.
        h_function: "two-stream" or "2002", see `chandrasekhar`.
        phase_function: p(g): "isotropic" is 1; "legendre" 1 + b cos g + c (1.5 cos² g − 0.5), often b = −0.4 and
            c = 0.25; "henyey-greenstein" is (1 + c)/2 (1 − b²)/(1 − 2b cos g + b²)^1.5, back, and the same with 1 − c
            and + 2b, forward.
        b: of the phase function; one, or one for each endmember.
        c: of the phase function; one, or one for each endmember.
        opposition: B₀ of B(g) = B₀ / (1 + tan(g/2)/h).
        opposition_width: h.
        filling: share φ of the volume that is grains; None: K = 1, else K = −ln(1 − 1.209 φ^⅔) / (1.209 φ^⅔).
        density: ρ of each endmember, any unit.
        diameter: d of the grains of each endmember, any unit.

    Raises:
        ValueError: angles out of range or no triangle, an unknown function, a filling outside (0, 0.752), or density
            without diameter.

    Reference:
        Hapke 1981, doi:10.1029/JB086iB04p03039; Mustard and Pieters 1989, doi:10.1029/JB094iB10p13619; Hapke 2008,
        doi:10.1016/j.icarus.2008.01.003, for K.
    """

    fitted: ClassVar[tuple[str, ...]] = ()

    incidence: float = eqx.field(static=True, default=30.0)
    emergence: float = eqx.field(static=True, default=0.0)
    phase: float | None = eqx.field(static=True, default=None)
    standard: bool = eqx.field(static=True, default=True)
    h_function: str = eqx.field(static=True, default="two-stream")
    phase_function: str = eqx.field(static=True, default="isotropic")
    b: Any = 0.0
    c: Any = 0.0
    opposition: Any = 0.0
    opposition_width: Any = 0.05
    filling: Any = None
    density: Any = None
    diameter: Any = None

    def __check_init__(self) -> None:
        """Angles, names and pairs of options."""
        for name in ("incidence", "emergence"):
            if not 0 <= getattr(self, name) < 90:
                raise ValueError(f"{name} is an angle from 0 to below 90 degrees, got {getattr(self, name)}")
        least, most = abs(self.incidence - self.emergence), self.incidence + self.emergence
        if self.phase is not None and not least <= self.phase <= most:
            raise ValueError(f"at these angles the phase is between {least:g} and {most:g} degrees, got {self.phase}")
        if self.phase_function not in PHASE_FUNCTIONS:
            raise ValueError(f"the phase function is one of {PHASE_FUNCTIONS}, got {self.phase_function!r}")
        if self.h_function not in H_FUNCTIONS:
            raise ValueError(f"H is one of {H_FUNCTIONS}, got {self.h_function!r}")
        if isinstance(self.filling, float) and not 0 < self.filling < FILLING**-1.5:
            raise ValueError(f"filling is a share of the volume between 0 and 0.752, got {self.filling}")
        if (self.density is None) != (self.diameter is None):
            raise ValueError("shares of mass need density and diameter of the grains; one of them is missing")

    def __call__(
        self, abundances: Float[Any, " endmember"], endmembers: Float[Any, "endmember band"]
    ) -> Float[Array, " band"]:
        """Reflectance of the mixture, dimensionless."""
        gamma, dark = self._gamma(jnp.asarray(endmembers))
        return self.mix(abundances, (1 + gamma) * dark, gamma**2)

    def mix(
        self,
        abundances: Float[Any, " endmember"],
        albedos: Float[Any, "endmember band"],
        absorbed: Float[Any, "endmember band"] | None = None,
    ) -> Float[Array, " band"]:
        """Reflectance of a mixture of grains whose albedos are known.

        Args:
            abundances: shares of the cross-section, or of the mass where density and diameter are given.
            albedos: single-scattering albedo w of each endmember, between 0 and 1.
            absorbed: 1 − w, where it is known to more digits than w has; None: from w.

        Returns:
            Reflectance, dimensionless.
        """
        albedos = jnp.asarray(albedos)
        shares = self.cross_sections(abundances)
        absorbed = 1 - albedos if absorbed is None else absorbed
        albedo, rest = matmul(shares, albedos), matmul(shares, absorbed)
        single = matmul(shares, albedos * self._scattering(albedos.dtype)[:, None])
        return self._reflect(albedo, safe_sqrt(rest), single)

    def reflectance(self, albedo: Float[Any, "*shape"]) -> Float[Array, "*shape"]:
        """Reflectance of grains of one kind, with the phase function of the first endmember.

        Args:
            albedo: single-scattering albedo w.

        Returns:
            Reflectance, dimensionless; NaN where w is not between 0 and 1.
        """
        albedo = jnp.asarray(albedo)
        found = self._reflect(albedo, safe_sqrt(1 - albedo), albedo * self._scattering(albedo.dtype)[0])
        return jnp.where((albedo >= 0) & (albedo <= 1), found, jnp.nan)

    def albedo_of(self, reflectance: Float[Any, "endmember band"]) -> Float[Array, "endmember band"]:
        """Single-scattering albedo w of each endmember, the inverse of what `reflectance` does.

        In closed form where grains are isotropic, without opposition and porosity, and H is two-stream:
        γ = (1 − Γ) / (√((μ₀ + μ)²Γ² + (1 + 4μμ₀Γ)(1 − Γ)) + (μ₀ + μ)Γ). Otherwise by Newton's steps within a bracket.

        Args:
            reflectance: of each endmember, dimensionless.

        Returns:
            w, dimensionless; NaN where no w has this reflectance: below zero, or brighter than w = 1.
        """
        gamma, dark = self._gamma(jnp.asarray(reflectance))
        return (1 + gamma) * dark

    def cross_sections(self, abundances: Float[Any, " endmember"]) -> Float[Array, " endmember"]:
        """Shares of the cross-section: the abundances, or from shares of the mass, f_i ∝ c_i / (ρ_i d_i)."""
        abundances = jnp.asarray(abundances)
        if self.density is None:
            return abundances
        return _shared(abundances, 1 / self._size(abundances))

    def masses(self, cross_sections: Float[Any, " endmember"]) -> Float[Array, " endmember"]:
        """Shares of the mass, c_i ∝ f_i ρ_i d_i, where density and diameter are known; the inverse of the other.

        Raises:
            ValueError: no density and diameter.
        """
        if self.density is None:
            raise ValueError("shares of mass need density and diameter of the grains")
        cross_sections = jnp.asarray(cross_sections)
        return _shared(cross_sections, self._size(cross_sections))

    def _size(self, like: Array) -> Array:
        size = jnp.asarray(self.density, like.dtype) * jnp.asarray(self.diameter, like.dtype)
        return jnp.broadcast_to(size, like.shape)

    def _cosines(self) -> tuple[float, float]:
        return float(np.cos(np.deg2rad(self.incidence))), float(np.cos(np.deg2rad(self.emergence)))

    def _scattering(self, dtype: Any) -> Array:
        """[1 + B(g)] p(g) of each endmember, or one for all."""
        degrees = self.incidence + self.emergence if self.phase is None else self.phase
        cosine = float(np.cos(np.deg2rad(degrees)))
        b, c = (jnp.atleast_1d(jnp.asarray(value)) for value in (self.b, self.c))
        value = jnp.ones(1)
        if self.phase_function == "legendre":
            value = 1 + b * cosine + c * (1.5 * cosine**2 - 0.5)
        elif self.phase_function == "henyey-greenstein":
            back = (1 - b**2) / (1 - 2 * b * cosine + b**2) ** 1.5
            forward = (1 - b**2) / (1 + 2 * b * cosine + b**2) ** 1.5
            value = 0.5 * (1 + c) * back + 0.5 * (1 - c) * forward
        tangent = float(np.tan(np.deg2rad(0.5 * degrees)))
        return (value * (1 + self.opposition / (1 + tangent / self.opposition_width))).astype(dtype)

    def _crowding(self) -> Any:
        """K: how much more a surface scatters whose grains have little room between them."""
        if self.filling is None:
            return 1.0
        shadow = FILLING * jnp.asarray(self.filling) ** (2 / 3)
        return -jnp.log1p(-shadow) / shadow

    def _reflect(self, albedo: Any, gamma: Any, single: Any) -> Array:
        """From w, √(1 − w) and w [1 + B] p."""
        sun, sensor = self._cosines()
        crowding = self._crowding()

        def both(gamma: Any, crowding: Any) -> Array:
            return chandrasekhar(gamma, sun / crowding, function=self.h_function) * chandrasekhar(
                gamma, sensor / crowding, function=self.h_function
            )

        factor = crowding * (single + albedo * (both(gamma, crowding) - 1)) / (4 * (sun + sensor))
        if not self.standard:
            return factor
        white = jnp.zeros((), jnp.result_type(gamma))
        return factor * (4 * (sun + sensor) / both(white, 1.0))

    def _gamma(self, reflectance: Array) -> tuple[Array, Array]:
        """γ and 1 − γ of reflectances [endmember, band], NaN where there is none."""
        sun, sensor = self._cosines()
        standard = 1.0 if self.standard else (1 + 2 * sun) * (1 + 2 * sensor) / (4 * (sun + sensor))
        gamma, dark = _isotropic_gamma(reflectance / standard, sun, sensor)
        simple = isinstance(self.opposition, float) and self.opposition == 0 and self.filling is None
        if self.h_function == "two-stream" and self.phase_function == "isotropic" and simple:
            return gamma, dark

        scattering = self._scattering(reflectance.dtype)[:, None]

        def rendered(dark: Array) -> Array:
            albedo = dark * (2 - dark)
            return self._reflect(albedo, 1 - dark, albedo * scattering)

        def slope(dark: Array) -> tuple[Array, Array]:
            return jax.jvp(rendered, (dark,), (jnp.ones_like(dark),))

        def turn(_: Any, state: Any) -> Any:
            low, high, now = state
            value, steepness = slope(now)
            low, high = jnp.where(value < reflectance, now, low), jnp.where(value < reflectance, high, now)
            newton = now - (value - reflectance) / steepness
            return low, high, jnp.where((newton > low) & (newton < high), newton, 0.5 * (low + high))

        shape = jnp.broadcast_shapes(reflectance.shape, scattering.shape)
        zero, one = jnp.zeros(shape, reflectance.dtype), jnp.ones(shape, reflectance.dtype)
        possible = (reflectance >= 0) & (reflectance <= rendered(one) * _more(one))
        start = jnp.broadcast_to(jnp.where(jnp.isnan(dark), 0.5, dark), shape)
        found = jax.lax.stop_gradient(jax.lax.fori_loop(0, TURNS, turn, (zero, one, start))[2])
        value, steepness = slope(found)  # one more step carries the derivatives, in the reflectance and in the options
        found = found - (value - reflectance) / jax.lax.stop_gradient(steepness)
        found = jnp.where(possible, jnp.clip(found, 0.0, 1.0), jnp.nan)
        return 1 - found, found


def _isotropic_gamma(reflectance: Array, sun: float, sensor: float) -> tuple[Array, Array]:
    """γ and 1 − γ from reflectance relative to a standard, in closed form without differences of near numbers."""
    possible = (reflectance >= 0) & (reflectance <= _more(reflectance))
    gain = jnp.where(possible, jnp.minimum(reflectance, 1.0), 0.5)
    total, four = sun + sensor, 4 * sun * sensor
    root = jnp.sqrt((total * gain) ** 2 + (1 + four * gain) * (1 - gain))
    below = root + total * gain
    dark = gain * ((four - 1 + (total**2 - four) * gain) / (root + 1) + total + 1) / below
    return jnp.where(possible, (1 - gain) / below, jnp.nan), jnp.where(possible, dark, jnp.nan)


def _more(like: Array) -> float:
    """One, and what rounding may add to a reflectance."""
    return 1 + 16 * float(jnp.finfo(like.dtype).eps)


def _shared(values: Array, weights: Array) -> Array:
    """Values times weights, with the sum that the values have."""
    weighted = values * weights
    total = jnp.sum(weighted)
    return weighted * jnp.sum(values) / jnp.where(total > 0, total, 1.0)


def albedo_from_index(
    n: Float[Any, "*shape"],
    k: Float[Any, "*shape"],
    wavelength: Float[Any, "*shape"],
    diameter: float | Float[Any, "..."],
    *,
    scattering: float | Float[Any, "..."] = 0.0,
) -> Float[Array, "*shape"]:
    """Single-scattering albedo of a grain, from the optical constants of its mineral.

    w = S_e + (1 − S_e)(1 − S_i) Θ / (1 − S_i Θ), with α = 4πk/λ, S_e = ((n − 1)² + k²)/((n + 1)² + k²) + 0.05,
    S_i = 1.014 − 4/(n(n + 1)²), ⟨D⟩ = ⅔ (n² − (n² − 1)^1.5/n) d, r_i = (1 − √(α/(α + s)))/(1 + √(α/(α + s))) and
    Θ = (r_i + exp(−√(α(α + s))⟨D⟩)) / (1 + r_i exp(−√(α(α + s))⟨D⟩)).

    Args:
        n: refractive index, at least 1.
        k: extinction coefficient, not below zero.
        wavelength: λ, in the unit of the diameter; in cm it is 1 / wavenumber in cm⁻¹.
        diameter: d, much greater than the wavelength.
        scattering: s, of flaws inside the grain, per unit of the diameter.

    Returns:
        w, dimensionless; NaN where n is below 1 or k below zero, for which the equations do not hold.

    Reference:
        Hapke 1981, doi:10.1029/JB086iB04p03039; Hapke 2012, Theory of Reflectance and Emittance Spectroscopy, 2nd ed.
    """
    n, k, wavelength = jnp.asarray(n), jnp.asarray(k), jnp.asarray(wavelength)
    possible = (n >= 1) & (k >= 0)
    n, k = jnp.where(possible, n, 1.5), jnp.where(possible, k, 0.0)
    absorption = 4 * jnp.pi * k / wavelength
    outer = ((n - 1) ** 2 + k**2) / ((n + 1) ** 2 + k**2) + 0.05
    inner = 1.014 - 4 / (n * (n + 1) ** 2)
    path = (2 / 3) * (n**2 - (n**2 - 1) * safe_sqrt(n**2 - 1) / n) * diameter
    total = absorption + scattering
    share = jnp.where(total > 0, absorption / jnp.where(total > 0, total, 1.0), 1.0)
    ratio = safe_sqrt(share)
    returned = (1 - ratio) / (1 + ratio)
    through = jnp.exp(-safe_sqrt(absorption * total) * path)
    theta = (returned + through) / (1 + returned * through)
    return jnp.where(possible, outer + (1 - outer) * (1 - inner) * theta / (1 - inner * theta), jnp.nan)
