"""Spectral libraries in the tables that this package writes: read by what the file says of itself, nothing is guessed.

The layout is that of `unmix_jax.scenes.library_files`. A spreadsheet may have saved the table again with semicolons or
tabs, decimal commas and without quotation marks.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from unmix_jax.scenes.library_files import AXIS_COLUMNS, FWHM, GOOD, MARK, OTHER_MARKS, TYPES, from_cell, unescaped
from unmix_jax.scenes.readers.tables.cells import MOST_CELLS, MOST_COLUMNS, lines_of, shown
from unmix_jax.scenes.reading import Entries, Reading
from unmix_jax.scenes.scene import Header, SpectralLibrary
from unmix_jax.scenes.units import spectral_axis

__all__ = ["is_own", "read_own_table"]

ENTRIES = ("bands", "spectra", "values", "quantity", "columns", "classes")


def is_own(path: Path) -> bool:
    """Whether the first line of a table says that this package wrote it.

    Raises:
        ValueError: it was written by a later version, in another layout.
    """
    first = next(lines_of(path), "").strip('\ufeff"\r\n\t,; ')
    if first != MARK and first.startswith(OTHER_MARKS):
        raise ValueError(f"the table is of another version, {shown(first)}: a newer unmix_jax can read it")
    return first == MARK


def read_own_table(path: Path, told: Reading) -> SpectralLibrary:
    """Read a library that `unmix_jax.scenes.library_files.write_library` wrote as ``.csv``.

    Args:
        path: the table.
        told: what the user says.

    Raises:
        ValueError: the table does not hold what it says; the line is named.
    """
    lines = enumerate(lines_of(path), 1)
    stated, number, titles = _entries(lines)
    entries = Entries(stated)
    leading = str(entries.use("columns", "")).split()
    unit = AXIS_COLUMNS.get(leading[0]) if leading else None
    if not leading or leading[0] not in AXIS_COLUMNS or leading[1:] not in ([], [FWHM], [GOOD], [FWHM, GOOD]):
        raise ValueError(f"the line '# columns: …' must name {', '.join(AXIS_COLUMNS)}, then {FWHM} and {GOOD}")
    start = titles.lstrip('"')[len(leading[0]) :].lstrip('"')[:1]
    if not titles.lstrip('"').startswith(leading[0]) or start not in (",", ";", "\t"):
        raise ValueError(f"line {number}: the titles must begin with {leading[0]!r}, got {shown(titles.strip())}")
    bands, spectra = (_whole(entries, name) for name in ("bands", "spectra"))
    dtype = entries.use("values", "float64")
    if dtype not in TYPES:
        raise ValueError(f"the line '# values: …' must be one of {', '.join(TYPES)}, got {shown(dtype)}")
    if told.keys.get("class", "class").strip().lower() not in ("class", "classes"):
        raise ValueError(f"no row {shown(told.keys['class'])} for the class; the table has its classes in one row")
    width = len(leading) + spectra
    if width > MOST_COLUMNS or bands * width > MOST_CELLS:
        raise ValueError(f"a text table of {bands} × {width} cells is not read")
    names = _texts(titles, start, len(leading), width, number)
    classes: tuple[str, ...] = ()
    if "classes" in entries:
        line, text = entries.use("classes")
        classes = _texts(text, start, len(leading), width, line)
    rows: list[list[float]] = []
    for number, line in lines:
        if not line.strip(",;\t\r\n "):
            continue
        if len(rows) == bands:
            raise ValueError(f"line {number}: the table says that it holds {bands} bands, here is one more")
        rows.append(_numbers(line, start, width, number))
    if len(rows) < bands:
        raise ValueError(f"the table says that it holds {bands} bands, it has {len(rows)}: it is cut off")
    table = np.array(rows, float).reshape(bands, width)
    place = {name: column for column, name in enumerate(leading)}
    axis = None
    if unit is not None:
        fwhm = table[:, place[FWHM]] if FWHM in place else None
        axis = spectral_axis(table[:, 0], fwhm=fwhm, unit=told.unit_of(unit, str(path)), where=str(path))
    return SpectralLibrary(
        np.ascontiguousarray(table[:, len(leading) :].T).astype(dtype),
        axis,
        names,
        classes,
        good_bands=table[:, place[GOOD]] == 1 if GOOD in place else None,
        quantity=unescaped(entries.use("quantity", "value")),
        account=entries.account(),
        header=Header(layout="one spectrum per column"),
    )


def _entries(lines: Iterator[tuple[int, str]]) -> tuple[dict[str, object], int, str]:
    """What the comments above the titles say, and the line of titles."""
    stated: dict[str, object] = {}
    for number, line in lines:
        text = line.strip("\r\n")
        bare = text.strip('"\t,; ')
        if number == 1 or not bare:
            continue
        if not bare.startswith("#"):
            return stated, number, text
        name, colon, value = bare.removeprefix("#").partition(":")
        if colon and name.strip() in ENTRIES and name.strip() != "classes":
            stated[name.strip()] = value.strip()
        elif bare.removeprefix("#").strip().startswith("classes"):
            stated["classes"] = number, text
        else:
            stated[bare.removeprefix("#").strip()] = ""
    raise ValueError("the table is cut off: it has no line of titles")


def _whole(entries: Entries, name: str) -> int:
    """A whole number above zero that the comments state."""
    text = str(entries.use(name, ""))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise ValueError(f"the line '# {name}: …' must be a whole number, got {shown(text)}")
    return int(text)


def _cells(line: str, separator: str, width: int, number: int) -> list[str]:
    """The cells of a line."""
    try:
        cells = next(csv.reader([line.rstrip("\r\n")], delimiter=separator))
    except csv.Error as error:
        raise ValueError(f"line {number}: {error}") from None
    if len(cells) < width or any(cells[width:]):
        raise ValueError(f"line {number} has {len(cells)} cells, the table says that it has {width} columns")
    return cells[:width]


def _texts(line: str, separator: str, first: int, width: int, number: int) -> tuple[str, ...]:
    """Names or classes out of a line."""
    try:
        return tuple(from_cell(cell) for cell in _cells(line, separator, width, number)[first:])
    except ValueError as error:
        raise ValueError(f"line {number}: {error}" if not str(error).startswith("line") else str(error)) from None


def _numbers(line: str, separator: str, width: int, number: int) -> list[float]:
    """The numbers of a line; an empty cell is NaN."""
    cells = _cells(line, separator, width, number)
    numbers = [0.0] * width
    for column, cell in enumerate(cells):
        try:
            numbers[column] = float(cell if separator == "," else cell.replace(",", ".")) if cell else np.nan
        except ValueError:
            raise ValueError(f"line {number}, column {column + 1}: {shown(cell)} is not a number") from None
    return numbers
