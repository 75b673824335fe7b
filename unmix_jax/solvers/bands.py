"""Which bands an unmixer looks at: those that are bad in a scene must not be among them.

A bad band is zero in the pixels that an unmixer is given. One that still has its endmembers in that band would fit this
zero: numbers that look certified and are wrong. So either it leaves the band out of both, or it is refused.

An unmixer says which bands it looks at by a field ``good``: a mask of the bands [band], or their numbers counted from
0; None: all. Every prepared problem and every network of the package has it or holds what has it, and so may a callable
of a user; it is found wherever it stands inside the unmixer.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from unmix_jax.scenes.reading import in_words
from unmix_jax.solvers import inversion, least_squares, sparse
from unmix_jax.types import Solution

__all__ = ["OnBands", "on_bands", "ready", "require_bands"]


class OnBands(eqx.Module):
    """An unmixer that is given zeros in some bands, and knows it; `on_bands` makes one.

    Attributes:
        unmixer: the callable.
        good: bands that it looks at.
    """

    unmixer: Callable[..., Solution]
    good: Bool[Array, " band"]

    def __call__(self, pixel: Float[Any, " band"], **options: Any) -> Solution:
        """What the unmixer makes of the pixel with zeros in all other bands."""
        return self.unmixer(jnp.where(self.good, pixel, 0.0), **options)


def on_bands(unmixer: Callable[..., Solution], good_bands: Bool[Any, " band"]) -> OnBands:
    """Say of a callable that it can do with zeros in the bands that are not good.

    `unmix` refuses a callable that does not say which bands it looks at, where a scene has bad ones. This says it of
    one that neither holds endmembers in those bands nor was trained on them.

    Args:
        unmixer: from a pixel [band] to its `Solution`.
        good_bands: True where it looks at a band.

    Returns:
        The unmixer, for `unmix`.

    Raises:
        ValueError: it holds a prepared problem that looks at other bands.
    """
    good = np.asarray(good_bands, bool)
    if good.ndim != 1 or not good.any():
        raise ValueError(f"good_bands is [band] with at least one good band, got shape {good.shape}")
    inner = ready(unmixer, good)
    if any(True for _ in _statements(inner)):
        require_bands(inner, good)
    return OnBands(inner, jnp.asarray(good))


def ready(unmixer: Any, good: Any = None) -> Any:
    """The same unmixer with its endmembers prepared for these bands, where it has them as an array.

    Args:
        unmixer: of one pixel.
        good: True where a band counts; None: all do.
    """
    return least_squares.prepared(inversion.prepared(sparse.prepared(unmixer, good), good), good)


def require_bands(unmixer: Any, good: Bool[Any, " band"]) -> None:
    """Refuse an unmixer that looks at bad bands, or does not say at which it looks.

    Args:
        unmixer: of one pixel, after `ready`.
        good: True where a band of the scene is good, False in at least one.

    Raises:
        ValueError: naming the bands and what to do.
    """
    good = np.asarray(good, bool)
    bad = f"{in_words(~good)} of the pixels {'is' if (~good).sum() == 1 else 'are'} bad"
    told = list(_statements(unmixer))
    if not told:
        raise ValueError(
            f"{bad}, and the unmixer does not say at which bands it looks: give it endmembers that are prepared "
            "without them (prepare(endmembers, weights=scene.good_bands); good_bands=scene.good_bands of other "
            "solvers), a field `good` with the mask of its bands, or, if it can do with zeros there, "
            "on_bands(unmixer, scene.good_bands)"
        )
    for stated in told:
        used = _mask(stated, len(good))
        if (used & ~good).any():
            raise ValueError(
                f"{bad}, and the unmixer looks at {in_words(used & ~good)}: prepare it without them, "
                "prepare(endmembers, weights=scene.good_bands), or good_bands=scene.good_bands of other solvers; train "
                "a network without them"
            )


def _mask(stated: Any, bands: int) -> np.ndarray:
    """What an unmixer says of its bands, as a mask."""
    if stated is None:
        return np.ones(bands, bool)
    numbers = np.asarray(stated)
    if numbers.dtype != bool:
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < bands:
            raise ValueError(f"the unmixer looks at band {numbers.max() + 1}, the pixels have {bands} bands")
        return np.isin(np.arange(bands), numbers)
    if numbers.shape != (bands,):
        raise ValueError(f"the unmixer is prepared for {numbers.size} bands, the pixels have {bands}")
    return numbers


def _statements(part: Any) -> Iterator[Any]:
    """What the parts of an unmixer say of the bands they look at: the outermost that do, in their order."""
    if isinstance(part, type) or part is None or hasattr(part, "dtype"):
        return
    if hasattr(part, "good"):
        yield part.good
    elif isinstance(part, eqx.Module):
        for name in part.__dataclass_fields__:
            yield from _statements(getattr(part, name, None))
    elif isinstance(part, functools.partial):
        yield from _statements((part.func, part.args, part.keywords))
    elif isinstance(part, Mapping):
        yield from _statements(tuple(part.values()))
    elif isinstance(part, tuple | list):
        for one in part:
            yield from _statements(one)
