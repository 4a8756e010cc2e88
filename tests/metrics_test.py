"""Metrics against hand-derived values and slow, literal re-statements of their definitions."""

import itertools
import math
import time

import numpy as np
import pytest

from air_jax import metrics

SQUARE = (0, 0, 10, 10)
FAR = (30, 30, 40, 40)


def shifted(box, dx):
    return (box[0] + dx, box[1], box[2] + dx, box[3])


def test_count_accuracy_is_the_share_of_equal_counts():
    assert metrics.count_accuracy([0, 1, 2, 2], [0, 1, 1, 2]) == 0.75


def test_images_of_unknown_count_are_left_out():
    assert metrics.count_accuracy([0, 1, 2], [-1, 1, 1]) == 0.5
    assert metrics.count_accuracy_per_count([0, 1, 2], [-1, 1, 1]) == {1: 0.5}
    assert metrics.confusion_matrix([0, 1, 2], [-1, 1, 1], 3).sum() == 2
    assert math.isnan(metrics.count_accuracy([1, 2], [-1, -1]))


def test_accuracy_per_count_names_only_counts_that_occur():
    per_count = metrics.count_accuracy_per_count([3, 3, 3, 0], [3, 3, 1, 0])
    assert per_count == {0: 1.0, 1: 0.0, 3: 1.0}


def test_counts_of_different_length_are_refused():
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        metrics.count_accuracy([1, 2], [1, 2, 3])


def test_confusion_matrix_has_true_counts_in_rows():
    matrix = metrics.confusion_matrix([0, 2, 2, 1], [0, 1, 1, 2], 3)
    np.testing.assert_array_equal(matrix, [[1, 0, 0], [0, 0, 2], [0, 1, 0]])


@pytest.mark.parametrize(("inferred", "true"), [([3], [0]), ([0], [3]), ([-1], [0])])
def test_confusion_matrix_refuses_a_count_that_does_not_fit(inferred, true):
    with pytest.raises(ValueError, match="num_counts=3"):
        metrics.confusion_matrix(inferred, true, 3)


def test_ink_box_spans_the_edges_of_the_inked_pixels():
    image = np.zeros((6, 8), np.float32)
    image[2:5, 3] = 1.0
    image[4, 1:7] = 0.9
    np.testing.assert_array_equal(metrics.ink_boxes(image), [1, 2, 7, 5])


def test_ink_box_ignores_pixels_at_or_below_half_of_the_objects_own_maximum():
    faint = np.zeros((5, 5))
    faint[2, 2] = 0.2
    faint[2, 3] = 0.11
    faint[2, 1] = 0.1
    faint[4, 4] = 0.05
    np.testing.assert_array_equal(metrics.ink_boxes(faint), [2, 2, 4, 3])


def test_half_of_an_odd_integer_maximum_is_not_rounded():
    image = np.zeros((3, 3), np.uint8)
    image[0] = [255, 127, 128]
    np.testing.assert_array_equal(metrics.ink_boxes(image), [0, 0, 3, 1])
    image[0] = [255, 127, 127]
    np.testing.assert_array_equal(metrics.ink_boxes(image), [0, 0, 1, 1])


def test_an_object_without_ink_has_a_box_of_zeros():
    objects = np.zeros((2, 3, 5, 5), np.float32)
    objects[1, 2, 0, 0] = 1.0
    boxes = metrics.ink_boxes(objects)
    assert boxes.shape == (2, 3, 4)
    assert boxes.dtype == np.float32
    np.testing.assert_array_equal(boxes[1, 2], [0, 0, 1, 1])
    assert np.count_nonzero(boxes.any(axis=-1)) == 1


def test_iou_of_hand_made_boxes():
    # Half overlap of equal squares: 50 / 150. A quarter inside: 25 / 100.
    others = [SQUARE, shifted(SQUARE, 5), (0, 0, 5, 5), shifted(SQUARE, 10), FAR, (0, 0, 0, 0)]
    np.testing.assert_allclose(metrics.box_iou([SQUARE], others), [[1, 1 / 3, 0.25, 0, 0, 0]])


def test_zero_boxes_overlap_nothing_not_even_each_other():
    assert metrics.box_iou([[0, 0, 0, 0]], [[0, 0, 0, 0]]).tolist() == [[0.0]]


