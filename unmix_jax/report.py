"""What the page of one unmixing run says."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import numpy as np

from unmix_jax import plots
from unmix_jax.metrics import align
from unmix_jax.page import Picture, Section, Table, as_text, per_cent, write_page
from unmix_jax.results import Results, masked_pixels
from unmix_jax.scenes.library_files import library_names
from unmix_jax.scenes.scene import Scene

__all__ = ["run_sections", "run_tiles", "write_run_report"]


LINEAR_CAVEAT = (
    "An abundance is a weight in a linear mixture. It is the share of the area where the materials lie side "
    "by side, are lit alike, and the endmembers have the true brightness of the pure materials; it is never "
    "a share of mass. Where light meets several materials before it returns (powders, foliage, coatings) the "
    "weights are biased, however small the residual."
)
CERTIFICATE_CAVEAT = (
    "The optimality gap bounds how much closer to the measured spectrum any other allowed abundances could "
    "come: in squared misfit, as a fraction of the squared spectrum. It certifies the arithmetic, not the "
    "model: a wrong model or a wrong endmember shows in the residual, and only partly there."
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
) -> Path:
    """Write the page of one unmixing run.

    Args:
        path: file to write.
        results: the run.
        scene: what was unmixed.
        command: the command that was run.
        scores: what `unmix_jax.metrics.score` returned, where there is a reference.
        extracted: whether the endmembers were taken from the scene itself.
        baseline: as in `unmix_jax.plots.fits`.
        blind: the `unmix_jax.blind.Blind` that the results are from, if they are.

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
    sections = run_sections(results, scene, scores=scores, extracted=extracted, baseline=baseline, blind=blind)
    title = f"Unmixing of {record['scene']['name']}"
    return write_page(path, sections, title=title, lead=lead, command=command, tiles=run_tiles(record))


