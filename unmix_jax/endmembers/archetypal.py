"""Archetypal analysis by entropic descent: endmembers are mixtures of pixels, and pixels are mixtures of endmembers.

One run is cheap and may end in a poor optimum, so that several are made from random starts and the best is kept, by a
rule that needs no reference.
"""

from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from unmix_jax.endmembers.factorisation import Factorisation, gather
from unmix_jax.endmembers.subspace import eigenvectors
from unmix_jax.linalg import matmul

__all__ = ["Archetypes", "archetypal", "entropic_descent"]

INNER = 5  # descents on either factor in one step, as published
GROW, SHRINK = 1.2, 0.5  # of the step size, after a step that lowered the objective and one that did not
TOGETHER = 10  # members at once on an accelerator; a CPU takes one after the other, which its caches like
FIT = 1.05  # members whose fit is within this factor of the best are candidates, as published


class Archetypes(eqx.Module):
    """One member of the ensemble.

    Attributes:
        weights: the part of each pixel in each endmember; rows sum to one.
        abundances: the part of each endmember in each pixel; rows sum to one.
        objective: half the squared misfit.
        steps: steps that were tried.
        converged: True where the last step lowered the objective by no more than the tolerance allows.
    """

    weights: Float[Array, "endmember pixel"]
    abundances: Float[Array, "pixel endmember"]
    objective: Float[Array, ""]
    steps: Int[Array, ""]
    converged: Bool[Array, ""]


def archetypal(
    key: Key[Array, ""],
    pixels: Any,
    count: int,
    *,
    members: int = 50,
    dimensions: int = 20,
    max_steps: int = 100,
    tol: float = 1e-3,
) -> Factorisation:
    r"""Archetypal analysis by entropic descent, the best of an ensemble.

    argmin over A, B of ½‖Y − ABY‖² with the rows of A (abundances) and of B (endmembers E = BY from pixels) on the
    simplex. Of the members whose L1 misfit Σ|Y − AE| is within 5 % of the least, the one is kept whose endmembers are
    least correlated, by the greatest coefficient between two of them.

    Args:
        key: random key of the starts.
        pixels: spectra, any unit; an array or a `Scene`.
        count: number of endmembers.
        members: number of random starts.
        dimensions: principal components, besides the mean, in which the misfit is measured during the descent; all
            where there are fewer bands.
        max_steps: most steps of a member.
        tol: a member stops when a step lowers its objective by no more than this part.

    Returns:
        Endmembers, abundances, and half the squared misfit among the components.

    Raises:
        ValueError: count < 1, more endmembers than bands or valid pixels, members < 1, dimensions < count - 1, or no
            valid pixel.

    Reference:
        Zouaoui et al. 2023, 10.1109/TIP.2023.3301769, arXiv:2209.11002.
    """
    if members < 1:
        raise ValueError(f"the ensemble needs at least 1 member, got {members}")
    gathered = gather(pixels, count)
    if dimensions < max(1, count - 1):
        raise ValueError(f"{count} endmembers span {count - 1} dimensions, got dimensions={dimensions}")
    moments = gathered.data.moments()
    basis = eigenvectors(moments.covariance)[1][:dimensions]
    # Both simplices let any spectrum be taken from all pixels: about the mean there is less to round.
    coordinates = ((gathered.values - moments.mean) @ basis.T).astype(gathered.values.dtype)
    spectra = jnp.asarray(gathered.values)
    coordinates = jnp.asarray(coordinates)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(members))
    found = _best(keys, spectra, coordinates, count, jnp.asarray(max_steps), jnp.asarray(tol, spectra.dtype))
    return gathered.back(found)


