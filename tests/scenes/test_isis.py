"""ISIS 3 cubes, as GDAL writes them and in layouts that it does not write."""

import numpy as np
import pytest
import rasterio
from planetary_files import BANDS, COLUMNS, ROWS, by_gdal, cube_of, isis, stored
from rasterio.warp import transform

from unmix_jax.scenes.lazy import LazyCube
from unmix_jax.scenes.readers.planetary.common import Tiles
from unmix_jax.scenes.readers.planetary.isis import is_isis, read_isis
from unmix_jax.scenes.reading import Reading, finish

TYPES = {
    "UnsignedByte": "u1", "SignedWord": "i2", "UnsignedWord": "u2", "SignedInteger": "i4", "UnsignedInteger": "u4",
    "Real": "f4", "Double": "f8",
}  # fmt: skip
SPECIAL = {
    "UnsignedByte": [0, 255], "SignedWord": [-32768, -32767, -32766, -32765, -32764],
    "UnsignedWord": [0, 1, 2, 65534, 65535], "SignedInteger": [-8388613, -8388612, -8388611, -8388610, -8388609],
    "UnsignedInteger": [0, 1, 2, 4294967294, 4294967295],
    "Real": np.arange(0xFF7FFFFB, 0xFF7FFFFF + 1).astype("<u4").view("<f4"),
    "Double": (np.uint64(0xFFEFFFFFFFFFFFFB) + np.arange(5).astype("u8")).view("<f8"),
}  # fmt: skip
MARS = "+proj=longlat +a=3396190 +b=3376200 +no_defs"


def read(path, **told):
    """A scene as `read_scene` opens it."""
    told = Reading(**told)
    return finish(read_isis(path, told), told)


def tiled(cube, tile):
    """The bytes of a cube [row, column, band] in tiles, padded to whole ones."""
    rows, columns, bands = cube.shape
    down, across = -(-rows // tile[0]), -(-columns // tile[1])
    padded = np.zeros((bands, down * tile[0], across * tile[1]), cube.dtype)
    padded[:, :rows, :columns] = cube.transpose(2, 0, 1)
    return np.ascontiguousarray(
        padded.reshape(bands, down, tile[0], across, tile[1]).transpose(0, 1, 3, 2, 4)
    ).tobytes()


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("order", ["Lsb", "Msb"])
def test_types_byte_orders_and_special_values(tmp_path, kind, order):
    cube = cube_of("<" + TYPES[kind]) + np.array(3, TYPES[kind])
    special = np.asarray(SPECIAL[kind], cube.dtype)
    flat = cube.reshape(-1).copy()
    flat[: len(special)] = special
    cube = flat.reshape(cube.shape).astype(("<" if order == "Lsb" else ">") + TYPES[kind])
    path = isis(tmp_path / "a.cub", stored(cube, "bsq"), kind=kind, order=order, base=-1.5, multiplier=0.5)
    scene = read(path)
    expected = cube.astype("f8") * 0.5 - 1.5
    expected.reshape(-1)[: len(special)] = np.nan
    np.testing.assert_allclose(np.asarray(scene.cube), expected, rtol=1e-6)
    assert scene.stated_nodata == float(special[0])
    assert scene.cube.dtype == ("f8" if kind == "Double" else "f4")
    assert not scene.account.unknown
    plain = np.asarray(read(path, scale=1.0, nodata="none").cube).reshape(-1)[len(special) :]
    np.testing.assert_array_equal(plain, cube.reshape(-1)[len(special) :])


@pytest.mark.parametrize("tile", [(2, 3), (5, 4), (1, 1), (8, 128), (4, 2)])
def test_tiles(tmp_path, tile):
    cube = cube_of("<f4", (7, 5, 3))
    layout = f"Format = Tile\n    TileSamples = {tile[1]}\n    TileLines = {tile[0]}"
    path = isis(tmp_path / "a.cub", tiled(cube, tile), layout=layout, size=cube.shape)
    scene = read(path)
    np.testing.assert_array_equal(np.asarray(scene.cube), cube)
    for index in (
        3, -1, slice(2, 6), slice(None, None, 2), slice(5, 1, -1), slice(6, 6), (slice(1, 4), 2), (4, slice(None), 1),
        (Ellipsis, 1), (slice(None), slice(1, 3), slice(0, 2)), np.array([1, 5]),
    ):  # fmt: skip
        np.testing.assert_array_equal(scene.cube[index], cube[index])
    part = read(path, rows=(3, 6), columns=(1, 4))
    np.testing.assert_array_equal(np.asarray(part.cube), cube[3:6, 1:4])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="truncated"):
        read(path)


