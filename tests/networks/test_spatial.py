"""Networks that see neighbours: windows of valid pixels, convolutions against slow ones, several pixels at once."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from helpers import assert_close
from scipy.signal import correlate

from unmix_jax.networks.convolution import convolve, convolve_wide
from unmix_jax.networks.layers import BatchNorm, Dense, LeakyReLU, Sequential, SparseReLU, constrained
from unmix_jax.networks.losses import tv
from unmix_jax.networks.recipes import follow
from unmix_jax.networks.spatial import Convolution, SpatialDecoder, SpatialDropout, Tasks
from unmix_jax.networks.windows import Windows
from unmix_jax.networks.zoo import RECIPES

RNG = np.random.default_rng(11)
ROWS, COLUMNS, BANDS, COUNT = 12, 14, 10, 3
CUBE = RNG.uniform(0.1, 1, (ROWS, COLUMNS, BANDS)).astype(np.float32)
KERNELS = [(3, 3), (1, 1), (5, 3), (13, 13), (1, 7)]


def draw(*shape):
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


def slow(x, kernel):
    """The sum over neighbours, one feature and one unit after another."""
    out = np.zeros((*x.shape[:3], kernel.shape[3]))
    for n in range(len(x)):
        for f in range(x.shape[3]):
            for u in range(kernel.shape[3]):
                padded = np.pad(x[n, :, :, f], [(size // 2, size // 2) for size in kernel.shape[:2]])
                out[n, :, :, u] += correlate(padded, kernel[:, :, f, u], mode="valid")
    return out


def test_windows_are_cut_out_of_the_image():
    windows = Windows.within(np.ones((ROWS, COLUMNS), bool), (3, 4))
    assert len(windows) == (ROWS - 2) * (COLUMNS - 3)
    cut = np.asarray(windows.gather(jnp.asarray(CUBE.reshape(-1, BANDS)), jnp.arange(len(windows))))
    wanted = [CUBE[i : i + 3, j : j + 4] for i in range(ROWS - 2) for j in range(COLUMNS - 3)]
    np.testing.assert_array_equal(cut, wanted)


def test_rows_whose_length_is_odd_lose_no_pixel():
    windows = Windows.within(np.ones((3, 7), bool), (1, 4))
    numbers = windows.gather(jnp.arange(21.0)[:, None], jnp.arange(len(windows)))
    assert len(windows) == 12
    assert np.array_equal(np.unique(numbers), np.arange(21))


def test_no_window_holds_an_invalid_pixel():
    valid = RNG.uniform(size=(ROWS, COLUMNS)) > 0.1
    image = np.where(valid[..., None], CUBE, np.nan)
    windows = Windows.within(valid, (2, 3))
    cut = np.asarray(windows.gather(jnp.asarray(CUBE[valid]), jnp.arange(len(windows))))
    every = [image[i : i + 2, j : j + 3] for i in range(ROWS - 1) for j in range(COLUMNS - 2)]
    np.testing.assert_array_equal(cut, [one for one in every if np.isfinite(one).all()])


@pytest.mark.parametrize(
    ("valid", "shape", "message"),
    [
        (np.ones(30, bool), (1, 4), r"needs an image \[row, column, band\], got pixels of shape \(30,\)"),
        (np.ones((9, 3), bool), (1, 4), r"windows of 1 × 4 pixels, the scene has only 9 × 3"),
        (np.ones((39, 50), bool), (40, 40), r"windows of 40 × 40 pixels, the scene has only 39 × 50"),
        (np.arange(40).reshape(5, 8) % 3 > 0, (1, 4), r"every window of 1 × 4 pixels holds an invalid one"),
    ],
)
def test_scenes_without_a_window(valid, shape, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        Windows.within(valid, shape)


@pytest.mark.parametrize("size", KERNELS)
def test_convolutions_are_sums_over_neighbours(size):
    x, kernel = draw(2, 6, 9, 2), draw(*size, 2, 4)
    wanted = np.float32(slow(np.asarray(x), np.asarray(kernel)))
    for form in (convolve, convolve_wide):
        assert_close(form(x, kernel), wanted, scale=np.abs(wanted).max())


@pytest.mark.parametrize("size", [(3, 3), (13, 13), (1, 7)])
@pytest.mark.parametrize("form", [convolve, convolve_wide])
def test_their_slopes_are_those_of_the_compiler(size, form):
    x, kernel, along = draw(2, 6, 9, 2), draw(*size, 2, 4), draw(2, 6, 9, 4)

    def plain(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def slopes(function):
        return jax.jit(jax.grad(lambda x, kernel: jnp.sum(along * jnp.tanh(function(x, kernel))), (0, 1)))(x, kernel)

    for ours, theirs in zip(slopes(form), slopes(plain), strict=True):
        assert_close(ours, theirs, scale=float(jnp.abs(theirs).max()))


def test_a_convolution_in_a_basis_of_the_pixels_is_the_same():
    basis = jnp.linalg.qr(draw(BANDS, 4))[0].T
    x = jnp.einsum("pijd,db->pijb", draw(2, 5, 5, 4), basis)
    plain, based = Convolution(draw(3, 3, BANDS, 6)), None
    based = Convolution(plain.weight, basis)
    assert_close(based(x, None, None)[0], plain(x, None, None)[0], scale=10)

    def slope(layer):
        return eqx.filter_grad(lambda layer: jnp.sum(layer(x, None, None)[0] ** 2))(layer).weight

    assert_close(slope(based), slope(plain), scale=float(jnp.abs(slope(plain)).max()))
    moved = eqx.tree_at(lambda c: c.basis, based, 2 * basis)
    np.testing.assert_array_equal(moved.constrained(based).basis, basis)


def test_endmembers_of_a_spatial_decoder_are_what_a_wide_area_looks_like():
    decoder = SpatialDecoder(jnp.abs(draw(5, 3, COUNT, BANDS)))
    for i, spectrum in enumerate(decoder.endmembers):
        wide = jnp.zeros((1, 11, 9, COUNT)).at[..., i].set(1)
        assert_close(decoder(wide, None, None)[0][0, 5, 4], spectrum, scale=10)
    below = eqx.tree_at(lambda d: d.weight, decoder, -decoder.weight)
    np.testing.assert_array_equal(below.constrained(decoder).weight, 0)


def test_whole_features_are_dropped():
    x = jnp.ones((40, 3, 4, 5))
    kept, _ = SpatialDropout(0.25)(x, None, jax.random.key(0))
    assert set(np.unique(np.asarray(kept))) == {0.0, np.float32(1 / 0.75)}
    np.testing.assert_array_equal(kept, jnp.broadcast_to(kept[:, :1, :1], x.shape))
    assert abs(float(kept.mean()) - 1) < 0.15
    np.testing.assert_array_equal(SpatialDropout(0.25)(x, None, None)[0], x)


def test_tasks_see_all_pixels_and_answer_for_one():
    shared = Sequential((Dense(draw(6, 4 * BANDS)), LeakyReLU(0.1), BatchNorm.plain(6)))
    layer = Tasks(shared, tuple(Sequential((Dense(draw(COUNT, 6)),)) for _ in range(4)))
    state, windows = layer.gathered(), jnp.asarray(CUBE[:8, :4].reshape(8, 1, 4, BANDS))
    answers, after = layer(windows, state, jax.random.key(0))
    assert answers.shape == (8, 1, 4, COUNT)
    assert not np.array_equal(after[0][2][0], state[0][2][0])  # what batch norms gather goes on
    same = jnp.tile(windows[:, :, :1], (1, 1, 4, 1))
    assert_close(layer(windows[:, 0, 0], state, None)[0], layer(same, state, None)[0][:, 0], scale=10)


def test_pixels_without_neighbours_are_refused():
    tasks = Tasks(Sequential(()), tuple(Sequential((Dense(draw(COUNT, 4 * BANDS)),)) for _ in range(4)))
    with pytest.raises(ValueError, match="must have 4 pixels, got 1 × 3"):
        tasks(draw(2, 1, 3, BANDS), tasks.gathered(), None)
    with pytest.raises(ValueError, match=r"got shape \(5, 4, 10\)"):
        tasks(draw(5, 4, BANDS), tasks.gathered(), None)
    with pytest.raises(ValueError, match=r"needs windows or an image .*cannot unmix single pixels"):
        Convolution(draw(3, 3, BANDS, 6))(draw(7, BANDS), None, None)


def test_parts_of_tasks_stay_inside_their_limits():
    below = Sequential((SparseReLU(-jnp.ones(COUNT)),))
    tasks = Tasks(Sequential(()), (below, below))
    for task in constrained(tasks, tasks).tasks:
        np.testing.assert_array_equal(task.layers[0].threshold, 0)


@pytest.mark.parametrize("form", [convolve, convolve_wide])
def test_weights_without_a_middle_are_refused(form):
    with pytest.raises(ValueError, match="odd numbers of weights, got 4 × 3"):
        form(draw(1, 6, 6, 2), draw(4, 3, 2, 5))


def test_what_cannot_be_followed_is_refused_before_anything_is_computed():
    pixels, keys = CUBE.reshape(-1, BANDS), jax.random.split(jax.random.key(0), 1)
    hole = pixels.copy()
    hole[3, 4] = np.nan
    for name, values, valid, message in (
        ("mtaeu", pixels, np.ones((20, 20), bool), "the image has 400 valid pixels, got 168"),
        ("cnnaeu", hole, np.ones((ROWS, COLUMNS), bool), "must be finite"),
        ("mdae", 0 * pixels, None, "greatest is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            follow(RECIPES[name], values, COUNT, keys=keys, valid=valid)


def test_total_variation():
    maps = np.zeros((2, 4, 5, 2), np.float32)
    maps[..., 0], maps[0, :, 2:, 0], maps[0, :, 2:, 1] = 1, 0, 1  # one edge, of height two, in one of two windows
    assert_close(tv(None, jnp.asarray(maps)), np.float32(2 / 4 / 2))
    assert_close(tv(None, jnp.asarray(maps[:, :, :1])), np.float32(0))
    with pytest.raises(ValueError, match="needs windows"):
        tv(None, jnp.asarray(maps[0, 0]))


def test_batch_norms_of_a_convolutional_network_are_used_when_it_unmixes():
    short = RECIPES["cnnaeu"]
    recipe = short._replace(window=(8, 8), schedule=dataclasses.replace(short.schedule, sample=15))
    found = follow(
        recipe, CUBE.reshape(-1, BANDS), COUNT, keys=jax.random.split(jax.random.key(0), 1),
        valid=np.ones((ROWS, COLUMNS), bool), epochs=2,
    )  # fmt: skip
    network, state = found.unmixer(0).network, found.unmixer(0).state
    image = jnp.asarray(CUBE[None]) / found.scale
    used, _, _ = network(image, state, None)
    fresh, _, _ = network(image, network.gathered(), None)
    assert float(jnp.abs(used - fresh).max()) > 0.01
    assert_close(used.sum(-1), np.ones((1, ROWS, COLUMNS), np.float32))
