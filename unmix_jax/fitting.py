"""Fit the dispersion model to a spectral library and write what comes out: the work of ``unmix-jax fit``."""

import json
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from unmix_jax import plots
from unmix_jax.endmembers.dispersion_fit import DispersionFit, fit_dispersion
from unmix_jax.physics.dispersion import Dispersion, check_wavenumber, stack
from unmix_jax.results import RECORD, UNFINISHED, check_folder, environment
from unmix_jax.scenes.dispersion_files import save_dispersion
from unmix_jax.scenes.library_files import library_names, write_library
from unmix_jax.scenes.nodata import NODATA, is_nodata
from unmix_jax.scenes.scene import SpectralAxis, SpectralLibrary
from unmix_jax.store import write_json

__all__ = ["FittedLibrary", "fit_library", "in_wavenumber", "summary"]

PARAMETERS, ARRAYS, MODELLED, OVERVIEW, PLOTS = "parameters.json", "fit.npz", "modelled.sli", "overview.png", "plots"
OWN_FILES = (RECORD, UNFINISHED, PARAMETERS, ARRAYS, MODELLED, "modelled.hdr", OVERVIEW, PLOTS)
VIBRATIONS = 100.0, 3800.0  # cm⁻¹: where the fundamental vibrations of minerals mostly lie
FAMILIES = ("frequency", "damping", "strength", "epsilon_inf", "weights")
DPI = 130


@dataclass(frozen=True)
class FittedLibrary:
    """A library that has been fitted and written.

    Attributes:
        names: of the minerals that were fitted.
        dispersion: their oscillators, (library, axis, oscillator).
        record: what was fitted, to what, when, and how well (the content of ``record.json``).
        folder: where it was written.
    """

    names: tuple[str, ...]
    dispersion: Dispersion
    record: dict[str, Any]
    folder: Path


def in_wavenumber(library: SpectralLibrary, window: tuple[float, float] | None = None) -> SpectralLibrary:
    """The library in increasing wavenumber, with NaN for all that is missing.

    Missing are NaN, no-data, bands that the library marks bad and spectra of zeros alone; any other exact zero is a
    measurement, of which this warns.
    Warns also where no band lies among the vibrations of minerals: the unit of the axis may be wrong.

    Args:
        library: with an axis in any unit and order.
        window: least and greatest wavenumber to keep, cm⁻¹.

    Returns:
        The library without `good_bands`: NaN says it all.

    Raises:
        ValueError: no axis; repeated wavenumbers; a window that is empty or holds no band.
    """
    if library.axis is None:
        raise ValueError("the library names no wavelengths, so it has no wavenumbers to fit at")
    order = np.argsort(np.asarray(library.axis.to("cm-1").centers), kind="stable")
    waves = np.asarray(library.axis.to("cm-1").centers, np.float64)[order]
    extent = f"{waves[0]:g} to {waves[-1]:g} cm⁻¹"
    check_wavenumber(waves, known=True)
    if waves[-1] < VIBRATIONS[0] or waves[0] > VIBRATIONS[1]:
        warnings.warn(
            f"the library covers {extent}; vibrations of minerals lie mostly from {VIBRATIONS[0]:g} to "
            f"{VIBRATIONS[1]:g}. Is the unit of its axis right (--unit)?",
            stacklevel=2,
        )
    low, high = window or (waves[0], waves[-1])
    if window and not low < high:
        raise ValueError(f"a range is LOW HIGH in cm⁻¹, such as 400 1400, got {low:g} {high:g}")
    kept = (waves >= low) & (waves <= high)
    if not kept.any():
        raise ValueError(f"no band lies from {low:g} to {high:g} cm⁻¹: the library covers {extent}")
    values = np.asarray(library.spectra)[:, order]
    missing = is_nodata(values, NODATA) | (values == 0).all(axis=1, keepdims=True)
    if zeros := int(((values == 0) & (values != 0).any(axis=1, keepdims=True))[:, kept].sum()):
        warnings.warn(
            f'{zeros} values are exactly 0 and are fitted as measured: give --zeros missing (zeros="missing" of '
            "read_library) if they stand for missing data",
            stacklevel=2,
        )
    if library.good_bands is not None:
        missing |= ~np.asarray(library.good_bands)[order]
    spectra = np.where(missing, np.asarray(np.nan, values.dtype), values)[:, kept]
    return replace(library, spectra=spectra, axis=SpectralAxis(waves[kept], unit="cm-1"), good_bands=None)


