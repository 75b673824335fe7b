"""Library formats of laboratories and field spectrometers, on files made in their layouts."""

import codecs
import os
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from spectral.database.ecostress import read_ecostress_file
from spectral.database.relab import read_relab_file
from spectral.database.usgs import SampleData, SpectrometerData

from unmix_jax.scenes.readers import read_library
from unmix_jax.scenes.readers.spectra.asd import read_asd
from unmix_jax.scenes.readers.spectra.asu import read_asu
from unmix_jax.scenes.readers.spectra.common import METADATA, distinct, lines_of, natural, number
from unmix_jax.scenes.readers.spectra.ecosis import read_ecosis
from unmix_jax.scenes.readers.spectra.ecostress import read_ecostress
from unmix_jax.scenes.readers.spectra.field_spectra import read_sed, read_sig
from unmix_jax.scenes.readers.spectra.folders import FORMATS, read_folder, recognise
from unmix_jax.scenes.readers.spectra.relab import read_relab
from unmix_jax.scenes.readers.spectra.sli_tables import classes_in_header, classes_of, read_spectra_table, table_beside
from unmix_jax.scenes.readers.spectra.specchio import read_specchio
from unmix_jax.scenes.readers.spectra.splib07 import read_splib07, read_splib07_folder
from unmix_jax.scenes.reading import Reading

DELETED = -1.23e34
PLAIN = Reading()


def told(**said):
    """What a user says; further keys are Reading's own."""
    own = {k: said.pop(k) for k in ("unit", "force_unit", "scale", "nodata") if k in said}
    return Reading(keys=said, **own)


