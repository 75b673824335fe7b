"""Trained networks in a file: numbers and a description in words, so that loading never runs code.

A checkpoint knows the library that it was trained on, the sensor and how it was trained, and refuses scenes of another
sensor and libraries that have changed.
"""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from unmix_jax.networks.abundance import AbundanceNetwork, AbundanceUnmixer, Whiten
from unmix_jax.networks.encoders import ENCODERS
from unmix_jax.scenes.library_files import library_names
from unmix_jax.scenes.scene import Scene, SpectralAxis, SpectralLibrary

__all__ = ["Checkpoint", "fingerprint", "load_checkpoint", "read_file", "save_checkpoint", "write_file"]

FORMAT = 1
ROUNDING = 1e-5  # of the greatest value of a library
SAME = 1e-3  # of a band's spacing, by which bands may be away from those of the training


class Checkpoint(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        unmixer: the networks.
        library: the reference spectra on the bands of the sensor, with `good_bands`.
        encoder: name in `encoders.ENCODERS`.
        settings: how it was trained, for the record.
    """

    unmixer: AbundanceUnmixer
    library: SpectralLibrary
    encoder: str
    settings: Mapping[str, Any]

    def check(self, scene: Scene, library: SpectralLibrary | None = None) -> None:
        """Refuse what it was not trained for.

        Args:
            scene: to be unmixed.
            library: on the bands of the scene, where one is given; it must hold the spectra of the training.

        Raises:
            ValueError: another number of bands or other bands, a band that is bad in the scene and was good in the
                training, or another library.
        """
        axis, own = scene.axis, self.library.axis
        if scene.bands != self.library.spectra.shape[1]:
            raise ValueError(
                f"the checkpoint is of a sensor of {self.library.spectra.shape[1]} bands, the scene has {scene.bands}: "
                "train one for this sensor"
            )
        if axis is not None and own is not None:
            theirs, ours = np.asarray(axis.to(own.unit).centers), np.asarray(own.centers)
            spacing = np.median(np.abs(np.diff(ours))) if len(ours) > 1 else ours[0]
            away = float(np.max(np.abs(theirs - ours)))
            if away > SAME * spacing:
                raise ValueError(
                    f"the checkpoint is of another sensor: its bands are up to {away:g} {own.unit} away from those of "
                    "the scene; train one for this sensor"
                )
        trained = np.ones(scene.bands, bool) if self.library.good_bands is None else self.library.good_bands
        bad = np.asarray(trained) & ~(np.ones(scene.bands, bool) if scene.good_bands is None else scene.good_bands)
        if bad.any():
            raise ValueError(
                f"{int(bad.sum())} bands that the checkpoint looks at are bad in the scene (the first is number "
                f"{int(np.argmax(bad))}): train one without them"
            )
        if library is not None and not self._knows(library):
            raise ValueError(
                f"the library has changed since the training: the checkpoint knows {_said(self.library)}, this one has "
                f"{_said(library)}; train again"
            )

    def _knows(self, library: SpectralLibrary) -> bool:
        """Whether it has the spectra of the training, up to the rounding of files and of resampling."""
        names, wanted = library_names(library), library_names(self.library)
        if not set(wanted) <= set(names):
            return False
        ours, theirs = np.asarray(self.library.spectra), np.asarray(library.spectra)
        theirs = theirs if names == wanted else theirs[[names.index(name) for name in wanted]]
        if ours.shape != theirs.shape:
            return False
        good = slice(None) if self.library.good_bands is None else np.asarray(self.library.good_bands)
        return bool(np.allclose(ours[:, good], theirs[:, good], rtol=0, atol=ROUNDING * np.abs(ours[:, good]).max()))


def fingerprint(library: SpectralLibrary) -> str:
    """A hash of the names and the spectra in good bands, in single precision."""
    spectra = np.asarray(library.spectra, np.float32)
    if library.good_bands is not None:
        spectra = np.where(library.good_bands, spectra, np.float32(0))
    mark = hashlib.sha256(json.dumps([*library.names, *spectra.shape]).encode())
    mark.update(spectra.tobytes())
    return mark.hexdigest()


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint: an .npz of arrays, with a description in JSON.

    Good bands are those of the unmixer; a library without names gets some.

    Returns:
        The path.

    Raises:
        ValueError: an unknown encoder, or a library of other bands or another number of spectra than the networks have.
    """
    path, unmixer, library = Path(path), checkpoint.unmixer, checkpoint.library
    if checkpoint.encoder not in ENCODERS:
        raise ValueError(f"an encoder is one of {', '.join(ENCODERS)}, got {checkpoint.encoder!r}")
    count, bands = np.shape(library.spectra)
    seen = bands if unmixer.good is None else len(unmixer.good)
    if unmixer.features.mean.shape[0] != -(-seen // unmixer.group):
        raise ValueError(f"the networks were not trained on the {seen} good bands of this library")
    told = eqx.filter_eval_shape(unmixer, jnp.ones(bands, jnp.float32)).abundances.shape[0]
    if told != count:
        raise ValueError(f"the networks know {told} materials, the library has {count}")
    library = replace(library, names=library_names(library), good_bands=_marked(unmixer.good, bands))
    leaves = [
        np.asarray(leaf) for leaf in jax.tree.leaves(eqx.filter((unmixer.networks, unmixer.states), eqx.is_array))
    ]
    about = {
        "format": FORMAT,
        "encoder": checkpoint.encoder,
        "group": unmixer.group,
        "networks": int(leaves[0].shape[0]),
        "names": list(library.names),
        "unit": None if library.axis is None else library.axis.unit,
        "library": fingerprint(library),
        "settings": dict(checkpoint.settings),
    }
    held: dict[str, Any] = {f"leaf{i}": leaf for i, leaf in enumerate(leaves)}
    held |= {f"features_{name}": np.asarray(getattr(unmixer.features, name)) for name in Whiten.__dataclass_fields__}
    held |= {"spectra": np.asarray(library.spectra), "limits": np.asarray(unmixer.limits)}
    if unmixer.good is not None:
        held["good"] = np.asarray(unmixer.good)
    if library.axis is not None:
        held["centers"] = np.asarray(library.axis.centers)
        if library.axis.fwhm is not None:
            held["fwhm"] = np.asarray(library.axis.fwhm)
    return write_file(path, about, held)


def write_file(path: Path, about: Mapping[str, Any], arrays: Mapping[str, Any]) -> Path:
    """An .npz of arrays and a description in JSON; the whole file or none."""
    beside = path.with_name(path.name + ".part")
    with beside.open("wb") as file:
        np.savez(file, about=json.dumps(about), **arrays)
    beside.replace(path)
    return path


def read_file(path: Path) -> tuple[Any, dict[str, np.ndarray]]:
    """The description and the arrays; nothing in the file is run.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, or one that is damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            about = json.loads(str(held["about"]))
            return about, {name: held[name] for name in held.files if name != "about"}
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no checkpoint {path}") from None
    except (OSError, EOFError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a checkpoint, or is damaged: {error}") from error


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint; nothing in the file is run.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint, one of another version of the format, or one that is damaged.
    """
    path = Path(path)
    about, arrays = read_file(path)
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ValueError(f"{path} is not a checkpoint of format {FORMAT}, which this version reads")
    try:
        return _rebuilt(about, arrays)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _rebuilt(about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Checkpoint:
    """The checkpoint of a description and arrays; each must have the shape that the description asks for."""
    names, spectra = tuple(str(name) for name in about["names"]), arrays["spectra"]
    features = Whiten(*(jnp.asarray(arrays[f"features_{name}"]) for name in Whiten.__dataclass_fields__))
    build = ENCODERS[about["encoder"]]

    def empty(key: Any) -> Any:
        network = AbundanceNetwork(build(key, features, len(names)))
        return network, network.gathered()

    keys = jax.random.split(jax.random.key(0), int(about["networks"]))
    skeleton = eqx.filter_eval_shape(eqx.filter_vmap(empty), keys)
    wanted, tree = jax.tree.flatten(skeleton)
    leaves = []
    for i, leaf in enumerate(wanted):
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            raise ValueError(f"part {i} of the networks is not numbers")
        found = arrays[f"leaf{i}"]
        if found.shape != leaf.shape or found.dtype != leaf.dtype:
            raise ValueError(f"array {i} of the networks has shape {found.shape}, {leaf.shape} is wanted")
        leaves.append(jnp.asarray(found))
    networks, states = jax.tree.unflatten(tree, leaves)
    axis, good = None, arrays.get("good")
    if about["unit"] is not None:
        axis = SpectralAxis(arrays["centers"], arrays.get("fwhm"), about["unit"])
    marked = _marked(good, spectra.shape[1])
    library = SpectralLibrary(spectra=spectra, axis=axis, names=names, good_bands=marked)
    if fingerprint(library) != about["library"]:
        raise ValueError("its spectra are not those that it was trained on")
    bands = None if good is None else jnp.asarray(good, jnp.int32)
    unmixer = AbundanceUnmixer(networks, states, features, jnp.asarray(arrays["limits"]), int(about["group"]), bands)
    unmixer(jnp.ones(spectra.shape[1], jnp.float32))  # shapes fit together
    return Checkpoint(unmixer, library, str(about["encoder"]), about["settings"])


def _marked(good: Any, bands: int) -> np.ndarray | None:
    """Good bands by their numbers, as a mask."""
    return None if good is None else np.isin(np.arange(bands), np.asarray(good))


def _said(library: SpectralLibrary) -> str:
    """A library in a few words."""
    names = ", ".join(library.names[:3]) + (", …" if len(library.names) > 3 else "")
    return f"{len(library.spectra)} spectra ({names})" if names else f"{len(library.spectra)} spectra"
