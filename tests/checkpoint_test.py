import contextlib
import errno
import json
import pickle
import random
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from air_jax import checkpoint
from air_jax.checkpoint import CheckpointError, latest_step, restore, save


@flax.struct.dataclass
class State:
    step: jax.Array
    params: dict
    opt_state: optax.OptState
    moving: dict


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(checkpoint, "time", SimpleNamespace(sleep=lambda seconds: None))


def make_state(seed=0):
    kernel, bias = jax.random.normal(jax.random.key(seed), (2, 5, 3))
    params = {"model": {"kernel": kernel}, "baseline": {"bias": bias}}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    _, opt_state = optimizer.update(params, optimizer.init(params))
    return State(jnp.int32(seed), params, opt_state, {"mean": jnp.float32(seed + 0.1)})


def assert_same_bits(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for leaf, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        other = np.asarray(other)
        assert isinstance(leaf, np.ndarray)
        assert (leaf.shape, leaf.dtype) == (other.shape, other.dtype)
        assert leaf.tobytes() == other.tobytes()


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def names_in(directory):
    return sorted(path.name for path in directory.iterdir())


def crash_before_manifest(monkeypatch, directory, step, tree):
    """Leaves behind what a process killed just before writing the manifest would."""
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_atomically", raise_interrupt)
        patch.setattr(checkpoint, "_remove", lambda folder: None)
        with pytest.raises(KeyboardInterrupt):
            save(directory, step, tree)


def raise_interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def raise_no_space(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_train_state_comes_back_bit_for_bit_in_its_structure(tmp_path):
    state = make_state(3)
    folder = save(tmp_path / "run" / "checkpoints", 1200, state)
    assert folder == tmp_path / "run" / "checkpoints" / "00001200"
    assert_same_bits(restore(folder.parent, jax.tree.map(jnp.zeros_like, state)), state)
    shapes = jax.eval_shape(lambda: state)
    assert_same_bits(restore(folder.parent, shapes), state)


@pytest.mark.parametrize(
    "dtype", ["float32", "float16", "bfloat16", "int32", "uint32", "uint8", "bool", "float64"]
)
def test_every_bit_pattern_of_a_dtype_survives(tmp_path, dtype):
    dtype = jnp.dtype(dtype)
    raw = np.random.default_rng(0).integers(0, 256, 64 * dtype.itemsize, np.uint8)
    array = (raw < 128) if dtype.kind == "b" else raw.view(dtype)  # NaN payloads included
    tree = {"array": array.reshape(8, -1), "scalar": array[0], "empty": np.zeros((0, 3), dtype)}
    save(tmp_path, 0, tree)
    assert_same_bits(restore(tmp_path, tree), tree)


def test_special_values_and_odd_names_survive(tmp_path):
    tree = {"a.b[0]'é /": np.float32([np.nan, -0.0, np.inf, 1e-45]), "..": (None, [np.int32(-7)])}
    save(tmp_path, 0, tree)
    assert_same_bits(restore(tmp_path, tree), tree)


def test_latest_step_compares_numbers_not_names(tmp_path):
    assert latest_step(tmp_path) is None
    assert latest_step(tmp_path / "absent") is None
    for step in (99_999_999, 100_000_000, 7):
        save(tmp_path, step, {"a": np.int32(step)}, keep=3)
    assert latest_step(tmp_path) == 100_000_000
    assert restore(tmp_path, {"a": np.int32(0)})["a"] == 100_000_000
    assert restore(tmp_path, {"a": np.int32(0)}, step=7)["a"] == 7


def test_only_the_newest_are_kept_and_other_files_stay(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "archive").mkdir()
    for step in (1, 2, 3, 4):
        save(tmp_path, step, {"a": np.int32(step)}, keep=2)
    assert names_in(tmp_path) == ["00000003", "00000004", "archive", "notes.txt"]
    save(tmp_path, 5, {"a": np.int32(5)}, keep=1)
    assert names_in(tmp_path) == ["00000005", "archive", "notes.txt"]


def test_the_checkpoint_just_written_is_kept_even_if_its_step_is_smaller(tmp_path):
    for step in (10, 20, 5):
        save(tmp_path, step, {"a": np.int32(step)}, keep=2)
    assert names_in(tmp_path) == ["00000005", "00000020"]


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, 1, {"a": np.int32(1)})
    save(tmp_path, 1, {"a": np.int32(2)})
    assert names_in(tmp_path) == ["00000001"]
    assert restore(tmp_path, {"a": np.int32(0)})["a"] == 2


def test_a_moved_run_can_be_restored(tmp_path):
    save(tmp_path / "old", 1, {"a": np.arange(4)})
    (tmp_path / "old").rename(tmp_path / "new")
    np.testing.assert_array_equal(restore(tmp_path / "new", {"a": np.arange(4)})["a"], range(4))


def test_relative_directories_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save("checkpoints", 1, {"a": np.int32(8)})
    assert restore("checkpoints", {"a": np.int32(0)})["a"] == 8


def test_a_flipped_bit_in_any_file_is_refused_before_loading(tmp_path, monkeypatch):
    state = make_state()
    folder = save(tmp_path, 1, state)
    # What reads the arrays is never reached, so nothing of a damaged file is interpreted.
    monkeypatch.setattr(checkpoint, "_checkpointer", lambda: pytest.fail("loaded"))
    random_bits = random.Random(0)
    paths = files_of(folder)
    assert len(paths) > 5
    for path in paths:
        data = path.read_bytes()
        for _ in range(20):
            damaged = bytearray(data)
            bit = random_bits.randrange(8 * len(data))
            damaged[bit // 8] ^= 1 << (bit % 8)
            path.write_bytes(damaged)
            with pytest.raises(CheckpointError, match=f"Delete the folder {folder}") as error:
                restore(tmp_path, state)
            if path.name != "manifest.json":
                assert f"{path} is damaged" in str(error.value)
        path.write_bytes(data)


def test_a_truncated_lengthened_missing_or_additional_file_is_refused(tmp_path, monkeypatch):
    state = make_state()
    folder = save(tmp_path, 1, state)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_checkpointer", lambda: pytest.fail("loaded"))
        for path in files_of(folder):
            data = path.read_bytes()
            for damaged in (data[: len(data) // 2], b"", data + b"\0", data + b"\n"):
                path.write_bytes(damaged)
                with pytest.raises(CheckpointError, match=f"{path} is damaged"):
                    restore(tmp_path, state)
            if path.name != "manifest.json":
                path.unlink()
                with pytest.raises(CheckpointError, match=f"{path} is missing"):
                    restore(tmp_path, state)
            path.write_bytes(data)
        (folder / "state" / "checkpoint").write_bytes(b"")
        with pytest.raises(CheckpointError, match="state/checkpoint is not part of"):
            restore(tmp_path, state)
    (folder / "state" / "checkpoint").unlink()
    assert_same_bits(restore(tmp_path, state), state)


@pytest.mark.parametrize(
    "content", [b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"format_version":2}']
)
def test_a_foreign_manifest_is_refused(tmp_path, content):
    folder = save(tmp_path, 1, {"a": np.ones(2)})
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(CheckpointError, match="manifest.json is damaged"):
        restore(tmp_path, {"a": np.ones(2)})


def test_a_checkpoint_renamed_to_another_step_is_refused(tmp_path):
    folder = save(tmp_path, 1, {"a": np.ones(2)})
    folder.rename(tmp_path / "00000009")
    with pytest.raises(CheckpointError, match="of another step"):
        restore(tmp_path, {"a": np.ones(2)})


def test_deleting_the_damaged_checkpoint_resumes_from_the_one_before(tmp_path):
    save(tmp_path, 1, {"a": np.int32(1)})
    folder = save(tmp_path, 2, {"a": np.int32(2)})
    (folder / "state" / "_METADATA").write_bytes(b"")
    with pytest.raises(CheckpointError):
        restore(tmp_path, {"a": np.int32(0)})
    shutil.rmtree(folder)
    assert restore(tmp_path, {"a": np.int32(0)})["a"] == 1


def test_half_written_checkpoints_are_never_picked_up_and_then_cleaned(tmp_path, monkeypatch):
    template = {"a": np.int32(0)}
    save(tmp_path, 1, {"a": np.int32(1)})
    crash_before_manifest(monkeypatch, tmp_path, 2, {"a": np.int32(2)})
    save(tmp_path, 3, {"a": np.int32(3)})
    (tmp_path / "00000003" / "manifest.json").unlink()
    crash_before_manifest(monkeypatch, tmp_path, 4, {"a": np.int32(4)})
    (tmp_path / "00000005.orbax-checkpoint-tmp-12").mkdir()
    (tmp_path / "00000006.old").mkdir()
    shutil.copytree(tmp_path / "00000001", tmp_path / "00000007.tmp")
    left = ["3", "4.tmp", "5.orbax-checkpoint-tmp-12", "6.old", "7.tmp"]
    assert names_in(tmp_path) == ["00000001"] + ["0000000" + name for name in left]
    assert latest_step(tmp_path) == 1
    assert restore(tmp_path, template)["a"] == 1
    save(tmp_path, 4, {"a": np.int32(40)})
    assert names_in(tmp_path) == ["00000001", "00000004"]
    assert restore(tmp_path, template)["a"] == 40


@pytest.mark.parametrize("where", ["_write_state", "_file_table", "write_atomically", "_sync"])
def test_an_interrupted_save_leaves_the_earlier_checkpoint(tmp_path, monkeypatch, where):
    state = make_state(1)
    save(tmp_path, 1, state)
    for step in (1, 2):  # also when the same step was being replaced
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, where, raise_interrupt)
            with pytest.raises(KeyboardInterrupt):
                save(tmp_path, step, make_state(2))
        assert names_in(tmp_path) == ["00000001"]
        assert_same_bits(restore(tmp_path, state), state)


@pytest.mark.parametrize("where", ["_write_state", "write_atomically"])
def test_a_full_disk_removes_the_part_written_and_names_the_folder(tmp_path, monkeypatch, where):
    save(tmp_path, 1, {"a": np.int32(1)})
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, where, raise_no_space)
        with pytest.raises(OSError, match="step 2 was not saved") as error:
            save(tmp_path, 2, {"a": np.int32(2)})
    assert error.value.errno == errno.ENOSPC
    assert error.value.filename == str(tmp_path / "00000002")
    assert names_in(tmp_path) == ["00000001"]
    assert restore(tmp_path, {"a": np.int32(0)})["a"] == 1


def test_a_disk_without_room_is_noticed_before_writing(tmp_path, monkeypatch):
    # 4,000 bytes of state and a disk of 3,999 free bytes.
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=3_999))
    monkeypatch.setattr(checkpoint, "_write_state", lambda *args: pytest.fail("wrote"))
    with pytest.raises(OSError, match="No space left on device"):
        save(tmp_path, 2, {"a": np.zeros(1_000, np.float32)})
    assert names_in(tmp_path) == []


