"""GeoTIFF through rasterio; the cube stays in its file.

Only GDAL's GeoTIFF driver may open the file, and it sees no other file: a ``.tif`` that is something else is refused,
and overviews, masks or metadata that the file or a sidecar point to elsewhere are not followed. Two sidecars are read
here, as text, since GeoTIFFs are found with them: ``x.tif.aux.xml``, in which GDAL keeps what the TIFF cannot hold
(scales, no-data, coordinate system, band metadata), and a world file (``x.tfw``, ``x.wld``). Two more supply what
the TIFF lacks: an ENVI header ``x.hdr``, ``x.tif.hdr``.

References: GDAL's GeoTIFF driver and its data model (https://gdal.org/drivers/raster/gtiff.html,
https://gdal.org/user/raster_data_model.html); world files as Esri describes them.
"""

import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from unmix_jax.scenes.georeference import NOWHERE
from unmix_jax.scenes.lazy import NODATA, LazyCube, RasterBands
from unmix_jax.scenes.projections import plain_number
from unmix_jax.scenes.reading import Entries, Reading
from unmix_jax.scenes.scene import Account, Header, Scene, SpectralAxis
from unmix_jax.scenes.units import axis_of_names, missing, quantity_in, spectral_axis, unit_of

__all__ = ["read_geotiff"]

# Nothing but the file itself: GDAL lists no folder, reads no sidecar, asks no server.
ALONE = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_PAM_ENABLED": "NO", "PROJ_NETWORK": "OFF"}
BLOCK_BYTES = 2**30  # of a row of pixels, or of a block of the file; what needs more cannot be read by rows
MASK_BYTES = 2**28  # of a mask that is read at once
SIDECAR_BYTES = 16 * 2**20  # histograms and attribute tables make sidecars of some megabytes
LOOKED_AT_ROWS = 8  # of a band that is marked as transparency
CENTERS = (
    "wavelength", "wavelengths", "center_wavelength", "centre_wavelength", "central_wavelength", "wavelength_center",
    "band_wavelength",
)  # fmt: skip
WIDTHS = ("fwhm", "bandwidth", "band_width")
UNITS = ("wavelength_units", "wavelength_unit", "wavelengths_units", "wavelengths_unit")
ENDS = {"": None, "_nm": "nm", "_um": "um", "_cm1": "cm-1"}  # of names of tags, with their unit
GOOD = ("bbl", "good_band", "good_bands", "good_wavelength", "good_wavelengths")
BAD = ("bad_band", "bad_bands", "badband")
QUANTITIES = ("quantity", "data_quantity")
# Tags that change no number.
DESCRIPTIVE = re.compile(
    r"(TIFFTAG_|STATISTICS_|DERIVED_|EXIF_|BAND_\d+$|LAYER_TYPE$|REPRESENTATIONTYPE$|AREA_OR_POINT$|DESCRIPTION$)"
    r"|(COLOR_PROFILE|EXIF|XML:.*|RPC|GEOLOCATION):",
    re.IGNORECASE,
)
STRUCTURE = ("IMAGE_STRUCTURE", "DERIVED_SUBDATASETS", "SUBDATASETS", "OVERVIEWS")  # how the file is built
# Names of entries of a scene's header that say where it lies; a tag of such a name must not.
RESERVED = (
    "crs", "transform", "location", "glt", "glt_crs", "glt_transform", "gcps", "rpcs", "map info", "projection info",
    "coordinate system string", "geo points", "rpc info", "x start", "y start", "band names",
)  # fmt: skip
MASK_NAME = re.compile(r"alpha|((valid|validity|no[-_ ]?data|quality|data)[-_ ])?mask", re.IGNORECASE)
NAMED_CENTER = re.compile(
    r"(?:central[ _-]?|cent(?:er|re)[ _-]?)?wavelength\s*[=:]\s*(\d{1,6}(?:\.\d{1,12})?)\s*([a-zµμ]{0,15})",
    re.IGNORECASE,
)


