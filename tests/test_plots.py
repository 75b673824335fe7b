"""Figures: every kind of scene draws without a warning, and shows what it claims to show."""

import io
import subprocess
import sys
from dataclasses import replace

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.text import Text

from unmix_jax import plots
from unmix_jax.endmembers.identifiability import identifiability
from unmix_jax.plots.identifiability import bounds
from unmix_jax.plots.style import DASHES, FILLS, PALETTE, REST, distinct, figure_of, words
from unmix_jax.plots.unmixing import NO_BOUND
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


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_scene_can_be_drawn(shape):
    scene, library, solution = make_run(shape, masked=np.prod(shape) > 2)
    for figure in (
        plots.false_colour(scene),
        plots.abundance_maps(solution.abundances, library.names),
        plots.residual_map(solution.residual),
        plots.gap_map(solution.gap),
        plots.abundance_bound_map(solution.gap),
        plots.abundance_bound_map(np.where(np.arange(np.prod(shape)).reshape(shape) % 2, np.inf, solution.gap)),
        plots.abundance_bound_map(np.full(shape, np.inf)),
        plots.winner_map(np.arange(np.prod(shape)).reshape(shape) % 2, ("linear", "bilinear")),
        plots.endmember_curves(library),
        plots.fits(scene, solution, library),
    ):
        assert pixels_of(figure)[:4] == b"\x89PNG"


@pytest.mark.parametrize("centers", CENTERS.values(), ids=CENTERS)
@pytest.mark.parametrize("shape", [(6, 8), (9,)], ids=["image", "list"])
def test_every_axis_can_be_drawn(shape, centers):
    scene, library, solution = make_run(shape, centers)
    for figure in (plots.false_colour(scene), plots.endmember_curves(library), plots.fits(scene, solution, library)):
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


# ---- names and keys: whole, distinct, inside the figure


HOSTILE = (
    "short",
    "a very long name of a material that goes on and on, whose end is {}",
    "$x_1^{{{}",
    "<b>ü</b> \\alpha {}",
    "",
    "_below {}",
    "树木 {}",
    "\u202eright to left\u202c {}",
    "\x1b[31mred\x00\n{}",
    "basalt flow, Mauna Loa, weathered, sample taken in the morning",
    "شجرة {}",
    "e\u0301 \U0001f600 {}",
    "\udcff {}",
)


def hostile(count):
    return tuple(HOSTILE[i % len(HOSTILE)].format(i) for i in range(count))


def drawn_texts(figure):
    """Every text that reaches the canvas, with its box in pixels."""
    found, draw = [], Text.draw

    def record(self, renderer, *rest, **more):
        if self.get_visible() and self.get_text().strip():
            found.append(self)
        return draw(self, renderer, *rest, **more)

    canvas = FigureCanvasAgg(figure)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", record)
        canvas.draw()
    return [(text, text.get_window_extent(canvas.get_renderer())) for text in found]


def faults(figure):
    """Texts that leave the figure, lie upon each other, or, if they belong to no panel, upon a panel."""

    def meet(a, b):
        return a.x0 < b.x1 - 1 and b.x0 < a.x1 - 1 and a.y0 < b.y1 - 1 and b.y0 < a.y1 - 1

    texts, edge = drawn_texts(figure), figure.bbox
    renderer = figure.canvas.get_renderer()
    outside = [
        text.get_text()
        for text, b in texts
        if b.x0 < edge.x0 - 1 or b.x1 > edge.x1 + 1 or b.y0 < edge.y0 - 1 or b.y1 > edge.y1 + 1
    ]
    alike = [
        (a.get_text(), b.get_text())
        for i, (a, box) in enumerate(texts)
        for b, other in texts[i + 1 :]
        if meet(box, other)
    ]
    panels = [axis.get_window_extent(renderer) for axis in figure.axes]
    upon = [text.get_text() for text, box in texts if text.axes is None and any(meet(box, panel) for panel in panels)]
    return outside, alike, upon


def library_of(count, bands=30):
    rng = np.random.default_rng(count)
    spectra = 0.3 + 0.2 * np.sin(np.linspace(0, 6, bands) + rng.uniform(0, 6, (count, 1)))
    return SpectralLibrary(spectra, SpectralAxis(np.linspace(400, 2500, bands)), hostile(count), quantity="$R_" * 30)


