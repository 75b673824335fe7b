"""Text tables as cells: encoding, separator, decimal mark, quoted cells and words for missing values.

Everything here takes time and memory in proportion to the size of the file: lines are cut by `str.split` and the csv
module, and all patterns have possessive quantifiers, which never go back.

Reference for quoted cells: RFC 4180.
"""

import codecs
import csv
import re
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from unmix_jax.scenes.readers.tables.titles import CLASS_TITLES, WIDEST, band_of, is_axis, names_axis

__all__ = ["MISSING", "NUMBER", "TEXT", "Table", "cells_of", "grouped", "lines_of", "shown", "spoilt"]

MISSING, NUMBER, TEXT = range(3)

# Sizes beyond which a text table is refused: 2 000 spectra of 2 151 channels take some 40 MB, and a cell takes nine
# bytes of memory beside its text.
MOST_BYTES = 128 * 2**20
MOST_LINES = 1_000_000
MOST_COLUMNS = 100_000
MOST_CELLS = 32_000_000
LONGEST_CELL = 100_000  # characters between quotation marks; the csv module allows 131 072
LOOKED_AT_LINES = 200  # lines by which the separator and the decimal mark are chosen
LOOKED_AT_CHARACTERS = 2**18
KNOWN_CELLS = 10_000  # different texts whose meaning is kept while a table is read
KEPT_LINES = 100  # comments and lines of text above a table that are kept

# What spreadsheets (English, German; #N/D in Romance languages), R, pandas, SAS and the C library write for "no value".
NO_VALUE = frozenset(
    (
        "", "na", "n/a", "n.a.", "nan", "-nan", "null", "none", "nil", "-", "--", "---", "–", "—", ".", "?", "<na>",
        "#n/a", "#na", "#nv", "#n/d", "#num!", "#zahl!", "#value!", "#wert!", "#div/0!", "#ref!", "#bezug!", "#name?",
        "#null!", "1.#qnan", "1.#ind", "-1.#ind",
    )
)  # fmt: skip
BEGIN_NUMBERS = frozenset("0123456789+-.,−iI")  # i: infinity
BLANK = " "  # stands for any white space between cells
SEPARATORS = ("\t", ";", ",", BLANK)  # in this order where several make equally many numbers
# A group of one mark at most, so that thousands separators are no numbers.
PLAIN = re.compile(r"[+-]?+(?:[0-9]++(?:([.,])[0-9]*+)?+|([.,])[0-9]++)(?:[eEdD][+-]?+[0-9]++)?+")
GROUPED = re.compile(r"[+-]?+[0-9]{1,3}+(?:[.,'’\s][0-9]{3})++(?:[.,][0-9]*+)?+")
DATE = re.compile(r"[0-9]{1,4}+([-./])[0-9]{1,2}+\1[0-9]{1,4}+(?:[ T][0-9:.]++Z?+)?+")


