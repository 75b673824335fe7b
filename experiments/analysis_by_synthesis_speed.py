"""What analysis-by-synthesis costs, whether `map_synthesis` gets as far as plain descent, and a million spectra.

    python experiments/analysis_by_synthesis_speed.py

- Cost: CPU time of a spectrum on one core, 38 modelled Feely minerals (the degenerate pair of serpentines among them)
  and all 830 bands, 90 rocks in one tile. `METHOD_ratio_slsqp` is that over one FCLS by SciPy's SLSQP of the same
  size, the abundance step of the authors' code: analytic gradient, cold start, float64. `alternatingN` is the paper's
  algorithm with N steps under the authors' own protocol, for which they state 10.2 s a spectrum
  (`METHOD_times_faster_than_reference`; another machine, and the others solve another problem). Preparation
  (`prepare_s`, compiled functions included) and compilation (`METHOD_compile_s`) are told apart.
- Objective: that of `map_synthesis` over the least that plain Adam meets on the same objective in 1000 steps, from
  FCLS and the library: softmax abundances, rate 0.02, displacements clipped to the box. `map_objective_ok_share` is
  the share of the 90 spectra where this is at most 1.01: 37 minerals in 400–1400 cm⁻¹, the box and the noise that
  `analysis_by_synthesis_feely.py` chooses without labels; `white_` in the box it chooses where noise is independent,
  `demo_` in that of the authors' demo, each on every third spectrum. Adam takes 5 s a spectrum: what it finds
  is kept for other runs too (results/.cache; its key holds the objective at the start), `map_synthesis` runs anew.
- A million: `marginal` on spectra like those of `tes_like_scene.py` (43 endmembers, 73 bands; 4131 mixtures again and
  again, each time with new noise), from a file on disk through one tile size. `million_peak_mb` is the growth of
  anonymous memory beyond the abundances and what comes with them, `million_tenth_peak_mb` for a tenth of the spectra;
  `million_tile_difference` is the greatest difference of an abundance between two sizes of the tile, on the first
  20 000: what rounding in float32 does to mixtures that are nearly alike (`_median`, `_above_1e-4_share`), since
  `million_tile_difference_float64` is the same in float64.

Expected: CPU time over that of SLSQP (6 ms) 0.01 `fcls`, 0.17 `marginal`, 1.1 `posterior`, 9 `map`, 92
`alternating100`; within 1 % of Adam 0.61 of the spectra (median 1.008, 0.97 within 5 %), `white_` 1.00, `demo_` 0.90:
other basins, and where noise is broad the many weak parameters that no step moves; `tol=1e-4` gives 0.74 in twice the
time. 3400 spectra/s by `marginal`, no recompilation, memory flat; the tile makes no difference in float64. Half an hour
on one core, most of it Adam, which resumes. Needs UNMIX_JAX_DATA with feely.

Reference: Janiczek et al. 2020, arXiv:2007.05996.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import feely_rocks as feely
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tes_like_scene as tes
from common import Partial, main, measure, one_core
from memory import Watch, give_back
from scipy.optimize import minimize

from unmix_jax.driver import unmix
from unmix_jax.physics.box import box_around
from unmix_jax.physics.variation import DispersionVariation
from unmix_jax.solvers.least_squares import fcls, prepare
from unmix_jax.solvers.synthesis import (
    PreparedSynthesis,
    alternating,
    map_synthesis,
    marginal,
    posterior,
    prepare_synthesis,
)

NOISE = 0.004
SETTINGS = {  # for `map_synthesis` against Adam; None: the box of the authors' demo
    "": feely.Setting(0.01, 0.15, 0.001, 0.008, 100.0),
    "white_": feely.Setting(0.001, 0.15, 0.004),
    "demo_": None,
}
STATED_S = 10.2  # per spectrum, by the authors
NEAR = 1.01
BLOCK = 4096  # distinct mixtures of the million, at least
COMPARED = 20_000  # spectra that two tile sizes are compared on


@dataclass(frozen=True)
class Config:
    """Options of the experiment.

    Attributes:
        every: stride through the 90 rocks.
        methods: whose cost is measured.
        repetitions: of every timing.
        steps: of `alternating`.
        alternating_every: stride through the rocks for it, which takes longest.
        rank: of the basis.
        samples: libraries drawn to prepare.
        adam_every: stride through the rocks where Adam runs.
        adam_others_every: the same for settings that are not the chosen one.
        adam_steps: of Adam.
        boxes: 1: only the chosen one; 3: all.
        spectra: the million.
        spectra_rank: of the basis for them.
        tile: spectra per tile.
        other_tile: the size it is compared with.
    """

    every: int = 1
    methods: tuple[str, ...] = ("fcls", "marginal", "posterior", "map", "alternating")
    repetitions: int = 3
    steps: int = 100
    alternating_every: int = 3
    rank: int = 160
    samples: int = 1024
    adam_every: int = 1
    adam_others_every: int = 3
    adam_steps: int = 1000
    boxes: int = 3
    spectra: int = 1_000_000
    spectra_rank: int = 48
    tile: int = 1024
    other_tile: int = 777


@dataclass(frozen=True)
class Descent:
    """What Adam's results depend on; its pieces outlive a run, as the solvers have no part in them."""

    steps: int
    rank: int
    samples: int
    rate: float = 0.02


