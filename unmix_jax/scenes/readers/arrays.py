"""Scenes and libraries out of named arrays: NumPy `.npy` and `.npz`, MATLAB `.mat` (v5 and v7.3), Zarr groups.

The names are the project's own: ``cube`` (row, column, band), ``pixels`` (pixel, band) or ``pixels_in_columns``
(band, pixel), ``endmembers`` or ``spectra`` (member, band), ``abundances``, ``wavelength_nm``, ``wavelength_um`` or
``wavenumber_cm1``, ``fwhm``, ``good_bands``, ``mask``, ``nodata``, ``scale``, ``offset``, ``quantity``, ``names``,
``classes``. A foreign file is read with a mapping from these names to its own, such as
``{"cube": "Y", "endmembers": "M"}``; a field of a MATLAB struct is named ``hsi.Data``.

MATLAB counts columns first. An array of three axes arrives as (row, column, band), as MATLAB shows it. A
matrix (band, pixel), made there by ``reshape``, runs down the columns of the image: its two sizes as
``rows`` and ``columns`` (in the files of the field also ``nRow`` and ``nCol``) unfold it in that order (in row order if
it comes from `.npz`). ``maxValue`` of such files divides the values.
"""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unmix_jax.scenes.checked import NpzArrays, check_zarr, mat_variables
from unmix_jax.scenes.lazy import NODATA, LazyCube
from unmix_jax.scenes.library_files import unescaped
from unmix_jax.scenes.nodata import is_nodata
from unmix_jax.scenes.reading import NoSceneError, Reading, refuse_unread
from unmix_jax.scenes.scene import Account, Scene, SpectralAxis, SpectralLibrary
from unmix_jax.scenes.units import missing, quantity_in, spectral_axis, unit_of

__all__ = ["Arrays", "read_array_library", "read_array_scene", "read_npy"]

AXES = {"wavelength_nm": "nm", "wavelength_um": "um", "wavenumber_cm1": "cm-1"}
SPECTRA = ("endmembers", "spectra")
NAMES = (
    "cube", "pixels", "pixels_in_columns", *SPECTRA, "abundances", "wavelength", *AXES, "fwhm", "good_bands", "mask",
    "nodata", "scale", "offset", "quantity", "names", "classes", "text_escapes", "rows", "columns",
)  # fmt: skip
# How Zhu's files of Samson, Jasper Ridge and Urban (2014, https://rslab.ut.ac.ir/data), which many have copied, call
# what is needed to understand a matrix of pixels.
SYNONYMS = {"rows": ("nRow", "nrow"), "columns": ("nCol", "ncol")}
GREATEST = ("maxValue", "maxvalue")
MEMBERS = 12  # abundances of so many endmembers at most lie beside a matrix of pixels, and have as many columns
STRUCT_DEPTH = 4  # structs of MATLAB inside each other that are looked into