class Table:
    """The cells of a text table, in rows of one length.

    Attributes:
        numbers: [row, column]; NaN where a cell is no number.
        kinds: [row, column]; MISSING, NUMBER or TEXT.
        above: lines of text above the table.
        comments: lines that begin with #, without it.
        doubtful: the line above the numbers, where it has too many or too few cells to hold their titles.
        decimal_comma: whether numbers are written with a decimal comma.
    """

    def __init__(self, lines: "_Lines", kept: list[int], width: int) -> None:
        self._separator, self.decimal_comma = lines.separator, lines.comma
        self._rows = [(lines.records[i], lines.at[i]) for i in kept]
        self._put_before: dict[int, list[str]] = {}
        self.comments, self.above, self.doubtful = lines.comments[:KEPT_LINES], list[str](), ""
        self.numbers = np.full((len(kept), width), np.nan)
        self.kinds = np.zeros((len(kept), width), np.uint8)
        starts = np.concatenate([[0], np.cumsum(lines.lengths, dtype=np.int64)])
        numbers, kinds = np.frombuffer(lines.numbers), np.frombuffer(lines.kinds, np.uint8)
        for row, i in enumerate(kept):
            start, count = int(starts[i]), min(width, lines.lengths[i])
            self.numbers[row, :count] = numbers[start : start + count]
            self.kinds[row, :count] = kinds[start : start + count]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.numbers.shape[0], self.numbers.shape[1]

    def row(self, number: int) -> list[str]:
        """The cells of a row as they are written, without white space around them."""
        cells = self._put_before.get(number, []) + cells_of(self._rows[number][0], self._separator)
        width = self.shape[1]
        return cells[:width] + [""] * (width - len(cells))

    def line(self, number: int) -> int:
        """The line of the file in which a row begins, counted from 1."""
        return self._rows[number][1]

    def columns(self, numbers: Iterable[int], first: int = 0) -> dict[int, list[str]]:
        """The cells of some columns from a row on; each row is cut once."""
        wanted = list(numbers)
        held: dict[int, list[str]] = {number: [] for number in wanted}
        if wanted:
            for row in range(first, len(self._rows)):
                cells = self.row(row)
                for number in wanted:
                    held[number].append(cells[number])
        return held

    def refused(self, row: int, column: int, title: str = "", wanted: str = "a number") -> ValueError:
        """The error about a cell that is not what it should be."""
        text = self.row(row)[column]
        of = f" ({shown(title)})" if title else ""
        found = shown(text) if text else "an empty cell"
        return ValueError(
            f"line {self.line(row)}, column {column + 1}{of}: {found} is not {wanted}"
            f"{_misread(text, self.decimal_comma)}"
        )

    def put_corner(self) -> None:
        """Move the cells of the first row to the right by one: R leaves the title of the row names out."""
        self._put_before[0] = [""]
        for cells in (self.numbers, self.kinds):
            cells[0, 1:] = cells[0, :-1].copy()
        self.numbers[0, 0], self.kinds[0, 0] = np.nan, MISSING

    def put_titles(self, comment: str, line: int) -> None:
        """Put a row of titles, which stand in a comment, above all others."""
        self._rows.insert(0, (comment, line))
        self.numbers = np.vstack([np.full((1, self.shape[1]), np.nan), self.numbers])
        self.kinds = np.vstack([np.full((1, self.kinds.shape[1]), TEXT, np.uint8), self.kinds])


def shown(text: str, length: int = 40) -> str:
    """A text of a file for a message: quoted, in one line, short."""
    return repr(text if len(text) <= length else text[: length - 1] + "…")


def grouped(text: str) -> bool:
    """Whether a text is a number with thousands separators, or may be one."""
    return GROUPED.fullmatch(text) is not None and text.lstrip("+-")[0] != "0"


def spoilt(text: str) -> bool:
    """Whether a text that is no number was meant as one: another decimal mark, thousands separators, per cent."""
    if text[:1] not in BEGIN_NUMBERS:
        return False
    bare = text.rstrip("% ")
    return PLAIN.fullmatch(bare) is not None or GROUPED.fullmatch(bare) is not None


def _misread(text: str, decimal_comma: bool) -> str:
    """Why a cell that should be a number is none, as the end of a sentence; empty where nothing is known."""
    if DATE.fullmatch(text):
        return ": it is a date"
    plain = PLAIN.fullmatch(text)
    used, wanted = ("dot", "comma") if decimal_comma else ("comma", "dot")
    if plain and not grouped(text):
        return f": it has a decimal {used}, other numbers of the table have a decimal {wanted}; write all in one way"
    if grouped(text):
        return f": write numbers without thousands separators, and all with a decimal {wanted}"
    if text.endswith("%"):
        return ": write it without the percent sign"
    return ""


