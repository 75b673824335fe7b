"""The USGS Spectral Library Version 7 in ASCII: single spectra, chapters, and the whole of one sampling.

One file is one spectrum: a line ``splib07a Record=5932: Kaolinite CM9  BECKb AREF``, then one value per line, and
-1.23e34 for deleted channels. Wavelengths and bandpasses stand in files of their own at the root of the sampling, whose
names hold ``Wavelengths``, ``Wavenumber`` or ``Bandpass``; the chapters are folders. The title ends in the code of the
spectrometer, with the code of spectral purity as small letters, and in the kind of measurement.

Kokaly, R. F., and others, 2017, USGS Spectral Library Version 7: U.S. Geological Survey Data Series 1035,
doi:10.3133/ds1035; data release doi:10.5066/F7RR1WDJ. The names of the files are those of the data release.
"""

import fnmatch
import os
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unmix_jax.scenes.readers.spectra.common import (
    Shared,
    Single,
    asked,
    head_of,
    library_of,
    lines_of,
    natural,
    number,
    numbers,
    some,
)
from unmix_jax.scenes.reading import Entries, Reading
from unmix_jax.scenes.scene import SpectralLibrary

__all__ = ["has_chapters", "is_splib07", "read_splib07", "read_splib07_folder", "single_splib07"]

KEYS = ("class", "files", "measurement", "spectrometer")
CODE = re.compile(r"(BECK|ASDFR|ASDHR|ASDNG|NIC4|AVIRIS\d{0,4})([A-Za-z_]{0,8})$")  # spectrometer and purity
QUANTITY = {"AREF": "reflectance", "RREF": "reflectance", "RTGC": "reflectance", "TRAN": "transmittance"}
CHAPTERS = {
    "A": "artificial material",
    "C": "coating",
    "L": "liquid",
    "M": "mineral",
    "O": "organic compound",
    "S": "soil or mixture",
    "V": "vegetation",
}
CHAPTER = re.compile(r"Chapter([A-Z])_", re.I)
MEASURED = ("splib07a", "splib07b")  # every other sampling has one axis for the spectra of all spectrometers
AXES = ("wavelengths", "wavenumber")
COMPANIONS = (*AXES, "bandpass")
LEVELS = 2  # folders above that of a spectrum where its wavelengths are looked for: chapter, then root of the sampling
SPAN = re.compile(r"(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)_?microns", re.I)
SPAN_TOLERANCE = 0.1  # the names round: the Beckman's 0.2 to 3.0 µm are 0.205 to 2.976 µm


class _Title(NamedTuple):
    """The first line of a file."""

    library: str
    record: str
    text: str


class _Companion(NamedTuple):
    """A file of wavelengths, wavenumbers or bandpasses."""

    path: Path
    kind: str
    title: _Title
    values: np.ndarray


def is_splib07(path: Path, head: bytes) -> bool:
    """Whether a file is one of the library's, wavelength files included.

    Args:
        path: the file.
        head: its first bytes.
    """
    return _title(head.split(b"\n", 1)[0][:400].decode("latin-1")) is not None


def has_chapters(folder: Path) -> bool:
    """Whether a folder holds chapters of the library."""
    with os.scandir(folder) as found:
        return any(CHAPTER.match(entry.name) and entry.is_dir(follow_symlinks=False) for entry in found)


def read_splib07(path: Path, told: Reading) -> SpectralLibrary:
    """Read one spectrum of the USGS library; its wavelengths and bandpasses are found beside it.

    They are looked for in the folder of the spectrum and in the two above it, by the rules of the data release:
    the same library in their first line, as many channels, and the spectrometer's code in their name.

    Args:
        path: a spectrum.
        told: what the user says; the key ``class`` names an entry.

    Raises:
        ValueError: not a spectrum, a value that is not a number, or no file of wavelengths that fits.
    """
    asked(told, ("class",), path)
    return library_of([single_splib07(path, told, {})], told, path)


def read_splib07_folder(folder: Path, told: Reading) -> SpectralLibrary:
    """Read a chapter of the USGS library, or all chapters of one sampling.

    Classes are the chapters. The spectra of one library share one axis, so that where spectrometers differ in theirs
    one must be chosen.

    Args:
        folder: a chapter, or the root of a sampling such as ``ASCIIdata_splib07a``.
        told: what the user says; the keys ``spectrometer`` (as ``ASDFR``, ``ASD`` or ``BECKb``), ``measurement`` (as
            ``AREF``) and ``files`` (as ``*_Kaolinite_*``) choose spectra, ``class`` names an entry.

    Raises:
        ValueError: no spectrum is left, spectra of several axes, and as `read_splib07`.
    """
    chosen = asked(told, KEYS, folder)
    paths, unread = _spectra_below(folder)
    if pattern := chosen.get("files"):
        paths = [path for path in paths if fnmatch.fnmatch(path.name, pattern)]
    shared: Shared = {}
    codes, kept = Counter[str](), []
    for path in paths:
        title = _title_of(path)
        if title is None:
            unread.append(path.name)
            continue
        if (kind := _kind(path, title)) is not None:
            unread += [path.name] if kind not in COMPANIONS else []  # those are used where a spectrum needs them
            continue
        code, purity, measurement, _ = _decoded(title, path)
        codes[code] += 1
        if not (code + purity).lower().startswith(chosen.get("spectrometer", "").lower()):
            continue
        if chosen.get("measurement", measurement).lower() == measurement.lower():
            kept.append(path)
    found = ", ".join(f"{code} ({count})" for code, count in codes.most_common()) or "none"
    if not kept:
        raise ValueError(f"{folder}: no spectrum is left of those that the keys choose; spectrometers: {found}")
    remedy = (
        f". The folder holds spectra of {found}; choose with --key spectrometer={codes.most_common(1)[0][0]} "
        "(keys={'spectrometer': ...})"
    )
    singles = [single_splib07(path, told, shared, remedy) for path in kept]
    return library_of(singles, told, folder, remedy=remedy, unread=unread)