class Arrays:
    """The arrays of a file under the project's names, each read when it is asked for."""

    def __init__(self, path: Path, keys: Mapping[str, str] | None) -> None:
        self.path, self.keys = path, dict(keys or {})
        self.used: set[str] = set()
        self.notes: list[str] = []
        self.column_major = path.suffix.lower() == ".mat"
        self.in_place = path.suffix.lower() == ".zarr"
        self.stored = (_load_mat if self.column_major else _load_zarr if self.in_place else _load)(path)

    def __enter__(self) -> "Arrays":
        return self

    def __exit__(self, *_: object) -> None:
        if not isinstance(self.stored, dict):
            self.stored.close()

    def check(self) -> None:
        """Refuse keys that the project or the file does not know."""
        if unknown := [k for k in self.keys if k not in NAMES]:
            raise ValueError(f"{', '.join(unknown)}: not a name of an array; known are {', '.join(NAMES)}")
        if absent := [v for v in self.keys.values() if v not in self.stored]:
            raise ValueError(f"{self.path} has no array named {', '.join(absent)}; it has {self.listing()}")

    def listing(self) -> str:
        """The names found in the file."""
        return ", ".join(sorted(self.stored)) or "no arrays"

    def get(self, name: str) -> Any:
        """An array by its project name, None where the file has none; a cube of a Zarr group stays there."""
        key = self._key(name)
        if key is None:
            return None
        self.used.add(key)
        if self.in_place and name == "cube" and self.stored[key].ndim == 3:
            return LazyCube(self.stored[key])
        try:
            return np.asarray(self.stored[key])
        except ValueError as error:
            raise ValueError(
                f"{self.path}: {key} cannot be read as a plain array ({error}); pickled Python objects are "
                "refused because loading them can run any code"
            ) from None

    def _key(self, name: str) -> str | None:
        """The name in the file of one of the project's names; None where the file has no such array."""
        wanted = (self.keys[name],) if name in self.keys else (name, *SYNONYMS.get(name, ()))
        return next((key for key in wanted if key in self.stored), None)

    def number(self, name: str) -> float | None:
        """One number, None where the file has none.

        Raises:
            ValueError: the array is not one number.
        """
        value = self.get(name)
        if value is None:
            return None
        try:
            return float(np.squeeze(value).item())
        except (TypeError, ValueError, AttributeError):
            raise ValueError(f"{self.path}: {name} must be one number, got shape {np.shape(value)}") from None

    def account(self) -> Account:
        """Arrays and attributes that were used, and those that were not."""
        held = set(self.stored)
        if self.in_place:
            held |= {f"{name}@{key}" for name, of in self.stored.items() for key in getattr(of, "attrs", {})}
        return Account(tuple(sorted(self.used)), (), tuple(sorted(held - self.used)))

    def first(self, *names: str) -> tuple[str, Any] | None:
        """The first of several arrays that is there; those mapped by the user come before the rest."""
        for name in sorted(names, key=lambda n: n not in self.keys):
            if (value := self.get(name)) is not None:
                return name, value
        return None

    def text(self, *names: str) -> tuple[str, ...]:
        """The first list of words that is there."""
        found = self.first(*names)
        if found is None:
            return ()
        values = found[1].ravel() if found[1].dtype.kind == "O" else np.atleast_1d(np.squeeze(found[1]))
        words = ("" if np.size(v) == 0 else str(np.squeeze(v)).strip() for v in values)
        return tuple(unescaped(word) if self.escapes else word for word in words)

    @property
    def escapes(self) -> bool:
        """Whether the file says that its texts have escapes, as `unmix_jax.scenes.library_files` writes them."""
        told = self.get("text_escapes")
        return told is not None and bool(np.any(told))

    def axis(self, told: Reading) -> SpectralAxis | None:
        """The spectral axis, where there is one."""
        found = self.first(*AXES, "wavelength")
        if found is None:
            return None
        stated = AXES.get(found[0])
        if stated is None and (written := self.attribute(found[0], "units")) is not None:
            stated = unit_of(str(written))
        unit = told.unit_of(stated, str(self.path))
        return spectral_axis(found[1], fwhm=self.get("fwhm"), unit=unit, where=str(self.path))

    def attribute(self, name: str, *attributes: str) -> Any:
        """The first of some attributes of an array of a Zarr group; None where there is none."""
        key = self._key(name)
        held = dict(getattr(self.stored[key], "attrs", {})) if self.in_place and key else {}
        found = next((attribute for attribute in attributes if attribute in held), None)
        if found is None:
            return None
        self.used.add(f"{key}@{found}")
        return held[found]

    def attribute_number(self, name: str, *attributes: str) -> float | None:
        """As `attribute`, a number.

        Raises:
            ValueError: it is none.
        """
        value = self.attribute(name, *attributes)
        try:
            return None if value is None else float(value)
        except (TypeError, ValueError):
            raise ValueError(f"{self.path}: {attributes[0]} of {name} is not a number: {value!r}") from None

    def per_band(self, name: str, attribute: str) -> Any:
        """A scale or an offset: an array of the file, or an attribute of its cube; 1 or 0 where there is none."""
        value = self.get(name)
        if value is None:
            value = self.attribute_number("cube", attribute)
        if value is None:
            return 1.0 if name == "scale" else 0.0
        numbers = np.asarray(np.squeeze(value), float)
        if not np.isfinite(numbers).all() or (name == "scale" and not numbers.all()):
            raise ValueError(f"{self.path}: {name} must be finite{' and not 0' * (name == 'scale')}; give --{name}")
        return numbers

    def quantity(self) -> str:
        """What the values are, where the file says it."""
        words = self.text("quantity")
        said = (
            words[0]
            if words
            else " ".join(str(self.attribute("cube", k) or "") for k in ("long_name", "standard_name"))
        )
        if words and self.escapes:
            return words[0]
        return quantity_in(said.replace("_", " ")) or (words[0] if words else "value")

    def flags(self, name: str) -> np.ndarray | None:
        """A list of true and false."""
        value = self.get(name)
        if value is not None and np.asarray(value).dtype.kind == "f" and not np.isfinite(value).all():
            raise ValueError(f"{self.path}: {name} must be 0 or 1 everywhere, and some values are not finite")
        return None if value is None else np.atleast_1d(np.squeeze(value)) != 0