def lines_of(path: Path) -> Iterator[str]:
    r"""The lines of a text file with their ends, in UTF-8, UTF-16 or, where it is neither, Windows-1252 or Latin-1.

    UTF-16 is known by its byte order mark, or by zeros in every second byte. Lines end with ``\n``, ``\r\n`` or ``\r``.

    Raises:
        ValueError: the file is no text, or too large for a table.
    """
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(
            f"a text table of {size / 2**20:.0f} MB is not read (the limit is {MOST_BYTES // 2**20} MB): save the "
            "spectra as .npz or as ENVI"
        )
    encoding = _encoding(path)
    try:
        with path.open(encoding=encoding, newline="") as file:
            for number, line in enumerate(file, 1):
                if number > MOST_LINES:
                    raise ValueError(f"a text table of more than {MOST_LINES} lines is not read: save it as .npz")
                if "\0" in line:
                    raise ValueError("the file holds zero bytes, so it is no text table")
                yield line.removeprefix("\ufeff") if number == 1 else line
    except UnicodeDecodeError as error:
        raise ValueError(f"the file cannot be read as {encoding.upper()} text, byte {error.start}") from None


def _encoding(path: Path) -> str:
    """The encoding of a text file.

    Raises:
        ValueError: zero bytes that are no UTF-16: the file is no text.
    """
    with path.open("rb") as file:
        start = file.read(4096)
        if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
            return "utf-32"
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        if b"\0" in start:
            # Digits, separators and Latin letters have a zero in every second byte; other letters of a name do not.
            zeros, half = (start[::2].count(0), start[1::2].count(0)), len(start) // 2
            if min(zeros) == 0 and max(zeros) > 0.9 * half > 0:
                return "utf-16-be" if zeros[0] else "utf-16-le"
            raise ValueError("the file holds zero bytes, so it is no text table")
        for encoding in ("utf-8", "cp1252"):
            file.seek(0)
            decoder, lines = codecs.getincrementaldecoder(encoding)(), 0
            try:
                while part := file.read(2**20):
                    lines += part.count(b"\n")
                    if lines > MOST_LINES:
                        raise ValueError(f"a text table of more than {MOST_LINES} lines is not read: save it as .npz")
                    decoder.decode(part)
                decoder.decode(b"", final=True)
            except UnicodeDecodeError:
                continue
            return encoding
    return "latin-1"


def read_cells(path: Path) -> Table:
    """The cells of a text table.

    The separator is the one of tab, semicolon, comma and white space that makes the most numbers in the first lines,
    or the one that a first line ``sep=;`` names. Decimal commas are understood where more numbers have a comma than a
    dot. Empty lines and lines that begin with # are left out, and so are columns at the end that are empty in all rows.

    Raises:
        ValueError: no text; no numbers; rows of different lengths; a quoted cell without end; absurd sizes.
    """
    sample, separator = _sample(path)
    if not sample:
        raise ValueError("the library is empty: there is no line that is not a comment")
    separator = separator or max(SEPARATORS, key=lambda s: (_numbers_in(sample, s), -SEPARATORS.index(s)))
    lines = _Lines(separator, _decimal_comma(sample, separator))
    for number, record in _records(path, separator):
        lines.add(number, record)
    return _rectangular(lines)


def _told_separator(line: str) -> str:
    """The separator that a first line ``sep=;`` names, as spreadsheets understand it; empty where it names none."""
    told = line.rstrip("\r\n").strip(' "')
    return told[4] if len(told) == 5 and told[:4].lower() == "sep=" and told[4] in SEPARATORS else ""


def _sample(path: Path) -> tuple[list[str], str]:
    """The lines by which separator and decimal mark are chosen, and the separator that the file names."""
    taken: list[str] = []
    length, separator = 0, ""
    for number, line in enumerate(lines_of(path), 1):
        if number == 1 and (separator := _told_separator(line)):
            continue
        part = line[: LOOKED_AT_CHARACTERS - length]
        if _is_empty(part) or _is_comment(part):
            continue
        taken.append(part)
        length += len(part)
        if length >= LOOKED_AT_CHARACTERS or len(taken) >= LOOKED_AT_LINES:
            break
    return taken, separator


def _is_empty(line: str) -> bool:
    """Whether a line holds nothing but separators and white space."""
    return not line.strip(" \t\r\n,;")


