"""What is subtracted from the signal of a score function so that its gradient varies less.

Since E_q[grad log q(z_pres_i | ...)] = 0, whatever does not depend on the decision of step i may be
subtracted from its signal without a bias: here moving means, which come from earlier batches, and
means over the other samples of the same image.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

CENTRINGS = ("none", "moving_mean", "leave_one_out")


class Moments(NamedTuple):
    """Moments of each step's signal, averages over a batch or over earlier steps, `[..., N]`.

    Attributes:
      weight: share of examples that reached the step.
      first: mean of reached * signal, nats.
      second: mean of reached * signal^2, nats^2.
    """

    weight: jax.Array
    first: jax.Array
    second: jax.Array

    def standardisation(self) -> tuple[jax.Array, jax.Array]:
        """Mean and standard deviation (at least 1 nat) of the signal, `[..., N]` each."""
        weight = jnp.where(self.weight > 0, self.weight, 1.0)
        mean = self.first / weight
        variance = self.second / weight - jnp.square(mean)
        return mean, jnp.sqrt(jnp.maximum(variance, 1.0))

    def root_mean_square(self) -> jax.Array:
        """Size of the signal that is not centred (at least 1 nat), `[..., N]`."""
        weight = jnp.where(self.weight > 0, self.weight, 1.0)
        return jnp.sqrt(jnp.maximum(self.second / weight, 1.0))


def initial_moments(num_steps: int) -> Moments:
    """Moments before the first step: nothing reached, `[N]` each."""
    return Moments(*(jnp.zeros((num_steps,)) for _ in Moments._fields))


def observe(signal: jax.Array, mask: jax.Array) -> Moments:
    """The terms that a batch adds to the moments, of the shape of `signal`.

    Args:
      signal: nats, `[..., N]`, without a gradient.
      mask: 1 where a step was reached, `[..., N]`.
    """
    return Moments(mask, mask * signal, mask * jnp.square(signal))


def leave_one_out(values: jax.Array) -> jax.Array:
    """Mean over the other samples, `[K, ...]`: constant for what each sample decides.

    Kool et al. (2019), Eq. 8, for the arithmetic mean; of log-weights it is the logarithm of the
    geometric mean that VIMCO takes.

    Args:
      values: one per sample, `[K, ...]`.

    Raises:
      ValueError: if there is only one sample.
    """
    num_samples = values.shape[0]
    if num_samples < 2:
        raise ValueError(
            f"{num_samples} sample has no others to average over; K must be at least 2."
        )
    # Selected, not subtracted from the sum: nats of very different size would leave round-off.
    others = 1.0 - jnp.eye(num_samples, dtype=values.dtype)
    return jnp.tensordot(others, values, axes=1, precision="highest") / (num_samples - 1)


def centre(signal: jax.Array, mask: jax.Array, *, centring: str, moments: Moments) -> jax.Array:
    """The signal less a control variate, 0 at masked steps, `[(K,) B, N]`.

    Args:
      signal: downstream signal of each step, nats, `[(K,) B, N]`, without a gradient; for
        "leave_one_out" meant at masked steps too, since the other samples average over it.
      mask: 1 where a step was reached, `[(K,) B, N]`.
      centring: "none", "moving_mean" (over the examples that reached the step in earlier batches)
        or "leave_one_out" (over the other samples of the image).
      moments: of the signal in earlier steps, `[N]`, for "moving_mean". A step never reached before
        (weight 0) has no mean yet: its signal waits, at 0, for the next batch.

    Raises:
      ValueError: if the centring is unknown, or leaves out the only sample.
      AssertionError: if there is no axis of samples to leave one out of.
    """
    if centring not in CENTRINGS:
        raise ValueError(f"centring is {centring!r}; valid names are {', '.join(CENTRINGS)}.")
    known = mask > 0
    if centring == "moving_mean":
        mean, _ = moments.standardisation()
        signal, known = signal - mean, mask * moments.weight > 0
    elif centring == "leave_one_out":
        chex.assert_rank(signal, 3)
        signal = signal - leave_one_out(signal)
    return jnp.where(known, signal, 0.0)
