"""The dispersion model against complex arithmetic in NumPy, over a table of minerals, real and made up."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close

from unmix_jax.physics import dispersion, fresnel
from unmix_jax.physics.dispersion import check_wavenumber, from_axes, jacobian, stack, trim, unstack

emissivity, reflectance = eqx.filter_jit(dispersion.emissivity), eqx.filter_jit(dispersion.reflectance)
permittivity, refractive_index = jax.jit(dispersion.permittivity), jax.jit(dispersion.refractive_index)

BANDS = np.linspace(400.0, 1400.0, 201)
DRAW = np.random.default_rng(7)

# name: frequencies, dampings, strengths (a list for each axis), epsilon_inf, weights
CASES = {
    "one": ([[900.0]], [[0.02]], [[0.3]], [2.2], [1.0]),
    "many": ([DRAW.uniform(350, 1500, 12)], [DRAW.uniform(0.01, 0.1, 12)], [DRAW.uniform(0, 0.5, 12)], [2.5], [1.0]),
    "two axes": (
        [[450.0, 700.0, 1070.0], [500.0, 1160.0]],
        [[0.02, 0.03, 0.007], [0.01, 0.05]],
        [[0.8, 0.02, 0.66], [0.9, 0.1]],
        [2.36, 2.38],
        [0.35, 0.65],
    ),
    "restrahlen": ([[800.0]], [[1e-3]], [[2.9]], [1.5], [1.0]),
    "vanishing damping": ([[700.0, 903.0]], [[1e-6, 1e-6]], [[3.0, 0.5]], [2.0], [1.0]),
    "vanishing strength": ([[700.0, 905.0]], [[1e-6, 3.0]], [[1e-7, 0.0]], [2.0], [1.0]),
    "on a band": ([[900.0, 1100.0]], [[1e-6, 0.01]], [[1e-7, 0.5]], [1.0], [1.0]),
    "far": ([[20.0, 9000.0]], [[0.1, 0.1]], [[50.0, 0.4]], [2.0], [1.0]),
    "broad": ([[800.0]], [[3.0]], [[3.0]], [8.0], [1.0]),
    "blackbody": ([[600.0]], [[0.1]], [[0.0]], [1.0], [1.0]),
    "no oscillators": ([[], [600.0]], [[], [0.1]], [[], [0.4]], [2.0, 3.0], [0.5, 0.5]),
    "all in one axis": ([[650.0], [900.0]], [[0.02], [0.02]], [[0.3], [0.4]], [2.0, 2.0], [0.0, 1.0]),
}
each_case = pytest.mark.parametrize("name", CASES)
PARAMETERS = ("frequency", "damping", "strength", "epsilon_inf", "weights")


def leaves(mineral):
    return {name: getattr(mineral, name) for name in PARAMETERS}


def oracle(case, bands, *, angle=0.0, polarisation=None):
    """Emissivity, permittivity and index by complex numbers, written from the paper and from Fresnel."""
    total, epsilons = 0.0, []
    for f, g, s, infinity, weight in zip(*case, strict=True):
        f, g, s = (np.asarray(a, float)[:, None] for a in (f, g, s))
        epsilon = infinity + np.sum(s * f**2 / (f**2 - bands**2 - 1j * g * f * bands), axis=0)
        cosine = np.cos(np.deg2rad(angle))
        inside = np.sqrt(epsilon - np.sin(np.deg2rad(angle)) ** 2)
        across = np.abs((cosine - inside) / (cosine + inside)) ** 2
        along = np.abs((epsilon * cosine - inside) / (epsilon * cosine + inside)) ** 2
        reflected = {"s": across, "p": along, None: (across + along) / 2}[polarisation]
        total = total + weight * (1 - reflected)
        epsilons.append(epsilon)
    return total, np.array(epsilons)


@pytest.mark.usefixtures("x64")
@each_case
def test_agrees_with_complex_arithmetic(name):
    mineral = from_axes(*CASES[name])
    expected, epsilon = oracle(CASES[name], BANDS)
    np.testing.assert_allclose(emissivity(mineral, BANDS), expected, rtol=1e-9, atol=2e-15)
    np.testing.assert_allclose(reflectance(mineral, BANDS), 1 - expected, rtol=1e-9, atol=2e-15)
    theta, phi = permittivity(mineral, BANDS)  # the sign convention: an absorbing medium has a positive phi
    scale = np.abs(epsilon).max()
    np.testing.assert_allclose(theta, epsilon.real, rtol=1e-9, atol=1e-12 * scale)
    np.testing.assert_allclose(2 * phi, epsilon.imag, rtol=1e-9, atol=1e-12 * scale)
    n, k = refractive_index(mineral, BANDS)
    np.testing.assert_allclose(n, np.sqrt(epsilon).real, rtol=1e-7)
    np.testing.assert_allclose(k, np.sqrt(epsilon).imag, rtol=1e-7, atol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("polarisation", ["s", "p", None])
@pytest.mark.parametrize("angle", [0.0, 40.0, 85.0])
@pytest.mark.parametrize("name", ["two axes", "restrahlen", "blackbody"])
def test_off_normal_incidence_is_fresnel(name, angle, polarisation):
    mineral = from_axes(*CASES[name])
    expected, _ = oracle(CASES[name], BANDS, angle=angle, polarisation=polarisation)
    actual = emissivity(mineral, BANDS, angle=angle, polarisation=polarisation)
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-14)
    assert_close(reflectance(mineral, BANDS, angle=angle, polarisation=polarisation), 1 - expected)


def test_unknown_polarisation_is_refused():
    with pytest.raises(ValueError, match="'x'"):
        dispersion.emissivity(from_axes(*CASES["one"]), BANDS, polarisation="x")


@each_case
def test_float32_is_enough(name):
    """The table holds oscillators far narrower than a band, whose position float32 itself cannot say."""
    single = from_axes(*CASES[name])
    bands = BANDS.astype(np.float32)
    actual = np.asarray(emissivity(single, bands), float)
    rounded = [np.asarray(leaf, float) for leaf in jax.tree.leaves(single)]
    with jax.enable_x64(True):
        double = jax.tree.unflatten(jax.tree.structure(single), [jnp.asarray(leaf) for leaf in rounded])
        double = eqx.tree_at(lambda d: d.active, double, double.active > 0)
        expected = np.asarray(emissivity(double, bands.astype(float)))
    assert np.abs(actual - expected).max() < 2e-6


def test_energy_is_conserved():
    for case in CASES.values():
        rendered = np.asarray(emissivity(from_axes(*case), BANDS))
        assert np.isfinite(rendered).all()
        assert rendered.min() >= 0
        assert rendered.max() <= 1 + 1e-6


@pytest.mark.usefixtures("x64")
def test_kramers_kronig():
    """Real and imaginary part of the permittivity, and of the index, are one function: causality."""
    infinity = 2.25
    mineral = from_axes([[500.0, 900.0]], [[0.2, 0.1]], [[0.8, 0.4]], [infinity])
    # The principal value by Maclaurin's rule: every other point, none on the pole; truncated at 1e5 cm^-1.
    step = 2.0
    grid = (np.arange(50_000) + 0.5) * step
    theta, phi = (np.asarray(a)[0] for a in permittivity(mineral, grid))
    n, k = (np.asarray(a)[0] for a in refractive_index(mineral, grid))
    for at in (150, 201, 250, 251, 333, 449, 600):
        others = (np.arange(grid.size) - at) % 2 == 1
        kernel = 2 / np.pi * 2 * step * grid[others] / (grid[others] ** 2 - grid[at] ** 2)
        np.testing.assert_allclose(kernel @ (2 * phi[others]), theta[at] - infinity, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(kernel @ k[others], n[at] - np.sqrt(infinity), rtol=1e-3, atol=1e-4)


def test_jit_is_eager():
    mineral = from_axes(*CASES["two axes"])
    assert_close(mineral(BANDS), emissivity(mineral, BANDS))


@pytest.mark.parametrize("name", ["two axes", "vanishing damping"])
def test_vmap_is_a_loop(name):
    mineral = from_axes(*CASES[name])
    draws = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), mineral)
    draws = eqx.tree_at(lambda d: d.strength, draws, draws.strength.at[1].multiply(0.5))
    mapped = jax.jit(jax.vmap(dispersion.emissivity, (0, None)))(draws, BANDS)
    nested = emissivity(draws, BANDS)
    looped = [emissivity(jax.tree.map(lambda leaf, i=i: leaf[i], draws), BANDS) for i in range(2)]
    assert_close(mapped, jnp.stack(looped))
    assert_close(nested, jnp.stack(looped))


def padded(mineral, filling):
    """The mineral with two more oscillators on each axis and one more axis, inactive, of hostile numbers."""
    widths = {1: [(0, 1)], 2: [(0, 1), (0, 2)]}
    own = {key: np.asarray(leaf) for key, leaf in leaves(mineral).items()}
    wide = {key: np.pad(leaf, widths[leaf.ndim], constant_values=filling) for key, leaf in own.items()}
    wide["weights"][-1] = 0.0
    active = np.pad(np.asarray(mineral.active), widths[2])
    for key in ("frequency", "damping", "strength"):
        wide[key][~active] = filling
    used = np.pad(np.ones(own["weights"].size, bool), widths[1])
    mineral = dispersion.Dispersion(**{k: jnp.asarray(v) for k, v in wide.items()}, active=jnp.asarray(active))
    return mineral, {k: active if v.ndim == 2 else used for k, v in wide.items()}


@jax.jit
def gradient(parameters, active):
    def loss(parameters):
        return jnp.sum((dispersion.emissivity(dispersion.Dispersion(**parameters, active=active), BANDS) - 0.5) ** 2)

    return jax.grad(loss)(parameters)


@pytest.mark.parametrize("filling", [0.0, np.nan, np.inf])
@pytest.mark.parametrize("name", ["one", "two axes"])
def test_padding_adds_nothing_and_learns_nothing(name, filling):
    mineral = from_axes(*CASES[name])
    wide, real = padded(mineral, filling)
    np.testing.assert_array_max_ulp(np.asarray(emissivity(wide, BANDS)), np.asarray(emissivity(mineral, BANDS)), 4)
    exact, got = gradient(leaves(mineral), mineral.active), gradient(leaves(wide), wide.active)
    _, slopes = jax.jit(jacobian)(wide, BANDS)
    for key in PARAMETERS:
        assert np.all(np.asarray(got[key])[~real[key]] == 0), key
        assert np.all(np.asarray(getattr(slopes, key))[~real[key]] == 0), key
        inner = np.asarray(got[key])[tuple(slice(n) for n in exact[key].shape)]
        assert_close(inner, np.asarray(exact[key]), scale=float(np.abs(exact[key]).max()))


@pytest.mark.usefixtures("x64")
@each_case
def test_derivatives_agree_with_central_differences(name):
    """Reverse mode, forward mode and `jacobian`, each against differences of the complex oracle's twin."""
    mineral = trim(from_axes(*CASES[name]))
    bands = BANDS[::7] + 0.313  # off the needle-sharp resonances, where differences mean nothing
    rendered, slopes = jax.jit(jacobian)(mineral, bands)
    assert_close(rendered, emissivity(mineral, bands))

    def render(parameters):
        return dispersion.emissivity(dispersion.Dispersion(**parameters, active=mineral.active), bands)

    parameters = leaves(mineral)
    forward, reverse = jax.jit(lambda p: (jax.jacfwd(render)(p), jax.jacrev(render)(p)))(parameters)
    fast = jax.jit(render)
    for key, value in parameters.items():
        by_band = np.moveaxis(np.asarray(forward[key]), 0, -1)
        scale = max(1.0, float(np.abs(by_band).max()))
        assert_close(np.asarray(getattr(slopes, key)), by_band, scale=scale)
        assert_close(np.moveaxis(np.asarray(reverse[key]), 0, -1), by_band, scale=scale)
        for index in np.ndindex(value.shape):
            if value.ndim == 2 and not mineral.active[index]:
                continue
            step = 1e-5 * max(float(value[index]), 1e-3)
            ends = [fast({**parameters, key: value.at[index].add(sign * step)}) for sign in (1, -1)]
            difference = np.asarray(ends[0] - ends[1]) / (2 * step)
            np.testing.assert_allclose(
                by_band[index], difference, rtol=1e-4, atol=1e-6 * scale, err_msg=f"{key} {index}"
            )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@each_case
