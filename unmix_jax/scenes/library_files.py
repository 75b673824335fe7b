r"""Spectral libraries as files that are read back equal, whatever the names are: ENVI, CSV, NumPy and MATLAB.

Text (names, classes, the quantity) is written as it is where the format can hold it, and with escapes where it
cannot: ``\\`` for a backslash, ``\n``, ``\r`` and ``\t``, ``\u002c`` for a character by its number (``\U0001f600``
beyond four digits), ``\e`` for a text that is empty. The file says so, and the readers undo it.

CSV: comments say what the table is, then come a line of titles and one line per band.

    # unmix_jax spectral library version 1
    # bands: 2
    # spectra: 2
    # values: float32
    # quantity: reflectance
    # columns: wavelength_nm fwhm good_band
    # classes,,,"soil","plant"
    wavelength_nm,fwhm,good_band,"soil a","tree"
    400.0,10.0,1,0.35,0.05
    450.0,10.0,0,0.36,

The titles of the first columns are those that the comment names: ``wavelength_nm``, ``wavelength_um``,
``wavenumber_cm1`` or, without an axis, ``band``; then ``fwhm`` and ``good_band`` where they are known. An empty cell is
a missing value. ``pandas.read_csv(path, comment="#")`` reads the table. In names and classes a semicolon and all that
is no printable character are escaped, and so are blanks at the ends; a text that begins with ``=``, ``+``, ``-``, ``@``
or an apostrophe has an apostrophe put before it, so that no spreadsheet takes it for a formula.

ENVI: ``spectra names`` holds each name with ``-`` in place of what a header cannot hold (commas, braces, equals signs,
line ends). Where that changes a name, the header's own field ``unmix jax names`` holds the names with escapes; it
counts as long as ``spectra names`` still agrees with it. ``unmix jax classes`` and ``unmix jax quantity`` are such
fields, too.

NumPy and MATLAB: the arrays of the project's scene file (`docs/data-formats.md`), with ``classes`` and ``quantity``.
Where a text would not survive, all texts have escapes, and ``text_escapes`` is true.

Reference for formulas in CSV: CWE-1236, improper neutralization of formula elements in a CSV file.
"""

import csv
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unmix_jax import __version__
from unmix_jax.scenes.reading import Entries
from unmix_jax.scenes.scene import UNKNOWN_QUANTITY, SpectralLibrary
from unmix_jax.scenes.units import quantity_in, spectral_axis

__all__ = [
    "check_library_suffix",
    "library_arrays",
    "library_names",
    "texts_of_header",
    "unescaped",
    "write_library",
]

SUFFIXES = (".sli", ".hdr", ".csv", ".npz", ".mat")
ENVI_UNITS = {"nm": "Nanometers", "um": "Micrometers", "cm-1": "Wavenumber"}
ENVI_TYPES = {"float32": 4, "float64": 5}
KEYS = {"nm": "wavelength_nm", "cm-1": "wavenumber_cm1"}
AXIS_COLUMNS = {"wavelength_nm": "nm", "wavelength_um": "um", "wavenumber_cm1": "cm-1", "band": None}
OTHER_MARKS = "# unmix_jax spectral library"
MARK = f"{OTHER_MARKS} version 1"  # no comma: a spreadsheet that cuts at commas leaves it whole
FWHM, GOOD = "fwhm", "good_band"  # titles of columns of our tables
TYPES = ("float32", "float64")
FORMULAS = ("=", "+", "-", "@", "'", "＝", "＋", "－", "＠")  # the wide ones are formulas in East Asian versions
OWN_NAMES, OWN_CLASSES, OWN_QUANTITY = "unmix jax names", "unmix jax classes", "unmix jax quantity"
ESCAPE = re.compile(r"\\(u[0-9a-f]{4}|U[0-9a-f]{8}|.|$)", re.DOTALL)
SHORT = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
LONG = {"\\": "\\", "n": "\n", "r": "\r", "t": "\t", "e": ""}


def library_names(library: SpectralLibrary) -> tuple[str, ...]:
    """The names of a library, or ``endmember 1``, ``endmember 2``, ... where it has none."""
    return library.names or tuple(f"endmember {i + 1}" for i in range(len(library)))


