"""A figure of what a library can tell apart: bounds of abundances and classes, and which errors go together."""

from typing import TYPE_CHECKING, Any

import numpy as np

from unmix_jax.endmembers.identifiability import Identifiability
from unmix_jax.plots.style import (
    FILLS,
    INK,
    PALETTE,
    REST,
    TEXT,
    distinct,
    figure_of,
    fitted,
    heading,
    tidy,
    width_of,
    words,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["bounds"]

GROUPS = (PALETTE[1], PALETTE[4], PALETTE[3], PALETTE[7], *FILLS[len(PALETTE) :])  # colours; further groups are grey
ROW = 0.155  # inches
LABELS, BARS, GAP = 1.35, 2.3, 0.35  # inches: widths of names and bars, and what is between panels
FOOT, HEAD = 0.5, 0.55


def bounds(found: Identifiability, *, title: str = "") -> "Figure":
    """The least standard deviation of each endmember and class as bars, and the correlation of their errors.

    Bars of collinear endmembers have the colour of their group, their rows and columns a frame; infinite bounds reach
    the edge and say so. A dashed line marks the limit from which on an abundance counts as lost.

    Args:
        found: what `identifiability` found.
        title: heading of the figure.

    Returns:
        The figure.
    """
    count, classes = len(found.names), len(found.class_names)
    tall = max(ROW * max(count, classes), 1.2)
    matrix = min(tall, 6.0)
    width = LABELS + BARS + GAP + matrix + 0.95 + ((LABELS + BARS) if classes else 0.0)
    height = FOOT + tall + HEAD
    figure = figure_of(width, height)

    def place(x: float, rows: float, wide: float) -> "Axes":
        return figure.add_axes((x / width, (FOOT + tall - rows) / height, wide / width, rows / height))

    own = max(ROW * count, 1.2)
    colours = _colours(found)
    span = _span(found)
    _bars(place(LABELS, own, BARS), found.std, found.names, colours, found.limit, span, "endmembers")
    x = LABELS + BARS + GAP
    square = place(x, own, matrix)
    image = square.imshow(found.correlation, vmin=-1, vmax=1, cmap="RdBu_r", aspect="auto", interpolation="nearest")
    square.set(xticks=[], yticks=[])
    square.set_title("correlation of the errors", fontsize=TEXT + 0.5, loc="left", color=INK, pad=5)
    for spine in square.spines.values():
        spine.set_visible(False)
    _frames(square, found)
    x += matrix + 0.12
    bar = figure.colorbar(image, cax=place(x, min(own, 2.6), 0.13))
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=TEXT - 1, length=2, color=INK, labelcolor=INK)
    if classes and found.class_std is not None:
        panel = place(x + 0.65 + LABELS, max(ROW * classes, 1.2), BARS - 0.1)
        plain = [PALETTE[2]] * classes
        _bars(panel, found.class_std, found.class_names, plain, found.limit, span, "classes")
    condition = "condition " + (f"{found.condition:.3g}" if np.isfinite(found.condition) else "∞")
    if found.groups:
        condition += f", {len(found.groups)} collinear group" + "s" * (len(found.groups) > 1)
    size, condition = TEXT + 2, f"({condition})" if title else condition
    heading(figure, f"{fitted(title, width - 0.3 - width_of(condition, size), size)} {condition}".strip())
    return figure


def _bars(
    axis: "Axes",
    std: Any,
    names: tuple[str, ...],
    colours: list[str],
    limit: float,
    span: tuple[float, float],
    title: str,
) -> None:
    """One bar a name, on a logarithmic scale from the top down; infinite ones reach the edge."""
    values = np.asarray(std, np.float64)
    places = np.arange(values.size)
    low, high = span
    axis.barh(places, np.clip(values, low, high), color=colours, height=0.74)
    for i in np.flatnonzero(np.isinf(values)):
        axis.text(high, float(i), "∞ ", ha="right", va="center", color="white", fontsize=TEXT)
    axis.axvline(limit, color=INK, lw=0.8, ls=(0, (4, 3)))
    axis.set_xscale("log")
    axis.set(xlim=span, ylim=(values.size - 0.5, -0.5))
    tidy(axis, "least standard deviation (fraction)", "", title)
    axis.grid(axis="y", visible=False)
    axis.set_yticks(places, distinct(names, LABELS - 0.1, TEXT - 1.5), **words(TEXT - 1.5))
    axis.tick_params(axis="y", length=0)


def _colours(found: Identifiability) -> list[str]:
    """A colour for each endmember: that of the first group it is in."""
    colours = [PALETTE[0]] * len(found.names)
    for number, group in reversed(list(enumerate(found.groups))):
        for i in group.indices:
            colours[i] = GROUPS[number] if number < len(GROUPS) else REST
    return colours


def _frames(axis: "Axes", found: Identifiability) -> None:
    """A square around each pair of a group."""
    for i, j in {(i, j) for group in found.groups for i in group.indices for j in group.indices}:
        x, y = j + np.asarray([-0.5, 0.5, 0.5, -0.5, -0.5]), i + np.asarray([-0.5, -0.5, 0.5, 0.5, -0.5])
        axis.plot(x, y, color=INK, lw=0.7)


def _span(found: Identifiability) -> tuple[float, float]:
    """Decades that hold all finite bounds and the limit, with room for infinite ones."""
    everything = np.concatenate([found.std, [] if found.class_std is None else found.class_std, [found.limit]])
    shown = everything[np.isfinite(everything) & (everything > 0)]
    high = np.ceil(np.log10(shown.max()) + (0.3 if np.isinf(everything).any() else 0.0))
    low = min(np.floor(np.log10(shown.min())), high - 2)
    return float(10.0**low), float(10.0**high)
