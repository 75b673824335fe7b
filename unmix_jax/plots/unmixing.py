"""Figures of scenes and their abundances: maps, endmembers, fits.

Images are thinned to at most `LIMIT` pixels a side before they are drawn. A list of spectra gets stacked shares
instead of maps.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from unmix_jax.plots.style import DASHES, INK, PALETTE, TEXT, broken, colour_bar, figure_of, grid, short, tidy
from unmix_jax.scenes.composite import composite
from unmix_jax.scenes.scene import Scene, SpectralLibrary
from unmix_jax.types import Solution

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["abundance_maps", "endmember_curves", "false_colour", "fits", "gap_map", "residual_map", "winner_map"]

LIMIT = 500


def abundance_maps(abundances: Float[Any, "*pixel endmember"], names: Sequence[str], *, title: str = "") -> "Figure":
    """One map per endmember on a common scale from 0 to 1, or stacked shares for a list of spectra.

    Args:
        abundances: fractions; NaN pixels stay blank. Values outside 0..1 saturate and the colour bar says so.
        names: one per endmember.
        title: heading of the figure.

    Returns:
        The figure.

    Raises:
        ValueError: the number of names is not the number of endmembers.
    """
    values = np.asarray(abundances)
    if values.shape[-1] != len(names):
        raise ValueError(f"{len(names)} names for {values.shape[-1]} abundances")
    if values.ndim == 2:
        return _stacked(values, names, title)
    values = _thin(values)
    count = values.shape[-1]
    figure, axes = grid(count, values.shape[0] / values.shape[1], title=title)
    image = None
    for i, (axis, name) in enumerate(zip(axes, names, strict=True)):
        image = axis.imshow(values[..., i], vmin=0, vmax=1, cmap="viridis")
        room = axis.get_position().width * figure.get_figwidth()
        axis.set_title(short(name, int(14 * room)), fontsize=TEXT + 0.5, pad=4, color=INK)
    low, high = np.nanmin(values, initial=0), np.nanmax(values, initial=1)
    extend = {(True, True): "both", (True, False): "min", (False, True): "max"}.get(
        (bool(low < -1e-3), bool(high > 1 + 1e-3)), "neither"
    )
    colour_bar(figure, image, "abundance (fraction)", extend=extend)
    return figure


def endmember_curves(library: SpectralLibrary, *, unit: str = "reflectance", title: str = "") -> "Figure":
    """Spectra over their axis; lines break at missing values, at bad bands and at gaps between bands.

    Args:
        library: the spectra.
        unit: what the values are, for the axis label.
        title: heading of the figure.

    Returns:
        The figure.
    """
    figure = figure_of(7.4, 3.5)
    axis = figure.add_axes((0.085, 0.135, 0.66, 0.775))
    names = library.names or tuple(f"endmember {i + 1}" for i in range(len(library)))
    for i, row in enumerate(np.asarray(library.spectra, dtype=np.float64)):
        colour, dash = PALETTE[i % len(PALETTE)], DASHES[(i // len(PALETTE)) % len(DASHES)]
        x, y = broken(library.axis, row, library.good_bands)
        axis.plot(x, y, color=colour, ls=dash, lw=1.4, label=short(names[i]))
    tidy(axis, "band" if library.axis is None else library.axis.label, unit, title)
    handles, labels = axis.get_legend_handles_labels()
    columns = 1 if len(labels) <= 16 else 2
    figure.legend(
        handles[:32], labels[:32], loc="upper left", bbox_to_anchor=(0.755, 0.92), ncols=columns,
        frameon=False, fontsize=TEXT if columns == 1 else TEXT - 2.5, handlelength=1.6, borderaxespad=0,
    )  # fmt: skip
    return figure


def residual_map(residual: Float[Any, "*pixel"], *, unit: str = "reflectance", title: str = "") -> "Figure":
    """Root mean square residual of every pixel, scaled to its 99th percentile.

    Args:
        residual: in the unit of the pixels; NaN where masked.
        unit: what the values are, for the label.
        title: heading of the figure.

    Returns:
        The figure.
    """
    values = np.asarray(residual, dtype=np.float64)
    top = np.nanpercentile(values, 99) if np.isfinite(values).any() else 1.0
    return _one_map(values, f"RMS residual ({unit})", title or "Residual", "magma", vmin=0.0, vmax=max(top, 1e-12))


def gap_map(gap: Float[Any, "*pixel"], *, title: str = "") -> "Figure":
    """Optimality certificate of every pixel, in powers of ten.

    Args:
        gap: duality gap over half the squared norm, dimensionless; NaN where masked or undefined.
        title: heading of the figure.

    Returns:
        The figure.
    """
    values = np.log10(np.maximum(np.asarray(gap, dtype=np.float64), 1e-18))
    finite = values[np.isfinite(values)]
    low, high = (np.floor(finite.min()), np.ceil(finite.max())) if finite.size else (-16.0, 0.0)
    low = max(low, high - 8) if high - low >= 1 else high - 1  # an exact zero does not stretch the scale
    return _one_map(values, "log₁₀ of the optimality gap", title or "Certificate", "cividis", vmin=low, vmax=high)


def winner_map(
    model: Int[Any, "*pixel"], names: Sequence[str], *, valid: Bool[Any, "*pixel"] | None = None, title: str = ""
) -> "Figure":
    """Which of several models won in every pixel, and in what share of them it did.

    Args:
        model: its number: ``fitted.model`` of `choose`, ``fitted.level`` of `mesma`; negative where there is none.
        names: of the models, by their number.
        valid: pixels to draw, such as ``converged``; all others stay blank.
        title: heading of the figure.

    Returns:
        The figure; shares are of the pixels drawn.

    Raises:
        ValueError: a number without a name.
    """
    numbers = np.asarray(model)
    drawn = (numbers >= 0) & (True if valid is None else np.asarray(valid))
    if drawn.any() and numbers[drawn].max() >= len(names):
        raise ValueError(f"model {numbers[drawn].max()} has no name, there are {len(names)} names")
    shares = np.bincount(numbers[drawn], minlength=len(names)) / max(1, drawn.sum())
    labels = [f"{short(name, 20)}, {share:.1%}" for name, share in zip(names, shares, strict=True)]
    colours = [PALETTE[i % len(PALETTE)] for i in range(len(names))]
    if numbers.ndim == 1:
        figure = figure_of(4.6, 0.8 + 0.25 * len(names))
        axis = figure.add_axes((0.45, 0.3, 0.52, 0.6))
        axis.barh(labels, shares, color=colours)
        axis.invert_yaxis()
        tidy(axis, "share of pixels", "", title)
        return figure
    image = _thin(np.where(drawn, numbers, len(names)))
    figure, (axis,) = grid(1, image.shape[0] / image.shape[1], title="", panel=3.3, bar=False)
    axis.imshow(np.asarray([_rgb(colour) for colour in (*colours, "#ffffff")])[image], interpolation="nearest")
    axis.set_title(title, fontsize=TEXT + 0.5, pad=4, color=INK)
    _key(figure, axis, labels, colours)
    return figure


def false_colour(scene: Scene, *, percentile: float = 2.0, title: str = "") -> "Figure":
    """The scene in colour: red, green and blue where it sees them, else its first three principal components.

    Args:
        scene: an image, or a list of spectra (drawn as its mean spectrum with the 5th and 95th percentile).
        percentile: share of the pixels (%) that saturates at each end of each colour.
        title: heading of the figure; by default what the colours are.

    Returns:
        The figure; masked pixels are transparent.
    """
    if len(scene.shape) != 2:
        return _spread(scene, title)
    picture, how = composite(scene, percentile=percentile, limit=LIMIT)
    figure, (axis,) = grid(1, picture.shape[0] / picture.shape[1], title="", bar=False, panel=3.3)
    axis.imshow(picture, interpolation="nearest")
    axis.set_title(title or how, fontsize=TEXT + 0.5, loc="left", pad=4, color=INK)
    return figure


def fits(
    scene: Scene,
    solution: Solution,
    endmembers: SpectralLibrary,
    *,
    baseline: Float[Any, "term band"] | None = None,
    titles: Sequence[str] = (
        "a good fit (10th percentile)",
        "a typical fit (median)",
        "a poor fit (99th percentile)",
    ),
    quantiles: Sequence[float] = (0.1, 0.5, 0.99),
) -> "Figure":
    """Measured and fitted spectra of a few pixels, chosen by their residual, with what is left over.

    Args:
        scene: where the spectra come from.
        solution: its solution.
        endmembers: the spectra that were mixed, on the bands of the scene.
        baseline: columns whose coefficients the solution holds in ``fitted``, where a baseline was fitted.
        titles: one per quantile.
        quantiles: which pixels, by their rank in the residual from 0 (best) to 1 (worst).

    Returns:
        The figure.

    Raises:
        ValueError: every pixel is masked.
    """
    residual = np.asarray(solution.residual).reshape(-1)
    ranked = np.argsort(residual)[: int(np.isfinite(residual).sum())]
    if ranked.size == 0:
        raise ValueError("every pixel is masked: no fit to draw")
    chosen = [int(ranked[round(q * (ranked.size - 1))]) for q in quantiles]
    places = [np.unravel_index(i, scene.shape) for i in chosen]
    measured = np.stack([np.asarray(scene.cube[place], dtype=np.float64) for place in places])
    mixed = [np.asarray(solution.abundances)[place] for place in places]
    fitted = np.stack(mixed) @ np.asarray(endmembers.spectra, dtype=np.float64)  # NaN in bands not used
    if baseline is not None:
        fitted += np.stack([np.asarray(solution.fitted)[place] for place in places]) @ np.asarray(baseline)
    width = 2.75
    figure = figure_of(width * len(chosen) + 0.3, 3.5)
    left, span = 0.72 / figure.get_figwidth(), (width - 0.62) / figure.get_figwidth()
    for i, (place, title) in enumerate(zip(places, titles, strict=True)):
        x0 = left + i * width / figure.get_figwidth()
        upper, lower = figure.add_axes((x0, 0.38, span, 0.44)), figure.add_axes((x0, 0.13, span, 0.19))
        for axis, curves in ((upper, ((measured[i], INK, 2.4), (fitted[i], PALETTE[1], 1.1))),
                             (lower, ((measured[i] - fitted[i], PALETTE[0], 1.0),))):  # fmt: skip
            for y, colour, lw in curves:
                axis.plot(
                    *broken(scene.axis, y, scene.good_bands),
                    color=colour,
                    lw=lw,
                    alpha=0.45 if lw > 2 else 1,
                )
        lower.axhline(0, color=INK, lw=0.6)
        floor = 0.02 * float(np.nanmax(np.abs(fitted[i])))
        lower.axhspan(-floor, floor, color="#f0f0f0", lw=0)  # so that rounding noise does not fill the panel
        where = _place(scene, place)
        tidy(upper, "", scene.quantity if i == 0 else "", f"{title}\n{where}RMS {residual[chosen[i]]:.2g}")
        upper.set_xticklabels([])
        tidy(lower, "band" if scene.axis is None else scene.axis.label, "residual" if i == 0 else "", "")
    handles = [upper.plot([], [], color=c, lw=w, alpha=a)[0] for c, w, a in ((INK, 2.4, 0.45), (PALETTE[1], 1.1, 1))]
    figure.legend(
        handles,
        ("measured", "fitted"),
        loc="upper right",
        ncols=2,
        frameon=False,
        fontsize=TEXT,
        borderaxespad=0.2,
    )
    return figure


def _one_map(values: np.ndarray, label: str, title: str, cmap: str, *, vmin: float, vmax: float) -> "Figure":
    """One quantity: an image with its colour bar, or a line of steps for a list of pixels."""
    if values.ndim == 1:
        figure = figure_of(4.6, 2.6)
        axis = figure.add_axes((0.15, 0.19, 0.82, 0.68))
        axis.plot(
            np.arange(values.size),
            values,
            color=PALETTE[0],
            lw=0,
            marker=".",
            ms=4 if values.size < 300 else 2,
        )
        tidy(axis, "pixel", label, title)
        return figure
    values = _thin(values)
    figure, (axis,) = grid(1, values.shape[0] / values.shape[1], title="", panel=3.3)
    image = axis.imshow(values, cmap=cmap, vmin=vmin, vmax=vmax)
    axis.set_title(title, fontsize=TEXT + 0.5, pad=4, color=INK)
    colour_bar(figure, image, label)
    return figure


def _rgb(colour: str) -> tuple[float, ...]:
    """Red, green and blue, 0..1, of "#rrggbb"."""
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))


def _key(figure: "Figure", axis: "Axes", labels: Sequence[str], colours: Sequence[str]) -> None:
    """What colours mean, beside the only panel of a figure, which is widened for it."""
    (width, height), place, room = figure.get_size_inches(), axis.get_position(), 2.2
    tall = max(height, 0.3 + 0.18 * len(labels))
    figure.set_size_inches(width + room, tall)
    axis.set_position((
        place.x0 * width / (width + room), 1 - (1 - place.y0) * height / tall,
        place.width * width / (width + room), place.height * height / tall,
    ))  # fmt: skip
    for i, (label, colour) in enumerate(zip(labels, colours, strict=True)):
        y = 1 - (0.3 + 0.18 * i) / tall
        figure.text((width + 0.05) / (width + room), y, "■", color=colour, fontsize=TEXT + 2, va="center")
        figure.text((width + 0.22) / (width + room), y, label, color=INK, fontsize=TEXT, va="center")


def _stacked(values: np.ndarray, names: Sequence[str], title: str) -> "Figure":
    """Shares of each endmember, stacked over the pixels of a list."""
    step = max(1, -(-values.shape[0] // 2000))
    values = np.nan_to_num(values[::step])
    figure = figure_of(7.4, 3.2)
    axis = figure.add_axes((0.085, 0.15, 0.66, 0.76))
    edges = (np.arange(values.shape[0] + 1) - 0.5) * step
    bottom = np.zeros(values.shape[0])
    for i, name in enumerate(names):
        upper = bottom + values[:, i]
        axis.fill_between(
            edges, np.append(bottom, bottom[-1:]), np.append(upper, upper[-1:]), step="post",
            color=PALETTE[i % len(PALETTE)], alpha=0.9 if i < len(PALETTE) else 0.55,
            lw=0, label=short(name),
        )  # fmt: skip
        bottom = upper
    axis.set_xlim(edges[0], edges[-1])
    axis.set_ylim(min(0.0, float(bottom.min())), max(1.0, float(bottom.max())))
    tidy(axis, "pixel", "abundance (fraction)", title)
    figure.legend(loc="upper left", bbox_to_anchor=(0.755, 0.92), frameon=False, fontsize=TEXT, borderaxespad=0)
    return figure


def _spread(scene: Scene, title: str) -> "Figure":
    """Mean spectrum of a list of spectra, and where nine tenths of them lie."""
    spectra = np.asarray(scene.cube[:: max(1, -(-scene.shape[0] // 5000))], dtype=np.float64)
    if scene.nodata is not None:
        spectra = np.where(spectra == scene.nodata, np.nan, spectra)
    low, mean, high = np.nanpercentile(spectra, (5, 50, 95), axis=0)
    figure = figure_of(4.6, 2.8)
    axis = figure.add_axes((0.15, 0.18, 0.82, 0.7))
    x, upper = broken(scene.axis, high, scene.good_bands)
    axis.fill_between(x, broken(scene.axis, low, scene.good_bands)[1], upper, color=PALETTE[5], alpha=0.35, lw=0)
    axis.plot(*broken(scene.axis, mean, scene.good_bands), color=PALETTE[0], lw=1.4)
    label = "band" if scene.axis is None else scene.axis.label
    tidy(axis, label, scene.quantity, title or f"median and 5–95 % of {scene.shape[0]} spectra")
    return figure


def _thin(image: np.ndarray) -> np.ndarray:
    """Every n-th pixel, so that no side is longer than `LIMIT`."""
    step = max(1, -(-max(image.shape[:2]) // LIMIT))
    return image[::step, ::step]


def _place(scene: Scene, place: Sequence[Any]) -> str:
    """Where a pixel is, in words; the only one of its scene is nowhere."""
    words = () if scene.shape == (1,) else ("row", "column") if len(scene.shape) == 2 else ("pixel",)
    return "".join(f"{word} {int(k)}, " for word, k in zip(words, place, strict=False))
