"""AIR through a renderer as a user loads it (paper, Sec. 3.2): what `inference` has in 2-D."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from air_jax import distributions, objectives, parallel, refine3d, trained
from air_jax.distributions import UnaryCode
from air_jax.models.air3d import AIR3D, CERTAIN, apply, create_air3d
from air_jax.models.scene3d import Sampled3D
from air_jax.refine3d import Refinement


class Objects3D(NamedTuple):
    """The scenes of n images: an `Inference`. NumPy arrays.

    Identities are the likeliest ones, poses and camera at their posterior means; with turns, yaws
    are the likeliest of those that were rendered. N steps; what lies beyond an image's count is
    what the model would have drawn next. Sweeps put what they find last, and an object's odds and
    identity's law are of the pass that found it.

    Attributes:
      counts: number of objects: without sweeps, of the steps before the first with
        q(z_pres = 1) <= 0.5; int32 `[n]`.
      presence: probability that step i is present, the product of those of the steps up to it,
        `[n, N]`.
      identities: place in the catalogue, int32 `[n, N]`.
      identity_probs: q(z_what_i), `[n, N, K]`.
      poses: `(x, y, yaw)`, units of length and radians in [-pi, pi), `[n, N, 3]`.
      cameras: azimuth and elevation, radians, `[n, 2]`.
      reconstructions: the scene with `counts` objects, rendered, `[n, H, W, 3]`.
      elbo_terms: the ELBO and its terms at one sample of the posterior, which knows of no sweeps
        or turns, nats, `[n]` each.
    """

    counts: np.ndarray
    presence: np.ndarray
    identities: np.ndarray
    identity_probs: np.ndarray
    poses: np.ndarray
    cameras: np.ndarray
    reconstructions: np.ndarray
    elbo_terms: dict[str, np.ndarray]


@functools.partial(jax.jit, static_argnames=("air", "refinement"))
def _infer_batch(air, params, prior_logits, images, keys, refinement):
    """One batch at the posterior's mode, refined, and its ELBO terms at one sample."""
    prior = UnaryCode(prior_logits)
    found, cameras = refine3d.find(
        images, air=air, params=params, prior=prior, refinement=refinement
    )
    sample = apply(air, params, images, air.sample_noise(keys))
    return {
        "counts": found.z_pres.sum(-1).astype(jnp.int32),
        "presence": jnp.cumprod(jax.nn.sigmoid(found.presence_logit), axis=-1),
        "identities": found.z_what,
        "identity_probs": jnp.exp(found.what_log_probs),
        "poses": found.z_where,
        "cameras": cameras,
        "reconstructions": air.scene.draw(found.z_what, found.z_pres, found.z_where, cameras),
        "elbo_terms": objectives.elbo_terms(sample, prior),
    }


@functools.partial(jax.jit, static_argnames=("air", "refinement"))
def _detect_batch(air, params, prior_logits, images, refinement):
    """Counts, identities and poses at the posterior's mode, refined, without the last rendering."""
    prior = UnaryCode(prior_logits)
    found, _ = refine3d.find(images, air=air, params=params, prior=prior, refinement=refinement)
    return found.z_pres.sum(-1).astype(jnp.int32), found.z_what, found.z_where


@functools.partial(jax.jit, static_argnames="air")
def _sample_batch(air, counts, key):
    return air.scene.sample(key, counts, air.num_steps)


@functools.partial(jax.jit, static_argnames=("air", "num_samples"))
def _iwae_batch(air, params, prior_logits, images, keys, num_samples):
    def one_sample(index):
        noise = air.sample_noise(jax.vmap(lambda key: jax.random.fold_in(key, index))(keys))
        trace = apply(air, params, images, noise)
        return objectives.log_weight(trace, UnaryCode(prior_logits))

    return objectives.iwae(jax.lax.map(one_sample, jnp.arange(num_samples)))


