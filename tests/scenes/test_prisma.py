"""PRISMA products, written here in the layout of ASI's product specification."""

import h5py
import numpy as np
import pytest

from unmix_jax.scenes.readers.sensors.prisma import is_prisma, read_prisma
from unmix_jax.scenes.reading import Reading, finish
from unmix_jax.scenes.rows import Rows

ROWS, COLUMNS = 5, 7
NAMES = {level: f"PRS_L{level}_STD_20201107101404_20201107101408_0001.he5" for level in ("1", "2B", "2C", "2D")}
VNIR = np.array([0.0, 972.7, 962.3, 500.5, 406.9], "f4")  # falling, a slot that was not acquired first
SWIR = np.array([2497.1, 1400.0, 951.2, 943.4, 0.0], "f4")  # overlaps with the other spectrometer
WIDTHS = {"Vnir": np.array([0, 13.1, 13.2, 11.5, 10.1], "f4"), "Swir": np.array([9.8, 11.0, 12.5, 12.4, 0], "f4")}
SCALES = {"Vnir": (0.01, 0.91), "Swir": (0.0, 1.5)}
KEPT = [1, 2, 3, 4, 5, 6, 7, 8]  # of the ten slots


def product(folder, level="2D", *, attributes=None, datasets=None, without=()):
    """A product with random numbers; [row, band, column] as it is stored."""
    rng = np.random.default_rng(0)
    cubes = {w: rng.integers(1, 65536, (ROWS, 5, COLUMNS), np.uint16) for w in ("VNIR", "SWIR")}
    errors = {w: np.zeros((ROWS, 5, COLUMNS), np.uint8) for w in cubes}
    for cube in cubes.values():
        cube[0, :, 0] = 0  # outside the swath
    cubes["SWIR"][1, 2, 3] = 0  # a value of its own
    errors["VNIR"][2, 3, 4], errors["SWIR"][3, 0, 5] = 2, 3
    errors["SWIR"][:, 1, :5] = 1  # 1400 nm: in error nearly everywhere
    said = {
        "List_Cw_Vnir": VNIR, "List_Cw_Swir": SWIR, "List_Fwhm_Vnir": WIDTHS["Vnir"], "List_Fwhm_Swir": WIDTHS["Swir"],
        "List_Cw_Vnir_Flags": np.array([0, 1, 1, 1, 0], "u1"), "List_Cw_Swir_Flags": np.array([1, 1, 1, 1, 0], "u1"),
        "Epsg_Code": np.int32(32632), "Product_ULcorner_easting": np.float32(600000 + 15),
        "Product_ULcorner_northing": 4900000 - 15.0, "Product_LRcorner_easting": 600000 + 15 + 30.0 * (COLUMNS - 1),
        "Product_LRcorner_northing": 4900000 - 15 - 30.0 * (ROWS - 1), "Product_Name": b"made here", "Strange": 3.0,
    }  # fmt: skip
    if level == "1":
        said |= {"ScaleFactor_Vnir": 100.0, "Offset_Vnir": 0.0, "ScaleFactor_Swir": 50.0, "Offset_Swir": 0.0}
    else:
        said |= {
            f"L2Scale{w}{e}": np.float32(v) for w in SCALES for e, v in zip(("Min", "Max"), SCALES[w], strict=True)
        }
    swath = f"HDFEOS/SWATHS/PRS_L{level}_HCO"
    kind = "SAT" if level == "1" else "L2"
    lat, lon = np.meshgrid(44 - 0.01 * np.arange(ROWS), 10 + 0.02 * np.arange(COLUMNS), indexing="ij")
    stored = {f"{swath}/Data Fields/{w}_Cube": cube for w, cube in cubes.items()}
    stored |= {f"{swath}/Data Fields/{w}_PIXEL_{kind}_ERR_MATRIX": e for w, e in errors.items()}
    stored |= {f"{swath}/Geolocation Fields/Latitude": lat, f"{swath}/Geolocation Fields/Longitude": lon}
    stored[f"HDFEOS/SWATHS/PRS_L{level}_PCO/Data Fields/Cube"] = np.zeros((2, 2), np.uint16)
    stored |= datasets or {}
    path = folder / NAMES[level]
    with h5py.File(path, "w") as file:
        for name, value in (said | (attributes or {})).items():
            if name not in without:
                file.attrs[name] = value
        for name, values in stored.items():
            if not name.endswith(tuple(without) or ("\0",)):
                file[name] = values
    return path, cubes, errors


