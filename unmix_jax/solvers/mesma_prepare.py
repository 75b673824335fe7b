"""What MESMA needs of a library, computed once: every model of every level, as a few numbers each.

A library is seen from its main direction m (the first right singular vector of its spectra at unit length): a unit
spectrum is ``c m + e`` with e ⟂ m, a pixel ``s m + y`` with y ⟂ m. Spectra of reflectance are much alike, so e and y
are small, and what cancels in ``‖pixel‖² − explained`` has cancelled before rounding could: one spectrum leaves
``s² ‖e‖² + ‖y‖² − 2 s c x − x²`` of a pixel, ``x = e · y``, and each further one, made orthogonal to those before it,
takes the square of a linear form of s and the x away. The forms come from a QR factorisation in float64.
"""

from collections.abc import Sequence
from itertools import accumulate, combinations, count, product
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from unmix_jax.scenes.scene import SpectralLibrary

__all__ = ["BLOCK", "CRITERIA", "Limits", "PreparedMesma", "prepare_mesma", "unpack"]

CRITERIA = ("bic", "fusion")
BLOCK = 4  # models per turn of the search: more cost compilation and gain nothing
FACTORED = 4096  # models whose factors are computed at once


class Limits(eqx.Module):
    """What a model must keep to be taken; None switches a limit off. The values here are the published ones.

    Attributes:
        fractions: least and greatest fraction of each spectrum.
        shade: least and greatest fraction of shade.
        rmse: greatest root mean square of the residual, in the unit of the pixels.
        residual: a model is refused where the size of the residual is above this, in the unit of the pixels, in
            ``bands`` consecutive bands (bands that do not count are left out before).
        bands: how many consecutive bands.
        fusion: for the criterion of that name, a level of more spectra is taken where its RMSE is smaller by at least
            this, in the unit of the pixels; without it, wherever it is smaller.
    """

    fractions: tuple[Any, Any] | None = (-0.05, 1.05)
    shade: tuple[Any, Any] | None = (0.0, 0.8)
    rmse: Any = 0.025
    residual: Any = 0.025
    bands: int = eqx.field(static=True, default=7)
    fusion: Any = 0.007

    @property
    def pairs(self) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
        """Limits of fractions and of shade, infinite where there is none."""
        none = (-np.inf, np.inf)
        return self.fractions or none, self.shade or none


