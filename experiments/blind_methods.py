"""Blind methods on scenes whose endmembers vary: the scenes, the runs and their scores, for several experiments."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from autoencoder_ablation import abundances as projective
from autoencoder_ablation import agreement
from autoencoder_comparison import URBAN
from autoencoder_figures import Truth

from unmix_jax.blind import unmix_blind
from unmix_jax.endmembers.nmf import nmf
from unmix_jax.metrics import align, rmse_per_endmember, sad
from unmix_jax.networks.losses import Objective, mse
from unmix_jax.networks.recipes import Recipe, follow
from unmix_jax.networks.variability import LatentDisc, learn_disc
from unmix_jax.networks.zoo import RECIPES
from unmix_jax.scenes.datasets import load
from unmix_jax.scenes.synthetic import abundance_field, synthesize

FREE = ("simple", "daeu", "endnet", "mtaeu")  # losses blind to the scale of a spectrum, nearly or quite
BOUND = ("mse", "nae", "nmf")  # mean square
METHODS = (*FREE, "recommended", *BOUND)
MATERIALS = URBAN[:4]
THIN = 4  # every which pixel is scored
RUNS = 10  # seeds inside one run of the recommended method


def recipe_of(method: str) -> Recipe:
    """A recipe of the zoo; "mse" is "simple" with another loss."""
    return RECIPES["simple"]._replace(objective=Objective(mse)) if method == "mse" else RECIPES[method]


def urban_bundles(materials: Sequence[str] = MATERIALS) -> tuple[np.ndarray, np.ndarray]:
    """Pure pixels of some materials of Urban, and the material of each."""
    library: Any = load("endmember_bundles/urban")
    spectra, classes = np.asarray(library.spectra, np.float32), np.asarray(library.classes)
    there = np.isin(classes, materials)
    return spectra[there], classes[there]


@functools.cache
def urban_disc(materials: Sequence[str] = MATERIALS, seed: int = 0, epochs: int = 400) -> LatentDisc:
    """The generative model of these bundles; always the same."""
    return learn_disc(jax.random.key(seed), *urban_bundles(materials), epochs=epochs)


def urban_scene(disc: LatentDisc, radius: float, draw: int, size: int = 100, snr: float = 40.0) -> Truth:
    """A draw of a scene: smooth abundances, each pixel with endmembers of its own from discs of this radius.

    All radii and all noise levels of a draw share abundances, directions of the displacements, and noise but for its
    size. The reference are the decoded centres.
    """
    first, second = jax.random.split(jax.random.key(2000 + draw))
    field = abundance_field(first, size, size, len(disc.names), contrast=3.0, length=10.0)
    pixels = np.asarray(synthesize(second, disc.with_radius(radius), field, snr=snr).spectra)
    return Truth(pixels, disc.names, np.asarray(disc.references), np.reshape(field, (len(pixels), -1)))


def endmembers(method: str, truth: Truth, keys: Any, epochs: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Endmembers of one run for each key, and which were stopped."""
    pixels, count = truth.pixels, len(truth.names)
    if method == "recommended":
        sets = np.zeros((len(keys), *truth.endmembers.shape))
        for i, key in enumerate(keys):
            try:
                sets[i] = unmix_blind(key, pixels, count, seeds=RUNS if epochs == 0 else len(keys)).endmembers
            except ValueError as error:
                if "collapsed" not in str(error):
                    raise
        return sets, np.zeros(len(keys), bool)
    if method == "nmf":  # refuses noise below zero
        lifted = np.maximum(pixels, 0)
        return np.stack([np.asarray(nmf(key, lifted, count).endmembers) for key in keys]), np.zeros(len(keys), bool)
    side = round(len(pixels) ** 0.5)
    trained = follow(
        recipe_of(method), pixels, count, keys=keys, valid=np.ones((side, side), bool), epochs=epochs or None
    )
    return np.asarray(trained.endmembers), np.asarray(trained.stopped) >= 0


def score(method: str, truth: Truth, config: Any) -> dict[str, Any]:
    """All runs of a method: angles to the reference, agreement, and the abundances of the medoid run.

    Args:
        method: of `METHODS`, or a recipe of the zoo.
        truth: the scene, a square image.
        config: ``seeds``, ``keys`` (of the recommended method), ``epochs`` (0: the recipe's), ``seed``.

    Returns:
        ``msad`` and ``std`` over the runs, collapsed ones too; ``angles`` of each run and endmember, in the order of
        the reference; ``collapsed``, their share; ``consistency`` and ``rmse`` where runs are left; ``cpu_s``;
        ``endmembers`` of each run, aligned.
    """
    keys = jax.random.split(jax.random.key(config.seed), config.keys if method == "recommended" else config.seeds)
    start = time.process_time()
    sets, stopped = endmembers(method, truth, keys, config.epochs)
    seconds = time.process_time() - start
    finite = np.where(np.isfinite(sets).all(2, keepdims=True), sets, 0)
    aligned = np.stack([one[align(one, truth.endmembers)] for one in finite])
    angles = np.asarray(sad(aligned, truth.endmembers[None]), float)
    each = angles.mean(1)
    scores: dict[str, Any] = {
        "msad": float(each.mean()),
        "std": float(each.std(ddof=1)) if len(each) > 1 else 0.0,
        "angles": angles.tolist(),
        "cpu_s": seconds,
        "endmembers": np.round(aligned, 5).tolist(),
    }
    agreed, chosen = agreement(sets, stopped)
    if chosen is None:
        return scores | agreed
    peaks = truth.endmembers.max(1)
    wanted = truth.abundances[::THIN] * peaks
    shares = projective(truth.pixels[::THIN], aligned[chosen])
    scores["rmse"] = float(rmse_per_endmember(shares, wanted / wanted.sum(1, keepdims=True)))
    return scores | agreed


