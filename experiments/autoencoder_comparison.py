"""The networks of the survey and the recommended blind method: Samson, cost, rendered scenes.

    python experiments/autoencoder_comparison.py

About two hours on one core, to which it binds itself; CNNAEU takes half of them. Part 1, Samson (UNMIX_JAX_DATA),
reference `A` of the survey (Palsson, Sveinsson and Ulfarsson 2022, 10.1109/JSTARS.2021.3140154) and the other in
circulation, `_alt`: all recipes of `networks.zoo`, 25 seeds, VCA drawn anew for each that begins there; `vca` itself,
25 draws; `cnnaeu`, `nmf` (L1/2) and `archetypal`, which are slow, 5 seeds.

- `<method>_msad_mean`, `_msad_std`, `_sad_<name>`: angles to the reference, radians, over all seeds, collapsed ones
  too; `_collapsed`: share of runs that stopped, have a spectrum of zeros or two that are one; `_consistency`: mean
  angle between two runs that have not;
- `_rmse_<read-out>_mean`: error of the abundances as in eq. 33. `own` is what the sum-to-one layer returns, or the
  factorisation; `fcls` and `projective` as in `readout.read_out`; `own_alt`, `fcls_alt` against the other reference;
  `_rmse_<name>`: projective, of one map;
- `_medoid_msad`, `_medoid_rmse_projective`: of the run that `blind.consensus` takes without a reference;
- `_cpu_s_seed`: CPU seconds of a seed as a user waits for it, compiling and VCA included (survey, Table VIII), of
  `cnnaeu` by its steps; `cnnaeu_step_cpu_s`: of a step of 15 windows of 40 × 40 pixels.

Part 2, speed of the dense recipes: `_cpu_s_25_seeds`, one call of `train` that is compiled, without VCA (median of 3,
of fewer where it is long; 25 are those of the full run); `_compile_s`, what the first call took more, VCA included,
little where compiled programs are cached; `_ratio_loop`: that call over ONE seed in a Python loop of jitted steps with
the same network, loss, optimiser and constraint, batches and keys laid out beforehand.

Part 3: `recommended_*`, means over 5 keys of 25 seeds each, as above, `_rmse_projective` by eq. 33 and `_rmse_overall`
over all entries; `_consistency`: mean angle between the 5 results; `_msad_at_<threshold>`, `_angle_at_<threshold>`: of
each threshold, first key; the angle between pixels and fit is what one is chosen by. That rule (the lowest within one
per cent of the best) was fixed while Samson's reference was known: Samson does not confirm it, the scenes of part 4 do.
Scenes of their kind had been seen by then, these draws had not.

Part 4: 100 × 100 pixels of real bundles: smooth abundances, each pixel mixes one member of each bundle drawn at random,
white noise of 40 dB. `urban`, `urban5`, `urban6` have the first 4, 5, 6 materials, `urban_dark` the first 4 with trees
at 0.05 of their brightness, `houston` has 5 groups (which VCA had extracted). Truth: means of the bundles, and the
abundances. `recommended_<scene>_*`, means over 3 draws: `_medoid_msad` is before the refinement, `_rmse_fcls` against
the abundances, `_rmse_projective` against what they are in that gauge, a_i p_i / Σ a_j p_j with p the greatest value of
a mean; `vca_<scene>_msad`: of 25 draws of VCA in each; `_over_vca`: mean ratio of the two, `_max` the greatest.

Statements of the survey of Samson, 1 where true: `endnet_best`, `endnet_most_consistent` (without noise, against daeu,
sidaeu, ospaeu, nae, nmf); `then_mtaeu_then_cnnaeu`: EndNet, MTAEU, CNNAEU in this order; `spatial_more_consistent`:
both of MTAEU and CNNAEU are more consistent than DAEU and SIDAEU; `scale_invariant_better`: methods whose loss is blind
to scale have a lower mSAD in the mean than those whose loss is not (`GROUPS`, survey, Fig. 19, there over its real
scenes); `mse_like_nmf`: NAE, trained on the mean square, is not better than NMF by over a quarter. And one of ours,
`gauge_decides`: every recipe has a lower RMSE by the projective read-out than by its own.

Wanted: mSAD simple 0.041 ± 0.012, simple_cosine 0.057 ± 0.015, daeu 0.048 ± 0.02, endnet 0.036 ± 0.02, sidaeu
0.112 ± 0.04, nmf 0.135 ± 0.03, mtaeu 0.051 ± 0.015, mdae 0.37 ± 0.15, cnnaeu 0.065 to 0.10; recommended: mSAD at most
0.030 (aim 0.019), RMSE projective 0.026 (0.010), consistency 0.02 (0.001), `recommended_urban_over_vca` 0.7;
`_ratio_loop` at most 4 (2.5) of simple, daeu, sidaeu; `cnnaeu_step_cpu_s` at most 0.1. Of uDAS, SNSA and DAEN the
survey says that they are alike, near NMF, and have trouble with water.
Expected, mSAD: simple 0.039 ± 0.006, simple_cosine 0.051, daeu 0.051 ± 0.049 (few runs are far off), daeu_sad 0.034,
sidaeu 0.082, endnet 0.030 ± 0.002 (with noise 0.13), ospaeu 0.068, nae 0.074, mtaeu 0.050 ± 0.005, cnnaeu 0.058 ± 0.007
(the survey's notebook: 0.065 ± 0.006, with batch norms that forget), mdae 0.27 ± 0.07, udas 0.206, snsa 0.233, daen
0.069, nmf 0.130, archetypal 0.075, vca 0.076; recommended 0.018, RMSE projective 0.011 (0.012 over all entries),
consistency 0.0000, 23 to 31 CPU seconds. Over VCA 0.29 on urban (at most 0.50), 0.23, 0.51 (0.80) with 5 and 6
materials, 0.18 in the dark, 0.75 (0.89) on houston; on urban6 the refinement makes the medoid worse (0.148 after
0.138). `_ratio_loop`: simple 1.7 to 2.2, daeu 1.9 to 2.5, sidaeu 1.3 to 1.5, endnet 5.8, ospaeu 14, nae 24 or more.

Of the statements all hold but two: NMF is more consistent than EndNet, and NAE is better than NMF. uDAS and SNSA are
between NMF and mDAE and miss water; DAEN is far better here than in the survey. A seed of mtaeu takes 11 CPU seconds,
of mdae 7, of cnnaeu 960, of all others below 4. `cnnaeu_step_cpu_s` is 0.187, a miss: the products that are left are
4.5 GFlop, of which this core does 45 to 60 in a second; the compiler's own convolutions take 0.74 (a port: 0.32).
"""

