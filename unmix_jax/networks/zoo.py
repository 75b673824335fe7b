"""All recipes by the names of their methods."""

from unmix_jax.networks.denoising_recipes import DENOISING
from unmix_jax.networks.dense_recipes import DENSE
from unmix_jax.networks.recipes import Recipe
from unmix_jax.networks.spatial_recipes import SPATIAL

__all__ = ["RECIPES"]

RECIPES: dict[str, Recipe] = {**DENSE, **SPATIAL, **DENOISING}
