"""Runs from file to files: the same as in memory, whatever the file, and the same bytes however they are stopped."""

import dataclasses
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import streams
from streams import BANDS, COLUMNS, LIBRARY, NODATA, ROWS, bounded, bytes_of, cube, stream, toy, write_envi

from unmix_jax import Scene, on_bands, plan_run, planning, read_results, read_scene, resuming, unmix, write_results
from unmix_jax.resuming import check_run
from unmix_jax.scenes.lazy import LazyCube
from unmix_jax.scenes.rows import Rows
from unmix_jax.store import Journal

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(planning, "BLOCK_BYTES", planning.BLOCK_BYTES)


@pytest.fixture
def scene(tmp_path):
    return read_scene(write_envi(tmp_path / "scene.hdr", cube()))


@pytest.fixture
def whole(scene, tmp_path):
    """What a run leaves that is not stopped."""
    stream(scene, tmp_path / "whole")
    return bytes_of(tmp_path / "whole")


def assert_same(found, wanted):
    for name in ("abundances", "residual", "gap", "steps", "converged"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), err_msg=name)
    for name, values in wanted.fitted.items():
        np.testing.assert_array_equal(found.fitted[name], values, err_msg=name)


# The same as in memory


def geotiff(path):
    import rasterio

    with rasterio.open(
        path / "scene.tif", "w", driver="GTiff", height=ROWS, width=COLUMNS, count=BANDS, dtype="float32",
        crs="EPSG:32611", transform=rasterio.Affine(30, 0, 4e5, 0, -30, 4e6), nodata=NODATA,
    ) as file:  # fmt: skip
        file.write(np.moveaxis(cube(), -1, 0))
    return read_scene(path / "scene.tif")


def zarr_group(path):
    import zarr

    group = zarr.create_group(str(path / "scene.zarr"))
    group.create_array("cube", data=cube(), chunks=(5, COLUMNS, BANDS))
    group.create_array("wavelength_nm", data=np.arange(BANDS) * 10.0 + 400)
    return read_scene(path / "scene.zarr")


def npy(path):
    np.save(path / "scene.npy", cube())
    return read_scene(path / "scene.npy")


def scaled(path):
    stored = np.where(np.isnan(cube()), NODATA, cube()).astype(np.int16)
    return read_scene(write_envi(path / "scene.hdr", stored, "bil", "reflectance scale factor = 4\n"))


SCENES = {
    "bip": lambda path: read_scene(write_envi(path / "scene.hdr", cube(), "bip")),
    "bil": lambda path: read_scene(write_envi(path / "scene.hdr", cube(), "bil")),
    "bsq": lambda path: read_scene(write_envi(path / "scene.hdr", cube(), "bsq")),
    "integers with a scale": scaled,
    "GeoTIFF": geotiff,
    "Zarr": zarr_group,
    "npy": npy,
    "in memory": lambda path: Scene(cube(), nodata=NODATA),
    "big-endian": lambda path: Scene(cube().astype(">f4"), nodata=NODATA),
    "converted": lambda path: Scene(LazyCube(cube())),
    "a list": lambda path: Scene(cube().reshape(-1, BANDS), nodata=NODATA),
    "one column": lambda path: Scene(cube()[:, 2:3], nodata=NODATA),
    "one row": lambda path: Scene(cube()[3:4], nodata=NODATA),
    "one pixel": lambda path: Scene(cube()[3:4, 2:3], nodata=NODATA),
    "masked": lambda path: Scene(cube(), nodata=NODATA, mask=np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS) % 3 > 0),
    "nothing valid": lambda path: Scene(np.full((ROWS, COLUMNS, BANDS), np.nan, np.float32)),
}


