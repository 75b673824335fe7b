"""What makes an autoencoder unmix: loss, sum-to-one layer, activation, decoder, batch size, and more, on Samson.

    python experiments/autoencoder_ablation.py

Twenty minutes on one core. Samson (UNMIX_JAX_DATA), three endmembers; the simple autoencoder of the survey (Palsson,
Sveinsson and Ulfarsson 2022, 10.1109/JSTARS.2021.3140154, Fig. 7): dense, activation, batch norm, sum-to-one layer,
linear decoder that is not negative. Each cell is 25 seeds side by side in float32: RMSprop, rate 1e-3, 2000 pixels, 40
epochs, batches of 15 (the survey states none of these for Fig. 7; they are those of its code for other networks). The
base is `sad_softmax_leaky`, which is `linear_batch15`. All cells have the same keys.

- `<loss>_<sum>_<activation>` (Fig. 9): `sad` is the true angle, `cosine` the loss of the published code, `mse`;
  `softmax`, `relu_sum`, `abs_sum`; `leaky` has a slope of 0.1, `relu` of 0;
- `linear_batch<n>`, `mlp_batch<n>` (Fig. 10): the linear decoder, and one of three dense layers with 4R, B and B units,
  of which the survey says no more. Ours have no biases, as no dense layer of this network has, a leaky ReLU of 0.1
  after the first two, nothing after the last, and no constraint: endmembers may be negative. Batches of 6, 10, 15, 25
  take 333, 200, 133, 80 steps an epoch;
- `no_batch_norm`; `deep`: the four dense layers 9R, 6R, 3R, R of DAEU, batch norm after the last; `vca_start`: the
  decoder begins at VCA's endmembers, drawn anew for each seed; `osp`: 0.1 of the orthogonal sparse prior is added;
  `scaled_softmax`: softmax of three times its input. Each changes one thing of the base.

Of each cell: `_msad_mean`, `_msad_std` (radians, over the seeds); `_rmse_projective_mean`: error of the abundances as
in eq. 33, read out from the endmembers (divided by their greatest value, nonnegative least squares, divided by the sum)
in every fourth pixel; `_consistency`: mean angle between two runs that count; `_collapsed`: share of those that do not:
stopped, with a spectrum of zeros, or with two spectra that are one. A spectrum of zeros is at π/2 from any; one without
a positive value has no abundance. Where fewer than two runs count, there is no consistency.

Statements, 1 where they are true of the mean mSAD and 0 where not, and in brackets what the survey says (sections IV-O
and VI-C); `_sigmas` is by how many standard errors, negative where not: those within two of zero say nothing.

- `sad_beats_mse`, `true_sad_beats_cosine`: softmax and leaky ReLU (yes; the second is ours, the survey has one SAD);
- `leaky_beats_relu`: mean over losses and sum-to-one layers (yes); `softmax_best`, `softmax_best_mse`: leaky (yes);
- `linear_beats_nonlinear`: mean over batch sizes (not where mixing is nonlinear; on Samson it depends on the batch);
- `small_batches_best`: 6 and 10 against 15 and 25, linear (recommended; but Samson wants moderately large ones);
- `batch_norm_helps` (essential), `shallow_suffices` (deeper is not better), `vca_start_helps` (not with a loss
  blind to scale), `osp_helps` (penalties on abundances matter most), `scaled_softmax_helps` (a good choice).

Wanted: which of these are true of Samson. A prototype had 0.041 at the base, 0.057 with `cosine`, 0.195 with `mse`, and
0.25 to 0.58 with ReLU.
Expected: base 0.041 ± 0.007; `cosine` 0.059, `mse` 0.182; `relu_sum` 0.056, `abs_sum` 0.142 (with `mse` 0.119, 0.240);
ReLU 0.24 to 0.44 everywhere. Linear by batch size 0.035, 0.034, 0.041, 0.063; three layers 0.071, 0.051, 0.050, 0.081.
No batch norm 0.120, deep 0.039, VCA 0.039, OSP 0.045, scaled softmax 0.028 ± 0.005 (RMSE 0.025). So the survey is
confirmed in its loss, leaky ReLU, batch norm, softmax (not with `mse`), scaled softmax and small batches, and in that
depth and VCA gain nothing (0.5 and 0.8 standard errors); not in penalties on abundances: OSP does harm (2.2). A
nonlinear decoder only costs on this scene.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import Partial, main

from unmix_jax.blind import consensus
from unmix_jax.endmembers.extraction import vca
from unmix_jax.metrics import align, mean_sad, rmse_per_endmember
from unmix_jax.networks.autoencoder import Autoencoder, MixingDecoder, MLPDecoder
from unmix_jax.networks.layers import AbsSum, LeakyReLU, ReLUSum, Sequential, Softmax, SumToOne
from unmix_jax.networks.losses import Objective, cosine_loss, mse, osp, sad
from unmix_jax.networks.recipes import dense, stack
from unmix_jax.networks.training import Trained, train
from unmix_jax.networks.zoo import RECIPES
from unmix_jax.readout import read_out
from unmix_jax.scenes.datasets import load

LOSSES = {"sad": sad, "cosine": cosine_loss, "mse": mse}
SUMS = ("softmax", "relu_sum", "abs_sum")
SLOPES = {"leaky": 0.1, "relu": 0.0}
BATCHES = (6, 10, 15, 25)
CHANGED = ("no_batch_norm", "deep", "vca_start", "osp", "scaled_softmax")
BASE = "sad_softmax_leaky"


@dataclass(frozen=True)
class Config:
    """Seeds of a cell, epochs, pixels to train on, every which pixel is scored; cells to run, none for all; key."""

    seeds: int = 25
    epochs: int = 40
    sample: int = 2000
    thin: int = 4
    cells: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class Cell:
    """One design; the base where nothing is said."""

    loss: str = "sad"
    simplex: str = "softmax"
    slope: float = 0.1
    batch: int = 15
    linear: bool = True
    norm: bool = True
    deep: bool = False
    vca_start: bool = False
    osp: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True)
class Samson:
    """Pixels, reference endmembers, and pixels with reference abundances to score."""

    pixels: np.ndarray
    endmembers: np.ndarray
    scored: np.ndarray
    abundances: np.ndarray


def design(config: Config) -> dict[str, Cell]:
    """The cells by name."""
    cells = {
        f"{loss}_{simplex}_{activation}": Cell(loss=loss, simplex=simplex, slope=slope)
        for loss in LOSSES
        for simplex in SUMS
        for activation, slope in SLOPES.items()
    }
    for kind in ("linear", "mlp"):
        cells |= {f"{kind}_batch{batch}": Cell(batch=batch, linear=kind == "linear") for batch in BATCHES}
    changes: tuple[Any, ...] = (
        {"norm": False},
        {"deep": True},
        {"vca_start": True},
        {"osp": 0.1},
        {"scale": 3.0},
    )
    cells |= {name: Cell(**change) for name, change in zip(CHANGED, changes, strict=True)}
    unknown = set(config.cells) - set(cells)
    if unknown:
        raise ValueError(f"no cells {sorted(unknown)}; there are {', '.join(cells)}")
    return {name: cell for name, cell in cells.items() if not config.cells or name in config.cells}


def samson(config: Config) -> Samson:
    """The scene."""
    scene = load("samson")
    pixels = np.asarray(scene.cube, np.float32).reshape(-1, scene.bands)
    truth = np.asarray(scene.abundances).reshape(len(pixels), -1)
    return Samson(pixels, np.asarray(scene.endmembers.spectra), pixels[:: config.thin], truth[:: config.thin])


def builder(cell: Cell, bands: int, count: int) -> Callable[[Any, Any], Autoencoder]:
    """How the network of a cell begins; what cells have in common has the same weights."""
    simplex: SumToOne = {"softmax": Softmax(cell.scale), "relu_sum": ReLUSum(), "abs_sum": AbsSum()}[cell.simplex]

    def build(key: Any, start: Any) -> Autoencoder:
        plain = RECIPES["simple"].build(key, bands, count, None)
        first, _, norm = plain.encoder.layers
        layers = RECIPES["daeu"].build(key, bands, count, None).encoder.layers[:-2] if cell.deep else (first,)
        layers = layers if cell.deep else (*layers, LeakyReLU(cell.slope))
        decoder: Any = plain.decoder if start is None else MixingDecoder(jnp.maximum(start, 0))
        if not cell.linear:
            own = jax.random.fold_in(key, 1)
            last = dense(jax.random.fold_in(own, 2), bands, bands)
            decoder = MLPDecoder(Sequential((*stack(own, count, (4 * count, bands), 0.1), last)), count)
        return Autoencoder(Sequential((*layers, norm) if cell.norm else layers), simplex, decoder)

    return build


def trained(cell: Cell, scene: Samson, config: Config) -> Trained:
    """All seeds of a cell."""
    count, bands = scene.endmembers.shape
    keys = jax.random.split(jax.random.key(config.seed), config.seeds)
    objective = Objective(LOSSES[cell.loss], ((jnp.asarray(cell.osp), osp),) if cell.osp else ())
    schedule = dataclasses.replace(
        RECIPES["simple"].schedule, epochs=config.epochs, batch=cell.batch, sample=config.sample
    )
    starts = None
    if cell.vca_start:
        starts = np.stack([np.asarray(vca(key, scene.pixels, count).endmembers) for key in keys])
    return train(builder(cell, bands, count), scene.pixels, objective, schedule, keys=keys, starts=starts)


def abundances(pixels: np.ndarray, spectra: np.ndarray) -> np.ndarray:
    """The projective read-out; none of what has no positive value, equal shares where a pixel has nothing."""
    lit = spectra.max(1) > 0
    shares = np.zeros((len(pixels), len(spectra)))
    if lit.any():
        shares[:, lit] = np.nan_to_num(np.asarray(read_out(pixels, spectra[lit], "projective").abundances))
    return np.where(shares.sum(1, keepdims=True) > 0, shares, 1 / len(spectra))


def agreement(sets: np.ndarray, stopped: Any) -> tuple[dict[str, float], int | None]:
    """Share of collapsed runs and how far apart the others are; the medoid, where one is left."""
    try:
        agreed = consensus(sets, stopped)
    except ValueError:  # all have collapsed
        return {"collapsed": 1.0}, None
    scores = {"collapsed": float(np.mean(agreed.collapsed))}
    if np.sum(~agreed.collapsed) > 1:
        scores["consistency"] = agreed.consistency
    return scores, agreed.chosen


def one(cell: Cell, scene: Samson, config: Config) -> dict[str, float]:
    """Train and score a cell."""
    runs = trained(cell, scene, config)
    sets = np.asarray(runs.endmembers)
    angles, errors = [], []
    for found in sets:
        spectra = np.where(np.isfinite(found).all(1, keepdims=True), found, 0)
        spectra = spectra[align(spectra, scene.endmembers)]
        angles.append(mean_sad(spectra, scene.endmembers))
        errors.append(float(rmse_per_endmember(abundances(scene.scored, spectra), scene.abundances)))
    scores = {
        "msad_mean": float(np.mean(angles)),
        "msad_std": float(np.std(angles, ddof=1)) if len(angles) > 1 else 0.0,
        "rmse_projective_mean": float(np.mean(errors)),
    }
    return scores | agreement(sets, np.asarray(runs.stopped) >= 0)[0]


def statements() -> dict[str, tuple[Sequence[str], ...]]:
    """Cells that are said to be better, and each group of cells that they are said to beat."""

    def sums(loss: str) -> tuple[Sequence[str], ...]:
        return tuple([f"{loss}_{simplex}_leaky"] for simplex in SUMS)

    leaky, relu = ([f"{loss}_{simplex}_{name}" for loss in LOSSES for simplex in SUMS] for name in SLOPES)
    linear, nonlinear = ([f"{kind}_batch{batch}" for batch in BATCHES] for kind in ("linear", "mlp"))
    return {
        "sad_beats_mse": ([BASE], ["mse_softmax_leaky"]),
        "true_sad_beats_cosine": ([BASE], ["cosine_softmax_leaky"]),
        "leaky_beats_relu": (leaky, relu),
        "softmax_best": sums("sad"),
        "softmax_best_mse": sums("mse"),
        "linear_beats_nonlinear": (linear, nonlinear),
        "small_batches_best": (linear[:2], linear[2:]),
        "batch_norm_helps": ([BASE], ["no_batch_norm"]),
        "shallow_suffices": ([BASE], ["deep"]),
        "vca_start_helps": (["vca_start"], [BASE]),
        "osp_helps": (["osp"], [BASE]),
        "scaled_softmax_helps": (["scaled_softmax"], [BASE]),
    }


def judged(found: dict[str, dict[str, float]], seeds: int) -> dict[str, float]:
    """Whether each statement holds, and by how many standard errors; those whose cells did not run are left out."""

    def level(names: Sequence[str]) -> tuple[float, float]:
        spread = np.sum([found[name]["msad_std"] ** 2 for name in names]) / seeds / len(names) ** 2
        return float(np.mean([found[name]["msad_mean"] for name in names])), float(spread)

    verdicts: dict[str, float] = {}
    for name, groups in statements().items():
        if not all(cell in found for group in groups for cell in group):
            continue
        (ours, own), *rivals = [level(group) for group in groups]
        theirs, other = min(rivals)
        verdicts[name] = float(ours < theirs)
        if own + other > 0:
            verdicts[f"{name}_sigmas"] = (theirs - ours) / (own + other) ** 0.5
    return verdicts


def run(config: Config) -> tuple[dict[str, float], Any]:
    """All cells; equal ones are run once."""
    pieces, scene = Partial(run, config), samson(config)
    found = {name: pieces.get(str(cell), lambda c=cell: one(c, scene, config)) for name, cell in design(config).items()}
    metrics = {f"{name}_{key}": value for name, scores in found.items() for key, value in scores.items()}
    return metrics | judged(found, config.seeds), figure(found)


def figure(found: dict[str, dict[str, float]]) -> Any:
    """Mean angle of each cell with its standard deviation, one panel per group."""
    from matplotlib.figure import Figure

    image = Figure(figsize=(12, 3.8), layout="constrained")
    axes = image.subplots(1, 3, sharey=True, width_ratios=(9, 4, 6))

    def draw(panel: Any, names: Sequence[str], shift: float, label: str | None = None) -> None:
        there = [(i + shift, found[name]) for i, name in enumerate(names) if name in found]
        if there:
            places, scores = zip(*there, strict=True)
            means, spread = ([s[f"msad_{kind}"] for s in scores] for kind in ("mean", "std"))
            panel.errorbar(places, means, spread, fmt="o", capsize=3, label=label)

    pairs = [(loss, simplex) for loss in LOSSES for simplex in SUMS]
    for activation, shift, label in (("leaky", -0.12, "leaky ReLU"), ("relu", 0.12, "ReLU")):
        draw(axes[0], [f"{loss}_{simplex}_{activation}" for loss, simplex in pairs], shift, label)
    axes[0].set_xticks(range(len(pairs)), [f"{loss}\n" + simplex.replace("_", "\n") for loss, simplex in pairs])
    for kind, shift, label in (("linear", -0.08, "linear"), ("mlp", 0.08, "three layers")):
        draw(axes[1], [f"{kind}_batch{batch}" for batch in BATCHES], shift, label)
    axes[1].set_xticks(range(len(BATCHES)), [str(batch) for batch in BATCHES])
    draw(axes[2], [BASE, *CHANGED], 0)
    axes[2].set_xticks(
        range(1 + len(CHANGED)), ["base", "no batch\nnorm", "deep", "VCA\nstart", "OSP", "softmax\nof 3 z"]
    )
    titles = ("loss, sum-to-one layer, activation", "decoder, by batch size", "one thing changed")
    for panel, title in zip(axes, titles, strict=True):
        panel.set_title(title)
        panel.tick_params(axis="x", labelsize="small")
        panel.margins(x=0.08)
        if panel.get_legend_handles_labels()[0]:
            panel.legend(frameon=False, fontsize="small")
    axes[0].set_yscale("log", nonpositive="clip")
    axes[0].set_ylim(0.01, 1)
    axes[0].set_ylabel("mSAD (rad)")
    return image


QUICK = ("sad_softmax_leaky", "mse_abs_sum_relu", "mlp_batch25", "deep", "vca_start", "osp")

if __name__ == "__main__":
    main(run, Config(), quick=Config(seeds=2, epochs=2, sample=200, thin=40, cells=QUICK))
