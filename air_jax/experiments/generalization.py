"""Scenes with more or fewer objects than training had (paper, Sec. 3.1.1, figure 4).

    python -m air_jax.experiments.generalization runs/reliability/air runs/reliability/dair \
        --unseen=3 --workdir=runs/generalization

Takes experiments that `air_jax.experiments.reliability` has trained, on whatever counts, and looks
at each seed's last model on test scenes with counts that it was trained on and on such with a count
that it was not, once with as many steps as it was trained with and once with `--num-steps`: a
network that always says N would count every image with N objects right. Trained on 0, 1 and 2
objects, `--unseen=3` is the paper's extrapolation; with `--config.data.counts="(0, 1, 3)"` while
training, `--unseen=2` is its interpolation. The workdir gets

    generalization.json   every seed of every experiment, and means with deviations
    table.md              the same as a table
    reconstructions.png   a few scenes with the unseen count, with each experiment's first seed
"""

import argparse
import pathlib
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from air_jax import evaluate, figures, kinds, program, provenance, writer
from air_jax.data.dataset import create_dataset
from air_jax.data.scenes import Scenes
from air_jax.inference import Model, Objects
from air_jax.trained import TrainedModel

_NUM_SHOWN = 9
_MEASURES = ("count_accuracy", "elbo", "average_precision_50", "mean_iou")


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


def with_steps(model: TrainedModel, num_steps: int) -> TrainedModel:
    """A model of AIR or DAIR with another number of steps; no parameter depends on it.

    Args:
      model: of any kind; one that finds no objects stays as it is.
      num_steps: N.
    """
    if not isinstance(model, Model):
        return model
    inference = {**model.config["inference"], "num_steps": num_steps}
    return kinds.create_model({**model.config, "inference": inference}, model.params)


def scenes_with(config: Mapping[str, Any], counts: Sequence[int], num_images: int) -> Scenes:
    """Test scenes like those of a run, but with these counts.

    Args:
      config: a run's.
      counts: in equal shares.
      num_images: how many.
    """
    sizes = {"num_train": 1, "num_validation": 1, "num_test": num_images}
    return create_dataset(**{**config["data"], **sizes, "counts": list(counts)}).test


def measure(model: TrainedModel, scenes: Scenes) -> dict[str, Any]:
    """Counting, localisation and ELBO, None where a model has no such thing."""
    key = jax.random.key(model.config["seed"])
    results = evaluate.evaluate(model, scenes, key=key, iwae_images=0, iwae_samples=1)
    names = (*_MEASURES, "confusion_matrix")
    return {name: results.get(name) for name in names}


