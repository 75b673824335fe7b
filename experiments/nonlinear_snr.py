"""Every mixing model on its own simulations: what is recovered, with which error bars, and what the wrong model costs.

    python experiments/nonlinear_snr.py

Ten minutes on one core. Four USGS spectra (calcite, buddingtonite, chlorite, dry grass; 400 to 2490 nm every 10 nm).

- `recovery_share_<model>`: noise-free, float64, cold start: share of 10 000 pixels with Dirichlet(1) abundances whose
  abundance RMSE is at most 1e-5. Parameters are drawn uniformly: b of PPNM from −0.3 to 0.3, P of MLM from 0 to 0.9,
  γ of GBM from 0 to 1.
- `coverage_1sigma_<model>`, `coverage_2sigma_<model>`: share of abundances, all at least 0.1, within one and two of the
  standard deviations reported, at 40 dB with noise estimated from the residual; without the name, over all models.
  Gaussian errors give 0.683 and 0.954. `coverage_1sigma_<model>_<dB>` at other ratios.
- `rmse_<by>_<of>_<dB>`: abundances of pixels made by model `of` (Dirichlet(1)), inverted by model `by`, at 20 to 50 dB.

Wanted: recovery at least 0.99 (aim 0.999) for each model, coverage within 5 points (aim 2).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from common import Partial, main

from unmix_jax.driver import unmix
from unmix_jax.physics.hapke import Hapke
from unmix_jax.physics.mixing import GBM, MLM, PPNM, Fan, Linear, Mixing
from unmix_jax.scenes.datasets import load
from unmix_jax.scenes.synthetic import Mixtures, draw_abundances, synthesize
from unmix_jax.solvers.inversion import invert, prepare_inversion

NAMES = ("calcite", "buddingtonite", "chlorite_lowFe", "dry_veg_grass")
SUPPORTED, WITHIN = 1e-5, (1, 2)


@dataclass(frozen=True)
class Config:
    """Pixels for recovery, coverage and each cell of the table, and the ratios in dB."""

    recovered: int = 10_000
    covered: int = 5_000
    cell: int = 2_000
    ratios: tuple[int, ...] = (20, 30, 40, 50)


def uniform(key: Any, least: float, most: float, shape: tuple[int, ...] = ()) -> jax.Array:
    """A parameter of one pixel."""
    return jax.random.uniform(key, shape, minval=least, maxval=most)


MODELS: dict[str, tuple[Callable[[], Mixing], Any]] = {  # what is fitted, and what pixels are drawn from
    "linear": (Linear, Linear()),
    "fan": (Fan, Fan()),
    "gbm": (lambda: GBM(jnp.full(6, 0.5)), lambda key: GBM(uniform(key, 0, 1, (6,)))),
    "ppnm": (lambda: PPNM(jnp.zeros(())), lambda key: PPNM(uniform(key, -0.3, 0.3))),
    "mlm": (lambda: MLM(jnp.zeros(())), lambda key: MLM(uniform(key, 0, 0.9))),
    "hapke": (Hapke, Hapke()),
}


def endmembers() -> np.ndarray:
    """The four spectra, [endmember, band]."""
    library = load("usgs_mica77")
    rows = [library.names.index(name) for name in NAMES]
    wavelength = np.asarray(library.axis.centers)
    bands = (wavelength >= 400) & (wavelength <= 2490) & (wavelength % 10 == 0)
    return np.asarray(library.spectra, float)[rows][:, bands]


def pixels(of: str, count: int, seed: int, *, snr: float | None = None, floor: float = 0.0) -> Mixtures:
    """Mixtures by one model."""
    first, second = jax.random.split(jax.random.key(seed))
    abundances = draw_abundances(first, count, len(NAMES), floor=floor)
    return synthesize(second, endmembers(), abundances, mixing=MODELS[of][1], snr=snr)


def inverted(by: str, spectra: Any) -> Any:
    """Abundances and all else by one model."""
    problem = prepare_inversion(endmembers(), MODELS[by][0]())
    return unmix(eqx.Partial(invert, endmembers=problem), np.asarray(spectra), tile=1024)


def recovery(model: str, count: int) -> dict[str, float]:
    """Share of noise-free pixels whose abundances come back."""
    mixtures = pixels(model, count, 1)
    solution = inverted(model, mixtures.spectra)
    error = np.sqrt(np.mean((solution.abundances - np.asarray(mixtures.abundances)) ** 2, -1))
    return {
        f"recovery_share_{model}": float(np.mean(error <= SUPPORTED)),
        f"recovery_worst_rmse_{model}": float(error.max()),
        f"recovery_converged_{model}": float(np.mean(solution.converged)),
    }


def coverage(model: str, count: int, snr: int) -> list[float]:
    """Share of interior abundances within one and two standard deviations."""
    mixtures = pixels(model, count, 2, snr=snr, floor=0.1)
    solution = inverted(model, mixtures.spectra)
    spread = np.sqrt(np.diagonal(solution.covariance, axis1=-2, axis2=-1))
    error = np.abs(solution.abundances - np.asarray(mixtures.abundances))
    return [float(np.mean(error <= sigmas * spread)) for sigmas in WITHIN]


def cells(of: str, count: int, snr: int) -> dict[str, float]:
    """Abundance error of each model on pixels of one."""
    mixtures = pixels(of, count, 3, snr=snr)
    truth = np.asarray(mixtures.abundances)
    return {
        f"rmse_{by}_{of}_{snr}": float(np.sqrt(np.mean((inverted(by, mixtures.spectra).abundances - truth) ** 2)))
        for by in MODELS
    }


def run(config: Config) -> tuple[dict[str, float], Any]:
    """Recovery, coverage, and the table."""
    pieces = Partial(run, config)
    metrics: dict[str, float] = {}
    with jax.enable_x64(True):
        for model in MODELS:
            metrics |= pieces.get(f"recovery {model}", lambda m=model: recovery(m, config.recovered))
        for snr in config.ratios:
            shares = {}
            for model in MODELS:
                name = f"coverage {model} {snr}"
                shares[model] = pieces.get(name, lambda m=model, s=snr: coverage(m, config.covered, s))
            end = "" if snr == 40 else f"_{snr}"
            for i, sigmas in enumerate(WITHIN):
                metrics |= {f"coverage_{sigmas}sigma_{m}{end}": share[i] for m, share in shares.items()}
                metrics[f"coverage_{sigmas}sigma{end}"] = float(np.mean([share[i] for share in shares.values()]))
            for model in MODELS:
                metrics |= pieces.get(f"cells {model} {snr}", lambda m=model, s=snr: cells(m, config.cell, s))
    return metrics, figure(metrics, config)


def figure(metrics: dict[str, float], config: Config) -> Any:
    """One table of abundance errors for each ratio: made by row, inverted by column."""
    from matplotlib.figure import Figure

    image = Figure(figsize=(3.1 * len(config.ratios), 3.4), layout="constrained")
    for axes, snr in zip(np.atleast_1d(image.subplots(1, len(config.ratios))), config.ratios, strict=True):
        table = np.array([[metrics[f"rmse_{by}_{of}_{snr}"] for by in MODELS] for of in MODELS])
        drawn = axes.imshow(np.log10(table), vmin=-4, vmax=-0.7, cmap="viridis_r")
        for row, column in np.ndindex(table.shape):
            dark = np.log10(table[row, column]) > -1.8
            text = f"{table[row, column]:.3f}".lstrip("0")
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color="white" if dark else "black")
        axes.set_xticks(range(len(MODELS)), MODELS, rotation=60)
        axes.set_yticks(range(len(MODELS)), MODELS if snr == config.ratios[0] else [""] * len(MODELS))
        axes.set_title(f"{snr} dB")
        axes.set_xlabel("inverted by")
    image.axes[0].set_ylabel("made by")
    image.colorbar(drawn, ax=image.axes, label="log₁₀ abundance RMSE (fraction)", shrink=0.8)
    return image


if __name__ == "__main__":
    main(run, Config(), quick=Config(recovered=200, covered=200, cell=100, ratios=(40,)))
