"""The networks that are told what stands where."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from air_jax import evaluate3d, supervised
from air_jax.data.tabletop import create_tabletop
from air_jax.experiments import ablation, contenders3d
from air_jax.models.scene3d import create_scene3d
from air_jax.models.supervised import Prediction
from tests import tiny3d


@pytest.mark.parametrize("rotation", ["raw", "folded"])
def test_the_supervised_network_learns_what_it_is_told(rotation):
    config = tiny3d.config(inference__hidden_size=64, inference__embedding_size=64)
    scenes = create_tabletop(**config["data"]).train
    model = supervised.train_supervised(
        scenes,
        scene=tiny3d.scene_model(config),
        inference={**config["inference"], "predictor_hidden": (32,), "patch_features": 16},
        rotation=rotation,
        key=jax.random.key(0),
        num_steps=600,
        batch_size=16,
        learning_rate=2e-3,
    )
    found = model.predict(scenes.images)
    np.testing.assert_array_equal(found.counts, 1)
    np.testing.assert_array_equal(found.identities, scenes.identities)
    assert np.abs(found.poses[..., :2] - scenes.poses[..., :2]).mean() < 0.15
    assert supervised_error(found, scenes, rotation) < 0.35


def supervised_error(found, scenes, rotation):
    """Mean error of the cubes' yaw in radians, modulo a quarter turn where it was folded."""
    cubes = found.identities == 0
    turned = (found.poses - scenes.poses)[cubes][:, 2]
    period = np.pi / 2 if rotation == "folded" else 2 * np.pi
    return np.abs((turned + period / 2) % period - period / 2).mean()


def test_labels_come_in_the_order_that_is_asked_for():
    config = ablation.change(tiny3d.config(), {**tiny3d.TABLE, "data.repetition": True})
    scene = tiny3d.scene_model(config)
    scenes = create_tabletop(**{**config["data"], "num_train": 64}).train
    labels = {
        order: supervised.create_labels(scenes, scene=scene, order=order, num_steps=3)
        for order in ("arbitrary", "sorted")
    }
    for of_order in labels.values():
        np.testing.assert_array_equal(of_order.presence.sum(-1), scenes.counts)
        assert (np.diff(of_order.presence, axis=-1) <= 0).all()
        np.testing.assert_allclose(
            np.asarray(of_order.cameras) * np.radians([14.4, 4.6]) + [0, np.radians(40)],
            scenes.cameras,
            atol=1e-5,
        )
    present = scenes.identities >= 0
    np.testing.assert_array_equal(
        np.asarray(labels["arbitrary"].identities)[present], scenes.identities[present]
    )
    told = labels["sorted"]
    both = np.asarray(told.presence[:, 1:]) > 0
    identities, right = np.asarray(told.identities), np.asarray(told.seen[..., 0])
    assert (np.diff(identities, axis=-1) >= 0)[both].all()
    same = both & (np.diff(identities, axis=-1) == 0)
    assert same.any() and (np.diff(right, axis=-1) > 0)[same].all()
    with pytest.raises(ValueError, match="hold a model twice"):
        supervised.create_labels(scenes, scene=scene, order="slots", num_steps=3)
    with pytest.raises(ValueError, match="valid names are 'arbitrary'"):
        supervised.create_labels(scenes, scene=scene, order="none", num_steps=3)
    with pytest.raises(ValueError, match="3 objects for 2 steps"):
        supervised.create_labels(scenes, scene=scene, order="sorted", num_steps=2)


@pytest.mark.parametrize("order", ["arbitrary", "sorted", "slots"])
def test_the_supervised_network_learns_whole_scenes(order):
    """A few scenes by heart; what it predicts are the true objects, in whatever order."""
    of_data = {"data.repetition": False, "data.num_train": 12, "data.image_size": 16}
    config = ablation.change(tiny3d.config(), {**tiny3d.TABLE, **of_data})
    scenes = create_tabletop(**config["data"]).train
    sizes = {"hidden_size": 64, "embedding_size": 64, "patch_features": 16}
    model = supervised.train_supervised(
        scenes,
        scene=create_scene3d(config["scene"], image_size=16, channels=3),
        inference={**config["inference"], **sizes, "predictor_hidden": (32,)},
        rotation="folded",
        order=order,
        key=jax.random.key(0),
        num_steps=500,
        batch_size=12,
        learning_rate=3e-3,
    )
    found = contenders3d.as_objects(model.scene, **model.predict(scenes.images)._asdict())
    told = evaluate3d.measure(found, scenes, model.scene.view)
    assert told["count_accuracy"] == 1.0 and told["identity_accuracy"] == 1.0
    assert told["position_error"] < 0.3 and max(told["camera_error"]) < 5
    assert told["reconstruction_error"] < 2.0


class Told:
    """A network that says the same of every image: all four are there, and look like plates."""

    def apply(self, variables, images):
        del variables
        shape = (len(images), 4)
        angles = jnp.array([0.0, 0.0, 0.7, -1.2])  # if it is a plate, a bowl, a cup, a pan
        rotation = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        return Prediction(
            presence_logits=jnp.ones(shape),
            logits=jnp.broadcast_to(jnp.array([1.0, 0.0, 0.0, 0.0]), (*shape, 4)),
            position=jnp.zeros((*shape, 2)),
            rotation=jnp.broadcast_to(rotation, (*shape, 4, 2)),
            cameras=jnp.zeros((len(images), 2)),
        )


def test_a_slot_has_the_yaw_of_its_own_model():
    scene = tiny3d.scene_model(ablation.change(tiny3d.config(), tiny3d.TABLE))
    images = np.zeros((2, 8, 8, 3), np.uint8)
    found = supervised.SupervisedModel(Told(), scene, "slots", {}).predict(images)
    np.testing.assert_array_equal(found.identities, [[0, 1, 2, 3]] * 2)
    np.testing.assert_allclose(found.poses[:, 2:, 2], [[0.7, -1.2]] * 2, atol=1e-5)
    found = supervised.SupervisedModel(Told(), scene, "sorted", {}).predict(images)
    np.testing.assert_array_equal(found.identities, 0)
