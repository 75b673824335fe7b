"""Write a run to a folder, and read it back.

A folder holds the maps as ENVI images (georeferenced like the scene, readable by SPy and GDAL), the
endmembers as an ENVI spectral library, everything once more in the Zarr group ``results.zarr``, and
``record.json``. The record is written last: a folder without it is not a finished run.
"""

import json
import platform
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unmix_jax import __version__
from unmix_jax.scenes.georeference import place_in_words, place_note
from unmix_jax.scenes.library_files import KEYS, library_arrays, library_names, write_library
from unmix_jax.scenes.ortho import check_ortho, grid_rows, take
from unmix_jax.scenes.scene import Scene, SpectralAxis, SpectralLibrary
from unmix_jax.scenes.writers import MapFile
from unmix_jax.solvers.active_set import abundance_tolerance, tolerance
from unmix_jax.solvers.least_squares import remove_shade
from unmix_jax.store import UNFINISHED, Store, claim, named, open_group, solution_of, write_json
from unmix_jax.types import Solution

__all__ = [
    "Finisher",
    "Results",
    "check_folder",
    "environment",
    "keep_endmembers",
    "masked_pixels",
    "read_results",
    "write_results",
]

RECORD = "record.json"
ARRAYS = "results.zarr"
MAPS = ("abundances", "abundances_without_shade", "residual", "gap", "abundance_bound", "location")
OWN_FILES = (
    RECORD,
    ARRAYS,
    UNFINISHED,
    "report.html",
    "scores.json",
    "figures",
    "abundances.mat",
    "abundances.csv",
    "abundances.prj",
    "runs.npz",
    "endmembers.sli",
    "endmembers.hdr",
    *(f"{name}{ext}" for name in MAPS for ext in (".img", ".hdr", ".tif")),
)
BLOCK_BYTES = 16 * 2**20  # of abundances, in one chunk of what is written at once
MEDIAN_OF = 1_000_000  # gaps, and bounds on abundances
GRID_BYTES = 64 * 2**20  # of layers that are put on a grid at once; one at least
LOCATION_BYTES = 16 * 2**20  # of longitudes and latitudes that are written at once
ENDS = {"envi": ".hdr", "geotiff": ".tif"}
LOOKED_AT = ("abundances", "residual", "gap", "steps", "converged", "unique", "abundance_bound")


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


