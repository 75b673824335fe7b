"""Figures of fitted minerals: what was measured, what the oscillators make of it, and where they are."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from unmix_jax.physics.dispersion import Dispersion
from unmix_jax.plots.style import INK, PALETTE, TEXT, broken, distinct, figure_of, fitted, tidy, words
from unmix_jax.scenes.scene import SpectralAxis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["fitted_mineral", "fitted_minerals"]

MEASURED: dict[str, Any] = {"color": INK, "lw": 2.4, "alpha": 0.45}
MODELLED: dict[str, Any] = {"color": PALETTE[1], "lw": 1.1}
AXES = tuple(PALETTE[i] for i in (0, 2, 3, 4, 1, 5, 6, 7))  # of the crystal: three at most in nature
DECADES = 1e-4  # of the strongest oscillator: weaker ones stand at the foot of the panel


def fitted_mineral(
    wavenumber: Float[Any, " band"],
    measured: Float[Any, " band"],
    modelled: Float[Any, " band"],
    dispersion: Dispersion,
    *,
    quantity: str = "emissivity",
    title: str = "",
) -> "Figure":
    """Measured and modelled spectrum of one mineral, the residual, and its oscillators.

    An oscillator is a stem at its frequency, as high as its strength, with a bar as wide as its linewidth.

    Args:
        wavenumber: cm⁻¹, increasing.
        measured: NaN where a band took no part in the fit.
        modelled: by the oscillators.
        dispersion: the oscillators of this mineral.
        quantity: what the values are.
        title: heading of the figure.

    Returns:
        The figure.
    """
    waves, values, model = (np.asarray(a, np.float64) for a in (wavenumber, measured, modelled))
    figure = figure_of(7.4, 5.2)
    left, width = 0.105, 0.875
    upper = figure.add_axes((left, 0.465, width, 0.475))
    middle = figure.add_axes((left, 0.29, width, 0.145))
    lower = figure.add_axes((left, 0.095, width, 0.165))
    spectral = SpectralAxis(waves, unit="cm-1")
    upper.plot(*broken(spectral, values, None), label="measured", **MEASURED)
    upper.plot(*broken(spectral, model, None), label="modelled", **MODELLED)
    upper.set_ylim(_span(values, model))
    tidy(upper, "", quantity, title)
    upper.legend(loc="best", frameon=False, fontsize=TEXT, handlelength=1.6)
    residual = values - model
    middle.plot(*broken(spectral, residual, None), color=PALETTE[0], lw=0.9)
    middle.axhline(0, color=INK, lw=0.6)
    top = 1.15 * _reach(residual)
    middle.set_ylim(-top, top)
    tidy(middle, "", "residual", "")
    _oscillators(lower, dispersion, (float(waves[0]), float(waves[-1])))
    tidy(lower, spectral.label, "strength 4πρ", "")
    for axis in (upper, middle, lower):
        axis.set_xlim(waves[0], waves[-1])
    for axis in (upper, middle):
        axis.set_xticklabels([])
    figure.align_ylabels([upper, middle, lower])
    return figure


def fitted_minerals(
    wavenumber: Float[Any, " band"],
    measured: Float[Any, "mineral band"],
    modelled: Float[Any, "mineral band"],
    titles: Sequence[str],
    *,
    quantity: str = "emissivity",
) -> "Figure":
    """Measured and modelled spectra of many minerals on one page, each on its own scale.

    Args:
        wavenumber: cm⁻¹, increasing.
        measured: NaN where a band took no part in the fit.
        modelled: by the oscillators.
        titles: one per mineral.
        quantity: what the values are.

    Returns:
        The figure.

    Raises:
        ValueError: the number of titles is not the number of spectra.
    """
    waves, values, models = (np.asarray(a, np.float64) for a in (wavenumber, measured, modelled))
    if len(titles) != len(values):
        raise ValueError(f"{len(titles)} titles for {len(values)} spectra")
    spectral = SpectralAxis(waves, unit="cm-1")
    columns = min(len(values), 5)
    rows = -(-len(values) // columns)
    panel, height, left, foot, head = 2.15, 1.55, 0.5, 0.2, 0.4
    total_w, total_h = left + columns * panel, foot + head + rows * height
    figure = figure_of(max(total_w, 3.6), total_h)
    total_w = figure.get_figwidth()
    shown = distinct(titles, panel - 0.15, TEXT - 1)
    for i, (row, model) in enumerate(zip(values, models, strict=True)):
        x, y = left + (i % columns) * panel, total_h - head - (i // columns + 1) * height + 0.3
        axis = figure.add_axes((x / total_w, y / total_h, (panel - 0.5) / total_w, (height - 0.5) / total_h))
        axis.plot(*broken(spectral, row, None), **MEASURED | {"lw": 1.8})
        axis.plot(*broken(spectral, model, None), **MODELLED | {"lw": 0.9})
        axis.set_xlim(waves[0], waves[-1])
        axis.set_ylim(_span(row, model))
        tidy(axis, "", "", "")
        axis.set_title(shown[i], loc="left", pad=3, **words(TEXT - 1))
        axis.tick_params(labelsize=TEXT - 2.5)
        axis.locator_params(nbins=4)
        if i + columns < len(values):
            axis.set_xticklabels([])
    handles = [figure.axes[0].plot([], [], **style)[0] for style in (MEASURED, MODELLED)]
    figure.legend(handles, ("measured", "modelled"), loc="upper right", ncols=2, frameon=False, fontsize=TEXT)
    said = fitted(quantity, total_h - 0.2)
    figure.text(0.12 / total_w, 0.5, said, rotation=90, va="center", ha="center", **words())
    figure.text(0.5, 0.1 / total_h, spectral.label, ha="center", **words())
    return figure


def _oscillators(axis: "Axes", dispersion: Dispersion, window: tuple[float, float]) -> None:
    """One stem per oscillator in the colour of its crystal axis; the legend counts those beyond the window."""
    strength, active = np.asarray(dispersion.strength, np.float64), np.asarray(dispersion.active)
    frequency, damping = (np.asarray(v, np.float64) for v in (dispersion.frequency, dispersion.damping))
    strongest = float(strength[active].max(initial=1e-6))
    floor = strongest * DECADES
    weakest = float(np.clip(strength[active].min(initial=strongest), floor, strongest))
    axis.set_yscale("log")
    for x, weight in enumerate(np.asarray(dispersion.weights)):
        own, colour = active[x], AXES[x % len(AXES)]
        if not own.any() and weight <= 0:
            continue
        at, high = frequency[x, own], np.maximum(strength[x, own], floor)
        half = 0.5 * damping[x, own] * at
        axis.vlines(at, weakest / 3, high, color=colour, lw=1.1)
        axis.hlines(high, at - half, at + half, color=colour, lw=2.0)
        beyond = int(np.sum((at < window[0]) | (at > window[1])))
        told = f"axis {x + 1} ({weight:.0%}): {at.size}" + (f" ({beyond} beyond the range)" if beyond else "")
        axis.plot([], [], color=colour, lw=2.0, label=told)
    axis.set_ylim(weakest / 3, strongest * 10)
    axis.minorticks_off()
    axis.legend(loc="upper right", ncols=2, frameon=False, fontsize=TEXT - 1.5, handlelength=1.2, borderaxespad=0.1)


def _span(measured: np.ndarray, modelled: np.ndarray) -> tuple[float, float]:
    """Limits that show the model and nearly all that was measured: one spike does not flatten the rest."""
    shown = np.concatenate([_middle(measured), modelled[np.isfinite(modelled)]])
    low, high = (float(shown.min()), float(shown.max())) if shown.size else (0.0, 1.0)
    room = 0.06 * (high - low) + max(0.0, 0.02 - 0.5 * (high - low))  # a flat spectrum stays flat
    return low - room, high + room


def _reach(residual: np.ndarray) -> float:
    """The largest residual, but for the last half per cent; never so small that rounding fills the panel."""
    return max(float(np.abs(_middle(residual)).max(initial=0.0)), 1e-4)


def _middle(values: np.ndarray) -> np.ndarray:
    """The finite values from the 0.5th to the 99.5th percentile."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return finite
    low, high = np.percentile(finite, (0.5, 99.5))
    return finite[(finite >= low) & (finite <= high)]
