"""Descent of the likelihood from random poses."""

import jax
import numpy as np
import pytest

from air_jax import pose_search
from air_jax.data.tabletop import create_tabletop
from air_jax.models.scene3d import create_scene3d
from tests import tiny3d


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