class Model3D(NamedTuple):
    """A network with its parameters and the prior that it is judged with: a `TrainedModel`.

    Attributes:
      air: the inference network with its scene model.
      params: its parameters.
      prior: p(z_pres), logits `[N]`.
      config: the run's config, as plain types.
    """

    air: AIR3D
    params: Any
    prior: UnaryCode
    config: dict[str, Any]

    def infer(
        self,
        images: np.ndarray,
        *,
        key: chex.PRNGKey | None = None,
        batch_size: int = 256,
        num_sweeps: int = 0,
        num_turns: int = 1,
    ) -> Objects3D:
        """Finds the scenes of a set of images.

        Args:
          images: `[n, H, W, 3]`; float in [0, 1] or uint8; H and W as the model was trained.
          key: of the sample that gives the ELBO; a fixed one if None.
          batch_size: images at a time.
          num_sweeps: times that the network looks again at every object, given the others, to keep
            what makes the image likelier, see `refine3d.sweep`. It mends counts where objects of
            one kind occur twice, and places; not with a single object, nor in pictures that the
            renderer cannot draw.
          num_turns: yaws of each object that are rendered, to keep the likeliest, evenly around
            from the one that is inferred (of a cube, around a quarter); 1 for that one alone. The
            likelihood prefers the true yaw of a pan only within some ten degrees of it; of 24
            turns one is at most 7.5 away.

        Raises:
          ValueError: if the shape or the range of the images is another, `batch_size` or
            `num_turns` < 1, or `num_sweeps` < 0.
        """
        images, refinement = self._check(images), Refinement(num_sweeps, num_turns)
        key = jax.random.key(0) if key is None else key
        params = parallel.replicate(self.params)

        def one(batch: trained.Batch) -> dict[str, Any]:
            keys = batch.keys(key)
            logits = self.prior.logits
            return _infer_batch(self.air, params, logits, batch.images, keys, refinement)

        return Objects3D(**trained.over_batches(one, images, batch_size))

    def detect(
        self,
        images: np.ndarray,
        *,
        batch_size: int = 256,
        num_sweeps: int = 0,
        num_turns: int = 1,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Counts `[n]`, identities `[n, N]` and poses `[n, N, 3]`, as in `Objects3D`.

        Nothing is rendered, but for what DAIR sees of the objects before each step, and what sweeps
        and turns are judged by.

        Args:
          images: as in `infer`.
          batch_size: images at a time.
          num_sweeps: as in `infer`.
          num_turns: as in `infer`.

        Raises:
          ValueError: as `infer`.
        """
        images, refinement = self._check(images), Refinement(num_sweeps, num_turns)
        params = parallel.replicate(self.params)

        def one(batch: trained.Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
            return _detect_batch(self.air, params, self.prior.logits, batch.images, refinement)

        return trained.over_batches(one, images, batch_size)

    def sample(self, counts: np.ndarray, *, key: chex.PRNGKey) -> Sampled3D:
        """Draws scenes from the generative model, without the likelihood's noise. NumPy arrays.

        Args:
          counts: number of objects of each scene, `[B]`, 0 to N.
          key: of what stands where, and of the camera.

        Raises:
          ValueError: if a count is out of range.
        """
        counts = trained.check_counts(counts, self.air.num_steps)
        return jax.device_get(_sample_batch(self.air, counts, key))

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


def create_model(config: Mapping[str, Any], params: Any) -> Model3D:
    """A model from its config (plain types, as exported) and parameters.

    Args:
      config: with the sections `scene`, `inference`, `prior` and `image`.
      params: of the network.
    """
    air = create_air3d(scene=config["scene"], inference=config["inference"], **config["image"])
    prior = distributions.create_prior(**config["prior"], num_steps=air.num_steps)
    final = prior_over_counts(air, prior(jnp.asarray(config["prior"]["steps"])))
    return Model3D(air=air, params=params, prior=final, config=dict(config))


def prior_over_counts(air: AIR3D, prior: UnaryCode) -> UnaryCode:
    """p(z_pres): the config's, or that of N objects where all of them are known to be there."""
    if not air.fixed_count:
        return prior
    return UnaryCode(jnp.full((air.num_steps,), CERTAIN))
