"""What readers of products share that are a folder of rasters with a metadata file: XML, MTL, bands, layers, place.

Files of a product are found by its naming rule in the folder of the file that was opened; no path that is written
inside a file is followed. XML with a document type, which could declare entities, is refused.
"""

import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np

from unmix_jax.scenes.reading import Entries, Reading
from unmix_jax.scenes.units import missing

__all__ = [
    "BandStack",
    "Marked",
    "background",
    "band_table",
    "by_rows",
    "described",
    "flagged",
    "layer",
    "metadata_in",
    "named",
    "neighbours",
    "open_raster",
    "parse_mtl",
    "parse_xml",
    "per_band",
    "place",
    "readable",
    "xml_entries",
]

LARGEST_TEXT = 64 * 2**20  # bytes of a metadata file; EnMAP's, with 80 coefficients for each of 224 bands, has 2 MB
DEPTH = 64  # elements within elements; products have some 10
ELEMENTS = 2_000_000
GROUPS = 32  # groups within groups of an MTL; products have 2
AT_ONCE = 32 * 2**20  # bytes of the rows that are read together, where a block of the file covers many rows
# Words in the names of entries that may change a number or mark a bad one: such an entry is used, or not understood.
CHANGING = re.compile(r"gain|offset|scal(?:e|ing)|background|fill|bad", re.IGNORECASE)
# Most that a raster may be larger than its file. Deflate reaches 1032:1 on a constant; up to FREE it fits into memory.
EXPANSION = 2048
FREE = 2**30
BLOCK = 2**30  # bytes of a row of pixels, or of a block of the file; what needs more cannot be read by rows
# Nothing but the file itself: GDAL lists no folder, reads no sidecar (.aux.xml, .ovr, .msk, .tfw), asks no server.
ALONE = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_PAM_ENABLED": "NO", "PROJ_NETWORK": "OFF"}


def neighbours(folder: Path) -> dict[str, Path]:
    """Files and folders of a folder under their names in capitals: products differ in the case of their suffixes."""
    with os.scandir(folder) as entries:
        return {entry.name.upper(): Path(entry.path) for entry in entries}


def parse_xml(path: Path) -> Element:
    """The root of an XML file; names without their namespace.

    Raises:
        ValueError: not XML, a document type (which could declare entities), too large or too deep.
    """
    if path.stat().st_size > LARGEST_TEXT:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes; a metadata file has {LARGEST_TEXT:,} at most")
    builder, depth, count = TreeBuilder(), 0, 0

    def start(name: str, attributes: Mapping[str, str]) -> None:
        nonlocal depth, count
        depth, count = depth + 1, count + 1
        if depth > DEPTH or count > ELEMENTS:
            raise ValueError(f"{path} has more than {DEPTH} levels or {ELEMENTS:,} elements of XML")
        builder.start(name.rpartition("}")[2], {k.rpartition("}")[2]: v for k, v in attributes.items()})

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(name.rpartition("}")[2])

    def document_type(*_: Any) -> None:
        raise ValueError(f"{path} has a document type (DOCTYPE), which metadata of products do not have: it is refused")

    parser = expat.ParserCreate(namespace_separator="}")
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = document_type
    parser.buffer_text = True
    try:
        with path.open("rb") as file:
            parser.ParseFile(file)
        return builder.close()
    except (expat.ExpatError, LookupError, AssertionError) as error:
        raise ValueError(f"{path} is not readable XML ({error})") from None


def metadata_in(folder: Path, pattern: re.Pattern[str]) -> Path | None:
    """The metadata of the product in a folder; None: there is none, or there are several.

    Args:
        folder: any path; None comes back for what is no folder.
        pattern: of the names of the product's files.
    """
    if not folder.is_dir():
        return None
    found = [file for _, file in named(pattern, neighbours(folder)) if file.suffix.upper() == ".XML"]
    return found[0] if len(found) == 1 else None


def described(names: Iterable[str], pattern: re.Pattern[str]) -> list[str]:
    """Entries of DLR's metadata that only describe: a pattern has them, and no word of theirs changes a number.

    Args:
        names: of the entries.
        pattern: of the whole names of entries that are known to change no number.
    """
    return [name for name in names if pattern.fullmatch(name) and not CHANGING.search(name)]


