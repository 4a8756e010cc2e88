"""A categorical z_what in the estimators: unbiased, and masked where there is no object."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from air_jax import control_variates, estimators, objectives
from air_jax.distributions import UnaryCode
from air_jax.models.trace import Trace

NUM_IDENTITIES = 3
PRIOR = UnaryCode(jnp.array([0.4, -0.3]))


def trace_of(params, z_pres, identities):
    """A pass of two steps with these decisions, `[B, 2]` each; the likelihood is any function."""
    log_probs = jax.nn.log_softmax(params["identity"])  # [2, K]
    log_q_what = jnp.take_along_axis(log_probs[None], identities[..., None], -1)[..., 0]
    values = jnp.array([[3.0, -2.0, 0.5], [1.0, 4.0, -1.0]])
    gained = jnp.take_along_axis(values[None], identities[..., None], -1)[..., 0]
    log_p_x = params["scale"] * (z_pres * gained).sum(-1) ** 2
    per_step = jnp.ones_like(z_pres)
    required = [name for name in Trace._fields if name not in Trace._field_defaults]
    fields = dict.fromkeys(required, jnp.zeros((len(z_pres), 2)))
    fields |= {
        "z_pres": z_pres,
        "presence_logit": params["logits"] * per_step,
        "kl_where": params["kl"] * per_step,
        "log_p_x": log_p_x[:, None],
        "log_q_what": log_q_what,
        "log_p_what": -jnp.log(3.0) * per_step,
    }
    return Trace(**fields)


PARAMS = {
    "logits": jnp.array([0.3, -0.6]),
    "identity": jnp.array([[0.1, 0.5, -0.4], [0.0, -1.0, 0.7]]),
    "kl": jnp.array([0.2, 0.9]),
    "scale": jnp.array(0.4),
}


def every_decision():
    """All 1 + 3 + 9 ways: presence, and identities of those present (others are of no matter)."""
    rows = [([0, 0], [0, 0])]
    rows += [([1, 0], [k, 0]) for k in range(3)]
    rows += [([1, 1], [k, j]) for k in range(3) for j in range(3)]
    z_pres, identities = zip(*rows, strict=True)
    return jnp.array(z_pres, jnp.float32), jnp.array(identities)


def log_q(params):
    z_pres, identities = every_decision()
    return trace_of(params, z_pres, identities).log_q_decisions().sum(-1)


def exact(params):
    """-E_q[log p(x) + log p - log q - KLs], over all decisions."""
    z_pres, identities = every_decision()
    trace = trace_of(params, z_pres, identities)
    log_joint = trace.log_p_x[:, 0] + PRIOR.log_prob(z_pres)
    log_joint += (z_pres * (trace.log_p_what - params["kl"])).sum(-1)
    q = log_q(params)
    return -(jnp.exp(q) * (log_joint - q)).sum()


def test_the_laws_over_all_decisions_are_normalised():
    np.testing.assert_allclose(jnp.exp(log_q(PARAMS)).sum(), 1.0, rtol=1e-6)


@pytest.mark.parametrize("estimator", ["reinforce", "nvil"])
def test_expected_gradients_are_the_enumerated_ones(estimator):
    z_pres, identities = every_decision()
    weights = jnp.exp(log_q(PARAMS))
    moments = control_variates.Moments(*jnp.array([[1.0, 0.6], [2.0, 1.5], [9.0, 8.0]]))

    def losses(params):
        trace = trace_of(params, z_pres, identities)
        if estimator == "reinforce":
            options = {"centring": "moving_mean", "moments": moments}
            return estimators.reinforce(trace, PRIOR, **options)[0]
        baseline = jnp.array([0.4, -1.1]) * jnp.ones_like(z_pres)
        return estimators.nvil(trace, PRIOR, baseline=baseline, moments=moments)[0]

    expected = jax.grad(lambda params: losses(params) @ weights)(PARAMS)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        expected,
        jax.grad(exact)(PARAMS),
    )


def test_identities_of_absent_objects_do_not_matter():
    z_pres = jnp.array([[1.0, 0.0], [0.0, 0.0]])
    some = trace_of(PARAMS, z_pres, jnp.array([[2, 0], [0, 1]]))
    others = trace_of(PARAMS, z_pres, jnp.array([[2, 2], [1, 2]]))
    for function in (objectives.log_weight, lambda *a: objectives.elbo_terms(*a)["elbo"]):
        np.testing.assert_array_equal(function(some, PRIOR), function(others, PRIOR))


def test_enumeration_is_the_expectation_over_the_identity():
    """One object that is there for certain: the loss is -sum_k q_k (log p_k - log q_k - KL)."""
    prior = UnaryCode(jnp.array([40.0]))
    probs = jnp.array([0.2, 0.5, 0.3])
    log_p_x = jnp.array([1.0, -2.0, 4.0])
    required = [name for name in Trace._fields if name not in Trace._field_defaults]
    fields = dict.fromkeys(required, jnp.zeros((3, 1, 1)))
    fields |= {
        "z_pres": jnp.ones((3, 1, 1)),
        "presence_logit": jnp.full((3, 1, 1), 40.0),
        "kl_where": jnp.full((3, 1, 1), 0.25),
        "log_p_x": log_p_x[:, None, None],
        "log_q_what": jnp.log(probs)[:, None, None],
        "log_p_what": jnp.full((3, 1, 1), -jnp.log(3.0)),
    }
    loss = estimators.enumerate_identities(Trace(**fields), prior)
    by_hand = -sum(
        q * (x - 0.25 - np.log(3) - np.log(q)) for q, x in zip(probs, log_p_x, strict=True)
    )
    np.testing.assert_allclose(loss, [by_hand], rtol=1e-5)
