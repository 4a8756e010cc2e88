"""Which choices matter, and where the recipe holds without retuning: one change at a time.

    python -m air_jax.experiments.ablation --config=configs/air.py --config.estimator=enumerate \
        --set=recipe --seeds=200:205 --workdir=runs/ablation/air

Runs `air_jax.experiments.reliability` once for every change of a set, each in a folder of its name
inside the workdir, and writes `table.md` with all of them. The sets are

    recipe    what the recipe consists of: schedule of the prior, presence logit, window prior,
              decoder bias, initial scale of the embedding, learning rates, clipping
    dair      what DAIR's recipe adds to that
    scenes    other scenes than the recipe was found on, the window prior following the size
    batches   images of a step, and the learning rate of Adam times the root of what they are more
"""

import argparse
import copy
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging

from air_jax import program
from air_jax.experiments import arguments, compare, reliability

Changes = Mapping[str, Any]

# The end of the schedule is the config's in all of them, so that all are judged by one prior.
RECIPE: dict[str, Changes] = {
    "as_shipped": {},
    "prior_constant": {"prior.steps": 0},
    "prior_cheap_to_dear": {"prior.start": 0.99},
    "prior_from_1e-9": {"prior.start": 1e-9},
    "presence_logit_-2": {"inference.presence_logit": -2.0},
    "presence_logit_+2": {"inference.presence_logit": 2.0},
    "window_prior_3": {"scene.scale_prior": [3.0, 0.2]},
    "decoder_bias_0": {"scene.decoder_bias": 0.0},
    "embedding_scale_1_50": {"inference.image_init_scale": 0.02},
    "learning_rate_1e-3": {
        "optimizer.learning_rate": 1e-3,
        "optimizer.baseline_learning_rate": 1e-2,
    },
    "final_fraction_0.1": {"optimizer.final_fraction": 0.1},
    "not_clipped": {"optimizer.clip_norm": 1e9},
}

DAIR: dict[str, Changes] = {
    "as_shipped": {},
    "place_regression": {"inference.place": "regression"},
    "place_span_1.6": {"inference.place_span": 1.6},
    "embedding_64": {"inference.embedding_size": 64},
    "glimpse_from_image": {"inference.glimpse_source": "image"},
    "prior_constant": {"prior.steps": 0},
}

# A digit has 20 pixels of ink and its window about 23: `scale_prior` is image over window, and its
# deviation grows with it.
SCENES: dict[str, Changes] = {
    "half_size": {"data.digit_scale": [0.5, 0.5], "scene.scale_prior": [4.4, 0.4]},
    "larger_by_half": {
        "data.digit_scale": [1.5, 1.5],
        # At 50 pixels two of them seldom fit beside each other.
        "data.image_size": 75,
    },
    "0_to_4_digits": {
        "data.counts": [0, 1, 2, 3, 4],
        "data.image_size": 80,
        "scene.scale_prior": [3.5, 0.3],
        "inference.num_steps": 5,
    },
    "noise": {"data.noise": 0.1},
}

# The root is for optimizers that divide by the gradient's own size (Malladi et al., 2022). Those of
# 64 images are the rates of configs/base.py.
BATCHES: dict[str, Changes] = {
    f"batch_{size}": {
        "train.batch_size": size,
        "optimizer.learning_rate": 5e-4 * (size / 64) ** 0.5,
        "optimizer.baseline_learning_rate": 5e-3 * (size / 64) ** 0.5,
    }
    for size in (64, 256, 1024, 4096)
}

SETS = {"recipe": RECIPE, "dair": DAIR, "scenes": SCENES, "batches": BATCHES}


def change(config: Mapping[str, Any], changes: Changes) -> dict[str, Any]:
    """A config with some values replaced.

    Args:
      config: as plain types.
      changes: "section.key" to value.

    Raises:
      ValueError: if the config has no such key.
    """
    changed = copy.deepcopy(dict(config))
    for name, value in changes.items():
        *sections, key = name.split(".")
        section = changed
        for part in sections:
            section = section.get(part, {})
        if key not in section:
            raise ValueError(f"the config has no {name}")
        section[key] = value
    return changed


def run(
    config: Mapping[str, Any], workdir: str, *, changes: Mapping[str, Changes], **options: Any
) -> str:
    """Runs every change of a set.

    Args:
      config: what is changed.
      workdir: folder of the experiment.
      changes: by name.
      **options: of `reliability.run`.

    Returns:
      The table, as in `table.md`.

    Raises:
      ValueError, Interrupted: as `reliability.run`.
    """
    folders = []
    for name, of_name in changes.items():
        logging.info("%s: %s", name, of_name or "nothing changed")
        folders.append(pathlib.Path(workdir) / name)
        reliability.run(change(config, of_name), str(folders[-1]), **options)
    table = compare.table(folders)
    (pathlib.Path(workdir) / "table.md").write_text(table, encoding="utf-8")
    logging.info("results in %s\n%s", workdir, table)
    return table


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m air_jax.experiments.ablation",
        description="Runs a config with one change at a time, each with several seeds.",
    )
    parser.add_argument("--set", choices=list(SETS), required=True, help="which changes")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some of the set's changes")
    reliability.add_options(parser, seeds="200:205")
    given, config = arguments.parse(parser, argv)
    changes = SETS[given.set]
    unknown = set(given.only or ()) - changes.keys()
    if unknown:
        parser.error(f"unknown {', '.join(sorted(unknown))}; {given.set} has {', '.join(changes)}")
    chosen = {name: changes[name] for name in given.only or changes}
    program.finish(lambda: run(config, given.workdir, changes=chosen, **reliability.options(given)))


if __name__ == "__main__":
    main()
