"""AIR through a renderer as a run trains it and a user loads it (paper, Sec. 3.2).

What `train` and `inference` have for the 2-D models.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from air_jax import distributions, estimators, objectives, parallel, train, trained
from air_jax.distributions import UnaryCode, wrap_angle
from air_jax.models.air3d import AIR3D, CERTAIN, create_air3d
from air_jax.models.modules import create_baseline
from air_jax.models.scene3d import Sampled3D
from air_jax.models.trace import Trace
from air_jax.objectives import LossOutput
from air_jax.train import TrainState


class Objects3D(NamedTuple):
    """The scenes of n images: an `Inference`. NumPy arrays.

    Identities are the likeliest ones, poses and camera at their posterior means, but for yaws that
    were compared. N steps; what lies
    beyond an image's count is what the model would have drawn next.

    Attributes:
      counts: number of steps before the first with q(z_pres = 1) < 0.5, int32 `[n]`.
      presence: probability that step i is present, `[n, N]`.
      identities: place in the catalogue, int32 `[n, N]`.
      identity_probs: q(z_what_i), `[n, N, K]`.
      poses: `(x, y, yaw)`, units of length and radians, `[n, N, 3]`.
      cameras: azimuth and elevation, radians, `[n, 2]`.
      reconstructions: the scene with `counts` objects, rendered, `[n, H, W, 3]`.
      elbo_terms: the ELBO and its terms at one sample of the posterior, nats, `[n]` each.
    """

    counts: np.ndarray
    presence: np.ndarray
    identities: np.ndarray
    identity_probs: np.ndarray
    poses: np.ndarray
    cameras: np.ndarray
    reconstructions: np.ndarray
    elbo_terms: dict[str, np.ndarray]


def create_training(
    *,
    estimator: str,
    scene: Mapping[str, Any],
    inference: Mapping[str, Any],
    baseline: Mapping[str, Any],
    prior: Mapping[str, Any],
    exploration: Mapping[str, Any],
    optimizer: Mapping[str, Any],
    num_samples: int,
    centring: str,
    num_train_steps: int,
    image_size: int,
    channels: int,
    freeze_non_finite: bool = False,
) -> train.Training:
    """Builds network, loss, optimizer and what makes initial states from their config sections.

    Args:
      estimator: one of `estimators.NAMES`; "enumerate" sums over the identities of a scene's only
        object.
      scene: section of `Scene3D`.
      inference: section of `AIR3D`.
      baseline: section of `Baseline`, and `decay`, the weight of the past in its moving moments.
      prior: section of `distributions.create_prior`.
      exploration: section of `create_exploration`.
      optimizer: section of `train.create_optimizer`.
      num_samples: K of the estimator, see `estimators.create_loss`.
      centring: of the estimator's score function.
      num_train_steps: length of the run.
      image_size: side of the images in pixels.
      channels: C.
      freeze_non_finite: see `train.create_train_step`.

    Raises:
      TypeError: if a section has an unknown key or lacks one.
      ValueError: if a name is unknown, or the estimator does not fit the network.
    """
    air = create_air3d(scene=scene, inference=inference, image_size=image_size, channels=channels)
    baseline_network, decay = create_baseline(**baseline)
    counts_prior = distributions.create_prior(**prior, num_steps=air.num_steps)

    def presence_prior(step):
        return prior_over_counts(air, counts_prior(step))

    share = create_exploration(**exploration)
    estimators.check(estimator, num_samples, centring)
    if estimator == "enumerate":
        if air.num_steps > 1 or not air.fixed_count:
            raise ValueError(
                "estimator is 'enumerate', which sums over the identities of one object that is "
                f"known to be there; inference.num_steps is {air.num_steps} and "
                f"inference.fixed_count {air.fixed_count}. Choose 'nvil'."
            )
        surrogate = _create_enumeration(air, presence_prior)
    else:
        surrogate = estimators.create_surrogate(
            estimator,
            air=air,
            baseline=baseline_network,
            prior=presence_prior,
            num_samples=num_samples,
            centring=centring,
        )

    def loss(params, statistics, step, images, keys) -> LossOutput:
        noise: Any = estimators.draw_noise(keys, air, num_samples)
        noise = noise._replace(exploration=jnp.full_like(noise.exploration, share(step)))
        return surrogate(params, statistics, step, images, noise)

    transform = train.create_optimizer(**optimizer, num_steps=num_train_steps)
    statistics = estimators.initial_statistics(estimator, air.num_steps)

    def init(key: chex.PRNGKey) -> TrainState:
        key_model, key_baseline = jax.random.split(key)
        images = jnp.zeros((1, image_size, image_size, channels))
        params = {"model": air.init(key_model, images, air.mean_noise(1))["params"]}
        if estimator == "nvil":
            errors = jnp.zeros((1, air.num_steps, *images.shape[1:]))
            params["baseline"] = baseline_network.init(key_baseline, errors)["params"]
        return train.create_state(params, transform, statistics)

    train_step = train.create_train_step(
        loss,
        transform,
        axis_name=parallel.AXIS_NAME,
        statistics_decay=decay,
        freeze_non_finite=freeze_non_finite,
    )
    return train.Training(train_step, jax.jit(init))


def create_exploration(*, start: float, hold: int, steps: int) -> Callable[[jax.Array], jax.Array]:
    """The share of an exploring law in that of z_pres and z_what as a function of the step.

    While poses are still far off, the likelihood prefers whatever object shows least, or none; an
    identity that is given up then is never tried again where it would fit. So what decides is not
    left to decide until poses are known: a step takes an identity at random among those with which
    an object, where the network would put it, makes the image likelier, and stops where there is
    none. With one object that is known to be there all identities are taken alike.

    What is learned meanwhile of counts is the cross-entropy, with the same share as its weight, of
    the posterior of a step's decision given its poses, which follows from the same renderings: that
    of a law with an even chance of one more object. In the end only the estimator is left. None of
    this is in the paper's text (WORKSPACE.md has the measurement).

    Args:
      start: share at step 0, in [0, 1].
      hold: steps for which it stays so.
      steps: after which it is 0, falling linearly from `hold` on.

    Raises:
      ValueError: if `start` is not in [0, 1] or not 0 <= `hold` <= `steps`.
    """
    if not 0 <= start <= 1:
        raise ValueError(f"exploration.start is {start}; it is a share, in [0, 1].")
    if not 0 <= hold <= steps:
        raise ValueError(
            f"exploration.hold is {hold} and exploration.steps {steps}; 0 <= hold <= steps is "
            "needed."
        )

    def share(step: jax.Array) -> jax.Array:
        left = (steps - step) / max(steps - hold, 1)
        return start * jnp.clip(left, 0.0, 1.0)

    return share


def _create_enumeration(air: AIR3D, prior):
    """The loss of the exact expectation over the identity, as `estimators.create_surrogate`."""

    def surrogate(params, statistics, step, images, noise):
        def forced(identity):
            z_what = jnp.full((len(images), 1), identity)
            return _apply(air, params["model"], images, noise, z_what=z_what)

        traces = jax.vmap(forced)(jnp.arange(air.scene.num_identities))
        p_pres = prior(step)
        value = estimators.enumerate_identities(traces, p_pres)
        # What the terms are worth under q, as those of a sample are on average.
        weights = jnp.exp(jax.lax.stop_gradient(traces.log_q_decisions()))[..., 0]
        terms = jax.vmap(lambda trace: objectives.elbo_terms(trace, p_pres))(traces)
        metrics = {name: (weights * term).sum(0) for name, term in terms.items()}
        return LossOutput(value, metrics, statistics)

    return surrogate


def _apply(air: AIR3D, params: Any, images: jax.Array, noise: Any, **options: Any) -> Trace:
    trace = air.apply({"params": params}, images, noise, **options)
    assert isinstance(trace, Trace)  # flax's apply is untyped
    return trace


def _mode(air, params, images):
    """A pass at the posterior's mode, and its cameras, `[B, 2]`."""
    mean = _apply(air, params, images, air.mean_noise(len(images)), mode=True)
    if air.scene.camera_is_known:
        return mean, jnp.broadcast_to(air.scene.prior_camera().loc, (len(images), 2))
    return mean, mean.z_scene