def expected(cubes, errors, codes=(1, 2, 3, 4)):
    """Stored numbers as [row, column, band] of the acquired bands, NaN where they are none."""
    stored = np.concatenate([cubes["VNIR"], cubes["SWIR"]], axis=1).transpose(0, 2, 1)[..., KEPT].astype(float)
    marked = np.concatenate([errors["VNIR"], errors["SWIR"]], axis=1).transpose(0, 2, 1)[..., KEPT]
    stored[(stored == 0).all(axis=-1)] = np.nan
    stored[np.isin(marked, codes)] = np.nan
    return stored


def test_level_2d_is_one_cube_with_its_axis_scale_and_place(tmp_path):
    path, cubes, errors = product(tmp_path)
    assert is_prisma(path)
    scene = read_prisma(path, Reading())
    assert scene.cube.shape == (ROWS, COLUMNS, 8)
    np.testing.assert_allclose(
        scene.axis.centers, [972.7, 962.3, 500.5, 406.9, 2497.1, 1400.0, 951.2, 943.4], rtol=1e-6
    )
    np.testing.assert_allclose(scene.axis.fwhm, [13.1, 13.2, 11.5, 10.1, 9.8, 11.0, 12.5, 12.4], rtol=1e-6)
    assert scene.axis.unit == "nm"
    low = np.repeat([0.01, 0.0], 4)
    span = np.repeat([0.9, 1.5], 4)
    np.testing.assert_allclose(scene.cube[...], low + expected(cubes, errors) * span / 65535, rtol=1e-6)
    whole = np.asarray(scene.cube)
    assert np.isnan(whole[2, 4, 2])
    assert np.isnan(whole[3, 5, 4])
    assert whole[1, 3, 6] == 0.0  # stored 0 in one band, not in error: the smallest value
    # flag 0: 406.9 nm; mostly in error: 1400 nm
    assert scene.good_bands.tolist() == [True, True, True, False, True, False, True, True]
    assert any("error matrix marks most pixels of 1 band (number 6" in note for note in scene.notes)
    assert scene.quantity == "reflectance"
    assert scene.header["transform"] == pytest.approx((30.0, 0.0, 600000.0, 0.0, -30.0, 4900000.0))
    assert 'AUTHORITY["EPSG","32632"]' in scene.header["crs"]
    fields = "HDFEOS/SWATHS/PRS_L2D_HCO/Geolocation Fields"  # level 2D is placed by its corners
    assert scene.account.unknown == (
        "Strange", f"dataset {fields}/Longitude", "dataset HDFEOS/SWATHS/PRS_L2D_PCO/Data Fields/Cube",
    )  # fmt: skip
    data = "dataset HDFEOS/SWATHS/PRS_L2D_HCO/Data Fields"
    assert {f"{data}/VNIR_Cube", f"{data}/SWIR_PIXEL_L2_ERR_MATRIX"} <= set(scene.account.used)
    assert "Product_Name" in scene.account.carried
    assert {"List_Cw_Vnir", "L2ScaleSwirMax", "Epsg_Code", "List_Cw_Swir_Flags"} <= set(scene.account.used)


def test_every_way_of_reading_gives_the_same_numbers(tmp_path):
    path, *_ = product(tmp_path)
    scene = read_prisma(path, Reading())
    whole = np.asarray(scene.cube)
    for index in (1, -1, slice(1, 4), slice(None, None, 2), (slice(2, 4), 3), (2, 4, slice(1, 6, 2)), ..., (..., 5)):
        np.testing.assert_array_equal(scene.cube[index], whole[index])
    out = np.empty((ROWS * COLUMNS, 8), "f4")
    with Rows(scene.cube) as rows:
        rows.read(0, ROWS, out)
    np.testing.assert_array_equal(out.reshape(whole.shape), whole)
    assert finish(scene, Reading(rows=(1, 3))).cube.shape == (2, COLUMNS, 8)


