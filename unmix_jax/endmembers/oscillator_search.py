"""The search for the number of oscillators: add where the residual asks, refine, take away what does not pay.

A lane is one start for one spectrum. Every stage makes the same kind of move on all lanes; each keeps the best fit it
has met, by an information criterion, and rests when a few moves in a row have not helped.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from unmix_jax.endmembers.oscillators import Candidates, Target, drop, grow, prices, refine, weighted
from unmix_jax.physics.dispersion import Dispersion

__all__ = ["Search", "candidates", "rounding", "search"]

GROW, DROP, KEEP = 0, 1, 2  # moves
TRIALS = 2  # minerals that a move proposes
STEPS, LAST_STEPS = 8, 60  # of Levenberg-Marquardt, after a move and at the end
PATIENCE = 6  # moves in a row without gain, after which a lane rests
HEAT = 0.5  # spread of the choices of the second and later starts
SPLIT = (8, 5, 6, 4)  # oscillators of the single axis that several axes start from, by start
SPREAD = 0.3  # by how much the axes differ at first, in logarithms of strength
MANY = 50  # oscillators of the start from many
CYCLES = 2  # of dropping and growing at the end
DAMPINGS = (0.4, 0.16, 0.06, 0.025, 0.01)  # of candidates


class Search(NamedTuple):
    """Where a lane stands: the fit it works on, the best one with its measures, and the moves since that was found."""

    now: Dispersion
    best: Dispersion
    criterion: Float[Array, ""]
    squares: Float[Array, ""]
    cosine: Float[Array, ""]
    waited: Int[Array, ""]


class _Move(NamedTuple):
    """What one stage does to all lanes."""

    kind: Any
    trials: Any
    steps: Any
    penalised: Any
    stage: Any


def search(
    targets: Callable[[int], Target], axes: tuple[int, ...], places: int, start: str, starts: int, key: Any
) -> list[Search]:
    """The best minerals of every lane with each number of axes.

    Args:
        targets: from a number of axes to the data, with a leading lane axis on what is one spectrum's own.
        axes: numbers of axes.
        places: most oscillators on an axis.
        start: "curvature" grows from nothing, "many" thins out a comb.
        starts: lanes per spectrum; the first of each is without chance.
        key: random key.
    """
    target = targets(1)
    numbers = jnp.arange(target.spectrum.shape[0]) % starts
    offers = Candidates(*(jnp.asarray(a, target.wavenumber.dtype) for a in candidates(np.asarray(target.wavenumber))))
    first, comb, *others = jax.random.split(key, 2 + 2 * len(axes))
    few = [SPLIT[number % len(SPLIT)] for number in numbers.tolist()]
    run = _Stages(target, numbers, offers, first)
    if start == "many":
        many = _Stages(target, numbers, offers, comb)(_begin(_comb(target, numbers, comb)), KEEP, 0, settle=True).now
        single, _ = _one(_thin(many, target, jnp.full(len(few), places), places), run)
        seed = _thin(many, target, jnp.minimum(jnp.asarray(few), places), places)
    else:
        single, history = _one(_blank(target, places), run)
        chosen = [min(count, len(history)) - 1 for count in few]
        seed = jax.tree.map(lambda *leaves: jnp.stack([leaves[c][i] for i, c in enumerate(chosen)]), *history)
    found = []
    for number, draw, stages in zip(axes, others[::2], others[1::2], strict=True):
        if number == 1:
            found.append(single)
        else:
            begin = _split(seed, number, numbers, draw)
            found.append(_one(begin, _Stages(targets(number), numbers, offers, stages))[0])
    return found


class _Stages:
    """Runs stages, each with random keys of its own."""

    def __init__(self, target: Target, starts: Array, offers: Candidates, key: Any):
        self.target, self.starts, self.offers, self.key = target, starts, offers, key

    def __call__(self, lanes: Search, kind: int, stage: int, *, settle: bool = False, penalised: bool = True) -> Search:
        """One move; to settle takes many steps on a single trial."""
        counts = (1, LAST_STEPS) if settle else (TRIALS, STEPS)
        move = _Move(*(np.int32(x) for x in (kind, *counts, penalised, stage)))
        return _stage(lanes, self.target, self.key, self.starts, move, self.offers)


def _one(begin: Dispersion, run: _Stages) -> tuple[Search, list[Dispersion]]:
    """The search with one number of axes, and the fits while it grew.

    The number of a stage depends on its purpose alone, so that what a lane draws does not depend on the others.
    """
    _, axes, places = begin.active.shape
    search = _begin(begin)
    if bool(np.any(np.asarray(begin.active))):
        search = run(search, KEEP, 0)
    history: list[Dispersion] = []
    for stage in range(1, axes * places + 1):
        if _all_rest(search) and history:
            break
        search = run(search, GROW, stage)
        history.append(search.now)
    for cycle in range(CYCLES):
        search = _awake(search)._replace(now=search.best)
        for i, kind in enumerate([DROP] * (cycle + 1) + [GROW] * (cycle + 1)):
            search = run(search, kind, 1000 * (cycle + 1) + i)
    search = _awake(search)._replace(now=search.best)
    for stage in range(axes * places):
        if _all_rest(search):
            break
        search = run(search, DROP, 10000 + stage)
    return run(_awake(search)._replace(now=search.best), KEEP, 0, settle=True, penalised=False), history


def _begin(mineral: Dispersion) -> Search:
    """A search that has seen nothing yet."""
    lanes = mineral.active.shape[0]
    infinite = jnp.full(lanes, jnp.inf, mineral.frequency.dtype)
    return Search(mineral, mineral, infinite, infinite, infinite, jnp.zeros(lanes, jnp.int32))


def _all_rest(search: Search) -> bool:
    """Whether no lane has hope."""
    return bool(np.all(np.asarray(search.waited) >= PATIENCE))


def _awake(search: Search) -> Search:
    """The same search with no lane at rest."""
    return search._replace(waited=jnp.zeros_like(search.waited))


def candidates(wavenumber: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Oscillators half a linewidth apart for each damping, none narrower than 1.5 samples."""
    low, high = 0.9 * float(wavenumber[0]), 1.05 * float(wavenumber[-1])
    step = 1.5 * float(np.min(np.diff(wavenumber)))
    pairs = []
    for damping in DAMPINGS:
        number = math.ceil(math.log(high / low) / math.log1p(damping / 2)) + 1
        pairs += [(f, damping) for f in np.geomspace(low, high, number) if f * damping >= step]
    if not pairs:
        pairs = [(f, max(0.4, step / f)) for f in np.geomspace(low, high, 8)]
    frequency, damping = np.array(pairs).T
    return frequency, damping


