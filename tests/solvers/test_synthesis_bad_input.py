"""Unmixing with endmembers that vary, input as it comes: refused in words, masked, or solved and flagged.

Libraries of one shape, all with a mask of good bands, share what is compiled.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from helpers import assert_close
from solvers.cases import oracle
from solvers.varied import BANDS, NODATA, NOISE, SOLVERS, minerals, scaled, unmix

from unmix_jax.physics.box import Box, box_around
from unmix_jax.physics.variation import DispersionVariation, ScaleSlopeShift
from unmix_jax.solvers.least_squares import fcls
from unmix_jax.solvers.synthesis import alternating, map_synthesis, marginal, posterior, prepare_synthesis
from unmix_jax.solvers.synthesis_choice import held_out_rms
from unmix_jax.solvers.synthesis_simplex import frank_wolfe_gap

each_solver = pytest.mark.parametrize("solver", SOLVERS)
each_prepared = pytest.mark.parametrize("solver", [name for name in SOLVERS if name != "alternating"])
# In steps that float32 holds exactly, also after halving: what depends on others does so without rounding.
SPECTRA = np.round(np.array(scaled().endmembers) * 4096) / 4096


@pytest.fixture
def plain_calls(monkeypatch):
    """Without shape checks, as users call: the messages are for them."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def argument(solver, given):
    """What this solver takes in place of endmembers."""
    return given.generator if solver == "alternating" else given


def solved(solver, given, pixels):
    return unmix(eqx.Partial(SOLVERS[solver], endmembers=argument(solver, given)), pixels)


def check_simplex(found):
    assert np.isfinite(found.abundances).all()
    assert np.all(found.abundances >= 0)
    assert_close(found.abundances.sum(-1), np.ones(len(found.abundances), np.float32))


# Libraries that are hard to tell apart.

FLAT, BLACK = np.full(len(BANDS), 0.9375), np.ones(len(BANDS))
LIBRARIES = {  # spectra, whether abundances are unique, sums of them that are, and the least share that is certified
    "plain": ([*SPECTRA], True, np.eye(5), 0.7),
    "zero contrast": ([*SPECTRA[:4], FLAT], True, np.eye(5), 0.7),
    "blackbody": ([*SPECTRA[:4], BLACK], True, np.eye(5), 0.7),
    "duplicate": ([*SPECTRA[:4], SPECTRA[0]], False, [[1, 0, 0, 0, 1], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0]], 0.2),
    "affine": ([*SPECTRA[:3], BLACK, 0.5 + 0.5 * SPECTRA[0]], False, [[0, 1, 0, 0, 0], [0, 0, 1, 0, 0]], 0.2),
    "all at once": ([*SPECTRA[:2], BLACK, SPECTRA[0], 0.5 + 0.5 * SPECTRA[1]], False, [[1, 0, 0, 1, 0]], 0.5),
}
GOOD = np.arange(len(BANDS)) != 40
FEW = np.isin(np.arange(len(BANDS)), (10, 30, 52))


@functools.cache
def problem(name, width=1.0, few=False, **options):
    generator = ScaleSlopeShift(
        np.array(LIBRARIES[name][0], np.float32), scale=0.05 * width, slope=0.05 * width, shift=0.3 * width, level=1.0
    )
    given = {"noise": NOISE, "rank": 40, "samples": 64, "good_bands": FEW if few else GOOD}
    return prepare_synthesis(generator, **given | options)


def mixtures(name, noise=5e-4, count=48):
    """Of the library at rest, in part of all endmembers."""
    rng = np.random.default_rng(2)
    truth = rng.dirichlet(np.ones(5), count)
    spectra = truth @ np.array(LIBRARIES[name][0]) + noise * rng.normal(size=(count, len(BANDS)))
    return spectra.astype(np.float32), truth


@pytest.mark.parametrize("name", LIBRARIES)
@each_solver
def test_zero_contrast_duplicate_and_collinear_endmembers(solver, name):
    _, unique, sums, certified = LIBRARIES[name]
    pixels, truth = mixtures(name)
    found = solved(solver, problem(name), pixels)
    check_simplex(found)
    assert np.abs((found.abundances - truth) @ np.transpose(sums)).mean() < 0.08
    if solver == "alternating":
        assert np.isfinite(found.fitted["displacement"]).all()
        assert found.residual.max() < 2 * NOISE
    else:
        assert np.isfinite(found.covariance).all()
        assert np.all(found.unique == unique)
        assert found.fitted["chi2"].max() < 2
        if solver == "posterior":  # forty sweeps are too few for means and deviations, and it says so
            small = found.fitted["presence_error"].max(1) <= 0.025
            assert not np.any(found.converged & ~small)
        else:
            assert found.converged.mean() > certified  # float32 cannot for the others, and says so


