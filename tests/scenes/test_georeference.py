"""Where images lie: ENVI headers and GeoTIFFs against GDAL, numbers written out, and what must not be carried."""

import math
import re
import sys
import warnings

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.warp import transform as reproject
from streams import write_envi

from unmix_jax.scenes import projections
from unmix_jax.scenes.georeference import (
    envi_entries,
    geotiff_profile,
    place_in_words,
    place_note,
    place_of,
    shifted,
)
from unmix_jax.scenes.readers import read_scene
from unmix_jax.scenes.scene import Header, Scene
from unmix_jax.scenes.writers import write_map

ROWS, COLUMNS = 7, 5
CUBE = np.random.default_rng(0).uniform(0.1, 0.9, (ROWS, COLUMNS, 3)).astype("f4")
CORNERS = np.array([(0, 0), (0, COLUMNS), (ROWS, 0), (ROWS, COLUMNS)], float)
UTM = "UTM, 1, 1, 500000, 4100000, 30, 20, 12, North, WGS-84"


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        yield


def envi(tmp_path, extra, name="scene"):
    return write_envi(tmp_path / f"{name}.hdr", CUBE, "bsq", extra)


def by_gdal(path):
    """Coordinate system and transform as GDAL reads them."""
    with rasterio.open(path.with_suffix(".img") if path.suffix == ".hdr" else path) as file:
        return file.crs, file.transform


def corners(transform):
    a, b, c, d, e, f = tuple(transform)[:6]
    rows, columns = CORNERS.T
    return np.stack([a * columns + b * rows + c, d * columns + e * rows + f], -1)


def off(found, wanted):
    """Largest distance of corners, in pixels."""
    size = min(math.hypot(wanted[0], wanted[3]), math.hypot(wanted[1], wanted[4]))
    return float(np.abs(corners(found) - corners(wanted)).max() / size)


def assert_same_place(found, wanted):
    """Corners at the same longitude and latitude, of Mars and the Moon their own."""
    if found[0] == wanted[0]:
        assert off(found[1], wanted[1]) < 1e-6
        return
    radius = wanted[0].to_dict().get("R")
    beyond = radius is not None and not 6.3e6 < radius < 6.4e6
    sphere = CRS.from_dict(proj="longlat", R=radius) if beyond else CRS.from_epsg(4326)
    (x, y), (u, v) = (reproject(crs, sphere, *corners(transform).T) for crs, transform in (found, wanted))
    np.testing.assert_allclose(np.stack([x, y]), np.stack([u, v]), rtol=0, atol=1e-9)


SYSTEMS = {
    "UTM north": ("EPSG:32611", 500000, 4100000, 30),
    "UTM south": ("EPSG:32719", 400000, 7500000, 30),
    "UTM upon NAD27": ("EPSG:26711", 500000, 4100000, 30),
    "lon/lat": ("EPSG:4326", -118.2, 34.3, 0.0005),
    "Lambert conformal": ("EPSG:2154", 700000, 6600000, 25),
    "Albers": ("EPSG:5070", -1500000, 1800000, 30),
    "Mercator": ("EPSG:3395", 1000000, 5000000, 100),
    "Web Mercator": ("EPSG:3857", 1000000, 5000000, 100),
    "polar stereographic": ("EPSG:3413", -300000, -1500000, 500),
    "sinusoidal": ("+proj=sinu +lon_0=0 +R=6371007.181 +units=m", -1111950, 5559752, 463.3127),
    "azimuthal": ("EPSG:3035", 4300000, 3000000, 100),
    "British grid": ("EPSG:27700", 400000, 300000, 10),
    "Mars": ("+proj=eqc +lon_0=180 +R=3396190 +units=m", 250000, -400000, 18),
    "Moon": ("+proj=eqc +lon_0=0 +lat_ts=15 +R=1737400 +units=m", 250000, 400000, 70),
    "US feet": ("EPSG:2229", 6500000, 1800000, 10),
}
TURNS = {"north up": (0, 1), "10°": (10, 1), "-35°": (-35, 1), "90°": (90, 1), "180°": (180, 1), "not square": (0, 0.5)}


# Every system in two of the turns, every turn in five of the systems.
PAIRS = [(name, list(TURNS)[(2 * i + j) % len(TURNS)]) for i, name in enumerate(SYSTEMS) for j in (0, 1)]


