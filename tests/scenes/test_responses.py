"""Tabulated spectral responses: what ships against what is published, resampling by them, tables of one's own."""

import numpy as np
import pytest

from unmix_jax.physics.sensor import tabulated
from unmix_jax.scenes.library import match, resample
from unmix_jax.scenes.responses import SHIPPED, axis_of_responses, read_responses, sensor_axis, sensor_responses
from unmix_jax.scenes.scene import Scene, SpectralAxis, SpectralLibrary

FINE = np.arange(380.0, 2601.0)

# ESA, S2-SRF (COPE-GSEG-EOPG-TN-15-0007), equivalent wavelengths; Barsi et al. (2014), Remote Sensing 6, 10232, for
# Landsat 8: centres and widths; USGS and NASA for the others: nominal band edges, which hold the centres.
CENTRES = {
    "sentinel2a": [442.7, 492.4, 559.8, 664.6, 704.1, 740.5, 782.8, 832.8, 864.7, 945.1, 1373.5, 1613.7, 2202.4],
    "sentinel2b": [442.2, 492.1, 559.0, 664.9, 703.8, 739.1, 779.7, 832.9, 864.0, 943.2, 1376.9, 1610.4, 2185.7],
    "landsat8": [442.96, 482.04, 561.41, 654.59, 864.67, 1608.86, 2200.73, 589.50, 1373.43],
}
WIDTHS_LANDSAT8 = [15.98, 60.04, 57.33, 37.47, 28.25, 84.72, 186.66, 172.40, 20.39]
EDGES = {
    "landsat9": {"B1": (433, 453), "B2": (450, 515), "B3": (525, 600), "B5": (845, 885), "B7": (2100, 2300)},
    "landsat7": {"B1": (450, 520), "B3": (630, 690), "B4": (770, 900), "B7": (2090, 2350)},
    "landsat5": {"B2": (520, 600), "B4": (760, 900), "B5": (1550, 1750)},
    "landsat4": {"B2": (520, 600), "B4": (760, 900), "B7": (2080, 2350)},
    "modis": {"B1": (620, 670), "B2": (841, 876), "B3": (459, 479), "B4": (545, 565), "B7": (2105, 2155)},
    "aster": {"B1": (520, 600), "B3N": (760, 860), "B5": (2145, 2185), "B9": (2360, 2430)},
}


@pytest.mark.parametrize("name", CENTRES)
def test_tables_agree_with_the_published_centres(name):
    """The centres are those of the publication, and the numbers of the table put them there within half a nanometre."""
    found = sensor_responses(name)
    np.testing.assert_array_equal(found.axis.centers, CENTRES[name])
    samples, responses = found.axis.responses
    means = np.trapezoid(responses * samples, samples, axis=1) / np.trapezoid(responses, samples, axis=1)
    middles = axis_of_responses([(samples, r) for r in responses]).centers
    computed = means if name.startswith("sentinel") else middles  # ESA publishes means, NASA middles of half maxima
    assert np.abs(computed - CENTRES[name]).max() < 0.5
    if name == "landsat8":
        np.testing.assert_allclose(found.axis.fwhm, WIDTHS_LANDSAT8, atol=0.1)


@pytest.mark.parametrize("name", EDGES)
def test_the_other_tables_lie_within_their_bands(name):
    found = sensor_responses(name)
    for band, (low, high) in EDGES[name].items():
        assert low < found.axis.centers[found.names.index(band)] < high


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("name", SHIPPED)
def test_a_flat_spectrum_stays_flat(name, dtype):
    axis = sensor_axis(name)
    flat = SpectralLibrary(np.full((2, len(FINE)), [[0.25], [1.0]], dtype), SpectralAxis(FINE))
    result = resample(flat, axis)
    np.testing.assert_allclose(result.spectra, np.full((2, len(axis)), [[0.25], [1.0]]), atol=1e-6)
    assert result.good_bands.all()
    assert result.axis is axis


