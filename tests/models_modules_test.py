"""The map of places, and the embedding of images."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from air_jax.models import modules

GRID = 9


def place(logits, radius):
    """The place of maps `[B, GRID, GRID]` that are given as they are."""
    module = modules.PlaceMap((), GRID, radius)
    features = jnp.asarray(logits).reshape(-1, GRID**2)
    kernel = jnp.eye(GRID**2) / modules._PLACE_GAIN
    params = {"MLP_0": {"Dense_0": {"kernel": kernel, "bias": jnp.zeros(GRID**2)}}}
    return module.apply({"params": params}, features)


def peaks(*heights):
    """A map with a bump of each height at (x, y), in steps of the grid."""
    rows, columns = np.mgrid[:GRID, :GRID]
    bumps = [
        height * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 2) for height, x, y in heights
    ]
    return np.sum(bumps, axis=0)[None].astype(np.float32)


def test_a_place_is_x_to_the_right_and_y_down_from_the_middle_of_the_image():
    np.testing.assert_allclose(place(peaks((50.0, 7, 2)), 0.4), [[0.75, -0.5]], atol=1e-3)


def test_the_map_spans_what_it_is_told_to():
    module = modules.PlaceMap((), GRID, 0.1, span=1.5)
    kernel = jnp.eye(GRID**2) / modules._PLACE_GAIN
    params = {"MLP_0": {"Dense_0": {"kernel": kernel, "bias": jnp.zeros(GRID**2)}}}
    features = jnp.asarray(peaks((50.0, 8, 0))).reshape(1, -1)
    np.testing.assert_allclose(module.apply({"params": params}, features), [[1.5, -1.5]], atol=0.01)


def test_between_two_places_that_are_as_good_it_is_at_one_of_them():
    logits = peaks((20.0, 1, 4), (20.0, 7, 4))
    assert abs(place(logits, radius=100.0)[0, 0]) < 0.01
    np.testing.assert_allclose(place(logits, radius=0.3), [[-0.75, 0.0]], atol=0.02)
    slightly_better = peaks((20.0, 1, 4), (20.1, 7, 4))
    np.testing.assert_allclose(place(slightly_better, radius=0.3), [[0.75, 0.0]], atol=0.02)


def test_the_weights_about_the_peak_are_those_of_the_docstring():
    logits = np.random.default_rng(0).normal(size=(4, GRID, GRID)).astype(np.float32)
    side = np.linspace(-1, 1, GRID)
    for one, found in zip(logits, place(logits, radius=0.5), strict=True):
        row, column = np.unravel_index(one.argmax(), one.shape)
        squared = (side[:, None] - side[row]) ** 2 + (side[None] - side[column]) ** 2
        weights = np.exp(one - squared / (2 * 0.5**2))
        weights /= weights.sum()
        expected = (weights * side[None]).sum(), (weights * side[:, None]).sum()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_its_gradient_is_finite_whatever_the_map(scale):
    logits = scale * np.random.default_rng(0).normal(size=(4, GRID, GRID)).astype(np.float32)
    gradient = jax.grad(lambda logits: place(logits, 0.4).sum())(jnp.asarray(logits))
    assert np.isfinite(gradient).all()
    assert (np.abs(gradient).max() > 0) == (scale == 1.0)


def test_patches_are_squares_of_the_image_in_reading_order():
    images = np.arange(2 * 4 * 6 * 3, dtype=np.float32).reshape(2, 4, 6, 3)
    patches = modules.cut_patches(images, 2)
    assert patches.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(patches[1, 1, 2].reshape(2, 2, 3), images[1, 2:4, 4:6])
    for size in (-1, 3):
        with pytest.raises(ValueError, match=f"patch_size is {size}.*4 and 6"):
            modules.cut_patches(images, size)


def test_patches_share_their_features():
    projection = modules.ImageProjection(4, 5, 0.1, patch_size=2, patch_features=3)
    images = np.random.default_rng(0).random((1, 4, 4, 1), np.float32)
    params = projection.init(jax.random.key(0), images)["params"]
    assert params["patches"]["kernel"].shape == (4, 3)
    # With an embedding that is the same for every place, patches may change places.
    kernel = params["Dense_0"]["kernel"].reshape(4, 3, 5)
    params["Dense_0"]["kernel"] = jnp.tile(kernel[:1], (4, 1, 1)).reshape(12, 5)
    moved = np.roll(images, 2, axis=(1, 2))
    outputs = [projection.apply({"params": params}, batch) for batch in (images, moved)]
    np.testing.assert_allclose(*outputs, atol=1e-6)
    assert np.abs(outputs[0]).max() > 0


def test_neighbourhoods_are_two_convolutions():
    module = modules.Neighbourhoods(patch_size=2, features=5)
    images = np.random.default_rng(0).random((2, 6, 8, 3), np.float32)
    params = module.init(jax.random.key(0), images)["params"]
    found = module.apply({"params": params}, images)
    maps = jnp.asarray(images)
    for layer, side, stride in (("Dense_0", 2, 2), ("Dense_1", 3, 1)):
        kernel = params[layer]["kernel"].reshape(side, side, -1, 5)
        same = {"params": {"kernel": kernel, "bias": params[layer]["bias"]}}
        maps = nn.relu(nn.Conv(5, (side, side), strides=stride).apply(same, maps))
    assert found.shape == (2, 3, 4, 5)
    np.testing.assert_allclose(found, maps, atol=1e-5)


def test_evidence_speaks_for_the_place_that_it_lies_in():
    # Windows of half the image's side; the grid has every quarter of a window's half.
    module = modules.PlaceMap((), 17, 0.1, span=2.0, scale=2.0)
    neighbourhoods = jnp.zeros((1, 4, 4, 2)).at[0, 1, 3].set(20.0)
    params = module.init(jax.random.key(0), jnp.ones((1, 6)), neighbourhoods)["params"]
    params["evidence"]["kernel"] = jnp.ones((2, 1))
    found = module.apply({"params": params}, jnp.zeros((1, 6)), neighbourhoods)
    # The patch is centred at (0.75, -0.25), and the window at -t / s.
    np.testing.assert_allclose(found, [[-1.5, 0.5]], atol=0.01)
