"""Noise against the law it claims to follow: sizes against physics and draws against chi-square."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close
from scipy import stats

from unmix_jax.endmembers.subspace import estimate_noise
from unmix_jax.physics import planck as physics
from unmix_jax.scenes import noise as module

# compiled whole, which is much less to compile than one operation at a time
brightness_temperature, planck = jax.jit(physics.brightness_temperature), jax.jit(physics.planck)
emissivity, radiance = jax.jit(physics.emissivity), jax.jit(physics.radiance)
add_noise, emissivity_noise_std = jax.jit(module.add_noise), jax.jit(module.emissivity_noise_std)
nesr_from_nedt, snr_std = jax.jit(module.nesr_from_nedt), jax.jit(module.snr_std)

KEY = jax.random.key(5)
WAVENUMBER = np.linspace(400.0, 1400.0, 11).astype(np.float32)
RARE = 1e-6  # two-sided chance of a right draw failing one comparison


def assert_variance(samples, variance):
    """Zero-mean Gaussian samples, [sample, case], have this variance: chi-square with one degree each."""
    count = len(samples)
    ratio = np.sum(np.square(np.asarray(samples, float)), axis=0) / variance
    low, high = stats.chi2.ppf([RARE / 2, 1 - RARE / 2], count)
    assert np.all((ratio > low) & (ratio < high)), (ratio / count, low / count, high / count)


def scene(pixels=3000, bands=60, seed=1):
    rng = np.random.default_rng(seed)
    x = np.linspace(0, 1, bands)
    pure = np.stack([0.4 + 0.3 * np.sin((2 + i) * x + i) for i in range(4)])
    return (rng.dirichlet(np.ones(4), pixels) @ pure).astype(np.float32)


@pytest.mark.parametrize("downwelling", [0.0, 0.03])
def test_radiance_noise_becomes_emissivity_noise(downwelling):
    """Draw in radiance, divide out the blackbody, and compare: variance is over B squared, not over B."""
    temperature, nesr, truth = 330.0, 2e-4, 0.9
    seen = np.broadcast_to(radiance(truth, WAVENUMBER, temperature, downwelling), (4000, 11))
    measured = emissivity(add_noise(KEY, seen, nesr), WAVENUMBER, temperature, downwelling)
    std = np.asarray(emissivity_noise_std(WAVENUMBER, temperature, nesr, downwelling), float)
    assert_variance(np.asarray(measured, float) - truth, std**2)
    assert std.max() > 2.5 * std.min()  # so a constant would have failed


@pytest.mark.usefixtures("x64")
def test_emissivity_noise_is_inverse_to_the_blackbody():
    cold, warm = (planck(WAVENUMBER, t) for t in (250.0, 330.0))
    ratio = emissivity_noise_std(WAVENUMBER, 250.0, 1e-3) / emissivity_noise_std(WAVENUMBER, 330.0, 1e-3)
    assert_close(ratio, warm / cold)
    assert_close(emissivity_noise_std(WAVENUMBER, 250.0, cold), np.ones(11))  # noise as large as the signal
    per_pixel = emissivity_noise_std(WAVENUMBER, np.array([[250.0], [330.0]]), 1e-3)
    assert_close(per_pixel, 1e-3 / np.stack([cold, warm]))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("temperature", [250.0, 300.0])
def test_nedt_is_that_error_of_the_brightness_temperature(temperature):
    wavenumber, nedt = WAVENUMBER.astype(float), 1e-4
    nesr = nesr_from_nedt(wavenumber, temperature, nedt)
    off = brightness_temperature(planck(wavenumber, temperature) + nesr, wavenumber) - temperature
    np.testing.assert_allclose(off, nedt, rtol=1e-5)
    assert_close(nesr_from_nedt(wavenumber, temperature, 2 * nedt), 2 * nesr)
    assert_close(nesr_from_nedt(wavenumber, np.array([[temperature]]), nedt)[0], nesr)
    assert_close(nesr_from_nedt(wavenumber, int(temperature), nedt), nesr)


@pytest.mark.parametrize("std", [0.3, np.geomspace(1e-3, 2.0, 11), np.linspace(0.5, 1.0, 5000)[:, None]])
def test_noise_has_the_stated_size_and_nothing_else(std):
    clean = np.full((5000, 11), 0.7, np.float32)
    noise = np.asarray(add_noise(KEY, clean, std), float) - clean
    standard = noise / std
    assert_variance(standard, 1.0)
    assert_variance(np.sqrt(5000) * standard.mean(0)[None], 1.0)  # no bias
    assert stats.kstest(standard.ravel(), "norm").pvalue > 1e-3
    correlation = np.corrcoef(standard.T) - np.eye(11)
    assert np.abs(correlation).max() < 5 / np.sqrt(5000)
    along = np.mean(standard[1:] * standard[:-1], axis=0)
    assert np.abs(along).max() < 5 / np.sqrt(5000)


@pytest.mark.parametrize("tile", [1, 7, 24])
def test_noise_does_not_depend_on_tiles(tile):
    clean = scene(24, 6)
    whole = np.asarray(add_noise(KEY, clean, 0.1))
    tiles = [np.asarray(add_noise(KEY, clean[n : n + tile], 0.1, first_pixel=n)) for n in range(0, 24, tile)]
    np.testing.assert_array_equal(np.concatenate(tiles), whole)
    np.testing.assert_array_equal(add_noise(KEY, clean.reshape(4, 6, 6), 0.1).reshape(24, 6), whole)


def test_one_pixel_vmap_and_jit_are_the_scene():
    clean = scene(9, 6)
    whole = add_noise(KEY, clean, 0.1)
    np.testing.assert_array_equal(add_noise(KEY, clean[5], 0.1, first_pixel=5), whole[5])
    mapped = jax.vmap(lambda pixel, n: add_noise(KEY, pixel, 0.1, first_pixel=n))(clean, jnp.arange(9))
    assert_close(mapped, whole)
    assert_close(module.add_noise(KEY, clean, 0.1), whole)
    assert np.abs(add_noise(jax.random.key(6), clean, 0.1) - whole).min() > 0


@pytest.mark.usefixtures("x64")
def test_dtype_follows_the_spectra():
    clean = scene(4, 6)
    assert add_noise(KEY, clean, np.full(6, 0.1)).dtype == np.float32
    assert add_noise(KEY, clean.astype(float), 0.1).dtype == np.float64
    assert emissivity_noise_std(WAVENUMBER, 330, 1e-3).dtype == np.float32
    assert snr_std(clean, 30).dtype == np.float32
    np.testing.assert_array_equal(add_noise(KEY, clean, 0.0), clean)


@pytest.mark.parametrize("snr", [10.0, 20.0, 30.0, 40])
def test_a_scene_has_the_ratio_that_was_asked_for(snr):
    clean = scene()
    std = snr_std(clean, snr)
    noise = np.asarray(add_noise(KEY, clean, std), float) - clean
    found = 10 * np.log10(np.sum(np.square(clean, dtype=float)) / np.sum(noise**2))
    assert abs(found - snr) < 5 * 10 / np.log(10) * np.sqrt(2 / clean.size)  # five standard errors
    # float32 noise on float32 spectra: HySime's own estimate is of the same quantity
    assert abs(float(estimate_noise(np.asarray(add_noise(KEY, clean, std))).snr) - snr) < 0.5


def test_ratio_scales_with_the_scene_and_leaves_missing_values_out():
    clean = scene(50, 6)
    assert_close(snr_std(100 * clean, 20.0), 100 * snr_std(clean, 20.0))
    holes = np.concatenate([clean, np.full((7, 6), np.nan, np.float32)])
    assert_close(snr_std(holes, 20.0), snr_std(clean, 20.0))
    each = jax.vmap(lambda pixel: snr_std(pixel, 20.0))(clean)
    assert_close(each, 0.1 * np.sqrt(np.mean(clean**2, axis=1)))
    assert_close(module.snr_std(clean, 20.0), 0.1 * np.sqrt(np.mean(clean**2)))


def test_noise_size_is_differentiable():
    by_temperature = jax.jit(jax.grad(lambda t: emissivity_noise_std(WAVENUMBER, t, 1e-3).sum()))(330.0)
    assert np.isfinite(by_temperature)
    assert by_temperature < 0  # warmer is brighter is cleaner
    assert np.isfinite(jax.jit(jax.grad(lambda t: nesr_from_nedt(WAVENUMBER, t, 0.1).sum()))(330.0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: module.emissivity_noise_std(WAVENUMBER, 330.0, -1e-3), "nesr must not be negative, got -0.001"),
        (lambda: module.emissivity_noise_std(WAVENUMBER, -330.0, 1e-3), "temperature must not be negative"),
        (lambda: module.emissivity_noise_std(1e4 / WAVENUMBER, 330.0, 1e-3), "it looks like µm"),
        (lambda: module.nesr_from_nedt(WAVENUMBER, 300.0, -0.1), "nedt must not be negative"),
        (lambda: module.nesr_from_nedt(WAVENUMBER, -300.0, 0.1), "temperature must not be negative"),
        (lambda: module.nesr_from_nedt(-WAVENUMBER, 300.0, 0.1), "wavenumber must be positive"),
        (lambda: module.add_noise(KEY, scene(3, 6), -0.1), "std must not be negative"),
        (
            lambda: module.add_noise(KEY, scene(3, 6), np.ones(3)),
            r"std has shape \(3,\), which does not fit spectra of",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_nothing_is_raised_under_jit():
    assert emissivity_noise_std(WAVENUMBER, 330.0, -1e-3).shape == (11,)
    assert add_noise(KEY, scene(3, 6), -0.1).shape == (3, 6)


@pytest.mark.parametrize("kind", [np.int16, np.uint16])
def test_integer_scenes_do_not_overflow(kind):
    counts = np.random.default_rng(0).integers(500, 30_000, (50, 20)).astype(kind)
    std = snr_std(counts, 30.0)
    assert_close(std, snr_std(counts.astype(np.float32), 30.0))
    noisy = np.asarray(add_noise(jax.random.key(0), counts, std))
    assert np.std(noisy - counts) == pytest.approx(float(std), rel=0.1)
