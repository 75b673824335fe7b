"""How noisy is the scene, and how many endmembers does it hold?

Host-level analyses of a whole scene. All of them need only the mean and the second moments of the pixels, so one pass
over the data accumulates those in float64, block by block, and the rest is algebra on [band, band] matrices. The answer
is therefore the float64 answer, whatever the dtype of the data; results come back in that.

Pixels may be an array [pixel, band] or [row, column, band], or a `Scene`. Pixels that are NaN, no-data (the value of
the scene; -9999 with a warning where nothing is said), all zero or masked are left out, and so are its bad bands.
"""

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.special import chdtri

from unmix_jax.endmembers.moments import Moments, ValidPixels
from unmix_jax.linalg import matmul

__all__ = ["Counts", "Noise", "Subspace", "count_endmembers", "estimate_noise", "hfc", "hysime", "nwhfc"]

RIDGE = 1e-13  # of the mean band power: far below any sensor's noise, above the rounding of the Gram matrix
# Law of the largest eigenvalue of noise (Tracy and Widom, real data): it exceeds this in one of a thousand scenes.
LARGEST = 3.27


class Noise(eqx.Module):
    """Additive noise of each band, uncorrelated between bands.

    Attributes:
        std: standard deviation, in the unit of the pixels; NaN in the bad bands of a scene.
        snr: signal-to-noise ratio of the scene, dB: power of the estimated signal over that of the noise.
    """

    std: Float[Array, " band"]
    snr: Float[Array, ""]


class Subspace(eqx.Module):
    """The signal subspace that HySime identifies.

    Attributes:
        count: dimension of the subspace: the number of endmembers.
        basis: orthonormal rows that span it, the most useful first; NaN in the bad bands of a scene.
        cost: change of the mean squared error by each eigenvector, ascending, in the squared unit of the
            pixels; the negative ones are in the basis. Of few pixels, noise weighs more in it (see `hysime`).
        noise: the noise estimate it rests on.
    """

    count: int
    basis: Float[Array, "component band"]
    cost: Float[Array, " good_band"]
    noise: Noise

    def project(self, pixels: Float[Any, "*pixel _"]) -> Float[Array, "*pixel band"]:
        """The pixels without what lies outside the subspace, y BᵀB: all of the noise but ``count`` of its directions.

        Args:
            pixels: spectra [..., band], any unit; what they hold in the bad bands of the scene is not looked at.

        Returns:
            The same spectra, in the same unit, NaN in the bad bands.

        Raises:
            ValueError: another number of bands than that of the scene.
        """
        if jnp.shape(pixels)[-1] != self.basis.shape[1]:
            raise ValueError(f"the subspace has {self.basis.shape[1]} bands, the spectra have {jnp.shape(pixels)[-1]}")
        basis = jnp.where(good := jnp.isfinite(self.basis).all(0), self.basis, 0.0)
        projected = matmul(matmul(jnp.where(good, pixels, 0.0), basis.T), basis)
        return jnp.where(good, projected, jnp.nan)

    def angles(self, spectra: Float[Any, "spectrum _"]) -> Float[Array, " spectrum"]:
        """Angle of each spectrum to the subspace, over the good bands; true endmembers have the smallest.

        Args:
            spectra: a library [spectrum, band], any unit.

        Returns:
            Angles, radians, between 0 and π/2; 0 for a spectrum of zeros. Other bands than the scene's: a ValueError.

        Reference: Iordache et al. 2014, 10.1109/TGRS.2013.2281589 (a library cut down to the spectra of least angle).
        """
        inside = self.project(spectra)
        parts = (jnp.where(jnp.isfinite(inside), part, 0.0) for part in (spectra - inside, inside))
        return jnp.arctan2(*(jnp.linalg.norm(part, axis=1) for part in parts))


