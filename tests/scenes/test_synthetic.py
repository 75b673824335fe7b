"""Simulated mixtures: the laws that abundances and spectra are said to follow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close
from scipy import stats

from unmix_jax.physics.hapke import Hapke
from unmix_jax.physics.mixing import GBM, MLM, PPNM, Fan, Linear
from unmix_jax.physics.sensor import response
from unmix_jax.physics.variation import ScaleSlopeShift
from unmix_jax.scenes.synthetic import abundance_field, draw_abundances, synthesize

KEY = jax.random.key(8)
DRAW = np.random.default_rng(8)
ENDMEMBERS = DRAW.uniform(0.05, 0.9, (4, 25)).astype(np.float32)
LAWS = {  # what is asked of four endmembers, and the least and greatest abundance of those that are there
    "all": ({}, 0.0, 1.0),
    "two": ({"materials": 2}, 0.0, 1.0),
    "one": ({"materials": 1}, 1.0, 1.0),
    "one to three": ({"materials": (1, 2, 3)}, 0.0, 1.0),
    "floor": ({"materials": (2, 4), "floor": 0.05}, 0.05, 0.95),
    "cap": ({"materials": (3, 4), "cap": 0.5}, 0.0, 0.5),
    "both": ({"floor": 0.1, "cap": 0.4}, 0.1, 0.4),
    "hopeless cap": ({"cap": 0.251}, 0.247, 0.251),
    "pure": ({"concentration": 0.1}, 0.0, 1.0),
}


@pytest.mark.parametrize("name", LAWS)
def test_abundances_lie_between_floor_and_cap_and_sum_to_one(name):
    options, least, most = LAWS[name]
    count = 300 if name == "hopeless cap" else 3000  # each of which is drawn as often as may be
    found = np.asarray(draw_abundances(KEY, count, 4, **options))
    there = found > 0
    assert np.isfinite(found).all()
    assert_close(found.sum(1), np.ones(count))
    assert found[there].min() >= least - 1e-6
    assert found.max() <= most + 1e-6
    wanted = np.atleast_1d(options.get("materials", 4))
    if "concentration" not in options:
        numbers, times = np.unique(there.sum(1), return_counts=True)
        assert np.array_equal(numbers, wanted)
        assert stats.chisquare(times).pvalue > 1e-6 if len(wanted) > 1 else True
    assert stats.chisquare(there.sum(0)).pvalue > 1e-6


@pytest.mark.parametrize(("concentration", "floor"), [(1.0, 0.0), (0.3, 0.0), (5.0, 0.1)])
def test_each_abundance_has_the_marginal_of_dirichlet(concentration, floor):
    found = np.asarray(draw_abundances(KEY, 4000, 4, concentration=concentration, floor=floor), float)
    law = stats.beta(concentration, 3 * concentration, loc=floor, scale=1 - 4 * floor)
    for column in found.T:
        assert stats.kstest(column, law.cdf).pvalue > 1e-6


def test_a_cap_leaves_the_law_as_it_is_below():
    """Of the uniform law, by drawing and throwing away."""
    kept = DRAW.dirichlet(np.ones(4), 40_000)
    kept = kept[kept.max(1) <= 0.6]
    found = np.asarray(draw_abundances(KEY, 4000, 4, cap=0.6))
    assert stats.ks_2samp(found[:, 0], kept[:, 0]).pvalue > 1e-6
    assert stats.ks_2samp(found.max(1), kept.max(1)).pvalue > 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"materials": 5}, "between 1 and the 4 endmembers, got [5]"),
        ({"materials": (0, 2)}, "got [0, 2]"),
        ({"floor": 0.3}, "floor 0.3 and cap 1 leave no abundances of [4] materials"),
        ({"floor": -0.1}, "leave no abundances"),
        ({"cap": 0.5, "materials": 2}, "floor 0 and cap 0.5 leave no"),
        ({"concentration": 0.0}, "concentration must be positive"),
    ],
)
def test_laws_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message.replace("[", r"\[").replace("]", r"\]")):
        draw_abundances(KEY, 10, 4, **options)
    with pytest.raises(ValueError, match="must be positive, got 0 and 4"):
        draw_abundances(KEY, 0, 4)


def test_a_field_is_as_smooth_and_as_strong_as_it_says():
    """Differences of the logarithms of two abundances are a Gaussian field of twice the variance."""
    draws = jax.jit(jax.vmap(lambda key: abundance_field(key, 30, 12, 3, length=3.0, contrast=2.0)))
    found = np.asarray(draws(jax.random.split(KEY, 600)), float)
    assert_close(found.sum(-1), np.ones(found.shape[:-1]), scale=10)
    logs = np.log(found[..., 0] / found[..., 1])
    for corner in (logs[:, 0, 0], logs[:, 15, 6], logs[:, 29, 11]):  # the border as the middle
        assert abs(corner.var() / 8 - 1) < 0.3
        assert abs(corner.mean()) < 0.6
    for apart in (1, 3, 6):
        expected = np.exp(-(apart**2) / (4 * 9))
        assert abs(np.mean(logs[:, 0, 5] * logs[:, apart, 5]) / 8 - expected) < 0.25
    with pytest.raises(ValueError, match="length must be positive"):
        abundance_field(KEY, 4, 4, 2, length=0.0)


@pytest.mark.parametrize("mixing", [None, Linear(), Fan(), GBM(jnp.full(6, 0.5)), PPNM(jnp.asarray(0.2)), Hapke()])
def test_spectra_are_those_of_the_model(mixing):
    abundances = draw_abundances(KEY, 9, 4)
    found = synthesize(KEY, ENDMEMBERS, abundances, mixing=mixing)
    model = Linear() if mixing is None else mixing
    assert_close(found.spectra, jax.jit(jax.vmap(lambda a: model(a, jnp.asarray(ENDMEMBERS))))(abundances))
    assert np.array_equal(found.clean, found.spectra)


def test_each_pixel_may_draw_its_own_model_and_endmembers():
    abundances = draw_abundances(KEY, 600, 4)

    def drawn(key):
        return MLM(jax.random.uniform(key, maxval=0.5))

    found = synthesize(KEY, ENDMEMBERS, abundances, mixing=drawn)
    assert found.mixing.probability.shape == (600,)
    assert stats.kstest(found.mixing.probability, stats.uniform(0, 0.5).cdf).pvalue > 1e-6
    assert_close(found.clean, jax.vmap(lambda m, a: m(a, jnp.asarray(ENDMEMBERS)))(found.mixing, abundances))

    generator = ScaleSlopeShift(ENDMEMBERS, scale=0.2, slope=0.0, shift=0.0)
    varied = synthesize(KEY, generator, jnp.eye(4)[jnp.zeros(600, int)])
    scales = np.asarray(varied.clean / ENDMEMBERS[0])[:, 3]
    assert stats.kstest(scales, stats.uniform(0.8, 0.4).cdf).pvalue > 1e-6

    def grains(key):
        return jnp.asarray(ENDMEMBERS) * jnp.exp(0.1 * jax.random.normal(key, (4, 1)))

    factors = np.log(np.asarray(synthesize(KEY, grains, jnp.eye(4)[jnp.ones(600, int)]).clean)[:, 5] / ENDMEMBERS[1, 5])
    assert stats.kstest(factors, stats.norm(0, 0.1).cdf).pvalue > 1e-6


def test_the_sensor_comes_after_the_mixing_and_the_noise_after_the_sensor():
    sensor = response(jnp.linspace(400.0, 1000.0, 25), jnp.linspace(450.0, 950.0, 6), jnp.full(6, 60.0))
    abundances = draw_abundances(KEY, 2000, 4)
    found = synthesize(KEY, ENDMEMBERS, abundances, mixing=Fan(), response=sensor, snr=30.0)
    sharp = synthesize(KEY, ENDMEMBERS, abundances, mixing=Fan()).clean
    assert_close(found.clean, sharp @ jnp.asarray(sensor).T)
    noise = np.asarray(found.spectra - found.clean)
    assert found.spectra.shape == (2000, 6)
    assert abs(10 * np.log10(np.mean(np.square(found.clean)) / np.mean(noise**2)) - 30) < 0.2
    bands = np.array([0.0, 1, 2, 3, 4, 5], np.float32) * 1e-3
    noise = synthesize(KEY, ENDMEMBERS, abundances, response=sensor, std=bands)
    np.testing.assert_allclose(np.std(noise.spectra - noise.clean, axis=0), bands, rtol=0.1, atol=1e-7)


def test_a_pixel_depends_on_its_number_alone():
    abundances = draw_abundances(KEY, 600, 4)
    assert np.array_equal(draw_abundances(KEY, 40, 4), abundances[:40])
    everything = {"mixing": lambda key: PPNM(jax.random.normal(key)), "std": 0.01}
    generator = ScaleSlopeShift(ENDMEMBERS, scale=0.2)
    whole = synthesize(KEY, generator, abundances, **everything)
    part = synthesize(KEY, generator, abundances[300:420], first_pixel=300, **everything)
    assert_close(part.spectra, whole.spectra[300:420])
    image = synthesize(KEY, generator, abundances.reshape(20, 30, 4), **everything)
    assert np.array_equal(image.spectra, whole.spectra)


def test_what_does_not_fit_is_refused():
    abundances = draw_abundances(KEY, 5, 4)
    with pytest.raises(ValueError, match="by snr or by std"):
        synthesize(KEY, ENDMEMBERS, abundances, snr=30.0, std=0.1)
    with pytest.raises(ValueError, match="there are 3 endmembers and abundances of 4"):
        synthesize(KEY, ENDMEMBERS[:3], abundances)
    with pytest.raises(ValueError, match=r"endmembers are \[endmember, band\]"):
        synthesize(KEY, ENDMEMBERS[0], abundances)
    with pytest.raises(ValueError, match="the response takes 7 bands, endmembers have 25"):
        synthesize(KEY, ENDMEMBERS, abundances, response=np.ones((3, 7), np.float32))
