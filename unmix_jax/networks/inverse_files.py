"""Files of inverse networks: arrays and a description; loading one runs nothing of it.

The endmembers and how they vary are code and are not in the file: whoever loads it says what they are, and is refused
where spectra, noise, baseline, bands or the widths of the box are not those of the training.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from unmix_jax.networks.abundance import Whiten
from unmix_jax.networks.checkpoint import read_file, write_file
from unmix_jax.networks.inverse import InverseUnmixer, builder
from unmix_jax.solvers.synthesis_basis import PreparedSynthesis
from unmix_jax.solvers.tables import whiten_and_detrend

__all__ = ["load_inverse", "save_inverse"]

FORMAT = "unmix-jax inverse 1"
ROUNDING = 1e-3  # of whitened endmembers, relative to their greatest: what another machine makes of them


def save_inverse(path: str | Path, unmixer: InverseUnmixer) -> Path:
    """Write trained networks: an .npz of arrays, with a description in JSON.

    Returns:
        The path.

    Raises:
        ValueError: a file that is no .npz.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"a checkpoint is an .npz file, got {path}")
    leaves = jax.tree.leaves(eqx.filter((unmixer.networks, unmixer.states), eqx.is_array))
    about = {"format": FORMAT, "encoder": unmixer.encoder, "networks": int(leaves[0].shape[0])}
    held: dict[str, Any] = {f"leaf{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
    held |= {f"features_{name}": np.asarray(getattr(unmixer.features, name)) for name in Whiten.__dataclass_fields__}
    held |= {"limits": np.asarray(unmixer.limits)} | _known(unmixer.endmembers)
    return write_file(path, about, held)


def load_inverse(path: str | Path, endmembers: PreparedSynthesis) -> InverseUnmixer:
    """Read trained networks; nothing in the file is run.

    Args:
        path: what `save_inverse` wrote.
        endmembers: what they were trained on, prepared again: the same spectra, bands, box, noise and baseline.

    Returns:
        An `InverseUnmixer`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no such checkpoint, one that is damaged, or one of other endmembers.
    """
    path = Path(path)
    about, arrays = read_file(path)
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ValueError(f"{path} is not a checkpoint of inverse networks of the format {FORMAT!r}")
    try:
        _same(arrays, endmembers)
        return _rebuilt(about, arrays, endmembers)
    except _Other as error:
        raise ValueError(f"{path} is of other endmembers: {error}; train again") from None
    except (KeyError, IndexError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


class _Other(Exception):
    """Endmembers are not those of the training."""


def _known(endmembers: PreparedSynthesis) -> dict[str, np.ndarray]:
    """What of the endmembers the networks depend on: whitened spectra at rest and at the upper walls of the box."""

    def white(displacement: Any) -> np.ndarray:
        spectra = jnp.asarray(endmembers.generator(displacement), endmembers.basis.dtype)
        return np.asarray(whiten_and_detrend(endmembers.library, spectra))

    walls = 1.0 * (endmembers.prior > 0)
    width = jnp.asarray(endmembers.generator.width) * endmembers.prior
    return {"known_spectra": white(0 * walls), "known_wall": white(walls), "known_width": np.asarray(width)}


def _same(arrays: Mapping[str, np.ndarray], endmembers: PreparedSynthesis) -> None:
    """Refuse endmembers that are not those of the training."""
    here = _known(endmembers)
    theirs, ours = arrays["known_spectra"], here["known_spectra"]
    for axis, what in ((1, "bands"), (0, "endmembers")):
        if theirs.shape[axis] != ours.shape[axis]:
            raise _Other(f"those of the training have {theirs.shape[axis]} {what}, these {ours.shape[axis]}")
    rounding = ROUNDING * np.abs(theirs).max()
    if not np.allclose(theirs, ours, rtol=0, atol=rounding):
        raise _Other("their spectra, noise or baseline differ")
    width, own = arrays["known_width"], here["known_width"]
    same = width.shape == own.shape and np.allclose(width, own, rtol=ROUNDING, atol=0)
    if not same or not np.allclose(arrays["known_wall"], here["known_wall"], rtol=0, atol=rounding):
        raise _Other("they vary in another box, or with another prior")


def _rebuilt(about: Mapping[str, Any], arrays: Mapping[str, np.ndarray], endmembers: PreparedSynthesis) -> Any:
    """The networks of a description and arrays; each must have the shape that the description asks for."""
    features = Whiten(*(jnp.asarray(arrays[f"features_{name}"]) for name in Whiten.__dataclass_fields__))
    free = int(np.sum(np.asarray(endmembers.prior) > 0))
    build = builder(about["encoder"], features, endmembers.count, free)

    def empty(key: Any) -> Any:
        network = build(key)
        return network, network.gathered()

    keys = jax.random.split(jax.random.key(0), int(about["networks"]))
    wanted, tree = jax.tree.flatten(eqx.filter_eval_shape(eqx.filter_vmap(empty), keys))
    leaves = []
    for i, leaf in enumerate(wanted):
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            raise ValueError(f"part {i} of the networks is not numbers")
        found = arrays[f"leaf{i}"]
        if found.shape != leaf.shape or found.dtype.kind != np.dtype(leaf.dtype).kind:
            raise ValueError(
                f"array {i} of the networks is {found.dtype} {found.shape}, {leaf.dtype} {leaf.shape} is wanted"
            )
        if not np.isfinite(found).all():
            raise ValueError(f"array {i} of the networks is not finite")
        leaves.append(jnp.asarray(found))
    networks, states = jax.tree.unflatten(tree, leaves)
    limits = jnp.asarray(arrays["limits"])
    if limits.shape != (2,):
        raise ValueError(f"limits are two, got shape {limits.shape}")
    return InverseUnmixer(endmembers, networks, states, features, limits, str(about["encoder"]))
