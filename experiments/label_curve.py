"""How many labelled mixtures it takes until a network is better than physics that has none.

    python experiments/label_curve.py

Twenty minutes on one core, to which it binds itself. "Gulfport synthetic" of `infrarender_table1.py`: mixtures of one
to three pixels of the right half; labelled spectra are such mixtures of the left half, so many and no more, each
with its abundances. CNN-1D, as published and modified, learns from these alone; inverse rendering from these and from
rendered centroids of the classes, n labels making up n / (2 n + 200) of a batch; synthesis and FCLS have the centroids
and no labelled mixture. (Centroids are K-means of the labelled pixels of the left half, so that all methods have had
those labels.) After the blog of InfraRender's author: labelled data decides which method wins.

- `<method>_<labels>`: summed squared error over the five classes, mean over 2000 mixtures and the trainings;
  `_std` over the trainings, each with labels of its own;
- `fcls`, `synthesis`, `marginal`: without labels;
- `crossing_labels`: labels from which a CNN, the better of the two at each number, beats synthesis (interpolated in the
  logarithm; null: never); `crossing_inverse_labels`: from which it beats inverse rendering.

Expected: a CNN beats synthesis (0.385) from 230 labelled mixtures on, FCLS (0.333) from 400, inverse rendering at no
number of them. CNN-1D has 0.76 ± 0.14, 0.46, 0.262 and 0.244 with 10, 100, 1000 and 10 000 labels, modified 0.62, 0.48,
0.37 and 0.28; inverse rendering 0.271 with none, and 0.274, 0.291, 0.259 and 0.226: it gains nothing from a hundred
labels, which the network learns by heart, and is as good as a CNN with a thousand before it has seen one.
"""

import time
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from common import Partial, main, one_core
from gulfport import Draws, Examples, centroids, fitted_centroids, gulfport, synthetic
from gulfport_networks import learn, predict
from infrarender_gulfport import Labelled, chosen, problem_of
from jaxtyping import Array, Float, Key

from unmix_jax.driver import unmix
from unmix_jax.networks.inverse import learn_inverse
from unmix_jax.networks.varied import VariedExamples, VariedRecipe
from unmix_jax.solvers.least_squares import fcls
from unmix_jax.solvers.synthesis import map_synthesis, marginal

MOST = 3  # pixels in a mixture
LABELS_OF_HALF = 100  # as many labels make up a quarter of a batch


@dataclass(frozen=True)
class Config:
    """Numbers of labels, networks, trainings, their steps and batches; mixtures to score on."""

    labels: tuple[int, ...] = (0, 10, 100, 1000, 10_000)
    networks: tuple[str, ...] = ("cnn1d", "cnn1d_modified", "inverse")
    trainings: int = 3
    steps: int = 1000
    batch: int = 128
    mixtures: int = 2000


class Few(eqx.Module):
    """Draws of a few labelled spectra, again and again.

    Attributes:
        spectra: reflectance.
        abundances: of the classes.
    """

    spectra: Float[Array, "label band"]
    abundances: Float[Array, "label class"]

    @property
    def counts(self) -> Array:
        """One entry for each class."""
        return jnp.sum(self.abundances, 0)

    def __call__(self, key: Key[Array, ""], count: int) -> Examples:
        """So many of them, with replacement."""
        rows = jax.random.randint(key, (count,), 0, len(self.spectra))
        return Examples(self.spectra[rows], self.abundances[rows])


def crossing(labels: list[int], falling: list[float], level: list[float]) -> float:
    """Where one curve falls below the other for good, interpolated in the logarithm; NaN if it does not."""
    above = np.asarray(falling) - np.asarray(level)
    if above[-1] >= 0:
        return float("nan")
    last = np.flatnonzero(above >= 0)
    if not len(last):
        return float(labels[0])
    i = int(last[-1])
    share = above[i] / (above[i] - above[i + 1])
    return float(np.exp(np.log(labels[i]) + share * (np.log(labels[i + 1]) - np.log(labels[i]))))


