"""Scenes out of NetCDF and HDF5 files: any that names its axes, and those of EMIT, AVIRIS and PACE as distributed.

The names of dimensions and the coordinate variables decide which axis of a cube is which; a cube whose bands come first
is turned as it is read. Where a file does not say enough, ``--key`` does: ``cube=group/variable`` (``pixels=`` for a
list of spectra), ``wavelength=`` (``wavelength_nm=``, ``wavelength_um=``, ``wavenumber_cm1=`` where the file does not
say the unit), ``fwhm=``, ``good_bands=`` (each may be an attribute, ``group/variable@wavelengths``), ``mask=`` (zero is
unusable; ``mask=flags:CLDICE,NAVFAIL`` names bits), and ``order=band,row,column`` for a cube whose axes have no names.
Everything is read through
`unmix_jax.scenes.readers.netcdf.hdf` or `unmix_jax.scenes.readers.netcdf.classic`, which look at no other file.

Layouts that this was written after:

- EMIT L2A: LP DAAC, "EMIT L2A Data Product User Guide" (EMITL2ARFL V001), and the code that writes the files,
  https://github.com/emit-sds/emit-sds-l2a (``output_conversion.py``), https://github.com/emit-sds/emit-utils
  (``daac_converter.py``). Orthorectified by NASA's tools: https://github.com/nasa/EMIT-Data-Resources
  (``emit_tools.py``, ``ortho_xr``).
- AVIRIS-3, AVIRIS-5 and AVIRIS-NG L2A and L1B as NetCDF: https://github.com/emit-sds/SpectralUtil
  (``spec_io.py``, ``open_airborne_rfl``), https://github.com/EnSpec/hytools (``netcdf.py``).
- PACE OCI L2 and L3M: NASA OB.DAAC, "Orientation to PACE/OCI Terrestrial Products" and "File Structure at Three
  Processing Levels for the Ocean Color Instrument", https://github.com/nasa/oceandata-notebooks.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unmix_jax.scenes.lazy import LazyCube
from unmix_jax.scenes.readers.netcdf import cf
from unmix_jax.scenes.readers.netcdf.bands import AXES, good_bands, spectral_axis_of, wavelength_word
from unmix_jax.scenes.readers.netcdf.place import place
from unmix_jax.scenes.readers.netcdf.variables import WAVELENGTHS, Variables, letters, open_variables
from unmix_jax.scenes.reading import Reading
from unmix_jax.scenes.scene import Scene

__all__ = ["read_netcdf"]

KEYS = ("cube", "pixels", "wavelength", *AXES, "fwhm", "good_bands", "mask", "order")
# The variables that are the cube where several could be, best first.
CUBES = (
    "reflectance", "surfacereflectance", "rhos", "rrs", "rfl", "sr", "reflectancedata", "emissivity", "radiance", "rdn",
    "rhot",
)  # fmt: skip
NO_BANDS = ("time", "times", "t", "date", "depth", "level", "lev", "z")  # an axis of this name is none of bands


def read_netcdf(path: Path, told: Reading) -> Scene:
    """Open a cube of a NetCDF or HDF5 file, which stays there.

    Args:
        path: the file.
        told: what the user says; see the module for the words of ``keys``.

    Returns:
        The scene. ``header["netcdf variables"]`` says which variables were taken, in the words of ``--key``; ``crs``
        and ``transform``, or ``location`` and ``glt``, hold its place.

    Raises:
        ValueError: no cube, or several; axes that cannot be told apart; attributes that cannot be honoured; a damaged
            file, or one that names others.
    """
    variables = open_variables(path)
    try:
        return _scene(variables, told)
    except BaseException:
        variables.file.close()
        raise


def _scene(variables: Variables, told: Reading) -> Scene:
    """The scene that the variables make."""
    path = variables.path
    if unknown := [key for key in told.keys if key not in KEYS]:
        raise ValueError(f"{path}: {', '.join(unknown)}: not a word of --key; here they are {', '.join(KEYS)}")
    name = _cube(variables, told.keys)
    variables.chosen["cube"] = name
    if variables.is_complex(name) or not variables.is_number(name):
        what = "complex numbers" if variables.is_complex(name) else f"values of type {variables.file.dtype(name)}"
        raise ValueError(f"{path}: {name} holds {what}, which are not real numbers")
    order = _order(variables, name, told)
    dimensions, held = variables.dimensions(name), variables.attributes[name]
    band, types = dimensions[order[-1]], variables.file.attribute_types(name)
    source: Any = variables.file.mapped(name, order)
    if source is None:
        source = variables.file.array(name, order)
    cube, stated, notes, used = cf.decoded(source, held, types, told, f"{path}: {name}", variables.netcdf)
    variables.use(name, "standard_name", "long_name", *used)
    quantity, more = cf.quantity(name, held)
    notes += more
    if cf.percent(held, quantity) and told.scale is None:
        scaling = cube.scaling
        scaling |= {"gain": scaling["gain"] * 0.01, "offset": scaling["offset"] * 0.01}
        cube = LazyCube(cube.source, **scaling)
        variables.use(name, "units")
        notes.append(f"{quantity} is stored in per cent: it is multiplied by 0.01")
    bands = cube.shape[-1]
    axis = spectral_axis_of(variables, name, band, bands, told)
    good = good_bands(variables, name, band, bands, told)
    mask = _mask(variables, told.keys, cube.shape[:-1], [dimensions[i] for i in order[:-1]])
    notes += _flags_unused(variables, told.keys, cube.shape[:-1])
    header = variables.header()
    if len(order) == 3:
        notes += place(variables, name, order, header)
    variables.account_rest()
    header["netcdf variables"] = ", ".join(f"{word}={variable}" for word, variable in variables.chosen.items())
    return Scene(
        cube,
        axis,
        good_bands=good,
        mask=mask,
        name=path.stem,
        quantity=quantity,
        stated_nodata=stated,
        notes=tuple(notes),
        account=variables.entries.account(),
        header=header,
    )


def _cube(variables: Variables, keys: Mapping[str, str]) -> str:
    """The variable that is the cube, or a list of spectra.

    Raises:
        ValueError: there is none, or several could be it.
    """
    word = next((word for word in ("cube", "pixels") if word in keys), None)
    if word is not None:
        return variables.find(keys[word], word)
    for rank in (3, 2):
        found = [
            name for name in variables.names
            if (len(variables.shape(name)) >= 3 if rank == 3 else len(variables.shape(name)) == 2)
            and variables.is_number(name) and 0 not in variables.shape(name)
        ]  # fmt: skip
        spectral = [name for name in found if "band" in variables.kinds(name)]
        named = [[name for name in found if letters(name) == cube] for cube in CUBES]
        chosen = [[name for name in names if name in spectral] or (names if rank == 3 else []) for names in named]
        for names in (*chosen, *((spectral, found) if rank == 3 else ())):
            if len(names) == 1:
                return names[0]
            if names:
                raise ValueError(
                    f"{variables.path}: which variable is the cube? Say --key cube=NAME (keys={{'cube': 'NAME'}}), one "
                    f"of {variables.listing(names)}"
                )
        if rank == 3 and (odd := [n for n in variables.names if variables.is_complex(n)]):
            raise ValueError(f"{variables.path}: {odd[0]} holds complex numbers, which are not real numbers")
    raise ValueError(
        f"{variables.path} has no variable of rows, columns and bands; if one is a list of spectra, say "
        f"--key pixels=NAME. It has {variables.listing()}"
    )


def _order(variables: Variables, name: str, told: Reading) -> tuple[int, ...]:
    """Axes of a variable that are row, column and band; or pixel and band.

    Raises:
        ValueError: they cannot be told apart.
    """
    lengths, dimensions, kinds = variables.shape(name), variables.dimensions(name), variables.kinds(name)
    if "order" in told.keys:
        return _told_order(variables, name, told.keys["order"])
    bands = [i for i, kind in enumerate(kinds) if kind == "band"] or _bands_by_length(variables, name, told)
    single = [i for i, n in enumerate(lengths) if n == 1 and kinds[i] is None and i not in bands]
    dropped = single[: max(0, len(lengths) - 3)]
    kept = [i for i in range(len(lengths)) if i not in dropped]
    rows, columns = ([i for i in kept if kinds[i] == kind and i not in bands] for kind in ("row", "column"))
    if not bands and len(rows) == len(columns) == 1 and len(kept) == 3:
        bands = [i for i in kept if i not in (*rows, *columns) and letters(dimensions[i]) not in NO_BANDS]
    rest = [i for i in kept if i not in bands]
    if len(bands) == 1 and len(rest) == 1:
        return rest[0], bands[0]
    if len(bands) == 1 and len(rest) == 2 and max(len(rows), len(columns)) < 2:
        row = rows[0] if rows else next(i for i in rest if i not in columns)
        return row, next(i for i in rest if i != row), bands[0]
    raise ValueError(
        f"{variables.path}: which axes of {variables.listing([name])} are row, column and band? Say it in the order of "
        "the file, such as --key order=band,row,column (keys={'order': 'band,row,column'}); the variables are "
        f"{variables.listing()}"
    )


def _told_order(variables: Variables, name: str, said: str) -> tuple[int, ...]:
    """Axes in the order that the user says."""
    words, lengths = [word.strip().lower().rstrip("s") for word in said.split(",")], variables.shape(name)
    wanted = ["pixel", "band"] if "pixel" in words else ["row", "column", "band"]
    if len(words) != len(lengths) or any(words.count(word) != 1 for word in wanted):
        raise ValueError(
            f"{variables.path}: order={said} must name the {len(lengths)} axes of {variables.listing([name])} in the "
            "order of the file: row, column and band each once (or pixel and band), any other word for an axis of "
            "length 1"
        )
    return tuple(words.index(word) for word in wanted)


def _bands_by_length(variables: Variables, name: str, told: Reading) -> list[int]:
    """The axis that has as many elements as there are wavelengths, where it is the only one and has no name."""
    word = wavelength_word(told)
    if word is not None:
        counts = {variables.values(variables.find(told.keys[word], word)).size}
    else:
        found = [n for n in variables.names if len(variables.shape(n)) == 1 and WAVELENGTHS.fullmatch(letters(n))]
        counts = {variables.shape(n)[0] for n in found}
    kinds = variables.kinds(name)
    fitting = [i for i, n in enumerate(variables.shape(name)) if n in counts]
    return fitting if len(fitting) == 1 and kinds[fitting[0]] is None else []


def _flags_unused(variables: Variables, keys: Mapping[str, str], shape: Sequence[int]) -> list[str]:
    """A note that the level 2 flags of OB.DAAC's products (PACE) mask nothing, where they are there and not named."""
    if "mask" in keys:
        return []
    for name in variables.names:
        held = variables.attributes[name]
        known = str(held.get("flag_meanings", "")).split()
        if name.rpartition("/")[2] != "l2_flags" or "flag_masks" not in held or not known:
            continue
        if sorted(variables.shape(name)) == sorted(shape):
            # Cloud or ice, and failures: what makes a pixel no measurement of any surface.
            flags = [flag for flag in ("CLDICE", "NAVFAIL", "ATMFAIL") if flag in known] or known[:2]
            return [
                f"{name} flags pixels, such as clouds, and masks none of them: name the flags that make a pixel "
                f"unusable, as in --key mask={name}:{','.join(flags)}"
            ]
    return []