def list_of(count, spectra):
    rng = np.random.default_rng(0)
    names = tuple(f"sample {name}" for name in hostile(spectra))
    return plots.abundance_maps(rng.dirichlet(np.ones(count), spectra), hostile(count), pixel_names=names, title="$t")


def pixels_in(count, shape=(20, 30)):
    return np.random.default_rng(0).dirichlet(np.ones(count), shape)


def fits_of(shape):
    scene, library, solution = make_run(shape, masked=False)
    names = hostile(shape[0]) if len(shape) == 1 else ()
    return plots.fits(replace(scene, pixel_names=names, quantity="$Q_" * 30), solution, library, every=1000)


def runs_of(count):
    library = library_of(count)
    runs = np.stack([np.asarray(library.spectra)] * 2)
    gone = np.asarray([True, False])
    return plots.endmember_runs(runs, library, collapsed=gone, reference=runs[0], title="a $title " * 20)


def bounds_of(count):
    found = identifiability(library_of(count).spectra, noise=0.01, names=hostile(count))
    return bounds(found, title="a $title " * 20)


FIGURES = {
    "curves, 1": lambda: plots.endmember_curves(library_of(1), title="$a_{" * 99),
    "curves, 17": lambda: plots.endmember_curves(library_of(17)),
    "curves, 100": lambda: plots.endmember_curves(library_of(100)),
    "maps, 1": lambda: plots.abundance_maps(pixels_in(1), hostile(1), title="$a" * 200),
    "maps of 40": lambda: plots.abundance_maps(pixels_in(40), hostile(40), members=range(20, 40)),
    "maps, tall": lambda: plots.abundance_maps(pixels_in(12, (60, 10)), hostile(12)),
    "maps, wide": lambda: plots.abundance_maps(pixels_in(3, (1, 30)), hostile(3)),
    "bars of 3": lambda: list_of(3, 13),
    "bars of 40": lambda: list_of(40, 13),
    "areas of 100": lambda: list_of(100, 60),
    "residual": lambda: plots.residual_map(np.ones((3, 4)), unit="$Q_" * 30, title="$t " * 60),
    "residuals of a list": lambda: plots.residual_map(np.arange(5.0), unit="$Q_" * 30),
    "gap, tall": lambda: plots.gap_map(np.full((60, 10), 1e-6)),
    "bounds on abundances": lambda: plots.abundance_bound_map(np.array([[1e-6, np.inf], [1e-3, np.nan]])),
    "bounds, tall": lambda: plots.abundance_bound_map(np.full((60, 10), np.inf), title="$t " * 60),
    "bounds of a list": lambda: plots.abundance_bound_map(np.array([1e-6, np.inf, 1e-3, np.nan])),
    "winners": lambda: plots.winner_map(np.arange(60).reshape(6, 10), hostile(60), title="$t " * 60),
    "winners, tall": lambda: plots.winner_map(np.arange(60).reshape(30, 2) % 3, hostile(3), title="$t " * 60),
    "winners of a list": lambda: plots.winner_map(np.arange(60), hostile(60), title="$t " * 60),
    "fits": lambda: fits_of((6, 8)),
    "fits of a list": lambda: fits_of((13,)),
    "runs": lambda: runs_of(5),
    "one run": lambda: runs_of(1),
    "bounds": lambda: bounds_of(13),
}


def test_a_pixel_without_a_bound_is_neither_blank_nor_of_the_scale():
    bound = np.array([[1e-6, np.inf, 1e-3], [np.nan, 0.0, np.inf]])
    figure = plots.abundance_bound_map(bound)
    (image,) = figure.axes[0].images
    colours = image.cmap(image.norm(image.get_array()))
    red = to_rgba(NO_BOUND)
    np.testing.assert_array_equal((colours == red).all(-1), np.isinf(bound))
    assert colours[1, 0, 3] == 0  # blank
    assert (abs(image.cmap(np.linspace(0, 1, 256)) - red).max(-1) > 0.2).all()
    assert any("red: none" in axis.get_ylabel() for axis in figure.axes)
    listed = plots.abundance_bound_map(bound.reshape(-1)).axes[0]
    assert "red: none" in listed.get_ylabel()  # not shortened
    points = listed.lines
    np.testing.assert_array_equal(points[1].get_xdata(), [1, 5])
    np.testing.assert_array_equal(np.isfinite(points[0].get_ydata()), [True, False, True, False, True, False])


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_leaves_the_figure_or_lies_upon_another(name):
    assert faults(FIGURES[name]()) == ([], [], [])


