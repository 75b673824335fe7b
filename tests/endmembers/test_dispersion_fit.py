"""The dispersion fit: recovery and coverage over drawn minerals, its choice of axes, and refusals."""

import inspect
from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close

from unmix_jax.endmembers.dispersion_fit import _padded, fit_dispersion
from unmix_jax.endmembers.oscillators import Target, _normal, covariance, drop, flat, refine, restore, weighted
from unmix_jax.physics.box import Box
from unmix_jax.physics.dispersion import from_axes
from unmix_jax.scenes.scene import SpectralAxis

BANDS = np.arange(400.0, 1401.0, 4.0)
OPTIONS = {"count": 4, "starts": 2}  # the same shapes in every test: few compilations


def oracle(minerals, wavenumber=BANDS):
    """Emissivity by complex numbers; minerals are (weight, epsilon_inf, [(frequency, damping, strength)])."""
    total = 0.0
    for weight, infinity, oscillators in minerals:
        epsilon = infinity + sum(s * f**2 / (f**2 - wavenumber**2 - 1j * g * f * wavenumber) for f, g, s in oscillators)
        index = np.sqrt(epsilon)
        total = total + weight * (1 - np.abs((index - 1) / (index + 1)) ** 2)
    return total


def drawn(rng, most=4):
    """One axis with oscillators at least 3 linewidths apart, as in the protocol but of at most four."""
    while True:
        count = rng.integers(2, most + 1)
        f, g, s = rng.uniform(400, 1400, count), rng.uniform(0.02, 0.1, count), rng.uniform(0.02, 0.5, count)
        widths = np.maximum(f * g, (f * g)[:, None])
        if np.all((np.abs(f - f[:, None]) >= 3 * widths) | np.eye(count, dtype=bool)):
            return rng.uniform(2, 3), sorted(zip(f, g, s, strict=True))


MINERALS = [drawn(np.random.default_rng(seed)) for seed in range(24)]
CLEAN = np.array([oracle([(1.0, *mineral)]) for mineral in MINERALS])
NOISE = 0.01 * np.sqrt(np.mean(CLEAN**2, axis=1, keepdims=True))  # 40 dB
NOISY = CLEAN + NOISE * np.random.default_rng(1).standard_normal(CLEAN.shape)
TWO_AXES = oracle(
    [(0.4, 2.3, [(520.0, 0.03, 0.4), (1080.0, 0.02, 0.3)]), (0.6, 2.5, [(700.0, 0.03, 0.3), (1170.0, 0.03, 0.4)])]
)


@cache
def fitted(name):
    """Fits that several tests look at, in float32."""
    spectra, options = {
        "clean": (CLEAN, {"axes": (1,)}),
        "noisy": (NOISY, {"axes": (1,)}),
        "both": (np.stack([CLEAN[0], TWO_AXES, np.ones_like(BANDS)]), {"axes": (1, 2)}),
    }[name]
    return fit_dispersion(spectra.astype(np.float32), BANDS, **OPTIONS, **options)


def oscillators(fit, index):
    """Frequency, damping, strength of the active oscillators of the first axis and their places, by frequency."""
    mineral = jax.tree.map(lambda leaf: np.asarray(leaf[index, 0]), fit.dispersion)
    places = np.flatnonzero(mineral.active)
    places = places[np.argsort(mineral.frequency[places])]
    return np.stack([mineral.frequency, mineral.damping, mineral.strength])[:, places], places


def recovered(fit, index):
    """Whether every frequency is found and nothing else above 1 % of the strongest."""
    (found, _, strength), _ = oscillators(fit, index)
    nearest = []
    for f, g, _ in MINERALS[index][1]:
        nearest.append(int(np.argmin(np.abs(found - f))))
        if abs(found[nearest[-1]] - f) > max(0.5, 0.05 * g * f):
            return False
    extra = np.delete(strength, nearest)
    return len(set(nearest)) == len(nearest) and bool(np.all(extra <= 0.01 * strength.max()))