@dataclass
class _Band:
    """What a file says of a band."""

    tags: dict[str, str] = field(default_factory=dict)  # names with "_" for spaces, in small letters
    imagery: dict[str, str] = field(default_factory=dict)  # GDAL's own names for wavelengths
    description: str = ""
    unit: str = ""
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None
    transparency: bool = False


@dataclass
class _File:
    """What a file and its sidecar say.

    Attributes:
        path: of the file.
        raster: of rasterio, open.
        bands: all of them.
        tags: of the file, with their domain in front.
        crs: WKT.
        transform: six numbers.
        notes: what could not be read.
    """

    path: Path
    raster: Any
    bands: list[_Band]
    tags: dict[str, Any] = field(default_factory=dict)
    crs: str | None = None
    transform: tuple[float, ...] | None = None
    gcps: list[tuple[float, float, float, float]] = field(default_factory=list)
    rpcs: bool = False
    masked: bool = False
    notes: list[str] = field(default_factory=list)


def read_geotiff(path: Path, told: Reading) -> Scene:
    """Open a GeoTIFF; bands are read by rows of pixels when they are asked for.

    Scales and offsets of bands are applied (value = stored · scale + offset). Wavelengths come from the bands' tags
    (``wavelength``, ``fwhm``, or GDAL's ``CENTRAL_WAVELENGTH_UM``, ``FWHM_UM``), from lists among the tags of the file,
    or from names of all bands that hold a number with its unit; bad bands from ``bbl`` and its kin. A band of
    transparency (alpha) and a last band that is named a mask are left out; pixels that transparency or a mask inside
    the file leave out are not valid. An ENVI header beside the file supplies what it lacks.

    Args:
        path: the file.
        told: what the user says.

    Returns:
        The scene. Its header holds the tags of the file, ``crs`` (WKT) and ``transform`` (six numbers, as rasterio
        takes them back), or ``gcps`` (row, column, x, y).

    Raises:
        ValueError: no GeoTIFF, values that are not real numbers, tags that cannot be honoured.
        ImportError: rasterio is not there.
    """
    try:
        import rasterio
    except ImportError:
        raise missing("geo", "rasterio", f"{path}: a GeoTIFF") from None
    with rasterio.Env(**ALONE):
        file = _opened(path, rasterio)
        _sidecar(file)
        _world_file(file)
        indexes, alpha = _measured(file)
        mask = _mask(file, alpha)
    bands = [file.bands[i - 1] for i in indexes]
    entries = Entries(_entries(file, bands))
    source = RasterBands(file.raster, indexes)
    scaling, nodata = _scaling(file, bands, told), _nodata(bands)
    axis, good = _axis(file, bands, entries, told), _good(file, bands, entries)
    quantity = _quantity(bands, entries)
    header = _header(file, bands)
    beside = _beside(file, indexes, told)
    account = Account()
    if beside is not None:
        axis = beside.axis() if axis is None else axis
        good = beside.flags() if good is None else good
        nodata = beside.nodata() if nodata is None else nodata
        scaling = beside.scaling() if scaling == {} else scaling
        quantity = quantity or beside.quantity()
        beside.supply(header)
        account = beside.account()
        file.notes += beside.notes
    entries.carry("band names", *(name for name in _all(entries) if DESCRIPTIVE.match(name)))
    stated = None if nodata is None else float(np.ravel(nodata)[0])
    cube = LazyCube(source, nodata=NODATA if nodata is None else nodata, **scaling)
    own = entries.account()
    return Scene(
        cube,
        axis,
        good_bands=good,
        mask=mask,
        stated_nodata=stated,
        name=path.stem,
        quantity=quantity or "value",
        notes=tuple(file.notes),
        account=Account(own.used + account.used, own.carried + account.carried, own.unknown + account.unknown),
        header=header,
    )


# What the file says