class Counts(NamedTuple):
    """How many endmembers three estimators see; None where there are too few pixels for one.

    Attributes:
        hysime: by minimum error.
        hfc: virtual dimensionality.
        nwhfc: virtual dimensionality after whitening the noise.
    """

    hysime: int | None
    hfc: int
    nwhfc: int | None

    @property
    def smallest(self) -> int:
        """The least of them, but at least 2: what is taken where nobody says better.

        Noise that is correlated between bands counts as signal and inflates all three (HySime most), while
        endmembers that nothing needs make the fit no better and the abundances worse.
        """
        return max(2, min(count for count in self if count is not None))


def eigenvectors(
    symmetric: Float[np.ndarray, "band band"],
) -> tuple[Float[np.ndarray, " band"], Float[np.ndarray, "band band"]]:
    """Eigenvalues, descending, and eigenvectors as rows whose largest component is positive."""
    values, columns = np.linalg.eigh(symmetric)
    rows = columns.T[::-1]
    peak = np.argmax(np.abs(rows), axis=1)
    return np.maximum(values[::-1], 0.0), rows * np.sign(rows[np.arange(len(rows)), peak])[:, None]


def _regress(moments: Moments) -> Float[np.ndarray, "band band"]:
    """The matrix that takes pixels [pixel, band] to their regression residuals: R⁻¹ diag(R⁻¹)⁻¹."""
    power = np.diag(moments.second).copy()
    live = power > 0
    # A correlation matrix: bands of very different power (and the ridge) are then treated alike.
    scale = np.where(live, 1 / np.sqrt(np.where(live, power, 1.0)), 0.0)
    correlation = moments.second * np.outer(scale, scale) + np.diag(RIDGE + ~live)
    inverse = np.linalg.inv(correlation)
    to_residual = inverse / np.diag(inverse)
    return scale[:, None] * to_residual * np.where(live, 1 / np.where(live, scale, 1.0), 0.0)


def _noise_variance(moments: Moments, to_residual: Float[np.ndarray, "band band"]) -> Float[np.ndarray, " band"]:
    """Squares of the regression residuals of each band over the pixels that the regression leaves free."""
    mean_square = np.maximum(np.einsum("bi,bc,ci->i", to_residual, moments.second, to_residual, optimize=True), 0.0)
    others = int(np.sum(np.diag(moments.second) > 0)) - 1  # bands of zeros explain nothing
    return mean_square * (moments.pixels / (moments.pixels - max(others, 0)))


def _noise_reach(pixels: int, bands: int) -> float:
    """The largest eigenvalue that second moments of white noise may have, in units of its estimated variance.

    ((√(N−1) + √B)² + t (√(N−1) + √B) (1/√(N−1) + 1/√B)^⅓) / N over c / ν: only one estimate of a hundred with
    ν = N − B + 1 degrees of freedom is lower than c / ν of the true variance, c of the chi-squared distribution.
    """
    one, other = np.sqrt(pixels - 1), np.sqrt(bands)
    spread = (one + other) * (1 / one + 1 / other) ** (1 / 3)
    free = pixels - bands + 1
    return float(((one + other) ** 2 + LARGEST * spread) / pixels / (chdtri(free, 0.99) / free))


def _require_pixels(moments: Moments) -> None:
    """A regression on the other bands needs more pixels than bands."""
    bands = len(moments.mean)
    if moments.pixels <= bands:
        raise ValueError(
            f"noise estimation needs more valid pixels than bands, got {moments.pixels} pixels of {bands} bands"
        )
    if bands < 2:
        raise ValueError("noise estimation regresses each band on the others and needs at least 2 bands")


