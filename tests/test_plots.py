"""Figures: every kind of scene draws without a warning, and shows what it claims to show."""

import io
import subprocess
import sys

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from unmix_jax import plots
from unmix_jax.scenes.composite import composite
from unmix_jax.scenes.scene import Scene, SpectralAxis, SpectralLibrary
from unmix_jax.types import Solution

AWKWARD = ("Tree", "a very long name of a material that goes on and on", "$x_1^", "<b>ü</b>", "", "a,b")


def names_of(count):
    return tuple((*AWKWARD, *(f"m{i}" for i in range(count)))[:count])


def pixels_of(figure):
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=40)
    return stream.getvalue()


def make_run(shape=(6, 8), centers=(450.0, 460.0, 550.0, 640.0, 650.0, 900.0), *, masked=True):
    rng = np.random.default_rng(0)
    axis = None if centers is None else SpectralAxis(np.asarray(centers))
    bands = 6 if centers is None else len(centers)
    library = SpectralLibrary(rng.uniform(0.1, 0.9, (3, bands)).astype(np.float32), axis, names_of(3))
    abundances = rng.dirichlet(np.ones(3), shape).astype(np.float32)
    if masked:
        abundances.reshape(-1, 3)[:2] = np.nan
    residual = rng.uniform(0, 0.1, shape).astype(np.float32) + 0 * abundances[..., 0]
    scene = Scene(abundances @ library.spectra, axis, nodata=-9999.0)
    solution = Solution(
        jnp.asarray(abundances),
        jnp.asarray(residual),
        jnp.asarray(residual * 1e-6),
        jnp.zeros(shape, int),
        jnp.asarray(np.isfinite(residual)),
    )
    return scene, library, solution


CENTERS = {
    "visible": (450.0, 460.0, 550.0, 640.0, 650.0, 900.0),
    "infrared": (1100.0, 1200.0, 1300.0, 1900.0, 2000.0, 2100.0),
    "overlapping": (450.0, 560.0, 640.0, 635.0, 555.0, 455.0),
    "two bands": (450.0, 900.0),
    "no axis": None,
}
SHAPES = {"image": (6, 8), "one pixel": (1, 1), "strip": (1, 30), "long": (40, 1), "list": (9,), "one": (1,)}


