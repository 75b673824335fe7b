"""PDS3: images, qubes and tables of CRISM, M³, THEMIS and TES, each in a small file of its layout."""

import warnings

import numpy as np
import pytest
import rasterio
from planetary_files import (
    BANDS,
    COLUMNS,
    MAPS,
    ROWS,
    attached,
    cube_of,
    image_entries,
    lines,
    map_group,
    pds3,
    qube,
    rad,
    stored,
    tes_column,
)
from rasterio.warp import transform

from unmix_jax.scenes.readers.planetary.common import wkt_of
from unmix_jax.scenes.readers.planetary.odl import parse_label
from unmix_jax.scenes.readers.planetary.pds3 import is_pds3, read_pds3, read_pds3_library
from unmix_jax.scenes.readers.planetary.tes import tes_wavenumbers
from unmix_jax.scenes.reading import Reading, finish

ORDERS = {"BAND_SEQUENTIAL": "bsq", "LINE_INTERLEAVED": "bil", "SAMPLE_INTERLEAVED": "bip"}
KINDS = {
    ("PC_REAL", "<f4"), ("IEEE_REAL", ">f8"), ("SUN_REAL", ">f4"), ("MSB_INTEGER", ">i2"), ("INTEGER", ">i4"),
    ("LSB_UNSIGNED_INTEGER", "<u2"), ("VAX_INTEGER", "<i2"), ("PC_UNSIGNED_INTEGER", "<u4"),
    ("UNSIGNED_INTEGER", "u1"),
}  # fmt: skip


def read(path, **told):
    """A scene as `read_scene` opens it."""
    told = Reading(**told)
    return finish(read_pds3(path, told), told)


def accounted(scene):
    """Every entry of the label is used, carried or listed."""
    account = scene.account
    names = [*account.used, *account.carried, *account.unknown]
    assert len(names) == len(set(names))
    own = {"crs", "transform", "location", "band names", "special values", "columns"}
    assert {n for n in scene.header if n not in own} == {n for n in names if not n.startswith("hdr.")}


@pytest.mark.parametrize(("kind", "dtype"), sorted(KINDS))
@pytest.mark.parametrize("order", ORDERS)
def test_images_of_every_order_and_type(tmp_path, order, kind, dtype):
    cube = cube_of(dtype)
    path = pds3(tmp_path / "A.LBL", stored(cube, ORDERS[order]), image_entries(cube, order, kind))
    scene = read(path)
    np.testing.assert_array_equal(np.asarray(scene.cube), cube.astype("f8"))
    assert scene.cube.dtype == ("f8" if dtype.endswith("f8") else "f4")
    accounted(scene)
    assert not scene.account.unknown
    if order == "SAMPLE_INTERLEAVED" or kind in ("INTEGER", "PC_UNSIGNED_INTEGER"):
        return  # GDAL reads the first band after band, and integers of 32 bits as real numbers
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no place
        with rasterio.open(path) as raster:
            np.testing.assert_array_equal(np.moveaxis(raster.read(), 0, -1), np.asarray(scene.cube))


@pytest.mark.parametrize(
    "pointer", ['"A.IMG"', '("A.IMG", 3)', '("A.IMG", 33 <BYTES>)', "A.IMG", '"a.img"', '("A.IMG", 1)']
)
def test_pointers_to_records_and_bytes(tmp_path, pointer):
    cube = cube_of("<f4")
    skipped = 32 if "3" in pointer else 0
    path = pds3(tmp_path / "A.LBL", b"\xff" * skipped + stored(cube, "bsq"), image_entries(cube), pointer=pointer)
    if "a.img" in pointer:
        (tmp_path / "A.IMG").rename(tmp_path / "a.img")
    np.testing.assert_array_equal(np.asarray(read(path).cube), cube)


def test_attached_labels(tmp_path):
    cube = cube_of(">i2")
    entries = image_entries(cube, "LINE_INTERLEAVED", "MSB_INTEGER")
    path = attached(tmp_path / "A.IMG", stored(cube, "bil"), entries)
    np.testing.assert_array_equal(np.asarray(read(path).cube), cube)
    path = attached(tmp_path / "B.IMG", stored(cube, "bil"), entries, **{"^IMAGE": "2049 <BYTES>"})
    np.testing.assert_array_equal(np.asarray(read(path).cube), cube)


def test_the_data_file_finds_its_label(tmp_path):
    cube = cube_of("<f4")
    pds3(tmp_path / "A.LBL", stored(cube, "bsq"), image_entries(cube))
    np.testing.assert_array_equal(np.asarray(read(tmp_path / "A.IMG").cube), cube)
    assert is_pds3(tmp_path / "A.IMG")
    assert is_pds3(tmp_path / "A.LBL")
    (tmp_path / "B.IMG").write_bytes(b"\0" * 100)
    assert not is_pds3(tmp_path / "B.IMG")
    (tmp_path / "B.LBL").write_bytes((tmp_path / "A.LBL").read_bytes())
    assert not is_pds3(tmp_path / "B.IMG")  # the label beside it is that of another file
    (tmp_path / "A.HDR").write_text("ENVI\n")
    assert not is_pds3(tmp_path / "A.HDR")
    assert not is_pds3(tmp_path / "absent")


@pytest.mark.parametrize(
    ("order", "lines_of"),
    [
        ("BAND_SEQUENTIAL", "a band"),
        ("SAMPLE_INTERLEAVED", "all"),
        ("LINE_INTERLEAVED", "a band"),
        ("LINE_INTERLEAVED", "all"),
    ],
)
def test_prefixes_and_suffixes_of_lines(tmp_path, order, lines_of):
    cube = cube_of("<i2")
    file_order = cube.transpose({"bsq": (2, 0, 1), "bil": (0, 2, 1), "bip": (0, 1, 2)}[ORDERS[order]])
    runs = file_order.reshape(ROWS, -1) if lines_of == "all" else file_order.reshape(-1, COLUMNS)
    body = b"".join(b"\xaa" * 6 + run.tobytes() + b"\xbb" * 3 for run in runs)
    entries = image_entries(cube, order, "LSB_INTEGER", LINE_PREFIX_BYTES=6, LINE_SUFFIX_BYTES=3)
    path = pds3(tmp_path / "A.LBL", body, entries, top={"RECORD_BYTES": 9 + runs.shape[1] * 2})
    scene = read(path)
    np.testing.assert_array_equal(np.asarray(scene.cube), cube)
    np.testing.assert_array_equal(scene.cube[1:4, 2], cube[1:4, 2])
    if order == "LINE_INTERLEAVED":
        with pytest.raises(ValueError, match="RECORD_BYTES 77"):
            read(pds3(tmp_path / "B.LBL", body, entries, top={"RECORD_BYTES": 77}))


