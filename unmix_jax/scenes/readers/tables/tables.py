"""Spectral libraries in text tables: one spectrum per row, one per column, or columns in pairs; found out and reported.

The titles decide where they say something; else the values do. What cannot be told is refused, and so is a cell that
should be a number and is none.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from unmix_jax.scenes.readers.spectra.common import asked
from unmix_jax.scenes.readers.tables.cells import NUMBER, TEXT, Table, grouped, read_cells, shown, spoilt
from unmix_jax.scenes.readers.tables.own import is_own, read_own_table
from unmix_jax.scenes.readers.tables.titles import (
    CLASS_TITLES,
    WIDEST,
    band_of,
    holds_flags,
    holds_widths,
    is_axis,
    is_counter,
    names_axis,
    unit_in,
    units_in,
)
from unmix_jax.scenes.reading import Reading
from unmix_jax.scenes.scene import Account, Header, SpectralAxis, SpectralLibrary
from unmix_jax.scenes.units import spectral_axis

__all__ = ["read_table"]

NAME_TITLES = ("name", "names", "spectrum", "sample", "material", "mineral", "endmember", "title", "id")
TITLES_OF_NOTHING = ("", "x", "spectrum", "spectra", "number")  # over wavelengths, these say nothing against them
HEADER_ROWS = 100  # rows above the numbers that are looked at for titles
HEADER_CELLS = 500_000  # cells of these that are looked at
AXIS_COLUMNS = 50  # columns that are looked at for the title of an axis
CLEARLY = 10  # bands that rise all the way, in this number, are an axis where nothing else is known
ONE_SPAN = 1.2  # numbers of samples, such as 101 to 112, span less than the wavelengths of a sensor do
CANNOT = (
    "cannot tell spectra in rows from spectra in columns: put the wavelengths in the first row or the first column, "
    "with a title such as wavelength_nm"
)


class _Found(NamedTuple):
    """What a layout makes of a table, one spectrum per row."""

    layout: str
    spectra: np.ndarray
    centers: np.ndarray | None = None
    names: Sequence[str] = ()
    classes: Sequence[str] = ()
    axis_title: str = ""
    unit: str | None = None  # out of the titles of bands
    fwhm: np.ndarray | None = None
    fwhm_title: str = ""
    good: np.ndarray | None = None
    used: tuple[str, ...] = ()  # titles of what is used
    metadata: Mapping[str, tuple[str, ...]] = MappingProxyType({})  # one entry per spectrum
    band_metadata: Mapping[str, tuple[str, ...]] = MappingProxyType({})  # one entry per band
    notes: tuple[str, ...] = ()


class _Bands(NamedTuple):
    """Band centres in a row of titles."""

    row: int
    columns: np.ndarray
    centers: np.ndarray
    unit: str | None
    counted: bool  # the titles say that they number bands
    corner: str  # the first title that is no band


class _Column(NamedTuple):
    """Band centres in a column, from a row on."""

    column: int
    start: int
    title: str
    counted: bool
    titled_in: int = -1  # the row with the title of an axis
    unit: str | None = None  # out of the cells


def read_table(path: Path, told: Reading) -> SpectralLibrary:
    """Read a library from a text table with commas, semicolons, tabs or white space.

    One spectrum per row: wavelengths stand in a row of titles, names (column ``name`` or the first column of text) and
    classes (column ``class``) beside the values. One spectrum per column: wavelengths stand in the first column or in
    the one with their title, names in a row above, classes in a row that begins with ``class``. In pairs: wavelengths
    and values of each spectrum side by side. ``header["layout"]`` reports which was found. A row or column with the
    title ``fwhm`` holds band widths. Other columns and rows of text stay in ``header["metadata"]``, one entry per
    spectrum, and ``header["band metadata"]``. Bands that are only numbered have no wavelengths. A table that
    `unmix_jax.scenes.library_files.write_library` wrote is known by its first line and gives back what was written.

    Args:
        path: a text file.
        told: what the user says; the key ``class`` names the column, or the row, of the classes.

    Raises:
        ValueError: no numbers, no column or row of the classes where the user names one, rows of different length, a
            cell that is no number where one should be, an axis without a place or with two units, or a layout that
            cannot be told.
    """
    asked(told, ("class",), path)
    if is_own(path):
        return read_own_table(path, told)
    table = read_cells(path)
    found = _layout(table, told)
    if 0 in found.spectra.shape:
        raise ValueError(CANNOT)
    spectra, names = found.spectra, list(found.names)
    notes = list(found.notes)
    if table.doubtful and not names:
        said = (
            f"the line above the numbers, {shown(table.doubtful)}, has more or fewer cells than they have columns; put "
            "names that hold blanks between quotation marks"
        )
        if is_axis(table.doubtful.split(maxsplit=1)[0].strip(",;")):
            raise ValueError(said)
        notes.append(f"{said}; the spectra are numbered")
    names = [name or f"spectrum {i + 1}" for i, name in enumerate(names or [""] * len(spectra))]
    empty = np.flatnonzero(np.isnan(spectra).all(axis=1))
    if empty.size:
        notes.append(f"no value in {', '.join(shown(names[i]) for i in empty[:5])}{', …' * (empty.size > 5)}")
    axis = _axis(found, told, path)
    if axis is not None:
        notes += _repeated(np.asarray(found.centers))
    lines = {"comments": tuple(table.comments), "text above": tuple(table.above)}
    kept = {"metadata": found.metadata, "band metadata": found.band_metadata, **lines}
    return SpectralLibrary(
        spectra,
        axis,
        tuple(names),
        tuple(found.classes),
        good_bands=found.good,
        notes=tuple(notes),
        account=Account(
            found.used, (*found.metadata, *found.band_metadata, *(name for name, held in lines.items() if held))
        ),
        header=Header(layout=found.layout, **{name: held for name, held in kept.items() if held}),
    )


def _axis(found: _Found, told: Reading, path: Path) -> SpectralAxis | None:
    """The axis of a layout."""
    if found.centers is None:
        return None
    stated = found.unit
    if stated is None and not (told.unit and len(units_in(found.axis_title)) != 1):
        stated = unit_in(found.axis_title)
    unit = told.unit_of(stated, str(path))
    fwhm, of_widths = found.fwhm, units_in(found.fwhm_title)
    if fwhm is not None and of_widths and unit not in (None, *of_widths):
        factor = {("nm", "um"): 1e-3, ("um", "nm"): 1e3}.get((min(of_widths), str(unit)))
        if factor is None:
            raise ValueError(
                f"band widths in {', '.join(of_widths)} do not fit an axis in {unit}: give both in one unit"
            )
        fwhm = fwhm * factor
    return spectral_axis(found.centers, fwhm=fwhm, unit=unit, where=str(path))


def _repeated(centers: np.ndarray) -> list[str]:
    """A note on wavelengths that stand twice."""
    values, counts = np.unique(centers, return_counts=True)
    twice = values[counts > 1]
    if twice.size == 0:
        return []
    which = ", ".join(f"{value:g}" for value in twice[:5]) + ", …" * (twice.size > 5)
    return [f"the table holds {which} more than once among its wavelengths; all of these bands are kept, in its order"]


def _layout(table: Table, told: Reading) -> _Found:
    """The layout of a table.

    Raises:
        ValueError: none can be told.
    """
    pairs = _pairs(table)
    if pairs is not None:
        _group((), (), told)
        return pairs
    row = _row_of_bands(table, told)
    column, hole = _column_of_bands(table, told)
    if row is not None and column is not None:
        if _rather_a_row(table, row, column):
            column = None
        else:
            row = None
    if row is not None:
        return _per_row(table, row, told)
    if column is not None:
        return _per_column(table, column, told)
    named = None if hole else _named(table, told)
    if named is None:
        raise hole or ValueError(CANNOT)
    return named


# ---- where the wavelengths are


def _row_of_bands(table: Table, told: Reading) -> _Bands | None:
    """The first row whose cells are band centres; None where there is none."""
    for number in range(min(table.shape[0], HEADER_ROWS, 1 + HEADER_CELLS // table.shape[1])):
        row = table.row(number)
        bands = _bands_in(table, number, row)
        if bands is None:
            if (table.kinds[number] == NUMBER).sum() > table.shape[1] / 2:
                return None  # numbers begin here, and they are no axis
            continue
        body = table.numbers[number + 1 :, bands.columns]
        held = set(bands.columns.tolist())
        beside = [column for column in range(len(row)) if column not in held]
        if (table.kinds[number, beside] == NUMBER).any():
            continue
        named_above = bool((table.kinds[:number, bands.columns] == TEXT).any())
        if named_above and not (beside and _is_title(bands.corner)):
            continue  # a row of numbers below a row of names
        others = [row[column] for column in beside]
        decorated = bands.unit is not None or (table.kinds[number, bands.columns] == TEXT).any()
        if (
            decorated or bands.counted or told.unit is not None or all(map(_is_title, others))
            or (_counts(bands.centers) and len(held) > 2) or _stands_out(bands.centers, body)
        ):  # fmt: skip
            return bands
        return None
    return None


def _bands_in(table: Table, number: int, row: list[str]) -> _Bands | None:
    """The band centres among the cells of a row: those that are written in the most common way."""
    kinds, plain = table.kinds[number], np.flatnonzero(table.kinds[number] == NUMBER)
    ways: dict[tuple[str, str | None], list[int]] = {("", None): plain.tolist()}
    read: dict[int, float] = dict(zip(plain.tolist(), table.numbers[number, plain].tolist(), strict=True))
    for column in np.flatnonzero(kinds == TEXT).tolist():
        band = band_of(row[column], table.decimal_comma)
        if band is not None:
            ways.setdefault((band.prefix, band.unit), []).append(column)
            read[column] = band.center
    way, columns = max(ways.items(), key=lambda item: len(item[1]))
    centers = np.array([read[column] for column in columns])
    said = way[1] is not None and len(centers) > 0 and (centers > 0).all()
    if not (_axis_like(centers) or said or _counts(centers)):
        return None
    held = set(columns)
    corner = next((cell for column, cell in enumerate(row) if column not in held), "")
    return _Bands(number, np.array(columns), centers, way[1], way[0] == "band", corner)


def _column_of_bands(table: Table, told: Reading) -> tuple[_Column | None, ValueError | None]:
    """The column of band centres, and what speaks against the one that would be it."""
    is_number = table.kinds == NUMBER
    begins = np.where(is_number.any(axis=0), is_number.argmax(axis=0), table.shape[0])
    titled = (begins > 0) & (begins < table.shape[0])
    last = min(int(begins[titled].max(initial=0)), HEADER_ROWS, 1 + HEADER_CELLS // table.shape[1])
    # A title of the whole table may have such a word, so the row nearest to the numbers counts; a unit alone may stand
    # over other columns too.
    for known in (names_axis, is_axis):
        for number in reversed(range(last)):
            row = table.row(number)
            for column in np.flatnonzero((table.kinds[number] == TEXT) & titled & (begins > number))[:AXIS_COLUMNS]:
                if known(row[column]):
                    start = int(begins[column])
                    _check_column(table, start, int(column), row[column])
                    return _Column(int(column), start, row[column], False, number), None
    start, count = int(begins[0]), int(is_number[:, 0].sum())
    if count == 0:
        return _decorated_column(table), None
    title = table.row(0)[0] if start else ""
    values = table.numbers[start:, 0]
    if not is_number[start:, 0].all():
        wrong = int(np.argmin(is_number[start:, 0])) + start
        serious = count > 2 and count > 0.5 * (table.shape[0] - start)
        return None, table.refused(wrong, 0, title, "a wavelength") if serious else None
    counted = _counts(values) or (is_counter(title) and _whole_and_rising(values))
    if counted or (
        _axis_like(values)
        and (
            told.unit is not None
            or title.lower() in TITLES_OF_NOTHING
            or units_in(title)
            or _stands_out(values, table.numbers[start:, 1:].T)
        )
    ):
        return _Column(0, start, title, counted), None
    return None, None


def _decorated_column(table: Table) -> _Column | None:
    """Band centres with their unit in each cell of the first column, such as ``400 nm``; they become numbers."""
    for start in range(min(table.shape[0], 2)):
        one = band_of(table.row(start)[0], table.decimal_comma)
        if one is None or one.unit is None:
            continue
        read = [band_of(cell, table.decimal_comma) for cell in table.columns([0], start)[0]]
        if all(band is not None and band.unit for band in read):
            units = {band.unit for band in read if band is not None}
            if len(units) == 1:
                table.numbers[start:, 0] = [band.center for band in read if band is not None]
                table.kinds[start:, 0] = NUMBER
                return _Column(0, start, table.row(0)[0] if start else "", False, unit=units.pop())
    return None


def _check_column(table: Table, start: int, column: int, title: str, end: int | None = None) -> None:
    """Refuse wavelengths that are missing, no numbers, not positive or written with thousands separators."""
    values, is_number = table.numbers[start:end, column], table.kinds[start:end, column] == NUMBER
    wrong = np.flatnonzero(~(is_number & (values > 0) & np.isfinite(values)))
    if wrong.size:
        raise table.refused(int(wrong[0]) + start, column, title, "a wavelength")
    if values.max() >= 100:
        for row in np.flatnonzero(values < 10):
            if grouped(table.row(int(row) + start)[column]):
                raise table.refused(int(row) + start, column, title, "a wavelength among the others")


def _rather_a_row(table: Table, row: _Bands, column: _Column) -> bool:
    """Whether a table with band centres in a row and in a column has them in the row.

    Raises:
        ValueError: nothing tells.
    """
    titled = column.titled_in >= 0
    in_row = column.column in row.columns.tolist()
    if titled and column.titled_in < row.row and in_row and _plain(row.corner) in (*NAME_TITLES, *CLASS_TITLES):
        return True  # the word is one of a line of text above the titles
    if titled and column.titled_in != row.row:
        return False
    values = table.numbers[column.start :, column.column]
    row_counts = (_counts(row.centers) or row.counted) and row.unit is None
    column_counts = column.counted or (_counts(values) and units_in(column.title) != {"um"})
    if row_counts != column_counts:
        return column_counts
    if row.unit is not None or _plain(row.corner) in (*NAME_TITLES, *CLASS_TITLES):
        return True
    held = set(row.columns.tolist())
    beside = [c for c in range(table.shape[1]) if c not in held]
    if (table.kinds[row.row + 1 :, beside] == TEXT).any():
        return True
    spans = [float(v.max() / v.min()) for v in (row.centers, values)]
    likely = [ONE_SPAN <= span <= WIDEST for span in spans]
    if likely[0] != likely[1]:
        return likely[0]
    if titled:
        return False
    if len(row.centers) == len(values):
        raise ValueError(CANNOT)
    return len(row.centers) > len(values)


# ---- the layouts


def _per_row(table: Table, bands: _Bands, told: Reading) -> _Found:
    """Rows of titles, one with band centres, then one spectrum per row."""
    first, titles = bands.row + 1, table.row(bands.row)
    _check_numbers(table, first, bands.columns, titles)
    if bands.unit is None and bands.centers.max() >= 100:
        for column in bands.columns[bands.centers < 10]:
            if grouped(titles[column]):
                raise table.refused(bands.row, int(column), "", "a wavelength among the others")
    held = set(bands.columns.tolist())
    others = [c for c in range(table.shape[1]) if c not in held]
    for column in others:
        inside = column - 1 in held and column + 1 in held
        if inside and titles[column] and (table.kinds[first:, column] == NUMBER).any():
            raise table.refused(bands.row, column, "", "a wavelength, as the titles beside it are")
    words = table.columns(others, first)
    group = _group(titles, others, told)
    name = _titled(titles, others, NAME_TITLES)
    if name is None:
        with_text = [c for c in others if (table.kinds[first:, c] == TEXT).any() and not is_axis(titles[c])]
        name = next((c for c in with_text if c != group), group)
        if name is None:
            name = next((c for c in others if any(words[c]) and not titles[c]), None)
        if name is None:
            name = next((c for c in others if any(words[c])), None)
    spectra = table.numbers[first:, bands.columns]
    names = [] if name is None else words[name]
    classes = [] if group is None else words[group]
    fwhm, good = None, np.ones(len(spectra), bool)
    for i, text in enumerate(names):
        if holds_widths(text) and len(spectra) > 1 and fwhm is None:
            fwhm, good[i] = spectra[i], False
            fwhm_title = text
    axis_title = next((titles[c] for c in others if is_axis(titles[c])), "")
    kept = np.flatnonzero(good)
    numbered = (bands.counted or (_counts(bands.centers) and not is_axis(axis_title))) and bands.unit is None
    numbered = numbered and (told.unit is None or bands.counted) and not told.force_unit
    metadata = {
        title: tuple(words[c][i] for i in kept)
        for c, title in _distinct(titles, others).items()
        if c not in (name, group) and any(words[c])
    }
    return _Found(
        "one spectrum per row" + "; the bands are numbered and have no wavelengths" * numbered,
        spectra[kept],
        None if numbered else bands.centers,
        [names[i] for i in kept] if names else [],
        [classes[i] for i in kept] if classes else [],
        axis_title,
        bands.unit,
        fwhm,
        fwhm_title if fwhm is not None else "",
        used=tuple(_distinct(titles, [c for c in (name, group) if c is not None]).values()),
        metadata=metadata,
    )


def _per_column(table: Table, axis: _Column, told: Reading) -> _Found:
    """Rows of titles (names, perhaps classes and more), then one band per row."""
    start, rows = axis.start, [table.row(i) for i in range(min(axis.start, HEADER_ROWS))]
    if axis.start > HEADER_ROWS:
        raise ValueError(f"the table has more than {HEADER_ROWS} rows above its first wavelength")
    names = _names_row(rows, axis.column)
    titles = rows[names] if names is not None else [""] * table.shape[1]
    counted = axis.counted and (told.unit is None or is_counter(axis.title)) and not told.force_unit
    with_text, with_numbers = ((table.kinds[start:] == kind).any(axis=0).tolist() for kind in (TEXT, NUMBER))
    spectra, beside, widths, flags = [], [], None, None
    for column in range(table.shape[1]):
        title, values = titles[column], table.numbers[start:, column]
        if column == axis.column:
            continue
        if with_text[column]:
            beside.append(column)
        elif holds_widths(title) and widths is None:
            widths = column
        elif holds_flags(title) and flags is None and set(values.tolist()) <= {0.0, 1.0}:
            flags = column
        elif (is_axis(title) and _axis_like(values)) or ((not title or is_counter(title)) and _counts(values)):
            beside.append(column)
        elif title or with_numbers[column]:
            spectra.append(column)
    words = table.columns(beside, start)
    _check_words(table, start, words, titles, strict=True)
    if not spectra:
        raise ValueError(f"{CANNOT}; it holds no column of values beside the wavelengths")
    row_words = [_row_title(row, axis, plain=False) for row in rows]
    group = _group(row_words, [i for i in range(len(rows)) if i != names], told)
    others = [i for i in range(len(rows)) if i not in (names, group)]
    titled = names
    if names is not None and len({titles[c] for c in spectra}) < len(spectra):  # such as Reflectance over each
        names = next((i for i in others if len({rows[i][c] for c in spectra} - {""}) == len(spectra)), names)
        others = [i for i in range(len(rows)) if i not in (names, group)]
    row_titles = _distinct(row_words, others, "row")
    axis_title = _axis_title(
        [row[axis.column] for i, row in enumerate(rows) if i == titled or is_axis(row[axis.column])]
    )
    used = [axis.title, *(titles[c] for c in (widths, flags) if c is not None)]
    if group is not None:
        used.append(row_words[group])
    return _Found(
        "one spectrum per column" + "; the bands are numbered and have no wavelengths" * counted,
        table.numbers[start:, spectra].T,
        None if counted else table.numbers[start:, axis.column],
        [rows[names][c] for c in spectra] if names is not None else [],
        [rows[group][c] for c in spectra] if group is not None else [],
        axis_title,
        axis.unit,
        None if widths is None else table.numbers[start:, widths],
        "" if widths is None else titles[widths],
        None if flags is None else table.numbers[start:, flags] == 1,
        used=tuple(filter(None, used)),
        metadata={title: tuple(rows[i][c] for c in spectra) for i, title in row_titles.items()},
        band_metadata={title: tuple(words[c]) for c, title in _distinct(titles, beside).items()},
    )


def _pairs(table: Table) -> _Found | None:
    """Columns in pairs: the wavelengths and the values of one spectrum side by side, then those of the next."""
    rows, columns = table.shape
    if columns < 4 or columns % 2:
        return None
    is_number = table.kinds == NUMBER
    start = int(is_number[:, 0].argmax())
    if not is_number[start, ::2].all() or start > HEADER_ROWS:
        return None
    above = [table.row(i) for i in range(start)]
    x_titled = [_is_x(row[column]) for row in above[-1:] for column in range(0, columns, 2)]
    y_titled = [is_axis(row[column]) for row in above[-1:] for column in range(1, columns, 2)]
    x = table.numbers[start:, ::2]
    titled = bool(above) and all(x_titled) and not any(y_titled)
    if not titled:
        same = (x[:, 1:] == x[:, :1]) | ~is_number[start:, 2::2]
        if rows - start < 2 or not (same.all() and is_number[start:, 0].all() and _axis_like(x[:, 0])):
            return None
    titles = above[-1] if above else [""] * columns
    lengths = []
    for pair in range(columns // 2):
        count = int(is_number[start:, 2 * pair].sum())
        hole = np.flatnonzero(~is_number[start : start + count, 2 * pair])
        beyond = np.flatnonzero(table.kinds[start + count :, 2 * pair] != 0)
        if hole.size or beyond.size:
            row = int(hole[0]) if hole.size else count + int(beyond[0])
            raise table.refused(start + row, 2 * pair, titles[2 * pair], "a wavelength")
        _check_column(table, start, 2 * pair, titles[2 * pair], start + count)
        _check_numbers(table, start, [2 * pair + 1], titles)
        without = np.flatnonzero(is_number[start + count :, 2 * pair + 1])
        if without.size:
            raise table.refused(start + count + int(without[0]), 2 * pair, titles[2 * pair], "a wavelength")
        lengths.append(count)
    longest = int(np.argmax(lengths))
    centers = x[: lengths[longest], longest]
    spectra = np.full((columns // 2, len(centers)), np.nan)
    for pair, count in enumerate(lengths):
        place = _places(x[:count, pair], centers)
        if place is None:
            first, second = 2 * longest + 1, 2 * pair + 1
            raise ValueError(
                f"columns {first} and {second} ({shown(titles[first - 1])}, {shown(titles[second - 1])}) hold "
                "different wavelengths, so the spectra are not on one axis: save each spectrum in a file of its own, "
                "with its wavelengths, and give the folder; or bring them to one axis first"
            )
        spectra[pair, place] = table.numbers[start : start + count, 2 * pair + 1]
    names = titles[1::2]
    for cells in above[:-1]:  # names in a row above the titles, over one column of the pair
        over = [cells[2 * pair + 1] or cells[2 * pair] for pair in range(columns // 2)]
        if all(over):
            names = over
            break
    else:
        if len(set(names)) < len(names) and not titled:
            names = [""] * len(names)
    units = {frozenset(units_in(title)) for title in titles[::2]}
    if len(units) > 1:
        raise ValueError(
            f"the titles {', '.join(shown(t) for t in titles[:4:2])} … of wavelengths differ in their units"
        )
    layout = "columns in pairs, wavelengths and values"
    return _Found(layout, spectra, centers, names, (), titles[0], used=tuple(dict.fromkeys(filter(None, titles[::2]))))


def _named(table: Table, told: Reading) -> _Found | None:
    """Names in the first column and values without wavelengths; or, under the title ``band``, names of bands."""
    is_text = table.kinds == TEXT
    header = bool(is_text[0, 1:].any() and not (table.kinds[0, 1:] == NUMBER).any())
    first = int(header)
    if table.shape[0] <= first or not is_text[first:, 0].all() or table.shape[1] < 2:
        return None
    titles = table.row(0) if header else [""] * table.shape[1]
    corner = table.row(0)[0]
    if not header and corner and _is_title(corner):
        wrong = [c for c, cell in enumerate(table.row(0)) if c and grouped(cell)]
        if wrong:
            raise table.refused(0, wrong[0], corner, "a wavelength among the others")
        said = f"the numbers beside the title {shown(corner)} do not run in one direction, as wavelengths do"
        raise ValueError(f"line {table.line(0)}: {said}: {CANNOT}")
    values, beside = [], []
    for column in range(1, table.shape[1]):
        if is_text[first:, column].any():
            beside.append(column)
        elif (table.kinds[first:, column] == NUMBER).any() or titles[column]:
            values.append(column)
    if not values:
        return None
    words = table.columns([0, *beside], first)
    if is_axis(titles[0]) and any(map(spoilt, words[0])):
        raise table.refused(first + [spoilt(cell) for cell in words[0]].index(True), 0, titles[0], "a wavelength")
    _check_words(table, first, {column: words[column] for column in beside}, titles)
    if header and is_counter(titles[0]):
        _group((), (), told)
        return _Found(
            "one spectrum per column; the bands have no wavelengths",
            table.numbers[first:, values].T,
            names=[titles[c] for c in values],
            band_metadata={title: tuple(words[c]) for c, title in _distinct(titles, [0, *beside]).items()},
        )
    group = _group(titles, (0, *beside) if "class" in told.keys else beside, told)
    name = _titled(titles, beside, NAME_TITLES) if _plain(titles[0]) not in NAME_TITLES else 0
    name = 0 if name is None else name
    if _plain(titles[0]) in CLASS_TITLES and group is None:
        group, name = 0, next(iter(beside), 0)
    others = [c for c in (0, *beside) if c not in (name, group)]
    notes: tuple[str, ...] = ()
    if not header and _axis_like(table.numbers[0, values]):
        notes = (
            f"the first line is read as the spectrum {shown(corner)}; if it holds the wavelengths, write wavelength_nm "
            "(or another unit) into its first cell",
        )
    return _Found(
        "one spectrum per row; the bands have no wavelengths",
        table.numbers[first:, values],
        names=words[name],
        classes=words[group] if group is not None else (),
        used=tuple(title for title in {titles[c]: 0 for c in (name, group) if c is not None} if title),
        metadata={title: tuple(words[c]) for c, title in _distinct(titles, others).items()},
        notes=notes,
    )


# ---- small things


def _axis_like(values: np.ndarray) -> bool:
    """Positive, and nearly always in one direction (spectrometers may overlap)."""
    if len(values) < 2 or not ((values > 0) & np.isfinite(values)).all():
        return False
    steps = np.diff(values)
    moves = steps[steps != 0]
    if len(moves) < len(steps) / 2:
        return False
    rising = float(np.mean(moves > 0))
    return max(rising, 1 - rising) >= 0.9 and float(values.max() / values.min()) <= WIDEST


def _places(part: np.ndarray, centers: np.ndarray) -> np.ndarray | None:
    """Where some of the centres stand among all, in their order; None where they are others."""
    if np.array_equal(part, centers[: len(part)]):
        return np.arange(len(part))
    found, at = [], 0
    for value in part:
        while at < len(centers) and centers[at] != value:
            at += 1
        found.append(at)
        at += 1
    return np.array(found) if at <= len(centers) else None


def _counts(values: np.ndarray) -> bool:
    """Whether values are 1, 2, 3 ... or 0, 1, 2 ..."""
    return bool(len(values) > 0 and values[0] in (0, 1) and (values == values[0] + np.arange(len(values))).all())


def _whole_and_rising(values: np.ndarray) -> bool:
    """Whether values are numbers of bands, some of which may be left out: no optical wavelength is below 100 nm."""
    return bool((values == np.round(values)).all() and (np.diff(values) > 0).all() and values[0] < 100)


def _stands_out(centers: np.ndarray, body: np.ndarray) -> bool:
    """Whether centres cannot be one spectrum more: they lie above all values, or they alone rise all the way."""
    finite = body[np.isfinite(body)]
    if finite.size and centers.min() > finite.max():
        return True
    alone = not any((np.diff(line) > 0).all() or (np.diff(line) < 0).all() for line in body)
    steps = np.diff(centers)
    return len(centers) >= CLEARLY and bool((steps > 0).all() or (steps < 0).all()) and alone


def _is_x(title: str) -> bool:
    """Whether a title is that of wavelengths in a pair of columns."""
    return is_axis(title) or (title[:1].lower() == "x" and title[1:].strip(" _").isdecimal()) or title.lower() == "x"


def _is_title(text: str) -> bool:
    """Whether a text is known as the title of names, classes or an axis, or is empty."""
    return not text or _plain(text) in (*NAME_TITLES, *CLASS_TITLES) or is_axis(text) or is_counter(text)


def _plain(title: str) -> str:
    """A title as it is compared with known ones."""
    return title.strip().lower().replace(" ", "_")


def _titled(titles: Sequence[str], columns: Iterable[int], wanted: tuple[str, ...]) -> int | None:
    """The column with the first of some titles."""
    held: dict[str, int] = {}
    for column in columns:
        held.setdefault(_plain(titles[column]), column)
    return next((held[title] for title in wanted if title in held), None)


def _axis_title(titles: Sequence[str]) -> str:
    """The title of an axis out of those above it: the lowest, and one above it that is a unit alone."""
    lowest = titles[-1] if titles else ""
    alone = next((title for title in reversed(titles[:-1]) if units_in(title) and not names_axis(title)), "")
    return lowest if units_in(lowest) or not alone else f"{lowest} {alone}"


def _group(titles: Sequence[str], places: Iterable[int], told: Reading) -> int | None:
    """The column, or row, of the classes: the one that the user names, else the one with a title of classes.

    Raises:
        ValueError: none has the title that the user names.
    """
    places, wanted = list(places), told.keys.get("class")
    if wanted is None:
        return _titled(titles, places, CLASS_TITLES)
    found = _titled(titles, places, (_plain(wanted),))
    if found is None:
        known = [shown(titles[i]) for i in places if titles[i]]
        said = ", ".join(known[:10]) + ", …" * (len(known) > 10)
        raise ValueError(f"no column or row {shown(wanted)} for the class; there is {said or 'none'}")
    return found


def _names_row(rows: list[list[str]], axis: int) -> int | None:
    """The row of names above the numbers: the lowest with the title of the axis or of names, else the first that is
    none of classes.
    """
    for wanted in (names_axis, is_axis, lambda title: _plain(title) in NAME_TITLES):
        found = next((i for i in reversed(range(len(rows))) if wanted(rows[i][axis])), None)
        if found is not None:
            return found
    return next((i for i, row in enumerate(rows) if _plain(row[axis]) not in CLASS_TITLES), None)


def _row_title(row: list[str], axis: _Column, plain: bool = True) -> str:
    """The title of a row above the numbers: it stands over the wavelengths, or in the first column."""
    title = row[axis.column] or row[0]
    return _plain(title) if plain else title


def _distinct(titles: Sequence[str], chosen: Iterable[int], what: str = "column") -> dict[int, str]:
    """Titles of some columns, each once, with a number where it is empty or stands twice."""
    found: dict[int, str] = {}
    taken: set[str] = set()
    for column in chosen:
        title = titles[column] or f"{what} {column + 1}"
        found[column] = title if title not in taken else f"{title} ({what} {column + 1})"
        taken.add(found[column])
    return found


def _check_numbers(table: Table, first: int, columns: Any, titles: Sequence[str]) -> None:
    """Refuse text where values should be."""
    wrong = table.kinds[first:, columns] == TEXT
    if wrong.any():
        row, place = (int(i) for i in np.argwhere(wrong)[0])
        column = int(np.asarray(columns)[place])
        raise table.refused(first + row, column, titles[column])


def _check_words(
    table: Table, first: int, words: dict[int, list[str]], titles: Sequence[str], *, strict: bool = False
) -> None:
    """Refuse columns of words in which numbers stand, or that were meant as numbers; strictly, that begin as such."""
    for column, cells in words.items():
        kinds = table.kinds[first:, column]
        if not (kinds == TEXT).any():
            continue
        mixed = (kinds == NUMBER).sum() >= (kinds == TEXT).sum()
        known = _plain(titles[column]) in (*NAME_TITLES, *CLASS_TITLES)
        for row in np.flatnonzero(kinds == TEXT):
            meant = spoilt(cells[row]) or (strict and cells[row].lstrip("+-.,")[:1].isdigit())
            if mixed or (meant and not known):
                raise table.refused(first + int(row), column, titles[column])
