"""Spectra in PDS3 tables: those of the Thermal Emission Spectrometer (TES), and tables with a column of wavelengths.

A table of TES has one spectrum per row. Its columns are described in the label or in the ``.FMT`` file beside it. The
spectra stand in the row itself, or in the ``.VAR`` file beside the table, to which a column points: a record begins
with its length in bytes, then come an exponent and 16-bit integers, and value = integer · 2^(exponent − 15) (``Q15``).
Rows without a spectrum have the pointer −1.

What is read: one column of spectra; the other columns of the table go to ``header["columns"]``. What is not: joins of
one table with others (RAD with OBS, GEO, ATM), interferograms, and emissivity, which the archive does not store.

The bands of TES are not in its tables of spectra. For the six detectors together they lie at

    wavenumber(i) = (28 + s·i) · 5.29044097730104556 cm⁻¹,   i = 0, 1, 2 ...

cut to four digits behind the point; s is 2 in single scans (143 channels of radiance, 148 of raw spectra) and 1 in
double scans (286 and 296).

References:
    TES-TSDR Standard Data Product SIS (N. Gorelick, ASU, 2003), sections 2.3.4 and A.9; RAD.FMT and WAVNUMSS.LBL of the
    archive MGS-M-TES-3-TSDR; ASU's program ``vanilla`` (records of .VAR files, constants of the bands); PDS Standards
    Reference 3.8, appendix A (TABLE, COLUMN).
"""

import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unmix_jax.scenes.readers.planetary.common import mapped, pds3_type, quantity_of, special_value, stored_unit
from unmix_jax.scenes.readers.planetary.missions import CRISM_FILL
from unmix_jax.scenes.readers.planetary.odl import (
    ABSENT,
    LABEL_BYTES,
    Block,
    Label,
    beside,
    located,
    parse_label,
    sibling,
)
from unmix_jax.scenes.reading import Reading
from unmix_jax.scenes.scene import Header, Scene, SpectralAxis, SpectralLibrary
from unmix_jax.scenes.units import spectral_axis

__all__ = ["has_spectra", "library_of", "scene_of", "tes_wavenumbers"]

SCAN_STEP = 5.29044097730104556  # cm⁻¹, of a double scan (vanilla)
FIRST_CHANNEL = 28
CHANNELS = {143: 2, 148: 2, 286: 1, 296: 1}  # number of channels to steps between them
CHUNK = 4096  # rows whose spectra are gathered at once: some megabytes
CONSTANTS = ("MISSING_CONSTANT", "INVALID_CONSTANT", "UNKNOWN_CONSTANT", "NOT_APPLICABLE_CONSTANT", "NULL_CONSTANT")
NOT_SPECTRA = re.compile(r"(?i)raw|error|uncertain|std|standard_dev|sigma|noise|interferogram")
DESCRIPTIVE = re.compile(
    r"(NAME|ALIAS_NAME|DESCRIPTION|FORMAT|COLUMN_NUMBER|UNIT|COLUMNS|.*KEYS?|.*MINIMUM|.*MAXIMUM|NOTE|.*DESC|"
    r"INTERCHANGE_FORMAT|BIT_.*|BITS|START_BIT|START_BYTE|BYTES|DATA_TYPE|ITEM.*|.*_ID)$"
)


def tes_wavenumbers(channels: int) -> np.ndarray:
    """Band centres of TES in cm⁻¹.

    Args:
        channels: 143 or 148 of a single scan, 286 or 296 of a double scan.

    Raises:
        ValueError: another number.
    """
    if channels not in CHANNELS:
        raise ValueError(f"spectra of TES have {', '.join(map(str, CHANNELS))} channels, got {channels}")
    return np.floor((FIRST_CHANNEL + CHANNELS[channels] * np.arange(channels)) * SCAN_STEP * 1e4) / 1e4


class _Column(NamedTuple):
    """A column of a table.

    Attributes:
        block: of the label.
        name: in capitals, and ``alias`` its other name.
        start: byte of a row at which it begins, from 0.
        size: bytes.
        items: numbers in it.
        kind: type of its numbers.
        varying: how the record is stored to which it points; empty: it points to none.
    """

    block: Block
    name: str
    alias: str
    start: int
    size: int
    items: int
    kind: str
    varying: str


