"""attend and place: geometry, inverse maps, agreement with a direct bilinear sampler."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from air_jax.models.spatial_transformer import attend, place, sample, window_box


def blob(size, centre, width=3.0):
    """A smooth spot at `centre` (x, y) in pixels, `[1, size, size, 1]`."""
    y, x = np.mgrid[:size, :size] + 0.5
    values = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * width**2))
    return jnp.asarray(values, jnp.float32)[None, :, :, None]


def centroid(image):
    image = np.asarray(image)[0, :, :, 0]
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    return (x * image).sum() / image.sum(), (y * image).sum() / image.sum()


def test_identity_window_returns_the_image():
    image = jax.random.uniform(jax.random.key(0), (2, 12, 12, 3))
    identity = jnp.array([[1.0, 0.0, 0.0]] * 2)
    np.testing.assert_allclose(attend(image, identity, window_size=12), image, atol=1e-6)
    np.testing.assert_allclose(place(image, identity, image_size=12), image, atol=1e-6)


@pytest.mark.parametrize("z_where", [(2.0, 0.5, -0.3), (1.6, -0.4, 0.2), (2.4, 0.8, 0.9)])
def test_attend_centres_on_minus_t_over_s(z_where):
    # A spot at the window's centre, (1 - t / s) S / 2, is seen in the middle of the window.
    size, (s, t_x, t_y) = 50, z_where
    centre = ((1 - t_x / s) * size / 2, (1 - t_y / s) * size / 2)
    glimpse = attend(blob(size, centre, 2.0), jnp.array([z_where]), window_size=28)
    np.testing.assert_allclose(centroid(glimpse), (14, 14), atol=0.05)


@pytest.mark.parametrize("z_where", [(2.0, 0.5, -0.3), (1.6, -0.4, 0.2), (2.4, 0.8, 0.9)])
def test_place_draws_where_window_box_says(z_where):
    placed = place(jnp.ones((1, 28, 28, 1)), jnp.array([z_where]), image_size=50)
    x_min, y_min, x_max, y_max = window_box(jnp.array(z_where), 50)
    # The ramp at the border is half inside, half outside; sampling it at pixels costs the rest.
    np.testing.assert_allclose(placed.sum(), (x_max - x_min) * (y_max - y_min), rtol=0.02)
    np.testing.assert_allclose(
        centroid(placed), ((x_min + x_max) / 2, (y_min + y_max) / 2), atol=0.1
    )


def test_place_then_attend_returns_a_smooth_window():
    window = blob(28, (13.0, 15.0), 5.0)
    z_where = jnp.array([[1.8, 0.3, -0.4]])
    back = attend(place(window, z_where, image_size=50), z_where, window_size=28)
    np.testing.assert_allclose(back, window, atol=0.03)


def test_attend_equals_scipy_s_bilinear_sampler():
    image = np.asarray(jax.random.uniform(jax.random.key(3), (20, 20)))
    s, t_x, t_y = 1.3, -0.25, 0.6
    window = (2 * np.arange(9) + 1) / 9 - 1
    rows, columns = (((window - t) / s + 1) * 20 / 2 - 0.5 for t in (t_y, t_x))
    expected = scipy.ndimage.map_coordinates(
        image, np.meshgrid(rows, columns, indexing="ij"), order=1, mode="constant"
    )
    actual = attend(
        jnp.asarray(image)[None, :, :, None], jnp.array([[s, t_x, t_y]]), window_size=9
    )[0, :, :, 0]
    # scipy drops samples beyond the outermost centres; here they fade over half a pixel.
    inside = ((rows >= 0) & (rows <= 19))[:, None] & ((columns >= 0) & (columns <= 19))
    assert inside.sum() > 20
    np.testing.assert_allclose(np.where(inside, actual, expected), expected, atol=1e-5)


def test_place_is_zero_outside_the_window():
    placed = place(jnp.ones((1, 28, 28, 1)), jnp.array([[4.0, 0.0, 0.0]]), image_size=48)
    assert float(placed[0, :17].sum()) == 0
    assert float(placed[0, 24, 24, 0]) == pytest.approx(1.0)


def test_gradients_reach_every_pose_dimension():
    def loss(z_where):
        target = blob(50, (30.0, 20.0))
        return jnp.square(place(blob(28, (14, 14)), z_where, image_size=50) - target).sum()

    gradient = jax.grad(loss)(jnp.array([[2.0, 0.1, 0.1]]))
    assert (np.abs(gradient) > 1e-3).all()


def test_window_box_of_the_whole_image():
    np.testing.assert_allclose(window_box(jnp.array([1.0, 0.0, 0.0]), 50), [0, 0, 50, 50])
    # s = 2, t_x = 1: half the side, moved left by half the half side; hand-derived.
    np.testing.assert_allclose(window_box(np.array([2.0, 1.0, 0.0]), 40), [0, 10, 20, 30])


def test_wrong_ranks_are_refused():
    with pytest.raises(AssertionError):
        attend(jnp.ones((20, 20, 1)), jnp.ones((1, 3)), window_size=5)


def test_sample_reads_between_pixel_centres_and_zero_beyond_the_border():
    maps = np.random.default_rng(0).random((2, 4, 4, 3), np.float32)
    centres = jnp.array([-0.75, -0.25, 0.25, 0.75])
    np.testing.assert_allclose(sample(maps, centres), maps, atol=1e-6)
    (middle,) = np.split(sample(maps, jnp.zeros(1)), 1)
    np.testing.assert_allclose(middle[:, 0, 0], maps[:, 1:3, 1:3].mean((1, 2)), atol=1e-6)
    np.testing.assert_array_equal(sample(maps, jnp.array([-1.5, 1.5])), 0.0)
