"""What unmixing with endmembers that vary needs to know of them, computed once.

A pixel is ``y = Σ x_i E_i(u_i) + noise`` with displacements ``u`` drawn from a prior. To first order in what matters,
each endmember is a mean spectrum and a covariance between bands, and a mixture of them is Gaussian with mean
``Σ x_i m_i`` and covariance ``noise + Σ x_i² C_i``. All means and covariances are kept in one orthonormal basis, far
smaller than the number of bands, in which the noise is white: after one product per pixel nothing grows with the bands.

The covariances are those of spectra rendered at displacements drawn from the prior (moment matching). A resonance
moves by its own width within a box of one per cent, so a tangent at the library misses much of what the box can do:
derivatives are the other choice, exact where the box is narrow.
"""

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped
from scipy.linalg import qr

from unmix_jax.linalg import einsum, matmul
from unmix_jax.physics.variation import Variation, linearise
from unmix_jax.solvers.tables import Prepared, prepare, whiten_and_detrend

__all__ = ["PreparedSynthesis", "prepare_synthesis"]

UNIFORM = 3**-0.5  # standard deviation of a uniform distribution from -1 to 1
BATCH = 16  # of drawn libraries that are rendered at once
SPARE = 48  # bands that are sampled beyond the rank
TRAINING = 4  # draws at which derivatives are looked at, to choose those bands


class PreparedSynthesis(eqx.Module):
    """Endmembers that vary, with all that does not depend on the pixel; stands wherever endmembers may stand.

    Everything reduced is whitened, without baseline, and relative to ``center``.

    Attributes:
        generator: the endmembers.
        library: the endmembers at rest, prepared for least squares.
        prior: standard deviation of each displacement, zero where it is held.
        basis: orthonormal rows.
        center: a spectrum that is subtracted from pixels and endmembers alike (abundances sum to one).
        mean: mean of each endmember under the prior.
        covariance: of each endmember under the prior.
        rest: the endmembers at rest.
        slopes: derivative of each endmember with respect to its displacements, best over the prior.
        noise: standard deviation of the noise in each band, in the unit of the pixels, or the transposed Cholesky
            factor of its covariance: from whitened spectra back to spectra. Zero in bands that do not count.
        bands: number of bands that count.
        freedom: that less the number of baseline columns.
        log_scale: what the noise alone adds to the negative logarithm of the likelihood.
        varies: whether any displacement is free.
        sampled: bands from which derivatives can be told in the basis.
        lift: how: ``slopes[sampled] @ lift``.
        weight: weights of these bands.
    """

    generator: Any
    library: Prepared
    prior: Float[Array, "endmember parameter"]
    basis: Float[Array, "rank band"]
    center: Float[Array, " rank"]
    mean: Float[Array, "endmember rank"]
    covariance: Float[Array, "endmember rank rank"]
    rest: Float[Array, "endmember rank"]
    slopes: Float[Array, "endmember parameter rank"]
    noise: Float[Array, "..."]
    bands: Float[Array, ""]
    freedom: Float[Array, ""]
    log_scale: Float[Array, ""]
    varies: Bool[Array, ""]
    sampled: Int[Array, " sample"]
    lift: Float[Array, "sample rank"]
    weight: Float[Array, " sample"]

    @property
    def count(self) -> int:
        """Number of endmembers."""
        return self.mean.shape[0]

    def select(self, members: Int[Array, " some"]) -> "PreparedSynthesis":
        """Some of the endmembers, in this order; works on tracers. `library` stays that of all."""
        own = ("prior", "mean", "covariance", "rest", "slopes")
        taken = {name: getattr(self, name)[members] for name in own}
        return replace(self, generator=self.generator.select(members), **taken)

    def reduce(self, spectra: Float[Array, "*n band"]) -> Float[Array, "*n rank"]:
        """Spectra in the basis, relative to the center."""
        return matmul(whiten_and_detrend(self.library, spectra), self.basis.T) - self.center

    def reduce_slopes(self, slopes: Float[Array, "*n band"]) -> Float[Array, "*n rank"]:
        """Derivatives of spectra in the basis."""
        return matmul(whiten_and_detrend(self.library, slopes), self.basis.T)


