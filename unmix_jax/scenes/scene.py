"""Scenes, spectral libraries, and the spectral axis both carry.

Three pytrees, checked when they are built, so that everything behind them may trust shapes and units. Their
annotations name the kind of number only: shapes are checked with messages for whoever reads a file.
Values may be NumPy arrays, memory maps or JAX arrays. Spectra are rows and bands come last, everywhere.
Wavelengths are in nm inside the package; micrometres are converted when a file is read.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float, Integer
from numpy import ndarray

from unmix_jax.scenes.rows import Rows

__all__ = [
    "Account",
    "Header",
    "Scene",
    "SpectralAxis",
    "SpectralLibrary",
    "as_scene",
    "header_of",
    "sample",
    "thinned",
]

NM_PER = {"nm": 1.0, "um": 1e3}
UNITS = ("nm", "um", "cm-1")
UNKNOWN_QUANTITY = "value"
LABELS = {"nm": "wavelength (nm)", "um": "wavelength (µm)", "cm-1": "wavenumber (cm⁻¹)"}


class Header(dict):
    """Metadata carried through untouched; hashed by identity so that it may sit in a static field."""

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


class Account(NamedTuple):
    """What became of every metadata entry that a reader met.

    Attributes:
        used: entries that are in the arrays, masks, axis, names or place of what was read.
        carried: entries that change no number; they stay in the header and go to the outputs where these can hold them.
        unknown: entries that the reader does not understand; ``unmix-jax info`` lists them.
    """

    used: tuple[str, ...] = ()
    carried: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


class SpectralAxis(eqx.Module):
    """Band centres with their unit and, where known, full widths at half maximum.

    Centres need not be monotone: spectrometers overlap. They must be finite, positive and not all equal.

    Attributes:
        centers: one per band.
        fwhm: full width at half maximum of each band; None: not known.
        unit: nm, um or cm-1.
        responses: wavelengths [sample], increasing and in `unit`, and the response of each band at them
            [band, sample], linear in between and zero outside; None: bands are Gaussians of their width.
    """

    centers: Float[Any, "..."]
    fwhm: Float[Any, "..."] | None = None
    unit: str = eqx.field(static=True, default="nm")
    responses: tuple[Float[Any, "..."], Float[Any, "..."]] | None = None

    def __check_init__(self) -> None:
        if self.unit not in UNITS:
            raise ValueError(f"spectral unit {self.unit!r} is not one of {', '.join(UNITS)}")
        centers = self.centers
        if not hasattr(centers, "shape"):
            raise ValueError(f"band centres must be an array, got {type(centers).__name__}")
        if len(centers.shape) != 1 or centers.shape[0] == 0:
            raise ValueError(f"band centres must be one non-empty row of numbers, got shape {centers.shape}")
        if isinstance(centers, ndarray) and not (np.isfinite(centers).all() and (centers > 0).all()):
            raise ValueError("band centres must be finite and positive")
        if self.fwhm is not None and self.fwhm.shape != centers.shape:
            raise ValueError(f"{self.fwhm.shape[0]} band widths for {centers.shape[0]} band centres")
        if self.responses is not None:
            samples, values = self.responses
            if len(samples.shape) != 1 or samples.shape[0] < 2 or values.shape != (*centers.shape, *samples.shape):
                raise ValueError(
                    f"responses are at least 2 wavelengths [sample] and their values [band, sample]; got shapes "
                    f"{tuple(samples.shape)} and {tuple(values.shape)} for {centers.shape[0]} bands"
                )
            if self.unit == "cm-1":
                raise ValueError("responses are tabulated over wavelength, the axis is in wavenumbers")

    def __len__(self) -> int:
        return self.centers.shape[0]

    @property
    def label(self) -> str:
        """Axis label with its unit, such as ``wavelength (nm)``."""
        return LABELS[self.unit]

    def to(self, unit: str) -> "SpectralAxis":
        """The same bands in another unit: ``nm``, ``um`` or ``cm-1`` (order of the bands is kept).

        Tabulated responses are dropped on the way to cm⁻¹: a mean that weighs wavelengths is not one that weighs
        wavenumbers.
        """
        if unit not in UNITS:
            raise ValueError(f"spectral unit {unit!r} is not one of {', '.join(UNITS)}")
        if unit == self.unit:
            return self
        if unit != "cm-1" and self.unit != "cm-1":
            factor = NM_PER[self.unit] / NM_PER[unit]
            fwhm = None if self.fwhm is None else self.fwhm * factor
            responses = None if self.responses is None else (self.responses[0] * factor, self.responses[1])
            return SpectralAxis(self.centers * factor, fwhm, unit, responses)
        product = 1e7 / NM_PER[unit if self.unit == "cm-1" else self.unit]
        centers = product / self.centers
        fwhm = None if self.fwhm is None else product * self.fwhm / self.centers**2
        return SpectralAxis(centers, fwhm, unit)


class SpectralLibrary(eqx.Module):
    """Spectra of named materials, one per row.

    Attributes:
        spectra: [member, band], reflectance, emissivity or any unit shared with the scene; NaN = no data.
        axis: the bands; None where a file names none.
        names: one per member.
        classes: the material class of each member (empty, or one per member).
        good_bands: False where a band is not to be used; None: all good.
        quantity: what the values are: ``reflectance``, ``emissivity``, ...; ``value`` where nobody says.
        notes: what may make the numbers wrong, one sentence each.
        account: what became of the file's metadata.
        header: metadata, carried through untouched.
    """

    spectra: Float[Any, "..."]
    axis: SpectralAxis | None = None
    names: tuple[str, ...] = eqx.field(static=True, default=())
    classes: tuple[str, ...] = eqx.field(static=True, default=())
    good_bands: Bool[Any, "..."] | None = None
    quantity: str = eqx.field(static=True, default=UNKNOWN_QUANTITY)
    notes: tuple[str, ...] = eqx.field(static=True, default=())
    account: Account = eqx.field(static=True, default=Account())
    header: Header = eqx.field(static=True, default_factory=Header)

    def __check_init__(self) -> None:
        if len(self.spectra.shape) != 2 or 0 in self.spectra.shape:
            raise ValueError(
                f"a library needs at least one spectrum of at least one band as [member, band], "
                f"got shape {tuple(self.spectra.shape)}"
            )
        members, bands = self.spectra.shape
        if self.axis is not None and len(self.axis) != bands:
            raise ValueError(f"library spectra have {bands} bands, its spectral axis has {len(self.axis)}")
        if self.names and len(self.names) != members:
            raise ValueError(f"{len(self.names)} names for {members} library spectra")
        if self.classes and len(self.classes) != members:
            raise ValueError(f"{len(self.classes)} classes for {members} library spectra")
        if self.good_bands is not None and self.good_bands.shape != (bands,):
            raise ValueError(f"good_bands has shape {self.good_bands.shape}, the library has {bands} bands")

    def __len__(self) -> int:
        return self.spectra.shape[0]

    def select(self, members: Any) -> "SpectralLibrary":
        """The library of some members: their indices, a boolean mask, or a list of their names."""
        chosen = list(members)
        if not chosen:
            raise ValueError("a library needs at least one spectrum: no member was chosen")
        if chosen and all(isinstance(m, str) for m in chosen):
            missing = [m for m in chosen if m not in self.names]
            if missing:
                raise ValueError(f"the library has no member named {', '.join(map(repr, missing))}")
            index = np.asarray([self.names.index(m) for m in chosen])
        else:
            index = np.arange(len(self))[np.asarray(chosen)]
        return replace(
            self,
            spectra=self.spectra[index],
            names=tuple(self.names[i] for i in index) if self.names else (),
            classes=tuple(self.classes[i] for i in index) if self.classes else (),
            header=_of_members(self.header, index, len(self)),
        )


def _of_members(header: Header, index: np.ndarray, count: int) -> Header:
    """The header of some members of a library: lists of one value per member, in ``metadata``, are cut."""
    metadata = header.get("metadata")
    if not isinstance(metadata, Mapping):
        return header
    cut = {
        name: [values[i] for i in index] if isinstance(values, list | tuple) and len(values) == count else values
        for name, values in metadata.items()
    }
    return Header({**header, "metadata": cut})


class Scene(eqx.Module):
    """An image cube, or a plain list of spectra, with all that came with it.

    Attributes:
        cube: [row, column, band] or [pixel, band]; a memory map stays one.
        axis: the bands; None where the file names none.
        good_bands: False where a band is not to be used (ENVI ``bbl`` 0); None: all good.
        mask: True where a pixel is valid; None: all valid. NaN and ``nodata`` pixels need not be in it.
        nodata: the value in the cube that marks missing data, after rounding to the type of the cube; NaN: none does.
            None: nothing is said, and pixels of -9999 are left out with a warning.
        stated_nodata: the value that the file or the user says marks missing data, as stored; None: neither does.
        suspected_nodata: a value that nobody states, but that repeats as a fill value does; endmembers are not
            extracted from such a scene.
        endmembers: reference endmembers, where the dataset has them.
        abundances: reference abundances [row, column, endmember] or [pixel, endmember].
        abundance_names: one per reference abundance (classes may be fewer than the endmembers).
        labels: land-cover label per pixel, 0 = unlabelled; ``label_names`` names them from 0.
        pixel_names: one per spectrum of a list of spectra, where they have names.
        name: of the scene.
        quantity: what the values are: ``reflectance``, ``radiance``, ``emissivity``, ...; ``value`` where nobody says.
        notes: what may make the numbers wrong, one sentence each: told when the scene is opened, and kept in the record
            and the report of a run.
        account: what became of the file's metadata.
        header: metadata and georeferencing, carried through untouched.
    """

    cube: Float[Any, "..."]
    axis: SpectralAxis | None = None
    good_bands: Bool[Any, "..."] | None = None
    mask: Bool[Any, "..."] | None = None
    endmembers: SpectralLibrary | None = None
    abundances: Float[Any, "..."] | None = None
    labels: Integer[Any, "..."] | None = None
    nodata: float | None = eqx.field(static=True, default=None)
    stated_nodata: float | None = eqx.field(static=True, default=None)
    suspected_nodata: float | None = eqx.field(static=True, default=None)
    abundance_names: tuple[str, ...] = eqx.field(static=True, default=())
    label_names: tuple[str, ...] = eqx.field(static=True, default=())
    pixel_names: tuple[str, ...] = eqx.field(static=True, default=())
    name: str = eqx.field(static=True, default="scene")
    quantity: str = eqx.field(static=True, default=UNKNOWN_QUANTITY)
    notes: tuple[str, ...] = eqx.field(static=True, default=())
    account: Account = eqx.field(static=True, default=Account())
    header: Header = eqx.field(static=True, default_factory=Header)

    def __check_init__(self) -> None:
        shape = tuple(self.cube.shape)
        if len(shape) not in (2, 3) or 0 in shape:
            raise ValueError(f"a scene is [row, column, band] or [pixel, band] and not empty, got {shape}")
        bands, pixels = shape[-1], shape[:-1]
        if self.axis is not None and len(self.axis) != bands:
            raise ValueError(f"the cube has {bands} bands, its spectral axis has {len(self.axis)}")
        if self.good_bands is not None and self.good_bands.shape != (bands,):
            raise ValueError(f"good_bands has shape {self.good_bands.shape}, the cube has {bands} bands")
        if self.good_bands is not None and not np.asarray(self.good_bands).any():
            raise ValueError("every band of the scene is marked bad")
        for field in ("mask", "labels"):
            value = getattr(self, field)
            if value is not None and tuple(value.shape) != pixels:
                raise ValueError(f"{field} has shape {tuple(value.shape)}, the scene's pixels {pixels}")
        if self.pixel_names and (len(self.pixel_names),) != pixels:
            raise ValueError(f"{len(self.pixel_names)} names for the scene's pixels {pixels}")
        if self.abundances is not None and tuple(self.abundances.shape[:-1]) != pixels:
            raise ValueError(f"abundances have shape {tuple(self.abundances.shape)}, the scene's pixels {pixels}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the pixel axes: (row, column) or (pixel,)."""
        return tuple(self.cube.shape[:-1])

    @property
    def bands(self) -> int:
        """Number of bands, bad ones included."""
        return self.cube.shape[-1]


