"""Scenes and spectral libraries from files: two functions, which look at the suffix and at what lies beside it."""

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple

from unmix_jax.scenes.reading import NoSceneError, Number, Reading, announced, finish, finish_library, noticing
from unmix_jax.scenes.scene import Scene, SpectralLibrary
from unmix_jax.scenes.units import existing, in_file

__all__ = ["NOT_KNOWN", "is_product", "read_library", "read_scene"]

Reader = Callable[[Path, Reading], Any]
Home = str  # "module:function" in this package: a format is imported when a file of it is met


class Format(NamedTuple):
    """A format of scenes: how its files are recognised, and who reads them.

    Attributes:
        read: its reader, which takes a path and a `Reading` and returns what the file says; `finish` and
            `finish_library` then do what is the same for all formats.
        suffixes: of its files; empty: any.
        recognise: says by name or first bytes whether a path is of it; empty: the suffix says it.
        keys: whether its arrays have names, which the user may give.
        product: whether it is a sensor's product of several files, any of which may be named.
    """

    read: Home
    suffixes: tuple[str, ...] = ()
    recognise: Home = ""
    keys: bool = False
    product: bool = False


# In this order: a product's own layout before the format that it is written in.
SCENES = (
    Format("arrays:read_array_scene", (".npz", ".mat", ".zarr"), keys=True),
    Format("arrays:read_npy", (".npy",)),
    Format("sensors.prisma:read_prisma", (".he5",), "sensors.prisma:is_prisma", product=True),
    Format("sensors.enmap:read_enmap", (), "sensors.enmap:is_enmap", product=True),
    Format("sensors.desis:read_desis", (), "sensors.desis:is_desis", product=True),
    Format("sensors.hyperion:read_hyperion", (), "sensors.hyperion:is_hyperion", product=True),
    Format("sensors.multispectral:read_sentinel2", (), "sensors.multispectral:is_sentinel2", product=True),
    Format("sensors.multispectral:read_landsat", (), "sensors.multispectral:is_landsat", product=True),
    Format("sensors.multispectral:read_landsat_stack", (".tif", ".tiff"), "sensors.multispectral:is_landsat_stack"),
    Format("sensors.multispectral:read_sentinel2_stack", (".tif", ".tiff"), "sensors.multispectral:is_sentinel2_stack"),
    Format("geotiff:read_geotiff", (".tif", ".tiff")),
    Format("netcdf.netcdf:read_netcdf", (".nc", ".nc4", ".h5", ".hdf5", ".he5", ".hdf"), keys=True),
    Format("planetary.pds4:read_pds4", (), "planetary.pds4:is_pds4", keys=True),
    Format("planetary.isis:read_isis", (), "planetary.isis:is_isis"),
    Format("planetary.pds3:read_pds3", (), "planetary.pds3:is_pds3", keys=True),
    Format("envi:read_envi_scene", (), "envi:is_envi"),
)
LIBRARIES = (
    Format("arrays:read_array_library", (".npz", ".mat", ".zarr"), keys=True),
    # Also where the header of a .sli lies beside it.
    Format("tables.tables:read_table", (".csv", ".txt", ".tsv"), keys=True),
    Format("envi:read_envi_library", (), "envi:is_envi", keys=True),
    Format("planetary.pds3:read_pds3_library", (".tab", ".lbl"), "planetary.pds3:is_pds3", keys=True),
    Format("tables.tables:read_table", (".tab",), keys=True),
)
NOT_KNOWN = "this is none of these"
FILES_OF_SCENES = (
    "an ENVI file with its .hdr, GeoTIFF, NetCDF, HDF5, .npz, .npy, .mat, .zarr, PDS3, PDS4, ISIS, or a product of "
    "PRISMA, EnMAP, DESIS, Hyperion, Sentinel-2 or Landsat"
)
FILES_OF_LIBRARIES = (
    "an ENVI .sli with its .hdr, .csv, .txt, .tsv, .npz, .mat, .zarr, a laboratory's or field spectrometer's own file, "
    "or a folder of such files"
)


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
    library_bands: int | None = None,
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
        library_bands: number of bands of the library that the scene is for, which tells how an array of `.mat`, `.npz`
            or Zarr without wavelengths lies.

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
        interleave, zeros, library_bands,
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


def is_product(path: Path) -> bool:
    """Whether a file or folder belongs to a sensor's product, whatever its suffix says.

    Args:
        path: a file or folder that is there.
    """
    return any(form.product and _home(form.recognise)(path) for form in SCENES)


def _scene_reader(path: Path, told: Reading) -> Reader:
    """The reader of a scene that is there.

    Raises:
        ValueError: no format is recognised; keys for a format without names.
    """
    return _chosen(path, told, SCENES) or _refuse(path, "scene", FILES_OF_SCENES)


def _library_reader(path: Path, told: Reading) -> Reader:
    """The reader of a library that is there: a laboratory's own format before the general ones.

    Raises:
        ValueError: as `_scene_reader`.
    """
    own: Reader | None = _home("spectra.folders:recognise")(path, told.keys.get("format"))
    return own or _chosen(path, told, LIBRARIES) or _refuse(path, "library", FILES_OF_LIBRARIES)


def _chosen(path: Path, told: Reading, formats: Iterable[Format]) -> Reader | None:
    """The reader of the first of some formats that a path is of."""
    suffix = path.suffix.lower()
    for form in formats:
        if form.suffixes and suffix not in form.suffixes:
            continue
        if form.recognise and not _home(form.recognise)(path):
            continue
        if path.is_dir() and not form.recognise and suffix != ".zarr":
            continue
        if told.keys and not form.keys:
            raise ValueError(f"{path}: keys name arrays, and the arrays of this format have no names: leave --key out")
        return _home(form.read)
    return None


def _refuse(path: Path, what: str, known: str) -> Reader:
    """Say which formats there are.

    Raises:
        ValueError: always.
    """
    if path.suffix.lower() in (".xlsx", ".xls", ".ods"):
        raise NoSceneError(f"{path} is a workbook; {NOT_KNOWN}: save its sheet as .csv")
    raise NoSceneError(f"{path}: a {what} is {known}; {NOT_KNOWN}")


def _home(name: Home) -> Callable[..., Any]:
    """A function of this package by its home."""
    module, _, function = name.partition(":")
    return getattr(import_module(f"{__name__}.{module}"), function)
