"""The command ``unmix-jax``: look into files, find endmembers, unmix scenes, score results.

Nothing heavy is imported before a command runs, so that ``unmix-jax --help`` answers at once.
"""

import contextlib
import json
import os
import shlex
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from inspect import cleandoc
from pathlib import Path
from typing import Any, Literal

import tyro

from unmix_jax import arguments as args
from unmix_jax.help import EXAMPLES, HELP
from unmix_jax.terminal import keep_compilations, plain_warnings, progress_bar, table, visible

__all__ = ["main"]

SCENE, LIBRARY = args.SceneReading(), args.LibraryReading()


def demo(*, out: Path = Path("unmix-demo"), quick: bool = False, overwrite: bool = False) -> None:
    """Unmix real data that come with the package, and write a report to open in a browser.

    First an AVIRIS image of farmland: how many endmembers, which, and how much of each in every pixel. Then
    two mineral powders of known composition, which linear unmixing gets wrong.

    Args:
        out: folder for the report and the maps
        quick: every third pixel only
        overwrite: replace an earlier run in the folder
    """
    from unmix_jax import demo as module

    with progress_bar("unmixing") as progress:
        result = module.run_demo(out, quick=quick, overwrite=overwrite, progress=progress)
    for title, columns, rows in result.tables:
        print(f"{title}\n\n{table(rows, columns)}\n")
    print(f"Open in a browser: {result.report}")


def info(scene: args.SceneName, /, *, reading: args.ReadsScene = SCENE) -> None:
    """Say what is in a scene or a spectral library: size, bands, units, masks, names, values, metadata.

    Args:
        scene: a scene or a library: a file, or the name of a dataset
        reading: how the file is read
    """
    from unmix_jax.scenes.describe import describe
    from unmix_jax.scenes.opening import open_any

    print(table(describe(open_any(scene, **reading.options()))))


def endmembers(
    scene: args.SceneName,
    /,
    *,
    method: args.Extract = "vca",
    count: args.Count = "auto",
    out: Path = Path("endmembers.sli"),
    export: args.Exports = (),
    overwrite: bool = False,
    seed: int = 0,
    reading: args.ReadsScene = SCENE,
) -> None:
    """Find the pure spectra of a scene, and how many there are by three estimators.

    Args:
        scene: a file, or the name of a dataset
        method: vertex component analysis, or the simplex of largest volume
        count: number of endmembers; auto takes the smallest of the three estimates
        out: file to write: .sli, .csv, .npz or .mat
        export: further files beside it: the spectra for MATLAB, as a table, as a figure
        overwrite: replace the file if it is there
        seed: of the random numbers
        reading: how the file is read
    """
    from unmix_jax.endmembers.subspace import count_endmembers
    from unmix_jax.export import check_exports, write_library_exports
    from unmix_jax.scenes.library_files import library_outputs, write_library
    from unmix_jax.scenes.opening import open_scene, refuse_inputs
    from unmix_jax.unmixing import counts_in_words, extract

    exports = check_exports(export)
    written = [*library_outputs(out), *(out.with_suffix(f".{kind}") for kind in exports)]
    if len(set(written)) < len(written):
        raise ValueError(f"--export writes {out.name}, which --out writes: leave {out.suffix[1:]} out of --export")
    refuse_inputs(written, scene)
    _refuse_existing(written, overwrite)
    opened = open_scene(scene, **reading.options())
    counts = count_endmembers(opened)
    print(f"How many endmembers: {counts_in_words(counts)}\n")
    library, rows = extract(opened, method, counts.smallest if count == "auto" else count, seed)
    first = [(reading.options()[axis] or (0,))[0] for axis in ("rows", "columns")]  # of the part that was opened
    rows = [[name, *(str(int(at) + start) for at, start in zip(place, first, strict=False))] for name, *place in rows]
    print(table(rows, ("endmember", "row", "column") if len(opened.shape) == 2 else ("endmember", "pixel")))
    files = [write_library(out, library), *write_library_exports(out.with_suffix(""), library, exports)]
    print(f"\nWritten: {', '.join(map(str, files))}")


