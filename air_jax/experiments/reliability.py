"""How often a configuration learns: many seeds, none left out (paper, figure 3).

    python -m air_jax.experiments.reliability --config=configs/air.py --workdir=runs/reliability \
        --seeds=100:120

Every seed is an ordinary run in a folder inside the workdir; the same command resumes those that
were interrupted and skips those that are finished. The workdir gets

    reliability.json      the share of seeds that reached 98 % on the test set with its Wilson
                          interval, mean and deviation over all seeds, steps and seconds to 95 % and
                          98 % on the validation set; the scan policy of the first three seeds
    table.md              the same as a table
    learning_curves.png   count accuracy of every seed on the validation set
    scan_policy.png       where the first three seeds look at each step (paper, figure 3, right)
    mutual_information.png what the object attended first tells of its position, class and size
"""

import argparse
import json
import multiprocessing
import multiprocessing.connection
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from air_jax import (
    checkpoint,
    figures,
    figures_runs,
    kinds,
    loop,
    provenance,
    reliability,
    scan_policy,
    writer,
)
from air_jax.data.dataset import create_dataset
from air_jax.experiments import arguments
from air_jax.interruption import Interrupted, Signals
from air_jax.monitor import NonFiniteError
from air_jax.program import finish

# Seeds whose scan policy is shown, as in the paper's figure.
_NUM_POLICIES = 3


class _Program(NamedTuple):
    """Seeds that are trained in one program, and where."""

    config: dict[str, Any]
    folder: pathlib.Path
    seeds: range

    def folder_of(self, seed: int) -> pathlib.Path:
        """Where a seed leaves its log, model and evaluation."""
        return self.folder if len(self.seeds) == 1 else self.folder / f"seed_{seed}"

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return all((self.folder_of(seed) / "evaluation.json").exists() for seed in self.seeds)


def run(
    config: Mapping[str, Any],
    workdir: str,
    *,
    seeds: range,
    seeds_per_program: int,
    num_processes: int,
) -> dict[str, Any]:
    """Trains every seed that is not finished yet and sums all of them up.

    Args:
      config: of every run but for its seed.
      workdir: folder of the experiment.
      seeds: to be run, ascending by one.
      seeds_per_program: how many of them one program trains together.
      num_processes: programs at a time; more than one only where there is no accelerator, each on
        its share of the cores. A program on one core does more work a second on it than one that
        is spread over several.

    Returns:
      What `reliability.json` holds.

    Raises:
      ValueError: if a number is not positive, the model does not count, the workdir holds runs of
        another config, or a program failed.
      Interrupted: after SIGTERM or SIGINT, once every run has saved its state.
    """
    kinds.require(config, "air")
    if not seeds or min(seeds_per_program, num_processes) < 1:
        raise ValueError(
            f"seeds {seeds}, {seeds_per_program} a program, {num_processes} at a time: there must "
            "be at least one of each."
        )
    programs = []
    for first in range(seeds.start, seeds.stop, seeds_per_program):
        group = range(first, min(first + seeds_per_program, seeds.stop))
        of_group = {**config, "seed": first, "num_seeds": len(group)}
        name = "_".join(str(seed) for seed in sorted({group[0], group[-1]}))
        programs.append(_Program(of_group, pathlib.Path(workdir) / f"seeds_{name}", group))
    waiting = [program for program in programs if not program.finished]
    if num_processes == 1:
        for program in waiting:
            _train(program)
    else:
        _train_beside_each_other(waiting, num_processes)
    return _sum_up(programs, config, pathlib.Path(workdir))


def _train(program: _Program) -> None:
    logging.info("%s", program.folder)
    try:
        loop.run(program.config, str(program.folder))
    except NonFiniteError as error:
        # It has failed, and counts as such.
        logging.warning("seed %d: %s", program.seeds[0], error)


def _train_in_process(program: _Program, cores: Sequence[int]) -> None:
    """What a process of its own does, on these cores only."""
    os.sched_setaffinity(0, cores)
    finish(lambda: _train(program))


def _train_beside_each_other(programs: Sequence[_Program], num_processes: int) -> None:
    """Keeps `num_processes` processes busy; each has its own share of the cores."""
    cores = sorted(os.sched_getaffinity(0))
    if num_processes > len(cores):
        raise ValueError(f"{num_processes} processes do not fit on {len(cores)} cores.")
    shares = [cores[i::num_processes] for i in range(num_processes)]
    # Not fork: jax has threads by now.
    context = multiprocessing.get_context("spawn")
    waiting, failed = list(programs), []
    running: dict[Any, tuple[_Program, list[int]]] = {}
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


def _step(program: _Program) -> int:
    return checkpoint.latest_step(program.folder / "checkpoints") or 0


