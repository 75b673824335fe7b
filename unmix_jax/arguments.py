"""The arguments that commands share, as `tyro` reads them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

SceneName = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SCENE")]
Folder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RESULTS")]
Keys = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME=KEY")]
Count = Annotated[int | Literal["auto"], tyro.conf.arg(metavar="R|auto")]
Unit = Annotated[Literal["nm", "um", "cm-1"] | None, tyro.conf.arg(metavar="nm|um|cm-1")]
LibraryName = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="LIBRARY")]
Window = Annotated[tuple[float, float] | None, tyro.conf.arg(name="range", metavar="LOW HIGH")]
Numbers = Annotated[tuple[int, ...], tyro.conf.arg(metavar="N ...")]
Names = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")]
Most = Annotated[int | None, tyro.conf.arg(metavar="K")]
Library = Annotated[str | None, tyro.conf.arg(metavar="LIBRARY|R")]
Name = Annotated[str | None, tyro.conf.arg(metavar="NAME")]
Degree = Annotated[int | None, tyro.conf.arg(metavar="DEGREE")]
Extract = Literal["vca", "nfindr"]
Method = Annotated[str, tyro.conf.arg(metavar="METHOD|CHECKPOINT")]
Recipe = Literal[
    "ppnm", "linear", "fan", "gbm", "mlm", "mixed", "power", "powders", "kubelka_munk", "shkuratov", "hapke"
]
Encoder = Literal["dense", "deep", "cnn1d", "cnn1d_modified", "infrarender"]
Maps = Annotated[tuple[Literal["envi", "geotiff"], ...], tyro.conf.arg(metavar="envi|geotiff")]
Exports = Annotated[tuple[Literal["mat", "csv", "png"], ...], tyro.conf.arg(metavar="mat|csv|png")]
Size = Annotated[float | None, tyro.conf.arg(metavar="GIB")]
Pixels = Annotated[int | None, tyro.conf.arg(metavar="PIXELS")]
Address = Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")]
Processes = Annotated[int | None, tyro.conf.arg(metavar="N")]
Scale = Annotated[float | Literal["auto"] | None, tyro.conf.arg(metavar="FACTOR|auto")]
Offset = Annotated[float | None, tyro.conf.arg(metavar="NUMBER")]
NoData = Annotated[float | Literal["none"] | None, tyro.conf.arg(metavar="NUMBER|none")]
BandNumbers = Annotated[tuple[str, ...], tyro.conf.arg(metavar="1-50,60")]
Part = Annotated[tuple[str, ...], tyro.conf.arg(metavar="START STOP")]
Range = Annotated[tuple[float, float] | None, tyro.conf.arg(metavar="LOW HIGH")]
Word = Annotated[str | None, tyro.conf.arg(metavar="WORD")]


@dataclass(frozen=True)
class LibraryReading:
    """How the library is read; the file's own metadata decides unless an option stands in its place."""

    key: Keys = ()
    """where a file whose arrays have names keeps something, such as spectra=Y; may be repeated"""
    unit: Unit = None
    """of the wavelengths, where the file does not say it"""
    force_unit: bool = False
    """let --unit stand above a unit that the file states"""
    scale: Scale = None
    """multiply the stored numbers by this, instead of by what the file states; auto finds the power of ten"""
    offset: Offset = None
    """add this after the scale, instead of what the file states"""
    nodata: NoData = None
    """stored number that marks missing data, instead of what the file states; none: no number does"""
    bands: BandNumbers = ()
    """use these bands only, numbers counted from 1"""
    bad_bands: BandNumbers = ()
    """do not use these bands, numbers counted from 1"""
    zeros: Literal["value", "missing"] = "value"
    """what an exact zero in one band is; a spectrum of zeros alone is missing in any case"""

    def options(self) -> dict[str, Any]:
        """What `read_library` takes."""
        return {
            "keys": keys_of(self.key), "unit": self.unit, "force_unit": self.force_unit, "scale": self.scale,
            "offset": self.offset, "nodata": self.nodata, "bands": " ".join(self.bands) or None,
            "bad_bands": " ".join(self.bad_bands) or None, "zeros": self.zeros,
        }  # fmt: skip


@dataclass(frozen=True)
class SceneReading(LibraryReading):
    """How the file is read; its own metadata decides unless an option stands in its place."""

    range: Range = None
    """use bands with centres from LOW to HIGH only, nm, or cm⁻¹ where the axis is"""
    quantity: Word = None
    """what the values are, instead of what the file states: reflectance, emissivity, radiance ..."""
    rows: Part = ()
    """from row START to before STOP only, counted from 0"""
    columns: Part = ()
    """from column START to before STOP only, counted from 0"""
    interleave: Literal["bsq", "bil", "bip"] | None = None
    """order of an ENVI cube whose header does not say it"""

    def options(self) -> dict[str, Any]:
        """What `read_scene` takes."""
        return {
            **super().options(), "range": self.range, "quantity": self.quantity, "rows": _part(self.rows, "rows"),
            "columns": _part(self.columns, "columns"), "interleave": self.interleave,
        }  # fmt: skip


ReadsScene = Annotated[SceneReading, tyro.conf.arg(name="")]
ReadsLibrary = Annotated[LibraryReading, tyro.conf.arg(name="")]
# Options whose value may be a negative number; argparse takes -1e34 for an option of its own.
NEGATIVE = ("--nodata", "--offset", "--scale", "--library-nodata", "--library-scale")


def joined(words: Sequence[str]) -> list[str]:
    """Words of a command with negative values joined to their options: ``--nodata=-1e34``."""
    result: list[str] = []
    for word in words:
        if result and result[-1] in NEGATIVE and word.startswith("-") and _is_number(word):
            result[-1] = f"{result[-1]}={word}"
        else:
            result.append(word)
    return result


def keys_of(texts: Sequence[str], option: str = "--key") -> dict[str, str]:
    """``cube=Y`` and its like as a mapping.

    Raises:
        ValueError: a text without its equals sign.
    """
    pairs = [text.partition("=") for text in texts]
    for text, (name, _, key) in zip(texts, pairs, strict=True):
        if not (name and key):
            raise ValueError(f"{option} takes NAME=KEY, such as cube=Y, got {text!r}")
    return {name: key for name, _, key in pairs}


def _part(words: Sequence[str], what: str) -> tuple[int, int] | None:
    """``10 20`` or ``10:20`` as numbers."""
    if not words:
        return None
    numbers = " ".join(words).replace(":", " ").split()
    if len(numbers) != 2 or not all(n.isdigit() for n in numbers):
        raise ValueError(f"--{what} takes a first and one beyond the last, such as 10 20, got {' '.join(words)!r}")
    return int(numbers[0]), int(numbers[1])


def _is_number(word: str) -> bool:
    """Whether a word is a number."""
    try:
        float(word)
    except ValueError:
        return False
    return True