def read_array_scene(path: Path, told: Reading) -> Scene:
    """Read a scene from `.npz` or `.mat` (see the module for the names and the order of axes)."""
    with Arrays(path, told.keys) as arrays:
        arrays.check()
        return _scene(arrays, told)


def read_array_library(path: Path, told: Reading) -> SpectralLibrary:
    """Read a spectral library from `.npz` or `.mat` (see the module for the names)."""
    with Arrays(path, told.keys) as arrays:
        arrays.check()
        return _library(arrays, told)


def _scene(arrays: Arrays, told: Reading) -> Scene:
    """The scene that some arrays make."""
    axis, spectra = arrays.axis(told), arrays.first(*SPECTRA)
    bands, beside = None if axis is None else len(axis), () if spectra is None else spectra[1].shape
    cube, divisor = _cube(arrays, told, bands, beside)
    names, classes = arrays.text("names"), arrays.text("classes")
    library = None
    if spectra is not None:
        rows = _rows(spectra[1], cube.shape[-1], spectra[0])
        library = SpectralLibrary(
            rows, axis, names if len(names) == len(rows) else (), classes if len(classes) == len(rows) else ()
        )
    abundances = _abundances(arrays, cube.shape[:-1])
    count = None if abundances is None else abundances.shape[-1]
    stated = arrays.number("nodata")
    if stated is None:
        stated = arrays.attribute_number("cube", "_FillValue", "missing_value")
    cube, nodata = _scaled(arrays, cube, divisor, stated, told)
    marks = arrays.flags("good_bands"), arrays.flags("mask")
    refuse_unread(set(arrays.stored) - arrays.used, told, str(arrays.path))
    return Scene(
        cube,
        axis,
        good_bands=marks[0],
        mask=marks[1],
        endmembers=library,
        abundances=abundances,
        nodata=nodata,
        stated_nodata=stated,
        abundance_names=names if len(names) == count else (),
        name=arrays.path.stem,
        quantity=arrays.quantity(),
        notes=tuple(arrays.notes),
        account=arrays.account(),
    )


def _library(arrays: Arrays, told: Reading) -> SpectralLibrary:
    """The library that some arrays make."""
    found = arrays.first(*SPECTRA)
    if found is None:
        raise ValueError(
            f"{arrays.path} has neither endmembers nor spectra; it has {arrays.listing()}: "
            "say which is which with a mapping such as spectra=M"
        )
    axis, names = arrays.axis(told), arrays.text("names")
    stored, bands = found[1], None if axis is None else len(axis)
    if bands is None and np.ndim(stored) == 2 and len(names) == stored.shape[1] != stored.shape[0]:
        bands = stored.shape[0]  # spectra in columns, as their names say
        arrays.notes.append(f"{found[0]} has shape {stored.shape}: its columns are the {len(names)} named spectra")
    spectra = _rows(stored, stored.shape[-1] if bands is None else bands, found[0])
    stated = None if told.nodata is not None else arrays.number("nodata")
    scaled, nodata = _scaled(arrays, spectra, 1.0, stated, told)
    spectra = np.asarray(scaled)
    if nodata is not None:
        spectra = np.where(is_nodata(spectra, nodata), np.asarray(np.nan, spectra.dtype), spectra)
    refuse_unread(set(arrays.stored) - arrays.used, told, str(arrays.path))
    return SpectralLibrary(
        spectra,
        axis,
        names,
        arrays.text("classes"),
        good_bands=arrays.flags("good_bands"),
        quantity=arrays.quantity(),
        notes=tuple(arrays.notes),
        account=arrays.account(),
    )


def _scaled(arrays: Arrays, cube: Any, divisor: float, stated: float | None, told: Reading) -> tuple[Any, float | None]:
    """The cube with the scale of its file, and the no-data value that is still to be looked for."""
    nodata = NODATA if stated is None else stated
    gain, offset = arrays.per_band("scale", "scale_factor"), arrays.per_band("offset", "add_offset")
    if told.scale is not None or (divisor == 1 and np.all(gain == 1) and np.all(offset == 0)):
        if isinstance(cube, LazyCube):
            return LazyCube(cube.source, **(cube.scaling | {"nodata": nodata})), None
        return cube, nodata
    source = cube.source if isinstance(cube, LazyCube) else cube
    return LazyCube(source, divisor=divisor, gain=gain, offset=offset, nodata=nodata), None


