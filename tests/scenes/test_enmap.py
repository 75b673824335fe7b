"""EnMAP products, written here in the layout of DLR's specification."""

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from unmix_jax.scenes.readers.sensors.enmap import is_enmap, read_enmap
from unmix_jax.scenes.reading import Reading, finish

STEM = "ENMAP01-____L2A-DT0000001867_20220724T104526Z_008_V010302_20230628T165614Z"
ROWS, COLUMNS = 5, 7
CENTERS = [418.4, 902.2, 911.4, 906.7, 2445.5]  # the spectrometers overlap
WIDTHS = [6.9, 11.2, 11.3, 12.4, 7.5]
GAINS = [1e-4, 1e-4, 2e-4, 1e-4, 1e-4]
OFFSETS = [0.0, 0.0, 0.0, 0.01, 0.0]
PLACE = Affine(30.0, 0.0, 360000.0, 0.0, -30.0, 5800000.0)


def xml(*, bands=range(5), gains=GAINS, head="", numbers=None, more=""):
    """The metadata, with a few of the entries that a product has."""
    numbers = numbers or [b + 1 for b in bands]
    table = "".join(
        f'<bandID number="{n}"><wavelengthCenterOfBand>{CENTERS[b]}</wavelengthCenterOfBand>'
        f"<FWHMOfBand>{WIDTHS[b]}</FWHMOfBand><GainOfBand>{gains[b]}</GainOfBand>"
        f"<OffsetOfBand>{OFFSETS[b]}</OffsetOfBand></bandID>"
        for n, b in zip(numbers, bands, strict=True)
    )
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>{head}<level_X xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
        "<metadata><name>x</name></metadata><base><level>L2A</level></base><odd><thing>7</thing></odd>"
        f"<specific><mode>nominal</mode>{more}<bandCharacterisation>{table}</bandCharacterisation></specific></level_X>"
    )


def raster(path, values, nodata=None, **options):
    """A GeoTIFF of [band, row, column]."""
    count, height, width = values.shape
    profile = {"crs": "EPSG:32633", "transform": PLACE, "dtype": values.dtype, "nodata": nodata} | options
    with rasterio.open(path, "w", driver="GTiff", count=count, height=height, width=width, **profile) as file:
        file.write(values)


def product(folder, *, stem=STEM, nodata=-32768, layers=None, image="SPECTRAL_IMAGE.TIF", **about):
    """A product with random numbers."""
    values = np.random.default_rng(0).integers(-100, 9000, (5, ROWS, COLUMNS), dtype=np.int16)
    values[:, 0, 0] = -32768
    raster(folder / f"{stem}-{image}", values, nodata)
    for name, flags in (layers or {}).items():
        raster(folder / f"{stem}-QL_{name}.TIF", np.asarray(flags, np.uint8)[None])
    (folder / f"{stem}-METADATA.XML").write_text(xml(**about), encoding="utf-8")
    return values


def layer(**at):
    """Flags of a layer: ``r1c2=3`` sets row 1, column 2."""
    flags = np.zeros((ROWS, COLUMNS), np.uint8)
    for place, flag in at.items():
        flags[int(place[1]), int(place[3])] = flag
    return flags


LAYERS = {
    "QUALITY_CLASSES": layer(r0c0=3, r1c1=1, r1c2=2),
    "QUALITY_CLOUD": layer(r1c3=1),
    "QUALITY_CLOUDSHADOW": layer(r1c4=1),
    "QUALITY_CIRRUS": layer(r2c0=1, r2c1=2, r2c2=3),
    "QUALITY_HAZE": layer(r3c0=1, r3c1=1),
    "QUALITY_SNOW": layer(r3c3=1),
    "QUALITY_TESTFLAGS": layer(r4c0=0b10, r4c1=0b100, r4c2=0b10000, r4c3=0b100000, r4c4=0b1000000),
    "PIXELMASK": layer(r4c6=1),
}


