"""Write NetCDF files in the layout of EMIT L2A: reflectance, its uncertainty, and the mask.

Names, attributes and types are those that https://github.com/emit-sds/emit-sds-l2a (output_conversion.py) and
https://github.com/emit-sds/emit-utils (daac_converter.py) write.
"""

from pathlib import Path

import h5netcdf
import h5py
import numpy as np

WGS84 = (
    'GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563,AUTHORITY["EPSG","7030"]],'
    'AUTHORITY["EPSG","6326"]],PRIMEM["Greenwich",0,AUTHORITY["EPSG","8901"]],UNIT["degree",0.0174532925199433,'
    'AUTHORITY["EPSG","9122"]],AXIS["Latitude",NORTH],AXIS["Longitude",EAST],AUTHORITY["EPSG","4326"]]'
)
GEOTRANSFORM = (-118.2, 5e-4, 0.0, 34.3, 0.0, -5e-4)  # GDAL's order: x, dx, rotation, y, rotation, dy
MASK_BANDS = (
    "Cloud flag", "Cirrus flag", "Water flag", "Spacecraft Flag", "Dilated Cloud Flag", "AOD550", "H2O (g cm-2)",
    "Aggregate Flag",
)  # fmt: skip
FLIGHT_LINE, START = "emit20241006t165200_o28011_s000", "2024-10-06T16:52:00+0000"
ATTRIBUTES = {
    "ncei_template_version": "NCEI_NetCDF_Swath_Template_v2.0",
    "summary": "Reflectance values are reported as fractions (relative to 1).",
    "keywords": "Imaging Spectroscopy, minerals, EMIT, dust, radiative forcing",
    "Conventions": "CF-1.63",
    "sensor": "EMIT (Earth Surface Mineral Dust Source Investigation)",
    "instrument": "EMIT",
    "platform": "ISS",
    "institution": "NASA Jet Propulsion Laboratory/California Institute of Technology",
    "license": "https://science.nasa.gov/earth-science/earth-science-data/data-information-policy/",
    "naming_authority": "LPDAAC",
    "date_created": "2024-10-09T02:59:28Z",
    "keywords_vocabulary": "NASA Global Change Master Directory (GCMD) Science Keywords",
    "stdname_vocabulary": "NetCDF Climate and Forecast (CF) Metadata Convention",
    "creator_name": "Jet Propulsion Laboratory/California Institute of Technology",
    "creator_url": "https://earth.jpl.nasa.gov/emit/",
    "project": "Earth Surface Mineral Dust Source Investigation",
    "project_url": "https://earth.jpl.nasa.gov/emit/",
    "publisher_name": "NASA LPDAAC",
    "publisher_url": "https://lpdaac.usgs.gov",
    "publisher_email": "lpdaac@usgs.gov",
    "identifier_product_doi_authority": "https://doi.org",
    "time_coverage_end": "2024-10-06T16:52:12+0000",
    "software_build_version": "010619",
    "software_delivery_version": "010619",
    "product_version": "V001",
    "history": "PGE Run Command: {spectrum_quality.py}",
    "crosstrack_orientation": "as seen on ground",
    "easternmost_longitude": -114.70034790991087,
    "northernmost_latitude": 33.3865592156276,
    "westernmost_longitude": -115.94639824146,
    "southernmost_latitude": 32.36390868242409,
    "spatialResolution": 0.000542232520256367,
    "day_night_flag": "Day",
}


def write_emit(
    path: Path,
    cube,
    wavelengths,
    *,
    fwhm=None,
    good=None,
    nodata=-9999.0,
    name="reflectance",
    flight_line=FLIGHT_LINE,
    start=START,
    glt=None,
) -> Path:
    """Root `name`, groups ``sensor_band_parameters`` and ``location``; NaN becomes `nodata`.

    `glt` are x and y of the lookup table; without it a table names the pixels one after the other.
    """
    rows, columns, bands = cube.shape
    fwhm = np.full(bands, 8.5) if fwhm is None else fwhm
    good = np.ones(bands) if good is None else good
    with h5netcdf.File(path, "w") as file:
        _root(file, cube.shape, glt, flight_line, start)
        filled = np.where(np.isnan(cube), nodata, cube).astype("f4")
        unit = {"long_name": "Hemispherical-Directional Reflectance Factor", "units": "unitless"}
        if name == "reflectance":
            unit["standard_name"] = "surface_bidirectional_reflectance"
        _add(file, name, ("downtrack", "crosstrack", "bands"), filled, np.float32(nodata), **unit)
        group = file.create_group("sensor_band_parameters")
        _add(group, "wavelengths", ("bands",), np.asarray(wavelengths, "f4"), np.float32(-9999),
             long_name="Wavelength Centers", units="nm", standard_name="radiation_wavelength")  # fmt: skip
        _add(group, "fwhm", ("bands",), np.asarray(fwhm, "f4"), np.float32(-9999),
             long_name="Full Width at Half Max", units="nm")  # fmt: skip
        _add(group, "good_wavelengths", ("bands",), np.asarray(good, "u1"), None,
             long_name="Wavelengths where reflectance is useable: 1 = good data, 0 = bad data",
             units="unitless")  # fmt: skip
        _location(file, rows, columns, glt)
    return path


