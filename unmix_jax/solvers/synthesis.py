"""Unmixing with endmembers that physics lets vary, one pixel in and one `Solution` out.

- `marginal` integrates the variation out: abundances with their covariance, about as fast as fixed endmembers.
- `posterior` averages over which endmembers are there as well: means, covariances, and how probable each endmember is.
- `map_synthesis` fits abundances and displacements together, spectra rendered anew at each step.
- `alternating` is the algorithm of the paper that named analysis-by-synthesis.

All but the last take what `prepare_synthesis` made of a generator of endmembers (`physics.variation`) in place of
endmembers, and go through ``unmix``. None knows what the displacements move.
"""

from unmix_jax.solvers.synthesis_alternating import alternating
from unmix_jax.solvers.synthesis_basis import PreparedSynthesis, prepare_synthesis
from unmix_jax.solvers.synthesis_map import map_synthesis
from unmix_jax.solvers.synthesis_marginal import marginal
from unmix_jax.solvers.synthesis_posterior import posterior

__all__ = ["PreparedSynthesis", "alternating", "map_synthesis", "marginal", "posterior", "prepare_synthesis"]
