"""Composition of sprites: coloured shapes that hide one another, and none of them too much."""

import numbers
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from air_jax import metrics
from air_jax.data.scenes import Scenes, add_noise, check_composition

SHAPES = ("circle", "square", "triangle", "diamond")  # a sprite's label is its place here
MIN_VISIBLE = 0.25  # of a sprite's area: with less of it, nobody could count it

_SUBPIXELS = 16  # per pixel and axis, of which coverage is the mean
_SATURATION, _VALUE = (0.6, 1.0), (0.7, 1.0)
_CHUNK = 256  # scenes drawn at a time
_MAX_ROUNDS = 500  # enough where one try in twenty is legal; some ten seconds where none is


class _Templates(NamedTuple):
    """Every shape in every size; T templates, the shapes of the least size first.

    Attributes:
        coverage: share of each pixel inside the shape, float32 `[T, R + 1, R + 1]`; the last row
            and the last column are empty, to be read beyond the shape.
        areas: sums of the coverage, pixels, `[T]`.
        boxes: extent of the pixels that are covered by more than half, float32 `[T, 4]`.
    """

    coverage: np.ndarray
    areas: np.ndarray
    boxes: np.ndarray


def compose_sprites(
    *,
    num_scenes: int,
    counts: Sequence[int],
    image_size: int,
    sprite_size: tuple[int, int],
    noise: float = 0.0,
    seed: int | np.random.SeedSequence,
) -> Scenes:
    """Composes images of coloured shapes on black, which may cover one another.

    Every count has an equal share of the scenes (up to rounding), in shuffled order. Shape and
    size of a sprite are uniform, and so are positions over all arrangements in which every sprite
    lies inside the image and keeps at least `MIN_VISIBLE` of its area visible: all positions of a
    scene are drawn independently, and again until that holds, the sprites being kept. Hues within
    a scene are at least `1 / (2 max(counts))` of the circle apart, so that no border is lost
    between two sprites of one colour. Edges are anti-aliased.

    Args:
        num_scenes: number of images.
        counts: the possible numbers of sprites in an image.
        image_size: side of the images, pixels.
        sprite_size: least and greatest side of a sprite (diameter of a circle; base and height of
            a triangle; diagonal of a diamond), whole pixels.
        noise: as in `scenes.compose_scenes`.
        seed: the same seed and arguments give the same scenes.
    Returns:
        The scenes, with C = 3 and K = max(counts); objects from back to front, each covering those
        before it; labels are places in `SHAPES`. A box is that of the whole sprite, with what is
        hidden of it.
    Raises:
        ValueError: if an argument is out of range, a sprite is larger than the image, or scenes
            could not be arranged in a bounded number of tries.
    """
    check_composition(num_scenes, counts, image_size, noise)
    sprite_size = _check_size(sprite_size, image_size)
    rng = np.random.Generator(np.random.PCG64(seed))
    max_count = max(counts)
    scene_counts = rng.permutation(np.resize(np.asarray(counts, np.int32), num_scenes))
    shape = (num_scenes, max_count)
    labels = rng.integers(len(SHAPES), size=shape).astype(np.int32)
    sides = rng.integers(sprite_size[0], sprite_size[1] + 1, size=shape)
    colours = _draw_colours(shape, rng)
    templates = _make_templates(sprite_size)
    template_index = labels + len(SHAPES) * (sides - sprite_size[0])

    images = np.zeros((num_scenes, image_size, image_size, 3), np.uint8)
    corners = np.zeros((*shape, 2), np.int64)
    hidden = np.zeros(shape, np.float32)
    # The largest count first: it is the one that may be impossible.
    for count in sorted(set(counts) - {0}, reverse=True):
        members = np.flatnonzero(scene_counts == count)
        for start in range(0, len(members), _CHUNK):
            chunk = members[start : start + _CHUNK]
            images[chunk], corners[chunk, :count], hidden[chunk, :count] = _arrange(
                templates,
                template_index[chunk, :count],
                sides[chunk, :count],
                colours[chunk, :count],
                image_size,
                rng,
            )

    present = np.arange(max_count) < scene_counts[:, None]
    boxes = np.zeros((*shape, 4), np.float32)
    boxes[present] = (templates.boxes[template_index] + np.tile(corners, 2))[present]
    # Last, so that the same seed gives the same scenes with and without it.
    if noise:
        add_noise(images, noise, rng)
    return Scenes(images, scene_counts, boxes, np.where(present, labels, np.int32(-1)), hidden)


def _check_size(sprite_size: tuple[int, int], image_size: int) -> tuple[int, int]:
    whole = all(isinstance(side, numbers.Integral) for side in sprite_size)
    if len(sprite_size) != 2 or not whole or not 2 <= sprite_size[0] <= sprite_size[1]:
        raise ValueError(
            f"sprite_size is {tuple(sprite_size)!r}; it must be two whole numbers of pixels, at "
            "least 2: the least side and the greatest"
        )
    if sprite_size[1] > image_size:
        raise ValueError(
            f"a sprite is up to {sprite_size[1]} pixels wide and tall, more than image_size = "
            f"{image_size}: use a larger image_size or a smaller sprite_size"
        )
    return int(sprite_size[0]), int(sprite_size[1])


