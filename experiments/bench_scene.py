"""A whole scene from file to files: how fast, in how much memory, and whatever happens to it meanwhile.

    python experiments/bench_scene.py [--folder FOLDER]

Six minutes on two cores, and 12 GB of disk in the folder (by default one for temporary files), which are given back.
Two scenes, band interleaved by pixel, float32: 1280 lines of 1242 samples in 285 bands, the size of EMIT's, and four
times as many lines. FCLS by ten endmembers, unless said otherwise. Files are in the page cache, where they fit.

- `pixels_per_s`: end to end on the larger scene, maps and record included, without compilation; `emit_r6_s`, `emit_s`:
  seconds for the smaller scene with six and with ten endmembers;
- `share_of_in_memory_rate`: of the driver's rate on the same pixels in memory, median of runs in turns;
- `read_share_of_cat`: rate of reading alone over that of `cat FILE > /dev/null`, in turns; `_bil`, `_bsq`: of files in
  another interleave, which are turned;
- `reading_share`, `solving_share`, `writing_share`: time that each thread was busy over the whole (they overlap);
- `peak_anonymous_gib_small`, `_large`: most anonymous memory of the process in streaming, pages of mapped files apart;
  `extract_peak_anonymous_gib`: likewise in HySime, HFC, VCA and N-FINDR on the larger scene;
- `processes2_speedup`: two processes of one core each over one process of one core, without compilation;
- `devices2_speedup`: two forced host devices over one, which share the same two cores;
- `kills_survived`: SIGKILLs at random moments of one run that goes on after each (paced by a pause after each block, so
  that so many fit), if the bytes are those of a run that is not killed; otherwise zero;
- on a device with memory of its own: `<method>_pixels_per_s` of FCLS, PPNM and synthesis with the scene on the device,
  float32, and `_bandwidth_share`: bytes of the pixels per second over those of summing them up.

Without Zarr, as on a machine that has JAX and little else, only the last is measured.

Wanted: share of the rate in memory 0.6 (aim 0.8); `emit_r6_s` 1.5 (aim 0.5); `read_share_of_cat` 0.5; both peaks at
most 1.5 and equal within 10 %; 20 kills; speed-up of two processes reported (aim 1.7 on idle cores).

Expected: 1.6 million pixels a second; the smaller scene in 1.1 s, with six endmembers in 0.7 (the aim of 0.5 is missed:
half of a second is computing, the rest the file system and Python); 0.81 of the rate in memory; reading 1.1 times as
fast as `cat`, 0.34 and 0.15 where the file has to be turned; 0.32 GiB in both streams, 0.9 in finding endmembers; 20
kills; 1.7 by two processes, nothing by two devices that share the cores.
"""

import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from common import main
from scene_runs import endmembers

GIB = 2**30
SCRIPT = Path(__file__).with_name("scene_runs.py")


@dataclass(frozen=True)
class Config:
    """Lines, samples and how many times the lines the larger scene has; endmembers; runs that are timed; kills.

    Pause after each block of the run that is killed, seconds; and where scenes and results are kept meanwhile.
    """

    lines: int = 1280
    samples: int = 1242
    times: int = 4
    count: int = 10
    runs: int = 5
    kills: int = 20
    pause: float = 0.1
    folder: str = ""
    seed: int = 0