def test_scale_offset_and_special_values(tmp_path):
    cube = cube_of(">i2")
    cube[0, 0, 0], cube[1, 1, 1], cube[2, 2, 2] = -32768, -999, -32764
    entries = image_entries(
        cube, "SAMPLE_INTERLEAVED", "MSB_INTEGER", SCALING_FACTOR="(0.5, 2, 10)", OFFSET=-1.0, MISSING_CONSTANT=-999,
        CORE_NULL="16#8000#", CORE_HIGH_REPR_SATURATION=-32764, UNIT='"W / (m**2 micrometer sr)"',
    )  # fmt: skip
    path = pds3(tmp_path / "A.LBL", stored(cube, "bip"), entries)
    scene = read(path)
    gap = np.isin(cube, [-32768, -999, -32764])
    assert gap.sum() == 3
    expected = np.where(gap, np.nan, cube * np.array([0.5, 2, 10]) - 1)
    np.testing.assert_allclose(np.asarray(scene.cube), expected, rtol=1e-6)
    assert (scene.stated_nodata, scene.quantity) == (-32768.0, "radiance")
    assert not scene.account.unknown
    np.testing.assert_allclose(np.asarray(read(path, scale=3.0).cube)[gap == 0], (cube * 3.0)[gap == 0])
    np.testing.assert_allclose(np.asarray(read(path, offset=5.0).cube)[3, 3], cube[3, 3] * [0.5, 2, 10] + 5)
    whole = np.asarray(read(path, nodata="none", scale=1.0).cube)
    np.testing.assert_array_equal(whole, cube)
    with pytest.raises(ValueError, match=r"SCALING_FACTOR lists 2.*--scale"):
        read(pds3(tmp_path / "B.LBL", stored(cube, "bip"), {**entries, "SCALING_FACTOR": "(1, 2)"}))
    with pytest.raises(ValueError, match=r"SCALING_FACTOR must be a finite number, got 'abc'.*--scale"):
        read(pds3(tmp_path / "C.LBL", stored(cube, "bip"), {**entries, "SCALING_FACTOR": "abc"}))
    assert read(tmp_path / "C.LBL", scale=1.0, nodata="none").cube[0, 1, 0] == cube[0, 1, 0]


def test_windows_of_cubes_with_several_special_values(tmp_path):
    cube = cube_of("<f4", (ROWS, COLUMNS, BANDS))
    cube[2, 1], cube[3, 2] = -1.0, -2.0
    entries = image_entries(cube, MISSING_CONSTANT=-1.0, INVALID_CONSTANT=-2.0)
    scene = read(pds3(tmp_path / "A.LBL", stored(cube, "bsq"), entries), rows=(1, 4), columns=(1, 3))
    expected = np.where(cube < 0, np.nan, cube)[1:4, 1:3]
    np.testing.assert_array_equal(np.asarray(scene.cube), expected)
    assert np.isnan(expected).any()


@pytest.mark.parametrize("kind", MAPS)
def test_places_are_those_of_gdal(tmp_path, kind):
    cube = cube_of("<f4")
    path = pds3(
        tmp_path / "A.LBL", stored(cube, "bsq"), image_entries(cube), after=map_group(kind), top={"TARGET_NAME": "MARS"}
    )
    scene = read(path)
    assert not scene.notes
    with rasterio.open(path) as raster:
        np.testing.assert_allclose(scene.header["transform"], tuple(raster.transform)[:6], rtol=1e-9)
        ours = rasterio.crs.CRS.from_wkt(scene.header["crs"])
        points = [70.0, 80.0], [5.0, 30.0] if kind != "POLAR STEREOGRAPHIC" else [80.0, 85.0]
        here, there = (transform(_geographic(crs), crs, *points) for crs in (ours, raster.crs))
        np.testing.assert_allclose(here, there, atol=1e-3)
    assert "MARS" in scene.header["crs"]


@pytest.mark.parametrize(
    ("kind", "lon"), [("SINUSOIDAL", 77.0), ("EQUIRECTANGULAR", 77.0), ("SIMPLE CYLINDRICAL", 0.0)]
)
def test_places_of_isis_2_are_those_of_gdal(tmp_path, kind, lon):
    cube = cube_of("<f4")
    group = map_group(kind, CENTER_LONGITUDE=lon)
    path = qube(tmp_path / "A.cub", cube, ("SAMPLE", "LINE", "BAND"), bins=group)
    scene = read(path)
    with rasterio.open(path) as raster:
        np.testing.assert_array_equal(np.moveaxis(raster.read(), 0, -1), cube)
        np.testing.assert_allclose(scene.header["transform"], tuple(raster.transform)[:6], rtol=1e-6)
        ours = rasterio.crs.CRS.from_wkt(scene.header["crs"])
        here, there = (transform(_geographic(crs), crs, [70.0, 80.0], [5.0, 30.0]) for crs in (ours, raster.crs))
        np.testing.assert_allclose(here, there, atol=1e-3)


def test_places_that_gdal_does_not_give():
    """Oblique stereographic maps, and planetocentric centres on an ellipsoid, by Snyder's formulae."""
    body = {"target": 'a/b "x"]', "equatorial": 3396190.0, "polar": 3376200.0, "lon": 77.0}
    crs = rasterio.crs.CRS.from_wkt(wkt_of("STEREOGRAPHIC", **body, centric=True, lat=40.0))
    half = np.tan(np.radians(5.0) / 2)
    x, y = transform(_geographic(crs), crs, [77.0, 77.0], [40.0, 45.0])
    np.testing.assert_allclose([x, y], [[0, 0], [0, 2 * 3396190 * half]], atol=1e-3)
    graphic = np.degrees(np.arctan(np.tan(np.radians(60.0)) * (3396190 / 3376200) ** 2))
    crs = rasterio.crs.CRS.from_wkt(wkt_of("LAMBERT AZIMUTHAL EQUAL AREA", **body, centric=True, lat=60.0))
    np.testing.assert_allclose(transform(_geographic(crs), crs, [77.0], [graphic]), [[0], [0]], atol=1e-3)
    assert wkt_of("Space Oblique", **body, centric=True) is None


def _geographic(crs):
    """The geographic system that a projected one stands on."""
    wkt = crs.to_wkt()
    begin = wkt.index("GEOGCS[")
    depth = 0
    for at in range(begin, len(wkt)):
        depth += (wkt[at] == "[") - (wkt[at] == "]")
        if depth == 0 and wkt[at] == "]":
            return rasterio.crs.CRS.from_wkt(wkt[begin : at + 1])
    raise AssertionError("no geographic system")


