"""Coordinate systems as files name them: WKT, EPSG codes, and the names, datums and numbers of ENVI headers.

Reading and writing of ENVI headers needs no further library. Where rasterio is there, it is asked for what only a
database of coordinate systems knows. References: OGC 01-009 (WKT 1) and OGC 18-010r7 (WKT 2); the projection numbers
and their parameters are those of ENVI's ``map_proj.txt``, which GDAL's ENVI driver reads and writes as well.
"""

import functools
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

__all__ = [
    "Datum", "Node", "System", "datum_named", "envi_name", "from_projection_info", "identified", "one_line", "parsed",
    "plain_number", "projection_info", "readable", "system_of", "utm_code", "wkt_for_envi",
]  # fmt: skip

NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
NUMBER_LENGTH = 40  # a double has 17 digits; no number in a header needs more characters than this
TOKEN = re.compile(
    r'\s*(?:"(?P<text>(?:[^"{}\r\n]|"")*)"|(?P<word>[A-Za-z][A-Za-z0-9_]*)'
    r"|(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)|(?P<mark>[\[\](),]))"
)
WKT_LENGTH = 100_000  # the longest in EPSG's list has some 10 000 characters
WKT_DEPTH = 30
GEOGRAPHIC = ("GEOGCS", "GEOGCRS", "GEOGRAPHICCRS", "GEODCRS", "GEODETICCRS")
PROJECTED = ("PROJCS", "PROJCRS", "PROJECTEDCRS", "DERIVEDPROJCRS")
COMPOUND = ("COMPD_CS", "COMPOUNDCRS", "BOUNDCRS", "SOURCECRS")
LOCAL = ("LOCAL_CS", "ENGCRS", "ENGINEERINGCRS")
DEGREE = math.pi / 180


class Datum(NamedTuple):
    """A datum that ENVI headers name, with EPSG's codes of what is built upon it.

    Attributes:
        code: EPSG code of longitude and latitude.
        envi: name in ``map info``.
        name: of the geographic system in WKT.
        datum: its name in WKT.
        ellipsoid: name, semi-major axis in metres, inverse flattening.
        north: number to which the UTM zone is added, first and last zone, of the north; None: EPSG has no such codes.
        south: the same of the south.
        spellings: other names, without anything but letters and digits.
    """

    code: int
    envi: str
    name: str
    datum: str
    ellipsoid: tuple[str, float, float]
    north: tuple[int, int, int] | None = None
    south: tuple[int, int, int] | None = None
    spellings: tuple[str, ...] = ()