def fit_library(
    folder: str | Path,
    library: SpectralLibrary,
    *,
    names: Sequence[str] = (),
    quantity: str = "emissivity",
    window: tuple[float, float] | None = None,
    axes: Sequence[int] = (1, 2),
    count: int | None = None,
    starts: int = 2,
    seed: int = 0,
    config: Mapping[str, Any] | None = None,
    command: str = "",
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> FittedLibrary:
    """Fit every spectrum of a library and write parameters, arrays, figures and a record.

    Parameters and figures are written as they come, so that a run that is stopped leaves what it has found; the record
    comes last. A spectrum that cannot be fitted is left out with a warning.

    Args:
        folder: output folder, absent or empty unless ``overwrite``.
        library: emissivity or reflectance; see `in_wavenumber` for what counts as missing.
        names: of the minerals to fit; all by default.
        quantity: what the library holds: ``emissivity`` or ``reflectance``.
        window: least and greatest wavenumber to fit, cm⁻¹.
        axes: numbers of crystal axes to try.
        count: most oscillators per axis; None leaves it to `fit_dispersion`.
        starts: independent searches per spectrum and number of axes.
        seed: of the random key.
        config: the options of the run, anything that JSON can hold.
        command: that ran this, for the record.
        overwrite: whether an earlier run in the folder may be replaced.
        progress: called as ``progress(spectra_done, spectra_in_all)``.

    Returns:
        The fitted minerals and the record.

    Raises:
        ValueError: the folder holds another run, a library or options that cannot be fitted.
    """
    if quantity not in ("emissivity", "reflectance"):
        raise ValueError(f"quantity is emissivity or reflectance, got {quantity!r}")
    if min((*axes, starts, 1 if count is None else count)) < 1 or not axes:
        raise ValueError(f"axes, count and starts are at least 1, got {tuple(axes)}, {count} and {starts}")
    begin = time.perf_counter()
    folder = check_folder(folder, overwrite=overwrite, own=OWN_FILES)
    library = replace(library, names=library_names(library))
    library = in_wavenumber(library.select(names) if names else library, window)
    assert library.axis is not None
    dtype = jnp.zeros(0).dtype
    waves, measured = np.asarray(library.axis.centers, dtype), np.asarray(library.spectra, dtype)
    target = measured if quantity == "emissivity" else 1 - measured
    extent = [_digits(wave) for wave in np.asarray(library.axis.centers)[[0, -1]]]
    said = {"wavenumber_cm1": extent, "bands": len(waves), "quantity": quantity, "command": command}
    files = _file_names(library.names)
    found: dict[int, DispersionFit] = {}
    failed: dict[str, str] = {}
    for rows, outcome in _outcomes(
        target, waves, axes=axes, count=count, starts=starts, key=jax.random.key(seed), progress=progress
    ):
        if isinstance(outcome, str):
            failed[library.names[rows[0]]] = outcome
            continue
        if not found:  # nothing of an earlier run is touched before there is something to put in its place
            _clear(folder)
        for i, row in enumerate(rows):
            found[row] = jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i], outcome)
            model = _rendered(found[row].dispersion, waves, quantity)
            name = library.names[row]
            figure = plots.fitted_mineral(
                waves, measured[row], model, found[row].dispersion, quantity=quantity,
                title=f"{name}: {_described(found[row])}",
            )  # fmt: skip
            figure.savefig(folder / PLOTS / files[row], dpi=DPI)
        _save_parameters(folder, library.names, found, said)
    if not found:
        refused, why = next(iter(failed.items()))
        raise ValueError(f"no spectrum could be fitted ({refused}: {why})")
    for refused, why in failed.items():
        warnings.warn(f"{refused} is left out: {why}", stacklevel=2)
    fitted = tuple(library.names[row] for row in found)
    minerals = stack([_by_frequency(fit)[0] for fit in found.values()])
    modelled = _rendered(minerals, waves, quantity)
    measured = measured[list(found)]
    record = {
        "minerals": [_said(name, fit, row) for name, fit, row in zip(fitted, found.values(), measured, strict=True)],
        "left_out": failed,
        "figures": [files[row] for row in found],
        **said,
        "config": dict(config or {}),
        "seed": seed,
        "timings_s": {"fit": time.perf_counter() - begin},
        "environment": environment(),
    }
    _write_arrays(folder / ARRAYS, fitted, waves, measured, modelled, list(found.values()))
    write_library(folder / MODELLED, SpectralLibrary(modelled, library.axis, fitted))
    titles = [f"{name}, {float(fit.mse):.1e}" for name, fit in zip(fitted, found.values(), strict=True)]
    plots.fitted_minerals(waves, measured, modelled, titles, quantity=quantity).savefig(folder / OVERVIEW, dpi=DPI)
    write_json(folder / RECORD, record)
    (folder / UNFINISHED).rmdir()
    return FittedLibrary(fitted, minerals, record, folder)


