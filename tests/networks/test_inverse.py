"""Inverse rendering over endmembers of both kinds: what it learns from, what it learns, and what is made of it."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal
from solvers.varied import BANDS, NOISE, SOLVERS, minerals, prepared, scene, unmix

from unmix_jax.networks.abundance import Whiten
from unmix_jax.networks.inverse import InverseRendering, builder, learn_inverse
from unmix_jax.networks.inverse_files import load_inverse, save_inverse
from unmix_jax.networks.varied import Varied, VariedExamples, VariedRecipe
from unmix_jax.networks.warm import warm_synthesis
from unmix_jax.physics.variation import ScaleSlopeShift
from unmix_jax.solvers.least_squares import fcls
from unmix_jax.solvers.synthesis import map_synthesis, marginal, prepare_synthesis
from unmix_jax.solvers.synthesis_marginal import evidence_of

COUNT = 5
RECIPE = VariedRecipe(variants=16)
LEARN = {"recipe": RECIPE, "encoder": "dense", "steps": 300, "batch": 128}


@functools.cache
def learned(kind="minerals", networks=2):
    return learn_inverse(jax.random.key(0), prepared(kind), networks=networks, **LEARN)


def draw(examples, key, count):
    return eqx.filter_jit(lambda key: examples(key, count))(jax.random.key(key))


def rms(difference):
    return float(np.sqrt(np.mean(np.square(difference))))


# What it learns from


@pytest.mark.parametrize("kind", ["minerals", "scale, slope, shift"])
def test_mixtures_of_one_have_the_moments_of_the_prior(kind):
    """Mean and variance that `prepare_synthesis` measured, and noise of unit variance."""
    problem = prepared(kind)
    recipe = VariedRecipe(materials=(1,), variants=512)
    batch = draw(VariedExamples(problem, recipe), 1, 8000)
    whose = np.argmax(batch.abundances, 1)
    seen = np.asarray(batch.spectra @ problem.basis.T - problem.center)
    assert 0.98 < rms(seen - batch.clean) < 1.02
    for i in range(COUNT):
        own = np.asarray(batch.clean)[whose == i]
        spread = np.sqrt(np.diag(np.asarray(problem.covariance[i])))
        error = np.maximum(spread, 0.3) * 5 / np.sqrt(256)  # of moments of so many libraries, in both
        assert (np.abs(own.mean(0) - problem.mean[i]) < error).all()
        np.testing.assert_allclose(np.sum(own.var(0)), np.trace(problem.covariance[i]), rtol=0.25)


def test_without_variation_mixtures_are_linear():
    problem = prepare_synthesis(minerals(), noise=NOISE, prior=0.0, rank=40, samples=2, baseline=1)
    batch = draw(VariedExamples(problem, VariedRecipe(materials=(2, 3))), 2, 50)
    assert set(np.unique((np.asarray(batch.abundances) > 0).sum(1))) == {2, 3}
    np.testing.assert_allclose(np.asarray(batch.abundances).sum(1), 1, rtol=1e-5)
    library = minerals()(jnp.zeros_like(problem.prior))
    np.testing.assert_allclose(batch.clean, problem.reduce(batch.abundances @ library), atol=0.02)


def test_doubt_is_outside_of_what_can_be_rendered():
    still = prepare_synthesis(minerals(), noise=1e-6, prior=0.0, rank=40, samples=2)
    known, doubted = (
        draw(VariedExamples(still, VariedRecipe(materials=(1,), doubt=doubt)), 3, 200) for doubt in (0.0, 0.1)
    )
    assert rms(np.log(doubted.spectra / known.spectra)) == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"materials": ()}, "1 or more"),
        ({"materials": (0, 2)}, "1 or more"),
        ({"variants": 0}, "at least one library"),
        ({"concentration": 0.0}, "concentration lies in"),
        ({"doubt": 20.0}, "doubt lies in"),
        ({"reach": 0.0}, "reach lies in"),
    ],
)
def test_recipes_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        VariedRecipe(**wrong)


def test_more_materials_than_endmembers_are_refused():
    with pytest.raises(ValueError, match="between 1 and the 5 endmembers"):
        VariedExamples(prepared("minerals"), VariedRecipe(materials=(9,)))(jax.random.key(0), 3)


# What it is made of


def test_the_published_architecture_has_its_number_of_parameters():
    """1 279 969 in the authors' code: 830 bands; 38 minerals of 70 axes and 1099 oscillators."""
    bands, free = 830, 3 * 1099 + 2 * 70
    features = Whiten(*(jnp.zeros(shape) for shape in ((bands,), (bands,), (3, bands), (3,), (3,))))
    network = eqx.filter_eval_shape(builder("infrarender", features, 38, free), jax.random.key(0))
    network = eqx.tree_at(lambda n: n.encoder.layers[0], network, None)  # what is not trained
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(network)) == 1_279_969


