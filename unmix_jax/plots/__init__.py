"""Figures of scenes, results and fits, as matplotlib `Figure` objects.

Nothing here touches pyplot or any global state: save a figure with ``figure.savefig(path)``.
"""

from unmix_jax.plots.blind import endmember_runs, threshold_curve
from unmix_jax.plots.dispersion import fitted_mineral, fitted_minerals
from unmix_jax.plots.unmixing import (
    abundance_bound_map,
    abundance_maps,
    endmember_curves,
    false_colour,
    fits,
    gap_map,
    residual_map,
    winner_map,
)

__all__ = [
    "abundance_bound_map",
    "abundance_maps",
    "endmember_curves",
    "endmember_runs",
    "false_colour",
    "fits",
    "fitted_mineral",
    "fitted_minerals",
    "gap_map",
    "residual_map",
    "threshold_curve",
    "winner_map",
]
