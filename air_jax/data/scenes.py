"""Scenes, and their composition from digits whose ink boxes share no pixel."""

import numbers
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from air_jax import metrics
from air_jax.data.digits import Digits

_TRIES_PER_ROUND = 2**16
_MAX_TRIES = 2**24  # some two seconds
_MAX_TRIES_PER_SCENE = 384  # raises the limit above for very many scenes


class Scenes(NamedTuple):
    """A set of images and what is in them; only `images` may reach training.

    Attributes:
        images: light objects on black, uint8 `[M, H, W, C]`; C = 1 for digits. Of a training set
            that is not resident, `stream.Shards` of that shape.
        counts: number of objects, int32 `[M]`; -1 where unknown.
        boxes: (x_min, y_min, x_max, y_max) in pixels, edges (pixel k spans [k, k + 1]), float32
            `[M, K, 4]` with K the largest count; zeros for absent objects. A digit's box is the
            extent of its ink above half its maximum, as predicted objects are boxed.
        labels: class of each object, int32 `[M, K]`; -1 for absent objects.
        hidden: share of each object's area that others cover, in [0, 1], float32 `[M, K]`; zeros
            for absent objects. As with `boxes`, K is 0 where nothing is known of the objects.
    """

    images: np.ndarray
    counts: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    hidden: np.ndarray


class Glyphs(NamedTuple):
    """Digits at their final size; boxes are (x_min, y_min, x_max, y_max).

    Attributes:
        images: uint8 `[U, R, R]`, of which the box `ink` is drawn.
        ink: extent of the nonzero pixels, int64 `[U, 4]`.
        core: extent of the pixels above half the maximum, float32 `[U, 4]`.
    """

    images: np.ndarray
    ink: np.ndarray
    core: np.ndarray


def compose_scenes(
    digits: Digits,
    *,
    num_scenes: int,
    counts: Sequence[int],
    image_size: int,
    digit_scale: tuple[float, float],
    noise: float = 0.0,
    seed: int | np.random.SeedSequence,
) -> Scenes:
    """Composes images of non-overlapping digits; AIR, Sec. 3.1 with counts 0, 1, 2 at 50 pixels.

    Every count has an equal share of the scenes (up to rounding), in shuffled order; digits are
    drawn with replacement, uniformly. Positions are uniform over all arrangements in which the
    ink boxes (all nonzero pixels) lie inside the image and share no pixel: all positions of a
    scene are drawn independently, and again until none overlap. Digits are kept when positions
    are drawn again, so that wide digits are as frequent in full scenes as in others.

    Args:
        digits: what to draw, uint8 `[M, D, D]` and int32 `[M]`.
        num_scenes: number of images.
        counts: the possible numbers of digits in an image.
        image_size: side of the images, pixels.
        digit_scale: least and greatest scale of a digit's side relative to the original,
            uniform per digit; the side is rounded to whole pixels. (1, 1) leaves digits as they
            are; others are resampled (bilinear, anti-aliased when shrinking).
        noise: standard deviation of Gaussian noise upon every pixel, in units of full ink; what
            falls below black or above white is cut off.
        seed: the same seed and arguments give the same scenes.
    Returns:
        The scenes, with K = max(counts); objects are in no particular order.
    Raises:
        ValueError: if an argument is out of range, a digit is larger than the image, or scenes
            could not be arranged in a bounded number of tries.
    """
    check_composition(num_scenes, counts, image_size, noise)
    _check_digits(digits, digit_scale)
    # Before any is resampled. What is exact depends on the ink.
    if digit_scale[1] * digits.images.shape[1] > 4 * image_size:
        raise ValueError(
            f"digit_scale is {tuple(digit_scale)!r}: digits of {digits.images.shape[1]} pixels "
            f"would be more than four times as large as the image, image_size = {image_size}"
        )
    rng = np.random.Generator(np.random.PCG64(seed))
    max_count = max(counts)
    scene_counts = rng.permutation(np.resize(np.asarray(counts, np.int32), num_scenes))
    present = np.arange(max_count) < scene_counts[:, None]

    num_objects = int(scene_counts.sum())
    digit_index = rng.integers(len(digits.images), size=num_objects)
    scales = rng.uniform(*digit_scale, size=num_objects)
    sides = np.rint(scales * digits.images.shape[1]).astype(np.int64)
    # Each digit is resampled once per size, however often it is drawn.
    drawn, glyph_index = np.unique(np.stack([digit_index, sides]), axis=1, return_inverse=True)
    glyphs = make_glyphs(digits.images, drawn[0], drawn[1])

    extents = (glyphs.ink[:, 2:] - glyphs.ink[:, :2])[glyph_index]
    if num_objects and extents.max() > image_size:
        raise ValueError(
            f"a digit's ink is {extents.max()} pixels wide or tall, more than image_size = "
            f"{image_size}: use a larger image_size or a smaller digit_scale"
        )
    object_extents = np.zeros((num_scenes, max_count, 2), np.int64)
    object_extents[present] = extents
    corners = np.zeros((num_scenes, max_count, 2), np.int64)
    # The largest count first: it is the one that may be impossible.
    for count in sorted(set(counts) - {0}, reverse=True):
        members = scene_counts == count
        corners[members, :count] = place(object_extents[members, :count], image_size, rng)

    # From here on objects, not scenes; corners of glyph canvases, not of ink.
    offsets = corners[present] - glyphs.ink[glyph_index, :2]
    images = _draw(glyphs, glyph_index, offsets, np.nonzero(present)[0], num_scenes, image_size)
    boxes = np.zeros((num_scenes, max_count, 4), np.float32)
    boxes[present] = glyphs.core[glyph_index] + np.tile(offsets, 2)
    labels = np.full((num_scenes, max_count), -1, np.int32)
    labels[present] = digits.labels[digit_index]
    # Last, so that the same seed gives the same scenes with and without it.
    if noise:
        add_noise(images, noise, rng)
    return Scenes(images, scene_counts, boxes, labels, np.zeros(labels.shape, np.float32))


