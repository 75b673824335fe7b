"""Networks learned from pure spectra: on the simplex, near the truth, honest about what is strange to them."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from unmix_jax.driver import unmix
from unmix_jax.networks import abundance
from unmix_jax.networks.abundance import Supervised, Whiten, learn_abundances
from unmix_jax.networks.mixtures import MixtureExamples, MixtureRecipe
from unmix_jax.solvers.least_squares import fcls

BANDS, STD = 20, 0.005
WAVE = np.linspace(0, 1, BANDS)
ENDMEMBERS = np.stack([0.3 + 0.4 * WAVE, 0.7 - 0.3 * WAVE**2, 0.5 + 0.2 * np.sin(9 * WAVE)]).astype(np.float32)
POWDERS = MixtureRecipe(("power",), grains=0.0, brightness=0.0, doubt=0.0)


def learn(endmembers=ENDMEMBERS, **options):
    return learn_abundances(
        jax.random.key(0), endmembers, **({"std": STD, "recipe": POWDERS, "steps": 400, "batch": 64} | options)
    )


@pytest.fixture(scope="module")
def unmixer():
    return learn(networks=2)


@pytest.fixture(scope="module")
def mixtures():
    examples = MixtureExamples(jnp.asarray(ENDMEMBERS), jnp.asarray(STD), POWDERS)
    return eqx.filter_jit(lambda key: examples(key, 1000))(jax.random.key(9))


def rms(values):
    return float(np.sqrt(np.mean(np.square(values))))


def test_better_than_the_wrong_model_and_than_nothing(unmixer, mixtures):
    solution = unmix(unmixer, mixtures.spectra)
    truth = np.asarray(mixtures.abundances)
    np.testing.assert_allclose(solution.abundances.sum(1), 1, rtol=1e-5)
    assert solution.abundances.min() >= 0
    linear = unmix(eqx.Partial(fcls, endmembers=ENDMEMBERS), mixtures.spectra).abundances
    assert rms(solution.abundances - truth) < 0.75 * rms(linear - truth)
    assert rms(solution.abundances - truth) < 0.3 * rms(1 / 3 - truth)


def test_the_residual_is_the_noise_where_nothing_is_strange(unmixer, mixtures):
    solution = unmix(unmixer, mixtures.spectra)
    left = BANDS - len(unmixer.features.gains)
    assert abs(np.sqrt(np.mean(solution.residual**2)) / (STD * np.sqrt(left / BANDS)) - 1) < 0.05
    assert np.isnan(solution.gap).all()


def test_strange_spectra_are_flagged_and_usual_ones_are_not(unmixer, mixtures):
    assert unmix(unmixer, mixtures.spectra).converged.mean() > 0.99
    strange = np.stack([1 - WAVE, np.full(BANDS, 0.05), 0.5 + 0.2 * np.cos(40 * WAVE), 30 * ENDMEMBERS[0]])
    solution = unmix(unmixer, strange.astype(np.float32))
    assert not solution.converged.any()
    assert (solution.fitted.novelty > 1).all()
    masked = unmix(unmixer, np.stack([np.zeros(BANDS), np.full(BANDS, np.nan), ENDMEMBERS[0]]).astype(np.float32))
    assert list(masked.converged) == [False, False, True]
    assert np.isnan(masked.abundances[:2]).all()


def test_networks_differ_and_their_mean_is_what_is_returned(unmixer, mixtures):
    solution = unmix(unmixer, mixtures.spectra[:50])
    each = []
    for i in range(2):
        pair = jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], (unmixer.networks, unmixer.states))
        one = dataclasses.replace(unmixer, networks=pair[0], states=pair[1])
        each.append(unmix(one, mixtures.spectra[:50]).abundances)
    np.testing.assert_allclose(solution.abundances, np.mean(each, 0), atol=1e-6)
    np.testing.assert_allclose(solution.fitted.spread, np.std(each, 0), atol=1e-6)
    assert solution.fitted.spread.max() > 1e-4


def test_many_bands_are_averaged_and_bad_ones_left_out(monkeypatch):
    monkeypatch.setattr(abundance, "BINS", 6)  # 17 good bands: five groups of three and one of two
    good = np.setdiff1d(np.arange(BANDS), [2, 7, 19])
    found = learn(steps=50, batch=16, good=good)
    assert found.group == 3
    assert found.features.mean.shape == (6,)
    pixel = np.asarray(ENDMEMBERS[1])
    spoiled = pixel.copy()
    spoiled[[2, 7, 19]] = 5
    np.testing.assert_array_equal(found(jnp.asarray(pixel)).abundances, found(jnp.asarray(spoiled)).abundances)
    mixed = np.mean(ENDMEMBERS[:, good][:, [15, 16]], 1)
    np.testing.assert_allclose(abundance._averaged(jnp.asarray(ENDMEMBERS[:, good]), 3)[:, -1], mixed, rtol=1e-6)


def test_a_training_that_was_stopped_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(abundance, "STEPS", 4)

    class Stop(Exception):
        pass

    def stop(done, steps):
        assert steps == 60
        if done >= 40:
            raise Stop

    whole = learn(steps=60, batch=16)
    with pytest.raises(Stop):
        learn(steps=60, batch=16, checkpoint=tmp_path / "run.npz", progress=stop)
    resumed = learn(steps=60, batch=16, checkpoint=tmp_path / "run.npz")
    assert jax.tree.all(
        jax.tree.map(lambda a, b: bool((a == b).all()), *(eqx.filter(u, eqx.is_array) for u in (whole, resumed)))
    )
    with pytest.raises(ValueError, match=r"holds another run.*delete it"):
        learn(steps=60, batch=16, checkpoint=tmp_path / "run.npz", std=0.01)
    (tmp_path / "run.npz").write_bytes((tmp_path / "run.npz").read_bytes()[:100])
    with pytest.raises(ValueError, match=r"run.npz is not the state of a training, or is damaged: delete it"):
        learn(steps=60, batch=16, checkpoint=tmp_path / "run.npz")


def test_a_training_that_fails_leaves_nothing_to_go_on_from(tmp_path):
    with pytest.raises(ValueError, match="the loss was not finite"):
        learn(steps=50, batch=16, rate=1e30, checkpoint=tmp_path / "run.npz")
    assert not list(tmp_path.iterdir())


def test_fewer_bands_than_endmembers_still_leave_the_simplex():
    found = learn(endmembers=ENDMEMBERS[:, [4, 15]], steps=50, batch=16)
    solution = unmix(found, ENDMEMBERS[:, [4, 15]])
    np.testing.assert_allclose(solution.abundances.sum(1), 1, rtol=1e-5)
    assert solution.converged.all()  # no band is left to be strange in


def test_features_are_the_directions_above_the_noise():
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.normal(size=(BANDS, 2)))[0].T
    noise = np.linspace(0.5, 2.0, BANDS)
    spectra = 3 + noise * (rng.normal(size=(8000, 2)) * [20, 5] @ directions + rng.normal(size=(8000, BANDS)))
    features = Whiten.of(spectra, noise)
    assert features.basis.shape == (2, BANDS)
    np.testing.assert_allclose(np.abs(features.basis @ directions.T), np.eye(2), atol=0.02)
    np.testing.assert_allclose(features.powers, [401, 26], rtol=0.05)
    within, outside = features.novelty(jnp.asarray(spectra, jnp.float32))
    np.testing.assert_allclose([within.mean(), outside.mean()], 1, rtol=0.05)


def test_the_spectrum_counts_by_its_weight(mixtures):
    right, wrong = mixtures.abundances, jnp.roll(mixtures.abundances, 1, 1)
    plain = float(jnp.mean(jnp.sum((right - wrong) ** 2, 1)))
    assert float(Supervised(1.0)(None, mixtures, right, None)) < 1e-12
    assert float(Supervised(0.0)(None, mixtures, wrong, None)) == pytest.approx(plain)
    away = mixtures.render(wrong) - mixtures.render(right)
    more = 2 * float(jnp.mean(away**2) / jnp.mean(mixtures.spectra**2))
    assert float(Supervised(2.0)(None, mixtures, wrong, None)) == pytest.approx(plain + more, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"endmembers": ENDMEMBERS[:1]}, r"at least two endmembers.*got shape \(1, 20\)"),
        ({"endmembers": np.where(ENDMEMBERS > 0.69, np.nan, ENDMEMBERS)}, "must be finite"),
        ({"endmembers": -ENDMEMBERS}, "have positive values"),
        (
            {"endmembers": ENDMEMBERS - np.float32(0.31)},
            r"cannot be mixed by power: reflectances must lie above 0 and not above 1, these go from -0\.0",
        ),
        ({"std": 0.0}, "noise must be above zero in every band, got 0"),
        ({"encoder": "transformer"}, "dense, deep, cnn1d, cnn1d_modified, infrarender, got 'transformer'"),
        ({"networks": 0}, "networks, steps and batch must be positive, got 0, 400 and 64"),
        ({"endmembers": 100 * ENDMEMBERS}, "endmembers go up to 70: .* fractions of one"),
    ],
)
def test_what_cannot_be_learned_is_refused(options, said, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=said):
        learn(**options)
