"""DRAW (Gregor et al., 2015): an image drawn in many small strokes, which AIR is compared with.

It too attends, step after step, but has no objects: every step reads the image and what is still
missing of it through a grid of Gaussian filters, infers a latent, and adds a patch to the canvas
through another such grid (Gregor et al., Sec. 2.1 and 3.2; AIR, Sec. 3.1.1 has 40 steps). Prior
N(0, I) and, unlike Gregor et al., AIR's Gaussian likelihood, so that bounds can be compared.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import chex
import distrax
import flax.linen as nn
import jax
import jax.numpy as jnp

from air_jax import distributions
from air_jax.models import modules, spatial_transformer

# Bound of the grid's logarithms: deviations from 0.02 to 55 pixels, and factors from 1 / 3,000 to
# 3,000. Only a diverging network gets there, where its gradient ends.
_MAX_LOG = 8.0
# Likewise of the grid's centre; from -1 to 1 it is inside the image.
_MAX_CENTRE = 10.0


class Attention(NamedTuple):
    """Where a grid of filters lies in an image, in pixels, the first one's centre at 1.

    Attributes:
      centre: `(g_x, g_y)`, `[..., 2]`.
      stride: delta, between neighbouring filters, `[...]`.
      deviation: sigma of each filter, `[...]`.
      intensity: gamma, `[...]`.
    """

    centre: jax.Array
    stride: jax.Array
    deviation: jax.Array
    intensity: jax.Array


class Drawing(NamedTuple):
    """What one pass computed. B batch, T steps, D latent dimensions, H W C image.

    Attributes:
      z: latents, `[B, T, D]`.
      kl: KL of q(z_t) from the prior, closed form, nats, `[B, T]`.
      log_ratio: log p(z_t) - log q(z_t) at the samples, nats, `[B, T]`.
      canvas: the drawn image, sigmoid(c_T), `[B, H, W, C]`.
      canvases: the image after each step, sigmoid(c_t), `[B, T, H, W, C]`.
      read, write: the grids of each step, `[B, T]`.
      log_p_x: log-likelihood of the last canvas, nats, `[B]`.
    """

    z: jax.Array
    kl: jax.Array
    log_ratio: jax.Array
    canvas: jax.Array
    canvases: jax.Array
    read: Attention
    write: Attention
    log_p_x: jax.Array

    @property
    def elbo_terms(self) -> dict[str, jax.Array]:
        """The ELBO, `log_p_x - kl` (Gregor et al., Eq. 12, negative), and its terms, `[B]` each."""
        kl = self.kl.sum(-1)
        return {"elbo": self.log_p_x - kl, "log_p_x": self.log_p_x, "kl": kl}

    @property
    def log_weight(self) -> jax.Array:
        """log p(x, z) - log q(z | x) at the sample, nats, `[B]`."""
        return self.log_p_x + self.log_ratio.sum(-1)


def attention(parameters: jax.Array, *, image_size: int, grid_size: int) -> Attention:
    """A grid from what the decoder's state says of it (Gregor et al., Eq. 21 to 24).

    Args:
      parameters: `(g_x, g_y, log sigma^2, log delta, log gamma)`, of any size; for zeros the grid
        spans the image. float32 `[..., 5]`.
      image_size: side of the image in pixels.
      grid_size: N, filters along each axis, at least 2.
    """
    centre = jnp.clip(parameters[..., :2], -_MAX_CENTRE, _MAX_CENTRE)
    log_variance, log_stride, log_intensity = jnp.unstack(
        jnp.clip(parameters[..., 2:], -_MAX_LOG, _MAX_LOG), axis=-1
    )
    return Attention(
        centre=(image_size + 1) / 2 * (centre + 1),
        stride=(image_size - 1) / (grid_size - 1) * jnp.exp(log_stride),
        deviation=jnp.exp(log_variance / 2),
        intensity=jnp.exp(log_intensity),
    )


def filterbanks(grid: Attention, *, image_size: int, grid_size: int) -> tuple[jax.Array, jax.Array]:
    """F_Y and F_X (Gregor et al., Eq. 19, 20, 25, 26): the Gaussian filters along each axis.

    A softmax divides by their sum: it is 1 also where a filter lies so far outside that every value
    would be 0.

    Args:
      grid: of each image, `[B]`.
      image_size: side of the image in pixels.
      grid_size: N, filters along each axis.

    Returns:
      For rows and for columns, `[B, N, image_size]` each; every filter sums to 1.
    """
    chex.assert_rank(grid.stride, 1)
    offsets = jnp.arange(1, grid_size + 1) - grid_size / 2 - 0.5
    means = grid.centre[..., None] + offsets * grid.stride[:, None, None]
    pixels = jnp.arange(1, image_size + 1)
    distances = (pixels - means[..., None]) / grid.deviation[:, None, None, None]
    columns, rows = jnp.unstack(nn.softmax(-0.5 * jnp.square(distances), axis=-1), axis=1)
    return rows, columns


def read(images: Sequence[jax.Array], grid: Attention, *, grid_size: int) -> list[jax.Array]:
    """gamma F_Y x F_X^T (Gregor et al., Eq. 27): one patch of several images in the same place.

    Args:
      images: float32 `[B, S, S, C]` each.
      grid: `[B]`.
      grid_size: N.

    Returns:
      `[B, N, N, C]` each.
    """
    rows, columns = filterbanks(grid, image_size=images[0].shape[1], grid_size=grid_size)
    rows = grid.intensity[:, None, None] * rows
    return [spatial_transformer.resample(x, rows, columns) for x in images]


def write(patches: jax.Array, grid: Attention, *, image_size: int) -> jax.Array:
    """F_Y^T w F_X / gamma of each patch (Gregor et al., Eq. 29).

    Args:
      patches: float32 `[B, N, N, C]`.
      grid: `[B]`.
      image_size: S.

    Returns:
      What is added to the canvas, `[B, S, S, C]`.
    """
    rows, columns = filterbanks(grid, image_size=image_size, grid_size=patches.shape[1])
    patches = patches / grid.intensity[:, None, None, None]
    return spatial_transformer.resample(patches, rows.swapaxes(1, 2), columns.swapaxes(1, 2))


class _Memory(NamedTuple):
    """What a step leaves to the next one: both LSTMs' states, and the canvas before the sigmoid."""

    encoder: tuple[jax.Array, jax.Array]
    decoder: tuple[jax.Array, jax.Array]
    canvas: jax.Array


