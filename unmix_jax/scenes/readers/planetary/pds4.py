"""PDS4 products: an XML label, and arrays in a file beside it.

What is read: arrays of two or three axes that are named Line, Sample and Band; data types, ``scaling_factor`` and
``value_offset``, ``Special_Constants``; band centres of ``Band_Bin_Set``, the spectral dictionary (``sp:``) or
of a table or one-dimensional array of wavelengths in the same file; the map projection of the cartography dictionary
(``cart:``). What is not: other tables, headers, and further files of the product.

A label is refused if it declares a document type: entities, which could read other files or grow without end, are only
declared there. The file that a label names lies beside it.

References:
    PDS4 Standards Reference and Data Dictionary (classes Array, Element_Array, Special_Constants, Band_Bin_Set);
    PDS4 Spectral dictionary (``sp:Axis_Bin_Set``, ``sp:Uniformly_Sampled``); PDS4 Cartography dictionary; GDAL, driver
    PDS4.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np

from unmix_jax.scenes.readers.planetary.common import (
    cube_of,
    mapped,
    metres,
    quantity_of,
    special_value,
    stored_unit,
    wkt_of,
)
from unmix_jax.scenes.readers.planetary.odl import ABSENT, Value, beside, finite, sibling, whole_number
from unmix_jax.scenes.reading import Entries, Reading
from unmix_jax.scenes.scene import Header, Scene, SpectralAxis
from unmix_jax.scenes.units import existing, in_file, spectral_axis

__all__ = ["is_pds4", "read_pds4"]

HEAD_BYTES = 8192  # a list of schemas stands before the first element
LABEL_BYTES = 16 * 2**20
DEEPEST = 30  # elements in elements; real labels have about ten levels
MOST_ELEMENTS = 100_000
LONGEST_NAME = 80  # letters of an element
# Types of PDS4 (Standards Reference, section 5C): numpy's name without the byte order, which is part of PDS4's name.
TYPES = {
    "IEEE754LSBSingle": "<f4", "IEEE754LSBDouble": "<f8", "IEEE754MSBSingle": ">f4", "IEEE754MSBDouble": ">f8",
    "SignedByte": "i1", "UnsignedByte": "u1",
    **{f"{sign}ed{order}SB{size}": f"{'<' if order == 'L' else '>'}{kind}{size}"
       for sign, kind in (("Sign", "i"), ("Unsign", "u")) for order in "LM" for size in (2, 4, 8)},
}  # fmt: skip
ARRAYS = ("Array_3D_Spectrum", "Array_3D_Image", "Array_3D_Movie", "Array_3D", "Array_2D_Spectrum", "Array_2D_Image",
          "Array_2D", "Array")  # fmt: skip
NAMES = {"line": "line", "lines": "line", "row": "line", "y": "line", "sample": "sample", "samples": "sample",
         "column": "sample", "x": "sample", "band": "band", "bands": "band", "wavelength": "band", "spectral": "band",
         "spectrum": "band", "wavenumber": "band", "channel": "band"}  # fmt: skip
RADII = (("a_axis_radius", "semi_major_radius"), ("c_axis_radius", "polar_radius"))
CONSTANTS = (
    "missing_constant", "invalid_constant", "unknown_constant", "not_applicable_constant", "saturated_constant",
    "error_constant", "high_instrument_saturation", "high_representation_saturation", "low_instrument_saturation",
    "low_representation_saturation",
)  # fmt: skip


class _Builder(ElementTree.TreeBuilder):
    """Builds elements, and stops at what no label has."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = self._count = 0

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        """A document type, which is where entities come from."""
        raise ValueError("the label declares a document type (DOCTYPE), which PDS4 does not use; it is not read")

    def start(self, tag: str, attrs: Any) -> Element:
        """An element begins."""
        self._depth, self._count = self._depth + 1, self._count + 1
        if self._depth > DEEPEST or self._count > MOST_ELEMENTS or len(tag.rpartition("}")[2]) > LONGEST_NAME:
            raise ValueError(
                f"the label is damaged: more than {DEEPEST} levels, {MOST_ELEMENTS} elements, or long names"
            )
        return super().start(tag, attrs)

    def end(self, tag: str) -> Element:
        """An element ends."""
        self._depth -= 1
        return super().end(tag)


