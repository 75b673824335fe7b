"""The datasets of the field, one entry each: spectra as rows, quirks of the files dealt with and said.

A dataset is looked for in the folder that `UNMIX_JAX_DATA` names, then in what ships with the package. Names
are ``dataset`` or ``dataset/variant``, as `catalogue` lists them.
"""

import csv
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from unmix_jax.scenes.scene import UNKNOWN_QUANTITY, Header, Scene, SpectralAxis, SpectralLibrary

__all__ = ["catalogue", "find", "load", "refractive_index"]

Stored = Mapping[str, Any]
Loaded = Scene | SpectralLibrary


def load(name: str) -> Loaded:
    """A scene or a spectral library by its name.

    Args:
        name: ``dataset`` or ``dataset/variant``, one of `catalogue`.

    Returns:
        Wavelengths in nm, wavenumbers in cm⁻¹; what else the file holds stands in ``header``.

    Raises:
        ValueError: no dataset of this name.
        FileNotFoundError: neither under `UNMIX_JAX_DATA` nor shipped; says where it comes from.
    """
    if name not in DATASETS:
        raise ValueError(f"no dataset is named {name!r}; there are {', '.join(DATASETS)}")
    entry = DATASETS[name]
    path = find(entry.file)
    if path is None:
        raise FileNotFoundError(
            f"dataset {name!r} does not ship with the package; it comes from {entry.origin}. "
            f"Set UNMIX_JAX_DATA to a folder that holds {entry.file}"
        )
    with np.load(path, allow_pickle=False) as stored:
        loaded = entry.build(stored, path.parent, name.partition("/")[2])
    if loaded.quantity == UNKNOWN_QUANTITY:
        loaded = replace(loaded, quantity="refractive index" if name.startswith("nk_minerals") else "reflectance")
    return replace(loaded, name=name) if isinstance(loaded, Scene) else loaded


def catalogue() -> dict[str, str]:
    """Every name that `load` knows, with one line on what it is and whether it is there."""
    return {name: e.what + ("" if find(e.file) else f" (not here; from {e.origin})") for name, e in DATASETS.items()}


class RefractiveIndex(NamedTuple):
    """Complex refractive index n + ik of a material.

    Attributes:
        wavelength: nm.
        n: real part, dimensionless.
        k: extinction coefficient, dimensionless, not negative.
    """

    wavelength: Float[Any, " band"]
    n: Float[Any, " band"]
    k: Float[Any, " band"]


def refractive_index(material: str) -> RefractiveIndex:
    """The refractive index of one of the materials of `nk_minerals`, such as ``kaolinite`` or ``dolomite_o``.

    Raises:
        ValueError: no such material; the message lists them.
        FileNotFoundError: as `load`.
    """
    if material not in MATERIALS:
        raise ValueError(f"no refractive index of {material!r}; there are {', '.join(MATERIALS)}")
    library = load(f"nk_minerals/{material}")
    assert isinstance(library, SpectralLibrary)
    assert library.axis is not None
    return RefractiveIndex(library.axis.centers, *library.spectra)


def find(file: str) -> Path | None:
    """Where a file of data lies: the user's folder, the installed package, the checkout; None where it is not."""
    package = Path(str(files("unmix_jax")))
    own = os.environ.get("UNMIX_JAX_DATA")
    folders = ([Path(own).expanduser()] if own else []) + [package / "data", package.parent / "data"]
    return next((f / file for f in folders if (f / file).is_file()), None)


def _words(values: Any) -> tuple[str, ...]:
    """Words of a text array."""
    return tuple(str(v) for v in values)


def _nm(stored: Stored, key: str = "wavelengths_nm", fwhm: str | None = None) -> SpectralAxis:
    """An axis in nm."""
    return SpectralAxis(stored[key].astype(float), stored[fwhm].astype(float) if fwhm else None)


def _turned(columns: Any) -> Any:
    """Spectra stored as columns, as rows."""
    return np.ascontiguousarray(np.asarray(columns).T)


def _samson(stored: Stored, _: Path, variant: str) -> Scene:
    suffix = "_alt" if variant == "alt" else ""
    axis, names = _nm(stored, "wavelength_nm"), _words(stored["names"])
    library = SpectralLibrary(stored["E" + suffix], axis, names)
    abundances = np.clip(stored["A" + suffix], 0, None)  # rounding leaves -3e-17
    return Scene(stored["Y"], axis, endmembers=library, abundances=abundances, abundance_names=names)