def _blank(target: Target, places: int) -> Dispersion:
    """A single axis without oscillators, for each lane."""
    shape, dtype = (target.spectrum.shape[0], 1, places), target.spectrum.dtype
    return Dispersion(
        jnp.full(shape, jnp.mean(target.wavenumber), dtype),
        jnp.full(shape, 0.05, dtype),
        jnp.full(shape, 0.01, dtype),
        jnp.full(shape[:2], 2.2, dtype),
        jnp.ones(shape[:2], dtype),
        jnp.zeros(shape, bool),
    )


def _comb(target: Target, starts: Array, key: Array) -> Dispersion:
    """A single axis with many weak oscillators, evenly over the logarithm of the wavenumber, shaken in later starts."""
    blank = _blank(target, MANY)
    dtype = blank.frequency.dtype
    low, high = 0.9 * float(target.wavenumber[0]), 1.05 * float(target.wavenumber[-1])
    spacing = math.log(high / low) / MANY
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, starts)
    draws = jax.vmap(lambda k: jax.random.normal(k, (2, 1, MANY), jnp.float32))(keys)
    shift, factor = (jnp.where(starts[:, None, None] == 0, 0.0, HEAT * draws[:, i]).astype(dtype) for i in (0, 1))
    return replace(
        blank,
        frequency=jnp.asarray(np.geomspace(low, high, MANY), dtype) * jnp.exp(spacing * shift),
        damping=jnp.full(blank.damping.shape, 1.5 * spacing, dtype),
        strength=0.02 * jnp.exp(factor),
        active=jnp.ones_like(blank.active),
    )


@functools.partial(jax.jit, static_argnums=3)
def _thin(many: Dispersion, target: Target, counts: Array, places: int) -> Dispersion:
    """The oscillators of a single axis that cost most to do without."""

    def lane(inputs: tuple[Dispersion, Array, Array, Array]) -> Dispersion:
        mineral, spectrum, weights, count = inputs
        _, slopes = weighted(mineral, target._replace(spectrum=spectrum, weights=weights))
        rises = prices(mineral, slopes)
        order = jnp.argsort(-rises, axis=-1)[:, :places]
        room = [(0, 0), (0, places - order.shape[-1])]
        frequency, damping, strength = (
            jnp.pad(jnp.take_along_axis(leaf, order, axis=-1), room, constant_values=1.0)
            for leaf in (mineral.frequency, mineral.damping, mineral.strength)
        )
        active = jnp.pad(jnp.arange(order.shape[-1])[None] < count, room)
        return Dispersion(frequency, damping, strength, mineral.epsilon_inf, mineral.weights, active)

    return jax.lax.map(lane, (many, target.spectrum, target.weights, counts))


