"""Processes of `bench_scene.py`: each does one thing to a scene on disk and prints what it measured as JSON.

    python experiments/scene_runs.py WHAT OPTIONS

WHAT is a function of this module, OPTIONS its arguments as JSON. Scenes are in a simple file of their own, band
interleaved by pixel, so that reading them needs no package.
"""

import json
import os
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

BANDS = 285
NOISE = 0.003
SEEN = 0.005  # seconds between two looks at the memory


def endmembers(count: int) -> np.ndarray:
    """Slow waves and a few broad features."""
    rng = np.random.default_rng(count)
    wave = np.linspace(0, 1, BANDS)
    waves = 0.4 + 0.25 * np.sin(rng.uniform(2, 14, (count, 1)) * wave + rng.uniform(0, 6, (count, 1)))
    depth = rng.uniform(0, 0.15, (count, 1)) * np.exp(-0.5 * ((wave - rng.uniform(0, 1, (count, 1))) / 0.05) ** 2)
    return (waves - depth).astype(np.float32)


def scene_of(path: str, lines: int, samples: int) -> Any:
    """A scene on disk."""
    from unmix_jax import Scene

    return Scene(np.memmap(path, np.float32, "r", shape=(lines, samples, BANDS)), name=Path(path).stem)


def unmixer_of(count: int) -> tuple[Any, Any]:
    """FCLS, and its endmembers as a library."""
    import equinox as eqx

    from unmix_jax import SpectralLibrary, fcls, prepare

    spectra = endmembers(count)
    names = tuple(f"endmember {i + 1}" for i in range(count))
    return eqx.Partial(fcls, endmembers=prepare(spectra)), SpectralLibrary(spectra, names=names)


def write(path: str, lines: int, samples: int, count: int) -> dict[str, Any]:
    """Mixtures of up to four of the endmembers, with noise; rows are drawn from keys of their own."""
    spectra = endmembers(count)
    with open(path, "wb", buffering=0) as file:
        for row in range(lines):
            rng = np.random.default_rng([7, row % 1280])  # a larger scene repeats itself
            abundances = np.zeros((samples, count), np.float32)
            chosen = np.argsort(rng.random((samples, count)), 1)[:, :4]
            np.put_along_axis(abundances, chosen, rng.dirichlet(np.ones(4), samples).astype(np.float32), 1)
            values = abundances @ spectra + NOISE * rng.standard_normal((samples, BANDS), np.float32)
            file.write(values.astype(np.float32).tobytes())
    return {}


class Peak:
    """The most anonymous memory that this process has had since it was entered, bytes."""

    def __enter__(self) -> "Peak":
        self.bytes, self._done = 0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(SEEN):
            with open("/proc/self/status", encoding="ascii") as status:
                found = [int(line.split()[1]) for line in status if line.startswith("RssAnon")]
            self.bytes = max(self.bytes, 1024 * found[0])


def stream(
    path: str, lines: int, samples: int, out: str, count: int, runs: int = 1, pause: float = 0.0, keep: bool = False,
    core: int | None = None, coordinator: str | None = None, processes: int = 1, process: int = 0,
    devices: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """From file to files, several times; the last counts. It may be one of several processes."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    if devices is not None:
        os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    from unmix_jax import unmix_file
    from unmix_jax.sharding import start_processes

    if coordinator is not None:
        start_processes(coordinator, processes, process)
    scene, (unmixer, library) = scene_of(path, lines, samples), unmixer_of(count)
    found: dict[str, Any] = {}
    for run in range(runs):
        folder = Path(out) if keep else Path(out) / str(run)
        with Peak() as peak:
            begun, cpu = time.perf_counter(), time.process_time()
            record = unmix_file(
                scene, unmixer, folder, endmembers=library, progress=(lambda *_: time.sleep(pause)) if pause else None
            )
            found = {"s": time.perf_counter() - begun, "cpu_s": time.process_time() - cpu, "peak": peak.bytes}
        found |= {"timings": record["timings_s"], "plan": record["stream"], "converged": record["converged_share"]}
    return found


def memory(path: str, lines: int, samples: int, out: str, count: int, runs: int = 5) -> dict[str, Any]:
    """The driver on pixels in memory, and from file to files, in turns: seconds of each."""
    from unmix_jax import unmix, unmix_file

    scene, (unmixer, library) = scene_of(path, lines, samples), unmixer_of(count)
    pixels = np.array(scene.cube)
    found: dict[str, list[float]] = {"memory": [], "stream": []}
    for run in range(runs + 1):
        begun = time.perf_counter()
        unmix(unmixer, pixels)
        middle = time.perf_counter()
        unmix_file(scene, unmixer, Path(out) / str(run), endmembers=library)
        for name, spent in (("memory", middle - begun), ("stream", time.perf_counter() - middle)):
            found[name].append(spent)
    return {name: values[1:] for name, values in found.items()}


def read(path: str, lines: int, samples: int, interleave: str, runs: int = 5) -> dict[str, Any]:
    """Reading alone, beside `cat`, in turns: seconds of each."""
    import subprocess

    from unmix_jax.scenes.rows import Rows

    order = {"bip": (0, 1, 2), "bil": (0, 2, 1), "bsq": (1, 2, 0)}[interleave]
    shape = {"bip": (lines, samples, BANDS), "bil": (lines, BANDS, samples), "bsq": (BANDS, lines, samples)}[interleave]
    cube = np.memmap(path, np.float32, "r", shape=shape).transpose(order)
    strip = 6
    buffer = np.empty((strip * samples, BANDS), np.float32)
    found: dict[str, list[float]] = {"cat": [], "read": []}
    for _ in range(runs + 1):
        begun = time.perf_counter()
        with open(os.devnull, "wb") as sink:
            subprocess.run(["cat", path], stdout=sink, check=True)
        middle = time.perf_counter()
        with Rows(cube) as rows:
            for start in range(0, lines, strip):
                stop = min(start + strip, lines)
                rows.read(start, stop, buffer[: (stop - start) * samples])
        found["cat"].append(middle - begun)
        found["read"].append(time.perf_counter() - middle)
    return {name: values[1:] for name, values in found.items()}


def extract(path: str, lines: int, samples: int, count: int) -> dict[str, Any]:
    """How many endmembers, and which, of a scene that is never whole in memory."""
    import jax

    from unmix_jax import count_endmembers, nfindr, vca

    scene = scene_of(path, lines, samples)
    found: dict[str, Any] = {}
    for name, what in {
        "count": lambda: count_endmembers(scene),
        "vca": lambda: vca(jax.random.key(0), scene, count),
        "nfindr": lambda: nfindr(jax.random.key(0), scene, count, restarts=2),
    }.items():
        with Peak() as peak:
            begun = time.perf_counter()
            what()
            found[name] = {"s": time.perf_counter() - begun, "peak": peak.bytes}
    return found


def remove(path: str) -> dict[str, Any]:
    """Away with what was written."""
    shutil.rmtree(path, ignore_errors=True)
    return {}


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](**json.loads(sys.argv[2]))))
