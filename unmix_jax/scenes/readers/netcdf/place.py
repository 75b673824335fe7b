"""The place of an image in a NetCDF or HDF5 file: a grid, latitude and longitude of each pixel, a lookup table."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from unmix_jax.scenes.lazy import LazyCube
from unmix_jax.scenes.readers.netcdf import cf
from unmix_jax.scenes.readers.netcdf.variables import COLUMN, ROW, Variables, above, group_of, letters
from unmix_jax.scenes.scene import Header

__all__ = ["place"]

LATITUDE, LONGITUDE = ("lat", "latitude", "latitudes"), ("lon", "long", "longitude", "longitudes")
HEIGHT = ("elev", "elevation")
PLACES = ("location", "navigation_data", "geolocation_data")  # groups that hold the place of each pixel
COUNTED = (  # coordinates of these names count lines and pixels; they are no place on Earth
    "line", "lines", "sample", "samples", "row", "rows", "column", "columns", "downtrack", "crosstrack", "scan",
    "scans", "pixel", "pixels",
)  # fmt: skip
TABLES = (("location", "glt_x", "glt_y"), ("geolocation_lookup_table", "sample", "line"))  # EMIT, AVIRIS


def place(variables: Variables, cube: str, order: Sequence[int], header: Header) -> list[str]:
    """Put the place of an image into its header: ``crs`` and ``transform``, or ``location`` and ``glt``.

    Args:
        variables: of the file.
        cube: name of the cube.
        order: its axes that are rows and columns.
        header: of the scene; it is changed.

    Returns:
        Notes on what is not known.
    """
    rows, columns = (variables.shape(cube)[axis] for axis in order[:2])
    down, across = (variables.dimensions(cube)[axis] for axis in order[:2])
    mapping, wkt, stated = _mapping(variables, cube)
    y, x = _coordinate(variables, down, rows, ROW), _coordinate(variables, across, columns, COLUMN)
    if y is None or x is None:
        located = _located(variables, (rows, columns), (down, across), header)
        table = _lookup_table(variables, header)
        if table is not None:
            header["glt_crs"], header["glt_transform"] = wkt, stated
            if wkt is None or stated is None:
                return [f"the lookup table in {table} comes without coordinate system or transform"]
        if not located and table is None and stated is not None:
            header["transform"] = stated
            return _system(header, wkt, mapping)
        return []
    for name in (x, y):
        variables.use(name, "units", "standard_name", "axis", "long_name")
    across_values, down_values = variables.values(x), variables.values(y)
    degrees = letters(y) in LATITUDE or str(variables.attributes[y].get("units", "")).startswith("degrees")
    found = cf.grid(across_values, down_values, stated, (rows, columns))
    if found.transform is None and degrees:
        shape = rows, columns
        header["location"] = {
            "lat": np.broadcast_to(down_values[:, None], shape),
            "lon": np.broadcast_to(across_values, shape),
        }
        return []
    if found.transform is None:
        return [f"the coordinates {y} and {x} are not evenly spaced: the place of the image is not known"]
    header["transform"] = found.transform
    return [*found.notes, *_system(header, wkt or (cf.WGS84 if degrees else None), mapping)]


def _system(header: Header, wkt: str | None, mapping: str | None) -> list[str]:
    """Put the coordinate system into the header; a note where it is not known."""
    if wkt is None:
        said = f"the grid mapping {mapping} gives no crs_wkt or spatial_ref" if mapping else "no grid mapping is given"
        return [f"{said}: the coordinate system of the image is not known"]
    header["crs"] = wkt
    return []


def _mapping(variables: Variables, cube: str) -> tuple[str | None, str | None, tuple[float, ...] | None]:
    """The grid mapping of a cube, its coordinate system as WKT, and its transform; of the file where it has none."""
    said = variables.attributes[cube].get("grid_mapping")
    named = str(said).split(":")[0].strip() if said else ""
    variables.use(cube, "grid_mapping", "coordinates")
    around = (group_of(cube), *above(group_of(cube)))
    mapping = next((n for group in around if named and (n := f"{group}/{named}".strip("/")) in variables.names), None)
    if mapping is None:
        systems = ("grid_mapping_name", "crs_wkt", "spatial_ref")
        known = [n for n in variables.names if any(key in variables.attributes[n] for key in systems)]
        mapping = known[0] if len(known) == 1 else None
    wkt: str | None = None
    transform: tuple[float, ...] | None = None
    for holder in dict.fromkeys([*([] if mapping is None else [mapping]), *around, ""]):
        held = variables.attributes.get(holder, {})
        if wkt is None and (wkt := cf.wkt_of(held)) is not None:
            variables.use(holder, "crs_wkt", "spatial_ref", "grid_mapping_name")
        for key in ("GeoTransform", "geotransform"):
            if transform is None and key in held and (transform := cf.gdal_transform(held[key])) is not None:
                variables.use(holder, key)
    if mapping is not None:
        variables.use(mapping)
        variables.carry(mapping, *variables.attributes[mapping])  # the parameters say what the WKT says
        variables.carry("", "spatial_ref", "geotransform")
    return mapping, wkt, transform


def _coordinate(variables: Variables, dimension: str | None, length: int, names: frozenset[str]) -> str | None:
    """The coordinate variable of the rows or of the columns; None where there is none."""
    standard = ("projection_y_coordinate", "latitude") if names is ROW else ("projection_x_coordinate", "longitude")
    beside = [
        name for name in variables.on(dimension, length)
        if dimension is not None and variables.dimensions(name)[0] == dimension
        and variables.is_number(name) and letters(name) not in COUNTED
    ]  # fmt: skip
    found = [name for name in beside if variables.attributes[name].get("standard_name") in standard]
    found = found or [name for name in beside if letters(name) in names]
    return dimension if dimension in found else found[0] if found else None


def _located(
    variables: Variables, shape: tuple[int, int], dimensions: tuple[str | None, str | None], header: Header
) -> bool:
    """Put latitude and longitude of every pixel into the header, where the file has them; whether it has."""
    found: dict[str, Any] = {}
    for short, names in (("lat", LATITUDE), ("lon", LONGITUDE), ("elev", HEIGHT)):
        turned = dimensions[::-1] if None not in dimensions else None
        fitting = [
            name for name in variables.names
            if letters(name) in names and variables.is_number(name)
            and (variables.shape(name) == shape or variables.dimensions(name) == turned)
        ]  # fmt: skip
        if not fitting:
            continue
        name = min(fitting, key=lambda n: PLACES.index(group_of(n)) if group_of(n) in PLACES else len(PLACES))
        order = (1, 0) if variables.dimensions(name) == turned else (0, 1)
        found[short], held = variables.file.array(name, order), variables.attributes[name]
        if "scale_factor" in held or "add_offset" in held:
            gain, offset = held.get("scale_factor", 1.0), held.get("add_offset", 0.0)
            found[short] = LazyCube(found[short], gain=gain, offset=offset, nodata=held.get("_FillValue"))
        variables.use(name, "units", "standard_name", "long_name", *cf.DECODING)
    if not {"lat", "lon"} <= set(found):
        return False
    header["location"] = found
    return True


def _lookup_table(variables: Variables, header: Header) -> str | None:
    """Put the geometric lookup table of a swath into the header; its group, None where there is none."""
    for group, *names in TABLES:
        full = [f"{group}/{name}" for name in names]
        if all(name in variables.names and len(variables.shape(name)) == 2 for name in full):
            header["glt"] = {}
            for short, name in zip(("x", "y"), full, strict=True):
                table, fill = variables.file.array(name), variables.attributes[name].get("_FillValue")
                # Whoever applies the table knows 0 and -9999 as fill.
                header["glt"][short] = table if fill in (None, 0, -9999) else cf.Marked(table, others=[fill], fill=0)
            for name in full:
                variables.use(name, "units", "long_name", *cf.DECODING)
            return group
    return None
