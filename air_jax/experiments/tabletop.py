"""Crockery on a table, before an unknown camera (paper, Sec. 3.2, figures 6, right, and 7).

    python -m air_jax.experiments.tabletop --config=configs/scene3d_table.py \
        --seeds=102:106 --workdir=runs/tabletop

Two sets of scenes: each model of the catalogue at most once, and with repetition. On both:

    AIR or DAIR            as the config says, trained from images alone; its renderer is all it has
    ..., swept             the same models; every object that they found is looked at again once,
                           the others given, and what makes the image likelier is kept
    ..., swept and turned  likewise; then of every object 24 turns are rendered, and the likeliest
                           is kept
    supervised, arbitrary  the same layers trained on true counts, identities, poses and cameras,
                           in the order in which the scenes happen to list them, as in the paper
    supervised, sorted     likewise, in an order that an image determines
    supervised, slots      likewise, with a slot for each model of the catalogue; where none occurs
                           twice
    the true scene         nothing is inferred: the error that is left since the renderer of the
                           model takes fewer rays than that of the data

The models are ordinary runs in folders of the workdir; the same command resumes them. The
supervised networks take as many steps and images as they do, with the same optimizer. Times are
from images to what stands where, with the renderings that are needed for it and no others. What
`--only` leaves out is reported as it was measured before. The workdir gets

    tabletop.json        every measurement, means with deviations over seeds
    tabletop.csv         a line for each set of scenes, method and seed
    table.md             the means
    bars.png             counts and reconstructions (figure 7, middle)
    SET.json             the measurements of one set of scenes
    SET_scenes.png       scenes and what each method makes of them
    SET_from_above.png   true objects and cameras, and those that AIR found, swept and turned
                         (figure 7, left)
    SET_policy.png       where AIR's steps put objects, and which (figure 7, right)
"""

import argparse
import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from air_jax import (
    evaluate3d,
    figures,
    figures3d,
    kinds,
    provenance,
    tables,
    writer,
)
from air_jax.data.dataset import Dataset
from air_jax.data.tabletop import Scenes3D
from air_jax.experiments import ablation, contenders3d, runs, tabletop_report
from air_jax.inverse_graphics import Model3D, Objects3D
from air_jax.refine3d import Refinement

_NUM_SHOWN = 9
_NUM_FROM_ABOVE = 6
# By what follows the model's name.
_REFINEMENTS = {
    "": Refinement(),
    ", swept": Refinement(num_sweeps=1),
    ", swept and turned": Refinement(num_sweeps=1, num_turns=24),
}
SETS: dict[str, ablation.Changes] = {
    "each once": {"data.repetition": False},
    "with repetition": {"data.repetition": True},
}
# Name, and order of the labels.
SUPERVISED = {
    "supervised, arbitrary": "arbitrary",
    "supervised, sorted": "sorted",
    "supervised, slots": "slots",
}


def run(
    config: Mapping[str, Any],
    workdir: str,
    *,
    seeds: range,
    num_processes: int = 1,
    sets: Sequence[str] = tuple(SETS),
) -> dict[str, Any]:
    """Trains what is not trained yet and compares.

    Args:
      config: of AIR through a renderer; its seed and `data.repetition` are not used.
      workdir: folder of the experiment.
      seeds: of the models, ascending by one.
      num_processes: programs at a time, see `runs.train`.
      sets: of `SETS`, to be measured; those that were measured before are reported too.

    Returns:
      What `tabletop.json` holds.

    Raises:
      ValueError: if the config's model is of another kind, there is no seed, the workdir holds runs
        of another config, or a run diverged.
      Interrupted: after SIGTERM or SIGINT, once every run has saved its state.
    """
    kinds.require(config, "air3d")
    if config["inference"]["fixed_count"]:
        raise ValueError(
            "these are comparisons of counts, too, but inference.fixed_count is set; use "
            "configs/scene3d_table.py."
        )
    target = pathlib.Path(workdir)
    configs = {name: ablation.change(config, SETS[name]) for name in sets}
    programs = {
        name: runs.plan(of_set, target / contenders3d.folder(name), seeds)
        for name, of_set in configs.items()
    }
    runs.train([one for those in programs.values() for one in those], num_processes)
    for name, of_set in configs.items():
        dataset = kinds.create_dataset(of_set)
        rows = _of_set(of_set, programs[name], dataset, target / contenders3d.folder(name))
        measured = {"data": provenance.without_folder(dataset.description), "measurements": rows}
        writer.write_json(target / f"{contenders3d.folder(name)}.json", measured)

    every = {
        name: json.loads(file.read_text(encoding="utf-8"))
        for name in SETS
        if (file := target / f"{contenders3d.folder(name)}.json").exists()
    }
    rows = [
        {"set": name, **row} for name, of_set in every.items() for row in of_set["measurements"]
    ]
    results = {
        **provenance.surroundings(),
        "config": dict(config),
        "data": {name: of_set["data"] for name, of_set in every.items()},
        "measurements": rows,
        "summary": tabletop_report.summarise(rows),
    }
    figures.save(tabletop_report.bars(results["summary"]), target / "bars.png")
    contenders3d.write(
        target, "tabletop", results, line=tabletop_report.line, table=tabletop_report.table
    )
    return results


