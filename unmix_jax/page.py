"""One self-contained HTML page: no script, no outside resource, fit for a phone and for the dark."""

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Picture", "Section", "Table", "as_text", "per_cent", "write_page"]

DPI = 130
DASH = "–"
NUMBER = re.compile(rf"{DASH}|-?[<> ]*[\d,.]+(e[+-]\d+)?( %)?")
CSS_PIXELS_PER_INCH = 96


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
    """One card of the page: a heading, paragraphs, pictures side by side, tables."""

    title: str
    text: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = field(default=())


def write_page(
    path: str | Path,
    sections: Sequence[Section],
    *,
    title: str,
    lead: str = "",
    command: str = "",
    tiles: Sequence[tuple[str, str]] = (),
) -> Path:
    """Write one self-contained HTML page; every text is escaped, every picture is embedded.

    Args:
        path: file to write.
        sections: what the page holds, in order.
        title: heading of the page.
        lead: one sentence under it.
        command: the command that made it.
        tiles: (label, value) pairs shown large at the top.

    Returns:
        The file that was written.
    """
    import jinja2

    from unmix_jax import __version__

    template = (Path(__file__).parent / "templates" / "report.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    cards = [
        {
            "title": section.title,
            "text": section.text,
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
        sections=cards,
        footer=f"Written by unmix_jax {__version__} on {datetime.now().astimezone():%Y-%m-%d %H:%M %Z}.",
    )
    path = Path(path)
    path.write_text(page, encoding="utf-8")
    return path


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
