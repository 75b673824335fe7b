"""Scenes of any size, from file to files: read, unmixed and written at once, in bounded memory.

A run goes on where it was stopped when it is called again: what is done is kept in ``unfinished/`` beside what will be
there, and moved in place at the end. See `store` for what is kept, `planning` for how large blocks are.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from unmix_jax import __version__, sharding
from unmix_jax.pipeline import Pipeline, explained
from unmix_jax.planning import Plan, plan_run
from unmix_jax.results import ARRAYS, RECORD, UNFINISHED, Finisher, check_folder, check_shade, erase, name_library
from unmix_jax.scenes.rows import Rows
from unmix_jax.scenes.scene import Scene, SpectralLibrary
from unmix_jax.store import Journal, Store, named, settle, write_json
from unmix_jax.types import Solution

__all__ = ["check_run", "unmix_file"]

RUN = "run.json"
LOCK = "lock"
SIZES = {"tile": "tile (pixels)", "strip": "strip (rows)", "block": "block (rows)"}
PLUMBING = (RUN, LOCK, RECORD)
FREE = ("scene", "out", "overwrite", "tile", "memory", "distributed", "coordinator", "processes", "process")  # options
SYNCED = 16  # files that are brought to the disk at once
SAMPLED = 16  # rows that tell one scene from another, beside size and date of its file


def unmix_file(
    scene: Scene,
    unmixer: Callable[..., Solution],
    out: str | Path,
    *,
    endmembers: SpectralLibrary,
    good_bands: Any = None,
    key: Any = None,
    tile: int | None = None,
    memory: float | None = None,
    devices: Sequence[Any] | None = None,
    maps: Sequence[str] = ("envi",),
    shade: str | None = None,
    config: Mapping[str, Any] | None = None,
    seed: int | None = None,
    timings: Mapping[str, float] | None = None,
    more: Mapping[str, Any] | Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
    finishing: Callable[[Path, Mapping[str, Any]], Any] | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int, float], None] | None = None,
) -> dict[str, Any]:
    """Unmix a scene into a folder, block of rows by block, in memory that does not grow with the scene.

    A run that was stopped, by whatever, goes on when this is called again with the same arguments, and ends with the
    same bytes (but for dates and times in the record). With several processes (`jax.distributed`) each unmixes blocks
    of its own; all must see the same folder.

    Args:
        scene: as `read_scene` opens it; its cube may stay in its file.
        unmixer: as in `unmix`.
        out: folder, absent, empty, or with an unfinished run of the same.
        endmembers: the spectra that are mixed, for the results.
        good_bands: as in `unmix`. Default: those of the scene.
        key: as in `unmix`.
        tile: pixels that a device computes at once; None: chosen by the device's memory.
        memory: bytes that the run may take; None: four fifths of what is free.
        devices: as in `unmix`.
        maps: images to write, ``envi``, ``geotiff`` or both, beside the Zarr group.
        shade: as in `write_results`.
        config: options, for the record; a run goes on only with the same.
        seed: as in `write_results`.
        timings: seconds of what was before, for the record.
        more: further entries of the record, or what makes them of its counts.
        finishing: called with the folder and the record before all is moved in place, to add files.
        overwrite: replace what is in the folder.
        progress: called as ``progress(pixels_done, pixels_in_all, share_of_these_not_converged)``, of several processes
            each of its own.

    Returns:
        The record of the run.

    Raises:
        ValueError: the folder holds another run, finished or not, or is in use; a tile that does not fit.
        OSError: the scene cannot be read, or the results cannot be written; what was done is kept.
    """
    out = Path(out)
    begun = time.perf_counter()
    check_shade(endmembers, shade)
    good_bands = scene.good_bands if good_bands is None else good_bands
    kept = {} if overwrite else _kept(out)
    sizes = {name: kept[of] for name, of in SIZES.items() if of in kept}
    plan, tiles = plan_run(
        scene, unmixer, memory=memory, devices=devices, key=key, good_bands=good_bands,
        **(sizes if tile is None else sizes | {"tile": tile}),
    )  # fmt: skip
    with explained(out, reading=True):
        wanted = _identity(scene, unmixer, endmembers, good_bands, key, plan, tuple(maps), shade, config)
    with _taken(out, wanted, plan, overwrite=overwrite) as folder:
        store = Store(folder / ARRAYS, named(tiles.shapes()), scene.shape, plan.block)
        if sharding.is_first() and not (folder / RUN).exists():
            name_library(store.create(), endmembers)
            write_json(folder / RUN, wanted)
        if sharding.is_first():
            settle(folder, store)
        sharding.meet("begun")
        journal = Journal(folder, store, sharding.number())
        before = len(journal.done)
        finisher = Finisher(folder, store, scene, endmembers, shade=shade, maps=maps) if sharding.is_first() else None
        try:
            stream = Pipeline(
                scene, tiles, plan, journal, out, keyed=key is not None, progress=progress,
                kept=None if finisher is None else finisher.add,
            )  # fmt: skip
            stream.run(sharding.own(plan.blocks))
            sharding.wait_for(journal.complete)
            record: dict[str, Any] = {}
            if finisher is not None:
                stages = {**(timings or {}), "unmix": time.perf_counter() - begun, **stream.spent}
                about = {**plan._asdict(), "blocks_found_done": before, "processes": sharding.count()}

                def entries(counts: Mapping[str, Any]) -> dict[str, Any]:
                    return {"stream": about, **((more(counts) if callable(more) else more) or {})}

                with explained(out, journal):
                    record = finisher.finish(config=config, timings=stages, seed=seed, more=entries)
                    if finishing is not None:
                        finishing(folder, record)
                    _put_in_place(folder, out)
        finally:
            journal.close()
            if finisher is not None:
                finisher.close()
        sharding.wait_for((out / RECORD).is_file)
        return record or json.loads((out / RECORD).read_text(encoding="utf-8"))


def _identity(
    scene: Scene, unmixer: Any, endmembers: SpectralLibrary, good_bands: Any, key: Any, plan: Plan,
    maps: tuple[str, ...], shade: str | None, config: Mapping[str, Any] | None,
) -> dict[str, Any]:  # fmt: skip
    """What a run is of: it goes on only with the same."""
    arrays, static = eqx.partition(unmixer, eqx.is_array)
    found = {
        **{f"option {name}": value for name, value in (config or {}).items() if name not in FREE},
        **_identity_of_scene(scene),
        "endmembers": _digest(endmembers.spectra),
        "method and its numbers": _digest(eqx.tree_pformat(static), *jax.tree.leaves(arrays)),
        "good bands": None if good_bands is None else _digest(good_bands),
        "mask": None if scene.mask is None else _digest(scene.mask),
        "no-data value": scene.nodata,
        "random key": None if key is None else _digest(_words(key)),
        **{of: getattr(plan, name) for name, of in SIZES.items()},
        "maps": list(maps),
        "shade": shade,
        "double precision": bool(jax.config.read("jax_enable_x64")),
        "device": jax.devices()[0].device_kind,
        "unmix_jax": __version__,
        "jax": jax.__version__,
    }
    return json.loads(json.dumps(found, default=str).replace("NaN", "null"))


def _identity_of_scene(scene: Scene) -> dict[str, Any]:
    """Shape, some rows, and the date of the file where there is one."""
    with Rows(scene.cube) as rows:
        at = np.unique(np.linspace(0, scene.shape[0] - 1, SAMPLED).astype(int))
        taken = np.empty((len(at), rows.row, scene.bands), scene.cube.dtype)
        for i, row in enumerate(at):
            rows.read(int(row), int(row) + 1, taken[i])
        found: dict[str, Any] = {"scene's shape": [*scene.shape, scene.bands], "scene's values": _digest(taken)}
        if rows.path is not None:
            told = rows.path.stat()
            found |= {"scene's file, bytes": told.st_size, "scene's file, modified (ns)": told.st_mtime_ns}
    return found


def _words(key: Any) -> Any:
    """The numbers of a random key."""
    return jax.random.key_data(key) if jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key) else key


def _digest(*parts: Any) -> str:
    """A hash of words and numbers."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part.encode() if isinstance(part, str) else np.ascontiguousarray(np.asarray(part)).tobytes())
    return found.hexdigest()[:16]


