"""Results for other programs: what they hold is what the run holds, and nothing half written is left."""

import csv
import os
import tracemalloc
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.transform import xy
from scipy.io import loadmat, whosmat

from unmix_jax import export
from unmix_jax.export import abundance_table, check_exports, export_paths, write_exports, write_library_exports
from unmix_jax.results import read_results, write_results
from unmix_jax.scenes.readers import read_library
from unmix_jax.scenes.scene import Scene, SpectralAxis, SpectralLibrary, header_of
from unmix_jax.types import Solution

NAMES = ("Soil", '=HYPERLINK("http://x")', "row")
HOSTILE = ("-1+1", "@a", "+b,c", "same", "same", 'quote "', "line\nend", "\tTab", "", "nan", "\x1b[31m", "Grès 树 😀")
CENTERS = np.linspace(450.0, 900.0, 8)


def run_of(folder, shape=(5, 6), *, names=NAMES, dtype=np.float32, unit="nm", **of_scene):
    """A run in a folder, its first pixel masked; numbers with many digits."""
    rng = np.random.default_rng(0)
    axis = SpectralAxis(CENTERS, np.full(8, 9.5), unit)
    good = np.arange(8) != 5
    library = SpectralLibrary(rng.uniform(0.1, 0.9, (len(names), 8)).astype(dtype), axis, names, good_bands=good)
    abundances = rng.dirichlet(np.full(len(names), 0.3), shape).astype(dtype)
    abundances.reshape(-1, len(names))[0] = np.nan
    residual = rng.uniform(0, 1e-3, shape).astype(dtype) + 0 * abundances[..., 0]
    converged = np.isfinite(residual) & (rng.random(shape) > 0.3)
    scene = Scene(np.ones((*shape, 8), dtype), axis, good_bands=good, quantity="radiance", **of_scene)
    solution = Solution(abundances, residual, residual * 1e-3, np.ones(shape, int), converged)
    write_results(folder, solution, scene, endmembers=library)
    return read_results(folder), scene, abundances, residual, converged


def table_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        heading, *rows = csv.reader(file)
    assert {len(row) for row in rows} == {len(heading)}
    return heading, rows


def numbers(rows, columns):
    return np.asarray([[float(row[i] or "nan") for i in columns] for row in rows])


# ---- what can be exported


@pytest.mark.parametrize(
    ("kinds", "taken"),
    [((), ()), (("mat",), ("mat",)), (["CSV", ".png", "csv"], ("csv", "png")), (export.KINDS, export.KINDS)],
)
def test_kinds(kinds, taken):
    assert check_exports(kinds) == taken


@pytest.mark.parametrize("kinds", [("xlsx",), ("mat", "")])
def test_other_kinds_are_refused(kinds):
    with pytest.raises(ValueError, match="exported as mat, csv, png, not as"):
        check_exports(kinds)


def test_what_matlab_cannot_hold_is_refused_before_the_work():
    size = {"shape": (4096, 4096), "endmembers": 32, "itemsize": 4}  # 2 GiB
    with pytest.raises(ValueError, match=r"4,096 × 4,096 × 32, 2.0 GiB\) are too large .* \(--rows, --columns\)"):
        check_exports(["mat"], **size)
    assert check_exports(["csv", "png"], **size) == ("csv", "png")
    assert check_exports(["mat"], **{**size, "endmembers": 31}) == ("mat",)


def test_paths_are_those_that_are_written(tmp_path):
    grid = {"crs": "EPSG:32611", "transform": (30.0, 0, 500000, 0, -30.0, 4100000)}
    results, scene, *_ = run_of(tmp_path / "run", header=header_of(grid))
    before = set((tmp_path / "run").iterdir())
    written = write_exports(tmp_path / "run", results, scene, export.KINDS)
    promised = set(export_paths(tmp_path / "run", export.KINDS))
    assert set((tmp_path / "run").iterdir()) - before == promised
    for path in written:
        assert path in promised or path.parent in promised
    assert {path.stem for path in written if path.suffix == ".png"} == {
        "scene", "endmembers", "abundances", "residual", "gap", "fits",
    }  # fmt: skip
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in written if path.suffix == ".png")


