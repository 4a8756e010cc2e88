"""Training AIR through a renderer (paper, Sec. 3.2): what `train` has for the 2-D models.

Its loss by score functions is that of `estimators`; what is its own is the exploration of counts
and identities, and the exact expectation over the identity of a single object.
"""

from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp

from air_jax import distributions, estimators, inverse_graphics, objectives, parallel, train
from air_jax.models.air3d import AIR3D, apply, create_air3d
from air_jax.models.modules import create_baseline
from air_jax.objectives import LossOutput
from air_jax.train import TrainState


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
        return inverse_graphics.prior_over_counts(air, counts_prior(step))

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
            return apply(air, params["model"], images, noise, z_what=z_what)

        traces = jax.vmap(forced)(jnp.arange(air.scene.num_identities))
        p_pres = prior(step)
        value = estimators.enumerate_identities(traces, p_pres)
        # What the terms are worth under q, as those of a sample are on average.
        weights = jnp.exp(jax.lax.stop_gradient(traces.log_q_decisions()))[..., 0]
        terms = jax.vmap(lambda trace: objectives.elbo_terms(trace, p_pres))(traces)
        metrics = {name: (weights * term).sum(0) for name, term in terms.items()}
        return LossOutput(value, metrics, statistics)

    return surrogate
