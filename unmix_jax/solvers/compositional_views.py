"""The likelihoods of the compositional models: value, gradient and Fisher's information, pixels on the last axis.

Each is a function of the mean ``aM`` of a pixel and of its covariance ``N + Σ_i a_i² C_i``:

- `Reduced`: normal, with the covariance whole. In units of the noise, and in an orthonormal basis of what the
  endmembers and their modes span, it is a small matrix; outside of the basis all is even, and one number tells what
  lies there.
- `Moments`: band by band, through any function of mean and variance.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from unmix_jax.linalg import matmul, squared_norm, whiten
from unmix_jax.solvers.lanes import stacked
from unmix_jax.solvers.simplex_box import Model

__all__ = ["Moments", "Reduced"]


class Reduced(eqx.Module):
    """Normal distributions in a basis, where V = (ν + Σ a_i² ρ_i) 1 + Σ a_i² F_iᵀF_i.

    Attributes:
        basis: orthonormal rows.
        root: inverse standard deviation of the noise, zero in bands that do not count.
        center: of the endmembers, whitened, subtracted from all.
        mean: of the endmembers.
        modes: F_i.
        rest: ρ_i.
        floor: ν, 1 where there is noise and 0 where there is none.
        bands: number of bands that count.
        log_scale: what the unit of the spectra adds to the negative logarithm of the likelihood.
    """

    basis: Float[Array, "rank band"]
    root: Float[Array, " band"]
    center: Float[Array, " band"]
    mean: Float[Array, "endmember rank"]
    modes: Float[Array, "endmember mode rank"]
    rest: Float[Array, " endmember"]
    floor: Float[Array, ""]
    bands: Float[Array, ""]
    log_scale: Float[Array, ""]

    chunk: int = eqx.field(static=True, default=64)

    def see(self, pixel: Array) -> dict[str, Array]:
        """The pixel in the basis, and the squared norm of what lies outside."""
        white = pixel * self.root - self.center
        inside = matmul(white, self.basis.T)
        return {"z": inside, "outside": squared_norm(white - matmul(inside, self.basis))}

    def scale(self, unknown: Array, seen: dict[str, Array]) -> Array:
        """Half the squared norm of a pixel in units of V, and half the number of bands."""
        even = self.floor + jnp.sum(self.rest[:, None] * unknown**2, 0)

        def one(abundances: Array, even: Array, z: Array) -> Array:
            return squared_norm(whiten(self._covariance(abundances, even), z[None])[0][0])

        inside = jax.vmap(one, (1, 0, 1))(unknown, even, seen["z"])
        return 0.5 * (inside + seen["outside"] / even + self.bands)

    def model(self, unknown: Array, seen: dict[str, Array]) -> Model:
        """Value, gradient and information at unknowns [unknown, pixel]."""
        return self._evaluated(unknown, seen)[0]

    def bend(self, unknown: Array, seen: dict[str, Array]) -> Array:
        """What the curvature has besides the information, [unknown, unknown, pixel]."""
        return self._evaluated(unknown, seen)[1]

    def weighted(self, unknown: Array, seen: dict[str, Array]) -> tuple[Model, Array]:
        """Half the squared error in units of V, its gradient and curvature where V stays; and half of log det V."""

        def one(a: Array, z: Array, outside: Array) -> tuple[Model, Array]:
            even = self.floor + jnp.sum(self.rest * a**2)
            white, factor = whiten(self._covariance(a, even), jnp.concatenate([self.mean, z[None]]))
            mean, error = white[:-1], white[-1] - matmul(a, white[:-1])
            value = 0.5 * (squared_norm(error) + outside / even)
            half = jnp.sum(jnp.log(jnp.diag(factor))) + 0.5 * (self.bands - len(z)) * jnp.log(even)
            return Model(value, -matmul(mean, error), matmul(mean, mean.T)), half

        answer = jax.vmap(one, (1, 1, 0))(unknown, seen["z"], seen["outside"])
        return jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), answer)

    def judge(self, unknown: Array, seen: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        """Information [unknown, unknown, pixel], and log likelihood and χ² per band of each pixel."""

        def one(inputs: Any) -> Any:
            return jax.tree.map(lambda x: x[..., 0], self._evaluated(*jax.tree.map(lambda x: x[..., None], inputs)))

        inputs = jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), (unknown, seen))
        model, _, chi2 = jax.lax.map(one, inputs, batch_size=self.chunk)
        lowest = self._lowest()
        likelihood = -model.value - 0.5 * self.bands * jnp.log(lowest) - self.log_scale
        return jnp.moveaxis(model.curvature, 0, -1), {"log_likelihood": likelihood, "chi2": chi2}

    def _lowest(self) -> Array:
        """No variance is less, whatever the abundances."""
        return self.floor + jnp.min(self.rest) / len(self.rest)

    def _covariance(self, abundances: Array, even: Array) -> Array:
        count, modes, rank = self.modes.shape
        scaled = (self.modes * abundances[:, None, None]).reshape(count * modes, rank)
        return matmul(scaled.T, scaled) + even * jnp.eye(self.modes.shape[2], dtype=even.dtype)

    def _evaluated(self, unknown: Array, seen: dict[str, Array]) -> tuple[Model, Array, Array]:
        """Value, gradient and information; what the curvature has besides; and χ² per band; pixels last."""
        answer = jax.vmap(self._alone, (1, 1, 0))(unknown, seen["z"], seen["outside"])
        return jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), answer)

    def _alone(self, a: Array, z: Array, outside: Array) -> tuple[Model, Array, Array]:
        """The same of one pixel.

        With u = V⁻¹r and C_i the whole covariance of endmember i, the gradient is −m_i·u + a_i (tr V⁻¹C_i − u C_i u),
        the information m_i V⁻¹ m_j + 2 a_i a_j tr V⁻¹C_i V⁻¹C_j, and the curvature h_i V⁻¹ h_j with
        h_i = m_i + 2 a_i C_i u, less the second term of the information, plus tr V⁻¹C_i − u C_i u on its diagonal.
        """
        count, modes, rank = self.modes.shape
        even = self.floor + jnp.sum(self.rest * a**2)
        rows = jnp.concatenate(
            [self.mean, z[None], self.modes.reshape(count * modes, rank), jnp.eye(rank, dtype=a.dtype)]
        )
        white, factor = whiten(self._covariance(a, even), rows)
        mean, pixel = white[:count], white[count]
        bent, inverse_root = white[count + 1 : count + 1 + count * modes], white[count + 1 + count * modes :]
        error = pixel - matmul(a, mean)
        beyond = self.bands - rank
        chi2 = squared_norm(error) + outside / even
        value = 0.5 * (chi2 + beyond * jnp.log(even) - self.bands * jnp.log(self._lowest()))
        value = value + jnp.sum(jnp.log(jnp.diag(factor)))

        def by_endmember(per_mode: Array) -> Array:
            return jnp.sum(per_mode.reshape(count, modes, *per_mode.shape[1:]), 1)

        inverse = matmul(inverse_root, inverse_root.T)
        trace = by_endmember(jnp.sum(bent**2, 1)) + self.rest * (jnp.trace(inverse) + beyond / even)
        along, back = matmul(bent, error), matmul(inverse_root, error)
        pulled = by_endmember(along**2) + self.rest * (squared_norm(back) + outside / even**2)
        gradient = a * (trace - pulled) - matmul(mean, error)

        cross = by_endmember(by_endmember(matmul(bent, bent.T) ** 2).T)
        mixed = by_endmember(jnp.sum(matmul(bent, inverse_root.T) ** 2, 1))
        plain = jnp.sum(inverse**2) + beyond / even**2
        cross = cross + mixed[:, None] * self.rest + self.rest[:, None] * (mixed + self.rest * plain)
        both, straight = 2 * a[:, None] * a * cross, matmul(mean, mean.T)
        turned = by_endmember(bent * along[:, None]) + self.rest[:, None] * matmul(back, inverse_root)
        heavy = mean + 2 * a[:, None] * turned
        far = 2 * a * self.rest
        exact = matmul(heavy, heavy.T) + far[:, None] * far * outside / even**3 - both + jnp.diag(trace - pulled)
        information = straight + both
        return Model(value, gradient, information), exact - information, chi2 / self.bands


class Moments(eqx.Module):
    """Bands by their mean E = Σ a_i μ_i and variance V = N + Σ a_i² v_i (or Σ a_i v_i, where ``linear``).

    Attributes:
        mean: μ, zero in bands that do not count.
        variance: v.
        mean_products: of pairs of endmembers.
        variance_products: of pairs of endmembers.
        noise: variance of the sensor.
        good: bands that count.
        linear: whether the spread is taken as linear in the abundances.
    """

    mean: Float[Array, "endmember band"]
    variance: Float[Array, "endmember band"]
    mean_products: Float[Array, "pair band"]
    variance_products: Float[Array, "pair band"]
    noise: Float[Array, " band"]
    good: Bool[Array, " band"]
    linear: Bool[Array, ""]

    chunk: int = eqx.field(static=True, default=128)

    def see(self, pixel: Array, level: Array, spread: Array, neighbours: float = 0.0) -> dict[str, Array]:
        """What is compared: a spectrum, or the mean and variance of several."""
        del pixel
        return {"level": level, "spread": spread, "neighbours": jnp.asarray(neighbours, level.dtype)}

    def scale(self, unknown: Array, seen: dict[str, Array]) -> Array:
        """Half the squared norm of a pixel in units of V, and half the number of bands."""
        _, variance = self._moments(unknown)
        energy = jnp.where(self.good[:, None], seen["level"] ** 2 / variance + 1, 0.0)
        return 0.5 * jnp.sum(energy, 0) * jnp.maximum(seen["neighbours"], 1)

    def model(self, unknown: Array, seen: dict[str, Array]) -> Model:
        """Value, gradient and information at unknowns [unknown, pixel]."""
        mean, variance = self._moments(unknown)
        parts = jax.lax.optimization_barrier(self._energies(mean, variance, seen)[:5])
        value, by_mean, by_variance, *weights = parts
        gradient = matmul(self.mean, by_mean) + self._slope(unknown) * matmul(self.variance, by_variance)
        return Model(jnp.sum(value, 0), gradient, self._assembled(unknown, weights[0], None, weights[1]))

    def bend(self, unknown: Array, seen: dict[str, Array]) -> Array:
        """What the curvature has besides the information, [unknown, unknown, pixel]."""
        mean, variance = self._moments(unknown)
        _, _, by_variance, *weights, flat, mixed, bent = self._energies(mean, variance, seen)
        parts = jax.lax.optimization_barrier((flat - weights[0], mixed, bent - weights[1]))
        steep = jnp.where(self.linear, 0.0, 2 * matmul(self.variance, by_variance))
        return self._assembled(unknown, *parts) + jnp.eye(len(unknown), dtype=steep.dtype)[:, :, None] * steep

    def _slope(self, unknown: Array) -> Array:
        """Derivative of the weight of each spread in the abundance."""
        return jnp.where(self.linear, jnp.ones_like(unknown), 2 * unknown)

    def _assembled(self, unknown: Array, flat: Array, mixed: Array | None, bent: Array) -> Array:
        """From what stands between means, between both, and between variances of each band to that of unknowns."""
        count, slope = len(unknown), self._slope(unknown)
        means, spreads = matmul(self.mean_products, flat), matmul(self.variance_products, bent)
        pairs = [(i, j) for i in range(count) for j in range(i, count)]
        cells = {(i, j): means[n] + slope[i] * slope[j] * spreads[n] for n, (i, j) in enumerate(pairs)}
        if mixed is not None:
            both = (self.mean[:, None] * self.variance).reshape(count * count, -1)
            cross = matmul(both, mixed).reshape(count, count, -1)
            cells = {(i, j): x + slope[j] * cross[i, j] + slope[i] * cross[j, i] for (i, j), x in cells.items()}
        rows = stacked([cells[min(i, j), max(i, j)] for i in range(count) for j in range(count)])
        return rows.reshape(count, count, -1)

    def judge(self, unknown: Array, seen: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        """Information [unknown, unknown, pixel], and log likelihood and χ² per band of each pixel."""
        model = self.model(unknown, seen)
        mean, variance = self._moments(unknown)
        good = self.good[:, None]
        wrong = jnp.where(good, (seen["level"] - mean) ** 2 / variance, 0.0)
        chi2 = jnp.sum(wrong, 0) / jnp.sum(good) * jnp.maximum(seen["neighbours"], 1)
        offset = 0.5 * jnp.sum(jnp.where(good, jnp.log(2 * jnp.pi * self._lowest()), 0.0))
        alone = seen["neighbours"] == 0
        likelihood = jnp.where(alone, -model.value - offset, jnp.nan)
        return model.curvature, {"log_likelihood": likelihood, "chi2": chi2}

    def _lowest(self) -> Array:
        """No variance is less, whatever the abundances, [band, 1]."""
        return (self.noise + jnp.min(self.variance, 0) / len(self.variance))[:, None]

    def _moments(self, unknown: Array) -> tuple[Array, Array]:
        """Mean and variance [band, pixel]."""
        shares = jnp.where(self.linear, unknown, unknown**2)
        return matmul(self.mean.T, unknown), matmul(self.variance.T, shares) + self.noise[:, None]

    def _energies(self, mean: Array, variance: Array, seen: dict[str, Array]) -> tuple[Array, ...]:
        """Of each band [band, pixel]: energy, its slopes in mean and variance, the information on both, its curvature.

        The curvature has three parts: of the mean, of both, of the variance.
        """
        level, neighbours = seen["level"], seen["neighbours"]
        safe = jnp.clip(mean, 1e-6, 1 - 1e-6)
        narrow = jnp.minimum(variance, 0.5 * safe * (1 - safe))
        value, by_mean, by_variance, *curved = beta_energy(level, safe, narrow)
        value = value - 0.5 * jnp.log(2 * jnp.pi * self._lowest())
        alone = (value, by_mean, by_variance, 1 / narrow, 0.5 / narrow**2, *curved)

        told = jnp.maximum(seen["spread"], 1e-3 * self._lowest())
        flat, bent = neighbours / told, (neighbours - 1) / (2 * told**2)
        away, wider = mean - level, variance - seen["spread"]
        energy = 0.5 * (flat * away**2 + bent * wider**2)
        matched = (energy, flat * away, bent * wider, flat, bent, flat, jnp.zeros_like(flat), bent)
        good = self.good[:, None]
        return tuple(jnp.where(good, jnp.where(neighbours > 0, y, x), 0.0) for x, y in zip(alone, matched, strict=True))


def beta_energy(
    level: Float[Array, "*shape"], mean: Float[Array, "*shape"], variance: Float[Array, "*shape"]
) -> tuple[Float[Array, "*shape"], ...]:
    """Negative logarithm of the density of the Beta distribution with this mean and variance, and its derivatives.

    With t = α + β and Stirling's formula ``t d(μ, y) + ½ log(2π / tμ(1 − μ)) + r(α) + r(β) − r(t) + log y(1 − y)``,
    where d is the divergence of two shares: differences of large logarithms of the Gamma function do not occur.

    Returns:
        Value; first derivatives in mean and variance; second ones in the mean, in both, in the variance.
    """
    other = 1 - mean
    total = mean * other / variance - 1
    away = level - mean
    up, down = jnp.log1p(away / mean), jnp.log1p(-away / other)
    divergence, tilt = -mean * up - other * down, down - up
    (r_a, r_a1, r_a2), (r_b, r_b1, r_b2), (r_t, r_t1, r_t2) = map(
        _beyond_stirling, (mean * total, other * total, total)
    )
    value = total * divergence + 0.5 * jnp.log(2 * jnp.pi / (total * mean * other)) + r_a + r_b - r_t
    value = value + jnp.log(level) + jnp.log1p(-level)

    # in mean and total ...
    by_total = divergence - 0.5 / total + mean * r_a1 + other * r_b1 - r_t1
    by_mean = total * (tilt + r_a1 - r_b1) - 0.5 * (1 / mean - 1 / other)
    twice_total = 0.5 / total**2 + mean**2 * r_a2 + other**2 * r_b2 - r_t2
    twice_mean = total / (mean * other) + 0.5 * (1 / mean**2 + 1 / other**2) + total**2 * (r_a2 + r_b2)
    mixed = tilt + r_a1 - r_b1 + total * (mean * r_a2 - other * r_b2)
    # ... and from there in mean and variance
    along, across = (1 - 2 * mean) / variance, -(total + 1) / variance
    return (
        value,
        by_mean + by_total * along,
        by_total * across,
        twice_mean + 2 * mixed * along + twice_total * along**2 - 2 * by_total / variance,
        (mixed + twice_total * along) * across - by_total * along / variance,
        twice_total * across**2 - 2 * by_total * across / variance,
    )


def _beyond_stirling(x: Array) -> tuple[Array, Array, Array]:
    """R of ``log Γ(x) = (x − ½) log x − x + ½ log 2π + r(x)``, by its series from x + 4 on, and two derivatives."""
    far = x + 4
    part = 1 / far
    square = part * part
    value = part * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square / 1680)))
    first = -square * (1 / 12 - square * (1 / 120 - square * (1 / 252 - square / 240)))
    second = part * square * (1 / 6 - square * (1 / 30 - square * (1 / 42 - square / 30)))
    for k in range(4):
        here, following = x + k, x + (k + 1)
        step, middle = jnp.log1p(1 / here), here + 0.5
        value = value + middle * step - 1
        first = first + step - middle / (here * following)
        second = second + 0.5 / (here * following) ** 2
    return value, first, second
