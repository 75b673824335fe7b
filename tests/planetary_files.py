"""Small files in the layouts of planetary archives, as the tests write them."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

ROWS, COLUMNS, BANDS = 5, 4, 3
MAPS = {
    "SIMPLE CYLINDRICAL": (20.0, "PLANETOCENTRIC"),
    "EQUIRECTANGULAR": (-15.0, "PLANETOCENTRIC"),
    "SINUSOIDAL": (0.0, "PLANETOCENTRIC"),
    "ORTHOGRAPHIC": (30.0, "PLANETOCENTRIC"),
    "MERCATOR": (0.0, "PLANETOGRAPHIC"),
    "POLAR STEREOGRAPHIC": (90.0, "PLANETOCENTRIC"),
    "TRANSVERSE MERCATOR": (0.0, "PLANETOGRAPHIC"),
    "LAMBERT CONFORMAL CONIC": (25.0, "PLANETOGRAPHIC"),
    "LAMBERT AZIMUTHAL EQUAL AREA": (60.0, "PLANETOGRAPHIC"),
}


def cube_of(dtype: str, shape: tuple[int, int, int] = (ROWS, COLUMNS, BANDS)) -> np.ndarray:
    """A cube [row, column, band] in which no two numbers are equal."""
    count = int(np.prod(shape))
    return (np.arange(count).reshape(shape) + (0.25 if "f" in dtype else 1)).astype(dtype)


def stored(cube: np.ndarray, order: str) -> bytes:
    """The bytes of a cube [row, column, band] as bsq, bil or bip."""
    axes = {"bsq": (2, 0, 1), "bil": (0, 2, 1), "bip": (0, 1, 2)}[order]
    return np.ascontiguousarray(cube.transpose(axes)).tobytes()


def lines(entries: dict[str, Any]) -> str:
    """Entries of a label, one per line."""
    return "".join(f"  {name} = {value}\n" for name, value in entries.items())


def image_entries(
    cube: np.ndarray, order: str = "BAND_SEQUENTIAL", kind: str = "PC_REAL", **more: Any
) -> dict[str, Any]:
    """Entries of an IMAGE object."""
    return {
        "LINES": cube.shape[0], "LINE_SAMPLES": cube.shape[1], "BANDS": cube.shape[2], "BAND_STORAGE_TYPE": order,
        "SAMPLE_TYPE": kind, "SAMPLE_BITS": 8 * cube.dtype.itemsize, **more,
    }  # fmt: skip


def map_group(kind: str, **more: Any) -> str:
    """An IMAGE_MAP_PROJECTION object."""
    latitude, system = MAPS.get(kind, (40.0, "PLANETOCENTRIC"))
    entries = {
        "MAP_PROJECTION_TYPE": f'"{kind}"', "A_AXIS_RADIUS": "3396.19 <KM>", "B_AXIS_RADIUS": "3396.19 <KM>",
        "C_AXIS_RADIUS": "3376.2 <KM>", "COORDINATE_SYSTEM_NAME": f'"{system}"', "CENTER_LATITUDE": f"{latitude} <DEG>",
        "CENTER_LONGITUDE": "77.0 <DEG>", "FIRST_STANDARD_PARALLEL": 10, "SECOND_STANDARD_PARALLEL": 40,
        "MAP_SCALE": "0.018 <KM/PIXEL>", "MAP_PROJECTION_ROTATION": 0.0, "LINE_PROJECTION_OFFSET": 1000.5,
        "SAMPLE_PROJECTION_OFFSET": -20.5, "POSITIVE_LONGITUDE_DIRECTION": '"EAST"', **more,
    }  # fmt: skip
    return f"OBJECT = IMAGE_MAP_PROJECTION\n{lines(entries)}END_OBJECT = IMAGE_MAP_PROJECTION\n"


def pds3(path: Path, data: bytes, entries: dict[str, Any], *, pointer: str | None = None, kind: str = "IMAGE",
         top: dict[str, Any] | None = None, inside: str = "", after: str = "") -> Path:  # fmt: skip
    """A detached label and its data file beside it; returns the label."""
    file = path.with_suffix(".IMG")
    file.write_bytes(data)
    head = {"PDS_VERSION_ID": "PDS3", "RECORD_TYPE": "FIXED_LENGTH", "RECORD_BYTES": 16, **(top or {})}
    head[f"^{kind}"] = pointer or f'"{file.name}"'
    path.write_text(
        lines(head).replace("  ", "") + f"OBJECT = {kind}\n{lines(entries)}{inside}END_OBJECT = {kind}\n{after}END\n"
    )
    return path


def attached(
    path: Path, data: bytes, entries: dict[str, Any], kind: str = "IMAGE", record: int = 512, **top: Any
) -> Path:
    """One file: a label that fills whole records, then the numbers."""
    head = {"PDS_VERSION_ID": "PDS3", "RECORD_BYTES": record, "LABEL_RECORDS": 4, f"^{kind}": 5, **top}
    text = lines(head).replace("  ", "") + f"OBJECT = {kind}\n{lines(entries)}END_OBJECT = {kind}\nEND\n"
    assert len(text) <= 4 * record
    path.write_bytes(text.encode().ljust(4 * record) + data)
    return path


def qube(path: Path, cube: np.ndarray, names: tuple[str, str, str], suffix: tuple[int, int, int] = (0, 0, 0),
         kind: str = "PC_REAL", bins: str = "", **more: Any) -> Path:  # fmt: skip
    """A qube with an attached label; suffix items are written as 7, corners too."""
    axes = {"LINE": 0, "SAMPLE": 1, "BAND": 2}
    core = cube.transpose([axes[name] for name in names[::-1]])  # slowest first, as numpy has it
    third, second, first = core.shape
    mark = np.full(1, 7, np.dtype("f4").newbyteorder(cube.dtype.byteorder)).tobytes()
    body = b""
    for plane in core:
        for line in plane:
            body += np.ascontiguousarray(line).tobytes() + mark * suffix[0]
        body += mark * (first + suffix[0]) * suffix[1]
    body += mark * (first + suffix[0]) * (second + suffix[1]) * suffix[2]
    entries = {
        "AXES": 3, "AXIS_NAME": f"({', '.join(names)})", "CORE_ITEMS": f"({first}, {second}, {third})",
        "CORE_ITEM_BYTES": cube.dtype.itemsize, "CORE_ITEM_TYPE": kind, "SUFFIX_BYTES": 4,
        "SUFFIX_ITEMS": f"({', '.join(map(str, suffix))})", **more,
    }  # fmt: skip
    text = (
        "CCSD3ZF0000100000001NJPL3IF0PDS200000001 = SFDU_LABEL\n/* File Structure */\nRECORD_TYPE = FIXED_LENGTH\n"
        f"RECORD_BYTES = 512\nLABEL_RECORDS = 4\n^QUBE = 5\nINSTRUMENT_ID = THEMIS\nOBJECT = QUBE\n{lines(entries)}"
        f"{bins}END_OBJECT = QUBE\nEND\n"
    )
    assert len(text) < 2048
    path.write_bytes(text.encode().ljust(2048) + body)
    return path


def isis(path: Path, body: bytes, *, kind: str = "Real", order: str = "Lsb", layout: str = "Format = BandSequential",
         size: tuple[int, int, int] = (ROWS, COLUMNS, BANDS), base: Any = 0.0, multiplier: Any = 1.0, groups: str = "",
         core: str = "", attach: bool = True) -> Path:  # fmt: skip
    """An ISIS 3 cube with an attached label of 4096 bytes; or its label alone."""
    start = "StartByte = 4097" if attach else "StartByte = 1"
    text = (
        f"Object = IsisCube\n  Object = Core\n    {start}\n    {layout}\n{core}\n    Group = Dimensions\n"
        f"      Samples = {size[1]}\n      Lines   = {size[0]}\n      Bands   = {size[2]}\n    End_Group\n\n"
        f"    Group = Pixels\n      Type       = {kind}\n      ByteOrder  = {order}\n      Base       = {base}\n"
        f"      Multiplier = {multiplier}\n    End_Group\n  End_Object\n{groups}End_Object\n\nObject = Label\n"
        "  Bytes = 65536\nEnd_Object\nEnd\n"
    )
    assert len(text) < 4096
    path.write_bytes(text.encode().ljust(4096 if attach else 0) + (body if attach else b""))
    return path


PDS4_HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<Product_Observational xmlns="http://pds.nasa.gov/pds4/pds/v1" xmlns:sp="http://pds.nasa.gov/pds4/sp/v1">\n'
    "<Identification_Area><logical_identifier>urn:x:y</logical_identifier></Identification_Area>\n"
)


def pds4(path: Path, cube: np.ndarray, *, order: str = "bsq", data_type: str = "IEEE754LSBSingle", element: str = "",
         array: str = "", bins: str = "", observation: str = "", area: str = "", offset: int = 0,
         kind: str = "Array_3D_Image", file: str | None = None, tail: bytes = b"") -> Path:  # fmt: skip
    """A PDS4 label, and its data file beside it."""
    data = path.with_suffix(".img")
    data.write_bytes(b"\0" * offset + stored(cube, order) + tail)
    names = {"bsq": ("Band", "Line", "Sample"), "bil": ("Line", "Band", "Sample"), "bip": ("Line", "Sample", "Band")}[
        order
    ]
    sizes = dict(zip(("Line", "Sample", "Band"), cube.shape, strict=True))
    axes = "".join(
        f"<Axis_Array><axis_name>{name}</axis_name><elements>{sizes[name]}</elements><sequence_number>{i + 1}"
        f"</sequence_number>{bins if name == 'Band' else ''}</Axis_Array>\n"
        for i, name in enumerate(names)
    )
    path.write_text(
        f"{PDS4_HEAD}<Observation_Area>{observation}</Observation_Area>\n<File_Area_Observational>\n<File><file_name>"
        f"{data.name if file is None else file}</file_name></File>\n<{kind}><local_identifier>cube</local_identifier>"
        f'<offset unit="byte">{offset}</offset><axes>3</axes><axis_index_order>Last Index Fastest</axis_index_order>\n'
        f"<Element_Array><data_type>{data_type}</data_type>{element}</Element_Array>\n{axes}{array}</{kind}>\n{area}"
        "</File_Area_Observational>\n</Product_Observational>\n"
    )
    return path


def tes_column(name: str, start: int, size: int, kind: str = "MSB_UNSIGNED_INTEGER", **more: Any) -> str:
    """A COLUMN object."""
    entries = {"NAME": name, "DATA_TYPE": kind, "START_BYTE": start, "BYTES": size, **more}
    return f"OBJECT = COLUMN\n{lines(entries)}END_OBJECT = COLUMN\n"


RAD_COLUMNS = (
    tes_column("SPACECRAFT_CLOCK_START_COUNT", 1, 4, ALIAS_NAME="sclk_time")
    + tes_column("DETECTOR_NUMBER", 5, 1, ALIAS_NAME="detector")
    + tes_column("RAW_RADIANCE", 6, 4, "MSB_INTEGER", ALIAS_NAME="raw_rad", VAR_DATA_TYPE="MSB_INTEGER",
                 VAR_ITEM_BYTES=2, VAR_RECORD_TYPE="VAX_VARIABLE_LENGTH")
    + tes_column("CALIBRATED_RADIANCE", 10, 4, "MSB_INTEGER", ALIAS_NAME="cal_rad", VAR_DATA_TYPE="MSB_INTEGER",
                 VAR_ITEM_BYTES=2, VAR_RECORD_TYPE="Q15", UNIT='"WATT CM**-2 STERADIAN**-1 WAVENUMBER**-1"')
)  # fmt: skip


def rad(folder: Path, spectra: list[tuple[int, np.ndarray] | None]) -> tuple[Path, np.ndarray]:
    """RAD.TAB with its attached label, RAD.FMT and RAD.VAR: exponent and integers of each spectrum.

    Returns:
        The table and the values of the spectra that have the most usual number of channels.
    """
    (folder / "RAD.FMT").write_text(
        f"NAME = RAD\nCOLUMNS = 4\nROW_BYTES = 13\nINTERCHANGE_FORMAT = BINARY\n{RAD_COLUMNS}"
    )
    var, rows = b"", b""
    for i, spectrum in enumerate(spectra):
        pointer = -1
        if spectrum is not None:
            exponent, numbers = spectrum
            pointer = len(var)
            record = np.asarray([exponent, *numbers], ">i2").tobytes()
            var += len(record).to_bytes(2, "big") + record
        rows += (590000000 + 2 * i).to_bytes(4, "big") + (i % 6 + 1).to_bytes(1, "big")
        rows += np.asarray([-1, pointer], ">i4").tobytes()
    (folder / "RAD00001.VAR").write_bytes(var)
    text = (
        "PDS_VERSION_ID = PDS3\nRECORD_TYPE = FIXED_LENGTH\nRECORD_BYTES = 13\nLABEL_RECORDS = 40\n^TABLE = 41\n"
        'DATA_SET_ID = "MGS-M-TES-3-TSDR-V2.0"\nINSTRUMENT_NAME = "THERMAL EMISSION SPECTROMETER"\nTARGET_NAME = MARS\n'
        f'OBJECT = TABLE\n  ROWS = {len(spectra)}\n  ^STRUCTURE = "RAD.FMT"\nEND_OBJECT = TABLE\nEND\n'
    )
    path = folder / "RAD00001.TAB"
    path.write_bytes(text.encode().ljust(40 * 13) + rows)
    values = [np.ldexp(s[1].astype("f4"), s[0] - 15) for s in spectra if s is not None]
    return path, np.stack([v for v in values if len(v) == len(values[0])])


def by_gdal(path: Path, cube: np.ndarray, driver: str, **more: Any) -> Path:
    """A cube [row, column, band] as GDAL writes it."""
    rows, columns, bands = cube.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of rasterio, about affine's operators, and about files without a place
        with rasterio.open(
            path, "w", driver=driver, height=rows, width=columns, count=bands, dtype=str(cube.dtype), **more
        ) as file:
            file.write(np.moveaxis(cube, -1, 0))
    return path