def _mask(
    variables: Variables, keys: Mapping[str, str], shape: Sequence[int], dimensions: Sequence[str | None]
) -> np.ndarray | None:
    """Usable pixels, by a variable that the user names: those that are not zero, or where none of some flags is set."""
    if "mask" not in keys:
        return None
    wanted, _, said = keys["mask"].partition(":")
    name = variables.find(wanted, "mask")
    stored, held = variables.file.read(name), variables.attributes[name]
    variables.chosen["mask"] = keys["mask"]
    variables.use(name, "flag_masks", "flag_meanings", *cf.DECODING)
    turned = list(variables.dimensions(name)) == list(dimensions)[::-1] and None not in dimensions
    if turned and stored.ndim == 2:
        stored = stored.T
    if stored.shape != tuple(shape):
        raise ValueError(f"{variables.path}: mask {name} has shape {stored.shape}, the image {tuple(shape)}")
    bits = held.get("flag_masks")
    if bits is None:
        if said:
            raise ValueError(f"{variables.path}: {name} has no flag_masks, so that {said} cannot be told from others")
        return np.nan_to_num(cf.numbers(stored, held, f"{variables.path}: {name}")) != 0
    known = dict(zip(str(held.get("flag_meanings", "")).split(), np.ravel(bits).tolist(), strict=False))
    flags = [flag.strip() for flag in said.split(",") if flag.strip()]
    if not flags or any(flag not in known for flag in flags):
        raise ValueError(
            f"{variables.path}: {name} holds flags: name those that make a pixel unusable, as in "
            f"--key mask={name}:{','.join(list(known)[:2])}; they are {', '.join(known)}"
        )
    unusable = np.zeros(stored.shape, bool)
    for flag in flags:
        unusable |= (stored.astype(np.int64) & int(known[flag])) != 0
    return ~unusable
