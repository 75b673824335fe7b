"""Blind unmixing: the choice among runs, the gauge of the read-out, refinement, and what is never trained on."""

import dataclasses

import jax
import jaxtyping
import numpy as np
import pytest
from helpers import assert_close

from unmix_jax import readout
from unmix_jax.blind import consensus, unmix_blind
from unmix_jax.metrics import align, mean_sad
from unmix_jax.networks.recipes import follow
from unmix_jax.networks.zoo import RECIPES
from unmix_jax.readout import read_out, refine
from unmix_jax.scenes.scene import Scene
from unmix_jax.types import Solution

COUNT, BANDS, SIDE = 3, 16, 20
RNG = np.random.default_rng(5)
WAVE = np.linspace(0, 1, BANDS)
ENDMEMBERS = 0.5 + 0.4 * np.sin(np.asarray([[3.0], [7.0], [12.0]]) * WAVE + [[0.0], [1.0], [2.0]])
TRUTH = RNG.dirichlet(np.full(COUNT, 0.2), SIDE * SIDE)
PIXELS = (TRUTH @ ENDMEMBERS + 0.002 * RNG.standard_normal((SIDE * SIDE, BANDS))).astype(np.float32)
UNIT_PEAK = ENDMEMBERS / ENDMEMBERS.max(1, keepdims=True)
KEY = jax.random.key(0)


@pytest.fixture
def quick(monkeypatch):
    """All recipes for two epochs only."""
    for name, recipe in list(RECIPES.items()):
        few = 16 if recipe.neighbours else 64
        short = dataclasses.replace(recipe.schedule, epochs=len(recipe.schedule.alternate) + 1, sample=few)
        window = (6, 6) if recipe.neighbours else recipe.window
        monkeypatch.setitem(RECIPES, name, recipe._replace(schedule=short, window=window))


def error(found):
    return float(mean_sad(found[align(found, ENDMEMBERS)], ENDMEMBERS))


def test_the_run_nearest_to_all_others_is_chosen_whatever_the_order_of_its_endmembers():
    sets = np.stack([ENDMEMBERS + 0.02 * k * RNG.standard_normal(ENDMEMBERS.shape) for k in (1, 0, 2, 3)])
    agreed = consensus(sets)
    assert agreed.chosen == 1
    shuffled = np.stack([own[RNG.permutation(COUNT)] * RNG.uniform(0.5, 2, (COUNT, 1)) for own in sets])
    again = consensus(shuffled)
    assert again.chosen == 1
    np.testing.assert_allclose(again.distances, agreed.distances, atol=1e-6)
    assert_close(agreed.consistency, agreed.distances[np.triu_indices(4, 1)].mean())
    assert consensus(np.stack([ENDMEMBERS, ENDMEMBERS[::-1]])).consistency < 1e-7


def test_collapsed_runs_do_not_count():
    twice = ENDMEMBERS[[0, 0, 2]] * [[1.0], [3.0], [1.0]]
    nothing, nan = ENDMEMBERS.copy(), ENDMEMBERS.copy()
    nothing[1], nan[0, 0] = 0, np.nan
    agreed = consensus(np.stack([twice, ENDMEMBERS, nothing, nan, ENDMEMBERS]), np.arange(5) == 4)
    np.testing.assert_array_equal(agreed.collapsed, [True, False, True, True, True])
    assert agreed.chosen == 1
    assert np.isnan(agreed.consistency)  # one run agrees with nobody
    with pytest.raises(ValueError, match="all 2 runs have collapsed"):
        consensus(np.stack([twice, nothing]))


