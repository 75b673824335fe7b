"""Bands of multispectral sensors with their measured spectral responses: those that ship, and tables of the user's own.

A table is a text file with one column of wavelengths and one column per band. Between its samples a response is a
straight line; beyond the first and the last it falls to zero over one more step. What ships, and where it comes from,
stands in ``data/README.md``.
"""

import csv
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unmix_jax.scenes.datasets import find
from unmix_jax.scenes.scene import SpectralAxis
from unmix_jax.scenes.units import unit_of

__all__ = ["BandResponses", "axis_of_responses", "read_responses", "sensor_axis", "sensor_responses"]

FOLDER = "spectral_responses"
SHIPPED = (
    "aster", "landsat4", "landsat5", "landsat7", "landsat8", "landsat9", "modis", "sentinel2a", "sentinel2b",
)  # fmt: skip
SHORT = {"s2a": "sentinel2a", "s2b": "sentinel2b", "s2c": "sentinel2c"} | {f"l{n}": f"landsat{n}" for n in range(4, 10)}
# Sensors that are asked for and whose table may not or could not be packed: where it is to be had.
ELSEWHERE = {
    "sentinel2c": "each Sentinel-2C product holds it in its MTD_MSIL2A.xml, and read_scene takes it from there; the "
    "whole table is ESA's S2-SRF workbook, issue 4.0, saved as CSV",
    "sentinel2d": "each Sentinel-2D product holds it in its MTD_MSIL2A.xml, and read_scene takes it from there",
    "planetscope": "Planet publishes it per instrument as CSV",
    "worldview3": "Maxar publishes it in its document on the radiometric use of WorldView-3 imagery",
}
LARGEST = 32 * 2**20  # bytes of a table; a hundred bands at 1 pm steps from 0.4 to 2.5 µm are 20 MB
BELOW_ZERO = 0.05  # of the peak; noise of a measured response that was brought to zero lies above minus this share


class BandResponses(NamedTuple):
    """The bands of a sensor.

    Attributes:
        names: one per band.
        axis: centres, widths and responses in nm.
        sensor: its name; empty where the table does not say it.
        reference: where the numbers come from; empty where the table does not say it.
    """

    names: tuple[str, ...]
    axis: SpectralAxis
    sensor: str = ""
    reference: str = ""

    def select(self, names: Any) -> "BandResponses":
        """Some of the bands, in the order of their names.

        Raises:
            ValueError: no band of this name.
        """
        wanted = tuple(str(name) for name in names)
        if absent := [name for name in wanted if name not in self.names]:
            raise ValueError(f"{self.sensor or 'the table'} has no band {absent[0]}; it has {', '.join(self.names)}")
        index = [self.names.index(name) for name in wanted]
        assert self.axis.responses is not None
        assert self.axis.fwhm is not None
        samples, values = self.axis.responses
        kept = values[index]
        used = np.flatnonzero(kept.any(axis=0))  # wavelengths of the other bands are left out
        some = slice(max(used[0] - 1, 0), used[-1] + 2)
        axis = SpectralAxis(self.axis.centers[index], self.axis.fwhm[index], "nm", (samples[some], kept[:, some]))
        return self._replace(names=wanted, axis=axis)


def sensor_axis(name: str, bands: Any = None) -> SpectralAxis:
    """The bands of a sensor whose responses ship with the package: `resample` uses them in place of Gaussians.

    Args:
        name: sentinel2a, sentinel2b, landsat4, 5, 7, 8 or 9, modis (bands 1 to 7) or aster (VNIR and SWIR), in any
            spelling, such as ``Sentinel-2A`` or ``S2A``.
        bands: names of the bands wanted, such as ``["B02", "B8A"]``; None: all, in the order of the table.

    Returns:
        Centres as published (see the head of each table), full widths at half maximum, and responses, in nm.

    Raises:
        ValueError: no table of this sensor (the message says where one is to be had), or no band of this name.
        FileNotFoundError: the package was installed without its data.
    """
    found = sensor_responses(name)
    return found.axis if bands is None else found.select(bands).axis


