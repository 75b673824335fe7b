"""Unmix a scene from files to a report: the work of ``unmix-jax unmix``, and what it shares with other commands."""

import contextlib
import re
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from unmix_jax import sharding
from unmix_jax.endmembers import extraction
from unmix_jax.endmembers.subspace import Counts, count_endmembers
from unmix_jax.export import abundance_table, check_exports, write_exports
from unmix_jax.report import write_run_report
from unmix_jax.results import check_folder, read_results, write_results
from unmix_jax.resuming import check_run
from unmix_jax.scenes.georeference import place_note
from unmix_jax.scenes.library import match
from unmix_jax.scenes.opening import open_library, open_scene
from unmix_jax.scenes.reading import require_valid
from unmix_jax.scenes.scene import Scene, SpectralLibrary, thinned
from unmix_jax.solvers import least_squares
from unmix_jax.streaming import unmix_file
from unmix_jax.terminal import progress_bar, table

LINEAR = ("fcls", "nnls", "scls", "ucls")  # methods that need endmembers
BLIND = (
    "recommended", "simple", "simple_cosine", "daeu", "daeu_sad", "sidaeu", "endnet", "endnet_noisy", "ospaeu", "nae",
    "mtaeu", "cnnaeu", "mdae", "udas", "snsa", "daen", "archetypal", "nmf",
)  # methods that find them  # fmt: skip

TABLED = 1_000_000  # spectra of a list whose abundances are written as a table without being asked for: some 100 MB
SHOWN_COLUMNS = 8  # endmembers side by side in a terminal
SHOWN_BYTES = 64 * 2**20  # of the pixels that a report is drawn of

__all__ = ["counts_in_words", "extract", "unmix_scene"]