def _opened(path: Path, rasterio: Any) -> _File:
    """The file, by GDAL's GeoTIFF driver and no other."""
    place = path.absolute()
    if str(place).startswith("/vsi"):  # GDAL would take it for one of its virtual files
        raise ValueError(f"{path}: files in a folder {place.parts[1]!r} cannot be opened: move the file elsewhere")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            raster = rasterio.open(place, driver="GTiff", sharing=False)
            transform = tuple(float(v) for v in raster.transform)[:6]
    except rasterio.errors.RasterioError as error:
        raise ValueError(f"{path} is not a readable GeoTIFF ({error})") from None
    kinds = {np.dtype(kind) for kind in raster.dtypes if not str(kind).startswith("complex_int")}
    if len(kinds) != 1 or next(iter(kinds)).kind not in "iuf":
        found = ", ".join(sorted(set(map(str, raster.dtypes))))
        raise ValueError(f"{path}: values of type {found} are not real numbers of one type")
    row = raster.width * raster.count * next(iter(kinds)).itemsize
    tall, wide = max(raster.block_shapes)
    together = raster.count if str(getattr(raster.interleaving, "value", "")).upper() == "PIXEL" else 1
    block = tall * wide * together * next(iter(kinds)).itemsize
    if max(row, block) > BLOCK_BYTES:
        raise ValueError(
            f"{path}: a row or a block of the file takes {max(row, block) / 2**30:.1f} GiB, more than can be read at "
            "once: write it in smaller tiles (gdal_translate -co TILED=YES)"
        )
    file = _File(path, raster, _bands(raster, rasterio))
    for domain in ("", *raster.tag_namespaces()):
        if domain.upper() not in STRUCTURE:
            start = f"{domain}:" if domain else ""
            file.tags |= {f"{start}{name}": value for name, value in raster.tags(ns=domain or None).items()}
    try:
        file.crs = None if raster.crs is None else raster.crs.to_wkt()
    except rasterio.errors.RasterioError as error:
        file.notes.append(f"The coordinate system of the file cannot be read ({error}).")
    file.transform = None if transform == NOWHERE else transform
    points, system = raster.gcps
    file.gcps = [(float(p.row), float(p.col), float(p.x), float(p.y)) for p in points]
    if file.gcps and file.crs is None and system:
        file.tags["coordinate system of the ground control points"] = system.to_wkt()
    file.rpcs = raster.rpcs is not None
    flags = raster.mask_flag_enums[0]
    file.masked = rasterio.enums.MaskFlags.per_dataset in flags and rasterio.enums.MaskFlags.alpha not in flags
    return file


def _bands(raster: Any, rasterio: Any) -> list[_Band]:
    """What the file says of each band."""
    told = zip(
        raster.descriptions, raster.units, raster.scales, raster.offsets, raster.nodatavals, raster.colorinterp,
        strict=True,
    )  # fmt: skip
    return [
        _Band(
            {_plain(name): value for name, value in raster.tags(number).items()},
            dict(raster.tags(number, ns="IMAGERY")),
            description or "",
            unit or "",
            float(scale),
            float(offset),
            None if nodata is None else float(nodata),
            color == rasterio.enums.ColorInterp.alpha,
        )
        for number, (description, unit, scale, offset, nodata, color) in enumerate(told, 1)
    ]


def _plain(name: str) -> str:
    """The name of a tag in small letters, with ``_`` between its words."""
    return re.sub(r"[\s_-]+", "_", name.strip().lower())