@pytest.mark.parametrize(
    ("more", "note"),
    [
        ({"MAP_PROJECTION_TYPE": '"OBLIQUE CYLINDRICAL"'}, "OBLIQUE_CYLINDRICAL cannot be expressed"),
        ({"MAP_PROJECTION_ROTATION": 90}, "turned by 90"),
        ({"MAP_SCALE": "1 <DEG>"}, "no unit of length"),
        ({"A_AXIS_RADIUS": "N/A"}, "no A_AXIS_RADIUS"),
        ({"A_AXIS_RADIUS": "-5 <KM>"}, "above zero"),
        ({"LINE_PROJECTION_OFFSET": "UNK"}, "LINE_PROJECTION_OFFSET"),
    ],
)
def test_places_that_cannot_be_expressed_are_noted(tmp_path, more, note):
    cube = cube_of("<f4")
    group = map_group("EQUIRECTANGULAR", **more)
    scene = read(pds3(tmp_path / "A.LBL", stored(cube, "bsq"), image_entries(cube), after=group))
    assert "crs" not in scene.header
    assert len(scene.notes) == 1
    assert note in scene.notes[0]


def test_scales_of_maps(tmp_path):
    cube = cube_of("<f4")
    for more, metres in (
        ({"MAP_SCALE": "18.5 <METERS/PIXEL>"}, 18.5),
        ({"MAP_SCALE": 0.25}, 250.0),
        ({"MAP_SCALE": "N/A", "MAP_RESOLUTION": "512 <PIXEL/DEGREE>"}, 3396190 * np.pi / 180 / 512),
    ):
        group = map_group("EQUIRECTANGULAR", **more)
        scene = read(pds3(tmp_path / "A.LBL", stored(cube, "bsq"), image_entries(cube), after=group))
        expected = (metres, 0, 20 * metres, 0, -metres, 1001 * metres)
        np.testing.assert_allclose(scene.header["transform"], expected, rtol=1e-9)
    west = map_group("SINUSOIDAL", POSITIVE_LONGITUDE_DIRECTION="WEST")
    scene = read(pds3(tmp_path / "A.LBL", stored(cube, "bsq"), image_entries(cube), after=west))
    assert '"longitude_of_center",-77.0' in scene.header["crs"]


@pytest.mark.parametrize(
    "names",
    [("SAMPLE", "LINE", "BAND"), ("SAMPLE", "BAND", "LINE"), ("BAND", "SAMPLE", "LINE"), ("BAND", "LINE", "SAMPLE")],
)
@pytest.mark.parametrize("suffix", [(0, 0, 0), (1, 0, 0), (0, 2, 0), (0, 0, 1), (1, 2, 1)])
def test_qubes_of_every_axis_order_with_suffix_planes(tmp_path, names, suffix):
    cube = cube_of("<f4")
    scene = read(qube(tmp_path / "A.QUB", cube, names, suffix))
    np.testing.assert_array_equal(np.asarray(scene.cube), cube)
    accounted(scene)


def test_qubes_scale_specials_and_bands(tmp_path):
    cube = cube_of(">i2")
    cube[0, 0], cube[1, 2] = -32768, -32760
    bins = "GROUP = BAND_BIN\n" + lines({
        "BAND_BIN_CENTER": "(6.78, 7.93, 8.56)", "BAND_BIN_WIDTH": "(1.01, 1.09, 1.16)", "BAND_BIN_UNIT": "MICROMETER",
        "BAND_BIN_BAND_NUMBER": "(1, 3, 4)",
    }) + "END_GROUP = BAND_BIN\n"  # fmt: skip
    path = qube(
        tmp_path / "A.QUB", cube, ("SAMPLE", "LINE", "BAND"), kind="SUN_INTEGER", bins=bins, CORE_BASE=0.5,
        CORE_MULTIPLIER=0.001, CORE_NULL=-32768, CORE_VALID_MINIMUM=-32752, CORE_LOW_REPR_SATURATION='"NULL"',
        CORE_NAME='"CALIBRATED_SPECTRAL_RADIANCE"', CORE_UNIT='"WATT*CM**-2*SR**-1*UM**-1"',
    )  # fmt: skip
    scene = read(path)
    gap = cube < -32752
    assert gap.sum() == 6
    expected = np.where(gap, np.nan, cube * 0.001 + 0.5)
    np.testing.assert_allclose(np.asarray(scene.cube), expected, rtol=1e-6)
    np.testing.assert_allclose(scene.axis.centers, [6780, 7930, 8560])
    np.testing.assert_allclose(scene.axis.fwhm, [1010, 1090, 1160])
    assert (scene.axis.unit, scene.quantity, scene.stated_nodata) == ("nm", "radiance", -32768.0)
    assert not scene.account.unknown
    with pytest.raises(ValueError, match=r"um.*--unit says nm"):
        read(path, unit="nm")


def test_real_qubes_mark_special_values_by_their_bits(tmp_path):
    cube = cube_of("<f4")
    bits = np.array([0xFF7FFFFB, 0xFF7FFFFC, 0xFF7FFFFF], "<u4").view("<f4")
    cube[0, 0] = bits
    special = {
        "CORE_NULL": "16#FF7FFFFB#", "CORE_LOW_REPR_SATURATION": "16#FF7FFFFC#",
        "CORE_HIGH_REPR_SATURATION": "16#FF7FFFFF#",
    }  # fmt: skip
    for more in (special, {"CORE_VALID_MINIMUM": "16#FF7FFFFA#"}):
        scene = read(qube(tmp_path / "A.QUB", cube, ("SAMPLE", "LINE", "BAND"), **more))
        values = np.asarray(scene.cube)
        assert np.isnan(values[0, 0]).all()
        np.testing.assert_array_equal(values[1:], cube[1:])


def test_themis_bands_by_number(tmp_path):
    cube = cube_of("<f4")
    bins = "GROUP = BAND_BIN\nBAND_BIN_BAND_NUMBER = (3, 9, 10)\nEND_GROUP = BAND_BIN\n"
    scene = read(qube(tmp_path / "A.QUB", cube, ("SAMPLE", "LINE", "BAND"), bins=bins))
    np.testing.assert_allclose(scene.axis.centers, [7930, 12570, 14880])
    ten = cube_of("<f4", (ROWS, COLUMNS, 10))
    scene = read(qube(tmp_path / "B.QUB", ten, ("SAMPLE", "LINE", "BAND")))
    np.testing.assert_allclose(scene.axis.centers, [6780, 6780, 7930, 8560, 9350, 10210, 11040, 11790, 12570, 14880])


