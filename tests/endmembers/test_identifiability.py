"""What a library can tell apart: bounds against estimates that reach them, planted collinear groups, and its figure."""

import functools
import io

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from helpers import assert_close

from unmix_jax.endmembers.classes import classes_of
from unmix_jax.endmembers.identifiability import identifiability
from unmix_jax.physics.variation import ScaleSlopeShift
from unmix_jax.plots.identifiability import bounds
from unmix_jax.scenes.datasets import load
from unmix_jax.scenes.scene import SpectralLibrary
from unmix_jax.solvers.synthesis import prepare_synthesis

BANDS, COUNT = 40, 5
NAMES = tuple("abcdefghij")
OF = ("one", "one", "two", "shade", "two")


def library(count=COUNT, seed=0):
    """Smooth spectra with features, about as unlike as minerals."""
    rng = np.random.default_rng(seed)
    at, wide = rng.uniform(0, 1, (count, 3, 1)), rng.uniform(0.03, 0.15, (count, 3, 1))
    depth = rng.uniform(0.05, 0.4, (count, 3, 1))
    return 0.95 - np.sum(depth * np.exp(-0.5 * ((np.linspace(0, 1, BANDS) - at) / wide) ** 2), 1)


def noise_of(scale=0.01):
    return scale * (0.5 + np.linspace(0, 1, BANDS))


@functools.cache
def estimates():
    """Weighted least squares under the sum, with a slope fitted along, of many noisy spectra of one mixture."""
    rng = np.random.default_rng(1)
    spectra, std, truth = library(), noise_of(), np.array([0.3, 0.1, 0.25, 0.2, 0.15])
    pixels = truth @ spectra + 0.1 * np.linspace(-1, 1, BANDS) + std * rng.standard_normal((20_000, BANDS))
    columns = np.vstack([spectra[:-1] - spectra[-1], np.ones(BANDS), np.linspace(-1, 1, BANDS)]) / std
    free = np.linalg.lstsq(columns.T, ((pixels - spectra[-1]) / std).T, rcond=None)[0][: COUNT - 1].T
    return truth, np.hstack([free, 1 - free.sum(1, keepdims=True)])


def test_weighted_least_squares_reaches_the_bound():
    truth, found = estimates()
    classes = classes_of(NAMES[:COUNT], OF)
    said = identifiability(library(), noise=noise_of(), baseline=1, classes=classes)
    np.testing.assert_allclose(said.std, found.std(0), rtol=0.03)
    np.testing.assert_allclose(said.class_std, classes(found).std(0), rtol=0.03)
    np.testing.assert_allclose(said.correlation, np.corrcoef(found.T), atol=0.03)
    lit = classes_of(NAMES[:COUNT], OF, drop=("shade",))
    said = identifiability(library(), noise=noise_of(1e-3), baseline=1, classes=lit, abundances=truth)
    scattered = truth + (found - truth) / 10  # linear in the noise
    np.testing.assert_allclose(said.class_std, lit(scattered).std(0), rtol=0.03)


def test_two_endmembers_are_as_far_apart_as_they_differ():
    spectra, std = library(2), noise_of()
    found = identifiability(spectra, noise=std)
    np.testing.assert_allclose(found.std, 1 / np.linalg.norm((spectra[0] - spectra[1]) / std))
    assert found.condition == 1.0
    np.testing.assert_allclose(found.plain_condition, np.linalg.cond(spectra))
    alone = identifiability(spectra[:1], noise=std)
    np.testing.assert_array_equal(alone.std, 0.0)
    assert alone.condition == 1.0
    assert alone.groups == ()


def test_the_bound_is_one_over_the_distance_from_the_others():
    spectra, std = library() / noise_of(), identifiability(library(), noise=noise_of()).std
    for i in range(COUNT):
        others = np.delete(spectra, i, 0)
        apart = (others[1:] - others[0]).T
        error = spectra[i] - others[0]
        error = error - apart @ np.linalg.lstsq(apart, error, rcond=None)[0]
        np.testing.assert_allclose(std[i], 1 / np.linalg.norm(error))


def test_condition_is_that_of_the_differences_from_the_mean():
    white = library() / noise_of()
    singular = np.linalg.svd(white - white.mean(0), compute_uv=False)
    found = identifiability(library(), noise=noise_of())
    np.testing.assert_allclose(found.condition, singular[0] / singular[COUNT - 2])


def test_order_noise_and_bands():
    spectra, order = library(), np.array([3, 0, 4, 1, 2])
    plain = identifiability(spectra, noise=0.01, baseline=2)
    assert_close(identifiability(spectra[order], noise=0.01, baseline=2).std, plain.std[order])
    assert_close(identifiability(spectra, noise=0.03, baseline=2).std, 3 * plain.std)
    good = np.arange(BANDS) % 3 > 0
    spoilt = np.where(good, spectra, np.nan)
    assert_close(
        identifiability(spoilt, noise=np.where(good, 0.01, 0.0), good_bands=good).std,
        identifiability(spectra[:, good], noise=0.01).std,
    )
    held = SpectralLibrary(spoilt, names=NAMES[:COUNT], classes=OF, good_bands=good)
    found = identifiability(held, noise=0.01)
    assert found.names == NAMES[:COUNT]
    assert found.class_names == ("one", "two", "shade")


