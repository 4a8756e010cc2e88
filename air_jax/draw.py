"""DRAW as a run trains it and a user loads it: what `train` and `inference` have for AIR."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from air_jax import objectives, parallel, train, trained
from air_jax.models.draw import DRAW, Attention, Drawing, create_draw, sample_noise
from air_jax.objectives import LossOutput
from air_jax.train import TrainState


class Drawings(NamedTuple):
    """What a network says about n images: an `Inference`. NumPy arrays.

    T steps. The grids' centre is in pixels, the first one's centre at 0.5 as for AIR's windows.

    Attributes:
      z: latents at their posterior means, `[n, T, D]`.
      read_windows: what the filters' centres span, `(x_min, y_min, x_max, y_max)` in pixels, of
        each step, `[n, T, 4]`.
      write_windows: likewise.
      reconstructions: the drawn image at these means, `[n, H, W, C]`.
      elbo_terms: the ELBO and its terms at one sample of the posterior, nats, `[n]` each.
    """

    z: np.ndarray
    read_windows: np.ndarray
    write_windows: np.ndarray
    reconstructions: np.ndarray
    elbo_terms: dict[str, np.ndarray]


def create_draw_training(
    *,
    draw: Mapping[str, Any],
    optimizer: Mapping[str, Any],
    num_train_steps: int,
    image_size: int,
    channels: int,
    freeze_non_finite: bool = False,
) -> train.Training:
    """Builds network, loss, optimizer and what makes initial states from their config sections.

    The loss is the negative ELBO of one sample (Gregor et al., 2015, Eq. 12).

    Args:
      draw: section of `DRAW`.
      optimizer: section of `train.create_optimizer`, without a baseline's rate.
      num_train_steps: length of the run.
      image_size: side of the images in pixels.
      channels: C.
      freeze_non_finite: see `train.create_train_step`.

    Raises:
      TypeError: if a section has an unknown key or lacks one.
      ValueError: if a value is out of range.
    """
    network = create_draw(draw, image_size=image_size, channels=channels)
    transform = train.create_optimizer(**optimizer, num_steps=num_train_steps)

    def loss(params, statistics, step, images, keys):
        del step
        drawing = _apply(network, params["model"], images, sample_noise(keys, network))
        terms = drawing.elbo_terms
        return LossOutput(-terms["elbo"], terms, statistics)

    def init(key: chex.PRNGKey) -> TrainState:
        images = jnp.zeros((1, image_size, image_size, channels))
        params = {"model": network.init(key, images, _mean_noise(network, 1))["params"]}
        return train.create_state(params, transform, statistics=())

    train_step = train.create_train_step(
        loss,
        transform,
        axis_name=parallel.AXIS_NAME,
        statistics_decay=0.0,  # there are none
        freeze_non_finite=freeze_non_finite,
    )
    return train.Training(train_step, jax.jit(init))


def _mean_noise(network: DRAW, batch_size: int) -> jax.Array:
    """Noise that puts z at its posterior means."""
    return jnp.zeros((batch_size, network.num_steps, network.z_size))


def _apply(network: DRAW, params: Any, images: jax.Array, noise: jax.Array) -> Drawing:
    drawing = network.apply({"params": params}, images, noise)
    assert isinstance(drawing, Drawing)  # flax's apply is untyped
    return drawing


def _window(grid: Attention, grid_size: int) -> jax.Array:
    half = (grid_size - 1) / 2 * grid.stride[..., None]
    # Pixel 1 of the paper is centred at 0.5 here.
    return jnp.concatenate([grid.centre - half, grid.centre + half], axis=-1) - 0.5


@functools.partial(jax.jit, static_argnames="network")
def _infer_batch(network, params, images, keys):
    """One batch at the posterior means, and its ELBO terms at one sample."""
    mean = _apply(network, params, images, _mean_noise(network, images.shape[0]))
    sample = _apply(network, params, images, sample_noise(keys, network))
    return {
        "z": mean.z,
        "read_windows": _window(mean.read, network.read_size),
        "write_windows": _window(mean.write, network.write_size),
        "reconstructions": mean.canvas,
        "elbo_terms": sample.elbo_terms,
    }


@functools.partial(jax.jit, static_argnames=("network", "num_samples"))
def _iwae_batch(network, params, images, keys, num_samples):
    def one_sample(index):
        keys_of_sample = jax.vmap(lambda key: jax.random.fold_in(key, index))(keys)
        return _apply(network, params, images, sample_noise(keys_of_sample, network)).log_weight

    return objectives.iwae(jax.lax.map(one_sample, jnp.arange(num_samples)))


@functools.partial(jax.jit, static_argnames="network")
def _draw_batch(network, params, images):
    return _apply(network, params, images, _mean_noise(network, images.shape[0]))


class DrawModel(NamedTuple):
    """A network with its parameters: a `TrainedModel`.

    Attributes:
      network: DRAW.
      params: its parameters.
      config: the run's config, as plain types.
    """

    network: DRAW
    params: Any
    config: dict[str, Any]

    def infer(
        self, images: np.ndarray, *, key: chex.PRNGKey | None = None, batch_size: int = 256
    ) -> Drawings:
        """Draws a set of images.

        Args:
          images: `[n, H, W, C]` or, with one channel, `[n, H, W]`; float in [0, 1] or uint8; H and
            W as the model was trained.
          key: of the sample that gives the ELBO; a fixed one if None.
          batch_size: images at a time.

        Raises:
          ValueError: if the shape or the range of the images is another, or `batch_size` < 1.
        """
        images = self._check(images)
        key = jax.random.key(0) if key is None else key
        params = parallel.replicate(self.params)

        def one(batch: trained.Batch) -> dict[str, Any]:
            return _infer_batch(self.network, params, batch.images, batch.keys(key))

        return Drawings(**trained.over_batches(one, images, batch_size))

    def iwae(
        self,
        images: np.ndarray,
        *,
        key: chex.PRNGKey,
        num_samples: int = 100,
        batch_size: int = 100,
    ) -> np.ndarray:
        """IWAE bound of log p(x), nats, `[n]`.

        Args:
          images: as in `infer`.
          key: of the samples.
          num_samples: K.
          batch_size: images at a time.

        Raises:
          ValueError: if the shape or the range of the images is another, or `batch_size` < 1.
        """
        images = self._check(images)
        params = parallel.replicate(self.params)

        def one(batch: trained.Batch) -> jax.Array:
            return _iwae_batch(self.network, params, batch.images, batch.keys(key), num_samples)

        return trained.over_batches(one, images, batch_size)

    def draw(self, images: np.ndarray) -> Drawing:
        """Draws a few images at the posterior means and tells every step, for figures.

        Args:
          images: as in `infer`.

        Raises:
          ValueError: if the shape or the range of the images is another.
        """
        return jax.device_get(_draw_batch(self.network, self.params, self._check(images)))

    def _check(self, images: np.ndarray) -> np.ndarray:
        network = self.network
        return trained.check_images(
            images, image_size=network.image_size, channels=network.channels
        )


def create_model(config: Mapping[str, Any], params: Any) -> DrawModel:
    """A model from its config (plain types, as exported) and parameters.

    Args:
      config: with the sections `draw` and `image`.
      params: of the network.
    """
    return DrawModel(create_draw(config["draw"], **config["image"]), params, dict(config))
