"""One training loop: a whole run is compiled, seeds run side by side, and the same key gives the same result."""

import hashlib
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Key

from unmix_jax.networks.autoencoder import NetworkUnmixer
from unmix_jax.networks.layers import added, constrained
from unmix_jax.networks.windows import Windows
from unmix_jax.sharding import default_devices

__all__ = ["Examples", "Schedule", "Trained", "checked", "train"]

SHARED = "pixel"  # axis of a batch, over devices


class Schedule(eqx.Module):
    """How long, how fast, and on what.

    Attributes:
        epochs: passes over the sample.
        batch: pixels, or windows, of a step.
        sample: pixels, or windows, drawn from the scene with replacement, once for each seed; None: all of them.
        optimiser: an optax transformation.
        alternate: what each epoch of a cycle trains: "all", "encoder" or "decoder"; the optimiser sees a slope of zero
            for the other part meanwhile.
        together: whether seeds run side by side; one after another costs less where a step is large.
    """

    epochs: int = eqx.field(static=True)
    batch: int = eqx.field(static=True)
    optimiser: optax.GradientTransformation = eqx.field(static=True)
    sample: int | None = eqx.field(static=True, default=2000)
    alternate: tuple[str, ...] = eqx.field(static=True, default=("all",))
    together: bool = eqx.field(static=True, default=True)


class Trained(eqx.Module):
    """Networks of several seeds.

    Attributes:
        networks: an `Autoencoder`, or what stands for one, whose arrays have a leading seed axis.
        states: what their batch norms gathered.
        losses: mean loss of each epoch; NaN after a seed was stopped.
        stopped: the step at which a seed met a loss or a parameter that is not finite, and kept what it had before; −1.
        scale: what pixels are divided by; endmembers of the networks are in units of it.
    """

    networks: Any
    states: Any
    losses: Float[Array, "seed epoch"]
    stopped: Int[Array, " seed"]
    scale: Float[Array, ""]

    @property
    def endmembers(self) -> Float[Array, "seed endmember band"]:
        """Endmembers of each seed, in the unit of the pixels."""
        return self.scale * eqx.filter_vmap(lambda network: network.endmembers)(self.networks)

    def abundances(self, pixels: Float[Any, "*window band"]) -> Float[Array, "seed *pixel endmember"]:
        """What each network's own sum-to-one layer returns, in inference; some take [image, row, column, band]."""
        scaled = jnp.asarray(pixels) / self.scale
        found = []
        for seed in range(len(self.stopped)):
            network, state = self._of(seed)
            found.append(network(scaled, state, None)[0])
        return jnp.stack(found)

    def unmixer(self, seed: int) -> NetworkUnmixer:
        """The network of one seed, as `unmix` takes it."""
        return NetworkUnmixer(*self._of(seed), self.scale)

    def _of(self, seed: int) -> tuple[Any, Any]:
        """Network and state of one seed."""
        return jax.tree.map(lambda leaf: leaf[seed] if eqx.is_array(leaf) else leaf, (self.networks, self.states))


@runtime_checkable
class Examples(Protocol):
    """What a network learns from where nothing is measured: a callable pytree that draws a batch from a key.

    The batch has ``spectra``; the objective may use what else it has.
    """

    def __call__(self, key: Key[Array, ""], count: int, /) -> Any:
        """So many examples."""
        ...


