"""GeoTIFFs: numbers, wavelengths, bands and place as GDAL says them; nothing but the file itself is opened."""

import shutil
import struct
import warnings

import numpy as np
import pytest
import rasterio
from helpers import assert_close
from rasterio.enums import ColorInterp

from unmix_jax.scenes.georeference import place_in_words, place_note
from unmix_jax.scenes.readers import read_scene

ROWS, COLUMNS, BANDS = 5, 4, 3
CUBE = np.random.default_rng(0).uniform(0.1, 0.9, (ROWS, COLUMNS, BANDS)).astype("f4")
NM = [450.0, 650.5, 2200.25]
VRT = (
    '<VRTDataset rasterXSize="4" rasterYSize="5"><VRTRasterBand dataType="Float32" band="1"><SimpleSource>'
    '<SourceFilename relativeToVRT="1">{}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>'
    "</VRTDataset>"
)


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def tif(path, cube=CUBE, *, bands=None, tags=None, names=None, masked=None, change=None, **options):
    """A GeoTIFF: tags of bands as lists, of the file as texts."""
    height, width, count = cube.shape
    profile = {"driver": "GTiff", "height": height, "width": width, "count": count, "dtype": cube.dtype}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", **(profile | options)) as file,
    ):
        file.write(np.moveaxis(cube, -1, 0))
        file.update_tags(**(tags or {}))
        for name, values in (bands or {}).items():
            for i, value in enumerate(values, 1):
                domain, _, key = name.rpartition(":")
                if value is not None:
                    file.update_tags(i, ns=domain or None, **{key: value})
        if names:
            file.descriptions = names
        if masked is not None:
            file.write_mask(masked)
        if change:
            change(file)
    return path


def header(path, shape=CUBE.shape, extra=""):
    """An ENVI header beside an image."""
    lines, samples, bands = shape
    path.write_text(
        f"ENVI\nsamples = {samples}\nlines = {lines}\nbands = {bands}\nheader offset = 0\nfile type = TIFF\n"
        f"data type = 4\ninterleave = bsq\nbyte order = 0\n{extra}",
        encoding="utf-8",
    )


# Numbers


@pytest.mark.parametrize("kind", ["u1", "i2", "u2", "i4", "u4", "f4", "f8"])
def test_scales_and_offsets_of_each_band(tmp_path, kind):
    stored = (CUBE * 100).astype(kind)

    def scale(file):
        file.scales, file.offsets = (0.5, 0.01, 1.0), (0.0, -1.0, 2.5)

    scene = read_scene(tif(tmp_path / "a.tif", stored, change=scale, nodata=7))
    expected = np.where(stored == 7, np.nan, stored * np.array([0.5, 0.01, 1.0]) + np.array([0.0, -1.0, 2.5]))
    assert_close(np.asarray(scene.cube), expected.astype("f8" if kind == "f8" else "f4"))
    assert scene.stated_nodata == 7
    with rasterio.open(tmp_path / "a.tif") as file:  # GDAL's own reading
        unscaled = np.stack([file.read(i + 1) * file.scales[i] + file.offsets[i] for i in range(BANDS)], -1)
    assert_close(np.asarray(scene.cube)[stored != 7], unscaled[stored != 7].astype("f4"))


def test_one_scale_for_all_divides(tmp_path):
    stored = np.round(CUBE * 10000).astype("i2")
    path = tif(tmp_path / "a.tif", stored, change=lambda file: setattr(file, "scales", (1e-4,) * BANDS))
    np.testing.assert_array_equal(read_scene(path).cube, stored.astype("f4") / np.float32(10000))
    np.testing.assert_array_equal(read_scene(path, scale=1).cube, stored)


def test_a_scale_of_zero_is_refused_unless_the_user_gives_one(tmp_path):
    path = tif(tmp_path / "a.tif", change=lambda file: setattr(file, "scales", (1.0, 0.0, 1.0)))
    with pytest.raises(ValueError, match=r"scale must be a number other than zero.*--scale"):
        read_scene(path)
    np.testing.assert_array_equal(read_scene(path, scale=1).cube, CUBE)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_values_are_refused(tmp_path, dtype):
    with pytest.raises(ValueError, match="not real numbers"):
        read_scene(tif(tmp_path / "a.tif", CUBE.astype(dtype)))


