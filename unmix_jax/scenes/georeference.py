"""Where an image lies on Earth: one form for what ENVI headers, GeoTIFFs and swaths say, and back.

A header says it in one of these ways; the first that is there counts:

- ``crs`` (WKT or ``EPSG:`` with a code) and ``transform`` (a, b, c, d, e, f), as GeoTIFFs and grids do;
- ENVI's ``map info``, with ``coordinate system string`` and ``projection info``;
- ``location``, longitude and latitude of each pixel of a swath, perhaps with ``glt``, a table that puts the swath on a
  grid (`unmix_jax.scenes.ortho`);
- points of known place only, ``gcps`` or ``geo points``, which nothing here applies.

Rotated ENVI headers are understood as GDAL's ENVI driver understands them, since most programs read them through it.
With pixels of sizes s, t and the rotation r in degrees,

    x = E - (i - 1) s + s cos r · column + s sin r · row
    y = N + (j - 1) t + t sin r · column - t cos r · row

where pixel i, j (counted from 1, at its upper left corner) lies at E, N, and a rotation of exactly 180 means that the
first row is the southernmost. Tie pixels other than 1, 1 are not turned; what is written has 1, 1.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from unmix_jax.scenes.projections import (
    System,
    datum_named,
    envi_name,
    from_projection_info,
    identified,
    one_line,
    parsed,
    plain_number,
    projection_info,
    readable,
    system_of,
    utm_code,
    wkt_for_envi,
)  # fmt: skip
from unmix_jax.scenes.scene import Header, Scene

__all__ = [
    "Place", "envi_entries", "geotiff_profile", "grid_of", "place_in_words", "place_note", "place_of", "shifted",
]  # fmt: skip

Six = tuple[float, float, float, float, float, float]
LINEAR = {
    "m": 1.0, "meter": 1.0, "meters": 1.0, "metre": 1.0, "metres": 1.0, "km": 1000.0, "kilometers": 1000.0,
    "feet": 0.3048, "yards": 0.9144, "miles": 1609.344, "nautical miles": 1852.0,
}  # fmt: skip
ANGULAR = {"degrees": 1.0, "minutes": 1 / 60, "seconds": 1 / 3600, "radians": 180 / math.pi}
NOWHERE = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)  # what GDAL gives for an image that lies nowhere
SHEAR = 1e-3  # of a pixel, in the corner that is farthest: more than that a header cannot leave out
TEXT_LENGTH = 200


@dataclass(frozen=True)
class Place:
    """Where the pixels of an image lie.

    Attributes:
        crs: coordinate system, WKT or ``EPSG:`` with a code; None: not known.
        transform: x = a · column + b · row + c and y = d · column + e · row + f, in the unit of the coordinate system,
            with columns and rows counted from 0 at the outer corner of the first pixel; None: not known.
        why: why there is no coordinate system.
    """

    crs: str | None = None
    transform: Six | None = None
    why: str = ""

    def corner(self, row: int | float, column: int | float) -> tuple[float, float]:
        """Coordinates x, y of the upper left corner of a pixel, counted from 0."""
        assert self.transform is not None
        a, b, c, d, e, f = self.transform
        return a * column + b * row + c, d * column + e * row + f


@dataclass(frozen=True)
class _Map:
    """A ``map info``, as far as it can be read.

    Attributes:
        parts: its parts, fit to be written.
        tie: column and row of the tie pixel from 1, its coordinates, and the sizes of a pixel.
        turned: rotation in degrees.
        unit: of the coordinates, in small letters.
    """

    parts: tuple[str, ...]
    tie: tuple[float, ...]
    turned: float = 0.0
    unit: str = ""

    @property
    def transform(self) -> Six:
        """As GDAL understands it."""
        column, row, east, north, width, height = self.tie
        if abs(self.turned) == 180:
            across, down, last = 1.0, 0.0, height
        else:
            across, down = math.cos(math.radians(self.turned)), math.sin(math.radians(self.turned))
            last = -across * height
        left, top = east - (column - 1) * width, north + (row - 1) * height
        return across * width, down * width, left, down * height, last, top


def place_of(scene: Scene | Mapping[str, Any]) -> Place | None:
    """Where an image lies.

    Args:
        scene: an image, or its header.

    Returns:
        None where nothing is said, or only for each pixel or for some points, and for a list of spectra.
    """
    if isinstance(scene, Scene):
        if len(scene.shape) != 2:
            return None
        scene = scene.header
    return _place(_held(scene))[0]


def envi_entries(scene: Scene | Mapping[str, Any] | Place, shape: tuple[int, ...]) -> tuple[dict[str, str], list[str]]:
    """The entries of an ENVI header that place an image on Earth.

    What an ENVI header said is carried over, each number and name by itself, so that nothing in it can add to the
    header that is written. A transform is written as ``map info`` with its rotation, the coordinate system as
    ``coordinate system string`` and, where ENVI has a number for it, as ``projection info``.

    Args:
        scene: an image, its header, or a place.
        shape: its rows and columns; of anything but images there are no entries.

    Returns:
        Entries by name, and what was left out, one sentence each.
    """
    if len(shape) != 2:
        return {}, []
    if isinstance(scene, Place):
        return _written(scene, shape)
    held = _held(scene.header if isinstance(scene, Scene) else scene)
    if "transform" not in held:
        return _carried(held)
    place, notes = _of_transform(held)
    entries, more = _written(place, shape) if place is not None else ({}, [])
    return entries, notes + more


def geotiff_profile(place: Place | None) -> dict[str, Any]:
    """Coordinate system and transform, as `rasterio.open` takes them.

    Raises:
        ImportError: rasterio is not there.
    """
    from rasterio import Affine

    if place is None:
        return {}
    profile: dict[str, Any] = {}
    if place.transform is not None:
        profile["transform"] = Affine(*place.transform)
    crs = None if place.crs is None else identified(place.crs)
    if crs is not None:
        profile["crs"] = crs
    return profile


def place_note(scene: Scene, maps: Iterable[str] = ("envi",), *, ortho: bool = False) -> str | None:
    """What is to be said where the maps of a scene do not lie where the scene lies.

    Args:
        scene: what was unmixed.
        maps: images that are written, ``envi``, ``geotiff`` or both.
        ortho: whether they are written on the grid of the scene's table (GLT).

    Returns:
        A sentence, or several; None where nothing is lost. A scene that nobody says the place of loses nothing.

    Raises:
        ValueError: ``ortho`` for a scene without a table, or with one that does not fit.
    """
    maps = tuple(maps)
    if len(scene.shape) != 2 or not maps:
        return None
    held = _held(scene.header)
    place, notes = (grid_of(held), []) if ortho else _place(held)
    if place is None or place.crs is None or place.transform is None:
        why = (
            "the file does not say where the grid of its table (GLT) lies" if ortho
            else _elsewhere(held) if place is None
            else "the file names one, but not where the pixels lie in it" if place.transform is None
            else place.why or "the file names none"
        )  # fmt: skip
        notes.insert(0, f"The maps carry no coordinate system: {why}." * bool(why))
    if "envi" in maps:
        shape = np.shape(held["glt"]["x"]) if ortho and place is not None else scene.shape
        more = envi_entries(place if ortho and place is not None else held, shape)[1]
        notes += [note for note in more if note not in notes]
    if ortho:
        from unmix_jax.scenes.ortho import check_ortho  # which needs this module

        notes.append(check_ortho(scene) or "")
    return " ".join(note for note in notes if note) or None


def place_in_words(scene: Scene) -> str:
    """Projection, pixel size, rotation and upper left corner of an image, in one line."""
    if len(scene.shape) != 2:
        return "none"
    held = _held(scene.header)
    place, _ = _place(held)
    if place is None:
        return _swath_in_words(held)
    return _in_words(place)


def shifted(header: Header, row: int, column: int) -> Header:
    """The header of the part of an image that begins at a row and a column, counted from 0.

    Tie pixels, transforms, arrays of longitude and latitude, points and ``x start``, ``y start`` move along. Entries of
    a GLT are counted from the new first pixel; those before it are set to 0 (fill), and those behind the part are taken
    for fill where the table is applied.
    """
    if row == 0 and column == 0 and "glt" not in _names(header):
        return header
    moved, names = Header(header), _names(header)

    def put(name: str, value: Any) -> None:
        moved[names.get(name, name)] = value

    held = _held(header)
    if (transform := _six(held.get("transform"))) is not None:
        x, y = Place(None, transform).corner(row, column)
        put("transform", (*transform[:2], x, *transform[3:5], y))
    if "map info" in held and (found := _map_info(held["map info"])[0]) is not None:
        put("map info", list(_moved(found, row, column)))
    for name, by in (("x start", column), ("y start", row)):
        start = plain_number(held.get(name, "1"))
        if start is not None and by and ("map info" in held or name in held):
            put(name, f"{float(start) + by:.17g}")
    if "geo points" in held and (points := _numbers(held["geo points"])) is not None and len(points) % 4 == 0:
        table = np.asarray([float(p) for p in points]).reshape(-1, 4) - [column, row, 0, 0]
        put("geo points", [f"{value:.17g}" for value in table.ravel()])
    if "gcps" in held:
        put("gcps", [(r - row, c - column, *rest) for r, c, *rest in held["gcps"]])
    if isinstance(held.get("location"), Mapping):
        put("location", {name: _from(value, row, column) for name, value in held["location"].items()})
    if isinstance(held.get("glt"), Mapping):
        glt = dict(held["glt"])
        glt |= {name: ShiftedTable(glt[name], by) for name, by in (("x", column), ("y", row)) if name in glt}
        put("glt", {**glt, "cut": True})
    return moved


class ShiftedTable:
    """Entries of a table of pixels (GLT), counted from a later pixel; those before it become 0."""

    def __init__(self, table: Any, by: int) -> None:
        self.shape = tuple(int(n) for n in np.shape(table))
        self.ndim, self.dtype = len(self.shape), np.dtype(np.int64)
        self._table, self._by = table, by

    def __getitem__(self, index: Any) -> np.ndarray:
        entries = np.asarray(self._table[index])
        whole = np.nan_to_num(entries, nan=0).astype(np.int64)
        left = np.abs(whole) - self._by
        return np.where((left >= 1) & (whole != -9999), np.sign(whole) * left, 0)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[...], dtype)


# What a header holds


def _names(header: Mapping[str, Any]) -> dict[str, str]:
    """Names of entries as they stand, by their small letters."""
    return {str(name).lower(): name for name in header}


def _held(header: Mapping[str, Any]) -> dict[str, Any]:
    """Entries by their names in small letters."""
    return {str(name).lower(): value for name, value in header.items()}


def _place(held: Mapping[str, Any]) -> tuple[Place | None, list[str]]:
    """The place that a header says, and what in it could not be read."""
    if _from_envi(held):
        return _of_map_info(held)
    return _of_transform(held)


def _from_envi(held: Mapping[str, Any]) -> bool:
    """Whether an ENVI header says the place."""
    return "transform" not in held and "map info" in held


def _of_transform(held: Mapping[str, Any]) -> tuple[Place | None, list[str]]:
    """Out of ``crs`` and ``transform``."""
    notes = []
    transform, crs = _six(held.get("transform")), held.get("crs")
    if transform is None and held.get("transform") is not None:
        notes.append("The transform of the scene's header is not six numbers and was left out.")
    text = None if crs is None else str(crs)
    if text is not None and not readable(text):
        notes.append(f"The coordinate system of the scene's header cannot be read: {_short(text)}.")
        text = None
    if text is None and (transform is None or transform == NOWHERE):
        return None, notes
    system = None if text is None else system_of(text)
    if system is not None and system.kind == "local":
        return Place(None, transform, f"the file has coordinates of its own ({_short(system.name)})"), notes
    return Place(text, transform), notes


def _of_map_info(held: Mapping[str, Any]) -> tuple[Place | None, list[str]]:
    """Out of an ENVI header; coordinates come out in the unit of the coordinate system."""
    found, why = _map_info(held["map info"])
    if found is None:
        return None, [f"The map info was left out: {why}."]
    notes = []
    given = held.get("coordinate system string")
    system: System | None = None
    crs = None
    if given is not None:
        text, local = _system_string(given), False
        if text is not None and readable(text):
            system = system_of(text)
            local = system is not None and system.kind == "local"
            crs = None if local else text
        if crs is None and not local:
            notes.append("The coordinate system string cannot be read as WKT and was left out.")
    if crs is None:
        crs, why = _named(found, held.get("projection info"))
        system = None if crs is None else system_of(crs)
    a, b, c, d, e, f = found.transform
    if crs is None and (c, f, abs(a), abs(e), b, d) == (0.0, 0.0, 1.0, 1.0, 0.0, 0.0):
        return None, notes  # rows and columns stand for coordinates: the image lies nowhere
    if found.turned and abs(found.turned) != 180:
        if found.tie[:2] != (1.0, 1.0):
            notes.append(
                "The map info has a rotation and a tie pixel other than 1, 1: it is understood as GDAL does, which "
                "does not turn the tie pixel's distance from the corner."
            )
        if found.tie[4] != found.tie[5]:
            notes.append("The map info has a rotation and pixels that are not square: it is understood as GDAL does.")
    factor, trouble = _factor(found.unit, system)
    if trouble:
        notes.append(trouble)
    scaled = found.transform if factor == 1 else tuple(value * factor for value in found.transform)
    return Place(crs, _six(scaled), "" if crs else why), notes


def _factor(unit: str, system: System | None) -> tuple[float, str]:
    """What brings a ``map info`` to the unit of the coordinate system, and a note where it is unclear."""
    if not unit or system is None:
        return 1.0, ""
    if system.kind == "geographic":
        # Metres of longitude do not exist: programs leave their default there, and degrees are meant.
        return ANGULAR.get(unit, 1.0) / system.unit if unit in ANGULAR else 1.0, ""
    if unit in ANGULAR:
        return 1.0, ""
    if unit not in LINEAR:
        return 1.0, f"The unit {_short(unit)!r} of map info is not known: that of the coordinate system is assumed."
    factor = LINEAR[unit] / system.unit
    # ENVI writes "Feet" for the foot and for the US survey foot, which is two millionths longer: the system knows.
    return (1.0 if abs(factor - 1) < 1e-5 else factor), ""


def _map_info(value: Any) -> tuple[_Map | None, str]:
    """A ``map info``, or why it cannot be read."""
    parts = _listed(value)
    if len(parts) < 7:
        return None, "it has fewer than seven parts"
    numbers = [plain_number(part) for part in parts[1:7]]
    if any(number is None for number in numbers):
        wrong = next(part for part, number in zip(parts[1:7], numbers, strict=True) if number is None)
        return None, f"{_short(wrong)!r} is not a number"
    tie = tuple(float(str(number)) for number in numbers)
    if not tie[4] or not tie[5]:
        return None, "its pixels have no size"
    turned, unit = 0.0, ""
    kept = [_plain(parts[0]), *(str(number) for number in numbers)]
    for part in parts[7:]:
        key, equals, said = (piece.strip() for piece in part.partition("="))
        if not equals:
            kept.append(plain_number(part) or _plain(part))
            continue
        if key.lower() == "rotation":
            if (number := plain_number(said)) is None:
                return None, f"its rotation {_short(said)!r} is not a number"
            turned, said = float(number), number
        elif key.lower() == "units":
            unit, said = said.lower(), _plain(said)
        kept.append(f"{_plain(key)}={plain_number(said) or _plain(said)}")
    return _Map(tuple(kept), tie, turned, unit), ""


def _named(found: _Map, info: Any) -> tuple[str | None, str]:
    """The coordinate system that a ``map info`` names by itself or with ``projection info``, or why there is none."""
    name = found.parts[0]
    rest = [part for part in found.parts[7:] if "=" not in part]
    if name.lower().startswith("utm"):
        zone = rest[0] if rest else ""
        side = rest[1].lower() if len(rest) > 1 else ""
        if not zone.isdigit() or side not in ("north", "south"):
            return None, "the map info names no UTM zone with North or South"
        if len(rest) < 3 or rest[2] == "-":
            return None, "the map info names no datum"
        datum = datum_named(rest[2])
        code = None if datum is None else utm_code(datum, int(zone), side == "north")
        if code is None:
            return (
                None,
                f"no EPSG code is known here for UTM zone {zone} {rest[1]} upon the datum {_short(rest[2])!r}",
            )
        return f"EPSG:{code}", ""
    if name.lower().startswith("geographic lat"):
        if not rest or rest[0] == "-":
            return None, "the map info names no datum"
        datum = datum_named(rest[0])
        return (f"EPSG:{datum.code}", "") if datum else (None, f"the datum {_short(rest[0])!r} is not known here")
    if name.lower() in ("arbitrary", "pixel", "-"):
        return None, "the map info gives the corner and the size of pixels, but no projection (Arbitrary)"
    parts = [] if info is None else _listed(info)
    if not parts:
        return None, f"the map info names the projection {_short(name)!r} without a coordinate system string"
    return _projected(parts, found.unit)


def _projected(parts: list[str], unit: str) -> tuple[str | None, str]:
    """The coordinate system of ``projection info``."""
    why = f"the projection info {_short(', '.join(parts))!r} is none of those that are understood"
    words = [part for part in parts if "=" not in part]
    if not words or not words[0].isdigit():
        return None, why
    numbers: list[float] = []
    for part in words[1:]:
        if (number := plain_number(part)) is None:
            break
        numbers.append(float(number))
    said = words[1 + len(numbers) :]
    datum = datum_named(said[0]) if len(said) > 1 else None
    if len(said) > 1 and datum is None and said[0].strip("- ") and not _own_ellipsoid(said[0], numbers):
        return None, f"the datum {_short(said[0])!r} is not known here"
    if LINEAR.get(unit, 1.0) != 1 and any(numbers[-4:]):  # it is not said in which unit false eastings are
        return None, f"projection info in {unit} is not understood"
    crs = from_projection_info(int(words[0]), numbers, datum, said[-1] if said else "")
    return (crs, "") if crs is not None else (None, why)


def _own_ellipsoid(name: str, numbers: list[float]) -> bool:
    """Whether the axes say it all: a sphere, or a datum that a program calls unknown."""
    sphere = len(numbers) < 2 or numbers[0] == numbers[1] or numbers[1] < 1e5  # of a sphere one radius is given
    return sphere or "unknown" in name.lower()


def _system_string(value: Any) -> str | None:
    """A ``coordinate system string`` on one line; None where it is not WKT."""
    text = value if isinstance(value, str) else ",".join(str(part) for part in np.atleast_1d(value))
    text = text.strip().removeprefix("{").removesuffix("}").strip()
    return one_line(text) if parsed(text) is not None else None


def _carried(held: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """The entries of an ENVI header, each number and name by itself, and what was left out."""
    entries, notes = {}, []
    if "map info" in held:
        found, why = _map_info(held["map info"])
        if found is None:
            notes.append(f"The map info was left out: {why}.")
        else:
            entries["map info"] = _braced(found.parts)
    if "coordinate system string" in held:
        text = _system_string(held["coordinate system string"])
        if text is None:
            notes.append("The coordinate system string cannot be read as WKT and was left out.")
        else:
            entries["coordinate system string"] = f"{{{text}}}"
    if "projection info" in held:
        parts = _listed(held["projection info"])
        if parts and parts[0].isdigit():
            entries["projection info"] = _braced(_part(part) for part in parts)
        else:
            notes.append("The projection info does not begin with a number and was left out.")
    if "geo points" in held:
        points = _numbers(held["geo points"])
        if points is None or not points or len(points) % 4:
            notes.append("The geo points are not four numbers each and were left out.")
        else:
            entries["geo points"] = _braced(points)
    for name in ("x start", "y start"):
        if name in held:
            number = plain_number(held[name])
            if number is None:
                notes.append(f"{name} was left out: {_short(str(held[name]))!r} is not a number.")
            else:
                entries[name] = number
    return entries, notes


def _written(place: Place, shape: tuple[int, ...]) -> tuple[dict[str, str], list[str]]:
    """The entries of an ENVI header for a transform, and what cannot be written."""
    if place.transform is None:
        return {}, []
    found = _turned(place.transform, shape)
    if found is None:
        return {}, [
            "The ENVI maps carry no place: mirrored or sheared pixels, and rotated ones that are not square, have no "
            "form in an ENVI header. GeoTIFFs (--maps geotiff) keep it."
        ]
    width, height, turned = found
    numbers = ["1", "1", *(repr(float(v)) for v in (place.transform[2], place.transform[5], width, height))]
    rotation = [f"rotation={turned!r}"] if turned else []
    system = None if place.crs is None else system_of(place.crs)
    if system is None or place.crs is None:
        return {"map info": _braced(["Arbitrary", *numbers, "0", "North", *rotation])}, []
    parts = [_plain(envi_name(system)), *numbers]
    if parts[0] == "UTM":
        parts += [str(abs(system.zone)), "North" if system.zone > 0 else "South"]
    if system.datum is not None:
        parts.append(system.datum.envi)
    if abs(system.unit - 1) < 1e-9:  # other units are in the coordinate system string, and GDAL would apply them twice
        parts.append("units=Degrees" if system.kind == "geographic" else "units=Meters")
    entries = {"map info": _braced([*parts, *rotation])}
    text = wkt_for_envi(place.crs)
    if text is not None:
        entries["coordinate system string"] = f"{{{text}}}"
    info = projection_info(system)
    if info is not None:
        entries["projection info"] = _braced(info)
    known = parts[0] in ("UTM", "Geographic Lat/Lon") and system.datum is not None
    if text is None and info is None and not known:
        return entries, [
            f"The ENVI maps carry no coordinate system: {_short(system.name)!r} has no form in an ENVI header, or none "
            "that is known without rasterio (extra geo). GeoTIFFs (--maps geotiff) keep it."
        ]
    return entries, []


def _turned(transform: Six, shape: tuple[int, ...]) -> tuple[float, float, float] | None:
    """Sizes of a pixel and rotation in degrees of a transform; None where it has no such form."""
    a, b, _, d, e, _ = transform
    if b == 0 and d == 0 and a > 0 and e > 0:
        return a, e, 180.0
    width, height = math.hypot(a, b), math.hypot(d, e)
    if not width or not height:
        return None
    angle = math.atan2(b, a)
    rows, columns = shape[:2]
    # Off by this in the farthest corner, in pixels, if the two rows of the transform are turned by one angle.
    off = abs(d / height - math.sin(angle)) * columns + abs(e / height + math.cos(angle)) * rows
    if off > SHEAR:
        return None
    turned = math.degrees(angle)
    if b == 0 and d == 0 and a > 0:
        turned = 0.0
    if abs(turned) == 180:  # which stands for something else
        turned = math.nextafter(180.0, 0.0)
    return width, height, turned


def _moved(found: _Map, row: int, column: int) -> tuple[str, ...]:
    """The parts of a ``map info`` whose image begins at a later pixel."""
    parts = list(found.parts)
    if found.turned and abs(found.turned) != 180:
        x, y = Place(None, found.transform).corner(row, column)
        parts[1:5] = ["1", "1", f"{x:.17g}", f"{y:.17g}"]
    elif found.turned:  # rows run north, and the tie pixel counts them downwards
        parts[1] = f"{found.tie[0] - column:.17g}"
        parts[4] = f"{found.tie[3] + row * found.tie[5]:.17g}"
    else:
        parts[1], parts[2] = f"{found.tie[0] - column:.17g}", f"{found.tie[1] - row:.17g}"
    return tuple(parts)


# Swaths and points


def grid_of(held: Mapping[str, Any]) -> Place | None:
    """The grid that a header's table of pixels (GLT) makes of a swath; None where there is no table."""
    if not isinstance(held.get("glt"), Mapping) or not {"x", "y"} <= set(held["glt"]):
        return None
    crs = held.get("glt_crs")
    text = None if crs is None or not readable(str(crs)) else str(crs)
    return Place(text, _six(held.get("glt_transform")))


