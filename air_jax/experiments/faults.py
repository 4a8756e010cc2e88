"""Breaks training processes in every way that is known, resumes them and looks at what is left.

    python -m air_jax.experiments.faults --workdir=runs/faults

Starts real `python -m air_jax.main` processes, tiny ones on a CPU, and does to each what `FAULTS`
lists. The same command then goes on with the run to its end. What is promised, and
looked at in every trial:

    a SIGTERM while it trains loses nothing, any other end no more than one checkpoint interval
    what a fault leaves is complete or is refused; nothing damaged is loaded
    a refusal names the file and what to do; having done it, the same command goes on
    the end is that of an uninterrupted run, bit for bit: parameters and optimizer, the exported
    model, scalars (but for the mean that was being taken), evaluation

The workdir gets

    faults.json    every trial: moment, how the process ended, what it said, steps lost, and
                   `broken`, the promises that were not kept
    faults.csv     one line for a trial
    table.md       one line for a fault
    trials/        the runs of trials that broke a promise; others are removed

The exit code is 1 if a promise was broken. The same command again tries what is left, or, with
more `--kills`, what is new.
"""

import argparse
import json
import pathlib
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from air_jax import files, program, provenance, tables, writer
from air_jax import main as main_program
from air_jax.experiments import ablation, faults_report, inflict, processes
from air_jax.experiments.processes import Command, Process
from air_jax.experiments.trials import CannotBreak, NotHit, Setting, Trial

# A run of some seconds with short intervals, so that moments of every kind are hit. Scalars are
# logged more rarely than a signal may stop the run.
TINY: ablation.Changes = {
    "estimator": "nvil",
    "prior.steps": 120,
    "inference.num_steps": 1,
    "data.num_train": 64,
    "data.num_validation": 16,
    "data.num_test": 24,
    "train.batch_size": 8,
    "train.num_steps": 400,
    "train.steps_per_call": 10,
    "train.log_every": 20,
    "train.evaluate_every": 100,
    "train.checkpoint_every": 40,
    "train.validation_images": 16,
    "evaluation.iwae_images": 0,
}
# What --smoke changes besides.
SMOKE: ablation.Changes = {
    "train.num_steps": 120,
    "train.evaluate_every": 120,
}
_MAX_DRAWS = 5
_CONFIG = "configs/smoke.py"


class Fault(NamedTuple):
    """Something that happens to a run.

    Attributes:
      text: what it is, for the table.
      share: of `--kills`, how often it is tried.
      inflict: breaks a run, goes on with it, and notes what it sees in the trial.
      options: of `inflict`.
      together: processes that train together.
    """

    text: str
    share: float
    inflict: Callable[..., None]
    options: Mapping[str, Any]
    together: int = 1


def create_command(changes: ablation.Changes) -> Command:
    """The tiny run of embedded digits that is broken.

    Args:
      changes: to `TINY`.
    """
    overrides = [f"--config.{name}={value}" for name, value in {**TINY, **changes}.items()]
    given = (f"--config={_CONFIG}", *overrides)
    return Command(given, main_program.read_config(list(given)))


