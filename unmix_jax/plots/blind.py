"""Figures of blind unmixing: what the runs of several seeds found, and how a threshold was chosen."""

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from unmix_jax.plots.style import INK, PALETTE, TEXT, broken, distinct, figure_of, heading, tidy
from unmix_jax.scenes.library_files import library_names
from unmix_jax.scenes.scene import SpectralLibrary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["endmember_runs", "threshold_curve"]


def endmember_runs(
    runs: Float[Any, "seed endmember band"],
    library: SpectralLibrary,
    *,
    collapsed: Bool[Any, " seed"] | None = None,
    reference: Float[Any, "endmember band"] | None = None,
    title: str = "",
) -> "Figure":
    """All endmembers over all seeds, one panel per endmember, each curve divided by its greatest value.

    Args:
        runs: of each seed, in the order of the library.
        library: the endmembers that were taken.
        collapsed: runs that do not count; they are drawn dotted.
        reference: true spectra in the order of the library, where they are known.
        title: heading of the figure.

    Returns:
        The figure.
    """
    spectra, names = np.asarray(runs, np.float64), library_names(library)
    out = np.zeros(len(spectra), bool) if collapsed is None else np.asarray(collapsed)
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    keyed, titled = 0.28, 0.22 if title else 0.0  # inches: what the lines mean, and the heading above
    height = keyed + titled + 2.1 * rows + 0.08
    figure = figure_of(max(2.75 * columns + 0.3, 4.4), height)
    headings = distinct(names, 2.2, TEXT + 0.5)
    for i in range(len(names)):
        row, column = divmod(i, columns)
        left, bottom = 0.5 + 2.75 * column, height - (keyed + titled + 2.1 * row + 1.68)
        axis = figure.add_axes(
            (left / figure.get_figwidth(), bottom / height, 2.2 / figure.get_figwidth(), 1.4 / height)
        )
        curves: list[Any] = [
            (one[i], PALETTE[0], 0.7, ":" if gone else "-", 0.45) for one, gone in zip(spectra, out, strict=True)
        ]
        curves.append((np.asarray(library.spectra, np.float64)[i], PALETTE[1], 1.6, "-", 1.0))
        if reference is not None:
            curves.append((np.asarray(reference, np.float64)[i], INK, 1.2, (0, (4, 2)), 1.0))
        for y, colour, width, dash, alpha in curves:
            peak = np.nanmax(y, initial=0.0)
            if peak > 0:
                shown = broken(library.axis, y / peak, library.good_bands)
                axis.plot(*shown, color=colour, lw=width, ls=dash, alpha=alpha)
        last = i + columns >= len(names)
        label = ("band" if library.axis is None else library.axis.label) if last else ""
        tidy(axis, label, "share of its peak" if column == 0 else "", headings[i])
        axis.set_ylim(0, 1.08)
    keys: list[tuple[str, str, Any]] = [("runs", PALETTE[0], "-"), ("taken", PALETTE[1], "-")]
    keys += [("collapsed", PALETTE[0], ":")] if out.any() else []
    keys += [("reference", INK, (0, (4, 2)))] if reference is not None else []
    handles = [axis.plot([], [], color=colour, ls=dash)[0] for _, colour, dash in keys]
    figure.legend(
        handles, [name for name, *_ in keys], loc="upper left", ncols=len(keys), frameon=False, fontsize=TEXT,
        borderaxespad=0, bbox_to_anchor=(0.1 / figure.get_figwidth(), 1 - (titled + 0.02) / height),
    )  # fmt: skip
    if title:
        heading(figure, title)
    return figure


def threshold_curve(
    thresholds: Float[Any, " threshold"], angles: Float[Any, " threshold"], taken: float, *, title: str = ""
) -> "Figure":
    """How well pixels are fitted after refinement by each threshold, and which one was taken.

    Args:
        thresholds: shares from which a pixel counts as pure.
        angles: mean spectral angle of the fit, radians.
        taken: the threshold that was taken.
        title: heading of the figure.

    Returns:
        The figure.
    """
    figure = figure_of(3.6, 2.4)
    axis = figure.add_axes((0.19, 0.2, 0.76, 0.66))
    axis.plot(thresholds, angles, color=PALETTE[0], lw=1.2, marker="o", ms=3)
    axis.axvline(taken, color=PALETTE[1], lw=1.2)
    tidy(axis, "share from which a pixel counts as pure", "mean angle of the fit (rad)", title)
    return figure
