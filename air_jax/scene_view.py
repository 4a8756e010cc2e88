"""What a model makes of one picture, and the same scene drawn again from changed latents.

Arrays in, arrays out: what a page shows, without the page.
"""

import functools
import io
import math
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from air_jax import kinds
from air_jax.data.dataset import create_dataset
from air_jax.data.images import prepare_images, read_images
from air_jax.inference import Model
from air_jax.models.scene2d import Scene2D
from air_jax.models.spatial_transformer import window_box

# Of a picture that somebody hands over: what a telephone takes is smaller.
MAX_BYTES = 10 * 2**20
MAX_SIDE = 4_096
_SHRUNK = 1_024  # side to which it is brought at once
# Side of a drawing's pixel, in those that are drawn upon.
PEN_PIXELS = 8
_NUM_STEPS = 6  # more than fit into an image of digits


class View(NamedTuple):
    """One image as a model sees it, at the posterior means. N steps; NumPy arrays, float32.

    What lies beyond `num_objects` is what the model would have drawn next.

    Attributes:
      image: `[H, W, C]` in [0, 1].
      num_objects: how many there are.
      count_probs: probability of n = 0..N, `[N + 1]`.
      windows: `(x_min, y_min, x_max, y_max)`, pixels, `[N, 4]`.
      z_where: `(s, t_x, t_y)`, `[N, 3]`.
      z_what: `[N, D]`.
      glimpses: what each step read, `[N, h, h, C]`; of DAIR what was still unexplained there.
      objects: what each step drew, in its window, `[N, h, h, C]`.
      canvases: with the first 0..N objects, `[N + 1, H, W, C]`.
      milliseconds: that the network took.
    """

    image: np.ndarray
    num_objects: int
    count_probs: np.ndarray
    windows: np.ndarray
    z_where: np.ndarray
    z_what: np.ndarray
    glimpses: np.ndarray
    objects: np.ndarray
    canvases: np.ndarray
    milliseconds: float


def with_num_steps(model: Model, num_steps: int | None) -> Model:
    """The model with another number of steps, on which no parameter depends.

    Args:
      model: of AIR or DAIR.
      num_steps: N; if None 6, or the model's own where that is more.

    Raises:
      ValueError: if `num_steps` < 1.
    """
    if num_steps is None:
        num_steps = max(_NUM_STEPS, model.air.num_steps)
    longer = kinds.with_steps(model, num_steps)
    assert isinstance(longer, Model)  # as `model` is
    return longer


def look(model: Model, image: np.ndarray) -> View:
    """Shows one image to the model.

    Args:
      model: of AIR or DAIR; the first call of all compiles, and its time says nothing.
      image: `[H, W, C]`, float in [0, 1] or uint8, of the model's size.

    Raises:
      ValueError: if the image is of another size, or the network's numbers are not finite.
    """
    start = time.perf_counter()
    trace = model.trace(np.asarray(image)[None])
    milliseconds = 1e3 * (time.perf_counter() - start)
    count_probs = np.exp(np.asarray(trace.posterior.log_prob_counts())[0])
    if not (np.isfinite(count_probs).all() and np.isfinite(trace.canvases).all()):
        raise ValueError("the network's numbers are not finite: this model has not been trained.")
    shown = np.asarray(image)
    return View(
        image=shown / np.float32(255) if shown.dtype == np.uint8 else shown.astype(np.float32),
        num_objects=int(trace.posterior.mode_count()[0]),
        count_probs=count_probs,
        windows=np.asarray(window_box(trace.z_where[0], model.air.scene.image_size)),
        z_where=np.asarray(trace.z_where[0]),
        z_what=np.asarray(trace.z_what[0]),
        glimpses=np.asarray(trace.glimpses[0]),
        objects=np.asarray(trace.windows[0]),
        canvases=np.asarray(trace.canvases[0]),
        milliseconds=milliseconds,
    )


@functools.partial(jax.jit, static_argnames="scene")
def _draw(scene: Scene2D, params: Any, z_where: jax.Array, z_what: jax.Array, counts: jax.Array):
    return scene.apply({"params": params}, z_where, z_what, counts, method="draw")