def background(
    entries: Entries, stated: float | None, default: float, path: Path, told: Reading, notes: list[str]
) -> float:
    """The fill value of an image of DLR: its own, else ``specific/backgroundValue``, else that of the level.

    Args:
        entries: of the metadata.
        stated: what the image itself says.
        default: where neither says it.
        path: of the metadata, for messages.
        told: what the user says.
        notes: one is added where image and metadata disagree.

    Raises:
        ValueError: no number.
    """
    text = entries.peek("specific/backgroundValue")
    if text is None or text == "":
        return default if stated is None else float(stated)
    if told.nodata is not None:  # stands in the place of whatever this is
        entries.use("specific/backgroundValue")
        return default if stated is None else float(stated)
    try:
        number = float(text)
    except (TypeError, ValueError):
        number = np.nan
    if not np.isfinite(number):
        raise ValueError(f"{path}: specific/backgroundValue must be a number, got {str(text)[:30]!r}; give --nodata")
    if stated is None or float(stated) == number:
        entries.use("specific/backgroundValue")
        return number
    notes.append(
        f"the image states {stated:g} as its no-data value, the metadata (backgroundValue) {number:g}: that of the "
        f"image is taken; give --nodata {number:g} if it is the other"
    )
    return float(stated)


def xml_entries(root: Element) -> dict[str, Any]:
    """Text of all elements under their path below the root, such as ``specific/mode``; a list where a path repeats."""
    entries: dict[str, Any] = {}
    waiting: list[tuple[Element, str]] = [(child, child.tag) for child in reversed(root)]
    while waiting:
        element, name = waiting.pop()
        text = (element.text or "").strip()
        if len(element) == 0:
            entries.setdefault(name, []).append(text)
        waiting += [(child, f"{name}/{child.tag}") for child in reversed(element)]
    return {name: texts[0] if len(texts) == 1 else texts for name, texts in entries.items()}


def band_table(root: Element, names: Sequence[str], path: Path, entries: Entries) -> dict[str, np.ndarray]:
    """Numbers of each band out of the children of ``bandCharacterisation``, as DLR's products have them.

    Args:
        root: of the metadata.
        names: of the numbers wanted.
        path: of the metadata, for messages.
        entries: of the metadata; those that are read are marked as used.

    Raises:
        ValueError: no bands, bands that are not numbered one after the other, or something that is no finite number.
    """
    bands = list(next(root.iter("bandCharacterisation"), ()))
    if not bands:
        raise ValueError(f"{path} has no <bandCharacterisation>: it lists no bands")
    table = {name: np.empty(len(bands)) for name in names}
    for i, band in enumerate(bands):
        said = (band.findtext("bandNumber") or band.get("number") or "").strip()
        if said and said != str(i + 1):
            raise ValueError(f"{path}: band {i + 1} of bandCharacterisation has the number {said[:20]}")
        for name in names:
            text = (band.findtext(name) or "").strip()
            try:
                table[name][i] = float(text)
            except ValueError:
                table[name][i] = np.nan
            if not np.isfinite(table[name][i]):
                raise ValueError(f"{path}: {name} of band {i + 1} must be a number, got {text[:30]!r}")
    for entry in entries.header():
        group, _, name = entry.rpartition("/")
        if name in names and group.split("/")[-2:-1] == ["bandCharacterisation"]:
            entries.use(entry)
    return table


def parse_mtl(path: Path) -> dict[str, str]:
    """Entries of an MTL file (``GROUP = … END_GROUP``) under ``group/key``, quotation marks taken off.

    Raises:
        ValueError: not text, no entries, or groups that do not close.
    """
    if path.stat().st_size > LARGEST_TEXT:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes; a metadata file has {LARGEST_TEXT:,} at most")
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text") from None
    entries: dict[str, str] = {}
    groups: list[str] = []
    for line in lines:
        key, sign, value = line.partition("=")
        key, value = key.strip(), value.strip().strip('"')
        if not sign:
            continue
        if key == "GROUP":
            groups.append(value)
            if len(groups) > GROUPS:
                raise ValueError(f"{path} has groups more than {GROUPS} deep")
        elif key == "END_GROUP":
            if not groups or groups.pop() != value:
                raise ValueError(f"{path}: END_GROUP = {value[:40]} closes no group of this name: it is damaged")
        else:
            entries["/".join((*groups[1:], key))] = value  # the outermost group is the file itself
    if groups or not entries:
        raise ValueError(f"{path} is no MTL file, or it is truncated")
    return entries


