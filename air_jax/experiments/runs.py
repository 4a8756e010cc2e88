"""Many ordinary runs: where they are, training those that are left, one or more at a time."""

import argparse
import json
import multiprocessing
import multiprocessing.connection
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from absl import logging

from air_jax import checkpoint, loop, provenance
from air_jax.interruption import Interrupted, Signals
from air_jax.monitor import NonFiniteError
from air_jax.program import finish

# Config entries that may differ from those of a run that is finished.
_LEFT_OPEN = tuple(name for name in loop.RESUMABLE if name != "train.num_steps")

# What --smoke changes in a run: few steps, images and units.
SMOKE: dict[str, Any] = {
    "data.num_train": 64,
    "data.num_validation": 12,
    "data.num_test": 24,
    "inference.hidden_size": 32,
    "inference.embedding_size": 32,
    "prior.steps": 20,
    "train.batch_size": 8,
    "train.num_steps": 20,
    "train.steps_per_call": 10,
    "train.log_every": 10,
    "train.evaluate_every": 20,
    "train.checkpoint_every": 20,
    "train.validation_images": 12,
    "evaluation.iwae_images": 0,
}


class Program(NamedTuple):
    """Seeds that are trained in one program, and where.

    Attributes:
      config: of the run, as plain types.
      folder: its workdir.
      seeds: ascending by one.
    """

    config: dict[str, Any]
    folder: pathlib.Path
    seeds: range

    def folder_of(self, seed: int) -> pathlib.Path:
        """Where a seed leaves its log, model and evaluation."""
        return self.folder if len(self.seeds) == 1 else self.folder / f"seed_{seed}"

    def evaluation(self, seed: int) -> dict[str, Any] | None:
        """What a seed's `evaluation.json` holds; None if it failed or is not finished."""
        file = self.folder_of(seed) / "evaluation.json"
        found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
        return None if found is None or "not_finite_at" in found else found

    def require_evaluation(self, seed: int) -> dict[str, Any]:
        """What a seed's `evaluation.json` holds.

        Raises:
          ValueError: if it failed.
        """
        found = self.evaluation(seed)
        if found is None:
            raise ValueError(
                f"{self.folder_of(seed)}: this run diverged, as its log says, and there is nothing "
                "to compare; lower optimizer.learning_rate, or choose other seeds."
            )
        return found

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return all((self.folder_of(seed) / "evaluation.json").exists() for seed in self.seeds)


def plan(
    config: Mapping[str, Any], folder: pathlib.Path, seeds: range, seeds_per_program: int = 1
) -> list[Program]:
    """Programs for some seeds of a config, in the folders `seeds_FIRST_LAST` or `seeds_N`.

    Args:
      config: of every run but for its seed.
      folder: that holds their workdirs.
      seeds: ascending by one.
      seeds_per_program: how many one program trains together.

    Raises:
      ValueError: if there is no seed.
    """
    if not seeds or seeds_per_program < 1:
        raise ValueError(
            f"seeds {seeds}, {seeds_per_program} a program: there must be at least one of each."
        )
    programs = []
    for first in range(seeds.start, seeds.stop, seeds_per_program):
        group = range(first, min(first + seeds_per_program, seeds.stop))
        name = "_".join(str(seed) for seed in sorted({group[0], group[-1]}))
        of_group = {**config, "seed": first, "num_seeds": len(group)}
        programs.append(Program(of_group, folder / f"seeds_{name}", group))
    return programs


def train(programs: Sequence[Program], num_processes: int = 1) -> None:
    """Trains the programs that are not finished; interrupted ones are resumed.

    Args:
      programs: each is an ordinary run.
      num_processes: programs at a time; more than one only where there is no accelerator, each on
        its share of the cores. A program on one core does more work a second on it than one that
        is spread over several.

    Raises:
      ValueError: if there are fewer cores than processes, a workdir holds a run of another config,
        or a program failed.
      Interrupted: after SIGTERM or SIGINT, once every run has saved its state.
    """
    if num_processes < 1:
        raise ValueError(f"{num_processes} programs at a time: there must be at least one.")
    for program in programs:
        if program.finished:
            provenance.check_config(program.folder, program.config, _LEFT_OPEN)
    waiting = [program for program in programs if not program.finished]
    if num_processes == 1:
        for program in waiting:
            _train(program)
    else:
        _train_beside_each_other(waiting, num_processes)


def _train(program: Program) -> None:
    logging.info("%s", program.folder)
    try:
        loop.run(program.config, str(program.folder))
    except NonFiniteError as error:
        # It has failed, and counts as such.
        logging.warning("seed %d: %s", program.seeds[0], error)


def _train_in_process(program: Program, cores: Sequence[int]) -> None:
    """What a process of its own does, on these cores only."""
    os.sched_setaffinity(0, cores)
    finish(lambda: _train(program))


def _train_beside_each_other(programs: Sequence[Program], num_processes: int) -> None:
    """Keeps `num_processes` processes busy; each has its own share of the cores."""
    cores = sorted(os.sched_getaffinity(0))
    if num_processes > len(cores):
        raise ValueError(f"{num_processes} processes do not fit on {len(cores)} cores.")
    shares = [cores[i::num_processes] for i in range(num_processes)]
    # Not fork: jax has threads by now.
    context = multiprocessing.get_context("spawn")
    waiting, failed = list(programs), []
    running: dict[Any, tuple[Program, list[int]]] = {}
    with Signals() as signals:
        while (waiting and not signals.received) or running:
            while waiting and shares and not signals.received:
                program, share = waiting.pop(0), shares.pop()
                process = context.Process(target=_train_in_process, args=(program, share))
                process.start()
                running[process] = program, share
            multiprocessing.connection.wait([process.sentinel for process in running], timeout=1.0)
            for process in list(running):
                if signals.received and process.is_alive():
                    process.terminate()  # SIGTERM: it saves its state
                if process.exitcode is not None:
                    program, share = running.pop(process)
                    shares.append(share)
                    if process.exitcode:
                        failed.append(program.folder)
        if signals.received:
            raise Interrupted(signals.received, max(map(_step, programs), default=0))
    if failed:
        raise ValueError(f"these did not end as they should: {', '.join(map(str, failed))}")


def _step(program: Program) -> int:
    return checkpoint.latest_step(program.folder / "checkpoints") or 0


def seed_range(text: str) -> range:
    """`FIRST:STOP` or a single seed, as an option's type."""
    first, _, stop = text.partition(":")
    return range(int(first), int(stop) if stop else int(first) + 1)


def add_options(parser: argparse.ArgumentParser, *, seeds: str) -> None:
    """Adds `--seeds` and `--processes`, which `plan` and `train` take.

    Args:
      parser: an experiment's.
      seeds: the default, FIRST:STOP.
    """
    parser.add_argument(
        "--seeds", type=seed_range, default=seeds, help=f"FIRST:STOP, or one seed; default {seeds}"
    )
    parser.add_argument(
        "--processes", type=int, default=1, help="programs at a time, on a CPU one for each core"
    )