def _sidecar(file: _File) -> None:
    """Take what GDAL keeps beside a file, ``x.tif.aux.xml``; it stands above what the file says, as for GDAL.

    Raises:
        ValueError: a scale, offset or no-data value in it is not a number.
    """
    path = file.path.with_name(f"{file.path.name}.aux.xml")
    if not path.is_file():
        return
    try:
        if path.stat().st_size > SIDECAR_BYTES:
            raise ValueError(f"it has more than {SIDECAR_BYTES // 2**20} MiB")
        text = path.read_text(encoding="utf-8")
        if "<!" in text.replace("<!--", ""):  # entities can name files, and grow without end
            raise ValueError("it declares a document type")
        root = ElementTree.fromstring(text)
    except (OSError, ValueError, ElementTree.ParseError) as error:
        file.notes.append(f"{path.name} beside the file cannot be read and was left out ({error}).")
        return
    for element in root:
        if element.tag == "SRS" and (element.text or "").strip():
            file.crs = str(element.text).strip()
        elif element.tag == "GeoTransform":
            numbers = [plain_number(part) for part in (element.text or "").split(",")]
            if len(numbers) == 6 and all(number is not None for number in numbers):
                c, a, b, f, d, e = (float(str(number)) for number in numbers)
                file.transform = a, b, c, d, e, f
            else:
                file.notes.append(f"The GeoTransform in {path.name} is not six numbers and was left out.")
        elif element.tag == "Metadata" and str(element.get("domain", "")).upper() not in STRUCTURE:
            start = f"{element.get('domain')}:" if element.get("domain") else ""
            file.tags |= {f"{start}{item.get('key')}": item.text or "" for item in element if item.tag == "MDI"}
        elif element.tag == "PAMRasterBand":
            number = str(element.get("band", ""))
            if number.isdigit() and 1 <= int(number) <= len(file.bands):
                _sidecar_band(file.bands[int(number) - 1], element, f"{path}: band {number}")


def _sidecar_band(band: _Band, element: Any, where: str) -> None:
    """Take what a sidecar says of a band."""
    for inner in element:
        text = (inner.text or "").strip()
        if inner.tag in ("Scale", "Offset", "NoDataValue"):
            try:
                number = float(text)
            except ValueError:
                raise ValueError(f"{where}: {inner.tag} must be a number, got {text[:40]!r}") from None
            setattr(band, {"NoDataValue": "nodata"}.get(inner.tag, inner.tag.lower()), number)
        elif inner.tag == "Description" and text:
            band.description = text
        elif inner.tag == "UnitType" and text:
            band.unit = text
        elif inner.tag == "ColorInterp":
            band.transparency = text.lower() == "alpha"
        elif inner.tag == "Metadata":
            items = {str(item.get("key")): item.text or "" for item in inner if item.tag == "MDI"}
            if str(inner.get("domain", "")).upper() == "IMAGERY":
                band.imagery |= items
            elif not inner.get("domain"):
                band.tags |= {_plain(name): value for name, value in items.items()}


def _world_file(file: _File) -> None:
    """Take the transform of a world file, where there is no other."""
    if file.transform is not None or file.gcps:
        return
    stem, suffix = file.path.stem, file.path.suffix[1:]
    ends = [f"{suffix[0]}{suffix[-1]}w", f"{suffix}w", "wld"]
    for end in (*ends, *(end.upper() for end in ends)):
        path = file.path.with_name(f"{stem}.{end}")
        if not path.is_file():
            continue
        with path.open("rb") as lines:
            words = lines.read(1000).decode("latin-1").split()
        numbers = [plain_number(word) for word in words[:6]]
        if len(numbers) < 6 or any(number is None for number in numbers):
            file.notes.append(f"{path.name} beside the file is not a world file of six numbers and was left out.")
            return
        a, d, b, e, x, y = (float(str(number)) for number in numbers)
        file.transform = a, b, x - (a + b) / 2, d, e, y - (d + e) / 2  # it gives the centre of the first pixel
        return


# Bands that are no measurements


def _measured(file: _File) -> tuple[list[int], int | None]:
    """Numbers of the bands that are measurements, and that of a band of transparency."""
    alpha = None
    for i, band in enumerate(file.bands, 1):
        if not band.transparency or len(file.bands) == 1:
            continue
        if _is_transparency(file, i):
            alpha = i
            file.notes.append(f"Band {i} is one of transparency (alpha) and is left out.")
        else:
            file.notes.append(
                f"Band {i} is marked as one of transparency (alpha), but holds measurements: it is kept. Leave it out "
                f"with --bad-bands {i} if it is none."
            )
    kept = [i for i in range(1, len(file.bands) + 1) if i != alpha]
    last = file.bands[kept[-1] - 1]
    if len(kept) > 1 and MASK_NAME.fullmatch(last.description.strip()):
        file.notes.append(f"The last band is named {last.description.strip()!r}: it is left out, and not applied.")
        kept = kept[:-1]
    return kept, alpha