@pytest.mark.parametrize(
    "options",
    [
        {"tiled": True, "blockxsize": 16, "blockysize": 16}, {"BIGTIFF": "YES"}, {"ENDIANNESS": "BIG"},
        {"interleave": "band"}, {"interleave": "pixel"}, {"compress": "deflate", "predictor": 3},
        {"compress": "lzw"}, {"driver": "COG"}, {"SPARSE_OK": "TRUE"},
    ],
    ids=str,
)  # fmt: skip
def test_layouts(tmp_path, options):
    def overviews(file):
        file.build_overviews([2])

    change = None if "driver" in options else overviews
    scene = read_scene(tif(tmp_path / "a.tif", change=change, nodata=-1, crs="EPSG:32611", **options))
    np.testing.assert_array_equal(scene.cube, CUBE)
    np.testing.assert_array_equal(scene.cube[1:4, 2], CUBE[1:4, 2])


def test_a_damaged_file_says_where(tmp_path):
    path = tif(tmp_path / "a.tif", np.tile(CUBE, (50, 50, 1)), compress="deflate")
    content = bytearray(path.read_bytes())
    content[len(content) // 4 : 3 * len(content) // 4] = bytes(len(content) // 4 * 2)
    path.write_bytes(content)
    with pytest.raises((OSError, ValueError), match=r"a\.tif"):
        np.asarray(read_scene(path).cube)


def test_rows_that_no_memory_can_hold_are_refused(tmp_path):
    """A few hundred bytes declare 65 535 bands of 100 000 columns."""
    path = tmp_path / "a.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=2_000_000, height=5, count=400, dtype="float32", SPARSE_OK="TRUE",
        blockysize=1, interleave="band",
    ):  # fmt: skip
        pass
    with pytest.raises(ValueError, match=r"a\.tif.*GiB, more than can be read"):
        read_scene(path)


# Wavelengths, widths, bad bands


WAVELENGTHS = {
    "tags": {"bands": {"wavelength": NM, "wavelength_units": ["Nanometers"] * 3}},
    "capitals": {"bands": {"Wavelength": NM, "Wavelength Units": ["nm"] * 3}},
    "µm": {"bands": {"wavelength": [0.45, 0.6505, 2.20025], "wavelength_units": ["Micrometers"] * 3}},
    "unit in the value": {"bands": {"wavelength": ["450 nm", "650.5 nm", "2200.25 nm"]}},
    "unit in the name": {"bands": {"center_wavelength_um": [0.45, 0.6505, 2.20025]}},
    "unit of the file": {"bands": {"wavelength": NM}, "tags": {"wavelength_units": "Nanometers"}},
    "GDAL": {"bands": {"IMAGERY:CENTRAL_WAVELENGTH_UM": [0.45, 0.6505, 2.20025]}},
    "list": {"tags": {"wavelength": "{450.0, 650.5, 2200.25}", "wavelength_units": "nm"}},
    "names": {"names": ("Band 1 (450.0 Nanometers)", "Band 2 (650.5 Nanometers)", "Band 3 (2200.25 Nanometers)")},
    "short names": {"names": ("450 nm", "650.5 nm", "2200.25 nm")},
    "names in µm": {"names": ("0.45 Micrometers", "0.6505 Micrometers", "2.20025 Micrometers")},
    "names with a word": {"names": ("wavelength=450 nm", "wavelength=650.5 nm", "wavelength=2200.25 nm")},
}


@pytest.mark.parametrize("way", WAVELENGTHS)
def test_wavelengths(tmp_path, way):
    scene = read_scene(tif(tmp_path / "a.tif", **WAVELENGTHS[way]))
    np.testing.assert_allclose(scene.axis.centers, NM, rtol=1e-9)
    assert scene.axis.unit == "nm"
    assert not scene.account.unknown
    stated = "um" if "0.6505" in str(WAVELENGTHS[way]) else "nm"
    assert read_scene(tmp_path / "a.tif", unit=stated).axis.unit == "nm"
    with pytest.raises(ValueError, match=r"states that its axis is in (nm|um), --unit says cm-1"):
        read_scene(tmp_path / "a.tif", unit="cm-1")
    assert read_scene(tmp_path / "a.tif", unit="cm-1", force_unit=True).axis.unit == "cm-1"