def test_scales_of_single_bands_of_qubes(tmp_path):
    cube = cube_of(">i2")
    bins = "GROUP = BAND_BIN\nBAND_BIN_MULTIPLIER = (1, 2, 3)\nBAND_BIN_BASE = (0, 0, 5)\nEND_GROUP = BAND_BIN\n"
    make = {"names": ("SAMPLE", "LINE", "BAND"), "kind": "MSB_INTEGER", "bins": bins}
    scene = read(qube(tmp_path / "A.QUB", cube, **make, CORE_MULTIPLIER=1.0, CORE_BASE=0.0))
    np.testing.assert_allclose(np.asarray(scene.cube), cube * [1, 2, 3] + [0, 0, 5])
    with pytest.raises(ValueError, match=r"another scale.*--scale"):
        read(qube(tmp_path / "B.QUB", cube, **make, CORE_MULTIPLIER=7.0))


# CRISM

CRISM_TOP = {
    "INSTRUMENT_ID": "CRISM", "PRODUCT_ID": '"FRT00003E25_01_IF166L_TRR3"', "MRO:SENSOR_ID": '"L"',
    "PIXEL_AVERAGING_WIDTH": 10, "MRO:WAVELENGTH_FILE_NAME": '"CDR410803692813_WA0300020L_3.IMG"',
    "TARGET_NAME": "MARS",
}  # fmt: skip


def crism(folder, *, labelled=True, dead=(), **top):
    """A targeted record of the infrared detector, binned by ten, and its wavelength image; bands from long to short."""
    shape = (6, 64, 5)
    cube = (np.arange(np.prod(shape)).reshape(shape) / 1e4).astype("<f4")
    cube[0, :3] = 65535.0
    name = "FRT00003E25_01_IF166L_TRR3"
    head = "".join(f"{k} = {v}\n" for k, v in {"PDS_VERSION_ID": "PDS3", **CRISM_TOP, **top}.items())
    label = (
        f'{head}OBJECT = FILE\n^IMAGE = "{name}.IMG"\nRECORD_TYPE = FIXED_LENGTH\nRECORD_BYTES = 256\nOBJECT = IMAGE\n'
        f"{lines(image_entries(cube, 'LINE_INTERLEAVED', UNIT='I_OVER_F'))}END_OBJECT = IMAGE\nEND_OBJECT = FILE\nEND\n"
    )
    (folder / f"{name}.LBL").write_text(label)
    (folder / f"{name}.IMG").write_bytes(stored(cube, "bil"))
    smile = 0.04 * (np.arange(64) - 31)
    waves = (np.array([3000.0, 2500.0, 2000.0, 1500.0, 1000.0])[:, None] + smile).astype("<f4")
    waves[:, :2] = 65535.0  # columns outside the scene
    waves[list(dead)] = 65535.0
    record = CRISM_TOP["MRO:WAVELENGTH_FILE_NAME"].strip('"')
    image = waves.T[None]  # one line, columns, bands
    pds3((folder / record).with_suffix(".LBL"), stored(image, "bsq"), image_entries(image))
    if not labelled:
        (folder / record).with_suffix(".LBL").unlink()
    middle = waves[:, 27:37].mean(axis=1)
    return folder / f"{name}.LBL", cube, middle


@pytest.mark.parametrize("labelled", [True, False])
def test_crism_targeted_records(tmp_path, labelled):
    path, cube, middle = crism(tmp_path, labelled=labelled)
    scene = read(path)
    np.testing.assert_array_equal(np.asarray(scene.cube), np.where(cube == 65535, np.nan, cube))
    np.testing.assert_allclose(scene.axis.centers, middle, rtol=1e-6)
    assert (np.diff(scene.axis.centers) < 0).all()  # the order of the detector is kept
    assert (scene.axis.unit, scene.quantity, scene.stated_nodata) == ("nm", "reflectance", 65535.0)
    assert scene.good_bands is None
    assert len(scene.notes) == 1
    assert "smile" in scene.notes[0]
    assert not scene.account.unknown
    accounted(scene)


def test_crism_bands_without_wavelength_are_bad(tmp_path):
    path, _, middle = crism(tmp_path, dead=(0, 3))
    scene = read(path)
    np.testing.assert_array_equal(scene.good_bands, [False, True, True, False, True])
    good = np.asarray(scene.good_bands)
    np.testing.assert_allclose(scene.axis.centers[good], middle[good], rtol=1e-6)
    np.testing.assert_allclose(scene.axis.centers, [3000, 2500, 2000, 1500, 1000], atol=1)
    assert any("2 bands have no wavelength" in note for note in scene.notes)


def test_crism_without_its_wavelength_file(tmp_path):
    path, _, _ = crism(tmp_path)
    for file in tmp_path.glob("CDR4*"):
        file.unlink()
    scene = read(path)
    assert scene.axis is None
    assert "CDR410803692813_WA0300020L_3.IMG is to be put beside the label" in scene.notes[0]
    with pytest.raises(ValueError, match="a file in its own folder"):
        read(crism(tmp_path, **{"MRO:WAVELENGTH_FILE_NAME": '"../secret.IMG"'})[0])


def test_crism_wavelengths_of_another_image_are_refused(tmp_path):
    path, _, _ = crism(tmp_path)
    image = np.ones((1, 64, 4), "<f4")
    pds3(tmp_path / "CDR410803692813_WA0300020L_3.LBL", stored(image, "bsq"), image_entries(image))
    with pytest.raises(ValueError, match="4 bands and 64 columns, the image has 5 and 64"):
        read(path)


def test_crism_map_projected_records(tmp_path):
    cube = cube_of("<f4")
    cube[0, 0] = 65535.0
    name = "FRT0001FD76_07_IF166J_MTR3"
    top = {"INSTRUMENT_ID": "CRISM", "PRODUCT_ID": f'"{name}"', "TARGET_NAME": "MARS"}
    path = pds3(
        tmp_path / f"{name}.LBL", stored(cube, "bsq"), image_entries(cube), top=top, after=map_group("EQUIRECTANGULAR")
    )
    scene = read(path)
    assert scene.axis is None
    table = tmp_path / f"{name.replace('IF', 'WV')}.TAB".lower()
    table.write_text("  0, S,  436.13, 7.0\r\n  1, S,  442.63, 7.0\r\n  2, L, 1021.00, 8.0\r\n")
    scene = read(path)
    np.testing.assert_allclose(scene.axis.centers, [436.13, 442.63, 1021.0])
    assert (scene.quantity, scene.axis.unit) == ("reflectance", "nm")
    assert np.isnan(scene.cube[0, 0]).all()
    assert "Equirectangular" in scene.header["crs"]
    table.write_text("0 436.1 437.1\n1 442.6 443.6\n2 1021 1022\n")
    with pytest.raises(ValueError, match=r"2 columns of 3 wavelengths"):
        read(path)
    table.write_text("0 1\n1 2\n2 3\n")
    with pytest.raises(ValueError, match=r"no column of 3 wavelengths"):
        read(path)


