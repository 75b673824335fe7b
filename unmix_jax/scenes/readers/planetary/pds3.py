"""PDS3 images and qubes, with attached or detached labels: CRISM, M³, THEMIS, ISIS 2 and whatever has such a label.

Cubes stay in their files. What is read:

IMAGE: ``LINES``, ``LINE_SAMPLES``, ``BANDS``, ``BAND_STORAGE_TYPE``, ``SAMPLE_TYPE``, ``SAMPLE_BITS``, prefixes and
suffixes of lines, ``SCALING_FACTOR``, ``OFFSET``. QUBE and SPECTRAL_QUBE: ``AXIS_NAME``, ``CORE_ITEMS``, types,
``CORE_BASE``, ``CORE_MULTIPLIER``; suffix planes are passed over. Both: constants that mark missing data, band centres,
map projection.

A label names its data file without a path; the file lies beside the label. Nothing else that a label names is opened,
except what these missions put beside their images under names made by rule: an ENVI header, CRISM's wavelength files
and location images, M³'s location image.

References:
    Planetary Data System Standards Reference 3.8 (JPL D-7669, part 2), chapters 3, 5, 14, appendix A (IMAGE, QUBE);
    Planetary Science Data Dictionary (JPL D-7116); CRISM Data Product SIS 1.3.7.7 (JHU/APL, 2024); THEMIS Standard Data
    Products SIS (ASU); GDAL, drivers PDS and ISIS2.
"""

import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unmix_jax.scenes.readers.envi import PLACING, EnviHeader
from unmix_jax.scenes.readers.planetary.common import (
    cube_of,
    local_radius,
    mapped,
    metres,
    pds3_type,
    quantity_of,
    special_value,
    stored_unit,
    wkt_of,
)
from unmix_jax.scenes.readers.planetary.missions import (
    CRISM_FILL,
    crism_axis,
    crism_quantity,
    location_beside,
    m3_label,
    themis_axis,
)
from unmix_jax.scenes.readers.planetary.odl import (
    LABEL_BYTES,
    Block,
    Label,
    line_of_text,
    located,
    read_label,
    sibling,
    whole_number,
)
from unmix_jax.scenes.readers.planetary.tes import has_spectra, library_of, scene_of
from unmix_jax.scenes.reading import Reading
from unmix_jax.scenes.scene import Account, Header, Scene, SpectralAxis, SpectralLibrary
from unmix_jax.scenes.units import axis_of_names, existing, in_file, spectral_axis

__all__ = ["is_pds3", "read_pds3", "read_pds3_library"]

HEAD_BYTES = 2048
HEAD = re.compile(
    rb"^[ \t]*(PDS_VERSION_ID[ \t]*=[ \t]*\"?(PDS3|LABELSET)|CCSD3\w+[ \t]*=|ODL_VERSION_ID[ \t]*=)", re.MULTILINE
)
SPECIAL = (
    "CORE_NULL", "CORE_LOW_REPR_SATURATION", "CORE_LOW_INSTR_SATURATION", "CORE_HIGH_INSTR_SATURATION",
    "CORE_HIGH_REPR_SATURATION", "MISSING_CONSTANT", "MISSING", "INVALID_CONSTANT", "NULL_CONSTANT", "UNKNOWN_CONSTANT",
    "NOT_APPLICABLE_CONSTANT", "LOW_REPR_SATURATION", "LOW_INSTR_SATURATION", "HIGH_INSTR_SATURATION",
    "HIGH_REPR_SATURATION", "MISSING_VALUE", "INVALID", "FILL_VALUE", "PIXEL_NULL",
)  # fmt: skip
# Entries of an image that change no number of it: names, statistics, how to show it, where it was cut out.
DESCRIPTIVE = re.compile(
    r"(DERIVED_|STRETCH|.*_?(MINIMUM|MAXIMUM|MEAN|MEDIAN|DEVIATION)$|CHECKSUM|MD5|.*DESC|DESCRIPTION|.*NOTE|NAME$|FIRST_|"
    r".*DISPLAY_DIRECTION|SAMPLING_FACTOR|SOURCE_|.*_TEMPERATURE|.*_ID$|.*_FLAG$|BAND_SEQUENCE|FILTER_N|DETECTOR|"
    r"HORIZONTAL|VERTICAL|INTERCHANGE_FORMAT|BYTES$|AXES$|CORE_NAME|.*UNIT$|.*SUFFIX|BANDWIDTH|.*BAND_BIN_|"
    r".*_TIME$|.*_COUNT$)"
)
ORDERS = {"BAND_SEQUENTIAL": "bsq", "LINE_INTERLEAVED": "bil", "SAMPLE_INTERLEAVED": "bip"}


