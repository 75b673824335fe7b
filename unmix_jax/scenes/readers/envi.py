"""ENVI cubes and spectral libraries; cubes stay in their file.

Reference: "ENVI header files", the list of header fields in the documentation of ENVI.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from unmix_jax.scenes.lazy import NODATA, LazyCube
from unmix_jax.scenes.library_files import texts_of_header
from unmix_jax.scenes.readers.spectra.sli_tables import classes_of
from unmix_jax.scenes.reading import Entries, NoSceneError, Reading, refuse_unread
from unmix_jax.scenes.scene import Account, Scene, SpectralAxis, SpectralLibrary
from unmix_jax.scenes.units import axis_of_names, canonical, existing, quantity_in, spectral_axis, unit_of

__all__ = ["EnviHeader", "is_envi", "read_envi_library", "read_envi_scene"]

# Suffixes of data files that are tried first; every other file of the same name will do whose size fits.
DATA_SUFFIXES = ("", ".img", ".dat", ".sli", ".bsq", ".bil", ".bip", ".raw", ".bin", ".cub", ".hyspex", ".envi", ".rfl")
TYPES = {1: "u1", 2: "i2", 3: "i4", 4: "f4", 5: "f8", 12: "u2", 13: "u4", 14: "i8", 15: "u8"}
# Fields that change no number; they stay in the header, and those that place the image go to the maps.
DESCRIPTIVE = (
    "acquisition time", "band names", "class lookup", "class names", "classes", "cloud cover",
    "default bands", "default stretch", "dem band", "dem file", "description", "geo points", "pixel size",
    "product type", "read procedures", "rpc info", "security tag", "sensor type", "solar irradiance", "spectra names",
    "sun azimuth", "sun elevation", "timestamp", "z plot average", "z plot range",
)  # fmt: skip
PLACING = ("map info", "coordinate system string", "projection info", "x start", "y start")
KNOWN = (
    *DESCRIPTIVE, *PLACING,
    "samples", "lines", "bands", "header offset", "file type", "file compression", "data type", "interleave",
    "byte order", "wavelength", "wavelength units", "fwhm", "bbl", "data ignore value", "reflectance scale factor",
    "data gain values", "data offset values", "data reflectance gain values", "data reflectance offset values",
    "major frame offsets", "minor frame offsets", "z plot titles", "complex function",
)  # fmt: skip
ALIASES = {"good wavelengths": "bbl", "bad bands list": "bbl"}  # 1 = good, as EMIT's tools and AVIRIS headers write it
HEADER_BYTES = 64 * 2**20  # a header of names of a hundred thousand spectra has 10 MB


class EnviHeader:
    """A header's fields, under the names that they should have, and what became of each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fields = Entries({ALIASES.get(k, k): v for k, v in canonical(_fields(path), KNOWN).items()})
        self.fields.carry(*DESCRIPTIVE)

    def text(self, name: str, default: str = "") -> str:
        """A field of one word."""
        value = self.fields.use(name, default)
        return ",".join(value) if isinstance(value, list) else str(value)

    def numbers(self, name: str, count: int) -> np.ndarray | None:
        """A list of numbers, one per band; None where there is none.

        Raises:
            ValueError: not numbers, or not as many.
        """
        value = self.fields.use(name)
        if value is None or value in ([""], ""):
            return None
        try:
            numbers = np.asarray([value] if isinstance(value, str) else value, float)
        except ValueError:
            raise ValueError(f"{self.path}: {name} is not a list of numbers") from None
        if len(numbers) != count:
            raise ValueError(f"{self.path}: {name} lists {len(numbers)} values for {count} bands")
        return numbers

    def one_or_many(self, name: str, count: int, default: float, remedy: str) -> Any:
        """A finite number, or a list of them, one per band.

        Raises:
            ValueError: neither; the message names ``remedy``.
        """
        value = self.fields.use(name)
        if value in (None, "", [""]):
            return default
        listed = [value] if isinstance(value, str) else list(value)
        numbers = np.asarray([self._number(v, name, remedy) for v in listed])
        if len(numbers) not in (1, count):
            raise ValueError(f"{self.path}: {name} lists {len(numbers)} values for {count} bands{remedy}")
        return float(numbers[0]) if len(numbers) == 1 else numbers

    def _number(self, text: str, name: str, remedy: str) -> float:
        """A finite number out of its text."""
        try:
            number = float(text)
        except ValueError:
            number = np.nan
        if not np.isfinite(number):
            raise ValueError(f"{self.path}: {name} must be a finite number, got {text!r}{remedy}")
        return number

    def ignored(self, bands: int, told: Reading) -> Any:
        """The number that marks missing data, or one per band; None where the header gives none or the user another."""
        value = self.fields.use("data ignore value")
        if told.nodata is not None or value in (None, "", [""]) or str(value).lower() == "nan":
            return None
        return self.one_or_many("data ignore value", bands, 0.0, ". Correct it, or give --nodata")

    def whole(self, name: str, default: int | None = None) -> int:
        """A whole number.

        Raises:
            ValueError: the field is absent and has no default, or is no whole number.
        """
        value = self.fields.use(name)
        if value is None and default is not None:
            return default
        try:
            return int(str(value))
        except ValueError:
            raise ValueError(f"{self.path}: {name} must be a whole number, got {value!r}") from None

    def flags(self, bands: int) -> np.ndarray | None:
        """Good bands, by ``bbl``."""
        numbers = self.numbers("bbl", bands)
        if numbers is not None and not np.isfinite(numbers).all():
            raise ValueError(f"{self.path}: bbl must be 0 or 1 for each band, got {numbers[~np.isfinite(numbers)][0]}")
        return None if numbers is None else numbers != 0

    def axis(self, bands: int, told: Reading) -> SpectralAxis | None:
        """The spectral axis: the listed wavelengths, or those that the names of all bands hold; None without either."""
        centers, named = self.numbers("wavelength", bands), unit_named(self.text("wavelength units"), self.path, told)
        fwhm = self.numbers("fwhm", bands)
        if named == "index" and told.unit is None:
            return None
        if centers is None:
            found = axis_of_names(self.listed("band names"))
            if found is None:
                return None
            self.fields.use("band names")
            centers, named = found
        stated = None if named == "index" else named
        unit = told.unit_of(stated, str(self.path))
        return spectral_axis(centers, fwhm=fwhm, unit=unit, where=str(self.path))

    def listed(self, name: str) -> tuple[str, ...]:
        """A list of words, without marking the field as used."""
        value = self.fields.peek(name, [])
        return tuple(str(v) for v in ([value] if isinstance(value, str) else value))

    def scaling(self, bands: int, told: Reading) -> tuple[dict[str, Any], list[str]]:
        """Divisor, gain and offset of `LazyCube`, and notes; those that the user replaces are passed over.

            value = (stored · gain + offset) / factor

        ENVI's own programs and GDAL apply gains and offsets; the reflectance scale factor divides.
        """
        notes: list[str] = []
        names = ("data gain values", "data offset values")
        reflectance = ("data reflectance gain values", "data reflectance offset values")
        if told.scale is not None:
            for name in (*names, *reflectance, "reflectance scale factor"):
                self.fields.use(name)
            return {}, notes
        remedy = ". Correct it, or give --scale and --offset, which stand in its place"
        if not any(name in self.fields for name in names) and any(name in self.fields for name in reflectance):
            names = reflectance
        elif any(name in self.fields for name in reflectance):
            notes.append(
                "the header has gains for radiance and gains for reflectance; those for radiance (data gain values) "
                "are applied"
            )
            for name in reflectance:
                self.fields.use(name)
        gain = self.one_or_many(names[0], bands, 1.0, remedy)
        offset = 0.0 if told.offset is not None else self.one_or_many(names[1], bands, 0.0, remedy)
        factor = self.one_or_many("reflectance scale factor", bands, 1.0, remedy)
        if np.any(np.asarray(factor) < 0):
            raise ValueError(
                f"{self.path}: reflectance scale factor must be above zero, got {np.min(factor):g}{remedy}"
            )
        factor = np.where(np.asarray(factor) == 0, 1.0, factor)  # 0 stands for "none" in headers of some programs
        if np.ndim(factor) == 0 and np.all(gain == 1.0) and np.all(offset == 0.0):
            return {"divisor": float(factor)}, notes
        return {"gain": gain / factor, "offset": offset / factor}, notes

    def check(self, told: Reading) -> None:
        """Refuse fields that no reader uses and that may change numbers, once all others were used.

        Raises:
            ValueError: naming the field and the option that stands in its place.
        """
        unknown = self.fields.account().unknown
        refuse_unread(unknown, told, str(self.path), {name: self.fields.peek(name) for name in unknown})
        for name in {"data units", "units"} & set(unknown):
            if told.scale is None and re.search(r"%|per ?cent", str(self.fields.peek(name)).lower()):
                raise ValueError(f"{self.path}: {name} = {self.fields.peek(name)}: give --scale 0.01, or --scale 1")

    def quantity(self) -> str | None:
        """What the values are, where the header says it."""
        titles = self.listed("z plot titles")
        self.fields.carry("z plot titles")
        told = titles[1] if len(titles) > 1 else ""
        found = quantity_in(told)
        if found is not None:
            self.fields.use("z plot titles")
        elif "reflectance scale factor" in self.fields or (
            "data reflectance gain values" in self.fields and "data gain values" not in self.fields
        ):
            found = "reflectance"
        return found


