"""NetCDF and HDF5 scenes: products in their own layouts, and any file that names its axes."""

import sys
from itertools import permutations

import h5netcdf
import h5py
import numpy as np
import pytest
import rasterio
import xarray
from emit_file import GEOTRANSFORM, MASK_BANDS, WGS84, write_emit, write_emit_mask
from helpers import assert_close
from rasterio.crs import CRS
from scipy.io import netcdf_file

from unmix_jax.scenes.lazy import LazyCube
from unmix_jax.scenes.readers import read_scene
from unmix_jax.scenes.readers.netcdf import variables as netcdf_variables
from unmix_jax.scenes.readers.netcdf.hdf import HdfArray
from unmix_jax.scenes.readers.netcdf.netcdf import read_netcdf
from unmix_jax.scenes.readers.sensors.emit import read_emit_mask, read_emit_uncertainty
from unmix_jax.scenes.reading import Reading, finish
from unmix_jax.scenes.rows import Rows

ROWS, COLUMNS, BANDS = 5, 4, 6
RNG = np.random.default_rng(0)
CUBE = RNG.uniform(0.1, 0.9, (ROWS, COLUMNS, BANDS)).astype("f4")
CUBE[3, 1] = np.nan
FILLED = np.where(np.isnan(CUBE), np.float32(-9999), CUBE)
NM = np.linspace(400, 900, BANDS)
AFFINE = rasterio.Affine.from_gdal(*GEOTRANSFORM)
UTM = CRS.from_epsg(32611).to_wkt()


def opened(path, **said):
    told = Reading(**said)
    return finish(read_netcdf(path, told), told)


def same_cube(scene, expected=CUBE):
    assert isinstance(scene.cube, LazyCube)
    np.testing.assert_array_equal(np.asarray(scene.cube), expected)
    np.testing.assert_array_equal(scene.cube[1:4:2, ::-1, 2], expected[1:4:2, ::-1, 2])


# EMIT


def test_emit_as_distributed(tmp_path):
    good = np.arange(BANDS) != 4
    path = write_emit(tmp_path / "emit.nc", CUBE, NM, fwhm=np.full(BANDS, 8.0), good=good)
    scene = read_scene(path)
    same_cube(scene)
    np.testing.assert_array_equal(scene.good_bands, good)
    np.testing.assert_allclose(scene.axis.centers, NM)
    np.testing.assert_allclose(scene.axis.fwhm, 8)
    assert (scene.quantity, scene.stated_nodata, scene.axis.unit, scene.notes) == ("reflectance", -9999, "nm", ())
    with h5py.File(path) as file:
        for name in ("lat", "lon", "elev"):
            np.testing.assert_array_equal(scene.header["location"][name], file["location"][name])
        for short, name in (("x", "glt_x"), ("y", "glt_y")):
            np.testing.assert_array_equal(scene.header["glt"][short], file["location"][name])
    assert scene.header["glt_transform"] == tuple(AFFINE)[:6]
    assert CRS.from_wkt(scene.header["glt_crs"]).to_epsg() == 4326
    assert "transform" not in scene.header
    assert scene.header["flight_line"] == "emit20241006t165200_o28011_s000"
    assert scene.account.unknown == ()
    assert scene.header["netcdf variables"] == (
        "cube=reflectance, wavelength=sensor_band_parameters/wavelengths, fwhm=sensor_band_parameters/fwhm, "
        "good_bands=sensor_band_parameters/good_wavelengths"
    )
    assert read_scene(path, keys={"cube": "reflectance"}).quantity == "reflectance"


def test_emit_orthorectified_by_nasas_tools(tmp_path):
    """`ortho_xr` of EMIT-Data-Resources: no groups, coordinates beside the cube, CRS by rioxarray."""
    lon = GEOTRANSFORM[0] + (np.arange(COLUMNS) + 0.5) * GEOTRANSFORM[1]
    lat = GEOTRANSFORM[3] + (np.arange(ROWS) + 0.5) * GEOTRANSFORM[5]
    good = np.array([1, 1, 0, 1, 1, 1], "f4")
    said = {"long_name": "Hemispherical-Directional Reflectance Factor", "units": "unitless"}
    dataset = xarray.Dataset(
        {"reflectance": (("latitude", "longitude", "wavelengths"), FILLED, said | {"grid_mapping": "spatial_ref"})},
        coords={
            "latitude": ("latitude", lat, {"long_name": "Latitude (WGS-84)", "units": "degrees north"}),
            "longitude": ("longitude", lon, {"long_name": "Longitude (WGS-84)", "units": "degrees east"}),
            "wavelengths": ("wavelengths", NM.astype("f4"), {"long_name": "Wavelength Centers", "units": "nm"}),
            "fwhm": ("wavelengths", np.full(BANDS, 8.5, "f4"), {"units": "nm"}),
            "good_wavelengths": ("wavelengths", good, {"units": "unitless"}),
            "elev": (("latitude", "longitude"), np.ones((ROWS, COLUMNS)), {"units": "m"}),
            "spatial_ref": ((), 0, {"crs_wkt": WGS84, "spatial_ref": WGS84, "grid_mapping_name": "latitude_longitude"}),
        },
        attrs={"title": "EMIT", "spatial_ref": WGS84, "geotransform": np.array(GEOTRANSFORM), "Orthorectified": "True"},
    )
    dataset.to_netcdf(tmp_path / "a.nc", engine="h5netcdf", encoding={"reflectance": {"_FillValue": -9999.0}})
    scene = read_scene(tmp_path / "a.nc")
    same_cube(scene)
    np.testing.assert_allclose(scene.axis.centers, NM)
    np.testing.assert_allclose(scene.axis.fwhm, 8.5)
    np.testing.assert_array_equal(scene.good_bands, good == 1)
    np.testing.assert_allclose(scene.header["transform"], tuple(AFFINE)[:6], rtol=1e-12)
    assert CRS.from_wkt(scene.header["crs"]).to_epsg() == 4326
    assert "glt" not in scene.header
    assert scene.account.unknown == ("elev",)


def test_emit_uncertainty(tmp_path):
    scene = read_scene(write_emit(tmp_path / "EMIT_L2A_RFL_001_20241006T165200_2428011_004.nc", CUBE, NM))
    std = (CUBE / 20).astype("f4")
    name = "reflectance_uncertainty"
    path = write_emit(tmp_path / "EMIT_L2A_RFLUNCERT_001_20241006T165200_2428011_004.nc", std, NM, name=name)
    found = read_emit_uncertainty(path, scene)
    same_cube(found, std)
    assert found.quantity == "reflectance"
    assert read_netcdf(path, Reading()).quantity == "uncertainty"
    percent = read_scene(tmp_path / "EMIT_L2A_RFL_001_20241006T165200_2428011_004.nc", scale=100)
    assert_close(np.asarray(read_emit_uncertainty(path, percent).cube), std * 100)


FLAGS = {name: i for i, name in enumerate(MASK_BANDS)}