def read_npy(path: Path, told: Reading) -> Scene:
    """Open a `.npy` cube (row, column, band) or list of spectra (pixel, band) as a memory map."""
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is not a plain array ({error})") from None
    return Scene(_floating(stored, path), nodata=NODATA, name=path.stem)


def _load(path: Path) -> Any:
    """A `.npz` file, its arrays not yet read."""
    with path.open("rb") as file:
        if file.read(6) == b"\x93NUMPY":
            raise ValueError(f"{path} holds one array without a name; give it the suffix .npy")
    return NpzArrays(path)


def _load_mat(path: Path) -> dict[str, Any]:
    """The variables of a MATLAB file of any version."""
    with path.open("rb") as file:
        hdf5 = _is_hdf5(file.read(2052))
    if hdf5:
        from unmix_jax.scenes.readers.netcdf.hdf import check_links

        try:
            from pymatreader import read_mat
        except ImportError:
            raise missing("io", "pymatreader", f"{path}: a MATLAB v7.3 file") from None
        check_links(path)
        try:
            stored = read_mat(path)
        except (KeyError, TypeError, RuntimeError, OSError, AttributeError, IndexError, ValueError) as error:
            raise ValueError(f"{path} is not a readable MATLAB file ({' '.join(str(error).split())})") from None
    else:
        from scipy.io import loadmat

        names = mat_variables(path)
        try:
            stored = loadmat(path, variable_names=names)
        except (KeyError, TypeError, OSError, ValueError, NotImplementedError, zlib.error) as error:
            raise ValueError(f"{path} is not a readable MATLAB file ({' '.join(str(error).split())})") from None
    found: dict[str, Any] = {}
    for name, value in stored.items():
        if not name.startswith("__"):
            found |= _flattened(name, value, STRUCT_DEPTH)
    return found


def _is_hdf5(beginning: bytes) -> bool:
    """Whether a file is a v7.3 file: HDF5, behind a block of text of 512 bytes or none."""
    return any(beginning[at : at + 8] == b"\x89HDF\r\n\x1a\n" for at in (0, 512, 1024, 2048 - 8))


def _flattened(name: str, value: Any, depth: int) -> dict[str, Any]:
    """A variable, or the fields of a struct under ``struct.field``."""
    if isinstance(value, dict):  # a struct of a v7.3 file
        fields = value
    elif isinstance(value, np.ndarray) and value.dtype.names and value.size == 1:  # a struct of a v5 file
        fields = {field: value[field].item() for field in value.dtype.names}
    else:
        return {name: value}
    found: dict[str, Any] = {}
    for field, content in fields.items():
        if depth:
            found |= _flattened(f"{name}.{field}", content, depth - 1)
    return found


def _load_zarr(path: Path) -> dict[str, Any]:
    """The arrays of a Zarr group, not yet read, and lists of names among its attributes."""
    import zarr

    check_zarr(path)
    try:
        group = zarr.open_group(str(path), mode="r")
        words = {key: np.asarray(group.attrs[key], str) for key in ("names", "classes") if key in group.attrs}
        return {**words, **dict(group.arrays())}
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ValueError(f"{path} is not a readable Zarr group ({error})") from None


def _cube(arrays: Arrays, told: Reading, bands: int | None, spectra: tuple[int, ...]) -> tuple[Any, float]:
    """The cube with bands last, floating point, and the number that divides it."""
    found = arrays.first("cube", "pixels", "pixels_in_columns")
    if found is None:
        solid = [k for k in arrays.stored if k not in NAMES and np.ndim(arrays.stored[k]) == 3]
        rows, columns = arrays.number("rows"), arrays.number("columns")
        if not solid and rows is not None and columns is not None:  # a matrix of all pixels, if only one fits
            flat = {k: v for k, v in arrays.stored.items() if k not in NAMES and np.ndim(v) == 2}
            solid = [k for k, v in flat.items() if rows * columns in v.shape and min(v.shape) > MEMBERS]
        if len(solid) != 1:
            raise NoSceneError(
                f"{arrays.path} has neither cube nor pixels; it has {arrays.listing()}: "
                "say which is which with a mapping such as cube=Y (--key cube=Y)"
            )
        arrays.used.add(solid[0])
        found = "cube", np.asarray(arrays.stored[solid[0]])
        if found[1].ndim == 2:
            arrays.notes.append(f"{solid[0]} is taken as the cube: it alone has the image's number of pixels")
    name, cube = found
    counted, what = (bands, "wavelengths") if bands is not None else (told.library_bands, "bands of the library")
    if cube.ndim == 2:
        cube = _listed(arrays, name, cube, bands, spectra if counted is None else (*spectra, counted))
    elif cube.ndim == 3 and cube.shape[0] == counted and counted not in cube.shape[1:]:
        arrays.notes.append(f"{name} has shape {tuple(cube.shape)} for {counted} {what}: its first axis is the bands")
        cube = np.moveaxis(np.asarray(cube), 0, -1)
    if bands is not None and cube.shape[-1] != bands:
        raise ValueError(f"{arrays.path}: {name} has shape {cube.shape}, the spectral axis has {bands} bands")
    greatest = next((key for key in GREATEST if key in arrays.stored), None) if name == "cube" else None
    divisor = 1.0
    if greatest is not None:
        arrays.used.add(greatest)
        divisor = float(np.squeeze(arrays.stored[greatest]).item())
        if not (np.isfinite(divisor) and divisor > 0):
            raise ValueError(f"{arrays.path}: {greatest} must be above 0, got {divisor:g}; give --scale to replace it")
        if told.scale is None:
            arrays.notes.append(f"values are divided by {greatest} = {divisor:g}; --scale 1 leaves them as they are")
    return _floating(cube, arrays.path), divisor


