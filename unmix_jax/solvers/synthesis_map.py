"""The most probable abundances and displacements of a pixel: damped Gauss-Newton with the abundances projected out.

A step costs little more than the derivatives of the endmembers that move. They are computed in some of the bands,
those that tell the others (`PreparedSynthesis.sampled`); only the parameters of greatest effect enter the covariance.
What is approximate there makes a step worse, not its result: the objective is that of spectra rendered in all bands.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unmix_jax.linalg import matmul, squared_norm
from unmix_jax.physics.variation import linearise
from unmix_jax.solvers.synthesis_basis import PreparedSynthesis
from unmix_jax.solvers.synthesis_marginal import marginal_of, see, solution
from unmix_jax.solvers.synthesis_simplex import (
    back,
    frank_wolfe_gap,
    in_chunks,
    simplex_solve,
    support_covariance,
    whiten_rows,
)
from unmix_jax.types import Solution

__all__ = ["map_synthesis"]

CHUNK = {"cpu": 1}  # pixels that step together: the slowest keeps the others waiting, and a core gains nothing by it
OTHER_CHUNK = 64  # on devices that compute in parallel
SHORTEST = 0.05  # of a step, before it is given up
WALLS = 3  # turns in which a step finds out which parameters stay on the wall of the box
STRONGEST = 64  # parameters for each member that moves, on average; those of less effect wait
EXCHANGED = 64  # of these that go to a wall or leave it in a turn
FIRST, MOST = 0.3, 1e3  # damping, relative to the prior
STALLED = 2  # steps with too little gain, one after another, that end a fit


def map_synthesis(
    pixel: Float[Any, " band"],
    endmembers: PreparedSynthesis,
    *,
    max_steps: int = 24,
    members: int = 12,
    reweightings: int = 3,
    tol: float = 1e-3,
    start: Float[Any, "endmember parameter"] | None = None,
    guess: Float[Any, " endmember"] | None = None,
    displacement: bool = False,
) -> Solution:
    """The most probable abundances and displacements, spectra rendered anew at each step.

    argmin_{x, u} ½‖y − xE(u)‖² + ½ Σ (u / prior)² over x ≥ 0, Σx = 1, −1 ≤ u ≤ 1, in the whitened basis. Each step
    linearises E at u and solves for x and u together, with a damping that falls as steps succeed: u in closed form
    between the walls of the box, x exactly over active sets with the covariance that the free u cause. The endmembers
    are rendered there and x solved for again, exactly; the step is shortened until the objective falls. The minimum is
    a local one. The derivative in the pixel is that of the last linearised problem.

    Where noise and box are right, these are closer to the truth than the abundances of `marginal`. Where spectra differ
    from all that can be rendered, they follow the endmembers that bend most easily; tell the noise what the generator
    lacks (`scenes.noise.noise_covariance`).

    Args:
        pixel: spectrum, in the unit of the endmembers.
        endmembers: what `prepare_synthesis` made of a generator.
        max_steps: linearisations at most.
        members: endmembers that may move in a step, those of greatest abundance.
        reweightings: of `marginal`.
        tol: two steps in turn that lower the objective by less than this share of it are the last.
        start: displacements to begin from, abundances are then the best for them; the default is `marginal` and what
            it expects.
        guess: abundances to begin from in the place of `marginal`; the fit is then among the `members` greatest alone,
            and so is its certificate.
        displacement: keep the displacements that were found: [endmember, parameter] for each pixel is much.

    Returns:
        A `Solution`. Its gap is that of the abundances given the rendered endmembers; its covariance that of
        `marginal` with the endmembers linearised where they were found. ``fitted`` holds ``objective``, ``history`` of
        the objective, NaN after the last step, ``chi2``, and ``displacement`` [endmember, parameter] if asked for.

    Raises:
        ValueError: if pixel and endmembers differ in their number of bands, start or guess have another shape than the
            displacements or abundances, both are given, no endmember may move, or steps are fewer than none.

    Reference:
        Janiczek et al. 2020, eq. 7, arXiv:2007.05996, with a prior in place of the bare box; Levenberg 1944 and
        Marquardt 1963 for the damping, Hintermüller et al. 2002 for the walls, Golub & Pereyra 1973,
        doi:10.1137/0710036, for projecting out what is linear.
    """
    if members < 1 or max_steps < 0:
        raise ValueError(f"members must be positive and max_steps not below zero, got {members} and {max_steps}")
    if start is not None and jnp.shape(start) != endmembers.prior.shape:
        raise ValueError(f"start has shape {jnp.shape(start)}, the displacements {endmembers.prior.shape}")
    if guess is not None and (start is not None or jnp.shape(guess) != (endmembers.count,)):
        raise ValueError(
            f"guess is one abundance for each of {endmembers.count} endmembers, without start, got {jnp.shape(guess)}"
        )
    seen = see(pixel, endmembers)
    kept = min(members, endmembers.count)
    if start is not None:
        own: tuple[Array, ...] = (seen.z, seen.start.abundances, jnp.asarray(start, seen.z.dtype))
    elif guess is not None:
        own = (seen.z, jnp.asarray(guess, seen.z.dtype))
    else:
        own = (seen.z, marginal_of(seen, endmembers, reweightings).abundances)

    def fit(prepared: PreparedSynthesis, z: Array, first: Array, *given: Array) -> Any:
        if guess is None:
            return fit_all(prepared, z, first, *given)
        greatest, chosen = jax.lax.top_k(jnp.maximum(first, 0.0), kept)
        total = jnp.sum(greatest)
        greatest = jnp.where(total > 0, greatest / jnp.where(total > 0, total, 1.0), 1 / kept)
        final, gap, summary, error, left, covariance = fit_all(prepared.select(chosen), z, greatest)
        final = jnp.where(jnp.isfinite(jnp.sum(first)), jnp.zeros_like(first).at[chosen].set(final), jnp.nan)
        if displacement:
            summary["u"] = jnp.zeros_like(prepared.prior).at[chosen].set(summary["u"])
        spread = jnp.zeros((first.size, first.size), covariance.dtype).at[chosen[:, None], chosen].set(covariance)
        return final, gap, summary, error, left, spread

    def fit_all(prepared: PreparedSynthesis, z: Array, first: Array, *given: Array) -> Any:
        problem = _Joint(jax.lax.stop_gradient(prepared), jax.lax.stop_gradient(z), kept)
        begun = problem.begin(*given) if given else problem.expected(jax.lax.stop_gradient(first))
        state = jax.lax.stop_gradient(problem.descend(begun, max_steps, tol))
        point, u = state["spectra"], state["u"]
        final = simplex_solve(point, problem.z)
        gap = frank_wolfe_gap(point, problem.z, final)
        _, tangent = problem.tangent(final, u)
        covariance = tangent.covariance(tangent.prior)
        target = z + matmul(u.ravel()[tangent.place], tangent.rows)
        white, _ = whiten_rows(covariance, jnp.concatenate([point, target[None]]))
        error = white[-1] - matmul(final, white[:-1])
        last = simplex_solve(jax.lax.stop_gradient(white[:-1]), white[-1])
        final = jax.lax.stop_gradient(final) + last - jax.lax.stop_gradient(last)  # its derivative, not its value
        summary = {name: state[name] for name in ("history", "steps", "done")} | ({"u": u} if displacement else {})
        summary["objective"] = problem.objective(final, point, u)
        left = z - matmul(final, point)
        return final, gap, summary, error, left, support_covariance(white[:-1], final)

    size = CHUNK.get(jax.default_backend(), OTHER_CHUNK)
    abundances, gap, state, error, left, covariance = in_chunks(fit, endmembers, own, size=size)
    if guess is not None:  # the fit is right for fixed endmembers too, and those of FCLS are not restricted
        endmembers = eqx.tree_at(lambda e: e.varies, endmembers, jnp.asarray(True))
    abundances = jnp.where(endmembers.varies, abundances, seen.start.abundances)
    fitted = {
        "objective": state["objective"],
        "history": state["history"],
        "chi2": (squared_norm(error) + squared_norm(seen.outside)) / endmembers.freedom,
    }
    fitted |= {"displacement": state["u"]} if displacement else {}
    done = state["done"] | ~endmembers.varies
    return solution(endmembers, seen, abundances, left, gap, state["steps"], covariance, fitted, done)


class _Tangent(eqx.Module):
    """How a pixel answers to the displacements of greatest effect.

    Attributes:
        place: of these displacements among those of all endmembers, one row after another.
        rows: the pixel's change with each, in the basis.
        prior: their variances.
    """

    place: Array
    rows: Array
    prior: Array

    def covariance(self, variance: Array) -> Array:
        """Of the pixel, where the displacements have these variances."""
        scaled = self.rows * jnp.sqrt(variance)[:, None]
        return matmul(scaled.T, scaled)

    def exchanged(self, covariance: Array, change: Array) -> Array:
        """The same with variances changed, the strongest of the changes that is."""
        power = jnp.abs(change) * jnp.sum(self.rows**2, 1)
        taken = jax.lax.top_k(power, min(EXCHANGED, power.size))[1]
        some = self.rows[taken]
        return covariance + matmul((some * change[taken, None]).T, some)


class _Joint(eqx.Module):
    """The problem of `map_synthesis` for one pixel."""

    prepared: PreparedSynthesis
    z: Array
    members: int = eqx.field(static=True)

    def objective(self, abundances: Array, spectra: Array, u: Array) -> Array:
        prior = self.prepared.prior
        scaled = jnp.where(prior > 0, u / jnp.where(prior > 0, prior, 1.0), 0.0)
        return 0.5 * squared_norm(self.z - matmul(abundances, spectra)) + 0.5 * jnp.sum(scaled**2)

    def render(self, chosen: Array, u: Array, spectra: Array) -> Array:
        """Spectra with the rows of the chosen endmembers rendered at their displacements."""
        return spectra.at[chosen].set(self.prepared.reduce(self.prepared.generator.select(chosen)(u[chosen])))

    def tangent(self, abundances: Array, u: Array) -> tuple[Array, _Tangent]:
        """Which endmembers move, and what of the pixel moves with them."""
        prepared = self.prepared
        chosen = jax.lax.top_k(abundances, self.members)[1]
        _, slopes = linearise(prepared.generator.select(chosen), u[chosen], prepared.sampled)
        prior = prepared.prior[chosen] ** 2
        power = jnp.sum(slopes**2 * prepared.weight, -1) * prior * abundances[chosen, None] ** 2
        count = min(STRONGEST * self.members, power.size)
        strongest = jax.lax.top_k(power.ravel(), count)[1]
        member, parameter = strongest // power.shape[1], strongest % power.shape[1]
        rows = slopes[member, parameter] * abundances[chosen][member, None]
        place = chosen[member] * power.shape[1] + parameter
        return chosen, _Tangent(place, matmul(rows, prepared.lift), prior[member, parameter])

    def begin(self, u: Array) -> tuple[Array, Array, Array]:
        """Given displacements, with their spectra and abundances."""
        u = jnp.where(self.prepared.prior > 0, jnp.clip(u, -1, 1), 0.0)
        spectra = self.prepared.reduce(self.prepared.generator(u))
        return simplex_solve(spectra, self.z), u, spectra

    def expected(self, abundances: Array) -> tuple[Array, Array, Array]:
        """Displacements that the linear model of the prior expects, and their spectra; none if that is worse."""
        prepared = self.prepared
        covariance = jnp.tensordot(abundances**2, prepared.covariance, 1)
        error, factor = whiten_rows(covariance, (self.z - matmul(abundances, prepared.mean))[None])
        chosen = jax.lax.top_k(abundances, self.members)[1]
        pull = matmul(prepared.slopes[chosen], back(factor, error[0]))
        aim = jnp.clip(prepared.prior[chosen] ** 2 * abundances[chosen, None] * pull, -1, 1)
        u = jnp.zeros_like(prepared.prior).at[chosen].set(aim)
        spectra = self.render(chosen, u, prepared.rest)
        better = self.objective(abundances, spectra, u) < self.objective(abundances, prepared.rest, 0 * u)
        return abundances, jnp.where(better, u, 0.0), jnp.where(better, spectra, prepared.rest)

    def aims(self, tangent: _Tangent, u: Array, spectra: Array, damping: Array) -> Array:
        """Displacements that the linear problem wants with abundances left free, between the walls of the box."""
        variance = tangent.prior / (1 + damping)
        middle = u * damping / (1 + damping)  # the prior and the damping draw towards it, with this variance
        held = jnp.abs(u) >= 1
        covariance = tangent.covariance(jnp.where(held, 0.0, variance))

        def turn(_: Any, state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
            free, before, held, covariance = state
            covariance = tangent.exchanged(covariance, variance * (before.astype(variance.dtype) - held))
            rest = jnp.where(held, jnp.sign(free), middle)
            target = self.z + matmul(u - rest, tangent.rows)
            white, factor = whiten_rows(covariance, jnp.concatenate([spectra, target[None]]))
            wanted = simplex_solve(white[:-1], white[-1])
            pull = matmul(tangent.rows, back(factor, white[-1] - matmul(wanted, white[:-1])))
            free = middle + variance * pull
            return free, held, jnp.abs(free) > 1, covariance

        free, _, _, _ = jax.lax.fori_loop(0, WALLS, turn, (u, held, held, covariance))
        return jnp.clip(free, -1, 1)

    def step(self, state: dict[str, Array], tol: float) -> dict[str, Array]:
        """One damped Gauss-Newton step for abundances and displacements together."""
        abundances, u, spectra, objective = (state[k] for k in ("abundances", "u", "spectra", "objective"))
        chosen, tangent = self.tangent(abundances, u)
        aim = self.aims(tangent, u.ravel()[tangent.place], spectra, state["damping"])
        toward = u.ravel().at[tangent.place].set(aim).reshape(u.shape)

        def attempt(trial: Any) -> Any:
            length = 0.5 * trial[0]
            v = u + length * (toward - u)
            e = self.render(chosen, v, spectra)
            a = simplex_solve(e, self.z)
            there = a[:, None] > 0  # endmembers that are not there return to the library: the prior gains
            v, e = jnp.where(there, v, 0.0), jnp.where(there, e, self.prepared.rest)
            return length, a, v, e, self.objective(a, e, v)

        def worse(trial: Any) -> Array:
            return ~(trial[-1] <= objective) & (trial[0] > SHORTEST)

        first = (jnp.full_like(objective, 2.0), abundances, u, spectra, jnp.full_like(objective, jnp.inf))
        length, a, v, e, reached = jax.lax.while_loop(worse, attempt, first)
        accepted = reached <= objective
        little = ~accepted | (objective - reached <= tol * objective)
        stalled = jnp.where(little, state["stalled"] + 1, 0)
        damping = state["damping"]
        factor = jnp.where(accepted, jnp.where(length >= 1, 0.25, jnp.where(length >= 0.5, 1.0, 4.0)), 16.0)
        new = {
            "abundances": jnp.where(accepted, a, abundances),
            "u": jnp.where(accepted, v, u),
            "spectra": jnp.where(accepted, e, spectra),
            "objective": jnp.where(accepted, reached, objective),
            "damping": jnp.where(factor > 1, jnp.maximum(damping, 0.02), damping) * factor,
            "steps": state["steps"] + 1,
            "stalled": stalled,
            "done": (stalled >= STALLED) | (damping > MOST),
        }
        new["history"] = state["history"].at[new["steps"]].set(new["objective"])
        return {name: jnp.where(state["done"], state[name], value) for name, value in new.items()}

    def descend(self, begun: tuple[Array, Array, Array], max_steps: int, tol: float) -> dict[str, Array]:
        """Steps until they gain too little."""
        abundances, u, spectra = begun
        objective = self.objective(abundances, spectra, u)
        state = {
            "abundances": abundances,
            "u": u,
            "spectra": spectra,
            "objective": objective,
            "damping": jnp.full_like(objective, FIRST),
            "history": jnp.full(max_steps + 1, jnp.nan, objective.dtype).at[0].set(objective),
            "steps": jnp.asarray(0, jnp.int32),
            "stalled": jnp.asarray(0, jnp.int32),
            "done": ~jnp.isfinite(objective),
        }
        return jax.lax.while_loop(lambda s: ~s["done"] & (s["steps"] < max_steps), lambda s: self.step(s, tol), state)
