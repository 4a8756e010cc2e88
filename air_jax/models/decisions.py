"""What a step of AIR decides in a scene of a renderer: is there one more object, and which."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

_IMPOSSIBLE = -70.0  # log-probability of what an exploring law never does


class Decisions(NamedTuple):
    """q(z_pres_i) and q(z_what_i | z_pres_i = 1) of a step.

    Attributes:
      presence_logit: log-odds of one more object, `[B]`.
      log_probs: of its identity, nats, `[B, K]`.
    """

    presence_logit: jax.Array
    log_probs: jax.Array

    def explore(self, share: jax.Array, helps: jax.Array) -> "Decisions":
        """Mixes in a law that takes one of what helps, all alike, or stops where nothing does.

        The joint law of presence and identity is mixed, as by one toss of a coin for both. What
        helps counts as given: that it changes with the poses has no gradient.

        Args:
          share: of that law, in [0, 1], `[B]`.
          helps: which identities do, bool `[B, K]`.
        """
        log_own, log_share = (jnp.log(jnp.maximum(weight, 1e-30)) for weight in (1 - share, share))
        num_helpful = helps.sum(-1)
        log_explored = jnp.where(helps, -jnp.log(jnp.maximum(num_helpful, 1))[:, None], _IMPOSSIBLE)
        log_joint = jnp.logaddexp(
            (log_own + nn.log_sigmoid(self.presence_logit))[:, None] + self.log_probs,
            log_share[:, None] + log_explored,
        )
        log_absent = jnp.logaddexp(
            log_own + nn.log_sigmoid(-self.presence_logit),
            log_share + jnp.where(num_helpful > 0, _IMPOSSIBLE, 0.0),
        )
        log_present = nn.logsumexp(log_joint, axis=-1)
        return Decisions(log_present - log_absent, log_joint - log_present[:, None])

    def cross_entropy(self, worth: jax.Array) -> jax.Array:
        """Of the law that has p(one more, k) / p(none) = exp(worth) / K, nats, `[B]`.

        Args:
          worth: of one more object of each identity, nats, no gradient, `[B, K]`.
        """
        worth = jax.lax.stop_gradient(worth) - jnp.log(float(worth.shape[-1]))
        target = nn.softmax(jnp.pad(worth, ((0, 0), (1, 0))))
        present = nn.log_sigmoid(self.presence_logit)[:, None] + self.log_probs
        absent = nn.log_sigmoid(-self.presence_logit)[:, None]
        return -(target * jnp.concatenate([absent, present], axis=-1)).sum(-1)

    def sample_what(self, uniform: jax.Array) -> jax.Array:
        """An identity from uniform noise `[B]`, int32 `[B]`."""
        below = jnp.cumsum(jnp.exp(self.log_probs), axis=-1)[:, :-1] <= uniform[:, None]
        return below.sum(-1).astype(jnp.int32)
