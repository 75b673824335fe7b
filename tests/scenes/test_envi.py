"""ENVI files: what SPy writes comes back, lazily; what is broken says how."""

import jax.numpy as jnp
import numpy as np
import pytest
import spectral.io.envi as envi
from helpers import assert_close

from unmix_jax.scenes.lazy import LazyCube
from unmix_jax.scenes.readers import read_library, read_scene
from unmix_jax.scenes.readers.envi import read_envi_scene
from unmix_jax.scenes.reading import Reading

ROWS, COLUMNS, BANDS = 5, 4, 6
CUBE = np.random.default_rng(0).uniform(0.1, 0.9, (ROWS, COLUMNS, BANDS)).astype("f4")
NM = np.linspace(400, 900, BANDS)


def write(folder, cube=CUBE, *, name="scene.hdr", interleave="bsq", ext=".img", **metadata):
    metadata = {"wavelength": NM.tolist(), "wavelength units": "Nanometers", **metadata}
    metadata = {k: v for k, v in metadata.items() if v is not None}
    path = folder / name
    options = {
        "dtype": cube.dtype,
        "interleave": interleave,
        "ext": ext,
        "byteorder": metadata.pop("order", 0),
    }
    envi.save_image(str(path), cube, metadata=metadata, force=True, **options)
    return path


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


@pytest.mark.parametrize("interleave", ["bsq", "bil", "bip"])
@pytest.mark.parametrize("ext", [".img", ".dat", "", ".bil"])
@pytest.mark.parametrize("named", ["header", "data"])
def test_cubes_written_by_spy(tmp_path, interleave, ext, named):
    header = write(tmp_path, interleave=interleave, ext=ext)
    scene = read_scene(header if named == "header" else tmp_path / f"scene{ext}")
    assert scene.cube.shape == (ROWS, COLUMNS, BANDS)
    np.testing.assert_array_equal(scene.cube, CUBE)
    np.testing.assert_allclose(scene.axis.centers, NM)
    assert scene.axis.unit == "nm"
    assert scene.name == "scene"


@pytest.mark.parametrize("interleave", ["bsq", "bil", "bip"])
def test_float_cubes_are_not_read(tmp_path, interleave):
    scene = read_scene(write(tmp_path, interleave=interleave))
    base = scene.cube
    while base is not None and type(base.base).__module__ != "mmap":
        base = base.base
    assert isinstance(base, np.memmap)
    assert not scene.cube.flags.writeable
    # What is on the disk now is what is seen: nothing was copied when the file was opened.
    np.zeros_like(CUBE).tofile(tmp_path / "scene.img")
    assert not np.asarray(scene.cube).any()


def test_integers_are_scaled_slice_by_slice(tmp_path):
    stored = np.round(CUBE * 10000).astype("i2")
    stored[1, 2] = -50
    path = write(tmp_path, stored, **{"reflectance scale factor": 10000, "data ignore value": -50})
    scene = read_scene(path)
    assert isinstance(scene.cube, LazyCube)
    assert scene.cube.dtype == np.float32
    expected = np.where(stored == -50, np.nan, stored / 10000)
    assert_close(scene.cube[2:4], expected[2:4].astype("f4"))
    assert_close(np.asarray(scene.cube), expected.astype("f4"))
    assert np.isnan(scene.cube[1, 2]).all()
    assert jnp.asarray(scene.cube[0]).shape == (COLUMNS, BANDS)
    np.zeros_like(stored).tofile(tmp_path / "scene.img")
    assert not scene.cube[:].any()


def test_foreign_byte_order_comes_out_native(tmp_path):
    scene = read_scene(write(tmp_path, order=1))
    assert scene.cube.dtype.isnative
    np.testing.assert_array_equal(np.asarray(scene.cube), CUBE)


