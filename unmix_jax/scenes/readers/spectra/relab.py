"""Spectra of RELAB, the reflectance experiment laboratory of Brown University and NASA Keck.

Each spectrum is there twice. ``.asc``: the number of data lines; wavelength in nm, reflectance, and standard deviation
if there is one; then empty lines, the file's name, the sample's number and comments. ``.txt``: a line with the sample's
number and the file's name, a line of titles, then the same columns with wavelengths in µm and tabs between. The
Planetary Data System keeps the lines of numbers as ``.tab``.

In the database the files are ``data/<investigator>/<collection>/<spectrum>``; the catalogues, where they were saved as
text, are ``catalogues/Spectra_Catalogue.txt`` and ``Sample_Catalogue.txt``. They name the samples.

Pieters, C. M., Hiroi, T., 2004, RELAB (Reflectance Experiment Laboratory): a NASA multiuser spectroscopy facility: 35th
Lunar and Planetary Science Conference, 1720. The layouts are those of the readme of the downloadable database.
"""

import csv
import re
from pathlib import Path

import numpy as np

from unmix_jax.scenes.readers.spectra.common import (
    Shared,
    Single,
    asked,
    is_number,
    library_of,
    lines_of,
    table_of_numbers,
)
from unmix_jax.scenes.reading import Entries, Reading
from unmix_jax.scenes.scene import SpectralLibrary

__all__ = ["is_relab", "read_relab", "single_relab"]

SAMPLE = re.compile(r"[A-Z0-9]{2}-[A-Z0-9]{3}-\d{3}(-[A-Z0-9]+)?", re.I)  # LS-CMP-012
# C1LS12, BKR1MP021: spectrometer and kind of measurement end with a digit, then initials and a number. Names without
# the digit, such as LAPP01, look like words (leaf01) and say nothing.
SPECTRUM = re.compile(r"[A-Z](?:[A-Z]{2})?[0-9][A-Z]{2}[0-9]{1,3}[A-Z]?", re.I)
SPECTRA, SAMPLES = "spectra_catalogue", "sample_catalogue"
CATALOGUES = (".txt", ".tab", ".tsv")
KEPT = (  # columns of the catalogues, with the names under which they stand in the header
    "SampleName", "GeneralType1", "GeneralType2", "Type1", "Type2", "SubType", "MinSize", "MaxSize", "Particulate",
    "Texture", "Origin", "Location", "SpecCode", "Date", "Resolution", "SourceAngle", "DetectAngle",
)  # fmt: skip
GROUPS = ("GeneralType1", "Type1")


