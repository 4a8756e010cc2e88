import errno
import hashlib
import json
import os
import pickle
import random

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax.core import FrozenDict

from air_jax.checkpoint import CheckpointError
from air_jax.export import export_model, load_model

CONFIG = {"model": {"num_steps": 3, "scale": 0.1 + 0.2, "cell": "dair"}, "name": "é", "none": None}


def make_params():
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3) / 7
    return {
        "encoder": {"Dense_0": {"kernel": kernel, "bias": np.float32([np.nan, -0.0, 1e-45])}},
        "scale": np.float32(0.3),
        "empty": np.zeros((0, 3), np.float32),
    }


def flat(params, prefix=""):
    for name, value in params.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value


def assert_same_params(actual, expected):
    actual, expected = dict(flat(actual)), dict(flat(expected))
    assert actual.keys() == expected.keys()
    for name, array in actual.items():
        assert isinstance(array, np.ndarray) and array.dtype == np.float32
        assert array.shape == np.shape(expected[name])
        assert array.tobytes() == np.asarray(expected[name]).tobytes()


def rewrite_params(folder, data):
    """Puts other bytes into params.safetensors and makes config.json vouch for them."""
    (folder / "params.safetensors").write_bytes(data)
    content = json.loads((folder / "config.json").read_text())
    content["params_sha256"] = hashlib.sha256(data).hexdigest()
    (folder / "config.json").write_text(json.dumps(content))


def test_parameters_and_config_come_back(tmp_path):
    folder = export_model(tmp_path / "run" / "model", make_params(), CONFIG)
    assert sorted(os.listdir(folder)) == ["config.json", "params.safetensors"]
    params, config = load_model(folder)
    assert_same_params(params, make_params())
    assert config == CONFIG


def test_the_files_can_be_read_without_this_library(tmp_path):
    export_model(tmp_path, make_params(), CONFIG)
    tensors = safetensors.numpy.load_file(tmp_path / "params.safetensors")
    assert set(tensors) == {"encoder/Dense_0/kernel", "encoder/Dense_0/bias", "scale", "empty"}
    np.testing.assert_array_equal(
        tensors["encoder/Dense_0/kernel"], make_params()["encoder"]["Dense_0"]["kernel"]
    )
    content = json.loads((tmp_path / "config.json").read_text())
    data = (tmp_path / "params.safetensors").read_bytes()
    assert content["params_sha256"] == hashlib.sha256(data).hexdigest()
    assert (content["config"], content["format_version"]) == (CONFIG, 1)


def test_a_workdir_stands_for_the_model_in_it(tmp_path):
    export_model(tmp_path / "model", make_params(), CONFIG)
    (tmp_path / "config.json").write_text("{}")  # the run's own
    assert_same_params(load_model(tmp_path)[0], make_params())


def test_device_arrays_lower_precision_and_frozen_dicts_become_float32(tmp_path):
    kernel = jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3).T / 7
    export_model(tmp_path, FrozenDict({"a": {"kernel": kernel}}), {})
    assert_same_params(load_model(tmp_path)[0], {"a": {"kernel": np.float32(kernel)}})


def test_transposed_arrays_keep_their_values(tmp_path):
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3).T
    export_model(tmp_path, {"kernel": kernel}, {})
    np.testing.assert_array_equal(load_model(tmp_path)[0]["kernel"], [[0, 3], [1, 4], [2, 5]])


def test_exporting_again_replaces_the_model(tmp_path):
    export_model(tmp_path, {"a": np.float32([1])}, {"n": 1})
    export_model(tmp_path, {"b": np.float32([2])}, {"n": 2})
    params, config = load_model(tmp_path)
    assert (list(params), config) == (["b"], {"n": 2})


def test_a_flipped_bit_in_either_file_is_refused(tmp_path):
    export_model(tmp_path, make_params(), CONFIG)
    random_bits = random.Random(0)
    for name in ("params.safetensors", "config.json"):
        data = (tmp_path / name).read_bytes()
        for _ in range(200):
            damaged = bytearray(data)
            bit = random_bits.randrange(8 * len(data))
            damaged[bit // 8] ^= 1 << (bit % 8)
            (tmp_path / name).write_bytes(damaged)
            try:
                params, config = load_model(tmp_path)
            except CheckpointError as error:
                assert name in str(error)
            else:  # a blank of the JSON layout became another blank
                assert config == CONFIG and name == "config.json"
                assert_same_params(params, make_params())
        (tmp_path / name).write_bytes(data)


def test_truncated_files_are_refused(tmp_path):
    export_model(tmp_path, make_params(), CONFIG)
    for name in ("params.safetensors", "config.json"):
        data = (tmp_path / name).read_bytes()
        for size in (0, 5, len(data) - 2):
            (tmp_path / name).write_bytes(data[:size])
            with pytest.raises(CheckpointError, match=f"{name} .*again"):
                load_model(tmp_path)
        (tmp_path / name).write_bytes(data)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="absent is not a folder"):
        load_model(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="config.json is missing"):
        load_model(tmp_path)
    export_model(tmp_path, make_params(), CONFIG)
    with pytest.raises(CheckpointError, match="config.json is not a folder"):
        load_model(tmp_path / "config.json")
    (tmp_path / "params.safetensors").unlink()
    with pytest.raises(CheckpointError, match="params.safetensors is missing"):
        load_model(tmp_path)
    export_model(tmp_path / "model", make_params(), CONFIG)
    (tmp_path / "model" / "config.json").unlink()
    with pytest.raises(CheckpointError, match="model/config.json is missing"):
        load_model(tmp_path)


