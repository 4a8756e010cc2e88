"""Laws that distrax lacks, a count in unary code and angles, and the images' likelihood."""

import math
from collections.abc import Callable
from typing import TypeVar

import chex
import distrax
import jax
import jax.numpy as jnp
import numpy as np

_Angles = TypeVar("_Angles", np.ndarray, jax.Array)


class UnaryCode(distrax.Distribution):
    """Law of `z_pres`, n ones followed by zeros, n = 0..N (AIR, Eq. 2).

    Step i is a Bernoulli variable given that every step before it was one; after the first zero,
    and after step N, nothing more is decided, so nothing more is charged.
    """

    def __init__(self, logits: jax.Array):
        """Builds the law.

        Args:
          logits: log-odds of `z_pres_i = 1` given `z_pres_{i-1} = 1`, float32 `[..., N]`.
        """
        super().__init__()
        self._logits = jnp.asarray(logits)

    @property
    def logits(self) -> jax.Array:
        """Log-odds of one more object at each step, `[..., N]`."""
        return self._logits

    @property
    def event_shape(self) -> tuple[int, ...]:
        """`(N,)`."""
        return self._logits.shape[-1:]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of `logits` without its last axis."""
        return self._logits.shape[:-1]

    def log_prob_steps(self, value: jax.Array) -> jax.Array:
        """Log-probability of each step's decision, nats, `[..., N]`; 0 at masked steps.

        The first zero is a decision and keeps its term; later zeros are not.

        Args:
          value: unary code `[..., N]`, 0/1, once 0 then 0.
        """
        return reached(value) * jax.nn.log_sigmoid((2 * value - 1) * self._logits)

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Log-probability of a whole code, nats, `[...]`."""
        return self.log_prob_steps(value).sum(-1)

    def log_prob_counts(self) -> jax.Array:
        """Log-probability of every n = 0..N, nats, `[..., N + 1]`."""
        log_reach = jnp.cumsum(jax.nn.log_sigmoid(self._logits), axis=-1)
        log_reach = jnp.concatenate([jnp.zeros_like(log_reach[..., :1]), log_reach], axis=-1)
        log_stop = jax.nn.log_sigmoid(-self._logits)
        log_stop = jnp.concatenate([log_stop, jnp.zeros_like(log_stop[..., :1])], axis=-1)
        return log_reach + log_stop

    def from_uniform(self, uniform: jax.Array) -> jax.Array:
        """Turns uniform noise `[..., N]` in [0, 1) into a sample `[..., N]`.

        Noise of 0.5 everywhere gives the code that continues while `q(z_pres = 1) > 0.5`.
        """
        decisions = (uniform < jax.nn.sigmoid(self._logits)).astype(self._logits.dtype)
        return jnp.cumprod(decisions, axis=-1)

    def mode_count(self) -> jax.Array:
        """Number of steps before the first with `q(z_pres = 1) < 0.5`, int32 `[...]`."""
        return jnp.cumprod((self._logits >= 0).astype(jnp.int32), axis=-1).sum(-1)

    def _sample_n(self, key: chex.PRNGKey, n: int) -> jax.Array:
        return self.from_uniform(jax.random.uniform(key, (n, *self._logits.shape)))


def reached(value: jax.Array) -> jax.Array:
    """1 at the steps of a unary code that are decided, the first zero's included, `[..., N]`."""
    return jnp.concatenate([jnp.ones_like(value[..., :1]), value[..., :-1]], axis=-1)


def geometric(log_odds: jax.Array, num_steps: int) -> UnaryCode:
    """The paper's prior: `p(n) = (1 - rho) rho^n` for n < N and `p(N) = rho^N`.

    Args:
      log_odds: `log(rho / (1 - rho))`, rho = P(one more object), scalar.
      num_steps: N.
    """
    return UnaryCode(jnp.full((num_steps,), log_odds, jnp.float32))


def binomial(log_odds: jax.Array, num_steps: int) -> UnaryCode:
    """n ~ Binomial(N, rho), the paper's example below Eq. 1, as a unary code.

    Args:
      log_odds: `log(rho / (1 - rho))`, scalar.
      num_steps: N.
    """
    counts = jnp.arange(num_steps + 1)
    log_choose = -jax.scipy.special.betaln(counts + 1.0, num_steps - counts + 1.0)
    return categorical(log_choose + counts * log_odds)


def categorical(log_weights: jax.Array) -> UnaryCode:
    """Any law of n as a unary code.

    Args:
      log_weights: unnormalised log-probabilities of n = 0..N, `[N + 1]`, all finite.
    """
    # P(z_pres_i = 1 | reached i) = P(n >= i) / P(n >= i - 1); its log-odds are the tail against
    # the one count left behind.
    log_tail = jax.lax.cumlogsumexp(log_weights, axis=0, reverse=True)
    return UnaryCode(log_tail[1:] - log_weights[:-1])


def wrap_angle(angle: _Angles) -> _Angles:
    """The same angles in [-pi, pi), radians, `[*]`."""
    return (angle + math.pi) % (2 * math.pi) - math.pi


