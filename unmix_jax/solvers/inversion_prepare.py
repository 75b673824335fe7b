"""What `invert` needs to know of endmembers and a mixing model, computed once."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from unmix_jax.linalg import matmul
from unmix_jax.physics.hapke import Hapke
from unmix_jax.physics.mixing import (
    MLM,
    PPNM,
    SCLS,
    Linear,
    Mixing,
    Nascimento,
    fitted_fields,
    pair_products,
    split,
    term_pairs,
)
from unmix_jax.solvers.inversion_views import Bandwise, Rendered, Terms
from unmix_jax.solvers.simplex_box import Model, Region, project, quadratic_step
from unmix_jax.solvers.tables import Prepared, prepare_for

__all__ = ["PreparedInversion", "prepare_inversion"]


class PreparedInversion(eqx.Module):
    """Endmembers and a mixing model with all that does not depend on the pixel.

    Attributes:
        endmembers: [endmember, band], zero in bands that do not count.
        mixing: the model; its fitted fields are where parameters start.
        root: inverse standard deviation of the noise in each band, zero in those that do not count; None: all one.
        good: bands that count; None: all.
        materials: how many of the endmembers are materials; for `Nascimento`, products of pairs follow them.
        known_noise: whether the noise was given, and not only a mask.
        linear: least squares on what the first guess is made of.
        low: least value of each parameter.
        high: greatest value of each parameter.
        center: mean of the parameters' prior.
        precision: inverse variance of that prior; zero where there is none.
        view: how the model is evaluated.
        fit: names of the fitted fields of the model.
        told: whether the caller said what is fitted, by ``fit``, ``limits`` or ``spread``, and not only the class.
    """

    endmembers: Float[Array, "endmember band"]
    mixing: Any
    root: Float[Array, " band"] | None
    good: Bool[Array, " band"] | None
    linear: Prepared
    low: Float[Array, " parameter"]
    high: Float[Array, " parameter"]
    center: Float[Array, " parameter"]
    precision: Float[Array, " parameter"]
    view: Terms | Bandwise | Rendered
    materials: int = eqx.field(static=True)
    known_noise: bool = eqx.field(static=True)
    fit: tuple[str, ...] = eqx.field(static=True)
    told: bool = eqx.field(static=True)

    @property
    def simplex(self) -> int:
        """How many unknowns are abundances."""
        return self.endmembers.shape[0]

    @property
    def region(self) -> Region:
        """Where the unknowns may be."""
        return Region(self.simplex, self.low, self.high)

    def at(self, parameters: Float[Array, " parameter *pixel"]) -> Any:
        """The model with these parameters; pixel axes stay behind those of its arrays."""
        return eqx.combine(self.fitted(parameters), split(self.mixing, self.fit)[1])

    def fitted(self, parameters: Float[Array, " parameter *pixel"]) -> Any:
        """The model with nothing but its fitted fields, which hold these parameters."""
        leaves, tree = jax.tree.flatten(split(self.mixing, self.fit)[0])
        ends = np.cumsum([leaf.size for leaf in leaves])
        parts = [
            parameters[end - leaf.size : end].reshape(*leaf.shape, *parameters.shape[1:])
            for leaf, end in zip(leaves, ends, strict=True)
        ]
        return jax.tree.unflatten(tree, parts)

    def whiten(self, spectra: Float[Array, "*n band"]) -> Float[Array, "*n band"]:
        """Spectra in units of the noise."""
        return spectra if self.root is None else spectra * self.root

    def straighten(self, pixel: Float[Array, " band"]) -> Float[Array, " band"]:
        """What mixes linearly of a pixel, where that is known: for Hapke's model where it starts, its albedo."""
        if not isinstance(self.mixing, Hapke):
            return pixel
        white = self.mixing.reflectance(jnp.ones((), pixel.dtype))
        return self.mixing.albedo_of(jnp.clip(pixel, 0.0, white)[None])[0]

    def model(self, unknown: Array, seen: dict[str, Array]) -> Model:
        """Half the whitened squared error, and the prior, at unknowns [unknown, pixel]."""
        value, gradient, curvature = self.view.model(self, unknown, seen)
        if not len(self.low):
            return Model(value, gradient, curvature)
        away = unknown[self.simplex :] - self.center[:, None]
        precision = jnp.concatenate([jnp.zeros(self.simplex, unknown.dtype), self.precision])
        pull = self.precision[:, None] * away
        return Model(
            value + 0.5 * jnp.sum(away * pull, 0),
            gradient.at[self.simplex :].add(pull),
            curvature + jnp.diag(precision)[:, :, None],
        )

    def start(self, seen: dict[str, Array]) -> Float[Array, "unknown pixel"]:
        """Fully constrained least squares, and a parameter that is best by it in closed form."""
        geometry, z = self.linear.geometry, seen["start"].T
        count, pixels = self.simplex, z.shape[1]
        even = jnp.full((count, pixels), 1 / count, z.dtype)
        slope = matmul(geometry.gram, even) - matmul(geometry.factor.T, z)
        curvature = jnp.broadcast_to(geometry.gram[:, :, None], (count, count, pixels))
        simplex = Region(count, self.low[:0], self.high[:0])
        abundances = project(
            even + quadratic_step(even, slope, curvature, jnp.zeros(pixels, z.dtype), simplex), simplex
        )
        start = jnp.broadcast_to(self.center[:, None], (len(self.low), pixels))
        if len(start) == 1 and isinstance(self.mixing, PPNM | MLM | SCLS):  # fitted, and not known
            start = self._closed(abundances, start, seen)
        return jnp.concatenate([abundances, start])

    def _closed(self, abundances: Array, start: Array, seen: dict[str, Array]) -> Array:
        """The parameter that is best for given abundances [endmember, pixel].

        b of `PPNM` is ⟨y − s, s²⟩ / ⟨s², s²⟩ and ψ of `SCLS` ⟨y, s⟩ / ⟨s, s⟩, where the misfit's parabola is lowest;
        P of `MLM`, of the equation y = (1 − P)s + P s ⊙ y, is ⟨d, s − y⟩ / ⟨d, d⟩ with d = s − s ⊙ y (Wei et al. 2017,
        10.1109/TGRS.2017.2693366).
        """
        if isinstance(self.mixing, PPNM | SCLS):
            count = self.simplex
            data = self.view.gather(seen, self.view.rows(seen))
            at_zero = self.view.model(self, jnp.concatenate([abundances, jnp.zeros_like(start)]), data)
            above, below = -at_zero.gradient[count], at_zero.curvature[count, count]
        else:
            spectra, pixel = matmul(abundances.T, self.endmembers), seen["pixel"]
            change = self.whiten(spectra) - spectra * pixel
            above, below = jnp.sum(change * (self.whiten(spectra) - pixel), 1), jnp.sum(change**2, 1)
        best = jnp.where(below > 0, above / jnp.where(below > 0, below, 1.0), start[0])
        return jnp.clip(best, self.low, self.high)[None]


