"""Mixtures rendered with endmembers inside their box, unmixed by who knows of the box and by who does not.

    python experiments/rendered_variability.py

37 modelled Feely endmembers (the authors' parameters, without Serpentine-2), 400–1400 cm⁻¹ at 2 cm⁻¹; per spectrum 3
to 5 endmembers, fractions Dirichlet(1); every oscillator of each moved uniformly within ±1 % (frequency), ±5 %
(strength) and ±5 % (damping); white noise σ = 0.002. The same with Planck-weighted noise (330 K, the same mean
variance), and from generators that the solvers do not know: every endmember with a feature that the model lacks
(`extra`), and with its contrast scaled by up to 20 % (`scaled`).

`NAME_rmse_over_fcls` is the abundance RMSE over that of FCLS with the library; `oracle` is FCLS with the endmembers
that each spectrum was rendered with. `coverage_1sigma` and `coverage_2sigma` are those of `posterior`: the share of
true abundances within one and two reported standard deviations, among the endmembers that it reports (probability of
presence above one half; an interval is a statement about what is reported). Beside them `NAME_coverage_reported_`
(`marginal`, `map`: abundance above zero), `_present_` (among those truly there, found or missed) and `_all_`.
`presence_*`: how often an endmember was there of those said to be there with that probability. `NAME_prior_WIDTH_*`
shows where the prior helps and where it fights the data: standard deviations of `prior` times WIDTH.

Expected, in the first world: RMSE over that of FCLS 0.42 `marginal`, 0.34 `map`, 0.21 `posterior`, 0.10 oracle;
coverage 0.68 and 0.94. Needs UNMIX_JAX_DATA with feely; about fifteen minutes on one core.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from common import Partial, main

from unmix_jax.driver import unmix
from unmix_jax.physics.box import box_around
from unmix_jax.physics.dispersion import Dispersion, stack, unstack
from unmix_jax.physics.variation import DispersionVariation
from unmix_jax.scenes.dispersion_files import load_dispersion
from unmix_jax.scenes.noise import emissivity_noise_std
from unmix_jax.solvers.least_squares import fcls, prepare
from unmix_jax.solvers.synthesis import map_synthesis, marginal, posterior, prepare_synthesis

BANDS = np.arange(400.0, 1401.0, 2.0)
BOX = {"frequency": 0.01, "damping": 0.05, "strength": 0.05, "epsilon_inf": 0.0, "weights": 0.0}
WORLDS = ("", "planck", "extra", "scaled")
MOST = 5  # endmembers in a spectrum
WIDTHS = (0.1, 0.3, 1.0, 2.0)  # of the prior, relative to a uniform one in the box
CERTAINTIES = ((0.0, 0.1), (0.1, 0.5), (0.5, 0.9), (0.9, 1.01))  # of presence


@dataclass(frozen=True)
class Config:
    """Options of the experiment.

    Attributes:
        spectra: rendered spectra.
        noise: standard deviation, fraction of emissivity.
        rank: of the basis.
        fitted: how many of the spectra `map_synthesis` sees in each world.
        worlds: how many of the four worlds, in the order of the text.
        seed: of everything drawn.
    """

    spectra: int = 2000
    noise: float = 0.002
    rank: int = 160
    fitted: int = 2000
    worlds: int = 4
    seed: int = 0


def modelled() -> tuple[list[str], Dispersion]:
    """The authors' endmembers without Serpentine-2."""
    path = Path(os.environ["UNMIX_JAX_DATA"]) / "feely" / "infrarender_dispersion_params.json"
    names, library, _ = load_dispersion(path)
    kept = [i for i, name in enumerate(names) if name != "Serpentine-2"]
    minerals = unstack(library)
    return [names[i] for i in kept], stack([minerals[i] for i in kept])


def noise_of(world: str, config: Config) -> np.ndarray:
    """Standard deviation of each band."""
    flat = np.full(BANDS.size, config.noise)
    if world != "planck":
        return flat
    shape = np.asarray(emissivity_noise_std(BANDS, 330.0, 1.0), float)
    return config.noise * shape / np.sqrt(np.mean(shape**2))


