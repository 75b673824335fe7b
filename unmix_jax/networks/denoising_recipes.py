"""The autoencoders of the survey that denoise, are stacked or vary: a squared error, and VCA's endmembers to begin at.

Published descriptions leave much open; what was decided here is said with each.

Reference: Palsson, Sveinsson and Ulfarsson 2022, 10.1109/JSTARS.2021.3140154, and the methods' own papers.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from unmix_jax.linalg import inverse, matmul
from unmix_jax.networks.autoencoder import Autoencoder, MixingDecoder
from unmix_jax.networks.denoising import (
    AugmentedLogistic,
    Denoised,
    KnownDense,
    LogisticSum,
    TiedAutoencoder,
    UnitDecoder,
    below_zero,
    marginalised_denoiser,
    row_norms,
)
from unmix_jax.networks.layers import AugmentedRow, Dense, LeakyReLU, ReLUSum, Sequential, Variational
from unmix_jax.networks.losses import Lq, Objective, minimum_volume, mse
from unmix_jax.networks.recipes import Recipe, adam, follow, rmsprop, some, vca_start
from unmix_jax.networks.training import Schedule
from unmix_jax.solvers.least_squares import fcls
from unmix_jax.solvers.tables import Prepared, prepare_for

__all__ = ["DENOISING"]

SAMPLE = 4000  # pixels that uDAS, SNSA and DAEN are trained on
DETECTORS = 2  # autoencoders of SNSA that look for outliers


def abundances_of(pixels: Any, spectra: Any) -> Float[np.ndarray, "pixel endmember"]:
    """Fully constrained least squares."""
    return np.asarray(_abundances_of(jnp.asarray(pixels), prepare_for(("simplex",), spectra)), np.float64)


@eqx.filter_jit
def _abundances_of(pixels: Any, endmembers: Prepared) -> Any:
    return jax.vmap(lambda pixel: fcls(pixel, endmembers).abundances)(pixels)


def denoiser_and_spectra(key: Any, pixels: Any, count: int) -> dict[str, np.ndarray]:
    """What mDAE begins at."""
    weight, bias = marginalised_denoiser(some(pixels), 0.01)
    return {"weight": weight, "bias": bias, "spectra": vca_start(key, pixels, count)}


def mdae(key: Any, bands: int, count: int, start: Any) -> TiedAutoencoder:
    """A denoiser, a layer whose weights are the endmembers, a logistic function with a slope of its own for each unit.

    The denoiser is where training begins, with its bias; the published code leaves the bias out and applies the
    transposed weights. Slopes begin at one and shifts at zero, as there.

    Reference: Guo, Wang and Qi 2015 (mDAE), 10.1109/WHISPERS.2015.8075378.
    """
    encoder = Sequential((Dense(start["weight"], start["bias"]), Dense(start["spectra"])))
    return TiedAutoencoder(encoder, LogisticSum(jnp.ones(count), jnp.zeros(count)))


def denoiser_and_unmixing(key: Any, pixels: Any, count: int) -> dict[str, np.ndarray]:
    """What uDAS begins at: VCA's endmembers, and the linear map from pixels that is nearest to their abundances."""
    weight, bias = marginalised_denoiser(some(pixels), 1e-5, layers=12)
    start, few = vca_start(key, pixels, count), some(pixels)
    unmixing = np.linalg.lstsq(few, abundances_of(few, start), rcond=None)[0].T
    return {"weight": weight, "bias": bias, "spectra": start, "unmixing": unmixing}


def udas(key: Any, bands: int, count: int, start: Any) -> Denoised:
    """One linear layer and a ReLU, a decoder with weights of its own, and the denoised pixel as a second aim.

    It is trained by steps of Adam on all weights at once, where the published method alternates between conjugate
    gradients for the encoder and nonnegative least squares for the decoder. VCA runs once and on the pixels as they
    are, not a hundred times on denoised and spherised ones; there is no step of nonnegative factorisation. The code
    sums to one exactly, after the row of 20. The error is a mean over bands, where the published one is half a sum: the
    norms of the rows count for more here, by half the number of bands.

    Reference: Qu and Qi 2019 (uDAS), IEEE TGRS 57, 1698.
    """
    encoder = Sequential((Dense(start["unmixing"]), LeakyReLU()))
    decoder = UnitDecoder(jnp.clip(start["spectra"], 0, 1))
    return Denoised(encoder, AugmentedRow(20.0), decoder, KnownDense(start["weight"], start["bias"]), 1e-4)


def snsa(key: Any, bands: int, count: int, start: Any) -> Autoencoder:
    """A logistic layer that begins as the least-squares unmixing by VCA's endmembers, and a nonnegative decoder.

    The code before the row of ones is 1 / (1 + exp(2 − 4 s)) of the unmixing s: near s between zero and one. Slope and
    shift are trained, as are the weights of both layers, which are not tied; the code is what is kept nonnegative.
    Volume and sparsity weigh 1e-4 each; no weights are published.

    Reference: Su et al. 2018 (SNSA), IEEE GRSL 15.
    """
    spectra = jnp.maximum(start, 0)
    least_squares = matmul(inverse(matmul(start, start.T)), start)
    encoder = Sequential((Dense(least_squares), AugmentedLogistic.plain(count, 4.0, -2.0)))
    return Autoencoder(encoder, AugmentedRow(), MixingDecoder(spectra))


