"""MESMA: the models that an exhaustive search in NumPy takes, with every limit on and off; what the books say."""

import itertools
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from helpers import assert_close

from unmix_jax.driver import unmix
from unmix_jax.scenes.scene import SpectralLibrary
from unmix_jax.solvers.mesma import Limits, mesma, prepare_mesma

BANDS, PIXELS = 36, 150
X = np.linspace(0, 1, BANDS)
OFF = Limits(fractions=None, shade=None, rmse=None, residual=None, fusion=None)
CLASSES = ("soil",) * 5 + ("tree",) * 4 + ("roof",) * 4 + ("snow",)
in_float64 = pytest.mark.usefixtures("x64")


def spectra():
    """Four classes, of which the last has one spectrum."""
    draw = np.random.default_rng(5)
    shapes = [0.15 + 0.3 * X, 0.1 + 0.4 / (1 + np.exp(-25 * (X - 0.4))), 0.3 + 0.05 * np.sin(9 * X), 0.9 - 0.5 * X**2]
    rows = []
    for shape, count in zip(shapes, (5, 4, 4, 1), strict=True):
        wave = draw.normal(size=(count, 3)) @ np.stack([np.sin(6 * X), np.cos(11 * X), np.sin(23 * X)])
        rows.append(shape * draw.uniform(0.75, 1.3, (count, 1)) + 0.02 * wave)
    return np.concatenate(rows)


LIBRARY = spectra()


def mixtures():
    """One to four spectra and shade, in noise; with broad misfits, dark pixels, and pixels of nothing known."""
    draw = np.random.default_rng(6)
    shares = draw.dirichlet(np.full(5, 0.6), PIXELS)[:, :4]
    members = np.stack([draw.integers(0, 5, PIXELS), draw.integers(5, 9, PIXELS), draw.integers(9, 13, PIXELS)])
    members = np.vstack([members, np.full(PIXELS, 13)])
    pixels = sum(shares[:, i : i + 1] * LIBRARY[members[i]] for i in range(4))
    bump = np.exp(-(((X - draw.uniform(0, 1, (PIXELS, 1))) / 0.12) ** 2))
    pixels = pixels + 0.08 * draw.uniform(0, 1, (PIXELS, 1)) ** 2 * bump
    pixels[-8:-4] *= 0.02
    pixels[-4:] = draw.uniform(0, 1, (4, BANDS))
    return pixels + 0.002 * draw.normal(size=pixels.shape)


MIXED = mixtures()


def brute(pixels, library, classes, levels, limits, *, criterion="fusion", noise=None, shade=None):
    """Model by model, pixel by pixel: of each level the first in order of RMSE that keeps the limits."""
    dark = np.zeros(library.shape[1]) if shade is None else shade
    names = list(dict.fromkeys(classes))
    own = [[i for i, c in enumerate(classes) if c == name] for name in names]
    answers = [{} for _ in pixels]
    for level in levels:
        models = [m for some in itertools.combinations(own, level - 1) for m in itertools.product(*some)]
        models = [m for m in models if np.linalg.matrix_rank((library - dark)[list(m)]) == level - 1]
        fractions = np.array([(pixels - dark) @ np.linalg.pinv((library - dark)[list(m)]) for m in models])
        error = pixels - dark - fractions @ (library - dark)[np.array(models)]
        rmse = np.sqrt(np.mean(error**2, 2))  # [model, pixel]
        for n, best in enumerate(answers):
            kept = (m for m in np.argsort(rmse[:, n]) if keeps(fractions[m, n], error[m, n], rmse[m, n], limits))
            first = next(kept, None)
            best[level] = (
                (np.inf, None, None) if first is None else (rmse[first, n], models[first], fractions[first, n])
            )
    return [(winner(best, len(dark), limits, criterion, noise), best) for best in answers]


