"""What the formats of planetary missions share: number types, special values, tiles, units, and places on a body.

References:
    Planetary Data System Standards Reference, version 3.8 (JPL D-7669, part 2), chapter 3 (data types); Planetary
    Science Data Dictionary (JPL D-7116); GDAL, drivers PDS and ISIS3 (shapes of the bodies, by projection).
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unmix_jax.scenes.lazy import NODATA, LazyCube
from unmix_jax.scenes.readers.planetary.odl import ABSENT, Value, finite, radix_of, single
from unmix_jax.scenes.reading import Reading
from unmix_jax.scenes.units import unit_of

__all__ = [
    "Marked",
    "Tiles",
    "cube_of",
    "local_radius",
    "mapped",
    "metres",
    "pds3_type",
    "quantity_of",
    "special_value",
    "stored_unit",
    "wkt_of",
]

LONGEST_AXIS = 2**31 - 1  # samples, lines or bands of a cube; GDAL counts with such numbers as well
# Types of PDS3 (Standards Reference, chapter 3): the most significant byte comes first unless the name says otherwise.
KINDS = {"INTEGER": "i", "UNSIGNED_INTEGER": "u", "REAL": "f", "FLOAT": "f"}
ORDERS = {"": ">", "MSB": ">", "IEEE": ">", "MAC": ">", "SUN": ">", "LSB": "<", "PC": "<", "VAX": "<"}
SIZES = {"i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (4, 8)}


def pds3_type(name: str, size: int, keyword: str) -> np.dtype:
    """The type of numbers that PDS3 names so.

    Args:
        name: such as ``PC_REAL``.
        size: bytes of a number.
        keyword: for messages.

    Raises:
        ValueError: a type that is not read, or a size that it does not have.
    """
    maker, _, kind = name.partition("_")
    if name in KINDS:
        maker, kind = "", name
    if kind not in KINDS or maker not in ORDERS or (maker == "VAX" and kind == "REAL"):
        reason = " (floating point of VAX computers, which differs from IEEE)" if maker.startswith("VAX") else ""
        raise ValueError(
            f"{keyword} {name or 'is missing; it'}{reason} is not read: the types are MSB_INTEGER, LSB_INTEGER, "
            "MSB_UNSIGNED_INTEGER, LSB_UNSIGNED_INTEGER, IEEE_REAL, PC_REAL and their other names"
        )
    letter = KINDS[kind]
    if size not in SIZES[letter]:
        raise ValueError(
            f"{keyword} {name} does not exist with {size} bytes; it has {', '.join(map(str, SIZES[letter]))}"
        )
    return np.dtype(f"{ORDERS[maker]}{letter}{size}")


def special_value(text: Any, dtype: np.dtype, name: str) -> float | None:
    """A value that marks missing data, as it is stored; None where the type cannot hold it.

    Args:
        text: a number, or its bits such as ``16#FF7FFFFB#``.
        dtype: of the stored numbers.
        name: of the entry.

    Raises:
        ValueError: no number; the message names --nodata, which stands in its place.
    """
    remedy = ". Correct it, or give --nodata"
    if isinstance(text, str) and "#" in text:
        try:
            bits = radix_of(text)
        except ValueError:
            raise ValueError(f"{name} must be a number, got {text[:60]!r}{remedy}") from None
        if not 0 <= bits < 256**dtype.itemsize:
            return float(bits) if dtype.kind != "f" and np.iinfo(dtype).min <= bits <= np.iinfo(dtype).max else None
        stored = np.frombuffer(bits.to_bytes(dtype.itemsize, "big"), dtype.newbyteorder(">"))[0]
        return float(stored)
    number = finite(text, name, remedy)
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return float(np.asarray(number, dtype.newbyteorder("=")))
    return number if np.iinfo(dtype).min <= number <= np.iinfo(dtype).max and number == int(number) else None


def mapped(
    path: Path, dtype: np.dtype, shape: Sequence[int], offset: int, axes: Sequence[int],
    strides: Sequence[int] | None = None,
) -> np.ndarray:  # fmt: skip
    """The numbers of a file as [row, column, band], without reading them, after checking that the file holds them.

    Args:
        path: the file.
        dtype: of its numbers.
        shape: in the order of the file, the fastest axis last.
        offset: bytes before the first number.
        axes: which axes of the file are row, column and band.
        strides: bytes from one number to the next along each axis of the file; None: one follows the other.

    Raises:
        ValueError: an axis is empty or too long; the file is too short.
    """
    shape = tuple(int(n) for n in shape)
    if min(shape) < 1 or max(shape) > LONGEST_AXIS:
        raise ValueError(f"the cube has no such size: {' × '.join(map(str, shape))}")
    if strides is None:
        strides = [dtype.itemsize * math.prod(shape[i + 1 :]) for i in range(len(shape))]
        end = offset + dtype.itemsize * math.prod(shape)
    else:
        end = offset + dtype.itemsize + sum(s * (n - 1) for s, n in zip(strides, shape, strict=True))
    size = path.stat().st_size
    if offset < 0 or end > size:
        raise ValueError(
            f"{path} is truncated: {' × '.join(map(str, shape))} numbers of {dtype.itemsize} bytes from byte {offset} "
            f"on end at byte {end}, the file has {size} bytes"
        )
    if all(s == dtype.itemsize * math.prod(shape[i + 1 :]) for i, s in enumerate(strides)):
        return np.memmap(path, dtype, "r", offset, shape).transpose(*axes)
    flat = np.memmap(path, np.uint8, "r", offset, (end - offset,))
    view: np.ndarray = np.ndarray(shape, dtype, flat, 0, tuple(strides))
    return view.transpose(*axes)


class Marked:
    """Stored numbers of which several mark missing data: these come out as NaN.

    Attributes:
        shape: of the array.
        dtype: floating point.
        path: file that the numbers are in.
    """

    def __init__(
        self, source: Any, special: Sequence[float], *, above: float | None = None, below: float | None = None,
        path: Path | None = None,
    ) -> None:  # fmt: skip
        """Wrap an array.

        Args:
            source: array that is read when it is indexed.
            special: stored numbers that mark missing data.
            above: numbers below this one mark missing data as well.
            below: numbers above this one mark missing data as well.
            path: file that the numbers are in.
        """
        stored = np.dtype(source.dtype)
        self.shape = tuple(int(n) for n in source.shape)
        self.ndim = len(self.shape)
        self.dtype = np.dtype(stored.newbyteorder("=") if stored.kind == "f" else np.float32)
        self.path, self.chunks = path, getattr(source, "chunks", None)
        self._source, self._special, self._above, self._below = source, tuple(special), above, below

    def __getitem__(self, index: Any) -> np.ndarray:
        stored = np.asarray(self._source[index])
        gap = np.zeros(stored.shape, bool)
        for value in self._special:
            gap |= stored == value
        if self._above is not None:
            gap |= stored < self._above
        if self._below is not None:
            gap |= stored > self._below
        return np.where(gap, self.dtype.type(np.nan), stored.astype(self.dtype))


class Tiles:
    """A cube that is stored in tiles, as [row, column, band]; only the rows of tiles asked for are read.

    Tiles of a band follow each other from left to right, then from top to bottom, then comes the next band; those at
    the right and lower edges are full tiles as well.
    """

    def __init__(
        self, path: Path, dtype: np.dtype, shape: tuple[int, int, int], tile: tuple[int, int], offset: int
    ) -> None:
        """Open the tiles.

        Args:
            path: the file.
            dtype: of its numbers.
            shape: rows, columns and bands.
            tile: rows and columns of a tile.
            offset: bytes before the first tile.

        Raises:
            ValueError: no such tiles, or the file is too short.
        """
        if min(tile) < 1:
            raise ValueError(f"tiles have no such size: {tile[0]} lines × {tile[1]} samples")
        rows, columns, bands = self.shape = shape
        if min(shape) < 1:
            raise ValueError(f"the cube has no such size: {rows} × {columns} × {bands}")
        down, across = -(-rows // tile[0]), -(-columns // tile[1])
        self.dtype, self.path, self.ndim = dtype, path, 3
        self.chunks = (tile[0], tile[1], 1)
        stored = mapped(path, dtype, (bands, down, across, *tile), offset, (0, 1, 2, 3, 4))
        self._stored = stored

    def __getitem__(self, index: Any) -> np.ndarray:
        first, rest = (index[0], index[1:]) if isinstance(index, tuple) and index else (index, ())
        if isinstance(first, slice):
            start, stop, step = first.indices(self.shape[0])
            wanted = range(start, stop, step)
            if not wanted:
                return np.empty((0, *self.shape[1:]), self.dtype)[(slice(None), *rest)]
            if abs(step) == 1:
                low = min(wanted[0], wanted[-1])
                block = self._rows(low, low + len(wanted))[:: step if step < 0 else 1]
            else:
                block = np.concatenate([self._rows(row, row + 1) for row in wanted])
            return block[(slice(None), *rest)]
        if isinstance(first, int | np.integer):
            row = range(self.shape[0])[int(first)]
            return self._rows(row, row + 1)[0][rest]
        return self._rows(0, self.shape[0])[index]

    def _rows(self, start: int, stop: int) -> np.ndarray:
        """Rows from ``start`` to before ``stop``, [row, column, band]."""
        height = self.chunks[0]
        low, high = start // height, -(-stop // height)
        tiles = self._stored[:, low:high]  # band, down, across, line, sample
        bands, down, across, lines, samples = tiles.shape
        block = tiles.transpose(1, 3, 2, 4, 0).reshape(down * lines, across * samples, bands)
        return block[start - low * height : stop - low * height, : self.shape[1]]


def cube_of(
    stored: Any, told: Reading, *, gain: Any = 1.0, offset: Any = 0.0, special: Sequence[float] = (),
    above: float | None = None, below: float | None = None, path: Path,
) -> tuple[Any, float | None]:  # fmt: skip
    """The cube of a scene out of stored numbers, and the value that its file says marks missing data.

    Args:
        stored: array [row, column, band].
        told: what the user says; a no-data value of the user stands in place of all of the file's.
        gain: one number, or one per band.
        offset: one number, or one per band.
        special: stored numbers that mark missing data.
        above: stored numbers below this one mark missing data as well.
        below: stored numbers above this one mark missing data as well.
        path: file that the numbers are in.
    """
    special = list(dict.fromkeys(special))
    if told.nodata is not None:
        special, above, below = [], None, None
    stated = special[0] if special else None
    if len(special) > 1 or above is not None or below is not None:
        marked = Marked(stored, special, above=above, below=below, path=path)
        return LazyCube(marked, gain=gain, offset=offset, nodata=None), stated
    return LazyCube(stored, gain=gain, offset=offset, nodata=NODATA if stated is None else stated), stated


def stored_unit(text: str, told: Reading, where: str) -> str | None:
    """The unit of the wavelengths by the file and the user; None: neither says it.

    Raises:
        ValueError: the file's is not understood, or the two disagree.
    """
    spelled = (
        "cm-1" if re.fullmatch(r"(?i)\W*(inverse|reciprocal|per)[\s_]*(centi-?met(er|re)s?|cm)\W*", text) else text
    )
    try:
        stated = unit_of(spelled if spelled.strip().upper() not in ABSENT else "")
    except ValueError as error:
        if not told.force_unit:
            raise ValueError(f"{error}. If it is wrong, give --unit with --force-unit") from None
        stated = None
    return told.unit_of(stated, where)


def quantity_of(*texts: str) -> str | None:
    """What values are, by the name or the unit that a label gives them; None where it does not say it."""
    for text in texts:
        words = f" {' '.join(re.split(r'[^a-z0-9/]+', text.lower()))} "
        for quantity, spellings in (
            ("brightness temperature", (" brightness temperature ",)),
            ("emissivity", (" emissivity ",)),
            ("reflectance", (" reflectance ", " i over f ", " i/f ", " iof ", " albedo ")),
            ("radiance", (" radiance ", " spectral radiance ")),
        ):
            if any(spelling in words for spelling in spellings):
                return quantity
        plain = re.sub(r"[^a-z0-9]", "", text.lower())
        if re.match(r"(u|micro|milli|m)?w(att)?s?", plain) and re.search(r"(sr|steradian|ster)", plain):
            return "radiance"
    return None


# Names of projections in labels (letters only) to WKT: name, and parameters as (WKT name, which number).
PROJECTIONS: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "EQUIRECTANGULAR": ("Equirectangular", (("standard_parallel_1", "lat"), ("central_meridian", "lon"))),
    "ORTHOGRAPHIC": ("Orthographic", (("latitude_of_origin", "lat"), ("central_meridian", "lon"))),
    "SINUSOIDAL": ("Sinusoidal", (("longitude_of_center", "lon"),)),
    "MERCATOR": ("Mercator_2SP", (("standard_parallel_1", "lat"), ("central_meridian", "lon"))),
    "STEREOGRAPHIC": (
        "Stereographic",
        (("latitude_of_origin", "lat"), ("central_meridian", "lon"), ("scale_factor", "factor")),
    ),
    "POLARSTEREOGRAPHIC": (
        "Polar_Stereographic",
        (("latitude_of_origin", "lat"), ("central_meridian", "lon"), ("scale_factor", "factor")),
    ),
    "TRANSVERSEMERCATOR": (
        "Transverse_Mercator",
        (("latitude_of_origin", "lat"), ("central_meridian", "lon"), ("scale_factor", "factor")),
    ),
    "LAMBERTCONFORMALCONIC": (
        "Lambert_Conformal_Conic_2SP",
        (
            ("standard_parallel_1", "first"), ("standard_parallel_2", "second"), ("latitude_of_origin", "lat"),
            ("central_meridian", "lon"),
        ),
    ),
    "LAMBERTAZIMUTHALEQUALAREA": (
        "Lambert_Azimuthal_Equal_Area",
        (("latitude_of_center", "lat"), ("longitude_of_center", "lon")),
    ),
    "ALBERSCONICEQUALAREA": (
        "Albers_Conic_Equal_Area",
        (
            ("standard_parallel_1", "first"), ("standard_parallel_2", "second"), ("latitude_of_center", "lat"),
            ("longitude_of_center", "lon"),
        ),
    ),
    "CYLINDRICALEQUALAREA": (
        "Cylindrical_Equal_Area",
        (("standard_parallel_1", "first"), ("central_meridian", "lon")),
    ),
    "MOLLWEIDE": ("Mollweide", (("central_meridian", "lon"),)),
    "GNOMONIC": ("Gnomonic", (("latitude_of_origin", "lat"), ("central_meridian", "lon"))),
}  # fmt: skip
SAME_PROJECTION = {
    "SIMPLECYLINDRICAL": "EQUIRECTANGULAR", "EQUIDISTANT": "EQUIRECTANGULAR",
    "EQUIDISTANTCYLINDRICAL": "EQUIRECTANGULAR", "EQUIRECTANGULARCYLINDRICAL": "EQUIRECTANGULAR",
    "SINUSOIDALEQUALAREA": "SINUSOIDAL",
    "LAMBERTCONFORMAL": "LAMBERTCONFORMALCONIC", "ALBERS": "ALBERSCONICEQUALAREA",
}  # fmt: skip
# ISIS, whose maps these are, computes them on a sphere whatever the body is, and GDAL's drivers say the same. Others
# are computed on the ellipsoid from planetographic latitudes.
ON_A_SPHERE = ("EQUIRECTANGULAR", "ORTHOGRAPHIC", "SINUSOIDAL", "STEREOGRAPHIC")


def wkt_of(
    projection: str, *, target: str, equatorial: float, polar: float, centric: bool, lat: float = 0.0, lon: float = 0.0,
    first: float = 0.0, second: float = 0.0, factor: float = 1.0,
) -> str | None:  # fmt: skip
    """The coordinate system of a map of a body, in WKT 1 as GDAL writes it; None where the projection is unknown.

    Args:
        projection: its name in the label.
        target: name of the body.
        equatorial: radius in metres.
        polar: radius in metres.
        centric: whether latitudes are planetocentric.
        lat: latitude of the centre in degrees, or the one of true scale.
        lon: longitude of the centre in degrees, positive to the east.
        first: standard parallel in degrees.
        second: standard parallel in degrees.
        factor: scale at the centre.

    Raises:
        ValueError: a radius is not above zero.
    """
    if not equatorial > 0 or not polar > 0:
        raise ValueError(f"the radii of a body are above zero, got {equatorial:g} m and {polar:g} m")
    name = re.sub(r"[^A-Z]", "", projection.upper())
    name = SAME_PROJECTION.get(name, name)
    if name not in PROJECTIONS:
        return None
    given = {"lat": lat, "lon": lon, "first": first, "second": second, "factor": factor}
    major, minor = equatorial, polar
    if name in ON_A_SPHERE and not (name == "STEREOGRAPHIC" and abs(lat) == 90):
        minor = major
    elif centric and minor < major:  # coordinate systems have planetographic latitudes, and so have ISIS' own formulae
        for key in ("lat", "first", "second"):
            if abs(given[key]) < 90:
                given[key] = math.degrees(math.atan(math.tan(math.radians(given[key])) * (major / minor) ** 2))
    flattening = 0.0 if major - minor < 1e-7 else major / (major - minor)
    body = re.sub(r"[^A-Za-z0-9]+", "_", target).strip("_")[:40] or "BODY"
    kind, parameters = PROJECTIONS[name]
    listed = "".join(f',PARAMETER["{title}",{given[which]!r}]' for title, which in parameters)
    return (
        f'PROJCS["{kind} {body}",GEOGCS["GCS_{body}",DATUM["D_{body}",SPHEROID["{body}",{major!r},{flattening!r}]],'
        f'PRIMEM["Reference_Meridian",0],UNIT["degree",0.0174532925199433]],PROJECTION["{kind}"]{listed},'
        'PARAMETER["false_easting",0],PARAMETER["false_northing",0],UNIT["metre",1],AXIS["Easting",EAST],'
        'AXIS["Northing",NORTH]]'
    )


def local_radius(equatorial: float, polar: float, latitude: float) -> float:
    """The radius of the sphere on which ISIS computes an equirectangular map: that of the body at its centre.

    Args:
        equatorial: radius of the body.
        polar: radius of the body, in the same unit.
        latitude: planetocentric, of the centre, in degrees.
    """
    angle = math.radians(latitude)
    return equatorial * polar / math.hypot(polar * math.cos(angle), equatorial * math.sin(angle))


def metres(value: Value, default: str) -> float:
    """A length in metres, by its unit, such as ``3396.19 <km>`` or ``18.4 <m/pixel>``.

    Raises:
        ValueError: no number, or a unit that is no length.
    """
    unit = re.split(r"[/\s]", (value.unit or default).strip().upper())[0]
    factors = {"KM": 1e3, "KILOMETER": 1e3, "KILOMETERS": 1e3, "KILOMETRES": 1e3, "M": 1.0, "METER": 1.0, "METERS": 1.0}
    factors |= {"METRES": 1.0, "CM": 1e-2}
    if unit not in factors:
        raise ValueError(f"<{value.unit[:40]}> is no unit of length")
    return finite(single(value.content), "a length") * factors[unit]
