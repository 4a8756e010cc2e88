"""The inference network of AIR for a renderer's scenes: identities, poses, camera (Sec. 3.2)."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import chex
import distrax
import flax.linen as nn
import jax
import jax.numpy as jnp

from air_jax.distributions import UnaryCode, WrappedNormal
from air_jax.models import modules
from air_jax.models.scene3d import CAMERA_SIZE, POSE_SIZE, Scene3D, create_scene3d
from air_jax.models.trace import Trace

# Log-odds of an object that is always there: its probability is 1 in float32.
_CERTAIN = 40.0


class Noise3D(NamedTuple):
    """All randomness of one pass, and how far identities are left to it.

    Attributes:
      pres: uniform in [0, 1), `[B, N]`.
      what: likewise, of the identities.
      where: standard normal, `[B, N, 3]`.
      camera: standard normal, `[B, 2]`.
      exploration: share of the uniform law in q(z_what), in [0, 1], `[B]`.
    """

    pres: jax.Array
    what: jax.Array
    where: jax.Array
    camera: jax.Array
    exploration: jax.Array


class AIR3D(nn.Module):
    """AIR, `h_i = R(x, z_{i-1}, h_{i-1})`, whose decoder is a renderer.

    Each step decides whether there is one more object, then which one it is, then where it is:
    q(z_pres_i | h_i) q(z_what_i | h_i) q(z_where_i | z_what_i, h_i). The camera comes first, from
    the image alone. There is no attention window; the paper's text has none for 3-D scenes either.

    The network sees the image less the empty table.

    Attributes:
      scene: the scene model.
      num_steps: N.
      fixed_count: whether all N objects are known to be there.
      hidden_size: width of the LSTM.
      embedding_size: width of the embedding of the image.
      predictor_hidden: hidden widths of what decides.
      patch_size: of the embedding, see `modules.ImageProjection`.
      patch_features: of the embedding.
      presence_logit: initial log-odds of one more object.
      yaw_scale: initial standard deviation of q(yaw), radians.
    """

    scene: Scene3D
    num_steps: int
    fixed_count: bool
    hidden_size: int
    embedding_size: int
    predictor_hidden: Sequence[int]
    patch_size: int
    patch_features: int
    presence_logit: float
    yaw_scale: float

    def setup(self):
        self.projection = modules.ImageProjection(
            self.hidden_size, self.embedding_size, 1 / 16, self.patch_size, self.patch_features
        )
        self.cell = modules.LSTMCell(self.hidden_size)
        self.predict_pres = modules.MLP(self.predictor_hidden, 1, bias=self.presence_logit)
        self.predict_what = modules.MLP(self.predictor_hidden, self.scene.num_identities)
        # Means of x and y, direction of the yaw; then their deviations.
        self.predict_where = modules.MLP(self.predictor_hidden, 7)
        if not self.scene.camera_is_known:
            self.predict_camera = modules.MLP(self.predictor_hidden, 2 * CAMERA_SIZE)

    def __call__(
        self,
        images: jax.Array,
        noise: Noise3D,
        *,
        every_count: bool = False,
        z_what: jax.Array | None = None,
        mode: bool = False,
    ) -> Trace:
        """Infers the scenes of a batch of images.

        Args:
          images: float32 `[B, H, W, 3]` in [0, 1].
          noise: see `sample_noise` and `mean_noise`.
          every_count: not to be had: each further n would be another rendering.
          z_what: identities to take instead of sampling them, int32 `[B, N]`.
          mode: whether to take the likeliest identities instead of sampling them.

        Returns:
          The trace, of the sampled n. Glimpses and windows are there only in name.
        """
        if every_count:
            raise ValueError("a renderer's scenes are rendered at the sampled count alone.")
        batch_size = images.shape[0]
        chex.assert_rank(images, 4)
        chex.assert_shape(noise.pres, (batch_size, self.num_steps))
        error = images - self.scene.empty
        projected = self.projection(error)
        carry = self.cell.initial_carry(batch_size)
        camera, of_scene = self._camera(projected, noise.camera)

        latents = [jnp.zeros((batch_size, self.scene.num_identities)), jnp.zeros((batch_size, 4))]
        z_pres, steps = jnp.ones((batch_size,)), []
        for i in range(self.num_steps):
            carry = self.cell(carry, projected, [*latents, camera])
            hidden = carry[1]
            # q(z_pres_i | h_i)
            logit = jnp.full((batch_size,), _CERTAIN)
            if not self.fixed_count:
                logit = self.predict_pres(hidden)[:, 0]
            z_pres = z_pres * (noise.pres[:, i] < nn.sigmoid(logit))
            # q(z_what_i | h_i)
            log_probs = _explore(self.predict_what(hidden), noise.exploration)
            if z_what is not None:
                what = z_what[:, i]
            else:
                what = log_probs.argmax(-1) if mode else _choose(log_probs, noise.what[:, i])
            identity = jax.nn.one_hot(what, self.scene.num_identities)
            # q(z_where_i | z_what_i, h_i)
            where, of_where = self._where(hidden, identity, noise.where[:, i])
            latents = [identity, _features(where)]
            steps.append(
                {
                    "z_pres": z_pres,
                    "presence_logit": logit,
                    "z_what": what,
                    "log_probs": log_probs,
                    "log_q_what": (log_probs * identity).sum(-1),
                    "z_where": where,
                    **of_where,
                }
            )

        stacked = {name: jnp.stack([step[name] for step in steps], axis=1) for name in steps[0]}
        what_log_probs = stacked.pop("log_probs")
        canvas = self.scene.render(stacked["z_what"], stacked["z_pres"], stacked["z_where"], camera)
        shape = (batch_size, self.num_steps)
        empty = self.scene.log_likelihood(images, jnp.broadcast_to(self.scene.empty, images.shape))
        nothing = jnp.zeros((*shape, 0, 0, 0))
        return Trace(
            log_p_what=jnp.full(shape, -jnp.log(float(self.scene.num_identities))),
            what_log_probs=what_log_probs,
            kl_what=jnp.zeros(shape),
            log_ratio_what=jnp.zeros(shape),
            log_p_x=self.scene.log_likelihood(images, canvas)[:, None],
            log_p_x_before=jnp.broadcast_to(empty[:, None], shape),
            errors=jnp.broadcast_to(error[:, None], (*shape, *error.shape[1:])),
            canvases=canvas[:, None],
            glimpses=nothing,
            windows=nothing,
            objects=nothing,
            **stacked,
            **of_scene,
        )

    def _camera(self, projected, noise):
        """The camera, and what it costs."""
        batch_size = noise.shape[0]
        prior = self.scene.prior_camera()
        if self.scene.camera_is_known:
            camera = jnp.broadcast_to(prior.loc, (batch_size, CAMERA_SIZE))
            return camera, {"z_scene": camera[:, :0]}
        loc, scale = jnp.split(self.predict_camera(nn.relu(projected)), 2, axis=-1)
        posterior = distrax.MultivariateNormalDiag(
            prior.loc + prior.scale_diag * loc, prior.scale_diag * (nn.softplus(scale) + 1e-4)
        )
        camera = posterior.loc + posterior.scale_diag * noise
        return camera, {
            "z_scene": camera,
            "kl_scene": posterior.kl_divergence(prior),
            "log_ratio_scene": prior.log_prob(camera) - posterior.log_prob(camera),
        }

    def _where(self, hidden, identity, noise):
        """x, y and yaw, and what they cost."""
        net = self.predict_where(jnp.concatenate([hidden, identity], axis=-1))
        prior = self.scene.prior_position()
        q_place = distrax.MultivariateNormalDiag(
            prior.loc + net[:, :2], prior.scale_diag * (nn.softplus(net[:, 2:4]) + 1e-4)
        )
        latent = q_place.loc + q_place.scale_diag * noise[:, :2]
        # softplus(0) is log 2.
        yaw_scale = nn.softplus(net[:, 4]) / jnp.log(2.0) * self.yaw_scale + 1e-3
        # Away from the middle, where a direction has no derivative.
        q_yaw = WrappedNormal(jnp.arctan2(net[:, 6], net[:, 5] + 0.1), yaw_scale)
        yaw = q_yaw.loc + q_yaw.scale * noise[:, 2]
        # Of u, not of the place: the change of variables is the same for both.
        log_q = q_place.log_prob(latent) + q_yaw.log_prob(yaw)
        log_p = prior.log_prob(latent) - jnp.log(2 * jnp.pi)
        where = jnp.concatenate([self.scene.place(latent), yaw[:, None]], axis=-1)
        return where, {
            "kl_where": q_place.kl_divergence(prior) + q_yaw.kl_from_uniform(),
            "log_ratio_where": log_p - log_q,
        }

    def sample_noise(self, keys: jax.Array) -> Noise3D:
        """Draws the noise of a batch, example by example; one key each, `[B]`."""

        def draw(key):
            key_pres, key_what, key_where, key_camera = jax.random.split(key, 4)
            return Noise3D(
                jax.random.uniform(key_pres, (self.num_steps,)),
                jax.random.uniform(key_what, (self.num_steps,)),
                jax.random.normal(key_where, (self.num_steps, POSE_SIZE)),
                jax.random.normal(key_camera, (CAMERA_SIZE,)),
                jnp.zeros(()),
            )

        return jax.vmap(draw)(keys)

    def mean_noise(self, batch_size: int) -> Noise3D:
        """Noise that puts poses and camera at their posterior means and z_pres at its mode."""
        shape = (batch_size, self.num_steps)
        half = jnp.full(shape, 0.5)
        where, camera = jnp.zeros((*shape, POSE_SIZE)), jnp.zeros((batch_size, CAMERA_SIZE))
        return Noise3D(half, half, where, camera, jnp.zeros((batch_size,)))


def _explore(logits: jax.Array, share: jax.Array) -> jax.Array:
    """Log-probabilities of a categorical law mixed with a share of the uniform one, `[B, K]`."""
    log_probs = nn.log_softmax(logits)
    share = share[:, None]
    log_uniform = jnp.log(jnp.maximum(share, 1e-30)) - jnp.log(float(logits.shape[-1]))
    log_others = log_probs + jnp.log(jnp.maximum(1 - share, 1e-30))
    return jnp.logaddexp(log_others, log_uniform)


def _choose(log_probs: jax.Array, uniform: jax.Array) -> jax.Array:
    """A sample of a categorical law from uniform noise, int32 `[B]`."""
    below = jnp.cumsum(jnp.exp(log_probs), axis=-1)[:, :-1] <= uniform[:, None]
    return below.sum(-1).astype(jnp.int32)


def _features(where: jax.Array) -> jax.Array:
    """x, y and the yaw as a direction, `[B, 4]`."""
    yaw = where[:, 2:]
    return jnp.concatenate([where[:, :2], jnp.cos(yaw), jnp.sin(yaw)], axis=-1)


def create_air3d(
    *, scene: Mapping[str, Any], inference: Mapping[str, Any], image_size: int, channels: int
) -> AIR3D:
    """Builds the network and its scene model from their config sections.

    Args:
      scene: keyword arguments of `Scene3D` but the next two.
      inference: keyword arguments of `AIR3D`.
      image_size: side of the images in pixels.
      channels: C.

    Raises:
      TypeError: if a section has an unknown key or lacks one.
      ValueError: if a value is not one that there is.
    """
    model = create_scene3d(scene, image_size=image_size, channels=channels)
    return AIR3D(scene=model, **modules.hashable(inference))


def prior_over_counts(air: AIR3D, prior: UnaryCode) -> UnaryCode:
    """p(z_pres): the config's, or that of N objects where all of them are known to be there."""
    if not air.fixed_count:
        return prior
    return UnaryCode(jnp.full((air.num_steps,), _CERTAIN))
