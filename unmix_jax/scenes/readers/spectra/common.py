"""What the readers of laboratory and field spectra share: text and numbers in, one spectrum or many out.

A reader of a format that holds one spectrum per file makes a `Single` of it; `library_of` makes a library of one or of
many. A reader of a table with a row of titles, one spectrum per row, hands its cells to `library_of_rows`.
"""

import codecs
import csv
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unmix_jax.scenes.nodata import NODATA, is_nodata
from unmix_jax.scenes.reading import DELETED, REFLECTANCE_UP_TO, Entries, Reading
from unmix_jax.scenes.scene import Account, Header, SpectralAxis, SpectralLibrary
from unmix_jax.scenes.units import quantity_in, spectral_axis, unit_of

__all__ = [
    "HEAD",
    "METADATA",
    "Shared",
    "Single",
    "asked",
    "cells_of",
    "distinct",
    "fractions",
    "head_of",
    "is_number",
    "library_of",
    "library_of_rows",
    "lines_of",
    "natural",
    "number",
    "numbers",
    "quantity_of",
    "some",
    "stated_unit",
    "table_of_numbers",
]

HEAD = 4096  # bytes by which a format is recognised
METADATA = "metadata"  # the header's entry with one list per metadata entry, one value per spectrum
# A text file of this size would hold some 20 million numbers; laboratories' files hold thousands, the largest tables of
# field campaigns a few million. It is read whole, so that a file of tens of gigabytes must be turned away.
TEXT_LIMIT = 256 * 2**20
# How tables and instruments' programs write "no value"; C_LIBRARY is how Microsoft's C library prints it: -1.#IND00.
MISSING = (
    "",
    "nan",
    "na",
    "n/a",
    "-",
    "--",
    "null",
    "none",
    "#nv",
    "#n/a",
    "#value!",
    "inf",
    "+inf",
    "-inf",
    "infinity",
)
C_LIBRARY = re.compile(r"[+-]?1\.#[a-z]{1,4}\d{0,20}")
# Two axes are one where their centres differ by less than this share of the band spacing: printed digits differ by
# less, instruments with another calibration by more. `scenes.library.match` uses the same.
SAME = 1e-3
NAMED_AT_MOST = 5  # files or spectra that a message names
PERCENT = 100.0

Shared = dict[Any, Any]  # what several files of one folder have in common, read once


class Single(NamedTuple):
    """One spectrum as its file says.

    Attributes:
        name: of the material.
        values: [band]; NaN is missing.
        centers: [band] in `unit`; None where the file gives none.
        unit: nm, um or cm-1; None where the file does not say it.
        quantity: what the values are.
        entries: the metadata, with what became of each entry.
        fwhm: [band] in `unit`.
        tag: what tells it from another spectrum of the same name.
        group: its material class where the format has one.
        axis_of: what the axis belongs to, such as a spectrometer, for messages.
        notes: what may make its numbers wrong.
    """

    name: str
    values: np.ndarray
    centers: np.ndarray | None
    unit: str | None
    quantity: str
    entries: Entries
    fwhm: np.ndarray | None = None
    tag: str = ""
    group: str = ""
    axis_of: str = ""
    notes: tuple[str, ...] = ()


def head_of(path: Path) -> bytes:
    """The first 4 KiB of a file."""
    with path.open("rb") as file:
        return file.read(HEAD)


def lines_of(path: Path) -> list[str]:
    """The lines of a text file: UTF-8, UTF-16 with its mark, or Latin-1, with any kind of line ends.

    Args:
        path: the file.

    Raises:
        ValueError: the file is binary, or too large for a text file of spectra.
    """
    if path.stat().st_size > TEXT_LIMIT:
        raise ValueError(f"{path}: {path.stat().st_size} bytes are too many for a text file of spectra")
    data = path.read_bytes()
    if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        try:
            text = data.decode("utf-16")
        except UnicodeDecodeError:
            raise ValueError(f"{path}: the text begins as UTF-16 but is not") from None
    else:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = data.decode("latin-1")
    if "\0" in text:
        raise ValueError(f"{path}: binary data where text was expected")
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")  # str.splitlines also cuts at form feeds and such


