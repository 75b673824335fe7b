"""What the page of one unmixing run says."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import numpy as np

from unmix_jax import plots
from unmix_jax.export import abundance_table
from unmix_jax.metrics import align
from unmix_jax.page import Picture, Section, Table, as_text, one_line, per_cent, write_page
from unmix_jax.plots.unmixing import SHEET
from unmix_jax.results import Results, masked_pixels
from unmix_jax.scenes.library_files import library_names
from unmix_jax.scenes.scene import Scene
from unmix_jax.types import Solution

__all__ = ["checks", "run_sections", "run_tiles", "write_run_report"]

LONGEST = 60  # letters of a quantity
COLUMNS = 12  # endmembers of a table of the report that have a column of their own
UNKNOWN_SHOWN = 60  # entries of the metadata that nobody understood; some files have thousands
NO_BOUND = "no bound on abundances"
CERTIFIED_CAVEAT = (
    "Certified is said of the optimisation only: that the optimum was reached, and how far abundances can be from it, "
    "for these endmembers and this model. It says nothing about units and scale of these values that were read, about "
    "the endmembers, or about the model of mixing."
)

LINEAR_CAVEAT = (
    "An abundance is a weight in a linear mixture. It is the share of the area where the materials lie side "
    "by side, are lit alike, and the endmembers have the true brightness of the pure materials; it is never "
    "a share of mass. Where light meets several materials before it returns (powders, foliage, coatings) the "
    "weights are biased, however small the residual."
)
CERTIFICATE_CAVEAT = (
    "The optimality gap bounds how much closer to the measured spectrum any other allowed abundances could "
    "come: in squared misfit, as a fraction of the squared spectrum. Where it is within its tolerance, the optimum was "
    "reached. It certifies the optimisation, not the units, the endmembers or the model: what is wrong with these "
    "shows in the residual, and only partly there."
)
BOUND_CAVEAT = (
    "The bound on abundances says how far each of them can be from the exact optimum for the values that were read, "
    "rounding errors included: abundances are within so much of it. The gap does not say that. Where endmembers are "
    "alike, very different abundances fit almost equally well."
)
NO_BOUND_CAVEAT = (
    "This method has no bound on abundances: where endmembers are alike, abundances may be far from the optimum "
    "although the gap is small."
)
WITHOUT_CAVEAT = (
    "Some pixels have no bound on abundances: endmembers repeat each other, depend on each other exactly or nearly, or "
    "outnumber the bands. The optimum may be reached there, and the fit is right; how much there is of each is open."
)
NETWORK_CAVEAT = (
    "These abundances are what networks say that have seen synthetic mixtures of the pure spectra only. They are as "
    "good as the mixing models of the training are near the truth, and lean towards equal shares where a spectrum "
    "leaves them in doubt. A spectrum unlike all of the training is flagged: its novelty in results.zarr is above 1. "
    "The residual is what of a spectrum no training mixture explains; there is no certificate."
)
EXTRACTED_CAVEAT = (
    "These endmembers were taken from pixels of the scene itself. They are as pure as its purest pixels, "
    "their names are numbers rather than materials, and another seed or another count can choose others."
)
BLIND_CAVEAT = (
    "Endmembers and abundances were found together, from the pixels alone. Their names are numbers rather than "
    "materials. The runs differ in what they draw at random (start, sample, order): where they agree, the result does "
    "not hang on it; whether it is right, they do not say."
)
GAUGE_CAVEATS = {
    "projective": "The brightness of an endmember cannot be told from the scene. For the abundances each was divided "
    "by its greatest value, and they by their sum: a shadow changes nothing, and a dark material counts as much as a "
    "bright one. So abundances times endmembers are not the fit; fitted in results.zarr holds the weights that are.",
    "fcls": "Abundances sum to one with endmembers as bright as drawn: in a shadow there is more of what is dark.",
    "own": "The brightness of an endmember cannot be told from the scene: abundances as returned fix it by chance, and "
    "the residual of a method that minimises angles says nothing.",
}
RADIANCE_CAVEAT = (
    "The values are radiance: illumination, slope and atmosphere are in every spectrum, so that a dark "
    "endmember also takes up shade, and its abundance is not the share of a material."
)


def write_run_report(
    path: str | Path,
    results: Results,
    scene: Scene,
    *,
    command: str = "",
    scores: Mapping[str, float] | None = None,
    extracted: bool = False,
    baseline: Any = None,
    blind: Any = None,
    every: int = 1,
) -> Path:
    """Write the page of one unmixing run.

    Args:
        path: file to write.
        results: the run, or every n-th row and column of it (`read_results` with ``every``).
        scene: what was unmixed, or the same rows and columns of it (`thinned`).
        command: the command that was run.
        scores: what `unmix_jax.metrics.score` returned, where there is a reference.
        extracted: whether the endmembers were taken from the scene itself.
        baseline: as in `unmix_jax.plots.fits`.
        blind: the `unmix_jax.blind.Blind` that the results are from, if they are.
        every: which rows and columns, or spectra of a list, results and scene are of; 1: all. The page says so, and
            names the rows and columns of the whole scene.

    Returns:
        The file that was written.
    """
    record = results.record
    shape = " × ".join(str(n) for n in record["scene"]["shape"])
    method = "networks" if "network" in record else str(record["config"].get("method", "")).upper()
    axes = "rows × columns × bands" if len(scene.shape) == 2 else "spectra × bands"
    lead = f"{record['scene']['name']}: {shape} ({axes}), unmixed into {len(results.endmembers)} endmembers" + (
        f" by {method}." if method else "."
    )
    sections = run_sections(
        results, scene, scores=scores, extracted=extracted, baseline=baseline, blind=blind, every=every
    )
    if found := checks(record, scene):
        told = "These may make the numbers below wrong. They were also said in the terminal, and are in record.json."
        sections.insert(0, Section("Please check", [told], points=found, warns=True))
    title = f"Unmixing of {record['scene']['name']}"
    remark = CERTIFIED_CAVEAT if _is_certified(record) else ""
    return write_page(path, sections, title=title, lead=lead, command=command, tiles=run_tiles(record), remark=remark)


def checks(record: Mapping[str, Any], scene: Scene) -> list[str]:
    """What may make the numbers of a run wrong, one sentence each: the notes of its record and of the scene.

    Args:
        record: of the run, as in `Results.record`.
        scene: what was unmixed.
    """
    place = (record.get("place") or {}).get("note")
    notes = (str(note) for note in (*(record.get("notes") or ()), *scene.notes, *([place] if place else [])))
    whole = (f"{note[:1].upper()}{note[1:]}" for note in dict.fromkeys(notes) if note)
    return [note if note[-1] in ".!?" else f"{note}." for note in whole]


def run_tiles(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The figures of a run that a reader looks for first.

    Args:
        record: of the run, as in `Results.record`.

    Returns:
        (label, value) pairs of text.
    """
    tiles = [
        (f"{_pixels(record)} unmixed", f"{record['pixels']['valid']:,}"),
        *((label, as_text(value)) for label, value in _certificate(record)),
        ("worst optimality gap (no unit)", as_text(record["gap"]["worst"])),
        (f"RMS residual ({one_line(record['scene']['quantity'], LONGEST)})", as_text(record["residual_rms"])),
    ]
    if runs := record.get("runs"):
        tiles += [("runs, of which collapsed", f"{runs['seeds']}, {runs['collapsed']}"),
                  ("mean angle between two runs (rad)", as_text(runs["consistency_rad"]))]  # fmt: skip
    if "unmix" in record["timings_s"]:
        tiles.append(("to unmix, compilation included", f"{record['timings_s']['unmix']:.2f} s"))
    return tiles