def _is_transparency(file: _File, number: int) -> bool:
    """Whether a band is all or nothing nearly everywhere: GDAL marks the fourth band of any 8-bit image as alpha."""
    height, width = file.raster.height, file.raster.width
    rows = np.unique(((np.arange(LOOKED_AT_ROWS) + 0.5) * height / LOOKED_AT_ROWS).astype(int))
    values = np.concatenate([file.raster.read(number, window=((r, r + 1), (0, width))).ravel() for r in rows])
    most = np.iinfo(values.dtype).max if values.dtype.kind in "iu" else 1
    whole = np.isin(values, (0, 1, 255, most))
    return bool(whole.mean() > 0.5)


def _mask(file: _File, alpha: int | None) -> np.ndarray | None:
    """Valid pixels by transparency, or by a mask inside the file; None where all are, or where it costs too much."""
    raster = file.raster
    if alpha is None and not file.masked:
        return None
    pixels = raster.height * raster.width
    cost = pixels
    if alpha is not None and str(getattr(raster.interleaving, "value", "")).upper() == "PIXEL":
        cost = pixels * raster.count * np.dtype(raster.dtypes[0]).itemsize  # all bands are read for one
    if cost > MASK_BYTES:
        what = "Its band of transparency" if alpha is not None else "The mask inside the file"
        file.notes.append(
            f"{what} is not applied, since the scene is too large to read it at once: what it leaves out is unmixed "
            "unless a no-data value marks it."
        )
        return None
    valid = (raster.read(alpha) if alpha is not None else raster.read_masks(1)) != 0
    return None if valid.all() else valid


# What the numbers mean


def _scaling(file: _File, bands: Sequence[_Band], told: Reading) -> dict[str, Any]:
    """Divisor, gain and offset of `LazyCube`; empty where nothing is scaled."""
    scales, offsets = np.asarray([b.scale for b in bands]), np.asarray([b.offset for b in bands])
    if told.scale is not None:
        return {}
    if not (np.isfinite(scales) & (scales != 0)).all():
        wrong = scales[~(np.isfinite(scales) & (scales != 0))][0]
        raise ValueError(f"{file.path}: a band's scale must be a number other than zero, got {wrong:g}; give --scale")
    if told.offset is None and not np.isfinite(offsets).all():
        raise ValueError(f"{file.path}: a band's offset must be a finite number; give --offset")
    if (scales == 1).all() and (offsets == 0).all():
        return {}
    if (scales == scales[0]).all():  # division by 10 000 gives other last bits than multiplication by 0.0001
        return {"divisor": float(1 / scales[0]), "offset": offsets}
    return {"gain": scales, "offset": offsets}


def _nodata(bands: Sequence[_Band]) -> Any:
    """Stored number that marks missing data, one or one per band; None where the file gives none."""
    values = [b.nodata for b in bands]
    if all(value is None for value in values):
        return None
    numbers = np.asarray([np.nan if value is None else value for value in values], float)
    return float(numbers[0]) if (numbers == numbers[0]).all() or np.isnan(numbers).all() else numbers