@pytest.mark.parametrize("kind", SCENES)
def test_it_is_what_is_computed_in_memory(kind, tmp_path):
    scene = SCENES[kind](tmp_path)
    record = stream(scene, tmp_path / "out")
    wanted = unmix(toy(), scene, tile=16)
    found = read_results(tmp_path / "out")
    assert_same(found.solution, wanted)
    assert record == found.record == json.loads((tmp_path / "out" / "record.json").read_text(encoding="utf-8"))
    valid = ~np.isnan(wanted.abundances[..., 0])
    assert record["pixels"] == {"total": valid.size, "valid": int(valid.sum()), "masked": int((~valid).sum())}
    if valid.any():
        assert record["converged_share"] == pytest.approx(wanted.converged[valid].mean())
        assert record["gap"]["median"] == pytest.approx(np.median(wanted.gap[valid]))
        assert record["residual_rms"] == pytest.approx(np.sqrt(np.mean(wanted.residual[valid].astype(float) ** 2)))
        np.testing.assert_allclose(record["mean_abundances"], wanted.abundances[valid].mean(0), rtol=1e-5)
    assert not (tmp_path / "out" / "unfinished").exists()


@pytest.mark.parametrize("tile", [1, 7, 16, 64, 1000])
def test_the_tile_does_not_matter(scene, tmp_path, tile):
    stream(scene, tmp_path / "out", tile=tile)
    assert_same(read_results(tmp_path / "out").solution, unmix(toy(), scene, tile=16))


def test_sizes_are_chosen(scene, tmp_path):
    record = stream(scene, tmp_path / "out", tile=None)
    assert_same(read_results(tmp_path / "out").solution, unmix(toy(), scene))
    assert record["stream"]["blocks"] == 1  # all rows are one strip here


def test_the_key_of_a_pixel_is_its_own(scene, tmp_path):
    key = jax.random.key(3)
    stream(scene, tmp_path / "out", key=key)
    assert_same(read_results(tmp_path / "out").solution, unmix(toy(), scene, key=key, tile=16))


@pytest.mark.parametrize("maps", [("envi",), ("geotiff",), ("envi", "geotiff")])
def test_maps_are_what_was_computed_and_lie_where_the_scene_lies(tmp_path, maps):
    import rasterio

    scene = geotiff(tmp_path)
    stream(scene, tmp_path / "out", maps=maps)
    wanted = unmix(toy(), scene, tile=16)
    ends = {"envi": ".img", "geotiff": ".tif"}
    there = {path.name for path in (tmp_path / "out").iterdir()}
    assert {f"{name}{ends[kind]}" for name in ("abundances", "residual", "gap") for kind in maps} <= there
    for kind in maps:
        with rasterio.open(tmp_path / "out" / f"abundances{ends[kind]}") as file:
            assert file.crs.to_epsg() == 32611
            assert file.transform[:6] == (30, 0, 4e5, 0, -30, 4e6)
            assert file.nodata == NODATA
            assert file.descriptions == ("one", "two")
            values = np.moveaxis(file.read(), 0, -1)
        np.testing.assert_array_equal(np.where(values == NODATA, np.nan, values), wanted.abundances)


@pytest.mark.parametrize("turned", ["", "rotation=30, "])
def test_an_envi_scene_gives_geotiffs_a_place(tmp_path, turned):
    """The place that GDAL reads in the scene's own header."""
    import rasterio
    from rasterio.crs import CRS

    wkt = CRS.from_epsg(32611).to_wkt(version="WKT1_ESRI")
    place = f"map info = {{UTM, 1.5, 2, 400000, 4000000, 20, 10, 11, North, WGS-84, {turned}units=Meters}}\n"
    header = write_envi(tmp_path / "scene.hdr", cube(), "bsq", f"{place}coordinate system string = {{{wkt}}}\n")
    stream(read_scene(header), tmp_path / "out", maps=("geotiff",))
    with rasterio.open(tmp_path / "out" / "gap.tif") as file, rasterio.open(tmp_path / "scene.img") as wanted:
        assert file.crs.to_epsg() == 32611
        np.testing.assert_allclose(file.transform[:6], wanted.transform[:6], rtol=1e-9)
        assert bool(file.transform.b) == bool(turned)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("maps", [("envi",), ("geotiff",), ("envi", "geotiff")])