def write_emit_mask(path: Path, layers, *, names=MASK_BANDS, flight_line=FLIGHT_LINE, start=START) -> Path:
    """Root ``mask`` and ``band_mask``, with the names of the bands of the mask."""
    rows, columns = layers.shape[:2]
    with h5netcdf.File(path, "w") as file:
        _root(file, layers.shape, None, flight_line, start)
        file.dimensions["packed_wavelength_bands"] = 36
        _add(file, "mask", ("downtrack", "crosstrack", "bands"), layers.astype("f4"), np.float32(-9999),
             long_name="Masks", units="unitless")  # fmt: skip
        _add(file, "band_mask", ("downtrack", "crosstrack", "packed_wavelength_bands"),
             np.zeros((rows, columns, 36), "u1"), None, long_name="Per-Wavelength Mask", units="unitless")  # fmt: skip
        group = file.create_group("sensor_band_parameters")
        words = group.create_variable("mask_bands", ("bands",), h5py.string_dtype())
        words[...] = np.array(names, object)
        words.attrs["long_name"] = "Mask Band Names"
        _location(file, rows, columns, None)
    return path


def _root(file, shape, glt, flight_line, start):
    """Dimensions and attributes of the file."""
    rows, columns, bands = shape
    grid = (rows + 2, columns + 1) if glt is None else np.shape(glt[0])
    file.dimensions = {
        "downtrack": rows, "crosstrack": columns, "bands": bands, "ortho_y": grid[0], "ortho_x": grid[1],
    }  # fmt: skip
    file.attrs["title"] = "EMIT L2A Estimated Surface Reflectance 60 m V001"
    for key, value in ATTRIBUTES.items():
        file.attrs[key] = value
    file.attrs["flight_line"], file.attrs["time_coverage_start"] = flight_line, start
    file.attrs["spatial_ref"] = WGS84
    file.attrs["geotransform"] = np.array(GEOTRANSFORM)


def _location(file, rows, columns, glt):
    """The group of places."""
    place = file.create_group("location")
    lat = np.linspace(34.3, 34.2, rows)[:, None] + np.linspace(0, 1e-3, columns)
    lon = np.linspace(-118.2, -118.1, columns) + np.linspace(0, 1e-3, rows)[:, None]
    image, grid = ("downtrack", "crosstrack"), ("ortho_y", "ortho_x")
    for name, value, said, unit in (
        ("lon", lon, "Longitude (WGS-84)", "degrees east"),
        ("lat", lat, "Latitude (WGS-84)", "degrees north"),
        ("elev", 100 + lat, "Surface Elevation", "m"),
    ):
        _add(place, name, image, value, -9999.0, long_name=said, units=unit)
    if glt is None:
        number = np.arange((rows + 2) * (columns + 1)).reshape(rows + 2, columns + 1)
        named = (number >= 1) & (number <= rows * columns)
        glt = (np.where(named, (number - 1) % columns + 1, 0), np.where(named, (number - 1) // columns + 1, 0))
    for name, value, said in (("glt_x", glt[0], "GLT Sample Lookup"), ("glt_y", glt[1], "GLT Line Lookup")):
        _add(place, name, grid, np.asarray(value, "i4"), np.int32(-9999), long_name=said, units="pixel location")


def _add(group, name, dimensions, data, fill, **attributes):
    """A variable with its attributes."""
    variable = group.create_variable(name, dimensions, data.dtype, data=data, fillvalue=fill)
    for key, value in attributes.items():
        variable.attrs[key] = value