def check_folder(folder: str | Path, *, overwrite: bool = False, own: Iterable[str] = OWN_FILES) -> Path:
    """Make sure that results may be written to a folder: absent, empty, or a run that ``overwrite`` gives up.

    Args:
        folder: the output folder; nothing is created or removed yet.
        overwrite: whether an earlier run may be replaced; a folder that holds anything else never is.
        own: names of the files and folders of a run.

    Returns:
        The folder as a path.

    Raises:
        ValueError: the path is a file; the folder holds a run and ``overwrite`` is False; it holds other files.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output folder {str(folder)!r} is a file")
    held = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    other = [name for name in held if name not in set(own)]
    run = RECORD in held or UNFINISHED in held
    if held and (other or not run):
        named = ", ".join((other or held)[:3]) + (", ..." if len(other or held) > 3 else "")
        raise ValueError(
            f"output folder {str(folder)!r} holds files that belong to no run ({named}): choose another folder"
            + ("; --overwrite replaces a run only" if overwrite else "")
        )
    if held and not overwrite:
        raise ValueError(f"output folder {str(folder)!r} holds another run: choose another, or overwrite (--overwrite)")
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
    ortho: bool = False,
) -> Results:
    """Write a solution to a folder: ENVI maps, an ENVI library, one Zarr group and the JSON record.

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
        ortho: whether the maps are written on the grid of the scene's table (GLT); the Zarr group, and what
            ``read_results`` returns, stay in the geometry of the swath.

    Returns:
        The run, as ``read_results`` would read it.

    Raises:
        ValueError: the folder holds another run, or solution, scene and endmembers do not belong together; ``ortho``
            for a scene without a table, or with one that does not fit.
    """
    abundances = np.asarray(solution.abundances)
    if abundances.shape != (*scene.shape, len(endmembers)):
        raise ValueError(
            f"abundances have shape {abundances.shape}, the scene's pixels and endmembers ask for "
            f"{(*scene.shape, len(endmembers))}"
        )
    check_shade(endmembers, shade)
    if ortho:
        check_ortho(scene)
    folder = erase(check_folder(folder, overwrite=overwrite))
    arrays = {name: np.asarray(values) for name, values in named(solution).items()}
    lead = scene.shape
    inner = {name: jax.ShapeDtypeStruct(values.shape[len(lead) :], values.dtype) for name, values in arrays.items()}
    store = Store(folder / ARRAYS, inner, lead, max(1, min(lead[0], BLOCK_BYTES // max(1, abundances[:1].nbytes))))
    keep_endmembers(store.create(), endmembers)
    for number, rows in enumerate(store.blocks):
        store.write(number, {name: values[rows] for name, values in arrays.items()})
    finisher = Finisher(folder, store, scene, endmembers, shade=shade, ortho=ortho)
    return Results(solution, endmembers, finisher.finish(config=config, timings=timings, seed=seed, more=more))


def check_shade(endmembers: SpectralLibrary, shade: str | None) -> None:
    """Refuse a shade that no endmember is named after."""
    names = library_names(endmembers)
    if shade is not None and shade not in names:
        raise ValueError(f"no endmember is named {shade!r}; there are {', '.join(map(repr, names))}")


def erase(folder: Path, *, keep: tuple[str, ...] = ()) -> Path:
    """An empty folder, as far as runs go: the record goes first, so that an earlier run no longer looks complete.

    Raises:
        ValueError: another run is writing to it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if UNFINISHED not in keep and (folder / UNFINISHED).is_dir():
        claim(folder).release()
    for name in (name for name in OWN_FILES if name not in keep):
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return folder


def keep_endmembers(group: Any, endmembers: SpectralLibrary) -> None:
    """Keep the spectra that are mixed in the group of a run."""
    arrays = library_arrays(endmembers)
    group.attrs["names"] = [str(name) for name in arrays.pop("names")]
    for name, values in arrays.items():
        group.create_array(name, data=np.asarray(values))


