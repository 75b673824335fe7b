"""Rocks with more and more noise: InfraRender's Figure 7, all methods.

    python experiments/noise_feely.py

Forty minutes on one core, to which it binds itself. 30 rocks of Feely et al., each third, 400–1400 cm⁻¹. The noise
is constant in radiance, so that in emissivity it is σ(ω) ∝ 1 / B(ω, 330 K) (the paper prints its variance as 1/B; an
emissivity is a radiance divided by B); its root mean square over the bands is what is varied. Minerals, box and what
the model misses are as in `infrarender_feely.py`. Methods but FCLS are told how large the noise is: solvers weigh,
`inverse_rendering` is trained anew for each. `inverse_untold` and the CNNs are trained once, without it, as in the
paper. Mean over draws of the noise.

- `<method>_<noise>`: summed squared error over 17 classes, blackbody in the denominator; `_std` over the draws of the
  noise, one training of each network;
- `<method>_rise`: at the greatest noise over that without.

Expected, without noise and with 0.05: FCLS 0.098 and 0.110, NCM 0.085 and 0.104, BCM 0.095 and 0.202, marginal 0.079
and 0.108, synthesis 0.088 and 0.110, inverse rendering that is told 0.072 and 0.091: the best at every noise. The paper
has synthesis best and flat, statistical methods robust but worse, CNNs and inverse rendering the worst at high noise,
as they are trained without it. Flat it is; and that is confirmed of networks trained without noise (inverse rendering
0.072, 0.096 at 0.01 and 0.51 at 0.05; CNN-1D 0.104, 0.33 and 1.37), but it is the training, not the method.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from common import Partial, main, one_core
from feely_rocks import Rocks, unmix
from infrarender_feely import learned, solvers

from unmix_jax.scenes.noise import emissivity_noise_std

KELVIN = 330.0
TOLD = ("fcls", "ncm", "bcm", "marginal", "synthesis")
CLEAN = ("inverse_untold", "cnn1d", "cnn1d_modified")  # trained once


@dataclass(frozen=True)
class Config:
    """Noise, root mean square over the bands; draws of it; stride through the rocks; networks, steps and batches."""

    noise: tuple[float, ...] = (0.0, 0.002, 0.005, 0.01, 0.02, 0.05)
    draws: int = 5
    every: int = 3
    networks: tuple[str, ...] = ("inverse_rendering", *CLEAN)
    steps: int = 2000
    batch: int = 256
    seed: int = 0


def run(config: Config) -> tuple[dict[str, float], Any]:
    """By noise, by method."""
    pieces = Partial(run, config)
    rocks = Rocks(config.every)
    shape = np.asarray(emissivity_noise_std(rocks.wavenumber[rocks.window], KELVIN, 1.0), float)
    shape /= np.sqrt(np.mean(shape**2))

    def scored(unmixer: Any, level: float) -> list[float]:
        found = []
        for draw in range(config.draws if level else 1):
            rng = np.random.default_rng([config.seed, draw])
            noisy = rocks.pixels + level * shape * rng.normal(size=rocks.pixels.shape)
            found.append(float(rocks.errors(unmix(unmixer, noisy.astype(np.float32)).abundances).mean()))
        return found

    def told(level: float) -> dict[str, list[float]]:
        problem, known = solvers(rocks, level * shape)
        found = {name: scored(known[name], level) for name in TOLD}
        if "inverse_rendering" in config.networks:
            unmixer = learned("inverse_rendering", problem, config.seed, config.steps, config.batch, None)[0]
            found["inverse_rendering"] = scored(unmixer, level)
        return found

    def clean(name: str) -> list[list[float]]:
        problem = solvers(rocks)[0]
        known = "inverse_rendering" if name == "inverse_untold" else name
        unmixer = learned(known, problem, config.seed, config.steps, config.batch, None)[0]
        return [scored(unmixer, level) for level in config.noise]

    errors: dict[str, list[list[float]]] = {}
    for level in config.noise:
        for name, found in pieces.get(f"told {level}", lambda v=level: told(v)).items():
            errors.setdefault(name, []).append(found)
    for name in (name for name in CLEAN if name in config.networks):
        errors[name] = pieces.get(name, lambda n=name: clean(n))
    metrics: dict[str, float] = {}
    for name, of in errors.items():
        for level, found in zip(config.noise, of, strict=True):
            metrics[f"{name}_{level:g}"] = float(np.mean(found))
            metrics[f"{name}_{level:g}_std"] = float(np.std(found))
        metrics[f"{name}_rise"] = metrics[f"{name}_{config.noise[-1]:g}"] / metrics[f"{name}_{config.noise[0]:g}"]
    return metrics, draw(metrics, tuple(errors), config)


def draw(metrics: dict[str, float], names: tuple[str, ...], config: Config) -> Any:
    """Error against noise."""
    from matplotlib.figure import Figure

    image = Figure(figsize=(6.5, 4), layout="constrained")
    axes = image.subplots()
    for name in names:
        means = [metrics[f"{name}_{level:g}"] for level in config.noise]
        spread = [metrics[f"{name}_{level:g}_std"] for level in config.noise]
        axes.errorbar(100 * np.asarray(config.noise), means, spread, marker="o", label=name)
    axes.set(xlabel="noise, per cent of emissivity", ylabel="summed squared error", title="30 rocks of Feely et al.")
    axes.legend(frameon=False, fontsize="small")
    return image


if __name__ == "__main__":
    one_core()
    few = {"noise": (0.0, 0.01), "draws": 1, "every": 15, "networks": ("inverse_rendering", "cnn1d")}
    main(run, Config(), quick=Config(steps=50, batch=32, **few))
