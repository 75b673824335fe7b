"""DESIS products, written here in the layout of DLR's specification."""

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from unmix_jax.scenes.readers.sensors.desis import is_desis, read_desis
from unmix_jax.scenes.reading import Reading

STEM = "DESIS-HSI-L2A-DT0707652640_011-20220404T193259-V0220"
ROWS, COLUMNS = 4, 6
CENTERS, WIDTHS = [401.3, 403.9, 999.5], [3.5, 3.4, 3.3]
PLACE = Affine(30.0, 0.0, 360000.0, 0.0, -30.0, 5800000.0)


def xml(gains, offsets, count=3, head="", more=""):
    """The metadata; ``band`` stands in two places, as in a product."""
    table = "".join(
        f"<band><bandNumber>{i + 1}</bandNumber><wavelengthCenterOfBand>{CENTERS[i]}</wavelengthCenterOfBand>"
        f"<wavelengthWidthOfBand>{WIDTHS[i]}</wavelengthWidthOfBand><response>0.1, 1, 0.1</response>"
        f"<gainOfBand>{gains[i]}</gainOfBand><offsetOfBand>{offsets[i]}</offsetOfBand></band>"
        for i in range(count)
    )
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>{head}<hsi_doc><base><format>x</format></base><specific>{more}'
        f"<interiorOrientation><band><x>1</x></band></interiorOrientation><bandCharacterisation>{table}"
        "</bandCharacterisation></specific><other>1</other></hsi_doc>"
    )


def raster(path, values, nodata=None):
    """A GeoTIFF of [band, row, column], interleaved by pixel and compressed as DESIS is."""
    count, height, width = values.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=values.dtype, nodata=nodata,
        crs="EPSG:32633", transform=PLACE, interleave="pixel", compress="deflate",
    ) as file:  # fmt: skip
        file.write(values)


def product(folder, *, stem=STEM, gains=(1e-4,) * 3, offsets=(0.0,) * 3, quality=True, suffix="tif", **about):
    """A product with random numbers."""
    values = np.random.default_rng(0).integers(1, 9000, (3, ROWS, COLUMNS), dtype=np.int16)
    values[:, 0, 0] = -32768
    raster(folder / f"{stem}-SPECTRAL_IMAGE.{suffix}", values, -32768)
    if quality:
        flags = np.zeros((10, ROWS, COLUMNS), np.uint8)
        for band, row, column in (
            (1, 1, 0),
            (2, 1, 1),
            (3, 1, 2),
            (4, 2, 0),
            (5, 2, 1),
            (6, 2, 2),
            (7, 2, 3),
            (8, 2, 4),
        ):
            flags[band - 1, row, column] = 1
        flags[8:] = 40
        raster(folder / f"{stem}-QL_QUALITY-2.tif", flags)
    (folder / f"{stem}-METADATA.xml").write_text(xml(gains, offsets, **about), encoding="utf-8")
    return values


@pytest.mark.parametrize("opened", ["SPECTRAL_IMAGE.tif", "METADATA.xml"])
def test_image_and_metadata_give_the_same_scene(tmp_path, opened):
    stored = product(tmp_path)
    path = tmp_path / f"{STEM}-{opened}"
    assert is_desis(path)
    scene = read_desis(path, Reading())
    np.testing.assert_allclose(scene.axis.centers, CENTERS)
    np.testing.assert_allclose(scene.axis.fwhm, WIDTHS)
    expected = np.moveaxis(stored, 0, -1) * 1e-4
    expected[0, 0] = np.nan
    np.testing.assert_allclose(scene.cube[...], expected, rtol=1e-6)
    assert (scene.quantity, scene.stated_nodata) == ("reflectance", -32768)
    assert np.argwhere(~scene.mask).tolist() == [[1, 0], [2, 2], [2, 3]]
    assert scene.notes == (f"{STEM}-QL_QUALITY-2.tif flags pixels that are not masked: haze 9.5%",)
    assert scene.header["transform"] == tuple(PLACE)[:6]
    assert "32633" in scene.header["crs"]
    assert scene.account.unknown == ("other",)
    used = {f"specific/bandCharacterisation/band/{n}OfBand" for n in ("gain", "offset", "wavelengthCenter")}
    assert used | {"file QL_QUALITY-2.tif"} <= set(scene.account.used)
    assert "specific/interiorOrientation/band/x" in scene.account.carried


