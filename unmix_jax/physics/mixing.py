"""How the spectra of the materials in a pixel become the spectrum of the pixel.

A mixing model is a callable pytree, ``mixing(abundances, endmembers) -> spectrum``, of one pixel. Where light meets one
material only, spectra add up (`Linear`); where it is reflected from one onto another, products of spectra appear
(`Nascimento`, `Fan`, `GBM`), or powers of the linear mixture (`PPNM`, `MLM`). `physics.hapke` has grains that touch.

What a solver fits besides the abundances is declared by field: the class lists its fitted fields in ``fitted``, and the
option ``fit`` of a solver names others, or none with ``fit=()``. All other fields are known. It does not matter whether
a value is a Python number, a NumPy or a JAX array or is traced; `fitted_fields` has the rule.

`PPNM` and `MLM` change a linear mixture band by band: ``response`` does that, and ``linear_part`` undoes it, so that a
spectrum of known nonlinearity is a linear mixture again.

What a solver may ask of a model, where the model has it:

- ``terms(endmembers)`` and ``term_weights(count)``, of a model of second degree: the endmembers, then products of two,
  and a weight of each, so that the mixture is Σ_i weight_i a_i m_i + Σ_ij weight_ij a_i a_j m_i ⊙ m_j, with `monomials`
  for the a_i and the a_i a_j. Weights are affine in the fitted fields;
- ``limits(endmembers)``: the model with the least and with the greatest values that its fitted fields may have.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unmix_jax.linalg import matmul, safe_sqrt

__all__ = [
    "ELMM",
    "GBM",
    "MLM",
    "PPNM",
    "SCLS",
    "Fan",
    "Linear",
    "Mixing",
    "Nascimento",
    "fitted_fields",
    "monomials",
    "pair_products",
    "pairs",
    "split",
]


@runtime_checkable
class Mixing(Protocol):
    """Any callable pytree from abundances and endmembers to the spectrum of a pixel."""

    def __call__(
        self, abundances: Float[Any, " endmember"], endmembers: Float[Any, "endmember band"], /
    ) -> Float[Array, " band"]:
        """Spectrum of a pixel, in the unit of the endmembers."""
        ...


def fitted_fields(mixing: Any, fit: str | Sequence[str] | None = None) -> tuple[str, ...]:
    """Names of the fields of a model that a solver fits; all other fields are known.

    Args:
        mixing: the model.
        fit: names of the fields to fit, none with ``()``; None: those that the class of the model lists in ``fitted``.

    Returns:
        The names, in the order of the model's fields.

    Raises:
        ValueError: a name that is no field with numbers in it; with ``fit=None``, a model whose class does not say what
            is fitted though it has fields with floating-point numbers, or a plain Python number in a field that the
            class lists: before fields were declared it was taken for known.
    """
    kind = type(mixing).__name__
    fields: dict[str, list[Any]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(mixing):
        fields.setdefault(_field(path), []).append(leaf)
    if fit is not None:
        names = (fit,) if isinstance(fit, str) else tuple(fit)
        for name in names:
            if name not in fields:
                has = ", ".join(name for name, leaves in fields.items() if all(map(_is_number, leaves))) or "none"
                raise ValueError(f"fit names {name!r}; the fields of {kind} that hold numbers are: {has}")
            if not all(map(_is_number, fields[name])):
                raise ValueError(f"fit names {name!r} of {kind}, which holds {fields[name]!r} and not real numbers")
        return tuple(name for name in fields if name in names)
    declared = getattr(type(mixing), "fitted", None)
    if declared is None:
        unsaid = tuple(name for name, leaves in fields.items() if any(map(eqx.is_inexact_array_like, leaves)))
        if unsaid:
            raise ValueError(
                f"{kind} does not say which of its fields are fitted: give fit={unsaid!r} to fit "
                f"{'it' if len(unsaid) == 1 else 'them'}, fit=() where all are known, or list the fitted fields in the "
                "class, fitted: ClassVar[tuple[str, ...]] = (...)"
            )
        return ()
    for name in declared:
        if any(type(leaf) in (int, float) for leaf in fields.get(name, [])):
            raise ValueError(
                f"{kind}.{name} is a plain number: give fit=({name!r},) to fit it from there, or fit=() if it is known"
            )
    return tuple(name for name in fields if name in declared)


def split(mixing: Any, names: Sequence[str]) -> tuple[Any, Any]:
    """The model with nothing but these fields, and with everything else; ``eqx.combine`` puts them together."""
    chosen = jax.tree_util.tree_map_with_path(lambda path, _: _field(path) in names, mixing)
    return eqx.partition(mixing, chosen)


def _field(path: Any) -> str:
    """Name of the field of a model that a leaf belongs to."""
    if not path:
        return ""
    return str(next(getattr(path[0], kind) for kind in ("name", "key", "idx") if hasattr(path[0], kind)))


def _is_number(leaf: Any) -> bool:
    """Whether a leaf is real: a number or an array of them."""
    if isinstance(leaf, bool | np.bool_) or not eqx.is_array_like(leaf):
        return False
    dtype = leaf.dtype if hasattr(leaf, "dtype") else np.dtype(type(leaf))
    return bool(jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer))


def pairs(count: int) -> tuple[np.ndarray, np.ndarray]:
    """First and second endmember of each pair i < j, in the order (0, 1), (0, 2), …, (1, 2), … ."""
    return np.triu_indices(count, 1)


def pair_products(endmembers: Float[Any, "endmember band"]) -> Float[Array, "pair band"]:
    """``m_i ⊙ m_j`` of each pair i < j, in the order of `pairs`: light that met both."""
    endmembers = jnp.asarray(endmembers)
    first, second = pairs(endmembers.shape[0])
    return endmembers[first] * endmembers[second]


def monomials(abundances: Float[Any, " endmember"], terms: int) -> Float[Array, " term"]:
    """``a_i``, then ``a_i a_j``, in the order of a model's ``terms``, of which there are so many."""
    abundances = jnp.asarray(abundances)
    first, second = term_pairs(abundances.shape[0], terms)
    return jnp.concatenate([abundances, abundances[first] * abundances[second]])