def keeps(fractions, error, rmse, limits):
    if limits.fractions and not all(limits.fractions[0] <= f <= limits.fractions[1] for f in fractions):
        return False
    if limits.shade and not limits.shade[0] <= 1 - fractions.sum() <= limits.shade[1]:
        return False
    if limits.rmse is not None and rmse > limits.rmse:
        return False
    if limits.residual is None:
        return True
    runs = [len(list(run)) for above, run in itertools.groupby(np.abs(error) > limits.residual) if above]
    return max(runs, default=0) < limits.bands


def winner(best, bands, limits, criterion, noise):
    chosen, least = None, np.inf
    for level, (rmse, model, _) in best.items():
        if model is None:
            continue
        if criterion == "fusion":
            cost, better = rmse, rmse < least and rmse + (limits.fusion or 0.0) <= least
        else:
            fit = bands * np.log(rmse**2) if noise is None else bands * rmse**2 / noise**2
            cost = fit + (level - 1) * np.log(bands)
            better = cost < least
        if better:
            chosen, least = level, cost
    return chosen


@eqx.filter_jit
def batch(problem, pixels):
    return jax.vmap(lambda pixel: mesma(pixel, problem))(pixels)


def solve(problem, pixels):
    return jax.tree.map(np.asarray, batch(problem, jnp.asarray(pixels)))


def compare(solution, answers, classes=CLASSES):
    names = list(dict.fromkeys(classes))
    for n, (level, best) in enumerate(answers):
        assert_close(solution.fitted.rmse[n], np.array([rmse for rmse, _, _ in best.values()]), scale=0.01)
        assert solution.converged[n] == (level is not None)
        if level is None:
            assert np.isnan(solution.abundances[n]).all()
            assert np.isnan([solution.residual[n], solution.gap[n]]).all()
            assert np.isnan(solution.covariance[n]).all()
            assert solution.fitted.model[n] == -1
            assert solution.fitted.level[n] == 0
            assert (solution.fitted.members[n] == -1).all()
            continue
        rmse, model, fractions = best[level]
        assert solution.fitted.level[n] == level
        assert tuple(m for m in solution.fitted.members[n] if m >= 0) == model
        expected = np.zeros(len(names) + 1)
        expected[[names.index(classes[m]) for m in model]] = fractions
        expected[-1] = 1 - fractions.sum()
        assert_close(solution.abundances[n], expected)
        assert_close(solution.residual[n], rmse, scale=0.01)
        assert solution.gap[n] < 1e-20


NARROW = Limits(fractions=(0.02, 0.9), shade=(0.05, 0.5), rmse=0.012, residual=0.004, bands=3, fusion=0.001)
LIMITS = {
    "as published": Limits(),
    "all off": OFF,
    "all narrow": NARROW,
    "fractions alone": replace(OFF, fractions=(0.0, 1.0)),
    "shade alone": replace(OFF, shade=(0.1, 0.6)),
    "RMSE alone": replace(OFF, rmse=0.008),
    "residual alone": replace(OFF, residual=0.006, bands=4),
    "residual of one band": replace(OFF, residual=0.012, bands=1),
    "residual of more bands than there are": replace(OFF, residual=0.0, bands=BANDS + 1),
    "fusion alone": replace(OFF, fusion=0.004),
    "no more than the first level": replace(OFF, residual=0.006, bands=4, fusion=np.inf),
}


@in_float64
@pytest.mark.parametrize("name", LIMITS)
def test_an_exhaustive_search_takes_the_same_models(name):
    limits = LIMITS[name]
    pixels = MIXED if name == "all narrow" else MIXED[::3]
    answers = brute(pixels, LIBRARY, CLASSES, (2, 3, 4), limits)
    solution = solve(prepare_mesma(LIBRARY, CLASSES, levels=(2, 3, 4), limits=limits), np.resize(pixels, MIXED.shape))
    compare(solution, answers)
    if name == "all narrow":  # the residual is what sends pixels through a level again, and each level wins somewhere
        again = brute(pixels, LIBRARY, CLASSES, (2, 3, 4), replace(limits, residual=None))
        changed = [a[1][level][1] != b[1][level][1] for a, b in zip(answers, again, strict=True) for level in (2, 3, 4)]
        assert np.mean(changed) > 0.05
        assert np.max(solution.steps) > 14 + 69 + 136
        assert {level for level, _ in answers} == {None, 2, 3, 4}