@pytest.mark.parametrize(("system", "turn"), PAIRS)
def test_round_trip(tmp_path, system, turn):
    """ENVI (written by GDAL) → GeoTIFF → ENVI, and GDAL agrees at each step."""
    text, east, north, size = SYSTEMS[system]
    degrees, squeezed = TURNS[turn]
    crs = CRS.from_user_input(text)
    turned = Affine.translation(east, north) @ Affine.rotation(degrees) @ Affine.scale(size, -size * squeezed)
    if turn == "180°":  # GDAL itself writes this as a flip: its own header is not what was asked
        entries, notes = envi_entries({"crs": crs.to_wkt(), "transform": tuple(turned)[:6]}, CUBE.shape[:2])
        assert not notes
        source = envi(tmp_path, "".join(f"{key} = {value}\n" for key, value in entries.items()))
        assert off(by_gdal(source)[1], turned) < 1e-6
    else:
        source = tmp_path / "scene.hdr"
        options = {"driver": "ENVI", "width": COLUMNS, "height": ROWS, "count": 3, "dtype": "float32"}
        with rasterio.open(tmp_path / "scene.img", "w", **options, crs=crs, transform=turned) as file:
            file.write(np.moveaxis(CUBE, -1, 0))
    wanted_crs, wanted = by_gdal(source)
    if system == "US feet":  # GDAL writes "units=Feet", and takes these for international feet when it reads them
        wanted_crs = crs
    scene = read_scene(source)
    for name in ("a.tif", "b.hdr"):
        path = write_map(tmp_path / name, CUBE, ("a", "b", "c"), scene, description="maps")
        found_crs, found = by_gdal(path)
        assert off(found, wanted) < 1e-6
        assert_same_place((found_crs, found), (wanted_crs, wanted))
        assert wanted_crs.to_epsg() is None or found_crs.to_epsg() == wanted_crs.to_epsg()
        scene = read_scene(path)
        assert off(place_of(scene).transform, wanted) < 1e-6
        assert place_note(scene, ("envi", "geotiff")) is None


@pytest.mark.parametrize("tie", [(1, 1), (1.5, 1.5), (-3, 10)])
@pytest.mark.parametrize("rotation", [None, 10, -35, 90, 180])
def test_tie_pixels_and_rotations_are_read_as_gdal_reads_them(tmp_path, tie, rotation):
    turned = "" if rotation is None else f", rotation={rotation}"
    info = f"UTM, {tie[0]}, {tie[1]}, 500000, 4100000, 30, 20, 12, North, WGS-84{turned}"
    header = envi(tmp_path, f"map info = {{{info}}}\n")
    scene = read_scene(header)
    crs, wanted = by_gdal(header)
    place = place_of(scene)
    assert (place.crs, crs.to_epsg()) == ("EPSG:32612", 32612)
    assert off(place.transform, wanted) < 1e-9
    for name in ("maps.hdr", "maps.tif"):
        found_crs, found = by_gdal(write_map(tmp_path / name, CUBE, ("a", "b", "c"), scene, description="maps"))
        assert found_crs.to_epsg() == 32612
        assert off(found, wanted) < 1e-6
    doubtful = rotation not in (None, 180)
    assert ("as GDAL does" in (place_note(scene) or "")) == doubtful