def test_recovers_noise_free_oscillators():
    fit = fitted("clean")
    assert sum(recovered(fit, index) for index in range(len(MINERALS))) >= 0.95 * len(MINERALS)
    assert bool(fit.converged.all())
    assert float(np.median(fit.mse)) < 1e-11


def test_intervals_cover_the_true_parameters():
    fit, covered = fitted("noisy"), []
    places = fit.dispersion.active.shape[-1]
    for index, (infinity, truth) in enumerate(MINERALS):
        found, where = oscillators(fit, index)
        if len(where) != len(truth):
            continue  # an oscillator that drowns in the noise
        deviations = np.sqrt(np.diag(fit.covariance[index]))
        for family in range(3):
            errors = np.abs(found[family] - np.array(truth)[:, family])
            covered += list(errors < deviations[family * places + where])
        covered.append(abs(float(fit.dispersion.epsilon_inf[index, 0]) - infinity) < deviations[3 * places])
    # 250 intervals, correlated within a mineral: two standard errors of the share are some 7 points
    assert len(covered) > 200
    assert 0.61 < np.mean(covered) < 0.76


def test_fit_renders_to_the_reported_error_in_its_bounds():
    fit = fitted("both")
    expected = np.mean((np.asarray(fit.dispersion(BANDS)) - np.stack([CLEAN[0], TWO_AXES, np.ones(251)])) ** 2, axis=1)
    np.testing.assert_allclose(fit.mse, expected, rtol=1e-2, atol=1e-12)
    active = np.asarray(fit.dispersion.active)
    widths = np.asarray(fit.dispersion.damping * fit.dispersion.frequency)[active]
    assert widths.min() >= 4.0 * (1 - 1e-5)
    np.testing.assert_allclose(np.asarray(fit.dispersion.weights).sum(axis=-1), 1.0, rtol=1e-6)
    assert_close(np.asarray(fit.oscillators), active.sum(axis=-1))
    padding = np.diagonal(fit.covariance[0])[: active[0].size][~active[0].reshape(-1)]
    assert not padding.any()


def test_number_of_axes_is_that_of_the_data():
    fit = fitted("both")
    assert fit.axes.tolist() == [1, 2, 1]
    assert fit.criterion.shape == (3, 2)
    assert float(fit.mse[1]) < 1e-8
    assert float(fit.dispersion.weights[0, 1]) == 0.0


def test_flat_spectrum_gets_one_weak_oscillator():
    fit = fitted("both")
    assert fit.oscillators[2].tolist() == [1, 0]
    assert float(fit.mse[2]) < 1e-10
    assert np.isfinite(np.asarray(fit.covariance[2])).all()


def test_a_batch_is_its_members():
    spectra = CLEAN[:2].astype(np.float32).reshape(2, 1, -1)
    batch = fit_dispersion(spectra, BANDS, axes=(1,), **OPTIONS)
    assert batch.dispersion.frequency.shape == (2, 1, 1, 4)
    for index in range(2):
        alone = fit_dispersion(spectra[index, 0], BANDS, axes=(1,), **OPTIONS)
        assert alone.mse.shape == ()
        for one, other in zip(jax.tree.leaves(alone), jax.tree.leaves(batch), strict=True):
            np.testing.assert_array_equal(one, other[index, 0])


