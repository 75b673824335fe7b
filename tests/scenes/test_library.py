"""Libraries: text tables in both layouts, resampling to a sensor, matching with a scene."""

import numpy as np
import pytest
from helpers import assert_close

from unmix_jax.physics.sensor import SIGMA_PER_FWHM
from unmix_jax.scenes.library import match, resample
from unmix_jax.scenes.readers import read_library
from unmix_jax.scenes.scene import Scene, SpectralAxis, SpectralLibrary

NM = np.array([400.0, 450.0, 500.0, 560.0, 700.0])
SPECTRA = np.round(np.random.default_rng(0).uniform(0.1, 0.9, (3, 5)), 4)
NAMES, CLASSES = ("soil a", "tree", "soil b"), ("soil", "plant", "soil")


def table(folder, rows, separator=",", name="library.csv"):
    path = folder / name
    path.write_text("\n".join(separator.join(map(str, row)) for row in rows) + "\n", encoding="utf-8")
    return path


def per_row(title="name"):
    return [[title, "class", *NM]] + [[n, c, *s] for n, c, s in zip(NAMES, CLASSES, SPECTRA, strict=True)]


def per_column(title="wavelength_nm"):
    body = np.column_stack([NM, SPECTRA.T]).tolist()
    return [[title, *NAMES], ["class", *CLASSES], *body]


@pytest.mark.parametrize("separator", [",", ";", "\t", ", "])
@pytest.mark.parametrize(("rows", "layout"), [(per_row(), "row"), (per_column(), "column")])
def test_tables_in_both_layouts(tmp_path, rows, layout, separator):
    library = read_library(table(tmp_path, rows, separator), unit="nm")
    np.testing.assert_array_equal(library.spectra, SPECTRA)
    np.testing.assert_array_equal(library.axis.centers, NM)
    assert library.axis.unit == "nm"
    assert (library.names, library.classes) == (NAMES, CLASSES)
    assert library.header["layout"] == f"one spectrum per {layout}"


@pytest.mark.parametrize("suffix", [".csv", ".txt", ".tsv"])
@pytest.mark.parametrize("layout", ["row", "column"])
def test_spaces_and_comments(tmp_path, layout, suffix):
    body = np.vstack([NM, SPECTRA])
    body = body if layout == "row" else body.T
    lines = ["# from a spectrometer", ""] + [" ".join(f"{v:9.4f}" for v in row) for row in body]
    path = tmp_path / f"library{suffix}"
    path.write_text("\n".join(lines))
    library = read_library(path, unit="nm")
    np.testing.assert_array_equal(library.spectra, SPECTRA)
    np.testing.assert_array_equal(library.axis.centers, NM)
    assert library.header["layout"] == f"one spectrum per {layout}"
    assert library.names == ("spectrum 1", "spectrum 2", "spectrum 3")


@pytest.mark.parametrize(
    ("title", "factor", "unit"),
    [
        ("wavelength_nm", 1, "nm"),
        ("Wavelength (nm)", 1, "nm"),
        ("Wavelength (µm)", 1e-3, "nm"),
        ("wavelength_um", 1e-3, "nm"),
        ("wavenumber_cm-1", 1, "cm-1"),
        ("Wavenumber", 1, "cm-1"),
    ],
)
def test_units_in_the_title(tmp_path, title, factor, unit):
    rows = per_column(title)
    rows[2:] = [[row[0] * factor, *row[1:]] for row in rows[2:]]
    axis = read_library(table(tmp_path, rows)).axis
    assert axis.unit == unit
    np.testing.assert_allclose(axis.centers, NM)


@pytest.mark.parametrize("form", ["X{:g}", "{:g}nm", "{:g} nm"])
def test_decorated_band_titles(tmp_path, form):
    rows = per_row()
    rows[0][2:] = [form.format(w) for w in NM]
    library = read_library(table(tmp_path, rows), unit="nm")
    np.testing.assert_array_equal(library.axis.centers, NM)


def test_a_missing_unit_is_guessed_with_a_warning(tmp_path):
    with pytest.warns(UserWarning, match="nm is assumed"):
        library = read_library(table(tmp_path, per_row()))
    assert library.axis.unit == "nm"


