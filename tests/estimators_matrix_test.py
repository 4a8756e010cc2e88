"""All estimators with all centrings, unbiased: against brute force over every tuple of counts.

Twice: on traces whose law and whose signal are written down here, and on the network.
"""

import functools
import itertools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from air_jax import control_variates, distributions, estimators
from air_jax.control_variates import CENTRINGS
from air_jax.models.trace import Trace
from tests import tiny

NUM_STEPS = 2
SCORE_FUNCTIONS = ("reinforce", "nvil", "vimco")
PRIOR = distributions.UnaryCode(jnp.array([-0.8, 0.4]))
# Of earlier batches: mean -2 and 3, deviation 5 and 4.
MOMENTS = control_variates.Moments(
    weight=jnp.array([1.0, 0.5]), first=jnp.array([-2.0, 1.5]), second=jnp.array([29.0, 12.5])
)


def matrix(num_samples):
    """Every estimator with every centring that K samples allow."""
    return [
        (estimator, centring)
        for estimator in SCORE_FUNCTIONS
        for centring in CENTRINGS
        if num_samples > 1 or (estimator != "vimco" and centring != "leave_one_out")
    ]


def surrogates(trace, baseline, num_samples):
    """The loss of every entry of the matrix, `[M, B]`."""
    losses = []
    for estimator, centring in matrix(num_samples):
        options = {"centring": centring, "moments": MOMENTS}
        if estimator == "nvil":
            options["baseline"] = baseline
        loss = getattr(estimators, estimator)(trace, PRIOR, **options)[0]
        # A single pass has no axis of samples; vimco has one loss for all of them.
        losses.append(loss.reshape(-1, loss.shape[-1]).mean(0))
    return jnp.stack(losses)


def code(counts):
    """Unary code, `[..., NUM_STEPS]`."""
    return (np.arange(NUM_STEPS) < np.asarray(counts)[..., None]).astype(np.float32)


def tuples(num_samples):
    """Every tuple of counts, `[K, (NUM_STEPS + 1)^K]`."""
    return np.array(list(itertools.product(range(NUM_STEPS + 1), repeat=num_samples))).T


# The written-down law: logits and a function of n, all of it parameters that take gradients.

FUNCTIONS = np.array([[-3.0, 0.0, 0.0], [-3.0, 4.0, 0.0], [-3.0, 4.0, -2.5]], np.float32)


def law(function):
    """Parameters of a law and of `f(n) = c_0 + c_1 n + c_2 n^2`."""
    return {
        "logits": jnp.array([0.7, -0.4]),
        "function": jnp.asarray(function),
        "kl": jnp.array([0.9, 1.7]),
        "log_ratio": jnp.array([-1.3, 0.6]),
    }


def log_q(params):
    """log q(n), n = 0..2, by hand."""
    on, off = jax.nn.log_sigmoid(params["logits"]), jax.nn.log_sigmoid(-params["logits"])
    return jnp.stack([off[0], on[0] + off[1], on[0] + on[1]])


def log_joint(params, step_terms):
    """f(n) + log p(n) + the terms of the first n steps, n = 0..2, by hand."""
    counts = jnp.arange(NUM_STEPS + 1.0)
    f = params["function"] @ jnp.stack([counts**0, counts, counts**2])
    on, off = jax.nn.log_sigmoid(PRIOR.logits), jax.nn.log_sigmoid(-PRIOR.logits)
    log_p = jnp.stack([off[0], on[0] + off[1], on[0] + on[1]])
    return f + log_p + jnp.concatenate([jnp.zeros(1), jnp.cumsum(step_terms)])


def written_trace(params, z_pres):
    """A trace of the written-down law, `z_pres` `[(K,) B, N]`."""
    counts = z_pres.sum(-1)
    c_0, c_1, c_2 = params["function"]
    per_step = jnp.ones_like(z_pres)
    required = [name for name in Trace._fields if name not in Trace._field_defaults]
    fields = dict.fromkeys(required, jnp.zeros((*counts.shape, 1)))
    # What the canvas before step i explains: any function of the step.
    before = jnp.array([-4.0, 2.0]) * per_step
    fields |= {
        "z_pres": z_pres,
        "presence_logit": params["logits"] * per_step,
        "kl_where": params["kl"] * per_step,
        "kl_what": 0 * per_step,
        "log_ratio_where": params["log_ratio"] * per_step,
        "log_ratio_what": 0 * per_step,
        "log_p_x": (c_0 + c_1 * counts + c_2 * counts**2)[..., None],
        "log_p_x_before": jnp.where(jnp.cumsum(z_pres, -1) >= jnp.arange(NUM_STEPS), before, 1e3),
    }
    return Trace(**fields)


