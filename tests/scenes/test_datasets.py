"""Every dataset by its name: layout, units, and what its README promises; checksums of what ships."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from helpers import assert_close

from unmix_jax.scenes import datasets
from unmix_jax.scenes.datasets import DATASETS, MATERIALS, catalogue, load, refractive_index
from unmix_jax.scenes.library import resample
from unmix_jax.scenes.scene import Scene, SpectralLibrary

DATA = Path(__file__).parents[2] / "data"
SHIPPED = ("usgs_mica77", "indian_pines", "nk_minerals")
SCENES = {  # pixels and bands, endmembers, reference abundances
    "samson": ((95, 95, 156), 3, 3),
    "samson/alt": ((95, 95, 156), 3, 3),
    "muufl_gulfport_90x90": ((90, 90, 64), 5, 5),
    "muufl_gulfport_90x90/alt": ((90, 90, 64), 5, 5),
    "relab_abo_intimate": ((9, 461), 3, 3),
    "indian_pines": ((145, 145, 200), None, None),
    "cuprite_50x90": ((50, 90, 188), 3, None),
    "emit_example": ((10, 10, 285), 5, None),
    "dc1_sparse": ((75, 75, 224), 240, 5),
    "hapkecnn_sim1": ((105, 105, 224), 6, 6),
    "feely": ((96, 830), 38, 17),
    "feely/modelled": ((96, 830), 38, 17),
}
LIBRARIES = {
    "muufl_asd_field_spectra": (560, 751),
    "muufl_asd_field_spectra/cloth": (9, 2301),
    "usgs_mica77": (77, 2151),
    "earthlib": (313, 180),
    "usgs1995_library": (498, 224),
    "usgs1995_library/pruned_10deg": (62, 224),
    "usgs1995_library/pruned_3deg": (342, 224),
    "emit_example/library": (5, 224),
    "endmember_bundles/urban": (651, 162),
    "endmember_bundles/samson": (105, 156),
    "endmember_bundles/houston": (50, 144),
}


def test_the_tables_here_name_every_dataset():
    others = {name for name in DATASETS if not name.startswith("nk_minerals/")}
    assert others == {*SCENES, *LIBRARIES}


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.usefixtures("shared_data")
def test_scenes(name):
    shape, endmembers, abundances = SCENES[name]
    scene = load(name)
    assert isinstance(scene, Scene)
    assert scene.cube.shape == shape
    assert np.asarray(scene.cube).dtype.kind == "f"
    assert scene.name == name
    if endmembers is None:
        assert scene.endmembers is None
    else:
        assert scene.endmembers.spectra.shape == (endmembers, shape[-1])
        assert len(scene.endmembers.names) == endmembers
    if abundances is None:
        assert scene.abundances is None
    else:
        assert scene.abundances.shape == (*shape[:-1], abundances)
        assert len(scene.abundance_names) == abundances
        assert (np.asarray(scene.abundances) >= 0).all()


@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.usefixtures("shared_data")
def test_libraries(name):
    library = load(name)
    assert isinstance(library, SpectralLibrary)
    assert library.spectra.shape == LIBRARIES[name]
    assert len(library.names) == len(library)
    assert library.axis is None or library.axis.unit == "nm"


@pytest.mark.usefixtures("shared_data")
@pytest.mark.parametrize(
    ("name", "root_mean_square"),
    [
        ("samson/alt", 0.03),
        ("dc1_sparse", 1e-6),
        ("muufl_gulfport_90x90", 0.06),
        ("relab_abo_intimate", 0.1),
    ],
)
def test_endmembers_and_abundances_render_the_scene(name, root_mean_square):
    """Rows, columns and members stand in the right order, or this would fail."""
    scene = load(name)
    active = list(scene.header.get("active", range(len(scene.endmembers))))
    rendered = scene.abundances @ scene.endmembers.spectra[active]
    assert np.sqrt(np.mean((rendered - scene.cube) ** 2)) < root_mean_square


@pytest.mark.usefixtures("shared_data")
def test_cuprite_is_reflectance():
    scene = load("cuprite_50x90")
    assert 0.3 < np.sqrt(np.mean(scene.cube**2)) < 0.5


@pytest.mark.usefixtures("shared_data")
def test_samson_references_differ_in_scale():
    own, alt = load("samson"), load("samson/alt")
    assert_close(own.endmembers.spectra.max(1), np.ones(3), scale=1e3)
    assert alt.endmembers.spectra.max() < 0.75
    np.testing.assert_array_equal(own.cube, alt.cube)


@pytest.mark.usefixtures("shared_data")
def test_feely_serves_its_protocols():
    scene, modelled = load("feely"), load("feely/modelled")
    assert scene.axis.unit == "cm-1"
    assert scene.quantity == "emissivity"
    assert scene.mask.sum() == 90
    assert np.flatnonzero(~scene.mask).tolist() == [45, 48, 53, 55, 57, 72]
    wavenumber = scene.axis.centers
    assert ((wavenumber >= 400) & (wavenumber <= 1400)).sum() == 518
    assert (scene.endmembers.spectra == 0).any(axis=0).sum() == 830 - 773
    library = scene.endmembers
    assert set(library.classes) == {*scene.abundance_names, "blackbody"}
    assert library.classes[library.names.index("Blackbody")] == "blackbody"
    assert library.classes[library.names.index("Epidote")] == "epidote"
    # The authors' fits are in another order: put right, each is nearest to its own measured spectrum.
    clean = (wavenumber >= 430) & (wavenumber <= 1400)
    measured, fitted = library.spectra[:, clean], modelled.endmembers.spectra[:, clean]
    error = ((fitted[:, None] - measured) ** 2).mean(-1)
    assert (error.argmin(1) == np.arange(38)).all()
    assert np.mean(np.diagonal(error)) < 2e-4


def test_indian_pines_is_radiance_with_its_true_axis():
    scene = load("indian_pines")
    assert scene.quantity == "radiance"
    assert -0.2 < scene.cube.min() < 0.2
    assert scene.good_bands.sum() == 184
    assert (scene.labels > 0).sum() == 10249
    assert len(scene.label_names) == 17
    steps = np.diff(scene.axis.centers)
    assert (steps < 0).sum() == 2
    mean = np.asarray(scene.cube).reshape(-1, 200).mean(0)
    window = (scene.axis.centers > 1990) & (scene.axis.centers < 2025)
    dip = scene.axis.centers[window][mean[window].argmin()]
    assert abs(dip - 2006) < 6  # carbon dioxide


def test_mica_holds_its_mixtures():
    library = load("usgs_mica77")
    assert library.header["kind"].tolist().count("measured") == 60
    mixture = library.select(["calcite", "dolomite", "calcite.5+dolomite.5"]).spectra
    known = np.isfinite(mixture).all(0)
    np.testing.assert_allclose(mixture[2, known], mixture[:2, known].mean(0), atol=2e-3)


@pytest.mark.parametrize("material", MATERIALS)
def test_refractive_indices(material):
    wavelength, n, k = refractive_index(material)
    assert len(wavelength) == len(n) == len(k) > 100
    assert (np.diff(wavelength) >= 0).all()  # hematite_e repeats two wavelengths
    assert (k >= 0).all()
    assert (n > 0).all()
    assert wavelength.max() > 1e4  # nm


def test_unknown_names_list_the_known_ones(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="no dataset is named 'urban'; there are samson, samson/alt"):
        load("urban")
    with pytest.raises(ValueError, match="kaolinite"):
        refractive_index("calcite")


def test_a_missing_dataset_says_where_it_comes_from(monkeypatch, tmp_path):
    monkeypatch.setenv("UNMIX_JAX_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"burknipalsson.*UNMIX_JAX_DATA.*samson/samson.npz"):
        load("samson")
    assert "not here" in catalogue()["samson"]
    assert "not here" not in catalogue()["indian_pines"]


def test_the_users_folder_comes_first(monkeypatch, tmp_path):
    monkeypatch.delenv("UNMIX_JAX_DATA", raising=False)
    assert datasets.find("nk_minerals/nk_minerals.npz").is_relative_to(DATA.parent)
    own = tmp_path / "nk_minerals" / "nk_minerals.npz"
    own.parent.mkdir()
    own.write_bytes((DATA / "nk_minerals" / "nk_minerals.npz").read_bytes())
    monkeypatch.setenv("UNMIX_JAX_DATA", str(tmp_path))
    assert datasets.find("nk_minerals/nk_minerals.npz") == own


def test_checksums_of_what_ships():
    said = dict(re.findall(r"^\| (\S+) \| `([0-9a-f]{64})` \|$", (DATA / "README.md").read_text("utf-8"), re.M))
    files = {
        p.relative_to(DATA).as_posix(): p
        for d in (*SHIPPED, "mineral_dispersion", "spectral_responses")
        for p in (DATA / d).iterdir()
    }
    assert said == {name: hashlib.sha256(p.read_bytes()).hexdigest() for name, p in files.items()}


@pytest.mark.usefixtures("shared_data")
def test_emit_library_resamples_to_emit():
    """The endmembers of the file were interpolated to the sensor; the full response is near them."""
    scene = load("emit_example")
    result = resample(load("emit_example/library"), scene.axis)
    assert result.good_bands.all()
    wavelength = scene.axis.centers  # the library is zero in the water bands: edges there
    smooth = ~((wavelength > 1300) & (wavelength < 1460)) & ~((wavelength > 1790) & (wavelength < 1970))
    difference = np.abs(result.spectra - scene.endmembers.spectra)[:, smooth]
    assert np.median(difference) < 2e-4
    assert difference.max() < 0.01
