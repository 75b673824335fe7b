"""Hyperspectral unmixing in JAX: which materials are in each pixel, and how much of each.

Importing the package costs nothing: each public name is loaded when it is first used (PEP 562).
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Solution": "types",
    "Unmixer": "types",
    "Scene": "scenes.scene",
    "SpectralLibrary": "scenes.scene",
    "SpectralAxis": "scenes.scene",
    "read_scene": "scenes.readers",
    "read_library": "scenes.readers",
    "resample": "scenes.library",
    "match": "scenes.library",
    "sensor_axis": "scenes.responses",
    "read_responses": "scenes.responses",
    "read_emit_mask": "scenes.readers.sensors.emit",
    "read_emit_uncertainty": "scenes.readers.sensors.emit",
    "orthorectify": "scenes.ortho",
    "load": "scenes.datasets",
    "prepare": "solvers.least_squares",
    "ucls": "solvers.least_squares",
    "scls": "solvers.least_squares",
    "nnls": "solvers.least_squares",
    "fcls": "solvers.least_squares",
    "prepare_inversion": "solvers.inversion",
    "invert": "solvers.inversion",
    "cramer_rao": "solvers.uncertainty",
    "Normal": "solvers.distributions",
    "Beta": "solvers.distributions",
    "fit_normal": "solvers.distributions",
    "fit_beta": "solvers.distributions",
    "prepare_ncm": "solvers.compositional",
    "ncm": "solvers.compositional",
    "prepare_bcm": "solvers.compositional",
    "bcm": "solvers.compositional",
    "bcm_neighbours": "solvers.compositional",
    "prepare_bundles": "solvers.bundles",
    "bundle_fcls": "solvers.bundles",
    "prepare_mesma": "solvers.mesma",
    "mesma": "solvers.mesma",
    "prepare_sparse": "solvers.sparse",
    "sunsal": "solvers.sparse",
    "lp_sunsal": "solvers.sparse",
    "clsunsal": "solvers.collaborative",
    "choose": "solvers.evidence",
    "prepare_synthesis": "solvers.synthesis",
    "marginal": "solvers.synthesis",
    "posterior": "solvers.synthesis",
    "map_synthesis": "solvers.synthesis",
    "alternating": "solvers.synthesis",
    "noise_covariance": "scenes.noise",
    "leave_bands_out": "solvers.synthesis_choice",
    "held_out_rms": "solvers.synthesis_choice",
    "count_endmembers": "endmembers.subspace",
    "estimate_noise": "endmembers.subspace",
    "hysime": "endmembers.subspace",
    "hfc": "endmembers.subspace",
    "nwhfc": "endmembers.subspace",
    "vca": "endmembers.extraction",
    "nfindr": "endmembers.extraction",
    "nmf": "endmembers.nmf",
    "archetypal": "endmembers.archetypal",
    "identifiability": "endmembers.identifiability",
    "classes_of": "endmembers.classes",
    "group": "endmembers.classes",
    "Linear": "physics.mixing",
    "Nascimento": "physics.mixing",
    "Fan": "physics.mixing",
    "GBM": "physics.mixing",
    "PPNM": "physics.mixing",
    "MLM": "physics.mixing",
    "ELMM": "physics.mixing",
    "SCLS": "physics.mixing",
    "Hapke": "physics.hapke",
    "KubelkaMunk": "physics.intimate",
    "PowerMean": "physics.intimate",
    "Shkuratov": "physics.intimate",
    "draw_abundances": "scenes.synthetic",
    "abundance_field": "scenes.synthetic",
    "synthesize": "scenes.synthetic",
    "Dispersion": "physics.dispersion",
    "DispersionVariation": "physics.variation",
    "ScaleSlopeShift": "physics.variation",
    "box_around": "physics.box",
    "planck": "physics.planck",
    "brightness_temperature": "physics.planck",
    "load_dispersion": "scenes.dispersion_files",
    "save_dispersion": "scenes.dispersion_files",
    "fit_dispersion": "endmembers.dispersion_fit",
    "learn_abundances": "networks.abundance",
    "MixtureRecipe": "networks.mixtures",
    "learn_inverse": "networks.inverse",
    "VariedRecipe": "networks.varied",
    "warm_synthesis": "networks.warm",
    "load_inverse": "networks.inverse_files",
    "save_inverse": "networks.inverse_files",
    "load_checkpoint": "networks.checkpoint",
    "save_checkpoint": "networks.checkpoint",
    "Checkpoint": "networks.checkpoint",
    "on_bands": "solvers.bands",
    "unmix": "driver",
    "unmix_file": "streaming",
    "plan_run": "planning",
    "unmix_blind": "blind",
    "read_out": "readout",
    "refine": "readout",
    "consensus": "blind",
    "score": "metrics",
    "write_results": "results",
    "read_results": "results",
}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
