"""Spread of gradients: by hand, free of bias, and of the presence logits in the network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from air_jax import distributions, estimators, gradient_noise
from tests import tiny


def test_running_moments_equal_those_of_the_kept_draws():
    rng = np.random.default_rng(0)
    draws = {
        "a": rng.normal(3.0, 2.0, (6, 2, 4)).astype(np.float32),
        "b": rng.normal(-1.0, 1.0, (6, 2, 3, 5)).astype(np.float32),
    }
    calls = []

    def gradient(continuous, discrete):
        calls.append((continuous, discrete))
        return {name: {"leaf": jnp.asarray(values[discrete])} for name, values in draws.items()}

    spreads = gradient_noise.measure(gradient, 3)
    # Pairs share the continuous noise, never the discrete.
    assert calls == [(0, 0), (0, 1), (1, 2), (1, 3), (2, 4), (2, 5)]
    for name, values in draws.items():
        values = values.reshape(6, 2, -1).astype(np.float64)
        squares = np.square(values - values.mean(0)).sum((0, 2))
        halves = np.square(values[1::2] - values[::2]).sum(-1) / 2
        variance = (squares - halves.mean(0)) / 4
        spread = spreads[name]
        np.testing.assert_allclose(spread.variance_discrete, halves.mean(0), rtol=1e-5)
        np.testing.assert_allclose(spread.variance, variance, rtol=1e-5)
        error = halves.std(0, ddof=1) / np.sqrt(3)
        np.testing.assert_allclose(spread.error_discrete, error, rtol=1e-4)
        norm = np.square(values.mean(0)).sum(-1) - (2 * variance - halves.mean(0)) / 6
        np.testing.assert_allclose(spread.squared_mean, norm, rtol=1e-4)


def test_every_number_is_free_of_bias_however_few_the_draws():
    """Means over many independent measurements of two pairs each, whose truth is known."""
    num, mean, of_continuous, of_discrete = 20_000, 0.7, 2.0, 1.5
    rng = np.random.default_rng(1)
    continuous = of_continuous * rng.normal(size=(2, num, 3))
    discrete = of_discrete * rng.normal(size=(4, num, 3))

    def gradient(c, d):
        return {"g": jnp.asarray(mean + continuous[c] + discrete[d], jnp.float32)}

    spread = gradient_noise.measure(gradient, 2)["g"]
    truths = {
        "variance": 3 * (of_continuous**2 + of_discrete**2),
        "variance_discrete": 3 * of_discrete**2,
        "squared_mean": 3 * mean**2,
    }
    for name, truth in truths.items():
        values = getattr(spread, name).astype(np.float64)
        error = values.std() / np.sqrt(num)
        assert abs(values.mean() - truth) < 4 * error, name
        # Without its correction each would be off by an eighth of the variance at least.
        assert error < 0.02 * truths["variance"], name


def test_signal_to_noise():
    squared_mean, variance = np.array([9.0, -1.0, 1.0]), np.array([4.0, 4.0, 0.0])
    spread = gradient_noise.Spread(squared_mean, variance, *np.zeros((2, 3)))
    np.testing.assert_array_equal(gradient_noise.signal_to_noise(spread), [1.5, 0.0, np.inf])


def test_a_single_pair_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        gradient_noise.measure(lambda c, d: {}, 1)


def test_gradients_of_presence_logits_add_up_to_that_of_their_bias():
    air, images = tiny.create(), tiny.images(3)
    noise = estimators.draw_noise(jax.random.split(jax.random.key(2), 3), air, 2)
    noise = noise._replace(pres=noise.pres.at[:, 1].set(1.0))  # no object in the second image
    surrogate = estimators.create_surrogate(
        "reinforce",
        air=air,
        baseline=tiny.BASELINE,
        prior=lambda step: distributions.geometric(-0.8, air.num_steps),
        num_samples=2,
        centring="none",
    )
    arguments = ({"model": tiny.init(air)}, estimators.initial_statistics("reinforce", 2), 0)
    gradients = jax.jit(functools.partial(gradient_noise.presence_and_parameters, surrogate))
    presence, parameters, observed = gradients(*arguments, images, noise)
    assert presence.shape == (3, air.num_steps)
    bias = parameters["predict_pres"]["Dense_1"]["bias"][0]
    np.testing.assert_allclose(presence.sum() / 3, bias, rtol=1e-4)
    # Logits that are reached have a gradient, and others have none.
    assert observed.weight[1, 1] == 0
    np.testing.assert_array_equal(presence != 0, observed.weight > 0)
