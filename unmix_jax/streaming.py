"""Scenes of any size, from file to files: read, unmixed and written at once, in bounded memory.

A run goes on where it was stopped when it is called again: what is done is kept in ``unfinished/`` beside what will be
there, and moved in place at the end. See `resuming` for when it does, `store` for what is kept, `planning` for sizes.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from unmix_jax import sharding
from unmix_jax.pipeline import Pipeline, explained
from unmix_jax.planning import Plan, plan_run
from unmix_jax.results import ARRAYS, RECORD, UNFINISHED, Finisher, check_shade, keep_endmembers
from unmix_jax.resuming import RUN, SIZES, Folder, differences, identity, kept_run, put_in_place, same, taken
from unmix_jax.scenes.nodata import warn_of_fill
from unmix_jax.scenes.ortho import check_ortho, ortho_shape
from unmix_jax.scenes.scene import Scene, SpectralLibrary
from unmix_jax.scenes.units import missing
from unmix_jax.store import Journal, Store, named, settle, sync, write_json
from unmix_jax.tiles import Tiles
from unmix_jax.types import Solution

__all__ = ["unmix_file"]


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
    ortho: bool = False,
    shade: str | None = None,
    config: Mapping[str, Any] | None = None,
    seed: int | None = None,
    timings: Mapping[str, float] | None = None,
    more: Mapping[str, Any] | Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
    finishing: Callable[[Path, Mapping[str, Any]], Any] | None = None,
    overwrite: bool = False,
    planning: Callable[[Plan], Any] | None = None,
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
        ortho: write these images on the grid of the scene's table (GLT), as `write_results` does; the Zarr group stays
            in the geometry of the swath.
        shade: as in `write_results`.
        config: options, for the record; a run goes on only with the same.
        seed: as in `write_results`.
        timings: seconds of what was before, for the record.
        more: further entries of the record, or what makes them of its counts.
        finishing: called with the folder and the record before all is moved in place, to add files.
        overwrite: replace what is in the folder, but go on with an unfinished run of the same.
        planning: called with the sizes and the memory of the run before it begins.
        progress: called as ``progress(pixels_done, pixels_in_all, share_of_these_not_converged)``, of several processes
            each of its own.

    Returns:
        The record of the run.

    Raises:
        ValueError: the folder holds another run, finished or not, or is in use; a tile that does not fit; ``ortho`` for
            a scene without a table, or with one that does not fit.
        OSError: the scene cannot be read, or the results cannot be written; what was done is kept.
    """
    out, first = Path(out), sharding.is_first()
    begun = time.perf_counter()
    good_bands = scene.good_bands if good_bands is None else good_bands
    _check(scene, endmembers, good_bands, shade, maps, ortho)
    if scene.suspected_nodata is None:  # else its reader has warned
        warn_of_fill(scene.cube, scene.nodata, good_bands, stacklevel=2)
    images = len(maps) * (-(-math.prod(ortho_shape(scene)) // math.prod(scene.shape)) if ortho else 1)
    with _told(out / UNFINISHED):
        if not first:
            sharding.meet("begun")  # the first process says what the run is of, and how large its blocks are
            if (out / RECORD).is_file():
                return json.loads((out / RECORD).read_text(encoding="utf-8"))

        def planned(kept: Mapping[str, Any]) -> tuple[Plan, Tiles, dict[str, Any]]:
            sizes = {name: kept[of] for name, of in SIZES.items() if of in kept}
            given = sizes if tile is None else sizes | {"tile": tile}
            options = {"memory": memory, "devices": devices, "key": key, "good_bands": good_bands}
            try:
                plan, tiles = plan_run(scene, unmixer, maps=images, **given, **options)
            except ValueError as error:
                if tile is None and sizes:
                    raise ValueError(
                        f"{error}; so large are those of the unfinished run in {str(out)!r}: give it more memory, or "
                        "start in another folder"
                    ) from error
                raise
            found = tiles.shapes().abundances.shape
            if found != (len(endmembers),):
                raise ValueError(
                    f"the unmixer returns abundances of shape {found}, there are {len(endmembers)} endmembers"
                )
            with explained(out, reading=True):
                about = tuple(maps), shade, config, ortho, named(tiles.shapes())
                return plan, tiles, identity(scene, unmixer, endmembers, good_bands, key, plan, *about)

        kept = kept_run(out)
        if first and overwrite and kept:
            with suppress(ValueError):  # sizes that do not fit now
                plan, tiles, wanted = planned(kept)
                kept = {} if differences(kept, wanted) else kept
        plan, tiles, wanted = planned(kept)
        if not first:
            same(out, kept, wanted)
        if planning is not None:
            planning(plan)
        alone = nullcontext(Folder(out / UNFINISHED))
        with taken(out, wanted, plan, kept=kept, overwrite=overwrite) if first else alone as folder:
            if folder.finished:
                sharding.meet("begun")
                return json.loads((out / RECORD).read_text(encoding="utf-8"))
            store = Store(folder.path / ARRAYS, named(tiles.shapes()), scene.shape, plan.block)
            if first:
                with explained(out):
                    if not kept:
                        keep_endmembers(store.create(), endmembers)
                        for path in store.path.rglob("*.json"):
                            sync(path)
                        write_json(folder.path / RUN, wanted)
                    settle(folder.path, store)
                sharding.meet("begun")
            journal = Journal(folder.path, store, sharding.number())
            before = len(journal.done)
            finisher = None
            if first:
                finisher = Finisher(folder.path, store, scene, endmembers, shade=shade, maps=maps, ortho=ortho)
            try:
                stream = Pipeline(
                    scene, tiles, plan, journal, out, keyed=key is not None, progress=progress,
                    kept=None if finisher is None else finisher.add,
                )  # fmt: skip
                stream.run(sharding.own(plan.blocks))
                sharding.wait_for(journal.complete, folder.path)
                record: dict[str, Any] = {}
                if finisher is not None:
                    stages = {**(timings or {}), "unmix": time.perf_counter() - begun, **stream.spent}
                    about = {**plan._asdict(), "blocks_found_done": before, "processes": sharding.count()}

                    def entries(counts: Mapping[str, Any]) -> dict[str, Any]:
                        return {"stream": about, **((more(counts) if callable(more) else more) or {})}

                    with explained(out, journal):
                        record = finisher.finish(config=config, timings=stages, seed=seed, more=entries)
                        if finishing is not None:
                            finishing(folder.path, record)
                        put_in_place(folder, out)
            finally:
                journal.close()
                if finisher is not None:
                    finisher.close()
            sharding.wait_for((out / RECORD).is_file, folder.path)
            return record or json.loads((out / RECORD).read_text(encoding="utf-8"))


def _check(
    scene: Scene, endmembers: SpectralLibrary, good_bands: Any, shade: str | None, maps: Sequence[str], ortho: bool
) -> None:
    """Refuse what cannot be finished before anything is begun."""
    check_shade(endmembers, shade)
    if good_bands is not None and np.shape(good_bands) != (scene.bands,):
        raise ValueError(f"good_bands has shape {np.shape(good_bands)}, pixels have {scene.bands} bands")
    if unknown := set(maps) - {"envi", "geotiff"}:
        raise ValueError(f"maps are envi or geotiff, got {', '.join(sorted(unknown))}")
    if "geotiff" in maps and find_spec("rasterio") is None:
        raise missing("geo", "rasterio", "a GeoTIFF")
    if ortho:
        check_ortho(scene)


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Let other processes know of an error in this one."""
    try:
        yield
    except BaseException:
        if sharding.count() > 1:
            with suppress(OSError):
                (folder / f"{sharding.FAILED}{sharding.number()}").touch()
        raise
