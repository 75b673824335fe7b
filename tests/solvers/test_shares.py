"""Bounds on sums and shares of abundances, against all corners of the box that the abundances are in."""

from itertools import product

import jax.numpy as jnp
import numpy as np
import pytest

from unmix_jax.solvers.shares import bound_of_shares, bound_of_sums

CORNERS = np.array(list(product((-1.0, 1.0), repeat=4)))


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
@pytest.mark.parametrize("delta", [0.0, 1e-7, 1e-3, 0.1, 0.3, np.inf, np.nan])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
@pytest.mark.usefixtures("x64")
def test_no_corner_of_the_box_is_farther_than_the_bound(kind, delta, scale):
    exact = scale * np.random.default_rng(0).dirichlet(np.ones(4), 50)
    lit, summed = np.array([1.0, 1, 1, 0]), np.array([[1.0, 1, 0, 0], [0, 0, 1, 0]])
    total = exact @ lit
    shares, sums = exact @ summed.T / total[:, None], exact @ summed.T
    bound = np.full(50, delta)
    of_shares = np.asarray(bound_of_shares(*map(kind, (shares, total, bound)), summed=summed.sum(1), divided=3))
    of_sums = np.asarray(bound_of_sums(kind(sums), kind(bound), summed=2))
    if not np.isfinite(delta):
        np.testing.assert_array_equal(of_shares, bound)
        np.testing.assert_array_equal(of_sums, bound)
        return
    proved = total > 3 * delta * (1 + 1e-12)
    assert np.isfinite(of_shares[proved]).all()
    assert np.isinf(of_shares[total < 3 * delta * (1 - 1e-12)]).all()
    moved = exact[:, None] + delta * CORNERS
    new_total = (moved @ lit)[proved][..., None]
    errors = np.abs((moved @ summed.T)[proved] / new_total - shares[proved][:, None]).max((1, 2))
    assert (errors <= of_shares[proved]).all()
    assert (np.abs(moved @ summed.T - sums[:, None]).max((1, 2)) <= of_sums).all()
    ample = total[proved] > 300 * delta
    assert (of_shares[proved][ample] <= 1.02 * errors[ample] + 1e-14).all()  # no more pessimistic than it must be


def test_numpy_stays_numpy_in_its_dtype():
    found = bound_of_shares(np.ones((2, 1), np.float32), np.ones(2, np.float32), np.zeros(2, np.float32), summed=1,
                            divided=1)  # fmt: skip
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.float32
