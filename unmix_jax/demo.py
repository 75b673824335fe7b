"""The demonstration: two real datasets that come with the package, and a report about them.

First a scene whose truth nobody knows (Indian Pines: farmland seen by AVIRIS), where unmixing has to be read
with care; then laboratory mixtures whose truth is known (USGS: powders of stated weight), where linear
unmixing is wrong although its optimum is reached.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import numpy as np

from unmix_jax import plots
from unmix_jax.driver import unmix
from unmix_jax.endmembers.extraction import vca
from unmix_jax.endmembers.subspace import count_endmembers
from unmix_jax.page import Picture, Section, Table, as_text, write_page
from unmix_jax.report import NO_BOUND, run_sections, run_tiles
from unmix_jax.results import Results, check_folder, write_results
from unmix_jax.scenes.datasets import load
from unmix_jax.scenes.library import match
from unmix_jax.scenes.scene import Scene, SpectralAxis, SpectralLibrary
from unmix_jax.solvers.active_set import tolerance
from unmix_jax.solvers.least_squares import fcls, prepare

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Demonstration", "run_demo"]

SEEDS = 8
WINDOW_NM = (1400.0, 2450.0)
# What it is, its name in the library, its two endmembers, and the true share of calcite.
MIXTURES = (
    ("calcite and dolomite, side by side", "calcite.5+dolomite.5", "dolomite", 0.5),
    (
        "calcite and montmorillonite, one powder",
        "calcite.8+montmorilloniteNa.2_mix_intimate",
        "montmorillonite_Na",
        0.8,
    ),
    ("calcite and kaolinite, one powder", "kaolinite.2+calcite.8_mix_intimate", "kaolinite_wxl", 0.8),
)

SCENE_TEXT = (
    "Three estimators of the number of endmembers disagree, as they do on real scenes: {counts}. {chosen} "
    "are extracted here, the most cautious of the three. Vertex component analysis depends on random "
    "directions: of {seeds} runs the one with the smallest residual is kept, which needs no knowledge of "
    "the ground.",
    "What an abundance means here: the scene is radiance at the sensor (µW cm⁻² sr⁻¹ nm⁻¹), so that "
    "sunlight, slope and haze are part of every spectrum. Bare soil in June between rows of young corn, a "
    "wet field and a shaded roof may share an endmember. The endmembers are the brightest, darkest and "
    "strangest pixels, not materials of known purity; the sum-to-one constraint makes a darker pixel look "
    "like more of a darker endmember.",
)
CLASSES_TEXT = (
    "Nobody measured abundances on the ground. What exists is one land-cover label per field, which took "
    "no part in the unmixing. If abundances mean anything, the fields of one class share them and other "
    "classes differ: compare steel towers, woods and oats below. Corn and soybeans were almost bare soil "
    "on that day; they share their endmembers, and no linear unmixing of this one image will part them.",
)
POWDER_TEXT = (
    "The USGS measured powders that were weighed before they were mixed, and their pure minerals. Where "
    "two materials lie side by side, the spectrum is the average and the linear model finds the true "
    "shares. In a powder each ray meets many grains: a grain that absorbs darkens the light that others "
    "scattered, and it counts for more than its share.",
    "For all three the optimum was reached, and abundances are within the bound below of it: no other weights fit "
    "better. That is certified of the optimisation only, for the model given: it cannot see that the model "
    "is wrong. The residual can, a little: it rises from nothing to a few per cent of reflectance, "
    "with the shape of absorption bands. Weight and area also differ by grain size and density, which the "
    "library does not state; they cannot explain a misfit of the spectrum. This is why nonlinear physics "
    "matters.",
)


@dataclass(frozen=True)
class Demonstration:
    """What the demonstration leaves behind.

    Attributes:
        report: the page to open.
        tables: (title, columns, rows) to show on the screen.
    """

    report: Path
    tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]]


def run_demo(
    out: str | Path,
    *,
    quick: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Demonstration:
    """Run both parts and write the maps and ``report.html``.

    Args:
        out: folder to write, absent or empty unless ``overwrite``.
        quick: every third pixel of the scene, and fewer extractions.
        overwrite: whether an earlier run in the folder may be replaced.
        progress: called as ``progress(pixels_done, pixels_in_all)``.

    Returns:
        The report and the tables of the run.

    Raises:
        ValueError: the folder holds another run.
        FileNotFoundError: the data are not there.
    """
    folder = check_folder(out, overwrite=overwrite)
    start = time.perf_counter()
    scene = _scene(quick)
    estimates = count_endmembers(scene)
    counts = dict(zip(("HySime", "HFC", "NWHFC"), estimates, strict=True))
    count, seeds = estimates.smallest, 3 if quick else SEEDS
    results = _unmix_scene(folder, scene, count, seeds, overwrite=overwrite, progress=progress)
    classes, means = _class_means(scene, results)
    powders = _powders()
    best = [[classes[i], f"endmember {j + 1}", f"{means[i, j]:.2f}"] for i, j in enumerate(means.argmax(axis=1))]
    told = ", ".join(f"{name} finds {number}" for name, number in counts.items())
    first = [text.format(counts=told, chosen=count, seeds=seeds) for text in SCENE_TEXT]
    sections = run_sections(results, scene, extracted=True)
    shown = [
        Section(
            "1  A scene without truth: Indian Pines, 12 June 1992",
            first,
            sections[0].pictures,
            sections[0].tables,
        ),
        Section(
            "Do the abundances know the fields?",
            CLASSES_TEXT,
            [
                Picture(
                    _heat(means, classes),
                    "Mean abundance of each endmember (column) in the fields of each class (row).",
                )
            ],
            [Table(CLASS_COLUMNS, best, "The endmember that each class holds most of.")],
        ),
        *sections[1:3],
        Section(
            "2  Mixtures with truth: three USGS samples",
            POWDER_TEXT,
            [Picture(_pure_minerals(), "The pure minerals.")] + [Picture(p.figure, p.title) for p in powders],
            [
                Table(
                    POWDER_COLUMNS,
                    [p.row for p in powders],
                    "Share of calcite, linear FCLS on 1400 to 2450 nm.",
                )
            ],
        ),
        *sections[-2:],
        Section("Data", DATA_TEXT),
    ]
    seconds = time.perf_counter() - start
    record = results.record
    tiles = [
        ("pixels unmixed", f"{record['pixels']['valid']:,}"),
        ("endmembers", str(count)),
        *run_tiles(record)[1:],
        ("all of it", f"{seconds:.0f} s"),
    ]
    report = write_page(
        folder / "report.html",
        shown,
        title="unmix_jax: a demonstration on real data",
        lead="Which materials are in each pixel, and how much of each: once where nobody knows the answer, "
        "once where it is known and the linear model misses it.",
        command="unmix-jax demo --quick" if quick else "unmix-jax demo",
        tiles=tiles,
    )
    return Demonstration(
        report,
        (
            (
                "How many endmembers has Indian Pines?",
                ("estimator", "count"),
                [[name, str(number)] for name, number in counts.items()],
            ),
            ("What its fields are mostly made of", CLASS_COLUMNS, best),
            (
                "Three mixtures of known composition, unmixed linearly",
                POWDER_COLUMNS,
                [[p.row[0], *(f"{v:.3f}" if isinstance(v, float) else v for v in p.row[1:])] for p in powders],
            ),
        ),
    )


CLASS_COLUMNS = ("land cover", "endmember", "mean abundance")
POWDER_COLUMNS = (
    "sample",
    "true share of calcite",
    "linear unmixing",
    "RMS misfit of the spectrum",
    "optimum reached",
    "abundances within",
)
DATA_TEXT = (
    "Indian Pines: Baumgardner, Biehl and Landgrebe 2015, 220 Band AVIRIS Hyperspectral Image Data Set, "
    "Purdue University Research Repository, doi 10.4231/R7RX991C, CC BY 3.0; radiance = (count - 1000) / "
    "500, wavelengths of the AVIRIS band table, bands of low signal left out.",
    "Minerals: Kokaly et al. 2017, USGS Spectral Library Version 7, doi 10.5066/F7RR1WDJ, public domain; "
    "records AMX8 (computed as an average), GDS212 and GDS213 (measured powders).",
)


@dataclass(frozen=True)
class _Powder:
    """One mixture: its figure, its caption, its row of the table."""

    figure: "Figure"
    title: str
    row: list[Any]


def _scene(quick: bool) -> Scene:
    """Indian Pines, thinned for a quick look."""
    scene = load("indian_pines")
    assert isinstance(scene, Scene)
    assert scene.labels is not None
    if not quick:
        return scene
    return replace(scene, cube=np.ascontiguousarray(scene.cube[::3, ::3]), labels=scene.labels[::3, ::3])


def _unmix_scene(folder: Path, scene: Scene, count: int, seeds: int, *, overwrite: bool, progress: Any) -> Results:
    """Extract with several seeds, keep the set of least residual, and write its maps."""
    start = time.perf_counter()
    best: tuple[float, Any, SpectralLibrary, int] | None = None
    total = seeds * int(np.prod(scene.shape))
    names = tuple(f"endmember {i + 1}" for i in range(count))
    for seed in range(seeds):
        found = vca(jax.random.key(seed), scene, count)
        library = match(scene, SpectralLibrary(found.endmembers, scene.axis, names, good_bands=scene.good_bands))
        before = seed * int(np.prod(scene.shape))
        solution = _solve(library, scene, lambda done, _, before=before: progress and progress(before + done, total))
        misfit = float(np.sqrt(np.nanmean(np.square(solution.residual))))
        if best is None or misfit < best[0]:
            best = misfit, solution, library, seed
    assert best is not None
    _, solution, library, seed = best
    order = np.argsort(-np.nanmean(np.asarray(solution.abundances).reshape(-1, count), axis=0))
    library = replace(library, spectra=np.asarray(library.spectra)[order])  # the most abundant first
    solution = eqx.tree_at(lambda s: s.abundances, solution, np.asarray(solution.abundances)[..., order])
    config = {"method": "fcls", "extract": "vca", "count": count, "seeds": seeds, "kept seed": seed}
    timings = {f"unmix {seeds} times": time.perf_counter() - start}
    return write_results(
        folder,
        solution,
        scene,
        endmembers=library,
        config=config,
        timings=timings,
        seed=seed,
        overwrite=overwrite,
    )


def _solve(library: SpectralLibrary, scene: Scene, progress: Any = None) -> Any:
    """Certified FCLS on the good bands of a matched library."""
    prepared = prepare(library.spectra, weights=library.good_bands)
    return unmix(eqx.Partial(fcls, endmembers=prepared), scene, good_bands=library.good_bands, progress=progress)


def _class_means(scene: Scene, results: Results) -> tuple[list[str], np.ndarray]:
    """Land-cover classes and the mean abundances of their pixels, [class, endmember]."""
    labels, abundances = np.asarray(scene.labels), np.asarray(results.solution.abundances)
    present = [c for c in range(1, len(scene.label_names)) if (labels == c).any()]
    means = np.stack([np.nanmean(abundances[labels == c], axis=0) for c in present])
    return [scene.label_names[c] for c in present], means


def _heat(means: np.ndarray, classes: Sequence[str]) -> "Figure":
    """Mean abundances as colours, classes by endmembers, the large ones written in."""
    from matplotlib.figure import Figure

    rows, columns = means.shape
    figure = Figure(figsize=(2.6 + 0.36 * columns, 0.75 + 0.27 * rows), facecolor="white")
    width, height = figure.get_size_inches()
    axis = figure.add_axes((2.2 / width, 0.55 / height, 0.36 * columns / width, 0.27 * rows / height))
    top = float(means.max())
    axis.imshow(means, aspect="auto", cmap="viridis", vmin=0, vmax=top)
    for (i, j), value in np.ndenumerate(means):
        if value >= 0.1:
            ink = "black" if value > 0.65 * top else "white"
            axis.text(
                j,
                i,
                f"{value:.1f}"[1:] if value < 0.95 else "1",
                color=ink,
                ha="center",
                va="center",
                fontsize=7,
            )
    axis.set_yticks(range(rows), classes, fontsize=8)
    axis.set_xticks(range(columns), [str(j + 1) for j in range(columns)], fontsize=8)
    axis.set_xlabel("endmember", fontsize=8.5)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return figure


def _minerals() -> SpectralLibrary:
    """The USGS library on the window where all of these minerals were measured."""
    library = load("usgs_mica77")
    assert isinstance(library, SpectralLibrary)
    assert library.axis is not None
    centers = np.asarray(library.axis.centers)
    window = (centers >= WINDOW_NM[0]) & (centers <= WINDOW_NM[1])
    return replace(library, spectra=library.spectra[:, window], axis=SpectralAxis(centers[window]))


def _pure_minerals() -> "Figure":
    """The endmembers of the three mixtures."""
    names = ["calcite", *(other for _, _, other, _ in MIXTURES)]
    return plots.endmember_curves(_minerals().select(names))


def _powders() -> list[_Powder]:
    """Unmix the three mixtures into the two minerals that each is made of."""
    library, found = _minerals(), []
    for what, name, other, truth in MIXTURES:
        pair = library.select(["calcite", other])
        scene = Scene(library.select([name]).spectra, library.axis, name=name)
        solution = _solve(match(scene, pair), scene)
        share, misfit = float(solution.abundances[0, 0]), float(solution.residual[0])
        figure = plots.fits(scene, solution, pair, titles=(what.partition(",")[2].strip(),), quantiles=(0.0,))
        caption = f"{what[0].upper()}{what[1:]}: {truth:.0%} calcite, linear unmixing says {share:.0%}."
        reached = as_text(bool(solution.gap[0] <= tolerance(solution.gap.dtype)))
        bound = solution.abundance_bound
        within = NO_BOUND if bound is None or not np.isfinite(bound[0]) else as_text(float(bound[0]))
        found.append(_Powder(figure, caption, [what, truth, share, misfit, reached, within]))
    return found
