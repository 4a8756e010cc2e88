"""Scenes with more or fewer objects than training had (paper, Sec. 3.1.1, figure 4).

    python -m air_jax.experiments.generalization runs/reliability/air runs/reliability/dair \
        --unseen=3 --workdir=runs/generalization

Takes experiments that `air_jax.experiments.reliability` has trained, on whatever counts, and looks
at each seed's last model on test scenes with counts that it was trained on and on such with a count
that it was not, once with as many steps as it was trained with and once with `--num-steps`: a
network that always says N would count every image with N objects right. Trained on 0, 1 and 2
objects, `--unseen=3` is the paper's extrapolation; with `--config.data.counts="(0, 1, 3)"` while
training, `--unseen=2` is its interpolation. The workdir gets

    generalization.json   every seed of every experiment, means with deviations, each network's
                          effort: time on this machine and operations per image
    generalization.csv    every measurement of every seed, one a line
    table.md              means and deviations side by side
    reconstructions.png   a few scenes with the unseen count, with each experiment's first seed;
                          of DRAW's windows as many as the others have, evenly over its steps
    curves.png            the same over training, where the runs kept their models as it went on
                          (`--config.train.snapshot_every=200` while training)

DRAW is trained by `air_jax.main --config=configs/draw.py --config.num_seeds=3`; its workdir is an
experiment's too. `--smoke` trains tiny networks for a few steps in the workdir, and shows only that
everything works.
"""

import argparse
import math
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from air_jax import (
    effort,
    evaluate,
    figures,
    kinds,
    loop,
    metrics,
    program,
    provenance,
    tables,
    writer,
)
from air_jax import main as command
from air_jax.data.dataset import create_dataset
from air_jax.data.scenes import Scenes
from air_jax.experiments import generalization_report
from air_jax.experiments.generalization_report import MEASURES
from air_jax.files import write_atomically
from air_jax.trained import TrainedModel, check_images

_CONFIGS = pathlib.Path(__file__).resolve().parent.parent.parent / "configs"
_SMOKE_DATA: dict[str, Any] = {
    **{"num_seeds": 2, "data.source": "embedded", "data.cache_dir": "", "data.image_size": 50},
    **{"data.counts": "(0, 1, 2)", "data.num_train": 64, "data.num_validation": 8},
    **{"data.num_test": 8, "train.batch_size": 8, "train.num_steps": 4, "train.steps_per_call": 2},
    **{"train.log_every": 4, "train.evaluate_every": 4, "train.checkpoint_every": 4},
    **{"train.snapshot_every": 2, "train.validation_images": 8, "evaluation.iwae_images": 0},
}
_SMOKE_MODELS: dict[str, dict[str, Any]] = {
    "air": {
        **{"inference.variant": "air", "inference.glimpse_source": "image"},
        "inference.place": "regression",
    },
    "dair": {},
    "draw": {"draw.num_steps": 4, "draw.hidden_size": 16, "draw.z_size": 4},
}


def find_models(experiment: pathlib.Path) -> list[pathlib.Path]:
    """The folders of an experiment's trained seeds, in their order.

    Args:
      experiment: a reliability experiment's workdir, or that of a single run.

    Raises:
      ValueError: if there is none.
    """
    patterns = ("model", "seed_*/model", "seeds_*/model", "seeds_*/seed_*/model")
    found = [folder.parent for pattern in patterns for folder in experiment.glob(pattern)]
    if not found:
        raise ValueError(f"{experiment} holds no trained model, nor do its folders seed(s)_*")
    return sorted(found, key=lambda folder: (len(folder.name), folder.name))


def scenes_with(config: Mapping[str, Any], counts: Sequence[int], num_images: int) -> Scenes:
    """Test scenes like those of a run, but with these counts.

    Args:
      config: a run's.
      counts: in equal shares.
      num_images: how many.
    """
    sizes = {"num_train": 1, "num_validation": 1, "num_test": num_images}
    return create_dataset(
        **{**config["data"], **sizes, "counts": list(counts), "resident": True}
    ).test