@in_float64
@pytest.mark.parametrize("noise", [None, 0.002])
def test_a_criterion_may_count_parameters(noise):
    limits, pixels = Limits(rmse=0.05), MIXED[::2]
    answers = brute(pixels, LIBRARY, CLASSES, (2, 3, 4, 5), limits, criterion="bic", noise=noise)
    problem = prepare_mesma(LIBRARY, CLASSES, levels=(5, 2, 4, 3), limits=limits, criterion="bic", noise=noise)
    compare(solve(problem, pixels), answers)
    assert len({level for level, _ in answers}) > 3


@in_float64
def test_where_a_model_is_true_bic_finds_it_and_fusion_takes_no_more():
    draw = np.random.default_rng(9)
    shares = 0.2 + 0.1 * draw.dirichlet(np.ones(3), 60)
    pixels = shares[:, :2] @ LIBRARY[[1, 10]] + 0.001 * draw.normal(size=(60, BANDS))
    for criterion, noise in (("bic", None), ("bic", 0.001), ("fusion", None)):
        problem = prepare_mesma(LIBRARY, CLASSES, levels=(2, 3, 4), criterion=criterion, noise=noise)
        solution = solve(problem, pixels)
        right = (solution.fitted.members == [1, 10, -1]).all(1)
        assert right.mean() > 0.8
        spread = np.sqrt(np.diagonal(solution.covariance, axis1=1, axis2=2))
        miss = np.abs(
            solution.abundances
            - np.column_stack(
                [shares[:, 0], 0 * shares[:, 1], shares[:, 1], 0 * shares[:, 1], 1 - shares[:, :2].sum(1)]
            )
        )
        assert abs(np.mean(miss[right][:, [0, 2, 4]] <= 2 * spread[right][:, [0, 2, 4]]) - 0.954) < 0.05
        assert (spread[right][:, [1, 3]] == 0).all()


@in_float64
def test_shade_may_have_a_spectrum_and_bands_may_not_count():
    shade, good = 0.01 + 0.02 * X, np.arange(BANDS) % 9 != 4
    limits = Limits(residual=0.006, bands=4)
    answers = brute(MIXED[:, good], LIBRARY[:, good], CLASSES, (2, 3), limits, shade=shade[good])
    pixels, library = MIXED.copy(), LIBRARY.copy()
    pixels[:, ~good], library[:, ~good] = 1e9, np.nan
    held = SpectralLibrary(library, classes=CLASSES, good_bands=good)
    compare(solve(prepare_mesma(held, shade=shade, limits=limits), pixels), answers)


@in_float64
def test_covariance_is_that_of_least_squares():
    problem = prepare_mesma(LIBRARY, CLASSES, noise=0.002)
    estimated, known = solve(prepare_mesma(LIBRARY, CLASSES), MIXED), solve(problem, MIXED)
    names = list(dict.fromkeys(CLASSES))
    for n in np.flatnonzero(known.converged)[:40]:
        model = [m for m in known.fitted.members[n] if m >= 0]
        turn = np.zeros((len(names) + 1, len(model)))
        turn[[names.index(CLASSES[m]) for m in model], range(len(model))] = 1
        turn[-1] = -1
        expected = turn @ np.linalg.inv(LIBRARY[model] @ LIBRARY[model].T) @ turn.T
        assert_close(known.covariance[n], 0.002**2 * expected, scale=1e-4)
        variance = estimated.residual[n] ** 2 * BANDS / (BANDS - len(model))
        assert_close(estimated.covariance[n], variance * expected, scale=1e-4)