def prepare_synthesis(
    generator: Variation,
    *,
    noise: float | Shaped[Any, "..."],
    prior: float | Float[Any, "endmember parameter"] = UNIFORM,
    good_bands: Bool[Any, " band"] | None = None,
    baseline: int | Float[Any, "term band"] | None = None,
    rank: int = 160,
    samples: int = 1024,
    tangent: bool = False,
    seed: int = 0,
) -> PreparedSynthesis:
    """Do once what unmixing with these endmembers needs for every pixel.

    Args:
        generator: the endmembers and how they vary.
        noise: standard deviation of the noise, one for all bands or one for each, in the unit of the pixels; or its
            covariance [band, band], in their squared unit: where spectra differ from every rendered one in some broad
            way, `scenes.noise.noise_covariance` says so, and independent noise would take it for evidence.
        prior: standard deviation of the displacements, where 1 is the wall of the box; the default is that of a
            uniform distribution inside. Zero holds the library.
        good_bands: bands that count; whatever the others hold is not looked at.
        baseline: degree of a polynomial in the band index that is fitted along, or the columns themselves.
        rank: size of the basis, at most the number of bands. What it leaves out is treated as noise.
        samples: libraries drawn to measure mean and covariance, uniformly with this standard deviation and not
            beyond the walls.
        tangent: take the covariance from the derivatives at the library instead of from samples.
        seed: of the samples.

    Returns:
        A `PreparedSynthesis` pytree.

    Raises:
        ValueError: noise that is not positive (definite) in good bands, no good band, a negative prior, a rank below
            the number of endmembers, fewer than two samples, or shapes that disagree.
    """
    free = np.asarray(generator.free)
    at_rest = np.asarray(_spectra(generator, jnp.zeros(free.shape, jnp.result_type(generator.width))))
    count, bands = at_rest.shape
    if np.shape(prior) not in ((), free.shape):
        raise ValueError(f"prior has shape {np.shape(prior)}, the displacements {free.shape}")
    wanted = np.where(free, np.asarray(prior, float), 0.0)
    if not np.isfinite(wanted).all() or (wanted < 0).any():
        raise ValueError("the prior is a standard deviation: finite and not below zero")
    if samples < 2:
        raise ValueError(f"a covariance takes two samples or more, got {samples}")
    if not rank >= min(count, bands):
        raise ValueError(f"a basis of rank {rank} cannot hold {count} endmembers")
    good = np.ones(bands, bool) if good_bands is None else np.asarray(good_bands, bool)
    if good.shape != (bands,):
        raise ValueError(f"good_bands has shape {good.shape}, the endmembers {bands} bands")
    if not good.any():
        raise ValueError("good_bands leaves no band to look at")
    weights, shared, root = _noise(np.asarray(noise, float), good)
    library = prepare(at_rest, weights=weights, noise_covariance=shared, baseline=baseline)
    dtype = library.endmembers.dtype
    prior_ = jnp.asarray(wanted, dtype)

    if tangent:
        slopes = _white(library, _linearised(generator)[1])
        scaled = np.asarray(slopes * prior_[..., None])
        drawn = None
        spread = np.einsum("edb,edc->bc", scaled, scaled, optimize=True)
    else:
        drawn, u = _drawn(generator, library, prior_, jax.random.split(jax.random.key(seed), samples))
        varied = np.asarray(drawn[:256].reshape(-1, bands) - np.tile(np.asarray(drawn.mean(0)), (min(256, samples), 1)))
        spread = varied.T @ varied
    rest = np.asarray(_white(library, jnp.asarray(at_rest, dtype)))
    means = rest if drawn is None else np.asarray(drawn.mean(0))
    basis = jnp.asarray(_basis(means, rest, spread, min(rank, bands)), dtype)
    center = jnp.asarray(np.asarray(basis, float) @ rest.astype(float).mean(0), dtype)

    def reduced(spectra: Any) -> Array:
        return jnp.asarray(np.asarray(spectra, float) @ np.asarray(basis, float).T - np.asarray(center, float), dtype)

    if drawn is None:
        slopes_ = matmul(slopes, basis.T)
        scaled_ = slopes_ * prior_[..., None]
        covariance = einsum("edr,eds->ers", scaled_, scaled_)
    else:
        inside = matmul(drawn - drawn.mean(0), basis.T)
        covariance = einsum("ner,nes->ers", inside, inside) / (samples - 1)
        power = jnp.mean(u**2, 0)
        slopes_ = einsum("ned,ner->edr", u, inside) / samples / jnp.where(power > 0, power, 1.0)[..., None]
    terms = 0 if library.baseline is None else library.baseline.shape[0]
    return PreparedSynthesis(
        generator=generator,
        library=library,
        prior=prior_,
        basis=basis,
        center=center,
        mean=reduced(means),
        covariance=covariance,
        rest=reduced(rest),
        slopes=slopes_,
        noise=jnp.asarray(root, dtype),
        bands=jnp.asarray(float(good.sum()), dtype),
        freedom=jnp.asarray(float(max(good.sum() - terms, 1)), dtype),
        log_scale=jnp.asarray(_log_scale(root, good), dtype),
        varies=jnp.any(prior_ > 0),
        **_lift(generator, library, prior_, basis, seed),
    )


