"""The covariance of abundances and parameters against null spaces in SciPy, closed forms and repeated fits."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from scipy.linalg import null_space
from scipy.optimize import least_squares

from unmix_jax.physics.hapke import Hapke
from unmix_jax.physics.mixing import ELMM, GBM, MLM, PPNM, SCLS, Fan, Linear
from unmix_jax.solvers.uncertainty import cramer_rao

pytestmark = pytest.mark.usefixtures("x64")

DRAW = np.random.default_rng(12)
ENDMEMBERS = DRAW.uniform(0.05, 0.9, (3, 40))
ABUNDANCES = np.array([0.5, 0.3, 0.2])
MODELS = {
    "Linear": lambda: Linear(),
    "Fan": lambda: Fan(),
    "GBM": lambda: GBM(jnp.array([0.2, 0.5, 0.9])),
    "PPNM": lambda: PPNM(jnp.asarray(0.2)),
    "MLM": lambda: MLM(jnp.asarray(0.3)),
    "SCLS": lambda: SCLS(jnp.asarray(1.1)),
    "Hapke": lambda: Hapke(),
    "Hapke, b": lambda: Hapke(phase_function="legendre", b=jnp.asarray(-0.4), emergence=20.0),
}
FIT = {"Hapke, b": ("b",)}  # besides what the class of the model lists
each_model = pytest.mark.parametrize("name", MODELS)
bound = eqx.filter_jit(cramer_rao)


def slopes(model, abundances):
    """Central differences in abundances and parameters, [unknown, band]."""
    leaves, tree = jax.tree.flatten(eqx.filter(model, eqx.is_array))
    static = eqx.filter(model, eqx.is_array, inverse=True)
    start = np.concatenate([abundances, *[np.ravel(leaf) for leaf in leaves]])

    @jax.jit
    def spectrum(unknown):
        parts, at = [], 3
        for leaf in leaves:
            parts.append(unknown[at : at + leaf.size].reshape(leaf.shape))
            at += leaf.size
        return eqx.combine(jax.tree.unflatten(tree, parts), static)(unknown[:3], ENDMEMBERS)

    steps = 1e-6 * np.eye(len(start))
    return np.array([(spectrum(start + s) - spectrum(start - s)) / 2e-6 for s in steps]), spectrum, start


def expected(rows, inside, noise, sum_to_one=True):
    """On a basis of what the constraints leave."""
    unknowns = len(rows)
    held = np.eye(unknowns)[[i for i in range(3) if not inside[i]]]
    total = np.concatenate([np.ones(3), np.zeros(unknowns - 3)])[None]
    constraints = np.concatenate([held, total] if sum_to_one else [held])
    basis = null_space(constraints) if len(constraints) else np.eye(unknowns)
    precision = np.linalg.inv(noise) if np.ndim(noise) == 2 else np.diag(np.full(40, 1.0) / np.square(noise))
    return basis @ np.linalg.inv(basis.T @ rows @ precision @ rows.T @ basis) @ basis.T


NOISES = {
    "one": 0.01,
    "bands": DRAW.uniform(0.005, 0.02, 40),
    "covariance": 1e-4 * np.exp(-np.abs(np.subtract.outer(np.arange(40), np.arange(40))) / 3),
}


@each_model
@pytest.mark.parametrize("noise", NOISES)
def test_agrees_with_a_basis_of_what_constraints_leave(name, noise):
    model = MODELS[name]()
    rows = slopes(model, ABUNDANCES)[0]
    found = bound(model, ABUNDANCES, ENDMEMBERS, NOISES[noise], fit=FIT.get(name))
    wanted = expected(rows, [True] * 3, NOISES[noise])
    np.testing.assert_allclose(found.covariance, wanted, rtol=2e-4, atol=1e-6 * np.abs(wanted).max())
    np.testing.assert_allclose(found.abundances.sum(0), 0, atol=1e-9)
    assert found.parameters.shape == (len(rows) - 3,) * 2


@pytest.mark.parametrize("name", [name for name in MODELS if name != "GBM"])  # whose interactions are then unknown
def test_an_abundance_at_zero_is_held(name):
    model = MODELS[name]()
    edge = np.array([0.6, 0.0, 0.4])
    found = bound(model, edge, ENDMEMBERS, 0.01, fit=FIT.get(name))
    wanted = expected(slopes(model, edge)[0], edge > 0, 0.01)
    np.testing.assert_allclose(found.covariance, wanted, rtol=2e-4, atol=1e-6 * np.abs(wanted).max())
    assert not found.covariance[1].any()
    freed = bound(model, edge, ENDMEMBERS, 0.01, free=np.ones(3, bool), fit=FIT.get(name))
    assert np.all(np.diag(freed.abundances) >= np.diag(found.abundances) * (1 - 1e-9))


def test_the_closed_form_of_sum_constrained_least_squares():
    inverse = np.linalg.inv(ENDMEMBERS @ ENDMEMBERS.T)
    ones = inverse.sum(0)
    closed = 1e-4 * (inverse - np.outer(ones, ones) / ones.sum())
    np.testing.assert_allclose(bound(Linear(), ABUNDANCES, ENDMEMBERS, 0.01).covariance, closed, rtol=1e-8, atol=1e-14)
    loose = bound(Linear(), ABUNDANCES, ENDMEMBERS, 0.01, sum_to_one=False)
    np.testing.assert_allclose(loose.covariance, 1e-4 * inverse, rtol=1e-8)


@pytest.mark.parametrize("name", ["PPNM", "MLM", "SCLS"])
def test_repeated_fits_scatter_as_it_says(name):
    """By SciPy, away from all walls, 400 draws: standard deviations within four of their own."""
    model = MODELS[name]()
    _, spectrum, start = slopes(model, ABUNDANCES)
    found = bound(model, ABUNDANCES, ENDMEMBERS, 0.002)
    slope = jax.jit(jax.jacfwd(spectrum))

    def full(x):
        return np.concatenate([x[:2], [1 - x[0] - x[1]], x[2:]])

    chain = np.array([[1, 0, 0], [0, 1, 0], [-1, -1, 0], [0, 0, 1]], float)
    clean, estimates = np.asarray(spectrum(start)), []
    for noise in 0.002 * np.random.default_rng(0).normal(size=(400, 40)):
        fit = least_squares(
            lambda x, y=clean + noise: np.asarray(spectrum(full(x))) - y,
            start[[0, 1, 3]],
            jac=lambda x: np.asarray(slope(full(x))) @ chain,
        )
        estimates.append(full(fit.x))
    ratio = np.var(estimates, axis=0) / np.diag(found.covariance)
    assert np.all(np.abs(ratio - 1) < 4 * np.sqrt(2 / 400))


def test_what_the_spectrum_does_not_tell_is_unknown():
    pure = np.array([0.7, 0.3, 0.0])
    found = bound(GBM(jnp.full(3, 0.5)), pure, ENDMEMBERS, 0.01)
    assert np.array_equal(np.isinf(np.diag(found.parameters)), [False, True, True])  # (0, 1) is there, (0, 2) is not
    assert np.isfinite(found.abundances).all()
    alike = np.stack([ENDMEMBERS[0], ENDMEMBERS[0], ENDMEMBERS[1]])
    twice = bound(Linear(), ABUNDANCES, alike, 0.01)
    assert np.array_equal(np.isinf(np.diag(twice.abundances)), [True, True, False])
    assert np.isfinite(twice.abundances[2, 2])
    scales = bound(ELMM(jnp.ones(3)), ABUNDANCES, ENDMEMBERS, 0.01)  # only the products are told
    assert np.isinf(np.diag(scales.covariance)).all()
    single = bound(Linear(), np.ones(1), ENDMEMBERS[:1], 0.01)
    assert np.array_equal(single.covariance, [[0.0]])


@pytest.mark.parametrize("kind", [float, np.float64, np.asarray, jnp.asarray])
def test_the_type_of_a_value_does_not_decide_whether_it_is_known(kind):
    known = cramer_rao(PPNM(kind(0.2)), ABUNDANCES, ENDMEMBERS, 0.01, fit=())
    fitted = cramer_rao(PPNM(kind(0.2)), ABUNDANCES, ENDMEMBERS, 0.01, fit=("nonlinearity",))
    assert known.covariance.shape == (3, 3)
    assert fitted.covariance.shape == (4, 4)
    traced = jax.jit(lambda b: cramer_rao(PPNM(b), ABUNDANCES, ENDMEMBERS, 0.01, fit=()))(kind(0.2))
    np.testing.assert_allclose(traced.covariance, known.covariance, rtol=1e-9)


def test_a_batch_is_a_loop_and_float32_agrees():
    many = DRAW.dirichlet(np.ones(3), 5)
    together = jax.vmap(lambda a: cramer_rao(PPNM(jnp.asarray(0.2)), a, ENDMEMBERS, 0.01).covariance)(many)
    for covariance, row in zip(together, many, strict=True):
        np.testing.assert_allclose(covariance, bound(MODELS["PPNM"](), row, ENDMEMBERS, 0.01).covariance, rtol=1e-9)
    with jax.enable_x64(False):
        small = bound(PPNM(jnp.float32(0.2)), many[0].astype(np.float32), ENDMEMBERS.astype(np.float32), 0.01)
        assert small.covariance.dtype == np.float32
    np.testing.assert_allclose(small.covariance, together[0], rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones(2), ENDMEMBERS, 0.1), r"abundances have shape \(2,\), endmembers \(3, 40\)"),
        ((ABUNDANCES, ENDMEMBERS, 0.0), "noise must be above zero"),
        ((ABUNDANCES, ENDMEMBERS, np.nan), "noise must be above zero"),
        ((ABUNDANCES, ENDMEMBERS, np.ones(3)), r"noise is one number, 40 or 40 × 40, got shape \(3,\)"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # without shape checks, as users call
    with pytest.raises(ValueError, match=message):
        cramer_rao(Linear(), *arguments)
