"""Tables of the Ecological Spectral Information System, EcoSIS: one spectrum per row, metadata in columns before it.

The first row holds the titles: metadata in alphabetical order, then the wavelengths, rising. The file is UTF-8 with its
mark, cells are separated by commas; missing cells are empty, or ``NA`` where the table was made by other programs.

https://ecosis.org; the layout is that of the site's export (https://github.com/CSTARS/ecosis,
controllers/api/package/export.js and models/package.js), the attributes are those of lib/schema.json there.
"""

from pathlib import Path

from unmix_jax.scenes.readers.spectra.common import HEAD, cells_of, is_number, library_of_rows
from unmix_jax.scenes.reading import Reading
from unmix_jax.scenes.scene import SpectralLibrary

__all__ = ["is_ecosis", "read_ecosis"]

ATTRIBUTES = (
    "acquisition method", "sample platform", "measurement venue", "target type", "measurement quantity", "index name",
    "measurement units", "wavelength units", "target status", "light source", "light source specifications",
    "foreoptic type", "foreoptic field of view", "foreoptic specifications", "processing averaged",
    "processing interpolated", "processing resampled", "processing information details", "instrument manufacturer",
    "instrument model", "instrument serial number", "theme", "keywords", "ecosystem type", "latitude", "longitude",
    "geojson", "location name", "sample collection date", "measurement date", "phenological status", "common name",
    "latin genus", "latin species", "usda symbol", "vegetation type", "citation", "citation doi", "website", "author",
    "author email", "maintainer", "maintainer email", "funding source", "funding source grant number",
)  # fmt: skip
# Attributes that a table of another origin would hardly have under these words.
OWN = (
    "latin genus", "latin species", "usda symbol", "measurement venue", "measurement quantity", "target status",
    "foreoptic type", "acquisition method", "processing averaged", "processing interpolated", "processing resampled",
    "sample collection date", "sample platform", "citation doi",
)  # fmt: skip
NAMES = ("spectra", "spectra names", "spectrum", "spectra id", "spectra_id", "sample id", "sample_id", "name", "id")


def is_ecosis(path: Path, head: bytes) -> bool:
    """Whether a file is a table of EcoSIS: one of its own attributes among the titles, and wavelengths behind them.

    Args:
        path: the file.
        head: its first bytes.
    """
    if path.suffix.lower() not in (".csv", ".txt", ".tsv"):
        return False
    first = head.decode("utf-8-sig", "replace").lstrip().split("\n", 1)[0]
    separator = max(",;\t", key=first.count)
    titles = [title.strip(' "\r').lower() for title in first.split(separator)]
    whole = b"\n" in head or len(head) < HEAD  # else the line of titles goes on behind what was looked at
    return any(title in OWN for title in titles) and (not whole or any(is_number(title) for title in titles))


def read_ecosis(path: Path, told: Reading) -> SpectralLibrary:
    """Read a table of EcoSIS.

    Values whose ``Measurement Units`` are ``%`` become fractions. There are no classes unless the key ``class`` names a
    column, such as ``Latin Species``; the titles stand in ``header["metadata"]``. Names are those of the column that
    the key ``name`` names, or of the first usual one whose cells differ.

    Args:
        path: the exported ``.csv``.
        told: what the user says.

    Raises:
        ValueError: no wavelengths among the titles, rows of different length, cells that are not numbers.
    """
    return library_of_rows(
        cells_of(path),
        path,
        told,
        name_titles=NAMES,
        unit_titles=("wavelength units",),
        percent_titles=("measurement units",),
        quantity_titles=("measurement quantity", "index name"),
        known_titles=ATTRIBUTES,
    )