def _noise_of(data: ValidPixels, moments: Moments) -> tuple[Noise, np.ndarray, np.ndarray]:
    """Noise, its variance per good band, and the second moments of the estimated signal."""
    _require_pixels(moments)
    to_residual = _regress(moments)
    variance = _noise_variance(moments, to_residual)
    to_signal = np.eye(len(variance)) - to_residual
    signal = to_signal.T @ moments.second @ to_signal
    power = np.trace(moments.second) - variance.sum()  # the regression gives a part of the noise to the signal
    with np.errstate(divide="ignore"):
        snr = 10 * np.log10(power / variance.sum()) if power > 0 else -np.inf
    return Noise(data.on_all_bands(np.sqrt(variance)), data.like_data(snr)), variance, signal


def estimate_noise(pixels: Any) -> Noise:
    r"""Noise of each band by multiple regression on all other bands.

    With R = YᵀY the residuals of all regressions at once are W = Y R⁻¹ diag(R⁻¹)⁻¹; the noise variance is
    the sum of W² over pixels divided by N − B + 1: a regression on B − 1 bands makes the residuals of N pixels smaller.
    The paper divides by N.

    Args:
        pixels: spectra, any unit; an array or a `Scene`.

    Returns:
        Standard deviation per band and the signal-to-noise ratio.

    Raises:
        ValueError: no valid pixel, or not more valid pixels than bands.

    Reference:
        Bioucas-Dias & Nascimento 2008, 10.1109/TGRS.2008.918089.
    """
    data = ValidPixels(pixels)
    return _noise_of(data, data.moments())[0]


def hysime(pixels: Any) -> Subspace:
    r"""Signal subspace and number of endmembers by minimum error (HySime).

    Among the eigenvectors e of the signal's second moments, keep those with -eᵀ R_y e + f eᵀ R_n e < 0. In the paper f
    is 2: what they carry exceeds twice the noise that they admit. In N pixels of B bands noise alone has eigenvalues up
    to (1 + √(B/N))² times its variance, which itself is known from N − B + 1 degrees of freedom: f is the greater of 2
    and of what noise exceeds in one of a thousand scenes. It is 2 where pixels are some twenty times as many.

    Args:
        pixels: spectra, any unit; an array or a `Scene`.

    Returns:
        The count, an orthonormal basis, the cost of each eigenvector, and the noise.

    Raises:
        ValueError: no valid pixel, or not more valid pixels than bands.

    Reference:
        Bioucas-Dias & Nascimento 2008, 10.1109/TGRS.2008.918089; Johnstone 2001, 10.1214/aos/1009210544 (the largest
        eigenvalue of noise).
    """
    data = ValidPixels(pixels)
    return _hysime(data, data.moments())


def _hysime(data: ValidPixels, moments: Moments) -> Subspace:
    """HySime from the moments."""
    noise, variance, signal = _noise_of(data, moments)
    _, vectors = eigenvectors(signal)
    variance = variance + np.trace(signal) / len(variance) * 1e-5  # the authors' floor: 50 dB below the signal
    power = np.einsum("kb,bc,kc->k", vectors, moments.second, vectors, optimize=True)
    cost = max(2.0, _noise_reach(moments.pixels, len(variance))) * vectors**2 @ variance - power
    order = np.argsort(cost, kind="stable")
    count = int(np.sum(cost < 0))
    return Subspace(count, data.on_all_bands(vectors[order[:count]]), data.like_data(cost[order]), noise)


def _neyman_pearson(moments: Moments, false_alarm: float | Sequence[float]) -> Int[np.ndarray, "*rate"]:
    """Eigenvalues of the correlation that exceed those of the covariance, at each false-alarm rate."""
    rates = np.asarray(false_alarm, dtype=np.float64)
    if not ((rates > 0) & (rates < 1)).all():
        raise ValueError(f"false_alarm is a probability between 0 and 1, got {false_alarm}")
    correlation = np.linalg.eigvalsh(moments.second)[::-1]
    covariance = np.linalg.eigvalsh(moments.covariance)[::-1]
    sigma = np.sqrt(2 / moments.pixels * (correlation**2 + covariance**2))
    # Where the data have no noise, small eigenvalues are the rounding of large ones and differ at random.
    rounding = 1e-15 * len(correlation) * np.trace(moments.second)
    quantiles = np.reshape([-NormalDist().inv_cdf(rate) for rate in rates.ravel()], rates.shape)
    exceeds = correlation - covariance > np.maximum(quantiles[..., None] * sigma, rounding)
    return np.asarray(exceeds.sum(axis=-1), dtype=np.int64)


