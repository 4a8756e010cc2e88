"""What a step decides, and the exploring law that is mixed in."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from air_jax.models.decisions import Decisions
from air_jax.models.trace import Trace


def test_decisions_are_mixed_with_what_helps():
    own_present, own = np.array([0.6, 0.6]), np.array([[0.5, 0.3, 0.2]] * 2)
    helps = np.array([[True, False, True], [False, False, False]])
    decisions = Decisions(jnp.log(own_present / (1 - own_present)), jnp.log(own))
    mixed = decisions.explore(jnp.full((2,), 0.3), jnp.array(helps))
    joint = 0.7 * own_present[:, None] * own + 0.3 * np.array([[0.5, 0, 0.5], [0, 0, 0]])
    present = np.array([0.7 * 0.6 + 0.3, 0.7 * 0.6])
    np.testing.assert_allclose(jax.nn.sigmoid(mixed.presence_logit), present, rtol=1e-5)
    np.testing.assert_allclose(np.exp(mixed.log_probs), joint / present[:, None], rtol=1e-5)
    untouched = decisions.explore(jnp.zeros((2,)), jnp.array(helps))
    chex.assert_trees_all_close(untouched, decisions, rtol=1e-5)
    # In full: what helps for certain, or nothing for certain, and no law that is not finite.
    full = decisions.explore(jnp.ones((2,)), jnp.array(helps))
    np.testing.assert_allclose(jax.nn.sigmoid(full.presence_logit), [1.0, 0.0], atol=1e-20)
    np.testing.assert_allclose(np.exp(full.log_probs[0]), [0.5, 0, 0.5], atol=1e-6)
    np.testing.assert_allclose(np.exp(full.log_probs).sum(-1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("helps", [[True, False, True], [False, False, False]])
def test_the_score_function_of_what_is_explored_is_unbiased(share, helps):
    """All decisions of a step, each with its probability: presence, and an identity either way."""
    worth, nothing = jnp.array([0.3, -1.2, 2.0]), 0.7

    def law(theta):
        own = Decisions(theta[:1], jax.nn.log_softmax(theta[None, 1:]))
        return own.explore(jnp.array([share]), jnp.array([helps]))

    def value(theta):
        decisions = law(theta)
        present = jax.nn.sigmoid(decisions.presence_logit[0])
        return present * (jnp.exp(decisions.log_probs[0]) * worth).sum() + (1 - present) * nothing

    def surrogate(theta):
        decisions = law(theta)
        present = jax.nn.sigmoid(decisions.presence_logit[0])
        total = 0.0
        for identity in range(3):
            for z_pres, probability, of_this in (
                (1.0, present, worth[identity]),
                (0.0, 1 - present, nothing),
            ):
                trace = Trace(**dict.fromkeys(Trace._fields))._replace(
                    z_pres=jnp.full((1, 1), z_pres),
                    presence_logit=decisions.presence_logit[:, None],
                    log_q_what=decisions.log_probs[:, identity, None],
                )
                weight = probability * jnp.exp(decisions.log_probs[0, identity])
                score = trace.log_q_decisions().sum()
                total += jax.lax.stop_gradient(weight * of_this) * score
        return total

    theta = jnp.array([0.4, 0.1, -0.7, 0.5])
    np.testing.assert_allclose(jax.grad(surrogate)(theta), jax.grad(value)(theta), atol=1e-6)


def test_the_cross_entropy_is_that_of_the_posterior():
    worth = np.array([[3.0, -1.0, 0.5]])
    weights = np.concatenate([[1.0], np.exp(worth[0]) / 3])
    target = weights / weights.sum()
    own = np.array([0.4, *(0.6 * np.array([0.5, 0.3, 0.2]))])
    decisions = Decisions(jnp.full((1,), np.log(0.6 / 0.4)), jnp.log(jnp.array([[0.5, 0.3, 0.2]])))
    found = decisions.cross_entropy(jnp.array(worth))
    np.testing.assert_allclose(found, -(target * np.log(own)).sum(), rtol=1e-5)
    # Finite where the posterior is certain.
    assert np.isfinite(decisions.cross_entropy(jnp.array([[1e4, -1e4, 0.0]]))).all()


def test_identities_have_their_frequencies():
    log_probs = jnp.log(jnp.tile(jnp.array([[0.2, 0.5, 0.3]]), (20_000, 1)))
    chosen = Decisions(jnp.zeros(20_000), log_probs).sample_what(
        jax.random.uniform(jax.random.key(0), (20_000,))
    )
    np.testing.assert_allclose(np.bincount(chosen) / 20_000, [0.2, 0.5, 0.3], atol=0.015)
