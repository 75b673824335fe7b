"""What the user says about a file, what the file says about itself, and how the two make a scene or a library.

A format's reader returns what its file says. `finish` and `finish_library` then do what is the same for every format:
they apply what the user said instead, keep the wanted rows, columns and bands, leave out bands without a single value,
and note what may make the numbers wrong.
"""

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from unmix_jax.scenes.georeference import shifted
from unmix_jax.scenes.lazy import LazyCube
from unmix_jax.scenes.nodata import DELETED, FEW, NODATA, is_nodata, shown, suspected_fill
from unmix_jax.scenes.rows import Rows
from unmix_jax.scenes.scene import UNKNOWN_QUANTITY, Account, Header, Scene, SpectralAxis, SpectralLibrary, sample

__all__ = [
    "Entries",
    "Reading",
    "announced",
    "finish",
    "finish_library",
    "in_words",
    "looked_at",
    "noticing",
    "numbered",
    "require_valid",
]

Number = float | int


class NoSceneError(ValueError):
    """A file that holds no scene; it may hold a library."""


LOOKED_AT_ROWS = 8  # rows of an image that are read when it is opened
LOOKED_AT_VALUES = 4_000_000  # values that are looked at: 16 MB in float32, read in some 10 ms
SPECTRA_LOOKED_AT = 4096  # of a list of spectra
SAME_IN = 64  # pixels; fewer may share a value in a band by chance, where it is rounded
REFLECTANCE_UP_TO = 1.6  # bright snow and specular pixels exceed 1; per cent and scaled integers exceed this by far


@dataclass(frozen=True)
class Reading:
    """What the user says about a file; everything else is taken from the file.

    Attributes:
        keys: names of the project to names in the file, such as ``{"cube": "Y"}``.
        unit: of the wavelengths where the file does not say it: nm, um or cm-1.
        force_unit: whether ``unit`` stands above a unit that the file states.
        scale: stored numbers are multiplied by it, instead of by what the file states; ``auto``: the power of ten that
            makes reflectance of them.
        offset: added after the scale, instead of what the file states.
        nodata: stored number that marks missing data, instead of what the file states; ``none``: no number does.
        bands: numbers of the bands to use, counted from 1, as in ``"1-50, 60"``; the others become bad bands.
        range: lowest and highest band centre to use, in nm, or cm⁻¹ where the axis is; the others become bad bands.
        bad_bands: numbers of bands that are not to be used, counted from 1, beside those that the file marks.
        quantity: what the values are, instead of what the file states: reflectance, emissivity, radiance ...
        rows: first row (or spectrum of a list) and one beyond the last, counted from 0.
        columns: first column and one beyond the last, counted from 0.
        interleave: order of an ENVI cube whose header does not say it: bsq, bil or bip.
        zeros: whether an exact zero in one band is a ``value`` or ``missing``; a pixel that is zero in all bands is
            missing in any case.
        library_bands: number of bands of the library that the scene is for, which tells how an array without
            wavelengths lies.
    """

    keys: Mapping[str, str] = field(default_factory=dict)
    unit: str | None = None
    force_unit: bool = False
    scale: Number | Literal["auto"] | None = None
    offset: Number | None = None
    nodata: Number | Literal["none"] | None = None
    bands: str | Iterable[int | str] | None = None
    range: tuple[Number, Number] | None = None
    bad_bands: str | Iterable[int | str] | None = None
    quantity: str | None = None
    rows: tuple[int, int] | None = None
    columns: tuple[int, int] | None = None
    interleave: str | None = None
    zeros: Literal["value", "missing"] = "value"
    library_bands: int | None = None

    def __post_init__(self) -> None:
        for name in ("scale", "offset"):
            value = getattr(self, name)
            if (
                value is not None
                and value != "auto"
                and not (np.isfinite(float(value)) and (value or name == "offset"))
            ):
                raise ValueError(f"{name} must be a finite number{' other than zero' * (name == 'scale')}, got {value}")
        if self.zeros not in ("value", "missing"):
            raise ValueError(f"zeros are 'value' or 'missing', got {self.zeros!r}")
        if self.force_unit and self.unit is None:
            raise ValueError("force_unit needs the unit that is to be forced: give unit (--unit) as well")

    def unit_of(self, stated: str | None, where: str, option: str = "--unit") -> str | None:
        """The unit of the wavelengths, out of what the file states and what the user says.

        Args:
            stated: nm, um or cm-1, or None where the file is silent.
            where: name of the file, for messages.
            option: the user's option, for messages.

        Raises:
            ValueError: the two disagree and the user's is not forced.
        """
        if self.force_unit and stated is not None and self.unit != stated:
            warnings.warn(f"the file states that its axis is in {stated}; {self.unit} is used instead", stacklevel=2)
        if self.unit is None or stated is None or self.force_unit or self.unit == stated:
            return self.unit or stated
        raise ValueError(
            f"{where}: the file states that its axis is in {stated}, {option} says {self.unit}. Leave {option} out, or "
            "add --force-unit (force_unit=True) if the file is wrong"
        )


