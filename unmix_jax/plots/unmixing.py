"""Figures of scenes and their abundances: maps, endmembers, fits.

Images are thinned to at most `LIMIT` pixels a side before they are drawn. A list of spectra gets bars, stacked shares
and points instead of maps. Titles and names are plain text: nothing in them is read as mathematics.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from unmix_jax.plots.lists import BESIDE, bands_label, bars, most, shares, spread
from unmix_jax.plots.style import (
    DASHES,
    FILLS,
    INK,
    PALETTE,
    REST,
    ROW,
    TEXT,
    Key,
    broken,
    colour_bar,
    distinct,
    figure_of,
    fitted,
    grid,
    swatches,
    tidy,
    words,
)
from unmix_jax.scenes.composite import composite
from unmix_jax.scenes.scene import UNKNOWN_QUANTITY, Scene, SpectralLibrary
from unmix_jax.types import Solution

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "abundance_bound_map",
    "abundance_maps",
    "endmember_curves",
    "false_colour",
    "fits",
    "gap_map",
    "residual_map",
    "winner_map",
]

LIMIT = 500
NO_BOUND = "#d1495b"  # apart from every colour of cividis, and from the blank of masked pixels
SHEET = 20  # maps in one picture: four across and five down are no larger than a sheet of paper
NAMED_LINES = len(PALETTE) * len(DASHES)  # curves that can be told apart


def abundance_maps(
    abundances: Float[Any, "*pixel endmember"],
    names: Sequence[str],
    *,
    title: str = "",
    members: Sequence[int] | None = None,
    pixel_names: Sequence[str] = (),
    every: int = 1,
) -> "Figure":
    """One map per endmember on a common scale from 0 to 1, or stacked shares for a list of spectra.

    Args:
        abundances: fractions; NaN pixels stay blank. Values outside 0..1 saturate on a map and the colour bar says so.
        names: one per endmember.
        title: heading of the figure.
        members: numbers of the endmembers to draw, from 0; all by default. A list of spectra always shows all.
        pixel_names: of a list of spectra, one each.
        every: the list is every n-th spectrum of a longer one, whose numbers are shown.

    Returns:
        The figure. Names are shortened where they must be; those that are shown are distinct over all endmembers.

    Raises:
        ValueError: the number of names is not the number of endmembers.
    """
    values = np.asarray(abundances)
    if values.shape[-1] != len(names):
        raise ValueError(f"{len(names)} names for {values.shape[-1]} abundances")
    if values.ndim == 2:
        return shares(values, names, title, pixel_names, every)
    chosen = list(range(len(names)) if members is None else members)
    values = _thin(values)[..., chosen]
    figure, axes = grid(len(chosen), values.shape[0] / values.shape[1], title=title)
    room = max(axes[0].get_position().width * figure.get_figwidth(), 1.0) + 0.05
    shown = distinct(names, room, TEXT + 0.5)
    image = None
    for i, (axis, member) in enumerate(zip(axes, chosen, strict=True)):
        image = axis.imshow(values[..., i], vmin=0, vmax=1, cmap="viridis")
        axis.set_title(shown[member], pad=4, **words(TEXT + 0.5))
    low, high = np.nanmin(values, initial=0), np.nanmax(values, initial=1)
    extend = {(True, True): "both", (True, False): "min", (False, True): "max"}.get(
        (bool(low < -1e-3), bool(high > 1 + 1e-3)), "neither"
    )
    colour_bar(figure, image, "abundance (fraction)", extend=extend)
    return figure


def endmember_curves(library: SpectralLibrary, *, unit: str | None = None, title: str = "") -> "Figure":
    """Spectra over their axis; lines break at missing values, at bad bands and at gaps between bands.

    No two of the first 64 spectra have the same colour and dashes. Further ones are thin and grey, and the figure says
    how many they are.

    Args:
        library: the spectra.
        unit: what the values are, for the axis label; by default the quantity of the library.
        title: heading of the figure.

    Returns:
        The figure.
    """
    names = library.names or tuple(f"endmember {i + 1}" for i in range(len(library)))
    named = names[:NAMED_LINES]
    rest = f"{len(names) - len(named):,} more spectra are grey and not named." if len(names) > len(named) else ""
    styles = [{"color": colour, "ls": dash, "lw": 1.4} for dash in DASHES for colour in PALETTE][: len(named)]
    left, foot, head = 0.68, 0.5, 0.32
    beside = len(named) <= BESIDE
    wide, high = (4.95, 2.72) if beside else (8.3, 3.4)
    key = Key.of(named, None if beside else wide)
    right, below = (0.12 + key.width, 0.0) if beside else (0.2, 0.12 + key.height + ROW)
    figure = figure_of(left + wide + right, head + high + foot + below)
    width, height = figure.get_size_inches()
    axis = figure.add_axes((left / width, 1 - (head + high) / height, wide / width, high / height))
    for i, row in reversed(list(enumerate(np.asarray(library.spectra, dtype=np.float64)))):
        style = styles[i] if i < len(styles) else {"color": REST, "lw": 0.5}
        axis.plot(*broken(library.axis, row, library.good_bands), **style)
    tidy(axis, bands_label(library.axis), library.quantity if unit is None else unit, title)
    if beside:
        key.draw(figure, left + wide + 0.12, head, named, styles)
    else:
        key.draw(figure, left, head + high + foot + 0.06, named, styles, rest=rest)
    return figure


def residual_map(
    residual: Float[Any, "*pixel"], *, unit: str = UNKNOWN_QUANTITY, title: str = "", every: int = 1
) -> "Figure":
    """Root mean square residual of every pixel, scaled to its 99th percentile.

    Args:
        residual: in the unit of the pixels; NaN where masked.
        unit: what the values are, for the label.
        title: heading of the figure.
        every: as in `abundance_maps`.

    Returns:
        The figure.
    """
    values = np.asarray(residual, dtype=np.float64)
    top = np.nanpercentile(values, 99) if np.isfinite(values).any() else 1.0
    label = f"RMS residual ({fitted(unit, 1.4)})"
    return _one_map(values, label, title or "Residual", "magma", every, vmin=0.0, vmax=max(top, 1e-12))


def gap_map(gap: Float[Any, "*pixel"], *, title: str = "", every: int = 1) -> "Figure":
    """Optimality certificate of every pixel, in powers of ten.

    Args:
        gap: duality gap over half the squared norm, dimensionless; NaN where masked or undefined.
        title: heading of the figure.
        every: as in `abundance_maps`.

    Returns:
        The figure.
    """
    values, low, high = _decades(gap)
    label = "log₁₀ of the gap (no unit)"
    return _one_map(values, label, title or "Optimality gap", "cividis", every, vmin=low, vmax=high)


def abundance_bound_map(bound: Float[Any, "*pixel"], *, title: str = "", every: int = 1) -> "Figure":
    """How far the abundances of every pixel can be from the optimum, in powers of ten; red where there is no bound.

    Args:
        bound: greatest distance of an abundance from the exact minimiser, fraction; infinite where there is no bound,
            NaN where masked.
        title: heading of the figure.
        every: as in `abundance_maps`.

    Returns:
        The figure.
    """
    values, low, high = _decades(bound)
    without = bool(np.isposinf(values).any())
    label = "log₁₀ bound (red: none)" if without else "log₁₀ bound (fraction)"
    values = np.where(np.isposinf(values), high + 0.1 * (high - low), values)
    title = title or "Bound on abundances"
    return _one_map(
        values, label, title, "cividis", every, vmin=low, vmax=high, above=NO_BOUND if without else None
    )  # fmt: skip


def _decades(values: Any) -> tuple[np.ndarray, float, float]:
    """Logarithms to base ten, and the ends of a scale of eight decades at most that holds the greatest."""
    powers = np.log10(np.maximum(np.asarray(values, dtype=np.float64), 1e-18))
    finite = powers[np.isfinite(powers)]
    low, high = (float(np.floor(finite.min())), float(np.ceil(finite.max()))) if finite.size else (-16.0, 0.0)
    low = max(low, high - 8) if high - low >= 1 else high - 1  # an exact zero does not stretch the scale
    return powers, low, high


def winner_map(
    model: Int[Any, "*pixel"], names: Sequence[str], *, valid: Bool[Any, "*pixel"] | None = None, title: str = ""
) -> "Figure":
    """Which of several models won in every pixel, and in what share of them it did.

    Of more models than there are colours to tell apart (40), those that won most often have a name; all others are
    grey, and the key counts them.

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
    won = np.bincount(numbers[drawn], minlength=len(names)) / max(1, drawn.sum())
    named = most(won, len(FILLS))
    colours, shown = [*FILLS[: len(named)]], won[named]
    room = 2.0
    labels = distinct([names[i] for i in named], room - 0.5, numbers=(named + 1).tolist())
    if len(named) < len(names):
        labels.append(f"{len(names) - len(named):,} others")
        colours.append(REST)
        shown = np.append(shown, 1 - shown.sum() if drawn.any() else 0.0)
    labels = [f"{label}, {share:.1%}" for label, share in zip(labels, shown, strict=True)]
    if numbers.ndim == 1:
        return bars(shown, labels, colours, "share of the spectra", title)
    place = np.full(len(names) + 1, len(named))  # of each model among those that are named; the last is none
    place[named] = np.arange(len(named))
    place[-1] = len(colours)
    image = _thin(place[np.where(drawn, numbers, len(names))])
    key = Key.of(labels)
    figure, (axis,) = grid(1, image.shape[0] / image.shape[1], title="", panel=3.3, bar=False)
    (width, height), spot = figure.get_size_inches(), axis.get_position()
    wide, tall = width + key.width + 0.1, max(height, 0.35 + key.height)
    figure.set_size_inches(wide, tall)
    axis.set_position((
        spot.x0 * width / wide, 1 - (1 - spot.y0) * height / tall, spot.width * width / wide,
        spot.height * height / tall,
    ))  # fmt: skip
    axis.imshow(np.asarray([_rgb(colour) for colour in (*colours, "#ffffff")])[image], interpolation="nearest")
    room = wide * (1 - axis.get_position().x0) - 0.1
    axis.set_title(fitted(title, room, TEXT + 0.5), loc="left", pad=4, **words(TEXT + 0.5))
    key.draw(figure, width - 0.1, 0.3, labels, swatches(colours))
    return figure