@pytest.mark.parametrize("centers", CENTERS.values(), ids=CENTERS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_scene_can_be_drawn(shape, centers):
    scene, library, solution = make_run(shape, centers, masked=np.prod(shape) > 2)
    for figure in (
        plots.false_colour(scene),
        plots.abundance_maps(solution.abundances, library.names),
        plots.residual_map(solution.residual),
        plots.gap_map(solution.gap),
        plots.winner_map(np.arange(np.prod(shape)).reshape(shape) % 2, ("linear", "bilinear")),
        plots.endmember_curves(library),
        plots.fits(scene, solution, library),
    ):
        assert pixels_of(figure)[:4] == b"\x89PNG"


@pytest.mark.parametrize("count", [1, 2, 5, 7, 40])
def test_one_panel_per_endmember(count):
    figure = plots.abundance_maps(np.full((4, 5, count), 1 / count), names_of(count))
    assert len(figure.axes) == count + 1  # and the colour bar
    for axis in figure.axes[:-1]:
        assert axis.images[0].get_clim() == (0, 1)
    pixels_of(figure)


def test_panels_do_not_overlap():
    figure = plots.abundance_maps(np.full((4, 5, 11), 0.1), names_of(11), title="a title")
    boxes = [axis.get_position() for axis in figure.axes]
    assert all(0 <= b.x0 < b.x1 <= 1 and 0 <= b.y0 < b.y1 <= 1 for b in boxes)
    overlaps = [
        (i, j)
        for i, a in enumerate(boxes)
        for j, b in enumerate(boxes)
        if i < j and a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1
    ]
    assert not overlaps


@pytest.mark.parametrize(
    ("low", "high", "extend"), [(0, 1, "neither"), (-0.2, 1, "min"), (0, 1.3, "max"), (-1, 2, "both")]
)
def test_the_colour_bar_says_when_values_leave_the_scale(low, high, extend):
    values = np.asarray([[[low, high], [0.5, 0.5]]], dtype=np.float32)
    figure = plots.abundance_maps(values, ("a", "b"))
    bar = next(a.images[0].colorbar for a in figure.axes[:-1] if a.images[0].colorbar is not None)
    assert bar.extend == extend


def test_names_must_fit_the_abundances():
    with pytest.raises(ValueError, match="2 names for 3"):
        plots.abundance_maps(np.ones((2, 2, 3)), ("a", "b"))


def test_the_map_of_winners_shows_whose_pixel_it_is_and_counts_them():
    model = np.asarray([[0, 1, 1], [-1, 0, 1]])
    figure = plots.winner_map(model, ("a", "b"), valid=np.asarray([[True, True, False], [True, True, True]]))
    shown = np.asarray(figure.axes[0].images[0].get_array())
    same = (shown[:, :, None, None] == shown).all(-1)
    expected = np.asarray([[0, 1, -1], [-1, 0, 1]])
    assert np.array_equal(same, expected[:, :, None, None] == expected)
    assert (shown[1, 0] == 1).all()  # white
    assert [text.get_text() for text in figure.texts if "%" in text.get_text()] == ["a, 50.0%", "b, 50.0%"]
    with pytest.raises(ValueError, match="model 1 has no name, there are 1 names"):
        plots.winner_map(model, ("a",))
    pixels_of(plots.winner_map(np.full((2, 2), -1), ("a", "b")))


def test_everything_masked():
    empty = np.full((3, 4), np.nan)
    pixels_of(plots.abundance_maps(np.full((3, 4, 2), np.nan), ("a", "b")))
    pixels_of(plots.residual_map(empty))
    pixels_of(plots.gap_map(empty))
    scene, library, solution = make_run()
    with pytest.raises(ValueError, match="every pixel is masked"):
        plots.fits(scene, eqx.tree_at(lambda s: s.residual, solution, solution.residual * jnp.nan), library)


def test_lines_break_at_gaps_bad_bands_and_missing_values():
    centers = np.asarray([400.0, 410, 420, 430, 600, 610, 620, 630])
    values = np.asarray([[0.1, 0.2, np.nan, 0.4, 0.5, 0.6, 0.7, 0.8]])
    library = SpectralLibrary(values, SpectralAxis(centers), ("a",), good_bands=np.arange(8) != 6)
    (line,) = plots.endmember_curves(library).axes[0].lines
    x, y = line.get_data()
    assert np.isnan(y).sum() == 3  # missing, gap, bad
    assert (np.diff(x) >= 0).all()
    between = (x > 430) | ((x == 430) & np.isnan(y))
    assert np.isnan(y[between][0])


def test_a_smoothly_stretched_axis_has_no_gap():
    centers = 1e7 / np.linspace(2000.0, 400.0, 200)  # even in wavenumber: steps grow 25-fold
    library = SpectralLibrary(np.ones((1, 200)), SpectralAxis(centers), ("a",))
    (line,) = plots.endmember_curves(library).axes[0].lines
    assert not np.isnan(line.get_ydata()).any()


def test_axes_that_run_backwards_are_sorted():
    library = SpectralLibrary(np.asarray([[3.0, 2.0, 1.0, 0.0]]), SpectralAxis(np.asarray([4.0, 3.0, 2.0, 1.0])))
    (line,) = plots.endmember_curves(library).axes[0].lines
    assert list(line.get_xdata()) == [1, 2, 3, 4]
    assert list(line.get_ydata()) == [0, 1, 2, 3]


def test_labels_carry_units():
    scene, library, _ = make_run()
    axis = plots.endmember_curves(library, unit="radiance").axes[0]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("wavelength (nm)", "radiance")
    assert "460" in plots.false_colour(scene).axes[0].get_title("left")


def test_fits_show_the_mixture_and_its_baseline():
    scene, library, solution = make_run(masked=False)
    figure = plots.fits(scene, solution, library)
    measured, fitted = figure.axes[0].lines[:2]
    np.testing.assert_allclose(measured.get_ydata(), fitted.get_ydata(), atol=1e-6)  # rendered from these abundances
    lifted = eqx.tree_at(lambda s: s.fitted, solution, jnp.full((6, 8, 1), 2.0), is_leaf=lambda x: x is None)
    shifted = plots.fits(scene, lifted, library, baseline=np.full((1, 6), 0.5))
    np.testing.assert_allclose(shifted.axes[0].lines[1].get_ydata() - fitted.get_ydata(), 1, atol=1e-6)


def test_masked_pixels_are_transparent():
    scene, _, _ = make_run()
    cube = np.array(scene.cube)
    cube[3, 3] = -9999
    mask = np.ones((6, 8), bool)
    mask[5, 5] = False
    picture, _ = composite(Scene(cube, scene.axis, nodata=-9999.0, mask=mask))
    opaque = picture[..., 3] == 1
    expected = mask.copy()
    expected[0, :2] = expected[3, 3] = False
    np.testing.assert_array_equal(opaque, expected)
    assert ((picture >= 0) & (picture <= 1)).all()


def test_bad_bands_are_not_shown():
    scene, _, _ = make_run(masked=False)
    good = np.asarray([True, False, True, True, True, True])  # 460 nm is bad
    _, how = composite(Scene(scene.cube, scene.axis, good_bands=good))
    assert "450" in how


def test_infrared_scenes_show_components_whose_sign_is_fixed():
    scene, _, _ = make_run(centers=CENTERS["infrared"], masked=False)
    picture, how = composite(scene)
    assert "components" in how
    spectra = np.asarray(scene.cube, dtype=np.float64).reshape(-1, 6)
    _, _, rows = np.linalg.svd(spectra - spectra.mean(axis=0), full_matrices=False)
    scores = (spectra - spectra.mean(axis=0)) @ (rows[0] * np.sign(rows[0][np.abs(rows[0]).argmax()]))
    np.testing.assert_array_equal(np.argsort(scores)[5:-5], np.argsort(picture[..., 0].ravel(), kind="stable")[5:-5])


def test_large_scenes_are_thinned():
    picture, _ = composite(Scene(np.random.default_rng(0).random((50, 120, 4), np.float32)), limit=40)
    assert max(picture.shape[:2]) <= 40
    assert picture.shape[0] / picture.shape[1] == pytest.approx(50 / 120, rel=0.05)


def test_a_list_has_no_picture():
    with pytest.raises(ValueError, match="row, column, band"):
        composite(Scene(np.ones((3, 4))))


def test_pyplot_stays_out_and_matplotlib_is_lazy():
    code = (
        "import sys, unmix_jax.plots as p; assert 'matplotlib' not in sys.modules; import numpy as np;"
        "p.gap_map(np.ones((2, 2))).savefig(__import__('io').BytesIO());"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_all_runs_of_blind_unmixing(count):
    rng = np.random.default_rng(1)
    spectra = rng.uniform(0.1, 0.9, (count, 6))
    spectra[:, 2] = np.nan
    runs = np.stack([spectra, 2 * spectra, 0 * spectra])
    library = SpectralLibrary(spectra.astype(np.float32), None, names_of(count))
    figure = plots.endmember_runs(runs, library, collapsed=np.asarray([False, False, True]), reference=spectra)
    assert len(figure.axes) == count
    drawn = [line for line in figure.axes[0].lines if len(line.get_ydata())]
    assert len(drawn) == 4  # two runs, what was taken, the reference; a run of zeros has no peak to be divided by
    for line in drawn:
        assert np.nanmax(line.get_ydata()) == pytest.approx(1)
        assert np.isnan(line.get_ydata()[2])
    assert pixels_of(figure)


def test_the_threshold_that_was_taken():
    figure = plots.threshold_curve(np.asarray([0.5, 0.7, 0.9]), np.asarray([0.3, 0.1, 0.2]), 0.7)
    curve, taken = figure.axes[0].lines
    assert list(curve.get_ydata()) == [0.3, 0.1, 0.2]
    assert set(taken.get_xdata()) == {0.7}
    assert pixels_of(figure)
