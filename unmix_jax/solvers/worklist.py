"""Work on what is not done yet: the loop behind every batch kernel.

A ``while_loop`` over a batch runs until its slowest member is done, and a vmapped one computes all members each
time. Here the pixels that are not done are gathered into chunks of a fixed size, advanced, and put back, so that
the cost follows the sum of the work and all shapes stay static. The pixel axis is the last of every array.
"""

from collections.abc import Callable, Collection

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from unmix_jax.linalg import matmul

__all__ = ["first", "work_off"]

WIDTH = 128  # of the rows along which a product counts

State = dict[str, Array]


def work_off(
    advance: Callable[[State], State],
    state: State,
    *,
    chunk: int,
    max_rounds: int,
    constant: Collection[str] = (),
) -> State:
    """Advance the pixels whose ``state["done"]`` is False, a chunk at a time, until all are done.

    Args:
        advance: from the state of ``chunk`` pixels to their next state; must leave finished pixels as they are.
        state: arrays with the pixels on the last axis, among them the booleans ``done``.
        chunk: pixels per call.
        max_rounds: calls that one pixel takes at most; what is not done then stays so.
        constant: names that ``advance`` does not change (they are not written back).

    Returns:
        The state with every pixel done, or out of rounds.
    """
    pixels = state["done"].shape[0]
    if pixels <= chunk:  # nothing to gather

        def everyone(carry: tuple[State, Array]) -> tuple[State, Array]:
            state = carry[0]
            new = advance(state)
            kept = {
                name: x if name in constant else jnp.where(state["done"], x, new[name]) for name, x in state.items()
            }
            return kept, carry[1] + 1

        def unfinished(carry: tuple[State, Array]) -> Array:
            return jnp.any(~carry[0]["done"]) & (carry[1] < max_rounds)

        return jax.lax.while_loop(unfinished, everyone, (state, jnp.zeros((), jnp.int32)))[0]

    def pending(state: State, rounds: Array) -> Array:
        return ~state["done"] & (rounds < max_rounds)

    def body(carry: tuple[State, Array]) -> tuple[State, Array]:
        state, rounds = carry
        index = first(pending(state, rounds), chunk)
        part = {name: x.at[..., index].get(mode="clip") for name, x in state.items()}
        part["done"] = part["done"] | (index == pixels)
        new = advance(part)
        state = {
            name: x if name in constant else x.at[..., index].set(new[name], mode="drop") for name, x in state.items()
        }
        return state, rounds.at[index].add(1, mode="drop")

    start = (state, jnp.zeros(pixels, jnp.int32))
    return jax.lax.while_loop(lambda carry: jnp.any(pending(*carry)), body, start)[0]


def first(wanted: Bool[Array, " pixel"], size: int) -> Int[Array, " {size}"]:
    """Places of the first `size` pixels that are wanted, and the number of pixels where there are no more.

    As ``jnp.nonzero`` with a size, in a third of the time: it looks each place up in the running count, which takes a
    product, where ``jnp.nonzero`` scatters every pixel.
    """
    count = len(wanted)
    rows = jnp.pad(wanted, (0, -count % WIDTH)).reshape(-1, WIDTH).astype(jnp.float32)
    within = matmul(rows, jnp.triu(jnp.ones((WIDTH, WIDTH), jnp.float32))).astype(jnp.int32)
    before = jnp.cumsum(within[:, -1], dtype=jnp.int32) - within[:, -1]
    running = (within + before[:, None]).reshape(-1)
    return jnp.minimum(jnp.searchsorted(running, jnp.arange(1, size + 1, dtype=jnp.int32)), count).astype(jnp.int32)
