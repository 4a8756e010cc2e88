"""Where a run comes from: config, data, code, packages, devices; and whether it may go on."""

import json
import os
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import jax

from air_jax.writer import write_json

_PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "distrax", "tfp-nightly", "orbax-checkpoint", "chex"),
    *("ml-collections", "absl-py", "tensorflow-datasets", "mlxtend", "numpy", "scipy", "pillow"),
    "grain",
)
# Config entries that older runs do not have, and what they were then.
_ADDED = {
    **{"model": "air", "inference.place_span": 1.0},
    **{"inference.patch_size": 0, "inference.patch_features": 32},
    **{"inference.evidence": 0, "inference.variant": "air", "exploration.hold": 0},
    **{"data.perturbation": 0.0, "data.resident": True},
    **{"scene.gradient": "finite_differences"},
}


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested config to `{"section.key": value}`, as JSON types."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = json.loads(json.dumps(value))
    return flat


def check_config(folder: pathlib.Path, config: Mapping[str, Any], allowed: Sequence[str]) -> None:
    """Compares a config with the one a workdir was begun with.

    Args:
      folder: the workdir; nothing is checked where it holds no `config.json`.
      config: the config of this start.
      allowed: keys, as in `flatten`, that may differ.

    Raises:
      ValueError: if another key differs; all of them are named.
    """
    path = folder / "config.json"
    if not path.exists():
        return
    saved, given = ({**_ADDED, **flatten(entries)} for entries in (_read(path, dict), config))
    differing = [
        f"  {name}: {saved.get(name)!r} there, {given.get(name)!r} given"
        for name in sorted(saved.keys() | given.keys())
        if saved.get(name) != given.get(name) and name not in allowed
    ]
    if differing:
        raise ValueError(
            f"{folder} was begun with another config; choose another --workdir or the same "
            "config:\n" + "\n".join(differing)
        )


def essence(entries: Mapping[str, Any], besides: Sequence[str]) -> str:
    """A config or description as one string, without some entries that may differ elsewhere."""
    flat = flatten(entries)
    return json.dumps({name: flat[name] for name in sorted(flat) if name not in besides})


def last_num_devices(folder: pathlib.Path) -> int | None:
    """How many devices the last start of a run had; None where that is not recorded."""
    path = folder / "run.json"
    if not path.exists():
        return None
    starts = _read(path, list)
    last = starts[-1] if starts and isinstance(starts[-1], dict) else {}
    return last.get("num_devices", len(last.get("devices", ())) or None)


def check_data(folder: pathlib.Path, description: Mapping[str, Any]) -> None:
    """Compares a dataset with the one a workdir was begun with, wherever it lies.

    Args:
      folder: the workdir; nothing is checked where it holds no `run.json`.
      description: of the dataset.

    Raises:
      ValueError: if they differ.
    """
    path = folder / "run.json"
    if not path.exists():
        return
    begun = without_folder(_first_data(path))
    given = without_folder(json.loads(json.dumps(description)))
    if begun != given:
        raise ValueError(
            f"{folder} was begun with other data; choose another --workdir or the same data:\n"
            f"  there: {describe(begun)}\n  given: {describe(given)}"
        )


def record(
    folder: pathlib.Path,
    config: Mapping[str, Any],
    description: Mapping[str, Any],
    *,
    resumed: bool,
) -> None:
    """Writes `config.json` and adds this start to `run.json`.

    Args:
      folder: the workdir.
      config: of this start.
      description: of the dataset.
      resumed: whether earlier starts belong to the same run.
    """
    runs_file = folder / "run.json"
    starts = _read(runs_file, list) if resumed and runs_file.exists() else []
    starts.append(
        {
            **surroundings(),
            "data": dict(description),
        }
    )
    write_json(runs_file, starts)
    write_json(folder / "config.json", config)


def _read(path: pathlib.Path, kind: type) -> Any:
    """A file that this module wrote, which may be damaged."""
    try:
        content = json.loads(path.read_bytes())
        if isinstance(content, kind):
            return content
    except (ValueError, RecursionError):
        pass
    raise ValueError(
        f"{path} is damaged: it does not hold what a run writes there. Bring it back from a copy, "
        "or choose another --workdir"
    )


def _first_data(path: pathlib.Path) -> Mapping[str, Any]:
    starts = _read(path, list)
    if starts and isinstance(starts[0], dict) and isinstance(starts[0].get("data"), dict):
        return starts[0]["data"]
    raise ValueError(
        f"{path} is damaged: it does not say which data the run was begun with. Bring it back from "
        "a copy, or choose another --workdir"
    )


def surroundings() -> dict[str, Any]:
    """When, with which arguments, code, packages and devices this process runs, JSON-able."""
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "arguments": sys.argv[1:],
        "commit": commit(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "devices": [device.device_kind for device in jax.local_devices()],
        "num_devices": jax.device_count(),
        "num_processes": jax.process_count(),
        "backend": jax.default_backend(),
        "cores": os.cpu_count(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def without_folder(description: Mapping[str, Any]) -> dict[str, Any]:
    """A dataset's description but for where it lies, which is another place elsewhere."""
    return {name: value for name, value in description.items() if name != "folder"}


def describe(description: Mapping[str, Any]) -> str:
    """A dataset's description in one line."""
    return ", ".join(f"{name} {value}" for name, value in description.items())


def commit() -> str | None:
    """Commit of the checkout that this file is in, with "-dirty" where it was changed."""
    command = ["git", "-C", str(pathlib.Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(
            [*command, "--abbrev=40", "--exclude=*"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None
