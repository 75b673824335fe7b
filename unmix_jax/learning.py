"""Train networks on the pure spectra of a library for a sensor and write them: the work of ``unmix-jax train``."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from unmix_jax.networks.abundance import learn_abundances
from unmix_jax.networks.checkpoint import Checkpoint, save_checkpoint
from unmix_jax.networks.mixtures import MIXTURE_RECIPES
from unmix_jax.results import environment
from unmix_jax.scenes.library import match
from unmix_jax.scenes.library_files import library_names
from unmix_jax.scenes.noise import snr_std
from unmix_jax.scenes.scene import Scene, SpectralLibrary

__all__ = ["facts", "learn_library", "seen_by"]


def learn_library(
    path: str | Path,
    library: SpectralLibrary,
    *,
    sensor: Scene | SpectralLibrary | None = None,
    names: Sequence[str] = (),
    recipe: str = "ppnm",
    doubt: float = 0.05,
    snr: float = 40.0,
    networks: int = 3,
    steps: int = 3000,
    encoder: str = "dense",
    seed: int = 0,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Checkpoint:
    """Train and write a checkpoint.

    The state of the training is kept beside the file until it is done: the same call goes on where it was stopped.

    Args:
        path: file to write, .npz.
        library: one pure spectrum of each material.
        sensor: whose bands the network is for, and which of them are good; None: those of the library.
        names: materials to take; none: all.
        recipe: a name in `networks.mixtures.MIXTURE_RECIPES`.
        doubt: how far it may be from the truth, see `MixtureRecipe`.
        snr: signal to noise of the sensor, dB, over the pure spectra.
        networks: how many.
        steps: of the optimiser.
        encoder: a name in `networks.encoders.ENCODERS`.
        seed: of the random numbers.
        overwrite: whether a file that is there is replaced.
        progress: called as ``progress(steps_done, steps)``.

    Returns:
        What was written.

    Raises:
        ValueError: the file is there or is no .npz; unknown names or recipe; bands without values; what
            `learn_abundances` refuses.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"a checkpoint is an .npz file, got {path}")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} is there already: choose another file, or --overwrite")
    if recipe not in MIXTURE_RECIPES:
        raise ValueError(f"a recipe is one of {', '.join(MIXTURE_RECIPES)}, got {recipe!r}")
    if not np.isfinite(snr):
        raise ValueError(f"the signal to noise is a number of decibels, got {snr}")
    library = seen_by(_named(library, names), sensor)
    good = np.flatnonzero(np.asarray(library.good_bands))
    spectra = np.asarray(library.spectra, np.float32)
    std = float(snr_std(spectra[:, good], snr))
    mixtures = replace(MIXTURE_RECIPES[recipe], doubt=doubt)
    training = path.with_name(path.name + ".training.npz")
    unmixer = learn_abundances(
        jax.random.key(seed), spectra, std=std, recipe=mixtures,
        networks=networks, steps=steps, encoder=encoder, good=good, checkpoint=training, progress=progress,
    )  # fmt: skip
    made = {name: value for name, value in vars(mixtures).items() if name != "doubt"}
    settings = {
        "recipe": recipe, **made, "doubt": doubt, "snr_db": snr, "noise_std": std, "networks": networks, "steps": steps,
        "encoder": encoder, "seed": seed, "environment": environment(),
    }  # fmt: skip
    checkpoint = Checkpoint(unmixer, library, encoder, settings)
    save_checkpoint(path, checkpoint)
    training.unlink(missing_ok=True)
    return checkpoint


def seen_by(library: SpectralLibrary, sensor: Scene | SpectralLibrary | None) -> SpectralLibrary:
    """The library on the bands of a sensor, or on its own, in single precision; see `scenes.library.match`.

    Raises:
        ValueError: bands that cannot be compared, or no good band with values of all spectra.
    """
    whose = library if sensor is None else sensor
    if isinstance(whose, SpectralLibrary):  # as a list of pixels
        whose = Scene(np.asarray(whose.spectra), axis=whose.axis, good_bands=whose.good_bands)
    found = match(whose, library)
    return replace(found, spectra=np.asarray(found.spectra, np.float32), names=library_names(library))


def _named(library: SpectralLibrary, names: Sequence[str]) -> SpectralLibrary:
    """Some of the spectra, in the order that is asked for."""
    if not names:
        return library
    held = library_names(library)
    unknown = [name for name in names if name not in held]
    if unknown:
        raise ValueError(f"the library has no {', '.join(unknown)}; it has {', '.join(held)}")
    rows = [held.index(name) for name in names]
    return replace(library, spectra=np.asarray(library.spectra)[rows], names=tuple(names), classes=())


def facts(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    """What a checkpoint is, in words."""
    settings: Mapping[str, Any] = checkpoint.settings
    good = np.asarray(checkpoint.library.good_bands)
    return [
        ("materials", ", ".join(checkpoint.library.names)),
        ("bands", f"{int(good.sum())} of {len(good)}"),
        ("recipe", f"{settings['recipe']}, doubted by {100 * settings['doubt']:g} %"),
        ("noise (std)", f"{settings['noise_std']:.4g}"),
        ("networks", str(settings["networks"])),
    ]
