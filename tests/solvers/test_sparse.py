"""Sparse unmixing against SciPy, the optimality conditions, and slow convex solves in NumPy."""

import functools
import types

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from helpers import assert_close
from jax.extend.core import jaxprs_in_params
from solvers.cases import numpy_solution, oracle, precision, spectra

from unmix_jax.driver import unmix
from unmix_jax.solvers.collaborative import clsunsal
from unmix_jax.solvers.sparse import lp_sunsal, prepare_sparse, sunsal
from unmix_jax.solvers.tableau import Dictionary, dense
from unmix_jax.solvers.working_set import solve_on_working_sets

SIZES = [(18, 10, "float64"), (9, 20, "float64"), (18, 10, "float32")]  # more members than bands, and fewer
GAP = {"float32": 3e-5, "float64": 1e-12}
over_sizes = pytest.mark.parametrize(("count", "bands", "dtype"), SIZES)
over_regions = pytest.mark.parametrize("sum_to_one", [False, True])


@functools.cache
def scene(count, bands, dtype, pixels=24):
    """A library, and noisy mixtures of three of it; the last pixels are a member, negative, and dark."""
    rng = np.random.default_rng([count, bands])
    library = spectra(rng, count, bands)
    truth = np.zeros((pixels, count))
    for row in truth:
        row[rng.choice(count, 3, replace=False)] = rng.dirichlet(np.ones(3))
    pure = truth @ library
    noisy = pure + 0.02 * rng.normal(size=pure.shape)
    noisy[-3:] = library[1], -library[2], 0.1 * library[3]
    return library.astype(dtype), noisy.astype(dtype), truth


@functools.cache
def compiled(function, **static):
    """One solver over many pixels, its other options as arrays."""
    return jax.jit(
        lambda pixels, library, options: jax.vmap(
            lambda pixel: function(pixel, library, **options, **static),
        )(pixels)
    )


def solved(function, pixels, library, options, **static):
    with precision(pixels.dtype):
        options = {name: jnp.asarray(value, pixels.dtype) for name, value in options.items()}
        prepared = prepare_sparse(library)
        return numpy_solution(compiled(function, **static)(pixels, prepared, options))


def gradient(abundances, pixels, library, costs=0.0):
    """Of the objective, in float64."""
    abundances, pixels, library = (np.asarray(x, float) for x in (abundances, pixels, library))
    return (abundances @ library - pixels) @ library.T + costs


def objective(abundances, pixels, library):
    abundances, pixels, library = (np.asarray(x, float) for x in (abundances, pixels, library))
    return 0.5 * ((pixels - abundances @ library) ** 2).sum(-1)


def assert_optimal(abundances, slopes, sum_to_one, tolerance):
    """Karush, Kuhn and Tucker: nobody outside descends, everybody inside is level."""
    assert abundances.min() >= 0
    level = (slopes * abundances).sum(1) if sum_to_one else np.zeros(len(slopes))
    if sum_to_one:
        np.testing.assert_allclose(abundances.sum(1), 1, atol=10 * tolerance)
    assert (slopes - level[:, None]).min() > -tolerance
    assert np.abs(np.where(abundances > 0, slopes - level[:, None], 0)).max() < tolerance


@pytest.mark.parametrize(
    ("count", "bands", "dtype", "sum_to_one"), [(*size, False) for size in SIZES] + [(18, 10, "float64", True)]
)
def test_without_penalty_the_oracle_agrees(count, bands, dtype, sum_to_one):
    library, pixels, _ = scene(count, bands, dtype)
    solution = solved(sunsal, pixels, library, {"l1": 0.0}, sum_to_one=sum_to_one)
    expected = oracle("fcls" if sum_to_one else "nnls", pixels, library)
    assert_close(solution.abundances, expected, scale=20 if dtype == "float32" else 1)
    assert solution.gap.max() < GAP[dtype]
    # rounding alone is left of pixels without noise: any member of a library of more than its bands may be one more
    assert np.array_equal(solution.converged, np.isfinite(solution.abundance_bound))
    assert solution.converged.mean() > (0.8 if count > bands else 0.99)
    worse = objective(solution.abundances, pixels, library) - objective(expected, pixels, library)
    energy = 0.5 * (np.asarray(pixels, float) ** 2).sum(1)
    assert np.all(worse / energy <= solution.gap + 60 * np.finfo(dtype).eps)
    rms = np.sqrt(2 * objective(solution.abundances, pixels, library) / bands)
    assert_close(solution.residual, rms.astype(dtype))


