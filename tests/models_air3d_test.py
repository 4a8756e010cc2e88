"""The network of AIR through a renderer: its trace, its decisions, what may have a gradient."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from air_jax.models import air3d
from air_jax.models.air3d import create_air3d
from air_jax.models.scene3d import Scene3D

SCENE = {
    "catalogue": "solids",
    "field_of_view": 34.0,
    "supersampling": 1,
    "reach": 1.4,
    "position_scale": 0.9,
    "camera_scale": (8.0, 3.0),
    "likelihood_scale": 0.3,
    "position_step": 0.12,
    "angle_step": 10.0,
}
INFERENCE = {
    "num_steps": 2,
    "fixed_count": False,
    "hidden_size": 5,
    "embedding_size": 6,
    "predictor_hidden": (4,),
    "patch_size": 4,
    "patch_features": 3,
    "presence_logit": 0.5,
    "yaw_scale": 0.4,
}


def create(**changes):
    """A tiny network on 8x8 images."""
    scene = {name: changes.get(name, value) for name, value in SCENE.items()}
    inference = {name: changes.get(name, value) for name, value in INFERENCE.items()}
    return create_air3d(scene=scene, inference=inference, image_size=8, channels=3)


@functools.cache
def init(air):
    one = jnp.zeros((1, 8, 8, 3))
    return jax.jit(air.init)(jax.random.key(0), one, air.mean_noise(1))["params"]


@functools.partial(jax.jit, static_argnames=("air", "mode"))
def apply(air, params, images, noise, z_what=None, mode=False):
    return air.apply({"params": params}, images, noise, z_what=z_what, mode=mode)


def images(batch_size):
    return jax.random.uniform(jax.random.key(1), (batch_size, 8, 8, 3))


def noise_of(air, batch_size, seed=2):
    return air.sample_noise(jax.random.split(jax.random.key(seed), batch_size))


@pytest.fixture(scope="module")
def trace():
    air = create()
    return apply(air, init(air), images(64), noise_of(air, 64))


def test_the_trace_has_what_estimators_need(trace):
    chex.assert_shape([trace.z_pres, trace.z_what, trace.log_q_what, trace.kl_where], (64, 2))
    chex.assert_shape(trace.z_where, (64, 2, 3))
    chex.assert_shape(
        [trace.canvases, trace.log_p_x[..., None, None, None]], (64, 1, None, None, None)
    )
    chex.assert_shape([trace.kl_scene, trace.log_ratio_scene], (64,))
    assert not trace.scores_every_count
    assert set(np.unique(trace.z_what)) == {0, 1, 2}
    assert (np.diff(trace.z_pres, axis=-1) <= 0).all() and 0 < trace.z_pres.mean() < 1
    assert (np.abs(trace.z_where[..., :2]) <= 1.4).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(trace))


def test_log_q_of_an_identity_is_that_of_its_law(trace):
    picked = np.take_along_axis(np.asarray(trace.what_log_probs), trace.z_what[..., None], -1)
    np.testing.assert_allclose(trace.log_q_what, picked[..., 0], rtol=1e-5)
    np.testing.assert_allclose(np.exp(trace.what_log_probs).sum(-1), 1.0, rtol=1e-5)


def test_what_is_not_there_is_not_drawn(trace):
    scene = create().scene
    camera = trace.z_scene
    drawn = scene.render(trace.z_what, trace.z_pres, trace.z_where, camera)
    np.testing.assert_allclose(trace.canvases[:, 0], drawn, atol=1e-5)
    none = np.asarray(trace.z_pres.sum(-1) == 0)
    moved = scene.render(trace.z_what, trace.z_pres, trace.z_where + 0.3, camera)
    np.testing.assert_allclose(moved[none], drawn[none], atol=1e-6)
    assert np.abs(moved[~none] - drawn[~none]).max() > 0.05


def test_identities_can_be_forced_chosen_and_explored():
    air = create(fixed_count=True, camera_scale=(0.0, 0.0))
    params, batch, noise = init(air), images(512), noise_of(air, 512)
    forced = jnp.tile(jnp.array([[2, 0]]), (512, 1))
    trace = apply(air, params, batch, noise, z_what=forced)
    np.testing.assert_array_equal(trace.z_what, forced)
    np.testing.assert_array_equal(trace.z_pres, 1)  # the count is known
    assert trace.kl_scene is None and trace.z_scene.shape == (512, 0)
    mode = apply(air, params, batch, noise, mode=True)
    np.testing.assert_array_equal(mode.z_what, mode.what_log_probs.argmax(-1))
    everything = noise._replace(exploration=jnp.ones((512,)))
    explored = apply(air, params, batch, everything)
    np.testing.assert_allclose(explored.what_log_probs, np.log(1 / 3), rtol=1e-5)
    half = apply(air, params, batch, noise._replace(exploration=jnp.full((512,), 0.5)))
    mixed = 0.5 * np.exp(apply(air, params, batch, noise).what_log_probs[:, 0]) + 0.5 / 3
    np.testing.assert_allclose(np.exp(half.what_log_probs[:, 0]), mixed, rtol=1e-4)


def test_identities_have_their_frequencies():
    log_probs = jnp.log(jnp.tile(jnp.array([[0.2, 0.5, 0.3]]), (20_000, 1)))
    chosen = air3d._choose(log_probs, jax.random.uniform(jax.random.key(0), (20_000,)))
    np.testing.assert_allclose(np.bincount(chosen) / 20_000, [0.2, 0.5, 0.3], atol=0.015)


def test_poses_and_camera_learn_through_the_renderer():
    air = create()
    params, noise = init(air), noise_of(air, 32)

    def likelihood(params):
        return air.apply({"params": params}, images(32), noise).log_p_x.sum()

    gradient = jax.jit(jax.grad(likelihood))(params)
    norms = {
        name: float(jnp.linalg.norm(leaf["Dense_1"]["kernel"]))
        for name, leaf in gradient.items()
        if name.startswith("predict")
    }
    assert norms["predict_where"] > 0 and norms["predict_camera"] > 0
    # Decisions get theirs from the score function alone.
    assert norms["predict_what"] == 0 and norms["predict_pres"] == 0


def test_what_cannot_be_is_refused():
    for changes, message in (
        ({"catalogue": "cars"}, "valid names are 'solids', 'crockery'"),
        ({"reach": 0.0}, "reach is 0.0"),
        ({"camera_scale": (8.0, 0.0)}, "both must be positive, or both 0"),
    ):
        with pytest.raises(ValueError, match=message):
            create(**changes)
    with pytest.raises(ValueError, match="have 3"):
        Scene3D(image_size=8, channels=1, **SCENE)
    air = create()
    with pytest.raises(ValueError, match="at the sampled count alone"):
        air.apply({"params": init(air)}, images(1), air.mean_noise(1), every_count=True)


def test_the_empty_table_is_what_no_object_leaves():
    scene = create(camera_scale=(0.0, 0.0)).scene
    camera = jnp.array([scene.prior_camera().loc])
    nothing = scene.render(
        jnp.zeros((1, 1), jnp.int32), jnp.zeros((1, 1)), jnp.zeros((1, 1, 3)), camera
    )
    np.testing.assert_allclose(scene.empty, nothing[0], atol=1e-6)


def test_divergences_are_the_means_of_their_log_ratios():
    """Of one image over many noises: E_q[log p - log q] = -KL, of poses and camera."""
    air = create(num_steps=1)
    batch = jnp.tile(images(1), (4_096, 1, 1, 1))
    trace = apply(air, init(air), batch, noise_of(air, 4_096), jnp.zeros((4_096, 1), jnp.int32))
    pairs = {
        "where": trace.log_ratio_where[:, 0] + trace.kl_where[:, 0],
        "scene": trace.log_ratio_scene + trace.kl_scene,
    }
    for name, difference in pairs.items():
        error = difference.std() / np.sqrt(len(difference))
        assert abs(difference.mean()) < 4 * error, name
    assert trace.kl_where.mean() > 0.1 and trace.kl_scene.mean() > 0.01