@pytest.mark.parametrize(
    ("info", "code"),
    [
        (UTM, 32612),
        ("UTM, 1, 1, 5e5, 4.1e6, 30, 30, 12, South, WGS-84, units=Meters", 32712),
        ("UTM, 1, 1, 500000, 4100000, 30, 30, 12, North, North America 1983", 26912),
        ("UTM, 1, 1, 500000, 4100000, 30, 30, 12, North, North America 1927", 26712),
        ("UTM, 1, 1, 500000, 4100000, 30, 30, 12, North, NAD-27", 26712),
        ("UTM, 1, 1, 500000, 4100000, 30, 30, 32, North, ETRS-89", 25832),
        ("UTM, 1, 1, 500000, 4100000, 30, 30, 32, North, European 1950", 23032),
        ("UTM, 1, 1, 500000, 6100000, 30, 30, 55, South, Geocentric Datum of Australia 1994", 28355),
        ("UTM, 1, 1, 500000, 6100000, 30, 30, 23, South, SIRGAS 2000", 31983),
        ("UTM, 1, 1, 500000, 4100000, 30, 30, 12, North, WGS-72", 32212),
        ("Geographic Lat/Lon, 1, 1, -118, 34, 0.001, 0.001, WGS-84, units=Degrees", 4326),
        ("Geographic Lat/Lon, 1, 1, -118, 34, 0.001, 0.001, North America 1983, units=Degrees", 4269),
        ("Geographic Lat/Lon, 1, 1, -118, 34, 0.001, 0.001, North America 1927", 4267),
        ("Geographic Lat/Lon, 1, 1, 10, 50, 0.001, 0.001, ETRS89", 4258),
    ],
)
def test_epsg_out_of_map_info_alone(tmp_path, info, code):
    scene = read_scene(envi(tmp_path, f"map info = {{{info}}}\n"))
    with rasterio.open(write_map(tmp_path / "m.tif", CUBE, ("a", "b", "c"), scene, description="maps")) as file:
        assert file.crs.to_epsg() == code
        assert file.transform[2] == float(info.split(",")[3])
    assert place_note(scene, ("geotiff", "envi")) is None


def test_the_codes_of_utm_zones_are_those_of_epsg():
    for datum in projections.DATUMS:
        assert CRS.from_epsg(datum.code).is_geographic
        for codes, south in ((datum.north, False), (datum.south, True)):
            for zone in (codes[1], codes[1] + 3, codes[2]) if codes else ():
                code = projections.utm_code(datum, zone, not south)
                held = CRS.from_epsg(code).to_dict()
                system = projections.system_of(CRS.from_epsg(code).to_wkt())
                assert (system.zone, system.datum, system.code) == (-zone if south else zone, datum, code)
                assert held == {"init": f"epsg:{code}"} or held["zone"] == zone
            if codes:
                assert projections.utm_code(datum, codes[2] + 1, not south) is None


@pytest.mark.parametrize(
    ("info", "why"),
    [
        ("UTM, 1, 1, 5e5, 4e6, 30, 30, 12, North", "names no datum"),
        ("UTM, 1, 1, 5e5, 4e6, 30, 30, 12, North, units=Meters", "names no datum"),
        ("UTM, 1, 1, 5e5, 4e6, 30, 30, North, WGS-84", "no UTM zone"),
        ("UTM, 1, 1, 5e5, 4e6, 30, 30, 61, North, WGS-84", "no EPSG code is known here for UTM zone 61 North"),
        ("UTM, 1, 1, 5e5, 4e6, 30, 30, 12, South, North America 1983", "no EPSG code is known here"),
        ("UTM, 1, 1, 5e5, 4e6, 30, 30, 12, North, Moon base", "no EPSG code is known here.*Moon base"),
        ("Geographic Lat/Lon, 1, 1, -118, 34, 0.001, 0.001", "names no datum"),
        ("Geographic Lat/Lon, 1, 1, -118, 34, 0.001, 0.001, units=Degrees", "names no datum"),
        ("Geographic Lat/Lon, 1, 1, -118, 34, 0.001, 0.001, Atlantis", "'Atlantis' is not known here"),
        ("Arbitrary, 1, 1, 500, 400, 2, 2, 0, North", "no projection"),
        ("State Plane (NAD 83), 1, 1, 5e5, 4e5, 30, 30, 405, units=Feet", "'State Plane.*without a coordinate system"),
    ],
)
def test_a_place_without_a_coordinate_system_is_told(tmp_path, info, why):
    """And never guessed: GDAL takes NAD27 or WGS84 without a word."""
    scene = read_scene(envi(tmp_path, f"map info = {{{info}}}\n"))
    place = place_of(scene)
    assert place.crs is None
    for maps in (("envi",), ("geotiff",)):
        note = place_note(scene, maps)
        assert note.startswith("The maps carry no coordinate system: ")
        assert re.search(why, note), note
    with rasterio.open(write_map(tmp_path / "m.tif", CUBE, ("a", "b", "c"), scene, description="m")) as file:
        assert file.crs is None
        assert tuple(file.transform)[:6] == place.transform
    assert place_in_words(scene).startswith("no coordinate system; pixels of")


