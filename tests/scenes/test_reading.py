"""What a file says and what the user says: nothing that changes numbers is passed over in silence."""

import warnings

import jax
import numpy as np
import pytest
import spectral.io.envi as envi
from helpers import assert_close
from scipy.io import savemat

from unmix_jax.endmembers.extraction import nfindr, vca
from unmix_jax.endmembers.moments import ValidPixels
from unmix_jax.scenes.describe import describe
from unmix_jax.scenes.lazy import LazyCube
from unmix_jax.scenes.library import match
from unmix_jax.scenes.opening import open_any
from unmix_jax.scenes.readers import read_library, read_scene
from unmix_jax.scenes.reading import Entries, Reading, finish_library, numbered, require_valid
from unmix_jax.scenes.scene import Header, Scene, SpectralAxis, SpectralLibrary, as_scene

ROWS, COLUMNS, BANDS = 7, 5, 6
RNG = np.random.default_rng(3)
CUBE = RNG.uniform(0.1, 0.6, (ROWS, COLUMNS, BANDS)).astype("f4")
NM = np.linspace(400, 900, BANDS)


def write(folder, cube=CUBE, *, ext=".img", interleave="bip", drop=(), **header):
    """An ENVI cube; ``drop`` names header lines that are taken out."""
    metadata = {"wavelength": NM.tolist(), "wavelength units": "Nanometers", **header}
    path = folder / "scene.hdr"
    options = {"dtype": cube.dtype, "interleave": interleave, "ext": ext, "force": True}
    envi.save_image(str(path), cube, metadata={k: v for k, v in metadata.items() if v is not None}, **options)
    lines = [line for line in path.read_text().splitlines() if not line.startswith(tuple(drop) or ("\0",))]
    path.write_text("\n".join(lines))
    return path


def said(scene):
    """What `info` says."""
    return dict(describe(scene))


# ------------------------------------------------------------------ bands, masks and fill values


@pytest.mark.parametrize("mark", [np.nan, -9999.0, -1.23e34])
def test_bands_without_a_value_in_any_pixel_are_left_out_and_named(tmp_path, mark):
    cube = CUBE.copy()
    cube[..., [1, 4]] = mark
    header = {} if np.isnan(mark) or mark < -1e30 else {"data ignore value": mark}
    with pytest.warns(UserWarning, match="bands 2, 5 hold no value in any pixel that was looked at: they are left out"):
        scene = read_scene(write(tmp_path, cube, **header))
    assert scene.good_bands.tolist() == [True, False, True, True, False, True]
    assert any("bands 2, 5" in note for note in scene.notes)


@pytest.mark.parametrize("mark", [np.nan, -9999.0])
def test_a_scene_without_a_value_is_refused(tmp_path, mark):
    with pytest.raises(ValueError, match=r"scene.hdr.*no pixel holds a value.*--nodata"):
        read_scene(write(tmp_path, np.full_like(CUBE, mark)))


def test_the_first_rows_without_values_do_not_hide_the_others(tmp_path):
    cube = np.full((400, COLUMNS, BANDS), np.nan, "f4")
    cube[399] = CUBE[0]
    assert read_scene(write(tmp_path, cube)).notes == ()


def test_bands_that_cost_most_pixels_are_named(tmp_path):
    cube = CUBE.copy()
    cube[1:, :, 2] = np.nan
    with pytest.warns(UserWarning, match="86% of the pixels .* missing in band 3: .*--bad-bands"):
        read_scene(write(tmp_path, cube))


def test_a_band_that_is_the_same_everywhere_is_named(tmp_path):
    cube = RNG.uniform(0.1, 0.6, (20, 20, BANDS)).astype("f4")
    cube[..., 3] = -0.01  # what atmospheric corrections write where the air is opaque
    with pytest.warns(UserWarning, match="the same in all pixels .* in band 4"):
        read_scene(write(tmp_path, cube))


FILLED = {
    "-0.9999": (CUBE, -0.9999, "f4"),
    "-2147483648": (CUBE * 1e4, -2147483648, "i4"),
    "-1e+34": (CUBE, -1e34, "f4"),
    "65535": (CUBE * 1e4, 65535, "u2"),
    "-32768": (CUBE * 1e4, -32768, "i2"),
    "-5": (CUBE, -5.0, "f8"),
}


