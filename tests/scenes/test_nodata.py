"""What is missing: one rule for all that look at pixels, and one warning where nothing says it."""

import math
import re
import warnings

import equinox as eqx
import jax
import numpy as np
import pytest

from unmix_jax import Scene, count_endmembers, estimate_noise, fcls, hfc, hysime, nfindr, nmf, nwhfc, unmix, vca
from unmix_jax.blind import unmix_blind
from unmix_jax.endmembers.archetypal import archetypal
from unmix_jax.endmembers.moments import ValidPixels
from unmix_jax.scenes.lazy import LazyCube
from unmix_jax.scenes.nodata import is_nodata, marks
from unmix_jax.scenes.scene import SpectralLibrary
from unmix_jax.streaming import unmix_file

BANDS, COUNT, PIXELS = 12, 3, 240
KEY = jax.random.key(3)
RNG = np.random.default_rng(7)
ENDMEMBERS = RNG.uniform(0.2, 0.8, (COUNT, BANDS)).astype(np.float32)
MIXED = RNG.dirichlet(np.ones(COUNT), PIXELS) @ ENDMEMBERS + 0.003 * RNG.standard_normal((PIXELS, BANDS))
MIXED = MIXED.astype(np.float32)
AT = np.arange(5, PIXELS, 24)  # where a value is missing
UNMIXER = eqx.Partial(fcls, endmembers=ENDMEMBERS)

# Text of a no-data value, of which few are float32 numbers, and the types of pixels that may hold it.
VALUES = (-9999.0, -9999.9, -1.23e34, -3.40282347e38, -99.99, 1e-3)
ESTIMATES = {
    "unmix": lambda s: unmix(UNMIXER, s).abundances,
    "vca": lambda s: vca(KEY, s, COUNT).endmembers,
    "nfindr": lambda s: nfindr(KEY, s, COUNT).endmembers,
    "estimate_noise": lambda s: estimate_noise(s).std,
    "hysime": lambda s: hysime(s).cost,
    "hfc": hfc,
    "nwhfc": nwhfc,
    "count_endmembers": lambda s: np.asarray(count_endmembers(s)),
    "nmf": lambda s: nmf(KEY, s, COUNT, max_steps=5).endmembers,
    "archetypal": lambda s: archetypal(KEY, s, COUNT, members=2, max_steps=5).endmembers,
    "blind": lambda s: unmix_blind(KEY, s, COUNT, method="nmf", seeds=1).endmembers,
}


def holed(value, dtype=np.float32):
    """The pixels with a value in one band of some; doubles are made of singles, as in many files."""
    pixels = MIXED.copy()
    pixels[AT, 4] = np.float32(value)
    return pixels.astype(dtype)


SLOW = ("nmf", "archetypal", "blind")
CASES = [
    (name, value, dtype)
    for name in ESTIMATES
    for value in VALUES
    for dtype in (np.float32, np.float64, ">f4")
    if (value == -9999.9 or (name not in SLOW and dtype != ">f4"))
]


@pytest.mark.parametrize(("name", "value", "dtype"), CASES, ids=str)
def test_pixels_at_the_no_data_value_are_as_good_as_gone(name, value, dtype):
    estimate = ESTIMATES[name]
    with jax.enable_x64(np.dtype(dtype) == np.float64):
        found = np.asarray(estimate(Scene(holed(value, dtype), nodata=value)))
        expected = np.asarray(estimate(Scene(np.where(holed(value) == np.float32(value), np.nan, MIXED).astype(dtype))))
    np.testing.assert_array_equal(found, expected)


STORED = {
    np.float16: (-9999.0, -9999.9, -99.99, 1e-3, -32768.0),
    np.float32: (*VALUES, 65535.0),
    np.float64: (*VALUES, 2147483647.0),
    ">f8": (-9999.9,),
    np.int16: (-9999.0, -32768.0),
    ">i2": (-9999.0,),
    np.uint16: (65535.0,),
    np.int32: (2147483647.0,),
}


@pytest.mark.parametrize(("stored", "value"), [(kind, value) for kind, values in STORED.items() for value in values])
def test_the_driver_the_moments_and_the_file_agree(stored, value):
    kind = np.dtype(stored)
    mark = np.asarray(value).astype(kind)
    pixels = (RNG.integers(1, 90, (40, BANDS))).astype(kind)
    pixels[::7, 3] = mark
    missing = np.arange(40) % 7 == 0
    scene = Scene(pixels if kind.kind == "f" else pixels.astype(np.float32), nodata=value)
    np.testing.assert_array_equal(np.isnan(unmix(UNMIXER, pixels, nodata=value).residual), missing)
    np.testing.assert_array_equal(np.concatenate([i for i, _ in ValidPixels(scene).blocks()]), np.flatnonzero(~missing))
    np.testing.assert_array_equal(np.isnan(LazyCube(pixels, nodata=value)[...]).any(1), missing)
    np.testing.assert_array_equal(is_nodata(pixels, value).any(1), missing)