def sample(scene: Scene, count: int) -> Float[np.ndarray, "pixel band"]:
    """About `count` evenly spread pixels of a scene; of a memory map, only these are read.

    Args:
        scene: an image or a list of spectra.
        count: how many are wanted; a scene of fewer gives all.

    Returns:
        The pixels as they are stored, missing ones included.
    """
    step = max(1, round((np.prod(scene.shape) / count) ** (1 / len(scene.shape))))
    return np.asarray(scene.cube[(slice(None, None, step),) * len(scene.shape)]).reshape(-1, scene.bands)


def thinned(scene: Scene, every: int) -> Scene:
    """Every n-th row and column of a scene, in memory; the scene itself where n is 1."""
    if every == 1:
        return scene
    some = (slice(None, None, every),) * len(scene.shape)
    mask, abundances = (None if of is None else np.asarray(of)[some] for of in (scene.mask, scene.abundances))
    pixel_names = scene.pixel_names[::every]
    rows = range(0, scene.shape[0], every)
    cube = np.empty((*(len(range(0, n, every)) for n in scene.shape), scene.bands), scene.cube.dtype)
    with Rows(scene.cube) as source:
        line = np.empty((source.row, scene.bands), scene.cube.dtype)
        for i, row in enumerate(rows):
            source.read(row, row + 1, line)
            cube[i] = line.reshape(*scene.shape[1:], scene.bands)[some[1:]]
    return replace(scene, cube=cube, mask=mask, abundances=abundances, labels=None, pixel_names=pixel_names)


def as_scene(library: SpectralLibrary, name: str = "spectra") -> Scene:
    """A spectral library as a scene: a list of spectra to unmix, which keeps their names.

    Args:
        library: the spectra; NaN is missing data.
        name: of the scene.
    """
    return Scene(
        library.spectra,
        library.axis,
        good_bands=library.good_bands,
        pixel_names=library.names,
        name=name,
        quantity=library.quantity,
        notes=library.notes,
        account=library.account,
        header=library.header,
    )


def header_of(mapping: Mapping[str, Any] | None) -> Header:
    """A `Header` from any mapping (or none)."""
    return Header(mapping or {})