def test_float32_takes_models_as_good_as_float64():
    """The same models but for a few that are equal to rounding, and fractions to its precision."""
    with jax.enable_x64(True):
        exact = solve(prepare_mesma(LIBRARY, CLASSES, levels=(2, 3, 4), limits=NARROW), MIXED)
    problem = prepare_mesma(LIBRARY.astype("f4"), CLASSES, levels=(2, 3, 4), limits=NARROW)
    solution = solve(problem, MIXED.astype("f4"))
    assert solution.abundances.dtype == solution.covariance.dtype == np.float32
    same = (solution.fitted.members == exact.fitted.members).all(1)
    assert same.mean() > 0.98
    assert_close(solution.abundances[same], exact.abundances[same])
    assert_close(solution.fitted.rmse[same], exact.fitted.rmse[same].astype("f4"))
    assert_close(solution.covariance[same], exact.covariance[same], scale=1e-5)
    assert solution.gap[solution.converged].max() < 1e-10


def test_close_fits_are_told_apart_in_float32():
    """Pixels that a model fits to 1e-5, where squared norms have no digit of the residual left."""
    truth = np.array([[i, 5 + i % 4] for i in range(5)])
    pixels = np.stack([0.3 * LIBRARY[i] + 0.4 * LIBRARY[j] for i, j in truth])
    pixels = pixels + 1e-5 * np.random.default_rng(2).normal(size=pixels.shape)
    solution = solve(prepare_mesma(LIBRARY.astype("f4"), CLASSES), pixels.astype("f4"))
    assert np.array_equal(solution.fitted.members, truth)
    np.testing.assert_allclose(solution.residual, 1e-5, rtol=0.4)


@in_float64
def test_one_at_a_time_and_the_driver_equal_the_batch():
    problem = prepare_mesma(LIBRARY, CLASSES, limits=NARROW)
    many, few = solve(problem, MIXED), [0, 3, 40, 149]
    one = jax.jit(lambda pixel: mesma(pixel, problem))
    for n in few:
        single = one(jnp.asarray(MIXED[n]))
        jax.tree.map(lambda a, b, n=n: assert_close(a, b[n], scale=1e-3), single, many)
    driven = unmix(eqx.Partial(mesma, endmembers=problem), MIXED, tile=64)
    jax.tree.map(lambda a, b: assert_close(a, b, scale=1e-3), driven, many)
    eager = mesma(jnp.asarray(MIXED[3]), problem)
    jax.tree.map(lambda a, b: assert_close(a, b[3], scale=1e-3), eager, many)
    grid = jax.jit(jax.vmap(jax.vmap(lambda pixel: mesma(pixel, problem))))(MIXED.reshape(10, 15, BANDS))
    jax.tree.map(lambda a, b: assert_close(a.reshape(b.shape), b, scale=1e-3), grid, many)


@in_float64
def test_limits_and_noise_may_be_swept():
    """Arrays, one set for each pixel."""
    pixel = jnp.asarray(MIXED[40])
    fusion = jnp.array([0.0, 0.003, 1.0])
    limits = replace(OFF, fusion=fusion)

    def swept(fusion):
        return mesma(pixel, prepare_mesma(LIBRARY, CLASSES, levels=(2, 3, 4), limits=replace(limits, fusion=fusion)))

    levels = jax.jit(jax.vmap(swept))(fusion).fitted.level
    expected = [brute(MIXED[40:41], LIBRARY, CLASSES, (2, 3, 4), replace(OFF, fusion=float(f)))[0][0] for f in fusion]
    assert list(levels) == expected
    assert len(set(expected)) > 1


@in_float64
def test_derivatives_are_those_of_the_model_that_won():
    problem, pixel = prepare_mesma(LIBRARY, CLASSES), jnp.asarray(MIXED[40])
    solution = mesma(pixel, problem)
    model = [m for m in np.asarray(solution.fitted.members) if m >= 0]
    classes = [list(dict.fromkeys(CLASSES)).index(CLASSES[m]) for m in model]
    slopes = jax.jit(jax.jacrev(lambda p: mesma(p, problem).abundances))(pixel)
    assert_close(slopes[np.array(classes)], np.linalg.pinv(LIBRARY[model]).T)
    step = np.random.default_rng(1).normal(size=BANDS) * 1e-6
    change = mesma(pixel + step, problem).residual - mesma(pixel - step, problem).residual
    assert_close(jax.jit(jax.grad(lambda p: mesma(p, problem).residual))(pixel) @ step, change / 2, scale=1e-4)


