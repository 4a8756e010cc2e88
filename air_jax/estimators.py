"""Gradient estimators: surrogate losses whose gradient is that of the negative bound.

z_where and z_what take the path-wise gradient in all of them. They differ in what they do about the
discrete `z_pres`, and in the bound: the ELBO, or for `vimco` the IWAE bound of K samples. Several
passes over the same images are one Trace whose leaves are `[K, B, ...]`; a single one has no axis
of samples, so that K = 1 is the program that it would be without samples, to the last bit.
"""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from air_jax import control_variates, objectives
from air_jax.control_variates import CENTRINGS, Moments
from air_jax.distributions import UnaryCode, reached
from air_jax.models.air import AIR, Noise
from air_jax.models.modules import Baseline
from air_jax.models.trace import Trace
from air_jax.objectives import LossOutput

NAMES = ("nvil", "enumerate", "reinforce", "vimco")
_MAX_SAMPLES = 1_000  # passes that are computed side by side


def reinforce(
    trace: Trace, prior: UnaryCode, *, centring: str, moments: Moments
) -> tuple[jax.Array, Moments]:
    """Score function without a learned baseline.

    grad E_q[f] = E_q[grad f + sum_i (f_i - c_i) grad log q(z_pres_i)], f_i the downstream signal of
    step i (Williams, 1992; AIR, Sec. 2.2) and c_i the control variate of `centring`.

    Args:
      trace: one pass or K, at the sampled n (or passes that scored every count).
      prior: p(z_pres), logits `[N]`.
      centring: see `control_variates.centre`.
      moments: of the signal in earlier steps, `[N]`.

    Returns:
      Surrogate loss of each sample, `[(K,) B]`, and the moments' terms, `[(K,) B, N]` each.

    Raises:
      ValueError: see `control_variates.centre`.
    """
    mask = reached(trace.z_pres)
    signal = _downstream_signal(trace, prior)
    centred = control_variates.centre(signal, mask, centring=centring, moments=moments)
    score = (centred * trace.log_q_decisions()).sum(-1)
    return -(_pathwise(trace, prior) + score), control_variates.observe(signal, mask)


def nvil(
    trace: Trace,
    prior: UnaryCode,
    *,
    baseline: jax.Array,
    moments: Moments,
    centring: str = "moving_mean",
) -> tuple[jax.Array, jax.Array, Moments]:
    """Score function with neural baselines: the paper's estimator.

    grad E_q[f] = E_q[grad f + sum_i (f_i - b_i) grad log q(z_pres_i)], f_i the downstream signal of
    step i; Mnih & Gregor (2014), Eq. 5 and Sec. 2.2-2.3; AIR, Sec. 2.2. The baseline is structured:
    the likelihood of the canvas so far, which the image and the latents before step i determine,
    and a network's prediction of what is gained upon it, in units of the gain's moving mean and
    deviation. Those come from earlier steps only, and the score signal itself is never divided by
    them: both would bias the gradient.

    The moving mean is part of the published estimator, so it is the network's reference with
    "moving_mean" only. With "none" and "leave_one_out" the network predicts the gain itself, in
    units of its moving root mean square; "leave_one_out" then subtracts what the other samples'
    baselines left over. A sample that has stopped counts there as one without anything left over:
    it has nothing more to gain.

    Args:
      trace: one pass or K, at the sampled n (or passes that scored every count).
      prior: p(z_pres), logits `[N]`.
      baseline: standardised prediction of the gain, `[(K,) B, N]`.
      moments: of the gain in earlier steps, `[N]`. A step never reached before (weight 0) has no
        baseline yet: its score term and its baseline wait for the next step.
      centring: one of `CENTRINGS`.

    Returns:
      Surrogate loss `[(K,) B]`, the baseline's own loss `[(K,) B]` (standardised squared error),
      and the moments' terms of this batch, `[(K,) B, N]` each.

    Raises:
      AssertionError: if the shapes differ, or there is no axis of samples to leave one out of.
      ValueError: if the centring leaves out the only sample.
    """
    chex.assert_equal_shape([trace.z_pres, baseline])
    mask = reached(trace.z_pres)
    gain = _downstream_signal(trace, prior) - trace.log_p_x_before
    mean, deviation = moments.standardisation()
    if centring != "moving_mean":
        mean, deviation = jnp.zeros_like(mean), moments.root_mean_square()
    centred = gain - mean - deviation * jax.lax.stop_gradient(baseline)
    known = mask * moments.weight > 0
    if centring == "leave_one_out":
        chex.assert_rank(centred, 3)
        centred = centred - control_variates.leave_one_out(jnp.where(known, centred, 0.0))
    score = jnp.where(known, centred * trace.log_q_decisions(), 0.0).sum(-1)

    error = jnp.where(known, (gain - mean) / deviation - baseline, 0.0)
    baseline_loss = jnp.square(error).sum(-1)
    observed = control_variates.observe(gain, mask)
    return -(_pathwise(trace, prior) + score), baseline_loss, observed