@functools.partial(jax.jit, static_argnames="scene")
def _draw_windows(scene: Scene2D, params: Any, z_what: jax.Array) -> Any:
    def decode(scene: Scene2D) -> jax.Array:
        window, _ = scene.render_object(jnp.ones((len(z_what), 3)), z_what)
        return scene.colours(window)

    return scene.apply({"params": params}, method=decode)


def draw(model: Model, z_where: np.ndarray, z_what: np.ndarray, count: int) -> np.ndarray:
    """Draws a scene from latents, as the model does.

    Args:
      model: of AIR or DAIR.
      z_where: `(s, t_x, t_y)`, `[N, 3]`.
      z_what: `[N, D]`.
      count: how many of the N objects there are.

    Returns:
      The canvas, float32 `[H, W, C]`.
    """
    latents = z_where[None], z_what[None], np.array([count])
    return np.asarray(_draw(model.air.scene, model.params["scene"], *latents))[0]


def walk(model: Model, z_what: np.ndarray, dimension: int, values: np.ndarray) -> np.ndarray:
    """Draws one object, in its window, with one dimension of its code at several values.

    Args:
      model: of AIR or DAIR.
      z_what: of the object, `[D]`.
      dimension: 0..D-1.
      values: of it, `[K]`.

    Returns:
      float32 `[K, h, h, C]`.
    """
    codes = np.repeat(np.asarray(z_what, np.float32)[None], len(values), axis=0)
    codes[:, dimension] = values
    return np.asarray(_draw_windows(model.air.scene, model.params["scene"], codes))


def influence(model: Model, z_what: np.ndarray) -> np.ndarray:
    """By how much an object's drawing changes with each dimension of its code.

    Args:
      model: of AIR or DAIR.
      z_what: of the object, `[D]`.

    Returns:
      Mean absolute difference of the pixels with the dimension at 2 and at -2, float32 `[D]`.
    """
    size = len(z_what)
    codes = np.repeat(np.asarray(z_what, np.float32)[None], 2 * size, axis=0)
    codes[np.arange(size), np.arange(size)] = 2
    codes[size + np.arange(size), np.arange(size)] = -2
    drawn = np.asarray(_draw_windows(model.air.scene, model.params["scene"], codes))
    return np.abs(drawn[:size] - drawn[size:]).mean((1, 2, 3))


def to_place(z_where: np.ndarray, image_size: int) -> tuple[float, float, float]:
    """`(s, t_x, t_y)` as the window's centre x, y and its side, in pixels."""
    x_min, y_min, x_max, y_max = np.asarray(window_box(z_where, image_size), float)
    return (x_min + x_max) / 2, (y_min + y_max) / 2, x_max - x_min


def side_limits(image_size: int) -> tuple[int, int]:
    """Least and greatest side of a window with something to be seen in it, whole pixels."""
    return math.ceil(image_size / 8), 2 * image_size


def to_z_where(x: float, y: float, side: float, image_size: int) -> np.ndarray:
    """The window with centre x, y and this side, in pixels, as `(s, t_x, t_y)`, float32 `[3]`.

    Raises:
      ValueError: if the side is not within `side_limits`, or a number is not finite.
    """
    low, high = side_limits(image_size)
    if not (low <= side <= high and math.isfinite(x) and math.isfinite(y)):
        raise ValueError(f"a window has a side of {low} to {high} pixels and a centre.")
    scale = image_size / side
    centre = 2 * np.array([x, y]) / image_size - 1
    return np.array([scale, *(-scale * centre)], np.float32)


def read_drawing(data: bytes, *, image_size: int, channels: int) -> np.ndarray:
    """A drawing as the model takes it: each of its pixels is the mean of `PEN_PIXELS` squared.

    Args:
      data: a PNG of `PEN_PIXELS * image_size` pixels a side.
      image_size: H and W.
      channels: C.

    Returns:
      float32 `[H, W, C]` in [0, 1].

    Raises:
      ValueError: if it is anything else.
    """
    side = PEN_PIXELS * image_size
    pixels = _read(data, channels)
    if pixels.shape[:2] != (side, side):
        raise ValueError(f"a drawing has {side}x{side} pixels.")
    blocks = pixels.reshape(image_size, PEN_PIXELS, image_size, PEN_PIXELS, channels)
    return blocks.mean((1, 3))