def number(cell: str) -> float:
    """A cell as a number; NaN where it says that there is no value, or holds a mark of a deleted channel.

    Args:
        cell: a number with a decimal point, or one decimal comma.

    Raises:
        ValueError: neither a number nor a known way to say that there is none.
    """
    text = cell.strip()
    if (low := text.lower()) in MISSING or C_LIBRARY.fullmatch(low):
        return math.nan
    if "_" in text:  # which Python would take for a separator of thousands
        raise ValueError(f"{text!r} is not a number")
    try:
        value = float(text)
    except ValueError:
        if text.count(",") != 1 or "." in text:
            raise ValueError(f"{text[:40]!r} is not a number") from None
        value = float(text.replace(",", "."))
    return value if abs(value) < DELETED else math.nan


def numbers(cells: Sequence[str]) -> np.ndarray:
    """Cells as numbers, as `number` makes of each.

    Args:
        cells: of one row.

    Raises:
        ValueError: one is not a number; its place is named, counted from 1.
    """
    try:
        if any("_" in cell for cell in cells):
            raise ValueError
        values = np.asarray(cells, float)  # many times faster than cell by cell
    except ValueError:
        values = np.empty(len(cells))
        for at, cell in enumerate(cells):
            try:
                values[at] = number(cell)
            except ValueError as error:
                raise ValueError(f"number {at + 1}: {error}") from None
        return values
    return np.where(np.abs(values) < DELETED, values, math.nan)


def is_number(cell: str) -> bool:
    """Whether a cell is a finite number."""
    try:
        return math.isfinite(number(cell))
    except ValueError:
        return False


def table_of_numbers(
    lines: Sequence[str], first: int, path: Path, *, separator: str | None = None, last: int | None = None
) -> np.ndarray:
    """Lines of numbers as an array [row, column]; empty lines are passed over.

    Args:
        lines: of the file.
        first: the first that holds numbers, counted from 0.
        path: for messages.
        separator: between numbers; None: any run of blanks and tabs.
        last: one beyond the last line.

    Raises:
        ValueError: a cell is not a number, or lines have different counts of numbers; the line is named.
    """
    rows: list[np.ndarray] = []
    for at in range(first, len(lines) if last is None else min(last, len(lines))):
        if not lines[at].strip():
            continue
        cells = lines[at].rstrip().split(separator)
        try:
            rows.append(numbers(cells))
        except ValueError as error:
            raise ValueError(f"{path}, line {at + 1}: {error}") from None
        if len(rows[-1]) != len(rows[0]):
            raise ValueError(
                f"{path}, line {at + 1}: {len(rows[-1])} numbers where the lines before have {len(rows[0])}"
            )
    if not rows:
        raise ValueError(f"{path}: no line of numbers follows line {first}")
    return np.stack(rows)