PLANTED = {  # rows made of others: which, of which, by which weights
    "none": [],
    "a copy": [(5, (1,), (1.0,))],
    "a stretch against black": [(5, (0, 2), (2.0, -1.0))],
    "half between": [(5, (3, 1), (0.5, 0.5))],
    "of four": [(5, (0, 1, 2, 4), (0.4, 0.3, -0.2, 0.5))],
    "two": [(5, (0, 1), (0.5, 0.5)), (6, (2, 3, 4), (0.5, 0.2, 0.3))],
}


def planted(name):
    spectra = library()
    for _, others, weights in PLANTED[name]:
        spectra = np.vstack([spectra, np.asarray(weights) @ spectra[list(others)]])
    return spectra


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", PLANTED)
def test_planted_groups_are_found_and_no_others(name, dtype):
    spectra = planted(name).astype(dtype)
    found = identifiability(spectra, noise=2e-3, names=NAMES[: len(spectra)], baseline=1)
    wanted = {frozenset((made, *others)) for made, others, _ in PLANTED[name]}
    assert {frozenset(group.indices) for group in found.groups} == wanted
    inside = set().union(*wanted)
    np.testing.assert_array_equal(np.isinf(found.std), [i in inside for i in range(len(spectra))])
    assert np.isinf(found.condition) == bool(wanted)
    assert found.plain_condition == (np.inf if wanted else pytest.approx(np.linalg.cond(spectra), rel=1e-5))
    for group in found.groups:
        assert group.members == tuple(NAMES[i] for i in group.indices)
        assert sum(group.weights) == pytest.approx(1)
        made = np.asarray(group.weights) @ spectra[list(group.indices[1:])].astype(float)
        np.testing.assert_allclose(made, spectra[group.indices[0]], atol=1e-5)
        assert group.distance < 0.05


@pytest.mark.parametrize(("difference", "grouped"), [(1e-5, True), (1e-3, True), (5e-2, False)])
def test_collinear_is_a_matter_of_the_noise(difference, grouped):
    spectra = planted("half between")
    spectra[5] += difference * np.random.default_rng(2).standard_normal(BANDS)
    found = identifiability(spectra, noise=4e-3)
    assert [set(group.indices) for group in found.groups] == ([{1, 3, 5}] if grouped else [])
    assert np.isfinite(found.std).all()
    if grouped:
        np.testing.assert_allclose(found.groups[0].distance, 1 / found.std[5], rtol=0.2)


def test_a_class_keeps_what_its_members_cannot_share_out():
    spectra = planted("a copy")
    apart = identifiability(spectra, noise=0.01, classes=classes_of(NAMES[:6], (*"uvwxyz",)))
    kept = identifiability(spectra, noise=0.01, classes=classes_of(NAMES[:6], (*"uvwxyv",)))
    alone = identifiability(spectra[:5], noise=0.01)
    np.testing.assert_array_equal(np.isinf(apart.class_std), [0, 1, 0, 0, 0, 1])
    np.testing.assert_allclose(kept.class_std, alone.std)


def test_more_endmembers_than_bands():
    spectra = np.random.default_rng(3).random((9, 4))
    found = identifiability(spectra, noise=0.01)
    assert np.isinf(found.std).all()
    assert np.isinf(found.plain_condition)
    assert len(found.groups) == 4
    left = np.delete(np.arange(9), [group.indices[0] for group in found.groups])
    assert np.isfinite(identifiability(spectra[left], noise=0.01, limit=1e3).std).all()


@functools.cache
def varying():
    generator = ScaleSlopeShift(library().astype(np.float32), scale=0.1, slope=0.05, shift=0.0, level=1.0)
    noise = noise_of().astype(np.float32)
    return generator, prepare_synthesis(generator, noise=noise, tangent=True, baseline=1, rank=BANDS)


