"""NetCDF through xarray; cubes stay in their file."""

from pathlib import Path
from typing import Any

import numpy as np

from unmix_jax.scenes.lazy import LazyCube
from unmix_jax.scenes.reading import Reading
from unmix_jax.scenes.scene import Header, Scene
from unmix_jax.scenes.units import missing, spectral_axis

__all__ = ["read_netcdf"]


def read_netcdf(path: Path, told: Reading) -> Scene:
    """Open a NetCDF file in the layout of EMIT L2A: ``reflectance`` and ``sensor_band_parameters``.

    The header carries the attributes of the file and, under ``location``, the variables of that group
    (``lat``, ``lon``, ``glt_x``, ``glt_y``), each read by ``np.asarray``.
    """
    try:
        import h5netcdf  # noqa: F401
        import xarray
    except ImportError:
        raise missing("io", "xarray and h5netcdf", f"{path}: a NetCDF file") from None
    try:
        tree = xarray.open_datatree(path, engine="h5netcdf", cache=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a readable NetCDF file ({error})") from None
    variable, unit = told.keys.get("cube"), told.unit
    names = [str(n) for n in tree.data_vars]
    cubes = [n for n in names if tree[n].ndim == 3]
    wanted = variable or next((n for n in ("reflectance", "radiance") if n in cubes), None)
    if wanted not in cubes:
        found = ", ".join(names) or "none"
        raise ValueError(f"{path}: no (row, column, band) variable {wanted or 'reflectance'}; found {found}")
    cube = LazyCube(tree[wanted].variable)
    axis, good = _emit_bands(tree, cube.shape[-1], unit, path)
    header = Header({str(k): v for k, v in tree.attrs.items()})
    if "location" in tree:
        header["location"] = {str(n): v.variable for n, v in tree["location"].data_vars.items()}
    return Scene(
        cube,
        axis,
        good_bands=good,
        name=path.stem,
        quantity="radiance" if wanted == "radiance" else "reflectance",
        header=header,
    )


def _emit_bands(tree: Any, bands: int, unit: str | None, path: Path) -> tuple[Any, Any]:
    """Spectral axis and good bands of an EMIT tree, None where they are not given."""
    if "sensor_band_parameters" not in tree:
        return None, None
    group = tree["sensor_band_parameters"]
    values = {str(n): np.asarray(v).ravel() for n, v in group.data_vars.items() if v.ndim == 1}
    for name, value in values.items():
        if name in ("wavelengths", "fwhm", "good_wavelengths") and len(value) != bands:
            raise ValueError(f"{path}: {name} lists {len(value)} values for {bands} bands")
    good = values.get("good_wavelengths")
    axis = None
    if "wavelengths" in values:
        said = unit or group["wavelengths"].attrs.get("units")
        axis = spectral_axis(values["wavelengths"], fwhm=values.get("fwhm"), unit=said, where=str(path))
    return axis, None if good is None else np.nan_to_num(good) != 0
