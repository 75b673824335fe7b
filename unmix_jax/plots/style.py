"""What all figures share: colours, empty figures and panels, names that fit, keys, lines that break at missing data.

Names come out of files. They are drawn as they are (no mathematics in them), on one line, without control characters,
and, where they are too long, shortened so that any two that are shown stay distinct.
"""

import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from unmix_jax.scenes.scene import SpectralAxis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Key", "apart", "broken", "colour_bar", "cut", "distinct", "figure_of", "fitted", "grid", "heading", "lines",
    "plain", "swatches", "tidy", "width_of", "words",
]  # fmt: skip

# The first seven are of Okabe and Ito (Color Universal Design, 2008), without their yellow, which is too pale for a
# line on white. The eighth is the one that lies farthest from these for readers with normal vision, protanopia and
# deuteranopia (simulated as Machado, Oliveira and Fernandes 2009, IEEE Trans. Vis. Comput. Graph. 15, 1291; distance in
# CIELAB; the two nearest of the eight are 18 apart, where 2 can just be seen).
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#3B3B3B", "#871E00")
# Lengths of dash, gap, dash ... in line widths. With eight colours they make 64 lines that differ.
DASHES: tuple[Any, ...] = (
    "-", (0, (5, 2)), (0, (1.2, 1.4)), (0, (6, 1.6, 1.2, 1.6)), (0, (10, 3)), (0, (6, 1.5, 1.2, 1.5, 1.2, 1.5)),
    (0, (2.6, 1.6)), (0, (9, 2, 3, 2)),
)  # fmt: skip
# What is filled has no dashes: colours chosen one after the other, each as far as can be from all before, from white
# and from `REST`, by the distance above. The last is still 13 from its nearest neighbour.
FILLS = (
    *PALETTE, "#0000ff", "#00004b", "#b4f096", "#6969ff", "#2d00a5", "#00001e", "#2d3c69", "#5ab45a", "#0f0f00",
    "#ffe100", "#003c96", "#6996ff", "#f0e169", "#87e1ff", "#5a5a3c", "#78d296", "#2d3ce1", "#5a6969", "#b45a2d",
    "#0f0078", "#5a0f00", "#3c69d2", "#785a87", "#0f0f3c", "#4b3cc3", "#3c1e3c", "#3cb4c3", "#e1e1c3", "#4bd22d",
    "#0f964b", "#96d269", "#2d1e69",
)  # fmt: skip
REST = "#c8c8c8"  # what has no name in the key
INK, TEXT = "#222222", 8.5
NAMELESS = "(no name)"
UNDRAWABLE = "□"  # for a character that no font has
# Fonts with other scripts that come with common systems; matplotlib's own font has Latin, Greek, Cyrillic, Arabic.
FALLBACKS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "Microsoft YaHei", "PingFang SC",
    "Hiragino Sans", "Yu Gothic", "Malgun Gothic", "WenQuanYi Zen Hei", "Arial Unicode MS", "Noto Sans Devanagari",
    "Nirmala UI", "Noto Sans Hebrew", "Noto Sans Thai",
)  # fmt: skip
WHOLE_PIXELS = 1.05  # at 110 dots per inch a letter of 8.5 points is six pixels wide, to which advances are rounded
LONGEST = 400  # characters of a name that are looked at, from either end: no figure has room for more
HANDLE, ROW = 0.46, 0.165  # inches: sample of a line with its gap, and one row of a key
WIDEST = 2.15  # inches of a name in a key, some 35 letters: three columns fit below a panel


