"""What it is worth to take glyphs apart: a model with some steps against one with a single step.

    python -m air_jax.experiments.parsing --config=configs/omniglot.py --workdir=runs/parsing

Trains three models from one config, each an ordinary run in a folder of its name inside the
workdir; the same command resumes those that were interrupted and skips those that are finished:

    steps_N       the config as it is, with its N steps (paper, Sec. 3.1: Omniglot)
    steps_1       the same with one step, which has one window for one part
    one_window    one step whose window holds a whole glyph, with a code as long as those of the N
                  parts together: what a single object can do that is not held to a part's size

Both sets that they are measured on are new to them: of Omniglot "validation" has other characters
of the alphabets that were trained on, "test" other alphabets. The workdir gets

    parsing.json          every model on both sets; means and deviations over the seeds; what N
                          steps gain upon either of the others
    parsing.csv           one line for a model, a seed and a set
    table.md              the means as a table
    step_by_step.png      glyphs of the test set, drawn part by part by the first seed of steps_N
    reconstructions.png   the same glyphs by the first seed of each model

The error is that of the reconstruction at the posterior means, squared, a mean over pixels, with
full ink 1; its share is that of the error of an empty canvas. ELBO and IWAE are those of each
model's own prior.
"""

import argparse
import itertools
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from air_jax import figures, files, kinds, program, provenance, tables, writer
from air_jax.data.dataset import create_dataset
from air_jax.data.scenes import Scenes
from air_jax.experiments import ablation, arguments, parsing_report, runs
from air_jax.experiments.parsing_report import SETS
from air_jax.inference import Model

_NUM_SHOWN = 9
# Just holds 95 of 100 glyphs, which are up to 42 of 50 pixels tall or wide.
_WHOLE_GLYPH = [1.2, 0.1]

# What --smoke changes in every model.
SMOKE: ablation.Changes = {
    **runs.SMOKE,
    "data.num_test": 12,
    "inference.num_steps": 2,
    "evaluation.iwae_images": 12,
    "evaluation.iwae_samples": 5,
}


