"""Gradient estimators: surrogate losses whose gradient is that of the negative ELBO.

z_where and z_what take the path-wise gradient in all of them. They differ in what they do about the
discrete `z_pres`.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from air_jax import objectives
from air_jax.distributions import UnaryCode, reached
from air_jax.models.air import AIR, Trace, sample_noise
from air_jax.models.modules import Baseline
from air_jax.objectives import LossOutput

NAMES = ("nvil", "enumerate")


class Moments(NamedTuple):
    """Moments of each step's gain, averages over a batch or over earlier steps, `[..., N]`.

    Attributes:
      weight: share of examples that reached the step.
      first: mean of reached * gain, nats.
      second: mean of reached * gain^2, nats^2.
    """

    weight: jax.Array
    first: jax.Array
    second: jax.Array

    def standardisation(self) -> tuple[jax.Array, jax.Array]:
        """Mean and standard deviation (at least 1 nat) of the gain, `[..., N]` each."""
        weight = jnp.where(self.weight > 0, self.weight, 1.0)
        mean = self.first / weight
        variance = self.second / weight - jnp.square(mean)
        return mean, jnp.sqrt(jnp.maximum(variance, 1.0))


def nvil(
    trace: Trace, prior: UnaryCode, *, baseline: jax.Array, moments: Moments
) -> tuple[jax.Array, jax.Array, Moments]:
    """Score function with neural baselines: the paper's estimator.

    grad E_q[f] = E_q[grad f + sum_i (f_i - b_i) grad log q(z_pres_i)], f_i the downstream signal of
    step i; Mnih & Gregor (2014), Eq. 5 and Sec. 2.2-2.3; AIR, Sec. 2.2. The baseline is structured:
    the likelihood of the canvas so far, which the image and the latents before step i determine,
    and a network's prediction of what is gained upon it, in units of the gain's moving mean and
    deviation. Those come from earlier steps only, and the score signal itself is never divided by
    them: both would bias the gradient.

    Args:
      trace: a pass at the sampled n (or one that scored every count).
      prior: p(z_pres), logits `[N]`.
      baseline: standardised prediction of the gain, `[B, N]`.
      moments: of the gain in earlier steps, `[N]`. A step never reached before (weight 0) has no
        baseline yet: its score term and its baseline wait for the next step.

    Returns:
      Surrogate loss `[B]`, the baseline's own loss `[B]` (standardised squared error), and the
      moments' terms of this batch, `[B, N]` each.

    Raises:
      AssertionError: if the shapes differ.
    """
    chex.assert_equal_shape([trace.z_pres, baseline])
    terms = objectives.elbo_terms(trace, prior)
    # log q(z_pres) itself has a gradient of zero mean: left out of the path-wise part.
    pathwise = terms["log_p_x"] + terms["log_p_pres"] - terms["kl_where"] - terms["kl_what"]

    mask = reached(trace.z_pres)
    signal = jax.lax.stop_gradient(objectives.downstream_signal(trace, prior))
    gain = signal - trace.log_p_x_before
    mean, deviation = moments.standardisation()
    centred = gain - mean - deviation * jax.lax.stop_gradient(baseline)
    known = mask * moments.weight > 0
    score = jnp.where(known, centred * trace.posterior.log_prob_steps(trace.z_pres), 0.0).sum(-1)

    error = jnp.where(known, (gain - mean) / deviation - baseline, 0.0)
    baseline_loss = jnp.square(error).sum(-1)
    batch_moments = Moments(mask, mask * gain, mask * jnp.square(gain))
    return -(pathwise + score), baseline_loss, batch_moments


def enumerate_counts(trace: Trace, prior: UnaryCode) -> jax.Array:
    """The exact expectation over n along the sampled path of z_where, z_what.

    `-sum_n q(n | z_1:n) (log p(x, n | z) - KLs of n objects - log q(n | z_1:n))`. Step i depends on
    z_pres only through "all present so far", so that one pass scores every n = 0..N; the weights
    q(n | z_1:n) stay differentiable through z.

    Args:
      trace: a pass that scored every count.
      prior: p(z_pres), logits `[N]`.

    Returns:
      Loss `[B]`.
    """
    log_q = trace.posterior.log_prob_counts()
    elbo = objectives.elbo_per_count(trace, prior) - log_q
    return -(jnp.exp(log_q) * elbo).sum(-1)


def initial_moments(num_steps: int) -> Moments:
    """Moments before the first step: nothing reached, `[N]` each."""
    return Moments(*(jnp.zeros((num_steps,)) for _ in Moments._fields))


def create_loss(
    estimator: str,
    *,
    air: AIR,
    baseline: Baseline,
    prior: Callable[[jax.Array], UnaryCode],
) -> Callable[..., LossOutput]:
    """Builds the loss that the train step differentiates.

    Args:
      estimator: one of `NAMES`.
      air: the inference network with its scene model; its parameters are `params["model"]`.
      baseline: the baseline network, for `nvil`; its parameters are `params["baseline"]`.
      prior: p(z_pres) at a training step, see `distributions.create_prior`.

    Returns:
      `loss(params, statistics, step, images, keys) -> LossOutput`; the statistics of `nvil` are
      `Moments`, those of `enumerate` are empty.

    Raises:
      ValueError: if the estimator is unknown.
    """
    if estimator not in NAMES:
        raise ValueError(f"estimator is {estimator!r}; valid names are {', '.join(NAMES)}.")

    def loss(params, statistics, step, images, keys) -> LossOutput:
        noise = sample_noise(keys, air)
        every_count = estimator == "enumerate"
        trace = air.apply({"params": params["model"]}, images, noise, every_count=every_count)
        p_pres = prior(step)
        metrics = objectives.elbo_terms(trace, p_pres)
        metrics["num_objects"] = trace.z_pres.sum(-1)
        if estimator == "enumerate":
            value = enumerate_counts(trace, p_pres)
            return LossOutput(value, metrics, statistics)
        predicted = baseline.apply({"params": params["baseline"]}, trace.errors)
        value, baseline_loss, observed = nvil(trace, p_pres, baseline=predicted, moments=statistics)
        metrics["baseline_loss"] = baseline_loss
        return LossOutput(value + baseline_loss, metrics, observed)

    return loss