def _muufl(stored: Stored, _: Path, variant: str) -> Scene:
    axis, names = _nm(stored), _words(stored["names"])
    spectra = _turned(stored["endmembers_alt" if variant == "alt" else "endmembers"])
    return Scene(
        stored["cube"],
        axis,
        endmembers=SpectralLibrary(spectra, axis, names),
        abundances=stored["abundances"],
        abundance_names=names,
        labels=stored["scene_labels"],
        label_names=_words(stored["scene_label_names"]),
        header=Header(dsm=stored["dsm"]),
    )


def _asd(stored: Stored, _: Path, variant: str) -> SpectralLibrary:
    if variant == "cloth":
        axis = _nm(stored, "cloth_wavelengths_nm")
        return SpectralLibrary(_turned(stored["cloth_spectra"]), axis, _words(stored["cloth_names"]))
    classes = _words(stored["material_names"][stored["material"]])
    return SpectralLibrary(_turned(stored["spectra"]), _nm(stored), _words(stored["source_file"]), classes)


def _relab(stored: Stored, _: Path, __: str) -> Scene:
    axis, names = _nm(stored), _words(stored["names"])
    return Scene(
        stored["spectra"],
        axis,
        endmembers=SpectralLibrary(_turned(stored["endmembers"]), axis, names),
        abundances=stored["abundances"],
        abundance_names=names,
        header=Header(layout=stored["layout"]),
    )


def _mica(stored: Stored, _: Path, __: str) -> SpectralLibrary:
    extra = ("usgs_record", "kind", "is_duplicate_record", "valid_from_nm", "valid_to_nm", "spectrometer")
    header = Header({k: stored[k] for k in extra})
    return SpectralLibrary(stored["reflectance"], _nm(stored, "wavelength_nm"), _words(stored["name"]), header=header)


def _indian_pines(stored: Stored, _: Path, __: str) -> Scene:
    radiance = (stored["cube"].astype(np.float32) - 1000) / 500  # Purdue's scale: 1000 is no light
    return Scene(
        radiance,
        _nm(stored, "wavelength_nm", "fwhm_nm"),
        good_bands=~stored["low_snr"],
        labels=stored["labels"],
        label_names=_words(stored["class_names"]),
        quantity="radiance",
        header=Header(overlap=stored["overlap"], band_1based_of_220=stored["band_1based_of_220"]),
    )


def _nk(stored: Stored, _: Path, material: str) -> SpectralLibrary:
    n, k = stored[f"{material}__n"], stored[f"{material}__k"]
    axis = SpectralAxis(stored[f"{material}__wavelength_um"].astype(float) * 1e3)
    return SpectralLibrary(np.stack([n, np.clip(k, 0, None)]), axis, ("n", "k"))


def _earthlib(stored: Stored, _: Path, __: str) -> SpectralLibrary:
    header = Header({k: stored[k] for k in ("level_1", "level_3", "level_4", "source", "lat", "lon")})
    names, classes = _words(stored["name"]), _words(stored["level_2"])
    return SpectralLibrary(stored["reflectance"], _nm(stored, "wavelength_nm"), names, classes, header=header)


def _usgs1995(stored: Stored, _: Path, variant: str) -> SpectralLibrary:
    library = SpectralLibrary(_turned(stored["library"]), _nm(stored, fwhm="fwhm_nm"), _words(stored["names"]))
    return library.select(stored[f"{variant}_index"]) if variant else library


def _cuprite(stored: Stored, _: Path, __: str) -> Scene:
    axis = _nm(stored)
    return Scene(
        (stored["cube"] * np.float32(stored["scale"])).astype(np.float32),
        axis,
        endmembers=SpectralLibrary(_turned(stored["endmembers"]), axis, _words(stored["names"])),
        header=Header(band_index=stored["band_index"]),
    )