def _turn(air, images, mean, cameras, num_turns):
    """Poses with the likeliest of some turns of each object, one after the other, `[B, N, 3]`.

    Among them is the one that is given, so that the image does not become less likely.
    """
    angles = 2 * jnp.pi / num_turns * jnp.arange(num_turns)
    poses = mean.z_where
    for i in range(air.num_steps):

        def likelihood(angle, poses=poses, i=i):
            turned = poses.at[:, i, 2].add(angle)
            canvas = air.scene.draw(mean.z_what, mean.z_pres, turned, cameras)
            return air.scene.log_likelihood(images, canvas)

        poses = poses.at[:, i, 2].add(angles[jax.lax.map(likelihood, angles).argmax(0)])
    return poses


@functools.partial(jax.jit, static_argnames=("air", "num_turns"))
def _infer_batch(air, params, prior_logits, images, keys, num_turns):
    """One batch at the posterior's mode, and its ELBO terms at one sample."""
    mean, cameras = _mode(air, params, images)
    sample = _apply(air, params, images, air.sample_noise(keys))
    assert mean.what_log_probs is not None, "z_what is not categorical"
    poses, canvases = mean.z_where, mean.canvases[:, 0]
    if num_turns > 1:
        poses = _turn(air, images, mean, cameras, num_turns)
        canvases = air.scene.draw(mean.z_what, mean.z_pres, poses, cameras)
    return {
        "counts": mean.posterior.mode_count(),
        "presence": jnp.cumprod(jax.nn.sigmoid(mean.presence_logit), axis=-1),
        "identities": mean.z_what,
        "identity_probs": jnp.exp(mean.what_log_probs),
        "poses": poses.at[..., 2].set(wrap_angle(poses[..., 2])),
        "cameras": cameras,
        "reconstructions": canvases,
        "elbo_terms": objectives.elbo_terms(sample, UnaryCode(prior_logits)),
    }