class _Spectra(NamedTuple):
    """Spectra of a table, one per row of ``values``."""

    values: np.ndarray
    axis: SpectralAxis | None
    names: tuple[str, ...]
    quantity: str | None
    notes: tuple[str, ...]
    columns: dict[str, np.ndarray]
    label: Label


def has_spectra(label: Label, path: Path) -> bool:
    """Whether a label describes a table with spectra.

    Args:
        label: the label.
        path: of the label.

    Raises:
        ValueError: the columns stand in another file that is damaged, or not beside the label.
    """
    table = _table(label)
    if table is None:
        return False
    columns = _columns(Label(_with_structure(label, table[0], path).root), table[0])
    return bool(_candidates(columns)) or _wavelengths(columns) is not None


def scene_of(label: Label, path: Path, told: Reading) -> Scene:
    """The spectra of a table as a list of pixels.

    Args:
        label: the label.
        path: of the label.
        told: what the user says; ``keys["cube"]`` names the column where several hold spectra.

    Raises:
        ValueError: no such column, a damaged file, or one that is too short.
    """
    read = _read(label, path, told)
    return Scene(
        read.values,
        read.axis,
        pixel_names=read.names,
        name=path.stem,
        quantity=read.quantity or "value",
        notes=read.notes,
        account=read.label.entries.account(),
        header=_header(read),
    )


def library_of(label: Label, path: Path, told: Reading) -> SpectralLibrary:
    """The spectra of a table as a library; as `scene_of`, whose errors it has."""
    read = _read(label, path, told)
    return SpectralLibrary(
        read.values,
        read.axis,
        read.names or tuple(f"spectrum {i + 1}" for i in range(len(read.values))),
        quantity=read.quantity or "value",
        notes=read.notes,
        account=read.label.entries.account(),
        header=_header(read),
    )


def _header(read: _Spectra) -> Header:
    """Entries of the label, and the columns that are no spectra."""
    header = read.label.entries.header()
    if read.columns:
        header["columns"] = read.columns
    return header


def _table(label: Label) -> tuple[Block, Block, str] | None:
    """The first table of a label: its block, the block with its pointer, and the pointer."""
    return next((found for found in label.pointed() if {"ROWS", "ROW_BYTES"} & set(found[0].entries)), None)


def _with_structure(label: Label, table: Block, path: Path) -> Label:
    """The label with the columns that stand in the file of its ^STRUCTURE, which lies beside it.

    Raises:
        ValueError: that file is damaged, or points to a further one.
        FileNotFoundError: there is no such file.
    """
    pointer = table.entries.get("^STRUCTURE")
    if pointer is None or any(block.name.upper() == "COLUMN" for block in table.blocks):
        return label
    file = beside(path, str(pointer.content), "^STRUCTURE")
    if file.stat().st_size > LABEL_BYTES:
        raise ValueError(f"{file.name} is too large for a description of columns")
    root, _ = parse_label(file.read_text(encoding="latin-1"))
    for block in root.walk():
        if any(name.startswith("^") for name in block.entries):
            raise ValueError(f"{file.name} points to a further file, which is not followed")
    for name, value in root.entries.items():
        table.entries.setdefault(name, value)
    for block in root.blocks:
        for inner in block.walk():
            inner.path = f"{table.path}.{inner.path}"
        table.blocks.append(block)
    return Label(label.root, label.size)


def _columns(label: Label, table: Block) -> list[_Column]:
    """The columns of a table."""
    found = []
    for block in table.blocks:
        if block.name.upper() != "COLUMN":
            continue
        items = max(label.whole(block, "ITEMS", default=1), 1)
        size = label.whole(block, "BYTES", default=label.whole(block, "ITEM_BYTES", default=0) * items)
        kind = label.word(block, "DATA_TYPE")
        varying = label.word(block, "VAR_RECORD_TYPE")
        if kind == "BYTE_OFFSET":  # a pointer of later volumes; vanilla takes it for a Q15 record
            kind, varying = "MSB_INTEGER", varying or "Q15"
        start = label.whole(block, "START_BYTE")
        if start < 1 or size < 1 or size % items:
            raise ValueError(
                f"column {label.word(block, 'NAME')[:40]} has no place in its row: START_BYTE {start}, {size} bytes"
            )
        found.append(
            _Column(
                block, label.word(block, "NAME"), label.word(block, "ALIAS_NAME"), start - 1, size, items, kind, varying
            )
        )
    return found


