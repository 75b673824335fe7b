"""Synthetic mixtures of endmembers that physics lets vary, drawn on the device: what inverse rendering is learned from.

Endmembers, how they vary and the noise are those of a `PreparedSynthesis`; a `VariedRecipe` says how they are mixed.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from unmix_jax.linalg import matmul
from unmix_jax.networks.mixtures import ripples
from unmix_jax.scenes.synthetic import draw_abundances
from unmix_jax.solvers.synthesis_basis import UNIFORM, PreparedSynthesis
from unmix_jax.solvers.tables import whiten_and_detrend

__all__ = ["Varied", "VariedExamples", "VariedRecipe"]

RENDERED = 8  # libraries at once


class VariedRecipe(eqx.Module):
    """How training mixtures of endmembers that vary are made.

    Attributes:
        materials: how many endmembers a mixture may have, each number as often; None: from one to all.
        concentration: of Dirichlet's law of the abundances.
        variants: libraries that are rendered for a step; each endmember of each mixture is of one of them.
        doubt: spread of ln f, where f is a factor on each spectrum that is smooth over the bands: how far the truth may
            be from all that is rendered; see `networks.mixtures.MixtureRecipe`.
        reach: over what share of the bands that factor is alike.

    Raises:
        ValueError: numbers out of range.
    """

    materials: tuple[int, ...] | None = eqx.field(static=True, default=None)
    concentration: float = eqx.field(static=True, default=1.0)
    variants: int = eqx.field(static=True, default=8)
    doubt: float = eqx.field(static=True, default=0.0)
    reach: float = eqx.field(static=True, default=0.1)

    def __check_init__(self) -> None:
        if self.materials is not None and not (self.materials and min(self.materials) >= 1):
            raise ValueError(f"materials are numbers of them, 1 or more, got {self.materials}")
        if self.variants < 1:
            raise ValueError(f"at least one library is rendered for a step, got variants {self.variants}")
        for name, least, most in (("concentration", 1e-3, 1e3), ("doubt", 0, 1), ("reach", 0.01, 100)):
            if not least <= getattr(self, name) < most:
                raise ValueError(f"{name} lies in [{least}, {most}), got {getattr(self, name)}")


class Varied(eqx.Module):
    """A batch of mixtures of endmembers that vary.

    Attributes:
        spectra: as the solvers see them, whitened and without baseline, with noise.
        clean: without it where they are rendered, in the basis of the endmembers.
        abundances: of each endmember, or of each class of them.
    """

    spectra: Float[Array, "pixel band"]
    clean: Float[Array, "pixel rank"]
    abundances: Float[Array, "pixel material"]


class VariedExamples(eqx.Module):
    """Batches of them, drawn from a key, as `train` takes them.

    Displacements are uniform with the standard deviation of the prior, and not beyond the walls of the box.

    Attributes:
        endmembers: and how they vary, and the noise.
        recipe: how they are mixed.
    """

    endmembers: PreparedSynthesis
    recipe: VariedRecipe = VariedRecipe()

    def __call__(self, key: Key[Array, ""], count: int) -> Varied:
        """So many mixtures."""
        recipe, prepared = self.recipe, self.endmembers
        members, dtype = prepared.count, prepared.basis.dtype
        keys = jax.random.split(key, 5)
        orders = tuple(range(1, members + 1)) if recipe.materials is None else recipe.materials
        drawn = draw_abundances(keys[0], count, members, materials=orders, concentration=recipe.concentration)
        abundances = drawn.astype(dtype)

        def rendered(key: Array) -> Array:
            u = jax.random.uniform(key, prepared.prior.shape, dtype, -1, 1) * prepared.prior / UNIFORM
            return prepared.generator(jnp.clip(u, -1, 1)).astype(dtype)

        libraries = jax.lax.map(rendered, jax.random.split(keys[1], recipe.variants), batch_size=RENDERED)
        whose = jax.random.randint(keys[2], abundances.shape, 0, recipe.variants)
        parts = jnp.where(whose[:, None] == jnp.arange(recipe.variants)[:, None], abundances[:, None], 0.0)
        spectra = matmul(parts.reshape(count, -1), libraries.reshape(recipe.variants * members, -1))
        if recipe.doubt:
            smooth = ripples(keys[3], count, spectra.shape[1], recipe.reach, dtype)
            spectra = spectra * jnp.exp(recipe.doubt * smooth)
        noise = jax.random.normal(keys[4], spectra.shape, dtype)
        noise = noise * prepared.noise if prepared.noise.ndim == 1 else matmul(noise, prepared.noise)
        seen = whiten_and_detrend(prepared.library, spectra + noise)
        return Varied(seen, prepared.reduce(spectra), abundances)
