"""Sentinel-2 and Landsat, written here in the layouts of ESA's and the USGS's documents."""

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from unmix_jax.scenes.library import match, resample
from unmix_jax.scenes.readers import read_scene
from unmix_jax.scenes.readers.sensors.multispectral import (
    is_landsat,
    is_sentinel2,
    is_sentinel2_stack,
    read_landsat,
    read_sentinel2,
    read_sentinel2_stack,
)
from unmix_jax.scenes.reading import Reading, finish
from unmix_jax.scenes.responses import sensor_axis
from unmix_jax.scenes.scene import SpectralAxis, SpectralLibrary

ROWS, COLUMNS = 5, 7
PLACE = Affine(20.0, 0.0, 399960.0, 0.0, -20.0, 4500000.0)


def raster(path, values, *, driver="GTiff", descriptions=(), **options):
    """A raster of [band, row, column]."""
    count, height, width = values.shape
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {"crs": "EPSG:32650", "transform": PLACE, "dtype": values.dtype} | options
    if driver == "JP2OpenJPEG":
        profile |= {"QUALITY": "100", "REVERSIBLE": "YES"}
    with rasterio.open(path, "w", driver=driver, count=count, height=height, width=width, **profile) as file:
        file.write(values)
        if descriptions:
            file.descriptions = descriptions
    path.with_name(path.name + ".aux.xml").unlink(missing_ok=True)


# ---- Sentinel-2

SAFE = "S2A_MSIL2A_20240411T030521_N0510_R075_T50TMK_20240411T080950.SAFE"
GRANULE = "L2A_T50TMK_A045975_20240411T030632"
NUMBER = {"B02": 1, "B03": 2, "B05": 4, "B8A": 8, "B11": 11}  # band_id
CENTRAL = {"B02": 490.0, "B03": 560.0, "B05": 705.0, "B8A": 865.0, "B11": 1610.0}


def mtd(*, offsets=True, spectral=True, quantification="10000", level="Level-2A", head="", satellite="2A"):
    """The metadata, with some of the entries that a product has."""
    add = "".join(f'<BOA_ADD_OFFSET band_id="{n}">{-1000 - n}</BOA_ADD_OFFSET>' for n in range(13) if n != 3)
    said = "".join(
        f'<Spectral_Information bandId="{n}" physicalBand="{name.replace("B0", "B")}"><RESOLUTION>20</RESOLUTION>'
        f'<Wavelength><MIN unit="nm">{CENTRAL[name] - 2}</MIN><MAX unit="nm">{CENTRAL[name] + 2}</MAX>'
        f'<CENTRAL unit="nm">{CENTRAL[name]}</CENTRAL></Wavelength><Spectral_Response><STEP unit="nm">1</STEP>'
        "<VALUES>0.1 0.9 1 0.8 0.2</VALUES></Spectral_Response></Spectral_Information>"
        for name, n in NUMBER.items()
    )
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>{head}<n1:{level}_User_Product xmlns:n1="https://psd-14.esa.int">'
        "<n1:General_Info><Product_Info><PROCESSING_BASELINE>05.10</PROCESSING_BASELINE>"
        f"<Datatake><SPACECRAFT_NAME>Sentinel-{satellite}</SPACECRAFT_NAME></Datatake></Product_Info>"
        "<Product_Image_Characteristics><Special_Values><SPECIAL_VALUE_TEXT>NODATA</SPECIAL_VALUE_TEXT>"
        "<SPECIAL_VALUE_INDEX>0</SPECIAL_VALUE_INDEX></Special_Values><Special_Values>"
        "<SPECIAL_VALUE_TEXT>SATURATED</SPECIAL_VALUE_TEXT><SPECIAL_VALUE_INDEX>65535</SPECIAL_VALUE_INDEX>"
        "</Special_Values><QUANTIFICATION_VALUES_LIST><BOA_QUANTIFICATION_VALUE unit='none'>"
        f"{quantification}</BOA_QUANTIFICATION_VALUE></QUANTIFICATION_VALUES_LIST>"
        f"{f'<BOA_ADD_OFFSET_VALUES_LIST>{add}</BOA_ADD_OFFSET_VALUES_LIST>' if offsets else ''}"
        f"{f'<Spectral_Information_List>{said}</Spectral_Information_List>' if spectral else ''}"
        f"</Product_Image_Characteristics></n1:General_Info><Strange>1</Strange></n1:{level}_User_Product>"
    )


