"""Noise that bands share: covariance in place of a standard deviation."""

import equinox as eqx
import jax
import numpy as np
import pytest
from solvers.varied import BANDS, NOISE, minerals, prepared, rmse, scene, unmix

from unmix_jax.endmembers.identifiability import identifiability
from unmix_jax.physics.variation import linearise
from unmix_jax.scenes.noise import noise_covariance
from unmix_jax.solvers.least_squares import fcls
from unmix_jax.solvers.synthesis import marginal, prepare_synthesis
from unmix_jax.solvers.synthesis_simplex import whiten_rows

BROAD, LENGTH = 0.01, 60.0  # cm⁻¹
OPTIONS = {"rank": 40, "samples": 256}


def of(solver, problem, pixels):
    return unmix(eqx.Partial(solver, endmembers=problem), pixels)


def broad_covariance(broad=BROAD):
    return noise_covariance(BANDS, NOISE, broad=broad, length=LENGTH)


def bent(pixels):
    """Pixels with broad noise besides the independent one that they have."""
    rng = np.random.default_rng(3)
    factor = np.linalg.cholesky(broad_covariance() - NOISE**2 * np.eye(len(BANDS)) + 1e-12 * np.eye(len(BANDS)))
    return (pixels + rng.normal(size=pixels.shape) @ factor.T).astype(np.float32)


def test_a_diagonal_covariance_is_a_standard_deviation():
    pixels = scene("minerals")[0]
    std = NOISE * np.linspace(0.5, 2, len(BANDS))
    plain, full = (
        of(marginal, prepare_synthesis(minerals(), noise=n, **OPTIONS), pixels) for n in (std, np.diag(std**2))
    )
    np.testing.assert_allclose(full.abundances, plain.abundances, atol=2e-3)
    np.testing.assert_allclose(full.residual, plain.residual, rtol=1e-2)
    np.testing.assert_allclose(full.fitted["chi2"], plain.fitted["chi2"], rtol=1e-2)
    np.testing.assert_allclose(full.fitted["log_likelihood"], plain.fitted["log_likelihood"], atol=0.5)


def test_some_bands_tell_the_derivatives_of_all():
    """What `map_synthesis` steps by, where bands share noise."""
    generator = minerals()
    problem = prepare_synthesis(generator, noise=broad_covariance(), **OPTIONS)
    u = 0.5 * np.random.default_rng(0).uniform(-1, 1, generator.free.shape).astype(np.float32)
    slopes = jax.jit(linearise)(generator, u)[1] * problem.prior[..., None]
    whole = np.asarray(problem.reduce_slopes(slopes))
    told = np.asarray(slopes)[..., np.asarray(problem.sampled)] @ np.asarray(problem.lift)
    assert np.linalg.norm(told - whole) < 0.03 * np.linalg.norm(whole)


def test_known_broad_noise_is_weighed_and_the_likelihood_finds_it():
    pixels, truth, _ = scene("minerals", pixels=200)
    pixels = bent(pixels)
    found = {
        broad: of(marginal, prepare_synthesis(minerals(), noise=broad_covariance(broad), **OPTIONS), pixels)
        for broad in (BROAD / 3, BROAD, BROAD * 3)
    }
    blind = of(marginal, prepared("minerals"), pixels)
    told = found[BROAD]
    assert rmse(told.abundances, truth) < 0.8 * rmse(blind.abundances, truth)
    assert 0.9 < np.median(told.fitted["chi2"]) < 1.1
    assert np.median(blind.fitted["chi2"]) > 1.5
    likely = {broad: float(np.sum(f.fitted["log_likelihood"])) for broad, f in found.items()}
    assert max(likely, key=likely.get) == BROAD
    assert likely[BROAD] > float(np.sum(blind.fitted["log_likelihood"]))
    error, std = np.abs(told.abundances - truth), np.sqrt(np.diagonal(told.covariance, axis1=1, axis2=2))
    there = told.abundances > 0
    assert abs(np.mean(error[there] <= 2 * std[there]) - 0.954) < 0.05


def test_bounds_before_any_pixel_take_the_noise_along():
    std = NOISE * np.linspace(0.5, 2, len(BANDS))
    plain, full = (prepare_synthesis(minerals(), noise=n, **OPTIONS) for n in (std, np.diag(std**2)))
    np.testing.assert_allclose(identifiability(full).std, identifiability(plain).std, rtol=2e-2)
    broad = prepare_synthesis(minerals(0.0), noise=broad_covariance(), rank=len(BANDS), samples=2)
    spectra = np.asarray(broad.library.endmembers, float)
    plane = np.linalg.qr(np.eye(5) - 0.2)[0][:, :4]  # sums to zero
    information = plane.T @ spectra @ np.linalg.inv(broad_covariance()) @ spectra.T @ plane
    bound = np.sqrt(np.diag(plane @ np.linalg.inv(information) @ plane.T))
    np.testing.assert_allclose(identifiability(broad).std, bound, rtol=1e-2)


