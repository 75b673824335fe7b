"""Runs written to a folder: what SPy, GDAL and the package itself read back, and what is refused."""

import json
import warnings

import numpy as np
import pytest
from helpers import assert_close

from unmix_jax.report import write_run_report
from unmix_jax.results import (
    OWN_FILES,
    check_folder,
    masked_pixels,
    read_results,
    write_results,
)
from unmix_jax.scenes.scene import Scene, SpectralAxis, SpectralLibrary, header_of
from unmix_jax.types import Solution

NAMES = ("Quartz, fine", "Grès à ciment µ", "$100 {oxide}")
WKT = (
    'PROJCS["WGS 84 / UTM zone 12N",GEOGCS["WGS 84",DATUM["WGS_1984",'
    'SPHEROID["WGS 84",6378137,298.257223563]],'
    'PRIMEM["Greenwich",0],UNIT["degree",0.0174532925199433]],PROJECTION["Transverse_Mercator"],'
    'PARAMETER["latitude_of_origin",0],PARAMETER["central_meridian",-111],PARAMETER["scale_factor",0.9996],'
    'PARAMETER["false_easting",500000],PARAMETER["false_northing",0],UNIT["metre",1]]'
)
GEOREFERENCE = {
    "Map Info": ["UTM", "1", "1", "500000", "4100000", "30", "20", "12", "North", "WGS-84"],
    "coordinate system string": WKT.split(","),
}


def make_scene(shape=(4, 6), *, unit="nm", header=GEOREFERENCE):
    centers = {"nm": [450.0, 550.0, 650.0, 900.0, 1600.0], "cm-1": [400.0, 500.0, 600.0, 700.0, 800.0]}[unit]
    axis = SpectralAxis(np.asarray(centers), np.full(5, 10.0), unit)
    rng = np.random.default_rng(0)
    spectra = rng.uniform(0.1, 0.9, (3, 5)).astype(np.float32)
    library = SpectralLibrary(spectra, axis, NAMES, good_bands=np.asarray([True] * 4 + [False]))
    abundances = rng.dirichlet(np.ones(3), shape).astype(np.float32)
    return Scene(abundances @ spectra, axis, name="tiny", header=header_of(header)), library, abundances


def make_solution(abundances, *, masked=True, **more):
    import jax.numpy as jnp

    values = np.array(abundances)
    if masked:
        values.reshape(-1, values.shape[-1])[0] = np.nan
    pixels = values.shape[:-1]
    invalid = np.isnan(values).any(axis=-1)
    number = np.where(invalid, np.nan, np.linspace(1e-9, 1e-7, invalid.size).reshape(pixels)).astype(np.float32)
    return Solution(
        jnp.asarray(values),
        jnp.asarray(number * 1e4),
        jnp.asarray(number),
        jnp.full(pixels, 2),
        jnp.asarray(~invalid),
        **more,
    )


@pytest.fixture
def run(tmp_path):
    scene, library, abundances = make_scene()
    solution = make_solution(abundances)
    folder = tmp_path / "run"
    config = {"method": "fcls", "x64": False, "tolerance": np.float32(0.5), "bands": np.arange(2)}
    write_results(folder, solution, scene, endmembers=library, config=config, timings={"unmix": 0.5}, seed=7)
    return folder, scene, library, solution


@pytest.mark.parametrize("name", ["abundances", "residual", "gap"])
def test_spy_reads_the_maps(run, name):
    from spectral.io import envi

    folder, _, _, solution = run
    image = envi.open(str(folder / f"{name}.hdr"))
    expected = np.asarray(getattr(solution, name))
    expected = expected if expected.ndim == 3 else expected[..., None]
    np.testing.assert_array_equal(np.asarray(image.load()), np.where(np.isnan(expected), -9999, expected))
    assert image.metadata["data ignore value"] == "-9999"
    assert image.metadata["map info"] == GEOREFERENCE["Map Info"]
    assert image.metadata["interleave"] == "bsq"
    assert f"coordinate system string = {{{WKT}}}" in (folder / f"{name}.hdr").read_text(encoding="utf-8")


def test_band_names_are_the_endmembers(run):
    from spectral.io import envi

    names = envi.open(str(run[0] / "abundances.hdr")).metadata["band names"]
    assert names == ["Quartz- fine", "Grès à ciment µ", "$100 -oxide-"]