def test_the_bound_on_abundances_has_a_map(scene, tmp_path, maps):
    """Infinite stays infinite, since -9999 is for pixels that are masked; as many bytes as were promised."""
    import rasterio

    plans = []
    record = stream(scene, tmp_path / "out", bounded(), maps=maps, planning=plans.append)
    wanted = unmix(bounded(), scene).abundance_bound
    np.testing.assert_array_equal(read_results(tmp_path / "out").solution.abundance_bound, wanted)
    assert np.isinf(wanted).any()
    assert np.isnan(wanted).any()
    for end in ({"envi": ".img", "geotiff": ".tif"}[kind] for kind in maps):
        with rasterio.open(tmp_path / "out" / f"abundance_bound{end}") as file:
            assert file.nodata == NODATA
            assert file.descriptions == ("bound on abundances",)
            np.testing.assert_array_equal(file.read(1), np.where(np.isnan(wanted), NODATA, wanted))
    valid = wanted[~np.isnan(wanted)]
    known = valid[np.isfinite(valid)]
    assert record["abundance_bound"] == {
        "limit": 1e-3, "within": int((known <= 1e-3).sum()),
        "within_share": pytest.approx((known <= 1e-3).sum() / valid.size), "largest": float(known.max()),
        "median": pytest.approx(np.median(known)), "without": valid.size - known.size, "without_not_unique": None,
    }  # fmt: skip
    inner = 4 * 2 + 4 * 4 + 2 + 4 + 1  # two abundances, four floats, int16, int32 and bool
    assert plans[0].output_bytes == ROWS * COLUMNS * (inner + 4 * len(maps) * (2 * 2 + 3))


def test_an_unfinished_run_with_other_arrays_is_refused(scene, tmp_path):
    """As of an earlier version of a method, which had no bound on abundances."""
    with pytest.raises(Stop):
        stream(scene, tmp_path / "out", progress=stopping(3))
    path = tmp_path / "out" / "unfinished" / "run.json"
    run = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**run, "results": [*run["results"], "other"]}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"unfinished run of something else: results was .*'other'"):
        stream(scene, tmp_path / "out")


def test_progress_counts_every_pixel_and_what_did_not_converge(scene, tmp_path):
    seen = []
    record = stream(scene, tmp_path / "out", progress=lambda *told: seen.append(told))
    assert seen[0] == (0, ROWS * COLUMNS, 0.0)
    assert [done for done, _, _ in seen] == sorted({done for done, _, _ in seen})
    assert seen[-1][:2] == (ROWS * COLUMNS, ROWS * COLUMNS)
    assert seen[-1][2] == pytest.approx(1 - record["converged_share"])


def test_files_are_added_before_all_is_in_place(scene, tmp_path):
    def add(folder, record):
        assert read_results(folder).record == record
        (folder / "report.html").write_text("hello", encoding="utf-8")

    stream(scene, tmp_path / "out", finishing=add, more={"note": 1})
    assert (tmp_path / "out" / "report.html").read_text(encoding="utf-8") == "hello"
    assert read_results(tmp_path / "out").record["note"] == 1


# However it is stopped


class Stop(Exception):
    pass


def stopping(at):
    """Progress that ends the run at some block."""
    calls = iter(range(1000))

    def progress(*_):
        if next(calls) == at:
            raise Stop

    return progress


@pytest.mark.parametrize("at", [0, 1, 3, 6])
def test_a_stopped_run_goes_on(scene, tmp_path, whole, at):
    with pytest.raises(Stop):
        stream(scene, tmp_path / "out", progress=stopping(at))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["unfinished"]
    with pytest.raises(FileNotFoundError, match="an unfinished one is in unfinished"):
        read_results(tmp_path / "out")
    check_run(tmp_path / "out")
    record = stream(scene, tmp_path / "out")
    assert record["stream"]["blocks_found_done"] in (at - 1, at) if at else record["stream"]["blocks_found_done"] == 0
    assert bytes_of(tmp_path / "out") == whole