def test_envi_headers_beside_supply_bands(tmp_path):
    cube = cube_of("<f4")
    name = "FRT0001FD76_07_IF166J_MTR3"
    top = {"INSTRUMENT_ID": "CRISM", "PRODUCT_ID": f'"{name}"'}
    path = pds3(tmp_path / f"{name}.LBL", stored(cube, "bsq"), image_entries(cube), top=top)
    header = tmp_path / f"{name}.HDR"
    text = (
        "ENVI\nsamples = 4\nlines = 5\nbands = 3\ndata type = 4\ninterleave = bsq\nbyte order = 0\nheader offset = 0\n"
        "wavelength units = Micrometers\nwavelength = {0.43613, 0.44263, 1.021}\nfwhm = {0.007, 0.007, 0.008}\n"
        "bbl = {1, 0, 1}\nmap info = {Arbitrary, 1, 1, 0, 0, 1, 1}\nodd entry = 5\n"
    )
    header.write_text(text)
    scene = read(path)
    np.testing.assert_allclose(scene.axis.centers, [436.13, 442.63, 1021.0])
    np.testing.assert_allclose(scene.axis.fwhm, [7, 7, 8])
    np.testing.assert_array_equal(scene.good_bands, [True, False, True])
    assert {"hdr.wavelength", "hdr.bbl", "hdr.fwhm"} <= set(scene.account.used)
    assert scene.account.unknown == ("hdr.odd entry",)
    header.write_text(text.replace("lines = 5", "lines = 6"))
    with pytest.raises(ValueError, match="has 6 lines, the label"):
        read(path)


def beside(folder, more, **entries):
    """An image of two-byte numbers with a label and an ENVI header."""
    cube = (np.arange(ROWS * COLUMNS * BANDS).reshape(ROWS, COLUMNS, BANDS) + 1).astype("<i2")
    path = pds3(folder / "A.LBL", stored(cube, "bsq"), image_entries(cube, kind="LSB_INTEGER", **entries))
    (folder / "A.HDR").write_text(
        f"ENVI\nsamples = {COLUMNS}\nlines = {ROWS}\nbands = {BANDS}\ndata type = 2\ninterleave = bsq\n"
        f"byte order = 0\nfile type = ENVI Standard\n{more}"
    )
    return path, cube.astype(float)


def test_the_fill_value_of_an_envi_header_beside_joins_those_of_the_label(tmp_path):
    path, cube = beside(tmp_path, "data ignore value = 7\n", MISSING_CONSTANT=5)
    scene = read(path)
    np.testing.assert_array_equal(np.asarray(scene.cube), np.where(np.isin(cube, (5, 7)), np.nan, cube))
    assert scene.header["special values"] == [5.0, 7.0]
    assert {"hdr.file type", "hdr.data ignore value"} <= set(scene.account.used)
    assert not scene.account.unknown
    np.testing.assert_array_equal(np.asarray(read(path, nodata=9).cube), np.where(cube == 9, np.nan, cube))


@pytest.mark.parametrize(
    ("more", "gain", "offset"),
    [
        ("reflectance scale factor = 10000\n", 1e-4, 0.0),
        ("data gain values = {2, 3, 4}\ndata offset values = {1, 0, 5}\n", [2, 3, 4], [1, 0, 5]),
        ("data gain values = {2, 2, 2}\nreflectance scale factor = 100\n", 0.02, 0.0),
    ],
)
def test_gains_of_an_envi_header_beside_are_applied(tmp_path, more, gain, offset):
    path, cube = beside(tmp_path, more)
    scene = read(path)
    np.testing.assert_allclose(np.asarray(scene.cube), cube * np.array(gain) + np.array(offset), rtol=1e-6)
    assert not scene.account.unknown
    assert scene.quantity == ("reflectance" if "reflectance" in more else "value")
    np.testing.assert_allclose(np.asarray(read(path, scale=0.5).cube), cube * 0.5)


def test_gains_that_label_and_envi_header_say_differently_are_refused(tmp_path):
    path, cube = beside(tmp_path, "reflectance scale factor = 10000\n", SCALING_FACTOR=0.0001)
    np.testing.assert_allclose(np.asarray(read(path).cube), cube * 1e-4, rtol=1e-6)
    path, _ = beside(tmp_path, "reflectance scale factor = 10000\n", SCALING_FACTOR=0.01)
    with pytest.raises(ValueError, match=r"A\.HDR says other gains or offsets than the label: give --scale"):
        read(path)
    np.testing.assert_allclose(np.asarray(read(path, scale=2.0).cube), cube * 2)
    path, _ = beside(tmp_path, "file compression = 1\n")
    with pytest.raises(ValueError, match="compressed"):
        read(path)


def test_crism_location_images(tmp_path):
    path, cube, _ = crism(tmp_path)
    place = np.stack(
        [np.full(cube.shape[:2], 7.0), np.arange(384.0).reshape(6, 64), np.arange(384.0).reshape(6, 64) + 0.5], -1
    )
    place = place.astype("<f4")
    place[2, 3] = 65535.0
    names = '("INA at areoid, deg", "Latitude, areocentric, deg N", "Longitude, areocentric, deg E")'
    pds3(tmp_path / "FRT00003E25_01_DE166L_DDR1.LBL", stored(place, "bsq"), image_entries(place, BAND_NAME=names))
    location = read(path).header["location"]
    expected = np.where(place == 65535, np.nan, place)
    np.testing.assert_array_equal(location["lat"], expected[..., 1])
    np.testing.assert_array_equal(location["lon"], expected[..., 2])


# M³


