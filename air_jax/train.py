"""The train step: loss, gradients, means over the devices, update.

The step knows a model only as `loss(params, statistics, step, images, keys) -> LossOutput`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from air_jax import distributions, estimators, parallel
from air_jax.models.air import create_air, posterior_mean_noise
from air_jax.models.modules import check_positive, create_baseline
from air_jax.objectives import LossOutput

Params = dict[str, Any]
Metrics = dict[str, jax.Array]


LossFn = Callable[[Params, Any, jax.Array, jax.Array, jax.Array], LossOutput]


@flax.struct.dataclass
class TrainState:
    """Everything that changes from step to step.

    Attributes:
      step: steps taken, int32 scalar.
      params: model and baseline in subtrees of their own.
      opt_state: of the optimizer.
      statistics: moving statistics of the loss, means over earlier steps.
    """

    step: jax.Array
    params: Params
    opt_state: optax.OptState
    statistics: Any


def create_optimizer(
    *,
    learning_rate: float,
    final_fraction: float,
    clip_norm: float,
    num_steps: int,
    baseline_learning_rate: float | None = None,
) -> optax.GradientTransformation:
    """Adam for the model and Adam for the baseline, each with its own rate.

    Args:
      learning_rate: of `params["model"]`.
      final_fraction: both rates fall linearly to this fraction of themselves in the second half
        of the run.
      clip_norm: of the model's gradient, its largest global norm. Score functions and windows that
        leave the image make rare gradients of many times the usual size.
      num_steps: length of the run.
      baseline_learning_rate: of `params["baseline"]`; a baseline has to be ahead of the model. None
        for a model that has none.

    Raises:
      ValueError: if a rate or the norm is not positive, or the fraction not in [0, 1].
    """
    check_positive("optimizer", learning_rate=learning_rate, clip_norm=clip_norm)
    if baseline_learning_rate is not None:
        check_positive("optimizer", baseline_learning_rate=baseline_learning_rate)
    if not 0 <= final_fraction <= 1:
        raise ValueError(
            f"optimizer.final_fraction is {final_fraction}; it is a fraction, in [0, 1]."
        )

    def schedule(rate: float) -> optax.Schedule:
        return optax.linear_schedule(
            rate, rate * final_fraction, num_steps // 2, transition_begin=num_steps // 2
        )

    parts = {
        "model": optax.chain(
            optax.clip_by_global_norm(clip_norm), optax.adam(schedule(learning_rate))
        )
    }
    if baseline_learning_rate is not None:
        parts["baseline"] = optax.adam(schedule(baseline_learning_rate))
    return optax.partition(parts, lambda params: {name: name for name in params})


def create_state(
    params: Params, optimizer: optax.GradientTransformation, statistics: Any
) -> TrainState:
    """The state before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        statistics=statistics,
    )


def create_train_step(
    loss: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    axis_name: str | None,
    statistics_decay: float,
    freeze_non_finite: bool = False,
) -> Callable[[TrainState, jax.Array, jax.Array], tuple[TrainState, Metrics]]:
    """Builds `train_step(state, images, keys) -> (state, metrics)`.

    Args:
      loss: see the module.
      optimizer: over the whole of the parameters.
      axis_name: mapped axis over which gradients, metrics and statistics are averaged, or None.
      statistics_decay: weight of the past in the moving statistics.
      freeze_non_finite: whether a step whose loss or gradient is not finite leaves the state as it
        was, its step count included, and so does every step after it: of many seeds in one program,
        one that diverges must not cost the others. A run on its own does without and stops instead.

    Returns:
      A pure function of the state, the local images `[b, H, W, C]` and keys `[b]`. Metrics are
      scalars: the loss, its metrics' means and the gradients' global norms per subtree.
    """

    def mean(tree):
        # As one array: a reduction, and one of the devices' few messages, for each would be slow.
        leaves, structure = jax.tree.flatten(tree)
        columns = [leaf.reshape(len(leaf), -1) for leaf in leaves]
        means = jnp.concatenate(columns, axis=1).mean(0)
        if axis_name is not None:
            means = jax.lax.pmean(means, axis_name)
        ends = np.cumsum([column.shape[1] for column in columns])
        parts = jnp.split(means, ends[:-1])
        shapes = [leaf.shape[1:] for leaf in leaves]
        return jax.tree.unflatten(structure, list(map(jnp.reshape, parts, shapes)))

    def train_step(state, images, keys):
        chex.assert_equal_shape_prefix([images, keys], 1)

        def local_loss(params):
            output = loss(params, state.statistics, state.step, images, keys)
            chex.assert_shape(output.loss, (images.shape[0],))
            return output.loss.mean(), output

        gradients, output = jax.grad(local_loss, has_aux=True)(state.params)
        if axis_name is not None:
            gradients = jax.lax.pmean(gradients, axis_name)
        metrics, observed = mean(({"loss": output.loss, **output.metrics}, output.statistics))
        for name, subtree in gradients.items():
            metrics[f"gradient_norm_{name}"] = optax.tree.norm(subtree)

        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        statistics = jax.tree.map(
            lambda past, now: statistics_decay * past + (1 - statistics_decay) * now,
            state.statistics,
            observed,
        )
        new_state = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
            statistics=statistics,
        )
        if freeze_non_finite:
            watched = [metrics[name] for name in metrics if is_watched(name)]
            finite = jnp.isfinite(jnp.stack(watched)).all()
            new_state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new_state, state)
        return new_state, metrics

    return train_step


