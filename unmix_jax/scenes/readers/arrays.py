"""Scenes and libraries out of named arrays: NumPy `.npy` and `.npz`, MATLAB `.mat` (v5 and v7.3), Zarr groups.

The names are the project's own: ``cube`` (row, column, band) or ``pixels`` (pixel, band), ``endmembers`` or
``spectra`` (member, band), ``abundances``, ``wavelength_nm``, ``wavelength_um`` or ``wavenumber_cm1``,
``fwhm``, ``good_bands``, ``mask``, ``nodata``, ``names``, ``classes``. A foreign file is read with a mapping
from these names to its own, such as ``{"cube": "Y", "endmembers": "M"}``.

MATLAB counts columns first. An array of three axes arrives as (row, column, band), as MATLAB shows it. A
matrix (band, pixel), made there by ``reshape``, runs down the columns of the image: name its two sizes as
``rows`` and ``columns`` and it is unfolded in that order (in row order if it comes from `.npz`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unmix_jax.scenes.lazy import NODATA, LazyCube
from unmix_jax.scenes.reading import Reading
from unmix_jax.scenes.scene import Scene, SpectralAxis, SpectralLibrary
from unmix_jax.scenes.units import missing, spectral_axis

__all__ = ["Arrays", "read_array_library", "read_array_scene", "read_npy"]

AXES = {"wavelength_nm": "nm", "wavelength_um": "um", "wavenumber_cm1": "cm-1"}
SPECTRA = ("endmembers", "spectra")
NAMES = (
    "cube", "pixels", *SPECTRA, "abundances", "wavelength", *AXES, "fwhm", "good_bands", "mask", "nodata",
    "names", "classes", "rows", "columns",
)  # fmt: skip


class Arrays:
    """The arrays of a file under the project's names, each read when it is asked for."""

    def __init__(self, path: Path, keys: Mapping[str, str] | None) -> None:
        self.path, self.keys = path, dict(keys or {})
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
        key = self.keys.get(name, name)
        if key not in self.stored:
            return None
        if self.in_place and name == "cube" and self.stored[key].ndim == 3:
            return LazyCube(self.stored[key])
        try:
            return np.asarray(self.stored[key])
        except ValueError as error:
            raise ValueError(
                f"{self.path}: {key} cannot be read as a plain array ({error}); pickled Python objects are "
                "refused because loading them can run any code"
            ) from None

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
        return tuple(str(np.squeeze(v)).strip() for v in values)

    def axis(self, unit: str | None) -> SpectralAxis | None:
        """The spectral axis, where there is one."""
        found = self.first(*AXES, "wavelength")
        if found is None:
            return None
        fwhm = self.get("fwhm")
        return spectral_axis(found[1], fwhm=fwhm, unit=unit or AXES.get(found[0]), where=str(self.path))

    def flags(self, name: str) -> np.ndarray | None:
        """A list of true and false."""
        value = self.get(name)
        return None if value is None else np.squeeze(value) != 0


def read_array_scene(path: Path, told: Reading) -> Scene:
    """Read a scene from `.npz` or `.mat` (see the module for the names and the order of axes)."""
    with Arrays(path, told.keys) as arrays:
        arrays.check()
        return _scene(arrays, told.unit)


def read_array_library(path: Path, told: Reading) -> SpectralLibrary:
    """Read a spectral library from `.npz` or `.mat` (see the module for the names)."""
    with Arrays(path, told.keys) as arrays:
        arrays.check()
        return _library(arrays, told.unit)


def _scene(arrays: Arrays, unit: str | None) -> Scene:
    """The scene that some arrays make."""
    axis, spectra = arrays.axis(unit), arrays.first(*SPECTRA)
    cube = _cube(arrays, None if axis is None else len(axis), () if spectra is None else spectra[1].shape)
    names, classes = arrays.text("names"), arrays.text("classes")
    library = None
    if spectra is not None:
        rows = _rows(spectra[1], cube.shape[-1], spectra[0])
        library = SpectralLibrary(
            rows, axis, names if len(names) == len(rows) else (), classes if len(classes) == len(rows) else ()
        )
    abundances = _abundances(arrays, cube.shape[:-1])
    count = None if abundances is None else abundances.shape[-1]
    nodata = arrays.get("nodata")
    return Scene(
        cube,
        axis,
        good_bands=arrays.flags("good_bands"),
        mask=arrays.flags("mask"),
        endmembers=library,
        abundances=abundances,
        nodata=NODATA if nodata is None else float(np.squeeze(nodata)),
        abundance_names=names if len(names) == count else (),
        name=arrays.path.stem,
    )