@pytest.mark.parametrize(
    ("options", "note"),
    [
        ({"names": ("Band 1", "Band 2", "Band 3")}, ""),
        ({"names": ("B 450", "B 650", "B 2200")}, ""),
        ({"names": ("450 nm", "650 nm", "thermal")}, ""),
        ({"bands": {"wavelength": [450, None, 650]}}, "Some bands have a wavelength"),
        ({"tags": {"wavelength": "{1, 2}"}}, "lists 2 values for 3 bands"),
    ],
)
def test_what_is_not_unmistakable_is_no_wavelength(tmp_path, options, note):
    scene = read_scene(tif(tmp_path / "a.tif", **options))
    assert scene.axis is None
    assert note in " ".join(scene.notes)


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        ({"wavelength": ["red", "450", "650"]}, "wavelength is not a number .'red'"),
        ({"wavelength": NM, "wavelength_units": ["nm", "um", "nm"]}, "differs from band to band"),
        ({"wavelength": ["450 nm", "650 um", "700"]}, "unit of wavelength differs"),
        ({"wavelength": NM, "wavelength_units": ["parsec"] * 3}, "'parsec' is not one of"),
        ({"wavelength": [-450, 650, 700], "wavelength_units": ["nm"] * 3}, "finite and positive"),
        ({"bbl": ["good", "1", "1"]}, "bbl must be 0 or 1"),
        ({"wavelength_nm": NM, "fwhm_cm1": [10] * 3}, "wavelengths are in nm, their widths in cm-1"),
    ],
)
def test_tags_that_cannot_be_honoured(tmp_path, bands, message):
    with pytest.raises(ValueError, match=message):
        read_scene(tif(tmp_path / "a.tif", bands=bands))


@pytest.mark.parametrize(
    "bands",
    [
        {"wavelength": NM, "wavelength_units": ["nm"] * 3, "fwhm": [9, 10.5, 11]},
        {"wavelength_um": [0.45, 0.6505, 2.20025], "fwhm_nm": [9, 10.5, 11]},
        {"wavelength": NM, "wavelength_units": ["nm"] * 3, "bandwidth": ["9 nm", "10.5 nm", "11 nm"]},
        {"IMAGERY:CENTRAL_WAVELENGTH_UM": [0.45, 0.6505, 2.20025], "IMAGERY:FWHM_UM": [0.009, 0.0105, 0.011]},
    ],
    ids=str,
)
def test_widths(tmp_path, bands):
    scene = read_scene(tif(tmp_path / "a.tif", bands=bands))
    np.testing.assert_allclose(scene.axis.fwhm, [9, 10.5, 11], rtol=1e-9)
    assert not scene.account.unknown


@pytest.mark.parametrize(
    "options",
    [
        {"bands": {"bbl": [1, 0, 1]}}, {"bands": {"BBL": ["1.0", "0.0", "1.0"]}}, {"bands": {"bad band": [0, 1, 0]}},
        {"bands": {"bad_band": [None, "true", None]}}, {"bands": {"good_wavelengths": [1, 0, 1]}},
        {"tags": {"bbl": "{1, 0, 1}"}}, {"tags": {"good_wavelengths": "1, 0, 1"}},
    ],
    ids=str,
)  # fmt: skip
def test_bad_bands(tmp_path, options):
    scene = read_scene(tif(tmp_path / "a.tif", **options))
    np.testing.assert_array_equal(scene.good_bands, [True, False, True])
    assert not scene.account.unknown


def test_quantities(tmp_path):
    assert read_scene(tif(tmp_path / "a.tif")).quantity == "value"
    assert read_scene(tif(tmp_path / "b.tif", tags={"quantity": "Surface Reflectance"})).quantity == "reflectance"
    path = tif(tmp_path / "c.tif", change=lambda file: setattr(file, "units", ("emissivity",) * 3))
    assert read_scene(path).quantity == "emissivity"