def flat(scores: Mapping[str, Any], label: str, names: Sequence[str] = ()) -> dict[str, float]:
    """The metrics of a method on a scene; with names, also the mean angle of each endmember."""
    metrics = {f"msad_{label}": scores["msad"], f"msad_{label}_std": scores["std"]}
    metrics |= {f"{key}_{label}": scores.get(key, np.nan) for key in ("consistency", "collapsed", "rmse", "cpu_s")}
    angles = np.mean(scores["angles"], 0)
    return metrics | {f"sad_{label}_{name}": float(angle) for name, angle in zip(names, angles, strict=bool(names))}


def statements(checks: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """Which statements hold; those whose methods or scenes did not run are left out."""
    held = {}
    for name, check in checks.items():
        try:
            held[name] = float(check())
        except KeyError:
            continue
    return held


def bars(panel: Any, groups: Sequence[str], found: Mapping[str, Sequence[Mapping[str, Any]]], title: str = "") -> None:
    """Mean angle of each method with its standard deviation: a place for each method, a bar for each group.

    Args:
        panel: of matplotlib.
        groups: names of the bars.
        found: scores of each method, one for each group.
        title: of the panel.
    """
    width, places = 0.8 / len(groups), np.arange(len(found))
    for i, group in enumerate(groups):
        means, spread = ([scores[i][key] for scores in found.values()] for key in ("msad", "std"))
        shift = (i - (len(groups) - 1) / 2) * width
        panel.bar(places + shift, means, width, yerr=spread, label=group, capsize=2, error_kw={"lw": 0.8})
    panel.set_xticks(places, list(found), rotation=30, ha="right")
    panel.set(ylabel="mSAD (rad)", title=title)
    panel.set_ylim(bottom=0)
    panel.legend(frameon=False, fontsize="small")


def lines(panel: Any, spectra: Any, reference: Any, title: str, *, divided: bool = False) -> None:
    """Spectra in one panel with their reference; ``divided`` by their greatest value."""
    own = np.asarray(spectra, float)
    of, told = (
        one / np.maximum(one.max(-1, keepdims=True), 1e-9) if divided else one for one in (own, np.asarray(reference))
    )
    panel.plot(of.T, color="tab:blue", lw=0.6, alpha=0.5)
    panel.plot(told, color="k", lw=1.2)
    panel.set_title(title, fontsize="small")
    panel.set_xlabel("band", fontsize="small")
    panel.set_ylabel("over its greatest" if divided else "reflectance", fontsize="small")
    panel.set_ylim(bottom=0)


def table(disc: LatentDisc, radii: Sequence[float], draws: int = 2000) -> dict[str, float]:
    """What a generative model does: how well it renders its library, and how far its draws are from the reference.

    Returns:
        ``disc_reconstruction_sad``, mean angle between spectra of the library and what is rendered of their codes;
        ``disc_apart``, the least angle between two references; of each radius ``disc_r<radius>_sad``, mean angle of the
        draws to their reference, ``disc_r<radius>_brightness``, standard deviation of their length over its mean, and
        ``disc_r<radius>_mistaken``, share of the draws that are nearer to another reference. Each also by name.
    """
    spectra, classes = urban_bundles(disc.names)
    rendered = np.asarray(sad(disc.decode(disc.codes), spectra))
    references = disc.references
    metrics = {"disc_reconstruction_sad": float(rendered.mean())}
    metrics |= {f"disc_reconstruction_sad_{name}": float(rendered[classes == name].mean()) for name in disc.names}
    between = np.asarray(sad(references[:, None], references[None]))[np.triu_indices(len(references), 1)]
    metrics["disc_apart"] = float(between.min())
    keys = jax.random.split(jax.random.key(1), draws)
    for radius in radii:
        drawn = jax.vmap(disc.with_radius(radius))(keys)
        angles = np.asarray(sad(drawn[:, :, None], references[None, None]))
        own = angles[:, np.arange(len(references)), np.arange(len(references))]
        lengths = np.asarray(jnp.linalg.norm(drawn, axis=2))
        each = {
            "sad": own.mean(0),
            "brightness": lengths.std(0) / lengths.mean(0),
            "mistaken": (angles.argmin(2) != np.arange(len(references))).mean(0),
        }
        for key, values in each.items():
            metrics[f"disc_r{radius:g}_{key}"] = float(values.mean())
            named = zip(disc.names, values, strict=True)
            metrics |= {f"disc_r{radius:g}_{key}_{name}": float(value) for name, value in named}
    return metrics


def quick(config: Any, **others: Any) -> Any:
    """A config of a few small runs."""
    return dataclasses.replace(config, seeds=2, keys=1, epochs=2, size=24, **others)