@functools.partial(jax.jit, static_argnames=("air", "num_turns"))
def _detect_batch(air, params, images, num_turns):
    """Counts, identities and poses at the posterior's mode, without the last rendering."""
    mean, cameras = _mode(air, params, images)
    poses = mean.z_where
    if num_turns > 1:
        poses = _turn(air, images, mean, cameras, num_turns)
    return mean.posterior.mode_count(), mean.z_what, poses


@functools.partial(jax.jit, static_argnames="air")
def _sample_batch(air, counts, key):
    return air.scene.sample(key, counts, air.num_steps)


@functools.partial(jax.jit, static_argnames=("air", "num_samples"))
def _iwae_batch(air, params, prior_logits, images, keys, num_samples):
    def one_sample(index):
        noise = air.sample_noise(jax.vmap(lambda key: jax.random.fold_in(key, index))(keys))
        trace = _apply(air, params, images, noise)
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
        num_turns: int = 1,
    ) -> Objects3D:
        """Finds the scenes of a set of images.

        Args:
          images: `[n, H, W, 3]`; float in [0, 1] or uint8; H and W as the model was trained.
          key: of the sample that gives the ELBO; a fixed one if None.
          batch_size: images at a time.
          num_turns: of each object that are rendered, evenly around from the one that is inferred,
            to keep the likeliest; 1 for that one alone. The likelihood tells where a pan's handle
            points within some ten degrees of the truth alone, which 24 turns meet.

        Raises:
          ValueError: if the shape or the range of the images is another, or `batch_size` or
            `num_turns` < 1.
        """
        images = self._check(images, num_turns)
        key = jax.random.key(0) if key is None else key
        params = parallel.replicate(self.params)

        def one(batch: trained.Batch) -> dict[str, Any]:
            keys = batch.keys(key)
            logits = self.prior.logits
            return _infer_batch(self.air, params, logits, batch.images, keys, num_turns)

        return Objects3D(**trained.over_batches(one, images, batch_size))

    def detect(
        self, images: np.ndarray, *, batch_size: int = 256, num_turns: int = 1
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Counts `[n]`, identities `[n, N]` and poses `[n, N, 3]`.

        Nothing is rendered, but for what DAIR sees of the objects before each step, and turns.

        Args:
          images: as in `infer`.
          batch_size: images at a time.
          num_turns: as in `infer`.

        Raises:
          ValueError: as `infer`.
        """
        images = self._check(images, num_turns)
        params = parallel.replicate(self.params)

        def one(batch: trained.Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
            return _detect_batch(self.air, params, batch.images, num_turns)

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

    def _check(self, images: np.ndarray, num_turns: int = 1) -> np.ndarray:
        if num_turns < 1:
            raise ValueError(f"num_turns is {num_turns}; it must be at least 1.")
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
