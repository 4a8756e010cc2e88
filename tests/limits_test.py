"""A limited pass is the pass of a shorter network: no parameter depends on the number of steps."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from air_jax import control_variates, distributions, estimators, limits
from air_jax.distributions import UnaryCode
from tests import tiny

NUM_STEPS = 3
VARIANTS = pytest.mark.parametrize("variant", ["air", "dair"])


def prior(num_steps):
    return distributions.geometric(-0.8, num_steps)


def shorter(tree, num_steps):
    """The part of noise, moments or baseline `[..., N, ...]` that a shorter network has."""
    return jax.tree.map(lambda leaf: leaf[:, :num_steps], tree)


def test_the_limited_law_is_that_of_the_shorter_code():
    logits = jnp.array([[0.4, -1.0, 2.0], [3.0, 0.1, -0.5]])
    log_prob = UnaryCode(logits).limited(jnp.array([2, 1])).log_prob_counts()
    np.testing.assert_allclose(log_prob[0, :3], UnaryCode(logits[0, :2]).log_prob_counts())
    np.testing.assert_allclose(log_prob[1, :2], UnaryCode(logits[1, :1]).log_prob_counts())
    np.testing.assert_array_equal(jnp.exp(log_prob)[[0, 1, 1], [3, 2, 3]], 0.0)


def test_a_zero_that_the_limit_enforces_is_no_decision():
    law = UnaryCode(jnp.array([0.4, -1.0, 2.0])).limited(1)
    code = jnp.array([1.0, 0.0, 0.0])
    np.testing.assert_array_equal(law.decided(code), [1, 0, 0])
    np.testing.assert_allclose(law.log_prob(code), jax.nn.log_sigmoid(0.4), rtol=1e-6)
    gradient = jax.grad(lambda logits: UnaryCode(logits).limited(1).log_prob(code))
    np.testing.assert_array_equal(gradient(jnp.array([0.4, -1.0, 2.0]))[1:], 0.0)


def test_limits_have_equal_chances():
    drawn = limits.draw(jax.random.split(jax.random.key(0), 3_000), NUM_STEPS)
    counts = np.bincount(drawn, minlength=NUM_STEPS + 1)
    assert counts[0] == 0 and counts.sum() == 3_000
    # Standard deviation of each: sqrt(3000 / 3 * 2 / 3) = 26.
    np.testing.assert_allclose(counts[1:], 1_000, atol=4 * 26)


@VARIANTS
def test_no_pass_goes_beyond_its_limit_and_shorter_ones_stay_as_they_were(variant):
    air = tiny.create(variant, num_steps=NUM_STEPS, presence_logit=2.0)
    params, images, noise = tiny.init(air), tiny.images(8), tiny.noise(air, 8)
    limit = jnp.array([1, 2, 3, 1, 2, 3, 1, 2])
    stopped = limits.stop_at(noise, limit)
    np.testing.assert_array_equal(limits.read(stopped), limit)
    free = tiny.run(air, params, images, noise).counts
    assert (free > limit).any()
    counts = tiny.run(air, params, images, stopped).counts
    np.testing.assert_array_equal(counts, jnp.minimum(free, limit))


@VARIANTS
def test_the_mean_over_limits_is_that_of_networks_with_fewer_steps(variant):
    long = tiny.create(variant, num_steps=NUM_STEPS)
    params, images, noise = tiny.init(long), tiny.images(), tiny.noise(long)

    def one_network(params):
        trace = tiny.run(long, params, images, noise, every_count=True)
        loss = limits.mean_over_limits(estimators.enumerate_counts, trace, prior(NUM_STEPS))
        return loss.sum()

    def many_networks(params):
        total = 0.0
        for n in range(1, NUM_STEPS + 1):
            air = tiny.create(variant, num_steps=n)
            trace = tiny.run(air, params, images, shorter(noise, n), every_count=True)
            total += estimators.enumerate_counts(trace, prior(n)).sum() / NUM_STEPS
        return total

    value, gradient = jax.jit(jax.value_and_grad(one_network))(params)
    expected, expected_gradient = jax.jit(jax.value_and_grad(many_networks))(params)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    chex.assert_trees_all_close(gradient, expected_gradient, rtol=1e-3, atol=1e-3)


def some_moments(num_steps):
    ones = jnp.ones((num_steps,))
    return control_variates.Moments(weight=0.5 * ones, first=-10.0 * ones, second=212.5 * ones)


def nvil(trace, law):
    predicted = 0.3 + jnp.arange(trace.z_pres.shape[-1]) * jnp.ones_like(trace.z_pres)
    moments = some_moments(trace.z_pres.shape[-1])
    loss, baseline_loss, observed = estimators.nvil(trace, law, baseline=predicted, moments=moments)
    return loss + baseline_loss, observed


def reinforce(trace, law):
    moments = some_moments(trace.z_pres.shape[-1])
    return estimators.reinforce(trace, law, centring="moving_mean", moments=moments)


@pytest.mark.parametrize("surrogate", [nvil, reinforce])
@pytest.mark.parametrize("limit", [1, 2, 3])
def test_a_score_function_learns_of_a_limited_pass_what_a_shorter_network_would(surrogate, limit):
    long, short = (tiny.create("dair", num_steps=n) for n in (NUM_STEPS, limit))
    params, images, noise = tiny.init(long), tiny.images(), tiny.noise(long)
    limit_of_each = jnp.full((len(images),), limit)

    @functools.partial(jax.value_and_grad, has_aux=True)
    def limited(params):
        trace = tiny.run(long, params, images, limits.stop_at(noise, limit_of_each))
        value, observed = surrogate(*limits.limited(trace, prior(NUM_STEPS), limit_of_each))
        return value.sum(), observed

    @functools.partial(jax.value_and_grad, has_aux=True)
    def of_short(params):
        trace = tiny.run(short, params, images, shorter(noise, limit))
        value, observed = surrogate(trace, prior(limit))
        return value.sum(), observed

    (value, observed), gradient = jax.jit(limited)(params)
    (expected, expected_observed), expected_gradient = jax.jit(of_short)(params)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    chex.assert_trees_all_close(shorter(observed, limit), expected_observed, rtol=1e-4)
    np.testing.assert_array_equal(observed.weight[:, limit:], 0.0)
    chex.assert_trees_all_close(gradient, expected_gradient, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("estimator", "num_samples"), [("nvil", 1), ("nvil", 2), ("reinforce", 1), ("vimco", 2)]
)
def test_the_loss_draws_one_limit_for_all_samples_of_an_image(estimator, num_samples):
    # A network that always goes on: its sampled n is its limit.
    air = tiny.create(num_steps=NUM_STEPS, presence_logit=50.0)
    params = {"model": tiny.init(air), "baseline": tiny.init_baseline(air)}
    loss = estimators.create_loss(
        estimator,
        air=air,
        baseline=tiny.BASELINE,
        prior=lambda step: prior(NUM_STEPS),
        num_samples=num_samples,
        limit="uniform",
    )
    keys = jax.random.split(jax.random.key(4), 30)
    arguments = (params, some_moments(NUM_STEPS), jnp.zeros((), jnp.int32), tiny.images(30), keys)
    counts = np.asarray(jax.jit(loss)(*arguments).metrics["num_objects"])
    assert set(counts.tolist()) == {1.0, 2.0, 3.0}


def test_an_unknown_limit_is_named():
    with pytest.raises(ValueError, match="limit is 'two'; valid names are none, uniform"):
        estimators.create_loss(
            "nvil",
            air=tiny.create(),
            baseline=tiny.BASELINE,
            prior=lambda step: prior(2),
            limit="two",
        )