def test_every_tag_is_accounted_for(tmp_path):
    bands = {"wavelength": NM, "wavelength_units": ["nm"] * 3, "STATISTICS_MEAN": [1, 2, 3], "odd": ["a", "b", "c"]}
    tags = {"strange": "1", "TIFFTAG_SOFTWARE": "x", "AREA_OR_POINT": "Area", "map info": "UTM", "crs": "EPSG:1"}
    scene = read_scene(tif(tmp_path / "a.tif", bands=bands, tags=tags))
    assert set(scene.account.unknown) == {"strange", "odd (bands)", "map info", "crs"}
    assert {"wavelength (bands)", "wavelength_units (bands)"} <= set(scene.account.used)
    assert {"TIFFTAG_SOFTWARE", "statistics_mean (bands)"} <= set(scene.account.carried)
    assert place_in_words(scene) == "none"  # tags of such names are no place
    assert scene.header["strange"] == "1"


# Bands that are no measurements


def test_transparency_is_left_out_and_marks_pixels(tmp_path):
    values = np.concatenate([CUBE * 200, np.full((ROWS, COLUMNS, 1), 255.0)], -1).astype("u1")
    values[1, 2, 3] = 0
    scene = read_scene(
        tif(tmp_path / "a.tif", values, change=lambda f: setattr(f, "colorinterp", [*[ColorInterp.gray] * 3, ALPHA]))
    )
    np.testing.assert_array_equal(scene.cube, values[..., :3])
    assert np.argwhere(~scene.mask).tolist() == [[1, 2]]
    assert any("Band 4 is one of transparency" in note for note in scene.notes)


ALPHA = ColorInterp.alpha


def test_a_fourth_band_that_gdal_takes_for_transparency_stays(tmp_path):
    """GDAL marks the fourth band of every 8-bit image of four so; here it is near infrared."""
    values = np.random.default_rng(1).integers(2, 250, (ROWS, COLUMNS, 4)).astype("u1")
    path = tif(tmp_path / "a.tif", values)
    with rasterio.open(path) as file:
        assert file.colorinterp[3] == ALPHA
    scene = read_scene(path)
    assert scene.cube.shape == (ROWS, COLUMNS, 4)
    assert any("holds measurements" in note for note in scene.notes)


def test_a_last_band_that_is_named_a_mask_is_left_out(tmp_path):
    scene = read_scene(tif(tmp_path / "a.tif", names=("450 nm", "650 nm", "nodata mask")))
    assert scene.cube.shape == (ROWS, COLUMNS, 2)
    np.testing.assert_allclose(scene.axis.centers, [450, 650])
    assert any("'nodata mask'" in note for note in scene.notes)


def test_a_mask_inside_the_file_marks_pixels(tmp_path, monkeypatch):
    valid = np.ones((ROWS, COLUMNS), bool)
    valid[3, 1] = False
    path = tif(tmp_path / "a.tif", masked=valid)
    assert not (tmp_path / "a.tif.msk").exists()
    np.testing.assert_array_equal(read_scene(path).mask, valid)
    np.testing.assert_array_equal(read_scene(path, rows=(2, 5)).mask, valid[2:])
    monkeypatch.setattr("unmix_jax.scenes.readers.geotiff.MASK_BYTES", 1)
    scene = read_scene(path)
    assert scene.mask is None
    assert any("mask inside the file is not applied" in note for note in scene.notes)


# Place


def test_a_file_that_lies_nowhere_says_so(tmp_path):
    scene = read_scene(tif(tmp_path / "a.tif"))
    assert {"crs", "transform"} & set(scene.header) == set()
    assert place_note(scene) is None


