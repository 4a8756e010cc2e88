"""From a Trace to the terms of the ELBO, per example and per count, and to the IWAE bound.

All in nats, all with the batch axis kept.
"""

import math
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from air_jax.distributions import UnaryCode
from air_jax.models.trace import Trace


class LossOutput(NamedTuple):
    """What a loss returns, every leaf with the batch axis first.

    Attributes:
      loss: to be minimised, `[B]`.
      metrics: to be logged, `[B]` each.
      statistics: terms whose batch mean goes into the moving statistics; same structure as those.
    """

    loss: jax.Array
    metrics: dict[str, jax.Array]
    statistics: Any


def elbo_terms(trace: Trace, prior: UnaryCode) -> dict[str, jax.Array]:
    """The ELBO at the sampled n and what it is made of, each `[B]`.

    `elbo = log_p_x + log_p_pres - log_q_pres - kl_where - kl_what`, where z_where and z_what enter
    by their closed-form KL, summed over the objects present. A categorical z_what enters by
    `log_ratio_identity` at the sample instead, and what the whole scene shares by `kl_scene`.

    Args:
      trace: a pass of the inference network.
      prior: p(z_pres), logits `[N]`.
    """
    terms = {
        "log_p_x": trace.at_count(trace.log_p_x),
        "log_p_pres": prior.log_prob(trace.z_pres),
        "log_q_pres": trace.posterior.log_prob(trace.z_pres),
        "kl_where": (trace.z_pres * trace.kl_where).sum(-1),
        "kl_what": (trace.z_pres * trace.kl_what).sum(-1),
    }
    elbo = terms["log_p_x"] + terms["log_p_pres"] - terms["log_q_pres"]
    elbo = elbo - terms["kl_where"] - terms["kl_what"]
    if trace.log_ratio_identity is not None:
        terms["log_ratio_identity"] = (trace.z_pres * trace.log_ratio_identity).sum(-1)
        elbo = elbo + terms["log_ratio_identity"]
    if trace.kl_scene is not None:
        terms["kl_scene"] = trace.kl_scene
        elbo = elbo - terms["kl_scene"]
    return {"elbo": elbo, **terms}


def elbo_per_count(trace: Trace, prior: UnaryCode) -> jax.Array:
    """log p(x, n | z) - KLs of the first n objects, without `-log q(n)`: `[B, N + 1]`.

    Args:
      trace: a pass that scored every count.
      prior: p(z_pres), logits `[N]`.

    Raises:
      ValueError: if the trace scored only the sampled count.
    """
    if not trace.scores_every_count:
        raise ValueError(
            f"the trace scored {trace.log_p_x.shape[-1]} canvas of {trace.z_pres.shape[-1] + 1}; "
            "run the network with every_count=True."
        )
    kl = jnp.cumsum(trace.kl_where + trace.kl_what, axis=-1)
    kl = jnp.concatenate([jnp.zeros_like(kl[:, :1]), kl], axis=-1)
    return trace.log_p_x + prior.log_prob_counts() - kl


def downstream_signal(trace: Trace, prior: UnaryCode) -> jax.Array:
    """What the decision of step i still influences: the signal of its score function, `[B, N]`.

    `log_p_x + sum_{j >= i} (log p(z_pres_j) - log q(z_pres_j) - z_pres_j KL_j)`, KL_j that of
    z_where and z_what together, log q - log p of a z_what that is categorical. The terms of the
    steps before i are fixed when step i decides (AIR, Sec. 2.2; NVIL, Sec. 2.2).

    Args:
      trace: a pass of the inference network.
      prior: p(z_pres), logits `[N]`.
    """
    step_terms = (
        prior.log_prob_steps(trace.z_pres)
        - trace.posterior.log_prob_steps(trace.z_pres)
        - trace.z_pres * (trace.kl_where + trace.kl_what)
    )
    if trace.log_ratio_identity is not None:
        step_terms = step_terms + trace.z_pres * trace.log_ratio_identity
    downstream = jnp.cumsum(step_terms[:, ::-1], axis=-1)[:, ::-1]
    return trace.at_count(trace.log_p_x)[:, None] + downstream


def log_weight(trace: Trace, prior: UnaryCode) -> jax.Array:
    """log p(x, z) - log q(z | x) at the sample, `[B]`: the importance weight of one sample.

    Args:
      trace: a pass of the inference network.
      prior: p(z_pres), logits `[N]`.
    """
    log_ratio = trace.z_pres * (trace.log_ratio_where + trace.log_ratio_what)
    if trace.log_ratio_identity is not None:
        log_ratio = log_ratio + trace.z_pres * trace.log_ratio_identity
    log_ratio_pres = prior.log_prob(trace.z_pres) - trace.posterior.log_prob(trace.z_pres)
    log_weight = trace.at_count(trace.log_p_x) + log_ratio_pres + log_ratio.sum(-1)
    return log_weight if trace.log_ratio_scene is None else log_weight + trace.log_ratio_scene


def iwae(log_weights: jax.Array) -> jax.Array:
    """IWAE bound log (1/K) sum_k w_k (Burda et al., 2016, Eq. 8).

    Args:
      log_weights: nats, `[K, B]`.

    Returns:
      `[B]`, nats.
    """
    chex.assert_rank(log_weights, 2)
    return jax.nn.logsumexp(log_weights, axis=0) - math.log(log_weights.shape[0])