GRS80 = ("GRS 1980", 6378137.0, 298.257222101)
DATUMS = (
    Datum(
        4326, "WGS-84", "WGS 84", "WGS_1984", ("WGS 84", 6378137.0, 298.257223563), (32600, 1, 60), (32700, 1, 60),
        ("worldgeodeticsystem1984", "wgs1984"),
    ),
    Datum(
        4322, "WGS-72", "WGS 72", "WGS_1972", ("WGS 72", 6378135.0, 298.26), (32200, 1, 60), (32300, 1, 60),
        ("worldgeodeticsystem1972", "wgs1972"),
    ),
    Datum(
        4269, "North America 1983", "NAD83", "North_American_Datum_1983", GRS80, (26900, 1, 23), None,
        ("nad83", "northamerican1983", "nad1983"),
    ),
    Datum(
        4267, "North America 1927", "NAD27", "North_American_Datum_1927", ("Clarke 1866", 6378206.4, 294.978698213898),
        (26700, 1, 22), None, ("nad27", "northamerican1927", "nad1927"),
    ),
    Datum(
        4258, "ETRS-89", "ETRS89", "European_Terrestrial_Reference_System_1989", GRS80, (25800, 28, 38), None,
        ("etrs1989", "europeanterrestrialreferencesystem89"),
    ),
    Datum(
        4230, "European 1950", "ED50", "European_Datum_1950", ("International 1924", 6378388.0, 297.0),
        (23000, 28, 38), None, ("europeandatum1950", "ed1950"),
    ),
    Datum(
        4283, "Geocentric Datum of Australia 1994", "GDA94", "Geocentric_Datum_of_Australia_1994", GRS80, None,
        (28300, 48, 58), ("gda1994",),
    ),
    Datum(
        7844, "Geocentric Datum of Australia 2020", "GDA2020", "Geocentric_Datum_of_Australia_2020", GRS80, None,
        (7800, 46, 59), (),
    ),
    Datum(
        4674, "SIRGAS 2000", "SIRGAS 2000", "Sistema_de_Referencia_Geocentrico_para_las_AmericaS_2000", GRS80,
        (31954, 11, 22), (31960, 17, 25), (),
    ),
    Datum(
        4277, "Ordnance Survey of Great Britain '36", "OSGB36", "Ordnance_Survey_of_Great_Britain_1936",
        ("Airy 1830", 6377563.396, 299.3249646),
    ),
)  # fmt: skip
# ENVI's number of a projection: its name, its name in WKT 1, and the parameters there in the order of the header, after
# the semi-major and semi-minor axes (of a sphere, its radius only). A number instead of a name: only this value is
# read, since programs do not agree on what others mean there.
Parameters = tuple["str | float", ...]
LAT, LON = "latitude_of_origin", "central_meridian"
SHIFT = ("false_easting", "false_northing")
PARALLELS = ("standard_parallel_1", "standard_parallel_2")
CENTRE = ("latitude_of_center", "longitude_of_center")
PROJECTIONS: dict[int, tuple[str, str, Parameters]] = {
    3: ("Transverse Mercator", "Transverse_Mercator", (LAT, LON, *SHIFT, "scale_factor")),
    4: ("Lambert Conformal Conic", "Lambert_Conformal_Conic_2SP", (LAT, LON, *SHIFT, *PARALLELS)),
    7: ("Stereographic (ellipsoid)", "Stereographic", (LAT, LON, *SHIFT, "scale_factor")),
    9: ("Albers Conical Equal Area", "Albers_Conic_Equal_Area", (*CENTRE, *SHIFT, *PARALLELS)),
    10: ("Polyconic", "Polyconic", (LAT, LON, *SHIFT)),
    11: ("Lambert Azimuthal Equal Area", "Lambert_Azimuthal_Equal_Area", (*CENTRE, *SHIFT)),
    16: ("Sinusoidal", "Sinusoidal", ("longitude_of_center", *SHIFT)),
    17: ("Equirectangular", "Equirectangular", (0.0, LON, *SHIFT)),
    20: ("Mercator", "Mercator_1SP", (0.0, LON, *SHIFT)),
    31: ("Polar Stereographic", "Polar_Stereographic", (LAT, LON, *SHIFT)),
}
SPHERES = (16, 17)
WRITTEN = (3, 4, 9, 10, 11, 16, 31)  # those that other programs read as they are meant


class Node(NamedTuple):
    """A part of WKT: its keyword, in capitals, and what stands in its brackets, texts with their quotes removed."""

    word: str
    parts: tuple[Any, ...]

    def child(self, *words: str) -> "Node | None":
        """The first part with one of these keywords."""
        return next((part for part in self.parts if isinstance(part, Node) and part.word in words), None)

    @property
    def name(self) -> str:
        """The text that stands first."""
        return self.parts[0] if self.parts and isinstance(self.parts[0], str) else ""

    @property
    def authority(self) -> tuple[str, str] | None:
        """Authority and code, such as ``("EPSG", "32611")``."""
        found = self.child("AUTHORITY", "ID")
        if found is None or len(found.parts) < 2:
            return None
        code = found.parts[1]
        return str(found.parts[0]).upper(), f"{code:g}" if isinstance(code, float) else str(code)


class System(NamedTuple):
    """What a header has to say of a coordinate system.

    Attributes:
        kind: ``geographic``, ``projected`` or ``local``.
        name: in words.
        code: EPSG code, None where it has none or where it is not known.
        unit: of coordinates, in metres or degrees.
        unit_name: ``m``, ``°`` or the name in WKT.
        datum: one of ENVI's, where it is one.
        axes: semi-major and semi-minor axis in metres.
        zone: UTM zone, negative in the south; 0: the projection is none.
        projection: name in WKT 1.
        parameters: of the projection, names in small letters.
    """

    kind: str
    name: str
    code: int | None = None
    unit: float = 1.0
    unit_name: str = "m"
    datum: Datum | None = None
    axes: tuple[float, float] | None = None
    zone: int = 0
    projection: str = ""
    parameters: tuple[tuple[str, float], ...] = ()


