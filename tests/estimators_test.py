"""Estimators on the network: brute force over n, finite differences and sampling.

The matrix of all estimators and centrings on laws that can be written down is in
estimators_matrix_test.py.
"""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from air_jax import control_variates, distributions, estimators, objectives
from air_jax.models.air import sample_noise
from air_jax.models.modules import LSTMCell
from tests import tiny

PRIOR_LOG_ODDS = -0.8
VARIANTS = pytest.mark.parametrize("variant", ["air", "dair"])


def prior(air):
    return distributions.geometric(PRIOR_LOG_ODDS, air.num_steps)


def some_baseline(trace):
    """Any function of the steps before i: here of z_what, shifted by one step."""
    before = jnp.pad(jax.lax.stop_gradient(trace.z_what.sum(-1)), ((0, 0), (1, 0)))[:, :-1]
    return 0.3 + before


def some_moments(num_steps):
    """Mean -20 and deviation 5 at every step, as if from earlier batches."""
    ones = jnp.ones((num_steps,))
    return control_variates.Moments(weight=0.5 * ones, first=-10.0 * ones, second=212.5 * ones)


@functools.partial(jax.jit, static_argnames=("air", "every_count"))
def nvil_loss(air, params, images, noise, *, every_count=False):
    trace = tiny.run(air, params, images, noise, every_count=every_count)
    loss, _, _ = estimators.nvil(
        trace, prior(air), baseline=some_baseline(trace), moments=some_moments(air.num_steps)
    )
    return loss.sum()


@functools.partial(jax.jit, static_argnames="air")
def enumerate_loss(air, params, images, noise):
    trace = tiny.run(air, params, images, noise, every_count=True)
    return estimators.enumerate_counts(trace, prior(air)).sum()


@functools.partial(jax.jit, static_argnames="air")
def long_way(air, params, images, noise):
    """-sum_n q(n) ELBO_n from one pass per n, each composing only its own n objects."""
    total = 0.0
    for count in range(air.num_steps + 1):
        trace = tiny.run(air, params, images, tiny.with_count(noise, count), every_count=False)
        terms = objectives.elbo_terms(trace, prior(air))
        total -= (jnp.exp(terms["log_q_pres"]) * terms["elbo"]).sum()
    return total


def expected_nvil_gradient(air, params, images, noise):
    """sum_n q(n | x) grad nvil at n, for each image, summed over images."""

    @jax.jit
    def weighted_gradient(image, noise):
        trace = tiny.run(air, params, image, noise, every_count=False)
        weight = jnp.exp(trace.posterior.log_prob(trace.z_pres))[0]
        gradient = jax.grad(functools.partial(nvil_loss, air))(params, image, noise)
        return jax.tree.map(lambda leaf: weight * leaf, gradient)

    gradients = []
    for image in range(images.shape[0]):
        one = jax.tree.map(lambda leaf, i=image: leaf[i : i + 1], (images, noise))
        for count in range(air.num_steps + 1):
            gradients.append(weighted_gradient(one[0], tiny.with_count(one[1], count)))
    return jax.tree.map(lambda *leaves: sum(leaves), *gradients)


@VARIANTS
def test_enumerate_equals_the_long_way(variant):
    air = tiny.create(variant, num_steps=3)
    params, images, noise = tiny.init(air), tiny.images(), tiny.noise(air)
    np.testing.assert_allclose(
        enumerate_loss(air, params, images, noise), long_way(air, params, images, noise), rtol=1e-5
    )


@VARIANTS
def test_expected_nvil_gradient_equals_the_enumerated_one(variant):
    air = tiny.create(variant, num_steps=3)
    params, images, noise = tiny.init(air), tiny.images(2), tiny.noise(air, 2)
    exact = jax.jit(jax.grad(functools.partial(enumerate_loss, air)))(params, images, noise)
    expected = expected_nvil_gradient(air, params, images, noise)
    chex.assert_trees_all_close(expected, exact, rtol=1e-3, atol=2e-3)