def run(
    experiments: Sequence[pathlib.Path],
    workdir: str,
    *,
    unseen: int,
    num_steps: int,
    num_images: int,
) -> dict[str, Any]:
    """Measures all seeds of some experiments.

    Args:
      experiments: workdirs; their names become the rows' of the table.
      workdir: folder of this experiment.
      unseen: the count that training did not have.
      num_steps: N in the evaluation.
      num_images: test scenes of each kind.

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
    rows = []
    for experiment in experiments:
        if experiment.name in results:
            raise ValueError(f"two experiments are called {experiment.name!r}")
        seeds: dict[str, Any] = {}
        for folder in find_models(experiment):
            model = kinds.load(folder)
            trained_on = model.config["data"]["counts"]
            if unseen in trained_on:
                raise ValueError(f"{folder} was trained on {trained_on}: {unseen} is not unseen")
            longer = with_steps(model, num_steps)
            seen_scenes = scenes_with(model.config, trained_on, num_images)
            unseen_scenes = scenes_with(model.config, [unseen], num_images)
            seed = seeds[str(model.config["seed"])] = {
                "seen": measure(model, seen_scenes),
                "seen_with_num_steps": measure(longer, seen_scenes),
                "unseen_with_num_steps": measure(longer, unseen_scenes),
            }
            if len(seeds) == 1:
                rows.append((experiment.name, longer, unseen_scenes))
            logging.info("%s: %s", folder, _sentence(seed))
        results[experiment.name] = {
            "trained_on": list(trained_on),
            "step": model.config["step"],
            "seeds": seeds,
            "summary": _summary(list(seeds.values())),
        }
    written = {
        "arguments": sys.argv[1:],
        **provenance.surroundings(),
        "unseen": unseen,
        "num_steps": num_steps,
        "num_images": num_images,
        "experiments": results,
    }
    target = pathlib.Path(workdir)
    writer.write_json(target / "generalization.json", written)
    text = table(written)
    (target / "table.md").write_text(text, encoding="utf-8")
    _draw(rows, num_steps, target / "reconstructions.png")
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
    for scenes in seeds[0]:
        summary[scenes] = {}
        for name in _MEASURES:
            values = [seed[scenes][name] for seed in seeds if seed[scenes][name] is not None]
            summary[scenes][name] = (
                {
                    "mean": statistics.fmean(values),
                    "sd": statistics.stdev(values) if len(values) > 1 else None,
                    "num": len(values),
                }
                if values
                else None
            )
    return summary


def table(results: Mapping[str, Any]) -> str:
    """The experiments side by side, in Markdown; means and deviations over the seeds.

    Args:
      results: what `run` returns.
    """
    unseen, num_steps = results["unseen"], results["num_steps"]
    header = [
        *("experiment", "seeds", "trained on", "counts trained on (%)"),
        *(f"the same, N = {num_steps} (%)", f"{unseen} objects, N = {num_steps} (%)"),
        *(f"AP at IoU 0.5, {unseen} objects", "ELBO, trained on (nats)"),
        f"ELBO, {unseen} objects (nats)",
    ]
    rows = [header, ["---"] * len(header)]
    for name, result in results["experiments"].items():
        summary = result["summary"]
        seen, longer = summary["seen"], summary["seen_with_num_steps"]
        new = summary["unseen_with_num_steps"]
        rows.append(
            [
                name.replace("|", r"\|"),
                str(len(result["seeds"])),
                ", ".join(map(str, result["trained_on"])),
                _spread(seen["count_accuracy"], 2, factor=100),
                _spread(longer["count_accuracy"], 2, factor=100),
                _spread(new["count_accuracy"], 1, factor=100),
                _spread(new["average_precision_50"], 3),
                _spread(longer["elbo"], 1),
                _spread(new["elbo"], 1),
            ]
        )
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _spread(value: Mapping[str, Any] | None, digits: int, factor: float = 1.0) -> str:
    if value is None:
        return "-"
    mean = f"{factor * value['mean']:.{digits}f}"
    return mean if value["sd"] is None else f"{mean} ± {factor * value['sd']:.{digits}f}"


def _draw(
    rows: Sequence[tuple[str, TrainedModel, Scenes]], num_steps: int, path: pathlib.Path
) -> None:
    """Each experiment's reconstructions of the same scenes; of others' scenes, none."""
    images = rows[0][2].images[:_NUM_SHOWN]
    labels, reconstructions, windows, present = [], [], [], []
    for name, model, scenes in rows:
        if not np.array_equal(scenes.images[:_NUM_SHOWN], images):
            logging.warning("%s: its scenes are others, it is left out of the figure", name)
            continue
        found = model.infer(scenes.images[:_NUM_SHOWN])
        z_where = np.ones((len(images), num_steps, 3), np.float32)
        is_object = np.zeros((len(images), num_steps), bool)
        if isinstance(found, Objects):
            z_where = found.z_where
            is_object = np.arange(num_steps) < found.counts[:, None]
        labels.append(name)
        reconstructions.append(found.reconstructions)
        windows.append(z_where)
        present.append(is_object)
    figure = figures.reconstruction_rows(
        images, labels, *(np.stack(part) for part in (reconstructions, windows, present))
    )
    figures.save(figure, path)


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m air_jax.experiments.generalization",
        description="Looks at trained models on scenes with a count that training did not have.",
    )
    parser.add_argument("experiments", nargs="+", type=pathlib.Path, help="workdirs of experiments")
    parser.add_argument("--workdir", required=True, help="folder of this experiment")
    parser.add_argument("--unseen", type=int, default=3, help="the count, default 3")
    parser.add_argument("--num-steps", type=int, default=6, help="N in evaluation, default 6")
    parser.add_argument("--images", type=int, default=5_000, help="test scenes of each kind")
    given = parser.parse_args(argv)
    program.finish(
        lambda: run(
            given.experiments,
            given.workdir,
            unseen=given.unseen,
            num_steps=given.num_steps,
            num_images=given.images,
        )
    )


if __name__ == "__main__":
    main()
