"""PRISMA products of ASI, levels 1, 2B, 2C and 2D (HDF-EOS5, ``.he5``): one cube of both spectrometers.

Layout: ASI, "PRISMA Products Specification Document", issue 2.3 (12 March 2020). ``HDFEOS/SWATHS/PRS_L2D_HCO`` (or the
level's own name) holds ``VNIR_Cube`` and ``SWIR_Cube`` [row, band, column], uint16, with an error matrix for each; the
file's attributes hold the rest. What is read is the co-registered cube (HCO).

- Bands stay in the order of the file, VNIR before SWIR, wavelengths falling within each. Slots whose wavelength is 0
  were not acquired and are left out; bands whose flag is 0 are bad. Between some 920 and 1010 nm both spectrometers
  measure: both are kept and used, as two measurements. Leave one out with ``--bad-bands``.
- Level 2: value = min + stored · (max − min) / 65535, with min and max of each spectrometer. Level 1 and its radiance:
  stored / scale factor. Its offset is 0 in all products that were seen, and public readers disagree on its sign, so
  another one is refused unless ``--offset`` says what to add.
- Pixels that are 0 in all bands lie outside the swath and are missing. So are values that the error matrix marks: at
  level 2 with 1 (invalid at level 1), 2 (negative after atmospheric correction), 3 or 4 (saturated: the document says
  3, products have 4), at level 1 with 1 (defective), 2 (saturated) or 4 (not a number), not with 3 (lower radiometric
  confidence). Bands in which it marks most pixels are bad.
- Level 2D lies on a UTM grid; the corners in the attributes are centres of pixels. Others have latitude and longitude
  of each pixel. At level 1, pixels that its cloud mask says are cloudy are masked.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from unmix_jax.scenes.lazy import LazyCube
from unmix_jax.scenes.readers.netcdf.hdf import HdfArray, HdfFile
from unmix_jax.scenes.readers.sensors.product import by_rows, per_band
from unmix_jax.scenes.reading import Entries, Reading
from unmix_jax.scenes.scene import Scene
from unmix_jax.scenes.units import spectral_axis

__all__ = ["is_prisma", "read_prisma"]

SWATH = re.compile(r"HDFEOS/SWATHS/(PRS_L(1|2B|2C|2D)_HCO)/Data Fields/VNIR_Cube")
TOP = 65535  # stored number of the greatest value at level 2
ERRORS = {"1": (1, 2, 4), "2": (1, 2, 3, 4)}  # codes of the error matrices, by level, that make a value missing
CLOUDY = 1  # in Cloud_Mask; 0 clear, 10 neither of all classes, 255 not classified
SPACING = 30.0  # m, of the grid of level 2D
LOOKED_AT = 8  # rows of the error matrices that are looked at when a product is opened
MOST = 0.5  # a band in which more of the pixels are in error than this is no measurement of the scene
PRODUCT = re.compile(r"PRS_L\d", re.IGNORECASE)  # how the names of products and of their swaths begin
# Attributes of groups and datasets that only describe.
DESCRIBING = ("long_name", "standard_name", "description", "title", "comment", "HDFEOSVersion")
# Attributes of a cube that would change its numbers; the specification has none, its scales stand at the root.
SHIFTS = re.compile(r"offset|intercept", re.IGNORECASE)
MARKS = re.compile(r"fill|missing|no_?data|ignore|valid_|actual_range|_Unsigned", re.IGNORECASE)
SCALES = re.compile(r"scale|gain|slope|multiplier|divisor", re.IGNORECASE)
# Attributes on where, when, how and by which software a scene was taken: they change no number.
CARRIED = (
    "Product_", "Processing_", "Processor_", "Acquisition_", "Image_", "Sun_", "Cloudy_", "Sea_", "Projection_",
    "Reference_", "Epsg_Code", "Num_", "L0_", "L0a_", "L1_", "L2b_", "L2c_", "L2d_", "CNM_", "ISF_", "L2ScalePan",
    "L2ScaleAOT", "L2ScaleAEX", "L2ScaleWVM", "L2ScaleCOT", "ScaleFactor_Pan", "Offset_Pan",
)  # fmt: skip


def is_prisma(path: Path) -> bool:
    """Whether a file is a PRISMA product: HDF-EOS5, ``.he5``, that is named as one or holds a swath of one."""
    if path.suffix.lower() != ".he5" or not path.is_file():
        return False
    if PRODUCT.match(path.name):
        return True
    try:
        with HdfFile(path) as file:
            begin = "HDFEOS/SWATHS/"
            return any(n.startswith(begin) and PRODUCT.match(n[len(begin) :]) for n in (*file.groups, *file.names))
    except (ValueError, OSError, ImportError):  # the reader of HDF5 says what is wrong with it
        return False


def read_prisma(path: Path, told: Reading) -> Scene:
    """Open a PRISMA product; the cube stays in the file.

    Args:
        path: the ``.he5`` file.
        told: what the user says.

    Returns:
        Reflectance (levels 2C, 2D) or radiance in W m⁻² sr⁻¹ µm⁻¹ (levels 1, 2B), [row, column, band].

    Raises:
        ValueError: no PRISMA product; attributes that are missing or do not fit its cubes; an offset of level 1.
    """
    file = HdfFile(path)
    found = next((m for name in file.names if (m := SWATH.fullmatch(name))), None)
    if found is None:
        raise ValueError(f"{path} holds no HDFEOS/SWATHS/PRS_L…_HCO/Data Fields/VNIR_Cube: it is no PRISMA product")
    swath, level = f"HDFEOS/SWATHS/{found[1]}", found[2].upper()
    at_root = file.attributes()
    entries = Entries(at_root | _inside(file))
    entries.carry(*(name for name in at_root if name.startswith(CARRIED)))
    entries.carry(*(name for name in entries.header() if name.rpartition("@")[2] in DESCRIBING and "@" in name))
    turned = _turned(file, swath, entries) if level == "2D" else False
    parts = [_part(file, swath, which, level, entries, told, turned) for which in ("VNIR", "SWIR")]
    cube = _Cube(parts, ERRORS[level[0]])
    bad, notes = _mostly_in_error(cube)
    centers, widths, flags, gain, offset = (
        np.concatenate([part[name] for part in parts]) for name in ("centers", "fwhm", "flags", "gain", "offset")
    )
    axis = spectral_axis(centers, fwhm=widths, unit=told.unit_of("nm", str(path)), where=str(path))
    if not (flags & ~bad).any():
        raise ValueError(f"{path}: List_Cw_Vnir_Flags, List_Cw_Swir_Flags and the error matrices leave no good band")
    if not all(part["errors"] is not None for part in parts):
        notes.append("the product has no error matrix: values that it would mark as invalid are taken as they are")
    mask = None
    header = entries.header()
    fields = f"{swath}/Geolocation Fields"
    if level == "2D":
        header |= _grid(entries, cube.shape, path, notes)
    else:
        for suffix in ("", "_VNIR", "_SWIR"):
            names = [f"{fields}/Latitude{suffix}", f"{fields}/Longitude{suffix}"]
            if all(name in file for name in names):
                arrays = [file.array(name) for name in names]
                for name in names:
                    entries.use(f"dataset {name}")
                if any(array.shape != cube.shape[:2] for array in arrays):
                    raise ValueError(f"{path}: {names[0]} has another size than the cube")
                header["location"] = dict(zip(("lat", "lon"), arrays, strict=True))
                break
        else:
            notes.append("the product has no latitude and longitude of its pixels")
    clouds = f"{swath}/Data Fields/Cloud_Mask"
    if clouds in file and file.shape(clouds) == cube.shape[:2]:
        mask = file.read(clouds) != CLOUDY
        entries.use(f"dataset {clouds}")
    return Scene(
        LazyCube(cube, gain=per_band(gain), offset=per_band(offset), nodata=None),
        axis,
        good_bands=flags & ~bad,
        mask=mask,
        name=path.stem,
        quantity="reflectance" if level in ("2C", "2D") else "radiance",
        notes=tuple(notes),
        account=entries.account(),
        header=header,
    )


def _inside(file: HdfFile) -> dict[str, Any]:
    """Attributes of groups and datasets below the root as ``group/dataset@attribute``, and the datasets themselves."""
    found: dict[str, Any] = {}
    for name in file.variables():
        size = " × ".join(map(str, file.shape(name))) or "one value"
        found[f"dataset {name}"] = size
    for name in (*(group for group in file.groups if group), *file.variables()):
        found |= {f"{name}@{key}": value for key, value in file.attributes(name).items()}
    return found


def _refuse_scales(cube: str, entries: Entries, path: Path, told: Reading) -> None:
    """Refuse attributes of a cube that would change its numbers or mark some as missing.

    Raises:
        ValueError: there is one that the user does not replace.
    """
    for entry in entries.header():
        name = entry.removeprefix(f"{cube}@")
        if name == entry:
            continue
        option = next(
            (o for o, words in (("nodata", MARKS), ("offset", SHIFTS), ("scale", SCALES)) if words.search(name)), None
        )
        if option is None:
            continue
        value = entries.use(entry)
        numbers = np.ravel(np.asarray(value if value is not None else []))
        plain = numbers.dtype.kind in "iuf" and numbers.size and option != "nodata"
        if plain and (numbers == (0 if option == "offset" else 1)).all():
            continue
        if getattr(told, option) is None and not (option == "offset" and told.scale is not None):
            said = ", ".join(map(str, numbers[:4]))[:60]
            raise ValueError(
                f"{path}: {cube} has the attribute {name} = {said}, which no PRISMA product has: what it means is not "
                f"known; say what holds with --{option}"
            )


def _part(
    file: HdfFile, swath: str, which: str, level: str, entries: Entries, told: Reading, turned: bool
) -> dict[str, Any]:
    """The cube of one spectrometer with the error matrix, the bands that were acquired, and their scale."""
    cube, label = f"{swath}/Data Fields/{which}_Cube", which.capitalize()
    if cube not in file:
        raise ValueError(f"{file.path} has no {cube}")
    if len(file.shape(cube)) != 3:
        raise ValueError(f"{file.path}: {cube} has {len(file.shape(cube))} axes; [row, band, column] were expected")
    _refuse_scales(cube, entries, file.path, told)
    entries.use(f"dataset {cube}")
    order = (2, 0, 1) if turned else (0, 2, 1)
    values = file.array(cube, order)
    count = values.shape[-1]
    centers, widths = (_listed(entries, f"List_{name}_{label}", count, file.path) for name in ("Cw", "Fwhm"))
    flags = np.ones(count)
    if f"List_Cw_{label}_Flags" in entries:
        flags = _listed(entries, f"List_Cw_{label}_Flags", count, file.path)
    kept = centers > 0
    if not kept.any():
        raise ValueError(f"{file.path}: List_Cw_{label} lists no wavelength above 0")
    if level == "1":
        factor, shift = (_one(entries, f"{name}_{label}", file.path) for name in ("ScaleFactor", "Offset"))
        if not factor > 0 and told.scale is None:
            raise ValueError(f"{file.path}: ScaleFactor_{label} is {factor:g}; give --scale")
        if shift and told.offset is None:
            raise ValueError(
                f"{file.path}: Offset_{label} is {shift:g}; whether it is added or subtracted is not settled: say what "
                "is to be added with --offset"
            )
        gain, offset = 1 / (factor or 1.0), 0.0
    else:
        low, high = (_one(entries, f"L2Scale{label}{end}", file.path) for end in ("Min", "Max"))
        if not high > low and told.scale is None:
            raise ValueError(f"{file.path}: L2Scale{label}Max ({high:g}) must exceed L2Scale{label}Min ({low:g})")
        gain, offset = (high - low) / TOP, low
    errors = f"{swath}/Data Fields/{which}_PIXEL_{'SAT' if level == '1' else 'L2'}_ERR_MATRIX"
    matrix = file.array(errors, order) if errors in file else None
    entries.use(f"dataset {errors}")
    if matrix is not None and matrix.shape != values.shape:
        raise ValueError(f"{file.path}: {errors} has another shape than {which}_Cube")
    return {
        "values": values, "errors": matrix, "kept": kept, "centers": centers[kept], "fwhm": widths[kept],
        "flags": flags[kept] != 0, "gain": np.full(kept.sum(), gain), "offset": np.full(kept.sum(), offset),
    }  # fmt: skip


def _listed(entries: Entries, name: str, count: int, path: Path) -> np.ndarray:
    """A list in the attributes, one number per band of a cube."""
    try:
        values = np.atleast_1d(np.asarray(entries.use(name, ()), float)).ravel()
    except (TypeError, ValueError):
        raise ValueError(f"{path}: {name} must be a list of numbers") from None
    if len(values) != count or not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(f"{path}: {name} must list {count} numbers, one per band; it has {len(values)}")
    return values


def _one(entries: Entries, name: str, path: Path) -> float:
    """A number in the attributes."""
    try:
        value = float(np.asarray(entries.use(name)).reshape(()))
    except (TypeError, ValueError):
        value = np.nan
    if not np.isfinite(value):
        absent = "" if name in entries else "; it is absent"
        raise ValueError(f"{path}: the attribute {name} must be a number{absent}")
    return value


class _Cube:
    """Both spectrometers as [row, column, band]: stored numbers as float32, NaN where a value is missing."""

    def __init__(self, parts: list[dict[str, Any]], codes: tuple[int, ...]) -> None:
        self.parts, self.codes = parts, codes
        first: HdfArray = parts[0]["values"]
        rows, columns = first.shape[:2]
        for part in parts:
            if part["values"].shape[:2] != (rows, columns):
                raise ValueError(f"{first.path}: VNIR_Cube and SWIR_Cube have different numbers of rows or columns")
            if part["values"].dtype.kind != "u" or part["values"].dtype.itemsize > 2:
                raise ValueError(f"{first.path}: the cubes must hold uint16, they hold {part['values'].dtype}")
        self.shape, self.ndim = (rows, columns, sum(int(part["kept"].sum()) for part in parts)), 3
        self.dtype = np.dtype(np.float32)  # holds every uint16 exactly
        self.chunks, self.path = first.chunks, first.path

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        return by_rows(self, index, self._rows)

    def _rows(self, start: int, stop: int) -> np.ndarray:
        values = np.concatenate([np.asarray(p["values"][start:stop])[..., p["kept"]] for p in self.parts], axis=-1)
        outside = (values == 0).all(axis=-1)
        values = values.astype(np.float32)
        values[outside] = np.nan
        first = 0
        for part in self.parts:
            last = first + int(part["kept"].sum())
            if part["errors"] is not None:
                values[..., first:last][self.in_error(part, start, stop)] = np.nan
            first = last
        return values

    def in_error(self, part: dict[str, Any], start: int, stop: int) -> np.ndarray:
        """Where the error matrix of a spectrometer says that a value is none."""
        return np.isin(np.asarray(part["errors"][start:stop])[..., part["kept"]], self.codes)


def _mostly_in_error(cube: _Cube) -> tuple[np.ndarray, list[str]]:
    """Bands in which the error matrices mark most of the pixels inside the swath, and a note on them."""
    rows = np.unique(((np.arange(LOOKED_AT) + 0.5) * cube.shape[0] / LOOKED_AT).astype(int))
    missing = np.isnan(np.concatenate([cube[int(row)] for row in rows]))
    inside = ~missing.all(axis=1)
    if not inside.any():
        return np.zeros(cube.shape[-1], bool), []
    bad = missing[inside].mean(axis=0) > MOST
    if not bad.any():
        return bad, []
    listed = ", ".join(str(i + 1) for i in np.flatnonzero(bad)[:12]) + (", …" if bad.sum() > 12 else "")
    many = int(bad.sum()) > 1
    return bad, [
        f"the error matrix marks most pixels of {bad.sum()} band{'s' * many} (number {listed}, counted from 1): "
        f"{'they are' if many else 'it is'} left out"
    ]


def _turned(file: HdfFile, swath: str, entries: Entries) -> bool:
    """Whether the first axis of the cubes runs from west to east: told by the latitudes, which fall along columns."""
    name = f"{swath}/Geolocation Fields/Latitude"
    if name not in file or len(file.shape(name)) != 2 or 0 in file.shape(name):
        return False
    latitude = file.array(name)
    entries.use(f"dataset {name}")
    top, bottom = latitude[:1], latitude[-1:]
    corners = np.array([top[0, 0], bottom[0, 0], top[0, -1]], float)
    if not np.isfinite(corners).all() or (corners == 0).any():
        return False
    return bool(abs(corners[2] - corners[0]) > abs(corners[1] - corners[0]))


def _grid(entries: Entries, shape: tuple[int, ...], path: Path, notes: list[str]) -> dict[str, Any]:
    """Coordinate system and transform of level 2D."""
    west, north, east, south = (
        _one(entries, f"Product_{corner}", path)
        for corner in ("ULcorner_easting", "ULcorner_northing", "LRcorner_easting", "LRcorner_northing")
    )
    code = int(_one(entries, "Epsg_Code", path))
    rows, columns = shape[:2]
    transform = None
    # The corners are centres of pixels in all products seen; should they be corners of pixels, the step tells.
    for less, half in ((1, 0.5), (0, 0.0)):
        if rows > less and columns > less:
            across, down = (east - west) / (columns - less), (north - south) / (rows - less)
            if abs(across - SPACING) < 0.01 * SPACING and abs(down - SPACING) < 0.01 * SPACING:
                transform = (across, 0.0, west - half * across, 0.0, -down, north + half * down)
                break
    if transform is None:
        raise ValueError(
            f"{path}: its corners ({west:g}, {north:g}) and ({east:g}, {south:g}) do not span {rows} × {columns} "
            f"pixels of {SPACING:g} m: Product_ULcorner_… or Product_LRcorner_… is wrong, or the product was cut"
        )
    try:
        import rasterio.crs
        import rasterio.errors
    except ImportError:
        notes.append("its place is not read: that needs rasterio (in the clone of unmix_jax, pip install '.[geo]')")
        return {}
    try:
        system = rasterio.crs.CRS.from_epsg(code).to_wkt()
    except rasterio.errors.CRSError:
        raise ValueError(f"{path}: Epsg_Code {code} is no coordinate system") from None
    return {"crs": system, "transform": transform}