_TERM, _KILL = {"number": signal.SIGTERM}, {"number": signal.SIGKILL}
FAULTS = {
    "sigterm": Fault("SIGTERM at a random moment", 1, inflict.signal_anywhere, _TERM),
    "sigkill": Fault("SIGKILL at a random moment", 1, inflict.signal_anywhere, _KILL),
    "sigterm_saving": Fault("SIGTERM during a checkpoint", 0.2, inflict.signal_saving, _TERM),
    "sigkill_saving": Fault("SIGKILL during a checkpoint", 0.2, inflict.signal_saving, _KILL),
    "sigterm_evaluating": Fault(
        "SIGTERM during the evaluation", 0.1, inflict.signal_evaluating, _TERM
    ),
    "sigkill_evaluating": Fault(
        "SIGKILL during the evaluation", 0.1, inflict.signal_evaluating, _KILL
    ),
    "disk_full": Fault(
        "disk full at a random moment", 0.1, inflict.fill_disk, {"while_saving": False}
    ),
    "disk_full_saving": Fault(
        "disk full during a checkpoint", 0.1, inflict.fill_disk, {"while_saving": True}
    ),
    "file_size": Fault(
        "files of a checkpoint's size refused (EFBIG)", 0.05, inflict.limit_file_size, {}
    ),
    "checkpoint_truncated": Fault(
        "checkpoint cut short", 0.2, inflict.damage_checkpoint, {"damage": inflict.truncate}
    ),
    "checkpoint_flipped": Fault(
        "a bit of a checkpoint flipped",
        *(0.2, inflict.damage_checkpoint, {"damage": inflict.flip_bit}),
    ),
    "scenes_truncated": Fault("cached scenes cut short", 0.05, inflict.cut_scenes_short, {}),
    "programs_truncated": Fault(
        "compiled programs cut short", 0.05, inflict.cut_programs_short, {}
    ),
    "process_killed": Fault(
        "one of two processes that train together killed",
        *(0.2, inflict.kill_one_of_several, {}),
        together=2,
    ),
}
SMOKE_FAULTS = ("sigterm", "sigkill")


def run(
    command: Command,
    workdir: str,
    *,
    seed: int = 0,
    kills: int = 20,
    num_processes: int = 1,
    only: Sequence[str] = tuple(FAULTS),
) -> dict[str, Any]:
    """Tries every fault.

    Args:
      command: what the processes train.
      workdir: folder of the experiment.
      seed: of everything that is drawn.
      kills: trials of a signal at random moments; of other faults a share, at least one.
      num_processes: trials at a time.
      only: names of `FAULTS`.

    Returns:
      What `faults.json` holds, but for the summary.

    Raises:
      ValueError: if there is to be no kill, a run does not end without a fault, or a promise was
        broken; the results are written before.
    """
    if kills < 1:
        raise ValueError(f"--kills is {kills}; it must be at least 1.")
    target = pathlib.Path(workdir).absolute()
    results = {
        **provenance.surroundings(),
        "command": list(command.arguments),
        "seed": seed,
        "checkpoint_every": command.checkpoint_every,
        "num_steps": command.num_steps,
        "texts": {name: fault.text for name, fault in FAULTS.items()},
    }
    rows = _earlier(target, results)
    counts = {name: max(1, round(FAULTS[name].share * kills)) for name in only}
    planned = [(name, number) for name, count in counts.items() for number in range(count)]
    # All faults advance together, so that also what is interrupted has seen each.
    planned.sort(key=lambda trial: trial[1] / counts[trial[0]])
    waiting = [trial for trial in planned if trial not in rows]
    if waiting:
        together = {FAULTS[name].together for name, _ in waiting}
        settings = {number: _uninterrupted(command, target, number) for number in together}
        for (name, number), row in _try_all(settings, waiting, seed, target, num_processes):
            rows[name, number] = {"fault": name, "trial": number, **row}
            logging.info("%s", faults_report.sentence(rows[name, number]))
            _write(target, {**results, "trials": _sorted(rows)})
    broken = [row for row in rows.values() if row.get("broken")]
    if broken:
        raise ValueError(
            f"{len(broken)} of {len(rows)} trials broke a promise; see `broken` in "
            f"{target / 'faults.json'} and the runs in {target / 'trials'}."
        )
    logging.info("results in %s\n%s", target, (target / "table.md").read_text(encoding="utf-8"))
    return {**results, "trials": _sorted(rows)}


def _earlier(target: pathlib.Path, results: Mapping[str, Any]) -> dict[tuple[str, int], Any]:
    """The trials that an earlier start of the same command and code has finished."""
    file = target / "faults.json"
    if not file.exists():
        return {}
    found = json.loads(file.read_text(encoding="utf-8"))
    alike = all(found.get(name) == results[name] for name in ("command", "seed", "commit"))
    # Of code that was changed and not committed nobody knows whether it is the same.
    if not alike or results["commit"] is None or results["commit"].endswith("-dirty"):
        return {}
    kept = [row for row in found["trials"] if row["fault"] in FAULTS and not row.get("broken")]
    return {(row["fault"], row["trial"]): row for row in kept}


