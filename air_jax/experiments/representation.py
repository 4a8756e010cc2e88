"""Labels needed to answer questions about a scene from AIR's latents (paper, Sec. 3.1.2, figure 5).

    python -m air_jax.experiments.representation --air runs/reliability/air --draw runs/draw \
        --workdir=runs/representation

Takes models of AIR (or DAIR) and, if given, of DRAW that were trained on scenes of 0 to 2 digits
without labels, trains a convolutional autoencoder on the same scenes, and takes the codes that all
of them have of other scenes, with exactly two digits. Classifiers predict the sum of the digits
and whether they ascend from left to right (`representation` has the details), from labelled sets
of growing size: an MLP from each code, a CNN from the pixels. Of the trials with AIR's code, which
is made of objects, half have a network that the objects share in the MLP's place.

For every representation, task and size the same `--trials` draws of hyper-parameters are tried with
the first seed and the best on a validation set is kept for the other seeds. That set also stops
training; it is the same for all, has digits of its own, and its labels are not counted among the
labels of a set. The autoencoder's length of code is one of its hyper-parameters; AIR and DRAW
are taken as they were trained. A seed is another labelled set, another classifier, another
autoencoder and, as far as there are, another model of AIR and DRAW. The workdir gets

    representation.json   every measurement, every trial's accuracies, means with deviations, and of
                          which code each part is
    representation.csv    a line for each representation, task, number of labels and seed
    representation.png    accuracy against labels
    table.md              labels needed for 90 %, accuracies, each code's reconstruction error

    parts/               what was measured of each representation

They are written anew after each representation. The same command goes on with the representations
that have no part yet, and `--only` measures some of them, so that several processes, or machines
with the same models, can share the work in one workdir.
"""

import argparse
import functools
import itertools
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from air_jax import (
    classification,
    figures,
    kinds,
    program,
    provenance,
    representation,
    tables,
)
from air_jax.classification import Hyperparameters, Inputs
from air_jax.draw import DrawModel
from air_jax.experiments import contenders, representation_report
from air_jax.experiments.contenders import SMOKE, Contender, Plan
from air_jax.experiments.generalization import find_models
from air_jax.files import write_atomically
from air_jax.inference import Model
from air_jax.writer import write_json

_AUTOENCODER, _PIXELS = "autoencoder", "CNN on pixels"
NAMES = ("AIR", "DRAW", _AUTOENCODER, _PIXELS)

# Of a config's data: what makes two models' images alike.
_SAME_SCENES = ("source", "image_size", "counts", "digit_scale", "noise")


def run(
    air: Sequence[pathlib.Path],
    draw: Sequence[pathlib.Path],
    workdir: str,
    plan: Plan,
    only: Sequence[str] = NAMES,
) -> dict[str, Any]:
    """Measures all representations.

    Args:
      air: folders of runs or experiments, with models of AIR or DAIR.
      draw: likewise of DRAW; none leaves DRAW out.
      workdir: folder of the results, created if absent.
      plan: what to measure.
      only: the representations to measure, of `NAMES`; those that have been measured in the workdir
        before are taken from there.

    Returns:
      What `representation.json` holds.

    Raises:
      ValueError: if a folder holds no model or one of another kind, models were trained on
        different scenes or on none of digits, the plan contradicts itself, or the workdir holds
        results of another plan or other models.
      CheckpointError: if a model is damaged.
    """
    plan.check()
    models = {"AIR": _load(air, Model, "AIR or DAIR")}
    if draw:
        models["DRAW"] = _load(draw, DrawModel, "DRAW")
    config = next(iter(models["AIR"].values())).config
    _check_scenes(config, models)
    names = [name for name in NAMES if name in models or name in (_AUTOENCODER, _PIXELS)]
    question = {
        "plan": {**plan._asdict(), "budget": plan.budget._asdict()},
        "hyperparameters": Hyperparameters._fields,
        "trained_on": {name: config["data"][name] for name in _SAME_SCENES},
    }
    parts = {name: _Part(pathlib.Path(workdir), name, question, models.get(name)) for name in names}
    measured = {name: part.read() for name, part in parts.items()}
    scenes = representation.two_digit_scenes(
        config["data"],
        num_train=plan.sizes[-1],
        num_validation=plan.num_validation,
        num_test=plan.num_test,
    )
    of_split = {name: representation.task_labels(part) for name, part in scenes.items()}
    labels = {
        task: Inputs(**{name: those[task] for name, those in of_split.items()})
        for task in representation.TASKS
    }
    creators: dict[str, Callable[[], Contender]] = {
        name: functools.partial(contenders.of_models, those, scenes, plan)
        for name, those in models.items()
    }
    creators[_AUTOENCODER] = functools.partial(contenders.autoencoders, config, scenes, plan)
    creators[_PIXELS] = functools.partial(contenders.pixels, scenes, plan)
    chance = {task: _chance(part.test) for task, part in labels.items()}
    for name in names:
        if name in only and measured[name] is None:
            parts[name].write(_measure(name, creators[name](), labels, plan))
        # Another process may have measured others meanwhile.
        measured = {name: part.read() for name, part in parts.items()}
        found = {name: part for name, part in measured.items() if part is not None}
        if found:
            results = _together(question, chance, found)
            _write(results, pathlib.Path(workdir))
    if not found:
        raise ValueError(f"nothing to measure: only is {only}, and there are {', '.join(names)}.")
    logging.info("results in %s\n%s", workdir, representation_report.table(results))
    return results


