"""Devices and compilation: the only file that knows pmap, placement and axis names.

Data parallel: every device holds the whole state and the whole dataset and takes its share of the
places in the global batch. What a place draws depends on the step and on the place alone, so that
any number of devices draws the same batch.
"""

import os
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from air_jax.files import user_cache

AXIS_NAME = "batch"

TrainStep = Callable[[Any, jax.Array, jax.Array], tuple[Any, dict[str, jax.Array]]]


def batch_positions(batch_size: int, num_devices: int) -> np.ndarray:
    """Places in the global batch of each device, int32 `[num_devices, batch_size / num_devices]`.

    Raises:
      ValueError: if the batch does not divide.
    """
    if batch_size % num_devices:
        raise ValueError(
            f"a batch of {batch_size} does not divide over {num_devices} devices "
            f"(remainder {batch_size % num_devices}); choose a multiple of {num_devices}."
        )
    return np.arange(batch_size, dtype=np.int32).reshape(num_devices, -1)


def draw_batch(
    dataset: jax.Array, key: chex.PRNGKey, step: jax.Array, positions: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Draws the images at some places of the global batch of a step, with replacement.

    Args:
      dataset: uint8 `[M, H, W, C]`.
      key: the run's base key.
      step: int32 scalar.
      positions: int32 `[b]`.

    Returns:
      Images, float32 `[b, H, W, C]` in [0, 1], and one key per example, `[b]`.
    """
    step_key = jax.random.fold_in(key, step)

    def draw(position):
        key_image, key_noise = jax.random.split(jax.random.fold_in(step_key, position))
        return jax.random.randint(key_image, (), 0, dataset.shape[0]), key_noise

    indices, keys = jax.vmap(draw)(positions)
    return dataset[indices].astype(jnp.float32) / 255.0, keys


def scan_steps(train_step: TrainStep, steps_per_call: int) -> Callable[..., Any]:
    """`run_steps(state, positions, dataset, key)`: several steps of one device, metrics stacked."""

    def run_steps(state, positions, dataset, key):
        def one_step(state, _):
            images, keys = draw_batch(dataset, key, state.step, positions)
            return train_step(state, images, keys)

        return jax.lax.scan(one_step, state, length=steps_per_call)

    return run_steps


def keep_compiled() -> None:
    """Keeps what is compiled in the user's cache folder, so that a second start need not wait.

    JAX's persistent compilation cache. Where JAX_COMPILATION_CACHE_DIR names a folder, or is empty
    for none, it is left at that.
    """
    folder = user_cache()
    if "JAX_COMPILATION_CACHE_DIR" in os.environ or folder is None:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
    # What compiles faster is not worth a file.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def local_mesh() -> Mesh:
    """All devices of this process along the batch axis."""
    return Mesh(np.asarray(jax.local_devices()), (AXIS_NAME,))


def replicate(tree: Any) -> Any:
    """Puts a tree on every local device.

    Arguments left unplaced would compile a second time and cost a transfer at every call.
    """
    return jax.device_put(tree, NamedSharding(local_mesh(), PartitionSpec()))


def shard(tree: Any) -> Any:
    """Splits the first axis of every leaf over the local devices."""
    return jax.device_put(tree, NamedSharding(local_mesh(), PartitionSpec(AXIS_NAME)))


def pmap_steps(
    train_step: TrainStep, steps_per_call: int, *, many_seeds: bool = False
) -> Callable[..., Any]:
    """Compiles `steps_per_call` steps over all local devices with `jax.pmap`.

    Args:
      train_step: over the mapped axis `AXIS_NAME`.
      steps_per_call: steps inside one compiled call.
      many_seeds: whether state and key have a leading axis, one entry a seed: independent runs in
        one program, each of which draws what it would draw alone. Devices split the batch, never
        the seeds.

    Returns:
      `run(state, positions, dataset, key) -> (state, metrics [steps_per_call])` with positions
      `[local_devices, b]` sharded and everything else replicated; the state is donated. With many
      seeds the metrics are `[K, steps_per_call]`.
    """
    run_steps = scan_steps(train_step, steps_per_call)
    if many_seeds:
        run_steps = jax.vmap(run_steps, in_axes=(0, None, None, 0))
    return jax.pmap(
        run_steps,
        axis_name=AXIS_NAME,
        in_axes=(None, 0, None, None),
        out_axes=None,
        donate_argnums=0,
    )