def write(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def refused(read, path, say, *words):
    """The one-line message of a refusal, which names the file and holds some words."""
    with pytest.raises(ValueError) as error:  # noqa: PT011  # what it says is looked at below
        read(path, say)
    message = str(error.value)
    assert "\n" not in message
    for word in (path.name, *words):
        assert word in message, message
    return message


def outcome(read, path):
    """What a refusal says; None where there is a library with at least one value."""
    try:
        library = read(path, PLAIN)
    except (ValueError, OSError) as error:
        return str(error)
    assert np.isfinite(np.asarray(library.spectra)).any()
    return None


# USGS splib07 ---------------------------------------------------------------------------------------------------------

ASD_UM = np.array([0.35, 0.9, 1.4, 2.0, 2.5])
BECK_UM = np.array([0.205, 1.0, 2.0, 2.976])
NIC_UM = np.array([1.12, 5.0, 216.0])
WIDTHS = {"ASDFR": ASD_UM / 100, "ASDHR": ASD_UM / 200, "BECK": BECK_UM / 100, "NIC4": NIC_UM / 50}


def column(library, record, title, values):
    """A file of the library: a title, then one value per line as the data release prints them."""
    return f" {library} Record={record}: {title}\n" + "".join(f" {v: .7e}\n" for v in values)


def splib07a(root, library="splib07a"):
    """The root of a sampling with its wavelength and bandpass files."""
    for name, title, values in (
        ("Wavelengths_ASD_0.35-2.5_microns_2151_ch", "Wavelengths ASD 0.35-2.5 microns 2151 ch", ASD_UM),
        ("Wavelengths_BECK_Beckman_0.2-3.0_microns", "Wavelengths BECK Beckman 0.2-3.0 microns", BECK_UM),
        ("Wavelengths_NIC4_Nicolet_1.12-216microns", "Wavelengths NIC4 Nicolet 1.12-216 microns", NIC_UM),
        ("Wavenumber_NIC4_Nicolet_8,900_-_46_cm^-1", "Wavenumber NIC4 Nicolet cm^-1", 1e4 / NIC_UM),
        ("Bandpass_(FWHM)_ASDFR_StandardResolution", "Bandpass (FWHM) ASDFR StandardResolution", WIDTHS["ASDFR"]),
        ("Bandpass_(FWHM)_ASDHR_High-Resolution", "Bandpass (FWHM) ASDHR High-Resolution", WIDTHS["ASDHR"]),
        ("Bandpass_(FWHM)_BECK_Beckman_in_microns", "Bandpass (FWHM) BECK Beckman in microns", WIDTHS["BECK"]),
        ("Bandpass_(FWHM)_NIC4_Nicolet_in_microns", "Bandpass (FWHM) NIC4 Nicolet in microns", WIDTHS["NIC4"]),
    ):
        write(root / f"{library}_{name}.txt", column(library, 1, title, values))
    return root


def usgs(root, chapter, name, code, values, kind="AREF", library="splib07a", title=None):
    """A spectrum in a chapter."""
    title = title or f"{name:<20} {code} {kind}"
    stem = f"{library}_{name.replace(' ', '_')}_{code}_{kind}"
    return write(root / chapter / f"{stem}.txt", column(library, 5932, title, values))


MINERALS, PLANTS = "ChapterM_Minerals", "ChapterV_Vegetation"
SPECTRUM = np.array([0.1, DELETED, 0.3, 0.4, 0.5])


@pytest.mark.parametrize(
    ("code", "um"), [("ASDFRa", ASD_UM), ("ASDHRb", ASD_UM), ("BECKb", BECK_UM), ("NIC4aau", NIC_UM)]
)
def test_usgs_axis_and_widths_are_those_of_the_spectrometer(tmp_path, code, um):
    path = usgs(splib07a(tmp_path), MINERALS, "Kaolinite CM9", code, SPECTRUM[: len(um)])
    library = read_splib07(path, PLAIN)
    np.testing.assert_allclose(library.axis.centers, um * 1000, rtol=1e-6)
    np.testing.assert_allclose(library.axis.fwhm, WIDTHS[code.rstrip("abu")] * 1000, rtol=1e-6)
    np.testing.assert_allclose(library.spectra[0], np.where(SPECTRUM > -1, SPECTRUM, np.nan)[: len(um)])
    assert (library.axis.unit, library.quantity) == ("nm", "reflectance")
    assert (library.names, library.classes) == (("Kaolinite CM9",), ("mineral",))
    assert library.account.unknown == ()
    spy = SampleData.read_from_file(str(path))  # an independent reader of the titles
    held = library.header[METADATA]
    assert held["spectrometer"] + held["purity"] == [spy.spectrometer, spy.purity]
    assert held["measurement"] == [spy.measurement_type]
    assert " ".join(spy.description.split()) == f"{library.names[0]} {code} AREF"


def test_usgs_title_whose_name_runs_into_the_code(tmp_path):
    path = usgs(splib07a(tmp_path), MINERALS, "x", "BECKa", [0.1] * 4, title="Renyolds_TnlSldgWet SM93-15wBECKa AREF")
    assert read_splib07(path, PLAIN).names == ("Renyolds_TnlSldgWet SM93-15w",)


@pytest.mark.parametrize(
    ("kind", "quantity"), [("AREF", "reflectance"), ("RTGC", "reflectance"), ("TRAN", "transmittance")]
)
def test_usgs_quantity(tmp_path, kind, quantity):
    path = usgs(splib07a(tmp_path), PLANTS, "Oak", "BECKa", [0.1] * 4, kind)
    library = read_splib07(path, PLAIN)
    assert (library.quantity, library.classes) == (quantity, ("vegetation",))


def test_usgs_wavenumbers_where_there_are_no_wavelengths(tmp_path):
    path = usgs(splib07a(tmp_path), MINERALS, "Quartz", "NIC4a", [0.1, 0.2, 0.3], "RREF")
    (tmp_path / "splib07a_Wavelengths_NIC4_Nicolet_1.12-216microns.txt").unlink()
    axis = read_splib07(path, PLAIN).axis
    assert axis.unit == "cm-1"
    np.testing.assert_allclose(axis.centers, 1e4 / NIC_UM, rtol=1e-6)
    np.testing.assert_allclose(axis.to("nm").fwhm, WIDTHS["NIC4"] * 1000, rtol=1e-5)  # as narrow as before


def test_usgs_chapter_needs_a_choice_of_spectrometer(tmp_path):
    root = splib07a(tmp_path)
    for i in (10, 2):
        usgs(root, MINERALS, f"Alunite {i}", "ASDFRa", SPECTRUM)
    usgs(root, MINERALS, "Alunite 2", "ASDHRb", SPECTRUM)
    usgs(root, MINERALS, "Alunite 2", "BECKa", [0.1] * 4)
    folder = root / MINERALS
    refused(read_splib07_folder, folder, PLAIN, "ASDFR (2)", "BECK (1)", "--key spectrometer=ASDFR")
    beckman = read_splib07_folder(folder, told(spectrometer="BECK"))
    assert (len(beckman), len(beckman.axis)) == (1, 4)
    assert read_splib07_folder(folder, told(spectrometer="ASDFRa")).names == ("Alunite 2", "Alunite 10")
    both = read_splib07_folder(folder, told(spectrometer="ASD"))
    assert both.names == ("Alunite 2 [ASDFRa AREF]", "Alunite 2 [ASDHRb AREF]", "Alunite 10")
    assert both.axis.fwhm is None
    assert any("band widths" in note for note in both.notes)
    refused(read_splib07_folder, folder, told(spectrometer="NIC4"), "no spectrum is left", "BECK (1)")
    refused(read_splib07_folder, folder, told(spectrometre="BECK"), "spectrometre", "spectrometer")


def test_usgs_links_and_hidden_files_are_passed_over(tmp_path):
    """A link back to its own folder would be walked for ever, one to elsewhere leads out of the library."""
    root = splib07a(tmp_path / "library")
    alunite = usgs(root, MINERALS, "Alunite", "BECKa", [0.1] * 4)
    elsewhere = usgs(tmp_path / "elsewhere", PLANTS, "Oak", "BECKa", [0.2] * 4)
    (root / PLANTS).symlink_to(elsewhere.parent)
    (alunite.parent / "ChapterS_SoilsAndMixtures").symlink_to(root)
    (alunite.parent / "linked.txt").symlink_to(elsewhere)
    (alunite.parent / f".{alunite.name}").write_bytes(alunite.read_bytes())
    library = read_splib07_folder(root, PLAIN)
    assert (library.names, library.classes) == (("Alunite",), ("mineral",))


def test_usgs_root_reads_all_chapters(tmp_path):
    root = splib07a(tmp_path / "ASCIIdata_splib07a")
    usgs(root, MINERALS, "Alunite", "BECKa", [0.1] * 4)
    usgs(root, PLANTS, "Oak", "BECKa", [0.2, 0.3, DELETED, 0.5])
    usgs(root, PLANTS, "Ash", "BECKa", [DELETED] * 4)
    write(root / "errorbars" / "errorbars_for_splib07a_Oak_BECKa_AREF.txt", column("splib07a", 2, "errors", [0.1]))
    write(root / PLANTS / "errorbars_for_splib07a_Oak_BECKa_AREF.txt", column("splib07a", 2, "x BECKa AREF", [0.1]))
    library = read_folder(root, PLAIN)
    assert (library.names, library.classes) == (("Alunite", "Oak"), ("mineral", "vegetation"))
    np.testing.assert_allclose(library.spectra[1], [0.2, 0.3, np.nan, 0.5])
    assert any("without any value" in note for note in library.notes)
    assert "errorbars/" in library.account.unknown
    assert library.header[METADATA]["chapter"] == [MINERALS, PLANTS]
    assert read_folder(root, told(measurement="AREF", files="*Oak*")).names == ("Oak",)


@pytest.mark.parametrize(
    ("library", "wavelengths"),
    [
        ("s07_AV97", "s07_AV97_AVIRIS_1997_Wavelengths_(microns)_224ch.txt"),
        ("S07SNTL2", "S07SNTL2_Wavelengths_Sentinel2_(13_bands)_microns.txt"),
    ],
)
def test_usgs_convolved_samplings_have_one_axis(tmp_path, library, wavelengths):
    write(tmp_path / wavelengths, column(library, 1, "AVIRIS Wavelengths (microns)", ASD_UM))
    for code in ("ASDFRa", "BECKb"):
        usgs(tmp_path, MINERALS, f"Kaolinite {code}", code, SPECTRUM, library=library)
    read = read_folder(tmp_path / MINERALS, PLAIN)
    assert len(read) == 2
    np.testing.assert_allclose(read.axis.centers, ASD_UM * 1000, rtol=1e-6)


def test_usgs_channels_without_a_wavelength_are_left_out(tmp_path):
    name = "splib07a_Wavelengths_BECK_Beckman_0.2-3.0_microns.txt"
    write(tmp_path / name, column("splib07a", 1, "Wavelengths BECK", [0.3, DELETED, 1.0]))
    library = read_splib07(usgs(tmp_path, MINERALS, "x", "BECKa", [0.1, 0.2, 0.3]), PLAIN)
    np.testing.assert_allclose(library.spectra, [[0.1, 0.3]])
    assert any("without a wavelength" in note for note in library.notes)


def test_usgs_refusals(tmp_path):
    root = splib07a(tmp_path / "a")
    lone = usgs(tmp_path / "b" / "c" / "d", MINERALS, "Lone", "BECKa", [0.1] * 4)
    refused(read_splib07, lone, PLAIN, "no file of wavelengths was found", "BECK")
    refused(read_splib07, usgs(root, MINERALS, "Short", "BECKa", [0.1] * 3), PLAIN, "3 channels", "(4)")
    bad = usgs(root, MINERALS, "Bad", "BECKa", [0.1] * 4)
    bad.write_text(bad.read_text() + "abc\n")
    refused(read_splib07, bad, PLAIN, "line 6", "abc")
    axis = root / "splib07a_Wavelengths_BECK_Beckman_0.2-3.0_microns.txt"
    refused(read_splib07, axis, PLAIN, "wavelengths")
    good = usgs(root, MINERALS, "Good", "BECKa", [0.1] * 4)
    refused(read_splib07, good, told(unit="nm"), "states that its axis is in um", "--force-unit")
    axis.write_text(column("splib07a", 1, "Wavelengths BECK", BECK_UM * 10))
    with pytest.raises(ValueError, match=r"its name says 0\.2 to 3 microns.*2\.05 to 29\.76"):
        read_splib07(good, PLAIN)
    with pytest.warns(UserWarning, match="nm is used instead"):
        forced = read_splib07(good, told(unit="nm", force_unit=True)).axis.centers
    np.testing.assert_allclose(forced, BECK_UM * 10, rtol=1e-6)


def test_usgs_title_of_an_axis_as_an_independent_reader_sees_it(tmp_path):
    splib07a(tmp_path)
    path = tmp_path / "splib07a_Wavelengths_ASD_0.35-2.5_microns_2151_ch.txt"
    spy = SpectrometerData.read_from_file(str(path))
    assert (spy.measurement_type, spy.unit) == ("Wavelengths", "micrometer")
    np.testing.assert_allclose(spy.values, ASD_UM, rtol=1e-6)


# ECOSTRESS and ASTER --------------------------------------------------------------------------------------------------


def ecostress(
    path, x, y, *, x_units="Wavelength (micrometers)", y_units="Reflectance (percent)", between="\t", **other
):
    """A file in the layout of the library."""
    entries = {
        "Name": "Aloe bainesii",
        "Type": "vegetation",
        "Class": "Tree",
        "Genus": "Aloe",
        "Species": "bainesii",
        "Sample No.": "JPL058",
        "Owner": "JPL",
        "Wavelength Range": "All",
        "Origin": "34.12733; - 118.111; WGS84",
        "Collection Date": "2/2/2016",
        "Description": "Samples were collected: in the garden\nand processed within 48 hours, with \xb5m precision.\n",
        "Measurement": "Bidirectional reflectance",
        "First Column": "X",
        "Second Column": "Y",
        "X Units": x_units,
        "Y Units": y_units,
        "First X Value": f"{x[0]}",
        "Last X Value": f"{x[-1]}",
        "Number of X Values": f"{len(x)}",
        "Additional Information": "none",
        **other,
    }
    head = "".join(f"{name}: {value}\n" for name, value in entries.items())
    rows = "".join(f" {a:.4f}{between}{b:.4f}\n" for a, b in zip(x, y, strict=True))
    return write(path, f"{head}\n{rows}", "latin-1")


X, Y = np.array([14.011, 9.5, 2.079]), np.array([1.3461, 30.0, 7.0])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # SPy leaves the file open
@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("between", ["\t", "   "])
@pytest.mark.parametrize("said", ["Reflectance (percent)", "Reflectance (percentage)", "Reflectence (percent)"])
def test_ecostress_agrees_with_spy(tmp_path, order, between, said):
    path = ecostress(
        tmp_path / "a.spectrum.txt", X[::order], Y[::order], between=between, y_units=said, Description="one line"
    )
    library = read_ecostress(path, PLAIN)
    spy = read_ecostress_file(str(path))  # which sorts by wavelength
    rising = np.argsort(library.axis.centers)
    np.testing.assert_allclose(library.axis.centers[rising] / 1000, spy.x, rtol=1e-12)
    np.testing.assert_allclose(library.spectra[0, rising] * 100, spy.y, rtol=1e-12)
    np.testing.assert_allclose(library.axis.centers, X[::order] * 1000, rtol=1e-12)  # the file's own order
    assert (library.names, library.classes, library.quantity) == (("Aloe bainesii",), ("Tree",), "reflectance")
    assert library.header[METADATA]["Description"] == ["one line"]
    assert library.account.unknown == ()
    assert not library.notes


@pytest.mark.parametrize(
    ("x_units", "y_units", "unit", "quantity", "factor"),
    [
        ("Wavelength (nm)", "Reflectance (fraction)", "nm", "reflectance", 1),
        ("Wavenumber (cm^-1)", "Transmittance (percent)", "cm-1", "transmittance", 0.01),
        ("Wavelength (micrometer)", "Emissivity (fraction)", "nm", "emissivity", 1),
    ],
)
def test_ecostress_units(tmp_path, x_units, y_units, unit, quantity, factor):
    path = ecostress(tmp_path / "a.txt", [500.0, 600.0], [0.5, 0.9], x_units=x_units, y_units=y_units)
    library = read_ecostress(path, PLAIN)
    assert (library.axis.unit, library.quantity) == (unit, quantity)
    np.testing.assert_allclose(library.spectra[0], np.array([0.5, 0.9]) * factor)


def test_ecostress_choices_of_the_user(tmp_path):
    path = ecostress(tmp_path / "a.txt", X, Y)
    np.testing.assert_array_equal(read_ecostress(path, told(scale=0.5)).spectra[0], Y)  # not scaled twice
    assert read_ecostress(path, Reading(keys={"class": "Type"})).classes == ("vegetation",)
    refused(read_ecostress, path, Reading(keys={"class": "Subclass"}), "Subclass", "Genus")
    refused(read_ecostress, path, told(unit="cm-1"), "um")


def test_ecostress_accounts_and_notes(tmp_path):
    path = ecostress(tmp_path / "a.txt", X, Y, **{"Owner": "JPL\nKingdom: Plantae", "Number of X Values": "4"})
    path.write_text(path.read_text(encoding="latin-1") + " 0.0000 0.0000\n", encoding="latin-1")
    library = read_ecostress(path, PLAIN)
    assert library.account.unknown == ("Kingdom",)
    assert library.header[METADATA]["Description"] == [
        "Samples were collected: in the garden and processed within 48 hours, with \xb5m precision."
    ]
    assert any("passed over" in note and "line 28" in note for note in library.notes)
    assert any("says 4 values" in note for note in library.notes)
    vague = read_ecostress(ecostress(tmp_path / "b.txt", X, Y, y_units="Reflectance"), PLAIN)
    assert any("neither per cent nor fraction" in note for note in vague.notes)
    turned = read_ecostress(ecostress(tmp_path / "c.txt", Y, X, **{"First Column": "Y", "Second Column": "X"}), PLAIN)
    np.testing.assert_allclose(turned.axis.centers, X * 1000)


def test_ecostress_refusals(tmp_path):
    path = ecostress(tmp_path / "a.txt", X, Y)
    whole = path.read_text(encoding="latin-1")
    cut = write(tmp_path / "cut.txt", whole[: whole.rindex(" 2.0790")], "latin-1")
    refused(read_ecostress, cut, PLAIN, "cut off", "3 values")
    refused(read_ecostress, write(tmp_path / "b.txt", whole.replace("9.5000", "9.5x")), PLAIN, "line 25", "9.5x")
    refused(read_ecostress, write(tmp_path / "c.txt", whole.replace("Y Units", "Y Unit")), PLAIN, "Y Units")
    refused(read_ecostress, write(tmp_path / "d.txt", whole.replace("micrometers", "furlongs")), PLAIN, "furlongs")


# EcoSIS and SPECCHIO --------------------------------------------------------------------------------------------------

ECOSIS = """Common Name,Latin Species,Leaf mass,Measurement Quantity,Measurement Units,Sample_ID,Wavelength Units,\
350,351.5,353
"maple, red",rubrum,12.5,Reflectance,%,a,nm,10,20,
,alba,13,Reflectance,%,b,nm,30,-9999,NA
"""


def test_ecosis(tmp_path):
    path = write(tmp_path / "leaves.csv", codecs.BOM_UTF8.decode("utf-8") + ECOSIS)
    library = read_ecosis(path, PLAIN)
    np.testing.assert_allclose(library.spectra, [[0.1, 0.2, np.nan], [0.3, np.nan, np.nan]])
    np.testing.assert_array_equal(library.axis.centers, [350, 351.5, 353])
    assert (library.names, library.classes, library.quantity) == (("a", "b"), (), "reflectance")
    assert library.header[METADATA]["Common Name"] == ["maple, red", ""]
    assert library.account.unknown == ("Leaf mass",)
    assert {"Measurement Units", "Wavelength Units", "Measurement Quantity"} <= set(library.account.used)
    by = read_ecosis(path, Reading(keys={"class": "Latin Species", "name": "Leaf mass"}))
    assert (by.classes, by.names) == (("rubrum", "alba"), ("12.5", "13"))
    np.testing.assert_array_equal(read_ecosis(path, told(scale=0.01)).spectra[0, :2], [10, 20])


def test_ecosis_quantity_of_an_index(tmp_path):
    text = ECOSIS.replace(",Reflectance,", ",Index,").replace("Common Name,", "Common Name,Index Name,")
    text = text.replace('"maple, red",', '"maple, red",Reflectance,').replace("\n,alba", "\n,Reflectance,alba")
    library = read_ecosis(write(tmp_path / "leaves.csv", text), PLAIN)
    assert (library.quantity, library.notes) == ("reflectance", ())
    assert {"Measurement Quantity", "Index Name"} <= set(library.account.used)


def test_ecosis_says_what_is_missing(tmp_path):
    text = (
        ECOSIS.replace(",%,", ",,")
        .replace(",nm,", ",,")
        .replace("b,", "a,")
        .replace("alba,13,Reflectance", "alba,13,DN")
    )
    path = write(tmp_path / "leaves.csv", text)
    with pytest.warns(UserWarning, match="no wavelength unit is given; nm is assumed"):
        library = read_ecosis(path, PLAIN)
    assert library.names == ("spectrum 1", "spectrum 2")
    assert any("different quantities" in note for note in library.notes)
    assert library.quantity == "value"
    percent = write(tmp_path / "p.csv", ECOSIS.replace(",%,", ",,"))
    assert any("--scale 0.01" in note for note in read_ecosis(percent, PLAIN).notes)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("10,20", "10,x", ("spectrum 1", "number 2", "'x'")),
        ("30,-9999,NA", "30,-9999", ("spectrum 2", "9 cells", "10")),
        ("Sample_ID", "352", ("neighbouring columns",)),
        (",350,351.5,353", "", ("0 titles are numbers",)),
        ("351.5", "350", ("350 is the title of two columns",)),
    ],
)
def test_ecosis_refusals(tmp_path, old, new, words):
    refused(read_ecosis, write(tmp_path / "leaves.csv", ECOSIS.replace(old, new)), PLAIN, *words)