@pytest.mark.parametrize("scale", [0.0, 1.0])
@pytest.mark.parametrize("reference", [None, np.array([0.5, 0.5, 0.0, 0.0, 0.0])], ids=["equal", "of two"])
def test_endmembers_that_vary_against_all_bands_at_once(scale, reference):
    generator, prepared = varying()
    prepared = eqx.tree_at(lambda p: p.covariance, prepared, scale * prepared.covariance)
    rest = jnp.zeros(generator.free.shape)
    slopes = np.asarray(jax.jacfwd(generator)(rest), float)  # [member, band, member, parameter]
    x = np.full(COUNT, 1 / COUNT) if reference is None else reference
    covariance = np.diag(noise_of() ** 2)
    for i in range(COUNT):
        own = slopes[i, :, i] * np.asarray(prepared.prior)[i]
        covariance = covariance + scale * x[i] ** 2 * own @ own.T
    columns = np.vstack([library(), np.ones(BANDS), np.linspace(-1, 1, BANDS)])
    plane = np.linalg.svd(np.r_[np.ones(COUNT), 0, 0][None])[2][1:]  # a baseline has no part in the sum
    inverse = plane.T @ np.linalg.inv(plane @ columns @ np.linalg.inv(covariance) @ columns.T @ plane.T) @ plane
    found = identifiability(prepared, classes=classes_of(NAMES[:COUNT], OF), abundances=reference)
    np.testing.assert_allclose(found.std, np.sqrt(np.diag(inverse))[:COUNT], rtol=2e-3)
    sums = np.array([[c == name for c in OF] for name in found.class_names], float)
    np.testing.assert_allclose(found.class_std, np.sqrt(np.diag(sums @ inverse[:COUNT, :COUNT] @ sums.T)), rtol=2e-3)
    assert found.names == NAMES[:COUNT]
    fixed = identifiability(library(), noise=noise_of(), baseline=1)
    np.testing.assert_allclose(found.plain_condition, fixed.plain_condition, rtol=1e-3)
    assert (found.std >= fixed.std * (1 - 1e-3)).all()
    if scale == 0:
        np.testing.assert_allclose(found.std, fixed.std, rtol=1e-3)


REFUSED = {
    "noise is wanted": lambda e: identifiability(e),
    "finite and above zero": lambda e: identifiability(e, noise=0.0),
    r"noise has shape \(3,\)": lambda e: identifiability(e, noise=np.ones(3)),
    "hold NaN": lambda e: identifiability(np.where(e > 0.9, np.nan, e), noise=0.1),
    "good_bands has shape": lambda e: identifiability(e, noise=0.1, good_bands=np.ones(3, bool)),
    "no band counts": lambda e: identifiability(e, noise=0.1, good_bands=np.zeros(BANDS, bool)),
    "baseline columns have shape": lambda e: identifiability(e, noise=0.1, baseline=np.ones((1, 3))),
    "2 names for 5": lambda e: identifiability(e, noise=0.1, names=("a", "b")),
    "classes of 2 endmembers for 5": lambda e: identifiability(e, noise=0.1, classes=classes_of(("a", "b"), OF[:2])),
    "sum to 5": lambda e: identifiability(e, noise=0.1, abundances=np.ones(5)),
    r"abundances have shape \(2,\)": lambda e: identifiability(e, noise=0.1, abundances=np.ones(2)),
    "limit is a standard deviation": lambda e: identifiability(e, noise=0.1, limit=0.0),
    "nothing but shade": lambda e: identifiability(
        e, noise=0.1, classes=classes_of(NAMES[:5], OF, drop=("shade",)), abundances=np.eye(5)[3]
    ),
    "in the PreparedSynthesis already": lambda e: identifiability(varying()[1], noise=0.1),
}


@pytest.fixture
def plain_calls(monkeypatch):
    """Without shape checks, as users call: the messages are for them."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.usefixtures("plain_calls")
@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_meant_is_refused(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message](library())


@pytest.mark.parametrize("noise", [0.002, 0.003, 0.004])
def test_the_rocks_library_has_one_group(shared_data, noise):
    scene = load("feely")
    wavenumber = np.asarray(scene.axis.centers)
    for window in (np.ones(830, bool), (wavenumber >= 400) & (wavenumber <= 1400)):
        found = identifiability(scene.endmembers, noise=noise, good_bands=window)
        assert [set(group.members) for group in found.groups] == [{"Serpentine", "Serpentine-2", "Blackbody"}]
        assert found.groups[0].member == "Serpentine-2"
        np.testing.assert_allclose(found.groups[0].weights, 0.5, atol=1e-4)
    fewer = scene.endmembers.select([n for n in scene.endmembers.names if n != "Serpentine-2"])
    without = identifiability(fewer, noise=noise)
    assert without.groups == ()
    assert without.std.max() < 0.06
    whole = identifiability(scene.endmembers, noise=noise)
    np.testing.assert_allclose([whole.plain_condition, without.plain_condition], [8.3e6, 2.3e3], rtol=0.02)


@pytest.mark.parametrize("name", ["two", "alone"])
def test_the_figure_shows_what_was_found(name):
    spectra = library(1) if name == "alone" else planted(name)
    names = tuple(f"${n}_1 with a name that is too long" for n in NAMES[: len(spectra)])
    found = identifiability(SpectralLibrary(spectra, names=names, classes=names), noise=0.01)
    figure = bounds(found, title="$a")
    left, matrix, _, right = figure.axes
    lengths = np.array([bar.get_width() for bar in left.patches])
    np.testing.assert_allclose(
        lengths[np.isfinite(found.std)], np.maximum(found.std[np.isfinite(found.std)], lengths.min())
    )
    assert len(left.texts) == np.isinf(found.std).sum()
    assert len({bar.get_facecolor() for bar in left.patches}) == (2 if name == "two" else 1)
    np.testing.assert_array_equal(matrix.images[0].get_array(), found.correlation)
    assert len(right.patches) == len(names)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=40)
    assert stream.getvalue()[:4] == b"\x89PNG"
