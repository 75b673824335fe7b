"""What the images of single missions leave to other files or to their documents: CRISM, M³ and THEMIS.

References:
    CRISM Data Product SIS 1.3.7.7 (JHU/APL, 2024), labels of its calibration records WA, SW, BW and WV; ISIS,
    `crism2isis`; Moon Mineralogy Mapper Data Product SIS (JPL, 2011); Christensen et al. (2004), Space Sci. Rev. 110,
    85–130 (bands of THEMIS).
"""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from unmix_jax.scenes.readers.planetary.common import mapped
from unmix_jax.scenes.readers.planetary.odl import Block, Label, beside, sibling
from unmix_jax.scenes.reading import Reading
from unmix_jax.scenes.scene import SpectralAxis
from unmix_jax.scenes.units import spectral_axis

__all__ = ["CRISM_FILL", "crism_axis", "crism_quantity", "location_beside", "m3_label", "themis_axis"]

# Opens an image by its label: numbers [row, column, band] and names of the bands.
Opener = Callable[[Path], tuple[np.ndarray, tuple[str, ...]]]

CRISM_FILL = 65535.0  # Data Product SIS; `crism2isis` sets the same number to NULL. The labels do not say it.
# Detector columns whose mean is CRISM's own nominal wavelength of a row, by detector (labels of its SW and BW tables).
CRISM_COLUMNS = {"S": (260, 360), "L": (270, 370)}
CRISM_RANGE = (350.0, 4100.0)  # nm: CRISM measures from 362 to 3920 nm
CRISM_IMAGE = re.compile(
    r"(?i)([a-z]{3}[0-9a-f]{8}_[0-9a-f]{2})_(if|ra|al|su|sr|de)(\d{3}[jls])_((?:ter|mtr|trr|tr)\d)"
)
M3 = re.compile(r"(?i)(M3[GT]\d{8}T\d{6})_(V\d{2})_(RFL|RDN|L2|L1B)")
SMILE = 0.05  # nm: below the digits of the wavelength tables
TABLE_BYTES = 2**22  # a table of wavelengths has 480 lines
# Centres and full widths of THEMIS' infrared bands in µm; bands 1 and 2 have one filter.
THEMIS = (
    (6.78, 1.01), (6.78, 1.01), (7.93, 1.09), (8.56, 1.16), (9.35, 1.20), (10.21, 1.10), (11.04, 1.19), (11.79, 1.07),
    (12.57, 0.81), (14.88, 0.87),
)  # fmt: skip


def m3_label(name: str) -> str | None:
    """The name of the label of an M³ image; None: it is none."""
    found = M3.match(name)
    level = None if found is None else {"RFL": "L2", "RDN": "L1B"}.get(found[3].upper())
    return f"{found[1]}_{found[2]}_{level}.LBL" if found is not None and level else None


def crism_quantity(product: str) -> str | None:
    """What the values of a CRISM product are, by its name; None: the name does not say it."""
    found = CRISM_IMAGE.match(product)
    return {"IF": "reflectance", "AL": "reflectance", "RA": "radiance"}.get(found[2].upper()) if found else None


def themis_axis(label: Label, bins: Block | None, bands: int, told: Reading, where: str) -> SpectralAxis | None:
    """The axis of THEMIS' infrared bands by their published centres, where the label only numbers them."""
    numbers = label.numbers(bins, "BAND_BIN_BAND_NUMBER", "BAND_BIN_ORIGINAL_BAND")
    if numbers is None and bands == len(THEMIS):
        numbers = np.arange(1, bands + 1)
    if numbers is None or len(numbers) != bands or not np.isin(numbers, np.arange(1, len(THEMIS) + 1)).all():
        return None
    table = np.asarray([THEMIS[int(n) - 1] for n in numbers])
    return spectral_axis(table[:, 0], fwhm=table[:, 1], unit=told.unit_of("um", where), where=where)


def crism_axis(
    label: Label, label_path: Path, data: Path, size: tuple[int, int], told: Reading, notes: list[str], opened: Opener
) -> tuple[SpectralAxis | None, np.ndarray | None]:
    """Wavelengths and good bands of a CRISM image, out of its wavelength image or table, which lies beside it.

    The order of the bands is that of the detector's rows: in images of the infrared detector (L) wavelengths fall.

    Args:
        label: of the image.
        label_path: its file.
        data: file of the image.
        size: columns and bands of the image.
        told: what the user says.
        notes: takes what may make the wavelengths wrong.
        opened: opens an image by its label.

    Raises:
        ValueError: a file of wavelengths that does not fit the image, or that leads out of the folder.
    """
    bands, where = size[1], str(label_path)
    name = label.text(label.root, "MRO:WAVELENGTH_FILE_NAME")
    file = None
    if name:
        try:
            file = beside(label_path, name, "MRO:WAVELENGTH_FILE_NAME")
        except FileNotFoundError:
            file = None
    if file is None and (found := CRISM_IMAGE.match(data.name)):
        file = sibling(data, f"{found[1]}_WV{found[3]}_{found[4]}.TAB")
    if file is None:
        wanted = f"{name} is to be put" if name else "it does not lie"
        notes.append(f"no wavelengths: they stand in a file of their own; {wanted} beside the label")
        return None, None
    if file.suffix.lower() == ".img":
        centers = _image_of_wavelengths(label, file, size, notes, opened)
    else:
        centers = _table_of_wavelengths(file, bands)
    known = np.isfinite(centers)
    if known.sum() < 2:
        raise ValueError(f"{file.name} gives wavelengths to {known.sum()} of {bands} bands")
    if not known.all():
        # Rows of the detector that see no light have no wavelength. An axis needs one: that of the grating, which is
        # nearly linear in the row, and the band is marked bad.
        slope, start = np.polyfit(np.flatnonzero(known), centers[known], 1)
        centers = np.where(known, centers, np.maximum(start + slope * np.arange(bands), 1.0))
        notes.append(f"{int((~known).sum())} bands have no wavelength in {file.name}; they are left out")
    axis = spectral_axis(centers, unit=told.unit_of("nm", where), where=where)
    return axis, None if known.all() else known


