"""The train step on a loss whose every number can be derived by hand."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from air_jax import train
from air_jax.objectives import LossOutput


def quadratic_loss(params, statistics, step, images, keys):
    """0.5 (w - x)^2 per example; the baseline's parameter has a loss of its own."""
    del step, keys
    x = images[:, 0, 0, 0]
    loss = 0.5 * jnp.square(params["model"]["w"] - x) + params["baseline"]["b"]
    return LossOutput(loss, {"x": x, "seen": x * 0 + statistics}, x)


def initial_state(optimizer):
    params = {"model": {"w": jnp.array(3.0)}, "baseline": {"b": jnp.array(0.0)}}
    return train.create_state(params, optimizer, jnp.array(8.0))


def batch(values):
    images = jnp.asarray(values, jnp.float32)[:, None, None, None]
    return images, jax.random.split(jax.random.key(0), len(values))


def sgd():
    return optax.partition(
        {"model": optax.sgd(0.1), "baseline": optax.sgd(1.0)},
        {"model": "model", "baseline": "baseline"},
    )


def test_one_step_by_hand():
    optimizer = sgd()
    step = train.create_train_step(quadratic_loss, optimizer, axis_name=None, statistics_decay=0.75)
    state, metrics = jax.jit(step)(initial_state(optimizer), *batch([1.0, 2.0]))
    # d/dw mean 0.5 (3 - x)^2 = 3 - 1.5; the baseline's gradient is 1 and its rate 1.
    np.testing.assert_allclose(state.params["model"]["w"], 3.0 - 0.1 * 1.5)
    np.testing.assert_allclose(state.params["baseline"]["b"], -1.0)
    np.testing.assert_allclose(state.statistics, 0.75 * 8.0 + 0.25 * 1.5)
    np.testing.assert_allclose(metrics["loss"], (0.5 * 4 + 0.5 * 1) / 2)
    np.testing.assert_allclose(metrics["gradient_norm_model"], 1.5)
    np.testing.assert_allclose(metrics["gradient_norm_baseline"], 1.0)
    # The loss saw the statistics of earlier steps only.
    np.testing.assert_allclose(metrics["seen"], 8.0)
    assert int(state.step) == 1


def test_mapped_devices_average_gradients_metrics_and_statistics():
    optimizer = sgd()
    one = train.create_train_step(quadratic_loss, optimizer, axis_name=None, statistics_decay=0.5)
    many = train.create_train_step(quadratic_loss, optimizer, axis_name="i", statistics_decay=0.5)
    images, keys = batch([1.0, 2.0, 5.0, 7.0])
    expected = one(initial_state(optimizer), images, keys)
    actual = jax.vmap(many, in_axes=(None, 0, 0), out_axes=None, axis_name="i")(
        initial_state(optimizer), images.reshape(2, 2, 1, 1, 1), keys.reshape(2, 2)
    )
    chex.assert_trees_all_close(actual, expected, rtol=1e-6)


def test_model_and_baseline_have_their_own_rates_that_fall_in_the_second_half():
    optimizer = train.create_optimizer(
        learning_rate=0.5,
        baseline_learning_rate=2.0,
        final_fraction=0.1,
        clip_norm=1e3,
        num_steps=10,
    )
    params = {"model": jnp.zeros(()), "baseline": jnp.zeros(())}
    state = optimizer.init(params)
    sizes = []
    for _ in range(12):
        # Adam's update under a constant gradient is the rate itself.
        updates, state = optimizer.update(jax.tree.map(jnp.ones_like, params), state, params)
        sizes.append((-updates["model"], -updates["baseline"]))
    sizes = np.array(sizes)
    np.testing.assert_allclose(sizes[:6], [[0.5, 2.0]] * 6, rtol=1e-4)
    np.testing.assert_allclose(sizes[8], [0.5 * 0.46, 2.0 * 0.46], rtol=1e-4)
    np.testing.assert_allclose(sizes[10:], [[0.05, 0.2]] * 2, rtol=1e-4)


def test_the_model_s_gradient_is_clipped_to_its_norm_and_the_baseline_s_is_not():
    optimizer = train.create_optimizer(
        learning_rate=0.5,
        baseline_learning_rate=0.5,
        final_fraction=1.0,
        clip_norm=2.0,
        num_steps=10,
    )
    params = {"model": jnp.zeros(2), "baseline": jnp.zeros(2)}
    state = optimizer.init(params)
    first, second = np.array([0.6, 0.8]), np.array([60.0, 80.0])
    for gradient in (first, second):
        gradients = {name: jnp.asarray(gradient, jnp.float32) for name in params}
        updates, state = optimizer.update(gradients, state, params)

    def adam(second):
        # Kingma & Ba (2015), Alg. 1, second step.
        mean = (0.9 * 0.1 * first + 0.1 * second) / (1 - 0.9**2)
        square = (0.999 * 0.001 * first**2 + 0.001 * second**2) / (1 - 0.999**2)
        return -0.5 * mean / np.sqrt(square)

    # Its norm is 100.
    np.testing.assert_allclose(updates["model"], adam(second * 2 / 100), rtol=1e-4)
    np.testing.assert_allclose(updates["baseline"], adam(second), rtol=1e-4)


def test_a_loss_without_batch_axis_is_refused():
    def scalar_loss(params, statistics, step, images, keys):
        output = quadratic_loss(params, statistics, step, images, keys)
        return output._replace(loss=output.loss.mean())

    optimizer = sgd()
    step = train.create_train_step(scalar_loss, optimizer, axis_name=None, statistics_decay=0.5)
    with pytest.raises(AssertionError):
        step(initial_state(optimizer), *batch([1.0, 2.0]))


def test_a_step_that_is_not_finite_leaves_a_frozen_state_as_it_was():
    optimizer = sgd()
    step = jax.jit(
        train.create_train_step(
            quadratic_loss,
            optimizer,
            axis_name=None,
            statistics_decay=0.5,
            freeze_non_finite=True,
        )
    )
    before = initial_state(optimizer)
    after, metrics = step(before, *batch([1.0, np.inf]))
    assert not np.isfinite(metrics["loss"])
    chex.assert_trees_all_equal(after, before)
    healthy, _ = step(before, *batch([1.0, 2.0]))
    assert int(healthy.step) == 1
    np.testing.assert_allclose(healthy.params["model"]["w"], 3.0 - 0.1 * 1.5)