def check_run(out: str | Path, *, overwrite: bool = False) -> None:
    """Refuse a folder that `unmix_file` would refuse, but for an unfinished run of something else.

    Raises:
        ValueError: a file, or a folder that holds a finished run or something else.
    """
    out = Path(out)
    names = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if not _kept(out) and names != {UNFINISHED}:
        check_folder(out, overwrite=overwrite)


def _sync(path: Path) -> None:
    """Wait until a file is on the disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


@contextmanager
def _taken(out: Path, wanted: Mapping[str, Any], plan: Plan, *, overwrite: bool) -> Iterator[Path]:
    """The folder of what is unfinished, which no other run may use meanwhile; it is the same run, or a new one."""
    from filelock import FileLock, Timeout

    folder = out / UNFINISHED
    if not sharding.is_first():
        sharding.meet("taken")
        yield folder
        return
    fresh = overwrite or not _kept(out)
    check_run(out, overwrite=overwrite)
    with explained(out):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise ValueError(f"another run is writing to {str(out)!r}: wait for it, or choose another folder") from None
    try:
        if fresh:
            erase(out, keep=(UNFINISHED,))
            _clear(folder)
            free = shutil.disk_usage(folder).free
            if free < plan.output_bytes:
                need = f"the results take {plan.output_bytes / 2**20:.0f} MiB"
                raise OSError(f"{str(out)!r} has room for {free / 2**20:.0f} MiB, {need}")
        else:
            _same(out, _kept(out), wanted)
            if (out / ARRAYS).is_dir() and not (folder / ARRAYS).exists():
                os.replace(out / ARRAYS, folder / ARRAYS)  # it was stopped while it put things in place
        sharding.meet("taken")
        yield folder
    finally:
        finished = (out / RECORD).is_file()
        if finished:
            _clear(folder)
        lock.release()
        if finished:
            with suppress(OSError):
                (folder / LOCK).unlink()
                folder.rmdir()


def _kept(out: Path) -> dict[str, Any]:
    """What an unfinished run is of, if there is one."""
    try:
        found = json.loads((out / UNFINISHED / RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _clear(folder: Path) -> None:
    """Away with everything in it but the lock."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def _same(out: Path, kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse to go on with something else, and say what is different."""
    changed = [
        f"{name} was {kept.get(name)!r} and is {wanted.get(name)!r}"
        for name in dict.fromkeys((*kept, *wanted))
        if kept.get(name) != wanted.get(name)
    ]
    if changed:
        raise ValueError(
            f"{str(out)!r} holds an unfinished run of something else: {'; '.join(changed)}. "
            "Choose another folder, or start anew (--overwrite)"
        )


def _put_in_place(folder: Path, out: Path) -> None:
    """Move what is finished to where it belongs, the record last, once everything is on the disk."""
    with ThreadPoolExecutor(SYNCED) as pool:
        list(pool.map(_sync, (path for path in folder.rglob("*") if path.is_file())))
    names = [path.name for path in folder.iterdir() if path.name not in PLUMBING and path.suffix != ".jsonl"]
    for name in [*names, RECORD]:
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        os.replace(folder / name, out / name)
