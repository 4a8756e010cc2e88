"""The scene model of a renderer: places, samples, gradients, the empty table."""

import jax
import jax.numpy as jnp
import numpy as np

from air_jax.evaluate3d import project
from air_jax.experiments import ablation
from air_jax.models.scene3d import GRADIENTS, create_scene3d
from configs import scene3d_table
from tests import tiny3d


def test_places_are_as_the_camera_sees_them():
    scene = tiny3d.scene_model(ablation.change(tiny3d.config(), tiny3d.TABLE))
    cameras = np.array([[0.4, 0.7], [-0.3, 0.6]], np.float32)
    seen = jnp.array([[0.8, 0.0, 0.2], [0.0, 0.5, -1.0]])
    poses = scene.to_world(seen, jnp.array(cameras))
    np.testing.assert_allclose(scene.from_world(poses, jnp.array(cameras)), seen, atol=1e-6)
    view = scene.view._replace(image_size=32)
    (column, row), (other_column, other_row) = project(np.asarray(poses)[:, :2], cameras, view)
    assert column > 17 and abs(row - 16) < 1e-4  # to the right, no farther away than the middle
    assert other_row < 15 and abs(other_column - 16) < 1e-4


def test_samples_are_scenes_of_the_prior():
    scene = tiny3d.scene_model(ablation.change(tiny3d.config(), tiny3d.TABLE))
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


def test_both_gradients_of_a_scene_agree():
    """On the way from wrong poses and cameras to the right ones."""

    def gradients(gradient):
        # With steps twice as long as they ship, since the poses are far off.
        steps = {"position_step": 0.12, "angle_step": 10.0}
        section = {**scene3d_table.get_config().scene.to_dict(), **steps, "gradient": gradient}
        scene = create_scene3d(section, image_size=32, channels=3)
        drawn = scene.sample(jax.random.key(0), jnp.full((32,), 2), 2)
        off = jax.random.split(jax.random.key(1))
        z_where = drawn.z_where + 0.2 * jax.random.normal(off[0], drawn.z_where.shape)
        camera = drawn.camera + 0.1 * jax.random.normal(off[1], drawn.camera.shape)

        def error(z_where, camera):
            canvas = scene.render(drawn.z_what, jnp.ones((32, 2)), z_where, camera)
            return jnp.square(canvas - drawn.images).sum()

        return jax.jit(jax.grad(error, argnums=(0, 1)))(z_where, camera)

    for one, other in zip(*map(gradients, GRADIENTS), strict=True):
        for index in range(one.shape[-1]):
            a, b = one[..., index].ravel(), other[..., index].ravel()
            cosine = float(a @ b / jnp.linalg.norm(a) / jnp.linalg.norm(b))
            assert cosine > (0.3 if index == 2 else 0.9), (index, cosine)


def test_the_empty_table_is_what_no_object_leaves():
    scene = tiny3d.scene_model(tiny3d.config())
    camera = jnp.array([scene.prior_camera().loc])
    nothing = scene.render(
        jnp.zeros((1, 1), jnp.int32), jnp.zeros((1, 1)), jnp.zeros((1, 1, 3)), camera
    )
    np.testing.assert_allclose(scene.empty, nothing[0], atol=1e-6)