class _Xml:
    """A label as elements, whose texts are used, carried or not understood.

    Attributes:
        root: its first element.
        entries: texts under the names of the elements around them.
    """

    def __init__(self, root: Element) -> None:
        self.root = root
        self._paths: dict[Element, str] = {}
        flat: dict[str, Any] = {}
        seen: dict[str, int] = {}
        level: list[tuple[Element, str]] = [(root, "")]
        while level:
            element, above = level.pop()
            name = f"{above}.{_name(element)}" if above else _name(element)
            count = seen[name] = seen.get(name, 0) + 1
            path = name if count == 1 else f"{name} {count}"
            self._paths[element] = path
            if not len(element):
                unit = element.get("unit")
                flat[path] = " ".join((element.text or "").split()) + (f" <{unit}>" if unit else "")
            level += [(child, path) for child in reversed(element)]
        self.entries = Entries(flat)

    def path(self, element: Element) -> str:
        """The name of an element with those around it."""
        return self._paths[element]

    def text(self, element: Element | None, name: str) -> str:
        """The text of the first element of this name inside, marked as used; empty where there is none."""
        found = None if element is None else _inside(element, name)
        if found is None:
            return ""
        self.entries.use(self._paths[found])
        text = " ".join((found.text or "").split())
        return "" if text.upper() in ABSENT else text

    def value(self, element: Element | None, name: str) -> Value | None:
        """The text of the first element of this name inside, with its unit."""
        text = self.text(element, name)
        found = None if element is None else _inside(element, name)
        return Value(text, (found.get("unit") or "").strip()) if text and found is not None else None

    def whole(self, element: Element, name: str, default: int | None = None) -> int:
        """A whole number.

        Raises:
            ValueError: it is none, or it is absent and has no default.
        """
        text = self.text(element, name)
        if not text:
            if default is None:
                raise ValueError(f"{_name(element)} has no {name}")
            return default
        return whole_number(text, name)

    def number(self, element: Element | None, name: str, remedy: str = "") -> float | None:
        """A finite number; None where there is none."""
        text = self.text(element, name)
        return finite(text, name, remedy) if text else None


def is_pds4(path: str | Path) -> bool:
    """Whether the path is a PDS4 label, or a file with one beside it."""
    return _label_path(Path(path)) is not None


def read_pds4(path: Path, told: Reading) -> Scene:
    """Open the array of a PDS4 product: the one with the most bands, or the one that ``keys["cube"]`` names.

    Args:
        path: the label, or the data file beside it.
        told: what the user says; ``keys["cube"]`` is the name or the local identifier of an array.

    Returns:
        The scene as [row, column, band], or [pixel, band] of an array without lines.

    Raises:
        FileNotFoundError: no label, or no data file beside it.
        ValueError: a damaged label, axes or a type that are not read, a file that is too short.
    """
    with in_file(path):
        label_path = _label_path(existing(path))
        if label_path is None:
            raise ValueError(f"no PDS4 label: the file is none, and {path.stem}.xml beside it is none that names it")
        label = _Xml(_parse(label_path))
        area, array = _chosen(label, None if label_path == path else path, told)
        return _scene(label, label_path, area, array, told)


def _label_path(path: Path) -> Path | None:
    """The PDS4 label of a file: the file itself, or one beside it that names it; None: it has none."""
    if not path.is_file():
        return None
    if _is_label(path):
        return path
    label_path = sibling(path, f"{path.stem}.xml", f"{path.stem}.lblx")
    if label_path is None or path.suffix.lower() == ".hdr" or not _is_label(label_path):
        return None
    with label_path.open("rb") as file:
        named = path.name.lower().encode() in file.read(LABEL_BYTES).lower()
    return label_path if named else None


