"""Figures of the comparison of blind methods, and the scene that they are scored on."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from autoencoder_ablation import abundances as projective

from unmix_jax.metrics import align

EARLIER = {
    "simple": 0.041, "simple_cosine": 0.057, "daeu": 0.048, "daeu_sad": 0.049, "sidaeu": 0.112, "endnet": 0.036,
    "endnet_noisy": 0.271, "ospaeu": 0.069, "nae": 0.075, "mtaeu": 0.051, "cnnaeu": 0.065, "mdae": 0.375, "nmf": 0.135,
    "archetypal": 0.072, "vca": 0.089,
}  # fmt: skip
GROUPS = {  # by the loss, as in the survey's Fig. 19
    "scale invariant": ("cnnaeu", "mtaeu", "daeu", "sidaeu"),
    "in part": ("endnet",),
    "scale sensitive": ("ospaeu", "nae", "mdae", "snsa", "udas", "daen", "nmf"),
}


@dataclass(frozen=True)
class Truth:
    """Pixels, and the endmembers and abundances they are scored against."""

    pixels: np.ndarray
    names: tuple[str, ...]
    endmembers: np.ndarray
    abundances: np.ndarray


def canvas(width: float, height: float, rows: int, columns: int) -> tuple[Any, Any]:
    """A figure and its panels."""
    from matplotlib.figure import Figure

    image = Figure(figsize=(width, height), layout="constrained")
    return image, image.subplots(rows, columns, squeeze=False)


def scores_figure(metrics: dict[str, float], names: list[str]) -> Any:
    """Angles with what was measured before, and the error of the abundances by read-out."""
    image, ((left, right),) = canvas(12, 4, 1, 2)
    means, stds = ([metrics[f"{name}_msad_{kind}"] for name in names] for kind in ("mean", "std"))
    left.errorbar(range(len(names)), means, stds, fmt="o", capsize=3, label="ours, mean and standard deviation")
    left.plot(
        range(len(names)), [EARLIER.get(name, np.nan) for name in names], "x", color="0.3", label="earlier, elsewhere"
    )
    left.plot(len(names), metrics["recommended_msad"], "s", color="tab:red", label="recommended")
    left.axhline(0.0253, color="0.6", lw=0.8, ls="--", label="best published")
    left.set(yscale="log", ylabel="mSAD (rad)")
    for j, gauge in enumerate(("own", "fcls", "projective")):
        keys = [f"{name}_rmse_{gauge}_mean" for name in names] + [f"recommended_rmse_{gauge}"]
        there = [(i, metrics[key]) for i, key in enumerate(keys) if key in metrics]
        if there:
            right.plot(*zip(*there, strict=True), "o^s"[j], label=gauge)
    right.set_ylabel("abundance RMSE against A")
    for panel in (left, right):
        panel.set_xticks(range(len(names) + 1), [*names, "recommended"], rotation=45, ha="right")
        panel.legend(frameon=False, fontsize="small")
    return image


def groups(metrics: dict[str, float]) -> Any:
    """Mean angles of the methods by whether their loss sees the scale of a spectrum (survey, Fig. 19)."""
    image, ((panel,),) = canvas(5, 4, 1, 1)
    for j, names in enumerate(GROUPS.values()):
        there = [(metrics[f"{name}_msad_mean"], name) for name in names if f"{name}_msad_mean" in metrics]
        if there:
            panel.boxplot([value for value, _ in there], positions=[j], widths=0.4)
        for value, name in there:
            panel.annotate(name, (j + 0.25, value), fontsize="small", va="center")
    panel.set(xlim=(-0.5, len(GROUPS) - 0.2), xticks=range(len(GROUPS)), xticklabels=list(GROUPS), ylabel="mSAD (rad)")
    return image


def maps(spectra: np.ndarray, truth: Truth) -> Any:
    """Abundances of the first key of the recommended method, above the reference."""
    image, panels = canvas(9, 6, 2, 3)
    ours = projective(truth.pixels, spectra[align(spectra, truth.endmembers)])
    side = round(len(truth.pixels) ** 0.5)
    for row, shares, label in zip(panels, (ours, truth.abundances), ("recommended", "A"), strict=True):
        for panel, share, name in zip(row, shares.T, truth.names, strict=True):
            panel.imshow(share.reshape(side, side), vmin=0, vmax=1)
            panel.set(xticks=[], yticks=[], title=f"{name}, {label}")
    return image


def spread(sets: dict[str, np.ndarray], truth: Truth) -> Any:
    """Endmembers of all runs, divided by their greatest value, with the reference."""
    image, panels = canvas(10, 2.5 * len(sets), len(sets), len(truth.names))
    for row, (name, runs) in zip(panels, sets.items(), strict=True):
        for spectra in runs:
            lines = spectra[align(spectra, truth.endmembers)]
            for panel, line in zip(row, lines, strict=True):
                panel.plot(line / max(line.max(), 1e-9), color="tab:blue", lw=0.6, alpha=0.5)
        for panel, line, material in zip(row, truth.endmembers, truth.names, strict=True):
            panel.plot(line / line.max(), color="k", lw=1.2)
            panel.set_title(f"{name}: {material}", fontsize="small")
    return image