def prepare_inversion(
    endmembers: Float[Any, "endmember band"],
    mixing: Mixing,
    *,
    noise: float | Float[Any, " band"] | None = None,
    good_bands: Bool[Any, " band"] | None = None,
    limits: tuple[Any, Any] | None = None,
    spread: Any = None,
    fit: str | Sequence[str] | None = None,
) -> PreparedInversion:
    """Do once what `invert` needs for every pixel.

    Args:
        endmembers: spectra as rows, in the unit of the pixels.
        mixing: the model. Its fitted fields start at the values they have (b of `PPNM` and P of `MLM` where they are
            best in closed form); all other fields are known.
        noise: standard deviation, of all bands or of each, in the unit of the pixels; None: alike in all bands, and
            estimated from what the fit leaves.
        good_bands: bands that count; whatever the others hold is not looked at.
        limits: the model with the least and with the greatest values of its fitted fields; None: those that the model
            has (``mixing.limits``), or none.
        spread: the model with the standard deviation of each fitted field under a Gaussian prior about the value it
            has, for what a pixel cannot tell (the scales of `ELMM`); infinite where there is none. It is in proportion
            to the noise, which must be given.
        fit: names of the fields of the model that are fitted, none with ``()``; None: those that its class lists in
            ``fitted``. The type of a value decides nothing: a known parameter stays known under ``jit`` and ``grad``.

    Returns:
        A `PreparedInversion` pytree.

    Raises:
        ValueError: shapes that disagree, endmembers that are not finite, a model that renders something not finite
            where it starts, noise that is not above zero, no good band, a start outside the limits, a prior without
            noise, or what `physics.mixing.fitted_fields` raises where it is not clear what is fitted.
    """
    inputs = jax.tree.leaves((endmembers, mixing, noise, limits, spread))
    traced = any(isinstance(x, jax.core.Tracer) for x in inputs)
    if traced:
        return _prepared(endmembers, mixing, noise, good_bands, limits, spread, fit, traced)
    with jax.ensure_compile_time_eval():  # values, also where a program is traced around them
        return _prepared(endmembers, mixing, noise, good_bands, limits, spread, fit, traced)