def test_points_of_known_place_are_not_applied(tmp_path):
    from rasterio.control import GroundControlPoint

    points = [GroundControlPoint(r, c, 10 + c, 50 - r) for r, c in ((0, 0), (0, 4), (5, 0), (5, 4))]

    def place(file):
        file.gcps = points, rasterio.crs.CRS.from_epsg(4326)

    scene = read_scene(tif(tmp_path / "a.tif", change=place), rows=(1, 5))
    assert scene.header["gcps"][3] == (4.0, 4.0, 14.0, 45.0)
    assert "4 ground control points, which are not applied" in place_note(scene)
    assert place_in_words(scene) == "4 ground control points, not applied"


@pytest.mark.parametrize("end", ["tfw", "wld", "TFW", "tifw"])
@pytest.mark.parametrize("turned", [False, True])
def test_world_files(tmp_path, end, turned):
    path = tif(tmp_path / "a.tif")
    lines = ["30", "5" if turned else "0", "4" if turned else "0", "-20", "400015", "4000010.5"]
    (tmp_path / f"a.{end}").write_text("\n".join(lines) + "\n", encoding="ascii")
    found = read_scene(path).header["transform"]
    (tmp_path / f"a.{end}").rename(tmp_path / "a.tfw")
    with rasterio.open(path) as file:
        np.testing.assert_allclose(found, tuple(file.transform)[:6], rtol=1e-12)
    (tmp_path / "a.tfw").write_text("no numbers", encoding="ascii")
    scene = read_scene(path)
    assert "transform" not in scene.header
    assert any("a.tfw beside the file is not a world file" in note for note in scene.notes)


# Nothing but the file


@pytest.mark.parametrize("target", ["secret.tif", "/vsicurl/http://127.0.0.1:9/a.tif", "http://127.0.0.1:9/a.tif"])
def test_a_tif_that_is_a_vrt_is_refused(tmp_path, target):
    tif(tmp_path / "secret.tif")
    (tmp_path / "a.tif").write_text(VRT.format(target), encoding="ascii")
    if target == "secret.tif":
        with rasterio.open(tmp_path / "a.tif") as file:  # GDAL goes by content
            np.testing.assert_array_equal(file.read(1), CUBE[..., 0])
    with pytest.raises(ValueError, match=r"a\.tif is not a readable GeoTIFF") as caught:
        read_scene(tmp_path / "a.tif")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("driver", ["PNG", "ENVI", "HFA"])
def test_other_rasters_are_refused(tmp_path, driver):
    with rasterio.open(tmp_path / "a.img", "w", driver=driver, width=4, height=5, count=1, dtype="uint8") as file:
        file.write(np.ones((1, 5, 4), "u1"))
    shutil.copy(tmp_path / "a.img", tmp_path / "b.tif")
    with pytest.raises(ValueError, match=r"b\.tif is not a readable GeoTIFF"):
        read_scene(tmp_path / "b.tif")


@pytest.mark.parametrize("name", ["a b.tif", "a!b.tif", "a?b=1.tif", "GTIFF_DIR:1:a.tif", "zip+http:a.tif", "ä.tif"])
def test_names_are_names(tmp_path, name):
    np.testing.assert_array_equal(read_scene(tif(tmp_path / "x.tif").rename(tmp_path / name)).cube, CUBE)


def test_virtual_files_of_gdal_are_refused():
    from pathlib import Path

    from unmix_jax.scenes.readers.geotiff import read_geotiff
    from unmix_jax.scenes.reading import Reading

    with pytest.raises(ValueError, match="'vsimem' cannot be opened"):
        read_geotiff(Path("/vsimem/a.tif"), Reading())


PAM = "<PAMDataset>{}</PAMDataset>"
BAND = '<PAMRasterBand band="2">{}</PAMRasterBand>'


