"""Endmembers that vary, and scenes of them, for the tests of their solvers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from unmix_jax import driver
from unmix_jax.physics.box import box_around
from unmix_jax.physics.dispersion import from_axes, stack
from unmix_jax.physics.variation import DispersionVariation, ScaleSlopeShift
from unmix_jax.solvers.synthesis import alternating, map_synthesis, marginal, posterior, prepare_synthesis

BANDS = np.linspace(400.0, 1400.0, 81)
NOISE = 2e-3
NODATA = -9999.0
SOLVERS = {  # one object each: what is compiled for one test serves the others
    "marginal": marginal,
    "map": functools.partial(map_synthesis, max_steps=6),
    "posterior": functools.partial(posterior, sweeps=40),
    "alternating": functools.partial(alternating, steps=4),
}


def unmix(unmixer, pixels, tile=64):
    """In tiles of the size of a scene here; the default one would mostly be padding."""
    return driver.unmix(unmixer, pixels, tile=tile, nodata=NODATA)


def minerals(tolerance=1.0, count=5):
    rng = np.random.default_rng(11)
    library = stack(
        [
            from_axes(
                [rng.uniform(420, 1380, 3 + i % 2)],
                [rng.uniform(0.02, 0.08, 3 + i % 2)],
                [rng.uniform(0.05, 0.4, 3 + i % 2)],
                [rng.uniform(1.8, 2.6)],
            )
            for i in range(count)
        ]
    )
    widths = {"frequency": 0.01, "damping": 0.05, "strength": 0.05, "epsilon_inf": 0.0, "weights": 0.0}
    return DispersionVariation(library, box_around(library, **{n: tolerance * w for n, w in widths.items()}), BANDS)


def scaled(tolerance=1.0):
    spectra = np.asarray(minerals()(jnp.zeros(minerals().free.shape)))
    return ScaleSlopeShift(spectra, scale=0.1 * tolerance, slope=0.1 * tolerance, shift=0.8 * tolerance, level=1.0)


GENERATORS = {"minerals": minerals, "scale, slope, shift": scaled}


@functools.cache
def prepared(kind, tolerance=1.0, **options):
    return prepare_synthesis(GENERATORS[kind](tolerance), **{"noise": NOISE, "rank": 40, "samples": 256, **options})


@jax.jit
def rendered(generator, u):
    """Spectra [pixel, endmember, band]."""
    return jax.vmap(lambda one: generator(one))(u)


@functools.cache
def scene(kind, pixels=64, noise=NOISE, seed=0):
    """Pixels of endmembers that vary, abundances and displacements."""
    rng = np.random.default_rng(seed)
    generator = GENERATORS[kind]()
    count = generator.free.shape[0]
    u = jnp.asarray(rng.uniform(-1, 1, (pixels, *generator.free.shape)), jnp.float32) * generator.free
    truth = rng.dirichlet(np.ones(3), pixels)
    abundances = np.zeros((pixels, count))
    for row, some in zip(abundances, truth, strict=True):
        row[rng.choice(count, 3, replace=False)] = some
    spectra = np.einsum("pe,peb->pb", abundances, np.asarray(rendered(generator, u), float))
    return (spectra + noise * rng.normal(size=spectra.shape)).astype(np.float32), abundances, u


def rmse(found, truth):
    return float(np.sqrt(np.mean((np.asarray(found) - truth) ** 2)))