@pytest.mark.parametrize("step", [0.7, 10.0, 37.0])
def test_weights_equal_quadrature_of_response_times_straight_lines(step):
    source = np.arange(400.0, 1000.0, step)
    spectrum = 0.3 + 0.2 * np.sin(source / 40)
    samples = np.array([500.0, 503.0, 510.0, 511.0, 560.0, 700.0])
    responses = np.array([[0, 1, 0.4, 0.9, 0, 0], [0, 0, 0, 0.1, 1.0, 0]])
    weights, inside = tabulated(source, samples, responses)
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    np.testing.assert_allclose(inside, 1)
    x = np.linspace(499, 701, 2_000_001)
    for row, response in zip(weights, responses, strict=True):
        r = np.interp(x, samples, response, left=0, right=0)
        expected = np.trapezoid(r * np.interp(x, source, spectrum), x) / np.trapezoid(r, x)
        assert row @ spectrum == pytest.approx(expected, rel=1e-7)


def test_the_share_inside_is_that_of_the_area():
    samples, box = np.array([499.999, 500.0, 600.0, 600.001]), np.array([[0, 1.0, 1.0, 0]])
    for low, high, share in ((400, 700, 1), (550, 700, 0.5), (525, 575, 0.5), (700, 800, 0), (300, 400, 0)):
        weights, inside = tabulated(np.array([low, high], float), samples, box)
        assert inside[0] == pytest.approx(share, abs=1e-4)
        assert weights.sum() == pytest.approx(float(share > 0))


@pytest.mark.parametrize(
    ("source", "samples", "responses", "message"),
    [
        ([1.0], [1.0, 2.0], [[1.0, 1.0]], "source samples must be at least 2"),
        ([2.0, 1.0], [1.0, 2.0], [[1.0, 1.0]], "source samples must be at least 2 positions that increase"),
        ([1.0, 2.0], [1.0, 1.0], [[1.0, 1.0]], "response samples"),
        ([1.0, 2.0], [1.0, 2.0], [[1.0, 1.0], [0.0, 0.0]], "band 2 has no response"),
    ],
)
def test_tables_that_weigh_nothing_are_refused(source, samples, responses, message):
    with pytest.raises(ValueError, match=message):
        tabulated(*(np.array(a) for a in (source, samples, responses)))


def test_bands_that_a_library_does_not_cover_are_missing():
    library = SpectralLibrary(np.full((1, 601), 0.4), SpectralAxis(np.arange(400.0, 1001.0)))
    result = resample(library, sensor_axis("landsat8", ["B1", "B5", "B6", "B7"]))
    assert result.good_bands.tolist() == [True, True, False, False]
    assert np.isnan(result.spectra[0, 2:]).all()


def test_two_channels_at_one_wavelength_share_its_weight():
    positions = np.array([500.0, 540.0, 540.0, 580.0, 640.0])
    library = SpectralLibrary(np.array([[0.1, 0.2, 0.4, 0.2, 0.1]]), SpectralAxis(positions))
    once = SpectralLibrary(np.array([[0.1, 0.3, 0.2, 0.1]]), SpectralAxis(positions[[0, 1, 3, 4]]))
    axis = sensor_axis("sentinel2a", ["B03"])
    np.testing.assert_allclose(resample(library, axis).spectra, resample(once, axis).spectra, rtol=1e-6)


@pytest.mark.parametrize("unit", ["um", "cm-1"])
def test_libraries_in_other_units_come_to_the_same_bands(unit):
    spectra = (0.2 + 0.1 * np.sin(FINE / 50))[None]
    axis = sensor_axis("sentinel2b")
    there = resample(SpectralLibrary(spectra, SpectralAxis(FINE).to(unit)), axis)
    here = resample(SpectralLibrary(spectra, SpectralAxis(FINE)), axis)
    np.testing.assert_allclose(there.spectra, here.spectra, atol=1e-6)