@each_solver
def test_more_endmembers_than_bands(solver):
    """Three bands count, fewer than the rank as well; for `alternating` the others are the same in all endmembers."""
    pixels, _ = mixtures("plain")
    given = problem("plain", few=True)
    if solver == "alternating":
        given = eqx.tree_at(lambda p: p.generator.endmembers, given, jnp.where(FEW, given.generator.endmembers, 1.0))
        pixels = np.where(FEW, pixels, np.float32(1))
    found = solved(solver, given, pixels)
    check_simplex(found)
    assert found.residual.max() < 2 * NOISE
    if solver != "alternating":
        assert int(given.bands) == 3
        assert not found.unique.any()
        assert np.isfinite(found.covariance).all()


@functools.cache
def alone():
    spectra = SPECTRA[:1, ::7].astype(np.float32)
    return prepare_synthesis(ScaleSlopeShift(spectra, scale=0.05, level=1.0), noise=NOISE, rank=40, samples=64)


@each_solver
def test_one_endmember_takes_all(solver):
    rng = np.random.default_rng(3)
    pixels = SPECTRA[0, ::7] + NOISE * rng.normal(size=(8, 12))
    pixels[7] += 0.1 * np.cos(np.arange(12))
    found = solved(solver, alone(), pixels.astype(np.float32))
    assert np.array_equal(found.abundances, np.ones((8, 1)))
    assert np.all(found.residual[:7] < 2 * NOISE)
    assert found.residual[7] > 10 * NOISE
    assert found.converged.mean() > (0.8 if solver == "map" else 0.99)  # six steps are few
    if solver != "alternating":
        assert found.unique.all()
        np.testing.assert_allclose(found.covariance, 0, atol=1e-6)


# Nothing varies.


@pytest.mark.parametrize("options", [{"width": 0.0}, {"prior": 0.0}], ids=["no width", "no prior"])
@pytest.mark.parametrize("solver", ["marginal", "map"])
def test_tolerance_zero_is_fcls_exactly(solver, options):
    """`test_synthesis` has the same of minerals."""
    pixels, _ = mixtures("plain")
    still = problem("plain", **options)
    found = solved(solver, still, pixels)
    exact = unmix(eqx.Partial(fcls, endmembers=still.library), pixels)
    assert np.array_equal(found.abundances, exact.abundances)
    assert np.array_equal(found.residual, exact.residual)
    assert found.converged.all()


def test_alternating_in_a_box_without_width_is_fcls():
    pixels, _ = mixtures("plain")
    still = problem("plain", width=0.0)
    found = solved("alternating", still, pixels)
    spectra = np.asarray(still.generator.endmembers, float)
    exact = oracle("fcls", pixels, spectra)
    np.testing.assert_allclose(found.abundances, exact, atol=2e-5)
    np.testing.assert_allclose(found.residual, np.sqrt(np.mean((pixels - exact @ spectra) ** 2, 1)), rtol=1e-3)
    assert np.array_equal(found.fitted["displacement"], np.zeros((len(pixels), 5, 3)))
    np.testing.assert_allclose(np.diff(found.fitted["history"], axis=1), 0, atol=1e-9)


