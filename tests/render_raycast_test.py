"""The ray caster: hits against brute force, light and camera by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from air_jax.render import primitives, raycast
from air_jax.render import scene as description
from air_jax.render.scene import CROCKERY, SOLIDS, Box, Frustum, Sphere, View

SOLID_PARTS = {
    "box": Box((0.1, -0.2, 0.5), (0.4, 0.3, 0.2), (1.0, 1.0, 1.0)),
    "sphere": Sphere((0.1, -0.2, 0.5), 0.4, (1.0, 1.0, 1.0)),
    "cylinder": Frustum((0.2, 0.9), (0.4, 0.4), (1.0, 1.0, 1.0), closed=(True, True)),
    "cone": Frustum((0.2, 0.9), (0.5, 0.2), (1.0, 1.0, 1.0), closed=(True, True)),
}


def is_inside(part, at):
    """Whether points `[..., 3]` lie in a solid."""
    x, y, z = np.moveaxis(at, -1, 0)
    if isinstance(part, Box):
        return (np.abs(at - np.array(part.centre)) <= part.half).all(-1)
    if isinstance(part, Sphere):
        return np.linalg.norm(at - np.array(part.centre), axis=-1) <= part.radius
    share = (z - part.z[0]) / (part.z[1] - part.z[0])
    radius = part.radius[0] + share * (part.radius[1] - part.radius[0])
    return (share >= 0) & (share <= 1) & (np.hypot(x, y) <= radius)


@pytest.mark.parametrize("name", SOLID_PARTS)
def test_hits_are_where_marching_along_the_ray_finds_the_solid(name):
    part, rng = SOLID_PARTS[name], np.random.default_rng(0)
    origin = rng.uniform(-1, 1, (400, 3)) + np.array([0, -4.0, 2.5])
    aim = rng.uniform(-0.8, 0.8, (400, 3)) + np.array([0, 0, 0.5])
    direction = aim - origin
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    step = 0.004
    t = np.arange(0, 8, step)
    inside = is_inside(part, origin[:, None] + t[:, None] * direction[:, None])
    marched = np.where(inside.any(-1), t[inside.argmax(-1)], np.inf)
    geometry = jnp.array(primitives._geometry(part))
    rays = tuple(jnp.array(origin.T)), tuple(jnp.array(direction.T))
    hit = primitives.HIT[type(part)](geometry, 1.0, *rays)
    is_hit = np.asarray(hit.distance) < 1e5
    grazed = np.isfinite(marched) != is_hit
    assert grazed.mean() < 0.02 and is_hit.mean() > 0.2  # marching may miss a corner
    both = np.isfinite(marched) & is_hit
    np.testing.assert_allclose(np.asarray(hit.distance)[both], marched[both], atol=1.5 * step)
    # The normal is that of the surface: a step along it leaves the solid, one against it does not.
    normal = np.stack([np.broadcast_to(part, is_hit.shape) for part in hit.normal], -1)[both]
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    normal *= -np.sign((normal * direction[both]).sum(-1, keepdims=True))
    at = origin[both] + np.asarray(hit.distance)[both, None] * direction[both]
    assert not is_inside(part, at + 0.01 * normal).any()
    assert is_inside(part, at - 0.01 * normal).mean() > 0.97  # but at an edge


def scenes(num_scenes, num_objects, num_models, seed=0):
    rng = np.random.default_rng(seed)
    shape = (num_scenes, num_objects)
    return description.create_scene(
        rng.integers(num_models, size=shape),
        np.ones(shape),
        rng.uniform(-1.2, 1.2, (*shape, 2)),
        rng.uniform(-math.pi, math.pi, shape),
    )


def test_flat_faces_have_lambert_s_colour():
    view = View(SOLIDS, image_size=33, supersampling=1)
    one = description.create_scene([0], [1.0], [[0.0, 0.0]], [0.0])
    image = np.asarray(raycast.render(one, view))
    red = np.array(SOLIDS[0].parts[0].colour)
    ambient, directional = description.BRIGHTNESS
    top = red * (ambient + directional * math.sin(description.LIGHT[1]))
    assert (np.abs(image - top).max(-1) < 1e-5).sum() > 20
    # The side towards the camera, whose normal is (0, -1, 0).
    azimuth, elevation = description.LIGHT
    front = red * (ambient + directional * math.cos(azimuth) * math.cos(elevation))
    assert (np.abs(image - front).max(-1) < 1e-5).sum() > 20
    table = np.array(description.TABLE[0]) * (top / red)
    np.testing.assert_allclose(image[-1, 16], table, atol=1e-5)


def test_beside_the_table_and_above_the_horizon_is_the_floor():
    view = View(SOLIDS, image_size=33, supersampling=1)
    flat = description.create_scene([0], [0.0], [[0.0, 0.0]], [0.0])
    flat = flat._replace(camera=flat.camera.at[1].set(0.1))
    image = np.asarray(raycast.render(flat, view))
    ambient, directional = description.BRIGHTNESS
    lit = ambient + directional * math.sin(description.LIGHT[1])
    table, floor = np.array(description.TABLE) * lit
    np.testing.assert_allclose(image[0], np.broadcast_to(floor, (33, 3)), atol=1e-6)
    np.testing.assert_allclose(image[17, 16], table, atol=1e-6)
    np.testing.assert_allclose(image[-1, 16], floor, atol=1e-6)


def test_turning_camera_light_and_objects_alike_changes_nothing():
    view = View(CROCKERY, image_size=24, supersampling=1)
    given = scenes(4, 2, 4)
    quarter = math.pi / 2  # the table is a square
    x, y = given.position[..., 0], given.position[..., 1]
    turned = given._replace(
        position=jnp.stack([-y, x], axis=-1),
        yaw=given.yaw + quarter,
        camera=given.camera.at[:, 0].add(quarter),
        light=given.light.at[:, 0].add(quarter),
    )
    before, after = (np.asarray(raycast.render(each, view)) for each in (given, turned))
    differing = np.abs(before - after).max(-1) > 0.02
    assert differing.mean() < 0.01  # rounding at edges


def test_supersampling_is_the_mean_of_a_larger_image():
    given = scenes(3, 2, 4)
    small = raycast.render(given, View(CROCKERY, image_size=16, supersampling=2))
    large = raycast.render(given, View(CROCKERY, image_size=32, supersampling=1))
    means = large.reshape(3, 16, 2, 16, 2, 3).mean((2, 4))
    np.testing.assert_allclose(small, means, atol=1e-5)


def test_scenes_do_not_depend_on_how_many_are_drawn_at_a_time():
    given, view = scenes(5, 2, 4), View(CROCKERY, image_size=16, supersampling=1)
    at_once = raycast.render(given, view, at_once=64)
    np.testing.assert_allclose(raycast.render(given, view, at_once=2), at_once, atol=1e-5)
    one = jax.tree.map(lambda leaf: leaf[3], given)
    np.testing.assert_allclose(raycast.render(one, view), at_once[3], atol=1e-5)
    grid = jax.tree.map(lambda leaf: leaf[:4].reshape(2, 2, *leaf.shape[1:]), given)
    np.testing.assert_allclose(
        raycast.render(grid, view).reshape(4, 16, 16, 3), at_once[:4], atol=1e-5
    )


def test_absent_objects_are_not_seen_and_nearer_ones_hide_others():
    view = View(SOLIDS, image_size=33, supersampling=1)
    places = [[0.0, -0.6], [0.0, 0.9]]
    both = description.create_scene([1, 0], [1.0, 1.0], places, [0.0, 0.0])
    without = both._replace(presence=jnp.array([1.0, 0.0]))
    alone = description.create_scene([1], [1.0], places[:1], [0.0])
    np.testing.assert_allclose(raycast.render(without, view), raycast.render(alone, view))
    exchanged = description.create_scene([0, 1], [1.0, 1.0], places[::-1], [0.0, 0.0])
    image = raycast.render(both, view)
    np.testing.assert_allclose(image, raycast.render(exchanged, view), atol=1e-6)
    # Where the sphere alone is blue, it hides the cube behind it.
    blue = np.asarray(raycast.render(alone, view))
    is_blue = blue[..., 2] > 2 * blue[..., 0]
    np.testing.assert_allclose(np.asarray(image)[is_blue], blue[is_blue], atol=1e-6)


def test_checker_fields_alternate_around_and_upwards():
    hit = primitives.HIT[Frustum]
    geometry = jnp.array(primitives._geometry(SOLIDS[2].parts[0]))
    y = jnp.array([0.1, 0.1, -0.1, -0.1])
    height = jnp.array([0.2, 0.8, 0.2, 0.8])
    origin = (jnp.full(4, 3.0), y, height)
    direction = (jnp.full(4, -1.0), jnp.zeros(4), jnp.full(4, 1e-8))
    other = hit(geometry, 2.0, origin, direction).other
    np.testing.assert_array_equal(other, [False, True, True, False])


def test_scale_and_tint():
    view = View(SOLIDS, image_size=32, supersampling=1)
    one = description.create_scene([0], [1.0], [[0.0, 0.0]], [0.3])
    small = one._replace(scale=jnp.array([0.5]))

    def covered(scene):
        image = np.asarray(raycast.render(scene, view))
        return (image[..., 0] > 3 * image[..., 1]).sum()

    assert 0.15 < covered(small) / covered(one) < 0.35  # a quarter, but for perspective
    dark = one._replace(tint=jnp.full((1, 3), 0.5))
    image, darker = (np.asarray(raycast.render(scene, view)) for scene in (one, dark))
    is_cube = image[..., 0] > 3 * image[..., 1]
    np.testing.assert_allclose(darker[is_cube], image[is_cube] / 2, rtol=1e-4)


def test_folds_are_symmetries_of_the_images():
    view = View(CROCKERY + SOLIDS, image_size=24, supersampling=1)
    for i, model in enumerate(view.catalogue):
        one = description.create_scene([i], [1.0], [[0.2, 0.1]], [0.4])
        image = np.asarray(raycast.render(one, view))

        def turned(by, one=one):
            return np.asarray(raycast.render(one._replace(yaw=one.yaw + by), view))

        part = 2 * math.pi / model.fold if model.fold else 1.0
        assert (np.abs(turned(part) - image).max(-1) > 0.02).mean() < 0.01, model.name
        if model.fold:
            assert (np.abs(turned(part / 2) - image).max(-1) > 0.02).sum() > 4, model.name
