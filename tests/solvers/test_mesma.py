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


def prepared(*library, criterion="fusion", **options):
    return prepare_mesma(*library, criterion=criterion, **options)


@eqx.filter_jit
def batch(problem, pixels):
    return jax.vmap(lambda pixel: mesma(pixel, problem))(pixels)


def solve(problem, pixels):
    """As many pixels as there are in all, so that programs are shared."""
    padded = jnp.asarray(np.resize(pixels, (PIXELS, pixels.shape[1])))
    return jax.tree.map(lambda x: np.asarray(x)[: len(pixels)], batch(problem, padded))


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


NARROW = Limits(fractions=(0.02, 0.9), shade=(0.05, 0.7), rmse=0.015, residual=0.006, bands=3, fusion=0.004)
LIMITS = {
    "as published": Limits(),
    "all off": OFF,
    "all narrow": NARROW,
    "fractions alone": replace(OFF, fractions=(0.0, 1.0)),
    "shade alone": replace(OFF, shade=(0.1, 0.6)),
    "RMSE alone": replace(OFF, rmse=0.008),
    "residual alone": replace(OFF, residual=0.006, bands=3),
    "fusion alone": replace(OFF, fusion=0.004),
    "no more than the first level": replace(OFF, residual=0.006, fusion=np.inf),
}


@in_float64
@pytest.mark.parametrize("name", LIMITS)
def test_an_exhaustive_search_takes_the_same_models(name):
    limits = LIMITS[name]
    pixels = MIXED if name == "all narrow" else MIXED[::3]
    answers = brute(pixels, LIBRARY, CLASSES, (2, 3, 4), limits)
    solution = solve(prepared(LIBRARY, CLASSES, levels=(2, 3, 4), limits=limits), pixels)
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
    limits = Limits(rmse=0.05)
    answers = brute(MIXED, LIBRARY, CLASSES, (2, 3, 4), limits, criterion="bic", noise=noise)
    problem = prepared(LIBRARY, CLASSES, levels=(4, 2, 3), limits=limits, criterion="bic", noise=noise)
    compare(solve(problem, MIXED), answers)
    assert len({level for level, _ in answers}) > 2


@in_float64
@pytest.mark.parametrize(("criterion", "noise"), [("bic", None), ("bic", 0.001), ("fusion", None)])
def test_where_a_model_is_true_it_is_found_and_its_fractions_are_covered(criterion, noise):
    draw = np.random.default_rng(9)
    shares = 0.2 + 0.1 * draw.uniform(size=(PIXELS, 2))
    pixels = shares @ LIBRARY[[1, 10]] + 0.001 * draw.normal(size=(PIXELS, BANDS))
    solution = solve(prepared(LIBRARY, CLASSES, levels=(2, 3, 4), criterion=criterion, noise=noise), pixels)
    right = (solution.fitted.members == [1, 10, -1]).all(1)
    assert right.mean() > 0.8
    spread = np.sqrt(np.diagonal(solution.covariance, axis1=1, axis2=2))[right]
    truth = np.insert(shares, 1, 0, 1)
    truth = np.column_stack([truth, np.zeros(PIXELS), 1 - shares.sum(1)])[right]
    within = np.abs(solution.abundances[right] - truth) <= 2 * spread
    assert abs(within[:, [0, 2, 4]].mean() - 0.954) < 0.04
    assert (spread[:, [1, 3]] == 0).all()


@in_float64
def test_shade_may_have_a_spectrum_and_bands_may_not_count():
    shade, good = 0.01 + 0.02 * X, np.arange(BANDS) % 9 != 4
    limits = Limits(residual=0.006, bands=4)
    answers = brute(MIXED[:, good], LIBRARY[:, good], CLASSES, (2, 3), limits, shade=shade[good])
    pixels, library = MIXED.copy(), LIBRARY.copy()
    pixels[:, ~good], library[:, ~good] = 1e9, np.nan
    held = SpectralLibrary(library, classes=CLASSES, good_bands=good)
    compare(solve(prepared(held, shade=shade, limits=limits), pixels), answers)


