"""AIR through a renderer as it is trained and used, and what it is compared with."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from air_jax import (
    control_variates,
    estimators,
    evaluate3d,
    infer,
    inverse_graphics,
    loop,
    pose_search,
    supervised,
    train3d,
)
from air_jax.data.tabletop import create_tabletop
from air_jax.distributions import UnaryCode
from air_jax.evaluate3d import project
from air_jax.experiments import ablation, contenders3d
from air_jax.inverse_graphics import Model3D, Objects3D
from air_jax.kinds import load
from air_jax.models.air3d import create_air3d
from air_jax.models.scene3d import create_scene3d
from air_jax.models.supervised import Prediction
from tests import tiny3d


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, loop.run(tiny3d.config(), str(folder))[0]


def test_a_run_leaves_a_model_and_what_it_is_worth(trained):
    folder, evaluation = trained
    names = ("elbo", "reconstruction_error", "identity_accuracy", "iwae_3", "kl_where")
    assert all(np.isfinite(evaluation[name]) for name in names)
    assert evaluation["count_accuracy"] == 1.0  # the count is known
    model = load(folder)
    images = create_tabletop(**tiny3d.config()["data"]).test.images
    found = model.infer(images)
    assert isinstance(found, Objects3D)
    assert found.identities.shape == (6, 1) and found.poses.shape == (6, 1, 3)
    assert (np.abs(found.poses[..., 2]) <= np.pi).all()
    assert np.isfinite(model.iwae(images[:2], key=jax.random.key(0), num_samples=3)).all()
    counts, identities, poses = model.detect(images)
    np.testing.assert_array_equal(counts, found.counts)
    np.testing.assert_array_equal(identities, found.identities)
    np.testing.assert_allclose(poses[..., :2], found.poses[..., :2], atol=1e-5)
    again = contenders3d.as_objects(model.air.scene, identities=found.identities, poses=found.poses)
    np.testing.assert_allclose(again.reconstructions, found.reconstructions, atol=1e-5)


def test_the_command_says_which_object_stands_where(trained, tmp_path, monkeypatch):
    folder, _ = trained
    own, asked = Model3D.infer, []

    def infer_and_tell(self, images, **options):
        asked.append((options["num_sweeps"], options["num_turns"]))
        return own(self, images, **options)

    monkeypatch.setattr(Model3D, "infer", infer_and_tell)
    scenes = create_tabletop(**tiny3d.config()["data"]).test
    images = np.concatenate([scenes.images, np.full((1, 8, 8, 3), 255, np.uint8)])
    np.save(tmp_path / "scenes.npy", images)
    options = ("--checkpoint", folder, "--input", tmp_path / "scenes.npy", "--output", tmp_path)
    refined = ("--sweeps", "2", "--turns", "4")
    assert infer.main([*map(str, options), "--pictures", "2", *refined]) == 0
    assert asked == [(2, 4)]
    lines = [json.loads(line) for line in (tmp_path / "objects.jsonl").read_text().splitlines()]
    assert len(lines) == 7  # a light background is nothing to refuse
    found = load(folder).infer(scenes.images, num_sweeps=2, num_turns=4)
    names = ("cube", "sphere", "cylinder")
    for i, line in enumerate(lines[:6]):
        (one,) = line["objects"]
        assert line["count"] == 1 and one["identity"] == names[found.identities[i, 0]]
        np.testing.assert_allclose(one["position"], found.poses[i, 0, :2], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(one["yaw"], np.degrees(found.poses[i, 0, 2]), rtol=1e-3)
        assert sum(one["identity_probs"].values()) == pytest.approx(1, rel=1e-3)
        assert line["camera"]["elevation"] == pytest.approx(40, rel=1e-4)
    pictures = [line["picture"] for line in lines]
    assert pictures[2:] == [None] * 5 and (tmp_path / pictures[0]).stat().st_size > 1000


def test_enumeration_is_for_one_object():
    config = tiny3d.config(estimator="enumerate", inference__num_steps=2)
    names = ("estimator", "scene", "inference", "baseline", "prior", "exploration", "optimizer")
    options = {name: config[name] for name in (*names, "num_samples", "centring")}
    with pytest.raises(ValueError, match="one object that is known to be there"):
        train3d.create_training(**options, num_train_steps=4, image_size=8, channels=3)


def test_enumeration_is_what_the_score_function_is_on_average():
    """Of one image: the mean gradient over many noises, within its standard errors."""
    config = tiny3d.config()
    air = create_air3d(
        scene=config["scene"], inference=config["inference"], image_size=8, channels=3
    )
    images = jnp.array(create_tabletop(**config["data"]).train.images[:1] / 255.0, jnp.float32)
    params = {"model": jax.jit(air.init)(jax.random.key(0), images, air.mean_noise(1))["params"]}
    prior = inverse_graphics.prior_over_counts(air, UnaryCode(jnp.zeros(1)))

    def gradients(surrogate):
        def one(key):
            noise = air.sample_noise(key[None])

            def loss(bias):
                changed = {**params["model"]["predict_what"]["Dense_1"], "bias": bias}
                what = {**params["model"]["predict_what"], "Dense_1": changed}
                given = {"model": {**params["model"], "predict_what": what}}
                return surrogate(given, moments, 0, images, noise).loss.sum()

            return jax.grad(loss)(params["model"]["predict_what"]["Dense_1"]["bias"])

        return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), 4_000)))

    moments = control_variates.initial_moments(1)
    score = estimators.create_surrogate(
        "reinforce", air=air, baseline=None, prior=lambda step: prior, centring="none"
    )
    sampled = gradients(score)
    exact = gradients(train3d._create_enumeration(air, lambda step: prior))
    errors = np.sqrt((sampled.var(0) + exact.var(0)) / len(sampled))
    difference = sampled.mean(0) - exact.mean(0)
    assert (np.abs(difference) < 4 * errors).all()
    assert (np.abs(exact.mean(0)) > 4 * errors).any()  # there is something to tell


def test_exploration_falls_from_its_start_to_zero():
    share = train3d.create_exploration(start=0.8, hold=0, steps=10)
    np.testing.assert_allclose([share(jnp.array(i)) for i in (0, 5, 10, 99)], [0.8, 0.4, 0, 0])
    held = train3d.create_exploration(start=0.8, hold=5, steps=10)
    np.testing.assert_allclose([held(jnp.array(i)) for i in (0, 5, 7.5, 10)], [0.8, 0.8, 0.4, 0])
    assert train3d.create_exploration(start=1.0, hold=0, steps=0)(jnp.array(0)) == 0
    for wrong, message in (
        ({"start": 1.5}, "start is 1.5"),
        ({"hold": 11}, "hold is 11"),
        ({"hold": -1}, "hold is -1"),
    ):
        with pytest.raises(ValueError, match=message):
            train3d.create_exploration(**{"start": 1.0, "hold": 0, "steps": 10, **wrong})


def scene_model(config):
    return create_scene3d(config["scene"], image_size=8, channels=3)


@pytest.mark.parametrize("rotation", ["raw", "folded"])
def test_the_supervised_network_learns_what_it_is_told(rotation):
    config = tiny3d.config(inference__hidden_size=64, inference__embedding_size=64)
    scenes = create_tabletop(**config["data"]).train
    model = supervised.train_supervised(
        scenes,
        scene=scene_model(config),
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


def test_places_are_as_the_camera_sees_them():
    scene = scene_model(ablation.change(tiny3d.config(), tiny3d.TABLE))
    cameras = np.array([[0.4, 0.7], [-0.3, 0.6]], np.float32)
    seen = jnp.array([[0.8, 0.0, 0.2], [0.0, 0.5, -1.0]])
    poses = scene.to_world(seen, jnp.array(cameras))
    np.testing.assert_allclose(scene.from_world(poses, jnp.array(cameras)), seen, atol=1e-6)
    view = scene.view._replace(image_size=32)
    (column, row), (other_column, other_row) = project(np.asarray(poses)[:, :2], cameras, view)
    assert column > 17 and abs(row - 16) < 1e-4  # to the right, no farther away than the middle
    assert other_row < 15 and abs(other_column - 16) < 1e-4


def test_samples_are_scenes_of_the_prior():
    scene = scene_model(ablation.change(tiny3d.config(), tiny3d.TABLE))
    sampled = scene.sample(jax.random.key(0), jnp.zeros(3_000, jnp.int32), 3)
    np.testing.assert_array_equal(np.unique(sampled.z_what), range(scene.num_identities))
    # As the camera sees them, they are in reach; on the table they are turned with it.
    seen = scene.from_world(sampled.z_where, sampled.camera[:, None])
    assert np.abs(seen[..., :2]).max() < 1.5 < np.abs(sampled.z_where[..., :2]).max()
    np.testing.assert_allclose(np.degrees(sampled.camera.std(0)), [14.4, 4.6], rtol=0.06)
    np.testing.assert_allclose(sampled.camera.mean(0), [0, np.radians(40)], atol=0.02)
    # Without objects there is the table, and with them what stands on it.
    empty, *others = scene.sample(jax.random.key(1), jnp.array([0, 1, 3]), 3).images
    table = scene.draw(*(jnp.zeros((1, 3)),) * 2, jnp.zeros((1, 3, 3)), sampled.camera[:1])
    assert len(np.unique(empty)) <= len(np.unique(table)) + 2
    assert all(np.abs(image - empty).max() > 0.1 for image in others)


def test_labels_come_in_the_order_that_is_asked_for():
    config = ablation.change(tiny3d.config(), {**tiny3d.TABLE, "data.repetition": True})
    scene = scene_model(config)
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
    scene = scene_model(ablation.change(tiny3d.config(), tiny3d.TABLE))
    images = np.zeros((2, 8, 8, 3), np.uint8)
    found = supervised.SupervisedModel(Told(), scene, "slots", {}).predict(images)
    np.testing.assert_array_equal(found.identities, [[0, 1, 2, 3]] * 2)
    np.testing.assert_allclose(found.poses[:, 2:, 2], [[0.7, -1.2]] * 2, atol=1e-5)
    found = supervised.SupervisedModel(Told(), scene, "sorted", {}).predict(images)
    np.testing.assert_array_equal(found.identities, 0)


def test_optimisation_finds_a_scene_that_is_easy():
    config = tiny3d.config(data__num_test=3)
    test = create_tabletop(**{**config["data"], "image_size": 16}).test
    scene = create_scene3d(config["scene"], image_size=16, channels=3)
    found = pose_search.search(
        test.images.astype(np.float32) / 255,
        scene=scene,
        key=jax.random.key(0),
        restarts=8,
        num_iterations=80,
        record_every=40,
    )
    assert [record.iterations for record in found] == [40, 80]
    assert found[1].errors.mean() <= found[0].errors.mean()
    np.testing.assert_array_equal(found[1].identities, test.identities[:, 0])
    assert np.abs(found[1].poses[:, :2] - test.poses[:, 0, :2]).mean() < 0.1
    assert found[1].seconds > found[0].seconds > 0
    with pytest.raises(ValueError, match="a multiple of the third"):
        pose_search.search(
            test.images,
            scene=scene,
            key=jax.random.key(0),
            restarts=1,
            num_iterations=5,
            record_every=2,
        )
