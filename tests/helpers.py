"""What every test may use: one tolerance, in one place."""

from typing import Any

import numpy as np

__all__ = ["TOLERANCE", "assert_close"]

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
