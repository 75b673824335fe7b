"""Binary spectra of ASD's field spectrometers (FieldSpec, TerraSpec, HandHeld ...), file versions 1 to 8.

A header of 484 bytes, the spectrum, and from version 2 on a header of the white reference and the reference itself.
The programs write raw counts of target and of reference, whatever kind of spectrum the header names; reflectance is
their ratio, relative to the panel. Classifier, calibration and audit log, which may follow, change no number here.
Steps where detectors join are left as they are.

ASD Inc. (PANalytical), ASD File Format version 8, revision B. That a file "of type reflectance" holds counts:
https://github.com/pierreroudier/asdreader/pull/3.
"""

import struct
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from unmix_jax.scenes.readers.spectra.common import Shared, Single, asked, library_of
from unmix_jax.scenes.reading import Entries, Reading
from unmix_jax.scenes.scene import SpectralLibrary

__all__ = ["is_asd", "read_asd", "single_asd"]

VERSIONS = {b"ASD": 1, **{f"as{n}".encode(): n for n in range(2, 9)}}
HEADER = 484  # bytes
REFERENCE_HEADER = 20  # bytes: flag, two times, length of the description
TYPES = (
    "raw", "reflectance", "radiance", "no units", "irradiance", "quality index", "transmittance", "unknown",
    "absorbance",
)  # fmt: skip
FORMATS: dict[int, np.dtype[Any]] = {0: np.dtype("<f4"), 1: np.dtype("<i4"), 2: np.dtype("<f8")}
# Byte and form of what is carried or used, by the document's names.
FIELDS = {
    "program version": (178, "B"),
    "file version": (179, "B"),
    "dark current subtracted": (181, "B"),
    "kind of spectrum": (186, "B"),
    "first wavelength": (191, "f"),
    "wavelength step": (195, "f"),
    "data format": (199, "B"),
    "channels": (204, "H"),
    "gps latitude": (350, "d"),
    "gps longitude": (358, "d"),
    "gps altitude": (366, "d"),
    "integration time in ms": (390, "I"),
    "fore optic": (394, "h"),
    "dark current correction": (396, "h"),
    "calibration series": (398, "H"),
    "instrument number": (400, "H"),
    "dynamic range in bits": (418, "H"),
    "saturation flags": (422, "B"),
    "dark current count": (425, "H"),
    "reference count": (427, "H"),
    "sample count": (429, "H"),
    "instrument type": (431, "B"),
    "swir1 gain": (436, "H"),
    "swir2 gain": (438, "H"),
    "swir1 offset": (440, "H"),
    "swir2 offset": (442, "H"),
    "splice1 wavelength": (444, "f"),
    "splice2 wavelength": (448, "f"),
}
SATURATION = {1: "VNIR", 2: "SWIR1", 4: "SWIR2"}
WANTED = ("reflectance", "raw", "reference")
RATIO_UP_TO = 10.0  # no reflectance is as high; counts of a lit target are in the hundreds and more
DAY_ZERO = datetime(1899, 12, 30)  # of times in days, as OLE counts them


def is_asd(path: Path, head: bytes) -> bool:
    """Whether a file is an ASD spectrum, by its mark and by fields of its header that can have few values.

    Args:
        path: the file.
        head: its first bytes.
    """
    return (
        head[:3] in VERSIONS
        and len(head) >= HEADER
        and head[186] < len(TYPES)
        and head[199] in FORMATS
        and struct.unpack_from("<H", head, 204)[0] > 0
    )


def read_asd(path: Path, told: Reading) -> SpectralLibrary:
    """Read a binary ASD spectrum.

    Where the file holds target and reference, reflectance (or transmittance) is their ratio.

    Args:
        path: the ``.asd`` file.
        told: what the user says; the key ``spectrum`` chooses ``reflectance``, ``raw`` or ``reference``.

    Raises:
        ValueError: another format, a header that makes no sense, a file that is cut off, a reflectance that is wanted
            where there is no reference.
    """
    asked(told, ("class", "spectrum"), path)
    return library_of([single_asd(path, told, {})], told, path)


def single_asd(path: Path, told: Reading, shared: Shared) -> Single:
    """One ASD spectrum.

    Args:
        path: its file.
        told: what the user says.
        shared: not used.

    Raises:
        ValueError: as `read_asd`.
    """
    with path.open("rb") as file:
        head = file.read(HEADER)
        if head[:3] not in VERSIONS or len(head) < HEADER:
            raise ValueError(f"{path}: not an ASD file: it begins with {head[:3]!r} and has {len(head)} bytes or more")
        entries = _header(head, path)
        spectrum = _block(file, entries, path, "spectrum")
        reference = None
        if VERSIONS[head[:3]] > 1:
            reference = _reference(file, entries, path)
        after = path.stat().st_size - file.tell()
    if after:
        entries["bytes after the spectra"] = after
    told_by = Entries(entries)
    told_by.carry(*(name for name in entries if name != "bytes after the spectra"))
    for used in ("kind of spectrum", "first wavelength", "wavelength step", "data format", "channels"):
        told_by.use(used)
    values, quantity, notes = _wanted(spectrum, reference, told_by, told, path)
    first, step = (float(told_by.use(name)) for name in ("first wavelength", "wavelength step"))
    return Single(
        path.name if path.suffix[1:].isdigit() else path.stem,  # older programs number the files: leaf.000, leaf.001
        values,
        first + step * np.arange(len(values)),
        "nm",
        quantity,
        told_by,
        tag=path.name,
        axis_of=f"instrument {entries['instrument number']}",
        notes=tuple(notes),
    )