def cells_of(path: Path, *, separators: str = ",;\t") -> list[list[str]]:
    """The cells of a table of text, with quotes understood; empty lines are passed over.

    Args:
        path: the file.
        separators: those that may stand between cells; the one that the first line holds most often is taken.

    Raises:
        ValueError: not a table, or an empty one.
    """
    lines = lines_of(path)
    first = next((line for line in lines if line.strip()), None)
    if first is None:
        raise ValueError(f"{path}: the file is empty")
    separator = max(separators, key=first.count)
    try:
        rows = [row for row in csv.reader(lines, delimiter=separator) if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise ValueError(f"{path}: not a table of text ({error})") from None
    return [[cell.strip() for cell in row] for row in rows]


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """A key that sorts numbers inside names by their value: ``s2`` before ``s10``."""
    parts = re.split(r"(\d+)", name.lower())
    return tuple((1, int(part[:300]), "") if part.isdigit() and part.isascii() else (0, 0, part) for part in parts)


def asked(told: Reading, known: Iterable[str], path: Path) -> dict[str, str]:
    """What the user chooses with ``keys``.

    Args:
        told: what the user says.
        known: names that the format knows.
        path: for messages.

    Raises:
        ValueError: a name that the format does not know.
    """
    known = tuple(known)
    for name in told.keys:
        if name not in known:
            raise ValueError(
                f"{path}: key {name!r} means nothing for this format; "
                f"{'it knows ' + ', '.join(known) if known else 'it has none'}"
            )
    return dict(told.keys)


def stated_unit(text: str, where: Path, told: Reading) -> str | None:
    """The unit that a title such as ``Wavelength (micrometers)`` states: nm, um or cm-1, or None.

    Args:
        text: the title.
        where: the file, for messages.
        told: what the user says.

    Raises:
        ValueError: a unit in brackets that is none of these.
    """
    inside = re.search(r"[(\[]([^()\[\]]*)[)\]]", text)
    try:
        if inside:
            return unit_of(inside[1])
        words = re.findall(r"[^\s,;:_]+", text)[:20]
    except ValueError as error:
        if told.force_unit:
            return None
        raise ValueError(f"{where}: {error}. If it is wrong, give --unit with --force-unit") from None
    for word in words:
        try:
            if (unit := unit_of(word)) is not None:
                return unit
        except ValueError:
            continue
    return None


def quantity_of(text: str) -> str:
    """What values are, out of a title; ``value`` where it does not say it. Usual misspellings are understood."""
    low = text.lower()
    found = quantity_in(text)
    if found is None and re.search(r"\breflect", low):  # Reflect. %, Reflectence
        found = "reflectance"
    if found is None and re.search(r"\btransm", low):  # Transmittence
        found = "transmittance"
    if found is None and re.search(r"\birrad|\birr\.", low):
        found = "irradiance"
    if found is None and re.search(r"\brad\.", low):
        found = "radiance"
    return found or "value"


def fractions(values: np.ndarray, percent: bool, told: Reading) -> np.ndarray:
    """Values in per cent as fractions, unless the user scales them; the fill value is found before.

    Args:
        values: as stored.
        percent: whether the file says that they are in per cent.
        told: what the user says.
    """
    if not percent or told.scale is not None:
        return values
    fill = NODATA if told.nodata is None else told.nodata
    missing = is_nodata(values, None if fill == "none" else float(fill))
    return np.where(missing, math.nan, values / PERCENT)


def distinct(names: Sequence[str], tags: Sequence[str]) -> tuple[str, ...]:
    """Names that differ: those that occur several times get their tag in brackets, then a number."""
    often = Counter(names)
    tagged = [f"{name} [{tag}]" if often[name] > 1 and tag else name for name, tag in zip(names, tags, strict=True)]
    often, seen = Counter(tagged), Counter[str]()
    result = []
    for name in tagged:
        seen[name] += 1
        result.append(f"{name} ({seen[name]})" if often[name] > 1 else name)
    return tuple(result)


def library_of(
    singles: Sequence[Single],
    told: Reading,
    where: Path,
    *,
    remedy: str = "",
    unread: Sequence[str] = (),
    files: Sequence[str] = (),
) -> SpectralLibrary:
    """A library of single spectra that share one axis, one unit and one quantity.

    Spectra without a single value are left out, with a note. Classes are those of the entry that the key ``class``
    names, or the format's own.

    Args:
        singles: one or more.
        told: what the user says.
        where: file or folder, for messages.
        remedy: how the user can choose among spectra that do not fit together.
        unread: what lies in the folder and was not read.
        files: names of the files of the spectra, where they are several.

    Raises:
        ValueError: axes, units or quantities differ; no spectrum holds a value.
    """
    notes = list(dict.fromkeys(note for single in singles for note in single.notes))
    kept = [single for single in singles if np.isfinite(single.values).any()]
    if not kept:
        raise ValueError(f"{where}: no channel holds a value")
    if len(kept) < len(singles):
        empty = [single.tag or single.name for single in singles if not np.isfinite(single.values).any()]
        notes.append(f"spectra without any value are left out ({len(empty)}): {some(empty)}")
    _same_axis(kept, where, remedy)
    quantities = {single.quantity: single for single in kept}
    if len(quantities) > 1:
        said = ", ".join(f"{q} ({single.tag or single.name})" for q, single in quantities.items())
        raise ValueError(f"{where}: spectra of different quantities: {said}{remedy}")
    first = kept[0]
    names = distinct([single.name for single in kept], [single.tag for single in kept])
    metadata = _metadata(kept)
    if files:
        valued = {id(single) for single in kept}
        metadata["file"] = [name for name, single in zip(files, singles, strict=True) if id(single) in valued]
    classes = _classes(kept, told, where)
    used: dict[str, None] = {}
    carried: dict[str, None] = {}
    for single in kept:
        account = single.entries.account()
        used |= dict.fromkeys(account.used)
        carried |= dict.fromkeys(account.carried)
    unknown = [name for name in metadata if name not in used and name not in carried and not (files and name == "file")]
    return SpectralLibrary(
        np.stack([single.values for single in kept]),
        _axis(kept, told, where, notes),
        names,
        classes,
        quantity=first.quantity,
        notes=tuple(notes),
        account=Account(tuple(used), tuple(n for n in carried if n not in used), (*unknown, *unread)),
        header=Header({METADATA: metadata}),
    )


def library_of_rows(
    rows: Sequence[Sequence[str]],
    path: Path,
    told: Reading,
    *,
    unit: str | None = None,
    name_titles: Sequence[str] = (),
    unit_titles: Sequence[str] = (),
    percent_titles: Sequence[str] = (),
    quantity_titles: Sequence[str] = (),
    known_titles: Sequence[str] = (),
    read_quantity: Callable[[str], str] = quantity_of,
) -> SpectralLibrary:
    """A library out of a table with a row of titles: columns of metadata, and columns whose title is a wavelength.

    Args:
        rows: the cells; titles stand in the first row, and each further row is a spectrum.
        path: for messages.
        told: what the user says; the keys ``class`` and ``name`` choose columns.
        unit: of the wavelengths where the format fixes it.
        name_titles: titles of columns that name the spectra, in lower case; the first that differs in every row counts.
        unit_titles: titles of a column that states the unit of the wavelengths.
        percent_titles: titles of a column that says ``%`` where values are in per cent.
        quantity_titles: titles of columns that say what the values are; the first that names a quantity counts.
        known_titles: titles that the format documents; they are carried.
        read_quantity: makes the quantity of such a cell.

    Raises:
        ValueError: no wavelengths among the titles, rows of another length, a cell that is not a number, or columns
            that the user chose and the table does not have.
    """
    titles = _titles(rows[0], path)
    bands = [i for i, title in enumerate(titles) if is_number(title)]
    if len(bands) < 2 or bands[-1] - bands[0] >= len(bands):
        raise ValueError(
            f"{path}: wavelengths must be the titles of neighbouring columns; {len(bands)} titles are numbers"
            + (", with others between them" if len(bands) > 1 else "")
        )
    others = [i for i, title in enumerate(titles) if not is_number(title)]
    for i, row in enumerate(rows[1:], 2):
        if len(row) != len(titles):
            raise ValueError(f"{path}: spectrum {i - 1} has {len(row)} cells, the titles are {len(titles)}")
    if len(rows) == 1:
        raise ValueError(f"{path}: titles without a single spectrum")
    values = np.empty((len(rows) - 1, len(bands)))
    for i, row in enumerate(rows[1:]):
        try:
            values[i] = numbers(row[bands[0] : bands[-1] + 1])
        except ValueError as error:
            raise ValueError(f"{path}, spectrum {i + 1}: {error}") from None
    columns = {titles[i]: [row[i] for row in rows[1:]] for i in others}
    entries = Entries(columns)
    entries.carry(*known_titles)
    key = asked(told, ("class", "name"), path)
    classes: tuple[str, ...] = ()
    for name in ("class", "name"):
        if name in key and key[name] not in entries:
            raise ValueError(f"{path}: no column {key[name]!r} for the {name}; there are {', '.join(columns)}")
    if "class" in key:
        classes = tuple(entries.use(key["class"]))
    stated = unit
    for title in unit_titles:
        if title in entries and len(said := set(entries.use(title)) - {"", "NA"}) == 1:
            stated = stated_unit(f"({said.pop()})", path, told) or stated
    percent = np.zeros(len(values), bool)
    for title in percent_titles:
        percent |= np.asarray([_is_percent(cell) for cell in entries.use(title, [""] * len(values))])
    quantities = Counter[str]()
    for title in quantity_titles:  # the first that says something; the quantity may be Index, with its name beside it
        said_here = Counter(read_quantity(cell) for cell in entries.use(title, []))
        if set(quantities) <= {"value"} and (not quantities or set(said_here) - {"value"}):
            quantities = said_here
    notes = []
    if len(quantities) > 1:
        said_all = ", ".join(f"{quantity} ({count})" for quantity, count in quantities.items())
        notes.append(f"the rows hold different quantities: {said_all}")
    quantity = next(iter(quantities)) if len(quantities) == 1 else "value"
    values[percent] = fractions(values[percent], True, told)
    finite = values[np.isfinite(values) & ~is_nodata(values, NODATA)]
    if quantity == "reflectance" and told.scale is None and finite.size and np.median(finite) > REFLECTANCE_UP_TO:
        notes.append(
            "most values are larger than a reflectance can be, and the table does not say that they are in per cent; "
            "give --scale 0.01 if they are"
        )
    centers = np.asarray([number(titles[i]) for i in bands])
    return SpectralLibrary(
        values,
        spectral_axis(centers, unit=told.unit_of(stated, str(path)), where=str(path)),
        _row_names(entries, key.get("name"), name_titles, len(values)),
        classes,
        quantity=quantity,
        notes=tuple(notes),
        account=entries.account(),
        header=Header({METADATA: columns}),
    )


def _titles(row: Sequence[str], path: Path) -> list[str]:
    """Titles that differ: the second of one title becomes ``title (2)``; empty ones at the end are cut off."""
    titles = list(row)
    seen = Counter[str]()
    for i, title in enumerate(titles):
        seen[title] += 1
        if seen[title] > 1:
            if is_number(title):
                raise ValueError(f"{path}: wavelength {title} is the title of two columns")
            titles[i] = f"{title} ({seen[title]})"
    return titles


def _row_names(entries: Entries, chosen: str | None, candidates: Sequence[str], count: int) -> tuple[str, ...]:
    """Names of the rows: of the chosen column, of the first candidate that is full and distinct, or numbers."""
    if chosen is not None:
        return distinct(entries.use(chosen), [""] * count)
    for title in candidates:
        cells = entries.peek(title)
        if cells is not None and all(cells) and len(set(cells)) == count:
            return tuple(entries.use(title))
    return tuple(f"spectrum {i + 1}" for i in range(count))


def _is_percent(cell: str) -> bool:
    """Whether a statement of units says per cent."""
    low = cell.lower()
    return "%" in low or "percent" in low or "per cent" in low


def _metadata(singles: Sequence[Single]) -> dict[str, list[Any]]:
    """One list per metadata entry, one value per spectrum; empty where a spectrum has none."""
    headers = [single.entries.header() for single in singles]
    names = dict.fromkeys(name for header in headers for name in header)
    return {name: [header.get(name, "") for header in headers] for name in names}


def _classes(singles: Sequence[Single], told: Reading, where: Path) -> tuple[str, ...]:
    """The material classes: of the entry that the user names, or the format's own."""
    chosen = told.keys.get("class")
    if chosen is None:
        groups = tuple(single.group for single in singles)
        return groups if all(groups) else ()
    lacking = [single for single in singles if chosen not in single.entries]
    if lacking:
        held = ", ".join(lacking[0].entries.header())
        raise ValueError(
            f"{where}: {lacking[0].tag or lacking[0].name} has no entry {chosen!r} for the class; it has {held}"
        )
    return tuple(str(single.entries.use(chosen)) for single in singles)


def _axis(singles: Sequence[Single], told: Reading, where: Path, notes: list[str]) -> SpectralAxis | None:
    """The axis of the first spectrum, with band widths where all agree in them."""
    first = singles[0]
    if first.centers is None:
        return None
    widths = first.fwhm
    if widths is not None and not all(
        single.fwhm is not None and np.array_equal(single.fwhm, widths) for single in singles
    ):
        widths = None
        notes.append("the spectra have different band widths, so that the library has none")
    return spectral_axis(first.centers, fwhm=widths, unit=told.unit_of(first.unit, str(where)), where=str(where))


def _same_axis(singles: Sequence[Single], where: Path, remedy: str) -> None:
    """Refuse spectra whose axes differ, naming two of them."""
    first = singles[0]
    kinds = [first]
    for single in singles[1:]:
        if not any(_one_axis(single, kind) for kind in kinds):
            kinds.append(single)
    if len(kinds) == 1:
        return
    said = [
        f"{kind.tag or kind.name} ({kind.axis_of + ', ' if kind.axis_of else ''}{_extent(kind)})" for kind in kinds[:2]
    ]
    raise ValueError(
        f"{where}: {len(singles)} spectra have {len(kinds)} different axes, such as those of {said[0]} and {said[1]}"
        f"{remedy or '. Read them separately, and bring them to one axis with resample'}"
    )


def _one_axis(one: Single, other: Single) -> bool:
    """Whether two spectra have the same bands."""
    if one.centers is None or other.centers is None:
        return one.centers is other.centers and len(one.values) == len(other.values)
    if one.unit != other.unit or one.centers.shape != other.centers.shape:
        return False
    step = np.median(np.abs(np.diff(one.centers))) if len(one.centers) > 1 else 1.0
    return bool(np.max(np.abs(one.centers - other.centers)) <= SAME * step)


def _extent(single: Single) -> str:
    """The channels of a spectrum in words."""
    if single.centers is None:
        return f"{len(single.values)} channels"
    low, high = np.min(single.centers), np.max(single.centers)
    return f"{len(single.values)} channels, {low:g} to {high:g} {single.unit or ''}".rstrip()


def some(names: Sequence[str]) -> str:
    """The first few of many names, for messages."""
    return ", ".join(names[:NAMED_AT_MOST]) + (" ..." if len(names) > NAMED_AT_MOST else "")