def test_the_loss_is_zero_for_the_truth_and_counts_both_errors():
    generator = ScaleSlopeShift(minerals()(jnp.zeros(minerals().free.shape)), scale=0.1, slope=0.1, shift=0.0)
    problem = prepare_synthesis(generator, noise=NOISE, rank=40, tangent=True)
    rng = np.random.default_rng(4)
    u = jnp.asarray(rng.uniform(-1, 1, (6, *problem.prior.shape)), jnp.float32)
    abundances = jnp.asarray(rng.dirichlet(np.ones(COUNT), 6), jnp.float32)
    clean = problem.reduce(jnp.einsum("pe,peb->pb", abundances, jax.vmap(generator)(u)))
    free = np.asarray(problem.prior) > 0

    class Knows(eqx.Module):
        moves: jax.Array

        def displaced(self, hidden):
            return self.moves

    batch = Varied(clean, clean, abundances)
    objective = InverseRendering(problem.mean, problem.slopes[free], jnp.asarray(np.nonzero(free)[0]), None, 0.5)
    truth = u[:, free]
    assert float(objective(Knows(truth), batch, abundances, truth)) < 1e-6
    wrong = jnp.roll(abundances, 1, 1)
    share = float(jnp.mean(jnp.sum((wrong - abundances) ** 2, 1)))
    assert float(objective(Knows(truth), batch, wrong, truth)) > share
    moved = float(objective(Knows(-truth), batch, abundances, truth))
    rendered = problem.reduce(jnp.einsum("pe,peb->pb", abundances, jax.vmap(generator)(-u)))
    assert moved == pytest.approx(0.5 * float(jnp.mean((rendered - clean) ** 2) / jnp.mean(clean**2)), rel=1e-3)


# What it learns


@pytest.mark.parametrize("kind", ["minerals", "scale, slope, shift"])
def test_it_learns_more_than_fixed_endmembers_know(kind):
    unmixer, problem = learned(kind), prepared(kind)
    pixels, truth = scene(kind, 200)[:2]
    found = unmix(unmixer, pixels)
    fixed = unmix(eqx.Partial(fcls, endmembers=problem.library), pixels)
    assert rms(found.abundances - truth) < 0.8 * rms(fixed.abundances - truth)
    np.testing.assert_allclose(found.abundances.sum(1), 1, rtol=1e-5)
    assert (np.asarray(found.fitted.spread) > 0).any()
    rested = np.asarray(pixels - truth @ np.asarray(problem.generator(jnp.zeros_like(problem.prior))))
    assert np.median(found.residual) < 3 * rms(rested)


def test_one_in_a_thousand_of_the_training_is_flagged():
    """Of mixtures of libraries that neither features nor limits were chosen by."""
    problem = prepared("minerals")
    fresh = draw(VariedExamples(problem, VariedRecipe(variants=1024)), 7, 6000).spectra
    unmixer = learned()
    flagged = jax.vmap(lambda seen: unmixer.novelty(seen) > 1)(fresh)
    assert float(jnp.mean(flagged)) < 0.003