def safe(folder, *, bands=tuple(NUMBER), steps=("20", "60"), **about):
    """A product with random numbers in its images of two resolutions."""
    rng = np.random.default_rng(0)
    root = folder / SAFE
    stored = {}
    for step in steps:
        for band in bands:
            values = rng.integers(1001, 9000, (ROWS, COLUMNS), dtype=np.uint16)
            values[0, 0] = 0
            values[1, 1] = 65535 if band == "B05" else 4000
            stored[step, band] = values
            image = root / "GRANULE" / GRANULE / "IMG_DATA" / f"R{step}m" / f"T50TMK_20240411T030521_{band}_{step}m.jp2"
            raster(image, values[None], driver="JP2OpenJPEG")
        classes = np.full((ROWS, COLUMNS), 4, np.uint8)
        classes[0, 0] = 0
        classes[2] = [1, 3, 8, 9, 10, 11, 6]
        raster(image.with_name(f"T50TMK_20240411T030521_SCL_{step}m.jp2"), classes[None], driver="JP2OpenJPEG")
        raster(image.with_name(f"T50TMK_20240411T030521_TCI_{step}m.jp2"), classes[None], driver="JP2OpenJPEG")
    (root / "MTD_MSIL2A.xml").write_text(mtd(**about), encoding="utf-8")
    return root, stored


def reflectance(stored, step="20", offsets=True):
    """[row, column, band] as the document has it."""
    bands = []
    for band, number in NUMBER.items():
        values = stored[step, band].astype(float)
        values[(values == 0) | (values == 65535)] = np.nan
        bands.append((values + (-1000 - number if offsets else 0)) / 10000)
    return np.stack(bands, axis=-1)


@pytest.mark.parametrize("opened", ["MTD_MSIL2A.xml", "", f"GRANULE/{GRANULE}/IMG_DATA/R20m"])
def test_a_sentinel2_product_is_scaled_masked_and_placed(tmp_path, opened):
    root, stored = safe(tmp_path)
    path = root / opened
    assert is_sentinel2(path)
    scene = read_sentinel2(path, Reading())
    np.testing.assert_allclose(scene.cube[...], reflectance(stored), rtol=1e-5, atol=1e-7)
    whole = np.asarray(scene.cube)
    assert np.isnan(whole[1, 1]).tolist() == [False, False, True, False, False]  # saturated in B05
    np.testing.assert_array_equal(scene.axis.centers, list(CENTRAL.values()))
    samples, responses = scene.axis.responses
    np.testing.assert_allclose(responses[0][np.isin(samples, [488, 489, 490, 491, 492])], [0.1, 0.9, 1, 0.8, 0.2])
    assert np.argwhere(~scene.mask).tolist() == [[0, 0], [2, 0], [2, 1], [2, 2], [2, 3]]
    assert any("thin cirrus 3.3%" in note for note in scene.notes)
    assert (scene.quantity, scene.stated_nodata) == ("reflectance", 0)
    assert scene.header["transform"] == tuple(PLACE)[:6]
    assert "32650" in scene.header["crs"]
    assert scene.header["band names"] == list(NUMBER)
    assert scene.account.unknown == ("Strange",)
    end = "General_Info/Product_Image_Characteristics"
    assert {f"{end}/BOA_ADD_OFFSET_VALUES_LIST/BOA_ADD_OFFSET", f"{end}/Special_Values/SPECIAL_VALUE_INDEX"} <= set(
        scene.account.used
    )
    assert "file T50TMK_20240411T030521_TCI_20m.jp2" in scene.account.carried


def test_an_image_chooses_its_resolution(tmp_path):
    root, stored = safe(tmp_path)
    path = root / "GRANULE" / GRANULE / "IMG_DATA" / "R60m" / "T50TMK_20240411T030521_B03_60m.jp2"
    assert is_sentinel2(path)
    np.testing.assert_allclose(
        read_sentinel2(path, Reading()).cube[...], reflectance(stored, "60"), rtol=1e-5, atol=1e-7
    )


