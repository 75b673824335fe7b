"""Fit oscillators to real minerals, and find known ones again: the Feely library, optical constants, a recovery.

    python experiments/dispersion_fit_minerals.py

About ten minutes on one core; it resumes. Needs UNMIX_JAX_DATA with feely and muufl_gulfport_90x90.

- Feely: 38 emissivity spectra (the blackbody among them) from 399 to 1998 cm⁻¹, on the bands that hold data. The
  authors of InfraRender reach a mean MSE of 4.08e-5 with 15.7 oscillators per axis; their code takes up to 12 fits
  of 11 to 67 CPU seconds per mineral. `feely_heldout_ratio`: every fifth band is left out of a second fit; the MSE
  there over the MSE on the bands that were fitted, means over the minerals. CPU seconds are those of everything
  tried (one and two axes, all starts), without compilation (`feely_compile_s`).
- nk: the library that ships (`nk_mineral_library.py`), fitted again.
- Recovery: 100 spectra of known oscillators (400 to 1400 cm⁻¹ at 2 cm⁻¹, one axis, 2 to 6 oscillators three linewidths
  apart); recovered means every frequency within max(0.5 cm⁻¹, 5 % of its linewidth) and no extra oscillator above 1 %
  of the strongest. `covariance_coverage_1sigma`: the same spectra with white noise at 40 dB; the share of true
  parameters within one standard error, where the number of oscillators came out right (nominal 0.683).
- Figure: quartz and clusters of grass pixels (Fig. 6 of the paper; its MSE on the clusters is 2.6e-5), olivine from
  iron to magnesium (Fig. 1, authors' parameters of the Rogers library), and every Feely mineral.

Expected: feely_mse_mean 2.5e-5, feely_oscillators_per_axis 11, feely_heldout_ratio 1.2, recovery_rate at least 0.95,
covariance_coverage_1sigma 0.63 to 0.73.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import nk_mineral_library
import numpy as np
from common import Partial, main, one_core
from scipy.cluster.vq import kmeans2

from unmix_jax.endmembers.dispersion_fit import DispersionFit, fit_dispersion
from unmix_jax.physics.dispersion import Dispersion, emissivity, from_axes
from unmix_jax.scenes.datasets import load
from unmix_jax.scenes.dispersion_files import load_dispersion
from unmix_jax.scenes.noise import add_noise, snr_std
from unmix_jax.scenes.scene import SpectralAxis

FAMILIES = ("frequency", "damping", "strength")
OLIVINES = ("Olivine Fo10", "Olivine Fo35", "Olivine Fo60", "Olivine Fo68")
CLUSTERS = 5  # of grass pixels, as in the paper
GRASS_COUNT = 8  # most oscillators per axis: 64 bands allow no more than nine
RECOVERY_AXIS = np.arange(400.0, 1401.0, 2.0)  # cm⁻¹
HELD_OUT = 5  # every how many bands


@dataclass(frozen=True)
class Config:
    """Options of the experiment.

    Attributes:
        minerals: how many of the Feely library, in its order.
        starts: searches per mineral and number of axes.
        count: most oscillators per axis; 0: the default of the fit.
        draws: spectra of the recovery.
        nk: whether to fit the optical constants again.
        grass: whether to fit the grass pixels.
    """

    minerals: int = 38
    starts: int = 2
    count: int = 0
    draws: int = 100
    nk: bool = True
    grass: bool = True


def fit(spectrum: np.ndarray, wavenumber: Any, config: Config, **options: Any) -> dict[str, Any]:
    """One fit as plain numbers that JSON can hold, with its CPU time."""
    begin = time.process_time()
    found = fit_dispersion(spectrum, wavenumber, count=config.count or None, starts=config.starts, **options)
    jax.block_until_ready(found.mse)
    return numbers(found) | {"cpu_s": time.process_time() - begin}


def numbers(found: DispersionFit) -> dict[str, Any]:
    """A fit as plain numbers."""
    mineral = found.dispersion
    kept = range(int(found.axes))
    active = np.asarray(mineral.active)
    parts = {name: [np.asarray(getattr(mineral, name))[i][active[i]].tolist() for i in kept] for name in FAMILIES}
    per_axis = {name: np.asarray(getattr(mineral, name))[list(kept)].tolist() for name in ("epsilon_inf", "weights")}
    return parts | per_axis | {"mse": float(found.mse), "converged": bool(found.converged)}


def mineral_of(piece: dict[str, Any]) -> Dispersion:
    """The mineral of a stored fit."""
    return from_axes(*(piece[name] for name in FAMILIES), piece["epsilon_inf"], piece["weights"])


def feely(config: Config, pieces: Partial) -> tuple[dict[str, float], dict[str, Any]]:
    """Fit every mineral with all its bands, then without every fifth."""
    library = load("feely").endmembers
    wavenumber = np.asarray(library.axis.centers, np.float32)
    spectra = np.asarray(library.spectra, np.float32)[: config.minerals]
    names = library.names[: config.minerals]
    good = spectra > 0
    held = np.arange(len(wavenumber)) % HELD_OUT == HELD_OUT - 1
    flat = np.ones_like(wavenumber)
    compile_s = pieces.get("compile", lambda: _first_and_second(lambda: fit(flat, wavenumber, config)))
    fits, partly = [], []
    for name, spectrum, use in zip(names, spectra, good, strict=True):
        fits.append(pieces.get(f"feely {name}", lambda s=spectrum, w=use: fit(s, wavenumber, config, weights=w)))
        partly.append(
            pieces.get(f"held {name}", lambda s=spectrum, w=use & ~held: fit(s, wavenumber, config, weights=w))
        )
    rendered = np.stack([np.asarray(mineral_of(f)(wavenumber)) for f in fits])
    without = np.stack([np.asarray(mineral_of(f)(wavenumber)) for f in partly])
    seen, unseen = good & ~held, good & held
    sizes = [len(row) for f in fits for row in f["frequency"]]
    widths = [
        np.min(np.array(f) * np.array(d)) for p in fits for f, d in zip(p["frequency"], p["damping"], strict=True)
    ]
    mse = _mean_square(rendered - spectra, good)
    ratio = _mean_square(without - spectra, unseen) / np.maximum(_mean_square(without - spectra, seen), 1e-12)
    metrics = {
        "feely_mse_mean": float(mse.mean()),
        "feely_mse_max": float(mse.max()),
        "feely_mse_mean_without_blackbody": float(
            np.mean([m for m, n in zip(mse, names, strict=True) if n != "Blackbody"])
        ),
        "feely_heldout_ratio": float(
            _mean_square(without - spectra, unseen).mean() / _mean_square(without - spectra, seen).mean()
        ),
        "feely_heldout_ratio_worst": float(ratio.max()),
        "feely_heldout_above_1p5": int(np.sum(ratio > 1.5)),
        "feely_oscillators_per_axis": float(np.mean(sizes)),
        "feely_oscillators": int(np.sum(sizes)),
        "feely_at_least_linewidth": int(np.sum(widths < 1.001 * np.min(np.diff(wavenumber)))),
        "feely_axes_mean": float(np.mean([len(f["frequency"]) for f in fits])),
        "feely_narrowest_linewidth_cm1": float(np.min(widths)),
        "feely_sampling_cm1": float(np.min(np.diff(wavenumber))),
        "feely_converged": float(np.mean([f["converged"] for f in fits])),
        "feely_cpu_s_per_mineral": float(np.mean([f["cpu_s"] for f in fits])),
        "feely_cpu_s_worst_mineral": float(np.max([f["cpu_s"] for f in fits])),
        "feely_compile_s": compile_s,
    }
    for name, f, m in zip(names, fits, mse, strict=True):
        key = f"feely_{name.replace('-', '_').lower()}"
        metrics |= {
            f"{key}_mse": float(m),
            f"{key}_axes": len(f["frequency"]),
            f"{key}_oscillators": sum(len(row) for row in f["frequency"]),
            f"{key}_cpu_s": f["cpu_s"],
        }
    shown = {"names": names, "wavenumber": wavenumber, "spectra": spectra, "good": good, "fits": fits, "mse": mse}
    return metrics, shown | {"rendered": rendered}


def _mean_square(error: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Mean over the bands that count, per spectrum, in float64."""
    return np.sum(np.where(where, error.astype(np.float64), 0) ** 2, -1) / where.sum(-1)


