"""The arguments that commands share, as `tyro` reads them."""

from pathlib import Path
from typing import Annotated, Literal

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
Size = Annotated[float | None, tyro.conf.arg(metavar="GIB")]
Pixels = Annotated[int | None, tyro.conf.arg(metavar="PIXELS")]
Address = Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")]
Processes = Annotated[int | None, tyro.conf.arg(metavar="N")]