def test_older_products_have_no_offsets_and_shipped_responses_stand_in(tmp_path):
    root, stored = safe(tmp_path, steps=("20",), offsets=False, spectral=False)
    scene = read_sentinel2(root, Reading())
    np.testing.assert_allclose(scene.cube[...], reflectance(stored, offsets=False), rtol=1e-5, atol=1e-7)
    assert scene.axis.centers.tolist() == [492.4, 559.8, 704.1, 864.7, 1613.7]
    assert not any("responses" in note for note in scene.notes)
    (root / "MTD_MSIL2A.xml").write_text(mtd(spectral=False, satellite="2C"), encoding="utf-8")
    assert any("responses of Sentinel-2C do not ship" in n for n in read_sentinel2(root, Reading()).notes)


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"quantification": "none"}, "BOA_QUANTIFICATION_VALUE must be a number, got 'none'"),
        ({"quantification": "0"}, "must be above 0"),
        ({"level": "Level-1C"}, "of another level than 2A"),
        ({"head": "<!DOCTYPE x>"}, "document type"),
        ({"bands": ("B02", "B04")}, "lists no band_id 3, which is B04"),
    ],
)
def test_products_that_are_refused(tmp_path, about, message):
    root, _ = safe(tmp_path, steps=("20",), **about)
    with pytest.raises(ValueError, match=message) as caught:
        read_sentinel2(root / "MTD_MSIL2A.xml", Reading())
    assert "MTD_MSIL2A.xml" in str(caught.value)


def test_missing_parts_of_a_product_are_named(tmp_path):
    root, _ = safe(tmp_path, steps=("20",))
    image = root / "GRANULE" / GRANULE / "IMG_DATA" / "R20m" / "T50TMK_20240411T030521_B03_20m.jp2"
    (root / "MTD_MSIL2A.xml").rename(tmp_path / "MTD_MSIL2A.xml")
    with pytest.raises(FileNotFoundError, match="four folders above the images"):
        read_sentinel2(image, Reading())
    with pytest.raises(ValueError, match="must hold one granule, it holds 0"):
        read_sentinel2(tmp_path / "MTD_MSIL2A.xml", Reading())
    (tmp_path / "MTD_MSIL1C.xml").write_text("x")
    (tmp_path / "MTD_MSIL2A.xml").unlink()
    with pytest.raises(ValueError, match="another level than 2A"):
        read_sentinel2(tmp_path / "MTD_MSIL1C.xml", Reading())


STACK = ("B8A", "B02", "B11")


def stack(path, *, dtype=np.uint16, descriptions=STACK, **options):
    """A GeoTIFF of three bands."""
    values = np.random.default_rng(1).integers(1, 9000, (3, ROWS, COLUMNS)).astype(dtype)
    values[:, 0, 0] = 0
    values[1, 1, 1] = 65535
    raster(path, values, descriptions=descriptions, **options)
    return values


def test_a_stack_has_the_bands_of_its_descriptions(tmp_path):
    path = tmp_path / "S2B_MSIL2A_20220125_stack.tif"
    stored = stack(path)
    assert is_sentinel2_stack(path)
    scene = read_sentinel2_stack(path, Reading())
    assert scene.axis.centers.tolist() == [864.0, 492.1, 2185.7] or scene.axis.centers.tolist() == [
        864.0,
        492.1,
        1610.4,
    ]
    assert scene.axis.responses is not None
    whole = np.asarray(scene.cube)
    assert np.isnan(whole[0, 0]).all()
    assert np.isnan(whole[1, 1]).tolist() == [False, True, False]
    np.testing.assert_allclose(whole[2], stored[:, 2].T / 10000, rtol=1e-6)
    assert scene.stated_nodata == 0
    assert any("--offset -0.1" in note for note in scene.notes)
    assert not any("Sentinel-2A" in note for note in scene.notes)
    shifted = finish(read_sentinel2_stack(path, Reading(offset=-0.1)), Reading(offset=-0.1))
    np.testing.assert_allclose(shifted.cube[2], stored[:, 2].T / 10000 - 0.1, rtol=1e-4, atol=1e-6)


def test_a_stack_of_fractions_is_taken_as_it_is_and_an_unknown_satellite_is_noted(tmp_path):
    path = tmp_path / "stack.tif"
    stored = stack(path, dtype=np.float32, nodata=0.0)
    scene = read_sentinel2_stack(path, Reading())
    np.testing.assert_allclose(scene.cube[2], stored[:, 2].T, rtol=1e-6)
    assert [note[:5] for note in scene.notes] == ["which"]
    assert scene.axis.centers.tolist() == [864.7, 492.4, 1613.7]