def m3(folder, shape=(ROWS, COLUMNS, BANDS)):
    """A Level 2 product: reflectance with its ENVI header, a supplement, and the location image of Level 1B."""
    cube, base = cube_of("<f4", shape), "M3G20090203T175131"
    cube[1, 1] = -999.0
    extra = np.ones((*shape[:2], 2), "<f4")
    text = 'PDS_VERSION_ID = PDS3\nINSTRUMENT_ID = M3\nTARGET_NAME = "MOON"\n'
    for kind, image in (("RFL", cube), ("SUP", extra)):
        entries = image_entries(image, "LINE_INTERLEAVED", INVALID_CONSTANT=-999.0, LINE_DISPLAY_DIRECTION="DOWN")
        text += (
            f'OBJECT = {kind}_FILE\n^{kind}_IMAGE = "{base}_V01_{kind}.IMG"\nRECORD_BYTES = 48\nOBJECT = {kind}_IMAGE\n'
            f"{lines(entries)}END_OBJECT = {kind}_IMAGE\nEND_OBJECT = {kind}_FILE\n"
        )
        (folder / f"{base}_V01_{kind}.IMG").write_bytes(stored(image, "bil"))
    (folder / f"{base}_V01_L2.LBL").write_text(f"{text}END\n")
    (folder / f"{base}_V01_RFL.HDR").write_text(
        f"ENVI\nsamples = {shape[1]}\nlines = {shape[0]}\nbands = {shape[2]}\ndata type = 4\ninterleave = bil\n"
        "byte order = 0\nwavelength units = Nanometers\nwavelength = {460.99, 500.92, 540.84}\nbbl = {0, 1, 1}\n"
    )
    place = np.arange(shape[0] * shape[1] * 3.0).reshape(*shape[:2], 3).astype("<f8")
    (folder / f"{base}_V03_LOC.IMG").write_bytes(stored(place, "bil"))
    return folder / f"{base}_V01_L2.LBL", cube, place


@pytest.mark.parametrize("named", ["L2.LBL", "RFL.IMG", "RFL.HDR"])
def test_m3_reflectance(tmp_path, named):
    _, cube, place = m3(tmp_path)
    assert is_pds3(tmp_path / f"M3G20090203T175131_V01_{named}")
    scene = read(tmp_path / f"M3G20090203T175131_V01_{named}")
    np.testing.assert_array_equal(np.asarray(scene.cube), np.where(cube == -999, np.nan, cube))
    np.testing.assert_allclose(scene.axis.centers, [460.99, 500.92, 540.84])
    np.testing.assert_array_equal(scene.good_bands, [False, True, True])
    assert (scene.quantity, scene.stated_nodata) == ("reflectance", -999.0)
    np.testing.assert_array_equal(scene.header["location"]["lon"], place[..., 0])
    np.testing.assert_array_equal(scene.header["location"]["lat"], place[..., 1])
    assert not scene.account.unknown


def test_m3_supplements_are_opened_by_their_file(tmp_path):
    m3(tmp_path)
    with pytest.raises(ValueError, match="no PDS3 label"):
        read(tmp_path / "M3G20090203T175131_V01_SUP.IMG")
    scene = read(tmp_path / "M3G20090203T175131_V01_L2.LBL", keys={"cube": "SUP_IMAGE"})
    assert scene.cube.shape == (ROWS, COLUMNS, 2)
    with pytest.raises(ValueError, match="it has RFL_IMAGE, SUP_IMAGE"):
        read(tmp_path / "M3G20090203T175131_V01_L2.LBL", keys={"cube": "X"})


# TES


def test_tes_wavenumbers():
    single, double = tes_wavenumbers(143), tes_wavenumbers(286)
    assert (single[0], single[1], single[-1]) == (148.1323, 158.7132, 1650.6175)
    assert (double[0], double[1], double[-1]) == (148.1323, 153.4227, 1655.908)
    np.testing.assert_array_equal(double[::2][:143], single)
    with pytest.raises(ValueError, match="got 100"):
        tes_wavenumbers(100)


def test_tes_radiances_behind_pointers(tmp_path):
    rng = np.random.default_rng(0)
    spectra = [(int(e), rng.integers(-30000, 30000, 143)) for e in (-20, -19, 3, -20)]
    spectra.insert(2, None)
    path, values = rad(tmp_path, spectra)
    scene = read(path)
    assert scene.cube.shape == (5, 143)
    np.testing.assert_array_equal(np.asarray(scene.cube)[[0, 1, 3, 4]], values)
    assert np.isnan(np.asarray(scene.cube)[2]).all()
    np.testing.assert_allclose(scene.axis.centers, tes_wavenumbers(143))
    assert (scene.axis.unit, scene.quantity) == ("cm-1", "radiance")
    assert scene.pixel_names[1] == "590000002 detector 2"
    np.testing.assert_array_equal(scene.header["columns"]["DETECTOR_NUMBER"], [1, 2, 3, 4, 5])
    assert not scene.account.unknown
    accounted(scene)
    library = read_pds3_library(path, Reading())
    np.testing.assert_array_equal(library.spectra[0], values[0])
    assert library.names == scene.pixel_names


def test_tes_double_scans_beside_single_ones(tmp_path):
    rng = np.random.default_rng(1)
    spectra = [(-20, rng.integers(1, 30000, n)) for n in (286, 286, 143)]
    path, values = rad(tmp_path, spectra)
    scene = read(path)
    assert scene.cube.shape == (3, 286)
    np.testing.assert_array_equal(np.asarray(scene.cube)[:2], values)
    assert np.isnan(np.asarray(scene.cube)[2]).all()
    assert scene.notes == ("1 of 3 spectra have 143 channels, not 286 as most have: they are left out",)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: b[:-3], "truncated"),
        (lambda b: b"\x01\x21" + b[2:], "half a number"),
        (lambda b: b"", "is empty"),
        (lambda b: b[:1], "truncated"),
    ],
)
def test_tes_damaged_records(tmp_path, damage, message):
    path, _ = rad(tmp_path, [(-20, np.arange(143)), (-20, np.arange(143))])
    var = tmp_path / "RAD00001.VAR"
    var.write_bytes(damage(var.read_bytes()))
    with pytest.raises(ValueError, match=message):
        read(path)
    var.unlink()
    with pytest.raises(FileNotFoundError, match=r"RAD00001\.VAR"):
        read(path)


def test_tes_pointers_that_meet_are_refused(tmp_path):
    """A small file of pointers to one record would otherwise become as large as one likes."""
    path, _ = rad(tmp_path, [(-20, np.arange(143))] * 3)
    content = bytearray(path.read_bytes())
    for row in range(3):
        content[40 * 13 + row * 13 + 9 : 40 * 13 + row * 13 + 13] = bytes(4)
    path.write_bytes(content)
    var = tmp_path / "RAD00001.VAR"
    var.write_bytes(var.read_bytes()[: 2 * 290])
    with pytest.raises(ValueError, match="overlap"):
        read(path)