@pytest.mark.parametrize("rows", [per_row(), per_column()])
def test_widths_and_gaps(tmp_path, rows):
    if rows[0][0] == "name":
        rows = [*rows, ["FWHM", "", *([12.5] * 5)]]
        rows[1][3], rows[2][4], rows[3][2] = "", "-9999", "-1.23e+34"
    else:
        rows = [[*row, extra] for row, extra in zip(rows, ["fwhm", "", *([12.5] * 5)], strict=True)]
        rows[3][1], rows[4][2], rows[2][3] = "NaN", "-9999", "-1.23e34"
    library = read_library(table(tmp_path, rows), unit="nm")
    np.testing.assert_array_equal(library.axis.fwhm, 12.5)
    assert library.names == NAMES
    assert np.argwhere(np.isnan(library.spectra)).tolist() == [[0, 1], [1, 2], [2, 0]]


def test_european_numbers(tmp_path):
    rows = [[str(cell).replace(".", ",") for cell in row] for row in per_column()]
    np.testing.assert_array_equal(read_library(table(tmp_path, rows, ";")).spectra, SPECTRA)


def test_names_without_wavelengths(tmp_path):
    library = read_library(table(tmp_path, [[n, *s] for n, s in zip(NAMES, SPECTRA, strict=True)]))
    assert (library.axis, library.names) == (None, NAMES)
    np.testing.assert_array_equal(library.spectra, SPECTRA)


def test_descending_and_overlapping_axes_are_kept(tmp_path):
    for order in ([4, 3, 2, 1, 0], slice(None)):
        rows = np.column_stack([NM[order], SPECTRA.T[order]]).tolist()
        library = read_library(table(tmp_path, [["wavelength_nm", *NAMES], *rows]))
        np.testing.assert_array_equal(library.axis.centers, NM[order])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("# only a comment\n", "empty"),
        ("wavelength_nm,a,b\n", "cannot tell"),
        ("name,400,500\n", "cannot tell"),
        ("0.3,0.1,0.2\n0.4,0.1,0.9\n0.1,0.5,0.2\n", "cannot tell"),
        ("wavelength_nm,a\n400,0.1\n500\n", "columns"),
        ("wavelength_nm\n400\n500\n", "cannot tell"),
        ("a,b,c\nx,y,z\n", "cannot tell"),
    ],
)
def test_tables_that_are_no_library(tmp_path, text, message):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"bad\.csv.*{message}"):
        read_library(path)


@pytest.mark.parametrize("keys", [None, {"spectra": "reflectance", "names": "material"}])
def test_npz_libraries(tmp_path, keys):
    stored = {"spectra": SPECTRA, "names": np.array(NAMES), "classes": np.array(CLASSES), "wavelength_nm": NM}
    stored = {(keys or {}).get(k, k): v for k, v in stored.items()}
    np.savez(tmp_path / "a.npz", **stored, fwhm=np.full(5, 9.0), good_bands=NM > 420)
    library = read_library(tmp_path / "a.npz", keys=keys)
    np.testing.assert_array_equal(library.spectra, SPECTRA)
    assert (library.names, library.classes) == (NAMES, CLASSES)
    assert library.good_bands.tolist() == [False, True, True, True, True]
    assert_close(library.axis.fwhm, np.full(5, 9.0))


def test_files_that_are_no_library(tmp_path):
    np.savez(tmp_path / "a.npz", other=SPECTRA)
    with pytest.raises(ValueError, match="neither endmembers nor spectra; it has other"):
        read_library(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", spectra=SPECTRA[:0])
    with pytest.raises(ValueError, match=r"b\.npz.*at least one spectrum"):
        read_library(tmp_path / "b.npz")
    with pytest.raises(FileNotFoundError, match="absent"):
        read_library(tmp_path / "absent.csv")
    (tmp_path / "a.xlsx").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"suffix '\.xlsx' is none"):
        read_library(tmp_path / "a.xlsx")
    with pytest.raises(ValueError, match="keys are for"):
        read_library(table(tmp_path, per_row()), keys={"spectra": "x"})


# ---- resampling

FINE = np.arange(350.0, 1050.5, 0.5)
TARGET = np.array([700.0, 450.0, 620.0, 890.0])


def lines(*, slopes=(1e-3, -5e-4)):
    return np.array([0.5 + s * (FINE - 700) for s in slopes])


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_linear_spectra_are_resampled_exactly(shuffled, dtype):
    order = np.random.default_rng(0).permutation(len(FINE)) if shuffled else slice(None)
    library = SpectralLibrary(lines()[:, order].astype(dtype), SpectralAxis(FINE[order]), ("up", "down"))
    result = resample(library, SpectralAxis(TARGET, np.array([10.0, 25.0, 0.1, 60.0])))
    expected = np.array([0.5 + s * (TARGET - 700) for s in (1e-3, -5e-4)])
    assert_close(np.asarray(result.spectra, "f4"), expected)
    assert result.good_bands.all()
    assert result.names == ("up", "down")
    np.testing.assert_array_equal(result.axis.centers, TARGET)


