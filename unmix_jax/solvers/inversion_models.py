"""What `invert` prepares of endmembers and a mixing model, and the three ways to see a pixel.

A view gives value, gradient and curvature (Gauss and Newton's) of half the whitened squared error, of many pixels:

- `Terms`: a polynomial in the abundances is a weighted sum of a few spectra, ``y = cT``. With the thin QR factors of
  the whitened terms it is the same problem in as many dimensions as there are terms, ``½‖z − Rc‖²`` with z = Qᵀy.
- `Bandwise`: where a linear mixture is changed band by band, the curvature is ``Σ_b s'_b² e_ib e_jb``: one product
  with what endmembers alone decide.
- `Rendered`: any model, through forward derivatives.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from unmix_jax.linalg import matmul, squared_norm
from unmix_jax.physics.hapke import Hapke
from unmix_jax.physics.mixing import SCLS, Mixing, term_pairs
from unmix_jax.solvers.active_set import solve
from unmix_jax.solvers.lanes import affine, apply, stacked
from unmix_jax.solvers.simplex_box import Model, Region
from unmix_jax.solvers.tables import Prepared, prepare_for

__all__ = ["Bandwise", "PreparedInversion", "Rendered", "Terms", "prepare_inversion"]

CHUNK = 512  # pixels that are advanced together, in as many dimensions as there are terms; fewer where those are many
BAND_CHUNK = 128  # and in all bands


def _upper(count: int) -> list[tuple[int, int]]:
    """Index pairs i ≤ j."""
    return [(i, j) for i in range(count) for j in range(i, count)]


class Terms(eqx.Module):
    """A mixture of terms: ``½‖z − Rc‖²`` with ``c = (weight + slopes·p) ⊙ monomials(a)``.

    Attributes:
        projector: ``z = pixel @ projector``, whitening included.
        root: R.
        to_start: from z to what the first guess is solved from.
        weight: of each term where all parameters are zero.
        slopes: derivatives of the weights in the parameters.
        degrees: derivatives of the monomials, ``∂m_n/∂a_i = degrees[n, i, 0] + Σ_j degrees[n, i, 1 + j] a_j``.
    """

    projector: Float[Array, "band latent"]
    root: Float[Array, "latent term"]
    to_start: Float[Array, "latent start"]
    weight: Float[Array, "term"]
    slopes: Float[Array, "term parameter"]
    degrees: Float[Array, "term endmember power"]
    chunk: int = eqx.field(static=True, default=CHUNK)

    def see(self, problem: "PreparedInversion", pixel: Array) -> dict[str, Array]:
        """What of a pixel the descent needs."""
        z = matmul(pixel, self.projector)
        return {"z": z, "start": matmul(z, self.to_start)}

    def rows(self, seen: dict[str, Array]) -> dict[str, Array]:
        """What travels with the pixels, which are last."""
        return {"z": seen["z"].T}

    def gather(self, seen: dict[str, Array], data: dict[str, Array]) -> dict[str, Array]:
        """What the model needs of some pixels."""
        return data

    def _parts(self, problem: "PreparedInversion", unknown: Array, seen: dict[str, Array]) -> Any:
        """Weights [term, pixel], monomials, their derivatives [term, endmember, pixel], and error [latent, pixel]."""
        count, terms = problem.simplex, len(self.weight)
        abundances, parameters = unknown[:count], unknown[count:]
        first, second = term_pairs(count, terms)
        products = [abundances[i] * abundances[j] for i, j in zip(first, second, strict=True)]
        monomials = stacked([*abundances, *products])
        weights = self.weight[:, None] + (apply(self.slopes, parameters) if len(parameters) else 0.0)
        weights, monomials = jax.lax.optimization_barrier((weights, monomials))
        flat = self.degrees.reshape(terms * count, -1)
        steep = affine(flat[:, 1:], abundances, flat[:, 0]).reshape(terms, count, -1)
        return weights, monomials, steep, apply(self.root, weights * monomials) - seen["z"]

    def model(self, problem: "PreparedInversion", unknown: Array, seen: dict[str, Array]) -> Model:
        """Value, gradient and curvature at unknowns [unknown, pixel]."""
        size, pixels = unknown.shape
        weights, monomials, steep, error = self._parts(problem, unknown, seen)
        changes = [weights[:, None] * steep, self.slopes[:, :, None] * monomials[:, None]]
        changes = jnp.concatenate(changes, 1).reshape(len(weights), -1)
        rows = apply(self.root, changes).reshape(-1, size, pixels)
        rows, error = jax.lax.optimization_barrier((rows, error))
        latent = range(len(error))
        return Model(
            0.5 * sum(error[f] * error[f] for f in latent),
            sum(rows[f] * error[f] for f in latent),
            stacked([sum(rows[f] * rows[f, i] for f in latent) for i in range(size)]),
        )

    def bend(self, problem: "PreparedInversion", unknown: Array, seen: dict[str, Array]) -> Array:
        """What the exact curvature has besides: the error times second derivatives, [unknown, unknown, pixel]."""
        count, size = problem.simplex, len(unknown)
        weights, _, steep, error = self._parts(problem, unknown, seen)
        pull = apply(self.root.T, error)
        second = jnp.moveaxis(self.degrees[:, :, 1:], 0, -1).reshape(count * count, -1)
        block = apply(second, pull * weights).reshape(count, count, -1)
        if size == count:
            return block
        mixed = apply(self.slopes.T, (pull[:, None] * steep).reshape(len(pull), -1)).reshape(size - count, count, -1)
        nothing = jnp.zeros((size - count, size - count, block.shape[2]), block.dtype)
        upper = jnp.concatenate([block, jnp.swapaxes(mixed, 0, 1)], 1)
        return jnp.concatenate([upper, jnp.concatenate([mixed, nothing], 1)])


class _OfBands(eqx.Module):
    """Pixels stay where they are, in all their bands, and only their numbers travel."""

    chunk: int = eqx.field(static=True, default=BAND_CHUNK, kw_only=True)

    def rows(self, seen: dict[str, Array]) -> dict[str, Array]:
        """What travels with the pixels, which are last."""
        return {"number": jnp.arange(len(seen["pixel"]))}

    def gather(self, seen: dict[str, Array], data: dict[str, Array]) -> dict[str, Array]:
        """What the model needs of some pixels."""
        return data | {"pixel": seen["pixel"][data["number"]]}


class Bandwise(_OfBands):
    """A linear mixture that is changed band by band, by a model with a ``response``."""

    spectra: Float[Array, "band endmember"]
    products: Float[Array, "pair band"]

    def see(self, problem: "PreparedInversion", pixel: Array) -> dict[str, Array]:
        """What of a pixel the descent needs."""
        return {"pixel": problem.whiten(pixel), "start": matmul(pixel, problem.linear.projector)}

    def _parts(self, problem: "PreparedInversion", unknown: Array) -> tuple[Any, Any, Any]:
        """Mixture and parameters, what becomes of them in each band [band, pixel], and its derivative in each."""
        count = problem.simplex
        inputs = (matmul(self.spectra, unknown[:count]), *unknown[count:, None])

        def spectrum(linear: Array, *parameters: Array) -> Array:
            rendered = problem.at(jnp.concatenate([unknown[:0], *parameters])).response(linear)
            return rendered if problem.root is None else rendered * problem.root[:, None]

        def slope(i: int) -> Callable[..., Array]:
            ones = [jnp.full_like(x, float(i == j)) for j, x in enumerate(inputs)]
            return lambda *inputs: jax.jvp(spectrum, inputs, tuple(ones))[1]

        return inputs, spectrum, slope

    def _assembled(self, problem: "PreparedInversion", size: int, weights: Callable[[int, int], Array]) -> Array:
        """From what stands between two derivatives in each band to the matrix between two unknowns."""
        count = problem.simplex
        cells = dict(zip(_upper(count), matmul(self.products, weights(0, 0)), strict=True))
        for i in range(1, 1 + size - count):
            mixed = matmul(problem.endmembers, weights(0, i))
            cells |= {(j, count - 1 + i): mixed[j] for j in range(count)}
            cells |= {(count - 1 + j, count - 1 + i): jnp.sum(weights(j, i), 0) for j in range(1, i + 1)}
        cells = dict(zip(cells, jax.lax.optimization_barrier(list(cells.values())), strict=True))
        return jnp.stack([cells[min(i, j), max(i, j)] for i in range(size) for j in range(size)]).reshape(
            size, size, -1
        )

    def model(self, problem: "PreparedInversion", unknown: Array, seen: dict[str, Array]) -> Model:
        """Value, gradient and curvature at unknowns [unknown, pixel]."""
        inputs, spectrum, slope = self._parts(problem, unknown)
        error, slopes = spectrum(*inputs) - seen["pixel"].T, [slope(i)(*inputs) for i in range(len(inputs))]
        # each of them once, and not again in every product
        error, slopes = jax.lax.optimization_barrier((error, slopes))
        gradient = [*matmul(problem.endmembers, slopes[0] * error), *(jnp.sum(x * error, 0) for x in slopes[1:])]
        curvature = self._assembled(problem, len(unknown), lambda i, j: slopes[i] * slopes[j])
        return Model(0.5 * jnp.sum(error * error, 0), stacked(gradient), curvature)

    def bend(self, problem: "PreparedInversion", unknown: Array, seen: dict[str, Array]) -> Array:
        """What the exact curvature has besides: the error times second derivatives, [unknown, unknown, pixel]."""
        inputs, spectrum, slope = self._parts(problem, unknown)
        error = spectrum(*inputs) - seen["pixel"].T

        def second(i: int, j: int) -> Array:
            ones = tuple(jnp.full_like(x, float(j == k)) for k, x in enumerate(inputs))
            return jax.jvp(slope(i), inputs, ones)[1]

        weights = {(i, j): error * second(i, j) for i, j in _upper(len(inputs))}
        weights = jax.lax.optimization_barrier(weights)
        return self._assembled(problem, len(unknown), lambda i, j: weights[min(i, j), max(i, j)])


class Rendered(_OfBands):
    """Any model."""

    def see(self, problem: "PreparedInversion", pixel: Array) -> dict[str, Array]:
        """What of a pixel the descent needs."""
        straight = problem.straighten(pixel)
        return {"pixel": problem.whiten(pixel), "start": matmul(straight, problem.linear.projector)}

    def model(self, problem: "PreparedInversion", unknown: Array, seen: dict[str, Array]) -> Model:
        """Value, gradient and curvature at unknowns [unknown, pixel]."""
        count = problem.simplex

        def spectrum(unknown: Array) -> Array:
            return problem.whiten(problem.at(unknown[count:])(unknown[:count], problem.endmembers))

        def one(unknown: Array, pixel: Array) -> Model:
            error, slopes = spectrum(unknown) - pixel, jax.jacfwd(spectrum)(unknown)
            return Model(0.5 * squared_norm(error), matmul(error, slopes), matmul(slopes.T, slopes))

        model = jax.vmap(one)(unknown.T, seen["pixel"])
        return jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), model)

    def bend(self, problem: "PreparedInversion", unknown: Array, seen: dict[str, Array]) -> Array:
        """What the exact curvature has besides: the error times second derivatives, [unknown, unknown, pixel]."""
        count = problem.simplex

        def one(unknown: Array, pixel: Array) -> Array:
            def spectrum(unknown: Array) -> Array:
                return problem.whiten(problem.at(unknown[count:])(unknown[:count], problem.endmembers))

            error = spectrum(unknown) - pixel
            return jax.jacfwd(lambda unknown: matmul(error, jax.jacfwd(spectrum)(unknown)))(unknown)

        return jnp.moveaxis(jax.vmap(one)(unknown.T, seen["pixel"]), 0, -1)


class PreparedInversion(eqx.Module):
    """Endmembers and a mixing model with all that does not depend on the pixel.

    Attributes:
        endmembers: [endmember, band], zero in bands that do not count.
        mixing: the model; its arrays are where parameters start.
        root: inverse standard deviation of the noise in each band, zero in those that do not count; None: all one.
        good: bands that count; None: all.
        known_noise: whether the noise was given, and not only a mask.
        linear: least squares on what the first guess is made of.
        low: least value of each parameter.
        high: greatest value of each parameter.
        center: mean of the parameters' prior.
        precision: inverse variance of that prior; zero where there is none.
        view: how the model is evaluated.
    """

    endmembers: Float[Array, "endmember band"]
    mixing: Any
    root: Float[Array, "band"] | None
    good: Bool[Array, "band"] | None
    linear: Prepared
    low: Float[Array, "parameter"]
    high: Float[Array, "parameter"]
    center: Float[Array, "parameter"]
    precision: Float[Array, "parameter"]
    view: Terms | Bandwise | Rendered
    known_noise: bool = eqx.field(static=True)

    @property
    def simplex(self) -> int:
        """How many unknowns are abundances."""
        return self.endmembers.shape[0]

    @property
    def region(self) -> Region:
        """Where the unknowns may be."""
        return Region(self.simplex, self.low, self.high)

    def at(self, parameters: Float[Array, "parameter *pixel"]) -> Any:
        """The model with these parameters; pixel axes stay behind those of its arrays."""
        arrays, rest = eqx.partition(self.mixing, eqx.is_inexact_array)
        leaves, tree = jax.tree.flatten(arrays)
        ends = np.cumsum([leaf.size for leaf in leaves])
        parts = [
            parameters[end - leaf.size : end].reshape(*leaf.shape, *parameters.shape[1:])
            for leaf, end in zip(leaves, ends, strict=True)
        ]
        return eqx.combine(jax.tree.unflatten(tree, parts), rest)

    def whiten(self, spectra: Float[Array, "*n band"]) -> Float[Array, "*n band"]:
        """Spectra in units of the noise."""
        return spectra if self.root is None else spectra * self.root

    def straighten(self, pixel: Float[Array, "band"]) -> Float[Array, "band"]:
        """What mixes linearly of a pixel, where that is known without its abundances."""
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
        """Fully constrained least squares, and the parameters that are best by it in closed form."""
        z = seen["start"]
        pixels = z.shape[0]
        if isinstance(self.mixing, SCLS):
            lit = jax.vmap(lambda z: solve(self.linear.geometry, z, sum_to_one=False, bounded=True))(z).abundances
            brightness = jnp.sum(lit, -1, keepdims=True)
            even = jnp.full_like(lit, 1 / lit.shape[1])
            shares = jnp.where(brightness > 0, lit / jnp.where(brightness > 0, brightness, 1.0), even)
            return jnp.concatenate([shares, brightness], 1).T
        abundances = jax.vmap(lambda z: solve(self.linear.geometry, z, sum_to_one=True, bounded=True))(z).abundances
        start = jnp.broadcast_to(self.center[:, None], (len(self.low), pixels))
        return jnp.concatenate([abundances.T, start])


def prepare_inversion(
    endmembers: Float[Any, "endmember band"],
    mixing: Mixing,
    *,
    noise: float | Float[Any, "band"] | None = None,
    good_bands: Bool[Any, "band"] | None = None,
    limits: tuple[Any, Any] | None = None,
    spread: Any = None,
) -> PreparedInversion:
    """Do once what `invert` needs for every pixel.

    Args:
        endmembers: spectra as rows, in the unit of the pixels.
        mixing: the model. Its arrays are unknown and start at the values they have; plain numbers are known.
        noise: standard deviation, of all bands or of each, in the unit of the pixels; None: alike in all bands, and
            estimated from what the fit leaves.
        good_bands: bands that count; whatever the others hold is not looked at.
        limits: the model with the least and with the greatest values of its arrays; None: those that the model has
            (``mixing.limits``), or none.
        spread: the model with the standard deviation of each array under a Gaussian prior about the value it has, for
            what a pixel cannot tell (the scales of `ELMM`); infinite where there is none. It is in proportion to the
            noise, which must be given.

    Returns:
        A `PreparedInversion` pytree.

    Raises:
        ValueError: shapes that disagree, endmembers that are not finite or that the model cannot render, noise that is
            not above zero, no good band, a start outside the limits, or a prior without noise.
    """
    traced = any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves((endmembers, mixing, noise)))
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

    mixing = jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, mixing)
    arrays = eqx.filter(mixing, eqx.is_inexact_array)
    center = ravel_pytree(arrays)[0].astype(dtype)
    low, high = _limits(mixing, spectra, limits, center, traced)
    precision = _precision(mixing, spread, noise, center)

    columns = spectra
    if isinstance(mixing, Hapke) and not center.size:
        columns = mixing.albedo_of(spectra)
        if not traced and not np.isfinite(np.asarray(columns)).all():
            dark = np.argwhere(~np.isfinite(np.asarray(columns)))[0]
            value = float(np.asarray(spectra)[tuple(dark)])
            raise ValueError(
                f"endmember {dark[0]} has reflectance {value:g} in band {dark[1]}; Hapke's model has none below zero "
                "or above that of a perfect scatterer: leave the band out (good_bands) or scale the spectra"
            )
    weights = None if root is None else np.square(root) if isinstance(root, np.ndarray) else jnp.square(root)
    linear = prepare_for(("simplex", "cone") if isinstance(mixing, SCLS) else ("simplex",), columns, weights)
    if hasattr(mixing, "terms") and not traced:
        view: Any = _terms(mixing, spectra, root, linear, dtype)
    elif hasattr(mixing, "response") and all(leaf.ndim == 0 for leaf in jax.tree.leaves(arrays)):
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
        known_noise=noise is not None,
    )


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


def _limits(mixing: Any, spectra: Array, limits: Any, center: Array, traced: bool) -> tuple[Array, Array]:
    """Least and greatest value of each parameter."""
    if limits is None and hasattr(mixing, "limits"):
        limits = mixing.limits(spectra)
    if limits is None:
        return jnp.full_like(center, -jnp.inf), jnp.full_like(center, jnp.inf)
    low, high = (_like(mixing, limit, "limits") for limit in limits)
    if not traced and not ((low <= center) & (center <= high)).all():
        raise ValueError(f"the model starts at {center}, outside its limits {low} to {high}")
    return low, high


def _precision(mixing: Any, spread: Any, noise: Any, center: Array) -> Array:
    """Inverse variance of each parameter's prior."""
    if spread is None:
        return jnp.zeros_like(center)
    if noise is None:
        raise ValueError("a prior is weighed against the noise: give noise with spread")
    spread = _like(mixing, spread, "spread")
    if not isinstance(spread, jax.core.Tracer) and not (np.asarray(spread) > 0).all():
        raise ValueError("spread holds standard deviations: above zero, infinite for no prior")
    return 1 / spread**2


