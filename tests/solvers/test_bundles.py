"""Bundles: against fully constrained least squares, and slow convex solves by SciPy."""

import functools

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import scipy.optimize
from helpers import assert_close
from solvers.cases import numpy_solution, oracle, precision, spectra

from unmix_jax.solvers.bundles import bundle_fcls, prepare_bundles

CLASSES = ["soil", "tree", "soil", "water", "tree", "soil", "tree"]
COLUMNS = {"soil": [0, 2, 5], "tree": [1, 4, 6], "water": [3]}


@functools.cache
def scene(dtype="float64", bands=12, pixels=10):
    """Seven spectra of three materials, water with one; noisy mixtures."""
    rng = np.random.default_rng(7)
    library = spectra(rng, len(CLASSES), bands)
    truth = rng.dirichlet(np.ones(len(CLASSES)), pixels) * (rng.random((pixels, len(CLASSES))) < 0.6)
    truth[truth.sum(1) == 0] = 1
    truth /= truth.sum(1, keepdims=True)
    noisy = truth @ library + 0.02 * rng.normal(size=(pixels, bands))
    return library.astype(dtype), noisy.astype(dtype)


@functools.cache
def compiled(**static):
    return jax.jit(
        lambda pixels, bundles, group: jax.vmap(lambda y: bundle_fcls(y, bundles, group=group, **static))(pixels)
    )


def solved(pixels, library, group, classes=CLASSES, **static):
    with precision(pixels.dtype):
        bundles = prepare_bundles(library, classes)
        return numpy_solution(compiled(**static)(pixels, bundles, jnp.asarray(group, pixels.dtype)))


def collapsed(members):
    return np.stack([members[..., columns].sum(-1) for columns in COLUMNS.values()], -1)


def whole(members, pixel, library, group, weights):
    """The objective."""
    norms = [np.linalg.norm(members[columns]) for columns in COLUMNS.values()]
    return 0.5 * np.sum((pixel - members @ library) ** 2) + group * np.dot(weights, norms)


def test_without_penalty_it_is_fcls_summed_by_class():
    library, pixels = scene()
    solution = solved(pixels, library, 0.0)
    expected = oracle("fcls", pixels, library)
    assert_close(solution.fitted, expected)
    assert_close(solution.abundances, collapsed(expected))
    assert solution.converged.all()
    rms = np.sqrt(np.mean((pixels - expected @ library) ** 2, 1))
    assert_close(solution.residual, rms)


@pytest.mark.parametrize("by_size", [False, True])
@pytest.mark.parametrize("group", [0.003, 0.03, 0.3])
def test_with_penalty_nothing_is_better(group, by_size):
    """SciPy from several starts finds nothing lower, and the gap bounds what it could find."""
    library, pixels = scene()
    solution = solved(pixels, library, group, by_size=by_size)
    weights = np.sqrt([3, 3, 1]) if by_size else np.ones(3)
    assert solution.converged.all()
    assert solution.fitted.min() >= 0
    assert_close(solution.fitted.sum(1), np.ones(len(pixels)))
    assert_close(solution.abundances, collapsed(solution.fitted))
    rng = np.random.default_rng(0)
    for pixel, members in zip(pixels[:5], solution.fitted, strict=False):
        here = whole(members, pixel, library, group, weights)
        for start in (np.full(7, 1 / 7), rng.dirichlet(np.ones(7)), 0.9 * members + 0.1 / 7):
            other = scipy.optimize.minimize(
                whole,
                start,
                (pixel, library, group, weights),
                method="SLSQP",
                bounds=[(0, 1)] * 7,
                constraints={"type": "eq", "fun": lambda a: a.sum() - 1},
                options={"ftol": 1e-12, "maxiter": 500},
            )
            feasible = np.maximum(other.x, 0) / np.maximum(other.x, 0).sum()
            assert here <= whole(feasible, pixel, library, group, weights) + 1e-8 * 0.5 * pixel @ pixel


def test_a_class_may_use_more_spectra_than_there_are_bands():
    """The penalty spreads a class over alike spectra, so that mixtures are larger than the rank."""
    rng = np.random.default_rng(5)
    shapes = 0.5 + 0.3 * np.sin(np.linspace(0, 3, 6) * np.asarray([[1.0], [2.5], [4.0]]))
    library = np.repeat(shapes, 5, 0) * (1 + 0.01 * rng.standard_normal((15, 6)))
    pixels = rng.dirichlet(np.ones(3), 6) @ shapes
    found = solved(pixels, library, 0.05, ["a"] * 5 + ["b"] * 5 + ["c"] * 5)
    assert found.converged.all()
    assert ((found.fitted > 0).sum(1) > 7).all()


def test_the_penalty_leaves_materials_out():
    library, pixels = scene()
    counts = [(solved(pixels, library, group).abundances > 0).sum() for group in (0.0, 0.03, 3.0)]
    assert counts[0] > counts[1] > counts[2]
    assert counts[2] <= 2 * len(pixels)


def test_float32_is_near_float64():
    library, pixels = scene("float32")
    single = solved(pixels, library, 0.03)
    double = solved(pixels.astype(float), library.astype(float), 0.03)
    assert single.abundances.dtype == np.float32
    assert single.converged.all()
    np.testing.assert_allclose(single.abundances, double.abundances, atol=5e-3)


def test_order_of_classes_jit_and_loop():
    library, pixels = scene()
    expected = solved(pixels, library, 0.03)
    with precision("float64"):
        bundles = prepare_bundles(library, CLASSES, order=["water", "soil", "tree"])
        assert bundles.names == ("water", "soil", "tree")
        one = jax.jit(lambda y: bundle_fcls(y, bundles, group=0.03).abundances)
        assert_close(np.stack([one(y) for y in pixels[:3]]), expected.abundances[:3][:, [2, 0, 1]], scale=100)


def test_shade_and_missing_pixels():
    """A spectrum of zeros in a class of its own takes up what is dark."""
    library, pixels = scene()
    library, odd = library.copy(), pixels.copy()
    library[3] = 0
    odd[0] = np.nan
    odd[1] = 0.5 * library[0]
    odd[2] = 0
    solution = solved(odd, library, 0.0)
    assert np.isnan(solution.abundances[0]).all()
    assert list(solution.converged) == [False, *[True] * 9]
    assert_close(solution.abundances[1:3], np.array([[0.5, 0, 0.5], [0, 0, 1]]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda e: prepare_bundles(e, CLASSES, order=["soil", "tree", "water", "rock"]),
            "class 'rock' has no spectrum",
        ),
        (
            lambda e: prepare_bundles(e, CLASSES, order=["soil", "water"]),
            "class 'tree' has spectra, and the order leaves",
        ),
        (lambda e: prepare_bundles(e, CLASSES, order=["soil", "soil"]), "order names class 'soil' twice"),
        (lambda e: prepare_bundles(e, CLASSES[:4]), "4 classes for 7 spectra"),
        (lambda e: bundle_fcls(e[0], prepare_bundles(e, CLASSES), group=-1.0), "group must be one number that is not"),
        (lambda e: bundle_fcls(e[0, :5], prepare_bundles(e, CLASSES)), "endmembers have 12 bands, pixels have 5"),
    ],
)
def test_bad_input(call, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # without shape checks, as users call
    with pytest.raises(ValueError, match=message):
        call(scene("float32")[0])
