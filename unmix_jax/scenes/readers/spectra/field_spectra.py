"""Text files of field spectrometers: Spectral Evolution ``.sed``, and SVC and GER ``.sig``.

``.sed``: ``Key: value`` lines, a line ``Data:``, a line of titles with tabs between, then the values; two values of a
key are those of reference and target. ``.sig``: ``/*** Spectra Vista SIG Data ***/``, ``key= value`` lines, a line
``data=``, then wavelength, reference, target and their ratio in per cent. GER's older files begin with
``///GER SIGNATUR FILE///`` and have four columns, or three without the ratio. Wavelengths are in nm. Where detectors
overlap, bands stay in the order of the file.

Spectral Evolution, DARWin SP user manual; Spectra Vista Corporation, SVC HR-1024i user manual. The layouts are those of
the files that https://github.com/meireles/spectrolab holds as examples (inst/extdata), and for GER those of SAMS
(https://github.com/carueda/sams, GERFile) and SPECCHIO (GER_FileLoader).
"""

import re
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
    quantity_of,
    table_of_numbers,
)
from unmix_jax.scenes.reading import Entries, Reading
from unmix_jax.scenes.scene import SpectralLibrary

__all__ = ["is_sed", "is_sig", "read_sed", "read_sig", "single_sed", "single_sig"]

SVC, GER = "/*** Spectra Vista", "///GER "
MARKUP = re.compile(r"</?[A-Za-z]++>")  # <Metadata>: begins and ends a part of the header
SED_KNOWN = (
    "comment", "version", "file name", "instrument", "detectors", "measurement", "date", "time", "temperature (c)",
    "battery voltage", "averages", "integration", "dark mode", "foreoptic", "radiometric calibration", "units",
    "wavelength range", "latitude", "longitude", "altitude", "gps time", "satellites",
    "calibrated reference correction file", "channels",
)  # fmt: skip
SIG_KNOWN = (
    "name", "instrument", "integration", "scan method", "scan coadds", "scan time", "scan settings",
    "external data set1", "external data set2", "external data dark", "external data mask", "optic", "temp", "battery",
    "error", "units", "time", "longitude", "latitude", "gpstime", "comm", "memory slot", "factors",
    "inclinometer x offset", "inclinometer y offset", "head", "nhdr",
)  # fmt: skip
SIG_COLUMNS = {"reference": 1, "target": 2, "reflectance": 3}
WAVELENGTH = ("wvl", "wavelength")
RATIO = ("reflect", "tgt./ref", "tgt/ref")
PERCENT_LIKELY = 10.0  # 100 · target / reference over the ratio column: 1 in per cent, 100 in fractions


def is_sed(path: Path, head: bytes) -> bool:
    """Whether a file is one of Spectral Evolution's.

    Args:
        path: the file.
        head: its first bytes.
    """
    text = head.decode("latin-1").lower()
    return "\ndata:" in text and "\ninstrument:" in f"\n{text}" and "wvl" in text


def is_sig(path: Path, head: bytes) -> bool:
    """Whether a file is one of SVC's or GER's.

    Args:
        path: the file.
        head: its first bytes.
    """
    return head.decode("latin-1").lstrip().startswith((SVC, GER))


def read_sed(path: Path, told: Reading) -> SpectralLibrary:
    """Read a ``.sed`` spectrum of a Spectral Evolution spectrometer.

    Reflectance in per cent becomes a fraction. A file without reflectance gives what the target gave: radiance,
    irradiance or counts.

    Args:
        path: the file.
        told: what the user says; the key ``column`` chooses one by its title, such as ``Rad. (Target)``.

    Raises:
        ValueError: no data, a line that is not numbers, fewer channels than the header says.
    """
    asked(told, ("class", "column"), path)
    return library_of([single_sed(path, told, {})], told, path)


def read_sig(path: Path, told: Reading) -> SpectralLibrary:
    """Read a ``.sig`` spectrum of an SVC or GER spectrometer.

    Args:
        path: the file.
        told: what the user says; the key ``column`` chooses ``reflectance``, ``target`` or ``reference``; in GER's
            files of three columns, whose order they do not state, ``2/3`` or ``3/2``.

    Raises:
        ValueError: no data, a line that is not numbers, three columns without a choice.
    """
    asked(told, ("class", "column"), path)
    return library_of([single_sig(path, told, {})], told, path)


def single_sed(path: Path, told: Reading, shared: Shared) -> Single:
    """One ``.sed`` spectrum.

    Args:
        path: its file.
        told: what the user says.
        shared: not used.

    Raises:
        ValueError: as `read_sed`.
    """
    lines = lines_of(path)
    at = next((i for i, line in enumerate(lines) if line.strip().lower() == "data:"), None)
    if at is None or at + 2 >= len(lines):
        raise ValueError(f"{path}: no line 'Data:' with titles and numbers below it")
    header = _entries([line for line in lines[:at] if not MARKUP.fullmatch(line.strip())], ":")
    titles = [title.strip() for title in lines[at + 1].rstrip().split("\t")]
    wavelength = next((i for i, title in enumerate(titles) if title.lower().startswith(WAVELENGTH)), None)
    if wavelength is None or len(titles) < 2:
        raise ValueError(f"{path}, line {at + 2}: expected titles with tabs between, the first 'Wvl'")
    table = table_of_numbers(lines, at + 2, path, separator="\t")
    if table.shape[1] != len(titles):
        raise ValueError(f"{path}, line {at + 3}: {table.shape[1]} numbers for the {len(titles)} titles")
    chosen = _sed_column(titles, told, path)
    entries = Entries({**header, **{t: table[:, i].tolist() for i, t in enumerate(titles) if i != wavelength}})
    entries.carry(*SED_KNOWN, *titles, *(name for name in header if re.fullmatch(r"columns \[\d+\]", name.lower())))
    channels = entries.use("channels", "")
    if is_number(channels) and len(table) < number(channels):
        raise ValueError(f"{path}: cut off: the header says {channels} channels, {len(table)} are there")
    title = titles[chosen]
    entries.use(title)
    low = title.lower()
    quantity = "reflectance" if low.startswith(RATIO) else "raw counts" if _counts(low) else quantity_of(low)
    return _single(path, table[:, wavelength], fractions(table[:, chosen], "%" in title, told), quantity, entries)


