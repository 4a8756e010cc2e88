"""Digits that move: a scene over time, for videos. Training sees single scenes only."""

import numpy as np

from air_jax.data.digits import Digits
from air_jax.data.scenes import Scenes, check_composition, make_glyphs, place


def moving_digits(
    digits: Digits,
    *,
    count: int,
    num_frames: int,
    image_size: int,
    speed: float,
    digit_scale: float = 1.0,
    seed: int = 0,
) -> Scenes:
    """Some digits that move straight on, and turn back at the border and at each other.

    Args:
        digits: of which they are drawn.
        count: how many.
        num_frames: T.
        image_size: side of the images, pixels.
        speed: pixels a frame, of each digit.
        digit_scale: factor on the digits' size.
        seed: of everything that is drawn.
    Returns:
        The frames, T scenes; digits and boxes move by fractions of a pixel.
    Raises:
        ValueError: if a number is out of range, or so many digits do not fit.
    """
    check_composition(num_frames, (count,), image_size, 0.0)
    if speed < 0 or digit_scale <= 0:
        raise ValueError(
            f"speed is {speed} and digit_scale {digit_scale}; neither is negative, and digits have "
            "a size."
        )
    rng = np.random.Generator(np.random.PCG64(seed))
    chosen = rng.integers(len(digits.images), size=count)
    sides = np.full(count, round(digit_scale * digits.images.shape[1]))
    glyphs = make_glyphs(digits.images, chosen, sides)
    extents = glyphs.ink[:, 2:] - glyphs.ink[:, :2]
    if count and extents.max() > image_size:
        raise ValueError(
            f"a digit's ink is {extents.max()} pixels wide or tall, more than image_size = "
            f"{image_size}: use a larger image_size or a smaller digit_scale"
        )
    corners = np.zeros((0, 2))
    if count:
        corners = place(extents[None], image_size, rng)[0].astype(float)
    angles = rng.uniform(0, 2 * np.pi, count)
    velocities = speed * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    core = glyphs.core - np.tile(glyphs.ink[:, :2], 2)

    images = np.zeros((num_frames, image_size, image_size, 1), np.uint8)
    boxes = np.zeros((num_frames, count, 4), np.float32)
    for frame in range(num_frames):
        canvas = np.zeros((image_size, image_size), np.float32)
        for glyph, (x_min, y_min, x_max, y_max), corner in zip(
            glyphs.images, glyphs.ink, corners, strict=True
        ):
            _add(canvas, glyph[y_min:y_max, x_min:x_max], corner)
        images[frame, ..., 0] = np.rint(canvas.clip(0, 255))
        boxes[frame] = core + np.tile(corners, 2)
        corners, velocities = _move(corners, velocities, extents, image_size)
    labels = np.repeat(digits.labels[chosen][None].astype(np.int32), num_frames, axis=0)
    counts = np.full(num_frames, count, np.int32)
    return Scenes(images, counts, boxes, labels, np.zeros(labels.shape, np.float32))


def _add(canvas: np.ndarray, glyph: np.ndarray, corner: np.ndarray) -> None:
    """Adds a glyph, in place, whose corner `(x, y)` lies between pixels: bilinearly."""
    column, row = np.floor(corner).astype(int)
    right, down = corner - (column, row)
    height, width = glyph.shape
    for dy, share_y in ((0, 1 - down), (1, down)):
        for dx, share_x in ((0, 1 - right), (1, right)):
            if share := share_x * share_y:
                rows = slice(row + dy, row + dy + height)
                canvas[rows, column + dx : column + dx + width] += share * glyph


def _move(
    corners: np.ndarray, velocities: np.ndarray, extents: np.ndarray, image_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Corners `[k, 2]` and velocities `[k, 2]` of the next frame.

    Two whose boxes would overlap take each other's velocity and stay where they are: they come
    apart as balls of one mass do.
    """
    velocities = velocities.copy()
    after = corners + velocities
    beyond = (after < 0) | (after > image_size - extents)
    velocities[beyond] *= -1
    after = np.clip(after, 0, image_size - extents)
    stays = np.zeros(len(corners), bool)
    for i in range(len(corners)):
        for j in range(i):
            apart = (after[i] >= after[j] + extents[j]) | (after[j] >= after[i] + extents[i])
            if not apart.any():
                velocities[[i, j]] = velocities[[j, i]]
                stays[[i, j]] = True
    # Who stays is where it was, in whose way another may come meanwhile: then all stay.
    moved = np.where(stays[:, None], corners, after)
    if stays.any() and _overlap(moved, extents):
        moved = corners
    return moved, velocities


def _overlap(corners: np.ndarray, extents: np.ndarray) -> bool:
    """Whether any two boxes do."""
    low, high = corners, corners + extents
    meet = ((low[:, None] < high) & (low < high[:, None])).all(-1)
    return bool(np.triu(meet, 1).any())