@pytest.mark.parametrize("shape", [(5, 6), (30,)])
def test_every_export_has_the_bound_on_abundances(tmp_path, shape):
    """Infinite where there is none; nothing where the pixel is masked."""
    _, scene, abundances, residual, converged = run_of(tmp_path / "without", shape)
    bound = np.resize(np.float32([1e-5, np.inf, 0.1234567]), shape) + 0 * residual
    solution = Solution(abundances, residual, residual, np.ones(shape, int), converged, abundance_bound=bound)
    library = read_results(tmp_path / "without").endmembers
    results = write_results(tmp_path / "run", solution, scene, endmembers=library)
    written = {path.name: path for path in write_exports(tmp_path / "run", results, scene, export.KINDS)}
    assert "abundance_bound.png" in written
    heading, rows = table_of(written["abundances.csv"])
    assert heading[-3:] == ["residual (radiance)", "bound on abundances", "converged"]
    np.testing.assert_array_equal(np.float32(numbers(rows, [-2])[:, 0]), bound.reshape(-1))
    assert rows[0][-2] == ""
    held = loadmat(written["abundances.mat"])["abundance_bound"]
    np.testing.assert_array_equal(held.reshape(-1), bound.reshape(-1))
    assert held.shape == (shape if len(shape) == 2 else (30, 1))


# ---- CSV


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_csv_holds_every_number(tmp_path, dtype):
    results, scene, abundances, residual, converged = run_of(tmp_path, dtype=dtype)
    (path,) = write_exports(tmp_path, results, scene, ["csv"])
    heading, rows = table_of(path)
    assert heading == [
        "row", "column", "Soil", "'=HYPERLINK(\"http://x\")", "row (endmember)", "residual (radiance)", "converged",
    ]  # fmt: skip
    np.testing.assert_array_equal(numbers(rows, [0, 1]), np.argwhere(np.ones((5, 6))))
    np.testing.assert_array_equal(numbers(rows, [2, 3, 4]).astype(results.solution.abundances.dtype), np.asarray(
        results.solution.abundances).reshape(-1, 3))  # fmt: skip
    np.testing.assert_allclose(numbers(rows, [2, 3, 4]), abundances.reshape(-1, 3), rtol=1e-7)
    np.testing.assert_allclose(numbers(rows, [5])[:, 0], residual.reshape(-1), rtol=1e-7)
    assert [row[6] for row in rows] == [str(int(c)) for c in converged.reshape(-1)]
    assert rows[0] == ["0", "0", "", "", "", "", "0"]  # masked


TRANSFORMS = {
    "north up": (30.0, 0.0, 500000.0, 0.0, -30.0, 4100000.0),
    "rotated": (25.98, 15.0, 500000.5, 15.0, -25.98, 4100000.25),
    "degrees": (0.000542232520256367, 0.0, -115.25, 0.0, -0.000542232520256367, 39.5),
}


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_coordinates_are_those_of_pixel_centres(tmp_path, transform):
    crs = "EPSG:4326" if abs(transform[0]) < 1 else "EPSG:32611"
    results, scene, *_ = run_of(tmp_path, header=header_of({"crs": crs, "transform": transform}))
    path, projection = write_exports(tmp_path, results, scene, ["csv"])
    heading, rows = table_of(path)
    assert heading[:4] == ["row", "column", "x", "y"]
    at = np.argwhere(np.ones((5, 6)))
    expected = np.stack(xy(Affine(*transform), at[:, 0], at[:, 1], offset="center"), axis=-1)
    np.testing.assert_allclose(numbers(rows, [2, 3]), expected, rtol=0, atol=1e-6 * abs(transform[0]))
    assert projection.name == "abundances.prj"
    assert CRS.from_wkt(projection.read_text(encoding="utf-8")) == CRS.from_string(crs)


