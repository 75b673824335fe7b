"""Abundances, and the parameters of a mixing model, of one pixel: ``invert`` for any model of `physics.mixing`.

One contract for linear, bilinear, polynomial, multilinear and intimate mixtures. Abundances stay on the simplex and
parameters within their limits; the descent is of second order, and pixels that are done leave the batch.
"""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from unmix_jax.linalg import safe_sqrt, solve_symmetric, squared_norm
from unmix_jax.physics.mixing import Mixing, Nascimento
from unmix_jax.solvers.active_set import tolerance
from unmix_jax.solvers.batching import batched, check_pixel
from unmix_jax.solvers.inversion_prepare import PreparedInversion, prepare_inversion
from unmix_jax.solvers.lanes import over
from unmix_jax.solvers.simplex_box import covariance, descend, on_no_bound, project, quadratic_step, where_needed
from unmix_jax.solvers.worklist import State, work_off
from unmix_jax.types import Solution

__all__ = ["Fitted", "PreparedInversion", "invert", "prepare_inversion", "prepared"]

# The change of an abundance by a step of Newton from the answer, above which it is not converged, in float32 and in
# float64: as much as the bound on abundances may be in the convex solvers.
LONGEST, LONGEST_64 = 1e-3, 1e-6
# and above which float32 goes on in float64: a tenth, since the step is that of Gauss–Newton and not exact
FINE = 1e-4


class Fitted(eqx.Module):
    """What an inversion estimates besides abundances.

    Attributes:
        mixing: the model's fitted fields, and nothing else of it: ``eqx.combine(fitted.mixing, mixing)`` is the model
            that renders.
        covariance: of abundances and fitted fields, abundances first, as `Solution.covariance` is its first block.
    """

    mixing: Any
    covariance: Float[Array, "unknown unknown"]


