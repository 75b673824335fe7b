"""What is written is read back equal, whatever the names are; and other programs read it, too."""

import csv
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from unmix_jax.scenes.library_files import (
    check_library_suffix,
    escaped,
    from_cell,
    library_names,
    to_cell,
    unescaped,
    write_library,
)
from unmix_jax.scenes.readers import read_library
from unmix_jax.scenes.scene import SpectralAxis, SpectralLibrary

SUFFIXES = (".sli", ".csv", ".npz", ".mat")
HOSTILE = (
    "1",
    "2",
    "3",
    "fwhm",
    "FWHM",
    "wavelength",
    "wavelength_nm",
    "class",
    "classes",
    "name",
    "band",
    "good_band",
    "",
    " ",
    " a ",
    "a, b",
    '"',
    '"a"',
    "a;b",
    "a\nb",
    "\r",
    "a\r\nb",
    "\t",
    "{",
    "}",
    "a = b",
    "a} \nbands = 99",
    "\\",
    "\\n",
    "\\e",
    "\\u0041",
    "=1+1",
    "+1",
    "-1",
    "@x",
    "'",
    "'=1",
    " =1",
    "\t=1",
    ";=1+1;",
    '=HYPERLINK("x")',
    "＝1",
    "# a",
    "#N/A",
    "nan",
    "NaN",
    "1e5",
    "0,5",
    "naïve",
    "石英",
    "😀",
    "\u202e",
    "\u2028",
    "\x85",
    "\xa0",
    "\x00",
    "a\x00",
    "\x1b[31m",
    "\ud800",
    "<script>",
    "x" * 300,
    ",",
    "-",
    "endmember 1",
    "unmix jax names",
    "\ufeff",
)
NAME = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=12), st.text(alphabet=",;{}='\"\\\n #-", max_size=6))
# Values beyond 1e30 and -9999 mark missing data wherever they are read.
FLOATS = {
    width: st.floats(-(2.0**90), 2.0**90, width=width, allow_nan=False).filter(lambda v: v != -9999) | st.just(np.nan)
    for width in (32, 64)
}
CENTER = st.floats(1e-3, 1e6)


@st.composite
def parts(draw):
    """What makes a library: values, axis, names, classes, good bands and quantity, of any kind."""
    members, bands = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    width = draw(st.sampled_from((32, 64)))
    values = draw(st.lists(FLOATS[width], min_size=members * bands, max_size=members * bands))
    centers = st.lists(CENTER, min_size=bands, max_size=bands)
    return {
        "spectra": np.array(values, f"f{width // 8}").reshape(members, bands),
        "unit": draw(st.sampled_from((None, "nm", "um", "cm-1"))),
        "centers": draw(centers.filter(lambda c: bands == 1 or len(set(c)) > 1)),
        "fwhm": draw(st.none() | centers),
        "names": draw(st.lists(NAME, min_size=members, max_size=members)),
        "classes": draw(st.just([]) | st.lists(NAME, min_size=members, max_size=members)),
        "good_bands": draw(st.none() | st.lists(st.booleans(), min_size=bands, max_size=bands)),
        "quantity": draw(st.sampled_from(("value", "reflectance", "emissivity", "spectral radiance, W;\n", "{x}"))),
    }


def library_of(spectra, unit, centers, fwhm, names, classes, good_bands, quantity):
    """A library of its parts."""
    axis = None
    if unit is not None:
        axis = SpectralAxis(np.array(centers), None if fwhm is None else np.array(fwhm), unit)
    good = None if good_bands is None else np.array(good_bands)
    return SpectralLibrary(spectra, axis, tuple(names), tuple(classes), good_bands=good, quantity=quantity)


def assert_equal(back, library):
    """Everything that a library is, to the last bit; wavelengths in nm."""
    assert back.spectra.dtype == library.spectra.dtype
    np.testing.assert_array_equal(back.spectra, library.spectra)
    assert back.names == library_names(library)
    assert (back.classes, back.quantity) == (library.classes, library.quantity)
    assert (back.axis is None) == (library.axis is None)
    if library.axis is not None:
        axis = library.axis.to("nm") if library.axis.unit == "um" else library.axis
        assert back.axis.unit == axis.unit
        np.testing.assert_array_equal(back.axis.centers, axis.centers)
        assert (back.axis.fwhm is None) == (axis.fwhm is None)
        np.testing.assert_array_equal(back.axis.fwhm, axis.fwhm)
    assert (back.good_bands is None) == (library.good_bands is None)
    np.testing.assert_array_equal(back.good_bands, library.good_bands)
    assert back.account.unknown == ()


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(parts=parts())
def test_any_library_is_read_back_equal(tmp_path_factory, suffix, parts):
    library = library_of(**parts)
    folder = tmp_path_factory.mktemp("library", numbered=True)
    assert_equal(read_library(write_library(folder / f"library{suffix}", library)), library)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("unit", [None, "nm"])
