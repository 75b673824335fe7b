"""Inversion of mixing models against SciPy's SLSQP: the same pixels, the same machine, one run.

    python experiments/bench_inversion.py

Four minutes on one core. End to end, from pixels in host memory to abundances, parameters, gap and covariance in host
memory; compilation (`_compile_s`) is told apart. SLSQP minimises the same half squared error in float64, with its
analytic gradient, bounds and the sum to one, from equal abundances and no nonlinearity, to ftol 1e-12; it solves a
sample of the same pixels in turns with ours. CPU time is compared on one core (`common.one_core`). Objectives are
computed in float64 from what either gave back: `_worst_objective_excess` is the greatest (ours − SLSQP's) / SLSQP's,
`_better_share` the share of pixels where ours is lower by more than 1e-6 of it (SLSQP stopped, or in another minimum).
Samson is the real scene with its A_alt endmembers, where UNMIX_JAX_DATA has it, six endmembers the synthetic scene of
`bench_solvers` at 30 dB, bent by b drawn from −0.3 to 0.3.

Wanted: ratios of at least 250 (ppnm3), 80 (ppnm6) and 60 (mlm3); worst excess 5e-5 in float32, 1e-9 in float64.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from bench_solvers import samson, smooth
from common import main, measure, one_core
from scipy.optimize import minimize

from unmix_jax.driver import unmix
from unmix_jax.physics.mixing import MLM, PPNM, Mixing
from unmix_jax.solvers.inversion import invert, prepare_inversion


@dataclass(frozen=True)
class Config:
    """Pixels that SLSQP solves, pixels that we solve, and how often each runs."""

    sample: int = 400
    pixels: int = 65_536
    repetitions: int = 5


def bent(pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Six endmembers, linear mixtures bent as `PPNM` does."""
    endmembers, linear = smooth(6, pixels, 162, 6, 6)
    bend = np.random.default_rng(7).uniform(-0.3, 0.3, (pixels, 1))
    return endmembers, (linear + bend * linear**2).astype(np.float32)