def keyed(figure):
    """Names of the key and how each is drawn: colour and dashes, or the colour of a patch."""
    names = [text.get_text() for text in figure.texts]
    return names, [(line.get_color(), line.get_linestyle(), line._unscaled_dash_pattern) for line in figure.artists]


@pytest.mark.parametrize("count", [3, 17, 33, 64])
def test_every_curve_is_named_and_looks_like_its_entry(count):
    library = library_of(count)
    figure = plots.endmember_curves(library)
    names, styles = keyed(figure)
    assert len(names) == len(set(names)) == len(styles) == len(set(styles)) == count
    drawn = {line.get_ydata()[0]: line for line in figure.axes[0].lines}
    for spectrum, style in zip(np.asarray(library.spectra), styles, strict=True):
        line = drawn[spectrum[0]]
        assert (line.get_color(), line.get_linestyle(), line._unscaled_dash_pattern) == style


def test_more_curves_than_can_be_told_apart_are_counted():
    figure = plots.endmember_curves(library_of(100))
    names, styles = keyed(figure)
    assert names[-1] == "36 more spectra are grey and not named."
    assert len(set(names)) == 65
    assert len(set(styles)) == 64
    assert sum(line.get_color() == REST for line in figure.axes[0].lines) == 36


@pytest.mark.parametrize("count", [3, 40, 41, 100])
def test_patches_of_one_key_differ(count):
    for figure in (list_of(count, 5), plots.winner_map(np.arange(count).reshape(1, -1), hostile(count))):
        names, styles = keyed(figure)
        names = [name for name in names if name != "$t"]
        assert len(names) == len(set(names)) == len(set(styles)) == min(count, 40)
        assert any(f"{count - 39} others" in name for name in names) == (count > 40)


def test_shares_of_a_list_add_up_with_those_not_named_and_negative_ones():
    values = np.asarray([[0.7, 0.5, -0.2], [np.nan] * 3, [0.1, 0.2, 0.7]])
    (axis,) = plots.abundance_maps(values, ("a", "b", "c"), pixel_names=("x", "y", "z")).axes
    ends = {(round(bar.get_y() + 0.39), round(bar.get_x() + bar.get_width(), 6)) for bar in axis.patches}
    assert {(0, 0.7), (0, 1.2), (0, -0.2), (2, 0.1), (2, 0.3), (2, 1.0)} <= ends
    assert axis.get_xlim() == pytest.approx((-0.2, 1.2))
    assert [label.get_text() for label in axis.get_yticklabels()] == ["x", "y", "z"]
    many = np.random.default_rng(0).dirichlet(np.ones(100), 50)
    tops = plots.abundance_maps(many, [str(i) for i in range(100)]).axes[0].collections
    assert max(path.vertices[:, 1].max() for of in tops for path in of.get_paths()) == pytest.approx(1)


def test_the_rarest_models_are_counted_together():
    model = np.repeat(np.arange(50), np.arange(50, 0, -1))
    names, _ = keyed(plots.winner_map(model.reshape(1, -1), [f"m{i}" for i in range(50)]))
    assert names[0] == f"m0, {50 / model.size:.1%}"
    assert names[-1] == f"11 others, {sum(range(1, 12)) / model.size:.1%}"


