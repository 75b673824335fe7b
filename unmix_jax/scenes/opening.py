"""Open whatever a name stands for: a file, or a dataset."""

import contextlib
import difflib
from collections.abc import Mapping
from pathlib import Path

from unmix_jax.scenes.datasets import catalogue, load
from unmix_jax.scenes.library import read_library
from unmix_jax.scenes.readers import read_scene
from unmix_jax.scenes.scene import Scene, SpectralLibrary

__all__ = ["open_any", "open_library", "open_scene"]

TABLES = (".sli", ".csv", ".txt", ".tsv")


def open_any(name: str, *, keys: Mapping[str, str] | None = None, unit: str | None = None) -> Scene | SpectralLibrary:
    """A scene or a spectral library: the file of this name where there is one, else the dataset.

    Args:
        name: a path, or a name out of `unmix_jax.scenes.datasets.catalogue`.
        keys: as in `unmix_jax.scenes.readers.read_scene`.
        unit: of the wavelengths, where the file does not say it.

    Raises:
        FileNotFoundError: neither a file nor a dataset, or a dataset that is not there.
        ValueError: what the readers cannot understand.
    """
    if not Path(name).expanduser().exists():
        if name in catalogue():
            if keys or unit:
                raise ValueError(f"{name} is a dataset: its arrays and its unit are known, and take no other name")
            return load(name)
        near = difflib.get_close_matches(name, list(catalogue()), 3, 0.7)
        hint = f" (there is {', '.join(near)})" if near else ""
        raise FileNotFoundError(f"{name}: no such file, and no dataset of this name{hint}")
    if Path(name).suffix.lower() in TABLES:
        return read_library(name, unit=unit, keys=keys or None)
    try:
        return read_scene(name, keys=keys or None, unit=unit)
    except ValueError:
        with contextlib.suppress(ValueError):
            return read_library(name, unit=unit, keys=keys or None)
        raise


def open_scene(name: str, *, keys: Mapping[str, str] | None = None, unit: str | None = None) -> Scene:
    """A scene, and nothing but a scene; arguments and errors as `open_any`."""
    opened = open_any(name, keys=keys, unit=unit)
    if not isinstance(opened, Scene):
        raise ValueError(f"{name} is a spectral library, not a scene")
    return opened


def open_library(name: str, *, keys: Mapping[str, str] | None = None, unit: str | None = None) -> SpectralLibrary:
    """A library: a file, a dataset, or the reference endmembers of a scene; arguments and errors as `open_any`."""
    refused = None
    if Path(name).expanduser().exists():
        try:
            return read_library(name, unit=unit, keys=keys or None)
        except ValueError as error:
            refused = error  # unless it is a scene with endmembers, this says what is wrong
    try:
        opened = open_any(name, keys=keys, unit=unit)
    except ValueError as error:
        raise refused or error from None
    if not isinstance(opened, Scene):
        return opened
    if opened.endmembers is None:
        raise ValueError(f"{name} is a scene without reference endmembers, not a spectral library")
    return opened.endmembers
