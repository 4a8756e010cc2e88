"""Devices, processes and compilation: the only file that knows pmap, placement and axis names.

Data parallel: every device holds the whole state and the whole dataset and takes its share of the
places in the global batch. What a place draws depends on the step and on the place alone, so that
any number of devices, in any number of processes, draws the same batch.

Of several processes the first one alone reads and writes the run's folder and evaluates: what the
others need of it they are sent.
"""

import contextlib
import functools
import hashlib
import itertools
import os
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from air_jax.files import user_cache

AXIS_NAME = "batch"

# A step is hundreds of kernels of a few microseconds, and what it takes is their latency.
_GPU_OPTIONS: dict[str, Any] = {
    # The whole loop over the steps is one CUDA graph, launched once a call,
    "xla_gpu_enable_command_buffer": (
        "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,COLLECTIVES,DYNAMIC_SLICE_FUSION,CONDITIONAL,WHILE"
    ),
    # in which kernels that do not need each other run at the same time.
    "xla_gpu_command_buffer_scheduling_mode": "CONCURRENT",
    # Products that are cut along their sum need two more kernels, to pad and to add.
    "xla_gpu_experimental_force_split_k": 1,
}

TrainStep = Callable[[Any, jax.Array, jax.Array], tuple[Any, dict[str, jax.Array]]]


# Longer than any evaluation. A process that dies is noticed at once or, by its silence, after two
# minutes; then the others end too.
_PATIENCE_SECONDS = 24 * 3600

_meetings = itertools.count()


class DisagreementError(ValueError):
    """Processes of one run that were started with different configs or data."""


def connect() -> None:
    """Makes this process one of several (`jax.distributed`); before anything is computed.

    By JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID where they are set. JAX finds
    them by itself under SLURM, Open MPI, on TPU pods and in Kubernetes jobs.

    Raises:
      ValueError: if of the last two only one is set, one is no number, or the address is missing.
    """
    # JAX would keep SIGTERM to itself, also before training, which has a handler of its own.
    jax.config.update("jax_enable_preemption_service", False)
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    address, num_processes, process_id = (os.environ.get(name) for name in names)
    if num_processes is None and process_id is None:
        jax.distributed.initialize()
        return
    numbers = [number for number in (num_processes, process_id) if number and number.isdigit()]
    if not address or len(numbers) < 2:
        given = ", ".join(f"{name} is {os.environ.get(name)!r}" for name in names)
        raise ValueError(f"{given}; it takes HOST:PORT, the number of processes and one's own.")
    jax.distributed.initialize(address, int(numbers[0]), int(numbers[1]))


def is_first() -> bool:
    """Whether this process is the one that reads and writes the run's folder."""
    return jax.process_index() == 0


def meet() -> None:
    """Waits until every process is here.

    By the coordinator, not by a collective, which gives up after half a minute: the first process
    may be evaluating.
    """
    if jax.process_count() > 1:
        # Orbax takes longer to import than most programs need.
        from orbax.checkpoint import multihost

        client = multihost.get_jax_distributed_client()
        client.wait_at_barrier(f"air_jax/{next(_meetings)}", 1000 * _PATIENCE_SECONDS)


def from_first(tree: Any) -> Any:
    """What the first process has, on all of them; arrays of the same shapes everywhere."""
    if jax.process_count() == 1:
        return tree
    meet()
    return jax.device_get(multihost_utils.broadcast_one_to_all(tree))


def greatest(number: int) -> int:
    """The greatest of the processes' numbers."""
    if jax.process_count() == 1:
        return number
    meet()
    return int(multihost_utils.process_allgather(np.asarray(number)).max())


def check_agreement(what: str, content: str) -> None:
    """Compares what every process has to have in common.

    Args:
      what: for the message.
      content: of this process.

    Raises:
      DisagreementError: on every process, if it is not the first one's on one of them.
    """
    digest = np.frombuffer(hashlib.sha256(content.encode()).digest(), np.uint8)
    differs = greatest(jax.process_index() if (from_first(digest) != digest).any() else 0)
    if differs:
        raise DisagreementError(
            f"process {differs} has another {what} than process 0: start all of them with the same "
            "command and the same data."
        )


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


def own_positions(batch_size: int) -> np.ndarray:
    """Rows of `batch_positions` over all devices that are those of this process's devices.

    Raises:
      ValueError: if the batch does not divide over the devices of all processes.
    """
    positions = batch_positions(batch_size, jax.device_count())
    own = [device.process_index == jax.process_index() for device in jax.devices()]
    return positions[np.asarray(own)]


