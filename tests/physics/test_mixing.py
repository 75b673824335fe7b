"""Mixing models against loops in NumPy, over a table of models."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close
from jax.test_util import check_grads

from unmix_jax.physics.hapke import Hapke
from unmix_jax.physics.intimate import KubelkaMunk, PowerMean, Shkuratov
from unmix_jax.physics.mixing import (
    ELMM,
    GBM,
    MLM,
    PPNM,
    SCLS,
    Fan,
    Linear,
    Mixing,
    Nascimento,
    monomials,
    pair_products,
    pairs,
)

DRAW = np.random.default_rng(3)
COUNT, BANDS = 4, 30
ENDMEMBERS = DRAW.uniform(0.05, 0.9, (COUNT, BANDS))
ABUNDANCES = DRAW.dirichlet(np.ones(COUNT), 6)
INTERACTIONS = DRAW.uniform(0, 1, 6)
SCALES = DRAW.uniform(0.7, 1.3, COUNT)


def free(a, i, j, n):
    return INTERACTIONS[n]


def by_shares(a, i, j, n):
    return a[i] * a[j]


def free_by_shares(a, i, j, n):
    return INTERACTIONS[n] * a[i] * a[j]


def loops(a, weigh):
    """Linear mixture, plus each pair of endmembers with a weight of its own."""
    total, n = a @ ENDMEMBERS, 0
    for i in range(COUNT):
        for j in range(i + 1, COUNT):
            total = total + weigh(a, i, j, n) * ENDMEMBERS[i] * ENDMEMBERS[j]
            n += 1
    return total


def intimate(a):
    """Isotropic grains at 30 and 0 degrees, relative to a perfect standard, written from Hapke's equations."""
    sun, sensor = np.cos(np.pi / 6), 1.0
    albedos = []
    for m in ENDMEMBERS:  # by halvings
        low, high = np.zeros(BANDS), np.ones(BANDS)
        for _ in range(80):
            middle = 0.5 * (low + high)
            gamma = np.sqrt(1 - middle)
            less = middle / ((1 + 2 * sun * gamma) * (1 + 2 * sensor * gamma)) < m
            low, high = np.where(less, middle, low), np.where(less, high, middle)
        albedos.append(low)
    w = a @ np.array(albedos)
    return w / ((1 + 2 * sun * np.sqrt(1 - w)) * (1 + 2 * sensor * np.sqrt(1 - w)))


def absorbed(a):
    """Absorption over scattering adds up; the reflectance is the lower root of a quadratic equation."""
    total = a @ ((1 - ENDMEMBERS) ** 2 / (2 * ENDMEMBERS))
    return 1 + total - np.sqrt((1 + total) ** 2 - 1)


def rows_of_grains(a):
    """Written from Shkuratov's equations; what passes through a grain is found by halvings."""
    n, q = 1.6, 0.8
    outer = (n - 1) ** 2 / (n + 1) ** 2 + 0.05
    backward = (0.28 * n - 0.20) * outer
    enter, inner = 1 - outer, 1.04 - 1 / n**2
    leave = 1 - inner

    def shares(x):
        h = 0.5 * enter * leave * inner * x**2 / (1 - inner * x)
        return q * (backward + h), q * (outer - backward + enter * leave * x + h) + 1 - q

    def albedo(back, on):
        half = (1 + back**2 - on**2) / (2 * back)
        return half - np.sqrt(half**2 - 1)

    found = []
    for m in ENDMEMBERS:
        low, high = np.zeros(BANDS), np.ones(BANDS)
        for _ in range(80):
            middle = 0.5 * (low + high)
            less = albedo(*shares(middle)) < m
            low, high = np.where(less, middle, low), np.where(less, high, middle)
        found.append(shares(low))
    return albedo(*np.einsum("e,ecb->cb", a, np.array(found)))


MODELS = {  # the model, what it says of one abundance vector, and its arrays
    "Linear": (lambda: Linear(), lambda a: a @ ENDMEMBERS, 0),
    "Nascimento": (
        lambda: Nascimento(jnp.asarray(INTERACTIONS)),
        lambda a: loops(a, lambda a, i, j, n: INTERACTIONS[n]),
        1,
    ),
    "Fan": (lambda: Fan(), lambda a: loops(a, lambda a, i, j, n: a[i] * a[j]), 0),
    "GBM": (
        lambda: GBM(jnp.asarray(INTERACTIONS)),
        lambda a: loops(a, lambda a, i, j, n: INTERACTIONS[n] * a[i] * a[j]),
        1,
    ),
    "PPNM": (lambda: PPNM(jnp.asarray(-0.3)), lambda a: a @ ENDMEMBERS - 0.3 * (a @ ENDMEMBERS) ** 2, 1),
    "MLM": (lambda: MLM(jnp.asarray(0.4)), lambda a: 0.6 * (a @ ENDMEMBERS) / (1 - 0.4 * (a @ ENDMEMBERS)), 1),
    "ELMM": (lambda: ELMM(jnp.asarray(SCALES)), lambda a: (a * SCALES) @ ENDMEMBERS, 1),
    "SCLS": (lambda: SCLS(jnp.asarray(0.8)), lambda a: 0.8 * a @ ENDMEMBERS, 1),
    "Hapke": (lambda: Hapke(), intimate, 0),
    "KubelkaMunk": (lambda: KubelkaMunk(), absorbed, 0),
    "Shkuratov": (lambda: Shkuratov(), rows_of_grains, 0),
    "PowerMean": (lambda: PowerMean(jnp.asarray(-0.4)), lambda a: (a @ ENDMEMBERS**-0.4) ** (1 / -0.4), 1),
}
each_model = pytest.mark.parametrize("name", MODELS)
OF_PAIRS = ("Nascimento", "GBM")


