"""Powders of five minerals in nine sensors: spectra, mixtures, and the classical solvers, for several experiments.

The protocol is fixed: the sensors of Table 3 of the article (Sigiuk 2026, Metaspectral), materials that overlap, four
orders of mixture, and a physics, Hapke's with grains that vary, that no solver or network is told.
"""

import functools
from dataclasses import replace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from unmix_jax.driver import unmix
from unmix_jax.physics.hapke import Hapke, albedo_from_index
from unmix_jax.physics.intimate import Shkuratov
from unmix_jax.physics.mixing import MLM, PPNM
from unmix_jax.scenes.datasets import load, refractive_index
from unmix_jax.scenes.library import resample
from unmix_jax.scenes.scene import SpectralAxis, SpectralLibrary
from unmix_jax.scenes.synthetic import draw_abundances
from unmix_jax.solvers.inversion import invert
from unmix_jax.solvers.inversion_prepare import prepare_inversion
from unmix_jax.solvers.least_squares import fcls, prepare


class Sensor(NamedTuple):
    """A sensor: bands, first and last of them (nm), and signal to noise (dB)."""

    bands: int
    first: float
    last: float
    snr: float = 40.0


class Powders(NamedTuple):
    """Mixtures seen by a sensor, what is known of them, and what is to be found."""

    wavelength: np.ndarray
    endmembers: np.ndarray
    spectra: np.ndarray
    abundances: np.ndarray
    orders: np.ndarray
    std: float


SENSORS = {
    "asd": Sensor(2151, 350, 2500),
    "psr3500": Sensor(1024, 345, 2504),
    "aisafenix": Sensor(450, 378, 2504),
    "fx50": Sensor(308, 2708, 5279, 30.0),
    "scmos": Sensor(238, 398, 1001),
    "cubert": Sensor(164, 350, 1002),
    "imec": Sensor(100, 1120, 1675),
    "senops": Sensor(50, 500, 900),
    "rgb": Sensor(3, 440, 630),
}
ORDERS = (2, 3, 4, 5)
COUNTS = (600, 1500, 1000, 150)  # ten times those of Table 2
MINERALS = ("Kaolinite KGa-1", "Montmorillonite SWy-1", "Illite IMt-1.a", "Nontronite NG-1.a", "Calcite WS272")
INFRARED = ("kaolinite", "illite", "montmorillonite", "dolomite", "anhydrite")
GRAIN = 100.0  # µm, of the minerals in the infrared
GRAINS, LIGHT, LEAST = 0.1, 0.02, 0.05  # spread of ln f, half the range of brightness, least share of a material
DARKEST = 0.023  # that grains of Shkuratov's can be, with index 1.6; below it they have index 1.3 and are apart


@functools.cache
def library(name: str) -> SpectralLibrary:
    """Spectra of the five materials as they are measured, or made from optical constants, before the sensor."""
    if name != "fx50":
        every: Any = load("usgs1995_library")
        which = [next(i for i, one in enumerate(every.names) if one.startswith(mineral)) for mineral in MINERALS]
        return replace(every, spectra=np.asarray(every.spectra)[which], names=tuple(every.names[i] for i in which))
    grid = np.arange(2500.0, 5500.0, 5.0)

    def albedo(material: str) -> np.ndarray:
        found = refractive_index(material)
        n, k = (np.interp(grid, found.wavelength, one) for one in (found.n, found.k))
        return np.asarray(albedo_from_index(n, k, grid / 1000, GRAIN))

    made = {name: albedo(name) for name in INFRARED if name not in ("dolomite", "anhydrite")}
    made |= {"dolomite": (albedo("dolomite_e") + 2 * albedo("dolomite_o")) / 3, "anhydrite": albedo("anhydrite_alpha")}
    spectra = Hapke().reflectance(np.stack([made[name] for name in INFRARED]).astype(np.float32))
    return SpectralLibrary(
        spectra=np.asarray(spectra), names=INFRARED, axis=SpectralAxis(grid, np.full(len(grid), 5.0), "nm")
    )