@pytest.mark.parametrize("value", [None, math.nan])
def test_nothing_marks_missing_data_where_it_is_said(value):
    assert marks(value, np.float32) == ()
    assert not is_nodata(MIXED, value).any()


def test_numbers_per_band():
    stored = np.full((2, 3), -9999.9, np.float32)
    assert is_nodata(stored, np.array([-9999.9, -1.0, np.nan])).tolist() == [[True, False, False]] * 2


# An array says nothing.


@pytest.mark.parametrize("of", [lambda p: p, lambda p: Scene(p.reshape(12, 20, BANDS))], ids=["array", "scene"])
@pytest.mark.parametrize("estimate", ESTIMATES.values(), ids=ESTIMATES)
def test_what_nobody_declares_is_left_out_with_the_same_words(estimate, of):
    words = f"the value -9999 stands in {len(AT)} of {PIXELS} pixels, and nothing says what it is: these pixels"
    with pytest.warns(UserWarning, match=re.escape(words)) as told:
        found = np.asarray(estimate(of(holed(-9999.0))))
    assert "nodata=-9999" in str(told[0].message)
    assert len({str(one.message) for one in told}) == 1
    assert told[0].filename.endswith(".py")
    declared = Scene(of(holed(-9999.0)).cube if hasattr(of(MIXED), "cube") else holed(-9999.0), nodata=-9999.0)
    np.testing.assert_array_equal(found, np.asarray(estimate(declared)))


@pytest.mark.parametrize("estimate", ["unmix", "estimate_noise", "hfc"])
def test_a_measurement_of_9999_is_used_where_the_user_says_that_nothing_is_missing(estimate):
    scene = Scene(holed(-9999.0), nodata=math.nan)
    found = np.asarray(ESTIMATES[estimate](scene))
    assert np.isfinite(found).all()
    if estimate == "unmix":
        assert np.isfinite(unmix(UNMIXER, holed(-9999.0), nodata=math.nan).residual).all()
    if estimate == "estimate_noise":
        assert found.max() > 1


@pytest.mark.parametrize("value", [-32768.0, -1.23e34, 65535.0])
@pytest.mark.parametrize("estimate", ["unmix", "estimate_noise", "hysime", "hfc", "count_endmembers"])
def test_other_fill_values_are_measurements_with_a_warning(estimate, value):
    pixels = holed(value)
    pixels[AT] = value
    with pytest.warns(UserWarning, match=re.escape("repeats as a fill value does")) as told:
        found = np.asarray(ESTIMATES[estimate](pixels))
    assert {f"in {len(AT)} of {PIXELS} pixels" in str(one.message) for one in told} == {True}
    assert "taken as a measurement. Give nodata=-32768 (of" in str(told[0].message) or value != -32768.0
    if estimate == "unmix":
        assert np.isfinite(found).all() or abs(value) > 1e30
    ESTIMATES[estimate](Scene(pixels, nodata=value))  # said: no warning


@pytest.mark.parametrize("extract", [vca, nfindr])
def test_other_fill_values_become_no_endmember(extract):
    pixels = holed(-32768.0)
    pixels[AT] = -32768.0
    with (
        pytest.warns(UserWarning, match="repeats as a fill value does"),
        pytest.raises(ValueError, match=r"-32768 looks like a fill value.*nodata=-32768"),
    ):
        extract(KEY, pixels, COUNT)


def test_runs_from_file_to_file_keep_the_rule(tmp_path):
    scene = Scene(holed(-9999.0).reshape(12, 20, BANDS))
    library = SpectralLibrary(ENDMEMBERS, names=("a", "b", "c"))
    with pytest.warns(UserWarning, match=f"the value -9999 stands in {len(AT)} of {PIXELS} pixels"):
        record = unmix_file(scene, UNMIXER, tmp_path / "out", endmembers=library)
    assert record["converged_share"] == 1
    again = Scene(scene.cube, nodata=-9999.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unmix_file(again, UNMIXER, tmp_path / "said", endmembers=library)


def test_masked_pixels_and_bad_bands_are_no_matter():
    pixels = holed(-9999.0)
    good, mask = np.arange(BANDS) != 4, np.ones(PIXELS, bool)
    mask[AT] = False
    ready = eqx.Partial(fcls, endmembers=ENDMEMBERS)
    unmix(ready, pixels, mask=mask)
    unmix(ready, pixels, good_bands=good)
    estimate_noise(Scene(pixels, mask=mask))
    estimate_noise(Scene(pixels, good_bands=good))
