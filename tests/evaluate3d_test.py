"""Matching, rotation and projection by hand."""

import math

import numpy as np

from air_jax import evaluate3d
from air_jax.data.tabletop import Scenes3D
from air_jax.inverse_graphics import Objects3D
from air_jax.render.scene import CAMERA, SOLIDS, View

VIEW = View(SOLIDS, image_size=32)


def scenes_of(identities, poses):
    identities = np.array(identities, np.int32)
    num = len(identities)
    return Scenes3D(
        images=np.zeros((num, 32, 32, 3), np.uint8),
        counts=(identities >= 0).sum(-1).astype(np.int32),
        identities=identities,
        poses=np.array(poses, np.float32),
        cameras=np.tile(np.array(CAMERA[:2], np.float32), (num, 1)),
    )


def found_of(counts, identities, poses):
    identities = np.array(identities, np.int32)
    num = len(identities)
    return Objects3D(
        counts=np.array(counts, np.int32),
        presence=np.ones(identities.shape),
        identities=identities,
        identity_probs=np.eye(3)[identities],
        poses=np.array(poses, np.float32),
        cameras=np.tile(np.array(CAMERA[:2], np.float32), (num, 1)) + np.radians([3.0, -1.0]),
        reconstructions=np.full((num, 32, 32, 3), 0.1, np.float32),
        elbo_terms={},
    )


def test_objects_are_matched_by_identity_first_and_by_distance_then():
    scenes = scenes_of([[0, 1, 1]], [[[0, 0, 0], [1, 0, 0], [-1, 0, 0]]])
    # The cube is nearer to a sphere; of the spheres each takes the nearer one.
    found = found_of([3], [[1, 0, 1]], [[[-0.9, 0, 0], [0.9, 0, 0], [0.8, 0, 0]]])
    pairs = {tuple(row) for row in evaluate3d.match(found, scenes)}
    assert pairs == {(0, 1, 0), (0, 0, 2), (0, 2, 1)}
    # What is beyond the inferred count is not matched, nor are more than there are.
    fewer = found._replace(counts=np.array([1], np.int32))
    assert evaluate3d.match(fewer, scenes).tolist() == [[0, 0, 2]]
    none = found._replace(counts=np.array([0], np.int32))
    assert evaluate3d.match(none, scenes).shape == (0, 3)


def test_errors_are_those_by_hand():
    turned = math.radians(100)
    scenes = scenes_of([[0], [1], [2]], [[[0, 0, 0]], [[1, 0, 0]], [[0, 0.5, 0.2]]])
    found = found_of(
        [1, 1, 1], [[0], [0], [2]], [[[0.3, 0.4, turned]], [[1, 0, 0]], [[0, 0.5, 0.2 - turned]]]
    )
    results = evaluate3d.measure(found, scenes, VIEW)
    assert results["count_accuracy"] == 1.0
    np.testing.assert_allclose(results["identity_accuracy"], 2 / 3)
    assert results["identity_accuracy_per_model"] == {"cube": 1.0, "sphere": 0.0, "cylinder": 1.0}
    # Of the two right ones, 0.5 and 0.
    np.testing.assert_allclose(results["position_error"], 0.25, rtol=1e-5)
    np.testing.assert_allclose(results["rotation"]["cube"]["raw_median"], 100, rtol=1e-5)
    np.testing.assert_allclose(results["rotation"]["cube"]["median"], 10, rtol=1e-4)
    np.testing.assert_allclose(results["rotation"]["cylinder"]["median"], 100, rtol=1e-4)
    np.testing.assert_allclose(results["reconstruction_error"], 0.01 * 32 * 32 * 3, rtol=1e-5)
    np.testing.assert_allclose(results["camera_error"], [3.0, 1.0], rtol=1e-4)


def test_the_world_s_origin_is_in_the_middle_and_x_points_right():
    cameras = np.tile(np.array(CAMERA[:2]), (3, 1))
    places = np.array([[0.0, 0.0], [0.5, 0.0], [0.0, 0.5]])
    pixels = evaluate3d.project(places, cameras, VIEW)
    np.testing.assert_allclose(pixels[0], [16, 16], atol=1e-6)
    # x is parallel to the image: 0.5 at a distance of 6, half a side being 6 tan(17 degrees).
    by_hand = 16 + 16 * 0.5 / (6 * math.tan(math.radians(17)))
    np.testing.assert_allclose(pixels[1], [by_hand, 16], rtol=1e-6)
    assert pixels[2][0] == 16 and pixels[2][1] < 16  # farther is higher