def _emit(stored: Stored, _: Path, variant: str) -> Loaded:
    names = _words(stored["names"])
    if variant == "library":
        return SpectralLibrary(stored["library_raw"], _nm(stored, "library_wavelengths_nm"), names, names)
    axis = _nm(stored)
    library = SpectralLibrary(_turned(stored["endmembers"]), axis, names, names)
    return Scene(
        stored["cube"], axis, good_bands=stored["good_bands"], endmembers=library, nodata=-9999.0, stated_nodata=-9999.0
    )


def _dc1(stored: Stored, _: Path, __: str) -> Scene:
    names = tuple(f"member {i}" for i in range(stored["library"].shape[1]))
    active = tuple(int(i) for i in stored["active"])
    return Scene(
        stored["cube_clean"],
        endmembers=SpectralLibrary(_turned(stored["library"]), None, names),
        abundances=stored["abundances"],
        abundance_names=tuple(names[i] for i in active),
        header=Header(active=active),
    )


def _hapkecnn(stored: Stored, _: Path, __: str) -> Scene:
    names = _words(stored["names"])
    return Scene(
        stored["cube"],
        endmembers=SpectralLibrary(_turned(stored["endmembers"]), None, names),
        abundances=stored["abundances"],
        abundance_names=names,
    )


def _bundle(stored: Stored, _: Path, scene: str) -> SpectralLibrary:
    if scene == "houston":
        classes = tuple(f"group {i}" for i in stored["houston_group"])
    else:
        classes = _words(stored[f"{scene}_names"][stored[f"{scene}_material"]])
    names = tuple(f"{c} {i}" for i, c in enumerate(classes))
    return SpectralLibrary(_turned(stored[scene]), None, names, classes)


def _feely(stored: Stored, folder: Path, variant: str) -> Scene:
    """The 830 bands from 399 cm⁻¹ on: below, the spectra are noise and the authors drop them."""
    kept = slice(104, None)
    axis, names = SpectralAxis(stored["wavenumber"][kept], unit="cm-1"), _words(stored["library_names"])
    with (folder / "feely_library_classes.csv").open(encoding="utf-8", newline="") as file:
        table = {row["endmember"]: row["class"] or "blackbody" for row in csv.DictReader(file)}
    spectra = _turned(stored["library"][kept])
    if variant == "modelled":
        spectra[stored["hdf_to_library"]] = stored["modelled_399cm_up_hdf_order"].T
    library = SpectralLibrary(spectra, axis, names, tuple(table[n] for n in names))
    return Scene(
        _turned(stored["mixtures"][kept]),
        axis,
        mask=stored["valid"],
        endmembers=library,
        abundances=stored["abundances"],
        abundance_names=_words(stored["classes"]),
        quantity="emissivity",
        header=Header(sample_names=_words(stored["sample_names"])),
    )


class _Entry(NamedTuple):
    """A dataset: its file, what it is, where it comes from, how its arrays become a scene or library."""

    file: str
    what: str
    origin: str
    build: Callable[[Stored, Path, str], Loaded]


