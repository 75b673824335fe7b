"""The variables of an open NetCDF or HDF5 file: names, dimensions, attributes, and what became of each."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unmix_jax.scenes.readers.netcdf import cf
from unmix_jax.scenes.readers.netcdf.classic import ClassicFile, is_classic
from unmix_jax.scenes.readers.netcdf.hdf import HdfFile
from unmix_jax.scenes.reading import Entries
from unmix_jax.scenes.scene import Header

__all__ = ["COLUMN", "ROW", "SPECTRAL", "WAVELENGTHS", "Variables", "above", "group_of", "letters", "open_variables"]

# Names of dimensions, letters only, in small letters: wavelength_3d is "wavelengthd".
BAND = frozenset({
    "wavelength", "wavelengths", "wavelengthd", "waveband", "wavebands", "band", "bands", "nbands", "nband",
    "numberofbands", "spectral", "spectralband", "spectralbands", "spectralchannel", "channel", "channels",
    "nchannels", "numberofchannels", "wl", "wls", "wvl", "lambda", "wave", "wavenumber", "wavenumbers", "frequency",
})  # fmt: skip
ROW = frozenset({
    "y", "yc", "yi", "row", "rows", "nrow", "nrows", "line", "lines", "nlines", "numberoflines", "numberofrows", "scan",
    "scans", "scanline", "scanlines", "numberofscans", "lat", "latitude", "latitudes", "northing", "downtrack",
    "alongtrack", "ydim", "dimy", "ny", "height", "orthoy",
})  # fmt: skip
COLUMN = frozenset({
    "x", "xc", "xi", "col", "cols", "ncol", "ncols", "column", "columns", "numberofcolumns", "sample", "samples",
    "nsamples", "numberofsamples", "lon", "long", "longitude", "longitudes", "easting", "crosstrack", "acrosstrack",
    "xdim", "dimx", "nx", "width", "pixel", "pixels", "npixels", "numberofpixels", "pixelsperline", "pixelsperscan",
    "orthox",
})  # fmt: skip
# Names of variables, letters only.
WAVELENGTHS = re.compile(
    r"(cent(er|re|ral)?|band|sensor|radiance)?(wavelengths?d?|wavenumbers?|wls?|wvls?|lambda)|bandcent(er|re)s?"
)
SPECTRAL = (
    "radiation_wavelength", "sensor_band_central_radiation_wavelength", "radiation_wavenumber",
    "sensor_band_central_radiation_wavenumber",
)  # fmt: skip
SPECTRAL_UNITS = ("nm", "nanometers", "nanometer", "um", "µm", "micrometers", "micrometer", "cm-1")
AXES = ("wavelength", "wavelength_nm", "wavelength_um", "wavenumber_cm1", "fwhm", "good_bands")  # may be attributes
VARIABLES = 5_000  # of a file that is looked through for a cube; products have some hundreds
AXIS = 16 * 2**20  # bytes of coordinates or marks along one axis: two million of them
# Attributes that change no number: CF 1.11, ACDD 1.3, and those that EMIT, AVIRIS and PACE products add.
CARRIED = frozenset({
    "title", "summary", "history", "institution", "source", "references", "comment", "conventions", "keywords",
    "keywords_vocabulary", "id", "naming_authority", "license", "project", "project_url", "platform", "instrument",
    "sensor", "program", "product_name", "product_version", "processing_level", "processing_version", "date_created",
    "date_issued", "date_modified", "date_metadata_modified", "time_coverage_start", "time_coverage_end",
    "time_coverage_duration", "time_coverage_resolution", "standard_name_vocabulary", "stdname_vocabulary",
    "ncei_template_version", "cdm_data_type", "creator_name", "creator_email", "creator_url", "creator_type",
    "creator_institution", "publisher_name", "publisher_email", "publisher_url", "publisher_type",
    "publisher_institution", "contributor_name", "contributor_role", "acknowledgement", "acknowledgment",
    "identifier_product_doi", "identifier_product_doi_authority", "doi", "flight_line", "granule_id",
    "software_build_version", "software_delivery_version", "crosstrack_orientation", "easternmost_longitude",
    "northernmost_latitude", "westernmost_longitude", "southernmost_latitude", "spatialresolution",
    "spatial_resolution", "day_night_flag", "orthorectified", "geospatial_lat_min", "geospatial_lat_max",
    "geospatial_lon_min", "geospatial_lon_max", "geospatial_lat_units", "geospatial_lon_units",
    "geospatial_lat_resolution", "geospatial_lon_resolution", "geospatial_bounds", "geospatial_bounds_crs",
    "geospatial_vertical_min", "geospatial_vertical_max", "startdirection", "enddirection", "start_orbit_number",
    "orbit_number", "equatorcrossinglongitude", "equatorcrossingdate", "earth_sun_distance_correction",
    "long_name", "standard_name", "units", "description", "axis", "coverage_content_type", "ancillary_variables",
    "cell_methods", "bounds", "positive", "calendar", "reference", "display_scale", "display_min", "display_max",
    "flag_values", "flag_masks", "flag_meanings", "coordinates", "grid_mapping", "solar_irradiance", "prod_id",
    "algorithm",
})  # fmt: skip
# Keys of a scene's header with a meaning of their own, which an attribute of the same name must not take.
RESERVED = frozenset({
    "crs", "transform", "location", "glt", "glt_crs", "glt_transform", "netcdf variables", "map info",
    "coordinate system string", "projection info", "pixel size", "geo points", "rpc info", "x start", "y start",
})  # fmt: skip


class Variables:
    """The variables of an open file: their names, dimensions and attributes, and what became of each.

    Attributes:
        file: the open file.
        path: its path.
        names: of the variables.
        attributes: of the groups ("" is the file) and the variables, by name.
        netcdf: whether it is NetCDF, and no other HDF5.
        chosen: the variable that was taken for each of the words of ``--key``.
        entries: what became of each attribute and variable: ``group/variable``, ``group/variable@attribute``.
    """

    def __init__(self, file: HdfFile | ClassicFile) -> None:
        """Look through a file.

        Args:
            file: the open file.
        """
        self.file, self.path = file, file.path
        self.names = file.variables()
        if len(self.names) > VARIABLES:
            raise ValueError(f"{self.path} has {len(self.names)} variables, more than {VARIABLES}: it is no scene")
        self.attributes = {name: file.attributes(name) for name in (*file.groups, *self.names)}
        self._dimensions = {name: file.dimensions(name) for name in self.names}
        self.netcdf = isinstance(file, ClassicFile) or any(any(of) for of in self._dimensions.values())
        self._single: dict[int, list[str]] = {}  # variables of one axis, by its length
        for name in self.names:
            if len(shape := file.shape(name)) == 1:
                self._single.setdefault(shape[0], []).append(name)
        self._known: dict[tuple[str | None, int], str | None] = {}
        self.chosen: dict[str, str] = {}
        self._keys: dict[tuple[str, str | None], str] = {}
        held: dict[str, Any] = {}
        taken = set(RESERVED)
        for name, key, value in [
            *((name, key, value) for name, of in self.attributes.items() for key, value in of.items()),
            *((name, None, None) for name in self.names),
        ]:
            entry = name if key is None else f"{name}@{key}" if name else key
            while entry.lower() in taken:  # names that differ in case only are not the same
                entry = f"/{entry}"
            taken.add(entry.lower())
            self._keys[name, key], held[entry] = entry, value
        self.entries = Entries(held)

    def use(self, name: str, *attributes: str) -> None:
        """Mark a variable and some of its attributes as used; "" is the file, of which only attributes are marked."""
        for key in (None, *attributes):
            if (name, key) in self._keys:
                self.entries.use(self._keys[name, key])

    def carry(self, name: str, *attributes: str) -> None:
        """Mark attributes as carried."""
        for key in attributes:
            if (name, key) in self._keys:
                self.entries.carry(self._keys[name, key])

    def account_rest(self) -> None:
        """Mark what describes, and what decodes variables that were not read."""
        used = set(self.entries.account().used)
        for (name, key), entry in self._keys.items():
            unread = name in self._dimensions and self._keys[name, None] not in used
            if key is not None and (key.lower() in CARRIED or (unread and key in cf.DECODING)):
                self.entries.carry(entry)

    def header(self) -> Header:
        """All attributes, as they stand in the file."""
        return Header({
            entry: self.attributes[name][key] for (name, key), entry in self._keys.items() if key is not None
        })  # fmt: skip

    def dimensions(self, name: str) -> tuple[str | None, ...]:
        """Full names of the dimensions of a variable, None where an axis has none."""
        return self._dimensions[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a variable."""
        return self.file.shape(name)

    def is_number(self, name: str) -> bool:
        """Whether a variable holds real numbers; complex ones are none."""
        try:
            return self.file.dtype(name).kind in "iuf"
        except ValueError:
            return False

    def is_complex(self, name: str) -> bool:
        """Whether a variable holds complex numbers, as such or as pairs called r and i."""
        try:
            dtype = self.file.dtype(name)
        except ValueError:
            return False
        return dtype.kind == "c" or dtype.names == ("r", "i")

    def values(self, name: str) -> np.ndarray:
        """Numbers along an axis as values in double precision, missing ones as NaN; they are marked as used.

        Args:
            name: of the variable, or ``variable@attribute``.
        """
        holder, _, attribute = name.partition("@")
        if attribute:
            found = np.asarray(self.attributes[holder][attribute])
            self.use(holder, attribute)
            return cf.numbers(found, {}, f"{self.path}: {name}")
        found = cf.numbers(self.file.read(name, AXIS), self.attributes[name], f"{self.path}: {name}")
        self.use(name, *cf.DECODING)
        return found

    def held(self, name: str, attribute: str) -> Any:
        """An attribute of a variable; None where there is none."""
        return self.attributes.get(name, {}).get(attribute)

    def find(self, wanted: str, what: str) -> str:
        """The full name of a variable by what the user calls it: its full name, or its last part where that is unique.

        Args:
            wanted: as the user says.
            what: the word of ``--key``, for messages.

        Raises:
            ValueError: there is none, or several have it.
        """
        name = wanted.strip().strip("/")
        holder, _, attribute = name.partition("@")
        if name in self._dimensions or (what in AXES and self.held(holder, attribute) is not None):
            return name
        ends = [full for full in self.names if full.rsplit("/", 1)[-1] == name]
        if len(ends) == 1:
            return ends[0]
        if ends:
            raise ValueError(f"{self.path}: {wanted} is {' and '.join(ends)}: say --key {what}={ends[0]}")
        close = difflib.get_close_matches(name[:200], self.names, 1, 0.6)
        hint = f"; did you mean --key {what}={close[0]}?" if close else "."
        raise ValueError(f"{self.path} has no variable {wanted!r}{hint} It has {self.listing()}")

    def listing(self, names: Sequence[str] | None = None) -> str:
        """Variables with their dimensions, for messages."""
        words = []
        for name in self.names if names is None else names:
            axes = (
                f"{length}" if dimension is None else f"{dimension.rsplit('/', 1)[-1]}={length}"
                for dimension, length in zip(self._dimensions[name], self.shape(name), strict=True)
            )  # fmt: skip
            words.append(f"{name} ({', '.join(axes)})")
        return ", ".join(words[:20]) + (f" and {len(words) - 20} more" if len(words) > 20 else "") or "no variables"

    def on(self, dimension: str | None, length: int) -> list[str]:
        """Variables of one axis that is this dimension; where either has no dimensions, those of this length."""
        return [
            name for name in self._single.get(length, ())
            if self._dimensions[name][0] == dimension or None in (dimension, self._dimensions[name][0])
        ]  # fmt: skip

    def nearest(self, names: Sequence[str], to: str, dimension: str | None) -> list[str]:
        """Those of several variables that lie nearest to another one: beside it, its dimension's own, further up."""
        for group in (group_of(to), None, *above(group_of(to)), "sensor_band_parameters"):
            found = [n for n in names if (n == dimension if group is None else group_of(n) == group)]
            if found:
                return found
        return list(names)

    def kinds(self, name: str) -> list[str | None]:
        """What each axis of a variable is: band, row or column; None where its dimension does not say it."""
        axes = list(zip(self._dimensions[name], self.shape(name), strict=True))
        for axis in axes:
            if axis not in self._known:
                self._known[axis] = self._kind(*axis)
        return [self._known[axis] for axis in axes]

    def _kind(self, dimension: str | None, length: int) -> str | None:
        """What an axis is by the name of its dimension, or by its coordinate variable."""
        if dimension is None:
            return None
        plain = letters(dimension)
        if plain in ROW or plain in COLUMN:
            return "row" if plain in ROW else "column"
        if plain in BAND or re.search(r"(bands?|wavelengths?|channels?)$", plain):
            return "band"
        for name in self.on(dimension, length):
            if self._dimensions[name][0] != dimension:
                continue
            held, plain = self.attributes[name], letters(name)
            standard, letter = str(held.get("standard_name", "")), str(held.get("axis", "")).upper()
            if standard in SPECTRAL or WAVELENGTHS.fullmatch(plain):
                return "band"
            if letter == "Y" or standard in ("projection_y_coordinate", "latitude", "grid_latitude") or plain in ROW:
                return "row"
            if letter == "X" or standard in ("projection_x_coordinate", "longitude", "grid_longitude"):
                return "column"
            if plain in COLUMN:
                return "column"
            if str(held.get("units", "")).lower() in SPECTRAL_UNITS:
                return "band"
        return None


def open_variables(path: Path) -> Variables:
    """Open a NetCDF or HDF5 file.

    Args:
        path: the file.

    Raises:
        ValueError: it is neither, or it is damaged; as `HdfFile`.
    """
    with path.open("rb") as stream:
        start = stream.read(8)
    if is_classic(start):
        return Variables(ClassicFile(path))
    if start[:4] == b"\x0e\x03\x13\x01":
        raise ValueError(f"{path} is HDF4, which is not read: convert it with h4toh5convert, or with gdal_translate")
    file = HdfFile(path)
    try:
        return Variables(file)
    except BaseException:
        file.close()
        raise


def letters(name: str | None) -> str:
    """The letters of the last part of a full name, in small letters."""
    return re.sub(r"[^a-z]", "", (name or "").rsplit("/", 1)[-1].lower())


def group_of(name: str) -> str:
    """The group of a variable; "" is the file itself."""
    return name.rpartition("/")[0]


def above(group: str) -> list[str]:
    """The groups around a group, up to the file itself."""
    parts = group.split("/")
    return ["/".join(parts[:i]) for i in range(len(parts) - 1, 0, -1)] + [""] * bool(group)