@pytest.mark.parametrize(
    ("name", "descriptions", "is_one"),
    [
        ("a.tif", ("B02", "B03", "B04"), False),  # those of HLS, CBERS and others too
        ("a.tif", ("B02", "B03", "B8A"), True),
        ("Sentinel-2_a.tif", ("B02", "B03", "B04"), True),
        ("HLS.L30.T32TQM.2023001.tif", ("B02", "B03", "B04"), False),
        ("HLS.S30.T32TQM.2023001.tif", ("B02", "B03", "B8A"), False),
        ("LC08_193027_S2A.tif", ("B02", "B03", "B04"), False),
        ("LC09_a.tif", ("B02", "B03", "B8A"), False),
        ("a.tif", ("B2", "B3", "B8A"), True),
        ("a.tif", ("B2", "B3", "B4"), False),  # Landsat's and others' too
        ("T_S2A_a.tif", ("B2", "B3", "B4"), True),
        ("a.tif", ("B02", "B02", "B03"), False),
        ("a.tif", ("B02", "red", "B03"), False),
        ("a.tif", (), False),
    ],
)
def test_which_geotiffs_are_stacks(tmp_path, name, descriptions, is_one):
    stack(tmp_path / name, descriptions=descriptions)
    assert is_sentinel2_stack(tmp_path / name) == is_one
    (tmp_path / "b.tif").write_bytes(b"no raster")
    assert not is_sentinel2_stack(tmp_path / "b.tif")


@pytest.mark.parametrize(("satellite", "is_one"), [("Sentinel-2A", True), ("S2C_MSIL2A", True), ("LANDSAT_8", False)])
def test_a_tag_says_which_satellite_a_stack_is_of(tmp_path, satellite, is_one):
    path = tmp_path / "a.tif"
    stack(path, descriptions=("B02", "B03", "B04"))
    with rasterio.open(path, "r+") as file:
        file.update_tags(SPACECRAFT=satellite)
    assert is_sentinel2_stack(path) == is_one


def test_a_library_comes_to_the_bands_by_their_responses(tmp_path):
    safe(tmp_path, steps=("20",), spectral=False)
    scene = read_sentinel2(tmp_path / SAFE, Reading())
    fine = np.arange(400.0, 2400.0)
    spectra = np.stack([np.full_like(fine, 0.3), 0.2 + 0.1 * np.sin(fine / 9)])
    matched = match(scene, SpectralLibrary(spectra, SpectralAxis(fine)))
    np.testing.assert_allclose(matched.spectra[0], 0.3, atol=1e-6)
    table = sensor_axis("sentinel2a", ["B02", "B03", "B05", "B8A", "B11"])
    samples, responses = table.responses
    x = np.arange(400, 2400, 0.01)
    for band, response in enumerate(responses):
        weights = np.interp(x, samples, response)
        expected = np.sum(weights * np.interp(x, fine, spectra[1])) / np.sum(weights)
        assert matched.spectra[1, band] == pytest.approx(expected, abs=1e-5)
    gaussian = resample(SpectralLibrary(spectra, SpectralAxis(fine)), SpectralAxis(table.centers, table.fwhm))
    assert np.abs(gaussian.spectra[1] - matched.spectra[1]).max() > 1e-3  # the shape of the bands matters


# ---- Landsat

STEM = "LC08_L2SP_192026_20220101_20220105_02_T1"
GRID = Affine(30.0, 0.0, 300000.0, 0.0, -30.0, 5600000.0)


def mtl(numbers, mult="2.75e-05", add="-0.2"):
    """The metadata; the group of level 1 has the same names with other numbers."""
    level2 = "\n".join(f"    REFLECTANCE_MULT_BAND_{n} = {mult}\n    REFLECTANCE_ADD_BAND_{n} = {add}" for n in numbers)
    level2 += (
        "\n    REFLECTANCE_MAXIMUM_BAND_1 = 1.602213\n    REFLECTANCE_MINIMUM_BAND_1 = -0.199972\n"
        "    QUANTIZE_CAL_MAX_BAND_1 = 65535\n    QUANTIZE_CAL_MIN_BAND_1 = 1"
    )
    return (
        'GROUP = LANDSAT_METADATA_FILE\n  GROUP = PRODUCT_CONTENTS\n    ORIGIN = "made here"\n'
        f"  END_GROUP = PRODUCT_CONTENTS\n  GROUP = LEVEL2_SURFACE_REFLECTANCE_PARAMETERS\n{level2}\n    ODD = 1\n"
        "  END_GROUP = LEVEL2_SURFACE_REFLECTANCE_PARAMETERS\n  GROUP = LEVEL1_RADIOMETRIC_RESCALING\n"
        "    REFLECTANCE_MULT_BAND_1 = 2.0000E-05\n  END_GROUP = LEVEL1_RADIOMETRIC_RESCALING\n"
        "END_GROUP = LANDSAT_METADATA_FILE\nEND\n"
    )


