"""AIR through a renderer as it is trained and used, and what it is compared with."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from air_jax import (
    infer,
    loop,
    pose_search,
)
from air_jax.data.tabletop import create_tabletop
from air_jax.evaluate3d import project
from air_jax.experiments import ablation, contenders3d
from air_jax.inverse_graphics import Model3D, Objects3D
from air_jax.kinds import load
from air_jax.models.scene3d import create_scene3d
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


def scene_model(config):
    return create_scene3d(config["scene"], image_size=8, channels=3)


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
