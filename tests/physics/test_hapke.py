"""Hapke's model against the integral equation of H, against plain NumPy, and against powders of known composition."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from unmix_jax.physics.dispersion import from_axes, refractive_index
from unmix_jax.physics.hapke import Hapke, albedo_from_index, chandrasekhar
from unmix_jax.scenes.datasets import load
from unmix_jax.solvers.least_squares import fcls, prepare

OPTIONS = {
    "isotropic": {},
    "normal": {"incidence": 0.0},
    "grazing": {"incidence": 75.0, "emergence": 60.0, "phase": 120.0},
    "Lambertian": {"standard": False},
    "2002": {"h_function": "2002", "incidence": 60.0},
    "legendre": {"phase_function": "legendre", "b": -0.4, "c": 0.25, "emergence": 20.0},
    "henyey-greenstein": {"phase_function": "henyey-greenstein", "b": 0.3, "c": 0.6, "standard": False},
    "opposition": {"opposition": 0.8, "opposition_width": 0.06, "incidence": 5.0, "standard": False},
    "crowded": {"filling": 0.4, "standard": False},
    "everything": {
        "phase_function": "henyey-greenstein",
        "b": (0.3, 0.2, 0.4),
        "c": (0.6, -0.2, 0.1),
        "opposition": 1.0,
        "filling": 0.5,
        "h_function": "2002",
        "emergence": 40.0,
        "phase": 15.0,
        "standard": False,
    },
}
each_option = pytest.mark.parametrize("name", OPTIONS)
ALBEDOS = np.random.default_rng(4).uniform(0.05, 0.98, (3, 20))


def oracle(shares, w, *, incidence=30.0, emergence=0.0, phase=None, standard=True, h_function="two-stream", **rest):
    """Reflectance of a mixture, from the equations in their order."""
    sun, sensor = np.cos(np.deg2rad([incidence, emergence]))
    g = np.deg2rad(incidence + emergence if phase is None else phase)
    b, c = (np.broadcast_to(rest.get(n, 0.0), len(w))[:, None] for n in "bc")
    p = {
        "isotropic": np.ones((len(w), 1)),
        "legendre": 1 + b * np.cos(g) + c * (1.5 * np.cos(g) ** 2 - 0.5),
        "henyey-greenstein": (1 + c) / 2 * (1 - b**2) / (1 - 2 * b * np.cos(g) + b**2) ** 1.5
        + (1 - c) / 2 * (1 - b**2) / (1 + 2 * b * np.cos(g) + b**2) ** 1.5,
    }[rest.get("phase_function", "isotropic")]
    surge = rest.get("opposition", 0.0) / (1 + np.tan(g / 2) / rest.get("opposition_width", 0.05))
    phi = rest.get("filling")
    crowding = 1.0 if phi is None else -np.log(1 - 1.209 * phi ** (2 / 3)) / (1.209 * phi ** (2 / 3))

    def h(w, x):
        gamma = np.sqrt(1 - w)
        if h_function == "two-stream":
            return (1 + 2 * x) / (1 + 2 * x * gamma)
        r = (1 - gamma) / (1 + gamma)
        return 1 / (1 - w * x * (r + (1 - 2 * r * x) / 2 * np.log((1 + x) / x)))

    mean = shares @ w
    mean_p = shares @ (w * p) / mean
    both = h(mean, sun / crowding) * h(mean, sensor / crowding)
    found = crowding * mean / (4 * (sun + sensor)) * ((1 + surge) * mean_p + both - 1)
    return found / (h(1.0, sun) * h(1.0, sensor) / (4 * (sun + sensor)) if standard else 1.0)


@each_option
@pytest.mark.usefixtures("x64")
def test_agrees_with_the_equations(name):
    model, shares = Hapke(**OPTIONS[name]), np.array([0.5, 0.2, 0.3])
    np.testing.assert_allclose(
        eqx.filter_jit(model.mix)(shares, ALBEDOS), oracle(shares, ALBEDOS, **OPTIONS[name]), rtol=1e-12
    )
    rendered = np.stack([oracle(one, ALBEDOS, **OPTIONS[name]) for one in np.eye(3)])
    np.testing.assert_allclose(
        eqx.filter_jit(model)(shares, rendered), oracle(shares, ALBEDOS, **OPTIONS[name]), rtol=1e-10
    )
    if name != "everything":
        np.testing.assert_allclose(eqx.filter_jit(model.reflectance)(ALBEDOS), rendered, rtol=1e-12)


@each_option
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_albedo_of_a_reflectance_is_what_was_there(name, dtype):
    """From nearly black to nearly white, and both ends."""
    with jax.enable_x64(dtype == np.float64):
        model = Hapke(**{k: v for k, v in OPTIONS[name].items() if k not in "bc" or np.ndim(v) == 0})
        albedo = np.concatenate([[0.0], np.geomspace(1e-6, 0.5, 20), 1 - np.geomspace(0.4, 1e-5, 20), [1.0]])
        rendered = jax.jit(model.reflectance)(jnp.asarray(albedo, dtype))
        assert np.all(np.diff(rendered) > 0)
        found = jax.jit(model.albedo_of)(rendered[None])[0]
        assert found.dtype == dtype
        tolerance = 4e-6 if dtype == np.float32 else 1e-11
        np.testing.assert_allclose(found[1:-1], albedo[1:-1], rtol=tolerance)
        np.testing.assert_allclose([found[0], found[-1]], [0, 1], atol=tolerance)


def test_float32_keeps_the_digits_of_dark_and_of_bright_grains():
    """Rendered again after the inversion, relative to the endmember; w itself cannot hold 1 − w."""
    reflectance = np.concatenate([np.geomspace(1e-6, 0.5, 30), 1 - np.geomspace(0.4, 1e-5, 30)])[None]
    again = Hapke()(jnp.ones(1), jnp.asarray(reflectance, jnp.float32))
    np.testing.assert_allclose(again, reflectance[0], rtol=1e-6)


@each_option
def test_no_albedo_for_what_no_grain_reflects(name):
    model = Hapke(**{k: v for k, v in OPTIONS[name].items() if k not in "bc" or np.ndim(v) == 0})
    white = float(model.reflectance(jnp.ones(1))[0])
    impossible = jnp.array([[-0.1, -1e-6, 1.01 * white, 5.0, np.inf, np.nan]])
    assert np.isnan(jax.jit(model.albedo_of)(impossible)).all()
    assert np.isnan(model.reflectance(jnp.array([-0.1, 1.1, np.nan]))).all()
    mixed = jax.jit(model.__call__)(jnp.array([0.5, 0.5]), jnp.array([[0.3 * white, 0.3 * white], [0.2 * white, -0.1]]))
    assert np.array_equal(np.isnan(mixed), [False, True])


@each_option
@pytest.mark.usefixtures("x64")
def test_derivatives_in_abundances_reflectances_and_options(name):
    options = {n: v for n, v in OPTIONS[name].items() if n in ("b", "c", "opposition", "opposition_width", "filling")}
    fixed = {n: v for n, v in OPTIONS[name].items() if n not in options}
    rendered = np.stack([oracle(one, ALBEDOS, **OPTIONS[name]) for one in np.eye(3)])

    @jax.jit
    def spectrum(shares, reflectances, options):
        return Hapke(**fixed, **options)(shares, reflectances)

    arrays = {n: jnp.asarray(v, float) for n, v in options.items()}
    check_grads(spectrum, (jnp.array([0.5, 0.2, 0.3]), jnp.asarray(rendered), arrays), order=1, rtol=1e-4)


def test_derivatives_are_finite_for_black_and_white():
    @jax.jit
    def spectrum(shares, reflectances):
        return Hapke()(shares, reflectances)

    for slope in jax.jacobian(spectrum, (0, 1))(jnp.array([0.5, 0.5]), jnp.array([[0.0, 1.0, 0.5], [0.0, 1.0, 1.0]])):
        assert np.isfinite(slope).all()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("function", "within"), [("two-stream", 0.0404), ("2002", 0.01)])
def test_h_is_near_the_solution_of_its_integral_equation(function, within):
    """H(x) = 1 + (w/2) x H(x) ∫ H(t)/(x + t) dt, solved by iteration on Gauss-Legendre nodes."""
    nodes, weights = np.polynomial.legendre.leggauss(64)
    nodes, weights = 0.5 * (nodes + 1), 0.5 * weights
    for w in (0.1, 0.5, 0.9, 0.99):
        h = np.ones(64)
        for _ in range(2000):
            h = 1 / (np.sqrt(1 - w) + 0.5 * w * (weights * nodes * h / (nodes[:, None] + nodes)).sum(1))
        found = chandrasekhar(jnp.sqrt(jnp.asarray(1 - w)), jnp.asarray(nodes), function=function)
        assert np.max(np.abs(found / h - 1)) < within


def test_shares_of_mass_and_of_cross_section():
    model = Hapke(density=(2.7, 3.3, 2.2), diameter=(50.0, 100.0, 20.0))
    mass = jnp.array([0.2, 0.5, 0.3])
    size = np.array([2.7 * 50, 3.3 * 100, 2.2 * 20])
    np.testing.assert_allclose(model.cross_sections(mass), mass / size / np.sum(mass / size), rtol=1e-6)
    np.testing.assert_allclose(model.masses(model.cross_sections(mass)), mass, rtol=1e-6)
    albedos = jnp.asarray(ALBEDOS, jnp.float32)
    np.testing.assert_allclose(model.mix(mass, albedos), Hapke().mix(model.cross_sections(mass), albedos), rtol=1e-6)
    with pytest.raises(ValueError, match="need density and diameter"):
        Hapke().masses(mass)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"incidence": 90.0}, "incidence is an angle from 0 to below 90 degrees, got 90"),
        ({"emergence": -1.0}, "emergence is an angle"),
        ({"phase": 40.0}, "the phase is between 30 and 30 degrees, got 40"),
        ({"phase_function": "Mie"}, "the phase function is one of"),
        ({"h_function": "exact"}, "H is one of"),
        ({"filling": 0.8}, "between 0 and 0.752, got 0.8"),
        ({"density": (1.0, 2.0)}, "one of them is missing"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Hapke(**options)
    with pytest.raises(ValueError, match="H is one of"):
        chandrasekhar(0.5, 1.0, function="exact")


# Grains from optical constants.


@pytest.mark.usefixtures("x64")
def test_albedo_from_optical_constants():
    n, k, wavelength, d, s = (
        np.array([1.3, 1.6, 2.4]),
        np.array([1e-6, 1e-3, 0.8]),
        np.array([1.0, 2.0, 10.0]),
        80.0,
        0.02,
    )
    alpha = 4 * np.pi * k / wavelength
    outer = ((n - 1) ** 2 + k**2) / ((n + 1) ** 2 + k**2) + 0.05
    inner = 1.014 - 4 / (n * (n + 1) ** 2)
    path = 2 / 3 * (n**2 - (n**2 - 1) ** 1.5 / n) * d
    r = (1 - np.sqrt(alpha / (alpha + s))) / (1 + np.sqrt(alpha / (alpha + s)))
    through = np.exp(-np.sqrt(alpha * (alpha + s)) * path)
    theta = (r + through) / (1 + r * through)
    wanted = outer + (1 - outer) * (1 - inner) * theta / (1 - inner * theta)
    np.testing.assert_allclose(albedo_from_index(n, k, wavelength, d, scattering=s), wanted, rtol=1e-12)
    plain = outer + (1 - outer) * (1 - inner) * np.exp(-alpha * path) / (1 - inner * np.exp(-alpha * path))
    np.testing.assert_allclose(albedo_from_index(n, k, wavelength, d), plain, rtol=1e-12)
    slopes = jax.grad(lambda *x: jnp.sum(albedo_from_index(*x)), (0, 1, 2, 3))(*map(jnp.asarray, (n, k, wavelength, d)))
    for slope in slopes:
        assert np.isfinite(slope).all()


def test_clear_grains_scatter_all_and_opaque_ones_what_their_surface_reflects():
    wavelength = jnp.ones(3)
    n = jnp.array([1.0, 1.5, 2.5])
    np.testing.assert_allclose(albedo_from_index(n, jnp.zeros(3), wavelength, 100.0), 1, rtol=1e-6)
    found = albedo_from_index(n, jnp.full(3, 5.0), wavelength, 100.0)
    np.testing.assert_allclose(found, ((n - 1) ** 2 + 25) / ((n + 1) ** 2 + 25) + 0.05, rtol=1e-6)
    bad = albedo_from_index(jnp.array([0.7, 1.5]), jnp.array([0.1, -0.1]), jnp.ones(2), 100.0)
    assert np.isnan(bad).all()


@pytest.mark.usefixtures("x64")
def test_the_dispersion_model_feeds_it():
    """From oscillators to the reflectance of a powder, with derivatives in the oscillators."""
    wavenumber = jnp.linspace(1250.0, 2500.0, 40)

    @eqx.filter_jit
    def powder(mineral, diameter):
        n, k = (index[0] for index in refractive_index(mineral, wavenumber))
        return Hapke().reflectance(albedo_from_index(n, k, 1 / wavenumber, diameter))

    mineral = from_axes([[1100.0]], [[0.05]], [[0.4]], [2.4])
    fine, coarse = powder(mineral, 0.002), powder(mineral, 0.02)  # cm
    keep = np.isfinite(fine)
    assert keep.sum() > 20
    assert np.all(fine[keep] > coarse[keep])
    slope = eqx.filter_grad(lambda m: jnp.nansum(powder(m, 0.002)))(mineral)
    assert np.isfinite(slope.strength).all()
    assert float(slope.damping[0, 0]) < 0  # more absorption, darker


# Powders of known composition, by least squares on albedos.


def by_albedo(model, pixels, endmembers):
    albedos = model.albedo_of(endmembers)
    solve = jax.jit(jax.vmap(fcls, (0, None)))
    return np.asarray(solve(model.albedo_of(pixels), prepare(albedos)).abundances)


def rmse(found, truth):
    return float(np.sqrt(np.mean((found - np.asarray(truth)) ** 2)))


@pytest.mark.usefixtures("shared_data", "x64")
@pytest.mark.parametrize(("incidence", "wanted"), [(30.0, 0.0176), (0.0, 0.0202)])
def test_powders_measured_at_relab(incidence, wanted):
    scene = load("relab_abo_intimate")
    pixels = np.asarray(scene.cube, float).reshape(-1, scene.cube.shape[-1])
    found = by_albedo(Hapke(incidence=incidence), pixels, np.asarray(scene.endmembers.spectra, float))
    truth = np.asarray(scene.abundances, float).reshape(found.shape)
    assert abs(rmse(found, truth) - wanted) < 5e-4


@pytest.mark.usefixtures("shared_data", "x64")
def test_intimate_mixtures_simulated_by_others_and_rendered_again():
    scene, model = load("hapkecnn_sim1"), Hapke(incidence=0.0)
    endmembers = np.asarray(scene.endmembers.spectra, float)
    pixels = np.asarray(scene.cube, float).reshape(-1, endmembers.shape[1])[::7]
    truth = np.asarray(scene.abundances, float).reshape(-1, len(endmembers))[::7]
    truth /= truth.sum(-1, keepdims=True)  # stored in float32
    assert rmse(by_albedo(model, pixels, endmembers), truth) < 1e-7
    again = jax.jit(jax.vmap(model, (0, None)))(truth, endmembers)
    np.testing.assert_allclose(again, pixels, atol=1e-6)
    assert rmse(by_albedo(model, np.asarray(again), endmembers), truth) < 1e-12
