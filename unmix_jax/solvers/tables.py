"""What the certified least-squares solvers need to know of the endmembers, computed once.

Every problem here is ``min ½‖y − aE‖²`` over some convex set of abundances. With the thin singular value
decomposition of the (whitened, baseline-free) endmembers, ``E = (U F)ᵀ``, the objective is
``½‖z − F a‖²`` plus a constant, with ``z = Uᵀ y``: one product per pixel, after which everything has as many
dimensions as there are endmembers. The error of this reduction grows with the condition number, not its square.

For few endmembers all 2^R supports fit in a table. A support ``S`` is optimal for the pixels ``z`` of a polyhedron with
one side for each endmember: there its abundance is zero if it is in ``S``, and its reduced gradient otherwise. Row
``i`` of the table gives the distance of ``z`` from side ``i``, negative where ``S`` is not optimal. All normals have
length one, so rounding changes all distances by the same small amount; an abundance is its distance times a number,
which also says how far rounding moves it.

Everything is computed in float64. Pixels in float32 use it rounded; the float64 numbers are kept beside
(``Prepared.exact``) for the pixels that float32 cannot decide.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

from unmix_jax.linalg import matmul, safe_sqrt, svd, whiten

__all__ = ["Geometry", "Prepared", "Region", "polynomial_baseline", "prepare"]

TABLE_LIMIT = 12  # 2^12 supports of 12 x 13 forms: 2.5 MB in float32
EPS = float(np.finfo(float).eps)
FAR = 1e3  # lengths of the longest endmember: the distance of a side that no pixel is near to


class Region(eqx.Module):
    """One feasible set (the cone a ≥ 0 or the simplex) seen from the endmembers.

    Attributes:
        table: the distances of every support, [endmember, latent + 1, support]; None for many endmembers.
        lengths: abundance over distance of the members of every support, zero for the others; None without table.
        linear: the solution without bounds is ``linear @ z + offset``.
        offset: see ``linear``.
        plane: orthonormal basis of the directions of ``F a`` that the equality constraint leaves free.
        sensitivity: largest change of an abundance of the solution without bounds, per change of ``z`` of length one;
            infinite where the endmembers are (affinely) dependent.
        unique: False where the endmembers are (affinely) dependent.
    """

    table: Float[Any, "endmember form support"] | None
    lengths: Float[Any, "endmember support"] | None
    linear: Float[Any, "endmember latent"]
    offset: Float[Any, " endmember"]
    plane: Float[Any, "latent free"]
    sensitivity: Float[Any, ""]
    unique: Bool[Any, ""]


class Geometry(eqx.Module):
    """The reduced problem ``½‖z − F a‖²`` and what its two feasible sets share.

    Attributes:
        factor: F.
        gram: FᵀF.
        reach: part of each endmember along the mean direction of all.
        cone: abundances that are not negative.
        simplex: those that sum to one as well.
        unit: length of one in this space, in the unit of the pixels.
    """

    factor: Float[Any, "latent endmember"]
    gram: Float[Any, "endmember endmember"]
    reach: Float[Any, " endmember"]
    cone: Region
    simplex: Region
    unit: Float[Any, ""]


class Prepared(eqx.Module):
    """Endmembers with all that does not depend on the pixel; stands wherever endmembers may stand.

    Attributes:
        endmembers: [endmember, band], zero in bands that do not count.
        whitener: square root of the band weights [band], or a whitening matrix [band, band]; None: all one.
        good: bands of positive weight; None where all are.
        projector: ``z = pixel @ projector``, whitening and baseline removal included.
        baseline: columns fitted free of sign [degree + 1, band]; None: none.
        baseline_map: ``coefficients = (pixel − aE) @ baseline_map``.
        geometry: the reduced problem.
        exact_projector: the projector in float64, to the unit of ``exact``.
        exact: the reduced problem in float64, without tables; its longest endmember has a length of about one, so that
            no unit of the pixels is too small for squares.
    """

    endmembers: Float[Array, "endmember band"]
    whitener: Float[Array, "..."] | None
    good: Bool[Array, " band"] | None
    projector: Float[Array, "band latent"]
    baseline: Float[Array, "term band"] | None
    baseline_map: Float[Array, "band term"] | None
    geometry: Geometry
    exact_projector: Float[Array, "band latent"]
    exact: Geometry

    @property
    def count(self) -> int:
        """Number of endmembers."""
        return self.endmembers.shape[0]


def polynomial_baseline(position: Shaped[Any, " band"], degree: int) -> Float[Any, "term band"]:
    """Legendre polynomials of degree 0 to ``degree`` over the bands, as baseline columns for `prepare`.

    Args:
        position: where each band lies, in any unit (wavelength in nm, wavenumber in cm⁻¹, band index).
        degree: 0 constant, 1 slope, 2 curvature.

    Returns:
        One polynomial per row, dimensionless, on positions scaled to [−1, 1].

    Raises:
        ValueError: if ``degree`` is negative or not below the number of bands.
    """
    position = np.asarray(position, float)
    if not 0 <= degree < position.size:
        raise ValueError(f"baseline degree {degree} needs to be from 0 to {position.size - 1}")
    low, high = position.min(), position.max()
    scaled = 2 * (position - low) / (high - low or 1.0) - 1
    return np.polynomial.legendre.legvander(scaled, degree).T


def prepare(
    endmembers: Float[Any, "endmember band"],
    *,
    weights: Shaped[Any, " band"] | None = None,
    noise_covariance: Float[Any, "band band"] | None = None,
    baseline: int | Float[Any, "term band"] | None = None,
) -> Prepared:
    """Do once what least squares with these endmembers needs for every pixel.

    The solvers then minimise ½ (y − aE − cP) W (y − aE − cP)ᵀ with W = diag(weights) or the inverse noise
    covariance, over abundances a in their feasible set and baseline coefficients c free of sign.

    Args:
        endmembers: spectra as rows, in the unit of the pixels.
        weights: non-negative weight of each band, 1/variance for instance; 0 leaves a band out, whatever it
            holds. A mask of good bands serves as it is.
        noise_covariance: covariance of the noise between bands, in the squared unit of the pixels; together
            with ``weights`` only the zeros of the latter count.
        baseline: degree of a polynomial in the band index that is fitted along, or the columns themselves
            (`polynomial_baseline` makes them from wavelengths).

    Returns:
        A `Prepared` pytree. When ``endmembers`` is a tracer the tables of supports are left out: results are the
        same, the solve costs more.

    Raises:
        ValueError: if shapes disagree, endmembers or weights are not finite in the bands that count, weights are
            negative, or the covariance is not positive definite.
    """
    return prepare_for(("cone", "simplex"), endmembers, weights, noise_covariance, baseline)


def prepare_for(
    regions: tuple[str, ...], endmembers: Any, weights: Any = None, noise_covariance: Any = None, baseline: Any = None
) -> Prepared:
    """`prepare`, with tables of supports for the named feasible sets only (the others are solved without one)."""
    spectra, white, whitener, good, dtype = checked(endmembers, weights, noise_covariance, baseline)
    traced = isinstance(white, jax.Array)
    xp: Any = jnp if traced else np

    with jax.enable_x64(True):
        columns = baseline_map = None
        if baseline is not None:
            bands = spectra.shape[1]
            columns = polynomial_baseline(np.arange(float(bands)), baseline) if isinstance(baseline, int) else baseline
            columns = xp.asarray(columns, float)
            if columns.ndim != 2 or columns.shape[1] != bands:
                raise ValueError(f"baseline columns have shape {columns.shape}, the endmembers {bands} bands")
            if good is not None:
                columns = xp.where(good, columns, 0.0)
            if not traced and not np.isfinite(columns).all():
                raise ValueError("baseline columns must be finite in bands that count")
            inverse = xp.linalg.pinv(_whiten(xp, columns, whitener))  # [band, term]
            white = white - (white @ inverse) @ _whiten(xp, columns, whitener)
            baseline_map = whiten_adjoint(xp, inverse, whitener)

        white = jax.lax.stop_gradient(white) if traced else white
        factor, basis = factored(white)
        if columns is not None:  # the weakest direction keeps some of the baseline by rounding
            basis = basis - inverse @ (_whiten(xp, columns, whitener) @ basis)
        geometry = reduced_problem(xp, factor, () if traced else regions)
        projector = whiten_adjoint(xp, basis, whitener)
        unit = power_of_two(xp, xp.sqrt((factor**2).sum(0)).max())
        exact = eqx.tree_at(lambda g: g.unit, reduced_problem(xp, factor / unit), unit)

        def cast(tree: Any, dtype: Any = dtype) -> Any:
            with np.errstate(over="ignore"):  # infinite squares: such pixels are solved in float64
                return jax.tree.map(lambda x: jnp.asarray(x) if x.dtype == bool else jnp.asarray(x, dtype), tree)

        return Prepared(
            endmembers=kept(endmembers, good, dtype),
            whitener=cast(whitener),
            good=cast(good),
            projector=cast(projector),
            baseline=cast(columns),
            baseline_map=cast(baseline_map),
            geometry=cast(geometry),
            exact_projector=cast(projector / unit, float),
            exact=cast(exact, float),
        )


def power_of_two(xp: Any, length: Any) -> Any:
    """The power of two near a length, by which numbers are divided without rounding; one for nothing."""
    positive = length > 0
    return xp.where(positive, xp.exp2(xp.round(xp.log2(xp.where(positive, length, 1.0)))), 1.0)


def checked(endmembers: Any, weights: Any, noise_covariance: Any, baseline: Any = None) -> tuple[Any, ...]:
    """What every way to prepare begins with, in float64; NumPy, or JAX where anything is a tracer.

    Returns:
        Endmembers without the bands that do not count, the same whitened, the whitener, the bands that count (None:
        all), and the precision that jax gives these endmembers. They are rounded to it first: the problem that is
        solved is that of the endmembers which `Prepared` holds.
    """
    traced = any(isinstance(x, jax.core.Tracer) for x in (endmembers, weights, noise_covariance, baseline))
    xp: Any = jnp if traced else np
    if len(np.shape(endmembers)) != 2 or 0 in np.shape(endmembers):
        raise ValueError(f"endmembers must be [endmember, band] and not empty, got {np.shape(endmembers)}")
    dtype = jax.dtypes.canonicalize_dtype(getattr(endmembers, "dtype", float))
    dtype = dtype if jnp.issubdtype(dtype, jnp.floating) else jax.dtypes.canonicalize_dtype(float)
    spectra: Any
    with jax.enable_x64(True):
        if traced:
            spectra = jnp.asarray(jax.lax.stop_gradient(endmembers)).astype(dtype).astype(float)
        else:
            with np.errstate(over="ignore"):
                spectra = np.asarray(endmembers).astype(dtype).astype(float)
        whitener, good = _whitener(xp, spectra.shape[1], weights, noise_covariance)
        if good is not None:
            spectra = xp.where(good, spectra, 0.0)
        if not traced and not np.isfinite(spectra).all():
            raise ValueError("endmembers hold NaN or infinite values in bands that count; give those bands weight 0")
        return spectra, _whiten(xp, spectra, whitener), whitener, good, dtype


def factored(white: Any) -> tuple[Any, Any]:
    """F [latent, endmember] and U [band, latent] of whitened endmembers, ``white = (U F)ᵀ``."""
    xp: Any = jnp if isinstance(white, jax.Array) else np
    left, singular, right = _svd(xp, white)
    # a null direction is inverted to zero, not dropped, so that shapes do not depend on values
    keep = singular > max(white.shape) * EPS * xp.maximum(singular[0], xp.finfo(white.dtype).tiny)
    return xp.where(keep, left * singular, 0.0).T, xp.where(keep, right.T, 0.0)


def directions(factor: Any) -> tuple[Any, Any, Any]:
    """F without what rounding left of zero columns, the length that counts as zero, and the part of each column along
    the mean direction of all.
    """
    xp: Any = jnp if isinstance(factor, jax.Array) else np
    norms = xp.sqrt((factor**2).sum(0))
    floor = 4 * max(factor.shape) * float(xp.finfo(factor.dtype).eps) * norms.max()  # what rounding leaves of a zero
    norms = xp.where(norms > floor, norms, 0.0)
    factor = xp.where(norms > 0, factor, 0.0)
    unit = factor / xp.where(norms > 0, norms, 1.0)
    mean = unit.mean(1)
    mean = mean / xp.maximum(xp.sqrt((mean**2).sum()), xp.finfo(factor.dtype).tiny)
    return factor, floor, mean @ factor


def kept(endmembers: Any, good: Any, dtype: Any) -> Array:
    """Endmembers in their precision, zero in bands that do not count; gradients pass."""
    endmembers = jnp.asarray(endmembers, dtype)
    return endmembers if good is None else jnp.where(jnp.asarray(good), endmembers, 0.0)


def _whitener(xp: Any, bands: int, weights: Any, covariance: Any) -> tuple[Any, Any]:
    """Square root of the inverse noise (vector or matrix), and the bands that count (None: all)."""
    good = None
    if weights is not None:
        weights = xp.asarray(weights)
        if weights.shape != (bands,):
            raise ValueError(f"weights have shape {weights.shape}, the endmembers {bands} bands")
        weights = weights if weights.dtype == bool else xp.asarray(weights, xp.result_type(weights, float))
        if xp is np:
            if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
                raise ValueError("weights must be finite, not negative, and positive in at least one band")
            good = None if (weights > 0).all() else weights > 0
        else:
            good = weights > 0
    if covariance is not None:
        covariance = xp.asarray(covariance, float)
        if covariance.shape != (bands, bands):
            raise ValueError(f"noise_covariance has shape {covariance.shape}, wanted ({bands}, {bands})")
        if good is not None:  # bands that do not count: uncorrelated, then dropped
            both = good[:, None] & good[None, :]
            covariance = xp.where(both, covariance, xp.eye(bands))
        if xp is np and not np.isfinite(covariance).all():
            raise ValueError("noise_covariance must be finite in bands that count")
        try:
            factor = (
                np.linalg.inv(np.linalg.cholesky(covariance)).T if xp is np else whiten(covariance, jnp.eye(bands))[0]
            )
        except np.linalg.LinAlgError as error:
            raise ValueError("noise_covariance is not positive definite") from error
        return (factor if good is None else xp.where(good[:, None], factor, 0.0)), good
    if weights is None or weights.dtype == bool or (xp is np and np.isin(weights, (0, 1)).all()):
        return None, good  # a mask: what is zero needs no factor
    weights = xp.asarray(weights, float)
    return (np.sqrt(weights) if xp is np else safe_sqrt(weights)), good


def _whiten(xp: Any, spectra: Any, whitener: Any) -> Any:
    """Whitened rows: ``y → y · w`` or ``y @ W``."""
    if whitener is None:
        return spectra
    return spectra * whitener if whitener.ndim == 1 else spectra @ whitener


def whiten_adjoint(xp: Any, columns: Any, whitener: Any) -> Any:
    """The map that whitens and then applies ``columns`` [band, k], as one [band, k] matrix."""
    if whitener is None:
        return columns
    return columns * whitener[:, None] if whitener.ndim == 1 else whitener @ columns


def reduced_problem(xp: Any, factor: Any, tables: tuple[str, ...] = ()) -> Geometry:
    """The reduced problem of ``factor`` [latent, endmember], with tables of supports for the named feasible sets."""
    factor, floor, reach = directions(factor)
    tables = tables if factor.shape[1] <= TABLE_LIMIT else ()
    return Geometry(
        factor=factor,
        gram=factor.T @ factor,
        reach=reach,
        cone=_cone(xp, factor, floor, "cone" in tables),
        simplex=_simplex(xp, factor, floor, "simplex" in tables),
        unit=xp.ones((), factor.dtype),
    )


def _svd(xp: Any, matrix: Any) -> tuple[Any, Any, Any]:
    """Thin singular value decomposition; where it is traced, one by one in a batch."""
    return np.linalg.svd(matrix, full_matrices=False) if xp is np else svd(matrix)


def _pseudo_inverse(xp: Any, matrix: Any, floor: Any) -> tuple[Any, Any, Any]:
    """Pseudo-inverse, an orthonormal basis of the column space (null columns zero), and the rank."""
    left, singular, right = _svd(xp, matrix)
    keep = singular > floor
    inverse = xp.where(keep, 1 / xp.where(keep, singular, 1.0), 0.0)
    inverse = xp.swapaxes(right, -1, -2) * inverse[..., None, :] @ xp.swapaxes(left, -1, -2)
    return inverse, xp.where(keep[..., None, :], left, 0.0), keep.sum(-1)


def _cone(xp: Any, factor: Any, floor: Any, tabulate: bool) -> Region:
    """Abundances without equality constraint."""
    count = factor.shape[1]
    return _region(xp, factor, floor, xp.zeros(count, factor.dtype), count, tabulate)


def _simplex(xp: Any, factor: Any, floor: Any, tabulate: bool) -> Region:
    """Abundances that sum to one: the centre and the directions that sum to zero."""
    count = factor.shape[1]
    return _region(xp, factor, floor, xp.full(count, 1.0 / count, factor.dtype), count - 1, tabulate)


def _region(xp: Any, factor: Any, floor: Any, center: Any, free: int, tabulate: bool) -> Region:
    """The affine solution around ``center`` and its sensitivity; ``free`` abundances may be chosen."""
    inverse, plane, rank = _pseudo_inverse(xp, factor - (factor @ center)[:, None], floor)
    if free < factor.shape[1]:  # changes sum to zero: exactly, whatever the condition number
        inverse = inverse - inverse.mean(0)
    unique = xp.asarray(rank == free)
    table, lengths = _table(factor, floor, sum_to_one=free < factor.shape[1]) if tabulate else (None, None)
    return Region(
        table=table,
        lengths=lengths,
        linear=inverse,
        offset=center - inverse @ (factor @ center),
        plane=plane,
        sensitivity=xp.where(unique, xp.sqrt((inverse**2).sum(1)).max(), xp.inf),
        unique=unique,
    )


def _table(factor: np.ndarray, floor: float, *, sum_to_one: bool) -> tuple[np.ndarray, np.ndarray]:
    """Distances of every support, [endmember, latent + 1, support], and what makes abundances of them.

    A support whose members depend on each other is never optimal: its distances are far below zero. An endmember that
    depends on a support has no distance (not a number): whether it is in or out, no pixel says.
    """
    latent, count = factor.shape
    supports = np.arange(2**count)
    member = ((supports[:, None] >> np.arange(count)) & 1).astype(float)  # [support, endmember]
    size = np.maximum(member.sum(1), 1)[:, None]
    center = member / size if sum_to_one else np.zeros_like(member)
    middle = center @ factor.T  # [support, latent]
    columns = factor - middle[:, :, None] if sum_to_one else np.broadcast_to(factor, (2**count, latent, count))
    inside = columns * member[:, None, :]
    linear, plane, rank = _pseudo_inverse(np, inside, floor)  # [support, endmember, latent]
    if sum_to_one:  # changes sum to zero: exactly, whatever the condition number
        linear = linear - (linear * member[:, :, None]).sum(1, keepdims=True) / size[:, :, None]
    linear = linear * member[:, :, None]
    offset = center - (linear @ middle[:, :, None])[..., 0]
    lengths = np.sqrt((linear**2).sum(2))
    # the part of the other columns that the support does not explain, twice: the first leaves rounding of the whole
    normal = columns * (1 - member)[:, None, :]
    for _ in range(2):
        normal = normal - plane @ (np.swapaxes(plane, 1, 2) @ normal)
    apart = np.sqrt((normal**2).sum(1))
    normal = np.where((apart > floor)[:, None], -normal / np.where(apart > floor, apart, 1.0)[:, None], 0.0)
    normal = np.swapaxes(normal, 1, 2)  # [support, endmember, latent]

    far = FAR * (float(np.sqrt((factor**2).sum(0)).max()) or 1.0)
    alone = (member == 1) & (lengths == 0)  # the only member of its support, whose abundance is one
    lengths = np.where(alone, 1 / far, lengths) * member
    safe = np.where(member == 1, lengths, 1.0)
    forms = np.where(member[:, :, None] == 1, linear / safe[:, :, None], normal)
    constant = np.where(member == 1, offset / safe, -(normal @ middle[:, :, None])[..., 0])
    constant = np.where((member == 0) & (apart <= floor), np.nan, constant)
    forms = np.concatenate([forms, constant[:, :, None]], 2)
    impossible = rank < member.sum(1) - sum_to_one
    if sum_to_one:
        impossible[0] = True
    forms[impossible] = 0.0
    forms[impossible, :, latent] = -far
    return np.moveaxis(forms, 0, -1), lengths.T


def whiten_and_detrend(prepared: Any, spectra: Float[Array, "*n band"]) -> Float[Array, "*n band"]:
    """Spectra as the objective sees them: whitened, good bands only, without what the baseline explains.

    ``prepared`` is a `Prepared`, or anything with its four fields of the bands.
    """
    if prepared.good is not None:
        spectra = jnp.where(prepared.good, spectra, 0.0)
    if prepared.baseline is not None and prepared.baseline_map is not None:
        spectra = spectra - matmul(matmul(spectra, prepared.baseline_map), prepared.baseline)
    return _whiten(jnp, spectra, prepared.whitener)