def slsqp(endmembers: np.ndarray, pixel: np.ndarray) -> np.ndarray:
    """FCLS as the authors' code does it."""
    count = len(endmembers)
    found = minimize(
        lambda x: np.sum((x @ endmembers - pixel) ** 2),
        np.full(count, 1 / count),
        jac=lambda x: 2 * endmembers @ (x @ endmembers - pixel),
        method="SLSQP",
        bounds=[(0, 1)] * count,
        constraints={"type": "eq", "fun": lambda x: np.sum(x) - 1, "jac": np.ones_like},
        options={"ftol": 1e-10, "maxiter": 300},
    )
    return found.x


def cost(rocks: feely.Rocks, config: Config) -> dict[str, float]:
    """CPU time of a spectrum by each method and by SLSQP, in turns."""
    _, minerals = feely.library()
    generator = DispersionVariation(minerals, box_around(minerals), rocks.wavenumber)
    start = time.process_time()
    problem = prepare_synthesis(generator, noise=NOISE, rank=config.rank, samples=config.samples)
    jax.block_until_ready(problem)
    metrics = {"prepare_s": time.process_time() - start}

    library = np.asarray(generator(jnp.zeros(generator.free.shape)), np.float64)
    unmixers = {
        "fcls": eqx.Partial(fcls, endmembers=prepare(library)),
        "marginal": eqx.Partial(marginal, endmembers=problem),
        "posterior": eqx.Partial(posterior, endmembers=problem),
        "map": eqx.Partial(map_synthesis, endmembers=problem),
        "alternating": eqx.Partial(alternating, endmembers=generator, steps=config.steps),
    }
    pixels = dict.fromkeys(("slsqp", *config.methods), rocks.all_bands)
    if "alternating" in pixels:
        pixels["alternating"] = rocks.all_bands[:: config.alternating_every]
    exact = rocks.all_bands.astype(np.float64)
    contenders: dict[str, Callable[[], Any]] = {"slsqp": lambda: np.array([slsqp(library, y) for y in exact])}
    contenders |= {name: partial(feely.unmix, unmixers[name], pixels[name]) for name in config.methods}
    times = measure(contenders, repetitions=config.repetitions)
    milliseconds = {name: 1e3 * times[name].cpu / len(pixels[name]) for name in contenders}
    metrics["slsqp_ms"] = milliseconds["slsqp"]
    for name in config.methods:
        key = f"{name}{config.steps}" if name == "alternating" else name
        metrics |= {
            f"{key}_ms": milliseconds[name],
            f"{key}_ratio_slsqp": milliseconds[name] / milliseconds["slsqp"],
            f"{key}_times_faster_than_reference": 1e3 * STATED_S / milliseconds[name],
            f"{key}_compile_s": times[name].first - times[name].wall,
        }
    theirs = np.linalg.norm(contenders["slsqp"]() @ library - exact, axis=1)
    ours = np.linalg.norm(feely.unmix(unmixers["fcls"], rocks.all_bands).abundances @ library - exact, axis=1)
    return metrics | {"slsqp_residual_over_fcls_max": float(np.max(theirs / ours))}


def objective(problem: PreparedSynthesis, parameters: tuple[Any, Any], pixel: Any) -> Any:
    """What `map_synthesis` minimises, at the logarithms of abundances and the displacements."""
    logits, u = parameters
    error = problem.reduce(pixel) - jax.nn.softmax(logits) @ problem.reduce(problem.generator(u))
    free = problem.prior > 0
    scaled = jnp.where(free, u / jnp.where(free, problem.prior, 1.0), 0.0)
    return 0.5 * jnp.sum(error**2) + 0.5 * jnp.sum(scaled**2)


@eqx.filter_jit
def begin(problem: PreparedSynthesis, pixel: Any) -> tuple[tuple[Any, Any], Any]:
    """Abundances of FCLS and the library, and the objective there."""
    logits = jnp.log(fcls(pixel, problem.library).abundances + 1e-4)
    parameters = (logits, jnp.zeros(problem.prior.shape))
    return parameters, objective(problem, parameters, pixel)