def _first_and_second(function: Callable[[], Any]) -> float:
    """CPU seconds that the first call takes more than the second: compilation."""
    times = []
    for _ in range(2):
        begin = time.process_time()
        function()
        times.append(time.process_time() - begin)
    return times[0] - times[1]


def draw_oscillators(rng: np.random.Generator) -> Dispersion:
    """2 to 6 oscillators within the bands, at least three linewidths apart."""
    count = int(rng.integers(2, 7))
    while True:
        frequency = np.sort(rng.uniform(RECOVERY_AXIS[0], RECOVERY_AXIS[-1], count))
        damping = rng.uniform(0.01, 0.1, count)
        width = frequency * damping
        if np.all(np.diff(frequency) >= 3 * np.maximum(width[1:], width[:-1])):
            break
    return from_axes([frequency], [damping], [rng.uniform(0.02, 0.5, count)], [rng.uniform(2, 3)])


def recovery(config: Config, pieces: Partial) -> dict[str, float]:
    """Known oscillators from clean spectra, and the coverage of the standard errors from noisy ones."""
    rng = np.random.default_rng(0)
    hits, inside, counted, right = [], 0, 0, []
    for number in range(config.draws):
        truth = draw_oscillators(rng)
        result = pieces.get(f"recovery {number}", lambda t=truth, n=number: _recover(t, n, config))
        hits.append(result["recovered"])
        right.append(result["right"])
        inside, counted = inside + result["inside"], counted + result["counted"]
    return {
        "recovery_rate": float(np.mean(hits)),
        "covariance_coverage_1sigma": inside / max(counted, 1),
        "covariance_parameters": counted,
        "covariance_spectra_share": float(np.mean(right)),
    }