def draw_examples(
    num_images: int, key: chex.PRNGKey, step: jax.Array, positions: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Draws what stands at some places of the global batch of a step, with replacement.

    Args:
      num_images: M, size of the dataset.
      key: the run's base key.
      step: int32 scalar.
      positions: int32 `[b]`.

    Returns:
      Indices into the dataset, int32 `[b]`, and one key per example, `[b]`.
    """
    step_key = jax.random.fold_in(key, step)

    def draw(position):
        key_image, key_noise = jax.random.split(jax.random.fold_in(step_key, position))
        return jax.random.randint(key_image, (), 0, num_images), key_noise

    return jax.vmap(draw)(positions)


def draw_on_host(
    num_images: int, key: chex.PRNGKey, positions: np.ndarray, steps_per_call: int
) -> Callable[[int], np.ndarray]:
    """What the steps of a call draw, for images that are not on the devices.

    On the CPU, so that nothing waits for an accelerator that is busy with the call before.

    Args:
      num_images: M, size of the dataset.
      key: the run's base key.
      positions: places in the global batch of this process's devices, int32 `[devices, b]`.
      steps_per_call: steps of a call.

    Returns:
      `draw(step) -> indices`: from the first step of a call to the indices that `draw_examples`
      draws, int32 `[devices, steps_per_call, b]`.
    """
    with contextlib.suppress(RuntimeError):  # where JAX_PLATFORMS leaves the CPU out
        key = jax.device_put(key, jax.local_devices(backend="cpu")[0])
    steps = np.arange(steps_per_call, dtype=np.int32)

    @jax.jit
    def indices(key, first):
        draw = jax.vmap(draw_examples, in_axes=(None, None, 0, None))
        drawn, _ = draw(num_images, key, first + steps, jnp.ravel(positions))
        return drawn.reshape(steps_per_call, *positions.shape).swapaxes(0, 1)

    return lambda step: np.asarray(indices(key, np.int32(step)))


def scan_steps(
    train_step: TrainStep, steps_per_call: int, *, streamed: bool = False
) -> Callable[..., Any]:
    """`run_steps(state, positions, dataset, key)`: several steps of one device, metrics stacked.

    If `streamed`, the dataset's place takes the images that these steps draw, uint8
    `[steps_per_call, b, H, W, C]`; the noise of an example is the same either way.

    On an accelerator the length of a step is that of its longest chain of small kernels. So what
    does not depend on the state is done for all steps before the first, and a step's metrics leave
    the loop as one array.
    """

    def run_steps(state, positions, dataset, key):
        first, structure = state.step, None
        draw = jax.vmap(draw_examples, in_axes=(None, None, 0, None))
        indices, keys = draw(len(dataset), key, first + jnp.arange(steps_per_call), positions)
        # Keys as numbers: JAX's check of their reuse does not follow an index.
        numbers, implementation = jax.random.key_data(keys), jax.random.key_impl(key)

        def one_step(state, _):
            nonlocal structure
            # By the state's own step: a seed that is frozen sees the same batch again.
            now = state.step - first
            images = dataset[now] if streamed else dataset[indices[now]]
            # Or every kernel that reads the images would scale them again.
            images = jax.lax.optimization_barrier(images.astype(jnp.float32) / 255.0)
            step_keys = jax.random.wrap_key_data(numbers[now], impl=implementation)
            state, metrics = train_step(state, images, step_keys)
            scalars, structure = jax.tree.flatten(metrics)
            return state, jnp.stack(scalars)

        state, metrics = jax.lax.scan(one_step, state, length=steps_per_call)
        return state, jax.tree.unflatten(structure, list(metrics.T))

    return run_steps


def keep_compiled() -> None:
    """Keeps what is compiled in the user's cache folder, so that a second start need not wait.

    JAX's persistent compilation cache. JAX_COMPILATION_CACHE_DIR overrides the folder; empty turns
    the cache off. JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS overrides the least time that a
    program takes to compile if it is to be kept.
    """
    folder = user_cache()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and folder is not None:
        jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # What compiles faster is not worth a file.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def local_mesh() -> Mesh:
    """All devices of this process along the batch axis."""
    return Mesh(np.asarray(jax.local_devices()), (AXIS_NAME,))


def global_mesh() -> Mesh:
    """All devices of all processes along the batch axis."""
    return Mesh(np.asarray(jax.devices()), (AXIS_NAME,))


def on_host() -> contextlib.AbstractContextManager[Any]:
    """Computes what is computed once on the CPU: an accelerator takes long to compile for."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # JAX_PLATFORMS leaves it out
        return contextlib.nullcontext()


def replicate(tree: Any, mesh: Mesh | None = None) -> Any:
    """Puts a tree on every device of a mesh, by default this process's own.

    Arguments left unplaced would compile a second time and cost a transfer at every call.
    """
    sharding = NamedSharding(local_mesh() if mesh is None else mesh, PartitionSpec())
    return _put(tree, sharding)


def shard(tree: Any, mesh: Mesh | None = None) -> Any:
    """Splits the first axis of every leaf over the devices of a mesh, by default the process's own.

    Over the devices of several processes, each process gives what its own ones take.
    """
    sharding = NamedSharding(local_mesh() if mesh is None else mesh, PartitionSpec(AXIS_NAME))
    return _put(tree, sharding)


def _put(tree: Any, sharding: NamedSharding) -> Any:
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def put(leaf):
        # device_put would send everything around to compare it, and takes no keys.
        if jax.dtypes.issubdtype(getattr(leaf, "dtype", np.float32), jax.dtypes.prng_key):
            wrap = functools.partial(jax.random.wrap_key_data, impl=jax.random.key_impl(leaf))
            return jax.jit(wrap)(put(jax.random.key_data(leaf)))
        return jax.make_array_from_process_local_data(sharding, np.asarray(leaf))

    return jax.tree.map(put, tree)


class Steps:
    """Several train steps in one compiled call over all devices; see `pmap_steps`."""

    def __init__(self, run_steps: Callable[..., Any], *, streamed: bool = False):
        def packed(state, positions, dataset, key):
            state, metrics = run_steps(state, positions, dataset, key)
            scalars, self._structure = jax.tree.flatten(metrics)
            return state, jnp.stack(scalars)

        self._mapped = jax.pmap(
            packed,
            axis_name=AXIS_NAME,
            in_axes=(None, 0, 0 if streamed else None, None),
            out_axes=None,
            donate_argnums=0,
        )
        self._compiled: jax.stages.Compiled | None = None

    def compile(self, *arguments: Any) -> jax.stages.Compiled:
        """Compiles for arguments like these, placed as they will be."""
        lowered = self._mapped.lower(*arguments)
        self._compiled = _compile_for_gpu(lowered) if _is_gpu() else lowered.compile()
        return self._compiled

    def __call__(
        self, state: Any, positions: Any, dataset: Any, key: chex.PRNGKey
    ) -> tuple[Any, dict[str, np.ndarray]]:
        compiled = self._compiled or self.compile(state, positions, dataset, key)
        meet()
        state, scalars = compiled(state, positions, dataset, key)
        # One transfer for all of them.
        return state, jax.tree.unflatten(self._structure, list(jax.device_get(scalars)))


def _is_gpu() -> bool:
    return jax.default_backend() == "gpu"


def _compile_for_gpu(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    try:
        return lowered.compile(_GPU_OPTIONS)
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" not in str(error):
            raise
        logging.warning("steps will be slower than they could: %s", error)
        return lowered.compile()


def pmap_steps(
    train_step: TrainStep, steps_per_call: int, *, many_seeds: bool = False, streamed: bool = False
) -> Steps:
    """Several steps over all devices of all processes with `jax.pmap`, compiled at the first call.

    Args:
      train_step: over the mapped axis `AXIS_NAME`.
      steps_per_call: steps inside one compiled call.
      many_seeds: whether state and key have a leading axis, one entry a seed: independent runs in
        one program, each of which draws what it would draw alone. Devices split the batch, never
        the seeds.
      streamed: whether the dataset's place takes what the steps of a call draw, of one seed, uint8
        `[devices, steps_per_call, b, H, W, C]`, sharded.

    Returns:
      `run(state, positions, dataset, key) -> (state, metrics)` with positions `[devices, b]`
      sharded and everything else replicated over `global_mesh()`; the state is donated. Metrics are
      NumPy arrays `[steps_per_call]`, or with many seeds `[K, steps_per_call]`.
    """
    run_steps = scan_steps(train_step, steps_per_call, streamed=streamed)
    if many_seeds:
        run_steps = jax.vmap(run_steps, in_axes=(0, None, None, 0))
    return Steps(run_steps, streamed=streamed)
