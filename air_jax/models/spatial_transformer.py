"""Reading a window from an image and placing one back: two separable bilinear resamplings.

`z_where = (s, t_x, t_y)`: the window covers `1/s` of the image side and is centred at `-t/s`, in
coordinates that run from -1 to 1 over the image, x to the right and y downwards (Jaderberg et al.,
2015, restricted to scale and shift; AIR, Fig. 2). Scaling and shifting are separable, so that the
resampling is a product with one small matrix per axis: two batched matrix products, which is what
accelerators and BLAS are made for, instead of a gather.

A pixel is a square with its value at the centre, and beyond the border there is zero. `attend` and
`place` use maps that are inverse to each other.
"""

import functools

import chex
import jax
import jax.numpy as jnp

# The default precision of matrix products on recent accelerators would blur the resampling grid.
_PRECISION = jax.lax.Precision.HIGHEST
# NVIDIA's tensor cores reach that of float32 in three passes, faster than other units in one.
_CUDA_PRECISION = jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3


def _pixel_centres(size: int) -> jax.Array:
    """Coordinates of `size` pixel centres over [-1, 1], `[size]`."""
    return (2.0 * jnp.arange(size) + 1.0) / size - 1.0


def _bilinear_weights(coordinates: jax.Array, size: int) -> jax.Array:
    """Weights that read a row of `size` pixels at `coordinates` in [-1, 1]: `[..., size]`."""
    position = ((coordinates + 1.0) * size - 1.0) / 2.0
    return jax.nn.relu(1.0 - jnp.abs(position[..., None] - jnp.arange(size)))


def _product(subscripts: str, left: jax.Array, right: jax.Array) -> jax.Array:
    """An einsum in full float32."""
    einsum = functools.partial(jnp.einsum, subscripts)
    return jax.lax.platform_dependent(
        left,
        right,
        cuda=functools.partial(einsum, precision=_CUDA_PRECISION),
        default=functools.partial(einsum, precision=_PRECISION),
    )


def resample(images: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Applies one matrix per axis to each image.

    Args:
      images: float32 `[B, H, W, C]`.
      rows: weights of the old rows in the new ones, `[B, h, H]`.
      columns: likewise, `[B, w, W]`.

    Returns:
      `[B, h, w, C]`.
    """
    batch, height, width, channels = images.shape
    images = images.reshape(batch, height, width * channels)
    images = _product("bhy,byk->bhk", rows, images)
    images = images.reshape(batch, rows.shape[1], width, channels)
    return _product("bwx,bhxc->bhwc", columns, images)


def sample(maps: jax.Array, coordinates: jax.Array) -> jax.Array:
    """Reads maps at a grid of places, the same for all of them; zero beyond the border.

    Args:
      maps: float32 `[B, H, W, C]`.
      coordinates: of the grid's rows, which are also those of its columns, in [-1, 1], `[G]`.

    Returns:
      `[B, G, G, C]`.
    """
    chex.assert_rank([maps, coordinates], [4, 1])
    batch, height, width = maps.shape[:3]
    rows, columns = (_bilinear_weights(coordinates, size) for size in (height, width))
    return resample(maps, *(jnp.broadcast_to(x, (batch, *x.shape)) for x in (rows, columns)))


def attend(images: jax.Array, z_where: jax.Array, *, window_size: int) -> jax.Array:
    """Reads the window `z_where` of each image (x_att in AIR, Fig. 2).

    Args:
      images: float32 `[B, H, H, C]`.
      z_where: `(s, t_x, t_y)`, s > 0, float32 `[B, 3]`.
      window_size: side of the window in its own pixels.

    Returns:
      Windows, float32 `[B, window_size, window_size, C]`; zero where they reach beyond the image.
    """
    chex.assert_rank([images, z_where], [4, 2])
    chex.assert_equal(images.shape[1], images.shape[2])
    scale, shift = z_where[:, :1, None], z_where[:, 1:, None]
    columns_and_rows = (_pixel_centres(window_size) - shift) / scale
    columns, rows = _bilinear_weights(columns_and_rows, images.shape[1]).swapaxes(0, 1)
    return resample(images, rows, columns)


def place(windows: jax.Array, z_where: jax.Array, *, image_size: int) -> jax.Array:
    """Places each window at `z_where` in an empty image (y^i in AIR, Fig. 2); inverse of `attend`.

    Args:
      windows: float32 `[B, h, h, C]`.
      z_where: `(s, t_x, t_y)`, s > 0, float32 `[B, 3]`.
      image_size: side of the image in pixels.

    Returns:
      Images, float32 `[B, image_size, image_size, C]`, zero outside the window.
    """
    chex.assert_rank([windows, z_where], [4, 2])
    chex.assert_equal(windows.shape[1], windows.shape[2])
    scale, shift = z_where[:, :1, None], z_where[:, 1:, None]
    columns_and_rows = _pixel_centres(image_size) * scale + shift
    columns, rows = _bilinear_weights(columns_and_rows, windows.shape[1]).swapaxes(0, 1)
    return resample(windows, rows, columns)


def window_box(z_where: jax.typing.ArrayLike, image_size: int) -> jax.Array:
    """Borders of the attention window in pixels.

    Args:
      z_where: `(s, t_x, t_y)`, `[..., 3]`.
      image_size: side of the image in pixels.

    Returns:
      `(x_min, y_min, x_max, y_max)`, `[..., 4]`; pixel k spans k to k + 1; may lie outside.
    """
    z_where = jnp.asarray(z_where)
    scale, shift = z_where[..., :1], z_where[..., 1:]
    low, high = (-1.0 - shift) / scale, (1.0 - shift) / scale
    return (jnp.concatenate([low, high], axis=-1) + 1.0) * (image_size / 2.0)
