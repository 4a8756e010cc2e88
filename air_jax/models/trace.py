"""The Trace that one pass of an inference network leaves behind."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from air_jax import distributions


class Trace(NamedTuple):
    """What one pass computed: all that objectives and estimators see.

    B batch, N steps, P pose dimensions, D appearance dimensions, H W C image. Step i does not
    depend on `z_pres_i`; values of masked steps are finite and meaningless. S is N + 1 where every
    count was scored (the partial canvases n = 0..N of the path on which every object is present)
    and 1 otherwise (the canvas at the sampled n).

    Attributes:
      z_pres: unary code, 0/1, `[B, N]`.
      presence_logit: log-odds of q(z_pres_i = 1 | z_pres_{i-1} = 1, ...), `[B, N]`.
      z_where: `[B, N, P]`.
      z_what: `[B, N, D]`.
      kl_where, kl_what: KL of q from p, closed form, nats, before masking, `[B, N]`.
      log_ratio_where, log_ratio_what: log p - log q at the samples, nats, before masking, `[B, N]`.
      log_p_x: log-likelihood of the canvases, nats, `[B, S]`.
      errors: what the steps before each step left unexplained, `[B, N, H, W, C]`.
      log_p_x_before: log-likelihood of the canvas before each step, nats, `[B, N]`; no gradient.
      canvases: `[B, S, H, W, C]`.
      glimpses: what each step read, `[B, N, h, w, C]`.
      windows: what each step draws in its window, `[B, N, h, w, C]`.
      objects: the same, placed in an empty image, `[B, N, H, W, C]`.
      log_q_what, log_p_what: of a categorical z_what (which is int32 `[B, N]` then), nats, before
        masking, `[B, N]`; None where z_what is continuous.
      what_log_probs: of a categorical z_what, log q of every value, `[B, N, K]`; None likewise.
      z_scene: what the whole scene shares (a camera), `[B, G]`, G = 0 where it is known; None in
        2-D. `kl_scene` and `log_ratio_scene` are its, nats, `[B]`, None where there is nothing.
      guidance: a loss of its own for what each step decides while counts and identities are
        explored, nats, `[B, N]`; None where they never are. Its gradient is meant for what decides;
        some reaches the camera and the poses that the recurrence is fed.
    """

    z_pres: jax.Array
    presence_logit: jax.Array
    z_where: jax.Array
    z_what: jax.Array
    kl_where: jax.Array
    kl_what: jax.Array
    log_ratio_where: jax.Array
    log_ratio_what: jax.Array
    log_p_x: jax.Array
    errors: jax.Array
    log_p_x_before: jax.Array
    canvases: jax.Array
    glimpses: jax.Array
    windows: jax.Array
    objects: jax.Array
    log_q_what: jax.Array | None = None
    log_p_what: jax.Array | None = None
    what_log_probs: jax.Array | None = None
    z_scene: jax.Array | None = None
    kl_scene: jax.Array | None = None
    log_ratio_scene: jax.Array | None = None
    guidance: jax.Array | None = None

    @property
    def scores_every_count(self) -> bool:
        """Whether `log_p_x` and `canvases` hold every n = 0..N."""
        return self.log_p_x.shape[-1] == self.z_pres.shape[-1] + 1

    @property
    def posterior(self) -> distributions.UnaryCode:
        """q(z_pres | x, z_where, z_what)."""
        return distributions.UnaryCode(self.presence_logit)

    @property
    def counts(self) -> jax.Array:
        """n of the sampled `z_pres`, int32 `[B]`."""
        return self.z_pres.sum(-1).astype(jnp.int32)

    @property
    def log_ratio_identity(self) -> jax.Array | None:
        """log p - log q of a categorical z_what, nats, `[B, N]`; None where it is continuous."""
        if self.log_p_what is None or self.log_q_what is None:
            return None
        return self.log_p_what - self.log_q_what

    def log_q_decisions(self) -> jax.Array:
        """log q of what each step decides, nats, `[B, N]`: presence, and a categorical z_what."""
        log_q = self.posterior.log_prob_steps(self.z_pres)
        return log_q if self.log_q_what is None else log_q + self.z_pres * self.log_q_what

    def at_count(self, values: jax.Array) -> jax.Array:
        """Picks the sampled n from `log_p_x` or `canvases`, `[B, S, ...]`: `[B, ...]`."""
        if not self.scores_every_count:
            return values[:, 0]
        return jax.vmap(lambda row, n: row[n])(values, self.counts)