import contextlib
import dataclasses
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from autoencoder_ablation import abundances as projective
from autoencoder_ablation import agreement
from autoencoder_figures import GROUPS, Truth, groups, maps, scores_figure, spread
from autoencoder_speed import seconds, speed
from common import Partial, main, one_core

from unmix_jax.blind import consensus, unmix_blind
from unmix_jax.endmembers.archetypal import archetypal
from unmix_jax.endmembers.extraction import vca
from unmix_jax.endmembers.nmf import nmf
from unmix_jax.metrics import align, mean_sad, rmse, rmse_per_endmember, sad
from unmix_jax.networks.dense_recipes import DENSE
from unmix_jax.networks.recipes import follow
from unmix_jax.networks.zoo import RECIPES
from unmix_jax.readout import read_out, refine
from unmix_jax.scenes.datasets import load
from unmix_jax.scenes.synthetic import abundance_field, synthesize

FACTORISED = {"nmf": nmf, "archetypal": archetypal}
METHODS = (*RECIPES, *FACTORISED, "vca")
URBAN = ("Asphalt", "Grass", "Tree", "Roof", "Metal", "Dirt")
HOUSTON = tuple(f"group {i}" for i in range(5))
SCENES = {"urban": URBAN[:4], "urban5": URBAN[:5], "urban6": URBAN, "houston": HOUSTON, "urban_dark": URBAN[:4]}
SHOWN = ("sidaeu", "daeu_sad", "endnet", "mtaeu", "cnnaeu")
FRESH = 1000  # of scenes: others than were seen before
EPOCHS = (5, 15)  # of which the difference tells what a step of CNNAEU costs


@dataclass(frozen=True)
class Config:
    """Seeds, few of slow methods; keys of the recommended; epochs, 0: a recipe's; side, draws of scenes; timings."""

    seeds: int = 25
    few: int = 5
    keys: int = 5
    epochs: int = 0
    size: int = 100
    draws: int = 3
    repetitions: int = 3
    methods: tuple[str, ...] = METHODS
    scenes: tuple[str, ...] = tuple(SCENES)
    seed: int = 0


