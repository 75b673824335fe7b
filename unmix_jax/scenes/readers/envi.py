"""ENVI cubes and spectral libraries, through Spectral Python (SPy); cubes stay in their file."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from unmix_jax.scenes.lazy import NODATA, LazyCube
from unmix_jax.scenes.reading import Reading
from unmix_jax.scenes.scene import Scene, SpectralAxis, SpectralLibrary, header_of
from unmix_jax.scenes.units import canonical, existing, spectral_axis

__all__ = ["is_envi", "read_envi_library", "read_envi_scene"]

DATA_SUFFIXES = ("", ".img", ".dat", ".sli", ".bsq", ".bil", ".bip", ".raw", ".bin", ".cub")
KNOWN = (
    "samples", "lines", "bands", "header offset", "file type", "file compression", "data type", "interleave",
    "byte order", "wavelength", "wavelength units", "fwhm", "bbl", "data ignore value",
    "reflectance scale factor", "spectra names", "band names", "map info", "coordinate system string",
    "description",
)  # fmt: skip


def is_envi(path: str | Path) -> bool:
    """Whether the path is an ENVI header, or a data file that has one beside it."""
    return _header_path(Path(path)) is not None


def read_envi_scene(path: Path, told: Reading) -> Scene:
    """Open an ENVI cube, named by its header or by its data file, without reading it.

    Float cubes are memory maps seen as [row, column, band]; integers, foreign byte order and a
    ``reflectance scale factor`` are converted slice by slice (`LazyCube`).

    Args:
        path: the header or the data file.
        unit: of the wavelengths, where the header is silent or wrong.

    Raises:
        FileNotFoundError: header or data file missing.
        ValueError: not an ENVI header, sizes that disagree with the file, lists that do not fit the bands.
    """
    header, data = _pair(path)
    metadata, fields = _read_header(header)
    if "spectral library" in str(fields.get("file type", "")).lower():
        raise ValueError(f"{header} is a spectral library, not a scene: open it with read_library")
    stored = _open(header, data, fields)
    bands, nodata = stored.shape[-1], _number(fields, "data ignore value", header, NODATA)
    divisor = _number(fields, "reflectance scale factor", header, 1.0) or 1.0
    plain = stored.dtype in (np.float32, np.float64) and stored.dtype.isnative and divisor == 1
    cube = stored if plain else LazyCube(stored, divisor=divisor, nodata=nodata)
    good = _numbers(fields, "bbl", bands, header)
    return Scene(
        cube,
        _axis(fields, bands, told.unit, header),
        good_bands=None if good is None else good != 0,
        nodata=nodata if plain else None,
        name=data.stem,
        header=header_of(metadata),
    )


def read_envi_library(path: Path, told: Reading) -> SpectralLibrary:
    """Read an ENVI spectral library (`.sli` with its header); values at ``data ignore value`` become NaN.

    Args:
        path: the header or the data file.
        unit: of the wavelengths, where the header is silent or wrong.

    Raises:
        FileNotFoundError: header or data file missing.
        ValueError: a cube instead of a library, and as `read_envi_scene`.
    """
    header, data = _pair(path)
    metadata, fields = _read_header(header)
    stored = _open(header, data, fields)
    if "spectral library" not in str(fields.get("file type", "")).lower() and stored.shape[-1] != 1:
        raise ValueError(f"{header} is a cube of {stored.shape[-1]} bands, not a spectral library")
    nodata = _number(fields, "data ignore value", header, NODATA)
    divisor = _number(fields, "reflectance scale factor", header, 1.0) or 1.0
    spectra = LazyCube(stored, divisor=divisor, nodata=nodata)[..., 0]  # one line of the file is a spectrum
    members, bands = spectra.shape
    names = fields.get("spectra names", [])
    names = tuple(str(n) for n in ([names] if isinstance(names, str) else names))
    if names and len(names) != members:
        raise ValueError(f"{header}: {len(names)} spectra names for {members} spectra")
    good = _numbers(fields, "bbl", bands, header)
    return SpectralLibrary(
        spectra,
        _axis(fields, bands, told.unit, header),
        names or tuple(f"spectrum {i + 1}" for i in range(members)),
        good_bands=None if good is None else good != 0,
        header=header_of(metadata),
    )


def _header_path(path: Path) -> Path | None:
    """The header of a header or data file: `x.hdr` for `x`, `x.hdr`, `x.img`, or `x.img.hdr`."""
    if path.suffix.lower() == ".hdr":
        return path
    for name in (f"{path.name}.hdr", f"{path.stem}.hdr", f"{path.name}.HDR", f"{path.stem}.HDR"):
        if (candidate := path.with_name(name)).is_file():
            return candidate
    return None


def _pair(path: str | Path) -> tuple[Path, Path]:
    """Header and data file of an ENVI pair that is there."""
    path = existing(path)
    header = _header_path(path)
    if header is None:
        raise FileNotFoundError(f"{path}: no ENVI header beside it ({path.name}.hdr or {path.stem}.hdr)")
    if header != path:
        return header, path
    stem = header.with_suffix("")
    for suffix in (*DATA_SUFFIXES, *(s.upper() for s in DATA_SUFFIXES)):
        if (candidate := stem.with_name(stem.name + suffix)).is_file():
            return header, candidate
    raise FileNotFoundError(f"{header}: no data file beside it ({stem.name}, {stem.name}.img, .dat, .sli ...)")


def _read_header(header: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The header as SPy reads it, and with its keys spelt as they should be."""
    from spectral.io import envi

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # keys in capitals
            metadata = envi.read_envi_header(str(header))
    except (envi.EnviException, UnicodeDecodeError) as error:
        raise ValueError(f"{header} is not a readable ENVI header: {error}") from None
    return metadata, canonical(metadata, KNOWN)


