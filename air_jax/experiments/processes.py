"""Training processes seen from outside: started, watched, stopped; what they left, and compared."""

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from air_jax import checkpoint, export, kinds, writer

# Far more than any of these takes: what still runs then hangs.
PATIENCE = 600.0
OUTPUT = "output_"  # how the files begin that hold what processes print
_TIMED = ("seconds", "steps_per_second")
_STAMP = re.compile(r"^\d\d:\d\d:\d\d ", re.MULTILINE)


class Command(NamedTuple):
    """What every process trains.

    Attributes:
      arguments: of `air_jax.main`, without the workdir.
      config: what they say, as plain types.
    """

    arguments: tuple[str, ...]
    config: dict[str, Any]

    @property
    def num_steps(self) -> int:
        return self.config["train"]["num_steps"]

    @property
    def log_every(self) -> int:
        return self.config["train"]["log_every"]

    @property
    def checkpoint_every(self) -> int:
        return self.config["train"]["checkpoint_every"]

    def template(self) -> Any:
        """Structure, shapes and types of the state of digits' scenes."""
        image = {"image_size": self.config["data"]["image_size"], "channels": 1}
        training = kinds.create_training(self.config, **image, freeze_non_finite=False)
        return jax.eval_shape(training.init, jax.random.key(0))


class Ended(NamedTuple):
    """How a process ended.

    Attributes:
      code: of its exit; -9 if signal 9 ended it, None if it hung and was killed.
      text: all that it printed.
    """

    code: int | None
    text: str

    @property
    def message(self) -> str:
        """The last message that it logged, of which the first line."""
        return _STAMP.split(self.text)[-1].partition("\n")[0].strip()

    @property
    def resumed_from(self) -> int:
        """The step where this process went on, 0 for a start from nothing."""
        found = re.search(r"resuming from step (\d+)", self.text)
        return int(found[1]) if found else 0