@pytest.mark.parametrize("level", ["1", "2B", "2C"])
def test_swaths_have_places_of_their_pixels_and_their_own_quantity(tmp_path, level):
    path, cubes, errors = product(tmp_path, level)
    scene = read_prisma(path, Reading())
    stored = expected(cubes, errors, (1, 2, 4) if level == "1" else (1, 2, 3, 4))
    scale = np.repeat([1 / 100, 1 / 50], 4) if level == "1" else np.repeat([0.9, 1.5], 4) / 65535
    low = 0 if level == "1" else np.repeat([0.01, 0.0], 4)
    np.testing.assert_allclose(scene.cube[...], low + stored * scale, rtol=1e-6)
    assert scene.quantity == ("reflectance" if level == "2C" else "radiance")
    assert "crs" not in scene.header
    assert np.asarray(scene.header["location"]["lat"])[1, 2] == pytest.approx(43.99)
    assert np.asarray(scene.header["location"]["lon"])[1, 2] == pytest.approx(10.04)


def test_clouds_of_level_1_are_masked(tmp_path):
    clouds = np.zeros((ROWS, COLUMNS), "u1")
    clouds[1, 2], clouds[3, 3], clouds[4, 4] = 1, 10, 255
    name = "HDFEOS/SWATHS/PRS_L1_HCO/Data Fields/Cloud_Mask"
    path, *_ = product(tmp_path, "1", datasets={name: clouds})
    assert np.argwhere(~read_prisma(path, Reading()).mask).tolist() == [[1, 2]]


def test_cubes_whose_first_axis_runs_east_are_turned(tmp_path):
    """The specification names the axes so; latitudes tell."""
    path, cubes, errors = product(tmp_path)
    with h5py.File(path, "a") as file:
        for name in [n for n in _names(file) if "PRS_L2D_HCO" in n]:
            values = file[name][()]
            del file[name]
            file[name] = values.swapaxes(0, -1)
    scene = read_prisma(path, Reading())
    assert scene.cube.shape == (ROWS, COLUMNS, 8)
    np.testing.assert_allclose(scene.cube[..., 4:], expected(cubes, errors)[..., 4:] * 1.5 / 65535, rtol=1e-6)


def _names(file):
    found = []
    file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    return found


def test_without_an_error_matrix_there_is_a_note(tmp_path):
    path, *_ = product(tmp_path, without=("ERR_MATRIX",))
    scene = read_prisma(path, Reading())
    assert any("no error matrix" in note for note in scene.notes)
    assert np.isfinite(np.asarray(scene.cube)[2, 4, 2])
    assert np.isnan(scene.cube[0, 0]).all()


@pytest.mark.parametrize(
    ("level", "change", "message"),
    [
        ("2D", {"attributes": {"List_Cw_Vnir": VNIR[:4]}}, "List_Cw_Vnir must list 5 numbers"),
        ("2D", {"without": ("List_Fwhm_Swir",)}, "List_Fwhm_Swir must list 5 numbers"),
        ("2D", {"without": ("L2ScaleVnirMax",)}, "L2ScaleVnirMax must be a number; it is absent"),
        ("2D", {"attributes": {"L2ScaleVnirMax": 0.0}}, "must exceed"),
        ("2D", {"attributes": {"Epsg_Code": 1}}, "Epsg_Code 1 is no coordinate system"),
        ("2D", {"attributes": {"Product_LRcorner_easting": 700000.0}}, "do not span 5 × 7 pixels of 30 m"),
        ("2D", {"without": ("SWIR_Cube",)}, "has no .*SWIR_Cube"),
        ("2D", {"without": ("VNIR_Cube",)}, "it is no PRISMA product"),
        ("2D", {"attributes": {"List_Cw_Vnir": VNIR * 0}}, "lists no wavelength above 0"),
        ("1", {"attributes": {"Offset_Swir": 1.5}}, r"Offset_Swir is 1\.5.*--offset"),
        ("1", {"attributes": {"ScaleFactor_Vnir": 0.0}}, "ScaleFactor_Vnir is 0"),
    ],
)
def test_products_that_are_refused(tmp_path, level, change, message):
    path, *_ = product(tmp_path, level, **change)
    with pytest.raises(ValueError, match=message) as caught:
        read_prisma(path, Reading())
    assert path.name in str(caught.value)


