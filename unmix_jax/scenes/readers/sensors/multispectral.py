"""Sentinel-2 level 2A and Landsat Collection 2 level 2: bands with their measured spectral responses.

**Sentinel-2** (ESA, "Sentinel-2 Products Specification Document", S2-PDGS-TAS-DI-PSD, issue 14.9). A product is a
folder ``S2A_MSIL2A_….SAFE``; it is opened by its ``MTD_MSIL2A.xml``, by the folder, by one of the images
``GRANULE/…/IMG_DATA/R20m/T…_B02_20m.jp2``, or by the folder of these. The bands of one resolution make the scene: that
of the image that is opened, 20 m where the product is.

- Reflectance = (stored + offset) / quantification value, both from the metadata (``BOA_ADD_OFFSET``, -1000 since
  processing baseline 04.00; ``BOA_QUANTIFICATION_VALUE``, 10 000). 0 is no data; 65535 is saturated, and missing.
- Centres and responses come from the metadata (``Spectral_Information``), which hold those of the very satellite.
- Masked by the scene classification (SCL, at 20 and 60 m): 0 no data, 1 saturated or defective, 3 cloud shadow, 8 and
  9 cloud. Thin cirrus (10) is noted; snow and water are surfaces.

A GeoTIFF whose band descriptions are ``B02``, ``B8A``, … is a stack of Sentinel-2 bands (`read_sentinel2_stack`) where
B8A is among them, or its name or a tag says that the satellite was a Sentinel-2: other sensors have a ``B02`` too. It
knows less: which satellite it was is taken from its name, and the scale from the file or, for whole numbers without
one, from the convention of 10 000, with a note.

**Landsat 4 to 9** (USGS, "Landsat 8-9 Collection 2 Level 2 Science Product Guide", LSDS-1619, and "Landsat 4-7 …",
LSDS-1618). A scene is a folder with ``LC08_L2SP_…_SR_B1.TIF`` … and ``…_MTL.txt`` or ``…_MTL.xml``; it is opened by any
of these. Reflectance = stored · 2.75e-05 - 0.2, as the metadata repeat it; 0 is fill.

- Masked by ``…_QA_PIXEL.TIF``: bits 0 fill, 1 dilated cloud, 3 cloud, 4 cloud shadow; and where ``…_QA_RADSAT.TIF``
  says that a band of the scene is saturated. Cirrus of high confidence (bit 2) is noted; snow (5) and water (7) are
  surfaces.
- Surface temperature (``ST_B10``) and aerosols are not read.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from unmix_jax.scenes.lazy import LazyCube
from unmix_jax.scenes.readers.geotiff import read_geotiff
from unmix_jax.scenes.readers.sensors.product import (
    BandStack,
    Marked,
    flagged,
    layer,
    named,
    neighbours,
    open_raster,
    parse_mtl,
    parse_xml,
    per_band,
    place,
    xml_entries,
)
from unmix_jax.scenes.reading import Entries, Reading
from unmix_jax.scenes.responses import axis_of_responses, sensor_axis
from unmix_jax.scenes.scene import Header, Scene, SpectralAxis

__all__ = [
    "is_landsat",
    "is_sentinel2",
    "is_sentinel2_stack",
    "read_landsat",
    "read_sentinel2",
    "read_sentinel2_stack",
]

# ---- Sentinel-2

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")  # band_id 0 to 12
IMAGE = re.compile(r"(?P<begin>[\w-]{1,100}?)_(?P<band>B\d\d|B8A|SCL)(?:_(?P<step>10|20|60)m)?\.jp2", re.IGNORECASE)
METADATA = "MTD_MSIL2A.XML"
STEPS = ("20", "60", "10")  # m; at 20 m all bands but B08, B09 and B10 are there, and the scene classification
QUANTIFICATION = 10_000.0
SATURATED = 65535.0
UNUSABLE = (0, 1, 3, 8, 9)  # classes of SCL
CIRRUS = 10
ELSEWHERE = 20.0  # nm; the satellites differ by 17, and what is further away is no band of theirs
SATELLITE = re.compile(r"(?<![A-Za-z0-9])S(?:entinel)?-?2-?([A-D])(?![A-Za-z0-9])", re.IGNORECASE)
# A satellite of this kind, whichever of them; with underscores as spaces.
SENTINEL2 = re.compile(r"(?<![A-Za-z0-9])(?:S2[A-D]|Sentinel[- ]?2[A-D]?)(?![A-Za-z0-9])", re.IGNORECASE)
# Names of Landsat and of NASA's harmonized HLS, whose bands are called as those of Sentinel-2 and scaled otherwise.
OTHERS = re.compile(r"(?<![A-Za-z0-9])(?:L[COTEM]0[4-9]|HLS|(?:HLS)?[LS]30)(?![A-Za-z0-9])", re.IGNORECASE)
LANDSAT = re.compile(r"(?<![A-Za-z0-9])(?:L[COTEM]0|Landsat[- ]?)([45789])(?![0-9])", re.IGNORECASE)
LANDSAT_BAND = re.compile(r"(?:SR_)?B0?([1-7])", re.IGNORECASE)
STACKED = re.compile(r"B(?:0?[1-9]|1[0-2]|8A)", re.IGNORECASE)
# Groups of the metadata on where, when and how, and coefficients of other products: no reflectance depends on them.
CARRIED = ("General_Info/Product_Info", "General_Info/Product_Image_Characteristics/", "Geometric_Info/",
           "Auxiliary_Data_Info/", "Quality_Indicators_Info/")  # fmt: skip


def is_sentinel2(path: Path) -> bool:
    """Whether a file or folder belongs to a Sentinel-2 product in SAFE format, by its name."""
    if path.is_dir():
        files = neighbours(path)
        return METADATA in files or any(IMAGE.fullmatch(name) for name in files)
    return path.name.upper().startswith("MTD_MSIL") or IMAGE.fullmatch(path.name) is not None


def read_sentinel2(path: Path, told: Reading) -> Scene:
    """Open a Sentinel-2 level 2A product in SAFE format; the bands stay in their files.

    Args:
        path: ``MTD_MSIL2A.xml``, the ``.SAFE`` folder, an image of a band, or the folder of the images.
        told: what the user says.

    Returns:
        Reflectance, [row, column, band], with the responses of its bands.

    Raises:
        FileNotFoundError: no metadata, or no images.
        ValueError: another level, several granules, metadata that are damaged or do not list a band.
        ImportError: rasterio is not installed.
    """
    folder, metadata = _safe(path)
    files = neighbours(folder)
    images = {m["band"].upper(): (m, f) for m, f in named(IMAGE, files)}
    if len({m["begin"].upper() for m, _ in images.values()}) > 1:
        raise ValueError(f"{folder} holds images of several granules")
    bands = [band for band in BANDS if band in images]
    if not bands:
        raise FileNotFoundError(f"{folder} holds no image of a band (T…_B02_20m.jp2)")
    root = parse_xml(metadata)
    texts = xml_entries(root)
    entries = Entries(texts | {f"file {f.name}": f.name for f in files.values() if f.is_file()})
    entries.carry(
        *(name for name in texts if name.startswith(CARRIED)), *(n for n in entries.header() if n not in texts)
    )
    if root.tag != "Level-2A_User_Product":
        raise ValueError(f"{metadata} is of another level than 2A ({root.tag[:40]}): surface reflectance is read only")
    rasters = {band: open_raster(images[band][1]) for band in bands}
    stack = BandStack([(rasters[band], 1) for band in bands])
    scale, shifts, fill, saturated = _radiometry(root, bands, metadata, entries, told)
    for band in bands:
        entries.use(f"file {images[band][1].name}")
    told.unit_of("nm", str(metadata))
    axis, notes = _axis(root, bands, texts, metadata, entries)
    mask = None
    if "SCL" in images:
        classes = layer(images["SCL"][1], stack)[0]
        mask = ~np.isin(classes, UNUSABLE)
        notes += flagged(mask, {"thin cirrus": classes == CIRRUS}, "the scene classification (SCL)")
        entries.use(f"file {images['SCL'][1].name}")
    else:
        notes.append("there is no scene classification (SCL) at this resolution: clouds and shadows are not masked")
    return Scene(
        LazyCube(Marked(stack, [saturated]), divisor=scale, offset=per_band(shifts / scale), nodata=fill),
        axis,
        mask=mask,
        stated_nodata=fill,
        name=images[bands[0]][0]["begin"],
        quantity="reflectance",
        notes=tuple(notes),
        account=entries.account(),
        header=Header(dict(entries.header()) | place(rasters[bands[0]]) | {"band names": bands}),
    )


def _safe(path: Path) -> tuple[Path, Path]:
    """The folder of the images of one resolution, and the metadata of the product."""
    folder = path if path.is_dir() else path.parent
    files = neighbours(folder)
    if METADATA in files or path.name.upper().startswith("MTD_MSIL"):
        if METADATA not in files:
            raise ValueError(f"{path} is of another level than 2A: surface reflectance is read only")
        granules = (
            sorted(f for f in neighbours(folder / "GRANULE").values() if f.is_dir()) if "GRANULE" in files else []
        )
        if len(granules) != 1:
            raise ValueError(
                f"{path}: the product must hold one granule, it holds {len(granules)}: open an image of the one that "
                "is wanted (GRANULE/…/IMG_DATA/R20m/…_B02_20m.jp2)"
            )
        for step in STEPS:
            images = granules[0] / "IMG_DATA" / f"R{step}m"
            if images.is_dir() and any(IMAGE.fullmatch(name) for name in neighbours(images)):
                return images, files[METADATA]
        raise FileNotFoundError(f"{path}: {granules[0].name}/IMG_DATA holds no images in R20m, R60m or R10m")
    if len(folder.absolute().parents) > 3:  # images / IMG_DATA / granule / GRANULE / product
        product = folder.absolute().parents[3]
        found = neighbours(product).get(METADATA) if folder.parent.name.upper() == "IMG_DATA" else None
        if found is not None:
            return folder, found
    raise FileNotFoundError(
        f"{path}: {METADATA.replace('.XML', '.xml')} is not where the product has it, four folders above the images: "
        "the scale of the reflectance stands in it"
    )


def _radiometry(
    root: Element, bands: list[str], path: Path, entries: Entries, told: Reading
) -> tuple[float, np.ndarray, float, float]:
    """Quantification value, offset of each band in stored numbers, no-data and saturated value."""
    special = {}
    for element in root.iter("Special_Values"):
        special[(element.findtext("SPECIAL_VALUE_TEXT") or "").strip()] = element.findtext("SPECIAL_VALUE_INDEX")
    fill, saturated = (
        _number(special.get(name, default), f"the special value {name}", path)
        for name, default in (("NODATA", "0"), ("SATURATED", str(SATURATED)))
    )
    stated = next(root.iter("BOA_QUANTIFICATION_VALUE"), None)
    if stated is None:
        stated = next(root.iter("L2A_BOA_QUANTIFICATION_VALUE"), None)
    if stated is None and told.scale is None:
        raise ValueError(f"{path} gives no BOA_QUANTIFICATION_VALUE; give --scale, such as 0.0001")
    scale = QUANTIFICATION if stated is None else _number(stated.text, "BOA_QUANTIFICATION_VALUE", path)
    if not scale > 0:
        raise ValueError(f"{path}: BOA_QUANTIFICATION_VALUE must be above 0, it is {scale:g}")
    offsets = {e.get("band_id"): _number(e.text, "BOA_ADD_OFFSET", path) for e in root.iter("BOA_ADD_OFFSET")}
    numbers = {_name(e.get("physicalBand", "")): e.get("bandId") for e in root.iter("Spectral_Information")}
    shifts = []
    for band in bands:
        number = numbers.get(band, str(BANDS.index(band)))
        if offsets and number not in offsets and told.offset is None:
            raise ValueError(f"{path}: BOA_ADD_OFFSET lists no band_id {number}, which is {band}; give --offset")
        shifts.append(offsets.get(number, 0.0))
    last = ("SPECIAL_VALUE_TEXT", "SPECIAL_VALUE_INDEX", "BOA_QUANTIFICATION_VALUE", "L2A_BOA_QUANTIFICATION_VALUE",
            "BOA_ADD_OFFSET")  # fmt: skip
    for name in entries.header():
        if name.rpartition("/")[2] in last:
            entries.use(name)
    return scale, np.array(shifts), fill, saturated


def _axis(
    root: Element, bands: list[str], texts: dict[str, Any], path: Path, entries: Entries
) -> tuple[SpectralAxis, list[str]]:
    """Bands with their responses, out of the metadata; where these have none, of what ships."""
    said = {_name(e.get("physicalBand", "")): e for e in root.iter("Spectral_Information")}
    if all(band in said and said[band].find("Spectral_Response/VALUES") is not None for band in bands):
        tables, centres = [], []
        for band in bands:
            element = said[band]
            first, step, centre = (
                _number(element.findtext(name), f"{name} of {band}", path)
                for name in ("Wavelength/MIN", "Spectral_Response/STEP", "Wavelength/CENTRAL")
            )
            words = (element.findtext("Spectral_Response/VALUES") or "").split()
            values = np.array([_number(word, f"the response of {band}", path) for word in words])
            if not (step > 0 and first > 0 and centre > 0):
                raise ValueError(f"{path}: wavelengths of {band} must be above 0")
            tables.append((first + step * np.arange(len(values)), values))
            centres.append(centre)
        for name in entries.header():
            if "/Spectral_Information/" in name and name.rpartition("/")[2] != "RESOLUTION":
                entries.use(name)
        try:
            return axis_of_responses(tables, centres, bands), []
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    words = [str(text) for name, text in texts.items() if name.endswith(("SPACECRAFT_NAME", "PRODUCT_URI"))]
    return _shipped(" ".join(words), bands)


def _shipped(text: str, bands: list[str]) -> tuple[SpectralAxis, list[str]]:
    """Bands of the satellite that a text names."""
    found = SATELLITE.search(text[:2000].replace("_", " "))
    letter = found[1].upper() if found else ""
    if letter in ("A", "B"):
        return sensor_axis(f"sentinel2{letter}", bands), []
    why = f"the responses of Sentinel-2{letter} do not ship" if letter else "which Sentinel-2 it was is not said"
    return sensor_axis("sentinel2a", bands), [
        f"{why}: those of Sentinel-2A are taken; its bands lie up to 4 nm from those of the others, B12 up to 17 nm"
    ]


def is_sentinel2_stack(path: Path) -> bool:
    """Whether a GeoTIFF is a stack of Sentinel-2 bands: every band is described as one of them, and no two are equal.

    Other sensors call their bands so, too: B8A must be among them, or the name or a tag of the file must say that the
    satellite was a Sentinel-2. Files that are named as those of Landsat or HLS are none.
    """
    name_of_file = path.name[:200].replace("_", " ")
    if OTHERS.search(name_of_file):
        return False
    names, tags = _described(path)
    if not names or not all(STACKED.fullmatch(name) for name in names) or len({_name(n) for n in names}) < len(names):
        return False
    return "B8A" in map(_name, names) or SENTINEL2.search(f"{name_of_file} {tags}") is not None


def read_sentinel2_stack(path: Path, told: Reading) -> Scene:
    """Open a GeoTIFF of Sentinel-2 level 2A bands; the cube stays in the file.

    Args:
        path: a GeoTIFF whose bands are described ``B02``, ``B8A``, … in any order.
        told: what the user says.

    Returns:
        Reflectance, [row, column, band], with the responses of its bands.

    Raises:
        ValueError: no such GeoTIFF, tags that cannot be honoured.
        ImportError: rasterio is not installed.
    """
    scene = read_geotiff(path, told)
    bands = [_name(str(name)) for name in scene.header.get("band names", ())]
    if len(bands) != scene.bands or any(band not in BANDS for band in bands) or len(set(bands)) < len(bands):
        raise ValueError(f"{path} is no stack of Sentinel-2 bands: its bands are described {', '.join(bands) or 'not'}")
    told.unit_of("nm", str(path))
    said = " ".join(str(value) for value in scene.header.values() if isinstance(value, str))[:1000]
    axis, notes = _shipped(f"{path.name} {said}", bands)
    if scene.axis is not None and np.abs(np.asarray(scene.axis.to("nm").centers) - axis.centers).max() > ELSEWHERE:
        axis, notes = scene.axis, ["the file gives other wavelengths than Sentinel-2 has: its own are taken"]
    cube, fill = scene.cube, scene.stated_nodata
    if np.dtype(cube.source.dtype).kind in "iu":
        scaling = cube.scaling
        if fill is None:
            fill = scaling["nodata"] = 0.0
        if told.scale is None and scaling["divisor"] == 1 and np.all(scaling["gain"] == 1):
            scaling["divisor"] = QUANTIFICATION
            notes.append(
                "the file states no scale: stored numbers are taken as reflectance × 10 000, as ESA delivers it. "
                "Products since January 2022 (processing baseline 04.00) add 1000; if that is still in them, give "
                "--offset -0.1"
            )
        cube = LazyCube(Marked(cube.source, [SATURATED]), **scaling)
    return replace(
        scene, cube=cube, axis=axis, stated_nodata=fill, quantity="reflectance", notes=(*scene.notes, *notes)
    )


def is_landsat_stack(path: Path) -> bool:
    """Whether a GeoTIFF is a stack of Landsat bands: they are described ``SR_B4``, and its name says which Landsat."""
    if LANDSAT.search(path.name[:200].replace("_", " ")) is None:
        return False
    names, _ = _described(path)
    bands = [LANDSAT_BAND.fullmatch(name) for name in names]
    return bool(bands) and all(bands) and len({found[1] for found in bands if found}) == len(bands)


def read_landsat_stack(path: Path, told: Reading) -> Scene:
    """Open a GeoTIFF of Landsat Collection 2 level 2 surface reflectance; the cube stays in the file.

    Args:
        path: a GeoTIFF named after its satellite (``LC08_…``), whose bands are described ``SR_B2``, ``SR_B3``, …
        told: what the user says.

    Returns:
        Reflectance, [row, column, band], with the responses of its bands. Whole numbers without a scale of their own
        have that of Collection 2, which a note says.

    Raises:
        ValueError: no such GeoTIFF, bands that the satellite does not have, tags that cannot be honoured.
        ImportError: rasterio is not installed.
    """
    scene = read_geotiff(path, told)
    satellite = LANDSAT.search(path.name[:200].replace("_", " "))
    bands = [LANDSAT_BAND.fullmatch(str(name).strip()) for name in scene.header.get("band names", ())]
    if satellite is None or len(bands) != scene.bands or not all(bands):
        raise ValueError(f"{path} is no stack of Landsat bands: name it LC08_... and its bands SR_B2 and so on")
    told.unit_of("nm", str(path))
    axis = sensor_axis(f"landsat{satellite[1]}", [f"B{found[1]}" for found in bands if found])
    cube, fill, notes = scene.cube, scene.stated_nodata, []
    if np.dtype(cube.source.dtype).kind in "iu":
        scaling = cube.scaling
        if fill is None:
            fill = scaling["nodata"] = FILL
        plain = scaling["divisor"] == 1 and np.all(scaling["gain"] == 1) and np.all(scaling["offset"] == 0)
        if told.scale is None and plain:
            scaling["gain"], scaling["offset"] = SCALE, SHIFT
            notes.append(f"the file states no scale: that of Collection 2 is taken, stored x {SCALE:g} {SHIFT:+g}")
        cube = LazyCube(cube.source, **scaling)
    return replace(
        scene, cube=cube, axis=axis, stated_nodata=fill, quantity="reflectance", notes=(*scene.notes, *notes)
    )


def _described(path: Path) -> tuple[list[str], str]:
    """Descriptions of the bands of a GeoTIFF and the text of its tags; none where it is none, or has none."""
    try:
        with open_raster(path) as raster:
            tags = " ".join(str(text)[:200] for text in raster.tags().values())[:2000].replace("_", " ")
            return [str(text).strip() if text else "" for text in raster.descriptions], tags
    except (ValueError, ImportError):
        return [], ""


def _name(text: str) -> str:
    """``B2``, ``b02`` and ``B02`` are one band."""
    found = re.fullmatch(r"B0?(\d{1,2}|8A)", text.strip()[:8], re.IGNORECASE)
    return f"B{found[1].upper().zfill(2)}" if found else text


def _number(text: Any, what: str, path: Path) -> float:
    """A number in the metadata."""
    try:
        number = float(str(text).strip())
    except ValueError:
        number = np.nan
    if not np.isfinite(number):
        raise ValueError(f"{path}: {what} must be a number, got {str(text)[:30]!r}")
    return number


# ---- Landsat

PRODUCT = r"L[COTEM]0?(?P<number>[4-9])_L2S[PR]_\d{6}_\d{8}_\d{8}_\d\d_\w\w"
REFLECTANCE = re.compile(rf"(?P<stem>{PRODUCT})_SR_B(?P<band>[1-7])\.TIFF?", re.IGNORECASE)
PART = re.compile(rf"(?P<stem>{PRODUCT})_(?:SR_B[1-7]\.TIFF?|QA_\w+\.TIFF?|MTL\.(?:txt|xml))", re.IGNORECASE)
SCALE, SHIFT, FILL = 2.75e-05, -0.2, 0.0  # of Collection 2 level 2
PARAMETERS = "LEVEL2_SURFACE_REFLECTANCE_PARAMETERS"
QA_UNUSABLE = 0b11011  # bits of QA_PIXEL: fill, dilated cloud, cloud, cloud shadow
QA_CIRRUS = 0b100
# Groups of the metadata on where, when, how, and on other products: no reflectance depends on them.
LANDSAT_CARRIED = ("PRODUCT_CONTENTS/", "IMAGE_ATTRIBUTES/", "PROJECTION_ATTRIBUTES/", "LEVEL2_PROCESSING_RECORD/",
                   "LEVEL2_SURFACE_TEMPERATURE_PARAMETERS/", "LEVEL1_", "PRODUCT_PARAMETERS/")  # fmt: skip
# The ranges from which factor and offset follow: they say the same once more.
RANGES = re.compile(
    rf"{PARAMETERS}/(?:(?:REFLECTANCE|RADIANCE)_(?:MAXIMUM|MINIMUM)|QUANTIZE_CAL_(?:MAX|MIN))_BAND_\w{{1,9}}"
)


def is_landsat(path: Path) -> bool:
    """Whether a file or folder belongs to a Landsat Collection 2 level 2 scene, by its name."""
    if path.is_dir():
        return any(PART.fullmatch(name) for name in neighbours(path))
    return PART.fullmatch(path.name) is not None


def read_landsat(path: Path, told: Reading) -> Scene:
    """Open a Landsat Collection 2 level 2 scene by one of its files or its folder; the bands stay in their files.

    Args:
        path: ``LC08_L2SP_…_MTL.txt``, ``…_SR_B4.TIF``, ``…_QA_PIXEL.TIF``, or the folder of one scene.
        told: what the user says.

    Returns:
        Reflectance, [row, column, band], with the responses of its bands.

    Raises:
        FileNotFoundError: no band of surface reflectance.
        ValueError: several scenes in a folder, metadata that are damaged, bands of different sizes.
        ImportError: rasterio is not installed.
    """
    files = neighbours(path if path.is_dir() else path.parent)
    found = PART.fullmatch(path.name)
    stems = sorted({found["stem"]} if found else {m["stem"] for m, _ in named(PART, files)})
    if len({stem.upper() for stem in stems}) != 1:
        raise ValueError(f"{path} must hold one Landsat scene, it holds {len(stems)}: open a file of the one wanted")
    stem = stems[0]
    images = {int(m["band"]): f for m, f in named(REFLECTANCE, files) if m["stem"].upper() == stem.upper()}
    if not images:
        raise FileNotFoundError(f"{path}: there is no band of surface reflectance ({stem}_SR_B1.TIF …) in the folder")
    numbers = sorted(images)
    bands = [f"B{number}" for number in numbers]
    texts, metadata = _landsat_metadata(files, stem)
    others = {f"file {f.name[len(stem) + 1 :]}": f.name for n, f in files.items() if n.startswith(stem.upper() + "_")}
    entries = Entries(texts | others)
    entries.carry(*(name for name in texts if name.startswith(LANDSAT_CARRIED) or RANGES.fullmatch(name)), *others)
    notes = []
    if metadata is None:
        notes.append(
            f"{stem}_MTL.txt is not in the folder: the scale of Collection 2, stored · {SCALE:g} - {-SHIFT:g}, is taken"
        )
    gain, offset = (
        _landsat_numbers(entries, what, default, numbers, metadata or path)
        for what, default in (("REFLECTANCE_MULT", SCALE), ("REFLECTANCE_ADD", SHIFT))
    )
    if not (gain > 0).all() and told.scale is None:
        raise ValueError(f"{metadata}: REFLECTANCE_MULT_BAND must be above 0 for every band; give --scale")
    told.unit_of("nm", str(path))
    axis = sensor_axis(f"landsat{PART.fullmatch(images[numbers[0]].name)['number']}", bands)  # type: ignore[index]
    rasters = [open_raster(images[number]) for number in numbers]
    if wrong := next((raster for raster in rasters if raster.count != 1), None):
        raise ValueError(f"{wrong.name} has {wrong.count} bands; one was expected")
    stack = BandStack([(raster, 1) for raster in rasters])
    for number in numbers:
        entries.use(f"file {images[number].name[len(stem) + 1 :]}")
    mask = _landsat_mask(files, stem, stack, numbers, entries, notes)
    return Scene(
        LazyCube(stack, gain=per_band(gain), offset=per_band(offset), nodata=FILL),
        axis,
        mask=mask,
        stated_nodata=FILL,
        name=stem,
        quantity="reflectance",
        notes=tuple(notes),
        account=entries.account(),
        header=Header(dict(entries.header()) | place(rasters[0]) | {"band names": bands}),
    )


def _landsat_metadata(files: dict[str, Path], stem: str) -> tuple[dict[str, Any], Path | None]:
    """Entries of the MTL file, text or XML, under ``group/key``."""
    if (text := files.get(f"{stem}_MTL.TXT".upper())) is not None:
        return dict(parse_mtl(text)), text
    if (xml := files.get(f"{stem}_MTL.XML".upper())) is not None:
        return xml_entries(parse_xml(xml)), xml
    return {}, None


def _landsat_numbers(entries: Entries, what: str, default: float, numbers: list[int], path: Path) -> np.ndarray:
    """A factor or an offset of each band."""
    names = [f"{PARAMETERS}/{what}_BAND_{number}" for number in numbers]
    return np.array([_number(entries.use(name, default), name.rpartition("/")[2], path) for name in names])


def _landsat_mask(
    files: dict[str, Path], stem: str, stack: BandStack, numbers: list[int], entries: Entries, notes: list[str]
) -> np.ndarray | None:
    """Pixels that the quality bands leave; None without them."""
    quality, saturation = (
        next((files[n] for end in ("TIF", "TIFF") if (n := f"{stem}_{kind}.{end}".upper()) in files), None)
        for kind in ("QA_PIXEL", "QA_RADSAT")
    )
    if quality is None:
        notes.append(f"{stem}_QA_PIXEL.TIF is not in the folder: clouds and shadows are not masked")
        return None
    flags = layer(quality, stack)[0]
    mask = flags & QA_UNUSABLE == 0
    entries.use(f"file {quality.name[len(stem) + 1 :]}")
    if saturation is not None:
        bits = sum(1 << (number - 1) for number in numbers)
        mask &= layer(saturation, stack)[0] & bits == 0
        entries.use(f"file {saturation.name[len(stem) + 1 :]}")
    notes += flagged(mask, {"cirrus": flags & QA_CIRRUS != 0}, "QA_PIXEL")
    return mask
