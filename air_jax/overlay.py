"""Pictures for screens, as plain arrays: enlarged images, windows upon them, several side by side.

Quick enough for a video's frames and a page that answers at once, which figures are not.
"""

import functools
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont

from air_jax.charts import check_shape
from air_jax.figures import STEP_COLOURS

# Between pictures side by side, and around them.
GAP = 8
_BACKGROUND = 255
_BAR = "#0072b2"
_LINE = 26  # height of a title, pixels


def enlarge(image: np.ndarray, factor: int) -> np.ndarray:
    """An image with pixels `factor` times as wide and tall, in colour.

    Args:
      image: uint8 or float in [0, 1], what is beyond is cut off; `[H, W]`, `[H, W, 1]` or
        `[H, W, 3]`.
      factor: at least 1.

    Returns:
      uint8 `[factor H, factor W, 3]`.

    Raises:
      ValueError: if the shape is another or `factor` < 1.
    """
    image = np.asarray(image)
    if image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=-1)
    check_shape("image", image, (*image.shape[:2], 3))
    if factor < 1:
        raise ValueError(f"factor is {factor}; it must be at least 1.")
    if image.dtype != np.uint8:
        image = np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def with_windows(
    image: np.ndarray, windows: ArrayLike, factor: int, *, numbers: Sequence[int] | None = None
) -> np.ndarray:
    """An enlarged image with numbered windows in the colours of the steps.

    Args:
      image: as `enlarge` takes it.
      windows: `(x_min, y_min, x_max, y_max)` in pixels of the image, `[N, 4]`; what reaches beyond
        the image is cut off.
      factor: see `enlarge`.
      numbers: the step of each window, from 1; 1, 2, ... if None.

    Returns:
      uint8 `[factor H, factor W, 3]`.

    Raises:
      ValueError: as `enlarge`, or if shapes disagree.
    """
    windows = np.asarray(windows, float)
    numbers = range(1, len(windows) + 1) if numbers is None else numbers
    check_shape("windows", windows, (len(numbers), 4))
    picture = Image.fromarray(enlarge(image, factor))
    draw = ImageDraw.Draw(picture)
    size = max(11, round(min(picture.size) / 16))
    line = max(1, round(min(picture.size) / 120))
    # A window may be far away or without end where it is none; a picture has no room for either.
    limit = 4 * max(picture.size)
    for number, window in zip(numbers, windows, strict=True):
        x_min, y_min, x_max, y_max = (
            float(edge) for edge in np.nan_to_num(window * factor).clip(-limit, limit)
        )
        if min(x_max - x_min, y_max - y_min) < 1:
            continue
        colour = STEP_COLOURS[(number - 1) % len(STEP_COLOURS)]
        draw.rectangle((x_min, y_min, x_max - 1, y_max - 1), outline=colour, width=line)
        # Each step has a corner of its own, so that the numbers of equal windows stay legible.
        at_right, at_bottom = (number - 1) % 2, (number - 1) // 2 % 2
        x = np.clip(x_max - size if at_right else x_min, 0, picture.width - size)
        y = np.clip(y_max - size if at_bottom else y_min, 0, picture.height - size)
        draw.rectangle((x, y, x + size - 1, y + size - 1), fill=colour)
        middle = (x + size / 2, y + size / 2)
        draw.text(middle, str(number), fill="black", font=_font(size), anchor="mm")
    return np.asarray(picture)


def bars(shares: ArrayLike, *, height: int, width: int) -> np.ndarray:
    """Shares as bars that lie, one below another, each with its number from 0 and its percentage.

    Args:
      shares: in [0, 1], `[K]`.
      height: of the picture, pixels.
      width: likewise.

    Returns:
      uint8 `[height, width, 3]`, white with black text.

    Raises:
      ValueError: if there is no share.
    """
    shares = np.asarray(shares, float)
    if shares.ndim != 1 or not len(shares):
        raise ValueError(f"shares have shape {shares.shape}; there must be one or more, [K].")
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    pitch = height / len(shares)
    size = max(10, min(18, round(0.5 * pitch)))
    left, room = 2 * size, width - 5 * size
    for number, share in enumerate(np.nan_to_num(shares).clip(0, 1)):
        middle = (number + 0.5) * pitch
        top, bottom = middle - 0.35 * pitch, middle + 0.35 * pitch
        draw.text((0.5 * size, middle), str(number), fill="black", font=_font(size), anchor="lm")
        draw.rectangle((left, top, left + max(1, room * share), bottom), fill=_BAR)
        end = left + room * share + 0.4 * size
        draw.text((end, middle), f"{share:.0%}", fill="black", font=_font(size), anchor="lm")
    return np.asarray(picture)


def side_by_side(pictures: Sequence[np.ndarray], *, gap: int = GAP) -> np.ndarray:
    """Pictures in a row, on white.

    Args:
      pictures: uint8 `[H, W_i, 3]`, all of one height.
      gap: between them, pixels.

    Raises:
      ValueError: if there is none, or heights differ.
    """
    if not len(pictures):
        raise ValueError("there is no picture to put side by side.")
    height = pictures[0].shape[0]
    for picture in pictures:
        check_shape("picture", picture, (height, picture.shape[1], 3))
    between = np.full((height, gap, 3), _BACKGROUND, np.uint8)
    parts = [part for picture in pictures for part in (between, picture)][1:]
    return np.concatenate(parts, axis=1)


def grid(pictures: Sequence[np.ndarray], columns: int, *, gap: int = GAP) -> np.ndarray:
    """Pictures of one size in rows, on white; the last row may be shorter.

    Args:
      pictures: uint8 `[H, W, 3]` each.
      columns: of the grid, at least 1.
      gap: between them, pixels.

    Raises:
      ValueError: if there is no picture or column, or sizes differ.
    """
    if columns < 1:
        raise ValueError(f"columns is {columns}; it must be at least 1.")
    if not len(pictures):
        raise ValueError("there is no picture to put into a grid.")
    missing = -len(pictures) % columns if len(pictures) > columns else 0
    empty = np.full(pictures[0].shape, _BACKGROUND, np.uint8)
    filled = [*pictures, *[empty] * missing]
    rows = [
        side_by_side(filled[start : start + columns], gap=gap)
        for start in range(0, len(filled), columns)
    ]
    between = np.full((gap, rows[0].shape[1], 3), _BACKGROUND, np.uint8)
    parts = [part for row in rows for part in (between, row)][1:]
    for row in rows:
        check_shape("row of pictures", row, rows[0].shape)
    return np.concatenate(parts, axis=0)


def titled(picture: np.ndarray, title: str) -> np.ndarray:
    """A picture below a line of text, black on white.

    Args:
      picture: uint8 `[H, W, 3]`.
      title: one line; what does not fit is cut off.

    Returns:
      uint8 `[H + h, W, 3]`, with h the line's height, which is always the same.
    """
    band = Image.new("RGB", (picture.shape[1], _LINE), "white")
    ImageDraw.Draw(band).text((2, _LINE // 2), title, fill="black", font=_font(16), anchor="lm")
    return np.concatenate([np.asarray(band), picture], axis=0)


def to_png(picture: np.ndarray) -> bytes:
    """A picture, uint8 `[H, W, 3]`, as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png", optimize=True)
    return buffer.getvalue()


@functools.lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font: no system has to have one."""
    return ImageFont.load_default(size)