def _sorted(rows: Mapping[tuple[str, int], Any]) -> list[dict[str, Any]]:
    """Rows in the order of `FAULTS`."""
    names = list(FAULTS)
    return [rows[key] for key in sorted(rows, key=lambda key: (names.index(key[0]), key[1]))]


def _uninterrupted(command: Command, target: pathlib.Path, together: int) -> Setting:
    """Runs once without a fault, anew, in so many processes: the reference."""
    reference, caches = target / f"uninterrupted_{together}", target / "caches"
    shutil.rmtree(reference, ignore_errors=True)
    with Process(command, reference, caches, together) as process:
        ended = process.end()
    if ended.code != 0:
        raise ValueError(
            f"{reference}: a run without a fault ended with {ended.code}: {ended.text}"
        )
    template = command.template()
    left = processes.read_left(reference, template)
    return Setting(command, caches, template, left, together)


def _try_all(
    settings: Mapping[int, Setting],
    waiting: Sequence[tuple[str, int]],
    seed: int,
    target: pathlib.Path,
    num_processes: int,
) -> Iterator[tuple[tuple[str, int], dict[str, Any]]]:
    """Tries what is waiting, some at a time; yields each with what was seen as it is done."""
    # Threads will do: the work is done by the processes that they wait for.
    pool = futures.ThreadPoolExecutor(num_processes)
    try:
        tried = {
            pool.submit(
                _try,
                settings[FAULTS[trial[0]].together],
                *trial,
                seed,
                target / "trials" / "{}_{}".format(*trial),
            ): trial
            for trial in waiting
        }
        for done in futures.as_completed(tried):
            yield tried[done], done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _try(
    setting: Setting, name: str, number: int, seed: int, folder: pathlib.Path
) -> dict[str, Any]:
    """One trial of a fault, drawn again where the run was over before."""
    for draw in range(_MAX_DRAWS):
        shutil.rmtree(folder, ignore_errors=True)
        rng = np.random.default_rng([seed, list(FAULTS).index(name), number, draw])
        trial = Trial(setting, folder, rng)
        try:
            FAULTS[name].inflict(trial, **FAULTS[name].options)
        except NotHit:
            continue
        except CannotBreak as error:
            return {"skipped": str(error)}
        if not trial.row["broken"]:
            shutil.rmtree(folder)
        return {"draws": draw + 1, **trial.row}
    return {"broken": [f"the moment was missed {_MAX_DRAWS} times"]}


def _write(target: pathlib.Path, results: dict[str, Any]) -> None:
    results["summary"] = faults_report.summarise(results["trials"])
    writer.write_json(target / "faults.json", results)
    lines = [faults_report.line(row) for row in results["trials"]]
    files.write_atomically(target / "faults.csv", tables.to_csv(lines).encode())
    text = faults_report.table(results)
    files.write_atomically(target / "table.md", text.encode())


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m air_jax.experiments.faults",
        description="Breaks training processes, resumes them and looks at what is left.",
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    parser.add_argument("--kills", type=int, default=20, help="of each signal; default 20")
    parser.add_argument("--processes", type=int, default=1, help="trials at a time; default 1")
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=list(FAULTS), metavar="FAULT")
    parser.add_argument("--smoke", action="store_true", help="a try: one SIGTERM and one SIGKILL")
    parser.add_argument("--workdir", required=True, help="folder of the experiment")
    given = parser.parse_args(argv)
    options = {"seed": given.seed, "kills": given.kills, "only": given.only}
    options |= {"num_processes": given.processes}
    if given.smoke:
        options |= {"kills": 1, "only": SMOKE_FAULTS}
    command = create_command(SMOKE if given.smoke else {})
    program.finish(lambda: run(command, given.workdir, **options))


if __name__ == "__main__":
    main()