class Entries:
    """The metadata entries of a file under lower-case names, and what became of each of them."""

    def __init__(self, entries: Mapping[str, Any]) -> None:
        self._entries = {str(name): value for name, value in entries.items()}
        self._names: dict[str, str] = {}
        for name in self._entries:
            self._names.setdefault(name.lower(), name)
        self._used: dict[str, None] = {}
        self._carried: dict[str, None] = {}

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._names

    def use(self, name: str, default: Any = None) -> Any:
        """The value of an entry that goes into the arrays, masks, axis, names or place; marked as used."""
        if name not in self:
            return default
        stored = self._names[name.lower()]
        self._used[stored] = None
        return self._entries[stored]

    def peek(self, name: str, default: Any = None) -> Any:
        """The value of an entry; nothing is marked."""
        return self._entries[self._names[name.lower()]] if name in self else default

    def carry(self, *names: str) -> None:
        """Mark entries that change no number and stay in the header."""
        self._carried |= {self._names[name.lower()]: None for name in names if name in self}

    def account(self) -> Account:
        """What became of each entry; those that were neither used nor carried are unknown."""
        carried = tuple(name for name in self._carried if name not in self._used)
        unknown = tuple(name for name in self._entries if name not in self._used and name not in self._carried)
        return Account(tuple(self._used), carried, unknown)

    def header(self) -> Header:
        """All entries, as they stand in the file."""
        return Header(self._entries)


# Names of entries that change numbers or mark bad values, in files whose format does not define them.
UNREAD = {
    "scale": ("scale", "scale factor", "data scale factor", "radiance scale factor", "emissivity scale factor", "gain",
              "gains", "gain values"),
    "offset": ("offset", "offsets", "offset values", "add offset", "data offset"),
    "nodata": ("fill value", "fill values", "fillvalue", "nodata", "no data", "no data value", "nodata value",
               "ignore value"),
    "bad_bands": ("bad bands", "badbands", "bad band list", "bad bands list"),
}  # fmt: skip


def refuse_unread(entries: Iterable[str], told: Reading, where: str, values: Mapping[str, Any] | None = None) -> None:
    """Refuse entries that change numbers or mark bad values and that the reader does not use.

    Args:
        entries: names that were not used.
        told: what the user says; an entry that an option replaces is passed over.
        where: name of the file, for the message.
        values: of the entries, where they are known: a scale of 1 and an offset of 0 change nothing.

    Raises:
        ValueError: naming the entry and the option.
    """
    for entry in entries:
        name = re.sub(r"[\s_]+", " ", entry.rpartition(".")[2]).strip().lower()
        option = next((option for option, names in UNREAD.items() if name in names), None)
        if option is None or getattr(told, option) is not None:
            continue
        neutral = {"scale": ("1", "1.0"), "offset": ("0", "0.0")}.get(option, ())
        if values is None or str(values.get(entry, "")).strip() not in neutral:
            flag = "--" + option.replace("_", "-")
            raise ValueError(
                f"{where}: {entry!r} may change the numbers, and this format does not define it: say what holds with "
                f"{flag} ({option}=...)"
            )


def numbered(told: str | Iterable[int | str], count: int, what: str = "bands") -> np.ndarray:
    """Numbers counted from 1, such as ``"1-50, 60"``, as True and False over all of them.

    Args:
        told: text of numbers and ranges between commas or spaces, or whole numbers.
        count: how many there are.
        what: for messages.

    Raises:
        ValueError: not numbers, or numbers that are not there.
    """
    parts = [told] if isinstance(told, str | int) else list(told)
    chosen = np.zeros(count, bool)
    for part in (
        word for p in parts for word in re.split(r"[,\s]+", re.sub(r"\s*[-–]\s*", "-", str(p)).strip()) if word
    ):
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not 1 <= first <= last <= count:
            cause = (
                "is no number or range of numbers" if not found
                else "runs backwards" if first > last
                else f"goes beyond the last, {count}; wavelengths are chosen with --range" if last > count
                else "begins below 1"
            )  # fmt: skip
            raise ValueError(f"{what} are numbers from 1 to {count}, or ranges such as 1-{count}: {part!r} {cause}")
        chosen[first - 1 : last] = True
    return chosen


