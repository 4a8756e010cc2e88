"""Finite differences: exact where they are known to be, and one rendering for all of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from air_jax.render import finite_difference, raycast
from air_jax.render import scene as description
from air_jax.render.scene import SOLIDS, View

STEPS = np.array([0.1, 0.3, 0.7])


def quadratic(params, others):
    """Central differences of a quadratic are its derivative, whatever the step."""
    weights, integers = others
    x, y, z = params.T
    rows = jnp.stack([x * x + 2 * y, x * y - z * z, 3 * z + y * y], axis=-1)
    return rows * weights[:, None] + integers[:, None]


def arguments():
    rng = np.random.default_rng(0)
    params = jnp.array(rng.normal(size=(5, 3)), jnp.float32)
    return params, (jnp.array(rng.normal(size=5), jnp.float32), jnp.arange(5))


def test_quadratic_gradients_are_exact():
    params, others = arguments()
    rendered = finite_difference.central_differences(quadratic, STEPS)
    np.testing.assert_array_equal(rendered(params, others), quadratic(params, others))

    def loss(function, params):
        return jnp.sin(function(params, others)).sum()

    found = jax.grad(lambda params: loss(rendered, params))(params)
    exact = jax.grad(lambda params: loss(quadratic, params))(params)
    np.testing.assert_allclose(found, exact, rtol=1e-3, atol=1e-4)


def test_other_arguments_get_no_gradient():
    params, (weights, integers) = arguments()
    rendered = finite_difference.central_differences(quadratic, STEPS)
    gradient = jax.grad(lambda weights: rendered(params, (weights, integers)).sum())(weights)
    np.testing.assert_array_equal(gradient, np.zeros(5))


def test_all_neighbours_are_one_batch():
    sizes = []

    def render(params, others):
        sizes.append(len(params))
        return quadratic(params, others)

    params, others = arguments()
    rendered = finite_difference.central_differences(render, STEPS)
    rendered(params, others)
    assert sizes == [5]  # where no gradient is wanted, no neighbours
    jax.grad(lambda params: rendered(params, others).sum())(params)
    assert sizes == [5, 5 * 7]


def test_the_number_of_parameters_is_checked():
    params, others = arguments()
    rendered = finite_difference.central_differences(quadratic, STEPS[:2])
    with pytest.raises(AssertionError):
        jax.grad(lambda params: rendered(params, others).sum())(params)


def test_half_a_pixel_gives_the_direction_of_the_renderer_s_gradient():
    """Against differences of a tenth of the step in images with 64 rays a pixel."""
    rng = np.random.default_rng(0)
    places = rng.uniform(-1, 1, (24, 2)).astype(np.float32)
    moved = places + rng.normal(0, 0.15, (24, 2)).astype(np.float32)
    identities = jnp.arange(24) % 3

    def gradient(supersampling, step):
        view = View(SOLIDS, image_size=16, supersampling=supersampling)

        def render(places, identities):
            one = jnp.ones_like(places[:, :1])
            scene = description.create_scene(identities[:, None], one, places[:, None], 0.4 * one)
            return raycast.render(scene, view)

        rendered = finite_difference.central_differences(render, [step, step])
        target = jax.jit(render)(moved, identities)

        def loss(places):
            return jnp.square(rendered(places, identities) - target).sum()

        return np.asarray(jax.jit(jax.grad(loss))(places))

    reference, found = gradient(8, 0.012), gradient(1, 0.12)
    cosines = (reference * found).sum(-1)
    cosines /= np.linalg.norm(reference, axis=-1) * np.linalg.norm(found, axis=-1)
    assert np.median(cosines) > 0.95


def test_automatic_differentiation_of_the_plain_ray_caster_sees_no_edge_move():
    """Of a cube, whose faces have one shade each, it has nothing to say about the place."""
    view = View(SOLIDS, image_size=16, supersampling=4)

    def render(places, others):
        one = jnp.ones_like(places[:, :1])
        scene = description.create_scene(0 * one, one, places[:, None], 0.4 * one)
        return raycast.render(scene, view)

    places = jnp.array([[0.2, -0.1]])
    weights = jax.random.normal(jax.random.key(0), (1, 16, 16, 3))
    differences = finite_difference.central_differences(render, [0.12, 0.12])

    def gradient(function):
        return jax.jit(jax.grad(lambda at: (function(at, None) * weights).sum()))(places)

    automatic, found = gradient(render), gradient(differences)
    np.testing.assert_array_equal(automatic, 0)
    assert np.linalg.norm(found) > 1
