"""Evidence: the integral it stands for, simplicity where models fit alike, and what cannot be compared refused."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from scipy.special import logsumexp, softmax

from unmix_jax.driver import unmix
from unmix_jax.physics.mixing import MLM, PPNM, SCLS, Fan, Linear
from unmix_jax.solvers.evidence import choose, log_evidence
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
        return *log_evidence(pixel, problem, solution), solution

    return jax.vmap(one)(pixels)


def likely(spectra, pixel):
    """Log likelihood of rendered spectra."""
    squared = np.sum((spectra - pixel) ** 2, -1) / NOISE**2
    return -0.5 * squared - BANDS * np.log(NOISE * np.sqrt(2 * np.pi))


def integral(logarithms, steps):
    top = logarithms.max()
    return top + np.log(np.sum(np.exp(logarithms - top)) * steps)


def nodes(low, high, parts, order=8):
    """Gauss and Legendre's rule on parts of an interval."""
    x, w = np.polynomial.legendre.leggauss(order)
    edges = np.linspace(low, high, parts + 1)
    half = 0.5 * np.diff(edges)[:, None]
    return (edges[:-1, None] + half * (1 + x)).ravel(), (half * w).ravel()


def mixtures(shares, b=0.0, seed=1):
    linear = np.stack([shares, 1 - shares], 1) @ ENDMEMBERS
    return linear + b * linear**2 + NOISE * np.random.default_rng(seed).standard_normal((len(shares), BANDS))


@in_float64
def test_evidence_of_linear_mixtures_is_the_integral():
    # inside, on the bounds, and beyond them, where the best share is none
    pixels = mixtures(np.array([0.5, 0.03, 0.0, 1.0, 0.98, -0.05, 1.2]))
    found, error, _ = batch(straight(), pixels)
    assert np.max(error) < 2e-3
    for told, pixel in zip(np.asarray(found), pixels, strict=True):
        logarithms = likely(np.stack([SHARES, 1 - SHARES], 1) @ ENDMEMBERS, pixel)
        weights = np.gradient(SHARES)
        weights[[0, -1]] /= 2
        np.testing.assert_allclose(told, integral(logarithms + np.log(weights), 1), atol=3e-3)


@in_float64
def test_evidence_of_a_parameter_is_the_integral():
    pixels = mixtures(np.array([0.5, 0.2, 0.9]), b=0.1)
    pixels = np.concatenate([pixels, mixtures(np.array([0.5, 0.3, 0.7]), b=0.29, seed=2)])
    found, error, _ = batch(bent(), pixels)
    (x, w), (y, v) = nodes(0, 1, 60), nodes(-0.3, 0.3, 24)
    share, b = np.meshgrid(x, y, indexing="ij")
    weights = np.log(np.outer(w, v / 0.6).ravel())
    linear = np.stack([share.ravel(), 1 - share.ravel()], 1) @ ENDMEMBERS
    spectra = linear + b.ravel()[:, None] * linear**2
    assert np.max(error) < 0.02
    for told, pixel in zip(np.asarray(found), pixels, strict=True):
        whole = integral(likely(spectra, pixel) + weights, 1)
        np.testing.assert_allclose(told, whole, atol=0.02)


THREE = np.concatenate([ENDMEMBERS, [0.4 + 0.2 * np.cos(7 * X)]])
CANDIDATES = {  # what renders spectra of a parameter from linear mixtures and abundances, and its limits
    "linear": (Linear(), None, lambda s, _, p: s),
    "fan": (
        Fan(),
        None,
        lambda s, a, p: s + sum(a[:, [i]] * a[:, [j]] * THREE[i] * THREE[j] for i in range(3) for j in range(i)),
    ),
    "ppnm": (PPNM(jnp.asarray(0.0)), (-0.3, 0.3), lambda s, a, p: s + p * s**2),
    "mlm": (MLM(jnp.asarray(0.1)), (0.0, 0.9), lambda s, a, p: (1 - p) * s / (1 - p * s)),
}


@in_float64
@pytest.mark.parametrize("noise", [0.03, 0.1])
def test_probabilities_are_those_of_quadrature(noise):
    """Three endmembers, pixels in corners, on edges and inside, weak and strong noise; four models against each other.

    The probabilities are within 0.03, which the evidence of a Gaussian with its bounds taken one by one is not.
    """
    rng = np.random.default_rng(5)
    truth = rng.dirichlet(np.ones(3), 24) * (rng.random((24, 3)) < 0.7)
    truth[truth.sum(1) == 0, 0] = 1
    linear = truth / truth.sum(1, keepdims=True) @ THREE
    pixels = linear + rng.choice([0, 0.1, 0.29, -0.2], 24)[:, None] * linear**2
    pixels = pixels + noise * rng.standard_normal(pixels.shape)
    x, w = nodes(0, 1, 12)
    a, b = (v.ravel() for v in np.meshgrid(x, x, indexing="ij"))
    shares = np.stack([a, (1 - a) * b, (1 - a) * (1 - b)], -1)
    weights = 2 * np.outer(w, w).ravel() * (1 - a)
    exact, candidates = [], {}
    for name, (model, limits, rendered) in CANDIDATES.items():
        values, parts = np.zeros(1), np.ones(1)
        if limits is not None:  # dense at the low end, where P of pixels that are too bright has all its probability
            q, parts = nodes(0, 1, 10)
            values, parts = limits[0] + (limits[1] - limits[0]) * q**3, 3 * q**2 * parts
        logarithms = []
        for value, part in zip(values, parts, strict=True):
            spectra = rendered(shares @ THREE, shares, value)
            squared = np.sum(spectra**2, 1) - 2 * pixels @ spectra.T + np.sum(pixels**2, 1)[:, None]
            logarithms.append(-0.5 * squared / noise**2 + np.log(weights * part))
        exact.append(logsumexp(np.concatenate(logarithms, 1), 1) - BANDS * np.log(noise * np.sqrt(2 * np.pi)))
        bounds = {} if limits is None else {"limits": tuple(type(model)(jnp.asarray(v)) for v in limits)}
        problem = prepare_inversion(THREE, model, noise=noise, **bounds)
        candidates[name] = eqx.Partial(invert, endmembers=problem)
    found = unmix(choose(candidates, noise=noise), pixels, tile=24)
    exact = np.stack(exact, 1)
    # a second maximum of the bilinear model is not seen
    assert np.mean(np.abs(found.fitted.log_evidence - exact) < 4 * found.fitted.error + 0.03) > 0.97
    off = np.abs(found.fitted.probability - softmax(exact, 1)).max(1)
    assert np.max(off[np.asarray(found.converged)]) < 0.03
    assert np.mean(found.converged) > 0.9


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
    alone = batch(straight(), mixtures(shares))[2].abundances
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
