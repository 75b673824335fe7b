"""What a recipe costs: all seeds in one compiled call, and one seed in a Python loop of steps."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from unmix_jax.networks import training
from unmix_jax.networks.layers import added, constrained
from unmix_jax.networks.recipes import Recipe, begin
from unmix_jax.networks.training import train

ENOUGH = 60  # CPU seconds, after which a time is not taken again


def seconds(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns, and CPU seconds of this process."""
    start = time.process_time()
    result = jax.block_until_ready(call())
    return result, time.process_time() - start


def speed(recipe: Recipe, pixels: Any, count: int, keys: Any, repetitions: int, first: float) -> dict[str, float]:
    """CPU seconds of all seeds together, how much more the first call took (compiling, VCA), the ratio to a loop."""
    starts = begin(recipe, pixels, count, keys)

    def build(key: Any, start: Any) -> Any:
        return recipe.build(key, pixels.shape[1], count, start)

    def all_seeds(keys: Any) -> Any:
        return train(build, pixels, recipe.objective, recipe.schedule, keys=keys, starts=starts)

    loop = looped(build, recipe, pixels, keys[0], jax.tree.map(lambda leaf: leaf[:1], starts))
    all_seeds(keys)  # compiles
    together, alone = [], []
    for i in range(repetitions):
        others = jax.random.split(jax.random.fold_in(keys[0], i), len(keys))
        together.append(seconds(lambda others=others: all_seeds(others))[1])
        alone.append(seconds(loop)[1])
        if sum(together) > ENOUGH:
            break
    ours, theirs = statistics.median(together), statistics.median(alone)
    return {"cpu_s_25_seeds": ours, "compile_s": first - ours, "ratio_loop": ours / theirs}


def looped(build: Any, recipe: Recipe, pixels: np.ndarray, key: Any, starts: Any) -> Any:
    """The training of one seed as a Python loop of jitted steps, to be called."""
    schedule = recipe.schedule
    data, _ = training._data(pixels, schedule)
    static, carry = training._begin(build, data, schedule, key[None], starts)
    begin = jax.tree.map(lambda leaf: leaf[0], carry)[:3]
    size = len(pixels) if schedule.sample is None else schedule.sample
    each, cycle = size // schedule.batch, len(schedule.alternate)
    rng = np.random.default_rng(0)
    drawn = np.arange(size) if schedule.sample is None else rng.integers(len(pixels), size=size)
    order = np.concatenate([rng.permutation(drawn)[: each * schedule.batch] for _ in range(schedule.epochs)])
    batches = np.asarray(data)[order].reshape(-1, schedule.batch, data.shape[1])
    keys = list(jax.random.split(key, len(batches)))
    kinds = [jnp.asarray(["all", "encoder", "decoder"].index(part)) for part in schedule.alternate]

    def loss_of(arrays: Any, state: Any, batch: Any, key: Any) -> Any:
        network = eqx.combine(arrays, static)
        shares, fitted, state = network(batch, state, key)
        return recipe.objective(network, batch, shares, fitted) + added(state), state

    @jax.jit
    def step(arrays: Any, moments: Any, state: Any, batch: Any, key: Any, part: Any) -> Any:
        (loss, state), slope = jax.value_and_grad(loss_of, has_aux=True)(arrays, state, batch, key)
        slope = training._of_part(slope, part) if cycle > 1 else slope
        change, moments = schedule.optimiser.update(slope, moments, arrays)
        change = training._of_part(change, part) if cycle > 1 else change
        return constrained(optax.apply_updates(arrays, change), arrays), moments, state, loss

    def steps(count: int) -> Any:
        arrays, moments, state, loss = *begin, None
        for i in range(count):
            arrays, moments, state, loss = step(arrays, moments, state, batches[i], keys[i], kinds[i // each % cycle])
        return loss

    jax.block_until_ready(steps(1))
    return lambda: steps(len(batches))