def is_relab(path: Path, head: bytes) -> bool:
    """Whether a file is a spectrum of RELAB in one of its layouts.

    Two or three columns of numbers in a ``.tab`` file may be anything, so a count of lines, a name as RELAB gives it or
    the catalogue must say so.

    Args:
        path: the file.
        head: its first bytes.
    """
    suffix = path.suffix.lower()
    if suffix not in (".asc", ".txt", ".tab") or b"\0" in head:
        return False
    lines = [line.strip() for line in head.decode("latin-1").replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    if len(lines) < 2:
        return False
    if suffix == ".txt":
        return bool(SAMPLE.match(lines[0])) and lines[1].lower().startswith("wavelength")
    counted = lines[0].isdigit() and lines[0].isascii()
    rows = lines[1:3] if counted else lines[:2]
    if not all(_is_row(row) for row in rows if row):
        return False
    return counted or (suffix == ".tab" and (SPECTRUM.fullmatch(path.stem) is not None or _has_catalogue(path)))


def read_relab(path: Path, told: Reading) -> SpectralLibrary:
    """Read one spectrum of RELAB.

    Args:
        path: an ``.asc``, ``.txt`` or ``.tab`` file.
        told: what the user says; the key ``class`` names an entry, such as ``Type1`` of the catalogue.

    Raises:
        ValueError: not one of the layouts, a line that is not numbers, fewer lines than the first one says.
    """
    asked(told, ("class",), path)
    return library_of([single_relab(path, told, {})], told, path)


def single_relab(path: Path, told: Reading, shared: Shared) -> Single:
    """One spectrum of RELAB.

    Args:
        path: its file.
        told: what the user says.
        shared: the catalogues, read once for a folder.

    Raises:
        ValueError: as `read_relab`.
    """
    lines = lines_of(path)
    table, header, unit = _text(lines, path) if path.suffix.lower() == ".txt" else _counted(lines, path)
    if table.shape[1] not in (2, 3):
        raise ValueError(
            f"{path}: {table.shape[1]} columns; expected wavelength, reflectance and, perhaps, standard deviation"
        )
    catalogue = _catalogue(path, shared)
    known = catalogue.get(path.stem.lower(), {})
    entries = Entries(
        {**header, **known} | ({"standard deviation": table[:, 2].tolist()} if table.shape[1] == 3 else {})
    )
    entries.carry(*header, *KEPT, "standard deviation")
    for used in ("number of data lines", "column titles"):
        entries.use(used)
    sample = header.get("sample", "")
    return Single(
        entries.use("SampleName") or sample or path.stem,
        table[:, 1],
        table[:, 0],
        unit,
        "reflectance",
        entries,
        tag=path.stem,
        group=next((str(entries.use(name)) for name in GROUPS if entries.peek(name)), ""),
        axis_of=known.get("SpecCode", ""),
    )


def _is_row(line: str) -> bool:
    """Whether a line holds two or three numbers."""
    cells = line.split()
    return len(cells) in (2, 3) and all(is_number(cell) for cell in cells)


def _counted(lines: list[str], path: Path) -> tuple[np.ndarray, dict[str, str], str | None]:
    """The layout ``.asc``; without the first line and without comments also ``.tab``, whose unit no line states."""
    first = lines[0].strip()
    if not (first.isdigit() and first.isascii()):
        return table_of_numbers(lines, 0, path), {}, None
    count = int(first[:9])
    if count + 1 > len(lines):
        raise ValueError(
            f"{path}: the file is cut off: the first line says {count} data lines, {len(lines) - 1} follow"
        )
    table = table_of_numbers(lines, 1, path, last=1 + count)
    if len(table) != count:
        raise ValueError(f"{path}: the first line says {count} data lines, there are {len(table)}")
    header = {"number of data lines": first}
    rest = [line.strip() for line in lines[1 + count :] if line.strip()]
    for name, line in zip(("file name", "sample"), rest, strict=False):
        header[name] = line
    if len(rest) > 2:
        header["comments"] = " ".join(rest[2:])
    return table, header, "nm"


def _text(lines: list[str], path: Path) -> tuple[np.ndarray, dict[str, str], str | None]:
    """The layout ``.txt``."""
    if len(lines) < 3:
        raise ValueError(f"{path}: expected a line with the sample, a line of titles, and lines of numbers")
    sample, _, name = lines[0].strip().partition("\t")
    if not name:
        sample, _, name = lines[0].strip().partition(" ")
    titles = lines[1].lower()
    header = {"sample": sample.strip(), "file name": name.strip(), "column titles": " ".join(lines[1].split())}
    return table_of_numbers(lines, 2, path), header, "nm" if re.search(r"(?<![a-z])nm(?![a-z])", titles) else "um"


def _places(path: Path) -> list[Path]:
    """The folders in which the catalogues of a spectrum may lie."""
    above = path.absolute().parents
    known = len(above) > 3 and above[2].name.lower() == "data"
    return [path.parent, above[3] / "catalogues"] if known else [path.parent]


def _has_catalogue(path: Path) -> bool:
    """Whether a catalogue of spectra lies in one of its places."""
    return any(
        found.stem.lower() == SPECTRA and found.suffix.lower() in CATALOGUES and not found.is_symlink()
        for place in _places(path)
        if place.is_dir()
        for found in place.iterdir()
    )


def _catalogue(path: Path, shared: Shared) -> dict[str, dict[str, str]]:
    """What the catalogues say of each spectrum, by its file's name in small letters; empty where there are none."""
    for place in _places(path):
        if place not in shared:
            shared[place] = _catalogue_in(place)
        if shared[place]:
            return shared[place]
    return {}


def _catalogue_in(folder: Path) -> dict[str, dict[str, str]]:
    """The catalogues of one folder, joined by the number of the sample."""
    spectra = _rows(folder, SPECTRA)
    if not spectra:
        return {}
    samples = {row.get("SampleID", "").lower(): row for row in _rows(folder, SAMPLES)}
    joined = {}
    for row in spectra:
        both = {**samples.get(row.get("SampleID", "").lower(), {}), **row}
        joined[row.get("SpectrumID", "").lower()] = {name: both[name] for name in KEPT if both.get(name)}
    return joined


def _rows(folder: Path, name: str) -> list[dict[str, str]]:
    """The rows of a catalogue that was saved as text with tabs; none where there is no such file."""
    if not folder.is_dir():
        return []
    for found in sorted(folder.iterdir()):
        if found.stem.lower() == name and found.suffix.lower() in CATALOGUES and not found.is_symlink():
            try:
                rows = list(csv.reader(lines_of(found), delimiter="\t"))
            except csv.Error as error:
                raise ValueError(f"{found}: not a table with tabs ({error})") from None
            titles = [title.strip() for title in rows[0]] if rows else []
            return [dict(zip(titles, (cell.strip() for cell in row), strict=False)) for row in rows[1:]]
    return []
