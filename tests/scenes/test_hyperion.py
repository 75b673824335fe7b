"""EO-1 Hyperion level 1T, written here in the layout of the USGS archive."""

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from unmix_jax.scenes.readers.sensors.hyperion import CALIBRATED, CENTERS, WIDTHS, is_hyperion, read_hyperion
from unmix_jax.scenes.reading import Reading

STEM = "EO1H0150322015007110K9"
ROWS, COLUMNS = 4, 5
PLACE = Affine(30.0, 0.0, 300000.0, 0.0, -30.0, 4000000.0)
MTL = """GROUP = L1_METADATA_FILE
  GROUP = PRODUCT_METADATA
    ENTITY_ID = "{stem}"
    ACQUISITION_DATE = 2015-01-07
  END_GROUP = PRODUCT_METADATA
  GROUP = RADIANCE_SCALING
    SCALING_FACTOR_VNIR = {vnir}
    SCALING_FACTOR_SWIR = {swir}
    ODD = 1
  END_GROUP = RADIANCE_SCALING
END_GROUP = L1_METADATA_FILE
END
"""


def raster(path, values, **options):
    """A GeoTIFF of one band."""
    height, width = values.shape
    profile = {"crs": "EPSG:32611", "transform": PLACE, "dtype": "int16", "count": 1} | options
    with rasterio.open(path, "w", driver="GTiff", height=height, width=width, **profile) as file:
        file.write(values, 1)


def scene_of(folder, numbers=(1, 8, 57, 58, 70, 71, 76, 77, 224, 225, 242), *, vnir="40.0", swir="80.0", metadata=True):
    """A scene of some bands; those that are not calibrated are zero."""
    rng = np.random.default_rng(0)
    stored = {}
    for number in numbers:
        values = rng.integers(1, 4000, (ROWS, COLUMNS), dtype=np.int16) * (number in CALIBRATED)
        values[0, 0] = 0
        stored[number] = values.astype(np.int16)
        raster(folder / f"{STEM}_B{number:03d}_L1T.TIF", stored[number])
    if metadata:
        (folder / f"{STEM}_MTL_L1T.TXT").write_text(MTL.format(stem=STEM, vnir=vnir, swir=swir))
    return stored


def test_the_table_of_bands_is_that_of_usgs():
    assert len(CENTERS) == len(WIDTHS) == 242
    published = {1: 355.59, 8: 426.82, 57: 925.41, 70: 1057.68, 71: 851.92, 77: 912.45, 224: 2395.50, 242: 2577.08}
    assert {band: CENTERS[band - 1] for band in published} == published
    assert len(CALIBRATED) == 198
    for spectrometer in (CENTERS[:70], CENTERS[70:]):  # each in steps of some 10 nm
        assert np.all(np.abs(np.diff(spectrometer) - 10.1) < 0.2)
    assert 10.2 < WIDTHS.min() < WIDTHS.max() < 11.6


@pytest.mark.parametrize("opened", [f"{STEM}_MTL_L1T.TXT", f"{STEM}_B077_L1T.TIF", ""])
def test_any_file_and_the_folder_give_the_same_scene(tmp_path, opened):
    stored = scene_of(tmp_path)
    (tmp_path / "README.txt").write_text("x")
    path = tmp_path / opened
    assert is_hyperion(path)
    scene = read_hyperion(path, Reading())
    numbers = sorted(stored)
    np.testing.assert_array_equal(scene.axis.centers, CENTERS[np.array(numbers) - 1])
    np.testing.assert_array_equal(scene.axis.fwhm, WIDTHS[np.array(numbers) - 1])
    assert scene.good_bands.tolist() == [n in CALIBRATED for n in numbers]
    expected = np.stack([stored[n] / (40 if n <= 70 else 80) for n in numbers], axis=-1)
    np.testing.assert_allclose(scene.cube[...], expected, rtol=1e-6)
    np.testing.assert_allclose(scene.cube[::2, 1:3, 4:], expected[::2, 1:3, 4:], rtol=1e-6)
    assert (scene.quantity, scene.name, scene.stated_nodata) == ("radiance", STEM, None)
    assert scene.header["transform"] == tuple(PLACE)[:6]
    assert "32611" in scene.header["crs"]
    assert scene.account.unknown == ("RADIANCE_SCALING/ODD",)
    assert "RADIANCE_SCALING/SCALING_FACTOR_SWIR" in scene.account.used
    assert "PRODUCT_METADATA/ENTITY_ID" in scene.account.carried
    (note,) = scene.notes
    assert "files of 194 calibrated band(s)" in note


