"""Scenes out of every other format; heights always differ from widths."""

import sys

import h5py
import numpy as np
import pytest
import rasterio
from emit_file import write_emit
from helpers import assert_close
from scipy.io import savemat

from unmix_jax.scenes.georeference import envi_entries
from unmix_jax.scenes.lazy import LazyCube, RasterBands
from unmix_jax.scenes.readers import read_scene
from unmix_jax.scenes.scene import Scene

ROWS, COLUMNS, BANDS, MEMBERS = 5, 4, 6, 3
RNG = np.random.default_rng(0)
CUBE = RNG.uniform(0.1, 0.9, (ROWS, COLUMNS, BANDS)).astype("f4")
SPECTRA = RNG.uniform(0.1, 0.9, (MEMBERS, BANDS)).astype("f4")
ABUNDANCES = RNG.dirichlet(np.ones(MEMBERS), (ROWS, COLUMNS)).astype("f4")
NM = np.linspace(400, 900, BANDS)
WHOLE = {
    "cube": CUBE,
    "wavelength_nm": NM,
    "fwhm": np.full(BANDS, 10.0),
    "good_bands": np.arange(BANDS) != 2,
    "mask": np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS) != 7,
    "endmembers": SPECTRA,
    "abundances": ABUNDANCES,
    "names": np.array(["soil", "tree", "water"]),
}