def _prepared(
    endmembers: Any, mixing: Any, noise: Any, good_bands: Any, limits: Any, spread: Any, fit: Any, traced: bool
) -> PreparedInversion:
    """`prepare_inversion`; where something is traced, without checks of values and without terms."""
    if len(np.shape(endmembers)) != 2 or 0 in np.shape(endmembers):
        raise ValueError(f"endmembers must be [endmember, band] and not empty, got {np.shape(endmembers)}")
    bands = np.shape(endmembers)[1]
    dtype = jax.dtypes.canonicalize_dtype(getattr(endmembers, "dtype", float))
    dtype = dtype if jnp.issubdtype(dtype, jnp.floating) else jax.dtypes.canonicalize_dtype(float)
    good = None if good_bands is None else np.asarray(good_bands, bool)
    if good is not None and good.shape != (bands,):
        raise ValueError(f"good_bands has shape {good.shape}, the endmembers {bands} bands")
    if good is not None and not good.any():
        raise ValueError("good_bands leaves no band to look at")
    good = None if good is None or good.all() else good
    root = _root(noise, good, bands)
    spectra = jnp.asarray(endmembers, dtype)
    spectra = spectra if good is None else jnp.where(good, spectra, 0.0)
    if not traced and not np.isfinite(np.asarray(spectra)).all():
        raise ValueError("endmembers hold NaN or infinite values in bands that count; leave those out (good_bands)")
    materials = len(spectra)
    names = fitted_fields(mixing, fit)
    if isinstance(mixing, Nascimento):  # pairs of materials are materials of their own
        if not names:
            raise ValueError(
                "abundances and interactions of Nascimento sum to one together: they are fitted, not known"
            )
        spectra, mixing, names = jnp.concatenate([spectra, pair_products(spectra)]), Linear(), ()
    for option, given in (("limits", limits), ("spread", spread)):
        if given is not None and not names:
            kind = type(mixing).__name__
            raise ValueError(f"{option} is about fitted fields, and {kind} has none here: name them with fit")

    unknown, known = split(mixing, names)
    unknown = jax.tree.map(lambda x: jnp.asarray(x, dtype), unknown)
    known = jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, known)
    mixing = eqx.combine(unknown, known)
    center = ravel_pytree(unknown)[0].astype(dtype)
    low, high = _limits(mixing, names, spectra, limits, center, traced)
    precision = _precision(mixing, names, spread, noise, center)

    columns = spectra
    if isinstance(mixing, Hapke):
        columns = mixing.albedo_of(spectra)
        if not traced and not np.isfinite(np.asarray(columns)).all():
            dark = np.argwhere(~np.isfinite(np.asarray(columns)))[0]
            value = float(np.asarray(spectra)[tuple(dark)])
            raise ValueError(
                f"endmember {dark[0]} has reflectance {value:g} in band {dark[1]}; Hapke's model has none below zero "
                "or above that of a perfect scatterer: leave the band out (good_bands) or scale the spectra"
            )
    if not traced:
        _check_start(mixing, unknown, spectra, good)
    weights = None if root is None else np.square(root) if isinstance(root, np.ndarray) else jnp.square(root)
    if traced:  # it is for the start alone, which no derivative goes through
        columns, weights = jax.lax.stop_gradient((columns, weights))
    linear = prepare_for((), columns, weights)
    if hasattr(mixing, "terms") and not traced:
        view: Any = _terms(mixing, names, spectra, root, linear, dtype)
    elif hasattr(mixing, "response") and all(np.ndim(leaf) == 0 for leaf in jax.tree.leaves(mixing)):
        first, second = np.triu_indices(len(spectra))
        view = Bandwise(spectra.T, spectra[first] * spectra[second])
    else:
        view = Rendered()
    return PreparedInversion(
        endmembers=spectra,
        mixing=mixing,
        root=None if root is None else jnp.asarray(root, dtype),
        good=None if good is None else jnp.asarray(good),
        linear=linear,
        low=low,
        high=high,
        center=center,
        precision=precision,
        view=view,
        materials=materials,
        known_noise=noise is not None,
        fit=names,
        told=any(option is not None for option in (fit, limits, spread)),
    )


def _check_start(mixing: Any, unknown: Any, spectra: Array, good: np.ndarray | None) -> None:
    """Refuse a model that does not render the equal mixture of the endmembers where its parameters start."""
    count = len(spectra)
    rendered = np.asarray(mixing(jnp.full(count, 1 / count, spectra.dtype), spectra))
    wrong = ~np.isfinite(rendered) if good is None else ~np.isfinite(rendered) & good
    if wrong.any():
        band = int(np.argmax(wrong))
        raise ValueError(
            f"{type(mixing).__name__} renders {rendered[band]} in band {band} ({wrong.sum()} of {wrong.size} bands are "
            "not finite) for equal abundances of the endmembers, whose values there are "
            f"{np.asarray(spectra)[:, band]}, "
            f"{_listed(unknown)}: start where the model is finite, or leave the bands out (good_bands)"
        )


