"""What the attributes of NetCDF variables mean: scale, missing values, quantity, place.

Reference: NetCDF Climate and Forecast (CF) Metadata Conventions 1.11, sections 2.5.1 (missing data), 3 (description of
the data), 5.6 (grid mappings), 8.1 (packed data); Unidata, "Attribute Conventions" of the NetCDF User's Guide
(valid_range, _Unsigned); GDAL, "NetCDF: Network Common Data Form", georeference (GeoTransform, spatial_ref).
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from unmix_jax.scenes.lazy import NODATA, LazyCube
from unmix_jax.scenes.reading import Reading
from unmix_jax.scenes.units import quantity_in

__all__ = ["DECODING", "WGS84", "Grid", "Marked", "decoded", "gdal_transform", "grid", "numbers", "quantity", "wkt_of"]

# Attributes that say how stored numbers become values.
DECODING = (
    "_FillValue", "missing_value", "valid_range", "valid_min", "valid_max", "actual_range", "scale_factor",
    "add_offset", "_Unsigned",
)  # fmt: skip
# Names that look as if they changed numbers or marked missing ones, but that no convention defines.
CHANGES = re.compile(
    r"scale|gain|slope|offset|intercept|multiplier|divisor|fill|no.?data|ignore|missing", re.IGNORECASE
)
UNCHANGING = re.compile(r"_err$|error|unit|name|type", re.IGNORECASE)  # such as scale_factor_err of MODIS
DEFAULT_FILL = 9.969209968386869e36  # NC_FILL_FLOAT: what netCDF leaves where nothing was written
PERCENT = ("%", "percent", "per cent", "pct")
FRACTIONS = ("reflectance", "emissivity", "transmittance")
# Names of variables that stand for a quantity without a word for it.
NAMED = {
    "rhos": "reflectance", "rhot": "reflectance", "rfl": "reflectance", "refl": "reflectance", "sr": "reflectance",
    "boa": "reflectance", "toa": "reflectance", "rrs": "remote sensing reflectance", "rdn": "radiance",
    "rad": "radiance", "emis": "emissivity", "bt": "brightness temperature",
}  # fmt: skip
WGS84 = (
    'GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563,AUTHORITY["EPSG","7030"]],'
    'AUTHORITY["EPSG","6326"]],PRIMEM["Greenwich",0,AUTHORITY["EPSG","8901"]],'
    'UNIT["degree",0.0174532925199433,AUTHORITY["EPSG","9122"]],AXIS["Latitude",NORTH],AXIS["Longitude",EAST],'
    'AUTHORITY["EPSG","4326"]]'
)
REGULAR = 0.01  # of a pixel; coordinates that are further from a line are no grid


def decoded(
    source: Any, attributes: Mapping[str, Any], types: Mapping[str, np.dtype], told: Reading, where: str, netcdf: bool
) -> tuple[LazyCube, float | None, list[str], set[str]]:
    """A variable as values: scaled, with missing numbers as NaN.

        value = stored · scale_factor + add_offset

    Args:
        source: the variable in its file.
        attributes: of the variable.
        types: types of those that are numbers.
        told: what the user says; scale, offset and no-data stand in place of what the file states.
        where: name of file and variable, for messages.
        netcdf: whether the file is NetCDF, where 9.97e36 stands in what was never written.

    Returns:
        The cube, the stated no-data value, notes, and the attributes that were understood.

    Raises:
        ValueError: an attribute that changes numbers and cannot be honoured.
    """
    notes: list[str] = []
    used = {name for name in DECODING if name in attributes}
    if str(attributes.get("_Unsigned", "")).lower() == "true" and source.dtype.kind == "i":
        source = Marked(source, unsigned=True)
    gain, offset = 1.0, 0.0
    if told.scale is None:
        gain = _one(attributes, "scale_factor", 1.0, where, "--scale")
        if gain == 0:
            raise ValueError(f"{where}: scale_factor is 0: give --scale")
        if told.offset is None:
            offset = _one(attributes, "add_offset", 0.0, where, "--offset")
    used |= _check_unknown(attributes, told, where)
    fill, stated, others = _missing(attributes, told, source.dtype, where, netcdf)
    low, high = (None, None) if told.nodata == "none" else _valid(attributes, types, source.dtype, where)
    if low is not None or high is not None:
        bounds = f"{'' if low is None else f'below {low:g}'}{' or ' * (None not in (low, high))}" + (
            "" if high is None else f"above {high:g}"
        )
        notes.append(f"stored values {bounds} are outside the valid range that the file states: they are missing data")
    if others or low is not None or high is not None:
        if fill is None and source.dtype.kind in "iu":
            fill = _free_number(source.dtype, low, high, where)
        source = Marked(source, others=others, low=low, high=high, fill=np.nan if fill is None else fill)
    return LazyCube(source, gain=gain, offset=offset, nodata=fill), stated, notes, used


def numbers(values: np.ndarray, attributes: Mapping[str, Any], where: str) -> np.ndarray:
    """A small array as values in double precision, missing ones as NaN.

    Args:
        values: as stored.
        attributes: of its variable.
        where: name of file and variable, for messages.

    Raises:
        ValueError: text, complex numbers, or a scale that is no number.
    """
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{where}: numbers are expected, got {values.dtype}")
    found = values.astype(np.float64)
    for name in ("_FillValue", "missing_value"):
        for mark in _listed(attributes.get(name)):
            found[values == values.dtype.type(mark) if values.dtype.kind == "f" else values == mark] = np.nan
    return found * _one(attributes, "scale_factor", 1.0, where, "") + _one(attributes, "add_offset", 0.0, where, "")


def quantity(name: str, attributes: Mapping[str, Any]) -> tuple[str, list[str]]:
    """What the values of a variable are, and what to note about it.

    Args:
        name: of the variable.
        attributes: of the variable.

    Returns:
        The quantity, ``value`` where nothing says it; notes.
    """
    plain = re.sub(r"[^a-z]+", " ", name.rsplit("/", 1)[-1].lower()).strip()
    standard = str(attributes.get("standard_name", "")).lower()
    said = str(attributes.get("long_name", ""))
    if re.search(r"uncert|\bstd\b|\berr(or)?\b|stdev", f"{plain} {standard} {said.lower()}"):
        return "uncertainty", [f"{name} holds uncertainties, not measurements"]
    words = standard.replace("_", " ")
    found = NAMED.get(plain.replace(" ", ""))
    if found is None and "irradiance" not in words:
        found = quantity_in(words) or quantity_in(plain) or quantity_in(said)
    notes = []
    if found == "reflectance" and (standard.startswith("toa_") or plain.replace(" ", "") in ("rhot", "toa")):
        notes.append("the values are reflectance at the top of the atmosphere, which is not removed")
    return found or "value", notes


def percent(attributes: Mapping[str, Any], of: str) -> bool:
    """Whether a quantity that is a fraction is stored in per cent."""
    return of in FRACTIONS and str(attributes.get("units", "")).strip().lower() in PERCENT


class Grid(NamedTuple):
    """The place of a regular grid.

    Attributes:
        transform: a, b, c, d, e, f of x = a·column + b·row + c, y = d·column + e·row + f, at the corners of pixels.
        notes: what is doubtful.
    """

    transform: tuple[float, ...] | None
    notes: list[str]


def grid(x: np.ndarray | None, y: np.ndarray | None, stated: Sequence[float] | None, shape: Sequence[int]) -> Grid:
    """The transform of a grid from the coordinates of its columns and rows, and from what the file states.

    Coordinates are those of the centres of pixels. A transform that is stated and says the same to within a pixel is
    taken as it stands: it is exact where coordinates are rounded. Where the two disagree, as in a part that was cut out
    of a file without correcting the attribute, the coordinates hold.

    Args:
        x: of the columns.
        y: of the rows.
        stated: a, b, c, d, e, f; None: the file states none.
        shape: rows and columns.
    """
    across, down = _line(x), _line(y)
    if across is None or down is None:
        return Grid(None if stated is None else tuple(stated), [])
    found = (across[1], 0.0, across[0] - across[1] / 2, 0.0, down[1], down[0] - down[1] / 2)
    if stated is None:
        return Grid(found, [])
    a, b, _, d, e, _ = stated
    if b or d:  # a rotated grid has no coordinates of columns and rows
        return Grid(tuple(stated), [])
    rows, columns = shape
    away = [abs((stated[0] - found[0]) * column + stated[2] - found[2]) / abs(found[0]) for column in (0, columns)] + [
        abs((stated[4] - found[4]) * row + stated[5] - found[5]) / abs(found[4]) for row in (0, rows)
    ]
    if max(away) < 1:
        return Grid(tuple(stated), [])
    flipped = (a, 0.0, stated[2], 0.0, -e, stated[5] + e * rows)
    if max(abs(p - q) for p, q in zip(flipped, found, strict=True)) < abs(e):
        return Grid(found, [])  # written from south to north, which GDAL turns over when it reads
    return Grid(found, ["GeoTransform and coordinates of the file disagree: the coordinates are taken"])


def gdal_transform(value: Any) -> tuple[float, ...] | None:
    """Six numbers in GDAL's order (x, dx, rotation, y, rotation, dy) as a, b, c, d, e, f; None where they are none.

    Args:
        value: numbers, or text of numbers.
    """
    words = value.split() if isinstance(value, str) else value
    try:
        found = [float(word) for word in (str(words[0]).split(",") if len(words) == 1 else words)]
    except (TypeError, ValueError):
        return None
    if len(found) != 6 or not all(math.isfinite(number) for number in found) or found[1] == 0 or found[5] == 0:
        return None
    x, dx, across, y, down, dy = found
    return dx, across, x, down, dy, y


def wkt_of(attributes: Mapping[str, Any]) -> str | None:
    """The coordinate system of a grid mapping as WKT; None where it has none."""
    for name in ("crs_wkt", "spatial_ref", "wkt"):
        value = attributes.get(name)
        if isinstance(value, str) and re.match(r"\s*[A-Z_]{4,}\s*\[", value):
            return value.strip()
    if attributes.get("grid_mapping_name") == "latitude_longitude":
        return WGS84
    return None


class Marked:
    """An array that is read when it is indexed, with one number for all that is missing in it."""

    def __init__(
        self,
        source: Any,
        *,
        others: Sequence[float] = (),
        low: float | None = None,
        high: float | None = None,
        fill: float = math.nan,
        unsigned: bool = False,
    ) -> None:
        self._source, self._others, self._low, self._high, self._fill = source, others, low, high, fill
        self.shape, self.ndim = tuple(source.shape), len(source.shape)
        stored = np.dtype(source.dtype)
        self._unsigned = np.dtype(stored.str.replace("i", "u")) if unsigned else None
        self.dtype = self._unsigned or stored
        self.path = getattr(source, "path", None) or getattr(source, "filename", None)
        self.chunks = getattr(source, "chunks", None)

    def __getitem__(self, index: Any) -> np.ndarray:
        stored = np.asarray(self._source[index])
        if self._unsigned is not None:
            return stored.view(self._unsigned)
        missing = np.zeros(stored.shape, bool)
        for other in self._others:
            missing |= stored == stored.dtype.type(other)
        if self._low is not None:
            missing |= stored < self._low
        if self._high is not None:
            missing |= stored > self._high
        return np.where(missing, stored.dtype.type(self._fill), stored) if missing.any() else stored


def _listed(value: Any) -> list[float]:
    """The numbers of an attribute; none where it is text or absent."""
    if value is None or isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], str)):
        return []
    return [float(number) for number in np.ravel(value)]


def _one(attributes: Mapping[str, Any], name: str, default: float, where: str, option: str) -> float:
    """A finite number of an attribute.

    Raises:
        ValueError: it is none.
    """
    if attributes.get(name) is None:
        return default
    found = _listed(attributes[name])
    if len(found) != 1 or not math.isfinite(found[0]):
        remedy = f": give {option}" if option else ""
        raise ValueError(f"{where}: {name} must be one finite number, got {attributes[name]}{remedy}")
    return found[0]


def _check_unknown(attributes: Mapping[str, Any], told: Reading, where: str) -> set[str]:
    """Attributes of no convention that may change the numbers, where the user says what stands in their place.

    Raises:
        ValueError: the user does not.
    """
    replaced = set()
    for name, value in attributes.items():
        if name in DECODING or not CHANGES.search(name) or UNCHANGING.search(name) or not (found := _listed(value)):
            continue
        shifts, marks = re.search("offset|intercept", name, re.I), re.search("fill|data|ignore|missing", name, re.I)
        if found == ([0.0] if shifts else [1.0]) and not marks:
            continue
        option = "nodata" if marks else "offset" if shifts else "scale"
        if getattr(told, option) is None:
            said = ", ".join(f"{number:g}" for number in found[:4])
            raise ValueError(
                f"{where}: the attribute {name} = {said} is of no convention and may change the numbers: say what "
                f"holds with --{option}"
            )
        replaced.add(name)
    return replaced


def _missing(
    attributes: Mapping[str, Any], told: Reading, dtype: np.dtype, where: str, netcdf: bool
) -> tuple[float | None, float | None, list[float]]:
    """The number that marks missing data, the one that is stated, and further numbers that do so."""
    if told.nodata is not None:
        value = None if told.nodata == "none" else float(told.nodata)
        return value, value, []
    marks = []
    for name in ("_FillValue", "missing_value"):
        value = attributes.get(name)
        if isinstance(value, str):
            raise ValueError(f"{where}: {name} must be a number, got {value!r}: give --nodata")
        for mark in _listed(value):
            if dtype.kind == "f" or (mark == int(mark) if math.isfinite(mark) else False):
                marks.append(mark)
            elif not math.isnan(mark):
                raise ValueError(f"{where}: {name} = {mark:g} is no number of type {dtype.name}: give --nodata")
    if dtype.kind in "iu":
        span = np.iinfo(dtype)
        marks = [mark for mark in marks if span.min <= mark <= span.max]
    stated = marks[0] if marks else None
    if not any(name in attributes for name in ("_FillValue", "missing_value")):
        marks = [NODATA]  # as for every format whose file does not say it
        if netcdf and dtype.kind == "f":
            marks.append(DEFAULT_FILL)
    marks = list(dict.fromkeys(mark for mark in marks if not math.isnan(mark)))
    return (marks[0] if marks else None), (None if stated is None or math.isnan(stated) else stated), marks[1:]


def _valid(
    attributes: Mapping[str, Any],
    types: Mapping[str, np.dtype],
    dtype: np.dtype,
    where: str,
) -> tuple[float | None, float | None]:
    """Lowest and highest valid number as stored; None where there is no bound that stored numbers could break.

    The bounds are stored numbers, unless their type is that of the scale and wider than that of the stored numbers:
    then they are values (Unidata, Attribute Conventions, valid_range).
    """
    both = _listed(attributes.get("valid_range"))
    if both and len(both) != 2:
        raise ValueError(f"{where}: valid_range must be two numbers, got {attributes['valid_range']}")
    bounds: list[float | None] = list(both) if both else [
        next(iter(_listed(attributes.get(name))), None) for name in ("valid_min", "valid_max")
    ]  # fmt: skip
    named = next((name for name in ("valid_range", "valid_min", "valid_max") if name in types), None)
    packing = [types[name] for name in ("scale_factor", "add_offset") if name in types]
    if named is not None and packing:
        unpacked = np.result_type(*packing)
        if types[named] == unpacked and np.result_type(unpacked, dtype) == unpacked and unpacked != dtype:
            gain = _one(attributes, "scale_factor", 1.0, where, "--scale") or 1.0
            offset = _one(attributes, "add_offset", 0.0, where, "--offset")
            bounds = [None if bound is None else (bound - offset) / gain for bound in bounds]
            if gain < 0:
                bounds.reverse()
    low, high = (None if bound is None or math.isnan(bound) else bound for bound in bounds)
    if low is not None and high is not None and low > high:
        raise ValueError(f"{where}: the valid range is {low:g} to {high:g}, which holds no value: give --nodata")
    least, most = (-math.inf, math.inf) if dtype.kind == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return (None if low is None or low <= least else low), (None if high is None or high >= most else high)


def _free_number(dtype: np.dtype, low: float | None, high: float | None, where: str) -> float:
    """A stored number that no valid one can be."""
    span = np.iinfo(dtype)
    if low is not None and low > span.min:
        return float(span.min)
    if high is not None and high < span.max:
        return float(span.max)
    raise ValueError(f"{where}: the file marks missing data by several numbers: say by which with --nodata")


def _line(values: np.ndarray | None) -> tuple[float, float] | None:
    """First value and step of coordinates that lie on a line; None where they do not."""
    if values is None or len(values) < 2 or not np.isfinite(values).all():
        return None
    step = float(values[-1] - values[0]) / (len(values) - 1)
    if step == 0:
        return None
    away = np.abs(values - (values[0] + step * np.arange(len(values)))).max()
    # Coordinates in single precision are rounded: an easting of 500 000 m by 3 cm, a longitude of 120° by 0.8 m.
    rounding = 2 * float(np.abs(values).max()) * float(np.finfo(np.float32).eps)
    return (float(values[0]), step) if away <= max(REGULAR * abs(step), min(rounding, 0.25 * abs(step))) else None
