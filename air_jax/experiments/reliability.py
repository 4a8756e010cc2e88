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
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from air_jax import figures, figures_runs, kinds, provenance, reliability, scan_policy, writer
from air_jax.data.dataset import create_dataset
from air_jax.experiments import arguments, runs
from air_jax.program import finish

# Seeds whose scan policy is shown, as in the paper's figure.
_NUM_POLICIES = 3


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
      num_processes: programs at a time, see `runs.train`.

    Returns:
      What `reliability.json` holds.

    Raises:
      ValueError: if a number is not positive, the model does not count, the workdir holds runs of
        another config, or a program failed.
      Interrupted: after SIGTERM or SIGINT, once every run has saved its state.
    """
    kinds.require(config, "air")
    programs = runs.plan(config, pathlib.Path(workdir), seeds, seeds_per_program)
    runs.train(programs, num_processes)
    return _sum_up(programs, config, pathlib.Path(workdir))


def _sum_up(
    programs: Sequence[runs.Program], config: Mapping[str, Any], workdir: pathlib.Path
) -> dict[str, Any]:
    """Reads what the runs left; writes the results and draws the figures."""
    folders = {seed: program.folder_of(seed) for program in programs for seed in program.seeds}
    found = {
        seed: reliability.SeedRun(
            writer.read_scalars(program.folder_of(seed), "validation"), program.evaluation(seed)
        )
        for program in programs
        for seed in program.seeds
    }
    summary = reliability.reliability(found)
    results = {
        "config": dict(config),
        **provenance.surroundings(),
        "summary": summary,
        "scan_policy": _draw(found, folders, summary, config, workdir),
    }
    writer.write_json(workdir / "reliability.json", results)
    name = f"{config['inference']['variant'].upper()}, {config['estimator']}"
    table = reliability.table({name: summary})
    (workdir / "table.md").write_text(table, encoding="utf-8")
    logging.info("%d seeds, results in %s\n%s", len(found), workdir, table)
    return results


def _draw(
    found: Mapping[int, reliability.SeedRun],
    folders: Mapping[int, pathlib.Path],
    summary: Mapping[str, Any],
    config: Mapping[str, Any],
    workdir: pathlib.Path,
) -> dict[str, Any]:
    """Draws all figures; returns the statistics of the scan policies."""
    steps = sorted({entry["step"] for run in found.values() for entry in run.validation})
    curves = np.full((len(found), len(steps)), np.nan)
    for row, run in enumerate(found.values()):
        for entry in run.validation:
            curves[row, steps.index(entry["step"])] = entry["count_accuracy"]
    accuracies = {seed: summary["seeds"][str(seed)]["count_accuracy"] for seed in found}
    if steps:
        figure = figures_runs.learning_curves(
            steps, curves, seeds=list(found), final=list(accuracies.values())
        )
        figures.save(figure, workdir / "learning_curves.png")

    shown = [seed for seed, run in found.items() if run.evaluation is not None][:_NUM_POLICIES]
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


def add_options(parser: argparse.ArgumentParser, *, seeds: str) -> None:
    """Adds the arguments that become `run`'s keyword arguments, see `options`.

    Args:
      parser: an experiment's.
      seeds: the default, FIRST:STOP.
    """
    runs.add_options(parser, seeds=seeds)
    parser.add_argument(
        "--seeds-per-program", type=int, default=1, help="trained together; on an accelerator 20"
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