def variants(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The configs that are compared, by name; the one with N steps first.

    Args:
      config: of the model with N steps, as plain types.

    Raises:
      ValueError: if N is 1.
    """
    num_steps = config["inference"]["num_steps"]
    if num_steps < 2:
        raise ValueError(
            f"inference.num_steps is {num_steps}; it must be at least 2, to be compared with 1."
        )
    changes: dict[str, ablation.Changes] = {
        f"steps_{num_steps}": {},
        "steps_1": {"inference.num_steps": 1},
        "one_window": {
            "inference.num_steps": 1,
            "scene.scale_prior": _WHOLE_GLYPH,
            "scene.window_size": config["data"]["image_size"],
            "scene.z_what_size": num_steps * config["scene"]["z_what_size"],
        },
    }
    return {name: ablation.change(config, of_name) for name, of_name in changes.items()}


def measure(model: Model, scenes: Scenes) -> dict[str, Any]:
    """What a model is worth without known counts.

    Args:
      model: with its config.
      scenes: n images.

    Returns:
      `num_images`; `elbo` and its terms, nats per image, one sample; `squared_error`, a mean over
      images and pixels, full ink being 1; `share_of_error`, of the error of an empty canvas;
      `num_steps`, the mean number of parts; `images_per_num_steps`, of 0..N.
    """
    found = model.infer(scenes.images, key=jax.random.key(model.config["seed"]))
    images = scenes.images.astype(np.float32) / 255
    error = float(np.square(found.reconstructions - images).mean())
    return {
        "num_images": len(images),
        **{name: float(values.mean()) for name, values in found.elbo_terms.items()},
        "squared_error": error,
        "share_of_error": error / float(np.square(images).mean()),
        "num_steps": float(found.counts.mean()),
        "images_per_num_steps": np.bincount(
            found.counts, minlength=model.air.num_steps + 1
        ).tolist(),
    }


def run(
    config: Mapping[str, Any], workdir: str, *, seeds: range, num_processes: int = 1
) -> dict[str, Any]:
    """Trains the models that are not finished yet and compares them.

    Args:
      config: of the model with N steps; its seed is not used.
      workdir: folder of the experiment.
      seeds: of each model, ascending by one.
      num_processes: programs at a time, see `runs.train`.

    Returns:
      What `parsing.json` holds.

    Raises:
      ValueError: if the config's model is of another kind or has one step, there is no seed, the
        workdir holds runs of another config, or a run diverged.
      FileNotFoundError: if the data are not there.
      Interrupted: after SIGTERM or SIGINT, once every run has saved its state.
    """
    kinds.require(config, "air")
    configs, target = variants(config), pathlib.Path(workdir)
    programs = {name: runs.plan(of_name, target / name, seeds) for name, of_name in configs.items()}
    # Before the first run: without data it shall not begin.
    dataset = create_dataset(**config["data"])
    runs.train(list(itertools.chain.from_iterable(programs.values())), num_processes)
    rows: list[dict[str, Any]] = []
    shown: dict[str, Model] = {}
    for name, those in programs.items():
        for seed, trained in zip(seeds, those, strict=True):
            evaluation = trained.require_evaluation(seed)
            model = kinds.load_air(trained.folder)
            for split in SETS:
                measured = measure(model, getattr(dataset, split))
                iwae = evaluation[f"iwae_{config['evaluation']['iwae_samples']}"]
                measured["iwae"] = iwae if split == "test" else None
                rows.append({"model": name, "seed": seed, "set": split, **measured})
                logging.info("%s, seed %d, %s: %s", name, seed, split, _sentence(measured))
            shown.setdefault(name, model)
    summary = parsing_report.summarise(rows)
    results = {
        "arguments": sys.argv[1:],
        **provenance.surroundings(),
        "config": dict(config),
        "data": provenance.without_folder(dataset.description),
        "measurements": rows,
        "summary": summary,
        "worth": parsing_report.worth(summary),
    }
    writer.write_json(target / "parsing.json", results)
    files.write_atomically(target / "parsing.csv", tables.to_csv(rows).encode())
    text = parsing_report.table(results)
    files.write_atomically(target / "table.md", text.encode())
    _draw(shown, dataset.test.images[:_NUM_SHOWN], target)
    logging.info("results in %s\n%s", workdir, text)
    return results


def _sentence(measured: Mapping[str, Any]) -> str:
    return (
        f"ELBO {measured['elbo']:.1f}, squared error {measured['squared_error']:.5f}, "
        f"{measured['num_steps']:.2f} steps"
    )


def _draw(models: Mapping[str, Model], images: np.ndarray, target: pathlib.Path) -> None:
    """The two figures of the same glyphs."""
    model = next(iter(models.values()))
    num_steps = model.air.num_steps
    # A network that stops earlier has the same parameters and draws the same parts: its canvas is
    # that of the first of them.
    step_by_step = {f"{n} of {num_steps}": kinds.with_steps(model, n) for n in range(1, num_steps)}
    step_by_step[f"{num_steps} of {num_steps}"] = model
    parts = parsing_report.reconstructions(step_by_step, images, num_steps, title="steps")
    figures.save(parts, target / "step_by_step.png")
    figures.save(
        parsing_report.reconstructions(models, images, num_steps), target / "reconstructions.png"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m air_jax.experiments.parsing",
        description="Compares a model that takes glyphs apart with one that does not.",
    )
    runs.add_options(parser, seeds="0:1")
    parser.add_argument(
        "--smoke", action="store_true", help="a try: one seed, few steps and images"
    )
    given, config = arguments.parse(parser, argv)
    if given.smoke:
        config = ablation.change(config, SMOKE)
    seeds = range(1) if given.smoke else given.seeds
    options = {"seeds": seeds, "num_processes": given.processes}
    program.finish(lambda: run(config, given.workdir, **options))


if __name__ == "__main__":
    main()
