"""Results for other programs: MATLAB and CSV files, figures, and the table of a list of spectra.

- ``abundances.mat`` (version 5): ``abundances`` [row, column, endmember], ``residual``, ``gap``, ``converged`` and,
  where the solver has one, ``abundance_bound`` (Inf where nothing is proved); the spectra under the names of the
  project's scene file (``endmembers``, ``names`` as a cell array, ``wavelength_nm`` or ``wavenumber_cm1``,
  ``wavelength_unit``, ``fwhm``, ``good_bands``); ``quantity`` of the values; ``pixel_names`` of a list; ``crs`` and
  ``transform`` of an image with a place.
- ``abundances.csv``: one line per pixel, masked ones with empty cells: ``row``, ``column`` (from 0) and, where the
  scene has a place, ``x`` and ``y`` of the centre of the pixel or its ``longitude`` and ``latitude``; of a list,
  ``spectrum`` (from 0) and ``name``; then the abundances as fractions, the residual, the bound on abundances where the
  solver has one (inf where nothing is proved), and 1 or 0 for converged. The coordinate system of x and y is in
  ``abundances.prj``, as WKT.
- ``figures/``: the pictures of the report as PNG.

Each file has another name until it is whole. The CSV file is written in blocks, so that its memory does not grow with
the scene; a MATLAB file takes some four times the memory of its abundances.

References: MathWorks, MAT-File Versions (2³¹ bytes per variable up to version 7); GDAL, Comma Separated Value driver
(.prj); CWE-1236, improper neutralization of formula elements in a CSV file.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import equinox as eqx
import numpy as np

from unmix_jax import plots
from unmix_jax.page import DASH, one_line
from unmix_jax.plots.style import apart
from unmix_jax.plots.unmixing import SHEET
from unmix_jax.results import ARRAYS, Results
from unmix_jax.scenes.georeference import place_of
from unmix_jax.scenes.library_files import escaped, library_arrays, library_names, to_cell, write_library
from unmix_jax.scenes.projections import identified
from unmix_jax.scenes.scene import Scene, SpectralLibrary, thinned
from unmix_jax.store import open_group

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["KINDS", "abundance_table", "check_exports", "export_paths", "write_exports", "write_library_exports"]

KINDS = ("mat", "csv", "png")
STEM, FIGURES = "abundances", "figures"
MAT_BYTES = 2**31 - 1  # of one variable in a version 5 file
BLOCK_BYTES = 2 * 2**20  # of the numbers that become text at once: as objects of Python they take ten times as much
DPI = 200  # a figure of 8 inches is 1600 pixels wide, enough for print
LISTED = 20  # spectra of a list that stand in a table
NAMED = 40  # letters of a name in it


def check_exports(
    kinds: Iterable[str], *, shape: Sequence[int] | None = None, endmembers: int | None = None, itemsize: int = 4
) -> tuple[str, ...]:
    """Refuse what cannot be exported, before the work.

    Args:
        kinds: some of ``mat``, ``csv``, ``png``.
        shape: of the scene's pixels, where it is known.
        endmembers: how many there are, where it is known.
        itemsize: bytes of a number of the results: 4, or 8 in double precision.

    Returns:
        The kinds, each once.

    Raises:
        ValueError: another kind; a MATLAB variable that is too large for its format.
    """
    found = tuple(dict.fromkeys(str(kind).lower().removeprefix(".") for kind in kinds))
    if unknown := [kind for kind in found if kind not in KINDS]:
        raise ValueError(f"results are exported as {', '.join(KINDS)}, not as {', '.join(map(repr, unknown))}")
    if "mat" in found and shape is not None and endmembers is not None:
        size = math.prod(shape) * endmembers * itemsize
        if size > MAT_BYTES:
            pixels = " × ".join(f"{n:,}" for n in shape)
            raise ValueError(
                f"the abundances ({pixels} × {endmembers}, {size / 2**30:.1f} GiB) are too large for a MATLAB file of "
                "version 7, whose variables end at 2 GiB: leave mat out of --export (MATLAB also reads the maps, "
                "--maps envi or geotiff), or unmix a part of the scene (--rows, --columns)"
            )
    return found


def export_paths(folder: str | Path, kinds: Iterable[str]) -> list[Path]:
    """What `write_exports` may write into a folder: files, and the folder of figures."""
    names = {"mat": (f"{STEM}.mat",), "csv": (f"{STEM}.csv", f"{STEM}.prj"), "png": (FIGURES,)}
    return [Path(folder) / name for kind in check_exports(kinds) for name in names[kind]]


def write_exports(
    folder: str | Path,
    results: Results,
    scene: Scene,
    kinds: Iterable[str],
    *,
    every: int = 1,
    shown: Scene | None = None,
    baseline: Any = None,
    weights: Any = None,
) -> list[Path]:
    """Write the results of a run in other formats, beside them.

    Args:
        folder: of the run, with its ``results.zarr``, out of which numbers are taken.
        results: the run for the figures; or every n-th row and column of it, see ``every``.
        scene: what was unmixed, whole.
        kinds: some of ``mat``, ``csv``, ``png``.
        every: as in `unmix_jax.report.write_run_report`, for the figures.
        shown: every n-th row and column of the scene; by default they are read.
        baseline: as in `unmix_jax.plots.fits`.
        weights: of the endmembers in the fits, where these are not the abundances (blind unmixing).

    Returns:
        The files that were written.

    Raises:
        ValueError: as `check_exports`.
        OSError: a file cannot be written.
    """
    folder = Path(folder)
    count, shape = len(results.endmembers), scene.shape
    group = open_group(folder / ARRAYS)
    kinds = check_exports(kinds, shape=shape, endmembers=count, itemsize=group["abundances"].dtype.itemsize)
    written = []
    if "mat" in kinds:
        written.append(_whole(folder / f"{STEM}.mat", lambda path: _write_mat(path, group, results, scene)))
    if "csv" in kinds:
        written.append(_whole(folder / f"{STEM}.csv", lambda path: _write_csv(path, group, results, scene)))
        if wkt := _wkt(scene):
            written.append(_whole(folder / f"{STEM}.prj", lambda path: path.write_text(f"{wkt}\n", encoding="utf-8")))
    if "png" in kinds:
        drawn = thinned(scene, every) if shown is None else shown
        pictures = _figures(results, drawn, every, baseline, weights)
        (folder / FIGURES).mkdir(exist_ok=True)
        for name, figure in pictures:
            written.append(_whole(folder / FIGURES / f"{name}.png", _saver(figure)))
    return written


def write_library_exports(stem: str | Path, library: SpectralLibrary, kinds: Iterable[str]) -> list[Path]:
    """Write a library as ``.mat``, ``.csv`` and a figure of its spectra (``.png``).

    Args:
        stem: path of the files without their endings.
        library: the spectra.
        kinds: some of ``mat``, ``csv``, ``png``.

    Returns:
        The files that were written.

    Raises:
        ValueError: another kind.
        OSError: a file cannot be written.
    """
    stem, written = Path(stem), []
    for kind in check_exports(kinds):

        def write(path: Path, kind: str = kind) -> None:
            if kind == "png":
                _saver(plots.endmember_curves(library))(path)
            else:
                write_library(path, library)

        written.append(_whole(stem.with_name(f"{stem.name}.{kind}"), write))
    return written


def abundance_table(
    results: Results | str | Path, scene: Scene, *, limit: int = LISTED, most: int | None = None, every: int = 1
) -> tuple[list[str], list[list[str]]]:
    """The abundances of the first spectra of a list, as text.

    Args:
        results: the run, or its folder, of which only these spectra are read then.
        scene: the list of spectra that was unmixed.
        limit: of spectra.
        most: of columns for endmembers; if there are more, those of least mean abundance share one, as their sum.
        every: results and scene are every n-th spectrum of a longer list, whose numbers are shown.

    Returns:
        Headings, and a row for each spectrum: its name or number (from 0), abundances, RMS residual; a dash where it is
        masked. Names have no control characters, and the headings differ.

    Raises:
        ValueError: the scene is an image.
    """
    if len(scene.shape) != 1:
        raise ValueError(f"a table of abundances needs a list of spectra, the scene has the shape {scene.shape}")
    if isinstance(results, Results):
        names = library_names(results.endmembers)
        values, residual = (np.asarray(v[:limit]) for v in (results.solution.abundances, results.solution.residual))
    else:
        group = open_group(Path(results) / ARRAYS)
        names = tuple(str(name) for name in group.attrs["names"])
        values, residual = (np.asarray(group[name][:limit]) for name in ("abundances", "residual"))
    chosen = np.arange(len(names))
    if most is not None and len(names) > most:
        chosen = np.sort(np.argsort(-np.nan_to_num(values).mean(axis=0), kind="stable")[: most - 1])
    others = np.setdiff1d(np.arange(len(names)), chosen)
    heads = apart(
        [names[i] for i in chosen],
        lambda name, ending: one_line(name, NAMED - len(ending)) + ending,
        (chosen + 1).tolist(),
    )
    rest = [f"sum of {others.size} others"] if others.size else []
    columns = ["spectrum", *heads, *rest, f"RMS residual ({one_line(scene.quantity, NAMED)})"]
    rows = []
    for i, (shares, misfit) in enumerate(zip(values, residual, strict=True)):
        label = one_line(scene.pixel_names[i], NAMED) if scene.pixel_names else str(every * i)
        numbers = [*shares[chosen], *([shares[others].sum()] if others.size else [])]
        cells = [DASH if np.isnan(a) else f"{a:.4f}" for a in numbers]
        rows.append([label, *cells, DASH if np.isnan(misfit) else f"{misfit:#.3g}"])
    return columns, rows


def _whole(path: Path, write: Callable[[Path], object]) -> Path:
    """A file that is there under its name only when all of it is written."""
    part = path.with_name(f".part-{path.name}")
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _saver(figure: "Figure") -> Callable[[Path], None]:
    """What saves a figure."""
    return lambda path: figure.savefig(path, format="png", dpi=DPI)


def _figures(results: Results, scene: Scene, every: int, baseline: Any, weights: Any) -> Iterator[tuple[str, "Figure"]]:
    """Name and figure of each picture."""
    solution, library = results.solution, results.endmembers
    names = library_names(library)
    yield "scene", plots.false_colour(scene)
    yield "endmembers", plots.endmember_curves(library, unit=scene.quantity)
    if len(scene.shape) == 1:
        yield STEM, plots.abundance_maps(solution.abundances, names, pixel_names=scene.pixel_names, every=every)
    else:
        for first in range(0, len(names), SHEET):
            members = range(first, min(first + SHEET, len(names)))
            name = STEM if len(names) <= SHEET else f"{STEM}-{first + 1}-{members.stop}"
            yield name, plots.abundance_maps(solution.abundances, names, members=members)
    if not np.isfinite(np.asarray(solution.residual)).any():
        return
    yield "residual", plots.residual_map(solution.residual, unit=scene.quantity, every=every)
    if np.isfinite(np.asarray(solution.gap)).any():
        yield "gap", plots.gap_map(solution.gap, every=every)
    if solution.abundance_bound is not None and not np.isnan(np.asarray(solution.abundance_bound)).all():
        yield "abundance_bound", plots.abundance_bound_map(solution.abundance_bound, every=every)
    if weights is not None:
        solution = eqx.tree_at(lambda s: s.abundances, solution, weights)
    yield "fits", plots.fits(scene, solution, library, baseline=baseline, every=every)


# ---- MATLAB


def _write_mat(path: Path, group: Any, results: Results, scene: Scene) -> None:
    """``abundances.mat``."""
    from scipy.io import savemat

    library = results.endmembers
    held = library_arrays(library)
    texts = {"names": library_names(library), "quantity": (scene.quantity,)}
    if scene.pixel_names:
        texts["pixel_names"] = scene.pixel_names
    arrays: dict[str, Any] = {
        name: np.asarray(group[name][...])
        for name in (STEM, "residual", "gap", "abundance_bound", "converged")
        if name in group
    }
    if len(scene.shape) == 1:
        arrays = {name: values.reshape(len(values), -1) for name, values in arrays.items()}  # MATLAB has no plain lists
    arrays |= {name: np.atleast_2d(values) for name, values in held.items() if name != "names"} | _cells(texts)
    if library.axis is not None:
        arrays["wavelength_unit"] = "cm-1" if "wavenumber_cm1" in held else "nm"
    if transform := _transform(scene):
        arrays |= {"transform": np.asarray(transform)} | ({"crs": wkt} if (wkt := _wkt(scene)) else {})
    with path.open("wb") as file:
        savemat(file, arrays, do_compression=True, oned_as="row")


def _cells(texts: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Cell arrays of texts; with escapes, and a flag that says so, where one of them would not come back."""
    # MATLAB's characters have 16 bits, and readers drop blanks at the ends: as in the files of libraries.
    wide = "".join(sorted({c for of in texts.values() for text in of for c in text if ord(c) > 0xFFFF}))
    written = {name: [escaped(text, wide) for text in of] for name, of in texts.items()}
    escape = any(
        new != text.replace("\\", "\\\\")
        for name, of in texts.items()
        for new, text in zip(written[name], of, strict=True)
    )
    cells: dict[str, Any] = {}
    for name, of in (written if escape else texts).items():
        cells[name] = np.empty((len(of), 1), object)
        cells[name][:, 0] = of
    return {**cells, "text_escapes": np.True_} if escape else cells