def _candidates(columns: list[_Column]) -> list[_Column]:
    """Columns that hold one spectrum per row: a list of numbers, or a pointer to one."""
    return [
        c for c in columns if c.varying or (c.items > 1 and not c.kind.startswith(("CHARACTER", "MSB_BIT", "LSB_BIT")))
    ]


def _wavelengths(columns: list[_Column]) -> _Column | None:
    """The column of wavelengths of a table that has one spectrum per column."""
    found = [c for c in columns if re.search(r"WAVELENGTH|WAVENUMBER", c.name) and c.items == 1 and "REAL" in c.kind]
    others = [c for c in columns if "REAL" in c.kind and c.items == 1]
    return found[0] if len(found) == 1 and len(others) > 1 else None


def _read(label: Label, path: Path, told: Reading) -> _Spectra:
    """The spectra of the table of a label."""
    found = _table(label)
    assert found is not None
    table, holder, pointer = found
    label = Label(_with_structure(label, table, path).root)
    label.value(table, "^STRUCTURE")
    columns = _columns(label, table)
    file, offset = located(label, path, holder, pointer)
    rows, width = label.whole(table, "ROWS"), label.whole(table, "ROW_BYTES")
    before, after = (label.whole(table, f"ROW_{side}_BYTES", default=0) for side in ("PREFIX", "SUFFIX"))
    wrong = [c.name for c in columns if c.start + c.size > width]
    if wrong:
        raise ValueError(f"column {wrong[0][:40]} ends behind the row of {width} bytes")
    stored = mapped(file, np.dtype("u1"), (rows, before + width + after), offset, (0, 1))[:, before : before + width]
    candidates, wavelengths = _candidates(columns), _wavelengths(columns)
    if candidates:
        chosen = _chosen(candidates, told)
        read = _by_row(label, file, stored, columns, chosen, told)
        passed_over = [f"{column.block.path}." for column in candidates if column is not chosen]
    else:
        assert wavelengths is not None
        read, passed_over = _by_column(label, path, stored, columns, wavelengths, told), []
    label.carry_outside(table)
    for name in label.entries.header():
        inside = name.startswith(f"{table.path}.") and DESCRIPTIVE.match(name.rpartition(".")[2])
        if inside or name.startswith(tuple(passed_over)):
            label.entries.carry(name)
    return read


def _chosen(candidates: list[_Column], told: Reading) -> _Column:
    """The column of spectra that the user names, or the one that is unmistakable.

    Raises:
        ValueError: none of this name, or several.
    """
    wanted = next((told.keys[key].upper() for key in ("cube", "pixels", "spectra") if key in told.keys), None)
    if wanted is not None:
        named = [c for c in candidates if wanted in (c.name, c.alias)]
        if not named:
            raise ValueError(
                f"no column of spectra is named {wanted[:40]}; they are {', '.join(c.name for c in candidates)}"
            )
        return named[0]
    plain = [c for c in candidates if not NOT_SPECTRA.search(c.name)] or candidates
    physical = [c for c in plain if quantity_of(c.name.replace("_", " "))] or plain
    if len(physical) > 1:
        raise ValueError(
            f"columns {', '.join(c.name for c in physical)} all hold spectra: name one, as in --key "
            f"cube={physical[0].name}"
        )
    return physical[0]


def _by_row(
    label: Label, file: Path, stored: np.ndarray, columns: list[_Column], column: _Column, told: Reading
) -> _Spectra:
    """Spectra that stand in the rows of a table, or behind their pointers."""
    notes: list[str] = []
    numbers = _numbers(stored, column)
    if column.varying:
        values, left_out = _records(label, file, numbers[:, 0].astype(np.int64), column)
        if left_out:
            notes.append(left_out)
    else:
        values = _values(label, numbers, column, told)
    gain, offset = _scaling(label, column, told)
    values = values * np.float32(gain) + np.float32(offset) if (gain, offset) != (1.0, 0.0) else values
    axis = None
    instrument = label.word(label.root, "INSTRUMENT_ID") + label.word(label.root, "INSTRUMENT_NAME")
    instrument += label.word(label.root, "DATA_SET_ID")
    if re.search(r"TES|THERMAL_EMISSION_SPECTROMETER", instrument) and values.shape[1] in CHANNELS:
        axis = SpectralAxis(tes_wavenumbers(values.shape[1]), unit=told.unit_of("cm-1", str(file)) or "cm-1")
    else:
        notes.append(f"the label says nothing about the wavelengths of its spectra of {values.shape[1]} channels")
    others = {c.name: _numbers(stored, c)[:, 0] for c in columns if c.items == 1 and not c.varying and _is_number(c)}
    text = f"{column.name} {label.text(column.block, 'UNIT')}".replace("_", " ")
    clock, detector = others.get("SPACECRAFT_CLOCK_START_COUNT"), others.get("DETECTOR_NUMBER")
    names: tuple[str, ...] = ()
    if clock is not None:
        names = tuple(
            f"{int(count)}" + ("" if detector is None else f" detector {int(detector[i])}")
            for i, count in enumerate(clock)
        )
    return _Spectra(values, axis, names, quantity_of(text), tuple(notes), others, label)