def _is_label(path: Path) -> bool:
    """Whether a file begins as a PDS4 label does."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<") and b"pds.nasa.gov/pds4/pds/" in head


def _parse(path: Path) -> Element:
    """The first element of a label.

    Raises:
        ValueError: no XML, or XML that no label holds.
    """
    if path.stat().st_size > LABEL_BYTES:
        raise ValueError(f"the label is larger than {LABEL_BYTES} bytes")
    parser = ElementTree.XMLParser(target=_Builder())
    try:
        parser.feed(path.read_bytes())
        return parser.close()
    except (ElementTree.ParseError, LookupError) as error:  # LookupError: an encoding that nobody knows
        raise ValueError(f"the label is damaged: {error}") from None


def _name(element: Element) -> str:
    """The name of an element without its namespace."""
    return element.tag.rpartition("}")[2]


def _namespace(element: Element) -> str:
    """The namespace of an element."""
    return element.tag.rpartition("}")[0]


def _inside(element: Element, *names: str) -> Element | None:
    """The first element of these names inside another."""
    return next(_all(element, *names), None)


def _all(element: Element, *names: str) -> Iterator[Element]:
    """All elements of these names inside another."""
    return (found for found in element.iter() if found is not element and _name(found) in names)


def _chosen(label: _Xml, data: Path | None, told: Reading) -> tuple[Element, Element]:
    """The array to open, and the file area that it stands in.

    Raises:
        ValueError: no array; several that are as good; none of the name that the user gives.
    """
    found = []
    for area in (child for child in label.root if _name(child).startswith("File_Area")):
        file = _inside(area, "File")
        name = "" if file is None else " ".join((getattr(_inside(file, "file_name"), "text", "") or "").split())
        if data is None or name.lower() == data.name.lower():
            found += [(area, child) for child in area if _name(child) in ARRAYS]
    named = {_identity(array): (area, array) for area, array in found}
    if not found:
        raise ValueError("the label describes no array of this file; tables are not read")
    if wanted := told.keys.get("cube"):
        if wanted not in named:
            raise ValueError(f"the label has no array {wanted[:60]!r}; it has {', '.join(named)}")
        return named[wanted]
    sizes = [_bands(array) for _, array in found]
    best = [pair for pair, bands in zip(found, sizes, strict=True) if bands == max(sizes)]
    best = [pair for pair in best if "Spectrum" in _name(pair[1])] or best
    if len(best) > 1:
        raise ValueError(
            f"the label describes several arrays, {', '.join(_identity(array)[:60] for _, array in best)}: name "
            f"one, as in --key cube={_identity(best[0][1])[:60]}"
        )
    return best[0]


def _identity(array: Element) -> str:
    """The local identifier of an array, or its name, or its kind."""
    for name in ("local_identifier", "name"):
        found = next((child for child in array if _name(child) == name), None)
        if found is not None and (found.text or "").strip():
            return " ".join((found.text or "").split())
    return _name(array)


def _bands(array: Element) -> int:
    """Bands of an array as far as its label can be understood; nothing is marked. Arrays of one axis have none."""
    axes = [axis for axis in array if _name(axis) == "Axis_Array"]
    if len(axes) not in (2, 3):
        return 0
    for axis in axes:
        name, count = (getattr(_inside(axis, n), "text", "") or "" for n in ("axis_name", "elements"))
        if NAMES.get(name.strip().lower()) == "band" and count.strip().isdigit():
            return int(count.strip()[:18])
    return 1


def _scene(label: _Xml, label_path: Path, area: Element, array: Element, told: Reading) -> Scene:
    """The scene of an array."""
    file = _inside(area, "File")
    name = label.text(file, "file_name")
    data = beside(label_path, name, "file_name") if file is not None else label_path
    element = _inside(array, "Element_Array")
    if element is None:
        raise ValueError(f"{_name(array)} has no Element_Array")
    dtype = _type(label.text(element, "data_type"))
    order = label.text(array, "axis_index_order") or "Last Index Fastest"
    if order != "Last Index Fastest":
        raise ValueError(f"axis_index_order {order[:40]!r} is not read: PDS4 has Last Index Fastest")
    names, shape, band_axis = _axes(label, array)
    offset = label.whole(array, "offset", default=0)
    axes = [names.index(key) for key in ("line", "sample", "band") if key in names]
    stored = mapped(data, dtype, shape, offset, axes)
    if "band" not in names:
        stored = stored[..., None]
    bands = stored.shape[-1]
    remedy = ". Correct it, or give --scale and --offset, which stand in its place"
    gain, base = 1.0, 0.0
    if told.scale is None:
        factor = label.number(element, "scaling_factor", remedy)
        gain = 1.0 if factor is None else factor
        if gain == 0:
            raise ValueError(f"scaling_factor is zero{remedy}")
        base = (label.number(element, "value_offset", remedy) or 0.0) if told.offset is None else 0.0
    for replaced in ("scaling_factor", "value_offset"):
        label.text(element, replaced)
    constants = _inside(array, "Special_Constants")
    special, lowest = [], None
    for constant in CONSTANTS:
        text = label.text(constants, constant)
        if text and told.nodata is None:
            special.append(special_value(_bits(text), dtype, constant))
    if (text := label.text(constants, "valid_minimum")) and told.nodata is None:
        lowest = special_value(_bits(text), dtype, "valid_minimum")
    if label.text(constants, "valid_maximum") and told.nodata is None:
        highest = special_value(_bits(label.text(constants, "valid_maximum")), dtype, "valid_maximum")
    else:
        highest = None
    known = [number for number in special if number is not None]
    cube, stated = cube_of(stored, told, gain=gain, offset=base, special=known, above=lowest, below=highest, path=data)
    notes: list[str] = []
    axis = _axis(label, label_path, area, array, band_axis, data, bands, told)
    place = _place(label, label.root, notes) if stored.ndim == 3 else {}
    quantity = quantity_of(
        label.text(array, "name"), label.text(element, "unit"), _identity(array).replace("_", " "),
        label.text(array, "description")[:200],
    )  # fmt: skip
    within = label.path(array)
    for path in label.entries.header():
        outside = not path.startswith(f"{within}.") or ".Object_Statistics." in path
        if outside or re.search(r"(name|identifier|description|comment|title|axes)$", path):
            label.entries.carry(path)
    header = Header(label.entries.header())
    if known:
        header["special values"] = list(dict.fromkeys(known))
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


def _type(name: str) -> np.dtype:
    """A data type of PDS4.

    Raises:
        ValueError: one that is not read.
    """
    if name not in TYPES:
        raise ValueError(f"data_type {name[:40] or 'is missing; it'} is not read; the types are {', '.join(TYPES)}")
    return np.dtype(TYPES[name])


def _bits(text: str) -> str:
    """A constant as a number, or as its bits: PDS4 writes them 16#FF7FFFFB# as PDS3 does, or 0xFF7FFFFB."""
    return f"16#{text[2:]}#" if re.fullmatch(r"0[xX][0-9A-Fa-f]{1,16}", text) else text