def test_ecosis_refuses_unknown_columns(tmp_path):
    path = write(tmp_path / "leaves.csv", ECOSIS)
    refused(read_ecosis, path, Reading(keys={"class": "Genus"}), "'Genus'", "Latin Species")
    refused(read_ecosis, path, told(cube="x"), "cube", "class, name")


SPECCHIO_ROWS = """Measurement Unit,Acquisition Time,File Name,Keyword,Keyword,CampaignId,SpectrumId,350.0,351.0,352.0
Reflectance,2020.01.01,a.asd,dry,NA,3,17,0.1,0.2,NaN
Reflectance,2020.01.02,b.asd,wet,old,3,18,0.3,0.4,0.5
"""
SPECCHIO_COLUMNS = """File Name,a.asd,b.asd
Keyword,dry,wet
Campaign Name,x,x
Measurement Unit,Reflectance,Reflectance
wavelength unit,{unit},{unit}
{0},0.1,0.3
{1},0.2,0.4
{2},NaN,0.5
"""


@pytest.mark.parametrize("form", ["rows", "columns", "columns in um"])
def test_specchio(tmp_path, form):
    columns = (
        SPECCHIO_COLUMNS.format(350.0, 351.0, 352.0, unit="nm")
        if form == "columns"
        else SPECCHIO_COLUMNS.format(0.35, 0.351, 0.352, unit="um")
    )
    path = write(tmp_path / "export.csv", SPECCHIO_ROWS if form == "rows" else columns)
    library = read_specchio(path, Reading(keys={"class": "Keyword"}))
    np.testing.assert_allclose(library.axis.centers, [350, 351, 352])
    np.testing.assert_array_equal(library.spectra, [[0.1, 0.2, np.nan], [0.3, 0.4, 0.5]])
    assert (library.names, library.classes) == (("a.asd", "b.asd"), ("dry", "wet"))
    assert (library.quantity, library.axis.unit) == ("reflectance", "nm")
    if form == "rows":
        assert library.header[METADATA]["Keyword (2)"] == ["NA", "old"]