def vimco(
    trace: Trace, prior: UnaryCode, *, centring: str, moments: Moments
) -> tuple[jax.Array, jax.Array, Moments]:
    """Score function for the IWAE bound of K samples.

    L = log (1/K) sum_k w_k; grad E[L] = E[grad L + sum_k (L - L_-k) grad log q(z_pres^k)], where
    L_-k has the mean of the other samples' log-weights in the place of log w_k; Mnih & Rezende
    (2016), Eq. 6-10. grad L includes log q(z_pres), whose own gradient has no zero mean here: the
    weights differ. L_-k is all that "leave_one_out" can mean: every sample's signal depends on
    every other's decision through L, so that a mean over the others' signals would be biased.
    "moving_mean" may be subtracted from L - L_-k, since it comes from earlier batches.

    Args:
      trace: K passes at the sampled n (or ones that scored every count), leaves `[K, B, ...]`.
      prior: p(z_pres), logits `[N]`.
      centring: one of `CENTRINGS`; "none" and "leave_one_out" are the same.
      moments: of L - L_-k in earlier steps, `[N]`, for "moving_mean".

    Returns:
      Surrogate loss `[B]`, the bound `[B]`, nats, and the moments' terms, `[K, B, N]` each.

    Raises:
      ValueError: if there is only one sample.
    """
    log_weights = _each_sample(objectives.log_weight, trace, prior)
    bound = objectives.iwae(log_weights)

    stopped = jax.lax.stop_gradient(log_weights)
    own = jnp.eye(len(stopped), dtype=bool)[:, :, None]
    # [k, j, B]: log w_j, but for j = k the others' mean.
    replaced = jnp.where(own, control_variates.leave_one_out(stopped)[:, None], stopped[None])
    signal = jax.lax.stop_gradient(bound) - jax.vmap(objectives.iwae)(replaced)

    mask = reached(trace.z_pres)
    signal = jnp.broadcast_to(signal[..., None], mask.shape)
    centring = "none" if centring == "leave_one_out" else centring
    centred = control_variates.centre(signal, mask, centring=centring, moments=moments)
    score = (centred * trace.log_q_decisions()).sum((0, -1))
    return -(bound + score), bound, control_variates.observe(signal, mask)


def enumerate_counts(trace: Trace, prior: UnaryCode) -> jax.Array:
    """The exact expectation over n along the sampled path of z_where, z_what.

    `-sum_n q(n | z_1:n) (log p(x, n | z) - KLs of n objects - log q(n | z_1:n))`. Step i depends on
    z_pres only through "all present so far", so that one pass scores every n = 0..N; the weights
    q(n | z_1:n) stay differentiable through z.

    Args:
      trace: a single pass that scored every count, leaves `[B, ...]`.
      prior: p(z_pres), logits `[N]`.

    Returns:
      Loss `[B]`.
    """
    log_q = trace.posterior.log_prob_counts()
    elbo = objectives.elbo_per_count(trace, prior) - log_q
    return -(jnp.exp(log_q) * elbo).sum(-1)


