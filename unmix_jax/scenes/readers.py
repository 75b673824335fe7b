"""Scenes from files: one function, which looks at the suffix and at what lies beside the file."""

from collections.abc import Mapping
from pathlib import Path

from unmix_jax.scenes.arrays import read_array_scene, read_npy
from unmix_jax.scenes.envi import is_envi, read_envi_scene
from unmix_jax.scenes.rasters import read_emit, read_geotiff
from unmix_jax.scenes.scene import Scene
from unmix_jax.scenes.units import existing, in_file

__all__ = ["read_scene"]


def read_scene(path: str | Path, *, keys: Mapping[str, str] | None = None, unit: str | None = None) -> Scene:
    """Open a scene: ENVI, `.mat`, `.npy`, `.npz`, GeoTIFF, EMIT NetCDF or a Zarr group.

    ENVI, `.npy`, GeoTIFF, NetCDF and Zarr cubes stay in their file and are read as they are sliced. Wavelengths
    come out in nm, wavenumbers in cm⁻¹, in the order of the file. Bands marked bad and pixels marked missing
    (NaN, -9999, ``data ignore value``) are kept and marked.

    Args:
        path: the file; for ENVI the header or the data file.
        keys: for `.npz`, `.mat` and `.zarr`, names of the project to names in the file, such as ``{"cube": "Y"}``
            (see `unmix_jax.scenes.arrays`); for NetCDF ``{"cube": variable}``.
        unit: of the wavelengths where the file does not say it, or says it wrongly: nm, um or cm-1.

    Returns:
        The scene; `Scene.header` holds the metadata and georeferencing of the file.

    Raises:
        FileNotFoundError: no such file, or an ENVI header without data.
        ValueError: unknown suffix, unknown layout, truncated file, lists that do not fit the bands.
        ImportError: a reader that is not installed; the message names the extra to install.
    """
    path = existing(path)
    with in_file(path):
        return _read(path, keys, unit)


def _read(path: Path, keys: Mapping[str, str] | None, unit: str | None) -> Scene:
    """Read a file that is there by its suffix."""
    suffix = path.suffix.lower()
    if keys and suffix not in (".npz", ".mat", ".zarr", ".nc", ".nc4"):
        raise ValueError(f"{path}: keys are for .npz, .mat, .zarr and .nc files")
    if suffix in (".npz", ".mat", ".zarr"):
        return read_array_scene(path, keys=keys, unit=unit)
    if suffix == ".npy":
        return read_npy(path)
    if suffix in (".nc", ".nc4"):
        if unknown := set(keys or ()) - {"cube"}:
            raise ValueError(f"{path}: keys of a NetCDF file name the cube only, got {sorted(unknown)}")
        return read_emit(path, variable=(keys or {}).get("cube"), unit=unit)
    if suffix in (".tif", ".tiff"):
        return read_geotiff(path, unit=unit)
    if is_envi(path):
        return read_envi_scene(path, unit=unit)
    raise ValueError(
        f"{path}: a scene is an ENVI file with its .hdr, .npz, .npy, .mat, .zarr, .tif or .nc; suffix {suffix!r} is "
        "none of these and there is no ENVI header beside it"
    )
