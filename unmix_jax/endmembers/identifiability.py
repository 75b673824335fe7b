"""Before unmixing: what can this library tell apart at this noise?

A pixel is ``y = xE + noise`` with ``Σx = 1``, so only differences between endmembers count. The information on the
abundances is that of the whitened, baseline-free endmembers within the plane of vectors that sum to zero; its inverse
``C`` bounds the covariance of any unbiased estimate. ``C_ii`` is one over the squared distance, in standard deviations
of the noise, of endmember ``i`` from the plane through all others: collinear endmembers and large bounds are one thing.

Endmembers that vary add to the noise what they vary: two minerals whose boxes overlap cannot be told apart, however
faint the noise. Bounds that are honest about a library take the variation along.

Everything is computed once, in NumPy and float64.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy.linalg import null_space, solve_triangular

from unmix_jax.endmembers.classes import Classes, classes_of
from unmix_jax.scenes.scene import SpectralLibrary
from unmix_jax.solvers.synthesis_basis import PreparedSynthesis
from unmix_jax.solvers.tables import polynomial_baseline

__all__ = ["Group", "Identifiability", "identifiability"]

KNOWN = 12**-0.5  # standard deviation of a share of which nothing is known but that it lies between 0 and 1
SHARE = 0.5  # of its standard deviation that an endmember's group accounts for
RIDGE = 1e-4  # inverse of the standard deviation that stands for an infinite one inside the computation
ROUNDING = 1e-14  # of a decomposition in float64


class Group(NamedTuple):
    """Endmembers that cannot be told apart: one of them, and the fewest others that account for half of its bound.

    Attributes:
        member: the endmember that the others imitate.
        others: what imitates it.
        weights: of the others, that sum to one.
        distance: what the imitation misses, whitened: in standard deviations of the noise, over all bands.
        indices: of the member and the others in the library.
    """

    member: str
    others: tuple[str, ...]
    weights: tuple[float, ...]
    distance: float
    indices: tuple[int, ...]

    @property
    def members(self) -> tuple[str, ...]:
        """All of them."""
        return (self.member, *self.others)


class Identifiability(eqx.Module):
    """What a library can tell apart.

    Attributes:
        names: of the endmembers.
        std: least standard deviation of each abundance; infinite where nothing bounds it.
        correlation: between the errors of the abundances.
        groups: collinear endmembers, the worst first; empty where all bounds are below `limit`.
        condition: ratio of the largest to the smallest singular value of the problem that is solved: endmembers
            whitened, without baseline, and relative to their mean.
        plain_condition: that of the endmembers as they are, on the bands that count.
        class_names: of the classes; empty without any.
        class_std: least standard deviation of the fraction of each class; None without any.
        limit: standard deviation from which on an abundance counts as lost.
    """

    names: tuple[str, ...] = eqx.field(static=True)
    std: Float[Any, " endmember"]
    correlation: Float[Any, "endmember endmember"]
    groups: tuple[Group, ...] = eqx.field(static=True)
    condition: float
    plain_condition: float
    class_names: tuple[str, ...] = eqx.field(static=True)
    class_std: Float[Any, " class"] | None
    limit: float


class _Rows(NamedTuple):
    """Endmembers under unit noise, what rounding may have added to their singular values, and as they came."""

    white: np.ndarray
    rounding: float
    eps: float
    plain: np.ndarray


def identifiability(
    endmembers: Shaped[Any, "endmember band"] | SpectralLibrary | PreparedSynthesis,
    *,
    noise: float | Shaped[Any, " band"] | None = None,
    classes: Classes | None = None,
    names: Sequence[str] | None = None,
    good_bands: Bool[Any, " band"] | None = None,
    baseline: int | Float[Any, "term band"] | None = None,
    abundances: Shaped[Any, " endmember"] | None = None,
    limit: float = KNOWN,
) -> Identifiability:
    """What a library can tell apart at a given noise, before any pixel is unmixed.

    C = N (Nᵀ E W Eᵀ N)⁻¹ Nᵀ with N a basis of the vectors that sum to zero and W the inverse noise, without what the
    baseline takes; JCJᵀ for the classes, J = ∂f/∂x. With endmembers that vary W = (noise + Σ x_i² C_i)⁻¹ at reference
    abundances, held there, as `marginal` holds it: what the size of the variation tells about them is not counted.

    x ≥ 0 is not used: an estimate within it, such as FCLS, can be closer to the truth near the walls, and is biased.

    Args:
        endmembers: spectra as rows; a library; or what `prepare_synthesis` made, which holds its own noise, bands and
            baseline.
        noise: standard deviation, one for all bands or one for each, in the unit of the endmembers.
        classes: how endmembers add up; None takes the classes of a library that has them. A shade is divided out, by
            the delta method at `abundances`.
        names: of the endmembers; None takes those of the library or of `classes`.
        good_bands: bands that count, together with those of a library.
        baseline: degree of a polynomial in the band index that is fitted along, or the columns themselves.
        abundances: reference, that sum to one; None: equal ones. The bounds of fixed endmembers do not depend on it.
        limit: standard deviation from which on an abundance counts as lost and its collinear group is looked for; the
            default is that of a share of which nothing is known.

    Returns:
        An `Identifiability`.

    Raises:
        ValueError: no noise, or one that is not positive; noise, bands or baseline beside a `PreparedSynthesis`; values
            that are not finite in bands that count; shapes or numbers of names that disagree; abundances that do not
            sum to one.

    Reference:
        Kay 1993, Fundamentals of Statistical Signal Processing: Estimation Theory, ch. 3, for the bound.
    """
    if not limit > 0:
        raise ValueError(f"limit is a standard deviation above zero, got {limit}")
    library = endmembers if isinstance(endmembers, SpectralLibrary) else None
    if classes is None and library is not None and library.classes:
        classes = classes_of(library)
    count = _count(endmembers)
    names = _names(count, names, library, classes)
    x = _reference(abundances, count)
    if isinstance(endmembers, PreparedSynthesis):
        if noise is not None or good_bands is not None or baseline is not None:
            raise ValueError("noise, good_bands and baseline are in the PreparedSynthesis already: set them there")
        rows = _varying(endmembers, x)
    else:
        rows = _fixed(endmembers, noise, good_bands, baseline)

    plane = null_space(np.ones((1, count)))
    inside = plane.T @ rows.white
    inside = np.pad(inside, ((0, 0), (0, max(0, count - 1 - inside.shape[1]))))
    left, singular, _ = np.linalg.svd(inside, full_matrices=False)
    seen = singular > rows.rounding
    directions = plane @ left
    covariance = (directions / (np.where(seen, singular, 0.0) ** 2 + RIDGE**2)) @ directions.T
    deviation = np.sqrt(np.diag(covariance))
    correlation = covariance / np.where(deviation > 0, np.outer(deviation, deviation), 1.0)
    np.fill_diagonal(correlation, 1.0)

    def bound(jacobian: np.ndarray) -> np.ndarray:
        along = jacobian @ directions
        known = np.sqrt(np.sum((along[:, seen] / singular[seen]) ** 2, 1))
        lost = np.sqrt(np.sum(along[:, ~seen] ** 2, 1)) > np.sqrt(rows.eps)
        return np.where(lost, np.inf, known)

    class_std = None
    if classes is not None:
        jacobian = np.asarray(classes.jacobian(x))
        if not np.isfinite(jacobian).all():
            raise ValueError("the reference abundances are nothing but shade: classes have no fraction there")
        class_std = bound(jacobian)
    return Identifiability(
        names=names,
        std=bound(np.eye(count)),
        correlation=correlation,
        groups=_groups(covariance, rows.white, names, limit),
        condition=_condition(singular, rows.rounding),
        plain_condition=_plain_condition(rows),
        class_names=() if classes is None else classes.names,
        class_std=class_std,
        limit=float(limit),
    )


def _groups(covariance: np.ndarray, white: np.ndarray, names: tuple[str, ...], limit: float) -> tuple[Group, ...]:
    """Collinear groups, found from the worst endmember on; each is taken out before the next is looked for.

    Holding x_j at zero changes the covariance to C − C_j C_jᵀ / C_jj. From the worst endmember's company leaves, one by
    one, whoever matters least to its bound, as long as half of that stays.
    """
    groups: list[Group] = []
    inside = list(range(len(names)))
    while True:
        variance = np.diag(covariance)
        if variance.max(initial=0) < limit**2:
            return tuple(groups)
        worst = int(np.flatnonzero(variance >= (1 - 1e-6) * variance.max())[-1])  # of equals the last
        left, kept = covariance, np.arange(len(inside))
        while True:
            here = int(np.flatnonzero(kept == worst)[0])
            own = np.diag(left)
            lost = left[here] ** 2 / np.where(own > 0, own, 1.0)
            lost[here] = np.inf
            least = int(np.argmin(lost))
            if own[here] - lost[least] < SHARE**2 * variance[worst]:
                break
            left, kept = _without(left, least), np.delete(kept, least)
        row = np.delete(left[here] / -left[here, here], here)
        weights = row / row.sum()
        others = [inside[i] for i in np.delete(kept, here)]
        distance = float(np.linalg.norm(white[inside[worst]] - weights @ white[others]))
        told = tuple(float(w) for w in weights)
        indices = (inside[worst], *others)
        groups.append(Group(names[indices[0]], tuple(names[i] for i in others), told, distance, indices))
        covariance = _without(covariance, worst)
        del inside[worst]


def _without(covariance: np.ndarray, member: int) -> np.ndarray:
    """The covariance where one abundance is held at zero."""
    column = covariance[:, member] / np.sqrt(covariance[member, member] or 1.0)
    left = covariance - np.outer(column, column)
    return np.delete(np.delete(left, member, 0), member, 1)


def _fixed(endmembers: Any, noise: Any, good_bands: Any, baseline: Any) -> _Rows:
    """Fixed endmembers, whitened and without baseline, on the bands that count."""
    library = endmembers if isinstance(endmembers, SpectralLibrary) else None
    values = np.asarray(endmembers if library is None else library.spectra)
    count, bands = values.shape
    good = np.ones(bands, bool)
    for given in (None if library is None else library.good_bands, good_bands):
        if given is not None:
            if np.shape(given) != (bands,):
                raise ValueError(f"good_bands has shape {np.shape(given)}, the endmembers {bands} bands")
            good = good & np.asarray(given, bool)
    if not good.any():
        raise ValueError("no band counts")
    if noise is None:
        raise ValueError("noise is wanted: the standard deviation in each band, in the unit of the endmembers")
    std = np.asarray(noise, np.float64)
    if std.shape not in ((), (bands,)):
        raise ValueError(f"noise has shape {std.shape}, the endmembers {bands} bands")
    std = np.broadcast_to(std, bands)[good]
    if not (np.isfinite(std) & (std > 0)).all():
        raise ValueError("noise is a standard deviation: finite and above zero in bands that count")
    plain = values[:, good].astype(np.float64)
    if not np.isfinite(plain).all():
        raise ValueError("endmembers hold NaN or infinite values in bands that count; leave them out by good_bands")
    white = plain / std
    size = float(np.abs(white).max())
    if baseline is not None:
        columns = polynomial_baseline(np.arange(float(bands)), baseline) if isinstance(baseline, int) else baseline
        columns = np.asarray(columns, np.float64)
        if columns.ndim != 2 or columns.shape[1] != bands:
            raise ValueError(f"baseline columns have shape {columns.shape}, the endmembers {bands} bands")
        columns = columns[:, good] / std
        if not np.isfinite(columns).all():
            raise ValueError("baseline columns must be finite in bands that count")
        white = white - (white @ np.linalg.pinv(columns)) @ columns
    eps = float(np.finfo(values.dtype if values.dtype.kind == "f" else np.float64).eps)
    return _Rows(white, _rounding(eps, size, count, int(good.sum())), eps, plain)


def _varying(endmembers: PreparedSynthesis, x: np.ndarray) -> _Rows:
    """Means of endmembers that vary, whitened by noise and variation at these abundances."""
    mean, spread = (np.asarray(a, np.float64) for a in (endmembers.mean, endmembers.covariance))
    covariance = np.eye(mean.shape[1]) + np.tensordot(x**2, 0.5 * (spread + spread.swapaxes(1, 2)), 1)
    white = solve_triangular(np.linalg.cholesky(covariance), mean.T, lower=True).T
    root = np.asarray(endmembers.noise, np.float64)
    root = np.diag(root) if root.ndim == 1 else root
    good = np.diag(root) > 0
    plain = np.asarray(endmembers.library.endmembers, np.float64)[:, good]
    size = float(np.abs(solve_triangular(root[np.ix_(good, good)], plain.T, trans="T")).max())
    eps = float(np.finfo(endmembers.mean.dtype).eps)
    return _Rows(white, _rounding(eps, size, *plain.shape), eps, plain)


def _rounding(eps: float, size: float, count: int, bands: int) -> float:
    """Singular values below this may be rounding of values up to `size`: as written in the file, as decomposed."""
    return size * (eps * (count**0.5 + bands**0.5) + ROUNDING * (count * bands) ** 0.5)


def _condition(singular: np.ndarray, rounding: float) -> float:
    """Ratio of the singular values at both ends; infinite where the last is rounding, 1 where there are none."""
    if singular.size == 0:
        return 1.0
    return float(singular[0] / singular[-1]) if singular[-1] > rounding else float("inf")


def _plain_condition(rows: _Rows) -> float:
    """Condition number of the endmembers as they came."""
    count, bands = rows.plain.shape
    singular = np.linalg.svd(np.pad(rows.plain, ((0, 0), (0, max(0, count - bands)))), compute_uv=False)
    return _condition(singular, _rounding(rows.eps, float(np.abs(rows.plain).max()), count, bands))


def _count(endmembers: Any) -> int:
    """Number of endmembers, of whatever kind."""
    if isinstance(endmembers, PreparedSynthesis):
        return endmembers.count
    shape = np.shape(endmembers.spectra if isinstance(endmembers, SpectralLibrary) else endmembers)
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"endmembers must be [endmember, band] and not empty, got {shape}")
    return shape[0]


def _names(count: int, names: Any, library: SpectralLibrary | None, classes: Classes | None) -> tuple[str, ...]:
    """Names of the endmembers, from whoever has them."""
    if isinstance(names, str):
        raise ValueError(f"names must be a list of names, got the single name {names!r}")
    if classes is not None and len(classes.members) != count:
        raise ValueError(f"classes of {len(classes.members)} endmembers for {count}")
    if names is not None:
        told = tuple(str(name) for name in names)
    elif library is not None and library.names:
        told = library.names
    elif classes is not None:
        told = classes.members
    else:
        told = tuple(str(i) for i in range(count))
    if len(told) != count:
        raise ValueError(f"{len(told)} names for {count} endmembers")
    return told


def _reference(abundances: Any, count: int) -> np.ndarray:
    """Reference abundances, checked."""
    if abundances is None:
        return np.full(count, 1 / count)
    x = np.asarray(abundances, np.float64)
    if x.shape != (count,):
        raise ValueError(f"abundances have shape {x.shape}, wanted ({count},)")
    if not (np.isfinite(x).all() and (x >= 0).all() and abs(x.sum() - 1) < 1e-3):
        raise ValueError(f"reference abundances are not below zero and sum to one; these sum to {x.sum():g}")
    return x