CUBE = "HDFEOS/SWATHS/PRS_L2D_HCO/Data Fields/SWIR_Cube"


def test_attributes_below_the_root_are_accounted_for(tmp_path):
    path, *_ = product(tmp_path)
    with h5py.File(path, "a") as file:
        file["HDFEOS"].attrs["odd"] = 1
        file[CUBE].attrs["long_name"] = "SWIR"
        file[CUBE].attrs["units"] = "1"
        file[CUBE].attrs["scale_factor"] = 1.0
        file[CUBE].attrs["add_offset"] = 0.0
    account = read_prisma(path, Reading()).account
    assert {"HDFEOS@odd", f"{CUBE}@units"} <= set(account.unknown)
    assert f"{CUBE}@long_name" in account.carried
    assert {f"{CUBE}@scale_factor", f"{CUBE}@add_offset"} <= set(account.used)


@pytest.mark.parametrize(
    ("name", "value", "option", "given"),
    [
        ("scale_factor", 0.5, "scale", 0.5), ("add_offset", 3.0, "offset", 3.0), ("_FillValue", 7, "nodata", 7),
        ("missing_value", 7, "nodata", "none"), ("valid_range", [1, 9], "nodata", 0),
    ],
)  # fmt: skip
def test_scales_and_fills_of_the_cubes_are_refused_unless_the_user_says_what_holds(
    tmp_path, name, value, option, given
):
    path, *_ = product(tmp_path)
    with h5py.File(path, "a") as file:
        file[CUBE].attrs[name] = value
    with pytest.raises(ValueError, match=f"SWIR_Cube has the attribute {name} = .*--{option}") as caught:
        read_prisma(path, Reading())
    assert path.name in str(caught.value)
    assert f"{CUBE}@{name}" in read_prisma(path, Reading(**{option: given})).account.used


def test_other_files_of_hdf_eos5_are_left_to_the_reader_of_hdf5(tmp_path):
    path, *_ = product(tmp_path)
    renamed = path.rename(tmp_path / "scene.he5")
    assert is_prisma(renamed)
    with h5py.File(tmp_path / "OMI.he5", "w") as file:
        file["HDFEOS/SWATHS/Ozone/Data Fields/Column"] = np.zeros((2, 3, 4))
    assert not is_prisma(tmp_path / "OMI.he5")
    (tmp_path / "broken.he5").write_bytes(b"no HDF5")
    assert not is_prisma(tmp_path / "broken.he5")
    assert not is_prisma(renamed.rename(tmp_path / "scene.h5"))


def test_an_offset_that_the_user_gives_is_not_refused(tmp_path):
    path, *_ = product(tmp_path, "1", attributes={"Offset_Swir": 1.5})
    scene = finish(read_prisma(path, Reading(offset=0.0)), Reading(offset=0.0))
    assert np.nanmax(scene.cube[..., 4:]) > 600  # stored numbers over 50


def test_a_unit_that_contradicts_the_product_is_refused(tmp_path):
    path, *_ = product(tmp_path)
    with pytest.raises(ValueError, match="states that its axis is in nm"):
        read_prisma(path, Reading(unit="um"))


def test_a_truncated_product_is_refused_in_one_line(tmp_path):
    path, *_ = product(tmp_path)
    content = path.read_bytes()
    for share in (0.02, 0.5, 0.98):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises((ValueError, OSError)) as caught:
            np.asarray(read_prisma(path, Reading()).cube)
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value)