# --------------------------------------------------------------------------------------- what libraries and pixels hold


@in_float64
def test_dependent_models_are_left_out():
    """A spectrum in two classes: models with both are not determined; of equals the first wins."""
    library, classes = np.vstack([LIBRARY, 2 * LIBRARY[:1]]), (*CLASSES, "dust")
    problem = prepare_mesma(library, classes, levels=(2, 3))
    pairs = [m for m in itertools.combinations(range(15), 2) if classes[m[0]] != classes[m[1]]]
    assert problem.count == 15 + len(pairs) - 1
    assert [0, 14] not in np.asarray(problem.members).tolist()
    compare(solve(problem, MIXED[:50]), brute(MIXED[:50], library, classes, (2, 3), Limits()), classes)


@in_float64
def test_more_spectra_than_pixels_or_bands():
    """Whatever the sizes; a model of more spectra than bands is not determined."""
    bands = [3, 12, 30]
    problem = prepare_mesma(LIBRARY[:, bands], CLASSES, levels=(2, 3), limits=replace(OFF, fractions=(0.0, 1.0)))
    pixels = MIXED[:5][:, bands]
    answers = brute(pixels, LIBRARY[:, bands], CLASSES, (2, 3), replace(OFF, fractions=(0.0, 1.0)))
    compare(solve(problem, pixels), answers)
    with pytest.raises(ValueError, match="no model of level 5 is determined"):
        prepare_mesma(LIBRARY[:, bands], CLASSES, levels=(5,))


@pytest.mark.parametrize("limits", [Limits(), OFF], ids=["as published", "off"])
def test_pixels_that_are_no_spectra(limits):
    pixels = MIXED[:PIXELS].astype("f4")
    clean = solve(prepare_mesma(LIBRARY.astype("f4"), CLASSES, limits=limits), pixels)
    broken = pixels.copy()
    broken[0, 3], broken[1], broken[2], broken[3, 5] = np.nan, np.nan, 0.0, np.inf
    solution = solve(prepare_mesma(LIBRARY.astype("f4"), CLASSES, limits=limits), broken)
    assert not solution.converged[[0, 1, 3]].any()
    assert np.isnan(solution.abundances[[0, 1, 3]]).all()
    assert solution.converged[2] == (limits is OFF)  # black is shade alone, more of it than is published
    if limits is OFF:
        assert_close(solution.abundances[2], np.array([0, 0, 0, 0, 1.0]))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[4:], b[4:]), solution, clean)


def test_members_are_those_of_the_library_and_models_are_numbered():
    problem = prepare_mesma(LIBRARY.astype("f4"), CLASSES, levels=(2, 3))
    solution = solve(problem, MIXED.astype("f4"))
    won = solution.converged
    np.testing.assert_array_equal(np.asarray(problem.members)[solution.fitted.model[won]], solution.fitted.members[won])
    assert problem.classes == ("soil", "tree", "roof", "snow")
    assert problem.count == len(problem.members) == 14 + 69
    assert solution.fitted.rmse.shape == (PIXELS, 2)


def test_real_spectra_of_one_outcrop_are_found_with_those_of_another(shared_data):
    """Field spectra: pixels of spectra that the library does not hold; fractions as the classes have them."""
    with np.load(shared_data / "endmember_bundles" / "endmember_bundles.npz") as stored:
        spectra, material = stored["urban"].T.astype("f4"), stored["urban_material"]
    draw = np.random.default_rng(3)
    chosen = [draw.permutation(np.flatnonzero(material == c))[:14] for c in (1, 3, 5)]
    held = [c[:7] for c in chosen]
    shares = 0.1 + 0.6 * draw.dirichlet(np.ones(3), 300)
    pixels = sum(shares[:, i : i + 1] * spectra[draw.choice(chosen[i][7:], 300)] for i in range(3))
    pixels = (pixels + 0.001 * draw.normal(size=pixels.shape)).astype("f4")
    library, classes = spectra[np.concatenate(held)], np.repeat(["grass", "roof", "dirt"], 7).tolist()
    loose = Limits(fusion=0.0)
    many = solve(prepare_mesma(library, classes, levels=(4,), limits=loose), pixels)
    mean = np.stack([spectra[h].mean(0) for h in held])
    one = solve(prepare_mesma(mean, ["grass", "roof", "dirt"], levels=(4,), limits=loose), pixels)
    both = many.converged & one.converged
    assert many.converged.mean() > max(0.6, one.converged.mean())
    error = [np.sqrt(np.mean((s.abundances[both, :3] - shares[both]) ** 2)) for s in (many, one)]
    assert error[0] < error[1]