def fit(
    library: args.LibraryName,
    /,
    *,
    out: Path = Path("dispersion-fit"),
    overwrite: bool = False,
    quantity: Literal["emissivity", "reflectance"] = "emissivity",
    window: args.Window = None,
    names: args.Names = (),
    axes: args.Numbers = (1, 2),
    count: args.Most = None,
    starts: int = 2,
    seed: int = 0,
    x64: bool = False,
    reading: args.ReadsLibrary = LIBRARY,
) -> None:
    """Fit the dispersion model to mineral spectra: oscillators along one or more crystal axes.

    The folder holds parameters.json, a figure of each mineral and one of all, the modelled spectra as a library
    to unmix with (modelled.sli), all arrays with standard deviations (fit.npz), and record.json.

    Args:
        library: a spectral library, or a scene with endmembers: a file, or the name of a dataset
        out: folder for the results, absent or empty
        overwrite: replace an earlier run in the folder
        quantity: what the library holds; emissivity is one minus reflectance
        window: wavenumbers to fit, cm⁻¹; all by default
        names: minerals to fit; all by default
        axes: numbers of crystal axes to try; the best by an information criterion is kept
        count: most oscillators per axis; by default 15, or fewer where there are few bands
        starts: independent searches per mineral and number of axes
        seed: of the random numbers
        x64: compute in double precision
        reading: how the file is read
    """
    options = _plain(locals())
    _prepare_process()
    import jax

    from unmix_jax.fitting import fit_library, summary
    from unmix_jax.scenes.opening import open_library, refuse_inputs

    refuse_inputs([out], library)
    with jax.enable_x64(True) if x64 else contextlib.nullcontext(), progress_bar("fitting", "spectra") as progress:
        opened = open_library(library, **reading.options())
        fitted = fit_library(
            out, opened, names=names,
            quantity=quantity, window=window, axes=axes, count=count, starts=starts, seed=seed,
            config=options, command=_command(), overwrite=overwrite, progress=progress,
        )  # fmt: skip
    columns, rows, facts = summary(fitted.record)
    print(f"{table(rows, columns)}\n\n{table(facts)}\n\nResults: {out}")


def train(
    library: args.LibraryName,
    /,
    *,
    out: Path = Path("network.npz"),
    sensor: args.Name = None,
    names: args.Names = (),
    recipe: args.Recipe = "ppnm",
    doubt: float = 0.05,
    snr: float = 40.0,
    networks: int = 3,
    steps: int = 3000,
    encoder: args.Encoder = "dense",
    overwrite: bool = False,
    seed: int = 0,
    reading: args.ReadsLibrary = LIBRARY,
) -> None:
    """Train networks that unmix, on mixtures of pure spectra alone: one checkpoint for a sensor.

    A training that is stopped goes on where it was when the command is given again.

    Args:
        library: pure spectra, one of each material: a file, or the name of a dataset
        out: checkpoint to write, .npz, for `unmix-jax unmix SCENE --method CHECKPOINT`
        sensor: scene or library on whose bands it will be used; by default the bands of the library
        names: materials to take; all by default
        recipe: how training mixtures are made: powders for grains that touch, mixed for light that scatters between
            surfaces, or one model
        doubt: spread of a smooth factor on the training spectra: 0.05 is 5 %
        snr: signal to noise of the sensor, dB
        networks: how many; their mean is taken, and their spread tells of doubt
        steps: of the training
        encoder: dense layers, or the convolutional baselines
        overwrite: replace the file if it is there
        seed: of the random numbers
        reading: how the file is read
    """
    _prepare_process()
    from unmix_jax.learning import facts, learn_library
    from unmix_jax.scenes.opening import open_any, open_library, refuse_inputs

    refuse_inputs([out], library, sensor)
    opened = open_library(library, **reading.options())
    with progress_bar("training", "steps") as progress:
        checkpoint = learn_library(
            out, opened, sensor=None if sensor is None else open_any(sensor),
            names=names, recipe=recipe, doubt=doubt, snr=snr, networks=networks, steps=steps, encoder=encoder,
            seed=seed, overwrite=overwrite, progress=progress,
        )  # fmt: skip
    print(f"{table(facts(checkpoint))}\n\nWritten: {out}")