class PreparedMesma(eqx.Module):
    """A library with all models of it; `prepare_mesma` makes one.

    Attributes:
        spectra: [member, band], bands that count only, less the shade spectrum.
        shade: shade spectrum, in bands that count; None: zero.
        good: indices of the bands that count; None: all.
        members: of each model, one slot for each spectrum the highest level has, -1 where there is none.
        class_of: number of the class of each member.
        direction: m.
        projector: ``x, t = y @ projector``, the unit spectra less their part along m, and m once more.
        along: c of each member.
        across: ``‖e‖²`` of each member.
        index: library member in each slot of a model, in blocks that no two levels share; in empty slots the first.
        form: the numbers of each model, as `unpack` has them; NaN where the last block of a level has no model.
        limits: with infinities where a limit is off.
        noise: standard deviation of the noise, in the unit of the pixels; None: not known.
        criterion: how levels are compared.
        classes: names of the classes, in the order of the abundances, which shade follows.
        width: bands of a pixel.
        sizes: spectra of the models of each level.
        counts: models of each level.
    """

    spectra: Float[Array, "member band"]
    shade: Float[Array, " band"] | None
    good: Int[Array, " band"] | None
    members: Int[Array, "model slot"]
    class_of: Int[Array, " member"]
    direction: Float[Array, " band"]
    projector: Float[Array, "band column"]
    along: Float[Array, " member"]
    across: Float[Array, " member"]
    index: Int[Array, "block turn slot"]
    form: Float[Array, "block turn number"]
    limits: Limits
    noise: Float[Array, ""] | None
    criterion: str = eqx.field(static=True)
    classes: tuple[str, ...] = eqx.field(static=True)
    width: int = eqx.field(static=True)
    sizes: tuple[int, ...] = eqx.field(static=True)
    counts: tuple[int, ...] = eqx.field(static=True)

    @property
    def count(self) -> int:
        """Number of models."""
        return sum(self.counts)

    @property
    def slots(self) -> int:
        """Spectra of a model of the highest level."""
        return self.sizes[-1]

    @property
    def starts(self) -> tuple[int, ...]:
        """First block of each level, and the end of the last."""
        return (0, *accumulate(-(-count // BLOCK) for count in self.counts))


def prepare_mesma(
    library: SpectralLibrary | Float[Any, "member band"],
    classes: Sequence[str] | None = None,
    *,
    levels: Sequence[int] = (2, 3),
    shade: Float[Any, " band"] | None = None,
    limits: Limits | None = None,
    good_bands: Bool[Any, " band"] | None = None,
    criterion: str = "bic",
    noise: float | Float[Any, ""] | None = None,
) -> PreparedMesma:
    """Do once what `mesma` needs for every pixel: list the models, and factor them.

    A model of level L is L − 1 spectra of as many different classes, and shade. The models of a level are all of them.

    Args:
        library: spectra as rows, in the unit of the pixels; or a library with classes.
        classes: class of each member; None: those of the library.
        levels: how many endmembers a model may have, shade included: from 2 to one more than there are classes.
        shade: spectrum of shade, in the unit of the pixels; None: zero (photometric shade).
        limits: what a model must keep; None: as published.
        good_bands: bands that count; whatever the others hold is not looked at. None: those of the library.
        criterion: how the best models of the levels are compared. ``bic``: least ``B log(rss / B) + k log B``, or
            ``rss / noise² + k log B`` where the noise is known, for k spectra and B bands. ``fusion``, as published: a
            level is taken where its RMSE is below that of the level taken so far by as much as the limits say, a number
            in the unit of the pixels. Fractions of rendered mixtures were better with ``bic``, which is why it is the
            default (``experiments/bench_mesma.py``: RMSE 0.04 to 0.11, and 0.09 to 0.18). To say how many materials
            there are, ``fusion`` is the better one where the library lacks the spectra of the pixels: BIC takes noise
            for white and what is left of such spectra for one more material (12 % of pixels of one or two materials had
            the right number, 61 % with ``fusion``).
        noise: standard deviation of the noise, of all bands alike, in the unit of the pixels; None: estimated from
            what a model leaves. It sets the covariance of fractions, too.

    Returns:
        A `PreparedMesma` pytree. Limits and noise are arrays: others compile nothing anew. Models with spectra that
        depend on each other (a spectrum closer to a sum of the others than rounding) are not determined and left out.

    Raises:
        ValueError: no classes, or not one per member; a level that no model has; spectra that are not finite, or zero,
            which shade is already; shapes that disagree; limits the wrong way round; noise not above zero; an unknown
            criterion; a library that is traced.
    """
    if isinstance(library, SpectralLibrary):
        classes = (library.classes or None) if classes is None else classes
        good_bands = library.good_bands if good_bands is None else good_bands
        library = library.spectra
    if any(isinstance(x, jax.core.Tracer) for x in (library, shade, good_bands)):
        raise ValueError("the models are listed from values: call prepare_mesma outside of jit, vmap and grad")
    if len(np.shape(library)) != 2 or 0 in np.shape(library):
        raise ValueError(f"a library is [member, band] and not empty, got {np.shape(library)}")
    dtype = jax.dtypes.canonicalize_dtype(getattr(library, "dtype", float))
    dtype = dtype if jnp.issubdtype(dtype, jnp.floating) else jax.dtypes.canonicalize_dtype(float)
    names, class_of = _classes(classes, len(library))
    levels = _levels(levels, len(names))
    if criterion not in CRITERIA:
        raise ValueError(f"criterion is one of {', '.join(CRITERIA)}, got {criterion!r}")
    with jax.ensure_compile_time_eval():  # values, also where a program is traced around them
        spectra, dark, good = _spectra(np.asarray(library, np.float64), shade, good_bands)
        prepared_limits, sigma = _limits(limits or Limits(), dtype), _noise(noise, dtype)
        unit = spectra / np.linalg.norm(spectra, axis=1, keepdims=True)
        direction = np.linalg.svd(unit, full_matrices=False)[2][0]
        along = unit @ direction
        across = unit - along[:, None] * direction
        floor = 4 * max(spectra.shape) * float(jnp.finfo(dtype).eps)
        models = [_models(level, spectra, class_of, len(names), direction, floor) for level in levels]
        slots = levels[-1] - 1
        members = [np.pad(index, ((0, 0), (0, slots - index.shape[1])), constant_values=-1) for index, _ in models]
        blocks = [_blocks(index, form, slots) for index, form in models]
        return PreparedMesma(
            spectra=jnp.asarray(spectra, dtype),
            shade=None if dark is None else jnp.asarray(dark, dtype),
            good=None if good is None else jnp.asarray(good),
            members=jnp.asarray(np.concatenate(members), jnp.int32),
            class_of=jnp.asarray(class_of, jnp.int32),
            direction=jnp.asarray(direction, dtype),
            projector=jnp.asarray(np.vstack([across, direction]).T, dtype),
            along=jnp.asarray(along, dtype),
            across=jnp.asarray((across**2).sum(1), dtype),
            index=jnp.asarray(np.concatenate([index for index, _ in blocks])),
            form=jnp.asarray(np.concatenate([form for _, form in blocks]), dtype),
            limits=prepared_limits,
            noise=sigma,
            criterion=criterion,
            classes=names,
            width=np.shape(library)[1],
            sizes=tuple(level - 1 for level in levels),
            counts=tuple(len(index) for index, _ in models),
        )


class Unpacked(NamedTuple):
    """The numbers of a model.

    Attributes:
        linear: for the second spectrum and each after it the coefficients of its form: of the x of the spectra up to
            it, and of s.
        upper: for each fraction the coefficients of the forms from its own on, ``a_i = Σ_j≥i U_ij q_j``; zero in empty
            slots.
    """

    linear: list[list[Any]]
    upper: list[list[Any]]


def unpack(form: Any, slots: int) -> Unpacked:
    """What ``form[0]``, ``form[1]``, ... are, where a model has so many slots."""
    numbers = count()
    linear = [[form[next(numbers)] for _ in range(row + 2)] for row in range(1, slots)]
    upper = [[form[next(numbers)] for _ in range(row, slots)] for row in range(slots)]
    return Unpacked(linear, upper)


def _classes(classes: Any, members: int) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the classes as they first occur, and the number of each member's."""
    if classes is None:
        raise ValueError("the library names no classes: say the class of each member")
    if isinstance(classes, str):
        raise ValueError(f"classes must be a list of names, got the single name {classes!r}")
    listed = [str(name) for name in classes]
    if len(listed) != members:
        raise ValueError(f"{len(listed)} classes for {members} library spectra")
    names = tuple(dict.fromkeys(listed))
    return names, np.asarray([names.index(name) for name in listed])


def _levels(levels: Any, classes: int) -> tuple[int, ...]:
    """The levels in rising order."""
    listed = sorted({int(level) for level in levels})
    if not listed:
        raise ValueError("no level is wanted")
    if listed[0] < 2 or listed[-1] > classes + 1:
        raise ValueError(f"levels are from 2 to {classes + 1} for {classes} classes and shade, got {listed}")
    return tuple(listed)


def _spectra(library: np.ndarray, shade: Any, good_bands: Any) -> tuple[np.ndarray, Any, Any]:
    """The library less shade in bands that count, the shade there, and which bands those are."""
    bands = library.shape[1]
    good = None
    if good_bands is not None:
        mask = np.asarray(good_bands, bool)
        if mask.shape != (bands,):
            raise ValueError(f"good_bands has shape {mask.shape}, the library {bands} bands")
        if not mask.any():
            raise ValueError("good_bands leaves no band to look at")
        good = None if mask.all() else np.flatnonzero(mask)
    dark = None
    if shade is not None:
        dark = np.asarray(shade, np.float64)
        if dark.shape != (bands,):
            raise ValueError(f"shade has shape {dark.shape}, the library {bands} bands")
        dark = dark if good is None else dark[good]
        if not np.isfinite(dark).all():
            raise ValueError("shade holds NaN or infinite values in bands that count; leave those out (good_bands)")
    spectra = library if good is None else library[:, good]
    if not np.isfinite(spectra).all():
        member = int(np.argmin(np.isfinite(spectra).all(1)))
        raise ValueError(
            f"library member {member} holds NaN or infinite values in bands that count; leave those out (good_bands)"
        )
    lit = spectra if dark is None else spectra - dark
    black = np.flatnonzero(~lit.any(1))
    if black.size:
        what = "zero in all bands" if dark is None else "the shade spectrum"
        raise ValueError(f"library member {black[0]} is {what}: every model has shade already, leave the member out")
    return lit, dark, good


def _limits(limits: Limits, dtype: Any) -> Limits:
    """Limits as arrays, infinite where there is none."""

    def pair(what: str, given: Any) -> tuple[Array, Array]:
        low, high = given
        if not isinstance(low, jax.core.Tracer) and not isinstance(high, jax.core.Tracer) and not low <= high:
            raise ValueError(f"limits of {what} must be the least and the greatest, got {low} and {high}")
        return jnp.asarray(low, dtype), jnp.asarray(high, dtype)

    def one(what: str, given: Any, off: float) -> Array:
        given = off if given is None else given
        if not isinstance(given, jax.core.Tracer) and not given >= 0:
            raise ValueError(f"the limit of {what} must not be negative, got {given}")
        return jnp.asarray(given, dtype)

    if limits.bands < 1:
        raise ValueError(f"residuals are judged over at least one band, got {limits.bands}")
    return Limits(
        fractions=pair("fractions", limits.pairs[0]),
        shade=pair("shade", limits.pairs[1]),
        rmse=one("rmse", limits.rmse, np.inf),
        residual=one("residual", limits.residual, np.inf),
        bands=limits.bands,
        fusion=one("fusion", limits.fusion, 0.0),
    )


def _noise(noise: Any, dtype: Any) -> Any:
    """The standard deviation as an array."""
    if noise is None:
        return None
    if np.shape(noise) != ():
        raise ValueError(f"noise is one number for all bands, got shape {np.shape(noise)}")
    if not isinstance(noise, jax.core.Tracer) and not (np.isfinite(noise) and noise > 0):
        raise ValueError(f"noise must be finite and above zero, got {noise}")
    return jnp.asarray(noise, dtype)


def _models(
    level: int, spectra: np.ndarray, class_of: np.ndarray, classes: int, direction: np.ndarray, floor: float
) -> tuple[np.ndarray, np.ndarray]:
    """Members [model, slot] of all determined models of a level, and what `_factored` has of each."""
    size = level - 1
    own = [np.flatnonzero(class_of == c) for c in range(classes)]
    each = [model for some in combinations(own, size) for model in product(*some)]
    index = np.asarray(each, np.int32).reshape(-1, size)
    if size > spectra.shape[1]:
        raise ValueError(f"models of {size} spectra are not determined by {spectra.shape[1]} bands (level {level})")
    parts = [_factored(index[n : n + FACTORED], spectra, direction, floor) for n in range(0, len(index), FACTORED)]
    determined = np.concatenate([kept for kept, _ in parts])
    if not determined.any():
        raise ValueError(f"no model of level {level} is determined: its spectra depend on each other")
    return index[determined], np.concatenate([numbers for _, numbers in parts])[determined]


def _factored(
    index: np.ndarray, spectra: np.ndarray, direction: np.ndarray, floor: float
) -> tuple[np.ndarray, np.ndarray]:
    """Which models are determined, and of each the inverse of R of unit spectra, s's part in each form, and lengths."""
    size = index.shape[1]
    lengths = np.linalg.norm(spectra, axis=1)
    unit = spectra / lengths[:, None]
    right: Any = np.linalg.qr(np.swapaxes(unit[index], 1, 2), mode="r")  # [model, slot, slot], upper
    diagonal = np.diagonal(right, axis1=1, axis2=2)
    determined = np.abs(diagonal).min(1) > floor
    right = np.where(determined[:, None, None], right * np.sign(diagonal)[:, :, None], np.eye(size))
    inverse = np.linalg.inv(right)
    along = (unit @ direction)[index]
    main = np.einsum("mij,mi->mj", inverse, along)
    return determined, np.concatenate([inverse, main[:, None], lengths[index][:, None]], 1)


def _blocks(index: np.ndarray, factors: np.ndarray, slots: int) -> tuple[np.ndarray, np.ndarray]:
    """A level in blocks: members in each slot and numbers in the order of `unpack`."""
    models, size = index.shape
    inverse, main, lengths = np.zeros((models, slots, slots)), np.zeros((models, slots)), np.ones((models, slots))
    inverse[:, :size, :size], main[:, :size], lengths[:, :size] = factors[:, :size], factors[:, size], factors[:, -1]
    columns: list[np.ndarray] = []
    for row in range(1, slots):
        columns += [*inverse[:, : row + 1, row].T, main[:, row]]
    for row in range(slots):
        columns += [inverse[:, row, column] / lengths[:, row] for column in range(row, slots)]
    missing = -models % BLOCK
    index = np.pad(np.pad(index, ((0, 0), (0, slots - size)), mode="edge"), ((0, missing), (0, 0)))
    form = np.pad(np.stack(columns, 1), ((0, missing), (0, 0)), constant_values=np.nan)
    return index.reshape(-1, BLOCK, slots), form.reshape(len(index) // BLOCK, BLOCK, -1)