def _axis(file: _File, bands: Sequence[_Band], entries: Entries, told: Reading) -> SpectralAxis | None:
    """The spectral axis, None unless every band has its wavelength."""
    where = str(file.path)
    unit: str | None = None
    widths: list[str | None] = [None] * len(bands)
    texts, found = _per_band(bands, CENTERS, entries, file)
    if texts is not None:
        unit = _unit_of_tags(bands, entries) or found
        widths, of_widths = _some_per_band(bands, WIDTHS, entries)
        centers, said = _numbers(texts, where, "wavelength")
        unit = said or unit
    elif all("CENTRAL_WAVELENGTH_UM" in b.imagery for b in bands):
        entries.use("IMAGERY:CENTRAL_WAVELENGTH_UM (bands)")
        entries.use("IMAGERY:FWHM_UM (bands)")
        unit = of_widths = "um"
        centers, _ = _numbers([b.imagery["CENTRAL_WAVELENGTH_UM"] for b in bands], where, "wavelength")
        widths = [b.imagery.get("FWHM_UM") for b in bands]
    elif (named := _axis_of_names([b.description for b in bands])) is not None:
        entries.use("band names")
        centers, unit = named
        widths, of_widths = _some_per_band(bands, WIDTHS, entries)
    else:
        return None
    fwhm = None
    if all(width is not None for width in widths):
        fwhm, said = _numbers([str(width) for width in widths], where, "fwhm")
        of_widths = said or of_widths
        if of_widths is not None and unit is not None and of_widths != unit:
            if "cm-1" in (of_widths, unit):
                raise ValueError(f"{where}: wavelengths are in {unit}, their widths in {of_widths}")
            fwhm = [width * (1000.0 if of_widths == "um" else 0.001) for width in fwhm]
    elif any(width is not None for width in widths):
        file.notes.append("Widths (fwhm) are given for some bands only and were left out.")
    return spectral_axis(centers, fwhm=fwhm, unit=told.unit_of(unit, where), where=where)


def _per_band(
    bands: Sequence[_Band], names: Iterable[str], entries: Entries, file: _File
) -> tuple[list[str] | None, str | None]:
    """A value of each band, by its tags or by a list among those of the file, and the unit in the tag's name."""
    partly = False
    for name in names:
        for end, unit in ENDS.items():
            values = [b.tags.get(f"{name}{end}") for b in bands]
            if all(value is not None for value in values):
                entries.use(f"{name}{end} (bands)")
                return [str(value) for value in values], unit
            partly = partly or any(value is not None for value in values)
            for domain in ("", "ENVI:"):
                found = next((tag for tag in _all(entries) if _plain(tag) == _plain(f"{domain}{name}{end}")), None)
                if found is None:
                    continue
                listed = _listed(str(entries.peek(found)))
                if len(listed) == len(bands):
                    entries.use(found)
                    return listed, unit
                if len(listed) > 1:
                    file.notes.append(
                        f"The tag {found} lists {len(listed)} values for {len(bands)} bands and was left out."
                    )
    if partly:
        file.notes.append(f"Some bands have a {next(iter(names))}, others have none: it was left out.")
    return None, None


def _some_per_band(
    bands: Sequence[_Band], names: Iterable[str], entries: Entries
) -> tuple[list[str | None], str | None]:
    """A value of each band that has one, and the unit in the tag's name."""
    for name in names:
        for end, unit in ENDS.items():
            values = [b.tags.get(f"{name}{end}") for b in bands]
            if any(value is not None for value in values):
                if all(value is not None for value in values):
                    entries.use(f"{name}{end} (bands)")
                return list(values), unit
            for domain in ("", "ENVI:"):
                found = next((tag for tag in _all(entries) if _plain(tag) == _plain(f"{domain}{name}{end}")), None)
                if found is not None and len(listed := _listed(str(entries.peek(found)))) == len(bands):
                    entries.use(found)
                    return list(listed), unit
    return [None] * len(bands), None


def _unit_of_tags(bands: Sequence[_Band], entries: Entries) -> str | None:
    """The unit that tags state for the wavelengths."""
    for name in UNITS:
        values = {b.tags[name] for b in bands if name in b.tags}
        if len(values) > 1:
            raise ValueError(f"{name} differs from band to band: {', '.join(sorted(values))}")
        if values:
            entries.use(f"{name} (bands)")
            return unit_of(values.pop())
        for domain in ("", "ENVI:"):
            found = next((tag for tag in _all(entries) if _plain(tag) == _plain(f"{domain}{name}")), None)
            if found is not None:
                return unit_of(str(entries.use(found)).strip("{} "))
    return None


def _axis_of_names(names: Sequence[str]) -> tuple[list[float], str | None] | None:
    """Wavelengths out of the names of all bands, where these are unmistakable."""
    found = axis_of_names(names)
    if found is not None:
        return [float(center) for center in found[0]], found[1]
    matches = [NAMED_CENTER.search(name[:200]) for name in names]
    if len(names) < 2 or not all(matches):
        return None
    units = {match[2].lower() for match in matches if match is not None}
    centers = [float(match[1]) for match in matches if match is not None]
    if len(units) != 1 or len(set(centers)) < len(centers):
        return None
    unit = units.pop()
    try:
        return centers, unit_of(unit)
    except ValueError:
        return None


