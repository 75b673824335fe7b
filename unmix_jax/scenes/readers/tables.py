"""Spectral libraries in text tables: one spectrum per row or one per column, found out and reported."""

import csv
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unmix_jax.scenes.lazy import NODATA
from unmix_jax.scenes.reading import Reading
from unmix_jax.scenes.scene import Header, SpectralLibrary
from unmix_jax.scenes.units import spectral_axis

__all__ = ["read_table"]

NAME_COLUMNS = ("name", "names", "spectrum", "sample", "material", "mineral", "endmember", "title", "id")
CLASS_COLUMNS = ("class", "classes", "group", "category", "material_class", "type", "level_1")
DELETED = -1e30  # USGS marks deleted channels with -1.23e34
BAND = re.compile(r"^[xX]?(\d+\.?\d*(?:[eE][+-]?\d+)?)\s*(nm|um|µm|cm-1)?$")


class _Parsed(NamedTuple):
    """A table brought to one spectrum per row."""

    layout: str
    spectra: np.ndarray
    centers: np.ndarray | None
    names: list[str]
    classes: list[str]
    unit: str | None


def read_table(path: Path, told: Reading) -> SpectralLibrary:
    """Read a library from a text table with commas, semicolons, tabs or spaces.

    One spectrum per row: wavelengths stand in the first row, names (column ``name`` or the first text column)
    and classes (column ``class``) before the values. One spectrum per column: wavelengths stand in the first
    column, names in the first row, classes in a row that begins with ``class``. A spectrum named ``fwhm`` is
    taken as the band widths. ``header["layout"]`` reports which layout was found. Empty cells, NaN, -9999
    and the USGS mark of deleted channels become NaN. Lines that begin with # are skipped.

    Args:
        path: a text file.
        told: what the user says.

    Raises:
        ValueError: no numbers, lines of different length, or a layout that cannot be told.
    """
    rows = _cells(path)
    numbers = np.array([[_number(c) for c in row] for row in rows])
    text = np.array(
        [[bool(c) and np.isnan(_number(c)) and c.lower() not in ("nan", "na") for c in row] for row in rows]
    )
    parsed = _per_row(rows, numbers, text) or _per_column(rows, numbers, text) or _bare(numbers, text)
    if parsed is None or 0 in parsed.spectra.shape:
        raise ValueError(
            f"{path}: cannot tell spectra in rows from spectra in columns: put the wavelengths in the first "
            "row or the first column"
        )
    spectra, names, classes, fwhm = parsed.spectra, parsed.names, parsed.classes, None
    widths = [i for i, name in enumerate(names) if name.lower().startswith("fwhm")]
    if widths:
        fwhm = spectra[widths[0]]
        keep = [i for i in range(len(spectra)) if i not in widths]
        spectra, names = spectra[keep], [names[i] for i in keep]
        classes = [classes[i] for i in keep] if classes else []
    gaps = (spectra == NODATA) | (spectra < DELETED)
    axis = None
    if parsed.centers is not None:
        axis = spectral_axis(parsed.centers, fwhm=fwhm, unit=told.unit or parsed.unit, where=str(path))
    return SpectralLibrary(
        np.where(gaps, np.nan, spectra),
        axis,
        tuple(names) or tuple(f"spectrum {i + 1}" for i in range(len(spectra))),
        tuple(classes),
        header=Header(layout=parsed.layout),
    )