def unmix(
    scene: args.SceneName,
    /,
    *,
    endmembers: args.Library = None,
    extract: args.Extract = "vca",
    count: args.Count = "auto",
    method: args.Method = "fcls",
    seeds: int | None = None,
    gauge: Literal["projective", "fcls", "own"] | None = None,
    out: Path = Path("unmix-results"),
    overwrite: bool = False,
    shade: args.Name = None,
    baseline: args.Degree = None,
    seed: int = 0,
    x64: bool = False,
    maps: args.Maps = ("envi",),
    tile: args.Pixels = None,
    memory: args.Size = None,
    distributed: bool = False,
    coordinator: args.Address = None,
    processes: args.Processes = None,
    process: args.Processes = None,
    ortho: bool = False,
    export: args.Exports = (),
    library_key: args.Keys = (),
    library_unit: args.Unit = None,
    library_force_unit: bool = False,
    library_scale: args.Scale = None,
    library_nodata: args.NoData = None,
    allow_scale_mismatch: bool = False,
    reading: args.ReadsScene = SCENE,
) -> None:
    """Unmix a scene: abundance maps, residual, certificate, endmembers and a report in one folder.

    Scenes may be larger than memory. A run that was stopped goes on where it was when the command is given again.

    Args:
        scene: a file, or the name of a dataset
        endmembers: library file or dataset, resampled to the scene's bands; if absent, or a number, they are found
        extract: how to extract: vertex component analysis, or the simplex of largest volume
        count: number of endmembers to extract; auto takes the smallest of HySime, HFC and NWHFC
        method: abundances >= 0 that sum to one (fcls), >= 0 (nnls), that sum to one (scls), free (ucls); or blind,
            endmembers and abundances together: recommended, archetypal, nmf, or an autoencoder: simple, simple_cosine,
            daeu, daeu_sad, sidaeu, endnet, endnet_noisy, ospaeu, nae, mtaeu, cnnaeu, mdae, udas, snsa, daen; or a
            checkpoint that `unmix-jax train` wrote (.npz)
        seeds: of blind methods: independent runs, of which the one nearest to all others is taken; 25 (archetypal,
            nmf and cnnaeu: 5) by default
        gauge: of blind methods: endmembers divided by their greatest value and abundances by their sum (projective, the
            default), summing to one with endmembers as bright as found (fcls), as the method returns them (own)
        out: folder for the results: absent, empty, or with an unfinished run of the same command
        overwrite: replace an earlier run in the folder
        shade: the endmember that is shade; a map without it, rescaled to the rest, is added
        baseline: degree of a polynomial over the bands, fitted freely beside the endmembers
        seed: of the random numbers of the extraction
        x64: compute in double precision
        maps: images to write beside the Zarr group
        tile: pixels that are computed at once; by default what fits
        memory: that the run may take; by default four fifths of what is free
        distributed: be one of several processes on this scene, as SLURM, Open MPI or a pod has started them
        coordinator: address of the first process, where no such launcher says it
        processes: how many there are
        process: number of this one, from 0
        ortho: put the maps of a swath on the grid of its geometry lookup table (GLT)
        export: further files: arrays for MATLAB, a table with a row for each pixel, figures
        library_key: where the library's file keeps something, such as spectra=Y; may be repeated
        library_unit: of the library's wavelengths, where its file does not say it
        library_force_unit: let --library-unit stand above a unit that the library's file states
        library_scale: multiply the library's numbers by this
        library_nodata: stored number that marks missing data in the library
        allow_scale_mismatch: go on where scene and library can hardly be in one scale
        reading: how the scene's file is read
    """
    options = _plain(locals())
    of_library = {
        "keys": args.keys_of(library_key, "--library-key"), "unit": library_unit, "force_unit": library_force_unit,
        "scale": library_scale, "nodata": library_nodata,
    }  # fmt: skip
    _prepare_process()
    import jax

    from unmix_jax.report import run_tiles
    from unmix_jax.scenes.opening import refuse_inputs
    from unmix_jax.sharding import is_first, start_processes
    from unmix_jax.unmixing import unmix_scene

    refuse_inputs([out], scene, endmembers, method)
    if coordinator is None and not processes == process is None:
        raise ValueError("--processes and --process go with --coordinator")
    if distributed or coordinator is not None:
        start_processes(coordinator, processes, process)
    with jax.enable_x64(True) if x64 else contextlib.nullcontext():
        say = print if is_first() else lambda _: None
        record = unmix_scene(
            options, reading=reading.options(), library_reading=of_library, command=_command(), say=say
        )
    if not is_first():
        return
    shares = record["mean_abundances"] or [None] * len(record["endmembers"])
    rows = [
        [name, "-" if share is None else f"{share:.4f}"]
        for name, share in zip(record["endmembers"], shares, strict=True)
    ]
    print(f"{table(rows, ('endmember', 'mean abundance'))}\n")
    facts = [("bands fitted", f"{record['bands']['used']} of {record['bands']['total']}"), *run_tiles(record)]
    print(table(facts))
    for note in record["notes"]:
        print(f"\nPlease check: {visible(note)}")
    print(f"\nResults: {out}\nOpen in a browser: {out / 'report.html'}")


