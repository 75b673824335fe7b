"""The two files that come with an EMIT L2A scene: the uncertainty of its reflectance, and its masks.

References: LP DAAC, "EMIT L2A Data Product User Guide" (EMITL2ARFL V001), for files ``EMIT_L2A_RFLUNCERT_…`` and
``EMIT_L2A_MASK_…``; "EMIT Level 2A Mask Data Product User Guide" (EMITL2AMASK V002),
https://github.com/emit-sds/emit-sds-masks, table 1-3 (bands of the mask); NASA's EMIT-Data-Resources, ``quality_mask``.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from unmix_jax.scenes.lazy import LazyCube
from unmix_jax.scenes.readers.netcdf.netcdf import read_netcdf
from unmix_jax.scenes.readers.netcdf.variables import open_variables
from unmix_jax.scenes.reading import Reading
from unmix_jax.scenes.scene import Scene
from unmix_jax.scenes.units import existing

__all__ = ["CLOUDS", "read_emit_mask", "read_emit_uncertainty"]

# What makes a pixel no measurement of the ground. Water is ground; the aggregate flag counts it, and is therefore not
# used. Version 3 of the mask has no spacecraft flag.
CLOUDS = ("Cloud flag", "Cirrus flag", "Spacecraft flag", "Dilated cloud flag")
SAME_BAND = 0.1  # nm: bands of one product differ by rounding, those of two calibrations of EMIT by some 0.5 nm
GRANULE = re.compile(r"(\d{8}T\d{6}_\d{7}_\d{3})")
IDENTITY = ("flight_line", "time_coverage_start")  # attributes that all files of a granule share
MASK, MASK_BANDS = "mask", "sensor_band_parameters/mask_bands"
ROWS_BYTES = 32 * 2**20  # of the mask, read at once


def read_emit_uncertainty(path: str | Path, scene: Scene) -> Scene:
    """The standard deviation of each value of an EMIT scene, from the file ``EMIT_L2A_RFLUNCERT_…`` beside it.

    Args:
        path: the uncertainty file.
        scene: the reflectance it belongs to, as the file has it: whole, not orthorectified.

    Returns:
        A scene of standard deviations [row, column, band] in the scene's quantity; it stays in its file. Where the
        values of the scene were scaled, so are these.

    Raises:
        ValueError: no EMIT uncertainty file, another granule, size, or other bands.
    """
    path = existing(path)
    found = read_netcdf(path, Reading(keys={"cube": "reflectance_uncertainty"}))
    _check_granule(path, found.header, scene)
    _check_size(path, found.shape, scene)
    if found.bands != scene.bands:
        raise ValueError(f"{path} has {found.bands} bands, the scene {scene.bands}")
    if found.axis is not None and scene.axis is not None:
        away = float(np.abs(np.asarray(found.axis.centers) - np.asarray(scene.axis.centers)).max())
        if found.axis.unit != scene.axis.unit or away > SAME_BAND:
            raise ValueError(f"{path}: its bands lie up to {away:.2f} nm beside those of the scene: another product")
    cube = found.cube
    if isinstance(scene.cube, LazyCube):
        scaling = {name: scene.cube.scaling[name] for name in ("divisor", "gain")}
        cube = LazyCube(cube.source, **(cube.scaling | scaling))
    return replace(
        found, cube=cube, quantity=scene.quantity, good_bands=scene.good_bands, mask=scene.mask, notes=scene.notes
    )


def read_emit_mask(path: str | Path, scene: Scene, flags: Sequence[str] | None = None) -> Bool[np.ndarray, "row col"]:
    """Which pixels of an EMIT scene are usable, from the file ``EMIT_L2A_MASK_…`` that comes with it.

    Args:
        path: the mask file.
        scene: the reflectance it belongs to, as the file has it: whole, not orthorectified.
        flags: names of those that make a pixel unusable, in any case: ``Cloud flag``, ``Cirrus flag``, ``Water flag``,
            ``Spacecraft flag``, ``Dilated cloud flag``, ``Aggregate flag``; None: clouds, cirrus, their surroundings
            and parts of the space station, as far as the file has them.

    Returns:
        True where a pixel is usable: no flag is set, and none is missing. For `Scene.mask`.

    Raises:
        ValueError: no EMIT mask file, another granule or size, a flag that it has not.
    """
    path = existing(path)
    variables = open_variables(path)
    try:
        if MASK not in variables.names or MASK_BANDS not in variables.names:
            raise ValueError(f"{path} is no EMIT mask file: it has no {MASK} with {MASK_BANDS}")
        names = [str(name) for name in np.ravel(variables.file.read(MASK_BANDS))]
        shape = variables.shape(MASK)
        if len(shape) != 3 or shape[2] != len(names):
            raise ValueError(f"{path}: {MASK} has shape {shape}, {MASK_BANDS} names {len(names)} bands")
        _check_granule(path, variables.header(), scene)
        _check_size(path, shape[:2], scene)
        chosen = _chosen(path, names, flags)
        mask = variables.file.array(MASK)
        usable = np.empty(shape[:2], bool)
        step = max(1, ROWS_BYTES // max(1, shape[1] * shape[2] * mask.dtype.itemsize))
        for first in range(0, shape[0], step):
            usable[first : first + step] = (np.asarray(mask[first : first + step])[..., chosen] == 0).all(axis=-1)
        return usable
    finally:
        variables.file.close()


def _chosen(path: Path, names: Sequence[str], flags: Sequence[str] | None) -> list[int]:
    """Numbers of the flags among the bands of the mask."""
    plain = [_plain(name) for name in names]
    known = [name for name, letters in zip(names, plain, strict=True) if letters.endswith("flag")]
    wanted = [flag for flag in CLOUDS if _plain(flag) in plain] if flags is None else list(flags)
    absent = [flag for flag in wanted if _plain(flag) not in plain or not _plain(flag).endswith("flag")]
    if absent or not wanted:
        raise ValueError(f"{path}: no flag {', '.join(map(repr, absent)) or 'is named'}; it has {', '.join(known)}")
    return [plain.index(_plain(flag)) for flag in wanted]


def _plain(name: str) -> str:
    """The letters of a name, in small letters."""
    return re.sub(r"[^a-z]", "", name.lower())


def _check_granule(path: Path, header: Mapping[str, Any], scene: Scene) -> None:
    """Refuse a file of another granule than the scene's, as far as the two say which they are of."""
    for name in IDENTITY:
        own, other = header.get(name), scene.header.get(name)
        if own is not None and other is not None and str(own) != str(other):
            raise ValueError(f"{path} is of another granule: {name} is {own}, that of the scene is {other}")
    names = [GRANULE.search(text) for text in (path.name, scene.name)]
    if names[0] and names[1] and names[0][1] != names[1][1]:
        raise ValueError(f"{path} is of another granule than the scene, {names[1][1]}")


def _check_size(path: Path, shape: Sequence[int], scene: Scene) -> None:
    """Refuse a file of another size than the scene's."""
    if tuple(shape) != tuple(scene.shape):
        own, other = (" × ".join(map(str, of)) for of in (shape, scene.shape))
        raise ValueError(f"{path} has {own} pixels, the scene {other}: both must be whole granules, not orthorectified")