def test_metadata_is_carried_and_understood(tmp_path):
    map_info = ["UTM", "1", "1", "380000", "3780000", "60", "60", "11", "North", "WGS-84"]
    extra = {
        "fwhm": [10.0] * BANDS,
        "bbl": [1, 1, 0, 1, 0, 1],
        "data ignore value": -1,
        "map info": map_info,
        "coordinate system string": ['PROJCS["x"', 'GEOGCS["y"]]'],
    }
    scene = read_scene(write(tmp_path, **extra))
    assert scene.good_bands.tolist() == [True, True, False, True, False, True]
    assert scene.nodata == -1
    assert_close(scene.axis.fwhm, np.full(BANDS, 10.0))
    assert scene.header["map info"] == map_info
    assert scene.header["coordinate system string"] == extra["coordinate system string"]


def test_keys_in_any_case_and_misspelt(tmp_path):
    path = write(tmp_path, fwhm=[10.0] * BANDS, bbl=[1] * 5 + [0])
    for old, new in {
        "wavelength units =": "Wavelength_Unit =",
        "wavelength =": "WAVELENGHT =",
        "bbl =": "BBL =",
        "interleave = bsq": "Interleave = BSQ",
    }.items():
        edit(path, old, new)
    scene = read_scene(path)
    np.testing.assert_array_equal(scene.cube, CUBE)
    np.testing.assert_allclose(scene.axis.centers, NM)
    assert scene.good_bands.tolist() == [True] * 5 + [False]


@pytest.mark.parametrize("spelling", ["Micrometers", "um", "µm", "Microns", "micrometres"])
def test_micrometres_become_nm(tmp_path, spelling):
    path = write(tmp_path, wavelength=(NM / 1000).tolist(), fwhm=[0.01] * BANDS)
    axis = read_scene(edit(path, "Nanometers", spelling)).axis
    np.testing.assert_allclose(axis.centers, NM)
    np.testing.assert_allclose(axis.fwhm, 10.0)


@pytest.mark.parametrize(("factor", "said"), [(1, "nm is assumed"), (1e-3, "µm is assumed")])
@pytest.mark.parametrize("units", [None, "Unknown"])
def test_missing_units_are_guessed_with_a_warning(tmp_path, factor, said, units):
    path = write(tmp_path, wavelength=(NM * factor).tolist(), **{"wavelength units": units})
    with pytest.warns(UserWarning, match=said):
        scene = read_scene(path)
    np.testing.assert_allclose(scene.axis.centers, NM)


def test_unit_given_by_the_user_wins(tmp_path):
    path = write(tmp_path, wavelength=(NM / 1000).tolist(), **{"wavelength units": None})
    np.testing.assert_allclose(read_scene(path, unit="um").axis.centers, NM)


def test_wavenumbers_stay(tmp_path):
    axis = read_scene(write(tmp_path, **{"wavelength units": "Wavenumber"})).axis
    assert axis.unit == "cm-1"
    np.testing.assert_allclose(axis.centers, NM)


def test_no_wavelengths(tmp_path):
    assert read_scene(write(tmp_path, wavelength=None)).axis is None


@pytest.mark.parametrize("order", [slice(None, None, -1), [0, 2, 1, 3, 5, 4]])
def test_axes_in_any_order_are_kept(tmp_path, order):
    scene = read_scene(write(tmp_path, wavelength=NM[order].tolist()))
    np.testing.assert_allclose(scene.axis.centers, NM[order])


