"""The convolutional autoencoder as it is trained and used: codes and reconstructions of images."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from air_jax import parallel, train, trained
from air_jax.models.autoencoder import Autoencoder


class AutoencoderModel(NamedTuple):
    """A network with its parameters.

    Attributes:
      network: the autoencoder.
      params: its parameters.
    """

    network: Autoencoder
    params: Any

    def encode(self, images: np.ndarray, *, batch_size: int = 256) -> np.ndarray:
        """Codes of a set of images, float32 `[n, D]`.

        Args:
          images: `[n, H, W, C]` or, with one channel, `[n, H, W]`; float in [0, 1] or uint8.
          batch_size: images at a time.

        Raises:
          ValueError: if the shape or the range of the images is another, or `batch_size` < 1.
        """
        return self._map(_encode, images, batch_size)

    def reconstruct(self, images: np.ndarray, *, batch_size: int = 256) -> np.ndarray:
        """Reconstructions of a set of images, float32 `[n, H, W, C]`; as `encode` otherwise."""
        return self._map(_reconstruct, images, batch_size)

    def _map(self, function: Callable[..., Any], images: np.ndarray, batch_size: int) -> np.ndarray:
        size, channels = self.network.image_size, self.network.channels
        images = trained.check_images(images, image_size=size, channels=channels)
        params = parallel.replicate(self.params)

        def one(batch: trained.Batch) -> jax.Array:
            return function(self.network, params, batch.images)

        return trained.over_batches(one, images, batch_size)


@functools.partial(jax.jit, static_argnums=0)
def _encode(network, params, images):
    return network.apply({"params": params}, images, method=Autoencoder.encode)


@functools.partial(jax.jit, static_argnums=0)
def _reconstruct(network, params, images):
    return network.apply({"params": params}, images)


def train_autoencoder(
    images: np.ndarray,
    *,
    code_size: int,
    key: chex.PRNGKey,
    num_steps: int,
    width: int = 16,
    bias: float = -2.0,
    learning_rate: float = 1e-3,
    final_fraction: float = 0.01,
    clip_norm: float = 1_000.0,
    batch_size: int = 64,
) -> AutoencoderModel:
    """Trains on the squared error, which is AIR's likelihood but for its scale; Adam.

    Args:
      images: uint8 `[M, H, W, C]`, H = W.
      code_size: D.
      key: of the initialisation and of the batches, drawn with replacement.
      num_steps: training steps.
      width: see `Autoencoder`.
      bias: see `Autoencoder`.
      learning_rate: see `train.create_optimizer`, as the next two.
      final_fraction: likewise.
      clip_norm: likewise.
      batch_size: images of a step.

    Raises:
      ValueError: if the loss is not finite at the end.
    """
    _, image_size, _, channels = images.shape
    network = Autoencoder(image_size, channels, width, code_size, bias)
    key_init, key_steps = jax.random.split(key)
    params = network.init(key_init, jnp.zeros((1, *images.shape[1:])))["params"]
    train_step, optimizer = _create_step(
        network, learning_rate, final_fraction, clip_norm, num_steps, batch_size
    )
    params = {"model": params}  # as the optimizer of a run's config knows them
    dataset, opt_state = jnp.asarray(images), optimizer.init(params)
    value = jnp.zeros(())
    # Not a `scan`: XLA compiles convolutions inside a loop for CPUs to something much slower.
    for step in range(num_steps):
        params, opt_state, value = train_step(
            params, opt_state, dataset, key_steps, jnp.asarray(step)
        )
    if not np.isfinite(float(value)):
        raise ValueError(
            f"the autoencoder's loss is {float(value)} after {num_steps} steps; lower its "
            "learning rate."
        )
    return AutoencoderModel(network, params["model"])


@functools.lru_cache(maxsize=8)  # seeds share what is compiled
def _create_step(network, learning_rate, final_fraction, clip_norm, num_steps, batch_size):
    """The compiled train step, and its optimizer."""
    optimizer = train.create_optimizer(
        learning_rate=learning_rate,
        final_fraction=final_fraction,
        clip_norm=clip_norm,
        num_steps=num_steps,
    )

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def train_step(params, opt_state, dataset, key, step):
        places = jax.random.randint(
            jax.random.fold_in(key, step), (batch_size,), 0, dataset.shape[0]
        )
        batch = dataset[places].astype(jnp.float32) / 255.0

        def loss(params):
            error = network.apply({"params": params["model"]}, batch) - batch
            return jnp.square(error).sum((1, 2, 3)).mean()

        value, gradients = jax.value_and_grad(loss)(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    return train_step, optimizer
