"""Swaths on a grid: the table of pixels (GLT) that comes with a swath says which of its pixels each cell shows."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Shaped

from unmix_jax.scenes.georeference import Place, grid_of
from unmix_jax.scenes.scene import Scene

__all__ = ["check_ortho", "grid_rows", "ortho_place", "ortho_shape", "orthorectify", "take"]

ROWS_BYTES = 16 * 2**20  # of the table, read at once
FILL = -9999  # which some tables hold beside 0


def ortho_shape(scene: Scene) -> tuple[int, int]:
    """Rows and columns of the grid of a scene's table (GLT).

    Raises:
        ValueError: the scene has no table, or one that does not fit.
    """
    glt = {str(key).lower(): value for key, value in scene.header.items()}.get("glt")
    if len(scene.shape) != 2 or not isinstance(glt, Mapping) or not {"x", "y"} <= set(glt):
        raise ValueError(
            f"{scene.name}: --ortho (ortho=True) needs a swath with a table that puts its pixels on a grid (GLT), as "
            "EMIT's NetCDF files have; this scene has none"
        )
    shapes = np.shape(glt["x"]), np.shape(glt["y"])
    if shapes[0] != shapes[1] or len(shapes[0]) != 2 or 0 in shapes[0]:
        raise ValueError(f"{scene.name}: glt_x and glt_y must be tables of one size, got {shapes[0]} and {shapes[1]}")
    return int(shapes[0][0]), int(shapes[0][1])


def ortho_place(scene: Scene) -> Place:
    """Where the grid of a scene's table (GLT) lies.

    Raises:
        ValueError: the scene has no table.
    """
    ortho_shape(scene)
    place = grid_of({str(key).lower(): value for key, value in scene.header.items()})
    assert place is not None
    return place


def check_ortho(scene: Scene) -> str | None:
    """Refuse a scene that cannot be put on a grid, before any work.

    Args:
        scene: a swath with its table (GLT).

    Returns:
        What is to be said of the table, or None: how many cells show a pixel that lies beside them (entries below
        zero).

    Raises:
        ValueError: no table, tables of different sizes, entries that are not whole numbers or that name pixels beyond
            the swath, or a table that names none of its pixels.
    """
    beside = named = 0
    for first, x, y in _tables(scene):
        for name, entries, most, axis in (
            ("glt_x", x, scene.shape[1], "columns"),
            ("glt_y", y, scene.shape[0], "rows"),
        ):
            beyond = np.abs(entries) > most
            if beyond.any():
                row, column = np.argwhere(beyond)[0]
                raise ValueError(
                    f"{scene.name}: {name} names {axis[:-1]} {abs(int(entries[row, column]))} in row {first + row}, "
                    f"column {column} of the grid; the swath has {most} {axis}"
                )
        shown = (x != 0) & (y != 0)
        named += int(shown.sum())
        beside += int((shown & ((x < 0) | (y < 0))).sum())
    if not named:
        raise ValueError(f"{scene.name}: the table (GLT) names no pixel of the scene")
    if not beside:
        return None
    return (
        f"{beside} of {named} cells of the grid show the pixel nearest to them because none lies in them "
        "(entries of the table (GLT) below zero)."
    )


def grid_rows(scene: Scene) -> Iterator[tuple[int, np.ndarray]]:
    """The table in parts: first row of the grid, and index of the pixel (in the flat swath) of each cell, -1: none.

    Args:
        scene: a swath with its table (GLT).

    Returns:
        First rows, and the indices [row, column] from there on.

    Raises:
        ValueError: as `check_ortho`.
    """
    rows, columns = scene.shape
    for first, x, y in _tables(scene):
        x, y = np.abs(x), np.abs(y)
        shown = (x != 0) & (y != 0)
        if (beyond := shown & ((x > columns) | (y > rows))).any():
            row, column = np.argwhere(beyond)[0]
            raise ValueError(
                f"{scene.name}: the table (GLT) names a pixel beyond the swath in row {first + row}, column {column}"
            )
        yield first, np.where(shown, (y - 1) * columns + x - 1, -1)


def take(flat: np.ndarray, index: np.ndarray, fill: int | float) -> np.ndarray:
    """The pixels [pixel, ...] of an index, in its shape; `fill` where it is below zero."""
    found = flat[np.maximum(index, 0)]
    found[index < 0] = fill
    return found


def orthorectify(
    values: Shaped[Any, "row column ..."], scene: Scene, *, fill: int | float = np.nan
) -> Shaped[np.ndarray, "grid_row grid_column ..."]:
    """Values of a swath on the grid of its table (GLT): each cell shows the pixel that the table names.

    Nothing is interpolated. Entries count from 1; a cell whose entry is 0 in one of the two is filled. Entries below
    zero name a pixel that lies beside the cell, which is taken.

    Args:
        values: over the pixels of the scene, further axes last; whole numbers become floating point where the fill
            value is none.
        scene: the swath with its table.
        fill: for cells without a pixel.

    Returns:
        The values on the grid.

    Raises:
        ValueError: no table, a table that names pixels beyond the swath, or values of another shape.

    References:
        The rule is that of ``apply_glt`` in NASA's EMIT-Data-Resources
        (https://github.com/nasa/EMIT-Data-Resources, python/modules/emit_tools.py), which fills with -9999.
    """
    values = np.asarray(values)
    if values.shape[:2] != scene.shape:
        raise ValueError(f"values have shape {values.shape}, the swath {scene.shape}")
    dtype = values.dtype
    if dtype.kind in "biu" and not float(fill).is_integer():
        dtype = np.promote_types(dtype, np.float32)
    flat = values.reshape(-1, *values.shape[2:])
    out = np.empty((*ortho_shape(scene), *values.shape[2:]), dtype)
    for first, index in grid_rows(scene):
        out[first : first + len(index)] = take(flat.astype(dtype, copy=False), index, fill)
    return out


def _tables(scene: Scene) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """First row, x and y of parts of the table; fill is 0, and what lies outside a part of the scene as well."""
    rows, columns = ortho_shape(scene)
    glt = {str(key).lower(): value for key, value in scene.header.items()}["glt"]
    step = max(1, ROWS_BYTES // (columns * 8))
    for first in range(0, rows, step):
        x, y = (_whole(glt[name][first : first + step], f"glt_{name}", scene.name) for name in ("x", "y"))
        if glt.get("cut"):  # the scene is a part of the swath, and the table that of the whole
            outside = (np.abs(x) > scene.shape[1]) | (np.abs(y) > scene.shape[0])
            x, y = np.where(outside, 0, x), np.where(outside, 0, y)
        yield first, x, y


def _whole(entries: Any, name: str, scene: str) -> np.ndarray:
    """Entries as whole numbers; NaN and -9999 are fill."""
    entries = np.asarray(entries)
    if entries.dtype.kind not in "iuf":
        raise ValueError(f"{scene}: {name} must hold whole numbers, got {entries.dtype}")
    if entries.dtype.kind == "f":
        entries = np.nan_to_num(entries, nan=0.0)
        if (entries != np.round(entries)).any() or (np.abs(entries) > 2**53).any():
            raise ValueError(f"{scene}: {name} must hold whole numbers")
    whole = entries.astype(np.int64)
    return np.where(whole == FILL, 0, whole)