def exact_elbo(params):
    """-E_q[f + log p - KLs - log q], summed over n."""
    q = log_q(params)
    return -(jnp.exp(q) * (log_joint(params, -params["kl"]) - q)).sum()


def exact_iwae(params, num_samples):
    """-E_q[log mean_k w_k], summed over all tuples of counts."""
    q = log_q(params)
    log_w = log_joint(params, params["log_ratio"]) - q
    counts = tuples(num_samples)
    bound = jax.nn.logsumexp(log_w[counts], axis=0) - math.log(num_samples)
    return -(jnp.exp(q[counts].sum(0)) * bound).sum()


def exact_gradients(params, num_samples):
    """The gradients that the entries of the matrix shall have, stacked `[M, ...]`."""
    elbo = jax.grad(exact_elbo)(params)
    iwae = jax.grad(functools.partial(exact_iwae, num_samples=num_samples))(params)
    chosen = [iwae if name == "vimco" else elbo for name, _ in matrix(num_samples)]
    # f and KLs enter the two bounds differently.
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *chosen)


def written_losses(params, z_pres, num_samples):
    baseline = jnp.array([0.4, -1.1]) * jnp.ones_like(z_pres)
    return surrogates(written_trace(params, z_pres), baseline, num_samples)


def codes(num_samples):
    """Codes of every tuple, `[(K,) B, N]`."""
    z_pres = code(tuples(num_samples))
    return z_pres[0] if num_samples == 1 else z_pres


@pytest.mark.parametrize("num_samples", [1, 2, 3])
def test_expected_gradients_are_the_enumerated_ones(num_samples):
    """Exactly: every tuple of counts with its probability. Constant, linear and quadratic f."""
    z_pres, counts = codes(num_samples), tuples(num_samples)

    @jax.jit
    @jax.vmap
    def both(params):
        weights = jnp.exp(log_q(params)[counts].sum(0))
        expected = jax.jacrev(lambda p: written_losses(p, z_pres, num_samples) @ weights)(params)
        return expected, exact_gradients(params, num_samples)

    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(law, FUNCTIONS))
    expected, exact = both(params)
    chex.assert_trees_all_close(expected, exact, rtol=1e-4, atol=1e-4)


def test_means_of_per_sample_gradients_are_the_enumerated_ones():
    """As the exact test above, by sampling, as an estimator is used."""
    num_samples, num_draws = 3, 20_000

    @jax.jit
    @jax.vmap
    def moments_of_gradients(params):
        uniform = jax.random.uniform(jax.random.key(2), (num_samples, num_draws, NUM_STEPS))
        z_pres = distributions.UnaryCode(params["logits"]).from_uniform(uniform)

        def gradient(z_pres):
            return jax.jacrev(lambda p: written_losses(p, z_pres, num_samples)[:, 0])(params)

        gradients = jax.vmap(gradient, in_axes=1)(z_pres[:, :, None])
        mean = jax.tree.map(lambda leaf: leaf.mean(0), gradients)
        error = jax.tree.map(lambda leaf: leaf.std(0) / math.sqrt(num_draws), gradients)
        return mean, error, exact_gradients(params, num_samples)

    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(law, FUNCTIONS))
    mean, standard_error, exact = moments_of_gradients(params)
    # About 250 numbers: 5 standard errors are passed by chance once in 7,000 tests.
    jax.tree.map(
        lambda m, s, e: np.testing.assert_array_less(np.abs(m - e), 5 * s + 1e-4),
        *(mean, standard_error, exact),
    )
    # The test can see an error: the standard errors are small beside the logits' gradient.
    size = np.linalg.norm(exact["logits"], axis=-1)
    assert (np.linalg.norm(standard_error["logits"], axis=-1) < 0.2 * size + 0.02).all()


