"""Nonnegative factorisation: a NumPy loop of the updates as oracle, descent, recovery, invariances, and refusals."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, separable

from unmix_jax.endmembers.nmf import factorise, nmf, sparseness
from unmix_jax.metrics import align, mean_sad, rmse
from unmix_jax.scenes.scene import Scene

KEY = jax.random.key(3)
SHAPE = {"pixels": 361, "bands": 156}  # of every fifth row and column of Samson: FCLS is compiled once for all tests
WEIGHTS = {
    "plain": {"l1": 0.0, "l_half": 0.0, "sum_to_one": 0.0},
    "sum to one": {"l1": 0.0, "l_half": 0.0, "sum_to_one": 15.0},
    "l1": {"l1": 0.3, "l_half": 0.0, "sum_to_one": 0.0},
    "l1/2": {"l1": 0.0, "l_half": 0.2, "sum_to_one": 15.0},
    "all": {"l1": 0.1, "l_half": 0.1, "sum_to_one": 2.0},
}
weighted = pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS.keys())
run = eqx.filter_jit(factorise)  # weights and steps are arrays: one program for all tests of one shape


def factorised(start, steps, *, l1=0.0, l_half=0.2, sum_to_one=15.0):
    """So many steps from a start, all in one program for each dtype."""
    weights = {"l1": l1, "l_half": l_half, "sum_to_one": sum_to_one, "tol": 0.0}
    arrays = {name: jnp.asarray(value, start[0].dtype) for name, value in weights.items()}
    return run(*map(jnp.asarray, start), max_steps=jnp.asarray(steps), **arrays)


def problem(seed=0, dtype=np.float64):
    """Mixtures of greatest value 1, and a start that is not the truth."""
    pixels, endmembers, _ = separable(3, pixels=120, bands=20, seed=seed)
    rng = np.random.default_rng(seed)
    first = endmembers * rng.uniform(0.5, 1.5, endmembers.shape) / pixels.max()
    return (pixels / pixels.max()).astype(dtype), first.astype(dtype), rng.dirichlet(np.ones(3), 120).astype(dtype)


def oracle(pixels, endmembers, abundances, steps, *, l1, l_half, sum_to_one):
    """The published updates with columns as spectra and the row of δ appended; A and S in the paper's letters."""
    x, a, s = pixels.T, endmembers.T.copy(), np.maximum(abundances, 1e-3).T
    tall = np.vstack([x, np.full((1, x.shape[1]), sum_to_one)])
    for _ in range(steps):
        f = np.vstack([a, np.full((1, a.shape[1]), sum_to_one)])
        s = s * (f.T @ tall) / (f.T @ f @ s + l1 + l_half / 2 / np.sqrt(s))
        a = a * (x @ s.T) / (a @ s @ s.T)
    misfit = np.sum((x - a @ s) ** 2) + sum_to_one**2 * np.sum((1 - s.sum(0)) ** 2)
    return a.T, s.T, misfit / 2 + l1 * s.sum() + l_half * np.sqrt(s).sum()


@weighted
@pytest.mark.usefixtures("x64")
def test_steps_are_the_published_updates(weights):
    start = problem()
    found = factorised(start, 7, **weights)
    endmembers, abundances, objective = oracle(*start, 7, **weights)
    assert_close(found.endmembers, endmembers)
    assert_close(found.abundances, abundances)
    assert_close(found.objective, objective)
    assert int(found.steps) == 7
    assert not found.converged


@weighted
@pytest.mark.usefixtures("x64")
def test_the_objective_never_rises(weights):
    start = problem(1)
    objective = np.asarray([factorised(start, steps, **weights).objective for steps in range(60)])
    assert (np.diff(objective) <= 1e-12 * objective[0]).all()
    assert objective[-1] < 0.9 * objective[0]