def test_displacements_are_inside_the_box_and_render_the_residual():
    unmixer, problem = learned(), prepared("minerals")
    pixels = scene("minerals", 20)[0]
    found = unmix(dataclasses.replace(unmixer, displacement=True), pixels)
    u = np.asarray(found.fitted.displacement)
    assert (np.abs(u) <= 1).all()
    assert (u[:, ~np.asarray(problem.generator.free)] == 0).all()
    rendered = np.einsum("pe,peb->pb", found.abundances, jax.vmap(problem.generator)(u))
    np.testing.assert_allclose(found.residual, np.sqrt(np.mean((pixels - rendered) ** 2, 1)), rtol=1e-3)
    assert unmix(unmixer, pixels).fitted.displacement is None


def test_spectra_unlike_the_training_are_flagged():
    pixels = np.asarray(scene("minerals", 50)[0])
    strange = {"reversed": pixels[:, ::-1], "in percent": 100 * pixels, "noisy": pixels + 0.3 * pixels[::-1] ** 4}
    for name, spectra in strange.items():
        found = unmix(learned(), np.ascontiguousarray(spectra))
        assert not found.converged.any(), name
        assert (found.fitted.novelty > 1).all(), name


def test_masked_pixels_stay_masked():
    pixels = np.array(scene("minerals", 6)[0])
    pixels[1, 3], pixels[2] = np.nan, 0.0
    for unmixer in (learned(), eqx.Partial(warm_synthesis, network=learned())):
        found = unmix(unmixer, pixels)
        assert np.isnan(found.abundances[1:3]).all()
        assert not found.converged[1:3].any()
        assert np.isfinite(found.abundances[[0, 3, 4, 5]]).all()


def test_spectra_off_the_grid_are_refused():
    for unmixer in (learned(), eqx.Partial(warm_synthesis, network=learned())):
        with pytest.raises(ValueError, match="trained on spectra of 81 bands, got shape"):
            unmixer(jnp.ones(80))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"encoder": "transformer"}, "an encoder is one of"),
        ({"networks": 0}, "must be positive"),
        ({"steps": 0}, "must be positive"),
        ({"batch": 0}, "must be positive"),
    ],
)
def test_trainings_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        learn_inverse(jax.random.key(0), prepared("minerals"), **{**LEARN, **wrong})


def test_labels_may_be_of_classes():
    """Two endmembers of one class: how much each of them has is not told, and the class is learned all the same."""
    problem = prepared("minerals")
    groups = jnp.asarray([[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]])

    class OfClasses(eqx.Module):
        inner: VariedExamples
        groups: jax.Array

        def __call__(self, key, count):
            batch = self.inner(key, count)
            return Varied(batch.spectra, batch.clean, batch.abundances @ self.groups)

    examples = OfClasses(VariedExamples(problem, RECIPE), groups)
    unmixer = learn_inverse(jax.random.key(0), problem, **LEARN, examples=examples, groups=groups)
    pixels, truth = scene("minerals", 200)[:2]
    fixed = unmix(eqx.Partial(fcls, endmembers=problem.library), pixels)
    error = (unmix(unmixer, pixels).abundances - truth) @ groups
    assert rms(error) < 0.8 * rms((fixed.abundances - truth) @ groups)
    for wrong in (groups[:4], groups[:, :1], groups):
        with pytest.raises(
            ValueError, match=r"examples tell of 5 materials, so that groups are of shape \(5, 5\), got"
        ):
            learn_inverse(jax.random.key(0), problem, groups=wrong, **LEARN)
    with pytest.raises(ValueError, match=r"examples tell of 3 materials, .* got \(5, 5\)"):
        learn_inverse(jax.random.key(0), problem, examples=examples, **LEARN)


def test_one_endmember_is_refused():
    alone = prepare_synthesis(minerals(count=1), noise=NOISE, rank=10, samples=8)
    with pytest.raises(ValueError, match="at least two endmembers"):
        learn_inverse(jax.random.key(0), alone)


def test_a_training_that_diverges_says_so_and_leaves_nothing(tmp_path):
    kept = tmp_path / "state.npz"
    with pytest.raises(ValueError, match=r"a lower rate than 1e\+30 may help"):
        learn_inverse(jax.random.key(0), prepared("minerals"), rate=1e30, checkpoint=kept, **LEARN)
    assert not kept.exists()