def test_what_gdal_keeps_beside_a_file_is_read(tmp_path):
    path = tif(tmp_path / "a.tif", CUBE * 0 + 3)
    (tmp_path / "a.tif.aux.xml").write_text(
        PAM.format(
            "<SRS>EPSG:32611</SRS><GeoTransform> 400000, 30, 0, 4000000, 0, -20</GeoTransform>"
            '<Metadata><MDI key="quantity">reflectance</MDI></Metadata>'
            + "".join(
                f'<PAMRasterBand band="{i}"><Description>Band {i}</Description><Scale>{i}</Scale><Offset>0.5</Offset>'
                f'<NoDataValue>-{i}</NoDataValue><Metadata><MDI key="wavelength">{nm}</MDI>'
                '<MDI key="wavelength_units">nm</MDI></Metadata></PAMRasterBand>'
                for i, nm in enumerate(NM, 1)
            )
        ),
        encoding="utf-8",
    )
    scene = read_scene(path)
    with rasterio.open(path) as file:  # as GDAL
        np.testing.assert_allclose(scene.header["transform"], tuple(file.transform)[:6])
        assert file.crs.to_epsg() == 32611
        np.testing.assert_allclose(scene.cube[0, 0], 3 * np.asarray(file.scales) + np.asarray(file.offsets))
        assert scene.header["band names"] == list(file.descriptions)
    assert "EPSG:32611" in place_in_words(scene)
    np.testing.assert_allclose(scene.axis.centers, NM)
    assert scene.quantity == "reflectance"
    assert not scene.account.unknown


@pytest.mark.parametrize(
    "content",
    [
        '<!DOCTYPE a [<!ENTITY b SYSTEM "secret.txt">]><PAMDataset><SRS>&b;</SRS></PAMDataset>',
        '<!DOCTYPE a [<!ENTITY b "cc"><!ENTITY d "&b;&b;">]><PAMDataset><SRS>&d;</SRS></PAMDataset>',
        "<PAMDataset>", "", "\x00\x01",
        PAM.format("<GeoTransform>1, 2, three</GeoTransform>"),
    ],
)  # fmt: skip
def test_a_bad_sidecar_is_left_out_and_told(tmp_path, content):
    path = tif(tmp_path / "a.tif", crs="EPSG:32611", transform=rasterio.Affine(30, 0, 4e5, 0, -30, 4e6))
    (tmp_path / "a.tif.aux.xml").write_text(content, encoding="utf-8")
    scene = read_scene(path)
    assert any("a.tif.aux.xml" in note for note in scene.notes)
    assert "EPSG:32611" in place_in_words(scene)


def test_a_sidecar_that_scales_by_no_number_is_refused(tmp_path):
    path = tif(tmp_path / "a.tif")
    (tmp_path / "a.tif.aux.xml").write_text(PAM.format(BAND.format("<Scale>much</Scale>")), encoding="utf-8")
    with pytest.raises(ValueError, match="band 2: Scale must be a number, got 'much'"):
        read_scene(path)


def test_sidecars_lead_nowhere(tmp_path):
    """Overviews and masks that are other rasters, by the sidecar, by a tag inside, or by their names."""
    path = tif(tmp_path / "a.tif")
    tif(tmp_path / "secret.tif", CUBE * 0 + 9)
    point = '<Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">secret.tif</MDI></Metadata>'
    (tmp_path / "a.tif.aux.xml").write_text(PAM.format(point), encoding="utf-8")
    for end in ("msk", "ovr"):
        (tmp_path / f"a.tif.{end}").write_text(VRT.format("secret.tif"), encoding="ascii")
    with rasterio.open(path) as file:
        assert any("secret.tif" in name for name in file.files)  # which GDAL does open
    scene = read_scene(path)
    assert scene.cube.source._raster.files == [str(path)]
    assert scene.mask is None
    np.testing.assert_array_equal(scene.cube, CUBE)
    assert not any("OVERVIEW" in name for name in (*scene.account.unknown, *scene.account.used))


# An ENVI header beside


