"""Certified FCLS against a loop over SciPy's ``nnls``: the same pixels, the same machine, one run.

    python experiments/bench_solvers.py

Two minutes on two cores. End to end, from pixels in host memory to abundances in host memory; compilation
(`_compile_s`) and what depends on the endmembers alone (`_prepare_s`) are told apart. SciPy gets the usual row of
weight 1e3 for the sum to one, and solves a sample of the same pixels in turns with ours. CPU time is compared on
one core (a second process bound to it), because two threads that share a physical core count each other's waiting;
`_all_cores` is the same ratio with all of them, and wall times are with all of them. Gaps are computed again in
float64 from the abundances that came back. `--peers` adds other installed packages (pysptools). Samson is the real
scene with its A_alt endmembers where UNMIX_JAX_DATA has it; the other scenes are synthetic: smooth endmembers,
Dirichlet(1) abundances (`emit_sparse`: four endmembers a pixel; `library`: four of forty absorption spectra), 30 dB.

`_floor_ns` is one read of a pixel on one core; FCLS reads it twice, once for the projection (`_project_ns`) and once
for the residual and the mask (`_norm_ns`): what is above their sum is the solver and the driver.

Wanted: CPU-time ratio to SciPy of at least 60 (samson), 45 (urban), 28 (emit), 4 (library); worst gap 5e-5 in float32
(library 1e-4), 1e-12 in float64 (library 1e-10); `recompilations` 0; `driver_peak_mb_emit` at most 300.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from common import main, measure
from scipy.optimize import nnls

from unmix_jax.driver import unmix
from unmix_jax.linalg import squared_norm
from unmix_jax.solvers.least_squares import fcls, prepare

WEIGHT = 1e3  # of the sum-to-one row that SciPy gets


@dataclass(frozen=True)
class Config:
    """Sizes of the scenes relative to the full ones, and how often each contender runs."""

    scale: float = 1.0
    sample: int = 3000
    repetitions: int = 9
    peers: bool = False
    one_core: bool = False  # the half that is bound to one core; `run` starts it


def smooth(key: int, pixels: int, bands: int, count: int, active: int) -> tuple[np.ndarray, np.ndarray]:
    """Endmembers of slow waves and a few broad features, and their mixtures at 30 dB."""
    rng = np.random.default_rng(key)
    x = np.linspace(0, 1, bands)
    waves = [0.3 + 0.2 * np.sin(2 * np.pi * (rng.uniform(0.3, 3) * x + rng.uniform())) for _ in range(count)]
    bumps = [
        sum(0.1 * np.exp(-(((x - rng.uniform()) / rng.uniform(0.02, 0.15)) ** 2)) for _ in range(3))
        for _ in range(count)
    ]
    return mixtures(rng, np.array(waves) + np.array(bumps), pixels, active)


def absorptions(key: int, pixels: int, bands: int, count: int, active: int) -> tuple[np.ndarray, np.ndarray]:
    """Library-like endmembers (a slope and four to eight absorption bands), and their mixtures at 30 dB."""
    rng = np.random.default_rng(key)
    x = np.linspace(0, 1, bands)
    spectra = rng.uniform(0.2, 0.7, (count, 1)) + rng.uniform(-0.2, 0.2, (count, 1)) * x
    for spectrum in spectra:
        for _ in range(rng.integers(4, 9)):
            width = rng.uniform(0.01, 0.08)
            spectrum -= rng.uniform(0.03, 0.25) * np.exp(-0.5 * ((x - rng.uniform()) / width) ** 2)
    return mixtures(rng, np.clip(spectra, 0.01, None), pixels, active)


def mixtures(rng: Any, endmembers: np.ndarray, pixels: int, active: int) -> tuple[np.ndarray, np.ndarray]:
    """Dirichlet(1) over ``active`` endmembers a pixel, white noise at 30 dB, float32."""
    count = len(endmembers)
    abundances = np.zeros((pixels, count))
    chosen = np.argsort(rng.uniform(size=(pixels, count)), 1)[:, :active]
    np.put_along_axis(abundances, chosen, rng.dirichlet(np.ones(active), pixels), 1)
    clean = abundances @ endmembers
    noise = np.sqrt(np.mean(clean**2)) * 10 ** (-30 / 20)
    return endmembers, (clean + noise * rng.standard_normal(clean.shape)).astype(np.float32)


def samson(pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """The Samson scene tiled ten times, with its A_alt endmembers; a scene like it where the data is not at hand."""
    file = Path(os.environ.get("UNMIX_JAX_DATA", "")) / "samson" / "samson.npz"
    if not file.is_file():
        return smooth(3, pixels, 156, 3, 3)
    data = np.load(file, allow_pickle=False)
    cube = data["Y"].reshape(-1, 156).astype(np.float32)
    return np.asarray(data["E_alt"], float), np.tile(cube, (10, 1))[:pixels]


SCENES: dict[str, tuple[int, Callable[[int], tuple[np.ndarray, np.ndarray]]]] = {
    "samson": (90_250, samson),
    "urban": (94_249, lambda n: smooth(6, n, 162, 6, 6)),
    "emit": (131_072, lambda n: smooth(10, n, 285, 10, 10)),
    "emit_sparse": (131_072, lambda n: smooth(10, n, 285, 10, 4)),
    "library": (10_000, lambda n: absorptions(40, n, 200, 40, 4)),
}


def worst_gap(abundances: np.ndarray, endmembers: np.ndarray, pixels: np.ndarray) -> float:
    """Largest Frank-Wolfe gap over ½‖y‖², computed in float64."""
    abundances, pixels = np.asarray(abundances, np.float64), np.asarray(pixels, np.float64)
    gradient = (abundances @ endmembers - pixels) @ endmembers.T
    gap = (gradient * abundances).sum(1) - gradient.min(1)
    return float(np.max(gap / (0.5 * (pixels**2).sum(1))))


def scipy_loop(endmembers: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """The textbook FCLS: one ``nnls`` per pixel with the sum-to-one row."""
    matrix = np.vstack([endmembers.T, np.full(len(endmembers), WEIGHT)])
    rows = np.column_stack([pixels.astype(np.float64), np.full(len(pixels), WEIGHT)])
    return np.stack([nnls(matrix, row)[0] for row in rows])


def read(pixels: np.ndarray) -> float:
    """Read every pixel once with all cores: what no solver can be faster than."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as pool:
        return sum(pool.map(np.max, np.array_split(pixels.reshape(-1), cores)))


