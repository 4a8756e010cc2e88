"""The autoencoder's shapes, and how channels become pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from air_jax.models.autoencoder import Autoencoder, double


def test_four_channels_become_four_pixels():
    # Upper left, upper right, lower left, lower right, for each of two channels.
    maps = jnp.asarray([[[[1, 10, 2, 20, 3, 30, 4, 40]]]])
    np.testing.assert_array_equal(double(maps)[0, ..., 0], [[1, 2], [3, 4]])
    np.testing.assert_array_equal(double(maps)[0, ..., 1], [[10, 20], [30, 40]])


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_any_size_come_back_in_that_size_and_dark(channels):
    network = Autoencoder(image_size=10, channels=channels, width=2, code_size=5, bias=-4.0)
    images = jax.random.uniform(jax.random.key(0), (3, 10, 10, channels))
    params = network.init(jax.random.key(1), images)["params"]
    codes = network.apply({"params": params}, images, method=Autoencoder.encode)
    assert codes.shape == (3, 5)
    reconstructions = network.apply({"params": params}, images)
    assert reconstructions.shape == images.shape
    np.testing.assert_array_equal(
        reconstructions, network.apply({"params": params}, codes, method=Autoencoder.decode)
    )
    # sigmoid(-4) where nothing is known yet.
    nothing = network.apply({"params": params}, jnp.zeros((1, 5)), method=Autoencoder.decode)
    np.testing.assert_allclose(nothing, 1 / (1 + np.exp(4)), rtol=1e-5)