def open_raster(path: Path) -> Any:
    """A GeoTIFF, or a JPEG 2000 where the suffix is ``.jp2``, by the driver of this format only.

    GDAL would go by content, and some formats name other files.

    Raises:
        ValueError: not of these formats, damaged, or far larger than its file can hold.
        ImportError: rasterio is not installed.
    """
    try:
        import rasterio
    except ImportError:
        raise missing("geo", "rasterio", f"{path}: a raster") from None
    driver = "JP2OpenJPEG" if path.suffix.lower() == ".jp2" else "GTiff"
    try:
        with warnings.catch_warnings(), rasterio.Env(**ALONE):
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            raster = rasterio.open(path.absolute(), driver=driver, sharing=False)
    except (rasterio.errors.RasterioError, OSError) as error:
        raise ValueError(f"{path} is not a readable raster of format {driver} ({_line(error)})") from None
    size = raster.height * raster.width * sum(np.dtype(d).itemsize for d in raster.dtypes)
    if size > max(FREE, EXPANSION * path.stat().st_size):
        raise ValueError(
            f"{path} declares {size:,} bytes of pixels in a file of {path.stat().st_size:,} bytes: damaged, or made to "
            "fill the memory"
        )
    number = max(np.dtype(d).itemsize for d in raster.dtypes)
    together = raster.count if str(getattr(raster.interleaving, "value", "")).upper() == "PIXEL" else 1
    tall, wide = max(raster.block_shapes)
    if number * max(raster.width * raster.count, tall * wide * together) > BLOCK:
        raise ValueError(f"{path}: a row or a block of it takes more than {BLOCK:,} bytes: write it in smaller tiles")
    return raster


def place(raster: Any) -> dict[str, Any]:
    """Coordinate system and transform of a raster, as the header of a scene holds them; empty where it has none."""
    with readable(raster):
        if raster.crs is None:
            return {}
        return {"crs": raster.crs.to_wkt(), "transform": tuple(float(v) for v in tuple(raster.transform)[:6])}


@contextmanager
def readable(raster: Any) -> Iterator[None]:
    """Say of which raster texts are damaged: tags, descriptions and coordinate systems are decoded when asked for."""
    try:
        yield
    except UnicodeDecodeError:
        raise ValueError(f"{raster.name}: its tags are not text in UTF-8: it is damaged") from None