def enumerate_identities(traces: Trace, prior: UnaryCode) -> jax.Array:
    """The exact expectation over the identity of a scene's only object.

    `-sum_k q(k) (log p(x, k | z_k) - KLs - log q(k))`, z_k the pose sampled for the identity k. Of
    more objects there would be K^N paths.

    Args:
      traces: a pass for every identity, each forced, leaves `[K, B, ...]`, N = 1 and z_pres = 1.
      prior: p(z_pres), logits `[1]`.

    Returns:
      Loss `[B]`.
    """
    terms = _each_sample(objectives.elbo_terms, traces, prior)
    assert traces.log_q_what is not None, "z_what is not categorical"
    return -(jnp.exp(traces.log_q_what[..., 0]) * terms["elbo"]).sum(0)


def _each_sample(
    function: Callable[[Trace, UnaryCode], Any], trace: Trace, prior: UnaryCode
) -> Any:
    """Applies a function of a single pass, leaves `[B, ...]`, to one pass or to each of K."""
    if trace.z_pres.ndim == 2:
        return function(trace, prior)
    return jax.vmap(lambda single: function(single, prior))(trace)


def _downstream_signal(trace: Trace, prior: UnaryCode) -> jax.Array:
    """The signal of every step, `[(K,) B, N]`: to the score function it is a number."""
    return jax.lax.stop_gradient(_each_sample(objectives.downstream_signal, trace, prior))


def _pathwise(trace: Trace, prior: UnaryCode) -> jax.Array:
    """The ELBO without log q of the decisions, whose own gradient has zero mean, `[(K,) B]`."""
    terms = _each_sample(objectives.elbo_terms, trace, prior)
    value = terms["log_p_x"] + terms["log_p_pres"] - terms["kl_where"] - terms["kl_what"]
    return value - terms["kl_scene"] if "kl_scene" in terms else value


def _guidance(trace: Trace) -> jax.Array:
    """What decisions are told while they are explored, `[(K,) B]`."""
    if trace.guidance is None:
        return jnp.zeros(trace.z_pres.shape[:-1])
    return trace.guidance.sum(-1)


def initial_statistics(estimator: str, num_steps: int) -> Any:
    """Moving statistics before the first step: moments `[N]`, or nothing for `enumerate`."""
    return () if estimator == "enumerate" else control_variates.initial_moments(num_steps)


def draw_noise(keys: jax.Array, air: AIR, num_samples: int) -> Noise:
    """Draws the noise of one pass, leaves `[B, ...]`, or of K, `[K, B, ...]`.

    Args:
      keys: one per example, `[B]`; see `models.air.sample_noise`.
      air: the network, for the sizes.
      num_samples: K. Of two numbers above 1, the larger draws the samples of the smaller first.
    """
    if num_samples == 1:
        return air.sample_noise(keys)
    fold_in = jax.vmap(jax.random.fold_in, in_axes=(0, None))
    keys = jax.vmap(fold_in, in_axes=(None, 0))(keys, jnp.arange(num_samples))
    return jax.vmap(air.sample_noise)(keys)


def run_samples(
    air: AIR, params: Any, images: jax.Array, noise: Noise, *, every_count: bool = False
) -> Trace:
    """One pass, or K over the same images: what does not depend on the noise is computed once.

    Args:
      air: the network.
      params: of the network.
      images: float32 `[B, H, W, C]`.
      noise: leaves `[(K,) B, ...]`.
      every_count: see `AIR.__call__`.

    Returns:
      A trace, leaves `[(K,) B, ...]`.
    """

    def run(noise):
        return air.apply({"params": params}, images, noise, every_count=every_count)

    return run(noise) if noise.pres.ndim == 2 else jax.vmap(run)(noise)


