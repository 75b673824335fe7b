"""A scene in a file, a cheap unmixer, and what a run left behind: for tests of whole runs, in this process or others.

As a script it is one process of a run: ``python streams.py SCENE.hdr OUT SLEEP [COORDINATOR COUNT NUMBER [GAIN]]``.
"""

import dataclasses
import hashlib
import sys
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from unmix_jax import Scene, Solution, SpectralLibrary, read_scene, unmix_file

ROWS, COLUMNS, BANDS = 23, 9, 4
NODATA = -9999.0
LIBRARY = SpectralLibrary(np.eye(2, BANDS, dtype=np.float32), names=("one", "two"))


class Toy(eqx.Module):
    """Cheap to compile; every field tells which pixel and which key it was given."""

    gain: jax.Array

    def __call__(self, pixel, *, key=None):
        noise = 0.0 if key is None else jax.random.uniform(key, (2,), pixel.dtype)
        return Solution(
            abundances=self.gain * pixel[:2] + noise,
            residual=jnp.sum(pixel),
            gap=pixel[-1],
            steps=jnp.asarray(3, jnp.int32),
            converged=pixel[0] > 10,
            fitted={"peak": jnp.max(pixel), "count": jnp.asarray(5, jnp.int16)},
        )


class Bounded(Toy):
    """With a bound on abundances, infinite for some pixels."""

    def __call__(self, pixel, *, key=None):
        bound = jnp.where(pixel[1] > 70, jnp.inf, 1e-4 * pixel[1])
        return dataclasses.replace(super().__call__(pixel, key=key), abundance_bound=bound)


def bounded():
    return Bounded(jnp.asarray([1.0, 2.0], jnp.float32))


def toy():
    return Toy(jnp.asarray([1.0, 2.0], jnp.float32))


def cube(rows=ROWS, columns=COLUMNS):
    """Small integers, with a stripe of NaN, a pixel without data and one of zeros."""
    values = np.random.default_rng(0).integers(1, 100, (rows, columns, BANDS)).astype(np.float32)
    values[rows // 2] = np.nan
    values[0, 0] = NODATA
    values[-1, -1] = 0
    return values


def write_envi(path: Path, values, interleave="bip", extra=""):
    """A scene as an ENVI file; the header's path."""
    order = {"bip": (0, 1, 2), "bil": (0, 2, 1), "bsq": (2, 0, 1)}[interleave]
    types = {"float32": 4, "int16": 2, "float64": 5}
    path.with_suffix(".img").write_bytes(np.ascontiguousarray(values.transpose(order)).tobytes())
    lines, samples, bands = values.shape
    path.write_text(
        f"ENVI\nsamples = {samples}\nlines = {lines}\nbands = {bands}\nheader offset = 0\nfile type = ENVI Standard\n"
        f"data type = {types[values.dtype.name]}\ninterleave = {interleave}\nbyte order = 0\n{extra}",
        encoding="utf-8",
    )
    return path


def stream(scene: Scene, out: Path, unmixer=None, **options):
    """A run in several blocks, of tiles that do not divide them."""
    from unmix_jax import planning

    planning.BLOCK_BYTES = 4 * COLUMNS * BANDS * 4  # four rows
    options = {"tile": 16, "endmembers": LIBRARY} | options
    return unmix_file(scene, toy() if unmixer is None else unmixer, out, **options)


def bytes_of(out: Path):
    """What a run wrote, but for dates and times."""
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and path.name != "record.json"]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


if __name__ == "__main__":
    header, folder, pause, *rest = sys.argv[1:]
    if rest:
        from unmix_jax.sharding import start_processes

        start_processes(rest[0], int(rest[1]), int(rest[2]), timeout=10)
    gain = jnp.asarray([float(rest[3]) if len(rest) > 3 else 1.0, 2.0], jnp.float32)
    stream(read_scene(header), Path(folder), Toy(gain), progress=lambda *_: time.sleep(float(pause)))