@pytest.mark.parametrize("l1", [1e-3, 0.1, 2.0, 1e3])
@over_sizes
def test_with_penalty_the_conditions_of_optimality_hold(count, bands, dtype, l1):
    library, pixels, _ = scene(count, bands, dtype)
    solution = solved(sunsal, pixels, library, {"l1": l1}, sum_to_one=False)
    slopes = gradient(solution.abundances, pixels, library, l1)
    assert_optimal(solution.abundances, slopes, False, {"float32": 2e-5, "float64": 1e-12}[dtype] * max(1, l1))
    assert solution.converged.all()
    if l1 > 100:
        assert solution.abundances.max() == 0


def test_with_penalty_the_oracle_agrees():
    """Where some w has Ew = 1, l1 Σa is a change of the pixel: ½‖y − l1 w − aE‖² differs by a constant."""
    library, pixels, _ = scene(9, 20, "float64")
    solution = solved(sunsal, pixels, library, {"l1": 0.1}, sum_to_one=False)
    turn = np.linalg.pinv(library) @ np.ones(9)
    assert_close(solution.abundances, oracle("nnls", pixels - 0.1 * turn, library))
    assert solution.unique.all()


@over_regions
def test_costs_and_ridges_of_the_kernel(sum_to_one):
    """A ridge is a band of its own; a cost on the simplex is one too, by its square."""
    library, pixels, _ = scene(9, 20, "float64")
    rng = np.random.default_rng(0)
    costs, ridges = rng.uniform(0, 0.2, 9), rng.uniform(0, 0.5, (len(pixels), 9))
    with precision("float64"):
        dictionary = Dictionary(jnp.asarray(library.T), jnp.ones(9), None)
        state = solve_on_working_sets(
            dictionary,
            jnp.asarray(pixels.T),
            lambda part: (jnp.asarray(costs)[None], part["ridges"].T),
            {"ridges": jnp.asarray(ridges.T)},
            sum_to_one=sum_to_one,
        )
        found = np.asarray(dense(state["members"].T, state["amounts"].T, 9))
    slopes = gradient(found, pixels, library, costs) + ridges * found
    assert_optimal(found, slopes, sum_to_one, 1e-11)
    turn = np.linalg.pinv(library) @ costs
    for pixel, ridge, abundances in zip(pixels, ridges, found, strict=True):
        wide = np.hstack([library, np.diag(np.sqrt(ridge))])
        name = "fcls" if sum_to_one else "nnls"
        assert_close(abundances, oracle(name, np.append(pixel - turn, np.zeros(9))[None], wide)[0])


def test_jit_eager_vmap_loop_and_driver():
    library, pixels, _ = scene(18, 10, "float64")
    expected = solved(sunsal, pixels, library, {"l1": 0.01}, sum_to_one=False).abundances
    with precision("float64"):
        loop = [sunsal(pixel, library, l1=0.01).abundances for pixel in pixels[:4]]  # each on its own, nothing compiled
        assert_close(np.stack(loop), expected[:4])
        driven = unmix(eqx.Partial(sunsal, library=library, l1=jnp.asarray(0.01)), pixels, tile=9)
        assert_close(driven.abundances, expected)


@over_regions
def test_order_of_members(sum_to_one):
    library, pixels, _ = scene(18, 10, "float64")
    expected = solved(sunsal, pixels, library, {"l1": 0.01}, sum_to_one=sum_to_one).abundances
    order = np.random.default_rng(1).permutation(18)
    turned = solved(sunsal, pixels, library[order], {"l1": 0.01}, sum_to_one=sum_to_one)
    assert_close(turned.abundances, expected[:, order])


def test_bands_of_weight_zero_and_weights():
    library, pixels, _ = scene(9, 20, "float64")
    weights = np.random.default_rng(2).uniform(0.5, 2, 20)
    weights[[3, 17]] = 0
    spoiled, holes = library.copy(), pixels.copy()
    spoiled[:, 3], holes[:, 17] = np.nan, np.nan
    with precision("float64"):
        prepared = prepare_sparse(spoiled, weights=weights)
        found = jax.jit(jax.vmap(lambda pixel: sunsal(pixel, prepared, l1=0.0)))(holes)
    root, good = np.sqrt(weights), weights > 0
    expected = oracle("nnls", (pixels * root)[:, good], (library * root)[:, good])
    assert_close(np.asarray(found.abundances), expected)
    assert np.asarray(found.converged).all()