@pytest.mark.parametrize(
    "code",
    ["EPSG:2154", "EPSG:5070", "EPSG:3413", "EPSG:3035", "EPSG:27700", "+proj=laea +lat_0=45 +lon_0=-100 +R=6370997"],
)
def test_projection_info_without_a_coordinate_system_string(tmp_path, code):
    """As GDAL reads it."""
    crs = CRS.from_user_input(code)
    entries, _ = envi_entries({"crs": crs.to_wkt(), "transform": (30, 0, 4e5, 0, -30, 3e5)}, (ROWS, COLUMNS))
    if code == "EPSG:2154":  # its datum is none of ENVI's
        entries["projection info"] = entries["projection info"].replace("Lambert", "WGS-84, Lambert", 1)
    elif "+R" in code:
        assert "6370997, 6370997" in entries["projection info"]
    header = envi(tmp_path, "".join(f"{k} = {entries[k]}\n" for k in ("map info", "projection info")))
    scene = read_scene(header)
    assert place_note(scene, ("envi", "geotiff")) is None
    wanted = by_gdal(header)
    found = by_gdal(write_map(tmp_path / "m.tif", CUBE, ("a", "b", "c"), scene, description="maps"))
    assert_same_place(found, wanted)
    again = by_gdal(write_map(tmp_path / "m.hdr", CUBE, ("a", "b", "c"), scene, description="maps"))
    assert_same_place(again, wanted)


@pytest.mark.parametrize(
    ("info", "proj"),
    [
        ("16, 6371007.181, 0.0, 0.0, 0.0, Sinusoidal, units=Meters", "+proj=sinu +lon_0=0 +R=6371007.181"),
        ("16, 6371007.2, 15.0, 1000.0, 0.0, D_Unknown, Sinusoidal", "+proj=sinu +lon_0=15 +x_0=1000 +R=6371007.2"),
        ("17, 3396190.0, 0.0, 180.0, 0.0, 0.0, D_Mars, Mars Equirectangular", "+proj=eqc +lon_0=180 +R=3396190"),
        ("20, 6378137.0, 6356752.3142, 0, 10, 0, 0, WGS-84, Mercator", "+proj=merc +lon_0=10 +datum=WGS84"),
    ],
)
def test_projection_info_of_spheres_and_mercator(tmp_path, info, proj):
    name = info.split(",")[-2 if "units" in info else -1].strip()
    text = f"map info = {{{name}, 1.5, 1.5, 100000, 200000, 500, 500, , units=Meters}}\nprojection info = {{{info}}}\n"
    scene = read_scene(envi(tmp_path, text))
    with rasterio.open(write_map(tmp_path / "m.tif", CUBE, ("a", "b", "c"), scene, description="maps")) as file:
        wanted = CRS.from_string(f"{proj} +units=m")
        assert file.transform[:6] == (500, 0, 99750, 0, -500, 200250)
        assert_same_place((file.crs, file.transform), (wanted, file.transform))


@pytest.mark.parametrize(
    ("info", "why"),
    [
        ("17, 3396190.0, 40.0, 180.0, 0, 0, D_Mars, Mars Equirectangular", "is none of those that are understood"),
        ("20, 6378137.0, 6356752.3, 30, 10, 0, 0, WGS-84, Mercator", "is none of those that are understood"),
        ("4, 6378137.0, 6356752.3, 30, 10, 0, 0, WGS-84, Lambert", "is none of those that are understood"),
        ("9, 6378137.0, 6356752.3, 23, -96, 0, 0, 29.5, 45.5, Atlantis, Albers", "'Atlantis' is not known here"),
        ("99, 6378137.0, 6356752.3, 23, WGS-84, Odd", "is none of those that are understood"),
    ],
)
def test_projection_info_that_is_doubtful(tmp_path, info, why):
    text = f"map info = {{Named, 1, 1, 1e5, 2e5, 500, 500}}\nprojection info = {{{info}}}\n"
    note = place_note(read_scene(envi(tmp_path, text)), ("geotiff",))
    assert "carry no coordinate system" in note
    assert why in note


