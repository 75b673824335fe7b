"""Networks trained on three pure powders, tested on measured mixtures of two of them.

    python experiments/relab_network.py

Some minutes on one core, to which it binds itself. RELAB's powders of anorthite, bronzite and olivine (UNMIX_JAX_DATA,
`relab_abo_intimate`) and nine binaries of known fractions, measured at 30° and 0°. Networks see the three pure spectra
only, with noise of 0.3 % that the files do not state. The recipe is that of `recipe_ablation.py`; `hapke` mixes by
the physics that linear unmixing of albedos assumes.

- `network_rmse`: of the recipe `powders`, RMSE over samples and materials, mean over seeds of three networks each;
  `network_std`: standard deviation over the seeds; `<recipe>_rmse` of others; `hapke_recipe_rmse` of `hapke`;
- `linear_rmse`: FCLS; `hapke_rmse`: FCLS of albedos, see `intimate_mixtures.py`;
- `flagged`: share of the binaries that the networks call unlike their training.

Wanted: `network_rmse` below 0.174, that of linear unmixing (aim: below 0.018, that of Hapke's model).
The full record is to come.
"""

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import numpy as np
from common import Partial, main, one_core

from unmix_jax.driver import unmix
from unmix_jax.networks.abundance import learn_abundances
from unmix_jax.networks.mixtures import MIXTURE_RECIPES
from unmix_jax.physics.hapke import Hapke
from unmix_jax.scenes.datasets import load
from unmix_jax.solvers.least_squares import fcls, prepare

CHOSEN = "powders"


@dataclass(frozen=True)
class Config:
    """Recipes, seeds, networks and steps of a training, noise (reflectance)."""

    recipes: tuple[str, ...] = ("linear", "ppnm", "mixed", "power", "powders", "hapke")
    seeds: int = 3
    networks: int = 3
    steps: int = 3000
    std: float = 0.003
    seed: int = 0


def powders() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pure spectra, binaries, and their fractions."""
    scene: Any = load("relab_abo_intimate")
    spectra, truth = np.asarray(scene.cube, np.float32), np.asarray(scene.abundances, np.float32)
    return np.asarray(scene.endmembers.spectra, np.float32), spectra, truth


def rms(values: Any) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(values))))


def one(recipe: str, seed: int, config: Config) -> dict[str, Any]:
    """Networks of a recipe."""
    pure, spectra, truth = powders()
    unmixer = learn_abundances(
        jax.random.key(config.seed + seed), pure, std=config.std, recipe=MIXTURE_RECIPES[recipe],
        networks=config.networks, steps=config.steps,
    )  # fmt: skip
    solution = unmix(unmixer, spectra)
    found = np.asarray(solution.abundances)
    return {"rmse": rms(found - truth), "flagged": float(np.mean(~solution.converged)), "found": found.tolist()}


def run(config: Config) -> tuple[dict[str, float], Any]:
    """Recipe by recipe."""
    pieces, metrics, shown = Partial(run, config), {}, {}
    pure, spectra, truth = powders()
    linear = np.asarray(unmix(eqx.Partial(fcls, endmembers=prepare(pure)), spectra).abundances)
    model = Hapke()
    albedos = np.asarray(jax.vmap(lambda pixel: model.albedo_of(pixel[None])[0])(spectra))
    by_albedo = unmix(eqx.Partial(fcls, endmembers=prepare(np.asarray(model.albedo_of(pure)))), albedos).abundances
    metrics |= {"linear_rmse": rms(linear - truth), "hapke_rmse": rms(np.asarray(by_albedo) - truth)}
    shown |= {"linear": linear, "Hapke": np.asarray(by_albedo)}
    for recipe in config.recipes:
        runs = [pieces.get(f"{recipe} {i}", lambda r=recipe, i=i: one(r, i, config)) for i in range(config.seeds)]
        errors = [run["rmse"] for run in runs]
        label = (
            "network" if recipe == CHOSEN else {"linear": "linear_recipe", "hapke": "hapke_recipe"}.get(recipe, recipe)
        )
        metrics[f"{label}_rmse"] = float(np.mean(errors))
        metrics[f"{label}_std"] = float(np.std(errors, ddof=1)) if len(errors) > 1 else 0.0
        if recipe == CHOSEN:
            metrics["flagged"] = float(np.mean([run["flagged"] for run in runs]))
        if recipe in (CHOSEN, "hapke"):
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
    main(run, Config(), quick=Config(recipes=("powders",), seeds=1, networks=1, steps=50))