def unit_named(text: str, path: Path, told: Reading) -> str | None:
    """The unit of a header, ``index`` where it says that bands are numbered only; None where it is silent."""
    if text.strip().lower() == "index":
        return "index"
    try:
        return unit_of(text)
    except ValueError as error:
        if told.force_unit:
            return None
        raise ValueError(f"{path}: {error}. If it is wrong, give --unit with --force-unit") from None


def is_envi(path: str | Path) -> bool:
    """Whether the path is an ENVI header, or a data file that has one beside it."""
    return _header_path(Path(path)) is not None


def read_envi_scene(path: Path, told: Reading) -> Scene:
    """Open an ENVI cube, named by its header or by its data file, without reading it.

    Float cubes are memory maps seen as [row, column, band]; integers, foreign byte order, gains, offsets and a
    ``reflectance scale factor`` are converted slice by slice (`LazyCube`). An image in a GeoTIFF that has a header
    beside it is opened as a GeoTIFF.

    Args:
        path: the header or the data file.
        told: what the user says.

    Raises:
        FileNotFoundError: header or data file missing.
        ValueError: not an ENVI header, sizes that disagree with the file, lists that do not fit the bands.
    """
    header, data = _pair(path)
    if data.suffix.lower() in (".tif", ".tiff"):
        from unmix_jax.scenes.readers.geotiff import read_geotiff  # which takes from the header what the image lacks

        return read_geotiff(data, told)
    told_by = EnviHeader(header)
    if "spectral library" in told_by.text("file type").lower():
        raise NoSceneError(f"{header} is a spectral library, not a scene: open it with read_library")
    stored = _open(told_by, data, told)
    bands = stored.shape[-1]
    stated = told_by.ignored(bands, told)
    nodata = NODATA if stated is None else stated
    scaling, notes = told_by.scaling(bands, told)
    plain = stored.dtype in (np.float32, np.float64) and stored.dtype.isnative and np.ndim(nodata) == 0
    plain = plain and scaling in ({}, {"divisor": 1.0})
    for name in PLACING:
        told_by.fields.use(name)
    axis, good, quantity = told_by.axis(bands, told), told_by.flags(bands), told_by.quantity()
    told_by.check(told)
    return Scene(
        stored if plain else LazyCube(stored, nodata=nodata, **scaling),
        axis,
        good_bands=good,
        nodata=nodata if plain else None,
        stated_nodata=None if stated is None else float(np.ravel(stated)[0]),
        name=data.stem,
        quantity=quantity or "value",
        notes=tuple(notes),
        account=told_by.fields.account(),
        header=told_by.fields.header(),
    )