def test_a_spectrum_with_few_good_bands_costs_the_others_nothing():
    few = BANDS[::10]
    gaps = oracle([(1.0, 2.3, [(700.0, 0.08, 0.3)])], few).astype(np.float32)
    spectra = np.stack([gaps, gaps])
    spectra[0, 12:] = np.nan
    batch = fit_dispersion(spectra, few, axes=1, starts=1)
    assert batch.dispersion.active.shape == (2, 1, 3)
    assert batch.oscillators[0, 0] == 1
    alone = fit_dispersion(gaps, few, axes=1, starts=1)
    for one, other in zip(jax.tree.leaves(alone), jax.tree.leaves(batch), strict=True):
        np.testing.assert_array_equal(one, other[1])
    lonely = fit_dispersion(spectra[0], few, axes=1, starts=1)
    assert lonely.dispersion.active.shape == (1, 1)
    wide = batch.covariance[0][np.ix_([0, 3, 6, 9, 10], [0, 3, 6, 9, 10])]
    np.testing.assert_array_equal(lonely.covariance, wide)
    assert np.count_nonzero(batch.covariance[0]) == np.count_nonzero(wide)
    assert float(lonely.mse) == float(batch.mse[0])


def test_padding_keeps_the_order_of_the_parameters():
    mineral = jax.tree.map(lambda leaf: leaf[None], small_problem()[0])
    wide, places = _padded(mineral, (3, 4))
    assert wide.active.shape == (1, 3, 4)
    full = jax.tree.map(lambda leaf: leaf[0], wide)
    own = jax.tree.map(lambda leaf: leaf[0], _padded(mineral, (2, 2))[0])
    assert_close(flat(full)[places], flat(own))
    assert_close(full(BANDS), jax.tree.map(lambda leaf: leaf[0], mineral)(BANDS))


def test_weights_keep_both_bounds():
    for bounds in ((0.45, 0.9), (0.1, 0.55)):  # the data want 0.4 and 0.6
        fit = fit_dispersion(TWO_AXES.astype(np.float32), BANDS, axes=(1, 2), bounds={"weights": bounds}, **OPTIONS)
        weights = np.asarray(fit.dispersion.weights)[: int(fit.axes)]
        assert int(fit.axes) == 2
        assert weights.min() >= 0.45 - 1e-6
        assert weights.max() <= 0.55 + 1e-6
    fit = fit_dispersion(GOOD, BANDS, axes=1, bounds={"weights": (0.1, 0.2)}, **OPTIONS)
    assert fit.dispersion.weights.tolist() == [1.0]


def test_last_of_three_weights_keeps_the_upper_bound():
    _, target = small_problem()
    high = eqx.tree_at(lambda d: d.weights, target.box.upper, jnp.array([0.5]))
    target = target._replace(box=Box(target.box.lower, high))
    for last, allowed in ((0.4, True), (0.5, True), (0.6, False)):
        shares = [(1 - last) / 2, (1 - last) / 2, last]
        mineral = from_axes([[520.0]] * 3, [[0.05]] * 3, [[0.4]] * 3, [2.3] * 3, shares)
        assert np.isfinite(_normal(mineral, target).cost) == allowed


def test_half_precision_is_fitted_in_float32():
    for dtype in (np.float16, jnp.bfloat16):
        half = GOOD.astype(dtype)
        fit = fit_dispersion(half, BANDS, axes=1, **OPTIONS)
        assert fit.mse.dtype == np.float32
        assert_close(fit.mse, fit_dispersion(half.astype(np.float32), BANDS, axes=1, **OPTIONS).mse)


