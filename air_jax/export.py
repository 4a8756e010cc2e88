"""The trained model for everyone else: `params.safetensors` and `config.json`.

Neither orbax nor JAX is needed to read them, and neither file can hold a pickle.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from air_jax.checkpoint import CheckpointError
from air_jax.files import write_atomically

_FORMAT_VERSION = 1
_PARAMS = "params.safetensors"
_CONFIG = "config.json"


def export_model(directory: str | Path, params: Mapping[str, Any], config: dict[str, Any]) -> Path:
    """Writes a model's parameters and config.

    Each file appears whole or not at all; `config.json` comes last and holds the SHA-256 of the
    parameters and of the config. Tensors are float32 and named by their path, for example
    `encoder/Dense_0/kernel`.

    Args:
      directory: folder of the exported model; made if it does not exist.
      params: nested dict of floating-point arrays, at most 32 bits each.
      config: what rebuilds the model; anything JSON can hold (tuples come back as lists).
    Returns:
      The folder.
    Raises:
      ValueError: if `params` is empty or a name in it has a slash, or if `config` has a NaN.
      TypeError: if a parameter is not floating-point or `config` does not fit into JSON.
      OSError: if writing fails.
    """
    import safetensors.numpy

    tensors = dict(_flatten(params))
    if not tensors:
        raise ValueError("params has no array: expected a nested dict of parameters")
    data = safetensors.numpy.save(tensors)
    content = {
        "format": "air_jax",
        "format_version": _FORMAT_VERSION,
        "params_sha256": hashlib.sha256(data).hexdigest(),
        "config_sha256": hashlib.sha256(json.dumps(config).encode()).hexdigest(),
        "config": config,
    }
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    folder = Path(directory)
    write_atomically(folder / _PARAMS, data)
    write_atomically(folder / _CONFIG, text.encode())
    return folder


def load_model(directory: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads what `export_model` wrote, after verifying it.

    Args:
      directory: the exported model's folder, or a run's workdir, which has it as `model`.
    Returns:
      Nested dict of float32 NumPy arrays, and the config.
    Raises:
      CheckpointError: if the folder or a file is missing, damaged or of another program.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder: give a run's workdir or its model folder")
    # A workdir may have a config.json of its own: the parameters tell which folder it is.
    if not (folder / _PARAMS).exists() and (folder / "model").is_dir():
        folder = folder / "model"
    for name in (_CONFIG, _PARAMS):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder / name} is missing: an exported model has {_CONFIG} and {_PARAMS}. "
                "Give the workdir of a run that has written them, or export the model again"
            )
    digest, config = _read_config(folder / _CONFIG)
    data = (folder / _PARAMS).read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        raise CheckpointError(
            f"{folder / _PARAMS} does not have the SHA-256 that {_CONFIG} states: it is damaged, "
            "of another model, or its export was interrupted. Copy or export the model again"
        )
    return _read_params(folder / _PARAMS, data), config


def _read_config(path: Path) -> tuple[str, dict[str, Any]]:
    foreign = f"{path} is damaged or not the {_CONFIG} of an exported air_jax model"
    remedy = "Copy or export the model again"
    try:
        content = json.loads(path.read_bytes())
        version, config = content["format_version"], content["config"]
        digest, config_digest = content["params_sha256"], content["config_sha256"]
        known = content["format"] == "air_jax" and isinstance(config, dict)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{foreign}. {remedy}") from error
    if not known:
        raise CheckpointError(f"{foreign}. {remedy}")
    if version != _FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {version!r}, this air_jax reads {_FORMAT_VERSION}. "
            "Use the air_jax that wrote it, or export the model again"
        )
    if hashlib.sha256(json.dumps(config).encode()).hexdigest() != config_digest:
        raise CheckpointError(f"{path} is damaged or was edited: its SHA-256 differs. {remedy}")
    return digest, config


def _read_params(path: Path, data: bytes) -> dict[str, Any]:
    import safetensors
    import safetensors.numpy

    try:
        tensors = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} is not a safetensors file ({error}). Copy or export the model again"
        ) from error
    params: dict[str, Any] = {}
    for name, tensor in tensors.items():
        *parents, last = name.split("/")
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                break
        if tensor.dtype != np.float32 or not isinstance(node, dict) or last in node:
            raise CheckpointError(
                f"{path}: tensor {name!r} ({tensor.dtype}) is not one that air_jax writes: "
                "float32, named by its path in a nested dict. Export the model again"
            )
        node[last] = tensor
    return params


def _flatten(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    for key, value in params.items():
        if not isinstance(key, str) or not key or "/" in key:
            raise ValueError(
                f"params has the name {key!r} in {prefix or 'its top level'}: expected text "
                "without a slash"
            )
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}/")
            continue
        array = np.asarray(value)
        # Every smaller floating-point type fits into float32 exactly (bfloat16 has kind "V").
        if array.dtype.name not in ("float32", "float16", "bfloat16"):
            raise TypeError(
                f"parameter {prefix}{key} is {type(value).__name__} of {array.dtype}: expected "
                "float32, bfloat16 or float16"
            )
        yield f"{prefix}{key}", np.asarray(array, np.float32, order="C")