def test_responses_follow_the_unit_and_end_at_wavenumbers():
    axis = sensor_axis("landsat9")
    moved = axis.to("um")
    np.testing.assert_allclose(moved.responses[0] * 1000, axis.responses[0])
    np.testing.assert_allclose(moved.to("nm").centers, axis.centers)
    spectra = (0.2 + 0.1 * np.sin(FINE / 50))[None]
    library = SpectralLibrary(spectra, SpectralAxis(FINE))
    np.testing.assert_allclose(resample(library, moved).spectra, resample(library, axis).spectra, rtol=1e-6)
    assert axis.to("cm-1").responses is None
    np.testing.assert_allclose(axis.to("cm-1").fwhm, 1e7 * axis.fwhm / axis.centers**2)


def test_an_axis_checks_its_responses():
    samples, values = np.array([500.0, 510.0, 520.0]), np.ones((2, 3))
    SpectralAxis(np.array([505.0, 515.0]), responses=(samples, values))
    for wrong in ((samples, values[:1]), (samples[:2], values), (samples[:1], values[:, :1])):
        with pytest.raises(ValueError, match="responses are at least 2 wavelengths"):
            SpectralAxis(np.array([505.0, 515.0]), responses=wrong)
    with pytest.raises(ValueError, match="tabulated over wavelength"):
        SpectralAxis(np.array([505.0, 515.0]), None, "cm-1", (samples, values))


def test_match_takes_a_library_of_the_same_bands_as_it_is():
    axis = sensor_axis("sentinel2a", ["B02", "B03", "B04"])
    scene = Scene(np.full((2, 2, 3), 0.3), axis)
    spectra = np.array([[0.1, 0.2, 0.4], [0.3, 0.2, 0.1]])
    plain = SpectralLibrary(spectra, SpectralAxis(axis.centers))  # of the same sensor, says nothing of responses
    np.testing.assert_array_equal(match(scene, plain).spectra, spectra)
    turned = sensor_axis("sentinel2a", ["B04", "B03", "B02"])
    np.testing.assert_array_equal(match(scene, SpectralLibrary(spectra[:, ::-1], turned)).spectra, spectra)
    samples, values = axis.responses
    other = SpectralAxis(axis.centers, axis.fwhm, "nm", (samples, np.roll(values, 3, axis=1)))
    assert not np.array_equal(match(scene, SpectralLibrary(spectra, other)).spectra, spectra)


def test_names_of_sensors_are_lenient_and_those_that_do_not_ship_say_where_they_are():
    np.testing.assert_array_equal(sensor_axis("Sentinel-2A").centers, sensor_axis("S2A").centers)
    np.testing.assert_array_equal(sensor_axis("LANDSAT 8").centers, sensor_axis("l8").centers)
    assert sensor_axis("modis", ["B7", "B1"]).centers[0] > 2000
    with pytest.raises(ValueError, match=r"Sentinel-2C do not ship.*MTD_MSIL2A\.xml.*read_responses"):
        sensor_axis("Sentinel-2C")
    with pytest.raises(ValueError, match="worldview3 do not ship"):
        sensor_axis("worldview3")
    with pytest.raises(ValueError, match="no spectral responses of 'vidicon'; there are aster"):
        sensor_axis("vidicon")
    with pytest.raises(ValueError, match="Landsat 8 OLI has no band B12"):
        sensor_axis("landsat8", ["B12"])
    assert "COPE-GSEG-EOPG-TN-15-0007" in sensor_responses("sentinel2a").reference


TABLE = "wavelength_nm,red,nir\n600,0,\n610,0.5,\n620,1,\n630,0.5,0\n640,,1\n650,,0.5\n"


def spelled(kind):
    """The same table as others write it."""
    rows = [line.split(",") for line in TABLE.splitlines()]
    if kind == "tabs":
        return "\n".join("\t".join(row) for row in rows)
    if kind == "decimal commas":
        return "\n".join(";".join(cell.replace(".", ",") for cell in row) for row in rows)
    if kind == "micrometres":
        return "Wavelength (µm),red,nir\n" + "".join(f"{float(r[0]) / 1000},{r[1]},{r[2]}\n" for r in rows[1:])
    if kind == "falling":
        return "\n".join([TABLE.splitlines()[0], *TABLE.splitlines()[:0:-1]])
    return {"plain": TABLE, "comments": f"# sensor: mine\n# anything\n\n{TABLE}", "mark": f"\ufeff{TABLE}"}[kind]


