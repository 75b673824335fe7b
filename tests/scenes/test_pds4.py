"""PDS4 products, as GDAL writes them and in layouts that it does not write."""

import numpy as np
import pytest
import rasterio
from planetary_files import BANDS, COLUMNS, PDS4_HEAD, ROWS, by_gdal, cube_of, pds4, stored
from rasterio.warp import transform

from unmix_jax.scenes.readers.planetary.pds4 import TYPES, is_pds4, read_pds4
from unmix_jax.scenes.reading import Reading, finish

TARGET = {"VAR_TARGET": "Mars", "VAR_TARGET_TYPE": "Planet"}


def read(path, **told):
    """A scene as `read_scene` opens it."""
    told = Reading(**told)
    return finish(read_pds4(path, told), told)


@pytest.mark.parametrize("order", ["bsq", "bil", "bip"])
def test_every_type_and_order_of_axes(tmp_path, order):
    for name, dtype in TYPES.items():
        cube = cube_of(dtype)
        path = pds4(tmp_path / "a.xml", cube, order=order, data_type=name, offset=13)
        scene = read(path)
        np.testing.assert_array_equal(np.asarray(scene.cube), cube.astype("f8"))
        assert scene.cube.shape == (ROWS, COLUMNS, BANDS)
    assert not scene.account.unknown
    account = [*scene.account.used, *scene.account.carried]
    assert set(scene.header) == set(account)
    np.testing.assert_array_equal(np.asarray(read(tmp_path / "a.img").cube), cube)  # named by its data file


@pytest.mark.parametrize("interleave", ["BSQ", "BIL", "BIP"])
@pytest.mark.parametrize("kind", ["float32", "int16", "uint8", "float64"])
def test_products_that_gdal_wrote(tmp_path, interleave, kind):
    cube = (cube_of("f4") + 1).astype(kind)
    crs = rasterio.crs.CRS.from_string("+proj=eqc +lat_ts=0 +lon_0=180 +R=3396190 +units=m +no_defs")
    grid = rasterio.Affine(18.5, 0, -1234.5, 0, -18.5, 6789.25)
    path = by_gdal(tmp_path / "a.xml", cube, "PDS4", crs=crs, transform=grid, nodata=7, INTERLEAVE=interleave, **TARGET)
    scene = read(path)
    values = cube.astype("f8")
    np.testing.assert_array_equal(np.asarray(scene.cube), np.where(values == 7, np.nan, values))
    assert scene.stated_nodata == 7
    np.testing.assert_allclose(scene.header["transform"], tuple(grid)[:6], rtol=1e-9)
    ours = rasterio.crs.CRS.from_wkt(scene.header["crs"])
    here, there = (transform("+proj=longlat +R=3396190", target, [20.0, 30.0], [10.0, 25.0]) for target in (ours, crs))
    np.testing.assert_allclose(here, there, atol=0.5)


@pytest.mark.parametrize(
    "proj",
    [
        "+proj=eqc +lat_ts=30 +lon_0=20 +R=3391188", "+proj=sinu +lon_0=10 +R=3396190",
        "+proj=stere +lat_0=90 +lon_0=15 +k=1 +a=3396190 +b=3376200",
        "+proj=tmerc +lat_0=0 +lon_0=33 +k=0.9996 +a=3396190 +b=3376200",
        "+proj=lcc +lat_1=10 +lat_2=40 +lat_0=25 +lon_0=30 +a=3396190 +b=3376200",
        "+proj=laea +lat_0=60 +lon_0=30 +R=1737400", "+proj=ortho +lat_0=20 +lon_0=40 +R=1737400",
    ],
)  # fmt: skip
def test_places_that_gdal_wrote(tmp_path, proj):
    crs = rasterio.crs.CRS.from_string(f"{proj} +units=m +no_defs")
    grid = rasterio.Affine(18.5, 0, -1234.5, 0, -18.5, 6789.25)
    kind = {"LATITUDE_TYPE": "Planetographic"} if "+b=" in proj else {}  # as those of a coordinate system are
    path = by_gdal(tmp_path / "a.xml", cube_of("f4"), "PDS4", crs=crs, transform=grid, **TARGET, **kind)
    header = read(path).header
    ours = rasterio.crs.CRS.from_wkt(header["crs"])
    points = [20.0, 30.0], ([70.0, 80.0] if "stere" in proj else [10.0, 25.0])
    shape = " ".join(word for word in proj.split() if word.startswith(("+R", "+a", "+b")))
    here, there = (transform(f"+proj=longlat {shape} +no_defs", target, *points) for target in (ours, crs))
    np.testing.assert_allclose(here, there, rtol=1e-6, atol=0.5)


