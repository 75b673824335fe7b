"""Nonnegative matrix factorisation: endmembers and abundances at once, by multiplicative updates.

`nmf` takes a scene and finds its own start; `factorise` is the pure function beneath it, of arrays, to be jitted and
vmapped over starts or weights.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from unmix_jax.endmembers.extraction import vca
from unmix_jax.endmembers.factorisation import Factorisation, gather
from unmix_jax.endmembers.moments import ValidPixels
from unmix_jax.linalg import matmul
from unmix_jax.solvers.least_squares import fcls
from unmix_jax.solvers.tables import Prepared, prepare_for

__all__ = ["factorise", "nmf", "sparseness"]

FLOOR = 1e-3  # of starts


def nmf(
    key: Key[Array, ""],
    pixels: Any,
    count: int,
    *,
    start: Float[Any, "endmember band"] | None = None,
    starts: int = 5,
    l1: Any = 0.0,
    l_half: Any = None,
    sum_to_one: Any = 15.0,
    max_steps: int = 2000,
    tol: float = 1e-4,
) -> Factorisation:
    r"""Nonnegative matrix factorisation, plain or sparse, from VCA and FCLS.

    argmin over A ≥ 0, E ≥ 0 of ½‖Y − AE‖² + ½δ² Σ_p (1 − Σ_e a_pe)² + λ₁ Σ a + λ_½ Σ √a, for pixels Y divided by their
    greatest value, so that the weights do not depend on the unit. No step raises it.

    Args:
        key: random key of VCA.
        pixels: spectra, nonnegative, any unit; an array or a `Scene`.
        count: number of endmembers.
        start: endmembers to start from, in the unit of the pixels; None: those of VCA.
        starts: draws of VCA, of which the one is kept whose FCLS abundances leave the least misfit; VCA may find one
            material twice, which the updates hardly undo.
        l1: weight λ₁ of the sum of the abundances.
        l_half: weight λ_½ of the sum of their roots; None: the `sparseness` of the pixels, as published; 0: none.
        sum_to_one: weight δ of the row that pulls the sum of the abundances to one; 0 leaves it free.
        max_steps: most steps.
        tol: stop when a step changes the endmembers by no more than this part of their norm.

    Returns:
        Endmembers, abundances, and the objective of the divided pixels.

    Raises:
        ValueError: count < 1, more endmembers than bands, valid pixels or (from VCA) dimensions of the data; negative
            pixels; no valid pixel; a start of another shape, or negative or not finite; starts < 1.

    Reference:
        Lee & Seung 1999, 10.1038/44565 (updates); Qian et al. 2011, 10.1109/TGRS.2011.2144605 (L1/2 and its weight);
        Heinz & Chang 2001, 10.1109/36.911111 (the row δ).
    """
    gathered = gather(pixels, count)
    values = gathered.values
    if values.min() < 0:
        raise ValueError(
            f"factors are nonnegative, and so must pixels be: got {values.min():.3g} among the valid ones "
            f"(where that is noise, clip at 0)"
        )
    scale = values.max()
    data = jnp.asarray(values / scale)
    if start is not None:
        draws = [_checked(start, count, gathered.data) / scale]
    elif starts < 1:
        raise ValueError(f"starts must be at least 1, got {starts}")
    elif count == 1:
        draws = [values.mean(axis=0, keepdims=True) / scale]
    else:
        keys = (jax.random.fold_in(key, i) for i in range(starts))
        draws = [np.asarray(vca(one, data, count).endmembers) for one in keys]
    first, abundances = _start(data, [jnp.asarray(draw.astype(values.dtype)) for draw in draws])
    weights = {"l1": l1, "l_half": sparseness(data) if l_half is None else l_half, "sum_to_one": sum_to_one, "tol": tol}
    arrays = {name: jnp.asarray(value, data.dtype) for name, value in weights.items()}
    found = _factorise(data, first, abundances, max_steps=jnp.asarray(max_steps), **arrays)
    return gathered.back(eqx.tree_at(lambda f: f.endmembers, found, found.endmembers * scale))


def _checked(start: Any, count: int, data: ValidPixels) -> Float[np.ndarray, "endmember good_band"]:
    """The good bands of endmembers that a user starts from."""
    start, shape = np.asarray(start), (count, data.bands)
    if start.shape != shape:
        raise ValueError(f"start must be [endmember, band] {shape}, got {start.shape}")
    good = start[:, data.good]
    if not (np.isfinite(good) & (good >= 0)).all():
        raise ValueError(f"start must be finite and nonnegative in the good bands, its least is {good.min():.3g}")
    return good


def _start(
    pixels: Float[Array, "pixel band"], draws: list[Float[Array, "endmember band"]]
) -> tuple[Float[Array, "endmember band"], Float[Array, "pixel endmember"]]:
    """Of several sets of endmembers the one that leaves the least misfit, and its abundances."""
    if len(draws[0]) == 1:
        return draws[0], jnp.ones((len(pixels), 1), pixels.dtype)
    tries = [(draw, *_fcls(pixels, prepare_for(("simplex",), draw))) for draw in draws]
    first, abundances, _ = min(tries, key=lambda one: float(one[2]))
    return first, abundances


def factorise(
    pixels: Float[Any, "pixel band"],
    endmembers: Float[Any, "endmember band"],
    abundances: Float[Any, "pixel endmember"] | None = None,
    *,
    l1: Any = 0.0,
    l_half: Any = None,
    sum_to_one: Any = 15.0,
    max_steps: Any = 2000,
    tol: Any = 1e-4,
) -> Factorisation:
    r"""The factorisation of `nmf` from given endmembers: pure, for `jax.jit` and `jax.vmap` over anything but shapes.

    A ← A ∘ (YEᵀ + δ²) / (A(EEᵀ + δ²) + λ₁ + ½ λ_½ A^(−½)), then E ← E ∘ (AᵀY) / (AᵀAE).
    Multiplication never leaves zero, so that starts are lifted to 0.001 (of the greatest value of the pixels).

    Args:
        pixels: spectra, nonnegative, all valid; the weights are meant for a greatest value near 1.
        endmembers: those to start from.
        abundances: those to start from; None: equal parts.
        l1: weight λ₁.
        l_half: weight λ_½; None: the `sparseness` of the pixels.
        sum_to_one: weight δ.
        max_steps: most steps.
        tol: stop when a step changes the endmembers by no more than this part of their norm.

    Returns:
        Endmembers, abundances and objective.

    Reference:
        Qian et al. 2011, 10.1109/TGRS.2011.2144605.
    """
    pixels = jnp.asarray(pixels)
    l_half = sparseness(pixels) if l_half is None else l_half
    l1, l_half, square = (jnp.asarray(weight, pixels.dtype) for weight in (l1, l_half, jnp.square(sum_to_one)))
    tiny = jnp.finfo(pixels.dtype).tiny

    def step(state: tuple[Array, Array, Int[Array, ""], Bool[Array, ""]]) -> Any:
        spectra, abundances, steps, _ = state
        root = jnp.sqrt(abundances)  # both sides of the fraction are multiplied by it: zero stays zero
        towards = root * (matmul(pixels, spectra.T) + square)
        away = root * (matmul(abundances, matmul(spectra, spectra.T) + square) + l1) + 0.5 * l_half
        abundances = abundances * towards / jnp.maximum(away, tiny)
        towards = matmul(abundances.T, pixels)
        away = matmul(matmul(abundances.T, abundances), spectra)
        moved = spectra * towards / jnp.maximum(away, tiny)
        change = jnp.linalg.norm(moved - spectra) <= tol * jnp.linalg.norm(spectra)
        return moved, abundances, steps + 1, change

    if abundances is None:
        abundances = jnp.full((len(pixels), len(endmembers)), 1 / len(endmembers), pixels.dtype)
    spectra, abundances = jnp.maximum(endmembers, FLOOR * jnp.max(pixels)), jnp.maximum(abundances, FLOOR)
    state = spectra, abundances, jnp.asarray(0), jnp.asarray(False)
    spectra, abundances, steps, converged = jax.lax.while_loop(lambda s: (s[2] < max_steps) & ~s[3], step, state)
    misfit = jnp.sum((pixels - matmul(abundances, spectra)) ** 2) + square * jnp.sum((1 - abundances.sum(1)) ** 2)
    objective = 0.5 * misfit + l1 * jnp.sum(abundances) + l_half * jnp.sum(jnp.sqrt(abundances))
    return Factorisation(spectra, abundances, objective, steps, converged & jnp.isfinite(objective))


_factorise = eqx.filter_jit(factorise)


@eqx.filter_jit
def _fcls(
    pixels: Float[Array, "pixel band"], endmembers: Prepared
) -> tuple[Float[Array, "pixel endmember"], Float[Array, ""]]:
    """Abundances to start from, and the sum over pixels of the mean square that they leave."""
    solution = jax.vmap(eqx.Partial(fcls, endmembers=endmembers))(pixels)
    return solution.abundances, jnp.sum(solution.residual**2)


def sparseness(pixels: Float[Any, "pixel band"]) -> Float[Array, ""]:
    r"""How unevenly each band is spread over the pixels: the published weight of the L1/2 penalty.

    λ = B^(−½) Σ_b (√N − ‖y_b‖₁ / ‖y_b‖₂) / √(N − 1), with y_b the image of band b in N pixels.

    Args:
        pixels: spectra, nonnegative; the scale does not matter.

    Returns:
        The weight, at most √B; bands of zeros count as even.

    Reference:
        Qian et al. 2011, 10.1109/TGRS.2011.2144605 (after Hoyer 2004).
    """
    pixels = jnp.asarray(pixels)
    bands, full = pixels.shape[1], math.sqrt(len(pixels))
    total, norm = jnp.sum(jnp.abs(pixels), axis=0), jnp.linalg.norm(pixels, axis=0)
    ratio = jnp.where(norm > 0, total / jnp.where(norm > 0, norm, 1.0), full)
    return jnp.sum(full - ratio) / math.sqrt(bands * max(len(pixels) - 1, 1))