def test_a_library_of_thousands_makes_nothing_of_its_square():
    count, pixels = 1500, 4
    with precision("float32"):
        prepared = jax.eval_shape(lambda library: prepare_sparse(library), np.zeros((count, 12), "f4"))

        def whole(pixels, library):
            prepared = prepare_sparse(library)
            return jax.vmap(lambda pixel: sunsal(pixel, prepared, l1=0.1))(pixels)

        traced = jax.make_jaxpr(whole)(np.zeros((pixels, 12), "f4"), np.zeros((count, 12), "f4"))

    def largest(jaxpr):
        sizes = [np.prod(v.aval.shape) for e in jaxpr.eqns for v in e.outvars if hasattr(v.aval, "shape")]
        inner = [j for e in jaxpr.eqns for j in jaxprs_in_params(e.params)]
        return max([*sizes, *(largest(j) for j in inner)], default=0)

    assert prepared.dictionary.gram is None
    assert largest(traced.jaxpr) <= count**2 / 50


def test_too_few_slots_are_told():
    library, pixels, _ = scene(18, 10, "float64")
    best = oracle("nnls", pixels, library)
    solution = solved(sunsal, pixels, library, {"l1": 0.0}, slots=2)
    needy = (best > 1e-3).sum(1) > 2
    assert needy.any()
    assert not solution.converged[needy].any()
    worse = objective(solution.abundances, pixels, library) - objective(best, pixels, library)
    assert np.all(worse <= solution.gap * 0.5 * (pixels**2).sum(1) + 1e-13)
    assert (solution.abundances > 0).sum(1).max() <= 2


@over_regions
def test_pixels_and_libraries_of_every_kind(sum_to_one):
    """Missing and zero pixels, duplicates, a spectrum of zeros, one member."""
    library, pixels, _ = scene(18, 10, "float64")
    library, odd = library.copy(), pixels.copy()
    library[9:17], library[17] = library[:8], 0
    odd[3], odd[4] = np.nan, 0
    solution = solved(sunsal, odd, library, {"l1": 0.0}, sum_to_one=sum_to_one)
    whole = np.arange(24) != 3
    assert np.isnan(solution.abundances[3]).all()
    assert list(np.isfinite(solution.gap)) == list(whole & (np.arange(24) != 4))
    assert np.all(solution.unique | ~solution.converged)
    assert not solution.converged[3]
    best = oracle("fcls" if sum_to_one else "nnls", odd[whole], library[[*range(9), 17]])
    fits = objective(best, odd[whole], library[[*range(9), 17]])
    assert_close(objective(solution.abundances[whole], odd[whole], library), fits)
    assert not solution.unique[:3].any()
    if sum_to_one:
        assert_close(solution.abundances[4], np.eye(18)[17])
    else:
        assert solution.abundances[whole, 17].max() == 0


def test_a_library_of_one():
    library, pixels, _ = scene(9, 20, "float64")
    alone = solved(sunsal, pixels, library[:1], {"l1": 0.1}, sum_to_one=False)
    expected = np.maximum(pixels @ library[0] - 0.1, 0) / (library[0] @ library[0])
    assert_close(alone.abundances[:, 0], expected)


@pytest.mark.parametrize("sum_to_one", [True, False])
@pytest.mark.parametrize("p", [0.95, 0.5])
def test_lp_is_stationary_and_below_its_start(p, sum_to_one):
    library, pixels, _ = scene(18, 10, "float64")
    weight, smooth = 0.02, 1e-2
    options = {"lp": weight, "p": p, "smoothing": smooth}
    solution = solved(lp_sunsal, pixels, library, options, sum_to_one=sum_to_one)
    assert solution.converged.all()
    shifted = solution.abundances + smooth
    tangent = weight * (shifted**p).sum(1, keepdims=True) ** (1 / p - 1) * shifted ** (p - 1)
    slopes = gradient(solution.abundances, pixels, library, tangent)
    assert_optimal(solution.abundances, slopes, sum_to_one, 1e-6)

    def whole(abundances):
        return objective(abundances, pixels, library) + weight * ((abundances + smooth) ** p).sum(1) ** (1 / p)

    start = solved(sunsal, pixels, library, {"l1": weight}, sum_to_one=sum_to_one)
    assert np.all(whole(solution.abundances) <= whole(start.abundances) + 1e-12)
    if p == 0.5:
        assert (solution.abundances > 0).sum() < (start.abundances > 0).sum()


def test_lp_of_exponent_one_is_sunsal():
    library, pixels, _ = scene(18, 10, "float64")
    found = solved(lp_sunsal, pixels, library, {"lp": 0.05, "p": 1.0, "smoothing": 0.1}, sum_to_one=False)
    assert_close(found.abundances, solved(sunsal, pixels, library, {"l1": 0.05}, sum_to_one=False).abundances)


collaborative = jax.jit(clsunsal)