def _like(mixing: Any, other: Any, name: str) -> Array:
    """Arrays of a model of the same kind, in a row."""
    arrays = eqx.filter(mixing, eqx.is_inexact_array)
    wanted = jax.tree.map(jnp.shape, jax.tree.leaves(arrays))
    given = [x for x in jax.tree.leaves(other) if eqx.is_inexact_array_like(x)]
    if len(given) != len(wanted):
        raise ValueError(f"{name} has {len(given)} arrays, the model {len(wanted)}")
    row = [
        jnp.broadcast_to(jnp.asarray(value, leaf.dtype), leaf.shape).ravel()
        for value, leaf in zip(given, jax.tree.leaves(arrays), strict=True)
    ]
    return jnp.concatenate(row) if row else jnp.zeros(0)


def _terms(mixing: Any, spectra: Array, root: Any, linear: Prepared, dtype: Any) -> Terms:
    """The thin QR factors of the whitened terms, in float64."""
    count = len(spectra)
    terms = np.asarray(mixing.terms(np.asarray(spectra, np.float64)), np.float64)
    white = terms if root is None else terms * root
    basis, factor = np.linalg.qr(white.T)
    projector = basis if root is None else basis * root[:, None]
    start = np.asarray(linear.projector, np.float64)
    to_start = basis.T @ (start if root is None else start / np.where(root > 0, root, 1.0)[:, None])
    row, restore = ravel_pytree(eqx.filter(mixing, eqx.is_inexact_array))

    def weights(row: Array) -> Array:
        return eqx.combine(restore(row), mixing).term_weights(count)

    slopes = jax.jacfwd(weights)(jnp.zeros_like(row))
    degrees = np.zeros((len(terms), count, 1 + count))
    degrees[range(count), range(count), 0] = 1
    for n, (i, j) in enumerate(zip(*term_pairs(count, len(terms)), strict=True), count):
        degrees[n, i, 1 + j] += 1
        degrees[n, j, 1 + i] += 1
    held = projector, factor, to_start, weights(jnp.zeros_like(row)), slopes, degrees
    return Terms(*(jnp.asarray(x, dtype) for x in held))