def create_surrogate(
    estimator: str,
    *,
    air: AIR,
    baseline: Baseline,
    prior: Callable[[jax.Array], UnaryCode],
    num_samples: int = 1,
    centring: str = "moving_mean",
) -> Callable[..., LossOutput]:
    """Builds the surrogate loss as a function of the noise; arguments as in `create_loss`.

    Returns:
      `surrogate(params, statistics, step, images, noise) -> LossOutput`; the noise is that of
      `draw_noise`.

    Raises:
      ValueError: see `create_loss`.
    """
    check(estimator, num_samples, centring)

    def over_samples(tree):
        return tree if num_samples == 1 else jax.tree.map(lambda leaf: leaf.mean(0), tree)

    def surrogate(params, statistics, step, images, noise) -> LossOutput:
        samples = () if num_samples == 1 else (num_samples,)
        chex.assert_shape(noise.pres, (*samples, images.shape[0], air.num_steps))
        every_count = estimator == "enumerate"
        trace = run_samples(air, params["model"], images, noise, every_count=every_count)
        p_pres = prior(step)
        metrics = _each_sample(objectives.elbo_terms, trace, p_pres)
        metrics["num_objects"] = trace.z_pres.sum(-1)
        if estimator == "enumerate":
            return LossOutput(enumerate_counts(trace, p_pres), metrics, statistics)

        options = {"centring": centring, "moments": statistics}
        if estimator == "vimco":
            value, bound, observed = vimco(trace, p_pres, **options)
            metrics = {**over_samples(metrics), "iwae": bound}
            value = value + over_samples(_guidance(trace))
            return LossOutput(value, metrics, over_samples(observed))
        if estimator == "reinforce":
            value, observed = reinforce(trace, p_pres, **options)
        else:
            # Samples are further examples to the baseline.
            errors = trace.errors.reshape(-1, *trace.errors.shape[-4:])
            predicted = baseline.apply({"params": params["baseline"]}, errors)
            predicted = predicted.reshape(trace.z_pres.shape)
            value, baseline_loss, observed = nvil(trace, p_pres, baseline=predicted, **options)
            metrics["baseline_loss"] = baseline_loss
            value = value + baseline_loss
        value = value + _guidance(trace)
        return over_samples(LossOutput(value, metrics, observed))

    return surrogate


def create_loss(
    estimator: str,
    *,
    air: AIR,
    baseline: Baseline,
    prior: Callable[[jax.Array], UnaryCode],
    num_samples: int = 1,
    centring: str = "moving_mean",
) -> Callable[..., LossOutput]:
    """Builds the loss that the train step differentiates.

    Args:
      estimator: one of `NAMES`. All but `vimco` train the ELBO, its mean over the samples.
      air: the inference network with its scene model; its parameters are `params["model"]`.
      baseline: the baseline network, for `nvil`; its parameters are `params["baseline"]`.
      prior: p(z_pres) at a training step, see `distributions.create_prior`.
      num_samples: K, passes over each image.
      centring: one of `control_variates.CENTRINGS`, what the score function's signal is centred
        by; see the estimators. `enumerate` has no score function and takes no notice of it.

    Returns:
      `loss(params, statistics, step, images, keys) -> LossOutput`. Metrics are means over the
      samples, and `vimco`'s have the bound, "iwae"; for the statistics see `initial_statistics`.

    Raises:
      ValueError: if a name is unknown or the number of samples not one that the estimator and
        the centring can take.
    """
    surrogate = create_surrogate(
        estimator,
        air=air,
        baseline=baseline,
        prior=prior,
        num_samples=num_samples,
        centring=centring,
    )

    def loss(params, statistics, step, images, keys) -> LossOutput:
        noise = draw_noise(keys, air, num_samples)
        return surrogate(params, statistics, step, images, noise)

    return loss


def check(estimator: str, num_samples: int, centring: str) -> None:
    """Raises ValueError where name, number of samples and centring do not go together."""
    if estimator not in NAMES:
        raise ValueError(f"estimator is {estimator!r}; valid names are {', '.join(NAMES)}.")
    if centring not in CENTRINGS:
        raise ValueError(f"centring is {centring!r}; valid names are {', '.join(CENTRINGS)}.")
    if not 1 <= num_samples <= _MAX_SAMPLES:
        raise ValueError(f"num_samples is {num_samples}; it must be from 1 to {_MAX_SAMPLES}.")
    if estimator == "enumerate" and num_samples > 1:
        raise ValueError(
            f"num_samples is {num_samples}; estimator 'enumerate' takes 1: the exact expectation "
            "of a bound over K samples would have (N + 1)^K terms."
        )
    if estimator == "vimco" and num_samples < 2:
        raise ValueError(
            "num_samples is 1; estimator 'vimco' needs at least 2: its learning signal compares a "
            "sample with the others."
        )
    if estimator != "enumerate" and centring == "leave_one_out" and num_samples < 2:
        raise ValueError(
            "num_samples is 1; centring 'leave_one_out' needs at least 2: it is the mean over the "
            "others."
        )