@pytest.mark.parametrize(
    "options", [{}, {"TILED": "YES", "BLOCKXSIZE": 2, "BLOCKYSIZE": 3}, {"DATA_LOCATION": "EXTERNAL"}]
)
@pytest.mark.parametrize("kind", ["float32", "int16", "uint8"])
def test_cubes_that_gdal_wrote(tmp_path, options, kind):
    cube = (cube_of("f4", (7, 5, 3)) + 1).astype(kind)
    path = by_gdal(tmp_path / ("a.lbl" if "DATA_LOCATION" in options else "a.cub"), cube, "ISIS3", **options)
    scene = read(path)
    np.testing.assert_array_equal(np.asarray(scene.cube), cube)
    assert is_isis(path)
    if "TILED" in options:
        assert isinstance(scene.cube, LazyCube)
        assert isinstance(scene.cube.source._source, Tiles)


@pytest.mark.parametrize(
    "proj",
    [
        "+proj=eqc +lat_ts=0 +lon_0=180 +R=3396190", "+proj=eqc +lat_ts=30 +lon_0=20 +R=3391188",
        "+proj=sinu +lon_0=10 +R=3396190", "+proj=stere +lat_0=90 +lon_0=15 +k=1 +a=3396190 +b=3376200",
        "+proj=merc +lon_0=5 +k=1 +a=3396190 +b=3376200",
        "+proj=tmerc +lat_0=0 +lon_0=33 +k=0.9996 +a=3396190 +b=3376200",
        "+proj=ortho +lat_0=20 +lon_0=40 +R=1737400",
    ],
)  # fmt: skip
def test_places_that_gdal_wrote(tmp_path, proj):
    crs = rasterio.crs.CRS.from_string(f"{proj} +units=m +no_defs")
    grid = rasterio.Affine(18.5, 0, -1234.5, 0, -18.5, 6789.25)
    path = by_gdal(tmp_path / "a.cub", cube_of("f4"), "ISIS3", crs=crs, transform=grid)
    header = read(path).header
    np.testing.assert_allclose(header["transform"], tuple(grid)[:6], rtol=1e-9)
    ours = rasterio.crs.CRS.from_wkt(header["crs"])
    points = [20.0, 30.0], ([70.0, 80.0] if "stere" in proj else [10.0, 25.0])
    radius = "3391188" if "3391188" in proj else "1737400" if "1737400" in proj else "3396190"
    degrees = MARS if "+b=" in proj else f"+proj=longlat +R={radius} +no_defs"
    here, there = (transform(degrees, target, *points) for target in (ours, crs))
    np.testing.assert_allclose(here, there, rtol=1e-6, atol=0.5)


MAPPING = """  Group = Mapping
    ProjectionName     = Sinusoidal
    CenterLongitude    = 77.0
    TargetName         = Mars
    EquatorialRadius   = 3396190.0 <meters>
    PolarRadius        = 3376200.0 <meters>
    LatitudeType       = Planetocentric
    LongitudeDirection = PositiveWest
    LongitudeDomain    = 360
    PixelResolution    = 100.0 <meters/pixel>
    Scale              = 592.747 <pixels/degree>
    UpperLeftCornerX   = -5000.0 <meters>
    UpperLeftCornerY   = 12.5 <km>
  End_Group
"""


def test_places_by_label(tmp_path):
    body = stored(cube_of("<f4"), "bsq")
    header = read(isis(tmp_path / "a.cub", body, groups=MAPPING)).header
    assert header["transform"] == (100.0, 0.0, -5000.0, 0.0, -100.0, 12500.0)
    assert '"longitude_of_center",-77.0' in header["crs"]
    for old, new, note in (
        ("Sinusoidal", "ObliqueCylindrical", "cannot be expressed"),
        ("EquatorialRadius ", "Other ", "no EquatorialRadius"),
        ("<meters/pixel>", "<deg>", "no unit of length"),
        ("CenterLongitude    = 77.0", "CenterLongitude = east", "must be a finite number"),
        ("LongitudeDomain    = 360", "Rotation = 45", "turned by 45"),
    ):
        scene = read(isis(tmp_path / "a.cub", body, groups=MAPPING.replace(old, new)))
        assert "crs" not in scene.header
        assert note in scene.notes[0]


