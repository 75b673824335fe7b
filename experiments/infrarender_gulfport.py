"""The methods of InfraRender's Table 1 on Gulfport: land types of pixels, and of mixtures of pixels.

`gulfport.py` has the scene, its halves, and centroids of the classes. FCLS has five centroids of each class, NCM and
BCM the statistics of its labelled pixels. Synthesis has the centroids as the dispersion model renders them, in a box
and with a noise of greatest likelihood for pixels of the left half, no label being looked at. CNNs learn from labelled
pixels of the left half, or mixtures of these. So does inverse rendering, from the same draws: its networks say how much
of each rendered centroid is there, which add up to the classes that the labels tell, and how it was moved.

How long networks are trained, and the encoder of inverse rendering, are chosen on stripes of the left half that are
kept back meanwhile (K-means and the box have seen their spectra, and the right half chooses nothing).
"""

import dataclasses
import itertools
import time
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from gulfport import Draws, centroids, fitted_centroids, gulfport, kept_back, normalised, synthetic
from gulfport_networks import learn, predict
from jaxtyping import Array, Float, Key

from unmix_jax.driver import unmix
from unmix_jax.networks.inverse import learn_inverse
from unmix_jax.networks.varied import Varied, VariedExamples, VariedRecipe
from unmix_jax.physics.box import box_around
from unmix_jax.physics.variation import DispersionVariation
from unmix_jax.solvers.compositional import bcm, ncm, prepare_bcm, prepare_ncm
from unmix_jax.solvers.distributions import fit_beta, fit_normal
from unmix_jax.solvers.least_squares import fcls
from unmix_jax.solvers.synthesis import PreparedSynthesis, map_synthesis, marginal, prepare_synthesis
from unmix_jax.solvers.tables import whiten_and_detrend

GRID = ((0.003, 0.01, 0.03), (0.05, 0.15, 0.4), (0.003, 0.01, 0.03))  # frequencies; strengths and dampings; noise
SOME = 300  # pixels that choose
RANK = 40
CNNS = {"cnn1d": (128, 2e-3), "cnn1d_modified": (128, 2e-3), "cnn3d": (64, 1e-3)}  # batch, first rate
CHOICES = {  # share of the steps; the encoder before it
    "cnn1d": ((0.1,), (0.25,), (0.75,)),
    "cnn1d_modified": ((0.1,), (0.25,), (0.75,)),
    "cnn3d": ((0.1,), (0.3,)),
    "inverse_rendering": (("deep", 0.1), ("deep", 0.25), ("deep", 1.0), ("infrarender", 0.25), ("infrarender", 1.0)),
    "inverse_published": (("infrarender", 1.0),),
}
MOST = {"gulfport": 1, "gulfport_synthetic": 3}  # classes in a mixture


class Labelled(eqx.Module):
    """Batches like `Varied`, of classes: some labelled spectra, the rest rendered.

    Attributes:
        draws: what draws labelled spectra, reflectance; None: all are rendered.
        rendered: mixtures of rendered centroids.
        groups: how these add up to classes.
        share: of labelled spectra in a batch.
    """

    draws: Any
    rendered: VariedExamples
    groups: Float[Array, "centroid class"]
    share: float = eqx.field(static=True, default=0.5)

    def __call__(self, key: Key[Array, ""], count: int) -> Varied:
        """So many spectra."""
        real, drawn = jax.random.split(key)
        problem = self.rendered.endmembers
        labelled = 0 if self.draws is None else round(self.share * count)
        made = self.rendered(drawn, count - labelled)
        made = Varied(made.spectra, made.clean, made.abundances @ self.groups)
        if not labelled:
            return made
        found = self.draws(real, labelled)
        emissivity = 1 - found.spectra[:, ::-1]
        seen = whiten_and_detrend(problem.library, emissivity)
        known = Varied(seen, problem.reduce(emissivity), found.abundances)
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), known, made)


class Testing(NamedTuple):
    """What networks are scored on: windows of the image where there are any, reflectance, and classes."""

    windows: Any
    spectra: np.ndarray
    truth: np.ndarray