def polynomial(parameter: float, linear: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``s + b s²``, and its derivatives in s and b."""
    return linear + parameter * linear**2, 1 + 2 * parameter * linear, linear**2


def multilinear(parameter: float, linear: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``(1 − P) s / (1 − P s)``, and its derivatives in s and P."""
    below = 1 - parameter * linear
    return (1 - parameter) * linear / below, (1 - parameter) / below**2, linear * (linear - 1) / below**2


Bend = Callable[[float, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
CASES: dict[str, tuple[Callable[[int], tuple[np.ndarray, np.ndarray]], Callable[[Any], Mixing], Bend]] = {
    "ppnm3": (samson, PPNM, polynomial),
    "ppnm6": (bent, PPNM, polynomial),
    "mlm3": (samson, MLM, multilinear),
}


def slsqp(endmembers: np.ndarray, pixel: np.ndarray, bend: Bend, limits: tuple[float, float]) -> np.ndarray:
    """Abundances and parameter of one pixel."""
    count = len(endmembers)

    def objective(unknown: np.ndarray) -> tuple[float, np.ndarray]:
        spectrum, steep, along = bend(unknown[count], unknown[:count] @ endmembers)
        error = spectrum - pixel
        return 0.5 * error @ error, np.append(endmembers @ (error * steep), error @ along)

    ones = np.append(np.ones(count), 0.0)
    return minimize(
        objective,
        np.append(np.full(count, 1 / count), 0.0),
        jac=True,
        method="SLSQP",
        bounds=[(0, None)] * count + [limits],
        constraints={"type": "eq", "fun": lambda u: u @ ones - 1, "jac": lambda u: ones},
        options={"ftol": 1e-12, "maxiter": 300},
    ).x


def objectives(endmembers: np.ndarray, pixels: np.ndarray, unknown: np.ndarray, bend: Bend) -> np.ndarray:
    """Half the squared error of each pixel, in float64, with abundances brought to the simplex."""
    abundances = np.maximum(unknown[:, :-1].astype(np.float64), 0)
    abundances /= abundances.sum(1, keepdims=True)
    parameters = unknown[:, -1:].astype(np.float64)
    error = bend(parameters, abundances @ endmembers)[0] - pixels
    return 0.5 * (error**2).sum(1)


def case(name: str, config: Config, dtype: Any) -> dict[str, float]:
    """One model on one scene, in one precision."""
    scene, model, bend = CASES[name]
    endmembers, pixels = scene(config.pixels)
    pixels = np.resize(pixels, (config.pixels, pixels.shape[1])).astype(dtype)
    problem = prepare_inversion(endmembers.astype(dtype), model(jnp.zeros((), dtype)))
    unmixer = eqx.Partial(invert, endmembers=problem)
    sample = np.random.default_rng(1).choice(len(pixels), config.sample, replace=False)
    limits = float(problem.low[0]), float(problem.high[0])
    chosen, exact = pixels[sample].astype(np.float64), np.asarray(problem.endmembers, np.float64)

    start = time.perf_counter()
    solution = unmix(unmixer, pixels)
    compile_s = time.perf_counter() - start
    timing = measure(
        {
            "ours": lambda: unmix(unmixer, pixels),
            "slsqp": lambda: [slsqp(exact, pixel, bend, limits) for pixel in chosen],
        },
        repetitions=config.repetitions,
    )
    theirs = np.array([slsqp(exact, pixel, bend, limits) for pixel in chosen])
    fitted = np.asarray(jax.tree.leaves(solution.fitted.mixing)[0])
    ours = np.column_stack([np.asarray(solution.abundances), fitted])[sample]
    best, found = (objectives(exact, chosen, unknown, bend) for unknown in (theirs, ours))
    excess = (found - best) / best
    one, other = timing["ours"].cpu / len(pixels), timing["slsqp"].cpu / len(sample)
    return {
        "ratio_slsqp_cpu": other / one,
        "cpu_us_per_pixel": 1e6 * one,
        "slsqp_cpu_us_per_pixel": 1e6 * other,
        "worst_objective_excess": float(excess.max()),
        "better_share": float(np.mean(excess < -1e-6)),
        "converged_share": float(np.mean(solution.converged)),
        "worst_gap": float(np.max(solution.gap)),
        "mean_steps": float(np.mean(solution.steps)),
        "compile_s": compile_s,
    }


def run(config: Config) -> tuple[dict[str, float], Any]:
    """Every case in float32, then in float64."""
    metrics = {f"{name}_{key}": v for name in CASES for key, v in case(name, config, np.float32).items()}
    with jax.enable_x64(True):
        metrics |= {f"{name}_f64_{key}": v for name in CASES for key, v in case(name, config, np.float64).items()}
    return metrics, figure(metrics)


def figure(metrics: dict[str, float]) -> Any:
    """CPU time a pixel, by case and contender."""
    from matplotlib.figure import Figure

    image = Figure(figsize=(6.0, 3.2), layout="constrained")
    axes = image.subplots()
    labels = [f"{name}{suffix}" for name in CASES for suffix in ("", "_f64")]
    for shift, key, text in ((-0.2, "slsqp_cpu_us_per_pixel", "SciPy SLSQP"), (0.2, "cpu_us_per_pixel", "invert")):
        axes.bar(np.arange(len(labels)) + shift, [metrics[f"{label}_{key}"] for label in labels], 0.4, label=text)
    axes.set_yscale("log")
    axes.set_xticks(range(len(labels)), [label.replace("_", " ") for label in labels])
    axes.set_ylabel("CPU time per pixel (µs, one core)")
    axes.legend()
    return image


if __name__ == "__main__":
    one_core()
    main(run, Config(), quick=Config(sample=20, pixels=2048, repetitions=1))