@pytest.mark.parametrize(
    ("info", "metres"),
    [
        ("UTM, 1, 1, 500, 4100, 0.03, 0.03, 12, North, WGS-84, units=Km", 1000),
        ("UTM, 1, 1, 1640419.9475, 13451443.5695, 100, 100, 12, North, WGS-84, units=Feet", 0.3048),
        ("Geographic Lat/Lon, 1, 1, -7080, 2040, 0.06, 0.06, WGS-84, units=Minutes", 1 / 60),
        ("Geographic Lat/Lon, 1, 1, -424800, 122400, 3.6, 3.6, WGS-84, units=Seconds", 1 / 3600),
        ("Geographic Lat/Lon, 1, 1, -2.06, 0.59, 1e-5, 1e-5, WGS-84, units=Radians", 180 / math.pi),
        ("Geographic Lat/Lon, 1, 1, -118, 34, 0.001, 0.001, WGS-84, units=Meters", 1),
    ],
)
@pytest.mark.parametrize("string", [False, True])
def test_units_of_map_info(tmp_path, info, metres, string):
    code = 4326 if "Geographic" in info else 32612
    wkt = CRS.from_epsg(code).to_wkt(version="WKT1_ESRI")
    text = f"map info = {{{info}}}\n" + f"coordinate system string = {{{wkt}}}\n" * string
    header = envi(tmp_path, text)
    found = by_gdal(write_map(tmp_path / "m.tif", CUBE, ("a", "b", "c"), read_scene(header), description="maps"))
    assert found[0].to_epsg() == code
    assert found[1][0] == pytest.approx(float(info.split(",")[5]) * metres, rel=1e-12)
    if "Radians" not in info:  # rasterio cannot transform from radians
        assert_same_place(found, by_gdal(header))


def test_feet_of_a_survey_are_not_taken_for_others(tmp_path):
    """GDAL takes them: the header's "Feet" are those of its coordinate system."""
    crs = CRS.from_epsg(2229)
    wkt = crs.to_wkt(version="WKT1_ESRI")
    info = "Lambert, 1, 1, 6500000, 1800000, 10, 10, North America 1983, units=Feet"
    scene = read_scene(envi(tmp_path, f"map info = {{{info}}}\ncoordinate system string = {{{wkt}}}\n"))
    found, transform = by_gdal(write_map(tmp_path / "m.tif", CUBE, ("a", "b", "c"), scene, description="maps"))
    assert found == crs
    assert transform[2] == 6500000


@pytest.mark.parametrize("crs", ["EPSG:32611", "EPSG:4326", None])
def test_rotated_geotiffs_keep_their_place_in_envi_maps(tmp_path, crs):
    turned = Affine.translation(400, 300) @ Affine.rotation(30) @ Affine.scale(2, -2)
    options = {"width": COLUMNS, "height": ROWS, "count": 3, "dtype": "float32", "transform": turned, "crs": crs}
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", **options) as file:
        file.write(np.moveaxis(CUBE, -1, 0))
    scene = read_scene(tmp_path / "a.tif")
    path = write_map(tmp_path / "m.hdr", CUBE, ("a", "b", "c"), scene, description="maps")
    assert "rotation=30" in path.read_text(encoding="utf-8").replace("29.9999", "30.0000")
    found, transform = by_gdal(path)
    assert off(transform, turned) < 1e-6
    assert (found.to_epsg() if crs else "ARBITRARY" in found.to_wkt().upper()) == (int(crs[5:]) if crs else True)
    assert "rotated by 30°" in place_in_words(scene)


SHEARED = (30.0, 0.0, 4e5, 5.0, -30.0, 4e6)
MIRRORED = (-30.0, 0.0, 4e5, 0.0, -30.0, 4e6)
NOT_SQUARE = tuple(Affine.rotation(30) @ Affine.scale(30, -20))[:6]


@pytest.mark.parametrize("transform", [SHEARED, MIRRORED, NOT_SQUARE])
def test_what_an_envi_header_cannot_say_is_left_out_and_told(tmp_path, transform):
    scene = Scene(CUBE, header=Header({"crs": "EPSG:32611", "transform": transform}))
    assert "ENVI maps carry no place" in place_note(scene, ("envi",))
    assert place_note(scene, ("geotiff",)) is None
    path = write_map(tmp_path / "m.hdr", CUBE, ("a", "b", "c"), scene, description="maps")
    assert "map info" not in path.read_text(encoding="utf-8")
    found = by_gdal(write_map(tmp_path / "m.tif", CUBE, ("a", "b", "c"), scene, description="maps"))
    assert tuple(found[1])[:6] == transform
    assert place_note(scene, ()) is None


