"""The authors' own protocol on the rocks of Feely et al.: 830 bands, 38 minerals, their box, their classes."""

from typing import Any

import equinox as eqx
import numpy as np
from feely_choice import MAP, MARGINAL, noises
from feely_rocks import Rocks, Setting, library, unmix

from unmix_jax.physics.box import box_around
from unmix_jax.physics.variation import DispersionVariation
from unmix_jax.solvers.least_squares import fcls
from unmix_jax.solvers.synthesis import alternating, posterior, prepare_synthesis


def reference(rocks: Rocks, config: Any) -> dict[str, Any]:
    """`alternating` under the authors' own protocol, its whole path."""
    _, minerals = library()
    generator = DispersionVariation(minerals, box_around(minerals), rocks.wavenumber)
    found = unmix(eqx.Partial(alternating, endmembers=generator, steps=config.steps, record=True), rocks.all_bands)
    path = np.asarray(found.fitted["path"])
    errors = [rocks.errors_as_published(path[:, n]) for n in range(path.shape[1])]
    return {
        "errors": np.array(errors).tolist(),
        "rms": np.sqrt(np.asarray(found.fitted["history"])).mean(0).tolist(),
    }


def published(rocks: Rocks, config: Any) -> dict[str, Any]:
    """The other methods under the authors' own protocol: their box, noise of greatest likelihood; errors."""
    _, minerals = library()
    generator = DispersionVariation(minerals, box_around(minerals), rocks.wavenumber)

    def problem(setting: Setting, **options: Any) -> Any:
        return prepare_synthesis(generator, noise=rocks.noise(setting, all_bands=True), **options)

    def likelihood(setting: Setting) -> float:
        tried = problem(setting, rank=config.choose_rank, samples=config.choose_samples)
        return float(np.sum(unmix(eqx.Partial(MARGINAL, endmembers=tried), rocks.all_bands).fitted["log_likelihood"]))

    independent, broad = noises()
    chosen = max([*independent, *broad] if config.grid else broad[:1], key=likelihood)
    best = problem(chosen, rank=config.rank)
    solvers = {"gls": fcls, "marginal": MARGINAL, "map": MAP, "posterior": posterior}
    found = {
        name: unmix(eqx.Partial(solver, endmembers=best.library if name == "gls" else best), rocks.all_bands)
        for name, solver in solvers.items()
    }
    errors = {name: rocks.errors_as_published(f.abundances).tolist() for name, f in found.items()}
    return {"errors": errors, "noise": chosen.noise, "broad": chosen.broad, "length": chosen.length}