def _elsewhere(held: Mapping[str, Any]) -> str:
    """Why a scene that has some place, but no coordinate system, has none; empty where it has no place."""
    if isinstance(held.get("location"), Mapping) and {"lat", "lon"} <= set(held["location"]):
        grid = (
            "; --ortho (ortho=True) writes the maps on the grid of the file's table (GLT)" if grid_of(held) is not None
            else "; the file has no table (GLT) that would put them on a grid"
        )  # fmt: skip
        return "the scene is a swath, and the longitude and latitude of each of its pixels are in location.img" + grid
    if grid_of(held) is not None:
        return "the scene is a swath; --ortho (ortho=True) writes the maps on the grid of the file's table (GLT)"
    if held.get("gcps"):
        return f"the scene is placed by {len(held['gcps'])} ground control points, which are not applied"
    if "geo points" in held:
        return "the scene is placed by points (geo points), which are carried to ENVI maps and not applied"
    if "rpc info" in held or held.get("rpcs"):
        return "the scene is placed by rational polynomials (RPC), which are not applied"
    return ""


def _swath_in_words(held: Mapping[str, Any]) -> str:
    """Place of a scene without a transform."""
    if isinstance(held.get("location"), Mapping) and {"lat", "lon"} <= set(held["location"]):
        return "longitude and latitude per pixel (swath)" + ", table of a grid (GLT)" * (grid_of(held) is not None)
    if grid_of(held) is not None:
        return "table of a grid (GLT)"
    if held.get("gcps"):
        return f"{len(held['gcps'])} ground control points, not applied"
    if "geo points" in held:
        return "points of known place (geo points), not applied"
    if "rpc info" in held or held.get("rpcs"):
        return "rational polynomials (RPC), not applied"
    return "none"