def test_an_interrupted_training_goes_on_where_it_was(tmp_path):
    class Interrupted(Exception):
        pass

    def stop(done, steps):
        if done >= 250:
            raise Interrupted

    kept = tmp_path / "state.npz"
    with pytest.raises(Interrupted):
        learn_inverse(jax.random.key(0), prepared("minerals"), networks=2, checkpoint=kept, progress=stop, **LEARN)
    seen = []
    resumed = learn_inverse(
        jax.random.key(0), prepared("minerals"), networks=2, checkpoint=kept,
        progress=lambda done, steps: seen.append((done, steps)), **LEARN,
    )  # fmt: skip
    assert seen == [(300, 300)]
    for one, other in zip(jax.tree.leaves(resumed.networks), jax.tree.leaves(learned().networks), strict=True):
        np.testing.assert_array_equal(one, other)


# What is made of it


def test_checkpoints_come_back_as_they_were(tmp_path):
    path = save_inverse(tmp_path / "net.npz", learned())
    back = load_inverse(path, prepared("minerals"))
    pixels = scene("minerals", 20)[0]
    for one, other in zip(jax.tree.leaves(unmix(back, pixels)), jax.tree.leaves(unmix(learned(), pixels)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert [file.name for file in tmp_path.iterdir()] == ["net.npz"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: prepared("scale, slope, shift"), "they vary in another box"),
        (lambda: prepared("minerals", 0.5), "they vary in another box"),
        (lambda: prepared("minerals", noise=2 * NOISE), "their spectra, noise or baseline differ"),
        (lambda: prepared("minerals", baseline=1), "their spectra, noise or baseline differ"),
        (lambda: prepare_synthesis(minerals(count=4), noise=NOISE, rank=40, samples=8), "have 5 endmembers, these 4"),
    ],
)
def test_checkpoints_of_other_endmembers_are_refused(tmp_path, other, message):
    path = save_inverse(tmp_path / "net.npz", learned())
    with pytest.raises(ValueError, match=f"is of other endmembers: .*{message}"):
        load_inverse(path, other())