@pytest.mark.parametrize("size", [0, 100, CUBE.nbytes - 1])
def test_truncated_files(tmp_path, size):
    path = write(tmp_path)
    with (tmp_path / "scene.img").open("r+b") as file:
        file.truncate(size)
    with pytest.raises(ValueError, match=f"scene.img is truncated: .*480 bytes, the file has {size}"):
        read_scene(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("lines = 5", "lines = 4", "larger than its header says"),
        ("bands = 6", "bands = 7", "truncated"),
        ("data type = 4", "data type = 2", "larger than its header says"),
        ("data type = 4", "data type = 6", "not a real number"),
        ("data type = 4", "data type = 99", "data type 99 is none of"),
        ("samples = 4", "samples = four", "samples must be a whole number, got 'four'"),
        ("samples = 4", "samples = 0", "empty"),
        ("samples = 4", "", "no samples"),
        ("interleave = bsq", "interleave = tiled", "bsq, bil, bip"),
        ("byte order = 0", "byte order = 0\nfile compression = 1", "compressed"),
        ("ENVI", "not", "not a readable ENVI header"),
        ("Nanometers", "furlongs", "furlongs"),
        ("byte order = 0", "byte order = 0\nbbl = {1, 0}", "bbl lists 2 values for 6 bands"),
        ("byte order = 0", "byte order = 0\nbbl = {0,0,0,0,0,0}", "every band"),
        ("byte order = 0", "byte order = 0\nfwhm = {a,b,c,d,e,f}", "fwhm is not a list of numbers"),
        (
            "byte order = 0",
            "byte order = 0\ndata ignore value = none",
            "data ignore value must be a finite number.*--nodata",
        ),
        ("400.0 ,", "", "wavelength lists 5 values for 6 bands"),
        ("400.0 ,", "-400.0 ,", "finite and positive"),
    ],
)
def test_broken_headers(tmp_path, old, new, message):
    path = edit(write(tmp_path), old, new)
    with pytest.raises(ValueError, match=message) as caught:
        read_scene(path)
    assert "scene" in str(caught.value)


def test_missing_parts(tmp_path):
    path = write(tmp_path)
    (tmp_path / "scene.img").unlink()
    with pytest.raises(FileNotFoundError, match="no data file"):
        read_scene(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_scene(tmp_path / "absent.hdr")
    (tmp_path / "alone.img").write_bytes(b"0")
    with pytest.raises(ValueError, match=r"an ENVI file with its .hdr.*none of these"):
        read_scene(tmp_path / "alone.img")
    with pytest.raises(FileNotFoundError, match="no ENVI header beside it"):
        read_envi_scene(tmp_path / "alone.img", Reading())


def sli(folder, spectra, names, **extra):
    header = {"wavelength": NM / 1000, "wavelength units": "Micrometers", "spectra names": names, **extra}
    envi.SpectralLibrary(spectra, header).save(str(folder / "library"))
    return folder / "library.sli"


@pytest.mark.parametrize("suffix", [".sli", ".hdr"])
def test_spectral_library(tmp_path, suffix):
    path = sli(tmp_path, CUBE[0], ["a", "b", "c", "d"], fwhm=np.full(BANDS, 0.02))
    library = read_library(path.with_suffix(suffix))
    np.testing.assert_array_equal(library.spectra, CUBE[0])
    assert library.names == ("a", "b", "c", "d")
    np.testing.assert_allclose(library.axis.centers, NM)
    np.testing.assert_allclose(library.axis.fwhm, 20)
    assert library.header["wavelength units"] == "Micrometers"


def test_spectral_library_trouble(tmp_path):
    path = sli(tmp_path, CUBE[0], ["a", "b", "c", "d"])
    with pytest.raises(ValueError, match="read_library"):
        read_scene(path)
    with pytest.raises(ValueError, match="cube of 6 bands"):
        read_library(write(tmp_path))
    edit(tmp_path / "library.hdr", "lines = 4", "lines = 40")
    with pytest.raises(ValueError, match="truncated"):
        read_library(path)
    edit(tmp_path / "library.hdr", "lines = 40", "lines = 0")
    with pytest.raises(ValueError, match="empty"):
        read_library(path)


def test_spectral_library_gaps_become_nan(tmp_path):
    spectra = CUBE[0].copy()
    spectra[1, 2] = -9999
    path = sli(tmp_path, spectra, ["a", "b", "c", "d"])
    edit(tmp_path / "library.hdr", "data ignore value = NaN", "data ignore value = -9999")
    assert np.argwhere(np.isnan(read_library(path).spectra)).tolist() == [[1, 2]]
