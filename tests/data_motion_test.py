"""Digits that move stay whole, inside and apart, and go on by their speed."""

import chex
import numpy as np
import pytest

from air_jax.data.digits import Digits
from air_jax.data.motion import moving_digits
from air_jax.metrics import ink_boxes

SIZE = 50


@pytest.fixture(scope="module")
def squares():
    """Ten "digits" of 28 x 28 with solid ink, of sides 8 to 17."""
    images = np.zeros((10, 28, 28), np.uint8)
    for i in range(10):
        images[i, 5 : 13 + i, 6 : 14 + i] = 200
    return Digits(images, np.arange(10, dtype=np.int32))


def overlapping(boxes):
    low, high = boxes[..., :2], boxes[..., 2:]
    meet = (low[:, :, None] < high[:, None] - 1e-4) & (low[:, None] < high[:, :, None] - 1e-4)
    return np.triu(meet.all(-1), 1).any()


def test_frames_are_scenes_of_the_same_digits(squares):
    scenes = moving_digits(squares, count=2, num_frames=40, image_size=SIZE, speed=1.3)
    chex.assert_shape(scenes.images, (40, SIZE, SIZE, 1))
    chex.assert_type(scenes.images, np.uint8)
    assert (scenes.counts == 2).all() and (scenes.labels == scenes.labels[0]).all()
    # Solid ink: as much of it in every frame, but for rounding of its edges.
    ink = scenes.images.sum((1, 2, 3), dtype=float)
    np.testing.assert_allclose(ink, ink[0], rtol=0.01)
    again = moving_digits(squares, count=2, num_frames=40, image_size=SIZE, speed=1.3)
    chex.assert_trees_all_equal(again, scenes)


def test_boxes_are_where_the_ink_is(squares):
    scenes = moving_digits(squares, count=1, num_frames=60, image_size=SIZE, speed=0.7, seed=3)
    found = ink_boxes(scenes.images[..., 0])
    np.testing.assert_allclose(found, scenes.boxes[:, 0], atol=0.75)
    # By fractions of a pixel, not from one to the next.
    steps = np.diff(scenes.boxes[:, 0, :2], axis=0)
    assert ((np.abs(steps) > 0.01) & (np.abs(steps) < 0.99)).any()


@pytest.mark.parametrize("seed", range(6))
def test_digits_stay_inside_and_apart(squares, seed):
    scenes = moving_digits(squares, count=3, num_frames=200, image_size=SIZE, speed=2.0, seed=seed)
    assert scenes.boxes.min() >= -1e-4 and scenes.boxes.max() <= SIZE + 1e-4
    assert not overlapping(scenes.boxes)


def test_a_digit_alone_keeps_its_speed(squares):
    scenes = moving_digits(squares, count=1, num_frames=100, image_size=SIZE, speed=1.5, seed=1)
    steps = np.linalg.norm(np.diff(scenes.boxes[:, 0, :2], axis=0), axis=-1)
    # Slower only where it turns back.
    assert steps.max() <= 1.5 + 1e-4 and np.median(steps) > 1.5 - 1e-4
    still = moving_digits(squares, count=1, num_frames=5, image_size=SIZE, speed=0.0)
    assert (still.boxes == still.boxes[0]).all()


def test_no_digit_moves_too(squares):
    scenes = moving_digits(squares, count=0, num_frames=3, image_size=SIZE, speed=1.0)
    assert not scenes.images.any() and scenes.boxes.shape == (3, 0, 4)


def test_a_larger_scale_draws_larger_digits(squares):
    options = {"count": 1, "num_frames": 1, "image_size": SIZE, "speed": 1.0}
    small, large = (
        moving_digits(squares, **options, digit_scale=scale).boxes[0, 0] for scale in (1.0, 2.0)
    )
    np.testing.assert_allclose(large[2:] - large[:2], 2 * (small[2:] - small[:2]), atol=1.5)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"speed": -1.0}, "speed is -1"),
        ({"num_frames": 0}, "num_scenes"),
        ({"count": -1}, "counts"),
        ({"digit_scale": 0.0}, "digit_scale"),
        ({"digit_scale": 7.0}, "image_size"),
        ({"count": 40}, "could not be arranged"),
    ],
)
def test_what_does_not_fit_is_refused(squares, changes, message):
    options = {"count": 1, "num_frames": 2, "image_size": SIZE, "speed": 1.0, **changes}
    with pytest.raises(ValueError, match=message):
        moving_digits(squares, **options)