def _numbers(texts: Sequence[str], where: str, what: str) -> tuple[list[float], str | None]:
    """Numbers, each perhaps with the unit that all have."""
    numbers, units = [], set()
    for text in texts:
        found = re.fullmatch(r"([-+.\deE]{1,40}?)\s*([a-zA-Zµμ^⁻¹/-]{1,20}1?)?", text.strip())
        number = None if found is None else plain_number(found[1])
        if number is None or found is None:
            raise ValueError(f"{where}: a band's {what} is not a number ({text[:40]!r})")
        numbers.append(float(number))
        units.add(found[2] or "")
    if len(units) > 1:
        raise ValueError(f"{where}: the unit of {what} differs from band to band")
    return numbers, unit_of(units.pop())


def _good(file: _File, bands: Sequence[_Band], entries: Entries) -> np.ndarray | None:
    """Good bands by tags such as ``bbl`` (1: good) or ``bad band`` (1: bad); a band without the tag is good."""
    for names, when in ((GOOD, True), (BAD, False)):
        for name in names:
            values: list[Any] = [b.tags.get(name) for b in bands]
            if all(value is None for value in values):
                found = next((t for t in _all(entries) if _plain(t) in (name, f"envi:{name}")), None)
                listed = [] if found is None else _listed(str(entries.peek(found)))
                if len(listed) != len(bands):
                    continue
                entries.use(str(found))
                values = list(listed)
            else:
                entries.use(f"{name} (bands)")
            where = f"{file.path}: {name}"
            return np.asarray([value is None or _flag(str(value), where) == when for value in values])
    return None


def _flag(text: str, what: str) -> bool:
    """True or false."""
    word = text.strip().lower()
    if word in ("true", "yes", "false", "no"):
        return word in ("true", "yes")
    number = plain_number(word)
    if number is None:
        raise ValueError(f"{what} must be 0 or 1 for each band, got {text[:40]!r}")
    return float(number) != 0


def _quantity(bands: Sequence[_Band], entries: Entries) -> str | None:
    """What the values are, by tags or by the unit of all bands."""
    for name in QUANTITIES:
        found = next((tag for tag in _all(entries) if _plain(tag) == name), None)
        if found is not None and (quantity := quantity_in(str(entries.peek(found)))) is not None:
            entries.use(found)
            return quantity
    units = {b.unit for b in bands}
    return quantity_in(units.pop()) if len(units) == 1 else None


# Entries and header


def _entries(file: _File, bands: Sequence[_Band]) -> dict[str, Any]:
    """All metadata by name; that of bands as lists."""
    found: dict[str, Any] = dict(file.tags)
    for name in dict.fromkeys(name for b in bands for name in b.tags):
        found[f"{name} (bands)"] = [b.tags.get(name) for b in bands]
    for name in dict.fromkeys(name for b in bands for name in b.imagery):
        found[f"IMAGERY:{name} (bands)"] = [b.imagery.get(name) for b in bands]
    if any(b.description for b in bands):
        found["band names"] = [b.description for b in bands]
    return found


def _all(entries: Entries) -> list[str]:
    """Names of all entries."""
    return list(entries.header())


def _header(file: _File, bands: Sequence[_Band]) -> Header:
    """Tags, names of bands and place."""
    placing = {_plain(name) for name in RESERVED}
    header = Header({name: value for name, value in file.tags.items() if _plain(name) not in placing})
    if any(b.description for b in bands):
        header["band names"] = [b.description for b in bands]
    if file.transform is not None:
        header["transform"] = file.transform
    if file.crs is not None:
        header["crs"] = file.crs
    if file.gcps and file.transform is None:
        header["gcps"] = file.gcps
    if file.rpcs:
        header["rpcs"] = True
    return header


