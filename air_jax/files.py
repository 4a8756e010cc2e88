"""Files that appear whole, and where what can be made again is kept."""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a temporary file beside `path`, which takes its place where the block ends.

    After an error in the block, an interruption included, `path` is as it was before and nothing
    else is left.

    Args:
      path: file to write; its folder is created where absent.

    Raises:
      OSError: if the file or its folder cannot be written; names it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # At random, as two writers may be processes of several machines.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            # Else a machine that goes down may keep the new name with none of the contents.
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        # A write that fails, on a full disk for one, does not know its file.
        raise not_written(error, path, "what was there before is intact") from error
    finally:
        temporary.unlink(missing_ok=True)


def not_written(error: OSError, path: str | os.PathLike[str], state: str) -> OSError:
    """An error of the same kind that names the file and the remedy.

    Args:
      error: of a write.
      path: what was not written.
      state: what is there now, for the message.
    """
    code = error.errno or errno.EIO
    return OSError(
        code,
        f"{os.strerror(code)}: not written, {state}; once the disk can be written again, give the "
        "same command again",
        os.fspath(path),
    )


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Replaces `path` by `data` in one step, see `replacing`."""
    with replacing(path) as file:
        file.write(data)


def user_cache() -> Path | None:
    """Folder of what can be made again: `$XDG_CACHE_HOME/air_jax`, by default `~/.cache/air_jax`.

    Returns:
      The folder, which need not exist; None where there is no home folder.
    """
    base = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return None if base.startswith("~") else Path(base) / "air_jax"
