"""Losses against NumPy, and what their gradients do at the edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close

from unmix_jax.networks import losses
from unmix_jax.networks.losses import Objective

RNG = np.random.default_rng(1)
Y, Z = RNG.uniform(0.1, 1, (2, 7, 9)).astype(np.float32)
S = RNG.dirichlet(np.ones(3), 7).astype(np.float32)
E = RNG.uniform(-0.2, 1.3, (3, 9)).astype(np.float32)
COSINE = np.sum(Y * Z, 1) / np.linalg.norm(Y, axis=1) / np.linalg.norm(Z, axis=1)
FIDELITIES = {
    "sad": losses.sad,
    "cosine": losses.cosine_loss,
    "sid": losses.sid,
    "mse": losses.mse,
    "hyper-laplacian": losses.HyperLaplacian(),
    "endnet": losses.EndnetFidelity(),
}


class Net:
    endmembers = jnp.asarray(E)


def value(of, *given):
    return float(of(*(jnp.asarray(x) if isinstance(x, np.ndarray) else x for x in given)))


def test_fidelities_are_their_equations():
    angle = np.arccos(COSINE)
    p, q = Y / Y.sum(1, keepdims=True), Z / Z.sum(1, keepdims=True)
    expected = {
        "sad": angle.mean(),
        "cosine": (1 - COSINE).mean() / 9,
        "sid": np.sum((p - q) * (np.log(p) - np.log(q)), 1).mean(),
        "mse": np.mean((Y - Z) ** 2),
        "hyper-laplacian": np.mean(np.abs(Y - Z) ** 0.7) - np.log(COSINE).mean(),
        "endnet": 0.005 * np.mean((Y - Z) ** 2) - 50 * np.log(1 - angle / np.pi).mean(),
    }
    for name, fidelity in FIDELITIES.items():
        np.testing.assert_allclose(value(fidelity, Y, Z), expected[name], rtol=2e-4, err_msg=name)


@pytest.mark.parametrize("fidelity", FIDELITIES.values(), ids=FIDELITIES)
@pytest.mark.parametrize(
    "rendered", [Y, 0 * Y, -Y, 1e6 * Y], ids=["the pixels themselves", "zeros", "opposite", "a million times"]
)
def test_values_and_gradients_are_finite(fidelity, rendered):
    loss, slope = jax.value_and_grad(lambda z: fidelity(jnp.asarray(Y), z))(jnp.asarray(rendered))
    assert np.isfinite(float(loss))
    assert np.isfinite(np.asarray(slope)).all()


@pytest.mark.parametrize("name", ["sad", "cosine", "sid"])
def test_brightness_does_not_count(name):
    bright = (RNG.uniform(0.5, 2, (7, 1)) * Z).astype(np.float32)
    np.testing.assert_allclose(value(FIDELITIES[name], Y, bright), value(FIDELITIES[name], Y, Z), rtol=1e-3)


def test_penalties_are_their_equations():
    unit = S / np.linalg.norm(S, axis=0)
    assert_close(value(losses.l1, None, S), 1.0)
    assert_close(value(losses.Lq(0.5), None, S), np.sqrt(S).sum(1).mean(), scale=2e5)
    pairs = sum(unit[:, i] @ unit[:, j] for i in range(3) for j in range(i))
    np.testing.assert_allclose(value(losses.osp, None, S), pairs, rtol=1e-5)
    np.testing.assert_allclose(value(losses.l21, None, S), np.linalg.norm(S, axis=0).sum() / np.sqrt(7), rtol=1e-5)
    bounds = np.maximum(-E, 0).sum() + np.maximum(E - 1, 0).sum()
    np.testing.assert_allclose(value(losses.entry_bounds, Net, S), bounds, rtol=1e-5)
    tree = {"weight": jnp.asarray(E), "bias": jnp.ones(4)}
    np.testing.assert_allclose(value(losses.weight_decay, tree, S), (E**2).sum(), rtol=1e-5)


def test_volume_falls_with_the_simplex_and_ignores_where_it_is():
    def volume(spectra):
        net = Net()
        net.endmembers = jnp.asarray(spectra)
        return value(losses.minimum_volume, net, S)

    assert volume(0.5 * E) < volume(E) < volume(2 * E)
    np.testing.assert_allclose(volume(E + 3), volume(E), rtol=1e-3)
    np.testing.assert_allclose(volume(2 * E) - volume(E), np.log(4), rtol=1e-3)


def test_an_objective_is_the_weighted_sum():
    objective = Objective(losses.mse, ((2.0, losses.l1), (3.0, losses.osp)))
    found = float(objective(None, jnp.asarray(Y), jnp.asarray(S), jnp.asarray(Z)))
    expected = value(losses.mse, Y, Z) + 2 * value(losses.l1, None, S) + 3 * value(losses.osp, None, S)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
