"""Intimate mixtures without angles: not reflectances add up, but what made them.

``y = φ⁻¹(Σ a_i φ(m_i))`` band by band, so that a pure pixel is its endmember. `KubelkaMunk` has layers of pigment,
`Shkuratov` grains in a row, `PowerMean` all between linear and Beer and Lambert and beyond. `physics.hapke` has angles.
"""

from abc import abstractmethod
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from unmix_jax.linalg import matmul, safe_sqrt

__all__ = ["KubelkaMunk", "PowerMean", "Shkuratov"]

SMALL = 1e-6  # least exponent; below it the mean is geometric to that accuracy


class _OfMean(eqx.Module):
    """A mean of something other than reflectance."""

    @abstractmethod
    def forward(self, spectra: Float[Any, "*shape"]) -> Float[Array, "*shape"]:
        """φ, what adds up."""

    @abstractmethod
    def back(self, mean: Float[Any, "*shape"]) -> Float[Array, "*shape"]:
        """φ⁻¹, the spectrum whose φ this is."""

    def __call__(
        self, abundances: Float[Any, " endmember"], endmembers: Float[Any, "endmember band"]
    ) -> Float[Array, " band"]:
        """Spectrum of a pixel, dimensionless; NaN where a reflectance is out of range."""
        return self.back(matmul(jnp.asarray(abundances), self.forward(jnp.asarray(endmembers))))


class KubelkaMunk(_OfMean):
    """A thick layer of pigments: absorption over scattering, φ(R) = K/S = (1 − R)² / 2R, adds up.

    Reflectances lie above 0 and not above 1.

    Reference:
        Kubelka 1948, doi:10.1364/JOSA.38.000448.
    """

    fitted: ClassVar[tuple[str, ...]] = ()

    def forward(self, spectra: Float[Any, "*shape"]) -> Float[Array, "*shape"]:
        """K/S."""
        spectra = jnp.asarray(spectra)
        possible = (spectra > 0) & (spectra <= 1)
        return jnp.where(possible, (1 - spectra) ** 2 / (2 * jnp.where(possible, spectra, 1.0)), jnp.nan)

    def back(self, mean: Float[Any, "*shape"]) -> Float[Array, "*shape"]:
        """R = 1 / (1 + F + √(F² + 2F))."""
        return _albedo(jnp.asarray(mean))


class PowerMean(_OfMean):
    """φ(R) = (R^q − 1)/q: linear for q = 1, Beer and Lambert's law for q → 0, a harmonic mean for q = −1.

    Abundances must sum to one. With q = 1/n it is the equation of Yule and Nielsen, in which n stands for how far light
    spreads below the surface. The smaller q, the more the dark material counts.

    Attributes:
        exponent: q, dimensionless.

    Reference:
        Yule and Nielsen 1951, TAGA Proceedings 3, 65; Viggiano 1985, TAGA Proceedings 37, 647, for whole spectra.
    """

    fitted: ClassVar[tuple[str, ...]] = ("exponent",)

    exponent: float | Float[Any, ""]

    def _exponent(self, like: Array) -> Array:
        """The exponent away from zero, where there is no inverse."""
        exponent = jnp.asarray(self.exponent, jnp.result_type(like, 1.0))
        return jnp.where(jnp.abs(exponent) < SMALL, jnp.where(exponent < 0, -SMALL, SMALL), exponent)

    def forward(self, spectra: Float[Any, "*shape"]) -> Float[Array, "*shape"]:
        """(R^q − 1)/q."""
        spectra = jnp.asarray(spectra)
        exponent = self._exponent(spectra)
        return jnp.expm1(exponent * _logarithm(spectra)) / exponent

    def back(self, mean: Float[Any, "*shape"]) -> Float[Array, "*shape"]:
        """R of it."""
        mean = jnp.asarray(mean)
        exponent = self._exponent(mean)
        inside = exponent * mean
        return jnp.where(inside > -1, jnp.exp(jnp.log1p(jnp.where(inside > -1, inside, 0.0)) / exponent), jnp.nan)

    def limits(self, endmembers: Float[Any, "endmember band"]) -> tuple["PowerMean", "PowerMean"]:
        """An exponent from −1 to 1."""
        like = jnp.asarray(self.exponent, jnp.result_type(self.exponent, 1.0))
        return PowerMean(jnp.full_like(like, -1.0)), PowerMean(jnp.full_like(like, 1.0))