@each_model
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_agrees_with_its_equation(name, dtype):
    make, oracle, arrays = MODELS[name]
    with jax.enable_x64(dtype == np.float64):
        model = jax.tree.map(lambda leaf: leaf.astype(dtype) if eqx.is_array(leaf) else leaf, make())
        assert isinstance(model, Mixing)
        assert len(jax.tree.leaves(eqx.filter(model, eqx.is_array))) == arrays
        a, m = jnp.asarray(ABUNDANCES, dtype), jnp.asarray(ENDMEMBERS, dtype)
        batch = eqx.filter_jit(eqx.filter_vmap(model, in_axes=(0, None)))(a, m)
        assert batch.dtype == dtype
        for spectrum, row in zip(batch, ABUNDANCES, strict=True):
            np.testing.assert_allclose(spectrum, oracle(row), rtol=2e-6 if dtype == np.float32 else 1e-12)
        assert_close(batch[2], model(a[2], m))


@each_model
def test_the_order_of_the_endmembers_does_not_matter(name):
    model, order = MODELS[name][0](), np.array([2, 0, 3, 1])
    turned = model
    if name in OF_PAIRS:
        table = np.zeros((COUNT, COUNT))
        table[pairs(COUNT)] = INTERACTIONS
        table = (table + table.T)[np.ix_(order, order)]
        turned = type(model)(jnp.asarray(table[pairs(COUNT)], jnp.float32))
    elif name == "ELMM":
        turned = ELMM(model.scales[order])
    a, m = jnp.asarray(ABUNDANCES[0], jnp.float32), jnp.asarray(ENDMEMBERS, jnp.float32)
    assert_close(turned(a[order], m[order]), model(a, m))


