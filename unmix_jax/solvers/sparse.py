"""Abundances over libraries that are larger than any mixture, exact and certified: ``sunsal`` and ``lp_sunsal``.

Supports are searched in the precision of the pixels and solved in float64: members of a library are alike, and float32
certified abundances that were off by up to 0.6.

Each takes one pixel and the library and returns a `Solution`; batch with ``unmix`` or ``jax.vmap``. Wherever the
library stands, an array or what `prepare_sparse` made of it may be passed. They have no derivatives, and say so.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

from unmix_jax.linalg import matmul, squared_norm
from unmix_jax.solvers.batching import batched, check_pixel, without_derivatives
from unmix_jax.solvers.certificate import Measured, abundance_tolerance, proved, tolerance
from unmix_jax.solvers.residual import squared_residual
from unmix_jax.solvers.tableau import Dictionary, dense
from unmix_jax.solvers.tables import checked, directions, factored, kept, power_of_two, whiten_adjoint
from unmix_jax.solvers.working_set import CHUNK, empty, excess_of, solve_on_working_sets
from unmix_jax.solvers.worklist import State, work_off
from unmix_jax.types import Solution

SMALL = 1024  # members of a library whose Gram matrix is kept: 8 MiB in float64

__all__ = ["PreparedLibrary", "lp_sunsal", "prepare_sparse", "prepared", "sunsal"]


class PreparedLibrary(eqx.Module):
    """A library with what does not depend on the pixel; no array is as large as its square.

    Attributes:
        endmembers: [member, band], zero in bands that do not count.
        good: bands of positive weight; None where all are.
        plain: whether bands weigh alike, so that the residual follows from the reduced problem.
        projector: ``z = pixel @ projector``, whitening included.
        dictionary: the reduced problem.
        exact_projector: the projector in float64, to the unit of ``exact``.
        exact: the reduced problem in float64; its longest member has a length of about one.
        unit: length of one in the space of ``exact``, in the unit of the pixels.
        sensitivity: norm of the pseudo-inverse of the factor of ``exact``; infinite where members depend on each other.
    """

    endmembers: Float[Array, "member band"]
    good: Bool[Array, " band"] | None
    plain: bool = eqx.field(static=True)
    projector: Float[Array, "band latent"]
    dictionary: Dictionary
    exact_projector: Float[Array, "band latent"]
    exact: Dictionary
    unit: Float[Array, ""]
    sensitivity: Float[Array, ""]


def prepare_sparse(
    library: Float[Any, "member band"],
    *,
    weights: Shaped[Any, " band"] | None = None,
    noise_covariance: Float[Any, "band band"] | None = None,
) -> PreparedLibrary:
    """Do once what sparse unmixing with this library needs for every pixel: one singular value decomposition.

    The solvers then minimise ½ (y − aE) W (y − aE)ᵀ plus their penalty, with W = diag(weights) or the inverse noise
    covariance.

    Args:
        library: spectra as rows, in the unit of the pixels; there may be thousands.
        weights: non-negative weight of each band, 1/variance for instance; 0 leaves a band out, whatever it holds.
        noise_covariance: covariance of the noise between bands, in the squared unit of the pixels; together with
            ``weights`` only the zeros of the latter count.

    Returns:
        A `PreparedLibrary` pytree.

    Raises:
        ValueError: if shapes disagree, spectra or weights are not finite in the bands that count, weights are negative,
            or the covariance is not positive definite.
    """
    _, white, whitener, good, dtype = checked(library, weights, noise_covariance)
    xp: Any = jnp if isinstance(white, jax.Array) else np
    with jax.enable_x64(True):
        factor, basis = factored(white)
        factor, _, reach = directions(factor)
        projector = whiten_adjoint(xp, basis, whitener)
        unit = power_of_two(xp, xp.sqrt((factor**2).sum(0)).max())
        # columns of the factor are members, rows its singular directions: their lengths are the singular values
        singular = xp.sqrt((factor**2).sum(1)) / unit
        full = factor.shape[0] >= factor.shape[1]
        sensitivity = xp.where(full & (singular.min() > 0), 1 / xp.where(singular > 0, singular, 1.0).min(), xp.inf)

        def dictionary(unit: Any, dtype: Any) -> Dictionary:
            with np.errstate(over="ignore"):  # infinite squares: only where supports are guessed
                return Dictionary(
                    factor=jnp.asarray(factor / unit, dtype),
                    reach=jnp.asarray(reach / unit, dtype),
                    gram=jnp.asarray(factor.T @ factor / unit**2, dtype) if len(white) <= SMALL else None,
                )

        return PreparedLibrary(
            endmembers=kept(library, good, dtype),
            good=None if good is None else jnp.asarray(good),
            plain=whitener is None,
            projector=jnp.asarray(projector, dtype),
            dictionary=dictionary(1.0, dtype),
            exact_projector=jnp.asarray(projector / unit, float),
            exact=dictionary(unit, float),
            unit=jnp.asarray(unit, float),
            sensitivity=jnp.asarray(sensitivity, float),
        )


def sunsal(
    pixel: Float[Any, " band"],
    library: Float[Any, "member band"] | PreparedLibrary,
    *,
    l1: Any = 0.0,
    sum_to_one: bool = False,
    slots: int | None = None,
) -> Solution:
    """Sparse unmixing by least squares with an l1 penalty, exact.

    argmin_a ½‖y − aE‖² + l1 Σa subject to a ≥ 0, and Σa = 1 where asked for; the penalty is then the constant l1 and
    changes nothing. ``l1=0`` is non-negative least squares. A spectrum of zeros is a shade under Σa = 1, and never used
    otherwise.

    Args:
        pixel: spectrum, in the unit of the library.
        library: spectra as rows, or `PreparedLibrary`.
        l1: weight of the penalty, in the squared unit of the pixel; an array may be swept without compiling again.
        sum_to_one: whether abundances sum to one.
        slots: most members of one mixture; None: one more than the rank can be, at most 96. Where more were needed, the
            solution has ``converged`` False and a gap that says by how much.

    Returns:
        A `Solution` with a duality gap and a bound on the abundances, both over the whole library. ``unique`` is True
        where the bound is finite: the gradients of absent members prove that no other mixture is as good.

    Raises:
        ValueError: if pixel and library differ in their number of bands, or l1 is negative.

    Reference:
        Bioucas-Dias and Figueiredo 2010, 10.1109/WHISPERS.2010.5594963 (problem; their splitting method is not exact).
    """
    problem, pixel = taken(pixel, library)
    l1 = penalty_weight("l1", l1, pixel.dtype)

    def many(problem: PreparedLibrary, pixels: Array, l1: Array) -> tuple[Array, ...]:
        return _solved(problem, pixels, l1, sum_to_one, slots)

    return solution_of(problem, pixel, *batched(many, problem, pixel, l1))


def lp_sunsal(
    pixel: Float[Any, " band"],
    library: Float[Any, "member band"] | PreparedLibrary,
    *,
    lp: Any,
    p: Any = 0.95,
    sum_to_one: bool = True,
    smoothing: Any = 1e-3,
    slots: int | None = None,
    max_steps: int = 200,
) -> Solution:
    """Sparse unmixing by least squares with a concave penalty, which is sparse on the simplex too.

    A stationary point of ½‖y − aE‖² + lp (Σ_j (a_j + s)^p)^(1/p), 0 < p ≤ 1, over a ≥ 0, and Σa = 1 unless told
    otherwise. The penalty is concave: its tangent at the last abundances lies above it, and what remains is exact
    unmixing with a cost for each member. The objective falls with every such step, from the abundances of ``sunsal``
    on. It is not convex: another start may end in another point.

    Args:
        pixel: spectrum, in the unit of the library.
        library: spectra as rows, or `PreparedLibrary`.
        lp: weight of the penalty, in the squared unit of the pixel. Janiczek et al. minimise twice this objective.
        p: exponent; near 1 nearly nothing happens on the simplex, at 0.5 small abundances vanish.
        sum_to_one: whether abundances sum to one.
        smoothing: s, the abundance below which absence costs little more; positive.
        slots: as in `sunsal`.
        max_steps: most tangents.

    Returns:
        A `Solution`. Its gap is the duality gap of the problem with the tangent at the abundances found: zero where
        they are stationary. It does not bound the distance to the global minimum.

    Raises:
        ValueError: if pixel and library differ in their number of bands, or lp, p or smoothing are out of range.

    Reference:
        Janiczek et al. 2020, arXiv:2007.05996, for the penalty; Candès, Wakin and Boyd 2008,
        10.1007/s00041-008-9045-x, for sparsity by reweighting.
    """
    problem, pixel = taken(pixel, library)
    lp = penalty_weight("lp", lp, pixel.dtype)
    for name, value, most in (("p", p, 1.0), ("smoothing", smoothing, np.inf)):
        if not isinstance(value, jax.core.Tracer) and not 0 < value <= most:
            raise ValueError(f"{name} must be positive{'' if most > 1 else ' and at most 1'}, got {value}")
    p, smoothing = jnp.asarray(p, pixel.dtype), jnp.asarray(smoothing, pixel.dtype)

    def many(problem: PreparedLibrary, pixels: Array, lp: Array, p: Array, smoothing: Array) -> tuple[Array, ...]:
        dtype = pixels.dtype
        with jax.enable_x64(True):
            z = matmul(pixels.astype(float), problem.exact_projector)
            lp, p, smoothing = (x.astype(float) for x in (lp, p, smoothing))
            own = {"lp": lp / problem.unit**2, "p": p, "smoothing": smoothing}
            state = _reweighted(problem, z, own, sum_to_one, slots, max_steps, 0.3 * tolerance(dtype))
            return answer_of(problem, state, problem.unit, dtype)

    return solution_of(problem, pixel, *batched(many, problem, pixel, lp, p, smoothing))


def _tangent(part: State, count: int) -> Array:
    """Costs of the members where the penalty is replaced by its tangent, [pixel, member]."""
    power, weight = part["p"][:, None], part["lp"][:, None]
    shifted = dense(part["members"].T, part["amounts"].T, count) + part["smoothing"][:, None]
    total = jnp.sum(shifted**power, 1, keepdims=True)
    return weight * total ** (1 / power - 1) * shifted ** (power - 1)


def _reweighted(
    problem: PreparedLibrary,
    z: Array,
    own: State,
    sum_to_one: bool,
    slots: int | None,
    max_steps: int,
    enough: float,
) -> State:
    """Tangent after tangent, each problem solved exactly from the support of the last, in float64."""
    dictionary, count = problem.exact, problem.endmembers.shape[0]

    def advance(part: State) -> State:
        costs = jnp.where(part["fresh"], part["lp"], _tangent(part, count).T)
        given = {name: part[name] for name in own} | {"costs": costs}
        new = solve_on_working_sets(
            dictionary, part["z"], lambda s: (s["costs"].T, None), given, sum_to_one=sum_to_one, slots=slots, start=part
        )
        costs = _tangent(new, count)
        amounts, rest = new["amounts"].T, new["rest"].T
        gradient = costs - matmul(rest, dictionary.factor)
        abundances = dense(new["members"].T, amounts, count)
        slack, norm = jnp.sum(gradient * abundances, 1), jnp.sqrt(jnp.sum(new["z"] ** 2, 0))
        value = 0.5 * jnp.sum(rest**2, 1) + jnp.sum(costs * abundances, 1)
        excess = excess_of(dictionary, gradient, costs, slack, value, norm, sum_to_one)
        new = {name: new[name] for name in part if name != "fresh"} | {
            "fresh": jnp.zeros_like(part["fresh"]),
            "excess": excess,
            "steps": part["steps"] + new["steps"],
            "done": excess <= 0.5 * enough * norm**2,
        }
        return {name: jnp.where(part["done"], part[name], value) for name, value in new.items()}

    state = empty(dictionary, z.T, slots) | own | {"fresh": jnp.ones(len(z), bool)}
    return work_off(advance, state, chunk=CHUNK, max_rounds=max_steps + 1, constant=("z", *own))


def prepared(unmixer: Any, good: Any = None) -> Any:
    """The same unmixer with `prepare_sparse` done, for good bands, where it is one of these solvers with an array."""
    if isinstance(unmixer, eqx.Partial) and unmixer.func in (sunsal, lp_sunsal) and not unmixer.args:
        library = unmixer.keywords.get("library")
        if library is not None and not isinstance(library, PreparedLibrary):
            return eqx.Partial(unmixer.func, **{**unmixer.keywords, "library": prepare_sparse(library, weights=good)})
    return unmixer


def _solved(
    problem: PreparedLibrary, pixels: Array, l1: Array, sum_to_one: bool, slots: int | None
) -> tuple[Array, ...]:
    """Abundances and what goes with them of many pixels, each with its own l1; supports first, then float64."""
    dtype, start = pixels.dtype, None

    def on_supports(dictionary: Dictionary, z: Array, l1: Array, start: State | None) -> State:
        own = {"l1": l1}
        return solve_on_working_sets(
            dictionary,
            z.T,
            lambda part: (part["l1"][:, None], None),
            own,
            sum_to_one=sum_to_one,
            slots=slots,
            start=start,
        )

    if dtype != jnp.float64:
        start = on_supports(problem.dictionary, matmul(pixels, problem.projector), l1, None)
    with jax.enable_x64(True):
        if start is not None:
            start = start | {"amounts": start["amounts"].astype(float)}
        z = matmul(pixels.astype(float), problem.exact_projector)
        weight = l1.astype(float) / problem.unit**2
        state = on_supports(problem.exact, z, weight, start)

        def judge(part: State) -> State:
            """Bounds of a chunk."""
            abundances = dense(part["members"].T, part["amounts"].T, problem.endmembers.shape[0])
            proof = proved(
                problem.exact.factor, problem.exact.gram, part["z"].T, abundances, part["l1"][:, None],
                sum_to_one, problem.sensitivity,
                measured=Measured(part["length"], brightest, part["length"] ** 2),
            )  # fmt: skip
            excess = jnp.where(part["excess"] <= proof[0], part["excess"], proof[0])
            return part | {"excess": excess, "bound": proof[1], "done": jnp.ones_like(part["done"])}

        # the whitened pixel is not at hand: its length is no more than this
        root = 1.0 / problem.unit if problem.plain else jnp.sqrt(jnp.sum(problem.exact_projector**2))
        length = jnp.sqrt(jnp.sum(pixels.astype(float) ** 2, 1)) * root
        brightest = jnp.max(jnp.sqrt(jnp.sum(problem.endmembers.astype(float) ** 2, 1))) * root
        state |= {"length": length}

        hopeless = ~jnp.isfinite(jnp.sum(z, 1))
        state |= {"bound": jnp.full(len(z), jnp.nan), "done": hopeless}
        fixed = [name for name in state if name not in ("excess", "bound", "done")]
        state = work_off(judge, state, chunk=CHUNK, max_rounds=1, constant=fixed)
        state["steps"] = state["steps"] + (0 if start is None else start["steps"])
        return answer_of(problem, state, problem.unit, dtype)


def answer_of(problem: PreparedLibrary, state: State, unit: Any = 1.0, dtype: Any = None) -> tuple[Array, ...]:
    """Abundances, excess, what the fit explains, steps and bound (or uniqueness), pixels first.

    Args:
        problem: the library.
        state: of the working sets; with ``bound``, or with ``alone`` in its place.
        unit: length of one in the space of the state, in the unit of the pixels.
        dtype: of the answer; None: that of the state.
    """
    dtype = dtype or state["z"].dtype
    explained = jnp.sum(state["z"] ** 2, 0) - jnp.sum(state["rest"] ** 2, 0)
    abundances = dense(state["members"].T, state["amounts"].T, problem.endmembers.shape[0])
    abundances = jnp.where(jnp.isfinite(state["z"].sum(0))[:, None], abundances, jnp.nan)
    last = state["alone"]
    if "bound" in state:
        last = (state["bound"] + jnp.max(abundances, 1) * jnp.finfo(dtype).eps).astype(dtype)
    excess, explained = ((x * unit**2).astype(dtype) for x in (state["excess"], explained))
    return abundances.astype(dtype), excess, explained, state["steps"], last


def penalty_weight(name: str, value: Any, dtype: Any) -> Array:
    """A weight that is not negative, as an array."""
    if not isinstance(value, jax.core.Tracer) and not (np.ndim(value) == 0 and np.all(np.asarray(value) >= 0)):
        raise ValueError(f"{name} must be one number that is not negative, got {value}")
    return jnp.asarray(value, dtype)


def taken(pixel: Any, library: Any) -> tuple[PreparedLibrary, Array]:
    """The prepared library and the pixel, checked."""
    problem = library if isinstance(library, PreparedLibrary) else prepare_sparse(library)
    check_pixel(pixel, problem.endmembers.shape[1])
    pixel = jnp.asarray(pixel, jnp.result_type(pixel.dtype, problem.endmembers.dtype))
    problem, pixel = without_derivatives("a sparse solver (sunsal, lp_sunsal, bundle_fcls)", (problem, pixel))
    return problem, pixel if problem.good is None else jnp.where(problem.good, pixel, 0.0)


def solution_of(
    problem: PreparedLibrary,
    pixel: Array,
    abundances: Array,
    excess: Array,
    explained: Array,
    steps: Array,
    last: Array,
    *,
    enough: float | None = None,
) -> Solution:
    """What the kernel found of one pixel, with residual and gap; ``last`` is a bound, or says whether it is unique."""
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
    solved = jnp.isfinite(squared) & ~(gap > (enough or tolerance(pixel.dtype))) & jnp.isfinite(excess)
    bound = None
    if last.dtype != bool:
        bound, last = last, jnp.isfinite(last)
        solved &= bound <= abundance_tolerance(pixel.dtype) * jnp.maximum(jnp.max(abundances), 1.0)
    return Solution(
        abundances=abundances,
        residual=jnp.sqrt(jnp.maximum(squared, 0) / bands),
        gap=gap,
        steps=steps,
        converged=solved,
        unique=last,
        abundance_bound=bound,
    )