class Process:
    """A training process; one that still runs where the block ends is killed.

    Args:
      command: what it trains.
      workdir: of the run.
      caches: folder of what processes may share: composed scenes and compiled programs.
      together: of 2 or more, this process is the launcher of so many that train together.
    """

    def __init__(
        self, command: Command, workdir: pathlib.Path, caches: pathlib.Path, together: int = 1
    ):
        self._workdir = workdir
        caches.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=OUTPUT, dir=caches)
        self._output = pathlib.Path(name)
        environment = {
            **os.environ,
            # On a CPU a resumed run repeats an uninterrupted one bit for bit.
            "JAX_PLATFORMS": "cpu",
            "XDG_CACHE_HOME": str(caches),
            "JAX_COMPILATION_CACHE_DIR": str(compiled_programs(caches)),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        config, *overrides = command.arguments
        arguments = [sys.executable, "-m", "air_jax.main", config, *overrides]
        arguments += [f"--workdir={workdir}"]
        if together > 1:
            arguments = ["launch/local_processes.sh", *overrides]
            environment |= {"CONFIG": config.removeprefix("--config="), "WORKDIR": str(workdir)}
            environment |= {"NUM_PROCESSES": str(together), "NUM_DEVICES": "1"}
            environment["PYTHON"] = sys.executable
        with open(descriptor, "wb") as output:
            self._process = subprocess.Popen(
                arguments,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()
        self._output.unlink(missing_ok=True)

    @property
    def number(self) -> int:
        """Its process number."""
        return self._process.pid

    def members(self) -> list[int]:
        """Process numbers of those that train together, where this one is their launcher."""
        children = pathlib.Path(f"/proc/{self.number}/task/{self.number}/children")
        try:
            return [int(number) for number in children.read_text().split()]
        except OSError:
            return []

    @property
    def text(self) -> str:
        """What it has printed so far."""
        return self._output.read_text(encoding="utf-8", errors="replace")

    def wait_until(self, condition: Callable[[], bool], *, every: float = 0.005) -> bool:
        """Waits for something to happen; False if the process ended before, or nothing happened."""
        until = time.monotonic() + PATIENCE
        while not condition():
            if self._process.poll() is not None or time.monotonic() > until:
                return False
            time.sleep(every)
        return True

    def wait_for(self, seconds: float) -> None:
        """Waits for some time, or until the process has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def send(self, number: signal.Signals) -> None:
        """Sends a signal."""
        self._process.send_signal(number)

    def end(self) -> Ended:
        """Waits for its end; one that hangs is killed."""
        try:
            code: int | None = self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._kill()
            code = None
        return Ended(code, self.text)

    def _kill(self) -> None:
        members = self.members()
        self._process.kill()
        self._process.wait()
        for member in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)


def compiled_programs(caches: pathlib.Path) -> pathlib.Path:
    """Where processes keep what they compiled."""
    return caches / "compiled"


def logged_step(workdir: pathlib.Path) -> int:
    """The last step that a run has logged, 0 for none."""
    return max((entry["step"] for entry in writer.read_scalars(workdir, "train")), default=0)


class Left(NamedTuple):
    """What a finished run left, without anything that depends on the time.

    Attributes:
      state: leaf to array, of the last checkpoint: parameters, optimizer, moments.
      scalars: (step, split) to entry.
      evaluation: of the test set.
      model: leaf to array, of the exported model.
    """

    state: dict[str, np.ndarray]
    scalars: dict[tuple[int, str], dict[str, Any]]
    evaluation: dict[str, Any]
    model: dict[str, np.ndarray]


def read_left(workdir: pathlib.Path, template: Any) -> Left:
    """Reads what a finished run left.

    Args:
      workdir: of the run.
      template: of its state.

    Raises:
      CheckpointError: if checkpoint or model is missing or damaged.
      OSError: if there is no evaluation.
    """
    state = checkpoint.restore(workdir / "checkpoints", template)
    evaluation = json.loads((workdir / "evaluation.json").read_text(encoding="utf-8"))
    return Left(
        _leaves(state),
        {
            (entry["step"], entry["split"]): _timeless(entry)
            for entry in writer.read_scalars(workdir)
        },
        _timeless(evaluation),
        _leaves(export.load_model(workdir)[0]),
    )


def differences(
    found: Left, expected: Left, *, resumed_from: Sequence[int], log_every: int
) -> list[str]:
    """Where a run is not the uninterrupted one, bit for bit; nothing if it is.

    Args:
      found: by the run that was stopped.
      expected: by the uninterrupted one.
      resumed_from: steps at which it went on. The mean that was being taken there is allowed to
        differ: it begins at the step where the run went on.
      log_every: steps between entries of training scalars.
    """
    partial = {step - step % log_every + log_every for step in resumed_from if step % log_every}
    different = [f"state, {name}" for name in _different(found.state, expected.state)]
    different += [f"model, {name}" for name in _different(found.model, expected.model)]
    for key in sorted(found.scalars.keys() | expected.scalars.keys()):
        both = found.scalars.get(key), expected.scalars.get(key)
        there = None not in both
        if there and key[1] == "train" and key[0] in partial:
            continue
        # As text, so that what is not a number equals itself.
        if not there or len({json.dumps(entry, sort_keys=True) for entry in both}) > 1:
            different.append(f"metrics.jsonl, {key[1]} entry of step {key[0]}")
    if json.dumps(found.evaluation) != json.dumps(expected.evaluation):
        different.append("evaluation.json")
    return different


def _leaves(tree: Any) -> dict[str, np.ndarray]:
    paths_and_leaves, _ = jax.tree.flatten_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in paths_and_leaves}


def _timeless(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name not in _TIMED}


def _different(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> list[str]:
    """Names of the leaves that are not the same bits."""

    def bits(tree: Mapping[str, np.ndarray], name: str) -> Any:
        return name in tree and (tree[name].shape, tree[name].dtype, tree[name].tobytes())

    names = sorted(found.keys() | expected.keys())
    return [name for name in names if bits(found, name) != bits(expected, name)]
