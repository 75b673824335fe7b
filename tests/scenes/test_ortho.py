"""Swaths on a grid: a loop over the table is the oracle; maps of runs, and what is refused."""

import numpy as np
import pytest
import rasterio
from emit_file import write_emit
from streams import LIBRARY, bounded, toy

from unmix_jax import results, unmix, unmix_file
from unmix_jax.results import read_results, write_results
from unmix_jax.scenes.georeference import place_in_words, place_note, shifted
from unmix_jax.scenes.ortho import check_ortho, ortho_place, orthorectify
from unmix_jax.scenes.readers import read_scene
from unmix_jax.scenes.scene import Header, Scene
from unmix_jax.scenes.writers import write_map

ROWS, COLUMNS, BANDS = 7, 5, 4
GRID = (9, 8)
PLACE = (5e-4, 0.0, -118.2, 0.0, -5e-4, 34.3)
RNG = np.random.default_rng(0)


def table():
    """As EMIT's: 1-based, 0 where no pixel lies; some cells with one entry only, which show none."""
    x = RNG.integers(1, COLUMNS + 1, GRID).astype("i4")
    y = RNG.integers(1, ROWS + 1, GRID).astype("i4")
    gap = RNG.random(GRID) < 0.3
    x[gap], y[gap] = 0, 0
    x[0, 0], y[0, 0] = 3, 0
    x[0, 1], y[0, 1] = 0, 3
    return x, y


def swath(x=None, y=None, **more):
    if x is None:
        x, y = table()
    cube = np.random.default_rng(1).integers(1, 100, (ROWS, COLUMNS, BANDS)).astype("f4")
    cube[2, 3] = np.nan
    lat, lon = np.meshgrid(np.linspace(34.3, 34.2, ROWS), np.linspace(-118.2, -118.1, COLUMNS), indexing="ij")
    header = {
        "glt": {"x": x, "y": y}, "glt_crs": "EPSG:4326", "glt_transform": PLACE, "location": {"lat": lat, "lon": lon},
    }  # fmt: skip
    return Scene(cube, name="swath", header=Header({**header, **more}))


def by_loop(values, x, y):
    """What NASA's ``apply_glt`` does, cell by cell."""
    out = np.full((*x.shape, *values.shape[2:]), np.nan, values.dtype)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            if x[i, j] != 0 and y[i, j] != 0:
                out[i, j] = values[abs(y[i, j]) - 1, abs(x[i, j]) - 1]
    return out


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3)])
@pytest.mark.parametrize("part", [1, 10**9])
def test_each_cell_shows_the_pixel_that_the_table_names(monkeypatch, shape, part):
    monkeypatch.setattr("unmix_jax.scenes.ortho.ROWS_BYTES", part)
    x, y = table()
    values = RNG.random((ROWS, COLUMNS, *shape)).astype("f4")
    found = orthorectify(values, swath(x, y))
    np.testing.assert_array_equal(found, by_loop(values, x, y))
    assert found.dtype == np.float32
    assert np.isnan(found[0, :2]).all()


def test_whole_numbers():
    x, y = table()
    values = np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS)
    wanted = by_loop(values.astype(float), x, y)
    np.testing.assert_array_equal(orthorectify(values, swath(x, y)), wanted)
    filled = orthorectify(values, swath(x, y), fill=-9999)
    assert filled.dtype == values.dtype
    np.testing.assert_array_equal(filled, np.where(np.isnan(wanted), -9999, wanted))


@pytest.mark.parametrize("kind", ["i2", "i8", "u2", "f4", "f8"])
def test_kinds_of_tables(kind):
    x, y = table()
    values = RNG.random((ROWS, COLUMNS))
    wanted = by_loop(values, x, y)
    turned = [np.where((t == 0) & (kind[0] == "f"), np.nan, t).astype(kind) for t in (x, y)]
    np.testing.assert_array_equal(orthorectify(values, swath(*turned)), wanted)
    if kind[0] != "u":
        marked = [np.where((x == 0) | (y == 0), -9999, t).astype(kind) for t in (x, y)]
        np.testing.assert_array_equal(orthorectify(values, swath(*marked)), wanted)
        assert check_ortho(swath(*marked)) is None


