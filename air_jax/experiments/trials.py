"""One run that is broken and goes on: what is seen of it, and which promises it did not keep."""

import pathlib
import re
import signal
from typing import Any, NamedTuple

import numpy as np

from air_jax import checkpoint
from air_jax.experiments import processes
from air_jax.experiments.processes import Command, Ended, Left, Process

_TOLD = re.compile(
    r"stopped by SIGTERM at step (\d+), checkpoint written; the same command resumes"
)
_SHOWN = 2_000  # characters of what a process printed


class NotHit(Exception):
    """The process went on past the moment that was meant: it is to be drawn again."""


class CannotBreak(Exception):
    """This machine does not allow the fault: says why."""


class Setting(NamedTuple):
    """What all trials share.

    Attributes:
      command: what is trained.
      caches: composed scenes and compiled programs.
      template: of the state.
      reference: what an uninterrupted run left.
      together: processes that train together.
    """

    command: Command
    caches: pathlib.Path
    template: Any
    reference: Left
    together: int = 1


class Trial:
    """A run to be broken.

    Args:
      setting: what all trials share.
      folder: of this trial.
      rng: for everything that is drawn.

    Attributes:
      workdir: of the run.
      caches: the setting's, unless the fault is done to them.
      row: what was seen, JSON-able; `broken` lists promises that were not kept.
    """

    def __init__(self, setting: Setting, folder: pathlib.Path, rng: np.random.Generator):
        self.setting, self.folder, self.rng = setting, folder, rng
        self.workdir, self.caches = folder / "run", setting.caches
        self.row: dict[str, Any] = {"exit": None, "reached": 0, "refusals": [], "broken": []}
        self._resumed: list[int] = []

    @property
    def checkpoints(self) -> pathlib.Path:
        """Folder of the run's checkpoints."""
        return self.workdir / "checkpoints"

    def saved(self) -> int:
        """The step of the newest complete checkpoint, 0 for none."""
        return checkpoint.latest_step(self.checkpoints) or 0

    def promise(self, kept: bool, broken: str) -> None:
        """Notes a promise, in the words for its not being kept."""
        if not kept:
            self.row["broken"].append(broken)

    def start(self) -> Process:
        """Starts the run or goes on with it."""
        setting = self.setting
        return Process(setting.command, self.workdir, self.caches, setting.together)

    def wait(self, process: Process, step: int, longest: float) -> None:
        """Waits until a step is logged, and then for a random time up to `longest` seconds."""
        process.wait_until(lambda: processes.logged_step(self.workdir) >= step)
        delay = float(self.rng.uniform(0, longest))
        self.row |= {"step_drawn": step, "seconds_drawn": round(delay, 4)}
        process.wait_for(delay)

    def wait_for_half_written(self, process: Process) -> pathlib.Path:
        """Waits for a checkpoint that is being written, never the first; returns its folder.

        Raises:
          NotHit: if the run ended.
        """
        command = self.setting.command
        number = int(self.rng.integers(2, command.num_steps // command.checkpoint_every + 1))
        step = number * command.checkpoint_every
        self.row["step_drawn"] = step
        half_written = self.checkpoints / f"{step:08d}.tmp"
        if not process.wait_until(half_written.exists, every=0.001):
            raise NotHit
        return half_written

    def stopped(self, ended: Ended, *, tracebacks: bool = False) -> None:
        """Notes how the broken process ended, and looks at what it left.

        Args:
          ended: how.
          tracebacks: whether any are allowed: orbax's threads print some where a write fails.
        """
        saved, command = self.saved(), self.setting.command
        told = _TOLD.search(ended.text)
        reached = max(processes.logged_step(self.workdir), saved, int(told[1]) if told else 0)
        stage = "evaluation" if saved == command.num_steps else "training" if reached else "start"
        self.row |= {"exit": ended.code, "stage": stage, "reached": reached, "saved": saved}
        self._check(ended, tracebacks)
        if told:
            self.promise(saved == int(told[1]), f"told of step {told[1]}, saved is {saved}")
        if saved:
            try:
                checkpoint.restore(self.checkpoints, self.setting.template, saved)
            except checkpoint.CheckpointError as error:
                self.promise(False, f"a checkpoint that passes for complete is damaged: {error}")

    def refused(self, ended: Ended, *needed: str) -> None:
        """Notes a refusal: exit code 1 and a sentence with what is needed in it."""
        message = ended.message
        self.row["refusals"].append(message.replace(str(self.folder), "TRIAL"))
        self.promise(ended.code == 1, f"a refusal ended with {ended.code}, not with 1")
        for text in needed:
            self.promise(text in message, f"the refusal does not say {text!r}: {message}")

    def resume(self) -> str:
        """Goes on to the end and compares it with the reference.

        Returns:
          What the process printed.
        """
        with self.start() as process:
            ended = process.end()
        self._resumed.append(ended.resumed_from)
        lost = max(0, self.row["reached"] - ended.resumed_from)
        self.row |= {"resumed_from": ended.resumed_from, "lost": lost}
        self._check(ended)
        # What a process told to have saved is there; else a checkpoint interval may be lost.
        told = self.row["exit"] == 128 + signal.SIGTERM
        allowed = 0 if told else self.setting.command.checkpoint_every
        self.promise(lost <= allowed, f"{lost} steps lost, more than {allowed}")
        if ended.code != 0:
            self.promise(False, f"did not go on, {ended.code}: {ended.text[-_SHOWN:]}")
            return ended.text
        different = processes.differences(
            processes.read_left(self.workdir, self.setting.template),
            self.setting.reference,
            resumed_from=self._resumed,
            log_every=self.setting.command.log_every,
        )
        self.row["equal"] = not different
        self.promise(not different, f"not the uninterrupted run: {', '.join(different)}")
        return ended.text

    def _check(self, ended: Ended, tracebacks: bool = False) -> None:
        self.promise(ended.code is not None, f"hung: {ended.text[-_SHOWN:]}")
        clean = tracebacks or "Traceback" not in ended.text
        self.promise(clean, f"a traceback: {ended.text[-_SHOWN:]}")