def test_units_are_converted_on_the_way():
    library = SpectralLibrary(lines(), SpectralAxis(FINE / 1000, unit="um"))
    wavenumbers = SpectralAxis(TARGET, np.full(4, 10.0)).to("cm-1")
    result = resample(library, wavenumbers)
    assert result.axis.unit == "cm-1"
    np.testing.assert_allclose(result.spectra[0], 0.5 + 1e-3 * (TARGET - 700), atol=2e-4)


def test_broad_bands_are_not_interpolated():
    sigma, width = 5 * SIGMA_PER_FWHM, 30.0
    feature = np.exp(-0.5 * ((FINE - 700) / sigma) ** 2)
    library = SpectralLibrary(feature[None], SpectralAxis(FINE))
    result = resample(library, SpectralAxis(np.array([700.0]), np.array([width])))
    np.testing.assert_allclose(result.spectra[0, 0], 5 / np.hypot(5, width), rtol=1e-3)


def test_missing_widths_are_the_local_spacing():
    sigma = 6 * SIGMA_PER_FWHM
    feature = np.exp(-0.5 * ((FINE - 700) / sigma) ** 2)
    library = SpectralLibrary(feature[None], SpectralAxis(FINE))
    centers = np.concatenate([np.arange(660, 741, 8.0), [725.0, 733.0]])  # with an overlap at the end
    guessed = resample(library, SpectralAxis(centers))
    said = resample(library, SpectralAxis(centers, np.full(len(centers), 8.0)))
    assert_close(guessed.spectra, said.spectra)
    with pytest.raises(ValueError, match="FWHM cannot be estimated"):
        resample(library, SpectralAxis(np.array([700.0])))


def test_missing_channels_are_left_out_of_each_spectrum():
    spectra = np.vstack([np.full(len(FINE), 0.4), np.full(len(FINE), 0.7)])
    spectra[0, FINE < 600] = np.nan
    spectra[1, (FINE > 698) & (FINE < 702)] = np.nan
    axis = SpectralAxis(np.array([500.0, 590.0, 600.0, 700.0]), np.full(4, 20.0))
    result = resample(SpectralLibrary(spectra, SpectralAxis(FINE)), axis)
    assert np.isnan(result.spectra[0]).tolist() == [True, True, False, False]
    assert_close(result.spectra[0, 2:], np.full(2, 0.4, "f4"))
    assert_close(result.spectra[1], np.full(4, 0.7, "f4"))
    assert result.good_bands.all()  # every band is known by one spectrum at least


def test_bad_channels_of_the_library_are_not_used():
    spectra = np.full((1, len(FINE)), 0.4)
    bad = (FINE > 640) & (FINE < 660)
    spectra[:, bad] = 17.0
    library = SpectralLibrary(spectra, SpectralAxis(FINE), good_bands=~bad)
    result = resample(library, SpectralAxis(np.array([600.0, 650.0, 665.0]), np.full(3, 8.0)))
    assert_close(result.spectra[0, ::2], np.full(2, 0.4, "f4"))
    assert result.good_bands.tolist() == [True, False, True]


def test_partial_overlap_marks_the_bands_outside():
    library = SpectralLibrary(lines(), SpectralAxis(FINE))
    result = resample(library, SpectralAxis(np.array([300.0, 350.0, 400.0, 1050.0, 1070.0]), np.full(5, 10.0)))
    assert result.good_bands.tolist() == [False, True, True, True, False]
    assert np.isnan(result.spectra[:, [0, 4]]).all()
    assert np.isfinite(result.spectra[:, 1:4]).all()


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        (SpectralAxis(np.linspace(2000.0, 2400.0, 9)), "350 to 1050 nm and 2000 to 2400 nm"),
        (SpectralAxis(np.linspace(400.0, 1400.0, 9), unit="cm-1"), "350 to 1050 nm and 400 to 1400 cm⁻¹"),
    ],
)
def test_no_overlap_names_both_ranges(axis, message):
    with pytest.raises(ValueError, match=message):
        resample(SpectralLibrary(lines(), SpectralAxis(FINE)), axis)


def test_a_library_without_wavelengths_is_not_resampled():
    with pytest.raises(ValueError, match="names no wavelengths"):
        resample(SpectralLibrary(lines()), SpectralAxis(TARGET))


# ---- matching


