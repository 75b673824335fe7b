"""Training mixtures over a table of recipes: shares, spectra that can be rendered again, what varies and what not."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unmix_jax.networks.mixtures import MIXTURE_RECIPES, MODELS, MixtureExamples, MixtureRecipe

BANDS = 9
ENDMEMBERS = jnp.asarray(np.random.default_rng(5).uniform(0.1, 0.8, (3, BANDS)), jnp.float32)
STD = 1e-3


def draw(recipe, key, count, *, endmembers=ENDMEMBERS, std=0.0):
    examples = MixtureExamples(endmembers, jnp.asarray(std), recipe)
    return eqx.filter_jit(lambda key: examples(key, count))(jax.random.key(key))


@pytest.mark.parametrize("name", ["linear", "mixed", "powders"])
def test_abundances_lie_on_the_simplex_and_spectra_are_what_they_render(name):
    batch = draw(MIXTURE_RECIPES[name], 1, 61, std=STD)
    assert batch.spectra.shape == (61, BANDS)
    assert float(batch.abundances.min()) >= 0
    np.testing.assert_allclose(batch.abundances.sum(1), 1, rtol=1e-6)
    assert set(np.unique((batch.abundances > 0).sum(1))) == {1, 2, 3}
    noise = batch.spectra - batch.render(batch.abundances)
    assert 0.8e-3 < float(jnp.std(noise)) < 1.2e-3
    assert float(jnp.max(jnp.abs(noise))) < 6e-3
    away = batch.render(jnp.roll(batch.abundances, 1, 1)) - batch.spectra
    assert float(jnp.sqrt(jnp.mean(away**2))) > 0.05


@pytest.mark.parametrize("name", MODELS)
def test_nothing_varies_where_nothing_shall(name):
    """Without noise, grains and light, mixtures of one material are that material, but for models that brighten it."""
    recipe = MixtureRecipe((name,), materials=(1,), grains=0.0, brightness=0.0, doubt=0.0)
    batch = draw(recipe, 2, 20)
    pure = ENDMEMBERS[jnp.argmax(batch.abundances, 1)]
    if name in ("ppnm", "mlm"):
        assert float(jnp.max(jnp.abs(batch.spectra - pure))) > 0.01
    else:
        np.testing.assert_allclose(batch.spectra, pure, rtol=1e-5)


def test_orders_grains_and_light_are_as_asked():
    recipe = MixtureRecipe(("linear",), materials=(2,), grains=0.2, brightness=0.3, doubt=0.0)
    batch = draw(recipe, 3, 4000)
    assert (np.sum(np.asarray(batch.abundances) > 0, 1) == 2).all()
    powers = np.log(np.asarray(batch.endmembers)) / np.log(np.asarray(ENDMEMBERS))
    np.testing.assert_allclose(powers.std(2), 0, atol=1e-4)  # one for each spectrum and material
    assert abs(np.log(powers[..., 0]).std() - 0.2) < 0.01
    gains = np.asarray(batch.gains)
    np.testing.assert_allclose([gains.min(), gains.max()], [0.7, 1.3], atol=0.002)


@pytest.mark.parametrize("reach", [0.1, 0.5, 2.0])
def test_doubt_is_a_factor_of_its_spread_and_reach(reach):
    """The correlation is a Gaussian of the distance, at all places alike."""
    recipe = MixtureRecipe(("linear",), grains=0.0, brightness=0.0, doubt=0.2, reach=reach)
    endmembers = jnp.full((2, 21), 0.5).at[1].set(0.25)
    batch = draw(recipe, 7, 20000, endmembers=endmembers)
    ripple = np.log(np.asarray(batch.spectra) / np.asarray(batch.abundances @ endmembers)) / 0.2
    apart = np.linspace(0, 1, 21)[:, None] - np.linspace(0, 1, 21)
    np.testing.assert_allclose(ripple.T @ ripple / len(ripple), np.exp(-(apart**2) / (2 * reach**2)), atol=0.04)


def test_what_is_rendered_again_is_the_clean_spectrum():
    batch = draw(MixtureRecipe(("mlm", "power"), doubt=0.1), 8, 50, std=STD)
    np.testing.assert_allclose(batch.render(batch.abundances), batch.clean, rtol=1e-6)
    assert 0.8e-3 < float(jnp.std(batch.spectra - batch.clean)) < 1.2e-3


def test_each_model_mixes_an_equal_share():
    recipe = MixtureRecipe(("linear", "mlm", "power"), grains=0.0, brightness=0.0, doubt=0.0)
    batch = draw(recipe, 4, 30)
    linear = batch.abundances @ ENDMEMBERS
    np.testing.assert_allclose(batch.spectra[:10], linear[:10], rtol=1e-6)
    mixed = np.asarray((batch.abundances > 0).sum(1) > 1)
    assert (np.abs(batch.spectra - linear).max(1) > 1e-4)[10:][mixed[10:]].all()
    assert len(np.unique(batch.models[1].probability)) == 10  # drawn for each


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"models": ("hapke", "magic")}, r"of linear, fan.*; got magic"),
        ({"models": ()}, "got none"),
        ({"materials": ()}, "1 or more, got"),
        ({"grains": -0.1}, r"grains lies in \[0, 1\), got -0.1"),
        ({"brightness": 1.0}, r"brightness lies in \[0, 1\)"),
        ({"doubt": 20.0}, r"doubt lies in \[0, 1\), got 20"),
        ({"reach": 0.0}, "reach lies in"),
        ({"reach": np.inf}, "reach lies in"),
    ],
)
def test_recipes_that_cannot_be_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        MixtureRecipe(**options)