def looked_at(scene: Scene) -> np.ndarray:
    """Some pixels of a scene, [pixel, band]: evenly spread rows, which any order of a file can give quickly.

    Masked pixels are not among them, unless there are no others.
    """
    mask = None if scene.mask is None else np.asarray(scene.mask, bool)
    if len(scene.shape) == 1:
        pixels = sample(scene, SPECTRA_LOOKED_AT)
        step = max(1, round(scene.shape[0] / SPECTRA_LOOKED_AT))  # as `sample` takes them
        return pixels if mask is None or not mask[::step].any() else pixels[mask[::step]]
    rows, columns = scene.shape
    count = int(np.clip(LOOKED_AT_VALUES // (columns * scene.bands), 1, LOOKED_AT_ROWS))
    at = np.unique(((np.arange(count) + 0.5) * rows / count).astype(int))
    step = max(1, columns * scene.bands * len(at) // LOOKED_AT_VALUES)
    taken = []
    with Rows(scene.cube) as source:
        line = np.empty((columns, scene.bands), scene.cube.dtype)
        for row in at:
            source.read(int(row), int(row) + 1, line)
            taken.append(line[::step].copy())
    pixels = np.concatenate(taken)
    valid = None if mask is None else mask[at, ::step].reshape(-1)
    return pixels if valid is None or not valid.any() else pixels[valid]


@contextmanager
def noticing() -> Iterator[list[str]]:
    """What a reader warns of, as a list of notes instead of warnings."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield notes
    for warning in caught:
        if issubclass(warning.category, UserWarning):
            notes.append(str(warning.message))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def finish(scene: Scene, told: Reading) -> Scene:
    """A scene as the user wants it, from what a format's reader made of its file.

    Args:
        scene: with what the file says of scale, no-data, bands and quantity.
        told: what the user says.

    Returns:
        The scene.

    Raises:
        ValueError: rows, columns or bands that are not there; no good band is left; no pixel holds a value.
    """
    scene, notes = _rescaled(scene, told)
    scene = _windowed(scene, told)
    scene = replace(
        scene,
        quantity=told.quantity or _quantity(scene.quantity, told),
        good_bands=_wanted_bands(scene.axis, scene.bands, scene.good_bands, told),
    )
    pixels = looked_at(scene)
    if _missing(pixels, scene).all():
        pixels = _some_with_values(scene)
    missing = _missing(pixels, scene)
    good = np.ones(scene.bands, bool) if scene.good_bands is None else np.asarray(scene.good_bands)
    if (left_out := good & missing.all(axis=0)).any():
        many = left_out.sum() > 1
        notes.append(
            f"{in_words(left_out)} hold{'s' * (not many)} no value in any pixel that was looked at: "
            f"{'they are' if many else 'it is'} left out"
        )
        good = good & ~left_out
        if not good.any():
            raise ValueError(
                "no band that is marked good holds a value in any pixel: see --bands, --range, --bad-bands"
            )
        scene = replace(scene, good_bands=good)
    notes += _doubtful_bands(pixels, missing, good)
    suspected = None
    if told.nodata is None:
        known = np.isnan(pixels) | is_nodata(pixels, scene.nodata)
        suspected = suspected_fill(_as_stored(scene, pixels), known, good)
    if suspected is not None:
        fill = shown(suspected)
        notes.append(
            f"the value {fill} repeats as a fill value does (or a saturated sensor), but nothing says that it marks "
            f"missing data: say so with --nodata {fill} (nodata={fill}), or --nodata none if it is a measurement"
        )
    return replace(scene, suspected_nodata=suspected, notes=(*scene.notes, *notes))


def _quantity(stated: str, told: Reading) -> str:
    """What the values are: ``--scale auto`` makes reflectance of what nobody names."""
    return "reflectance" if told.scale == "auto" and stated == UNKNOWN_QUANTITY else stated


def finish_library(library: SpectralLibrary, told: Reading) -> SpectralLibrary:
    """A library as the user wants it, from what a format's reader made of its file.

    Args:
        library: with what the file says; missing values are NaN.
        told: what the user says; a scale and an offset apply to the values that the reader returned.

    Returns:
        The library; magnitudes above 1e30 and stated fill values are NaN.

    Raises:
        ValueError: bands that are not there; no good band is left.
    """
    spectra, notes = np.asarray(library.spectra), []
    kind = spectra.dtype if spectra.dtype.kind == "f" and spectra.dtype.itemsize > 2 else np.dtype(np.float32)
    missing = ~(np.abs(spectra) < DELETED)
    if told.nodata != "none":
        missing |= is_nodata(spectra, NODATA if told.nodata is None else float(told.nodata))
    if told.zeros == "missing":
        missing |= spectra == 0
    values = np.where(missing, kind.type(np.nan), spectra).astype(kind)
    if told.scale is not None or told.offset is not None:
        scale = told.scale if told.scale != "auto" else _automatic(values[np.isfinite(values)])
        if told.scale == "auto":
            notes.append(f"--scale auto: the library's values are multiplied by {scale:g}")
        values = (values * (1.0 if scale is None else float(scale)) + (told.offset or 0.0)).astype(kind)
    good = _wanted_bands(library.axis, values.shape[1], library.good_bands, told)
    whole = replace(
        library,
        spectra=values,
        good_bands=good,
        quantity=told.quantity or library.quantity,
        notes=(*library.notes, *notes),
    )
    return whole if told.rows is None else whole.select(range(*_part(told.rows, len(library), "rows")))


def announced(read: Any, warned: Sequence[str], path: Path) -> Any:
    """A scene or a library with what its reader warned of among its notes, all of which are warned of.

    Args:
        read: the scene or the library.
        warned: what `noticing` caught.
        path: its file, for the warnings.
    """
    notes = dict.fromkeys((*(text.removeprefix(f"{path}: ") for text in warned), *read.notes))
    for note in notes:
        warnings.warn(f"{path.name}: {note}", stacklevel=3)
    return replace(read, notes=tuple(notes))


def _rescaled(scene: Scene, told: Reading) -> tuple[Scene, list[str]]:
    """The scene with the user's scale, offset, no-data value and rule for zeros in place of the file's."""
    notes: list[str] = []
    cube, stated = scene.cube, scene.stated_nodata
    if told.nodata is not None:
        stated = None if told.nodata == "none" else float(told.nodata)
    if told.scale is None and told.offset is None and told.nodata is None and told.zeros == "value":
        return scene, notes
    scaling: dict[str, Any] = {"divisor": 1.0, "gain": 1.0, "offset": 0.0, "nodata": scene.nodata}
    source = cube
    if isinstance(cube, LazyCube):
        source, scaling = cube.source, cube.scaling
        if scaling["nodata"] is None:
            scaling["nodata"] = scene.nodata
    if told.nodata is not None:
        scaling["nodata"] = stated
    scaling["zeros_missing"] = told.zeros == "missing"
    if told.scale is not None:
        if told.scale == "auto":
            plain = replace(scene, cube=LazyCube(source, nodata=scaling["nodata"], zeros_missing=True), nodata=None)
            values = looked_at(plain)
            if scene.good_bands is not None:
                values = values[:, np.asarray(scene.good_bands)]
            factor = _automatic(values[np.isfinite(values)])
            notes.append(f"--scale auto: stored values are multiplied by {factor:g}; if that is wrong, give the number")
        else:
            factor = float(told.scale)
        scaling |= {"divisor": 1.0, "gain": factor}
        if told.offset is None:
            scaling["offset"] = 0.0
    if told.offset is not None:
        scaling["offset"] = float(told.offset)
    return replace(scene, cube=LazyCube(source, **scaling), nodata=None, stated_nodata=stated), notes


def _automatic(values: np.ndarray) -> float:
    """The factor that makes reflectance of values: 1, one hundredth for per cent, or one ten-thousandth.

    Raises:
        ValueError: none of these does.
    """
    top = float(np.percentile(values, 99)) if values.size else 0.0
    factor = next((f for f in (1.0, 0.01, 1e-4) if 0 < top * f <= REFLECTANCE_UP_TO), None)
    if factor is None:
        raise ValueError(
            f"--scale auto knows fractions, per cent and ten-thousandths; bright values are {top:.4g}: give a number"
        )
    return factor


def _windowed(scene: Scene, told: Reading) -> Scene:
    """The wanted rows and columns of a scene, still in its file; its place on Earth moves along."""
    if told.rows is None and told.columns is None:
        return scene
    if told.columns is not None and len(scene.shape) == 1:
        raise ValueError("a list of spectra has no columns: leave --columns out")
    parts = [_part(told.rows, scene.shape[0], "rows")]
    if len(scene.shape) == 2:
        parts.append(_part(told.columns, scene.shape[1], "columns"))
    window = tuple(slice(first, last) for first, last in parts)
    cube = scene.cube
    if isinstance(cube, LazyCube):
        cube = LazyCube(_Window(cube.source, window), **cube.scaling)
    elif isinstance(cube, np.ndarray):
        cube = cube[window]
    else:
        cube = LazyCube(_Window(cube, window), nodata=None)
    header = shifted(scene.header, *(first for first, _ in parts)) if len(parts) == 2 else scene.header
    fields: dict[str, Any] = {
        name: None if value is None else np.asarray(value)[window]
        for name, value in (("mask", scene.mask), ("labels", scene.labels), ("abundances", scene.abundances))
    }
    names = scene.pixel_names[window[0]] if scene.pixel_names else ()
    return replace(scene, cube=cube, header=header, pixel_names=names, **fields)


class _Window:
    """Some rows and columns of an array that is read when it is indexed."""

    def __init__(self, source: Any, window: tuple[slice, ...]) -> None:
        self._source, self._window = source, window
        kept = [s.stop - s.start for s in window]
        self.shape = (*kept, *(int(n) for n in source.shape[len(window) :]))
        self.dtype, self.ndim = np.dtype(source.dtype), len(self.shape)
        self.path = getattr(source, "path", None)

    def __getitem__(self, index: Any) -> np.ndarray:
        index = index if isinstance(index, tuple) else (index,)
        first = index[0] if index else Ellipsis
        if isinstance(first, slice):  # rows are read as they are asked for; the rest is cut in memory
            start, stop, step = first.indices(self.shape[0])
            if step > 0:
                begin = self._window[0].start
                rows = np.asarray(self._source[begin + start : begin + max(stop, start) : step])
                return rows[(slice(None), *self._window[1:])][(slice(None), *index[1:])]
        if isinstance(first, int | np.integer):
            row = range(self.shape[0])[int(first)] + self._window[0].start
            return np.asarray(self._source[row])[self._window[1:]][index[1:]]
        return np.asarray(self._source[self._window[0]])[(slice(None), *self._window[1:])][index]


def _part(told: tuple[int, int] | None, count: int, what: str) -> tuple[int, int]:
    """First and one beyond last of the wanted rows or columns."""
    if told is None:
        return 0, count
    try:
        first, last = (int(n) for n in told)
    except (TypeError, ValueError):
        raise ValueError(f"{what} are a first and one beyond the last, such as 10 20, got {told!r}") from None
    if not 0 <= first < last <= count:
        raise ValueError(f"{what} run from 0 to {count}; {first} to {last} are not among them")
    return first, last


def _wanted_bands(axis: SpectralAxis | None, count: int, good: Any, told: Reading) -> np.ndarray | None:
    """Good bands of the file that the user wants."""
    if told.bands is None and told.range is None and told.bad_bands is None:
        return None if good is None else np.asarray(good)
    wanted = np.ones(count, bool) if good is None else np.asarray(good, bool).copy()
    if told.bands is not None:
        wanted &= numbered(told.bands, count)
    if told.bad_bands is not None:
        wanted &= ~numbered(told.bad_bands, count, "bad bands")
    if told.range is not None:
        if axis is None:
            raise ValueError("--range needs wavelengths, and the file gives none: choose by number with --bands")
        low, high = (float(v) for v in told.range)
        if not low < high:
            raise ValueError(f"a range is LOW HIGH, such as 400 2400, got {low:g} {high:g}")
        centers = np.asarray(axis.centers)
        wanted &= (centers >= low) & (centers <= high)
        if not wanted.any():
            unit = axis.unit.replace("-1", "⁻¹")
            span = f"{centers.min():g} to {centers.max():g} {unit}"
            raise ValueError(
                f"no good band is left between {low:g} and {high:g} {unit} (--range); bands lie from {span}"
            )
    if not wanted.any():
        raise ValueError("no good band is left of those that --bands, --range and --bad-bands choose")
    return wanted


def require_valid(scene: Scene, good_bands: Any) -> None:
    """Refuse a scene without a single pixel to unmix.

    Args:
        scene: the scene.
        good_bands: the bands that will be fitted; None: all.

    Raises:
        ValueError: every pixel is masked, all zero, or misses a value in a good band.
    """
    good = np.ones(scene.bands, bool) if good_bands is None else np.asarray(good_bands, bool)
    mask = None if scene.mask is None else np.asarray(scene.mask).reshape(-1)
    gaps = np.zeros(int(good.sum()), np.int64)
    with Rows(scene.cube) as source:
        step = max(1, source.chunk, LOOKED_AT_VALUES // (source.row * scene.bands))
        for first in range(0, scene.shape[0], step):
            last = min(first + step, scene.shape[0])
            pixels = np.empty(((last - first) * source.row, scene.bands), scene.cube.dtype)
            source.read(first, last, pixels)
            missing = _missing(pixels, scene)[:, good]
            valid = ~missing.any(axis=1) & (pixels[:, good] != 0).any(axis=1)
            if mask is not None:
                valid &= mask[first * source.row : last * source.row]
            if valid.any():
                return
            gaps += missing.sum(axis=0)
    total = int(np.prod(scene.shape))
    worst = np.zeros(scene.bands, bool)
    worst[good] = gaps > 0
    reason = f"a value is missing in {in_words(worst)}" if worst.any() else "all are masked or zero"
    raise ValueError(
        f"no pixel can be unmixed: in each of the {total:,}, {reason}. Leave bands out with --bad-bands, or say what "
        "marks missing data with --nodata"
    )


def _missing(pixels: np.ndarray, scene: Scene) -> np.ndarray:
    """True where a value is missing."""
    return ~(np.abs(pixels) < DELETED) | is_nodata(pixels, scene.nodata)


def _some_with_values(scene: Scene) -> np.ndarray:
    """Pixels of a scene whose rows that were looked at hold none: the first rows from the top that do.

    Raises:
        ValueError: no pixel holds a value.
    """
    with Rows(scene.cube) as source:
        step = max(1, source.chunk, LOOKED_AT_VALUES // (source.row * scene.bands))
        for first in range(0, scene.shape[0], step):
            last = min(first + step, scene.shape[0])
            rows = np.empty(((last - first) * source.row, scene.bands), scene.cube.dtype)
            source.read(first, last, rows)
            if not _missing(rows, scene).all():
                return rows
    raise ValueError(
        "no pixel holds a value: all are NaN, infinite or at the no-data value. If that value is wrong, give --nodata"
    )


def _doubtful_bands(pixels: np.ndarray, missing: np.ndarray, good: np.ndarray) -> list[str]:
    """Notes on good bands that cost most of the pixels, and on those that are the same in every pixel."""
    notes = []
    measured = ~missing[:, good].all(axis=1)
    whole = measured & ~missing[:, good].any(axis=1)
    if measured.sum() and whole.sum() < measured.sum() / 2:
        gaps = np.zeros(len(good), bool)
        gaps[good] = missing[measured][:, good].mean(axis=0) > FEW
        if gaps.any():
            notes.append(
                f"{1 - whole.sum() / measured.sum():.0%} of the pixels that were looked at are left out because a "
                f"value is missing in {in_words(gaps)}: leave these bands out with --bad-bands to keep the pixels"
            )
    values = pixels[whole]
    if len(values) >= SAME_IN:
        same = good & (values == values[:1]).all(axis=0)
        if same.any() and (good & ~same).any():
            notes.append(
                f"the value is the same in all pixels that were looked at, in {in_words(same)}: "
                "such bands carry no measurement; leave them out with --bad-bands"
            )
    return notes


def _as_stored(scene: Scene, pixels: np.ndarray) -> np.ndarray:
    """The pixels as they are stored, where they are scaled."""
    if not isinstance(scene.cube, LazyCube):
        return pixels
    scaling = scene.cube.scaling
    if scaling["divisor"] == 1 and np.all(scaling["gain"] == 1) and np.all(scaling["offset"] == 0):
        return pixels
    stored = looked_at(replace(scene, cube=LazyCube(scene.cube.source, nodata=None)))
    return stored if stored.shape == pixels.shape else pixels


def in_words(chosen: np.ndarray) -> str:
    """Numbers of bands in words, counted from 1: ``bands 1, 2, 190–200``."""
    numbers = np.flatnonzero(chosen) + 1
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    words = [f"{run[0]}" if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs]
    return f"band{'s' * (len(numbers) > 1)} {', '.join(words)}"
