"""The methods of InfraRender's Table 1 on the rocks of Feely et al., with what no label chooses.

Minerals, box and noise are those of `analysis_by_synthesis_feely.py`, of greatest likelihood: frequencies within 1 %,
strengths and dampings within 15 %, 0.001 of noise from band to band and 0.008 that is broad over 100 cm⁻¹. Networks
learn from mixtures of up to eight of the 37 minerals, rendered in that box with that noise.
"""

import time
from typing import Any

import equinox as eqx
import jax
import numpy as np
from feely_rocks import ODD, Rocks, Setting, at_rest, interval, unmix, varied

from unmix_jax.networks.inverse import learn_inverse
from unmix_jax.networks.varied import VariedRecipe
from unmix_jax.networks.warm import warm_synthesis
from unmix_jax.solvers.compositional import bcm, ncm, prepare_bcm, prepare_ncm
from unmix_jax.solvers.distributions import fit_beta, fit_normal
from unmix_jax.solvers.least_squares import fcls, prepare
from unmix_jax.solvers.synthesis import map_synthesis, marginal, prepare_synthesis

SETTING = Setting(0.01, 0.15, 0.001, 0.008, 100.0)
LIBRARIES = 64  # rendered, that NCM and BCM learn the spread of each mineral from
NETWORKS = {  # encoder, weight of the reconstruction, first rate, share of the steps
    "inverse_rendering": ("deep", 0.1, 6e-3, 1.0),
    "inverse_published": ("infrarender", 0.1, 2e-3, 0.5),
    "cnn1d": ("cnn1d", 0.0, 2e-3, 0.5),
    "cnn1d_modified": ("cnn1d_modified", 0.0, 1e-3, 0.5),
}


def solvers(rocks: Rocks, sensor: Any = 0.0) -> tuple[Any, dict[str, Any]]:
    """Endmembers that vary, and all methods that learn nothing, told of a sensor's noise in each band."""
    generator = varied(rocks, rocks.minerals, SETTING)
    std = np.broadcast_to(sensor, rocks.pixels.shape[1:])
    problem = prepare_synthesis(generator, noise=rocks.noise(SETTING) + np.diag(std**2), rank=160)
    noise = np.sqrt(SETTING.broad**2 + std**2)
    u = np.random.default_rng(0).uniform(-1, 1, (LIBRARIES, *generator.free.shape)).astype(np.float32)
    drawn = np.asarray(jax.jit(lambda u: jax.lax.map(generator, u))(u)).swapaxes(0, 1)  # mineral, library, band
    classes = [name for name in rocks.names for _ in range(LIBRARIES)]
    flat = np.clip(drawn.reshape(-1, drawn.shape[-1]), 1e-4, 1 - 1e-4)
    return problem, {
        "fcls": eqx.Partial(fcls, endmembers=prepare(at_rest(rocks))),
        "ncm": eqx.Partial(ncm, endmembers=prepare_ncm(fit_normal(flat, classes), noise=noise)),
        "bcm": eqx.Partial(bcm, endmembers=prepare_bcm(fit_beta(flat, classes), noise=noise)),
        "marginal": eqx.Partial(marginal, endmembers=problem),
        "synthesis": eqx.Partial(map_synthesis, endmembers=problem),
    }


def learned(name: str, problem: Any, seed: int, steps: int, batch: int, kept: Any) -> tuple[Any, float]:
    """Networks of a method, and the CPU seconds that they took."""
    encoder, reconstruction, rate, share = NETWORKS[name]
    began = time.process_time()
    unmixer = learn_inverse(
        jax.random.key(seed), problem, recipe=VariedRecipe(tuple(range(1, 9))), encoder=encoder, rate=rate,
        reconstruction=reconstruction, steps=max(1, int(share * steps)), batch=batch, checkpoint=kept,
    )  # fmt: skip
    return unmixer, time.process_time() - began


def scored(rocks: Rocks, unmixer: Any) -> dict[str, Any]:
    """Errors of each rock, and milliseconds of CPU for one."""
    solution = unmix(unmixer, rocks.pixels)
    began = time.process_time()
    solution = unmix(unmixer, rocks.pixels)
    spent = 1e3 * (time.process_time() - began) / len(rocks.pixels)
    found = {
        f"{'norm' if norm else 'authors'}": rocks.errors(solution.abundances, norm=norm).tolist() for norm in (0, 1)
    }
    novelty = getattr(solution.fitted, "novelty", None)
    return found | {"ms": spent, "flagged": None if novelty is None else float(np.mean(np.asarray(novelty) > 1))}


def feely(pieces: Any, *, every: int, seeds: int, steps: int, batch: int, networks: tuple[str, ...]) -> dict[str, Any]:
    """Everything that is said of each method, by its name."""
    rocks = Rocks(every)
    problem, known = solvers(rocks)
    found: dict[str, Any] = {}
    for name, solver in known.items():
        found[name] = [pieces.get(f"feely {name}", lambda s=solver: scored(rocks, s))]
    for name in networks:

        def one(seed: int, name: str = name) -> dict[str, Any]:
            unmixer, spent = learned(name, problem, seed, steps, batch, pieces.beside(f"feely-{name}-{seed}.npz"))
            scores = scored(rocks, unmixer) | {"train_cpu_s": spent}
            if name == "inverse_rendering":
                scores["warm"] = scored(rocks, eqx.Partial(warm_synthesis, network=unmixer))
            return scores

        count = seeds if name == "inverse_rendering" else 1
        found[name] = [pieces.get(f"feely {name} {seed}", lambda s=seed: one(s)) for seed in range(count)]
        if name == "inverse_rendering":
            found["warm"] = [scores["warm"] for scores in found[name]]
    return found | {"rows": rocks.rows.tolist(), "first": rocks.first}


def metrics_of(found: dict[str, Any], bootstrap: int) -> dict[str, float]:
    """Means over the rocks and the seeds, by both metrics; intervals of the difference from FCLS."""
    metrics: dict[str, float] = {}
    rows, first = np.asarray(found["rows"]), found["first"]
    base = np.asarray(found["fcls"][0]["authors"])
    for name, runs in ((name, runs) for name, runs in found.items() if name not in ("rows", "first")):
        of = {key: np.asarray([run[key] for run in runs]) for key in ("authors", "norm", "ms")}
        authors, norm = of["authors"], of["norm"]
        metrics[f"{name}_feely"] = float(authors.mean())
        metrics[f"{name}_feely_std"] = float(authors.mean(1).std())
        metrics[f"{name}_feely_norm"] = float(norm.mean())
        metrics[f"{name}_feely_median"] = float(np.median(authors, 1).mean())
        metrics[f"{name}_feely_first45"] = float(authors[:, :first].mean())
        metrics[f"{name}_feely_last45"] = float(authors[:, first:].mean())
        metrics[f"{name}_feely_without66"] = float(authors[:, rows != ODD].mean())
        low, high = interval(authors.mean(0) - base, bootstrap)
        metrics |= {f"{name}_feely_minus_fcls_low": low, f"{name}_feely_minus_fcls_high": high}
        metrics[f"{name}_ms_per_spectrum"] = float(of["ms"].mean())
        if "train_cpu_s" in runs[0]:
            metrics[f"{name}_feely_train_cpu_s"] = float(np.mean([run["train_cpu_s"] for run in runs]))
        if runs[0]["flagged"] is not None:
            metrics[f"{name}_feely_flagged"] = float(np.mean([run["flagged"] for run in runs]))
    return metrics
