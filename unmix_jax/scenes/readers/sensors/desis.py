"""DESIS products of DLR, levels 2A, 1C and 1B: an image and its ``METADATA.xml`` in one folder.

Layout: DLR, "DESIS Product Specification", PAV-DLR-ICD-003, issue 1.0 (4 June 2019). ``…-SPECTRAL_IMAGE.tif`` and
``…-METADATA.xml`` share the name of the product; opening either gives the scene, and so does the folder of one product.

- ``specific/bandCharacterisation/band`` gives centres and widths in nm, gain and offset of each band: value = stored ·
  gain + offset. Level 2A is reflectance, levels 1B and 1C are radiance in mW cm⁻² sr⁻¹ µm⁻¹.
- Pixels at the no-data value of the image are missing; where it states none, ``specific/backgroundValue`` is taken,
  else -32768.
- ``…-QL_QUALITY-2.tif`` of level 2A holds one flag per band: 1 shadow, 2 clear land, 3 snow, 4 haze over land, 5 haze
  over water, 6 cloud over land, 7 cloud over water, 8 clear water (9 and 10 are aerosol and water vapour). Shadow and
  cloud are masked; haze is noted.

Level 1B is in the geometry of the sensor and has no place.
"""

import re
from pathlib import Path

import numpy as np

from unmix_jax.scenes.lazy import LazyCube
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

__all__ = ["is_desis", "read_desis"]

NAME = re.compile(
    r"(?P<stem>DESIS-HSI-L(?P<level>1B|1C|2A)-.{1,200}?)-(?:SPECTRAL_IMAGE\.TIFF?|METADATA\.XML)", re.IGNORECASE
)
FILL = -32768.0
# Entries that say where, when and how, and what else the product holds: no number of the image depends on them.
CARRIED = re.compile(
    r"(?:metadata|processing|history|quality\w*)(?:/.*)?"
    r"|base/(?:format|level|name|dataset|archivedVersion|revision|(?:temporal|spatial)Coverage/.*)"
    r"|specific/(?:mode|mission|sensor|orbit\w*|\w*Angle|\w*Angle/\w+|\w*OfScene|\w*Time|frameInformation/.*|tile\w*"
    r"|spatialResolution|pixelSize|qualityFlag/.*|(?:interior|exterior)Orientation/.*|binning\w*|atmospheric\w*/.*"
    r"|satellitePositions?/.*|attitude\w*/.*|geo\w*/.*|bandCharacterisation/band/(?:bandNumber|response|wavelengths))"
    r"|product/(?:productFileInformation|image|quicklook|quality\w*|metadata)(?:/.*)?|file .*",
    re.IGNORECASE,
)
SHADOW, HAZE, CLOUD = (1,), (4, 5), (6, 7)  # bands of QL_QUALITY-2


def is_desis(path: Path) -> bool:
    """Whether a path is the image or the metadata of a DESIS product, by its name, or the folder of one product."""
    if path.is_dir():
        return metadata_in(path, NAME) is not None
    return NAME.fullmatch(path.name) is not None


def read_desis(path: Path, told: Reading) -> Scene:
    """Open a DESIS product by its image or its metadata; the cube stays in the image.

    Args:
        path: ``DESIS-HSI-L2A-…-SPECTRAL_IMAGE.tif``, ``…-METADATA.xml``, or the folder that holds one product.
        told: what the user says.

    Returns:
        Reflectance (level 2A) or radiance (levels 1B, 1C), [row, column, band].

    Raises:
        FileNotFoundError: the image or the metadata is not beside the file.
        ValueError: metadata that do not fit the image, damaged files.
        ImportError: rasterio is not installed.
    """
    path = metadata_in(path, NAME) or path
    found = NAME.fullmatch(path.name)
    if found is None:
        raise ValueError(f"{path} is not called as DESIS products are (DESIS-HSI-L2A-…-SPECTRAL_IMAGE.tif)")
    stem, level, files = found["stem"], found["level"].upper(), neighbours(path.parent)
    metadata, image = (
        next((files[name] for e in endings if (name := f"{stem}-{e}".upper()) in files), None)
        for endings in (("METADATA.xml",), ("SPECTRAL_IMAGE.tif", "SPECTRAL_IMAGE.tiff"))
    )
    if metadata is None or image is None:
        absent = "METADATA.xml" if metadata is None else "SPECTRAL_IMAGE.tif"
        raise FileNotFoundError(
            f"{path}: the product needs {stem}-{absent} in the same folder: the image holds the pixels, METADATA.xml "
            "the wavelengths, gains and offsets"
        )
    root = parse_xml(metadata)
    begin = f"{stem}-".upper()
    others = [f for name, f in sorted(files.items()) if name.startswith(begin) and f not in (metadata, image)]
    entries = Entries(xml_entries(root) | {f"file {f.name[len(begin) :]}": f.name for f in others})
    entries.carry(*described(entries.header(), CARRIED))
    names = ("wavelengthCenterOfBand", "wavelengthWidthOfBand", "gainOfBand", "offsetOfBand")
    table = band_table(root, names, metadata, entries)
    count = len(table["gainOfBand"])
    raster = open_raster(image)
    if raster.count != count:
        raise ValueError(f"{metadata} lists {count} bands, {image.name} has {raster.count}")
    if (table["gainOfBand"] == 0).any() and told.scale is None:
        raise ValueError(f"{metadata}: gainOfBand is 0 for a band; give --scale")
    cube = BandStack([(raster, band) for band in raster.indexes])
    axis = spectral_axis(
        table["wavelengthCenterOfBand"],
        fwhm=table["wavelengthWidthOfBand"],
        unit=told.unit_of("nm", str(metadata)),
        where=str(metadata),
    )
    mask = None
    notes: list[str] = []
    quality = files.get(f"{stem}-QL_QUALITY-2.TIF".upper())
    if quality is not None:
        flags = layer(quality, cube, bands=range(1, 9)) > 0
        shadow, haze, cloud = (np.any(flags[[b - 1 for b in which]], axis=0) for which in (SHADOW, HAZE, CLOUD))
        mask = np.asarray(~(shadow | cloud))
        notes += flagged(mask, {"haze": np.asarray(haze)}, quality.name)
        entries.use(f"file {quality.name[len(begin) :]}")
    elif level == "2A":
        notes.append("the product has no QL_QUALITY-2.tif beside it: clouds and shadows are not masked")
    fill = background(entries, raster.nodata, FILL, metadata, told, notes)
    return Scene(
        LazyCube(cube, gain=per_band(table["gainOfBand"]), offset=per_band(table["offsetOfBand"]), nodata=fill),
        axis,
        mask=mask,
        stated_nodata=fill,
        name=stem,
        quantity="reflectance" if level == "2A" else "radiance",
        notes=tuple(notes),
        account=entries.account(),
        header=Header(dict(entries.header()) | (place(raster) if level != "1B" else {})),
    )
