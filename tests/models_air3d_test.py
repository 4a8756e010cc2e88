"""AIR through a renderer: its trace, what it explores and is given, what may have a gradient."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from air_jax.models.air3d import Given, create_air3d
from air_jax.models.scene3d import GRADIENTS, Scene3D

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
    "gradient": "finite_differences",
}
INFERENCE = {
    "variant": "air",
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


TABLE = {**SCENE, "catalogue": "crockery", "camera_scale": (14.4, 4.6), "likelihood_scale": 0.1}


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
def apply(air, params, images, noise, z_what=None, mode=False, given=None):
    return air.apply({"params": params}, images, noise, z_what=z_what, mode=mode, given=given)


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


@functools.cache
def crockery_images():
    """Scenes of no, one and two pieces as they are rendered, `[192, 16, 16, 3]`."""
    scene = create_air3d(scene=TABLE, inference=INFERENCE, image_size=16, channels=3).scene
    keys = jax.random.split(jax.random.key(3), 3)
    what = jax.random.randint(keys[0], (192, 2), 0, 4)
    presence = jnp.arange(2) < (jnp.arange(192) % 3)[:, None]
    places = jax.random.uniform(keys[1], (192, 2, 3), minval=-1.0, maxval=1.0)
    camera = jnp.array(scene.prior_camera().loc) + 0.1 * jax.random.normal(keys[2], (192, 2))
    return scene.draw(what, presence.astype(jnp.float32), places, camera)


@pytest.mark.parametrize("variant", ["air", "dair"])
def test_what_helps_is_explored(variant):
    """An object that is kept makes the image likelier, and nothing does where there is none."""
    inference = {**INFERENCE, "variant": variant}
    air = create_air3d(scene=TABLE, inference=inference, image_size=16, channels=3)
    batch = crockery_images()
    params = jax.jit(air.init)(jax.random.key(0), batch[:1], air.mean_noise(1))["params"]
    noise = noise_of(air, 192)
    trace = apply(air, params, batch, noise._replace(exploration=jnp.ones((192,))))
    kept = np.asarray(trace.z_pres) > 0
    assert 0.05 < kept[:, 0].mean() < 0.95
    before = np.asarray(trace.log_p_x_before)
    assert (before[:, 1] > before[:, 0])[kept[:, 0]].all()
    np.testing.assert_array_equal(before[:, 1][~kept[:, 0]], before[:, 0][~kept[:, 0]])
    assert (trace.log_p_x[:, 0] > before[:, 1])[kept[:, 1]].all()
    # Where it stopped, no identity would have helped.
    always = noise._replace(pres=jnp.zeros((192, 2)))
    for identity in range(4):
        forced = apply(air, params, batch, always, jnp.full((192, 2), identity))
        gain = np.asarray(forced.log_p_x_before[:, 1] - forced.log_p_x_before[:, 0])
        assert (gain[~kept[:, 0]] <= 0).all()
    # Without exploration nothing of it is left.
    assert trace.guidance.min() >= 0 and trace.guidance[:, 0].min() > 0
    np.testing.assert_array_equal(apply(air, params, batch, noise).guidance, 0)


def test_guidance_leads_to_what_fits():
    """Descent of the guidance in what decides finds the identity and the count of a scene."""
    scene = {**TABLE, "position_scale": 1e-3}
    inference = {**INFERENCE, "hidden_size": 16, "predictor_hidden": (16,)}
    air = create_air3d(scene=scene, inference=inference, image_size=16, channels=3)
    scene = air.scene
    camera = jnp.tile(scene.prior_camera().loc, (2, 1))
    nowhere = jnp.zeros((2, 1, 3))
    # A cup where every object is put, and an empty table.
    batch = scene.draw(jnp.full((2, 1), 2), jnp.array([[1.0], [0.0]]), nowhere, camera)
    params = jax.jit(air.init)(jax.random.key(0), batch, air.mean_noise(2))["params"]
    for name in ("predict_where", "predict_camera"):
        params[name] |= {"Dense_1": jax.tree.map(jnp.zeros_like, params[name]["Dense_1"])}
    noise = air.mean_noise(2)._replace(exploration=jnp.ones((2,)))
    heads = {name: params[name] for name in ("predict_pres", "predict_what")}
    optimizer = optax.adam(0.02)
    state = optimizer.init(heads)

    @jax.jit
    def step(heads, state):
        def loss(heads):
            return air.apply({"params": {**params, **heads}}, batch, noise).guidance.sum()

        updates, state = optimizer.update(jax.grad(loss)(heads), state)
        return optax.apply_updates(heads, updates), state

    for _ in range(600):
        heads, state = step(heads, state)
    found = apply(air, {**params, **heads}, batch, air.mean_noise(2), mode=True)
    np.testing.assert_array_equal(found.posterior.mode_count(), [1, 0])
    assert found.z_what[0, 0] == 2


def test_dair_sees_what_is_left():
    air = create_air3d(
        scene=TABLE, inference={**INFERENCE, "variant": "dair"}, image_size=16, channels=3
    )
    batch = crockery_images()
    params = jax.jit(air.init)(jax.random.key(0), batch[:1], air.mean_noise(1))["params"]
    trace = apply(air, params, batch, noise_of(air, 192))
    camera = trace.z_scene
    first = [leaf[:, :1] for leaf in (trace.z_what, trace.z_pres, trace.z_where)]
    np.testing.assert_allclose(
        trace.errors[:, 1], batch - air.scene.draw(*first, camera), atol=1e-5
    )
    nothing = air.scene.draw(first[0], 0 * first[1], first[2], camera)
    np.testing.assert_allclose(trace.errors[:, 0], batch - nothing, atol=1e-5)
    # What the first step found reaches the second one, through the image alone.
    one = jax.tree.map(lambda leaf: leaf[:1], noise_of(air, 192))
    present = one._replace(pres=jnp.zeros_like(one.pres))
    traces = [
        apply(air, params, batch[1:2], present, jnp.array([[identity, 0]])) for identity in (0, 3)
    ]
    assert np.abs(traces[0].presence_logit - traces[1].presence_logit)[0, 1] > 0
    absent = one._replace(pres=jnp.ones_like(one.pres))
    traces = [
        apply(air, params, batch[1:2], absent, jnp.array([[identity, 0]])) for identity in (0, 3)
    ]
    np.testing.assert_array_equal(traces[0].presence_logit, traces[1].presence_logit)


@pytest.mark.parametrize("variant", ["air", "dair"])
def test_what_is_given_is_found_and_seen_by_later_steps(variant):
    air = create_air3d(
        scene=TABLE, inference={**INFERENCE, "variant": variant}, image_size=16, channels=3
    )
    batch = crockery_images()
    params = jax.jit(air.init)(jax.random.key(0), batch[:1], air.mean_noise(1))["params"]
    noise = noise_of(air, 192)
    own = apply(air, params, batch, noise._replace(pres=jnp.zeros((192, 2))))
    counts = jnp.arange(192) % 3
    # Given what it would have found, it goes on as if it had found it.
    absent = noise._replace(pres=jnp.ones((192, 2)))
    given = Given(counts, own.z_what, own.z_where)
    same = apply(air, params, batch, absent, given=given)
    np.testing.assert_array_equal(same.z_pres, jnp.arange(2) < counts[:, None])
    once = np.asarray(counts) > 0
    np.testing.assert_allclose(same.z_where[once], own.z_where[once], atol=1e-5)
    np.testing.assert_allclose(same.presence_logit[once], own.presence_logit[once], atol=1e-4)
    # Given something else, the later step sees that, and the scene holds it.
    other = Given(counts, (own.z_what + 1) % 4, -own.z_where)
    trace = apply(air, params, batch, noise, given=other)
    is_given = np.arange(2) < np.asarray(counts)[:, None]
    np.testing.assert_array_equal(trace.z_what[is_given], other.z_what[is_given])
    np.testing.assert_allclose(trace.z_where[is_given], other.z_where[is_given], atol=1e-5)
    drawn = air.scene.draw(trace.z_what, trace.z_pres, trace.z_where, trace.z_scene)
    np.testing.assert_allclose(trace.canvases[:, 0], drawn, atol=1e-5)
    assert (trace.presence_logit[once, 1] != own.presence_logit[once, 1]).mean() > 0.9


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_poses_and_camera_learn_through_the_renderer(gradient):
    air = create(gradient=gradient)
    params, noise = init(air), noise_of(air, 32)

    def likelihood(params):
        return air.apply({"params": params}, images(32), noise).log_p_x.sum()

    of_params = jax.jit(jax.grad(likelihood))(params)
    norms = {
        name: float(jnp.linalg.norm(leaf["Dense_1"]["kernel"]))
        for name, leaf in of_params.items()
        if name.startswith("predict")
    }
    assert norms["predict_where"] > 0 and norms["predict_camera"] > 0
    # Decisions get theirs from the score function alone.
    assert norms["predict_what"] == 0 and norms["predict_pres"] == 0


def test_what_cannot_be_is_refused():
    for changes, message in (
        ({"catalogue": "cars"}, "valid names are 'solids', 'crockery'"),
        ({"gradient": "autodiff"}, "valid names are 'finite_differences', 'surface_motion'"),
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
