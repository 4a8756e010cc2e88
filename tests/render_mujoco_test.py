"""MuJoCo against the ray caster, and by hand; of its processes, render_mujoco_worker_test."""

import importlib.util
import math

import jax
import numpy as np
import pytest

from air_jax.render import mujoco, raycast
from air_jax.render.mujoco import MujocoRenderer, Realism
from air_jax.render.scene import CROCKERY, SOLIDS, Box, Model, Scene, View, create_scene

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mujoco") is None,
    reason="the package mujoco is not installed: pip install 'air_jax[render]'",
)

SMALL = View(SOLIDS, image_size=16, supersampling=1)
# Straight from above, of a table that fills the image.
ABOVE = (0.0, math.pi / 2, 6.0)
WIDE = (50.0, 50.0)


def random_scenes(num_scenes: int, k: int, num_models: int, seed: int = 0) -> Scene:
    """Scenes in which everything varies, float32 NumPy."""
    rng = np.random.default_rng(seed)

    def uniform(low, high, *shape):
        return rng.uniform(low, high, (num_scenes, *shape)).astype(np.float32)

    def columns(*ranges):
        return np.stack([uniform(low, high) for low, high in ranges], axis=-1)

    return Scene(
        identity=rng.integers(0, num_models, (num_scenes, k)).astype(np.int32),
        presence=(uniform(0, 1, k) < 0.8).astype(np.float32),
        position=uniform(-1.3, 1.3, k, 2),
        yaw=uniform(-4, 4, k),
        scale=uniform(0.7, 1.3, k),
        tint=uniform(0.5, 1.2, k, 3),
        camera=columns((-3, 3), (0.5, 1.3), (5, 7)),
        light=columns((-3, 3), (-0.3, 1.4)),
        brightness=columns((0.2, 0.5), (0.4, 0.9)),
        table=uniform(0.1, 0.8, 2, 3),
    )


def empty_scene(**changes) -> Scene:
    """No objects, seen from above, in NumPy."""
    nothing = create_scene(np.zeros(1), np.zeros(1), np.zeros((1, 2)), np.zeros(1))
    nothing = jax.tree.map(np.asarray, nothing)
    return nothing._replace(camera=np.array(ABOVE, np.float32), **changes)


def first(scene: Scene, n: int) -> Scene:
    return Scene(*(leaf[:n] for leaf in scene))


@pytest.fixture(scope="module")
def small():
    with MujocoRenderer(SMALL, num_workers=1) as renderer:
        yield renderer


@pytest.mark.parametrize(("catalogue", "k"), [(SOLIDS, 1), (CROCKERY, 3)], ids=["one", "three"])
def test_both_renderers_draw_the_same(catalogue, k):
    view = View(catalogue, image_size=32, supersampling=2)
    scenes = random_scenes(96, k, len(catalogue))
    expected = np.asarray(raycast.render(scenes, view))
    with MujocoRenderer(view, num_workers=1) as renderer:
        images = renderer.render(scenes)
    assert images.dtype == np.float32 and images.min() >= 0 and images.max() <= 1
    error = images - expected
    # At edges a sample may fall on either side. Measured: 0.0024 and 0.0031.
    assert np.sqrt(np.mean(error**2)) < 0.005
    assert np.sqrt(np.mean(error**2, axis=(1, 2, 3))).max() < 0.02
    # Inside of them it is the rounding to 256 levels, and the shade between the corners of a mesh.
    assert np.quantile(np.abs(error), 0.9) < 0.6 / 255


@pytest.mark.parametrize(
    ("elevation", "brightness", "expected"),
    [
        (math.pi / 2, (0.4, 0.5), 0.5 * 0.9),
        (math.pi / 6, (0.4, 0.5), 0.5 * (0.4 + 0.5 * 0.5)),
        (-math.pi / 6, (0.4, 0.5), 0.5 * 0.4),
        (math.pi / 2, (0.9, 1.5), 1.0),
    ],
)
def test_the_table_by_hand(elevation, brightness, expected):
    scene = empty_scene(
        light=np.array([0.3, elevation], np.float32),
        brightness=np.array(brightness, np.float32),
        table=np.full((2, 3), 0.5, np.float32),
    )
    with MujocoRenderer(SMALL._replace(table_half=WIDE), num_workers=1) as renderer:
        np.testing.assert_allclose(renderer.render(scene), expected, atol=0.6 / 255)