def _split(single: Dispersion, axes: int, starts: Array, key: Array) -> Dispersion:
    """Several axes, each near to the single one."""
    several = jax.tree.map(lambda leaf: jnp.repeat(leaf, axes, axis=1), single)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, starts)
    draws = jax.vmap(lambda k: jax.random.normal(k, (2, *several.active.shape[1:]), jnp.float32))(keys)
    shift, factor = (SPREAD * draws[:, i].astype(several.strength.dtype) for i in (0, 1))
    return Dispersion(
        several.frequency * (1 + 0.3 * several.damping * shift),
        several.damping,
        several.strength * jnp.exp(factor),
        several.epsilon_inf,
        several.weights / axes,
        several.active,
    )


@jax.jit  # one compilation for each number of axes, whatever the move
def _stage(search: Search, target: Target, key: Any, starts: Array, move: _Move, offers: Candidates) -> Search:
    """One move of every lane that is not at rest."""
    heats = jnp.where(starts == 0, 0.0, HEAT).astype(jnp.float32)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, move.stage), starts)

    price = jnp.where(move.penalised > 0, target.l1, 0.0)

    def lane(inputs: tuple[Search, tuple[Array, ...], Array, Array]) -> Search:
        one, (spectrum, weights, l1, penalty), key, heat = inputs
        goal = target._replace(spectrum=spectrum, weights=weights, l1=l1, penalty=penalty)
        return jax.lax.cond(one.waited < PATIENCE, lambda: _moved(one, goal, key, heat, move, offers), lambda: one)

    own = (target.spectrum, target.weights, price, target.penalty)
    lanes = (search, own, keys, heats)
    if jax.default_backend() == "cpu":  # one after the other: small products stay in the caches
        return jax.lax.map(lane, lanes)
    return jax.vmap(lambda *inputs: lane(inputs))(*lanes)


def _moved(search: Search, target: Target, key: Array, heat: Array, move: _Move, offers: Candidates) -> Search:
    """One move of one lane: proposals, a few steps on each, the best of them."""
    standing = weighted(search.now, target)
    proposals = jax.lax.switch(
        move.kind,
        [
            lambda: grow(search.now, target, standing, key, heat, offers, TRIALS),
            lambda: drop(search.now, standing[1], key, heat, TRIALS),
            lambda: jax.tree.map(lambda leaf: jnp.stack([leaf] * TRIALS), search.now),
        ],
    )

    def attempt(trial: Array, state: tuple[Dispersion, Array, Array]) -> tuple[Dispersion, Array, Array]:
        refined = refine(jax.tree.map(lambda leaf: leaf[trial], proposals), target, move.steps)
        return jax.tree.map(lambda new, old: jnp.where(refined[1] < state[1], new, old), refined, state)

    infinite = jnp.full((), jnp.inf, target.spectrum.dtype)
    now, squares, cosine = jax.lax.fori_loop(0, move.trials, attempt, (search.now, infinite, infinite))
    criterion = _criterion(now, squares, target)
    better = criterion < search.criterion
    kept = jax.tree.map(
        lambda new, old: jnp.where(better, new, old),
        (now, criterion, squares, cosine),
        (search.best, search.criterion, search.squares, search.cosine),
    )
    waited = jnp.where(better, 0, search.waited + 1)
    return Search(now, kept[0], kept[1], kept[2], kept[3], waited)


def rounding(dtype: Any) -> float:
    """Mean squared error that is rounding."""
    return (10 * float(jnp.finfo(dtype).eps)) ** 2


def _criterion(mineral: Dispersion, squares: Array, target: Target) -> Array:
    """Information criterion: n ln MSE plus the price of the parameters."""
    bands = jnp.sum(target.weights > 0)
    free = 3 * jnp.sum(mineral.active) + 2 * mineral.weights.shape[0] - 1
    mse = jnp.maximum(squares / jnp.sum(target.weights), rounding(squares.dtype))
    return bands * jnp.log(mse) + free * target.penalty
