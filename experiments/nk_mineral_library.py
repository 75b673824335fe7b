"""The library of dispersion parameters that ships: minerals with measured optical constants, fitted by this package.

    python experiments/nk_mineral_library.py --library data/mineral_dispersion/minerals.json

Two minutes on two cores; needs nothing but what ships (`data/nk_minerals`, CC0). The emissivity of each crystal axis
follows from its measured n and k by Fresnel's equations and is fitted with one axis of oscillators from 200 to
2000 cm⁻¹ (5 to 50 µm); the axes of a mineral are then put together by their multiplicity: ordinary rays count twice.
Without `--library` nothing is written but the record.

The mean squared errors are those of emissivity, over the tabulated wavenumbers of all axes of a mineral. `n_rmse` and
`k_rmse` compare the optical constants themselves, which the fit never saw: emissivity does not fix them where it is
near one, and where the tables are not consistent with causality nothing can.

Expected: nk_mse_mean about 1.7e-5. `nk_cpu_s` is mostly compilation: the tables differ in their number of bands.
"""

import time
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from common import main

from unmix_jax.endmembers.dispersion_fit import fit_dispersion
from unmix_jax.physics.dispersion import Dispersion, from_axes, refractive_index, stack, unstack
from unmix_jax.physics.fresnel import transmittance
from unmix_jax.scenes import datasets
from unmix_jax.scenes.dispersion_files import save_dispersion

RANGE = 200.0, 2000.0  # cm⁻¹
LINEWIDTH = 3.0  # cm⁻¹: the tables are smooth and noise-free, so bands narrower than their steps of 10 cm⁻¹ are real
MINERALS: dict[str, dict[str, float]] = {  # the tables of each mineral's axes, and their weights
    "anhydrite": {"anhydrite_alpha": 1, "anhydrite_or_gypsum_beta": 1, "anhydrite_or_gypsum_gamma": 1},
    "corundum": {"corundum_o": 2, "corundum_e": 1},
    "dolomite": {"dolomite_o": 2, "dolomite_e": 1},
    "halite": {"halite": 1},
    "hematite": {"hematite_o": 2, "hematite_e": 1},
    "illite": {"illite": 1},
    "kaolinite": {"kaolinite": 1},
    "magnetite": {"magnetite": 1},
    "montmorillonite": {"montmorillonite": 1},
    "periclase": {"periclase": 1},
    "silica glass": {"silica_glass_7_50um": 1},
    "water ice": {"water_ice": 1},
}


@dataclass(frozen=True)
class Config:
    """Options of the experiment.

    Attributes:
        minerals: how many of them, in the order of the table.
        count: most oscillators on an axis.
        starts: searches per axis.
        library: the file to write; empty: none.
    """

    minerals: int = len(MINERALS)
    count: int = 15
    starts: int = 4
    library: str = ""


def measured(table: str) -> dict[str, np.ndarray]:
    """Wavenumber (increasing, cm⁻¹), n, k and emissivity of one tabulated axis, within the range."""
    wavelength, n, k = (np.asarray(a, np.float64) for a in datasets.refractive_index(table))
    wavenumber, first = np.unique(1e7 / wavelength, return_index=True)
    inside = (wavenumber >= RANGE[0]) & (wavenumber <= RANGE[1])
    n, k = n[first][inside], k[first][inside]
    emissivity = np.asarray(transmittance(n**2 - k**2, n * k))
    return {"wavenumber": wavenumber[inside], "n": n, "k": k, "emissivity": emissivity}


def fit_axis(table: str, config: Config) -> tuple[Dispersion, dict[str, float]]:
    """One axis of oscillators for one table, and its errors."""
    data = measured(table)
    start = time.process_time()
    options = {"axes": (1,), "count": config.count, "starts": config.starts, "linewidth": LINEWIDTH}
    fit = fit_dispersion(data["emissivity"], data["wavenumber"], **options)
    seconds = time.process_time() - start
    n, k = (np.asarray(a)[0] for a in refractive_index(fit.dispersion, data["wavenumber"]))
    return unstack(stack([fit.dispersion]))[0], {
        "mse": float(fit.mse),
        "oscillators": int(fit.oscillators[0]),
        "n_rmse": float(np.sqrt(np.mean((n - data["n"]) ** 2))),
        "k_rmse": float(np.sqrt(np.mean((k - data["k"]) ** 2))),
        "cpu_s": seconds,
        "bands": len(n),
        "first_cm1": float(data["wavenumber"][0]),
        "last_cm1": float(data["wavenumber"][-1]),
    }


