"""Boxes: exact ends, held parameters, leaves that are not numbers, and the two boxes of the dispersion model."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close

from unmix_jax.physics.box import Box, box_around, clip, default_box, from_unit, to_unit
from unmix_jax.physics.dispersion import Dispersion, emissivity, from_axes, stack

BANDS = np.linspace(400.0, 1400.0, 51)
LOWER = {"a": jnp.array([-1.0, 0.3, 2.0]), "b": (jnp.array(1e-6), jnp.array([True, False])), "c": None, "d": 7}
UPPER = {"a": jnp.array([0.5, 0.7, 2.0]), "b": (jnp.array(3.0), jnp.array([True, False])), "c": None, "d": 7}
NUMBERS = Box(LOWER, UPPER)  # the last number of `a` is held
QUARTZ = from_axes(
    [[450.0, 700.0, 1070.0], [500.0, 1160.0]],
    [[0.02, 0.03, 0.007], [0.01, 0.05]],
    [[0.8, 0.02, 0.66], [0.9, 0.1]],
    [2.36, 2.38],
    [0.35, 0.65],
)
LIBRARY = stack([QUARTZ, from_axes([[600.0]], [[0.1]], [[1e-6]], [1.005])])
NAMES = ("frequency", "damping", "strength", "epsilon_inf", "weights")


def filled(value):
    return jax.tree.map(lambda leaf: jnp.full(leaf.shape, value) if eqx.is_inexact_array(leaf) else leaf, LOWER)


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_ends_are_exact():
    equal(from_unit(NUMBERS, filled(0.0)), LOWER)
    equal(from_unit(NUMBERS, filled(1.0)), UPPER)
    ends = to_unit(NUMBERS, UPPER)
    np.testing.assert_array_equal(ends["a"], [1.0, 1.0, 0.0])
    assert ends["b"][0] == 1
    assert to_unit(NUMBERS, LOWER)["b"][0] == 0


@pytest.mark.parametrize("place", [0.0, 0.25, 0.9, 1.0, 1.3, -0.2])
def test_there_and_back(place):
    back = to_unit(NUMBERS, from_unit(NUMBERS, filled(place)))
    assert_close(back["a"], np.array([place, place, 0.0], np.float32))
    assert_close(back["b"][0], np.float32(place))


def test_other_leaves_pass():
    for function in (to_unit, from_unit, clip):
        result = function(NUMBERS, filled(0.5))
        assert result["c"] is None
        assert result["d"] == 7
        np.testing.assert_array_equal(result["b"][1], [True, False])


def test_another_structure_is_refused():
    with pytest.raises(ValueError, match=r"[Mm]ismatch|expected|structure"):
        to_unit(NUMBERS, {"a": jnp.ones(3)})


def test_clip_is_the_nearest_point():
    clipped = clip(NUMBERS, filled(0.6))
    np.testing.assert_array_equal(clipped["a"], np.float32([0.5, 0.6, 2.0]))
    equal(clip(NUMBERS, clipped), clipped)


@pytest.mark.parametrize("function", [to_unit, from_unit])
def test_held_parameters_have_zero_derivatives(function):
    slope = jax.grad(lambda a: jnp.sum(function(Box(LOWER["a"], UPPER["a"]), a)))(jnp.array([0.2, 0.4, 0.5]))
    widths = np.array([1.5, 0.4, 0.0], np.float32)
    expected = widths if function is from_unit else np.array([1 / 1.5, 1 / 0.4, 0.0], np.float32)
    assert_close(slope, expected)
    assert slope[2] == 0


@pytest.mark.parametrize("mineral", [QUARTZ, LIBRARY], ids=["one", "library"])
def test_box_around_a_mineral(mineral):
    tolerances = dict(zip(NAMES, (0.01, 0.1, 0.2, 0.05, 0.3), strict=True))
    box = box_around(mineral, **tolerances)
    for name, tolerance in tolerances.items():
        center, lower, upper = (np.asarray(getattr(d, name)) for d in (mineral, box.lower, box.upper))
        real = np.asarray(mineral.active) if center.ndim == mineral.active.ndim else np.asarray(mineral.weights) > 0
        most = 1.0 if name == "weights" else np.inf
        least = 1.0 if name == "epsilon_inf" else 0.0
        assert_close(lower[real], np.maximum(center * (1 - tolerance), least)[real])
        assert_close(upper[real], np.minimum(center * (1 + tolerance), most)[real])
        np.testing.assert_array_equal(lower[~real], upper[~real])
    inside = clip(box, mineral)
    assert_close(emissivity(inside, BANDS), emissivity(mineral, BANDS))


def test_wide_tolerances_stay_physical():
    box = box_around(QUARTZ, frequency=2.0, damping=2.0, strength=2.0, epsilon_inf=2.0, weights=2.0)
    for lower, floor in zip(NAMES, (1.0, 1e-6, 0.0, 1.0, 0.0), strict=True):
        real = np.asarray(QUARTZ.active) if lower in NAMES[:3] else slice(None)
        np.testing.assert_allclose(np.asarray(getattr(box.lower, lower))[real], floor)
    assert np.all(np.asarray(box.upper.weights) == 1)
    odd = from_axes([[600.0]], [[0.1]], [[0.1]], [0.97])
    assert box_around(odd).lower.epsilon_inf[0] <= odd.epsilon_inf[0] <= box_around(odd).upper.epsilon_inf[0]


@pytest.mark.parametrize("wrong", [-0.1, np.nan])
def test_tolerance_below_zero_is_refused(wrong):
    with pytest.raises(ValueError, match="damping"):
        box_around(QUARTZ, damping=wrong)


def test_default_box():
    box = default_box(BANDS, LIBRARY)
    active = np.asarray(LIBRARY.active)
    for name, least, most in (("frequency", 340, 1610), ("damping", 1e-6, 3), ("strength", 1e-7, 3)):
        np.testing.assert_allclose(getattr(box.lower, name)[active], least, rtol=1e-6)
        np.testing.assert_allclose(getattr(box.upper, name)[active], most, rtol=1e-6)
    np.testing.assert_array_equal(box.upper.epsilon_inf, [[8, 8], [8, 1]])
    np.testing.assert_array_equal(box.upper.weights, [[1, 1], [1, 0]])


@pytest.mark.usefixtures("x64")
def test_fit_in_unit_coordinates_leaves_padding_alone():
    """Hostile numbers in the padding reach neither the spectrum nor the derivatives."""
    hostile = eqx.tree_at(lambda d: d.frequency, LIBRARY, jnp.where(LIBRARY.active, LIBRARY.frequency, jnp.nan))
    hostile = jax.tree.map(lambda leaf: leaf.astype(float) if leaf.dtype != bool else leaf, hostile)
    _, mask = eqx.partition(hostile, eqx.is_inexact_array)
    box = default_box(BANDS, hostile)

    @jax.jit
    def loss(unit):
        return jnp.sum(emissivity(from_unit(box, eqx.combine(unit, mask)), BANDS) ** 2)

    unit, _ = eqx.partition(to_unit(box, hostile), eqx.is_inexact_array)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(unit))
    slope = jax.grad(loss)(unit)
    assert isinstance(slope, Dispersion)
    for name in NAMES:
        leaf = np.asarray(getattr(slope, name))
        assert np.isfinite(leaf).all()
        real = np.asarray(LIBRARY.active) if leaf.ndim == 3 else np.array([[True, True], [True, False]])
        assert np.all(leaf[~real] == 0)
        assert np.any(leaf[real] != 0)
    step = 1e-6
    ends = [loss(eqx.tree_at(lambda d: d.strength, unit, unit.strength.at[0, 0, 2].add(s * step))) for s in (1, -1)]
    np.testing.assert_allclose(slope.strength[0, 0, 2], (ends[0] - ends[1]) / (2 * step), rtol=1e-5)
