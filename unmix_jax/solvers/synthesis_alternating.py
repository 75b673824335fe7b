"""Analysis-by-synthesis as its authors run it: abundances by least squares, one step of Adam on endmembers, again."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unmix_jax.linalg import matmul
from unmix_jax.physics.variation import Variation
from unmix_jax.solvers.active_set import tolerance
from unmix_jax.solvers.batching import check_pixel, without_derivatives
from unmix_jax.solvers.synthesis_simplex import frank_wolfe_gap, in_chunks, simplex_solve
from unmix_jax.types import Solution

__all__ = ["alternating"]

CHUNK = 8
TURNS = 4  # linearisations of the penalty
LEAST = 1e-13  # abundance at which the slope of the penalty is clipped, as in the authors' code


def alternating(
    pixel: Float[Any, " band"],
    endmembers: Variation,
    *,
    steps: int = 100,
    learning_rate: float = 1e-2,
    penalty: float = 0.0,
    exponent: float = 0.95,
    moving: int = 20,
    record: bool = False,
    start: Float[Any, "endmember parameter"] | None = None,
) -> Solution:
    """The paper's analysis-by-synthesis.

    Each step renders E(u), sets x = argmin Σ_b (y − xE)² + λ‖x‖_p over the simplex, and moves all parameters by one
    step of Adam on mean_b (y − xE)² with x held, in the units of the parameters, clipped to the box. The abundances
    returned are those before the last move. Reverse-mode derivatives are not defined.

    Args:
        pixel: spectrum, in the unit of the endmembers.
        endmembers: generator of endmembers.
        steps: of Adam; there is no stopping rule.
        learning_rate: in the unit of every parameter, cm⁻¹ and dimensionless alike.
        penalty: λ, in the squared unit of the pixel.
        exponent: p, below one.
        moving: endmembers that may ever move: those that had a share, the greatest first.
        record: keep the abundances of every step.
        start: displacements to begin from; the default is the library. Those beyond the walls begin at the walls.

    Returns:
        A `Solution`; ``fitted`` holds ``displacement`` [endmember, parameter] and ``history`` [step], the mean squared
        error before each move, and with ``record`` the ``path`` of the abundances [step, endmember]. ``converged`` and
        the gap speak of the last abundance step alone.

    Raises:
        ValueError: if pixel and endmembers differ in their number of bands, start and displacements in their shape,
            there is no step, or no endmember may move.

    Reference:
        Janiczek et al. 2020, section 3.3, arXiv:2007.05996, and its published code.
    """
    if steps < 1:
        raise ValueError(f"steps must be positive, got {steps}")
    if moving < 1:
        raise ValueError(f"moving must be positive, got {moving}")
    check_pixel(pixel, jax.eval_shape(lambda g: g(jnp.zeros_like(g.width)), endmembers).shape[1])
    if start is not None and jnp.shape(start) != jnp.shape(endmembers.width):
        raise ValueError(f"start has shape {jnp.shape(start)}, the displacements {jnp.shape(endmembers.width)}")

    movers = min(moving, endmembers.width.shape[0])

    def run(generator: Any, pixel: Array, *begin: Array) -> Any:
        return _run(generator, pixel, steps, learning_rate, penalty, exponent, movers, *begin)

    pixel = jnp.asarray(pixel, jnp.result_type(endmembers.width))
    pixel, endmembers = without_derivatives("alternating", (pixel, endmembers))
    own = (pixel,) if start is None else (pixel, jnp.asarray(start, pixel.dtype))
    abundances, gap, displacement, history, path = in_chunks(run, endmembers, own, size=CHUNK)
    fitted = {"displacement": displacement, "history": history} | ({"path": path} if record else {})
    residual = jnp.sqrt(history[-1])
    return Solution(
        abundances=abundances,
        residual=residual,
        gap=gap,
        steps=jnp.asarray(steps, jnp.int32),
        converged=jnp.isfinite(residual) & (gap <= tolerance(pixel.dtype)),
        fitted=fitted,
    )


def _run(
    generator: Any,
    pixel: Array,
    steps: int,
    rate: float,
    penalty: float,
    exponent: float,
    moving: int,
    start: Array | None = None,
) -> tuple[Array, ...]:
    """All steps of one pixel."""
    width = generator.width
    free = generator.free
    empty = jnp.zeros_like(width)
    start = empty if start is None else jnp.where(free, jnp.clip(start, -1, 1), 0.0)
    library = generator(start)

    def abundances_of(spectra: Array) -> tuple[Array, Array]:
        center = jnp.mean(spectra, 0)
        rows, target = spectra - center, pixel - center
        x = simplex_solve(rows, target)
        slope = None
        for _ in range(TURNS if penalty else 0):
            size = jnp.sum(jnp.maximum(x, LEAST) ** exponent) ** (1 / exponent)
            slope = 0.5 * penalty * (jnp.maximum(x, LEAST) / size) ** (exponent - 1)
            x = simplex_solve(rows, target, slope)
        return x, frank_wolfe_gap(rows, target, x, slope)

    def step(state: Any, number: Array) -> Any:
        u, mean, square, spectra, touched, _ = state
        x, gap = abundances_of(spectra)
        touched = jnp.maximum(touched, x)
        chosen = jax.lax.top_k(jnp.where(x > 0, 1 + x, touched), moving)[1]
        others = pixel - matmul(x.at[chosen].set(0.0), spectra)
        part = generator.select(chosen)

        def loss(u: Array) -> Array:
            return jnp.mean((others - matmul(x[chosen], part(u))) ** 2)

        error, slope = jax.value_and_grad(loss)(u[chosen])
        width_, free_ = width[chosen], free[chosen]
        slope = jnp.where(free_, slope / jnp.where(free_, width_, 1.0), 0.0)
        new_mean = 0.9 * mean[chosen] + 0.1 * slope
        new_square = 0.999 * square[chosen] + 0.001 * slope**2
        move = new_mean / (1 - 0.9**number) / (jnp.sqrt(new_square / (1 - 0.999**number)) + 1e-8)
        moved = u[chosen] - jnp.where(free_, rate * move / jnp.where(free_, width_, 1.0), 0.0)
        moved = jnp.where(touched[chosen, None] > 0, jnp.clip(moved, -1, 1), u[chosen])
        state = (
            u.at[chosen].set(moved),
            mean.at[chosen].set(new_mean),
            square.at[chosen].set(new_square),
            spectra.at[chosen].set(part(moved)),
            touched,
            gap,
        )
        return state, (error, x)

    state = (start, empty, empty, library, jnp.zeros_like(library[:, 0]), jnp.zeros_like(pixel[0]))
    state, (history, path) = jax.lax.scan(step, state, jnp.arange(1.0, steps, dtype=pixel.dtype))
    x, gap = abundances_of(state[3])  # the last forward; the move after it changes nothing that is returned
    error = jnp.mean((pixel - matmul(x, state[3])) ** 2)
    return x, gap, state[0], jnp.append(history, error), jnp.concatenate([path, x[None]])