def figure_of(width: float, height: float) -> "Figure":
    """An empty white figure, sizes in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, facecolor="white")


def words(size: float = TEXT, **more: Any) -> dict[str, Any]:
    """How text is drawn: its size and colour, fonts that have its letters, and never as mathematics."""
    kept = {"fontsize": size, "color": INK, "parse_math": False, "usetex": False, "fontfamily": list(_families())}
    return kept | more


def grid(
    count: int, aspect: float, *, title: str, bar: bool = True, panel: float = 0.0
) -> tuple["Figure", list["Axes"]]:
    """A figure of ``count`` frameless panels of height/width ``aspect``, with room for a colour bar."""
    columns = min(count, 3 if count in (3, 5, 6, 9) or aspect < 0.7 else 4)
    rows = -(-count // columns)
    width = panel or {1: 3.3, 2: 3.0, 3: 2.35}.get(columns, 1.85)
    shown = min(max(aspect, 0.25), 2.5)
    width = min(width, 3.6 / shown)  # so that the figure of a tall scene fits on a screen
    height, head, right = width * shown, 0.3, 0.95 if bar else 0.1
    top = 0.3 if title else 0.0
    total_w = max(0.1 + columns * (width + 0.12) + right, 2.6)  # a title fits over one narrow panel
    total_h = max(top + rows * (height + head) + 0.1, 1.9 if bar else 0.0)  # the label of a colour bar needs its length
    figure = figure_of(total_w, total_h)
    axes = []
    for i in range(count):
        x, y = 0.1 + (i % columns) * (width + 0.12), total_h - top - (i // columns + 1) * (height + head)
        axis = figure.add_axes((x / total_w, y / total_h, width / total_w, height / total_h))
        axis.set_axis_off()
        axes.append(axis)
    if title:
        heading(figure, title)
    return figure, axes


def heading(figure: "Figure", title: str) -> None:
    """A title at the upper left corner of a figure."""
    width, height = figure.get_size_inches()
    figure.text(0.1 / width, 1 - 0.08 / height, fitted(title, width - 0.2, TEXT + 2), va="top", **words(TEXT + 2))


def colour_bar(figure: "Figure", image: Any, label: str, *, extend: str = "neither") -> None:
    """A slim colour bar at the right edge, from the top down, no more than 2.6 inches long."""
    width, height = figure.get_size_inches()
    long = min(height - 0.6, 2.6)
    axis = figure.add_axes(((width - 0.9) / width, 1 - (0.35 + long) / height, 0.13 / width, long / height))
    bar = figure.colorbar(image, cax=axis, extend=extend)
    bar.outline.set_visible(False)
    bar.set_label(fitted(label, long + 0.5), **words())
    axis.tick_params(labelsize=TEXT - 1, length=2, color=INK, labelcolor=INK)


def tidy(axis: "Axes", xlabel: str, ylabel: str, title: str) -> None:
    """Labels, a light grid, and no box."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color="#ececec", lw=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=TEXT - 1, length=2.5, color=INK, labelcolor=INK)
    figure: Any = axis.figure
    width, height = figure.get_size_inches()
    place = axis.get_position()
    axis.set_xlabel(fitted(xlabel, place.width * width), **words())
    axis.set_ylabel(fitted(ylabel, place.height * height), **words())
    room = (1 - place.x0) * width - 0.05
    axis.set_title(
        "\n".join(fitted(line, room, TEXT + 0.5) for line in lines(title)), loc="left", pad=5, **words(TEXT + 0.5)
    )


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


def plain(text: str) -> str:
    """A text on one line that can be drawn: no control characters, no marks of direction, letters that a font has."""
    if len(text) > 2 * LONGEST:
        text = f"{text[:LONGEST]}…{text[-LONGEST:]}"
    kept = []
    for letter in unicodedata.normalize("NFC", text):
        kind = unicodedata.category(letter)
        if kind in ("Cc", "Zl", "Zp", "Zs"):
            kept.append(" ")
        elif kind != "Cf" and (kind not in ("Mn", "Me") or _drawn(letter)):  # Cf: direction and joining
            kept.append(letter if _drawn(letter) else UNDRAWABLE)
    return " ".join("".join(kept).split())


def lines(text: str) -> list[str]:
    """The lines of a heading, each drawable."""
    return [plain(line) for line in text.split("\n")]


def width_of(text: str, size: float = TEXT) -> float:
    """Width of a drawable text in inches, rather too large than too small: letters are drawn at whole pixels."""
    return WHOLE_PIXELS * size * sum(_advance(letter, _families()) for letter in text)


def fitted(text: str, room: float, size: float = TEXT) -> str:
    """A drawable text that is at most ``room`` inches wide: its middle is left out where it is longer."""
    return _elided(plain(text), room, size, "")


def distinct(
    names: Sequence[str], room: float, size: float = TEXT, *, numbers: Sequence[int] | None = None
) -> list[str]:
    """Drawable names that are at most ``room`` inches wide, and all different.

    The middle of a long name is left out. Names that look alike then, or are the same to begin with, get their number,
    such as ``basalt…flow #7``: that in the list, counted from 1, unless others are given.
    """
    whole = [plain(str(name)) or NAMELESS for name in names]
    return apart(whole, lambda name, ending: _elided(name, room, size, ending), numbers)


def apart(names: Sequence[str], shorten: Callable[[str, str], str], numbers: Sequence[int] | None = None) -> list[str]:
    """Names as `shorten` makes them of a name and its ending; those that would be alike get an ending with a number."""
    own = range(1, len(names) + 1) if numbers is None else numbers
    shown = [shorten(name, "") for name in names]
    numbered: set[int] = set()
    while True:
        places: dict[str, list[int]] = {}
        for i, name in enumerate(shown):
            places.setdefault(name, []).append(i)
        alike = {i for found in places.values() if len(found) > 1 for i in found} - numbered
        if not alike:  # two numbers differ, and so do the names that end in them
            return shown
        numbered |= alike
        for i in alike:
            shown[i] = shorten(names[i], f" #{own[i]}")