def _draw_colours(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Saturated colours, RGB in [0, 1], float32 `[n, k, 3]`.

    Hues are k equal parts of the circle, each off its place by at most a quarter of a part.
    """
    num_scenes, count = shape
    slots = rng.permuted(np.tile(np.arange(count), (num_scenes, 1)), axis=1)
    hue = rng.random((num_scenes, 1)) + (slots + rng.uniform(-0.25, 0.25, shape)) / max(count, 1)
    saturation = rng.uniform(*_SATURATION, shape)[..., None]
    value = rng.uniform(*_VALUE, shape)[..., None]
    # Distance of each channel from its hue, in sixths of the circle: HSV to RGB.
    distance = np.abs((6 * hue[..., None] - np.array([0, 2, 4]) + 3) % 6 - 3)
    channels = np.clip(2 - distance, 0, 1)
    return (value * (1 - saturation * (1 - channels))).astype(np.float32)


def _make_templates(sprite_size: tuple[int, int]) -> _Templates:
    """Draws every shape in every size."""
    low, high = sprite_size
    num_sizes = high - low + 1
    coverage = np.zeros((num_sizes, len(SHAPES), high + 1, high + 1), np.float32)
    for i, side in enumerate(range(low, high + 1)):
        for label, shape in enumerate(SHAPES):
            coverage[i, label, :side, :side] = _coverage(shape, side)
    flat = coverage.reshape(-1, high + 1, high + 1)
    return _Templates(flat, flat.sum((1, 2)), metrics.ink_boxes(flat))


def _coverage(shape: str, side: int) -> np.ndarray:
    """Share of each pixel that lies inside a shape of this side, `[side, side]`."""
    # Twice the subpixels' distances from the top and from the middle: in integers, so that none
    # falls to either side of an edge by rounding.
    size = side * _SUBPIXELS
    down = 2 * np.arange(size)[:, None] + 1
    across, right = np.abs(down - size), np.abs(down.T - size)
    if shape == "circle":
        inside = across**2 + right**2 <= size**2
    elif shape == "square":
        inside = np.ones((size, size), bool)
    elif shape == "triangle":
        inside = 2 * right <= down
    elif shape == "diamond":
        inside = across + right <= size
    else:
        raise ValueError(f"shape is {shape!r}; valid names are {SHAPES}")
    return inside.reshape(side, _SUBPIXELS, side, _SUBPIXELS).mean((1, 3))


def _arrange(
    templates: _Templates,
    template_index: np.ndarray,
    sides: np.ndarray,
    colours: np.ndarray,
    image_size: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws positions until every sprite is visible enough, and the scenes.

    Args:
        templates: all shapes.
        template_index: which template each sprite is, `[n, k]`.
        sides: of the sprites, pixels, `[n, k]`.
        colours: `[n, k, 3]`.
        image_size: side of the images, pixels.
        rng: source of randomness.
    Returns:
        Images uint8 `[n, H, W, 3]`, corners (x_min, y_min) `[n, k, 2]`, hidden shares `[n, k]`.
    Raises:
        ValueError: if scenes remain after the greatest number of tries.
    """
    num_scenes, count = sides.shape
    images = np.zeros((num_scenes, image_size, image_size, 3), np.uint8)
    corners = np.zeros((num_scenes, count, 2), np.int64)
    hidden = np.zeros((num_scenes, count), np.float32)
    waiting = np.arange(num_scenes)
    for _ in range(_MAX_ROUNDS):
        room = image_size - sides[waiting][..., None] + 1
        tried = (rng.random((len(waiting), count, 2)) * room).astype(np.int64)
        shown = _visible_parts(templates.coverage, template_index[waiting], tried, image_size)
        share = shown.sum((2, 3)) / templates.areas[template_index[waiting]]
        legal = (share >= MIN_VISIBLE).all(1)
        done = waiting[legal]
        corners[done] = tried[legal]
        # What lies in front of nothing may be off 1 by rounding.
        hidden[done] = np.where(share < 1 - 1e-5, 1 - share, 0)[legal]
        mixed = np.swapaxes(colours[done], 1, 2) @ shown[legal].reshape(
            len(done), count, image_size**2
        )
        mixed = np.rint(255 * mixed.clip(0, 1)).astype(np.uint8)
        images[done] = mixed.reshape(len(done), 3, image_size, image_size).transpose(0, 2, 3, 1)
        waiting = waiting[~legal]
        if not len(waiting):
            return images, corners, hidden
    raise ValueError(
        f"scenes with {count} sprites could not be arranged in {image_size}x{image_size} pixels "
        f"such that a share of {MIN_VISIBLE} of each is visible ({_MAX_ROUNDS} tries each): use a "
        "larger image_size, smaller counts or a smaller sprite_size"
    )


def _visible_parts(
    coverage: np.ndarray, template_index: np.ndarray, corners: np.ndarray, image_size: int
) -> np.ndarray:
    """Share of every pixel that shows each sprite; later ones cover earlier ones.

    Args:
        coverage: of the templates, `[T, R + 1, R + 1]`, the last row and column empty.
        template_index: `[n, k]`.
        corners: (x_min, y_min), `[n, k, 2]`.
        image_size: side of the images, pixels.
    Returns:
        float32 `[n, k, H, W]`; what the k leave over shows the background.
    """
    num_scenes, count = template_index.shape
    beyond = coverage.shape[1] - 1
    places = np.arange(image_size) - corners[..., None]  # [n, k, 2, H]: pixels from the corner
    places = np.where((places >= 0) & (places < beyond), places, beyond)
    columns, rows = places[:, :, 0, None, :], places[:, :, 1, :, None]
    shown = np.empty((num_scenes, count, image_size, image_size), np.float32)
    free = np.ones((num_scenes, image_size, image_size), np.float32)
    for i in reversed(range(count)):  # from front to back
        covered = coverage[template_index[:, i, None, None], rows[:, i], columns[:, i]]
        shown[:, i] = free * covered
        free -= shown[:, i]
    return shown