def no_outlier(key: Any, pixels: Any, count: int) -> Bool[np.ndarray, " pixel"]:
    """Where a pixel is rendered about as well as others by each of two nonnegative sparse autoencoders.

    An outlier has a root mean squared error above the median by more than five times the scaled median deviation, and
    is among the worst twentieth, so that a uniform scene keeps what is not uniform. The second autoencoder is trained
    without the outliers of the first. How the published method finds outliers is not known in full: the rule is ours.
    """
    kept = np.ones(len(pixels), bool)
    for stage in range(DETECTORS):
        own = jax.random.fold_in(key, stage)
        drawn = np.asarray(pixels)[np.asarray(jax.random.choice(own, np.flatnonzero(kept), (SAMPLE,)))]
        found = follow(DETECTOR, drawn, count, keys=own[None])
        rendered = matmul(found.abundances(pixels)[0], found.endmembers[0])
        error = np.sqrt(np.mean((np.asarray(pixels) - np.asarray(rendered)) ** 2, 1))
        middle = np.median(error[kept])
        rule = middle + 5 * 1.4826 * np.median(np.abs(error[kept] - middle))
        kept &= error <= max(rule, np.quantile(error[kept], 0.95))
    return kept


def stacked(key: Any, pixels: Any, count: int) -> dict[str, Any]:
    """What DAEN begins at: one autoencoder after another in closed form, then a linear map to abundances."""
    spectra, few = vca_start(key, pixels, count), some(pixels)
    coded, layers = few, []
    for width in (6 * count, 3 * count):
        about = coded - coded.mean(0)
        weight = np.linalg.eigh(about.T @ about)[1][:, ::-1][:, :width].T
        coded = coded @ weight.T
        lowest = coded.min(0)
        layers.append((weight, -lowest))
        coded = coded - lowest
    ones = np.concatenate([coded, np.ones((len(coded), 1))], 1)
    last = np.linalg.lstsq(ones, abundances_of(few, spectra), rcond=1e-6)[0].T
    return {"spectra": spectra, "layers": layers, "weight": last[:, :-1], "bias": last[:, -1]}


def daen(key: Any, bands: int, count: int, start: Any) -> Autoencoder:
    """Two layers that begin as stacked autoencoders, then a variational layer to abundances.

    Each stacked autoencoder is the best linear one of what the layer before makes of the pixels, in closed form: its
    weights are principal directions, 6 then 3 for each endmember, and its biases lift all pixels above zero, so that
    the encoder begins linear. The variational layer begins at the linear map that is nearest to the abundances of VCA's
    endmembers, with a standard deviation of 0.05. Its divergence weighs 1e-5, the volume 1e-4; no weights are
    published.

    Reference: Su, Li, Plaza, Marinoni, Gamba and Chakravortty 2019 (DAEN), IEEE TGRS 57, 4309.
    """
    layers: list[Any] = []
    for weight, bias in start["layers"]:
        layers += [Dense(weight, bias), LeakyReLU(0.1)]
    weight = jnp.concatenate([start["weight"], jnp.zeros_like(start["weight"])])
    bias = jnp.concatenate([start["bias"], jnp.full(count, 2 * jnp.log(0.05))])
    encoder = Sequential((*layers, Dense(weight, bias), Variational(1e-5)))
    return Autoencoder(encoder, ReLUSum(), MixingDecoder(jnp.maximum(start["spectra"], 0)))


SPARSE = Objective(mse, ((1e-4, minimum_volume), (1e-4, Lq(0.5))))

DETECTOR = Recipe(snsa, SPARSE, Schedule(10, 64, adam(3e-3), sample=None), start=vca_start)

DENOISING: dict[str, Recipe] = {
    "mdae": Recipe(
        mdae,
        Objective(mse, ((10.0, below_zero),)),
        Schedule(10, 64, rmsprop(1e-3, momentum=0.9), sample=90000),
        start=denoiser_and_spectra,
    ),
    "udas": Recipe(
        udas,
        Objective(mse, ((1e-6 * (SAMPLE / 1000) ** 0.5, row_norms),)),
        Schedule(40, 64, adam(1e-3), sample=SAMPLE),
        start=denoiser_and_unmixing,
    ),
    "snsa": Recipe(
        snsa, SPARSE, Schedule(40, 64, adam(3e-3), sample=SAMPLE), start=vca_start, keep=no_outlier,
    ),
    "daen": Recipe(
        daen,
        Objective(mse, ((1e-4, minimum_volume),)),
        Schedule(40, 64, adam(1e-3), sample=SAMPLE),
        start=stacked,
    ),
}  # fmt: skip
