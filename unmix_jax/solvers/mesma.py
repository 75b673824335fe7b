"""Multiple endmember spectral mixture analysis: in each pixel the best of many small models of a large library.

Materials vary, so a library has many spectra of each, and a pixel few materials. ``mesma`` tries every model of a few
spectra of different classes and shade, keeps those within limits, and takes the one of least RMSE of each level of
complexity, and of levels what a criterion says. The search is exhaustive, so its choice is exact.
"""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from unmix_jax.linalg import matmul, safe_sqrt, squared_norm
from unmix_jax.solvers.batching import check_pixel
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
    members: Int[Array, " slot"]
    level: Int[Array, ""]
    rmse: Float[Array, " level"]


def mesma(pixel: Float[Any, " band"], endmembers: PreparedMesma) -> Solution:
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
    check_pixel(pixel, problem.width)
    pixel = jnp.asarray(pixel, jnp.result_type(pixel.dtype, problem.spectra.dtype))
    pixel = pixel if problem.good is None else pixel[problem.good]
    pixel = pixel if problem.shade is None else pixel - problem.shade
    constant = jax.tree.map(lambda x: jax.lax.stop_gradient(x) if eqx.is_array(x) else x, problem)
    found = search(constant, _seen(constant, jax.lax.stop_gradient(pixel)))

    passed = found.level >= 0
    members = jnp.where(passed, problem.members[jnp.maximum(found.model, 0)], -1)
    filled, slots = members >= 0, range(problem.slots)
    used, bands = jnp.sum(filled, dtype=jnp.int32), pixel.shape[0]
    spectra = [problem.spectra[jnp.maximum(members[slot], 0)] for slot in slots]
    upper = np.zeros((problem.slots, problem.slots), int)
    upper[np.triu_indices(problem.slots)] = np.arange(found.root.shape[0])

    # one step of least squares from what the search has: full precision, and the derivatives
    fractions = [found.fractions[slot] for slot in slots]
    along = _along(found.root, upper, spectra, _error(pixel, fractions, spectra))
    fractions = [
        fractions[i] + functools.reduce(jnp.add, [found.root[upper[i, j]] * along[j] for j in slots[i:]]) for i in slots
    ]
    error = _error(pixel, fractions, spectra)
    squared, norm = squared_norm(error), squared_norm(jax.lax.stop_gradient(pixel))
    excess = functools.reduce(jnp.add, [q**2 for q in _along(found.root, upper, spectra, error)])

    classes = jnp.where(filled, problem.class_of[jnp.maximum(members, 0)], -1)
    abundances = [
        functools.reduce(jnp.add, [jnp.where(classes[slot] == c, fractions[slot], 0.0) for slot in slots])
        for c in range(len(problem.classes))
    ]
    abundances.append(1 - functools.reduce(jnp.add, fractions))
    if problem.noise is None:
        variance = jax.lax.stop_gradient(squared) / jnp.maximum(bands - used, 1)
    else:
        variance = problem.noise**2
    nan = jnp.asarray(jnp.nan, pixel.dtype)
    return Solution(
        abundances=jnp.where(passed, jnp.stack(abundances), nan),
        residual=jnp.where(passed, safe_sqrt(squared / bands), nan),
        gap=jnp.where(passed & (norm > 0), jax.lax.stop_gradient(excess) / jnp.where(norm > 0, norm, 1.0), nan),
        steps=found.tried,
        converged=passed,
        covariance=jnp.where(passed, variance * found.covariance, nan),
        fitted=Chosen(
            model=found.model,
            members=members,
            level=jnp.where(passed, used + 1, 0),
            rmse=found.rmse,
        ),
    )


def _error(pixel: Array, fractions: list[Array], spectra: list[Array]) -> Array:
    """What fractions leave of a pixel."""
    return functools.reduce(lambda left, pair: left - pair[0] * pair[1], zip(fractions, spectra, strict=True), pixel)


def _along(root: Array, upper: np.ndarray, spectra: list[Array], error: Array) -> list[Array]:
    """``Uᵀ E r``: the parts of a residual along the orthonormal directions of the model; empty slots give zero."""
    products = [matmul(spectrum, error) for spectrum in spectra]
    return [
        functools.reduce(jnp.add, [root[upper[i, j]] * products[i] for i in range(j + 1)]) for j in range(len(spectra))
    ]


def _seen(problem: PreparedMesma, pixel: Array) -> Seen:
    """A pixel as the search sees it."""
    s = matmul(pixel, problem.direction)
    beside = pixel - s * problem.direction
    products = matmul(beside, problem.projector)
    turned = products[-1]  # what rounding left along the main direction
    return Seen(pixel, products[:-1], s + turned, squared_norm(beside) - turned**2)