class _Part:
    """What was measured of one representation, in a file of the workdir."""

    def __init__(
        self,
        workdir: pathlib.Path,
        name: str,
        question: Mapping[str, Any],
        models: Mapping[str, Any] | None,
    ):
        self._file = workdir / "parts" / f"{name.replace(' ', '_').lower()}.json"
        given = None if models is None else list(models)
        # As JSON has it, where tuples are lists.
        self._question = json.loads(json.dumps({**question, "models": given}))

    def read(self) -> dict[str, Any] | None:
        """None if there is nothing yet.

        Raises:
          ValueError: if it was another question that was answered.
        """
        if not self._file.exists():
            return None
        found = json.loads(self._file.read_text(encoding="utf-8"))
        for name, value in self._question.items():
            before = found["question"].get(name)
            if before != value:
                raise ValueError(
                    f"{self._file} was measured with {name} {before}, not with {value}; choose "
                    "another --workdir, or remove that file."
                )
        return found

    def write(self, measured: Mapping[str, Any]) -> None:
        made = {"question": self._question, **provenance.surroundings(), **measured}
        write_json(self._file, made)


def _together(
    question: Mapping[str, Any], chance: Mapping[str, float], parts: Mapping[str, Any]
) -> dict[str, Any]:
    """What `representation.json` holds, of the parts that there are."""
    measurements = list(itertools.chain(*(part["measurements"] for part in parts.values())))
    surroundings = provenance.surroundings()
    return {
        **surroundings,
        "parts": {name: {key: part[key] for key in surroundings} for name, part in parts.items()},
        **question,
        "chance": dict(chance),
        **{
            of_each: {name: part[of_each] for name, part in parts.items()}
            for of_each in ("models", "code_sizes", "reconstruction_error")
        },
        "measurements": measurements,
        "trials": list(itertools.chain(*(part["trials"] for part in parts.values()))),
        "summary": representation_report.summarise(measurements),
    }


def _load(experiments: Sequence[pathlib.Path], kind: type, wanted: str) -> dict[str, Any]:
    """All models of some folders, by folder."""
    models = {}
    for experiment in experiments:
        for folder in find_models(experiment):
            models[str(folder)] = model = kinds.load(folder)
            if not isinstance(model, kind):
                raise ValueError(f"{folder} holds another kind of model than {wanted}")
    return models


def _check_scenes(config: Mapping[str, Any], models: Mapping[str, Mapping[str, Any]]) -> None:
    for folder, model in itertools.chain(*(those.items() for those in models.values())):
        for name in _SAME_SCENES:
            own, expected = model.config["data"][name], config["data"][name]
            if own != expected:
                raise ValueError(
                    f"{folder} was trained with data.{name} {own}, the first model of AIR with "
                    f"{expected}: codes are compared of models of the same scenes"
                )


def _chance(labels: np.ndarray) -> float:
    """Accuracy of the most frequent class."""
    return float(np.bincount(labels).max() / len(labels))


