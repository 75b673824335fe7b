"""Mixtures whose grains touch, measured and simulated: abundance and fit of every mixing model.

    python experiments/intimate_mixtures.py

Six minutes on one core, most of it compilation. Needs UNMIX_JAX_DATA for RELAB and the simulated scene.
`<data>_<model>_rmse` is the RMSE of abundances, `<data>_<model>_fit` that of the spectra (reflectance); `hapke` is
fully constrained least squares in albedo, `hapke_fit` (`_rmse`, `_fit`) least squares in reflectance from there on.

- `relab`: nine binary powders of anorthite, bronzite and olivine, at 30 and 0 degrees, isotropic grains; `_nadir`: at
  0 and 0. `relab_hapke2002_rmse`: with the H function of 2002. `relab_sized_loo_rmse`: that, with the grain sizes of
  bronzite and olivine relative to anorthite taken from the eight other mixtures (their abundances are looked at), and
  `relab_sized_lpo_rmse` from the six of the two other pairs of minerals.
- `usgs_gds212`, `usgs_gds213`: 80 % calcite by weight with montmorillonite and with kaolinite, 1400 to 2450 nm,
  relative to a Lambertian surface; `_calcite` is the fraction found. Grain sizes are unknown, so shares of the
  cross-section need not be 0.8. `_hapke_albedo_fit` is the RMS residual in albedo: ten times smaller than the linear
  model's in reflectance, but bright powders turn small differences of albedo into large ones of reflectance, and there
  Hapke's model fits no better than the linear one.
- `sim1`: every seventh pixel of a scene that others simulated with Hapke's model (0 and 0 degrees), as stored in
  float32 and rendered again in float64 (`sim1_f64_rmse`). Their abundances are stored in float32; their sums are made
  one first.

Expected: relab linear 0.174, Hapke 0.0176 (0.0202 at nadir; 0.0162 with H of 2002; sized 0.0119, leaving a pair out
0.0217); GDS212 and GDS213: calcite 0.70 and 0.86, fits 0.035 and 0.031, in albedo 0.0036 and 0.0027; linear 0.52 and
0.70, fits 0.035 and 0.043; sim1 below 1e-7 as stored, below 1e-12 rendered again; linear 0.140.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from common import main
from scipy.optimize import minimize

from unmix_jax.driver import unmix
from unmix_jax.physics.hapke import Hapke
from unmix_jax.physics.mixing import GBM, MLM, PPNM, Fan, Linear, Mixing
from unmix_jax.scenes.datasets import load
from unmix_jax.solvers.inversion import invert, prepare_inversion
from unmix_jax.solvers.least_squares import fcls, prepare

MODELS: dict[str, Callable[[int], Mixing]] = {
    "linear": lambda count: Linear(),
    "fan": lambda count: Fan(),
    "gbm": lambda count: GBM(jnp.full(count * (count - 1) // 2, 0.5)),
    "ppnm": lambda count: PPNM(jnp.zeros(())),
    "mlm": lambda count: MLM(jnp.zeros(())),
}
USGS = {
    "gds212": ("calcite.8+montmorilloniteNa.2_mix_intimate", "montmorillonite_Na"),
    "gds213": ("kaolinite.2+calcite.8_mix_intimate", "kaolinite_wxl"),
}


@dataclass(frozen=True)
class Config:
    """Every so many pixels of the simulated scene."""

    every: int = 7


def rms(values: Any) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(values))))


def by_albedo(model: Hapke, pixels: np.ndarray, endmembers: np.ndarray) -> np.ndarray:
    """Fully constrained least squares where mixtures are linear."""
    albedos = jax.vmap(lambda pixel: model.albedo_of(pixel[None])[0])(pixels)
    prepared = prepare(model.albedo_of(endmembers))
    return np.asarray(unmix(eqx.Partial(fcls, endmembers=prepared), np.asarray(albedos)).abundances)


def compared(pixels: np.ndarray, endmembers: np.ndarray, intimate: Hapke) -> dict[str, tuple[np.ndarray, float]]:
    """Abundances and RMS of the residual by every model."""
    found = {}
    for name, make in (*MODELS.items(), ("hapke_fit", lambda count: intimate)):
        problem = prepare_inversion(endmembers, make(len(endmembers)))
        solution = unmix(eqx.Partial(invert, endmembers=problem), pixels)
        found[name] = np.asarray(solution.abundances), rms(solution.residual)
    abundances = by_albedo(intimate, pixels, endmembers)
    again = jax.vmap(intimate, (0, None))(abundances, jnp.asarray(endmembers))
    return found | {"hapke": (abundances, rms(again - pixels))}


def sized(found: np.ndarray, truth: np.ndarray, held: list[np.ndarray]) -> float:
    """RMSE where relative grain sizes come from the mixtures that are not held out."""

    def turned(shares: np.ndarray, logarithms: np.ndarray) -> np.ndarray:
        scaled = shares * np.exp(np.append(0, logarithms))
        return scaled / scaled.sum(1, keepdims=True)

    result = np.zeros_like(found)
    for out in held:
        rest = ~out
        best = minimize(lambda k, rest=rest: np.sum((turned(found[rest], k) - truth[rest]) ** 2), np.zeros(2)).x
        result[out] = turned(found[out], best)
    return rms(result - truth)


def relab() -> tuple[dict[str, float], dict[str, np.ndarray], np.ndarray]:
    """The nine powders."""
    scene = load("relab_abo_intimate")
    endmembers, pixels = np.asarray(scene.endmembers.spectra, float), np.asarray(scene.cube, float)
    truth = np.asarray(scene.abundances, float)
    found = compared(pixels, endmembers, Hapke())
    metrics = {f"relab_{name}_rmse": rms(abundances - truth) for name, (abundances, _) in found.items()}
    metrics |= {f"relab_{name}_fit": fit for name, (_, fit) in found.items()}
    metrics["relab_hapke_nadir_rmse"] = rms(by_albedo(Hapke(incidence=0.0), pixels, endmembers) - truth)
    newer = by_albedo(Hapke(h_function="2002"), pixels, endmembers)
    metrics["relab_hapke2002_rmse"] = rms(newer - truth)
    pair = np.argmin(truth, 1)
    metrics["relab_sized_loo_rmse"] = sized(newer, truth, [np.arange(len(truth)) == i for i in range(len(truth))])
    metrics["relab_sized_lpo_rmse"] = sized(newer, truth, [pair == i for i in range(3)])
    return metrics, {"linear": found["linear"][0], "ppnm": found["ppnm"][0], "Hapke": found["hapke"][0]}, truth


def usgs() -> dict[str, float]:
    """Two powders of known weight."""
    library = load("usgs_mica77")
    wavelength = np.asarray(library.axis.centers)
    bands = (wavelength >= 1400) & (wavelength <= 2450)
    spectra = dict(zip(library.names, np.asarray(library.spectra, float)[:, bands], strict=True))
    metrics, model = {}, Hapke(standard=False)
    for name, (mixture, other) in USGS.items():
        pixel, endmembers = spectra[mixture][None], np.stack([spectra["calcite"], spectra[other]])
        found = compared(pixel, endmembers, model)
        left = model.albedo_of(pixel) - found["hapke"][0] @ np.asarray(model.albedo_of(endmembers))
        metrics[f"usgs_{name}_hapke_albedo_fit"] = rms(left)
        metrics |= {f"usgs_{name}_{model}_calcite": float(a[0, 0]) for model, (a, _) in found.items()}
        metrics |= {f"usgs_{name}_{model}_fit": fit for model, (_, fit) in found.items()}
    return metrics


def simulated(config: Config) -> dict[str, float]:
    """The scene of six minerals, as it is stored and rendered again."""
    scene, model = load("hapkecnn_sim1"), Hapke(incidence=0.0)
    endmembers = np.asarray(scene.endmembers.spectra, float)
    pixels = np.asarray(scene.cube, float).reshape(-1, endmembers.shape[1])[:: config.every]
    truth = np.asarray(scene.abundances, float).reshape(-1, len(endmembers))[:: config.every]
    truth /= truth.sum(-1, keepdims=True)
    found = compared(pixels, endmembers, model)
    again = np.asarray(jax.jit(jax.vmap(model, (0, None)))(truth, jnp.asarray(endmembers)))
    metrics = {f"sim1_{name}_rmse": rms(abundances - truth) for name, (abundances, _) in found.items()}
    metrics |= {f"sim1_{name}_fit": fit for name, (_, fit) in found.items()}
    metrics["sim1_stored_rmse"] = metrics["sim1_hapke_rmse"]
    return metrics | {"sim1_f64_rmse": rms(by_albedo(model, again, endmembers) - truth)}


def run(config: Config) -> tuple[dict[str, float], Any]:
    """The three data sets."""
    with jax.enable_x64(True):
        metrics, found, truth = relab()
        return metrics | usgs() | simulated(config), figure(found, truth)


def figure(found: dict[str, np.ndarray], truth: np.ndarray) -> Any:
    """Found against true fractions of the powders."""
    from matplotlib.figure import Figure

    image = Figure(figsize=(9.0, 3.2), layout="constrained")
    panels = image.subplots(1, 3, sharex=True, sharey=True)
    minerals = ("anorthite", "bronzite", "olivine")
    for axes, (name, abundances) in zip(panels, found.items(), strict=True):
        axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        for column, (mineral, marker) in enumerate(zip(minerals, "os^", strict=True)):
            axes.plot(truth[:, column], abundances[:, column], marker, label=mineral)
        axes.set_title(f"{name}: RMSE {rms(abundances - truth):.3f}")
        axes.set_xlabel("true fraction")
    panels[0].set_ylabel("fraction found")
    panels[0].legend()
    return image


if __name__ == "__main__":
    main(run, Config(), quick=Config(every=1000))
