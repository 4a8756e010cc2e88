"""The 2-D scene model p(x, z): learned objects, scaled, shifted, composed (AIR, Fig. 2, left)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import chex
import distrax
import flax.linen as nn
import jax
import jax.numpy as jnp

from air_jax import distributions
from air_jax.models import modules, spatial_transformer

# exp(+-4): scales far beyond any that a prior supports, and finite. Only a diverging network gets
# there, where its gradient ends.
_MAX_LOG_SCALE = 4.0


class Sampled(NamedTuple):
    """Scenes drawn from p(x, z), with the latents that they are drawn from.

    Attributes:
      images: `[B, H, W, C]`.
      z_where: `(s, t_x, t_y)`, `[B, N, 3]`; those beyond a scene's count were not drawn.
      z_what: `[B, N, D]`, likewise.
    """

    images: jax.Array
    z_where: jax.Array
    z_what: jax.Array


class Scene2D(nn.Module):
    """Scenes of at most N objects on a black canvas.

    The pose latent is `(log s, t_x, t_y)`, Gaussian under the prior, so that s is positive by
    construction; the paper gives `z_where ~ N(0, Sigma)` without a parameterisation. KL divergences
    are those of the Gaussians: they do not change under the exponential.

    Objects compose in one of two ways. "additive" is the paper's sum: where objects overlap, an
    image is only explained if one of them leaves a hole for the other. In "layered" an object has
    an opacity, and each object lies behind those before it: `canvas + (1 - opacity) object`. What
    is in front comes first, so that every partial canvas is final where it has objects, its error
    is what is still to be seen of the others, and an object may be whole where it is hidden. A
    layered canvas and a placed object have one more channel, the opacity; colours are premultiplied
    by it.

    Attributes:
      image_size: side of the image in pixels.
      channels: C.
      window_size: side of the window in its own pixels.
      z_what_size: D.
      decoder_hidden: widths of the decoder's hidden layers.
      decoder_bias: initial output logit of the decoder. A first canvas full of grey teaches the
        model to use no object at all.
      scale_prior: mean and standard deviation of s (image side / window side). It must fit the
        objects: 20 pixels of ink in 50 pixels of image want a window of about 23, s = 2.2.
      shift_prior: mean and standard deviation of t_x and t_y.
      likelihood_scale: standard deviation of p(x | z), in pixel values.
      composition: "additive" or "layered".
    """

    image_size: int
    channels: int
    window_size: int
    z_what_size: int
    decoder_hidden: Sequence[int]
    decoder_bias: float
    scale_prior: tuple[float, float]
    shift_prior: tuple[float, float]
    likelihood_scale: float
    composition: str = "additive"  # models that were exported without it are

    pose_size = 3

    def setup(self):
        if self.composition not in ("additive", "layered"):
            raise ValueError(
                f"composition is {self.composition!r}; valid names are 'additive', 'layered'."
            )
        if self.likelihood_scale <= 0 or min(*self.scale_prior, self.shift_prior[1]) <= 0:
            raise ValueError(
                f"likelihood_scale {self.likelihood_scale}, scale_prior {self.scale_prior} and the "
                f"deviation of shift_prior {self.shift_prior} must all be positive."
            )
        modules.check_positive(
            "scene",
            window_size=self.window_size,
            decoder_hidden=self.decoder_hidden,
        )
        if self.window_size > self.image_size:
            raise ValueError(
                f"scene.window_size is {self.window_size}, and the images' side {self.image_size} "
                "pixels: a window has no more pixels than the image that it is cut from. Choose a "
                "smaller window_size or a larger data.image_size."
            )
        self.decoder = modules.Decoder(
            self.decoder_hidden, self.window_size, self.canvas_channels, self.decoder_bias
        )

    @property
    def canvas_channels(self) -> int:
        """C, and one more for the opacity of what is layered."""
        return self.channels + (self.composition == "layered")

    def prior_pose(self) -> distrax.MultivariateNormalDiag:
        """p of the pose latent `(log s, t_x, t_y)`, event shape `(3,)`.

        log s has the moments that give s the mean and deviation of `scale_prior`.
        """
        mean, deviation = self.scale_prior
        variance = math.log1p((deviation / mean) ** 2)
        loc = jnp.array([math.log(mean) - variance / 2, self.shift_prior[0], self.shift_prior[0]])
        scale = jnp.array([math.sqrt(variance), self.shift_prior[1], self.shift_prior[1]])
        return distrax.MultivariateNormalDiag(loc, scale)

    def prior_what(self) -> distrax.MultivariateNormalDiag:
        """p(z_what) = N(0, 1), event shape `(D,)`."""
        return distrax.MultivariateNormalDiag(
            jnp.zeros(self.z_what_size), jnp.ones(self.z_what_size)
        )

    def with_place(self, pose: jax.Array, place: jax.Array) -> jax.Array:
        """The pose latents `[..., 3]` with other centres `(t_x, t_y)`, `[..., 2]`."""
        return jnp.concatenate([pose[..., :1], place], axis=-1)

    def pose_to_where(self, pose: jax.Array) -> jax.Array:
        """`(log s, t_x, t_y)` to `z_where = (s, t_x, t_y)`, `[..., 3]`."""
        log_scale = jnp.clip(pose[..., :1], -_MAX_LOG_SCALE, _MAX_LOG_SCALE)
        return jnp.concatenate([jnp.exp(log_scale), pose[..., 1:]], axis=-1)

    def render_object(self, z_where: jax.Array, z_what: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Draws one object.

        Args:
          z_where: `[B, 3]`.
          z_what: `[B, D]`.

        Returns:
          The object in its own window, `[B, window_size, window_size, C']` (y_att), and placed in
          an empty canvas, `[B, H, W, C']` (y), with C' `canvas_channels`.
        """
        window = self.decoder(z_what)
        if self.composition == "layered":
            opacity = window[..., self.channels :]
            window = jnp.concatenate([window[..., : self.channels] * opacity, opacity], axis=-1)
        return window, spatial_transformer.place(window, z_where, image_size=self.image_size)

    def empty_canvas(self, batch_size: int) -> jax.Array:
        """The canvas before the first object, `[batch_size, H, W, C']`."""
        return jnp.zeros((batch_size, self.image_size, self.image_size, self.canvas_channels))

    def compose(self, canvas: jax.Array, placed: jax.Array, present: jax.Array) -> jax.Array:
        """Adds one object to the canvas where it is present: the paper's sum, or behind the others.

        Args:
          canvas: `[B, H, W, C']`.
          placed: the object in an empty canvas, `[B, H, W, C']`.
          present: 0/1, `[B]`.
        """
        if self.composition == "layered":
            placed = (1.0 - canvas[..., self.channels :]) * placed
        return canvas + present[:, None, None, None] * placed

    def colours(self, canvas: jax.Array) -> jax.Array:
        """What is to be seen of a canvas or an object: `[..., C']` to `[..., C]`."""
        return canvas[..., : self.channels] if self.composition == "layered" else canvas

    def log_likelihood(self, images: jax.Array, canvas: jax.Array) -> jax.Array:
        """log p(x | z) = log N(x; canvas, likelihood_scale), nats, summed over pixels.

        Args:
          images: `[..., H, W, C]`.
          canvas: its `colours`, the same shape.

        Returns:
          `[...]`.
        """
        return distributions.image_log_prob(images, canvas, scale=self.likelihood_scale)

    def sample(self, key: chex.PRNGKey, counts: jax.Array, num_steps: int) -> Sampled:
        """Draws scenes from the model, without the likelihood's noise.

        Args:
          key: PRNG key.
          counts: number of objects of each scene, int32 `[B]`, at most `num_steps`.
          num_steps: N.
        """
        key_pose, key_what = jax.random.split(key)
        shape = (counts.shape[0], num_steps)
        z_where = self.pose_to_where(self.prior_pose().sample(seed=key_pose, sample_shape=shape))
        z_what = self.prior_what().sample(seed=key_what, sample_shape=shape)
        return Sampled(self.draw(z_where, z_what, counts), z_where, z_what)

    def draw(self, z_where: jax.Array, z_what: jax.Array, counts: jax.Array) -> jax.Array:
        """Draws scenes from latents.

        Args:
          z_where: `(s, t_x, t_y)`, `[B, N, 3]`.
          z_what: `[B, N, D]`.
          counts: of each scene its first so many objects are drawn, int32 `[B]`.

        Returns:
          Canvases, `[B, H, W, C]`.
        """
        canvas = self.empty_canvas(counts.shape[0])
        for i in range(z_where.shape[1]):
            _, placed = self.render_object(z_where[:, i], z_what[:, i])
            canvas = self.compose(canvas, placed, (i < counts).astype(canvas.dtype))
        return self.colours(canvas)
