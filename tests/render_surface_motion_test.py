"""The ray caster's own gradient: same images, and it goes where small steps say."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from air_jax.render import finite_difference, raycast, surface_motion
from air_jax.render.scene import CAMERA, CATALOGUES, CROCKERY, SOLIDS, View, create_scene

# Of each parameter of `scenes_of`: how wrong it is, and a small step.
_WRONG = np.array([0.15, 0.15, 0.25, 0.08, 0.08], np.float32)
_SMALL = np.array([0.02, 0.02, 0.06, 0.02, 0.02])


def scenes_of(params, identities):
    """Scenes of one object each by `(x, y, yaw, azimuth, elevation)`, `[n, 5]`."""
    one = jnp.ones_like(params[:, :1])
    poses = params[:, None, :2], params[:, 2:3]
    return create_scene(identities[:, None], one, *poses, params[:, 3:])


def random_params(num, seed=0):
    rng = np.random.default_rng(seed)
    camera = np.array(CAMERA[:2]) + rng.uniform(-0.2, 0.2, (num, 2))
    place = rng.uniform(-0.9, 0.9, (num, 2))
    yaw = rng.uniform(-np.pi, np.pi, (num, 1))
    return np.concatenate([place, yaw, camera], axis=-1).astype(np.float32)


def gradients(draw, params, identities, target):
    """d squared error / d params, `[n, 5]`."""

    @jax.jit
    def gradient(params):
        return jax.grad(lambda at: jnp.square(draw(at, identities) - target).sum())(params)

    return np.asarray(gradient(params))


@functools.cache
def against_small_steps(catalogue):
    """Gradients of 48 half-wrong scenes: the ray caster's own, and by small steps, fine images."""
    identities = jnp.arange(48) % len(CATALOGUES[catalogue])
    params = random_params(48)
    wrong = params + _WRONG * np.random.default_rng(1).normal(size=params.shape)

    def view(supersampling):
        return View(CATALOGUES[catalogue], image_size=16, supersampling=supersampling)

    def drawn(params, identities):
        return surface_motion.render(scenes_of(params, identities), view(4))

    def fine(params, identities):
        return raycast.render(scenes_of(params, identities), view(6))

    target = jax.jit(fine)(params, identities)
    by_steps = finite_difference.central_differences(fine, _SMALL)
    own = gradients(drawn, wrong, identities, target)
    return own, gradients(by_steps, wrong, identities, target), np.asarray(identities)


@pytest.mark.parametrize("catalogue", CATALOGUES)
@pytest.mark.parametrize("supersampling", [1, 2])
def test_images_are_the_ray_caster_s(catalogue, supersampling):
    view = View(CATALOGUES[catalogue], image_size=16, supersampling=supersampling)
    rng = np.random.default_rng(0)
    identities = rng.integers(len(view.catalogue), size=(6, 3))
    presence = rng.integers(2, size=(6, 3))
    scene = create_scene(
        identities, presence, rng.uniform(-1, 1, (6, 3, 2)), rng.normal(size=(6, 3))
    )
    expected = raycast.render(scene, view)
    np.testing.assert_array_equal(surface_motion.render(scene, view), expected)

    def moved(yaw):
        return surface_motion.render(scene._replace(yaw=yaw), view)

    # What is rendered for a derivative is another program.
    drawn, change = jax.jvp(moved, (scene.yaw,), (jnp.ones_like(scene.yaw),))
    np.testing.assert_allclose(drawn, expected, atol=1e-6)
    assert np.abs(change).max() > 0.1


@pytest.mark.parametrize("catalogue", CATALOGUES)
@pytest.mark.parametrize("index, name", list(enumerate(["x", "y", "yaw", "azimuth", "elevation"])))
def test_the_gradient_is_that_of_small_steps_in_fine_images(catalogue, index, name):
    own, by_steps, _ = against_small_steps(catalogue)
    own, by_steps = own[:, index], by_steps[:, index]
    cosine = own @ by_steps / np.linalg.norm(own) / np.linalg.norm(by_steps)
    # At 16 pixels a side, a turn of a checker moves edges by less than the reference's rays.
    assert cosine > (0.8 if name == "yaw" else 0.95)
    assert 0.8 < np.linalg.norm(own) / np.linalg.norm(by_steps) < 1.25


def test_a_turn_that_nobody_sees_has_no_gradient():
    for catalogue, round_ones in (("solids", [1]), ("crockery", [0, 1])):
        own, _, identities = against_small_steps(catalogue)
        is_round = np.isin(identities, round_ones)
        np.testing.assert_array_equal(own[is_round, 2], 0)
        assert np.abs(own[~is_round, 2]).max() > 0.1


def gradient_of_two(places, identities, weights):
    """d <weights, image> / d places of two objects, `[2, 2]`."""
    view = View(SOLIDS, image_size=24, supersampling=2)

    def weighted(places):
        scene = create_scene(identities, jnp.ones(2), places, jnp.zeros(2))
        return (surface_motion.render(scene, view) * weights).sum()

    return np.asarray(jax.jit(jax.grad(weighted))(jnp.asarray(places, jnp.float32)))


