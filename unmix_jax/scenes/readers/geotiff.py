"""GeoTIFF through rasterio; the cube stays in its file."""

import warnings
from pathlib import Path
from typing import Any

from unmix_jax.scenes.lazy import NODATA, LazyCube, RasterBands
from unmix_jax.scenes.reading import Reading
from unmix_jax.scenes.scene import Header, Scene, SpectralAxis
from unmix_jax.scenes.units import missing, spectral_axis

__all__ = ["read_geotiff"]


def read_geotiff(path: Path, told: Reading) -> Scene:
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
    axis, header = _band_axis(raster, told.unit, path), _georeference(raster)
    if source.dtype.kind not in "iuf":
        raise ValueError(f"{path}: values of type {source.dtype} are not real numbers")
    cube = LazyCube(source, divisor=1 / (scales.pop() or 1.0), offset=offsets.pop(), nodata=nodata)
    return Scene(cube, axis, stated_nodata=raster.nodata, name=path.stem, header=header)


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
