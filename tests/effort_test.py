"""Effort: steps inside DRAW's loop count as often as they run."""

import jax
import jax.numpy as jnp
import pytest

from air_jax import effort, kinds
from tests import draw_test, loop_test

IMAGE = {"image_size": 32, "channels": 1}


def model(config):
    """An untrained network."""
    training = kinds.create_training(config, **IMAGE)
    params = training.init(jax.random.key(0)).params["model"]
    return kinds.create_model({**config, "image": IMAGE}, params)


def draw(num_steps):
    return model(draw_test.tiny_config(draw__num_steps=num_steps))


def test_each_further_step_of_draw_costs_the_same():
    one, two, five = (effort.flops_per_image(draw(steps)) for steps in (1, 2, 5))
    assert two > 1.5 * one
    assert five - two == pytest.approx(3 * (two - one), rel=0.02)


def test_a_step_of_draw_costs_its_products_at_least():
    # Both LSTMs' and the predictors' matrices, 2 operations for each weight and image.
    params = draw(1).params
    weights = sum(leaf.size for leaf in jax.tree.leaves(params) if jnp.ndim(leaf) == 2)
    two, five = (effort.flops_per_image(draw(steps)) for steps in (2, 5))
    assert (five - two) / 3 > 2 * weights


def test_more_steps_of_air_cost_more():
    two, four = (
        effort.flops_per_image(model(loop_test.tiny_config(inference__num_steps=steps)))
        for steps in (2, 4)
    )
    assert 1.8 * two < four < 2.2 * two


def test_a_pass_takes_time():
    images = jnp.zeros((3, 32, 32, 1))
    measured = effort.effort(draw(2), images, repeats=2)
    assert measured["num_steps"] == 2
    assert measured["seconds_per_image"] > 0
