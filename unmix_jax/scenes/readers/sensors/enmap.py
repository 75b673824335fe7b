"""EnMAP products of DLR, levels 2A and 1C: an image and its ``METADATA.XML`` in one folder.

Layout: DLR, "EnMAP HSI Level 1 / Level 2 Product Specification", EN-PCV-ICD-2009-2; the flags of the quality layers as
ESA's SNAP and the EnMAP-Box read them. ``…-SPECTRAL_IMAGE.TIF`` (also ``_COG.TIF``, ``.JP2``, or ``.BSQ``, ``.BIL``,
``.BIP`` with an ENVI header) and ``…-METADATA.XML`` share the name of the product; opening either
gives the scene, and so does the folder of one product and the header of an ENVI image.

- ``specific/bandCharacterisation`` gives centres and widths in nm, gain and offset of each band: value = stored · gain
  + offset. Level 2A is reflectance, level 1C radiance in W m⁻² sr⁻¹ nm⁻¹. Bands without any value (the water vapour
  bands of level 2A) are left out when the scene is opened. Between some 900 and 1000 nm both spectrometers measure, and
  their bands alternate: all are kept.
- Pixels at the no-data value of the image are missing; where it states none, ``specific/backgroundValue`` is taken,
  else -32768 at level 2A and 0 at level 1C.
- Masked: background (``QL_QUALITY_CLASSES`` 3), cloud, cloud shadow, thick cirrus (``QL_QUALITY_CIRRUS`` 3) and
  saturation (``QL_QUALITY_TESTFLAGS`` bits 4 and 5). Not masked, but noted: haze, thin and medium cirrus, low quality
  and artefacts (test flags 2 in bits 0 and 1, bits 6 and 7). Snow is a surface, and interpolated pixels have values:
  neither is masked, and so are defects of single bands (``QL_PIXELMASK``), which DLR interpolates.

Level 1B is refused: its spectrometers are not on one grid.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from unmix_jax.scenes.lazy import LazyCube
from unmix_jax.scenes.readers.envi import read_envi_scene
from unmix_jax.scenes.readers.sensors.product import (
    BandStack,
    background,
    band_table,
    described,
    flagged,
    layer,
    metadata_in,
    neighbours,
    open_raster,
    parse_xml,
    per_band,
    place,
    xml_entries,
)
from unmix_jax.scenes.reading import Entries, Reading
from unmix_jax.scenes.scene import Header, Scene
from unmix_jax.scenes.units import spectral_axis

__all__ = ["is_enmap", "read_enmap"]

NAME = re.compile(
    r"(?P<stem>ENMAP.{1,200}?)-(?:SPECTRAL_IMAGE(?P<detector>_VNIR|_SWIR)?(?:_COG)?\.(?:TIFF?|GEOTIFF|JP2|BSQ|BIL|BIP|HDR)"
    r"|METADATA\.XML)",
    re.IGNORECASE,
)
IMAGES = ("SPECTRAL_IMAGE.TIF", "SPECTRAL_IMAGE_COG.TIF", "SPECTRAL_IMAGE.TIFF", "SPECTRAL_IMAGE.GEOTIFF",
          "SPECTRAL_IMAGE.JP2", "SPECTRAL_IMAGE.BSQ", "SPECTRAL_IMAGE.BIL", "SPECTRAL_IMAGE.BIP")  # fmt: skip
INTERLEAVED = IMAGES[-3:]  # those with an ENVI header
LAYERS = (".TIF", "_COG.TIF", ".TIFF", ".GEOTIFF", ".JP2")
LEVEL = re.compile(r"L(0|1B|1C|2A)(?=-)", re.IGNORECASE)
FILL = {"1C": 0.0, "2A": -32768.0}
PLACE = ("map info", "coordinate system string", "crs", "transform")
# Entries that say where, when and how, and what else the product holds: no number of the image depends on them.
CARRIED = re.compile(
    r"(?:metadata|processing|history|quality\w*)(?:/.*)?"
    r"|base/(?:format|level|name|dataset|archivedVersion|revision|(?:temporal|spatial)Coverage/.*)"
    r"|specific/(?:mode|mission|sensor|orbit\w*|repeatCycle\w*|\w*Angle|\w*Angle/\w+|\w*OfScene|\w*OfOverpass|\w*Time"
    r"|spatialResolution|pixelSize|qualityFlag/.*|geometricResolution|groundReference/.*|terrain\w*|sceneAOT|sceneWV"
    r"|(?:vnir|swir)?ProductQuality|(?:smile|keystone)Correction|overallQuality\w*|virtualChannels?\w*"
    r"|bandCharacterisation/bandID/(?:RPC/.*|solarIrradiance\w*|bandNumber|channel\w*))"
    r"|product/(?:productFileInformation|image|quicklook|pixelMask|quality\w*|ortho|navigation|metadata)(?:/.*)?"
    r"|QL_.*|-.*",
    re.IGNORECASE,
)


def is_enmap(path: Path) -> bool:
    """Whether a path is the image, its header or the metadata of an EnMAP product, or the folder of one product."""
    if path.is_dir():
        return metadata_in(path, NAME) is not None
    return NAME.fullmatch(path.name) is not None


def read_enmap(path: Path, told: Reading) -> Scene:
    """Open an EnMAP product by its image or its metadata; the cube stays in the image.

    Args:
        path: ``ENMAP…-SPECTRAL_IMAGE.TIF``, ``ENMAP…-METADATA.XML``, or the folder that holds one product.
        told: what the user says.

    Returns:
        Reflectance (level 2A) or radiance (level 1C), [row, column, band].

    Raises:
        FileNotFoundError: the image or the metadata is not beside the file.
        ValueError: level 1B, metadata that do not fit the image, damaged files.
        ImportError: rasterio is not installed.
    """
    path = metadata_in(path, NAME) or path
    found = NAME.fullmatch(path.name)
    if found is None:
        raise ValueError(f"{path} is not called as EnMAP products are (ENMAP…-SPECTRAL_IMAGE.TIF, …-METADATA.XML)")
    stem, said = found["stem"], LEVEL.search(found["stem"] + "-")
    level = said[1].upper() if said else ""
    files = neighbours(path.parent)
    if found["detector"] or level == "1B":
        raise ValueError(
            f"{path} is of level 1B, whose two spectrometers are not on one grid: order the product at level 1C or 2A"
        )
    if level not in FILL:
        raise ValueError(f"{path} is of level {level or 'unknown'}: EnMAP is read at levels 1C and 2A")
    metadata = _required(files, stem, ("METADATA.XML",), path)
    image = path
    if path.suffix.upper() == ".XML":
        image = _required(files, stem, IMAGES, path)
    elif path.suffix.upper() == ".HDR":
        image = _required(files, stem, INTERLEAVED, path)
    root = parse_xml(metadata)
    entries = Entries(xml_entries(root) | {_suffix(f, stem): f.name for f in _others(files, stem, image, metadata)})
    entries.carry(*described(entries.header(), CARRIED))
    table = band_table(root, ("wavelengthCenterOfBand", "FWHMOfBand", "GainOfBand", "OffsetOfBand"), metadata, entries)
    count = len(table["GainOfBand"])
    source, header, stated = _image(image, told)
    if source.shape[-1] != count:
        raise ValueError(f"{metadata} lists {count} bands, {image.name} has {source.shape[-1]}")
    if (table["GainOfBand"] == 0).any() and told.scale is None:
        raise ValueError(f"{metadata}: GainOfBand is 0 for a band; give --scale")
    axis = spectral_axis(
        table["wavelengthCenterOfBand"],
        fwhm=table["FWHMOfBand"],
        unit=told.unit_of("nm", str(metadata)),
        where=str(metadata),
    )
    mask, notes = _mask(files, stem, source, entries)
    fill = background(entries, stated, FILL[level], metadata, told, notes)
    return Scene(
        LazyCube(source, gain=per_band(table["GainOfBand"]), offset=per_band(table["OffsetOfBand"]), nodata=fill),
        axis,
        mask=mask,
        stated_nodata=fill,
        name=stem,
        quantity="reflectance" if level == "2A" else "radiance",
        notes=tuple(notes),
        account=entries.account(),
        header=Header(dict(entries.header()) | header),
    )


def _required(files: dict[str, Path], stem: str, endings: tuple[str, ...], path: Path) -> Path:
    """A file of the product."""
    for ending in endings:
        if (found := files.get(f"{stem}-{ending}".upper())) is not None:
            return found
    raise FileNotFoundError(
        f"{path}: the product needs {stem}-{endings[0]} in the same folder: the image holds the pixels, METADATA.XML "
        "the wavelengths, gains and offsets"
    )


def _others(files: dict[str, Path], stem: str, *without: Path) -> list[Path]:
    """Further files of the product."""
    begin = f"{stem}-".upper()
    return [f for name, f in sorted(files.items()) if name.startswith(begin) and f not in without and f.is_file()]


def _suffix(file: Path, stem: str) -> str:
    """What a file of the product is, such as ``QL_QUALITY_CLOUD.TIF``."""
    kind = file.name[len(stem) + 1 :].upper()
    return kind if kind.startswith("QL_") else f"-{kind}"


def _image(image: Path, told: Reading) -> tuple[Any, dict[str, Any], float | None]:
    """Stored numbers [row, column, band], place, and the no-data value that the image states."""
    if image.suffix.upper() in (".BSQ", ".BIL", ".BIP"):
        scene = read_envi_scene(image, told)
        cube = scene.cube
        kept = {
            k: v for k, v in scene.header.items() if k in ("map info", "coordinate system string", "crs", "transform")
        }
        return (cube.source if isinstance(cube, LazyCube) else cube), kept, scene.stated_nodata
    raster = open_raster(image)
    return BandStack([(raster, band) for band in raster.indexes]), place(raster), raster.nodata


def _mask(files: dict[str, Path], stem: str, cube: Any, entries: Entries) -> tuple[np.ndarray | None, list[str]]:
    """Pixels that the quality layers leave, and a note on those that they flag and leave; None without layers."""
    layers = {}
    for what in ("CLASSES", "CLOUD", "CLOUDSHADOW", "CIRRUS", "HAZE", "TESTFLAGS"):
        for ending in LAYERS:
            if (file := files.get(f"{stem}-QL_QUALITY_{what}{ending}".upper())) is not None:
                layers[what] = layer(file, cube)[0]
                entries.use(_suffix(file, stem))
                break
    if not layers:
        return None, ["the product has no quality layers (QL_QUALITY_…): clouds and shadows are not masked"]
    shape = cube.shape[:2]
    nothing = np.zeros(shape, np.uint8)
    classes, cirrus, flags = (layers.get(what, nothing) for what in ("CLASSES", "CIRRUS", "TESTFLAGS"))
    bad = (classes == 3) | (layers.get("CLOUD", nothing) == 1) | (layers.get("CLOUDSHADOW", nothing) == 1)
    bad |= (cirrus == 3) | (flags & 0b110000 != 0)
    kept = ~bad
    doubtful = {
        "haze": layers.get("HAZE", nothing) == 1,
        "thin cirrus": cirrus == 1,
        "medium cirrus": cirrus == 2,
        "low quality": flags & 0b11 == 2,
        "artefacts": flags & 0b11000000 != 0,
    }
    return kept, flagged(kept, doubtful, "the product")