def peak_memory(function: Callable[[], Any]) -> float:
    """Largest growth of this process's anonymous memory while ``function`` runs, in MB (Linux; else NaN)."""
    status = Path("/proc/self/status")
    if not status.exists():
        return float("nan")

    def resident() -> float:
        line = next(x for x in status.read_text().splitlines() if x.startswith("RssAnon"))
        return int(line.split()[1]) / 1024

    before, peak, running = resident(), [0.0], [True]

    def watch() -> None:
        while running[0]:
            peak[0] = max(peak[0], resident() - before)
            time.sleep(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    solution = function()
    running[0] = False
    thread.join()
    return peak[0] - sum(np.asarray(x).nbytes for x in jax.tree.leaves(solution)) / 2**20


def peers(endmembers: np.ndarray, pixels: np.ndarray) -> dict[str, float]:
    """Nanoseconds of CPU time per pixel of other installed packages."""
    found: dict[str, float] = {}
    if importlib.util.find_spec("pysptools"):
        from pysptools.abundance_maps import amaps

        start = time.process_time()
        amaps.FCLS(pixels[:100].astype(np.float64), endmembers)
        found["pysptools"] = (time.process_time() - start) / 100 * 1e9
    return found


def run(config: Config) -> tuple[dict[str, float], Any]:
    """Gaps, wall times and memory here; CPU times in a process of one core."""
    if config.one_core:
        return compare(config, exact=False), None
    metrics = compare(config, exact=True)
    alone = on_one_core(config)
    for name in SCENES:
        key = f"fcls_{name}"
        metrics[f"{key}_ratio_scipy_cpu_all_cores"] = metrics[f"{key}_ratio_scipy_cpu"]
        for suffix in ("ratio_scipy_cpu", "cpu_ns_per_pixel", "scipy_cpu_ns_per_pixel", "floor_ns"):
            metrics[f"{key}_{suffix}"] = alone[f"{key}_{suffix}"]
        for suffix in ("project_ns", "norm_ns"):
            metrics[f"{key}_{suffix}"] = alone[f"{key}_{suffix}"]
    return metrics, figure(metrics)


def on_one_core(config: Config) -> dict[str, float]:
    """The metrics of the same comparison in a new process bound to one core."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "one_core.json"
        options = {"scale": config.scale, "sample": config.sample, "repetitions": config.repetitions}
        command = [sys.executable, __file__, "--one-core", "--out", str(record)]
        command += [f"--{name}={value}" for name, value in options.items()]
        cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
        try:
            if cores:  # the new process inherits it, with all threads it will ever start
                os.sched_setaffinity(0, {max(cores)})
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        finally:
            if cores:
                os.sched_setaffinity(0, cores)
        return json.loads(record.read_text())["metrics"]


def passes(endmembers: np.ndarray, pixels: np.ndarray) -> dict[str, Callable[[], Any]]:
    """The two reads of each pixel that FCLS cannot do without, on tiles of the driver's size."""
    basis = jax.numpy.asarray(np.linalg.qr(endmembers.T)[0], pixels.dtype)
    project = jax.jit(lambda y: jax.numpy.matmul(y, basis, precision="highest"))
    norm = jax.jit(lambda y: jax.vmap(squared_norm)(y))
    size = max(1, min(len(pixels), 8192))
    tiles = [jax.device_put(pixels[i : i + size]) for i in range(0, len(pixels) - size + 1, size)]
    return {"project": lambda: [project(t) for t in tiles], "norm": lambda: [norm(t) for t in tiles]}


def compare(config: Config, *, exact: bool) -> dict[str, float]:
    """Every scene in turn, with SciPy; ``exact`` adds gaps, memory, peers and the count of recompilations."""
    compiled: list[float] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(seconds) if "backend_compile" in event else None
    )
    metrics: dict[str, float] = {}
    for name, (size, make) in SCENES.items():
        total = int(size * config.scale)
        endmembers, pixels = make(total)
        start = time.perf_counter()
        unmixer = eqx.Partial(fcls, endmembers=prepare(endmembers))
        prepared_s = time.perf_counter() - start
        sample = pixels[: config.sample if name != "library" else config.sample // 5]
        times = measure(
            {
                "scipy": lambda e=endmembers, y=sample: scipy_loop(e, y),
                "ours": lambda u=unmixer, y=pixels: unmix(u, y),
            },
            repetitions=config.repetitions,
        )
        floors = {"read": lambda y=pixels: read(y)} | ({} if exact else passes(endmembers, pixels))
        times |= measure(floors, repetitions=config.repetitions)
        ours, loop, key = times["ours"], times["scipy"], f"fcls_{name}"
        metrics |= {
            f"{key}_ratio_scipy_cpu": (loop.cpu / len(sample)) / (ours.cpu / total),
            f"{key}_ratio_scipy_wall": (loop.wall / len(sample)) / (ours.wall / total),
            f"{key}_ns_per_pixel": ours.wall / total * 1e9,
            f"{key}_cpu_ns_per_pixel": ours.cpu / total * 1e9,
            f"{key}_scipy_cpu_ns_per_pixel": loop.cpu / len(sample) * 1e9,
            f"{key}_read_floor_share": times["read"].wall / ours.wall,
            f"{key}_floor_ns": times["read"].wall / total * 1e9,
            f"{key}_compile_s": ours.first - ours.wall,
            f"{key}_prepare_s": prepared_s,
        }
        if not exact:
            metrics |= {f"{key}_{step}_ns": times[step].cpu / total * 1e9 for step in ("project", "norm")}
            continue
        solution = unmix(unmixer, pixels)
        some = pixels[:20_000]
        with jax.enable_x64(True):
            precise = unmix(eqx.Partial(fcls, endmembers=endmembers), some.astype(np.float64))
        oracle = scipy_loop(endmembers, sample[:500])
        metrics |= {
            f"{key}_gap_f32": worst_gap(solution.abundances, endmembers, pixels),
            f"{key}_gap_f64": worst_gap(precise.abundances, endmembers, some),
            f"{key}_difference_scipy": float(np.abs(precise.abundances[: len(oracle)] - oracle).max()),
            f"{key}_converged": float(np.mean(solution.converged)),
        }
        if name == "emit":
            metrics["driver_peak_mb_emit"] = peak_memory(lambda u=unmixer, y=pixels: unmix(u, y))
        before = len(compiled)
        unmix(unmixer, pixels[: total - 77])
        metrics["recompilations"] = metrics.get("recompilations", 0) + len(compiled) - before
        if config.peers:
            metrics |= {f"{key}_{peer}_cpu_ns": ns for peer, ns in peers(endmembers, pixels).items()}
    return metrics


def figure(metrics: dict[str, float]) -> Any:
    """CPU time per pixel of both contenders, and the ratio on top of each pair."""
    from matplotlib.figure import Figure

    plot = Figure(figsize=(8, 4))
    axes = plot.subplots()
    place = np.arange(len(SCENES))
    for offset, label, suffix, colour in (
        (-0.2, "SciPy nnls loop", "scipy_cpu_ns_per_pixel", "0.6"),
        (0.2, "unmix_jax fcls", "cpu_ns_per_pixel", "tab:blue"),
    ):
        heights = [metrics[f"fcls_{name}_{suffix}"] for name in SCENES]
        axes.bar(place + offset, heights, 0.4, label=label, color=colour)
    for x, name in zip(place, SCENES, strict=True):
        axes.annotate(
            f"{metrics[f'fcls_{name}_ratio_scipy_cpu']:.0f}×",
            (x, metrics[f"fcls_{name}_scipy_cpu_ns_per_pixel"]),
            ha="center",
            va="bottom",
        )
    axes.set(yscale="log", ylabel="CPU time per pixel (ns)", xticks=place, title="Fully constrained least squares")
    axes.set_xticklabels(["Samson\nR=3", "Urban-like\nR=6", "EMIT-like\nR=10", "EMIT-like\nsparse", "library\nR=40"])
    axes.legend(frameon=False)
    axes.margins(y=0.15)
    return plot


if __name__ == "__main__":
    main(run, Config(), quick=Config(scale=0.02, sample=50, repetitions=1))