@pytest.mark.parametrize("moves", range(9))
def test_a_run_that_was_stopped_as_it_put_things_in_place_goes_on(scene, tmp_path, whole, monkeypatch, moves):
    """After each move, twice; after the last, before anything is cleared away."""
    replace, clear = os.replace, resuming._clear

    def halting(source, target):
        nonlocal left
        if Path(target).parent == tmp_path / "out":
            left -= 1
            if left < 0:
                raise Stop
        return replace(source, target)

    def never(folder):
        if (folder.parent / "record.json").exists():
            raise Stop
        clear(folder)

    with monkeypatch.context() as patch:
        patch.setattr("unmix_jax.resuming.os.replace", halting)
        patch.setattr("unmix_jax.resuming._clear", never)
        for _ in range(2):
            left = moves
            with pytest.raises(Stop):
                stream(scene, tmp_path / "out")
    record = stream(scene, tmp_path / "out")
    assert bytes_of(tmp_path / "out") == whole
    assert read_results(tmp_path / "out").record == record


@pytest.mark.parametrize("damage", ["shorter", "other", "gone"])
def test_a_block_that_did_not_reach_the_disk_is_computed_again(scene, tmp_path, whole, damage):
    with pytest.raises(Stop):
        stream(scene, tmp_path / "out", progress=stopping(4))
    chunk = tmp_path / "out" / "unfinished" / "results.zarr" / "abundances" / "c" / "1" / "0" / "0"
    content = chunk.read_bytes()
    if damage == "gone":
        chunk.unlink()
    else:
        chunk.write_bytes(content[:-5] if damage == "shorter" else content[:-1] + bytes([content[-1] ^ 1]))
    record = stream(scene, tmp_path / "out")
    assert 1 <= record["stream"]["blocks_found_done"] <= 3
    assert bytes_of(tmp_path / "out") == whole


def test_a_torn_journal_is_no_harm(scene, tmp_path, whole):
    with pytest.raises(Stop):
        stream(scene, tmp_path / "out", progress=stopping(3))
    journal = next((tmp_path / "out" / "unfinished").glob("blocks-*.jsonl"))
    journal.write_bytes(journal.read_bytes()[:-7] + b'\n{"block": 99, "sums": {}}\n{"block": null}\nnonsense\n')
    stream(scene, tmp_path / "out")
    assert bytes_of(tmp_path / "out") == whole


def test_killed_at_any_moment(scene, tmp_path, whole):
    """SIGKILL to a process that runs it, at random moments; the last attempt runs through."""
    command = [sys.executable, streams.__file__, str(tmp_path / "scene.hdr"), str(tmp_path / "out"), "0.15"]
    rng = random.Random(1)
    for kill in (True, True, True, False):
        process = subprocess.Popen(command, env=ENVIRONMENT)
        begun, patience = time.time(), rng.uniform(0.05, 0.5)
        while kill and process.poll() is None and time.time() - begun < 120:
            if (tmp_path / "out" / "unfinished" / "run.json").exists():
                time.sleep(patience)
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.02)
        assert process.wait(120) == (-signal.SIGKILL if kill else 0)
        if kill:
            assert {path.name for path in (tmp_path / "out").iterdir()} == {"unfinished"}
    assert bytes_of(tmp_path / "out") == whole


def test_geotiffs_go_on_as_well(scene, tmp_path):
    stream(scene, tmp_path / "whole", maps=("geotiff",))
    with pytest.raises(Stop):
        stream(scene, tmp_path / "out", maps=("geotiff",), progress=stopping(3))
    stream(scene, tmp_path / "out", maps=("geotiff",))
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")


def test_a_geotiff_that_did_not_reach_the_disk(scene, tmp_path, monkeypatch):
    """GDAL says nothing of a full disk when it closes a file."""
    from unmix_jax.scenes.writers import MapFile

    close = MapFile.close

    def cut(self):
        close(self)
        os.truncate(self.path, 200)

    with monkeypatch.context() as patch:
        patch.setattr(MapFile, "close", cut)
        with pytest.raises(OSError, match=r"cannot be written: the disk is full\. 6 of 6 blocks are done"):
            stream(scene, tmp_path / "out", maps=("geotiff",))
    stream(scene, tmp_path / "out", maps=("geotiff",))
    assert (tmp_path / "out" / "record.json").exists()