def test_gdal_reads_the_maps_where_they_are_on_earth(run):
    rasterio = pytest.importorskip("rasterio")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # GDAL's own warnings about drivers are not under test
        with rasterio.open(run[0] / "abundances.img") as raster:
            assert raster.driver == "ENVI"
            assert raster.dtypes == ("float32",) * 3
            assert raster.nodata == -9999
            assert (raster.transform.c, raster.transform.f) == (500000, 4100000)
            assert (raster.transform.a, raster.transform.e) == (30, -20)
            assert raster.crs.to_dict()["proj"] == "utm"
            assert raster.crs.to_dict()["zone"] == 12
            assert "Grès à ciment µ" in raster.descriptions[1]
            values = np.moveaxis(raster.read(), 0, -1)
    expected = np.asarray(run[3].abundances)
    np.testing.assert_array_equal(values, np.where(np.isnan(expected), -9999, expected))


def test_spy_reads_the_endmembers(run):
    from spectral.io import envi

    library = envi.open(str(run[0] / "endmembers.hdr"))
    np.testing.assert_array_equal(library.spectra, run[2].spectra)
    assert library.names[1] == NAMES[1]
    assert library.bands.centers == list(run[2].axis.centers)
    assert library.bands.bandwidths == [10.0] * 5
    assert library.metadata["wavelength units"] == "Nanometers"


def test_zarr_reads_the_arrays(run):
    import zarr

    group = zarr.open_group(str(run[0] / "results.zarr"), mode="r")
    assert group["endmembers"].shape == (3, 5)
    assert group["abundances"].shape == (4, 6, 3)
    assert group.attrs["names"] == list(NAMES)
    assert "wavelength_nm" in group


def test_what_is_read_is_what_was_written(run):
    folder, _, library, solution = run
    back = read_results(folder)
    for field in ("abundances", "residual", "gap", "steps", "converged"):
        np.testing.assert_array_equal(getattr(back.solution, field), getattr(solution, field))
    assert back.endmembers.names == NAMES
    assert back.endmembers.axis.unit == "nm"
    assert_close(back.endmembers.axis.centers, library.axis.centers)
    np.testing.assert_array_equal(back.endmembers.good_bands, library.good_bands)
    assert back.record["scene"]["shape"] == [4, 6, 5]


def test_the_record_says_what_was_run(run):
    record = json.loads((run[0] / "record.json").read_text(encoding="utf-8"))
    assert record["config"] == {"method": "fcls", "x64": False, "tolerance": 0.5, "bands": [0, 1]}
    assert record["seed"] == 7
    assert record["pixels"] == {"total": 24, "valid": 23, "masked": 1}
    assert record["converged_share"] == 1.0
    assert record["gap"]["worst"] == pytest.approx(1e-7)
    assert record["timings_s"] == {"unmix": 0.5}
    assert {"unmix_jax", "jax", "numpy", "python", "device"} <= record["environment"].keys()
    assert sum(record["mean_abundances"]) == pytest.approx(1, abs=1e-5)


