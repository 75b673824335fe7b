"""Rocks of Feely et al. and the minerals they are unmixed with, for the experiments on them."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from unmix_jax import driver
from unmix_jax.endmembers.classes import classes_of
from unmix_jax.physics.box import box_around
from unmix_jax.physics.dispersion import Dispersion, stack, unstack
from unmix_jax.physics.variation import DispersionVariation
from unmix_jax.scenes.datasets import load
from unmix_jax.scenes.dispersion_files import load_dispersion
from unmix_jax.scenes.noise import noise_covariance
from unmix_jax.solvers.least_squares import fcls, prepare
from unmix_jax.solvers.tables import polynomial_baseline

DEGREE = 2  # of the baseline
HALF, ODD = 45, 66  # spectra of the first half; the row whose label is in doubt
CLASH = ("Serpentine-2",)


class Setting(NamedTuple):
    """Tolerance of the frequencies, of strengths and dampings; noise, its broad part and the length of that, cm⁻¹."""

    frequency: float
    shape: float
    noise: float
    broad: float = 0.0
    length: float = 0.0

    def key(self, label: str = "") -> str:
        """Of the record."""
        broad = f"_broad{self.broad}_length{self.length}" if self.broad else ""
        return f"grid{label}_frequency{self.frequency}_shape{self.shape}_noise{self.noise}{broad}"


class Detrended(eqx.Module):
    """A generator of endmembers without what a baseline explains of them."""

    generator: DispersionVariation
    columns: Any
    inverse: Any

    @property
    def free(self) -> Any:
        """As of the generator."""
        return self.generator.free

    @property
    def width(self) -> Any:
        """As of the generator."""
        return self.generator.width

    def select(self, members: Any) -> "Detrended":
        """Some of the endmembers."""
        return Detrended(self.generator.select(members), self.columns, self.inverse)

    def without(self, spectra: Any) -> Any:
        """Spectra less their baseline."""
        part = jnp.matmul(spectra, self.inverse, precision="highest")
        return spectra - jnp.matmul(part, self.columns, precision="highest")

    def __call__(self, displacement: Any) -> Any:
        """Endmembers less their baseline."""
        return self.without(self.generator(displacement))


def detrended(generator: DispersionVariation) -> Detrended:
    """With the quadratic of `prepare(..., baseline=2)`."""
    columns = polynomial_baseline(np.arange(float(generator.wavenumber.size)), DEGREE)
    return Detrended(generator, jnp.asarray(columns, jnp.float32), jnp.asarray(np.linalg.pinv(columns), jnp.float32))


def library(drop: tuple[str, ...] = ()) -> tuple[list[str], Dispersion]:
    """The authors' minerals, but for some."""
    path = Path(os.environ["UNMIX_JAX_DATA"]) / "feely" / "infrarender_dispersion_params.json"
    names, minerals, _ = load_dispersion(path)
    kept = [i for i, name in enumerate(names) if name not in drop]
    parts = unstack(minerals)
    return [names[i] for i in kept], stack([parts[i] for i in kept])


def unmix(unmixer: Any, pixels: np.ndarray) -> Any:
    """All spectra in one tile of their own size: the default one would mostly be padding."""
    return driver.unmix(unmixer, pixels, tile=len(pixels))


def listed(solution: Any) -> list[list[float]]:
    """Abundances as JSON holds them."""
    return np.asarray(solution.abundances, float).round(7).tolist()


class Rocks:
    """Spectra, truth, and how endmembers add up to classes."""

    def __init__(self, every: int = 1) -> None:
        """Read the 90 valid rocks, or every so many of them."""
        scene = load("feely/modelled")
        self.rows = np.flatnonzero(np.asarray(scene.mask))[::every]
        self.wavenumber = np.asarray(scene.axis.centers, np.float64)
        self.window = (self.wavenumber >= 400) & (self.wavenumber <= 1400)
        self.all_bands = np.asarray(scene.cube)[self.rows].astype(np.float32)
        self.pixels = np.ascontiguousarray(self.all_bands[:, self.window])
        self.truth = np.asarray(scene.abundances, np.float64)[self.rows]
        self.first = int(np.ceil(HALF / every))
        self.wanted = scene.abundance_names
        self.class_of = dict(zip(scene.endmembers.names, scene.endmembers.classes, strict=True))
        self.names, self.minerals = library(CLASH)

    def generator(self, minerals: Dispersion, **tolerances: float) -> DispersionVariation:
        """The minerals in the window; the tolerances of the authors' demo where none are given."""
        return DispersionVariation(minerals, box_around(minerals, **tolerances), self.wavenumber[self.window])

    def noise(self, setting: Setting, *, all_bands: bool = False) -> Any:
        """Standard deviation, or covariance of the bands in the window."""
        if not setting.broad:
            return setting.noise
        bands = self.wavenumber if all_bands else self.wavenumber[self.window]
        return noise_covariance(bands, setting.noise, broad=setting.broad, length=setting.length)

    def fractions(self, abundances: Any, *, norm: bool = False) -> np.ndarray:
        """Fractions of the classes, [spectrum, class]."""
        of = [self.class_of[name] for name in self.names]
        classes = classes_of(self.names, of, order=self.wanted, drop=("Blackbody",) if norm else ())
        return np.nan_to_num(np.asarray(classes(np.asarray(abundances, float))))

    def errors(self, abundances: Any, *, norm: bool = False) -> np.ndarray:
        """Summed squared error of each spectrum."""
        return np.sum((self.fractions(abundances, norm=norm) - self.truth) ** 2, 1)

    def errors_as_published(self, abundances: Any) -> np.ndarray:
        """The same of all 38 minerals, added up as the authors' code does."""
        names, _ = library()
        of = {name: [n for n in names if self.class_of[n] == name] for name in self.wanted} | {"epidote": ["Enstatite"]}
        fractions = np.asarray(classes_of(names, of, order=self.wanted)(np.asarray(abundances, float)))
        return np.sum((fractions - self.truth) ** 2, 1)


def varied(rocks: Rocks, minerals: Dispersion, setting: Setting) -> DispersionVariation:
    """Minerals in a box of these tolerances."""
    box = {"frequency": setting.frequency, "damping": setting.shape, "strength": setting.shape}
    return rocks.generator(minerals, **box, epsilon_inf=1e-4, weights=1e-4)


def at_rest(rocks: Rocks) -> np.ndarray:
    """The authors' endmembers."""
    generator = rocks.generator(rocks.minerals)
    return np.asarray(generator(np.zeros(generator.free.shape, np.float32)))


def fixed(rocks: Rocks, spectra: np.ndarray, baseline: int | None) -> list[list[float]]:
    """Abundances by FCLS."""
    return listed(unmix(eqx.Partial(fcls, endmembers=prepare(spectra, baseline=baseline)), rocks.pixels))


def rms(values: Any) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(values))))


def interval(difference: np.ndarray, samples: int) -> tuple[float, float]:
    """95 % paired bootstrap interval of a mean."""
    rng = np.random.default_rng(0)
    means = difference[rng.integers(0, len(difference), (samples, len(difference)))].mean(1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))