def test_iou_counts_covered_unit_cells():
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 9, (2, 4, 3, 2, 2))
    boxes = np.concatenate([corners.min(axis=-2), corners.max(axis=-2)], axis=-1)

    def cells(box):
        x_min, y_min, x_max, y_max = box
        return set(itertools.product(range(x_min, x_max), range(y_min, y_max)))

    iou = metrics.box_iou(boxes[0], boxes[1])
    assert iou.shape == (4, 3, 3)
    for image, i, j in np.ndindex(4, 3, 3):
        a, b = cells(boxes[0, image, i]), cells(boxes[1, image, j])
        expected = len(a & b) / len(a | b) if a | b else 0.0
        assert iou[image, i, j] == pytest.approx(expected)


def test_boxes_of_the_wrong_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(4,\)"):
        metrics.box_iou([0, 0, 1, 1], [[0, 0, 1, 1]])


def localise(images):
    """`images`: list of (boxes, scores, inferred count, true boxes)."""
    num_true = max(len(image[3]) for image in images)
    true_boxes = np.zeros((len(images), num_true, 4))
    for row, image in zip(true_boxes, images, strict=True):
        row[: len(image[3])] = np.reshape(image[3], (-1, 4))
    return metrics.localisation(
        [image[0] for image in images],
        [image[1] for image in images],
        [image[2] for image in images],
        true_boxes,
        [len(image[3]) for image in images],
    )


def test_perfect_boxes_score_one_everywhere():
    result = localise([([SQUARE, FAR], [0.9, 0.8], 2, [FAR, SQUARE])])
    assert result == {"average_precision_50": 1.0, "mean_iou": 1.0, "share_matched": 1.0}


def test_average_precision_of_a_hit_a_miss_and_a_hit():
    # Three true objects. Recall 1/3 at precision 1, 2/3 at 2/3: 1/3 + 1/3 * 2/3 = 5/9.
    images = [
        ([SQUARE, (20, 0, 30, 10)], [0.9, 0.8], 1, [SQUARE, FAR]),
        ([FAR, (0, 0, 0, 0)], [0.7, 0.1], 1, [FAR]),
    ]
    assert localise(images)["average_precision_50"] == pytest.approx(5 / 9)


def test_average_precision_uses_the_envelope():
    # Miss, hit, hit: precision 0, 1/2, 2/3; the envelope is 2/3 throughout.
    images = [([(20, 0, 30, 10), SQUARE, FAR], [0.9, 0.8, 0.7], 3, [SQUARE, FAR])]
    assert localise(images)["average_precision_50"] == pytest.approx(2 / 3)


def test_average_precision_looks_beyond_the_inferred_count_and_the_matches_do_not():
    result = localise([([SQUARE, FAR], [0.9, 0.4], 1, [SQUARE, FAR])])
    assert result == {"average_precision_50": 1.0, "mean_iou": 1.0, "share_matched": 0.5}


def test_a_second_proposal_on_the_same_object_is_wrong():
    # Hit, duplicate, hit: 1/2 * 1 + 1/2 * 2/3.
    images = [([SQUARE, SQUARE, FAR], [0.9, 0.8, 0.7], 3, [SQUARE, FAR])]
    assert localise(images)["average_precision_50"] == pytest.approx(5 / 6)


def test_the_more_certain_proposal_takes_the_object():
    # Steps in the other order than their scores: miss (0.9) comes before hit (0.2).
    images = [([SQUARE, FAR], [0.2, 0.9], 2, [SQUARE])]
    assert localise(images)["average_precision_50"] == pytest.approx(0.5)


def test_proposals_of_equal_score_enter_together():
    hit, miss = ([SQUARE], [0.5], 1, [SQUARE]), ([FAR], [0.5], 1, [SQUARE])
    # One point of the curve: recall 1/2 at precision 1/2.
    assert localise([hit, miss])["average_precision_50"] == pytest.approx(0.25)
    assert localise([miss, hit])["average_precision_50"] == pytest.approx(0.25)


def test_an_overlap_of_exactly_one_half_is_a_match():
    # 10 x 10 inside 20 x 10: 100 / 200.
    result = localise([([(0, 0, 20, 10)], [0.9], 1, [SQUARE])])
    assert result == {"average_precision_50": 1.0, "mean_iou": 0.5, "share_matched": 1.0}
    worse = localise([([(0, 0, 20.1, 10)], [0.9], 1, [SQUARE])])
    assert worse["average_precision_50"] == worse["share_matched"] == 0.0
    assert math.isnan(worse["mean_iou"])


