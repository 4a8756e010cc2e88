"""Scenes kept on disk, whole in one file or with the training images in shards beside it."""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import logging

from air_jax.data import stream
from air_jax.files import replacing, user_cache

# Part of the key: to be raised whenever the same options would give other scenes.
_VERSION = 2

Write = Callable[[np.ndarray], None]


def cached(
    cache_dir: str | None,
    key: dict[str, Any],
    compose: Callable[[Write | None], dict[str, np.ndarray]],
    *,
    resident: bool,
) -> dict[str, Any]:
    """Arrays made from `key`, from the cache where it has them.

    Args:
        cache_dir: folder of the cache; None for the user's, empty for none.
        key: all that the arrays depend on, JSON-able.
        compose: `compose(write)` makes the arrays; if `write` is not None, all but the training
            images, with pieces of which it calls `write`.
        resident: whether the training images are to be in memory.
    Returns:
        The arrays. If not resident, `train_images` are `stream.Shards`, and `content` is the
        `digest` of all, which would take reading them.
    Raises:
        ImportError, OSError, ValueError: if not resident, and they cannot be kept on disk or not
            be read from there.
    """
    if not resident:
        return _apart(cache_dir, key, compose)
    file = _file(cache_dir, key)
    arrays = None if file is None else _load(file)
    if arrays is None:
        arrays = compose(None)
        if file is not None:
            _save(file, arrays)
    return arrays


def apart(cache_dir: str | None, key: dict[str, Any], images: np.ndarray) -> stream.Shards:
    """Puts images that are in memory into shards, unless the cache has them.

    Args:
        cache_dir: folder of the cache; None for the user's.
        key: all that the images depend on, JSON-able.
        images: uint8 `[M, H, W, C]`.
    Raises:
        ImportError, OSError, ValueError: if they cannot be kept on disk or not be read from there.
    """
    folder = _shards(cache_dir, key)
    if not folder.exists():
        with stream.writing(folder) as write:
            write(images)
    return stream.open_shards(folder)


def digest(arrays: dict[str, Any]) -> bytes:
    """SHA-256 of names, types, shapes and contents; of arrays, or of `stream.Shards` like them."""
    whole = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        whole.update(f"{name} {array.dtype.str} {tuple(array.shape)}".encode())
        pieces = array.pieces() if isinstance(array, stream.Shards) else (array,)
        for piece in pieces:
            whole.update(np.ascontiguousarray(piece).reshape(-1).data)
    return whole.digest()


def _apart(
    cache_dir: str | None,
    key: dict[str, Any],
    compose: Callable[[Write | None], dict[str, np.ndarray]],
) -> dict[str, Any]:
    folder = _shards(cache_dir, key)
    file = folder.with_name(f"{folder.name}.npz")
    arrays: dict[str, Any] | None = _load(file) if folder.exists() else None
    if arrays is not None:
        return arrays | {"train_images": stream.open_shards(folder)}
    with stream.writing(folder) as write:
        arrays = compose(write)
    images = stream.open_shards(folder)
    arrays["content"] = np.frombuffer(digest({**arrays, "train_images": images}), np.uint8)
    _save(file, arrays)
    return arrays | {"train_images": images}


def _shards(cache_dir: str | None, key: dict[str, Any]) -> pathlib.Path:
    """The folder of the shards made from `key`."""
    stream.check_installed()
    file = _file(cache_dir, {**key, "resident": False})
    if file is None:
        raise ValueError(
            "resident is False, and there is no folder to stream the training images from: set "
            "cache_dir to one, or resident to True"
        )
    return file.with_suffix("")


def _file(cache_dir: str | None, key: dict[str, Any]) -> pathlib.Path | None:
    """The file that caches what is made from `key`; None for no cache."""
    if cache_dir == "":
        return None
    folder = user_cache() if cache_dir is None else pathlib.Path(os.path.expanduser(cache_dir))
    if folder is None:
        logging.warning("There is no home folder: composed scenes are not cached.")
        return None
    contents = json.dumps({**key, "version": _VERSION}, sort_keys=True)
    return folder / f"scenes-{hashlib.sha256(contents.encode()).hexdigest()[:32]}.npz"


def _load(path: pathlib.Path) -> dict[str, np.ndarray] | None:
    """The arrays of an intact cache file, else None, with a warning if it is damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        if arrays.pop("digest").tobytes() == digest(arrays):
            return arrays
        reason = "its contents do not match their digest"
    except (FileNotFoundError, NotADirectoryError):
        return None
    # Damage to a zip file raises almost anything; whatever it is, the scenes can be rebuilt.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    logging.warning("The cached scenes in %s are damaged (%s): rebuilding them.", path, reason)
    return None


def _save(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes the cache file; one that cannot be written is a warning."""
    contents: Any = {**arrays, "digest": np.frombuffer(digest(arrays), np.uint8)}
    try:
        with replacing(path) as file:
            np.savez(file, **contents)
    except OSError as error:
        logging.warning("The scenes could not be cached in %s: %s", path.parent, error)
