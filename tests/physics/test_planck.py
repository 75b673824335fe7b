"""Planck's law against SciPy's constants in SI units, Wien, Stefan and Boltzmann, and its own inverses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close
from scipy import constants

from unmix_jax.physics import planck as module

planck, planck_wavelength = jax.jit(module.planck), jax.jit(module.planck_wavelength)  # much less to compile
brightness_temperature = jax.jit(module.brightness_temperature)
brightness_temperature_wavelength = jax.jit(module.brightness_temperature_wavelength)
emissivity, radiance = jax.jit(module.emissivity), jax.jit(module.radiance)

WAVENUMBER = np.geomspace(30.0, 25000.0, 60)
TEMPERATURE = np.geomspace(30.0, 6000.0, 20)[:, None]
THERMAL = np.linspace(200.0, 2000.0, 40)
TINY = 2e-38  # smallest radiance that float32 still holds at full precision
FORMS = {  # function, inverse, axis in its own unit
    "wavenumber": (planck, brightness_temperature, WAVENUMBER),
    "wavelength": (planck_wavelength, brightness_temperature_wavelength, 1e7 / WAVENUMBER),
}


def per_wavenumber(wavenumber, temperature):
    """By frequency in hertz, per hertz, then per cm⁻¹: returns radiance and exponent."""
    frequency = 100 * constants.c * wavenumber
    x = constants.h * frequency / (constants.k * temperature)
    with np.errstate(over="ignore"):
        per_hertz = 2 * constants.h * frequency**3 / constants.c**2 / np.expm1(x)
    return 100 * constants.c * per_hertz, x


def per_wavelength(wavelength, temperature):
    """By wavelength in metres, per metre, then per µm: returns radiance and exponent."""
    metres = 1e-9 * wavelength
    x = constants.h * constants.c / (metres * constants.k * temperature)
    with np.errstate(over="ignore"):
        return 1e-6 * 2 * constants.h * constants.c**2 / metres**5 / np.expm1(x), x


ORACLES = {"wavenumber": per_wavenumber, "wavelength": per_wavelength}
ALL_FORMS = pytest.mark.parametrize("form", FORMS)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("dtype", "within"), [(np.float32, 2.5e-7), (np.float64, 1e-15)])
@ALL_FORMS
def test_is_the_law_in_si_units(form, dtype, within):
    function, inverse, axis = FORMS[form]
    axis, temperature = axis.astype(dtype), TEMPERATURE.astype(dtype)
    expected, x = ORACLES[form](axis.astype(float), temperature.astype(float))
    found = function(axis, temperature)
    assert found.dtype == dtype
    normal = expected > (TINY if dtype == np.float32 else 1e-300)
    error = np.abs(np.where(normal, found, 1.0) / np.where(normal, expected, 1.0) - 1)
    assert (error <= within * (4 + x)).all()
    assert (np.asarray(found)[~normal] <= TINY).all()
    assert 0.7 < normal.mean() < 1  # both regimes are there, and far beyond exp(88), where float32 would end
    assert x[normal].max() > 90

    back = np.asarray(inverse(found, axis), float)
    wrong = np.abs(back / temperature.astype(float) - 1)[normal]
    assert wrong.max() < (1e-6 if dtype == np.float32 else 1e-14)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("temperature", [77.0, 300.0, 5772.0])
def test_wien_peaks_are_at_two_different_places(temperature):
    """Each form is flat at its own displacement constant (given to ten digits), and only there."""
    per_hertz, _, _ = constants.physical_constants["Wien frequency displacement law constant"]
    metre_kelvin, _, _ = constants.physical_constants["Wien wavelength displacement law constant"]
    in_wavenumber = per_hertz * temperature / (100 * constants.c)
    in_wavelength = 1e9 * metre_kelvin / temperature

    def log_slope(function, place):
        value, slope = jax.jit(jax.value_and_grad(function))(place, temperature)
        return float(place * slope / value)

    assert abs(log_slope(planck, in_wavenumber)) < 1e-9
    assert abs(log_slope(planck_wavelength, in_wavelength)) < 1e-9
    assert abs(log_slope(planck, 1e7 / in_wavelength)) > 1
    near = np.array([0.9, 1.0, 1.1])
    assert np.argmax(planck(in_wavenumber * near, temperature)) == 1
    assert np.argmax(planck_wavelength(in_wavelength * near, temperature)) == 1


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("temperature", [77.0, 300.0, 5772.0])
@ALL_FORMS
def test_stefan_boltzmann(form, temperature):
    wavenumber = np.geomspace(1e-5 * temperature, 50 * temperature, 400)
    axis, unit = (wavenumber, 1.0) if form == "wavenumber" else (1e7 / wavenumber, 1e-3)
    values = np.asarray(FORMS[form][0](axis, temperature)) * axis * unit  # per logarithm of the axis
    total = np.pi * abs(np.trapezoid(values, np.log(axis)))
    np.testing.assert_allclose(total, constants.sigma * temperature**4, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_the_two_forms_are_one_density():
    wavelength = 1e7 / WAVENUMBER
    per_um = 1e7 / wavelength**2 * 1e3  # |dν/dλ| in cm⁻¹ per µm, for λ in nm
    assert_close(planck_wavelength(wavelength, TEMPERATURE), planck(WAVENUMBER, TEMPERATURE) * per_um)
    expected = np.broadcast_to(TEMPERATURE, (20, 60))[10:]
    assert_close(brightness_temperature(planck(WAVENUMBER, expected), WAVENUMBER), expected)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@ALL_FORMS
def test_gradient_by_temperature_is_the_closed_form_and_finite_everywhere(form, dtype):
    function, _, axis = FORMS[form]
    axis, temperature = axis.astype(dtype), TEMPERATURE[:, 0].astype(dtype)
    by_temperature = jax.vmap(jax.grad(function, argnums=1), (0, None))
    slope = np.asarray(jax.jit(jax.vmap(by_temperature, (None, 0)))(axis, temperature), float)
    assert np.isfinite(slope).all()
    value, x = ORACLES[form](axis.astype(float), temperature[:, None].astype(float))
    expected = value * x / -np.expm1(-x) / temperature[:, None]
    large = value > 1e-30
    np.testing.assert_allclose(slope[large], expected[large], rtol=3e-5 if dtype == np.float32 else 1e-13)
    by_axis = jax.vmap(jax.vmap(jax.grad(function), (0, None)), (None, 0))
    assert np.isfinite(jax.jit(by_axis)(axis, temperature)).all()


@pytest.mark.usefixtures("x64")
def test_gradient_of_the_inverses():
    value = planck(THERMAL, 300.0)
    slope = jax.jit(jax.vmap(jax.grad(planck, argnums=1), (0, None)))(THERMAL, 300.0)
    back = jax.jit(jax.vmap(jax.grad(brightness_temperature)))(value, THERMAL)
    assert_close(back * slope, np.ones(40))
    by_temperature = jax.jit(jax.vmap(jax.grad(emissivity, argnums=2), (0, 0, None)))
    assert_close(
        by_temperature(0.9 * value, THERMAL, 300.0), -0.9 * slope / value
    )  # an assumed temperature too high makes it too dark


@pytest.mark.parametrize("downwelling", [0.0, 0.03, np.linspace(0.02, 0.0, 40, dtype=np.float32)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_emissivity_and_radiance_are_inverse(downwelling, dtype):
    with jax.enable_x64(dtype == np.float64):
        wavenumber, temperature = THERMAL.astype(dtype), np.array([[290.0], [330.0]], dtype)
        truth = np.random.default_rng(0).uniform(0.5, 1.0, (2, 40)).astype(dtype)
        seen = radiance(truth, wavenumber, temperature, downwelling)
        black, _ = per_wavenumber(THERMAL, temperature.astype(float))
        expected = truth * black + (1 - truth) * np.asarray(downwelling, float)
        assert_close(seen, expected.astype(dtype))
        assert seen.dtype == dtype
        assert_close(emissivity(seen, wavenumber, temperature, downwelling), truth)


@pytest.mark.usefixtures("x64")
def test_limits_of_a_surface():
    black = planck(THERMAL, 300.0)
    some = np.linspace(0.0, 1.0, 40)
    assert_close(radiance(1.0, THERMAL, 300.0, 0.07), black)  # a blackbody reflects nothing
    assert_close(radiance(0.0, THERMAL, 300.0, 0.07), np.full(40, 0.07))  # a mirror shows what is above it
    assert_close(radiance(some, THERMAL, 300.0, black), black)  # inside an oven everything looks alike
    assert not np.isfinite(emissivity(black, THERMAL, 300.0, black)).any()
    assert float(planck(1000.0, 0.0)) == 0
    assert float(brightness_temperature(0.0, 1000.0)) == 0
    assert np.isnan(brightness_temperature(-0.01, 1000.0))
    assert np.isnan(planck(THERMAL, np.nan)).all()  # a masked pixel stays masked


@pytest.mark.parametrize(
    "function",
    [
        lambda t: module.brightness_temperature_wavelength(module.planck_wavelength(1e7 / THERMAL, t), 1e7 / THERMAL),
        lambda t: module.brightness_temperature(module.planck(THERMAL, t), 2 * THERMAL),
        lambda t: module.emissivity(module.radiance(0.9, THERMAL, t, 0.01), THERMAL, 300.0),
    ],
)
def test_jit_vmap_and_a_loop_agree(function):
    temperatures = np.array([250.0, 300.0, 330.0], np.float32)
    expected = np.stack([function(t) for t in temperatures])
    assert_close(jax.jit(function)(temperatures[:, None]), expected)
    assert_close(jax.vmap(function)(jnp.asarray(temperatures)), expected)


def test_whole_numbers_are_numbers():
    """An integer axis neither overflows when cubed nor changes the dtype."""
    whole = np.arange(400, 25000, 100)
    found = planck(whole, 300)
    assert found.dtype == np.float32
    assert_close(found, planck(whole.astype(np.float32), 300.0))
    assert_close(planck_wavelength(10000, 300), planck_wavelength(10000.0, 300.0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: module.planck(THERMAL, -3.0), "temperature must not be negative, in K, got -3"),
        (lambda: module.planck(THERMAL - 200, 300.0), "wavenumber must be positive, in cm⁻¹, got 0"),
        (lambda: module.planck(-THERMAL, 300.0), "wavenumber must be positive, in cm⁻¹, got -2000"),
        (
            lambda: module.planck(np.linspace(7.0, 14.0, 8), 300.0),
            "wavenumber must be in cm⁻¹; up to 14 it looks like µm",
        ),
        (lambda: module.planck_wavelength(np.linspace(7.0, 14.0, 8), 300.0), "wavelength must be in nm; up to 14"),
        (lambda: module.planck_wavelength(np.array([-9999.0, 500.0]), 300.0), "wavelength must be positive, in nm"),
        (lambda: module.planck_wavelength(9000.0, np.array([300.0, -9999.0])), "temperature must not be negative"),
        (lambda: module.brightness_temperature(0.1, np.array([9.0, 10.0])), "cm⁻¹; up to 10 it looks like µm"),
        (lambda: module.brightness_temperature_wavelength(9.0, np.array([9.0, 10.0])), "nm; up to 10 it looks like µm"),
        (lambda: module.radiance(0.9, THERMAL, -1.0), "temperature must not be negative"),
        (lambda: module.emissivity(0.1, np.array([9.0, 10.0]), 300.0), "cm⁻¹; up to 10 it looks like µm"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_nothing_is_raised_under_jit():
    assert np.isfinite(planck(10.0, 300.0))
    assert planck(-THERMAL, 300.0).shape == planck(THERMAL, -3.0).shape == (40,)
