"""Write a NetCDF file in the layout of EMIT L2A reflectance."""

from pathlib import Path

import h5netcdf
import numpy as np


def write_emit(path: Path, cube, wavelengths, *, fwhm=None, good=None, nodata=-9999.0) -> Path:
    """Root ``reflectance``, groups ``sensor_band_parameters`` and ``location``; NaN becomes `nodata`."""
    rows, columns, bands = cube.shape
    fwhm = np.full(bands, 8.5) if fwhm is None else fwhm
    good = np.ones(bands) if good is None else good
    with h5netcdf.File(path, "w") as file:
        file.dimensions = {
            "downtrack": rows,
            "crosstrack": columns,
            "bands": bands,
            "ortho_y": rows + 2,
            "ortho_x": columns + 1,
        }
        file.attrs["title"] = "EMIT L2A Estimated Surface Reflectance 60 m V001"
        file.attrs["geotransform"] = np.array([-118.2, 5e-4, 0.0, 34.3, 0.0, -5e-4])
        filled = np.where(np.isnan(cube), nodata, cube).astype("f4")
        variable = file.create_variable(
            "reflectance",
            ("downtrack", "crosstrack", "bands"),
            "f4",
            data=filled,
            fillvalue=np.float32(nodata),
        )
        variable.attrs["units"] = "unitless"
        group = file.create_group("sensor_band_parameters")
        group.create_variable("wavelengths", ("bands",), "f4", data=np.asarray(wavelengths, "f4"))
        group["wavelengths"].attrs["units"] = "nm"
        group.create_variable("fwhm", ("bands",), "f4", data=np.asarray(fwhm, "f4"))
        group["fwhm"].attrs["units"] = "nm"
        group.create_variable("good_wavelengths", ("bands",), "f4", data=np.asarray(good, "f4"))
        place = file.create_group("location")
        lat = np.linspace(34.3, 34.2, rows)[:, None] + np.zeros(columns)
        for name in ("lat", "lon"):
            place.create_variable(name, ("downtrack", "crosstrack"), "f8", data=lat)
        for name in ("glt_x", "glt_y"):
            table = np.arange((rows + 2) * (columns + 1)).reshape(rows + 2, columns + 1)
            place.create_variable(name, ("ortho_y", "ortho_x"), "i4", data=table.astype("i4"))
    return path