def test_vimco_reports_the_bound_and_compares_with_the_geometric_mean_of_the_others():
    num_samples, params = 3, law(FUNCTIONS[2])
    _, bound, observed = estimators.vimco(
        written_trace(params, codes(num_samples)), PRIOR, centring="none", moments=MOMENTS
    )
    log_w = np.asarray(log_joint(params, params["log_ratio"]) - log_q(params))[tuples(num_samples)]
    expected = np.log(np.exp(log_w).mean(0))
    np.testing.assert_allclose(bound, expected, rtol=1e-5)
    for k in range(num_samples):
        replaced = log_w.copy()
        replaced[k] = np.delete(log_w, k, axis=0).mean(0)
        signal = expected - np.log(np.exp(replaced).mean(0))
        # Every sample reaches the first step.
        np.testing.assert_allclose(observed.first[k, :, 0], signal, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("centring", CENTRINGS)
def test_nvil_subtracts_what_its_centring_says(centring):
    """By hand: no expected gradient would notice a control variate that is not subtracted."""
    params, z_pres = law(FUNCTIONS[2]), code([[2], [0]])
    baseline = jnp.array([0.4, -1.1]) * jnp.ones_like(z_pres)
    trace = written_trace(params, jnp.asarray(z_pres))
    losses, baseline_losses, _ = estimators.nvil(
        trace, PRIOR, baseline=baseline, moments=MOMENTS, centring=centring
    )
    f, kl = np.array([-3.0, -1.5, -5.0]), np.array([0.9, 1.7])
    log_p = np.asarray(PRIOR.log_prob_steps(code([2, 0])))
    log_q = np.asarray(distributions.UnaryCode(params["logits"]).log_prob_steps(code([2, 0])))
    # The first sample goes through both steps, the second stops at the first; before the steps
    # -4 and 2 are explained.
    terms = log_p - log_q - code([2, 0]) * kl
    gain = np.array(
        [[f[2] + terms[0].sum() + 4, f[2] + terms[0, 1] - 2], [f[0] + terms[1, 0] + 4, 0]]
    )
    mean, deviation = np.array([-2.0, 3.0]), np.array([5.0, 4.0])
    if centring != "moving_mean":
        mean, deviation = np.zeros(2), np.array([29.0, 25.0]) ** 0.5
    mask = np.array([[1.0, 1.0], [1.0, 0.0]])
    left = mask * (gain - mean - deviation * baseline[0, 0])
    centred = left - left[::-1] if centring == "leave_one_out" else left
    pathwise = np.array([f[2] + log_p[0].sum() - kl.sum(), f[0] + log_p[1].sum()])
    expected = -(pathwise + (mask * centred * log_q).sum(-1))
    np.testing.assert_allclose(losses[:, 0], expected, rtol=1e-4)
    errors = np.square(left / deviation).sum(-1)
    np.testing.assert_allclose(baseline_losses[:, 0], errors, rtol=1e-4)


EXTREME = jnp.array([[80.0, 80.0], [-80.0, -80.0], [80.0, -80.0], [-80.0, 80.0]])


def test_enumerate_is_exact_and_finite_for_logits_of_80():
    def loss(params):
        trace = written_trace(params, codes(1)[:1])
        scored = written_trace(params, codes(1)).log_p_x[:, 0]
        return estimators.enumerate_counts(trace._replace(log_p_x=scored[None]), PRIOR)[0]

    @jax.jit
    @jax.vmap
    def both(params):
        return jax.value_and_grad(loss)(params), jax.value_and_grad(exact_elbo)(params)

    laws = [law(function) for function in FUNCTIONS]
    laws += [law(FUNCTIONS[2]) | {"logits": logits} for logits in EXTREME]
    actual, exact = both(jax.tree.map(lambda *leaves: jnp.stack(leaves), *laws))
    chex.assert_tree_all_finite(actual)
    chex.assert_trees_all_close(actual, exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_samples", [1, 2])
def test_logits_of_80_leave_loss_and_gradient_finite(num_samples):
    z_pres = codes(num_samples)

    @jax.jit
    @jax.vmap
    def loss_and_gradient(logits):
        params = law(FUNCTIONS[2]) | {"logits": logits}
        losses = functools.partial(written_losses, z_pres=z_pres, num_samples=num_samples)
        return losses(params), jax.jacrev(losses)(params)

    chex.assert_tree_all_finite(loss_and_gradient(EXTREME))


# The network: the gradient also flows through z_where and z_what into later logits.

NETWORK_SAMPLES = 2


def network_noise(air):
    """One image's continuous noise for each sample, beside every tuple of counts: `[K, B, ...]`."""
    counts = tuples(NETWORK_SAMPLES)
    noise = tiny.noise(air, NETWORK_SAMPLES)
    noise = jax.tree.map(lambda leaf: jnp.repeat(leaf[:, None], counts.shape[1], axis=1), noise)
    return noise._replace(pres=1.0 - code(counts))


def network_image():
    return jnp.repeat(tiny.images(1), (NUM_STEPS + 1) ** NETWORK_SAMPLES, axis=0)


@functools.partial(jax.jit, static_argnames="air")
def network_gradients(air, params, images, noise):
    """Losses and q-weighted expected gradients of the matrix; those they shall have, and losses."""

    def losses(params):
        trace = estimators.run_samples(air, params, images, noise)
        # Any function of the steps before i: here of z_what, shifted by one step.
        shift = ((0, 0), (0, 0), (1, 0))
        baseline = jnp.pad(jax.lax.stop_gradient(trace.z_what.sum(-1)), shift)[..., :-1]
        log_q = trace.posterior.log_prob(trace.z_pres).sum(0)
        losses = surrogates(trace, 0.3 + baseline, NETWORK_SAMPLES)
        return losses @ jax.lax.stop_gradient(jnp.exp(log_q)), losses

    expected, values = jax.jacrev(losses, has_aux=True)(params)

    def long_way(params):
        """Both bounds, every tuple of counts with its probability, which takes gradients too."""
        trace = estimators.run_samples(air, params, images, noise, every_count=True)
        log_q = trace.posterior.log_prob(trace.z_pres)
        log_p_x = jax.vmap(lambda trace: trace.at_count(trace.log_p_x))(trace)
        log_joint = log_p_x + PRIOR.log_prob(trace.z_pres) - log_q
        elbo = log_joint - (trace.z_pres * (trace.kl_where + trace.kl_what)).sum(-1)
        log_ratio = trace.log_ratio_where + trace.log_ratio_what
        log_w = log_joint + (trace.z_pres * log_ratio).sum(-1)
        bounds = jnp.stack(
            [elbo.mean(0), jnp.log(jnp.exp(log_w - log_w.max()).mean(0)) + log_w.max()]
        )
        return -bounds @ jnp.exp(log_q.sum(0))

    exact = jax.jacrev(long_way)(params)
    which = np.array([int(name == "vimco") for name, _ in matrix(NETWORK_SAMPLES)])
    return values, expected, jax.tree.map(lambda leaf: leaf[which], exact)


@pytest.mark.parametrize("variant", ["air", "dair"])
def test_expected_gradients_of_the_network_are_the_enumerated_ones(variant):
    air = tiny.create(variant)
    _, expected, exact = network_gradients(air, tiny.init(air), network_image(), network_noise(air))
    chex.assert_trees_all_close(expected, exact, rtol=2e-3, atol=2e-3)


def test_masked_steps_contribute_exactly_nothing():
    air = tiny.create()
    noise = network_noise(air)
    masked = np.cumsum(1.0 - code(tuples(NETWORK_SAMPLES)), axis=-1)[..., None] > 0
    other = noise._replace(
        where=jnp.where(masked, noise.where + 1.7, noise.where),
        what=jnp.where(masked, noise.what - 0.9, noise.what),
    )
    with_noise = functools.partial(network_gradients, air, tiny.init(air), network_image())
    chex.assert_trees_all_equal(with_noise(noise)[:2], with_noise(other)[:2])


@pytest.mark.parametrize("logit", [80.0, -80.0])
def test_a_network_that_is_certain_has_finite_losses_and_gradients(logit):
    air = tiny.create()
    params = tiny.init(air)
    last = params["predict_pres"]["Dense_1"]
    certain = params | {
        "predict_pres": params["predict_pres"] | {"Dense_1": last | {"bias": last["bias"] + logit}}
    }
    losses, expected, _ = network_gradients(air, certain, network_image(), network_noise(air))
    assert np.abs(losses).max() > 80  # counts that q all but excludes are among them
    chex.assert_tree_all_finite((losses, expected))