def single_splib07(path: Path, told: Reading, shared: Shared, remedy: str = "") -> Single:
    """One spectrum of the USGS library.

    Args:
        path: its file.
        told: what the user says.
        shared: what files of one folder have in common.
        remedy: for messages about wavelengths.

    Raises:
        ValueError: as `read_splib07`.
    """
    lines = lines_of(path)
    title = _title(lines[0])
    if title is None:
        raise ValueError(f"{path}, line 1: expected a title such as 'splib07a Record=5932: Kaolinite CM9 BECKb AREF'")
    if (kind := _kind(path, title)) is not None:
        raise ValueError(f"{path}: a file of {kind}, not of a spectrum; give a spectrum or its folder")
    values = _values(lines, path)
    code, purity, measurement, name = _decoded(title, path)
    companions = _companions(path, title, shared)
    axis = _fitting(companions, AXES, title, code, len(values))
    entries = {
        "library": title.library,
        "record": title.record,
        "title": title.text,
        "spectrometer": code,
        "purity": purity,
        "measurement": measurement,
        "chapter": path.parent.name if CHAPTER.match(path.parent.name) else "",
    }
    if axis is None:
        held = [f"{c.path.name} ({len(c.values)})" for c in companions if c.kind in AXES]
        raise ValueError(
            f"{path}: no wavelengths for its {len(values)} channels of {code or 'an unknown spectrometer'}: "
            + (f"the files that were found have others: {some(held)}" if held else "no file of wavelengths was found")
            + f", in this folder and the {LEVELS} above it{remedy}"
        )
    bandpass = _fitting(companions, ("bandpass",), title, code, len(values))
    entries["wavelengths file"] = axis.path.name
    entries["bandpass file"] = "" if bandpass is None else bandpass.path.name
    told_by = Entries(entries)
    for used in ("library", "title", "spectrometer", "measurement", "chapter", "wavelengths file", "bandpass file"):
        told_by.use(used)
    told_by.carry("record", "purity")
    unit = _unit(axis, told)
    centers = axis.values
    fwhm = None if bandpass is None else _in_unit(bandpass, axis, unit)
    if fwhm is not None:
        fwhm = np.where(np.isfinite(fwhm), fwhm, 0.0)  # zero says unknown
    real = centers > 0
    notes: tuple[str, ...] = ()
    if not real.all():
        notes = (f"{(~real).sum()} channels without a wavelength in {axis.path.name} are left out",)
        values, centers, fwhm = values[real], centers[real], None if fwhm is None else fwhm[real]
    chapter = CHAPTER.match(path.parent.name)
    return Single(
        name,
        values,
        centers,
        unit,
        QUANTITY.get(measurement, "value"),
        told_by,
        fwhm,
        tag=f"{code}{purity} {measurement}".strip(),
        group=CHAPTERS.get(chapter[1].upper(), "") if chapter else "",
        axis_of=code,
        notes=notes,
    )


def _title(line: str) -> _Title | None:
    """The parts of a first line ``library Record=number: text``; None where it is another."""
    library, found, rest = line.strip().partition(" Record=")
    record, colon, text = rest.partition(":")
    if not found or not colon or not record.strip().isdigit() or not library.strip() or " " in library.strip():
        return None
    return _Title(library.strip(), record.strip(), " ".join(text.split()))


def _title_of(path: Path) -> _Title | None:
    """The title of a file, by its first bytes."""
    return _title(head_of(path).split(b"\n", 1)[0].decode("latin-1"))


def _kind(path: Path, title: _Title) -> str | None:
    """What a file is that is no spectrum, by the names of the data release; None for a spectrum."""
    if path.name.lower().startswith("errorbars"):
        return "error bars"
    if title.text.split(" ")[-1].upper() in QUANTITY:
        return None
    words = f"{path.stem} {title.text}".lower()
    return next((kind for kind in ("bandpass", *AXES, "resolution", "srf") if kind in words), None)


def _decoded(title: _Title, path: Path) -> tuple[str, str, str, str]:
    """Spectrometer, purity, measurement and name of the material, out of the title or else of the file's name."""
    words, name = title.text.split(" "), title.text
    if len(words) >= 2 and (found := CODE.search(words[-2])):
        name = " ".join((*words[:-2], words[-2][: found.start()])).strip()  # the code may follow the title at once
    else:
        words = path.stem.split("_")
        found = CODE.search(words[-2]) if len(words) >= 2 else None
    if found is None:
        return "", "", "", name or path.stem
    return found[1], found[2].strip("_"), words[-1].upper(), name or path.stem