def measure(model: TrainedModel, scenes: Scenes) -> dict[str, Any]:
    """Counting, localisation and ELBO, None where a model has no such thing; objects left out.

    `objects_left_out` is the mean number an image, by `metrics.left_out`, and `num_left_out` the
    number of images in which 0, 1, ... are.
    """
    found = model.infer(scenes.images, key=jax.random.key(model.config["seed"]))
    results, drawn = evaluate.measure(found, scenes), found.reconstructions
    images = check_images(scenes.images, image_size=drawn.shape[1], channels=drawn.shape[3])
    left_out = metrics.left_out(images, drawn, scenes.boxes, scenes.counts)
    results["objects_left_out"] = float(left_out.mean())
    results["num_left_out"] = np.bincount(left_out, minlength=scenes.boxes.shape[1] + 1).tolist()
    names = (*MEASURES, "confusion_matrix", "num_left_out")
    return {name: results.get(name) for name in names}


def measure_curve(
    folder: pathlib.Path, seen: Scenes, unseen: Scenes, *, num_steps: int
) -> list[dict[str, Any]]:
    """The models that a run kept as training went on, on two sets of scenes.

    Args:
      folder: of one trained seed.
      seen: scenes with counts trained on.
      unseen: scenes with the other count.
      num_steps: N in the evaluation.

    Returns:
      For each step, ascending, `step`, `seen_with_num_steps` and `unseen_with_num_steps`, as
      `measure` gives them; none where the run kept no models.
    """
    curve = []
    for snapshot in sorted((folder / "snapshots").glob("step_*")):
        model = kinds.with_steps(kinds.load(snapshot), num_steps)
        entry: dict[str, Any] = {"step": model.config["step"]}
        entry["seen_with_num_steps"] = measure(model, seen)
        curve.append({**entry, "unseen_with_num_steps": measure(model, unseen)})
    # A seed that was frozen left the same model from there on.
    return list({entry["step"]: entry for entry in curve}.values())


def run(
    experiments: Sequence[pathlib.Path],
    workdir: str,
    *,
    unseen: int,
    num_steps: int,
    num_images: int,
    curve_images: int = 1_000,
) -> dict[str, Any]:
    """Measures all seeds of some experiments.

    Args:
      experiments: workdirs; their names become the rows' of the table.
      workdir: folder of this experiment.
      unseen: the count that training did not have.
      num_steps: N in the evaluation.
      num_images: test scenes of each kind.
      curve_images: of these, at most, for the models that runs kept over training.

    Returns:
      What `generalization.json` holds.

    Raises:
      ValueError: if an experiment holds no model, was trained with the unseen count, or more
        objects are asked for than the network may take steps.
      CheckpointError: if a model is damaged.
    """
    if num_steps <= unseen:
        raise ValueError(
            f"num_steps is {num_steps}; with {unseen} objects it must be at least {unseen + 1}, "
            "or a network that never stops would count them right."
        )
    results: dict[str, Any] = {}
    rows: list[tuple[str, TrainedModel, Scenes]] = []
    efforts: dict[str, Any] = {}
    for experiment in experiments:
        if experiment.name in results:
            raise ValueError(f"two experiments are called {experiment.name!r}")
        seeds: dict[str, Any] = {}
        for folder in find_models(experiment):
            model = kinds.load(folder)
            trained_on = model.config["data"]["counts"]
            if unseen in trained_on:
                raise ValueError(f"{folder} was trained on {trained_on}: {unseen} is not unseen")
            longer = kinds.with_steps(model, num_steps)
            seen_scenes = scenes_with(model.config, trained_on, num_images)
            unseen_scenes = scenes_with(model.config, [unseen], num_images)
            seen = measure(model, seen_scenes)
            seed = seeds[str(model.config["seed"])] = {
                "seen": seen,
                "seen_with_num_steps": seen if longer is model else measure(longer, seen_scenes),
                "unseen_with_num_steps": measure(longer, unseen_scenes),
            }
            logging.info("%s: %s", folder, _sentence(seed))
            few = [
                Scenes(*(part[:curve_images] for part in scenes))
                for scenes in (seen_scenes, unseen_scenes)
            ]
            seed["curve"] = measure_curve(folder, *few, num_steps=num_steps)
            if len(seeds) == 1:
                rows.append((experiment.name, longer, unseen_scenes))
                efforts[experiment.name] = effort.effort(model, unseen_scenes.images)
        results[experiment.name] = {
            "trained_on": list(trained_on),
            "step": model.config["step"],
            "effort": efforts[experiment.name],
            "seeds": seeds,
            "summary": _summary(list(seeds.values())),
        }
    written = {
        "arguments": sys.argv[1:],
        **provenance.surroundings(),
        "unseen": unseen,
        "num_steps": num_steps,
        "num_images": num_images,
        "curve_images": min(curve_images, num_images),
        "experiments": results,
    }
    target = pathlib.Path(workdir)
    writer.write_json(target / "generalization.json", written)
    text = generalization_report.table(written)
    write_atomically(target / "table.md", text.encode())
    write_atomically(target / "generalization.csv", generalization_report.to_csv(written).encode())
    pictures = generalization_report.reconstructions(rows, num_steps)
    figures.save(pictures, target / "reconstructions.png")
    curves = generalization_report.curves(written)
    if curves is not None:
        figures.save(curves, target / "curves.png")
    logging.info("results in %s\n%s", workdir, text)
    return written


