"""Simulated mixtures: abundances, any mixing model, endmembers that vary, a sensor and its noise, drawn from one key.

Pixel number n draws from ``jax.random.fold_in(key, n)``, so that a pixel depends neither on how many follow nor on the
tile it is made in.
"""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from unmix_jax.linalg import matmul
from unmix_jax.physics.mixing import Linear, Mixing
from unmix_jax.physics.variation import Variation
from unmix_jax.scenes.noise import add_noise, snr_std

__all__ = ["Mixtures", "abundance_field", "draw_abundances", "synthesize"]

TRIES = 200  # draws of a pixel until none of its abundances is above the cap
BATCH = 256  # pixels whose own endmembers are in memory at once


class Mixtures(eqx.Module):
    """Simulated pixels and all that is known of them.

    Attributes:
        spectra: as the sensor sees them, with noise, in the unit of the endmembers.
        abundances: of each pixel.
        clean: spectra without noise.
        mixing: the model; where each pixel drew its own, its arrays have a leading pixel axis.
    """

    spectra: Float[Array, "pixel band"]
    abundances: Float[Array, "pixel endmember"]
    clean: Float[Array, "pixel band"]
    mixing: Any


def draw_abundances(
    key: Key[Array, ""],
    pixels: int,
    count: int,
    *,
    materials: int | Sequence[int] | None = None,
    concentration: float = 1.0,
    floor: float = 0.0,
    cap: float = 1.0,
) -> Float[Array, "pixel endmember"]:
    """Abundances by Dirichlet's law, over some of the endmembers, between a floor and a cap.

    ``a = floor + (1 − k floor) Dirichlet(concentration)`` over k materials that are drawn uniformly, drawn again until
    none is above the cap; with concentration 1 that is uniform on what floor and cap leave of the simplex.

    Args:
        key: random key.
        pixels: how many.
        count: of endmembers.
        materials: k, in each pixel; several: each pixel draws one of them; None: all.
        concentration: above zero; 1 is uniform, less is purer.
        floor: least abundance of a material that is there.
        cap: greatest abundance; where pixels of one material are to be drawn, 1.

    Returns:
        Abundances, dimensionless, that sum to one; float32, or float64 where that is on.

    Raises:
        ValueError: numbers that are not positive, more materials than endmembers, or floor and cap that leave nothing.
    """
    several = np.unique(np.atleast_1d(count if materials is None else np.asarray(materials)))
    if pixels < 1 or count < 1:
        raise ValueError(f"pixels and endmembers must be positive, got {pixels} and {count}")
    if several[0] < 1 or several[-1] > count:
        raise ValueError(f"materials lie between 1 and the {count} endmembers, got {several.tolist()}")
    if not concentration > 0:
        raise ValueError(f"concentration must be positive, got {concentration}")
    if not (0 <= floor * several[-1] <= 1 and (cap * several[0] > 1 or cap == 1)):
        raise ValueError(f"floor {floor:g} and cap {cap:g} leave no abundances of {several.tolist()} materials")

    def one(n: Array) -> Array:
        own = jax.random.fold_in(key, n)
        whose, how_many, first = jax.random.split(own, 3)
        k = jax.random.choice(how_many, jnp.asarray(several))
        there = jnp.argsort(jax.random.uniform(whose, (count,))) < k

        def draw(key: Array) -> Array:
            logarithm = jax.random.loggamma(key, concentration, (count,))
            share = jax.nn.softmax(jnp.where(there, logarithm, -jnp.inf))
            return jnp.where(there, floor + (1 - k * floor) * share, 0.0)

        def above(state: tuple[Array, Array, Array]) -> Array:
            return (jnp.max(state[1]) > cap) & (state[2] < TRIES)

        def again(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            following, now = jax.random.split(state[0])
            return following, draw(now), state[2] + 1

        following, now = jax.random.split(first)
        if cap == 1:  # none is above it: nothing is drawn again
            return draw(now)
        _, drawn, _ = jax.lax.while_loop(above, again, (following, draw(now), jnp.asarray(1)))
        middle, most = 1 / k, jnp.max(drawn)  # luck ran out: drawn towards equal shares, onto the cap
        inward = jnp.where(most > cap, (cap - middle) / jnp.where(most > cap, most - middle, 1.0), 1.0)
        return jnp.where(there, middle + inward * (drawn - middle), 0.0)

    return jax.vmap(one)(jnp.arange(pixels))


def abundance_field(
    key: Key[Array, ""], rows: int, columns: int, count: int, *, length: float = 10.0, contrast: float = 3.0
) -> Float[Array, "row column endmember"]:
    """Abundances that change smoothly over an image: a softmax of Gaussian random fields.

    The fields have variance `contrast`² and correlation exp(−d²/(4 length²)) at distance d, away from the border as at
    it.

    Args:
        key: random key.
        rows: of the image.
        columns: of the image.
        count: of endmembers.
        length: of the kernel, pixels, above zero.
        contrast: standard deviation of the logarithms; 1 is mixed everywhere, 10 nearly pure.

    Returns:
        Abundances, dimensionless, that sum to one.

    Raises:
        ValueError: numbers that are not positive.
    """
    if min(rows, columns, count) < 1 or not length > 0 or not contrast >= 0:
        raise ValueError(
            f"rows, columns, endmembers and length must be positive, got {rows}, {columns}, {count}, {length}; "
            f"contrast not below zero, got {contrast}"
        )

    def kernel(size: int) -> Array:
        """From white noise, some of it beyond the border, to a field of unit variance."""
        beyond = int(np.ceil(4 * length))
        apart = np.arange(size)[:, None] - np.arange(-beyond, size + beyond)[None]
        weight = np.exp(-0.5 * (apart / length) ** 2)
        return jnp.asarray(weight / np.linalg.norm(weight, axis=1, keepdims=True), jnp.result_type(float))

    down, across = kernel(rows), kernel(columns)
    white = jax.random.normal(key, (count, down.shape[1], across.shape[1]), down.dtype)
    field = matmul(matmul(down, white), across.T)
    return jax.nn.softmax(contrast * jnp.moveaxis(field, 0, -1), axis=-1)


def synthesize(
    key: Key[Array, ""],
    endmembers: Any,
    abundances: Float[Any, "*pixel endmember"],
    *,
    mixing: Mixing | Callable[[Key[Array, ""]], Mixing] | None = None,
    response: Float[Any, "sensor band"] | None = None,
    snr: float | None = None,
    std: Float[ArrayLike, "*_"] | None = None,
    first_pixel: int = 0,
) -> Mixtures:
    """Pixels of these abundances, by any mixing model.

    y = R mixing(a, E) + n, with the response R of a sensor, and E drawn for each pixel where endmembers vary.

    Args:
        key: random key.
        endmembers: spectra [endmember, band]; a `Variation`, whose displacements are drawn uniformly in its box for
            each pixel; or a function from a key to spectra.
        abundances: of each pixel, in any arrangement: an image comes out as a list of pixels.
        mixing: a model for all pixels, or a function from a key to one for each; None: `Linear`.
        response: of a sensor, as `physics.sensor.response` makes it; mixing comes before it. None: the bands stay.
        snr: of white noise, dB, over all pixels; see `scenes.noise.snr_std`.
        std: standard deviation of the noise instead, as `scenes.noise.add_noise` takes it.
        first_pixel: number of the first of these pixels.

    Returns:
        Spectra, abundances, spectra without noise, and the models.

    Raises:
        ValueError: both kinds of noise, or shapes that disagree.
    """
    if snr is not None and std is not None:
        raise ValueError("noise is given by snr or by std, not by both")
    abundances = jnp.asarray(abundances)
    abundances = abundances.reshape(-1, abundances.shape[-1])
    model: Any = Linear() if mixing is None else mixing
    each = not isinstance(model, eqx.Module)
    spectra_of = _spectra_of(endmembers)
    noise_key, own = jax.random.split(key)

    def one(pixel: tuple[Array, Array]) -> tuple[Array, Any]:
        abundance, n = pixel
        vary, mix = jax.random.split(jax.random.fold_in(own, n))
        spectra = spectra_of(vary)
        if spectra.shape[0] != abundance.shape[0]:
            raise ValueError(f"there are {spectra.shape[0]} endmembers and abundances of {abundance.shape[0]}")
        drawn = model(mix) if each else model
        spectrum = drawn(abundance, spectra)
        if response is not None:
            if response.shape[-1] != spectrum.shape[-1]:
                raise ValueError(f"the response takes {response.shape[-1]} bands, endmembers have {spectrum.shape[-1]}")
            spectrum = matmul(jnp.asarray(response), spectrum)
        return spectrum, eqx.filter(drawn, eqx.is_array) if each else None

    numbers = first_pixel + jnp.arange(len(abundances))
    clean, arrays = jax.lax.map(one, (abundances, numbers), batch_size=min(BATCH, len(abundances)))
    if each:
        static = eqx.filter(eqx.filter_eval_shape(model, key), lambda leaf: not isinstance(leaf, jax.ShapeDtypeStruct))
        model = eqx.combine(arrays, static)
    size = std if snr is None else snr_std(clean, snr)
    if size is None:
        return Mixtures(clean, abundances, clean, model)
    return Mixtures(add_noise(noise_key, clean, size, first_pixel=first_pixel), abundances, clean, model)


def _spectra_of(endmembers: Any) -> Callable[[Array], Array]:
    """From a key to the endmembers of a pixel."""
    if isinstance(endmembers, Variation):
        free = jnp.asarray(endmembers.free)

        def inside(key: Array) -> Array:
            u = jax.random.uniform(key, free.shape, minval=-1.0, maxval=1.0)
            return endmembers(jnp.where(free, u, 0.0))

        return inside
    if callable(endmembers):
        return endmembers
    spectra = jnp.asarray(endmembers)
    if spectra.ndim != 2:
        raise ValueError(f"endmembers are [endmember, band], got shape {spectra.shape}")
    return lambda key: spectra