def is_watched(name: str) -> bool:
    """Whether a metric of the train step has to be finite: the loss and the gradients' norms."""
    return name == "loss" or name.startswith("gradient_norm")


class Training(NamedTuple):
    """What a run trains.

    Attributes:
      train_step: see `create_train_step`, over `parallel.AXIS_NAME`.
      init: from a key to the state before the first step; `jax.vmap` of it makes many seeds.
    """

    train_step: Callable[[TrainState, jax.Array, jax.Array], tuple[TrainState, Metrics]]
    init: Callable[[chex.PRNGKey], TrainState]


def create_air_training(
    *,
    estimator: str,
    scene: Mapping[str, Any],
    inference: Mapping[str, Any],
    baseline: Mapping[str, Any],
    prior: Mapping[str, Any],
    optimizer: Mapping[str, Any],
    num_train_steps: int,
    image_size: int,
    channels: int,
    freeze_non_finite: bool = False,
    num_samples: int = 1,
    centring: str = "moving_mean",
) -> Training:
    """Builds network, loss, optimizer and what makes initial states from their config sections.

    Args:
      estimator: one of `estimators.NAMES`.
      scene: section of `Scene2D`.
      inference: section of `AIR`.
      baseline: section of `Baseline`, and `decay`, the weight of the past in its moving moments.
      prior: section of `distributions.create_prior`.
      optimizer: section of `create_optimizer`.
      num_train_steps: length of the run.
      image_size: side of the images in pixels.
      channels: C.
      freeze_non_finite: see `create_train_step`.
      num_samples: K of the estimator, see `estimators.create_loss`.
      centring: of the estimator's score function, one of `control_variates.CENTRINGS`.

    Raises:
      TypeError: if a section has an unknown key or lacks one.
      ValueError: if a name is unknown or the estimator does not take `num_samples`.
    """
    air = create_air(scene=scene, inference=inference, image_size=image_size, channels=channels)
    baseline_network, decay = create_baseline(**baseline)
    presence_prior = distributions.create_prior(**prior, num_steps=air.num_steps)
    loss = estimators.create_loss(
        estimator,
        air=air,
        baseline=baseline_network,
        prior=presence_prior,
        num_samples=num_samples,
        centring=centring,
    )

    transform = create_optimizer(**optimizer, num_steps=num_train_steps)
    statistics = estimators.initial_statistics(estimator, air.num_steps)

    def init(key: chex.PRNGKey) -> TrainState:
        key_model, key_baseline = jax.random.split(key)
        images = jnp.zeros((1, image_size, image_size, channels))
        noise = posterior_mean_noise(1, air)
        params = {"model": air.init(key_model, images, noise, every_count=True)["params"]}
        if estimator == "nvil":
            errors = jnp.zeros((1, air.num_steps, *images.shape[1:]))
            variables = baseline_network.init(key_baseline, errors)
            params["baseline"] = variables["params"]
        return create_state(params, transform, statistics)

    train_step = create_train_step(
        loss,
        transform,
        axis_name=parallel.AXIS_NAME,
        statistics_decay=decay,
        freeze_non_finite=freeze_non_finite,
    )
    # Compiled, or initialisation would run the loop op by op.
    return Training(train_step, jax.jit(init))