@in_float64
def test_covariance_is_that_of_least_squares():
    loose = Limits(fusion=10.0)  # then either criterion takes the same models, of the lowest level that has one
    options = {"levels": (2, 3, 4), "limits": loose}
    estimated = solve(prepared(LIBRARY, CLASSES, **options), MIXED)
    known = solve(prepared(LIBRARY, CLASSES, criterion="bic", noise=1e3, **options), MIXED)
    names = list(dict.fromkeys(CLASSES))
    assert np.array_equal(known.fitted.model, estimated.fitted.model)
    for n in np.flatnonzero(known.converged)[:40]:
        model = [m for m in known.fitted.members[n] if m >= 0]
        turn = np.zeros((len(names) + 1, len(model)))
        turn[[names.index(CLASSES[m]) for m in model], range(len(model))] = 1
        turn[-1] = -1
        expected = turn @ np.linalg.inv(LIBRARY[model] @ LIBRARY[model].T) @ turn.T
        assert_close(known.covariance[n], 1e6 * expected, scale=1e6)
        variance = estimated.residual[n] ** 2 * BANDS / (BANDS - len(model))
        assert_close(estimated.covariance[n], variance * expected, scale=1e-4)


def test_float32_takes_models_as_good_as_float64():
    """The same models but for a few that are equal to rounding, and fractions to its precision."""
    with jax.enable_x64(True):
        exact = solve(prepared(LIBRARY, CLASSES, levels=(2, 3, 4), limits=NARROW), MIXED)
    problem = prepared(LIBRARY.astype("f4"), CLASSES, levels=(2, 3, 4), limits=NARROW)
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
    problem = prepared(LIBRARY.astype("f4"), CLASSES, levels=(2, 3, 4), limits=NARROW)
    solution = solve(problem, pixels.astype("f4"))
    assert np.array_equal(solution.fitted.members, np.pad(truth, ((0, 0), (0, 1)), constant_values=-1))
    np.testing.assert_allclose(solution.residual, 1e-5, rtol=0.4)


@in_float64
def test_one_at_a_time_and_the_driver_equal_the_batch():
    problem = prepared(LIBRARY, CLASSES, levels=(2, 3, 4), limits=NARROW)
    many = solve(problem, MIXED)

    def same(answer, rows):
        jax.tree.map(lambda a, b: assert_close(np.asarray(a), b[rows], scale=1e-3), answer, many)

    one = eqx.filter_jit(mesma)
    for n in (0, 3, 40, 149):
        same(one(jnp.asarray(MIXED[n]), problem), n)
    same(unmix(eqx.Partial(mesma, endmembers=problem), MIXED, tile=64), slice(None))


@in_float64
def test_eager_and_nested_vmap_equal_the_batch():
    problem = prepared(LIBRARY, CLASSES, levels=(2,), limits=NARROW)
    many = solve(problem, MIXED)
    single = mesma(jnp.asarray(MIXED[40]), problem)
    jax.tree.map(lambda a, b: assert_close(a, b[40], scale=1e-3), single, many)
    grid = jax.jit(jax.vmap(jax.vmap(lambda pixel: mesma(pixel, problem))))(MIXED.reshape(10, 15, BANDS))
    jax.tree.map(lambda a, b: assert_close(a.reshape(b.shape), b, scale=1e-3), grid, many)


@in_float64
def test_limits_and_noise_may_be_swept():
    """Arrays, one set for each pixel."""
    pixel = jnp.asarray(MIXED[40])
    fusion = jnp.array([0.0, 0.003, 1.0])
    limits = replace(OFF, fusion=fusion)

    def swept(fusion):
        return mesma(pixel, prepared(LIBRARY, CLASSES, levels=(2, 3), limits=replace(limits, fusion=fusion)))

    levels = jax.jit(jax.vmap(swept))(fusion).fitted.level
    expected = [brute(MIXED[40:41], LIBRARY, CLASSES, (2, 3), replace(OFF, fusion=float(f)))[0][0] for f in fusion]
    assert list(levels) == expected
    assert len(set(expected)) > 1


@in_float64
def test_derivatives_are_those_of_the_model_that_won():
    problem = prepared(LIBRARY, CLASSES, levels=(2, 3, 4))
    direction = np.random.default_rng(1).normal(size=BANDS) * 1e-6
    here, ahead, behind = MIXED[40], MIXED[40] + direction, MIXED[40] - direction
    solution = solve(problem, np.stack([here, ahead, behind]))
    assert solution.converged.all()

    @eqx.filter_jit
    @eqx.filter_jacrev
    def slopes(pixel):
        found = mesma(pixel, problem)
        return jnp.append(found.abundances, found.residual)

    values = np.column_stack([solution.abundances, solution.residual])
    assert_close(slopes(jnp.asarray(here)) @ direction / 1e-6, (values[1] - values[2]) / 2e-6, scale=10)


# --------------------------------------------------------------------------------------- what libraries and pixels hold


