"""A user's own images as a dataset: which are taken, how they are split, what is said of others."""

import re

import numpy as np
import pytest
from PIL import Image

from air_jax.data.images import LightBackgroundError
from tests.data_dataset_test import SPLITS, assert_equal, create, own_images


def test_own_images_are_split_80_10_10_without_overlap(tmp_path):
    images = own_images(30)
    np.savez(tmp_path / "own.npz", image=images, count=np.arange(30))
    data = create(source="path", path=str(tmp_path / "own.npz"))
    assert [len(getattr(data, split).images) for split in SPLITS] == [24, 3, 3]
    counts = np.concatenate([getattr(data, split).counts for split in SPLITS])
    assert sorted(counts.tolist()) == list(range(30))
    assert counts.tolist() != list(range(30))
    for split in SPLITS:
        scenes = getattr(data, split)
        assert scenes.images.dtype == np.uint8 and scenes.counts.dtype == np.int32
        np.testing.assert_array_equal(scenes.images[..., 0], images[scenes.counts])
        assert scenes.boxes.shape == (len(scenes.images), 0, 4)
        assert scenes.labels.shape == scenes.hidden.shape == (len(scenes.images), 0)
    description = dict(data.description)
    assert re.fullmatch("[0-9a-f]{16}", description.pop("digest"))
    assert description == {
        "source": "path",
        "folder": str(tmp_path / "own.npz"),
        "invert": False,
        "num_found": 30,
        "num_unusable": 0,
        "num_resized": 0,
        "num_images": {"train": 24, "validation": 3, "test": 3},
        "image_size": 50,
        "seed": 0,
    }


def test_sizes_are_ceilings_for_own_images_and_the_seed_shuffles(tmp_path):
    np.save(tmp_path / "own.npy", own_images(30))
    options = {"source": "path", "path": str(tmp_path / "own.npy")}
    data = create(**options, num_train=5, num_validation=2, num_test=1)
    assert [len(getattr(data, split).images) for split in SPLITS] == [5, 2, 1]
    assert data.train.counts.tolist() == [-1] * 5
    assert_equal(create(**options), create(**options))
    other = create(**options, seed=1)
    assert np.any(create(**options).train.images != other.train.images)


def test_folder_of_pictures_is_resized_and_inverted(tmp_path):
    for i in range(5):
        picture = np.full((100, 100), 255, np.uint8)
        picture[40:60, 40:60] = 0
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    options = {"source": "path", "path": str(tmp_path), "image_size": 50}
    with pytest.raises(LightBackgroundError, match="0.png"):
        create(**options)
    data = create(**options, invert=True)
    assert [len(getattr(data, split).images) for split in SPLITS] == [3, 1, 1]
    assert data.description["num_resized"] == 5
    for split in SPLITS:
        for image in getattr(data, split).images:
            assert image[21:29, 21:29].min() == 255 and image[:19].max() == 0


def test_three_own_images_are_enough_and_two_are_not(tmp_path):
    np.save(tmp_path / "three.npy", own_images(3))
    data = create(source="path", path=str(tmp_path / "three.npy"))
    assert [len(getattr(data, split).images) for split in SPLITS] == [1, 1, 1]
    np.save(tmp_path / "two.npy", own_images(2))
    with pytest.raises(ValueError, match="2 usable images; at least 3"):
        create(source="path", path=str(tmp_path / "two.npy"))


def test_digest_tells_own_images_apart_and_not_where_they_lie(tmp_path):
    images = own_images(5)
    changed = images.copy()
    changed[4, 40, 40] = 1
    digests = []
    for name, array in (("a", images), ("b", images), ("c", changed)):
        np.save(tmp_path / f"{name}.npy", array)
        data = create(source="path", path=str(tmp_path / f"{name}.npy"))
        digests.append(data.description["digest"])
    assert digests[0] == digests[1] != digests[2]


def test_own_images_that_cannot_be_used_are_named_in_a_warning_and_the_rest_go_on(tmp_path, warned):
    images = own_images(20) / 255.0
    images[3:15, 0, 0] = np.nan
    np.savez(tmp_path / "own.npz", image=images, count=np.arange(20))
    data = create(source="path", path=str(tmp_path / "own.npz"))
    counts = np.concatenate([getattr(data, split).counts for split in SPLITS])
    assert sorted(counts.tolist()) == [0, 1, 2, 15, 16, 17, 18, 19]
    assert (data.description["num_found"], data.description["num_unusable"]) == (20, 12)
    (message,) = warned
    assert re.search(r"^12 of 20 images of .*own.npz .*own.npz\[3\]: .*NaN.*; and 2 more$", message)
    assert "own.npz[12]" in message and "own.npz[13]" not in message


def test_one_damaged_picture_does_not_stop_a_whole_folder(tmp_path, warned):
    for i, image in enumerate(own_images(4)):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    (tmp_path / "2.png").write_bytes(b"no picture")
    data = create(source="path", path=str(tmp_path))
    assert [len(getattr(data, split).images) for split in SPLITS] == [1, 1, 1]
    assert len(warned) == 1 and "1 of 4 images" in warned[0] and "2.png: " in warned[0]
    assert "more" not in warned[0]
    (tmp_path / "3.png").write_bytes(b"")
    with pytest.raises(ValueError, match="holds 2 usable images; at least 3"):
        create(source="path", path=str(tmp_path))
    assert "2 of 4 images" in warned[1]