def samson(name: str) -> Truth:
    """The scene with one of its references."""
    scene = load(name)
    pixels = np.asarray(scene.cube, np.float32).reshape(-1, scene.bands)
    names = tuple(word.lower() for word in scene.endmembers.names)
    return Truth(pixels, names, np.asarray(scene.endmembers.spectra), scene.abundances.reshape(len(pixels), -1))


def rendered(name: str, draw: int, config: Config) -> Truth:
    """A draw of a scene of bundles."""
    library, materials = load("endmember_bundles/" + name.rstrip("56").removesuffix("_dark")), SCENES[name]
    spectra, classes = np.asarray(library.spectra, np.float32), np.asarray(library.classes)
    bundles = [spectra[classes == one] * (0.05 if name + one == "urban_darkTree" else 1) for one in materials]
    counts = np.asarray([len(bundle) for bundle in bundles])
    table = jnp.asarray(np.stack([np.resize(bundle, (counts.max(), bundle.shape[1])) for bundle in bundles]))
    first, second = jax.random.split(jax.random.key(FRESH + config.seed + draw))
    field = abundance_field(first, config.size, config.size, len(bundles), contrast=3.0, length=10.0)

    def members(key: Any) -> Any:
        return table[jnp.arange(len(counts)), jax.random.randint(key, counts.shape, 0, jnp.asarray(counts))]

    pixels = np.asarray(synthesize(second, members, field, snr=40).spectra)
    return Truth(pixels, materials, np.stack([one.mean(0) for one in bundles]), np.reshape(field, (len(pixels), -1)))


def one_run(found: np.ndarray, own: np.ndarray | None, truth: Truth, other: Truth) -> dict[str, float]:
    """The scores of one seed against both references."""
    spectra = np.where(np.isfinite(found).all(1, keepdims=True), found, 0)
    read = {} if own is None else {"own": np.nan_to_num(own)}
    read["fcls"] = np.nan_to_num(read_out(truth.pixels, spectra, "fcls").abundances)
    read["projective"] = projective(truth.pixels, spectra)
    order, order_alt = align(spectra, truth.endmembers), align(spectra, other.endmembers)
    angles = np.asarray(sad(spectra[order], truth.endmembers))
    scores = {"msad": float(angles.mean())}
    scores |= {f"sad_{name}": float(angle) for name, angle in zip(truth.names, angles, strict=True)}
    for gauge, shares in read.items():
        scores[f"rmse_{gauge}"] = float(rmse_per_endmember(shares[:, order], truth.abundances))
        if gauge != "projective":
            scores[f"rmse_{gauge}_alt"] = float(rmse_per_endmember(shares[:, order_alt], other.abundances))
    each = [float(rmse(read["projective"][:, i], share)) for i, share in zip(order, truth.abundances.T, strict=True)]
    return scores | {f"rmse_{name}": value for name, value in zip(truth.names, each, strict=True)}