def test_scale_offset_and_special_constants(tmp_path):
    cube = cube_of(">i2")
    cube[0, 0, 0], cube[1, 1, 1], cube[2, 2, 2], cube[3, 3, 2] = -999, -32768, -500, 3000
    element = "<unit>W/m**2/sr/μm</unit><scaling_factor>0.5</scaling_factor><value_offset>-1.5</value_offset>"
    constants = (
        "<Special_Constants><missing_constant>-999</missing_constant><high_instrument_saturation>0x8000"
        "</high_instrument_saturation><valid_minimum>-100</valid_minimum><valid_maximum>2000</valid_maximum>"
        "<unknown_constant>N/A</unknown_constant></Special_Constants>"
    )
    path = pds4(tmp_path / "a.xml", cube, data_type="SignedMSB2", element=element, array=constants)
    scene = read(path)
    gap = (cube < -100) | (cube > 2000)
    assert gap.sum() == 4
    np.testing.assert_allclose(np.asarray(scene.cube), np.where(gap, np.nan, cube * 0.5 - 1.5))
    assert (scene.stated_nodata, scene.quantity) == (-999.0, "radiance")
    assert not scene.account.unknown
    np.testing.assert_array_equal(np.asarray(read(path, scale=1.0, nodata="none").cube), cube)
    for old, new, message in (
        ("<scaling_factor>0.5", "<scaling_factor>0", "scaling_factor is zero.*--scale"),
        ("<value_offset>-1.5", "<value_offset>x", "value_offset must be a finite number.*--offset"),
        (">-999<", ">nine<", "missing_constant must be a finite number.*--nodata"),
    ):
        broken = pds4(
            tmp_path / "b.xml", cube, data_type="SignedMSB2", element=element.replace(old, new),
            array=constants.replace(old, new),
        )  # fmt: skip
        with pytest.raises(ValueError, match=message):
            read(broken)


def band_bins(unit="micrometer", order=(1, 2, 3)):
    """A Band_Bin_Set whose bins stand in any order."""
    rows = {1: (0.4, 0.01), 2: (0.5, 0.02), 3: (0.9, 0.03)}
    return "<Band_Bin_Set>" + "".join(
        f'<Band_Bin><band_number>{n}</band_number><band_width unit="{unit}">{rows[n][1]}</band_width>'
        f'<center_wavelength unit="{unit}">{rows[n][0]}</center_wavelength></Band_Bin>' for n in order
    ) + "</Band_Bin_Set>"  # fmt: skip


def spectral(inside, reference="cube"):
    """The spectral dictionary's class for an array."""
    return (
        "<Discipline_Area><sp:Spectral_Characteristics><Local_Internal_Reference><local_identifier_reference>"
        f"{reference}</local_identifier_reference></Local_Internal_Reference>{inside}</sp:Spectral_Characteristics>"
        "</Discipline_Area>"
    )