@pytest.mark.parametrize("kind", ["plain", "tabs", "decimal commas", "micrometres", "falling", "comments", "mark"])
def test_tables_of_ones_own(tmp_path, kind):
    path = tmp_path / "mine.csv"
    path.write_text(spelled(kind), encoding="utf-8")
    found = read_responses(path)
    assert found.names == ("red", "nir")
    np.testing.assert_allclose(found.axis.centers, [620.0, 642.5])  # the edge beyond 650 falls over one more step
    np.testing.assert_allclose(found.axis.fwhm, [20.0, 15.0])
    samples, responses = found.axis.responses
    np.testing.assert_allclose(samples, [590, 600, 610, 620, 630, 640, 650, 660])
    np.testing.assert_allclose(responses, [[0, 0, 0.5, 1, 0.5, 0, 0, 0], [0, 0, 0, 0, 0, 1, 0.5, 0]])
    assert found.sensor == ("mine" if kind == "comments" else "")


def test_centres_and_gaps_of_a_table(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("# centre_nm,621.5,644\nwavelength_nm,a,b\n600,0,0\n610,,1\n620,1,\n630,0,0\n")
    found = read_responses(path)
    np.testing.assert_array_equal(found.axis.centers, [621.5, 644.0])
    samples, responses = found.axis.responses
    np.testing.assert_allclose(responses[:, samples == 610][:, 0], [0.5, 1])  # a gap is bridged
    np.testing.assert_allclose(responses[:, samples == 620][:, 0], [1, 0.5])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at least two rows"),
        ("wavelength_nm,a\n600,1\n", "at least two rows"),
        ("wavelength,a\n600,1\n610,1\n", "unit of its wavelengths is not said"),
        ("wavenumber_cm1,a\n600,1\n610,1\n", "unit of its wavelengths is not said"),
        ("wavelength_nm a\n600 1\n610 1\n", "no columns between commas"),
        ("wavelength_nm,a,a\n600,1,1\n610,1,1\n", "a name of its own"),
        ("wavelength_nm,,b\n600,1,1\n610,1,1\n", "a name of its own"),
        ("wavelength_nm,a\n600,1\n600,1\n610,1\n", "neither increase nor decrease"),
        ("wavelength_nm,a\n600,1\n620,1\n610,1\n", "neither increase nor decrease"),
        ("wavelength_nm,a\n600,1\n,1\n610,1\n", "must be wavelengths"),
        ("wavelength_nm,a\n-600,1\n610,1\n", "must be wavelengths"),
        ("wavelength_nm,a\n600,x\n610,1\n", "row 2, column 2 of the table is not a number: 'x'"),
        ("wavelength_nm,a\n600,inf\n610,1\n", "row 2, column 2"),
        ("wavelength_nm,a\n600,1,5\n610,1\n", "row 2 of the table has 3 columns"),
        ("wavelength_nm,a\n600,0\n610,0\n", "somewhere above zero"),
        ("wavelength_nm,a\n600,1\n610,-0.5\n", "not negative"),
        ("wavelength_nm,a\n600,1\n610,\n", "fewer than two values"),
        ("# centre_nm,1,2\nwavelength_nm,a\n600,1\n610,1\n", "centre_nm must list 1 wavelengths"),
    ],
)
def test_tables_that_are_refused(tmp_path, text, message):
    path = tmp_path / "mine.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_responses(path)
    assert str(path) in str(caught.value)


def test_a_unit_can_be_given_and_no_file_is_an_error(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("wavelength,a\n0.6,0\n0.61,1\n0.62,0\n")
    assert read_responses(path, unit="um").axis.centers.tolist() == pytest.approx([610.0])
    with pytest.raises(ValueError, match="in place of 'miles'"):
        read_responses(path, unit="miles")
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_responses(tmp_path / "absent.csv")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not text in UTF-8"):
        read_responses(path)
