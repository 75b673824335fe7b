"""Averaging over which endmembers are in a pixel: the chain against quadrature, and what the solver promises."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close
from scipy import stats
from solvers.varied import BANDS, prepared, rmse, scene, unmix

from unmix_jax.solvers.synthesis import marginal, posterior
from unmix_jax.solvers.synthesis_posterior import _chain, _log_weights, _truncated


def quadrature(gram, weights, cells=400):
    """Mean, deviation and probability of presence for three endmembers: three corners, three edges, one triangle."""

    def density(points):
        return np.exp(-0.5 * np.einsum("...i,ij,...j->...", points, gram, points))

    step = (np.arange(cells) + 0.5) / cells
    pieces = []
    for corner in np.eye(3):
        pieces.append((corner[None], np.exp(weights[1]) * density(corner[None])))
    for i, j in ((0, 1), (0, 2), (1, 2)):
        points = np.zeros((cells, 3))
        points[:, i], points[:, j] = step, 1 - step
        pieces.append((points, density(points) * np.exp(weights[2]) / cells))
    a, b = (x.ravel() for x in np.meshgrid(step, step, indexing="ij"))
    points = np.stack([a, (1 - a) * b, (1 - a) * (1 - b)], -1)
    pieces.append((points, density(points) * (1 - a) * np.exp(weights[3]) / cells**2))
    points, mass = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    mass = mass / mass.sum()
    mean = mass @ points
    return {"mean": mean, "deviation": np.sqrt(mass @ (points - mean) ** 2), "presence": mass @ (points > 0)}


run_chains = jax.jit(
    jax.vmap(jax.vmap(_chain, (None, None, None, None, None, 0)), (0, None, None, None, None, None)), static_argnums=4
)


@pytest.mark.parametrize("chances", [(1.0, 1.0, 1.0), (1.0, 0.2, 0.05)])
def test_the_chain_is_the_distribution_it_says_and_knows_how_well(chances):
    """Against quadrature, 24 chains: any choice of turns leaves the same distribution, and the errors are those said.

    Chains are off by one of their own standard errors (root mean square), and hardly ever by more than three; by more
    where an endmember has a turn in twenty-five, since a chain that seldom looks knows less of what it misses.
    """
    rng = np.random.default_rng(3)
    spectra = rng.normal(size=(3, 3, 4)) * np.array([1.5, 4.0, 12.0])[:, None, None]
    spectra[2, 1] = spectra[2, 0] + 0.3 * rng.normal(size=4)  # two that are nearly alike
    grams = np.einsum("nib,njb->nij", spectra, spectra)
    weights = _log_weights(3)
    keys = jax.random.split(jax.random.key(5), 24)
    start = jnp.asarray([0.2, 0.3, 0.5], jnp.float32)
    found = run_chains(
        jnp.asarray(grams, jnp.float32), jnp.asarray(weights, jnp.float32), jnp.asarray(chances), start, 600, keys
    )
    found = {name: np.asarray(x, float) for name, x in found.items()}
    found["deviation"] = np.sqrt(np.diagonal(found["covariance"], axis1=2, axis2=3))
    off = {name: [] for name in ("mean", "deviation", "presence")}
    for n, gram in enumerate(grams):
        exact = quadrature(gram, weights)
        for name, values in off.items():
            chains, error = found[name][n], found[f"{name}_error"][n]
            spread = chains.std(0, ddof=1) / np.sqrt(len(chains))
            np.testing.assert_array_less(np.abs(chains.mean(0) - exact[name]), 4.5 * spread + 3e-3)
            values.append(((chains - exact[name]) / np.maximum(error, 1e-3)).ravel())
    for name, values in off.items():
        values = np.concatenate(values)
        assert np.mean(np.abs(values) < 3) > 0.95, name
        assert 0.4 < np.sqrt(np.mean(values**2)) < (1.4 if min(chances) == 1 else 1.8), name


def test_the_truncated_normal():
    """Mass against SciPy, and draws whose upper tail is the number that drew them, from both tails to the middle."""
    low = np.array([-8.0, -3.0, -0.5, 0.0, 2.0, 4.9, 5.1, 12.0, 300.0, -1e-3, 0.4])
    high = np.array([9.0, 3.1, 0.6, 1e3, 2.1, 30.0, 5.6, 40.0, 301.0, 2e-3, 0.405])
    draws = np.linspace(0.02, 0.98, 9)
    mass, z = jax.vmap(jax.vmap(_truncated, (None, None, 0)))(
        jnp.asarray(low, jnp.float32), jnp.asarray(high, jnp.float32), jnp.broadcast_to(draws, (len(low), len(draws)))
    )
    exact = np.array([_log_mass(a, b) for a, b in zip(low, high, strict=True)])
    np.testing.assert_allclose(np.asarray(mass)[:, 0], exact, atol=2e-2, rtol=1e-5)
    assert np.all((np.asarray(z) >= low[:, None] - 1e-6) & (np.asarray(z) <= high[:, None]))
    for a, b, row in zip(low, high, np.asarray(z, float), strict=True):
        below = np.exp([_log_mass(a, t) - _log_mass(a, b) for t in row])
        np.testing.assert_allclose(below, draws, atol=0.03)


def _log_mass(low, high):
    """Logarithm of the mass between two bounds, by the tail that keeps the digits."""
    upper, beyond = stats.norm.logsf(low), stats.norm.logsf(high)
    return upper + np.log(max(-np.expm1(beyond - upper), 1e-300))


@functools.cache
def compiled():
    problem = prepared("minerals")
    return jax.jit(
        jax.vmap(lambda pixel, key, odds: posterior(pixel, problem, sweeps=200, key=key, odds=odds), (0, None, None))
    )


@functools.cache
def solved(seed=0, odds=0.5):
    found = compiled()(scene("minerals")[0], jax.random.key(seed), jnp.float32(odds))
    return jax.tree.map(np.asarray, found)


def test_simplex_covariance_and_presence():
    found = solved()
    assert_close(found.abundances.sum(-1), np.ones(len(found.abundances), np.float32))
    assert np.all(found.abundances >= 0)
    assert np.all((found.fitted["presence"] >= 0) & (found.fitted["presence"] <= 1))
    assert np.all(found.abundances[found.fitted["presence"] == 0] == 0)
    np.testing.assert_allclose(found.covariance.sum(-1), 0, atol=1e-5)
    assert np.linalg.eigvalsh(found.covariance.astype(float)).min() > -1e-6
    assert np.isnan(found.gap).all()
    errors = {name: found.fitted[f"{name}_error"] for name in ("mean", "deviation", "presence")}
    enough = np.maximum(0.1 * found.fitted["deviation"], 2e-3)
    settled = np.all((errors["mean"] <= enough) & (errors["deviation"] <= enough) & (errors["presence"] <= 0.025), 1)
    assert np.array_equal(found.converged, settled)
    assert 0.3 < found.converged.mean() < 1  # 200 sweeps are few


def test_nearer_to_the_truth_than_the_mode_and_it_knows_how_near():
    pixels, truth, _ = scene("minerals")
    found = solved()
    mode = unmix(eqx.Partial(marginal, endmembers=prepared("minerals")), pixels)
    assert rmse(found.abundances, truth) < rmse(mode.abundances, truth)
    there = found.fitted["presence"] > 0.5
    deviation = np.sqrt(np.diagonal(found.covariance, axis1=1, axis2=2))
    error = np.abs(found.abundances - truth)
    assert 0.55 < np.mean(error[there] <= deviation[there]) < 0.85
    assert np.mean(error[there] <= 2 * deviation[there]) > 0.88
    assert np.mean(truth[found.fitted["presence"] > 0.9] > 0) > 0.9
    assert np.mean(truth[found.fitted["presence"] < 0.1] > 0) < 0.1


def test_keys_differ_by_little():
    one, other = solved(1), solved(2)
    again = compiled()(scene("minerals")[0], jax.random.key(1), jnp.float32(0.5))
    assert np.array_equal(one.abundances, again.abundances)
    assert not np.array_equal(one.abundances, other.abundances)
    deviation = np.sqrt(np.diagonal(one.covariance, axis1=1, axis2=2))
    assert np.median(np.abs(one.abundances - other.abundances) / np.maximum(deviation, 1e-3)) < 0.3


@pytest.mark.parametrize("name", ["abundances", "deviation", "presence"])
def test_the_errors_are_those_that_keys_differ_by(name):
    """Over all pixels: what two keys differ by, in units of the errors that both say."""
    one, other = ({"abundances": s.abundances, **s.fitted} for s in (solved(1), solved(2)))
    error = {"abundances": "mean_error"}.get(name, f"{name}_error")
    size = np.sqrt(one[error] ** 2 + other[error] ** 2)
    known = size > (0.03 if name == "presence" else 1e-3)  # below, it is the least error that is said of a presence
    away = (one[name] - other[name])[known] / size[known]
    assert 0.3 < np.sqrt(np.mean(away**2)) < 1.4
    assert np.mean(np.abs(away) < 3) > 0.97


def test_fewer_endmembers_the_more_improbable_they_are():
    many, few = (solved(0, odds).fitted["presence"].sum() for odds in (2.0, 0.01))
    assert few < many


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_not_converged_and_disturbs_nobody(bad):
    """A chain of comparisons with NaN stands still, and would pass for one that has settled."""
    pixels = scene("minerals")[0].copy()
    pixels[3, 7] = bad
    found = compiled()(pixels, jax.random.key(0), jnp.float32(0.5))
    others = np.arange(len(pixels)) != 3
    assert not found.converged[3]
    assert np.array_equal(found.abundances[others], solved().abundances[others])
    assert not np.any(solved(0, bad).converged)  # odds that are traced


def test_no_pixels():
    problem = prepared("minerals")
    none = jax.eval_shape(jax.vmap(lambda pixel: marginal(pixel, problem)), jnp.zeros((0, len(BANDS))))
    assert none.abundances.shape == (0, 5)


def test_too_few_sweeps():
    with pytest.raises(ValueError, match="20 sweeps or more, got 3"):
        posterior(jnp.ones(81), prepared("minerals"), sweeps=3)
