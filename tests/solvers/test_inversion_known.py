"""Inversion of mixing models: what is known stays known however it is given, and what fails says so."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from unmix_jax.physics.hapke import Hapke
from unmix_jax.physics.intimate import KubelkaMunk, PowerMean, Shkuratov
from unmix_jax.physics.mixing import ELMM, MLM, PPNM, Linear, Nascimento
from unmix_jax.solvers.inversion import invert, prepare_inversion

X = np.linspace(0, 1, 40)
ENDMEMBERS = np.stack([0.1 + 0.5 * X, 0.5 - 0.3 * X + 0.2 * np.sin(9 * X), 0.3 + 0.25 * np.cos(7 * X)])
SHARES = np.array([0.5, 0.3, 0.2])
RIPPLE = 0.01 * np.sin(31 * X)  # what no model explains, so that no answer is right for every parameter
EVEN = np.full(3, 1 / 3)
in_float64 = pytest.mark.usefixtures("x64")

KNOWN: dict[str, Any] = {  # the model of a known value, the value, and what a solver is told to fit
    "PPNM": (PPNM, 0.15, ()),
    "Hapke, phase function": (lambda b: Hapke(phase_function="legendre", b=b), -0.3, None),
    "Hapke, grains": (lambda d: Hapke(density=d, diameter=(1.0, 1.0, 1.0)), (2.0, 1.0, 3.0), None),
    "Shkuratov": (Shkuratov, 1.5, None),
}
each_known = pytest.mark.parametrize("name", KNOWN)


class Scaled(eqx.Module):
    """A model of a user that divides by what may be zero."""

    divisor: Any

    def __call__(self, abundances, endmembers):
        return (abundances @ endmembers) / self.divisor


class Declared(Scaled):
    """The same, which says what is fitted."""

    fitted: ClassVar[tuple[str, ...]] = ("divisor",)


def pixel_of(model):
    return np.asarray(model(jnp.asarray(SHARES), jnp.asarray(ENDMEMBERS))) + RIPPLE


def every_leaf(function, value):
    return tuple(function(x) for x in value) if isinstance(value, tuple) else function(value)


@in_float64
@each_known
def test_a_known_value_stays_known_and_has_its_derivative(name):
    """In every type, when it is traced, when the prepared problem is an argument; against central differences."""
    make, value, fit = KNOWN[name]
    pixel = pixel_of(make(value))
    for kind in (float, np.float64, np.asarray, jnp.asarray):
        problem = prepare_inversion(ENDMEMBERS, make(every_leaf(kind, value)), fit=fit)
        assert problem.fit == ()
        assert problem.low.shape == (0,)

    def solved(flat):
        return invert(pixel, ENDMEMBERS, make(flat.reshape(np.shape(value))), fit=fit)

    flat = np.ravel(value)
    steps = 1e-5 * np.eye(len(flat))
    batch = jax.jit(jax.vmap(solved))(np.concatenate([flat[None], flat + steps, flat - steps]))
    plain = jax.jit(invert)(pixel, problem)
    assert plain.fitted.covariance.shape == (3, 3)
    assert not jax.tree.leaves(plain.fitted.mixing)
    assert batch.converged.all()
    np.testing.assert_allclose(batch.abundances[0], plain.abundances, atol=1e-7)
    np.testing.assert_allclose(batch.fitted.covariance[0], plain.fitted.covariance, rtol=1e-4)

    up, down = np.split(np.asarray(batch.abundances[1:]), 2)
    differences = (up - down).T / 2e-5
    assert np.abs(differences).max() > 1e-3
    slopes = jax.jit(jax.jacrev(lambda flat: solved(flat).abundances))(flat)
    np.testing.assert_allclose(slopes, differences, atol=1e-5 * np.abs(differences).max())


PIXEL = np.asarray(MLM(0.3)(jnp.asarray(SHARES), jnp.asarray(ENDMEMBERS))) + RIPPLE
START = (MLM(jnp.asarray(0.2)), MLM(jnp.asarray(0.0)), MLM(jnp.asarray(0.9)), MLM(jnp.asarray(0.05)))


def everything(noise=0.01, endmembers=ENDMEMBERS, prior=0.2, spread=0.05, high=0.9):
    """Abundances and probability, of all that they depend on."""
    start, limits = MLM(jnp.asarray(prior)), (MLM(0.0), MLM(jnp.asarray(high)))
    options = {"noise": noise, "spread": MLM(jnp.asarray(spread)), "limits": limits}
    solution = invert(PIXEL, prepare_inversion(endmembers, start, **options))
    return jnp.append(solution.abundances, solution.fitted.mixing.probability)


@in_float64
@pytest.mark.parametrize(
    ("changes", "fixed"),
    [
        ({"noise": 0.002 * (1 + X), "prior": 0.3, "spread": 0.02, "endmembers": 0.1 * np.cos(5 * X)}, {}),
        ({"high": 1.0}, {"high": 0.25}),  # where the pixel wants more than the limit
    ],
    ids=["noise, prior and endmembers", "a limit that is reached"],
)
def test_first_and_second_derivatives_in_all_that_a_fit_depends_on(changes, fixed):
    base = {"noise": np.full(40, 0.01), "endmembers": ENDMEMBERS, "prior": 0.2, "spread": 0.05, "high": 0.9} | fixed

    @jax.jit
    def along(t):
        return everything(**{name: value + t * changes.get(name, 0.0) for name, value in base.items()})

    slope = jax.jit(jax.jacfwd(along))
    step = 1e-4
    differences = (along(step) - along(-step)) / (2 * step)
    np.testing.assert_allclose(slope(0.0), differences, atol=1e-5 * np.abs(differences).max())
    second = (slope(step) - slope(-step)) / (2 * step)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(slope))(0.0), second, atol=1e-5 * (1 + np.abs(second).max()))


# ------------------------------------------------------------------------------------------------ what is claimed


def test_float32_claims_no_more_than_the_optimum_of_the_same_data():
    """Two endmembers differ by 1e-3 of their size: a gap of float32 is small wherever between them a pixel ends."""
    draw = np.random.default_rng(0)
    endmembers = ENDMEMBERS[[0, 1, 2, 0]].astype(np.float32)
    endmembers[3] += (3e-4 * draw.standard_normal(40)).astype(np.float32)
    shares = draw.dirichlet(np.full(4, 0.5), 64)
    pixels = shares @ endmembers + 0.002 * draw.standard_normal((64, 40))
    pixels = pixels.astype(np.float32)

    def solve(endmembers, pixels):
        problem = prepare_inversion(endmembers, Linear())  # it has one optimum
        return jax.tree.map(np.asarray, jax.jit(jax.vmap(lambda pixel: invert(pixel, problem)))(pixels))

    found = solve(endmembers, pixels)
    assert found.abundances.dtype == np.float32
    assert np.mean(found.converged) > 0.95
    with jax.enable_x64(True):
        exact = solve(endmembers.astype(float), pixels.astype(float))
    both = found.converged & exact.converged
    assert np.mean(both) > 0.9
    assert np.abs(found.abundances - exact.abundances)[both].max() <= 1e-3


# ------------------------------------------------------------------------------------------------ what fails


def test_a_model_that_renders_infinity_ends_and_says_so():
    """Nothing is known of the start before it is traced, so no error can be raised."""

    @jax.jit
    def solved(divisor):
        return invert(ENDMEMBERS[0], ENDMEMBERS, Declared(divisor))

    infinite, fine = solved(0.0), solved(0.5)
    assert not infinite.converged
    assert infinite.steps <= 1
    assert np.isnan(infinite.abundances).all()
    assert np.isnan(infinite.residual)
    assert np.isnan(infinite.fitted.covariance).all()
    assert np.isfinite(fine.residual)


DARK: dict[str, Any] = {  # models, and reflectances that they have no number for
    "Shkuratov": (Shkuratov, 0.01 * np.ones(40)),
    "KubelkaMunk": (KubelkaMunk, 1.2 * np.ones(40)),
    "PowerMean": (lambda: PowerMean(jnp.asarray(0.5)), -0.1 * np.ones(40)),
    "Hapke": (Hapke, -0.1 * np.ones(40)),
}


@pytest.mark.parametrize("name", DARK)
def test_a_model_that_renders_nan_fails_and_its_residual_is_nan(name):
    make, wrong = DARK[name]
    endmembers = ENDMEMBERS.copy()
    endmembers[1, 3] = wrong[3]
    solution = jax.jit(lambda spectra: invert(ENDMEMBERS[0], spectra, make()))(endmembers)
    assert not solution.converged
    assert not solution.unique
    assert np.isnan(solution.residual)
    assert np.isnan(solution.abundances).all()
    assert np.isnan(np.diag(solution.covariance)).all()


def test_pixels_of_zeros_are_fitted_and_too_small_ones_are_not_certified():
    endmembers = ENDMEMBERS.astype(np.float32)
    problem = prepare_inversion(endmembers, PPNM(jnp.zeros(())))
    solution = jax.jit(jax.vmap(lambda pixel: invert(pixel, problem)))(np.zeros((1, 40), np.float32))
    assert np.isnan(solution.gap[0])
    fitted = jax.tree.map(lambda x: x[0], solution.fitted.mixing)
    pixel = np.asarray(fitted(solution.abundances[0], endmembers))
    np.testing.assert_allclose(solution.residual[0], np.sqrt(np.mean(pixel**2)), rtol=1e-5)
    assert not invert(np.float32(1e-20) * endmembers[0], problem).converged


WRONG: dict[str, Any] = {
    "a plain number": (
        lambda: prepare_inversion(ENDMEMBERS, PPNM(0.25)),
        "PPNM.nonlinearity is a plain number: give",
    ),
    "nothing said": (
        lambda: prepare_inversion(ENDMEMBERS, Scaled(jnp.ones(()))),
        "Scaled does not say .*'divisor'",
    ),
    "no such field": (lambda: prepare_inversion(ENDMEMBERS, Hapke(), fit=("albedo",)), "hold numbers are: b, c"),
    "an empty field": (lambda: prepare_inversion(ENDMEMBERS, Hapke(), fit="filling"), "fit names 'filling'"),
    "a constant": (lambda: prepare_inversion(ENDMEMBERS, Hapke(), fit=("incidence",)), "fit names 'incidence'"),
    "limits": (
        lambda: prepare_inversion(ENDMEMBERS, Hapke(b=jnp.zeros(())), limits=(Hapke(b=-1.0), Hapke(b=1.0))),
        "limits is about fitted fields, and Hapke has none here: name them with fit",
    ),
    "interactions": (lambda: prepare_inversion(ENDMEMBERS, Nascimento(jnp.zeros(3)), fit=()), "sum to one together"),
    "twice": (
        lambda: invert(ENDMEMBERS[0], prepare_inversion(ENDMEMBERS, Linear()), fit=()),
        "do not give fit: prepare_inversion takes it",
    ),
    "a derivative in a start": (
        lambda: jax.grad(lambda b: invert(ENDMEMBERS[0], ENDMEMBERS, PPNM(b)).abundances[0])(0.25),
        "nonlinearity of PPNM is fitted, .* Give fit=\\(\\) if it is known",
    ),
    "an infinite start": (
        lambda: prepare_inversion(ENDMEMBERS, Declared(jnp.zeros(()))),
        "Declared renders inf in band 0 .*divisor = 0.0: start where the model is finite",
    ),
    "a known zero": (
        lambda: prepare_inversion(ENDMEMBERS, Declared(0.0), fit=()),
        "Declared renders inf in band 0 .*nothing is fitted",
    ),
    "too dark": (lambda: prepare_inversion(0.1 * ENDMEMBERS, Shkuratov()), "Shkuratov renders nan in band"),
    "zero": (lambda: prepare_inversion(0 * ENDMEMBERS, KubelkaMunk()), "KubelkaMunk renders nan in band 0 \\(40 of 40"),
    "scales": (
        lambda: prepare_inversion(ENDMEMBERS, ELMM(jnp.full(3, jnp.nan))),
        "outside its limits|renders nan",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors_say_what_is_wrong_and_what_to_do(name, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the messages are for users
    call, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        call()