def summary(record: Mapping[str, Any]) -> tuple[tuple[str, ...], list[list[str]], list[tuple[str, str]]]:
    """What a run found, as text.

    Args:
        record: of `FittedLibrary`.

    Returns:
        Columns and rows of the table of minerals, and the facts about all of them.
    """
    minerals = record["minerals"]
    columns = ("mineral", "axes", "oscillators", "MSE", "bands", "missing", "converged")
    rows = [
        [
            mineral["name"],
            str(mineral["axes"]),
            " + ".join(map(str, mineral["oscillators"])),
            f"{mineral['mse']:.1e}",
            str(mineral["bands"]["fitted"]),
            str(mineral["bands"]["missing"]),
            "yes" if mineral["converged"] else "no",
        ]
        for mineral in minerals
    ]
    worst = max(minerals, key=lambda mineral: mineral["mse"])
    per_axis = [count for mineral in minerals for count in mineral["oscillators"]]
    low, high = record["wavenumber_cm1"]
    missing = sum(mineral["bands"]["missing"] for mineral in minerals)
    beyond = [mineral["name"] for mineral in minerals if mineral["outside_0_1"]]
    facts = [
        ("spectra fitted", f"{len(minerals)} of {len(minerals) + len(record['left_out'])}"),
        ("wavenumber", f"{low:g} to {high:g} cm⁻¹, {record['bands']} bands"),
        ("mean MSE", f"{np.mean([mineral['mse'] for mineral in minerals]):.2e}"),
        ("largest MSE", f"{worst['mse']:.2e} ({worst['name']})"),
        ("oscillators per axis", f"{np.mean(per_axis):.1f} on average"),
        ("missing values", f"{missing} (no data or a bad band): no part of the fit" if missing else "none"),
        ("time", f"{record['timings_s']['fit']:.1f} s"),
    ]
    if beyond:
        facts.insert(
            -1, ("values beyond 0 to 1", f"in {len(beyond)} of {len(minerals)} spectra: noise, or a wrong scale")
        )
    return columns, rows, facts


def _outcomes(
    spectra: np.ndarray, waves: np.ndarray, *, progress: Callable[[int, int], None] | None, **options: Any
) -> Iterator[tuple[list[int], DispersionFit | str]]:
    """Rows with their fits, or one row with the reason why it has none.

    One spectrum after the other on a CPU, all at once elsewhere, unless one of them is refused.
    """
    size = 1 if jax.default_backend() == "cpu" else len(spectra)
    waiting = [np.arange(i, min(i + size, len(spectra))) for i in range(0, len(spectra), size)]
    axis = SpectralAxis(waves, unit="cm-1")  # with its unit: near infrared looks like nm
    done = 0
    while waiting:
        rows = waiting.pop(0)
        try:
            outcome: DispersionFit | str = fit_dispersion(spectra[rows], axis, **options)
        except ValueError as error:
            if len(rows) > 1:
                waiting[:0] = [rows[i : i + 1] for i in range(len(rows))]
                continue
            outcome = str(error)
        done += len(rows)
        if progress is not None:
            progress(done, len(spectra))
        yield [int(row) for row in rows], outcome


def _rendered(dispersion: Dispersion, waves: np.ndarray, quantity: str) -> np.ndarray:
    """Modelled spectra in the quantity of the library."""
    emissivity = np.asarray(dispersion(waves))
    return emissivity if quantity == "emissivity" else 1 - emissivity


def _kept(fit: DispersionFit) -> list[int]:
    """Number of oscillators on each axis that one mineral has."""
    return [int(count) for count in np.asarray(fit.oscillators)[: int(fit.axes)]]


def _described(fit: DispersionFit) -> str:
    """One fit in a line."""
    kept, mse = _kept(fit), float(fit.mse)
    axes = "1 axis" if len(kept) == 1 else f"{len(kept)} axes"
    noun = "oscillator" if kept == [1] else "oscillators"
    told = f"{axes}, {' + '.join(map(str, kept))} {noun}, MSE {mse:.1e} (RMS {np.sqrt(mse):.2g})"
    return told if bool(fit.converged) else told + ", not converged"