def _in_words(place: Place) -> str:
    """A place, in one line."""
    system = None if place.crs is None else system_of(place.crs)
    words = ["no coordinate system"]
    unit = ""
    if system is not None:
        code = f" (EPSG:{system.code})" if system.code is not None else ""
        words, unit = [f"{_short(system.name)}{code}"], system.unit_name
    if place.transform is not None:
        a, b, c, d, e, f = place.transform
        gap = "" if unit == "°" else " "
        words.append(f"pixels of {math.hypot(a, d):.9g} × {math.hypot(b, e):.9g}{gap}{unit}".rstrip())
        if b or d:
            words.append(f"rotated by {math.degrees(math.atan2(b, a)):.6g}°")
        elif e > 0:
            words.append("first row in the south")
        names = ("longitude", "latitude") if system is not None and system.kind == "geographic" else ("x", "y")
        words.append(f"upper left corner at {names[0]} {c:.12g}, {names[1]} {f:.12g}")
    return "; ".join(words)


# Small things


def _six(value: Any) -> Six | None:
    """Six finite numbers."""
    try:
        numbers = tuple(float(number) for number in value)
    except (TypeError, ValueError):
        return None
    if len(numbers) != 6 or not all(math.isfinite(number) for number in numbers):
        return None
    return numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5]