def check_library_suffix(path: str | Path) -> str:
    """The suffix of a file that a library is to be written to, in lower case.

    Args:
        path: the file.

    Raises:
        ValueError: a library cannot be written in the format of this suffix.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        given = f"not as {suffix}" if suffix else "and the name of this file has no suffix"
        raise ValueError(f"{Path(path).name}: a library is written as .sli, .csv, .npz or .mat, {given}")
    return suffix


def library_outputs(path: str | Path) -> list[Path]:
    """The files that `write_library` writes for a path: an ENVI library has a header beside it.

    Raises:
        ValueError: as `check_library_suffix`.
    """
    path = Path(path)
    if check_library_suffix(path) in (".sli", ".hdr"):
        return [path.with_suffix(".sli"), path.with_suffix(".hdr")]
    return [path]


def write_library(path: str | Path, library: SpectralLibrary) -> Path:
    """Write a spectral library as ENVI ``.sli`` (with its ``.hdr``), ``.csv``, ``.npz`` or MATLAB ``.mat``.

    Names, classes, axis, band widths, good bands, the quantity and the values (float32 or float64) are read back as
    they are; a library without names gets ``endmember 1`` and so on. µm becomes nm, at the latest when it is read. See
    the module for the layouts.

    Args:
        path: file to write; the suffix chooses the format.
        library: the spectra.

    Returns:
        The file that was written.

    Raises:
        ValueError: the suffix is none of these; an axis that could not be read back, such as one with widths that are
            not finite.
    """
    path, suffix = Path(path), check_library_suffix(path)
    spectra = np.asarray(library.spectra)
    if spectra.dtype.name not in TYPES:
        spectra = spectra.astype(np.float32 if spectra.dtype.kind == "f" and spectra.dtype.itemsize < 4 else np.float64)
    if library.axis is not None:
        spectral_axis(library.axis.centers, fwhm=library.axis.fwhm, unit=library.axis.unit, where=path.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if suffix in (".sli", ".hdr"):
        return _write_sli(path.with_suffix(".sli"), library, spectra)
    if suffix == ".csv":
        return _write_csv(path, library, spectra)
    arrays = {**library_arrays(library), "endmembers": spectra, **_texts(library, matlab=suffix == ".mat")}
    if suffix == ".npz":
        with path.open("wb") as file:
            np.savez(file, **arrays)
        return path
    from scipy.io import savemat

    with path.open("wb") as file:
        savemat(file, arrays, oned_as="row")
    return path


def library_arrays(library: SpectralLibrary) -> dict[str, Any]:
    """The arrays of a library under the names of the project's scene file.

    Args:
        library: the spectra; an axis in µm is converted to nm.

    Returns:
        ``endmembers``, ``names``; where known, ``wavelength_nm`` or ``wavenumber_cm1``, ``fwhm``,
        ``good_bands``.
    """
    arrays: dict[str, Any] = {
        "endmembers": np.asarray(library.spectra),
        "names": np.asarray(library_names(library), dtype=np.str_),
    }
    if library.axis is not None:
        axis = library.axis if library.axis.unit == "cm-1" else library.axis.to("nm")
        arrays[KEYS[axis.unit]] = np.asarray(axis.centers)
        if axis.fwhm is not None:
            arrays["fwhm"] = np.asarray(axis.fwhm)
    if library.good_bands is not None:
        arrays["good_bands"] = np.asarray(library.good_bands)
    return arrays


# ---- text that survives


def escaped(text: str, also: str = "") -> str:
    """A text without line ends, control characters and blanks at its ends.

    Args:
        text: any.
        also: further characters that get an escape.
    """
    if not text:
        return "\\e"
    last = len(text) - 1
    return "".join(
        SHORT[c] if c in SHORT
        else c if c.isprintable() and c not in also and not (c == " " and i in (0, last))
        else f"\\u{ord(c):04x}" if ord(c) < 0x10000
        else f"\\U{ord(c):08x}"
        for i, c in enumerate(text)
    )  # fmt: skip


def unescaped(text: str) -> str:
    """The text that `escaped` was given.

    Raises:
        ValueError: a backslash with something behind it that is no escape.
    """
    return ESCAPE.sub(_character, text) if "\\" in text else text


def _character(found: re.Match[str]) -> str:
    """What an escape stands for."""
    code = found[1]
    if code in LONG:
        return LONG[code]
    if len(code) > 1 and int(code[1:], 16) <= sys.maxunicode:
        return chr(int(code[1:], 16))
    raise ValueError(f"{found[0]!r} is no escape: after a backslash comes one of \\ n r t e, or u and a number")


def to_cell(text: str) -> str:
    """A text as a cell of our tables: in one line, no formula in a spreadsheet, and safe in one cut at semicolons."""
    held = escaped(text, also=";") if text else ""
    return f"'{held}" if held.startswith(FORMULAS) else held


def from_cell(cell: str) -> str:
    """The text that `to_cell` was given.

    Raises:
        ValueError: as `unescaped`.
    """
    return unescaped(cell.removeprefix("'"))


# ---- ENVI


def _plain(name: str) -> str:
    """A name that an ENVI list can hold."""
    return "".join("-" if c in ",{}=" or not c.isprintable() else c for c in name).strip() or "-"


def _write_sli(path: Path, library: SpectralLibrary, spectra: np.ndarray) -> Path:
    """ENVI spectral library: ``.sli`` and ``.hdr``."""
    from spectral.io import envi

    names, plain = library_names(library), [_plain(name) for name in library_names(library)]
    header: dict[str, Any] = {
        "description": f"unmix_jax {__version__}",
        "samples": spectra.shape[1],
        "lines": spectra.shape[0],
        "bands": 1,
        "header offset": 0,
        "data type": ENVI_TYPES[spectra.dtype.name],
        "interleave": "bsq",
        "byte order": int(sys.byteorder == "big"),
        "data ignore value": "NaN",
    }
    if library.axis is not None:
        header["wavelength units"] = ENVI_UNITS[library.axis.unit]
        header["wavelength"] = [repr(c) for c in np.asarray(library.axis.centers).tolist()]
        if library.axis.fwhm is not None:
            header["fwhm"] = [repr(w) for w in np.asarray(library.axis.fwhm).tolist()]
    if library.good_bands is not None:
        header["bbl"] = [int(good) for good in np.asarray(library.good_bands)]
    if library.quantity != UNKNOWN_QUANTITY:
        header["z plot titles"] = ["Spectral axis", _plain(library.quantity)]
        if quantity_in(_plain(library.quantity)) != library.quantity:
            header[OWN_QUANTITY] = [escaped(library.quantity, also=",{}=")]
    header["spectra names"] = plain
    if tuple(plain) != names:
        header[OWN_NAMES] = [escaped(name, also=",{}=") for name in names]
    if library.classes:
        header[OWN_CLASSES] = [escaped(name, also=",{}=") for name in library.classes]
    spectra.astype(spectra.dtype.newbyteorder("=")).tofile(path)
    envi.write_envi_header(str(path.with_suffix(".hdr")), header, is_library=True)
    return path


def texts_of_header(
    fields: Entries, names: Sequence[str], count: int
) -> tuple[tuple[str, ...], tuple[str, ...], str | None, list[str]]:
    """Names, classes and the quantity out of our own fields of an ENVI header.

    Args:
        fields: of the header; ours are marked as used.
        names: the header's ``spectra names``.
        count: of spectra.

    Returns:
        The names, as they were before a header had to hold them; the classes, none where the header gives none; the
        quantity or None; notes on fields that no longer fit.

    Raises:
        ValueError: a field holds a backslash that begins no escape.
    """
    notes: list[str] = []
    held: dict[str, tuple[str, ...]] = {}
    for name in (OWN_NAMES, OWN_CLASSES, OWN_QUANTITY):
        value = fields.use(name, [])
        held[name] = tuple(unescaped(str(part)) for part in ([value] if isinstance(value, str) else value))
    found = tuple(names)
    if held[OWN_NAMES]:
        if [_plain(name) for name in held[OWN_NAMES]] == list(found):
            found = held[OWN_NAMES]
        else:
            notes.append(f"{OWN_NAMES} does not agree with spectra names and is passed over")
    classes = held[OWN_CLASSES]
    if classes and len(classes) != count:
        notes.append(f"{OWN_CLASSES} lists {len(classes)} classes for {count} spectra and is passed over")
        classes = ()
    return found, classes, held[OWN_QUANTITY][0] if held[OWN_QUANTITY] else None, notes


# ---- CSV


def _write_csv(path: Path, library: SpectralLibrary, spectra: np.ndarray) -> Path:
    """Comments, a line of titles, and one line per band."""
    axis, bands = library.axis, spectra.shape[1]
    unit = None if axis is None else axis.unit
    columns = [next(name for name, of in AXIS_COLUMNS.items() if of == unit)]
    leading = [np.arange(1, bands + 1).tolist() if axis is None else np.asarray(axis.centers, float).tolist()]
    if axis is not None and axis.fwhm is not None:
        columns.append(FWHM)
        leading.append(np.asarray(axis.fwhm, float).tolist())
    if library.good_bands is not None:
        columns.append(GOOD)
        leading.append(np.asarray(library.good_bands).astype(int).tolist())
    stated = {
        "bands": bands,
        "spectra": len(spectra),
        "values": spectra.dtype.name,
        "quantity": escaped(library.quantity, also=',;"'),
        "columns": " ".join(columns),
    }
    quoted = [["# classes", *[""] * (len(columns) - 1), *map(to_cell, library.classes)]] if library.classes else []
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write(f"{MARK}\n")
        file.writelines(f"# {name}: {value}\n" for name, value in stated.items())
        for first, *others in (*quoted, [*columns, *map(to_cell, library_names(library))]):
            lead, texts = [first, *others[: len(columns) - 1]], others[len(columns) - 1 :]
            cells = ",".join('"' + text.replace('"', '""') + '"' for text in texts)
            file.write(f"{','.join(lead)},{cells}\n")
        writer = csv.writer(file, lineterminator="\n")
        for band, values in enumerate(spectra.T):
            writer.writerow([*(repr(of[band]) for of in leading), *_written(values)])
    return path


def _written(values: np.ndarray) -> list[str]:
    """Values in as few digits as give them back exactly; nothing for NaN."""
    cells = ["" if value != value else str(value) for value in values]
    if values.dtype == np.float32:  # read as float64 and rounded again, a few need more digits
        back = np.array([float(cell or "nan") for cell in cells]).astype(np.float32)
        for i in np.flatnonzero(~((back == values) | np.isnan(values))):
            cells[i] = repr(float(values[i]))
    return cells


# ---- NumPy and MATLAB


def _texts(library: SpectralLibrary, *, matlab: bool) -> dict[str, Any]:
    """Names, classes and the quantity as arrays; with escapes where one of them would not survive."""
    texts: dict[str, tuple[str, ...]] = {"names": library_names(library)}
    if library.classes:
        texts["classes"] = library.classes
    if library.quantity != UNKNOWN_QUANTITY:
        texts["quantity"] = (library.quantity,)
    # MATLAB's characters have 16 bits, NumPy drops zeros at the end, and readers drop blanks at the ends.
    astral = [c for of in texts.values() for text in of for c in text if ord(c) > 0xFFFF] if matlab else []
    also = "".join(sorted(set(astral)))
    escape = any(not text or escaped(text, also) != text.replace("\\", "\\\\") for of in texts.values() for text in of)
    if escape or quantity_in(library.quantity.replace("_", " ")) not in (None, library.quantity):  # taken as it stands
        escape = True
        texts = {name: tuple(escaped(text, also) for text in of) for name, of in texts.items()}
    arrays: dict[str, Any] = {}
    for name, of in texts.items():
        if matlab:  # a cell array of texts, which MATLAB shows as such
            arrays[name] = np.empty((len(of), 1), object)
            arrays[name][:, 0] = of
        else:
            arrays[name] = np.asarray(of, np.str_)
    return {**arrays, "text_escapes": np.True_} if escape else arrays