@pytest.mark.parametrize("missing", [np.nan, 0.0, 7.0])
def test_masked_bands_are_ignored(missing):
    weights = np.ones(len(BANDS))
    weights[60:75] = 0.0
    spoiled = np.where(weights > 0, CLEAN[0], missing).astype(np.float32)
    fit = fit_dispersion(spoiled, BANDS, axes=(1,), weights=weights, **OPTIONS)
    whole = fit_dispersion(CLEAN[0].astype(np.float32), BANDS, axes=(1,), weights=weights, **OPTIONS)
    assert not bool(fit.outside)
    for one, other in zip(jax.tree.leaves(fit), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(one, other)


def test_start_from_many_finds_the_same_minerals():
    fit = fit_dispersion(CLEAN[:2].astype(np.float32), BANDS, axes=(1,), start="many", **OPTIONS)
    assert all(recovered(fit, index) for index in range(2))


def test_bounds_hold():
    bounds = {"strength": (0.0, 0.05), "frequency": (500.0, 900.0), "epsilon_inf": (2.5, 2.6)}
    mineral = fit_dispersion(CLEAN[3].astype(np.float32), BANDS, axes=(1,), bounds=bounds, **OPTIONS).dispersion
    for name, (low, high) in bounds.items():
        values = np.asarray(getattr(mineral, name))
        values = values[np.asarray(mineral.active)] if values.ndim == 2 else values
        assert low - 1e-4 <= values.min() <= values.max() <= high * (1 + 1e-5), name


def test_noise_beyond_the_unit_interval_is_flagged_and_progress_told():
    spectra = np.stack([CLEAN[0], CLEAN[0]]).astype(np.float32)
    spectra[1, 100] = 1.02
    seen = []
    fit = fit_dispersion(spectra, BANDS, axes=(1,), progress=lambda *a: seen.append(a), **OPTIONS)
    assert fit.outside.tolist() == [False, True]
    assert seen == [(1, 2), (2, 2)]


@pytest.mark.usefixtures("x64")
def test_float64_goes_to_rounding():
    fit = fit_dispersion(CLEAN[1], BANDS, axes=(1,), **OPTIONS)
    assert fit.mse.dtype == np.float64
    assert float(fit.mse) < 1e-20
    (frequency, damping, strength), _ = oscillators(jax.tree.map(lambda leaf: leaf[None], fit), 0)
    truth = np.array(MINERALS[1][1]).T
    strong = strength > 1e-6
    assert_close(np.stack([frequency, damping, strength])[:, strong], truth)


def test_near_infrared_needs_a_unit():
    waves = 15 * BANDS  # 6000 to 21000 cm⁻¹
    spectrum = oracle([(1.0, 2.3, [(12000.0, 0.03, 0.05)])], waves).astype(np.float32)
    with pytest.raises(ValueError, match=r"look like wavelengths in nm.*SpectralAxis"):
        fit_dispersion(spectrum, waves, axes=(1,), **OPTIONS)
    fit = fit_dispersion(spectrum, SpectralAxis(waves, unit="cm-1"), axes=(1,), **OPTIONS)
    strongest = np.argmax(np.where(fit.dispersion.active, fit.dispersion.strength, 0.0))
    assert abs(float(fit.dispersion.frequency[0, strongest]) - 12000.0) < 1.0
    assert float(fit.mse) < 1e-9


def test_least_linewidth_is_that_of_the_sampling_unless_given():
    truth = [(801.0, 1.5 / 801.0, 0.05), (950.0, 0.05, 0.3)]  # the first is narrower than 4 cm⁻¹
    spectrum = oracle([(1.0, 2.3, truth)]).astype(np.float32)
    whole, fine, coarse = (
        fit_dispersion(spectrum, BANDS, axes=(1,), linewidth=width, **OPTIONS) for width in (None, 0.5, 60.0)
    )
    for fit, least in ((whole, 4.0), (fine, 0.5), (coarse, 60.0)):
        active = np.asarray(fit.dispersion.active)
        widths = np.asarray(fit.dispersion.damping * fit.dispersion.frequency)[active]
        assert widths.min() >= least * (1 - 1e-5)
    assert float(whole.mse) > 1e-5
    assert float(fine.mse) < 1e-11
    (frequency, damping, _), _ = oscillators(jax.tree.map(lambda leaf: leaf[None], fine), 0)
    nearest = np.argmin(np.abs(frequency - 801.0))
    np.testing.assert_allclose(frequency[nearest], 801.0, atol=0.05)
    np.testing.assert_allclose(damping[nearest] * frequency[nearest], 1.5, rtol=0.01)


def small_problem():
    """A mineral of two axes with padding, and a target whose minimum is elsewhere, in float64."""
    mineral = from_axes([[520.0, 1080.0], [700.0]], [[0.05, 0.03], [0.04]], [[0.4, 0.3], [0.3]], [2.3, 2.4], [0.4, 0.6])
    low = from_axes([[340.0]], [[1e-6]], [[1e-7]], [1.0], [0.02])
    high = from_axes([[1610.0]], [[3.0]], [[30.0]], [8.0], [0.98])
    spectrum = jnp.asarray(TWO_AXES + 1e-3 * np.random.default_rng(0).standard_normal(len(BANDS)))
    zero = jnp.zeros(())
    return mineral, Target(
        jnp.asarray(BANDS), spectrum, jnp.ones(len(BANDS)), Box(low, high), jnp.asarray(4.0), zero, zero
    )


@pytest.mark.usefixtures("x64")
def test_covariance_is_the_inverse_of_the_curvature():
    mineral, target = small_problem()
    assert_close(flat(restore(flat(mineral), mineral)), flat(mineral))
    matrix, free = eqx.filter_jit(covariance)(mineral, target)
    chosen = np.array([0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14])  # all but padding (3, 7, 11) and the last weight

    def rendered(values):
        row = flat(mineral).at[chosen].set(values)
        return restore(row.at[15].set(1 - row[14]), mineral)(BANDS)

    slopes = jax.jit(jax.jacfwd(rendered))(flat(mineral)[chosen])
    expected = np.linalg.inv(np.asarray(slopes.T @ slopes))
    assert float(free) == len(chosen)
    scale = np.sqrt(np.diag(expected))
    np.testing.assert_allclose(
        np.asarray(matrix)[np.ix_(chosen, chosen)] / np.outer(scale, scale),
        expected / np.outer(scale, scale),
        atol=1e-6,
    )
    assert_close(matrix[15, 15], matrix[14, 14])
    assert_close(matrix[15, :15], -matrix[14, :15], scale=float(jnp.max(matrix)))
    assert not np.asarray(matrix)[[3, 7, 11]].any()


@pytest.mark.usefixtures("x64")
def test_refinement_never_loses_the_best_and_ends_at_a_minimum():
    mineral, target = small_problem()
    refined = eqx.filter_jit(refine)
    squares = [float(refined(mineral, target, jnp.asarray(steps))[1]) for steps in (0, 1, 2, 5, 10, 100)]
    assert squares == sorted(squares, reverse=True)
    best, last, cosine = refined(mineral, target, jnp.asarray(100))
    assert float(cosine) < 1e-4
    assert_close(last, np.sum((np.asarray(best(BANDS)) - np.asarray(target.spectrum)) ** 2))
    far = eqx.tree_at(lambda d: d.strength, mineral, mineral.strength * 20)
    assert float(refined(far, target, jnp.asarray(30))[1]) < float(refined(far, target, jnp.asarray(0))[1])


@pytest.mark.usefixtures("x64")
def test_close_oscillators_are_merged():
    twins = from_axes([[800.0, 803.0, 1200.0]], [[0.03, 0.03, 0.03]], [[0.2, 0.1, 0.3]], [2.3])
    _, target = small_problem()
    target = target._replace(spectrum=jnp.asarray(oracle([(1.0, 2.3, [(801.0, 0.03, 0.3), (1200.0, 0.03, 0.3)])])))
    left = eqx.filter_jit(lambda m: drop(m, weighted(m, target)[1], jax.random.key(0), jnp.zeros(()), 1))(twins)
    active = np.asarray(left.active[0, 0])
    assert active.sum() == 2
    assert active[2]
    assert_close(np.asarray(left.strength[0, 0])[active].sum(), 0.6)


GOOD = CLEAN[0].astype(np.float32)
BAD = {
    "wavelength in um": ((GOOD, 1e4 / BANDS[::-1]), {}, "µm"),
    "wavelength in nm": ((GOOD, 1e7 / BANDS[::-1]), {}, "nm"),
    "descending": ((GOOD[::-1], BANDS[::-1]), {}, "descends"),
    "lengths differ": ((GOOD[:-1], BANDS), {}, "251 wavenumbers"),
    "per cent": ((100 * GOOD, BANDS), {}, "emissivity is between 0 and 1"),
    "all masked": ((GOOD, BANDS), {"weights": np.zeros(251)}, "1 of 1 spectra have no good band"),
    "all NaN": ((np.stack([GOOD, np.nan * GOOD]), BANDS), {}, "1 of 2 spectra have no good band"),
    "negative weights": ((GOOD, BANDS), {"weights": -np.ones(251)}, "not below zero"),
    "shape of weights": ((GOOD, BANDS), {"weights": np.ones(7)}, "weights have shape"),
    "few bands": ((GOOD[:4], BANDS[:4]), {}, "4 good bands are too few.* 9 parameters need at least 11 bands"),
    "one band": ((GOOD[:1], BANDS[:1]), {}, "1 good bands are too few"),
    "many oscillators": ((GOOD, BANDS), {"count": 60}, "251 good bands are too few for 2 axes of 60"),
    "no oscillator": ((GOOD, BANDS), {"count": 0}, "count must be at least 1"),
    "no axis": ((GOOD, BANDS), {"axes": ()}, "numbers of crystal axes"),
    "no start": ((GOOD, BANDS), {"starts": 0}, "starts must be at least 1"),
    "weights low": ((GOOD, BANDS), {"bounds": {"weights": (0.6, 0.9)}}, r"\(0.6, 0.9\) leave no 2 weights"),
    "weights high": ((GOOD, BANDS), {"bounds": {"weights": (0.1, 0.4)}}, r"\(0.1, 0.4\) leave no 2 weights"),
    "narrow": ((GOOD, BANDS), {"bounds": {"damping": (1e-6, 0.01)}}, "3.4 cm⁻¹, below the least linewidth of 4 cm⁻¹"),
    "start": ((GOOD, BANDS), {"start": "somewhere"}, "'curvature' or 'many'"),
    "l1": ((GOOD, BANDS), {"l1": -1.0}, "l1 must not be negative"),
    "penalty": ((GOOD, BANDS), {"penalty": -1.0}, "penalty"),
    "bounds": ((GOOD, BANDS), {"bounds": {"gamma": (0, 1)}}, "bounds are for frequency"),
    "linewidth": ((GOOD, BANDS), {"linewidth": 0.0}, "least linewidth must be above zero"),
    "negative linewidth": ((GOOD, BANDS), {"linewidth": -4.0}, "least linewidth must be above zero"),
    "empty box": ((GOOD, BANDS), {"bounds": {"damping": (1.0, 0.5)}}, "bounds of damping"),
    "no spectrum": ((np.zeros((0, 251), np.float32), BANDS), {}, "no spectrum"),
}


@pytest.mark.parametrize("name", BAD)
def test_refuses(name):
    arguments, options, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        fit_dispersion(*arguments, **options)


WRONG_TYPE = {
    "complex": ((GOOD + 0j, BANDS), {}, "real, got complex64"),
    "broken start": ((GOOD, BANDS), {"starts": 2.0}, "starts must be a whole number, got 2.0"),
    "broken count": ((GOOD, BANDS), {"count": 2.5}, "count must be a whole number, got 2.5"),
    "broken axis": ((GOOD, BANDS), {"axes": (1.7,)}, r"numbers of crystal axes to try.*\(1.7,\)"),
    "one bound": ((GOOD, BANDS), {"bounds": {"damping": 3}}, "bounds of damping are .*got 3"),
}


@pytest.mark.parametrize("name", WRONG_TYPE)
def test_refuses_without_the_shape_checks_of_the_tests(name):
    arguments, options, message = WRONG_TYPE[name]
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(fit_dispersion)(*arguments, **options)