def false_colour(scene: Scene, *, percentile: float = 2.0, title: str = "") -> "Figure":
    """The scene in colour: red, green and blue where it sees them, else its first three principal components.

    Args:
        scene: an image, or a list of spectra (drawn as its median spectrum with the 5th and 95th percentile).
        percentile: share of the pixels (%) that saturates at each end of each colour.
        title: heading of the figure; by default what the colours are.

    Returns:
        The figure; masked pixels are transparent.
    """
    if len(scene.shape) != 2:
        return spread(scene, title)
    picture, how = composite(scene, percentile=percentile, limit=LIMIT)
    figure, (axis,) = grid(1, picture.shape[0] / picture.shape[1], title="", bar=False, panel=3.3)
    axis.imshow(picture, interpolation="nearest")
    room = (1 - axis.get_position().x0) * figure.get_figwidth() - 0.05
    axis.set_title(fitted(title or how, room, TEXT + 0.5), loc="left", pad=4, **words(TEXT + 0.5))
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
    every: int = 1,
) -> "Figure":
    """Measured and fitted spectra of a few pixels, chosen by their residual, with what is left over.

    Args:
        scene: where the spectra come from.
        solution: its solution.
        endmembers: the spectra that were mixed, on the bands of the scene.
        baseline: columns whose coefficients the solution holds in ``fitted``, where a baseline was fitted.
        titles: one per quantile.
        quantiles: which pixels, by their rank in the residual from 0 (best) to 1 (worst).
        every: scene and solution are every n-th row and column of a larger one, whose rows and columns are shown.

    Returns:
        The figure; rows, columns and spectra are counted from 0.

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
    modelled = np.stack(mixed) @ np.asarray(endmembers.spectra, dtype=np.float64)  # NaN in bands not used
    if baseline is not None:
        modelled += np.stack([np.asarray(solution.fitted)[place] for place in places]) @ np.asarray(baseline)
    panel, left, gap, right = 2.2, 0.72, 0.6, 0.3
    top, high, low, foot = 0.78, 1.5, 0.65, 0.5  # heading, two panels, label
    figure = figure_of(left + len(chosen) * panel + (len(chosen) - 1) * gap + right, top + high + 0.15 + low + foot)
    width, height = figure.get_size_inches()
    quantity = fitted(scene.quantity, 1.2)
    for i, (place, title) in enumerate(zip(places, titles, strict=True)):
        x0, span = (left + i * (panel + gap)) / width, panel / width
        upper = figure.add_axes((x0, (foot + low + 0.15) / height, span, high / height))
        lower = figure.add_axes((x0, foot / height, span, low / height))
        for axis, curves in ((upper, ((measured[i], INK, 2.4), (modelled[i], PALETTE[1], 1.1))),
                             (lower, ((measured[i] - modelled[i], PALETTE[0], 1.0),))):  # fmt: skip
            for y, colour, lw in curves:
                axis.plot(
                    *broken(scene.axis, y, scene.good_bands),
                    color=colour,
                    lw=lw,
                    alpha=0.45 if lw > 2 else 1,
                )
        lower.axhline(0, color=INK, lw=0.6)
        floor = 0.02 * float(np.nanmax(np.abs(modelled[i])))
        lower.axhspan(-floor, floor, color="#f0f0f0", lw=0)  # so that rounding noise does not fill the panel
        told = f"RMS {residual[chosen[i]]:.2g}"
        where = _place(scene, place, every, panel + right - 0.05, told)
        tidy(upper, "", quantity if i == 0 else "", "")
        upper.set_title(
            "\n".join((fitted(title, panel + right - 0.05), where)), loc="left", pad=5, linespacing=1.25, **words()
        )
        upper.set_xticklabels([])
        tidy(lower, bands_label(scene.axis), "residual" if i == 0 else "", "")
    figure.align_ylabels(figure.axes[:2])
    handles = [upper.plot([], [], color=c, lw=w, alpha=a)[0] for c, w, a in ((INK, 2.4, 0.45), (PALETTE[1], 1.1, 1))]
    figure.legend(
        handles, ("measured", "fitted"), loc="upper right", ncols=2, frameon=False, fontsize=TEXT, borderaxespad=0.2
    )
    return figure


def _one_map(
    values: np.ndarray, label: str, title: str, cmap: str, every: int, *, vmin: float, vmax: float,
    above: str | None = None,
) -> "Figure":  # fmt: skip
    """An image with its colour bar, or points for a list; what is above the scale, in a colour of its own."""
    if values.ndim == 1:
        figure = figure_of(4.8, 2.6)
        axis = figure.add_axes((0.16, 0.19, 0.8, 0.68))
        axis.plot(
            every * np.arange(values.size),
            values if above is None else np.where(values > vmax, np.nan, values),
            color=PALETTE[0],
            lw=0,
            marker=".",
            ms=4 if values.size < 300 else 2,
        )
        if above is not None:
            high = np.flatnonzero(values > vmax)
            axis.plot(every * high, values[high], color=above, lw=0, marker="x", ms=4)
        axis.locator_params(axis="x", integer=True, nbins=7)
        axis.margins(x=0.04)
        tidy(axis, "number of the spectrum, from 0", label, title)
        return figure
    values = _thin(values)
    figure, (axis,) = grid(1, values.shape[0] / values.shape[1], title="", panel=3.3)
    image = axis.imshow(values, cmap=cmap, vmin=vmin, vmax=vmax)
    if above is not None:
        image.set_cmap(image.get_cmap().with_extremes(over=above))
    room = (1 - axis.get_position().x0) * figure.get_figwidth() - 0.05
    axis.set_title(fitted(title, room, TEXT + 0.5), loc="left", pad=4, **words(TEXT + 0.5))
    colour_bar(figure, image, label, extend="neither" if above is None else "max")
    return figure


def _rgb(colour: str) -> tuple[float, ...]:
    """Red, green and blue, 0..1, of "#rrggbb"."""
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))


def _thin(image: np.ndarray) -> np.ndarray:
    """Every n-th pixel, so that no side is longer than `LIMIT`."""
    step = max(1, -(-max(image.shape[:2]) // LIMIT))
    return image[::step, ::step]


def _place(scene: Scene, place: Sequence[Any], every: int, room: float, told: str) -> str:
    """Text with the place of a pixel in the whole scene, of which each `every`-th row and column is shown."""
    numbers = [every * int(k) for k in place]
    if len(numbers) == 2:
        return f"row {numbers[0]}, column {numbers[1]}, {told}"
    if scene.pixel_names:
        return f"{fitted(scene.pixel_names[int(place[0])], room - 0.9)}, {told}"
    return told if scene.shape == (1,) and every == 1 else f"spectrum {numbers[0]}, {told}"