def test_structures_are_not_followed_further(tmp_path):
    path, _ = rad(tmp_path, [(-20, np.arange(143))])
    fmt = tmp_path / "RAD.FMT"
    fmt.write_text(fmt.read_text() + '^STRUCTURE = "RAD.FMT"\n')
    with pytest.raises(ValueError, match=r"RAD\.FMT points to a further file"):
        read(path)
    fmt.unlink()
    with pytest.raises(FileNotFoundError, match=r"RAD\.FMT"):
        read(path)
    path.write_bytes(path.read_bytes().replace(b'"RAD.FMT"', b'"../A.FMT"')[:-1] + b"\0")
    with pytest.raises(ValueError, match="in its own folder"):
        read(path)


def table(folder, body, columns, rows, width, **top):
    """A detached label of a table, and the table."""
    (folder / "T.TAB").write_bytes(body)
    head = {"PDS_VERSION_ID": "PDS3", "RECORD_BYTES": width, "^TABLE": '"T.TAB"', **top}
    text = lines(head).replace("  ", "") + "OBJECT = TABLE\n"
    text += lines({"ROWS": rows, "ROW_BYTES": width, "INTERCHANGE_FORMAT": top.get("FORM", "BINARY")})
    (folder / "T.LBL").write_text(f"{text}{columns}END_OBJECT = TABLE\nEND\n")
    return folder / "T.LBL"


def test_spectra_in_the_rows_of_a_table(tmp_path):
    values = np.random.default_rng(2).uniform(0.8, 1, (4, 143)).astype(">f4")
    values[1, 5] = -1.0
    body = b"".join(bytes([i]) + row.tobytes() for i, row in enumerate(values))
    columns = tes_column("QUALITY", 1, 1) + tes_column(
        "EMISSIVITY",
        2,
        143 * 4,
        "IEEE_REAL",
        ITEMS=143,
        ITEM_BYTES=4,
        SCALING_FACTOR=2.0,
        OFFSET=0.5,
        MISSING_CONSTANT=-1.0,
    )
    path = table(tmp_path, body, columns, 4, 573, INSTRUMENT_ID="TES")
    scene = read(path)
    expected = np.where(values == -1, np.nan, values.astype("f8") * 2 + 0.5)
    np.testing.assert_allclose(np.asarray(scene.cube), expected, rtol=1e-6)
    assert (scene.quantity, scene.axis.unit) == ("emissivity", "cm-1")
    np.testing.assert_array_equal(np.asarray(read(path, scale=1.0, nodata="none").cube), values)
    two = columns + tes_column("RADIANCE", 2, 143 * 4, "IEEE_REAL", ITEMS=143, ITEM_BYTES=4)
    path = table(tmp_path, body, two, 4, 573, INSTRUMENT_ID="TES")
    with pytest.raises(ValueError, match="EMISSIVITY, RADIANCE all hold spectra"):
        read(path)
    assert read(path, keys={"cube": "radiance"}).quantity == "radiance"


def test_tables_with_a_column_of_wavelengths_are_libraries(tmp_path):
    rows = [(0.4365, 0.1, 0.2, 0.01), (1.0, 0.3, 65535.0, 0.01), (2.5, 0.5, 0.6, 0.01)]
    body = "".join(f"{a:10.4f},{b:10.4f},{c:10.3f},{d:10.4f}\r\n" for a, b, c, d in rows).encode()
    columns = (
        tes_column("WAVELENGTH", 1, 10, "ASCII_REAL", UNIT="MICROMETERS")
        + tes_column("CORRECTED_I_OVER_F", 12, 10, "ASCII_REAL")
        + tes_column("RATIO", 23, 10, "ASCII_REAL")
        + tes_column("ERROR", 34, 10, "ASCII_REAL")
    )
    path = table(tmp_path, body, columns, 3, 45, INSTRUMENT_ID="CRISM", FORM="ASCII")
    library = read_pds3_library(path, Reading())
    assert library.names == ("CORRECTED_I_OVER_F", "RATIO")
    np.testing.assert_allclose(library.spectra, [[0.1, 0.3, 0.5], [0.2, np.nan, 0.6]], rtol=1e-6)
    np.testing.assert_allclose(library.axis.centers, [436.5, 1000, 2500])
    assert library.notes == ("columns ERROR are errors, not spectra: they are left out",)
    (tmp_path / "T.TAB").write_bytes(body.replace(b"0.3000", b"abcdef"))
    with pytest.raises(ValueError, match=r"column CORRECTED_I_OVER_F: 'abcdef' is no number"):
        read_pds3_library(path, Reading())
    (tmp_path / "T.TAB").write_bytes(body[:-9])
    with pytest.raises(ValueError, match="truncated"):
        read_pds3_library(path, Reading())


# Refusals


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"SAMPLE_TYPE": "VAX_REAL"}, "SAMPLE_TYPE VAX_REAL"),
        ({"SAMPLE_TYPE": "VAXG_REAL", "SAMPLE_BITS": 64}, "SAMPLE_TYPE VAXG_REAL"),
        ({"SAMPLE_TYPE": "COMPLEX", "SAMPLE_BITS": 64}, "SAMPLE_TYPE COMPLEX"),
        ({"SAMPLE_TYPE": "CHARACTER"}, "SAMPLE_TYPE CHARACTER"),
        ({"SAMPLE_TYPE": "N/A"}, "SAMPLE_TYPE is missing"),
        ({"SAMPLE_BITS": 12}, "SAMPLE_BITS 12"),
        ({"SAMPLE_BITS": 16}, "does not exist with 2 bytes"),
        ({"SAMPLE_BITS": "(32, 32)"}, "SAMPLE_BITS must be a finite number"),
        ({"LINES": 0}, "no such size"),
        ({"LINES": -5}, "LINES must be a whole number"),
        ({"LINES": 5.5}, "LINES must be a whole number"),
        ({"LINES": "1E400"}, "LINES must be a finite number"),
        ({"LINES": 6}, "truncated"),
        ({"LINE_SAMPLES": 2_000_000_000, "LINES": 2_000_000_000}, "truncated"),
        ({"BANDS": 99999999999999}, "no such size"),
        ({"BAND_STORAGE_TYPE": "COLUMN"}, "BAND_STORAGE_TYPE COLUMN.*--interleave"),
        ({"BAND_STORAGE_TYPE": "N/A"}, "BAND_STORAGE_TYPE is missing.*--interleave"),
        ({"ENCODING_TYPE": "HUFFMAN"}, "ENCODING_TYPE HUFFMAN"),
        ({"MISSING_CONSTANT": "twelve"}, "MISSING_CONSTANT must be a finite number.*--nodata"),
        ({"MISSING_CONSTANT": "16#XY#"}, "MISSING_CONSTANT must be a number.*--nodata"),
        ({"SCALING_FACTOR": 0}, "SCALING_FACTOR is zero.*--scale"),
        ({"OFFSET": "NAN"}, "OFFSET must be a finite number.*--offset"),
    ],
)
def test_entries_that_are_refused(tmp_path, entries, message):
    cube = cube_of("<f4")
    path = pds3(tmp_path / "A.LBL", stored(cube, "bsq"), {**image_entries(cube), **entries})
    with pytest.raises(ValueError, match=message) as caught:
        read(path)
    assert str(tmp_path / "A") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        '"../A.IMG"',
        '"/etc/passwd"',
        '"a/b.img"',
        '"C:A.IMG"',
        r'"..\A.IMG"',
        '".."',
        '""',
        '("../x.img", 2)',
        '"A.LBL"',
    ],
)
def test_pointers_out_of_the_folder_are_refused(tmp_path, name):
    cube = cube_of("<f4")
    path = pds3(tmp_path / "A.LBL", stored(cube, "bsq"), image_entries(cube), pointer=name)
    with pytest.raises(ValueError, match=r"in its own folder|the label itself|points to nothing"):
        read(path)