class DRAW(nn.Module):
    """DRAW with the selective attention of its Sec. 3.2, in T steps with static shapes.

    Attributes:
      image_size: side of the image in pixels.
      channels: C.
      num_steps: T.
      read_size: N of the grid that reads.
      write_size: N of the grid that writes.
      hidden_size: width of both LSTMs.
      z_size: D, of each step.
      canvas_bias: initial value of the canvas c_0, a logit, which is learned for each pixel.
      likelihood_scale: standard deviation of p(x | z), in pixel values.
    """

    image_size: int
    channels: int
    num_steps: int
    read_size: int
    write_size: int
    hidden_size: int
    z_size: int
    canvas_bias: float
    likelihood_scale: float

    def setup(self):
        if self.num_steps < 1 or min(self.read_size, self.write_size) < 2:
            raise ValueError(
                f"num_steps is {self.num_steps}, read_size {self.read_size} and write_size "
                f"{self.write_size}; there must be a step, and grids of 2 x 2 at least."
            )
        if self.likelihood_scale <= 0:
            raise ValueError(f"likelihood_scale is {self.likelihood_scale}; it must be positive.")
        self.encoder = modules.LSTMCell(self.hidden_size)
        self.decoder = modules.LSTMCell(self.hidden_size)
        self.predict_z = modules.Encoder((), self.z_size)
        self.predict_read = nn.Dense(5)
        # The patch w_t and its grid are one product of h^dec_t.
        self.predict_write = nn.Dense(self.write_size**2 * self.channels + 5)
        self.first_canvas = self.param(
            "first_canvas",
            nn.initializers.constant(self.canvas_bias),
            (self.image_size, self.image_size, self.channels),
        )

    def __call__(self, images: jax.Array, noise: jax.Array) -> Drawing:
        """Draws a batch of images.

        Args:
          images: float32 `[B, S, S, C]` in [0, 1].
          noise: standard normal, of z, `[B, T, D]`; zeros for the posterior means.
        """
        batch_size = images.shape[0]
        chex.assert_shape(images, (None, self.image_size, self.image_size, self.channels))
        chex.assert_shape(noise, (batch_size, self.num_steps, self.z_size))
        memory = self._begin(images)
        # 40 steps written out would compile for minutes.
        scan = nn.scan(
            DRAW._step,
            variable_broadcast="params",
            split_rngs={"params": False},
            in_axes=(nn.broadcast, 1),
            out_axes=1,
        )
        memory, steps = scan(self, memory, images, noise)
        canvas = nn.sigmoid(memory.canvas)
        log_p_x = distributions.image_log_prob(images, canvas, scale=self.likelihood_scale)
        return Drawing(log_p_x=log_p_x, canvas=canvas, **steps)

    def first_step(self, images: jax.Array, noise: jax.Array) -> jax.Array:
        """The image after one step: what a step computes, outside the loop.

        Args:
          images: float32 `[B, S, S, C]` in [0, 1].
          noise: standard normal, of z, `[B, D]`.
        """
        memory, _ = self._step(self._begin(images), images, noise)
        return nn.sigmoid(memory.canvas)

    def _begin(self, images: jax.Array) -> _Memory:
        batch_size = images.shape[0]
        return _Memory(
            encoder=self.encoder.initial_carry(batch_size),
            decoder=self.decoder.initial_carry(batch_size),
            canvas=jnp.broadcast_to(self.first_canvas, images.shape),
        )

    def _step(
        self, memory: _Memory, images: jax.Array, noise: jax.Array
    ) -> tuple[_Memory, dict[str, jax.Array]]:
        """One step (Gregor et al., Eq. 3 to 8): the memory for the next, its part of `Drawing`."""
        size, batch_size = self.image_size, images.shape[0]
        read_grid = attention(
            self.predict_read(memory.decoder[1]), image_size=size, grid_size=self.read_size
        )
        # read(x - sigmoid(c)) = read(x) - read(sigmoid(c)): the error image itself is not needed.
        seen, drawn = read((images, nn.sigmoid(memory.canvas)), read_grid, grid_size=self.read_size)
        patches = jnp.concatenate([seen, seen - drawn], axis=-1).reshape(batch_size, -1)
        encoder = self.encoder(memory.encoder, 0.0, (patches, memory.decoder[1]))

        # q(z_t | x, z_1:t-1)
        q_z = self.predict_z(encoder[1])
        z = q_z.loc + q_z.scale_diag * noise
        p_z = distrax.MultivariateNormalDiag(jnp.zeros(self.z_size), jnp.ones(self.z_size))

        # p(x | z)
        decoder = self.decoder(memory.decoder, 0.0, (z,))
        written = self.predict_write(decoder[1])
        write_grid = attention(written[:, :5], image_size=size, grid_size=self.write_size)
        patch = written[:, 5:].reshape(batch_size, self.write_size, self.write_size, self.channels)
        canvas = memory.canvas + write(patch, write_grid, image_size=size)

        step = {
            "z": z,
            "kl": q_z.kl_divergence(p_z),
            "log_ratio": p_z.log_prob(z) - q_z.log_prob(z),
            "canvases": nn.sigmoid(canvas),
            "read": read_grid,
            "write": write_grid,
        }
        return _Memory(encoder, decoder, canvas), step


def create_draw(draw: Mapping[str, Any], *, image_size: int, channels: int) -> DRAW:
    """Builds the network from its config section.

    Args:
      draw: keyword arguments of `DRAW` but the next two.
      image_size: side of the images in pixels.
      channels: C.

    Raises:
      TypeError: if the section has an unknown key or lacks one.
      ValueError: if a size or the scale is not positive.
    """
    network = DRAW(image_size=image_size, channels=channels, **draw)
    # Before the noise of a pass is made, which has some of these sizes too.
    modules.check_positive(
        "draw",
        num_steps=network.num_steps,
        hidden_size=network.hidden_size,
        z_size=network.z_size,
        likelihood_scale=network.likelihood_scale,
    )
    return network


def sample_noise(keys: jax.Array, draw: DRAW) -> jax.Array:
    """Draws the noise of a batch, example by example: `[B, T, D]`.

    Args:
      keys: one key per example, `[B]`; so a batch cut over several devices draws what one would.
      draw: the network, for the sizes.
    """
    shape = (draw.num_steps, draw.z_size)
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
