"""Text tables as people have them: read right, or refused with the row, the column and the cause."""

import contextlib
import re
import warnings

import numpy as np
import pytest

from unmix_jax.scenes.readers import read_library
from unmix_jax.scenes.readers.tables import cells as table_cells
from unmix_jax.scenes.readers.tables import titles as table_titles
from unmix_jax.scenes.scene import as_scene

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


# ---- units


@pytest.mark.parametrize(
    ("title", "unit"),
    [
        ("wavelength_nm", "nm"),
        ("Wavelength (nm)", "nm"),
        ("nm", "nm"),
        ("lambda nm", "nm"),
        ("WavelengthNm", "nm"),
        ("Wavelength [Nanometers]", "nm"),
        ("Wavelength (µm)", "um"),
        ("Wave (μm)", "um"),  # the Greek letter, the one above is the micro sign
        ("wavelength_um", "um"),
        ("Wellenlänge (µm)", "um"),
        ("microns", "um"),
        ("wavenumber_cm-1", "cm-1"),
        ("Wavenumber [cm-1]", "cm-1"),
        ("Wavenumber", "cm-1"),
        ("Raman shift (cm⁻¹)", "cm-1"),
        ("Wave number (1/cm)", "cm-1"),
        ("cm^-1", "cm-1"),
        # Letters inside words say nothing, and cm is a length.
        ("spectrum", None),
        ("number", None),
        ("Plant height (cm)", None),
        ("Microsite", None),
        ("gum", None),
        ("wavelength", None),
        ("Enmapped", None),
        ("x", None),
        ("", None),
    ],
)
@pytest.mark.parametrize("told", [None, "nm", "um", "cm-1"])
def test_units_are_whole_words_of_the_title(tmp_path, title, unit, told):
    scale = 1e-3 if ("um" in (unit, told) and None in (unit, told)) or unit == told == "um" else 1
    rows = per_column(title)
    rows[2:] = [[row[0] * scale, *row[1:]] for row in rows[2:]]
    path = table(tmp_path, rows)
    if unit is not None and told not in (None, unit):
        with pytest.raises(ValueError, match=f"states that its axis is in {unit}, --unit says {told}"):
            read_library(path, unit=told)
        return
    if unit is None and told is None:
        with pytest.warns(UserWarning, match="nm is assumed"):
            axis = read_library(path).axis
    else:
        axis = read_library(path, unit=told).axis
    assert axis.unit == ("cm-1" if "cm-1" in (unit, told) else "nm")
    np.testing.assert_allclose(axis.centers, NM)


@pytest.mark.parametrize("title", ["Plant height (cm)", "Microsite", "gum", "weight_um"])
def test_the_title_of_another_column_has_no_unit(tmp_path, title):
    rows = [[title, "name", *NM]] + [[i, n, *s] for i, (n, s) in enumerate(zip(NAMES, SPECTRA, strict=True), 7)]
    with pytest.warns(UserWarning, match="nm is assumed"):
        library = read_library(table(tmp_path, rows))
    np.testing.assert_array_equal(library.axis.centers, NM)
    assert library.header["metadata"] == {title: ("7", "8", "9")}
    assert library.account.carried == (title,)


def test_a_unit_that_is_forced_or_not_known(tmp_path):
    path = table(tmp_path, per_column("wavelength_um"))
    with pytest.warns(UserWarning, match="states that its axis is in um; nm is used instead"):
        np.testing.assert_array_equal(read_library(path, unit="nm", force_unit=True).axis.centers, NM)
    for title in ("Wavelength (cm)", "wavelength_angstrom", "Wavelength (nm or um)"):
        path = table(tmp_path, per_column(title))
        with pytest.raises(ValueError, match=re.escape(f"the title {title!r} names")):
            read_library(path)
        np.testing.assert_array_equal(read_library(path, unit="nm").axis.centers, NM)


@pytest.mark.parametrize(
    ("form", "unit"),
    [
        ("X{:g}", None),
        ("{:g}nm", "nm"),
        ("{:g} nm", "nm"),
        ("R_{:g}", None),
        ("wl_{:g}", None),
        ("{:g} cm-1", "cm-1"),
        ("Band 7 ({:g} Nanometers)", "nm"),
    ],
)
def test_decorated_band_titles(tmp_path, form, unit):
    rows = per_row()
    rows[0][2:] = [form.format(w) for w in NM]
    library = read_library(table(tmp_path, rows), unit=None if unit else "nm")
    np.testing.assert_array_equal(library.axis.centers, NM)
    assert library.axis.unit == (unit or "nm")
    if unit:
        with pytest.raises(ValueError, match=f"states that its axis is in {unit}"):
            read_library(tmp_path / "library.csv", unit="um")