def finite_difference_errors(air):
    """Expected nvil gradient less finite differences of the value, along random directions."""
    with jax.enable_x64(True):
        images, noise = tiny.images(1), tiny.noise(air, 1)
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), tiny.init(air))
        gradient = expected_nvil_gradient(air, params, images, noise)
        value = functools.partial(long_way, air)
        flat, unravel = ravel_pytree(params)
        flat_gradient, _ = ravel_pytree(gradient)
        errors = []
        for i in range(8):
            direction = jax.random.normal(jax.random.key(i), flat.shape, flat.dtype)
            step = 1e-6 * direction
            difference = value(unravel(flat + step), images, noise) - value(
                unravel(flat - step), images, noise
            )
            errors.append(float(flat_gradient @ direction - difference / 2e-6))
        return np.array(errors)


@VARIANTS
def test_expected_nvil_gradient_equals_finite_differences(variant):
    """Against the value itself, which no stop_gradient in the network could hide from."""
    np.testing.assert_allclose(finite_difference_errors(tiny.create(variant)), 0.0, atol=1e-4)


def test_finite_differences_notice_latents_that_are_stopped_on_their_way_to_the_rnn():
    def stop_inputs(call, arguments, keywords, context):
        if isinstance(context.module, LSTMCell) and context.method_name == "__call__":
            carry, projected, inputs = arguments
            arguments = (carry, projected, jax.lax.stop_gradient(inputs))
        return call(*arguments, **keywords)

    # Another network than in the test above, or its compiled gradient would be taken.
    air = tiny.create("air", presence_logit=0.31)
    with nn.intercept_methods(stop_inputs):
        errors = finite_difference_errors(air)
    assert np.abs(errors).max() > 1e-2


@VARIANTS
def test_mean_of_sampled_nvil_gradients_is_the_enumerated_one(variant):
    """With the neural baseline as it is used in training."""
    air = tiny.create(variant)
    params, images, noise = tiny.init(air), tiny.images(1), tiny.noise(air, 1)
    baseline = tiny.init_baseline(air)
    exact, _ = ravel_pytree(
        jax.jit(jax.grad(functools.partial(enumerate_loss, air)))(params, images, noise)
    )

    def loss(params, pres):
        trace = tiny.run(air, params, images, noise._replace(pres=pres))
        predicted = tiny.BASELINE.apply({"params": baseline}, trace.errors)
        moments = some_moments(air.num_steps)
        return estimators.nvil(trace, prior(air), baseline=predicted, moments=moments)[0].sum()

    @jax.jit
    @jax.vmap
    def sampled(key):
        pres = jax.random.uniform(key, noise.pres.shape)
        return ravel_pytree(jax.grad(loss)(params, pres))[0]

    gradients = np.asarray(sampled(jax.random.split(jax.random.key(0), 20_000)), np.float64)
    error = gradients.mean(0) - np.asarray(exact)
    standard_error = gradients.std(0) / np.sqrt(len(gradients))
    # About 300 parameters: 5 standard errors are passed by chance once in 10,000 tests.
    assert (np.abs(error) < 5 * standard_error + 1e-3).all()
    # The test can see an error: the standard errors are small beside the gradient.
    assert np.linalg.norm(standard_error) < 0.2 * np.linalg.norm(exact)


@VARIANTS
def test_masked_steps_contribute_exactly_nothing(variant):
    air = tiny.create(variant, num_steps=3)
    params, images = tiny.init(air), tiny.images()
    noise = tiny.with_count(tiny.noise(air), 1)
    other = noise._replace(
        where=noise.where.at[:, 1:].add(1.7), what=noise.what.at[:, 1:].add(-0.9)
    )
    loss = jax.jit(jax.value_and_grad(functools.partial(nvil_loss, air)))
    chex.assert_trees_all_equal(loss(params, images, noise), loss(params, images, other))


def test_nvil_is_the_same_on_a_trace_that_scored_every_count():
    air = tiny.create(num_steps=3)
    params, images, noise = tiny.init(air), tiny.images(), tiny.noise(air)
    losses = [
        jax.jit(jax.value_and_grad(functools.partial(nvil_loss, air, every_count=every)))(
            params, images, noise
        )
        for every in (False, True)
    ]
    chex.assert_trees_all_close(*losses, rtol=1e-4, atol=1e-4)