def invert(
    pixel: Float[Any, " band"],
    endmembers: Float[Any, "endmember band"] | PreparedInversion,
    mixing: Mixing | None = None,
    *,
    fit: str | Sequence[str] | None = None,
) -> Solution:
    """Abundances and parameters of a mixing model, by least squares.

    argmin ½‖(y − mixing(a, E)) / σ‖² over a ≥ 0, Σa = 1 and the model's fitted fields within their limits, plus
    ½‖(p − p₀) / s‖² where they have a prior. The objective is not convex: what is found is a stationary point, from
    fully constrained least squares on (in albedo for Hapke's model), which noise-free simulations recover.

    Derivatives of abundances, residual and fitted fields, in the pixel, the endmembers, the known fields of the model,
    the noise, the prior and the limits, are those of the implicit function theorem with what is on a bound held there,
    of first and higher order. Gap and covariance are constants of differentiation.

    Args:
        pixel: spectrum, in the unit of the endmembers.
        endmembers: spectra as rows, or what `prepare_inversion` made of them and the model, which has more options.
        mixing: a model of `physics.mixing` or `physics.hapke`, or any callable pytree ``(abundances, endmembers) ->
            spectrum`` of one pixel. Its fitted fields start at the values they have; all other fields are known.
        fit: names of the fields of the model that are fitted, none with ``()``; None: those that its class lists in
            ``fitted``. The type of a value decides nothing: a known parameter stays known under ``jit`` and ``grad``.

    Returns:
        A `Solution`. Its gap is what the objective could still lose, to first order over the simplex and to second in
        each parameter, over half the squared norm of the pixel. ``converged`` also asks that a step of Newton from
        there, computed in float64, changes no abundance by more than 1e-3 (1e-6 in float64). ``fitted`` is a `Fitted`:
        the model as fitted, and the covariance of abundances and parameters at the noise given, or estimated from the
        residual. What the spectrum tells nothing of (the interaction of a material that is absent) keeps its start; its
        variance is that of its limits, infinite where it has none. Where the model renders something that is not
        finite, abundances, residual and covariance are NaN and ``converged`` is False. As there is no convexity,
        ``abundance_bound`` is None.

    Raises:
        ValueError: no model, a model or ``fit`` besides a prepared problem, shapes that disagree, what
            `prepare_inversion` raises, or a derivative in the start of a field that is fitted because of its class
            alone: the fit does not depend on where it starts, and a known parameter needs ``fit=()``.

    Reference:
        Golub and Pereyra 1973, 10.1137/0710036, for problems partly linear; the models' papers stand with the models.
    """
    if isinstance(endmembers, PreparedInversion):
        if mixing is not None or fit is not None:
            other = "another" if mixing is not None else "fit: prepare_inversion takes it"
            raise ValueError(f"the prepared problem has its mixing model: do not give {other}")
        problem = endmembers
    elif mixing is None:
        raise ValueError("invert needs a mixing model, of physics.mixing for instance")
    else:
        problem = prepare_inversion(endmembers, mixing, fit=fit)
    bands = problem.endmembers.shape[1]
    check_pixel(pixel, bands)
    pixel = jnp.asarray(pixel)
    pixel = pixel.astype(jnp.result_type(pixel, problem.endmembers))
    if problem.good is not None:
        pixel = jnp.where(problem.good, pixel, 0.0)
    still, count = _still(problem), problem.simplex
    seen = still.view.see(still, jax.lax.stop_gradient(pixel))
    norm = squared_norm(problem.whiten(jax.lax.stop_gradient(pixel)))
    energy = 0.5 * _energy(norm, still)
    unknown, gap, steps, left = _constant(_descended, still, seen, energy)

    used = jnp.asarray(bands if problem.good is None else jnp.sum(problem.good), pixel.dtype)
    free = on_no_bound(unknown[:, None], still.region)[:, 0]
    variance = jnp.ones((), pixel.dtype)
    if not problem.known_noise:
        misfit = squared_norm(_error(jax.lax.stop_gradient(pixel), still, unknown))
        rounding = jnp.finfo(pixel.dtype).eps ** 2 * norm / used  # nothing is known better than that
        variance = jnp.maximum(misfit / jnp.maximum(used - jnp.sum(free) + 1, 1), rounding)
    covariance, loose = _constant(_uncertain, still, seen, unknown, variance)

    unknown = _differentiable(pixel, problem, unknown, free & ~loose)
    squared = squared_norm(_error(pixel, problem, unknown))
    failed = ~jnp.isfinite(squared)
    unknown, squared = jnp.where(failed, jnp.nan, unknown), jnp.where(failed, jnp.nan, squared)
    covariance = jnp.where(failed, jnp.nan, covariance)
    fitted = problem.fitted(unknown[count:])
    count = problem.materials
    if count < problem.simplex:
        fitted = Nascimento(unknown[count:])
    info = jnp.finfo(pixel.dtype)
    # squares of smaller pixels lose digits or are zero, and no gap means anything
    seen_at_all = (norm > float(info.tiny) / float(info.eps) ** 2) | jnp.all(pixel == 0)
    near = left <= (LONGEST if info.bits == 32 else LONGEST_64)
    solved = ~failed & (gap <= tolerance(info.dtype)) & near & seen_at_all
    return Solution(
        abundances=unknown[:count],
        residual=safe_sqrt(squared / used),
        gap=jnp.where(norm > 0, gap, jnp.nan),
        steps=steps,
        converged=solved,
        covariance=covariance[:count, :count],
        fitted=Fitted(fitted, covariance),
        unique=~failed & ~jnp.any(loose[: problem.simplex]) & problem.linear.geometry.simplex.unique,
    )


def prepared(unmixer: Any, good: Any = None) -> Any:
    """The same unmixer with `prepare_inversion` done, for good bands, where it is `invert` with an array."""
    if isinstance(unmixer, eqx.Partial) and unmixer.func is invert and not unmixer.args:
        endmembers, mixing = unmixer.keywords.get("endmembers"), unmixer.keywords.get("mixing")
        if endmembers is not None and mixing is not None and not isinstance(endmembers, PreparedInversion):
            problem = prepare_inversion(endmembers, mixing, good_bands=good, fit=unmixer.keywords.get("fit"))
            return eqx.Partial(invert, endmembers=problem)
    return unmixer


def _error(pixel: Array, problem: PreparedInversion, unknown: Array) -> Array:
    """What the fit leaves of a pixel."""
    count = problem.simplex
    error = pixel - problem.at(unknown[count:])(unknown[:count], problem.endmembers)
    return error if problem.good is None else jnp.where(problem.good, error, 0.0)


