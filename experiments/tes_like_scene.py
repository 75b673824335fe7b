"""A map like those of Mars in thermal emission: where is the hematite, by FCLS and by analysis-by-synthesis?

    taskset -c 0 python experiments/tes_like_scene.py

There are no observations here: the scene is rendered, and its truth is known. 42 endmembers of the Rogers library (the
authors' dispersion parameters) and a blackbody; 73 bands, evenly from 233 to 1299 cm⁻¹; 250 × 400 pixels. What is drawn
(a field is white Gaussian noise smoothed to 1/50 of the map's width; u is its rank, uniform over the map):

- number of endmembers of a pixel, k from 3 to 6, equally often, in patches of a field;
- which: of 41 fields, one for each endmember but hematite, the k that are greatest;
- shares of minerals: −log u of 41 more fields, divided by their sum over the k: Dirichlet(1) at each pixel, smooth in
  space but for the borders where an endmember comes or goes;
- blackbody: 0.1 to 0.5 of the pixel, uniformly, smooth; the minerals share the rest;
- one deposit of hematite, an ellipse of 4 % of the map with a rough border, up to `richest` of the mineral part in its
  middle and falling to zero at the border, in place of the rarest of the k. No hematite elsewhere;
- every oscillator of every endmember of every pixel: uniformly and independently within ±1 % (frequency), ±5 %
  (strength) and ±5 % (damping). The blackbody is 1 and does not move;
- white noise of emissivity, σ = 0.003.

`gap` puts the 73 bands on TES's own grid of 10.58 cm⁻¹ instead, without the CO2 band of the atmosphere (233–508 and
825–1301 cm⁻¹). All methods know the library at rest; all but FCLS also know the box and the noise level.

METHOD_rms is the mean over pixels of the RMS residual of a spectrum, as in the paper (FCLS 0.0043,
analysis-by-synthesis 0.0038 on real spectra, which have no truth). What moved endmembers explain is no residual, so it
falls below the noise. Hematite is found where its abundance exceeds a
threshold: `detected` is the share found of the pixels that truly have more than the threshold, `false` the share found
of all pixels outside of the deposit, `right` the share of what is found that lies in the deposit, and
`false_at_90pct` the false share at the threshold by which nine tenths of the pixels with 5 % and more are found.
`oracle` is FCLS with the endmembers that the pixel was rendered with. Times are CPU times, rendering and compilation
apart. `posterior_converged` is low: 200 sweeps do not settle all that is alike among 43 endmembers.

Expected, abundance RMSE: FCLS 0.0324, `marginal` 0.0244, `map` 0.0239, `posterior` 0.0214 (oracle 0.44 of FCLS's); RMS
0.0051, 0.0024, 0.0023, 0.0024; false hematite at 90 % found: 2.9 %, 0.35 %, 0.26 %, 0.08 % of the pixels outside. Needs
UNMIX_JAX_DATA with feely; 40 minutes on one core, it resumes.

Reference: Janiczek et al. 2020, figure 8, arXiv:2007.05996.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from common import Partial, main
from scipy.ndimage import gaussian_filter
from scipy.stats import rankdata

from unmix_jax.driver import unmix
from unmix_jax.physics.box import box_around
from unmix_jax.physics.dispersion import Dispersion, from_axes, stack, unstack
from unmix_jax.physics.variation import DispersionVariation
from unmix_jax.scenes.dispersion_files import load_dispersion
from unmix_jax.solvers.least_squares import fcls, prepare
from unmix_jax.solvers.synthesis import map_synthesis, marginal, posterior, prepare_synthesis

BOX = {"frequency": 0.01, "damping": 0.05, "strength": 0.05, "epsilon_inf": 0.0, "weights": 0.0}
METHODS = ("fcls", "marginal", "posterior", "map")
COUNT = 43  # endmembers, the blackbody last
FEWEST, MOST = 3, 6  # endmembers of a pixel, blackbody not counted
BLACKBODY = (0.1, 0.5)  # its share
SIZE = 0.04  # of the deposit, share of the map
RENDERED = 64  # pixels whose endmembers are rendered at once


@dataclass(frozen=True)
class Config:
    """Options of the experiment.

    Attributes:
        pixels: of the map, to the next full row; its sides are as 5 to 8.
        noise: standard deviation, fraction of emissivity.
        gap: bands on TES's grid without the CO2 band of the atmosphere, instead of evenly.
        richest: greatest share of hematite in the mineral part of a pixel.
        thresholds: of found hematite, per cent.
        rank: of the basis, at most the number of bands.
        max_steps: of `map_synthesis`.
        members: of `map_synthesis`.
        sweeps: of `posterior`.
        oracle: pixels that are unmixed with their own endmembers too.
        tile: pixels per piece of the run.
        seed: of everything drawn.
    """

    pixels: int = 100_000
    noise: float = 0.003
    gap: bool = False
    richest: float = 0.25
    thresholds: tuple[int, ...] = (1, 2, 5)
    rank: int = 73
    max_steps: int = 10
    members: int = 8
    sweeps: int = 200
    oracle: int = 1000
    tile: int = 500
    seed: int = 0


class Scene(eqx.Module):
    """What the pixels are made of; spectra are rendered when they are needed.

    Attributes:
        members: endmembers of each pixel; those beyond its number have share zero.
        shares: of these members, blackbody not counted.
        blackbody: its share.
        shape: rows and columns.
    """

    members: np.ndarray
    shares: np.ndarray
    blackbody: np.ndarray
    shape: tuple[int, int]

    def abundances(self, rows: slice) -> np.ndarray:
        """[pixel, endmember], the blackbody last."""
        members, shares = self.members[rows], self.shares[rows]
        truth = np.zeros((len(members), COUNT))
        np.put_along_axis(truth, members, shares, 1)
        truth[:, -1] = self.blackbody[rows]
        return truth


def wavenumbers(config: Config) -> np.ndarray:
    """The 73 bands, cm⁻¹."""
    if not config.gap:
        return np.linspace(233.0, 1299.0, 73)
    grid = 148.13 + 10.58 * np.arange(143)
    return grid[((grid > 232) & (grid < 509)) | ((grid > 824) & (grid < 1302))]


def modelled() -> tuple[list[str], Dispersion]:
    """The library, and behind it a blackbody: no oscillators, refractive index 1."""
    path = Path(os.environ["UNMIX_JAX_DATA"]) / "feely" / "rogers_tes_dispersion_params.json"
    names, library, _ = load_dispersion(path)
    blackbody = from_axes([[]], [[]], [[]], [1.0])
    return [*names, "Blackbody"], stack([*unstack(library), blackbody])


def compose(hematite: int, config: Config) -> Scene:
    """Which endmembers each pixel has, and how much of each."""
    rows = max(2, round((config.pixels * 5 / 8) ** 0.5))
    shape = (rows, max(2, -(-config.pixels // rows)))
    total = shape[0] * shape[1]
    rng = np.random.default_rng(config.seed)

    def field() -> np.ndarray:
        """Smooth, uniform from 0 to 1 over the map."""
        smooth = gaussian_filter(rng.normal(size=shape), shape[1] / 50, mode="nearest")
        return (rankdata(smooth.ravel()) - 0.5) / total

    others = np.setdiff1d(np.arange(COUNT - 1), hematite)
    chosen = np.argsort(-np.stack([field() for _ in others], -1), axis=1)[:, :MOST]
    shares = np.take_along_axis(np.stack([-np.log(field()) for _ in others], -1), chosen, 1)
    many = FEWEST + np.floor((MOST - FEWEST + 1) * field()).astype(int)
    blackbody = BLACKBODY[0] + (BLACKBODY[1] - BLACKBODY[0]) * field()
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    distance = ((x - 0.25) / 0.8) ** 2 + ((y + 0.2) / 1.0) ** 2
    rough = rankdata(distance.ravel() * (0.6 + 0.8 * field())) / total
    rich = config.richest * np.clip(1 - rough / SIZE, 0, 1)

    members, inside = others[chosen], rich > 0
    shares[np.arange(MOST) >= many[:, None]] = 0
    last = many[inside] - 1
    members[inside, last], shares[inside, last] = hematite, 0
    shares *= (1 - rich)[:, None] / shares.sum(1, keepdims=True)
    shares[inside, last] = rich[inside]
    return Scene(members, shares * (1 - blackbody)[:, None], blackbody, shape)


@jax.jit
def _render(generator: DispersionVariation, members: Any, shares: Any, rest: Any, noise: Any, keys: Any) -> Any:
    """Spectra, and the endmembers that each was mixed from."""

    def one(pixel: Any) -> Any:
        members, shares, rest, key = pixel
        first, second = jax.random.split(key)
        u = jax.random.uniform(first, (MOST, generator.free.shape[1]), minval=-1, maxval=1)
        moved = generator.select(members)(u)
        spectrum = jnp.sum(shares[:, None] * moved, 0) + rest
        return spectrum + noise * jax.random.normal(second, spectrum.shape), moved

    return jax.lax.map(one, (members, shares, rest, keys), batch_size=RENDERED)


def render(scene: Scene, generator: DispersionVariation, numbers: np.ndarray, config: Config) -> Any:
    """Spectra of the pixels of these numbers [pixel, band], and their endmembers [pixel, member, band]."""
    key = jax.random.key(config.seed)
    keys = jax.vmap(lambda n: jax.random.fold_in(key, n))(jnp.asarray(numbers, jnp.uint32))
    single = [np.asarray(a[numbers], np.float32) for a in (scene.shares, scene.blackbody)]
    members = jnp.asarray(scene.members[numbers], jnp.int32)
    return jax.tree.map(np.asarray, _render(generator, members, *single, np.float32(config.noise), keys))


class Work:
    """What a run computes, tile by tile; nothing is prepared before it is needed."""

    def __init__(self, scene: Scene, generator: DispersionVariation, hematite: int, config: Config) -> None:
        self.scene, self.generator, self.hematite, self.config = scene, generator, hematite, config
        self.unmixers: dict[str, Any] = {}

    def library(self) -> np.ndarray:
        """The endmembers at rest."""
        return np.asarray(self.generator(jnp.zeros(self.generator.free.shape)), np.float64)

    def ready(self) -> None:
        """Prepare, and compile on the first tile."""
        if self.unmixers:
            return
        config = self.config
        problem = prepare_synthesis(self.generator, noise=config.noise, rank=config.rank)
        self.unmixers = {
            "fcls": eqx.Partial(fcls, endmembers=prepare(self.library())),
            "marginal": eqx.Partial(marginal, endmembers=problem),
            "posterior": eqx.Partial(posterior, endmembers=problem, sweeps=config.sweeps),
            "map": eqx.Partial(map_synthesis, endmembers=problem, max_steps=config.max_steps, members=config.members),
        }
        spectra, _ = render(self.scene, self.generator, np.arange(2), config)
        for unmixer in self.unmixers.values():
            unmix(unmixer, spectra, tile=config.tile)

    def tile(self, rows: slice) -> dict[str, Any]:
        """Sums over the pixels of a tile, and their hematite."""
        self.ready()
        truth = self.scene.abundances(rows)
        spectra, _ = render(self.scene, self.generator, np.arange(rows.start, rows.stop), self.config)
        piece: dict[str, Any] = {}
        for name, unmixer in self.unmixers.items():
            start = time.process_time()
            solution = unmix(unmixer, spectra, tile=self.config.tile)
            piece[f"{name}_cpu"] = time.process_time() - start
            piece[f"{name}_squares"] = np.sum((solution.abundances - truth) ** 2, 0).tolist()
            piece[f"{name}_residual"] = float(np.sum(solution.residual))
            piece[f"{name}_residual_squares"] = float(np.sum(np.float64(solution.residual) ** 2))
            piece[f"{name}_converged"] = int(np.sum(solution.converged))
            piece[f"{name}_hematite"] = [round(float(x), 6) for x in solution.abundances[:, self.hematite]]
            if name != "fcls":
                piece[f"{name}_chi2"] = float(np.sum(solution.fitted["chi2"]))
        piece["map_steps"] = int(np.sum(solution.steps))
        return piece

    def oracle(self, some: int) -> dict[str, float]:
        """FCLS with the endmembers of each pixel where it has them, and with the library, on the same pixels."""
        total = len(self.scene.members)
        numbers = np.unique(np.linspace(0, total - 1, min(some, total)).astype(int))
        spectra, moved = render(self.scene, self.generator, numbers, self.config)
        library = jnp.asarray(self.library(), jnp.float32)

        @jax.jit
        def solve(pixel: Any, members: Any, moved: Any) -> Any:
            return fcls(pixel, library.at[members].set(moved)).abundances

        truth = np.concatenate([self.scene.abundances(slice(n, n + 1)) for n in numbers])
        pixels = zip(spectra, self.scene.members[numbers], moved, strict=True)
        known = np.array([solve(*pixel) for pixel in pixels])
        fixed = unmix(eqx.Partial(fcls, endmembers=prepare(self.library())), spectra).abundances
        return {"oracle": rmse(known, truth), "fcls": rmse(fixed, truth)}


def rmse(found: np.ndarray, truth: np.ndarray) -> float:
    """Over pixels and endmembers."""
    return float(np.sqrt(np.mean((found - truth) ** 2)))


def hematite_metrics(name: str, found: np.ndarray, truth: np.ndarray, config: Config) -> Iterator[tuple[str, float]]:
    """How much of the deposit is found, and how much beside it."""
    outside = truth == 0
    yield f"{name}_hematite_rmse", rmse(found, truth)
    yield f"{name}_hematite_bias_inside", float(np.mean((found - truth)[~outside]))
    yield f"{name}_hematite_mean_outside", float(np.mean(found[outside]))
    for per_cent in config.thresholds:
        above = found > per_cent / 100
        rich = truth > per_cent / 100
        yield f"{name}_hematite_detected_{per_cent}pct", float(np.mean(above[rich])) if rich.any() else np.nan
        yield f"{name}_hematite_false_{per_cent}pct", float(np.mean(above[outside]))
        right = float(np.mean(~outside[above])) if above.any() else np.nan
        yield f"{name}_hematite_right_{per_cent}pct", right
    rich = truth > 0.05
    limit = np.quantile(found[rich], 0.1) if rich.any() else np.nan
    yield f"{name}_hematite_threshold_at_90pct", float(limit)
    yield f"{name}_hematite_false_at_90pct", float(np.mean(found[outside] >= limit)) if rich.any() else np.nan


def run(config: Config) -> tuple[dict[str, float], Any]:
    """The whole map."""
    pieces = Partial(run, config)
    names, library = modelled()
    hematite = names.index("Hematite (TT derived)")
    generator = DispersionVariation(library, box_around(library, **BOX), wavenumbers(config))
    scene = compose(hematite, config)
    work = Work(scene, generator, hematite, config)
    total = len(scene.members)
    edges = range(0, total, config.tile)
    tiles = [
        pieces.get(f"pixel {start}", partial(work.tile, slice(start, min(start + config.tile, total))))
        for start in edges
    ]
    floor = pieces.get("oracle", partial(work.oracle, config.oracle))

    def whole(key: str) -> Any:
        return sum(np.asarray(tile[key]) for tile in tiles)

    maps = {"truth": scene.abundances(slice(None))[:, hematite]}
    metrics: dict[str, float] = {"pixels": total, "oracle_rmse_over_fcls": floor["oracle"] / floor["fcls"]}
    errors = {}
    for name in METHODS:
        maps[name] = np.concatenate([tile[f"{name}_hematite"] for tile in tiles])
        errors[name] = np.sqrt(whole(f"{name}_squares") / total)
        metrics[f"{name}_abundance_rmse"] = float(np.sqrt(np.mean(errors[name] ** 2)))
        metrics[f"{name}_blackbody_rmse"] = float(errors[name][-1])
        metrics[f"{name}_rms"] = float(whole(f"{name}_residual")) / total
        metrics[f"{name}_reconstruction_rmse"] = float(np.sqrt(whole(f"{name}_residual_squares") / total))
        metrics[f"{name}_converged"] = float(whole(f"{name}_converged")) / total
        rate = total / float(whole(f"{name}_cpu"))
        metrics["spectra_per_cpu_s" if name == "map" else f"{name}_spectra_per_cpu_s"] = rate
        metrics |= dict(hematite_metrics(name, maps[name], maps["truth"], config))
    for name in METHODS[1:]:
        metrics[f"{name}_rmse_over_fcls"] = metrics[f"{name}_abundance_rmse"] / metrics["fcls_abundance_rmse"]
        metrics[f"{name}_chi2_mean"] = float(whole(f"{name}_chi2")) / total
    metrics["map_steps_mean"] = float(whole("map_steps")) / total
    shaped = {name: values.reshape(scene.shape) for name, values in maps.items()}
    return metrics, draw(shaped, errors, names, metrics, config)


TITLES = {"truth": "truth", "fcls": "FCLS", "marginal": "marginal", "posterior": "posterior", "map": "map_synthesis"}
COLOURS = {"fcls": "#D55E00", "marginal": "#009E73", "posterior": "#CC79A7", "map": "#0072B2"}


def draw(
    maps: dict[str, Any], errors: dict[str, Any], names: list[str], metrics: dict[str, float], config: Config
) -> Any:
    """Hematite by each method, and the errors of all endmembers."""
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(13, 8.5), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.35, 1))
    panels = top.subplots(2, 3)
    panels.flat[-1].axis("off")
    for axis, (name, values) in zip(panels.flat, maps.items(), strict=False):
        image = axis.imshow(values, vmin=0, vmax=0.2, cmap="magma", interpolation="nearest")
        title = f"hematite, {TITLES[name]}"
        if name != "truth":
            title += f" ({100 * metrics[f'{name}_hematite_false_at_90pct']:.2g} % false at 90 % found)"
        axis.set_title(title, fontsize=9.5, loc="left")
        axis.set(xticks=[], yticks=[])
        if name != "truth":
            axis.contour(maps["truth"] > 0, [0.5], colors="white", linewidths=0.6)
    top.colorbar(image, ax=panels, label="abundance", shrink=0.6, extend="max")

    by_endmember, summary = bottom.subplots(1, 2, width_ratios=(2.2, 1))
    order = np.argsort(-errors["fcls"])
    for name in METHODS:
        by_endmember.plot(range(len(order)), errors[name][order], "o", ms=3.5, color=COLOURS[name], label=TITLES[name])
    by_endmember.set_xticks(range(len(order)), [names[i] for i in order], rotation=90, fontsize=6.5)
    by_endmember.set(ylabel="abundance RMSE", ylim=(0, None), xlim=(-1, len(order)))
    by_endmember.legend(frameon=False, fontsize=8)
    heights = [metrics[f"{name}_rms"] for name in METHODS]
    summary.bar(range(len(METHODS)), heights, color=[COLOURS[name] for name in METHODS], width=0.6)
    for place, height in enumerate(heights):
        summary.text(place, 0.02 * max(heights), f"{height:.4f}", ha="center", color="white", fontsize=9)
    summary.axhline(config.noise, color="0.4", lw=1, ls="--")
    summary.text(len(METHODS) - 0.5, 1.02 * config.noise, "noise", ha="right", va="bottom", fontsize=8, color="0.4")
    labels = [f"{name}\nabundance\nRMSE {metrics[f'{name}_abundance_rmse']:.4f}" for name in METHODS]
    summary.set_xticks(range(len(METHODS)), labels, fontsize=8)
    summary.set(ylabel="RMS residual of a spectrum", xlim=(-0.5, len(METHODS) - 0.5))
    for axis in (by_endmember, summary):
        axis.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    main(run, Config(), quick=Config(pixels=60, tile=20, oracle=6))
