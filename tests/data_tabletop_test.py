"""Scenes on a table: what is in them is what is drawn, and what they were asked to be."""

import math

import numpy as np
import pytest

from air_jax.data.tabletop import MIN_DISTANCE, Scenes3D, create_tabletop, perturb
from air_jax.render import raycast
from air_jax.render.scene import (
    BRIGHTNESS,
    CAMERA,
    CROCKERY,
    LIGHT,
    TABLE,
    View,
    create_scene,
)

OPTIONS = {
    "catalogue": "crockery",
    "counts": (0, 1, 3),
    "repetition": False,
    "image_size": 12,
    "field_of_view": 34.0,
    "supersampling": 1,
    "extent": 1.3,
    "camera_range": (20.0, 5.0),
    "perturbation": 0.0,
    "num_train": 60,
    "num_validation": 9,
    "num_test": 9,
    "seed": 3,
}


@pytest.fixture(scope="module")
def dataset():
    return create_tabletop(**OPTIONS)


def test_counts_places_and_cameras_are_in_their_ranges(dataset):
    scenes = dataset.train
    assert isinstance(scenes, Scenes3D)
    np.testing.assert_array_equal(np.bincount(scenes.counts), [20, 20, 0, 20])
    present = scenes.identities >= 0
    np.testing.assert_array_equal(present.sum(-1), scenes.counts)
    assert (np.abs(scenes.poses[..., :2]) <= 1.3).all()
    assert (np.abs(scenes.poses[..., 2]) <= math.pi).all() and np.ptp(scenes.poses[..., 2]) > 4
    np.testing.assert_array_equal(scenes.poses[~present], 0)
    deviation = np.degrees(np.abs(scenes.cameras - CAMERA[:2])).max(0)
    assert (deviation <= [20.001, 5.001]).all() and (deviation > [10, 2]).all()
    for poses, there in zip(scenes.poses, present, strict=True):
        places = poses[there, :2]
        apart = np.linalg.norm(places[:, None] - places, axis=-1)
        assert (apart[~np.eye(len(places), dtype=bool)] >= MIN_DISTANCE).all()


def test_repetition_is_as_asked_for(dataset):
    def repeats(scenes):
        return sum(len(set(row[row >= 0])) < (row >= 0).sum() for row in scenes.identities)

    assert repeats(dataset.train) == 0
    assert repeats(create_tabletop(**{**OPTIONS, "repetition": True}).train) > 0


def test_images_are_those_of_the_scenes(dataset):
    scenes, chosen = dataset.test, [0, 4, 7]
    view = View(CROCKERY, image_size=12, supersampling=1)
    identities = scenes.identities[chosen]
    scene = create_scene(
        identities.clip(min=0),
        (identities >= 0).astype(np.float32),
        scenes.poses[chosen, :, :2],
        scenes.poses[chosen, :, 2],
        scenes.cameras[chosen],
    )
    drawn = np.asarray(raycast.render(scene, view))
    np.testing.assert_allclose(scenes.images[chosen] / 255, drawn, atol=0.51 / 255)


def test_perturbed_scenes_differ_in_nothing_that_is_to_be_found(dataset):
    perturbed = create_tabletop(**{**OPTIONS, "perturbation": 1.0})
    train, other = dataset.train, perturbed.train
    for name in ("counts", "identities", "poses", "cameras"):
        np.testing.assert_array_equal(getattr(train, name), getattr(other, name), err_msg=name)
    change = np.abs(train.images.astype(float) - other.images).mean((1, 2, 3)) / 255
    assert (change > 0.005).all() and 0.02 < change.mean() < 0.2
    assert perturbed.description["digest"] != dataset.description["digest"]
    assert perturbed.description["perturbation"] == 1.0


def test_perturbations_are_in_their_ranges():
    looks = perturb(500, 3, 0.5, np.random.default_rng(0))
    assert looks.scale.shape == (500, 3) and looks.table.shape == (500, 2, 3)
    for values, half in (
        (np.log(looks.scale), 0.1),
        (np.log(looks.tint), 0.15),
        (np.log(looks.brightness / BRIGHTNESS), 0.15),
        (np.log(looks.table / np.array(TABLE)), 0.15),
        (np.degrees(looks.light - LIGHT)[:, 0], 30.0),
        (np.degrees(looks.light - LIGHT)[:, 1], 10.0),
    ):
        assert np.abs(values).max() <= half * 1.001 and np.abs(values).max() > 0.9 * half
        assert abs(values.mean()) < 0.1 * half


def test_the_seed_decides(dataset):
    again = create_tabletop(**OPTIONS)
    assert again.description == dataset.description
    np.testing.assert_array_equal(again.train.images, dataset.train.images)
    other = create_tabletop(**{**OPTIONS, "seed": 4})
    assert other.description["digest"] != dataset.description["digest"]
    assert not np.array_equal(dataset.test.poses, dataset.validation.poses)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"catalogue": "cars"}, "valid names are 'solids', 'crockery'"),
        ({"counts": (5,)}, "has 4 models and repetition is off"),
        ({"counts": ()}, "must hold different numbers"),
        ({"num_test": 0}, "num_test is 0"),
        ({"extent": 0.0}, "must be positive"),
        ({"perturbation": -1.0}, "perturbation -1.0"),
        ({"extent": 0.3}, "find no room within 0.3"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        create_tabletop(**{**OPTIONS, **changes})