def single_sig(path: Path, told: Reading, shared: Shared) -> Single:
    """One ``.sig`` spectrum.

    Args:
        path: its file.
        told: what the user says.
        shared: not used.

    Raises:
        ValueError: as `read_sig`.
    """
    lines = lines_of(path)
    ger = lines[0].strip().startswith(GER)
    if not ger and not lines[0].strip().startswith(SVC):
        raise ValueError(f"{path}, line 1: expected '/*** Spectra Vista SIG Data ***/' or '///GER SIGNATUR FILE///'")
    at = next((i for i, line in enumerate(lines) if line.strip().lower().replace(" ", "") == "data="), None)
    if at is None and ger:
        at = next((i - 1 for i, line in enumerate(lines[1:], 1) if _all_numbers(line)), None)
    if at is None:
        raise ValueError(f"{path}: no line 'data=' with numbers below it")
    table = table_of_numbers([line.replace(",", " ") for line in lines] if ger else lines, at + 1, path)
    entries = Entries(_entries(lines[1 : at + 1], "="))
    entries.carry(*SIG_KNOWN)
    chosen, columns = told.keys.get("column"), table.shape[1]
    if columns == 3 and chosen in ("2/3", "3/2"):
        above, below = (1, 2) if chosen == "2/3" else (2, 1)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            ratio = np.where(table[:, below] > 0, table[:, above] / table[:, below], np.nan)
        return _single(path, table[:, 0], ratio, "reflectance", entries)
    if columns == 3:
        raise ValueError(
            f"{path}: three columns, and the file does not say which of the last two is the target; give "
            "--key column=2/3 or column=3/2 (keys={'column': ...}) for their ratio"
        )
    if columns != 4:
        raise ValueError(f"{path}: {columns} columns; expected wavelength, reference, target and reflectance")
    if chosen is not None and chosen not in SIG_COLUMNS:
        raise ValueError(f"{path}: key column must be one of {', '.join(SIG_COLUMNS)}, got {chosen!r}")
    column = SIG_COLUMNS[chosen or "reflectance"]
    if column != 3:
        return _single(path, table[:, 0], table[:, column], _sig_quantity(entries, column), entries)
    entries.use("units")
    return _single(path, table[:, 0], fractions(table[:, 3], _in_percent(table), told), "reflectance", entries)


def _single(path: Path, centers: np.ndarray, values: np.ndarray, quantity: str, entries: Entries) -> Single:
    """A spectrum of these formats, with a note where its detectors overlap."""
    falls = int((np.diff(centers) <= 0).sum())
    notes = (
        (f"wavelengths fall back {falls} times, where detectors overlap; the order of the file is kept",)
        if falls and falls < len(centers) / 2
        else ()
    )
    return Single(
        path.stem,
        values,
        centers,
        "nm",
        quantity,
        entries,
        tag=path.name,
        axis_of=str(entries.peek("instrument", "")),
        notes=notes,
    )


def _entries(lines: list[str], between: str) -> dict[str, str]:
    """The lines of a header as entries; a line without the sign is an entry of its own."""
    entries: dict[str, str] = {}
    for at, line in enumerate(lines, 1):
        name, found, value = line.strip().partition(between)
        if found and name.strip() and name.strip() not in entries:
            entries[name.strip()] = value.strip()
        elif line.strip() and line.strip() != "data=":
            entries[f"line {at}"] = line.strip()
    entries.pop("data", None)
    return entries


def _sed_column(titles: list[str], told: Reading, path: Path) -> int:
    """The column that is wanted: the chosen one, reflectance, or what the target gave."""
    chosen = told.keys.get("column")
    low = [title.lower() for title in titles]
    if chosen is not None:
        if chosen.lower() not in low:
            raise ValueError(f"{path}: no column {chosen!r}; there are {', '.join(titles)}")
        return low.index(chosen.lower())
    for wanted in (RATIO, ()):
        for i, title in enumerate(low):
            if title.startswith(wanted) if wanted else "target" in title or "tgt" in title:
                return i
    raise ValueError(f"{path}: no column of reflectance or of the target; choose with --key column=..., of {titles}")


def _counts(title: str) -> bool:
    """Whether the title of a column says raw counts."""
    return bool(re.search(r"\bdn\b|\bcounts\b", title))


def _sig_quantity(entries: Entries, column: int) -> str:
    """What the column of reference or target holds, by the header's units of both."""
    units = str(entries.use("units", "")).split(",")
    said = units[min(column - 1, len(units) - 1)].lower()
    return "raw counts" if _counts(said) else quantity_of(said)


def _in_percent(table: np.ndarray) -> bool:
    """Whether the ratio column is in per cent, as the format has it, and not in fractions."""
    usable = (table[:, 1] > 0) & (table[:, 2] > 0) & (table[:, 3] > 0)
    if not usable.any():
        return True
    ratio = np.median(100 * table[usable, 2] / table[usable, 1] / table[usable, 3])
    return bool(ratio < PERCENT_LIKELY)


def _all_numbers(line: str) -> bool:
    """Whether a line holds three or four numbers."""
    cells = line.replace(",", " ").split()
    return len(cells) in (3, 4) and all(is_number(cell) for cell in cells)
