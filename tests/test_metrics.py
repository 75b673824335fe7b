"""Metrics against closed forms and SciPy, alignment, and the score of a solution."""

from dataclasses import replace
from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close
from scipy.stats import entropy

from unmix_jax.metrics import (
    align,
    consistency,
    coverage,
    mean_sad,
    reconstruction_rmse,
    rmse,
    rmse_per_endmember,
    sad,
    score,
    sid,
    sre,
    summed_squared_error,
)
from unmix_jax.scenes.scene import Scene, SpectralLibrary
from unmix_jax.types import Solution

RNG = np.random.default_rng(11)
ERRORS = {
    "rmse": (rmse, lambda d, x: np.sqrt(np.mean(d**2))),
    "rmse_per_endmember": (rmse_per_endmember, lambda d, x: np.mean(np.sqrt(np.mean(d**2, axis=(0, 1))))),
    "summed_squared_error": (summed_squared_error, lambda d, x: np.mean(np.sum(d**2, axis=-1))),
    "reconstruction_rmse": (reconstruction_rmse, lambda d, x: np.sqrt(np.mean(d**2))),
    "sre": (sre, lambda d, x: 10 * np.log10(np.sum(x**2) / np.sum(d**2))),
}


@pytest.mark.parametrize(("error", "oracle"), ERRORS.values(), ids=ERRORS.keys())
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_errors_are_their_definitions(error, oracle, dtype):
    estimated, reference = RNG.uniform(size=(2, 5, 7, 3)).astype(dtype)
    with jax.enable_x64(dtype == np.float64):
        found = error(estimated, reference)
    assert found.dtype == dtype
    assert_close(found, oracle((estimated - reference).astype(float), reference.astype(float)))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, 0.3, np.pi / 2, 3.0, np.pi])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e5])
def test_sad_is_the_angle_at_any_scale(angle, scale):
    u = np.asarray([1.0, 0.0, 0.0])
    v = scale * np.asarray([np.cos(angle), 0.0, np.sin(angle)])
    np.testing.assert_allclose(sad(u, v), angle, rtol=1e-12, atol=1e-15)


def test_sad_is_the_arccos_and_broadcasts():
    u, v = RNG.uniform(0.1, 1, (4, 1, 9)), RNG.uniform(0.1, 1, (3, 9))
    cosine = np.sum(u * v, -1) / (np.linalg.norm(u, axis=-1) * np.linalg.norm(v, axis=-1))
    assert sad(u, v).shape == (4, 3)
    assert_close(sad(u, v), np.arccos(cosine))


def test_sid_is_the_sum_of_two_relative_entropies():
    u, v = RNG.uniform(0.1, 1, (2, 5, 9))
    expected = [entropy(a, b) + entropy(b, a) for a, b in zip(u, v, strict=True)]
    assert_close(sid(u, v), np.asarray(expected))
    assert_close(sid(3 * u, v), sid(u, v))
    assert float(sid(np.asarray([0.0, -0.1, 1.0]), np.asarray([1.0, 0.5, 0.0]))) > 1


SCALES = {np.float32: (1e-15, 1e-7, 1e-6, 1e-3, 1e4, 1e15), np.float64: (1e-170, 1e-30, 1e-16, 1e-7, 1e16, 1e30, 1e170)}


@pytest.mark.parametrize(("dtype", "scale"), [(dtype, scale) for dtype, scales in SCALES.items() for scale in scales])
@pytest.mark.parametrize("distance", [sad, sid], ids=lambda f: f.__name__)
def test_the_unit_of_either_spectrum_does_not_matter(distance, dtype, scale):
    rng = np.random.default_rng(4)
    u, v = rng.uniform(size=(2, 5, 30)) ** 6  # values of very different size: 1e-9 of the greatest occurs
    u[0, :4], v[1, 3:6] = 0.0, -0.1
    with jax.enable_x64(dtype == np.float64):
        expected = np.asarray(distance(u.astype(dtype), v.astype(dtype)))
        for one, other in ((scale, 1.0), (1.0, scale), (scale, scale), (scale, 1 / scale)):
            found = distance((one * u).astype(dtype), (other * v).astype(dtype))
            np.testing.assert_allclose(found, expected, rtol=30 * float(np.finfo(dtype).eps))
    if distance is sid:
        positive = [np.maximum(s, np.finfo(dtype).eps * s.max(-1, keepdims=True)).T for s in (u, v)]
        oracle = entropy(*positive) + entropy(*positive[::-1])
        np.testing.assert_allclose(expected, oracle, rtol=1e-5)


