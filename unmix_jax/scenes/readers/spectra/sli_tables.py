"""Classes of the spectra of an ENVI spectral library: from the table beside it, or from its header.

VIPER Tools, MESMA and the spectral library tools of QGIS keep metadata of ``lib.sli`` in ``lib.csv``: a row of titles,
of which one is ``spectra names`` or ``name`` in any case, and one row per spectrum; cells are separated by commas,
semicolons or tabs. Rows belong to spectra by name, with commas in names written as ``-``.

Roberts, D. A., Halligan, K., Dennison, P., Dudley, K., Somers, B., Crabbé, A., 2019, Viper Tools User Manual, version
2.1; Crabbé, A. H., Jakimow, B., Somers, B., and others, 2020, Spectral Library QGIS Plugin,
https://bitbucket.org/kul-reseco/spectral-libraries (qps/speclib/io/envi.py).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from unmix_jax.scenes.readers.spectra.common import cells_of, is_number, some
from unmix_jax.scenes.readers.tables.own import is_own
from unmix_jax.scenes.reading import Entries, Reading
from unmix_jax.scenes.scene import Account

__all__ = ["Classes", "SpectraTable", "classes_in_header", "classes_of", "read_spectra_table", "table_beside"]

NAME_TITLES = ("spectra names", "name", "names", "spectra name", "spectrum name", "spectrum", "spectra")
CLASS_TITLES = (  # the first of these that is there holds the classes; VIPER's levels go from coarse to fine
    "class", "classes", "class name", "class_name", "classname", "materialclass", "material class", "material_class",
    "category", "level_1", "level 1", "level1", "class_1", "class 1", "class1", "group", "land cover", "landcover",
    "type",
)  # fmt: skip
WAVELENGTHS_FROM = 4  # numbers among the titles from which a table holds spectra, not metadata


class SpectraTable(NamedTuple):
    """What a table says of the spectra of a library.

    Attributes:
        classes: one per spectrum, or none.
        metadata: one list per column, one cell per spectrum.
        account: what became of the columns.
        notes: what may be wrong.
    """

    classes: tuple[str, ...]
    metadata: dict[str, list[str]]
    account: Account
    notes: tuple[str, ...]


class Classes(NamedTuple):
    """The classes of an ENVI library, and what else the table beside it says.

    Attributes:
        classes: one per spectrum, or none.
        entry: of the header, that holds the classes; None where none does.
        metadata: the columns of the table, one cell per spectrum; empty without a table.
        account: what became of the table's columns, as ``lib.csv: column``.
        notes: what may be wrong.
    """

    classes: tuple[str, ...]
    entry: str | None
    metadata: dict[str, list[str]]
    account: Account
    notes: tuple[str, ...]


def classes_of(
    fields: Mapping[str, Any], data: Path, header: Path, names: Sequence[str], told: Reading, *, named: bool = True
) -> Classes:
    """The classes of the spectra of an ENVI library, out of its header and of the table beside it.

    Args:
        fields: entries of the header, lists as lists of text.
        data: the ``.sli`` file.
        header: its header, for messages.
        names: of the spectra, in the order of the library.
        told: what the user says; the key ``class`` names a column of the table or an entry of the header.
        named: whether the header names the spectra.

    Raises:
        ValueError: header and table disagree, the chosen column or entry is in neither, and as `read_spectra_table`.
    """
    listed = classes_in_header(fields, len(names), told, header)
    table, chosen = table_beside(data), told.keys.get("class")
    about = told if listed is None or chosen is None else replace(told, keys={})  # the header has what was chosen
    read = None if table is None else read_spectra_table(table, names, about, named=named)
    if chosen is not None and listed is None and read is None:
        raise ValueError(f"{header}: no entry {chosen!r} with a class for each of the {len(names)} spectra")
    entry, classes = listed or (None, ())
    if table is None:
        return Classes(classes, entry, {}, Account(), ())
    if read is None:
        return Classes(classes, entry, {}, Account(unknown=(f"{table.name} (beside the library)",)), ())
    if classes and read.classes and chosen is None and classes != read.classes:
        raise ValueError(
            f"{header} and {table.name} give different classes; choose with --key class=... (keys={{'class': ...}}) an "
            f"entry of the header ({entry}) or a column of the table"
        )
    account = Account(*(tuple(f"{table.name}: {title}" for title in titles) for titles in read.account))
    return Classes(classes or read.classes, entry, read.metadata, account, read.notes)


def table_beside(data: Path) -> Path | None:
    """The table of metadata beside a library: the same name with the suffix ``.csv``.

    Args:
        data: the ``.sli`` file or its header.

    Returns:
        The table; None where there is none. Links are passed over.
    """
    for suffix in (".csv", ".CSV"):
        table = data.with_suffix(suffix)
        if table != data and table.is_file() and not table.is_symlink() and not is_own(table):
            return table
    return None


def read_spectra_table(table: Path, names: Sequence[str], told: Reading, *, named: bool = True) -> SpectraTable | None:
    """The classes and other metadata of the spectra of a library, out of a table of text.

    Rows are matched by name; by order where neither the library nor the table has names and the counts agree.

    Args:
        table: the ``.csv`` file.
        names: of the spectra of the library, in its order.
        told: what the user says; the key ``class`` names the column of the classes.
        named: whether the library itself names its spectra.

    Returns:
        What the table says; None where it holds something else: wavelengths stand among its titles, or no title is
        one of names or classes and no row is named as a spectrum is.

    Raises:
        ValueError: rows of another length than the titles, a spectrum without a row, two rows for one spectrum that
            differ, or a column that is not there.
    """
    rows = cells_of(table)
    titles = rows[0]
    if sum(is_number(title) and title != "" for title in titles) >= WAVELENGTHS_FROM or len(rows) == 1:
        return None
    low, plain = [title.lower() for title in titles], {_plain(name) for name in names}
    about = any(title in (*NAME_TITLES, *CLASS_TITLES) for title in low) or "class" in told.keys
    if not about and not any(_plain(row[0]) in plain for row in rows[1:] if row):
        return None
    for at, row in enumerate(rows[1:], 2):
        if len(row) != len(titles):
            raise ValueError(f"{table}, row {at}: {len(row)} cells, the titles are {len(titles)}")
    repeated = [title for title, count in Counter(low).items() if count > 1]
    if repeated:
        raise ValueError(f"{table}: title {repeated[0]!r} stands above two columns")
    order, by, notes = _order(table, rows, names, named)
    columns = {title: [rows[1 + row][at] for row in order] for at, title in enumerate(titles)}
    entries = Entries(columns)
    entries.carry(*titles)
    if by is not None:
        entries.use(by)
    chosen = told.keys.get("class") or next((title for title in CLASS_TITLES if title in entries), None)
    if chosen is not None and chosen not in entries:
        raise ValueError(f"{table}: no column {chosen!r} for the class; there are {', '.join(titles)}")
    classes = tuple(entries.use(chosen)) if chosen is not None else ()
    return SpectraTable(classes, columns, entries.account(), tuple(notes))


def classes_in_header(
    fields: Mapping[str, Any], count: int, told: Reading, where: Path
) -> tuple[str, tuple[str, ...]] | None:
    """The classes that an ENVI header lists, one per spectrum, and the entry that lists them.

    Args:
        fields: entries of the header, lists as lists of text.
        count: of spectra.
        told: what the user says; the key ``class`` names the entry.
        where: the header, for messages.

    Returns:
        None where no entry holds classes, or where the key names none of the header.

    Raises:
        ValueError: a list of another length than there are spectra, under the name that the user gave.
    """
    plain = {str(name).strip().lower(): name for name in fields}
    chosen = told.keys.get("class")
    candidates = CLASS_TITLES if chosen is None else (chosen.strip().lower(),)
    for title in (form for c in candidates for form in (c, f"spectra {c}")):
        if title not in plain:
            continue
        value = fields[plain[title]]
        listed = value if isinstance(value, list | tuple) else [value]
        if len(listed) == count and (count > 1 or chosen is not None):
            return str(plain[title]), tuple(str(word).strip() for word in listed)
        if chosen is not None:
            raise ValueError(f"{where}: {plain[title]} lists {len(listed)} classes for {count} spectra")
    return None


def _order(
    table: Path, rows: list[list[str]], names: Sequence[str], named: bool
) -> tuple[list[int], str | None, list[str]]:
    """The row of each spectrum, the title of the column by which it was found, and notes."""
    titles, body = rows[0], rows[1:]
    low = [title.lower() for title in titles]
    at = next((low.index(title) for title in NAME_TITLES if title in low), None)
    wanted = [_plain(name) for name in names]
    if at is None and named:
        held = set(wanted)
        at = 0 if any(_plain(row[0]) in held for row in body) else None
    if at is None or not named:
        if len(body) != len(names):
            raise ValueError(
                f"{table}: {len(body)} rows for {len(names)} spectra, and "
                + ("no column of names" if at is None else "the library has no names")
                + "; move the table away if it does not belong to the library"
            )
        return list(range(len(names))), None, []
    found: dict[str, list[int]] = {}
    for row, cells in enumerate(body):
        found.setdefault(_plain(cells[at]), []).append(row)
    lacking = [name for name, plain in zip(names, wanted, strict=True) if plain not in found]
    if lacking:
        raise ValueError(
            f"{table}: column {titles[at]!r} has no row for {len(lacking)} of {len(names)} spectra, such as "
            f"{some(lacking)}; move the table away if it does not belong to the library"
        )
    order: list[int] = []
    taken = Counter[str]()
    several = Counter(wanted)
    for name, plain in zip(names, wanted, strict=True):
        candidates = found[plain]
        if len(candidates) == several[plain]:  # as many rows as spectra of this name: in their order
            order.append(candidates[taken[plain]])
        elif all(body[row] == body[candidates[0]] for row in candidates):
            order.append(candidates[0])
        else:
            raise ValueError(
                f"{table}: {len(candidates)} rows that differ for {name!r}, of which the library has {several[plain]}"
            )
        taken[plain] += 1
    spare = sum(len(lines) for plain, lines in found.items() if plain not in several)
    notes = [f"{table.name} has {spare} rows for spectra that are not in the library"] if spare else []
    return order, titles[at], notes


def _plain(name: str) -> str:
    """A name as tables write it: without commas and blanks at its ends, in small letters."""
    return " ".join(name.replace(",", "-").lower().split())
