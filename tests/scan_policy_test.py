"""Scan policies of which it is known what they follow."""

import itertools
import json
import math

import numpy as np
import pytest

from air_jax import scan_policy

SIZE = 50
NUM_SCENES = 20_000


def make_scenes(num_scenes=NUM_SCENES, num_objects=2, seed=0):
    """Boxes whose place, class and size have nothing to do with each other."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, SIZE, (num_scenes, num_objects, 2))
    sides = rng.uniform(5, 15, (num_scenes, num_objects, 2))
    boxes = np.concatenate([centres - sides / 2, centres + sides / 2], axis=-1)
    return boxes, rng.integers(0, 10, (num_scenes, num_objects)), rng


def areas(boxes):
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def least(values, rng=None):
    """Index of the least value of each scene, ties broken at random."""
    noise = 0 if rng is None else rng.uniform(0, 0.5, values.shape)
    return np.argmin(values + noise, axis=1)


def measure(first, boxes, labels, **options):
    options = {"image_size": SIZE, "num_shuffles": 100, **options}
    return scan_policy.mutual_information(first, boxes, labels, **options)


def binary_entropy(p):
    return sum(-q * math.log(q) for q in (p, 1 - p) if q > 0)


# Five equal bins of a quantity of which the smaller of two independent ones is first: the other
# is larger with probability 0.9, 0.7, 0.5, 0.3 and 0.1.
FIVE_BINS = math.log(2) - np.mean([binary_entropy(p) for p in (0.9, 0.7, 0.5, 0.3, 0.1)])
ALL_FEATURES = {
    *("position", "relative_position", "class", "class_pair", "size", "relative_size"),
}


def assert_untouched(result, but):
    for name in ALL_FEATURES - set(but):
        assert abs(result[name]["fraction"]) < 0.005, name
        assert result[name]["p_value"] > 0.01, name


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_policy_from_side_to_side_is_told_by_place_alone(axis, sign):
    boxes, labels, _ = make_scenes()
    result = measure(least(sign * (boxes[..., axis] + boxes[..., axis + 2])), boxes, labels)
    assert result["relative_position"]["nats"] == pytest.approx(math.log(2))
    assert result["relative_position"]["fraction"] == pytest.approx(1)
    assert result["relative_position"]["p_value"] == pytest.approx(1 / 101)
    assert result["position"]["nats"] == pytest.approx(FIVE_BINS, abs=0.01)
    assert result["position"]["fraction"] == pytest.approx(FIVE_BINS / math.log(2), abs=0.015)
    assert_untouched(result, but={"position", "relative_position"})


def test_a_policy_by_class_is_told_by_class_alone():
    boxes, labels, rng = make_scenes()
    result = measure(least(labels, rng), boxes, labels)
    # The other label is larger, or equal and then second in half of the cases.
    shares = [(9 - label + 0.5) / 10 for label in range(10)]
    expected = math.log(2) - np.mean([binary_entropy(p) for p in shares])
    assert result["class"]["nats"] == pytest.approx(expected, abs=0.01)
    # One pair in ten is of one class, and says nothing.
    assert result["class_pair"]["nats"] == pytest.approx(0.9 * math.log(2), abs=0.01)
    assert_untouched(result, but={"class", "class_pair"})


def test_a_policy_by_size_is_told_by_size_alone():
    boxes, labels, _ = make_scenes()
    result = measure(least(areas(boxes)), boxes, labels)
    assert result["size"]["nats"] == pytest.approx(FIVE_BINS, abs=0.01)
    assert result["relative_size"]["fraction"] == pytest.approx(1)
    assert_untouched(result, but={"size", "relative_size"})


def test_a_random_policy_is_told_by_nothing():
    boxes, labels, rng = make_scenes()
    assert_untouched(measure(rng.integers(2, size=NUM_SCENES), boxes, labels), but=())


def test_a_mixed_policy_is_told_by_as_much_as_it_follows():
    boxes, labels, rng = make_scenes()
    follows = rng.uniform(size=NUM_SCENES) < 0.6
    first = np.where(
        follows, least(boxes[..., 0] + boxes[..., 2]), rng.integers(2, size=len(boxes))
    )
    # The left one is first with probability 0.6 + 0.4 / 2.
    expected = math.log(2) - binary_entropy(0.8)
    result = measure(first, boxes, labels)
    assert result["relative_position"]["nats"] == pytest.approx(expected, abs=0.01)


def test_small_samples_are_not_taken_for_information():
    fractions, nats, p_values, above = [], [], [], []
    for seed in range(200):
        boxes, labels, rng = make_scenes(60, seed=seed)
        result = measure(rng.integers(2, size=60), boxes, labels, seed=seed)["position"]
        nats.append(result["nats"])
        fractions.append(result["fraction"])
        p_values.append(result["p_value"])
        above.append(result["fraction"] > result["null_95"])
    assert np.mean(nats) > 0.05
    assert abs(np.mean(fractions)) < 4 * np.std(fractions) / math.sqrt(200)
    # Each p-value is uniform: 10 of 200 below 0.05, with a standard deviation of 3.
    assert 2 <= np.sum(np.array(p_values) <= 0.05) <= 20
    assert 2 <= np.sum(above) <= 20


def test_the_null_keeps_the_scenes():
    # Whatever comes first, its class is that of the other. Shuffling objects across scenes would
    # find classes with more firsts than others by chance.
    boxes, labels, rng = make_scenes(50)
    labels[:, 1] = labels[:, 0]
    result = measure(rng.integers(2, size=50), boxes, labels)
    for name in ("class", "class_pair"):
        assert result[name]["nats"] == pytest.approx(0, abs=1e-12)
        assert result[name]["null_mean"] == pytest.approx(0, abs=1e-12)
        assert result[name]["p_value"] == 1


def literal_information(first, cells):
    """Sum of p(f, c) log p(f, c) / p(f) p(c) over all objects."""
    pairs = [
        (int(i == chosen), cell)
        for row, chosen in zip(cells, first, strict=True)
        for i, cell in enumerate(row)
    ]

    def p(test):
        return sum(map(test, pairs)) / len(pairs)

    total = 0.0
    for f, c in set(pairs):
        joint = p(lambda pair, f=f, c=c: pair == (f, c))
        alone = p(lambda pair, f=f: pair[0] == f) * p(lambda pair, c=c: pair[1] == c)
        total += joint * math.log(joint / alone)
    return total


def equal_bins(values, num_bins):
    ranks = np.argsort(np.argsort(values, axis=None)).reshape(values.shape)
    return ranks * num_bins // values.size


@pytest.mark.parametrize("num_objects", [2, 3])
def test_nats_are_those_of_the_definition(num_objects):
    boxes, labels, rng = make_scenes(60, num_objects)
    first = rng.integers(num_objects, size=60)
    result = measure(first, boxes, labels)
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    log_areas = np.log(areas(boxes))
    others = [[np.delete(row, i).mean() for i in range(num_objects)] for row in areas(boxes)]
    log_ratios = log_areas - np.log(others)
    thirds = equal_bins(np.abs(log_ratios), 3)
    features = {
        "position": [[(int(x // 10), int(y // 10)) for x, y in row] for row in centres],
        "class": labels,
        "size": equal_bins(log_areas, 5),
        "relative_size": np.where(log_ratios > 0, 1 + thirds, -1 - thirds),
    }
    for name, cells in features.items():
        expected = literal_information(first, cells)
        assert result[name]["nats"] == pytest.approx(expected), name


def test_a_policy_by_class_among_three():
    boxes, labels, rng = make_scenes(num_objects=3)
    result = measure(least(labels, rng), boxes, labels)
    share = np.zeros(10)
    for scene in itertools.product(range(10), repeat=3):
        share[min(scene)] += 1 / 300  # of 3,000 objects in these scenes, 300 have each label
    entropy = binary_entropy(1 / 3)
    expected = entropy - np.mean([binary_entropy(p) for p in share])
    assert result["class"]["nats"] == pytest.approx(expected, abs=0.01)
    assert result["class_pair"] is None
    assert_untouched(result, but={"class", "class_pair"})


def test_comparison_with_the_others_tells_more_among_three_too():
    boxes, labels, _ = make_scenes(num_objects=3)
    by_size = measure(least(-areas(boxes)), boxes, labels)
    assert by_size["relative_size"]["fraction"] > by_size["size"]["fraction"] + 0.1
    left = measure(least(boxes[..., 0] + boxes[..., 2]), boxes, labels)
    assert left["relative_position"]["fraction"] > left["position"]["fraction"] + 0.1


def test_the_same_seed_gives_the_same_numbers_however_many_shuffles_fit_in_memory(monkeypatch):
    boxes, labels, rng = make_scenes(100)
    first = rng.integers(2, size=100)
    expected = measure(first, boxes, labels, seed=3)
    assert measure(first, boxes, labels, seed=4) != expected
    monkeypatch.setattr(scan_policy, "_CHOICES_AT_ONCE", 700)
    assert measure(first, boxes, labels, seed=3) == expected


def test_one_scene_tells_nothing_beyond_chance():
    boxes, labels, _ = make_scenes(1)
    for values in measure(np.array([0]), boxes, labels).values():
        assert values["fraction"] == pytest.approx(0, abs=1e-6)
        assert values["p_value"] == 1


SQUARE, FAR, THIRD = (0, 0, 10, 10), (30, 30, 40, 40), (30, 0, 40, 10)
NONE = (0, 0, 0, 0)


def attended(boxes, count, true_boxes, true_count, num_objects=2):
    scenes, first = scan_policy.first_attended(
        [boxes], [count], [true_boxes], [true_count], num_objects
    )
    return first.tolist() if scenes.tolist() else None


def test_the_first_step_decides_which_object_was_first():
    assert attended([SQUARE, FAR, NONE], 2, [SQUARE, FAR], 2) == [0]
    assert attended([FAR, SQUARE, NONE], 2, [SQUARE, FAR], 2) == [1]
    assert attended([FAR, THIRD, SQUARE], 3, [SQUARE, FAR, THIRD], 3, num_objects=3) == [1]


@pytest.mark.parametrize(
    ("boxes", "count", "true_count"),
    [
        ([SQUARE, FAR, NONE], 2, 1),
        ([SQUARE, FAR, NONE], 2, -1),
        ([SQUARE, FAR, NONE], 1, 2),
        ([SQUARE, FAR, FAR], 3, 2),
        ([SQUARE, SQUARE, FAR], 2, 2),  # the third is not inferred
        ([SQUARE, THIRD, NONE], 2, 2),
        ([(0, 0, 10, 4.9), FAR, NONE], 2, 2),  # IoU 0.49
    ],
)
def test_scenes_that_were_not_understood_are_left_out(boxes, count, true_count):
    assert attended(boxes, count, [SQUARE, FAR], true_count) is None


def test_objects_are_matched_such_that_the_overlap_is_largest():
    # Each inferred box has an IoU above 0.5 with both true ones; 0.9 + 0.9 beats 0.6 + 0.6.
    true = [(0, 0, 20, 10), (4, 0, 24, 10)]
    assert attended([(5, 0, 25, 10), (-1, 0, 19, 10)], 2, true, 2) == [1]


def test_a_set_of_scenes_gives_plain_numbers():
    true_boxes, labels, _ = make_scenes(60)
    first = least(true_boxes[..., 0] + true_boxes[..., 2])
    order = np.stack([first, 1 - first], axis=1)
    boxes = np.concatenate(
        [np.take_along_axis(true_boxes, order[..., None], axis=1), np.zeros((60, 1, 4))], axis=1
    )
    true_counts = np.full(60, 2)
    true_counts[:10] = [0, 1, 1, -1, 0, 0, 0, 0, 0, 0]
    inferred = np.full(60, 2)
    inferred[10:15] = 3
    options = {"image_size": SIZE, "num_shuffles": 20}
    result = scan_policy.scan_policy(boxes, inferred, true_boxes, labels, true_counts, **options)
    assert (result["num_scenes"], result["num_candidates"], result["num_objects"]) == (45, 50, 2)
    assert result["entropy"] == pytest.approx(math.log(2))
    assert result["features"] == measure(first[15:], true_boxes[15:], labels[15:], num_shuffles=20)
    assert result["features"]["relative_position"]["nats"] == pytest.approx(math.log(2))
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_without_a_scene_of_so_many_objects_there_is_nothing_to_measure():
    for true_boxes in (np.zeros((4, 1, 4)), np.zeros((4, 2, 4))):
        result = scan_policy.scan_policy(
            np.zeros((4, 3, 4)),
            np.ones(4, int),
            true_boxes,
            np.full(true_boxes.shape[:2], -1),
            np.ones(4, int),
            image_size=SIZE,
        )
        assert result["num_scenes"] == result["num_candidates"] == 0
        assert result["features"] == dict.fromkeys(ALL_FEATURES)


def test_unknown_classes_leave_place_and_size_to_be_measured():
    boxes, labels, rng = make_scenes(50)
    labels[7, 1] = -1
    result = measure(rng.integers(2, size=50), boxes, labels)
    assert {name for name, values in result.items() if values is None} == {"class", "class_pair"}


def test_arguments_that_do_not_fit_are_refused():
    boxes, labels, _ = make_scenes(5)
    with pytest.raises(ValueError, match="not 0..1"):
        measure(np.full(5, 2), boxes, labels)
    with pytest.raises(ValueError, match=r"\(4,\), \(5, 2, 4\)"):
        measure(np.zeros(4, int), boxes, labels)
    with pytest.raises(ValueError, match="num_shuffles is 0"):
        measure(np.zeros(5, int), boxes, labels, num_shuffles=0)
    with pytest.raises(ValueError, match="num_objects is 1"):
        attended([SQUARE], 1, [SQUARE], 1, num_objects=1)
    with pytest.raises(ValueError, match="expected boxes"):
        scan_policy.first_attended(boxes, np.zeros(4), boxes, np.zeros(5))