def _of_set(
    config: Mapping[str, Any],
    programs: Sequence[runs.Program],
    dataset: Dataset[Scenes3D],
    target: pathlib.Path,
) -> list[dict[str, Any]]:
    """Measures every method on one set of scenes, and draws what they found."""
    test = dataset.test
    scene = contenders3d.scene_model(config, test)
    rows: list[dict[str, Any]] = []
    shown: dict[str, np.ndarray] = {}

    def record(method: str, seed: int, found: Objects3D, **more: Any) -> None:
        measured = evaluate3d.measure(found, test, scene.view)
        rows.append({"method": method, "seed": seed, **more, **measured})
        line = tabletop_report.line({"set": target.name, **rows[-1]})
        logging.info("%s", tables.sentence(line, tabletop_report.MEASURES))
        shown.setdefault(method, found.reconstructions[:_NUM_SHOWN])

    for one in programs:
        evaluation = one.require_evaluation(one.seeds[0])
        model = kinds.load(one.folder)
        assert isinstance(model, Model3D)
        name, by_refinement = config["inference"]["variant"].upper(), {}
        for suffix, refinement in _REFINEMENTS.items():
            options = dataclasses.asdict(refinement)
            found = by_refinement[suffix] = model.infer(test.images, **options)
            detect = functools.partial(model.detect, **options)
            seconds = contenders3d.seconds_per_image(detect, test.images)
            elbo = {} if suffix else {"elbo": evaluation["elbo"]}
            record(name + suffix, one.seeds[0], found, **elbo, seconds_per_image=seconds)
        if one is programs[0]:
            best = by_refinement[", swept and turned"]
            above = figures3d.from_above(test, best, scene.view, num_scenes=_NUM_FROM_ABOVE)
            figures.save(above, target.with_name(f"{target.name}_from_above.png"))
            policy = figures3d.policy(by_refinement[""], scene.view)
            figures.save(policy, target.with_name(f"{target.name}_policy.png"))
    for method, order in SUPERVISED.items():
        if order == "slots" and config["data"]["repetition"]:
            continue
        for seed in (one.seeds[0] for one in programs):
            network = contenders3d.train_supervised(
                config, dataset.train, scene=scene, rotation="folded", order=order, seed=seed
            )
            found = contenders3d.as_objects(scene, **network.predict(test.images)._asdict())
            seconds = contenders3d.seconds_per_image(network.predict, test.images)
            record(method, seed, found, seconds_per_image=seconds)
    found = contenders3d.as_objects(
        scene, identities=test.identities, poses=test.poses, cameras=test.cameras
    )
    record(contenders3d.TRUE, programs[0].seeds[0], found)
    pictures = contenders3d.pictures(test.images[:_NUM_SHOWN], shown)
    figures.save(pictures, target.with_name(f"{target.name}_scenes.png"))
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m air_jax.experiments.tabletop",
        description="Finds crockery on a table, with and without labels.",
    )
    contenders3d.command(run, parser, argv, choices=list(SETS), of_what="sets")


if __name__ == "__main__":
    main()