def sensor_responses(name: str) -> BandResponses:
    """All bands of a sensor, with their names and the reference; arguments and errors as `sensor_axis`."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower()[:64])
    plain = SHORT.get(plain, plain)
    if plain in ELSEWHERE:
        raise ValueError(
            f"the spectral responses of {name} do not ship with the package: {ELSEWHERE[plain]}. Read a table of them "
            "with unmix_jax.scenes.responses.read_responses"
        )
    if plain not in SHIPPED:
        raise ValueError(f"no spectral responses of {name!r}; there are {', '.join(SHIPPED)}")
    path = find(f"{FOLDER}/{plain}.csv")
    if path is None:
        raise FileNotFoundError(f"{FOLDER}/{plain}.csv is not among the data of the package")
    return read_responses(path)


def read_responses(path: str | Path, unit: str | None = None) -> BandResponses:
    """Read a table of spectral responses: a column of wavelengths, and a column per band under its name.

    Columns are separated by commas, semicolons or tabs. A cell may be empty where a band is not tabulated: between
    values the response is a straight line, beyond them it is zero. Lines that begin with ``#`` are comments, of which
    ``# sensor: …``, ``# reference: …`` and ``# centre_nm,…`` (published centres, one per band) are kept.

    Args:
        path: the file.
        unit: of the wavelengths, nm or um; None: as the title of the column says it, ``wavelength_nm`` or
            ``Wavelength (µm)``.

    Returns:
        The bands, in nm. Where no centres are given they are the middle of the half maxima, as full width at half
        maximum has it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no table, a unit that is not said, wavelengths that do not increase or decrease all the way,
            responses that are not finite, negative beyond noise, or zero in a whole band.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes; a table of responses has {LARGEST:,} at most")
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text in UTF-8") from None
    said, table = _comments(lines), [line for line in lines if line.strip() and not line.startswith("#")]
    if len(table) < 3:
        raise ValueError(f"{path}: a table of responses has a title row and at least two rows of numbers")
    separator = next((s for s in "\t;," if s in table[0]), None)
    if separator is None:
        raise ValueError(f"{path}: its title row has no columns between commas, semicolons or tabs")
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(table, delimiter=separator)]
    except csv.Error as error:
        raise ValueError(f"{path} is no table of responses ({error})") from None
    titles = rows[0]
    while titles and not titles[-1]:
        titles.pop()
    names = tuple(titles[1:])
    if not names or not all(names) or len(set(names)) != len(names):
        raise ValueError(
            f"{path}: each band needs a name of its own in the title row, got {', '.join(names) or 'none'}"
        )
    numbers = _numbers(rows[1:], len(titles), path, decimal_comma=separator != ",")
    factor = {"nm": 1.0, "um": 1e3}[_unit(titles[0], unit, path)]
    wavelengths = numbers[:, 0] * factor
    if not np.isfinite(wavelengths).all() or wavelengths.min() <= 0:
        raise ValueError(f"{path}: its first column must be wavelengths")
    if wavelengths[0] > wavelengths[-1]:
        wavelengths, numbers = wavelengths[::-1], numbers[::-1]
    if not (np.diff(wavelengths) > 0).all():
        raise ValueError(f"{path}: its wavelengths neither increase nor decrease all the way")
    centres = None
    if "centre_nm" in said:
        centres = [_number(cell) for cell in said["centre_nm"].split(",")]
        if len(centres) != len(names) or not all(c is not None and c > 0 for c in centres):
            raise ValueError(f"{path}: centre_nm must list {len(names)} wavelengths in nm, one per band")
    try:
        axis = axis_of_responses([(wavelengths, column) for column in numbers[:, 1:].T], centres, names)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return BandResponses(names, axis, said.get("sensor", ""), said.get("reference", ""))


