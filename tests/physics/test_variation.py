"""Generators of endmembers that vary: what every one promises, and closed forms for each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close

from unmix_jax.physics.box import box_around, clip
from unmix_jax.physics.dispersion import emissivity, from_axes, stack
from unmix_jax.physics.variation import DispersionVariation, ScaleSlopeShift, Variation, linearise

BANDS = np.linspace(400.0, 1400.0, 61)
LIBRARY = (
    from_axes([[500.0, 900.0], [1100.0]], [[0.03, 0.02], [0.05]], [[0.4, 0.3], [0.2]], [2.2, 2.5], [0.3, 0.7]),
    from_axes([[650.0]], [[0.04]], [[0.5]], [2.0]),
    from_axes([[1000.0, 620.0, 460.0]], [[0.02, 0.05, 0.1]], [[0.2, 0.3, 0.1]], [1.8]),
)


def minerals(**tolerances):
    library = stack(LIBRARY)
    return DispersionVariation(library, box_around(library, **tolerances), BANDS)


def spectra():
    rng = np.random.default_rng(3)
    return np.cumsum(rng.normal(size=(4, 40)), 1) / 10


CASES = {
    "minerals": lambda: minerals(frequency=0.02, damping=0.1, strength=0.1, epsilon_inf=0.05, weights=0.2),
    "the paper's box": minerals,
    "scale, slope, shift": lambda: ScaleSlopeShift(spectra(), scale=0.2, slope=0.1, shift=0.4),
    "scale alone": lambda: ScaleSlopeShift(spectra(), scale=0.2, slope=0.0, shift=0.0, level=1.0),
}
each_case = pytest.mark.parametrize("name", CASES)


def displacements(generator, seed=0, size=1.0):
    return jnp.asarray(np.random.default_rng(seed).uniform(-size, size, generator.free.shape)) * generator.free


@pytest.mark.usefixtures("x64")
@each_case
def test_each_endmember_depends_on_its_own_row_alone(name):
    generator = CASES[name]()
    assert isinstance(generator, Variation)
    u = displacements(generator)
    moved = generator(u)
    assert moved.shape[0] == generator.free.shape[0]
    still = generator(jnp.zeros_like(u))
    for row in range(u.shape[0]):
        only = generator(jnp.zeros_like(u).at[row].set(u[row]))
        assert_close(only[row], moved[row])
        assert_close(jnp.delete(only, row, axis=0), jnp.delete(still, row, axis=0))


@pytest.mark.usefixtures("x64")
@each_case
def test_selected_endmembers_are_the_same(name):
    generator = CASES[name]()
    u, members = displacements(generator), jnp.array([2, 0])
    chosen = jax.jit(lambda members, u: generator.select(members)(u[members]))
    assert_close(chosen(members, u), generator(u)[members])


@pytest.mark.usefixtures("x64")
@each_case
@pytest.mark.parametrize("at", ["library", "displaced"])
def test_derivatives_are_the_differences(name, at):
    generator = CASES[name]()
    u = displacements(generator, 1, 0.5)
    values, slopes = linearise(generator, None if at == "library" else u)
    center = jnp.zeros_like(u) if at == "library" else u
    assert_close(values, generator(center))
    step, direction = 1e-6, displacements(generator, 2)
    if name == "scale, slope, shift":  # interpolation has a kink where a band meets a band
        center, direction = center + 0.3 * (at == "library") * generator.free, direction
        slopes = linearise(generator, center)[1]
    difference = (generator(center + step * direction) - generator(center - step * direction)) / (2 * step)
    np.testing.assert_allclose(jnp.einsum("ed,edb->eb", direction, slopes), difference, rtol=1e-5, atol=1e-7)


@pytest.mark.usefixtures("x64")
@each_case
def test_held_parameters_move_nothing(name):
    generator = CASES[name]()
    u = displacements(generator)
    anything = jnp.where(generator.free, u, 7.0)
    assert_close(generator(anything), generator(u))
    slopes = linearise(generator, u)[1]
    assert np.all(np.asarray(slopes)[~np.asarray(generator.free)] == 0)


@pytest.mark.usefixtures("x64")
def test_zero_is_the_library_and_one_the_walls():
    generator = minerals(frequency=0.01, damping=0.05, strength=0.05, epsilon_inf=0.1, weights=0.0)
    zero = jnp.zeros(generator.free.shape)
    assert_close(generator(zero), emissivity(stack(LIBRARY), generator.wavenumber))
    for u, corner in ((zero - 1, generator.box.lower), (zero + 1, generator.box.upper)):
        moved = generator.parameters(u)
        for name in ("frequency", "damping", "strength", "epsilon_inf"):
            assert_close(getattr(moved, name), getattr(corner, name))
    inside = generator.parameters(displacements(generator))
    clipped = clip(generator.box, inside)
    assert_close(clipped.frequency, inside.frequency)


@pytest.mark.usefixtures("x64")
def test_weights_keep_their_sum():
    generator = minerals(weights=0.5)
    for seed in range(3):
        assert_close(generator.parameters(displacements(generator, seed)).weights.sum(-1), np.ones(3))


@pytest.mark.usefixtures("x64")
def test_scale_slope_and_shift_do_what_they_say():
    library = np.tile(np.arange(10.0), (3, 1))
    generator = ScaleSlopeShift(library, scale=0.5, slope=0.2, shift=2.0)
    moved = np.asarray(generator(jnp.diag(jnp.array([1.0, 1.0, 0.5]))))
    position = np.linspace(-1, 1, 10)
    assert_close(moved[0], 1.5 * library[0])
    assert_close(moved[1], (1 + 0.2 * position) * library[1])
    assert_close(moved[2, 1:], library[2, 1:] - 1)


def test_contradictory_bounds_are_refused():
    library = stack(LIBRARY)
    box = box_around(library, frequency=0.01)
    crossed = type(box)(box.upper, box.lower)
    with pytest.raises(ValueError, match="lower bounds lie above the upper"):
        DispersionVariation(library, crossed, BANDS)
    far = jax.tree.map(lambda leaf: leaf * 1.5 if leaf.dtype != bool else leaf, library)
    with pytest.raises(ValueError, match="outside of its box"):
        DispersionVariation(far, box, BANDS)
    with pytest.raises(ValueError, match="use stack"):
        DispersionVariation(LIBRARY[0], box_around(LIBRARY[0]), BANDS)
    with pytest.raises(ValueError, match="one axis of bands"):
        DispersionVariation(library, box, BANDS[None])


@pytest.mark.parametrize("wrong", [{"scale": -0.1}, {"slope": float("nan")}, {"shift": -1.0}])
def test_negative_ranges_are_refused(wrong):
    with pytest.raises(ValueError, match="not below zero"):
        ScaleSlopeShift(spectra(), **wrong)
    with pytest.raises(ValueError, match="at least two bands"):
        ScaleSlopeShift(np.ones(5))