def test_specchio_refusals(tmp_path):
    header = write(tmp_path / "h.csv", SPECCHIO_ROWS.replace(",350.0,351.0,352.0", ""))
    refused(read_specchio, header, PLAIN, "metadata without spectra")
    text = SPECCHIO_COLUMNS.format(350.0, 351.0, 352.0, unit="nm")
    refused(read_specchio, write(tmp_path / "a.csv", text.replace("0.2,0.4", "0.2")), PLAIN, "row 7", "2 cells")
    refused(read_specchio, write(tmp_path / "b.csv", text.replace("dry,wet", "dry,wet,odd")), PLAIN, "metadata has 4")


# ASU and RELAB --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "unit", "centers"),
    [
        ("# Name: Quartz BUR-4120\n# Wavenumber (cm-1)\tEmissivity\n", "cm-1", [1000.0, 500.0]),
        ("ASU emissivity\nName: Quartz BUR-4120\n", "cm-1", [1000.0, 500.0]),
        ("! ASU, emissivity over wavelength in microns\n! Sample: Quartz BUR-4120\n", "nm", [10.0, 20.0]),
    ],
)
def test_asu_one_spectrum(tmp_path, head, unit, centers):
    path = write(
        tmp_path / "quartz.txt", head + "".join(f"{c}\t{e}\n" for c, e in zip(centers, [0.9, 0.8], strict=True))
    )
    assert recognise(path) is read_asu
    library = read_asu(path, PLAIN)
    assert (library.axis.unit, library.quantity) == (unit, "emissivity")
    np.testing.assert_allclose(library.axis.centers, np.array(centers) * (1 if unit == "cm-1" else 1000))
    np.testing.assert_array_equal(library.spectra, [[0.9, 0.8]])
    assert library.names == (("Quartz BUR-4120",) if "Name" in head or "Sample" in head else ("quartz",))


@pytest.mark.parametrize(
    ("head", "unit"),
    [
        ("ASU emissivity, from wavenumber spectra\nWavelength (um)  Emissivity\n", "nm"),
        ("ASU emissivity, from wavenumber spectra\nWavelength (um)\tEmissivity\n", "nm"),
        ("ASU emissivity over wavelength in microns\nWavenumber (cm-1)  Emissivity\n", "cm-1"),
    ],
)
def test_asu_title_of_the_axis_has_the_unit(tmp_path, head, unit):
    path = write(tmp_path / "quartz.txt", head + "10\t0.9\n20\t0.8\n")
    assert recognise(path) is read_asu
    axis = read_asu(path, PLAIN).axis
    assert axis.unit == unit
    np.testing.assert_allclose(axis.centers, [10000, 20000] if unit == "nm" else [10, 20])


@pytest.mark.parametrize(
    "comment", ["emissivity was taken over wavenumber", "measured emissivity", "a name: emissivity"]
)
def test_tables_that_speak_of_emissivity_are_not_asu(tmp_path, comment):
    path = write(tmp_path / "a.txt", f"# {comment}\nWavelength (um)\tleaf\tsoil\n8\t0.9\t0.7\n9\t0.8\t0.6\n")
    assert recognise(path) is None
    library = read_library(path)
    assert (library.names, library.axis.unit) == (("leaf", "soil"), "nm")
    np.testing.assert_allclose(library.axis.centers, [8000, 9000])


def test_asu_table_with_its_metadata(tmp_path):
    path = write(tmp_path / "lib.txt", "400 0.9 0.7\n300 0.8 0.6\n")
    write(
        tmp_path / "lib_meta.csv", 'sample_name,category,quality\n"Quartz, BUR",silicate,good\nCalcite,carbonate,fair\n'
    )
    assert recognise(path) is read_asu
    library = read_asu(path, PLAIN)
    assert (library.names, library.classes) == (("Quartz, BUR", "Calcite"), ("silicate", "carbonate"))
    np.testing.assert_array_equal(library.spectra, [[0.9, 0.8], [0.7, 0.6]])
    assert library.header[METADATA]["quality"] == ["good", "fair"]
    assert read_asu(path, Reading(keys={"class": "quality"})).classes == ("good", "fair")
    write(tmp_path / "lib_meta.csv", "sample_name,category\nQuartz,silicate\n")
    refused(read_asu, path, PLAIN, "1 rows of metadata", "2 spectra")


def relab_asc(path, nm, values, deviation=None, count=None):
    """The layout ``.asc`` of the readme."""
    rows = np.column_stack([nm, values] + ([] if deviation is None else [deviation]))
    text = f"{len(rows) if count is None else count}\n" + "".join(
        " ".join(f"{v:10.5f}" for v in row) + "\n" for row in rows
    )
    return write(path, text + "\n\n\nC1LS12\n\nLS-CMP-012\nHematite powder\nSource Angle: 30, Detect Angle: 0\n")


NM, RELAB = np.array([300.0, 305.0, 310.0]), np.array([0.05, 0.06, 0.07])


@pytest.mark.parametrize("deviation", [None, RELAB / 100])
def test_relab_asc_agrees_with_spy(tmp_path, deviation):
    path = relab_asc(tmp_path / "c1ls12.asc", NM, RELAB, deviation)
    library, spy = read_relab(path, PLAIN), read_relab_file(str(path))
    np.testing.assert_array_equal(library.axis.centers, spy.x)
    np.testing.assert_array_equal(library.spectra[0], spy.y)
    assert library.header[METADATA]["sample"] == [spy.sample["relab_id"]] == ["LS-CMP-012"]
    assert (library.quantity, library.account.unknown, library.names) == ("reflectance", (), ("LS-CMP-012",))
    if deviation is not None:
        np.testing.assert_allclose(library.header[METADATA]["standard deviation"][0], deviation, atol=1e-5)


def test_relab_text_is_the_same_spectrum_in_micrometres(tmp_path):
    rows = "".join(f"{w / 1000}\t{v}\n" for w, v in zip(NM, RELAB, strict=True))
    path = write(tmp_path / "c1ls12.txt", f"LS-CMP-012\tC1LS12\nWavelength\tReflectance\n{rows}")
    assert recognise(path) is read_relab
    library = read_relab(path, PLAIN)
    np.testing.assert_allclose(library.axis.centers, NM)
    np.testing.assert_array_equal(library.spectra[0], RELAB)
    assert library.names == ("LS-CMP-012",)


def test_relab_tab_needs_its_unit(tmp_path):
    path = write(tmp_path / "c1ls12.tab", "".join(f"{w}   {v}\n" for w, v in zip(NM, RELAB, strict=True)))
    assert recognise(path) is read_relab
    np.testing.assert_array_equal(read_relab(path, told(unit="nm")).axis.centers, NM)
    with pytest.warns(UserWarning, match="nm is assumed"):
        read_relab(path, PLAIN)


