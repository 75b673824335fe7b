"""What every test may use: one tolerance, in one place, and one separable scene."""

from typing import Any

import numpy as np

__all__ = ["TOLERANCE", "assert_close", "separable"]

TOLERANCE = {"float16": 5e-3, "float32": 5e-4, "float64": 5e-8}


def assert_close(actual: Any, expected: Any, *, scale: float = 1.0) -> None:
    """Compare at the tolerance of the coarser dtype present.

    Args:
        actual: what the package computed.
        expected: what the oracle says; Python numbers and integer arrays count as exact.
        scale: size of the quantity: a difference up to the tolerance times `scale` passes near zero.
    """
    dtypes = [a.dtype for a in (actual, expected) if hasattr(a, "dtype") and a.dtype.kind in "fc"]
    tolerance = max((TOLERANCE[np.finfo(d).dtype.name] for d in dtypes), default=TOLERANCE["float64"])
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=tolerance, atol=tolerance * scale)


def separable(count: int, *, pixels: int = 400, bands: int = 30, seed: int = 0) -> tuple[Any, Any, Any]:
    """Mixtures without noise that hold every endmember pure, in random places.

    Returns:
        Pixels [pixel, band], endmembers and abundances, float64.
    """
    rng = np.random.default_rng(seed)
    wave = np.linspace(0, 1, bands)
    endmembers = 0.4 + 0.3 * np.sin(rng.uniform(2, 14, (count, 1)) * wave + rng.uniform(0, 6, (count, 1)))
    abundances = rng.dirichlet(np.ones(count), pixels)
    abundances[rng.permutation(pixels)[:count]] = np.eye(count)
    return abundances @ endmembers, endmembers, abundances