@pytest.mark.parametrize(
    ("group", "centers", "widths"),
    [
        ("Center = (0.65, 1.2, 2.5) <micrometers>\n Width = (0.01, 0.02, 0.03)", [650, 1200, 2500], [10, 20, 30]),
        ("Center = (650, 1200, 2500)\n Units = Nanometers", [650, 1200, 2500], None),
        ("BandBinCenter = (6.78, 7.93, 8.56)\n BandBinUnit = Micrometer", [6780, 7930, 8560], None),
        ('FilterName = ("450 nm", "550 nm", "650 nm")', [450, 550, 650], None),
        ("OriginalBand = (1, 2, 3)\n FilterName = (A, B, C)", None, None),
    ],
)  # fmt: skip
def test_bands(tmp_path, group, centers, widths):
    path = isis(tmp_path / "a.cub", stored(cube_of("<f4"), "bsq"), groups=f"Group = BandBin\n {group}\nEnd_Group\n")
    scene = read(path)
    if centers is None:
        assert scene.axis is None
        assert scene.header["band names"] == ["A", "B", "C"]
        return
    np.testing.assert_allclose(scene.axis.centers, centers)
    assert scene.axis.unit == "nm"
    if widths is None:
        assert scene.axis.fwhm is None
    else:
        np.testing.assert_allclose(scene.axis.fwhm, widths)
    assert not scene.account.unknown


def test_detached_labels(tmp_path):
    cube = cube_of("<f4")
    (tmp_path / "data.cub").write_bytes(stored(cube, "bsq"))
    label = isis(tmp_path / "a.lbl", b"", core='    ^Core = "data.cub"', attach=False)
    np.testing.assert_array_equal(np.asarray(read(label).cube), cube)
    (tmp_path / "data.lbl").write_bytes(label.read_bytes())
    np.testing.assert_array_equal(np.asarray(read(tmp_path / "data.cub").cube), cube)
    for name in ("../data.cub", "/etc/passwd", "b/data.cub"):
        with pytest.raises(ValueError, match="in its own folder"):
            read(isis(tmp_path / "b.lbl", b"", core=f'    ^Core = "{name}"', attach=False))
    with pytest.raises(FileNotFoundError, match="other"):
        read(isis(tmp_path / "b.lbl", b"", core="    ^Core = other.cub", attach=False))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "Complex"}, "Type COMPLEX"),
        ({"order": "Vax"}, "ByteOrder VAX"),
        ({"layout": "Format = GeoTIFF"}, "Format GEOTIFF"),
        ({"layout": "Format = Tile\n TileSamples = 0\n TileLines = 2"}, "no such size"),
        ({"layout": "Format = Tile\n TileSamples = 4"}, "no TILELINES"),
        ({"size": (ROWS + 1, COLUMNS, BANDS)}, "truncated"),
        ({"size": (0, COLUMNS, BANDS)}, "no such size"),
        ({"size": (2**40, 2**40, 1)}, "no such size|truncated"),
        ({"multiplier": 0}, "Multiplier is zero.*--scale"),
        ({"multiplier": "x"}, "MULTIPLIER must be a finite number.*--scale"),
        ({"base": "inf"}, "BASE must be a finite number.*--offset"),
        ({"groups": "Group = BandBin\nCenter = (1, 2)\nEnd_Group\n"}, "lists 2 numbers for 3 bands"),
        ({"groups": "Group = BandBin\nCenter = (1, 2, 3)\nUnits = furlongs\nEnd_Group\n"}, "--unit with --force-unit"),
        ({"groups": "Group = Open\n"}, "not closed"),
    ],
)
def test_labels_that_are_refused(tmp_path, options, message):
    path = isis(tmp_path / "a.cub", stored(cube_of("<f4"), "bsq"), **options)
    with pytest.raises(ValueError, match=message) as caught:
        read(path)
    assert str(tmp_path / "a") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_units_that_are_wrong_can_be_replaced(tmp_path):
    group = "Group = BandBin\nCenter = (1, 2, 3)\nUnits = furlongs\nEnd_Group\n"
    path = isis(tmp_path / "a.cub", stored(cube_of("<f4"), "bsq"), groups=group)
    np.testing.assert_allclose(read(path, unit="um", force_unit=True).axis.centers, [1000, 2000, 3000])


def test_other_files_are_not_taken_for_cubes(tmp_path):
    (tmp_path / "a.cub").write_bytes(b"ENVI\n")
    assert not is_isis(tmp_path / "a.cub")
    assert not is_isis(tmp_path / "absent.cub")
    with pytest.raises(ValueError, match="no ISIS label"):
        read_isis(tmp_path / "a.cub", Reading())