def _axes(label: _Xml, array: Element) -> tuple[list[str], list[int], Element | None]:
    """Names (line, sample, band) and sizes of the axes, the slowest first, and the element of the band axis.

    Raises:
        ValueError: axes that cannot be told apart.
    """
    found = [axis for axis in array if _name(axis) == "Axis_Array"]
    count = label.whole(array, "axes", default=len(found))
    if len(found) != count or count not in (2, 3):
        raise ValueError(f"{_name(array)} has {count} axes and describes {len(found)}; two or three are read")
    found.sort(key=lambda axis: label.whole(axis, "sequence_number"))
    texts = [label.text(axis, "axis_name") for axis in found]
    names = [NAMES.get(text.lower(), "") for text in texts]
    if "" in names or len(set(names)) != count:
        raise ValueError(f"axes {', '.join(texts)[:80]} are not Line, Sample and Band in any order")
    sizes = [label.whole(axis, "elements") for axis in found]
    return names, sizes, found[names.index("band")] if "band" in names else None


def _axis(
    label: _Xml, label_path: Path, area: Element, array: Element, band_axis: Element | None, data: Path, bands: int,
    told: Reading,
) -> SpectralAxis | None:  # fmt: skip
    """The spectral axis: of the bins of the array, of the spectral dictionary, or of a table of wavelengths."""
    where = str(label_path)
    bins = [] if band_axis is None else list(_all(band_axis, "Band_Bin"))
    named: tuple[tuple[str, ...], ...] = (("band_number",), ("center_wavelength",), ("band_width",))
    if not bins:
        spectral = _spectral(label, array)
        if spectral is not None:
            regular = _regular(label, spectral, bands, told, where)
            if regular is not None:
                return regular
            bins = list(_all(spectral, "Bin", "Bin_Wavelength", "Bin_Wavenumber"))
            named = (
                ("bin_sequence_number",),
                ("center_value", "center_wavelength", "center_wavenumber"),
                ("bin_width", "bin_width_wavelength", "bin_width_wavenumber"),
            )
    if not bins:
        return _table_of_wavelengths(label, area, data, bands, told, where)
    if len(bins) != bands:
        raise ValueError(f"the label lists {len(bins)} band bins for {bands} bands")
    rows = []
    for position, element in enumerate(bins):
        number, center, width = (_first(label, element, names) for names in named)
        if center is None:
            raise ValueError(f"band bin {position + 1} has no centre")
        rows.append((position + 1 if number is None else whole_number(number.content, named[0][0]), center, width))
    rows.sort(key=lambda row: row[0])
    if len({row[0] for row in rows}) != bands:
        raise ValueError("two band bins have one number")
    units = {row[1].unit for row in rows}
    if len(units) > 1:
        raise ValueError(f"band bins have different units: {', '.join(sorted(units))[:80]}")
    centers = [finite(row[1].content, named[1][0]) for row in rows]
    wide = [row[2] for row in rows if row[2] is not None and row[2].unit in units]
    widths = [finite(width.content, named[2][0]) for width in wide] if len(wide) == bands else None
    return spectral_axis(centers, fwhm=widths, unit=stored_unit(units.pop(), told, where), where=where)