@pytest.mark.parametrize("columns", [2, 3])
def test_tab_files_of_others_are_not_relab(tmp_path, columns):
    """A third column is a spectrum, not a standard deviation, unless something says that the file is RELAB's."""
    rows = np.column_stack([NM, RELAB, RELAB[::-1]])[:, :columns]
    text = "".join("\t".join(map(str, row)) + "\n" for row in rows)
    path = write(tmp_path / "leaf01.tab", text)
    assert recognise(path) is None
    library = read_library(path, unit="nm")
    assert library.quantity == "value"
    np.testing.assert_array_equal(library.axis.centers, NM)
    np.testing.assert_array_equal(library.spectra, rows[:, 1:].T)
    for name in ("c1ls12.tab", "BKR1MP021.TAB"):
        assert recognise(write(tmp_path / name, text)) is read_relab
    assert recognise(write(tmp_path / "a.tab", f"{len(rows)}\n{text}")) is read_relab
    write(tmp_path / "Spectra_Catalogue.txt", "SpectrumID\tSampleID\tSpecCode\n")
    assert recognise(path) is read_relab


def test_relab_catalogue_names_samples(tmp_path):
    path = relab_asc(tmp_path / "data" / "cmp" / "ls" / "c1ls12.asc", NM, RELAB)
    write(
        tmp_path / "catalogues" / "Spectra_Catalogue.txt",
        "SpectrumID\tSampleID\tSpecCode\nC1LS12 \tLS-CMP-012\tBD-VNIR\n",
    )
    titles = "SampleID\tSampleName\tGeneralType1\tType1\n"
    write(
        tmp_path / "catalogues" / "Sample_Catalogue.txt",
        f"{titles}LS-CMP-012\tH\xe9matite\tMineral\tOxide\n",
        "latin-1",
    )
    library = read_relab(path, PLAIN)
    assert (library.names, library.classes) == (("H\xe9matite",), ("Mineral",))
    assert read_relab(path, Reading(keys={"class": "Type1"})).classes == ("Oxide",)
    assert library.account.unknown == ()


def test_relab_refusals(tmp_path):
    refused(read_relab, relab_asc(tmp_path / "a.asc", NM, RELAB, count=40), PLAIN, "cut off", "40")
    refused(read_relab, relab_asc(tmp_path / "b.asc", NM, RELAB, count=5), PLAIN, "says 5 data lines, there are 3")
    text = relab_asc(tmp_path / "c.asc", NM, RELAB).read_text().replace("305.00000", "305.0000x")
    refused(read_relab, write(tmp_path / "c.asc", text), PLAIN, "line 3", "305.0000x")


# ASD ------------------------------------------------------------------------------------------------------------------

TARGET, WHITE = np.array([120.0, 300.0, 0.0, 900.0]), np.array([400.0, 600.0, 500.0, 0.0])
KINDS = {"raw": 0, "reflectance": 1, "radiance": 2, "transmittance": 6, "absorbance": 8}
FORMS = {"f": 0, "i": 1, "d": 2}


def asd(path, *, version="as7", kind="reflectance", form="d", target=TARGET, white=WHITE, flag=True, dark=1,
        saturated=0, first=350.0, step=1.0, after=b"", channels=None):  # fmt: skip
    """A file by the table of the document: byte, form, value."""
    head = bytearray(484)
    head[0:3] = version.encode()
    head[3 : 3 + 9] = b"dry leaf\0"
    struct.pack_into("<9h", head, 160, 7, 15, 14, 27, 1, 123, 0, 0, 0)  # 2023-02-27 14:15:07
    for at, what, value in (
        (178, "B", 0x60), (179, "B", 0x70), (181, "B", dark), (186, "B", KINDS[kind]), (191, "f", first),
        (195, "f", step), (199, "B", FORMS[form]), (204, "H", len(target) if channels is None else channels),
        (350, "d", 4730.5), (390, "I", 136), (394, "h", 25), (400, "H", 18820), (422, "B", saturated),
        (429, "H", 10), (431, "B", 4), (436, "H", 2048), (444, "f", 1000.0), (448, "f", 1830.0),
    ):  # fmt: skip
        struct.pack_into(f"<{what}", head, at, value)
    data = bytes(head) + struct.pack(f"<{len(target)}{form}", *(int(v) if form == "i" else v for v in target))
    if version != "ASD":
        text = b"plot 3"
        data += struct.pack("<hddH", -1 if flag else 0, 44984.5, 44984.59, len(text)) + text
        data += struct.pack(f"<{len(white)}{form}", *(int(v) if form == "i" else v for v in white))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data + after)
    return path


RATIO = np.array([0.3, 0.5, 0.0, np.nan])  # written out: 120/400, 300/600, 0/500, no reference


@pytest.mark.parametrize("version", ["as2", "as6", "as7", "as8"])
@pytest.mark.parametrize("form", FORMS)
def test_asd_reflectance_is_target_over_reference(tmp_path, version, form):
    path = asd(tmp_path / "leaf.000", version=version, form=form, after=b"audit log")
    assert recognise(path) is read_asd
    library = read_asd(path, PLAIN)
    np.testing.assert_allclose(library.spectra[0], RATIO, rtol=1e-7)
    np.testing.assert_array_equal(library.axis.centers, [350, 351, 352, 353])
    assert (library.names, library.quantity, library.axis.unit) == (("leaf.000",), "reflectance", "nm")
    held = library.header[METADATA]
    assert (held["comments"], held["saved"]) == (["dry leaf"], ["2023-02-27T14:15:07"])
    assert (held["spectrum description"], held["reference time"]) == (["plot 3"], ["2023-02-27T12:00:00"])
    assert (held["integration time in ms"], held["instrument number"]) == ([136], [18820])
    assert library.account.unknown == ("bytes after the spectra",)
    assert {"reference taken", "kind of spectrum", "channels", "data format"} <= set(library.account.used)
    assert library.notes == ()


@pytest.mark.parametrize(
    ("said", "made", "values", "quantity", "note"),
    [
        ({}, {"kind": "raw"}, RATIO, "reflectance", "same settings"),
        ({}, {"kind": "raw", "flag": False}, TARGET, "raw counts", None),
        ({}, {"kind": "raw", "white": WHITE * 0}, TARGET, "raw counts", None),
        ({"spectrum": "raw"}, {}, TARGET, "raw counts", None),
        ({"spectrum": "reference"}, {}, WHITE, "raw counts", None),
        ({"spectrum": "reflectance"}, {"kind": "radiance"}, RATIO, "reflectance", None),
        ({}, {"kind": "radiance"}, TARGET, "value", "raw counts"),
        ({}, {"kind": "transmittance"}, RATIO, "transmittance", None),
        ({}, {"kind": "absorbance"}, TARGET, "absorbance", None),
        ({}, {"target": RATIO[:3], "white": WHITE[:3], "flag": False}, RATIO[:3], "reflectance", None),
        ({}, {"dark": 0}, RATIO, "reflectance", "dark current"),
        ({}, {"saturated": 5}, RATIO, "reflectance", "VNIR, SWIR2"),
        ({}, {"version": "ASD", "kind": "raw", "form": "f"}, TARGET, "raw counts", None),
    ],
)
def test_asd_kinds(tmp_path, said, made, values, quantity, note):
    library = read_asd(asd(tmp_path / "a.asd", **made), told(**said))
    np.testing.assert_allclose(library.spectra[0], values, rtol=1e-7)
    assert library.quantity == quantity
    assert [note in text for text in library.notes] == ([True] if note else [])


def test_asd_refusals(tmp_path):
    path = asd(tmp_path / "a.asd")
    whole = path.read_bytes()
    for size, word in ((300, "not an ASD file"), (500, "cut off: the spectrum"), (520, "header of the reference"),
                       (len(whole) - 3, "cut off: the reference")):  # fmt: skip
        cut = tmp_path / f"cut{size}.asd"
        cut.write_bytes(whole[:size])
        refused(read_asd, cut, PLAIN, word)
    refused(read_asd, asd(tmp_path / "b.asd", flag=False), PLAIN, "needs the reference", "spectrum=raw")
    refused(read_asd, asd(tmp_path / "c.asd", flag=False), told(spectrum="reference"), "no reference")
    refused(read_asd, path, told(spectrum="white"), "white", "reflectance, raw, reference")
    refused(read_asd, asd(tmp_path / "d.asd", step=0.0), PLAIN, "steps of 0 nm")
    refused(read_asd, asd(tmp_path / "e.asd", channels=60000), PLAIN, "480000 bytes")  # before they are allocated


