"""The law of n: normalisation, unary code, priors."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from air_jax import distributions


def all_codes(num_steps):
    """Every unary code, n = 0..N, `[N + 1, N]`."""
    return np.array([[float(i < n) for i in range(num_steps)] for n in range(num_steps + 1)])


@pytest.mark.parametrize("num_steps", [1, 3, 6])
def test_probabilities_of_all_codes_sum_to_one_and_agree_with_counts(num_steps):
    logits = jax.random.normal(jax.random.key(0), (5, num_steps)) * 3
    law = distributions.UnaryCode(logits)
    by_code = jnp.stack(
        [law.log_prob(jnp.broadcast_to(code, logits.shape)) for code in all_codes(num_steps)], -1
    )
    np.testing.assert_allclose(jnp.exp(by_code).sum(-1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(by_code, law.log_prob_counts(), rtol=1e-5, atol=1e-6)


def test_only_decisions_are_charged():
    # n = 1 of N = 3: one decision to go on, one to stop, none at step 3.
    law = distributions.UnaryCode(jnp.array([0.3, -0.7, 2.0]))
    steps = law.log_prob_steps(jnp.array([1.0, 0.0, 0.0]))
    expected = [np.log(1 / (1 + np.exp(-0.3))), np.log(1 / (1 + np.exp(-0.7))), 0.0]
    np.testing.assert_allclose(steps, expected, rtol=1e-6)


@pytest.mark.parametrize("logit", [-80.0, 80.0])
def test_extreme_logits_stay_finite_with_finite_gradients(logit):
    def total(logits):
        law = distributions.UnaryCode(logits)
        codes = jnp.asarray(all_codes(3))
        return law.log_prob(codes).sum() + law.log_prob_counts().sum()

    value, gradient = jax.value_and_grad(total)(jnp.full((3,), logit))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_samples_are_unary_codes_with_the_law_s_frequencies():
    law = distributions.UnaryCode(jnp.array([1.0, -0.5, 0.2]))
    samples = np.asarray(law.sample(seed=jax.random.key(1), sample_shape=(20_000,)))
    assert (np.diff(samples, axis=-1) <= 0).all()
    frequencies = np.bincount(samples.sum(-1).astype(int), minlength=4) / len(samples)
    np.testing.assert_allclose(frequencies, jnp.exp(law.log_prob_counts()), atol=0.015)


def test_mode_count_stops_at_the_first_unlikely_step():
    logits = jnp.array([[1.0, -1.0, 5.0], [-0.1, 9.0, 9.0], [1.0, 1.0, 1.0]])
    np.testing.assert_array_equal(distributions.UnaryCode(logits).mode_count(), [1, 0, 3])
    half = jnp.full(logits.shape, 0.5)
    np.testing.assert_array_equal(
        distributions.UnaryCode(logits).from_uniform(half).sum(-1), [1, 0, 3]
    )


def test_reached_ends_with_the_first_zero():
    codes = jnp.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    np.testing.assert_array_equal(distributions.reached(codes), [[1, 0, 0], [1, 1, 0], [1, 1, 1]])


class PriorsTest(chex.TestCase):
    """Priors against their closed forms."""

    @chex.all_variants
    def test_geometric(self):
        rho, num_steps = 0.2, 3
        log_odds = float(np.log(rho / (1 - rho)))
        log_prob = self.variant(lambda x: distributions.geometric(x, num_steps).log_prob_counts())(
            jnp.asarray(log_odds)
        )
        expected = [(1 - rho) * rho**n for n in range(num_steps)] + [rho**num_steps]
        np.testing.assert_allclose(np.exp(log_prob), expected, rtol=1e-5)


def test_binomial_is_scipy_s():
    rho, num_steps = 0.3, 5
    law = distributions.binomial(jnp.log(rho / (1 - rho)), num_steps)
    expected = scipy.stats.binom.pmf(np.arange(num_steps + 1), num_steps, rho)
    np.testing.assert_allclose(jnp.exp(law.log_prob_counts()), expected, rtol=1e-4)


def test_categorical_keeps_any_law():
    weights = np.array([0.1, 0.4, 0.2, 0.3])
    law = distributions.categorical(jnp.log(7 * weights))
    np.testing.assert_allclose(jnp.exp(law.log_prob_counts()), weights, rtol=1e-5)


def test_schedule_is_linear_in_log_odds_and_stays_at_its_end():
    prior = distributions.create_prior(
        name="geometric", start=1e-9, end=0.01, steps=100, num_steps=2
    )
    first, last = (np.log(rho / (1 - rho)) for rho in (1e-9, 0.01))
    for step, expected in [(0, first), (50, (first + last) / 2), (100, last), (10_000, last)]:
        np.testing.assert_allclose(prior(jnp.asarray(step)).logits, [expected] * 2, rtol=1e-5)


def test_constant_prior_needs_no_schedule():
    prior = distributions.create_prior(name="geometric", start=0.5, end=0.5, steps=0, num_steps=1)
    np.testing.assert_allclose(prior(jnp.asarray(0)).logits, [0.0], atol=1e-7)


@pytest.mark.parametrize(
    "change",
    [{"name": "poisson"}, {"start": 0.0}, {"end": 1.0}, {"end": float("nan")}, {"steps": -3}],
)
def test_bad_priors_are_refused(change):
    options = {"name": "geometric", "start": 0.1, "end": 0.1, "steps": 10, "num_steps": 3}
    with pytest.raises(ValueError, match=str(next(iter(change.values())))):
        distributions.create_prior(**{**options, **change})


@pytest.mark.parametrize("library", [np, jnp])
def test_an_angle_is_wrapped_into_one_turn(library):
    angles = library.asarray([-math.pi, math.pi, -4.0, 0.5, 3.2, 7.0, -20.0])
    wrapped = distributions.wrap_angle(angles)
    assert isinstance(wrapped, type(angles))
    turns = [0, -1, 1, 0, -1, -1, 3]
    np.testing.assert_allclose(wrapped, angles + 2 * np.pi * np.array(turns), atol=1e-6)


@pytest.mark.parametrize("scale", [0.02, 0.3, 0.59, 0.61, 1.5, 3.0])
def test_wrapped_normal_is_a_density_on_the_circle_with_its_entropy(scale):
    law = distributions.WrappedNormal(jnp.array(2.9), jnp.array(scale))
    width = min(np.pi, 9 * scale)  # all of it, and where it is narrow no more
    angles = np.linspace(-width, width, 20_001) + 2.9
    log_density = np.asarray(law.log_prob(jnp.array(angles)), np.float64)
    density = np.exp(log_density)
    np.testing.assert_allclose(np.trapezoid(density, angles), 1.0, rtol=1e-3)
    kl = np.trapezoid(density * (log_density + np.log(2 * np.pi)), angles)
    np.testing.assert_allclose(law.kl_from_uniform(), kl, rtol=2e-3, atol=2e-4)
    # Any representative of an angle will do.
    np.testing.assert_allclose(law.log_prob(0.4), law.log_prob(0.4 - 2 * np.pi), rtol=1e-4)


def test_wrapped_normal_is_the_sum_over_all_turns():
    law = distributions.WrappedNormal(jnp.array(0.5), jnp.array(1.2))
    turns = 2 * np.pi * np.arange(-20, 21)
    expected = np.log(scipy.stats.norm(0.5, 1.2).pdf(-2.8 + turns).sum())
    np.testing.assert_allclose(law.log_prob(-2.8), expected, rtol=1e-5)


def test_wrapped_normal_samples_and_gradients():
    law = distributions.WrappedNormal(jnp.array([0.5, 3.0]), jnp.array(0.8))
    samples = np.asarray(law.sample(seed=jax.random.key(0), sample_shape=(20_000,)))
    assert samples.shape == (20_000, 2)
    # The first trigonometric moment of a wrapped normal is exp(i loc - scale^2 / 2).
    moment = np.exp(1j * samples).mean(0)
    np.testing.assert_allclose(moment, np.exp(1j * np.array([0.5, 3.0]) - 0.32), atol=0.02)

    def kl(scale):
        return distributions.WrappedNormal(jnp.zeros(()), scale).kl_from_uniform()

    for scale in (0.01, 0.599, 0.601, 2.5):
        assert np.isfinite(jax.grad(kl)(scale)) and jax.grad(kl)(scale) < 0