def _per_row(rows: list[list[str]], numbers: np.ndarray, text: np.ndarray) -> _Parsed | None:
    """A header row with wavelengths (or band names) behind columns of text, then one spectrum per row."""
    bands = [BAND.match(cell) for cell in rows[0]]
    is_band = np.array([m is not None for m in bands])
    centers = np.array([float(m.group(1)) for m in bands if m])
    if is_band.sum() > 1 and not is_band.all() and _axis_like(centers):
        columns, first = np.flatnonzero(is_band), 1
    elif len(rows) > 1 and text[1:, 0].all():  # names in the first column, no wavelengths
        first = int(text[0].all())
        columns = np.flatnonzero(~text[first:].any(axis=0))
        centers = np.empty(0)
    else:
        return None
    if len(columns) == 0 or text[first:, columns].any():
        return None
    others = [c for c in range(len(rows[0])) if c not in columns]
    titles = {rows[0][c].strip().lower().replace(" ", "_"): c for c in others} if first else {}
    words = [c for c in others if text[first:, c].any()]
    group = next((titles[t] for t in CLASS_COLUMNS if t in titles), None)
    name = next((titles[t] for t in NAME_COLUMNS if t in titles), None)
    name = next((c for c in words if c != group), group) if name is None else name
    unit = next((m.group(2) for m in bands if m and m.group(2)), None) or _unit_in(" ".join(titles))
    return _Parsed(
        "one spectrum per row",
        numbers[first:, columns],
        centers if len(centers) else None,
        [row[name] for row in rows[first:]] if name is not None else [],
        [row[group] for row in rows[first:]] if group is not None else [],
        unit,
    )


def _per_column(rows: list[list[str]], numbers: np.ndarray, text: np.ndarray) -> _Parsed | None:
    """Rows of text (names, perhaps classes), then wavelengths in the first column, spectra in the others."""
    first = next((i for i in range(len(rows)) if not text[i].any()), len(rows))
    body = numbers[first:]
    if first == 0 or len(body) == 0 or text[first:].any() or not _axis_like(body[:, 0]):
        return None
    classes = next((row[1:] for row in rows[1:first] if row[0].strip().lower() in CLASS_COLUMNS), [])
    title = rows[0][0]
    return _Parsed("one spectrum per column", body[:, 1:].T, body[:, 0], rows[0][1:], classes, _unit_in(title))


def _bare(numbers: np.ndarray, text: np.ndarray) -> _Parsed | None:
    """Numbers only: the axis is the first row or the first column, the longer one where both would do."""
    if text.any():
        return None
    row, column = _axis_like(numbers[0]), _axis_like(numbers[:, 0])
    if row and column:
        row = numbers.shape[1] > numbers.shape[0]
    if row:
        return _Parsed("one spectrum per row", numbers[1:], numbers[0], [], [], None)
    if column:
        return _Parsed("one spectrum per column", numbers[:, 1:].T, numbers[:, 0], [], [], None)
    return None


def _axis_like(values: np.ndarray) -> bool:
    """Positive, without repeats, and nearly always in one direction (spectrometers may overlap)."""
    if len(values) < 2 or not (values > 0).all() or len(np.unique(values)) < len(values):
        return False
    rising = np.mean(np.diff(values) > 0)
    return bool(max(rising, 1 - rising) >= 0.9)


def _unit_in(title: str) -> str | None:
    """The unit a column title names, such as ``wavelength_nm`` or ``Wavelength (µm)``."""
    title = title.lower().replace("μ", "µ")
    for unit, pattern in {"cm-1": "wavenumber|cm", "nm": "nm|nano", "um": "um|µm|micro"}.items():
        if re.search(pattern, title):
            return unit
    return None


def _number(cell: str) -> float:
    """A cell as a number, NaN where it is none."""
    try:
        return float(cell)
    except ValueError:
        return np.nan


def _cells(path: Path) -> list[list[str]]:
    """The cells of a table whose separator is found out; a decimal comma is understood beside ; and tab."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        text = path.read_text(encoding="latin-1")
    lines = [line for line in text.splitlines() if line.strip(" \t,;") and not line.lstrip().startswith("#")]
    if not lines:
        raise ValueError(f"{path}: the library is empty")
    separator = next((s for s in ("\t", ";", ",") if all(s in line for line in lines)), None)
    if separator is None:
        rows = [line.split() for line in lines]
    else:
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=separator)]
    if len(rows[0]) == len(rows[-1]) - 1:  # R leaves the corner out
        rows[0].insert(0, "")
    lengths = {len(row) for row in rows}
    if len(lengths) > 1:
        raise ValueError(f"{path}: lines have {min(lengths)} to {max(lengths)} columns")
    if separator in ("\t", ";") and not any("." in cell for row in rows[1:] for cell in row):
        rows = [[re.sub(r"^(-?\d+),(\d+)$", r"\1.\2", cell) for cell in row] for row in rows]
    return rows