def test_a_write_that_really_fails_inside_orbax_is_an_oserror(tmp_path):
    # Tensorstore writes from its own threads and reports no OSError: here the system itself
    # refuses files above 100 kB. A process of its own, because those threads print tracebacks.
    program = """
import os, resource, sys
import numpy as np
from air_jax import checkpoint
checkpoint.save(sys.argv[1], 1, {"a": np.int32(1)})
limit = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
noise = np.random.default_rng(0).standard_normal((4, 200_000))
try:
    checkpoint.save(sys.argv[1], 2, dict(zip("abcd", noise)))
except OSError as error:
    assert error.filename.endswith("00000002"), error.filename
    assert os.listdir(sys.argv[1]) == ["00000001"], os.listdir(sys.argv[1])
    assert checkpoint.restore(sys.argv[1], {"a": np.int32(0)})["a"] == 1
    sys.exit(error.errno)
"""
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=Path(checkpoint.__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert result.returncode == errno.EFBIG, result.stderr


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ({"a": np.zeros((2, 4), np.float32)}, r"leaf 'a' is float32\[2, 3\] .* float32\[2, 4\]"),
        ({"a": np.zeros((2, 3), np.int32)}, r"leaf 'a' is float32\[2, 3\] .* int32\[2, 3\]"),
        ({"a": jax.ShapeDtypeStruct((3, 2), np.float32)}, r"leaf 'a' .* expected float32\[3, 2\]"),
        ({"b": {"c": np.zeros(1)}}, r"leaf 'b/c' is not in it"),
        ({"a": np.zeros((2, 3), np.float32), "z": np.zeros(1)}, r"leaf 'z' is not in it"),
        ({}, r"leaf 'a' is in it and not expected"),
        # A kernel that only now has no element is a difference too.
        ({"a": np.zeros((0, 3), np.float32)}, r"leaf 'a' .* expected float32\[0, 3\]"),
    ],
)
def test_another_template_is_refused_with_the_first_differing_leaf(tmp_path, template, message):
    save(tmp_path, 1, {"a": np.ones((2, 3), np.float32)})
    with pytest.raises(CheckpointError, match=message):
        restore(tmp_path, template)


