"""Passes that must end early: a limit on the objects of an example, drawn anew in training.

Where a further object can mend what the first ones have missed, the first ones have little reason
to get better: DAIR's first window, between two digits, costs no more than the price of a third
object. With N drawn from 1 to N for every example, what is trained is the mean of the bounds of
networks with 1, 2, ... N steps and the same parameters, and each prefix of a pass has to be worth
as much as it can. The network never knows the limit, and evaluation has none. Not in the paper;
WORKSPACE.md has what it brings.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from air_jax.distributions import UnaryCode
from air_jax.models.air import Noise, Trace

# The most objects of a pass: N, or 1 to N with equal chances.
LIMITS = ("none", "uniform")
# Far from the numbers that samples are folded in by.
_FOLD = 2**31 - 1


def draw(keys: jax.Array, num_steps: int) -> jax.Array:
    """The most objects that each example may have, 1 to N with equal chances, int32 `[B]`.

    Args:
      keys: one per example, `[B]`; the limit does not depend on the noise that is drawn from them.
      num_steps: N.
    """

    def draw_one(key):
        return jax.random.randint(jax.random.fold_in(key, _FOLD), (), 1, num_steps + 1)

    return jax.vmap(draw_one)(keys)


def stop_at(noise: Noise, limit: jax.Array) -> Noise:
    """Noise with which `z_pres` is 0 at every step after the limit, whatever the network says.

    Args:
      noise: leaves `[(K,) B, ...]`.
      limit: the most objects of each example, 1 to N, `[B]`.
    """
    closed = jnp.arange(noise.pres.shape[-1]) >= limit[:, None]
    return noise._replace(pres=jnp.where(closed, 1.0, noise.pres))


def read(noise: Noise) -> jax.Array:
    """The limit that `stop_at` has put into the noise, int32 `[B]`."""
    limit = (noise.pres < 1.0).sum(-1)
    return limit if limit.ndim == 1 else limit[0]


def limited(trace: Trace, prior: UnaryCode, limit: jax.Array) -> tuple[Trace, UnaryCode]:
    """A pass and its prior as those of a network that has fewer steps.

    Args:
      trace: one pass or K, with no more objects than the limit, or one that scored every count.
      prior: p(z_pres), logits `[N]`.
      limit: the most objects of each example, `[B]` or a number.

    Returns:
      The trace with q(z_pres | n <= limit) and p(z_pres | n <= limit), logits `[..., N]`.
    """
    logits = trace.posterior.limited(limit).logits
    return trace._replace(presence_logit=logits), prior.limited(limit)


def mean_over_limits(
    loss: Callable[[Trace, UnaryCode], jax.Array], trace: Trace, prior: UnaryCode
) -> jax.Array:
    """The mean of a loss over the limits 1 to N, `[B]`: what `draw` would give on average.

    Args:
      loss: of a pass that scored every count, and the prior.
      trace: such a pass.
      prior: p(z_pres), logits `[N]`.
    """
    num_steps = trace.z_pres.shape[-1]
    values = [loss(*limited(trace, prior, jnp.asarray(n))) for n in range(1, num_steps + 1)]
    return jnp.stack(values).mean(0)