def test_an_object_by_hand():
    # From 5 above, 90 degrees of view show 10 at the table and 8 at the top of a box 1 high: with
    # half sides of 1 and 0.5 it has 4 and 2 of 16 pixels, to the right and above of the middle.
    box = Model("box", (Box((1.0, 0.5, 0.5), (1.0, 0.5, 0.5), (0.5, 0.2, 0.1)),), fold=1)
    view = View((box,), image_size=16, field_of_view=90.0, table_half=WIDE, supersampling=1)
    scene = empty_scene(
        table=np.zeros((2, 3), np.float32),
        light=np.array([0.0, math.pi / 2], np.float32),
        brightness=np.array([0.25, 0.5], np.float32),
    )
    scene = scene._replace(
        presence=np.ones(1, np.float32),
        camera=np.array([0.0, math.pi / 2, 5.0], np.float32),
        tint=np.array([[1.0, 2.0, 3.0]], np.float32),
    )
    shade = 0.75 * np.array([0.5, 0.4, 0.3])
    turned = scene._replace(yaw=np.full(1, math.pi / 2, np.float32))
    twice = scene._replace(scale=np.full(1, 2.0, np.float32))
    expected = np.zeros((3, 16, 16, 3))
    expected[0, 6:8, 8:12] = shade
    expected[1, 4:8, 6:8] = shade
    # Twice as large, its top is 3 away, where the image shows 6: it has 10.7 by 5.3 pixels.
    expected[2, 3:8, 8:16] = shade
    with MujocoRenderer(view, num_workers=1) as renderer:
        images = renderer.render(Scene(*map(np.stack, zip(scene, turned, twice, strict=True))))
    np.testing.assert_allclose(images[:2], expected[:2], atol=0.6 / 255)
    seen = images[2].sum(-1) > 0
    assert seen[3:8, 8:].all() and not seen[:2].any() and not seen[8:].any()


def test_there_is_no_horizon(small):
    scene = empty_scene(table=np.full((2, 3), 0.6, np.float32))
    scene = scene._replace(camera=np.array([0.7, math.radians(3.0), 6.0], np.float32))
    image = small.render(scene)
    np.testing.assert_allclose(image, np.broadcast_to(image[-1, 0], image.shape), atol=1.1 / 255)
    assert image.min() > 0.3


def test_objects_that_are_absent_are_not_drawn(small):
    scenes = random_scenes(8, 1, 3)
    absent = scenes._replace(presence=np.zeros((8, 1), np.float32))
    far = absent._replace(position=np.full((8, 1, 2), 90.0, np.float32), presence=np.ones((8, 1)))
    np.testing.assert_array_equal(small.render(absent), small.render(far))


def test_any_batch_axes_and_any_number_of_objects(small):
    scenes = random_scenes(6, 2, 3)
    images = small.render(scenes)
    assert images.shape == (6, 16, 16, 3)
    grid = Scene(*(leaf.reshape(2, 3, *leaf.shape[1:]) for leaf in scenes))
    np.testing.assert_array_equal(small.render(grid), images.reshape(2, 3, 16, 16, 3))
    one = jax.tree.map(lambda leaf: jax.numpy.asarray(leaf[4]), scenes)
    np.testing.assert_array_equal(small.render(one), images[4])
    assert small.render(first(scenes, 0)).shape == (0, 16, 16, 3)
    assert small.render(random_scenes(2, 5, 3)).shape == (2, 16, 16, 3)


def test_images_are_in_the_order_of_the_scenes_whoever_draws_them(small):
    scenes = random_scenes(200, 1, 3)  # 64 fit at a time
    with MujocoRenderer(SMALL, num_workers=2) as renderer:
        images = renderer.render(scenes)
    np.testing.assert_array_equal(images, small.render(scenes))
    for i in (0, 63, 64, 131, 199):
        scene = jax.tree.map(lambda leaf, i=i: leaf[i], scenes)
        np.testing.assert_array_equal(images[i], small.render(scene))


