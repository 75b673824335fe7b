"""Write a run to a folder, and read it back.

A folder holds the maps as ENVI images (georeferenced like the scene, readable by SPy and GDAL), the
endmembers as an ENVI spectral library, everything once more in ``results.npz`` (no pickles), and
``record.json``. The record is written last: a folder without it is not a finished run.
"""

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unmix_jax import __version__
from unmix_jax.scenes.scene import Scene, SpectralAxis, SpectralLibrary
from unmix_jax.scenes.writers import KEYS, library_arrays, library_names, write_library, write_map
from unmix_jax.solvers.least_squares import remove_shade
from unmix_jax.types import Solution

__all__ = [
    "Results",
    "check_folder",
    "environment",
    "masked_pixels",
    "read_results",
    "write_json",
    "write_results",
]

RECORD = "record.json"
ARRAYS = "results.npz"
MAPS = ("abundances", "abundances_without_shade", "residual", "gap", "location")
OWN_FILES = (
    RECORD,
    ARRAYS,
    "report.html",
    "scores.json",
    "runs.npz",
    "endmembers.sli",
    "endmembers.hdr",
    *(f"{name}{ext}" for name in MAPS for ext in (".img", ".hdr")),
)


@dataclass(frozen=True)
class Results:
    """A finished run, as read from its folder.

    Attributes:
        solution: what was solved, with the pixel axes of the scene.
        endmembers: the spectra that were mixed.
        record: what was run, on what, when, and how well it went (the content of ``record.json``).
    """

    solution: Solution
    endmembers: SpectralLibrary
    record: dict[str, Any]