def plain_number(value: Any) -> str | None:
    """A finite number as text that can break out of nothing; None where the value is no number.

    Args:
        value: a number, or text as it stands in a header; its digits are kept as they are.
    """
    if isinstance(value, bool):
        return None
    text = value.strip() if isinstance(value, str) else repr(value.item() if hasattr(value, "item") else value)
    if len(text) > NUMBER_LENGTH or not NUMBER.fullmatch(text):
        return None
    return text if math.isfinite(float(text)) else None


def parsed(text: str) -> Node | None:
    """The tree of a WKT text; None where it is not WKT of a coordinate system.

    Args:
        text: WKT 1 or 2, with any white space. Braces and line ends inside names are not taken: no header can hold
            them.
    """
    if len(text) > WKT_LENGTH:
        return None
    stack: list[tuple[str, list[Any]]] = [("", [])]
    word, place, end = "", 0, len(text.rstrip())
    while place < end:
        found = TOKEN.match(text, place)
        if found is None:
            return None
        place = found.end()
        mark = found["mark"]
        if word and mark not in ("[", "("):
            stack[-1][1].append(word)  # a bare word, as the directions of axes are
            word = ""
        if found["text"] is not None:
            stack[-1][1].append(found["text"].replace('""', '"'))
        elif found["number"] is not None:
            stack[-1][1].append(float(found["number"]))
        elif found["word"] is not None:
            word = found["word"]
        elif mark in ("[", "("):
            if not word or len(stack) > WKT_DEPTH:
                return None
            stack.append((word, []))
            word = ""
        elif mark in ("]", ")"):
            if len(stack) < 2:
                return None
            inner = stack.pop()
            stack[-1][1].append(Node(inner[0].upper(), tuple(inner[1])))
    if len(stack) != 1 or word or len(stack[0][1]) != 1:
        return None
    root = stack[0][1][0]
    known = (*GEOGRAPHIC, *PROJECTED, *COMPOUND, *LOCAL)
    return root if isinstance(root, Node) and root.word in known else None


def one_line(text: str) -> str:
    """WKT that `parsed` accepts, without line ends and spaces between its parts; only what was understood is kept."""
    kept, place, end = [], 0, len(text.rstrip())
    while place < end:
        found = TOKEN.match(text, place)
        if found is None:
            raise ValueError("not WKT")
        kept.append(found[0].strip())
        place = found.end()
    return "".join(kept)