def test_an_envi_header_and_a_swath_have_coordinates_too(tmp_path):
    info = ["UTM", "1", "1", "500000", "4100000", "30", "20", "11", "North", "WGS-84"]
    results, scene, *_ = run_of(tmp_path / "envi", header=header_of({"map info": info}))
    heading, rows = table_of(write_exports(tmp_path / "envi", results, scene, ["csv"])[0])
    assert heading[2:4] == ["x", "y"]
    assert [float(v) for v in rows[-1][2:4]] == [500000 + 5.5 * 30, 4100000 - 4.5 * 20]
    lat, lon = np.random.default_rng(1).uniform(-80, 80, (2, 5, 6))
    lat[2, 3] = np.nan
    results, scene, *_ = run_of(tmp_path / "swath", header=header_of({"location": {"lat": lat, "lon": lon}}))
    (path,) = write_exports(tmp_path / "swath", results, scene, ["csv"])
    heading, rows = table_of(path)
    assert heading[2:4] == ["longitude", "latitude"]
    np.testing.assert_allclose(numbers(rows, [2, 3]), np.stack([lon.ravel(), lat.ravel()], -1), atol=1e-9)
    assert rows[2 * 6 + 3][3] == ""


def test_a_list_keeps_its_names_and_no_cell_is_a_formula(tmp_path):
    results, scene, abundances, *_ = run_of(tmp_path, (len(HOSTILE),), names=HOSTILE, pixel_names=HOSTILE)
    heading, rows = table_of(write_exports(tmp_path, results, scene, ["csv"])[0])
    assert heading[:2] == ["spectrum", "name"]
    assert len(set(heading)) == len(heading)
    texts = heading + [row[1] for row in rows]
    assert not any(text.startswith(("=", "+", "-", "@", "\t", "\r")) for text in texts)
    assert all(text.isprintable() for text in texts)
    assert [row[0] for row in rows] == [str(i) for i in range(len(HOSTILE))]
    assert [row[1] for row in rows if "nan" in row[1]] == ["nan"]  # a name stays, though NaN is an empty cell
    assert rows[0][2:-1] == [""] * (len(HOSTILE) + 1)
    np.testing.assert_allclose(numbers(rows, range(2, 2 + len(HOSTILE))), abundances, rtol=1e-6)