def test_the_posterior_of_endmembers_that_are_held_is_that_of_a_quadrature():
    """Two endmembers: both are half as probable as one, which may be either; so all three sets are equally so."""
    wide = 60 * NOISE
    held = prepare_synthesis(ScaleSlopeShift(SPECTRA[:2]), noise=wide, prior=0.0, rank=40, samples=16)
    both = np.asarray(held.library.endmembers, float)
    share = (np.arange(4000) + 0.5) / 4000
    points = np.concatenate([[1.0, 0.0], share])
    prior = np.concatenate([[1.0, 1.0], np.full(4000, 1 / 4000)])
    pixels = np.array([[0.5, 0.5], [0.15, 0.85], [0.97, 0.03]]) @ both
    solve = jax.jit(jax.vmap(functools.partial(posterior, sweeps=20_000), (0, None)))
    found = solve(jnp.asarray(pixels, jnp.float32), held)
    for n, pixel in enumerate(pixels):
        error = pixel - np.stack([points, 1 - points], 1) @ both
        mass = prior * np.exp(-0.5 * np.sum((error / wide) ** 2, 1))
        mass /= mass.sum()
        mean = mass @ points
        np.testing.assert_allclose(found.abundances[n], [mean, 1 - mean], atol=0.015)
        np.testing.assert_allclose(found.covariance[n, 0, 0], mass @ (points - mean) ** 2, atol=0.01)
        np.testing.assert_allclose(found.fitted["presence"][n], [1 - mass[1], 1 - mass[0]], atol=0.02)
        residual = np.sqrt(np.mean((pixel - np.asarray(found.abundances[n]) @ both) ** 2))
        np.testing.assert_allclose(found.residual[n], residual, rtol=1e-3, atol=1e-6)


# Pixels.


@each_solver
def test_a_spectrum_that_the_library_cannot_render_is_flagged(solver):
    """`test_synthesis` has the same of minerals."""
    pixels, _ = mixtures("plain", noise=NOISE, count=12)
    alien = pixels + 0.1 * np.sin(np.arange(len(BANDS), dtype=np.float32))
    found = solved(solver, problem("plain"), np.concatenate([pixels, alien]))
    assert np.all(found.residual[12:] > 10 * found.residual[:12])
    if solver != "alternating":
        assert np.all(found.fitted["chi2"][:12] < 2)
        assert np.all(found.fitted["chi2"][12:] > 10)


@functools.cache
def clean(solver):
    return solved(solver, problem("plain"), mixtures("plain", count=16)[0])


@each_solver
def test_missing_infinite_and_black_pixels_are_masked_and_disturb_nobody(solver):
    """Bands are missing here and there: NaN in one pixel, the no-data value in the same band of another."""
    pixels = mixtures("plain", count=16)[0]
    pixels[1, 4], pixels[4, 4], pixels[7, :] = np.nan, NODATA, NODATA
    pixels[9], pixels[11, 80], pixels[12, 0], pixels[13] = 0, np.inf, -np.inf, np.nan
    spoilt = np.isin(np.arange(16), [1, 4, 7, 9, 11, 12, 13])
    found = solved(solver, problem("plain"), pixels)
    assert np.isnan(found.abundances[spoilt]).all()
    assert np.isnan(found.residual[spoilt]).all()
    assert not found.converged[spoilt].any()
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[~spoilt], b[~spoilt]), found, clean(solver))
    assert np.isfinite(found.abundances[~spoilt]).all()


@each_prepared
def test_a_pixel_too_large_for_its_precision_is_not_converged(solver):
    """The squared error overflows: no certificate can be had, and there is none."""
    pixels = mixtures("plain", count=16)[0]
    pixels[5] *= 1e17
    found = solved(solver, problem("plain"), pixels)
    assert not found.converged[5]
    others = np.arange(16) != 5
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[others], b[others]), found, clean(solver))


def test_no_certificate_for_what_is_not_finite():
    rows, share = jnp.eye(3), jnp.array([1.0, 0.0, 0.0])
    for bad in (np.nan, np.inf, 1e30):
        assert np.isnan(frank_wolfe_gap(rows, jnp.array([0.1, 0.2, bad]), share))
    assert frank_wolfe_gap(rows, jnp.zeros(3), share) == 0
    assert frank_wolfe_gap(rows, share, share) == 0


def test_a_pixel_that_is_not_finite_is_not_converged_where_nobody_masks():
    """Under `jax.vmap`, without `unmix`; all zero is a pixel as any."""
    pixels = np.repeat(np.asarray(alone().library.endmembers), 4, 0)
    pixels[1, 2], pixels[2, 3], pixels[3] = np.nan, np.inf, 0
    found = jax.jit(jax.vmap(marginal, (0, None)))(pixels, alone())
    assert np.array_equal(found.converged, [True, False, False, True])
    assert not np.isfinite(found.residual[1:3]).any()


