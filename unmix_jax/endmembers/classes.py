"""From abundances of endmembers to fractions of classes: several spectra of one mineral, and a shade that is none.

A library holds many spectra of few materials, and what is wanted, or known from a thin section, is the material. The
sum over a class is also better known than its members: what two feldspars cannot share out between them, both keep.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from unmix_jax.linalg import matmul
from unmix_jax.scenes.scene import SpectralLibrary
from unmix_jax.solvers.shares import bound_of_shares, bound_of_sums
from unmix_jax.types import Solution

__all__ = ["Classes", "classes_of", "group"]


class Classes(eqx.Module):
    """How endmembers add up to classes; `classes_of` makes one. Call it with abundances.

    Attributes:
        names: of the classes.
        members: names of the endmembers.
        matrix: 1 where an endmember belongs to a class, 0 elsewhere.
        shade: 1 for endmembers that are taken out before the rest is divided by its sum.
        renormalised: whether there is such a shade.
    """

    names: tuple[str, ...] = eqx.field(static=True)
    members: tuple[str, ...] = eqx.field(static=True)
    matrix: Float[Any, "class endmember"]
    shade: Float[Any, " endmember"]
    renormalised: bool = eqx.field(static=True)

    def __call__(self, abundances: Float[Any, "*pixel endmember"]) -> Float[Any, "*pixel class"]:
        """Fractions of the classes, f = Ax, or Ax / Σ_lit x where there is a shade (NaN where all is shade)."""
        x, matrix, lit = self._like(abundances)
        return _product(x, matrix.T) * self._scale(x, lit)

    def jacobian(self, abundances: Float[Any, "*pixel endmember"]) -> Float[Any, "*pixel class endmember"]:
        """Derivative of the fractions, A, or (A − f lᵀ) / Σ_lit x with l = 1 for the lit, where there is a shade."""
        x, matrix, lit = self._like(abundances)
        if not self.renormalised:
            return _xp(x).broadcast_to(matrix, (*x.shape[:-1], *matrix.shape))
        scale = self._scale(x, lit)[..., None]
        fractions = self(x)[..., None]
        return (matrix - fractions * lit) * scale

    def _like(self, abundances: Any) -> tuple[Any, Any, Any]:
        """Abundances, matrix and the lit, of one kind and dtype."""
        if abundances.shape[-1] != len(self.members):
            raise ValueError(f"{abundances.shape[-1]} abundances for {len(self.members)} endmembers with classes")
        xp, dtype = _xp(abundances), abundances.dtype
        return abundances, xp.asarray(self.matrix, dtype), xp.asarray(1 - self.shade, dtype)

    def _scale(self, x: Any, lit: Any) -> Any:
        """One over the sum of the lit, [*pixel, 1]; NaN where there is nothing but shade."""
        xp = _xp(x)
        if not self.renormalised:
            return xp.ones((*x.shape[:-1], 1), x.dtype)
        total = _product(x, lit[:, None])
        enough = total > 10 * jnp.finfo(x.dtype).eps
        return xp.where(enough, 1 / xp.where(enough, total, xp.ones_like(total)), xp.full_like(total, np.nan))


def classes_of(
    members: SpectralLibrary | Sequence[str],
    of: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    *,
    order: Sequence[str] | None = None,
    drop: Sequence[str] = (),
) -> Classes:
    """Say which endmembers belong to which class, and which are shade.

    Endmembers of no wanted class that are not dropped are not reported, but keep their part of the whole.

    Args:
        members: the library, or the names of the endmembers in the order of the abundances.
        of: the class of each endmember, or for each class the names of its endmembers (an endmember may be in several,
            a class may be empty); None takes the classes of the library.
        order: the classes that are wanted, in their order; None: all with an endmember, as they first occur.
        drop: endmembers, or classes, that are shade: taken out, and the rest divided by its sum.

    Returns:
        A `Classes` pytree.

    Raises:
        ValueError: no names or classes to go by; a name that does not exist, or twice in one list; a wanted class
            without endmembers; everything dropped.
    """
    library = members if isinstance(members, SpectralLibrary) else None
    if library is not None:
        names = library.names or tuple(str(i) for i in range(len(library)))
        of = (library.classes or None) if of is None else of
    else:
        names = _listed("the names of the endmembers", members)
    if of is None:
        raise ValueError("the library names no classes: say the class of each endmember")
    table = _table(names, of)
    shade = np.zeros(len(names), bool)
    for name in _listed("drop", drop):
        if name not in names and name not in table:
            raise ValueError(f"cannot drop {name!r}: it is neither an endmember nor a class; {_told(names)}")
        shade |= np.asarray([n == name for n in names]) if name in names else table[name]
    if shade.all():
        raise ValueError("every endmember is dropped: nothing is left to divide by")
    if order is None:
        wanted = tuple(name for name, row in table.items() if not row.any() or (row & ~shade).any())
    else:
        wanted = _listed("order", order)
    for name in wanted:
        if name not in table:
            raise ValueError(f"no endmember is of class {name!r}; the classes are {_told(tuple(table))}")
        if table[name].any() and not (table[name] & ~shade).any():
            raise ValueError(f"class {name!r} is wanted, and all of its endmembers are dropped")
    if len(set(wanted)) < len(wanted):
        raise ValueError(f"order names a class twice: {_told(wanted)}")
    if not wanted:
        raise ValueError("no class is wanted")
    matrix = np.asarray([table[name] & ~shade for name in wanted], np.float64)
    return Classes(wanted, names, matrix, shade.astype(np.float64), bool(shade.any()))


def group(solution: Solution, classes: Classes) -> Solution:
    """Fractions of classes from abundances of endmembers.

    f = Ax with covariance AΣAᵀ; where there is a shade, f = Ax / Σ_lit x with JΣJᵀ, J = ∂f/∂x (the delta method).
    Pixels of nothing but shade are NaN.

    Args:
        solution: of endmembers, with any pixel axes.
        classes: which of them belong together.

    Returns:
        The solution with the fractions in place of the abundances, and their covariance and bound where it had them;
        all other fields are those of the fit (`unique` and `converged` still speak of the endmembers).

    Raises:
        ValueError: the solution has another number of endmembers.

    Reference:
        Ramsey and Christensen 1998, 10.1029/97JB02784, for the division by what is not blackbody.
    """
    covariance = solution.covariance
    if covariance is not None:
        jacobian = classes.jacobian(solution.abundances)
        covariance = _product(_product(jacobian, covariance), jacobian.swapaxes(-1, -2))
    fractions = classes(solution.abundances)
    bound = solution.abundance_bound
    if bound is not None:
        x, matrix, lit = classes._like(solution.abundances)
        summed = matrix.sum(-1)
        if classes.renormalised:
            bound = bound_of_shares(fractions, _product(x, lit), bound, summed=summed, divided=lit.sum())
        else:
            bound = bound_of_sums(fractions, bound, summed=summed.max())
    return replace(solution, abundances=fractions, covariance=covariance, abundance_bound=bound)


def _table(names: tuple[str, ...], of: Any) -> dict[str, np.ndarray]:
    """For each class, which endmembers belong to it."""
    if not isinstance(of, Mapping):
        classes = _listed("the classes", of)
        if len(classes) != len(names):
            raise ValueError(f"{len(classes)} classes for {len(names)} endmembers")
        return {name: np.asarray([c == name for c in classes]) for name in dict.fromkeys(classes)}
    table = {}
    for name, own in of.items():
        own = _listed(f"class {name!r}", own)
        missing = [member for member in own if member not in names]
        if missing:
            raise ValueError(f"class {name!r} names {missing[0]!r}, and the endmembers are {_told(names)}")
        if len(set(own)) < len(own):
            raise ValueError(f"class {name!r} names an endmember twice: {_told(own)}")
        table[str(name)] = np.asarray([member in own for member in names], bool)
    return table


def _listed(what: str, names: Any) -> tuple[str, ...]:
    """A sequence of names; one bare name would be a sequence of letters."""
    if isinstance(names, str):
        raise ValueError(f"{what} must be a list of names, got the single name {names!r}")
    return tuple(str(name) for name in names)


def _told(names: Sequence[str]) -> str:
    """Names in a message, not too many."""
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _xp(values: Any) -> Any:
    """NumPy for NumPy arrays, so that float64 results stay float64; JAX for all else."""
    return np if isinstance(values, np.ndarray) else jnp


def _product(left: Any, right: Any) -> Any:
    """A product at full precision, in the kind of array that came."""
    return left @ right if isinstance(left, np.ndarray) and isinstance(right, np.ndarray) else matmul(left, right)