def child(what: str, *, wait: bool = True, **options: Any) -> Any:
    """A process of `scene_runs`; what it measured, or the process."""
    command = [sys.executable, str(SCRIPT), what, json.dumps(options)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return answer(process) if wait else process


def answer(process: Any) -> Any:
    """What a process printed."""
    out, told = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{process.args} ended with {process.returncode}: {told}")
    return json.loads(out.splitlines()[-1])


def run(config: Config) -> tuple[dict[str, float], Any]:
    """Everything that this machine can do."""
    metrics = on_device(config)
    if find_spec("zarr") is None:
        return metrics, None
    with tempfile.TemporaryDirectory(dir=config.folder or None) as kept:
        folder = Path(kept)
        small = {"path": str(folder / "small"), "lines": config.lines, "samples": config.samples}
        large = {"path": str(folder / "large"), "lines": config.times * config.lines, "samples": config.samples}
        for scene in (small, large):
            child("write", **scene, count=config.count)
        metrics |= streamed(config, folder, small, large)
        metrics |= readings(config, small)
        metrics |= processes(config, folder, large)
        metrics["kills_survived"] = killed(config, folder, small)
    return metrics, draw(metrics)


def streamed(config: Config, folder: Path, small: dict[str, Any], large: dict[str, Any]) -> dict[str, float]:
    """Rates, memory, and what is done meanwhile."""
    common = {"count": config.count, "runs": config.runs}
    metrics: dict[str, float] = {}
    for name, scene in (("small", small), ("large", large)):
        found = child("stream", **scene, out=str(folder / f"out {name}"), count=config.count, runs=2)
        metrics[f"peak_anonymous_gib_{name}"] = found["peak"] / GIB
        spent = found["timings"]
        if name == "large":
            metrics["pixels_per_s"] = scene["lines"] * scene["samples"] / found["s"]
            for part, busy in (("reading", "read"), ("solving", "solve"), ("writing", "write")):
                metrics[f"{part}_share"] = spent[busy] / found["s"]
    turns = child("memory", **small, out=str(folder / "out turns"), **common)
    metrics["emit_s"] = float(np.median(turns["stream"]))
    metrics["share_of_in_memory_rate"] = float(np.median(turns["memory"]) / metrics["emit_s"])
    six = child("memory", **small, out=str(folder / "out six"), **{**common, "count": 6})
    metrics["emit_r6_s"] = float(np.median(six["stream"]))
    metrics["share_of_in_memory_rate_r6"] = float(np.median(six["memory"]) / metrics["emit_r6_s"])
    found = child("extract", **large, count=config.count)
    metrics["extract_peak_anonymous_gib"] = max(of["peak"] for of in found.values()) / GIB
    metrics |= {f"{name}_s": of["s"] for name, of in found.items()}
    for name in ("small", "large", "turns", "six"):
        child("remove", path=str(folder / f"out {name}"))
    return metrics


def readings(config: Config, small: dict[str, Any]) -> dict[str, float]:
    """Reading alone; the same bytes stand for files of each interleave."""
    metrics = {}
    for interleave, end in (("bip", ""), ("bil", "_bil"), ("bsq", "_bsq")):
        found = child("read", **small, interleave=interleave, runs=config.runs)
        metrics[f"read_share_of_cat{end}"] = float(np.median(found["cat"]) / np.median(found["read"]))
    return metrics


def processes(config: Config, folder: Path, large: dict[str, Any]) -> dict[str, float]:
    """One process and two, each with one core; and two devices."""
    common = {"count": config.count, "runs": 3, **large}
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{found.getsockname()[1]}"
    cores = sorted(os.sched_getaffinity(0))
    alone = child("stream", **common, out=str(folder / "out one"), core=cores[0])
    pair = [
        child(
            "stream", wait=False, **common, out=str(folder / "out two"), core=cores[i % len(cores)],
            coordinator=address, processes=2, process=i,
        )
        for i in range(2)
    ]  # fmt: skip
    both = [answer(process) for process in pair]
    devices = [child("stream", **common, out=str(folder / f"out d{n}"), devices=n) for n in (1, 2)]
    for name in ("one", "two", "d1", "d2"):
        child("remove", path=str(folder / f"out {name}"))
    return {
        "process1_s": alone["s"],
        "processes2_s": both[0]["s"],
        "processes2_speedup": alone["s"] / both[0]["s"],
        "devices2_speedup": devices[0]["s"] / devices[1]["s"],
    }


def killed(config: Config, folder: Path, small: dict[str, Any]) -> float:
    """How many kills a run stood, if it ended with the bytes of one that was not killed."""
    common = {"count": config.count, **small, "keep": True}
    child("stream", **common, out=str(folder / "whole"))
    rng, kills, out = random.Random(config.seed), 0, folder / "killed"
    while kills < config.kills:
        process = child("stream", wait=False, **common, out=str(out), pause=config.pause)
        while process.poll() is None and not (out / "unfinished" / "run.json").exists():
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 5 * config.pause) + (2.5 if kills else 0))  # when it goes on it has to begin first
        if process.poll() is not None:  # it was finished before its time
            break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
    child("stream", **common, out=str(out)) if not (out / "record.json").exists() else None
    same = hashes(out) == hashes(folder / "whole")
    return float(kills) if same else 0.0


