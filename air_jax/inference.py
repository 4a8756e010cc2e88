"""A trained AIR or DAIR and what it says about images: the library's face.

For example:

    model = air_jax.load("runs/dair")
    objects = model.infer(images)  # float32 [n, H, W, 1] in [0, 1]
    objects.counts, objects.boxes, objects.count_probs
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from air_jax import distributions, metrics, objectives, parallel, trained
from air_jax.distributions import UnaryCode
from air_jax.models import detection, spatial_transformer
from air_jax.models.air import AIR, create_air, posterior_mean_noise, sample_noise
from air_jax.models.scene2d import Sampled
from air_jax.models.trace import Trace


class Objects(NamedTuple):
    """The objects of n images, at the posterior means of z_where and z_what. NumPy arrays.

    N steps; what lies beyond an image's count is what the model would have drawn next. The
    posterior is Gaussian in log s: the scale s is the exponential of that mean, its median.

    Attributes:
      counts: number of steps before the first with q(z_pres = 1) < 0.5, int32 `[n]`.
      count_probs: q(count = 0..N | x) with the latents at these means, not averaged over them,
        `[n, N + 1]`.
      presence: probability, likewise, that step i is present, `[n, N]`; the boxes' scores.
      boxes: extent of each object's own ink above half its maximum, in pixels of the model's
        image, `(x_min, y_min, x_max, y_max)`, `[n, N, 4]`.
      windows: the attention windows, in the same form, `[n, N, 4]`.
      z_where: `(s, t_x, t_y)`, `[n, N, 3]`.
      z_what: appearance codes, `[n, N, D]`.
      reconstructions: canvas with `counts` objects, `[n, H, W, C]`.
      elbo_terms: the ELBO and its terms at one sample of the posterior, nats, `[n]` each.
    """

    counts: np.ndarray
    count_probs: np.ndarray
    presence: np.ndarray
    boxes: np.ndarray
    windows: np.ndarray
    z_where: np.ndarray
    z_what: np.ndarray
    reconstructions: np.ndarray
    elbo_terms: dict[str, np.ndarray]


class Detections(NamedTuple):
    """The objects of n images at the posterior means, and no more. NumPy arrays.

    The same as in `Objects` up to each image's count, and zero beyond it.

    Attributes:
      counts: number of steps before the first with q(z_pres = 1) < 0.5, int32 `[n]`.
      presence: probability that step i is present, `[n, N]`; zero after the first step that found
        no object, for which it is still given.
      windows: the attention windows, `(x_min, y_min, x_max, y_max)` in pixels, `[n, N, 4]`.
      z_where: `(s, t_x, t_y)`, `[n, N, 3]`.
      z_what: appearance codes, `[n, N, D]`.
      num_steps: steps that the image's batch took, int32 `[n]`.
    """

    counts: np.ndarray
    presence: np.ndarray
    windows: np.ndarray
    z_where: np.ndarray
    z_what: np.ndarray
    num_steps: np.ndarray


def _apply(air: AIR, params: Any, images: jax.Array, noise: Any, every_count: bool) -> Trace:
    trace = air.apply({"params": params}, images, noise, every_count=every_count)
    assert isinstance(trace, Trace)  # flax's apply is untyped
    return trace


@functools.partial(jax.jit, static_argnames="air")
def _infer_batch(air, params, prior_logits, images, keys):
    """One batch at the posterior means, and its ELBO terms at one sample."""
    mean = _apply(air, params, images, posterior_mean_noise(images.shape[0], air), True)
    sample = _apply(air, params, images, sample_noise(keys, air), False)
    counts = mean.posterior.mode_count()
    objects = {
        "counts": counts,
        "count_probs": jnp.exp(mean.posterior.log_prob_counts()),
        "presence": jnp.cumprod(jax.nn.sigmoid(mean.presence_logit), axis=-1),
        "windows": spatial_transformer.window_box(mean.z_where, air.scene.image_size),
        "z_where": mean.z_where,
        "z_what": mean.z_what,
        # Not `at_count`: its sample and the mode differ where q(z_pres = 1) is exactly 0.5.
        "reconstructions": jax.vmap(lambda row, n: row[n])(mean.canvases, counts),
        "elbo_terms": objectives.elbo_terms(sample, UnaryCode(prior_logits)),
    }
    return objects, mean.objects


@functools.partial(jax.jit, static_argnames=("air", "stop_early"))
def _detect_batch(air, params, images, wanted, *, stop_early):
    found = detection.detect(air, params, images, wanted, stop_early=stop_early)
    counts = UnaryCode(found.presence_logit).mode_count()
    is_object = (jnp.arange(air.num_steps) < counts[:, None])[..., None]
    # Where there is none, s is 0, and a window would be infinite.
    z_where = jnp.where(is_object, found.z_where, 1.0)
    windows = spatial_transformer.window_box(z_where, air.scene.image_size)
    return {
        "counts": counts,
        "presence": jnp.cumprod(jax.nn.sigmoid(found.presence_logit), axis=-1),
        "windows": jnp.where(is_object, windows, 0.0),
        "z_where": found.z_where,
        "z_what": found.z_what,
        "num_steps": jnp.full_like(counts, found.num_steps),
    }


@functools.partial(jax.jit, static_argnames="air")
def _trace_batch(air, params, images):
    return _apply(air, params, images, posterior_mean_noise(images.shape[0], air), True)


@functools.partial(jax.jit, static_argnames="air")
def _sample_batch(air, params, counts, key):
    scene = {"params": params["scene"]}
    return air.scene.apply(scene, key, counts, air.num_steps, method="sample")


@functools.partial(jax.jit, static_argnames=("air", "num_samples"))
def _iwae_batch(air, params, prior_logits, images, keys, num_samples):
    def one_sample(index):
        noise = sample_noise(jax.vmap(lambda key: jax.random.fold_in(key, index))(keys), air)
        trace = _apply(air, params, images, noise, False)
        return objectives.log_weight(trace, UnaryCode(prior_logits))

    # A few samples at a time: all of them at once would not fit in cache.
    log_weights = jax.lax.map(one_sample, jnp.arange(num_samples), batch_size=5)
    return objectives.iwae(log_weights)


class Model(NamedTuple):
    """A network with its parameters and the prior that it is judged with: a `TrainedModel`.

    Attributes:
      air: the inference network with its scene model.
      params: its parameters.
      prior: p(z_pres), logits `[N]`.
      config: the run's config, as plain types.
    """

    air: AIR
    params: Any
    prior: UnaryCode
    config: dict[str, Any]

    def infer(
        self,
        images: np.ndarray,
        *,
        key: chex.PRNGKey | None = None,
        batch_size: int = 256,
    ) -> Objects:
        """Finds the objects of a set of images.

        Args:
          images: `[n, H, W, C]` or, with one channel, `[n, H, W]`; float in [0, 1] or uint8; H and
            W as the model was trained (`air_jax.data.images.prepare_images` makes them so).
          key: of the sample that gives the ELBO; a fixed one if None.
          batch_size: images at a time.

        Raises:
          ValueError: if the shape or the range of the images is another, or `batch_size` < 1.
        """
        images = self._check(images)
        key = jax.random.key(0) if key is None else key
        params = parallel.replicate(self.params)

        def one(batch: trained.Batch) -> dict[str, Any]:
            objects, placed = jax.device_get(
                _infer_batch(self.air, params, self.prior.logits, batch.images, batch.keys(key))
            )
            # By NumPy. An object's ink is where any channel has ink.
            return {**objects, "boxes": metrics.ink_boxes(placed.max(-1))}

        return Objects(**trained.over_batches(one, images, batch_size))

    def detect(
        self, images: np.ndarray, *, stop_early: bool = True, batch_size: int = 256
    ) -> Detections:
        """Finds the objects of a set of images, and nothing else: no ELBO, no boxes of the ink.

        Args:
          images: as in `infer`.
          stop_early: whether a batch takes only as many steps as its images have use for. The
            result is the same; small batches gain most, since the image with the most objects
            decides.
          batch_size: images at a time.

        Raises:
          ValueError: if the shape or the range of the images is another, or `batch_size` < 1.
        """
        images = self._check(images)
        params = parallel.replicate(self.params)

        def one(batch: trained.Batch) -> dict[str, jax.Array]:
            return _detect_batch(
                self.air, params, batch.images, batch.is_real(), stop_early=stop_early
            )

        return Detections(**trained.over_batches(one, images, batch_size))

    def trace(self, images: np.ndarray) -> Trace:
        """Looks at a few images at the posterior means and tells every step, for figures.

        Args:
          images: as in `infer`.

        Returns:
          A trace that scores every count: all N objects of each image, wanted or not.

        Raises:
          ValueError: if the shape or the range of the images is another.
        """
        return jax.device_get(_trace_batch(self.air, self.params, self._check(images)))

    def sample(self, counts: np.ndarray, *, key: chex.PRNGKey) -> Sampled:
        """Draws scenes from the generative model, without the likelihood's noise. NumPy arrays.

        Args:
          counts: number of objects of each scene, `[B]`, 0 to N.
          key: of the latents.

        Raises:
          ValueError: if a count is out of range.
        """
        counts = trained.check_counts(counts, self.air.num_steps)
        return jax.device_get(_sample_batch(self.air, self.params, counts, key))

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
            keys = batch.keys(key)
            return _iwae_batch(self.air, params, self.prior.logits, batch.images, keys, num_samples)

        return trained.over_batches(one, images, batch_size)

    def _check(self, images: np.ndarray) -> np.ndarray:
        scene = self.air.scene
        return trained.check_images(images, image_size=scene.image_size, channels=scene.channels)


def create_model(config: Mapping[str, Any], params: Any) -> Model:
    """A model from its config (plain types, as exported) and parameters.

    Args:
      config: with the sections `scene`, `inference`, `prior` and `image`.
      params: of the network.
    """
    air = create_air(scene=config["scene"], inference=config["inference"], **config["image"])
    prior = distributions.create_prior(**config["prior"], num_steps=air.num_steps)
    final = prior(jnp.asarray(config["prior"]["steps"]))
    return Model(air=air, params=params, prior=final, config=dict(config))
