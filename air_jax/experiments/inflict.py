"""What is done to a run: signals, damaged files, full disks; each goes on with it afterwards."""

import errno
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from air_jax.experiments import processes
from air_jax.experiments.processes import Ended, Process
from air_jax.experiments.trials import CannotBreak, NotHit, Trial

# Longest waits after the step that was drawn, seconds: to the next entry, for what a start and the
# evaluation take, and while a checkpoint is written.
_BETWEEN_ENTRIES, _AT_THE_ENDS, _SAVING = 0.2, 3.0, 0.08
_DISK_BYTES = 64 * 2**20


def signal_anywhere(trial: Trial, *, number: signal.Signals) -> None:
    """A signal at a random moment: after a step that is drawn, and a time."""
    command = trial.setting.command
    step = command.log_every * int(trial.rng.integers(command.num_steps // command.log_every + 1))
    longest = _AT_THE_ENDS if step in (0, command.num_steps) else _BETWEEN_ENTRIES
    with trial.start() as process:
        trial.wait(process, step, longest)
        process.send(number)
        ended = process.end()
    _go_on_after(trial, number, ended)


def signal_saving(trial: Trial, *, number: signal.Signals) -> None:
    """A signal while a checkpoint is written."""
    with trial.start() as process:
        half_written = trial.wait_for_half_written(process)
        process.wait_for(float(trial.rng.uniform(0, _SAVING)))
        was_there = half_written.exists()
        process.send(number)
        ended = process.end()
    # After SIGKILL it stays as it is; after SIGTERM it is completed.
    if not (half_written.exists() if number == signal.SIGKILL else was_there):
        raise NotHit
    _go_on_after(trial, number, ended)


def signal_evaluating(trial: Trial, *, number: signal.Signals) -> None:
    """A signal while the test set is evaluated or figures are drawn."""
    with trial.start() as process:
        process.wait_until(lambda: "evaluating on the test set" in process.text)
        process.wait_for(float(trial.rng.uniform(0, _AT_THE_ENDS)))
        process.send(number)
        ended = process.end()
    _go_on_after(trial, number, ended)
    trial.promise(trial.row["stage"] == "evaluation", "evaluated before the last step was saved")


def kill_one_of_several(trial: Trial) -> None:
    """Of the processes that train together one is killed; their launcher ends the others."""
    with trial.start() as process:
        _draw_a_step(trial, process)
        members = process.members()
        trial.row["killed"] = killed = int(trial.rng.integers(trial.setting.together))
        if len(members) == trial.setting.together:
            os.kill(members[killed], signal.SIGKILL)
        ended = process.end()
    left = [member for member in members if pathlib.Path(f"/proc/{member}").exists()]
    if ended.code == 0:
        raise NotHit
    trial.stopped(ended, tracebacks=True)
    code = 128 + signal.SIGKILL
    trial.promise(ended.code == code, f"ended with {ended.code}, expected {code}")
    trial.promise(not left, f"{len(left)} processes went on without the one that was killed")
    trial.resume()


def _go_on_after(trial: Trial, number: signal.Signals, ended: Ended) -> None:
    if ended.code == 0:
        raise NotHit
    trial.stopped(ended)
    expected = {-number}
    if number == signal.SIGTERM:
        # Before and after training there is nothing to save, and the process just ends.
        saved = 128 + number
        expected = {saved} if trial.row["stage"] == "training" else {-number, saved}
    trial.promise(ended.code in expected, f"ended with {ended.code}, expected one of {expected}")
    trial.resume()


def damage_checkpoint(trial: Trial, *, damage: Callable[..., None]) -> None:
    """A run is killed, and one of the files of its newest checkpoint damaged."""
    _kill_after_two_checkpoints(trial)
    newest = trial.checkpoints / f"{trial.saved():08d}"
    # What counts as lost is what the run would have gone on from.
    trial.row["reached"] = trial.saved()
    members = sorted(path for path in newest.rglob("*") if path.is_file())
    # Every other time the largest: the arrays.
    largest = max(members, key=lambda path: path.stat().st_size)
    file = largest if trial.rng.random() < 0.5 else members[trial.rng.integers(len(members))]
    damage(file, trial.rng)
    trial.row["damaged"] = file.name
    with trial.start() as process:
        ended = process.end()
    # The manifest vouches for the other files: where it is damaged it may name one of them.
    named = newest if file.name == "manifest.json" else file
    trial.refused(ended, str(named), f"Delete the folder {newest}")
    # The remedy, as the message has it.
    told = re.search(r"Delete the folder (.+?):", ended.message)
    if told is not None:
        shutil.rmtree(told[1])
    trial.resume()


def _kill_after_two_checkpoints(trial: Trial) -> None:
    command = trial.setting.command
    first = 2 * command.checkpoint_every // command.log_every + 1
    step = command.log_every * int(
        trial.rng.integers(first, command.num_steps // command.log_every)
    )
    with trial.start() as process:
        trial.wait(process, step, _BETWEEN_ENTRIES)
        process.send(signal.SIGKILL)
        ended = process.end()
    if ended.code == 0:
        raise NotHit
    trial.stopped(ended)


def truncate(file: pathlib.Path, rng: np.random.Generator) -> None:
    """Cuts a file short, by at least one byte."""
    os.truncate(file, int(rng.integers(file.stat().st_size)))


def flip_bit(file: pathlib.Path, rng: np.random.Generator) -> None:
    """Flips one bit of a file."""
    data = bytearray(file.read_bytes())
    bit = int(rng.integers(8 * len(data)))
    data[bit // 8] ^= 1 << (bit % 8)
    file.write_bytes(data)


def _take_caches(trial: Trial) -> None:
    """Gives a trial caches of its own, without what other processes print there."""
    trial.caches = trial.folder / "caches"
    shutil.copytree(
        trial.setting.caches, trial.caches, ignore=shutil.ignore_patterns(processes.OUTPUT + "*")
    )


def cut_scenes_short(trial: Trial) -> None:
    """A run is killed, and the file of its composed scenes cut short."""
    _take_caches(trial)
    _kill_after_two_checkpoints(trial)
    (file,) = trial.caches.rglob("scenes-*.npz")
    size = file.stat().st_size
    truncate(file, trial.rng)
    text = trial.resume()
    trial.promise(f"scenes in {file} are damaged" in text, "the damaged scenes were not noticed")
    trial.promise(file.stat().st_size == size, "the scenes were not cached again")


def cut_programs_short(trial: Trial) -> None:
    """A run is killed, and all files of compiled programs cut short."""
    _take_caches(trial)
    _kill_after_two_checkpoints(trial)
    for file in processes.compiled_programs(trial.caches).iterdir():
        if file.is_file() and file.stat().st_size:
            truncate(file, trial.rng)
    trial.resume()


def fill_disk(trial: Trial, *, while_saving: bool) -> None:
    """The run's disk is filled to the last byte, then room is made."""
    disk = trial.folder / "disk"
    with _small_disk(disk):
        trial.workdir, filler = disk / "run", disk / "filler"
        with trial.start() as process:
            if while_saving:
                # So that the rest is filled at once.
                _fill(filler, leave=_DISK_BYTES // 2)
                trial.wait_for_half_written(process)
            else:
                _draw_a_step(trial, process)
            _fill(filler, leave=0)
            ended = process.end()
        _refused_to_write(trial, ended, errno.ENOSPC)
        filler.unlink()
        trial.resume()


def _refused_to_write(trial: Trial, ended: Ended, code: int) -> None:
    if ended.code == 0:
        raise NotHit
    trial.stopped(ended, tracebacks=True)
    trial.refused(ended, os.strerror(code), str(trial.workdir), "same command")


def _draw_a_step(trial: Trial, process: Process) -> None:
    command = trial.setting.command
    step = command.log_every * int(trial.rng.integers(1, command.num_steps // command.log_every))
    trial.wait(process, step, _BETWEEN_ENTRIES)


@contextmanager
def _small_disk(folder: pathlib.Path) -> Iterator[None]:
    """A file system of its own, in memory.

    Raises:
      CannotBreak: if this user may not mount one.
    """
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or error
        raise CannotBreak(f"no file system can be mounted here: {reason}") from error
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _fill(file: pathlib.Path, *, leave: int) -> None:
    """Writes until the file system has no more than so many bytes left."""
    with open(file, "ab", buffering=0) as filler:
        while (left := shutil.disk_usage(file.parent).free - leave) > 0:
            try:
                filler.write(bytes(left))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                return


def limit_file_size(trial: Trial) -> None:
    """The system refuses files as large as a checkpoint's, as a quota does: EFBIG, not ENOSPC."""
    with trial.start() as process:
        process.wait_until(lambda: trial.saved() > 0)
        newest = trial.checkpoints / f"{trial.saved():08d}"
        largest = max(path.stat().st_size for path in newest.rglob("*") if path.is_file())
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.prlimit(process.number, resource.RLIMIT_FSIZE, (largest // 2, hard))
        ended = process.end()
    _refused_to_write(trial, ended, errno.EFBIG)
    trial.resume()
