"""A convolutional autoencoder: what AIR's latents are compared with as a code (paper, Sec. 3.1.2).

The paper's text does not say what its own looks like. Pixels are halved twice on the way to the
code and doubled twice on the way back; doubling rearranges channels to pixels, which costs less
than a transposed convolution.
"""

import math

import chex
import flax.linen as nn
import jax


class Autoencoder(nn.Module):
    """Images to a code, and back.

    Attributes:
      image_size: H and W.
      channels: C.
      width: channels of the first convolution; the second has twice as many.
      code_size: D, length of the code.
      bias: initial logit of a pixel; negative for scenes that are mostly black.
    """

    image_size: int
    channels: int
    width: int
    code_size: int
    bias: float

    def setup(self) -> None:
        self.convolutions = [
            nn.Conv(self.width, (5, 5), strides=2),
            nn.Conv(2 * self.width, (3, 3), strides=2),
        ]
        self.to_code = nn.Dense(self.code_size)
        self.from_code = nn.Dense(self._small**2 * 2 * self.width)
        self.expansions = [
            nn.Conv(4 * self.width, (3, 3)),
            nn.Conv(
                4 * self.channels,
                (3, 3),
                # Spelled out: the bias alone decides how dark the first images are.
                bias_init=nn.initializers.constant(self.bias),
            ),
        ]

    @property
    def _small(self) -> int:
        return math.ceil(self.image_size / 4)

    def encode(self, images: jax.Array) -> jax.Array:
        """Images `[B, H, W, C]` in [0, 1] to codes `[B, D]`."""
        chex.assert_shape(images, (None, self.image_size, self.image_size, self.channels))
        for convolution in self.convolutions:
            images = nn.relu(convolution(images))
        return self.to_code(images.reshape(images.shape[0], -1))

    def decode(self, codes: jax.Array) -> jax.Array:
        """Codes `[B, D]` to images `[B, H, W, C]` in (0, 1)."""
        chex.assert_shape(codes, (None, self.code_size))
        maps = nn.relu(self.from_code(codes))
        maps = maps.reshape(codes.shape[0], self._small, self._small, -1)
        first, last = self.expansions
        maps = double(last(double(nn.relu(first(maps)))))
        return nn.sigmoid(maps[:, : self.image_size, : self.image_size])

    def __call__(self, images: jax.Array) -> jax.Array:
        """Reconstructions, `[B, H, W, C]` to the same."""
        return self.decode(self.encode(images))


def double(maps: jax.Array) -> jax.Array:
    """Four channels of a pixel become one of four pixels: `[B, H, W, 4 C]` to `[B, 2 H, 2 W, C]`.

    Args:
      maps: the first C channels are those of the upper left pixel, then upper right, lower left,
        lower right.
    """
    batch, height, width, channels = maps.shape
    maps = maps.reshape(batch, height, width, 2, 2, channels // 4)
    maps = maps.transpose(0, 1, 3, 2, 4, 5)
    return maps.reshape(batch, 2 * height, 2 * width, channels // 4)