def _first(label: _Xml, element: Element, names: tuple[str, ...]) -> Value | None:
    """The first of these values that an element holds."""
    return next((value for name in names if (value := label.value(element, name)) is not None), None)


def _spectral(label: _Xml, array: Element) -> Element | None:
    """The spectral characteristics of an array: those that refer to it, or the only ones there are."""
    found = list(_all(label.root, "Spectral_Characteristics"))
    identity = _identity(array)
    for element in found:
        reference = _inside(element, "local_identifier_reference")
        if reference is not None and (reference.text or "").strip() == identity:
            label.text(element, "local_identifier_reference")
            return element
    return found[0] if len(found) == 1 and _inside(found[0], "local_identifier_reference") is None else None


def _regular(label: _Xml, spectral: Element, bands: int, told: Reading, where: str) -> SpectralAxis | None:
    """The axis of bands at equal steps; None where the label does not say that they are.

    Raises:
        ValueError: steps that are not equal, or a last band that disagrees.
    """
    element = _inside(spectral, "Uniformly_Sampled_Wavelength", "Uniformly_Sampled_Wavenumber")
    if element is None:
        return None
    kind = _name(element).rpartition("_")[2].lower()
    scale = label.text(element, "sampling_scale") or "Linear"
    if scale.lower() != "linear":
        raise ValueError(f"sampling_scale {scale[:40]!r} is not read: bands at equal steps are")
    first, step, last = (
        label.value(element, f"{n}_{kind}") for n in ("first_center", "sampling_interval", "last_center")
    )
    if first is None or step is None:
        raise ValueError(f"{_name(element)} has no first_center_{kind} or sampling_interval_{kind}")
    begin, interval = finite(first.content, "first_center"), finite(step.content, "sampling_interval")
    if step.unit != first.unit:
        raise ValueError(f"first_center_{kind} and sampling_interval_{kind} have different units")
    end = None if last is None else finite(last.content, "last_center")
    if end is not None and end < begin:
        interval = -abs(interval)
    centers = begin + interval * np.arange(bands)
    if end is not None and abs(centers[-1] - end) > abs(interval) / 2:
        raise ValueError(f"the last band lies at {centers[-1]:g}, the label says {end:g}")
    return spectral_axis(centers, unit=stored_unit(first.unit, told, where), where=where)


def _table_of_wavelengths(
    label: _Xml, area: Element, data: Path, bands: int, told: Reading, where: str
) -> SpectralAxis | None:
    """The axis out of a table, or an array of one axis, of as many wavelengths as bands in the same file."""
    for element in area:
        kind = _name(element)
        if kind in ("Array", "Array_1D") and re.search(r"(?i)wavelength|wavenumber", _identity(element)):
            axis = [a for a in element if _name(a) == "Axis_Array"]
            if len(axis) != 1 or label.whole(axis[0], "elements") != bands:
                continue
            inner = _inside(element, "Element_Array")
            dtype = _type(label.text(inner, "data_type"))
            values = mapped(data, dtype, (bands,), label.whole(element, "offset", default=0), (0,)).astype(float)
            values = values * (label.number(inner, "scaling_factor") or 1.0)
            values = values + (label.number(inner, "value_offset") or 0.0)
            return spectral_axis(values, unit=stored_unit(label.text(inner, "unit"), told, where), where=where)
        if kind in ("Table_Binary", "Table_Character"):
            found = _column_of_wavelengths(label, element, data, bands)
            if found is not None:
                values, unit = found
                return spectral_axis(values, unit=stored_unit(unit, told, where), where=where)
    return None