@each_model
@pytest.mark.usefixtures("x64")
def test_derivatives_in_everything(name):
    arrays, plain = eqx.partition(MODELS[name][0](), eqx.is_array)

    @jax.jit
    def spectrum(arrays, a, m):
        return eqx.combine(arrays, plain)(a, m)

    check_grads(spectrum, (arrays, jnp.asarray(ABUNDANCES[1]), jnp.asarray(ENDMEMBERS)), order=1, rtol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_without_interaction_all_are_linear(count):
    m, a = jnp.asarray(DRAW.uniform(0, 1, (count, 9)), jnp.float32), jnp.full(count, 1 / count, jnp.float32)
    none = jnp.zeros(count * (count - 1) // 2)
    linear = Linear()(a, m)
    for model in (GBM(none), Nascimento(none), PPNM(jnp.zeros(())), MLM(jnp.zeros(())), ELMM(jnp.ones(count))):
        assert np.array_equal(model(a, m), linear)
    np.testing.assert_allclose(GBM(none + 1)(a, m), Fan()(a, m), rtol=1e-6, atol=1e-7)


def test_a_pure_pixel_is_its_endmember():
    m, a = jnp.asarray(ENDMEMBERS, jnp.float32), jnp.eye(COUNT)[1]
    for model in (Linear(), Fan(), GBM(jnp.ones(6))):
        assert np.array_equal(model(a, m), m[1])
    for model in (Hapke(), KubelkaMunk(), Shkuratov(), *(PowerMean(q) for q in (-1.0, 0.0, 0.5))):
        np.testing.assert_allclose(model(a, m), m[1], rtol=2e-6)


@pytest.mark.parametrize(
    ("exponent", "mean"),
    [
        (1.0, lambda a, m: a @ m),
        (0.0, lambda a, m: np.exp(a @ np.log(m))),
        (1e-9, lambda a, m: np.exp(a @ np.log(m))),
        (-1.0, lambda a, m: 1 / (a @ (1 / m))),
    ],
)
def test_means_between_linear_and_harmonic(exponent, mean):
    a, m = jnp.asarray(ABUNDANCES[0], jnp.float32), jnp.asarray(ENDMEMBERS, jnp.float32)
    np.testing.assert_allclose(PowerMean(exponent)(a, m), mean(ABUNDANCES[0], ENDMEMBERS), rtol=3e-6)


def test_reflectances_out_of_range_have_no_mean():
    a, m = jnp.ones(2) / 2, jnp.array([[0.0, 0.5, 1.2, 0.5], [0.5, 0.5, 0.5, -0.1]])
    assert np.array_equal(np.isnan(KubelkaMunk()(a, m)), [1, 0, 1, 1])
    assert np.array_equal(np.isnan(PowerMean(0.5)(a, m)), [1, 0, 0, 1])
    slopes = jax.grad(lambda m: jnp.nansum(KubelkaMunk()(a, m) + PowerMean(0.5)(a, m)))(m)
    assert np.isfinite(slopes[:, 1]).all()
    assert float(KubelkaMunk()(a, jnp.ones((2, 1)))[0]) == 1
    assert np.array_equal(np.isnan(Shkuratov()(a, m)), [1, 0, 1, 1])
    assert np.isnan(Shkuratov()(a, jnp.full((2, 1), 0.01)))  # the faces alone send more back
    assert float(Shkuratov()(a, jnp.ones((2, 1)))[0]) == 1


def test_grains_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"at least 1\.3 here, got 1\.0"):
        Shkuratov(1.0)
    with pytest.raises(ValueError, match=r"above 0 and not above 1, got 0"):
        Shkuratov(filling=0.0)


UNDONE = [(PPNM, b) for b in (-0.5, 0.0, 0.3, 2.0)] + [(MLM, p) for p in (-1.0, 0.0, 0.9, 0.99)]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("kind", "value"), UNDONE)
def test_the_linear_part_of_a_response_is_what_was_there(kind, value):
    model, linear = kind(jnp.asarray(value)), jnp.linspace(0.0, 0.99, 34)
    np.testing.assert_allclose(model.linear_part(model.response(linear)), linear, rtol=1e-9, atol=1e-12)
    if value < 0.95:  # beyond, differences are no judge of derivatives
        some = model.response(linear[1:20])
        check_grads(lambda y, model: model.linear_part(y), (some, model), order=1, rtol=1e-4)


def test_beyond_what_can_be_undone_there_is_nan():
    """PPNM turns over at 1 + 2bs = 0, where 1 + 4by = 0; MLM has a pole at Ps = 1."""
    assert np.array_equal(np.isnan(PPNM(jnp.asarray(-0.5)).linear_part(jnp.array([0.4, 0.5, 0.6]))), [0, 0, 1])
    assert np.array_equal(np.isnan(MLM(jnp.asarray(0.5)).response(jnp.array([0.9, 2.0, 3.0]))), [0, 1, 1])
    assert np.array_equal(np.isnan(MLM(jnp.asarray(2.0)).linear_part(jnp.array([0.9, 0.5, 0.1]))), [0, 1, 1])
    certain = MLM(jnp.asarray(1.0))  # light never leaves, but for a white surface
    assert np.array_equal(certain.response(jnp.array([0.0, 0.5, 0.999])), [0, 0, 0])
    grads = jax.grad(lambda y: jnp.nansum(PPNM(jnp.asarray(-0.5)).linear_part(y)))(jnp.array([0.4, 0.6]))
    assert np.isfinite(grads).all()


def test_interactions_of_another_number_are_refused():
    for model in (GBM, Nascimento):
        with pytest.raises(ValueError, match=r"4 endmembers have 6 pairs, interactions have shape \(4,\)"):
            model(jnp.ones(4))(jnp.ones(COUNT) / 4, jnp.asarray(ENDMEMBERS, jnp.float32))


def test_pairs_come_in_the_order_of_their_first():
    assert np.array_equal(np.transpose(pairs(3)), [[0, 1], [0, 2], [1, 2]])
    m = jnp.asarray(ENDMEMBERS, jnp.float32)
    assert np.array_equal(pair_products(m)[4], m[1] * m[3])
    assert pair_products(m[:1]).shape == (0, BANDS)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "model",
    [Linear(), Fan(), GBM, PPNM, ELMM, SCLS],
    ids=["Linear", "Fan", "GBM", "PPNM", "ELMM", "SCLS"],
)
def test_weighted_terms_are_the_mixture(model):
    values = {GBM: INTERACTIONS, PPNM: 0.3, ELMM: SCALES, SCLS: 0.8}
    model = model(jnp.asarray(values[model])) if isinstance(model, type) else model
    terms = np.asarray(model.terms(ENDMEMBERS))
    for a in ABUNDANCES:
        weights = np.asarray(model.term_weights(COUNT)) * np.asarray(monomials(a, len(terms)))
        np.testing.assert_allclose(weights @ terms, model(a, ENDMEMBERS), rtol=1e-12)