def _sentence(seed: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {values['count_accuracy']:.2%}"
        if values["count_accuracy"] is not None
        else f"{name} ELBO {values['elbo']:.1f}"
        for name, values in seed.items()
    )


def _summary(seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and deviation of every measure over the seeds, None for what they do not have."""
    summary: dict[str, Any] = {}
    for scenes in generalization_report.SCENES:
        summary[scenes] = {}
        for name in MEASURES:
            given = [seed[scenes][name] for seed in seeds]
            # The IoU of no match at all is nan; a seed that has none is missing in `num`.
            values = [value for value in given if value is not None and math.isfinite(value)]
            summary[scenes][name] = tables.spread(values) if values else None
    return summary


def _train_smoke(workdir: pathlib.Path) -> list[pathlib.Path]:
    """Two seeds of each kind of model, tiny and untrained but for a few steps."""
    folders = []
    for name, overrides in _SMOKE_MODELS.items():
        settings = _SMOKE_DATA | overrides
        file = _CONFIGS / ("draw.py" if name == "draw" else "smoke.py")
        given = [f"--config.{key}={value}" for key, value in settings.items()]
        config = command.read_config([f"--config={file}", *given])
        folders.append(workdir / "trained" / name)
        loop.run(config, str(folders[-1]))
    return folders


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m air_jax.experiments.generalization",
        description="Looks at trained models on scenes with a count that training did not have.",
    )
    parser.add_argument("experiments", nargs="*", type=pathlib.Path, help="workdirs of experiments")
    parser.add_argument("--workdir", required=True, help="folder of this experiment")
    parser.add_argument("--unseen", type=int, default=3, help="the count, default 3")
    parser.add_argument("--num-steps", type=int, default=6, help="N in evaluation, default 6")
    parser.add_argument("--images", type=int, default=5_000, help="test scenes of each kind")
    parser.add_argument(
        "--curve-images", type=int, default=1_000, help="of these for each kept model, default 1000"
    )
    parser.add_argument("--smoke", action="store_true", help="a try: trains tiny networks itself")
    given = parser.parse_args(argv)
    if bool(given.experiments) == given.smoke:
        parser.error("give workdirs of experiments, or else --smoke")

    def measure_all() -> None:
        experiments, num_images, num_steps = given.experiments, given.images, given.num_steps
        if given.smoke:  # as few steps as the unseen count allows: they are what is compiled
            experiments = _train_smoke(pathlib.Path(given.workdir))
            num_images, num_steps = 8, given.unseen + 1
        run(
            experiments,
            given.workdir,
            unseen=given.unseen,
            num_steps=num_steps,
            num_images=num_images,
            curve_images=given.curve_images,
        )

    program.finish(measure_all)


if __name__ == "__main__":
    main()
