"""What the compiled steps are given, from memory or from shards."""

import jax
import numpy as np
import pytest

from air_jax import batches, parallel
from air_jax.data import stream

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 6, 6, 1)).astype(np.uint8)
SIZES = {"steps_per_call": 3, "num_steps": 30}
KEY = jax.random.key(4)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set") / "shards"
    with stream.writing(folder) as write:
        write(IMAGES)
    return stream.open_shards(folder)


def _drawn(step, positions):
    """The images that stand at some places of a step's batch, `[..., H, W, C]`."""
    indices, _ = parallel.draw_examples(len(IMAGES), KEY, np.int32(step), np.ravel(positions))
    return IMAGES[np.asarray(indices)].reshape(*positions.shape, *IMAGES.shape[1:])


def test_every_device_is_given_what_its_places_draw_at_each_step(shards):
    positions = parallel.batch_positions(8, 4)
    with batches.create_batches(shards, positions, KEY, **SIZES) as create:
        assert create.streamed
        for first in range(0, 30, 3):
            given, images, key = create(first)
            np.testing.assert_array_equal(given, positions)
            assert key == KEY
            assert images.sharding == given.sharding
            expected = np.stack([_drawn(first + step, positions) for step in range(3)], axis=1)
            np.testing.assert_array_equal(images, expected)


def test_a_step_is_all_there_is_to_resume_from(shards):
    positions = parallel.batch_positions(8, 4)
    with batches.create_batches(shards, positions, KEY, **SIZES) as create:
        uninterrupted = [np.asarray(create(first)[1]) for first in range(0, 30, 3)]
    with batches.create_batches(shards, positions, KEY, **SIZES) as create:
        # Resumed, and asked again for what was given before.
        for first in (12, 15, 6, 27):
            np.testing.assert_array_equal(create(first)[1], uninterrupted[first // 3])


@pytest.mark.parametrize("process", [0, 1])
def test_a_process_reads_its_own_share_and_nothing_else(shards, process, monkeypatch):
    # Two processes with four devices each: places 0 to 7 and 8 to 15 of a batch of 16.
    positions = parallel.batch_positions(16, 8)[4 * process : 4 * (process + 1)]
    assert positions.ravel().tolist() == list(range(8 * process, 8 * (process + 1)))
    read, read_records = [], shards._source.__class__.__getitems__

    def record(source, places):
        read.extend(places)
        return read_records(source, places)

    monkeypatch.setattr(shards._source.__class__, "__getitems__", record)
    sizes = {**SIZES, "num_steps": 3}
    with batches.create_batches(shards, positions, KEY, **sizes) as create:
        _, images, _ = create(0)
    expected = np.stack([_drawn(step, positions) for step in range(3)], axis=1)
    np.testing.assert_array_equal(images, expected)
    np.testing.assert_array_equal(IMAGES[read], expected.reshape(-1, *IMAGES.shape[1:]))


def test_what_is_in_memory_is_given_whole_at_every_call():
    positions = parallel.batch_positions(8, 4)
    with batches.create_batches(IMAGES, positions, KEY, **SIZES) as create:
        assert not create.streamed
        for step in (0, 3):
            given, images, key = create(step)
            np.testing.assert_array_equal(given, positions)
            np.testing.assert_array_equal(images, IMAGES)
            assert key == KEY


def test_many_seeds_cannot_share_a_stream(shards):
    keys = jax.random.split(KEY, 2)
    with pytest.raises(ValueError, match="2 seeds in one program"):
        batches.create_batches(shards, parallel.batch_positions(8, 4), keys, **SIZES)
