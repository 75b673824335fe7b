"""Rocks of Feely et al. unmixed with minerals that may vary, under the standard protocol and under the authors' own.

    python experiments/analysis_by_synthesis_feely.py

90 thermal-infrared spectra, 17 mineral classes, error = mean over the spectra of the summed squared error of the
classes. Standard: 400–1400 cm⁻¹, the authors' fitted minerals without Serpentine-2. "authors": the blackbody stays in
the denominator; "norm": removed, the rest renormalised. `alternating` is the paper's algorithm;
`alternating_reference_*` is it under the authors' own protocol (830 bands, 38 minerals, the demo's tolerances, 100
steps, Enstatite counted in epidote and pyroxene and Epidote in none, as in their code), where it must give 0.1170 on
all 90 and 0.0521 on the first 45.

Prior and noise of `map` and `marginal` are those of greatest likelihood on a grid, without labels; every member of the
grid is in the record (`grid_*`). Intervals: 10 000 paired bootstrap samples of the 90 spectra, 95 %.
Needs UNMIX_JAX_DATA with feely; about ten minutes on one core.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import numpy as np
from common import Partial, main

from unmix_jax import driver
from unmix_jax.physics.box import box_around
from unmix_jax.physics.dispersion import Dispersion, stack, unstack
from unmix_jax.physics.variation import DispersionVariation
from unmix_jax.scenes.datasets import load
from unmix_jax.scenes.dispersion_files import load_dispersion
from unmix_jax.solvers.least_squares import fcls, prepare
from unmix_jax.solvers.synthesis import alternating, map_synthesis, marginal, prepare_synthesis

WIDE = {"frequency": 0.01, "damping": 0.05, "strength": 0.05, "epsilon_inf": 1e-4, "weights": 1e-4}
NOISES = (0.002, 0.004, 0.01)
WIDTHS = (0.1, 0.3, 1.0)  # of the prior, relative to a uniform one in the box
HALF = 45


@dataclass(frozen=True)
class Config:
    """Options of the experiment.

    Attributes:
        steps: of `alternating`.
        every: stride through the 90 spectra.
        rank: of the basis.
        grid: whether all of the grid is tried; otherwise one member.
        bootstrap: samples.
    """

    steps: int = 100
    every: int = 1
    rank: int = 160
    grid: bool = True
    bootstrap: int = 10_000


def library(drop: tuple[str, ...] = ()) -> tuple[list[str], Dispersion]:
    """The authors' minerals, but for some."""
    path = Path(os.environ["UNMIX_JAX_DATA"]) / "feely" / "infrarender_dispersion_params.json"
    names, minerals, _ = load_dispersion(path)
    kept = [i for i, name in enumerate(names) if name not in drop]
    parts = unstack(minerals)
    return [names[i] for i in kept], stack([parts[i] for i in kept])


def unmix(unmixer: Any, pixels: np.ndarray) -> Any:
    """All spectra in one tile of their own size: the default one would mostly be padding."""
    return driver.unmix(unmixer, pixels, tile=len(pixels))


class Rocks:
    """Spectra, truth, and how endmembers add up to classes."""

    def __init__(self, config: Config) -> None:
        """Read the 90 valid rocks."""
        scene = load("feely/modelled")
        valid = np.flatnonzero(np.asarray(scene.mask))[:: config.every]
        self.wavenumber = np.asarray(scene.axis.centers, np.float64)
        self.pixels = np.asarray(scene.cube)[valid].astype(np.float32)
        self.truth = np.asarray(scene.abundances, np.float64)[valid]
        self.first = int(np.ceil(HALF / config.every))
        self.classes = list(scene.abundance_names)
        self.class_of = dict(zip(scene.endmembers.names, scene.endmembers.classes, strict=True))

    def grouped(
        self, abundances: np.ndarray, names: list[str], *, norm: bool = False, slip: bool = False
    ) -> np.ndarray:
        """Class fractions; `slip`: as the authors' code adds them up."""
        groups = np.zeros((len(names), len(self.classes)))
        for i, name in enumerate(names):
            if self.class_of[name] in self.classes:
                groups[i, self.classes.index(self.class_of[name])] = 1
        if slip:
            groups[names.index("Enstatite"), self.classes.index("epidote")] = 1
            groups[names.index("Epidote")] = 0
        fractions = np.asarray(abundances, float) @ groups
        if norm:
            lit = 1 - np.asarray(abundances, float)[:, names.index("Blackbody")]
            fractions = fractions / np.maximum(lit, 1e-6)[:, None]
        return fractions

    def errors(self, abundances: np.ndarray, names: list[str], **how: bool) -> np.ndarray:
        """Summed squared error of each spectrum."""
        return np.sum((self.grouped(abundances, names, **how) - self.truth) ** 2, 1)