@functools.cache
def seen(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Wavelengths (nm) at which the library knows the sensor's bands, and the five spectra there."""
    sensor, known = SENSORS[name], library(name)
    source: Any = known.axis
    centers = np.linspace(sensor.first, sensor.last, sensor.bands)
    step = centers[1] - centers[0]
    centers = centers[(centers >= source.centers.min()) & (centers <= source.centers.max())]
    widths = np.maximum(step, np.interp(centers, source.centers, source.fwhm))
    spectra = np.asarray(resample(known, SpectralAxis(centers, widths, "nm")).spectra)
    good = np.isfinite(spectra).all(0)
    return centers[good], spectra[:, good].astype(np.float32)


def hapke(endmembers: np.ndarray, abundances: np.ndarray, powers: np.ndarray) -> np.ndarray:
    """Hapke's mixtures, 30° and 0°: transmission of a grain, 1 − w, to a power for each sample and material."""
    model = Hapke()
    left = 1 - model.albedo_of(jnp.asarray(endmembers))

    def one(given: Any) -> Any:
        share, power = given
        return model.reflectance(share @ (1 - left ** power[:, None]))

    return np.asarray(jax.lax.map(one, (jnp.asarray(abundances), jnp.asarray(powers)), batch_size=256))


def shkuratov(endmembers: np.ndarray, abundances: np.ndarray, powers: np.ndarray) -> np.ndarray:
    """Shkuratov's mixtures, with e^−τ to a power for each sample and material: another physics, to choose with."""
    model = Shkuratov() if endmembers.min() > DARKEST else Shkuratov(1.3, filling=0.6)
    absorbed = model.absorbed(jnp.asarray(endmembers))

    def one(given: Any) -> Any:
        share, power = given
        return model.mix(share, 1 - (1 - absorbed) ** power[:, None])

    return np.asarray(jax.lax.map(one, (jnp.asarray(abundances), jnp.asarray(powers)), batch_size=256))


def powders(name: str, seed: int, *, physics: Any = hapke, counts: tuple[int, ...] = COUNTS) -> Powders:
    """Mixtures of a seed; the same abundances, grains and light in all sensors."""
    wavelength, endmembers = seen(name)
    count, key, rng = len(endmembers), jax.random.key(seed), np.random.default_rng(seed)
    drawn = [
        draw_abundances(jax.random.fold_in(key, order), many, count, materials=order, floor=LEAST)
        for order, many in zip(ORDERS, counts, strict=True)
    ]
    abundances = np.concatenate(drawn)
    powers = np.exp(rng.normal(0, GRAINS, abundances.shape)).astype(np.float32)
    light = rng.uniform(1 - LIGHT, 1 + LIGHT, (len(abundances), 1))
    clean = physics(endmembers, abundances, powers) * light
    std = float(np.sqrt(np.mean(clean**2)) * 10 ** (-SENSORS[name].snr / 20))
    spectra = (clean + std * rng.normal(size=clean.shape)).astype(np.float32)
    return Powders(wavelength, endmembers, spectra, abundances, np.repeat(ORDERS, counts), std)


def classical(found: Powders) -> dict[str, np.ndarray]:
    """Abundances by each solver that knows the endmembers and a mixing model."""
    fitted = {"fcls": eqx.Partial(fcls, endmembers=prepare(found.endmembers))}
    for name, model in (("ppnm", PPNM(jnp.zeros(()))), ("mlm", MLM(jnp.zeros(())))):
        fitted[name] = eqx.Partial(invert, endmembers=prepare_inversion(found.endmembers, model))
    return {name: np.asarray(unmix(unmixer, found.spectra).abundances) for name, unmixer in fitted.items()}


def by_albedo(found: Powders) -> np.ndarray:
    """Abundances by who knows the physics, but not the grains: least squares where mixtures are linear."""
    model = Hapke()
    albedos = model.albedo_of(jnp.clip(found.spectra, 1e-4, 0.999))
    prepared = prepare(model.albedo_of(jnp.asarray(found.endmembers)))
    return np.asarray(unmix(eqx.Partial(fcls, endmembers=prepared), np.asarray(albedos)).abundances)


def by_support(found: Powders) -> np.ndarray:
    """Abundances by FCLSU that is told which materials are in each sample."""
    result = np.zeros_like(found.abundances)
    for there in np.unique(found.abundances > 0, axis=0):
        rows = ((found.abundances > 0) == there).all(1)
        unmixer = eqx.Partial(fcls, endmembers=prepare(found.endmembers[there]))
        result[np.ix_(rows, there)] = unmix(unmixer, found.spectra[rows], tile=64).abundances
    return result


def by_order(abundances: np.ndarray, found: Powders) -> dict[str, float]:
    """RMSE over the samples and materials of each order, and over all."""
    squares = np.mean((abundances - found.abundances) ** 2, 1)
    errors = {f"k{order}": float(np.sqrt(squares[found.orders == order].mean())) for order in ORDERS}
    return errors | {"pooled": float(np.sqrt(squares.mean()))}