def _is_comment(line: str) -> bool:
    """Whether a line begins with #, and not with a spreadsheet's mark of an error such as #N/A."""
    start = line.lstrip(" \t")
    return start.startswith("#") and re.split(r"[\t;,\s]", start[:12], maxsplit=1)[0].lower() not in NO_VALUE


def _numbers_in(sample: Iterable[str], separator: str) -> int:
    """How many cells are numbers, with a decimal dot or comma, when lines are cut at a separator."""
    return sum(PLAIN.fullmatch(cell) is not None for line in sample for cell in _cut(line, separator))


def _cut(line: str, separator: str) -> list[str]:
    """The cells of a line by which the separator is chosen; none where it cannot be cut."""
    try:
        return cells_of(line, separator)
    except ValueError:
        return []


def _decimal_comma(sample: Iterable[str], separator: str) -> bool:
    """Whether numbers have a decimal comma.

    Raises:
        ValueError: commas that may be decimal or may separate thousands.
    """
    dots = commas = groups = 0
    for line in sample:
        for cell in _cut(line, separator):
            if found := PLAIN.fullmatch(cell):
                mark = found[1] or found[2]
                dots += mark == "."
                commas += mark == ","
                groups += mark == "," and grouped(cell)
    if commas and not dots and groups == commas:
        raise ValueError(
            "every comma inside a number is followed by three digits, so it may be a decimal comma or a thousands "
            "separator: write numbers with a decimal dot and without thousands separators"
        )
    return commas > dots


def _records(path: Path, separator: str) -> Iterator[tuple[int, str]]:
    """Rows, each with the line in which it begins: a quoted cell may hold line ends."""
    parts: list[str] = []
    length = first = 0
    opened = False
    for number, line in enumerate(lines_of(path), 1):
        if number == 1 and _told_separator(line):
            continue
        if not opened:
            first, parts, length = number, [], -len(line)
            if _is_empty(line):
                continue
        if '"' in line and (opened or not _is_comment(line)):
            try:
                opened = _open_after(line, separator, opened)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
        parts.append(line)
        length += len(line)  # of the lines after the first one
        if opened and length > LONGEST_CELL:
            break
        if not opened:
            yield first, "".join(parts).rstrip("\r\n")
    if opened:
        raise ValueError(
            f'line {first}: a cell that begins with a quotation mark (") does not end with one: close it, or delete it'
        )


def _open_after(line: str, separator: str, opened: bool) -> bool:
    """Whether a quoted cell is still open at the end of a line: whether the line would take another one in."""
    if separator == BLANK:
        line = line.replace("\t", BLANK)
    try:
        rows = list(csv.reader(['"' + line if opened else line, "next"], delimiter=separator, skipinitialspace=True))
    except csv.Error as error:
        raise ValueError(f"a quoted cell cannot be read: {error}") from None
    return len(rows) == 1


def cells_of(record: str, separator: str) -> list[str]:
    """The cells of a row, without white space around them.

    Raises:
        ValueError: a quoted cell that is too long.
    """
    if '"' not in record:
        return record.split() if separator == BLANK else [cell.strip() for cell in record.split(separator)]
    text = record.strip().replace("\t", BLANK) if separator == BLANK else record
    try:
        rows = list(csv.reader([text], delimiter=separator, skipinitialspace=True))
    except csv.Error as error:
        raise ValueError(str(error)) from None
    return [cell.strip() for row in rows for cell in row]


