"""A trained AIR through a renderer, and what `infer` says with it."""

import json

import jax
import numpy as np
import pytest

from air_jax import infer, loop
from air_jax.data.tabletop import create_tabletop
from air_jax.experiments import contenders3d
from air_jax.inverse_graphics import Model3D, Objects3D
from air_jax.kinds import load
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
