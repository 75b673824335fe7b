"""ISIS 3 cubes: an attached or detached PVL label, and numbers in tiles or band after band.

Values are ``stored · Multiplier + Base``. ISIS keeps five numbers of every type for pixels without a value (null, and
saturated low or high, by the instrument or in processing); they come out as NaN. Wavelengths are those of the group
BandBin, the place is that of the group Mapping. Tables, history and original labels in the file are not read.

References:
    ISIS (U.S. Geological Survey), cube format and label dictionary, `SpecialPixel.h`; GDAL, driver ISIS3.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from unmix_jax.scenes.readers.planetary.common import (
    Tiles,
    cube_of,
    local_radius,
    mapped,
    metres,
    quantity_of,
    stored_unit,
    wkt_of,
)
from unmix_jax.scenes.readers.planetary.odl import Block, Label, beside, line_of_text, read_label, sibling
from unmix_jax.scenes.reading import Reading
from unmix_jax.scenes.scene import Scene, SpectralAxis
from unmix_jax.scenes.units import axis_of_names, existing, in_file, spectral_axis

__all__ = ["is_isis", "read_isis"]

HEAD = re.compile(rb"\s*Object\s*=\s*IsisCube\b", re.IGNORECASE)
HEAD_BYTES = 512
TYPES = {
    "UNSIGNEDBYTE": "u1", "UNSIGNEDWORD": "u2", "SIGNEDWORD": "i2", "UNSIGNEDINTEGER": "u4", "SIGNEDINTEGER": "i4",
    "REAL": "f4", "DOUBLE": "f8",
}  # fmt: skip
# Null, low and high saturation of each type (SpecialPixel.h). Of reals, every number below the lowest valid one is
# special; it is the fifth from the end of their range.
NULLS: dict[str, tuple[int, ...]] = {
    "u1": (0, 255),
    "u2": (0, 1, 2, 65534, 65535),
    "i2": (-32768, -32767, -32766, -32765, -32764),
    "u4": (0, 1, 2, 4294967294, 4294967295),
    "i4": (-8388613, -8388612, -8388611, -8388610, -8388609),  # 0xFF7FFFFB to 0xFF7FFFFF
}
LOWEST_BITS = {"f4": 0xFF7FFFFA, "f8": 0xFFEFFFFFFFFFFFFA}
NULL_BITS = {"f4": 0xFF7FFFFB, "f8": 0xFFEFFFFFFFFFFFFB}


def is_isis(path: str | Path) -> bool:
    """Whether the path is an ISIS 3 cube, or the label of one."""
    path = Path(path)
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return HEAD.match(file.read(HEAD_BYTES)) is not None


def read_isis(path: Path, told: Reading) -> Scene:
    """Open an ISIS 3 cube without reading it.

    Args:
        path: the cube, its detached label, or the data file beside the label.
        told: what the user says.

    Returns:
        The scene, in the file's order of lines, samples and bands.

    Raises:
        FileNotFoundError: the label names a file that does not lie beside it.
        ValueError: a damaged label, a format or a type that is not read, a file that is too short.
    """
    with in_file(path):
        label_path: Path = existing(path)
        if not is_isis(label_path):
            detached = sibling(path, f"{path.stem}.LBL")
            if detached is None or not is_isis(detached):
                raise ValueError("no ISIS label in the file or beside it")
            label_path = detached
        label = read_label(label_path)
        core = label.root.find("Core")
        if core is None:
            raise ValueError("the label has no object Core")
        data, stored, dtype = _stored(label, label_path, core)
        bands = stored.shape[-1]
        pixels = core.find("Pixels")
        gain, offset = _scaling(label, pixels, told)
        kind = dtype.str[1:]
        special, lowest = [float(n) for n in NULLS.get(kind, ())], None
        if kind in LOWEST_BITS:
            lowest, null = (
                float(np.asarray(bits[kind], f"u{dtype.itemsize}").view(kind)) for bits in (LOWEST_BITS, NULL_BITS)
            )
            special = [null]
        cube, stated = cube_of(stored, told, gain=gain, offset=offset, special=special, above=lowest, path=data)
        notes: list[str] = []
        bins = label.root.find("BandBin")
        names = _names(label, bins, bands)
        axis = _axis(label, bins, bands, names, told, str(label_path))
        place = _place(label, label.root.find("Mapping"), notes)
        quantity = quantity_of(label.text(bins, "Name".upper(), "Unit".upper())) if bins is not None else None
        label.carry_outside(core)
        label.entries.carry(*(n for n in label.entries.header() if not n.startswith("IsisCube.Core")))
        header = label.entries.header()
        if names:
            header["band names"] = list(names)
        if told.nodata is None:
            header["special values"] = special
        header.update(place)
        return Scene(
            cube,
            axis,
            stated_nodata=stated,
            name=data.stem,
            quantity=quantity or "value",
            notes=tuple(notes),
            account=label.entries.account(),
            header=header,
        )


def _stored(label: Label, label_path: Path, core: Block) -> tuple[Path, Any, np.dtype]:
    """The file, the numbers [row, column, band] and their type.

    Raises:
        ValueError: sizes, a format or a type that are not read.
    """
    dimensions, pixels = core.find("Dimensions"), core.find("Pixels")
    samples, lines, bands = (label.whole(dimensions, name) for name in ("SAMPLES", "LINES", "BANDS"))
    kind = label.word(pixels, "TYPE")
    if kind not in TYPES:
        raise ValueError(f"Type {kind or 'is missing; it'} of the pixels is not read; the types are {', '.join(TYPES)}")
    order = label.word(pixels, "BYTEORDER") or "LSB"
    if order not in ("LSB", "MSB"):
        raise ValueError(f"ByteOrder {order} is neither Lsb nor Msb")
    dtype = np.dtype(("<" if order == "LSB" else ">") + TYPES[kind])
    pointer, data = label.value(core, "^CORE"), label_path
    if pointer is not None:
        data = beside(label_path, line_of_text(pointer.content), "^Core")
    start = label.whole(core, "STARTBYTE", default=1)
    if start < 1:
        raise ValueError("StartByte counts from 1, got 0")
    stored_as = label.word(core, "FORMAT")
    if stored_as == "BANDSEQUENTIAL":
        return data, mapped(data, dtype, (bands, lines, samples), start - 1, (1, 2, 0)), dtype
    if stored_as == "TILE":
        tile = label.whole(core, "TILELINES"), label.whole(core, "TILESAMPLES")
        return data, Tiles(data, dtype, (lines, samples, bands), tile, start - 1), dtype
    raise ValueError(f"Format {stored_as or 'is missing; it'} is not read; the formats are Tile and BandSequential")


def _scaling(label: Label, pixels: Block | None, told: Reading) -> tuple[float, float]:
    """Multiplier and base; those that the user replaces are passed over."""
    remedy = ". Correct it, or give --scale and --offset, which stand in its place"
    if told.scale is not None:
        label.value(pixels, "MULTIPLIER", "BASE")
        return 1.0, 0.0
    gain, base = label.number(pixels, "MULTIPLIER", remedy=remedy), None
    if gain == 0:
        raise ValueError(f"Multiplier is zero{remedy}")
    if told.offset is None:
        base = label.number(pixels, "BASE", remedy=remedy)
    else:
        label.value(pixels, "BASE")
    return (1.0 if gain is None else gain), (base or 0.0)


def _names(label: Label, bins: Block | None, bands: int) -> tuple[str, ...]:
    """One name per band; empty where the label gives none."""
    value = label.value(bins, "NAME", "BANDNAME", "FILTERNAME")
    listed = [] if value is None else value.content if isinstance(value.content, list) else [value.content]
    return tuple(line_of_text(name) for name in listed) if len(listed) == bands else ()


def _axis(
    label: Label, bins: Block | None, bands: int, names: tuple[str, ...], told: Reading, where: str
) -> SpectralAxis | None:
    """The spectral axis of the group BandBin, or of the names of the bands.

    Raises:
        ValueError: not as many centres or widths as bands; a unit that is not understood.
    """
    centers = label.numbers(bins, "CENTER", "BANDBINCENTER", "WAVELENGTH")
    if centers is None:
        found = axis_of_names(names)
        return None if found is None else spectral_axis(found[0], unit=told.unit_of(found[1], where), where=where)
    widths = label.numbers(bins, "WIDTH", "BANDBINWIDTH", "FWHM")
    for title, numbers in (("Center", centers), ("Width", widths)):
        if numbers is not None and len(numbers) != bands:
            raise ValueError(f"{title} of BandBin lists {len(numbers)} numbers for {bands} bands")
    stated = label.value(bins, "CENTER", "BANDBINCENTER", "WAVELENGTH")
    unit = label.text(bins, "UNITS", "UNIT", "BANDBINUNIT", "WAVELENGTHUNITS") or (stated.unit if stated else "")
    return spectral_axis(centers, fwhm=widths, unit=stored_unit(unit, told, where), where=where)


def _place(label: Label, group: Block | None, notes: list[str]) -> dict[str, Any]:
    """Coordinate system and transform of the group Mapping; empty, with a note, where they cannot be expressed."""
    if group is None or not label.word(group, "PROJECTIONNAME"):
        return {}
    try:
        place = _map(label, group)
    except ValueError as error:
        notes.append(f"the group Mapping is not understood, the image has no place: {error}")
        return {}
    if isinstance(place, str):
        notes.append(place)
        return {}
    return place


def _map(label: Label, group: Block) -> dict[str, Any] | str:
    """Coordinate system and transform of a map, or why there are none."""
    kind = label.word(group, "PROJECTIONNAME")
    if (turned := label.number(group, "ROTATION")) not in (None, 0.0):
        return f"the map is turned by {turned:g} degrees, which is not read: the image has no place"
    radius, polar_radius = (label.value(group, name) for name in ("EQUATORIALRADIUS", "POLARRADIUS"))
    if radius is None:
        return "the group Mapping has no EquatorialRadius: the image has no place"
    equatorial = metres(radius, "METERS")
    polar = equatorial if polar_radius is None else metres(polar_radius, "METERS")
    numbers = {
        "lat": label.number(group, "CENTERLATITUDE") or 0.0,
        "lon": label.number(group, "CENTERLONGITUDE") or 0.0,
        "first": label.number(group, "FIRSTSTANDARDPARALLEL") or 0.0,
        "second": label.number(group, "SECONDSTANDARDPARALLEL") or 0.0,
    }
    if (factor := label.number(group, "SCALEFACTOR")) is not None:
        numbers["factor"] = factor
    if label.word(group, "LONGITUDEDIRECTION") == "POSITIVEWEST":
        numbers["lon"] *= -1  # samples run to the east in any case
    if re.sub("[^A-Z]", "", kind) == "EQUIRECTANGULAR":
        equatorial = polar = local_radius(equatorial, polar, numbers["lat"])
    centric = label.word(group, "LATITUDETYPE") == "PLANETOCENTRIC"
    target = label.text(group, "TARGETNAME") or label.text(label.root.find("Instrument"), "TARGETNAME")
    crs = wkt_of(kind, target=target, equatorial=equatorial, polar=polar, centric=centric, **numbers)
    if crs is None:
        return f"the projection {kind[:40]} cannot be expressed: the image has no place"
    size, left, top = (label.value(group, n) for n in ("PIXELRESOLUTION", "UPPERLEFTCORNERX", "UPPERLEFTCORNERY"))
    if size is None or left is None or top is None:
        return "the group Mapping has no PixelResolution or upper left corner: the image has no place"
    scale, x, y = (metres(value, "METERS") for value in (size, left, top))
    if not scale > 0:
        return f"PixelResolution is {scale:g}: the image has no place"
    return {"crs": crs, "transform": (scale, 0.0, x, 0.0, -scale, y)}
