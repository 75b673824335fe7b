"""Materials that are distributions of spectra: fitted from the bundle of spectra that a library has of each.

`Normal` is Gaussian with a few modes and an even rest, `Beta` has independent bands between 0 and 1. Both are fitted in
NumPy and float64, once.
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float

from unmix_jax.scenes.scene import SpectralLibrary

__all__ = ["Beta", "Normal", "beta_from_moments", "bundles_of", "fit_beta", "fit_normal"]

LEAST = 1e-10  # variance of a band of a Beta: a material that does not vary is no distribution


class Normal(eqx.Module):
    """Endmembers that are normally distributed: mean m_i and covariance C_i = F_iᵀF_i + ρ_i 1.

    Attributes:
        mean: of each endmember.
        modes: rows of F_i, in the unit of the spectra; zero rows where an endmember has fewer.
        rest: variance ρ_i that every band has besides, in their squared unit.
        names: of the endmembers.
    """

    mean: Float[Any, "endmember band"]
    modes: Float[Any, "endmember mode band"]
    rest: Float[Any, " endmember"]
    names: tuple[str, ...] = eqx.field(static=True, default=())

    @classmethod
    def isotropic(cls, mean: Float[Any, "endmember band"], spread: float | Float[Any, "..."]) -> "Normal":
        """All bands vary alike and independently: C_i = s_i² 1, with one standard deviation or one per endmember."""
        mean = np.asarray(mean)
        rest = np.square(np.broadcast_to(np.asarray(spread, mean.dtype), len(mean)))
        return cls(mean, np.zeros((len(mean), 0, mean.shape[1]), mean.dtype), rest)


class Beta(eqx.Module):
    """Endmembers whose bands are independent and beta distributed, between 0 and 1.

    Attributes:
        alpha: first shape parameter.
        beta: second shape parameter.
        names: of the endmembers.
    """

    alpha: Float[Any, "endmember band"]
    beta: Float[Any, "endmember band"]
    names: tuple[str, ...] = eqx.field(static=True, default=())

    @property
    def mean(self) -> Float[Any, "endmember band"]:
        """μ = α / (α + β)."""
        return self.alpha / (self.alpha + self.beta)

    @property
    def variance(self) -> Float[Any, "endmember band"]:
        """αβ / ((α + β)² (α + β + 1)), as μ(1 − μ) / (α + β + 1)."""
        return self.mean * (1 - self.mean) / (self.alpha + self.beta + 1)


def fit_normal(
    library: SpectralLibrary | Float[Any, "member band"],
    classes: Sequence[str] | None = None,
    *,
    good_bands: Bool[Any, " band"] | None = None,
    modes: int = 10,
) -> Normal:
    """Mean and covariance of each class of a library.

    The modes are the leading principal components of the class. Its rest is what the spectra of the class leave when
    each is predicted by the mean and the modes of the others, spread over the bands: so much will a spectrum that is
    not in the library differ from those that are. Variances are those of a new spectrum, (1 + 1/n) times the sample's.

    Args:
        library: spectra, and their classes.
        classes: class of each member; None: those of the library.
        good_bands: bands that count; None: those of the library, or all.
        modes: how many of a class are kept, at most two less than it has spectra (one, of two or three).

    Returns:
        A `Normal`, endmembers in the order in which their classes first occur.

    Raises:
        ValueError: no classes, a class with one spectrum (nothing tells how it varies: `Normal.isotropic`, or spectra
            drawn from a model, say so from elsewhere), values that are not finite in bands that count.

    Reference:
        Tipping and Bishop 1999, 10.1111/1467-9868.00196, for modes and an even rest.
    """
    names, bundles, good = bundles_of(library, classes, good_bands, spread=True)
    if modes < 0:
        raise ValueError(f"modes must not be negative, got {modes}")
    means, kept, rests = [], np.zeros((len(names), modes, good.size)), []
    for i, spectra in enumerate(bundles):
        count = len(spectra)
        own = min(modes, max(count - 2, 1), int(good.sum()))
        inflated = (1 + 1 / count) / (count - 1)
        center = spectra.mean(0)
        _, singular, right = np.linalg.svd(spectra - center, full_matrices=False)
        rest = _left_out(spectra[:, good], min(own, count - 2))
        variance = np.maximum(singular[:own] ** 2 * inflated - rest, 0)
        kept[i, :own] = np.sqrt(variance)[:, None] * right[:own]
        means.append(center)
        rests.append(rest)
    return Normal(np.stack(means), kept[:, : max(1, min(modes, max(map(len, bundles)) - 2))], np.asarray(rests), names)


def _left_out(spectra: np.ndarray, modes: int) -> float:
    """Variance of a band that mean and modes of the other spectra of a class leave of each."""
    total = 0.0
    for i, spectrum in enumerate(spectra):
        others = np.delete(spectra, i, 0)
        center = others.mean(0)
        error = spectrum - center
        if modes > 0:
            right = np.linalg.svd(others - center, full_matrices=False)[2][:modes]
            error = error - (error @ right.T) @ right
        total += error @ error
    return float(total / len(spectra) / max(spectra.shape[1] - modes, 1))


def fit_beta(
    library: SpectralLibrary | Float[Any, "member band"],
    classes: Sequence[str] | None = None,
    *,
    good_bands: Bool[Any, " band"] | None = None,
) -> Beta:
    """A Beta distribution for each class and band of a library, by its mean and variance.

    Args:
        library: spectra, and their classes.
        classes: class of each member; None: those of the library.
        good_bands: bands that count; None: those of the library, or all.

    Returns:
        A `Beta`, endmembers in the order in which their classes first occur.

    Raises:
        ValueError: no classes, a class with one spectrum (nothing tells how it varies: `beta_from_moments` takes it
            from elsewhere), a mean that is not between 0 and 1, values that are not finite in bands that count.

    Reference:
        Du, Zare, Gader and Dranishnikov 2014, 10.1109/JSTARS.2014.2330347.
    """
    names, bundles, good = bundles_of(library, classes, good_bands, spread=True)
    means = np.stack([spectra.mean(0) for spectra in bundles])
    variances = np.stack([spectra.var(0, ddof=1) * (1 + 1 / len(spectra)) for spectra in bundles])
    return beta_from_moments(means, variances, good_bands=good, names=names)


def beta_from_moments(
    mean: Float[Any, "endmember band"],
    variance: Float[Any, "endmember band"] | float,
    *,
    good_bands: Bool[Any, " band"] | None = None,
    names: Sequence[str] = (),
) -> Beta:
    """The Beta distributions of a mean and a variance: α = μφ, β = (1 − μ)φ with φ = μ(1 − μ)/v − 1.

    Args:
        mean: of each endmember and band, between 0 and 1.
        variance: likewise, dimensionless; a variance of μ(1 − μ)/2 or more is that.
        good_bands: bands that count.
        names: of the endmembers.

    Returns:
        A `Beta`; in bands that do not count it is uniform.

    Raises:
        ValueError: a mean that is not between 0 and 1 in a band that counts, or a variance that is negative.
    """
    mean = np.asarray(mean, float)
    variance = np.broadcast_to(np.asarray(variance, float), mean.shape)
    good = np.ones(mean.shape[1], bool) if good_bands is None else np.asarray(good_bands, bool)
    wrong = good & ~((mean > 0) & (mean < 1))
    if wrong.any():
        i, band = np.argwhere(wrong)[0]
        raise ValueError(
            f"the mean of {names[i] if names else f'endmember {i}'} in band {band} is {mean[i, band]:.4g}; a Beta "
            "distribution lies between 0 and 1: scale the spectra or leave the band out (good_bands)"
        )
    if (variance[:, good] < 0).any():
        raise ValueError("a variance must not be negative")
    mean = np.where(good, mean, 0.5)
    most = mean * (1 - mean)
    total = most / np.clip(np.where(good, variance, most / 3), LEAST, most / 2) - 1
    return Beta(mean * total, (1 - mean) * total, tuple(names))


def bundles_of(
    library: Any, classes: Sequence[str] | None, good_bands: Any, *, spread: bool
) -> tuple[tuple[str, ...], list[np.ndarray], np.ndarray]:
    """Class names, the spectra of each class in float64 (zero in bands that do not count), and the bands that do.

    Args:
        library: spectra as rows, or a `SpectralLibrary`.
        classes: class of each member; None: those of the library.
        good_bands: bands that count; None: those of the library, or all.
        spread: whether a class of one spectrum is an error.

    Raises:
        ValueError: see `fit_normal`.
    """
    if isinstance(library, SpectralLibrary):
        classes = (library.classes or None) if classes is None else classes
        good_bands = library.good_bands if good_bands is None else good_bands
        library = library.spectra
    if classes is None:
        raise ValueError("the library names no classes: say the class of each spectrum")
    spectra = np.asarray(library, float)
    if spectra.ndim != 2 or 0 in spectra.shape:
        raise ValueError(f"spectra must be [member, band] and not empty, got {spectra.shape}")
    classes = [str(name) for name in classes]
    if len(classes) != len(spectra):
        raise ValueError(f"{len(classes)} classes for {len(spectra)} spectra")
    good = np.ones(spectra.shape[1], bool) if good_bands is None else np.asarray(good_bands, bool)
    if good.shape != (spectra.shape[1],):
        raise ValueError(f"good_bands has shape {good.shape}, the spectra {spectra.shape[1]} bands")
    if not good.any():
        raise ValueError("good_bands leaves no band to look at")
    spectra = np.where(good, spectra, 0.0)
    if not np.isfinite(spectra).all():
        member = int(np.argwhere(~np.isfinite(spectra))[0, 0])
        raise ValueError(f"spectrum {member} ({classes[member]}) is not finite in a band that counts")
    names = tuple(dict.fromkeys(classes))
    bundles = [spectra[[c == name for c in classes]] for name in names]
    alone = [name for name, rows in zip(names, bundles, strict=True) if len(rows) < 2]
    if spread and alone:
        raise ValueError(
            f"class {alone[0]!r} has one spectrum, which does not tell how it varies: take the spread from elsewhere "
            "(Normal.isotropic, beta_from_moments, or spectra drawn from a model), or leave the class out"
        )
    return names, bundles, good
