"""Several devices, and several processes on one scene.

JAX's own engine tells processes who is who, and lets them wait for each other.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

__all__ = ["count", "default_devices", "is_first", "meet", "number", "own", "start_processes", "wait_for"]

PAUSE = 0.2  # seconds between two looks
MOST = 24 * 3600  # seconds that a process waits for the others to begin
FAILED = "failed-"
_met: list[str] = []  # barriers so far: all processes meet at the same ones


def default_devices() -> list[Any]:
    """All devices of this process of the kind that JAX takes by default, or the one that it was told to take."""
    told = jax.config.jax_default_device  # type: ignore[attr-defined]
    return jax.local_devices(backend=told) if told is None or isinstance(told, str) else [told]


def start_processes(
    coordinator: str | None = None, count: int | None = None, number: int | None = None, *, timeout: int = 60
) -> None:
    """Join the other processes of a run; the first call of JAX in a process.

    Args:
        coordinator: address and port of the first process, such as ``10.0.0.1:9000``; None: as the launcher says
            (SLURM, Open MPI, Kubernetes, a pod).
        count: how many processes there are.
        number: of this one, from zero.
        timeout: seconds without a sign of life after which a process counts as lost, which ends the others.
    """
    options: dict[str, Any] = {"coordinator_address": coordinator, "num_processes": count, "process_id": number}
    jax.distributed.initialize(
        **{name: value for name, value in options.items() if value is not None},
        heartbeat_timeout_seconds=timeout,
        shutdown_timeout_seconds=timeout,
    )


def number() -> int:
    """Number of this process."""
    return jax.process_index()


def count() -> int:
    """How many processes there are."""
    return jax.process_count()


def is_first() -> bool:
    """Whether this process does what is done once."""
    return number() == 0


def own(blocks: int) -> range:
    """Blocks of this process: a run of neighbours."""
    return range(blocks * number() // count(), blocks * (number() + 1) // count())


def meet(what: str) -> None:
    """Wait until every process is here; nothing where there is one.

    Raises:
        RuntimeError: a process was lost.
    """
    if count() == 1:
        return
    _met.append(what)
    try:
        from jax._src.distributed import global_state  # the engine's own barrier: it may wait for hours

        client: Any = global_state.client
        client.wait_at_barrier(f"unmix_jax {len(_met)} {what}", timeout_in_ms=MOST * 1000)
    except Exception as error:
        raise RuntimeError(
            f"a process of this run was lost ({error}): what was done is kept, the same command goes on from there"
        ) from error


def wait_for(condition: Callable[[], bool], folder: Path) -> None:
    """Look again and again until something holds that other processes do; nothing where there is one.

    Args:
        condition: what is waited for.
        folder: where a process that fails says so. If one is lost without a word, JAX ends this one.

    Raises:
        RuntimeError: a process failed.
    """
    while count() > 1 and not condition():
        if failed := sorted(path.name.removeprefix(FAILED) for path in folder.glob(f"{FAILED}*")):
            raise RuntimeError(
                f"process {', '.join(failed)} of this run failed and says why: what was done is kept, the same command "
                "goes on from there"
            )
        time.sleep(PAUSE)