def mtl_xml(numbers):
    """The same as XML."""
    level2 = "".join(
        f"<REFLECTANCE_MULT_BAND_{n}>2.75e-05</REFLECTANCE_MULT_BAND_{n}>"
        f"<REFLECTANCE_ADD_BAND_{n}>-0.2</REFLECTANCE_ADD_BAND_{n}>"
        for n in numbers
    )
    return (
        "<LANDSAT_METADATA_FILE><PRODUCT_CONTENTS><ORIGIN>made here</ORIGIN></PRODUCT_CONTENTS>"
        f"<LEVEL2_SURFACE_REFLECTANCE_PARAMETERS>{level2}<ODD>1</ODD></LEVEL2_SURFACE_REFLECTANCE_PARAMETERS>"
        "</LANDSAT_METADATA_FILE>"
    )


def landsat(folder, *, stem=STEM, numbers=range(1, 8), metadata="txt", quality=True, **about):
    """A scene with random numbers."""
    rng = np.random.default_rng(0)
    place = {"transform": GRID, "crs": "EPSG:32633"}
    stored = []
    for number in numbers:
        values = rng.integers(7300, 40000, (ROWS, COLUMNS), dtype=np.uint16)
        values[0, 0] = 0
        raster(folder / f"{stem}_SR_B{number}.TIF", values[None], nodata=0, **place)
        stored.append(values)
    raster(folder / f"{stem}_ST_B10.TIF", stored[0][None], **place)
    if quality:
        flags = np.full((ROWS, COLUMNS), 1 << 6, np.uint16)  # clear
        flags[0, 0] = 1
        flags[2] = [1 << bit for bit in (1, 2, 3, 4, 5, 7, 6)]
        raster(folder / f"{stem}_QA_PIXEL.TIF", flags[None], **place)
        saturated = np.zeros((ROWS, COLUMNS), np.uint16)
        saturated[3, 3], saturated[3, 4], saturated[3, 5] = 1 << 4, 1 << 8, 1 << 11  # B5; cirrus band; terrain
        raster(folder / f"{stem}_QA_RADSAT.TIF", saturated[None], **place)
    if metadata == "txt":
        (folder / f"{stem}_MTL.txt").write_text(mtl(numbers, **about))
    if metadata == "xml":
        (folder / f"{stem}_MTL.xml").write_text(mtl_xml(numbers))
    return np.stack(stored, axis=-1)