def render(world: str, generator: DispersionVariation, config: Config) -> dict[str, np.ndarray]:
    """Spectra, abundances, and which endmembers each was rendered with."""
    rng = np.random.default_rng(config.seed)
    count = generator.free.shape[0]

    @jax.jit
    def spectra_of(members: Any, u: Any) -> Any:
        return generator.select(members)(u)

    abundances = np.zeros((config.spectra, count))
    members = np.zeros((config.spectra, MOST), int)
    moved = np.zeros((config.spectra, MOST, BANDS.size))
    for n in range(config.spectra):
        k = int(rng.integers(3, MOST + 1))
        members[n] = rng.choice(count, MOST, replace=False)
        abundances[n, members[n, :k]] = rng.dirichlet(np.ones(k))
        u = rng.uniform(-1, 1, (MOST, generator.free.shape[1]))
        moved[n] = np.asarray(spectra_of(members[n], u.astype(np.float32)))
        if world == "extra":  # a feature of one linewidth, up to five per cent deep
            center, width = rng.uniform(420, 1380, (MOST, 1)), rng.uniform(8, 25, (MOST, 1))
            moved[n] -= rng.uniform(0, 0.05, (MOST, 1)) / (1 + ((BANDS - center) / width) ** 2)
        if world == "scaled":
            moved[n] = 1 - rng.uniform(0.8, 1.2, (MOST, 1)) * (1 - moved[n])
    shares = np.take_along_axis(abundances, members, 1)
    spectra = np.einsum("pe,peb->pb", shares, moved)
    spectra += noise_of(world, config) * rng.normal(size=spectra.shape)
    return {"spectra": spectra.astype(np.float32), "abundances": abundances, "members": members, "moved": moved}


def oracle(scene: dict[str, np.ndarray], library: np.ndarray, deviation: np.ndarray, spectra: int) -> np.ndarray:
    """FCLS with the endmembers of each spectrum where it has them, the library elsewhere."""

    @jax.jit
    def solve(pixel: Any, members: Any, moved: Any) -> Any:
        return fcls(pixel, jnp.asarray(library).at[members].set(moved)).abundances

    pick = range(min(spectra, len(scene["spectra"])))
    weigh = np.asarray(1 / deviation * deviation.mean(), np.float32)
    library = np.asarray(library * weigh, np.float32)
    return np.array(
        [
            solve(scene["spectra"][n] * weigh, scene["members"][n], (scene["moved"][n] * weigh).astype(np.float32))
            for n in pick
        ]
    )


def rmse(found: np.ndarray, truth: np.ndarray) -> float:
    """Over pixels and endmembers."""
    return float(np.sqrt(np.mean((found - truth) ** 2)))