def test_held_endmembers_are_those_of_weighted_least_squares():
    pixels = bent(scene("minerals")[0])
    still = prepare_synthesis(minerals(0.0), noise=broad_covariance(), rank=40, samples=16)
    found, exact = of(marginal, still, pixels), of(fcls, still.library, pixels)
    assert np.array_equal(found.abundances, exact.abundances)
    inverse = np.linalg.inv(broad_covariance())
    error = pixels - found.abundances @ np.asarray(still.library.endmembers, float)
    gradient = np.einsum("eb,bc,pc->pe", np.asarray(still.library.endmembers, float), inverse, -error)
    slack = gradient - np.sum(gradient * found.abundances, 1, keepdims=True)
    assert np.all(slack > -1e-3 * np.abs(gradient).max())  # no abundance would lower the weighted error


def test_bands_that_do_not_count_do_not_count_here_either():
    pixels = scene("minerals")[0]
    good = np.ones(len(BANDS), bool)
    good[[0, 7, 40, 80]] = False
    covariance = np.where(good[:, None] & good, broad_covariance(), np.nan)
    problem = prepare_synthesis(minerals(), noise=covariance, good_bands=good, **OPTIONS)
    cut = np.ix_(good, good)
    spoiled = np.where(good, pixels, np.float32(55.0))
    one, other = of(marginal, problem, spoiled), of(marginal, problem, pixels)
    assert np.array_equal(one.abundances, other.abundances)
    assert np.isfinite(one.residual).all()
    root = np.linalg.cholesky(broad_covariance()[cut]).T  # from white noise to noise, in the bands that count
    np.testing.assert_allclose(np.asarray(problem.noise)[cut], root, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [1e1, 1e4, 1e6])
def test_whitening_by_a_covariance_far_above_the_noise(size):
    """A resonance narrower than its box changes a pixel by thousands of standard deviations; float32 has 7 digits."""
    rng = np.random.default_rng(0)
    strong = size * rng.normal(size=(20, 40)).astype(np.float32)
    rows = rng.normal(size=(3, 40)).astype(np.float32)
    white, factor = jax.jit(whiten_rows)(strong.T @ strong, rows)
    assert np.isfinite(white).all()
    assert np.isfinite(factor).all()
    known = np.float64(strong)
    exact = np.float64(rows) @ np.linalg.inv(np.eye(40) + known.T @ known) @ np.float64(rows).T
    if size < 1e3:
        np.testing.assert_allclose(white @ white.T, exact, rtol=2e-2, atol=1e-2)
    else:  # rounding is noise, of more than one: never more certain than the truth
        assert np.all(np.diag(white @ white.T) <= 1.1 * np.diag(exact))


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (np.full((len(BANDS), len(BANDS)), np.nan), "finite and symmetric"),
        (np.triu(np.ones((len(BANDS), len(BANDS)))), "finite and symmetric"),
        (-np.eye(len(BANDS)), "not positive definite"),
        (np.ones((3, 3)), "noise has shape"),
    ],
)
def test_what_is_no_covariance_is_refused(noise, message):
    with pytest.raises(ValueError, match=message):
        prepare_synthesis(minerals(), noise=noise, **OPTIONS)


def test_covariance_of_two_kinds_of_noise():
    position = np.array([1400.0, 1390.0, 400.0])  # any order
    made = noise_covariance(position, np.array([0.001, 0.002, 0.003]), broad=0.01, length=20.0)
    np.testing.assert_allclose(np.diag(made), np.array([1, 2, 3]) ** 2 * 1e-6 + 1e-4)
    np.testing.assert_allclose(made[0, 1], 1e-4 * np.exp(-0.5))
    assert made[0, 2] < 1e-20
    np.testing.assert_allclose(noise_covariance(position, 0.1, broad=0.0, length=1.0), 0.01 * np.eye(3))


@pytest.mark.parametrize(
    ("position", "noise", "options", "message"),
    [
        (np.ones((2, 2)), 0.1, {"broad": 0.1, "length": 1.0}, "one axis"),
        (np.ones(3), np.ones(2), {"broad": 0.1, "length": 1.0}, "one number or as many"),
        (np.ones(3), 0.0, {"broad": 0.1, "length": 1.0}, "above zero"),
        (np.array([1.0, np.nan]), 0.1, {"broad": 0.1, "length": 1.0}, "finite"),
        (np.ones(3), 0.1, {"broad": -0.1, "length": 1.0}, "not below zero"),
        (np.ones(3), 0.1, {"broad": 0.1, "length": 0.0}, "length above it"),
    ],
)
def test_noise_that_cannot_be_is_refused(position, noise, options, message):
    with pytest.raises(ValueError, match=message):
        noise_covariance(position, noise, **options)
