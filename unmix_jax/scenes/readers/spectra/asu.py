"""The thermal emission spectral library of Arizona State University, as text.

A file holds wavenumbers in its first column and the emissivities of one spectrum or of several in the others; lines
before them, marked with ``#`` or ``!`` or not, say what it is. The site exports metadata as a table of its own, with a
row per spectrum and the columns ``sample_name`` and ``category``; it is read where it lies beside the spectra under the
same name with the suffix ``.csv``, or with ``_meta`` or ``_metadata`` before it.

Christensen, P. R., and others, 2000, A thermal emission spectral library of rock-forming minerals: Journal of
Geophysical Research 105 (E4), 9735-9739; https://speclib.asu.edu.
"""

import re
from pathlib import Path

import numpy as np

from unmix_jax.scenes.readers.spectra.common import (
    Shared,
    Single,
    asked,
    cells_of,
    distinct,
    head_of,
    is_number,
    library_of,
    lines_of,
    quantity_of,
    stated_unit,
    table_of_numbers,
)
from unmix_jax.scenes.reading import Entries, Reading
from unmix_jax.scenes.scene import SpectralLibrary

__all__ = ["is_asu", "read_asu", "single_asu"]

SUFFIXES = (".txt", ".asc", ".dat", ".tab", "")
BESIDE = (".csv", "_meta.csv", "_metadata.csv")
NAME, CATEGORY = "sample_name", "category"
SAMPLE_NAMES = ("Name", "Sample", "Sample Name")  # lines of a header
OWN = ("thermal emission spectral library", "speclib.asu.edu", "arizona state university")
ASU = re.compile(r"\basu\b")
NAMED = re.compile(r"^[#!;\s]*+(?:name|sample|sample name)\s*+:", re.M)
TITLES = re.compile(r"^[#!;\s]*+wave ?(?:number|length)[^\n]*\bemissiv")
# The library's spectra run from 2000 to 220 cm⁻¹; no thermal wavelength in µm is as large as this.
WAVENUMBERS_ABOVE = 100.0


def is_asu(path: Path, head: bytes) -> bool:
    """Whether a file is text of the library: its header says so, or the site's table of metadata lies beside it.

    Other tables too speak of emissivity and wavenumbers. The header of the library names it, or names the sample in a
    line of its own and has titles for both columns right above the numbers.

    Args:
        path: the file.
        head: its first bytes.
    """
    if path.suffix.lower() not in SUFFIXES or b"\0" in head:
        return False
    lines = head.decode("latin-1").split("\n")
    before: list[str] = []
    for line in lines:
        if _is_row(line):
            return _is_own("\n".join(before).lower(), before[-1].lower() if before else "") or _table(path) is not None
        before.append(line)
    return False


def _is_own(said: str, titles: str) -> bool:
    """Whether a header, whose last line may hold titles, is one of the library."""
    if any(words in said for words in OWN) or (ASU.search(said) and "emissiv" in said):
        return True
    return NAMED.search(said) is not None and TITLES.match(titles) is not None


def read_asu(path: Path, told: Reading) -> SpectralLibrary:
    """Read spectra of the ASU thermal emission library.

    Wavenumbers stay in cm⁻¹. Names and classes are those of the table beside the file (``sample_name``,
    ``category``), or of a line of titles above the columns; the key ``class`` names another column of the table.

    Args:
        path: the text file.
        told: what the user says.

    Raises:
        ValueError: lines that are not numbers, a table that does not fit the spectra.
    """
    asked(told, ("class",), path)
    return library_of(_singles(path, told), told, path)


def single_asu(path: Path, told: Reading, shared: Shared) -> Single:
    """The one spectrum of a file of the library.

    Args:
        path: its file.
        told: what the user says.
        shared: not used.

    Raises:
        ValueError: the file holds several spectra, and as `read_asu`.
    """
    singles = _singles(path, told)
    if len(singles) > 1:
        raise ValueError(f"{path}: {len(singles)} spectra, where a folder of single spectra was expected")
    return singles[0]