def test_wide_rows_are_several_tiles(tmp_path):
    wide = Scene(np.random.default_rng(0).uniform(1, 100, (3, 700, BANDS)).astype(np.float32))
    stream(wide, tmp_path / "out", tile=64)
    assert_same(read_results(tmp_path / "out").solution, unmix(toy(), wide, tile=64))


def test_a_run_that_overwrites_goes_on_as_well(scene, tmp_path, whole):
    """A job that is queued again with its command as it was; but something else is begun anew."""
    stream(scene, tmp_path / "out", tile=32)
    for at in (3, 2):
        with pytest.raises(Stop):
            stream(scene, tmp_path / "out", overwrite=True, progress=stopping(at))
    assert stream(scene, tmp_path / "out", overwrite=True)["stream"]["blocks_found_done"] >= 2
    assert bytes_of(tmp_path / "out") == whole


@pytest.mark.usefixtures("x64")
def test_double_precision_goes_on_as_well(tmp_path):
    scene = Scene(cube().astype(np.float64) / 300, nodata=NODATA / 300)
    stream(scene, tmp_path / "whole", shade="two")
    with pytest.raises(Stop):
        stream(scene, tmp_path / "out", shade="two", progress=stopping(3))
    stream(scene, tmp_path / "out", shade="two")
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")
    assert read_results(tmp_path / "out").solution.abundances.dtype == np.float64


# What is refused

FIRST_THREE = np.array([True, True, True, False])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"tile": 32}, r"tile \(pixels\) was 16 and is 32"),
        ({"maps": ("geotiff",)}, r"maps was \['envi'\] and is \['geotiff'\]"),
        ({"shade": "one"}, "shade was None and is 'one'"),
        ({"key": jax.random.key(0)}, "random key was None and is '"),
        ({"config": {"method": "other", "out": "elsewhere"}}, "option method was 'toy' and is 'other'"),
        (
            {"good_bands": FIRST_THREE, "unmixer": on_bands(streams.toy(), FIRST_THREE)},
            "good bands was None and is",
        ),
        ({"unmixer": streams.Toy(jnp.asarray([1.0, 3.0]))}, "method and its numbers was"),
        ({"endmembers": dataclasses.replace(LIBRARY, spectra=2 * LIBRARY.spectra)}, "endmembers was"),
    ],
)
def test_something_else_does_not_go_on(scene, tmp_path, whole, changed, said):
    options = {"config": {"method": "toy", "out": "here"}}
    with pytest.raises(Stop):
        stream(scene, tmp_path / "out", progress=stopping(3), **options)
    with pytest.raises(ValueError, match=f"holds an unfinished run of something else: .*{said}"):
        stream(scene, tmp_path / "out", **(options | changed))
    stream(scene, tmp_path / "out", **options)
    assert bytes_of(tmp_path / "out") == whole


def test_another_scene_does_not_go_on(scene, tmp_path):
    with pytest.raises(Stop):
        stream(scene, tmp_path / "out", progress=stopping(3))
    other = cube()
    other[5, 5] += 1
    write_envi(tmp_path / "scene.hdr", other)
    with pytest.raises(ValueError, match=r"scene's file, modified .* was"):
        stream(read_scene(tmp_path / "scene.hdr"), tmp_path / "out")
    with pytest.raises(ValueError, match=r"scene's shape was \[23, 9, 4\] and is \[22, 9, 4\]"):
        stream(Scene(cube()[1:], nodata=NODATA), tmp_path / "out")
    stream(read_scene(tmp_path / "scene.hdr"), tmp_path / "out", overwrite=True)
    assert_same(read_results(tmp_path / "out").solution, unmix(toy(), other, tile=16, nodata=NODATA))