def test_entries_below_zero_name_the_nearest_pixel_and_this_is_told():
    x, y = table()
    x[5, 4], y[5, 4] = -2, -3
    values = RNG.random((ROWS, COLUMNS))
    scene = swath(x, y)
    assert orthorectify(values, scene)[5, 4] == values[2, 1]
    named = int(((x != 0) & (y != 0)).sum())
    assert check_ortho(scene).startswith(f"1 of {named} cells")
    assert place_note(scene, ortho=True) == check_ortho(scene)
    assert check_ortho(swath()) is None


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"glt": None}, r"swath: --ortho \(ortho=True\) needs a swath with a table"),
        ({"glt": {"x": np.ones(GRID, int)}}, "needs a swath with a table"),
        ({"glt": {"x": np.ones(GRID, int), "y": np.ones((2, 2), int)}}, "tables of one size"),
        ({"glt": {"x": np.ones(3, int), "y": np.ones(3, int)}}, "tables of one size"),
        ({"glt": {"x": np.full(GRID, 6), "y": np.ones(GRID, int)}}, "glt_x names column 6 in row 0, column 0"),
        ({"glt": {"x": np.ones(GRID, int), "y": np.full(GRID, -8)}}, "glt_y names row 8.*the swath has 7 rows"),
        ({"glt": {"x": np.full(GRID, 1.5), "y": np.ones(GRID)}}, "glt_x must hold whole numbers"),
        ({"glt": {"x": np.full(GRID, "1"), "y": np.ones(GRID)}}, "glt_x must hold whole numbers, got <U1"),
        ({"glt": {"x": np.zeros(GRID, int), "y": np.zeros(GRID, int)}}, "names no pixel"),
    ],
)
def test_what_has_no_table_is_refused_before_any_work(tmp_path, header, message):
    scene = swath(**header)
    with pytest.raises(ValueError, match=message):
        check_ortho(scene)
    with pytest.raises(ValueError, match=message):
        unmix_file(scene, toy(), tmp_path / "out", endmembers=LIBRARY, ortho=True)
    with pytest.raises(ValueError, match=message):
        write_results(tmp_path / "out", unmix(toy(), scene), scene, endmembers=LIBRARY, ortho=True)
    assert not (tmp_path / "out").exists()


def test_a_list_or_values_of_another_shape():
    scene = swath()
    with pytest.raises(ValueError, match="values have shape"):
        orthorectify(np.ones((COLUMNS, ROWS)), scene)
    with pytest.raises(ValueError, match="needs a swath"):
        check_ortho(Scene(np.ones((3, 4)), header=scene.header))


@pytest.mark.parametrize("part", [((0, 7), (0, 5)), ((2, 6), (1, 4)), ((0, 3), (0, 2)), ((6, 7), (4, 5))])
def test_a_part_of_a_swath_shows_the_same_cells(part):
    (top, bottom), (left, right) = part
    x, y = table()
    x[6, 6], y[6, 6] = -2, -4
    scene = swath(x, y)
    values = RNG.random((ROWS, COLUMNS))
    within = np.full_like(values, np.nan)
    within[top:bottom, left:right] = values[top:bottom, left:right]
    header = shifted(scene.header, top, left)
    piece = Scene(scene.cube[top:bottom, left:right], header=header)
    np.testing.assert_array_equal(orthorectify(values[top:bottom, left:right], piece), by_loop(within, x, y))
    again = Scene(piece.cube, header=shifted(header, 0, 0))
    np.testing.assert_array_equal(orthorectify(values[top:bottom, left:right], again), by_loop(within, x, y))
    assert ortho_place(piece) == ortho_place(scene)


@pytest.mark.parametrize("name", ["m.hdr", "m.tif"])
def test_maps_on_the_grid_lie_where_it_lies(tmp_path, name):
    scene = swath()
    values = RNG.random((ROWS, COLUMNS, 2)).astype("f4")
    path = write_map(tmp_path / name, values, ("a", "b"), scene, description="maps", ortho=True)
    with rasterio.open(path.with_suffix(".img") if name == "m.hdr" else path) as file:
        assert file.crs.to_epsg() == 4326
        assert tuple(file.transform)[:6] == PLACE
        found = np.moveaxis(file.read(), 0, -1)
    np.testing.assert_array_equal(np.where(found == -9999, np.nan, found), orthorectify(values, scene))


# Runs


