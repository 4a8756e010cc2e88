"""The train step: loss, gradients, means over the devices, update.

It knows a model only as `loss(params, statistics, step, images, keys) -> LossOutput`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp
import optax

Params = dict[str, Any]


class LossOutput(NamedTuple):
    """What a loss returns, every leaf with the batch axis first.

    Attributes:
      loss: to be minimised, `[B]`.
      metrics: to be logged, `[B]` each.
      statistics: terms whose batch mean goes into the moving statistics; same structure as those.
    """

    loss: jax.Array
    metrics: dict[str, jax.Array]
    statistics: Any


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
    baseline_learning_rate: float,
    final_fraction: float,
    clip_norm: float,
    num_steps: int,
) -> optax.GradientTransformation:
    """Adam for the model and Adam for the baseline, each with its own rate.

    Args:
      learning_rate: of `params["model"]`.
      baseline_learning_rate: of `params["baseline"]`; a baseline has to be ahead of the model.
      final_fraction: both rates fall linearly to this fraction of themselves in the second half
        of the run.
      clip_norm: the model's gradient is scaled down to this global norm where it is larger.
      num_steps: length of the run.
    """

    def schedule(rate: float) -> optax.Schedule:
        return optax.linear_schedule(
            rate, rate * final_fraction, num_steps // 2, transition_begin=num_steps // 2
        )

    return optax.partition(
        {
            "model": optax.chain(
                optax.clip_by_global_norm(clip_norm), optax.adam(schedule(learning_rate))
            ),
            "baseline": optax.adam(schedule(baseline_learning_rate)),
        },
        lambda params: {name: name for name in params},
    )


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
) -> Callable[[TrainState, jax.Array, jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
    """Builds `train_step(state, images, keys) -> (state, metrics)`.

    Args:
      loss: see the module.
      optimizer: over the whole of the parameters.
      axis_name: mapped axis over which gradients, metrics and statistics are averaged, or None.
      statistics_decay: weight of the past in the moving statistics.

    Returns:
      A pure function of the state, the local images `[b, H, W, C]` and keys `[b]`. Metrics are
      scalars: the loss, its metrics' means and the gradients' global norms per subtree.
    """

    def mean(tree):
        tree = jax.tree.map(lambda leaf: leaf.mean(0), tree)
        return tree if axis_name is None else jax.lax.pmean(tree, axis_name)

    def train_step(state, images, keys):
        chex.assert_equal_shape_prefix([images, keys], 1)

        def local_loss(params):
            output = loss(params, state.statistics, state.step, images, keys)
            chex.assert_shape(output.loss, (images.shape[0],))
            return output.loss.mean(), output

        gradients, output = jax.grad(local_loss, has_aux=True)(state.params)
        if axis_name is not None:
            gradients = jax.lax.pmean(gradients, axis_name)
        metrics = mean({"loss": output.loss, **output.metrics})
        for name, subtree in gradients.items():
            metrics[f"gradient_norm_{name}"] = optax.global_norm(subtree)

        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        statistics = jax.tree.map(
            lambda past, now: statistics_decay * past + (1 - statistics_decay) * now,
            state.statistics,
            mean(output.statistics),
        )
        new_state = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
            statistics=statistics,
        )
        return new_state, metrics

    return train_step