def _constant(function: Callable[..., Any], shared: Any, *own: Any) -> Any:
    """``batched(function, shared, *own)`` as a constant of differentiation, of any order.

    The arguments are constants already; but a custom rule of ``vmap`` cannot be differentiated twice, even so.
    """
    arrays, static = eqx.partition(shared, eqx.is_array)

    @jax.custom_jvp
    def held(arrays: Any, *own: Any) -> Any:
        return batched(function, eqx.combine(arrays, static), *own)

    @held.defjvp
    def _(primals: Any, _: Any) -> Any:
        answer = held(*primals)
        return answer, jax.tree.map(_no_tangent, answer)

    return held(arrays, *own)


def _no_tangent(value: Array) -> Any:
    inexact = jnp.issubdtype(value.dtype, jnp.inexact)
    return jnp.zeros_like(value) if inexact else np.zeros(value.shape, jax.dtypes.float0)


def _energy(norm: Array, problem: PreparedInversion) -> Array:
    """Squared norm that gaps are measured by: that of the pixel, or for a pixel of zeros that of the endmembers."""
    spectra = problem.whiten(problem.endmembers)
    return jnp.where(norm == 0, jnp.sum(spectra**2) / len(spectra), norm)


def _still(problem: PreparedInversion) -> PreparedInversion:
    """The problem as a constant of differentiation."""
    return jax.tree.map(lambda x: jax.lax.stop_gradient(x) if eqx.is_array(x) else x, problem)


def _descended(problem: PreparedInversion, seen: dict[str, Array], scale: Array) -> tuple[Array, Array, Array, Array]:
    """Unknowns, relative gap, steps, and the step of Newton that is left; many pixels, which are the first axis here.

    A gap of float32 says little of abundances where endmembers are nearly alike: curvature there is the square of the
    condition number down. So the step from the end of the descent to the minimum of the quadratic model is computed in
    float64. Where it is long, or the gap too large, the descent goes on in float64.
    """
    if scale.dtype == jnp.float64:
        unknown, gap, steps = _descent(problem, seen, problem.start(seen), scale)
        return unknown.T, gap, steps, _left(problem, seen, unknown)
    unknown, gap, steps = _descent(problem, seen, problem.start(seen), scale)
    with jax.enable_x64(True):
        precise, seen, point = jax.tree.map(_widened, (problem, seen, unknown))
        point = project(point, precise.region)
        left = _left(precise, seen, point)
        fine = (left <= FINE) & (gap <= tolerance(jnp.float32))
        wide = scale.astype(jnp.float64)
        better, lower, more = _descent(precise, seen, point, jnp.where(fine, jnp.inf, wide), wide)
        better = jnp.where(fine, point, better)
        again = jnp.any(~fine & jnp.isfinite(wide))
        left = jax.lax.cond(again, lambda: _left(precise, seen, better), lambda: left)
        gap = jnp.where(fine, gap.astype(jnp.float64), lower)
    return (
        better.T.astype(scale.dtype),
        gap.astype(scale.dtype),
        steps + jnp.where(fine, 0, more),
        left.astype(scale.dtype),
    )


def _widened(x: Any) -> Any:
    """In float64, if it is in float32."""
    return x.astype(jnp.float64) if eqx.is_array(x) and x.dtype == jnp.float32 else x


def _descent(
    problem: PreparedInversion, seen: dict[str, Array], start: Array, scale: Array, energy: Array | None = None
) -> tuple[Array, Array, Array]:
    """Unknowns [unknown, pixel], gap over the energy, and steps; pixels with an infinite scale stay where they are."""
    view = problem.view
    found = descend(
        lambda unknown, data: problem.model(unknown, view.gather(seen, data)),
        lambda unknown, data: view.bend(problem, unknown, view.gather(seen, data)),
        start,
        view.rows(seen),
        scale,
        problem.region,
        chunk=view.chunk,
    )
    energy = scale if energy is None else energy
    return found["unknown"], found["gap"] / jnp.where(energy > 0, energy, jnp.nan), found["steps"]