def test_files_that_are_no_checkpoints_are_refused(tmp_path):
    path = save_inverse(tmp_path / "net.npz", learned())
    whole = path.read_bytes()
    for name, content in {"text": b"no", "half": whole[: len(whole) // 2], "empty": b""}.items():
        (tmp_path / f"{name}.npz").write_bytes(content)
        with pytest.raises(ValueError, match="is not a checkpoint, or is damaged"):
            load_inverse(tmp_path / f"{name}.npz", prepared("minerals"))
    np.savez(tmp_path / "other.npz", about='{"format": "something"}')
    with pytest.raises(ValueError, match="not a checkpoint of inverse networks"):
        load_inverse(tmp_path / "other.npz", prepared("minerals"))
    held = dict(np.load(path))
    held["leaf0"] = held["leaf0"][..., :1]
    np.savez(tmp_path / "shape.npz", **held)
    with pytest.raises(ValueError, match="is damaged: array 0 of the networks is float32"):
        load_inverse(tmp_path / "shape.npz", prepared("minerals"))
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        load_inverse(tmp_path / "none.npz", prepared("minerals"))
    with pytest.raises(ValueError, match=r"is an \.npz file"):
        save_inverse(tmp_path / "net.pkl", learned())


def test_a_box_that_reaches_elsewhere_is_another(tmp_path):
    """Walls at other places, as far apart."""
    path = save_inverse(tmp_path / "net.npz", learned())
    problem = prepared("minerals")
    corner = lambda p: (p.generator.box.lower.damping, p.generator.box.upper.damping)  # noqa: E731
    damping, (low, high) = problem.generator.library.damping, corner(problem)
    other = eqx.tree_at(corner, problem, (damping, damping + high - low))
    with pytest.raises(ValueError, match="they vary in another box"):
        load_inverse(path, other)


@pytest.mark.usefixtures("x64")
def test_double_precision_is_kept_in_files(tmp_path):
    problem = prepare_synthesis(minerals(), noise=NOISE, rank=40, samples=16)
    unmixer = learn_inverse(jax.random.key(0), problem, recipe=RECIPE, encoder="dense", steps=50, batch=16)
    back = load_inverse(save_inverse(tmp_path / "net.npz", unmixer), problem)
    pixel = jnp.asarray(scene("minerals", 1)[0][0], jnp.float64)
    for one, other in zip(jax.tree.leaves(back(pixel)), jax.tree.leaves(unmixer(pixel)), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    assert back(pixel).abundances.dtype == jnp.float64


def test_a_baseline_is_nothing_to_networks():
    problem = prepared("minerals", baseline=1)
    unmixer = learn_inverse(jax.random.key(1), problem, recipe=RECIPE, encoder="dense", steps=50, batch=32)
    pixels = np.array(scene("minerals", 4)[0])
    tilted = pixels + np.linspace(-0.05, 0.1, BANDS.size, dtype=np.float32)
    for way in (unmixer, eqx.Partial(warm_synthesis, network=unmixer)):
        one, other = (unmix(way, values) for values in (pixels, tilted))
        np.testing.assert_allclose(one.abundances, other.abundances, atol=2e-3)


def test_without_reconstruction_nothing_is_displaced():
    unmixer = learn_inverse(jax.random.key(1), prepared("minerals"), reconstruction=0.0, **{**LEARN, "steps": 50})
    kept = dataclasses.replace(unmixer, displacement=True)
    found = unmix(kept, scene("minerals", 4)[0])
    assert not np.any(found.fitted.displacement)
    assert np.isfinite(found.residual).all()


def test_missing_numbers_come_out_as_missing():
    """Without the driver, which masks them before."""
    pixel = jnp.asarray(scene("minerals", 1)[0][0]).at[3].set(jnp.nan)
    for way in (learned(), eqx.Partial(warm_synthesis, network=learned())):
        found = eqx.filter_jit(way)(pixel)
        assert np.isnan(found.abundances).all()
        assert not found.converged


def test_the_derivative_of_a_warm_start_is_that_of_what_was_kept():
    network, problem = learned(), prepared("minerals")
    pixel = jnp.asarray(scene("minerals", 1)[0][0])
    along = jnp.asarray(np.random.default_rng(3).normal(size=pixel.size), pixel.dtype)

    def refined(y):
        guess = jax.lax.stop_gradient(network(y).abundances)
        return map_synthesis(y, problem, guess=guess, members=8, max_steps=2).abundances

    @eqx.filter_jit
    def slopes(y):
        ways = (lambda y: warm_synthesis(y, network).abundances, refined, lambda y: network(y).abundances)
        return [jax.jvp(way, (y,), (along,))[1] for way in ways], warm_synthesis(y, network).fitted.evidence

    (warm, fit, guess), evidence = slopes(pixel)
    np.testing.assert_allclose(warm, fit if evidence[1] >= evidence[0] else guess, rtol=1e-3, atol=1e-4)
    assert np.abs(fit).max() > 0


def test_a_warm_start_keeps_the_more_probable():
    """Of the networks' abundances and those of the fit that begins at them."""
    network, problem = learned(), prepared("minerals")
    pixels, truth = scene("minerals", 64)[:2]
    warm = unmix(eqx.Partial(warm_synthesis, network=network), pixels)
    guess = unmix(network, pixels).abundances
    refit = eqx.filter_jit(lambda y, x: map_synthesis(y, problem, guess=x, members=8, max_steps=2).abundances)
    fit = np.stack([refit(y, x) for y, x in zip(jnp.asarray(pixels[:8]), jnp.asarray(guess[:8]), strict=True)])
    refined = np.asarray(warm.fitted.evidence[:, 1] >= warm.fitted.evidence[:, 0])
    np.testing.assert_allclose(warm.fitted.network, guess, atol=1e-6)
    np.testing.assert_allclose(warm.abundances[:8], np.where(refined[:8, None], fit, guess[:8]), atol=2e-4)
    assert (np.isnan(warm.gap) == ~refined).all()
    assert refined.mean() > 0.5
    assert rms(warm.abundances - truth) < rms(guess - truth)


def test_the_evidence_is_that_of_a_gaussian():
    problem = prepared("minerals")
    rng = np.random.default_rng(6)
    z = problem.reduce(jnp.asarray(scene("minerals", 1)[0][0]))
    candidates = rng.dirichlet(np.ones(COUNT), 4).astype(np.float32)
    found, left = evidence_of(z, problem, jnp.asarray(candidates))
    wanted = []
    for x in candidates.astype(float):
        covariance = np.eye(z.size) + np.tensordot(x**2, np.asarray(problem.covariance, float), 1)
        mean = x @ np.asarray(problem.mean, float)
        wanted.append(multivariate_normal.logpdf(np.asarray(z, float), mean, covariance))
    np.testing.assert_allclose(found - found[0], np.asarray(wanted) - wanted[0], rtol=0.01)  # its rounding is noise too
    assert left.shape == (4, z.size)


def test_a_guess_of_what_marginal_says_changes_nothing():
    problem = prepared("minerals")
    pixels = scene("minerals", 16)[0]

    def guessed(pixel):
        return map_synthesis(pixel, problem, guess=marginal(pixel, problem).abundances, max_steps=6)

    found, plain = unmix(guessed, pixels), unmix(eqx.Partial(SOLVERS["map"], endmembers=problem), pixels)
    np.testing.assert_allclose(found.abundances, plain.abundances, atol=2e-3)
    np.testing.assert_allclose(found.fitted["objective"], plain.fitted["objective"], rtol=0.02)


def test_a_guess_says_which_endmembers_may_be_there():
    problem = prepared("minerals")
    pixel = jnp.asarray(scene("minerals", 1)[0][0])
    guess = jnp.asarray([0.0, 0.2, 0.5, 0.3, 0.0])
    found = map_synthesis(pixel, problem, guess=guess, members=2, displacement=True)
    assert set(np.flatnonzero(found.abundances)) <= {2, 3}
    assert (np.asarray(found.fitted["displacement"])[[0, 1, 4]] == 0).all()
    assert (np.asarray(found.covariance)[[0, 1, 4]] == 0).all()
    assert float(found.abundances.sum()) == pytest.approx(1, abs=1e-5)
    still = prepared("minerals", prior=0.0)
    fixed = map_synthesis(pixel, still, guess=guess, members=2)
    assert set(np.flatnonzero(fixed.abundances)) <= {2, 3}
    unknown = map_synthesis(pixel, problem, guess=guess.at[0].set(jnp.nan), members=2)
    assert np.isnan(unknown.abundances).all()
    assert not unknown.converged
    nothing = map_synthesis(pixel, problem, guess=jnp.zeros(COUNT), members=2)
    assert np.isfinite(nothing.abundances).all()


def test_guesses_that_do_not_fit_are_refused():
    problem = prepared("minerals")
    pixel = jnp.asarray(scene("minerals", 1)[0][0])
    with pytest.raises(ValueError, match="one abundance for each of 5 endmembers"):
        map_synthesis(pixel, problem, guess=jnp.ones(4) / 4)
    with pytest.raises(ValueError, match="without start"):
        map_synthesis(pixel, problem, guess=jnp.ones(5) / 5, start=jnp.zeros_like(problem.prior))


def test_bands_of_no_use_and_their_noise_are_left_out():
    """Good bands and a covariance of the noise, through training and warm start."""
    bands = np.arange(BANDS.size)
    good = bands > 10
    covariance = NOISE**2 * (np.eye(bands.size) + 4 * np.exp(-np.abs(bands[:, None] - bands) / 5))
    problem = prepare_synthesis(minerals(), noise=covariance, good_bands=good, rank=40, samples=64)
    unmixer = learn_inverse(jax.random.key(1), problem, recipe=RECIPE, encoder="dense", steps=50, batch=32)
    pixels = np.array(scene("minerals", 4)[0])
    spoiled = np.where(good, pixels, 7.0)
    for way in (unmixer, eqx.Partial(warm_synthesis, network=unmixer)):
        one, other = (unmix(way, values) for values in (pixels, spoiled))
        np.testing.assert_allclose(one.abundances, other.abundances, atol=1e-5)
        np.testing.assert_allclose(one.residual, other.residual, rtol=1e-3)