def _measure(
    name: str, contender: Contender, labels: Mapping[str, Inputs], plan: Plan
) -> dict[str, Any]:
    """Of one representation: all tasks, and what it is."""
    measurements, trials = [], []
    for task in representation.TASKS:
        rows, tried = _measure_task(name, contender, task, labels[task], plan)
        measurements += rows
        trials += tried
    return {
        "models": contender.note,
        "code_sizes": contender.code_sizes,
        "reconstruction_error": tables.spread(contender.errors) if contender.errors else None,
        "measurements": measurements,
        "trials": trials,
    }


def _measure_task(
    name: str, contender: Contender, task: str, labels: Inputs, plan: Plan
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Chooses hyper-parameters for every size with the first seed, and measures all seeds."""
    trials = classification.draw_trials(
        contender.family, plan.budget.trials, num_variants=len(contender.seeds[0]), seed=0
    )
    if contender.num_objects is None:
        trials = [trial._replace(per_object=False) for trial in trials]
    rows, tried = [], []
    for size in plan.sizes:
        options: dict[str, Any] = {
            "family": contender.family,
            "num_classes": representation.TASKS[task],
            "num_labels": size,
            "budget": plan.budget,
            "num_objects": contender.num_objects,
        }
        chosen, found = classification.search(contender.seeds[0], labels, trials, seed=0, **options)
        place = {"representation": name, "task": task, "labels": size}
        tried += [
            {**place, **trial._asdict(), **accuracies._asdict()}
            for trial, accuracies in zip(trials, found, strict=True)
        ]
        measured = [found[trials.index(chosen)]]
        for seed in range(1, plan.num_seeds):
            inputs = contender.seeds[seed][chosen.variant]
            measured.append(classification.fit(inputs, labels, chosen, seed=seed, **options))
        rows += [
            {**place, "seed": seed, **accuracies._asdict(), **chosen._asdict()}
            for seed, accuracies in enumerate(measured)
        ]
        percent = ", ".join(f"{accuracies.test:.1%}" for accuracies in measured)
        logging.info("%s, %s, %d labels: %s", name, task, size, percent)
    return rows, tried


def _write(results: Mapping[str, Any], folder: pathlib.Path) -> None:
    rows = results["measurements"]
    write_json(folder / "representation.json", results)
    write_atomically(folder / "representation.csv", tables.to_csv(rows).encode())
    write_atomically(folder / "table.md", representation_report.table(results).encode())
    figure = representation_report.figure(rows, results["chance"])
    figures.save(figure, folder / "representation.png")


def main(argv: Sequence[str] | None = None) -> None:
    """The command, see the module."""
    plan = Plan()
    parser = argparse.ArgumentParser(
        prog="python -m air_jax.experiments.representation",
        description="Labels needed to answer questions about scenes of two digits from codes.",
    )
    parser.add_argument(
        "--air", nargs="+", type=pathlib.Path, required=True, help="folders with models of AIR"
    )
    parser.add_argument(
        "--draw", nargs="+", type=pathlib.Path, default=[], help="folders with models of DRAW"
    )
    parser.add_argument("--workdir", required=True, help="folder of this experiment")
    parser.add_argument(
        "--sizes", nargs="+", type=int, default=plan.sizes, help="numbers of labelled images"
    )
    parser.add_argument("--seeds", type=int, default=plan.num_seeds, help="of each representation")
    parser.add_argument(
        "--trials", type=int, default=plan.budget.trials, help="hyper-parameters that are tried"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=plan.budget.max_rounds,
        help=f"of {plan.budget.steps_per_round} training steps of a classifier, at most",
    )
    parser.add_argument(
        "--autoencoder-steps", type=int, default=plan.autoencoder_steps, help="training steps"
    )
    parser.add_argument(
        "--only", nargs="+", choices=NAMES, default=NAMES, help="measure these; default all"
    )
    parser.add_argument("--smoke", action="store_true", help="a try: few images, steps and trials")
    given = parser.parse_args(argv)
    plan = plan._replace(
        sizes=tuple(given.sizes),
        num_seeds=given.seeds,
        autoencoder_steps=given.autoencoder_steps,
        budget=plan.budget._replace(trials=given.trials, max_rounds=given.rounds),
    )
    program.finish(
        lambda: run(
            given.air, given.draw, given.workdir, SMOKE if given.smoke else plan, given.only
        )
    )


if __name__ == "__main__":
    main()