def _values(lines: list[str], path: Path) -> np.ndarray:
    """One value per line below the title; -1.23e34 becomes NaN."""
    values = [line for line in lines[1:] if line.strip()]
    if len(values) < 2:
        raise ValueError(f"{path}: {len(values)} values below the title")
    try:
        return numbers(values)
    except ValueError:
        for at, line in enumerate(lines[1:], 2):
            if line.strip():
                try:
                    number(line)
                except ValueError as error:
                    raise ValueError(f"{path}, line {at}: {error}") from None
        raise


def _spectra_below(folder: Path) -> tuple[list[Path], list[str]]:
    """Text files of a folder and of the chapters in it, in natural order, and what else is there."""
    paths, unread = [], []
    for entry in sorted(os.scandir(folder), key=lambda entry: natural(entry.name)):
        if entry.name.startswith(".") or entry.is_symlink():
            continue
        if entry.is_dir() and CHAPTER.match(entry.name):
            below, others = _spectra_below(Path(entry.path))
            paths += below
            unread += [f"{entry.name}/{other}" for other in others]
        elif entry.is_file() and entry.name.lower().endswith(".txt"):
            paths.append(Path(entry.path))
        else:
            unread.append(entry.name + "/" * entry.is_dir())
    return paths, unread


def _companions(path: Path, title: _Title, shared: Shared) -> list[_Companion]:
    """Files of wavelengths and bandpasses of the same library, in the nearest folder that has wavelengths."""
    found: list[_Companion] = []
    for folder in (path.parent, *list(path.absolute().parents)[1 : 1 + LEVELS]):
        if (folder, title.library) not in shared:
            shared[folder, title.library] = _companions_in(folder, title.library)
        found = [*found, *shared[folder, title.library]]
        if any(companion.kind in AXES for companion in found):
            break
    return found


def _companions_in(folder: Path, library: str) -> list[_Companion]:
    """Files of wavelengths and bandpasses of one library in one folder."""
    companions = []
    with os.scandir(folder) as listed:
        names = [
            entry.name
            for entry in listed
            if any(kind in entry.name.lower() for kind in COMPANIONS)
            and entry.name.lower().endswith(".txt")
            and entry.is_file(follow_symlinks=False)
        ]
    for name in sorted(names, key=natural):
        path = folder / name
        title = _title_of(path)
        if title is None or title.library.lower() != library.lower():
            continue
        kind = next(kind for kind in ("bandpass", *AXES) if kind in name.lower())
        companions.append(_Companion(path, kind, title, _values(lines_of(path), path)))
    return companions


def _fitting(
    companions: list[_Companion], kinds: tuple[str, ...], title: _Title, code: str, count: int
) -> _Companion | None:
    """The file of one of some kinds, in their order, that belongs to a spectrometer and has as many channels."""
    for kind in kinds:
        fitting = [c for c in companions if c.kind == kind and len(c.values) == count]
        if code and title.library.lower() in MEASURED:
            exact = [c for c in fitting if f"_{code}".lower() in c.path.name.lower()]
            if not exact and kind in AXES and code.startswith("ASD"):  # the models differ in bandpass, not in axis
                exact = [c for c in fitting if "_asd" in c.path.name.lower()]
            fitting = exact
        if fitting and all(np.array_equal(c.values, fitting[0].values, equal_nan=True) for c in fitting):
            return fitting[0]
    return None


def _unit(axis: _Companion, told: Reading) -> str:
    """The unit of a file of wavelengths, which are in micrometres unless they say otherwise, checked by its name."""
    if axis.kind == "wavenumber":
        return "cm-1"
    said = f"{axis.path.name} {axis.title.text}".lower()
    if re.search(r"(?<![a-z])nm(?![a-z])|nanomet", said):
        return "nm"
    if (span := SPAN.search(axis.path.name)) and not told.force_unit:
        low, high = float(span[1]), float(span[2])
        real = axis.values[axis.values > 0]
        if len(real) and (real.min() < low * (1 - SPAN_TOLERANCE) or real.max() > high * (1 + SPAN_TOLERANCE)):
            raise ValueError(
                f"{axis.path}: its name says {low:g} to {high:g} microns, its values run from {real.min():g} to "
                f"{real.max():g}; give --unit with --force-unit"
            )
    return "um"


def _in_unit(bandpass: _Companion, axis: _Companion, unit: str) -> np.ndarray:
    """Bandpasses, which are in micrometres, in the unit of the axis."""
    if unit == "um":
        return bandpass.values
    if unit == "nm":
        said = f"{bandpass.path.name} {bandpass.title.text}".lower()
        return bandpass.values * (1.0 if re.search(r"(?<![a-z])nm(?![a-z])|nanomet", said) else 1e3)
    return bandpass.values * axis.values**2 / 1e4  # 1e4 µm cm⁻¹: width of 1e4 / wavenumber