# Field spectrometers --------------------------------------------------------------------------------------------------


def sed(path, titles, rows, channels=None, **other):
    """A file in the layout that DARWin writes."""
    entries = {
        "Comment": "", "Version": "2.2", "File Name": "\\Storage\\x.sed", "Instrument": "PSR+3500_SN1566060 [3]",
        "Detectors": "512,256,256", "Measurement": "REFLECTANCE", "Date": "10/03/2012,10/03/2012",
        "Time": "12:00:33,12:05:44", "Averages": "10,10", "Integration": "50,50,30,100,50,30",
        "Radiometric Calibration": "DN", "Units": "None", "Wavelength Range": "350,2500", "Latitude": "n/a",
        "GPS Time": "n/a", "Calibrated Reference Correction File": "none",
        "Channels": f"{len(rows) if channels is None else channels}", f"Columns [{len(titles)}]": "", **other,
    }  # fmt: skip
    text = "\r\n".join([f"{k}: {v}".rstrip() for k, v in entries.items()] + ["Data:", "\t".join(titles)])
    return write(path, text + "\r\n" + "".join("\t".join(f" {v}" for v in row) + "\r\n" for row in rows))


SED = ((350.0, 2.28, 0.54, 23.31), (351.0, 2.31, 0.55, 23.17), (352.0, 2.35, 0.55, "nan"))


@pytest.mark.parametrize(("last", "factor"), [("Reflect. %", 0.01), ("Tgt./Ref. %", 0.01), ("Reflect. [1.0]", 1.0)])
def test_sed_reflectance(tmp_path, last, factor):
    path = sed(tmp_path / "x.sed", ["Wvl", "Norm. DN (Ref.)", "Norm. DN (Target)", last], SED)
    assert recognise(path) is read_sed
    library = read_sed(path, PLAIN)
    np.testing.assert_array_equal(library.axis.centers, [350, 351, 352])
    np.testing.assert_allclose(library.spectra[0], np.array([23.31, 23.17, np.nan]) * factor)
    assert (library.names, library.quantity, library.account.unknown) == (("x",), "reflectance", ())
    assert library.header[METADATA]["Norm. DN (Ref.)"] == [[2.28, 2.31, 2.35]]
    assert library.header[METADATA]["Instrument"] == ["PSR+3500_SN1566060 [3]"]
    np.testing.assert_array_equal(read_sed(path, told(scale=1.0)).spectra[0, :2], [23.31, 23.17])


@pytest.mark.parametrize(
    ("title", "quantity"),
    [("Rad. (Target)", "radiance"), ("Irr. (Target)", "irradiance"), ("Raw Counts (Target)", "raw counts")],
)
def test_sed_without_reflectance_gives_the_target(tmp_path, title, quantity):
    path = sed(
        tmp_path / "x.sed", ["Chan.#", "Wvl", "Rad. (Ref.)", title], [(1, 350, 5, 6), (2, 351, 7, 8)], **{"Extra": "1"}
    )
    library = read_sed(path, PLAIN)
    np.testing.assert_array_equal(library.spectra, [[6, 8]])
    assert (library.quantity, library.account.unknown) == (quantity, ("Extra",))
    np.testing.assert_array_equal(read_sed(path, told(column="rad. (ref.)")).spectra, [[5, 7]])


def test_sed_markup_is_no_entry(tmp_path):
    path = sed(tmp_path / "x.sed", ["Wvl", "Reflect. %"], [(350, 10), (351, 11)])
    text = path.read_text().replace("Data:", "<Metadata>\nSatellites: n/a\n</Metadata>\nData:")
    library = read_sed(write(path, text), PLAIN)
    assert library.account.unknown == ()
    assert not any("<" in str(held) for held in library.header[METADATA].values())


def test_sed_with_decimal_commas(tmp_path):
    path = sed(tmp_path / "x.sed", ["Wvl", "Reflect. %"], [("350,5", "10,5"), ("351,5", "11,25")])
    library = read_sed(path, PLAIN)
    np.testing.assert_allclose((library.axis.centers, library.spectra[0]), ([350.5, 351.5], [0.105, 0.1125]))


def test_sed_refusals(tmp_path):
    titles = ["Wvl", "Norm. DN (Ref.)", "Norm. DN (Target)", "Reflect. %"]
    refused(read_sed, sed(tmp_path / "a.sed", titles, SED, channels=2151), PLAIN, "cut off", "2151 channels, 3")
    refused(read_sed, sed(tmp_path / "b.sed", titles[:3], SED), PLAIN, "4 numbers for the 3 titles")
    refused(read_sed, sed(tmp_path / "c.sed", titles, SED), told(column="Rad."), "Rad.", "Reflect. %")
    refused(read_sed, sed(tmp_path / "d.sed", ["Wvl", "Rad. (Ref.)"], [(350, 1), (351, 2)]), PLAIN, "--key column")
    bad = write(tmp_path / "e.sed", sed(tmp_path / "e.sed", titles, SED).read_text().replace("23.17", "2x"))
    refused(read_sed, bad, PLAIN, "line 22", "2x")


SVC = """/*** Spectra Vista SIG Data ***/
name= D5_ACSA_B5_P2_B_1_001.sig
instrument= HI: 1152050 (HR-1024i)
integration= 70.0, 9.0, 7.0, 150.0, 20.0, 7.0
units= Radiance, Counts
time= 8/6/2015 10:36:17 AM, 8/6/2015 10:38:35 AM
comm={blank}
memory slot= 0, 0
factors= 1.132, 1.185, 1.000 [Overlap: Preserve, Matching Type: None]
{extra}data={blank}
{rows}"""
SIG = np.array(
    [[980.0, 1000, 250, 25], [1005, 1000, 500, 50], [1010, 800, 80, 10], [1000, 1000, 100, 10], [1015, 10, 4, 40]]
)


def sig(path, table=SIG, extra=""):
    rows = "".join("  ".join(f"{v:.2f}" for v in row) + "\n" for row in table)
    return write(path, SVC.format(extra=extra, rows=rows, blank=" "))


@pytest.mark.parametrize("factor", [1.0, 0.01])
def test_sig_per_cent_and_overlap(tmp_path, factor):
    table = SIG * [1, 1, 1, factor]
    path = sig(tmp_path / "x.sig", table, "strange key= 1\n")
    assert recognise(path) is read_sig
    library = read_sig(path, PLAIN)
    np.testing.assert_array_equal(library.axis.centers, SIG[:, 0])
    np.testing.assert_allclose(library.spectra[0], SIG[:, 3] / 100)
    assert (library.names, library.quantity, library.account.unknown) == (("x",), "reflectance", ("strange key",))
    assert any("overlap" in note for note in library.notes)


@pytest.mark.parametrize(("name", "at", "quantity"), [("reference", 1, "radiance"), ("target", 2, "raw counts")])
def test_sig_columns(tmp_path, name, at, quantity):
    library = read_sig(sig(tmp_path / "x.sig"), told(column=name))
    np.testing.assert_array_equal(library.spectra[0], SIG[:, at])
    assert library.quantity == quantity


def test_ger_signatures(tmp_path):
    head = "///GER SIGNATUR FILE///\nname= x\ninstrument= 2600: 12\ntime= 01.02.2003 10:11:12\n"
    four = write(tmp_path / "four.sig", head + "data=\n" + "350.1 100 20 20.0\n351.2 100 30 30.0\n")
    np.testing.assert_allclose(read_sig(four, PLAIN).spectra, [[0.2, 0.3]])
    three = write(tmp_path / "three.sig", head + "350.1 100 20\n351.2 100 30\n")
    refused(read_sig, three, PLAIN, "three columns", "column=2/3")
    np.testing.assert_allclose(read_sig(three, told(column="3/2")).spectra, [[0.2, 0.3]])
    np.testing.assert_allclose(read_sig(three, told(column="2/3")).spectra, [[5, 10 / 3]])
    assert read_sig(three, told(column="3/2")).axis.centers.tolist() == [350.1, 351.2]


