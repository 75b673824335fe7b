"""Noise, HySime and virtual dimensionality against their papers written out as loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close
from scipy.stats import norm

from unmix_jax.endmembers import moments
from unmix_jax.endmembers.subspace import count_endmembers, estimate_noise, hfc, hysime, nwhfc
from unmix_jax.scenes.scene import Scene

BANDS, COUNT, PIXELS = 40, 4, 3000


def mixtures(snr=40.0, *, seed=0, pixels=PIXELS, bands=BANDS, count=COUNT):
    """Dirichlet mixtures of smooth endmembers with noise that differs from band to band (float64)."""
    rng = np.random.default_rng(seed)
    wave = np.linspace(0, 1, bands)
    endmembers = 0.3 + 0.25 * np.sin(rng.uniform(2, 12, (count, 1)) * wave + rng.uniform(0, 6, (count, 1)))
    clean = rng.dirichlet(np.ones(count), pixels) @ endmembers
    std = np.sqrt(np.mean(clean**2) * 10 ** (-snr / 10)) * (0.5 + wave)
    return clean + std * rng.standard_normal(clean.shape), std


def regression_residuals(pixels):
    """Each band regressed on all others, one at a time."""
    residuals = np.empty_like(pixels)
    for band in range(pixels.shape[1]):
        others = np.delete(pixels, band, axis=1)
        residuals[:, band] = pixels[:, band] - others @ np.linalg.lstsq(others, pixels[:, band], rcond=None)[0]
    return residuals


def hysime_oracle(pixels):
    """HySime from the residuals themselves, as in the paper: cost of every eigenvector, ascending.

    But for the degrees of freedom of a regression on the other bands, by which the sum of squares is divided.
    """
    n, bands = pixels.shape
    noise = regression_residuals(pixels)
    signal = pixels - noise
    r_x, r_y = signal.T @ signal / n, pixels.T @ pixels / n
    r_n = np.diag(np.sum(noise**2, axis=0) / (n - bands + 1)) + np.trace(r_x) / bands / 1e5 * np.eye(bands)
    vectors = np.linalg.svd(r_x)[0]
    return np.sort(-np.diag(vectors.T @ r_y @ vectors) + 2 * np.diag(vectors.T @ r_n @ vectors))


def hfc_oracle(pixels, false_alarm):
    """Virtual dimensionality with np.cov and a loop over eigenvalues."""
    n = len(pixels)
    correlation = np.sort(np.linalg.eigvalsh(pixels.T @ pixels / n))
    covariance = np.sort(np.linalg.eigvalsh(np.cov(pixels.T, bias=True)))
    count = 0
    for a, b in zip(correlation, covariance, strict=True):
        count += a - b > norm.ppf(1 - false_alarm, scale=np.sqrt(2 * (a**2 + b**2) / n))
    return count


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("snr", [20.0, 40.0, 60.0])
def test_noise_is_that_of_the_regressions(snr):
    pixels, std = mixtures(snr)
    noise = estimate_noise(pixels)
    squares = np.sum(regression_residuals(pixels) ** 2, axis=0)
    np.testing.assert_allclose(noise.std, np.sqrt(squares / (PIXELS - BANDS + 1)), rtol=1e-6)
    np.testing.assert_allclose(noise.std, std, rtol=0.2)
    assert abs(noise.snr - snr) < 1.0


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("snr", [20.0, 40.0, 60.0])
def test_hysime_is_that_of_the_paper(snr):
    pixels, _ = mixtures(snr)
    found = hysime(pixels)
    assert found.count == COUNT
    expected = hysime_oracle(pixels)
    np.testing.assert_allclose(found.cost, expected, atol=1e-9 * np.abs(expected).max(), rtol=1e-6)
    assert_close(found.basis @ found.basis.T, np.eye(COUNT))
    inside = pixels @ found.basis.T @ found.basis
    assert np.sqrt(np.mean((pixels - np.asarray(inside)) ** 2)) < 1.2 * float(jnp.sqrt(jnp.mean(found.noise.std**2)))


FEW = {"a few more than bands": BANDS + 8, "half more": 3 * BANDS // 2, "twice": 2 * BANDS, "five times": 5 * BANDS}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("pixels", FEW.values(), ids=FEW)
def test_few_pixels_make_noise_neither_small_nor_signal(pixels):
    drawn = [mixtures(40.0, seed=seed, pixels=pixels, count=COUNT) for seed in range(8)]
    # White noise of its own: what the regression leaves of it is known, whatever the spectra.
    noise = [hysime(spectra).noise.std ** 2 / std**2 for spectra, std in drawn]
    many = [estimate_noise(mixtures(40.0, seed=seed, pixels=100 * BANDS)[0]).std ** 2 / drawn[seed][1] ** 2
            for seed in range(8)]  # fmt: skip
    np.testing.assert_allclose(np.mean(noise), np.mean(many), rtol=0.15)
    counts = [hysime(spectra).count for spectra, _ in drawn]
    assert max(counts) <= COUNT
    assert min(counts) >= COUNT - 1
    snr = [float(hysime(spectra).noise.snr) for spectra, _ in drawn]
    assert abs(np.mean(snr) - 40.0) < 1.5


@pytest.mark.usefixtures("x64")
def test_pixels_of_noise_alone_are_hardly_ever_signal():
    rng = np.random.default_rng(3)
    constant = 10.0  # one endmember: the pixels are not of mean zero
    counts = [hysime(constant + rng.standard_normal((2 * BANDS, BANDS))).count for _ in range(40)]
    assert counts.count(1) >= 39


@pytest.mark.parametrize("pixels", [2, BANDS - 1, BANDS])
@pytest.mark.parametrize("estimate", [estimate_noise, hysime, nwhfc])
def test_not_more_pixels_than_bands_are_refused(estimate, pixels):
    spectra, _ = mixtures(40.0, pixels=pixels)
    with pytest.raises(ValueError, match=f"more valid pixels than bands, got {pixels} pixels of {BANDS} bands"):
        estimate(spectra)
    assert count_endmembers(spectra).hysime is None


@pytest.mark.parametrize("snr", [20.0, 60.0, 90.0])
def test_float32_agrees_with_float64(snr):
    pixels, _ = mixtures(snr)
    with jax.enable_x64(True):
        exact, vd = hysime(pixels), (hfc(pixels), nwhfc(pixels))
    found = hysime(pixels.astype(np.float32))
    assert found.noise.std.dtype == found.basis.dtype == jnp.float32
    assert found.count == exact.count
    # Rounding to float32 is itself noise of about 1e-8 per unit reflectance.
    np.testing.assert_allclose(found.noise.std, exact.noise.std, rtol=1e-3)
    ours, theirs = np.asarray(found.basis, np.float64), np.asarray(exact.basis)
    np.testing.assert_allclose(ours.T @ ours, theirs.T @ theirs, atol=1e-6)
    assert (hfc(pixels.astype(np.float32)), nwhfc(pixels.astype(np.float32))) == vd


def test_estimates_do_not_depend_on_the_unit_of_the_data():
    pixels, _ = mixtures(30.0)
    one, other = hysime(pixels), hysime(1e4 * pixels)
    assert one.count == other.count
    assert_close(1e4 * one.noise.std, other.noise.std)
    assert int(nwhfc(pixels)) == int(nwhfc(1e4 * pixels))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("false_alarm", [1e-2, 1e-3, 1e-5])
def test_virtual_dimensionality_is_that_of_the_paper(false_alarm):
    pixels, _ = mixtures(30.0)
    assert int(hfc(pixels, false_alarm=false_alarm)) == hfc_oracle(pixels, false_alarm)
    whitened = pixels / np.sqrt(np.mean(regression_residuals(pixels) ** 2, axis=0))
    assert int(nwhfc(pixels, false_alarm=false_alarm)) == hfc_oracle(whitened, false_alarm)


def test_several_rates_at_once_and_never_more_signals_at_a_lower_rate():
    pixels, _ = mixtures(30.0)
    rates = (1e-1, 1e-3, 1e-4, 1e-5)
    for count in (hfc, nwhfc):
        counts = count(pixels, false_alarm=rates)
        assert counts.tolist() == [int(count(pixels, false_alarm=rate)) for rate in rates]
        assert (np.diff(counts) <= 0).all()
        assert counts[0] > 0


def test_blocks_do_not_change_the_answer(monkeypatch):
    pixels, _ = mixtures(30.0)
    whole = estimate_noise(pixels)
    monkeypatch.setattr(moments, "BLOCK_BYTES", 8 * BANDS * 97)
    assert_close(estimate_noise(pixels).std, whole.std, scale=1e-3)


def test_invalid_pixels_and_bad_bands_are_left_out(tmp_path):
    pixels, _ = mixtures(30.0, pixels=600)
    good = np.ones(BANDS, bool)
    good[[3, 17]] = False
    mask = np.ones(640, bool)
    mask[-10:] = False
    bad = np.full((40, BANDS), 0.5)
    bad[:10, 5], bad[10:20], bad[20:25], bad[25:30, 8] = np.nan, 0.0, -1.0, -1.0
    cube = np.concatenate([pixels, bad])
    cube[:, 3] = np.nan
    memory = np.lib.format.open_memmap(tmp_path / "cube.npy", mode="w+", dtype=np.float64, shape=(32, 20, BANDS))
    memory[:] = cube.reshape(32, 20, BANDS)
    scene = Scene(memory, good_bands=good, mask=mask.reshape(32, 20), nodata=-1.0)
    found, expected = estimate_noise(scene), estimate_noise(pixels[:, good])
    assert np.isnan(found.std).tolist() == (~good).tolist()
    assert_close(found.std[good], expected.std, scale=1e-3)
    assert hysime(scene).count == hysime(pixels[:, good]).count


@pytest.mark.usefixtures("x64")
def test_projection_and_angles_are_those_of_least_squares():
    pixels, _ = mixtures(40.0)
    found = hysime(pixels)
    basis, some = np.asarray(found.basis), pixels[:5] ** 2
    fitted = np.stack([basis.T @ np.linalg.lstsq(basis.T, row, rcond=None)[0] for row in some])
    assert_close(found.project(some), fitted)
    assert_close(found.project(some.reshape(5, 1, BANDS)), fitted[:, None])
    cosine = np.sum(some * fitted, 1) / np.linalg.norm(some, axis=1) / np.linalg.norm(fitted, axis=1)
    assert_close(found.angles(some), np.arccos(cosine))
    assert np.all(found.angles(basis) < 1e-12)
    assert_close(found.angles(np.linalg.svd(basis)[2][found.count :]), np.full(BANDS - found.count, np.pi / 2))


@pytest.mark.usefixtures("x64")
def test_projection_leaves_bad_bands_out():
    pixels, _ = mixtures(40.0)
    good = np.arange(BANDS) % 9 != 4
    spoilt = np.where(good, pixels, 1e3)
    found = hysime(Scene(spoilt.reshape(60, 50, BANDS), good_bands=good))
    only = hysime(pixels[:, good])
    projected = np.asarray(found.project(spoilt))
    assert_close(projected[:, good], only.project(pixels[:, good]))
    assert np.isnan(projected[:, ~good]).all()
    assert_close(found.angles(spoilt[:9]), only.angles(pixels[:9, good]))


@pytest.mark.usefixtures("x64")
def test_projection_leaves_of_the_noise_what_lies_in_the_subspace():
    pixels, std = mixtures(40.0)
    found = hysime(pixels)
    outside = np.mean(np.asarray(pixels - found.project(pixels)) ** 2)
    assert abs(outside / (np.mean(std**2) * (BANDS - found.count) / BANDS) - 1) < 0.1  # noise differs between bands
    noise = std * np.random.default_rng(1).standard_normal(pixels.shape)
    assert np.mean(np.asarray(found.project(noise)) ** 2) < 0.2 * np.mean(noise**2)


def test_spectra_of_other_bands_are_refused():
    found = hysime(mixtures(40.0)[0].astype(np.float32))
    for of in (found.project, found.angles):
        with pytest.raises(ValueError, match=f"the subspace has {BANDS} bands, the spectra have 7"):
            of(np.ones((3, 7), np.float32))
    assert float(found.angles(np.zeros((1, BANDS), np.float32))[0]) == 0


def test_dead_and_constant_bands_change_nothing_of_the_others():
    pixels, _ = mixtures(30.0)
    padded = np.concatenate([pixels, np.zeros((PIXELS, 1)), np.full((PIXELS, 1), 0.4)], axis=1)
    noise = estimate_noise(padded)
    assert noise.std[BANDS] == 0
    assert bool(jnp.isfinite(noise.std).all())
    np.testing.assert_allclose(noise.std[:BANDS], estimate_noise(pixels).std, rtol=0.15)
    assert int(nwhfc(padded)) == int(nwhfc(pixels))
    assert hysime(padded).count == COUNT


def test_noise_free_and_duplicate_bands_stay_finite():
    pixels, _ = mixtures(300.0)
    pixels = np.concatenate([pixels, pixels[:, :2]], axis=1)
    found = hysime(pixels)
    assert found.count == COUNT
    assert float(found.noise.std.max()) < 1e-5
    assert 0 < int(hfc(pixels)) <= COUNT
    assert 0 < int(nwhfc(pixels)) <= COUNT


def test_integer_cubes_are_accepted():
    pixels, _ = mixtures(30.0)
    counts = np.round(1e4 * pixels).astype(np.int16)
    assert hysime(counts).count == hysime(pixels).count


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.full((10, 4), np.nan), "none of the 10 pixels"),
        (np.zeros((10, 4)), "none of the 10 pixels"),
        (np.random.default_rng(0).uniform(size=(10, 12)), "10 pixels of 12 bands"),
        (np.random.default_rng(0).uniform(size=(10, 1)), "at least 2 bands"),
        (np.ones(7), r"got \(7,\)"),
        (np.ones((0, 7)), "not empty"),
    ],
)
def test_impossible_input_is_refused(pixels, message):
    with pytest.raises(ValueError, match=message):
        estimate_noise(pixels)


@pytest.mark.parametrize("rate", [0.0, 1.0, -1e-3, (1e-3, 2.0)])
def test_a_rate_must_be_a_probability(rate):
    with pytest.raises(ValueError, match="probability"):
        hfc(np.random.default_rng(0).uniform(size=(30, 4)), false_alarm=rate)


def test_whitening_needs_variance():
    with pytest.raises(ValueError, match="variance"):
        nwhfc(np.full((30, 4), 0.5))


def test_counts_are_those_of_the_three_estimators():
    pixels = mixtures()[0]
    counts = count_endmembers(pixels)
    assert tuple(counts) == (hysime(pixels).count, int(hfc(pixels)), int(nwhfc(pixels)))
    assert counts.smallest == max(2, min(counts))


def test_few_pixels_leave_one_estimator():
    pixels = mixtures()[0][:10]
    counts = count_endmembers(pixels)
    assert counts.hysime is None
    assert counts.nwhfc is None
    assert counts.smallest == max(2, counts.hfc)