def problem_of(scene: Any, fitted: Any, frequency: float, shape: float, noise: float) -> PreparedSynthesis:
    """Rendered centroids in a box of these tolerances."""
    box = box_around(fitted.dispersion, frequency=frequency, strength=shape, damping=shape, epsilon_inf=0.01, weights=0)
    generator = DispersionVariation(fitted.dispersion, box, jnp.asarray(fitted.wavenumber, jnp.float32))
    return prepare_synthesis(generator, noise=noise, rank=min(RANK, len(scene.wavelength)), samples=256)


def chosen(scene: Any, fitted: Any) -> dict[str, float]:
    """Box and noise of greatest likelihood for some pixels of the left half."""
    some = scene.train.spectra[:: max(1, len(scene.train.spectra) // SOME)]
    pixels = np.ascontiguousarray(1 - some[:, ::-1])
    likelihood = {}
    for setting in itertools.product(*GRID):
        solution = unmix(
            eqx.Partial(marginal, endmembers=problem_of(scene, fitted, *setting)), pixels, tile=len(pixels)
        )
        likelihood[setting] = float(np.mean(solution.fitted["log_likelihood"]))
    best = max(likelihood, key=likelihood.__getitem__)
    return dict(zip(("frequency", "shape", "noise"), best, strict=True))


def gulfport_metrics(
    pieces: Any, data: str, *, mixtures: int, networks: tuple[str, ...], seeds: int, steps: int, batch: int
) -> dict[str, float]:
    """Errors, times and what was chosen, for one of the two data sets."""
    scene = gulfport()
    fitted = fitted_centroids(scene)
    setting = pieces.get("gulfport box", lambda: chosen(scene, fitted))
    problem = problem_of(scene, fitted, **setting)
    if data == "gulfport":
        spectra, truth = scene.test.spectra, np.eye(len(scene.names))[scene.test.classes]
    else:
        drawn = synthetic(scene, mixtures, seed=1)
        spectra, truth = np.asarray(drawn.spectra), np.asarray(drawn.abundances, np.float64)
    groups = np.asarray(fitted.classes(np.eye(len(fitted.names))))
    shelf = centroids(scene)[0]
    emissivity = np.ascontiguousarray(1 - spectra[:, ::-1])
    library = scene.library()
    betas = fit_beta(dataclasses.replace(library, spectra=normalised(library.spectra)))
    known: dict[str, tuple[Any, np.ndarray, Any]] = {
        "fcls": (eqx.Partial(fcls, endmembers=jnp.asarray(shelf.spectra, jnp.float32)), spectra, groups),
        "ncm": (eqx.Partial(ncm, endmembers=prepare_ncm(fit_normal(library))), spectra, None),
        "bcm": (eqx.Partial(bcm, endmembers=prepare_bcm(betas)), np.asarray(normalised(spectra), np.float32), None),
        "marginal": (eqx.Partial(marginal, endmembers=problem), emissivity, groups),
        "synthesis": (eqx.Partial(map_synthesis, endmembers=problem), emissivity, groups),
    }
    found = {name: [pieces.get(f"{data} {name}", lambda of=of: scored(of, truth, data))] for name, of in known.items()}
    testing = Testing(scene.image[scene.test.around], spectra, truth)
    left, back = kept_back(scene.train)
    drawn = Draws.of(scene, back, MOST[data])(jax.random.key(2), SOME * 4)
    holding = Testing(None, np.asarray(drawn.spectra), np.asarray(drawn.abundances, np.float64))
    if data == "gulfport":
        whole = np.eye(len(scene.names))[back.classes]
        holding = Testing(scene.image[back.around], back.spectra, whole)
    metrics = {f"{data}_box_{name}": value for name, value in setting.items()} if data == "gulfport" else {}
    metrics["gulfport_centroid_mse"] = float(np.mean(fitted.mse))
    for name in [*networks, *(["cnn3d"] if data == "gulfport" else [])]:

        def trained(part: Any, testing: Testing, choice: tuple[Any, ...], seed: int, name: str = name) -> Any:
            if name in CNNS:
                return convolutional(scene, part, name, data, testing, seed, max(1, int(choice[-1] * steps)))
            return inverse(scene, part, problem, groups, data, testing, seed, choice, steps, batch)

        held = {
            choice: pieces.get(f"{data} {name} held {choice}", lambda c=choice: trained(left, holding, c, 0)["mse"])
            for choice in CHOICES[name]
        }
        best = min(held, key=held.__getitem__)
        found[name] = [
            pieces.get(f"{data} {name} {seed}", lambda s=seed, b=best: trained(scene.train, testing, b, s))
            for seed in range(1 if name == "inverse_published" else seeds)
        ]
        for choice, error in held.items():
            metrics["_".join([name, data, "held", *(f"{value}" for value in choice)])] = error
        metrics[f"{name}_{data}_steps"] = best[-1] * steps
    for name, runs in found.items():
        metrics[f"{name}_{data}"] = float(np.mean([run["mse"] for run in runs]))
        metrics[f"{name}_{data}_std"] = float(np.std([run["mse"] for run in runs]))
        for key in (k for k in runs[0] if k != "mse"):
            label = "ms_per_spectrum" if (name, key) == ("cnn3d", "ms") else f"{data}_{key}"
            metrics[f"{name}_{label}"] = float(np.mean([run[key] for run in runs]))
    return metrics


def scores(classes: np.ndarray, truth: np.ndarray, data: str) -> dict[str, float]:
    """Summed squared error; of pure pixels also its mean over the classes, and the share put into the right one."""
    error = np.sum((np.nan_to_num(np.asarray(classes, np.float64)) - truth) ** 2, 1)
    found = {"mse": float(error.mean())}
    if data == "gulfport":
        whose = truth.argmax(1)
        found["balanced"] = float(np.mean([error[whose == i].mean() for i in np.unique(whose)]))
        found["accuracy"] = float(np.mean(np.nan_to_num(classes).argmax(1) == whose))
    return found


def scored(of: tuple[Any, np.ndarray, Any], truth: np.ndarray, data: str) -> dict[str, float]:
    """Errors of an unmixer, and milliseconds of CPU for a spectrum."""
    unmixer, spectra, groups = of
    solution = unmix(unmixer, spectra)
    began = time.process_time()
    unmix(unmixer, spectra)
    spent = 1e3 * (time.process_time() - began) / len(spectra)
    classes = solution.abundances if groups is None else np.nan_to_num(solution.abundances) @ groups
    return scores(classes, truth, data) | {"ms": spent, "converged": float(np.mean(solution.converged))}


def inverse(
    scene: Any, part: Any, problem: Any, groups: np.ndarray, data: str, testing: Testing, seed: int,
    choice: tuple[Any, ...], steps: int, batch: int,
) -> dict[str, float]:  # fmt: skip
    """Inverse rendering, trained once on a part of the scene."""
    encoder, share = choice
    began = time.process_time()
    rendered = VariedExamples(problem, VariedRecipe(tuple(range(1, 2 * MOST[data] + 1))))
    examples = Labelled(Draws.of(scene, part, MOST[data]), rendered, jnp.asarray(groups, jnp.float32))
    unmixer = learn_inverse(
        jax.random.key(seed), problem, examples=examples, groups=groups, encoder=encoder,
        steps=max(1, int(share * steps)), batch=batch, rate=2e-3,
    )  # fmt: skip
    spent = time.process_time() - began
    emissivity = np.ascontiguousarray(1 - testing.spectra[:, ::-1])
    return scored((unmixer, emissivity, groups), testing.truth, data) | {"train_cpu_s": spent}


def convolutional(
    scene: Any, part: Any, name: str, data: str, testing: Testing, seed: int, steps: int
) -> dict[str, float]:
    """A CNN, trained once on a part of the scene."""
    batch, rate = CNNS[name]
    wide = name == "cnn3d"
    draws = Draws.of(scene, part, MOST[data], windows=wide)
    began = time.process_time()
    trained = learn(name, draws, jax.random.key(seed)[None], steps=steps, batch=batch, rate=rate)
    spent = time.process_time() - began
    seen = testing.windows if wide else testing.spectra
    abundances = predict(trained, 0, seen)
    began = time.process_time()
    predict(trained, 0, seen)
    timing = {"ms": 1e3 * (time.process_time() - began) / len(seen), "train_cpu_s": spent}
    return scores(abundances, testing.truth, data) | timing