def unmix_scene(
    options: Mapping[str, Any],
    *,
    reading: Mapping[str, Any],
    library_reading: Mapping[str, Any],
    command: str,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Read, find endmembers, solve, write, report.

    Args:
        options: of ``unmix-jax unmix``, by name.
        reading: how the scene's file is read, as `read_scene` takes it.
        library_reading: how the library's file is read, as `read_library` takes it.
        command: that ran this, for the report.
        say: takes what is to be told before the end.

    Returns:
        The record of the run.

    Raises:
        ValueError: the folder holds another run; options that do not go together; what readers and solvers refuse.
    """
    options = _counted(options)
    if options["method"] not in (*LINEAR, *BLIND):
        return _unmix_learned(options, reading, library_reading, command, say)
    if options["endmembers"] is not None and options["count"] != "auto":
        raise ValueError("--count is for endmembers that are extracted; --endmembers brings its own")
    if options["method"] not in LINEAR:
        _require_blind(options)
        check_folder(options["out"], overwrite=options["overwrite"])
        if sharding.count() > 1:
            raise ValueError(f"--method {options['method']} runs in one process, not in {sharding.count()}")
    for name in ("seeds", "gauge"):
        if options["method"] in LINEAR and options[name] is not None:
            raise ValueError(f"--{name} goes with methods that find endmembers, not with --method {options['method']}")
    check_run(options["out"], overwrite=options["overwrite"])
    stages = {"start": time.perf_counter()}
    scene, given = _opened(options, reading, library_reading)
    stages["open"] = time.perf_counter()
    if given is None:
        count = options["count"]
        if count == "auto":
            counts = count_endmembers(scene)
            count = counts.smallest
            say(f"How many endmembers: {counts_in_words(counts)}; {count} are taken (--count)\n")
        if options["method"] not in LINEAR:
            return _unmix_blind(scene, count, options, command, stages, say)
        library, _ = extract(scene, options["extract"], count, options["seed"])
    else:
        library = given
    found = given is None
    library = match(scene, library, allow_scale_mismatch=None if found else options["allow_scale_mismatch"])
    require_valid(scene, library.good_bands)
    if options["shade"] is not None and options["shade"] not in library.names:
        raise ValueError(f"no endmember is named {options['shade']!r}; there are {', '.join(map(repr, library.names))}")
    stages["endmembers"] = time.perf_counter()
    baseline = _baseline(library, options["baseline"])
    spectra = np.asarray(library.spectra, np.float64 if options["x64"] else np.float32)
    prepared = least_squares.prepare(spectra, weights=library.good_bands, baseline=baseline)
    unmixer = eqx.Partial(getattr(least_squares, options["method"]), endmembers=prepared)
    return _stream(
        scene, unmixer, library, options, command, stages, say, extracted=options["endmembers"] is None,
        baseline=baseline,
    )  # fmt: skip


def _stream(
    scene: Scene, unmixer: Any, library: SpectralLibrary, options: Mapping[str, Any], command: str,
    stages: Mapping[str, float], say: Callable[[str], None], *, extracted: bool = False, baseline: Any = None,
    more: Any = None,
) -> dict[str, Any]:  # fmt: skip
    """From file to files, with a report that is drawn of some of a great many pixels."""
    bytes_ = float(np.prod(scene.shape)) * scene.bands * np.dtype(scene.cube.dtype).itemsize
    every = max(1, int(np.ceil((bytes_ / SHOWN_BYTES) ** (1 / len(scene.shape)))))

    if sharding.is_first() and (note := place_note(scene, options["maps"], ortho=options["ortho"])) is not None:
        warnings.warn(note, stacklevel=2)

    exports = _exports(scene, options, len(library))

    def report(folder: Path, record: Mapping[str, Any]) -> None:
        results, shown = read_results(folder, every=every), thinned(scene, every)
        write_run_report(
            folder / "report.html", results, shown,
            command=command, extracted=extracted, baseline=baseline, every=every,
        )  # fmt: skip
        write_exports(folder, results, scene, exports, every=every, shown=shown, baseline=baseline)

    with progress_bar("unmixing") if sharding.is_first() else contextlib.nullcontext() as progress:
        record = unmix_file(
            scene, unmixer, options["out"], endmembers=library, good_bands=library.good_bands, tile=options["tile"],
            memory=None if options["memory"] is None else options["memory"] * 2**30, maps=options["maps"],
            shade=options["shade"], ortho=options["ortho"], config=options, seed=options["seed"],
            timings=_timings(stages), more=more,
            finishing=report, overwrite=options["overwrite"], planning=lambda plan: say(f"{plan}\n"), progress=progress,
        )  # fmt: skip
    _say_spectra(scene, options, say)
    return record


def _exports(scene: Scene, options: Mapping[str, Any], count: int) -> tuple[str, ...]:
    """What is exported: what the user asks for, and a table of a list of spectra."""
    kinds = set(options["export"])
    if len(scene.shape) == 1 and scene.shape[0] <= TABLED:
        kinds.add("csv")
    return check_exports(sorted(kinds), shape=scene.shape, endmembers=count, itemsize=8 if options["x64"] else 4)


def _say_spectra(scene: Scene, options: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """The abundances of the first spectra of a list."""
    if len(scene.shape) == 1 and sharding.is_first():
        columns, rows = abundance_table(options["out"], scene, most=SHOWN_COLUMNS)
        more = f"\nThe first {len(rows)} of {scene.shape[0]:,} spectra." if len(rows) < scene.shape[0] else ""
        say(f"{table(rows, columns)}{more}\n")


def _opened(
    options: Mapping[str, Any], reading: Mapping[str, Any], library_reading: Mapping[str, Any]
) -> tuple[Scene, SpectralLibrary | None]:
    """The scene, and the library of ``--endmembers``, whose number of bands tells how a scene's bare array lies."""
    if options["endmembers"] is None:
        return open_scene(options["scene"], **reading), None
    library = _library(options, library_reading)
    return open_scene(options["scene"], **reading, library_bands=library.spectra.shape[1]), library


def _library(options: Mapping[str, Any], reading: Mapping[str, Any]) -> SpectralLibrary:
    """The library of ``--endmembers``; messages name its own options."""
    try:
        return open_library(options["endmembers"], **reading)
    except ValueError as error:
        text = re.sub(r"--(?=(key|unit|force-unit|scale|nodata)\b)", "--library-", str(error))
        raise ValueError(text) from error


def _counted(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """``--endmembers 4`` says how many, where no file has that name."""
    told = options["endmembers"]
    if told is None or not told.isdigit() or Path(told).exists():
        return options
    if options["count"] != "auto":
        raise ValueError(f"--endmembers {told} and --count {options['count']} both say how many: give one")
    return {**options, "endmembers": None, "count": int(told)}


def _require_blind(options: Mapping[str, Any]) -> None:
    """Refuse what goes with given endmembers only."""
    if options["endmembers"] is not None:
        raise ValueError(
            f"--method {options['method']} finds endmembers itself: give their number, --endmembers 4, or leave it out"
        )
    for name in ("shade", "baseline", "x64", "tile", "memory", "maps"):
        if options[name] not in (None, False, ("envi",)):
            raise ValueError(f"--{name} goes with fcls, nnls, scls and ucls, not with --method {options['method']}")


def _unmix_learned(
    options: Mapping[str, Any],
    reading: Mapping[str, Any],
    library_reading: Mapping[str, Any],
    command: str,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """By the networks of a checkpoint, which knows its endmembers."""
    path = Path(options["method"])
    if path.suffix != ".npz":
        raise ValueError(
            f"--method is one of {', '.join((*LINEAR, *BLIND))}, or a checkpoint (.npz); got {options['method']!r}"
        )
    for name in ("seeds", "gauge", "shade", "baseline", "x64"):
        if options[name] not in (None, False):
            raise ValueError(f"--{name} does not go with a checkpoint")
    if options["count"] != "auto":
        raise ValueError("--count is for endmembers that are extracted; a checkpoint brings its own")
    from unmix_jax.networks.checkpoint import load_checkpoint  # whose networks take a while to load

    checkpoint = load_checkpoint(path)
    check_run(options["out"], overwrite=options["overwrite"])
    stages = {"start": time.perf_counter()}
    scene, given = _opened(options, reading, library_reading)
    allowed = options["allow_scale_mismatch"]
    library = None if given is None else match(scene, given, allow_scale_mismatch=allowed)
    checkpoint.check(scene, library)
    notes = match(scene, checkpoint.library, allow_scale_mismatch=allowed).notes if library is None else library.notes
    own = replace(checkpoint.library, notes=notes)
    require_valid(scene, scene.good_bands)
    stages["open"] = time.perf_counter()

    def about(record: Mapping[str, Any]) -> dict[str, Any]:
        share = record["converged_share"]
        flagged = None if share is None else 1 - share  # nothing else is looked at
        return {"network": {"settings": dict(checkpoint.settings), "flagged_share": flagged}}

    return _stream(scene, checkpoint.unmixer, own, options, command, stages, say, more=about)


def _unmix_blind(
    scene: Scene,
    count: int,
    options: Mapping[str, Any],
    command: str,
    stages: dict[str, float],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Endmembers and abundances at once, over several seeds; all of the runs are kept."""
    folder = Path(options["out"])
    exports = _exports(scene, options, count)
    from unmix_jax.blind import unmix_blind  # whose optimisers take a while to load

    unit = "runs" if options["method"] in ("archetypal", "nmf") else "epochs"
    with progress_bar("unmixing", unit) as progress:
        found = unmix_blind(
            jax.random.key(options["seed"]), scene, count,
            method=options["method"], seeds=options["seeds"], gauge=options["gauge"] or "projective", progress=progress,
        )  # fmt: skip
    stages["unmix"] = time.perf_counter()
    names = tuple(f"endmember {i + 1}" for i in range(count))
    library = SpectralLibrary(found.endmembers, scene.axis, names, good_bands=scene.good_bands, quantity=scene.quantity)
    agreed, refined = found.consensus, found.refinement
    runs = {
        "seeds": len(found.runs),
        "chosen": agreed.chosen,
        "collapsed": int(agreed.collapsed.sum()),
        "consistency_rad": agreed.consistency if agreed.consistency == agreed.consistency else None,
        "threshold": refined.threshold if refined is not None and np.isfinite(refined.threshold) else None,
        "gauge": found.gauge,
    }
    results = write_results(
        folder,
        found.solution,
        scene,
        endmembers=library,
        config=options,
        timings=_timings(stages),
        seed=options["seed"],
        more={"runs": runs},
        ortho=options["ortho"],
        overwrite=options["overwrite"],
    )
    tried: dict[str, Any] = {} if refined is None else {"thresholds": refined.thresholds, "angles_rad": refined.angles}
    trained: dict[str, Any] = {} if found.losses is None else {"losses": found.losses, "stopped": found.stopped}
    told: dict[str, Any] = {"collapsed": agreed.collapsed, "distances_rad": agreed.distances, "chosen": agreed.chosen}
    np.savez(folder / "runs.npz", endmembers=found.runs, **told, **trained, **tried)
    write_run_report(folder / "report.html", results, scene, command=command, blind=found)
    write_exports(folder, results, scene, exports, weights=found.solution.fitted)
    _say_spectra(scene, options, say)
    return results.record


def _timings(stages: Mapping[str, float]) -> dict[str, float]:
    """Seconds of each stage, from the times at which they ended."""
    ends = list(stages.values())
    return {stage: end - begin for stage, begin, end in zip(list(stages)[1:], ends, ends[1:], strict=False)}


def counts_in_words(counts: Counts) -> str:
    """HySime, HFC and NWHFC in words."""
    told = zip(("HySime", "HFC", "NWHFC"), counts, strict=True)
    return ", ".join(f"{name} {'-' if count is None else count}" for name, count in told)


def extract(scene: Scene, method: str, count: int, seed: int) -> tuple[SpectralLibrary, list[list[str]]]:
    """Endmembers of a scene as a library, and a row of text for each: its name and where it was found."""
    found = getattr(extraction, method)(jax.random.key(seed), scene, count)
    names = tuple(f"endmember {i + 1}" for i in range(count))
    places = np.unravel_index(np.asarray(found.indices), scene.shape)
    rows = [[name, *(str(int(axis[i])) for axis in places)] for i, name in enumerate(names)]
    library = SpectralLibrary(found.endmembers, scene.axis, names, good_bands=scene.good_bands, quantity=scene.quantity)
    return library, rows


def _baseline(library: SpectralLibrary, degree: int | None) -> Any:
    """Polynomial columns over the bands, or None."""
    if degree is None:
        return None
    axis = library.axis
    return least_squares.polynomial_baseline(
        np.arange(library.spectra.shape[1]) if axis is None else axis.centers, degree
    )