def masks():
    """Layers of a mask: each flag is set in a pixel of its own; one pixel is missing."""
    layers = np.zeros((ROWS, COLUMNS, len(MASK_BANDS)), "f4")
    for name, i in FLAGS.items():
        layers[i // COLUMNS, i % COLUMNS, i] = 1 if "lag" in name else 0.4
    layers[4, 3] = -9999
    return layers


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (None, ["Cloud flag", "Cirrus flag", "Spacecraft Flag", "Dilated Cloud Flag"]),
        (["water flag"], ["Water flag"]),
        (("Cloud Flag", "Aggregate flag"), ["Cloud flag", "Aggregate Flag"]),
    ],
)
def test_emit_masks(tmp_path, flags, names):
    scene = read_scene(write_emit(tmp_path / "a.nc", CUBE, NM))
    expected = np.ones((ROWS, COLUMNS), bool)
    expected[4, 3] = False
    for name in names:
        expected[FLAGS[name] // COLUMNS, FLAGS[name] % COLUMNS] = False
    usable = read_emit_mask(write_emit_mask(tmp_path / "mask.nc", masks()), scene, flags)
    np.testing.assert_array_equal(usable, expected)


def test_masks_of_version_3_have_other_bands(tmp_path):
    """Flags are found by name: this version has no spacecraft flag, and a cloud flag of another algorithm."""
    names = ("Cloud Flag", "Cirrus Flag", "Water Flag", "Dilated Cloud Flag", "SpecTf-Cloud Probability",
             "SpecTf-Cloud Flag", "SpecTf-Buffer Distance")  # fmt: skip
    layers = np.zeros((ROWS, COLUMNS, len(names)), "f4")
    layers[0, 0, 3] = layers[1, 1, 5] = layers[2, 2, 2] = 1
    layers[..., 6] = 7
    path = write_emit_mask(tmp_path / "mask.nc", layers, names=names)
    scene = read_scene(write_emit(tmp_path / "a.nc", CUBE, NM))
    assert np.argwhere(~read_emit_mask(path, scene)).tolist() == [[0, 0]]
    assert np.argwhere(~read_emit_mask(path, scene, ["SpecTf-Cloud Flag"])).tolist() == [[1, 1]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flight_line": "emit20250101t000000_o1_s000"}, "another granule: flight_line is emit20250101t000000_o1_s000"),
        ({"start": "2020-01-01T00:00:00+0000"}, "another granule: time_coverage_start"),
        (
            {"stem": "EMIT_L2A_X_001_20250101T000000_2500101_001"},
            "another granule than the scene, 20241006T165200_2428011",
        ),
        ({"rows": 3}, "has 3 × 4 pixels, the scene 5 × 4: both must be whole"),
    ],
)
@pytest.mark.parametrize("kind", ["uncertainty", "mask"])
def test_companions_of_another_granule(tmp_path, kind, change, message):
    scene = read_scene(write_emit(tmp_path / "EMIT_L2A_RFL_001_20241006T165200_2428011_004.nc", CUBE, NM))
    options, rows = dict(change), change.get("rows", ROWS)
    stem = options.pop("stem", "other")
    options.pop("rows", None)
    if kind == "mask":
        path = write_emit_mask(tmp_path / f"{stem}.nc", masks()[:rows], **options)
    else:
        path = write_emit(tmp_path / f"{stem}.nc", CUBE[:rows], NM, name="reflectance_uncertainty", **options)
    read = read_emit_mask if kind == "mask" else read_emit_uncertainty
    with pytest.raises(ValueError, match=message) as caught:
        read(path, scene)
    assert str(path) in str(caught.value)


def test_companions_that_are_none(tmp_path):
    path = write_emit(tmp_path / "a.nc", CUBE, NM)
    scene = read_scene(path)
    with pytest.raises(ValueError, match="is no EMIT mask file"):
        read_emit_mask(path, scene)
    with pytest.raises(
        ValueError, match=r"no variable 'reflectance_uncertainty'; did you mean --key cube=reflectance\?"
    ):
        read_emit_uncertainty(path, scene)
    mask = write_emit_mask(tmp_path / "mask.nc", masks())
    for flags in (["AOD550"], ["Snow flag"], []):
        with pytest.raises(ValueError, match=r"no flag .*it has Cloud flag, Cirrus flag"):
            read_emit_mask(mask, scene, flags)
    other = write_emit(tmp_path / "b.nc", CUBE, NM + 3, name="reflectance_uncertainty")
    with pytest.raises(ValueError, match=r"up to 3.00 nm beside"):
        read_emit_uncertainty(other, scene)
    with pytest.raises(FileNotFoundError):
        read_emit_mask(tmp_path / "gone.nc", scene)


# AVIRIS


def write_aviris(path, *, dims=("northing", "easting"), quantity="reflectance", stated=True, wkt=UTM):
    """AVIRIS-3, AVIRIS-5 and AVIRIS-NG: bands first, in a group; the grid at the root (SpectralUtil, hytools)."""
    with h5netcdf.File(path, "w") as file:
        file.dimensions = {dims[0]: ROWS, dims[1]: COLUMNS}
        file.attrs["title"], file.attrs["flight_line"] = "AVIRIS-3 L2A", "AV320231008t173943"
        mapping = file.create_variable("transverse_mercator", (), "S1")
        for key, value in {
            "grid_mapping_name": "transverse_mercator", "longitude_of_central_meridian": -117.0,
            "false_easting": 500000.0, "false_northing": 0.0, "scale_factor_at_central_meridian": 0.9996,
        }.items():  # fmt: skip
            mapping.attrs[key] = value
        if wkt:
            mapping.attrs["spatial_ref"] = wkt
        if stated:
            mapping.attrs["GeoTransform"] = "380000.0 5.0 0.0 3780000.0 0.0 -5.0 "
        for name, dim, values in (
            ("easting", dims[1], 380002.5 + 5 * np.arange(COLUMNS)),
            ("northing", dims[0], 3779997.5 - 5 * np.arange(ROWS)),
        ):
            axis = file.create_variable(name, (dim,), "f8", data=values)
            axis.attrs["standard_name"] = f"projection_{'x' if name == 'easting' else 'y'}_coordinate"
            axis.attrs["units"] = "m"
        group = file.create_group(quantity)
        group.dimensions["wavelength"] = BANDS
        wavelength = group.create_variable("wavelength", ("wavelength",), "f4", data=NM.astype("f4"))
        wavelength.attrs["units"] = "nm"
        fwhm = group.create_variable("fwhm", ("wavelength",), "f4", data=np.full(BANDS, 7.5, "f4"))
        fwhm.attrs["units"] = "nm"
        cube = group.create_variable(
            quantity, ("wavelength", *dims), "f4", data=np.moveaxis(FILLED, -1, 0), fillvalue=np.float32(-9999),
            chunks=(2, 3, 3), compression="gzip",
        )  # fmt: skip
        cube.attrs["grid_mapping"] = "transverse_mercator"
        cube.attrs["units"] = "unitless" if quantity == "reflectance" else "uW nm-1 cm-2 sr-1"
    return path