def test_pointers_to_what_is_not_there(tmp_path):
    cube = cube_of("<f4")
    path = pds3(tmp_path / "A.LBL", stored(cube, "bsq"), image_entries(cube), pointer='"B.IMG"')
    with pytest.raises(FileNotFoundError, match=r"\^IMAGE names B\.IMG"):
        read(path)
    path = pds3(tmp_path / "A.LBL", stored(cube, "bsq"), image_entries(cube), pointer='"A.IMG.GZ"')
    with pytest.raises(ValueError, match="unpack it first"):
        read(path)


def test_entries_that_stand_twice(tmp_path):
    cube = cube_of("<f4")
    inside = "  LINES = 5\n  BANDS = 4\n"
    path = pds3(tmp_path / "A.LBL", stored(cube, "bsq"), image_entries(cube), inside=inside)
    with pytest.raises(ValueError, match="BANDS stands twice"):
        read(path)


def test_entries_that_are_not_understood_are_listed(tmp_path):
    cube = cube_of("<f4")
    more = {
        "MRO:RADIANCE_OFFSET_TABLE": "5",
        "MRO:INVALID_PIXELS": "{\n}",
        "NOTE": '"text"',
        "START_TIME": "2010-04-05T18:15:55.134",
    }
    path = pds3(tmp_path / "A.LBL", stored(cube, "bsq"), image_entries(cube, WARP_FACTOR=9), top=more)
    scene = read(path)
    assert set(scene.account.unknown) == {"MRO:RADIANCE_OFFSET_TABLE", "IMAGE.WARP_FACTOR"}
    assert {"NOTE", "START_TIME", "PDS_VERSION_ID"} <= set(scene.account.carried)
    accounted(scene)


@pytest.mark.parametrize(
    "text",
    [
        "A = (" * 5000,
        "A = ((((((((((((((((1))))))))))))))))\nEND\n",
        "OBJECT = A\n" * 5000,
        "END_OBJECT = A\nEND\n",
        'A = "never closed\n' * 1001,
        "A = <x",
        "/* no end",
        "A =",
        "A = )\nEND",
        "= 5\nEND",
        "A B C\nEND",
        "x" * 1_000_000 + " = 1\nEND\n",
        "A = 1\n" * 3 + "OBJECT = " + "y" * 5000 + "\nEND_OBJECT\nEND\n",
        "A = 'x",
        "\x00\x01\x02\xff" * 1000,
    ],
)
def test_damaged_labels_are_refused(tmp_path, text):
    path = tmp_path / "A.LBL"
    path.write_text(f"PDS_VERSION_ID = PDS3\n{text}", encoding="latin-1")
    with pytest.raises(ValueError, match="label") as caught:
        read(path)
    assert len(str(caught.value)) < 600


def test_labels_have_limits(tmp_path, monkeypatch):
    path = tmp_path / "A.LBL"
    monkeypatch.setattr("unmix_jax.scenes.readers.planetary.odl.MOST_ENTRIES", 100)
    monkeypatch.setattr("unmix_jax.scenes.readers.planetary.odl.MOST_TOKENS", 500)
    for text in ("".join(f"K{i} = 1\n" for i in range(101)), f"A = ({'1,' * 250}1)\n"):
        path.write_text(f"PDS_VERSION_ID = PDS3\n{text}END\n")
        with pytest.raises(ValueError, match="more than"):
            read(path)


def test_a_file_cut_at_any_byte_is_refused(tmp_path):
    cube = cube_of("<f4")
    whole = attached(tmp_path / "A.IMG", stored(cube, "bsq"), image_entries(cube)).read_bytes()
    path = tmp_path / "B.IMG"
    for length in [*range(0, 2048, 61), *range(2048, len(whole), 17), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises((ValueError, OSError), match=r"B\.IMG|B"):
            read(path)
    path.write_bytes(whole + b"more")
    np.testing.assert_array_equal(np.asarray(read(path).cube), cube)


def test_what_a_label_can_hold():
    text = (
        '/* comment */ PDS_VERSION_ID = PDS3\r\nNOTE = "two\r\n   lines"\n# another comment\n'
        "LIST = (1.5 <KM>, 2 <KM>)\nSET = {A, 'B C'}\nEMPTY = {\n}\nBITS = 16#FF7FFFFB#\n"
        "NEST = ((1, 2), (3, 4))\nTIME = 2010-04-05T18:15:55.134\nGROUP = G\n"
        ' X = "NULL" <KM>\n MRO:Y = -64.507\nEND_GROUP = G\nObject = G\n Z = 1;\nEnd_Object\nEND\nJUNK \xff ((('
    )
    root, ended = parse_label(text)
    assert ended
    entries = {name: value.content for name, value in root.entries.items()}
    assert entries == {
        "PDS_VERSION_ID": "PDS3", "NOTE": "two lines", "LIST": ["1.5", "2"], "SET": ["A", "B C"], "EMPTY": [],
        "BITS": "16#FF7FFFFB#", "NEST": [["1", "2"], ["3", "4"]], "TIME": "2010-04-05T18:15:55.134",
    }  # fmt: skip
    assert root.entries["LIST"].unit == "KM"
    assert [block.path for block in root.blocks] == ["G", "G 2"]
    assert root.blocks[0].entries["X"] == ("NULL", "KM")
    assert root.blocks[1].entries["Z"].content == "1"