@pytest.mark.parametrize("shown", FILLED)
def test_an_undeclared_fill_value_is_suspected_named_and_refused_by_extraction(tmp_path, shown):
    values, fill, kind = FILLED[shown]
    cube = values.astype(kind)
    cube[2:4, 1] = fill
    path = write(tmp_path, cube)
    with pytest.warns(UserWarning, match="repeats as a fill value does.*--nodata"):
        scene = read_scene(path)
    assert scene.suspected_nodata == pytest.approx(fill)
    assert said(scene)["no-data value"] == f"not given; {shown} is suspected (--nodata)"
    for extract in (vca, nfindr):
        with pytest.raises(ValueError, match=r"repeats in scene as a fill value does.*--nodata"):
            extract(jax.random.key(0), scene, 2)
    told = read_scene(path, nodata=fill)
    assert (told.suspected_nodata, told.notes) == (None, ())
    assert told.stated_nodata == pytest.approx(fill)
    assert np.isnan(np.asarray(told.cube)[2:4, 1]).all()
    assert np.isfinite(np.asarray(told.cube)[:2]).all()
    assert (vca(jax.random.key(0), told, 2).endmembers > 0).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_scene(path, nodata="none").suspected_nodata is None


@pytest.mark.parametrize("kind", ["f4", "i2"])
def test_measurements_are_not_suspected(tmp_path, kind):
    cube = (CUBE * (1 if kind == "f4" else 1e4)).astype(kind)
    cube[0, 0] = 0  # no data, but known to be
    assert read_scene(write(tmp_path, cube)).suspected_nodata is None


def test_a_single_fill_pixel_that_no_sample_sees_does_not_become_an_endmember():
    cube = RNG.uniform(0.1, 0.6, (60, 50, BANDS)).astype("f4")
    cube[41, 13] = -8888.0
    with pytest.raises(ValueError, match=r"pixel at \(41, 13\).*-8888 looks like a fill value"):
        nfindr(jax.random.key(0), Scene(cube), 3)


def test_what_marks_missing_data_is_what_the_file_says(tmp_path):
    assert said(read_scene(write(tmp_path)))["no-data value"].startswith("not given")
    cube = (CUBE * 1e4).astype("i2")
    assert said(read_scene(write(tmp_path, cube, **{"data ignore value": -50})))["no-data value"] == "-50"


@pytest.mark.parametrize("name", ["bbl", "good_wavelengths", "Good Wavelengths"])
def test_good_bands_under_any_of_their_names(tmp_path, name):
    scene = read_scene(write(tmp_path, **{name: [1, 0, 1, 1, 0, 1]}))
    assert scene.good_bands.tolist() == [True, False, True, True, False, True]
    assert scene.account.unknown == ()


def test_zeros_are_values_unless_told_otherwise(tmp_path):
    cube = CUBE.copy()
    cube[1, 1, 2] = 0
    path = write(tmp_path, cube)
    assert np.asarray(read_scene(path).cube)[1, 1, 2] == 0
    assert np.isnan(np.asarray(read_scene(path, zeros="missing").cube)[1, 1, 2])


def test_no_pixel_to_unmix_is_an_error():
    gaps = CUBE.copy().reshape(-1, BANDS)
    gaps[::2, 0], gaps[1::2, 3] = np.nan, np.nan
    with pytest.raises(ValueError, match="in each of the 35, a value is missing in bands 1, 4"):
        require_valid(Scene(gaps), None)
    require_valid(Scene(gaps), np.arange(BANDS) != 0)
    with pytest.raises(ValueError, match="all are masked or zero"):
        require_valid(Scene(CUBE, mask=np.zeros((ROWS, COLUMNS), bool)), None)


# ------------------------------------------------------------------ scales


GAIN, OFFSET = np.linspace(0.5, 2.0, BANDS), np.linspace(-0.05, 0.05, BANDS)
SCALED = {
    "gains": ({"data gain values": GAIN}, lambda v: v * GAIN),
    "offsets": ({"data offset values": OFFSET}, lambda v: v + OFFSET),
    "both": ({"data gain values": GAIN, "data offset values": OFFSET}, lambda v: v * GAIN + OFFSET),
    "one gain": ({"data gain values": [0.25]}, lambda v: v * 0.25),
    "of reflectance": ({"data reflectance gain values": GAIN}, lambda v: v * GAIN),
    "factor": ({"reflectance scale factor": 4}, lambda v: v / 4),
    "all": (
        {"data gain values": GAIN, "data offset values": OFFSET, "reflectance scale factor": 4},
        lambda v: (v * GAIN + OFFSET) / 4,
    ),
}