def _noise(noise: np.ndarray, good: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Weights of the bands, the covariance if there is one, and its root; what other bands hold is not looked at."""
    bands = good.size
    if noise.shape == (bands, bands):
        both = good[:, None] & good[None, :]
        inner = np.where(both, noise, np.eye(bands))
        if not np.isfinite(inner).all() or not np.allclose(inner, inner.T, rtol=1e-6):
            raise ValueError("a covariance of the noise is finite and symmetric in bands that count")
        try:
            root = np.linalg.cholesky(inner).T
        except np.linalg.LinAlgError as error:
            raise ValueError("the covariance of the noise is not positive definite in bands that count") from error
        return good.astype(float), inner, np.where(both, root, 0.0)
    if noise.shape not in ((), (bands,)):
        raise ValueError(f"noise has shape {noise.shape}, the endmembers {bands} bands")
    std = np.broadcast_to(noise, bands)
    if not (np.isfinite(std) & (std > 0))[good].all():
        raise ValueError("noise is a standard deviation: finite and above zero in bands that count")
    return np.where(good, 1 / np.where(good, std, 1.0) ** 2, 0.0), None, np.where(good, std, 0.0)


def _log_scale(root: np.ndarray, good: np.ndarray) -> float:
    """Minus the logarithm of the greatest density that this noise has."""
    diagonal = root if root.ndim == 1 else np.diag(root)
    return float(np.sum(np.log(diagonal[good])) + 0.5 * np.log(2 * np.pi) * good.sum())


# What is compiled stands here and not where it is used: a library prepared again is not compiled again.

_white = jax.jit(whiten_and_detrend)
_linearised = jax.jit(linearise)


@jax.jit
def _spectra(generator: Any, u: Array) -> Array:
    return generator(u)


@jax.jit
def _drawn(generator: Any, library: Prepared, prior: Array, keys: Array) -> tuple[Array, Array]:
    """Whitened spectra [sample, endmember, band] at displacements drawn from the prior, and the displacements."""

    def one(key: Array) -> tuple[Array, Array]:
        u = jax.random.uniform(key, prior.shape, prior.dtype, -1, 1) * prior / UNIFORM
        u = jnp.clip(u, -1, 1)
        return whiten_and_detrend(library, generator(u)), u

    return jax.lax.map(one, keys, batch_size=BATCH)


@jax.jit
def _spread_at(generator: Any, prior: Array, u: Array) -> Array:
    """Second moments between bands of the derivatives, in units of the prior."""
    slopes = linearise(generator, u)[1] * prior[..., None]
    return jnp.tensordot(slopes, slopes, ((0, 1), (0, 1)), precision=jax.lax.Precision.HIGHEST)


@jax.jit
def _reduction(library: Prepared, basis: Array) -> Array:
    """What each band alone is in the basis."""
    return matmul(whiten_and_detrend(library, jnp.eye(basis.shape[1], dtype=basis.dtype)), basis.T)


def _lift(generator: Variation, library: Prepared, prior: Array, basis: Array, seed: int) -> dict[str, Array]:
    """Bands that tell most of the derivatives, by pivoting, and the regression from them to the basis.

    argmin_W Σ ‖J V − J_s W‖² over derivatives J at the library and at displacements drawn from the prior.
    """
    bands = basis.shape[1]
    spread = np.zeros((bands, bands))
    for number in range(TRAINING + 1):
        draw = jax.random.uniform(jax.random.key(seed + number), prior.shape, prior.dtype, -1, 1) * prior / UNIFORM
        spread += np.asarray(_spread_at(generator, prior, jnp.clip(draw, -1, 1) if number else 0 * draw), float)
    full = np.asarray(_reduction(library, basis), float)
    scale = np.sqrt((full**2).sum(1))  # bands that do not count have none
    spread = np.nan_to_num(spread) * scale[:, None] * scale
    values, vectors = np.linalg.eigh(spread)
    root = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
    picked = np.sort(qr(root, mode="r", pivoting=True)[1][: min(bands, basis.shape[0] + SPARE)])
    inner = spread[np.ix_(picked, picked)]
    inner = inner + (1e-7 * np.trace(inner) / len(picked) + np.finfo(float).tiny) * np.eye(len(picked))
    white = np.where(scale[:, None] > 0, full / np.where(scale > 0, scale, 1.0)[:, None], 0.0)
    lift = np.linalg.solve(inner, spread[picked] @ white) * scale[picked, None]
    leaves = {"lift": lift, "weight": scale[picked] ** 2}
    return {name: jnp.asarray(leaf, basis.dtype) for name, leaf in leaves.items()} | {"sampled": jnp.asarray(picked)}


def _basis(means: np.ndarray, rest: np.ndarray, spread: np.ndarray, rank: int) -> np.ndarray:
    """Orthonormal rows: the span of the endmembers first, then where they vary most."""
    both = np.concatenate([rest, means]).astype(float)
    both = both[:rank] if rank < len(both) else both
    left = np.linalg.qr(both.T, mode="reduced")[0].T
    spread = spread.astype(float)
    outside = spread - left.T @ (left @ spread)
    outside = outside - (outside @ left.T) @ left
    _, vectors = np.linalg.eigh(0.5 * (outside + outside.T))
    extra = vectors.T[::-1][: rank - len(left)]
    return np.linalg.qr(np.concatenate([left, extra]).T, mode="reduced")[0].T
