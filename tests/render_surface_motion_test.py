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
    np.testing.assert_allclose(
        surface_motion.render(scene, view), raycast.render(scene, view), atol=1e-6
    )


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

    def total(places, presence):
        scene = create_scene(jnp.array([0, 1]), presence, places, jnp.zeros(2))
        return (surface_motion.render(scene, view) ** 2).sum()

    places = jnp.array([[0.3, 0.2], [-0.6, 0.1]])
    gradient = jax.grad(total)(places, jnp.array([1.0, 0.0]))
    np.testing.assert_array_equal(gradient[1], 0)
    assert np.abs(gradient[0]).max() > 0.1


def test_gradients_stay_finite_where_rays_pass_over_the_horizon():
    view = View(CROCKERY, image_size=16)
    params = np.array([[0.3, -0.2, 0.5, 0.0, 0.05], [0.0, 0.0, 0.0, 2.0, 1.5]], np.float32)

    def total(params):
        return (surface_motion.render(scenes_of(params, jnp.array([2, 3])), view) ** 2).sum()

    gradient = np.asarray(jax.grad(total)(params))
    assert np.isfinite(gradient).all() and np.abs(gradient).max() < 1e4