class Shkuratov(eqx.Module):
    """Grains in a row, each of which sends light back and on: ρ_b and ρ_f, shares of either, add up.

    A grain of refractive index n reflects at its faces and absorbs e^−τ on the way through; with the share q of the
    volume that is grains, ρ_b = q r_b and ρ_f = q r_f + 1 − q, where r_b = R_b + h, r_f = R_f + T_e T_i e^−τ + h and
    h = ½ T_e T_i R_i e^−2τ / (1 − R_i e^−τ). The albedo A of the row has (1 − A)²/A = ((1 − ρ_b)² − ρ_f²)/ρ_b. The τ
    of an endmember follows from its A. Abundances are shares of the volume. The index is known, unless a solver is told
    ``fit=("index",)``.

    Attributes:
        index: n, one or one of each endmember.
        filling: q, above 0 and not above 1.

    Raises:
        ValueError: a refractive index below 1.3, for which the equations of the faces do not hold, or q out of range.

    Reference:
        Shkuratov, Starukhina, Hoffmann and Arnold 1999, doi:10.1006/icar.1998.6035.
    """

    fitted: ClassVar[tuple[str, ...]] = ()

    index: float | Float[Any, ""] | Float[Any, " endmember"] = 1.6
    filling: float = eqx.field(static=True, default=0.8)

    def __check_init__(self) -> None:
        if isinstance(self.index, float) and self.index < 1.3:
            raise ValueError(f"the refractive index of a grain is at least 1.3 here, got {self.index}")
        if not 0 < self.filling <= 1:
            raise ValueError(f"filling is a share of the volume above 0 and not above 1, got {self.filling}")

    def __call__(
        self, abundances: Float[Any, " endmember"], endmembers: Float[Any, "endmember band"]
    ) -> Float[Array, " band"]:
        """Spectrum of a pixel, dimensionless; NaN where an endmember is darker than the faces of its grains."""
        return self.mix(abundances, self.absorbed(endmembers))

    def absorbed(self, reflectance: Float[Any, "endmember band"]) -> Float[Array, "endmember band"]:
        """What of the light is lost in a grain of each endmember, 1 − e^−τ, from the reflectance."""
        reflectance = jnp.asarray(reflectance)
        back, ahead, enter, inner = self._faces(reflectance.dtype)
        y = KubelkaMunk().forward(reflectance)
        first, second = 2 - self.filling + self.filling * (ahead - back), self.filling * enter * (1 - inner)
        a = enter * (second + y * (1 - inner) * inner)
        b = enter * (first + second) + 2 * y * inner * (enter * (1 - inner) - back)
        c = y * (1 - inner) * (enter * inner + 2 * back)
        found = 2 * c / (b + safe_sqrt(b * b - 4 * a * c))
        return jnp.where(found <= 1 + 8 * jnp.finfo(found.dtype).eps, jnp.minimum(found, 1.0), jnp.nan)

    def mix(
        self, abundances: Float[Any, " endmember"], absorbed: Float[Any, "endmember band"]
    ) -> Float[Array, " band"]:
        """Reflectance of a mixture of grains of which it is known what light is lost in them.

        Args:
            abundances: shares of the volume.
            absorbed: 1 − e^−τ of each endmember, between 0 and 1.

        Returns:
            Reflectance, dimensionless.
        """
        absorbed, abundances = jnp.asarray(absorbed), jnp.asarray(abundances)
        back, ahead, enter, inner = self._faces(absorbed.dtype)
        passed = 1 - absorbed
        through = enter * (1 - inner) * passed
        inside = 0.5 * through * inner * passed / (1 - inner * passed)
        lost = self.filling * enter * absorbed / (1 - inner * passed)  # 1 − ρ_b − ρ_f
        turned = self.filling * (back + inside)
        apart = 2 - self.filling + self.filling * (ahead - back + through)  # 1 − ρ_b + ρ_f
        lost, turned, apart = (matmul(abundances, one) for one in (lost, turned, apart))
        return _albedo(lost * apart / (2 * turned))

    def _faces(self, dtype: Any) -> tuple[Array, ...]:
        """Of light from outside: reflected back and ahead, and not reflected; of light inside: reflected."""
        n = jnp.atleast_1d(jnp.asarray(self.index, dtype))[:, None]
        outer = ((n - 1) / (n + 1)) ** 2 + 0.05
        back = (0.28 * n - 0.20) * outer
        return back, outer - back, 1 - outer, 1.04 - 1 / n**2


def _albedo(y: Array) -> Array:
    """A of (1 − A)²/2A = y."""
    return 1 / (1 + y + safe_sqrt(y * (y + 2)))


def _logarithm(values: Any) -> Array:
    """Of positive values, NaN elsewhere, with derivatives that know it."""
    values = jnp.asarray(values)
    possible = values > 0
    return jnp.where(possible, jnp.log(jnp.where(possible, values, 1.0)), jnp.nan)