class _Object(NamedTuple):
    """An image of a label: the block that describes it, the block with its pointer, and the name of the pointer."""

    block: Block
    holder: Block
    pointer: str


class _Stored(NamedTuple):
    """The numbers of an image, [row, column, band], and how they become values."""

    numbers: np.ndarray
    gain: Any
    offset: Any
    above: float | None


def is_pds3(path: str | Path) -> bool:
    """Whether the path is a PDS3 label, begins with one, or has one beside it."""
    path = Path(path)
    return path.is_file() and _label_path(_image_of(path)) is not None


def read_pds3(path: Path, told: Reading) -> Scene:
    """Open what a PDS3 label describes: an image, a qube, or a table of spectra.

    Of several images in a label, the one with the most bands is opened, or the one in the file that is named.

    Args:
        path: the label, the file that begins with it, the data file beside it, or the ENVI header of an M³ image.
        told: what the user says.

    Returns:
        The scene, in the file's order of rows, columns and bands. ``header["crs"]`` and ``header["transform"]`` are
        those of its map projection; ``header["location"]`` holds latitudes and longitudes of a swath.

    Raises:
        FileNotFoundError: no label, or no data file beside it.
        ValueError: a damaged label, a type or an order that is not read, a file that is too short.
    """
    with in_file(path):
        path = _image_of(path)
        label_path = _label_of(path)
        label = read_label(label_path)
        images = _images(label, label_path, path)
        if not images:
            if has_spectra(label, label_path):
                return scene_of(label, label_path, told)
            raise ValueError("the label describes no image, no qube and no table of spectra that is read")
        return _scene(label, label_path, _chosen(images, told), told)


def read_pds3_library(path: Path, told: Reading) -> SpectralLibrary:
    """Read the spectra of a table that a PDS3 label describes, such as CRISM's type spectra or tables of TES.

    Args:
        path: the label, or the table that has or begins with one.
        told: what the user says.

    Raises:
        FileNotFoundError: no label, or no table beside it.
        ValueError: a damaged label, or no table of spectra.
    """
    with in_file(path):
        label_path = _label_of(path)
        label = read_label(label_path)
        if not has_spectra(label, label_path):
            raise ValueError("the label describes no table of spectra; images are opened with read_scene")
        return library_of(label, label_path, told)


def _image_of(path: Path) -> Path:
    """The image that the ENVI header of an M³ product lies beside, where a label describes it; else the path itself.

    The label of M³ has a name of its own, so that the header would otherwise be read without what the label says.
    """
    if path.suffix.lower() == ".hdr" and m3_label(path.name) is not None:
        image = sibling(path, f"{path.stem}.IMG", f"{path.stem}.img")
        if image is not None and _label_path(image) is not None:
            return image
    return path


def _label_path(path: Path) -> Path | None:
    """The label of a file that is there: its beginning, or a file beside it that names it; None: it has none."""
    with path.open("rb") as file:
        if HEAD.search(file.read(HEAD_BYTES)):
            return path
    by_rule = m3_label(path.name)
    names = [f"{path.stem}.LBL", f"{path.name}.LBL", *([by_rule] if by_rule is not None else [])]
    label_path = sibling(path, *names)
    if label_path is None or path.suffix.lower() == ".hdr":  # an ENVI header is read as what it is
        return None
    with label_path.open("rb") as file:
        text = file.read(LABEL_BYTES)
    named = path.name.upper().encode("latin-1", "replace") in text.upper()
    return label_path if named and HEAD.search(text[:HEAD_BYTES]) else None