def scene_of(bands, axis=None, **options):
    return Scene(np.full((3, 2, bands), 0.5, "f4"), axis, **options)


def test_match_leaves_equal_axes_alone():
    library = SpectralLibrary(SPECTRA, SpectralAxis(NM + 1e-6))
    matched = match(scene_of(5, SpectralAxis(NM)), library)
    np.testing.assert_array_equal(matched.spectra, SPECTRA)
    assert matched.good_bands.all()


@pytest.mark.parametrize("unit", ["um", "cm-1"])
def test_match_compares_in_one_unit(unit):
    library = SpectralLibrary(SPECTRA, SpectralAxis(NM).to(unit))
    matched = match(scene_of(5, SpectralAxis(NM)), library)
    np.testing.assert_array_equal(matched.spectra, SPECTRA)
    assert matched.axis.unit == "nm"


def test_match_resamples_different_axes():
    axis = SpectralAxis(TARGET, np.full(4, 10.0))
    matched = match(scene_of(4, axis), SpectralLibrary(lines(), SpectralAxis(FINE)))
    assert_close(matched.spectra[0], (0.5 + 1e-3 * (TARGET - 700)).astype("f4"))


@pytest.mark.parametrize("without", ["scene", "library", "both"])
def test_match_without_wavelengths_compares_band_counts(without):
    axis = SpectralAxis(NM)
    scene = scene_of(5, axis if without == "library" else None)
    own = axis if without == "scene" else None
    assert match(scene, SpectralLibrary(SPECTRA, own)).spectra.shape == (3, 5)
    short = None if own is None else SpectralAxis(NM[:4])
    with pytest.raises(ValueError, match="library has 4 bands, the scene has 5"):
        match(scene, SpectralLibrary(SPECTRA[:, :4], short))


def test_match_puts_all_masks_together():
    spectra = SPECTRA.copy()
    spectra[1, 3] = np.nan
    library = SpectralLibrary(spectra, SpectralAxis(NM), good_bands=NM > 420)
    matched = match(scene_of(5, SpectralAxis(NM), good_bands=NM < 650), library)
    assert matched.good_bands.tolist() == [False, True, True, False, False]
    assert np.isnan(matched.spectra[:, ~matched.good_bands]).all()
    np.testing.assert_array_equal(matched.spectra[:, 1:3], SPECTRA[:, 1:3])
    spectra[0] = np.nan
    with pytest.raises(ValueError, match="no good band"):
        match(scene_of(5), SpectralLibrary(spectra))


@pytest.mark.parametrize(("scene", "library"), [(3000.0, 1.0), (0.5, 100.0), (4.0, 1.0)])
def test_match_stops_at_different_scales_unless_told_to_go_on(scene, library):
    axis = SpectralAxis(NM)
    cube = np.full((3, 2, 5), scene, "f4")
    with pytest.raises(ValueError, match="hardly be in one scale.*--allow-scale-mismatch"):
        match(Scene(cube, axis), SpectralLibrary(SPECTRA * library, axis))
    with pytest.warns(UserWarning, match="one scale"):
        matched = match(Scene(cube, axis), SpectralLibrary(SPECTRA * library, axis), allow_scale_mismatch=True)
    assert "one scale" in matched.notes[0]


def test_match_says_that_quantities_differ():
    axis = SpectralAxis(NM)
    scene = Scene(np.full((3, 2, 5), 0.5, "f4"), axis, quantity="emissivity")
    with pytest.warns(UserWarning, match="the scene holds emissivity, the library reflectance"):
        matched = match(scene, SpectralLibrary(SPECTRA, axis, quantity="reflectance"))
    assert matched.notes == ("the scene holds emissivity, the library reflectance",)


@pytest.mark.parametrize("scene", [0.005, 0.9])
def test_match_is_silent_for_dark_and_bright_reflectance(scene):
    match(Scene(np.full((3, 2, 5), scene, "f4"), SpectralAxis(NM)), SpectralLibrary(SPECTRA, SpectralAxis(NM)))


def test_the_same_bands_in_another_order_are_only_permuted():
    rng = np.random.default_rng(5)
    centers = np.linspace(400.0, 900.0, 20)
    order = rng.permutation(20)
    spectra = rng.uniform(0, 1, (3, 20))
    library = SpectralLibrary(spectra, SpectralAxis(centers))
    scene = Scene(rng.uniform(0, 1, (4, 20)), SpectralAxis(centers[order]))
    np.testing.assert_array_equal(match(scene, library).spectra, spectra[:, order])