def _by_column(
    label: Label, path: Path, stored: np.ndarray, columns: list[_Column], wavelengths: _Column, told: Reading
) -> _Spectra:
    """Spectra that stand in the columns of a table beside a column of wavelengths."""
    spectra = [c for c in columns if c is not wavelengths and "REAL" in c.kind and c.items == 1]
    left_out = [c for c in spectra if NOT_SPECTRA.search(c.name)]
    spectra = [c for c in spectra if c not in left_out]
    if not spectra:
        raise ValueError("the table has a column of wavelengths, but none of spectra")
    notes = (
        [f"columns {', '.join(c.name for c in left_out)} are errors, not spectra: they are left out"]
        if left_out
        else []
    )
    centers = _values(label, _numbers(stored, wavelengths), wavelengths, told)[:, 0].astype(float)
    unit = label.text(wavelengths.block, "UNIT")
    if not unit and "WAVENUMBER" in wavelengths.name:
        unit = "cm-1"
    axis = spectral_axis(centers, unit=stored_unit(unit, told, str(path)), where=str(path))
    values = []
    for column in spectra:
        gain, offset = _scaling(label, column, told)
        values.append(
            _values(label, _numbers(stored, column), column, told)[:, 0] * np.float32(gain) + np.float32(offset)
        )
    quantities = {quantity_of(f"{c.name} {label.text(c.block, 'UNIT')}".replace("_", " ")) for c in spectra}
    return _Spectra(
        np.stack(values),
        axis,
        tuple(label.text(c.block, "NAME") for c in spectra),
        quantities.pop() if len(quantities) == 1 else None,
        tuple(notes),
        {},
        label,
    )


def _is_number(column: _Column) -> bool:
    """Whether a column holds a number that is read."""
    return not re.search(r"CHARACTER|BIT|DATE|TIME|BOOLEAN|COMPLEX|VAX_REAL|VAXG|^$|^N/A", column.kind)


def _numbers(stored: np.ndarray, column: _Column) -> np.ndarray:
    """The numbers of a column, [row, item], as they are stored.

    Raises:
        ValueError: a type that is not read; text that is no number.
    """
    bytes_of = np.ascontiguousarray(stored[:, column.start : column.start + column.size])
    each = column.size // column.items
    if column.kind.startswith("ASCII"):
        cells = bytes_of.view(f"S{each}").reshape(len(stored), column.items)
        try:
            return cells.astype(float)
        except ValueError:
            return np.asarray([[_cell(cell, column) for cell in row] for row in cells])
    return bytes_of.view(pds3_type(column.kind, each, f"DATA_TYPE of {column.name}"))


def _cell(cell: bytes, column: _Column) -> float:
    """A cell of text as a number, NaN where it holds a word for none."""
    text = cell.decode("latin-1").strip().strip('"').strip()
    if text.upper() in ABSENT:
        return math.nan
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"column {column.name}: {text[:40]!r} is no number") from None


def _values(label: Label, numbers: np.ndarray, column: _Column, told: Reading) -> np.ndarray:
    """Stored numbers as floating point, NaN where they mark missing data."""
    kind = np.float64 if numbers.dtype.kind == "f" and numbers.dtype.itemsize == 8 else np.float32
    gap = np.zeros(numbers.shape, bool)
    for name in CONSTANTS:
        value = label.value(column.block, name)
        if value is not None and told.nodata is None:
            number = special_value(value.content, numbers.dtype.newbyteorder("="), name)
            gap |= False if number is None else numbers == number
    if told.nodata is None and label.word(label.root, "INSTRUMENT_ID") == "CRISM":
        gap |= numbers == CRISM_FILL
    return np.where(gap, kind(np.nan), numbers.astype(kind))