class Key(NamedTuple):
    """How large a key of colours and names is: equal columns, filled from the top down.

    Attributes:
        columns: number of columns.
        rows: number of rows.
        column: width of a column, inches.
    """

    columns: int
    rows: int
    column: float

    @classmethod
    def of(cls, names: Sequence[str], room: float | None = None) -> "Key":
        """Of names: one column, or as many as fit side by side into ``room`` inches."""
        widest = max((width_of(plain(str(name)) or NAMELESS) for name in names), default=0.0)
        column = HANDLE + min(max(widest, 0.6) * 1.02 + 0.06, WIDEST) + 0.12
        columns = 1 if room is None else max(1, min(len(names), int(room / column), 5))
        return cls(columns, -(-len(names) // columns), column)

    @property
    def height(self) -> float:
        """Inches."""
        return self.rows * ROW

    @property
    def width(self) -> float:
        """Inches."""
        return self.columns * self.column

    def draw(
        self, figure: "Figure", left: float, top: float, names: Sequence[str], styles: Sequence[dict[str, Any]],
        *, numbers: Sequence[int] | None = None, rest: str = "",
    ) -> None:  # fmt: skip
        """Draw it, its upper left corner so many inches from that of the figure.

        Args:
            figure: of its final size.
            left: inches.
            top: inches.
            names: one per entry; they are shortened and kept distinct here.
            styles: how the line of each entry is drawn, as matplotlib's ``Line2D`` takes it; ``marker`` for a patch.
            numbers: of the entries, as `distinct` takes them.
            rest: one more line under the key, about what it does not name.
        """
        from matplotlib.lines import Line2D

        width, height = figure.get_size_inches()
        shown = distinct(names, self.column - HANDLE - 0.12, numbers=numbers)
        for i, (name, style) in enumerate(zip(shown, styles, strict=True)):
            column, row = divmod(i, self.rows)
            x, y = left + column * self.column, height - top - (row + 0.5) * ROW
            span = [x + HANDLE - 0.16] if "marker" in style else [x, x + HANDLE - 0.08]
            figure.add_artist(Line2D(span, [y] * len(span), transform=figure.dpi_scale_trans, **style))
            figure.text((x + HANDLE) / width, y / height, name, va="center_baseline", **words())
        if rest:
            y = height - top - (self.rows + 0.5) * ROW
            figure.text(left / width, y / height, rest, va="center_baseline", style="italic", **words(TEXT - 0.5))


def swatches(colours: Sequence[str]) -> list[dict[str, Any]]:
    """Filled squares, as styles of a key."""
    return [{"marker": "s", "ms": 7, "lw": 0, "color": colour, "mec": "#00000030", "mew": 0.5} for colour in colours]


def _elided(text: str, room: float, size: float, ending: str) -> str:
    """A text and its ending in ``room`` inches, the middle of the text left out where it must be."""
    if width_of(text + ending, size) <= room:
        return text + ending
    low, high = 0, len(text)
    while low < high:  # the most letters that fit
        kept = (low + high + 1) // 2
        if width_of(cut(text, kept) + ending, size) <= room:
            low = kept
        else:
            high = kept - 1
    return cut(text, low) + ending


def cut(text: str, kept: int) -> str:
    """So many letters of a text, two thirds of them from its beginning."""
    tail = kept // 3
    return f"{text[: kept - tail].rstrip()}…{text[len(text) - tail :].lstrip() if tail else ''}"


@lru_cache(maxsize=8192)
def _advance(letter: str, families: tuple[str, ...]) -> float:
    """Width of a letter in inches, of a text of one point."""
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.font_manager import FontProperties

    renderer, font, many = RendererAgg(1, 1, 72.0), FontProperties(family=list(families), size=100), 10
    ends = (renderer.get_text_width_height_descent(f"x{letter * n}x", font, False)[0] for n in (1 + many, 1))
    return (next(ends) - next(ends)) / many / 100 / 72


@lru_cache(maxsize=8192)
def _drawn(letter: str) -> bool:
    """Whether one of the fonts has a letter."""
    if "\ud800" <= letter <= "\udfff":  # half of a pair: what a name holds whose bytes are no UTF-8
        return False
    return any(font.get_char_index(ord(letter)) for font in _fonts(_families()))


@lru_cache(maxsize=8)
def _fonts(families: tuple[str, ...]) -> list[Any]:
    """The font of each family."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return [get_font(findfont(FontProperties(family=[family]))) for family in families]


def _families() -> tuple[str, ...]:
    """The user's font, and those with other scripts that are installed."""
    from matplotlib import rcParams

    return _with_fallbacks(tuple(rcParams["font.family"]))


@lru_cache(maxsize=8)
def _with_fallbacks(families: tuple[str, ...]) -> tuple[str, ...]:
    """Font families, and those of `FALLBACKS` that are installed."""
    from matplotlib.font_manager import fontManager

    installed = set(fontManager.get_font_names())
    return (*families, *(name for name in FALLBACKS if name in installed))