@pytest.mark.parametrize("error", [rmse, rmse_per_endmember, reconstruction_rmse], ids=lambda f: f.__name__)
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_errors_are_in_the_unit_of_what_is_compared(error, scale):
    estimated, reference = np.random.default_rng(5).uniform(size=(2, 6, 4)).astype(np.float32)
    found = error(np.float32(scale) * estimated, np.float32(scale) * reference)
    np.testing.assert_allclose(found / np.float32(scale), error(estimated, reference), rtol=1e-5)
    np.testing.assert_allclose(
        sre(np.float32(scale) * estimated, np.float32(scale) * reference), sre(estimated, reference), rtol=1e-5
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("loss", [sad, sid, rmse, rmse_per_endmember, reconstruction_rmse], ids=lambda f: f.__name__)
def test_gradients_equal_differences_and_are_finite_where_it_hurts(loss):
    u, v = RNG.uniform(0.1, 1, (2, 4, 6))
    total = lambda x: jnp.sum(loss(x, v))  # noqa: E731
    gradient = jax.grad(total)(jnp.asarray(u))
    step = RNG.standard_normal(u.shape)
    difference = (total(u + 1e-6 * step) - total(u - 1e-6 * step)) / 2e-6
    np.testing.assert_allclose(jnp.sum(gradient * step), difference, rtol=1e-6)
    for x, y in [(v, v), (np.zeros_like(v), v), (-v, v)]:
        for argument in (0, 1):
            assert jnp.isfinite(
                jax.grad(lambda a, b: jnp.sum(loss(a, b)), argument)(jnp.asarray(x), jnp.asarray(y))
            ).all()


def test_coverage_of_gaussian_errors():
    truth, std = RNG.uniform(size=20000), RNG.uniform(0.1, 2, 20000)
    estimated = truth + std * RNG.standard_normal(20000)
    np.testing.assert_allclose(coverage(estimated, std, truth), 0.6827, atol=0.01)
    np.testing.assert_allclose(coverage(estimated, std, truth, sigmas=2.0), 0.9545, atol=0.01)
    assert coverage(truth, 0 * std, truth) == 1


def test_alignment_is_the_best_of_all_permutations():
    reference = RNG.uniform(size=(4, 12))
    found = (reference + RNG.normal(0, 0.3, reference.shape))[[2, 0, 3, 1]] * RNG.uniform(0.5, 2, (4, 1))
    total = lambda order: float(jnp.sum(sad(found[list(order)], reference)))  # noqa: E731
    best = min(permutations(range(4)), key=total)
    assert align(found, reference).tolist() == list(best)
    assert_close(np.float32(mean_sad(found, reference)), total(best) / 4)


def test_alignment_leaves_out_surplus_estimates_and_unfinite_bands():
    reference = RNG.uniform(size=(3, 12))
    found = np.concatenate([RNG.uniform(size=(1, 12)), reference[::-1]])
    found[:, 5], reference[0, 7] = np.nan, np.nan
    assert align(found, reference).tolist() == [3, 2, 1]
    assert mean_sad(found, reference) < 1e-6


@pytest.mark.parametrize(
    ("shapes", "message"),
    [(((2, 5), (3, 5)), "2 estimated"), (((3, 4), (3, 5)), r"\(3, 4\) and \(3, 5\)")],
)
def test_what_cannot_be_aligned_is_refused(shapes, message):
    with pytest.raises(ValueError, match=message):
        align(np.ones(shapes[0]), np.ones(shapes[1]))
    with pytest.raises(ValueError, match="no band"):
        align(np.full((2, 3), np.nan), np.ones((2, 3)))


def test_consistency_is_zero_for_permuted_sets_and_the_mean_over_pairs_otherwise():
    one = RNG.uniform(size=(3, 10))
    assert consistency(np.stack([one, one[[1, 2, 0]], 2 * one[::-1]])) < 1e-6
    sets = RNG.uniform(size=(3, 3, 10))
    pairs = [mean_sad(sets[0], sets[1]), mean_sad(sets[0], sets[2]), mean_sad(sets[1], sets[2])]
    assert_close(consistency(sets), np.mean(pairs))
    with pytest.raises(ValueError, match="at least 2"):
        consistency(sets[:1])


def solved(abundances, *, covariance=None):
    pixels = abundances.shape[:-1]
    return Solution(
        jnp.asarray(abundances),
        residual=jnp.full(pixels, 0.25),
        gap=jnp.full(pixels, 1e-7),
        steps=jnp.ones(pixels, jnp.int32),
        converged=jnp.ones(pixels, bool),
        covariance=covariance,
    )


@pytest.fixture
def toy():
    """A 4 x 5 scene with references, a bad band, and its exact solution with one pixel masked."""
    endmembers = RNG.uniform(0.1, 1, (3, 8)).astype(np.float32)
    abundances = RNG.dirichlet(np.ones(3), (4, 5)).astype(np.float32)
    library = SpectralLibrary(endmembers, names=("soil", "tree", "water"))
    scene = Scene(
        abundances @ endmembers,
        good_bands=np.arange(8) != 2,
        endmembers=library,
        abundances=abundances,
        abundance_names=library.names,
    )
    estimated = abundances.copy()
    estimated[1, 2] = np.nan
    return scene, estimated


def test_score_of_the_truth_in_another_order(toy):
    scene, estimated = toy
    order = [2, 0, 1]
    found = np.array(scene.endmembers.spectra)[order]
    found[:, 2] = np.nan
    variance = jnp.broadcast_to(1e-4 * jnp.eye(3), (4, 5, 3, 3))
    numbers = score(solved(estimated[..., order], covariance=variance), scene, endmembers=found)
    assert (numbers["pixels_scored"], numbers["pixels_total"]) == (19, 20)
    assert numbers["rmse"] == numbers["rmse_per_endmember"] == numbers["rmse_tree"] == 0
    assert numbers["sre"] == np.inf
    assert max(numbers["mean_sad"], numbers["sad_water"]) < 1e-6
    assert numbers["coverage_1sigma"] == numbers["coverage_2sigma"] == 1
    assert_close(numbers["reconstruction_rmse"], 0.25)
    assert numbers["converged_share"] == 1
    assert_close(np.float32(numbers["gap_max"]), 1e-7)


def test_score_names_the_errors_of_each_endmember(toy):
    scene, estimated = toy
    shifted = estimated + np.asarray([0.1, 0.0, -0.2], np.float32)
    numbers = score(solved(shifted), scene)
    found = [numbers[name] for name in ("rmse_soil", "rmse_tree", "rmse_water", "rmse", "rmse_per_endmember")]
    np.testing.assert_allclose(found, [0.1, 0.0, 0.2, np.sqrt(0.05 / 3), 0.1], atol=1e-6)
    np.testing.assert_allclose(numbers["summed_squared_error"], 0.05, rtol=1e-5)
    assert "mean_sad" not in numbers


def test_score_without_references_says_what_it_can(toy):
    scene, estimated = toy
    numbers = score(solved(estimated), Scene(scene.cube), endmembers=scene.endmembers)
    assert set(numbers) == {
        "pixels_scored",
        "pixels_total",
        "converged_share",
        "gap_max",
        "reconstruction_rmse",
    }


@pytest.mark.parametrize(
    ("bounds", "certified", "largest", "median", "without"),
    [
        ((1e-5, 3e-5, 2e-5, 1e-2), 2 / 4, 1e-2, 2.5e-5, 0.0),
        ((1e-5, np.inf, 3e-5, np.nan), 2 / 4, 3e-5, 2e-5, 0.5),
        ((np.inf,) * 4, 0.0, np.nan, np.nan, 1.0),
    ],
)
def test_score_says_what_is_certified(bounds, certified, largest, median, without):
    """The second pixel has no gap, and what is above the limit or infinite did not converge."""
    abundances = np.full((5, 2), 0.5, np.float32)
    abundances[4] = np.nan  # masked
    bound = np.asarray([*bounds, np.nan], np.float32)
    solution = replace(
        solved(abundances), abundance_bound=bound, gap=np.asarray([1e-7, np.nan, 1e-7, 1e-7, np.nan], np.float32),
        converged=bound < 1e-3,
    )  # fmt: skip
    numbers = score(solution, Scene(np.ones((5, 8), np.float32)))
    expected = {
        "certified_share": certified, "abundance_bound_max": largest, "abundance_bound_median": median,
        "without_bound_share": without,
    }  # fmt: skip
    np.testing.assert_allclose([numbers[name] for name in expected], list(expected.values()), rtol=1e-6)


def test_score_sums_endmembers_into_the_classes_of_the_reference():
    members = RNG.dirichlet(np.ones(4), 6).astype(np.float32)
    library = SpectralLibrary(
        RNG.uniform(0.1, 1, (4, 8)), names=("a1", "b1", "a2", "black"), classes=("a", "b", "a", "")
    )
    truth = np.stack([members[:, 0] + members[:, 2], members[:, 1]], axis=1)
    scene = Scene(members @ library.spectra, endmembers=library, abundances=truth, abundance_names=("a", "b"))
    assert score(solved(members), scene)["rmse"] < 1e-7
    assert score(solved(members[:, ::-1]), scene, endmembers=library.select([3, 2, 1, 0]))["rmse"] < 1e-7


def test_score_counts_members_that_the_reference_does_not_name_as_absent():
    members = np.zeros((6, 4), np.float32)
    members[:, [3, 1]] = RNG.dirichlet(np.ones(2), 6)
    library = SpectralLibrary(RNG.uniform(0.1, 1, (4, 8)), names=("a", "b", "c", "d"))
    scene = Scene(
        members @ library.spectra,
        endmembers=library,
        abundances=members[:, [3, 1]],
        abundance_names=("d", "b"),
    )
    assert score(solved(members), scene)["rmse"] == 0
    wrong = members + np.asarray([0.2, 0, 0, 0], np.float32)
    assert_close(np.float32(score(solved(wrong), scene)["summed_squared_error"]), 0.04)


def test_score_refuses_what_does_not_match(toy):
    scene, estimated = toy
    with pytest.raises(ValueError, match="the solution has pixels"):
        score(solved(estimated[:2]), scene)
    with pytest.raises(ValueError, match="none of the 20 pixels"):
        score(solved(np.full((4, 5, 3), np.nan)), scene)
    with pytest.raises(ValueError, match="2 abundances, the reference of the scene 3"):
        score(solved(estimated[..., :2]), scene)