def _left(problem: PreparedInversion, seen: dict[str, Array], unknown: Array) -> Array:
    """The largest change of an abundance by the step to the minimum of the quadratic model; NaN where there is none."""
    view, count = problem.view, problem.simplex
    rows = view.rows(seen) | {"unknown": unknown}

    def judged(part: State) -> State:
        data = view.gather(seen, {name: part[name] for name in rows})
        model = where_needed(part["done"], lambda: problem.model(part["unknown"], data))
        step = quadratic_step(
            part["unknown"], model.gradient, model.curvature, jnp.zeros_like(model.value), problem.region
        )
        largest = over(jnp.maximum, jnp.abs(step[:count]))
        largest = jnp.where(jnp.isfinite(model.value), largest, jnp.nan)
        return part | {"left": jnp.where(part["done"], part["left"], largest), "done": jnp.ones_like(part["done"])}

    pixels = unknown.shape[1]
    state = {**rows, "left": jnp.full(pixels, jnp.nan, unknown.dtype), "done": jnp.zeros(pixels, bool)}
    return work_off(judged, state, chunk=view.chunk, max_rounds=1, constant=tuple(rows))["left"]


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
    """The unknowns with derivatives in the pixel and in all that the problem holds.

    Where something is on a bound it stays there: a parameter moves with its limit. With G the gradient of the
    objective in what is free, ``G(u, θ) = 0`` gives ``G_u du = −G_θ dθ``, with the sum of the abundances held.
    """
    used = eqx.tree_at(lambda problem: (problem.linear, problem.view), problem, (None, None))  # no objective needs them
    arrays, static = eqx.partition(used, eqx.is_array)
    numbers, others = eqx.partition(arrays, eqx.is_inexact_array)

    @jax.custom_jvp
    def attach(pixel: Array, numbers: Any, unknown: Array, free: Array, others: Any) -> Array:
        del pixel, numbers, free, others
        return unknown

    def rule(primals: Any, tangents: Any) -> Any:
        pixel, numbers, unknown, free, others = primals
        unknown = attach(*primals)  # with its derivatives, for those of higher order
        problem = eqx.combine(numbers, others, static)
        if not problem.told and not isinstance(tangents[1].center, SymbolicZero):
            raise ValueError(
                f"{', '.join(problem.fit)} of {type(problem.mixing).__name__} is fitted, and what is found does not "
                "depend on where it starts: there is no derivative in it. Give fit=() if it is known, or fit with its "
                "name if the derivative zero is what you want"
            )
        moves, changes = (jax.tree.map(_filled, tangent, is_leaf=_is_zero) for tangent in tangents[:2])
        count, size = problem.simplex, len(unknown)

        def gradient(unknown: Array, pixel: Array, numbers: Any) -> Array:
            problem = eqx.combine(numbers, others, static)

            def objective(unknown: Array) -> Array:
                rendered = problem.at(unknown[count:])(unknown[:count], problem.endmembers)
                away = unknown[count:] - problem.center
                error = problem.whiten(rendered - pixel)
                return 0.5 * squared_norm(error) + 0.5 * jnp.sum(problem.precision * away**2)

            return jnp.where(free, jax.grad(objective)(unknown), 0.0)

        parameters = unknown[count:]
        moved = jnp.where(parameters <= problem.low, changes.low, 0.0)
        moved = jnp.where((parameters >= problem.high) & (parameters > problem.low), changes.high, moved)
        held = jnp.concatenate([jnp.zeros(count, unknown.dtype), jnp.where(free[count:], 0.0, moved)])
        _, change = jax.jvp(gradient, (unknown, pixel, numbers), (held, moves, changes))
        curvature = jax.jacfwd(gradient)(unknown, pixel, numbers)
        both = free[:, None] & free[None, :]
        diagonal = jnp.where(free, jnp.diag(curvature), 1.0)
        scales = safe_sqrt(jnp.abs(diagonal))
        scales = jnp.where(scales > 0, scales, 1.0)
        matrix = jnp.where(both, curvature / scales[:, None] / scales, 0.0) + jnp.diag(jnp.where(free, 0.0, 1.0))
        border = jnp.where(free & (jnp.arange(size) < count), 1 / scales, 0.0)
        border = border / jnp.maximum(jnp.max(border), jnp.finfo(border.dtype).tiny)
        bordered = jnp.block([[matrix, border[:, None]], [border[None], jnp.zeros((1, 1), matrix.dtype)]])
        turned = -solve_symmetric(bordered, jnp.append(change / scales, 0.0))[:size] / scales
        return unknown, turned + held

    attach.defjvp(rule, symbolic_zeros=True)
    still = jax.lax.stop_gradient
    return attach(pixel, numbers, still(unknown), still(free), others)


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, SymbolicZero)


def _filled(tangent: Any) -> Any:
    """A tangent, with zeros where it is known to be zero."""
    return jnp.zeros(tangent.shape, tangent.dtype) if isinstance(tangent, SymbolicZero) else tangent