def world_metrics(world: str, generator: DispersionVariation, config: Config) -> dict[str, float]:
    """One world: all methods, scored."""
    scene = render(world, generator, config)
    deviation, truth = noise_of(world, config), scene["abundances"]
    library = np.asarray(generator(jnp.zeros(generator.free.shape)), np.float64)
    problem = prepare_synthesis(generator, noise=deviation, rank=config.rank)
    fixed = unmix(eqx.Partial(fcls, endmembers=prepare(library, weights=deviation**-2)), scene["spectra"])
    base = rmse(fixed.abundances, truth)
    some = min(config.fitted, config.spectra)
    pixels = scene["spectra"]
    found = {
        "marginal": unmix(eqx.Partial(marginal, endmembers=problem), pixels),
        "posterior": unmix(eqx.Partial(posterior, endmembers=problem), pixels),
        "map": unmix(eqx.Partial(map_synthesis, endmembers=problem), pixels[:some], tile=256),
    }
    metrics = {"fcls_rmse": base, "fcls_residual": float(np.mean(fixed.residual))}
    few = min(200, config.spectra)
    known = oracle(scene, library, deviation, few)
    metrics["oracle_rmse_over_fcls"] = rmse(known, truth[:few]) / rmse(fixed.abundances[:few], truth[:few])
    for name, solution in found.items():
        right = truth[: len(solution.abundances)]
        metrics[f"{name}_rmse_over_fcls"] = rmse(solution.abundances, right) / rmse(
            fixed.abundances[: len(right)], right
        )
        metrics[f"{name}_chi2_median"] = float(np.median(solution.fitted["chi2"]))
        metrics[f"{name}_converged"] = float(np.mean(solution.converged))
        metrics[f"{name}_residual"] = float(np.mean(solution.residual))
        error = np.abs(solution.abundances - right)
        deviations = np.sqrt(np.maximum(np.diagonal(solution.covariance, axis1=1, axis2=2), 0))
        reported = solution.fitted["presence"] > 0.5 if name == "posterior" else solution.abundances > 0
        for group, there in {"reported": reported, "present": right > 0, "all": right >= 0}.items():
            for sigmas in (1, 2):
                share = np.mean(error[there] <= sigmas * deviations[there])
                metrics[f"{name}_coverage_{group}_{sigmas}sigma"] = float(share)
    presence = found["posterior"].fitted["presence"]
    for low, high in CERTAINTIES:
        those = (presence >= low) & (presence < high)
        if those.any():
            metrics[f"presence_{low}_said"] = float(presence[those].mean())
            metrics[f"presence_{low}_was"] = float((truth[those] > 0).mean())
    for width in WIDTHS:
        other = prepare_synthesis(generator, noise=deviation, prior=width * 3**-0.5, rank=config.rank)
        solution = unmix(eqx.Partial(marginal, endmembers=other), pixels)
        metrics[f"marginal_prior_{width}_rmse_over_fcls"] = rmse(solution.abundances, truth) / base
        metrics[f"marginal_prior_{width}_chi2_median"] = float(np.median(solution.fitted["chi2"]))
        metrics[f"marginal_prior_{width}_log_likelihood"] = float(np.sum(solution.fitted["log_likelihood"]))
    return metrics


def run(config: Config) -> tuple[dict[str, float], Any]:
    """All worlds."""
    pieces = Partial(run, config)
    _, library = modelled()
    generator = DispersionVariation(library, box_around(library, **BOX), BANDS)
    metrics: dict[str, float] = {}
    for world in WORLDS[: config.worlds]:
        numbers = pieces.get(world or "as assumed", lambda w=world: world_metrics(w, generator, config))
        metrics |= {f"{world}_{key}" if world else key: value for key, value in numbers.items()}
    metrics |= {f"coverage_{k}sigma": metrics[f"posterior_coverage_reported_{k}sigma"] for k in (1, 2)}
    return metrics, draw(metrics, config)


def draw(metrics: dict[str, float], config: Config) -> Any:
    """RMSE relative to FCLS, by world, and along the width of the prior."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    worlds = WORLDS[: config.worlds]
    for shift, name in enumerate(("marginal", "map", "posterior", "oracle")):
        heights = [metrics[(f"{w}_" if w else "") + f"{name}_rmse_over_fcls"] for w in worlds]
        left.bar(np.arange(len(worlds)) + 0.2 * (shift - 1.5), heights, 0.19, label=name)
    left.set_xticks(range(len(worlds)), [w or "as assumed" for w in worlds])
    left.set(ylabel="abundance RMSE / that of FCLS", ylim=(0, 1.1))
    for world in worlds:
        heights = [metrics[(f"{world}_" if world else "") + f"marginal_prior_{w}_rmse_over_fcls"] for w in WIDTHS]
        right.semilogx(WIDTHS, heights, "o-", label=world or "as assumed")
    right.set(xlabel="prior of `marginal`, relative to the truth's", xticks=WIDTHS, xticklabels=map(str, WIDTHS))
    for axes in (left, right):
        axes.axhline(1, color="0.5", lw=1)
        axes.legend(frameon=False, ncols=2)
    return figure


if __name__ == "__main__":
    main(run, Config(), quick=Config(spectra=24, fitted=8, worlds=1))