@pytest.mark.parametrize(("header", "meaning"), SCALED.values(), ids=SCALED)
@pytest.mark.parametrize("interleave", ["bsq", "bil", "bip"])
@pytest.mark.parametrize("kind", ["f4", "i2"])
def test_gains_and_offsets_of_a_header_are_applied(tmp_path, header, meaning, interleave, kind):
    stored = CUBE if kind == "f4" else (CUBE * 1000).astype("i2")
    header = {k: np.ravel(v).tolist() if np.ndim(v) else v for k, v in header.items()}
    path = write(tmp_path, stored, interleave=interleave, **header)
    scene, expected = read_scene(path), meaning(stored.astype(float))
    np.testing.assert_allclose(np.asarray(scene.cube), expected.astype("f4"), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scene.cube[2:5], expected[2:5].astype("f4"), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scene.cube[1, 2], expected[1, 2].astype("f4"), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scene.cube[..., 3], expected[..., 3].astype("f4"), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        scene.cube[:, ::2, np.asarray([4, 1])], expected[:, ::2, [4, 1]].astype("f4"), rtol=1e-5, atol=1e-6
    )
    assert scene.account.unknown == ()
    np.testing.assert_allclose(
        np.asarray(read_scene(path, scale=2.0).cube), (stored * 2.0).astype("f4"), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"data gain values": [1, 2, 3]}, "data gain values lists 3 values for 6 bands.*--scale"),
        ({"data offset values": ["a"] * 6}, "data offset values must be a finite number.*--scale"),
        ({"reflectance scale factor": "inf"}, "reflectance scale factor must be a finite number"),
        ({"reflectance scale factor": -1}, "reflectance scale factor must be above"),
        ({"byte order": -1}, "byte order must be 0"),
        ({"byte order": 1000}, "byte order must be 0"),
        ({"fwhm": ["nan"] * 6}, "fwhm"),
        ({"fwhm": [-1.0] * 6}, "fwhm"),
        ({"wavelength": [500.0] * 6}, "all wavelengths are 500"),
        ({"bbl": ["nan"] * 6}, "bbl must be 0 or 1"),
        ({"data type": 6}, "complex"),
        ({"minor frame offsets": [2, 2]}, "minor frame offsets"),
    ],
)
def test_entries_that_cannot_be_honoured_are_errors_that_name_them(tmp_path, header, message):
    path = write(tmp_path)
    lines = path.read_text().splitlines()
    for key, value in header.items():
        lines = [line for line in lines if not line.startswith(f"{key} =")]
        lines.append(f"{key} = " + (f"{{{', '.join(map(str, value))}}}" if isinstance(value, list) else str(value)))
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=message) as caught:
        read_scene(path)
    assert str(path) in str(caught.value)


def test_both_kinds_of_gain_are_said(tmp_path):
    path = write(tmp_path, **{"data gain values": GAIN.tolist(), "data reflectance gain values": (GAIN * 2).tolist()})
    with pytest.warns(UserWarning, match="those for radiance .* are applied"):
        np.testing.assert_allclose(np.asarray(read_scene(path).cube), (CUBE * GAIN).astype("f4"), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("times", "found"), [(1e4, 1e-4), (1e3, 1e-4), (100, 0.01), (1, 1.0)])
