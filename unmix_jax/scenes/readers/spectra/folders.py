"""Which library format a file has, and folders of single spectra as libraries."""

import fnmatch
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from unmix_jax.scenes.readers.spectra.asd import is_asd, read_asd, single_asd
from unmix_jax.scenes.readers.spectra.asu import is_asu, read_asu, single_asu
from unmix_jax.scenes.readers.spectra.common import (
    Shared,
    Single,
    asked,
    head_of,
    library_of,
    natural,
    some,
)
from unmix_jax.scenes.readers.spectra.ecosis import is_ecosis, read_ecosis
from unmix_jax.scenes.readers.spectra.ecostress import is_ecostress, read_ecostress, single_ecostress
from unmix_jax.scenes.readers.spectra.field_spectra import is_sed, is_sig, read_sed, read_sig, single_sed, single_sig
from unmix_jax.scenes.readers.spectra.relab import is_relab, read_relab, single_relab
from unmix_jax.scenes.readers.spectra.specchio import is_specchio, read_specchio
from unmix_jax.scenes.readers.spectra.splib07 import (
    has_chapters,
    is_splib07,
    read_splib07,
    read_splib07_folder,
    single_splib07,
)
from unmix_jax.scenes.reading import Reading
from unmix_jax.scenes.scene import SpectralLibrary

__all__ = ["FORMATS", "read_folder", "recognise"]

Reader = Callable[[Path, Reading], SpectralLibrary]


class Format(NamedTuple):
    """A format of laboratory or field spectra.

    Attributes:
        name: that a user may give as the key ``format``.
        recognise: whether a file has it, by its name and first bytes.
        read: makes a library of a file.
        single: makes one spectrum of a file of a folder; None where the format holds many spectra per file.
        keys: what the user may choose in a folder, beside ``files`` and ``class``.
    """

    name: str
    recognise: Callable[[Path, bytes], bool]
    read: Reader
    single: Callable[[Path, Reading, Shared], Single] | None = None
    keys: tuple[str, ...] = ()


# The first that recognises a file has it; those with the surest marks come first.
FORMATS = (
    Format("asd", is_asd, read_asd, single_asd, ("spectrum",)),
    Format("splib07", is_splib07, read_splib07, single_splib07, ("spectrometer", "measurement")),
    Format("ecostress", is_ecostress, read_ecostress, single_ecostress),
    Format("sig", is_sig, read_sig, single_sig, ("column",)),
    Format("sed", is_sed, read_sed, single_sed, ("column",)),
    Format("specchio", is_specchio, read_specchio),
    Format("ecosis", is_ecosis, read_ecosis),
    Format("asu", is_asu, read_asu, single_asu),
    Format("relab", is_relab, read_relab, single_relab),
)


def recognise(path: Path, name: str | None = None) -> Reader | None:
    """The reader of a file of laboratory or field spectra, or of a folder of such files.

    Only names and the first 4 KiB of files are looked at.

    Args:
        path: a file or a folder that is there.
        name: the format that the user names, instead of looking; one of those of `FORMATS`.

    Returns:
        The reader; None where no format is recognised.

    Raises:
        ValueError: no such format.
    """
    if name is not None and name not in (known := [form.name for form in FORMATS]):
        raise ValueError(f"{path}: format {name!r} is not one of {', '.join(known)}")
    if path.is_dir():
        return read_folder
    if name is not None:
        return _without_format(next(form.read for form in FORMATS if form.name == name))
    form = _format_of(path)
    return None if form is None else form.read


def read_folder(folder: Path, told: Reading) -> SpectralLibrary:
    """Read a folder of single spectra of one format and one axis as a library, in natural order of their names.

    Hidden files, links and folders are passed over, but for the chapters of the USGS library; files of other kinds are
    listed as not understood.

    Args:
        folder: the folder.
        told: what the user says: the key ``files`` chooses by name (``*_leaf*.asd``), ``format`` among formats,
            ``class`` names the entry that holds the material class, and those of the format do as in its own files.

    Raises:
        ValueError: no spectra, several formats, several axes or quantities, and as the format's reader.
    """
    if has_chapters(folder):
        return read_splib07_folder(folder, _without(told, "format"))
    paths, unread = _files(folder, told.keys.get("files", "*"))
    found = [(path, _format_of(path)) for path in paths]
    wanted = told.keys.get("format")
    counts = Counter(form.name for _, form in found if form is not None and form.single is not None)
    if wanted is not None and wanted in counts:
        counts = Counter({wanted: counts[wanted]})
    if not counts:
        many = [path.name for path, form in found if form is not None]
        raise ValueError(
            f"{folder}: no single spectra"
            + (f" among {some([path.name for path in paths])}" if paths else "")
            + (f"; {some(many)} is a library by itself: name the file" if many else "")
        )
    if len(counts) > 1:
        said = ", ".join(f"{name} ({count})" for name, count in counts.most_common())
        raise ValueError(
            f"{folder}: spectra of several formats: {said}; choose with --key files=PATTERN or --key format="
            f"{counts.most_common(1)[0][0]} (keys={{'files': ...}})"
        )
    form = next(form for form in FORMATS if form.name in counts)
    if form.name == "splib07":
        return read_splib07_folder(folder, _without(told, "format"))
    asked(told, ("class", "files", "format", *form.keys), folder)
    assert form.single is not None  # counts holds only those
    shared: Shared = {}
    singles = []
    for path, what in found:
        if what is form:
            singles.append(form.single(path, told, shared))
        else:
            unread.append(path.name)
    remedy = (
        ". Choose spectra that fit together with --key files=PATTERN (keys={'files': ...}), or read them one by one"
    )
    return library_of(
        singles,
        told,
        folder,
        remedy=remedy,
        unread=unread,
        files=[path.name for path, what in found if what is form],
    )


def _files(folder: Path, pattern: str) -> tuple[list[Path], list[str]]:
    """Regular files of a folder whose names fit, in natural order, and what else is there."""
    paths, unread = [], []
    with os.scandir(folder) as listed:
        entries = sorted(listed, key=lambda entry: natural(entry.name))
    for entry in entries:
        if entry.name.startswith(".") or entry.is_symlink():
            continue
        if entry.is_file() and fnmatch.fnmatch(entry.name, pattern):
            paths.append(Path(entry.path))
        elif entry.is_dir():
            unread.append(f"{entry.name}/")
    return paths, unread


def _format_of(path: Path) -> Format | None:
    """The format of a file by its first bytes."""
    head = head_of(path)
    return next((form for form in FORMATS if form.recognise(path, head)), None)


def _without(told: Reading, key: str) -> Reading:
    """What the user says, without one key."""
    return replace(told, keys={name: value for name, value in told.keys.items() if name != key})


def _without_format(read: Reader) -> Reader:
    """A reader that does not see the key by which it was chosen."""
    return lambda path, told: read(path, _without(told, "format"))