def train(
    build: Callable[[Key[Array, ""], Any], Any],
    pixels: Float[Any, "pixel band"] | Examples,
    objective: Callable[..., Array],
    schedule: Schedule,
    *,
    keys: Key[Array, " seed"],
    starts: Any = None,
    windows: Windows | None = None,
    patience: int | None = None,
    every: int = 5,
    checkpoint: str | Path | None = None,
    devices: Sequence[Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Trained:
    """Train one network per key.

    Pixels are divided by their greatest value. Each epoch visits the sample in a new order, in whole batches. Examples
    are drawn anew at each step and are taken as they are; an epoch is as many of them as the schedule's sample.

    Args:
        build: ``build(key, start)`` to the network before training, for pixels divided by their greatest value.
        pixels: spectra to train on, any unit, all finite; or what draws `Examples`.
        objective: what is minimised: ``objective(network, pixels, abundances, rendered)``, an `Objective`; where
            examples are drawn, with the batch of them in the place of the pixels.
        schedule: how.
        keys: one per seed; the result of a seed does not depend on the others.
        starts: what each seed begins at, arrays with a leading seed axis, as ``build`` takes them: spectra divided by
            the greatest value of the pixels; None: ``start`` is None.
        windows: of the image that the pixels are from, for networks that look at neighbours; None: single pixels.
        patience: end when for so many epochs no seed's loss has fallen by a thousandth; None: run all epochs.
        every: epochs between two looks at progress, patience and checkpoint; the result does not depend on it.
        checkpoint: file to keep the state of the run in; where it exists, the run goes on from it. Pixels, keys,
            starts, objective and the numbers of the schedule must be the same; the optimiser is not compared.
        devices: that share each batch; None: all of this process of the default kind, where the batch can be divided
            among them. Sums are then added in another order, so that results agree to rounding.
        progress: called as ``progress(epochs_done, epochs)``.

    Returns:
        A `Trained`.

    Raises:
        ValueError: if pixels are not finite, all zero, or fewer than a batch; one start per seed was not given; a batch
            that cannot be divided among the devices.
    """
    data, scale = _data(pixels, schedule, windows)
    dtype = _dtype(data)
    if starts is not None:
        starts = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), starts)
        if any(len(leaf) != len(keys) for leaf in jax.tree.leaves(starts)):
            raise ValueError(f"each of {len(keys)} seeds needs a start, got {len(jax.tree.leaves(starts)[0])}")
    static, carry = _begin(build, data, schedule, keys, starts)
    mesh = _mesh(devices, schedule.batch)
    losses = np.full((keys.shape[0], schedule.epochs), np.nan, dtype)
    done = 0
    path = None if checkpoint is None else Path(checkpoint)
    mark = "" if path is None else _mark(data, keys, (starts, windows), objective, schedule, static)
    if path is not None and path.exists():
        done, losses, carry = _resume(path, mark, losses, carry)
    if mesh is not None:
        arrays, rest = eqx.partition((data, windows, carry), eqx.is_array)
        data, windows, carry = eqx.combine(jax.device_put(arrays, NamedSharding(mesh, PartitionSpec())), rest)
    while done < schedule.epochs and not _settled(losses[:, :done], patience):
        count = min(every, schedule.epochs - done)
        carry, part = _epochs(static, objective, schedule, data, windows, carry, jnp.asarray(done), count, mesh)
        losses[:, done : done + count] = np.asarray(part)
        done += count
        if path is not None:
            _keep(path, mark, done, losses, carry)
        if progress is not None:
            progress(done, schedule.epochs)
    if mesh is not None:
        carry = jax.device_put(carry, mesh.devices.flat[0])
    arrays, _, states, _, stopped, _ = carry
    return Trained(eqx.combine(arrays, static), states, jnp.asarray(losses), stopped, jnp.asarray(scale, dtype))


def checked(pixels: Any) -> np.ndarray:
    """Pixels that can be trained on.

    Raises:
        ValueError: if they are not [pixel, band], not finite, or have no positive value.
    """
    values = np.asarray(pixels)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"pixels to train on are [pixel, band] and not empty, got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("pixels to train on must be finite: leave masked pixels and bad bands out")
    if values.max() <= 0:
        raise ValueError(f"pixels must have positive values, the greatest is {float(values.max())}")
    return values


def _data(pixels: Any, schedule: Schedule, windows: Windows | None = None) -> tuple[Any, float]:
    """Pixels divided by their greatest value, and that value; examples as they are."""
    if callable(pixels):
        if schedule.sample is None or schedule.batch > schedule.sample:
            raise ValueError(f"an epoch needs a batch of {schedule.batch} examples or more, got {schedule.sample}")
        return pixels, 1.0
    values = checked(pixels)
    available = len(values if windows is None else windows) if schedule.sample is None else schedule.sample
    if schedule.batch > available:
        what = "pixels" if windows is None else "windows"
        raise ValueError(f"a batch has {schedule.batch} {what}, there are {available} to train on")
    scale = float(values.max())
    kind = values.dtype if values.dtype.kind == "f" else np.dtype(np.float32)
    return jnp.asarray((values / scale).astype(jax.dtypes.canonicalize_dtype(kind))), scale


def _mesh(devices: Sequence[Any] | None, batch: int) -> Mesh | None:
    """Of the devices that share a batch; None where there is one."""
    given = default_devices() if devices is None else list(devices)
    if batch % len(given):
        if devices is not None:
            raise ValueError(f"a batch of {batch} cannot be divided among {len(given)} devices")
        return None
    return None if len(given) == 1 else Mesh(np.asarray(given), (SHARED,), axis_types=(AxisType.Auto,))