def _open(header: Path, data: Path, fields: dict[str, Any]) -> np.ndarray:
    """Memory map of the data file as [row, column, band], after checking that its size is as promised."""
    from spectral.io import envi
    from spectral.io.bilfile import BilFile
    from spectral.io.bipfile import BipFile
    from spectral.io.bsqfile import BsqFile

    readers = {"bsq": BsqFile, "bil": BilFile, "bip": BipFile}
    absent = [k for k in ("samples", "lines", "bands", "data type") if k not in fields]
    if absent:
        raise ValueError(f"{header}: the header has no {', '.join(absent)}")
    interleave = str(fields.get("interleave", "bsq")).lower()
    if interleave not in readers:
        raise ValueError(f"{header}: interleave {interleave!r} is not one of bsq, bil, bip")
    if str(fields.get("file compression", "0")) not in ("0", ""):
        raise ValueError(f"{header}: compressed ENVI files cannot be read; save the file uncompressed")
    try:
        layout = envi.gen_params({"byte order": "0", **fields, "interleave": interleave})
        dtype = np.dtype(layout.dtype)
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{header}: sizes or data type cannot be understood ({error})") from None
    if dtype.kind not in "iuf":
        raise ValueError(f"{header}: data type {fields['data type']} ({dtype.name}) is not a real number")
    shape = layout.nrows, layout.ncols, layout.nbands
    if min(shape) < 1:
        raise ValueError(f"{header}: the cube is empty, lines × samples × bands is {shape}")
    promised = layout.offset + shape[0] * shape[1] * shape[2] * dtype.itemsize
    size = data.stat().st_size
    if size != promised:
        what = "is truncated" if size < promised else "is larger than its header says"
        raise ValueError(
            f"{data} {what}: lines × samples × bands {shape[0]} × {shape[1]} × {shape[2]} of {dtype.name} "
            f"take {promised} bytes, the file has {size}"
        )
    layout.filename = str(data.absolute())
    image = readers[interleave](layout, fields)
    image.fid.close()
    return image.open_memmap(interleave="bip", writable=False)


def _axis(fields: dict[str, Any], bands: int, unit: str | None, header: Path) -> SpectralAxis | None:
    """The spectral axis of a header, None where it lists no wavelengths."""
    centers = _numbers(fields, "wavelength", bands, header)
    if centers is None:
        return None
    fwhm = _numbers(fields, "fwhm", bands, header)
    return spectral_axis(centers, fwhm=fwhm, unit=unit or fields.get("wavelength units"), where=str(header))


def _numbers(fields: dict[str, Any], key: str, count: int, header: Path) -> np.ndarray | None:
    """A list of numbers of the header, one per band."""
    value = fields.get(key)
    if value is None or value == [""]:
        return None
    try:
        numbers = np.asarray([value] if isinstance(value, str) else value, float)
    except ValueError:
        raise ValueError(f"{header}: {key} is not a list of numbers") from None
    if len(numbers) != count:
        raise ValueError(f"{header}: {key} lists {len(numbers)} values for {count} bands")
    return numbers


def _number(fields: dict[str, Any], key: str, header: Path, default: float) -> float:
    """A number of the header; a list, one entry per band, must repeat one number; NaN is as good as none."""
    value = fields.get(key)
    if value in (None, "", [""]) or str(value).lower() == "nan":
        return default
    try:
        numbers = {float(v) for v in ([value] if isinstance(value, str) else value)}
    except ValueError:
        raise ValueError(f"{header}: {key} is not a number: {value!r}") from None
    if len(numbers) != 1:
        raise ValueError(f"{header}: {key} differs from band to band, which is not supported")
    return numbers.pop()
