"""Abundances, and the parameters of a mixing model, of one pixel: ``invert`` for any model of `physics.mixing`.

One contract for linear, bilinear, polynomial, multilinear and intimate mixtures. Abundances stay on the simplex and
parameters within their limits; the descent is of second order, and pixels that are done leave the batch.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unmix_jax.linalg import safe_sqrt, solve_symmetric, squared_norm
from unmix_jax.physics.mixing import Mixing, Nascimento
from unmix_jax.solvers.active_set import tolerance
from unmix_jax.solvers.batching import batched, check_pixel
from unmix_jax.solvers.inversion_prepare import PreparedInversion, prepare_inversion
from unmix_jax.solvers.simplex_box import covariance, descend, on_no_bound, where_needed
from unmix_jax.solvers.worklist import State, work_off
from unmix_jax.types import Solution

__all__ = ["Fitted", "PreparedInversion", "invert", "prepare_inversion", "prepared"]


class Fitted(eqx.Module):
    """What an inversion estimates besides abundances.

    Attributes:
        mixing: the model's arrays as fitted, and nothing else of it: ``eqx.combine(fitted.mixing, mixing)`` is the
            model that renders.
        covariance: of abundances and the model's arrays, abundances first, as `Solution.covariance` is its first block.
    """

    mixing: Any
    covariance: Float[Array, "unknown unknown"]


def invert(
    pixel: Float[Any, " band"],
    endmembers: Float[Any, "endmember band"] | PreparedInversion,
    mixing: Mixing | None = None,
) -> Solution:
    """Abundances and parameters of a mixing model, by least squares.

    argmin ½‖(y − mixing(a, E)) / σ‖² over a ≥ 0, Σa = 1 and the model's arrays within their limits, plus
    ½‖(p − p₀) / s‖² where they have a prior. The objective is not convex: what is found is a stationary point, from
    fully constrained least squares on (in albedo for Hapke's model), which noise-free simulations recover.
    Derivatives in pixel and endmembers are those of the implicit function theorem on what is not on a bound.

    Args:
        pixel: spectrum, in the unit of the endmembers.
        endmembers: spectra as rows, or what `prepare_inversion` made of them and the model, which has more options.
        mixing: a model of `physics.mixing` or `physics.hapke`, or any callable pytree ``(abundances, endmembers) ->
            spectrum`` of one pixel. Arrays are unknown and start where they are, plain numbers are known.

    Returns:
        A `Solution`. Its gap is what the objective could still lose, to first order over the simplex and to second in
        each parameter, over half the squared norm of the pixel. ``fitted`` is a `Fitted`: the model as fitted, and the
        covariance of abundances and parameters at the noise given, or estimated from the residual. What the spectrum
        tells nothing of (the interaction of a material that is absent) keeps its start; its variance is that of its
        limits, infinite where it has none.

    Raises:
        ValueError: no model, one besides a prepared problem, shapes that disagree, or what `prepare_inversion` raises.

    Reference:
        Golub and Pereyra 1973, 10.1137/0710036, for problems partly linear; the models' papers stand with the models.
    """
    if isinstance(endmembers, PreparedInversion):
        if mixing is not None:
            raise ValueError("the prepared problem has its mixing model: do not give another")
        problem = endmembers
    elif mixing is None:
        raise ValueError("invert needs a mixing model, of physics.mixing for instance")
    else:
        problem = prepare_inversion(endmembers, mixing)
    bands = problem.endmembers.shape[1]
    check_pixel(pixel, bands)
    pixel = jnp.asarray(pixel, jnp.result_type(pixel.dtype, problem.endmembers.dtype))
    if problem.good is not None:
        pixel = jnp.where(problem.good, pixel, 0.0)
    still, count = _still(problem), problem.simplex
    seen = still.view.see(still, jax.lax.stop_gradient(pixel))
    norm = squared_norm(problem.whiten(jax.lax.stop_gradient(pixel)))
    unknown, gap, steps = batched(_descended, still, seen, 0.5 * norm)

    used = jnp.asarray(bands if problem.good is None else jnp.sum(problem.good), pixel.dtype)
    free = on_no_bound(unknown[:, None], still.region)[:, 0]
    variance = jnp.ones((), pixel.dtype)
    if not problem.known_noise:
        left = squared_norm(_error(jax.lax.stop_gradient(pixel), still, unknown))
        rounding = jnp.finfo(pixel.dtype).eps ** 2 * norm / used  # nothing is known better than that
        variance = jnp.maximum(left / jnp.maximum(used - jnp.sum(free) + 1, 1), rounding)
    covariance, loose = batched(_uncertain, still, seen, unknown, variance)

    unknown = _differentiable(pixel, problem, unknown, free & ~loose)
    squared = squared_norm(_error(pixel, problem, unknown))
    fitted = eqx.filter(problem.at(unknown[count:]), eqx.is_inexact_array)
    count = problem.materials
    if count < problem.simplex:
        fitted = Nascimento(unknown[count:])
    return Solution(
        abundances=unknown[:count],
        residual=safe_sqrt(squared / used),
        gap=gap,
        steps=steps,
        converged=jnp.isfinite(squared) & ((gap <= tolerance(pixel.dtype)) | (norm == 0)),
        covariance=covariance[:count, :count],
        fitted=Fitted(fitted, covariance),
        unique=~jnp.any(loose[: problem.simplex]) & problem.linear.geometry.simplex.unique,
    )


def prepared(unmixer: Any) -> Any:
    """The same unmixer with `prepare_inversion` done, where it is `invert` with endmembers and a model."""
    if isinstance(unmixer, eqx.Partial) and unmixer.func is invert and not unmixer.args:
        endmembers, mixing = unmixer.keywords.get("endmembers"), unmixer.keywords.get("mixing")
        if endmembers is not None and mixing is not None and not isinstance(endmembers, PreparedInversion):
            return eqx.Partial(invert, endmembers=prepare_inversion(endmembers, mixing))
    return unmixer


def _error(pixel: Array, problem: PreparedInversion, unknown: Array) -> Array:
    """What the fit leaves of a pixel."""
    count = problem.simplex
    error = pixel - problem.at(unknown[count:])(unknown[:count], problem.endmembers)
    return error if problem.good is None else jnp.where(problem.good, error, 0.0)


def _still(problem: PreparedInversion) -> PreparedInversion:
    """The problem as a constant of differentiation."""
    return jax.tree.map(lambda x: jax.lax.stop_gradient(x) if eqx.is_array(x) else x, problem)


def _descended(problem: PreparedInversion, seen: dict[str, Array], scale: Array) -> tuple[Array, Array, Array]:
    """Unknowns, relative gap and turns of many pixels, which are the first axis here and the last inside."""
    view = problem.view
    found = descend(
        lambda unknown, data: problem.model(unknown, view.gather(seen, data)),
        lambda unknown, data: view.bend(problem, unknown, view.gather(seen, data)),
        problem.start(seen),
        view.rows(seen),
        scale,
        problem.region,
        chunk=view.chunk,
    )
    return found["unknown"].T, found["gap"] / jnp.where(scale > 0, scale, jnp.nan), found["steps"]


def _uncertain(
    problem: PreparedInversion, seen: dict[str, Array], unknown: Array, variance: Array
) -> tuple[Array, Array]:
    """Covariance of the unknowns, and which of them nothing tells."""
    view = problem.view
    rows = view.rows(seen) | {"unknown": unknown.T, "variance": variance}

    def judged(part: State) -> State:
        data = view.gather(seen, {name: part[name] for name in rows})
        curvature = where_needed(part["done"], lambda: problem.model(part["unknown"], data).curvature)
        spread, loose = covariance(part["unknown"], curvature, part["variance"], problem.region)
        return part | {"covariance": spread, "loose": loose, "done": jnp.ones_like(part["done"])}

    pixels, size = unknown.shape
    state = {
        **rows,
        "covariance": jnp.zeros((size, size, pixels), unknown.dtype),
        "loose": jnp.zeros((size, pixels), bool),
        "done": jnp.zeros(pixels, bool),
    }
    state = work_off(judged, state, chunk=view.chunk, max_rounds=1, constant=tuple(rows))
    return jnp.moveaxis(state["covariance"], -1, 0), state["loose"].T


def _differentiable(pixel: Array, problem: PreparedInversion, unknown: Array, free: Array) -> Array:
    """The unknowns with derivatives in the pixel and in ``problem.endmembers``."""
    arrays, static = eqx.partition(_still(problem), eqx.is_array)

    @jax.custom_jvp
    def attach(pixel: Array, spectra: Array, unknown: Array, free: Array, arrays: Any) -> Array:
        del pixel, spectra, free, arrays
        return unknown

    @attach.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        pixel, spectra, unknown, free, arrays = primals
        problem = eqx.combine(arrays, static)
        count, size = problem.simplex, len(unknown)

        def gradient(unknown: Array, pixel: Array, spectra: Array) -> Array:
            def objective(unknown: Array) -> Array:
                rendered = problem.at(unknown[count:])(unknown[:count], spectra)
                away = unknown[count:] - problem.center
                error = problem.whiten(rendered - pixel)
                return 0.5 * squared_norm(error) + 0.5 * jnp.sum(problem.precision * away**2)

            return jnp.where(free, jax.grad(objective)(unknown), 0.0)

        _, change = jax.jvp(lambda *inputs: gradient(unknown, *inputs), (pixel, spectra), tangents[:2])
        curvature = jax.jacfwd(gradient)(unknown, pixel, spectra)
        both = free[:, None] & free[None, :]
        diagonal = jnp.where(free, jnp.diag(curvature), 1.0)
        scales = safe_sqrt(jnp.abs(diagonal))
        scales = jnp.where(scales > 0, scales, 1.0)
        matrix = jnp.where(both, curvature / scales[:, None] / scales, 0.0) + jnp.diag(jnp.where(free, 0.0, 1.0))
        border = jnp.where(free & (jnp.arange(size) < count), 1 / scales, 0.0)
        border = border / jnp.maximum(jnp.max(border), jnp.finfo(border.dtype).tiny)
        bordered = jnp.block([[matrix, border[:, None]], [border[None], jnp.zeros((1, 1), matrix.dtype)]])
        turned = -solve_symmetric(bordered, jnp.append(change / scales, 0.0))[:size] / scales
        return unknown, turned

    return attach(pixel, problem.endmembers, unknown, free, arrays)