def test_sig_refusals(tmp_path):
    refused(read_sig, write(tmp_path / "a.sig", "name= x\ndata=\n1 2 3 4\n"), PLAIN, "line 1")
    refused(read_sig, write(tmp_path / "b.sig", SVC.format(extra="", rows="", blank=" ")), PLAIN, "no line of numbers")
    refused(
        read_sig, write(tmp_path / "c.sig", SVC.format(extra="", rows="1 2 3 4\n1 2 3\n", blank="")), PLAIN, "line 12"
    )
    refused(read_sig, sig(tmp_path / "d.sig"), told(column="ratio"), "ratio", "target")


# Folders --------------------------------------------------------------------------------------------------------------


def test_folder_of_single_spectra(tmp_path):
    for i in (10, 9, 1):
        asd(tmp_path / f"leaf{i}.asd", target=TARGET + i)
    asd(tmp_path / ".hidden.asd")
    (tmp_path / "linked.asd").symlink_to(tmp_path / "leaf1.asd")
    write(tmp_path / "sub" / "x.asd", "")
    write(tmp_path / "readme.md", "a folder of leaves")
    assert recognise(tmp_path) is read_folder
    library = read_folder(tmp_path, PLAIN)
    assert library.names == ("leaf1", "leaf9", "leaf10")
    np.testing.assert_allclose(library.spectra[:, 0], [121 / 400, 129 / 400, 130 / 400])
    assert library.header[METADATA]["file"] == ["leaf1.asd", "leaf9.asd", "leaf10.asd"]
    assert set(library.account.unknown) == {"sub/", "readme.md"}
    assert read_folder(tmp_path, told(files="leaf1*")).names == ("leaf1", "leaf10")
    assert read_folder(tmp_path, told(spectrum="reference")).quantity == "raw counts"
    by_comment = read_folder(tmp_path, Reading(keys={"class": "comments"}))
    assert by_comment.classes == ("dry leaf",) * 3
    refused(read_folder, tmp_path, Reading(keys={"class": "species"}), "species", "leaf1.asd", "comments")


def test_folder_of_different_axes_names_two_files(tmp_path):
    for i, first in enumerate((350.0, 350.0, 400.0)):
        asd(tmp_path / f"s{i}.asd", first=first)
    refused(read_folder, tmp_path, PLAIN, "2 different axes", "s0.asd", "s2.asd", "400 to 403 nm", "--key files=")
    asd(tmp_path / "s2.asd", first=350.0001)  # printed digits differ by more
    assert len(read_folder(tmp_path, PLAIN)) == 3


def test_folder_of_different_quantities(tmp_path):
    asd(tmp_path / "a.asd")
    asd(tmp_path / "b.asd", kind="transmittance")
    refused(read_folder, tmp_path, PLAIN, "reflectance (a.asd)", "transmittance (b.asd)")


def test_folder_of_two_formats_needs_a_choice(tmp_path):
    for i in range(2):
        asd(tmp_path / f"s{i}.asd")
    sig(tmp_path / "s0.sig")
    refused(read_folder, tmp_path, PLAIN, "asd (2)", "sig (1)", "--key files=")
    assert len(read_folder(tmp_path, told(format="asd"))) == 2
    assert read_folder(tmp_path, told(format="sig")).account.unknown == ("s0.asd", "s1.asd")
    assert read_folder(tmp_path, told(files="*.sig")).names == ("s0",)


def test_folder_without_spectra(tmp_path):
    refused(read_folder, tmp_path, PLAIN, "no single spectra")
    write(tmp_path / "leaves.csv", ECOSIS)
    refused(read_folder, tmp_path, PLAIN, "leaves.csv", "name the file")


def test_folder_of_ecostress_tells_samples_apart(tmp_path):
    for sample in ("JPL058", "JPL059"):
        ecostress(tmp_path / f"vegetation.{sample}.spectrum.txt", X, Y, **{"Sample No.": sample})
        write(tmp_path / f"vegetation.{sample}.ancillary.txt", "Name: Aloe\nType: vegetation\nClass: Tree\n")
    library = read_folder(tmp_path, PLAIN)
    assert library.names == ("Aloe bainesii [JPL058]", "Aloe bainesii [JPL059]")
    assert library.account.unknown == ("vegetation.JPL058.ancillary.txt", "vegetation.JPL059.ancillary.txt")


# Which format a file has ----------------------------------------------------------------------------------------------


def one_of_each(folder):
    """One file of each format, by the name of the format."""
    root = splib07a(folder / "usgs")
    return {
        "asd": asd(folder / "a.asd"),
        "splib07": usgs(root, MINERALS, "Kaolinite", "ASDFRa", SPECTRUM),
        "ecostress": ecostress(folder / "a.spectrum.txt", X, Y),
        "sig": sig(folder / "a.sig"),
        "sed": sed(folder / "a.sed", ["Wvl", "Rad. (Ref.)", "Rad. (Target)", "Reflect. %"], SED),
        "specchio": write(folder / "specchio.csv", SPECCHIO_ROWS),
        "ecosis": write(folder / "ecosis.csv", ECOSIS),
        "relab": relab_asc(folder / "a.asc", NM, RELAB),
        "asu": write(folder / "asu.txt", "# ASU\n# Wavenumber Emissivity\n400 0.9\n300 0.8\n"),
    }


def test_every_format_is_recognised_as_itself(tmp_path):
    made = one_of_each(tmp_path)
    assert set(made) == {form.name for form in FORMATS}
    for form in FORMATS:
        assert recognise(made[form.name]) is form.read
        assert len(recognise(made[form.name], form.name)(made[form.name], told(format=form.name))) >= 1


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("empty.txt", b""),
        ("a.csv", b"name,class,400,500,600\na,b,1,2,3\n"),
        ("a.csv", b"wavelength_nm,a,b\n400,0.1,0.2\n500,0.1,0.2\n"),
        ("a.txt", b"400 0.1 0.2\n500 0.1 0.2\n"),
        ("a.hdr", b"ENVI\nsamples = 3\n"),
        ("a.sli", bytes(range(256)) * 20),
        ("a.asd", b"ASD is a company"),
        ("a.asc", b"ncols 10\nnrows 4\n"),
        ("a.txt", b"Name: x\nsomething else\n"),
    ],
)
def test_other_files_are_left_to_others(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data)
    assert recognise(path) is None


def test_unknown_format(tmp_path):
    with pytest.raises(ValueError, match="format 'esl' is not one of asd, splib07"):
        recognise(asd(tmp_path / "a.asd"), "esl")


@pytest.mark.parametrize("name", [form.name for form in FORMATS])
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path, name):
    """Cut, flipped, swapped and grown files: a library, or a ValueError or OSError of one line that names the file."""
    path = one_of_each(tmp_path)[name]
    whole, rng = path.read_bytes(), np.random.default_rng(len(name))
    form = next(form for form in FORMATS if form.name == name)
    for turn in range(80):
        data = bytearray(whole)
        kind = turn % 4
        if kind == 0:
            data = data[: int(rng.integers(len(data)))]
        elif kind == 1:
            for at in rng.integers(len(data), size=3):
                data[at] = int(rng.integers(256))
        elif kind == 2:
            a, b = sorted(int(v) for v in rng.integers(len(data), size=2))
            data = data[:a] + data[b:] + data[a:b]
        else:
            at = int(rng.integers(len(data)))
            data = data[:at] + bytes(rng.choice(list(b"0123456789,;:.-e\n\t \"'=()"), 40).tolist()) + data[at:]
        path.write_bytes(bytes(data))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            said = outcome(form.read, path)
        assert said is None or ("\n" not in said and path.stem.split(".")[0] in said), said


@pytest.mark.parametrize("name", ["ecostress", "sed", "sig", "ecosis", "specchio", "relab", "asu", "splib07"])
def test_long_lines_take_linear_time(tmp_path, name):
    """A pattern that backtracks, or text that is joined again and again, would take minutes here."""
    path = one_of_each(tmp_path)[name]
    form = next(form for form in FORMATS if form.name == name)
    for filler in ("(" * 300_000, " " * 300_000, "a: " * 100_000, ("x" * 20 + "\n") * 20_000):
        path.write_text(path.read_text(encoding="latin-1")[:300] + filler, encoding="latin-1")
        assert len(outcome(form.read, path) or "") < 1000


# Classes beside an ENVI library ---------------------------------------------------------------------------------------

