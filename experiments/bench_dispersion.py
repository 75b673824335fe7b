"""The dispersion model's speed: rendering a library many times, the memory of its gradient, two ways to fit.

    python experiments/bench_dispersion.py

Two minutes on two cores; on an accelerator seconds. Nothing but the package and what ships is read.

- Rendering: 40 minerals of 2 axes and 16 oscillators at 1000 wavenumbers, 10 000 draws of their parameters within 1 %
  (frequency) and 5 % (damping, strength): `render_spectra_per_s` in float32 against NumPy, vectorised, on a sample of
  the draws: with complex numbers as one would write it (`render_ratio_numpy_cpu`), and with real ones, an oscillator
  at a time, which stays in the caches (`render_ratio_numpy_real_cpu`). The spectra are summed up, so that none writes
  1.6 GB.
- Memory that the compiled gradient of one rendering of the library takes beyond its inputs and outputs, in MB: the
  analytic `jacobian`, a reverse gradient, and `jacfwd` over the padded oscillators (one mineral of the forty).
- Fitting: `fit_dispersion` (search with Levenberg-Marquardt; one start, two axes) against Adam in the unit box from 16
  random oscillators on each of two axes, 3000 steps, on emissivity of kaolinite, montmorillonite and hematite. Both in
  float32 and without compilation; MSE, CPU seconds, and oscillators: Adam keeps all 32, the search those that pay.

Expected on one core: 60 000 spectra/s, 25 times complex and 4 times real NumPy; fit_ratio_mse (Adam's MSE over ours,
geometric mean) about 8 at the same CPU time, with half the oscillators. Adam is the better one on kaolinite.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import main, measure, one_core

from unmix_jax.endmembers.dispersion_fit import DispersionFit, fit_dispersion
from unmix_jax.physics.box import Box, default_box, from_unit
from unmix_jax.physics.dispersion import Dispersion, emissivity, jacobian
from unmix_jax.physics.fresnel import transmittance
from unmix_jax.scenes.datasets import refractive_index

MINERALS, AXES, OSCILLATORS, BANDS = 40, 2, 16, 1000
SPREAD = {"frequency": 0.01, "damping": 0.05, "strength": 0.05}
TABLES = ("kaolinite", "montmorillonite", "hematite_o")


@dataclass(frozen=True)
class Config:
    """Sizes and repetitions.

    Attributes:
        draws: of the parameters of the whole library.
        sample: draws that NumPy renders.
        repetitions: of every timing.
        adam_steps: of the fits by Adam.
        tables: spectra to fit.
    """

    draws: int = 10_000
    sample: int = 20
    repetitions: int = 3
    adam_steps: int = 3000
    tables: int = len(TABLES)


def library() -> tuple[Dispersion, np.ndarray]:
    """Random minerals and the wavenumbers, cm⁻¹."""
    rng = np.random.default_rng(0)
    shape = (MINERALS, AXES, OSCILLATORS)
    leaves = [rng.uniform(300, 2000, shape), rng.uniform(0.005, 0.1, shape), rng.uniform(0.01, 0.5, shape)]
    leaves += [rng.uniform(1.5, 3, shape[:2]), np.full(shape[:2], 1 / AXES)]
    minerals = Dispersion(*(jnp.asarray(leaf, jnp.float32) for leaf in leaves), active=jnp.ones(shape, bool))
    return minerals, np.linspace(400, 2000, BANDS, dtype=np.float32)


def drawn(minerals: Dispersion, key: Any) -> Dispersion:
    """The library with its oscillators moved at random."""
    moved = {}
    for draw, (name, spread) in zip(jax.random.split(key, len(SPREAD)), SPREAD.items(), strict=True):
        leaf = getattr(minerals, name)
        moved[name] = leaf * (1 + spread * jax.random.uniform(draw, leaf.shape, leaf.dtype, -1, 1))
    return Dispersion(**moved, epsilon_inf=minerals.epsilon_inf, weights=minerals.weights, active=minerals.active)


def rendering(config: Config) -> dict[str, float]:
    """Spectra per second of the package and of NumPy."""
    minerals, wavenumber = library()
    batch = 1 if jax.default_backend() == "cpu" else 50  # on a CPU one library fits the caches

    @jax.jit
    def ours(minerals: Dispersion, keys: Any) -> Any:
        def add(total: Any, some: Any) -> Any:
            spectra = jax.vmap(lambda key: emissivity(drawn(minerals, key), wavenumber))(some)
            return total + spectra.sum(0), None

        return jax.lax.scan(add, jnp.zeros((MINERALS, BANDS)), keys)[0]

    def theirs(minerals: Dispersion, draws: int, render: Callable[..., np.ndarray]) -> Any:
        rng = np.random.default_rng(0)
        leaves = {name: np.asarray(getattr(minerals, name)) for name in (*SPREAD, "epsilon_inf", "weights")}
        total = np.zeros((MINERALS, BANDS), np.float32)
        for _ in range(draws):
            moved = {
                n: leaves[n] * (1 + s * rng.uniform(-1, 1, leaves[n].shape).astype("f4")) for n, s in SPREAD.items()
            }
            total += render(**leaves | moved, wavenumber=wavenumber)
        return total

    batches = max(1, config.draws // batch)
    keys = jax.random.split(jax.random.key(0), (batches, batch))
    contenders: dict[str, Callable[[], Any]] = {
        "ours": lambda: ours(minerals, keys),
        "numpy": lambda: theirs(minerals, config.sample, numpy_emissivity),
        "real": lambda: theirs(minerals, config.sample, real_emissivity),
    }
    times = measure(contenders, repetitions=config.repetitions)
    spectra = {"ours": batches * batch * MINERALS, "numpy": config.sample * MINERALS}
    return {
        "render_spectra_per_s": spectra["ours"] / times["ours"].wall,
        "render_spectra_per_s_numpy": spectra["numpy"] / times["numpy"].wall,
        "render_ratio_numpy_wall": (times["numpy"].wall / spectra["numpy"]) / (times["ours"].wall / spectra["ours"]),
        "render_ratio_numpy_cpu": (times["numpy"].cpu / spectra["numpy"]) / (times["ours"].cpu / spectra["ours"]),
        "render_spectra_per_s_numpy_real": spectra["numpy"] / times["real"].wall,
        "render_ratio_numpy_real_cpu": (times["real"].cpu / spectra["numpy"]) / (times["ours"].cpu / spectra["ours"]),
        "render_compile_s": times["ours"].first - times["ours"].wall,
        "render_difference": render_difference(minerals, wavenumber),
    }


def numpy_emissivity(
    frequency: Any, damping: Any, strength: Any, epsilon_inf: Any, weights: Any, wavenumber: Any
) -> np.ndarray:
    """The same model as one would write it in NumPy, with complex numbers."""
    f, g, s = (leaf[..., None] for leaf in (frequency, damping, strength))
    permittivity = epsilon_inf[..., None] + (s * f**2 / (f**2 - wavenumber**2 - 1j * g * f * wavenumber)).sum(-2)
    index = np.sqrt(permittivity)
    return np.sum(weights[..., None] * (1 - np.abs((index - 1) / (index + 1)) ** 2), -2)


def real_emissivity(
    frequency: Any, damping: Any, strength: Any, epsilon_inf: Any, weights: Any, wavenumber: Any
) -> np.ndarray:
    """The same in real numbers, one oscillator after the other."""
    squares = wavenumber**2
    theta = np.broadcast_to(epsilon_inf[..., None], (*epsilon_inf.shape, len(wavenumber))).copy()
    twice_phi = np.zeros_like(theta)
    for k in range(frequency.shape[-1]):
        f, g, s = (leaf[..., k, None] for leaf in (frequency, damping, strength))
        offset, width = f**2 - squares, g * f * wavenumber
        response = s * f**2 / (offset**2 + width**2)
        theta += response * offset
        twice_phi += response * width
    modulus = np.hypot(theta, twice_phi)
    n, k = np.sqrt(0.5 * (modulus + theta)), np.sqrt(0.5 * (modulus - theta))
    return np.sum(weights[..., None] * 4 * n / ((n + 1) ** 2 + k**2), -2)


def render_difference(minerals: Dispersion, wavenumber: np.ndarray) -> float:
    """Largest difference of ours in float32 from NumPy in float64."""
    names = (*SPREAD, "epsilon_inf", "weights")
    exact = numpy_emissivity(
        **{name: np.asarray(getattr(minerals, name), np.float64) for name in names},
        wavenumber=wavenumber.astype(np.float64),
    )
    return float(np.abs(np.asarray(emissivity(minerals, wavenumber)) - exact).max())


def memory() -> dict[str, float]:
    """Temporary memory of compiled derivatives, in MB."""
    minerals, wavenumber = library()
    first = jax.tree.map(lambda leaf: leaf[0], minerals)

    def as_floats(mineral: Dispersion) -> Any:
        return [getattr(mineral, name) for name in (*SPREAD, "epsilon_inf", "weights")]

    def loss(leaves: Any, active: Any) -> Any:
        return jnp.sum(emissivity(Dispersion(*leaves, active=active), wavenumber) ** 2)

    def padded(leaves: Any, active: Any) -> Any:
        return jax.jacfwd(lambda p: emissivity(Dispersion(*p, active=active), wavenumber))(leaves)

    functions: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "jacobian": (lambda m: jacobian(m, wavenumber), (minerals,)),
        "reverse": (jax.grad(loss), (as_floats(minerals), minerals.active)),
        "jacfwd_one_mineral": (padded, (as_floats(first), first.active)),
    }
    found = {}
    for name, (function, arguments) in functions.items():
        analysis = jax.jit(function).lower(*arguments).compile().memory_analysis()
        found[f"gradient_{name}_mb"] = analysis.temp_size_in_bytes / 2**20
    return found


def fitting(config: Config) -> dict[str, float]:
    """Errors and CPU seconds of both ways to fit."""
    metrics: dict[str, float] = {}
    for table in TABLES[: config.tables]:
        wavelength, n, k = (np.asarray(a, np.float64) for a in refractive_index(table))
        inside = (wavelength >= 5e3) & (wavelength <= 5e4)
        wavenumber, n, k = 1e7 / wavelength[inside][::-1], n[inside][::-1], k[inside][::-1]
        spectrum = np.asarray(transmittance(n**2 - k**2, n * k), np.float32)
        wavenumber = wavenumber.astype(np.float32)
        contenders: dict[str, Callable[[], Any]] = {
            "lm": lambda s=spectrum, w=wavenumber: fit_dispersion(s, w, axes=(2,), starts=1),
            "adam": lambda s=spectrum, w=wavenumber: adam(s, w, config.adam_steps),
        }
        for name, contender in contenders.items():
            jax.block_until_ready(contender())
            begin = time.process_time()
            found = jax.block_until_ready(contender())
            metrics[f"fit_{name}_{table}_cpu_s"] = time.process_time() - begin
            fitted = isinstance(found, DispersionFit)
            metrics[f"fit_{name}_{table}_mse"] = float(found.mse if fitted else found)
            metrics[f"fit_{name}_{table}_oscillators"] = int(found.oscillators.sum()) if fitted else AXES * OSCILLATORS
    ratio = [metrics[f"fit_adam_{t}_mse"] / metrics[f"fit_lm_{t}_mse"] for t in TABLES[: config.tables]]
    cpu = [metrics[f"fit_adam_{t}_cpu_s"] / metrics[f"fit_lm_{t}_cpu_s"] for t in TABLES[: config.tables]]
    return metrics | {"fit_ratio_mse": float(np.exp(np.mean(np.log(ratio)))), "fit_ratio_cpu": float(np.mean(cpu))}


@jax.jit
def _descend(unit: Any, box: Any, spectrum: Any, wavenumber: Any, steps: Any) -> Any:
    """Adam on the unit coordinates of the box, before a sigmoid; the least error met."""
    optimiser = optax.adam(0.02)

    def loss(unit: Any) -> Any:
        found = from_unit(box, jax.tree.map(jax.nn.sigmoid, unit))
        found["weights"] /= jnp.sum(found["weights"])
        mineral = Dispersion(**found, active=jnp.ones(found["frequency"].shape, bool))
        return jnp.mean((emissivity(mineral, wavenumber) - spectrum) ** 2)

    def step(_: Any, carry: Any) -> Any:
        unit, state, least = carry
        value, slope = jax.value_and_grad(loss)(unit)
        change, state = optimiser.update(slope, state)
        return optax.apply_updates(unit, change), state, jnp.minimum(least, value)

    return jax.lax.fori_loop(0, steps, step, (unit, optimiser.init(unit), jnp.inf))[2]


def adam(spectrum: np.ndarray, wavenumber: np.ndarray, steps: int) -> Any:
    """The least MSE of Adam from random oscillators."""
    rng = np.random.default_rng(0)
    shape = (AXES, OSCILLATORS)
    start = {
        "frequency": rng.normal(size=shape),
        "damping": rng.normal(-3, 0.5, shape),
        "strength": rng.normal(-3, 0.5, shape),
        "epsilon_inf": rng.normal(-1.5, 0.2, AXES),
        "weights": np.zeros(AXES),
    }
    start = {name: jnp.asarray(leaf, jnp.float32) for name, leaf in start.items()}
    whole = default_box(wavenumber, Dispersion(**start, active=jnp.ones(shape, bool)))
    corners = ({name: getattr(corner, name) for name in start} for corner in (whole.lower, whole.upper))
    return _descend(start, Box(*corners), spectrum, wavenumber, steps)


def run(config: Config) -> tuple[dict[str, float], Any]:
    """All three parts."""
    return rendering(config) | memory() | fitting(config), None


if __name__ == "__main__":
    one_core()
    main(run, Config(), quick=Config(draws=20, sample=2, repetitions=1, adam_steps=20, tables=1))