def test_gradients_are_finite(name, dtype):
    with jax.enable_x64(dtype == np.float64):
        mineral = jax.tree.map(lambda a: a.astype(dtype) if a.dtype != bool else a, from_axes(*CASES[name]))

        def loss(parameters):
            return jnp.sum(dispersion.emissivity(dispersion.Dispersion(**parameters, active=mineral.active), bands))

        bands = jnp.asarray(BANDS, dtype)
        gradient = jax.jit(jax.grad(loss))(leaves(mineral))
        assert all(leaf.dtype == dtype and jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("theta", [-3.0, -1e-8, 0.0, 1e-8, 2.0])
@pytest.mark.parametrize("phi", [0.0, 1e-30, 1e-8, 1.0])
def test_surface_has_derivatives_everywhere(theta, phi):
    """Also without absorption, and where the permittivity passes through zero."""
    slopes = jax.grad(fresnel.transmittance, (0, 1))(jnp.float32(theta), jnp.float32(phi))
    assert np.isfinite(slopes).all()
    n, k = fresnel.refract(jnp.float32(theta), jnp.float32(phi))
    root = np.sqrt(complex(np.float32(theta), 2 * np.float32(phi)))
    np.testing.assert_allclose([n, k], [root.real, root.imag], rtol=1e-6, atol=3e-8)


def test_order_and_weights_of_axes():
    f, g, s, infinity, weights = CASES["two axes"]
    forward, backward = (
        from_axes(*CASES["two axes"]),
        from_axes(f[::-1], g[::-1], s[::-1], infinity[::-1], weights[::-1]),
    )
    assert_close(emissivity(forward, BANDS), emissivity(backward, BANDS))
    alone = [
        emissivity(from_axes(f[x : x + 1], g[x : x + 1], s[x : x + 1], infinity[x : x + 1]), BANDS) for x in (0, 1)
    ]
    assert_close(emissivity(forward, BANDS), weights[0] * alone[0] + weights[1] * alone[1])
    shuffled = from_axes([f[0][::-1]], [g[0][::-1]], [s[0][::-1]], infinity[:1])
    assert_close(emissivity(shuffled, BANDS), alone[0])
    assert_close(emissivity(forward, BANDS[::-1]), emissivity(forward, BANDS)[::-1])


def test_library_is_its_members():
    members = [from_axes(*case) for case in CASES.values()]
    library = stack(members)
    assert library.frequency.shape == (len(CASES), 2, 12)
    rendered = emissivity(library, BANDS)
    for row, member, again in zip(rendered, members, unstack(library), strict=True):
        alone = emissivity(member, BANDS)
        assert_close(row, alone)
        assert_close(emissivity(again, BANDS), alone)
        assert again.frequency.shape == (len(again.weights), max(1, again.active.sum(-1).max()))


def test_gradient_of_a_library_needs_little_memory():
    """Linear in the oscillators; forward differentiation over all of them would be a hundred times this."""
    sizes = {}
    for count in (8, 16):
        f = DRAW.uniform(400, 1400, (1, count))
        library = stack([from_axes(f, 0 * f + 0.05, 0 * f + 0.1, [2.0])] * 10)
        needed = jax.jit(jacobian).lower(library, jnp.asarray(BANDS)).compile().memory_analysis()
        assert needed.temp_size_in_bytes <= 8 * 4 * library.frequency.size * BANDS.size
        sizes[count] = needed.temp_size_in_bytes
    assert sizes[16] <= 2.5 * sizes[8]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (BANDS[::-1], "descends"),
        (np.r_[BANDS, 900.0], "does not increase"),
        (np.r_[400.0, 400.0, 500.0], "does not increase"),
        (np.r_[0.0, BANDS], "above zero"),
        (np.r_[np.nan, BANDS], "NaN"),
        (np.linspace(7, 14, 50), "1e4"),
        (np.linspace(7000, 14000, 50), "1e7"),
        (np.ones((3, 4)), "shape"),
        (np.empty(0), "shape"),
    ],
)
def test_axis_of_the_wrong_kind_is_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        check_wavenumber(bad)