def test_the_folder_of_one_product_is_the_product(tmp_path):
    stored = product(tmp_path)
    assert is_desis(tmp_path)
    scene = read_desis(tmp_path, Reading())
    assert scene.name == STEM
    np.testing.assert_allclose(scene.cube[1], stored[:, 1].T * 1e-4, rtol=1e-6)
    product(tmp_path, stem=STEM.replace("_011-", "_012-"))
    assert not is_desis(tmp_path)


def test_the_background_of_the_metadata_and_entries_that_may_change_numbers(tmp_path):
    more = "<backgroundValue>-77</backgroundValue><radianceGain>2</radianceGain><mode>x</mode><unheard>1</unheard>"
    stored = product(tmp_path, more=more)
    stored[:, 3, 3] = -77
    raster(tmp_path / f"{STEM}-SPECTRAL_IMAGE.tif", stored)
    scene = read_desis(tmp_path, Reading())
    assert scene.stated_nodata == -77
    assert np.isnan(scene.cube[3, 3]).all()
    assert "specific/backgroundValue" in scene.account.used
    assert scene.account.unknown == ("specific/radianceGain", "specific/unheard", "other")
    assert "specific/mode" in scene.account.carried


@pytest.mark.parametrize(("level", "placed"), [("L1B", False), ("L1C", True)])
def test_radiance_has_a_gain_and_an_offset_for_each_band(tmp_path, level, placed):
    stem = STEM.replace("L2A", level)
    gains, offsets = (1e-3, 2e-3, 5e-4), (0.5, -0.25, 0.0)
    stored = product(tmp_path, stem=stem, gains=gains, offsets=offsets, quality=False, suffix="TIF")
    scene = read_desis(tmp_path / f"{stem}-METADATA.xml", Reading())
    np.testing.assert_allclose(scene.cube[1:], np.moveaxis(stored, 0, -1)[1:] * gains + offsets, rtol=1e-5, atol=1e-5)
    assert scene.quantity == "radiance"
    assert ("crs" in scene.header) == placed
    assert scene.mask is None
    assert not scene.notes


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"count": 2}, "lists 2 bands, .*SPECTRAL_IMAGE.tif has 3"),
        ({"gains": (1e-4, "", 1e-4)}, "gainOfBand of band 2 must be a number"),
        ({"gains": (1e-4, 0, 1e-4)}, "gainOfBand is 0"),
        ({"count": 0}, "no <bandCharacterisation>: it lists no bands"),
        ({"head": "<!DOCTYPE x>"}, "document type"),
    ],
)
def test_products_that_are_refused(tmp_path, about, message):
    product(tmp_path, **about)
    with pytest.raises(ValueError, match=message) as caught:
        read_desis(tmp_path / f"{STEM}-METADATA.xml", Reading())
    assert STEM in str(caught.value)


def test_missing_files_are_named(tmp_path):
    product(tmp_path, quality=False)
    assert any("no QL_QUALITY-2.tif" in note for note in read_desis(tmp_path / f"{STEM}-METADATA.xml", Reading()).notes)
    (tmp_path / f"{STEM}-SPECTRAL_IMAGE.tif").unlink()
    with pytest.raises(FileNotFoundError, match=r"needs .*SPECTRAL_IMAGE\.tif in the same folder"):
        read_desis(tmp_path / f"{STEM}-METADATA.xml", Reading())


def test_a_truncated_image_is_an_error_with_its_name(tmp_path):
    product(tmp_path)
    path = tmp_path / f"{STEM}-SPECTRAL_IMAGE.tif"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises((ValueError, OSError), match="SPECTRAL_IMAGE"):
        np.asarray(read_desis(path, Reading()).cube)
