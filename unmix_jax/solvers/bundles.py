"""Bundles: many spectra of each material, abundances of the materials.

One spectrum never stands for a material everywhere. A bundle holds several; a pixel may mix them as it likes, and what
is reported is their sum. A penalty on the norms of the materials' parts keeps materials out that are not there.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from unmix_jax.linalg import matmul
from unmix_jax.solvers.batching import batched
from unmix_jax.solvers.group_penalty import PAUSE, group_tolerance, longer, newton_share
from unmix_jax.solvers.sparse import PreparedLibrary, answer_of, penalty_weight, prepare_sparse, solution_of, taken
from unmix_jax.solvers.tableau import dense, stiffness_of
from unmix_jax.solvers.working_set import empty, solve_on_working_sets
from unmix_jax.solvers.worklist import State, work_off
from unmix_jax.types import Solution

__all__ = ["PreparedBundles", "bundle_fcls", "prepare_bundles"]

NEGLIGIBLE = 1e-3  # norm below which a class may be left out where its gradients allow
ENTRY = 1e-2  # norm at which a class is let in
FEW = 32  # pixels of a chunk: some take ten times the steps of others
SLOTS = 96  # most spectra in one mixture under the penalty, where the caller does not say
ROOTS = 12  # Newton steps for the multiplier of a class


class PreparedBundles(eqx.Module):
    """A library whose members belong to classes.

    Attributes:
        library: what `prepare_sparse` made of the spectra.
        matrix: 1 where a member belongs to a class, 0 elsewhere.
        names: of the classes, in the order of the abundances.
    """

    library: PreparedLibrary
    matrix: Float[Array, "class member"]
    names: tuple[str, ...] = eqx.field(static=True)


def prepare_bundles(
    library: Float[Any, "member band"],
    classes: Sequence[Hashable],
    *,
    order: Sequence[Hashable] | None = None,
    weights: Shaped[Any, " band"] | None = None,
    noise_covariance: Float[Any, "band band"] | None = None,
) -> PreparedBundles:
    """Do once what unmixing with these bundles needs for every pixel.

    Args:
        library: spectra as rows, in the unit of the pixels. A class may have one spectrum or hundreds; a spectrum of
            zeros in a class of its own is a shade.
        classes: the class of each spectrum, a name or a number.
        order: the classes in the order wanted; None: as they first occur.
        weights: of the bands, as in `prepare_sparse`.
        noise_covariance: as in `prepare_sparse`.

    Returns:
        A `PreparedBundles` pytree.

    Raises:
        ValueError: another number of classes than of spectra, a class without members, a class left out of the order or
            named twice, or what `prepare_sparse` raises.
    """
    labels = [label.item() if hasattr(label, "item") else label for label in classes]
    if len(np.shape(library)) == 2 and len(labels) != np.shape(library)[0]:
        raise ValueError(f"{len(labels)} classes for {np.shape(library)[0]} spectra")
    wanted = list(dict.fromkeys(labels)) if order is None else list(order)
    for name in wanted:
        if name not in labels:
            raise ValueError(f"class {name!r} has no spectrum in the library")
        if wanted.count(name) > 1:
            raise ValueError(f"order names class {name!r} twice")
    missing = [label for label in labels if label not in wanted]
    if missing:
        raise ValueError(f"class {missing[0]!r} has spectra, and the order leaves it out")
    prepared = prepare_sparse(library, weights=weights, noise_covariance=noise_covariance)
    matrix = np.asarray([[label == name for label in labels] for name in wanted], float)
    return PreparedBundles(prepared, jnp.asarray(matrix, prepared.endmembers.dtype), tuple(str(n) for n in wanted))


def bundle_fcls(
    pixel: Float[Any, " band"],
    bundles: PreparedBundles,
    *,
    group: Any = 0.0,
    by_size: bool = False,
    slots: int | None = None,
    max_steps: int = 100,
) -> Solution:
    """Fully constrained least squares over bundles, with sparsity among the materials.

    argmin_a ½‖y − aE‖² + group Σ_c w_c ‖a_c‖₂ subject to a ≥ 0 and Σa = 1, over all spectra of all classes; the answer
    is the sum of each class. ``group=0`` is FCLS over all spectra. Exact: ridges stand for the norms (`group_penalty`),
    each problem is solved exactly, until the duality gap says that no better mixture exists.

    Args:
        pixel: spectrum, in the unit of the bundles.
        bundles: of `prepare_bundles`.
        group: weight of the penalty, in the squared unit of the pixel; an array may be swept without compiling again.
        by_size: w_c is the square root of the number of spectra of a class, instead of 1.
        slots: most spectra in one mixture; None: as in `sunsal` without the penalty, and 96 with it. It spreads a class
            over all of its alike spectra: with bundles of hundreds, and no more slots, the gap stays and says so, and
            with more slots a pixel takes seconds. Thin such bundles out.
        max_steps: most problems with ridges that are solved.

    Returns:
        A `Solution` of the classes, with the duality gap of the whole problem. ``fitted`` are the abundances of the
        spectra [member]. ``converged`` speaks of the objective alone, which is
        minimised in float64 to a relative gap of 1e-8; there is no bound on the abundances.

    Raises:
        ValueError: if pixel and bundles differ in their number of bands, or group is negative.

    Reference: Drumetz et al. 2019, arXiv:1805.10232, for penalties on the groups of a bundle.
    """
    problem, pixel = taken(pixel, bundles.library)
    if slots is None and (isinstance(group, jax.core.Tracer) or np.any(np.asarray(group) != 0)):
        slots = SLOTS
    group = penalty_weight("group", group, pixel.dtype)

    def many(bundles: PreparedBundles, pixels: Array, group: Array) -> tuple[Array, ...]:
        # spectra of one class are alike: within the gap of float32 abundances were off by up to 0.9
        library, dtype = bundles.library, pixels.dtype
        with jax.enable_x64(True):
            z = matmul(pixels.astype(float), library.exact_projector)
            state = _grouped(bundles, z, group.astype(float) / library.unit**2, by_size, slots, max_steps)
            return answer_of(library, state, library.unit, dtype)

    found = batched(many, bundles, pixel, group)
    solution = solution_of(problem, pixel, *found, enough=group_tolerance(pixel.dtype))
    members = solution.abundances
    return eqx.tree_at(
        lambda s: (s.abundances, s.fitted, s.unique),
        solution,
        (matmul(members, bundles.matrix.T), members, None),
        is_leaf=lambda leaf: leaf is None,
    )


def _grouped(
    bundles: PreparedBundles, z: Array, group: Array, by_size: bool, slots: int | None, max_steps: int
) -> State:
    """Many pixels, in float64: first without the penalty, then with ridges that approach it."""
    dictionary, matrix = bundles.library.exact, bundles.matrix.astype(z.dtype)
    count = matrix.shape[1]
    weight = jnp.sqrt(jnp.sum(matrix, 1)) if by_size else jnp.ones(len(matrix), z.dtype)
    longest = jnp.sqrt(jnp.max(jnp.sum(dictionary.factor**2, 0)))
    norm = jnp.sqrt(jnp.sum(z**2, 1))
    own = {
        "group": group,
        "never": 1e3 * longest * (norm + longest) + group * jnp.max(weight),
        "energy": jnp.where(norm > 0, 0.5 * norm**2, 1.0),
    }
    enough = 0.5 * group_tolerance(z.dtype)

    def terms(part: State) -> tuple[Array, Array]:
        eta = part["eta"].T
        used = eta > 0
        ridges = jnp.where(used, part["group"][:, None] * weight / jnp.where(used, eta, 1.0), 0.0)
        costs = jnp.where(used, 0.0, part["never"][:, None])
        return matmul(costs, matrix), matmul(ridges, matrix)

    def judged(found: State) -> State:
        """Objective and gap of the true problem, and the norms that are due."""
        abundances, rest = dense(found["members"].T, found["amounts"].T, count), found["rest"].T
        norms = jnp.sqrt(matmul(abundances**2, matrix.T))
        pull = matmul(rest, dictionary.factor)
        limit = found["group"][:, None] * weight  # [pixel, class]
        penalty = jnp.sum(limit * norms, 1)
        common = _multiplier(pull, matrix, limit)
        slack = penalty - jnp.sum(pull * abundances, 1)
        excess = jnp.maximum(slack - jnp.min(common, 1), 0)
        # a class whose own multiplier is above that of the mixture does not pay
        lowest = slack[:, None]
        leaves = (norms < NEGLIGIBLE) & (common > lowest)
        enters = (norms == 0) & (common < lowest)
        objective = 0.5 * jnp.sum(rest**2, 1) + penalty
        return {"objective": objective, "excess": excess, "norms": norms.T, "leaves": leaves.T, "enters": enters.T}

    def advance(part: State) -> State:
        eta, norms = part["eta"], part["norms"]
        # classes come and go in plain steps; between two such the steps are Newton's
        pending = jnp.any(part["leaves"] | part["enters"], 0)
        plain = ~part["fell"] | (pending & (part["since"] >= PAUSE))
        swap = plain & part["fell"]
        target = jnp.where(part["leaves"] & swap, 0.0, norms)
        target = jnp.where(part["enters"] & swap, part["caution"], target)
        ridges = terms(part)[1]

        def by_class(values: Array, members: Array) -> Array:
            belongs = matrix.T.at[members].get(mode="fill", fill_value=0.0)  # [pixel, slot, class]
            return matmul(belongs.mT, matmul(values, belongs))

        stiff = stiffness_of(dictionary, ridges, part["members"].T, part["amounts"].T, by_class, True)
        share = newton_share(eta.T, norms.T, part["group"][:, None] * weight, stiff).T
        new = jnp.where(plain, target, eta * (1 + part["length"] * share))
        new = jnp.where(part["fresh"], jnp.inf, new)  # first without the penalty
        given = {name: part[name] for name in own} | {"eta": new}
        found = solve_on_working_sets(dictionary, part["z"], terms, given, sum_to_one=True, slots=slots, start=part)
        now = judged(found)
        fell = now["objective"] <= part["objective"] + 4 * jnp.finfo(z.dtype).eps * part["energy"]
        new = jnp.where(part["fresh"], jnp.maximum(now["norms"], ENTRY), new)
        kept = {name: found[name] for name in ("members", "amounts", "rest")} | now | {"eta": new}
        kept = {name: jnp.where(fell, value, part[name]) for name, value in kept.items()}
        less = jnp.where(swap, 0.1, 1.0) * part["caution"]
        kept |= {
            "fell": fell,
            "fresh": jnp.zeros_like(fell),
            "length": longer(part["length"], plain, fell),
            "caution": jnp.where(fell, jnp.minimum(2 * part["caution"], ENTRY), less),
            "since": jnp.where(swap, 0, part["since"] + 1),
            "steps": part["steps"] + found["steps"],
            "done": kept["excess"] <= enough * part["energy"],
        }
        return part | {name: jnp.where(part["done"], part[name], value) for name, value in kept.items()}

    classes, pixels = len(matrix), len(z)
    state = empty(dictionary, z.T, slots) | own
    state |= {
        "objective": jnp.full(pixels, jnp.inf, z.dtype),
        "eta": jnp.zeros((classes, pixels), z.dtype),
        "norms": jnp.zeros((classes, pixels), z.dtype),
        "leaves": jnp.zeros((classes, pixels), bool),
        "enters": jnp.zeros((classes, pixels), bool),
        "caution": jnp.full(pixels, ENTRY, z.dtype),
        "length": jnp.ones(pixels, z.dtype),
        "since": jnp.full(pixels, PAUSE),
        "fell": jnp.ones(pixels, bool),
        "fresh": jnp.ones(pixels, bool),
    }
    return work_off(advance, state, chunk=FEW, max_rounds=max_steps, constant=("z", *own))


def _multiplier(
    pull: Float[Array, "pixel member"], matrix: Float[Array, "class member"], limit: Float[Array, "pixel class"]
) -> Float[Array, "pixel class"]:
    """The largest h with ``limit ‖x‖ − pull·x ≥ h Σx`` for all x ≥ 0 of a class: there ``‖(pull + h)₊‖ = limit``.

    Newton's method from above, then a bound from below: the norm grows at least as fast as h.
    """
    highest = jnp.max(jnp.where(matrix > 0, pull[:, None], -jnp.inf), 2)

    def length(h: Array) -> tuple[Array, Array]:
        positive = jnp.maximum(pull + matmul(h, matrix), 0)
        return jnp.sqrt(matmul(positive**2, matrix.T)), matmul(positive, matrix.T)

    def step(_: Any, h: Array) -> Array:
        norm, total = length(h)
        slope = jnp.where(norm > 0, total / jnp.where(norm > 0, norm, 1.0), 1.0)
        return h - jnp.maximum(norm - limit, 0) / jnp.maximum(slope, 1.0)

    h = jax.lax.fori_loop(0, ROOTS, step, limit - highest)
    return h - jnp.maximum(length(h)[0] - limit, 0)