def _image_of_wavelengths(
    label: Label, file: Path, size: tuple[int, int], notes: list[str], opened: Opener
) -> np.ndarray:
    """Mean wavelengths in nm of the middle columns, one per band, NaN where there is none, out of a WA record."""
    columns, bands = size
    own = sibling(file, f"{file.stem}.LBL")
    if own is not None:
        image = opened(own)[0]
        values = np.asarray(image[0].T if image.shape[0] == 1 else image[..., 0], float)
    else:  # real numbers of 32 bits, the least significant byte first, band after band, as all such records
        values = mapped(file, np.dtype("<f4"), (bands, 1, columns), 0, (0, 1, 2))[:, 0].astype(float)
    if values.shape != (bands, columns):
        raise ValueError(
            f"{file.name} gives wavelengths to {values.shape[0]} bands and {values.shape[-1]} columns, the image has "
            f"{bands} and {columns}"
        )
    values[(values <= 0) | (values >= CRISM_FILL)] = np.nan
    binned = max(label.whole(label.root, "PIXEL_AVERAGING_WIDTH", default=1), 1)
    first, last = (n // binned for n in CRISM_COLUMNS.get(label.word(label.root, "MRO:SENSOR_ID"), CRISM_COLUMNS["S"]))
    middle = values[:, first : max(last, first + 1)]
    if not np.isfinite(middle).any():  # an image of some columns
        middle = values
    counts = np.isfinite(middle).sum(axis=1)
    centers = np.where(counts > 0, np.nansum(middle, axis=1) / np.maximum(counts, 1), np.nan)
    shift = np.abs(values - centers[:, None])
    if np.isfinite(shift).any() and (largest := float(np.nanmax(shift))) > SMILE:
        notes.append(
            f"wavelengths are those of the middle columns; those of others differ by up to {largest:.1f} nm (smile)"
        )
    return centers


def _table_of_wavelengths(file: Path, bands: int) -> np.ndarray:
    """Wavelengths in nm out of a table of CRISM (SW or WV record): the one column that holds nothing but wavelengths.

    Lines of a row of the detector that is not used hold the fill value; they are passed over.

    Raises:
        ValueError: no column does, or more than one; not as many as bands.
    """
    if file.stat().st_size > TABLE_BYTES:
        raise ValueError(f"{file.name} is too large for a table of wavelengths")
    lines = [line.replace(",", " ").split() for line in file.read_text(encoding="latin-1").splitlines()]
    rows = [[_number(cell) for cell in line] for line in lines if line]
    if not rows or len({len(row) for row in rows}) != 1:
        raise ValueError(f"{file.name} is no table: its lines have different numbers of columns")
    found = []
    for column in np.asarray(rows).T:
        numbers = column[~(column >= CRISM_FILL)]
        if len(numbers) != bands or bands < 2 or not np.isfinite(numbers).all():
            continue
        rising = np.mean(np.diff(numbers) > 0)
        inside = (numbers >= CRISM_RANGE[0]).all() and (numbers <= CRISM_RANGE[1]).all()
        if inside and max(rising, 1 - rising) >= 0.9:
            found.append(numbers)
    if len(found) != 1:
        many = f"{len(found)} columns" if found else "no column"
        raise ValueError(f"{file.name}: {many} of {bands} wavelengths in it, where one is expected")
    return found[0]


def _number(cell: str) -> float:
    """A cell as a number, NaN where it is none."""
    try:
        return float(cell)
    except ValueError:
        return math.nan


def location_beside(mission: str, data: Path, size: tuple[int, int], opened: Opener) -> dict[str, Any]:
    """Latitude and longitude of every pixel of a swath, out of the mission's location image beside it.

    Args:
        mission: CRISM, M3 or another, which has none.
        data: file of the image.
        size: rows and columns of the image.
        opened: opens an image by its label.

    Returns:
        ``{"location": {"lat": ..., "lon": ...}}`` in degrees; empty where there is none of this size.
    """
    rows, columns = size
    if found := M3.match(data.name):
        endings = ("LOC.IMG", "loc.img")
        files = sorted(p for end in endings for p in data.parent.glob(f"{found[1]}_[Vv][0-9][0-9]_{end}"))
        if files and files[-1].stat().st_size == rows * columns * 3 * 8:
            # Longitude, latitude and radius, 64 bits each, the least significant byte first, by lines (LOC file).
            image = mapped(files[-1], np.dtype("<f8"), (rows, 3, columns), 0, (0, 2, 1))
            return {"location": {"lat": image[..., 1], "lon": image[..., 0]}}
        return {}
    found = CRISM_IMAGE.match(data.name) if mission == "CRISM" else None
    own = sibling(data, f"{found[1]}_DE{found[3]}_DDR1.LBL") if found else None
    if own is None:
        return {}
    image, names = opened(own)
    bands = {key: [i for i, name in enumerate(names) if name.lower().startswith(word)] for key, word in
             {"lat": "latitude", "lon": "longitude"}.items()}  # fmt: skip
    if image.shape[:2] != size or not all(bands.values()):
        return {}
    place = {key: np.asarray(image[..., which[0]], np.float32) for key, which in bands.items()}
    return {"location": {key: np.where(values == CRISM_FILL, np.nan, values) for key, values in place.items()}}