@pytest.mark.parametrize("dims", [("northing", "easting"), ("lines", "samples")])
@pytest.mark.parametrize("stated", [True, False])
@pytest.mark.parametrize("quantity", ["reflectance", "radiance"])
def test_aviris(tmp_path, dims, stated, quantity):
    scene = read_scene(write_aviris(tmp_path / "a.nc", dims=dims, stated=stated, quantity=quantity))
    same_cube(scene)
    assert scene.cube.source.chunks == (3, 3, 2)
    np.testing.assert_allclose(scene.axis.centers, NM)
    np.testing.assert_allclose(scene.axis.fwhm, 7.5)
    assert scene.header["transform"] == (5, 0, 380000, 0, -5, 3780000)
    assert CRS.from_wkt(scene.header["crs"]).to_epsg() == 32611
    assert (scene.quantity, scene.stated_nodata, scene.notes) == (quantity, -9999, ())
    assert scene.account.unknown == ()


def test_aviris_swath_with_its_lookup_table(tmp_path):
    """L1B radiance of AVIRIS-5: the grid of the table is larger than the swath; a negative entry is a neighbour."""
    with h5netcdf.File(tmp_path / "a.nc", "w") as file:
        file.dimensions = {"lines": ROWS, "samples": COLUMNS, "northing": 7, "easting": 6}
        mapping = file.create_variable("transverse_mercator", (), "S1")
        mapping.attrs["spatial_ref"], mapping.attrs["GeoTransform"] = UTM, "380000 5 0 3780000 0 -5"
        for name in ("lat", "lon"):
            file.create_variable(name, ("lines", "samples"), "f8", data=np.full((ROWS, COLUMNS), 34.0))
        table = file.create_group("geolocation_lookup_table")
        for name, value in (("sample", 3), ("line", -2)):
            table.create_variable(name, ("northing", "easting"), "i4", data=np.full((7, 6), value, "i4"))
        group = file.create_group("radiance")
        group.dimensions["wavelength"] = BANDS
        group.create_variable("wavelength", ("wavelength",), "f4", data=NM).attrs["units"] = "nm"
        group.create_variable("radiance", ("wavelength", "lines", "samples"), "f4", data=np.moveaxis(CUBE, -1, 0))
    scene = read_scene(tmp_path / "a.nc")
    same_cube(scene)
    assert scene.quantity == "radiance"
    assert np.asarray(scene.header["glt"]["y"]).tolist() == np.full((7, 6), -2).tolist()
    assert scene.header["glt_transform"] == (5, 0, 380000, 0, -5, 3780000)
    assert "transform" not in scene.header
    assert set(scene.header["location"]) == {"lat", "lon"}


def test_a_grid_mapping_without_wkt_is_said(tmp_path):
    with pytest.warns(UserWarning, match="transverse_mercator gives no crs_wkt or spatial_ref"):
        scene = read_scene(write_aviris(tmp_path / "a.nc", wkt=None))
    assert scene.header["transform"] == (5, 0, 380000, 0, -5, 3780000)
    assert "crs" not in scene.header


# PACE

FLAG_BITS = {"ATMFAIL": 1, "LAND": 2, "CLDICE": 512, "NAVFAIL": 33554432}


def write_pace(path, *, packed=False):
    """PACE OCI L2 SFREFL: groups of a swath; the dimension of the bands is at the root."""
    fill = -32767 if packed else -32767.0
    cube = np.where(np.isnan(CUBE), fill, (CUBE - 0.05) / 3e-5 if packed else CUBE).astype("i2" if packed else "f4")
    flags = np.full((ROWS, COLUMNS), FLAG_BITS["LAND"], "i4")
    flags[0, 1] |= FLAG_BITS["CLDICE"]
    flags[2, 2] |= FLAG_BITS["NAVFAIL"]
    with h5netcdf.File(path, "w") as file:
        file.dimensions = {"number_of_lines": ROWS, "pixels_per_line": COLUMNS, "wavelength_3d": BANDS}
        file.attrs["title"], file.attrs["instrument"] = "OCI Level-2 Data SFREFL", "OCI"
        bands = file.create_group("sensor_band_parameters")
        wavelength = bands.create_variable("wavelength_3d", ("wavelength_3d",), "f8", data=NM)
        wavelength.attrs["long_name"], wavelength.attrs["units"] = "wavelengths for 3D products", "nm"
        place = file.create_group("navigation_data")
        for name in ("longitude", "latitude"):
            value = np.full((ROWS, COLUMNS), 40.0, "f4")
            variable = place.create_variable(name, ("number_of_lines", "pixels_per_line"), "f4", data=value)
            variable.attrs["units"] = "degrees_east" if name == "longitude" else "degrees_north"
        group = file.create_group("geophysical_data")
        rhos = group.create_variable(
            "rhos", ("number_of_lines", "pixels_per_line", "wavelength_3d"), cube.dtype, data=cube,
            fillvalue=cube.dtype.type(fill), chunks=(2, 2, BANDS), compression="gzip",
        )  # fmt: skip
        rhos.attrs["long_name"], rhos.attrs["units"] = "Surface reflectance", "dimensionless"
        if packed:
            rhos.attrs["scale_factor"], rhos.attrs["add_offset"] = np.float32(3e-5), np.float32(0.05)
        l2 = group.create_variable("l2_flags", ("number_of_lines", "pixels_per_line"), "i4", data=flags)
        l2.attrs["flag_masks"] = np.array(list(FLAG_BITS.values()), "i4")
        l2.attrs["flag_meanings"] = " ".join(FLAG_BITS)
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_pace_level_2(tmp_path, packed):
    path = write_pace(tmp_path / "a.nc", packed=packed)
    with pytest.warns(UserWarning, match="l2_flags flags pixels, such as clouds, and masks none of them"):
        scene = read_scene(path)
    np.testing.assert_allclose(np.asarray(scene.cube), CUBE, atol=3e-5 if packed else 0)
    np.testing.assert_allclose(scene.axis.centers, NM)
    assert (scene.quantity, scene.stated_nodata, scene.mask) == ("reflectance", -32767, None)
    np.testing.assert_array_equal(scene.header["location"]["lat"], np.full((ROWS, COLUMNS), 40))
    assert scene.account.unknown == ("geophysical_data/l2_flags",)
    (note,) = [note for note in scene.notes if "l2_flags" in note]
    assert "--key mask=geophysical_data/l2_flags:CLDICE,NAVFAIL,ATMFAIL" in note
    masked = read_scene(path, keys={"mask": "l2_flags:CLDICE,NAVFAIL"})
    assert not any("l2_flags" in note for note in masked.notes)
    assert np.argwhere(~masked.mask).tolist() == [[0, 1], [2, 2]]
    assert masked.account.unknown == ()
    for said in ("l2_flags", "l2_flags:SNOW"):
        with pytest.raises(ValueError, match=r"as in --key mask=geophysical_data/l2_flags:ATMFAIL,LAND; they are"):
            read_scene(path, keys={"mask": said})