def datum_named(name: str) -> Datum | None:
    """The datum of a name as in ``map info`` or WKT; None where it is none of those that are known."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    plain = plain.removeprefix("d") if name.lower().startswith("d_") else plain
    for datum in DATUMS:
        named = (datum.envi, datum.name, datum.datum)
        if plain and (plain in datum.spellings or plain in (re.sub(r"[^a-z0-9]", "", n.lower()) for n in named)):
            return datum
    return None


def utm_code(datum: Datum, zone: int, north: bool) -> int | None:
    """EPSG code of a UTM zone; None where EPSG has none."""
    codes = datum.north if north else datum.south
    if codes is None or not codes[1] <= zone <= codes[2]:
        return None
    return codes[0] + zone


@functools.lru_cache(maxsize=32)
def system_of(crs: str) -> System | None:
    """What is to be said of a coordinate system.

    Args:
        crs: WKT, or ``EPSG:`` with a code.

    Returns:
        None where the text is neither, or a code that neither this module nor rasterio knows.
    """
    if (code := _epsg(crs)) is not None:
        system = _of_code(code)
        if system is not None:
            return system
    found = _rasterio_crs(crs)
    if found is not None:
        try:
            root = parsed(_without_braces(found.to_wkt(version="WKT1_GDAL")))
        except Exception:  # a system that WKT 1 cannot express; rasterio has several errors for it
            root = None
        if root is not None:
            system = _of_tree(root)
            if system is not None:
                return system._replace(code=_matched(crs) if system.code is None else system.code)
    root = parsed(crs)
    return None if root is None else _of_tree(root)


def identified(crs: str) -> Any:
    """A coordinate system for rasterio: EPSG's own where it is one of them, as GDAL identifies it.

    Args:
        crs: WKT, also in ESRI's spelling, or ``EPSG:`` with a code.

    Returns:
        `rasterio.crs.CRS`; None where rasterio cannot read the text.

    Raises:
        ImportError: rasterio is not there.
    """
    import rasterio  # noqa: F401

    found = _rasterio_crs(crs)
    if found is None:
        return None
    code = _matched(crs) if _epsg(crs) is None else None
    if code is not None:
        from rasterio.crs import CRS

        return CRS.from_epsg(code)
    return found


def readable(crs: str) -> bool:
    """Whether the text is a coordinate system, as far as can be told without or with rasterio."""
    if _epsg(crs) is None and parsed(crs) is None:
        return False
    return _rasterio_crs(crs) is not None if _has_rasterio() else system_of(crs) is not None


def wkt_for_envi(crs: str) -> str | None:
    """The ``coordinate system string`` of a header: ESRI's WKT 1 on one line; None where it cannot be had.

    Without rasterio, WKT 1 is taken as it is (ENVI and GDAL read it too), and EPSG codes have none.
    """
    found = _rasterio_crs(crs)
    if found is None:
        root = None if _has_rasterio() else parsed(crs)
        return one_line(crs) if root is not None and root.word in ("GEOGCS", "PROJCS", "LOCAL_CS") else None
    from rasterio.crs import CRS

    first = None
    for version in ("WKT1_ESRI", "WKT1_GDAL"):
        try:
            text = _without_braces(found.to_wkt(version=version))
        except Exception:  # not every system can be said in every dialect
            continue
        root = parsed(text)
        if root is not None and root.word in COMPOUND:  # a header holds the horizontal part only
            inner = next((p for p in root.parts if isinstance(p, Node) and p.word in ("PROJCS", "GEOGCS")), None)
            if inner is None:
                continue
            text = _text(inner)
        elif root is None:
            continue
        first = first or one_line(text)
        try:
            if CRS.from_wkt(text, morph_from_esri_dialect=version == "WKT1_ESRI") == found:
                return one_line(text)
        except Exception:  # not read back: the other dialect
            continue
    return first


def from_projection_info(number: int, numbers: Sequence[float], datum: Datum | None, name: str) -> str | None:
    """WKT of a ``projection info`` entry; None where the projection is not known, or its parameters are doubtful.

    Args:
        number: of the projection.
        numbers: what follows: axes (or the radius) in metres, parameters in degrees and metres.
        datum: that it names; None: the ellipsoid alone is used.
        name: of the projection, for the WKT.
    """
    if number not in PROJECTIONS:
        return None
    _, projection, wanted = PROJECTIONS[number]
    axes = 1 if number in SPHERES else 2
    if len(numbers) != axes + len(wanted) or not min(numbers[:axes]) > 0:
        return None
    major, minor = numbers[0], numbers[axes - 1]
    values = []
    for key, value in zip(wanted, numbers[axes:], strict=True):
        if isinstance(key, str):
            values.append((key, value))
        elif value != key:
            return None
    if number == 17:
        values.insert(0, ("standard_parallel_1", 0.0))
    if number == 20:
        values.insert(1, ("scale_factor", 1.0))
    inside = "".join(f',PARAMETER["{key}",{value!r}]' for key, value in values)
    title = "".join(c if c.isalnum() or c in " -_()./" else "-" for c in name) or "projected"
    geographic = _geogcs(datum, major, minor)
    return f'PROJCS["{title}",{geographic},PROJECTION["{projection}"]{inside},UNIT["metre",1]]'


def projection_info(system: System) -> list[str] | None:
    """The ``projection info`` of a header for a projected system in metres; None where ENVI's numbers have none."""
    held = dict(system.parameters)
    if system.axes is None or system.zone or abs(system.unit - 1) > 1e-12:
        return None
    for number in WRITTEN:
        name, projection, wanted = PROJECTIONS[number]
        if projection != system.projection or not all(key in held for key in wanted):
            continue
        if "scale_factor" not in wanted and held.get("scale_factor", 1.0) != 1:  # a number that ENVI has no place for
            continue
        if number in SPHERES and system.axes[0] != system.axes[1]:
            continue
        axes = system.axes[:1] if number in SPHERES else system.axes
        values = [*axes, *(held[str(key)] for key in wanted)]
        named = [] if system.datum is None else [system.datum.envi]
        return [str(number), *(f"{value:.17g}" for value in values), *named, name, "units=Meters"]
    return None