BOUNDS = {
    "all proved": (1e-9, 1e-8, 1e-7, 3e-7, 2e-7, 0.0),
    "some too large": (1e-9, 5e-7, 2e-2, 9e-4, 1e-4, 0.3),
    "some not unique": (1e-9, np.inf, 1e-5, np.inf, 1e-4, 1e-9),
    "some undefined": (1e-9, np.nan, np.inf, 1e-8, 1e-7, 1e-6),
    "none proved": (np.inf,) * 6,
    "none": None,
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("told", [None, (True, False, True, True, True, True)], ids=["", "unique"])
@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.usefixtures("x64")
def test_the_record_says_what_was_proved(tmp_path, name, told, dtype):
    """Counts over the pixels that are not masked, of the gap and of the bound, against plain loops."""
    from spectral.io import envi

    limit, tolerance = {np.float32: (1e-3, 3e-5), np.float64: (1e-6, 1e-12)}[dtype]
    scene, library, abundances = make_scene((7,))
    values, bounds = abundances.astype(dtype), BOUNDS[name]
    values[0] = np.nan  # masked
    gaps = np.array([np.nan, 0.9 * tolerance, 1.1 * tolerance, 0, np.nan, 1e-16, 0.5], dtype)
    bound = None if bounds is None else np.array([np.nan, *bounds], dtype)
    unique = None if told is None else np.array([False, *told])
    solution = Solution(values, np.abs(gaps), gaps, np.ones(7, int), gaps < 1e-3, unique=unique, abundance_bound=bound)
    record = write_results(tmp_path, solution, scene, endmembers=library).record
    assert record["gap"] == {
        "worst": pytest.approx(0.5), "median": pytest.approx(0.9 * tolerance), "tolerance": tolerance, "reached": 3,
        "reached_share": 0.5,
    }  # fmt: skip
    back = read_results(tmp_path)
    assert back.record == record
    if bounds is None:
        assert record["abundance_bound"] is back.solution.abundance_bound is None
        assert not (tmp_path / "abundance_bound.img").exists()
        return
    known = [b for b in bound[1:].tolist() if np.isfinite(b)]
    without = 6 - len(known)
    open_ = sum(not np.isfinite(b) and not u for b, u in zip(bounds, told or (), strict=False))
    assert record["abundance_bound"] == {
        "limit": limit, "within": sum(b <= limit for b in known),
        "within_share": pytest.approx(sum(b <= limit for b in known) / 6), "largest": max(known, default=None),
        "median": pytest.approx(np.median(known)) if known else None, "without": without,
        "without_not_unique": None if told is None else open_,
    }  # fmt: skip
    np.testing.assert_array_equal(back.solution.abundance_bound, bound)
    assert back.solution.abundance_bound.dtype == dtype
    image = envi.open(str(tmp_path / "abundance_bound.hdr"))
    assert image.metadata["band names"] == ["bound on abundances"]
    np.testing.assert_array_equal(
        np.asarray(image.load()).reshape(-1), np.float32(np.where(np.arange(7) == 0, -9999, np.nan_to_num(
            bound, nan=-9999, posinf=np.inf))),
    )  # fmt: skip
    notes = [note for note in record["notes"] if "no bound on abundances" in note]
    assert len(notes) == (without > open_)
    for note in notes:
        assert note.startswith(f"{without - open_} of 6 pixels have no bound on abundances: endmembers depend on each")
        assert ("--x64" in note) == (dtype == np.float32)


def test_a_run_of_an_earlier_version_is_read(tmp_path):
    """It has no bounds, and its record neither counts nor tolerance."""
    import shutil

    scene, library, abundances = make_scene()
    bound = np.full((4, 6), 1e-5, np.float32)
    write_results(tmp_path, make_solution(abundances, abundance_bound=bound), scene, endmembers=library)
    shutil.rmtree(tmp_path / "results.zarr" / "abundance_bound")
    path = tmp_path / "record.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    del record["abundance_bound"], record["gap"]["tolerance"], record["gap"]["reached"], record["gap"]["reached_share"]
    path.write_text(json.dumps(record), encoding="utf-8")
    back = read_results(tmp_path)
    assert back.solution.abundance_bound is None
    report = write_run_report(tmp_path / "report.html", back, scene).read_text(encoding="utf-8")
    assert "no bound on abundances" in report
    assert "pixels converged" in report


@pytest.mark.parametrize("unit", ["nm", "cm-1"])
def test_a_list_of_spectra(tmp_path, unit):
    import jax.numpy as jnp

    scene, library, abundances = make_scene((7,), unit=unit)
    more = {
        "covariance": jnp.ones((7, 3, 3)),
        "unique": jnp.ones(7, bool),
        "fitted": jnp.arange(14.0).reshape(7, 2),
    }
    solution = make_solution(abundances, **more)
    write_results(tmp_path, solution, scene, endmembers=library)
    from spectral.io import envi

    image = envi.open(str(tmp_path / "abundances.hdr"))
    assert image.shape == (1, 7, 3)
    assert "map info" not in image.metadata  # a list lies nowhere
    back = read_results(tmp_path)
    assert back.solution.abundances.shape == (7, 3)
    assert back.endmembers.axis.unit == unit
    for field, value in more.items():
        np.testing.assert_array_equal(getattr(back.solution, field), value)
    assert back.record["not_unique"] == 0


def test_fitted_trees_are_kept_by_name(tmp_path):
    scene, library, abundances = make_scene()
    fitted = {"b": np.ones((4, 6)), "more": (np.zeros((4, 6, 2)),)}
    write_results(tmp_path, make_solution(abundances, fitted=fitted), scene, endmembers=library)
    back = read_results(tmp_path).solution.fitted
    assert {name: values.shape for name, values in back.items()} == {"b": (4, 6), "more.0": (4, 6, 2)}


def test_longitude_and_latitude_are_written_beside_the_maps(tmp_path):
    from spectral.io import envi

    lon, lat = np.meshgrid(np.linspace(-118.2, -118.1, 6), np.linspace(34.3, 34.2, 4))
    scene, library, abundances = make_scene(header={"location": {"lon": lon, "lat": lat}})
    write_results(tmp_path, make_solution(abundances), scene, endmembers=library)
    image = envi.open(str(tmp_path / "location.hdr"))
    assert image.metadata["band names"] == ["longitude", "latitude"]
    np.testing.assert_array_equal(np.asarray(image.open_memmap()), np.stack([lon, lat], axis=-1))


def test_a_part_of_a_run_is_read(run):
    back, whole = read_results(run[0], every=2).solution, run[3]
    np.testing.assert_array_equal(back.abundances, whole.abundances[::2, ::2])
    np.testing.assert_array_equal(back.converged, whole.converged[::2, ::2])


def test_the_map_without_shade(tmp_path):
    from spectral.io import envi

    scene, library, abundances = make_scene()
    write_results(tmp_path, make_solution(abundances), scene, endmembers=library, shade=NAMES[1])
    image = envi.open(str(tmp_path / "abundances_without_shade.hdr"))
    assert len(image.metadata["band names"]) == 2
    lit = abundances[..., [0, 2]] / (1 - abundances[..., 1:2])
    np.testing.assert_allclose(np.asarray(image.load())[1:], lit[1:], rtol=1e-4)
    assert image.load()[0, 0, 0] == -9999
    with pytest.raises(ValueError, match="no endmember is named 'fog'"):
        write_results(tmp_path / "new", make_solution(abundances), scene, endmembers=library, shade="fog")


def test_a_scene_that_is_masked_throughout(tmp_path):
    scene, library, abundances = make_scene()
    solution = make_solution(np.full_like(abundances, np.nan), masked=False)
    record = write_results(tmp_path, solution, scene, endmembers=library).record
    assert record["pixels"]["valid"] == 0
    assert record["converged_share"] is None
    assert record["gap"]["worst"] is None
    assert masked_pixels(solution).all()


def test_another_run_is_refused_and_kept(run):
    folder, scene, library, solution = run
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="holds another run"):
        write_results(folder, solution, scene, endmembers=library)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_overwriting_replaces_the_run_and_nothing_else(run):
    folder, scene, library, solution = run
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match=r"belong to no run \(notes.txt\)"):
        write_results(folder, solution, scene, endmembers=library, overwrite=True)
    assert (folder / "notes.txt").read_text(encoding="utf-8") == "mine"
    (folder / "notes.txt").unlink()
    (folder / "report.html").write_text("of the old run", encoding="utf-8")
    write_results(folder, solution, scene, endmembers=library, seed=8, overwrite=True)
    assert read_results(folder).record["seed"] == 8
    assert not (folder / "report.html").exists()