@pytest.mark.parametrize("metadata", ["txt", "xml"])
@pytest.mark.parametrize("opened", [f"{STEM}_SR_B4.TIF", f"{STEM}_QA_PIXEL.TIF", ""])
def test_a_landsat_scene_is_scaled_masked_and_placed(tmp_path, metadata, opened):
    stored = landsat(tmp_path, metadata=metadata)
    path = tmp_path / opened
    assert is_landsat(path)
    scene = read_landsat(path, Reading())
    expected = stored * 2.75e-5 - 0.2
    expected[0, 0] = np.nan
    np.testing.assert_allclose(scene.cube[...], expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(scene.axis.centers, sensor_axis("landsat8").centers[:7])
    assert scene.axis.responses is not None
    assert np.argwhere(~scene.mask).tolist() == [[0, 0], [2, 0], [2, 2], [2, 3], [3, 3]]
    assert scene.notes == ("QA_PIXEL flags pixels that are not masked: cirrus 3.3%",)
    assert (scene.quantity, scene.stated_nodata) == ("reflectance", 0)
    assert scene.header["transform"] == tuple(GRID)[:6]
    assert scene.account.unknown == ("LEVEL2_SURFACE_REFLECTANCE_PARAMETERS/ODD",)
    assert "LEVEL2_SURFACE_REFLECTANCE_PARAMETERS/REFLECTANCE_ADD_BAND_7" in scene.account.used
    assert "file ST_B10.TIF" in scene.account.carried
    if metadata == "txt":
        ranges = ("REFLECTANCE_MAXIMUM", "REFLECTANCE_MINIMUM", "QUANTIZE_CAL_MAX", "QUANTIZE_CAL_MIN")
        named = {f"LEVEL2_SURFACE_REFLECTANCE_PARAMETERS/{name}_BAND_1" for name in ranges}
        assert named <= set(scene.account.carried)


def test_older_satellites_have_six_bands(tmp_path):
    stem = STEM.replace("LC08", "LE07")
    stored = landsat(tmp_path, stem=stem, numbers=(1, 2, 3, 4, 5, 7))
    scene = read_landsat(tmp_path / f"{stem}_MTL.txt", Reading())
    np.testing.assert_allclose(scene.cube[1], stored[1] * 2.75e-5 - 0.2, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(scene.axis.centers, sensor_axis("landsat7").centers[:6])


def test_without_metadata_or_quality_there_are_notes(tmp_path):
    stored = landsat(tmp_path, metadata=None, quality=False)
    scene = read_landsat(tmp_path / f"{STEM}_SR_B1.TIF", Reading())
    np.testing.assert_allclose(scene.cube[1], stored[1] * 2.75e-5 - 0.2, rtol=1e-5, atol=1e-7)
    assert scene.mask is None
    assert [any(word in note for note in scene.notes) for word in ("_MTL.txt is not", "_QA_PIXEL.TIF is not")] == [
        True
    ] * 2


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"mult": "x"}, "REFLECTANCE_MULT_BAND_1 must be a number, got 'x'"),
        ({"mult": "0"}, "REFLECTANCE_MULT_BAND must be above 0"),
        ({"numbers": ()}, "no band of surface reflectance"),
    ],
)
def test_scenes_that_are_refused(tmp_path, made, message):
    landsat_numbers = made.pop("numbers", range(1, 8))
    if not len(landsat_numbers):
        (tmp_path / f"{STEM}_MTL.txt").write_text(mtl((1,)))
    else:
        landsat(tmp_path, **made)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_landsat(tmp_path / f"{STEM}_MTL.txt", Reading())


def test_quality_of_another_size_and_truncated_bands_are_errors(tmp_path):
    landsat(tmp_path)
    path = tmp_path / f"{STEM}_SR_B3.TIF"
    content = path.read_bytes()
    path.write_bytes(content[:-30])
    with pytest.raises((ValueError, OSError), match="_SR_B3"):
        np.asarray(read_landsat(path, Reading()).cube)
    path.write_bytes(content)
    raster(tmp_path / f"{STEM}_QA_PIXEL.TIF", np.zeros((1, 3, 3), np.uint16))
    with pytest.raises(ValueError, match=r"QA_PIXEL\.TIF has 3 × 3 pixels, the image has 5 × 7"):
        read_landsat(path, Reading())


def test_two_scenes_in_a_folder_are_told_apart(tmp_path):
    landsat(tmp_path)
    (tmp_path / f"{STEM.replace('20220101', '20230101')}_SR_B1.TIF").write_bytes(b"x")
    assert read_landsat(tmp_path / f"{STEM}_MTL.txt", Reading()).name == STEM
    with pytest.raises(ValueError, match="must hold one Landsat scene, it holds 2"):
        read_landsat(tmp_path, Reading())


def test_landsat_stacks_have_the_bands_of_their_satellite(tmp_path):
    import rasterio

    stored = np.random.default_rng(4).integers(7_500, 25_000, (3, 5, 4)).astype("u2")
    stored[:, 0, 0] = 0
    path = tmp_path / "LC08_stack.tif"
    place = rasterio.Affine(30, 0, 500_000, 0, -30, 4_000_000)
    about = {"width": 4, "height": 5, "count": 3, "dtype": "uint16", "crs": "EPSG:32633", "transform": place}
    with rasterio.open(path, "w", driver="GTiff", **about) as raster:
        raster.write(stored)
        raster.descriptions = ("SR_B2", "SR_B4", "SR_B5")
    with pytest.warns(UserWarning, match="that of Collection 2 is taken"):
        scene = read_scene(path)
    np.testing.assert_allclose(scene.axis.centers, sensor_axis("landsat8", ["B2", "B4", "B5"]).centers)
    assert scene.axis.responses is not None
    assert (scene.quantity, scene.stated_nodata) == ("reflectance", 0)
    values = np.asarray(scene.cube)
    assert np.isnan(values[0, 0]).all()
    np.testing.assert_allclose(values[1:], np.moveaxis(stored, 0, -1)[1:] * 2.75e-05 - 0.2, rtol=1e-5)
    path.rename(tmp_path / "other.tif")
    assert read_scene(tmp_path / "other.tif").axis is None
