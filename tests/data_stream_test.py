"""Shards on disk: what was written is read, in any order, and nothing that was changed since."""

import json
import os
import threading
import time

import numpy as np
import pytest

from air_jax.data import stream
from air_jax.data.stream import ShardError

SHAPE = (6, 5, 2)


def _images(number, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (number, *SHAPE)).astype(np.uint8)


def _write(folder, *pieces):
    with stream.writing(folder) as write:
        for piece in pieces:
            write(piece)
    return folder


@pytest.fixture
def small_shards(monkeypatch):
    """Shards of 4 images."""
    monkeypatch.setattr(stream, "_SHARD_BYTES", 4 * 60 + 1)


@pytest.fixture
def folder(tmp_path, small_shards):
    """Ten images in three shards."""
    return _write(tmp_path / "deep" / "shards", _images(10))


def _threads():
    return [one for one in threading.enumerate() if one.name.startswith("grain-prefetch")]


def test_images_come_back_at_any_places_whatever_pieces_they_were_written_in(
    tmp_path, small_shards
):
    images = _images(10)
    folder = _write(tmp_path / "shards", images[:3], images[3:3], images[3:9], images[9:])
    assert len(list(folder.glob("*.array_record"))) == 3
    shards = stream.open_shards(folder)
    assert (len(shards), shards.shape, shards.dtype) == (10, images.shape, images.dtype)
    places = np.array([[9, 0, 4], [4, 4, 3]])
    np.testing.assert_array_equal(shards.read(places), images[places])
    index = json.loads((folder / "index.json").read_text())
    assert index["shape"] == [10, *SHAPE]
    assert [shard["images"] for shard in index["shards"]] == [4, 4, 2]


def test_all_images_come_in_their_order_some_at_a_time(folder, monkeypatch):
    monkeypatch.setattr(stream, "_PIECE", 4)
    pieces = list(stream.open_shards(folder).pieces())
    assert [len(piece) for piece in pieces] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate(pieces), _images(10))


def test_an_error_while_they_are_written_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), stream.writing(tmp_path / "shards") as write:
        write(_images(3))
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_what_killed_processes_left_is_removed_and_what_others_write_is_not(tmp_path):
    kept = [".shards.aaaa.tmp", ".other.bbbb.tmp"]
    for name in (*kept, ".shards.cccc.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "images-00000.array_record").write_bytes(b"half")
    old = time.time() - 25 * 3600
    for path in [*tmp_path.glob(".shards.cccc.tmp/**/*"), *tmp_path.iterdir()]:
        os.utime(path, (old, old))
    # A folder is as old as its last entry, a set as young as the last write to any of its files.
    now = time.time()
    os.utime(tmp_path / kept[0] / "images-00000.array_record", (now, now))
    _write(tmp_path / "shards", _images(2))
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "shards"}


def test_shards_that_another_process_wrote_meanwhile_stay(tmp_path):
    with stream.writing(tmp_path / "shards") as write:
        write(_images(3))
        _write(tmp_path / "other", _images(3)).rename(tmp_path / "shards")
        begun = (tmp_path / "shards" / "index.json").stat().st_ino
    assert (tmp_path / "shards" / "index.json").stat().st_ino == begun
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([_images(2), _images(2)[:, :5]], r"uint8 \(2, 5, 5, 2\); expected uint8 \[m, 6, 5, 2\]"),
        ([_images(2).astype(np.float32)], r"float32 \(2, 6, 5, 2\); .* \[m, H, W, C\]"),
        ([_images(0)], "no image"),
        ([], "no image"),
    ],
)
def test_what_is_no_set_of_images_is_not_written(tmp_path, pieces, message):
    with pytest.raises(ValueError, match=message):
        _write(tmp_path / "shards", *pieces)
    assert list(tmp_path.iterdir()) == []