WRONG = {
    "not prepared": (lambda: mesma(MIXED[0], LIBRARY), "prepare_mesma\\(library\\)"),
    "bands": (lambda: mesma(MIXED[0, 1:], prepare_mesma(LIBRARY, CLASSES)), "36 bands, pixels have 35"),
    "an image": (lambda: mesma(MIXED, prepare_mesma(LIBRARY, CLASSES)), "one pixel is"),
    "a spectrum": (lambda: prepare_mesma(LIBRARY[0], CLASSES), "a library is \\[member, band\\]"),
    "no classes": (lambda: prepare_mesma(LIBRARY), "names no classes"),
    "one name": (lambda: prepare_mesma(LIBRARY, "soil"), "single name 'soil'"),
    "classes": (lambda: prepare_mesma(LIBRARY, CLASSES[1:]), "13 classes for 14"),
    "levels": (lambda: prepare_mesma(LIBRARY, CLASSES, levels=(2, 6)), "from 2 to 5 for 4 classes"),
    "level of shade": (lambda: prepare_mesma(LIBRARY, CLASSES, levels=(1,)), "from 2 to 5"),
    "no level": (lambda: prepare_mesma(LIBRARY, CLASSES, levels=()), "no level"),
    "NaN": (lambda: prepare_mesma(np.where(LIBRARY > 0.8, np.nan, LIBRARY), CLASSES), "member 13 holds NaN"),
    "zero": (lambda: prepare_mesma(LIBRARY * (np.arange(14) != 6)[:, None], CLASSES), "member 6 is zero in all bands"),
    "shade": (lambda: prepare_mesma(LIBRARY, CLASSES, shade=LIBRARY[2]), "member 2 is the shade spectrum"),
    "shade's bands": (lambda: prepare_mesma(LIBRARY, CLASSES, shade=X[1:]), "shade has shape \\(35,\\)"),
    "shade NaN": (lambda: prepare_mesma(LIBRARY, CLASSES, shade=X * np.nan), "shade holds NaN"),
    "good bands": (lambda: prepare_mesma(LIBRARY, CLASSES, good_bands=np.ones(3, bool)), "36 bands"),
    "no band": (lambda: prepare_mesma(LIBRARY, CLASSES, good_bands=np.zeros(BANDS, bool)), "no band to look at"),
    "limits": (lambda: prepare_mesma(LIBRARY, CLASSES, limits=Limits(shade=(0.8, 0.1))), "least and the greatest"),
    "RMSE": (lambda: prepare_mesma(LIBRARY, CLASSES, limits=Limits(rmse=-1.0)), "rmse must not be negative"),
    "run": (lambda: prepare_mesma(LIBRARY, CLASSES, limits=Limits(bands=0)), "at least one band"),
    "criterion": (lambda: prepare_mesma(LIBRARY, CLASSES, criterion="aic"), "fusion, bic, got 'aic'"),
    "noise": (lambda: prepare_mesma(LIBRARY, CLASSES, noise=0.0), "above zero"),
    "noise of bands": (lambda: prepare_mesma(LIBRARY, CLASSES, noise=X), "one number for all bands"),
    "traced": (lambda: jax.jit(lambda e: prepare_mesma(e, CLASSES).along)(LIBRARY), "outside of jit"),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors_say_what_arrived(name, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the messages are for users
    call, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        call()