def test_a_step_without_earlier_statistics_has_neither_score_nor_baseline_loss():
    air = tiny.create()
    trace = tiny.run(air, tiny.init(air), tiny.images(), tiny.noise(air), every_count=False)
    loss, baseline_loss, observed = estimators.nvil(
        trace,
        prior(air),
        baseline=jnp.ones_like(trace.z_pres),
        moments=control_variates.initial_moments(air.num_steps),
    )
    terms = objectives.elbo_terms(trace, prior(air))
    np.testing.assert_allclose(-loss, terms["elbo"] + terms["log_q_pres"], rtol=1e-5)
    np.testing.assert_array_equal(baseline_loss, 0.0)
    np.testing.assert_array_equal(observed.weight, distributions.reached(trace.z_pres))


def test_the_baseline_is_trained_at_the_steps_that_were_reached():
    air = tiny.create()
    # No object: the second step was never reached.
    noise = tiny.with_count(tiny.noise(air), 0)
    trace = tiny.run(air, tiny.init(air), tiny.images(), noise, every_count=False)

    def baseline_loss(baseline):
        moments = some_moments(air.num_steps)
        return estimators.nvil(trace, prior(air), baseline=baseline, moments=moments)[1].sum()

    gradient = jax.grad(baseline_loss)(jnp.ones_like(trace.z_pres))
    np.testing.assert_array_equal(gradient != 0, [[True, False]] * 3)


def create_loss(estimator, air, **options):
    return estimators.create_loss(
        estimator, air=air, baseline=tiny.BASELINE, prior=lambda step: prior(air), **options
    )


def test_the_baseline_learns_from_its_own_loss_alone_and_the_model_from_none_of_it():
    air, baseline = tiny.create(), tiny.BASELINE
    model, images, noise = tiny.init(air), tiny.images(), tiny.noise(air)
    params = {"model": model, "baseline": tiny.init_baseline(air)}

    def baseline_loss(params):
        trace = tiny.run(air, params["model"], images, noise, every_count=False)
        predicted = baseline.apply({"params": params["baseline"]}, trace.errors)
        return estimators.nvil(
            trace, prior(air), baseline=predicted, moments=some_moments(air.num_steps)
        )[1].sum()

    gradient = jax.jit(jax.grad(baseline_loss))(params)
    chex.assert_trees_all_equal(gradient["model"], jax.tree.map(jnp.zeros_like, model))
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient["baseline"])) > 0

    def model_loss(params):
        trace = tiny.run(air, params["model"], images, noise, every_count=False)
        predicted = baseline.apply({"params": params["baseline"]}, trace.errors)
        return estimators.nvil(
            trace, prior(air), baseline=predicted, moments=some_moments(air.num_steps)
        )[0].sum()

    gradient = jax.jit(jax.grad(model_loss))(params)["baseline"]
    chex.assert_trees_all_equal(gradient, jax.tree.map(jnp.zeros_like, gradient))


# Each estimator with the samples that it needs, and nvil with several.
LOSSES = pytest.mark.parametrize(
    ("estimator", "options"),
    [
        ("nvil", {}),
        ("enumerate", {}),
        ("reinforce", {}),
        ("vimco", {"num_samples": 2}),
        ("nvil", {"num_samples": 3, "centring": "leave_one_out"}),
    ],
)


@LOSSES
def test_losses_keep_the_batch_axis_and_use_every_key(estimator, options):
    air, images = tiny.create(), tiny.images(4)
    params = {"model": tiny.init(air), "baseline": tiny.init_baseline(air)}
    statistics = () if estimator == "enumerate" else some_moments(air.num_steps)
    loss = jax.jit(create_loss(estimator, air, **options))
    step = jnp.zeros((), jnp.int32)

    def keys():
        return jax.random.split(jax.random.key(1), 4)

    output = loss(params, statistics, step, images, keys())
    chex.assert_shape(output.loss, (4,))
    for values in output.metrics.values():
        chex.assert_shape(values, (4,))
    chex.assert_trees_all_equal_structs(
        output.statistics, estimators.initial_statistics(estimator, air.num_steps)
    )
    chex.assert_tree_shape_prefix(output.statistics, (4,))
    other = loss(params, statistics, step, images, keys().at[2].set(jax.random.key(9)))
    np.testing.assert_array_equal(output.loss != other.loss, [False, False, True, False])