def test_a_header_beside_supplies_what_is_lacking(tmp_path):
    stored = (CUBE * 100).astype("i2")
    path = tif(tmp_path / "a.tif", stored)
    header(
        tmp_path / "a.hdr",
        extra="wavelength = {450, 650.5, 2200.25}\nwavelength units = Nanometers\nfwhm = {9, 10.5, 11}\n"
        "bbl = {1, 0, 1}\n"
        "data ignore value = 50\ndata gain values = {0.1, 0.2, 0.3}\ndata offset values = {1, 2, 3}\n"
        "band names = {a, b, c}\nmap info = {UTM, 1, 1, 5e5, 4.1e6, 30, 30, 12, North, WGS-84}\nodd = 1\n",
    )
    for name in ("a.tif", "a.hdr"):
        scene = read_scene(tmp_path / name)
        expected = np.where(stored == 50, np.nan, stored * np.array([0.1, 0.2, 0.3]) + np.array([1, 2, 3]))
        assert_close(np.asarray(scene.cube), expected.astype("f4"))
        np.testing.assert_allclose(scene.axis.centers, NM)
        np.testing.assert_allclose(scene.axis.fwhm, [9, 10.5, 11])
        np.testing.assert_array_equal(scene.good_bands, [True, False, True])
        assert scene.stated_nodata == 50
        assert "EPSG:32612" in place_in_words(scene)
        assert scene.account.unknown == ("a.hdr: odd",)
        assert scene.header["band names"] == ["a", "b", "c"]
    (tmp_path / "a.hdr").rename(tmp_path / "a.tif.hdr")
    assert read_scene(path).stated_nodata == 50


def test_the_file_stands_above_the_header_beside_it(tmp_path):
    bands = {"wavelength": NM, "wavelength_units": ["nm"] * 3, "bbl": [1, 1, 0]}
    place = {"crs": "EPSG:32611", "transform": rasterio.Affine(30, 0, 4e5, 0, -30, 4e6)}
    path = tif(tmp_path / "a.tif", bands=bands, nodata=-1, names=("x", "y", "z"), **place)
    header(
        tmp_path / "a.hdr",
        extra="wavelength = {1, 2, 3}\nbbl = {0, 1, 1}\ndata ignore value = 50\nband names = {a, b, c}\n"
        "map info = {UTM, 1, 1, 5e5, 4.1e6, 30, 30, 12, North, WGS-84}\n",
    )
    scene = read_scene(path)
    np.testing.assert_allclose(scene.axis.centers, NM)
    np.testing.assert_array_equal(scene.good_bands, [True, True, False])
    assert scene.stated_nodata == -1
    assert "EPSG:32611" in place_in_words(scene)
    assert "map info" not in scene.header
    assert scene.header["band names"] == ["x", "y", "z"]
    assert not scene.account.unknown


@pytest.mark.parametrize("shape", [(5, 4, 2), (4, 5, 3)])
def test_a_header_of_another_size_is_left_out_and_told(tmp_path, shape):
    path = tif(tmp_path / "a.tif")
    header(tmp_path / "a.hdr", shape, "data ignore value = 50\n")
    scene = read_scene(path)
    assert scene.stated_nodata is None
    assert any("a.hdr beside the file is of" in note for note in scene.notes)


def test_a_header_of_another_format_is_none(tmp_path):
    path = tif(tmp_path / "a.tif")
    (tmp_path / "a.hdr").write_text("BYTEORDER I\nLAYOUT BIL\n", encoding="ascii")
    assert read_scene(path).notes == ()


LISTS = "wavelength = {450, 650, 2200, 0.1}\nwavelength units = nm\nbbl = {1,1,0,1}\n"


def test_a_header_that_counts_a_band_of_transparency(tmp_path):
    values = np.concatenate([CUBE * 200, np.full((ROWS, COLUMNS, 1), 255.0)], -1).astype("u1")
    path = tif(tmp_path / "a.tif", values, change=lambda f: setattr(f, "colorinterp", [*[ColorInterp.gray] * 3, ALPHA]))
    header(tmp_path / "a.hdr", values.shape, LISTS)
    scene = read_scene(path)
    np.testing.assert_allclose(scene.axis.centers, [450, 650, 2200])
    np.testing.assert_array_equal(scene.good_bands, [True, True, False])


def test_bigtiff_begins_as_it_should(tmp_path):
    """The layouts above are what they say they are."""
    big = tif(tmp_path / "big.tif", BIGTIFF="YES").read_bytes()[:4]
    turned = tif(tmp_path / "turned.tif", ENDIANNESS="BIG").read_bytes()[:4]
    assert struct.unpack("<2sH", big) == (b"II", 43)
    assert struct.unpack(">2sH", turned) == (b"MM", 42)