@pytest.mark.parametrize("bytes_at_once", [1, 10**9])
def test_a_run_writes_its_maps_on_the_grid(tmp_path, monkeypatch, bytes_at_once):
    """The same numbers as in memory; what is stored stays a swath."""
    monkeypatch.setattr(results, "GRID_BYTES", bytes_at_once)
    scene = swath()
    options = {"endmembers": LIBRARY, "shade": "one", "ortho": True}
    record = unmix_file(scene, bounded(), tmp_path / "a", maps=("envi", "geotiff"), tile=8, **options)
    wanted = unmix(bounded(), scene)
    write_results(tmp_path / "b", wanted, scene, **options)
    stored = read_results(tmp_path / "a").solution
    np.testing.assert_array_equal(stored.abundances, wanted.abundances)
    lit = wanted.abundances[..., 1:] / wanted.abundances[..., 1:]
    maps = {
        "abundances": wanted.abundances, "residual": wanted.residual[..., None], "gap": wanted.gap[..., None],
        "abundances_without_shade": lit, "abundance_bound": wanted.abundance_bound[..., None],
    }  # fmt: skip
    for name, values in maps.items():
        for path in (tmp_path / "a" / f"{name}.img", tmp_path / "a" / f"{name}.tif", tmp_path / "b" / f"{name}.img"):
            with rasterio.open(path) as file:
                assert file.crs.to_epsg() == 4326
                assert tuple(file.transform)[:6] == PLACE
                found = np.moveaxis(file.read(), 0, -1)
            np.testing.assert_array_equal(
                np.where(found == -9999, np.nan, found), orthorectify(np.asarray(values), scene), err_msg=str(path)
            )
    degrees = np.fromfile(tmp_path / "a" / "location.img").reshape(2, ROWS, COLUMNS)
    np.testing.assert_array_equal(degrees[1], scene.header["location"]["lat"])
    assert record["place"]["ortho"] is True
    assert "results.zarr is in that of the swath" in record["place"]["maps"]
    assert record["place"]["note"] is None


def test_without_ortho_the_swath_is_told_of(tmp_path):
    scene = swath()
    record = unmix_file(scene, toy(), tmp_path / "a", endmembers=LIBRARY)
    note = record["place"]["note"]
    assert note.startswith("The maps carry no coordinate system: the scene is a swath")
    assert "location.img" in note
    assert "--ortho" in note
    assert note in record["notes"]
    assert note == place_note(scene)
    assert "no table (GLT)" in place_note(swath(glt=None))
    assert place_in_words(scene) == "longitude and latitude per pixel (swath), table of a grid (GLT)"


@pytest.mark.parametrize(("name", "value"), [("glt_crs", None), ("glt_crs", "nonsense"), ("glt_transform", None)])
def test_a_grid_that_lies_nowhere_is_told(name, value):
    note = place_note(swath(**{name: value}), ("envi", "geotiff"), ortho=True)
    assert note.startswith("The maps carry no coordinate system: the file does not say where the grid")


def test_a_run_goes_on_with_the_same_grid_only(tmp_path):
    scene = swath()

    def stop(done, *_):
        if done:
            raise KeyboardInterrupt

    options = {"endmembers": LIBRARY, "tile": 5}
    with pytest.raises(KeyboardInterrupt):
        unmix_file(scene, toy(), tmp_path / "a", progress=stop, ortho=True, **options)
    with pytest.raises(ValueError, match=r"maps on a grid \(ortho\) was True and is False"):
        unmix_file(scene, toy(), tmp_path / "a", **options)
    unmix_file(scene, toy(), tmp_path / "a", ortho=True, **options)
    unmix_file(scene, toy(), tmp_path / "b", ortho=True, **options)
    for name in ("abundances.img", "residual.img", "gap.hdr"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_emit(tmp_path):
    """A granule in NASA's layout, whole and in part."""
    cube = np.random.default_rng(2).uniform(0.1, 0.9, (ROWS, COLUMNS, 6)).astype("f4")
    path = write_emit(tmp_path / "emit.nc", cube, np.linspace(400, 900, 6))
    scene = read_scene(path)
    x, y = (np.asarray(scene.header["glt"][name]) for name in ("x", "y"))
    np.testing.assert_array_equal(orthorectify(cube, scene), by_loop(cube, x, y))
    map_path = write_map(tmp_path / "m.tif", cube[..., :2], ("a", "b"), scene, description="maps", ortho=True)
    with rasterio.open(map_path) as file:
        assert file.crs.to_epsg() == 4326
        assert tuple(file.transform)[:6] == pytest.approx(PLACE)
    part = read_scene(path, rows=(1, 5), columns=(2, 5))
    within = np.full_like(cube, np.nan)
    within[1:5, 2:5] = cube[1:5, 2:5]
    np.testing.assert_array_equal(orthorectify(cube[1:5, 2:5], part), by_loop(within, x, y))
    assert np.shape(part.header["location"]["lat"]) == (ROWS - 1, COLUMNS - 2)