def envi_name(system: System) -> str:
    """The name of a projection in ``map info``."""
    if system.kind == "geographic":
        return "Geographic Lat/Lon"
    if system.zone and system.datum is not None:
        return "UTM"
    named = (name for name, projection, _ in PROJECTIONS.values() if projection == system.projection)
    return next(named, system.projection.replace("_", " ") or "Arbitrary")


def _epsg(crs: str) -> int | None:
    """The code of ``EPSG:n``."""
    found = re.fullmatch(r"\s*EPSG:(\d{1,9})\s*", crs, re.IGNORECASE)
    return int(found[1]) if found else None


def _of_code(code: int) -> System | None:
    """The system of an EPSG code, of longitude and latitude or of a UTM zone upon a known datum."""
    for datum in DATUMS:
        _, major, inverse = datum.ellipsoid
        axes = (major, major * (1 - 1 / inverse))
        if code == datum.code:
            return System("geographic", datum.name, code, 1.0, "°", datum, axes)
        for codes, south in ((datum.north, False), (datum.south, True)):
            if codes is not None and codes[0] + codes[1] <= code <= codes[0] + codes[2]:
                zone = code - codes[0]
                side = "South" if south else "North"
                return System(
                    "projected", f"UTM zone {zone} {side}, {datum.name}", code, 1.0, "m", datum, axes,
                    -zone if south else zone, "Transverse_Mercator",
                )  # fmt: skip
    return None


def _of_tree(root: Node) -> System | None:
    """The system of a tree; of a compound one, its horizontal part."""
    if root.word in COMPOUND:
        inner = [part for part in root.parts if isinstance(part, Node)]
        return next((found for part in inner if (found := _of_tree(part)) is not None), None)
    kind = (
        "geographic" if root.word in GEOGRAPHIC
        else "projected" if root.word in PROJECTED
        else "local" if root.word in LOCAL
        else None
    )  # fmt: skip
    if kind is None:
        return None
    authority = root.authority
    code = int(authority[1]) if authority and authority[0] == "EPSG" and authority[1].isdigit() else None
    unit = root.child("UNIT", "LENGTHUNIT", "ANGLEUNIT")
    if unit is None:  # WKT 2 may give it to each axis
        axis = root.child("AXIS")
        unit = None if axis is None else axis.child("UNIT", "LENGTHUNIT", "ANGLEUNIT")
    factor = next((p for p in (unit.parts if unit is not None else ()) if isinstance(p, float)), None)
    if kind == "geographic":
        factor = 1.0 if factor is None else factor / DEGREE
    size = 1.0 if factor is None or not factor > 0 else factor
    usual = "°" if kind == "geographic" else "m"
    unit_name = usual if abs(size - 1) < 1e-9 or unit is None else unit.name
    base = root if kind == "geographic" else root.child(*GEOGRAPHIC, "BASEGEOGCRS", "BASEGEODCRS")
    datum, axes = _datum_of(base)
    if kind == "local":
        return System("local", root.name, None, size, unit_name)
    method = root.child("PROJECTION")
    parameters = tuple(
        (str(part.parts[0]).lower(), part.parts[1])
        for part in root.parts
        if isinstance(part, Node)
        and part.word == "PARAMETER"
        and len(part.parts) > 1
        and isinstance(part.parts[1], float)
    )
    system = System(
        kind, root.name, code, size, unit_name, datum, axes, 0, "" if method is None else method.name, parameters
    )
    return system._replace(zone=_zone(system))