def axis_of_responses(tables: Any, centres: Any = None, names: Any = None) -> SpectralAxis:
    """Bands out of one table each.

    Args:
        tables: per band its wavelengths [sample], in nm and increasing, and its response at them; NaN where it is not
            tabulated.
        centres: band centres in nm; None: the middle of the half maxima.
        names: of the bands, for messages.

    Raises:
        ValueError: a band without two samples, with values that are not finite or negative beyond noise, or without a
            maximum.
    """
    ends = []
    for i, (wavelengths, values) in enumerate(tables):
        what = f"band {names[i] if names is not None else i + 1}"
        wavelengths, values = np.asarray(wavelengths, float), np.asarray(values, float)
        known = ~np.isnan(values)
        at, of = wavelengths[known], values[known]
        if len(at) < 2:
            raise ValueError(f"{what} has fewer than two values")
        if not np.isfinite(of).all() or not of.max() > 0 or of.min() < -BELOW_ZERO * of.max():
            raise ValueError(f"the response of {what} must be finite, not negative, and somewhere above zero")
        # A response that ends above zero falls to it over one more step: an edge of no width is no optical filter.
        at = np.concatenate([[max(2 * at[0] - at[1], at[0] / 2)], at, [2 * at[-1] - at[-2]]])
        ends.append((at, np.concatenate([[0.0], of, [0.0]])))
    samples = np.unique(np.concatenate([at for at, _ in ends]))
    responses = np.stack([np.interp(samples, at, of, left=0.0, right=0.0) for at, of in ends])
    edges = np.array([_half_maxima(at, of) for at, of in ends])
    middle = edges.mean(axis=1) if centres is None else np.asarray(centres, float)
    return SpectralAxis(middle, edges[:, 1] - edges[:, 0], "nm", (samples, responses))


def _half_maxima(at: np.ndarray, of: np.ndarray) -> tuple[float, float]:
    """Where a response first and last passes half of its maximum."""
    half = of.max() / 2
    above = np.flatnonzero(of >= half)
    edges = []
    for inside, step in ((above[0], -1), (above[-1], 1)):
        outside = inside + step
        share = (of[inside] - half) / (of[inside] - of[outside])
        edges.append(float(at[inside] + share * (at[outside] - at[inside])))
    return edges[0], edges[1]


def _comments(lines: list[str]) -> dict[str, str]:
    """What the comments at the head of a table say."""
    said = {}
    for line in lines:
        if not line.startswith("#"):
            break
        text = line[1:].strip()
        for key, mark in (("sensor", ":"), ("reference", ":"), ("centre_nm", ",")):
            if text.startswith(key + mark):
                said[key] = text[len(key) + 1 :].strip()
    return said


def _number(cell: str) -> float | None:
    """A number; None where the text is none."""
    try:
        return float(cell)
    except ValueError:
        return None


def _numbers(rows: list[list[str]], columns: int, path: Path, decimal_comma: bool) -> np.ndarray:
    """The table below its titles; NaN where a cell is empty."""
    numbers = np.full((len(rows), columns), np.nan)
    for i, row in enumerate(rows):
        if len(row) > columns and any(row[columns:]):
            raise ValueError(f"{path}: row {i + 2} of the table has {len(row)} columns, its titles {columns}")
        for j, cell in enumerate(row[:columns]):
            if not cell:
                continue
            number = _number(cell.replace(",", ".") if decimal_comma else cell)
            if number is None or not np.isfinite(number):
                raise ValueError(f"{path}: row {i + 2}, column {j + 1} of the table is not a number: {cell[:20]!r}")
            numbers[i, j] = number
    return numbers


def _unit(title: str, unit: str | None, path: Path) -> str:
    """The unit of the wavelengths, nm or um: what the user says, or a word of the column's title."""
    words = [unit] if unit is not None else re.split(r"[\s_()\[\],:/]+", title[:200])
    for word in words:
        try:
            named = unit_of(word)
        except ValueError:
            continue
        if named in ("nm", "um"):
            return named
    raise ValueError(
        f"{path}: the unit of its wavelengths is not said: call the first column wavelength_nm or wavelength_um, or "
        f"give unit='nm' or unit='um'{f' in place of {unit!r}' if unit else ''}"
    )
