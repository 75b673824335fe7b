"""The driver: the same answer whatever the tile, the memory layout, the unmixer and what is missing."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import streams
from helpers import assert_close
from solvers.cases import oracle, scene, solve_many

from unmix_jax import Scene, Solution, fcls, on_bands, prepare, ucls, unmix
from unmix_jax.scenes.lazy import LazyCube
from unmix_jax.tiles import TILE_BYTES, default_tile

ROWS, COLUMNS, BANDS = 7, 9, 4
TRACES = []


class Toy(streams.Toy):
    """It counts how often it is traced, and always converges."""

    def __call__(self, pixel, *, key=None):
        TRACES.append(pixel.dtype)
        return dataclasses.replace(super().__call__(pixel, key=key), converged=jnp.asarray(True))


def toy():
    return Toy(jnp.asarray([1.0, 2.0], jnp.float32))


def cube(rows=ROWS, columns=COLUMNS):
    """Small integers, so that every number type holds them exactly."""
    return np.random.default_rng(0).integers(1, 100, (rows, columns, BANDS)).astype(np.float32)


def assert_same(actual, expected):
    """Bit for bit, NaN included."""
    leaves, tree = jax.tree.flatten(actual)
    assert tree == jax.tree.structure(expected)
    for one, other in zip(leaves, jax.tree.leaves(expected), strict=True):
        assert type(one) is np.ndarray
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def by_hand(pixels):
    """What the toy makes of these pixels."""
    return Solution(
        abundances=pixels[..., :2] * np.array([1, 2], np.float32),
        residual=pixels.sum(-1),
        gap=pixels[..., -1],
        steps=np.full(pixels.shape[:-1], 3, np.int32),
        converged=np.ones(pixels.shape[:-1], bool),
        fitted={"peak": pixels.max(-1), "count": np.full(pixels.shape[:-1], 5, np.int16)},
    )


@pytest.mark.parametrize("tile", [1, 2, 16, 62, 63, 64, 200])
def test_the_tile_does_not_matter(tile):
    pixels = cube()
    assert_same(unmix(toy(), pixels, tile=tile), by_hand(pixels))


@pytest.mark.parametrize("shape", [(1, 1), (1, 16), (33, 1)])
def test_scenes_of_any_size(shape):
    pixels = cube(*shape)
    assert_same(unmix(toy(), pixels, tile=16), by_hand(pixels))


def unaligned(x):
    buffer = np.empty(x.nbytes + 4, np.uint8)
    out = buffer[4:].view(x.dtype).reshape(x.shape)
    out[:] = x
    return out


def strided(x):
    out = np.full((2 * x.shape[0], x.shape[1], 3 * x.shape[2]), -1, x.dtype)[::2, :, ::3]
    out[:] = x
    return out


LAYOUTS = {
    "c": lambda x: x,
    "fortran": np.asfortranarray,
    "band sequential": lambda x: np.moveaxis(np.ascontiguousarray(np.moveaxis(x, -1, 0)), 0, -1),
    "line interleaved": lambda x: np.ascontiguousarray(x.transpose(0, 2, 1)).transpose(0, 2, 1),
    "strided": strided,
    "reversed": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "unaligned": unaligned,
    "read only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
    "big-endian": lambda x: x.astype(">f4"),
    "float64": lambda x: x.astype(np.float64),
    "float16": lambda x: x.astype(np.float16),
    "uint8": lambda x: x.astype(np.uint8),
    "uint16": lambda x: x.astype(np.uint16),
    "big-endian int16": lambda x: x.astype(">i2"),
    "int64": lambda x: x.astype(np.int64),
    "jax": jnp.asarray,
    "in its file": lambda x: LazyCube(x.astype(np.int16)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("tile", [16, 200])
def test_the_memory_layout_does_not_matter(layout, tile):
    pixels = cube()
    given = LAYOUTS[layout](pixels)
    assert_same(unmix(toy(), given, tile=tile), by_hand(pixels))
    if isinstance(given, np.ndarray):
        np.testing.assert_array_equal(given, pixels)  # nobody wrote into it


@pytest.mark.parametrize("order", ["C", "F"])
def test_memory_maps(tmp_path, order):
    pixels = cube()
    np.memmap(tmp_path / "cube", np.float32, "w+", shape=pixels.shape, order=order)[:] = pixels
    mapped = np.memmap(tmp_path / "cube", np.float32, "r", shape=pixels.shape, order=order)
    assert_same(unmix(toy(), mapped, tile=16), by_hand(pixels))


@pytest.mark.parametrize("offset", range(0, 64, 4))
def test_every_start_address(offset):
    """The driver hands aligned memory to the device as it is, and copies the rest."""
    flat = cube(40, 5).reshape(-1, BANDS)
    buffer = np.empty(flat.nbytes + 128, np.uint8)
    start = -buffer.ctypes.data % 64 + offset
    pixels = buffer[start : start + flat.nbytes].view(np.float32).reshape(flat.shape)
    pixels[:] = flat
    assert_same(unmix(toy(), pixels, tile=16), by_hand(flat))


@pytest.mark.parametrize("lead", [(63,), (7, 9), (3, 7, 3), (63, 1)])
def test_leading_axes_are_kept(lead):
    pixels = cube().reshape(*lead, BANDS)
    solution = unmix(toy(), pixels, tile=16)
    assert solution.abundances.shape == (*lead, 2)
    assert solution.residual.shape == solution.fitted["peak"].shape == lead
    assert_same(solution, by_hand(pixels))


def test_results_may_be_written_to():
    solution = unmix(toy(), cube(), tile=16)
    for leaf in jax.tree.leaves(solution):
        assert leaf.flags.writeable
        assert leaf.flags.c_contiguous


# What is missing.


def holes():
    """A cube, the same with every kind of hole, and where the holes are."""
    pixels = cube()
    broken = pixels.copy()
    broken[0, 0] = np.nan
    broken[1, 1, 2] = np.nan
    broken[2, 2, 0] = np.inf
    broken[2, 3, 3] = -np.inf
    broken[3, 3] = 0
    broken[4, 4] = -9999
    broken[5, 5, 1] = -9999
    broken[6, 8] = np.nan
    found = ~np.all(broken == pixels, -1)
    assert found.sum() == 8
    return pixels, broken, found


def assert_blank(solution, where):
    for leaf in jax.tree.leaves(solution):
        hole = leaf[where]
        assert np.isnan(hole).all() if leaf.dtype.kind == "f" else not hole.any()


@pytest.mark.parametrize("tile", [1, 16, 200])
def test_masked_pixels_come_out_as_nan_and_disturb_nobody(tile):
    pixels, broken, found = holes()
    solution = unmix(toy(), broken, tile=tile, nodata=-9999.0)
    assert_blank(solution, found)
    assert solution.converged.sum() == (~found).sum()
    whole = by_hand(pixels)
    assert_same(jax.tree.map(lambda x: x[~found], solution), jax.tree.map(lambda x: x[~found], whole))


def test_certified_solvers_stand_holes():
    case = scene(3, 7, "float32")
    pixels = case.pixels.copy()
    pixels[::5] = np.nan
    pixels[1::5] = 0
    solution = unmix(eqx.Partial(fcls, endmembers=case.endmembers), pixels, tile=16)
    kept = ~np.isin(np.arange(len(pixels)) % 5, (0, 1))
    assert_blank(solution, ~kept)
    assert_close(solution.abundances[kept], oracle("fcls", pixels[kept], case.endmembers))
    assert solution.converged[kept].all()


def test_the_mask_chooses_pixels():
    pixels = cube()
    mask = np.random.default_rng(1).random((ROWS, COLUMNS)) < 0.5
    solution = unmix(toy(), pixels, mask=mask, tile=16)
    assert_blank(solution, ~mask)
    assert_same(jax.tree.map(lambda x: x[mask], solution), jax.tree.map(lambda x: x[mask], by_hand(pixels)))


def test_nothing_but_holes():
    solution = unmix(toy(), np.full((ROWS, COLUMNS, BANDS), np.nan, np.float32), tile=16)
    assert_blank(solution, np.ones((ROWS, COLUMNS), bool))


@pytest.mark.parametrize(("dtype", "nodata"), [("i2", -9999.0), ("u2", 65535.0), ("f8", -9999.0), ("f4", np.nan)])
def test_nodata_of_other_types(dtype, nodata):
    pixels = cube()
    broken = pixels.astype(dtype)
    broken[2, 3, 1] = 0 if np.isnan(nodata) else nodata
    found = np.zeros((ROWS, COLUMNS), bool)
    found[2, 3] = not np.isnan(nodata)
    solution = unmix(toy(), broken, nodata=nodata, tile=16)
    assert_blank(solution, found)
    assert solution.converged.sum() == (~found).sum()


def test_bad_bands_may_hold_anything():
    pixels = cube()
    good = np.array([True, True, False, True])
    broken = pixels.copy()
    broken[0, :, 2], broken[1, :, 2], broken[2, :, 2] = np.nan, -9999, np.inf
    broken[3, 3, good] = 0
    broken[4, 4, 0] = np.nan
    found = np.zeros((ROWS, COLUMNS), bool)
    found[3, 3] = found[4, 4] = True
    solution = unmix(on_bands(toy(), good), broken, good_bands=good, nodata=-9999.0, tile=16)
    assert_blank(solution, found)
    expected = by_hand(np.where(good, pixels, 0).astype(np.float32))
    assert_same(jax.tree.map(lambda x: x[~found], solution), jax.tree.map(lambda x: x[~found], expected))


def test_a_scene_brings_its_masks_and_arguments_overrule_them():
    pixels, broken, found = holes()
    mask = np.ones((ROWS, COLUMNS), bool)
    mask[0, 5] = False
    good = np.array([True, True, True, False])
    whole = Scene(broken, good_bands=good, mask=mask, nodata=-9999.0)
    solution = unmix(on_bands(toy(), good), whole, tile=16)
    found[2, 3] = False  # its infinity is in the bad band
    assert_blank(solution, found | ~mask)
    assert solution.converged.sum() == (~found & mask).sum()
    np.testing.assert_array_equal(solution.gap[solution.converged], 0)
    bare = Scene(pixels, good_bands=good, mask=mask, nodata=-9999.0)
    overruled = unmix(toy(), bare, good_bands=np.ones(BANDS, bool), mask=np.ones_like(mask), nodata=5.0, tile=16)
    fives = np.any(pixels == 5, -1)
    assert fives.any()
    np.testing.assert_array_equal(overruled.converged, ~fives)


# How it runs.


@pytest.mark.parametrize("tile", [1, 10, 63, 100])
def test_progress_counts_every_pixel_once(tile):
    calls = []
    unmix(toy(), cube(), tile=tile, progress=lambda done, total: calls.append((done, total)))
    done = [count for count, _ in calls]
    assert {total for _, total in calls} == {63}
    assert done == sorted(set(done))
    assert done[0] > 0
    assert done[-1] == 63
    assert len(calls) >= 63 / tile


@pytest.mark.parametrize("kind", [jax.random.key, jax.random.PRNGKey])
def test_the_key_of_a_pixel_is_its_own(kind):
    pixels = cube()
    key = kind(7)
    expected = by_hand(pixels).abundances.reshape(-1, 2) + np.stack(
        [jax.random.uniform(jax.random.fold_in(key, n), (2,)) for n in range(63)]
    )
    for tile in (5, 16, 100):
        solution = unmix(toy(), pixels, key=key, tile=tile)
        np.testing.assert_array_equal(solution.abundances.reshape(-1, 2), expected)
    assert np.any(unmix(toy(), pixels, key=kind(8), tile=16).abundances != solution.abundances)


def test_one_compilation_for_any_number_of_pixels():
    TRACES.clear()
    for rows in (1, 2, 9, 40):
        for order in "CF":
            unmix(toy(), np.asarray(cube(rows), order=order), tile=24)
    assert len(TRACES) == 1
    unmix(Toy(jnp.asarray([3.0, 4.0], jnp.float32)), cube(), tile=24)  # other numbers, same kind
    assert len(TRACES) == 1


def test_few_default_tiles_serve_any_number_of_pixels():
    """Handfuls of pixels share a program, and so do scenes of one size and nearly."""
    bands = 2048
    full = TILE_BYTES // (4 * bands)
    TRACES.clear()
    for count in (3, 16, full - 1, full - 9, 2 * full - 1):
        pixels = np.arange(1, count + 1, dtype=np.float32)[:, None] * np.ones(bands, np.float32)
        solution = unmix(toy(), pixels)
        np.testing.assert_array_equal(solution.gap, pixels[:, 0])
    assert len(TRACES) == 2


def test_default_tiles_are_few_hold_all_and_are_full_to_an_eighth():
    full, tiles = 4096, set()
    for total in [*range(1, 3000), *range(3000, 300_000, 1009)]:
        tile = default_tile(total, 512, 4)
        count = -(-total // tile)
        assert tile <= full
        assert tile % 16 == 0
        assert count == -(-total // full)
        assert count * tile - total < max(total / 8 + count, 16)
        tiles.add(tile)
    assert len(tiles) < 80


def test_certified_solvers_do_not_compile_again():
    case = scene(3, 7, "float32")
    other = scene(3, 7, "float32").endmembers * np.float32(1.1)
    unmix(eqx.Partial(fcls, endmembers=case.endmembers), case.pixels, tile=16)
    events = []
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: events.append(name))
    try:
        unmix(eqx.Partial(fcls, endmembers=other), np.tile(case.pixels, (3, 1))[:131], tile=16)
    finally:
        jax.monitoring.clear_event_listeners()
    assert not [name for name in events if "backend_compile" in name]


def test_many_tiles_of_many_endmembers_do_not_wait_for_each_other():
    """Factorisations of two tiles at once would: see the driver."""
    case = scene(13, 30, "float32")
    pixels = np.tile(case.pixels, (5, 1))
    solution = unmix(eqx.Partial(fcls, endmembers=case.endmembers), pixels, tile=32)
    assert_close(solution.abundances, np.tile(oracle("fcls", case.pixels, case.endmembers), (5, 1)), scale=10)


def test_double_precision_reaches_every_tile():
    """The flag may be set for the calling thread alone, and tiles are read by another."""
    case = scene(3, 7, "float64")
    pixels = np.tile(case.pixels, (4, 1))
    with jax.enable_x64(True):
        solution = unmix(eqx.Partial(fcls, endmembers=case.endmembers), pixels, tile=16)
    assert not jax.config.jax_enable_x64
    for leaf in (solution.abundances, solution.residual, solution.gap):
        assert leaf.dtype == np.float64
    assert solution.gap.max() < 1e-12
    assert solution.converged.all()
    assert_close(solution.abundances, np.tile(oracle("fcls", case.pixels, case.endmembers), (4, 1)))


def test_single_precision_is_what_jax_says_it_is():
    case = scene(3, 7, "float64")
    solution = unmix(eqx.Partial(fcls, endmembers=case.endmembers), case.pixels, tile=16)
    assert solution.abundances.dtype == solution.gap.dtype == np.float32
    assert_close(solution.abundances, oracle("fcls", case.pixels, case.endmembers))


def plain(pixel):
    return toy()(pixel)


def with_array(pixel, spectra):
    return ucls(pixel, spectra)


UNMIXERS = {
    "module": toy,
    "function": lambda: plain,
    "lambda": lambda: lambda pixel: toy()(pixel),
    "partial": lambda: eqx.Partial(lambda gain, pixel: Toy(gain)(pixel), jnp.asarray([1.0, 2.0])),
    "jax partial": lambda: jax.tree_util.Partial(lambda gain, pixel: Toy(gain)(pixel), jnp.asarray([1.0, 2.0])),
    "numpy leaves": lambda: Toy(np.array([1, 2], np.float32)),
    "plain numbers": lambda: eqx.Partial(lambda pixel, options: toy()(pixel), options={"a": 1.5, "b": None}),
    "network": lambda: Network(eqx.nn.MLP(BANDS, 2, 3, 1, key=jax.random.key(0))),
}


class Network(eqx.Module):
    layers: eqx.nn.MLP

    def __call__(self, pixel):
        abundances = jax.nn.softmax(self.layers(pixel))
        zero = jnp.zeros((), pixel.dtype)
        return Solution(abundances, zero, zero, jnp.asarray(0), jnp.asarray(True))


@pytest.mark.parametrize("name", UNMIXERS)
def test_any_callable_is_an_unmixer(name):
    unmixer = UNMIXERS[name]()
    solution = unmix(unmixer, cube(), tile=16)
    if name == "network":
        expected = jax.vmap(jax.vmap(unmixer))(cube())
        assert_close(solution.abundances, np.asarray(expected.abundances))
    else:
        assert_same(solution, by_hand(cube()))


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray, prepare])
def test_endmembers_of_any_kind(kind):
    case = scene(3, 7, "float32")
    expected = solve_many("ucls", case.pixels, case.endmembers)
    for unmixer in (
        eqx.Partial(ucls, endmembers=kind(case.endmembers)),
        eqx.Partial(with_array, spectra=kind(case.endmembers)),
    ):
        solution = unmix(unmixer, case.pixels, tile=16)
        assert_close(solution.abundances, expected.abundances)
        assert_close(solution.residual, expected.residual)


# What is refused.


@pytest.mark.parametrize(
    ("pixels", "options", "message"),
    [
        (np.ones(4, "f4"), {}, r"\[..., band\].*\(4,\)"),
        (np.ones((0, 4), "f4"), {}, r"not empty, got shape \(0, 4\)"),
        (np.ones((2, 0), "f4"), {}, r"not empty, got shape \(2, 0\)"),
        (np.ones((2, 4), "f4"), {"good_bands": np.ones(5, bool)}, r"good_bands.*\(5,\), pixels have 4 bands"),
        (np.ones((2, 4), "f4"), {"mask": np.ones(3, bool)}, r"mask has shape \(3,\), pixels have \(2,\)"),
        (
            np.ones((2, 3, 4), "f4"),
            {"mask": np.ones(6, bool)},
            r"mask has shape \(6,\), pixels have \(2, 3\)",
        ),
        (np.ones((2, 4), "f4"), {"tile": 0}, "tile must be a positive number of pixels, got 0"),
    ],
)
def test_what_does_not_fit_is_refused(monkeypatch, pixels, options, message):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the messages are for users
    with pytest.raises(ValueError, match=message):
        unmix(toy(), pixels, **options)


def test_band_counts_that_differ_are_named():
    unmixer = eqx.Partial(fcls, endmembers=np.eye(3, 7, dtype=np.float32))
    with pytest.raises(ValueError, match="endmembers have 7 bands, pixels have 4"):
        unmix(unmixer, cube(), tile=16)


def test_errors_while_reading_reach_the_caller():
    class Torn:
        shape, dtype = (100, BANDS), np.dtype("f4")

        def __getitem__(self, rows):
            if rows.start >= 50:
                raise OSError("the file ends here")
            return np.ones((rows.stop - rows.start, BANDS), np.float32)

    with pytest.raises(OSError, match="the file ends here"):
        unmix(toy(), Torn(), tile=16)


@pytest.mark.parametrize("unit", [1e-22, 1e-12, 1e12, 1e20])
def test_no_unit_is_too_small_or_too_large(unit):
    """Squares of such pixels are zero or infinite in float32; they are unmixed all the same."""
    rng = np.random.default_rng(0)
    endmembers = rng.uniform(0.2, 0.8, (4, 30))
    truth = rng.dirichlet(np.ones(4), 12)
    pixels = (truth @ endmembers * unit).astype(np.float32)
    pixels[3] = 0
    solution = unmix(eqx.Partial(fcls, endmembers=prepare((endmembers * unit).astype(np.float32))), pixels)
    there = np.arange(12) != 3
    assert np.array_equal(solution.converged, there)
    assert np.abs(solution.abundances - truth)[there].max() < 1e-4
    assert np.isnan(solution.abundances[3]).all()
    rms = np.sqrt(np.mean((pixels.astype(float) - solution.abundances.astype(float) @ endmembers * unit) ** 2, 1))
    assert np.all(solution.residual[there] <= rms[there] + 1e-5 * unit)