class _Lines:
    """Numbers and kinds of the cells of all rows, one after the other."""

    def __init__(self, separator: str, comma: bool) -> None:
        self.separator, self.comma = separator, comma
        self.numbers, self.kinds = array("d"), bytearray()
        self.records: list[str] = []
        self.at = array("q")  # the line of the file in which each row begins
        self.lengths = array("q")
        self.filled = array("q")  # cells up to the last one that is not empty
        self._known: dict[str, tuple[float, int]] = {}  # what cells that repeat were read as
        self.comments: list[str] = []
        self.last_comment = 0, ""  # line and text of the last comment above the first row

    def add(self, number: int, record: str) -> None:
        """A row, or a comment."""
        if _is_comment(record):
            comment = record.lstrip(" \t").removeprefix("#").strip()
            if not self.records:
                self.last_comment = number, comment
            if len(self.comments) < KEPT_LINES:
                self.comments.append(comment[:LONGEST_CELL])
            return
        if self.separator != BLANK and record.count(self.separator) >= MOST_COLUMNS:
            raise ValueError(f"line {number} has more than {MOST_COLUMNS} cells: that is no spectral library")
        if len(self.kinds) > MOST_CELLS:
            raise ValueError(f"a text table of more than {MOST_CELLS} cells is not read: save it as .npz or as ENVI")
        values = self._plain(record)
        if not values:
            try:
                cells = cells_of(record, self.separator)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
            filled = len(cells)
            while filled and not cells[filled - 1]:
                filled -= 1
            if not filled:
                return
            read = [self._known.get(cell) or self._read(cell) for cell in cells]
            self.numbers.extend([value for value, _ in read])
            self.kinds.extend([kind for _, kind in read])
            self.lengths.append(len(cells))
            self.filled.append(filled)
        else:
            self.numbers.extend(values)
            self.kinds.extend(bytes((NUMBER,)) * len(values))
            self.lengths.append(len(values))
            self.filled.append(len(values))
        if self.lengths[-1] > MOST_COLUMNS:
            raise ValueError(f"line {number} has more than {MOST_COLUMNS} cells: that is no spectral library")
        self.records.append(record)
        self.at.append(number)

    def _plain(self, record: str) -> list[float] | None:
        """The values of a row of nothing but numbers; None where it has other cells."""
        if '"' in record or "_" in record or "a" in record or "A" in record:  # float takes 1_0, and nan for a number
            return None
        if self.comma and ("." in record or self.separator == ","):
            return None
        text = record.replace(",", ".") if self.comma else record
        try:
            return [float(c) for c in (text.split() if self.separator == BLANK else text.split(self.separator))]
        except ValueError:
            return None

    def _read(self, cell: str) -> tuple[float, int]:
        """A cell as a number, and its kind."""
        read = self._number(cell) if cell[:1] in BEGIN_NUMBERS else None
        if read is None:
            read = np.nan, MISSING if cell.lower() in NO_VALUE else TEXT
        if len(self._known) < KNOWN_CELLS:
            self._known[cell] = read
        return read

    def _number(self, cell: str) -> tuple[float, int] | None:
        """A cell as a number; None where it is none, or has another decimal mark than the table."""
        text = cell.replace("−", "-")
        found = PLAIN.fullmatch(text)
        if not found:
            return (float(text), NUMBER) if text.lower().lstrip("+-") in ("inf", "infinity") else None
        mark = found[1] or found[2]
        if mark and (mark == ",") != self.comma:
            return None
        return float(text.replace(",", ".").replace("d", "e").replace("D", "e")), NUMBER


