"""Open whatever a name stands for: a file, or a dataset."""

import difflib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unmix_jax.scenes.datasets import catalogue, load
from unmix_jax.scenes.readers import NOT_KNOWN, is_product, read_library, read_scene
from unmix_jax.scenes.reading import NoSceneError, Reading, finish, finish_library
from unmix_jax.scenes.scene import Scene, SpectralLibrary, as_scene

__all__ = ["open_any", "open_library", "open_scene", "refuse_inputs"]

WHOLE = (".npz", ".npy", ".mat", ".json", ".html", ".png")  # formats that are never a part of another file
PARTS = ("rows", "columns", "bands", "bad_bands", "range")  # options that say which part of a dataset is wanted
TABLES = (".sli", ".csv", ".txt", ".tsv")


def open_any(name: str, **options: Any) -> Scene | SpectralLibrary:
    """A scene or a spectral library: the file of this name where there is one, else the dataset.

    Args:
        name: a path, or a name out of `unmix_jax.scenes.datasets.catalogue`.
        **options: as `unmix_jax.scenes.readers.read_scene` takes them.

    Raises:
        FileNotFoundError: neither a file nor a dataset, or a dataset that is not there.
        ValueError: what the readers cannot understand.
    """
    if not Path(name).expanduser().exists():
        if name in catalogue():
            given = {key: value for key, value in options.items() if value is not None and value is not False}
            given = {key: value for key, value in given.items() if value != {} and (key, value) != ("zeros", "value")}
            given.pop("library_bands", None)
            if refused := [key for key in given if key not in PARTS]:
                raise ValueError(
                    f"{name} is a dataset: its arrays and units are known, and it takes none of these options: "
                    f"{', '.join(refused)}"
                )
            loaded = load(name)
            if not given:
                return loaded
            told = Reading(**given)
            return finish(loaded, told) if isinstance(loaded, Scene) else finish_library(loaded, told)
        near = difflib.get_close_matches(name, list(catalogue()), 3, 0.7)
        hint = f" (there is {', '.join(near)})" if near else ""
        raise FileNotFoundError(f"{name}: no such file, and no dataset of this name{hint}")
    of_library = {key: value for key, value in options.items() if key not in ("columns", "library_bands")}
    if Path(name).suffix.lower() in TABLES and not is_product(Path(name).expanduser()):
        if options.get("columns") is not None:
            raise ValueError(f"{name} is a list of spectra, which has no columns: leave --columns out")
        return read_library(name, **of_library)
    try:
        return read_scene(name, **options)
    except NoSceneError as error:
        if options.get("columns") is not None:
            raise
        try:
            return read_library(name, **of_library)
        except ValueError as other:  # the reader that knows the file says what is wrong with it
            raise other if NOT_KNOWN in str(error) and NOT_KNOWN not in str(other) else error from None


def open_scene(name: str, **options: Any) -> Scene:
    """A scene; a library file is a list of spectra to unmix. Arguments and errors as `open_any`."""
    opened = open_any(name, **options)
    return opened if isinstance(opened, Scene) else as_scene(opened, Path(name).stem)


def open_library(name: str, **options: Any) -> SpectralLibrary:
    """A library: a file, a dataset, or the reference endmembers of a scene; arguments and errors as `open_any`."""
    refused = None
    if Path(name).expanduser().exists():
        try:
            return read_library(name, **options)
        except ValueError as error:
            refused = error  # unless it is a scene with endmembers, this says what is wrong
    try:
        opened = open_any(name, **options)
    except ValueError as error:
        raise refused or error from None
    if not isinstance(opened, Scene):
        return opened
    if opened.endmembers is None:
        raise ValueError(f"{name} is a scene without reference endmembers, not a spectral library")
    return opened.endmembers


def refuse_inputs(outputs: Iterable[Path], *names: str | None) -> None:
    """Refuse outputs that would replace a file of an input, also through links and other spellings of its path.

    Args:
        outputs: files or folders that will be written.
        names: of the inputs: paths, datasets, or None.

    Raises:
        ValueError: naming the output and the input.
    """
    inputs = [file for name in names if name is not None for file in _files_of(Path(name).expanduser())]
    for output in outputs:
        for file in inputs:
            same = output.exists() and os.path.samefile(output, file)
            inside = output.is_dir() and output.resolve() in file.resolve().parents
            if same or inside or file.resolve() in output.resolve().parents:
                raise ValueError(
                    f"{output} would be written, and {file} {'in it ' * inside}is read: an input is never an output, "
                    "so choose another place"
                )


def _files_of(path: Path) -> list[Path]:
    """A file or folder, and the files beside it that share its name up to the suffix: headers and sidecars."""
    if not path.exists():
        return []
    stem = path.name.partition(".")[0]
    if path.is_dir() or not stem:
        return [path]
    beside = (p for p in path.resolve().parent.iterdir() if p.is_file() and p.name.partition(".")[0] == stem)
    return [path, *(p for p in beside if p.suffix.lower() not in WHOLE)]