def _datum_of(base: Node | None) -> tuple[Datum | None, tuple[float, float] | None]:
    """Datum and axes of a geographic system."""
    if base is None:
        return None, None
    code = base.authority
    datum = next((d for d in DATUMS if code is not None and code == ("EPSG", str(d.code))), None)
    held = base.child("DATUM", "TRF", "GEODETICDATUM", "ENSEMBLE")
    if datum is None:
        datum = datum_named(held.name if held is not None else "")
    shape = None if held is None else held.child("SPHEROID", "ELLIPSOID")
    numbers = [] if shape is None else [p for p in shape.parts if isinstance(p, float)]
    if len(numbers) < 2 or not numbers[0] > 0:
        return datum, None
    return datum, (numbers[0], numbers[0] if numbers[1] == 0 else numbers[0] * (1 - 1 / numbers[1]))


def _zone(system: System) -> int:
    """UTM zone, negative in the south; 0 where the projection is no UTM zone."""
    held = dict(system.parameters)
    if system.projection.lower() != "transverse_mercator" or abs(system.unit - 1) > 1e-12:
        return 0
    wanted = {"latitude_of_origin": 0.0, "scale_factor": 0.9996, "false_easting": 500000.0}
    if any(abs(held.get(name, 0.0) - value) > 1e-9 * max(1.0, value) for name, value in wanted.items()):
        return 0
    zone = (held.get("central_meridian", math.nan) + 183) / 6
    north = held.get("false_northing", 0.0)
    if not 1 <= zone <= 60 or zone != round(zone) or north not in (0.0, 1e7):
        return 0
    return int(zone) if north == 0 else -int(zone)


def _geogcs(datum: Datum | None, major: float, minor: float) -> str:
    """WKT of longitude and latitude."""
    if datum is not None:
        name, held, (ellipsoid, a, inverse), code = datum.name, datum.datum, datum.ellipsoid, datum.code
        end = f',AUTHORITY["EPSG","{code}"]'
    else:
        # Axes that differ by less than 0.1 m are a sphere, as for GDAL.
        inverse = 0.0 if abs(major - minor) < 0.1 else major / (major - minor)
        name, held, ellipsoid, a, end = "Unknown datum, given ellipsoid", "Unknown", "Given", major, ""
    angle = 'UNIT["degree",0.0174532925199433]'
    spheroid = f'SPHEROID["{ellipsoid}",{a!r},{inverse!r}]'
    return f'GEOGCS["{name}",DATUM["{held}",{spheroid}],PRIMEM["Greenwich",0],{angle}{end}]'


def _text(node: Node) -> str:
    """WKT of a tree."""
    words = ("NORTH", "SOUTH", "EAST", "WEST", "UP", "DOWN", "OTHER")  # directions of axes stand without quotes

    def part(value: Any) -> str:
        if isinstance(value, Node):
            return _text(value)
        if isinstance(value, float):
            return f"{value:.17g}"
        return value if value in words else '"' + value.replace('"', '""') + '"'

    return f"{node.word}[{','.join(part(value) for value in node.parts)}]"


def _without_braces(text: str) -> str:
    """WKT whose names hold nothing that a header cannot."""
    return text.translate({ord("{"): "(", ord("}"): ")", ord("\n"): " ", ord("\r"): " "})


def _has_rasterio() -> bool:
    """Whether rasterio can be asked."""
    try:
        import rasterio  # noqa: F401
    except ImportError:
        return False
    return True


@functools.lru_cache(maxsize=32)
def _matched(crs: str) -> int | None:
    """EPSG code of what rasterio reads, found with the confidence that GDAL asks for; to find none takes 0.3 s."""
    return _cached_crs(crs).to_epsg(confidence_threshold=90)


def _rasterio_crs(crs: str) -> Any:
    """The system for rasterio; None where rasterio is not there, or cannot read the text."""
    return _cached_crs(crs) if _has_rasterio() else None


@functools.lru_cache(maxsize=32)
def _cached_crs(crs: str) -> Any:
    """As `_rasterio_crs`."""
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    code = _epsg(crs)
    if code is None and parsed(_without_braces(crs)) is None:  # nothing but WKT and codes: no URL, no file
        return None
    for options in ({"morph_from_esri_dialect": True}, {}):
        try:
            found = CRS.from_epsg(code) if code is not None else CRS.from_wkt(crs, **options)
        except CRSError:
            continue
        if found:
            return found
    return None