def test_a_checkpoint_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    template = {"a": np.int32(0)}
    with pytest.raises(CheckpointError, match="no complete checkpoint in .* none"):
        restore(tmp_path / "absent", template)
    save(tmp_path, 3, template)
    with pytest.raises(CheckpointError, match=r"of step 4 in .* \[3\]"):
        restore(tmp_path, template, step=4)


@pytest.mark.parametrize(
    ("tree", "error", "message"),
    [
        ({"key": jax.random.key(0)}, TypeError, "leaf 'key' is PRNGKeyArray"),
        ({"name": "air"}, TypeError, "leaf 'name' is str"),
        ({"o": np.array([None, {}], object)}, TypeError, "leaf 'o' is ndarray"),
        ({"a/b": np.ones(1), "a": {"b": np.ones(1)}}, ValueError, "the name 'a/b'"),
    ],
)
def test_leaves_that_are_no_plain_arrays_are_refused(tmp_path, tree, error, message):
    with pytest.raises(error, match=message):
        save(tmp_path, 1, tree)
    assert names_in(tmp_path) == []


def test_arguments_out_of_range_are_refused(tmp_path):
    with pytest.raises(ValueError, match="step=-1"):
        save(tmp_path, -1, {"a": np.ones(1)})
    with pytest.raises(ValueError, match="keep=0"):
        save(tmp_path, 1, {"a": np.ones(1)}, keep=0)


