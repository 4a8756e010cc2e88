"""Images in array_record shards, read by index while a run goes on: sets that no memory holds.

A folder of shards appears whole:

    images-00000.array_record, ...    one image a record, its pixels as they are
    index.json                        count, shape, and size and SHA-256 of every shard

Reading needs `grain`, of the extra `stream`.
"""

import contextlib
import glob
import hashlib
import importlib.util
import json
import os
import pathlib
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import numpy as np

_INDEX = "index.json"
_VERSION = 1
# Of images before they are compressed: every shard that is read stays open.
_SHARD_BYTES = 2**31
# One record a group, or reading one image would decompress its neighbours.
_OPTIONS = "group_size:1"
_PIECE = 4096  # images read at a time where all are
# Calls that are read while another one is computed, each by one thread.
_AHEAD = 2
# Seconds without a write after which a half-written set is nobody's.
_ABANDONED = 24 * 3600

Loaded = TypeVar("Loaded", covariant=True)


class Prefetched(Protocol[Loaded]):
    """An iterator whose `close` ends the threads that work ahead of it."""

    def __next__(self) -> Loaded: ...

    def close(self) -> None: ...


class ShardError(ValueError):
    """Shards that must not be read: names the file and the remedy."""


class Shards:
    """The images of a set on disk, uint8 `[M, H, W, C]`; `open_shards` opens them.

    Attributes:
        shape: `(M, H, W, C)`.
        dtype: uint8.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, folder: pathlib.Path, index: dict[str, Any]):
        import grain  # slow to import, and seldom needed

        self.shape: tuple[int, ...] = tuple(index["shape"])
        self._folder = folder
        self._listing = index["shards"]
        paths = [str(folder / shard["file"]) for shard in self._listing]
        self._source = grain.sources.ArrayRecordDataSource(paths)

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Reads some images; from several threads, too.

        Args:
            indices: places in the set, int `[...]`, in any order.
        Returns:
            The images, uint8 `[..., H, W, C]`.
        Raises:
            ShardError: if a shard has been damaged since it was opened.
        """
        shape = (*np.shape(indices), *self.shape[1:])
        try:
            records = self._source.__getitems__(np.ravel(indices).tolist())
            return np.frombuffer(b"".join(records), np.uint8).reshape(shape)
        except (RuntimeError, OSError, ValueError) as error:
            _check(self._folder, self._listing)  # names the shard
            raise _refusal(self._folder, f"cannot be read ({error})") from error

    def pieces(self) -> Iterator[np.ndarray]:
        """All images in their order, some at a time."""
        for start in range(0, len(self), _PIECE):
            yield self.read(np.arange(start, min(start + _PIECE, len(self))))


@contextlib.contextmanager
def writing(folder: str | os.PathLike[str]) -> Iterator[Callable[[np.ndarray], None]]:
    """Writes a folder of shards, which appears where the block ends.

    After an error in the block there is none. Where it is there already, as another process wrote
    the same images meanwhile, it stays as it is.

    Args:
        folder: of the shards; those above it are created where absent.
    Yields:
        `write(images)`, to be called with pieces of the set in their order, uint8 `[m, H, W, C]`.
    Raises:
        OSError: if the folder cannot be written.
        ValueError: if the pieces are not images of one size, or there is no image.
    """
    folder = pathlib.Path(folder)
    # At random, as processes of several machines may share the folder above.
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.tmp")
    temporary.mkdir(parents=True)
    _remove_abandoned(folder)
    writer = _Writer(temporary)
    try:
        yield writer.write
        writer.finish()
        try:
            os.rename(temporary, folder)
        except OSError:
            if not (folder / _INDEX).exists():
                raise
    finally:
        writer.close()
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_abandoned(folder: pathlib.Path) -> None:
    """Removes what processes that were killed have left of the same set.

    Another that writes it meanwhile, on another machine maybe, adds to its files all the time.
    """
    for other in folder.parent.glob(f".{glob.escape(folder.name)}.*.tmp"):
        with contextlib.suppress(OSError):  # it may be gone, or another user's
            latest = max(path.stat().st_mtime for path in (other, *other.iterdir()))
            if time.time() - latest > _ABANDONED:
                shutil.rmtree(other, ignore_errors=True)