class BandStack:
    """Bands out of one or several open rasters of one size as [row, column, band]; read by rows when asked for.

    Attributes:
        shape: rows, columns, bands.
        dtype: of the stored numbers.
        chunks: rows that are read together, and the rest of the shape: a raster in tiles decodes whole tiles.
        path: file of the first band.
    """

    def __init__(self, bands: Sequence[tuple[Any, int]]) -> None:
        """Stack bands.

        Args:
            bands: an open raster and the number of its band, counted from 1, for each band of the stack.

        Raises:
            ValueError: sizes, places or types of numbers differ, or the numbers are complex.
        """
        first = bands[0][0]
        self.path = first.name
        kinds = {np.dtype(raster.dtypes[band - 1]) for raster, band in bands}
        if len(kinds) > 1 or next(iter(kinds)).kind not in "iuf":
            raise ValueError(f"{first.name}: bands hold numbers of type {', '.join(sorted(map(str, kinds)))}")
        for raster, _ in bands:
            if (raster.height, raster.width) != (first.height, first.width):
                raise ValueError(
                    f"{raster.name} has {raster.height} × {raster.width} pixels, {Path(first.name).name} has "
                    f"{first.height} × {first.width}"
                )
            with readable(raster):
                elsewhere = raster.crs != first.crs or not raster.transform.almost_equals(first.transform, 1e-6)
            if elsewhere:
                raise ValueError(f"{raster.name} lies elsewhere than {Path(first.name).name}: its place differs")
        self.dtype = kinds.pop()
        self.shape = first.height, first.width, len(bands)
        self.ndim = 3
        self._lock = Lock()  # many threads read, one at a time may use an open raster
        self._groups: list[tuple[Any, list[int]]] = []
        for raster, band in bands:
            if self._groups and self._groups[-1][0] is raster:
                self._groups[-1][1].append(band)
            else:
                self._groups.append((raster, [band]))
        block = max(int(raster.block_shapes[0][0]) for raster, _ in self._groups)
        fitting = max(1, AT_ONCE // (self.shape[1] * self.shape[2] * self.dtype.itemsize))
        self.chunks = (max(1, min(block, fitting, self.shape[0])), *self.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        return by_rows(self, index, self._rows)

    def _rows(self, start: int, stop: int) -> np.ndarray:
        """Rows from `start` to before `stop`, [row, column, band]."""
        window = ((start, stop), (0, self.shape[1]))
        parts = []
        with self._lock:
            for raster, bands in self._groups:
                parts.append(read(raster, bands, window))
        return np.moveaxis(np.concatenate(parts), 0, -1)


def by_rows(source: Any, index: Any, rows: Any) -> np.ndarray:
    """Part of an array of which whole rows are read.

    Args:
        source: its shape and type.
        index: as NumPy takes it.
        rows: gives the rows from a first to before a last one.
    """
    first, rest = (index[0], index[1:]) if isinstance(index, tuple) and index else (index, ())
    if isinstance(first, slice):
        start, stop, step = first.indices(source.shape[0])
        wanted = range(start, stop, step)
        if step == 1 and wanted:
            block = rows(start, stop)
        else:
            block = np.empty((len(wanted), *source.shape[1:]), source.dtype)
            for i, row in enumerate(wanted):
                block[i] = rows(row, row + 1)[0]
        return np.asarray(block[(slice(None), *rest)])
    if isinstance(first, int | np.integer):
        row = range(source.shape[0])[int(first)]
        return np.asarray(rows(row, row + 1)[0][rest])
    return np.asarray(rows(0, source.shape[0])[index])


def read(raster: Any, bands: Sequence[int], window: Any = None) -> np.ndarray:
    """Numbers of some bands, [band, row, column].

    Raises:
        OSError: they cannot be read.
    """
    try:
        return raster.read(list(bands), window=window)
    except (OSError, ValueError) as error:  # RasterioIOError is an OSError
        raise OSError(
            f"{raster.name} cannot be read; it is damaged or truncated ({_line(error.__cause__ or error)})"
        ) from None


class Marked:
    """An array with some of its values taken out: float32, NaN where a value is one of those that mark a fault.

    Whole numbers up to 2²⁴ are float32 exactly.
    """

    def __init__(self, source: Any, marks: Sequence[float]) -> None:
        self._source, self._marks = source, tuple(marks)
        self.shape, self.ndim = tuple(source.shape), len(source.shape)
        self.dtype = np.dtype(np.float32)
        self.chunks, self.path = getattr(source, "chunks", None), getattr(source, "path", None)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        stored = np.asarray(self._source[index])
        values = stored.astype(np.float32)
        for mark in self._marks:
            values[stored == mark] = np.nan
        return values


def layer(path: Path, like: Any, bands: Sequence[int] = (1,)) -> np.ndarray:
    """Bands of a mask, [band, row, column].

    Args:
        path: its file.
        like: the raster or the cube whose rows and columns it must have.
        bands: numbers of the bands wanted, counted from 1.

    Raises:
        ValueError: another size, or bands that it does not have.
        OSError: it cannot be read.
    """
    shape = tuple(like.shape[:2])
    with open_raster(path) as raster:
        if (raster.height, raster.width) != shape:
            raise ValueError(
                f"{path} has {raster.height} × {raster.width} pixels, the image has {shape[0]} × {shape[1]}"
            )
        if max(bands) > raster.count:
            raise ValueError(f"{path} has {raster.count} bands, {max(bands)} were expected")
        if np.dtype(raster.dtypes[0]).kind not in "iu":
            raise ValueError(f"{path} holds numbers of type {raster.dtypes[0]}; flags are whole numbers")
        return read(raster, bands)


def per_band(values: Any) -> Any:
    """One number where it is the same for all bands, else one per band."""
    numbers = np.asarray(values, float)
    return float(numbers[0]) if (numbers == numbers[0]).all() else numbers


def flagged(kept: np.ndarray, doubtful: Mapping[str, np.ndarray], what: str) -> list[str]:
    """Notes on what a product flags: that all pixels are masked, or some that are doubtful and not masked.

    Args:
        kept: True where a pixel is not masked.
        doubtful: where the product has something against a pixel, by what that is.
        what: the product or its layer.
    """
    if not kept.any():
        return [f"{what} masks every pixel; to unmix the image nonetheless, move its quality layers out of the folder"]
    shares = {name: float((where & kept).mean() / kept.mean()) for name, where in doubtful.items()}
    found = [f"{name} {share:.1%}" if share >= 5e-4 else f"{name} < 0.1%" for name, share in shares.items() if share]
    return [f"{what} flags pixels that are not masked: {', '.join(found)}"] if found else []


def named(pattern: re.Pattern[str], files: Mapping[str, Path]) -> Iterator[tuple[re.Match[str], Path]]:
    """Files whose whole name a pattern matches, in the order of their names."""
    for name in sorted(files):
        if found := pattern.fullmatch(files[name].name):
            yield found, files[name]


def _line(error: BaseException) -> str:
    """The message of an error in one line."""
    return " ".join(str(error).split()) or type(error).__name__