def test_pace_level_3_mapped(tmp_path):
    """A global map: lat and lon of the grid, bands last, no grid mapping."""
    lat, lon = 89.5 - np.arange(ROWS), -179.5 + np.arange(COLUMNS)
    dataset = xarray.Dataset(
        {"rhos": (("lat", "lon", "wavelength"), FILLED, {"long_name": "Surface reflectance"})},
        coords={
            "lat": ("lat", lat.astype("f4"), {"units": "degrees_north", "standard_name": "latitude"}),
            "lon": ("lon", lon.astype("f4"), {"units": "degrees_east", "standard_name": "longitude"}),
            "wavelength": ("wavelength", NM, {"units": "nm"}),
        },
    )
    dataset["palette"] = (("rgb", "eightbitcolor"), np.zeros((3, 256), "u1"))
    dataset.to_netcdf(tmp_path / "a.nc", engine="h5netcdf", encoding={"rhos": {"_FillValue": -9999.0}})
    scene = read_scene(tmp_path / "a.nc")
    same_cube(scene)
    assert scene.header["transform"] == (1, 0, -180, 0, -1, 90)
    assert CRS.from_wkt(scene.header["crs"]).to_epsg() == 4326
    assert scene.account.unknown == ("palette",)


# Any other file


def write_any(path, dims, *, attrs=None, name="cube", coords=True, data=None, wavelength="wavelength", **bands):
    """A cube with dimensions in some order; `dims` maps names to axes of CUBE."""
    values = (FILLED if data is None else data).transpose(list(dims.values()))
    with h5netcdf.File(path, "w") as file:
        file.dimensions = dict(zip(dims, values.shape, strict=True))
        fill = values.dtype.type(-9999) if values.dtype.kind == "f" else None
        variable = file.create_variable(name, tuple(dims), values.dtype, data=values, fillvalue=fill)
        for key, value in (attrs or {}).items():
            variable.attrs[key] = value
        band = next(dim for dim, axis in dims.items() if axis == 2)
        if coords:
            centers = file.create_variable(wavelength or band, (band,), "f8", data=NM)
            for key, value in ({"units": "nm"} | bands).items():
                centers.attrs[key] = value
    return path


AXIS_NAMES = [
    ("y", "x", "wavelength"), ("lat", "lon", "bands"), ("latitude", "longitude", "spectral"),
    ("downtrack", "crosstrack", "number_of_bands"), ("line", "sample", "channel"), ("rows", "columns", "wl"),
    ("number_of_scans", "pixels_per_scan", "wavelength_3d"), ("YDim", "XDim", "nBands"), ("row", "col", "lambda"),
    ("scan", "pixels", "blue_bands"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "order"),
    [*((names, (2, 0, 1)) for names in AXIS_NAMES), *((AXIS_NAMES[0], order) for order in permutations(range(3)))],
)
def test_axes_by_the_names_of_dimensions(tmp_path, names, order):
    path = write_any(tmp_path / "a.nc", {names[axis]: axis for axis in order})
    scene = opened(path)
    same_cube(scene)
    np.testing.assert_allclose(scene.axis.centers, NM)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
@pytest.mark.parametrize(
    ("bands", "wavelength"),
    [
        ({"standard_name": "radiation_wavelength"}, "q"),
        ({"standard_name": "sensor_band_central_radiation_wavelength"}, "center"),
        ({}, "wavelength"),
        ({"units": "um"}, "q"),
    ],
)
def test_bands_by_their_coordinate_variable(tmp_path, order, bands, wavelength):
    """The dimensions are named p, q, r: the coordinate variable says which is bands, their order what is a row."""
    dims = {"pqr"[axis]: axis for axis in order}
    rows, columns = (next(name for name, axis in dims.items() if axis == kind) for kind in (0, 1))
    band = "pqr"[2]
    scene = opened(write_any(tmp_path / "a.nc", dims, wavelength=band if wavelength == "q" else wavelength, **bands))
    expected = CUBE if list(dims).index(rows) < list(dims).index(columns) else CUBE.swapaxes(0, 1)
    np.testing.assert_array_equal(np.asarray(scene.cube), expected)


def test_the_axis_that_is_left_is_the_bands(tmp_path):
    scene = opened(write_any(tmp_path / "a.nc", {"layer": 2, "y": 0, "x": 1}, coords=False))
    same_cube(scene)
    assert scene.axis is None


def test_a_moment_in_time(tmp_path):
    xarray.Dataset({"sr": (("time", "wavelength", "y", "x"), np.moveaxis(FILLED, -1, 0)[None])}).to_netcdf(
        tmp_path / "a.nc", engine="h5netcdf", encoding={"sr": {"_FillValue": -9999.0}}
    )
    same_cube(opened(tmp_path / "a.nc"))
    xarray.Dataset({"sr": (("time", "wavelength", "y", "x"), np.zeros((2, 6, 5, 4)))}).to_netcdf(
        tmp_path / "b.nc", engine="h5netcdf"
    )
    with pytest.raises(
        ValueError, match=r"which axes of sr \(time=2, wavelength=6, y=5, x=4\) are row, column and band"
    ):
        opened(tmp_path / "b.nc")


def test_lists_of_spectra(tmp_path):
    spectra = CUBE.reshape(-1, BANDS)[:11]
    for turned in (False, True):
        dims = ("wavelength", "sample") if turned else ("sample", "wavelength")
        data = {"reflectance": (dims, spectra.T if turned else spectra)}
        xarray.Dataset(data, {"wavelength": NM}).to_netcdf(tmp_path / f"{turned}.nc", engine="h5netcdf")
        with pytest.warns(UserWarning, match="nm is assumed"):
            scene = read_scene(tmp_path / f"{turned}.nc")
        np.testing.assert_array_equal(np.asarray(scene.cube), spectra)


def write_plain(path, **data):
    with h5py.File(path, "w") as file:
        for name, values in data.items():
            file[name] = values
    return path


def test_hdf5_without_dimensions(tmp_path):
    """The number of wavelengths says which axis is bands, where only one has it; otherwise the user does."""
    path = write_plain(tmp_path / "a.h5", **{"a/b/cube": np.moveaxis(FILLED, -1, 1), "a/meta/Wavelength": NM / 1000})
    scene = opened(path, keys={"cube": "a/b/cube"}, unit="um")
    same_cube(scene)
    np.testing.assert_allclose(scene.axis.centers, NM)
    for keys in ({"cube": "b/cube"}, {"cube": "a/b/cub"}):
        with pytest.raises(ValueError, match=r"did you mean --key cube=a/b/cube\?"):
            opened(path, keys=keys)
    square = write_plain(tmp_path / "b.h5", cube=np.ones((6, 6, 6), "f4") * np.arange(6, dtype="f4"), wavelength=NM)
    with pytest.raises(ValueError, match=r"such as --key order=band,row,column"):
        opened(square)
    assert opened(square, keys={"order": "band,column,row"}, unit="nm").cube[:, 2, 1].tolist() == list(range(6))
    for order in ("row,column", "row,row,band", "time,row,band"):
        with pytest.raises(ValueError, match="must name the 3 axes"):
            opened(square, keys={"order": order})


