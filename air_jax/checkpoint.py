"""Checkpoints for resuming a run, written by orbax.

    directory/00000200/manifest.json    step, size and SHA-256 of every other file
    directory/00000200/state/           what orbax wrote: one flat dict, leaf name -> array

A checkpoint is built in `00000200.tmp`; its manifest is written last and the folder is then
renamed, so that a folder with a manifest is complete. Restoring verifies the manifest first,
because orbax restores flipped bits without a word. Nothing here or in orbax's array format
(tensorstore's OCDBT with JSON metadata) is a pickle. `export.py` writes models for others.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from air_jax.files import write_atomically

_FORMAT_VERSION = 1
_MANIFEST = "manifest.json"


class CheckpointError(Exception):
    """A checkpoint or an exported model that must not be loaded: names the file and the remedy."""


def save(directory: str | Path, step: int, tree: Any, *, keep: int = 2) -> Path:
    """Writes a checkpoint, then removes old and half-written ones.

    Only process 0 may call it; no other process waits or takes part.

    Args:
      directory: where the checkpoints of a run are; made if it does not exist.
      step: number of the train step, from 0. A checkpoint of the same step is replaced.
      tree: pytree of arrays or scalars (no typed keys), on any device; bits are kept.
      keep: how many complete checkpoints remain, this one counted, at least 1.
    Returns:
      The folder of the new checkpoint.
    Raises:
      ValueError: if `step` or `keep` is out of range, or two leaves have the same name.
      TypeError: if a leaf is not a numeric or boolean array.
      RuntimeError: if called by a process other than 0.
      OSError: if writing fails (disk full, no permission); nothing of this checkpoint is left
        behind and the earlier ones are intact.
    """
    if step < 0 or keep < 1:
        raise ValueError(f"step must be at least 0 and keep at least 1, got {step=} and {keep=}")
    if jax.process_index() != 0:
        # Orbax would leave out every NumPy array without a word.
        raise RuntimeError(f"process {jax.process_index()} saved a checkpoint: only process 0 may")
    step = int(step)
    names, leaves, _ = _flatten(tree)
    arrays = {name: _to_numpy(name, leaf) for name, leaf in zip(names, leaves, strict=True)}
    folder = _folder(directory, step)
    temporary = folder.with_name(folder.name + ".tmp")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove(temporary)
        # Orbax answers a full disk with pages of tracebacks from its threads: ask before.
        if shutil.disk_usage(folder.parent).free < sum(array.nbytes for array in arrays.values()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        temporary.mkdir()
        _write_state(temporary / "state", arrays)
        write_atomically(temporary / _MANIFEST, _encode_manifest(step, _file_table(temporary)))
        for path in (temporary, *temporary.rglob("*")):
            _sync(path)
        if folder.exists():
            replaced = folder.with_name(folder.name + ".old")
            _remove(replaced)
            folder.rename(replaced)
        temporary.rename(folder)
        _sync(folder.parent)
    except BaseException as error:
        # After an error orbax's threads write on for a moment and bring the folder back.
        for _ in range(5):
            _remove(temporary)
            time.sleep(0.1)
        code = _os_error_code(error)
        if code is None:
            raise
        raise OSError(
            code,
            f"{os.strerror(code)}: the checkpoint of step {step} was not saved, earlier ones are "
            "intact; once the disk can be written again, the same command resumes from them",
            str(folder),
        ) from error
    _prune(folder.parent, step, keep)
    return folder


def latest_step(directory: str | Path) -> int | None:
    """The largest step with a complete checkpoint in `directory`; None if there is none."""
    return max(_complete_steps(Path(directory)), default=None)


def restore(directory: str | Path, template: Any, step: int | None = None) -> Any:
    """Reads a checkpoint after verifying every byte of it.

    Never falls back to another checkpoint by itself. Every process may call it.

    Args:
      directory: where the checkpoints of a run are.
      template: pytree of arrays or `jax.ShapeDtypeStruct` with the structure, shapes and dtypes
        expected.
      step: which checkpoint; the latest complete one if None.
    Returns:
      A pytree with the structure of `template`; its leaves are NumPy arrays, scalars of shape [].
    Raises:
      CheckpointError: if there is no such checkpoint, a file of it is missing or damaged, or a
        leaf differs from the template's.
    """
    steps = _complete_steps(Path(directory))
    if not steps or (step is not None and step not in steps):
        wanted = "complete checkpoint" if step is None else f"complete checkpoint of step {step}"
        raise CheckpointError(
            f"no {wanted} in {directory}, steps found: {steps or 'none'}. Give the folder with "
            "the numbered checkpoints, and one of their steps or none for the latest"
        )
    step = steps[-1] if step is None else step
    folder = _folder(directory, step)
    _verify(folder, step)
    stored = _read_state(folder)
    names, expected, treedef = _flatten(template)
    leaves = []
    for name, leaf in zip(names, expected, strict=True):
        shape, dtype = np.shape(leaf), getattr(leaf, "dtype", None) or np.asarray(leaf).dtype
        if name not in stored and 0 in shape:
            stored[name] = np.zeros(shape, dtype)
        if name not in stored:
            raise _mismatch(folder, f"leaf {name!r} is not in it")
        found = stored[name]
        if (found.shape, found.dtype) != (shape, dtype):
            raise _mismatch(
                folder,
                f"leaf {name!r} is {found.dtype}{list(found.shape)} in it, expected "
                f"{dtype}{list(shape)}",
            )
        leaves.append(found)
    for name in stored:
        if name not in names:
            raise _mismatch(folder, f"leaf {name!r} is in it and not expected")
    return jax.tree.unflatten(treedef, leaves)


def _checkpointer() -> Any:
    # Imported here because orbax takes longer to import than an exported model to load.
    import orbax.checkpoint as ocp

    # By default orbax makes all processes wait for each other, here only the calling one works.
    process = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=process,
        active_processes={process},
        barrier_sync_key_prefix=f"process_{process}",
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _write_state(path: Path, arrays: dict[str, np.ndarray]) -> None:
    import orbax.checkpoint as ocp

    # Orbax refuses arrays without elements; the template holds all there is to know of them.
    item = {name: array for name, array in arrays.items() if array.size}
    with _checkpointer() as checkpointer:
        checkpointer.save(path, args=ocp.args.PyTreeSave(item))


def _read_state(folder: Path) -> dict[str, Any]:
    """What orbax makes of files that are those that were written, leaf name -> array."""
    try:
        with _checkpointer() as checkpointer:
            stored = checkpointer.restore(folder / "state")
    # The bytes are right. An orbax that cannot read them may raise anything.
    except Exception as error:
        raise CheckpointError(
            f"{folder} is undamaged, but this orbax cannot read it ({type(error).__name__}). "
            "Resume with the packages that wrote it, which run.json names"
        ) from error
    if not isinstance(stored, dict) or not all(
        isinstance(leaf, np.ndarray) for leaf in stored.values()
    ):
        raise _mismatch(folder, "it does not hold arrays by their names")
    return stored


def _flatten(tree: Any) -> tuple[list[str], list[Any], Any]:
    paths_and_leaves, treedef = jax.tree.flatten_with_path(tree)
    names = [jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in paths_and_leaves]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two leaves of the tree have the name {name!r}: rename one")
    return names, [leaf for _, leaf in paths_and_leaves], treedef


def _to_numpy(name: str, leaf: Any) -> np.ndarray:
    if not jax.dtypes.issubdtype(getattr(leaf, "dtype", np.float32), jax.dtypes.prng_key):
        array = np.asarray(jax.device_get(leaf))
        if array.dtype.kind not in "OSUMm":
            return array
    raise TypeError(
        f"leaf {name!r} is {type(leaf).__name__}: expected a numeric array (of a typed key, "
        "save jax.random.key_data)"
    )


def _folder(directory: str | Path, step: int) -> Path:
    # Orbax takes absolute paths only.
    return Path(directory).absolute() / f"{step:08d}"


def _complete_steps(directory: Path) -> list[int]:
    names = [path.parent.name for path in directory.glob(f"*/{_MANIFEST}") if path.is_file()]
    steps = [int(name) for name in names if re.fullmatch("[0-9]+", name)]
    return sorted(step for step in steps if f"{step:08d}" in names)


def _encode_manifest(step: int, files: dict[str, dict[str, Any]]) -> bytes:
    content = {"format_version": _FORMAT_VERSION, "step": step, "files": files}
    return (json.dumps(content, indent=1) + "\n").encode()


def _file_table(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of each file below `folder`, the manifest left out."""
    table = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != _MANIFEST:
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            table[name] = {"size": path.stat().st_size, "sha256": digest}
    return table