def _damage(folder, damage):
    """Damages a folder of shards; the name of the file that is to be told."""
    shard, index = folder / "images-00001.array_record", folder / "index.json"
    if damage == "truncated":
        shard.write_bytes(shard.read_bytes()[:-1])
    elif damage == "flipped bit":
        contents = bytearray(shard.read_bytes())
        contents[len(contents) // 2] ^= 1
        shard.write_bytes(contents)
    elif damage == "missing":
        shard.unlink()
    elif damage == "another shard":
        # Whole and of the same size: its pixels are as random, and so are not compressed.
        other = _write(folder.parent / "other", _images(10, seed=1)) / shard.name
        assert other.stat().st_size == shard.stat().st_size
        other.replace(shard)
    elif damage == "another index":
        contents = json.loads(index.read_text())
        contents["shards"][1]["sha256"] = contents["shards"][0]["sha256"]
        index.write_text(json.dumps(contents))
    elif damage == "no index":
        index.unlink()
    elif damage == "half an index":
        index.write_text(index.read_text()[:100])
    elif damage == "a later version":
        contents = json.loads(index.read_text()) | {"version": 2}
        del contents["digest"]
        index.write_text(json.dumps(contents | {"digest": stream._digest(contents)}))
    return index if "index" in damage or "version" in damage else shard


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("truncated", "has [0-9]+ bytes, not [0-9]+"),
        ("flipped bit", "is damaged: not the SHA-256"),
        ("missing", "cannot be read .*No such file"),
        ("another shard", "is damaged: not the SHA-256"),
        ("another index", "is damaged: its digest"),
        ("no index", "cannot be read .*No such file"),
        ("half an index", "cannot be read .*JSONDecodeError"),
        ("a later version", "is of version 2, not 1"),
    ],
)
def test_damage_is_refused_with_the_file_and_the_remedy(folder, damage, reason):
    file = _damage(folder, damage)
    with pytest.raises(ShardError, match=f"{file} {reason}.*Remove the folder {folder}"):
        stream.open_shards(folder)


def test_damage_after_they_were_opened_is_refused_where_it_is_read(folder):
    shards = stream.open_shards(folder)
    file = _damage(folder, "flipped bit")
    np.testing.assert_array_equal(shards.read(np.arange(4)), _images(10)[:4])
    with pytest.raises(ShardError, match=f"{file} is damaged.*Remove the folder {folder}"):
        shards.read(np.arange(10))


def test_a_place_beyond_the_end_is_an_error(folder):
    with pytest.raises(ShardError, match="Record key"):
        stream.open_shards(folder).read(np.array([10]))


def test_without_grain_the_package_to_install_is_named(folder, monkeypatch):
    monkeypatch.setattr(stream.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"grain: pip install .*\[stream\]"):
        stream.open_shards(folder)


def test_what_is_made_ahead_comes_in_order_though_a_later_one_is_ready_first():
    begun, later = [], threading.Event()

    def load(step):
        begun.append(step)
        if step == 20:
            later.set()
        if step == 10:
            assert later.wait(60)
        return step

    calls = stream.prefetched(load, range(10, 100, 10))
    first = next(calls)
    assert len(begun) <= 3  # no further ahead than two
    assert [first, *(next(calls) for _ in range(8))] == list(range(10, 100, 10))
    with pytest.raises(StopIteration):
        next(calls)
    calls.close()


def test_an_error_of_what_is_made_ahead_is_raised_at_its_step():
    def load(step):
        if step == 2:
            raise ShardError("damaged")
        return step

    calls = stream.prefetched(load, range(4))
    assert [next(calls), next(calls)] == [0, 1]
    with pytest.raises(ShardError, match="damaged"):
        next(calls)
    calls.close()


def test_closing_ends_the_threads():
    # Those of another test may still be on their way out.
    before = _threads()
    calls = stream.prefetched(lambda step: step, range(100))
    next(calls)
    started = [thread for thread in _threads() if thread not in before]
    assert started
    calls.close()
    for thread in started:
        thread.join(10)
    assert not any(thread.is_alive() for thread in started)