def test_every_hostile_name_is_read_back(tmp_path, suffix, unit):
    axis = None if unit is None else SpectralAxis(np.array([400.0, 500.0]))
    count = len(HOSTILE)
    library = SpectralLibrary(np.arange(2.0 * count).reshape(count, 2) / 7, axis, HOSTILE, HOSTILE[::-1])
    assert_equal(read_library(write_library(tmp_path / f"library{suffix}", library)), library)
    for name in HOSTILE:
        one = SpectralLibrary(np.array([[0.1, 0.2]]), axis, (name,), (name,))
        assert_equal(read_library(write_library(tmp_path / f"one{suffix}", one)), one)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_library_without_names_gets_numbers(tmp_path, suffix):
    library = SpectralLibrary(np.full((2, 3), 0.5))
    assert library_names(library) == ("endmember 1", "endmember 2")
    assert_equal(read_library(write_library(tmp_path / f"library{suffix}", library)), library)


def test_files_of_one_name_do_not_disturb_each_other(tmp_path):
    for suffix in SUFFIXES:
        write_library(tmp_path / f"library{suffix}", LIBRARY)
    for suffix in SUFFIXES:
        assert_equal(read_library(tmp_path / f"library{suffix}"), LIBRARY)


def test_rising_numbers_are_no_wavelengths(tmp_path):
    names = tuple(str(i) for i in range(1, 31))
    spectra = np.random.default_rng(0).uniform(0, 1, (30, 30))
    for axis in (None, SpectralAxis(np.linspace(400, 2400, 30))):
        library = SpectralLibrary(spectra, axis, names)
        assert_equal(read_library(write_library(tmp_path / "library.csv", library)), library)


@given(NAME)
@example("\\e")
def test_text_survives_its_escapes(text):
    for also in ("", ",{}=;"):
        written = escaped(text, also)
        assert unescaped(written) == text
        assert written.strip() == written != ""
        assert not set(also) & set(written)
        assert len(written.splitlines()) == 1
        written.encode("utf-8")
    assert from_cell(to_cell(text)) == text
    assert not to_cell(text).lstrip().startswith(("=", "+", "-", "@", "＝", "＋", "－", "＠"))
    assert ";" not in to_cell(text)


@pytest.mark.parametrize("text", ["\\", "a\\", "\\x41", "\\u12", "\\U00110000", "\\uzzzz", "\\U0001"])
def test_a_backslash_that_begins_no_escape_is_refused(text):
    with pytest.raises(ValueError, match="is no escape"):
        unescaped(text)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False).filter(lambda v: abs(v) < 1e30), min_size=1))