def test_a_process_other_than_the_first_may_not_save(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with pytest.raises(RuntimeError, match="only process 0"):
        save(tmp_path, 1, {"a": np.ones(1)})
    assert names_in(tmp_path) == []


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.mkdir, (self.path,)


def test_a_pickle_in_the_place_of_any_file_is_never_run(tmp_path):
    marker = tmp_path / "unpickled"
    payload = pickle.dumps(Payload(marker))
    directory, template = tmp_path / "checkpoints", {"a": np.ones(3)}
    folder = save(directory, 1, template)
    manifest = folder / "manifest.json"
    for path in files_of(folder):
        if path == manifest:
            continue
        data, listed = path.read_bytes(), manifest.read_bytes()
        path.write_bytes(payload)
        # The worst case: the manifest vouches for it.
        manifest.write_bytes(checkpoint._encode_manifest(1, checkpoint._file_table(folder)))
        with contextlib.suppress(Exception):
            restore(directory, template)
        assert not marker.exists()
        path.write_bytes(data)
        manifest.write_bytes(listed)
    pickle.loads(payload)
    assert marker.exists()  # it would have shown


def test_the_manifest_lists_every_other_file(tmp_path):
    folder = save(tmp_path, 12, {"a": np.ones(3)})
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["step"] == 12
    names = {path.relative_to(folder).as_posix() for path in files_of(folder)}
    assert set(manifest["files"]) == names - {"manifest.json"}