def score(
    results: args.Folder,
    scene: args.SceneName,
    /,
    *,
    out: Path | None = None,
    overwrite: bool = False,
    reading: args.ReadsScene = SCENE,
) -> None:
    """Compare results with the reference endmembers and abundances of a scene.

    Args:
        results: folder that `unmix-jax unmix` wrote
        scene: a file or dataset with reference abundances or endmembers
        out: JSON file for the numbers; scores.json in the results folder unless given
        overwrite: replace the file if it is there
        reading: how the scene's file is read
    """
    from unmix_jax.metrics import score as score_solution
    from unmix_jax.results import read_results
    from unmix_jax.scenes.opening import open_scene, refuse_inputs

    if out is not None:
        refuse_inputs([out], scene)
        _refuse_existing([out], overwrite)
    run, reference = read_results(results), open_scene(scene, **reading.options())
    if reference.abundances is None and reference.endmembers is None:
        raise ValueError(f"{scene} has neither reference abundances nor reference endmembers")
    scores = score_solution(run.solution, reference, endmembers=run.endmembers)
    print(table([[_measure(name, reference.quantity), f"{value:.4g}"] for name, value in scores.items()]))
    path = results / "scores.json" if out is None else out
    content = {name: value if value == value else None for name, value in scores.items()}  # no NaN in JSON
    path.write_text(json.dumps({"reference": scene, **content}, indent=2) + "\n", encoding="utf-8")
    print(f"\nWritten: {path}")


COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo, "info": info, "endmembers": endmembers, "fit": fit, "train": train, "unmix": unmix, "score": score,
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: what follows ``unmix-jax`` on the command line; by default what the user typed.

    Returns:
        Exit status: 0 done, 1 an error of input or data, 2 wrong usage, 130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP)
        return 0 if words else 2
    if "--version" in words:
        from unmix_jax import __version__

        print(f"unmix-jax {__version__}")
        return 0
    name = words[0]
    if name not in COMMANDS:
        print(f"unmix-jax: error: no command {name!r}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        with plain_warnings():
            summary = cleandoc(COMMANDS[name].__doc__ or "").partition("Args:")[0]
            description = f"{summary}Examples:\n  {EXAMPLES[name]}"
            tyro.cli(
                COMMANDS[name],
                prog=f"unmix-jax {name}",
                description=description,
                args=args.joined(words[1:]),
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as stop:  # tyro: help was asked for, or usage was wrong
        return int(stop.code or 0)
    except KeyboardInterrupt:
        print("unmix-jax: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output has left, as in `unmix-jax info x | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if debug:
            raise
        kind = "" if isinstance(error, (ValueError, OSError, ImportError)) else f"{type(error).__name__}: "
        print(f"unmix-jax: error: {kind}{visible(str(error))}", file=sys.stderr)
        return 1
    return 0


def _prepare_process() -> None:
    """Keep compilations, and load matplotlib while XLA compiles."""
    keep_compilations()
    threading.Thread(target=import_module, args=("matplotlib.figure",), daemon=True).start()


def _command() -> str:
    """What the user typed."""
    return shlex.join(["unmix-jax", *sys.argv[1:]])


def _refuse_existing(files: Iterable[Path], overwrite: bool) -> None:
    """Refuse to replace files unless told to."""
    there = [str(file) for file in files if file.exists()]
    if there and not overwrite:
        raise ValueError(f"{', '.join(there)} would be replaced: choose another file, or --overwrite")


def _measure(name: str, unit: str) -> str:
    """The name of a score with its unit."""
    units = {"sad_": "rad", "mean_sad": "rad", "sre": "dB", "reconstruction": unit}
    unit = next((f" ({unit})" for start, unit in units.items() if name.startswith(start)), "")
    return name.replace("_", " ") + unit


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a command for its record: those of reading beside all others."""
    return {**{k: v for k, v in options.items() if k != "reading"}, **asdict(options["reading"])}