def _certificate(record: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What is known of the optimisation: where the optimum was reached, and how far abundances can be from it.

    Records of earlier versions have neither count; they get the share of pixels that converged.
    """
    pixels, gap, bound = _pixels(record), record["gap"], record.get("abundance_bound")
    network = "network" in record
    found: list[tuple[str, Any]]
    if not network and gap.get("reached") is not None:
        found = [(f"{pixels}, optimum reached", _counted(gap["reached"], gap["reached_share"]))]
    else:
        found = [(f"{pixels} {'like the training' if network else 'converged'}", per_cent(record["converged_share"]))]
    if bound is None:
        return [*found, ("abundances and the optimum", NO_BOUND)]
    found += [
        (f"{pixels}, abundances within {bound['limit']:g} of it", _counted(bound["within"], bound["within_share"])),
        ("largest bound on abundances", bound["largest"]),
    ]
    return [*found, (f"{pixels} without a bound on abundances", bound["without"])] if bound["without"] else found


def _counted(count: int, share: float | None) -> str:
    """A number of pixels and their share."""
    return f"{count:,}" if share is None else f"{count:,} ({per_cent(share)})"


def _pixels(record: Mapping[str, Any]) -> str:
    """What the scene is made of."""
    return "pixels" if len(record["scene"]["shape"]) == 3 else "spectra"


def _is_certified(record: Mapping[str, Any]) -> bool:
    """Whether the pixels of a run have a certificate at all."""
    return "network" not in record and record["gap"]["worst"] is not None


def run_sections(
    results: Results,
    scene: Scene,
    *,
    scores: Mapping[str, float] | None = None,
    extracted: bool = False,
    baseline: Any = None,
    blind: Any = None,
    every: int = 1,
) -> list[Section]:
    """The cards of one run: abundances, endmembers, fit and certificate, scores, how to read it, the record.

    Args:
        results: the run.
        scene: what was unmixed.
        scores: what `unmix_jax.metrics.score` returned, where there is a reference.
        extracted: whether the endmembers were taken from the scene itself.
        baseline: as in `unmix_jax.plots.fits`.
        blind: the `unmix_jax.blind.Blind` that the results are from, if they are.
        every: as in `write_run_report`.

    Returns:
        The sections, in order.
    """
    library, image = results.endmembers, len(scene.shape) == 2
    scored = [_scores(scores)] if scores else []
    drawn = plots.endmember_curves(library, unit=scene.quantity)
    curves = Picture(drawn, "Lines break at bands that are bad or missing.")
    seen = "The scene; masked pixels are blank." if image else "The spectra: their median, and where 90 % of them lie."
    abundances = Section(
        "Abundances",
        text=_thinned_note(scene, every),
        pictures=[Picture(plots.false_colour(scene), seen), *_abundance_pictures(results, scene, every)],
        tables=[_means_table(results, every), *([] if image else [_list_table(results, scene, every)])],
    )
    return [
        abundances,
        Section("Endmembers", text=[EXTRACTED_CAVEAT] if extracted else (), pictures=[curves]),
        *([] if blind is None else [_runs_section(scene, library, blind)]),
        _fit_section(results, scene, baseline, None if blind is None else blind.solution.fitted, every),
        *scored,
        Section("How to read this", text=_caveats(scene, results.record)),
        Section("Record", tables=[_record_table(results.record, scene)]),
    ]


def _runs_section(scene: Scene, library: Any, blind: Any) -> Section:
    """What the seeds found, beside the reference where the scene has one, and how the threshold was chosen."""
    agreed, refined = blind.consensus, blind.refinement
    reference = None
    if scene.endmembers is not None and scene.endmembers.spectra.shape == library.spectra.shape:
        truth = np.asarray(scene.endmembers.spectra)
        reference = truth[align(truth, np.asarray(library.spectra))]
    drawn = plots.endmember_runs(blind.runs, library, collapsed=agreed.collapsed, reference=reference)
    pictures = [Picture(drawn, "All endmembers of all runs, and those that were taken.")]
    rows: list[list[Any]] = [
        ["method", blind.method],
        ["runs", len(blind.runs)],
        ["collapsed, left out", int(agreed.collapsed.sum())],
        [
            "of these stopped where the loss was not finite",
            0 if blind.stopped is None else int(np.sum(blind.stopped >= 0)),
        ],
        ["mean angle between two runs (rad)", agreed.consistency if np.isfinite(agreed.consistency) else None],
    ]
    if refined is not None:
        chart = plots.threshold_curve(refined.thresholds, refined.angles, refined.threshold)
        pictures.append(
            Picture(chart, "Refined by each threshold: the lowest within one per cent of the best is taken.")
        )
        rows.append(["share from which a pixel counted as pure", refined.threshold])
    return Section("Runs", [BLIND_CAVEAT, GAUGE_CAVEATS[blind.gauge]], pictures, [Table(("", "value"), rows)])


def _thinned_note(scene: Scene, every: int) -> list[str]:
    """That the page shows some of the scene only, if so."""
    if every == 1:
        return []
    nth = f"every {every}{'nd' if every == 2 else 'rd' if every == 3 else 'th'}"
    if len(scene.shape) == 1:
        return [
            f"The list is long: this page is drawn from {nth} spectrum. Their numbers are those of the whole list, "
            "counted from 0. Means, counts and the RMS residual are of all spectra."
        ]
    return [
        f"The scene is large: this page is drawn from {nth} row and {nth} column. Rows and columns that it names are "
        "those of the whole scene, counted from 0. Means, counts and the RMS residual are of all pixels."
    ]


def _abundance_pictures(results: Results, scene: Scene, every: int) -> list[Picture]:
    """Maps of an image, some in each picture, or one picture of a list of spectra."""
    values, names = results.solution.abundances, library_names(results.endmembers)
    if len(scene.shape) == 1:
        drawn = plots.abundance_maps(values, names, pixel_names=scene.pixel_names, every=every)
        said = "Abundances of each spectrum, side by side from 0 on; nothing is drawn where a spectrum is masked."
        return [Picture(drawn, said)]
    count, pictures = len(names), []
    for first in range(0, count, SHEET):
        last = min(first + SHEET, count)
        of = f"Endmembers {first + 1} to {last} of {count}. " if count > SHEET else ""
        said = "All maps share one scale; masked pixels are blank." if count > 1 else "Masked pixels are blank."
        pictures.append(Picture(plots.abundance_maps(values, names, members=range(first, last)), of + said))
    return pictures


def _list_table(results: Results, scene: Scene, every: int) -> Table:
    """The abundances of the first spectra of a list."""
    columns, rows = abundance_table(results, scene, most=COLUMNS, every=every)
    total = int(np.prod(results.record["scene"]["shape"][:-1]))
    if total == len(rows):
        said = "All spectra."
    else:
        of = f"of {total:,} spectra" if every == 1 else f"that are drawn here, of {total:,} spectra"
        said = f"The first {len(rows)} {of}; abundances.csv (--export csv) has all of them."
    return Table(columns, rows, f"Abundances as fractions. {said}")


def _fit_section(results: Results, scene: Scene, baseline: Any, weights: Any, every: int) -> Section:
    """Residual, certificate, and three fits; by ``weights`` of the endmembers where these are not the abundances."""
    solution, record = results.solution, results.record
    if weights is not None:
        solution = eqx.tree_at(lambda s: s.abundances, solution, weights)
    pictures = []
    image = len(scene.shape) == 2
    if np.isfinite(np.asarray(solution.residual)).any():
        one, all_, blank = ("pixel", "pixels", " Masked pixels are blank.") if image else ("spectrum", "spectra", "")
        pictures = [
            Picture(
                plots.residual_map(solution.residual, unit=scene.quantity, every=every),
                f"What the mixture does not explain of each {one}.{blank}",
            ),
            *_certificate_pictures(solution, record, one, blank, every),
            Picture(
                plots.fits(scene, solution, results.endmembers, baseline=baseline, every=every),
                f"Three {all_}, chosen by the rank of their residual"
                + ("; rows and columns are counted from 0." if image else "."),
            ),
        ]
    rows: list[list[Any]] = [
        [f"{_pixels(record)} unmixed", record["pixels"]["valid"]],
        [f"{_pixels(record)} masked (no data, all zero, or marked)", record["pixels"]["masked"]],
        *([label, value] for label, value in _certificate(record)),
        *_certificate_rows(record),
        [f"RMS residual of all {_pixels(record)} ({scene.quantity})", record["residual_rms"]],
        [f"bands fitted, of {record['bands']['total']}", record["bands"]["used"]],
    ]
    if record["not_unique"] is not None:
        rows.append([f"{_pixels(record)} whose abundances are not unique", record["not_unique"]])
    return Section("Fit and certificate", pictures=pictures, tables=[Table(("", "value"), rows)])


def _certificate_rows(record: Mapping[str, Any]) -> list[list[Any]]:
    """What the table of the fit says of gaps and bounds beside what the tiles say."""
    gap, bound = record["gap"], record.get("abundance_bound")
    rows: list[list[Any]] = [["worst gap (no unit)", gap["worst"]], ["median gap (no unit)", gap["median"]]]
    if gap.get("tolerance") is not None:
        rows.append(["largest gap at which the optimum counts as reached", gap["tolerance"]])
    if bound is not None:
        rows.append(["median bound on abundances", bound["median"]])
    if gap.get("reached") is not None and "network" not in record:
        rows.append(
            [f"{_pixels(record)} converged (all that the method promises)", per_cent(record["converged_share"])]
        )
    return rows


def _certificate_pictures(
    solution: Solution, record: Mapping[str, Any], one: str, blank: str, every: int
) -> list[Picture]:
    """The map of the gap and that of the bound on abundances, where the solver has them."""
    pictures = []
    if record["gap"]["worst"] is not None:
        said = "How much better than its fit the best fit of each"
        pictures.append(Picture(plots.gap_map(solution.gap, every=every), f"{said} {one} can be.{blank}"))
    bound = solution.abundance_bound
    if bound is not None and not np.isnan(np.asarray(bound)).all():
        said = f"How far the abundances of each {one} can be from the optimum.{blank}"
        if np.isposinf(np.asarray(bound)).any():
            said += " Red: no bound, where endmembers depend on each other, exactly or nearly."
        pictures.append(Picture(plots.abundance_bound_map(bound, every=every), said))
    return pictures


def _means_table(results: Results, every: int) -> Table:
    """Mean, spread and extent of every endmember over the unmixed pixels; the mean is of all where they are thinned."""
    values = np.asarray(results.solution.abundances, dtype=np.float64)[~masked_pixels(results.solution)]
    names = library_names(results.endmembers)
    means = results.record["mean_abundances"] or [None] * len(names)
    if every == 1 and len(values):
        means = list(values.mean(axis=0))
    rows = [
        [i + 1, name.strip() or "(no name)", None if mean is None else f"{mean:.3f}"]
        + ([f"{a.std():.3f}", f"{a.max():.3f}", per_cent((a > 0.5).mean())] if a.size else [None] * 3)
        for i, (name, mean, a) in enumerate(zip(names, means, values.T, strict=True))
    ]
    said = "Abundances as fractions."
    if every > 1:
        said += " The mean is of all pixels, the rest of those that are drawn."
    return Table(
        ("number", "endmember", "mean", "spread (1σ)", "largest", f"{_pixels(results.record)} above ½"), rows, said
    )


def _scores(scores: Mapping[str, float]) -> Section:
    """Scores against a reference: totals, and one row per endmember."""
    columns = {"sad_": "spectral angle (rad)", "rmse_": "abundance RMSE"}
    groups: dict[str, dict[str, float]] = {prefix: {} for prefix in columns}
    totals = []
    for key, value in scores.items():
        prefix = next((p for p in columns if key.startswith(p) and key != "rmse_per_endmember"), None)
        if prefix is None:
            totals.append([key.replace("_", " "), value])
        else:
            groups[prefix][key.removeprefix(prefix)] = value
    tables = [Table(("measure", "value"), totals)]
    if members := list(dict.fromkeys(name for group in groups.values() for name in group)):
        rows = [[name, *(group.get(name) for group in groups.values())] for name in members]
        tables.append(Table(("reference endmember", *columns.values()), rows))
    return Section("Scores against the reference", tables=tables)


def _caveats(scene: Scene, record: Mapping[str, Any]) -> list[str]:
    """What the numbers mean and what they do not."""
    text = [
        NETWORK_CAVEAT if "network" in record else LINEAR_CAVEAT,
        *([] if record["gap"]["worst"] is None else [CERTIFICATE_CAVEAT]),
    ]
    bound = record.get("abundance_bound")
    if bound is not None:
        text += [BOUND_CAVEAT, *([WITHOUT_CAVEAT] if bound["without"] else [])]
    elif _is_certified(record):
        text.append(NO_BOUND_CAVEAT)
    if scene.quantity == "radiance":
        text.append(RADIANCE_CAVEAT)
    if record["not_unique"]:
        text.append(
            "Some pixels have more than one best answer, because endmembers repeat each other or outnumber "
            "the bands. One of the best is shown; the fit is the same for all."
        )
    return text


def _record_table(record: Mapping[str, Any], scene: Scene) -> Table:
    """What the values are, what of the metadata nobody understood, configuration, environment and timings."""
    rows: list[list[Any]] = [["quantity of the values", scene.quantity]]
    if unknown := tuple(dict.fromkeys((*(record.get("metadata_not_understood") or ()), *scene.account.unknown))):
        more = f" and {len(unknown) - UNKNOWN_SHOWN:,} more" if len(unknown) > UNKNOWN_SHOWN else ""
        rows.append(["metadata not understood", ", ".join(map(str, unknown[:UNKNOWN_SHOWN])) + more])
    rows += [[f"option: {key}", _plain(value)] for key, value in record["config"].items()]
    rows += [[key.replace("_", " "), _plain(value)] for key, value in record["environment"].items()]
    rows += [[f"seconds: {key.replace('_', ' ')}", f"{value:.3f}"] for key, value in record["timings_s"].items()]
    return Table((), rows)


def _plain(value: Any) -> str:
    """A value of the record as text."""
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else as_text(value)
