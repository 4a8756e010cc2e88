"""What is kept on disk with its training images apart; of what is kept whole, data_dataset_test."""

import shutil

import numpy as np
import pytest

from air_jax.data import cache, stream
from air_jax.data.stream import ShardError

KEY = {"anything": 1}
IMAGES = np.random.default_rng(0).integers(0, 256, (7, 4, 4, 1)).astype(np.uint8)
ARRAYS = {"train_counts": np.arange(7), "train_images": IMAGES, "validation_images": IMAGES[:2]}


@pytest.fixture
def compose():
    """Gives `ARRAYS`; counts how often."""

    def composed(write):
        composed.calls += 1
        if write is None:
            return dict(ARRAYS)
        write(IMAGES[:5])
        write(IMAGES[5:])
        return {name: array for name, array in ARRAYS.items() if name != "train_images"}

    composed.calls = 0
    return composed


def _equal(arrays):
    assert arrays.keys() - {"content"} == ARRAYS.keys()
    for name, array in ARRAYS.items():
        found = arrays[name]
        if isinstance(found, stream.Shards):
            found = found.read(np.arange(len(found)))
        np.testing.assert_array_equal(found, array)


def test_what_is_apart_is_composed_once_and_is_the_same(tmp_path, compose):
    for _ in range(2):
        arrays = cache.cached(str(tmp_path), KEY, compose, resident=False)
        assert isinstance(arrays["train_images"], stream.Shards)
        _equal(arrays)
        assert arrays["content"].tobytes() == cache.digest(ARRAYS)
    assert compose.calls == 1


def test_whole_and_apart_have_places_of_their_own(tmp_path, compose):
    for resident in (True, False, True, False):
        _equal(cache.cached(str(tmp_path), KEY, compose, resident=resident))
    _equal(cache.cached(str(tmp_path), {"anything": 2}, compose, resident=False))
    assert compose.calls == 3


def test_a_damaged_shard_is_refused_and_its_folder_s_removal_a_remedy(tmp_path, compose):
    cache.cached(str(tmp_path), KEY, compose, resident=False)
    (shard,) = tmp_path.glob("*/*.array_record")
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ShardError, match=f"{shard} .*Remove the folder {shard.parent}"):
        cache.cached(str(tmp_path), KEY, compose, resident=False)
    assert compose.calls == 1
    shutil.rmtree(shard.parent)
    _equal(cache.cached(str(tmp_path), KEY, compose, resident=False))
    assert compose.calls == 2


@pytest.mark.parametrize("damage", ["text", "missing"])
def test_what_is_beside_the_shards_is_composed_again(tmp_path, compose, damage):
    cache.cached(str(tmp_path), KEY, compose, resident=False)
    (file,) = tmp_path.glob("*.npz")
    file.unlink() if damage == "missing" else file.write_text("no archive")
    for _ in range(2):
        _equal(cache.cached(str(tmp_path), KEY, compose, resident=False))
    assert compose.calls == 2
    assert len(list(tmp_path.iterdir())) == 2  # nothing half-written


def test_images_in_memory_are_put_into_shards_once(tmp_path, monkeypatch):
    first = cache.apart(str(tmp_path), KEY, IMAGES)
    monkeypatch.setattr(stream, "writing", None)
    for shards in (first, cache.apart(str(tmp_path), KEY, IMAGES)):
        np.testing.assert_array_equal(shards.read(np.arange(7)), IMAGES)


def test_a_folder_is_needed_to_stream_from(compose):
    for keep in (
        lambda: cache.cached("", KEY, compose, resident=False),
        lambda: cache.apart("", KEY, IMAGES),
    ):
        with pytest.raises(ValueError, match="set cache_dir to one, or resident to True"):
            keep()
    assert compose.calls == 0
