"""Synthetic mixtures of reference spectra, drawn on the device: what a network learns unmixing from.

A `MixtureRecipe` says how: which mixing models, how many materials at once, how endmembers and light vary, and how far
the models are trusted. Of each batch an equal part is mixed by each of its models, whose own numbers are drawn for each
spectrum.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from unmix_jax.linalg import matmul
from unmix_jax.physics.hapke import Hapke
from unmix_jax.physics.intimate import KubelkaMunk, PowerMean, Shkuratov
from unmix_jax.physics.mixing import GBM, MLM, PPNM, Fan, Linear, Mixing
from unmix_jax.scenes.noise import add_noise
from unmix_jax.scenes.synthetic import draw_abundances

__all__ = ["MIXTURE_RECIPES", "MODELS", "Drawn", "MixtureExamples", "MixtureRecipe", "ripples"]


def _uniform(key: Any, least: float, most: float, shape: tuple[int, ...] = ()) -> Array:
    return jax.random.uniform(key, shape, minval=least, maxval=most)


MODELS: Mapping[str, Callable[[Key[Array, ""], int], Mixing]] = MappingProxyType(
    {
        "linear": lambda key, count: Linear(),
        "fan": lambda key, count: Fan(),
        "gbm": lambda key, count: GBM(_uniform(key, 0.0, 1.0, (count * (count - 1) // 2,))),
        "ppnm": lambda key, count: PPNM(_uniform(key, -0.3, 0.3)),
        "mlm": lambda key, count: MLM(_uniform(key, 0.0, 0.9)),
        "power": lambda key, count: PowerMean(_uniform(key, -1.0, 1.0)),
        "kubelka_munk": lambda key, count: KubelkaMunk(),
        "shkuratov": lambda key, count: Shkuratov(),
        "hapke": lambda key, count: Hapke(),
    }
)


class MixtureRecipe(eqx.Module):
    """How training mixtures are made.

    Attributes:
        models: names in `MODELS`; each mixes an equal share of a batch.
        materials: how many materials a mixture may have, each number as often; None: from one to all.
        grains: spread of ln c where an endmember m becomes m^c, above zero only: absorptions that are deeper or
            shallower, as of larger and smaller grains; drawn for each spectrum and endmember.
        brightness: half the range of the factor on a whole spectrum.
        doubt: spread of ln f, where f is a factor on each spectrum that is smooth over the bands: how far the truth may
            be from the models. A network that has never seen a doubtful spectrum relies on the least details of its
            models, the more so the better the sensor.
        reach: over what share of the bands that factor is alike: between bands a share d of them apart, ln f has the
            correlation exp(−d²/2 reach²).

    Raises:
        ValueError: no or unknown models, or numbers out of range.
    """

    models: tuple[str, ...] = eqx.field(static=True, default=("ppnm",))
    materials: tuple[int, ...] | None = eqx.field(static=True, default=None)
    grains: float = eqx.field(static=True, default=0.1)
    brightness: float = eqx.field(static=True, default=0.05)
    doubt: float = eqx.field(static=True, default=0.05)
    reach: float = eqx.field(static=True, default=0.1)

    def __check_init__(self) -> None:
        unknown = [name for name in self.models if name not in MODELS]
        if unknown or not self.models:
            raise ValueError(f"mixing models are of {', '.join(MODELS)}; got {', '.join(unknown) or 'none'}")
        if self.materials is not None and not (self.materials and min(self.materials) >= 1):
            raise ValueError(f"materials are numbers of them, 1 or more, got {self.materials}")
        for name, least, most in (("grains", 0, 1), ("brightness", 0, 1), ("doubt", 0, 1), ("reach", 0.01, 100)):
            if not least <= getattr(self, name) < most:
                raise ValueError(f"{name} lies in [{least}, {most}), got {getattr(self, name)}")


MIXTURE_RECIPES: Mapping[str, MixtureRecipe] = MappingProxyType(
    {name: MixtureRecipe((name,)) for name in MODELS}
    | {
        "mixed": MixtureRecipe(("linear", "fan", "gbm", "ppnm", "mlm")),
        "powders": MixtureRecipe(("power", "kubelka_munk")),
    }
)


class Drawn(eqx.Module):
    """A batch of mixtures and how they were mixed.

    Attributes:
        spectra: with noise.
        clean: without it.
        abundances: of each.
        endmembers: of each.
        models: a model for each share of the batch, arrays with a leading pixel axis.
        gains: factor on each spectrum, one or as many as it has bands.
    """

    spectra: Float[Array, "pixel band"]
    clean: Float[Array, "pixel band"]
    abundances: Float[Array, "pixel endmember"]
    endmembers: Float[Array, "pixel endmember band"]
    models: tuple[Any, ...]
    gains: Float[Array, "pixel factor"]

    def render(self, abundances: Float[Array, "pixel endmember"]) -> Float[Array, "pixel band"]:
        """What other abundances would look like, each mixed as its spectrum was, without noise."""
        parts = _shares(len(abundances), len(self.models))
        mixed = [
            eqx.filter_vmap(lambda own, a, m: own(a, m))(model, abundances[part], self.endmembers[part])
            for model, part in zip(self.models, parts, strict=True)
        ]
        return self.gains * jnp.concatenate(mixed)


class MixtureExamples(eqx.Module):
    """Batches of mixtures, drawn from a key, as `train` takes them.

    Attributes:
        endmembers: reference spectra.
        std: standard deviation of the noise, of each band or one for all, in the unit of the endmembers.
        recipe: how they are mixed.
    """

    endmembers: Float[Array, "endmember band"]
    std: Float[Array, "*band"]
    recipe: MixtureRecipe = MixtureRecipe()

    def __call__(self, key: Key[Array, ""], count: int) -> Drawn:
        """So many mixtures; NaN where a model cannot render these endmembers."""
        recipe, endmembers = self.recipe, self.endmembers
        members, bands = endmembers.shape
        keys = jax.random.split(key, 6)
        orders = tuple(range(1, members + 1)) if recipe.materials is None else recipe.materials
        abundances = draw_abundances(keys[0], count, members, materials=orders).astype(endmembers.dtype)
        own = jnp.broadcast_to(endmembers, (count, members, bands))
        if recipe.grains:
            power = jnp.exp(recipe.grains * jax.random.normal(keys[1], (count, members, 1), endmembers.dtype))
            positive = endmembers > 0
            raised = jnp.exp(power * jnp.log(jnp.where(positive, endmembers, 1.0)))
            own = jnp.where(positive, raised, endmembers)
        gains = 1 + recipe.brightness * jax.random.uniform(keys[2], (count, 1), endmembers.dtype, -1.0, 1.0)
        if recipe.doubt:
            gains = gains * jnp.exp(recipe.doubt * ripples(keys[5], count, bands, recipe.reach, endmembers.dtype))
        models = []
        for i, (name, part) in enumerate(zip(recipe.models, _shares(count, len(recipe.models)), strict=True)):
            drawn = jax.random.split(jax.random.fold_in(keys[3], i), part.stop - part.start)
            models.append(eqx.filter_vmap(lambda key, name=name: MODELS[name](key, members))(drawn))
        empty = jnp.zeros((count, bands), endmembers.dtype)
        mixed = Drawn(empty, empty, abundances, own, tuple(models), gains)
        clean = mixed.render(abundances)
        return Drawn(add_noise(keys[4], clean, self.std), clean, abundances, own, tuple(models), gains)


def ripples(key: Key[Array, ""], count: int, bands: int, reach: float, dtype: Any) -> Float[Array, "count band"]:
    """Gaussian processes of unit variance over the bands: bells about knots, half a reach apart, of random heights.

    Between bands a share d of all bands apart the correlation is exp(−d²/2 reach²).
    """
    knots = np.arange(-3 * reach, 1 + 3.5 * reach, reach / 2)
    bells = np.exp(-(((np.linspace(0, 1, bands) - knots[:, None]) / reach) ** 2))
    smooth = jnp.asarray(bells / np.sqrt(np.sum(bells**2, 0)), dtype)
    return matmul(jax.random.normal(key, (count, len(knots)), dtype), smooth)


def _shares(count: int, models: int) -> list[slice]:
    """The rows of each model."""
    ends = [count * i // models for i in range(models + 1)]
    return [slice(start, stop) for start, stop in pairwise(ends)]
