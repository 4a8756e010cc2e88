"""AIR on pictures that its renderer cannot draw, after training with perturbed scenes or without.

    python -m air_jax.experiments.realism --config=configs/scene3d_table.py \
        --seeds=100:102 --workdir=runs/realism

The paper shows photographs; in their place stand pictures of the test scenes by MuJoCo, an engine
that AIR never saw. They are a stand-in and no more: the scenes are still made up.

    ray caster                  as they were rendered for training, without perturbation
    MuJoCo                      the same scenes, drawn by another program
    MuJoCo, shadows and gloss   with shadows, reflections and a grained table
    MuJoCo, other crockery      likewise, with patterns and handles that the catalogue does not have

AIR or DAIR is trained as the config says, and with sizes, colours and light of the training scenes
strewn at random (`data.perturbation`), which its own renderer does not draw. The models are
ordinary runs in folders of the workdir; the same command resumes them, and reports those that are
finished. The workdir gets

    realism.json    every measurement, means with deviations over seeds
    realism.csv     a line for each kind of picture, model and seed
    table.md        the means
    KIND.png        pictures of a kind and what the models make of them
"""

import argparse
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from air_jax import evaluate3d, figures, kinds, provenance, tables
from air_jax.data.tabletop import Scenes3D
from air_jax.experiments import ablation, contenders3d, realism_report, runs
from air_jax.inverse_graphics import Model3D
from air_jax.render.mujoco import MujocoRenderer, Realism
from air_jax.render.scene import ORNATE_CROCKERY, Catalogue, View, create_scene

_NUM_SHOWN = 9
PERTURBATION = 0.5
VARIANTS: dict[str, ablation.Changes] = {
    "as rendered": {"data.perturbation": 0.0},
    "perturbed": {"data.perturbation": PERTURBATION},
}


class Pictures(NamedTuple):
    """A kind of pictures.

    Attributes:
      realism: of MuJoCo; None for those of the ray caster.
      catalogue: None for the view's own.
    """

    realism: Realism | None
    catalogue: Catalogue | None = None


_ALL = Realism(shadows=True, specular=0.5, texture=True)
KINDS = {
    "ray caster": Pictures(None),
    "MuJoCo": Pictures(Realism()),
    "MuJoCo, shadows and gloss": Pictures(_ALL),
    "MuJoCo, other crockery": Pictures(_ALL, ORNATE_CROCKERY),
}


def run(
    config: Mapping[str, Any],
    workdir: str,
    *,
    seeds: range,
    num_processes: int = 1,
    variants: Sequence[str] = tuple(VARIANTS),
) -> dict[str, Any]:
    """Trains what is not trained yet and tests it on every kind of pictures.

    Args:
      config: of AIR through a renderer of crockery; its seed and `data.perturbation` are not used.
      workdir: folder of the experiment.
      seeds: of the models, ascending by one.
      num_processes: programs at a time, see `runs.train`.
      variants: of `VARIANTS`, to be trained; one that is finished is reported too.

    Returns:
      What `realism.json` holds.

    Raises:
      ValueError: if the config's model or catalogue is another, there is no seed, the workdir holds
        runs of another config, or a run diverged.
      ImportError: without MuJoCo.
      RendererError: if MuJoCo cannot draw here.
      Interrupted: after SIGTERM or SIGINT, once every run has saved its state.
    """
    kinds.require(config, "air3d")
    if config["data"]["catalogue"] != "crockery":
        raise ValueError(
            f"data.catalogue is {config['data']['catalogue']!r}; the pictures are of 'crockery': "
            "use configs/scene3d_table.py."
        )
    target = pathlib.Path(workdir)
    configs = {name: ablation.change(config, changes) for name, changes in VARIANTS.items()}
    programs = {
        name: runs.plan(of_variant, target / contenders3d.folder(name), seeds)
        for name, of_variant in configs.items()
    }
    # The pictures first: without MuJoCo there is nothing to train for.
    datasets = {name: kinds.create_dataset(of_variant) for name, of_variant in configs.items()}
    test = datasets["as rendered"].test
    view = contenders3d.scene_model(config, test).view
    rays = config["data"]["supersampling"]
    drawn = {
        kind: test._replace(images=_draw(test, view._replace(supersampling=rays), pictures))
        for kind, pictures in KINDS.items()
    }
    programs = {
        name: those
        for name, those in programs.items()
        if name in variants or all(one.finished for one in those)
    }
    runs.train([one for those in programs.values() for one in those], num_processes)
    rows: list[dict[str, Any]] = []
    for kind, scenes in drawn.items():
        shown: dict[str, np.ndarray] = {}
        for name, those in programs.items():
            for one in those:
                one.require_evaluation(one.seeds[0])
                model = kinds.load(one.folder)
                assert isinstance(model, Model3D)
                found = model.infer(scenes.images)
                measured = evaluate3d.measure(found, scenes, view)
                rows.append({"pictures": kind, "trained": name, "seed": one.seeds[0], **measured})
                shown.setdefault(f"trained {name}", found.reconstructions[:_NUM_SHOWN])
                line = realism_report.line(rows[-1])
                logging.info("%s", tables.sentence(line, realism_report.MEASURES))
        figure = contenders3d.pictures(scenes.images[:_NUM_SHOWN], shown)
        figures.save(figure, target / f"{contenders3d.folder(kind)}.png")

    results = {
        **provenance.surroundings(),
        "config": dict(config),
        "perturbation": PERTURBATION,
        "data": {
            name: provenance.without_folder(dataset.description)
            for name, dataset in datasets.items()
        },
        "measurements": rows,
        "summary": realism_report.summarise(rows),
    }
    contenders3d.write(
        target, "realism", results, line=realism_report.line, table=realism_report.table
    )
    return results


def _draw(scenes: Scenes3D, view: View, pictures: Pictures) -> np.ndarray:
    """The scenes' images of a kind, uint8, with as many samples a pixel as the view has rays."""
    if pictures.realism is None:
        return scenes.images
    view = view._replace(catalogue=pictures.catalogue or view.catalogue)
    scene = create_scene(
        scenes.identities.clip(min=0),
        (scenes.identities >= 0).astype(np.float32),
        scenes.poses[..., :2],
        scenes.poses[..., 2],
        scenes.cameras,
    )
    with MujocoRenderer(view, realism=pictures.realism) as renderer:
        images = renderer.render(scene)
    return (images.clip(0, 1) * 255).round().astype(np.uint8)


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m air_jax.experiments.realism",
        description="Tests AIR on pictures that its renderer cannot draw.",
    )
    contenders3d.command(run, parser, argv, choices=list(VARIANTS), of_what="variants")


if __name__ == "__main__":
    main()
