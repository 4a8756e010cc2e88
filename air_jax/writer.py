"""What a run writes for people and programs: scalars, a progress line, JSON files.

Scalars go to `metrics.jsonl`, one line an entry, and to TensorBoard. JSON has no nan and no
infinity; both are written as null.
"""

import contextlib
import json
import math
import os
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np
from absl import logging

from air_jax.files import not_written, write_atomically

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_DIR = "tensorboard"
_CLEAR_LINE = "\r\x1b[K"
_BAR_WIDTH = 20
_FLUSH_SECONDS = 10.0  # how rarely TensorBoard's events are sent to the disk


class Writer:
    """Scalars and progress of one run; a context manager.

    A resumed run repeats the steps after its checkpoint, so their old entries are dropped:
    every line of `metrics.jsonl` beyond `start_step`, and with `start_step` of 0 all of them.

    Args:
      workdir: folder of the run; created where absent.
      total_steps: training steps of the whole run, for the progress line.
      start_step: step of the checkpoint that the run continues, 0 for a new run.
      tensorboard: whether to write TensorBoard events too, under `workdir/tensorboard`.
      progress: "bar" redraws one line, "lines" prints one line a call, "none" is silent; None
        takes "bar" on a terminal and "lines" elsewhere.
      stream: where progress goes; None is standard error.

    Raises:
      ValueError: if `progress` is none of these.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        *,
        total_steps: int,
        start_step: int = 0,
        tensorboard: bool = True,
        progress: str | None = None,
        stream: TextIO | None = None,
    ):
        self._stream = sys.stderr if stream is None else stream
        if progress is None:
            progress = "bar" if self._stream.isatty() else "lines"
        if progress not in ("bar", "lines", "none"):
            raise ValueError(f'progress must be "bar", "lines", "none" or None, got {progress!r}')
        self._progress = progress
        self._bar = ""
        self._total_steps = total_steps

        workdir = Path(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        path = workdir / METRICS_FILE
        _drop_after(path, start_step)
        self._metrics = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed in close())
        self._path = path
        self._events = None
        if tensorboard:
            purge_step = start_step + 1 if start_step else 0
            self._events = _Events(workdir / TENSORBOARD_DIR, purge_step=purge_step)

    def scalars(self, step: int, split: str, metrics: Mapping[str, Any]) -> None:
        """Appends one entry, on disk when this returns.

        Args:
          step: training step.
          split: what the metrics were measured on: "train", "validation" or "test".
          metrics: name -> number (a scalar array will do). In TensorBoard they appear as
            `split/name`, those that are not finite left out.

        Raises:
          ValueError: if a metric is called "step" or "split".
          OSError: if it cannot be written, on a full disk for one.
        """
        values = {name: float(value) for name, value in metrics.items()}
        reserved = {"step", "split"} & values.keys()
        if reserved:
            raise ValueError(f"the names {sorted(reserved)} are taken; rename these metrics")
        entry = {"step": int(step), "split": split, **values}
        line = json.dumps(_jsonable(entry), allow_nan=False) + "\n"
        with _naming(self._path):
            self._metrics.write(line)
            self._metrics.flush()
        if self._events is not None:
            for name, value in values.items():
                if math.isfinite(value):
                    self._events.scalar(f"{split}/{name}", value, int(step))

    def text(self, tag: str, text: str) -> None:
        """Shows `text` (Markdown) in TensorBoard; does nothing without it."""
        if self._events is not None:
            self._events.text(tag, text)

    def progress(
        self, step: int, metrics: Mapping[str, Any], steps_per_second: float | None = None
    ) -> None:
        """Shows how far the run is, in one line.

        Args:
          step: training steps done.
          metrics: name -> number, shown in this order.
          steps_per_second: recent speed; None or 0 while it is unknown.
        """
        if self._progress == "none":
            return
        share = min(step / self._total_steps, 1.0) if self._total_steps else 1.0
        parts = [f"{name} {_short(float(value))}" for name, value in metrics.items()]
        if steps_per_second and math.isfinite(steps_per_second):
            left = max(self._total_steps - step, 0) / steps_per_second
            parts += [f"{_short(float(steps_per_second))} steps/s", f"{_duration(left)} left"]
        position = f"{step:,}/{self._total_steps:,}"
        percent = f"{math.floor(100 * share):3d} %"
        if self._progress == "lines":
            self._print("  ".join([f"step {position} ({percent.strip()})", *parts]) + "\n")
            return
        done = "#" * math.floor(_BAR_WIDTH * share)
        line = "  ".join([f"{percent} [{done:-<{_BAR_WIDTH}}] {position}", *parts])
        # A line that wraps could not be redrawn, so what does not fit is cut off.
        self._bar = line[: _columns(self._stream) - 1]
        self._print(_CLEAR_LINE + self._bar)

    def message(self, text: str) -> None:
        """Prints a line that stays, above the bar where there is one."""
        if self._progress == "bar":
            self._print(f"{_CLEAR_LINE}{text}\n{self._bar}")
        elif self._progress == "lines":
            self._print(text + "\n")

    def close(self) -> None:
        """Ends the progress line and closes the files; a second call does nothing."""
        if self._bar:
            self._print("\n")
            self._bar = ""
        events, self._events = self._events, None
        try:
            with _naming(self._path):
                self._metrics.close()
        finally:
            if events is not None:
                events.close()

    def __enter__(self) -> "Writer":
        """Returns itself."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes, also after an error, which another one of the same disk shall not hide."""
        with contextlib.suppress(*() if exc is None else (OSError,)):
            self.close()

    def _print(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


class _Events:
    """TensorBoard's events, written by the thread that calls.

    tensorboardX's `SummaryWriter` writes in a thread of its own: where that one has died of a full
    disk, the training waits for it without end.

    Args:
      folder: of the event files; created where absent.
      purge_step: from where on earlier events are hidden.
    """

    def __init__(self, folder: Path, *, purge_step: int):
        # Here, because importing it takes longer than everything else in this file.
        from tensorboardX import RecordWriter, summary
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._event, self._summary, self._folder = Event, summary, folder
        self._flushed = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self._file = RecordWriter(str(folder / name))
        self._add(file_version="brain.Event:2")
        self._add(step=purge_step, session_log=SessionLog(status=SessionLog.START))

    def scalar(self, tag: str, value: float, step: int) -> None:
        self._add(step=step, summary=self._summary.scalar(tag, value))
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            with _naming(self._folder):
                self._file.flush()
            self._flushed = time.monotonic()

    def text(self, tag: str, text: str) -> None:
        self._add(summary=self._summary.text(tag, text))

    def close(self) -> None:
        with _naming(self._folder):
            self._file.close()

    def _add(self, **content: Any) -> None:
        with _naming(self._folder):
            event = self._event(wall_time=time.time(), **content)
            self._file.write(event.SerializeToString())


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Has an error of writing name the file and the remedy."""
    try:
        yield
    except OSError as error:
        raise not_written(error, path, "entries from here on are missing") from error


def read_scalars(workdir: str | os.PathLike[str], split: str | None = None) -> list[dict[str, Any]]:
    """Entries of `workdir/metrics.jsonl`, in the order written.

    Args:
      workdir: folder of the run, which may be running.
      split: only the entries of this split; None for all.

    Returns:
      One dict an entry: `step`, `split` and the metrics; null is nan again. Empty when there
      is no such file. A line that is not readable, such as one half-written, is left out.
    """
    return [
        {name: math.nan if value is None else value for name, value in entry.items()}
        for _, entry in _read_entries(Path(workdir) / METRICS_FILE)
        if split is None or entry["split"] == split
    ]


def rounded(values: Iterable[float], digits: int = 6) -> list[float | None]:
    """Numbers as they go into JSON: some significant digits, None for what is not finite.

    Args:
      values: `[n]`.
      digits: significant ones.
    """
    return [float(f"{v:.{digits}g}") if math.isfinite(v) else None for v in values]


def write_json(path: str | os.PathLike[str], obj: Any) -> None:
    """Writes `obj` as indented JSON; a reader finds the old file or the new one, never half.

    Args:
      path: file to write; its folder is created where absent.
      obj: dicts, sequences, strings, numbers, None; NumPy (and JAX) arrays and scalars
        become lists and numbers, a nan or an infinity becomes null, a path a string.

    Raises:
      TypeError: if `obj` holds something else.
    """
    text = json.dumps(_jsonable(obj), indent=2, allow_nan=False) + "\n"
    write_atomically(path, text.encode())


def _read_entries(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The readable lines of a metrics file, each with what it holds."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    entries, unreadable = [], 0
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            entries.append((line, {**entry, "step": int(entry["step"]), "split": entry["split"]}))
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            # What follows the last line break is empty, or a line whose writer was stopped.
            unreadable += number < len(lines)
    if unreadable:
        logging.warning("%s: left out %d unreadable lines", path, unreadable)
    return entries


def _drop_after(path: Path, start_step: int) -> None:
    if not path.exists():
        return
    kept = [line for line, entry in _read_entries(path) if entry["step"] <= start_step]
    text = "".join(line + "\n" for line in kept) if start_step else ""
    write_atomically(path, text.encode())


def _jsonable(obj: Any) -> Any:
    if isinstance(obj, Mapping):
        return {_key(key): _jsonable(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [_jsonable(value) for value in obj]
    if isinstance(obj, float | np.floating):
        return float(obj) if math.isfinite(obj) else None
    if isinstance(obj, os.PathLike):
        return os.fspath(obj)
    if hasattr(obj, "__array__") and hasattr(obj, "tolist"):
        return _jsonable(obj.tolist())
    return obj


def _key(key: Any) -> Any:
    return int(key) if isinstance(key, np.integer) else key


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError, AttributeError):
        return 80


def _short(value: float) -> str:
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"


def _duration(seconds: float) -> str:
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
