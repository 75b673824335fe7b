"""Scenes and spectral libraries from files: two functions, which look at the suffix and at what lies beside it."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from unmix_jax.scenes.readers.arrays import read_array_library, read_array_scene, read_npy
from unmix_jax.scenes.readers.envi import is_envi, read_envi_library, read_envi_scene
from unmix_jax.scenes.readers.geotiff import read_geotiff
from unmix_jax.scenes.readers.netcdf import read_netcdf
from unmix_jax.scenes.readers.tables import read_table
from unmix_jax.scenes.reading import Number, Reading, announced, finish, finish_library, noticing
from unmix_jax.scenes.scene import Scene, SpectralLibrary
from unmix_jax.scenes.units import existing, in_file

__all__ = ["read_library", "read_scene"]

# What a reader is, by the suffix of its files. A reader takes a path and a `Reading`, and returns what the file says;
# `finish` and `finish_library` do what is the same for all formats.
SCENES: dict[str, Callable[[Path, Reading], Scene]] = {
    ".npz": read_array_scene,
    ".mat": read_array_scene,
    ".zarr": read_array_scene,
    ".npy": read_npy,
    ".nc": read_netcdf,
    ".nc4": read_netcdf,
    ".tif": read_geotiff,
    ".tiff": read_geotiff,
}
LIBRARIES: dict[str, Callable[[Path, Reading], SpectralLibrary]] = {
    ".npz": read_array_library,
    ".mat": read_array_library,
    ".csv": read_table,
    ".txt": read_table,
    ".tsv": read_table,
}
WITH_KEYS = (".npz", ".mat", ".zarr", ".nc", ".nc4")  # formats whose arrays have names


def read_scene(
    path: str | Path,
    *,
    keys: Mapping[str, str] | None = None,
    unit: str | None = None,
    force_unit: bool = False,
    scale: Number | Literal["auto"] | None = None,
    offset: Number | None = None,
    nodata: Number | Literal["none"] | None = None,
    bands: str | Iterable[int | str] | None = None,
    range: tuple[Number, Number] | None = None,
    bad_bands: str | Iterable[int | str] | None = None,
    quantity: str | None = None,
    rows: tuple[int, int] | None = None,
    columns: tuple[int, int] | None = None,
    interleave: str | None = None,
    zeros: Literal["value", "missing"] = "value",
) -> Scene:
    """Open a scene: ENVI, `.mat`, `.npy`, `.npz`, GeoTIFF, NetCDF, Zarr or a sensor's own format.

    ENVI, `.npy`, GeoTIFF, NetCDF and Zarr cubes stay in their file and are read as they are sliced. Wavelengths
    come out in nm, wavenumbers in cm⁻¹, in the order of the file. Bands marked bad and pixels marked missing
    (NaN, -9999, ``data ignore value``) are kept and marked.

    Args:
        path: the file; for ENVI the header or the data file.
        keys: names of the project to names in the file, such as ``{"cube": "Y"}``, for formats whose arrays have names
            (see `unmix_jax.scenes.readers.arrays`).
        unit: of the wavelengths where the file does not say it: nm, um or cm-1.
        force_unit: whether ``unit`` stands above a unit that the file states.
        scale: stored numbers are multiplied by it, instead of by what the file states; ``auto``: the power of ten that
            makes reflectance of them.
        offset: added after the scale, instead of what the file states.
        nodata: stored number that marks missing data, instead of what the file states; ``none``: no number does.
        bands: numbers of the bands to use, counted from 1, as in ``"1-50, 60"``; the others become bad bands.
        range: lowest and highest band centre to use, in nm, or cm⁻¹ where the axis is; the others become bad bands.
        bad_bands: numbers of bands not to use, counted from 1, beside those that the file marks.
        quantity: what the values are, instead of what the file states: reflectance, emissivity, radiance ...
        rows: first row (or spectrum of a list) and one beyond the last, counted from 0.
        columns: first column and one beyond the last, counted from 0.
        interleave: order of an ENVI cube whose header does not say it: bsq, bil or bip.
        zeros: whether an exact zero in one band is a ``value`` or ``missing``; a pixel that is zero in all bands is
            missing in any case.

    Returns:
        The scene; `Scene.header` holds the metadata and georeferencing of the file, `Scene.account` says what became
        of each entry, and `Scene.notes` what may make the numbers wrong.

    Raises:
        FileNotFoundError: no such file, or an ENVI header without data.
        ValueError: unknown suffix, unknown layout, truncated file, lists that do not fit the bands.
        ImportError: a reader that is not installed; the message names the extra to install.
    """
    told = Reading(
        dict(keys or {}), unit, force_unit, scale, offset, nodata, bands, range, bad_bands, quantity, rows, columns,
        interleave, zeros,
    )  # fmt: skip
    path = existing(path)
    with in_file(path), noticing() as warned:
        scene = finish(_scene_reader(path, told)(path, told), told)
    return announced(scene, warned, path)


def read_library(
    path: str | Path,
    *,
    keys: Mapping[str, str] | None = None,
    unit: str | None = None,
    force_unit: bool = False,
    scale: Number | Literal["auto"] | None = None,
    offset: Number | None = None,
    nodata: Number | Literal["none"] | None = None,
    bands: str | Iterable[int | str] | None = None,
    range: tuple[Number, Number] | None = None,
    bad_bands: str | Iterable[int | str] | None = None,
    quantity: str | None = None,
    rows: tuple[int, int] | None = None,
    interleave: str | None = None,
    zeros: Literal["value", "missing"] = "value",
) -> SpectralLibrary:
    """Read a spectral library: ENVI `.sli`, a text table (`.csv`, `.txt`), `.npz`, `.mat` or a lab's own format.

    A table may hold one spectrum per row or per column; ``library.header["layout"]`` says which was found.
    Wavelengths come out in nm, wavenumbers in cm⁻¹; missing values as NaN.

    Args:
        path: the file; for ENVI the header or the data file.
        keys: names of the project to names in the file, such as ``{"spectra": "reflectance"}``
            (see `unmix_jax.scenes.readers.arrays`).
        unit: as in `read_scene`, and so are all further options; ``rows`` are spectra.

    Raises:
        FileNotFoundError: no such file, or an ENVI header without data.
        ValueError: unknown suffix or layout, an empty library, a truncated file.
    """
    told = Reading(
        dict(keys or {}), unit, force_unit, scale, offset, nodata, bands, range, bad_bands, quantity, rows, None,
        interleave, zeros,
    )  # fmt: skip
    path = existing(path)
    with in_file(path), noticing() as warned:
        library = finish_library(_library_reader(path, told)(path, told), told)
    return announced(library, warned, path)


def _scene_reader(path: Path, told: Reading) -> Callable[[Path, Reading], Any]:
    """The reader of a scene that is there."""
    suffix = path.suffix.lower()
    if told.keys and suffix not in WITH_KEYS:
        raise ValueError(f"{path}: keys are for {', '.join(WITH_KEYS)} files")
    if suffix in SCENES:
        return SCENES[suffix]
    if is_envi(path):
        return read_envi_scene
    raise ValueError(
        f"{path}: a scene is an ENVI file with its .hdr, .npz, .npy, .mat, .zarr, .tif or .nc; suffix {suffix!r} is "
        "none of these and there is no ENVI header beside it"
    )


def _library_reader(path: Path, told: Reading) -> Callable[[Path, Reading], Any]:
    """The reader of a library that is there."""
    suffix = path.suffix.lower()
    if told.keys and suffix not in (".npz", ".mat"):
        raise ValueError(f"{path}: keys are for .npz and .mat files")
    if suffix in LIBRARIES:
        return LIBRARIES[suffix]
    if is_envi(path):
        return read_envi_library
    raise ValueError(
        f"{path}: a library is an ENVI .sli with its .hdr, .csv, .txt, .npz or .mat; suffix {suffix!r} is "
        "none of these and there is no ENVI header beside it"
    )