# What must not be carried

BREAKING = {
    "x start": "{1\ninterleave = bip",
    "y start": "1\nbands = 99",
    "coordinate system string": 'PROJCS["a"}\nbands = 99\nx = {"b"]',
    "map info": ["UTM", "1", "1", "5e5", "4e6", "30", "30", "12", "North", "WGS-84}\nbands = 99"],
    "projection info": ["3", "6378137", "6356752", "WGS-84}\ninterleave = bip\nx = {", "Odd}\nlines = 1"],
    "geo points": ["1", "1", "34", "-118}\nbands = 99"],
}


@pytest.mark.parametrize("name", BREAKING)
@pytest.mark.parametrize("brace", [False, True])
def test_carried_values_cannot_break_out_of_a_header(tmp_path, name, brace):
    value = BREAKING[name]
    if brace and isinstance(value, list):
        value = "{" + ", ".join(value) + "}"
    scene = Scene(CUBE, header=Header({"map info": [p.strip() for p in UTM.split(",")], name: value}))
    path = write_map(tmp_path / "m.hdr", CUBE, ("a", "b", "c"), scene, description="maps")
    back = read_scene(path)
    np.testing.assert_array_equal(back.cube, CUBE)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert sum(line.startswith(("bands", "interleave", "lines")) for line in lines) == 3
    if name not in ("map info", "projection info"):
        assert f"{name} =" not in "\n".join(lines)
        assert name.split()[0] in place_note(scene, ("envi",))


def test_a_header_that_reads_as_another_image_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("unmix_jax.scenes.writers.envi_entries", lambda *_: ({"x": "1\nbands = 99"}, []))
    with pytest.raises(OSError, match="cannot be read back: bands is '99'"):
        write_map(tmp_path / "m.hdr", CUBE, ("a", "b", "c"), Scene(CUBE), description="maps")


@pytest.mark.parametrize(
    "header",
    [
        {"map info": UTM.split(",")[:5]},
        {"map info": "UTM, 1, 1, east, 4e6, 30, 30"},
        {"map info": "UTM, 1, 1, 5e5, 4e6, 0, 30"},
        {"map info": "UTM, 1, 1, 5e5, 4e6, 30, 30, 12, North, WGS-84, rotation=some"},
        {"map info": "UTM, 1, 1, inf, 4e6, 30, 30"},
        {"map info": "UTM, 1, 1, 1e999, 4e6, 30, 30"},
        {"map info": 7},
        {"transform": "nothing"},
        {"transform": (1, 2, 3)},
        {"transform": (1, 0, math.nan, 0, 1, 0), "crs": "EPSG:32611"},
        {"crs": "http://example.com/crs.wkt", "transform": (1, 0, 0, 0, -1, 0)},
        {"crs": "/etc/passwd", "transform": (1, 0, 0, 0, -1, 0)},
        {"coordinate system string": "(" * 100_000},
        {"coordinate system string": 'PROJCS["' + "a" * 200_000 + '"]'},
        {"coordinate system string": "PROJCS[" * 50 + "]" * 50},
        {"projection info": ["one"]},
    ],
    ids=lambda header: str(header)[:40],
)
def test_what_cannot_be_read_is_left_out_and_told(header):
    scene = Scene(CUBE, header=Header(header))
    entries, notes = envi_entries(scene, scene.shape)
    assert not {"coordinate system string", "projection info"} & set(entries)
    assert notes
    assert place_note(scene, ("envi",))
    profile = geotiff_profile(place_of(scene))
    assert "crs" not in profile or profile["crs"].to_epsg() == 32611


def test_a_projection_without_its_meridian_is_no_utm_zone():
    wkt = CRS.from_epsg(32611).to_wkt().replace('"central_meridian"', '"meridian"')
    assert projections.system_of(wkt).zone == 0
    assert projections._of_tree(projections.parsed(wkt)).zone == 0


def test_a_long_text_takes_no_long_time():
    for text in ('"' * 90_000, "a" * 90_000, " " * 90_000 + "]", "1" * 90_000, '"a' * 45_000):
        assert projections.parsed(text) is None