@in_float64
def test_dependent_models_are_left_out():
    """A spectrum in two classes: models with both are not determined."""
    library, classes = np.vstack([LIBRARY, 2 * LIBRARY[:1]]), (*CLASSES, "dust")
    problem = prepared(library, classes, levels=(2, 3))
    pairs = [m for m in itertools.combinations(range(15), 2) if classes[m[0]] != classes[m[1]]]
    assert problem.count == 15 + len(pairs) - 1
    assert [0, 14] not in np.asarray(problem.members).tolist()
    solution, answers = solve(problem, MIXED), brute(MIXED, library, classes, (2, 3), Limits())
    for n, (level, best) in enumerate(answers):  # of models that are equal either is right
        assert_close(solution.fitted.rmse[n], np.array([rmse for rmse, _, _ in best.values()]), scale=0.01)
        assert solution.fitted.level[n] == (level or 0)


@in_float64
def test_more_spectra_than_pixels_or_bands():
    """Whatever the sizes; one band may refuse a model, and no run is longer than the spectrum."""
    few = [3, 12, 30]
    library, pixels = LIBRARY[:, few], MIXED[:5][:, few]
    for limits in (replace(OFF, residual=0.02, bands=1), replace(OFF, residual=0.0, bands=4)):
        answers = brute(pixels, library, CLASSES, (2,), limits)
        compare(solve(prepared(library, CLASSES, levels=(2,), limits=limits), pixels), answers)
    with pytest.raises(ValueError, match="models of 4 spectra are not determined by 3 bands"):
        prepared(library, CLASSES, levels=(5,))
    with pytest.raises(ValueError, match="no model of level 3 is determined"):
        prepared(np.outer([1.0, 2.0], X), ["a", "b"], levels=(3,))


@pytest.mark.parametrize("limits", [NARROW, replace(OFF, bands=3)], ids=["narrow", "off"])
def test_pixels_that_are_no_spectra(limits):
    pixels = MIXED[:PIXELS].astype("f4")
    problem = prepared(LIBRARY.astype("f4"), CLASSES, levels=(2, 3, 4), limits=limits)
    clean = solve(problem, pixels)
    broken = pixels.copy()
    broken[0, 3], broken[1], broken[2], broken[3, 5] = np.nan, np.nan, 0.0, np.inf
    solution = solve(problem, broken)
    assert not solution.converged[[0, 1, 3]].any()
    assert np.isnan(solution.abundances[[0, 1, 3]]).all()
    assert solution.converged[2] == (limits is not NARROW)  # black is shade alone
    if limits is not NARROW:
        assert_close(solution.abundances[2], np.array([0, 0, 0, 0, 1.0]))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[4:], b[4:]), solution, clean)


def test_members_are_those_of_the_library_and_models_are_numbered():
    problem = prepared(LIBRARY.astype("f4"), CLASSES, levels=(2, 3, 4), limits=replace(NARROW, fusion=0.01))
    solution = solve(problem, MIXED.astype("f4"))
    won = solution.converged
    np.testing.assert_array_equal(np.asarray(problem.members)[solution.fitted.model[won]], solution.fitted.members[won])
    assert problem.classes == ("soil", "tree", "roof", "snow")
    assert problem.count == len(problem.members) == 14 + 69 + 136
    assert solution.fitted.rmse.shape == (PIXELS, 3)


def test_real_spectra_are_found_with_others_of_their_class(shared_data):
    """Pixels of spectra that the library does not hold: nearer to the truth than with the means of the classes."""
    with np.load(shared_data / "endmember_bundles" / "endmember_bundles.npz") as stored:
        spectra, material = stored["urban"].T.astype("f4"), stored["urban_material"]
    draw = np.random.default_rng(3)
    chosen = [draw.permutation(np.flatnonzero(material == c))[:14] for c in (1, 3, 5)]
    held = [c[:7] for c in chosen]
    shares = 0.1 + 0.6 * draw.dirichlet(np.ones(3), PIXELS)
    pixels = sum(shares[:, i : i + 1] * spectra[draw.choice(chosen[i][7:], PIXELS)] for i in range(3))
    pixels = (pixels + 0.001 * draw.normal(size=pixels.shape)).astype("f4")
    library, classes = spectra[np.concatenate(held)], np.repeat(["grass", "roof", "dirt"], 7).tolist()
    solution = solve(prepared(library, classes, levels=(4,)), pixels)
    assert solution.converged.mean() > 0.6
    mean = np.linalg.lstsq(np.stack([spectra[h].mean(0) for h in held]).T, pixels.T, rcond=None)[0].T
    won = solution.converged
    many, one = (np.sqrt(np.mean((a - shares[won]) ** 2)) for a in (solution.abundances[won, :3], mean[won]))
    assert many < one


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
    "criterion": (lambda: prepare_mesma(LIBRARY, CLASSES, criterion="aic"), "bic, fusion, got 'aic'"),
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