def test_the_parameters_of_another_model_are_refused(tmp_path):
    export_model(tmp_path / "a", {"a": np.float32([1])}, {})
    export_model(tmp_path / "b", {"a": np.float32([2])}, {})
    (tmp_path / "a" / "params.safetensors").replace(tmp_path / "b" / "params.safetensors")
    with pytest.raises(CheckpointError, match="does not have the SHA-256"):
        load_model(tmp_path / "b")


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "3", '{"model_type": "bert"}', "[" * 100_000, '"format_version"']
)
def test_the_config_of_another_program_is_refused(tmp_path, text):
    export_model(tmp_path, make_params(), CONFIG)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match="config.json is damaged or not the config.json"):
        load_model(tmp_path)


def test_an_unknown_format_version_is_refused_with_both_numbers(tmp_path):
    export_model(tmp_path, make_params(), CONFIG)
    content = json.loads((tmp_path / "config.json").read_text())
    content["format_version"] = 7
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="version 7, this air_jax reads 1"):
        load_model(tmp_path)


def test_an_edited_config_is_refused(tmp_path):
    export_model(tmp_path, make_params(), {"scale": 0.3})
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace("0.3", "0.1"))
    with pytest.raises(CheckpointError, match="damaged or was edited"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "tensors",
    [
        {"a": np.ones(2, np.float64)},
        {"a": np.ones(2, np.int32)},
        {"a": np.ones(2, np.float32), "a/b": np.ones(2, np.float32)},
        {"a/b/c": np.ones(2, np.float32), "a/b": np.ones(2, np.float32)},
    ],
)
def test_a_safetensors_file_of_another_program_is_refused(tmp_path, tensors):
    export_model(tmp_path, make_params(), CONFIG)
    rewrite_params(tmp_path, safetensors.numpy.save(tensors))
    with pytest.raises(CheckpointError, match="not one that air_jax writes"):
        load_model(tmp_path)


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_bytes_that_are_no_safetensors_are_refused_and_never_unpickled(tmp_path):
    marker = str(tmp_path / "unpickled")
    export_model(tmp_path, make_params(), CONFIG)
    for data in (pickle.dumps(Payload(marker)), b"", b"\xff" * 16, b"\x93NUMPY\x01\0" + b" " * 64):
        rewrite_params(tmp_path, data)
        with pytest.raises(CheckpointError, match="not a safetensors file"):
            load_model(tmp_path)
    assert not os.path.exists(marker)


@pytest.mark.parametrize(
    ("params", "config", "error", "message"),
    [
        ({}, {}, ValueError, "no array"),
        ({"a": {}}, {}, ValueError, "no array"),
        ({"a/b": np.ones(1, np.float32)}, {}, ValueError, "'a/b'"),
        ({"a": {"": np.ones(1, np.float32)}}, {}, ValueError, "''"),
        ({"a": {3: np.ones(1, np.float32)}}, {}, ValueError, "the name 3"),
        ({"a": {"n": np.ones(1, np.int32)}}, {}, TypeError, "parameter a/n .* int32"),
        ({"a": np.ones(1)}, {}, TypeError, "float64"),
        ({"a": ["x"]}, {}, TypeError, "parameter a is list"),
        ({"a": np.ones(1, np.float32)}, {"path": object()}, TypeError, "JSON"),
        ({"a": np.ones(1, np.float32)}, {"rate": float("nan")}, ValueError, "JSON"),
    ],
)
def test_what_cannot_be_exported_is_refused_and_nothing_written(
    tmp_path, params, config, error, message
):
    with pytest.raises(error, match=message):
        export_model(tmp_path / "model", params, config)
    assert not (tmp_path / "model").exists()


def test_a_full_disk_leaves_the_model_of_before_and_no_partial_file(tmp_path, monkeypatch):
    export_model(tmp_path, {"a": np.float32([1])}, {})

    def fsync(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left"):
        export_model(tmp_path, {"a": np.float32([2])}, {})
    assert sorted(os.listdir(tmp_path)) == ["config.json", "params.safetensors"]
    assert load_model(tmp_path)[0]["a"] == 1
