"""ELBO terms and bounds against quadrature and hand derivation."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from air_jax import distributions, objectives
from air_jax.models.air import sample_noise
from tests import tiny

RHO = 0.3
PRIOR_LOG_ODDS = float(np.log(RHO / (1 - RHO)))


@pytest.fixture(scope="module")
def traced():
    air = tiny.create(num_steps=3)
    params, images, noise = tiny.init(air), tiny.images(16), tiny.noise(air, 16)
    return tiny.run(air, params, images, noise, every_count=True), distributions.geometric(
        PRIOR_LOG_ODDS, 3
    )


def test_elbo_is_the_sum_of_its_terms_at_the_sampled_count(traced):
    trace, prior = traced
    terms = objectives.elbo_terms(trace, prior)
    assert len(set(np.asarray(trace.counts))) > 1
    for b, n in enumerate(np.asarray(trace.counts)):
        kl = (trace.kl_where + trace.kl_what)[b, :n].sum()
        log_p_n = np.log((1 - RHO) * RHO**n if n < 3 else RHO**3)
        log_q_n = trace.posterior.log_prob_counts()[b, n]
        expected = trace.log_p_x[b, n] + log_p_n - log_q_n - kl
        np.testing.assert_allclose(terms["elbo"][b], expected, rtol=1e-5)


def test_elbo_per_count_agrees_with_elbo_terms(traced):
    trace, prior = traced
    per_count = objectives.elbo_per_count(trace, prior) - trace.posterior.log_prob_counts()
    picked = trace.at_count(per_count)
    np.testing.assert_allclose(picked, objectives.elbo_terms(trace, prior)["elbo"], rtol=1e-5)


def test_elbo_per_count_needs_every_count():
    air = tiny.create()
    trace = tiny.run(air, tiny.init(air), tiny.images(), tiny.noise(air))
    with pytest.raises(ValueError, match="every_count=True"):
        objectives.elbo_per_count(trace, distributions.geometric(0.0, air.num_steps))


def test_downstream_signal_drops_exactly_the_terms_before_the_step(traced):
    trace, prior = traced
    signal = objectives.downstream_signal(trace, prior)
    np.testing.assert_allclose(signal[:, 0], objectives.elbo_terms(trace, prior)["elbo"], rtol=1e-5)
    first_step = (
        prior.log_prob_steps(trace.z_pres)[:, 0]
        - trace.posterior.log_prob_steps(trace.z_pres)[:, 0]
        - trace.z_pres[:, 0] * (trace.kl_where + trace.kl_what)[:, 0]
    )
    np.testing.assert_allclose(signal[:, 1], signal[:, 0] - first_step, rtol=1e-4, atol=1e-4)


def test_kl_is_the_mean_of_minus_the_log_ratio():
    air = tiny.create(num_steps=1)
    params, images = tiny.init(air), tiny.images(1)
    batch = jnp.broadcast_to(images, (20_000, *images.shape[1:]))
    trace = tiny.run(
        air, params, batch, sample_noise(jax.random.split(jax.random.key(0), 20_000), air)
    )
    # Step 1's q(z_where) depends on the image alone; q(z_what) on the glimpse, hence on z_where.
    for kl, ratio in (
        (trace.kl_where, trace.log_ratio_where),
        (trace.kl_what, trace.log_ratio_what),
    ):
        error = np.asarray(kl + ratio)[:, 0]
        assert abs(error.mean()) < 4 * error.std() / np.sqrt(len(error))


class IwaeTest(chex.TestCase):
    """The bound's formula."""

    @chex.all_variants
    def test_iwae_is_the_log_of_the_mean_weight(self):
        weights = np.array([[0.5, 2.0], [1.5, 4.0], [4.0, 0.3]])
        bound = self.variant(objectives.iwae)(jnp.log(weights))
        np.testing.assert_allclose(bound, np.log(weights.mean(0)), rtol=1e-5)

    def test_iwae_of_huge_log_weights_is_finite(self):
        bound = objectives.iwae(jnp.array([[-4000.0], [-4001.0]]))
        np.testing.assert_allclose(bound, -4000 + np.log((1 + np.exp(-1)) / 2), rtol=1e-6)


def test_bounds_approach_log_p_x_by_quadrature():
    """One object, a pose that the prior fixes, a scalar z_what: p(x) is a one-dimensional integral.

    p(x) = (1 - rho) N(x; 0) + rho int N(z; 0, 1) N(x; canvas(z)) dz.
    """
    air = tiny.create(num_steps=1, z_what_size=1, scale_prior=(1.2, 1e-4), shift_prior=(0.1, 1e-4))
    params, images = tiny.init(air), tiny.images(2)
    # Centre q(pose) on its prior: with so narrow a prior any other place has no weight.
    last = f"Dense_{len(air.predictor_hidden)}"
    params["predict_where"][last] = jax.tree.map(jnp.zeros_like, params["predict_where"][last])
    prior = distributions.geometric(PRIOR_LOG_ODDS, 1)

    grid = np.linspace(-8, 8, 2001)
    scene, variables = air.scene, {"params": params["scene"]}
    where = jnp.broadcast_to(jnp.array([1.2, 0.1, 0.1]), (len(grid), 3))
    canvases = scene.apply(variables, where, grid[:, None], method="render_object")[1]

    def log_likelihood(image, canvases):
        image = jnp.broadcast_to(image, canvases.shape)
        return np.asarray(scene.log_likelihood(image, canvases), np.float64)

    log_p_x = []
    for image in images:
        present = log_likelihood(image, canvases) + scipy.stats.norm.logpdf(grid)
        present = scipy.special.logsumexp(present) + np.log(grid[1] - grid[0])
        absent = log_likelihood(image, jnp.zeros_like(canvases[:1]))[0]
        log_p_x.append(np.logaddexp(np.log(1 - RHO) + absent, np.log(RHO) + present))

    @jax.jit
    @jax.vmap
    def log_weights(key):
        trace = tiny.run(air, params, images, sample_noise(jax.random.split(key, 2), air))
        return objectives.log_weight(trace, prior), objectives.elbo_terms(trace, prior)["elbo"]

    weights, elbo = log_weights(jax.random.split(jax.random.key(0), 20_000))
    log_p_x = np.array(log_p_x)
    # The bound's own sampling error, by the delta method on the mean weight.
    relative = np.exp(np.asarray(weights, np.float64) - log_p_x)
    standard_error = relative.std(0) / relative.mean(0) / np.sqrt(len(relative))
    assert (standard_error < 0.05).all()
    assert (np.abs(objectives.iwae(weights) - log_p_x) < 4 * standard_error).all()
    assert (np.asarray(elbo.mean(0)) < log_p_x - 0.05).all()
