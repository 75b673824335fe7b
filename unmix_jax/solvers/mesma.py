"""Multiple endmember spectral mixture analysis: in each pixel the best of many small models of a large library.

Materials vary, so a library has many spectra of each, and a pixel few materials. ``mesma`` tries every model of a few
spectra of different classes and shade, keeps those within limits, and takes the one of least RMSE; of levels of
complexity, the simplest that is not much worse. The search is exhaustive, so its choice is exact.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from unmix_jax.linalg import matmul, safe_sqrt, squared_norm
from unmix_jax.solvers.mesma_prepare import Limits, PreparedMesma, prepare_mesma
from unmix_jax.solvers.mesma_search import Seen, search
from unmix_jax.types import Solution

__all__ = ["Chosen", "Limits", "PreparedMesma", "mesma", "prepare_mesma"]


class Chosen(eqx.Module):
    """Which model won at a pixel.

    Attributes:
        model: its number, a row of ``PreparedMesma.members``; -1 where none passes.
        members: the library members that it is made of, -1 in slots that it has not.
        level: how many endmembers it has, shade included; 0 where none passes.
        rmse: of the best model of each level that passes, in the unit of the pixel; infinite where none does.
    """

    model: Int[Array, ""]
    members: Int[Array, "slot"]
    level: Int[Array, ""]
    rmse: Float[Array, "level"]


def mesma(pixel: Float[Any, "band"], endmembers: PreparedMesma) -> Solution:
    """Fractions of classes and shade by the best of all models.

    argmin_S ‖y − aE_S‖ over the models S of each level whose fractions a = argmin ‖y − aE_S‖, shade 1 − Σa and residual
    are within the limits; then the level, by the criterion. Fractions are those of free least squares: models outside
    the limits are refused, not corrected. Derivatives in the pixel are those of the model that won.

    Args:
        pixel: spectrum, in the unit of the library.
        endmembers: what `prepare_mesma` made of the library.

    Returns:
        A `Solution`. Abundances are those of the classes (zero where not in the model) and of shade, the last; NaN,
        with ``converged`` False, where no model passes. The covariance is that of the fractions of the model that won,
        at the noise given or estimated from its residual; it does not know of the choice. The gap is the exact excess
        of the least squares of that model. That no other is better is known from having tried all, up to the rounding
        of squared residuals: a few units in the last place of what the pixel has beside the main direction of the
        library. Of equals the first wins. ``steps`` are models gone through, ``fitted`` is a `Chosen`.

    Raises:
        ValueError: a library that is not prepared, or pixels of other bands.

    Reference:
        Roberts et al. 1998, 10.1016/S0034-4257(98)00037-6, models and their limits. Schwarz 1978,
        10.1214/aos/1176344136, for ``bic``.
    """
    if not isinstance(endmembers, PreparedMesma):
        raise ValueError(f"mesma needs classes and models: prepare_mesma(library), got {type(endmembers).__name__}")
    problem = endmembers
    if len(np.shape(pixel)) != 1:
        raise ValueError(f"one pixel is [band], got shape {np.shape(pixel)}; use unmix or jax.vmap for many")
    if pixel.shape[0] != problem.width:
        raise ValueError(f"the library has {problem.width} bands, pixels have {pixel.shape[0]}")
    pixel = jnp.asarray(pixel, jnp.result_type(pixel.dtype, problem.spectra.dtype))
    pixel = pixel if problem.good is None else pixel[problem.good]
    pixel = pixel if problem.shade is None else pixel - problem.shade
    constant = jax.tree.map(lambda x: jax.lax.stop_gradient(x) if eqx.is_array(x) else x, problem)
    found = search(constant, _seen(constant, jax.lax.stop_gradient(pixel)))

    passed = found.level >= 0
    starts = np.cumsum([0, *[level.count for level in problem.levels]])
    number = jnp.asarray(starts, jnp.int32)[found.level] + found.model
    members = jnp.where(passed, jnp.asarray(problem.members)[number], -1)
    filled = members >= 0
    spectra = problem.spectra[jnp.maximum(members, 0)]

    # one step of least squares from what the search has: full precision, and the derivatives
    error = pixel - jnp.sum(found.fractions[:, None] * spectra, 0)
    slope = jnp.sum(found.root * jnp.sum(spectra * error, 1)[:, None], 0)
    fractions = found.fractions + jnp.sum(found.root * slope, 1)
    error = pixel - jnp.sum(fractions[:, None] * spectra, 0)
    squared, norm = squared_norm(error), squared_norm(jax.lax.stop_gradient(pixel))
    excess = jnp.sum(jnp.sum(found.root * jnp.sum(spectra * error, 1)[:, None], 0) ** 2)

    # slots to classes, and to shade, which is what they leave
    classes, bands, used = len(problem.classes), pixel.shape[0], jnp.sum(filled)
    place = (problem.class_of[jnp.maximum(members, 0)][:, None] == jnp.arange(classes)) & filled[:, None]
    place = jnp.concatenate([place.astype(pixel.dtype), -filled[:, None].astype(pixel.dtype)], 1)  # [slot, class]
    abundances = jnp.sum(fractions[:, None] * place, 0).at[-1].add(1.0)
    if problem.noise is None:
        variance = jax.lax.stop_gradient(squared) / jnp.maximum(bands - used, 1)
    else:
        variance = problem.noise**2
    spread = jnp.sum(place[:, :, None] * found.root[:, None, :], 0)  # [class, slot]
    covariance = variance * jnp.sum(spread[:, None] * spread[None], -1)
    nan = jnp.asarray(jnp.nan, pixel.dtype)
    return Solution(
        abundances=jnp.where(passed, abundances, nan),
        residual=jnp.where(passed, safe_sqrt(squared / bands), nan),
        gap=jnp.where(passed & (norm > 0), jax.lax.stop_gradient(excess) / jnp.where(norm > 0, norm, 1.0), nan),
        steps=found.tried,
        converged=passed,
        covariance=jnp.where(passed, jax.lax.stop_gradient(covariance), nan),
        fitted=Chosen(
            model=jnp.where(passed, number, -1),
            members=members,
            level=jnp.where(passed, used + 1, 0).astype(jnp.int32),
            rmse=found.rmse,
        ),
    )


def _seen(problem: PreparedMesma, pixel: Array) -> Seen:
    """A pixel as the search sees it."""
    s = matmul(pixel, problem.direction)
    beside = pixel - s * problem.direction
    products = matmul(beside, problem.projector)
    turned = products[-1]  # what rounding left along the main direction
    return Seen(pixel, products[:-1], s + turned, squared_norm(beside) - turned**2)