def _header(head: bytes, path: Path) -> dict[str, Any]:
    """The fields of the header, checked where numbers depend on them."""
    entries: dict[str, Any] = {
        "version": head[:3].decode("ascii"),
        "comments": head[3:160].split(b"\0", 1)[0].decode("latin-1").strip(),
        "saved": _saved(head),
    }
    for name, (at, form) in FIELDS.items():
        entries[name] = struct.unpack_from(f"<{form}", head, at)[0]
    kind, form = entries["kind of spectrum"], entries["data format"]
    if kind >= len(TYPES) or form not in FORMATS:
        raise ValueError(f"{path}: kind of spectrum {kind} (byte 186) or data format {form} (byte 199) is not defined")
    first, step = entries["first wavelength"], entries["wavelength step"]
    if not (np.isfinite(first) and np.isfinite(step) and first > 0 and step > 0) or entries["channels"] < 2:
        raise ValueError(f"{path}: {entries['channels']} channels from {first:g} nm in steps of {step:g} nm cannot be")
    entries["kind of spectrum"] = TYPES[kind]
    return entries


def _saved(head: bytes) -> str:
    """When the spectrum was saved, from C's ``struct tm``; empty where that is no time."""
    second, minute, hour, day, month, year = struct.unpack_from("<6h", head, 160)
    try:
        return datetime(year + 1900, month + 1, day, hour, minute, min(second, 59)).isoformat()
    except ValueError:
        return ""


def _block(file: Any, entries: dict[str, Any], path: Path, what: str) -> np.ndarray:
    """One spectrum of the file, from where it stands."""
    dtype, count = FORMATS[entries["data format"]], int(entries["channels"])
    data = file.read(count * dtype.itemsize)
    if len(data) < count * dtype.itemsize:
        raise ValueError(
            f"{path}: cut off: the {what} takes {count * dtype.itemsize} bytes ({count} channels), {len(data)} are left"
        )
    return np.frombuffer(data, dtype).astype(float)


def _reference(file: Any, entries: dict[str, Any], path: Path) -> np.ndarray | None:
    """The white reference; None where none was taken."""
    head = file.read(REFERENCE_HEADER)
    if not head:
        return None
    if len(head) < REFERENCE_HEADER:
        raise ValueError(f"{path}: cut off in the header of the reference")
    flag, reference_day, spectrum_day, length = struct.unpack("<2sddH", head)
    description = file.read(length)
    entries["reference taken"] = flag != b"\0\0"
    entries["reference time"], entries["spectrum time"] = _day(reference_day), _day(spectrum_day)
    entries["spectrum description"] = description.decode("latin-1").strip("\0 ")
    reference = _block(file, entries, path, "reference")
    return reference if entries["reference taken"] and (reference > 0).any() else None


def _day(days: float) -> str:
    """A time that is counted in days; empty where it is none."""
    try:
        return (DAY_ZERO + timedelta(days=days)).isoformat(timespec="seconds") if days > 0 else ""
    except (OverflowError, ValueError):
        return ""


def _wanted(
    spectrum: np.ndarray, reference: np.ndarray | None, entries: Entries, told: Reading, path: Path
) -> tuple[np.ndarray, str, list[str]]:
    """The values that are wanted, what they are, and notes."""
    kind, wanted, notes = str(entries.use("kind of spectrum")), told.keys.get("spectrum"), list[str]()
    saturated = [name for bit, name in SATURATION.items() if int(entries.use("saturation flags")) & bit]
    if saturated:
        notes.append(f"the instrument was saturated in {', '.join(saturated)}")
    if wanted is not None and wanted not in WANTED:
        raise ValueError(f"{path}: key spectrum must be one of {', '.join(WANTED)}, got {wanted!r}")
    if wanted == "raw":
        return spectrum, "raw counts", notes
    if wanted == "reference":
        if reference is None:
            raise ValueError(f"{path}: the file holds no reference")
        return reference, "raw counts", notes
    quantity = "transmittance" if kind == "transmittance" else "reflectance"
    if kind == quantity and wanted is None and np.abs(spectrum[np.isfinite(spectrum)]).max(initial=0) <= RATIO_UP_TO:
        return spectrum, quantity, notes  # computed before it was saved
    if reference is not None and (wanted or kind in (quantity, "raw")):
        entries.use("reference taken")
        if not entries.use("dark current subtracted"):
            notes.append(
                "the dark current is not subtracted from the counts, and reflectance is wrong where it matters"
            )
        if kind == "raw":
            notes.append(
                "a file of raw counts: reflectance is spectrum / reference, right if both were taken with the same "
                "settings; --key spectrum=raw gives the counts"
            )
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return np.where(reference > 0, spectrum / reference, np.nan), quantity, notes
    if wanted or kind == quantity:
        raise ValueError(
            f"{path}: {quantity} needs the reference, and the file holds none; --key spectrum=raw "
            "(keys={'spectrum': 'raw'}) gives what it holds"
        )
    if kind in ("radiance", "irradiance"):
        notes.append(f"a file of type {kind}: its programs store raw counts, from which they compute {kind}")
        return spectrum, "value", notes
    return spectrum, {"raw": "raw counts", "absorbance": "absorbance"}.get(kind, "value"), notes
