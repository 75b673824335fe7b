"""What every experiment shares: its command line, its record, pieces of long runs, and a stopwatch.

An experiment is one file with a frozen dataclass of options and one function:

    @dataclass(frozen=True)
    class Config:
        seeds: int = 25

    def run(config: Config) -> tuple[dict[str, float], Figure | None]:
        ...

    if __name__ == "__main__":
        main(run, Config(), quick=Config(seeds=2))

`python experiments/NAME.py [--quick] [--out FILE.json] [--seeds 10]` runs it, prints the metrics and
writes one JSON record, with the figure as a PNG beside it.
"""

import argparse
import hashlib
import inspect
import json
import math
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from memory import forget_programs

__all__ = ["RESULTS", "Partial", "Timing", "environment", "main", "measure", "one_core"]

RESULTS = Path(__file__).parent / "results"


def main(
    run: Callable[[Any], tuple[Mapping[str, Any], Any]],
    full: Any,
    *,
    quick: Any,
    argv: Sequence[str] | None = None,
    results: Path = RESULTS,
) -> dict[str, Any]:
    """Parse the command line, run the experiment, print its metrics and write its record.

    Args:
        run: from a config to metrics (a flat mapping, name to number) and a matplotlib figure, several by what is
            added to the name of their file, or None.
        full: config of the full run, a frozen dataclass; every field becomes an option.
        quick: config of the smoke test in seconds, which `--quick` chooses.
        argv: the command line; None takes the one of the process.
        results: folder of the records.

    Returns:
        The record that was written: name, command, config, environment, metrics.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    name = _name_of(run)
    parser = _parser(run, full)
    options = vars(parser.parse_args(argv))
    is_quick, is_fresh, out = options.pop("quick"), options.pop("fresh"), options.pop("out")
    config = replace(quick if is_quick else full, **options)
    committed = results / f"{name}.json"
    out = out or (results / f"{name}.quick.json" if is_quick else committed)
    if is_quick and out.resolve() == committed.resolve():
        parser.error(f"a quick run may not replace the full run in {out.name}: name another --out")
    pieces = Partial(run, config, folder=results / ".cache")
    if is_fresh:
        pieces.discard()

    metrics, figure = run(config)
    metrics = {key: _number(key, value) for key, value in metrics.items()}
    record = {
        "name": name,
        "command": shlex.join(["python", f"experiments/{name}.py", *argv]),
        "config": asdict(config),
        "environment": environment(),
        "metrics": metrics,
    }
    _write_json(out, record)
    figures = figure if isinstance(figure, Mapping) else {"": figure}
    for end, image in figures.items():
        if image is not None:
            image.savefig(out.with_name(f"{out.stem}{end}.png"), dpi=150, bbox_inches="tight")
    pieces.discard()
    _show(name, metrics)
    print(f"written: {out}")
    return record


class Partial:
    """Finished pieces of a long run, kept on disk as they come, so that a run that was stopped resumes.

        pieces = Partial(run, config)
        rmse = [pieces.get(f"seed {s}", lambda s=s: one_seed(s)) for s in range(config.seeds)]

    The pieces belong to one experiment, one config and one version of the package; `main` deletes them once
    the record is written, and `--fresh` before the run.
    """

    def __init__(self, run: Callable[..., Any], config: Any, *, folder: Path = RESULTS / ".cache") -> None:
        """Take up the pieces of an earlier run of the same config, where there are any."""
        key = json.dumps([asdict(config), _version("unmix-jax")], sort_keys=True)
        digest = hashlib.sha256(key.encode()).hexdigest()[:12]
        self.path = folder / f"{_name_of(run)}.{digest}.json"
        self.pieces: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else {}

    def get(self, key: str, compute: Callable[[], Any]) -> Any:
        """The piece of this name; computed and written to disk first where it is missing."""
        if key not in self.pieces:
            self.pieces[key] = compute()
            _write_json(self.path, self.pieces)
            forget_programs()
        return self.pieces[key]

    def beside(self, name: str) -> Path:
        """A file in which a piece may keep its own state; it goes when the pieces go."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self.path.with_suffix(f".{name}")

    def discard(self) -> None:
        """Forget all pieces."""
        self.pieces = {}
        for kept in self.path.parent.glob(f"{self.path.stem}.*"):
            kept.unlink()


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: medians over the repetitions, and the first call (compilation included)."""

    cpu: float
    wall: float
    first: float


def measure(contenders: Mapping[str, Callable[[], Any]], *, repetitions: int = 5) -> dict[str, Timing]:
    """CPU and wall time of several functions, in turns, so that a busy machine slows all of them alike.

    CPU time is that of all threads of this process; results on a device are waited for. The first call of
    each is kept out of the medians.
    """
    first = {name: _stopwatch(function)[1] for name, function in contenders.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for _ in range(repetitions):
        for name, function in contenders.items():
            times[name].append(_stopwatch(function))
    medians = {n: [statistics.median(column) for column in zip(*t, strict=True)] for n, t in times.items()}
    return {name: Timing(cpu, wall, first[name]) for name, (cpu, wall) in medians.items()}


def one_core() -> None:
    """Start this program again on a single core, where the system allows it.

    Threads that share a physical core count each other's waiting as CPU time; one core has none.
    """
    if hasattr(os, "sched_setaffinity") and len(os.sched_getaffinity(0)) > 1:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        os.execv(sys.executable, [sys.executable, *sys.argv])


def environment() -> dict[str, Any]:
    """What a number was measured on: versions, device, processor, date (UTC)."""
    import jax

    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        **{package: _version(package) for package in ("jax", "numpy", "scipy", "equinox", "unmix-jax")},
        "device": f"{device.platform}: {device.device_kind}",
        "devices": jax.device_count(),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "platform": platform.platform(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _name_of(run: Callable[..., Any]) -> str:
    """The experiment's name: its file's, without the suffix."""
    return Path(inspect.getfile(inspect.unwrap(run))).stem


def _parser(run: Callable[..., Any], full: Any) -> argparse.ArgumentParser:
    """The command line of an experiment, one option per field of its config."""
    module = inspect.getmodule(run)
    parser = argparse.ArgumentParser(
        description=module.__doc__ if module else None, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="the JSON record to write; the PNG goes beside it")
    parser.add_argument("--quick", action="store_true", help="smoke test in seconds; claims no figure")
    parser.add_argument("--fresh", action="store_true", help="do not resume a run that was stopped")
    hints = get_type_hints(type(full))
    for field in fields(full):
        flag, default = "--" + field.name.replace("_", "-"), getattr(full, field.name)
        options: dict[str, Any] = {"dest": field.name, "default": argparse.SUPPRESS}
        hint = hints[field.name]
        if hint is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif get_origin(hint) is tuple and get_args(hint)[1:] == (Ellipsis,):
            options |= {"nargs": "*", "type": get_args(hint)[0], "action": _Tuple}
        elif hint in (int, float, str):
            options["type"] = hint
        else:
            raise TypeError(f"option {field.name} is {hint}; use bool, int, float, str or tuple[int, ...]")
        parser.add_argument(flag, help=f"default {default!r}", **options)
    return parser


class _Tuple(argparse.Action):
    """Several values of an option, as a tuple (a frozen config is hashable)."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        setattr(namespace, self.dest, tuple(values))


def _stopwatch(function: Callable[[], Any]) -> tuple[float, float]:
    """CPU and wall seconds of one call."""
    import jax

    cpu, wall = time.process_time(), time.perf_counter()
    jax.block_until_ready(function())
    return time.process_time() - cpu, time.perf_counter() - wall


def _number(key: str, value: Any) -> float | int | None:
    """A metric as JSON carries it: a number, or null where it is not finite."""
    value = value.item() if hasattr(value, "item") else value
    if not isinstance(value, int | float):
        raise TypeError(f"metric {key!r} must be a number, got {type(value).__name__}")
    return value if math.isfinite(value) else None


def _write_json(path: Path, content: Any) -> None:
    """Write a whole file or none, even if the process is stopped meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    draft.replace(path)


def _show(name: str, metrics: Mapping[str, Any]) -> None:
    """Print the metrics as a table, then as JSON lines."""
    width = max(map(len, metrics), default=0)
    for key, value in metrics.items():
        print(f"{key:<{width}}  {'-' if value is None else format(value, '.6g')}")
    for key, value in metrics.items():
        print(json.dumps({"name": name, "metric": key, "value": value}))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    """The processor's name, as the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