def test_numbers_that_are_not_finite_make_images_that_are_not(small):
    scenes = random_scenes(3, 1, 3)
    scenes.yaw[1, 0] = np.nan
    finite = np.isfinite(small.render(scenes))
    assert finite[0].all() and not finite[1].any() and finite[2].all()


def test_scenes_that_cannot_be_drawn_are_refused(small):
    scenes = random_scenes(3, 1, 3)
    with pytest.raises(ValueError, match=r"scene.yaw is \(3,\), .* \(3, 1\)"):
        small.render(scenes._replace(yaw=scenes.yaw[:, 0]))
    unknown = scenes._replace(identity=np.full((3, 1), 3), presence=np.ones((3, 1)))
    with pytest.raises(ValueError, match="has 3, the catalogue has 3 models"):
        small.render(unknown)
    with pytest.raises(jax.errors.JaxRuntimeError, match="has 3, the catalogue has 3 models"):
        jax.block_until_ready(jax.jit(mujoco.traceable(small))(unknown))
    with pytest.raises(ValueError, match="num_workers is 0"):
        MujocoRenderer(SMALL, num_workers=0)


def test_inside_jit_and_vmap_all_scenes_are_handed_over_at_once(small, monkeypatch):
    scenes = random_scenes(6, 1, 3)
    expected = small.render(scenes)
    calls = []
    render = small.render

    def counted(scene):
        calls.append(scene.identity.shape)
        return render(scene)

    monkeypatch.setattr(small, "render", counted)
    draw = mujoco.traceable(small)
    halved = jax.jit(lambda scene: draw(scene) / 2)(scenes)
    np.testing.assert_allclose(halved, expected / 2, rtol=1e-6)
    # One camera, light and table for all.
    shared = [None if i >= 6 else 0 for i in range(len(Scene._fields))]
    grid = Scene(*(leaf.reshape(2, 3, *leaf.shape[1:]) for leaf in scenes))
    grid = Scene(*(leaf if i < 6 else leaf[0, 0] for i, leaf in enumerate(grid)))
    images = jax.jit(jax.vmap(jax.vmap(draw, (Scene(*shared),)), (Scene(*shared),)))(grid)
    assert images.shape == (2, 3, 16, 16, 3)
    np.testing.assert_array_equal(images[0, 0], expected[0])
    assert calls == [(6, 1), (2, 3, 1)]


@pytest.mark.parametrize("realism", [{"shadows": True}, {"specular": 0.5}, {"texture": True}])
def test_what_the_ray_caster_does_not_draw(small, realism):
    scene = empty_scene(table=np.full((2, 3), 0.8, np.float32))
    scene = scene._replace(
        identity=np.ones(1, np.int32),  # the sphere
        presence=np.ones(1, np.float32),
        position=np.array([[-0.5, 0.0]], np.float32),
        light=np.array([math.pi / 2, 0.6], np.float32),  # from the right
        brightness=np.array([0.4, 0.5], np.float32),
    )
    plain = small.render(scene)
    with MujocoRenderer(SMALL, num_workers=1, realism=Realism(**realism)) as renderer:
        change = renderer.render(scene) - plain
    is_sphere = plain[..., 2] > 1.2 * plain[..., 0]
    if "shadows" in realism:
        assert change.max() < 1.1 / 255
        # The light's share: 0.8 0.5 sin(0.6). It goes to the left of the sphere only.
        np.testing.assert_allclose(change.min(), -0.4 * math.sin(0.6), atol=1.1 / 255)
        assert (change[:, :4] < -0.1).any() and not (change[:, 10:] < -0.1).any()
    elif "specular" in realism:
        assert change.min() > -1.1 / 255 and change[is_sphere].max() > 0.05
        np.testing.assert_allclose(change[~is_sphere], 0.0, atol=1.1 / 255)
    else:
        assert np.abs(change[~is_sphere]).mean() > 0.03
        inside = is_sphere & np.roll(is_sphere, 1, 0) & np.roll(is_sphere, 1, 1)
        np.testing.assert_allclose(change[inside], 0.0, atol=1.1 / 255)
