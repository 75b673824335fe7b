"""Figures of fitted minerals: every fit draws without a warning, and shows what it claims to show."""

import io

import numpy as np
import pytest

from unmix_jax import plots
from unmix_jax.physics.dispersion import Dispersion, from_axes

WAVES = np.linspace(400.0, 1400.0, 60)
MINERALS = {
    "one axis": from_axes([[500.0, 900.0]], [[0.02, 0.1]], [[0.3, 0.05]], [2.4]),
    "two axes": from_axes([[500.0], [350.0, 700.0, 1500.0]], [[0.1], [0.1] * 3], [[0.2], [0.4, 1e-9, 3.0]], [2, 3]),
    "an axis without oscillators": from_axes([[500.0], []], [[0.1], []], [[0.2], []], [2, 3]),
    "blackbody": from_axes([[500.0]], [[0.5]], [[0.0]], [1.0]),
    "nothing": from_axes([[]], [[]], [[]], [1.0]),
    "six axes": from_axes([[450.0 + 100 * x] for x in range(6)], [[0.1]] * 6, [[0.2]] * 6, [2] * 6),
}
GAPS = {"all": slice(0, 0), "some": slice(10, 20), "spikes": slice(5, 6), "none left": slice(None)}


def pixels_of(figure):
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=40)
    return stream.getvalue()


def spectra_of(mineral: Dispersion):
    modelled = np.asarray(mineral(WAVES))
    return modelled + np.random.default_rng(0).normal(0, 1e-3, WAVES.size), modelled


@pytest.mark.parametrize("gaps", GAPS.values(), ids=GAPS)
@pytest.mark.parametrize("name", MINERALS)
def test_every_fit_can_be_drawn(name, gaps):
    measured, modelled = spectra_of(MINERALS[name])
    measured[gaps] = np.nan
    figure = plots.fitted_mineral(WAVES, measured, modelled, MINERALS[name], title="$x_1^ <b>ü</b>")
    assert pixels_of(figure)[:4] == b"\x89PNG"


def test_what_is_drawn_is_what_was_given():
    measured, modelled = spectra_of(MINERALS["two axes"])
    measured[7] = np.nan
    figure = plots.fitted_mineral(WAVES, measured, modelled, MINERALS["two axes"], quantity="reflectance", title="t")
    upper, middle, lower = figure.axes
    np.testing.assert_array_equal(upper.lines[0].get_ydata(), measured)
    np.testing.assert_array_equal(upper.lines[1].get_ydata(), modelled)
    np.testing.assert_array_equal(middle.lines[0].get_ydata(), measured - modelled)
    assert upper.get_title("left") == "t"
    assert [a.get_ylabel() for a in figure.axes] == ["reflectance", "residual", "strength 4πρ"]
    assert lower.get_xlabel() == "wavenumber (cm⁻¹)"
    assert {a.get_xlim() for a in figure.axes} == {(400.0, 1400.0)}


def test_oscillators_stand_at_their_frequencies_with_strength_and_linewidth():
    measured, modelled = spectra_of(MINERALS["two axes"])
    lower = plots.fitted_mineral(WAVES, measured, modelled, MINERALS["two axes"]).axes[2]
    stems, bars = lower.collections[2], lower.collections[3]  # of the second axis
    at = np.asarray([s[:, 0] for s in stems.get_segments()])
    np.testing.assert_allclose(at, [[350, 350], [700, 700], [1500, 1500]])
    heights = [s[1, 1] for s in stems.get_segments()]
    np.testing.assert_allclose(heights, [0.4, 3e-4, 3.0], rtol=1e-6)  # too weak a one stands at the foot
    widths = [np.ptp(s[:, 0]) for s in bars.get_segments()]
    np.testing.assert_allclose(widths, [35, 70, 150], rtol=1e-6)
    said = [text.get_text() for text in lower.get_legend().get_texts()]
    assert said == ["axis 1 (50%): 1", "axis 2 (50%): 3 (2 beyond the range)"]


def test_a_spike_does_not_flatten_the_spectrum():
    measured, modelled = spectra_of(MINERALS["one axis"])
    waves = np.linspace(400.0, 1400.0, 600)
    modelled = np.asarray(MINERALS["one axis"](waves))
    measured = modelled.copy()
    measured[300] = 50.0
    low, high = plots.fitted_mineral(waves, measured, modelled, MINERALS["one axis"]).axes[0].get_ylim()
    assert low < modelled.min() < modelled.max() < high < 1.2


@pytest.mark.parametrize("count", [1, 2, 5, 13])
def test_one_panel_per_mineral(count):
    measured, modelled = (np.tile(s, (count, 1)) for s in spectra_of(MINERALS["one axis"]))
    figure = plots.fitted_minerals(WAVES, measured, modelled, ["$ein langer Name_" * 4] * count)
    boxes = [axis.get_position() for axis in figure.axes]
    assert len(boxes) == count
    assert all(0 <= b.x0 < b.x1 <= 1 and 0 <= b.y0 < b.y1 <= 1 for b in boxes)
    assert not any(
        a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1 for i, a in enumerate(boxes) for b in boxes[i + 1 :]
    )
    pixels_of(figure)
    with pytest.raises(ValueError, match="1 titles for"):
        plots.fitted_minerals(WAVES, np.tile(measured, (2, 1)), np.tile(modelled, (2, 1)), ["a"])