def _recover(truth: Dispersion, number: int, config: Config) -> dict[str, Any]:
    """One draw, without and with noise."""
    clean = np.asarray(emissivity(truth, RECOVERY_AXIS))
    found = fit_dispersion(clean, RECOVERY_AXIS, starts=config.starts)
    noisy = np.asarray(add_noise(jax.random.key(number), clean, snr_std(clean, 40.0)))
    fitted = fit_dispersion(noisy, RECOVERY_AXIS, starts=config.starts)
    single = int(found.axes) == 1 and recovered(truth, found.dispersion)
    result = {"recovered": single, "right": False, "inside": 0, "counted": 0}
    active = np.asarray(fitted.dispersion.active)[0]
    if int(fitted.axes) != 1 or active.sum() != truth.active.shape[1]:
        return result
    order = np.flatnonzero(active)[np.argsort(np.asarray(fitted.dispersion.frequency)[0][active])]
    error = np.sqrt(np.diag(np.asarray(fitted.covariance)))
    places, axes = active.size, fitted.dispersion.active.shape[0]
    parts = [np.asarray(getattr(fitted.dispersion, name))[0][order] for name in FAMILIES]
    spread = [error[i * axes * places + order] for i in range(3)] + [error[[3 * axes * places]]]
    values = np.concatenate([*parts, np.asarray(fitted.dispersion.epsilon_inf)[:1]])
    wanted = np.concatenate([*(np.asarray(getattr(truth, name))[0] for name in FAMILIES), truth.epsilon_inf])
    within = np.abs(values - wanted) <= np.concatenate(spread)
    return result | {"right": True, "inside": int(within.sum()), "counted": int(within.size)}


def recovered(truth: Dispersion, found: Dispersion) -> bool:
    """Every frequency within max(0.5 cm⁻¹, 5 % of its linewidth), none above 1 % of the strongest too many."""
    active = np.asarray(found.active)[0]
    frequency, strength = np.asarray(found.frequency)[0][active], np.asarray(found.strength)[0][active]
    wanted = np.asarray(truth.frequency)[0]
    tolerance = np.maximum(0.5, 0.05 * wanted * np.asarray(truth.damping)[0])
    near = np.abs(frequency[None, :] - wanted[:, None]) <= tolerance[:, None]
    extra = np.ones(len(frequency), bool)
    extra[np.argmin(np.abs(frequency[None, :] - wanted[:, None]), axis=1)] = False
    return bool(near.any(1).all() and np.all(strength[extra] <= 0.01 * np.max(truth.strength)))


def grass(config: Config, pieces: Partial) -> tuple[dict[str, float], dict[str, Any]]:
    """Centroids of the pixels that are labelled grass, fitted as emissivity 1 - R."""
    scene = load("muufl_gulfport_90x90")
    labels = np.asarray(scene.labels).reshape(-1)
    pixels = np.asarray(scene.cube, np.float64).reshape(labels.size, -1)
    pixels = pixels[labels == scene.label_names.index("mostly grass")]
    centroids, _ = kmeans2(pixels, CLUSTERS, minit="++", seed=0)
    wavenumber = np.asarray(scene.axis.to("cm-1").centers, np.float64)[::-1]
    axis = SpectralAxis(wavenumber, unit="cm-1")
    spectra = 1 - centroids[:, ::-1]
    some = replace(config, count=config.count or GRASS_COUNT)
    fits = [pieces.get(f"grass {i}", lambda s=s: fit(s, axis, some)) for i, s in enumerate(spectra)]
    shown = {"wavenumber": wavenumber, "spectra": spectra, "fits": fits}
    return {"grass_mse_mean": float(np.mean([f["mse"] for f in fits]))}, shown


def optical_constants() -> dict[str, float]:
    """The library that ships, fitted again."""
    _, errors = nk_mineral_library.fit_minerals(nk_mineral_library.Config())
    return nk_mineral_library.summary(list(nk_mineral_library.MINERALS), errors)


def olivines() -> dict[str, np.ndarray]:
    """The olivines of the Rogers library, from the authors' parameters."""
    folder = Path(os.environ["UNMIX_JAX_DATA"]) / "feely"
    names, library, _ = load_dispersion(folder / "rogers_tes_dispersion_params.json")
    wavenumber = np.arange(250.0, 1400.0, 2.0)
    spectra = np.asarray(emissivity(library, wavenumber))
    shown = {name: spectra[list(names).index(name)] for name in OLIVINES}
    return {"wavenumber": wavenumber} | shown