def _column_of_wavelengths(label: _Xml, table: Element, data: Path, bands: int) -> tuple[np.ndarray, str] | None:
    """The field of wavelengths of a table with one record per band, and its unit; None: it has none.

    Raises:
        ValueError: a type that is not read, or text that is no number.
    """
    fields = [
        field for field in _all(table, "Field_Binary", "Field_Character")
        if re.search(r"(?i)wavelength|wavenumber", getattr(_inside(field, "name"), "text", "") or "")
    ]  # fmt: skip
    records = getattr(_inside(table, "records"), "text", "") or ""
    if len(fields) != 1 or records.strip() != str(bands):
        return None
    field, record = fields[0], _inside(table, "Record_Binary", "Record_Character")
    if record is None:
        raise ValueError(f"{_name(table)} has no record")
    label.text(table, "records"), label.text(field, "name")
    width, start = label.whole(record, "record_length"), label.whole(field, "field_location")
    size = label.whole(field, "field_length")
    if start < 1 or size < 1 or start - 1 + size > width:
        raise ValueError(f"field {label.text(field, 'name')[:40]} lies outside its record of {width} bytes")
    stored = mapped(data, np.dtype("u1"), (bands, width), label.whole(table, "offset", default=0), (0, 1))
    cells = np.ascontiguousarray(stored[:, start - 1 : start - 1 + size])
    kind = label.text(field, "data_type")
    if kind.startswith("ASCII"):
        try:
            values = cells.view(f"S{size}")[:, 0].astype(float)
        except ValueError:
            raise ValueError(f"field {label.text(field, 'name')[:40]} holds text that is no number") from None
    else:
        dtype = _type(kind)
        if dtype.itemsize != size:
            raise ValueError(f"data_type {kind} has {dtype.itemsize} bytes, field_length is {size}")
        values = cells.view(dtype)[:, 0].astype(float)
    values = values * (label.number(field, "scaling_factor") or 1.0) + (label.number(field, "value_offset") or 0.0)
    unit = label.text(field, "unit")
    if not unit and re.search(r"(?i)wavenumber", label.text(field, "name")):
        unit = "cm-1"
    return values, unit


def _place(label: _Xml, root: Element, notes: list[str]) -> dict[str, Any]:
    """Coordinate system and transform of the cartography; empty, with a note, where they cannot be expressed."""
    group = _inside(root, "Cartography")
    if group is None:
        return {}
    try:
        place = _map(label, group)
    except ValueError as error:
        notes.append(f"the cartography of the label is not understood, the image has no place: {error}")
        return {}
    if isinstance(place, str):
        notes.append(place)
        return {}
    return place


def _map(label: _Xml, group: Element) -> dict[str, Any] | str:
    """Coordinate system and transform of a map, or why there are none."""
    kind = label.text(group, "map_projection_name")
    if not kind:
        return "the cartography names no map projection: the image has no place"
    radii = [_first(label, group, names) for names in RADII]
    if radii[0] is None:
        return "the geodetic model has no radius: the image has no place"
    equatorial = metres(radii[0], "M")
    polar = equatorial if radii[1] is None else metres(radii[1], "M")
    degrees = {
        "lat": ("standard_parallel_1", "latitude_of_projection_origin"),
        "lon": ("longitude_of_central_meridian", "straight_vertical_longitude_from_pole"),
        "first": ("standard_parallel_1",),
        "second": ("standard_parallel_2",),
        "factor": ("scale_factor_at_projection_origin", "scale_factor_at_central_meridian"),
    }
    plain = re.sub("[^A-Z]", "", kind.upper())
    if plain not in ("EQUIRECTANGULAR", "MERCATOR", "SIMPLECYLINDRICAL"):
        degrees["lat"] = ("latitude_of_projection_origin",)
    numbers = {}
    for key, names in degrees.items():
        value = _first(label, group, names)
        if value is not None:
            numbers[key] = finite(value.content, names[0])
    if label.text(group, "longitude_direction").lower() == "positive west":
        numbers["lon"] = -numbers.get("lon", 0.0)
    centric = label.text(group, "latitude_type").lower() == "planetocentric"
    target = next((t.text or "" for t in _all(label.root, "Target_Identification") for t in _all(t, "name")), "")
    crs = wkt_of(kind, target=target, equatorial=equatorial, polar=polar, centric=centric, **numbers)
    if crs is None:
        return f"the map projection {kind[:40]} cannot be expressed: the image has no place"
    names = ("pixel_resolution_x", "pixel_resolution_y", "upperleft_corner_x", "upperleft_corner_y")
    sizes = [label.value(group, name) for name in names]
    if any(size is None or not re.match(r"(?i)k?m\b|meters?\b|kilometers?\b|$", size.unit) for size in sizes):
        return "the cartography gives no pixel size or upper left corner in metres: the image has no place"
    across, down, x, y = (metres(size, "M") for size in sizes if size is not None)
    if not (across > 0 and down > 0):
        return "pixel sizes of the cartography are not above zero: the image has no place"
    return {"crs": crs, "transform": (across, 0.0, x, 0.0, -down, y)}