def add_noise(images: np.ndarray, noise: float, rng: np.random.Generator) -> None:
    """Adds Gaussian noise to images in place; what falls below black or above white is cut off.

    Args:
        images: uint8 `[n, H, W, C]`; done some at a time, since in floating point they are large.
        noise: its standard deviation, in units of white.
        rng: source of randomness.
    """
    for start in range(0, len(images), 1_000):
        part = images[start : start + 1_000]
        noisy = part + 255 * noise * rng.standard_normal(part.shape, np.float32)
        part[...] = np.rint(noisy.clip(0, 255))


def check_composition(
    num_scenes: int, counts: Sequence[int], image_size: int, noise: float
) -> None:
    """Checks what any composition takes.

    Args:
        num_scenes: number of images.
        counts: the possible numbers of objects in an image.
        image_size: side of the images, pixels.
        noise: standard deviation of the noise.
    Raises:
        ValueError: if one of them is out of range; names it.
    """
    is_count = [isinstance(c, numbers.Integral) and not isinstance(c, bool) for c in counts]
    if not is_count or not all(is_count) or min(counts) < 0 or len(set(counts)) < len(counts):
        raise ValueError(
            f"counts is {tuple(counts)!r}; it must be one or more distinct integers >= 0"
        )
    for name, value in (("num_scenes", num_scenes), ("image_size", image_size)):
        if not isinstance(value, numbers.Integral) or value < 1:
            raise ValueError(f"{name} is {value!r}; it must be a positive integer")
    if max(counts) > image_size**2:
        raise ValueError(
            f"counts is {tuple(counts)!r}, and an image has {image_size}x{image_size} pixels: "
            "every object needs one of its own"
        )
    if not 0 <= noise <= 1:
        raise ValueError(f"noise is {noise}; it is in units of full ink, from 0 to 1")


def _check_digits(digits: Digits, digit_scale: tuple[float, float]) -> None:
    if len(digit_scale) != 2 or not 0 < digit_scale[0] <= digit_scale[1] < np.inf:
        raise ValueError(
            f"digit_scale is {tuple(digit_scale)!r}; it must be two positive numbers, the least "
            "scale and the greatest"
        )
    shape = digits.images.shape
    if len(shape) != 3 or shape[1] != shape[2] or digits.images.dtype != np.uint8:
        raise ValueError(
            f"digits are {digits.images.dtype} of shape {shape}; expected uint8 [M, D, D]"
        )
    if not len(digits.images) or digits.labels.shape != shape[:1]:
        raise ValueError(
            f"{len(digits.images)} digits and labels of shape {digits.labels.shape}; expected at "
            "least one digit and one label for each"
        )
    if round(digit_scale[0] * shape[1]) < 1:
        raise ValueError(f"digit_scale {tuple(digit_scale)!r} shrinks a digit to no pixel at all")


def make_glyphs(images: np.ndarray, indices: np.ndarray, sides: np.ndarray) -> Glyphs:
    """Resamples digits and measures their ink.

    Args:
        images: uint8 `[M, D, D]`.
        indices: of these, `[U]`.
        sides: of the square that each becomes, pixels, int `[U]`.
    Raises:
        ValueError: if a digit has no ink; names it.
    """
    largest = int(sides.max(initial=1))
    glyphs = np.zeros((len(indices), largest, largest), np.uint8)
    for side in np.unique(sides):
        members = sides == side
        glyphs[members, :side, :side] = _resample(images[indices[members]], int(side))
    has_ink = glyphs.any(axis=(1, 2))
    if not has_ink.all():
        blank = indices[has_ink.argmin()]
        raise ValueError(f"digit {blank} has no ink: every digit needs a nonzero pixel")
    return Glyphs(glyphs, metrics.extents(glyphs > 0), metrics.ink_boxes(glyphs))