def test_the_scale_can_be_found(tmp_path, times, found):
    path = write(tmp_path, (CUBE * times).astype("f8"))
    with pytest.warns(UserWarning, match=f"--scale auto: stored values are multiplied by {found:g}"):
        scene = read_scene(path, scale="auto")
    np.testing.assert_allclose(np.asarray(scene.cube), CUBE * times * found, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", [0, np.inf, np.nan])
def test_a_scale_must_be_a_number(tmp_path, scale):
    with pytest.raises(ValueError, match="scale must be a finite number other than zero"):
        read_scene(write(tmp_path), scale=scale)


def test_libraries_have_scales_too(tmp_path):
    np.savez(tmp_path / "library.npz", spectra=CUBE[0] * 100, wavelength_nm=NM)
    library = read_library(tmp_path / "library.npz", scale=0.01, offset=0.5)
    np.testing.assert_allclose(library.spectra, CUBE[0] + 0.5, rtol=1e-6, atol=1e-6)


# ------------------------------------------------------------------ layout


def test_a_header_without_interleave_is_refused_unless_told(tmp_path):
    path = write(tmp_path, drop=("interleave",))
    with pytest.raises(ValueError, match=r"no interleave.*--interleave bsq, bil or bip"):
        read_scene(path)
    np.testing.assert_array_equal(read_scene(path, interleave="bip").cube, CUBE)
    with pytest.raises(ValueError, match="the header says interleave = bip; leave --interleave out"):
        read_scene(write(tmp_path), interleave="bsq")


@pytest.mark.parametrize("ext", [".hyspex", ".envi", ".rfl", ".ref", ".pix", ".Img", ".anything"])
def test_any_sibling_whose_size_fits_is_the_data_file(tmp_path, ext):
    path = write(tmp_path, ext=ext)
    (tmp_path / "scene.txt").write_text("notes of the campaign")
    np.testing.assert_array_equal(read_scene(path).cube, CUBE)
    (tmp_path / f"scene{ext}").rename(tmp_path / "scene.zzz")
    np.testing.assert_array_equal(read_scene(path).cube, CUBE)
    (tmp_path / "scene.yyy").write_bytes((tmp_path / "scene.zzz").read_bytes())
    with pytest.raises(ValueError, match=r"more than one data file fits, scene.yyy, scene.zzz"):
        read_scene(path)


def test_a_field_that_stands_twice_is_refused(tmp_path):
    path = write(tmp_path)
    path.write_text(path.read_text() + "\nbands = 6\n")
    read_scene(path)  # the same twice says nothing new
    path.write_text(path.read_text() + "\nbbl = {1,1,1,1,1,1}\nbbl = {0,1,1,1,1,1}\n")
    with pytest.raises(ValueError, match="gives 'bbl' twice"):
        read_scene(path)


@pytest.mark.parametrize(("units", "axis"), [("Index", None), ("Nanometers", NM)])
def test_an_index_is_no_wavelength(tmp_path, units, axis):
    found = read_scene(write(tmp_path, **{"wavelength units": units})).axis
    assert found is None if axis is None else found.centers.tolist() == NM.tolist()


NAMES_OF_BANDS = {
    "ENVI": ([f"Band {i} ({w:.2f} Nanometers)" for i, w in enumerate(NM)], "nm", 1),
    "short": ([f"{w} nm" for w in NM], "nm", 1),
    "micro": ([f"Reflectance at {w / 1000:.4f} µm" for w in NM], "nm", 1),
    "wavenumber": ([f"{w} cm-1" for w in NM], "cm-1", 1),
    "bare numbers": ([f"{w}" for w in NM], None, 1),
    "one without": ([f"{w} nm" for w in NM[:-1]] + ["quality"], None, 1),
    "size": ([f"pixel {i} of 30 nm grid" for i in range(BANDS)], None, 1),
}


@pytest.mark.parametrize(("names", "unit", "_"), NAMES_OF_BANDS.values(), ids=NAMES_OF_BANDS)
def test_wavelengths_in_the_names_of_bands(tmp_path, names, unit, _):
    path = write(tmp_path, wavelength=None, **{"wavelength units": None, "band names": names})
    axis = read_scene(path).axis
    if unit is None:
        assert axis is None
    else:
        assert axis.unit == unit
        np.testing.assert_allclose(axis.centers, NM, atol=0.06)


# ------------------------------------------------------------------ what the user says


def test_rows_columns_and_bands_are_chosen(tmp_path):
    path = write(tmp_path, (CUBE * 1000).astype("i2"), interleave="bsq")
    whole = np.asarray(read_scene(path).cube)
    part = read_scene(path, rows=(2, 6), columns=(1, 4), bands="1-3, 6", bad_bands=[2])
    np.testing.assert_array_equal(np.asarray(part.cube), whole[2:6, 1:4])
    np.testing.assert_array_equal(part.cube[1:3, 0], whole[3:5, 1])
    np.testing.assert_array_equal(part.cube[2], whole[4, 1:4])
    assert part.good_bands.tolist() == [True, False, True, False, False, True]
    assert read_scene(path, range=(450, 800)).good_bands.tolist() == [False, True, True, True, True, False]
    plain = read_scene(write(tmp_path), rows=(2, 6), columns=(1, 4))
    assert isinstance(plain.cube, np.memmap)
    np.testing.assert_array_equal(plain.cube, CUBE[2:6, 1:4])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": (0, 8)}, "rows run from 0 to 7; 0 to 8"),
        ({"columns": (3, 3)}, "columns run from 0 to 5"),
        ({"rows": (5, 2)}, "rows run from 0 to 7; 5 to 2"),
        ({"bands": "0-3"}, "numbers from 1 to 6, .*'0-3' begins below 1"),
        ({"bands": "x"}, "'x' is no number"),
        ({"bands": "5-2"}, "'5-2' runs backwards"),
        ({"bands": "400-900"}, "'400-900' goes beyond the last, 6; wavelengths are chosen with --range"),
        ({"bands": "1", "bad_bands": "1"}, "no good band is left"),
        ({"range": (900, 400)}, "a range is LOW HIGH"),
        ({"range": (1, 2)}, "no good band is left between 1 and 2 nm .*from 400 to 900 nm"),
        ({"force_unit": True}, "force_unit needs the unit"),
    ],
)
def test_choices_that_are_not_there(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        read_scene(write(tmp_path), **options)


def test_numbers_of_bands_in_any_writing():
    for told in ("1-3,5", "1 - 3, 5", "1–3 5", ["1-3", "5"], [1, 2, 3, 5], (1, "2-3", 5)):
        assert numbered(told, 6).tolist() == [True, True, True, False, True, False]


def test_a_stated_unit_stands_unless_it_is_forced(tmp_path):
    path = write(tmp_path)
    with pytest.raises(ValueError, match=r"scene.hdr.*states that its axis is in nm, --unit says um.*--force-unit"):
        read_scene(path, unit="um")
    assert read_scene(path, unit="nm").axis.centers[0] == 400
    with pytest.warns(UserWarning, match="the file states that its axis is in nm; um is used instead"):
        assert read_scene(path, unit="um", force_unit=True).axis.centers[0] == 400_000


@pytest.mark.parametrize(
    ("titles", "told", "expected"),
    [
        (None, None, "value"),
        ("{Wavelength (nm), Reflectance}", None, "reflectance"),
        ("{Wavelength, Radiance (uW/cm2/sr/nm)}", None, "radiance"),
        ("{Wavelength, Emissivity}", None, "emissivity"),
        ("{Wavelength, Value}", None, "value"),
        ("{Wavelength, Reflectance}", "emissivity", "emissivity"),
    ],
)
def test_the_quantity_is_what_file_or_user_say(tmp_path, titles, told, expected):
    path = write(tmp_path)
    path.write_text(path.read_text() + ("" if titles is None else f"\nz plot titles = {titles}\n"))
    assert read_scene(path, quantity=told).quantity == expected


# ------------------------------------------------------------------ accounts


def test_every_entry_is_used_carried_or_listed(tmp_path):
    path = write(tmp_path, **{"sensor type": "HySpex", "frobnication": "7", "fwhm": [9.0] * BANDS})
    account = read_scene(path).account
    assert account.unknown == ("frobnication",)
    assert "sensor type" in account.carried
    assert {"samples", "lines", "bands", "interleave", "data type", "wavelength", "fwhm"} <= set(account.used)
    lines = path.read_text().lower().splitlines()
    written = {line.partition("=")[0].strip() for line in lines if "=" in line and not line.startswith("envi")}
    assert written <= {*account.used, *account.carried, *account.unknown}
    assert said(read_scene(path))["metadata not understood"] == "frobnication"


def test_entries_are_told_apart():
    entries = Entries({"A": 1, "b": 2, "C": 3})
    assert (entries.use("a"), entries.use("x", 9)) == (1, 9)
    entries.carry("B", "nothing")
    assert entries.account() == (("A",), ("b",), ("C",))


# ------------------------------------------------------------------ MATLAB


def matlab(path, **arrays):
    savemat(path, arrays)
    return path


MATRIX = CUBE.transpose(2, 1, 0).reshape(BANDS, -1)  # bands × pixels, pixels down the columns of the image
IMAGES = {
    "nRow, nCol": {"Y": MATRIX, "nRow": ROWS, "nCol": COLUMNS},
    "maxValue": {"Y": MATRIX * 500, "nRow": ROWS, "nCol": COLUMNS, "maxValue": 500.0},
    "struct": {"hsi": {"Data": CUBE, "Wavelengths": NM, "Meta": {"site": "x"}}},
}
KEYS = {"struct": {"cube": "hsi.Data", "wavelength_nm": "hsi.Wavelengths"}}


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.filterwarnings("ignore:scene.mat. values are divided by maxValue")
def test_matlab_images_of_the_field(tmp_path, name):
    scene = read_scene(matlab(tmp_path / "scene.mat", **IMAGES[name]), keys=KEYS.get(name, {"cube": "Y"}))
    np.testing.assert_allclose(np.asarray(scene.cube), CUBE, rtol=1e-6, atol=1e-6)
    assert set(scene.account.unknown) <= {"hsi.Meta.site"}


def test_a_matrix_is_turned_only_where_it_is_sure(tmp_path):
    path = matlab(tmp_path / "scene.mat", Y=MATRIX)
    with pytest.raises(ValueError, match=r"Y has shape \(6, 35\).*--key pixels_in_columns=Y.*--key pixels=Y"):
        read_scene(path, keys={"cube": "Y"})
    pixels = MATRIX.T
    np.testing.assert_array_equal(read_scene(path, keys={"pixels_in_columns": "Y"}).cube, pixels)
    np.testing.assert_array_equal(read_scene(path, keys={"pixels": "Y"}).cube, MATRIX)
    path = matlab(tmp_path / "scene.mat", Y=MATRIX, wl=NM)
    np.testing.assert_array_equal(read_scene(path, keys={"cube": "Y", "wavelength_nm": "wl"}).cube, pixels)
    np.testing.assert_array_equal(read_scene(path, keys={"cube": "Y"}, library_bands=BANDS).cube, pixels)
    with pytest.raises(ValueError, match="nothing says which axis"):
        read_scene(path, keys={"cube": "Y"}, library_bands=BANDS + 1)
    path = matlab(tmp_path / "scene.mat", Y=MATRIX, M=MATRIX[:, :3])
    np.testing.assert_array_equal(read_scene(path, keys={"cube": "Y", "endmembers": "M"}).cube, pixels)


def test_a_library_says_which_axis_of_a_cube_is_the_bands(tmp_path):
    path = matlab(tmp_path / "scene.mat", Y=CUBE.transpose(2, 0, 1))
    with pytest.warns(UserWarning, match="for 6 bands of the library: its first axis is the bands"):
        scene = read_scene(path, keys={"cube": "Y"}, library_bands=BANDS)
    np.testing.assert_array_equal(scene.cube, CUBE)


def test_the_greatest_value_of_matlab_files_divides_and_is_said(tmp_path):
    path = matlab(tmp_path / "scene.mat", **IMAGES["maxValue"])
    with pytest.warns(UserWarning, match="divided by maxValue = 500"):
        scene = read_scene(path, keys={"cube": "Y"})
    np.testing.assert_allclose(np.asarray(scene.cube), CUBE, rtol=1e-6, atol=1e-6)


def test_fields_of_structs_are_listed(tmp_path):
    path = matlab(tmp_path / "scene.mat", hsi={"Data": CUBE[0], "Other": CUBE[1]})
    with pytest.raises(ValueError, match=r"it has hsi.Data, hsi.Other: say which is which"):
        read_scene(path)


def test_scales_of_array_files_are_applied(tmp_path):
    path = tmp_path / "scene.npz"
    np.savez(path, cube=(CUBE * 1e4).astype("i2"), scale=1e-4, offset=0.5, quantity="reflectance", nodata=-5)
    scene = read_scene(path)
    np.testing.assert_allclose(np.asarray(scene.cube), (CUBE * 1e4).astype("i2") * 1e-4 + 0.5, rtol=1e-5, atol=1e-6)
    assert (scene.quantity, scene.stated_nodata, scene.account.unknown) == ("reflectance", -5, ())


def test_attributes_of_zarr_arrays_are_honoured(tmp_path):
    import zarr

    group = zarr.open_group(str(tmp_path / "scene.zarr"), mode="w")
    cube = group.create_array("cube", data=(CUBE * 1e4).astype("i2"))
    cube.attrs.update(scale_factor=1e-4, add_offset=0.25, _FillValue=-7, long_name="Surface reflectance", odd=1)
    axis = group.create_array("wavelength", data=NM / 1000)
    axis.attrs["units"] = "micrometers"
    scene = read_scene(tmp_path / "scene.zarr")
    np.testing.assert_allclose(np.asarray(scene.cube), (CUBE * 1e4).astype("i2") * 1e-4 + 0.25, rtol=1e-5, atol=1e-6)
    assert_close(scene.axis.centers, NM)
    assert (scene.quantity, scene.stated_nodata) == ("reflectance", -7)
    assert scene.account.unknown == ("cube@odd",)


# ------------------------------------------------------------------ lists of spectra


def test_a_library_is_a_list_of_spectra_that_keeps_its_names():
    library = SpectralLibrary(CUBE[0], names=("a", "b", "c", "d", "e"), notes=("take care",), quantity="emissivity")
    scene = as_scene(library, "samples")
    assert (scene.pixel_names, scene.notes, scene.quantity) == (library.names, ("take care",), "emissivity")
    with pytest.raises(ValueError, match="2 names for the scene's pixels"):
        Scene(CUBE[0], pixel_names=("a", "b"))


def test_a_reading_says_what_it_was_told():
    with pytest.raises(ValueError, match="offset must be a finite number"):
        Reading(offset=np.inf)
    assert isinstance(LazyCube(CUBE, gain=2.0)[0], np.ndarray)


def test_metadata_of_the_spectra_goes_with_them():
    header = Header({"metadata": {"site": ["x", "y", "z"], "survey": "2024"}})
    library = SpectralLibrary(CUBE[0, :3], names=("a", "b", "c"), classes=("s", "s", "t"), header=header)
    some = library.select([2, 0])
    assert some.header["metadata"] == {"site": ["z", "x"], "survey": "2024"}
    part = finish_library(library, Reading(rows=(1, 3)))
    assert (part.names, part.classes, part.header["metadata"]["site"]) == (("b", "c"), ("s", "t"), ["y", "z"])


# ------------------------------------------------------------------ what a review found


def test_a_refused_scene_is_not_taken_for_its_own_library(tmp_path):
    np.savez(tmp_path / "scene.npz", cube=CUBE, endmembers=CUBE[0, :3], wavelength_nm=NM)
    for options in ({"columns": (0, 500)}, {"rows": (0, 500)}):
        with pytest.raises(ValueError, match="run from 0 to"):
            open_any(str(tmp_path / "scene.npz"), **options)
    np.savez(tmp_path / "empty.npz", cube=np.full_like(CUBE, -9999), endmembers=CUBE[0, :3], wavelength_nm=NM)
    with pytest.raises(ValueError, match="no pixel holds a value"):
        open_any(str(tmp_path / "empty.npz"))


def test_stated_fill_values_are_known_in_every_estimate(tmp_path):
    cube = RNG.uniform(0.1, 0.6, (30, 20, BANDS)).astype("f4")
    for fill in (-1.1, -3.4028234663852886e38, -1.23e34):
        cube[:2] = fill
        scene = read_scene(write(tmp_path, cube, **{"data ignore value": repr(fill)}))
        assert scene.suspected_nodata is None
        assert ValidPixels(scene).moments().pixels == 28 * 20


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_no_number_marks_missing_data_if_the_user_says_so(tmp_path, suffix):
    stored = (CUBE * 1e4).astype("i2")
    stored[3, 3, 5] = -9999
    path = tmp_path / f"scene{suffix}"
    if suffix == ".npz":
        np.savez(path, cube=stored)
    else:
        np.save(path, stored)
    assert ValidPixels(read_scene(path)).moments().pixels == ROWS * COLUMNS - 1
    plain = read_scene(path, nodata="none")
    assert np.asarray(plain.cube)[3, 3, 5] == -9999
    assert ValidPixels(plain).moments().pixels == ROWS * COLUMNS


def test_options_of_libraries_speak_of_stored_numbers(tmp_path):
    stored = (CUBE[0] * 1e4).astype("i2")
    stored[0, 0], stored[1, 1] = -32768, 0
    header = {"wavelength": NM.tolist(), "wavelength units": "Nanometers", "reflectance scale factor": 1e4}
    envi.SpectralLibrary(stored.astype("f4"), header).save(str(tmp_path / "lib"))
    values = read_library(tmp_path / "lib.sli", nodata=-32768, zeros="missing").spectra
    assert np.isnan(values[[0, 1], [0, 1]]).all()
    assert np.isfinite(values).sum() == values.size - 2
    np.savez(tmp_path / "lib.npz", spectra=stored, scale=1e-4, nodata=-32768, wavelength_nm=NM)
    values = read_library(tmp_path / "lib.npz").spectra
    assert np.isnan(values[0, 0])
    np.testing.assert_allclose(values[2:], stored[2:] * 1e-4, rtol=1e-5)


UNDEFINED = {
    "bad bands": ("{4}", "--bad-bands"),
    "badbands": ("{4}", "--bad-bands"),
    "gain": ("0.5", "--scale"),
    "scale factor": ("1000", "--scale"),
    "offset": ("3", "--offset"),
    "fill value": ("-1", "--nodata"),
    "no data value": ("-1", "--nodata"),
    "data units": ("percent", "--scale 0.01"),
}


@pytest.mark.parametrize("name", UNDEFINED)
def test_fields_that_may_change_numbers_and_are_not_defined_are_refused(tmp_path, name):
    value, option = UNDEFINED[name]
    path = write(tmp_path)
    path.write_text(f"{path.read_text()}\n{name} = {value}\n")
    with pytest.raises(ValueError, match=f"{name}.*{option}"):
        read_scene(path)
    told = {"scale": 1.0, "offset": 0.0, "nodata": "none", "bad_bands": "1"}
    assert name in read_scene(path, **told).account.unknown


def test_neutral_fields_and_arrays_beside_the_cube(tmp_path):
    path = write(tmp_path)
    path.write_text(f"{path.read_text()}\ngain = 1\noffset = 0.0\n")
    assert read_scene(path).account.unknown == ("gain", "offset")
    savemat(tmp_path / "scene.mat", {"hsi": {"Data": CUBE, "scale_factor": 1e-4}})
    with pytest.raises(ValueError, match=r"'hsi.scale_factor' may change the numbers.*--scale"):
        read_scene(tmp_path / "scene.mat", keys={"cube": "hsi.Data"})


def test_masked_pixels_are_not_looked_at(tmp_path):
    stored = (CUBE * 1e4).astype("u2")
    mask = np.ones((ROWS, COLUMNS), bool)
    mask[2:4] = False
    stored[2:4] = 65535
    np.savez(tmp_path / "scene.npz", cube=stored, mask=mask, wavelength_nm=NM)
    assert read_scene(tmp_path / "scene.npz").suspected_nodata is None
    with pytest.warns(UserWarning, match="multiplied by 0.0001"):
        scene = read_scene(tmp_path / "scene.npz", scale="auto")
    match(scene, SpectralLibrary(CUBE[0, :3], SpectralAxis(NM)))


def test_the_data_file_is_the_one_whose_size_fits(tmp_path):
    path = write(tmp_path, ext=".dat")
    (tmp_path / "scene.img").write_bytes(b"a preview")
    np.testing.assert_array_equal(read_scene(path).cube, CUBE)


def test_matrices_without_keys_where_one_alone_fits(tmp_path):
    path = matlab(tmp_path / "scene.mat", V=np.tile(MATRIX, (4, 1)), nRow=ROWS, nCol=COLUMNS, A=MATRIX[:3])
    with pytest.warns(UserWarning, match="V is taken as the cube"):
        np.testing.assert_array_equal(np.asarray(read_scene(path).cube)[..., :BANDS], CUBE)
    path = matlab(tmp_path / "lib.mat", M=CUBE[0, :3].T, cood=np.asarray(["a", "b", "c"], object))
    with pytest.warns(UserWarning, match="its columns are the 3 named spectra"):
        library = read_library(path, keys={"spectra": "M", "names": "cood"})
    np.testing.assert_array_equal(library.spectra, CUBE[0, :3])


def test_what_is_left_out_or_assumed_is_a_note():
    fine = np.linspace(500.0, 900.0, 81)
    library = SpectralLibrary(np.tile(np.linspace(0.2, 0.5, 81, dtype="f4"), (2, 1)), SpectralAxis(fine))
    notes = match(Scene(CUBE, SpectralAxis(NM)), library).notes
    assert any("1 good bands of the scene (400 to 400 nm) are left out" in note for note in notes)
    assert any("no band widths (FWHM)" in note and "100 to 100 nm" in note for note in notes)


@pytest.mark.parametrize(("scene", "library", "stops"), [(0.9, 0.1, False), (30.0, 0.5, True), (3000.0, 40.0, True)])
def test_only_scales_that_cannot_be_reflectance_stop(scene, library, stops):
    axis = SpectralAxis(NM)
    pair = Scene(np.full((4, 5, BANDS), scene, "f4"), axis), SpectralLibrary(np.full((2, BANDS), library, "f4"), axis)
    if stops:
        with pytest.raises(ValueError, match="hardly be in one scale"):
            match(*pair)
    else:
        with pytest.warns(UserWarning, match="hardly be in one scale"):
            match(*pair)


def test_parts_of_datasets():
    part = open_any("indian_pines", rows=(10, 30), columns=(5, 9), bands="1-50")
    assert part.shape == (20, 4)
    assert not part.good_bands[50:].any()
    with pytest.raises(ValueError, match="takes none of these options: offset"):
        open_any("indian_pines", offset=0.0)
