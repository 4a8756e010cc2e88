"""The inference network of AIR for a renderer's scenes: identities, poses, camera (Sec. 3.2)."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import chex
import distrax
import flax.linen as nn
import jax
import jax.numpy as jnp

from air_jax.distributions import WrappedNormal
from air_jax.models import modules
from air_jax.models.air import error_canvas
from air_jax.models.decisions import Decisions
from air_jax.models.scene3d import CAMERA_SIZE, POSE_SIZE, Scene3D, create_scene3d
from air_jax.models.trace import Trace

CERTAIN = 40.0  # log-odds of an object that is always there: its probability is 1 in float32
VARIANTS = ("air", "dair")


class Noise3D(NamedTuple):
    """All randomness of one pass, and how far counts and identities are explored.

    Attributes:
      pres: uniform in [0, 1), `[B, N]`.
      what: likewise, of the identities.
      where: standard normal, `[B, N, 3]`.
      camera: standard normal, `[B, 2]`.
      exploration: share of the exploring law in that of z_pres and z_what, in [0, 1], `[B]`.
    """

    pres: jax.Array
    what: jax.Array
    where: jax.Array
    camera: jax.Array
    exploration: jax.Array


class Given(NamedTuple):
    """Objects that the first steps find, whatever the network would find.

    Attributes:
      counts: how many of them, int32 `[B]`.
      z_what: identities, int32 `[B, N]`; neither these nor the next matter beyond `counts`.
      z_where: `(x, y, yaw)` on the table, units of length and radians, `[B, N, 3]`.
    """

    counts: jax.Array
    z_what: jax.Array
    z_where: jax.Array


class AIR3D(nn.Module):
    """AIR and DAIR whose decoder is a renderer.

    Each step decides whether there is one more object, then which one it is, then where it is:
    q(z_pres_i | h_i) q(z_what_i | h_i) q(z_where_i | z_what_i, h_i). The camera comes first, from
    the image alone. There is no attention window; the paper's text has none for 3-D scenes either.

    AIR, `h_i = R(x, z_{i-1}, h_{i-1})`, sees the image less the empty table at every step. DAIR,
    `h_i = R(x - x_i, h_{i-1})`, sees the image less a rendering of the objects found before. Unlike
    in 2-D no gradient flows through what is fed back: by finite differences it would be as many
    renderings again for every step.

    Early in training counts and identities are explored, see `train3d.create_exploration`.
    Then every step renders the scene with one more object of every identity, K renderings, and what
    it decides depends on the poses that all of them would have.

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
      variant: "air" or "dair".
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
    variant: str = "air"

    def setup(self):
        if self.variant not in VARIANTS:
            raise ValueError(
                f"variant is {self.variant!r}; valid names are {', '.join(map(repr, VARIANTS))}."
            )
        modules.check_positive(
            "inference",
            hidden_size=self.hidden_size,
            embedding_size=self.embedding_size,
            predictor_hidden=self.predictor_hidden,
            patch_features=self.patch_features,
            yaw_scale=self.yaw_scale,
        )
        if self.patch_size < 0:
            raise ValueError(
                f"inference.patch_size is {self.patch_size}; it is the patches' side in pixels, or "
                "0 for the pixels themselves."
            )
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
        given: Given | None = None,
    ) -> Trace:
        """Infers the scenes of a batch of images.

        Args:
          images: float32 `[B, H, W, 3]` in [0, 1].
          noise: see `sample_noise` and `mean_noise`.
          every_count: not to be had: each further n would be another rendering.
          z_what: identities to take instead of sampling them, int32 `[B, N]`.
          mode: whether to take the likeliest identities instead of sampling them.
          given: objects that the first steps find, whatever `z_what` and the network say; for
            those, `kl_where` and `log_ratio_where` are of the network's own pose.

        Returns:
          The trace, of the sampled n. Glimpses and windows are there only in name.
        """
        if every_count:
            raise ValueError("a renderer's scenes are rendered at the sampled count alone.")
        batch_size = images.shape[0]
        chex.assert_rank(images, 4)
        chex.assert_shape(noise.pres, (batch_size, self.num_steps))
        if given is not None:
            chex.assert_shape(given.counts, (batch_size,))
            chex.assert_shape(given.z_what, (batch_size, self.num_steps))
            chex.assert_shape(given.z_where, (batch_size, self.num_steps, POSE_SIZE))
        error = images - self.scene.empty
        projected = self.projection(error)
        camera, of_scene = self._camera(projected, noise.camera)
        carry = self.cell.initial_carry(batch_size)

        found: list[tuple[jax.Array, jax.Array, jax.Array]] = []
        latents = [jnp.zeros((batch_size, self.scene.num_identities)), jnp.zeros((batch_size, 4))]
        z_pres, steps = jnp.ones((batch_size,)), []
        for i in range(self.num_steps):
            so_far = self._draw(found, camera)
            error = error_canvas(so_far, images)
            log_p_x_before = self.scene.log_likelihood(images, so_far)
            if self.variant == "dair":
                projected, latents = self.projection(error), []
            carry = self.cell(carry, projected, [*latents, camera])
            hidden = carry[1]
            # q(z_where_i | z_what_i, h_i), of every z_what_i.
            seen, of_where = self._where(hidden, noise.where[:, i])
            # q(z_pres_i | h_i) and q(z_what_i | h_i)
            decisions = self._decisions(hidden)
            guidance = jnp.zeros((batch_size,))
            if self.fixed_count:
                decisions = decisions.explore(noise.exploration, jnp.ones_like(seen[..., 0], bool))
            else:
                gain = self._gain(images, log_p_x_before, found, z_pres, seen, camera, noise)
                guidance = decisions.cross_entropy(gain - of_where["kl_where"])
                guidance *= noise.exploration * z_pres
                decisions = decisions.explore(noise.exploration, gain > 0)
            if z_what is not None:
                what = z_what[:, i]
            elif mode:
                what = decisions.log_probs.argmax(-1).astype(jnp.int32)
            else:
                what = decisions.sample_what(noise.what[:, i])
            if given is not None:
                is_given = i < given.counts
                what = jnp.where(is_given, given.z_what[:, i], what)
            of_identity = functools.partial(_of, identity=what)
            seen, of_where = jax.tree.map(of_identity, (seen, of_where))
            z_pres = z_pres * (noise.pres[:, i] < nn.sigmoid(decisions.presence_logit))
            if given is not None:
                z_pres = jnp.where(is_given, 1.0, z_pres)
                given_pose = self.scene.from_world(given.z_where[:, i], camera)
                seen = jnp.where(is_given[:, None], given_pose, seen)
            where = self.scene.to_world(seen, camera)
            found.append((what, z_pres, where))
            latents = [jax.nn.one_hot(what, self.scene.num_identities), _features(seen)]
            steps.append(
                {
                    "z_pres": z_pres,
                    "presence_logit": decisions.presence_logit,
                    "z_what": what,
                    "log_q_what": of_identity(decisions.log_probs),
                    "what_log_probs": decisions.log_probs,
                    "z_where": where,
                    "errors": error,
                    "log_p_x_before": log_p_x_before,
                    "guidance": guidance,
                    **of_where,
                }
            )

        stacked = {name: jnp.stack([step[name] for step in steps], axis=1) for name in steps[0]}
        canvas = self.scene.render(stacked["z_what"], stacked["z_pres"], stacked["z_where"], camera)
        shape = (batch_size, self.num_steps)
        nothing = jnp.zeros((*shape, 0, 0, 0))
        return Trace(
            log_p_what=jnp.full(shape, -jnp.log(float(self.scene.num_identities))),
            kl_what=jnp.zeros(shape),
            log_ratio_what=jnp.zeros(shape),
            log_p_x=self.scene.log_likelihood(images, canvas)[:, None],
            canvases=canvas[:, None],
            glimpses=nothing,
            windows=nothing,
            objects=nothing,
            **stacked,
            **of_scene,
        )

    def _draw(self, found, camera):
        """The scene with objects found so far, no gradient, `[B, H, W, 3]`."""
        if not found and self.scene.camera_is_known:
            return jnp.broadcast_to(self.scene.empty, (len(camera), *self.scene.empty.shape))
        if not found:
            nothing = jnp.zeros((len(camera), 1))
            found = [(nothing[:, 0], nothing[:, 0], jnp.zeros((len(camera), POSE_SIZE)))]
        what, presence, where = (jnp.stack(values, axis=1) for values in zip(*found, strict=True))
        return self.scene.draw(*jax.lax.stop_gradient((what, presence, where, camera)))

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

    def _decisions(self, hidden):
        logit = jnp.full((len(hidden),), CERTAIN)
        if not self.fixed_count:
            logit = self.predict_pres(hidden)[:, 0]
        return Decisions(logit, nn.log_softmax(self.predict_what(hidden)))

    def _gain(self, images, log_p_x_before, found, z_pres, seen, camera, noise):
        """What one more object of each identity adds to log p(x), no gradient, `[B, K]`.

        Zeros where nothing is explored. That saves the renderings but under vmap, over seeds or
        samples, where JAX computes both branches.
        """
        size, num = seen.shape[:2]

        def each(leaf):
            return jnp.repeat(leaf, num, axis=0)

        def rendered():
            cameras = each(camera)
            where = self.scene.to_world(seen.reshape(size * num, POSE_SIZE), cameras)
            one_more = (jnp.tile(jnp.arange(num), size), each(z_pres), where)
            canvas = self._draw([*(tuple(map(each, one)) for one in found), one_more], cameras)
            log_p_x = self.scene.log_likelihood(each(images), canvas).reshape(size, num)
            return log_p_x - log_p_x_before[:, None]

        gain = jax.lax.cond(noise.exploration.any(), rendered, lambda: jnp.zeros((size, num)))
        return jax.lax.stop_gradient(gain)

    def _where(self, hidden, noise):
        """x, y and yaw as the camera sees them and what they cost, of every identity: `[B, K]`."""
        num = self.scene.num_identities
        identity = jnp.broadcast_to(jnp.eye(num), (len(hidden), num, num))
        hidden, noise = (
            jnp.broadcast_to(part[:, None], (len(part), num, part.shape[-1]))
            for part in (hidden, noise)
        )
        net = self.predict_where(jnp.concatenate([hidden, identity], axis=-1))
        prior = self.scene.prior_position()
        q_place = distrax.MultivariateNormalDiag(
            prior.loc + net[..., :2], prior.scale_diag * (nn.softplus(net[..., 2:4]) + 1e-4)
        )
        latent = q_place.loc + q_place.scale_diag * noise[..., :2]
        # softplus(0) is log 2.
        yaw_scale = nn.softplus(net[..., 4]) / jnp.log(2.0) * self.yaw_scale + 1e-3
        # Away from the middle, where a direction has no derivative.
        q_yaw = WrappedNormal(jnp.arctan2(net[..., 6], net[..., 5] + 0.1), yaw_scale)
        yaw = q_yaw.loc + q_yaw.scale * noise[..., 2]
        # Of u, not of the place: the change of variables is the same for both.
        log_q = q_place.log_prob(latent) + q_yaw.log_prob(yaw)
        log_p = prior.log_prob(latent) - jnp.log(2 * jnp.pi)
        where = jnp.concatenate([self.scene.place(latent), yaw[..., None]], axis=-1)
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


def apply(air: AIR3D, params: Any, images: jax.Array, noise: Noise3D, **options: Any) -> Trace:
    """A pass of the network, see `AIR3D.__call__`."""
    trace = air.apply({"params": params}, images, noise, **options)
    assert isinstance(trace, Trace)  # flax's apply is untyped
    return trace


def _of(values: jax.Array, identity: jax.Array) -> jax.Array:
    """Of `[B, K, ...]` what belongs to the identities `[B]`."""
    return jax.vmap(lambda row, k: row[k])(values, identity)


def _features(where: jax.Array) -> jax.Array:
    """x, y and the yaw as a direction, `[B, 4]`."""
    return jnp.concatenate([where[:, :2], jnp.cos(where[:, 2:]), jnp.sin(where[:, 2:])], axis=-1)


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
    air = AIR3D(scene=model, **modules.hashable(inference))
    modules.check_num_steps(air.num_steps)  # here, because the noise of a pass has this size too
    return air