def test_the_projective_gauge_is_blind_to_brightness_and_to_scales_of_endmembers():
    clean = TRUTH @ UNIT_PEAK
    for endmembers, pixels in (
        (UNIT_PEAK, clean),
        (3 * ENDMEMBERS, clean),
        (UNIT_PEAK, clean * RNG.uniform(1, 9, (400, 1))),
    ):
        found = read_out(pixels.astype(np.float32), endmembers)
        assert_close(found.abundances, TRUTH)
        assert_close(found.fitted @ np.float32(endmembers), np.float32(pixels), scale=pixels.max())
    radiometric = read_out(TRUTH @ ENDMEMBERS, ENDMEMBERS, "fcls")
    assert_close(radiometric.abundances, TRUTH)


@pytest.mark.parametrize("gauge", ["fcls", "projective"])
def test_bands_without_endmembers_do_not_count(gauge):
    holed, pixels = ENDMEMBERS.copy(), PIXELS.copy()
    holed[:, 3], pixels[:, 3] = np.nan, 1e3
    kept = np.arange(BANDS) != 3
    found = read_out(pixels, holed, gauge)
    assert_close(found.abundances, read_out(PIXELS[:, kept], ENDMEMBERS[:, kept], gauge).abundances)


@pytest.mark.parametrize("gauge", ["fcls", "projective"])
def test_bad_bands_of_a_scene_do_not_count_whatever_the_endmembers_know(gauge):
    cube = PIXELS.reshape(SIDE, SIDE, BANDS).copy()
    cube[..., 5] = 77.0
    good = np.arange(BANDS) != 5
    expected = read_out(PIXELS[:, good], ENDMEMBERS[:, good], gauge).abundances.reshape(SIDE, SIDE, COUNT)
    assert_close(read_out(Scene(cube, good_bands=good), ENDMEMBERS, gauge).abundances, expected)
    holed = ENDMEMBERS.copy()
    holed[:, 9] = np.nan
    both = good & (np.arange(BANDS) != 9)
    expected = read_out(PIXELS[:, both], ENDMEMBERS[:, both], gauge).abundances.reshape(SIDE, SIDE, COUNT)
    assert_close(read_out(Scene(cube, good_bands=good), holed, gauge).abundances, expected)


def test_a_pixel_without_a_positive_part_has_no_shares_and_says_so():
    found = read_out(np.concatenate([PIXELS[:3], -PIXELS[3:5]]), ENDMEMBERS)
    np.testing.assert_array_equal(found.converged, [True, True, True, False, False])
    np.testing.assert_array_equal(np.isnan(found.abundances).any(1), ~found.converged)


@pytest.mark.usefixtures("x64")
def test_the_bound_of_the_projective_gauge_is_that_of_the_shares(monkeypatch):
    """No weights within the solver's bound have shares farther than the bound says; what is not proved has not
    converged."""
    weights = np.array([[0.5, 0.3, 0.2], [0.005, 0.003, 0.002], [2.0, 3.0, 0.0], [1e-7, 0, 0], [1, 1, 1], [0, 0, 0]])
    delta = np.array([1e-8, 1e-8, 1e-7, 1e-7, np.inf, 1e-9])
    for bound in (delta, None):
        told = Solution(weights, np.zeros(6), np.zeros(6), np.ones(6, int), np.isfinite(delta), abundance_bound=bound)
        monkeypatch.setattr(readout, "unmix", lambda *_, told=told, **__: told)
        found = read_out(PIXELS[:6], ENDMEMBERS)
        if bound is None:
            assert found.abundance_bound is None
            np.testing.assert_array_equal(found.converged, [True, True, True, True, False, False])
            continue
        corners = np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1).T
        moved = weights[:3, None] + delta[:3, None, None] * corners
        far = np.abs(moved / moved.sum(-1, keepdims=True) - found.abundances[:3, None]).max((1, 2))
        assert (far <= found.abundance_bound[:3]).all()
        assert (found.abundance_bound[:3] <= 1.01 * far + 1e-14).all()
        np.testing.assert_array_equal(found.abundance_bound[3:], [np.inf, np.inf, np.nan])
        np.testing.assert_array_equal(found.converged, found.abundance_bound <= 1e-6)
        np.testing.assert_array_equal(found.converged, [True, False, True, False, False, False])