# ---- read right: text, names, wavelengths in nm (None: no axis), spectra; options and more of the library

A, B = (0.1, 0.3, 0.5), (0.2, 0.4, 0.6)
BODY = "400,0.1,0.2\n450,0.3,0.4\n500,0.5,0.6\n"
COMMA = "400;0,1;0,2\n450;0,3;0,4\n500;0,5;0,6\n"
X = (400, 450, 500)
HEAD = "wavelength_nm,a,b\n"
READ = {
    "a title line": ("Library of 2019\n" + HEAD + BODY, "ab", X, (A, B)),
    "title lines with separators": ("Library, 2019;;\nof X;;\nwavelength_nm;a;b\n" + COMMA, "ab", X, (A, B)),
    "prose with commas": ("Measured in May, by X, with Y, at Z, for W, and V\n" + HEAD + BODY, "ab", X, (A, B)),
    "separators at the ends": ("wavelength_nm;a;b;;\n" + COMMA.replace("\n", ";;\n"), "ab", X, (A, B)),
    "separators at the ends of the numbers": (HEAD + BODY.replace("\n", ",,\n"), "ab", X, (A, B)),
    "sep=;": ("sep=;\nwavelength_nm;a;b\n" + COMMA, "ab", X, (A, B)),
    "sep=tab": ("sep=\t\n" + (HEAD + BODY).replace(",", "\t"), "ab", X, (A, B)),
    "a name with a dot": ("wavelength_nm;Quartz.1;b\n" + COMMA, ("Quartz.1", "b"), X, (A, B)),
    "decimal commas between quotation marks": (
        'wavelength_nm,a,b\n400,"0,1","0,2"\n450,"0,3","0,4"\n500,"0,5","0,6"\n',
        "ab",
        X,
        (A, B),
    ),
    "decimal commas and blanks": ("wavelength_nm a b\n" + COMMA.replace(";", " "), "ab", X, (A, B)),
    "Fortran's exponents": ("wavelength_nm,a\n400,1.0D-01\n450,3.0d-1\n500,+5.E-1\n", "a", X, (A,)),
    "the sign of a typesetter": ("wavelength_nm,a\n400,−0.1\n450,0.3\n500,.5\n", "a", X, ((-0.1, 0.3, 0.5),)),
    "line ends of an old Mac": ((HEAD + BODY).replace("\n", "\r"), "ab", X, (A, B)),
    "line ends of Windows": ((HEAD + BODY).replace("\n", "\r\n"), "ab", X, (A, B)),
    "rising numbers as names": ("wavelength_nm,1,2\n" + BODY, "12", X, (A, B)),
    "high numbers as names": ("wavelength_nm,101,102\n" + BODY, ("101", "102"), X, (A, B)),
    "numbers as samples": ("id,400 nm,450 nm,500 nm\n1,0.1,0.3,0.5\n2,0.2,0.4,0.6\n", "12", X, (A, B)),
    "rising numbers as samples": ("Wavelength (nm),400,450,500\n1,0.1,0.3,0.5\n2,0.2,0.4,0.6\n", "12", X, (A, B)),
    "high numbers as samples": (
        "Wavelength (nm),400,450,500\n101,0.1,0.3,0.5\n102,0.2,0.4,0.6\n",
        ("101", "102"),
        X,
        (A, B),
    ),
    "an index": ("index," + HEAD + "".join(f"{i},{row}\n" for i, row in enumerate(BODY.split())), "ab", X, (A, B)),
    "R's table": (
        '"wavelength_nm" "soil a" "b"\n'
        + "".join(f'"{i}" {row}\n' for i, row in enumerate(BODY.replace(",", " ").strip().split("\n"), 1)),
        ("soil a", "b"),
        X,
        (A, B),
    ),
    "NumPy's titles": ("# " + HEAD + BODY, "ab", X, (A, B)),
    "quoted cells": (
        'wavelength_nm,"soil, brown\n# wet","tree ""b"""\n' + BODY,
        ("soil, brown\n# wet", 'tree "b"'),
        X,
        (A, B),
    ),
    "a page between": ("brary version 1\n\f\n" + HEAD + BODY, "ab", X, (A, B)),
    "an empty name": ("wavelength_nm,,b\n" + BODY, ("spectrum 1", "b"), X, (A, B)),
    "an empty column inside": (
        "wavelength_nm,a,,b\n" + BODY.replace(",0.2", ",,0.2").replace(",0.4", ",,0.4").replace(",0.6", ",,0.6"),
        "ab",
        X,
        (A, B),
    ),
    "names above titles that repeat": (
        ",a,b\nwavelength_nm,Reflectance,Reflectance\n" + BODY,
        "ab",
        X,
        (A, B),
    ),
    "units in a row of their own": ("wavelength,a,b\nnm,%,%\n" + BODY, "ab", X, (A, B)),
    "wavelengths in another column": ("a,b,wavelength_nm\n0.1,0.2,400\n0.3,0.4,450\n0.5,0.6,500\n", "ab", X, (A, B)),
    "wavelengths with their unit": (
        HEAD.replace("_nm", "") + BODY.replace("00,", "00 nm,").replace("450,", "450nm,"),
        "ab",
        X,
        (A, B),
    ),
    "two kinds of axis": (
        "wavelength_nm,wavenumber_cm1,a\n400,25000,0.1\n450,22222,0.3\n500,20000,0.5\n",
        "a",
        X,
        (A,),
    ),
    "pairs": ("x1,y1,x2,y2\n400,0.1,400,0.2\n450,0.3,450,0.4\n500,0.5,500,0.6\n", ("y1", "y2"), X, (A, B)),
    "pairs of different length": (
        "nm,a,nm,b\n400,0.1,400,0.2\n450,0.3,450,0.4\n500,0.5,,\n",
        "ab",
        X,
        (A, (0.2, 0.4, np.nan)),
    ),
    "pairs of another range": (
        "nm,a,nm,b\n400,0.1,450,0.2\n450,0.3,500,0.4\n500,0.5,,\n",
        "ab",
        X,
        (A, (np.nan, 0.2, 0.4)),
    ),
    "pairs below names": ("a,,b,\nnm,R,nm,R\n400,0.1,400,0.2\n450,0.3,450,0.4\n500,0.5,500,0.6\n", "ab", X, (A, B)),
    "pairs of numbers": (
        "400,0.1,400,0.2\n450,0.3,450,0.4\n500,0.5,500,0.6\n",
        ("spectrum 1", "spectrum 2"),
        X,
        (A, B),
    ),
    "numbers of bands": ("band,a,b\n1,0.1,0.2\n2,0.3,0.4\n3,0.5,0.6\n", "ab", None, (A, B)),
    "numbers of bands, some left out": ("Band No.,a,b\n1,0.1,0.2\n4,0.3,0.4\n9,0.5,0.6\n", "ab", None, (A, B)),
    "numbers without a title": (",a,b\n1,0.1,0.2\n2,0.3,0.4\n3,0.5,0.6\n", "ab", None, (A, B)),
    "numbers under some title": ("Microsite,a,b\n0,0.1,0.2\n1,0.3,0.4\n2,0.5,0.6\n", "ab", None, (A, B)),
    "numbers of bands in a row": ("name,1,2,3\na,0.1,0.3,0.5\nb,0.2,0.4,0.6\n", "ab", None, (A, B)),
    "b1": ("name,b1,b2,b3\na,0.1,0.3,0.5\nb,0.2,0.4,0.6\n", "ab", None, (A, B)),
    "names of bands": ("band,a,b\nblue,0.1,0.2\ngreen,0.3,0.4\nred,0.5,0.6\n", "ab", None, (A, B)),
    "names only": ("a,0.1,0.4,0.3\nb,0.3,0.2,0.1\n", "ab", None, ((0.1, 0.4, 0.3), (0.3, 0.2, 0.1))),
    "1 to 3 µm": ("wavelength_um,a,b\n1,0.1,0.2\n2,0.3,0.4\n3,0.5,0.6\n", "ab", (1000, 2000, 3000), (A, B)),
    "an overlap": ("wavelength_nm,a\n400,0.1\n500,0.3\n450,0.5\n", "a", (400, 500, 450), (A,)),
    "falling": ("wavelength_nm,a\n500,0.1\n450,0.3\n400,0.5\n", "a", (500, 450, 400), (A,)),
    "one band": (HEAD + "400,0.1,0.2\n", "ab", (400,), ((0.1,), (0.2,))),
}