def test_two_runs_in_one_folder(scene, tmp_path, whole):
    """The second is refused while the first one runs, and disturbs nothing."""
    refused = []

    def second(done, *_):
        if done and not refused:
            for options in ({}, {"overwrite": True}):
                with pytest.raises(ValueError, match="another run is writing to"):
                    stream(scene, tmp_path / "out", **options)
                refused.append(options)
            with pytest.raises(ValueError, match="another run is writing to"):
                write_results(tmp_path / "out", unmix(toy(), scene), scene, endmembers=LIBRARY, overwrite=True)
            refused.append("results")

    stream(scene, tmp_path / "out", progress=second)
    assert len(refused) == 3
    assert bytes_of(tmp_path / "out") == whole
    with pytest.raises(ValueError, match="holds another run"):
        stream(scene, tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x", encoding="utf-8")
    with pytest.raises(ValueError, match="belong to no run"):
        stream(scene, tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "the disk is read-only"), (errno.EIO, "Input/output error")],
)
def test_a_disk_that_takes_no_more(scene, tmp_path, whole, monkeypatch, number, said):
    write, left = Journal.write, 3

    def full(self, *arguments):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(number, os.strerror(number))
        write(self, *arguments)

    monkeypatch.setattr(Journal, "write", full)
    with pytest.raises(OSError, match=f"cannot be written: .*{said}.* 3 of 6 blocks are done and kept") as caught:
        stream(scene, tmp_path / "out")
    assert caught.value.errno == number
    monkeypatch.setattr(Journal, "write", write)
    assert stream(scene, tmp_path / "out")["stream"]["blocks_found_done"] == 3
    assert bytes_of(tmp_path / "out") == whole


def test_a_run_that_needs_more_memory_than_there_is_now(scene, tmp_path):
    with pytest.raises(Stop):
        stream(scene, tmp_path / "out", tile=None, progress=stopping(1))
    with pytest.raises(ValueError, match="so large are those of the unfinished run"):
        stream(scene, tmp_path / "out", tile=None, memory=1000.0)


@pytest.mark.filterwarnings("ignore:the value -9999 repeats as a fill value does")
@pytest.mark.parametrize("nodata", [np.inf, -np.inf, np.nan, 0.1])
def test_any_number_may_mark_missing_data(scene, tmp_path, nodata):
    other = Scene(cube(), nodata=nodata)
    with pytest.raises(Stop):
        stream(other, tmp_path / "out", progress=stopping(2))
    stream(other, tmp_path / "out")
    assert_same(read_results(tmp_path / "out").solution, unmix(toy(), other, tile=16))


def test_an_empty_part_of_a_solution(scene, tmp_path):
    class Empty(streams.Toy):
        def __call__(self, pixel, *, key=None):
            return dataclasses.replace(super().__call__(pixel), fitted={"none": pixel[:0]})

    stream(scene, tmp_path / "out", unmixer=Empty(jnp.asarray([1.0, 2.0])))
    assert read_results(tmp_path / "out").solution.fitted["none"].shape == (ROWS, COLUMNS, 0)