def test_keys_reach_into_groups(tmp_path):
    path = write_plain(
        tmp_path / "a.h5",
        **{
            "one/cube": np.moveaxis(FILLED, -1, 0), "two/cube": np.zeros((6, 5, 4), "f4"), "bands/wl": NM,
            "bands/fwhm": np.full(BANDS, 9.0), "bands/use": np.arange(BANDS) != 1,
            "quality/good": (np.arange(20).reshape(5, 4) != 7).astype("u1"),
        },
    )  # fmt: skip
    keys = {
        "cube": "one/cube", "wavelength_nm": "wl", "fwhm": "/bands/fwhm", "good_bands": "use", "mask": "quality/good",
    }  # fmt: skip
    scene = opened(path, keys=keys)
    same_cube(scene)
    np.testing.assert_allclose(scene.axis.centers, NM)
    np.testing.assert_allclose(scene.axis.fwhm, 9)
    np.testing.assert_array_equal(scene.good_bands, np.arange(BANDS) != 1)
    np.testing.assert_array_equal(scene.mask, np.arange(20).reshape(5, 4) != 7)
    assert scene.account.unknown == ("two/cube",)
    with pytest.raises(ValueError, match=r"which variable is the cube\? Say --key cube=NAME.*one/cube.*two/cube"):
        opened(path)
    with pytest.raises(ValueError, match="cube is one/cube and two/cube: say --key cube=one/cube"):
        opened(path, keys={"cube": "cube"})
    with pytest.raises(ValueError, match="image: not a word of --key; here they are cube, pixels, wavelength"):
        opened(path, keys={"image": "one/cube"})