def test_a_near_miss_does_not_break_a_match():
    # First proposal: IoU 14/26 = 0.54 with the first true box and 0.48 with the second; the
    # second: 0.43 with the first. The largest plain total, 0.48 + 0.43, has no match in it.
    true = [(0, 0, 20, 1), (13, 0, 33, 1)]
    boxes = [(6, 0, 26, 1), (-8, 0, 12, 1)]
    iou = metrics.box_iou(boxes, true)
    assert iou[0, 0] >= 0.5 > iou[0, 1] > 0
    assert iou[0, 1] + iou[1, 0] > iou[0, 0] + iou[1, 1]
    result = localise([(boxes, [0.9, 0.8], 2, true)])
    assert result["share_matched"] == 0.5
    assert result["mean_iou"] == pytest.approx(14 / 26)


def test_without_any_true_object_there_is_nothing_to_measure():
    result = metrics.localisation(
        np.ones((2, 3, 4)), np.ones((2, 3)), [1, 0], np.zeros((2, 0, 4)), [0, 0]
    )
    assert all(math.isnan(value) for value in result.values())
    assert set(result) == {"average_precision_50", "mean_iou", "share_matched"}


def test_images_without_objects_add_wrong_proposals():
    empty = ([SQUARE], [0.9], 1, np.zeros((0, 4)))
    assert localise([empty, ([SQUARE], [0.8], 1, [SQUARE])])["average_precision_50"] == 0.5


def test_images_of_unknown_count_do_not_take_part_in_localisation():
    boxes = [[SQUARE], [SQUARE]]
    result = metrics.localisation(boxes, [[0.9], [0.8]], [1, 1], boxes, [-1, 1])
    assert result == {"average_precision_50": 1.0, "mean_iou": 1.0, "share_matched": 1.0}


def test_boxes_of_zeros_never_match():
    zeros = (0, 0, 0, 0)
    result = localise([([zeros, zeros], [0.9, 0.8], 2, [zeros, SQUARE])])
    assert result["average_precision_50"] == result["share_matched"] == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": np.ones((2, 2))}, r"\(2, 2\)"),
        ({"inferred_counts": [4, 0]}, "inferred_counts reach 4"),
        ({"true_counts": [0, 3]}, "true_counts reach 3"),
        ({"scores": np.full((2, 3), np.nan)}, "6 of 6 scores"),
    ],
)
def test_inconsistent_localisation_inputs_are_refused(change, message):
    arguments = {
        "boxes": np.ones((2, 3, 4)),
        "scores": np.ones((2, 3)),
        "inferred_counts": [1, 0],
        "true_boxes": np.ones((2, 2, 4)),
        "true_counts": [1, 2],
    }
    with pytest.raises(ValueError, match=message):
        metrics.localisation(**(arguments | change))