def test_blocks_leave_no_trace_and_memory_does_not_grow(tmp_path, monkeypatch):
    monkeypatch.setattr("unmix_jax.results.BLOCK_BYTES", 40_000)
    results, scene, abundances, *_ = run_of(tmp_path, (120, 100), names=tuple("abcdefghij"))
    whole = write_exports(tmp_path, results, scene, ["csv"])[0].read_bytes()
    monkeypatch.setattr(export, "BLOCK_BYTES", 10_000)
    tracemalloc.start()
    path = write_exports(tmp_path, results, scene, ["csv"])[0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.read_bytes() == whole
    assert len(whole) > 3 * abundances.nbytes
    assert peak < 0.9 * abundances.nbytes


# ---- MATLAB


def test_matlab_holds_the_run(tmp_path):
    place = (30.0, 0.0, 500000.0, 0.0, -30.0, 4100000.0)
    results, scene, _, residual, converged = run_of(tmp_path, header=header_of(
        {"crs": "EPSG:32611", "transform": place}))  # fmt: skip
    (path,) = write_exports(tmp_path, results, scene, ["mat"])
    held = loadmat(path)
    np.testing.assert_array_equal(held["abundances"], np.asarray(results.solution.abundances))
    assert held["abundances"].shape == (5, 6, 3)
    np.testing.assert_allclose(held["residual"], residual)
    np.testing.assert_array_equal(held["converged"], converged)
    assert ("converged", (5, 6), "logical") in whosmat(path)
    assert ("names", (3, 1), "cell") in whosmat(path)
    assert [str(cell[0]) for cell in held["names"][:, 0]] == list(NAMES)
    np.testing.assert_allclose(held["endmembers"], results.endmembers.spectra)
    np.testing.assert_allclose(held["wavelength_nm"], [CENTERS])
    np.testing.assert_allclose(held["fwhm"], [np.full(8, 9.5)])
    assert held["wavelength_unit"].item() == "nm"
    assert held["quantity"][0, 0].item() == "radiance"
    np.testing.assert_array_equal(held["good_bands"], [np.arange(8) != 5])
    np.testing.assert_array_equal(held["transform"], [place])
    assert CRS.from_wkt(held["crs"].item()) == CRS.from_epsg(32611)
    assert all(name.isidentifier() and len(name) < 64 for name, *_ in whosmat(path))
    back = read_library(path)
    assert back.names == NAMES
    np.testing.assert_allclose(back.spectra, results.endmembers.spectra)


def test_matlab_holds_a_list_with_its_names(tmp_path):
    results, scene, *_ = run_of(tmp_path, (4,), unit="cm-1", pixel_names=("a", "b,", "ü", "x" * 300))
    held = loadmat(write_exports(tmp_path, results, scene, ["mat"])[0])
    assert held["abundances"].shape == (4, 3)
    assert held["residual"].shape == held["gap"].shape == (4, 1)
    assert [str(cell[0]) for cell in held["pixel_names"][:, 0]] == ["a", "b,", "ü", "x" * 300]
    np.testing.assert_allclose(held["wavenumber_cm1"], [CENTERS])
    assert held["wavelength_unit"].item() == "cm-1"


def test_matlab_texts_that_would_not_survive_have_escapes(tmp_path):
    results, scene, *_ = run_of(tmp_path, names=HOSTILE)
    held = loadmat(write_exports(tmp_path, results, scene, ["mat"])[0])
    assert held["text_escapes"].item() == 1
    texts = [str(cell[0]) for cell in held["names"][:, 0]]
    assert "line\\nend" in texts
    assert "Grès 树 \\U0001f600" in texts
    assert all(text.isprintable() and text for text in texts)


# ---- all


def test_nothing_half_written_is_left(tmp_path, monkeypatch):
    results, scene, *_ = run_of(tmp_path)
    write_exports(tmp_path, results, scene, export.KINDS)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    for kind, name in (("csv", "_quoted"), ("mat", "_cells"), ("png", "_saver"), ("csv", "os.replace")):
        with monkeypatch.context() as patch:
            patch.setattr(os if name == "os.replace" else export, name.removeprefix("os."), full)
            with pytest.raises(OSError, match="No space left"):
                write_exports(tmp_path, results, scene, [kind])
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_figures_of_a_large_scene_are_drawn_of_some_of_it(tmp_path, monkeypatch):
    _, scene, *_ = run_of(tmp_path, (16, 24))
    seen = {}
    for name in ("fits", "abundance_maps", "false_colour"):
        draw = getattr(export.plots, name)

        def record(*args, name=name, draw=draw, **options):
            seen[name] = (args, options)
            return draw(*args, **options)

        monkeypatch.setattr(export.plots, name, record)
    write_exports(tmp_path, read_results(tmp_path, every=8), scene, ["png", "csv"], every=8)
    assert seen["false_colour"][0][0].shape == (2, 3)
    assert seen["abundance_maps"][0][0].shape == (2, 3, 3)
    assert seen["fits"][1]["every"] == 8
    assert len(table_of(tmp_path / "abundances.csv")[1]) == 16 * 24  # tables are of all


def test_maps_of_many_endmembers_come_in_sheets(tmp_path):
    results, scene, *_ = run_of(tmp_path, (2, 3), names=tuple(f"m{i}" for i in range(25)))
    written = write_exports(tmp_path, results, scene, ["png"])
    assert {path.stem for path in written if "abundances" in path.stem} == {"abundances-1-20", "abundances-21-25"}


def test_a_run_that_is_masked_throughout(tmp_path):
    scene = Scene(np.zeros((2, 3, 4), np.float32))
    empty = jnp.full((2, 3), jnp.nan)
    solution = Solution(jnp.full((2, 3, 2), jnp.nan), empty, empty, jnp.zeros((2, 3), int), jnp.zeros((2, 3), bool))
    write_results(tmp_path, solution, scene, endmembers=SpectralLibrary(np.ones((2, 4), np.float32)))
    written = write_exports(tmp_path, read_results(tmp_path), scene, export.KINDS)
    assert {path.name for path in written} >= {"abundances.mat", "abundances.csv", "endmembers.png", "abundances.png"}
    assert {tuple(row[2:]) for row in table_of(tmp_path / "abundances.csv")[1]} == {("", "", "", "0")}


def test_a_library_in_three_formats(tmp_path):
    library = SpectralLibrary(np.random.default_rng(0).random((3, 8)).astype(np.float32), SpectralAxis(CENTERS), NAMES)
    written = write_library_exports(tmp_path / "found.v1", library, export.KINDS)
    assert [path.name for path in written] == ["found.v1.mat", "found.v1.csv", "found.v1.png"]
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in written}
    assert written[2].read_bytes()[:4] == b"\x89PNG"
    for path in written[:2]:
        back = read_library(path)
        assert back.names == NAMES
        np.testing.assert_array_equal(back.spectra, library.spectra)
    with pytest.raises(ValueError, match="exported as"):
        write_library_exports(tmp_path / "other", library, ["sli"])


