"""A file is the old one or the new one, whatever happens while it is written."""

import errno
import os

import pytest

from air_jax.files import replacing, write_atomically


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_with_its_folders(tmp_path):
    path = tmp_path / "new" / "folder" / "a.bin"
    write_atomically(str(path), b"\x00\r\n\xff")
    assert path.read_bytes() == b"\x00\r\n\xff"
    assert names_in(path.parent) == ["a.bin"]


def test_a_file_is_replaced_also_by_a_shorter_one(tmp_path):
    for data in (b"a long one", b"short", b""):
        write_atomically(tmp_path / "a", data)
        assert (tmp_path / "a").read_bytes() == data
    assert names_in(tmp_path) == ["a"]


def test_a_reader_finds_the_old_file_until_the_new_one_is_whole(tmp_path):
    write_atomically(tmp_path / "a", b"old")
    with replacing(tmp_path / "a") as file:
        for part in (b"n", b"ew"):
            file.write(part)
            file.flush()
            assert (tmp_path / "a").read_bytes() == b"old"
    assert (tmp_path / "a").read_bytes() == b"new"


def test_the_contents_are_on_disk_before_the_name(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(descriptor):
        order.append(("fsync", os.fstat(descriptor).st_size))
        fsync(descriptor)

    def record_replace(source, target):
        order.append(("replace", os.path.getsize(source)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    write_atomically(tmp_path / "a", b"12345")
    assert order == [("fsync", 5), ("replace", 5)]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("existed", [True, False])
def test_an_error_leaves_what_there_was_and_nothing_else(tmp_path, error, existed):
    if existed:
        write_atomically(tmp_path / "a", b"old")
    with pytest.raises(error), replacing(tmp_path / "a") as file:
        file.write(b"new")
        raise error
    assert names_in(tmp_path) == ["a"] * existed
    assert not existed or (tmp_path / "a").read_bytes() == b"old"


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_full_disk_leaves_what_there_was_and_nothing_else(tmp_path, monkeypatch, where):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    write_atomically(tmp_path / "a", b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, where, fail)
        with pytest.raises(OSError, match="No space left.*the same command again") as error:
            write_atomically(tmp_path / "a", b"new")
    # Of a write the system does not say of which file.
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(tmp_path / "a"))
    assert names_in(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_two_processes_do_not_mix_what_they_write(tmp_path, monkeypatch):
    with replacing(tmp_path / "a") as file:
        file.write(b"one")
        monkeypatch.setattr(os, "getpid", lambda: -1)
        write_atomically(tmp_path / "a", b"other")
        assert (tmp_path / "a").read_bytes() == b"other"
    assert (tmp_path / "a").read_bytes() == b"one"
    assert names_in(tmp_path) == ["a"]


def test_a_folder_that_is_a_file_is_an_error_of_the_system(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        write_atomically(tmp_path / "file" / "a", b"")
    assert names_in(tmp_path) == ["file"]