def _listed(text: str) -> list[str]:
    """The parts of a list in a tag."""
    return [part.strip() for part in text.strip().removeprefix("{").removesuffix("}").split(",")]


# The ENVI header beside


class _Beside:
    """An ENVI header beside the file, of the same sizes; what is asked of it counts as used."""

    def __init__(self, header: Any, file: _File, indexes: Sequence[int], told: Reading) -> None:
        self.notes: list[str] = []
        self._header, self._told, self._file = header, told, file
        self._count = header.whole("bands")
        self._kept = np.asarray(indexes) - 1 if self._count == file.raster.count else np.arange(self._count)

    def axis(self) -> SpectralAxis | None:
        """Its wavelengths."""
        axis = self._header.axis(self._count, self._told)
        if axis is None or len(self._kept) == self._count:
            return axis
        fwhm = None if axis.fwhm is None else np.asarray(axis.fwhm)[self._kept]
        return SpectralAxis(np.asarray(axis.centers)[self._kept], fwhm, axis.unit)

    def flags(self) -> np.ndarray | None:
        """Its good bands."""
        flags = self._header.flags(self._count)
        return None if flags is None else flags[self._kept]

    def nodata(self) -> Any:
        """Its ignore value."""
        value = self._header.ignored(self._count, self._told)
        return value if value is None or np.ndim(value) == 0 else np.asarray(value)[self._kept]

    def scaling(self) -> dict[str, Any]:
        """Its gains, offsets and scale factor."""
        scaling, notes = self._header.scaling(self._count, self._told)
        self.notes += notes
        scaling = {name: np.asarray(v)[self._kept] if np.ndim(v) else v for name, v in scaling.items()}
        return {} if scaling == {"divisor": 1.0} else scaling

    def quantity(self) -> str | None:
        """What the values are."""
        return self._header.quantity()

    def supply(self, header: Header) -> None:
        """Add its entries to the header of the scene; those of place where that has none."""
        placed = {"transform", "crs", "gcps"} & set(header)
        for name, value in self._header.fields.header().items():
            place = name in RESERVED and name != "band names"
            if place and not placed:
                self._header.fields.use(name)
            if name not in header and not (place and placed):
                header[name] = value

    def account(self) -> Account:
        """What became of its entries; those that the file itself says as well are carried."""
        fields = self._header.fields
        known = ("wavelength", "wavelength units", "fwhm", "bbl", "data ignore value", "reflectance scale factor")
        gains = ("data gain values", "data offset values", "data reflectance gain values")
        form = ("header offset", "file type", "data type", "interleave", "byte order", "file compression")
        fields.carry(*known, *gains, "data reflectance offset values", *form, *RESERVED)
        found = fields.account()
        name = self._header.path.name
        return Account(*(tuple(f"{name}: {entry}" for entry in part) for part in found))


def _beside(file: _File, indexes: Sequence[int], told: Reading) -> _Beside | None:
    """The ENVI header beside the file, if there is one of the same sizes."""
    from unmix_jax.scenes.readers.envi import EnviHeader  # which opens a GeoTIFF that its header lies beside

    path, stem = file.path, file.path.stem
    names = (f"{path.name}.hdr", f"{stem}.hdr", f"{path.name}.HDR", f"{stem}.HDR")
    found = next((p for p in (path.with_name(name) for name in names) if p.is_file()), None)
    if found is None:
        return None
    with found.open("rb") as start:
        if start.read(4) != b"ENVI":
            return None  # headers of other formats have the same suffix
    header = EnviHeader(found)
    sizes = [header.whole(name, 0) for name in ("lines", "samples", "bands")]
    raster = file.raster
    if sizes[:2] != [raster.height, raster.width] or sizes[2] not in (raster.count, len(indexes)):
        file.notes.append(
            f"{found.name} beside the file is of {' × '.join(map(str, sizes))} lines, samples and bands, the file of "
            f"{raster.height} × {raster.width} × {raster.count}: it was left out."
        )
        return None
    return _Beside(header, file, indexes, told)