def together(axes: list[Dispersion], weights: list[float]) -> Dispersion:
    """One mineral from its axes, weights summing to one."""
    parts = [[np.asarray(getattr(a, name))[0] for a in axes] for name in ("frequency", "damping", "strength")]
    order = [np.argsort(frequency) for frequency in parts[0]]
    parts = [[row[o] for row, o in zip(part, order, strict=True)] for part in parts]
    epsilon_inf = [float(a.epsilon_inf[0]) for a in axes]
    return from_axes(*parts, epsilon_inf, np.asarray(weights) / np.sum(weights))


def fit_minerals(config: Config) -> tuple[Dispersion, dict[str, dict[str, float]]]:
    """The fitted library (stacked), and the errors of each table."""
    errors: dict[str, dict[str, float]] = {}
    minerals = []
    for name in list(MINERALS)[: config.minerals]:
        axes = []
        for table in MINERALS[name]:
            axis, errors[table] = fit_axis(table, config)
            axes.append(axis)
        minerals.append(together(axes, list(MINERALS[name].values())))
    return stack(minerals), errors


def run(config: Config) -> tuple[dict[str, float], Any]:
    """Fit in float64, write the library where one is wanted."""
    jax.config.update("jax_enable_x64", True)
    library, errors = fit_minerals(config)
    names = list(MINERALS)[: config.minerals]
    mse = [_mean(errors, name, "mse") for name in names]
    if config.library:
        save_dispersion(
            config.library,
            names,
            jax.tree.map(lambda leaf: np.asarray(leaf, np.float32) if leaf.dtype != bool else leaf, library),
            source="nk_minerals (refractiveindex.info, CC0; the tables and their references are in index.csv)",
            command=f"python experiments/nk_mineral_library.py --library {config.library}",
            quantity="emissivity at normal incidence, from n and k; n and k themselves are only as good as said",
            least_linewidth_cm1=LINEWIDTH,
            mse=mse,
            n_rmse=[_mean(errors, name, "n_rmse") for name in names],
            k_rmse=[_mean(errors, name, "k_rmse") for name in names],
            first_cm1=[min(errors[t]["first_cm1"] for t in MINERALS[n]) for n in names],
            last_cm1=[max(errors[t]["last_cm1"] for t in MINERALS[n]) for n in names],
            tables=[list(MINERALS[name]) for name in names],
        )
    return summary(names, errors), draw(names, library, errors)


def summary(names: list[str], errors: dict[str, dict[str, float]]) -> dict[str, float]:
    """The metrics of a run."""
    mse = [_mean(errors, name, "mse") for name in names]
    metrics = {"nk_mse_mean": float(np.mean(mse)), "nk_mse_max": float(np.max(mse))}
    metrics["nk_oscillators_per_axis"] = float(np.mean([e["oscillators"] for e in errors.values()]))
    metrics["nk_cpu_s"] = float(sum(e["cpu_s"] for e in errors.values()))
    for name in names:
        key = f"nk_{name.replace(' ', '_')}"
        metrics |= {f"{key}_{part}": _mean(errors, name, part) for part in ("mse", "n_rmse", "k_rmse")}
    return metrics


def _mean(errors: dict[str, dict[str, float]], name: str, part: str) -> float:
    """Mean over the tabulated wavenumbers of a mineral (of squares, for root mean squares)."""
    rows = [errors[table] for table in MINERALS[name]]
    bands = [row["bands"] for row in rows]
    power = 2 if part.endswith("rmse") else 1
    return float(np.average([row[part] ** power for row in rows], weights=bands) ** (1 / power))


def draw(names: list[str], library: Dispersion, errors: dict[str, dict[str, float]]) -> Any:
    """Measured and fitted emissivity of every axis of every mineral."""
    from matplotlib.figure import Figure

    columns = 3
    figure = Figure(figsize=(13, 2.9 * -(-len(names) // columns)), layout="constrained")
    panels = np.atleast_1d(figure.subplots(-(-len(names) // columns), columns, sharex=True, sharey=True)).ravel()
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    for panel, name, mineral in zip(panels, names, unstack(library), strict=False):
        for i, table in enumerate(MINERALS[name]):
            data = measured(table)
            axis = jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i : i + 1], mineral)
            axis = Dispersion(axis.frequency, axis.damping, axis.strength, axis.epsilon_inf, np.ones(1), axis.active)
            panel.plot(data["wavenumber"], data["emissivity"], ".", ms=2.5, color=f"C{i}", label=table)
            panel.plot(data["wavenumber"], axis(data["wavenumber"]), "-", lw=0.9, color=f"C{i}")
        panel.set_title(f"{name}: MSE {_mean(errors, name, 'mse'):.1e}", fontsize=9)
        panel.legend(fontsize=6, frameon=False)
    figure.supxlabel("wavenumber (cm⁻¹)")
    figure.supylabel("emissivity at normal incidence (points: from measured n and k; lines: fitted oscillators)")
    return figure


if __name__ == "__main__":
    main(run, Config(), quick=Config(minerals=2, count=3, starts=1))
