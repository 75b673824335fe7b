"""Wavelengths, band widths and good bands of a cube in a NetCDF or HDF5 file."""

from collections.abc import Sequence

import numpy as np

from unmix_jax.scenes.readers.netcdf.variables import SPECTRAL, WAVELENGTHS, Variables, letters
from unmix_jax.scenes.reading import Reading
from unmix_jax.scenes.scene import SpectralAxis
from unmix_jax.scenes.units import spectral_axis, unit_of

__all__ = ["AXES", "good_bands", "spectral_axis_of", "wavelength_word"]

AXES = {"wavelength_nm": "nm", "wavelength_um": "um", "wavenumber_cm1": "cm-1"}
WIDTHS = ("fwhm", "fwhms", "radiancefwhm", "bandwidth", "bandwidths", "fullwidthhalfmax", "fullwidthathalfmaximum")
GOOD = ("goodwavelengths", "goodwavelength", "goodbands", "goodband", "bbl")
BAD = ("badbands", "badwavelengths", "badband", "bandmask")
# Spectral units beside those of the project, and what they are in them: CF's own unit of wavelengths is the metre.
OTHER_UNITS = {
    "m": (1e9, "nm"), "meter": (1e9, "nm"), "meters": (1e9, "nm"), "metre": (1e9, "nm"), "metres": (1e9, "nm"),
    "angstrom": (0.1, "nm"), "angstroms": (0.1, "nm"), "m-1": (0.01, "cm-1"), "m^-1": (0.01, "cm-1"),
}  # fmt: skip
NO_UNIT = ("1", "unitless", "dimensionless", "-")


def wavelength_word(told: Reading) -> str | None:
    """The word of ``--key`` by which the user names the wavelengths; None where there is none."""
    return next((word for word in ("wavelength", *AXES) if word in told.keys), None)


def spectral_axis_of(
    variables: Variables, cube: str, band: str | None, count: int, told: Reading
) -> SpectralAxis | None:
    """The spectral axis of a cube; None where the file has none.

    Args:
        variables: of the file.
        cube: name of the cube.
        band: dimension of its bands.
        count: number of its bands.
        told: what the user says.

    Raises:
        ValueError: several variables could be it, another number of bands, units that are not spectral.
    """
    where = str(variables.path)
    word, stated = wavelength_word(told), None
    beside = [name for name in variables.on(band, count) if variables.is_number(name)]
    if word is not None:
        name, stated = variables.find(told.keys[word], word), AXES.get(word)
    else:
        found = [
            name for name in beside
            if variables.attributes[name].get("standard_name") in SPECTRAL or WAVELENGTHS.fullmatch(letters(name))
        ]  # fmt: skip
        found = variables.nearest(found, cube, band)
        if not found:
            return None
        if any((variables.values(other) != variables.values(found[0])).any() for other in found[1:]):
            raise ValueError(
                f"{where}: which are the wavelengths? Say --key wavelength=NAME, one of {variables.listing(found)}"
            )
        name, word = found[0], "wavelength"
    centers = variables.values(name).ravel()
    if centers.size != count:
        raise ValueError(f"{where}: {name} lists {centers.size} values for {count} bands")
    variables.chosen[word] = name
    factor, unit = _unit(variables, name, stated, told)
    if unit is None and "wavenumber" in letters(name):
        unit = "cm-1"
    agreed = told.unit_of(unit, where)
    if agreed != unit:  # the user says it alone, or forces it: the numbers stand as they are
        factor = 1.0
    fwhm = _widths(variables, cube, band, beside, told, factor, agreed)
    if fwhm is not None and fwhm.size != count:
        raise ValueError(f"{where}: {variables.chosen['fwhm']} lists {fwhm.size} values for {count} bands")
    return spectral_axis(centers * factor, fwhm=fwhm, unit=agreed, where=where)


def _unit(variables: Variables, name: str, stated: str | None, told: Reading) -> tuple[float, str | None]:
    """Factor and unit of wavelengths or widths."""
    said = variables.held(name, "units")
    variables.use(name, "units", "standard_name", "long_name")
    if stated is not None or told.force_unit or not isinstance(said, str) or said.strip().lower() in NO_UNIT:
        return 1.0, stated
    if said.strip().lower() in OTHER_UNITS:
        return OTHER_UNITS[said.strip().lower()]
    try:
        return 1.0, unit_of(said)
    except ValueError as error:
        raise ValueError(
            f"{variables.path}: units of {name}: {error}; correct them, or give --unit with --force-unit"
        ) from None


def _widths(
    variables: Variables,
    cube: str,
    band: str | None,
    beside: Sequence[str],
    told: Reading,
    factor: float,
    unit: str | None,
) -> np.ndarray | None:
    """Full widths at half maximum in the unit of the axis; those without a unit are in that of the wavelengths."""
    if "fwhm" in told.keys:
        name = variables.find(told.keys["fwhm"], "fwhm")
    else:
        found = variables.nearest([name for name in beside if letters(name) in WIDTHS], cube, band)
        if len(found) != 1:
            return None
        name = found[0]
    widths = variables.values(name).ravel()
    variables.chosen["fwhm"] = name
    if not np.isfinite(widths).any():
        return None
    own, of = _unit(variables, name, None, told)
    if of is None or unit is None:
        return widths * factor
    if (of == "cm-1") != (unit == "cm-1"):
        raise ValueError(f"{variables.path}: {name} is in {of}, the wavelengths are in {unit}: correct the units")
    return widths * own * {("um", "nm"): 1e3, ("nm", "um"): 1e-3}.get((of, unit), 1.0)


def good_bands(variables: Variables, cube: str, band: str | None, count: int, told: Reading) -> np.ndarray | None:
    """Bands that the file calls good, where it says so; one without a value is not good.

    Args:
        variables: of the file.
        cube: name of the cube.
        band: dimension of its bands.
        count: number of its bands.
        told: what the user says.

    Raises:
        ValueError: another number of bands, or marks of which nothing says what they mean.
    """
    beside = [name for name in variables.on(band, count) if variables.is_number(name)]
    if "good_bands" in told.keys:
        name = variables.find(told.keys["good_bands"], "good_bands")
    else:
        found = variables.nearest([name for name in beside if letters(name) in GOOD], cube, band)
        doubtful = [name for name in beside if letters(name) in BAD]
        if not found and doubtful and told.bad_bands is None:
            raise ValueError(
                f"{variables.path}: {doubtful[0]} marks bands, and nothing says whether 1 is good or bad: give "
                f"--bad-bands, or --key good_bands={doubtful[0]} if 1 is good"
            )
        if not found:
            return None
        name = found[0]
    flags = variables.values(name).ravel()
    if flags.size != count:
        raise ValueError(f"{variables.path}: {name} lists {flags.size} values for {count} bands")
    variables.use(name, "units", "long_name")
    variables.chosen["good_bands"] = name
    return np.nan_to_num(flags) > 0