def _label_of(path: Path) -> Path:
    """The label of a file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it has no label.
    """
    label_path = _label_path(existing(path))
    if label_path is None:
        raise ValueError(f"no PDS3 label in the file, and none beside it that names it ({path.stem}.LBL)")
    return label_path


def _images(label: Label, label_path: Path, path: Path) -> list[_Object]:
    """The images and qubes of a label, those in the file that is named where this is not the label."""
    found = []
    for block, holder, pointer in label.pointed():
        if "CORE_ITEMS" in block.entries or "LINE_SAMPLES" in block.entries:
            content = holder.entries[pointer].content
            named = str(content[0] if isinstance(content, list) and content else content)
            if path == label_path or named.lower() == path.name.lower():
                found.append(_Object(block, holder, pointer))
    return found


def _opened(label_path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """The numbers of the only image of a label, [row, column, band], and the names of its bands.

    Raises:
        ValueError: no image or several, or one that is not read.
    """
    label = read_label(label_path)
    images = _images(label, label_path, label_path)
    if len(images) != 1 or "LINE_SAMPLES" not in images[0].block.entries:
        raise ValueError(f"{label_path.name} describes {len(images)} images, where one is expected")
    image = images[0]
    data, offset = located(label, label_path, image.holder, image.pointer)
    numbers = _image(label, image, data, offset, Reading()).numbers
    return numbers, _band_names(label, image.block, numbers.shape[-1])


def _chosen(images: list[_Object], told: Reading) -> _Object:
    """The image with the most bands, or the one that the user names.

    Raises:
        ValueError: several have as many.
    """
    names = [image.pointer[1:] for image in images]
    wanted = told.keys.get("cube", "").upper()
    if wanted:
        if wanted not in names:
            raise ValueError(f"the label has no image {wanted[:40]}; it has {', '.join(names)}")
        return images[names.index(wanted)]
    bands = [_count_bands(image.block) for image in images]
    best = [image for image, count in zip(images, bands, strict=True) if count == max(bands)]
    for name in ("SPECTRAL_QUBE", "QUBE", "IMAGE"):
        best = [image for image in best if image.pointer[1:] == name] or best
    if len(best) > 1:
        raise ValueError(
            f"the label describes several images of {max(bands)} bands, {', '.join(i.pointer[1:] for i in best)}: name "
            f"the data file that you want, or give --key cube={best[0].pointer[1:]}"
        )
    return best[0]


def _count_bands(block: Block) -> int:
    """Bands of an image as far as its label can be understood; nothing is marked."""
    try:
        if "CORE_ITEMS" in block.entries:
            names = [str(n).upper() for n in block.entries["AXIS_NAME"].content]
            return int(block.entries["CORE_ITEMS"].content[names.index("BAND")])
        return int(block.entries["BANDS"].content) if "BANDS" in block.entries else 1
    except (KeyError, ValueError, TypeError, IndexError):
        return 1


def _scene(label: Label, label_path: Path, image: _Object, told: Reading) -> Scene:
    """The scene of an image."""
    block, (data, offset) = image.block, located(label, label_path, image.holder, image.pointer)
    mission = label.word(label.root, "INSTRUMENT_ID")
    stored = (_qube if "CORE_ITEMS" in block.entries else _image)(label, image, data, offset, told)
    rows, columns, bands = stored.numbers.shape
    special = _special(label, block, stored.numbers.dtype, told)
    if mission == "CRISM":
        special.append(CRISM_FILL)
    beside_it = _EnviBeside.of(data, label_path, (rows, columns, bands))
    notes: list[str] = []
    if beside_it is not None:
        if (number := beside_it.header.ignored(bands, told)) is not None:
            special += [float(n) for n in np.unique(np.ravel(number))]
        stored = beside_it.scaled(stored, bands, told, notes)
    cube, stated = cube_of(
        stored.numbers, told, gain=stored.gain, offset=stored.offset, special=special, above=stored.above, path=data
    )
    axis, good = _axis(label, block, label_path, data, (columns, bands), beside_it, told, notes)
    names = _band_names(label, block, bands)
    if axis is None and names and (found := axis_of_names(names)) is not None:
        axis = spectral_axis(found[0], unit=told.unit_of(found[1], str(label_path)), where=str(label_path))
    quantity = _quantity(label, image, mission)
    if beside_it is not None:
        by_header = beside_it.header.quantity()
        quantity = quantity or by_header
    if beside_it is not None and beside_it.header.flags(bands) is not None:
        flags = beside_it.header.flags(bands)
        good = flags if good is None else good & flags
    label_crs = _place(label, image, notes)
    location = {} if label_crs else location_beside(mission, data, (rows, columns), _opened)
    label.carry_outside(block)
    _carry_inside(label, block)
    header = Header(label.entries.header())
    if names:
        header["band names"] = list(names)
    if special:
        header["special values"] = list(dict.fromkeys(special))
    account = label.entries.account()
    if beside_it is not None:
        account = beside_it.add_to(account)
    header.update(label_crs or location)
    return Scene(
        cube,
        axis,
        good_bands=good,
        stated_nodata=stated,
        name=data.stem,
        quantity=quantity or "value",
        notes=tuple(notes),
        account=account,
        header=header,
    )


def _image(label: Label, image: _Object, data: Path, offset: int, told: Reading) -> _Stored:
    """The numbers of an IMAGE object.

    Raises:
        ValueError: an entry is absent, or says something that is not read.
    """
    block = image.block
    for name in ("ENCODING_TYPE", "ENCODING_COMPRESSION_RATIO"):
        if (coded := label.word(block, name)) not in ("", "1", "1.0"):
            raise ValueError(f"{name} {coded} is not read: the image is compressed")
    rows, columns = (label.whole(block, name) for name in ("LINES", "LINE_SAMPLES"))
    bands, bits = label.whole(block, "BANDS", default=1), label.whole(block, "SAMPLE_BITS")
    if bits % 8:
        raise ValueError(f"SAMPLE_BITS {bits} is not read: samples have whole bytes")
    dtype = pds3_type(label.word(block, "SAMPLE_TYPE"), bits // 8, "SAMPLE_TYPE")
    mask = label.value(block, "SAMPLE_BIT_MASK")
    if mask is not None and "#" in str(mask.content) and dtype.kind != "f":
        used = str(mask.content).split("#")[1:2]
        if used and used[0].strip("1") and set(used[0]) <= {"0", "1"}:
            raise ValueError(f"SAMPLE_BIT_MASK {mask.content}, by which only some bits of a sample count, is not read")
    order = label.word(block, "BAND_STORAGE_TYPE")
    if order not in ORDERS and bands > 1:
        if told.interleave is None:
            raise ValueError(
                f"BAND_STORAGE_TYPE {order or 'is missing; it'} is none of {', '.join(ORDERS)}: correct it, or give "
                "--interleave bsq, bil or bip"
            )
        interleave = told.interleave
        if interleave not in ("bsq", "bil", "bip"):
            raise ValueError(f"--interleave is bsq, bil or bip, got {interleave!r}")
    else:
        interleave = ORDERS.get(order, "bsq")
    before, after = (label.whole(block, f"LINE_{name}_BYTES", default=0) for name in ("PREFIX", "SUFFIX"))
    shapes = {"bsq": (bands, rows, columns), "bil": (rows, bands, columns), "bip": (rows, columns, bands)}
    axes = {"bsq": (1, 2, 0), "bil": (0, 2, 1), "bip": (0, 1, 2)}[interleave]
    size, strides = dtype.itemsize, None
    if before or after:
        extra, line = before + after, columns * size
        record = label.whole(
            image.holder if "RECORD_BYTES" in image.holder.entries else label.root, "RECORD_BYTES", default=0
        )
        if interleave == "bsq":
            strides = (rows * (line + extra), line + extra, size)
        elif interleave == "bip":
            strides = (bands * line + extra, bands * size, size)
        elif bands == 1 or record == line + extra:  # a record is a line of one band
            strides = (bands * (line + extra), line + extra, size)
        elif record == bands * line + extra:  # a record is a line of all bands
            strides = (bands * line + extra, line, size)
        else:
            raise ValueError(
                f"LINE_PREFIX_BYTES {before} and LINE_SUFFIX_BYTES {after} of an image with interleaved lines: "
                f"RECORD_BYTES {record} is neither a line of one band with them ({line + extra}) nor one of all bands "
                f"({bands * line + extra})"
            )
        offset += before
    numbers = mapped(data, dtype, shapes[interleave], offset, axes, strides)
    gain, base = _scaling(label, block, ("SCALING_FACTOR", "OFFSET"), bands, told)
    return _Stored(numbers, gain, base, _lowest(label, block, dtype, told))


def _qube(label: Label, image: _Object, data: Path, offset: int, told: Reading) -> _Stored:
    """The numbers of a QUBE or SPECTRAL_QUBE; its suffix planes are passed over.

    Raises:
        ValueError: an entry is absent, or says something that is not read.
    """
    block = image.block
    if (axes_count := label.whole(block, "AXES", default=3)) != 3:
        raise ValueError(f"AXES {axes_count}: qubes of three axes are read")
    names = [str(name).upper() for name in _three(label, block, "AXIS_NAME")]
    if sorted(names) != ["BAND", "LINE", "SAMPLE"]:
        raise ValueError(f"AXIS_NAME {', '.join(names)[:80]} is not SAMPLE, LINE and BAND in any order")
    items = [whole_number(n, "CORE_ITEMS") for n in _three(label, block, "CORE_ITEMS")]
    core = label.whole(block, "CORE_ITEM_BYTES")
    dtype = pds3_type(label.word(block, "CORE_ITEM_TYPE"), core, "CORE_ITEM_TYPE")
    suffix = [0, 0, 0]
    if label.value(block, "SUFFIX_ITEMS") is not None:
        suffix = [whole_number(n, "SUFFIX_ITEMS") for n in _three(label, block, "SUFFIX_ITEMS")]
    each = label.whole(block, "SUFFIX_BYTES", default=4)  # the standard knows no other number
    # The fastest axis is the first. Suffix items stand behind the core items of their axis; corners, where two suffixes
    # meet, take room as well (Standards Reference, appendix A, QUBE).
    line = items[0] * core + suffix[0] * each
    plane = items[1] * line + suffix[1] * (items[0] + suffix[0]) * each
    strides = (plane, line, core)
    axes = [names[::-1].index(name) for name in ("LINE", "SAMPLE", "BAND")]
    numbers = mapped(data, dtype, items[::-1], offset, axes, strides if any(suffix[:2]) else None)
    bands = numbers.shape[-1]
    gain, base = _scaling(label, block, ("CORE_MULTIPLIER", "CORE_BASE"), bands, told)
    bins = _bins(block)
    if bins is not None and ("BAND_BIN_MULTIPLIER" in bins.entries or "BAND_BIN_BASE" in bins.entries):
        by_band = _scaling(label, bins, ("BAND_BIN_MULTIPLIER", "BAND_BIN_BASE"), bands, told)
        if not (np.all(gain == 1) and np.all(base == 0)) and not (
            np.array_equal(gain, by_band[0]) and np.array_equal(base, by_band[1])
        ):
            raise ValueError(
                "CORE_MULTIPLIER and CORE_BASE say another scale than BAND_BIN_MULTIPLIER and BAND_BIN_BASE: give "
                "--scale and --offset"
            )
        gain, base = by_band
    return _Stored(numbers, gain, base, _lowest(label, block, dtype, told))


def _three(label: Label, block: Block, name: str) -> list[Any]:
    """An entry that lists one item per axis."""
    value = label.value(block, name)
    if value is None or not isinstance(value.content, list) or len(value.content) != 3:
        raise ValueError(
            f"{name} must list three items, got {line_of_text(value.content)[:80] if value else 'nothing'}"
        )
    return value.content


def _scaling(label: Label, block: Block, names: tuple[str, str], bands: int, told: Reading) -> tuple[Any, Any]:
    """Gain and offset, each one number or one per band; those that the user replaces are passed over.

    Raises:
        ValueError: no numbers, or not as many as bands.
    """
    remedy = ". Correct it, or give --scale and --offset, which stand in its place"
    found: list[Any] = []
    for name, default, replaced in zip(names, (1.0, 0.0), (told.scale, told.offset), strict=True):
        if told.scale is not None or replaced is not None:
            label.value(block, name)
            found.append(default)
            continue
        numbers = label.numbers(block, name, remedy=remedy)
        if numbers is None:
            numbers = np.asarray([default])
        if len(numbers) not in (1, bands):
            raise ValueError(f"{name} lists {len(numbers)} numbers for {bands} bands{remedy}")
        if default == 1.0 and (numbers == 0).any():
            raise ValueError(f"{name} is zero{remedy}")
        found.append(float(numbers[0]) if len(numbers) == 1 else numbers)
    return found[0], found[1]


def _lowest(label: Label, block: Block, dtype: np.dtype, told: Reading) -> float | None:
    """The lowest number that is no special value."""
    value = label.value(block, "CORE_VALID_MINIMUM")
    if value is None or told.nodata is not None:
        return None
    return special_value(value.content, dtype, "CORE_VALID_MINIMUM")


def _special(label: Label, block: Block, dtype: np.dtype, told: Reading) -> list[float]:
    """The stored numbers that mark missing data, by the label."""
    found = []
    for name in SPECIAL:
        value = label.value(block, name)
        if value is None or told.nodata is not None:
            continue
        listed = value.content if isinstance(value.content, list) else [value.content]
        numbers = [special_value(item, dtype, name) for item in listed]
        found += [number for number in numbers if number is not None]
    return found


def _bins(block: Block) -> Block | None:
    """The block that lists the bands of a qube: a group in it, or the qube itself."""
    return next((b for b in block.walk() if any(name.startswith("BAND_BIN_") for name in b.entries)), None)


def _band_names(label: Label, block: Block, bands: int) -> tuple[str, ...]:
    """One name per band; empty where the label gives none."""
    value = label.value(block, "BAND_NAME")
    if value is None or not isinstance(value.content, list) or len(value.content) != bands:
        return ()
    return tuple(line_of_text(name) for name in value.content)


def _axis(
    label: Label, block: Block, label_path: Path, data: Path, size: tuple[int, int], envi: "_EnviBeside | None",
    told: Reading, notes: list[str],
) -> tuple[SpectralAxis | None, np.ndarray | None]:  # fmt: skip
    """Spectral axis and good bands: by the label, the ENVI header beside it, or the wavelength files of the mission."""
    bands, where = size[1], str(label_path)
    bins = _bins(block)
    names = (("BAND_BIN_CENTER",), ("BAND_BIN_WIDTH",), ("BAND_BIN_UNIT",))
    if bins is None or "BAND_BIN_CENTER" not in bins.entries:
        filters = (("CENTER_FILTER_WAVELENGTH",), ("BANDWIDTH",), ("CENTER_FILTER_WAVELENGTH_UNIT",))
        outer = next((b for b in (block, label.root) if "CENTER_FILTER_WAVELENGTH" in b.entries), None)
        bins, names = (outer, filters) if outer is not None else (bins, names)
    centers = label.numbers(bins, *names[0])
    if centers is not None and (len(centers) == bands or names[0][0] == "BAND_BIN_CENTER"):
        if len(centers) != bands:
            raise ValueError(f"{names[0][0]} lists {len(centers)} numbers for {bands} bands")
        widths = label.numbers(bins, *names[1])
        if widths is not None and len(widths) != bands:
            raise ValueError(f"{names[1][0]} lists {len(widths)} numbers for {bands} bands")
        value = label.value(bins, *names[0])
        unit = label.text(bins, *names[2]) or (value.unit if value is not None else "")
        return spectral_axis(centers, fwhm=widths, unit=stored_unit(unit, told, where), where=where), None
    if envi is not None and (axis := envi.header.axis(bands, told)) is not None:
        return axis, None
    mission = label.word(label.root, "INSTRUMENT_ID")
    if mission == "CRISM":
        return crism_axis(label, label_path, data, size, told, notes, _opened)
    if mission == "THEMIS" and label.word(label.root, "DETECTOR_ID") in ("IR", "THEMIS_IR", ""):
        return themis_axis(label, bins, bands, told, where), None
    return None, None


def _quantity(label: Label, image: _Object, mission: str) -> str | None:
    """What the values are, by the name or the unit of the image, or by the rule of the mission's names."""
    block = image.block
    named = quantity_of(*(label.text(block, name) for name in ("CORE_NAME", "NAME", "CORE_UNIT", "UNIT")))
    if named is None and mission == "CRISM":
        named = crism_quantity(label.text(label.root, "PRODUCT_ID"))
    if named is None:
        named = {"^RFL_IMAGE": "reflectance", "^RDN_IMAGE": "radiance"}.get(image.pointer)
    return named


def _place(label: Label, image: _Object, notes: list[str]) -> dict[str, Any]:
    """Coordinate system and transform by IMAGE_MAP_PROJECTION; empty, with a note, where they cannot be expressed."""
    group = image.block.find("IMAGE_MAP_PROJECTION") or label.root.find("IMAGE_MAP_PROJECTION")
    if group is None or not label.word(group, "MAP_PROJECTION_TYPE"):
        return {}
    try:
        place = _map(label, group, image.pointer == "^QUBE")
    except ValueError as error:
        notes.append(f"the map projection of the label is not understood, the image has no place: {error}")
        return {}
    if isinstance(place, str):
        notes.append(place)
        return {}
    return place


def _map(label: Label, group: Block, of_isis2: bool) -> dict[str, Any] | str:
    """Coordinate system and transform of a map, or why there are none; ISIS 2 has rules of its own (GDAL, ISIS2)."""
    kind = label.word(group, "MAP_PROJECTION_TYPE")
    turned = label.number(group, "MAP_PROJECTION_ROTATION")
    if turned not in (None, 0.0):
        return f"the map is turned by {turned:g} degrees, which is not read: the image has no place"
    radii = [label.value(group, f"{axis}_AXIS_RADIUS") for axis in "ABC"]
    if radii[0] is None:
        return "the map projection has no A_AXIS_RADIUS: the image has no place"
    equatorial = metres(radii[0], "KM")
    polar = equatorial if radii[2] is None else metres(radii[2], "KM")
    east = label.word(group, "POSITIVE_LONGITUDE_DIRECTION") != "WEST"
    numbers = {
        key: label.number(group, name) or 0.0
        for key, name in {
            "lat": "CENTER_LATITUDE", "lon": "CENTER_LONGITUDE", "first": "FIRST_STANDARD_PARALLEL",
            "second": "SECOND_STANDARD_PARALLEL",
        }.items()
    }  # fmt: skip
    numbers["lon"] *= 1 if east else -1
    if kind == "MERCATOR" and numbers["first"]:  # the latitude of true scale
        numbers["lat"] = numbers["first"]
    if of_isis2 and kind.startswith("EQUIRECTANGULAR"):  # otherwise the label has the radius of the sphere
        equatorial = polar = local_radius(equatorial, polar, numbers["lat"])
    system = label.word(group, "COORDINATE_SYSTEM_NAME", "PROJECTION_LATITUDE_TYPE")
    target = label.text(label.root, "TARGET_NAME") or label.text(group, "TARGET_NAME")
    crs = wkt_of(kind, target=target, equatorial=equatorial, polar=polar, centric=system == "PLANETOCENTRIC", **numbers)
    if crs is None:
        return f"the map projection {kind[:40]} cannot be expressed: the image has no place"
    scale_value, resolution = label.value(group, "MAP_SCALE"), label.number(group, "MAP_RESOLUTION")
    if scale_value is not None:
        scale = metres(scale_value, "KM")
    elif resolution:
        scale = math.radians(equatorial) / resolution
    else:
        return "the map projection has no MAP_SCALE: the image has no place"
    if not scale > 0:
        return f"MAP_SCALE is {scale:g}: the image has no place"
    line, sample = (label.number(group, f"{axis}_PROJECTION_OFFSET") for axis in ("LINE", "SAMPLE"))
    if line is None or sample is None:
        return "the map projection has no LINE_PROJECTION_OFFSET or SAMPLE_PROJECTION_OFFSET: the image has no place"
    # The offsets lead from the centre of the first pixel to the origin of the projection, downwards and to the right;
    # those of ISIS 2 lead from the origin to the centre of the first pixel.
    right, down = (sample - 0.5, line - 0.5) if of_isis2 else (-(sample + 0.5), -(line + 0.5))
    return {"crs": crs, "transform": (scale, 0.0, right * scale, 0.0, -scale, -down * scale)}


def _carry_inside(label: Label, block: Block) -> None:
    """Mark the entries of an image that only describe it as carried."""
    for name in label.entries.header():
        if name.startswith(f"{block.path}.") and DESCRIPTIVE.match(name.rpartition(".")[2]):
            label.entries.carry(name)


class _EnviBeside:
    """The ENVI header that lies beside an image, as M³ and CRISM deliver it."""

    def __init__(self, header: EnviHeader) -> None:
        self.header = header

    @classmethod
    def of(cls, data: Path, label_path: Path, shape: tuple[int, int, int]) -> "_EnviBeside | None":
        """The header of a data file; None: there is none.

        Raises:
            ValueError: it describes an image of another size than the label, a compressed one, or no image.
        """
        path = sibling(data, f"{data.stem}.HDR")
        if path is None:
            return None
        header = EnviHeader(path)
        for name, count in zip(("lines", "samples", "bands"), shape, strict=True):
            if (told := header.whole(name, count)) != count:
                raise ValueError(f"{path.name} has {told} {name}, the label {label_path.name} {count}")
        if "spectral library" in (kind := header.text("file type")).lower():
            raise ValueError(f"{path.name} has the file type {kind[:40]}, the label {label_path.name} an image")
        if header.text("file compression", "0") not in ("0", ""):
            raise ValueError(f"{path.name} says that the image is compressed, which is not read: save it uncompressed")
        for name in ("interleave", "data type", "byte order", "header offset"):  # the label says the same
            header.fields.use(name)
        header.fields.carry(*PLACING)
        return cls(header)

    def scaled(self, stored: _Stored, bands: int, told: Reading, notes: list[str]) -> _Stored:
        """The numbers with the gains and offsets of the header, where the label has none.

        Raises:
            ValueError: both have some, and they differ.
        """
        scaling, more = self.header.scaling(bands, told)
        notes += more
        divisor = scaling.get("divisor", 1.0)
        gain, offset = scaling.get("gain", 1.0) / divisor, scaling.get("offset", 0.0) / divisor
        if np.all(gain == 1) and np.all(offset == 0):
            return stored
        if np.all(np.asarray(stored.gain) == 1) and np.all(np.asarray(stored.offset) == 0):
            return stored._replace(gain=gain, offset=offset)
        if np.allclose(stored.gain, gain, rtol=1e-6, atol=0) and np.allclose(stored.offset, offset, rtol=1e-6, atol=0):
            return stored
        raise ValueError(
            f"{self.header.path.name} says other gains or offsets than the label: give --scale and --offset, which "
            "stand in the place of both"
        )

    def add_to(self, account: Account) -> Account:
        """An account with that of the header."""
        own = self.header.fields.account()
        return Account(*(
            (*ours, *(f"hdr.{name}" for name in theirs)) for ours, theirs in zip(account, own, strict=True)
        ))  # fmt: skip