@eqx.filter_jit
def adam(problem: PreparedSynthesis, start: tuple[Any, Any], pixel: Any, rate: Any, steps: Any) -> Any:
    """The least objective that Adam meets."""
    optimiser = optax.adam(rate)

    def step(_: Any, carry: Any) -> Any:
        parameters, state, least = carry
        value, slope = jax.value_and_grad(objective, 1)(problem, parameters, pixel)
        change, state = optimiser.update(slope, state)
        logits, u = optax.apply_updates(parameters, change)
        return (logits, jnp.clip(u, -1, 1)), state, jnp.minimum(least, value)

    last, _, least = jax.lax.fori_loop(0, steps, step, (start, optimiser.init(start), jnp.inf))
    return jnp.minimum(least, objective(problem, last, pixel))


def against_adam(rocks: feely.Rocks, config: Config, label: str) -> tuple[dict[str, float], np.ndarray]:
    """The objective of `map_synthesis` over Adam's in one box."""
    setting = SETTINGS[label]
    generator = feely.varied(rocks, rocks.minerals, setting) if setting else rocks.generator(rocks.minerals)
    noise = rocks.noise(setting) if setting else NOISE
    problem = prepare_synthesis(generator, noise=noise, rank=config.rank, samples=config.samples)
    every = config.adam_others_every if label else config.adam_every
    pixels = rocks.pixels[::every]
    descent = Descent(config.adam_steps, config.rank, config.samples)
    pieces = Partial(run, descent)

    def descend(start: Any, pixel: Any) -> float:
        return float(adam(problem, start, pixel, jnp.float32(descent.rate), jnp.int32(descent.steps)))

    reached = []
    for row, pixel in zip(rocks.rows[::every], pixels, strict=True):
        start, first = begin(problem, pixel)
        key = f"adam {label}{row} from {float(first):.4g}"  # a problem that has changed starts elsewhere
        reached.append(pieces.get(key, partial(descend, start, pixel)))
    found = feely.unmix(eqx.Partial(map_synthesis, endmembers=problem), pixels)
    ratio = np.asarray(found.fitted["objective"], float) / np.array(reached)
    return {
        f"{label}map_objective_ok_share": float(np.mean(ratio <= NEAR)),
        f"{label}map_objective_over_adam_median": float(np.median(ratio)),
        f"{label}map_objective_over_adam_worst": float(np.max(ratio)),
        f"{label}map_objective_over_adam_best": float(np.min(ratio)),
        f"{label}map_steps_median": float(np.median(found.steps)),
        f"{label}map_converged": float(np.mean(found.converged)),
    }, ratio


def watched(unmixer: Any, pixels: np.ndarray, tile: int) -> tuple[list[tuple[int, float]], float]:
    """Growth of memory beyond the solution, [spectra done, MB] after each tile, and CPU seconds."""
    small = unmix(unmixer, pixels[:tile], tile=tile)
    row = sum(leaf.nbytes for leaf in jax.tree.leaves(small)) / tile / 2**20
    del small
    give_back()
    watch, curve = Watch(), []
    before = watch.taken()
    start = time.process_time()
    unmix(unmixer, pixels, tile=tile, progress=lambda done, _: curve.append((done, watch.taken() - before)))
    seconds = time.process_time() - start
    watch.stop()
    return [(done, peak - done * row) for done, peak in curve], seconds


def write(path: Path, config: Config) -> tuple[np.ndarray, DispersionVariation, float]:
    """Spectra on disk, their endmembers, and their noise."""
    scene_config = tes.Config(pixels=min(BLOCK, config.spectra), noise=0.0)
    names, library = tes.modelled()
    generator = DispersionVariation(library, box_around(library, **tes.BOX), tes.wavenumbers(scene_config))
    scene = tes.compose(names.index("Hematite (TT derived)"), scene_config)
    mixtures, _ = tes.render(scene, generator, np.arange(len(scene.members)), scene_config)
    noise = tes.Config().noise
    pixels = np.memmap(path, np.float32, "w+", shape=(config.spectra, mixtures.shape[1]))
    rng = np.random.default_rng(0)
    for first in range(0, config.spectra, len(mixtures)):
        block = mixtures[: config.spectra - first]
        pixels[first : first + len(block)] = block + noise * rng.standard_normal(block.shape, np.float32)
    pixels.flush()
    return np.memmap(path, np.float32, "r", shape=pixels.shape), generator, noise