def _dtype(data: Any) -> Any:
    """Of the first array that is not of whole numbers."""
    return jax.tree.leaves(eqx.filter(data, eqx.is_inexact_array))[0].dtype


def _begin(build: Any, data: Any, schedule: Schedule, keys: Any, starts: Any) -> tuple[Any, Any]:
    """What of the networks does not change, and the carry of the loop with a seed axis."""
    first = jax.tree.map(lambda leaf: leaf[0], starts)
    static = eqx.filter_eval_shape(lambda key: eqx.partition(build(key, first), eqx.is_inexact_array)[1], keys[0])
    return static, _initial(build, schedule, _dtype(data), keys, starts)


@eqx.filter_jit
def _initial(build: Any, schedule: Schedule, dtype: Any, keys: Array, starts: Any) -> Any:
    """Networks, moments and states of all seeds before training, their keys, where they stopped, and their step."""

    def one(key: Array, start: Any) -> Any:
        first, second = jax.random.split(key)
        network = build(first, start)
        arrays = jax.tree.map(lambda x: x.astype(dtype), eqx.filter(network, eqx.is_inexact_array))
        state = jax.tree.map(lambda x: x.astype(dtype), network.gathered())
        return arrays, schedule.optimiser.init(arrays), state, second, jnp.asarray(-1), jnp.asarray(0)

    return jax.vmap(one, (0, None if starts is None else 0))(keys, starts)


@eqx.filter_jit
def _epochs(
    static: Any,
    objective: Callable[..., Array],
    schedule: Schedule,
    data: Any,
    windows: Any,
    carry: Any,
    first: Array,
    count: int,
    mesh: Mesh | None,
) -> tuple[Any, Array]:
    """Some epochs of all seeds."""
    drawn = callable(data)
    available = 1 if drawn else len(data if windows is None else windows)
    size = available if schedule.sample is None else schedule.sample
    steps = size // schedule.batch

    def loss_of(arrays: Any, state: Any, batch: Any, key: Array) -> tuple[Array, Any]:
        network = eqx.combine(arrays, static)
        abundances, rendered, state = network(batch.spectra if drawn else batch, state, key)
        return objective(network, batch, abundances, rendered) + added(state), state

    def step(carry: Any, given: Any) -> tuple[Any, Array]:
        arrays, moments, state, key, stopped, number = carry
        index, parts = given
        own = jax.random.fold_in(key, number)
        if drawn:
            batch = data(jax.random.fold_in(own, 1 << 30), schedule.batch)
        else:
            batch = data[index] if windows is None else windows.gather(data, index)
        if mesh is not None:
            batch = jax.lax.with_sharding_constraint(batch, NamedSharding(mesh, PartitionSpec(SHARED)))
        (loss, new_state), slope = jax.value_and_grad(loss_of, has_aux=True)(arrays, state, batch, own)
        if len(schedule.alternate) > 1:
            slope = _of_part(slope, parts)
        change, new_moments = schedule.optimiser.update(slope, moments, arrays)
        if len(schedule.alternate) > 1:
            change = _of_part(change, parts)
        new = constrained(optax.apply_updates(arrays, change), arrays)
        fine = jnp.isfinite(loss) & jnp.isfinite(sum(jnp.sum(leaf) for leaf in jax.tree.leaves(new)))
        going = fine & (stopped < 0)
        kept = jax.tree.map(
            lambda x, y: jnp.where(going, x, y), (new, new_moments, new_state), (arrays, moments, state)
        )
        stopped = jnp.where((stopped < 0) & ~fine, number, stopped)
        return (*kept, key, stopped, number + 1), jnp.where(going, loss, jnp.nan)

    def epoch(carry: Any, number: Array) -> tuple[Any, Array]:
        if drawn:
            indices = jnp.arange(steps)
        else:
            key = jax.random.fold_in(carry[3], jnp.iinfo(jnp.int32).max)
            chosen = _order(key, number, available, schedule.sample)[: steps * schedule.batch]
            indices = chosen.reshape(steps, schedule.batch)  # the pixels themselves would be a copy for each seed
        turn = jnp.asarray([["all", "encoder", "decoder"].index(part) for part in schedule.alternate])
        part = jnp.broadcast_to(turn[number % len(turn)], steps)
        carry, losses = jax.lax.scan(step, carry, (indices, part))
        return carry, jnp.mean(losses)

    def seed(carry: Any) -> tuple[Any, Array]:
        return jax.lax.scan(epoch, carry, first + jnp.arange(count))

    return (jax.vmap(seed) if schedule.together else lambda seeds: jax.lax.map(seed, seeds))(carry)