def _listed(unknown: Any) -> str:
    """Where the fitted fields start, for a message."""
    starts = jax.tree_util.tree_leaves_with_path(unknown)
    listed = ", ".join(f"{jax.tree_util.keystr(path).lstrip('.')} = {np.asarray(leaf)}" for path, leaf in starts)
    return f"and starts at {listed}" if listed else "and nothing is fitted"


def _root(noise: Any, good: np.ndarray | None, bands: int) -> Any:
    """Inverse standard deviation of each band; None where all are one."""
    if noise is None:
        return None if good is None else good.astype(float)
    if isinstance(noise, jax.core.Tracer):
        root = jnp.broadcast_to(1 / noise, (bands,))
        return root if good is None else jnp.where(good, root, 0.0)
    noise = np.asarray(noise, float)
    if noise.shape not in ((), (bands,)):
        raise ValueError(f"noise is one number or {bands}, got shape {noise.shape}")
    noise = np.broadcast_to(noise, (bands,))
    kept = noise if good is None else noise[good]
    if not (np.isfinite(kept).all() and (kept > 0).all()):
        raise ValueError("noise must be finite and above zero in bands that count")
    return 1 / noise if good is None else np.where(good, 1 / np.where(good, noise, 1.0), 0.0)


def _limits(
    mixing: Any, names: Sequence[str], spectra: Array, limits: Any, center: Array, traced: bool
) -> tuple[Array, Array]:
    """Least and greatest value of each parameter."""
    if limits is None and hasattr(mixing, "limits"):
        limits = mixing.limits(spectra)
    if limits is None:
        return jnp.full_like(center, -jnp.inf), jnp.full_like(center, jnp.inf)
    low, high = (_like(mixing, names, limit, "limits") for limit in limits)
    if not traced and not ((low <= center) & (center <= high)).all():
        raise ValueError(f"the model starts at {center}, outside its limits {low} to {high}")
    return low, high


def _precision(mixing: Any, names: Sequence[str], spread: Any, noise: Any, center: Array) -> Array:
    """Inverse variance of each parameter's prior."""
    if spread is None:
        return jnp.zeros_like(center)
    if noise is None:
        raise ValueError("a prior is weighed against the noise: give noise with spread")
    spread = _like(mixing, names, spread, "spread")
    if not isinstance(spread, jax.core.Tracer) and not (np.asarray(spread) > 0).all():
        raise ValueError("spread holds standard deviations: above zero, infinite for no prior")
    return 1 / spread**2


def _like(mixing: Any, names: Sequence[str], other: Any, option: str) -> Array:
    """What a model of the same kind has in the fitted fields of this one, in a row."""
    if type(other) is not type(mixing):
        raise ValueError(f"{option} holds {type(other).__name__}, the model is {type(mixing).__name__}")
    leaves, given = (jax.tree.leaves(split(model, names)[0]) for model in (mixing, other))
    if len(given) != len(leaves):
        raise ValueError(f"{option} must give a value for each fitted field: {', '.join(names)}")
    row = [
        jnp.broadcast_to(jnp.asarray(value, leaf.dtype), leaf.shape).ravel()
        for leaf, value in zip(leaves, given, strict=True)
    ]
    return jnp.concatenate(row) if row else jnp.zeros(0)


def _terms(mixing: Any, names: Sequence[str], spectra: Array, root: Any, linear: Prepared, dtype: Any) -> Terms:
    """The thin QR factors of the whitened terms, in float64."""
    count = len(spectra)
    terms = np.asarray(mixing.terms(np.asarray(spectra, np.float64)), np.float64)
    white = terms if root is None else terms * root
    basis, factor = np.linalg.qr(white.T)
    projector = basis if root is None else basis * root[:, None]
    start = np.asarray(linear.projector, np.float64)
    to_start = basis.T @ (start if root is None else start / np.where(root > 0, root, 1.0)[:, None])
    unknown, known = split(mixing, names)
    row, restore = ravel_pytree(unknown)

    def weights(row: Array) -> Array:
        return eqx.combine(restore(row), known).term_weights(count)

    slopes = jax.jacfwd(weights)(jnp.zeros_like(row))
    degrees = np.zeros((len(terms), count, 1 + count))
    degrees[range(count), range(count), 0] = 1
    for n, (i, j) in enumerate(zip(*term_pairs(count, len(terms)), strict=True), count):
        degrees[n, i, 1 + j] += 1
        degrees[n, j, 1 + i] += 1
    held = projector, factor, to_start, weights(jnp.zeros_like(row)), slopes, degrees
    return Terms(*(jnp.asarray(x, dtype) for x in held))