def summary(sets: np.ndarray, owns: Any, stopped: Any, truth: Truth, other: Truth) -> dict[str, Any]:
    """All seeds of a method: scores, and the endmembers for a figure."""
    runs = [one_run(found, own, truth, other) for found, own in zip(sets, owns, strict=True)]
    scores: dict[str, Any] = {}
    for key in runs[0]:
        values = [run[key] for run in runs]
        named = key.startswith("sad_") or key.removeprefix("rmse_") in truth.names
        scores[key if named else f"{key}_mean"] = float(np.mean(values))
        if key == "msad":
            scores["msad_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    scores["endmembers"] = np.nan_to_num(np.asarray(sets, float)).tolist()
    agreed, chosen = agreement(sets, stopped)
    if chosen is not None:
        scores |= {f"medoid_{key}": runs[chosen][key] for key in ("msad", "rmse_projective")}
    return scores | agreed


def network(name: str, truth: Truth, other: Truth, config: Config) -> dict[str, Any]:
    """All seeds of a recipe: scores and speed."""
    recipe, count, side = RECIPES[name], len(truth.names), round(len(truth.pixels) ** 0.5)
    keys = jax.random.split(jax.random.key(config.seed), config.few if recipe.neighbours else config.seeds)
    if config.epochs:
        recipe = recipe._replace(schedule=dataclasses.replace(recipe.schedule, epochs=config.epochs))
    follows = eqx.Partial(follow, recipe, truth.pixels, count, valid=np.ones((side, side), bool))
    kept = Partial(run, config).beside(f"{name}.npz") if recipe.neighbours else None
    trained, first = seconds(lambda: follows(keys=keys, checkpoint=kept))
    pixels = truth.pixels.reshape(1, side, side, -1) if recipe.neighbours else truth.pixels
    owns = np.asarray(trained.abundances(pixels)).reshape(len(keys), -1, count)
    scores = summary(np.asarray(trained.endmembers), owns, np.asarray(trained.stopped) >= 0, truth, other)
    scores["cpu_s_seed"] = first / len(keys)
    if name in DENSE:
        return scores | speed(recipe, truth.pixels, count, keys, config.repetitions, first)
    if recipe.neighbours:  # what a run cost that went on from before is not known: by its steps
        steps = recipe.schedule.sample // recipe.schedule.batch
        scores["step_cpu_s"] = step_seconds(follows, keys[:1], steps, config.repetitions)
        scores["cpu_s_seed"] = scores["step_cpu_s"] * steps * recipe.schedule.epochs
    return scores


def step_seconds(follows: Any, keys: Any, steps: int, repetitions: int) -> float:
    """CPU seconds of a step: what more epochs cost more, over their steps."""
    few, many = EPOCHS
    times: dict[int, list[float]] = {few: [], many: []}
    for _ in range(repetitions + 1):
        for epochs in times:
            times[epochs].append(seconds(lambda epochs=epochs: follows(keys=keys, epochs=epochs))[1])
    return (statistics.median(times[many][1:]) - statistics.median(times[few][1:])) / ((many - few) * steps)


def method(name: str, truth: Truth, other: Truth, config: Config) -> dict[str, Any]:
    """All seeds of any method."""
    if name in RECIPES:
        return network(name, truth, other, config)
    keys = jax.random.split(jax.random.key(config.seed), config.seeds if name == "vca" else config.few)
    found: Any
    found, cpu = seconds(lambda: [FACTORISED.get(name, vca)(key, truth.pixels, len(truth.names)) for key in keys])
    owns = [None if name == "vca" else np.asarray(one.abundances) for one in found]
    scores = summary(np.stack([np.asarray(one.endmembers) for one in found]), owns, None, truth, other)
    return scores | {"cpu_s_seed": cpu / len(keys)}


def recommended(number: int, truth: Truth, other: Truth, config: Config) -> dict[str, Any]:
    """One key of the recommended method on Samson; the first with all thresholds."""
    key = jax.random.key(config.seed + number)
    found, cpu = seconds(lambda: unmix_blind(key, truth.pixels, len(truth.names), seeds=config.seeds))
    scores = one_run(found.endmembers, None, truth, other)
    shares = np.nan_to_num(found.solution.abundances)[:, align(found.endmembers, truth.endmembers)]
    error = float(rmse(shares, truth.abundances))
    scores |= {"rmse_overall": error, "cpu_s": cpu, "threshold": found.refinement.threshold}
    result: dict[str, Any] = {"scores": scores, "endmembers": found.endmembers.tolist(), "at": {}}
    if number == 0:
        medoid = found.runs[found.consensus.chosen]
        for threshold, angle in zip(found.refinement.thresholds, found.refinement.angles, strict=True):
            tried = refine(truth.pixels, medoid, float(threshold)).endmembers
            result["at"][f"msad_at_{threshold:.3f}"] = mean_sad(tried, truth.endmembers)
            result["at"][f"angle_at_{threshold:.3f}"] = float(angle)
    return result


def elsewhere(name: str, draw: int, config: Config) -> dict[str, float]:
    """The recommended method and VCA on a draw of a rendered scene."""
    truth, key = rendered(name, draw, config), jax.random.key(config.seed + draw)
    count, peaks = len(truth.names), truth.endmembers.max(1)
    found: Any = unmix_blind(key, truth.pixels, count, seeds=config.seeds)
    order, shares = align(found.endmembers, truth.endmembers), np.nan_to_num(found.solution.abundances)
    radiometric = np.nan_to_num(read_out(truth.pixels, found.endmembers, "fcls").abundances)
    gauged = truth.abundances * peaks / (truth.abundances @ peaks)[:, None]
    draws = [vca(one, truth.pixels, count).endmembers for one in jax.random.split(key, config.seeds)]
    return {
        f"recommended_{name}_msad": mean_sad(found.endmembers, truth.endmembers),
        f"recommended_{name}_medoid_msad": mean_sad(found.runs[found.consensus.chosen], truth.endmembers),
        f"recommended_{name}_rmse_projective": float(rmse_per_endmember(shares[:, order], gauged)),
        f"recommended_{name}_rmse_fcls": float(rmse_per_endmember(radiometric[:, order], truth.abundances)),
        f"recommended_{name}_threshold": found.refinement.threshold,
        f"vca_{name}_msad": float(np.mean([mean_sad(one, truth.endmembers) for one in draws])),
    }


def statements(metrics: dict[str, float]) -> dict[str, float]:
    """Which of the statements hold; those whose methods did not run are left out."""
    rivals = ("daeu", "sidaeu", "ospaeu", "nae", "nmf")

    def of(key: str, *names: str) -> np.ndarray:
        return np.asarray([metrics[f"{name}_{key}"] for name in names])

    checks: dict[str, Callable[[], Any]] = {
        "endnet_best": lambda: (of("msad_mean", "endnet") < of("msad_mean", *rivals)).all(),
        "endnet_most_consistent": lambda: (of("consistency", "endnet") < of("consistency", *rivals)).all(),
        "mse_like_nmf": lambda: metrics["nae_msad_mean"] >= 0.75 * metrics["nmf_msad_mean"],
        "then_mtaeu_then_cnnaeu": lambda: (
            np.argsort(of("msad_mean", "endnet", "mtaeu", "cnnaeu")) == np.arange(3)
        ).all(),
        "spatial_more_consistent": lambda: (
            of("consistency", "mtaeu", "cnnaeu").max() < of("consistency", "daeu", "sidaeu").min()
        ),
        "scale_invariant_better": lambda: (
            of("msad_mean", *GROUPS["scale invariant"]).mean() < of("msad_mean", *GROUPS["scale sensitive"]).mean()
        ),
        "gauge_decides": lambda: (of("rmse_projective_mean", *RECIPES) < of("rmse_own_mean", *RECIPES)).all(),
    }
    held = {}
    for name, check in checks.items():
        with contextlib.suppress(KeyError):
            held[name] = float(check())
    return held


def run(config: Config) -> tuple[dict[str, float], Any]:
    """All parts, piece by piece."""
    pieces, truth, other = Partial(run, config), samson("samson"), samson("samson/alt")
    found = {one: pieces.get(one, lambda one=one: method(one, truth, other, config)) for one in config.methods}
    ours = [pieces.get(f"key {i}", lambda i=i: recommended(i, truth, other, config)) for i in range(config.keys)]
    metrics = {f"{name}_{key}": found[name][key] for name in found for key in found[name] if key != "endmembers"}
    metrics |= {f"recommended_{key}": float(np.mean([one["scores"][key] for one in ours])) for key in ours[0]["scores"]}
    metrics["recommended_consistency"] = consensus([one["endmembers"] for one in ours]).consistency
    metrics |= {f"recommended_{key}": value for key, value in ours[0]["at"].items()}
    for name in config.scenes:
        there = [pieces.get(f"{name} {i}", lambda n=name, i=i: elsewhere(n, i, config)) for i in range(config.draws)]
        metrics |= {key: float(np.mean([one[key] for one in there])) for key in there[0]}
        ratios = [one[f"recommended_{name}_msad"] / one[f"vca_{name}_msad"] for one in there]
        metrics |= {
            f"recommended_{name}_over_vca": float(np.mean(ratios)),
            f"recommended_{name}_over_vca_max": max(ratios),
        }
    figures = {"": scores_figure(metrics, list(found)), "_maps": maps(np.asarray(ours[0]["endmembers"]), truth)}
    figures["_groups"] = groups(metrics)
    shown = {name: np.asarray(found[name]["endmembers"]) for name in SHOWN if name in found}
    return metrics | statements(metrics), figures | {"_runs": spread(shown, truth) if shown else None}


FEW = ("simple", "endnet", "ospaeu", "mtaeu", "snsa", "cnnaeu", "archetypal", "vca")
QUICK = Config(2, few=1, keys=2, epochs=2, size=30, draws=1, repetitions=1, methods=FEW, scenes=("urban",))

if __name__ == "__main__":
    one_core()
    main(run, Config(), quick=QUICK)
