"""What all trained models have in common: their interface, and how they take images."""

import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import chex
import jax
import jax.numpy as jnp
import numpy as np

from air_jax import parallel


class Inference(Protocol):
    """What a model says about n images; a kind of model may say more. NumPy arrays."""

    @property
    def reconstructions(self) -> np.ndarray:
        """At the posterior means, `[n, H, W, C]`."""

    @property
    def elbo_terms(self) -> dict[str, np.ndarray]:
        """`elbo` and its terms at one sample of the posterior, nats, `[n]` each."""


class TrainedModel(Protocol):
    """A network with its parameters, as `kinds.load` and `kinds.create_model` return it."""

    @property
    def params(self) -> Any:
        """Of the network."""

    @property
    def config(self) -> dict[str, Any]:
        """The run's, as plain types."""

    def infer(
        self, images: np.ndarray, *, key: chex.PRNGKey | None = None, batch_size: int = 256
    ) -> Inference:
        """What it says about images `[n, H, W, C]`; the key is of the sample for the ELBO."""

    def iwae(
        self,
        images: np.ndarray,
        *,
        key: chex.PRNGKey,
        num_samples: int = 100,
        batch_size: int = 100,
    ) -> np.ndarray:
        """IWAE bound of log p(x) from `num_samples` samples, nats, `[n]`."""


def check_images(images: np.ndarray, *, image_size: int, channels: int) -> np.ndarray:
    """Images as a network takes them.

    Args:
      images: `[n, H, W, C]` or, with one channel, `[n, H, W]`; float in [0, 1] or uint8.
      image_size: H and W.
      channels: C.

    Returns:
      float32 `[n, H, W, C]` in [0, 1].

    Raises:
      ValueError: if the shape or the range of the images is another.
    """
    images = np.asarray(images)
    given = images.shape
    if images.ndim == 3 and channels == 1:
        images = images[..., None]
    expected = (image_size, image_size, channels)
    if images.ndim != 4 or images.shape[1:] != expected or not len(images):
        raise ValueError(
            f"images have shape {given}; this model takes [n, "
            f"{', '.join(map(str, expected))}] with n > 0. "
            "air_jax.data.images.prepare_images resizes."
        )
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255.0)
    images = images.astype(np.float32)
    if not (np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1):
        raise ValueError(
            "images hold values that are not finite or not in [0, 1]; scale them, or pass uint8."
        )
    return images


def check_counts(counts: np.ndarray, num_steps: int) -> np.ndarray:
    """Numbers of objects of scenes that a model is to draw, int32 `[B]`.

    Raises:
      ValueError: if they are not whole numbers from 0 to `num_steps`, `[B]` with B > 0.
    """
    counts = np.asarray(counts)
    whole = np.issubdtype(counts.dtype, np.integer) and counts.ndim == 1 and len(counts)
    if not whole or counts.min() < 0 or counts.max() > num_steps:
        raise ValueError(
            f"counts are {counts}; this model draws 0 to {num_steps} objects, a whole number for "
            "each scene."
        )
    return counts.astype(np.int32)


class Batch(NamedTuple):
    """Some of a set of images, of the size that all of its batches have.

    Attributes:
      images: float32 `[B, H, W, C]`, sharded over the devices; behind the set's last image zeros.
      start: place of the first in the set.
      num_images: how many of the images are of the set.
    """

    images: jax.Array
    start: int
    num_images: int

    def keys(self, key: chex.PRNGKey) -> jax.Array:
        """A key for each image, `[B]`, that does not depend on how the set is cut into batches."""
        places = jnp.arange(self.start, self.start + len(self.images))
        return parallel.shard(jax.vmap(lambda i: jax.random.fold_in(key, i))(places))

    def is_real(self) -> jax.Array:
        """Whether each image is one of the set, bool `[B]`."""
        return parallel.shard(np.arange(len(self.images)) < self.num_images)


def over_batches(function: Callable[[Batch], Any], images: np.ndarray, batch_size: int) -> Any:
    """Applies a function to a set of images, a batch at a time.

    Args:
      function: returns a tree of arrays `[B, ...]` for a batch.
      images: float32 `[n, H, W, C]`.
      batch_size: images at a time. A set smaller than that takes the next power of two, so that
        few shapes are ever compiled.

    Returns:
      The tree for all images, NumPy arrays `[n, ...]`.

    Raises:
      ValueError: if `batch_size` < 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1.")
    devices = parallel.local_mesh().size
    size = min(batch_size, 2 ** math.ceil(math.log2(len(images))))
    size = math.ceil(size / devices) * devices
    results = []
    for start in range(0, len(images), size):
        some = images[start : start + size]
        padded = np.zeros((size, *images.shape[1:]), np.float32)
        padded[: len(some)] = some
        found = jax.device_get(function(Batch(parallel.shard(padded), start, len(some))))
        results.append(jax.tree.map(operator.itemgetter(slice(len(some))), found))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *results)
