"""Classes of endmembers: sums, shade that is divided out, covariances, and what is refused."""

from collections import Counter
from dataclasses import replace
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close

from unmix_jax.endmembers.classes import classes_of, group
from unmix_jax.scenes.datasets import load
from unmix_jax.scenes.scene import SpectralLibrary
from unmix_jax.solvers.least_squares import remove_shade
from unmix_jax.types import Solution

NAMES = ("albite", "quartz", "black", "anorthite", "talc")
OF = ("feldspar", "quartz", "shade", "feldspar", "talc")
CASES = {
    "all": {},
    "some, in order": {"order": ("talc", "feldspar")},
    "shade": {"drop": ("black",)},
    "shade, by its class": {"drop": ("shade",), "order": ("quartz", "feldspar")},
    "two shades": {"drop": ("black", "albite")},
}
each_case = pytest.mark.parametrize("options", CASES.values(), ids=CASES)
each_kind = pytest.mark.parametrize("kind", [np.asarray, jnp.asarray], ids=["numpy", "jax"])


def solution_of(abundances, covariance=None):
    one, steps = abundances[..., 0], np.ones(abundances.shape[:-1], int)
    return Solution(abundances, 0.1 + 0 * one, 0 * one, steps, steps > 0, covariance, fitted={"chi2": one})


def drawn(shape=(3, 4), seed=0):
    rng = np.random.default_rng(seed)
    root = 0.05 * rng.standard_normal((*shape, len(NAMES), len(NAMES)))
    return rng.dirichlet(np.ones(len(NAMES)), shape), root @ root.swapaxes(-1, -2)


def oracle(x, options):
    """One pixel, by names."""
    dropped = [n in options.get("drop", ()) or c in options.get("drop", ()) for n, c in zip(NAMES, OF, strict=True)]
    sums = Counter()
    for share, name, out in zip(x, OF, dropped, strict=True):
        if not out:
            sums[name] += share
    wanted = options.get("order") or [name for name in dict.fromkeys(OF) if name in sums]
    return np.array([sums[n] for n in wanted]) / (sum(sums.values()) if any(dropped) else 1.0)


@each_kind
@each_case
@pytest.mark.usefixtures("x64")
def test_fractions_are_the_sums_by_name(options, kind):
    x, covariance = drawn()
    found = group(solution_of(kind(x), kind(covariance)), classes_of(NAMES, OF, **options))
    assert_close(found.abundances, np.apply_along_axis(oracle, -1, x, options))
    assert isinstance(found.abundances, type(kind(x)))
    np.testing.assert_array_equal(found.residual, 0.1)
    np.testing.assert_array_equal(found.fitted["chi2"], x[..., 0])


@each_kind
@each_case
@pytest.mark.usefixtures("x64")
def test_covariance_is_carried_by_the_derivative(options, kind):
    x, covariance = drawn()
    classes = classes_of(NAMES, OF, **options)
    found = group(solution_of(kind(x), kind(covariance)), classes)
    step = 1e-6
    for pixel in np.ndindex(x.shape[:-1]):
        sides = [np.array([oracle(x[pixel] + s * e, options) for e in np.eye(len(NAMES))]) for s in (step, -step)]
        jacobian = (sides[0] - sides[1]).T / (2 * step)
        np.testing.assert_allclose(classes.jacobian(kind(x))[pixel], jacobian, atol=1e-8)
        np.testing.assert_allclose(found.covariance[pixel], jacobian @ covariance[pixel] @ jacobian.T, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"drop": ("black",)}], ids=["all", "shade"])
def test_one_pixel_is_as_many(options):
    x, covariance = (jnp.asarray(a, jnp.float32) for a in drawn((6,)))
    classes = classes_of(NAMES, OF, **options)
    many, one = group(solution_of(x, covariance), classes), jax.vmap(group, (0, None))
    each = jax.jit(one)(solution_of(x, covariance), classes)
    assert many.abundances.dtype == jnp.float32
    jax.tree.map(assert_close, each, many)


@each_kind
def test_a_pixel_of_nothing_but_shade_is_nan_and_no_other(kind):
    x = np.array([[0, 0, 1, 0, 0], [0.5, 0, 0.5, 0, 0], [np.nan] * 5], np.float32)
    solution = solution_of(kind(x), kind(np.tile(np.eye(5, dtype=np.float32), (3, 1, 1))))
    assert np.isfinite(group(solution, classes_of(NAMES, OF)).abundances[:2]).all()
    found = group(solution, classes_of(NAMES, OF, drop=("black",)))
    for pixel in (0, 2):
        assert np.isnan(found.abundances[pixel]).all()
        assert np.isnan(found.covariance[pixel]).all()
    np.testing.assert_array_equal(found.abundances[1], [1, 0, 0])