def test_separable_mixtures_are_recovered():
    pixels, endmembers, truth = separable(3, **SHAPE)
    found = nmf(KEY, 50 * pixels, 3, l_half=0)
    assert found.endmembers.dtype == found.abundances.dtype == np.float32
    order = align(found.endmembers, endmembers)
    assert mean_sad(found.endmembers, endmembers) < 2e-3
    np.testing.assert_allclose(found.endmembers[order], 50 * endmembers, atol=0.5)
    np.testing.assert_allclose(found.abundances[:, order], truth, atol=0.01)
    assert found.converged


def test_abundances_are_nonnegative_and_sum_to_nearly_one():
    pixels, *_ = separable(3, seed=2, **SHAPE)
    found = nmf(KEY, pixels, 3)
    assert float(found.abundances.min()) >= 0
    assert float(found.endmembers.min()) >= 0
    np.testing.assert_allclose(found.abundances.sum(-1), 1, atol=0.05)
    free = nmf(KEY, pixels, 3, l_half=0.5, sum_to_one=0)
    assert float(np.abs(free.abundances.sum(-1) - 1).max()) > 0.1  # nothing else holds the sum


def test_the_penalty_makes_abundances_sparser():
    pixels, *_ = separable(3, seed=4, **SHAPE)
    roots = [float(jnp.sqrt(nmf(KEY, pixels, 3, l_half=weight).abundances).sum()) for weight in (0.0, 0.05, 0.5)]
    assert roots[0] > roots[1] > roots[2]


def test_sparseness_is_the_published_formula():
    pixels = np.random.default_rng(0).gamma(0.5, size=(50, 7)).astype(np.float32)
    ratio = pixels.sum(0) / np.sqrt((pixels**2).sum(0))
    expected = np.sum((np.sqrt(50) - ratio) / np.sqrt(49)) / np.sqrt(7)
    assert_close(sparseness(jnp.asarray(pixels)), np.float32(expected))
    assert_close(sparseness(jnp.ones((50, 7))), np.float32(0))
    assert_close(sparseness(jnp.zeros((50, 7)).at[3].set(1.0)), np.float32((np.sqrt(50) - 1) / 7 * np.sqrt(7)))
    assert_close(sparseness(jnp.zeros((50, 7))), np.float32(0))


def test_the_default_weight_is_the_sparseness():
    pixels, *_ = separable(3, seed=3, **SHAPE)
    weight = sparseness(jnp.asarray(pixels / pixels.max()))
    one, other = nmf(KEY, pixels, 3, max_steps=20), nmf(KEY, pixels, 3, max_steps=20, l_half=weight)
    np.testing.assert_array_equal(one.endmembers, other.endmembers)


def test_what_is_invalid_takes_no_part():
    pixels, endmembers, _ = separable(3, pixels=365, bands=156)  # of which 361 are left
    pixels, first = pixels.astype(np.float32).reshape(5, 73, 156), (1.1 * endmembers).astype(np.float32)
    cube = np.insert(pixels, 4, np.nan, axis=-1)
    mask = np.ones((5, 73), bool)
    wrong = [(0, 1), (1, 3), (2, 5), (4, 72)]
    cube[wrong[0]], cube[wrong[1]][2], cube[wrong[2]], cube[wrong[3]] = -9999.0, np.nan, 0.0, 70.0
    mask[wrong[3]] = False
    good = np.arange(157) != 4
    found = nmf(
        KEY, Scene(cube, good_bands=good, mask=mask, nodata=-9999.0), 3, start=np.insert(first, 4, np.nan, axis=1)
    )
    kept = np.ones((5, 73), bool)
    kept[tuple(np.transpose(wrong))] = False
    alone = nmf(KEY, pixels[kept], 3, start=first)
    assert found.abundances.shape == (5, 73, 3)
    assert np.isnan(found.abundances[~kept]).all()
    assert np.isnan(found.endmembers[:, 4]).all()
    np.testing.assert_array_equal(found.abundances[kept], alone.abundances)
    np.testing.assert_array_equal(found.endmembers[:, good], alone.endmembers)