def run(config: Config) -> tuple[dict[str, float], Any]:
    """All parts; the recovery in float64."""
    pieces = Partial(run, config)
    metrics, shown = feely(config, pieces)
    with jax.enable_x64(True):
        clusters, pixels = grass(config, pieces) if config.grass else ({}, None)
        metrics |= clusters | recovery(config, pieces)
        if config.nk:
            metrics |= pieces.get("nk", optical_constants)
    series = olivines()
    first = series["wavenumber"][np.argmin([series[name][200:350] for name in OLIVINES], axis=1) + 200]
    metrics |= {f"olivine_band_{name[-4:].lower()}_cm1": float(w) for name, w in zip(OLIVINES, first, strict=True)}
    return metrics, draw(shown, pixels, series)


def draw(shown: dict[str, Any], pixels: dict[str, Any] | None, series: dict[str, Any]) -> Any:
    """Fig. 6 and Fig. 1 of the paper above one page of all minerals."""
    from matplotlib.figure import Figure

    columns = 5
    rows = -(-len(shown["names"]) // columns)
    figure = Figure(figsize=(16, 4.2 + 1.9 * rows), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[4.2, 1.9 * rows])
    left, middle, right = above.subplots(1, 3)
    _draw_quartz(left, shown)
    if pixels is not None:
        _draw_grass(middle, pixels)
    for name in OLIVINES:
        right.plot(series["wavenumber"], series[name], label=name)
    right.set(title="Olivine, from iron to magnesium (authors' parameters)", ylabel="emissivity")
    right.legend(frameon=False, fontsize=8)
    for axes in (left, middle, right):
        axes.set_xlabel("wavenumber (cm⁻¹)")
    panels = below.subplots(rows, columns, sharex=True, squeeze=False).ravel()
    for panel in panels[len(shown["names"]) :]:
        panel.set_axis_off()
    for panel in panels[: len(shown["names"])][-columns:]:
        panel.tick_params(labelbottom=True)
    for i, name in enumerate(shown["names"]):
        good = shown["good"][i]
        measured = np.where(good, shown["spectra"][i], np.nan)
        panels[i].plot(shown["wavenumber"], measured, color="0.6", lw=2)
        panels[i].plot(shown["wavenumber"], shown["rendered"][i], color="C3", lw=0.7)
        sizes = "+".join(str(len(row)) for row in shown["fits"][i]["frequency"])
        panels[i].set_title(f"{name}: {sizes} oscillators, MSE {shown['mse'][i]:.1e}", fontsize=8)
        panels[i].tick_params(labelsize=7)
    below.supxlabel("wavenumber (cm⁻¹)")
    below.supylabel("emissivity (grey: measured, red: fitted)")
    return figure


def _draw_grass(axes: Any, pixels: dict[str, Any]) -> None:
    """Centroids and what was fitted to them."""
    for spectrum, piece in zip(pixels["spectra"], pixels["fits"], strict=True):
        axes.plot(pixels["wavenumber"], 1 - spectrum, ".", ms=3, color="0.5")
        axes.plot(pixels["wavenumber"], 1 - np.asarray(mineral_of(piece)(pixels["wavenumber"])), lw=1)
    mean = np.mean([f["mse"] for f in pixels["fits"]])
    axes.set(title=f"Grass, {len(pixels['fits'])} clusters: MSE {mean:.1e}", ylabel="reflectance (scaled)")


def _draw_quartz(axes: Any, shown: dict[str, Any]) -> None:
    """Quartz, or the first mineral of a short run, with its residual and its oscillators."""
    i = list(shown["names"]).index("Quartz") if "Quartz" in shown["names"] else 0
    x, good = shown["wavenumber"], shown["good"][i]
    axes.plot(x[good], shown["spectra"][i][good], color="0.6", lw=3, label="measured")
    axes.plot(x, shown["rendered"][i], color="C3", lw=1, label="fitted")
    axes.plot(x[good], (shown["rendered"][i] - shown["spectra"][i])[good], color="C0", lw=0.8, label="difference")
    for number, row in enumerate(shown["fits"][i]["frequency"]):
        inside = [f for f in row if x[0] <= f <= x[-1]]
        axes.plot(inside, [-0.06 - 0.03 * number] * len(inside), "|", ms=8, color=f"C{number + 1}")
    axes.set(title=f"{shown['names'][i]}: MSE {shown['mse'][i]:.1e}", ylabel="emissivity")
    axes.legend(frameon=False, fontsize=8)


if __name__ == "__main__":
    one_core()
    main(run, Config(), quick=Config(minerals=2, starts=1, count=3, draws=1, nk=False, grass=False))