def _rectangular(lines: _Lines) -> Table:
    """The table that rows make; lines of text above it are put aside.

    Raises:
        ValueError: no numbers, or a row that is shorter or longer than the others.
    """
    lengths, filled = np.array(lines.lengths, int), np.array(lines.filled, int)
    if len(lengths) == 0:
        raise ValueError("the library is empty: there is no line that is not a comment")
    starts = np.cumsum(lengths) - lengths
    is_number = np.frombuffer(lines.kinds, np.uint8) == NUMBER
    count = np.add.reduceat(is_number, starts, dtype=np.int64)
    if not count.any():
        raise ValueError("cannot tell spectra in rows from spectra in columns: the table holds no number")
    usual = int(np.bincount(lengths, count).argmax())  # the length of the rows that hold most of the numbers
    width = int(filled[lengths == usual].max())
    fits = (lengths >= width) & (filled <= width)
    first = int(np.argmax(fits))
    odd = np.flatnonzero(~fits)
    odd_below = odd[odd > first]
    one_less = bool(first > 0 and lengths[first - 1] == width - 1 == filled[first - 1])
    corner = one_less and _without_corner(lines, first, starts, fits)
    lone = one_less and width == 2 and not corner and _titles_the_axis(lines, first, starts, fits)
    if corner or lone:
        first, odd = first - 1, odd[odd != first - 1]
    above = odd[odd < first]
    wrong = [*above[count[above] * 2 > lengths[above]], *odd_below]
    if wrong:
        row = int(wrong[0])
        cells = int(lengths[row]) if filled[row] <= width else int(filled[row])
        raise ValueError(
            f"line {lines.at[row]} has {cells} column{'s' * (cells != 1)}, the other lines have {width}: "
            f"{shown(lines.records[row])}"
        )
    if not (corner or lone):
        first = _after_titles(lines, first, starts, filled, width)
    table = Table(lines, [first] * (corner or lone) + [i for i in np.flatnonzero(fits).tolist() if i >= first], width)
    if corner:
        table.put_corner()
    table.above = [lines.records[i].strip()[:500] for i in range(min(first, KEPT_LINES))]
    if first and table.kinds[0, 0] != TEXT and lengths[first - 1] > 1:
        table.doubtful = lines.records[first - 1].strip()
    at, comment = lines.last_comment
    if comment and table.kinds[0, 0] == NUMBER:  # NumPy writes titles into a comment
        titles = cells_of(comment[:LONGEST_CELL], lines.separator)
        if len(titles) == width and is_axis(titles[0]):
            table.put_titles(comment, at)
            table.comments.remove(comment)
    return table


def _without_corner(lines: _Lines, first: int, starts: np.ndarray, fits: np.ndarray) -> bool:
    """Whether the line above the table has all titles but that of the first column, as R writes them.

    A line of text may have as many cells by chance. So the row below must hold numbers or classes; and the title of an
    axis is moved away from the first column only where that holds the names of rows: texts, or 1, 2, 3 ...
    """
    titles, below = (cells_of(lines.records[i], lines.separator) for i in (first - 1, first))
    kinds = np.frombuffer(lines.kinds, np.uint8)
    of_row = kinds[starts[first] : starts[first] + lines.lengths[first]]
    if not (of_row == NUMBER).any():
        return below[0].lower() in CLASS_TITLES
    if not any(names_axis(title) or is_axis(title) for title in titles):
        return True
    begin = starts[np.flatnonzero(fits)]
    if (kinds[begin] == TEXT).all():
        return band_of(below[0], lines.comma) is None
    counts = np.array_equal(np.frombuffer(lines.numbers)[begin], 1 + np.arange(len(begin)))
    return counts or lines.records[first].lstrip().startswith('"')


def _titles_the_axis(lines: _Lines, first: int, starts: np.ndarray, fits: np.ndarray) -> bool:
    """Whether the line above two columns of numbers is the title of the first one, which may hold wavelengths."""
    numbers = np.frombuffer(lines.numbers)[starts[np.flatnonzero(fits)]]
    title = cells_of(lines.records[first - 1], lines.separator)[0]
    return is_axis(title) and bool((numbers > 0).all() and numbers.max() <= WIDEST * numbers.min())


def _after_titles(lines: _Lines, first: int, starts: np.ndarray, filled: np.ndarray, width: int) -> int:
    """The first row that is no title line: one with a single text, filled up with separators, above another text.

    The title of an axis is kept, unless it stands again below.
    """
    while width > 1 and first + 1 < len(filled) and filled[first] == 1:
        one, following = (lines.kinds[starts[i]] for i in (first, first + 1))
        title, below = (cells_of(lines.records[i], lines.separator)[0] for i in (first, first + 1))
        if one != TEXT or following == NUMBER or (is_axis(title) and not names_axis(below)):
            break
        first += 1
    return first