class WrappedNormal(distrax.Distribution):
    """A normal law wrapped around the circle; scalar events, radians.

    Its density is the sum of the normal's over all turns. It has what the von Mises law lacks: a
    sample is `loc + scale noise`, differentiable, and any representative of an angle will do.
    """

    # Turns on each side: enough for scales of up to half a turn.
    _TURNS = 3
    _GRID = 64
    # Below it the law is a normal one to float precision, above it the grid resolves it.
    _NARROW = 0.6

    def __init__(self, loc: jax.Array, scale: jax.Array):
        """Builds the law.

        Args:
          loc: its direction, radians, float32.
          scale: the normal's standard deviation, radians, positive.
        """
        super().__init__()
        self._loc, self._scale = jnp.asarray(loc), jnp.asarray(scale)

    @property
    def loc(self) -> jax.Array:
        """Its direction, radians."""
        return self._loc

    @property
    def scale(self) -> jax.Array:
        """The normal's standard deviation, radians."""
        return self._scale

    @property
    def event_shape(self) -> tuple[int, ...]:
        """`()`."""
        return ()

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of `loc` and `scale` together."""
        return jnp.broadcast_shapes(self._loc.shape, self._scale.shape)

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Log-density on the circle, nats, of angles in radians."""
        return self._log_density(value - self._loc, self._scale)

    def kl_from_uniform(self) -> jax.Array:
        """KL from the uniform law on the circle, nats, in closed form where the law is narrow.

        Elsewhere by a sum over a grid, which for a smooth periodic function is as exact.
        """
        narrow = self._scale < self._NARROW
        scale = jnp.where(narrow, self._scale, 1.0)
        normal_entropy = 0.5 + 0.5 * math.log(2 * math.pi) + jnp.log(scale)
        wide = jnp.where(narrow, 1.0, self._scale)[..., None]
        angles = jnp.linspace(-jnp.pi, jnp.pi, self._GRID, endpoint=False)
        log_density = self._log_density(angles, wide)
        entropy = -(jnp.exp(log_density) * log_density).sum(-1) * (2 * jnp.pi / self._GRID)
        entropy = jnp.where(narrow, normal_entropy, entropy)
        return jnp.broadcast_to(math.log(2 * math.pi) - entropy, self.batch_shape)

    def _log_density(self, offset: jax.Array, scale: jax.Array) -> jax.Array:
        turns = 2 * jnp.pi * jnp.arange(-self._TURNS, self._TURNS + 1)
        standard = (wrap_angle(offset)[..., None] + turns) / scale[..., None]
        log_terms = -0.5 * jnp.square(standard)
        constant = jnp.log(scale) + 0.5 * math.log(2 * math.pi)
        return jax.nn.logsumexp(log_terms, axis=-1) - constant

    def _sample_n(self, key: chex.PRNGKey, n: int) -> jax.Array:
        noise = jax.random.normal(key, (n, *self.batch_shape))
        return self._loc + self._scale * noise


PRIORS = ("geometric", "binomial")


def create_prior(
    *, name: str, start: float, end: float, steps: int, num_steps: int
) -> Callable[[jax.Array], UnaryCode]:
    """The prior over n as a function of the training step.

    rho goes from `start` to `end` linearly in its log-odds, then stays. Going from dear to cheap
    (a small rho first) makes every object explain tens of nats, a whole digit and never half of
    one, while the model is still forming its idea of an object.

    Args:
      name: one of `PRIORS`.
      start: rho at step 0, in (0, 1).
      end: rho from step `steps` on, in (0, 1); what evaluation uses.
      steps: length of the schedule; 0 for a constant prior.
      num_steps: N.

    Returns:
      `prior(step) -> UnaryCode` with logits `[N]`.

    Raises:
      ValueError: if the name is unknown, a rho is not in (0, 1) or `steps` is negative.
    """
    if name not in PRIORS:
        raise ValueError(f"prior is {name!r}; valid names are {', '.join(PRIORS)}.")
    for place, rho in (("start", start), ("end", end)):
        if not 0.0 < rho < 1.0:
            raise ValueError(
                f"prior.{place} is {rho}; P(one more object) lies strictly between 0 and 1."
            )
    if steps < 0:
        raise ValueError(f"prior.steps is {steps}; it must be at least 0, for no schedule.")
    first, last = (math.log(rho) - math.log1p(-rho) for rho in (start, end))
    law = geometric if name == "geometric" else binomial

    def prior(step: jax.Array) -> UnaryCode:
        progress = jnp.clip(step / steps, 0.0, 1.0) if steps else jnp.ones(())
        return law(first + (last - first) * progress, num_steps)

    return prior


def image_log_prob(images: jax.Array, means: jax.Array, *, scale: float) -> jax.Array:
    """log N(x; mean, scale), independent pixels: the likelihood that all models share.

    Args:
      images: `[..., H, W, C]`.
      means: the same shape.
      scale: standard deviation, in pixel values.

    Returns:
      Nats, summed over pixels, `[...]`.
    """
    chex.assert_equal_shape([images, means])
    squared = jnp.square((images - means) / scale)
    constant = math.log(scale) + 0.5 * math.log(2 * math.pi)
    return -0.5 * squared.sum((-3, -2, -1)) - constant * math.prod(images.shape[-3:])