def run_tiles(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The figures of a run that a reader looks for first.

    Args:
        record: of the run, as in `Results.record`.

    Returns:
        (label, value) pairs of text.
    """
    pixels, share = record["pixels"], per_cent(record["converged_share"])
    tiles = [
        ("pixels unmixed", f"{pixels['valid']:,}"),
        (_share_of(record), as_text(share)),
        ("worst optimality gap", as_text(record["gap"]["worst"])),
        (f"RMS residual ({record['scene']['quantity']})", as_text(record["residual_rms"])),
    ]
    if runs := record.get("runs"):
        tiles += [("runs, of which collapsed", f"{runs['seeds']}, {runs['collapsed']}"),
                  ("mean angle between two runs (rad)", as_text(runs["consistency_rad"]))]  # fmt: skip
    if "unmix" in record["timings_s"]:
        tiles.append(("to unmix, compilation included", f"{record['timings_s']['unmix']:.2f} s"))
    return tiles


def _share_of(record: Mapping[str, Any]) -> str:
    """What the share of pixels that is given is of."""
    if "network" in record:
        return "like the training"
    return "converged" if record["gap"]["worst"] is None else "certified optimal"


def run_sections(
    results: Results,
    scene: Scene,
    *,
    scores: Mapping[str, float] | None = None,
    extracted: bool = False,
    baseline: Any = None,
    blind: Any = None,
) -> list[Section]:
    """The cards of one run: abundances, endmembers, fit and certificate, scores, how to read it, the record.

    Args:
        results: the run.
        scene: what was unmixed.
        scores: what `unmix_jax.metrics.score` returned, where there is a reference.
        extracted: whether the endmembers were taken from the scene itself.
        baseline: as in `unmix_jax.plots.fits`.
        blind: the `unmix_jax.blind.Blind` that the results are from, if they are.

    Returns:
        The sections, in order.
    """
    solution, library = results.solution, results.endmembers
    names, unit = library_names(library), scene.quantity
    scored = [_scores(scores)] if scores else []
    curves = Picture(plots.endmember_curves(library, unit=unit), "Lines break at bands that are bad or missing.")
    abundances = Section(
        "Abundances",
        pictures=[
            Picture(plots.false_colour(scene), "The scene."),
            Picture(
                plots.abundance_maps(solution.abundances, names),
                "All maps share one scale; masked pixels are blank.",
            ),
        ],
        tables=[_abundance_table(results)],
    )
    return [
        abundances,
        Section("Endmembers", text=[EXTRACTED_CAVEAT] if extracted else (), pictures=[curves]),
        *([] if blind is None else [_runs_section(scene, library, blind)]),
        _fit_section(results, scene, baseline, weights=None if blind is None else blind.solution.fitted),
        *scored,
        Section("How to read this", text=_caveats(scene, results.record)),
        Section("Record", tables=[_record_table(results.record)]),
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


def _fit_section(results: Results, scene: Scene, baseline: Any, weights: Any) -> Section:
    """Residual, certificate, and three fits; by ``weights`` of the endmembers where these are not the abundances."""
    solution, record = results.solution, results.record
    if weights is not None:
        solution = eqx.tree_at(lambda s: s.abundances, solution, weights)
    pictures = []
    if record["pixels"]["valid"]:
        pictures = [
            Picture(plots.residual_map(solution.residual, unit=scene.quantity), "What the mixture does not explain."),
            Picture(plots.gap_map(solution.gap), "How far each pixel can be from the optimum."),
            Picture(
                plots.fits(scene, solution, results.endmembers, baseline=baseline),
                "Three pixels, chosen by the rank of their residual.",
            ),
        ]
        if record["gap"]["worst"] is None:  # networks have no certificate
            del pictures[1]
    rows: list[list[Any]] = [
        ["pixels unmixed", record["pixels"]["valid"]],
        ["pixels masked (no data, all zero, or marked)", record["pixels"]["masked"]],
        ["converged" if record["gap"]["worst"] is None else "certified optimal", per_cent(record["converged_share"])],
        ["worst gap", record["gap"]["worst"]],
        ["median gap", record["gap"]["median"]],
        [f"RMS residual of all pixels ({scene.quantity})", record["residual_rms"]],
        [f"bands fitted, of {record['bands']['total']}", record["bands"]["used"]],
    ]
    if record["not_unique"] is not None:
        rows.append(["pixels whose abundances are not unique", record["not_unique"]])
    return Section("Fit and certificate", pictures=pictures, tables=[Table(("", "value"), rows)])


def _abundance_table(results: Results) -> Table:
    """Mean, spread and extent of every endmember over the unmixed pixels."""
    values = np.asarray(results.solution.abundances, dtype=np.float64)[~masked_pixels(results.solution)]
    rows = [
        [name, *(f"{v:.3f}" for v in (a.mean(), a.std(), a.max())), per_cent((a > 0.5).mean())]
        if a.size
        else [name, *(None,) * 4]
        for name, a in zip(library_names(results.endmembers), values.T, strict=True)
    ]
    return Table(("endmember", "mean", "spread (1σ)", "largest", "pixels above ½"), rows, "Fractions.")


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
    if scene.quantity == "radiance":
        text.append(RADIANCE_CAVEAT)
    if record["not_unique"]:
        text.append(
            "Some pixels have more than one best answer, because endmembers repeat each other or outnumber "
            "the bands. One of the best is shown; the fit is the same for all."
        )
    return text


def _record_table(record: Mapping[str, Any]) -> Table:
    """Configuration, environment and timings, one per row."""
    rows: list[list[Any]] = [[f"option: {key}", _plain(value)] for key, value in record["config"].items()]
    rows += [[key.replace("_", " "), _plain(value)] for key, value in record["environment"].items()]
    rows += [[f"seconds: {key.replace('_', ' ')}", f"{value:.3f}"] for key, value in record["timings_s"].items()]
    return Table((), rows)


def _plain(value: Any) -> str:
    """A value of the record as text."""
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else as_text(value)