def random_scenes(seed, num_images, num_steps, num_true):
    """True boxes on a coarse grid, so that overlaps abound, and noisy proposals of them."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 20, (num_images, num_true, 2))
    true_boxes = np.concatenate([corner, corner + rng.uniform(8, 14, corner.shape)], axis=-1)
    source = rng.integers(0, num_true, (num_images, num_steps))
    boxes = np.take_along_axis(true_boxes, source[..., None], axis=1)
    boxes = boxes + rng.normal(0, 2, boxes.shape)
    # Few distinct scores, so that ties occur between images; none within one.
    scores = rng.permuted(np.tile(np.arange(num_steps) / num_steps, (num_images, 1)), axis=1)
    inferred = rng.integers(0, num_steps + 1, num_images)
    true = rng.integers(0, num_true + 1, num_images)
    return boxes, scores, inferred, true_boxes, true


def iou_of_two(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inside = max(width, 0) * max(height, 0)
    return inside / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inside)


def literal_localisation(boxes, scores, inferred_counts, true_boxes, true_counts):
    ranked = sorted(((-s, i) for i, s in np.ndenumerate(scores)), key=lambda entry: entry[0])
    taken, points, num_correct = set(), [], 0
    for place, (score, (image, step)) in enumerate(ranked):
        candidates = [
            (iou_of_two(boxes[image, step], true_boxes[image, k]), k)
            for k in range(true_counts[image])
            if (image, k) not in taken
        ]
        best, k = max(candidates, default=(0.0, -1))
        if best >= 0.5:
            taken.add((image, k))
            num_correct += 1
        if place + 1 == len(ranked) or ranked[place + 1][0] != score:
            points.append((num_correct / sum(true_counts), num_correct / (place + 1)))
    area, previous = 0.0, 0.0
    for recall, _ in points:
        area += (recall - previous) * max(p for r, p in points if r >= recall)
        previous = recall

    matched = []
    for image, (num_inferred, num_true) in enumerate(
        zip(inferred_counts.tolist(), true_counts.tolist(), strict=True)
    ):
        options = []
        for pairing in itertools.permutations(range(max(num_inferred, num_true)), num_inferred):
            pairs = [
                iou_of_two(boxes[image, i], true_boxes[image, k])
                for i, k in enumerate(pairing)
                if k < num_true
            ]
            options.append([iou for iou in pairs if iou >= 0.5])
        matched += max(options, key=sum)
    return {
        "average_precision_50": area,
        "mean_iou": np.mean(matched),
        "share_matched": len(matched) / sum(true_counts),
    }


@pytest.mark.parametrize("seed", range(5))
def test_localisation_equals_its_definition_written_out(seed):
    scenes = random_scenes(seed, num_images=30, num_steps=4, num_true=3)
    result, expected = metrics.localisation(*scenes), literal_localisation(*scenes)
    assert 0 < expected["average_precision_50"] < 1
    assert result == pytest.approx(expected)


def test_ten_thousand_images_take_seconds():
    scenes = random_scenes(0, num_images=10_000, num_steps=6, num_true=6)
    start = time.perf_counter()
    metrics.localisation(*scenes)
    assert time.perf_counter() - start < 5


def two_objects():
    """An image of two 2 x 3 objects with ink 1 and 0.5, and their boxes."""
    image = np.zeros((1, 8, 8, 1), np.float32)
    image[0, 1:3, 0:3] = 1.0
    image[0, 5:7, 4:7] = 0.5
    return image, np.array([[[0, 1, 3, 3], [4, 5, 7, 7], [0, 0, 0, 0]]], np.float32)


def test_what_is_drawn_is_not_left_out_and_what_is_not_is():
    image, boxes = two_objects()
    first = image * (np.arange(8)[:, None, None] < 4)
    drawn = [image, first, image - first, 0 * image]
    left_out = [int(metrics.left_out(image, one, boxes, [2])[0]) for one in drawn]
    assert left_out == [0, 1, 1, 2]


def test_less_than_half_of_the_ink_is_left_out_however_bright_or_misplaced_the_rest():
    image, boxes = two_objects()
    assert metrics.left_out(image, 0.5 * image, boxes, [2]) == [0]
    assert metrics.left_out(image, 0.49 * image, boxes, [2]) == [2]
    # Moved by two of its three columns, a third of each object is explained.
    assert metrics.left_out(image, np.roll(image, 2, axis=2), boxes, [2]) == [2]
    # One column of three, three times as bright as the object: still a third.
    column = np.zeros_like(image)
    column[0, 5:7, 4] = 1.5
    assert metrics.left_out(image, image * (image == 1) + column, boxes, [2]) == [1]


def test_objects_beyond_the_count_are_not_left_out():
    image, boxes = two_objects()
    images, boxes = np.repeat(image, 3, 0), np.repeat(boxes, 3, 0)
    left_out = metrics.left_out(images, 0 * images, boxes, [0, 1, 2])
    np.testing.assert_array_equal(left_out, [0, 1, 2])


def test_left_out_refuses_shapes_that_disagree():
    image, boxes = two_objects()
    with pytest.raises(ValueError, match=r"boxes \[M, K, 4\], true_counts"):
        metrics.left_out(image, image, boxes, [2, 2])


def test_wilson_interval_holds_the_shares_that_the_score_test_does_not_reject():
    # The ends p solve |successes / n - p| = z * sqrt(p (1 - p) / n).
    for successes, trials in [(8, 10), (1, 30), (97, 100)]:
        for end in metrics.wilson_interval(successes, trials):
            error = abs(successes / trials - end)
            assert error == pytest.approx(1.96 * math.sqrt(end * (1 - end) / trials))


def test_wilson_interval_of_all_and_of_none():
    low, high = metrics.wilson_interval(3, 3)
    assert high == pytest.approx(1.0)
    assert low == pytest.approx(3 / (3 + 1.96**2))
    assert metrics.wilson_interval(0, 3) == pytest.approx((0.0, 1 - low))


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (4, 3), (-1, 3)])
def test_impossible_counts_of_success_are_refused(successes, trials):
    with pytest.raises(ValueError, match=f"{successes} of {trials}"):
        metrics.wilson_interval(successes, trials)