def _resample(images: np.ndarray, side: int) -> np.ndarray:
    """Resizes uint8 `[n, D, D]` to `[n, side, side]`.

    Pillow resizes rows first, then columns. One strip of all images for each of the two gives
    the same pixels as image by image, many times faster.
    """
    if side == images.shape[1]:
        return images
    for _ in range(2):
        n, rows, columns = images.shape
        strip = Image.fromarray(images.reshape(n * rows, columns))
        resized = strip.resize((side, n * rows), Image.Resampling.BILINEAR)
        images = np.asarray(resized).reshape(n, rows, side).transpose(0, 2, 1)
    return images


def place(extents: np.ndarray, image_size: int, rng: np.random.Generator) -> np.ndarray:
    """Draws corners of disjoint boxes, uniformly over all legal arrangements.

    Args:
        extents: width and height of the boxes, `[n, k, 2]`, at most `image_size`.
        image_size: side of the image, pixels.
        rng: source of randomness.
    Returns:
        (x_min, y_min) of the boxes, `[n, k, 2]`.
    Raises:
        ValueError: if scenes remain after the greatest number of tries.
    """
    num_scenes = len(extents)
    corners = np.zeros_like(extents)
    # More area than the image has cannot fit: no need to try.
    hopeless = np.flatnonzero(extents.prod(axis=2).sum(axis=1) > image_size**2)
    if hopeless.size:
        raise _no_room(hopeless.size, extents, image_size, tries=0)
    pending = np.arange(num_scenes)
    max_tries = max(_MAX_TRIES, _MAX_TRIES_PER_SCENE * num_scenes)
    tries = 0
    while pending.size:
        if tries >= max_tries:
            raise _no_room(pending.size, extents, image_size, tries)
        scene = np.repeat(pending, max(1, _TRIES_PER_ROUND // pending.size))
        legal, proposals = _propose(extents, scene, image_size, rng)
        tries += scene.size
        # The first legal try of each scene: the tries stand in order.
        placed, first = np.unique(scene[legal], return_index=True)
        corners[placed] = proposals[first]
        pending = pending[~np.isin(pending, placed, assume_unique=True, kind="table")]
    return corners


def _no_room(num_failed: int, extents: np.ndarray, image_size: int, tries: int) -> ValueError:
    num_scenes, count, _ = extents.shape
    return ValueError(
        f"{num_failed} of {num_scenes} scenes with {count} digits could not be arranged without "
        f"overlap in {image_size}x{image_size} pixels ({tries} tries): use a larger image_size, "
        "smaller counts or a smaller digit_scale"
    )


def _propose(
    extents: np.ndarray, scene: np.ndarray, image_size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draws independent positions for the scenes named by `scene` `[n]`, one try each.

    A try is given up at its first overlap, which leaves the law of the legal ones as it is.

    Returns:
        Indices of the legal tries, ascending, `[m]`, and their corners `[m, k, 2]`.
    """
    alive = np.arange(len(scene))
    low: list[np.ndarray] = []  # corners (x_min, y_min) of the boxes so far, each [n, 2]
    high: list[np.ndarray] = []
    for i in range(extents.shape[1]):
        size = extents[scene[alive], i]
        corner = (rng.random(size.shape) * (image_size - size + 1)).astype(extents.dtype)
        far = corner + size
        apart = np.ones(len(alive), bool)
        for other_low, other_high in zip(low, high, strict=True):
            gap: np.ndarray = np.logical_or(corner >= other_high, far <= other_low)
            apart &= gap[:, 0] | gap[:, 1]
        kept = np.flatnonzero(apart)
        alive = alive[kept]
        low = [corners[kept] for corners in (*low, corner)]
        high = [corners[kept] for corners in (*high, far)]
    return alive, np.stack(low, axis=1)


def _draw(
    glyphs: Glyphs,
    glyph_index: np.ndarray,
    offsets: np.ndarray,
    scene_index: np.ndarray,
    num_scenes: int,
    image_size: int,
) -> np.ndarray:
    """Copies every object's ink box into its scene; returns uint8 `[n, size, size, 1]`."""
    images = np.zeros((num_scenes, image_size, image_size), np.uint8)
    objects = zip(
        scene_index.tolist(),
        glyph_index.tolist(),
        glyphs.ink[glyph_index].tolist(),
        offsets.tolist(),
        strict=True,
    )
    for scene, glyph, (x_min, y_min, x_max, y_max), (x, y) in objects:
        ink = glyphs.images[glyph, y_min:y_max, x_min:x_max]
        images[scene, y + y_min : y + y_max, x + x_min : x + x_max] = ink
    return images[..., None]