def _listed(value: Any) -> list[str]:
    """The parts of a header's list."""
    if isinstance(value, str):
        return [part.strip() for part in value.strip().removeprefix("{").removesuffix("}").split(",")]
    if isinstance(value, Mapping) or not np.iterable(value):
        return [str(value)]
    return [str(part).strip() for part in value]


def _numbers(value: Any) -> list[str] | None:
    """A list of numbers, as text; None where a part is no number."""
    numbers = [plain_number(part) for part in _listed(value)]
    return None if any(number is None for number in numbers) else [str(number) for number in numbers]


def _part(part: str) -> str:
    """A number, a name or ``name=value`` that can stand in a list."""
    key, equals, said = part.partition("=")
    return plain_number(part) or (f"{_plain(key)}={plain_number(said) or _plain(said)}" if equals else _plain(part))


def _plain(text: str) -> str:
    """A name that can stand in a header's list."""
    kept = "".join("-" if c in ",{}=" or not c.isprintable() else c for c in text.strip()[:TEXT_LENGTH])
    return kept.strip() or "-"


def _short(text: str) -> str:
    """Text out of a file for a message: on one line, without what a terminal would obey."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[:TEXT_LENGTH]).split())
    return line if len(line) <= 60 else f"{line[:57]}..."


def _braced(parts: Iterable[str]) -> str:
    """A list as it stands in a header."""
    return "{" + ", ".join(parts) + "}"


def _from(value: Any, row: int, column: int) -> Any:
    """What of a table of pixels belongs to a part that begins there; lists along one axis stay."""
    if np.ndim(value) != 2:
        return value
    return value[row:, column:] if hasattr(value, "shape") else np.asarray(value)[row:, column:]
