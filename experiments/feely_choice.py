"""Which box and which noise, without labels: how `analysis_by_synthesis_feely.py` chooses."""

from typing import Any

import equinox as eqx
import numpy as np
from common import Partial
from feely_rocks import DEGREE, Rocks, Setting, at_rest, fixed, interval, listed, rms, unmix, varied

from unmix_jax.solvers.synthesis import map_synthesis, marginal, prepare_synthesis
from unmix_jax.solvers.synthesis_choice import held_out_rms, leave_bands_out

FREQUENCIES = (0.001, 0.003, 0.01)  # tolerances of the grid
SHAPES = (0.05, 0.15)  # of strengths and dampings
NOISES = (0.004, 0.008, 0.016)  # independent
NOISE = 0.001  # of the spectrometer, where there is a broad part besides
BROADS = (0.004, 0.008)
LENGTHS = (10.0, 30.0, 100.0)  # cm⁻¹
MARGINAL = eqx.Partial(marginal, displacement=True)
MAP = eqx.Partial(map_synthesis, displacement=True)
SOLVERS = {"marginal": MARGINAL, "map": MAP}


def noises(frequency: float = 0.0, shape: float = 0.0) -> tuple[list[Setting], list[Setting]]:
    """Independent noise and broad noise of the grid, in one box."""
    broad = [Setting(frequency, shape, NOISE, b, n) for b in BROADS for n in LENGTHS]
    return [Setting(frequency, shape, n) for n in NOISES], broad


def settings(config: Any) -> list[Setting]:
    """Of the grid: independent noise, then broad."""
    grid = [noises(frequency, shape) for frequency in FREQUENCIES for shape in SHAPES]
    white, broad = ([setting for box in grid for setting in box[kind]] for kind in (0, 1))
    return white + broad if config.grid else [white[6], broad[1]]


def tried(rocks: Rocks, config: Any, setting: Setting, baseline: int | None) -> dict[str, Any]:
    """What likelihood, bands left out (where noise is independent) and labels say of one setting."""
    generator = varied(rocks, rocks.minerals, setting)
    options = {"baseline": baseline, "rank": config.choose_rank, "samples": config.choose_samples}
    options["noise"] = rocks.noise(setting)
    problem = prepare_synthesis(generator, **options)
    both = {name: unmix(eqx.Partial(s, endmembers=problem), rocks.pixels) for name, s in SOLVERS.items()}
    result: dict[str, Any] = {"log_likelihood": float(np.sum(both["marginal"].fitted["log_likelihood"]))}
    held_out = () if setting.broad else leave_bands_out(generator, **options)
    for name, solver in SOLVERS.items():
        if held_out:
            result[f"{name}_held_out"] = held_out_rms(solver, held_out, rocks.pixels, tile=len(rocks.pixels)).tolist()
        for metric in ("authors", "norm"):
            result[f"{name}_{metric}"] = rocks.errors(both[name].abundances, norm=metric == "norm").tolist()
    return result


def gls_noise(rocks: Rocks, config: Any, baseline: int | None) -> dict[str, Any]:
    """Broad noise of greatest likelihood where endmembers are held, and the abundances then."""
    generator = rocks.generator(rocks.minerals)
    found = {}
    for setting in noises()[1]:
        options = {"baseline": baseline, "rank": config.choose_rank, "samples": 2, "prior": 0.0}
        problem = prepare_synthesis(generator, noise=rocks.noise(setting), **options)
        found[setting] = unmix(eqx.Partial(marginal, endmembers=problem), rocks.pixels)
    best = max(found, key=lambda s: np.sum(found[s].fitted["log_likelihood"]))
    return {
        "broad": best.broad,
        "length": best.length,
        "log_likelihood": float(np.sum(found[best].fitted["log_likelihood"])),
        "abundances": listed(found[best]),
    }