def test_wavelengths_that_are_attributes(tmp_path):
    """As in HDF-EOS5 files of Tanager: lists along the bands are attributes of the cube."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        cube = file.create_dataset("HDFEOS/SWATHS/HYP/Data Fields/surface_reflectance", data=np.moveaxis(FILLED, -1, 0))
        cube.attrs["wavelengths"], cube.attrs["fwhm"] = NM, np.full(BANDS, 5.0)
        cube.attrs["good_wavelengths"] = (np.arange(BANDS) != 0).astype("u1")
    name = "HDFEOS/SWATHS/HYP/Data Fields/surface_reflectance"
    keys = {"wavelength_nm": f"{name}@wavelengths", "fwhm": f"{name}@fwhm", "good_bands": f"{name}@good_wavelengths"}
    scene = opened(tmp_path / "a.h5", keys=keys)
    same_cube(scene)
    np.testing.assert_allclose(scene.axis.centers, NM)
    np.testing.assert_allclose(scene.axis.fwhm, 5)
    np.testing.assert_array_equal(scene.good_bands, np.arange(BANDS) != 0)
    assert scene.account.unknown == ()


def test_files_of_very_many_variables(tmp_path, monkeypatch):
    path = write_plain(tmp_path / "a.h5", **{f"v{i}": np.zeros(1) for i in range(12)})
    monkeypatch.setattr(netcdf_variables, "VARIABLES", 10)
    with pytest.raises(ValueError, match="has 12 variables, more than 10"):
        opened(path)


def test_the_known_name_wins(tmp_path):
    names = ["reflectance", "weights", "aux_reflectance"]
    data = {n: (("y", "x", "wavelength"), CUBE if n == "reflectance" else CUBE * 0 + 1) for n in names}
    xarray.Dataset(data).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    same_cube(opened(tmp_path / "a.nc"))
    xarray.Dataset({n: data[n] for n in names[1:]}).to_netcdf(tmp_path / "b.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match=r"one of weights \(y=5, x=4, wavelength=6\), aux_reflectance"):
        opened(tmp_path / "b.nc")
    xarray.Dataset({"flat": (("y", "x"), CUBE[..., 0])}).to_netcdf(tmp_path / "c.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match="has no variable of rows, columns and bands"):
        opened(tmp_path / "c.nc")


@pytest.mark.parametrize("version", [1, 2])
def test_classic_netcdf(tmp_path, version):
    """NetCDF 3 through the same rules; the cube is a memory map."""
    with netcdf_file(tmp_path / "a.nc", "w", version=version) as file:
        for name, length in (("wavelength", BANDS), ("y", ROWS), ("x", COLUMNS)):
            file.createDimension(name, length)
        wavelength = file.createVariable("wavelength", "d", ("wavelength",))
        wavelength[:], wavelength.units = NM / 1000, "micrometers"
        cube = file.createVariable("reflectance", "f", ("wavelength", "y", "x"))
        cube[:], cube._FillValue = np.moveaxis(FILLED, -1, 0), np.float32(-9999)
    scene = read_scene(tmp_path / "a.nc")
    same_cube(scene)
    np.testing.assert_allclose(scene.axis.centers, NM)
    assert isinstance(scene.cube.source, np.memmap)


# What attributes mean

INTEGERS = np.arange(-60, 60, dtype="i2").reshape(CUBE.shape) * 100
FLOATS = np.arange(120, dtype="f4").reshape(CUBE.shape) / 100


@pytest.mark.parametrize(
    ("data", "attrs", "missing", "factor", "offset"),
    [
        (INTEGERS, {}, None, 1, 0),
        (INTEGERS, {"scale_factor": 1e-4}, None, 1e-4, 0),
        (INTEGERS, {"scale_factor": np.float32(1e-4), "add_offset": 0.25}, None, 1e-4, 0.25),
        (INTEGERS, {"missing_value": np.int16(-300)}, lambda v: v == -300, 1, 0),
        (INTEGERS, {"_FillValue": np.int16(-6000), "missing_value": np.array([100, 200], "i2")},
         lambda v: (v == -6000) | (v == 100) | (v == 200), 1, 0),
        (INTEGERS, {"valid_range": np.array([-100, 3000], "i2")}, lambda v: (v < -100) | (v > 3000), 1, 0),
        (INTEGERS, {"valid_min": np.int16(0), "scale_factor": 1e-4}, lambda v: v < 0, 1e-4, 0),
        (INTEGERS, {"valid_max": 0.2, "scale_factor": 1e-4, "_FillValue": np.int16(-6000)},
         lambda v: (v > 2000) | (v == -6000), 1e-4, 0),  # in values: its type is that of the scale
        (INTEGERS, {"valid_max": np.int16(2000), "scale_factor": 1e-4}, lambda v: v > 2000, 1e-4, 0),
        (FLOATS, {"missing_value": np.array([0.5, 0.75], "f4"), "_FillValue": np.float32(-9999)},
         lambda v: np.isin(v, np.array([0.5, 0.75], "f4")), 1, 0),
        (FLOATS, {"_FillValue": np.float32(np.nan)}, None, 1, 0),
        (FLOATS, {"valid_range": np.array([0.25, 0.75], "f4")}, lambda v: (v < 0.25) | (v > 0.75), 1, 0),
        (INTEGERS.astype("i4"), {"valid_range": np.array([-2**31, 2**31 - 1], "i4")}, None, 1, 0),
    ],
)  # fmt: skip
def test_scale_and_missing_values(tmp_path, data, attrs, missing, factor, offset):
    path = tmp_path / "a.nc"
    fill = attrs.get("_FillValue")
    with h5netcdf.File(path, "w") as file:
        file.dimensions = {"y": ROWS, "x": COLUMNS, "band": BANDS}
        variable = file.create_variable("cube", ("y", "x", "band"), data.dtype, data=data, fillvalue=fill)
        for key, value in attrs.items():
            if key != "_FillValue":
                variable.attrs[key] = value
    gap = np.zeros(data.shape, bool) if missing is None else missing(data)
    scene = read_netcdf(path, Reading())
    assert_close(np.asarray(scene.cube), np.where(gap, np.nan, data * factor + offset).astype("f4"))
    assert scene.account.unknown == ()
    expected = [n for n in ("_FillValue", "missing_value") if n in attrs and not np.isnan(np.ravel(attrs[n])[0])]
    assert scene.stated_nodata == (float(np.ravel(attrs[expected[0]])[0]) if expected else None)
    ranged = any(name.startswith("valid") for name in attrs) and data.dtype != np.int32
    assert [note for note in scene.notes if "outside the valid range" in note] == list(scene.notes)[: int(ranged)]
    if (
        not ranged and np.size(attrs.get("missing_value", 0)) == 1
    ):  # xarray applies no ranges, and warns of several marks
        with xarray.open_dataset(path, engine="h5netcdf") as dataset:
            assert_close(np.asarray(scene.cube), dataset["cube"].to_numpy().astype("f4"))


def test_what_was_never_written_is_missing(tmp_path):
    data = CUBE.copy()
    data[0, 0] = 9.969209968386869e36
    data[0, 1] = -9999
    xarray.Dataset({"cube": (("y", "x", "band"), data)}).to_netcdf(
        tmp_path / "a.nc", engine="h5netcdf", encoding={"cube": {"_FillValue": None}}
    )
    expected = data.copy()
    expected[0, :2] = np.nan
    np.testing.assert_array_equal(np.asarray(opened(tmp_path / "a.nc").cube), expected)


def test_unsigned_numbers_of_classic_files(tmp_path):
    with netcdf_file(tmp_path / "a.nc", "w") as file:
        for name, length in (("y", ROWS), ("x", COLUMNS), ("band", BANDS)):
            file.createDimension(name, length)
        cube = file.createVariable("cube", "b", ("y", "x", "band"))
        cube[:] = (np.arange(120).reshape(CUBE.shape) * 2).astype("u1").view("i1")
        cube._Unsigned = "true"
    np.testing.assert_array_equal(opened(tmp_path / "a.nc").cube[:], np.arange(120).reshape(CUBE.shape) * 2)


def test_what_the_user_says_stands_above_the_file(tmp_path):
    attrs = {
        "scale_factor": 1e-4, "add_offset": 0.5, "missing_value": np.int16(100), "valid_min": np.int16(0),
        "Scale_Factor": 10000.0, "Data_Ignore_Value": 3.0,
    }  # fmt: skip
    path = write_any(tmp_path / "a.nc", {"y": 0, "x": 1, "band": 2}, data=INTEGERS, attrs=attrs)
    with pytest.raises(ValueError, match=r"attribute Scale_Factor = 10000 is of no convention .* with --scale"):
        opened(path, nodata=200)
    with pytest.raises(ValueError, match=r"Data_Ignore_Value = 3 .* with --nodata"):
        opened(path, scale=2.0)
    found = np.asarray(opened(path, scale=2.0, nodata=200).cube)
    np.testing.assert_array_equal(found, np.where((INTEGERS < 0) | (INTEGERS == 200), np.nan, INTEGERS * 2.0))
    found = np.asarray(opened(path, scale=2.0, offset=1.0, nodata="none").cube)
    np.testing.assert_array_equal(found, INTEGERS * 2.0 + 1)


@pytest.mark.parametrize(
    ("attrs", "message"),
    [
        ({"scale_factor": np.inf}, "scale_factor must be one finite number, got inf: give --scale"),
        ({"scale_factor": 0.0}, "scale_factor is 0: give --scale"),
        ({"scale_factor": np.array([1.0, 2.0])}, "scale_factor must be one finite number"),
        ({"scale_factor": "0.1"}, "scale_factor must be one finite number, got 0.1"),
        ({"add_offset": np.nan}, "add_offset must be one finite number, got nan: give --offset"),
        ({"missing_value": "none"}, "missing_value must be a number, got 'none': give --nodata"),
        ({"missing_value": 0.5}, "missing_value = 0.5 is no number of type int16"),
        ({"valid_range": np.array([5, 1], "i2")}, "the valid range is 5 to 1, which holds no value"),
        ({"valid_range": np.array([1, 2, 3], "i2")}, "valid_range must be two numbers"),
        ({"gain": 3.0}, "attribute gain = 3 is of no convention"),
        (
            {"Fill": 3.0},
            "attribute Fill = 3 is of no convention and may change the numbers: say what holds with --nodata",
        ),
    ],
)
def test_attributes_that_cannot_be_honoured(tmp_path, attrs, message):
    path = write_any(tmp_path / "a.nc", {"y": 0, "x": 1, "band": 2}, data=INTEGERS, attrs=attrs)
    with pytest.raises(ValueError, match=message) as caught:
        opened(path)
    assert str(caught.value).startswith(f"{path}: cube: ")


@pytest.mark.parametrize(
    ("name", "attrs", "quantity"),
    [
        ("reflectance", {}, "reflectance"), ("rhos", {}, "reflectance"), ("sr", {}, "reflectance"),
        ("cube", {"standard_name": "surface_bidirectional_reflectance"}, "reflectance"),
        ("cube", {"standard_name": "toa_outgoing_radiance_per_unit_wavelength"}, "radiance"),
        ("cube", {"standard_name": "toa_brightness_temperature"}, "brightness temperature"),
        ("cube", {"long_name": "Emissivity of the surface"}, "emissivity"),
        ("Rrs", {"long_name": "Remote sensing reflectance"}, "remote sensing reflectance"),
        ("rdn", {}, "radiance"), ("cube", {}, "value"), ("data", {"long_name": "Spectral data"}, "value"),
        ("cube", {"standard_name": "solar_irradiance"}, "value"),
    ],
)  # fmt: skip
def test_quantities(tmp_path, name, attrs, quantity):
    path = write_any(tmp_path / "a.nc", {"y": 0, "x": 1, "band": 2}, name=name, attrs=attrs)
    assert opened(path).quantity == quantity
    assert opened(path, quantity="counts").quantity == "counts"


@pytest.mark.parametrize(
    ("name", "attrs"), [("rhot", {}), ("cube", {"standard_name": "toa_bidirectional_reflectance"})]
)
def test_reflectance_at_the_top_of_the_atmosphere_is_noted(tmp_path, name, attrs):
    scene = opened(write_any(tmp_path / "a.nc", {"y": 0, "x": 1, "band": 2}, name=name, attrs=attrs))
    assert scene.quantity == "reflectance"
    assert any("top of the atmosphere" in note for note in scene.notes)


@pytest.mark.parametrize("unit", ["%", "percent"])
def test_per_cent_becomes_fractions(tmp_path, unit):
    attrs = {"units": unit, "scale_factor": 0.5, "add_offset": 2.0}
    path = write_any(tmp_path / "a.nc", {"y": 0, "x": 1, "band": 2}, name="reflectance", data=FLOATS, attrs=attrs)
    scene = opened(path)
    assert_close(np.asarray(scene.cube), (FLOATS * 0.5 + 2) / 100)
    assert any("in per cent" in note for note in scene.notes)
    assert_close(np.asarray(opened(path, scale=3.0).cube), FLOATS * 3)


@pytest.mark.parametrize(
    ("factor", "attrs", "told", "centers", "unit"),
    [
        (1, {"units": "nm"}, {}, NM, "nm"), (1e-3, {"units": "um"}, {}, NM, "nm"),
        (1e-3, {"units": "µm"}, {}, NM, "nm"),
        (1e-9, {"units": "m"}, {}, NM, "nm"), (10, {"units": "angstrom"}, {}, NM, "nm"),
        (1, {"units": "cm-1"}, {}, NM, "cm-1"), (100, {"units": "m-1"}, {}, NM, "cm-1"),
        (1, {"units": "1"}, {"unit": "nm"}, NM, "nm"),
        (1e-3, {"units": "nm"}, {"unit": "um", "force_unit": True}, NM, "nm"),
        (1e-3, {"units": "furlong"}, {"unit": "um", "force_unit": True}, NM, "nm"),
        (0.5, {"units": "nm", "scale_factor": 2.0}, {}, NM, "nm"),
    ],
)  # fmt: skip
def test_units_of_wavelengths_and_widths(tmp_path, factor, attrs, told, centers, unit):
    with h5netcdf.File(tmp_path / "a.nc", "w") as file:
        file.dimensions = {"y": ROWS, "x": COLUMNS, "band": BANDS}
        file.create_variable("cube", ("y", "x", "band"), "f4", data=FLOATS)
        for name, values in (("wavelength", NM), ("fwhm", np.full(BANDS, 10.0))):
            variable = file.create_variable(name, ("band",), "f8", data=values * factor)
            for key, value in attrs.items():
                variable.attrs[key] = value
    axis = opened(tmp_path / "a.nc", **told).axis
    assert axis.unit == unit
    np.testing.assert_allclose(axis.centers, centers, rtol=1e-12)
    np.testing.assert_allclose(axis.fwhm, 10, rtol=1e-12)


def test_units_that_do_not_agree(tmp_path):
    path = write_any(tmp_path / "a.nc", {"y": 0, "x": 1, "band": 2}, units="furlong")
    with pytest.raises(ValueError, match=r"units of wavelength: .*'furlong' is not one of nm.*--force-unit"):
        opened(path)
    path = write_any(tmp_path / "b.nc", {"y": 0, "x": 1, "band": 2}, units="nm")
    with pytest.raises(ValueError, match="states that its axis is in nm, --unit says um"):
        opened(path, unit="um")


def test_widths_in_another_unit_than_the_wavelengths(tmp_path):
    path = write_any(tmp_path / "a.nc", {"y": 0, "x": 1, "band": 2})
    with h5netcdf.File(path, "a") as file:
        file.create_variable("fwhm", ("band",), "f8", data=np.full(BANDS, 0.01)).attrs["units"] = "um"
    np.testing.assert_allclose(opened(path).axis.fwhm, 10)


def test_bands(tmp_path):
    path = write_any(tmp_path / "a.nc", {"y": 0, "x": 1, "band": 2})
    with h5netcdf.File(path, "a") as file:
        file.create_variable("bad_bands", ("band",), "i4", data=np.arange(BANDS) == 2)
    with pytest.raises(ValueError, match="bad_bands marks bands, and nothing says whether 1 is good or bad"):
        opened(path)
    np.testing.assert_array_equal(opened(path, bad_bands="3").good_bands, np.arange(BANDS) != 2)
    good = opened(path, keys={"good_bands": "bad_bands"}).good_bands
    np.testing.assert_array_equal(good, np.arange(BANDS) == 2)
    with h5netcdf.File(path, "a") as file:
        file.create_variable("centers", ("band",), "f8", data=NM + 1).attrs["standard_name"] = "radiation_wavelength"
        file.create_variable("short", ("y",), "f8", data=NM[:ROWS])
    with pytest.raises(
        ValueError, match=r"which are the wavelengths\? Say --key wavelength=NAME, one of wavelength .*centers"
    ):
        opened(path, bad_bands="3")
    np.testing.assert_allclose(
        opened(path, bad_bands="3", keys={"wavelength": "centers"}, unit="nm").axis.centers, NM + 1
    )
    with pytest.raises(ValueError, match="short lists 5 values for 6 bands"):
        opened(path, bad_bands="3", keys={"wavelength": "short"})
    with pytest.raises(ValueError, match="mask short has shape"):
        opened(path, bad_bands="3", keys={"wavelength": "centers", "mask": "short"}, unit="nm")


# Where it lies


def write_grid(path, x, y, *, stated=None, names=("y", "x"), wkt=UTM):
    dataset = xarray.Dataset(
        {"cube": ((*names, "band"), np.ones((len(y), len(x), BANDS), "f4") * CUBE[0, 0], {"grid_mapping": "crs"})},
        coords={
            names[1]: (names[1], x, {"standard_name": "projection_x_coordinate"} if names[1] == "x" else {}),
            names[0]: (names[0], y, {"standard_name": "projection_y_coordinate"} if names[0] == "y" else {}),
        },
    )
    attrs = {"spatial_ref": wkt, "grid_mapping_name": "transverse_mercator"}
    attrs |= {} if stated is None else {"GeoTransform": stated}
    dataset["crs"] = ((), 0, attrs)
    dataset.to_netcdf(path, engine="h5netcdf", encoding={"cube": {"_FillValue": -9999.0}})
    return path


EAST, NORTH = 380002.5 + 5 * np.arange(COLUMNS), 3779997.5 - 5 * np.arange(ROWS)


@pytest.mark.parametrize(
    ("x", "y", "stated", "note"),
    [
        (EAST, NORTH, None, None),
        (EAST, NORTH, "380000 5 0 3780000 0 -5", None),
        (EAST.astype("f4"), NORTH.astype("f4"), None, None),
        (EAST.astype("f4"), NORTH.astype("f4"), "380000 5 0 3780000 0 -5", None),
        (EAST, NORTH[::-1].copy(), "380000 5 0 3780000 0 -5", None),  # from south to north
        (EAST[1:], NORTH[2:], "380000 5 0 3780000 0 -5", "disagree"),  # a part, cut out without the attribute
        (EAST[::-1].copy(), NORTH, None, None),
    ],
)
def test_regular_grids(tmp_path, x, y, stated, note):
    scene = opened(write_grid(tmp_path / "a.nc", x, y, stated=stated))
    a, b, c, d, e, f = scene.header["transform"]
    assert (b, d) == (0, 0)
    np.testing.assert_allclose(a * (np.arange(len(x)) + 0.5) + c, x, atol=0.1)
    np.testing.assert_allclose(e * (np.arange(len(y)) + 0.5) + f, y, atol=0.3)
    assert CRS.from_wkt(scene.header["crs"]).to_epsg() == 32611
    assert bool(note) == any("disagree" in text for text in scene.notes)
    if x[1] > x[0] and y[1] < y[0] and not note and x.dtype == np.float64:  # as GDAL says
        with rasterio.open(f"netcdf:{tmp_path / 'a.nc'}:cube") as raster:
            np.testing.assert_allclose(scene.header["transform"], tuple(raster.transform)[:6])


def test_a_rotated_grid(tmp_path):
    with h5netcdf.File(tmp_path / "a.nc", "w") as file:
        file.dimensions = {"line": ROWS, "sample": COLUMNS, "band": BANDS}
        cube = file.create_variable("cube", ("line", "sample", "band"), "f4", data=FLOATS)
        cube.attrs["grid_mapping"] = "crs"
        mapping = file.create_variable("crs", (), "i4")
        mapping.attrs["spatial_ref"], mapping.attrs["GeoTransform"] = UTM, "380000 4 3 3780000 3 -4"
    assert opened(tmp_path / "a.nc").header["transform"] == (4, 3, 380000, 3, -4, 3780000)


def test_coordinates_that_are_no_grid(tmp_path):
    x, y = np.array([0.0, 1, 2, 5]), np.arange(ROWS) * 1.0
    scene = opened(write_grid(tmp_path / "a.nc", x, y))
    assert any("not evenly spaced" in note for note in scene.notes)
    assert "transform" not in scene.header
    scene = opened(write_grid(tmp_path / "b.nc", x, y, names=("lat", "lon")))
    np.testing.assert_array_equal(scene.header["location"]["lon"], np.broadcast_to(x, (ROWS, COLUMNS)))
    np.testing.assert_array_equal(scene.header["location"]["lat"], np.broadcast_to(y[:, None], (ROWS, COLUMNS)))


def test_attributes_cannot_pose_as_a_place(tmp_path):
    path = write_any(tmp_path / "a.nc", {"y": 0, "x": 1, "band": 2})
    with h5netcdf.File(path, "a") as file:
        for name in ("crs", "transform", "location", "map info", "glt"):
            file.attrs[name] = "x\n}"
    scene = opened(path)
    assert not {"crs", "transform", "location", "map info", "glt"} & set(scene.header)
    assert set(scene.account.unknown) == {"/crs", "/transform", "/location", "/map info", "/glt"}


# Files that are something else


def test_every_attribute_is_accounted(tmp_path):
    path = write_any(tmp_path / "a.nc", {"y": 0, "x": 1, "band": 2}, attrs={"strange": 3.5, "long_name": "Cube"})
    with h5netcdf.File(path, "a") as file:
        file.attrs["title"], file.attrs["mystery"] = "A title", "x"
        group = file.create_group("more")
        group.attrs["note"] = "y"
        extra = group.create_variable("extra", ("y",), "f4", data=np.zeros(ROWS))
        extra.attrs["scale_factor"], extra.attrs["odd"] = 2.0, 1.0
    account = opened(path).account
    assert set(account.unknown) == {"cube@strange", "mystery", "more@note", "more/extra", "more/extra@odd"}
    assert set(account.carried) >= {"title", "more/extra@scale_factor"}
    assert set(account.used) >= {"cube", "cube@long_name", "wavelength", "wavelength@units", "cube@_FillValue"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x0e\x03\x13\x01" + bytes(100), "is HDF4"),
        (b"nothing of the kind" * 30, "is not an HDF5"),
        (b"", "is not an HDF5"),
        (b"CDF\x01", "is truncated"),
        (b"CDF\x03" + bytes(50), "is not an HDF5"),
    ],
)
def test_files_that_are_something_else(tmp_path, content, message):
    (tmp_path / "a.nc").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_scene(tmp_path / "a.nc")
    assert "a.nc" in str(caught.value)


def test_complex_numbers(tmp_path):
    path = write_plain(tmp_path / "a.h5", cube=CUBE + 1j, wavelength=NM)
    for keys in ({}, {"cube": "cube"}):
        with pytest.raises(ValueError, match="cube holds complex numbers, which are not real numbers"):
            opened(path, keys=keys)
    path = write_plain(tmp_path / "b.h5", cube=np.zeros((2, 3, 4), "S3"))
    with pytest.raises(ValueError, match="cube holds values of type"):
        opened(path, keys={"cube": "cube"})


def test_files_that_name_others(tmp_path):
    write_plain(tmp_path / "secret.h5", data=CUBE)
    with h5py.File(tmp_path / "a.nc", "w") as file:
        file["reflectance"] = h5py.ExternalLink("secret.h5", "/data")
    with pytest.raises(ValueError, match=r"a.nc: reflectance is a link to another file"):
        read_scene(tmp_path / "a.nc")


def test_cubes_larger_than_their_file(tmp_path):
    with h5netcdf.File(tmp_path / "a.nc", "w") as file:
        file.dimensions = {"y": 100_000, "x": 100_000, "band": 200}
        file.create_variable("reflectance", ("y", "x", "band"), "f4", chunks=(10, 10, 10))
    with pytest.raises(ValueError, match=r"a.nc: reflectance declares 8,000,000,000,000 bytes"):
        read_scene(tmp_path / "a.nc")


def test_emit_without_its_library(tmp_path, monkeypatch):
    path = write_emit(tmp_path / "emit.nc", CUBE, NM)
    with pytest.raises(ValueError, match=r"no variable 'radiance'.*It has reflectance \(downtrack=5"):
        read_scene(path, keys={"cube": "radiance"})
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"pip install '.\[io\]'"):
        read_scene(path)


def test_windows_of_cubes_that_stay_in_their_file(tmp_path):
    path = write_aviris(tmp_path / "a.nc")
    scene = read_scene(path, rows=(1, 4), columns=(0, 3))
    np.testing.assert_array_equal(np.asarray(scene.cube), CUBE[1:4, :3])
    assert isinstance(read_scene(path).cube.source, HdfArray)
    with Rows(read_scene(write_emit(tmp_path / "b.nc", CUBE, NM)).cube) as rows:  # in one piece: read as a plain file
        assert rows.path == tmp_path / "b.nc"
        out = np.empty((3 * COLUMNS, BANDS), "f4")
        rows.read(1, 4, out)
    np.testing.assert_array_equal(out, CUBE[1:4].reshape(-1, BANDS))