class _Writer:
    """Fills one shard after another."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        self._shape: tuple[int, ...] | None = None
        self._shards: list[dict[str, Any]] = []
        self._writer: Any = None

    def write(self, images: np.ndarray) -> None:
        shape = self._shape or images.shape[1:]
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != shape:
            raise ValueError(
                f"a piece of the set is {images.dtype} {images.shape}; expected uint8 "
                f"[m, {', '.join(map(str, shape)) if self._shape else 'H, W, C'}]"
            )
        self._shape = shape
        limit = max(1, _SHARD_BYTES // int(np.prod(shape)))
        for image in images:
            if self._writer is None or self._shards[-1]["images"] == limit:
                self._begin()
            self._writer.write(image.tobytes())
            self._shards[-1]["images"] += 1

    def _begin(self) -> None:
        from array_record.python.array_record_module import ArrayRecordWriter

        self.close()
        name = f"images-{len(self._shards):05}.array_record"
        self._writer = ArrayRecordWriter(str(self._folder / name), _OPTIONS)
        self._shards.append({"file": name, "images": 0})

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def finish(self) -> None:
        self.close()
        if self._shape is None or not self._shards:
            raise ValueError("there is no image to write")
        for shard in self._shards:
            path = self._folder / shard["file"]
            shard |= {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        count = sum(shard["images"] for shard in self._shards)
        contents = {"version": _VERSION, "shape": [count, *self._shape], "shards": self._shards}
        index = {**contents, "digest": _digest(contents)}
        (self._folder / _INDEX).write_text(json.dumps(index, indent=1) + "\n")


def open_shards(folder: str | os.PathLike[str]) -> Shards:
    """Opens a folder of shards once all of them are what the index says.

    Every file is read for that.

    Args:
        folder: as `writing` left it.
    Raises:
        ImportError: if grain is not installed.
        ShardError: if the index or a shard is missing, damaged or of another set; names it.
    """
    check_installed()
    folder = pathlib.Path(folder)
    path = folder / _INDEX
    try:
        index = json.loads(path.read_bytes())
        contents = {name: index[name] for name in ("version", "shape", "shards")}
        intact = index["digest"] == _digest(contents)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _refusal(folder, f"cannot be read ({type(error).__name__}: {error})", path) from error
    if not intact:
        raise _refusal(folder, "is damaged: its digest is not that of its contents", path)
    if index["version"] != _VERSION:
        raise _refusal(folder, f"is of version {index['version']}, not {_VERSION}", path)
    _check(folder, index["shards"])
    return Shards(folder, index)


def check_installed() -> None:
    """Raises ImportError where grain is not installed, with what to install."""
    if importlib.util.find_spec("grain") is None:
        raise ImportError(
            "streaming needs the package grain: pip install 'air_jax[stream]', or set "
            "data.resident to True"
        )


def prefetched(load: Callable[[int], Loaded], steps: range) -> Prefetched[Loaded]:
    """What `load` makes of some steps, in their order, made by threads ahead of being asked for.

    Args:
        load: from a step; called by several threads.
        steps: which, at least one.
    Returns:
        The iterator; an error of `load` is raised at its step.
    """
    import grain

    order = grain.MapDataset.range(steps.start, steps.stop, steps.step)
    options = grain.ReadOptions(num_threads=_AHEAD, prefetch_buffer_size=_AHEAD)
    return iter(order.map(load).to_iter_dataset(options))


def _check(folder: pathlib.Path, listing: list[dict[str, Any]]) -> None:
    """Raises ShardError for the first shard that is not as listed."""
    for shard in listing:
        path = folder / shard["file"]
        try:
            size = path.stat().st_size
            if size != shard["bytes"]:
                raise _refusal(folder, f"has {size} bytes, not {shard['bytes']}", path)
            if _sha256(path) != shard["sha256"]:
                raise _refusal(folder, f"is damaged: not the SHA-256 of {_INDEX}", path)
        except OSError as error:
            raise _refusal(folder, f"cannot be read ({error})", path) from error


def _refusal(folder: pathlib.Path, reason: str, path: pathlib.Path | None = None) -> ShardError:
    return ShardError(
        f"{path or folder} {reason}. Remove the folder {folder}: the next start writes it again"
    )


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(contents: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()
