"""What all figures share: colours, empty figures and panels, labels, lines that break where data are missing."""

from typing import TYPE_CHECKING, Any

import numpy as np

from unmix_jax.scenes.scene import SpectralAxis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["broken", "colour_bar", "figure_of", "grid", "short", "tidy"]

# Okabe and Ito's palette: told apart by colour-blind readers too.
PALETTE = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#3B3B3B",
    "#A6761D",
    "#7570B3",
    "#66A61E",
)
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.2, 1.2)), (0, (5, 1.5, 1, 1.5)))
INK, TEXT = "#222222", 8.5


def figure_of(width: float, height: float) -> "Figure":
    """An empty white figure, sizes in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, facecolor="white")


def grid(
    count: int, aspect: float, *, title: str, bar: bool = True, panel: float = 0.0
) -> tuple["Figure", list["Axes"]]:
    """A figure of ``count`` frameless panels of height/width ``aspect``, with room for a colour bar."""
    columns = min(count, 3 if count in (3, 5, 6, 9) or aspect < 0.7 else 4)
    rows = -(-count // columns)
    width = panel or {1: 3.3, 2: 3.0, 3: 2.35}.get(columns, 1.85)
    shown = min(max(aspect, 0.25), 2.5)
    width = min(width, 3.6 / shown)  # a tall scene shall not be taller than a screen
    height, head, right = width * shown, 0.3, 0.85 if bar else 0.1
    top = 0.3 if title else 0.0
    total_w = max(0.1 + columns * (width + 0.12) + right, 2.6)  # a title fits over one narrow panel
    total_h = top + rows * (height + head) + 0.1
    figure = figure_of(total_w, total_h)
    axes = []
    for i in range(count):
        x, y = 0.1 + (i % columns) * (width + 0.12), total_h - top - (i // columns + 1) * (height + head)
        axis = figure.add_axes((x / total_w, y / total_h, width / total_w, height / total_h))
        axis.set_axis_off()
        axes.append(axis)
    if title:
        figure.text(0.1 / total_w, 1 - 0.08 / total_h, title, va="top", fontsize=TEXT + 2, color=INK)
    return figure, axes


def colour_bar(figure: "Figure", image: Any, label: str, *, extend: str = "neither") -> None:
    """A slim colour bar at the right edge, as high as the panels but no more than three inches."""
    width, height = figure.get_size_inches()
    long = min(height - 0.6, 2.6)
    axis = figure.add_axes(
        ((width - 0.82) / width, 0.5 - long / height / 2 - 0.1 / height, 0.13 / width, long / height)
    )
    bar = figure.colorbar(image, cax=axis, extend=extend)
    bar.outline.set_visible(False)
    bar.set_label(label, fontsize=TEXT, color=INK)
    axis.tick_params(labelsize=TEXT - 1, length=2, color=INK, labelcolor=INK)


def tidy(axis: "Axes", xlabel: str, ylabel: str, title: str) -> None:
    """Labels, a light grid, and no box."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color="#ececec", lw=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=TEXT - 1, length=2.5, color=INK, labelcolor=INK)
    axis.set_xlabel(xlabel, fontsize=TEXT, color=INK)
    axis.set_ylabel(ylabel, fontsize=TEXT, color=INK)
    axis.set_title(title, fontsize=TEXT + 0.5, loc="left", color=INK, pad=5)


def broken(spectral_axis: SpectralAxis | None, values: np.ndarray, good_bands: Any) -> tuple[np.ndarray, np.ndarray]:
    """Band positions in rising order and their values, with NaN where a line must break."""
    x = np.arange(1.0, values.size + 1) if spectral_axis is None else np.asarray(spectral_axis.centers, np.float64)
    y = values if good_bands is None else np.where(np.asarray(good_bands), values, np.nan)
    order = np.argsort(x, kind="stable")
    x, y = x[order], y[order]
    steps = np.diff(x)
    if steps.size < 3:
        return x, y
    # A gap is a step three times wider than each of its two neighbours on either side.
    padded = np.pad(steps, 2)
    near = np.max([padded[:-4], padded[1:-3], padded[3:-1], padded[4:]], axis=0)
    gaps = np.flatnonzero(steps > 3 * near) + 1
    return np.insert(x, gaps, x[gaps - 1]), np.insert(y, gaps, np.nan)


def short(name: str, limit: int = 26) -> str:
    """A name that fits over a panel; dollar signs are not mathematics."""
    text = name if len(name) <= limit else name[: limit - 1] + "…"
    return text.replace("$", r"\$")