def choose(rocks: Rocks, config: Any, pieces: Partial, label: str) -> tuple[dict[str, Any], dict[str, float]]:
    """The setting of each method, and all that was tried."""
    baseline = DEGREE if label else None
    everything: dict[Setting, Any] = {}
    metrics: dict[str, float] = {}
    for setting in settings(config):
        key = setting.key(label)
        everything[setting] = pieces.get(key, lambda s=setting: tried(rocks, config, s, baseline))
        metrics[f"{key}_log_likelihood"] = everything[setting]["log_likelihood"]
        for name in SOLVERS:
            if not setting.broad:
                metrics[f"{key}_{name}_held_out"] = rms(everything[setting][f"{name}_held_out"])
            for metric in ("authors", "norm"):
                errors = np.array(everything[setting][f"{name}_{metric}"])
                metrics[f"{key}_{name}_hindsight_{metric}_all90"] = float(errors.mean())
                metrics[f"{key}_{name}_hindsight_{metric}_first45"] = float(errors[: rocks.first].mean())
    best = max(everything, key=lambda s: everything[s]["log_likelihood"])
    metrics |= {f"chosen{label}_{name}": value for name, value in best._asdict().items()}
    white, tables = choose_white(rocks, config, pieces, label, everything)
    return {"best": best} | white, metrics | tables


def choose_white(
    rocks: Rocks, config: Any, pieces: Partial, label: str, everything: dict[Setting, Any]
) -> tuple[dict[str, Setting], dict[str, float]]:
    """The setting of each method where noise is independent, by bands left out; and what other rules say."""
    baseline = DEGREE if label else None
    grid = {setting: piece for setting, piece in everything.items() if not setting.broad}
    metrics: dict[str, float] = {}
    chosen = {}

    def still() -> list[float]:
        options = {"baseline": baseline, "rank": config.choose_rank, "samples": 2}
        held_out = leave_bands_out(rocks.generator(rocks.minerals), noise=1.0, prior=0.0, **options)
        return held_out_rms(MARGINAL, held_out, rocks.pixels, tile=len(rocks.pixels)).tolist()

    metrics[f"fcls{label}_held_out"] = rms(pieces.get(f"held out fcls{label}", still))
    still_abundances = np.array(pieces.get(f"fcls{label}", lambda: fixed(rocks, at_rest(rocks), baseline)))
    likely = max(grid, key=lambda s: grid[s]["log_likelihood"])
    for name in SOLVERS:
        errors = {s: np.array(grid[s][f"{name}_held_out"]) for s in grid}
        chosen[name] = min(grid, key=lambda s, e=errors: np.mean(e[s] ** 2))
        others = {
            "by_median": min(grid, key=lambda s, e=errors: np.median(e[s])),
            "by_one_standard_error": simplest(errors, chosen[name]),
            "by_likelihood": likely,
            "by_labels_in_hindsight": min(grid, key=lambda s, n=name: np.mean(grid[s][f"{n}_norm"])),
        }
        for how, setting in ({"chosen": chosen[name]} | others).items():
            key = f"white_{name}{label}_{how}"
            metrics |= {f"{key}_{n}": getattr(setting, n) for n in ("frequency", "shape", "noise")}
            for metric in ("authors", "norm") if how != "chosen" else ():
                mine = np.array(grid[setting][f"{name}_{metric}"])
                difference = mine - rocks.errors(still_abundances, norm=metric == "norm")
                low, high = interval(difference, config.bootstrap)
                metrics |= {
                    f"{key}_{metric}_all90": float(mine.mean()),
                    f"{key}_{metric}_minus_fcls": float(difference.mean()),
                    f"{key}_{metric}_minus_fcls_ci_low": low,
                    f"{key}_{metric}_minus_fcls_ci_high": high,
                }
    return chosen, metrics


def simplest(errors: dict[Any, np.ndarray], best: Any) -> Any:
    """The greatest noise, then the narrowest box, no worse than the best by more than one standard error."""

    def near(setting: Any) -> bool:
        difference = errors[setting] ** 2 - errors[best] ** 2
        return bool(difference.mean() <= difference.std() / np.sqrt(len(difference)))

    return min(filter(near, errors), key=lambda s: (-s.noise, s.frequency, s.shape))