def hfc(pixels: Any, *, false_alarm: float | Sequence[float] = 1e-3) -> Int[np.ndarray, "*rate"]:
    r"""Virtual dimensionality of Harsanyi, Farrand and Chang.

    Counts the l where λ̂_l - λ_l > Φ⁻¹(1 - P_F) σ_l, σ_l² = 2 (λ̂_l² + λ_l²) / N, for the sorted
    eigenvalues λ̂ of the correlation matrix (uncentred) and λ of the covariance matrix.

    Args:
        pixels: spectra, any unit; an array or a `Scene`.
        false_alarm: probability P_F of a false alarm, or several of them.

    Returns:
        The number of spectrally distinct signals, one per rate.

    Raises:
        ValueError: no valid pixel, or a rate that is not a probability.

    Reference:
        Chang & Du 2004, 10.1109/TGRS.2003.819189.
    """
    return _neyman_pearson(ValidPixels(pixels).moments(), false_alarm)


def nwhfc(pixels: Any, *, false_alarm: float | Sequence[float] = 1e-3) -> Int[np.ndarray, "*rate"]:
    r"""Noise-whitened virtual dimensionality: `hfc` after dividing each band by its noise.

    Bands without variance (dead or constant) carry no signal of their own and are left out.

    Args:
        pixels: spectra, any unit; an array or a `Scene`.
        false_alarm: probability of a false alarm, or several of them.

    Returns:
        The number of spectrally distinct signals, one per rate.

    Raises:
        ValueError: no valid pixel, not more valid pixels than bands, or a rate that is not a probability.

    Reference:
        Chang & Du 2004, 10.1109/TGRS.2003.819189.
    """
    return _nwhfc(ValidPixels(pixels).moments(), false_alarm)


def _nwhfc(moments: Moments, false_alarm: float | Sequence[float]) -> Int[np.ndarray, "*rate"]:
    """HFC of the moments after dividing each band by its noise."""
    live = np.diag(moments.covariance) > 1e-12 * np.diag(moments.second)
    if not live.any():
        raise ValueError("no band of the valid pixels has any variance")
    moments = Moments(moments.pixels, moments.mean[live], moments.second[np.ix_(live, live)])
    _require_pixels(moments)
    # Below this floor a band is an exact combination of the others and has no noise to be divided by.
    floor = 1e-12 * np.diag(moments.second)
    scale = 1 / np.sqrt(np.maximum(_noise_variance(moments, _regress(moments)), floor))
    return _neyman_pearson(
        Moments(moments.pixels, moments.mean * scale, moments.second * np.outer(scale, scale)), false_alarm
    )


def count_endmembers(pixels: Any, *, false_alarm: float = 1e-3) -> Counts:
    """How many endmembers by `hysime`, `hfc` and `nwhfc`, in one pass over the data.

    On real scenes the three disagree; `Counts.smallest` is what the command takes for ``--count auto``.

    Args:
        pixels: spectra, any unit; an array or a `Scene`.
        false_alarm: probability of a false alarm of `hfc` and `nwhfc`.

    Returns:
        The three counts.

    Raises:
        ValueError: no valid pixel, or a rate that is not a probability.
    """
    data = ValidPixels(pixels)
    moments = data.moments()
    virtual = int(_neyman_pearson(moments, false_alarm))
    try:
        return Counts(_hysime(data, moments).count, virtual, int(_nwhfc(moments, false_alarm)))
    except ValueError:  # no regression of a band on the others
        return Counts(None, virtual, None)
