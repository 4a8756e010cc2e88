"""Labels of two digits by hand, codes in the order of inference, masked where nothing was found."""

import numpy as np
import pytest

from air_jax import kinds, representation
from air_jax.data.scenes import Scenes
from air_jax.inference import Detections
from tests.loop_test import tiny_config
from tests.tiny import MODEL_CONFIG, model_params


def scenes(boxes, labels):
    boxes, labels = np.asarray(boxes, np.float32), np.asarray(labels, np.int32)
    num = len(labels)
    images = np.zeros((num, 4, 4, 1), np.uint8)
    return Scenes(images, np.full(num, 2, np.int32), boxes, labels, np.zeros((num, 2), np.float32))


def test_sum_and_order_are_those_of_the_digits_on_left_and_right():
    left, right = (0, 5, 4, 9), (6, 0, 12, 9)
    # As far left as `left` by their centres, but lower, and with its edge further right.
    below = (1, 10, 3, 19)
    boxes = [(left, right), (right, left), (left, right), (right, left)]
    boxes += [(left, below), (below, left)]
    digits = [(3, 7), (3, 7), (9, 9), (9, 0), (1, 2), (1, 2)]
    labels = representation.task_labels(scenes(boxes, digits))
    np.testing.assert_array_equal(labels["sum"], [10, 10, 18, 9, 3, 3])
    # The fourth is 0, 9 from left to right; the last two are level.
    np.testing.assert_array_equal(labels["ascending"], [1, 0, 0, 1, 1, 0])


def test_other_counts_are_refused():
    three = scenes([((0, 0, 1, 1), (2, 2, 3, 3))], [(1, 2)])._replace(counts=np.array([3]))
    with pytest.raises(ValueError, match=r"counts are \[3\]"):
        representation.task_labels(three)


def test_a_code_has_each_step_in_order_and_zeros_where_nothing_was_found():
    z_where = np.arange(1.0, 13).reshape(2, 2, 3)
    z_what = -np.arange(1.0, 5).reshape(2, 2, 1)
    found = Detections(
        counts=np.array([2, 1]),
        presence=np.array([[0.9, 0.8], [0.7, 0.4]]),
        windows=np.zeros((2, 2, 4)),
        z_where=z_where,
        z_what=z_what,
        num_steps=np.array([2, 2]),
    )
    np.testing.assert_array_equal(
        representation.object_code(found),
        [[1, 1, 2, 3, -1, 1, 4, 5, 6, -2], [1, 7, 8, 9, -3, 0, 0, 0, 0, 0]],
    )


def test_the_code_of_a_model_is_what_it_infers():
    rng = np.random.default_rng(0)
    params = model_params(lambda shape: rng.normal(scale=0.5, size=shape))
    model = kinds.create_model(MODEL_CONFIG, params)
    images = rng.random((7, 16, 16, 1))
    found = model.infer(images)
    assert representation.num_objects(model) == 2
    codes = representation.code(model, images).reshape(7, 2, 1 + 3 + 3)
    is_object = np.arange(2) < found.counts[:, None]
    np.testing.assert_array_equal(codes[..., 0], is_object)
    np.testing.assert_allclose(codes[..., 1:4], found.z_where * is_object[..., None], rtol=1e-4)
    np.testing.assert_allclose(
        codes[..., 4:], found.z_what * is_object[..., None], rtol=1e-4, atol=1e-5
    )
    with pytest.raises(ValueError, match="give AIR, DAIR or DRAW"):
        representation.code(None, images)


def test_scenes_hold_two_digits_and_are_not_the_run_s():
    data = {**tiny_config()["data"], "counts": [2], "image_size": 48}
    sizes = {"num_train": 12, "num_validation": 4, "num_test": 5}
    made = representation.two_digit_scenes(data, **sizes)
    assert {name: len(part.images) for name, part in made.items()} == {
        "train": 12,
        "validation": 4,
        "test": 5,
    }
    assert all((part.counts == 2).all() for part in made.values())
    own = representation.create_dataset(**{**data, **sizes})
    assert not np.array_equal(own.train.labels, made["train"].labels)
    with pytest.raises(ValueError, match="the tasks are about digits"):
        representation.two_digit_scenes({**data, "source": "sprites"}, **sizes)


def test_the_error_is_summed_over_pixels():
    images = np.zeros((2, 3, 3, 1), np.uint8)
    images[0, 0, 0] = 255
    # 9 x 0.25, of which one pixel is off from the other side.
    assert representation.reconstruction_error(images, np.full((2, 3, 3, 1), 0.5)) == 2.25