def _said(name: str, fit: DispersionFit, measured: Float[np.ndarray, " band"]) -> dict[str, Any]:
    """One fit for the record."""
    good = int(np.isfinite(measured).sum())
    return {
        "name": name,
        "axes": int(fit.axes),
        "oscillators": _kept(fit),
        "mse": float(fit.mse),
        "bands": {"fitted": good, "missing": len(measured) - good},
        "converged": bool(fit.converged),
        "outside_0_1": bool(fit.outside),
    }


def _save_parameters(
    folder: Path, names: Sequence[str], found: Mapping[int, DispersionFit], said: Mapping[str, Any]
) -> None:
    """The parameter file of all minerals that are fitted by now."""
    fits = list(found.values())
    versions = {name: environment()[name] for name in ("unmix_jax", "jax", "float64")}
    save_dispersion(
        folder / PARAMETERS,
        [names[row] for row in found],
        stack([_by_frequency(fit)[0] for fit in fits]),
        mse=[_digits(fit.mse) for fit in fits],
        oscillators=[_kept(fit) for fit in fits],
        criterion=[[_digits(c) if np.isfinite(c) else None for c in np.asarray(fit.criterion)] for fit in fits],
        converged=[bool(fit.converged) for fit in fits],
        fit={**said, "versions": versions},
    )


def _by_frequency(fit: DispersionFit) -> tuple[Dispersion, Dispersion]:
    """The oscillators of one mineral by rising frequency, and their standard deviations in the same places."""
    mineral = fit.dispersion
    deviations = np.sqrt(np.maximum(np.diagonal(fit.covariance), 0))
    ends = np.cumsum([getattr(mineral, name).size for name in FAMILIES])
    spread = dict(zip(FAMILIES, np.split(deviations, ends[:-1]), strict=True))
    order = np.argsort(np.where(mineral.active, mineral.frequency, np.inf), axis=-1)

    def ordered(values: Any, like: Any) -> Any:
        values = np.reshape(values, like.shape)
        return jnp.asarray(np.take_along_axis(values, order, axis=-1) if values.ndim == 2 else values)

    leaves = {name: getattr(mineral, name) for name in (*FAMILIES, "active")}
    spread["active"] = leaves["active"]
    first, second = ({n: ordered(held[n], leaves[n]) for n in leaves} for held in (leaves, spread))
    return Dispersion(**first), Dispersion(**second)


def _digits(value: Any) -> float:
    """A number without the digits that float32 makes up."""
    return float(f"{float(value):.7g}")


def _write_arrays(
    path: Path,
    names: Sequence[str],
    waves: np.ndarray,
    measured: np.ndarray,
    modelled: np.ndarray,
    fits: Sequence[DispersionFit],
) -> None:
    """Spectra, parameters and their standard deviations as plain arrays, padded alike."""
    minerals, spread = (stack(held) for held in zip(*map(_by_frequency, fits), strict=True))
    arrays: dict[str, Any] = {"names": np.asarray(names), "wavenumber_cm1": waves}
    arrays |= {"measured": measured, "modelled": modelled, "mse": np.asarray([float(fit.mse) for fit in fits])}
    arrays |= {name: np.asarray(getattr(minerals, name)) for name in (*FAMILIES, "active")}
    arrays |= {f"{name}_std": np.asarray(getattr(spread, name)) for name in FAMILIES}
    np.savez(path, **arrays)


def _clear(folder: Path) -> None:
    """Make room: the record of an earlier run goes first, so that it no longer looks complete.

    Of the figures, those that the record names are removed: others are the user's own.
    """
    (folder / PLOTS).mkdir(parents=True, exist_ok=True)
    (folder / UNFINISHED).mkdir(exist_ok=True)
    try:
        figures = json.loads((folder / RECORD).read_text(encoding="utf-8"))["figures"]
    except (OSError, ValueError, KeyError, TypeError):
        figures = []
    for name in (RECORD, PARAMETERS, ARRAYS, MODELLED, str(Path(MODELLED).with_suffix(".hdr")), OVERVIEW):
        (folder / name).unlink(missing_ok=True)
    for figure in (name for name in figures if isinstance(name, str) and Path(name).name == name):
        (folder / PLOTS / figure).unlink(missing_ok=True)


def _file_names(names: Sequence[str]) -> list[str]:
    """A file name for the figure of each mineral, no two alike on any system."""
    taken: set[str] = set()
    files = []
    for name in names:
        stem = re.sub(r"[^\w.+-]+", "_", name).strip("._")[:80] or "mineral"
        unique, number = stem, 2
        while unique.lower() in taken:
            unique, number = f"{stem}-{number}", number + 1
        taken.add(unique.lower())
        files.append(f"{unique}.png")
    return files