def shared(count=8, bands=6, pixels=5):
    """A scene small enough for a slow method."""
    library, _, _ = scene(count, bands, "float64")
    rng = np.random.default_rng(3)
    truth = np.zeros((pixels, count))
    truth[:, [1, 4]] = rng.uniform(0, 1, (pixels, 2))
    return library, truth @ library + 0.05 * rng.normal(size=(pixels, bands))


def slow_collaborative(pixels, library, l21):
    """Accelerated proximal gradient, many steps."""
    step = 1 / np.linalg.norm(library @ library.T, 2)
    abundances = momentum = np.zeros((len(pixels), len(library)))
    pace = 1.0
    for _ in range(30000):
        free = np.maximum(momentum - step * gradient(momentum, pixels, library), 0)
        norms = np.linalg.norm(free, axis=0)
        new = free * np.maximum(1 - step * l21 / np.maximum(norms, 1e-300), 0)
        later = 0.5 * (1 + np.sqrt(1 + 4 * pace**2))
        momentum = new + (pace - 1) / later * (new - abundances)
        abundances, pace = new, later
    return abundances


@pytest.mark.parametrize("l21", [0.0, 0.02, 0.3, 100.0])
def test_clsunsal_finds_what_a_slow_method_finds(l21):
    library, pixels = shared()
    with precision("float64"):
        solution = numpy_solution(collaborative(pixels, library, l21=l21))
    expected = slow_collaborative(pixels, library, l21)

    def whole(abundances):
        return objective(abundances, pixels, library).sum() + l21 * np.linalg.norm(abundances, axis=0).sum()

    energy = 0.5 * (pixels**2).sum()
    assert whole(solution.abundances) <= whole(expected) + 1e-9 * energy
    assert solution.abundances.min() >= 0
    assert solution.gap.max() < 1e-8
    assert solution.converged.all()
    assert_close(solution.fitted, np.linalg.norm(solution.abundances, axis=0))
    if l21 == 0.3:
        assert_close(solution.abundances, expected, scale=100)
        assert 0 < (solution.fitted > 0).sum() < 5
    if l21 == 100:
        assert solution.abundances.max() == 0


def test_clsunsal_leaves_missing_pixels_out():
    library, pixels = shared()
    holes, dark = pixels.copy(), pixels.copy()
    holes[2], dark[2] = np.nan, 0  # a dark pixel is in nobody's way
    with precision("float64"):
        with_holes = numpy_solution(collaborative(holes, library, l21=0.3))
        without = numpy_solution(collaborative(dark, library, l21=0.3))
    there = np.arange(5) != 2
    assert_close(with_holes.abundances[there], without.abundances[there])
    assert np.isnan(with_holes.abundances[2]).all()
    assert list(with_holes.converged) == list(there)


BAD = types.MappingProxyType(
    {
        "more bands": (lambda e, y: sunsal(y[0, :5], e, l1=0.1), "endmembers have 20 bands, pixels have 5"),
        "many pixels": (lambda e, y: sunsal(y, e, l1=0.1), r"one pixel is \[band\], got shape \(24, 20\)"),
        "negative l1": (lambda e, y: sunsal(y[0], e, l1=-1.0), "l1 must be one number that is not negative, got -1.0"),
        "several l1": (lambda e, y: sunsal(y[0], e, l1=np.ones(2)), "l1 must be one number"),
        "negative lp": (lambda e, y: lp_sunsal(y[0], e, lp=-1.0), "lp must be one number that is not negative"),
        "p": (lambda e, y: lp_sunsal(y[0], e, lp=0.1, p=1.5), "p must be positive and at most 1, got 1.5"),
        "smoothing": (lambda e, y: lp_sunsal(y[0], e, lp=0.1, smoothing=0.0), "smoothing must be positive, got 0.0"),
        "one spectrum": (lambda e, y: prepare_sparse(e[0]), r"endmembers must be \[endmember, band\]"),
        "missing values": (lambda e, y: prepare_sparse(e * np.nan), "NaN or infinite"),
        "weights": (lambda e, y: prepare_sparse(e, weights=-np.ones(20)), "weights must be finite, not negative"),
        "a scene of one pixel": (lambda e, y: clsunsal(y[0], e, l21=0.1), r"clsunsal takes a scene of \[pixel, 20"),
        "negative l21": (lambda e, y: clsunsal(y, e, l21=-0.1), "l21 must be one number that is not negative"),
    }
)


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name, monkeypatch):
    library, pixels, _ = scene(9, 20, "float32")
    call, message = BAD[name]
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # without shape checks, as users call
    with pytest.raises(ValueError, match=message):
        call(library, pixels)