def test_dropping_without_classes_is_removing_the_shade():
    x, _ = drawn()
    solution = solution_of(jnp.asarray(x, jnp.float32))
    ours = group(solution, classes_of(NAMES, NAMES, drop=("black",)))
    assert_close(ours.abundances, remove_shade(solution, 2).abundances)
    assert ours.covariance is None


@each_kind
@each_case
@pytest.mark.usefixtures("x64")
def test_the_bound_is_that_of_the_fractions(options, kind):
    """No abundances within the bound of those that were found have fractions farther than theirs."""
    x, _ = drawn((6,))
    bound = np.array([0.0, 1e-9, 1e-4, 1e-2, np.inf, np.nan])
    solution = replace(solution_of(kind(x)), abundance_bound=kind(bound))
    found = group(solution, classes_of(NAMES, OF, **options))
    known = np.isfinite(bound)
    np.testing.assert_array_equal(np.asarray(found.abundance_bound)[~known], bound[~known])
    corners = np.array(list(product((-1.0, 1.0), repeat=len(NAMES))))
    moved = np.apply_along_axis(oracle, -1, x[known][:, None] + bound[known][:, None, None] * corners, options)
    far = np.abs(moved - np.asarray(found.abundances)[known][:, None]).max((1, 2))
    assert (far <= np.asarray(found.abundance_bound)[known]).all()
    assert (np.asarray(found.abundance_bound)[known] < 20 * bound[known] + 1e-14).all()


def test_a_mapping_may_share_an_endmember_and_leave_a_class_empty():
    of = {"plagioclase": ("albite", "anorthite"), "sodic": ("albite",), "garnet": ()}
    classes = classes_of(NAMES, of, drop=("black",))
    assert classes.names == ("plagioclase", "sodic", "garnet")
    np.testing.assert_allclose(classes(np.array([0.2, 0.1, 0.5, 0.1, 0.1])), [0.6, 0.4, 0])


def test_a_library_brings_its_names_and_classes():
    library = SpectralLibrary(np.ones((5, 3)), names=NAMES, classes=OF)
    assert classes_of(library).names == ("feldspar", "quartz", "shade", "talc")
    assert classes_of(library, drop=("shade",)).names == ("feldspar", "quartz", "talc")
    assert classes_of(library, NAMES).names == NAMES


REFUSED = {
    "the library names no classes": lambda: classes_of(SpectralLibrary(np.ones((2, 3)), names=("a", "b"))),
    "4 classes for 5 endmembers": lambda: classes_of(NAMES, OF[:4]),
    "no endmember is of class 'mica'": lambda: classes_of(NAMES, OF, order=("mica",)),
    "cannot drop 'Black'": lambda: classes_of(NAMES, OF, drop=("Black",)),
    "drop must be a list of names": lambda: classes_of(NAMES, OF, drop="black"),
    "all of its endmembers are dropped": lambda: classes_of(NAMES, OF, drop=("black",), order=("shade",)),
    "every endmember is dropped": lambda: classes_of(NAMES, OF, drop=NAMES),
    "order names a class twice": lambda: classes_of(NAMES, OF, order=("talc", "talc")),
    "no class is wanted": lambda: classes_of(NAMES, OF, order=()),
    "class 'x' names 'mica'": lambda: classes_of(NAMES, {"x": ("mica",)}),
    "class 'x' names an endmember twice": lambda: classes_of(NAMES, {"x": ("talc", "talc")}),
    "4 abundances for 5 endmembers": lambda: group(solution_of(np.ones((2, 4))), classes_of(NAMES, OF)),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_meant_is_refused(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()


def test_the_rocks_library_has_seventeen_classes(shared_data):
    scene = load("feely")
    classes = classes_of(scene.endmembers, order=scene.abundance_names, drop=("Blackbody",))
    assert len(classes.members) == 38
    assert classes.names == scene.abundance_names
    assert len(classes.names) == 17
    lit = np.array([name != "Blackbody" for name in classes.members])
    np.testing.assert_array_equal(classes.matrix.sum(0), lit)
