"""Layers against their equations written in NumPy; sum-to-one layers against their promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close

from unmix_jax.networks import layers
from unmix_jax.networks.layers import AbsSum, AugmentedRow, BatchNorm, Dense, ReLUSum, Sequential, Softmax, TopK

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 5)).astype(np.float32)
WEIGHT = RNG.normal(size=(5, 3)).astype(np.float32)
SIMPLEX = {
    "softmax": Softmax(),
    "sharp softmax": Softmax(3.0),
    "relu-sum": ReLUSum(),
    "abs-sum": AbsSum(),
    "top-k": TopK(2),
    "augmented row": AugmentedRow(),
}
HARD = {
    "ordinary": X,
    "one endmember": X[:, :1],
    "all zero": np.zeros((2, 4), np.float32),
    "all negative": -np.abs(X),
    "huge": np.full((2, 4), 1e38, np.float32) * np.asarray([1, -1, 0.5, 0], np.float32),
    "tiny": np.full((2, 4), 1e-38, np.float32),
    "one is huge": np.asarray([[1e30, 0, 0, 0]], np.float32),
}


def run(layer, x, key=None):
    return layer(jnp.asarray(x), layer.gathered(), key)


@pytest.mark.parametrize("z", HARD.values(), ids=HARD)
@pytest.mark.parametrize("layer", SIMPLEX.values(), ids=SIMPLEX)
def test_abundances_are_finite_not_negative_and_sum_to_one(layer, z):
    shares = np.asarray(layer(jnp.asarray(z)))
    assert np.isfinite(shares).all()
    assert (shares >= 0).all()
    assert_close(shares.sum(-1), np.ones(len(z)))
    slope = np.asarray(jax.grad(lambda z: jnp.sum(layer(z) ** 2))(jnp.asarray(z / max(1, np.abs(z).max()))))
    assert np.isfinite(slope).all()


def test_sum_to_one_layers_are_their_equations():
    z = X.astype(float)
    positive = np.maximum(z, 0)
    assert_close(Softmax(3.0)(X), np.exp(3 * z) / np.exp(3 * z).sum(1, keepdims=True))
    assert_close(ReLUSum()(X), positive / positive.sum(1, keepdims=True))
    assert_close(AbsSum()(X), np.abs(z) / np.abs(z).sum(1, keepdims=True))
    least = np.sort(positive, 1)[:, -2:-1]
    two = np.where(positive >= least, positive, 0)
    assert_close(TopK(2)(X), two / two.sum(1, keepdims=True))
    rows = np.vstack([np.eye(5), np.full((1, 5), 7.0)])
    soft = np.linalg.lstsq(rows, np.vstack([z.T, np.full((1, 6), 7.0)]), rcond=None)[0].T
    soft = np.maximum(soft, 0)
    assert_close(AugmentedRow(7.0)(X), soft / soft.sum(1, keepdims=True))


def test_the_all_zero_case_is_equal_shares():
    zero = jnp.zeros((1, 4))
    for layer in SIMPLEX.values():
        shares = np.asarray(layer(zero))[0]
        expected = [0.5, 0.5, 0, 0] if isinstance(layer, TopK) else np.full(4, 0.25)
        assert_close(shares, np.asarray(expected))


def test_dense_and_angle_layers():
    assert_close(run(Dense(jnp.asarray(WEIGHT.T), jnp.arange(3.0)), X)[0], X @ WEIGHT + np.arange(3))
    cosine = X @ WEIGHT / np.linalg.norm(X, axis=1)[:, None] / np.linalg.norm(WEIGHT, axis=0)
    assert_close(run(layers.AngleDense(jnp.asarray(WEIGHT.T)), X)[0], 1 - np.arccos(cosine) / np.pi)
    along = run(layers.AngleDense(jnp.asarray(WEIGHT.T)), WEIGHT.T)[0]
    assert_close(np.diagonal(along), np.ones(3), scale=2)
    slope = jax.grad(lambda x: jnp.sum(run(layers.AngleDense(jnp.asarray(WEIGHT.T)), x)[0]))(jnp.zeros((2, 5)))
    assert np.isfinite(np.asarray(slope)).all()


def test_batch_norm_trains_on_the_batch_and_infers_from_what_it_gathered():
    norm = BatchNorm(jnp.asarray([2.0] * 5), jnp.asarray([0.5] * 5), 5)
    out, state = run(norm, X, jax.random.key(0))
    mean, variance = X.mean(0), X.var(0)
    assert_close(out, 2 * (X - mean) / np.sqrt(variance + 1e-3) + 0.5)
    assert_close(state[0], 0.01 * mean)
    assert_close(state[1], 0.99 + 0.01 * variance)
    later, same = norm(jnp.asarray(X), state, None)
    assert_close(later, 2 * (X - 0.01 * mean) / np.sqrt(0.99 + 0.01 * variance + 1e-3) + 0.5)
    assert_close(same[0], state[0])
    alone, _ = norm(jnp.asarray(X[:1]), state, None)
    assert_close(alone, later[:1])


def test_activations_and_the_limit_of_the_threshold():
    assert_close(run(layers.LeakyReLU(0.1), X)[0], np.where(X > 0, X, 0.1 * X))
    threshold = np.asarray([0.3, 0.0, -0.2, 1.0, 0.1], np.float32)
    assert_close(run(layers.SparseReLU(jnp.asarray(threshold)), X)[0], np.maximum(X - threshold, 0))
    network = Sequential((Dense(jnp.asarray(-WEIGHT.T)), layers.SparseReLU(jnp.asarray(threshold))))
    limited = layers.constrained(network, network)
    assert_close(limited.layers[1].threshold, np.maximum(threshold, 0))
    assert_close(limited.layers[0].weight, -WEIGHT.T)


@pytest.mark.parametrize("layer", [layers.Dropout(0.4), layers.GaussianNoise(0.5), layers.MaskedNoise(0.4, 0.5)])
def test_noise_is_drawn_in_training_alone_and_from_its_key(layer):
    x = np.ones((400, 50), np.float32)
    assert np.array_equal(run(layer, x)[0], x)
    one, same, other = (np.asarray(run(layer, x, jax.random.key(k))[0]) for k in (0, 0, 1))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert abs(one.mean() - 1) < 0.02
    if isinstance(layer, layers.Dropout):
        assert set(np.unique(one)) == {0.0, np.float32(1 / 0.6)}
        assert abs((one == 0).mean() - 0.4) < 0.02
    else:
        quiet = layer.rate if isinstance(layer, layers.MaskedNoise) else 0.0
        assert abs((one == 1).mean() - quiet) < 0.02
        assert abs((one - 1).std() - 0.5 / np.sqrt(1 - quiet)) < 0.02


def test_layers_in_a_row_have_keys_of_their_own():
    pair = Sequential((layers.GaussianNoise(1.0), layers.GaussianNoise(1.0)))
    noise = np.asarray(run(pair, np.zeros((200, 50), np.float32), jax.random.key(0))[0])
    assert abs(noise.std() - np.sqrt(2)) < 0.03