def test_a_whole_scene_has_no_note_and_other_factors_are_heeded(tmp_path):
    stored = scene_of(tmp_path, range(1, 243), vnir="50", swir="100")
    scene = read_hyperion(tmp_path / f"{STEM}_MTL_L1T.TXT", Reading())
    assert scene.notes == ()
    assert scene.good_bands.sum() == 198
    np.testing.assert_allclose(scene.cube[2, 3, 7:9], [stored[8][2, 3] / 50, stored[9][2, 3] / 50], rtol=1e-6)
    np.testing.assert_allclose(scene.cube[2, 3, 76:77], stored[77][2, 3] / 100, rtol=1e-6)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"vnir": "none"}, "SCALING_FACTOR_VNIR must be a number above 0, got 'none'; give --scale"),
        ({"swir": "-80"}, "SCALING_FACTOR_SWIR"),
        ({"metadata": False}, "metadata EO1H0150322015007110K9_MTL_L1T.TXT are not in the folder"),
        ({"numbers": (1, 2, 3)}, "no file of a calibrated band"),
        ({"numbers": (8, 243)}, "band 243 is none of the 242"),
    ],
)
def test_scenes_that_are_refused(tmp_path, made, message):
    stored = scene_of(tmp_path, **made)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_hyperion(tmp_path / f"{STEM}_B{min(stored):03d}_L1T.TIF", Reading())


def test_bands_that_do_not_fit_each_other_are_refused(tmp_path):
    scene_of(tmp_path)
    other = np.ones((ROWS + 1, COLUMNS), np.int16)
    raster(tmp_path / f"{STEM}_B009_L1T.TIF", other)
    with pytest.raises(ValueError, match=r"_B009_L1T\.TIF has 5 × 5 pixels, .*_B001_L1T\.TIF has 4 × 5"):
        read_hyperion(tmp_path / f"{STEM}_MTL_L1T.TXT", Reading())
    raster(tmp_path / f"{STEM}_B009_L1T.TIF", other[1:], transform=Affine(30.0, 0.0, 300030.0, 0.0, -30.0, 4000000.0))
    with pytest.raises(ValueError, match=r"_B009_L1T\.TIF lies elsewhere"):
        read_hyperion(tmp_path / f"{STEM}_MTL_L1T.TXT", Reading())


def test_two_scenes_in_a_folder_are_told_apart_by_the_file_that_is_opened(tmp_path):
    scene_of(tmp_path)
    (tmp_path / "EO1H9999999999999999ZZ_MTL_L1T.TXT").write_text("x")
    assert read_hyperion(tmp_path / f"{STEM}_MTL_L1T.TXT", Reading()).name == STEM
    with pytest.raises(ValueError, match="must hold one Hyperion scene"):
        read_hyperion(tmp_path, Reading())


def test_level_1r_is_refused_with_what_to_do(tmp_path):
    path = tmp_path / f"{STEM}.L1R"
    path.write_bytes(b"\x0e\x03\x13\x01")
    assert is_hyperion(path)
    with pytest.raises(ValueError, match="HDF4 file, which is not read: take the scene at level 1T"):
        read_hyperion(path, Reading())


@pytest.mark.parametrize("text", ["", "GROUP = A\n  B = 1\n", "GROUP = A\nEND_GROUP = B\n", "GROUP = A\n" * 100])
def test_damaged_metadata_are_refused(tmp_path, text):
    scene_of(tmp_path)
    (tmp_path / f"{STEM}_MTL_L1T.TXT").write_text(text)
    with pytest.raises(ValueError, match=r"_MTL_L1T\.TXT"):
        read_hyperion(tmp_path, Reading())