# ---- the table of a list


def test_the_table_of_a_list(tmp_path):
    names = ("a\x1b[2J\nb", "long " * 40 + "1", "long " * 40 + "2", "", "c")
    results, scene, abundances, residual, _ = run_of(tmp_path, (25,), names=names)
    columns, rows = abundance_table(results, scene)
    assert columns[0] == "spectrum"
    assert columns[-1] == "RMS residual (radiance)"
    assert len(set(columns)) == len(columns) == 7
    assert all(text.isprintable() and len(text) <= 45 for text in columns)
    assert len(rows) == 20
    assert rows[0] == ["0", *("–" * 6)]
    for i in range(1, 20):
        assert rows[i] == [str(i), *(f"{a:.4f}" for a in abundances[i]), f"{residual[i]:#.3g}"]
    assert abundance_table(tmp_path, scene) == (columns, rows)
    assert len(abundance_table(tmp_path, scene, limit=99)[1]) == 25
    assert [row[0] for row in abundance_table(results, scene, limit=3, every=7)[1]] == ["0", "7", "14"]
    named = replace(scene, pixel_names=tuple(f"probe\t{i}" for i in range(25)))
    assert abundance_table(results, named)[1][3][0] == "probe 3"


def test_a_table_of_many_endmembers_sums_the_smallest(tmp_path):
    results, scene, abundances, *_ = run_of(tmp_path, (9,), names=tuple(f"m{i}" for i in range(30)))
    columns, rows = abundance_table(results, scene, most=8)
    assert len(columns) == 1 + 8 + 1
    assert columns[8] == "sum of 23 others"
    assert sum(float(cell) for cell in rows[1][1:-1]) == pytest.approx(1, abs=5e-4)
    means = np.nanmean(abundances, axis=0)
    kept = [int(name[1:]) for name in columns[1:8]]
    assert kept == sorted(kept)
    assert set(kept) == set(np.argsort(-means)[:7].tolist())
    assert len(abundance_table(results, scene, most=30)[0]) == 32


def test_an_image_has_no_table(tmp_path):
    results, scene, *_ = run_of(tmp_path)
    with pytest.raises(ValueError, match="needs a list of spectra"):
        abundance_table(results, scene)