def read_envi_library(path: Path, told: Reading) -> SpectralLibrary:
    """Read an ENVI spectral library (`.sli` with its header); values at ``data ignore value`` become NaN.

    Args:
        path: the header or the data file.
        told: what the user says.

    Raises:
        FileNotFoundError: header or data file missing.
        ValueError: a cube instead of a library, and as `read_envi_scene`.
    """
    header, data = _pair(path)
    told_by = EnviHeader(header)
    stored = _open(told_by, data, told)
    if "spectral library" not in told_by.text("file type").lower() and stored.shape[-1] != 1:
        raise ValueError(f"{header} is a cube of {stored.shape[-1]} bands, not a spectral library")
    members, bands = stored.shape[:2]  # one line of the file is a spectrum
    stated = told_by.ignored(1, told)
    nodata: Any = NODATA if stated is None else stated
    if told.nodata is not None:
        nodata = None if told.nodata == "none" else float(told.nodata)
    scaling, notes = told_by.scaling(bands, told)
    cube = LazyCube(stored[..., 0], nodata=nodata, zeros_missing=told.zeros == "missing", **scaling)
    told_by.fields.use("spectra names")
    names = told_by.listed("spectra names")
    if names and len(names) != members:
        raise ValueError(f"{header}: {len(names)} spectra names for {members} spectra")
    names, classes, quantity, more = texts_of_header(told_by.fields, names, members)
    told_by.fields.carry(*PLACING)
    titled, axis, good = told_by.quantity(), told_by.axis(bands, told), told_by.flags(bands)
    told_by.check(told)
    named = names or tuple(f"spectrum {i + 1}" for i in range(members))
    content = told_by.fields.header()
    table = Account()
    if not classes or "class" in told.keys:  # those that we wrote ourselves need no table
        found = classes_of(content, data, header, named, told, named=bool(names))
        classes, table, more = found.classes, found.account, [*more, *found.notes]
        if found.entry is not None:
            told_by.fields.use(found.entry)
        if found.metadata:
            content["metadata"] = found.metadata
    account = told_by.fields.account()
    return SpectralLibrary(
        cube[:],
        axis,
        named,
        classes,
        good_bands=good,
        quantity=quantity or titled or "value",
        notes=(*notes, *more),
        account=Account(*(own + beside for own, beside in zip(account, table, strict=True))),
        header=content,
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
    size = _promised(EnviHeader(header))
    near = [stem.with_name(stem.name + suffix) for suffix in (*DATA_SUFFIXES, *(s.upper() for s in DATA_SUFFIXES))]
    there = [path for path in near if path.is_file()]
    if there:  # the first whose size fits; where none does, the first, so that the message says what is wrong with it
        return header, next((path for path in there if path.stat().st_size == size), there[0])
    others = sorted(
        p for p in header.parent.iterdir()
        if p.name.startswith(f"{stem.name}.") and p.suffix.lower() != ".hdr" and p.is_file()
    )  # fmt: skip
    fitting = [p for p in others if p.suffix.lower() in (".tif", ".tiff") or p.stat().st_size == size]
    if len(fitting) == 1:
        return header, fitting[0]
    if fitting:
        raise ValueError(
            f"{header}: more than one data file fits, {', '.join(p.name for p in fitting)}: name the one you want"
        )
    seen = (
        f"; {', '.join(p.name for p in others)} has another size than the {size} bytes of the header" if others else ""
    )
    raise FileNotFoundError(f"{header}: no data file beside it ({stem.name}, {stem.name}.img, .dat, .sli ...){seen}")


def _promised(header: EnviHeader) -> int:
    """Bytes of the data file by its header."""
    lines, samples, bands = _sizes(header)
    return header.whole("header offset", 0) + _type(header).itemsize * lines * samples * bands


def _sizes(header: EnviHeader) -> tuple[int, int, int]:
    """Lines, samples and bands."""
    absent = [name for name in ("samples", "lines", "bands", "data type") if name not in header.fields]
    if absent:
        raise ValueError(f"{header.path}: the header has no {', '.join(absent)}")
    lines, samples, bands = (header.whole(name) for name in ("lines", "samples", "bands"))
    if min(lines, samples, bands) < 1:
        raise ValueError(f"{header.path}: the cube is empty, lines × samples × bands is {(lines, samples, bands)}")
    return lines, samples, bands


def _type(header: EnviHeader) -> np.dtype:
    """Type of the stored numbers."""
    if "data type" not in header.fields:
        raise ValueError(f"{header.path}: the header has no data type")
    number, order = header.whole("data type"), header.whole("byte order", 0)
    if number in (6, 9):
        raise ValueError(f"{header.path}: data type {number} (complex) is not a real number")
    if number not in TYPES:
        raise ValueError(f"{header.path}: data type {number} is none of {', '.join(map(str, TYPES))}")
    if order not in (0, 1):
        raise ValueError(f"{header.path}: byte order must be 0 (little endian) or 1 (big endian), got {order}")
    return np.dtype(TYPES[number]).newbyteorder(">" if order else "<")


def _open(header: EnviHeader, data: Path, told: Reading) -> np.ndarray:
    """Memory map of the data file as [row, column, band], after checking that its size is as promised."""
    lines, samples, bands = _sizes(header)
    dtype, offset = _type(header), header.whole("header offset", 0)
    interleave = header.text("interleave").lower()
    if told.interleave is not None:
        if interleave and interleave != told.interleave.lower():
            raise ValueError(f"{header.path}: the header says interleave = {interleave}; leave --interleave out")
        interleave = told.interleave.lower()
    if interleave not in ("bsq", "bil", "bip"):
        said = (
            f"interleave {interleave!r} is not one of bsq, bil, bip" if interleave else "the header has no interleave"
        )
        raise ValueError(f"{header.path}: {said}: correct the header, or give --interleave bsq, bil or bip")
    if header.text("file compression", "0") not in ("0", ""):
        raise ValueError(f"{header.path}: compressed ENVI files cannot be read; save the file uncompressed")
    for name in ("major frame offsets", "minor frame offsets"):
        if any(part.strip(" {}") not in ("", "0") for part in header.text(name).split(",")):
            raise ValueError(f"{header.path}: {name} other than 0 cannot be read; save the file without them")
    header.fields.carry("complex function")
    promised = offset + lines * samples * bands * dtype.itemsize
    size = data.stat().st_size
    if offset < 0 or size != promised:
        what = "is truncated" if size < promised else "is larger than its header says"
        raise ValueError(
            f"{data} {what}: lines × samples × bands {lines} × {samples} × {bands} of {dtype.name} "
            f"take {promised} bytes, the file has {size}"
        )
    order = {"bsq": (1, 2, 0), "bil": (0, 2, 1), "bip": (0, 1, 2)}[interleave]  # where row, column and band lie
    stored = [0, 0, 0]
    for axis, length in zip(order, (lines, samples, bands), strict=True):
        stored[axis] = length
    return np.memmap(data, dtype, "r", offset, tuple(stored)).transpose(order)


def _fields(path: Path) -> dict[str, Any]:
    """The fields of a header: text, or a list of text where the value stands in braces; in one pass.

    Raises:
        ValueError: no header, or a brace that is never closed.
    """
    if path.stat().st_size > HEADER_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size} bytes: that is no ENVI header")
    content = path.read_bytes()
    if b"\0" in content[:4096] or not content.lstrip().startswith(b"ENVI"):
        raise ValueError(f"{path} is not a readable ENVI header: it does not begin with the word ENVI")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    fields: dict[str, Any] = {}
    key, parts = "", []
    for line in text.splitlines()[1:]:
        if line.startswith(";"):
            continue
        if not key:
            name, equals, value = line.partition("=")
            if not equals:
                continue
            key, parts = re.sub(r"\s+", " ", name).strip().lower(), [value.strip()]
            if not value.strip().startswith("{"):
                _put(fields, key, value.strip(), path)
                key = ""
                continue
        else:
            parts.append(line.strip())
        if parts[-1].endswith("}"):
            whole = "\n".join(parts)[1:-1]
            listed = whole.strip() if key == "description" else [part.strip() for part in whole.split(",")]
            _put(fields, key, listed, path)
            key = ""
    if key:
        raise ValueError(f"{path} is not a readable ENVI header: the brace after {key!r} is never closed")
    return fields


def _put(fields: dict[str, Any], key: str, value: Any, path: Path) -> None:
    """A field of a header.

    Raises:
        ValueError: it stands there already and said something else.
    """
    if fields.get(key, value) != value and key not in DESCRIPTIVE:
        raise ValueError(f"{path}: the header gives {key!r} twice, with different values: delete one")
    fields[key] = value