# Parts of a scene


@pytest.mark.parametrize("part", [(0, 0), (2, 3), (6, 0)])
@pytest.mark.parametrize(
    "header",
    [
        {"map info": UTM},
        {"Map Info": UTM.replace("1, 1", "1.5, 1.5") + ", rotation=-35"},
        {"map info": UTM + ", rotation=180", "x start": "11", "y start": "21"},
        {"map info": "Geographic Lat/Lon, 3, 4, -118, 34, 0.001, 0.002, WGS-84"},
        {"crs": "EPSG:32611", "transform": (30.0, 5.0, 4e5, 5.0, -30.0, 4e6)},
    ],
    ids=str,
)
def test_a_part_of_a_scene_lies_where_it_lies_in_the_whole(header, part):
    row, column = part
    moved = shifted(Header(header), row, column)
    whole, found = place_of(header), place_of(moved)
    assert found.crs == whole.crs
    for i, j in CORNERS:
        np.testing.assert_allclose(found.corner(i, j), whole.corner(row + i, column + j), rtol=1e-12)
    start = {k: v for k, v in moved.items() if k in ("x start", "y start")}
    if "x start" in header:
        assert start == {"x start": str(11 + column), "y start": str(21 + row)}
    elif "map info" in header and part == (2, 3):
        assert start == {"x start": "4", "y start": "3"}


def test_rows_and_columns_of_a_file_keep_their_place(tmp_path):
    header = envi(tmp_path, f"map info = {{{UTM}, rotation=10}}\n")
    scene = read_scene(header, rows=(2, 6), columns=(1, 4))
    path = write_map(tmp_path / "m.hdr", CUBE[2:6, 1:4], ("a", "b", "c"), scene, description="maps")
    _, whole = by_gdal(header)
    _, part = by_gdal(path)
    np.testing.assert_allclose(part @ (0, 0), whole @ (1, 2), rtol=1e-12)
    np.testing.assert_allclose(part @ (3, 4), whole @ (4, 6), rtol=1e-12)


def test_location_and_points_move_along():
    lat, lon = np.meshgrid(np.arange(ROWS) / 10, np.arange(COLUMNS) / 10, indexing="ij")
    header = Header(
        {
            "location": {"lat": lat, "lon": lon, "note": np.arange(3)},
            "gcps": [(5.0, 4.0, 1.0, 2.0)],
            "geo points": ["3", "5", "34", "-118"],
        }
    )
    moved = shifted(header, 2, 1)
    np.testing.assert_array_equal(moved["location"]["lat"], lat[2:, 1:])
    np.testing.assert_array_equal(moved["location"]["note"], np.arange(3))
    assert moved["gcps"] == [(3.0, 3.0, 1.0, 2.0)]
    assert [float(p) for p in moved["geo points"]] == [2, 3, 34, -118]
    assert header["geo points"][0] == "3"


# In words


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({}, "none"),
        (
            {"map info": UTM},
            "UTM zone 12 North, WGS 84 (EPSG:32612); pixels of 30 × 20 m; upper left corner at x 500000, y 4100000",
        ),
        (
            {"crs": "EPSG:4326", "transform": (5e-4, 0, -118.2, 0, -5e-4, 34.3)},
            "WGS 84 (EPSG:4326); pixels of 0.0005 × 0.0005°; upper left corner at longitude -118.2, latitude 34.3",
        ),
        ({"transform": (2, 0, 10, 0, 2, 20)}, "no coordinate system; pixels of 2 × 2; first row in the south; upper"),
        ({"location": {"lat": CUBE[..., 0], "lon": CUBE[..., 1]}}, "longitude and latitude per pixel (swath)"),
        ({"gcps": [(1.0, 2.0, 3.0, 4.0)]}, "1 ground control points, not applied"),
        ({"geo points": ["1", "1", "34", "-118"]}, "points of known place (geo points), not applied"),
        ({"rpc info": ["1"]}, "rational polynomials (RPC), not applied"),
        ({"map info": "Arbitrary, 1, 1, 0, 0, 1, 1, 0, North"}, "none"),
    ],
    ids=str,
)
def test_in_words(header, words):
    scene = Scene(CUBE, header=Header(header))
    assert place_in_words(scene).startswith(words)
    note = place_note(scene, ("envi", "geotiff"))
    placed = "EPSG" in words or words == "none"
    assert (note is None) == placed
    assert placed or note.startswith("The maps carry no coordinate system: ")