def test_right_axis_passes():
    check_wavenumber(BANDS)
    check_wavenumber(jnp.asarray(BANDS))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], [], [], []), "no axis"),
        (([[900.0]], [[0.1, 0.2]], [[0.1]], [2.0]), "oscillators per axis"),
        (([[900.0]], [[0.1]], [[0.1]], [2.0, 3.0]), "epsilon_inf"),
        (([[900.0]], [[0.1]], [[0.1]], [2.0], [0.5, 0.5]), "weights"),
    ],
)
def test_ragged_minerals_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        from_axes(*arguments)


def test_stacks_of_the_wrong_rank_are_refused():
    mineral = from_axes(*CASES["one"])
    library = stack([mineral])
    for call, wrong in ((stack, []), (stack, [library]), (unstack, mineral), (trim, library)):
        with pytest.raises(ValueError, match=r"at least one|shape"):
            call(wrong)


@pytest.mark.parametrize("name", ["infrarender", "rogers_tes"])
def test_every_published_mineral(shared_data, name):
    """80 fitted minerals of the paper: the oracle in float64, 1e-5 in float32."""
    path = shared_data / "feely" / f"{name}_dispersion_params.json"
    minerals = json.loads(path.read_text())["endmembers"].values()
    keys = ("freqs_cm1", "gammas", "four_pi_rho", "epsilon_r", "weight")
    cases = [tuple([mode[key] for mode in mineral["modes"]] for key in keys) for mineral in minerals]
    bands = np.linspace(230.0, 2000.0, 900)
    expected = np.array([oracle(case, bands)[0] for case in cases])
    single = np.asarray(emissivity(stack([from_axes(*case) for case in cases]), bands), float)
    # The second library holds oscillators a millionth of their frequency wide, which float32 cannot place.
    assert np.abs(single - expected).max() < (1e-5 if name == "infrarender" else 1e-4)
    with jax.enable_x64(True):
        double = np.asarray(emissivity(stack([from_axes(*case) for case in cases]), bands))
    np.testing.assert_allclose(double, expected, rtol=1e-10, atol=1e-13)