# ---- CSV


def _write_csv(path: Path, group: Any, results: Results, scene: Scene) -> None:
    """``abundances.csv``, block of rows by block."""
    where, places = _places(scene)
    bound = ["abundance_bound"] if "abundance_bound" in group else []
    names = _apart_from(library_names(results.endmembers), [*where, "name", "bound on abundances", "converged"])
    single = group[STEM].dtype.itemsize == 4
    number = "%.9g" if single else "%.17g"  # the fewest digits that give back every number
    lead = "".join("%d," if title in ("row", "column", "spectrum") else "%.12g," for title in where)
    rest = ",".join([*([number] * (len(names) + 1 + len(bound))), "%d\n"])
    labels = [f"{_quoted(to_cell(name))}," for name in scene.pixel_names]
    residual = to_cell(f"residual ({scene.quantity})")
    proved = ["bound on abundances"] if bound else []
    titles = [*where, *(["name"] if labels else []), *names, residual, *proved, "converged"]
    kept = (STEM, "residual", *bound, "converged")
    step = max(1, BLOCK_BYTES // (math.prod(scene.shape[1:]) * len(titles) * 8))
    chunk = group[STEM].chunks[0]  # is read as a whole in any case
    with path.open("w", newline="", encoding="utf-8", errors="replace") as file:
        file.write(",".join(map(_quoted, titles)) + "\n")
        for start in range(0, scene.shape[0], chunk):
            held = [np.asarray(group[name][start : start + chunk]) for name in kept]
            for first in range(start, start + len(held[0]), step):
                rows = slice(first, min(first + step, start + len(held[0])))
                values, *others = (of[rows.start - start : rows.stop - start] for of in held)
                pixels = np.column_stack([values.reshape(-1, len(names)), *(of.reshape(-1) for of in others)]).tolist()
                leads = np.column_stack(places(rows)).tolist()
                lines = (f"{lead % tuple(at)}\0{rest % tuple(of)}" for at, of in zip(leads, pixels, strict=True))
                some = iter(labels[rows]) if labels else None
                for line in lines:
                    # NaN is an empty cell. The names of spectra come in afterwards, since one may hold these letters.
                    file.write(line.replace("nan", "").replace("\0", "" if some is None else next(some), 1))


def _quoted(cell: str) -> str:
    """A cell between quotation marks, where it needs them."""
    return '"' + cell.replace('"', '""') + '"' if any(c in cell for c in ',"\n\r') else cell


def _apart_from(names: Sequence[str], taken: Sequence[str]) -> list[str]:
    """Names as cells of a heading: no formulas, all different, and none of those that are taken."""
    marked = [f"{name} (endmember)" if name in taken else name for name in names]
    return apart(marked, lambda name, ending: (to_cell(name) or "(no name)") + ending)


def _places(scene: Scene) -> tuple[list[str], Callable[[slice], list[Any]]]:
    """Headings of the numbers that say where a pixel is, and these numbers of some rows."""
    if len(scene.shape) == 1:
        return ["spectrum"], lambda rows: [np.arange(rows.start, rows.stop)]
    width, transform = scene.shape[1], _transform(scene)
    located = {str(key).lower(): value for key, value in scene.header.items()}.get("location", {})
    swath = transform is None and {"lat", "lon"} <= set(located)

    def of_image(rows: slice) -> list[Any]:
        row, column = (axis.reshape(-1) for axis in np.mgrid[rows, 0:width])
        if transform is not None:
            a, b, c, d, e, f = transform
            x, y = column + 0.5, row + 0.5  # of the centre, in pixels
            return [row, column, a * x + b * y + c, d * x + e * y + f]
        degrees = [np.asarray(located[name][rows], np.float64).reshape(-1) for name in ("lon", "lat")] if swath else []
        return [row, column, *degrees]

    return ["row", "column", *(["x", "y"] if transform else ["longitude", "latitude"] if swath else [])], of_image


def _transform(scene: Scene) -> tuple[float, ...] | None:
    """From column and row to coordinates, where the scene lies on a grid."""
    place = place_of(scene)
    return None if place is None else place.transform


def _wkt(scene: Scene) -> str | None:
    """The coordinate system of an image with a grid, as WKT; None where it is not known, or only by its number."""
    place = place_of(scene)
    if place is None or place.transform is None or place.crs is None:
        return None
    try:
        found = identified(place.crs)
    except ImportError:
        found = None
    return found.to_wkt() if found is not None else place.crs if "[" in place.crs else None