def test_a_list_of_spectra_lies_nowhere():
    scene = Scene(CUBE.reshape(-1, 3), header=Header({"map info": UTM}))
    assert place_of(scene) is None
    assert place_in_words(scene) == "none"
    assert place_note(scene) is None
    assert envi_entries(scene, scene.shape) == ({}, [])


# Without rasterio


@pytest.fixture
def bare(monkeypatch):
    monkeypatch.setitem(sys.modules, "rasterio", None)
    projections.system_of.cache_clear()
    yield
    projections.system_of.cache_clear()


def test_envi_to_envi_needs_no_rasterio(tmp_path, bare):
    wkt = 'PROJCS["a, b",GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563]],'
    wkt += 'PRIMEM["Greenwich",0],UNIT["degree",0.0174532925199433]],PROJECTION["Transverse_Mercator"],UNIT["metre",1]]'
    text = f"map info = {{{UTM.replace('20', '30')}, rotation=10}}\ncoordinate system string = {{{wkt}}}\nx start = 5\n"
    scene = read_scene(envi(tmp_path, text))
    path = write_map(tmp_path / "m.hdr", CUBE, ("a", "b", "c"), scene, description="maps")
    written = path.read_text(encoding="utf-8")
    assert "x start = 5\n" in written
    assert f"coordinate system string = {{{wkt.replace('a, b', 'a,b')}}}" in written.replace("a, b", "a,b")
    assert "rotation=10" in written
    assert place_of(scene).crs.startswith("PROJCS")
    assert place_note(scene, ("envi",)) is None
    assert "rotated by 10°" in place_in_words(scene)


@pytest.mark.parametrize(("crs", "told"), [("EPSG:32611", False), ("EPSG:4326", False), ("EPSG:5070", True)])
def test_codes_without_rasterio(tmp_path, bare, crs, told):
    scene = Scene(CUBE, header=Header({"crs": crs, "transform": (30.0, 0.0, 4e5, 0.0, -30.0, 4e6)}))
    path = write_map(tmp_path / "m.hdr", CUBE, ("a", "b", "c"), scene, description="maps")
    assert ("coordinate system" in (place_note(scene, ("envi",)) or "")) == told
    assert ("WGS-84" in path.read_text(encoding="utf-8")) != told


# Any text


PIECES = ("}", "{", "\n", ",", "=", '"', "[", "]", "}\nbands = 99\nx = {", "1e999", "nan", "\x1b[2J", "-", "é", "")
ENTRIES = {
    "map info": f"{UTM}, rotation=10, units=Feet",
    "coordinate system string": 'GEOGCS["a",DATUM["b",SPHEROID["c",6378137,298.257]],UNIT["degree",0.017]]',
    "projection info": "9, 6378137, 6356752, 23, -96, 0, 0, 29, 45, WGS-84, Albers, units=Meters",
    "geo points": "1, 2, 3, 4",
    "x start": "1",
    "crs": "EPSG:32611",
    "transform": "30, 0, 4e5, 0, -30, 4e6",
}


def test_no_text_in_a_header_raises_or_breaks_out(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(200):
        header = Header()
        for name in rng.permutation(list(ENTRIES))[: rng.integers(1, 5)]:
            text = ENTRIES[name]
            for _ in range(rng.integers(0, 4)):
                at = int(rng.integers(len(text) + 1))
                text = text[:at] + str(rng.choice(PIECES)) + text[at + int(rng.integers(3)) :]
            header[name] = text.split(",") if rng.random() < 0.5 or name == "transform" else text
        scene = Scene(CUBE, header=header)
        place_of(Scene(CUBE, header=shifted(header, 1, 2)))
        assert place_in_words(scene).isprintable()
        assert (place_note(scene, ("envi", "geotiff")) or " ").isprintable()
        if number % 10 == 0:
            path = write_map(tmp_path / "m.hdr", CUBE, ("a", "b", "c"), scene, description="maps")  # reads it back
            assert "bands = 99\n" not in path.read_text(encoding="utf-8")