def _scaling(label: Label, column: _Column, told: Reading) -> tuple[float, float]:
    """Scale and offset of a column; those that the user replaces are passed over."""
    remedy = ". Correct it, or give --scale and --offset, which stand in its place"
    if told.scale is not None:
        label.value(column.block, "SCALING_FACTOR", "OFFSET")
        return 1.0, 0.0
    gain = label.number(column.block, "SCALING_FACTOR", remedy=remedy)
    offset = label.number(column.block, "OFFSET", remedy=remedy) if told.offset is None else 0.0
    if gain == 0:
        raise ValueError(f"SCALING_FACTOR of {column.name} is zero{remedy}")
    return (1.0 if gain is None else gain), (offset or 0.0)


def _records(label: Label, file: Path, pointers: np.ndarray, column: _Column) -> tuple[np.ndarray, str]:
    """Spectra behind pointers into the .VAR file beside a table, NaN where there is none, and what was left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a pointer or a length leads out of the file; records of a type that is not read.
    """
    if column.varying not in ("Q15", "VAX_VARIABLE_LENGTH"):
        raise ValueError(f"VAR_RECORD_TYPE {column.varying} is not read: the types are Q15 and VAX_VARIABLE_LENGTH")
    each = label.whole(column.block, "VAR_ITEM_BYTES", default=2)
    dtype = pds3_type(label.word(column.block, "VAR_DATA_TYPE") or "MSB_INTEGER", each, "VAR_DATA_TYPE")
    if column.varying == "Q15" and dtype != np.dtype(">i2"):
        raise ValueError(
            f"VAR_RECORD_TYPE Q15 has 16-bit integers, the most significant byte first; the label says {dtype}"
        )
    source = sibling(file, f"{file.stem}.VAR")
    if source is None:
        raise FileNotFoundError(f"{file}: the spectra are in {file.stem}.VAR, which does not lie beside it")
    size = source.stat().st_size
    if not size:
        raise ValueError(f"{source.name} is empty")
    stored = np.memmap(source, np.uint8, "r")
    there = np.flatnonzero(pointers >= 0)
    at = pointers[there]
    if not len(at):
        raise ValueError("no row of the table points to a spectrum")
    if (at + 2 > size).any():
        raise ValueError(f"{source.name} is truncated: {column.name} points to byte {int(at.max())} of {size}")
    lengths = stored[at].astype(np.int64) * 256 + stored[at + 1]  # the most significant byte first, whatever follows
    head = 2 if column.varying == "Q15" else 0
    if (lengths > 2**15 - 1).any() or (at + 2 + lengths > size).any() or ((lengths - head) % each).any():
        raise ValueError(
            f"{source.name} is damaged or truncated: a record is longer than the file, or has half a number"
        )
    if int((lengths + 2).sum()) > size:
        raise ValueError(f"{source.name} is damaged: its records overlap")
    counts = (lengths - head) // each
    kinds, how_many = np.unique(counts[counts > 0], return_counts=True)
    if not len(kinds):
        raise ValueError(f"{source.name} holds records without a single number")
    count = int(kinds[np.argmax(how_many)])
    values = np.full((len(pointers), count), np.nan, np.float32)
    fitting = np.flatnonzero(counts == count)
    for first in range(0, len(fitting), CHUNK):
        some = fitting[first : first + CHUNK]
        begin = at[some] + 2
        bytes_of = stored[begin[:, None] + np.arange(head + count * each)]
        numbers = np.ascontiguousarray(bytes_of[:, head:]).view(dtype).astype(np.float32)
        if head:
            exponents = np.ascontiguousarray(bytes_of[:, :2]).view(">i2").astype(int)
            with np.errstate(over="ignore"):
                numbers = np.ldexp(numbers, exponents - 15)
        values[there[some]] = numbers
    left = len(at) - len(fitting)
    others = ", ".join(str(n) for n in kinds if n != count)
    return values, (
        f"{left} of {len(at)} spectra have {others or 'no'} channels, not {count} as most have: they are left out"
        if left
        else ""
    )