def read(path, **options):
    """A library, and what it warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        library = read_library(path, **options)
    return library, [str(warning.message) for warning in caught]


@pytest.mark.parametrize("case", READ)
def test_read_right(tmp_path, case):
    text, names, centers, spectra = READ[case]
    path = tmp_path / "library.csv"
    path.write_bytes(text.encode())
    library, warned = read(path)
    assert library.names == tuple(names)
    np.testing.assert_array_equal(library.spectra, spectra)
    if centers is None:
        assert library.axis is None
        assert "no wavelengths" in library.header["layout"]
    else:
        np.testing.assert_allclose(library.axis.centers, centers)
    assert all("nm is assumed" in text for text in warned)


TITLED = {
    "with the word for the axis": ("Reflectance vs wavelength\nWavelength (nm),a,b\n", "ab"),
    "with a comma": ("Leaf and soil, wavelength calibrated\nWavelength (nm),a,b\n", "ab"),
    "with as many commas as the table": ("Leaf, soil, wavelength calibrated\nWavelength (nm),a,b\n", "ab"),
    "without the word": ("Leaf and soil, calibrated\nWavelength (nm),a,b\n", "ab"),
    "with another unit": ("Reflectance by wavenumber\nWavelength (nm),a,b\n", "ab"),
    "with another unit, filled up": ("Reflectance by wavenumber,,\nWavelength (nm),a,b\n", "ab"),
    "with another unit and commas": ("By wavenumber,x,y\nWavelength (nm),a,b\n", "ab"),
    "R's, with classes": ("a,b\nclass,x,y\n", "ab"),
}


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("case", TITLED)
def test_a_title_of_the_whole_table_is_not_that_of_the_axis(tmp_path, case, separator):
    above, names = TITLED[case]
    path = tmp_path / "library.txt"
    path.write_text((above + BODY).replace(",", separator))
    library = read_library(path, unit=None if "nm" in above else "nm")
    assert (library.names, library.axis.unit) == (tuple(names), "nm")
    np.testing.assert_array_equal(library.axis.centers, X)
    np.testing.assert_array_equal(library.spectra, (A, B))


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize(
    ("title", "scale", "unit"), [("Wavelength", 1, "nm"), ("Wavelength (um)", 1000, "nm"), ("Wavenumber", 1, "cm-1")]
)
def test_a_title_over_the_axis_alone(tmp_path, title, scale, unit, separator):
    path = tmp_path / "library.csv"
    path.write_text(f"{title}\n" + "".join(f"{x / scale}{separator}{a}\n" for x, a in zip(X, A, strict=True)))
    library, _ = read(path)
    np.testing.assert_allclose(library.axis.centers, X)
    assert library.axis.unit == unit
    np.testing.assert_array_equal(library.spectra, (A,))


@pytest.mark.parametrize("above", ["Wavelengths of both", "a, b, wavelength, all"])
def test_a_title_above_wavelengths_in_a_row(tmp_path, above):
    path = tmp_path / "library.csv"
    path.write_text(f"{above}\nname,400,450,500\na,0.1,0.3,0.5\nb,0.2,0.4,0.6\n")
    library, _ = read(path)
    assert library.names == ("a", "b")
    np.testing.assert_array_equal(library.axis.centers, X)
    np.testing.assert_array_equal(library.spectra, (A, B))


def test_titles_of_all_but_one_column_are_refused(tmp_path):
    path = tmp_path / "library.csv"
    path.write_text("Wavelength,a\n" + BODY)
    with pytest.raises(ValueError, match="has more or fewer cells than they have columns"):
        read_library(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp1252"])
def test_encodings(tmp_path, encoding):
    path = tmp_path / "library.csv"
    path.write_bytes("Wellenlänge (µm),Grünstein,b\n0.4,0.1,0.2\n0.45,0.3,0.4\n0.5,0.5,0.6\n".encode(encoding))
    library = read_library(path)
    assert library.names == ("Grünstein", "b")
    np.testing.assert_allclose(library.axis.centers, X)


@pytest.mark.parametrize(
    "word",
    [
        "",
        "#NV",
        "#N/A",
        "#NUM!",
        "#DIV/0!",
        "NA",
        "N/A",
        "n/a",
        "nan",
        "NaN",
        "null",
        "None",
        "-",
        "--",
        "-9999",
        "-1.23e34",
        "-1.23e+034",
        "-3.4028235e38",
        "1e31",
        "inf",
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_missing_values(tmp_path, word, turned):
    rows = [["wavelength_nm", "a", "b"], ["400", "0.1", word], ["450", word, "0.4"], ["500", "0.5", "0.6"]]
    if turned:
        rows = [["name", "400", "450", "500"], ["a", "0.1", word, "0.5"], ["b", word, "0.4", "0.6"]]
    library = read_library(table(tmp_path, rows), unit="nm")
    np.testing.assert_array_equal(library.spectra, [[0.1, np.nan, 0.5], [np.nan, 0.4, 0.6]])
    assert library.names == ("a", "b")


def test_a_spreadsheets_error_at_the_start_of_a_line_is_no_comment(tmp_path):
    with pytest.raises(ValueError, match=re.escape("line 3, column 1 ('wavelength_nm'): '#N/A' is not a wavelength")):
        read_library(table(tmp_path, [["wavelength_nm", "a"], [400, 0.1], ["#N/A", 0.2], [500, 0.3]]))


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


def test_widths_in_their_own_unit_and_good_bands(tmp_path):
    rows = [["wavelength_nm", "FWHM (um)", "good_bands", "fwhm b"], [400, 0.01, 1, 0.1], [450, 0.02, 0, 0.3]]
    library = read_library(table(tmp_path, rows))
    np.testing.assert_allclose(library.axis.fwhm, [10, 20])
    assert library.good_bands.tolist() == [True, False]
    assert library.names == ("fwhm b",)
    assert library.account.used == ("wavelength_nm", "FWHM (um)", "good_bands")
    rows[0][1] = "fwhm_cm-1"
    with pytest.raises(ValueError, match="give both in one unit"):
        read_library(table(tmp_path, rows))


def test_european_numbers(tmp_path):
    rows = [[str(cell).replace(".", ",") for cell in row] for row in per_column()]
    np.testing.assert_array_equal(read_library(table(tmp_path, rows, ";")).spectra, SPECTRA)


def test_a_wavelength_twice_is_kept_and_noted(tmp_path):
    path = table(tmp_path, [["wavelength_nm", "a"], [400, 0.1], [450, 0.2], [450, 0.3], [500, 0.4]])
    with pytest.warns(UserWarning, match="450 more than once"):
        library = read_library(path)
    np.testing.assert_array_equal(library.axis.centers, [400, 450, 450, 500])
    np.testing.assert_array_equal(library.spectra, [[0.1, 0.2, 0.3, 0.4]])
    assert any("450" in note for note in as_scene(library).notes)


def test_a_first_line_that_may_be_wavelengths_is_noted(tmp_path):
    with pytest.warns(UserWarning, match="the first line is read as the spectrum 'a'"):
        library = read_library(table(tmp_path, [["a", 0.1, 0.2, 0.3], ["b", 0.3, 0.2, 0.4]]))
    assert library.names == ("a", "b")


def test_a_spectrum_without_values_is_noted(tmp_path):
    with pytest.warns(UserWarning, match="no value in 'b'"):
        read_library(table(tmp_path, [["wavelength_nm", "a", "b"], [400, 0.1, "NA"], [450, 0.2, ""]]))


@pytest.mark.parametrize("turned", [False, True])
def test_words_beside_the_spectra(tmp_path, turned):
    columns = {
        "sample": ("s 1", "s 2", "s 3"), "site": ("Ötztal", "", "A"), "date": ("2019-05-01", "2.6.2019", "3/7/19"),
        "grain (µm)": ("12", "7.5", "NA"), "class": CLASSES, "site (copy)": ("1,5 m", "2 m", "3 m"),
    }  # fmt: skip
    rows = [["wavelength_nm" if turned else "", *columns, *NM]]
    rows += [["", *(of[i] for of in columns.values()), *SPECTRA[i]] for i in range(3)]
    if turned:
        rows = [list(row) for row in zip(*rows, strict=True)]
        rows[0][1:] = NAMES
        rows[1][0] = "spot"
    else:
        rows[0][0], rows[0][1] = "spot", "name"
        for row, name in zip(rows[1:], NAMES, strict=True):
            row[0], row[1] = row[1], name
    library = read_library(table(tmp_path, rows, ";"), unit="nm")
    assert (library.names, library.classes) == (NAMES, CLASSES)
    np.testing.assert_array_equal(library.spectra, SPECTRA)
    expected = {"spot": columns.pop("sample"), **{k: v for k, v in columns.items() if k != "class"}}
    assert library.header["metadata"] == expected
    assert set(library.account.carried) == set(expected)
    assert "class" in library.account.used
    assert library.account.unknown == ()


def test_words_for_each_band_and_text_above_are_kept(tmp_path):
    text = "# made by X\nLibrary of 2019\nwavelength_nm,a,detector\n400,0.1,VNIR\n450,0.2,SWIR 1\n"
    path = tmp_path / "library.csv"
    path.write_text(text)
    library = read_library(path)
    assert library.header["band metadata"] == {"detector": ("VNIR", "SWIR 1")}
    assert (library.header["comments"], library.header["text above"]) == (("made by X",), ("Library of 2019",))
    assert set(library.account.carried) == {"detector", "comments", "text above"}
    np.testing.assert_array_equal(library.spectra, [[0.1, 0.2]])


# ---- classes that the user names


def test_the_user_names_the_classes(tmp_path):
    rows = [["name", "Species", "class", *NM]]
    rows += [[n, f"s{i}", c, *s] for i, (n, c, s) in enumerate(zip(NAMES, CLASSES, SPECTRA, strict=True))]
    path = table(tmp_path, rows)
    library = read_library(path, unit="nm", keys={"class": "species"})
    assert (library.names, library.classes) == (NAMES, ("s0", "s1", "s2"))
    assert library.header["metadata"] == {"class": CLASSES}
    assert set(library.account.used) == {"name", "Species"}
    assert read_library(path, unit="nm").classes == CLASSES
    assert read_library(path, unit="nm", keys={"class": "name"}).classes == NAMES
    turned = table(tmp_path, [["wavelength_nm", *NAMES], ["class", *CLASSES], ["Species", *"xyz"], *per_column()[2:]])
    library = read_library(turned, keys={"class": "Species"})
    assert (library.classes, library.header["metadata"]) == (("x", "y", "z"), {"class": CLASSES})
    named = table(tmp_path, [["name", "kind", "b1", "b2"], ["a", "x", 0.1, 0.4], ["b", "y", 0.3, 0.2]])
    assert read_library(named, keys={"class": "kind"}).classes == ("x", "y")


def test_vipers_first_class(tmp_path):
    path = tmp_path / "library.csv"
    path.write_text("name,class_1,class_2,400,450\na,x,p,1,2\nb,y,q,3,4\n")
    library, _ = read(path)
    assert (library.names, library.classes, library.header["metadata"]) == (
        ("a", "b"),
        ("x", "y"),
        {"class_2": ("p", "q")},
    )


@pytest.mark.parametrize(
    ("text", "keys", "message"),
    [
        (HEAD + BODY, {"spectra": "a"}, "key 'spectra' means nothing for this format; it knows class"),
        (HEAD + BODY, {"class": "kind"}, "no column or row 'kind' for the class; there is none"),
        ("name,sort,400,450\na,x,1,2\n", {"class": "kind"}, "'kind' for the class; there is 'name', 'sort'"),
        ("nm,a,nm,b\n400,0.1,400,0.2\n450,0.3,450,0.4\n", {"class": "a"}, "no column or row 'a' for the class"),
    ],
)
def test_classes_that_are_not_there(tmp_path, text, keys, message):
    path = tmp_path / "library.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"library\.csv: .*{re.escape(message)}") as raised:
        read_library(path, keys=keys)
    assert "\n" not in str(raised.value)


# ---- refused, with the place and the cause

REFUSED = {
    "empty": ("", "the library is empty"),
    "comments": ("# only a comment\n", "the library is empty"),
    "separators": (";;;\n;;;\n", "the library is empty"),
    "a page": ("\f\n", "the library is empty"),
    "titles": ("wavelength_nm,a,b\n", "cannot tell"),
    "titles of bands": ("name,400,500\n", "cannot tell"),
    "no axis": ("0.3,0.1,0.2\n0.4,0.1,0.9\n0.1,0.5,0.2\n", "cannot tell"),
    "an endmember that rises": ("soil,tree\n0.1,0.2\n0.2,0.4\n0.3,0.1\n", "cannot tell"),
    "wavelengths only": ("wavelength_nm\n400\n500\n", "cannot tell"),
    "words": ("a,b,c\nx,y,z\n", "cannot tell"),
    "a short line": (
        HEAD + "400,0.1,0.2\n450,0.3\n500,0.5,0.6\n",
        "line 3 has 2 columns, the other lines have 3: '450,0.3'",
    ),
    "a long line": (HEAD + BODY + "550,0.3,0.4,0.5\n", "line 5 has 4 columns, the other lines have 3"),
    "a second table": (HEAD + BODY + "\nwavelength_nm,c,d,e,f\n1,2,3,4,5\n", "line 6 has 5 columns"),
    "a word": (HEAD + "400,0.1,0.2\n450,0.3,bad\n", "line 3, column 3 ('b'): 'bad' is not a number"),
    "a word in a row": ("name,400,450\na,0.1,0.2\nb,0.3,bad\n", "line 3, column 3 ('450'): 'bad' is not a number"),
    "a column of per cent": (
        HEAD + "400,0.1,12%\n450,0.3,13 %\n",
        "column 3 ('b'): '12%' is not a number: write it without",
    ),
    "a column with a unit": (HEAD + "400,0.1,12 mW\n450,0.3,13 mW\n", "column 3 ('b'): '12 mW' is not a number"),
    "a date": (HEAD + "400,0.1,0.2\n450,0.3,2019-05-01\n", "'2019-05-01' is not a number: it is a date"),
    "a decimal comma": (
        "wavelength_nm;a\n400.5;0.1\n450.5;0,2\n",
        "line 3, column 2 ('a'): '0,2' is not a number: it has a decimal comma",
    ),
    "a decimal dot": ("wavelength_nm;a\n400,5;0,1\n450,5;0.2\n", "'0.2' is not a number: it has a decimal dot"),
    "thousands": (
        'wavelength_nm,a\n"1,000",0.1\n"1,100",0.2\n',
        "line 2, column 1 ('wavelength_nm'): '1,000' is not a wavelength: write numbers without thousands",
    ),
    "thousands with dots": (
        "wavelength_nm;a\n999;0,1\n1.000;0,2\n",
        "'1.000' is not a wavelength: write numbers without thousands",
    ),
    "thousands among decimal dots": (
        "wavelength_nm;a\n999;0.1\n1.000;0.2\n1.001;0.3\n",
        "line 3, column 1 ('wavelength_nm'): '1.000' is not a wavelength among the others",
    ),
    "thousands among titles": ("name,999,1.000,1.001\na,0.1,0.2,0.3\n", "'1.000' is not a wavelength"),
    "thousands with blanks": (
        "wavelength_nm;a\n999;0,1\n1\u00a0000;0,2\n",
        "'1\\xa0000' is not a wavelength: write numbers without thousands",
    ),
    "Swiss thousands": ("wavelength_nm;a\n999;0.1\n1'000;0.2\n", "write numbers without thousands"),
    "commas that may be either": (
        "wavelength_nm;a\n999;1,234\n1000;2,345\n",
        "may be a decimal comma or a thousands separator",
    ),
    "no wavelength": (
        HEAD + "400,0.1,0.2\n,0.3,0.4\n500,0.5,0.6\n",
        "line 3, column 1 ('wavelength_nm'): an empty cell is not a wavelength",
    ),
    "a negative wavelength": (HEAD + "-400,0.1,0.2\n450,0.3,0.4\n", "'-400' is not a wavelength"),
    "a mean below": (HEAD + BODY + "mean,0.3,0.4\n", "line 5, column 1 ('wavelength_nm'): 'mean' is not a wavelength"),
    "a mean below, untitled": (BODY + "mean,0.3,0.4\n", "line 4, column 1: 'mean' is not a wavelength"),
    "a wavelength that is none": (
        "name,400,4S0,500,550\na,0.1,0.2,0.3,0.4\n",
        "line 1, column 3: '4S0' is not a wavelength",
    ),
    "pairs that differ": (
        "x1,y1,x2,y2\n400,0.1,410,0.2\n450,0.3,460,0.4\n",
        "columns 1 and 3 ('x1', 'x2') hold different wavelengths",
    ),
    "pairs with a gap": (
        "nm,a,nm,b\n400,0.1,400,0.2\n450,0.3,,\n500,0.5,500,0.6\n",
        "line 3, column 3 ('nm'): an empty cell is not a wavelength",
    ),
    "pairs with a word": (
        "nm,a,nm,b\n400,0.1,400,0.2\n450,0.3,450,bad\n",
        "line 3, column 4 ('b'): 'bad' is not a number",
    ),
    "pairs in two units": ("nm,a,um,b\n400,0.1,400,0.2\n450,0.3,450,0.4\n", "differ in their units"),
    "names with blanks": (
        "wavelength soil a tree\n400 0.1 0.2\n450 0.3 0.4\n",
        "put names that hold blanks between quotation marks",
    ),
    "an open quotation mark": ('wavelength_nm,"a\n400,0.1\n', "line 1: a cell that begins with a quotation mark"),
    "zeros": ("\0\1\2\3abc\0\0", "no text table"),
    "a later zero": (HEAD + BODY * 400 + "\0", "no text table"),
    "half a letter": ((HEAD + BODY).encode("utf-16")[:-1], "cannot be read as UTF-16 text"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_the_cause(tmp_path, case):
    text, message = REFUSED[case]
    path = tmp_path / "bad.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=rf"bad\.csv: .*{re.escape(message)}") as raised:
        read_library(path)
    assert "\n" not in str(raised.value)


# ---- time and size


def test_patterns_never_go_back():
    """All quantifiers are possessive or fixed, so matching takes time in proportion to the text."""
    for module in (table_cells, table_titles):
        for name, pattern in vars(module).items():
            if isinstance(pattern, re.Pattern) and name != "CENTRE":
                without = re.sub(r"\\.|\[[^\]]*\]|\{\d+\}", "c", pattern.pattern).replace("(?", "(")
                assert not re.search(r"[*+?}](?!\+)(?<!\+\+)(?<!\*\+)(?<!\?\+)(?<!\}\+)", without), (name, without)


@pytest.mark.parametrize(
    "text",
    [
        "," * 50_000,
        '"' * 50_000,
        '"a",' * 5_000 + '"',
        "1" * 50_000,
        "1," * 5_000,
        "a" * 50_000 + ",1\n",
        " " * 50_000 + "1",
        "1 " * 9_000 + "\t",
        "\n" * 50_000,
        '"\n' * 10_000,
        "#" * 50_000,
        "-" * 50_000,
        "wavelength_nm," + "nm" * 20_000 + "\n400,0.1\n",
        "(" * 20_000 + ",400 nm\n1,2\n",
        "1e" * 20_000 + ",1\n1,2\n",
        ("x," * 9_000 + "\n") * 3 + "1," * 9_000,
        "0.1,0.2\n" * 6_000,
        "1.1.1.1." * 6_000,
        ",\n" * 30_000,
        "wavelength_nm," + "b," * 3_000 + "\n" + "1,x," * 1_500 + "1\n",
        '"' + "a" * 200_000,
        "".join(f"{i},x,12%\n" for i in range(400, 4_000)),
    ],
)
def test_hostile_tables_take_work_in_proportion(tmp_path, monkeypatch, text):
    """Every cell is cut and looked at a few times, whatever the table: cells are counted, not seconds."""
    cut, work = table_cells.cells_of, [0]

    def counted(record, separator):
        work[0] += len(record)
        return cut(record, separator)

    monkeypatch.setattr(table_cells, "cells_of", counted)
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with contextlib.suppress(ValueError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read_library(path)
    assert work[0] <= 12 * len(text) + 10_000


@pytest.mark.parametrize(
    ("limit", "value", "message"),
    [
        ("MOST_BYTES", 100, "is not read"),
        ("MOST_LINES", 2, "of more than 2 lines"),
        ("MOST_COLUMNS", 2, "more than 2 cells"),
        ("MOST_CELLS", 2, "of more than 2 cells"),
    ],
)
def test_absurd_sizes_are_refused(tmp_path, monkeypatch, limit, value, message):
    monkeypatch.setattr(table_cells, limit, value)
    path = tmp_path / "large.csv"
    path.write_text(HEAD + BODY * 4)
    with pytest.raises(ValueError, match=rf"large\.csv: .*{message}"):
        read_library(path)