def _order(key: Array, epoch: Array, count: int, size: int | None) -> Array:
    """The pixels of an epoch: always the same sample of the scene, each time in another order."""
    drawn = jax.random.randint(jax.random.fold_in(key, 0), (size or count,), 0, count)
    sample = jnp.arange(count) if size is None else drawn
    return sample[jax.random.permutation(jax.random.fold_in(key, epoch + 1), len(sample))]


def _of_part(tree: Any, part: Array) -> Any:
    """Zero where this epoch does not train."""
    encoder, decoder = part != 2, part != 1
    tree = eqx.tree_at(lambda t: t.encoder, tree, jax.tree.map(lambda x: jnp.where(encoder, x, 0), tree.encoder))
    return eqx.tree_at(lambda t: t.decoder, tree, jax.tree.map(lambda x: jnp.where(decoder, x, 0), tree.decoder))


def _settled(losses: np.ndarray, patience: int | None) -> bool:
    """Whether no seed got better for a while."""
    if patience is None or losses.shape[1] <= patience:
        return False
    known = np.where(np.isnan(losses), np.inf, losses)
    best = known[:, :-patience].min(1)
    return not bool(np.any(known[:, -patience:].min(1) < best - 1e-3 * np.abs(best)))


def _mark(data: Any, keys: Array, starts: Any, objective: Any, schedule: Schedule, static: Any) -> str:
    """What tells one run from another: a hash of all numbers, and of what the networks are made of."""
    numbers = [*jax.tree.leaves(eqx.filter((data, keys, starts, objective), eqx.is_array))]
    made = eqx.filter((data, objective, static), eqx.is_array, inverse=True)
    words = eqx.tree_pformat(made), schedule.epochs, schedule.batch, schedule.sample, schedule.alternate
    mark = hashlib.sha256(repr(words).encode())
    for leaf in numbers:
        mark.update(_plain(leaf).tobytes())
    return mark.hexdigest()


def _keep(path: Path, mark: str, done: int, losses: np.ndarray, carry: Any) -> None:
    """Write the state of a run beside the file, then in its place."""
    leaves = [_plain(leaf) for leaf in jax.tree.leaves(carry)]
    beside = path.with_name(path.name + ".part")
    with beside.open("wb") as file:
        arrays: dict[str, Any] = {f"leaf{i}": leaf for i, leaf in enumerate(leaves)}
        np.savez(file, mark=mark, done=done, losses=losses, **arrays)
    beside.replace(path)


def _resume(path: Path, mark: str, losses: np.ndarray, carry: Any) -> tuple[int, np.ndarray, Any]:
    """The state of a run that was kept."""
    leaves, tree = jax.tree.flatten(carry)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            kept = {name: held[name] for name in held.files}
            done, before, own = int(kept["done"]), kept["losses"], str(kept["mark"])
    except (OSError, EOFError, KeyError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not the state of a training, or is damaged: delete it ({error})") from error
    found = [kept[f"leaf{i}"] for i in range(len(leaves)) if f"leaf{i}" in kept]
    shapes = [leaf.shape for leaf in found]
    wanted = [_plain(leaf).shape for leaf in leaves]
    if shapes != wanted or before.shape != losses.shape or own != mark:
        raise ValueError(
            f"{path} holds another run, of other pixels, keys, networks, objective or schedule: delete it to start anew"
        )
    losses = before.copy()
    back = [_like(old, new) for old, new in zip(leaves, found, strict=True)]
    return done, losses, jax.tree.unflatten(tree, back)


def _is_key(leaf: Any) -> bool:
    """Whether a leaf holds random keys."""
    return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def _like(old: Any, new: np.ndarray) -> Array:
    """Numbers as the kind of leaf that they were."""
    return (
        jax.random.wrap_key_data(jnp.asarray(new), impl=jax.random.key_impl(old)) if _is_key(old) else jnp.asarray(new)
    )


def _plain(leaf: Any) -> np.ndarray:
    """A leaf as numbers."""
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
