"""Objects that hide one another: how well a model counts and locates them, by composition.

    python -m air_jax.experiments.occlusion --config=configs/sprites.py --workdir=runs/occlusion \
        --seeds=100:103

Trains two models from one config, each an ordinary run in a folder of its name inside the workdir;
the same command resumes those that were interrupted and skips those that are finished:

    additive   the paper's sum: where objects overlap, one of them has to leave a hole
    layered    each object lies behind those before it, so that it may be whole where it is hidden;
               its decoder begins with another bias, or all would be darker at first

Of each those seeds are reported that are finished. Scenes of two objects or more are told apart by
the hidden share of their most hidden object; boxes are those of whole objects. The workdir gets

    occlusion.json        every model on the test scenes, in all and by overlap; means and
                          deviations over the seeds
    occlusion.csv         one line for a composition, a seed and an amount of overlap
    table.md              the means as a table
    overlap.png           count accuracy and average precision against overlap
    objects.png           scenes with much overlap, the first seeds' reconstructions of them, and
                          each of the objects that they are made of
"""

import argparse
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from air_jax import figures, files, kinds, program, provenance, tables, writer
from air_jax.data.dataset import create_dataset
from air_jax.data.scenes import Scenes
from air_jax.experiments import ablation, arguments, occlusion_report, runs

_NUM_SHOWN = 9
# The share of an object that is hidden in the scenes that are shown.
_LEAST_HIDDEN = 0.4

COMPOSITIONS: dict[str, ablation.Changes] = {
    "additive": {"scene.composition": "additive"},
    # An object begins as the product of two sigmoids, colour and opacity, and as dark as a sum's.
    "layered": {"scene.composition": "layered", "scene.decoder_bias": -0.7},
}


def run(
    config: Mapping[str, Any],
    workdir: str,
    *,
    seeds: range,
    num_processes: int = 1,
    compositions: Sequence[str] = tuple(COMPOSITIONS),
) -> dict[str, Any]:
    """Trains the models that are not finished yet and compares them.

    Args:
      config: of both but for the composition, on scenes whose objects may overlap; its seed is not
        used.
      workdir: folder of the experiment.
      seeds: of each model, ascending by one.
      num_processes: programs at a time, see `runs.train`.
      compositions: of `COMPOSITIONS`, to be trained; those that are finished are reported too.

    Returns:
      What `occlusion.json` holds.

    Raises:
      ValueError: if the config's model is of another kind, no objects of the test scenes overlap,
        there is no seed, the workdir holds runs of another config, or a run diverged.
      Interrupted: after SIGTERM or SIGINT, once every run has saved its state.
    """
    kinds.require(config, "air")
    dataset = create_dataset(**config["data"])
    if not dataset.test.hidden.any():
        raise ValueError(
            f"data.source is {config['data']['source']!r}: no objects of its test scenes overlap; "
            "choose 'sprites', as configs/sprites.py does, or more of them."
        )
    target = pathlib.Path(workdir)
    programs = {
        name: runs.plan(ablation.change(config, changes), target / name, seeds)
        for name, changes in COMPOSITIONS.items()
    }
    runs.train([one for name in compositions for one in programs[name]], num_processes)
    finished = {
        name: those
        for name in COMPOSITIONS
        if (those := [one for one in programs[name] if one.finished])
    }
    rows = [
        {"composition": name, "seed": one.seeds[0], **row}
        for name, those in finished.items()
        for one in those
        for row in occlusion_report.rows(one.require_evaluation(one.seeds[0]))
    ]
    results = {
        **provenance.surroundings(),
        "config": dict(config),
        "data": provenance.without_folder(dataset.description),
        "measurements": rows,
        "summary": occlusion_report.summarise(rows),
    }
    writer.write_json(target / "occlusion.json", results)
    files.write_atomically(target / "occlusion.csv", tables.to_csv(rows).encode())
    text = occlusion_report.table(results)
    files.write_atomically(target / "table.md", text.encode())
    figures.save(occlusion_report.figure(results), target / "overlap.png")
    models = {name: kinds.load_air(those[0].folder) for name, those in finished.items()}
    shown = occlusion_report.objects(models, much_hidden(dataset.test))
    figures.save(shown, target / "objects.png")
    logging.info("results in %s\n%s", workdir, text)
    return results


def much_hidden(scenes: Scenes) -> np.ndarray:
    """The first few images of which an object is hidden by a good part, `[n, H, W, C]`."""
    greatest = scenes.hidden.max(-1)
    # Where there are too few of them, those with the most.
    members = np.argsort(-np.minimum(greatest, _LEAST_HIDDEN), kind="stable")
    return scenes.images[members[:_NUM_SHOWN]]


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m air_jax.experiments.occlusion",
        description="Counts and locates objects that hide one another, by composition.",
    )
    runs.add_options(parser, seeds="100:103")
    parser.add_argument(
        "--only", choices=list(COMPOSITIONS), help="trains one composition, by default both"
    )
    parser.add_argument("--smoke", action="store_true", help="a try: one seed, few steps, images")
    given, config = arguments.parse(parser, argv)
    if given.smoke:
        config = ablation.change(config, runs.SMOKE)
    options: dict[str, Any] = {
        "seeds": range(1) if given.smoke else given.seeds,
        "num_processes": given.processes,
        "compositions": [given.only] if given.only else list(COMPOSITIONS),
    }
    program.finish(lambda: run(config, given.workdir, **options))


if __name__ == "__main__":
    main()