@pytest.mark.parametrize("opened", ["SPECTRAL_IMAGE.TIF", "METADATA.XML"])
def test_image_and_metadata_give_the_same_scene(tmp_path, opened):
    stored = product(tmp_path, layers=LAYERS)
    path = tmp_path / f"{STEM}-{opened}"
    assert is_enmap(path)
    scene = read_enmap(path, Reading())
    np.testing.assert_allclose(scene.axis.centers, CENTERS)
    np.testing.assert_allclose(scene.axis.fwhm, WIDTHS)
    expected = np.moveaxis(stored, 0, -1) * np.array(GAINS) + np.array(OFFSETS)
    expected[0, 0] = np.nan
    np.testing.assert_allclose(scene.cube[...], expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(scene.cube[1:4:2, 2], expected[1:4:2, 2], rtol=1e-5, atol=1e-7)
    assert (scene.quantity, scene.stated_nodata, scene.name) == ("reflectance", -32768, STEM)
    assert np.argwhere(~scene.mask).tolist() == [[0, 0], [1, 3], [1, 4], [2, 2], [4, 2], [4, 3]]
    assert scene.header["transform"] == tuple(PLACE)[:6]
    assert "32633" in scene.header["crs"]
    (note,) = scene.notes
    for words in ("haze 6.9%", "thin cirrus 3.4%", "medium cirrus 3.4%", "low quality 3.4%", "artefacts 3.4%"):
        assert words in note
    assert scene.account.unknown == ("odd/thing",)
    assert {"specific/bandCharacterisation/bandID/GainOfBand", "QL_QUALITY_CLOUD.TIF"} <= set(scene.account.used)
    assert {"specific/mode", "QL_PIXELMASK.TIF", "QL_QUALITY_SNOW.TIF"} <= set(scene.account.carried)


def test_bands_without_values_are_left_out_and_gains_need_not_differ(tmp_path):
    stored = product(tmp_path, gains=[1e-4] * 5)
    stored[2] = -32768
    raster(tmp_path / f"{STEM}-SPECTRAL_IMAGE.TIF", stored, -32768)
    scene = finish(read_enmap(tmp_path / f"{STEM}-METADATA.XML", Reading()), Reading())
    assert scene.good_bands.tolist() == [True, True, False, True, True]
    assert any("no quality layers" in note for note in scene.notes)


@pytest.mark.parametrize(("level", "fill", "quantity"), [("L2A", -32768, "reflectance"), ("L1C", 0, "radiance")])
def test_fill_and_quantity_of_each_level(tmp_path, level, fill, quantity):
    stem = STEM.replace("L2A", level)
    values = product(tmp_path, stem=stem, nodata=None, gains=[1e-4] * 5)
    values[:, 3, 3] = fill
    raster(tmp_path / f"{stem}-SPECTRAL_IMAGE.TIF", values)
    scene = read_enmap(tmp_path / f"{stem}-METADATA.XML", Reading())
    assert np.isnan(scene.cube[3, 3]).all()
    assert (scene.stated_nodata, scene.quantity) == (fill, quantity)


def test_cloud_optimised_and_interleaved_images_are_found(tmp_path):
    stored = product(tmp_path, image="SPECTRAL_IMAGE_COG.TIF", gains=[1e-4] * 5)
    scene = read_enmap(tmp_path / f"{STEM}-METADATA.XML", Reading())
    np.testing.assert_allclose(scene.cube[2], stored[:, 2].T * 1e-4 + np.array(OFFSETS), rtol=1e-5, atol=1e-7)
    (tmp_path / f"{STEM}-SPECTRAL_IMAGE_COG.TIF").unlink()
    stored.transpose(1, 0, 2).astype("<i2").tofile(tmp_path / f"{STEM}-SPECTRAL_IMAGE.BIL")
    (tmp_path / f"{STEM}-SPECTRAL_IMAGE.HDR").write_text(
        f"ENVI\nsamples = {COLUMNS}\nlines = {ROWS}\nbands = 5\nheader offset = 0\ndata type = 2\ninterleave = bil\n"
        "byte order = 0\ndata ignore value = -32768\n"
    )
    scene = read_enmap(tmp_path / f"{STEM}-METADATA.XML", Reading())
    np.testing.assert_allclose(scene.cube[2], stored[:, 2].T * 1e-4 + np.array(OFFSETS), rtol=1e-5, atol=1e-7)
    assert np.isnan(scene.cube[0, 0]).all()


@pytest.mark.parametrize("order", ["BSQ", "BIL", "BIP"])
def test_the_header_of_an_interleaved_image_opens_the_product(tmp_path, order):
    stored = product(tmp_path, layers=LAYERS)
    (tmp_path / f"{STEM}-SPECTRAL_IMAGE.TIF").unlink()
    axes = {"BSQ": (0, 1, 2), "BIL": (1, 0, 2), "BIP": (1, 2, 0)}[order]
    stored.transpose(axes).astype("<i2").tofile(tmp_path / f"{STEM}-SPECTRAL_IMAGE.{order}")
    header = tmp_path / f"{STEM}-SPECTRAL_IMAGE.HDR"
    header.write_text(
        f"ENVI\nsamples = {COLUMNS}\nlines = {ROWS}\nbands = 5\nheader offset = 0\ndata type = 2\n"
        f"interleave = {order.lower()}\nbyte order = 0\ndata ignore value = -32768\n"
    )
    assert is_enmap(header)
    scene, same = read_enmap(header, Reading()), read_enmap(tmp_path / f"{STEM}-SPECTRAL_IMAGE.{order}", Reading())
    expected = np.moveaxis(stored, 0, -1) * np.array(GAINS) + np.array(OFFSETS)
    expected[0, 0] = np.nan
    np.testing.assert_allclose(scene.cube[...], expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(scene.cube[...], same.cube[...])
    np.testing.assert_array_equal(scene.mask, same.mask)
    assert (scene.quantity, scene.name, scene.account) == ("reflectance", STEM, same.account)


def test_the_folder_of_one_product_is_the_product(tmp_path):
    stored = product(tmp_path, gains=[1e-4] * 5)
    assert is_enmap(tmp_path)
    scene = read_enmap(tmp_path, Reading())
    assert scene.name == STEM
    np.testing.assert_allclose(scene.cube[2], stored[:, 2].T * 1e-4 + np.array(OFFSETS), rtol=1e-5, atol=1e-7)
    product(tmp_path, stem=STEM.replace("_008_", "_009_"))
    assert not is_enmap(tmp_path)
    (tmp_path / "empty").mkdir()
    assert not is_enmap(tmp_path / "empty")


def test_the_background_of_the_metadata_is_the_fill_value_where_the_image_states_none(tmp_path):
    stored = product(tmp_path, nodata=None, more="<backgroundValue>-77</backgroundValue>", gains=[1e-4] * 5)
    stored[:, 3, 3] = -77
    raster(tmp_path / f"{STEM}-SPECTRAL_IMAGE.TIF", stored)
    scene = read_enmap(tmp_path, Reading())
    assert scene.stated_nodata == -77
    assert np.isnan(scene.cube[3, 3]).all()
    assert np.isfinite(scene.cube[0, 0]).all()
    assert "specific/backgroundValue" in scene.account.used
    raster(tmp_path / f"{STEM}-SPECTRAL_IMAGE.TIF", stored, -32768)
    other = read_enmap(tmp_path, Reading())
    assert other.stated_nodata == -32768
    assert "specific/backgroundValue" in other.account.unknown
    assert any("(backgroundValue) -77" in note and "--nodata -77" in note for note in other.notes)
    (tmp_path / f"{STEM}-METADATA.XML").write_text(xml(more="<backgroundValue>x</backgroundValue>"), encoding="utf-8")
    with pytest.raises(ValueError, match="backgroundValue must be a number, got 'x'; give --nodata"):
        read_enmap(tmp_path, Reading())


@pytest.mark.parametrize(
    "name", ["radianceGain", "extraOffset", "scaleFactor", "badBands", "fillValue", "qualityFlag/badPixels", "unheard"]
)
def test_entries_that_may_change_numbers_are_not_passed_over(tmp_path, name):
    more = "".join(f"<{part}>" for part in name.split("/")) + "2"
    more += "".join(f"</{part}>" for part in name.split("/")[::-1])
    product(tmp_path, more=more)
    assert f"specific/{name}" in read_enmap(tmp_path, Reading()).account.unknown


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"bands": range(4)}, "lists 4 bands, .*SPECTRAL_IMAGE.TIF has 5"),
        ({"gains": [1e-4, "x", 1, 1, 1]}, "GainOfBand of band 2 must be a number, got 'x'"),
        ({"gains": [1e-4, "nan", 1, 1, 1]}, "GainOfBand of band 2 must be a number"),
        ({"gains": [1e-4, 0, 1, 1, 1]}, "GainOfBand is 0"),
        ({"numbers": [1, 2, 4, 3, 5]}, "band 3 of bandCharacterisation has the number 4"),
        ({"head": '<!DOCTYPE x [<!ENTITY a "b">]>'}, "document type"),
        ({"head": "<open>"}, "not readable XML"),
        ({"layers": {"QUALITY_CLOUD": np.zeros((3, 3))}}, "QL_QUALITY_CLOUD.* 3 × 3 pixels, the image has 5 × 7"),
    ],
)
def test_products_that_are_refused(tmp_path, about, message):
    product(tmp_path, **about)
    with pytest.raises(ValueError, match=message) as caught:
        read_enmap(tmp_path / f"{STEM}-METADATA.XML", Reading())
    assert STEM in str(caught.value)
    assert "\n" not in str(caught.value)


