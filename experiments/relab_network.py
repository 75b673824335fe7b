"""Networks trained on three pure powders, tested on measured mixtures of two of them.

    python experiments/relab_network.py

About ten minutes on a quick core, 35 on a slow one; it binds itself to one. RELAB's powders of anorthite, bronzite and
olivine (UNMIX_JAX_DATA, `relab_abo_intimate`) and nine binaries of known fractions, measured at 30° and 0°. Networks
see the three pure spectra only, with noise of 0.3 % that the files do not state. Recipe and doubt are those of the
least error on mixtures of Shkuratov's physics, which no candidate has. `hapke` mixes by the physics that linear
unmixing of albedos assumes, and stands apart.

- `network_rmse`: of the chosen recipe, RMSE over samples and materials, mean over seeds of three networks each;
  `network_std`: standard deviation over the seeds; `chosen_recipe` and `chosen_doubt`: their numbers in the lists;
- `linear_recipe_rmse`, `hapke_recipe_rmse`: of networks trained on linear and on Hapke's mixtures, doubted alike;
- `linear_rmse`: FCLS; `hapke_rmse`: FCLS of albedos, see `intimate_mixtures.py`;
- `<recipe>_<doubt>_choice`: error of one network on Shkuratov's mixtures, by which recipe and doubt are chosen;
- `flagged`: share of the binaries that the networks call unlike their training.

Wanted: `network_rmse` below 0.174, that of linear unmixing (aim: below 0.018, that of Hapke's model).

Expected: 0.111 ± 0.005 (power means, doubted by 10 % over all bands); the aim is missed. How a dark powder weighs
beside a bright one is not in the pure spectra: power means leave it open from equal shares of light to equal shares
of its inverse, and the network finds too little anorthite. It says so: six of nine binaries are flagged. Told Hapke's
physics, and doubting it as much, it has 0.038 ± 0.002; linear mixtures teach it worse than linear unmixing (0.29).
"""

from dataclasses import dataclass, replace
from typing import Any

import equinox as eqx
import jax
import numpy as np
from common import Partial, main, one_core
from powder_mixtures import GRAINS, LEAST, LIGHT, shkuratov

from unmix_jax.driver import unmix
from unmix_jax.networks.abundance import AbundanceUnmixer, learn_abundances
from unmix_jax.networks.mixtures import MIXTURE_RECIPES
from unmix_jax.physics.hapke import Hapke
from unmix_jax.scenes.datasets import load
from unmix_jax.scenes.synthetic import draw_abundances
from unmix_jax.solvers.least_squares import fcls, prepare


@dataclass(frozen=True)
class Config:
    """Recipes, doubts and their reaches; seeds, networks and steps; mixtures to choose by; noise (reflectance)."""

    recipes: tuple[str, ...] = ("ppnm", "power", "kubelka_munk", "powders")
    doubts: tuple[float, ...] = (0.0, 0.05, 0.2, 0.1)
    reaches: tuple[float, ...] = (0.1, 0.1, 0.1, 1.0)
    seeds: int = 3
    networks: int = 3
    steps: int = 1000
    choice_count: int = 1000
    choice_seed: int = 100
    std: float = 0.003
    seed: int = 0


def measured() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pure spectra, binaries, and their fractions."""
    scene: Any = load("relab_abo_intimate")
    spectra, truth = np.asarray(scene.cube, np.float32), np.asarray(scene.abundances, np.float32)
    return np.asarray(scene.endmembers.spectra, np.float32), spectra, truth


def rms(values: Any) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(values))))


def to_choose_by(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Shkuratov's mixtures of two and three of the powders, and their fractions."""
    pure, rng = measured()[0], np.random.default_rng(config.choice_seed)
    key = jax.random.key(config.choice_seed)
    truth = np.asarray(draw_abundances(key, config.choice_count, len(pure), materials=(2, 3), floor=LEAST))
    powers = np.exp(rng.normal(0, GRAINS, truth.shape)).astype(np.float32)
    clean = shkuratov(pure, truth, powers) * rng.uniform(1 - LIGHT, 1 + LIGHT, (len(truth), 1))
    return (clean + config.std * rng.normal(size=clean.shape)).astype(np.float32), truth


