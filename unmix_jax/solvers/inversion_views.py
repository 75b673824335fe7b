"""The three ways to see a pixel that a mixing model is fitted to.

A view gives value, gradient and Gauss–Newton curvature of half the whitened squared error, of many pixels with
these on the last axis, and what the exact curvature has besides (``bend``):

- `Terms`: a model of second degree is a weighted sum of a few spectra, ``y = cT``. With the thin QR factors of the
  whitened terms it is the same problem in as many dimensions as there are terms, ``½‖z − Rc‖²`` with z = Qᵀy.
- `Bandwise`: where a linear mixture is changed band by band, the curvature is ``Σ_b s'_b² e_ib e_jb``: one product
  with what endmembers alone decide.
- `Rendered`: any model, through forward derivatives.

``problem`` is the `PreparedInversion` that holds the view.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unmix_jax.linalg import matmul, squared_norm
from unmix_jax.physics.mixing import term_pairs
from unmix_jax.solvers.lanes import affine, apply, stacked
from unmix_jax.solvers.simplex_box import Model

__all__ = ["Bandwise", "Rendered", "Terms"]

CHUNK = 512  # pixels that are advanced together, in as many dimensions as there are terms
MANY = 12  # terms, from which on it is half as many pixels
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
    weight: Float[Array, " term"]
    slopes: Float[Array, "term parameter"]
    degrees: Float[Array, "term endmember power"]

    @property
    def chunk(self) -> int:
        """Pixels that are advanced together."""
        return CHUNK if len(self.weight) <= MANY else CHUNK // 2

    def see(self, problem: Any, pixel: Array) -> dict[str, Array]:
        """What of a pixel the descent needs."""
        z = matmul(pixel, self.projector)
        return {"z": z, "start": matmul(z, self.to_start)}

    def rows(self, seen: dict[str, Array]) -> dict[str, Array]:
        """What travels with the pixels, which are last."""
        return {"z": seen["z"].T}

    def gather(self, seen: dict[str, Array], data: dict[str, Array]) -> dict[str, Array]:
        """What the model needs of some pixels."""
        return data

    def _parts(self, problem: Any, unknown: Array, seen: dict[str, Array]) -> Any:
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

    def model(self, problem: Any, unknown: Array, seen: dict[str, Array]) -> Model:
        """Value, gradient and curvature at unknowns [unknown, pixel]."""
        size, pixels = unknown.shape
        weights, monomials, steep, error = self._parts(problem, unknown, seen)
        parts = [weights[:, None] * steep, self.slopes[:, :, None] * monomials[:, None]]
        changes = jnp.concatenate(parts, 1).reshape(len(weights), -1)
        rows = apply(self.root, changes).reshape(-1, size, pixels)
        rows, error = jax.lax.optimization_barrier((rows, error))
        latent = range(len(error))
        return Model(
            0.5 * sum(error[f] * error[f] for f in latent),
            sum(rows[f] * error[f] for f in latent),
            stacked([sum(rows[f] * rows[f, i] for f in latent) for i in range(size)]),
        )

    def bend(self, problem: Any, unknown: Array, seen: dict[str, Array]) -> Array:
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

    @property
    def chunk(self) -> int:
        """Pixels that are advanced together."""
        return BAND_CHUNK

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

    def see(self, problem: Any, pixel: Array) -> dict[str, Array]:
        """What of a pixel the descent needs."""
        return {"pixel": problem.whiten(pixel), "start": matmul(pixel, problem.linear.projector)}

    def _parts(self, problem: Any, unknown: Array) -> tuple[Any, Any, Any]:
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

    def _assembled(self, problem: Any, size: int, weights: Callable[[int, int], Array]) -> Array:
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

    def model(self, problem: Any, unknown: Array, seen: dict[str, Array]) -> Model:
        """Value, gradient and curvature at unknowns [unknown, pixel]."""
        inputs, spectrum, slope = self._parts(problem, unknown)
        error, slopes = spectrum(*inputs) - seen["pixel"].T, [slope(i)(*inputs) for i in range(len(inputs))]
        # each of them once, and not again in every product
        error, slopes = jax.lax.optimization_barrier((error, slopes))
        gradient = [*matmul(problem.endmembers, slopes[0] * error), *(jnp.sum(x * error, 0) for x in slopes[1:])]
        curvature = self._assembled(problem, len(unknown), lambda i, j: slopes[i] * slopes[j])
        return Model(0.5 * jnp.sum(error * error, 0), stacked(gradient), curvature)

    def bend(self, problem: Any, unknown: Array, seen: dict[str, Array]) -> Array:
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

    def see(self, problem: Any, pixel: Array) -> dict[str, Array]:
        """What of a pixel the descent needs."""
        straight = problem.straighten(pixel)
        return {"pixel": problem.whiten(pixel), "start": matmul(straight, problem.linear.projector)}

    def model(self, problem: Any, unknown: Array, seen: dict[str, Array]) -> Model:
        """Value, gradient and curvature at unknowns [unknown, pixel]."""
        count = problem.simplex

        def spectrum(unknown: Array) -> Array:
            return problem.whiten(problem.at(unknown[count:])(unknown[:count], problem.endmembers))

        def one(unknown: Array, pixel: Array) -> Model:
            error, slopes = spectrum(unknown) - pixel, jax.jacfwd(spectrum)(unknown)
            return Model(0.5 * squared_norm(error), matmul(error, slopes), matmul(slopes.T, slopes))

        model = jax.vmap(one)(unknown.T, seen["pixel"])
        return jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), model)

    def bend(self, problem: Any, unknown: Array, seen: dict[str, Array]) -> Array:
        """What the exact curvature has besides: the error times second derivatives, [unknown, unknown, pixel]."""
        count = problem.simplex

        def one(unknown: Array, pixel: Array) -> Array:
            def spectrum(unknown: Array) -> Array:
                return problem.whiten(problem.at(unknown[count:])(unknown[:count], problem.endmembers))

            error = spectrum(unknown) - pixel
            return jax.jacfwd(lambda unknown: matmul(error, jax.jacfwd(spectrum)(unknown)))(unknown)

        return jnp.moveaxis(jax.vmap(one)(unknown.T, seen["pixel"]), 0, -1)