def read_picture(
    data: bytes, *, image_size: int, channels: int
) -> tuple[np.ndarray, tuple[str, ...]]:
    """A picture of any size as the model takes it: light on black, square.

    Args:
      data: a PNG or JPEG.
      image_size: H and W.
      channels: C.

    Returns:
      float32 `[H, W, C]` in [0, 1], and what was done to it, in words.

    Raises:
      ValueError: if it cannot be used; says why, for people.
    """
    pixels = _read(data, channels)
    notes = []
    level = _border_level(pixels)
    # Whether the objects are darker than what surrounds them, on paper of any grey.
    if (level - pixels).clip(0).sum() > (pixels - level).clip(0).sum():
        pixels, level = 1 - pixels, 1 - level
        notes.append("dark on light, so it was inverted")
    # Paper is never quite white, and the padding around it is quite black.
    if (level > 0.02).any():
        pixels = ((pixels - level) / np.maximum(1 - level, 0.02)).clip(0, 1).astype(np.float32)
        notes.append("its background was set to black")
    prepared = prepare_images([pixels], image_size=image_size, any_background=True)
    notes += [note for note in prepared.notes if note]
    return prepared.images[0], tuple(notes)


def _border_level(pixels: np.ndarray) -> np.ndarray:
    """Median of the border, of every channel: `[C]`."""
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    border = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
    return np.median(np.concatenate(border), axis=0)


def _read(data: bytes, channels: int) -> np.ndarray:
    """Float32 `[H, W]` or `[H, W, 3]`; ValueError in words for people."""
    if len(data) > MAX_BYTES:
        raise ValueError(
            f"This file has {len(data) / 2**20:.1f} MB, and the limit is "
            f"{MAX_BYTES / 2**20:.0f} MB: give a smaller picture."
        )
    unreadable = "This file cannot be read as a picture: give a whole PNG or JPEG."
    too_large = f"This picture is larger than {MAX_SIDE:,} pixels a side: shrink it."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as header:
                width, height = header.size
    except Image.DecompressionBombError as error:
        raise ValueError(too_large) from error
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        raise ValueError(unreadable) from error
    if max(width, height) > MAX_SIDE:
        raise ValueError(too_large)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        path.write_bytes(data)
        try:
            if max(width, height) > _SHRUNK:
                # As numbers, so many pixels would take seconds and half a gigabyte.
                with Image.open(path) as picture:
                    picture.thumbnail((_SHRUNK, _SHRUNK))
                    picture.save(path, "png")
            return read_images(path, channels=channels).images[0]
        except (ValueError, OSError) as error:
            raise ValueError(unreadable) from error


def example_scenes(config: Mapping[str, Any], num_scenes: int, *, seed: int) -> np.ndarray:
    """Scenes like those that a model was trained on, none of them a training scene.

    Digits come from TFDS only if the run asked for nothing else: those that are embedded are
    there at once. Where the run's own data are missing, scenes are of one embedded digit.

    Args:
      config: the model's, with `data` and `image`.
      num_scenes: how many.
      seed: of their composition.

    Returns:
      uint8 `[num_scenes, H, W, C]`; none where there is nothing for this model to look at.
    """
    image = config["image"]
    size, channels = image["image_size"], image["channels"]
    shared: dict[str, Any] = {"num_train": 1, "num_validation": 1, "num_test": num_scenes}
    shared |= {"cache_dir": "", "resident": True}
    one_digit: dict[str, Any] = {"source": "embedded", "tfds_dir": None, "path": None}
    # As large in the image as the paper's in 50 pixels.
    one_digit |= {"image_size": size, "digit_scale": (size / 50, size / 50), "counts": (1,)}
    one_digit |= {"sprite_size": (), "noise": 0.0, "invert": False}
    own = dict(config.get("data", one_digit))
    if own["source"] == "auto":
        own["source"] = "embedded"
    choices = [own]
    if own["source"] == "tfds":
        choices.append({**own, "source": "embedded"})
    for data in (*choices, one_digit):
        # Where images are what they are, another seed would take training images for others.
        seeded = {} if data["source"] in ("path", "omniglot") else {"seed": seed}
        try:
            images = create_dataset(**{**data, **shared, **seeded}).test.images
        except (FileNotFoundError, ValueError):
            continue
        if images.shape[1:] == (size, size, channels):
            return images
    return np.zeros((0, size, size, channels), np.uint8)