BINS = "".join(
    f'<sp:Bin><sp:bin_sequence_number>{i + 1}</sp:bin_sequence_number><sp:center_value unit="nm">{c}</sp:center_value>'
    f'<sp:bin_width unit="nm">{w}</sp:bin_width></sp:Bin>'
    for i, (c, w) in enumerate([(400, 10), (500, 20), (900, 30)])
)
NEW_BINS = "<sp:Axis_Bin_Set_Wavelength>{}</sp:Axis_Bin_Set_Wavelength>".format("".join(
    f"<sp:Bin_Wavelength><sp:bin_sequence_number>{i + 1}</sp:bin_sequence_number>"
    f'<sp:center_wavelength unit="micrometer">{c}</sp:center_wavelength></sp:Bin_Wavelength>'
    for i, c in enumerate([0.4, 0.5, 0.9])
))  # fmt: skip
UNIFORM = (
    '<sp:Uniformly_Sampled_Wavenumber><sp:sampling_scale>Linear</sp:sampling_scale><sp:sampling_interval_wavenumber '
    'unit="cm**-1">10.5</sp:sampling_interval_wavenumber><sp:first_center_wavenumber unit="cm**-1">200'
    '</sp:first_center_wavenumber><sp:last_center_wavenumber unit="cm**-1">221</sp:last_center_wavenumber>'
    "</sp:Uniformly_Sampled_Wavenumber>"
)  # fmt: skip


@pytest.mark.parametrize(
    ("more", "centers", "widths", "unit"),
    [
        ({"bins": band_bins()}, [400, 500, 900], [10, 20, 30], "nm"),
        ({"bins": band_bins(order=(3, 1, 2))}, [400, 500, 900], [10, 20, 30], "nm"),
        ({"observation": spectral(f"<sp:Axis_Bin_Set>{BINS}</sp:Axis_Bin_Set>")}, [400, 500, 900], [10, 20, 30], "nm"),
        ({"observation": spectral(NEW_BINS)}, [400, 500, 900], None, "nm"),
        ({"observation": spectral(UNIFORM)}, [200, 210.5, 221], None, "cm-1"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("order", ["bsq", "bip"])
def test_bands_by_label(tmp_path, more, centers, widths, unit, order):
    scene = read(pds4(tmp_path / "a.xml", cube_of("<f4"), order=order, kind="Array_3D_Spectrum", **more))
    np.testing.assert_allclose(scene.axis.centers, centers)
    assert scene.axis.unit == unit
    if widths is None:
        assert scene.axis.fwhm is None
    else:
        np.testing.assert_allclose(scene.axis.fwhm, widths)
    assert not scene.account.unknown


def test_bands_of_another_array_are_not_taken(tmp_path):
    observation = spectral(f"<sp:Axis_Bin_Set>{BINS}</sp:Axis_Bin_Set>", reference="other")
    assert read(pds4(tmp_path / "a.xml", cube_of("<f4"), observation=observation)).axis is None


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"bins": band_bins(order=(1, 2))}, "2 band bins for 3 bands"),
        ({"bins": band_bins(order=(1, 2, 2))}, "two band bins have one number"),
        ({"bins": band_bins(unit="furlong")}, "--unit with --force-unit"),
        ({"bins": band_bins().replace("0.5<", "x<")}, "center_wavelength must be a finite number"),
        ({"observation": spectral(UNIFORM.replace("Linear", "Logarithmic"))}, "sampling_scale 'Logarithmic'"),
        ({"observation": spectral(UNIFORM.replace(">221<", ">999<"))}, "the label says 999"),
    ],
)
def test_bands_that_are_refused(tmp_path, more, message):
    with pytest.raises(ValueError, match=message):
        read(pds4(tmp_path / "a.xml", cube_of("<f4"), **more))