MATERIALS = (
    "anhydrite_alpha", "anhydrite_or_gypsum_beta", "anhydrite_or_gypsum_gamma", "corundum_e", "corundum_o",
    "diesel_soot", "dolomite_e", "dolomite_o", "graphite_pellet", "halite", "hematite_e", "hematite_o",
    "illite", "kaolinite", "magnetite", "montmorillonite", "periclase", "silica_film_1.5_14um",
    "silica_film_25C", "silica_film_300C", "silica_glass_7_50um", "silicon_carbide_film", "titania_film",
    "water", "water_hale", "water_ice",
)  # fmt: skip
MUA = "GitHub ricardoborsoi/MUA_SparseUnmixing and ldrumetz/Social-Norms-Hyperspectral-Unmixing"
FAMILIES: tuple[tuple[str, str, dict[str, str], str, Callable[[Stored, Path, str], Loaded]], ...] = (
    ("samson", "samson.npz", {
        "": "95 × 95 airborne scene, 156 bands; reference of the autoencoder survey, endmembers of maximum 1",
        "alt": "Samson with the reference of DeepTrans-HSU, endmembers in the scale of the scene",
    }, "GitHub burknipalsson/hu_autoencoders and preetam22n/DeepTrans-HSU", _samson),
    ("muufl_gulfport_90x90", "muufl_gulfport_90x90.npz", {
        "": "90 × 90 airborne scene, 64 bands, five reference abundance maps, land-cover labels",
        "alt": "MUUFL Gulfport with the worse endmembers M1 (not to be scored against)",
    }, "GitHub UPCGIT/Hyperspectral-Unmixing-Models and GatorSense/MUUFLGulfport", _muufl),
    ("muufl_asd_field_spectra", "muufl_asd_field_spectra.npz", {
        "": "560 field spectra of 28 outdoor materials, 325 to 1075 nm",
        "cloth": "nine laboratory spectra of target cloths, 200 to 2500 nm",
    }, "GitHub GatorSense/MUUFLGulfport", _asd),
    ("relab_abo_intimate", "relab_abo_intimate.npz", {
        "": "nine measured binary powder mixtures of anorthite, bronzite and olivine with known fractions",
    }, "GitHub BehnoodRasti/HapkeCNN (RELAB, Brown University)", _relab),
    ("usgs_mica77", "usgs_mica77_1nm.npz", {
        "": "77 USGS spectra of minerals, vegetation, snow, water at 1 nm; intimate mixtures of known weight",
    }, "USGS Spectral Library Version 7, doi:10.5066/F7RR1WDJ", _mica),
    ("indian_pines", "indian_pines.npz", {
        "": "145 × 145 AVIRIS radiance, 200 bands (16 of low signal marked bad; two overlaps of "
        "spectrometers make the axis non-monotone), 16 land-cover classes",
    }, "Purdue University Research Repository, doi:10.4231/R7RX991C", _indian_pines),
    ("nk_minerals", "nk_minerals.npz", {
        m: f"complex refractive index of {m.replace('_', ' ')}: rows n and k (negative k set to 0)"
        for m in MATERIALS
    }, "refractiveindex.info", _nk),
    ("earthlib", "earthlib_optimized.npz", {
        "": "313 land-cover spectra, 400 to 2450 nm, in five classes (vegetation is simulated)",
    }, "the Python package earthlib", _earthlib),
    ("usgs1995_library", "usgs1995_library.npz", {
        "": "498 USGS mineral spectra on the 224 AVIRIS channels, sorted by wavelength",
        "pruned_10deg": "its 62 spectra that are at least 10 degrees apart",
        "pruned_3deg": "its 342 spectra that are at least 3 degrees apart",
    }, "GitHub ricardoborsoi/MUA_SparseUnmixing", _usgs1995),
    ("cuprite_50x90", "cuprite_50x90.npz", {
        "": "50 × 90 crop of AVIRIS Cuprite, 188 bands, three USGS spectra of its minerals",
    }, "GitHub LinaZhuang/NMF-QMV_demo", _cuprite),
    ("emit_example", "emit_example.npz", {
        "": "10 × 10 EMIT reflectance, 285 bands, with five endmembers interpolated to its bands",
        "library": "the five endmembers on their own 224 channels",
    }, "GitHub emit-sds/SpectralUnmixing", _emit),
    ("dc1_sparse", "dc1_sparse.npz", {
        "": "75 × 75 synthetic scene, 5 of 240 library spectra active, no noise",
    }, "GitHub BehnoodRasti/SUnCNN", _dc1),
    ("hapkecnn_sim1", "hapkecnn_sim1.npz", {
        "": "105 × 105 Hapke-simulated intimate mixtures of six minerals, no noise",
    }, "GitHub BehnoodRasti/HapkeCNN", _hapkecnn),
    ("endmember_bundles", "endmember_bundles.npz", {
        "urban": "651 pure pixels of six materials of Urban, 162 bands",
        "samson": "105 pure pixels of three materials of Samson, 156 bands",
        "houston": "50 pure pixels in five groups of Houston 2013, 144 bands",
    }, MUA, _bundle),
    ("feely", "feely_arrays.npz", {
        "": "96 thermal-infrared rock spectra (90 valid), 38 measured endmembers in 17 classes",
        "modelled": "the same with the endmembers rendered from their fitted dispersion parameters",
    }, "GitHub johnjaniczek/InfraRender (Feely & Christensen 1999)", _feely),
)  # fmt: skip
DATASETS = {
    f"{name}/{variant}" if variant else name: _Entry(f"{name}/{file}", what, origin, build)
    for name, file, variants, origin, build in FAMILIES
    for variant, what in variants.items()
}