def _library(arrays: Arrays, unit: str | None) -> SpectralLibrary:
    """The library that some arrays make."""
    found = arrays.first(*SPECTRA)
    if found is None:
        raise ValueError(
            f"{arrays.path} has neither endmembers nor spectra; it has {arrays.listing()}: "
            "say which is which with a mapping such as spectra=M"
        )
    axis = arrays.axis(unit)
    spectra = _rows(found[1], found[1].shape[-1] if axis is None else len(axis), found[0])
    return SpectralLibrary(
        np.where(spectra == NODATA, np.nan, spectra).astype(spectra.dtype),
        axis,
        arrays.text("names"),
        arrays.text("classes"),
        good_bands=arrays.flags("good_bands"),
    )


def read_npy(path: Path, told: Reading) -> Scene:
    """Open a `.npy` cube (row, column, band) or list of spectra (pixel, band) as a memory map."""
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is not a plain array ({error})") from None
    return Scene(_floating(stored, path), nodata=NODATA, name=path.stem)


def _load(path: Path) -> Any:
    """A `.npz` file, its arrays not yet read."""
    try:
        stored = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is not a readable .npz file ({error})") from None
    if isinstance(stored, np.ndarray):
        raise ValueError(f"{path} holds one array without a name; give it the suffix .npy")
    return stored


def _load_mat(path: Path) -> dict[str, Any]:
    """The variables of a MATLAB file of any version."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        stored = loadmat(path)
    except NotImplementedError:  # how SciPy says v7.3
        try:
            from pymatreader import read_mat
        except ImportError:
            raise missing("io", "pymatreader", f"{path}: a MATLAB v7.3 file") from None
        stored = read_mat(path)
    except (MatReadError, ValueError, OSError, TypeError) as error:
        raise ValueError(f"{path} is not a readable MATLAB file ({error})") from None
    return {k: v for k, v in stored.items() if not k.startswith("__")}


def _load_zarr(path: Path) -> dict[str, Any]:
    """The arrays of a Zarr group, not yet read, and lists of names among its attributes."""
    import zarr

    try:
        group = zarr.open_group(str(path), mode="r")
        words = {key: np.asarray(group.attrs[key], str) for key in ("names", "classes") if key in group.attrs}
        return {**words, **dict(group.arrays())}
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ValueError(f"{path} is not a readable Zarr group ({error})") from None


def _cube(arrays: Arrays, bands: int | None, spectra: tuple[int, ...]) -> Any:
    """The cube with bands last, floating point."""
    found = arrays.first("cube", "pixels")
    if found is None:
        solid = [k for k in arrays.stored if k not in NAMES and np.ndim(arrays.stored[k]) == 3]
        if len(solid) != 1:
            raise ValueError(
                f"{arrays.path} has neither cube nor pixels; it has {arrays.listing()}: "
                "say which is which with a mapping such as cube=Y"
            )
        found = solid[0], np.asarray(arrays.stored[solid[0]])
    name, cube = found
    if cube.ndim == 2:
        rows, columns = arrays.get("rows"), arrays.get("columns")
        if rows is not None and columns is not None:
            return _floating(_unfold(arrays, cube, int(rows.item()), int(columns.item())), arrays.path)
        lengths = {bands} if bands is not None else set(spectra)
        if cube.shape[1] not in lengths and cube.shape[0] in lengths:
            cube = cube.T
    if bands is not None and cube.shape[-1] != bands:
        raise ValueError(f"{arrays.path}: {name} has shape {cube.shape}, the spectral axis has {bands} bands")
    return _floating(cube, arrays.path)


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
    lazy = LazyCube(values)
    return lazy if isinstance(values, np.memmap) else np.asarray(lazy)
