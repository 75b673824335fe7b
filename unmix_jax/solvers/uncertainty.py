"""How well a pixel can tell its abundances, and the parameters of its mixing model: before any data, or after a fit.

What noise leaves uncertain follows from the derivatives of the spectrum: at the truth that is the bound of Cramér and
Rao, at an estimate it is the covariance of the estimate.
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from unmix_jax.linalg import matmul, safe_norm, svd, whiten
from unmix_jax.physics.mixing import Mixing, fitted_fields, split

__all__ = ["Uncertainty", "cramer_rao"]


class Uncertainty(eqx.Module):
    """Covariance of abundances and parameters.

    Attributes:
        covariance: of both, abundances first. Infinite variance, and NaN beside it, where nothing in the spectrum
            tells; zero where an abundance is held.
        count: of the abundances.
    """

    covariance: Float[Array, "unknown unknown"]
    count: int = eqx.field(static=True)

    @property
    def abundances(self) -> Float[Array, "endmember endmember"]:
        """Covariance of the abundances."""
        return self.covariance[: self.count, : self.count]

    @property
    def parameters(self) -> Float[Array, "parameter parameter"]:
        """Covariance of the model's fitted fields, one after the other in a row."""
        return self.covariance[self.count :, self.count :]


def cramer_rao(
    mixing: Mixing,
    abundances: Float[Any, " endmember"],
    endmembers: Float[Any, "endmember band"],
    noise: float | Float[Any, "..."],
    *,
    sum_to_one: bool = True,
    free: Bool[Any, " endmember"] | None = None,
    fit: str | Sequence[str] | None = None,
) -> Uncertainty:
    """Least covariance of unbiased estimates of the abundances and of the model's fitted fields.

    T (Tᵀ Jᵀ Σ⁻¹ J T)⁻¹ Tᵀ, where J are the derivatives of the spectrum and the columns of T the directions that
    constraints leave: those of abundances that are held are missing, and the others keep their sum.

    An abundance that is zero cannot fall: where one is estimated as zero, the law of the estimates is not Gaussian,
    and this is that of the others while it stays there.

    Args:
        mixing: the model; its fitted fields are unknown as well.
        abundances: of the pixel.
        endmembers: spectra, any unit.
        noise: standard deviation, of all bands or of each, or covariance [band, band], in the unit of the endmembers.
        sum_to_one: whether the abundances are known to sum to one.
        free: abundances that are not held; None: those above zero.
        fit: names of the fields of the model that are unknown, none with ``()``; None: those that its class lists in
            ``fitted``.

    Returns:
        Covariance, dimensionless for abundances. A parameter of which the spectrum tells nothing (the interaction of
        a material that is absent) and abundances that compensate each other (alike endmembers) have infinite variance.

    Raises:
        ValueError: shapes that disagree; noise that is not above zero, where that can be seen; or what
            `physics.mixing.fitted_fields` raises where it is not clear what is fitted.

    Reference:
        Stoica and Ng 1998, doi:10.1109/97.700921, for bounds under constraints.
    """
    abundances, endmembers = jnp.asarray(abundances), jnp.asarray(endmembers)
    if endmembers.ndim != 2 or abundances.shape != endmembers.shape[:1]:
        raise ValueError(f"abundances have shape {abundances.shape}, endmembers {endmembers.shape}")
    count, bands = endmembers.shape
    fitted, known = split(mixing, fitted_fields(mixing, fit))
    parameters, restore = ravel_pytree(jax.tree.map(lambda x: jnp.asarray(x, abundances.dtype), fitted))

    def spectrum(unknown: Array) -> Array:
        return eqx.combine(restore(unknown[count:]), known)(unknown[:count], endmembers)

    unknown = jnp.concatenate([abundances, parameters.astype(abundances.dtype)])
    rows = _white(jax.jacfwd(spectrum)(unknown).T, noise, bands)

    inside = (abundances > 0) if free is None else jnp.asarray(free)
    projector = jnp.diag(inside.astype(rows.dtype))
    if sum_to_one:
        projector = projector - jnp.outer(inside, inside) / jnp.maximum(jnp.sum(inside), 1)
    # abundances in one scale, each parameter in its own: then what is small tells nothing
    lengths = safe_norm(rows)
    longest = jnp.max(lengths[:count])
    scales = jnp.concatenate([jnp.broadcast_to(longest, (count,)), lengths[count:]])
    scales = jnp.where(scales > 0, scales, 1.0)
    allowed = jnp.eye(len(unknown), dtype=rows.dtype).at[:count, :count].set(projector)
    _, singular, directions = svd(matmul(allowed, rows / scales[:, None]).T)
    told = singular > 8 * max(rows.shape) * jnp.finfo(rows.dtype).eps * jnp.max(singular)
    directions = jnp.where(told[:, None], directions, 0.0)
    inverse = jnp.where(told, 1 / jnp.where(told, singular, 1.0), 0.0)
    root = directions * inverse[:, None] / scales
    held = jnp.diag(allowed) == 0
    covariance = jnp.where(held[:, None] | held[None, :], 0.0, matmul(root.T, root))
    # a coordinate of which some allowed direction is not among those that are told
    missed = jnp.diag(allowed) - jnp.sum(directions**2, 0) > 1e-3
    unknowable = missed[:, None] | missed[None, :]
    covariance = jnp.where(unknowable, jnp.nan, covariance)
    return Uncertainty(jnp.where(jnp.diag(missed), jnp.inf, covariance), count)


def _white(rows: Array, noise: Any, bands: int) -> Array:
    """Derivatives [unknown, band] in units of the noise."""
    if not isinstance(noise, jax.core.Tracer):
        values = np.asarray(noise, float)
        if values.shape not in ((), (bands,), (bands, bands)):
            raise ValueError(f"noise is one number, {bands} or {bands} × {bands}, got shape {values.shape}")
        if not (np.diag(values) if values.ndim == 2 else values).min() > 0:
            raise ValueError("noise must be above zero")
    noise = jnp.asarray(noise, rows.dtype)
    return whiten(noise, rows)[0] if noise.ndim == 2 else rows / noise
