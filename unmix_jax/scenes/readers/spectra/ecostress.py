"""The ECOSTRESS spectral library and its predecessor, the ASTER spectral library: one text file per spectrum.

A header of ``Key: value`` lines, of which description and origin may run over several lines, then an empty line, then
pairs of wavelength and value, rising or falling. Files are Latin-1; older ones differ in spaces, tabs and spelling.

Meerdink, S. K., Hook, S. J., Roberts, D. A., Abbott, E. A., 2019, The ECOSTRESS spectral library version 1.0: Remote
Sensing of Environment 230, 111196. Baldridge, A. M., Hook, S. J., Grove, C. I., Rivera, G., 2009, The ASTER spectral
library version 2.0: Remote Sensing of Environment 113, 711-715. The header's entries are those of
https://github.com/susanmeerdink/ASTER-Spectral-Library, with which contributed spectra are made.
"""

from pathlib import Path

import numpy as np

from unmix_jax.scenes.readers.spectra.common import (
    Shared,
    Single,
    asked,
    fractions,
    is_number,
    library_of,
    lines_of,
    number,
    numbers,
    quantity_of,
    stated_unit,
)
from unmix_jax.scenes.reading import REFLECTANCE_UP_TO, Entries, Reading
from unmix_jax.scenes.scene import SpectralLibrary

__all__ = ["is_ecostress", "read_ecostress", "single_ecostress"]

# In the order of the files; genus and species stand in place of subclass and particle size for plants.
KNOWN = (
    "name", "type", "class", "subclass", "genus", "species", "particle size", "sample no.", "owner",
    "wavelength range", "origin", "collection date", "collected by", "description", "measurement", "first column",
    "second column", "x units", "y units", "first x value", "last x value", "number of x values",
    "additional information",
)  # fmt: skip
LONG = ("origin", "description", "additional information", "collected by")  # free text, in which a colon means nothing
LONGEST_TITLE = 40  # letters; what stands before a colon in a longer line is text
ENDS = 1e-3  # share of the range by which the ends of the data may differ from the header's, which are rounded


def is_ecostress(path: Path, head: bytes) -> bool:
    """Whether a file is a spectrum of the library; ancillary files are not.

    Args:
        path: the file.
        head: its first bytes.
    """
    text = head.decode("latin-1").lower()
    return (
        text.lstrip("\ufeffï»¿ \t\r\n").startswith("name:")
        and "\ntype:" in text
        and "\nclass:" in text
        and not path.name.lower().endswith(".ancillary.txt")
    )


def read_ecostress(path: Path, told: Reading) -> SpectralLibrary:
    """Read one spectrum of the ECOSTRESS or ASTER library.

    Values in per cent become fractions. The class is the file's ``Class``, or the entry that the key ``class`` names,
    such as ``Type`` or ``Subclass``.

    Args:
        path: a ``.spectrum.txt`` file.
        told: what the user says.

    Raises:
        ValueError: no units, a line that is not a pair of numbers, fewer values than the header says.
    """
    asked(told, ("class",), path)
    return library_of([single_ecostress(path, told, {})], told, path)


def single_ecostress(path: Path, told: Reading, shared: Shared) -> Single:
    """One spectrum of the ECOSTRESS or ASTER library.

    Args:
        path: its file.
        told: what the user says.
        shared: not used.

    Raises:
        ValueError: as `read_ecostress`.
    """
    lines = lines_of(path)
    header, first = _header(lines, path)
    entries = Entries(header)
    entries.carry(*KNOWN)
    for name in ("x units", "y units"):
        if name not in entries:
            raise ValueError(f"{path}: the header has no '{name.title()}' line")
    reversed_columns = (entries.use("first column", "X") or "X").strip().lower() == "y"
    entries.use("second column")
    x, y, passed_over = _pairs(lines, first, path, reversed_columns)
    notes = []
    if passed_over:
        notes.append(
            "lines that are not a positive wavelength with its value are passed over "
            f"({len(passed_over)}, the first is line {passed_over[0]})"
        )
    if (note := _incomplete(entries, x, path)) is not None:
        notes.append(note)
    said = entries.use("y units")
    quantity, low = quantity_of(said), said.lower()
    percent = "percent" in low or "%" in low or "per cent" in low
    values = fractions(y, percent, told)
    largest = np.abs(values[np.isfinite(values)]).max(initial=0.0)
    if not percent and "fraction" not in low and told.scale is None and largest > REFLECTANCE_UP_TO:
        notes.append(f"'Y Units: {said}' says neither per cent nor fraction, and values reach {largest:g}")
    return Single(
        entries.use("name") or path.stem,
        values,
        x,
        stated_unit(entries.use("x units"), path, told),
        quantity,
        entries,
        tag=entries.peek("sample no.") or path.name.removesuffix(".txt").removesuffix(".spectrum"),
        group=str(entries.use("class", "")) or str(entries.use("type", "")),
        axis_of=str(entries.peek("wavelength range", "")),
        notes=tuple(notes),
    )


def _header(lines: list[str], path: Path) -> tuple[dict[str, str], int]:
    """The entries of the header, names as in the file, and the first line of data."""
    parts: dict[str, list[str]] = {}
    seen: set[str] = set()
    name, first = "", len(lines)
    for at, line in enumerate(lines):
        title, colon, value = line.partition(":")
        low = " ".join(title.lower().split()) if len(title) < LONGEST_TITLE else ""
        if not line.strip():
            continue
        if "y units" in seen and all(is_number(cell) for cell in line.split()[:3]):
            first = at
            break
        if colon and ((low in KNOWN and low not in seen) or (low and name and name.lower() not in LONG)):
            name = " ".join(title.split())
            seen.add(low)
            parts.setdefault(name, []).append(value.strip())
        elif not name:
            raise ValueError(f"{path}, line {at + 1}: expected 'Name: ...'")
        else:
            parts[name].append(line.strip())
    return {name: " ".join(part for part in said if part) for name, said in parts.items()}, first


def _pairs(
    lines: list[str], first: int, path: Path, reversed_columns: bool
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """The pairs of numbers, and the numbers of lines that are none; the libraries hold some."""
    rows: list[np.ndarray] = []
    passed_over: list[int] = []
    for at in range(first, len(lines)):
        cells = lines[at].split()
        if not cells:
            continue
        try:
            row = numbers(cells)
        except ValueError as error:
            raise ValueError(f"{path}, line {at + 1}: {error}") from None
        row = row[::-1] if reversed_columns else row
        if len(row) == 2 and row[0] > 0:
            rows.append(row)
        else:
            passed_over.append(at + 1)
    if len(rows) < 2:
        raise ValueError(f"{path}: {len(rows)} pairs of wavelength and value below the header")
    x, y = np.stack(rows).T
    return x, y, passed_over


def _incomplete(entries: Entries, x: np.ndarray, path: Path) -> str | None:
    """A note where the number of values is not the header's; an error where the data end before the header says."""
    ends = [entries.use(name, "") for name in ("first x value", "last x value")]
    stated = entries.use("number of x values", "")
    if not is_number(stated) or int(number(stated)) == len(x):
        return None
    count = int(number(stated))
    if count > len(x) and all(is_number(end) for end in ends):
        low, high = sorted(number(end) for end in ends)
        if x.min() > low + ENDS * (high - low) or x.max() < high - ENDS * (high - low):
            raise ValueError(
                f"{path}: the file is cut off: the header says {count} values from {ends[0]} to {ends[1]}, it has "
                f"{len(x)} from {x[0]:g} to {x[-1]:g}"
            )
    return f"the header says {count} values, the file has {len(x)}"