def test_an_edge_before_another_object_moves_with_the_nearer_one():
    # A sphere half before a cube, as the camera at negative y sees them.
    places = [[0.25, -0.9], [-0.1, 0.7]]
    weights = np.random.default_rng(0).normal(size=(24, 24, 3)).astype(np.float32)
    forwards = gradient_of_two(places, jnp.array([1, 0]), weights)
    backwards = gradient_of_two(places[::-1], jnp.array([0, 1]), weights)
    np.testing.assert_allclose(forwards, backwards[::-1], rtol=1e-4, atol=1e-4)
    view, step = View(SOLIDS, image_size=24, supersampling=16), 0.02

    def weighted(at):
        scene = create_scene(jnp.array([1, 0]), jnp.ones(2), jnp.array(at), jnp.zeros(2))
        return float((raycast.render(scene, view) * weights).sum())

    for index in np.ndindex(2, 2):
        upper, lower = np.array(places), np.array(places)
        upper[index] += step
        lower[index] -= step
        expected = (weighted(upper) - weighted(lower)) / (2 * step)
        assert forwards[index] == pytest.approx(expected, abs=0.15 * float(np.abs(forwards).max()))


def test_what_is_hidden_or_absent_has_no_gradient():
    view = View(SOLIDS, image_size=16)

    @jax.jit
    def total(places, presence):
        scene = create_scene(jnp.array([1, 0]), presence, places, jnp.zeros(2))
        scene = scene._replace(scale=jnp.array([1.0, 0.3]))
        return (surface_motion.render(scene, view) ** 2).sum()

    # A sphere; beside it a small cube that is not there, or within it one that is.
    for places, there in (([[0.3, 0.2], [-0.6, 0.1]], 0.0), ([[0.3, 0.2], [0.3, 0.2]], 1.0)):
        gradient = jax.grad(total)(jnp.array(places), jnp.array([1.0, there]))
        np.testing.assert_array_equal(gradient[1], 0)
        assert np.abs(gradient[0]).max() > 0.1


def test_cameras_that_look_over_the_horizon_or_lie_on_the_table():
    view = View(CROCKERY, image_size=16)
    elevations = np.array([0.05, 1.5, 0.0, 1e-9, -0.3], np.float32)
    params = np.array([[0.3, -0.2, 0.5, 0.4, 0.0]] * len(elevations), np.float32)
    params[:, 4] = elevations
    identities = jnp.arange(len(params)) % 4

    def squares(params):
        images = surface_motion.render(scenes_of(params, identities), view)
        return (images**2).sum(), images

    gradient, images = jax.jit(jax.grad(squares, has_aux=True))(params)
    expected = raycast.render(scenes_of(params, identities), view)
    np.testing.assert_allclose(images, expected, atol=1e-6)
    assert np.isfinite(gradient).all() and np.abs(gradient).max() < 1e5


def test_the_light_on_a_face_changes_as_it_turns():
    """Within the faces of a cube, where no edge is, exactly as by small steps."""
    view = View(SOLIDS, supersampling=1)

    def drawn(yaw, draw):
        one = jnp.ones((1,))
        return draw(create_scene(jnp.zeros(1), one, jnp.zeros((1, 2)), yaw * one), view)

    image, derivative = (
        np.asarray(part)
        for part in jax.jvp(lambda yaw: drawn(yaw, surface_motion.render), (0.4,), (1.0,))
    )
    by_steps = (drawn(0.401, raycast.render) - drawn(0.399, raycast.render)) / 0.002
    inner = image[1:-1, 1:-1]
    alike = [np.roll(image, shift, axis)[1:-1, 1:-1] for axis in (0, 1) for shift in (1, -1)]
    is_within = np.all([np.abs(inner - other).max(-1) < 1e-6 for other in alike], axis=0)
    is_within &= np.abs(derivative[1:-1, 1:-1]).max(-1) > 0.01
    assert is_within.sum() > 20
    found, expected = (part[1:-1, 1:-1][is_within] for part in (derivative, np.asarray(by_steps)))
    np.testing.assert_allclose(found, expected, rtol=2e-2, atol=2e-3)


def test_an_edge_changes_both_pixels_at_its_sides_alike():
    one, ahead = jnp.zeros((3, 2, 8)), jnp.array([0.0, 0, 0, 0, 1, 1, 1, 1])
    image, distance = one + ahead, 5 + jnp.zeros((2, 8))

    def moved(by):
        return surface_motion._change(image, by + jnp.zeros((2, 8)), distance, axis=2)

    change, derivative = jax.jvp(moved, (0.0,), (1.0,))
    np.testing.assert_array_equal(change, 0)
    np.testing.assert_allclose(derivative[0, 0], [0, 0, 0, -0.5, -0.5, 0, 0, 0])


def test_gradients_do_not_depend_on_how_scenes_are_batched():
    view, identities = View(CROCKERY, image_size=16), jnp.arange(6) % 4
    params = random_params(6)

    def error(params, identities, at_once=None):
        images = surface_motion.render(scenes_of(params, identities), view, at_once=at_once)
        return jnp.square(images - 0.3).sum()

    whole = jax.grad(error)(params, identities)
    in_parts = jax.grad(functools.partial(error, at_once=4))(params, identities)
    np.testing.assert_allclose(in_parts, whole, rtol=1e-4, atol=1e-4)
    by_two = params.reshape(3, 2, 5), identities.reshape(3, 2)
    mapped = jax.vmap(jax.grad(error))(*by_two).reshape(6, 5)
    np.testing.assert_allclose(mapped, whole, rtol=1e-4, atol=1e-4)


def test_colours_and_light_have_the_ray_caster_s_gradient():
    view = View(SOLIDS, image_size=16)
    scene = scenes_of(random_params(3), jnp.arange(3))

    def error(leaves, draw):
        tint, table, brightness = leaves
        changed = scene._replace(tint=tint, table=table, brightness=brightness)
        return jnp.square(draw(changed, view)).sum()

    leaves = scene.tint, scene.table, scene.brightness
    own, expected = (jax.grad(error)(leaves, module.render) for module in (surface_motion, raycast))
    for one, other in zip(own, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)
        assert np.abs(other).max() > 1