class Finisher:
    """Maps, library and record of a run, from blocks that come in any order."""

    def __init__(
        self, folder: Path, store: Store, scene: Scene, endmembers: SpectralLibrary, *, shade: str | None = None,
        maps: Iterable[str] = ("envi",), ortho: bool = False,
    ) -> None:  # fmt: skip
        """Begin the maps.

        Args:
            folder: of the run.
            store: its arrays.
            scene: what was unmixed.
            endmembers: the spectra that were mixed.
            shade: as in `write_results`.
            maps: ``envi``, ``geotiff`` or both.
            ortho: whether they are written on the grid of the scene's table (GLT), at the end, layer by layer; what is
                stored stays in the geometry of the swath.
        """
        self.maps, self.ortho = tuple(maps), ortho
        self.folder, self.store, self.scene, self.endmembers = folder, store, scene, endmembers
        names = library_names(endmembers)
        self._shade = None if shade is None else names.index(shade)
        layers = {
            "abundances": (names, "Abundances, fraction"),
            "residual": ((f"RMS residual ({scene.quantity})",), "RMS residual"),
            "gap": (("optimality gap",), "Optimality gap over half the squared norm"),
        }
        if "abundance_bound" in store.shapes:
            layers["abundance_bound"] = (
                ("bound on abundances",),
                "Greatest distance of an abundance from the optimum, fraction; infinite where there is no bound",
            )
        if shade is not None:
            others = tuple(name for name in names if name != shade)
            layers["abundances_without_shade"] = others, "Abundances without shade, fraction"
        self._tallies: dict[int, Tally] = {}
        self._files = [
            (
                name,
                MapFile(
                    folder / f"{name}{ENDS[kind]}",
                    of,
                    scene,
                    description=about,
                    ortho=ortho,
                    infinite=name == "abundance_bound",
                ),
            )
            for kind in self.maps
            for name, (of, about) in layers.items()
        ]
        self._every = -(-int(np.prod(scene.shape)) // MEDIAN_OF)

    def add(self, number: int, arrays: Mapping[str, np.ndarray]) -> None:
        """A block."""
        self._tallies[number] = Tally.of(
            solution_of({name: arrays[name] for name in LOOKED_AT if name in arrays}), self._every
        )
        if self.ortho:  # a row of the grid shows pixels of many rows of the swath: maps come when all are there
            return
        values: dict[str, np.ndarray] = {}
        for name, file in self._files:
            if name not in values:
                values[name] = self._layers(name, arrays)
            file.write(self.store.blocks[number].start, values[name])

    def _layers(self, name: str, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """The values of a map in a block."""
        if name != "abundances_without_shade":
            return arrays[name]
        assert self._shade is not None
        with jax.enable_x64(arrays["abundances"].dtype == np.float64):  # whatever thread this is
            return np.asarray(remove_shade(solution_of(dict(arrays)), self._shade).abundances)

    def _write_on_grid(self) -> None:
        """The maps on the grid: a few layers of the swath are in memory at once."""
        dtype = self.store.shapes["abundances"][1]
        pixels = int(np.prod(self.scene.shape))
        for name in dict.fromkeys(name for name, _ in self._files):
            files = [file for of, file in self._files if of == name]
            count = len(files[0].names)
            together = max(1, GRID_BYTES // (pixels * dtype.itemsize))
            for first in range(0, count, together):
                swath = np.empty((*self.scene.shape, min(together, count - first)), dtype)
                for number, rows in enumerate(self.store.blocks):
                    values = self._layers(name, self.store.read(number, LOOKED_AT))
                    swath[rows] = values.reshape(*values.shape[:2], count)[..., first : first + together]
                flat = swath.reshape(pixels, -1)
                for row, index in grid_rows(self.scene):
                    for file in files:
                        file.write(row, take(flat, index, np.nan), layer=first)

    def close(self) -> None:
        """Write nothing more to the maps."""
        for _, file in self._files:
            file.close()

    def finish(
        self, *, config: Mapping[str, Any] | None = None, timings: Mapping[str, float] | None = None,
        seed: int | None = None, more: Any = None,
    ) -> dict[str, Any]:  # fmt: skip
        """The record, written last; blocks that did not come are read. ``more`` may be a function of what is known."""
        for number in range(len(self.store.blocks)):
            if number not in self._tallies:
                self.add(number, self.store.read(number, LOOKED_AT))
        if self.ortho:
            self._write_on_grid()
        self.close()
        for _, file in self._files:
            file.check()
        _write_location(self.folder, self.scene)
        write_library(self.folder / "endmembers.sli", self.endmembers)
        found = summarise([self._tallies[number] for number in sorted(self._tallies)], self.scene, self.endmembers)
        note = place_note(self.scene, self.maps, ortho=self.ortho)
        if note is not None:
            found["notes"] = list(dict.fromkeys((*found["notes"], note)))
        geometry = (
            "on the grid of the table (GLT); results.zarr is in that of the swath" if self.ortho else "the scene's"
        )
        record = {
            **found,
            "place": {"scene": place_in_words(self.scene), "maps": geometry, "ortho": self.ortho, "note": note},
            "config": dict(config or {}),
            "seed": seed,
            "timings_s": dict(timings or {}),
            "environment": environment(),
            **((more(found) if callable(more) else more) or {}),
        }
        return write_json(self.folder / RECORD, record)


def read_results(folder: str | Path, *, every: int = 1) -> Results:
    """Read a run that ``write_results`` wrote.

    Args:
        folder: the folder of the run.
        every: step between the rows and columns that are read; more than 1 for a scene that is larger than memory.

    Returns:
        The run.

    Raises:
        FileNotFoundError: the folder holds no finished run.
    """
    folder = Path(folder)
    if not (folder / RECORD).is_file() or not (folder / ARRAYS).is_dir():
        begun = f"; an unfinished one is in {UNFINISHED}" if (folder / UNFINISHED).is_dir() else ""
        raise FileNotFoundError(f"{str(folder)!r} holds no finished run ({RECORD} and {ARRAYS}){begun}")
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    group = open_group(folder / ARRAYS)
    some = (slice(None, None, every),) * (len(record["scene"]["shape"]) - 1)
    library = ("endmembers", "fwhm", "good_bands", *KEYS.values())
    arrays = {name: np.asarray(group[name][...]) for name in library if name in group}
    leaves = {name: jnp.asarray(group[name][some]) for name in group.array_keys() if name not in library}
    axis = None
    for unit, key in KEYS.items():
        if key in arrays:
            axis = SpectralAxis(arrays[key], arrays.get("fwhm"), unit)
    names = tuple(str(name) for name in group.attrs["names"])
    found = SpectralLibrary(arrays["endmembers"], axis=axis, names=names, good_bands=arrays.get("good_bands"))
    return Results(solution_of(leaves), found, record)


class Tally(NamedTuple):
    """Counts and sums of a block."""

    pixels: int
    valid: int
    converged: int
    steps: int
    residuals: int
    squares: float
    not_unique: int | None
    gaps: np.ndarray
    worst: float
    abundances: np.ndarray
    tolerance: float
    reached: int
    bounds: "BoundTally | None"

    @classmethod
    def of(cls, solution: Solution, every: int) -> "Tally":
        """Counts of a solution; its gaps and bounds are kept with a step of `every`."""
        leaves = (
            solution.gap, solution.residual, solution.converged, solution.steps, solution.unique,
            solution.abundance_bound,
        )  # fmt: skip
        some: list[Any] = [None if leaf is None else np.asarray(leaf).reshape(-1) for leaf in leaves]
        abundances = np.asarray(solution.abundances)
        abundances = abundances.reshape(-1, abundances.shape[-1])
        pixels = len(abundances)
        if np.isnan(abundances[:, 0]).any():
            valid = ~np.isnan(abundances).all(-1)
            abundances, some = abundances[valid], [None if leaf is None else leaf[valid] for leaf in some]
        gap, residual, converged, steps, unique, bound = some
        finite, known = gap[np.isfinite(gap)], residual[np.isfinite(residual)]
        return cls(
            pixels, len(abundances), int(converged.sum()), int(steps.sum(dtype=np.int64)), known.size,
            float(np.einsum("p,p->", known, known, dtype=np.float64)),
            None if unique is None else int(unique.size - unique.sum()), finite[::every].copy(),
            float(finite.max()) if finite.size else -np.inf, np.asarray(np.nansum(abundances, 0, dtype=np.float64)),
            tolerance(gap.dtype), int(np.sum(gap <= tolerance(gap.dtype))),
            None if bound is None else BoundTally.of(bound, unique, every),
        )  # fmt: skip


class BoundTally(NamedTuple):
    """Counts of the bounds on the abundances of a block, over its unmixed pixels."""

    limit: float
    within: int
    without: int
    ambiguous: int | None
    largest: float
    bounds: np.ndarray

    @classmethod
    def of(cls, bound: np.ndarray, unique: np.ndarray | None, every: int) -> "BoundTally":
        """Of the bounds of pixels, and of whether their minimisers are unique, where the solver says it."""
        limit, known = abundance_tolerance(bound.dtype), np.isfinite(bound)
        finite = bound[known]
        return cls(
            limit, int(np.sum(finite <= limit)), int(bound.size - finite.size),
            None if unique is None else int(np.sum(~known & ~unique)),
            float(finite.max()) if finite.size else -np.inf, finite[::every].copy(),
        )  # fmt: skip


def summarise(tallies: list[Tally], scene: Scene, endmembers: SpectralLibrary) -> dict[str, Any]:
    """Counts, certificate and mean abundances, as JSON can hold them; medians of very many pixels are those of some."""
    pixels, valid, converged, steps, residuals = (sum(column) for column in list(zip(*tallies, strict=True))[:5])
    squares = sum(tally.squares for tally in tallies)
    gaps = np.concatenate([tally.gaps for tally in tallies])
    reached = sum(tally.reached for tally in tallies)
    good = endmembers.good_bands if endmembers.good_bands is not None else scene.good_bands
    used = scene.bands if good is None else int(np.asarray(good).sum())
    looked = [tally.not_unique for tally in tallies if tally.not_unique is not None]
    total = np.sum([tally.abundances for tally in tallies], 0)
    bounds = _bounds_in_all([tally.bounds for tally in tallies if tally.bounds is not None], valid)
    notes = [*scene.notes, *endmembers.notes]
    if looked and sum(looked):
        notes.append(
            f"{sum(looked):,} of {valid:,} pixels have more than one best answer, because endmembers repeat each other "
            "or outnumber the bands: the maps show one of them"
        )
    if bounds is not None and (others := bounds["without"] - (bounds["without_not_unique"] or 0)):
        notes.append(
            f"{others:,} of {valid:,} pixels have no bound on abundances: endmembers depend on each other, exactly or "
            "nearly, and nothing could be proved; where the optimum is reached, abundances may still be far from it"
            + (" (--x64 computes in double precision)" if bounds["limit"] > abundance_tolerance(np.float64) else "")
        )
    return {
        "scene": {
            "name": scene.name,
            "shape": [*scene.shape, scene.bands],
            "quantity": scene.quantity,
            "axis": None if scene.axis is None else scene.axis.label,
        },
        "endmembers": list(library_names(endmembers)),
        "notes": list(dict.fromkeys(notes)),
        "metadata_not_understood": list(scene.account.unknown),
        "bands": {"total": scene.bands, "used": used},
        "pixels": {"total": pixels, "valid": valid, "masked": pixels - valid},
        "converged_share": converged / valid if valid else None,
        "gap": {
            "worst": max(tally.worst for tally in tallies) if gaps.size else None,
            "median": float(np.median(gaps)) if gaps.size else None,
            "tolerance": tallies[0].tolerance if gaps.size else None,
            "reached": reached if gaps.size else None,
            "reached_share": reached / valid if gaps.size else None,
        },
        "abundance_bound": bounds,
        "residual_rms": float(np.sqrt(squares / residuals)) if residuals else None,
        "steps": {"mean": steps / valid if valid else None},
        "not_unique": sum(looked) if looked else None,
        "mean_abundances": [float(a) for a in total / valid] if valid else None,
    }


def _bounds_in_all(tallies: list[BoundTally], valid: int) -> dict[str, Any] | None:
    """How many abundances are proved, and how well; None where the solver has no bound on them."""
    if not tallies:
        return None
    known = np.concatenate([tally.bounds for tally in tallies])
    within = sum(tally.within for tally in tallies)
    ambiguous = [tally.ambiguous for tally in tallies if tally.ambiguous is not None]
    return {
        "limit": tallies[0].limit,
        "within": within,
        "within_share": within / valid if valid else None,
        "largest": max(tally.largest for tally in tallies) if known.size else None,
        "median": float(np.median(known)) if known.size else None,
        "without": sum(tally.without for tally in tallies),
        "without_not_unique": sum(ambiguous) if ambiguous else None,
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
    held = scene.header.get("location")
    if not isinstance(held, Mapping) or not {"lat", "lon"} <= set(held) or len(scene.shape) != 2:
        return
    rows, columns = scene.shape
    if any(np.ndim(held[name]) != 2 or np.any(np.less(np.shape(held[name]), scene.shape)) for name in ("lon", "lat")):
        return  # of another image
    names = ("longitude", "latitude")
    step = max(1, LOCATION_BYTES // (columns * 2 * 8))
    path = folder / "location.hdr"
    with MapFile(path, names, scene, description="Input geometry, degrees", dtype=np.float64) as file:
        for row in range(0, rows, step):
            part = (np.asarray(held[name][row : min(row + step, rows)], np.float64) for name in ("lon", "lat"))
            file.write(row, np.stack([degrees[:, :columns] for degrees in part], axis=-1))