@each_solver
def test_integers_and_float64_are_taken_as_float32(solver):
    pixels = np.round(3 * mixtures("plain", count=16)[0])
    assert len(np.unique(pixels)) > 1
    single, double, integer = (
        solved(solver, problem("plain"), pixels.astype(dtype)) for dtype in (np.float32, np.float64, np.int16)
    )
    assert single.abundances.dtype == np.float32
    check_simplex(single)
    for other in (double, integer):
        jax.tree.map(np.testing.assert_array_equal, other, single)


def single():
    with jax.enable_x64(False):
        return problem("plain")


@functools.cache
def double():
    with jax.enable_x64(True):
        return prepare_synthesis(ScaleSlopeShift(SPECTRA.astype(float)), noise=NOISE, rank=40, samples=16)


@pytest.mark.usefixtures("plain_calls", "x64")
@each_solver
def test_the_precision_is_that_of_the_endmembers(solver):
    """Traced only: what would fail for its dtype fails there."""
    for given, dtype, wanted in (
        (single(), np.float64, np.float32),
        (single(), np.int32, np.float32),
        (double(), np.float32, np.float64),
    ):
        pixel = jax.ShapeDtypeStruct((len(BANDS),), dtype)
        found = jax.eval_shape(lambda pixel, p=given: SOLVERS[solver](pixel, argument(solver, p)), pixel)
        for leaf in (found.abundances, found.residual, found.gap):
            assert leaf.dtype == wanted


@each_solver
def test_no_pixels(solver):
    none = np.zeros((0, len(BANDS)), np.float32)
    with pytest.raises(ValueError, match="not empty"):
        solved(solver, problem("plain"), none)
    batch = jax.vmap(lambda pixel: SOLVERS[solver](pixel, argument(solver, problem("plain"))))
    assert jax.eval_shape(batch, none).abundances.shape == (0, 5)


@pytest.mark.usefixtures("plain_calls")
@each_solver
def test_pixels_of_another_shape_are_refused(solver):
    given = argument(solver, problem("plain"))
    with pytest.raises(ValueError, match="endmembers have 81 bands, pixels have 7"):
        SOLVERS[solver](jnp.ones(7), given)
    with pytest.raises(ValueError, match=r"one pixel is \[band\], got shape \(4, 81\); use unmix"):
        SOLVERS[solver](jnp.ones((4, 81)), given)
    with pytest.raises(ValueError, match=r"one pixel is \[band\], got shape \(\)"):
        SOLVERS[solver](jnp.ones(()), given)
    with pytest.raises(ValueError, match="endmembers have 81 bands, pixels have 80"):
        solved(solver, problem("plain"), np.ones((3, 80), np.float32))


# Options.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": 0.0}, "noise is a standard deviation"),
        ({"noise": -NOISE}, "noise is a standard deviation"),
        ({"noise": np.nan}, "noise is a standard deviation"),
        ({"noise": np.inf}, "noise is a standard deviation"),
        ({"noise": np.where(np.arange(81) == 7, np.nan, NOISE)}, "noise is a standard deviation"),
        ({"noise": np.ones(3)}, "noise has shape"),
        ({"prior": -1.0}, "not below zero"),
        ({"prior": np.nan}, "finite and not below zero"),
        ({"prior": np.inf}, "finite and not below zero"),
        ({"prior": np.ones((5, 2))}, r"prior has shape \(5, 2\), the displacements \(5, 3\)"),
        ({"prior": np.ones(3)}, r"prior has shape \(3,\), the displacements \(5, 3\)"),
        ({"rank": 2}, "cannot hold 5 endmembers"),
        ({"samples": 1}, "two samples or more"),
        ({"good_bands": np.ones(4, bool)}, "good_bands has shape"),
        ({"good_bands": np.zeros(81, bool)}, "leaves no band to look at"),
        ({"baseline": -1}, "baseline degree -1"),
        ({"baseline": np.ones((2, 80))}, r"baseline columns have shape \(2, 80\), the endmembers 81 bands"),
    ],
)
@pytest.mark.usefixtures("plain_calls")
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        prepare_synthesis(scaled(), **{"noise": NOISE, "rank": 40, "samples": 16, **options})