def test_float32_survives_in_csv(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("library", numbered=True) / "library.csv"
    library = SpectralLibrary(np.array([values], np.float32))
    spectra = np.where(library.spectra == -9999, np.nan, library.spectra)
    np.testing.assert_array_equal(read_library(write_library(path, library)).spectra, spectra)


# ---- other programs


LIBRARY = SpectralLibrary(
    np.array([[0.35, 0.25, np.nan], [0.05, 0.4, 0.45]], np.float32),
    SpectralAxis(np.array([400.0, 450.5, 500.0]), np.array([10.0, 11.0, 12.0])),
    ("soil, brown", "tree #1 = é"),
    ("soil", "plant"),
    good_bands=np.array([True, True, False]),
    quantity="reflectance",
)


def test_the_table_is_readable(tmp_path):
    text = write_library(tmp_path / "library.csv", LIBRARY).read_text(encoding="utf-8")
    assert text.splitlines() == [
        "# unmix_jax spectral library version 1",
        "# bands: 3",
        "# spectra: 2",
        "# values: float32",
        "# quantity: reflectance",
        "# columns: wavelength_nm fwhm good_band",
        '# classes,,,"soil","plant"',
        'wavelength_nm,fwhm,good_band,"soil, brown","tree #1 = é"',
        "400.0,10.0,1,0.35,0.05",
        "450.5,11.0,1,0.25,0.4",
        "500.0,12.0,0,,0.45",
    ]


def test_pandas_reads_the_table(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_csv(write_library(tmp_path / "library.csv", LIBRARY), comment="#")
    assert frame.columns.tolist() == ["wavelength_nm", "fwhm", "good_band", *LIBRARY.names]
    np.testing.assert_array_equal(frame["wavelength_nm"], LIBRARY.axis.centers)
    np.testing.assert_allclose(frame[list(LIBRARY.names)].to_numpy().T, LIBRARY.spectra, rtol=1e-6)


def test_a_spreadsheet_may_save_the_table_again(tmp_path):
    """With semicolons or tabs, decimal commas, quotation marks where it likes, and separators after the comments."""
    path = write_library(tmp_path / "library.csv", LIBRARY)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    for separator, comma in ((";", True), ("\t", True), (",", False)):
        cells = [[cell.replace(".", ",") if comma and i > 7 else cell for cell in row] for i, row in enumerate(rows)]
        again = tmp_path / "again.csv"
        with again.open("w", encoding="utf-16", newline="") as file:
            csv.writer(file, delimiter=separator).writerows(row + [""] * (5 - len(row)) for row in cells)
        assert_equal(read_library(again), LIBRARY)


def test_no_cell_is_a_formula(tmp_path):
    library = SpectralLibrary(np.full((len(HOSTILE), 1), -0.5), None, HOSTILE, HOSTILE)
    path = write_library(tmp_path / "library.csv", library)
    for separator in ",;\t|":
        for row in csv.reader(path.read_text(encoding="utf-8").splitlines(), delimiter=separator):
            for cell in row:
                text = cell.strip(" \"'" if separator != "," else " ")
                assert not text.startswith(("=", "@", "+")), (separator, cell)
                assert not text.startswith("-") or text == "-0.5", (separator, cell)


def test_spectral_python_reads_the_library(tmp_path):
    spy = pytest.importorskip("spectral.io.envi")
    path = write_library(tmp_path / "library.sli", LIBRARY)
    read = spy.open(str(path.with_suffix(".hdr")), str(path))
    np.testing.assert_array_equal(read.spectra, LIBRARY.spectra)
    assert read.names == ["soil- brown", "tree #1 - é"]
    assert read.bands.centers == LIBRARY.axis.centers.tolist()
    assert read.bands.bandwidths == LIBRARY.axis.fwhm.tolist()
    assert read.metadata["z plot titles"][1] == "reflectance"


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gdal_understands_the_header(tmp_path, dtype):
    """GDAL opens no spectral library as such; as a plain image it sees the same values, and names cannot break out."""
    rasterio = pytest.importorskip("rasterio")
    library = SpectralLibrary(np.arange(2.0 * len(HOSTILE), dtype=dtype).reshape(-1, 2), None, HOSTILE, HOSTILE)
    path = write_library(tmp_path / "library.sli", library)
    header = path.with_suffix(".hdr")
    header.write_text(header.read_text().replace("ENVI Spectral Library", "ENVI Standard"))
    with rasterio.open(path, driver="ENVI") as file:
        assert file.count == 1
        np.testing.assert_array_equal(file.read(1), library.spectra)


def test_scipy_reads_names_as_a_cell_array(tmp_path):
    from scipy.io import loadmat

    stored = loadmat(write_library(tmp_path / "library.mat", LIBRARY))
    assert [str(name.item()) for name in stored["names"].ravel()] == list(LIBRARY.names)
    assert stored["names"].shape == (2, 1)
    assert stored["wavelength_nm"].shape == (1, 3)
    assert "text_escapes" not in stored
    np.testing.assert_array_equal(stored["endmembers"], LIBRARY.spectra)


# ---- files that do not hold what they say

CHANGES = {
    "cut off": (lambda t: t[: t.index("450.5")], "it says that it holds 3 bands|says that it holds 3 bands, it has 1"),
    "without titles": (lambda t: t[: t.index("wavelength_nm,")], "no line of titles"),
    "one more band": (lambda t: t + "600,1,1,1,1\n", "line 12: .* here is one more"),
    "a cell less": (lambda t: t.replace(",11.0,", ","), "line 10 has 4 cells, the table says that it has 5 columns"),
    "a cell more": (lambda t: t.replace(",11.0,", ",11.0,7,"), "line 10 has 6 cells"),
    "a word": (lambda t: t.replace("0.25", "abc"), "line 10, column 4: 'abc' is not a number"),
    "many bands": (lambda t: t.replace("bands: 3", "bands: 999999999"), "is not read"),
    "no bands": (lambda t: t.replace("bands: 3", "bands: -3"), "must be a whole number"),
    "another type": (lambda t: t.replace("float32", "object"), "must be one of float32, float64"),
    "other columns": (lambda t: t.replace("columns: wavelength_nm", "columns: wave"), "columns: …' must name"),
    "other titles": (lambda t: t.replace("\nwavelength_nm", "\nwavelength_um"), "the titles must begin with"),
    "a bad escape": (lambda t: t.replace("soil, brown", "soil\\q"), "line 8: .* is no escape"),
    "a later version": (lambda t: t.replace("version 1", "version 2"), "another version"),
    "a negative width": (lambda t: t.replace("11.0", "-11.0"), "not negative"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_table_that_does_not_hold_what_it_says_is_refused(tmp_path, case):
    change, message = CHANGES[case]
    path = write_library(tmp_path / "library.csv", LIBRARY)
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"library\.csv: .*{message}"):
        read_library(path)


def test_what_a_user_adds_to_the_comments_is_listed(tmp_path):
    path = write_library(tmp_path / "library.csv", LIBRARY)
    path.write_text(path.read_text(encoding="utf-8").replace("# bands", "# measured by: X\n# bands"), encoding="utf-8")
    assert read_library(path).account.unknown == ("measured by: X",)
    with pytest.raises(ValueError, match="states that its axis is in nm"):
        read_library(path, unit="um")


def test_names_that_were_changed_in_the_header_count(tmp_path):
    path = write_library(tmp_path / "library.sli", LIBRARY)
    header = path.with_suffix(".hdr")
    header.write_text(header.read_text().replace("spectra names = { soil- brown", "spectra names = { loam"))
    with pytest.warns(UserWarning, match=r"unmix jax names does not agree with spectra names"):
        assert read_library(path).names == ("loam", "tree #1 - é")


# ---- refused before the work


@pytest.mark.parametrize("name", ["library.txt", "library", "library.xlsx", "library.csv.gz", ".csv"])
def test_a_suffix_that_cannot_be_written_is_refused_before_the_work(tmp_path, name):
    path = tmp_path / "new" / name
    for attempt in (check_library_suffix, lambda p: write_library(p, LIBRARY)):
        with pytest.raises(
            ValueError, match=rf"{re.escape(name)}: a library is written as \.sli, \.csv, \.npz or \.mat"
        ):
            attempt(path)
    assert not path.parent.exists()


@pytest.mark.parametrize("name", ["library.CSV", "library.Npz", "library.hdr", "a.b.sli", "a.b.mat"])
def test_suffixes_in_any_case_and_names_with_dots(tmp_path, name):
    assert check_library_suffix(name) == f".{name.rsplit('.', 1)[1].lower()}"
    path = write_library(tmp_path / name, LIBRARY)
    assert path.parent == tmp_path
    assert path.name == name.replace(".hdr", ".sli")
    assert_equal(read_library(path), LIBRARY)


@pytest.mark.parametrize("fwhm", [[1.0, np.nan], [1.0, -1.0]])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_widths_that_could_not_be_read_back_are_not_written(tmp_path, suffix, fwhm):
    library = SpectralLibrary(np.ones((1, 2)), SpectralAxis(np.array([400.0, 500.0]), np.array(fwhm)))
    with pytest.raises(ValueError, match="finite and not negative"):
        write_library(tmp_path / f"library{suffix}", library)
    assert not list(tmp_path.iterdir())


def test_other_types_are_written_as_floating_point(tmp_path):
    for dtype, written in ((np.float16, np.float32), (np.dtype(">f4"), np.float32)):
        library = SpectralLibrary(np.array([[0.5, 0.25]], dtype))
        for suffix in SUFFIXES:
            back = read_library(write_library(tmp_path / f"as_{suffix[1:]}{suffix}", library))
            assert back.spectra.dtype == written
            np.testing.assert_array_equal(back.spectra, [[0.5, 0.25]])