def interval(difference: np.ndarray, samples: int) -> tuple[float, float]:
    """95 % paired bootstrap interval of a mean."""
    rng = np.random.default_rng(0)
    means = difference[rng.integers(0, len(difference), (samples, len(difference)))].mean(1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def reference(rocks: Rocks, config: Config) -> dict[str, Any]:
    """`alternating` under the authors' own protocol, its whole path."""
    names, minerals = library()
    generator = DispersionVariation(minerals, box_around(minerals), rocks.wavenumber)
    found = unmix(eqx.Partial(alternating, endmembers=generator, steps=config.steps, record=True), rocks.pixels)
    path = np.asarray(found.fitted["path"])
    errors = [rocks.errors(path[:, n], names, slip=True) for n in range(path.shape[1])]
    return {
        "errors": np.array(errors).tolist(),
        "rms": np.sqrt(np.asarray(found.fitted["history"])).mean(0).tolist(),
    }


def standard(
    rocks: Rocks, config: Config, pieces: Partial
) -> tuple[dict[str, np.ndarray], list[str], dict[str, float]]:
    """Abundances of every method under the standard protocol; what the grid says."""
    names, minerals = library(("Serpentine-2",))
    window = (rocks.wavenumber >= 400) & (rocks.wavenumber <= 1400)
    pixels = np.ascontiguousarray(rocks.pixels[:, window])
    wide = DispersionVariation(minerals, box_around(minerals, **WIDE), rocks.wavenumber[window])
    authors = DispersionVariation(minerals, box_around(minerals), rocks.wavenumber[window])
    rest = np.asarray(wide(np.zeros(wide.free.shape, np.float32)))

    def problem(noise: float, width: float, baseline: int | None) -> Any:
        return prepare_synthesis(wide, noise=noise, prior=width * 3**-0.5, baseline=baseline, rank=config.rank)

    def listed(solution: Any) -> list[list[float]]:
        return np.asarray(solution.abundances, float).tolist()

    def tried(noise: float, width: float, baseline: int | None) -> dict[str, Any]:
        found = unmix(eqx.Partial(marginal, endmembers=problem(noise, width, baseline)), pixels)
        return {"likelihood": float(np.sum(found.fitted["log_likelihood"])), "abundances": listed(found)}

    found: dict[str, Any] = {}
    metrics: dict[str, float] = {}
    found["fcls"] = pieces.get("fcls", lambda: listed(unmix(eqx.Partial(fcls, endmembers=prepare(rest)), pixels)))
    found["fcls_baseline"] = pieces.get(
        "fcls baseline", lambda: listed(unmix(eqx.Partial(fcls, endmembers=prepare(rest, baseline=2)), pixels))
    )
    found["alternating"] = pieces.get(
        "alternating",
        lambda: listed(unmix(eqx.Partial(alternating, endmembers=authors, steps=config.steps), pixels)),
    )
    for label, baseline in (("", None), ("_baseline", 2)):
        grid = {}
        for noise in NOISES if config.grid else NOISES[1:2]:
            for width in WIDTHS if config.grid else WIDTHS[1:2]:
                key = f"grid{label}_noise{noise}_prior{width}"
                grid[noise, width] = pieces.get(key, lambda n=noise, w=width, b=baseline: tried(n, w, b))
                errors = rocks.errors(np.array(grid[noise, width]["abundances"]), names, norm=True)
                metrics[f"{key}_log_likelihood"] = grid[noise, width]["likelihood"]
                metrics[f"{key}_norm_all90"] = float(errors.mean())
        best = max(grid, key=lambda setting: grid[setting]["likelihood"])
        metrics |= {f"chosen{label}_noise": best[0], f"chosen{label}_prior": best[1]}
        found[f"marginal{label}"] = grid[best]["abundances"]
        found[f"map{label}"] = pieces.get(
            f"map{label}",
            lambda best=best, b=baseline: listed(
                unmix(eqx.Partial(map_synthesis, endmembers=problem(*best, b)), pixels)
            ),
        )
    return {name: np.array(value) for name, value in found.items()}, names, metrics


def run(config: Config) -> tuple[dict[str, float], Any]:
    """Both protocols."""
    pieces, rocks = Partial(run, config), Rocks(config)
    path = pieces.get("reference", lambda: reference(rocks, config))
    trace = np.array(path["errors"])
    metrics = {
        "alternating_reference_all90": float(trace[-1].mean()),
        "alternating_reference_first45": float(trace[-1, : rocks.first].mean()),
    }
    for n in (1, 2, 10):
        if n <= len(trace):
            metrics[f"alternating_reference_step{n}_all90"] = float(trace[n - 1].mean())
            metrics[f"alternating_reference_step{n}_first45"] = float(trace[n - 1, : rocks.first].mean())
    found, names, grid = standard(rocks, config, pieces)
    errors = {}
    for method, abundances in found.items():
        for metric in ("authors", "norm"):
            errors[method, metric] = rocks.errors(abundances, names, norm=metric == "norm")
            metrics[f"{method}_{metric}_all90"] = float(errors[method, metric].mean())
            metrics[f"{method}_{metric}_first45"] = float(errors[method, metric][: rocks.first].mean())
            metrics[f"{method}_{metric}_median"] = float(np.median(errors[method, metric]))
    for method in ("alternating", "marginal", "map"):
        for metric in ("authors", "norm"):
            difference = errors[method, metric] - errors["fcls", metric]
            low, high = interval(difference, config.bootstrap)
            key = f"{method}_minus_fcls_{metric}"
            metrics |= {key: float(difference.mean()), f"{key}_ci_low": low, f"{key}_ci_high": high}
    for method in ("fcls", "map"):
        per_class = np.mean((rocks.grouped(found[method], names, norm=True) - rocks.truth) ** 2, 0)
        for name, value in zip(rocks.classes, per_class, strict=True):
            metrics[f"{method}_norm_class_{name}"] = float(value)
    return metrics | grid, draw(trace, path["rms"], rocks, errors)


def draw(trace: np.ndarray, rms: list[float], rocks: Rocks, errors: dict[Any, np.ndarray]) -> Any:
    """The reference along its steps, and all methods by spectrum."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = np.arange(1, len(trace) + 1)
    left.semilogx(steps, trace.mean(1), label="all")
    left.semilogx(steps, trace[:, : rocks.first].mean(1), label="first half")
    left.set(xlabel="step of the paper's algorithm", ylabel="summed squared error")
    other = left.twinx()
    other.semilogx(steps, rms, color="0.6", ls="--")
    other.set_ylabel("RMS of the spectra (dashed)")
    left.legend(frameon=False)
    for method in ("fcls", "alternating", "marginal", "map", "fcls_baseline", "map_baseline"):
        right.plot(np.sort(errors[method, "norm"]), lw=1, label=f"{method} {errors[method, 'norm'].mean():.3f}")
    right.set(xlabel="spectra, by error", ylabel="summed squared error (norm)")
    right.legend(frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    main(run, Config(), quick=Config(steps=3, every=15, grid=False, bootstrap=200))