CALLS = {
    "reweightings must be positive, got 0": lambda y, p: marginal(y, p, reweightings=0),
    "20 sweeps or more, got 3": lambda y, p: posterior(y, p, sweeps=3),
    "odds are finite and above zero, got 0.0": lambda y, p: posterior(y, p, odds=0.0),
    "odds are finite and above zero, got nan": lambda y, p: posterior(y, p, odds=np.nan),
    "steps must be positive, got 0": lambda y, p: alternating(y, p.generator, steps=0),
    "moving must be positive, got 0": lambda y, p: alternating(y, p.generator, moving=0),
    "members must be positive and max_steps not below zero, got 0 and 24": lambda y, p: map_synthesis(y, p, members=0),
    "not below zero, got 12 and -1": lambda y, p: map_synthesis(y, p, max_steps=-1),
    r"start has shape \(3, 5\), the displacements \(5, 3\)": lambda y, p: map_synthesis(y, p, start=jnp.zeros((3, 5))),
    r"start has shape \(15,\), the displacements \(5, 3\)": lambda y, p: map_synthesis(y, p, start=jnp.zeros(15)),
    r"start has shape \(4, 3\), the displacements \(5, 3\)": lambda y, p: alternating(
        y, p.generator, start=jnp.zeros((4, 3))
    ),
    r"start has shape \(\), the displacements \(5, 3\)": lambda y, p: alternating(y, p.generator, start=jnp.zeros(())),
    "held_out is empty": lambda y, p: held_out_rms(marginal, (), np.ones((1, 81))),
}


@pytest.mark.usefixtures("plain_calls")
@pytest.mark.parametrize("message", CALLS)
def test_bad_calls_are_refused(message):
    given = problem("plain")
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda pixel: CALLS[message](pixel, given), jnp.ones(len(BANDS)))


# Generators.


def test_contradictory_bounds_are_counted():
    library = minerals().library
    box = box_around(library, frequency=0.01, damping=0.0, strength=0.0, epsilon_inf=0.0, weights=0.0)
    oscillators = int(np.asarray(library.active).sum())
    assert oscillators == 17
    with pytest.raises(ValueError, match="17 lower bounds lie above the upper ones"):
        DispersionVariation(library, Box(box.upper, box.lower), BANDS)
    one = eqx.tree_at(lambda b: b.lower.damping, box, box.lower.damping.at[1, 0, 2].set(jnp.nan))
    with pytest.raises(ValueError, match="1 lower bounds lie above the upper ones"):
        DispersionVariation(library, one, BANDS)
    moved = eqx.tree_at(lambda d: d.frequency, library, library.frequency.at[:2, 0, 0].multiply(1.02))
    with pytest.raises(ValueError, match="outside of its box in 2 parameters"):
        DispersionVariation(moved, box, BANDS)


@pytest.mark.parametrize("option", ["scale", "slope", "shift"])
@pytest.mark.parametrize("value", [-0.1, np.nan, np.inf])
def test_ranges_are_finite_and_not_negative(option, value):
    with pytest.raises(ValueError, match="finite and not below zero"):
        ScaleSlopeShift(SPECTRA, **{option: value})


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_spectra_that_are_not_finite_are_refused(value):
    spoilt = SPECTRA.copy()
    spoilt[2, 30] = value
    with pytest.raises(ValueError, match="endmembers hold NaN or infinite values in bands that count"):
        prepare_synthesis(ScaleSlopeShift(spoilt), noise=NOISE, rank=40, samples=16)


def test_a_mineral_without_contrast_has_derivatives():
    """A blackbody as a mineral: oscillators without strength, permittivity one, and yet a box."""
    library = minerals().library
    library = eqx.tree_at(
        lambda d: (d.strength, d.epsilon_inf),
        library,
        (library.strength.at[4].set(0.0), library.epsilon_inf.at[4].set(1)),
    )
    box = box_around(library, frequency=0.01, damping=0.05, strength=0.05, epsilon_inf=0.0, weights=0.0)
    generator = DispersionVariation(library, box, BANDS)
    slope = jax.jit(jax.grad(lambda u: jnp.sum(generator(u)[4])))(jnp.zeros(generator.free.shape))
    assert np.array_equal(slope, np.zeros(generator.free.shape))
    given = prepare_synthesis(generator, noise=NOISE, rank=40, samples=256)
    assert_close(given.library.endmembers[4], BLACK)
    for leaf in (given.mean, given.covariance, given.slopes, given.lift):
        assert np.isfinite(leaf).all()