def entropic_descent(
    key: Key[Array, ""],
    coordinates: Float[Any, "pixel dimension"],
    count: int,
    *,
    max_steps: Any = 100,
    tol: Any = 1e-3,
) -> Archetypes:
    r"""One member of `archetypal`: pure, for `jax.jit` and `jax.vmap` over keys.

    A ← A ∘ exp(η (Y − AE)Eᵀ) and B ← B ∘ exp(η √(p/N) Aᵀ(Y − AE)Yᵀ), rows divided by their sums, five times each in one
    step, from equal abundances and from endmembers halfway between the mean of all pixels and a random one. A step that
    raises the objective is undone and η halved; after any other η grows.

    Args:
        key: random key of the start.
        coordinates: spectra, all valid, in any orthonormal basis and about any origin; best about their mean.
        count: number p of endmembers.
        max_steps: most steps.
        tol: stop when a step lowers the objective by no more than this part.

    Returns:
        An `Archetypes`.

    Reference:
        Zouaoui et al. 2023, 10.1109/TIP.2023.3301769 (updates); the step sizes are our own.
    """
    points = jnp.asarray(coordinates)
    images = points.T
    pixels, dtype = points.shape[0], points.dtype
    half_power = 0.5 * jnp.sum(points**2)
    rounding = 4 * jnp.finfo(dtype).eps * half_power
    ratio = np.sqrt(count / pixels).astype(dtype)

    def step(state: _State) -> _State:
        spectra, rate = state.spectra, state.rate
        gram, product = matmul(spectra, spectra.T), matmul(spectra, images)

        def mix(_: Any, logs: Array) -> Array:
            return logs + rate * (product - matmul(gram, jax.nn.softmax(logs, axis=0)))

        logs = jax.lax.fori_loop(0, INNER, mix, state.abundances)
        shares = jax.nn.softmax(logs, axis=0)
        overlap, sums = matmul(shares, shares.T), matmul(shares, points)

        def move(_: Any, state: tuple[Array, Array]) -> tuple[Array, Array]:
            weights, spectra = state
            weights = weights + rate * ratio * matmul(sums - matmul(overlap, spectra), images)
            return weights, matmul(jax.nn.softmax(weights, axis=1), points)

        weights, spectra = jax.lax.fori_loop(0, INNER, move, (state.weights, spectra))
        objective = half_power - jnp.sum(sums * spectra) + 0.5 * jnp.sum(overlap * matmul(spectra, spectra.T))
        lower = objective <= state.objective
        small = lower & (state.objective - objective <= tol * objective + rounding)
        weights, logs = jax.nn.log_softmax(weights, axis=1), jax.nn.log_softmax(logs, axis=0)
        new = _State(weights, logs, spectra, objective, rate * GROW, state.steps + 1, small)
        old = eqx.tree_at(lambda s: (s.rate, s.steps), state, (rate * SHRINK, state.steps + 1))
        return jax.tree.map(lambda a, b: jnp.where(lower, a, b), new, old)

    chosen = jax.random.randint(key, (count,), 0, pixels, dtype=jnp.int32)  # the same whatever jax_enable_x64
    weights = 0.5 / pixels + 0.5 * jax.nn.one_hot(chosen, pixels, dtype=dtype)
    spectra = matmul(weights, points)
    mean = jnp.mean(spectra, axis=0)
    objective = 0.5 * jnp.sum((points - mean) ** 2)
    state = _State(
        jnp.log(weights),
        jnp.full((count, pixels), -np.log(count), dtype),
        spectra,
        objective,
        pixels / (2 * half_power),
        jnp.asarray(0),
        jnp.asarray(False),
    )
    state = jax.lax.while_loop(lambda s: (s.steps < max_steps) & ~s.converged, step, state)
    weights, abundances = jax.nn.softmax(state.weights, axis=1), jax.nn.softmax(state.abundances, axis=0).T
    return Archetypes(weights, abundances, state.objective, state.steps, state.converged)


class _State(NamedTuple):
    """Logarithms of both factors, which never round to zero, and what goes with them."""

    weights: Float[Array, "endmember pixel"]
    abundances: Float[Array, "endmember pixel"]
    spectra: Float[Array, "endmember dimension"]
    objective: Float[Array, ""]
    rate: Float[Array, ""]
    steps: Int[Array, ""]
    converged: Bool[Array, ""]


@eqx.filter_jit
def _best(
    keys: Key[Array, " member"],
    spectra: Float[Array, "pixel band"],
    coordinates: Float[Array, "pixel dimension"],
    count: int,
    max_steps: Int[Array, ""],
    tol: Float[Array, ""],
) -> Factorisation:
    """All members, and of those that fit well the one with the least correlated endmembers."""

    def member(key: Key[Array, ""]) -> tuple[Factorisation, Array, Array]:
        found = entropic_descent(key, coordinates, count, max_steps=max_steps, tol=tol)
        endmembers = matmul(found.weights, spectra)
        fit = jnp.sum(jnp.abs(spectra - matmul(found.abundances, endmembers)))
        result = Factorisation(endmembers, found.abundances, found.objective, found.steps, found.converged)
        return result, fit, _correlation(endmembers)

    one_by_one, together = (partial(jax.lax.map, member, batch_size=size) for size in (None, TOGETHER))
    results, fits, correlations = jax.lax.platform_dependent(keys, cpu=one_by_one, default=together)
    best = jnp.argmin(jnp.where(fits <= FIT * jnp.min(fits), correlations, jnp.inf))
    return jax.tree.map(lambda x: x[best], results)


def _correlation(endmembers: Float[Array, "endmember band"]) -> Float[Array, ""]:
    """The greatest coefficient of correlation between two endmembers; -1 where there is only one."""
    about = endmembers - jnp.mean(endmembers, axis=1, keepdims=True)
    norms = jnp.linalg.norm(about, axis=1)
    unit = about / jnp.where(norms > 0, norms, 1.0)[:, None]
    return jnp.max(jnp.where(jnp.eye(len(unit), dtype=bool), -1.0, matmul(unit, unit.T)))
