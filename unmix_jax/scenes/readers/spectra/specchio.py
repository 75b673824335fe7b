"""Tables that SPECCHIO, the database of spectra of the University of Zurich, exports.

Two layouts. One spectrum per row: titles of metadata, ``CampaignId``, ``SpectrumId``, then the wavelengths; ``NA`` for
missing metadata. One spectrum per column, of older versions and of the QGIS plugins: rows of metadata, whose first cell
is their title, then one row per wavelength. Wavelengths are in nm. SPECCHIO's ENVI export is an ENVI spectral library
(``.slb`` with its header, big-endian doubles) and is read as such.

Hueni, A., Nieke, J., Schopfer, J., Kneubühler, M., Itten, K. I., 2009, The spectral database SPECCHIO for improved
long-term usability and data sharing: Computers & Geosciences 35, 557-565. The layouts are those of
https://github.com/SPECCHIODB/SPECCHIO (src/client/src/ch/specchio/file/writer/CsvWriter.java, ENVIWriter.java) and of
https://bitbucket.org/jakimowb/qgispluginsupport (speclib/io/specchio.py).
"""

from pathlib import Path

from unmix_jax.scenes.readers.spectra.common import cells_of, is_number, library_of_rows, quantity_of
from unmix_jax.scenes.reading import Reading
from unmix_jax.scenes.scene import SpectralLibrary

__all__ = ["is_specchio", "read_specchio"]

NAMES = ("file name", "name", "spectra names", "spectrumid")
# Titles of the first cells of rows by which the layout with columns is recognised; two of them must stand there.
ROW_TITLES = (
    "campaignid", "spectrumid", "campaign name", "file name", "wavelength unit", "measurement unit", "measurement type",
    "acquisition time", "instrument", "instrument number", "sensor", "number of channels", "file format", "target",
    "loading time", "sampling environment", "spatial position", "extended instrument name", "file comments",
)  # fmt: skip


def is_specchio(path: Path, head: bytes) -> bool:
    """Whether a file is a table of SPECCHIO.

    Args:
        path: the file.
        head: its first bytes.
    """
    if path.suffix.lower() not in (".csv", ".txt"):
        return False
    lines = head.decode("utf-8-sig", "replace").lower().split("\n")
    if ",campaignid,spectrumid," in f",{lines[0].strip()},":
        return True
    firsts = [line.split(",", 1)[0].strip(' "\r') for line in lines if "," in line]
    return sum(first in ROW_TITLES for first in firsts) >= 2


def read_specchio(path: Path, told: Reading) -> SpectralLibrary:
    """Read a table of SPECCHIO, in either layout.

    There are no classes unless the key ``class`` names an attribute. Names are file names, or those of the attribute
    that the key ``name`` names.

    Args:
        path: the exported ``.csv``.
        told: what the user says.

    Raises:
        ValueError: no wavelengths, rows of different length, cells that are not numbers.
    """
    rows = cells_of(path, separators=",;\t")
    if "spectrumid" not in (title.lower() for title in rows[0]):
        rows = _turned(rows, path)
    elif not any(is_number(title) for title in rows[0]):
        raise ValueError(f"{path}: metadata without spectra; export both in one file, or as an ENVI spectral library")
    while all(row and not row[-1] for row in rows):  # every row ends in a separator
        rows = [row[:-1] for row in rows]
    return library_of_rows(
        rows,
        path,
        told,
        unit="nm",
        name_titles=NAMES,
        unit_titles=("wavelength unit",),
        percent_titles=("measurement unit",),
        quantity_titles=("measurement unit", "measurement type"),
        known_titles=(*ROW_TITLES, *NAMES),
        read_quantity=lambda cell: "raw counts" if cell.strip().upper() == "DN" else quantity_of(cell),
    )


def _turned(rows: list[list[str]], path: Path) -> list[list[str]]:
    """A table with one spectrum per column as one with a spectrum per row."""
    count = max(len(row) for row in rows)
    wide = next((len(row) for row in rows if row and is_number(row[0])), None)
    if wide is None:
        raise ValueError(f"{path}: no row begins with a wavelength")
    for at, row in enumerate(rows, 1):
        if is_number(row[0]) and len(row) != wide:
            raise ValueError(f"{path}: row {at} has {len(row)} cells, the first wavelength has {wide}")
    if count > wide:
        raise ValueError(f"{path}: a row of metadata has {count} cells, the wavelengths have {wide}")
    return [[row[i] if i < len(row) else "" for row in rows] for i in range(wide)]
