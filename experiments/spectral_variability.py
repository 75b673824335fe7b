"""Blind methods on scenes whose spectral variability is known: do losses that see brightness lose by it?

    python experiments/spectral_variability.py

17 minutes on one core, to which it binds itself. After section IV-D of the survey (Palsson, Sveinsson and Ulfarsson
2022, 10.1109/JSTARS.2021.3140154). A variational autoencoder with two latent numbers learns the pure pixels of the
first four materials of Urban (UNMIX_JAX_DATA), as the Urban image itself could not be had. Each pixel of 100 × 100 has
endmembers of its own, drawn uniformly in discs of radius 0, 0.1, 0.2, 0.4 around the codes of the means. Abundances are
smooth (softmax of Gaussian fields, contrast 3, length 10), where the survey takes those of Urban, and there is white
noise of 40 dB, where it adds none. The reference are the decoded centres.

Methods: `simple`, `daeu`, `endnet`, `mtaeu` (the only one that looks at neighbours) and `recommended` have losses that
do not see the scale of a spectrum (that of `endnet` hardly); `mse` (`simple` with the mean square and nothing else
changed), `nae` and `nmf` (L1/2) see it. 10 seeds each; of `recommended` 3 keys, each the refined medoid of 10 seeds,
so that its spread is not that of one run. `nmf` gets pixels clipped at zero.

- `msad_r<radius>_<method>`, `_std`: mean angle to the reference, radians, over all runs, collapsed ones too;
  `sad_r<radius>_<method>_<material>`: of one endmember;
- `consistency_...`: mean angle between two runs; `collapsed_...`: share of the runs that do not count for it: stopped,
  with a spectrum of zeros, or two that are one;
- `rmse_...`: error of the projective abundances of the medoid run, as eq. 33, against those in that gauge;
  `cpu_s_...`: of all runs, compiling too;
- `disc_...`: of the generative model, see `blind_methods.table`.

Statements, 1 where true: `keeps_<method>`: from radius 0 to 0.4 mSAD grows at most by a half, or by 0.03 rad;
`scale_invariant_keep`: `simple`, `daeu`, `endnet`, `mtaeu` all do; `mse_lose`: `mse`, `nae`, `nmf` are all worse at 0.4
than at 0, by over two standard errors of the seeds (there is one scene of each radius); `mse_good_at_zero`: at radius 0
these three are better in the mean than those four (survey: yes); `mse_worse_at_<radius>`: worse in the mean;
`like_for_like_<radius>`: `simple` better than `mse`; `spatial_more_consistent`: `mtaeu` more consistent than `simple`
and `daeu` in the mean, over all radii.

Wanted (survey): methods with a loss blind to scale keep their mSAD, but for DAEU; those with the mean square are very
good without variability and lose with it; looking at neighbours helps.
Expected, mSAD at radius 0, 0.1, 0.2, 0.4: simple 0.066, 0.072, 0.067, 0.066 (few runs far off); daeu 0.064, 0.080,
0.090, 0.084; endnet 0.060, 0.060, 0.061, 0.061; mtaeu 0.049, 0.049, 0.048, 0.048; recommended 0.014, 0.013, 0.021,
0.040; mse 0.059, 0.058, 0.061, 0.094; nae 0.004, 0.024, 0.047, 0.083; nmf 0.066, 0.067, 0.071, 0.079. The survey is
confirmed: losses blind to scale keep their mSAD, DAEU least; those that see it are better in the mean without
variability (`nae` by far, `nmf` not), lose by it, and are worse at 0.4; like for like, `simple` is better than `mse`
at 0.4 alone. MTAEU is the most consistent of the networks that begin at random. The discs vary less than the real
bundles do: at 0.4 the brightness of trees by 11 % and of roofs by 14 %, in the bundles by 46 and 92 %.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from autoencoder_figures import canvas
from blind_methods import (
    BOUND,
    FREE,
    METHODS,
    bars,
    flat,
    lines,
    quick,
    score,
    statements,
    table,
    urban_bundles,
    urban_disc,
    urban_scene,
)
from common import Partial, main, one_core

SHOWN = (0.05, 0.4)  # radii of the second figure
DRAWS = 40  # spectra in each of its panels


@dataclass(frozen=True)
class Config:
    """Seeds, keys of the recommended method, epochs (0: a recipe's), side of the scenes, epochs of the generator."""

    seeds: int = 10
    keys: int = 3
    epochs: int = 0
    size: int = 100
    learned: int = 400
    snr: float = 40.0
    radii: tuple[float, ...] = (0.0, 0.1, 0.2, 0.4)
    methods: tuple[str, ...] = METHODS
    seed: int = 0


def checks(found: dict[tuple[float, str], Any], config: Config) -> dict[str, Any]:
    """The statements."""
    least, most = min(config.radii), max(config.radii)

    def mean(radius: float, methods: tuple[str, ...]) -> float:
        return float(np.mean([found[radius, one]["msad"] for one in methods]))

    def keeps(method: str) -> bool:
        before, after = found[least, method]["msad"], found[most, method]["msad"]
        return after <= max(1.5 * before, before + 0.03)

    def loses(method: str) -> bool:
        before, after = found[least, method], found[most, method]
        error = ((before["std"] ** 2 + after["std"] ** 2) / config.seeds) ** 0.5
        return after["msad"] - before["msad"] > 2 * error

    def agrees(method: str) -> float:
        return float(np.mean([found[radius, method]["consistency"] for radius in config.radii]))

    checks: dict[str, Any] = {f"keeps_{one}": lambda one=one: keeps(one) for one in config.methods}
    checks |= {
        "scale_invariant_keep": lambda: min(map(keeps, FREE)),
        "mse_lose": lambda: min(map(loses, BOUND)),
        "mse_good_at_zero": lambda: mean(least, BOUND) < mean(least, FREE),
        "spatial_more_consistent": lambda: agrees("mtaeu") < 0.5 * (agrees("simple") + agrees("daeu")),
    }
    for r in config.radii:
        checks |= {
            f"mse_worse_at_{r:g}": lambda r=r: mean(r, BOUND) > mean(r, FREE),
            f"like_for_like_{r:g}": lambda r=r: found[r, "simple"]["msad"] < found[r, "mse"]["msad"],
        }
    return checks


def samples(disc: Any) -> Any:
    """Endmembers drawn at two radii, with their reference, and the bundles that they were learned from."""
    import equinox as eqx
    import jax

    image, panels = canvas(3 * len(disc.names), 7.5, 3, len(disc.names))
    spectra, classes = urban_bundles(disc.names)
    keys = jax.random.split(jax.random.key(3), DRAWS)
    for row, radius in zip(panels, SHOWN, strict=False):
        drawn = np.asarray(eqx.filter_vmap(disc.with_radius(radius))(keys))
        for i, (panel, name) in enumerate(zip(row, disc.names, strict=True)):
            lines(panel, drawn[:, i], disc.references[i], f"{name}, radius {radius:g}")
    for panel, name in zip(panels[-1], disc.names, strict=True):
        mine = spectra[classes == name]
        lines(panel, mine[:: max(1, len(mine) // DRAWS)], mine.mean(0), f"{name}, bundle")
    return image


def run(config: Config) -> tuple[dict[str, float], Any]:
    """All radii and methods, piece by piece."""
    pieces, disc = Partial(run, config), urban_disc(seed=config.seed, epochs=config.learned)
    metrics, found = table(disc, (0.05, *config.radii)), {}
    for radius in config.radii:
        truth = urban_scene(disc, radius, config.seed, config.size, config.snr)
        for method in config.methods:
            scores = pieces.get(f"{radius:g} {method}", lambda m=method, t=truth: score(m, t, config))
            found[radius, method] = scores
            metrics |= flat(scores, f"r{radius:g}_{method}", disc.names)
    metrics |= statements(checks(found, config))
    image, ((panel,),) = canvas(10, 4, 1, 1)
    by_method = {method: [found[radius, method] for radius in config.radii] for method in config.methods}
    bars(panel, [f"radius {radius:g}" for radius in config.radii], by_method)
    return metrics, {"": image, "_samples": samples(disc)}


if __name__ == "__main__":
    one_core()
    small = quick(Config(), learned=5, radii=(0.0, 0.4), methods=("simple", "mtaeu", "recommended", "mse", "nmf"))
    main(run, Config(), quick=small)