NAMES = ("soil, dry", "Tree 1", "Tree 2")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("title", ["spectra names", "NAME", "Name"])
@pytest.mark.parametrize("suffix", [".sli", ".hdr"])
def test_table_beside_a_library(tmp_path, separator, title, suffix):
    rows = [[title, "LEVEL_1", "LEVEL_2", "LAT"], ["Tree 2", "plant", "oak", "1"], ["soil- dry", "soil", "sand", "2"],
            ["tree 1", "plant", "ash", ""]]  # fmt: skip
    table = write(tmp_path / "lib.csv", "\n".join(separator.join(row) for row in rows) + "\n")
    assert table_beside(tmp_path / f"lib{suffix}") == table
    read = read_spectra_table(table, NAMES, PLAIN)
    assert read.classes == ("soil", "plant", "plant")
    assert read.metadata["LAT"] == ["2", "", "1"]
    assert (set(read.account.used), read.account.carried) == ({title, "LEVEL_1"}, ("LEVEL_2", "LAT"))
    assert read_spectra_table(table, NAMES, Reading(keys={"class": "level_2"})).classes == ("sand", "ash", "oak")


@pytest.mark.parametrize("title", ["CLASS_1", "Class 1", "class1"])
def test_vipers_first_class(tmp_path, title):
    table = write(tmp_path / "lib.csv", f"name,{title},class_2\na,x,p\nb,y,q\n")
    assert read_spectra_table(table, ("a", "b"), PLAIN).classes == ("x", "y")


def test_table_with_more_rows_or_none_to_spare(tmp_path):
    table = write(tmp_path / "lib.csv", "name,class\na,x\nb,y\nc,z\n")
    assert any("1 rows" in note for note in read_spectra_table(table, ("b", "a"), PLAIN).notes)
    assert read_spectra_table(table, ("b", "a"), PLAIN).classes == ("y", "x")
    unnamed = read_spectra_table(table, ("spectrum 1", "spectrum 2", "spectrum 3"), PLAIN, named=False)
    assert unnamed.classes == ("x", "y", "z")
    bare = write(tmp_path / "bare.csv", "class,site\nx,1\ny,2\n")
    assert read_spectra_table(bare, ("a", "b"), PLAIN).classes == ("x", "y")


def test_one_name_twice_in_library_and_table(tmp_path):
    table = write(tmp_path / "lib.csv", "name,class\na,x\na,y\nb,z\n")
    assert read_spectra_table(table, ("a", "b", "a"), PLAIN).classes == ("x", "z", "y")
    with pytest.raises(ValueError, match="2 rows that differ for 'a', of which the library has 1"):
        read_spectra_table(table, ("a", "b"), PLAIN)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("name,class\na,x\n", "no row for 1 of 2 spectra, such as b"),
        ("name,class\nc,x\nd,y\n", "no row for 2 of 2"),
        ("class\nx\n", "1 rows for 2 spectra, and no column of names"),
        ("name,class\na,x,1\nb,y\n", "row 2: 3 cells"),
        ("name,Name,class\na,a,x\nb,b,y\n", "'name' stands above two columns"),
    ],
)
def test_tables_that_do_not_fit_are_refused(tmp_path, text, match):
    with pytest.raises(ValueError, match=match):
        read_spectra_table(write(tmp_path / "lib.csv", text), ("a", "b"), PLAIN)


def test_other_tables_beside_a_library_are_not_taken(tmp_path):
    for text in ("name,class,400,500,600,700\na,x,1,2,3,4\n", "wavelength,a,b\n400,1,2\n500,1,2\n", "name\n"):
        assert read_spectra_table(write(tmp_path / "lib.csv", text), ("a", "b"), PLAIN) is None
    (tmp_path / "lib.csv").rename(tmp_path / "real.csv")
    assert table_beside(tmp_path / "lib.sli") is None
    (tmp_path / "lib.csv").symlink_to(tmp_path / "real.csv")
    assert table_beside(tmp_path / "lib.sli") is None
    table = write(tmp_path / "t.csv", "name,class\na,x\nb,y\n")
    with pytest.raises(ValueError, match="no column 'Level_9'"):
        read_spectra_table(table, ("a", "b"), Reading(keys={"class": "Level_9"}))


def test_classes_in_an_envi_header():
    fields = {"samples": "3", "Spectra Class": ["x ", "y"], "sites": ["1", "2"], "type": ["only one"]}
    assert classes_in_header(fields, 2, PLAIN, Path("a.hdr")) == ("Spectra Class", ("x", "y"))
    assert classes_in_header(fields, 2, Reading(keys={"class": "sites"}), Path("a.hdr")) == ("sites", ("1", "2"))
    assert classes_in_header({"samples": "3"}, 2, PLAIN, Path("a.hdr")) is None
    with pytest.raises(ValueError, match=r"a\.hdr: type lists 1 classes for 2 spectra"):
        classes_in_header(fields, 2, Reading(keys={"class": "type"}), Path("a.hdr"))


def test_classes_of_header_and_table(tmp_path):
    data, header = tmp_path / "lib.sli", tmp_path / "lib.hdr"
    fields, names = {"class": ["x", "y"], "site": ["1", "2"]}, ("a", "b")
    assert classes_of({}, data, header, names, PLAIN) == ((), None, {}, ((), (), ()), ())
    assert classes_of(fields, data, header, names, PLAIN)[:2] == (("x", "y"), "class")
    write(tmp_path / "lib.csv", "name,class,level\nb,y,2\na,x,1\n")
    both = classes_of(fields, data, header, names, PLAIN)
    assert both[:3] == (("x", "y"), "class", {"name": ["a", "b"], "class": ["x", "y"], "level": ["1", "2"]})
    assert both.account == (("lib.csv: name", "lib.csv: class"), ("lib.csv: level",), ())
    assert classes_of({}, data, header, names, PLAIN)[:2] == (("x", "y"), None)
    assert classes_of(fields, data, header, names, Reading(keys={"class": "site"}))[:2] == (("1", "2"), "site")
    assert classes_of(fields, data, header, names, Reading(keys={"class": "level"}))[:2] == (("1", "2"), None)
    with pytest.raises(ValueError, match="no column 'biome'"):
        classes_of(fields, data, header, names, Reading(keys={"class": "biome"}))
    with pytest.raises(ValueError, match=r"lib\.hdr and lib\.csv give different classes; choose with --key class="):
        classes_of({"class": ["y", "x"]}, data, header, names, PLAIN)
    write(tmp_path / "lib.csv", "wavelength,a,b\n400,1,2\n")
    assert classes_of(fields, data, header, names, PLAIN).account.unknown == ("lib.csv (beside the library)",)


# Small parts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "NaN", " NA ", "-", "#NV", "1.#QNAN", "-1.#IND00", "inf", "-1.23e34", "1e400"])
def test_ways_to_write_no_value(text):
    assert np.isnan(number(text))


@pytest.mark.parametrize(("text", "value"), [("1,5", 1.5), (" -2e-3 ", -0.002), ("1.0", 1.0)])
def test_numbers(text, value):
    assert number(text) == value


@pytest.mark.parametrize("text", ["1_000", "1,000.5", "0x10", "1 2", "a", "1,2,3"])
def test_what_is_no_number(text):
    with pytest.raises(ValueError, match="is not a number"):
        number(text)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_lines_in_any_encoding(tmp_path, encoding, ends):
    path = write(tmp_path / "a.txt", ends.join(["\xb5m \x85 dots", "two"]), encoding)
    assert lines_of(path) == ["\xb5m \x85 dots", "two"]


@pytest.mark.parametrize("data", [b"a\0b", b"\xff\xfea"])
def test_binary_is_not_text(tmp_path, data):
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.txt"):
        lines_of(path)


def test_a_text_file_of_many_gigabytes_is_not_read(tmp_path):
    path = tmp_path / "a.txt"
    with path.open("wb") as file:
        os.truncate(file.fileno(), 2**40)  # a hole: it takes no room
    with pytest.raises(ValueError, match="too many for a text file"):
        lines_of(path)


def test_names():
    assert sorted(["s10", "s9", "s1"], key=natural) == ["s1", "s9", "s10"]
    assert distinct(["a", "a", "b", "a"], ["x", "y", "z", "y"]) == ("a [x]", "a [y] (1)", "b", "a [y] (2)")
