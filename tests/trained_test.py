"""Sets of images that go over the devices a batch at a time."""

import jax
import numpy as np
import pytest

from air_jax import parallel, trained


def images(num):
    return np.arange(num, dtype=np.float32)[:, None, None, None] * np.ones((1, 2, 2, 1), np.float32)


@pytest.mark.parametrize("num_images", [1, 7, 8, 21])
def test_every_image_is_seen_once_and_what_pads_a_batch_by_nobody(num_images):
    seen = []

    def look(batch):
        seen.append(batch)
        return {
            "first": (batch.images[:, 0, 0, 0], batch.is_real()),
            "size": batch.images.sum((1, 2, 3)),
        }

    found = trained.over_batches(look, images(num_images), 8)
    np.testing.assert_array_equal(found["first"][0], np.arange(num_images))
    np.testing.assert_array_equal(found["size"], 4 * np.arange(num_images))
    assert found["first"][1].shape == (num_images,) and found["first"][1].all()
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(found))
    # One shape, which the devices share; zeros where there is no image.
    assert len({batch.images.shape for batch in seen}) == 1
    assert len(seen[0].images) % parallel.local_mesh().size == 0
    assert sum(batch.num_images for batch in seen) == num_images
    last = seen[-1]
    np.testing.assert_array_equal(last.is_real(), np.arange(len(last.images)) < last.num_images)
    np.testing.assert_array_equal(last.images[last.num_images :], 0)


def test_an_image_has_its_key_however_the_set_is_cut():
    def numbers(batch):
        return jax.vmap(jax.random.uniform)(batch.keys(jax.random.key(3)))

    found = [trained.over_batches(numbers, images(13), size) for size in (4, 8, 100)]
    assert len(np.unique(found[0])) == 13
    for others in found[1:]:
        np.testing.assert_array_equal(others, found[0])


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(ValueError, match="batch_size is 0; it must be at least 1"):
        trained.over_batches(lambda batch: batch.images, images(3), 0)
