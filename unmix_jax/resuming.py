"""The folder of a run that may be stopped: whose it is, what is in it, and when it is finished."""

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from unmix_jax import __version__
from unmix_jax.pipeline import explained
from unmix_jax.planning import Plan
from unmix_jax.results import ARRAYS, RECORD, UNFINISHED, check_folder, erase
from unmix_jax.scenes.lazy import LazyCube
from unmix_jax.scenes.rows import Rows
from unmix_jax.scenes.scene import Scene, SpectralLibrary
from unmix_jax.store import LOCK, claim, sync

__all__ = [
    "RUN",
    "SIZES",
    "Folder",
    "check_run",
    "differences",
    "identity",
    "kept_run",
    "put_in_place",
    "same",
    "taken",
]

RUN = "run.json"
SIZES = {"tile": "tile (pixels)", "strip": "strip (rows)", "block": "block (rows)"}
FREE = ("scene", "out", "overwrite", "tile", "memory", "distributed", "coordinator", "processes", "process")  # options
SYNCED = 16  # files that are brought to the disk at once
SAMPLED = 16  # rows that tell one scene from another, beside size and date of its file


class Folder:
    """What is unfinished.

    Attributes:
        path: of the folder.
        finished: whether all of it is in place.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.finished = path, False


def identity(
    scene: Scene, unmixer: Any, endmembers: SpectralLibrary, good_bands: Any, key: Any, plan: Plan,
    maps: tuple[str, ...], shade: str | None, config: Mapping[str, Any] | None, ortho: bool = False,
    arrays: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What a run is of: it goes on only with the same."""
    numbers, static = eqx.partition(unmixer, eqx.is_array)
    found = {
        **{f"option {name}": value for name, value in (config or {}).items() if name not in FREE},
        **_identity_of_scene(scene),
        "endmembers": _digest(endmembers.spectra),
        "method and its numbers": _digest(eqx.tree_pformat(static), *jax.tree.leaves(numbers)),
        "good bands": None if good_bands is None else _digest(good_bands),
        "mask": None if scene.mask is None else _digest(scene.mask),
        "no-data value": scene.nodata,
        "random key": None if key is None else _digest(_words(key)),
        **{of: getattr(plan, name) for name, of in SIZES.items()},
        "maps": list(maps),
        "results": sorted(arrays or ()),  # another version of a method may return more of them
        "maps on a grid (ortho)": ortho,
        "shade": shade,
        "double precision": bool(jax.config.read("jax_enable_x64")),
        "device": jax.devices()[0].device_kind,
        "unmix_jax": __version__,
        "jax": jax.__version__,
    }
    return json.loads(json.dumps(found, default=str), parse_constant=str)  # NaN as a word, which equals itself


def _identity_of_scene(scene: Scene) -> dict[str, Any]:
    """Shape, values (of files some rows), and the date of the file where it is known."""
    cube = scene.cube
    with Rows(cube) as rows:
        whole = isinstance(cube, np.ndarray) and rows.path is None
        at = range(scene.shape[0]) if whole else np.unique(np.linspace(0, scene.shape[0] - 1, SAMPLED).astype(int))
        taken, total = np.empty((rows.row, scene.bands), cube.dtype), 0
        for row in at:
            rows.read(int(row), int(row) + 1, taken)
            total = zlib.crc32(taken.data, total)
        found: dict[str, Any] = {"scene's shape": [*scene.shape, scene.bands], "scene's values": total}
        if isinstance(cube, LazyCube):
            found["scene's scale, offset and no-data value"] = cube.meaning
        if (path := rows.path or rows.origin) is not None:
            told = path.stat()
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


def kept_run(out: Path) -> dict[str, Any]:
    """What an unfinished run is of, if there is one."""
    try:
        found = json.loads((out / UNFINISHED / RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def differences(kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What is not the same in two runs, in words."""
    return [
        f"{name} was {kept.get(name)!r} and is {wanted.get(name)!r}"
        for name in dict.fromkeys((*kept, *wanted))
        if kept.get(name) != wanted.get(name)
    ]


def same(out: Path, kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse to go on with something else, and say what is different."""
    if changed := differences(kept, wanted):
        raise ValueError(
            f"{str(out)!r} holds an unfinished run of something else: {'; '.join(changed)}. "
            "Choose another folder, or start anew (--overwrite)"
        )


def check_run(out: str | Path, *, overwrite: bool = False) -> None:
    """Refuse a folder that `unmix_file` would refuse, but for an unfinished run of something else.

    Raises:
        ValueError: a file, or a folder that holds a finished run or something else.
    """
    out = Path(out)
    names = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if not kept_run(out) and names != {UNFINISHED}:
        check_folder(out, overwrite=overwrite)


@contextmanager
def taken(out: Path, wanted: Mapping[str, Any], plan: Plan, *, kept: Any, overwrite: bool) -> Iterator[Folder]:
    """The folder of what is unfinished, which no other run may use meanwhile: the run that is kept, or a new one."""
    folder = Folder(out / UNFINISHED)
    check_run(out, overwrite=overwrite)
    with explained(out):
        folder.path.mkdir(parents=True, exist_ok=True)
        lock = claim(out)
    try:
        if not kept:
            if kept_run(out) and not overwrite:
                raise ValueError(f"another run has begun in {str(out)!r} meanwhile: give the command again")
            erase(out, keep=(UNFINISHED,))
            _clear(folder.path)
            free = shutil.disk_usage(folder.path).free
            if free < plan.output_bytes:
                need = f"the results take {plan.output_bytes / 2**20:.0f} MiB"
                raise OSError(f"{str(out)!r} has room for {free / 2**20:.0f} MiB, {need}")
        else:
            same(out, kept_run(out), wanted)
            if (out / RECORD).is_file():  # it was stopped while it cleared up
                folder.finished = True
            elif (out / ARRAYS).is_dir() and not (folder.path / ARRAYS).exists():
                os.replace(out / ARRAYS, folder.path / ARRAYS)  # it was stopped while it put things in place
        yield folder
    finally:
        if folder.finished:
            _clear(folder.path)
        lock.release()
        if folder.finished:
            with suppress(OSError):
                (folder.path / LOCK).unlink(missing_ok=True)
                folder.path.rmdir()


def _clear(folder: Path) -> None:
    """Away with everything in it but the lock; first with what says that something is unfinished."""
    (folder / RUN).unlink(missing_ok=True)
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def put_in_place(folder: Folder, out: Path) -> None:
    """Move what is finished to where it belongs, the record last, once everything is on the disk."""
    with ThreadPoolExecutor(SYNCED) as pool:
        list(pool.map(sync, (path for path in folder.path.rglob("*") if path.is_file())))
    plumbing = {RUN, LOCK, RECORD, *(path.name for kind in ("*.jsonl", "failed-*") for path in folder.path.glob(kind))}
    names = {path.name for path in folder.path.iterdir()} - plumbing
    for name in [*sorted(names), RECORD]:
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        os.replace(folder.path / name, out / name)
    folder.finished = True
