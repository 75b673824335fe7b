"""Abundances over libraries that are larger than any mixture, exact and certified: ``sunsal`` and ``sparse_fractions``.

Each takes one pixel and the library and returns a `Solution`; batch with ``unmix`` or ``jax.vmap``. Wherever the library
stands, an array or what `prepare_sparse` made of it may be passed. Derivatives are not taken through these solvers.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

from unmix_jax.linalg import matmul, squared_norm
from unmix_jax.solvers.active_set import tolerance
from unmix_jax.solvers.batching import batched
from unmix_jax.solvers.residual import squared_residual
from unmix_jax.solvers.tables import checked, directions, factored, kept, whiten_adjoint
from unmix_jax.solvers.working_set import Dictionary, dense, solve_on_working_sets
from unmix_jax.solvers.worklist import State, work_off
from unmix_jax.types import Solution

SMALL = 1024  # members of a library whose Gram matrix is kept: 8 MiB in float64

__all__ = ["PreparedLibrary", "prepare_sparse", "sparse_fractions", "sunsal"]


class PreparedLibrary(eqx.Module):
    """A library with what does not depend on the pixel; no array is as large as its square.

    Attributes:
        endmembers: [member, band], zero in bands that do not count.
        good: bands of positive weight; None where all are.
        plain: whether bands weigh alike, so that the residual follows from the reduced problem.
        projector: ``z = pixel @ projector``, whitening included.
        dictionary: the reduced problem.
    """

    endmembers: Float[Array, "member band"]
    good: Bool[Array, "band"] | None
    plain: bool = eqx.field(static=True)
    projector: Float[Array, "band latent"]
    dictionary: Dictionary


def prepare_sparse(
    library: Float[Any, "member band"],
    *,
    weights: Shaped[Any, "band"] | None = None,
    noise_covariance: Float[Any, "band band"] | None = None,
) -> PreparedLibrary:
    """Do once what sparse unmixing with this library needs for every pixel: one singular value decomposition.

    The solvers then minimise ½ (y − aE) W (y − aE)ᵀ plus their penalty, W = diag(weights) or the inverse noise covariance.

    Args:
        library: spectra as rows, in the unit of the pixels; there may be thousands.
        weights: non-negative weight of each band, 1/variance for instance; 0 leaves a band out, whatever it holds.
        noise_covariance: covariance of the noise between bands, in the squared unit of the pixels; together with
            ``weights`` only the zeros of the latter count.

    Returns:
        A `PreparedLibrary` pytree.

    Raises:
        ValueError: if shapes disagree, spectra or weights are not finite in the bands that count, weights are negative, or
            the covariance is not positive definite.
    """
    _, white, whitener, good, dtype = checked(library, weights, noise_covariance)
    xp: Any = jnp if isinstance(white, jax.Array) else np
    factor, basis = factored(white, dtype)
    factor, _, reach = directions(factor, float(jnp.finfo(dtype).eps))
    return PreparedLibrary(
        endmembers=kept(library, good, dtype),
        good=None if good is None else jnp.asarray(good),
        plain=whitener is None,
        projector=jnp.asarray(whiten_adjoint(xp, basis, whitener), dtype),
        dictionary=Dictionary(
            factor=jnp.asarray(factor, dtype),
            reach=jnp.asarray(reach, dtype),
            gram=jnp.asarray(factor.T @ factor, dtype) if len(white) <= SMALL else None,
        ),
    )


def sunsal(
    pixel: Float[Any, "band"],
    library: Float[Any, "member band"] | PreparedLibrary,
    *,
    l1: Any = 0.0,
    sum_to_one: bool = False,
    slots: int | None = None,
) -> Solution:
    """Sparse unmixing by least squares with an l1 penalty, exact.

    argmin_a ½‖y − aE‖² + l1 Σa subject to a ≥ 0, and Σa = 1 where asked for; the penalty is then the constant l1 and changes
    nothing. ``l1=0`` is non-negative least squares. A spectrum of zeros is a shade under Σa = 1, and never used otherwise.

    Args:
        pixel: spectrum, in the unit of the library.
        library: spectra as rows, or `PreparedLibrary`.
        l1: weight of the penalty, in the squared unit of the pixel; an array may be swept without compiling again.
        sum_to_one: whether abundances sum to one.
        slots: most members of one mixture; None: one more than the rank can be, at most 96. Where more were needed, the
            solution has ``converged`` False and a gap that says by how much.

    Returns:
        A `Solution` with a duality gap over the whole library. `unique` is True where the gradient of every absent member
        proves that no other mixture is as good.

    Raises:
        ValueError: if pixel and library differ in their number of bands, or l1 is negative.

    Reference: Bioucas-Dias and Figueiredo 2010, 10.1109/WHISPERS.2010.5594963 (problem; their splitting method is not exact).
    """
    problem, pixel = _taken(pixel, library)
    l1 = penalty_weight("l1", l1, pixel.dtype)

    def many(problem: PreparedLibrary, z: Array, l1: Array) -> tuple[Array, ...]:
        return solved(problem, z, l1, sum_to_one, slots)

    return _solution(problem, pixel, *batched(many, problem, matmul(pixel, problem.projector), l1))


def solved(problem: PreparedLibrary, z: Array, l1: Array, sum_to_one: bool, slots: int | None) -> tuple[Array, ...]:
    """Abundances and what goes with them of many pixels, each with its own l1."""
    state = solve_on_working_sets(
        problem.dictionary, z.T, lambda part: (part["l1"][:, None], None), {"l1": l1}, sum_to_one=sum_to_one, slots=slots
    )
    return answer_of(problem, state)


def answer_of(problem: PreparedLibrary, state: State) -> tuple[Array, ...]:
    """Abundances, excess, what the fit explains, steps and uniqueness, pixels first."""
    explained = jnp.sum(state["z"] ** 2, 0) - jnp.sum(state["rest"] ** 2, 0)
    abundances = dense(state["members"].T, state["amounts"].T, problem.endmembers.shape[0])
    return abundances, state["excess"], explained, state["steps"], state["alone"]


def penalty_weight(name: str, value: Any, dtype: Any) -> Array:
    """A weight that is not negative, as an array."""
    if not isinstance(value, jax.core.Tracer) and not (np.ndim(value) == 0 and np.all(np.asarray(value) >= 0)):
        raise ValueError(f"{name} must be one number that is not negative, got {value}")
    return jnp.asarray(value, dtype)


def _taken(pixel: Any, library: Any) -> tuple[PreparedLibrary, Array]:
    """The prepared library and the pixel, checked."""
    problem = library if isinstance(library, PreparedLibrary) else prepare_sparse(library)
    if len(np.shape(pixel)) != 1:
        raise ValueError(f"one pixel is [band], got shape {np.shape(pixel)}; use unmix or jax.vmap for many")
    bands = problem.endmembers.shape[1]
    if pixel.shape[0] != bands:
        raise ValueError(f"the library has {bands} bands, pixels have {pixel.shape[0]}")
    pixel = jnp.asarray(pixel, jnp.result_type(pixel.dtype, problem.endmembers.dtype))
    return problem, pixel if problem.good is None else jnp.where(problem.good, pixel, 0.0)


def _solution(
    problem: PreparedLibrary,
    pixel: Array,
    abundances: Array,
    excess: Array,
    explained: Array,
    steps: Array,
    alone: Array,
) -> Solution:
    """What the kernel found of one pixel, with residual and gap."""
    if problem.plain:
        norm = squared_norm(pixel)
        squared = squared_residual(pixel, abundances, problem.endmembers, norm, explained)
    else:
        error = pixel - matmul(abundances, problem.endmembers)
        squared = squared_norm(error if problem.good is None else jnp.where(problem.good, error, 0.0))
        norm = squared_norm(pixel)
    energy = 0.5 * norm
    gap = jnp.where(energy > 0, excess / jnp.where(energy > 0, energy, 1.0), jnp.nan)
    bands = pixel.shape[0] if problem.good is None else jnp.sum(problem.good)
    return Solution(
        abundances=abundances,
        residual=jnp.sqrt(jnp.maximum(squared, 0) / bands),
        gap=gap,
        steps=steps,
        converged=jnp.isfinite(squared) & ((gap <= tolerance(pixel.dtype)) | (energy == 0)),
        unique=alone,
    )