def _sum_up(
    programs: Sequence[_Program], config: Mapping[str, Any], workdir: pathlib.Path
) -> dict[str, Any]:
    """Reads what the runs left; writes the results and draws the figures."""
    folders = {seed: program.folder_of(seed) for program in programs for seed in program.seeds}
    runs = {}
    for seed, folder in folders.items():
        file = folder / "evaluation.json"
        evaluation = json.loads(file.read_text()) if file.exists() else None
        if evaluation is not None and "not_finite_at" in evaluation:
            evaluation = None
        runs[seed] = reliability.SeedRun(writer.read_scalars(folder, "validation"), evaluation)
    summary = reliability.reliability(runs)
    results = {
        "config": dict(config),
        **provenance.surroundings(),
        "summary": summary,
        "scan_policy": _draw(runs, folders, summary, config, workdir),
    }
    writer.write_json(workdir / "reliability.json", results)
    name = f"{config['inference']['variant'].upper()}, {config['estimator']}"
    table = reliability.table({name: summary})
    (workdir / "table.md").write_text(table, encoding="utf-8")
    logging.info("%d seeds, results in %s\n%s", len(runs), workdir, table)
    return results


def _draw(
    runs: Mapping[int, reliability.SeedRun],
    folders: Mapping[int, pathlib.Path],
    summary: Mapping[str, Any],
    config: Mapping[str, Any],
    workdir: pathlib.Path,
) -> dict[str, Any]:
    """Draws all figures; returns the statistics of the scan policies."""
    steps = sorted({entry["step"] for run in runs.values() for entry in run.validation})
    curves = np.full((len(runs), len(steps)), np.nan)
    for row, run in enumerate(runs.values()):
        for entry in run.validation:
            curves[row, steps.index(entry["step"])] = entry["count_accuracy"]
    accuracies = {seed: summary["seeds"][str(seed)]["count_accuracy"] for seed in runs}
    if steps:
        figure = figures_runs.learning_curves(
            steps, curves, seeds=list(runs), final=list(accuracies.values())
        )
        figures.save(figure, workdir / "learning_curves.png")

    shown = [seed for seed, run in runs.items() if run.evaluation is not None][:_NUM_POLICIES]
    if not shown:
        return {}
    scenes = create_dataset(**config["data"]).validation
    policies, z_where, z_pres = {}, [], []
    for seed in shown:
        objects = kinds.load_air(folders[seed]).infer(scenes.images)
        z_where.append(objects.z_where)
        z_pres.append(np.arange(objects.z_where.shape[1]) < objects.counts[:, None])
        policies[seed] = scan_policy.scan_policy(
            objects.boxes,
            objects.counts,
            scenes.boxes,
            scenes.labels,
            scenes.counts,
            image_size=scenes.images.shape[1],
        )
    figure = figures_runs.scan_policies(
        np.stack(z_where),
        np.stack(z_pres),
        scenes.images.shape[1],
        seeds=shown,
        accuracies=[accuracies[seed] for seed in shown],
    )
    figures.save(figure, workdir / "scan_policy.png")
    measured = [seed for seed in shown if policies[seed]["num_scenes"]]
    if measured:
        features = list(policies[measured[0]]["features"])
        fractions, null = (
            [[policies[seed]["features"][name][what] for name in features] for seed in measured]
            for what in ("fraction", "null_95")
        )
        figure = figures_runs.mutual_information(features, fractions, null, seeds=measured)
        figures.save(figure, workdir / "mutual_information.png")
    return {str(seed): policy for seed, policy in policies.items()}


def _seed_range(text: str) -> range:
    first, _, stop = text.partition(":")
    return range(int(first), int(stop) if stop else int(first) + 1)


def add_options(parser: argparse.ArgumentParser, *, seeds: str) -> None:
    """Adds the arguments that become `run`'s keyword arguments, see `options`.

    Args:
      parser: an experiment's.
      seeds: the default, FIRST:STOP.
    """
    parser.add_argument(
        "--seeds", type=_seed_range, default=seeds, help=f"FIRST:STOP, default {seeds}"
    )
    parser.add_argument(
        "--seeds-per-program", type=int, default=1, help="trained together; on an accelerator 20"
    )
    parser.add_argument(
        "--processes", type=int, default=1, help="programs at a time, on a CPU one for each core"
    )
    parser.add_argument("--smoke", action="store_true", help="two seeds, whatever --seeds says")


def options(given: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of `run` from the parsed arguments of `add_options`."""
    return {
        "seeds": range(2) if given.smoke else given.seeds,
        "seeds_per_program": given.seeds_per_program,
        "num_processes": given.processes,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m air_jax.experiments.reliability",
        description="Trains a config with many seeds and says how often it learns.",
    )
    add_options(parser, seeds="100:120")
    given, config = arguments.parse(parser, argv)
    finish(lambda: run(config, given.workdir, **options(given)))


if __name__ == "__main__":
    main()
