"""Archetypal analysis: a NumPy loop with full residuals as oracle, descent, the choice among members, and refusals."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, separable
from scipy.special import log_softmax, softmax

from unmix_jax.endmembers.archetypal import archetypal, entropic_descent
from unmix_jax.metrics import align, mean_sad
from unmix_jax.scenes.scene import Scene

KEY = jax.random.key(5)
FEW = {"members": 6, "dimensions": 156}
run = eqx.filter_jit(entropic_descent)  # steps and tolerance are arrays: one program for each dtype


def descend(key, coordinates, steps=100, tol=1e-3):
    return run(key, jnp.asarray(coordinates), 3, max_steps=jnp.asarray(steps), tol=jnp.asarray(tol, coordinates.dtype))


def scene(pixels=361, seed=0):
    """Separable mixtures of three endmembers, with a little noise, as many as every fifth row and column of Samson."""
    pixels, *_ = separable(3, pixels=pixels, bands=156, seed=seed)
    return pixels + 0.01 * np.random.default_rng(1).standard_normal(pixels.shape)


def oracle(pixels, chosen, steps):
    """The same descent with every residual in full, and with columns as spectra: Y ≈ (YB)A."""
    y, count, number = pixels.T, len(chosen), len(pixels)
    b = np.log(0.5 / number + 0.5 * np.eye(number)[:, chosen])
    a = np.full((count, number), -np.log(count))
    misfit = lambda a, b: 0.5 * np.sum((y - y @ softmax(b, 0) @ softmax(a, 0)) ** 2)  # noqa: E731
    best, rate = misfit(a, b), 1 / np.mean(np.sum(y**2, axis=0))
    for _ in range(steps):
        old = a, b
        for _ in range(5):
            e = y @ softmax(b, 0)
            a = a + rate * e.T @ (y - e @ softmax(a, 0))
        for _ in range(5):
            s = softmax(a, 0)
            b = b + rate * np.sqrt(count / number) * y.T @ (y - y @ softmax(b, 0) @ s) @ s.T
        if misfit(a, b) <= best:
            a, b, best, rate = log_softmax(a, 0), log_softmax(b, 0), misfit(a, b), rate * 1.2
        else:
            (a, b), rate = old, rate / 2
    return softmax(b, 0).T, softmax(a, 0).T, best


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("steps", [1, 12, 40])
def test_steps_are_those_of_the_full_residuals(steps):
    pixels = scene()
    chosen = np.asarray(jax.random.randint(KEY, (3,), 0, 361, dtype=jnp.int32))
    found = descend(KEY, pixels, steps, tol=-1.0)
    weights, abundances, objective = oracle(pixels, chosen, steps)
    assert_close(found.weights, weights)
    assert_close(found.abundances, abundances)
    assert_close(found.objective, objective)
    assert int(found.steps) == steps


@pytest.mark.usefixtures("x64")
def test_the_objective_never_rises_and_both_factors_stay_on_the_simplex():
    pixels = scene()
    found = [descend(KEY, pixels, steps, tol=0.0) for steps in range(50)]
    objective = np.asarray([one.objective for one in found])
    assert (np.diff(objective) <= 1e-12 * objective[0]).all()
    assert objective[-1] < 0.05 * objective[0]
    for one in found[::7]:
        for factor in (one.weights, one.abundances):
            assert float(factor.min()) >= 0
            assert_close(factor.sum(-1), np.ones(len(factor)))
        assert_close(one.objective, 0.5 * np.sum((pixels - one.abundances @ (one.weights @ pixels)) ** 2))


@pytest.mark.parametrize("scale", [1.0, 3000.0])
def test_separable_mixtures_are_recovered(scale):
    pixels, endmembers, truth = separable(3, pixels=361, bands=156)
    found = archetypal(KEY, scale * pixels, 3, max_steps=1000, tol=1e-4, **FEW)
    order = align(found.endmembers, endmembers)
    assert mean_sad(found.endmembers, endmembers) < 0.02
    np.testing.assert_allclose(found.endmembers[order], scale * endmembers, atol=0.03 * scale)
    np.testing.assert_allclose(found.abundances[:, order], truth, atol=0.08)
    assert found.converged
    assert found.endmembers.dtype == np.float32


def test_the_member_kept_is_the_one_of_the_published_rule():
    pixels = scene(seed=7).astype(np.float32)
    found = archetypal(KEY, pixels, 3, **FEW)
    members = []
    for i in range(6):
        one = descend(jax.random.fold_in(KEY, i), pixels - pixels.mean(0))
        endmembers = np.asarray(one.weights) @ pixels
        fit = np.abs(pixels - np.asarray(one.abundances) @ endmembers).sum()
        members.append((fit, (np.corrcoef(endmembers) - 2 * np.eye(3)).max(), endmembers))
    least = min(fit for fit, *_ in members)
    _, _, kept = min((m for m in members if m[0] <= 1.05 * least), key=lambda m: m[1])
    np.testing.assert_allclose(found.endmembers, kept, atol=2e-3)


def test_what_is_invalid_takes_no_part():
    pixels = scene(pixels=365).astype(np.float32).reshape(5, 73, 156)  # of which 361 are left
    cube = np.insert(pixels, 4, np.nan, axis=-1)
    mask = np.ones((5, 73), bool)
    wrong = [(0, 1), (1, 3), (2, 5), (4, 72)]
    cube[wrong[0]], cube[wrong[1]][2], cube[wrong[2]], cube[wrong[3]] = -9999.0, np.nan, 0.0, 70.0
    mask[wrong[3]] = False
    good = np.arange(157) != 4
    kept = np.ones((5, 73), bool)
    kept[tuple(np.transpose(wrong))] = False
    found = archetypal(KEY, Scene(cube, good_bands=good, mask=mask, nodata=-9999.0), 3, **FEW)
    alone = archetypal(KEY, pixels[kept], 3, **FEW)
    assert found.abundances.shape == (5, 73, 3)
    assert np.isnan(found.abundances[~kept]).all()
    assert np.isnan(found.endmembers[:, 4]).all()
    np.testing.assert_array_equal(found.abundances[kept], alone.abundances)
    np.testing.assert_array_equal(found.endmembers[:, good], alone.endmembers)


def test_single_precision_is_near_double_precision():
    pixels = scene()
    single = descend(KEY, (pixels - pixels.mean(0)).astype(np.float32), 15)
    with jax.enable_x64(True):
        double = descend(KEY, pixels - pixels.mean(0), 15)
    assert single.weights.dtype == np.float32
    assert_close(single.abundances, double.abundances, scale=4)
    assert_close(np.asarray(single.weights) @ pixels.astype(np.float32), np.asarray(double.weights) @ pixels)


@pytest.mark.usefixtures("x64")
def test_origin_basis_and_unit_do_not_matter():
    pixels = scene()
    turned = np.linalg.qr(np.random.default_rng(2).standard_normal((156, 156)))[0]
    centred = pixels - pixels.mean(0)
    one, other = (descend(KEY, x, 20, tol=0.0) for x in (centred, 40 * centred @ turned))
    assert_close(other.weights, one.weights)
    assert_close(other.abundances, one.abundances)
    assert_close(other.objective, 1600 * one.objective)


def test_the_order_of_pixels_only_changes_the_draws():
    pixels = scene(seed=3)
    shuffle = np.random.default_rng(0).permutation(361)
    options = {"max_steps": 400, "tol": 1e-4, **FEW}
    one, other = archetypal(KEY, pixels, 3, **options), archetypal(KEY, pixels[shuffle], 3, **options)
    order = align(other.endmembers, one.endmembers)
    np.testing.assert_allclose(other.endmembers[order], one.endmembers, atol=0.03)
    again = archetypal(KEY, pixels, 3, **options)
    np.testing.assert_array_equal(again.endmembers, one.endmembers)


@pytest.mark.parametrize(
    ("pixels", "options", "message"),
    [
        (scene(), {"count": 0}, "count=0"),
        (scene(), {"count": 157}, "156 endmembers .* got count=157"),
        (scene()[:5], {"count": 6}, "6 endmembers were asked of 5 valid pixels"),
        (np.full((20, 5), np.nan), {"count": 2}, "none of the 20 pixels"),
        (np.ones(5), {"count": 2}, r"got \(5,\)"),
        (scene(), {"count": 3, "members": 0}, "at least 1 member, got 0"),
        (scene(), {"count": 3, "dimensions": 1}, "span 2 dimensions, got dimensions=1"),
    ],
)
def test_impossible_requests_are_refused(pixels, options, message):
    with pytest.raises(ValueError, match=message):
        archetypal(KEY, pixels, **options)


def test_samson_is_as_good_as_known(shared_data):
    with np.load(shared_data / "samson" / "samson.npz", allow_pickle=False) as file:
        cube, reference = file["Y"][::5, ::5], file["E"]
    found = archetypal(KEY, cube, 3, **FEW)
    assert abs(mean_sad(found.endmembers, reference) - 0.072) < 0.015