def test_level_1b_and_missing_files_are_refused_with_the_remedy(tmp_path):
    product(tmp_path, stem=STEM.replace("L2A", "L1B"), image="SPECTRAL_IMAGE_VNIR.TIF")
    with pytest.raises(ValueError, match="order the product at level 1C or 2A"):
        read_enmap(tmp_path / f"{STEM.replace('L2A', 'L1B')}-SPECTRAL_IMAGE_VNIR.TIF", Reading())
    product(tmp_path)
    (tmp_path / f"{STEM}-METADATA.XML").unlink()
    with pytest.raises(FileNotFoundError, match=r"needs .*METADATA\.XML in the same folder"):
        read_enmap(tmp_path / f"{STEM}-SPECTRAL_IMAGE.TIF", Reading())


def test_an_image_that_is_no_tiff_is_not_opened(tmp_path):
    """GDAL would take a virtual raster by its content, and read the files that it names."""
    product(tmp_path)
    (tmp_path / f"{STEM}-SPECTRAL_IMAGE.TIF").write_text(
        '<VRTDataset rasterXSize="1" rasterYSize="1"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        "<SourceFilename>/etc/passwd</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with pytest.raises(ValueError, match="not a readable raster of format GTiff"):
        read_enmap(tmp_path / f"{STEM}-METADATA.XML", Reading())


def test_what_lies_beside_the_image_is_not_read(tmp_path):
    """GDAL would take no-data, place and masks from .aux.xml, .tfw and .msk."""
    product(tmp_path)
    path = tmp_path / f"{STEM}-SPECTRAL_IMAGE.TIF"
    (tmp_path / f"{path.name}.aux.xml").write_text(
        "<PAMDataset><SRS>EPSG:4326</SRS><GeoTransform>0,1,0,0,0,-1</GeoTransform>"
        '<PAMRasterBand band="1"><NoDataValue>7</NoDataValue></PAMRasterBand></PAMDataset>'
    )
    path.with_suffix(".tfw").write_text("1\n0\n0\n-1\n0\n0\n")
    raster(tmp_path / f"{path.name}.msk", np.zeros((1, ROWS, COLUMNS), np.uint8))
    scene = read_enmap(path, Reading())
    assert scene.header["transform"] == tuple(PLACE)[:6]
    assert "32633" in scene.header["crs"]
    assert scene.stated_nodata == -32768


def test_a_truncated_image_is_an_error_with_its_name(tmp_path):
    product(tmp_path)
    path = tmp_path / f"{STEM}-SPECTRAL_IMAGE.TIF"
    content = path.read_bytes()
    for size in (100, len(content) - 40):
        path.write_bytes(content[:size])
        with pytest.raises((ValueError, OSError), match="SPECTRAL_IMAGE") as caught:
            np.asarray(read_enmap(path, Reading()).cube)
        assert "\n" not in str(caught.value)


def test_a_product_that_is_masked_whole_says_so(tmp_path):
    product(tmp_path, layers={"QUALITY_CLOUD": np.ones((ROWS, COLUMNS))})
    scene = read_enmap(tmp_path / f"{STEM}-METADATA.XML", Reading())
    assert any("masks every pixel" in note for note in scene.notes)
    assert not scene.mask.any()
