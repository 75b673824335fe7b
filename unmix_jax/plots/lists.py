"""Figures of lists of spectra, which have no place in an image: shares as bars or areas, and what the spectra are."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from unmix_jax.plots.style import (
    FILLS,
    PALETTE,
    REST,
    TEXT,
    Key,
    broken,
    distinct,
    figure_of,
    fitted,
    swatches,
    tidy,
    words,
)
from unmix_jax.scenes.nodata import is_nodata
from unmix_jax.scenes.scene import Scene

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["BESIDE", "bands_label", "bars", "most", "shares", "spread"]

NAMED_BARS = 40  # spectra of a list that get a bar and a name each; more are drawn by their number
BESIDE = 16  # entries of a key that stand beside a panel; more stand below it, side by side


def shares(values: np.ndarray, names: Sequence[str], title: str, pixel_names: Sequence[str], every: int) -> "Figure":
    """Shares of each endmember in each spectrum of a list, stacked: bars with names, or areas over many spectra."""
    step = max(1, -(-values.shape[0] // 2000))
    values = np.nan_to_num(np.asarray(values[::step], np.float64))
    named = most(np.abs(values).mean(axis=0), len(FILLS))
    others = np.setdiff1d(np.arange(len(names)), named)
    layers, labels, colours = values[:, named], [names[i] for i in named], [*FILLS[: len(named)]]
    numbers = [*(named + 1).tolist(), len(names) + 1]
    if others.size:
        layers = np.concatenate([layers, values[:, others].sum(axis=1, keepdims=True)], axis=1)
        labels.append(f"{others.size:,} others, not named here")
        colours.append(REST)
    few = len(values) <= NAMED_BARS and step == 1
    beside = len(labels) <= BESIDE
    key = Key.of(labels, None if beside else 8.3)
    given = [str(name) for name in pixel_names] or [str(every * i) for i in range(len(values))]
    marks = distinct(given, 1.9, TEXT - 0.5) if few else []
    margin = 0.2 + max((Key.of(marks).column - 0.5 if few else 0.5), 0.5)
    wide = 4.95 if beside else 8.95 - margin
    high = max(0.21 * len(values), 0.45) if few else 2.6
    head, foot = 0.32, 0.5
    extra = 0.12 + key.width if beside else 0.2
    tall = max(high + foot, key.height + 0.1) if beside else high + foot + 0.1 + key.height
    figure = figure_of(margin + wide + extra, head + tall)
    width, height = figure.get_size_inches()
    axis = figure.add_axes((margin / width, 1 - (head + high) / height, wide / width, high / height))
    up, down = np.zeros(len(layers)), np.zeros(len(layers))
    edges = (np.arange(len(layers) + 1) - 0.5) * step * every
    for layer, colour in zip(layers.T, colours, strict=True):
        for base, part in ((up, np.maximum(layer, 0)), (down, np.minimum(layer, 0))):  # what is negative goes down
            if not part.any():
                continue
            if few:
                axis.barh(np.arange(len(layers)), part, left=base, color=colour, height=0.78)
            else:
                lower, upper = (np.append(v, v[-1:]) for v in (base, base + part))
                axis.fill_between(edges, lower, upper, step="post", color=colour, lw=0)
            base += part
    span = min(0.0, float(down.min())), max(1.0, float(up.max()))
    share = "abundance (fraction)"
    if few:
        axis.set_ylim(len(layers) - 0.5, -0.5)
        axis.set_xlim(*span)
        tidy(axis, share, "", title)
        axis.grid(axis="y", visible=False)
        axis.set_yticks(np.arange(len(layers)), marks, **words(TEXT - 0.5))
    else:
        axis.set_xlim(edges[0], edges[-1])
        axis.set_ylim(*span)
        axis.locator_params(axis="x", integer=True)
        tidy(axis, "number of the spectrum, from 0", share, title)
    place = (margin + wide + 0.12, head) if beside else (0.5, head + high + foot + 0.02)
    key.draw(figure, *place, labels, swatches(colours), numbers=numbers[: len(labels)])
    return figure


def bars(shares: np.ndarray, labels: Sequence[str], colours: Sequence[str], xlabel: str, title: str) -> "Figure":
    """A named bar for each share."""
    key = Key.of(labels)
    tall = 0.22 * len(labels)
    figure = figure_of(key.width + 3.0, 0.35 + tall + 0.5)
    width, height = figure.get_size_inches()
    axis = figure.add_axes((key.width / width, 0.5 / height, 2.8 / width, tall / height))
    axis.barh(np.arange(len(labels)), shares, color=colours)
    axis.set_ylim(len(labels) - 0.5, -0.5)
    tidy(axis, xlabel, "", "")
    axis.set_yticks(np.arange(len(labels)), labels, **words(TEXT - 0.5))
    if title:
        figure.text(0.1 / width, 1 - 0.06 / height, fitted(title, width - 0.2), va="top", **words(TEXT + 0.5))
    return figure


def spread(scene: Scene, title: str) -> "Figure":
    """Median spectrum of a list of spectra, and where nine tenths of them lie."""
    step = max(1, -(-scene.shape[0] // 5000))
    stored = np.asarray(scene.cube[::step])
    spectra = np.where(is_nodata(stored, scene.nodata), np.nan, stored.astype(np.float64))
    spectra[:, np.isnan(spectra).all(axis=0)] = 0  # a band without a value is not drawn; percentiles would warn of it
    empty = (spectra == 0).all(axis=0)
    low, mean, high = np.where(empty, np.nan, np.nanpercentile(spectra, (5, 50, 95), axis=0))
    figure = figure_of(4.6, 2.8)
    axis = figure.add_axes((0.16, 0.18, 0.81, 0.7))
    x, upper = broken(scene.axis, high, scene.good_bands)
    axis.fill_between(x, broken(scene.axis, low, scene.good_bands)[1], upper, color=PALETTE[5], alpha=0.35, lw=0)
    axis.plot(*broken(scene.axis, mean, scene.good_bands), color=PALETTE[0], lw=1.4)
    of = f"{scene.shape[0]:,} spectra"
    tidy(axis, bands_label(scene.axis), scene.quantity, title or f"median and 5–95 % of {of}")
    return figure


def most(amounts: np.ndarray, limit: int) -> np.ndarray:
    """Numbers of the largest of some amounts, in rising order; one place of ``limit`` is kept for the others."""
    if amounts.size <= limit:
        return np.arange(amounts.size)
    return np.sort(np.argsort(-amounts, kind="stable")[: limit - 1])


def bands_label(axis: Any) -> str:
    """Label of a spectral axis with its unit."""
    return "number of the band, from 1" if axis is None else axis.label