def test_alike_is_a_matter_of_scale():
    wavy = 0.95 + 0.015 * np.sin(np.asarray([[3.0], [7.0], [12.0]]) * WAVE)  # emissivities
    assert not consensus(np.stack([wavy, wavy[::-1]])).collapsed.any()
    twins = wavy[[0, 0, 2]] + 1e-6 * np.sin(40 * WAVE)
    assert consensus(np.stack([wavy, twins])).collapsed.tolist() == [False, True]


def test_small_scenes_are_refined_without_making_two_endmembers_one():
    pixels = np.repeat(ENDMEMBERS, 10, 0) * (1 + 0.01 * RNG.standard_normal((30, 1)))
    assert error(refine(pixels, ENDMEMBERS).endmembers) < 0.01
    end = refine(PIXELS[:18], ENDMEMBERS)
    assert not consensus(end.endmembers[None]).collapsed.any()
    more = refine(PIXELS, np.concatenate([ENDMEMBERS, ENDMEMBERS[:1] * 0.5 + ENDMEMBERS[1:2] * 0.5]), (0.5, 0.9))
    assert np.isinf(more.angles).all() or not consensus(more.endmembers[None]).collapsed.any()


def test_refinement_finds_the_same_endmembers_from_every_start():
    mixed = np.asarray([[0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.2, 0.1, 0.7]])
    ends = [refine(PIXELS, way @ ENDMEMBERS) for way in (mixed, mixed[::-1], np.eye(COUNT))]
    for end in ends:
        assert error(end.endmembers) < 0.4 * error(mixed @ ENDMEMBERS)
        assert error(end.endmembers) < 0.02
        assert mean_sad(end.endmembers[align(end.endmembers, ends[0].endmembers)], ends[0].endmembers) < 1e-3
        best = end.angles.min()
        assert end.threshold in end.thresholds
        assert end.angles[list(end.thresholds).index(end.threshold)] <= 1.01 * best
        assert (end.angles[end.thresholds < end.threshold] > 1.01 * best).all()


def test_refined_endmembers_have_the_length_of_their_pixels():
    end = refine(7 * PIXELS, ENDMEMBERS, 0.9)
    own = end.endmembers[align(end.endmembers, ENDMEMBERS)]
    np.testing.assert_allclose(np.linalg.norm(own, axis=1), 7 * np.linalg.norm(ENDMEMBERS, axis=1), rtol=0.1)
    assert end.threshold == 0.9


@pytest.mark.parametrize("method", ["recommended", "endnet", "mtaeu", "cnnaeu", "archetypal", "nmf"])
def test_every_method_and_what_it_never_trains_on(method, quick):
    cube = PIXELS.reshape(SIDE, SIDE, BANDS)
    mask, good = np.ones((SIDE, SIDE), bool), np.ones(BANDS, bool)
    mask[:3], good[5] = False, False
    other = cube.copy()
    other[:3] *= -5
    other[..., 5] = 77.0
    found, again = (
        unmix_blind(KEY, Scene(values, good_bands=good, mask=mask), COUNT, method=method, seeds=2)
        for values in (cube, other)
    )
    assert_close(found.endmembers, again.endmembers)
    assert np.isnan(found.endmembers[:, 5]).all()
    assert np.isfinite(found.endmembers[:, good]).all()
    shares = np.asarray(found.solution.abundances)
    assert np.isnan(shares[:3]).all()
    assert_close(shares[3:].sum(-1), np.ones((SIDE - 3, SIDE)))
    assert found.runs.shape == (2, COUNT, BANDS)
    assert (found.gauge, found.method) == ("projective", method)
    assert (found.refinement is not None) == (method == "recommended")