def field(kind, name, location, length, data_type, unit):
    """A field of a table."""
    return (
        f"<Field_{kind}><name>{name}</name><field_location unit=\"byte\">{location}</field_location><data_type>"
        f"{data_type}</data_type><field_length unit=\"byte\">{length}</field_length>{unit}</Field_{kind}>"
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["Binary", "Character", "array"])
def test_bands_in_the_same_file(tmp_path, kind):
    cube = cube_of("<f4")
    size, waves = cube.nbytes, np.array([0.4, 0.5, 0.9])
    unit = "<unit>micrometer</unit>"
    if kind == "Binary":
        tail = b"".join(bytes([i]) + np.array([w], ">f8").tobytes() for i, w in enumerate(waves))
        fields = field(kind, "band", 1, 1, "UnsignedByte", "") + field(
            kind, "Wavelength", 2, 8, "IEEE754MSBDouble", unit
        )
        width = 9
    elif kind == "Character":
        tail = b"".join(f"{i:3d} {w:8.4f}\r\n".encode() for i, w in enumerate(waves))
        fields = field(kind, "band", 1, 3, "ASCII_Integer", "") + field(kind, "wavelength", 5, 8, "ASCII_Real", unit)
        width = 14
    if kind == "array":
        tail = waves.astype("<f4").tobytes()
        area = (
            f"<Array><local_identifier>wavelengths</local_identifier><offset>{size}</offset><axes>1</axes>"
            f"<Element_Array><data_type>IEEE754LSBSingle</data_type>{unit}</Element_Array><Axis_Array><axis_name>Band"
            "</axis_name><elements>3</elements><sequence_number>1</sequence_number></Axis_Array></Array>"
        )
    else:
        area = (
            f"<Table_{kind}><offset>{size}</offset><records>3</records><Record_{kind}><record_length>{width}"
            f"</record_length>{fields}</Record_{kind}></Table_{kind}>"
        )
    path = pds4(tmp_path / "a.xml", cube, area=area, tail=tail)
    scene = read(path)
    np.testing.assert_array_equal(np.asarray(scene.cube), cube)
    np.testing.assert_allclose(scene.axis.centers, waves * 1000, rtol=1e-6)
    with pytest.raises(ValueError, match="truncated"):
        read(pds4(tmp_path / "b.xml", cube, area=area, tail=tail[:-1]))


def test_spectra_without_lines_are_a_list(tmp_path):
    cube = cube_of("<f4")
    text = pds4(tmp_path / "a.xml", cube, order="bip").read_text()
    begin, end = text.index("<Axis_Array><axis_name>Line"), text.index("<Axis_Array><axis_name>Sample")
    text = text[:begin] + text[end:]
    text = text.replace("<axes>3</axes>", "<axes>2</axes>").replace("Array_3D_Image", "Array_2D_Spectrum")
    (tmp_path / "a.xml").write_text(text)
    scene = read(tmp_path / "a.xml")
    np.testing.assert_array_equal(np.asarray(scene.cube), cube[0])


def test_several_arrays(tmp_path):
    cube = cube_of("<f4")
    text = pds4(tmp_path / "a.xml", cube).read_text()
    begin, end = text.index("<Array_3D_Image>"), text.index("</Array_3D_Image>") + len("</Array_3D_Image>")
    second = text[begin:end].replace(">cube<", ">second<")
    (tmp_path / "a.xml").write_text(text[:end] + second + text[end:])
    with pytest.raises(ValueError, match=r"several arrays, cube, second.*--key cube=cube"):
        read(tmp_path / "a.xml")
    np.testing.assert_array_equal(np.asarray(read(tmp_path / "a.xml", keys={"cube": "second"}).cube), cube)
    with pytest.raises(ValueError, match="no array 'third'"):
        read(tmp_path / "a.xml", keys={"cube": "third"})
    smaller = second.replace("<elements>3<", "<elements>2<")
    (tmp_path / "a.xml").write_text(text[:end] + smaller + text[end:])
    assert read(tmp_path / "a.xml").cube.shape == cube.shape