def learned(recipe: str, number: int, seed: int, networks: int, config: Config) -> AbundanceUnmixer:
    """Networks of a recipe that is doubted."""
    doubted = replace(MIXTURE_RECIPES[recipe], doubt=config.doubts[number], reach=config.reaches[number])
    key = jax.random.key(config.seed + seed)
    return learn_abundances(key, measured()[0], std=config.std, recipe=doubted, networks=networks, steps=config.steps)


def choice(recipe: str, number: int, config: Config) -> float:
    """Error of a network on the mixtures to choose by."""
    spectra, truth = to_choose_by(config)
    return rms(np.asarray(unmix(learned(recipe, number, 0, 1, config), spectra).abundances) - truth)


def test(recipe: str, number: int, seed: int, config: Config) -> dict[str, Any]:
    """Networks of a recipe on what was measured."""
    _, spectra, truth = measured()
    solution = unmix(learned(recipe, number, seed, config.networks, config), spectra)
    found = np.asarray(solution.abundances)
    return {"rmse": rms(found - truth), "flagged": float(np.mean(~solution.converged)), "found": found.tolist()}


def run(config: Config) -> tuple[dict[str, float], Any]:
    """Choose, then test."""
    pieces, metrics, shown = Partial(run, config), {}, {}
    pure, spectra, truth = measured()
    linear = np.asarray(unmix(eqx.Partial(fcls, endmembers=prepare(pure)), spectra).abundances)
    model = Hapke()
    albedos = np.asarray(jax.vmap(lambda pixel: model.albedo_of(pixel[None])[0])(spectra))
    by_albedo = unmix(eqx.Partial(fcls, endmembers=prepare(np.asarray(model.albedo_of(pure)))), albedos).abundances
    metrics |= {"linear_rmse": rms(linear - truth), "hapke_rmse": rms(np.asarray(by_albedo) - truth)}
    shown |= {"linear": linear, "Hapke": np.asarray(by_albedo)}
    tried = {
        (recipe, i): pieces.get(f"choice {recipe} {i}", lambda r=recipe, i=i: choice(r, i, config))
        for recipe in config.recipes
        for i in range(len(config.doubts))
    }
    metrics |= {f"{recipe}_{i}_choice": error for (recipe, i), error in tried.items()}
    best, number = min(tried, key=tried.__getitem__)
    metrics |= {"chosen_recipe": float(config.recipes.index(best)), "chosen_doubt": float(number)}
    for label, recipe in (("network", best), ("linear_recipe", "linear"), ("hapke_recipe", "hapke")):
        runs = [
            pieces.get(f"test {recipe} {number} {s}", lambda r=recipe, s=s: test(r, number, s, config))
            for s in range(config.seeds)
        ]
        errors = [run["rmse"] for run in runs]
        metrics[f"{label}_rmse"] = float(np.mean(errors))
        metrics[f"{label}_std"] = float(np.std(errors, ddof=1)) if len(errors) > 1 else 0.0
        if label == "network":
            metrics["flagged"] = float(np.mean([run["flagged"] for run in runs]))
        shown[f"network, {recipe}"] = np.mean([run["found"] for run in runs], 0)
    return metrics, figure(shown, truth)


def figure(shown: dict[str, np.ndarray], truth: np.ndarray) -> Any:
    """Found against true fractions."""
    from matplotlib.figure import Figure

    image = Figure(figsize=(3 * len(shown), 3.2), layout="constrained")
    panels = image.subplots(1, len(shown), sharex=True, sharey=True)
    for axes, (name, found) in zip(panels, shown.items(), strict=True):
        axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        for column, (mineral, marker) in enumerate(zip(("anorthite", "bronzite", "olivine"), "os^", strict=True)):
            axes.plot(truth[:, column], found[:, column], marker, label=mineral)
        axes.set_title(f"{name}: RMSE {rms(found - truth):.3f}", fontsize="small")
        axes.set_xlabel("true fraction")
    panels[0].set_ylabel("fraction found")
    panels[0].legend(fontsize="small")
    return image


if __name__ == "__main__":
    one_core()
    few = Config(recipes=("power",), doubts=(0.05,), reaches=(0.1,), seeds=1, networks=1, steps=50, choice_count=50)
    main(run, Config(), quick=few)
