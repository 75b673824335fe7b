"""Evidence: the integral it stands for, simplicity where models fit alike, and what cannot be compared refused."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from unmix_jax.driver import unmix
from unmix_jax.physics.mixing import PPNM, SCLS, Fan, Linear
from unmix_jax.solvers.evidence import choose, laplace
from unmix_jax.solvers.inversion import invert, prepare_inversion
from unmix_jax.solvers.least_squares import fcls, prepare

in_float64 = pytest.mark.usefixtures("x64")

BANDS = 30
X = np.linspace(0, 1, BANDS)
ENDMEMBERS = np.stack([0.1 + 0.6 * X, 0.7 - 0.4 * X + 0.1 * np.sin(9 * X)])
NOISE = 0.01
SHARES = 0.5 + 0.5 * np.sin(np.linspace(-np.pi / 2, np.pi / 2, 40_001))  # dense at both ends


def bent(noise=NOISE):
    limits = (PPNM(jnp.asarray(-0.3)), PPNM(jnp.asarray(0.3)))
    return prepare_inversion(ENDMEMBERS, PPNM(jnp.asarray(0.0)), noise=noise, limits=limits)


def straight(noise=NOISE):
    return prepare_inversion(ENDMEMBERS, Linear(), noise=noise)


@eqx.filter_jit
def batch(problem, pixels):
    def one(pixel):
        solution = invert(pixel, problem)
        return laplace(pixel, problem, solution), solution

    return jax.vmap(one)(pixels)


def likely(spectra, pixel):
    """Log likelihood of rendered spectra."""
    squared = np.sum((spectra - pixel) ** 2, -1) / NOISE**2
    return -0.5 * squared - BANDS * np.log(NOISE * np.sqrt(2 * np.pi))


def integral(logarithms, steps):
    top = logarithms.max()
    return top + np.log(np.sum(np.exp(logarithms - top)) * steps)


def mixtures(shares, b=0.0, seed=1):
    linear = np.stack([shares, 1 - shares], 1) @ ENDMEMBERS
    return linear + b * linear**2 + NOISE * np.random.default_rng(seed).standard_normal((len(shares), BANDS))


@in_float64
def test_evidence_of_linear_mixtures_is_the_integral():
    # inside, on the bounds, and beyond them, where the best share is none
    pixels = mixtures(np.array([0.5, 0.03, 0.0, 1.0, 0.98, -0.05, 1.2]))
    found, _ = batch(straight(), pixels)
    for told, pixel in zip(np.asarray(found), pixels, strict=True):
        logarithms = likely(np.stack([SHARES, 1 - SHARES], 1) @ ENDMEMBERS, pixel)
        weights = np.gradient(SHARES)
        weights[[0, -1]] /= 2
        np.testing.assert_allclose(told, integral(logarithms + np.log(weights), 1), atol=1e-3)


@in_float64
def test_evidence_of_a_parameter_is_the_integral():
    pixels = mixtures(np.array([0.5, 0.2, 0.9]), b=0.1)
    pixels = np.concatenate([pixels, mixtures(np.array([0.5, 0.3, 0.7]), b=0.29, seed=2)])
    found, _ = batch(bent(), pixels)
    share, b = np.meshgrid(np.linspace(0, 1, 801), np.linspace(-0.3, 0.3, 401), indexing="ij")
    linear = np.stack([share.ravel(), 1 - share.ravel()], 1) @ ENDMEMBERS
    spectra = linear + b.ravel()[:, None] * linear**2
    for told, pixel in zip(np.asarray(found), pixels, strict=True):
        whole = integral(likely(spectra, pixel), 1 / 800 / 400)
        np.testing.assert_allclose(told, whole, atol=0.1)


@in_float64
def test_the_simpler_model_wins_where_both_fit_and_the_other_where_it_must():
    shares = np.random.default_rng(5).uniform(0.1, 0.9, 200)
    candidates = {
        "linear": eqx.Partial(invert, endmembers=straight()),
        "ppnm": eqx.Partial(invert, endmembers=bent()),
    }
    choice = choose(candidates, noise=NOISE)
    plain = unmix(choice, mixtures(shares), tile=200)
    curved = unmix(choice, mixtures(shares, b=0.25), tile=200)
    assert np.mean(plain.fitted.model == 0) > 0.85
    assert np.mean(curved.fitted.model == 1) > 0.95
    np.testing.assert_allclose(np.sum(plain.fitted.probability, 1), 1)
    # the solution is that of the winner
    alone = batch(straight(), mixtures(shares))[1].abundances
    won = np.asarray(plain.fitted.model) == 0
    np.testing.assert_allclose(np.asarray(plain.abundances)[won], np.asarray(alone)[won], atol=1e-12)
    # probabilities mean what they say: where the linear model is given p, it is right in p of all cases
    both = np.concatenate([plain.fitted.probability[:, 0], 1 - curved.fitted.probability[:, 0]])
    right = np.concatenate([plain.fitted.model == 0, curved.fitted.model == 1])
    assert abs(np.mean(both) - np.mean(right)) < 0.1


@in_float64
def test_bic_counts_parameters_of_any_unmixer():
    pixels = mixtures(np.linspace(0.1, 0.9, 20))
    pixels[1] = np.nan
    candidates = {
        "two": eqx.Partial(fcls, endmembers=prepare(ENDMEMBERS)),
        "linear": eqx.Partial(invert, endmembers=straight()),
    }
    found = unmix(choose(candidates, noise=NOISE, criterion="bic"), pixels, tile=20)
    residual = unmix(candidates["two"], pixels, tile=20).residual
    wanted = -0.5 * BANDS * (residual**2 / NOISE**2 + np.log(2 * np.pi * NOISE**2)) - 0.5 * np.log(BANDS)
    np.testing.assert_allclose(found.fitted.log_evidence, np.stack([wanted, wanted], 1))  # not a number without data
    assert np.isnan(found.abundances[1]).all()
    assert not found.converged[1]


@in_float64
def test_noise_may_be_unknown_to_all():
    pixels = mixtures(np.linspace(0.1, 0.9, 20))
    other = ENDMEMBERS + 0.1 * np.sin(5 * X)
    candidates = {
        "others": eqx.Partial(invert, endmembers=prepare_inversion(other, Linear())),
        "these": eqx.Partial(invert, endmembers=straight(None)),
    }
    found = unmix(choose(candidates), pixels, tile=20)
    assert np.all(found.fitted.model == 1)


WRONG = {
    "none": (lambda: choose({}), "got none"),
    "criterion": (lambda: choose({"a": fcls}, criterion="aic"), "'aic'"),
    "noise": (lambda: choose({"a": fcls}, noise=0.0), "above zero"),
    "unprepared": (
        lambda: choose({"a": eqx.Partial(invert, endmembers=ENDMEMBERS, mixing=Fan())}),
        "prepare_inversion",
    ),
    "known to one": (lambda: choose({"a": eqx.Partial(invert, endmembers=straight())}), "a knows"),
    "unknown to one": (lambda: choose({"a": eqx.Partial(invert, endmembers=straight(None))}, noise=0.1), "a knows"),
    "open-ended": (
        lambda: choose(
            {"a": eqx.Partial(invert, endmembers=prepare_inversion(ENDMEMBERS, SCLS(jnp.asarray(1.0)), noise=0.1))},
            noise=0.1,
        ),
        "neither two limits nor a prior",
    ),
    "abundances": (
        lambda: choose(
            {"a": eqx.Partial(fcls, endmembers=ENDMEMBERS), "b": eqx.Partial(fcls, endmembers=ENDMEMBERS[:1])}
        )(jnp.ones(BANDS)),
        "a 2, b 1",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_compared_is_refused(name, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    call, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        call()