def matlab73(path, **arrays):
    """What MATLAB writes as v7.3: HDF5 behind a text block, axes reversed."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in arrays.items():
            data = file.create_dataset(name, data=np.asarray(value).T)
            kinds = {"f4": "single", "f8": "double", "i2": "int16"}
            data.attrs["MATLAB_class"] = np.bytes_(kinds.get(np.asarray(value).dtype.str[1:], "double"))
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    return path


def save(path, **arrays):
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    elif "73" in path.stem:
        matlab73(path, **{k: v for k, v in arrays.items() if np.asarray(v).dtype.kind in "fi"})
    else:
        savemat(path, {k: v.astype(object) if v.dtype.kind == "U" else v for k, v in arrays.items()})
    return path


@pytest.mark.parametrize("name", ["scene.npz", "scene.mat"])
def test_whole_scenes(tmp_path, name):
    scene = read_scene(save(tmp_path / name, **WHOLE))
    np.testing.assert_array_equal(scene.cube, CUBE)
    np.testing.assert_array_equal(scene.abundances, ABUNDANCES)
    np.testing.assert_array_equal(scene.endmembers.spectra, SPECTRA)
    np.testing.assert_array_equal(scene.good_bands, WHOLE["good_bands"])
    np.testing.assert_array_equal(scene.mask, WHOLE["mask"])
    np.testing.assert_allclose(scene.axis.centers, NM)
    assert_close(scene.axis.fwhm, WHOLE["fwhm"])
    assert scene.endmembers.names == scene.abundance_names == ("soil", "tree", "water")
    assert (scene.name, scene.nodata) == ("scene", -9999.0)


@pytest.mark.parametrize("name", ["a.npz", "a.mat", "a73.mat"])
@pytest.mark.parametrize("dtype", ["f4", "f8", "i2"])
def test_foreign_names_by_mapping(tmp_path, name, dtype):
    cube = (CUBE * 1000).astype(dtype)
    path = save(tmp_path / name, Y=cube, M=SPECTRA.T, A=np.moveaxis(ABUNDANCES, -1, 0), wl=NM / 1000)
    keys = {"cube": "Y", "endmembers": "M", "abundances": "A", "wavelength_um": "wl"}
    scene = read_scene(path, keys=keys)
    np.testing.assert_array_equal(scene.cube, cube)
    assert scene.cube.dtype == ("f8" if dtype == "f8" else "f4")
    np.testing.assert_array_equal(scene.endmembers.spectra, SPECTRA)
    np.testing.assert_array_equal(scene.abundances, ABUNDANCES)
    np.testing.assert_allclose(scene.axis.centers, NM)


@pytest.mark.parametrize("name", ["a.mat", "a73.mat"])
def test_matlab_matrices_run_down_the_columns(tmp_path, name):
    matrix = CUBE.reshape(-1, BANDS, order="F").T  # MATLAB: reshape(cube, [], bands)'
    shares = ABUNDANCES.reshape(-1, MEMBERS, order="F").T
    size = {"h": np.array([[float(ROWS)]]), "w": np.array([[float(COLUMNS)]])}
    path = save(tmp_path / name, Y=matrix, S=shares, **size)
    keys = {"cube": "Y", "abundances": "S", "rows": "h", "columns": "w"}
    scene = read_scene(path, keys=keys)
    np.testing.assert_array_equal(scene.cube, CUBE)
    np.testing.assert_array_equal(scene.abundances, ABUNDANCES)


def test_npz_matrices_run_along_the_rows(tmp_path):
    path = save(tmp_path / "a.npz", Y=CUBE.reshape(-1, BANDS), h=np.int64(ROWS), w=np.int64(COLUMNS))
    keys = {"cube": "Y", "rows": "h", "columns": "w"}
    np.testing.assert_array_equal(read_scene(path, keys=keys).cube, CUBE)
    with pytest.raises(ValueError, match="5 × 6 pixels do not fit"):
        read_scene(save(tmp_path / "b.npz", Y=CUBE.reshape(-1, BANDS), h=np.int64(5), w=np.int64(6)), keys=keys)


@pytest.mark.parametrize("name", ["a.npz", "a.mat"])
@pytest.mark.parametrize("turned", [False, True])
def test_lists_of_pixels(tmp_path, name, turned):
    pixels = CUBE.reshape(-1, BANDS)
    path = save(tmp_path / name, pixels=pixels.T if turned else pixels, wavenumber_cm1=NM)
    scene = read_scene(path)
    np.testing.assert_array_equal(scene.cube, pixels)
    assert scene.axis.unit == "cm-1"


def test_the_only_cube_needs_no_name(tmp_path):
    path = save(tmp_path / "pavia.mat", paviaU=(CUBE * 1000).astype("i2"), paviaU_gt=CUBE[..., 0])
    assert read_scene(path).cube.shape == CUBE.shape


@pytest.mark.parametrize(
    ("arrays", "keys", "message"),
    [
        ({"Y": CUBE, "Z": CUBE}, None, "neither cube nor pixels; it has Y, Z"),
        ({"Y": CUBE}, {"cube": "X"}, "no array named X; it has Y"),
        ({"Y": CUBE}, {"image": "Y"}, "image: not a name of an array"),
        ({"cube": CUBE, "wavelength_nm": NM[:4]}, None, "shape .5, 4, 6., the spectral axis has 4"),
        ({"cube": CUBE, "endmembers": SPECTRA[:, :5]}, None, "have 5 bands, 6 were expected"),
        ({"cube": CUBE, "abundances": ABUNDANCES[:3]}, None, "abundances have shape"),
        ({"cube": CUBE, "mask": np.ones(7)}, None, "mask"),
        ({"cube": CUBE, "good_bands": np.zeros(BANDS)}, None, "every band"),
        ({"cube": CUBE[:0]}, None, "not empty"),
        ({"cube": CUBE[None]}, None, "a scene is"),
        ({"cube": CUBE + 1j}, None, "not real numbers"),
        ({"cube": CUBE, "wavelength_nm": NM - 400}, None, "finite and positive"),
    ],
)
@pytest.mark.parametrize("name", ["broken.npz", "broken.mat"])
def test_layouts_that_do_not_fit(tmp_path, name, arrays, keys, message):
    path = save(tmp_path / name, **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        read_scene(path, keys=keys)
    assert "broken" in str(caught.value) or keys == {"image": "Y"}


def test_bare_wavelengths_are_guessed_with_a_warning(tmp_path):
    path = save(tmp_path / "a.npz", cube=CUBE, wavelength=NM / 1000)
    with pytest.warns(UserWarning, match="µm is assumed"):
        scene = read_scene(path)
    np.testing.assert_allclose(scene.axis.centers, NM)
    assert read_scene(path, unit="cm-1").axis.unit == "cm-1"


class Harmful:
    def __reduce__(self):
        return exec, ("raise SystemExit('a pickle was run')",)


@pytest.mark.parametrize("name", ["a.npz", "a.npy"])
def test_pickles_are_refused(tmp_path, name):
    path = tmp_path / name
    harmful = np.array([Harmful()], dtype=object)
    if name == "a.npz":
        np.savez(path, cube=harmful)
    else:
        np.save(path, harmful, allow_pickle=True)
    with pytest.raises(ValueError, match=r"a\.np.*(allow_pickle|objects)"):
        read_scene(path)


@pytest.mark.parametrize("name", ["a.npz", "a.npy", "a.mat", "a.nc", "a.tif"])
@pytest.mark.parametrize("content", [b"", b"nothing of the kind, and long enough to be looked at" * 20])
def test_files_that_are_something_else(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        read_scene(tmp_path / name)


@pytest.mark.parametrize("name", ["scene.docx", "scene"])
def test_unknown_suffix(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ValueError, match="a scene is an ENVI file"):
        read_scene(tmp_path / name)


def test_missing_files_and_keys_out_of_place(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent.npz: no such file"):
        read_scene(tmp_path / "absent.npz")
    with pytest.raises(ValueError, match="none of these"):
        read_scene(tmp_path)
    np.save(tmp_path / "a.npy", CUBE)
    with pytest.raises(ValueError, match="leave --key out"):
        read_scene(tmp_path / "a.npy", keys={"cube": "Y"})


@pytest.mark.parametrize("shape", [(ROWS, COLUMNS, BANDS), (ROWS * COLUMNS, BANDS)])
def test_npy_stays_in_its_file(tmp_path, shape):
    np.save(tmp_path / "a.npy", CUBE.reshape(shape))
    scene = read_scene(tmp_path / "a.npy")
    assert isinstance(scene.cube, np.memmap)
    np.testing.assert_array_equal(scene.cube, CUBE.reshape(shape))


def test_npy_integers_are_converted_as_they_are_read(tmp_path):
    stored = (CUBE * 1000).astype("u2")
    np.save(tmp_path / "a.npy", stored)
    scene = read_scene(tmp_path / "a.npy")
    assert isinstance(scene.cube, LazyCube)
    np.testing.assert_array_equal(scene.cube[1:3, :2], stored[1:3, :2].astype("f4"))


@pytest.mark.parametrize("value", [np.nan, -9999.0])
@pytest.mark.parametrize("name", ["a.npz", "a.npy", "a.mat", "a.nc", "a.tif"])
def test_missing_pixels_survive(tmp_path, name, value):
    """They come out as NaN, or as they are with `nodata` saying so."""
    cube = CUBE.copy()
    cube[3, 1] = value
    path = tmp_path / name
    if name == "a.npy":
        np.save(path, cube)
    elif name == "a.nc":
        write_emit(path, cube, NM)
    elif name == "a.tif":
        write_tif(path, cube, nodata=-9999)
    else:
        save(path, cube=cube)
    scene = read_scene(path)
    values = np.asarray(scene.cube)
    gone = np.isnan(values) | (values == scene.nodata if scene.nodata is not None else False)
    assert np.argwhere(gone.all(axis=-1)).tolist() == [[3, 1]]
    assert gone.any(axis=-1).sum() == 1


def write_tif(path, cube, *, crs="EPSG:32611", tags=None, nodata=None, scale=None):
    options = {"driver": "GTiff", "height": cube.shape[0], "width": cube.shape[1], "count": cube.shape[2]}
    transform = rasterio.Affine(60, 0, 380000, 0, -30, 3780000)
    with rasterio.open(path, "w", **options, dtype=cube.dtype, crs=crs, transform=transform, nodata=nodata) as file:
        file.write(np.moveaxis(cube, -1, 0))
        if scale is not None:
            file.scales = (scale,) * cube.shape[2]
        for i in range(cube.shape[2]):
            file.update_tags(i + 1, **{k: v[i] for k, v in (tags or {}).items()})
    return path


def test_geotiff(tmp_path):
    stored = np.round(CUBE * 10000).astype("i2")
    stored[2, 1] = -32768
    tags = {"wavelength": NM / 1000, "wavelength_units": ["Micrometers"] * BANDS, "fwhm": [0.01] * BANDS}
    scene = read_scene(write_tif(tmp_path / "a.tif", stored, tags=tags, nodata=-32768, scale=1e-4))
    expected = np.where(stored == -32768, np.nan, stored / 10000).astype("f4")
    assert isinstance(scene.cube, LazyCube)
    assert_close(np.asarray(scene.cube), expected)
    np.testing.assert_allclose(scene.axis.centers, NM, rtol=1e-6)
    np.testing.assert_allclose(scene.axis.fwhm, 10, rtol=1e-6)
    assert scene.header["transform"] == (60, 0, 380000, 0, -30, 3780000)
    assert rasterio.crs.CRS.from_wkt(scene.header["crs"]).to_epsg() == 32611
    entries, _ = envi_entries(scene, scene.shape)
    corner = "1, 1, 380000.0, 3780000.0, 60.0, 30.0"
    assert entries["map info"] == f"{{UTM, {corner}, 11, North, WGS-84, units=Meters}}"
    assert entries["coordinate system string"].startswith("{PROJCS")


@pytest.mark.parametrize(("crs", "name"), [("EPSG:4326", "Geographic Lat/Lon"), ("EPSG:3857", "Mercator")])
def test_geotiff_other_projections(tmp_path, crs, name):
    scene = read_scene(write_tif(tmp_path / "a.tif", CUBE, crs=crs))
    assert scene.axis is None
    assert envi_entries(scene, scene.shape)[0]["map info"].startswith(f"{{{name}, 1, 1, 380000.0")


def test_a_tiff_without_georeference_is_quiet(tmp_path):
    options = {"height": ROWS, "width": COLUMNS, "count": BANDS, "dtype": "float32"}
    with (
        pytest.warns(rasterio.errors.NotGeoreferencedWarning),
        rasterio.open(tmp_path / "a.tif", "w", **options) as file,
    ):
        file.write(np.moveaxis(CUBE, -1, 0))
    scene = read_scene(tmp_path / "a.tif")
    np.testing.assert_array_equal(np.asarray(scene.cube), CUBE)
    assert "map info" not in scene.header


def test_geotiff_trouble(tmp_path, monkeypatch):
    path = write_tif(tmp_path / "a.tif", CUBE, tags={"wavelength": ["red"] * BANDS})
    with pytest.raises(ValueError, match="wavelength is not a number"):
        read_scene(path)
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(ImportError, match=r"pip install '.\[geo\]'"):
        read_scene(path)


INDICES = [
    ..., 0, -1, slice(1, 4), slice(None, None, -2), slice(4, 4), (2, 3), (slice(1, 3), slice(0, 2), 5),
    (slice(None), 1), (..., 2), [0, 3], np.arange(ROWS) > 2, (), (-2, slice(None), slice(1, 3)),
]  # fmt: skip


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_rasters_index_like_arrays(tmp_path, index):
    scene = read_scene(write_tif(tmp_path / "a.tif", CUBE))
    np.testing.assert_array_equal(scene.cube[index], CUBE[index])


def test_rasters_read_only_the_rows_asked_for(tmp_path, monkeypatch):
    asked = []
    rows = RasterBands._rows
    monkeypatch.setattr(RasterBands, "_rows", lambda self, *run: asked.append(run) or rows(self, *run))
    scene = read_scene(write_tif(tmp_path / "a.tif", CUBE))
    asked.clear()  # a scene is looked at when it is opened
    np.testing.assert_array_equal(scene.cube[1:3], CUBE[1:3])
    assert asked == [(1, 3)]
    np.testing.assert_array_equal(scene.cube[::2], CUBE[::2])
    assert asked[1:] == [(0, 1), (2, 3), (4, 5)]
    with pytest.raises(IndexError):
        scene.cube[5]


def test_matlab73_without_its_reader(tmp_path, monkeypatch):
    path = matlab73(tmp_path / "a.mat", cube=CUBE)
    monkeypatch.setitem(sys.modules, "pymatreader", None)
    with pytest.raises(ImportError, match=r"a.mat.*pip install '.\[io\]'"):
        read_scene(path)


def test_lazy_cubes_are_arrays_enough():
    cube = LazyCube((CUBE * 100).astype("i2"), divisor=100.0, offset=0.5)
    assert (len(cube), cube.ndim, cube.shape) == (ROWS, 3, CUBE.shape)
    expected = (CUBE * 100).astype("i2") / 100 + 0.5
    assert_close(cube.reshape(-1, BANDS), expected.reshape(-1, BANDS).astype("f4"))
    assert np.asarray(cube, np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(cube, copy=False)
    assert Scene(cube).shape == (ROWS, COLUMNS)
    assert repr(cube) == "LazyCube(shape=(5, 4, 6), dtype=float32)"