def hashes(folder: Path) -> dict[str, str]:
    """Of all files but the record, which holds dates and times."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "record.json"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def on_device(config: Config) -> dict[str, float]:
    """Three methods on a scene in the memory of a device, if that has its own."""
    import jax

    if jax.devices()[0].platform == "cpu":
        return {}
    import equinox as eqx
    import jax.numpy as jnp

    from unmix_jax import PPNM, ScaleSlopeShift, fcls, invert, map_synthesis, prepare, prepare_inversion
    from unmix_jax import prepare_synthesis as prepare_varied

    spectra = endmembers(config.count)
    rng = np.random.default_rng(config.seed)
    drawn = rng.dirichlet(np.ones(config.count), config.samples * config.lines).astype(np.float32)
    pixels = jnp.asarray(drawn) @ jnp.asarray(spectra)
    few = prepare_varied(ScaleSlopeShift(spectra, scale=0.1, slope=0.05), noise=0.003)
    methods = {
        "fcls": (eqx.Partial(fcls, endmembers=prepare(spectra)), 1),
        "ppnm": (eqx.Partial(invert, endmembers=prepare_inversion(spectra[:3], PPNM(jnp.asarray(0.0)))), 4),
        "synthesis": (eqx.Partial(map_synthesis, endmembers=few), 100),
    }
    floor = timed(jax.jit(jnp.sum), pixels)
    metrics = {"device_read_gb_per_s": pixels.nbytes / floor / 1e9}
    for name, (unmixer, part) in methods.items():
        some = pixels[: len(pixels) // part]
        spent = timed(eqx.filter_jit(lambda y, of=unmixer: jax.vmap(of)(y).abundances), some)
        metrics[f"{name}_pixels_per_s"] = len(some) / spent
        metrics[f"{name}_bandwidth_share"] = some.nbytes / spent / (pixels.nbytes / floor)
    return metrics


def timed(function: Any, pixels: Any) -> float:
    """Least of some repetitions, seconds."""
    import jax

    jax.block_until_ready(function(pixels))
    spent = []
    for _ in range(5):
        begun = time.perf_counter()
        jax.block_until_ready(function(pixels))
        spent.append(time.perf_counter() - begun)
    return min(spent)


def draw(metrics: dict[str, float]) -> Any:
    """Where the time goes, and rates of reading."""
    from matplotlib.figure import Figure

    image = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = image.subplots(1, 2)
    parts = ("reading", "solving", "writing")
    left.bar(parts, [metrics[f"{part}_share"] for part in parts])
    left.set(ylabel="busy, share of the whole", title=f"{metrics['pixels_per_s'] / 1e6:.2f} Mpx/s, FCLS")
    ends = {"bip": "", "bil": "_bil", "bsq": "_bsq"}
    right.bar(list(ends), [metrics[f"read_share_of_cat{end}"] for end in ends.values()])
    right.axhline(0.5, color="k", lw=1)
    right.set(ylabel="rate of reading over cat", xlabel="interleave")
    return image


if __name__ == "__main__":
    main(run, Config(), quick=Config(lines=64, samples=50, times=2, count=4, runs=1, kills=2))
