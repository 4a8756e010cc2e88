"""What the compiled steps of a run draw from: all images on every device, or shards on disk.

Either way an example depends on the run's key, the step and its place in the global batch alone,
so that the run is the same, and all that there is to resume from is the step.
"""

from typing import Protocol

import chex
import jax
import numpy as np

from air_jax import parallel
from air_jax.data import stream
from air_jax.data.stream import Shards

Arguments = tuple[jax.Array, jax.Array, chex.PRNGKey]


class Batches(Protocol):
    """Called with the first step of a call, gives the arguments of its compiled steps.

    They come after the state, placed: the positions, the dataset and the key of
    `parallel.pmap_steps`. A context manager, which frees what it holds at its end.

    Attributes:
      streamed: as `pmap_steps` takes it.
    """

    streamed: bool

    def __call__(self, step: int) -> Arguments: ...

    def __enter__(self) -> object: ...

    def __exit__(self, *exception: object) -> None: ...


def create_batches(
    images: np.ndarray | Shards,
    positions: np.ndarray,
    keys: chex.PRNGKey,
    *,
    steps_per_call: int,
    num_steps: int,
) -> Batches:
    """What a run draws from.

    Args:
      images: the training set, uint8 `[M, H, W, C]`.
      positions: places in the global batch of this process's devices, int32 `[devices, b]`.
      keys: the run's base key, or of many seeds one each.
      steps_per_call: steps of a compiled call.
      num_steps: length of the run.

    Raises:
      ValueError: if the images are `Shards`, and there are many seeds.
    """
    if not isinstance(images, Shards):
        return Resident(images, positions, keys)
    if keys.ndim:
        raise ValueError(
            f"{len(keys)} seeds in one program are to draw from shards; it takes one seed, or "
            "images in memory."
        )
    return Streamed(images, positions, keys, steps_per_call=steps_per_call, num_steps=num_steps)


class Resident:
    """All images are on every device, and the compiled steps draw from them."""

    streamed = False

    def __init__(self, images: np.ndarray, positions: np.ndarray, keys: chex.PRNGKey):
        mesh = parallel.global_mesh()
        self._arguments = (
            parallel.shard(positions, mesh),
            parallel.replicate(images, mesh),
            parallel.replicate(keys, mesh),
        )

    def __call__(self, step: int) -> Arguments:
        return self._arguments

    def __enter__(self) -> "Resident":
        return self

    def __exit__(self, *exception: object) -> None:
        """Frees the devices' memory."""
        del self._arguments


class Streamed:
    """The images of a call are drawn on the host, read, and on the devices before it begins.

    A process reads what stands at its own devices' places, and nothing else. Two calls are read
    ahead while one is computed: `steps_per_call` batches each, which both the host and the devices
    have room for.
    """

    streamed = True

    def __init__(
        self,
        images: Shards,
        positions: np.ndarray,
        key: chex.PRNGKey,
        *,
        steps_per_call: int,
        num_steps: int,
    ):
        self._images = images
        self._mesh = parallel.global_mesh()
        self._positions = parallel.shard(positions, self._mesh)
        self._key = parallel.replicate(key, self._mesh)
        self._draw = parallel.draw_on_host(len(images), key, positions, steps_per_call)
        self._steps = range(0, num_steps, steps_per_call)
        self._expected: int | None = None
        self._calls: stream.Prefetched[jax.Array] | None = None

    def __call__(self, step: int) -> Arguments:
        if self._calls is None or step != self._expected:
            self.__exit__()
            remaining = self._steps[self._steps.index(step) :]
            self._calls = stream.prefetched(self._load, remaining)
        self._expected = step + self._steps.step
        return self._positions, next(self._calls), self._key

    def _load(self, step: int) -> jax.Array:
        return parallel.shard(self._images.read(self._draw(step)), self._mesh)

    def __enter__(self) -> "Streamed":
        return self

    def __exit__(self, *exception: object) -> None:
        """Ends the threads that read ahead."""
        if self._calls is not None:
            self._calls.close()
            self._calls = None