def test_folders_that_may_be_written_to(tmp_path):
    assert check_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert not (tmp_path / "a").exists()  # looking creates nothing
    assert check_folder(str(tmp_path)) == tmp_path  # empty is fine
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(ValueError, match="is a file"):
        check_folder(tmp_path / "file")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"belong to no run \(file\)"):
            check_folder(tmp_path, overwrite=overwrite)
    (tmp_path / "file").unlink()
    (tmp_path / "record.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="holds another run"):
        check_folder(tmp_path)
    assert check_folder(tmp_path, overwrite=True) == tmp_path


def test_a_crash_leaves_no_folder_that_looks_complete(tmp_path, monkeypatch):
    scene, library, abundances = make_scene()

    def crash(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr("unmix_jax.results.summarise", crash)
    with pytest.raises(OSError, match="disk full"):
        write_results(tmp_path, make_solution(abundances), scene, endmembers=library)
    with pytest.raises(FileNotFoundError, match="no finished run"):
        read_results(tmp_path)


def test_everything_written_is_known_to_the_eraser(run):
    assert {path.name for path in run[0].iterdir()} <= set(OWN_FILES)


def test_shapes_that_do_not_belong_together(tmp_path):
    scene, library, abundances = make_scene()
    with pytest.raises(ValueError, match=r"\(4, 6, 2\).*\(4, 6, 3\)"):
        write_results(tmp_path / "run", make_solution(abundances[..., :2]), scene, endmembers=library)
    assert not (tmp_path / "run").exists()
