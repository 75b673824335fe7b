"""What the compositional models need to know of the distributions of endmembers, computed once."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from unmix_jax.solvers.compositional_views import Moments, Reduced
from unmix_jax.solvers.distributions import Beta, Normal
from unmix_jax.solvers.tables import Prepared, prepare_for

__all__ = ["PreparedCompositional", "prepare_bcm", "prepare_ncm"]

SINGULAR = 1e-12  # of the greatest singular value, below which a direction is none


class PreparedCompositional(eqx.Module):
    """Distributions of endmembers with all that does not depend on the pixel.

    Attributes:
        mean: of each endmember, zero in bands that do not count.
        library: the means, prepared for least squares.
        good: bands that count; None: all.
        view: how the likelihood is evaluated.
    """

    mean: Float[Array, "endmember band"]
    library: Prepared
    good: Bool[Array, " band"] | None
    view: Reduced | Moments

    @property
    def count(self) -> int:
        """Number of endmembers."""
        return self.mean.shape[0]


def prepare_ncm(
    endmembers: Normal, *, noise: float | Float[Any, " band"] = 0.0, good_bands: Bool[Any, " band"] | None = None
) -> PreparedCompositional:
    """Do once what `ncm` with these endmembers needs for every pixel.

    Args:
        endmembers: distributions, from `fit_normal` or `Normal.isotropic`.
        noise: standard deviation of the sensor's noise, of all bands or of each, in the unit of the spectra; the rest
            of an endmember is spread over the bands as its variance is. Zero: none.
        good_bands: bands that count; whatever the others hold is not looked at.

    Returns:
        A `PreparedCompositional` pytree.

    Raises:
        ValueError: shapes that disagree, values that are not finite, no good band, noise that is negative; a covariance
            that is singular: neither noise nor a rest.
    """
    mean, modes, rest = (np.asarray(x, float) for x in (endmembers.mean, endmembers.modes, endmembers.rest))
    count, bands = _shape(mean)
    if modes.ndim != 3 or (modes.shape[0], modes.shape[2]) != (count, bands) or rest.shape != (count,):
        raise ValueError(f"modes have shape {modes.shape} and rest {rest.shape}, the means {mean.shape}")
    good, noise = _good(good_bands, bands), _noise(noise, bands)
    mean, modes = np.where(good, mean, 0.0), np.where(good, modes, 0.0)
    if not all(np.isfinite(x).all() for x in (mean, modes, rest)) or (rest < 0).any():
        raise ValueError("means and modes must be finite in bands that count, rests finite and not negative")
    loud = bool((noise[good] > 0).any())
    if loud and not (noise[good] > 0).all():
        raise ValueError("noise must be above zero in every band that counts, or zero in all")
    if not loud and not (rest > 0).all():
        raise ValueError(
            "the covariance is singular: without noise, every endmember needs a rest above zero; give the noise"
        )
    root = np.where(good, 1 / np.where(noise > 0, noise, 1.0), 0.0)
    used = good.sum()
    even = rest * (used / (noise[good] ** 2).sum() if loud else 1.0)

    white, bent = mean * root, modes * root
    center = white.mean(0)
    # modes first, in the order of their variance: a covariance that is graded loses nothing by rounding
    basis = _span(bent.reshape(-1, bands))
    # of means that the modes span (brightness that varies), rounding alone is left, which points anywhere
    apart = white - center
    size = float(np.linalg.norm(apart, 2))
    for _ in range(2):
        apart = apart - apart @ basis.T @ basis
    basis = np.concatenate([basis, _span(apart, size)])
    if not len(basis):  # one endmember without modes: any direction serves
        basis = np.eye(bands)[[np.flatnonzero(good)[0]]]
    dtype = _dtype(endmembers.mean)
    view = Reduced(
        basis=jnp.asarray(basis, dtype),
        root=jnp.asarray(root, dtype),
        center=jnp.asarray(center, dtype),
        mean=jnp.asarray((white - center) @ basis.T, dtype),
        modes=jnp.asarray(bent @ basis.T, dtype),
        rest=jnp.asarray(even, dtype),
        floor=jnp.asarray(float(loud), dtype),
        bands=jnp.asarray(float(used), dtype),
        log_scale=jnp.asarray(0.5 * used * np.log(2 * np.pi) - np.log(root[good]).sum(), dtype),
    )
    return _prepared(mean, good, dtype, view, root)


def prepare_bcm(
    endmembers: Beta, *, noise: float | Float[Any, " band"] = 0.0, good_bands: Bool[Any, " band"] | None = None
) -> PreparedCompositional:
    """Do once what `bcm` with these endmembers needs for every pixel.

    Args:
        endmembers: distributions, from `fit_beta` or `beta_from_moments`.
        noise: standard deviation of the sensor's noise, of all bands or of each, dimensionless. Zero: none.
        good_bands: bands that count; whatever the others hold is not looked at.

    Returns:
        A `PreparedCompositional` pytree.

    Raises:
        ValueError: shapes that disagree, parameters that are not above zero, no good band, noise that is negative.
    """
    alpha, beta = np.asarray(endmembers.alpha, float), np.asarray(endmembers.beta, float)
    _, bands = _shape(alpha)
    if beta.shape != alpha.shape or not (np.isfinite(alpha + beta).all() and min(alpha.min(), beta.min()) > 0):
        raise ValueError("alpha and beta must be of one shape, finite and above zero")
    good, noise = _good(good_bands, bands), _noise(noise, bands)
    mean, variance = np.where(good, endmembers.mean, 0.0), np.where(good, endmembers.variance, 0.0)
    dtype = _dtype(endmembers.alpha)
    pairs = [(i, j) for i in range(len(mean)) for j in range(i, len(mean))]
    view = Moments(
        mean=jnp.asarray(mean, dtype),
        variance=jnp.asarray(variance, dtype),
        mean_products=jnp.asarray([mean[i] * mean[j] for i, j in pairs], dtype),
        variance_products=jnp.asarray([variance[i] * variance[j] for i, j in pairs], dtype),
        noise=jnp.asarray(np.where(good, noise**2, 1.0), dtype),
        good=jnp.asarray(good),
        linear=jnp.zeros((), bool),
    )
    return _prepared(mean, good, dtype, view, None)


def _prepared(mean: np.ndarray, good: np.ndarray, dtype: Any, view: Any, root: Any) -> PreparedCompositional:
    """What both models share."""
    weights = good if root is None else root**2
    library = prepare_for(("simplex",), mean.astype(dtype), weights)
    kept = None if good.all() else jnp.asarray(good)
    return PreparedCompositional(jnp.asarray(mean, dtype), library, kept, view)


def _span(rows: np.ndarray, size: float = 0.0) -> np.ndarray:
    """Orthonormal rows that span these, in the order of their singular values; beside `size`, what is small is none."""
    if not len(rows):
        return rows
    _, singular, right = np.linalg.svd(rows, full_matrices=False)
    return right[singular > SINGULAR * max(singular[0], size, np.finfo(float).tiny)]


def _dtype(values: Any) -> Any:
    """The precision that jax gives these numbers."""
    dtype = jax.dtypes.canonicalize_dtype(getattr(values, "dtype", float))
    return dtype if jnp.issubdtype(dtype, jnp.floating) else jax.dtypes.canonicalize_dtype(float)


def _shape(mean: np.ndarray) -> tuple[int, int]:
    if mean.ndim != 2 or 0 in mean.shape:
        raise ValueError(f"distributions must be [endmember, band] and not empty, got {mean.shape}")
    return mean.shape[0], mean.shape[1]


def _good(good_bands: Any, bands: int) -> np.ndarray:
    good = np.ones(bands, bool) if good_bands is None else np.asarray(good_bands, bool)
    if good.shape != (bands,):
        raise ValueError(f"good_bands has shape {good.shape}, the endmembers {bands} bands")
    if not good.any():
        raise ValueError("good_bands leaves no band to look at")
    return good


def _noise(noise: Any, bands: int) -> np.ndarray:
    noise = np.asarray(noise, float)
    if noise.shape not in ((), (bands,)):
        raise ValueError(f"noise is one number or one for each of {bands} bands, got shape {noise.shape}")
    if not (np.isfinite(noise).all() and (noise >= 0).all()):
        raise ValueError("noise is a standard deviation: finite and not negative")
    return np.broadcast_to(noise, (bands,))