@pytest.mark.parametrize("method", ["simple", "archetypal", "nmf"])
def test_as_the_method_itself_returns_them(method, quick):
    found = unmix_blind(KEY, PIXELS, COUNT, method=method, seeds=2, gauge="own")
    shares = np.asarray(found.solution.abundances)
    assert shares.min() >= 0
    np.testing.assert_allclose(shares.sum(-1), 1, atol=0.05 if method == "nmf" else 1e-5)  # which is soft in NMF
    left = np.sqrt(np.mean((PIXELS - shares @ found.endmembers) ** 2, 1))
    assert_close(found.solution.residual, left, scale=0.1)
    assert np.isnan(found.solution.gap).all()


@pytest.mark.parametrize("method", ["mtaeu", "cnnaeu"])
def test_methods_that_look_at_windows_as_they_return_abundances(method, quick):
    cube = PIXELS.reshape(SIDE, SIDE, BANDS)[:, :17]  # no multiple of four pixels in a row
    mask = np.ones((SIDE, 17), bool)
    mask[4, 3] = mask[10:12, 8] = False
    found = unmix_blind(KEY, Scene(cube, mask=mask), COUNT, method=method, seeds=1, gauge="own")
    shares = np.asarray(found.solution.abundances)
    np.testing.assert_array_equal(np.isnan(shares).any(-1), ~mask)
    assert_close(shares[mask].sum(-1), np.ones(mask.sum(), np.float32))
    np.testing.assert_array_equal(np.isfinite(found.solution.residual), mask)
    np.testing.assert_array_equal(found.solution.converged, mask)


def test_a_convolutional_network_unmixes_strips_as_it_does_the_image(quick, monkeypatch):
    cube, mask = PIXELS.reshape(SIDE, SIDE, BANDS), np.ones((SIDE, SIDE), bool)
    whole = unmix_blind(KEY, cube, COUNT, method="cnnaeu", seeds=1, gauge="own")
    monkeypatch.setattr("unmix_jax.blind.STRIP", 5)
    strips = unmix_blind(KEY, cube, COUNT, method="cnnaeu", seeds=1, gauge="own")
    assert_close(strips.solution.abundances, whole.solution.abundances)
    assert_close(strips.solution.residual, whole.solution.residual)
    trained = follow(
        RECIPES["cnnaeu"], PIXELS, COUNT, keys=jax.random.split(KEY, 1), valid=mask
    )  # fmt: skip
    by_hand, rendered, _ = trained.unmixer(0).network(cube[None] / trained.scale, trained.unmixer(0).state, None)
    assert_close(whole.solution.abundances, by_hand[0])
    left = np.sqrt(np.mean((cube - trained.scale * rendered[0]) ** 2, -1))
    assert_close(whole.solution.residual, left, scale=1)


def test_scenes_without_a_window_of_valid_pixels(quick):
    cube, holes = PIXELS.reshape(SIDE, SIDE, BANDS), np.ones((SIDE, SIDE), bool)
    holes[::3] = False
    for pixels, method, message in (
        (PIXELS, "mtaeu", r"needs an image \[row, column, band\]"),
        (cube[:, :3], "mtaeu", "windows of 1 × 4 pixels, the scene has only 20 × 3"),
        (cube[:5], "cnnaeu", "windows of 6 × 6 pixels, the scene has only 5 × 20"),
        (Scene(cube, mask=holes), "cnnaeu", "every window of 6 × 6 pixels holds an invalid one"),
    ):
        with pytest.raises(ValueError, match=message):
            unmix_blind(KEY, pixels, COUNT, method=method, seeds=1)


def test_the_recommended_method_beats_its_own_runs(monkeypatch):
    recipe = RECIPES["daeu_sad"]
    schedule = dataclasses.replace(recipe.schedule, epochs=15, sample=600)
    monkeypatch.setitem(RECIPES, "daeu_sad", recipe._replace(schedule=schedule))
    found = unmix_blind(KEY, PIXELS, COUNT, seeds=3)
    assert error(found.endmembers) < 0.02
    assert error(found.endmembers) < 0.5 * np.median([error(run) for run in found.runs])