def test_no_room_is_told_before_the_run(scene, tmp_path, monkeypatch):
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("unmix_jax.resuming.shutil.disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(OSError, match="has room for 0 MiB, the results take"):
        stream(scene, tmp_path / "out")


def test_a_scene_that_cannot_be_read(scene, tmp_path, whole, monkeypatch):
    read = Rows.read

    def broken(self, start, *arguments):
        if start >= 9 and arguments[0] - start > 1:
            raise OSError(errno.EIO, "Input/output error")
        read(self, start, *arguments)

    monkeypatch.setattr(Rows, "read", broken)
    with pytest.raises(OSError, match=r"the scene cannot be read: .*Input/output error.* blocks are done and kept"):
        stream(scene, tmp_path / "out", tile=2 * COLUMNS)
    monkeypatch.setattr(Rows, "read", read)
    stream(scene, tmp_path / "out", tile=2 * COLUMNS)
    assert bytes_of(tmp_path / "out") == whole


def test_a_file_that_becomes_shorter_while_it_is_read(scene, tmp_path):
    def cut(done, *_):
        os.truncate(tmp_path / "scene.img", 17 * COLUMNS * BANDS * 4)

    with pytest.raises(OSError, match=r"scene.img ends \d+ bytes early: it became shorter while it was read"):
        stream(scene, tmp_path / "out", progress=cut)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tile": 0}, "tile must be a positive number of pixels, got 0"),
        ({"tile": 10**6, "memory": 1e6}, r"tiles of 1000000 pixels .* give a smaller tile"),
        ({"memory": 100.0}, "take .* may be taken"),
        ({"shade": "fog"}, "no endmember is named 'fog'"),
        ({"maps": ("png",)}, "maps are envi or geotiff, got png"),
        ({"good_bands": np.ones(3, bool)}, r"good_bands has shape \(3,\), pixels have 4 bands"),
        ({"endmembers": LIBRARY.select([0])}, r"abundances of shape \(2,\), there are 1 endmembers"),
    ],
)
def test_sizes_that_do_not_fit(scene, tmp_path, options, said):
    with pytest.raises(ValueError, match=said):
        stream(scene, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_the_plan_says_what_is_taken(monkeypatch):
    scene = Scene(jax.ShapeDtypeStruct((1280, 1242, 285), np.float32))
    with monkeypatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        plan, tiles = plan_run(scene, toy())
        assert plan.blocks * plan.block >= 1280 > (plan.blocks - 1) * plan.block
        assert plan.block % plan.strip == 0
        assert plan.strip * 1242 <= plan.tile <= 1.13 * plan.strip * 1242
        assert plan.output_bytes == 1280 * 1242 * (2 * 4 + 4 + 4 + 4 + 1 + 4 + 2 + 4 * (2 * 2 + 2))
        assert plan.host_bytes < 200 * 2**20
        assert tiles.bytes() >= plan.tile * 285 * 4
        assert "GiB" in str(plan) or "MiB" in str(plan)
        small, _ = plan_run(scene, toy(), memory=40 * 2**20)
        assert small.host_bytes <= 40 * 2**20


# On several devices, and in several processes

DEVICES = """
import sys, numpy as np, jax, equinox as eqx, re
from functools import partial
from pathlib import Path
from streams import BANDS, NODATA, cube, stream, toy, bytes_of
import jax.numpy as jnp
from unmix_jax import PPNM, Scene, fcls, invert, prepare, prepare_inversion, unmix
from unmix_jax.tiles import Tiles

assert len(jax.devices()) == 8
rng = np.random.default_rng(0)
endmembers = rng.uniform(0.1, 0.9, (6, 30)).astype(np.float32)
pixels = (rng.dirichlet(np.ones(6), 500) @ endmembers + 0.01 * rng.normal(size=(500, 30))).astype(np.float32)
ways = {
    "fcls": eqx.Partial(fcls, endmembers=prepare(endmembers)),
    "few": eqx.Partial(fcls, endmembers=prepare(endmembers[:3])),
    "ppnm": eqx.Partial(invert, endmembers=prepare_inversion(endmembers[:3], PPNM(jnp.asarray(0.0)))),
}
for name, unmixer in ways.items():
    counts = (1, 2, 4, 8) if name == "few" else (1, 8)
    found = [unmix(unmixer, pixels, tile=64, devices=jax.devices()[:n]) for n in counts]
    for other in found[1:]:
        # a bound and a gap count rounding errors, and a residual is the difference of two squared norms: all three
        # follow the order of sums
        for name_, x in vars(found[0]).items():
            if name_ in ("abundance_bound", "gap") and x is not None:
                np.testing.assert_allclose(x, getattr(other, name_), rtol=0.2, atol=1e-6)
            elif name_ == "residual":
                np.testing.assert_allclose(x, other.residual, rtol=2e-3)
            elif name_ != "steps":  # the last digit follows the order of sums as well
                close = partial(np.testing.assert_allclose, rtol=1e-5, atol=2e-6)
                jax.tree.map(close, x, getattr(other, name_))
    tiles = Tiles(unmixer, 30, np.dtype(np.float32), 64, devices=jax.devices())
    text = tiles.lowered().compile().as_text()
    assert not re.search("all-reduce|all-gather|all-to-all|collective|reduce-scatter", text), name
scene, out = Scene(cube(), nodata=NODATA), Path(sys.argv[1])
for n in (1, 2, 4, 8):
    stream(scene, out / str(n), key=jax.random.key(0), devices=jax.devices()[:n])
    assert bytes_of(out / str(n)) == bytes_of(out / "1")
unmix(toy(), scene, tile=16)  # on all of them

from unmix_jax import MixtureRecipe, learn_abundances
from unmix_jax.networks import training
options = {"recipe": MixtureRecipe(), "networks": 2, "steps": 50, "batch": 64, "encoder": "dense"}
meshes = []
mesh_of = training._mesh
training._mesh = lambda *given: meshes.append(mesh_of(*given)) or meshes[-1]
with jax.default_device(jax.devices()[0]):
    alone = learn_abundances(jax.random.key(0), endmembers, std=0.01, **options)
shared = learn_abundances(jax.random.key(0), endmembers, std=0.01, **options)
assert [None if mesh is None else mesh.size for mesh in meshes] == [None, 8]
for x, y in zip(jax.tree.leaves(alone), jax.tree.leaves(shared), strict=True):
    if eqx.is_inexact_array(x):
        np.testing.assert_allclose(x, y, rtol=0.02, atol=2e-3)
"""


def test_the_number_of_devices_does_not_matter(tmp_path):
    """Forced host devices; and nothing passes between them."""
    (tmp_path / "devices.py").write_text(DEVICES, encoding="utf-8")
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, str(tmp_path / "devices.py"), str(tmp_path)],
        env={**ENVIRONMENT, "XLA_FLAGS": flags}, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def free_port():
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def begin(tmp_path, count, pause="0", others=()):
    """Processes of a run; all but the first with other arguments."""
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, streams.__file__, str(tmp_path / "scene.hdr"), str(tmp_path / "out"), pause]
    return [
        subprocess.Popen(
            [*command, address, str(count), str(number), *(others if number else ())],
            env=ENVIRONMENT, stderr=subprocess.PIPE, text=True,
        )
        for number in range(count)
    ]  # fmt: skip


