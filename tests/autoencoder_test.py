"""The autoencoder learns more than the mean image, and its code alone brings the image back."""

import jax
import numpy as np
import pytest

from air_jax import autoencoder
from air_jax.models.autoencoder import Autoencoder
from tests.draw_test import squares


def test_it_learns_more_than_the_mean_image():
    images = squares(64)
    model = autoencoder.train_autoencoder(
        images,
        code_size=8,
        key=jax.random.key(0),
        num_steps=150,
        width=8,
        learning_rate=5e-3,
        batch_size=32,
    )
    scaled = images.astype(np.float32) / 255
    of_mean = np.square(scaled - scaled.mean(0)).sum((1, 2, 3)).mean()
    reconstructions = model.reconstruct(images)
    assert np.square(scaled - reconstructions).sum((1, 2, 3)).mean() < 0.5 * of_mean
    codes = model.encode(images, batch_size=24)  # which does not divide
    assert codes.shape == (64, 8)
    decoded = model.network.apply({"params": model.params}, codes, method=Autoencoder.decode)
    np.testing.assert_allclose(decoded, reconstructions, atol=1e-5)
    with pytest.raises(ValueError, match="this model takes"):
        model.encode(images[:, 1:])
