"""Tests of air_jax.data.scenes."""

import itertools

import numpy as np
import pytest
import scipy.stats
from PIL import Image

from air_jax.data.digits import Digits
from air_jax.data.scenes import compose_scenes


def _rectangles(sizes, side=28):
    """Digits of uniform random ink in the middle of the canvas; the label is the index."""
    rng = np.random.default_rng(0)
    images = np.zeros((len(sizes), side, side), np.uint8)
    for image, (width, height) in zip(images, sizes, strict=True):
        x, y = (side - width) // 2, (side - height) // 2
        image[y : y + height, x : x + width] = rng.integers(1, 256, (height, width))
    return Digits(images, np.arange(len(sizes), dtype=np.int32))


def _compose(digits, **options):
    defaults = {"num_scenes": 50, "counts": (0, 1, 2), "image_size": 50, "seed": 0}
    return compose_scenes(digits, **({"digit_scale": (1.0, 1.0)} | defaults | options))


def _box(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


MIXED = [(20, 20), (4, 20), (9, 13), (17, 6), (12, 12)]


def test_shapes_and_types_and_what_stands_for_absent_objects():
    scenes = _compose(_rectangles(MIXED), counts=(0, 1, 3))
    assert scenes.images.shape == (50, 50, 50, 1) and scenes.images.dtype == np.uint8
    assert scenes.counts.shape == (50,) and scenes.counts.dtype == np.int32
    assert scenes.boxes.shape == (50, 3, 4) and scenes.boxes.dtype == np.float32
    assert scenes.labels.shape == (50, 3) and scenes.labels.dtype == np.int32
    present = np.arange(3) < scenes.counts[:, None]
    np.testing.assert_array_equal(scenes.labels >= 0, present)
    np.testing.assert_array_equal(np.any(scenes.boxes != 0, axis=-1), present)
    np.testing.assert_array_equal(scenes.labels[~present], -1)
    np.testing.assert_array_equal(np.any(scenes.images, axis=(1, 2, 3)), scenes.counts > 0)


def test_images_are_their_digits_unchanged_with_disjoint_ink_boxes_inside():
    digits = _rectangles(MIXED)
    scenes = _compose(digits, num_scenes=200, counts=(0, 1, 2, 3))
    for image, boxes, labels in zip(scenes.images, scenes.boxes, scenes.labels, strict=True):
        expected = np.zeros((50, 50), np.int64)
        covered = np.zeros((50, 50), np.int64)
        for box, label in zip(boxes, labels, strict=True):
            if label < 0:
                continue
            digit = digits.images[label]
            core, ink = _box(digit > digit.max() / 2), _box(digit > 0)
            shift = box - core  # where the digit's canvas has gone to
            assert shift[0] == shift[2] and shift[1] == shift[3]
            x_min, y_min, x_max, y_max = np.asarray(ink + shift, int)
            assert 0 <= x_min and 0 <= y_min and x_max <= 50 and y_max <= 50
            covered[y_min:y_max, x_min:x_max] += 1
            expected[y_min:y_max, x_min:x_max] += digit[ink[1] : ink[3], ink[0] : ink[2]]
        assert covered.max() <= 1
        np.testing.assert_array_equal(image[:, :, 0], expected)


def test_box_is_the_extent_of_the_ink_above_half_its_maximum():
    image = np.zeros((1, 28, 28), np.uint8)
    image[0, 5:20, 4:18] = 100  # 100 is half of 200: outside
    image[0, 8:16, 6:9] = 101
    image[0, 12, 7] = 200
    scenes = _compose(Digits(image, np.zeros(1, np.int32)), counts=(1,))
    for scene, box in zip(scenes.images, scenes.boxes[:, 0], strict=True):
        np.testing.assert_array_equal(box, _box(scene[:, :, 0] > 100))
        assert (box[2] - box[0], box[3] - box[1]) == (3, 8)


def test_counts_have_equal_shares_in_shuffled_order():
    counts = _compose(_rectangles(MIXED), num_scenes=101, counts=(0, 1, 3)).counts
    assert np.bincount(counts).tolist() == [34, 34, 0, 33]
    changes = np.count_nonzero(np.diff(counts))
    assert changes > 40  # 67 are expected of a random order; 2 of a sorted one


def test_arrangements_of_two_digits_are_uniform_over_all_legal_ones():
    # Placing one digit after the other would favour first positions that leave little room.
    scenes = _compose(_rectangles([(2, 3)], side=4), num_scenes=20_000, counts=(2,), image_size=6)
    corners = [(x, y) for x in range(5) for y in range(4)]
    legal = {
        (a, b): 0
        for a, b in itertools.product(corners, corners)
        if abs(a[0] - b[0]) >= 2 or abs(a[1] - b[1]) >= 3
    }
    ink = _rectangles([(2, 3)], side=4).images[0]
    shift = np.array(_box(ink > ink.max() / 2)[:2]) - np.array(_box(ink > 0)[:2])
    for first, second in scenes.boxes[:, :, :2].astype(int) - shift:
        legal[tuple(first.tolist()), tuple(second.tolist())] += 1
    assert scipy.stats.chisquare(list(legal.values())).pvalue > 1e-3


def test_classes_stay_uniform_where_large_digits_rarely_fit():
    # Two 20x20 boxes are apart in 1 - (1 - 12/23^2)^2 = 4.5 % of tries, two 3x3 boxes in 98 %.
    scenes = _compose(_rectangles([(20, 20), (3, 3)]), num_scenes=2000, counts=(2,), image_size=42)
    share = np.mean(scenes.labels == 0)
    assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(4000)


@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.6, 1.2)])
def test_same_seed_gives_the_same_scenes_and_another_seed_others(scale):
    digits = _rectangles(MIXED)
    options = {"image_size": 60, "digit_scale": scale}
    first, second = (_compose(digits, seed=3, **options) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    other = _compose(digits, seed=4, **options)
    assert np.any(first.images != other.images) and np.any(first.counts != other.counts)


def test_scaled_digits_are_resampled_as_pillow_does():
    rng = np.random.default_rng(1)
    images = rng.integers(100, 256, (6, 28, 28), np.uint8)  # ink everywhere: the crop is all of it
    scenes = _compose(
        Digits(images, np.arange(6, dtype=np.int32)),
        num_scenes=100,
        counts=(1,),
        digit_scale=(0.5, 1.5),
    )
    sides = set()
    for scene, label in zip(scenes.images[..., 0], scenes.labels[:, 0], strict=True):
        x_min, y_min, x_max, y_max = _box(scene > 0)
        side = x_max - x_min
        assert y_max - y_min == side
        expected = Image.fromarray(images[label]).resize((side, side), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(scene[y_min:y_max, x_min:x_max], np.asarray(expected))
        sides.add(side)
    assert min(sides) in (14, 15) and max(sides) in (41, 42) and len(sides) > 20


def test_shrinking_is_antialiased():
    stripes = np.zeros((1, 28, 28), np.uint8)
    stripes[:, :, ::2] = 200
    scenes = _compose(
        Digits(stripes, np.zeros(1, np.int32)), num_scenes=5, counts=(1,), digit_scale=(0.25, 0.25)
    )
    ink = scenes.images[scenes.images > 0]
    assert ink.size == 5 * 7 * 7
    assert np.all(np.abs(ink.astype(int) - 100) < 30)  # nearest pixels would give 0 or 200


def test_six_digits_fit_where_there_is_room():
    scenes = _compose(_rectangles(MIXED), counts=range(7), image_size=80, num_scenes=70)
    assert np.bincount(scenes.counts).tolist() == [10] * 7


def test_no_digits_at_all_gives_black_images():
    scenes = _compose(_rectangles(MIXED), counts=(0,), num_scenes=3)
    assert not scenes.images.any() and not scenes.counts.any()
    assert scenes.boxes.shape == (3, 0, 4) and scenes.labels.shape == (3, 0)


@pytest.mark.parametrize(
    ("count", "num_scenes"),
    [
        (7, 30),  # 7 * 20 * 20 > 50 * 50: there is no such arrangement
        (6, 30),  # 6 * 20 * 20 < 50 * 50: there is none either, but by tries alone one can tell
    ],
)
def test_digits_that_cannot_fit_end_in_an_error_that_says_what_to_change(count, num_scenes):
    message = rf"^30 of 30 scenes with {count} digits .* 50x50 .*image_size.*counts.*digit_scale"
    with pytest.raises(ValueError, match=message):
        _compose(_rectangles([(20, 20)]), counts=(0, count), num_scenes=2 * num_scenes)


def test_digit_larger_than_the_image_is_refused():
    _compose(_rectangles([(20, 20)]), image_size=20, counts=(1,))
    with pytest.raises(ValueError, match="20 pixels .* image_size = 19"):
        _compose(_rectangles([(20, 20)]), image_size=19, counts=(1,))


def test_noise_is_gaussian_of_the_given_size_cut_off_at_black_and_white():
    digits = _rectangles(MIXED)
    clean, noisy = _compose(digits, num_scenes=2_500), _compose(digits, num_scenes=2_500, noise=0.1)
    np.testing.assert_array_equal(noisy.counts, clean.counts)
    np.testing.assert_array_equal(noisy.boxes, clean.boxes)
    # Where nothing is cut off (ink of medium grey) mean and deviation are those asked for.
    medium = (clean.images > 100) & (clean.images < 155)
    added = noisy.images[medium] / 255 - clean.images[medium] / 255
    assert abs(added.mean()) < 5 * 0.1 / np.sqrt(added.size)
    np.testing.assert_allclose(added.std(), 0.1, rtol=0.01)
    # On black, half of it is.
    black = noisy.images[clean.images == 0]
    np.testing.assert_allclose((black > 0).mean(), 0.5, atol=0.01)
    # Different in every image, the ones after the first thousand too.
    empty = noisy.images[clean.counts == 0]
    assert len(np.unique(empty.reshape(len(empty), -1)[:, :100], axis=0)) == len(empty)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"counts": ()}, "counts"),
        ({"counts": (1, -1)}, "counts"),
        ({"counts": (1, 1)}, "counts"),
        ({"counts": (1, 1.5)}, "counts"),
        ({"num_scenes": 0}, "num_scenes"),
        ({"image_size": 0}, "image_size"),
        ({"image_size": 50.0}, "image_size"),
        ({"digit_scale": (0.0, 1.0)}, "digit_scale"),
        ({"noise": -0.1}, "noise"),
        ({"noise": np.nan}, "noise"),
        ({"digit_scale": (1.2, 1.0)}, "digit_scale"),
        ({"digit_scale": (1.0, np.inf)}, "digit_scale"),
        ({"digit_scale": (0.01, 0.02)}, "digit_scale"),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        _compose(_rectangles(MIXED), **options)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 28, 28), np.uint8), np.zeros(2, np.int32), "no ink"),
        (np.ones((2, 28, 28), np.float32), np.zeros(2, np.int32), "float32"),
        (np.ones((2, 28, 20), np.uint8), np.zeros(2, np.int32), "shape"),
        (np.ones((2, 28, 28), np.uint8), np.zeros(3, np.int32), "label"),
        (np.ones((0, 28, 28), np.uint8), np.zeros(0, np.int32), "at least one"),
    ],
)
def test_unusable_digits_are_refused(images, labels, message):
    with pytest.raises(ValueError, match=message):
        _compose(Digits(images, labels), counts=(1,))