def check_folder(folder: str | Path, *, overwrite: bool = False) -> Path:
    """Make sure that results may be written to a folder: absent, empty, or given up by ``overwrite``.

    Args:
        folder: the output folder; nothing is created or removed yet.
        overwrite: whether an earlier run may be replaced.

    Returns:
        The folder as a path.

    Raises:
        ValueError: the path is a file, or the folder is not empty and ``overwrite`` is False.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output folder {str(folder)!r} is a file")
    if not overwrite and folder.is_dir() and any(folder.iterdir()):
        held = "another run" if (folder / RECORD).exists() else "other files"
        raise ValueError(f"output folder {str(folder)!r} holds {held}: choose another, or overwrite (--overwrite)")
    return folder


def masked_pixels(solution: Solution) -> np.ndarray:
    """True where a pixel was masked out: all its abundances are NaN; [*pixel]."""
    return np.isnan(np.asarray(solution.abundances)).all(axis=-1)


def write_results(
    folder: str | Path,
    solution: Solution,
    scene: Scene,
    *,
    endmembers: SpectralLibrary,
    config: Mapping[str, Any] | None = None,
    timings: Mapping[str, float] | None = None,
    seed: int | None = None,
    shade: str | None = None,
    more: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Results:
    """Write a solution to a folder: ENVI maps, an ENVI library, one ``.npz`` and the JSON record.

    Args:
        folder: output folder, absent or empty unless ``overwrite``.
        solution: what ``unmix`` returned for the scene.
        scene: the scene; its georeferencing is carried to the maps.
        endmembers: the spectra that were mixed, one per abundance.
        config: the options of the run, anything that JSON can hold.
        timings: seconds per stage.
        seed: seed of the random key, where one was used.
        shade: name of an endmember that is shade (or blackbody); one more map holds the abundances of the
            others, divided by their sum.
        more: further entries of the record, anything that JSON can hold.
        overwrite: whether an earlier run in the folder may be replaced.

    Returns:
        The run, as ``read_results`` would read it.

    Raises:
        ValueError: the folder holds another run, or solution, scene and endmembers do not belong together.
    """
    abundances = np.asarray(solution.abundances)
    if abundances.shape != (*scene.shape, len(endmembers)):
        raise ValueError(
            f"abundances have shape {abundances.shape}, the scene's pixels and endmembers ask for "
            f"{(*scene.shape, len(endmembers))}"
        )
    names = library_names(endmembers)
    if shade is not None and shade not in names:
        raise ValueError(f"no endmember is named {shade!r}; there are {', '.join(names)}")
    folder = check_folder(folder, overwrite=overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    for name in OWN_FILES:  # the record first: from here on, an earlier run no longer looks complete
        (folder / name).unlink(missing_ok=True)
    residual, gap = (np.asarray(v)[..., None] for v in (solution.residual, solution.gap))
    maps = {
        "abundances": (abundances, names, "Abundances, fraction"),
        "residual": (residual, (f"RMS residual ({scene.unit})",), "RMS residual"),
        "gap": (gap, ("optimality gap",), "Optimality gap over half the squared norm"),
    }
    if shade is not None:
        index = names.index(shade)
        rest = np.asarray(remove_shade(solution, index).abundances)
        others = names[:index] + names[index + 1 :]
        maps["abundances_without_shade"] = (rest, others, "Abundances without shade, fraction")
    for file, (values, layers, description) in maps.items():
        write_map(folder / f"{file}.hdr", values, layers, scene, description=description)
    _write_location(folder, scene)
    write_library(folder / "endmembers.sli", endmembers)
    np.savez(folder / ARRAYS, **_arrays(solution, endmembers))
    record = {
        **summarise(solution, scene, endmembers),
        "config": dict(config or {}),
        "seed": seed,
        "timings_s": dict(timings or {}),
        "environment": environment(),
        **(more or {}),
    }
    record = write_json(folder / RECORD, record)
    return Results(solution, endmembers, record)


def read_results(folder: str | Path) -> Results:
    """Read a run that ``write_results`` wrote.

    Args:
        folder: the folder of the run.

    Returns:
        The run.

    Raises:
        FileNotFoundError: the folder holds no finished run.
    """
    folder = Path(folder)
    if not (folder / RECORD).is_file() or not (folder / ARRAYS).is_file():
        raise FileNotFoundError(f"{str(folder)!r} holds no finished run ({RECORD} and {ARRAYS})")
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    with np.load(folder / ARRAYS, allow_pickle=False) as file:
        arrays = dict(file)
    optional = {key: jnp.asarray(arrays[key]) for key in ("covariance", "unique", "fitted") if key in arrays}
    solution = Solution(
        *(jnp.asarray(arrays[key]) for key in ("abundances", "residual", "gap", "steps", "converged")),
        **optional,
    )
    axis = None
    for unit, key in KEYS.items():
        if key in arrays:
            axis = SpectralAxis(arrays[key], arrays.get("fwhm"), unit)
    library = SpectralLibrary(
        arrays["endmembers"],
        axis=axis,
        names=tuple(str(name) for name in arrays["names"]),
        good_bands=arrays.get("good_bands"),
    )
    return Results(solution, library, record)


def summarise(solution: Solution, scene: Scene, endmembers: SpectralLibrary) -> dict[str, Any]:
    """Counts, certificate and mean abundances of a solution, as JSON can hold them."""
    masked = masked_pixels(solution)
    valid = ~masked
    count = int(valid.sum())
    gap = np.asarray(solution.gap)[valid]
    residual = np.asarray(solution.residual)[valid]
    abundances = np.asarray(solution.abundances, dtype=np.float64)[valid]
    unique = None if solution.unique is None else np.asarray(solution.unique)[valid]
    good = endmembers.good_bands if endmembers.good_bands is not None else scene.good_bands
    used = scene.bands if good is None else int(np.asarray(good).sum())
    return {
        "scene": {
            "name": scene.name,
            "shape": [*scene.shape, scene.bands],
            "unit": scene.unit,
            "axis": None if scene.axis is None else scene.axis.label,
        },
        "endmembers": list(library_names(endmembers)),
        "bands": {"total": scene.bands, "used": used},
        "pixels": {"total": int(masked.size), "valid": count, "masked": int(masked.sum())},
        "converged_share": float(np.asarray(solution.converged)[valid].mean()) if count else None,
        "gap": {"worst": _finite(np.max, gap), "median": _finite(np.median, gap)},
        "residual_rms": _finite(lambda r: np.sqrt(np.mean(np.square(r, dtype=np.float64))), residual),
        "steps": {"mean": _finite(np.mean, np.asarray(solution.steps)[valid].astype(np.float64))},
        "not_unique": None if unique is None else int((~unique).sum()),
        "mean_abundances": [float(a) for a in np.nanmean(abundances, axis=0)] if count else None,
    }


def environment() -> dict[str, Any]:
    """Versions and device of this process, for a record."""
    device = jax.devices()[0]
    return {
        "unmix_jax": __version__,
        "jax": jax.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": f"{device.platform}: {device.device_kind}",
        "device_count": jax.device_count(),
        "float64": bool(jax.config.read("jax_enable_x64")),
    }


def _write_location(folder: Path, scene: Scene) -> None:
    """Longitude and latitude of every pixel (ENVI's input geometry), where the scene has them."""
    held = scene.header.get("location", {})
    if not {"lat", "lon"} <= set(held):
        return
    degrees = np.stack([np.asarray(held[name], np.float64) for name in ("lon", "lat")], axis=-1)
    names = ("longitude", "latitude")
    write_map(
        folder / "location.hdr",
        degrees,
        names,
        scene,
        description="Input geometry, degrees",
        dtype=np.float64,
    )


def _arrays(solution: Solution, endmembers: SpectralLibrary) -> dict[str, Any]:
    """Everything that a run found, as plain arrays."""
    fields = ("abundances", "residual", "gap", "steps", "converged", "covariance", "unique")
    values = {field: getattr(solution, field) for field in fields}
    for path, leaf in jax.tree_util.tree_leaves_with_path(solution.fitted):
        values["fitted" + jax.tree_util.keystr(path)] = leaf
    found = {field: np.asarray(value) for field, value in values.items() if value is not None}
    return {**found, **library_arrays(endmembers)}


def _finite(function: Any, values: np.ndarray) -> float | None:
    """A statistic of the finite values, or None where there is none."""
    finite = values[np.isfinite(values)]
    return float(function(finite)) if finite.size else None


def write_json(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Write JSON in one step (a crash leaves no half file) and return what a reader will see."""
    text = json.dumps(content, indent=2, default=_jsonable, allow_nan=False, ensure_ascii=False)
    part = path.with_suffix(".part")
    part.write_text(text + "\n", encoding="utf-8")
    os.replace(part, path)
    return json.loads(text)


def _jsonable(value: Any) -> Any:
    """NumPy and JAX values, paths and tuples as JSON."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)