@pytest.mark.parametrize("method", ["sidaeu", "endnet", "ospaeu"])
def test_a_dead_band_that_nobody_marked(method, quick):
    dead = PIXELS.copy()
    dead[:, 4] = 0
    found = unmix_blind(KEY, dead, COUNT, method=method, seeds=1)
    assert np.isfinite(found.endmembers).all()
    assert (found.stopped == -1).all()
    assert_close(found.solution.abundances.sum(1), np.ones(len(dead), np.float32))


def test_integers_and_double_precision(quick):
    counts = np.round(1e4 * PIXELS).astype(np.int16)
    found = [
        unmix_blind(KEY, pixels, COUNT, method="simple", seeds=1) for pixels in (counts, counts.astype(np.float64))
    ]
    assert np.isfinite(found[0].endmembers).all()
    assert_close(found[0].endmembers, np.float32(found[1].endmembers), scale=1e4)
    assert np.isnan(found[0].consensus.consistency)


def test_endmembers_of_networks_are_as_bright_as_pure_pixels(quick):
    found = unmix_blind(KEY, 50 * PIXELS, COUNT, method="endnet", seeds=1, gauge="fcls")
    own = found.endmembers[align(found.endmembers, ENDMEMBERS)]
    np.testing.assert_allclose(np.linalg.norm(own, axis=1), 50 * np.linalg.norm(ENDMEMBERS, axis=1), rtol=0.15)


def test_a_glaring_pixel_is_told(quick):
    glaring = PIXELS.copy()
    glaring[7] *= 1000
    with pytest.warns(UserWarning, match="brightest pixel"):
        unmix_blind(KEY, glaring, COUNT, method="simple", seeds=1)


def test_a_run_that_was_stopped_goes_on(tmp_path, quick):
    done, options = [], {"seeds": 2, "checkpoint": tmp_path / "run.npz"}
    whole = unmix_blind(KEY, PIXELS, COUNT, method="simple", **options)
    again = unmix_blind(KEY, PIXELS, COUNT, method="simple", progress=lambda *at: done.append(at), **options)
    assert not done  # nothing was left to do
    assert_close(again.endmembers, whole.endmembers)
    with pytest.raises(ValueError, match="holds another run"):
        unmix_blind(KEY, 2 * PIXELS + 0.1, COUNT, method="simple", **options)
    with pytest.raises(ValueError, match="holds another run"):
        unmix_blind(KEY, PIXELS, COUNT, method="simple_cosine", **options)


@pytest.mark.parametrize(
    ("pixels", "options", "message"),
    [
        (PIXELS, {"method": "magic"}, "method is one of recommended, simple"),
        (PIXELS, {"gauge": "own"}, "refined endmembers"),
        (PIXELS, {"gauge": "any", "method": "simple"}, "gauge is 'own'"),
        (PIXELS, {"count": 1}, "at least 2 endmembers"),
        (PIXELS, {"seeds": 0}, "and 0"),
        (PIXELS, {"count": 40}, "at most 16 endmembers"),
        ((TRUTH[:, :1] + 1) @ ENDMEMBERS[:1], {}, "span only 1 dimension"),
        (np.zeros((30, BANDS)), {}, "none of the 30 pixels is valid"),
        (np.full((30, BANDS), np.nan), {}, "none of the 30 pixels is valid"),
    ],
)
def test_bad_input(pixels, options, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        unmix_blind(KEY, pixels, **{"count": COUNT, "seeds": 2, **options})


def test_bad_read_outs(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match="got 'own'"):
        read_out(PIXELS, ENDMEMBERS, "own")
    with pytest.raises(ValueError, match="endmember 1 has no positive value"):
        read_out(PIXELS, ENDMEMBERS * [[1.0], [0.0], [1.0]])
    with pytest.raises(ValueError, match="shares between 0 and 1"):
        refine(PIXELS, ENDMEMBERS, (0.5, 1.0))
    with pytest.raises(ValueError, match="not empty"):
        consensus(np.zeros((0, 3, 4)))