def ended(processes):
    """How processes ended, and what they said."""
    told = [process.communicate(timeout=300)[1] for process in processes]
    return [process.returncode for process in processes], told


@pytest.mark.parametrize("count", [2, 4])
def test_the_number_of_processes_does_not_matter(scene, tmp_path, whole, count):
    assert ended(begin(tmp_path, count))[0] == [0] * count
    record = json.loads((tmp_path / "out" / "record.json").read_text(encoding="utf-8"))
    assert record["stream"]["processes"] == count
    assert bytes_of(tmp_path / "out") == whole


def test_a_lost_process_ends_the_run_which_goes_on(scene, tmp_path, whole):
    first, second = begin(tmp_path, 2, "0.2")
    begun = time.time()
    while not list((tmp_path / "out" / "unfinished").glob("blocks-1.jsonl")) and time.time() - begun < 200:
        time.sleep(0.05)
    second.kill()
    codes, _ = ended([first, second])
    assert codes[0] != 0  # it does not wait for ever, and does not call it finished
    assert not (tmp_path / "out" / "record.json").exists()
    stream(scene, tmp_path / "out")
    assert bytes_of(tmp_path / "out") == whole


def test_a_process_that_does_something_else_ends_the_run(scene, tmp_path, whole):
    """It says what is different; the other says that it failed."""
    codes, told = ended(begin(tmp_path, 2, others=("2.0",)))
    assert 0 not in codes
    assert "method and its numbers was" in told[1]
    assert "process 1 of this run failed and says why" in told[0]
    stream(scene, tmp_path / "out")
    assert bytes_of(tmp_path / "out") == whole
