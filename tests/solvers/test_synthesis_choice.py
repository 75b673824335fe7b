"""Bands that were left out, predicted from the others."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close
from solvers.varied import BANDS, NOISE, scaled, scene

from unmix_jax.solvers.synthesis_choice import held_out_rms, leave_bands_out
from unmix_jax.types import Solution

BLOCK, TILE = 4, 8
GOOD = np.ones(len(BANDS), bool)
GOOD[[3, 40, 41]] = False
SMALL = {"noise": NOISE, "rank": 30, "samples": 16, "folds": 2, "block": BLOCK, "good_bands": GOOD, "baseline": 1}
PIXELS = scene("scale, slope, shift")[0][:TILE]


@functools.cache
def left_out():
    return leave_bands_out(scaled(), **SMALL)


def guess(pixel):
    """Some abundances and displacements, from what is seen of the pixel."""
    abundances = jnp.maximum(pixel[jnp.arange(5) * 11] - 0.7, 0.0) + jnp.array([0.1, 0.0, 0.0, 0.0, 0.1])
    return abundances / jnp.sum(abundances), jnp.tanh(20 * (pixel[20:35].reshape(5, 3) - 0.9))


def guesser(pixel, problem, told=True):
    assert problem.noise.shape == pixel.shape
    abundances, displacement = guess(pixel)
    zero = jnp.zeros(())
    fitted = {"displacement": displacement} if told else None
    return Solution(abundances, zero, zero, jnp.zeros((), int), zero > 0, fitted=fitted)


def error(pixels):
    return held_out_rms(guesser, left_out(), pixels, tile=TILE)


def test_each_good_band_is_left_out_once_and_in_blocks():
    left = np.array([fold.left_out for fold in left_out()])
    assert np.array_equal(left.sum(0), GOOD)
    assert np.array_equal(np.flatnonzero(left[1])[:8], [4, 5, 6, 7, 12, 13, 14, 15])
    assert all(np.array_equal(fold.problem.noise > 0, GOOD & ~fold.left_out) for fold in left_out())


def test_it_is_the_error_of_what_the_kept_bands_predict():
    """Against a loop: endmembers rendered one pixel at a time, the baseline by lstsq on the bands that are kept."""
    line = np.stack([np.ones(len(BANDS)), np.linspace(-1, 1, len(BANDS))])
    squared = np.zeros(TILE)
    generator = scaled()
    render = jax.jit(lambda u: generator(u))
    for number in range(2):
        block = (np.arange(len(BANDS)) // BLOCK) % 2 == number
        kept, out = GOOD & ~block, GOOD & block
        for n, pixel in enumerate(PIXELS):
            x, u = guess(jnp.asarray(np.where(kept, pixel, np.float32(0))))
            left = pixel - np.asarray(x) @ np.asarray(render(u))
            slope = np.linalg.lstsq(line[:, kept].T, left[kept], rcond=None)[0]
            squared[n] += np.sum((left - slope @ line)[out] ** 2)
    np.testing.assert_allclose(error(PIXELS), np.sqrt(squared / GOOD.sum()), rtol=1e-4)


def test_neither_tile_nor_bad_bands_matter():
    plain = error(PIXELS)
    assert_close(error(np.concatenate([PIXELS, PIXELS[:5]])), np.concatenate([plain, plain[:5]]))
    spoiled = np.where(GOOD, PIXELS, np.float32(np.nan))
    assert_close(error(spoiled), plain)
    spoiled[2, 10] = np.nan
    assert np.array_equal(np.isnan(error(spoiled)), np.arange(TILE) == 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1}, "two folds or more, got 1"),
        ({"block": 50, "folds": 3}, "81 bands in blocks of 50 do not make 3 folds"),
        ({"block": 0}, "81 bands in blocks of 0"),
        ({"good_bands": np.ones(4, bool)}, "good_bands has shape"),
        ({"good_bands": np.arange(81) < 4}, "no good band to predict"),
        ({"noise": 0.0}, "noise is a standard deviation"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        leave_bands_out(scaled(), **SMALL | options)


def test_bad_pixels_and_silent_solvers_are_refused():
    with pytest.raises(ValueError, match=r"pixels have shape \(8, 80\), wanted \[pixel, 81\]"):
        held_out_rms(guesser, left_out(), PIXELS[:, 1:])
    with pytest.raises(ValueError, match="tile must be a positive number"):
        held_out_rms(guesser, left_out(), PIXELS, tile=0)
    with pytest.raises(ValueError, match="displacement=True"):
        held_out_rms(functools.partial(guesser, told=False), left_out(), PIXELS, tile=TILE)