def term_pairs(count: int, terms: int) -> tuple[np.ndarray, np.ndarray]:
    """First and second endmember of each product among the terms of `count` endmembers: none, i < j, or i ≤ j."""
    if terms == count:
        return np.zeros(0, int), np.zeros(0, int)
    return np.triu_indices(count, 1 if terms == count * (count + 1) // 2 else 0)


class _OfEndmembers(eqx.Module):
    """A weighted sum of the endmembers alone."""

    fitted: ClassVar[tuple[str, ...]] = ()

    def terms(self, endmembers: Float[Any, "endmember band"]) -> Float[Any, "term band"]:
        """The endmembers."""
        return endmembers


class Linear(_OfEndmembers):
    """Materials side by side: ``y = aE``."""

    def __call__(
        self, abundances: Float[Any, " endmember"], endmembers: Float[Any, "endmember band"]
    ) -> Float[Array, " band"]:
        """Spectrum of a pixel, in the unit of the endmembers."""
        return matmul(jnp.asarray(abundances), jnp.asarray(endmembers))

    def term_weights(self, count: int) -> Float[Array, " term"]:
        """One of each."""
        return jnp.ones(count)


class Nascimento(eqx.Module):
    """Pairs of materials as materials of their own: ``y = aE + Σ_{i<j} β_ij m_i ⊙ m_j``, with ``Σa + Σβ = 1``.

    Attributes:
        interactions: β_ij, not below zero, in the order of `pairs`.

    Reference:
        Nascimento and Bioucas-Dias 2009, doi:10.1117/12.830492.
    """

    fitted: ClassVar[tuple[str, ...]] = ("interactions",)

    interactions: Float[Array, " pair"]

    def __call__(
        self, abundances: Float[Any, " endmember"], endmembers: Float[Any, "endmember band"]
    ) -> Float[Array, " band"]:
        """Spectrum of a pixel, in the unit of the endmembers."""
        interactions = _of_pairs(self.interactions, endmembers)
        return Linear()(abundances, endmembers) + matmul(interactions, pair_products(endmembers))


class Fan(eqx.Module):
    """Every pair of materials interacts by its shares: ``y = aE + Σ_{i<j} a_i a_j m_i ⊙ m_j``.

    Reference:
        Fan et al. 2009, doi:10.1080/01431160802558659.
    """

    fitted: ClassVar[tuple[str, ...]] = ()

    def __call__(
        self, abundances: Float[Any, " endmember"], endmembers: Float[Any, "endmember band"]
    ) -> Float[Array, " band"]:
        """Spectrum of a pixel, in the unit of the endmembers."""
        abundances, endmembers = jnp.asarray(abundances), jnp.asarray(endmembers)
        linear = matmul(abundances, endmembers)
        return linear + 0.5 * (linear**2 - matmul(abundances**2, endmembers**2))

    def terms(self, endmembers: Float[Any, "endmember band"]) -> Float[Array, "term band"]:
        """The endmembers, and the products of each pair."""
        return _with_products(endmembers)

    def term_weights(self, count: int) -> Float[Array, " term"]:
        """One of each."""
        return jnp.ones(count * (count + 1) // 2)


class GBM(eqx.Module):
    """Generalised bilinear: ``y = aE + Σ_{i<j} γ_ij a_i a_j m_i ⊙ m_j``; `Linear` for γ = 0, `Fan` for γ = 1.

    Attributes:
        interactions: γ_ij, between 0 and 1, in the order of `pairs`. That of two materials of which one is absent
            changes nothing.

    Reference:
        Halimi et al. 2011, doi:10.1109/TGRS.2010.2098414.
    """

    fitted: ClassVar[tuple[str, ...]] = ("interactions",)

    interactions: Float[Array, " pair"]

    def __call__(
        self, abundances: Float[Any, " endmember"], endmembers: Float[Any, "endmember band"]
    ) -> Float[Array, " band"]:
        """Spectrum of a pixel, in the unit of the endmembers."""
        abundances = jnp.asarray(abundances)
        first, second = pairs(abundances.shape[0])
        shares = _of_pairs(self.interactions, endmembers) * abundances[first] * abundances[second]
        return Linear()(abundances, endmembers) + matmul(shares, pair_products(endmembers))

    def terms(self, endmembers: Float[Any, "endmember band"]) -> Float[Array, "term band"]:
        """The endmembers, and the products of each pair."""
        _of_pairs(self.interactions, endmembers)
        return _with_products(endmembers)

    def term_weights(self, count: int) -> Float[Array, " term"]:
        """One, and γ of each pair."""
        return jnp.concatenate([jnp.ones(count, self.interactions.dtype), self.interactions])

    def limits(self, endmembers: Float[Any, "endmember band"]) -> tuple["GBM", "GBM"]:
        """γ between 0 and 1."""
        return _between(self, 0.0, 1.0)


class _OfLinear(eqx.Module):
    """A linear mixture whose bands are then changed, each by itself."""

    @abstractmethod
    def response(self, linear: Float[Any, "*shape"]) -> Float[Array, "*shape"]:
        """What becomes of a linear mixture."""

    def __call__(
        self, abundances: Float[Any, " endmember"], endmembers: Float[Any, "endmember band"]
    ) -> Float[Array, " band"]:
        """Spectrum of a pixel, in the unit of the endmembers."""
        return self.response(Linear()(abundances, endmembers))


class PPNM(_OfLinear):
    """Polynomial post-nonlinear: ``y = s + b s ⊙ s`` with ``s = aE``.

    Attributes:
        nonlinearity: b; 0 is `Linear`, simulations draw it from −0.3 to 0.3.

    Reference:
        Altmann et al. 2012, doi:10.1109/TIP.2012.2187668.
    """

    fitted: ClassVar[tuple[str, ...]] = ("nonlinearity",)

    nonlinearity: float | Float[Any, ""]

    def response(self, linear: Float[Any, "*shape"]) -> Float[Array, "*shape"]:
        """``s + b s²``."""
        return linear + self.nonlinearity * jnp.square(linear)

    def linear_part(self, spectrum: Float[Any, "*shape"]) -> Float[Array, "*shape"]:
        """The s of a spectrum, ``2y / (1 + √(1 + 4by))``; NaN where none has 1 + 2bs ≥ 0, that is where 1 + 4by < 0."""
        spectrum = jnp.asarray(spectrum)
        inside = 1 + 4 * self.nonlinearity * spectrum
        return jnp.where(inside >= 0, 2 * spectrum / (1 + safe_sqrt(inside)), jnp.nan)

    def terms(self, endmembers: Float[Any, "endmember band"]) -> Float[Array, "term band"]:
        """The endmembers, and all products m_i ⊙ m_j with i ≤ j."""
        return _with_products(endmembers, squares=True)

    def term_weights(self, count: int) -> Float[Array, " term"]:
        """One, and b of each product, twice where i < j."""
        first, second = np.triu_indices(count)
        twice = jnp.asarray(np.where(first == second, 1.0, 2.0), jnp.result_type(self.nonlinearity))
        return jnp.concatenate([jnp.ones(count, twice.dtype), self.nonlinearity * twice])

    def limits(self, endmembers: Float[Any, "endmember band"]) -> tuple["PPNM", "PPNM"]:
        """Where brighter mixtures are brighter, 1 + 2bs ≥ 0: from −1/(2 max E) on."""
        return _between(self, -0.5 / _brightest(endmembers), jnp.inf)


class MLM(_OfLinear):
    """Multilinear: light meets another material with probability P each time, ``y = (1 − P) s / (1 − P s)``, s = aE.

    Attributes:
        probability: P, below 1; 0 is `Linear`. Below zero, as some codes allow, spectra become brighter.

    Reference:
        Heylen and Scheunders 2016, doi:10.1109/TGRS.2015.2453915.
    """

    fitted: ClassVar[tuple[str, ...]] = ("probability",)

    probability: float | Float[Any, ""]

    def response(self, linear: Float[Any, "*shape"]) -> Float[Array, "*shape"]:
        """``(1 − P) s / (1 − P s)``; NaN from the pole on, Ps ≥ 1."""
        linear, probability = jnp.asarray(linear), jnp.asarray(self.probability)
        return _divide((1 - probability) * linear, 1 - probability * linear)

    def linear_part(self, spectrum: Float[Any, "*shape"]) -> Float[Array, "*shape"]:
        """The s of a spectrum, ``y / (1 − P + P y)``; NaN from the pole on."""
        spectrum = jnp.asarray(spectrum)
        return _divide(spectrum, 1 - self.probability + self.probability * spectrum)

    def limits(self, endmembers: Float[Any, "endmember band"]) -> tuple["MLM", "MLM"]:
        """P from 0 to where the brightest mixture meets the pole, or to 1 where none does."""
        pole = jnp.minimum(1.0, 1 / _brightest(endmembers))
        return _between(self, 0.0, (1 - 16 * jnp.finfo(pole.dtype).eps) * pole)


class ELMM(_OfEndmembers):
    """Each endmember with a brightness of its own: ``y = Σ_i a_i ψ_i m_i``.

    Attributes:
        scales: ψ, above zero. Without more (a prior, neighbours) one pixel tells the products aψ only.

    Reference:
        Drumetz et al. 2016, doi:10.1109/TIP.2016.2579259.
    """

    fitted: ClassVar[tuple[str, ...]] = ("scales",)

    scales: Float[Array, " endmember"]

    def __call__(
        self, abundances: Float[Any, " endmember"], endmembers: Float[Any, "endmember band"]
    ) -> Float[Array, " band"]:
        """Spectrum of a pixel, in the unit of the endmembers."""
        return Linear()(abundances * self.scales, endmembers)

    def term_weights(self, count: int) -> Float[Array, " term"]:
        """The scales ψ."""
        return jnp.broadcast_to(self.scales, (count,))

    def limits(self, endmembers: Float[Any, "endmember band"]) -> tuple["ELMM", "ELMM"]:
        """ψ above zero."""
        return _between(self, 0.0, jnp.inf)


class SCLS(_OfEndmembers):
    """One brightness for the pixel (illumination, slope): ``y = ψ aE``, of scaled constrained least squares.

    Attributes:
        brightness: ψ, above zero.

    Reference:
        Veganzones et al. 2014, A new extended linear mixing model to address spectral variability, WHISPERS.
    """

    fitted: ClassVar[tuple[str, ...]] = ("brightness",)

    brightness: float | Float[Any, ""]

    def __call__(
        self, abundances: Float[Any, " endmember"], endmembers: Float[Any, "endmember band"]
    ) -> Float[Array, " band"]:
        """Spectrum of a pixel, in the unit of the endmembers."""
        return self.brightness * Linear()(abundances, endmembers)

    def term_weights(self, count: int) -> Float[Array, " term"]:
        """The brightness ψ."""
        return jnp.broadcast_to(self.brightness, (count,))

    def limits(self, endmembers: Float[Any, "endmember band"]) -> tuple["SCLS", "SCLS"]:
        """ψ above zero."""
        return _between(self, 0.0, jnp.inf)


def _of_pairs(interactions: Any, endmembers: Any) -> Array:
    """Interactions, one for each pair."""
    count, shape = np.shape(endmembers)[0], np.shape(interactions)
    if shape != (count * (count - 1) // 2,):
        raise ValueError(f"{count} endmembers have {count * (count - 1) // 2} pairs, interactions have shape {shape}")
    return jnp.asarray(interactions)


def _with_products(endmembers: Any, *, squares: bool = False) -> Array:
    """Endmembers, then their products, with those of each with itself or without."""
    endmembers = jnp.asarray(endmembers)
    first, second = np.triu_indices(endmembers.shape[0], 0 if squares else 1)
    return jnp.concatenate([endmembers, endmembers[first] * endmembers[second]])


def _brightest(endmembers: Any) -> Array:
    """The greatest value of any band; a tiny one where none is above zero."""
    endmembers = jnp.asarray(endmembers)
    return jnp.maximum(jnp.max(endmembers), 1e-6)


def _between(model: Any, least: Any, most: Any) -> Any:
    """The model with its fitted fields at the least, and at the greatest values."""

    def filled(value: Any) -> Any:
        numbers, rest = split(model, model.fitted)
        full = jax.tree.map(lambda x: jnp.full(jnp.shape(x), value, jnp.result_type(x, 1.0)), numbers)
        return eqx.combine(full, rest)

    return filled(least), filled(most)


def _divide(above: Array, below: Array) -> Array:
    """A quotient where the denominator is above zero, NaN elsewhere, with derivatives that know it."""
    possible = below > 0
    return jnp.where(possible, above * _inverse(jnp.where(possible, below, 1.0)), jnp.nan)


@jax.custom_jvp
def _inverse(value: Array) -> Array:
    """``1/x`` whose derivative, −1/x², takes no other division: bands are many."""
    return 1 / value


@_inverse.defjvp
def _(primals: Any, tangents: Any) -> Any:
    inverse = _inverse(*primals)
    return inverse, -inverse * inverse * tangents[0]
