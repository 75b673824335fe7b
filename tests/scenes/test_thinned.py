"""Scenes that are cut down for a look."""

import numpy as np
import pytest

from unmix_jax.scenes.lazy import LazyCube
from unmix_jax.scenes.scene import Scene, thinned


@pytest.mark.parametrize("every", [1, 2, 5])
@pytest.mark.parametrize("kind", [lambda x: x, lambda x: LazyCube(x.astype(np.int16)), lambda x: x.reshape(-1, 4)])
def test_a_thinned_scene_is_each_so_manieth_pixel(kind, every):
    cube = np.random.default_rng(0).integers(0, 100, (7, 9, 4)).astype(np.float32)
    given = Scene(kind(cube), mask=kind(cube)[..., 0] > 10, name="some")
    found = thinned(given, every)
    some = (slice(None, None, every),) * len(given.shape)
    np.testing.assert_array_equal(np.asarray(found.cube), np.asarray(given.cube)[some])
    np.testing.assert_array_equal(found.mask, np.asarray(given.mask)[some])
    assert found.name == "some"