@pytest.mark.parametrize("name", ["../a.img", "/etc/passwd", "b/a.img", "C:a.img", "..\\a.img", "a.xml", ""])
def test_files_out_of_the_folder_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"in its own folder|the label itself"):
        read(pds4(tmp_path / "a.xml", cube_of("<f4"), file=name))
    with pytest.raises(FileNotFoundError, match="other"):
        read(pds4(tmp_path / "a.xml", cube_of("<f4"), file="other.img"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("IEEE754LSBSingle", "ComplexLSB8", "data_type ComplexLSB8"),
        ("IEEE754LSBSingle", "SignedBitString", "data_type SignedBitString"),
        ("Last Index Fastest", "First Index Fastest", "axis_index_order"),
        (">Sample<", ">Time<", "axes Band, Line, Time are not"),
        (">Sample<", ">Line<", "axes Band, Line, Line are not"),
        ("<axes>3", "<axes>4", "has 4 axes and describes 3"),
        ("<elements>4", "<elements>5", "truncated"),
        ("<elements>4", "<elements>0", "no such size"),
        ("<elements>4", "<elements>-4", "elements must be a whole number"),
        ("<elements>4", "<elements>99999999999999999999", "elements must be a whole number"),
        ('<offset unit="byte">0', '<offset unit="byte">1', "truncated"),
        ("Element_Array", "Elements", "no Element_Array"),
        ("Array_3D_Image", "Table_Binary", "describes no array"),
        ("</File>", "</Fil>", "the label is damaged"),
    ],
)
def test_labels_that_are_refused(tmp_path, old, new, message):
    path = pds4(tmp_path / "a.xml", cube_of("<f4"))
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=message) as caught:
        read(path)
    assert str(tmp_path / "a") in str(caught.value)
    assert "\n" not in str(caught.value)


BOMB = '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {c} "{f"&{b};" * 10}">' for b, c in zip("abcdefgh", "bcdefghi", strict=True)
) + "]>"  # fmt: skip


@pytest.mark.parametrize(
    "document",
    ['<!DOCTYPE a SYSTEM "file:///etc/passwd">', '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>', BOMB],
)
def test_document_types_are_refused(tmp_path, document):
    path = pds4(tmp_path / "a.xml", cube_of("<f4"))
    text = path.read_text().replace("<Product_Observational", f"{document}\n<Product_Observational", 1)
    path.write_text(text.replace("urn:x:y", "&i;" if document is BOMB else "urn"))
    with pytest.raises(ValueError, match="DOCTYPE"):
        read(path)


@pytest.mark.parametrize("inside", ["<a>" * 5000, "<a>" * 31 + "</a>" * 31, f"<{'a' * 100}/>", "&unknown;", "<a", ""])
def test_damaged_labels_are_refused(tmp_path, inside):
    path = tmp_path / "a.xml"
    path.write_text(f"{PDS4_HEAD}{inside}" + ("</Product_Observational>" if "/" in inside else ""))
    with pytest.raises(ValueError, match="label") as caught:
        read(path)
    assert len(str(caught.value)) < 600


def test_labels_have_limits(tmp_path, monkeypatch):
    monkeypatch.setattr("unmix_jax.scenes.readers.planetary.pds4.MOST_ELEMENTS", 100)
    path = tmp_path / "a.xml"
    path.write_text(f"{PDS4_HEAD}{'<a/>' * 99}</Product_Observational>")
    with pytest.raises(ValueError, match="100 elements"):
        read(path)


def test_a_label_cut_at_any_byte_is_refused(tmp_path):
    whole = pds4(tmp_path / "a.xml", cube_of("<f4")).read_bytes()
    for length in range(0, len(whole.rstrip()) - 1, 37):
        (tmp_path / "a.xml").write_bytes(whole[:length])
        with pytest.raises(ValueError, match="label"):
            read(tmp_path / "a.xml")


def test_what_is_a_label(tmp_path):
    path = pds4(tmp_path / "a.xml", cube_of("<f4"))
    assert is_pds4(path)
    assert is_pds4(tmp_path / "a.img")
    (tmp_path / "b.xml").write_text("<?xml version='1.0'?><kml xmlns='http://www.opengis.net/kml/2.2'/>")
    assert not is_pds4(tmp_path / "b.xml")
    assert not is_pds4(tmp_path / "absent.xml")
    (tmp_path / "a.hdr").write_text("ENVI\n")
    (tmp_path / "a.tab").write_text("1 2\n")
    (tmp_path / "a").mkdir()
    for name in ("a.hdr", "a.tab", "a"):
        assert not is_pds4(tmp_path / name)
    assert stored(cube_of("<f4"), "bsq") == (tmp_path / "a.img").read_bytes()
