"""Libraries: named arrays, resampling to a sensor, matching with a scene."""

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
    with pytest.raises(ValueError, match=r"a.xlsx is a workbook; this is none of these: save its sheet as .csv"):
        read_library(tmp_path / "a.xlsx")
    (tmp_path / "a.csv").write_text("wavelength_nm,a\n400,0.1\n")
    with pytest.raises(ValueError, match="key 'spectra' means nothing for this format; it knows class"):
        read_library(tmp_path / "a.csv", keys={"spectra": "x"})


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
    with pytest.raises(ValueError, match=r"hardly be in one scale.*--allow-scale-mismatch"):
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