def test_metrics_are_means_over_the_samples_and_vimco_has_its_bound():
    air, images, num_samples = tiny.create(), tiny.images(4), 3
    params = {"model": tiny.init(air)}
    keys = jax.random.split(jax.random.key(1), 4)
    loss = jax.jit(create_loss("vimco", air, num_samples=num_samples, centring="none"))
    metrics = loss(params, some_moments(air.num_steps), jnp.zeros((), jnp.int32), images, keys)[1]

    noise = estimators.draw_noise(jax.random.split(jax.random.key(1), 4), air, num_samples)
    traces = [
        tiny.run(air, params["model"], images, jax.tree.map(lambda leaf, k=k: leaf[k], noise))
        for k in range(num_samples)
    ]
    elbos = [objectives.elbo_terms(trace, prior(air))["elbo"] for trace in traces]
    np.testing.assert_allclose(metrics["elbo"], np.mean(elbos, axis=0), rtol=1e-5)
    counts = [trace.z_pres.sum(-1) for trace in traces]
    np.testing.assert_allclose(metrics["num_objects"], np.mean(counts, axis=0), rtol=1e-6)
    weights = jnp.stack([objectives.log_weight(trace, prior(air)) for trace in traces])
    np.testing.assert_allclose(metrics["iwae"], objectives.iwae(weights), rtol=1e-5)


def test_the_loss_of_several_samples_is_their_mean():
    air, images = tiny.create(), tiny.images(4)
    params = {"model": tiny.init(air), "baseline": tiny.init_baseline(air)}
    noise = estimators.draw_noise(jax.random.split(jax.random.key(1), 4), air, 2)
    arguments = (params, some_moments(air.num_steps), jnp.zeros((), jnp.int32), images)

    def output(num_samples, noise):
        surrogate = estimators.create_surrogate(
            "nvil",
            air=air,
            baseline=tiny.BASELINE,
            prior=lambda step: prior(air),
            num_samples=num_samples,
        )
        return jax.jit(surrogate)(*arguments, noise)

    single = [output(1, jax.tree.map(lambda leaf, k=k: leaf[k], noise)) for k in range(2)]
    mean = jax.tree.map(lambda *leaves: sum(leaves) / 2, *single)
    chex.assert_trees_all_close(output(2, noise), mean, rtol=1e-5)


def test_noise_of_one_sample_is_that_of_the_key_and_more_samples_have_their_own():
    air = tiny.create()

    def draw(num_samples, part=slice(None)):
        keys = jax.random.split(jax.random.key(3), 5)[part]
        return estimators.draw_noise(keys, air, num_samples)

    keys = jax.random.split(jax.random.key(3), 5)
    chex.assert_trees_all_equal(draw(1), sample_noise(keys, air))
    three = draw(3)
    # A batch that is cut over devices draws the same, and further samples leave the first alone.
    chex.assert_trees_all_equal(
        draw(3, slice(1, 3)), jax.tree.map(lambda leaf: leaf[:, 1:3], three)
    )
    chex.assert_trees_all_equal(draw(2), jax.tree.map(lambda leaf: leaf[:2], three))
    assert len(np.unique(np.concatenate([three.pres.ravel(), draw(1).pres.ravel()]))) == 40


def test_enumerate_is_the_same_with_every_centring():
    air = tiny.create()
    arguments = ({"model": tiny.init(air)}, (), jnp.zeros((), jnp.int32), tiny.images(2))
    programs = {
        str(
            jax.make_jaxpr(create_loss("enumerate", air, centring=centring))(
                *arguments, jax.random.split(jax.random.key(1), 2)
            )
        )
        for centring in control_variates.CENTRINGS
    }
    assert len(programs) == 1


@pytest.mark.parametrize(
    ("estimator", "options", "message"),
    [
        ("relax", {}, "'relax'; valid names are nvil, enumerate, reinforce, vimco"),
        ("nvil", {"centring": "mean"}, "'mean'; valid names are none, moving_mean, leave_one_out"),
        ("nvil", {"num_samples": 0}, "num_samples is 0; it must be from 1 to 1000"),
        ("enumerate", {"num_samples": 4}, r"is 4; .*takes 1: .*\(N \+ 1\)\^K terms"),
        ("vimco", {}, "'vimco' needs at least 2: .*with the others"),
        ("reinforce", {"centring": "leave_one_out"}, "needs at least 2: .*mean over the others"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_reason(estimator, options, message):
    with pytest.raises(ValueError, match=message):
        create_loss(estimator, tiny.create(), **options)