# Machado, Oliveira and Fernandes 2009, severity 1: what readers with protanopia and deuteranopia see, in linear RGB.
SEEN = (
    np.eye(3),
    np.asarray([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    np.asarray([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
)


def distances(colours):
    """The least distance of each two colours in CIELAB (D65), over three kinds of readers."""
    rgb = np.asarray([to_rgb(colour) for colour in colours])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.asarray([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    least = np.full((len(rgb),) * 2, np.inf)
    for eye in SEEN:
        xyz = np.clip(linear @ eye.T, 0, 1) @ to_xyz.T / to_xyz.sum(1)
        f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
        lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], -1)
        least = np.minimum(least, np.linalg.norm(lab[:, None] - lab, axis=-1))
    return least[np.triu_indices(len(rgb), 1)]


def test_colour_blind_readers_tell_the_colours_apart():
    assert distances(PALETTE).min() > 15
    assert distances([*FILLS, REST, "white"]).min() > 10
    assert len(set(map(str, DASHES))) == len(DASHES)


def test_names_are_drawn_as_they_are():
    texts = [text for text, _ in drawn_texts(plots.endmember_curves(library_of(13)))]
    shown = {text.get_text() for text in texts}
    assert {"$x_1^{2", "<b>ü</b> \\alpha 3", "_below 5", "right to left 7", "[31mred 8", "(no name)"} <= shown
    assert not any(text.get_parse_math() for text in texts if "$" in text.get_text())


@given(
    names=strategies.lists(strategies.text(max_size=60), min_size=1, max_size=8),
    room=strategies.floats(0.6, 3.0),
    again=strategies.integers(1, 3),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_any_names_stay_distinct_and_fit(names, room, again):
    shown = distinct(names * again, room)
    assert len(set(shown)) == len(shown)
    figure = figure_of(3.0, 0.3 * len(shown))
    for i, name in enumerate(shown):
        figure.text(0, (i + 0.5) / len(shown), name, **words())
    for _, box in drawn_texts(figure):
        assert box.width / figure.dpi < room * 1.04 + 0.03  # hinting moves letters to whole pixels


def test_names_that_look_alike_are_numbered():
    ends = [f"{'very ' * 20}{i} {'long ' * 20}" for i in range(3)]
    assert [name.split("#")[1] for name in distinct(ends, 1.5)] == ["1", "2", "3"]
    assert distinct(["a", "b", "a", "a #3"], 2.0) == ["a #1", "b", "a #3", "a #3 #4"]
    halves = [f"the first half of a long name, and its other half {end}" for end in "AB"]
    assert [name[-1] for name in distinct(halves, 1.6)] == ["A", "B"]


def test_names_are_distinct_over_several_pictures():
    names = [f"basalt {'x' * 80} {i % 2}" for i in range(4)]
    shown = []
    for members in ((0, 1), (2, 3)):
        figure = plots.abundance_maps(np.full((4, 5, 4), 0.25), names, members=members)
        shown += [axis.get_title() for axis in figure.axes[:-1]]
    assert len(set(shown)) == 4


def test_members_are_those_that_are_drawn():
    values = np.arange(3.0) / 3 + np.zeros((4, 5, 3))
    figure = plots.abundance_maps(values, ("a", "b", "c"), members=[2, 0])
    assert [axis.get_title() for axis in figure.axes[:-1]] == ["c", "a"]
    assert [axis.images[0].get_array()[0, 0] for axis in figure.axes[:-1]] == pytest.approx([2 / 3, 0])


def test_fits_of_a_thinned_scene_name_its_own_rows_and_columns():
    scene, library, solution = make_run((7, 9), masked=False)
    residual = np.full((7, 9), 0.5)
    residual[4, 6] = 0.1
    solution = eqx.tree_at(lambda s: s.residual, solution, jnp.asarray(residual))
    figure = plots.fits(scene, solution, library, titles=("best",), quantiles=(0.0,), every=8)
    assert figure.axes[0].get_title("left") == "best\nrow 32, column 48, RMS 0.1"
    (x,) = {tuple(line.get_xdata()) for line in plots.residual_map(residual[0], every=8).axes[0].lines}
    assert x == tuple(range(0, 72, 8))


def test_fits_of_a_list_name_its_spectra():
    scene, library, solution = make_run((9,), masked=False)
    best = int(np.argmin(solution.residual))
    one = {"titles": ("best",), "quantiles": (0.0,)}
    said = plots.fits(scene, solution, library, every=3, **one).axes[0].get_title("left")
    assert f"\nspectrum {3 * best}, RMS" in said
    scene = replace(scene, pixel_names=tuple(f"probe_{i}$" for i in range(9)))
    assert f"\nprobe_{best}$, RMS" in plots.fits(scene, solution, library, **one).axes[0].get_title("left")