def million(config: Config) -> tuple[dict[str, float], list[tuple[int, float]]]:
    """Many spectra through one tile size: time, memory, compilations, and the same by another tile size."""
    compiled: list[float] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(seconds) if "backend_compile" in event else None
    )
    with tempfile.TemporaryDirectory() as folder:
        pixels, generator, noise = write(Path(folder) / "spectra.f32", config)
        problem = prepare_synthesis(generator, noise=noise, rank=config.spectra_rank, samples=config.samples)
        unmixer = eqx.Partial(marginal, endmembers=problem, covariance=False)
        few = pixels[: min(COMPARED, config.spectra)]
        start = time.perf_counter()
        unmix(unmixer, pixels[:1], tile=config.tile)
        first = time.perf_counter() - start
        known = len(compiled)
        one, other = (unmix(unmixer, few, tile=size).abundances for size in (config.tile, config.other_tile))
        apart = np.max(np.abs(one - other), 1)  # of each spectrum
        with jax.enable_x64(True):
            exact = few.astype(np.float64)
            wide = jax.tree.map(lambda leaf: leaf.astype(np.float64) if leaf.dtype == np.float32 else leaf, generator)
            same = eqx.Partial(
                marginal,
                endmembers=prepare_synthesis(wide, noise=noise, rank=config.spectra_rank, samples=config.samples),
                covariance=False,
            )
            both = [unmix(same, exact, tile=size).abundances for size in (config.tile, config.other_tile)]
            precise = float(np.max(np.abs(both[0] - both[1])))
            del both, same, exact
        known_after = len(compiled) - known  # the other size and the other precision
        tenth, _ = watched(unmixer, pixels[: max(config.tile, config.spectra // 10)], config.tile)
        curve, seconds = watched(unmixer, pixels, config.tile)
        return {
            "million_spectra": config.spectra,
            "million_cpu_s": seconds,
            "million_spectra_per_cpu_s": config.spectra / seconds,
            "million_compile_s": first,
            "million_recompilations": len(compiled) - known - known_after,
            "million_tile_difference": float(np.max(apart)),
            "million_tile_difference_median": float(np.median(apart)),
            "million_tile_difference_above_1e-4_share": float(np.mean(apart > 1e-4)),
            "million_tile_difference_float64": precise,
            "million_tenth_peak_mb": max(peak for _, peak in tenth),
            "million_peak_mb": max(peak for _, peak in curve),
            "million_input_mb": pixels.nbytes / 2**20,
        }, curve


def run(config: Config) -> tuple[dict[str, float], Any]:
    """All three parts, Adam first: it alone is kept."""
    rocks = feely.Rocks(config.every)
    metrics: dict[str, float] = {}
    ratios: dict[str, np.ndarray] = {}
    for label in tuple(SETTINGS)[: config.boxes]:
        numbers, ratios[label] = against_adam(rocks, config, label)
        metrics |= numbers
    metrics |= cost(rocks, config)
    numbers, curve = million(config)
    return metrics | numbers, draw(metrics, ratios, curve)


def draw(metrics: dict[str, float], ratios: dict[str, np.ndarray], curve: list[tuple[int, float]]) -> Any:
    """Cost, objective over Adam's, and memory along the million."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    shown = {key.removesuffix("_ms"): value for key, value in metrics.items() if key.endswith("_ms")}
    shown = dict(sorted(shown.items(), key=lambda item: item[1])) | {"stated by the\nauthors": 1e3 * STATED_S}
    own = ["0.6" if "slsqp" in name or "authors" in name else "tab:blue" for name in shown]
    bars = left.barh(range(len(shown)), list(shown.values()), color=own)
    left.bar_label(bars, fmt="%.3g", padding=2, fontsize=8)
    left.set_yticks(range(len(shown)), ["SciPy SLSQP" if name == "slsqp" else name for name in shown])
    left.set(xscale="log", xlabel="CPU time of a spectrum (ms)", title="38 minerals, 830 bands, one core")
    left.set_xlim(right=40 * 1e3 * STATED_S)
    for label, ratio in ratios.items():
        name = {"": "chosen", "white_": "chosen, independent noise", "demo_": "authors' demo"}[label]
        share = f"{100 * np.mean(ratio <= NEAR):.0f} %"
        middle.plot(np.linspace(0, 1, len(ratio)), np.sort(ratio), ".-", lw=1, label=f"{name}, {share} at most {NEAR}")
    middle.axhline(NEAR, color="0.5", lw=1, ls="--")
    middle.set(xlabel="share of the spectra", ylabel="objective of map / that of Adam", title="map against Adam")
    middle.legend(frameon=False, fontsize=8)
    done, peak = np.array(curve).T
    right.plot(done, peak, lw=1)
    right.set(xlabel="spectra done", ylabel="growth beyond the solution (MB)", title="anonymous memory, marginal")
    right.set_ylim(min(0, np.nanmin(peak, initial=0)), max(50, 1.2 * np.nanmax(peak, initial=0)))
    return figure


if __name__ == "__main__":
    one_core()
    main(
        run,
        Config(),
        quick=Config(
            every=30,
            methods=("fcls",),
            repetitions=1,
            steps=2,
            alternating_every=1,
            rank=60,
            samples=32,
            adam_steps=3,
            boxes=1,
            spectra=600,
            tile=128,
            other_tile=128,
        ),
    )