def _listed(arrays: Arrays, name: str, matrix: Any, bands: int | None, spectra: tuple[int, ...]) -> Any:
    """A matrix as [pixel, band], or as an image where its two sizes are given.

    Raises:
        ValueError: nothing says which of its axes is that of the bands.
    """
    matrix = np.asarray(matrix)
    rows, columns = arrays.number("rows"), arrays.number("columns")
    if rows is not None and columns is not None:
        return _unfold(arrays, matrix, int(rows), int(columns))
    if name == "pixels_in_columns":
        return matrix.T
    lengths = {bands} if bands is not None else set(spectra)
    fits = [matrix.shape[axis] in lengths for axis in (0, 1)]
    if fits == [True, False]:
        return matrix.T
    # A list of pixels is longer than it is wide, nearly always; where it is not, rows and columns may be exchanged.
    if fits == [False, False] and name != "pixels" and matrix.shape[0] < matrix.shape[1]:
        key = arrays.keys.get(name, name)
        raise ValueError(
            f"{arrays.path}: {key} has shape {matrix.shape}, and nothing says which axis is that of the bands. Give "
            f"--key pixels_in_columns={key} if these are {matrix.shape[0]} bands, --key pixels={key} if these are "
            f"{matrix.shape[1]} bands, or name the variables that hold the image's sizes, --key rows=H --key columns=W"
        )
    return matrix


def _unfold(arrays: Arrays, matrix: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """An image from a matrix whose one axis runs over its pixels, in the order of the file format."""
    if rows * columns not in matrix.shape:
        raise ValueError(f"{arrays.path}: {rows} × {columns} pixels do not fit an array of {matrix.shape}")
    pixels = matrix if matrix.shape[0] == rows * columns else matrix.T
    if arrays.column_major:
        return pixels.reshape(columns, rows, -1).swapaxes(0, 1)
    return pixels.reshape(rows, columns, -1)


def _abundances(arrays: Arrays, pixels: tuple[int, ...]) -> Any:
    """Reference abundances, endmembers last."""
    value = arrays.get("abundances")
    if value is None:
        return None
    if value.ndim == 2 and len(pixels) == 2:
        value = _unfold(arrays, value, *pixels)
    if value.shape[:-1] != pixels and value.shape[1:] == pixels:
        value = np.moveaxis(value, 0, -1)
    return _floating(value, arrays.path)


def _rows(spectra: np.ndarray, bands: int, what: str) -> np.ndarray:
    """Spectra as rows, turned where only the other axis fits the bands."""
    if spectra.ndim != 2:
        raise ValueError(f"{what} must be [member, band], got shape {spectra.shape}")
    if spectra.shape[1] != bands:
        if spectra.shape[0] != bands:
            raise ValueError(f"{what} have {spectra.shape[1]} bands, {bands} were expected: {spectra.shape}")
        spectra = spectra.T
    return np.ascontiguousarray(_floating(spectra, what))


def _floating(values: Any, what: Any) -> Any:
    """Floating point values in the byte order of the machine; a memory map is left in its file."""
    if values.dtype.kind not in "iufb":
        raise ValueError(f"{what}: values of type {values.dtype} are not real numbers")
    if values.dtype in (np.float32, np.float64) and values.dtype.isnative:
        return values
    lazy = LazyCube(values, nodata=None)  # what marks missing data is the scene's own
    return lazy if isinstance(values, np.memmap) else np.asarray(lazy)
