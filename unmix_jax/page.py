"""One self-contained HTML page: no script, no outside resource, fit for a phone, for the dark and for paper.

What is shown comes out of files. It is escaped, and the page tells the browser to run nothing and to load nothing (a
Content Security Policy), so that a name can do no more than be read.
"""

import base64
import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Picture", "Section", "Table", "as_text", "one_line", "per_cent", "write_page"]

DPI = 130
DASH = "–"
NUMBER = re.compile(rf"{DASH}|-?[<> ]*[\d,.]+(e[+-]\d+)?( %)?")
CSS_PIXELS_PER_INCH = 96
# Controls other than tab and line end, halves of surrogate pairs (of bytes that are no UTF-8), and marks that turn the
# direction of what follows: HTML cannot hold the first two, and the third would let a name rewrite its neighbours.
UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Picture:
    """A figure and what it shows."""

    figure: "Figure"
    caption: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of text and numbers; a column of numbers is set flush right.

    Attributes:
        columns: headings, or none.
        rows: one value per column; floats are written with four significant digits, None as a dash, and what
            is text already (such as ``12.5 %``) as it is.
        caption: what the table shows.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""

    @property
    def cells(self) -> list[list[str]]:
        """The rows as text."""
        return [[as_text(value) for value in row] for row in self.rows]

    @property
    def numeric(self) -> list[bool]:
        """Whether each column holds numbers only."""
        columns = zip(*self.cells, strict=True)
        return [all(map(NUMBER.fullmatch, column)) and set(column) != {DASH} for column in columns]


@dataclass(frozen=True)
class Section:
    """One card of the page: a heading, paragraphs, points, pictures side by side, tables; marked where it warns."""

    title: str
    text: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = field(default=())
    points: Sequence[str] = ()
    warns: bool = False


def write_page(
    path: str | Path,
    sections: Sequence[Section],
    *,
    title: str,
    lead: str = "",
    command: str = "",
    tiles: Sequence[tuple[str, str]] = (),
    remark: str = "",
) -> Path:
    """Write one self-contained HTML page; every text is escaped, every picture is embedded.

    Args:
        path: file to write.
        sections: what the page holds, in order.
        title: heading of the page.
        lead: one sentence under it.
        command: the command that made it.
        tiles: (label, value) pairs shown large at the top.
        remark: what the tiles do not say.

    Returns:
        The file that was written.
    """
    import jinja2

    from unmix_jax import __version__

    template = (Path(__file__).parent / "templates" / "report.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_shown)
    environment.filters["breakable"] = _breakable
    cards = [
        {
            "title": section.title,
            "text": section.text,
            "points": section.points,
            "warns": section.warns,
            "pictures": [_embed(picture) for picture in section.pictures],
            "tables": section.tables,
        }
        for section in sections
    ]
    page = environment.from_string(template).render(
        title=title,
        lead=lead,
        command=command,
        tiles=tiles,
        remark=remark,
        sections=cards,
        footer=f"Written by unmix_jax {__version__} on {datetime.now().astimezone():%Y-%m-%d %H:%M %Z}.",
    )
    path = Path(path)
    part = path.with_name(f"{path.name}.part")
    part.write_text(page, encoding="utf-8")
    os.replace(part, path)
    return path


def one_line(text: str, most: int | None = None) -> str:
    """A name without line ends and what cannot be shown, of so many letters at most; its middle is left out then."""
    whole = " ".join(UNSHOWN.sub("\N{REPLACEMENT CHARACTER}", text).split()) or "(no name)"
    if most is None or len(whole) <= most:
        return whole
    tail = most // 3
    return f"{whole[: most - tail - 1]}…{whole[len(whole) - tail :]}"


def _shown(value: Any) -> Any:
    """A value as the page can hold it; what cannot be shown becomes a mark that says so."""
    from markupsafe import Markup

    return (
        UNSHOWN.sub("\N{REPLACEMENT CHARACTER}", value)
        if type(value) is not Markup and isinstance(value, str)
        else value
    )


def _breakable(text: str) -> Any:
    """A heading that may go on in another line after an underscore, escaped."""
    from markupsafe import Markup, escape

    return Markup("_<wbr>").join(escape(_shown(part)) for part in text.split("_"))


def _embed(picture: Picture) -> dict[str, Any]:
    """A picture as base64 PNG with its size in CSS pixels."""
    stream = io.BytesIO()
    picture.figure.savefig(stream, format="png", dpi=DPI)
    width, height = picture.figure.get_size_inches() * CSS_PIXELS_PER_INCH
    png = base64.b64encode(stream.getvalue()).decode("ascii")
    return {"png": png, "width": round(width), "height": round(height), "caption": picture.caption}


def per_cent(share: float | None) -> str | None:
    """A share in per cent that shows neither all nor nothing where that is not so."""
    if share is None or share in (0, 1):
        return share if share is None else f"{100 * share:.0f} %"
    return "< 0.1 %" if share < 5e-4 else "> 99.9 %" if share > 0.9995 else f"{100 * share:.1f} %"


def as_text(value: Any) -> str:
    """A cell: four significant digits, thousands separated, a dash for nothing."""
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)