def _singles(path: Path, told: Reading) -> list[Single]:
    """The spectra of a file."""
    lines = lines_of(path)
    first = next((at for at, line in enumerate(lines) if _is_row(line)), len(lines))
    separator = "," if "," in (lines[first] if first < len(lines) else "") else None
    table = table_of_numbers(lines, first, path, separator=separator)
    if table.shape[1] < 2:
        raise ValueError(f"{path}, line {first + 1}: one number, where a wavenumber and a value were expected")
    header, titles = _header(lines[:first], table.shape[1], separator)
    said = " ".join(lines[:first]).lower()
    axis_title = titles[0] if titles else _axis_line(lines[:first])
    centers, count = table[:, 0], table.shape[1] - 1
    metadata = _metadata(path, count)
    said_once = next((header[name] for name in SAMPLE_NAMES if name in header), path.stem)
    names = [said_once] * count
    if titles and (count > 1 or (quantity_of(titles[1]) == "value" and said_once == path.stem)):
        names = titles[1:]
    names = metadata.get(NAME, names)
    singles = []
    for at, name in enumerate(distinct(names, [""] * count)):
        entries = Entries({**header, **{title: cells[at] for title, cells in metadata.items()}})
        for title in (NAME, *SAMPLE_NAMES):
            entries.use(title)
        entries.carry(*metadata)
        singles.append(
            Single(
                name,
                table[:, 1 + at],
                centers,
                _unit(axis_title, said, centers, path, told),
                quantity if (quantity := quantity_of(said)) in ("reflectance", "transmittance") else "emissivity",
                entries,
                tag=path.stem if count == 1 else f"column {at + 2}",
                group=str(entries.use(CATEGORY, "")),
            )
        )
    return singles


def _is_row(line: str) -> bool:
    """Whether a line holds two numbers or more."""
    cells = line.replace(",", " ").split()
    return len(cells) > 1 and all(is_number(cell) for cell in cells[:8])


def _header(lines: list[str], columns: int, separator: str | None) -> tuple[dict[str, str], list[str]]:
    """``Key: value`` lines and others above the numbers, and the titles of the columns where the last line has them."""
    header: dict[str, str] = {}
    titles: list[str] = []
    for at, line in enumerate(lines):
        plain = line.strip().lstrip("#!;").strip()
        if not plain:
            continue
        cells = [cell.strip() for cell in plain.split("\t" if "\t" in plain else separator)]
        key, colon, value = plain.partition(":")
        if at == len(lines) - 1 and len(cells) == columns:
            titles = cells
        elif colon and value.strip():
            header[key.strip()] = value.strip()
        else:
            header[f"line {at + 1}"] = plain
    return header, titles


def _axis_line(lines: list[str]) -> str:
    """The last line above the numbers where it begins with the title of an axis, though its cells cannot be told."""
    last = next((line.strip().lstrip("#!;").strip() for line in reversed(lines) if line.strip()), "")
    return last if last.lower().startswith(("wavelength", "wavenumber")) else ""


def _unit(title: str, said: str, centers: np.ndarray, path: Path, told: Reading) -> str | None:
    """The unit of the first column: what its title or the header says, else cm⁻¹ where the numbers are wavenumbers."""
    if (unit := stated_unit(title, path, told)) is not None:
        return unit
    if title.lower().startswith("wavelength"):
        return "um" if "micron" in said or "micromet" in said else None
    if "wavenumber" in said or "cm-1" in said or "cm^-1" in said:
        return "cm-1"
    if "micron" in said or "micromet" in said:
        return "um"
    return "cm-1" if np.nanmax(centers) > WAVENUMBERS_ABOVE else None


def _table(path: Path) -> Path | None:
    """The site's table of metadata beside a file."""
    for ending in BESIDE:
        table = path.with_name(path.stem + ending)
        if table != path and table.is_file() and not table.is_symlink():
            first = head_of(table).decode("utf-8-sig", "replace").split("\n", 1)[0].lower()
            if NAME in [cell.strip(' "\r') for cell in first.split(",")]:
                return table
    return None


def _metadata(path: Path, count: int) -> dict[str, list[str]]:
    """The columns of the table beside a file, one cell per spectrum; empty where there is none."""
    table = _table(path)
    if table is None:
        return {}
    rows = cells_of(table, separators=",")
    if len(rows) - 1 != count:
        raise ValueError(f"{table}: {len(rows) - 1} rows of metadata for the {count} spectra of {path.name}")
    for at, row in enumerate(rows[1:], 2):
        if len(row) != len(rows[0]):
            raise ValueError(f"{table}, row {at}: {len(row)} cells, the titles are {len(rows[0])}")
    titles = [title.lower() if title.lower() in (NAME, CATEGORY) else title for title in rows[0]]
    return {title: [row[at] for row in rows[1:]] for at, title in enumerate(titles)}
