"""No solver claims more than it has: bounds, `converged` and `unique` against an exact oracle, on hard problems.

A solver is a row of `claims.METHODS`. Sizes are few, so that few programs are compiled; `experiments/honesty.py` draws
many more problems, of all sizes.
"""

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from solvers import oracles
from solvers.cases import SOLVERS, oracle, scene
from solvers.claims import LIBRARIES, METHODS, Problem, judged, libraries, problem, truth

needs_long_double = pytest.mark.skipif(not oracles.EXACT_ENOUGH, reason="long double is float64 on this machine")
pytestmark = needs_long_double

SHAPES = ((6, 64), (30, 12), (60, 64))  # endmembers, bands; options are tried with the first only
PIXELS = 40
SMALLEST = {"float32": 15, "float64": 25}  # decades of the unit
CLOSEST = {"float32": 6, "float64": 9}  # decades of the difference of collinear spectra

over_precisions = pytest.mark.parametrize("dtype", ["float32", "float64"])
over_methods = pytest.mark.parametrize("name", METHODS)


@st.composite
def choices(draw, name: str, dtype: str) -> dict:
    """Any problem that a method takes, in words: arguments of `problem`, and the seed of its random numbers."""
    option = draw(st.sampled_from(METHODS[name].options))
    count, bands = draw(st.sampled_from(SHAPES if option == "plain" else SHAPES[:1]))
    decades = SMALLEST[dtype]
    return {
        "seed": draw(st.integers(0, 2**32 - 1)),
        "library": draw(st.sampled_from(libraries())),
        "option": option,
        "count": count,
        "bands": bands,
        "closeness": 10.0 ** -draw(st.integers(2, CLOSEST[dtype])),
        "scale": 10.0 ** draw(st.integers(-decades, decades)) if draw(st.booleans()) else 1.0,
        "dimming": 10.0 ** -draw(st.integers(0, 6)) if draw(st.booleans()) else 1.0,
        "penalty": draw(st.sampled_from([0.0, 1e-6, 1e-3, 0.1])) if METHODS[name].penalty else 0.0,
    }


@over_precisions
@over_methods
def test_no_pixel_claims_more_than_it_has(name, dtype):
    # no shrinking: a smaller problem of another size is compiled again
    @settings(max_examples=4, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
    @given(choices(name, dtype))
    def law(choice):
        seed = choice.pop("seed")
        verdict = judged(name, problem(np.random.default_rng(seed), dtype, pixels=PIXELS, **choice))
        wrong = np.flatnonzero(verdict.wrong)
        claims = f"error over bound is {verdict.ratio[wrong]} in pixels {wrong}" if wrong.size else ""
        assert not claims

    law()


@over_precisions
@pytest.mark.parametrize("option", ["baseline", "noise_covariance"])
@pytest.mark.parametrize("name", SOLVERS)
def test_what_is_taken_away_leaves_its_rounding(name, option, dtype):
    """Bright spectra of little contrast: a constant, or noise that all bands share, is nearly all of a pixel."""
    rng = np.random.default_rng(0)
    endmembers = (100 + rng.normal(size=(4, 64))).astype(dtype)
    pixels = rng.dirichlet(np.ones(4), PIXELS) @ endmembers + 0.1 * rng.normal(size=(PIXELS, 64))
    alike = {"baseline": np.ones((1, 64)), "noise_covariance": 0.01 * np.eye(64) + 1}
    given = {option: alike[option]}
    verdict = judged(name, Problem(pixels.astype(dtype), endmembers, given, 0.0))
    assert not verdict.wrong.any()


@over_precisions
@pytest.mark.parametrize("closeness", [1e-3, 1e-5])
@pytest.mark.parametrize("name", ["ucls", "fcls"])
def test_a_poor_fit_pulls_at_the_rounding_of_the_endmembers(name, closeness, dtype):
    """With the square of the condition number, where what is left is as large as the pixel."""
    rng = np.random.default_rng(1)
    endmembers = rng.uniform(0.2, 0.8, (3, 60))
    endmembers[2] = endmembers[0] + closeness * rng.normal(size=60)
    off = rng.normal(size=(PIXELS, 60))
    span = np.linalg.qr(endmembers.T)[0]
    off = 3 * (off - off @ span @ span.T) / np.linalg.norm(off, axis=1, keepdims=True)
    pixels = rng.dirichlet(np.full(3, 5.0), PIXELS) @ endmembers + off
    assert not judged(name, Problem(pixels.astype(dtype), endmembers.astype(dtype), {}, 0.0)).wrong.any()


def test_a_collinear_member_beside_a_baseline_is_not_left_out():
    """Certified to 5e-14 and off by 2e-5: what an outside member loses to its neighbour was not counted."""
    choice = {"library": "collinear", "option": "baseline", "count": 6, "bands": 48, "closeness": 3e-7}
    for seed in range(4):
        assert not judged("fcls", problem(np.random.default_rng(seed), "float64", pixels=PIXELS, **choice)).wrong.any()


@over_methods
def test_what_is_well_posed_is_certified(name):
    given = problem(np.random.default_rng(0), "float32", library="mica77", count=6, bands=64, pixels=PIXELS)
    posed = truth(name, given).single
    assert posed.mean() > 0.9
    assert judged(name, given).certified[posed].all()


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize(("count", "bands"), [(3, 7), (40, 60)])
def test_the_oracle_agrees_with_one_in_float64(name, count, bands):
    case = scene(count, bands, "float64")
    known = truth(name, Problem(case.pixels, case.endmembers, {}, 0.0))
    expected = oracle(name, case.pixels, case.endmembers)
    assert known.verified.all()
    size = np.maximum(np.abs(expected).max(1, keepdims=True), 1)
    assert (np.abs(known.abundances - expected) <= 1e-9 * size).all()
    exact_ones = np.isin(case.kinds, ("mixed", "sparse", "pure"))
    assert (np.abs(known.abundances - case.truth)[exact_ones] < 1e-10).all()


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.bounded])
def test_the_oracle_is_at_the_optimum_of_hard_problems(name):
    for library in ("collinear", "duplicate", "dim"):
        given = problem(
            np.random.default_rng(LIBRARIES.index(library)), "float64", library=library, count=12, bands=30,
            pixels=PIXELS, closeness=1e-8, penalty=1e-3 if METHODS[name].penalty else 0.0,
        )  # fmt: skip
        known = truth(name, given)
        assert known.verified.all()
        assert (known.abundances >= 0).all()
        gradient = (known.abundances @ given.endmembers - given.pixels) @ given.endmembers.T.astype(np.longdouble)
        gradient = gradient + (given.l1 if METHODS[name].penalty else 0)
        if METHODS[name].sum_to_one:
            gradient = gradient - (gradient * known.abundances).sum(1, keepdims=True)
        assert (gradient > -1e-16).all()
        assert (np.abs(gradient * known.abundances) < 1e-15).all()
        assert not (known.single & known.several).any()


def test_the_oracle_tells_copies_from_neighbours():
    rng = np.random.default_rng(0)
    endmembers = rng.uniform(0.1, 1.0, (6, 30))
    shares = rng.dirichlet(np.ones(6), 20)
    for difference, alone in ((0.0, False), (1e-9, True)):
        endmembers[1] = endmembers[0] * (1 + difference * rng.normal(size=30))
        for name in METHODS:
            known = truth(name, Problem(shares @ endmembers, endmembers, {}, 0.0))
            assert (known.single if alone else known.several).all()