def run(config: Config) -> tuple[dict[str, float], Any]:
    """By method, by number of labels, by training."""
    pieces = Partial(run, config)
    scene = gulfport()
    fitted = fitted_centroids(scene)
    problem = problem_of(scene, fitted, **pieces.get("box", lambda: chosen(scene, fitted)))
    groups = np.asarray(fitted.classes(np.eye(len(fitted.names))))
    drawn = synthetic(scene, config.mixtures, seed=1)
    spectra, truth = np.asarray(drawn.spectra), np.asarray(drawn.abundances, np.float64)
    emissivity = np.ascontiguousarray(1 - spectra[:, ::-1])
    rendered = VariedExamples(problem, VariedRecipe(tuple(range(1, 2 * MOST + 1))))

    def error(abundances: Any) -> float:
        return float(np.mean(np.sum((np.nan_to_num(np.asarray(abundances, np.float64)) - truth) ** 2, 1)))

    def solved(solver: Any, endmembers: Any, pixels: np.ndarray) -> float:
        return error(unmix(eqx.Partial(solver, endmembers=endmembers), pixels).abundances @ groups)

    def trained(name: str, labels: int, training: int) -> dict[str, float]:
        own = jax.random.key(100 + training)
        few = None
        if labels:
            found = Draws.of(scene, scene.train, MOST)(own, labels)
            few = Few(found.spectra, found.abundances)
        began = time.process_time()
        if name == "inverse":
            examples = Labelled(
                few, rendered, jnp.asarray(groups, jnp.float32), labels / (2 * labels + 2 * LABELS_OF_HALF)
            )
            unmixer = learn_inverse(
                jax.random.key(training), problem, examples=examples, groups=groups,
                steps=config.steps, batch=config.batch, rate=2e-3,
            )  # fmt: skip
            abundances = unmix(unmixer, emissivity).abundances @ groups
        else:
            network = learn(
                name, few, jax.random.split(jax.random.key(training), 1),  # type: ignore[arg-type]
                steps=config.steps, batch=config.batch, rate=2e-3,
            )  # fmt: skip
            abundances = predict(network, 0, spectra)
        return {"mse": error(abundances), "train_cpu_s": time.process_time() - began}

    shelf = jnp.asarray(centroids(scene)[0].spectra, jnp.float32)
    metrics = {
        "fcls": pieces.get("fcls", lambda: solved(fcls, shelf, spectra)),
        "marginal": pieces.get("marginal", lambda: solved(marginal, problem, emissivity)),
        "synthesis": pieces.get("synthesis", lambda: solved(map_synthesis, problem, emissivity)),
    }
    for name in config.networks:
        for labels in config.labels:
            if labels or name == "inverse":
                runs = [
                    pieces.get(f"{name} {labels} {n}", lambda a=name, b=labels, n=n: trained(a, b, n))
                    for n in range(config.trainings)
                ]
                metrics[f"{name}_{labels}"] = float(np.mean([one["mse"] for one in runs]))
                metrics[f"{name}_{labels}_std"] = float(np.std([one["mse"] for one in runs]))
                metrics[f"{name}_{labels}_train_cpu_s"] = float(np.mean([one["train_cpu_s"] for one in runs]))
    some = [labels for labels in config.labels if labels]
    cnns = [name for name in config.networks if name != "inverse"]
    best = [min(metrics[f"{name}_{labels}"] for name in cnns) for labels in some]
    metrics["crossing_labels"] = crossing(some, best, [metrics["synthesis"]] * len(some))
    if "inverse" in config.networks:
        metrics["crossing_inverse_labels"] = crossing(some, best, [metrics[f"inverse_{labels}"] for labels in some])
    return metrics, draw(metrics, config)


def draw(metrics: dict[str, float], config: Config) -> Any:
    """Error against the number of labels."""
    from matplotlib.figure import Figure

    image = Figure(figsize=(6, 4), layout="constrained")
    axes = image.subplots()
    for name in config.networks:
        there = [labels for labels in config.labels if f"{name}_{labels}" in metrics]
        places = [max(labels, 1) for labels in there]
        errors = [metrics[f"{name}_{labels}"] for labels in there]
        axes.errorbar(places, errors, [metrics[f"{name}_{labels}_std"] for labels in there], marker="o", label=name)
    for name, style in (("fcls", ":"), ("synthesis", "--"), ("marginal", "-.")):
        axes.axhline(metrics[name], color="k", ls=style, lw=1, label=name)
    axes.set(xscale="log", xlabel="labelled spectra (none at the left)", ylabel="summed squared error")
    axes.set_title("mixtures of Gulfport's land types")
    axes.legend(frameon=False)
    return image


if __name__ == "__main__":
    one_core()
    few = {"labels": (0, 10, 20), "networks": ("cnn1d", "inverse"), "trainings": 1, "steps": 50, "batch": 16}
    main(run, Config(), quick=Config(mixtures=30, **few))
