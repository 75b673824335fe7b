"""GeoTIFF through rasterio and EMIT L2A NetCDF through xarray; both stay in their file."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from unmix_jax.scenes.lazy import NODATA, LazyCube, RasterBands
from unmix_jax.scenes.scene import Header, Scene, SpectralAxis
from unmix_jax.scenes.units import missing, spectral_axis

__all__ = ["read_emit", "read_geotiff"]


def read_geotiff(path: Path, *, unit: str | None) -> Scene:
    """Open a GeoTIFF; bands are read by rows of pixels when they are asked for.

    Wavelengths come from the bands' tags (``wavelength`` or GDAL's ``CENTRAL_WAVELENGTH_UM``). The header
    carries ``crs`` (WKT) and ``transform`` (six numbers, as rasterio takes them back), and the same as ENVI
    ``map info`` and ``coordinate system string``.
    """
    try:
        import rasterio
    except ImportError:
        raise missing("geo", "rasterio", f"{path}: a GeoTIFF") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            raster = rasterio.open(path)
    except rasterio.errors.RasterioIOError as error:
        raise ValueError(f"{path} is not a readable raster ({error})") from None
    scales, offsets = set(raster.scales), set(raster.offsets)
    if max(len(scales), len(offsets), len(set(raster.dtypes))) > 1:
        raise ValueError(f"{path}: data type, scale or offset differs from band to band: not supported")
    source, nodata = RasterBands(raster), NODATA if raster.nodata is None else raster.nodata
    axis, header = _band_axis(raster, unit, path), _georeference(raster)
    if source.dtype.kind not in "iuf":
        raise ValueError(f"{path}: values of type {source.dtype} are not real numbers")
    cube = LazyCube(source, divisor=1 / (scales.pop() or 1.0), offset=offsets.pop(), nodata=nodata)
    return Scene(cube, axis, name=path.stem, header=header)


def read_emit(path: Path, *, variable: str | None, unit: str | None) -> Scene:
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
        unit="radiance" if wanted == "radiance" else "reflectance",
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


def _band_axis(raster: Any, unit: str | None, path: Path) -> SpectralAxis | None:
    """Spectral axis out of the tags of the bands, None unless every band has one."""
    tags = [{k.lower(): v for k, v in raster.tags(i).items()} for i in raster.indexes]
    imagery = [raster.tags(i, ns="IMAGERY") for i in raster.indexes]
    if all("wavelength" in t for t in tags):
        said = unit or tags[0].get("wavelength_units")
        centers, widths = [t["wavelength"] for t in tags], [t.get("fwhm") for t in tags]
    elif all("CENTRAL_WAVELENGTH_UM" in t for t in imagery):
        said = "um"
        centers, widths = (
            [t["CENTRAL_WAVELENGTH_UM"] for t in imagery],
            [t.get("FWHM_UM") for t in imagery],
        )
    else:
        return None
    try:
        numbers = [float(c) for c in centers]
        fwhm = [float(w) for w in widths if w is not None] if all(widths) else None
    except ValueError as error:
        raise ValueError(f"{path}: a band's wavelength is not a number ({error})") from None
    return spectral_axis(numbers, fwhm=fwhm, unit=said, where=str(path))


def _georeference(raster: Any) -> Header:
    """Coordinate system and transform, for rasterio and for ENVI headers."""
    header = Header({str(k): v for k, v in raster.tags().items()})
    if raster.crs is None:
        return header
    transform = raster.transform
    header["crs"], header["transform"] = raster.crs.to_wkt(), tuple(transform)[:6]
    header["coordinate system string"] = raster.crs.to_wkt(version="WKT1_ESRI").split(",")
    if transform.b == 0 and transform.d == 0 and transform.a > 0 and transform.e < 0:  # north is up
        code = raster.crs.to_epsg() or 0
        corner = ["1", "1", *(repr(float(v)) for v in (transform.c, transform.f, transform.a, -transform.e))]
        if raster.crs.is_geographic:
            header["map info"] = ["Geographic Lat/Lon", *corner, "WGS-84", "units=Degrees"]
        elif code // 100 in (326, 327):
            side = "North" if code // 100 == 326 else "South"
            header["map info"] = ["UTM", *corner, str(code % 100), side, "WGS-84", "units=Meters"]
        else:
            header["map info"] = ["Arbitrary", *corner]
    return header