def test_order_and_unit_of_the_pixels_do_not_matter():
    pixels, *_ = separable(3, seed=5, **SHAPE)
    first = pixels[:3]
    shuffle = np.random.default_rng(0).permutation(len(pixels))
    one, other = nmf(KEY, pixels, 3, start=first), nmf(KEY, 1000 * pixels[shuffle], 3, start=1000 * first)
    assert_close(other.endmembers, 1000 * one.endmembers, scale=1000)
    assert_close(other.abundances, one.abundances[shuffle])


def test_single_precision_is_near_double_precision():
    single = factorised(problem(6, np.float32), 300)
    with jax.enable_x64(True):
        double = factorised(problem(6), 300)
    assert single.endmembers.dtype == np.float32
    assert_close(single.endmembers, double.endmembers)
    assert_close(single.abundances, double.abundances)


def test_many_starts_are_as_each_alone():
    pixels, _, abundances = problem(0, np.float32)
    starts = [problem(seed, np.float32)[1] for seed in range(3)]
    many = jax.vmap(lambda start: factorise(pixels, start, abundances, max_steps=40, l_half=0.2, tol=0))
    found = jax.jit(many)(jnp.stack(starts))
    for i, start in enumerate(starts):
        alone = factorised((pixels, start, abundances), 40)
        assert_close(found.endmembers[i], alone.endmembers)
        assert_close(found.abundances[i], alone.abundances)


def test_the_answer_belongs_to_the_key():
    pixels, *_ = separable(3, **SHAPE)
    once, again = (nmf(KEY, pixels, 3, max_steps=5) for _ in range(2))
    np.testing.assert_array_equal(once.endmembers, again.endmembers)


def test_one_endmember_is_the_best_multiple_of_all_pixels():
    pixels = (separable(1, pixels=120, bands=20)[0] * np.linspace(0.5, 1, 120)[:, None]).astype(np.float32)
    found = nmf(KEY, pixels, 1, l_half=0, sum_to_one=0)
    assert_close(found.abundances @ found.endmembers, pixels)


@pytest.mark.parametrize(
    ("pixels", "options", "message"),
    [
        (separable(3)[0], {"count": 0}, "count=0"),
        (separable(3)[0], {"count": 31}, "30 endmembers .* got count=31"),
        (separable(3)[0][:5], {"count": 6}, "6 endmembers were asked of 5 valid pixels"),
        (separable(3)[0], {"count": 6}, "span only"),
        (np.full((20, 5), np.nan), {"count": 2}, "none of the 20 pixels"),
        (separable(3)[0] - 0.2, {"count": 3}, "nonnegative, .* got -0.0"),
        (np.ones(5), {"count": 2}, r"got \(5,\)"),
        (separable(3)[0], {"count": 3, "starts": 0}, "starts must be at least 1, got 0"),
        (separable(3)[0], {"count": 3, "start": np.ones((2, 30))}, r"\(3, 30\), got \(2, 30\)"),
        (separable(3)[0], {"count": 2, "start": -np.ones((2, 30))}, "its least is -1"),
    ],
)
def test_impossible_requests_are_refused(pixels, options, message):
    with pytest.raises(ValueError, match=message):
        nmf(KEY, pixels, **options)


def test_samson_is_as_good_as_known(shared_data):
    with np.load(shared_data / "samson" / "samson.npz", allow_pickle=False) as file:
        cube, reference = file["Y"][::5, ::5], file["E"]
        truth = file["A_alt"][::5, ::5]  # in the scale of the scene
    found = nmf(KEY, cube, 3)
    assert found.converged
    assert abs(mean_sad(found.endmembers, reference) - 0.135) < 0.03
    order = align(found.endmembers, reference)
    assert float(rmse(found.abundances[..., order], truth)) < 0.15