def _verify(folder: Path, step: int) -> None:
    remedy = (
        f"Delete the folder {folder}: the run then resumes from the checkpoint before it, or "
        "starts anew if there is none"
    )
    path = folder / _MANIFEST
    data = path.read_bytes()
    try:
        manifest = json.loads(data)
        version, listed = manifest["format_version"], dict(manifest["files"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: not a manifest. {remedy}") from error
    if version != _FORMAT_VERSION:
        raise CheckpointError(
            f"{path} is damaged or of another air_jax: its format version is {version!r}, "
            f"expected {_FORMAT_VERSION}. {remedy}"
        )
    found = _file_table(folder)
    for name in listed.keys() | found.keys():
        if name not in found:
            raise CheckpointError(f"{folder / name} is missing. {remedy}")
        if name not in listed:
            raise CheckpointError(f"{folder / name} is not part of the checkpoint. {remedy}")
        if listed[name] != found[name]:
            raise CheckpointError(
                f"{folder / name} is damaged: its size and SHA-256 are {found[name]}, the "
                f"manifest has {listed[name]}. {remedy}"
            )
    # What the comparisons above leave open: the step, and bits that JSON does not care about.
    if data != _encode_manifest(step, found):
        raise CheckpointError(f"{path} is damaged or of another step. {remedy}")


def _mismatch(folder: Path, difference: str) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint {folder} is of another model or optimizer: {difference}. Resume with the "
        "config that wrote it, or take a new workdir"
    )


def _prune(directory: Path, step: int, keep: int) -> None:
    others = [other for other in _complete_steps(directory) if other != step]
    doomed = [_folder(directory, other) for other in others[: max(0, len(others) - keep + 1)]]
    # One writer per run, so whatever else is named like a step is left over from a dead one.
    for path in directory.iterdir():
        name = re.fullmatch(r"[0-9]{8,}(\.tmp|\.old|\.orbax-checkpoint-tmp.*)?", path.name)
        if name and path.is_dir() and (name[1] or not (path / _MANIFEST).is_file()):
            doomed.append(path)
    for path in doomed:
        _remove(path)


def _remove(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
        return
    # The manifest first: killed here, the rest does not pass for a complete checkpoint.
    with contextlib.suppress(OSError):
        (folder / _MANIFEST).unlink()
    shutil.rmtree(folder, ignore_errors=True)


def _os_error_code(error: BaseException) -> int | None:
    if isinstance(error, OSError):
        return error.errno or errno.EIO
    # Orbax reports a full disk as ValueError, with tensorstore's text.
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return int(code[1]) if code else None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
