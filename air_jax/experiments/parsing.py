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
import json
import pathlib
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from air_jax import figures, files, kinds, loop, program, provenance, writer
from air_jax.data.dataset import create_dataset
from air_jax.data.scenes import Scenes
from air_jax.experiments import ablation, arguments, estimators_report
from air_jax.experiments.generalization import with_steps
from air_jax.inference import Model, Objects
from air_jax.trained import TrainedModel

_NUM_SHOWN = 9
_SETS = ("validation", "test")
_MEASURES = ("elbo", "iwae", "squared_error", "share_of_error", "num_steps")
# Just holds 95 of 100 glyphs, which are up to 42 of 50 pixels tall or wide.
_WHOLE_GLYPH = [1.2, 0.1]

# What --smoke changes in every model.
SMOKE: ablation.Changes = {
    "data.num_train": 64,
    "data.num_validation": 12,
    "data.num_test": 12,
    "inference.num_steps": 2,
    "inference.hidden_size": 32,
    "inference.embedding_size": 32,
    "prior.steps": 20,
    "train.batch_size": 8,
    "train.num_steps": 20,
    "train.steps_per_call": 10,
    "train.log_every": 10,
    "train.evaluate_every": 20,
    "train.checkpoint_every": 20,
    "train.validation_images": 12,
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


def run(config: Mapping[str, Any], workdir: str, *, seeds: range) -> dict[str, Any]:
    """Trains the models that are not finished yet and compares them.

    Args:
      config: of the model with N steps; its seed is not used.
      workdir: folder of the experiment.
      seeds: of each model, ascending by one.

    Returns:
      What `parsing.json` holds.

    Raises:
      ValueError: if the config's model is of another kind or has one step, there is no seed, or the
        workdir holds runs of another config.
      FileNotFoundError: if the data are not there.
      NonFiniteError: if a run diverges.
      Interrupted: after SIGTERM or SIGINT, once the run has saved its state.
    """
    kinds.require(config, "air")
    if not seeds:
        raise ValueError(f"seeds {seeds}: there must be at least one.")
    configs, target = variants(config), pathlib.Path(workdir)
    # Before the first run: without data it shall not begin.
    dataset = create_dataset(**config["data"])
    rows: list[dict[str, Any]] = []
    shown: dict[str, Model] = {}
    for name, of_name in configs.items():
        for seed in seeds:
            folder = target / name / f"seeds_{seed}"
            evaluation = _train({**of_name, "seed": seed, "num_seeds": 1}, folder)
            model = kinds.load_air(folder)
            for split in _SETS:
                measured = measure(model, getattr(dataset, split))
                iwae = evaluation[f"iwae_{config['evaluation']['iwae_samples']}"]
                measured["iwae"] = iwae if split == "test" else None
                rows.append({"model": name, "seed": seed, "set": split, **measured})
                logging.info("%s, seed %d, %s: %s", name, seed, split, _sentence(measured))
            shown.setdefault(name, model)
    summary = _summary(rows)
    results = {
        "arguments": sys.argv[1:],
        **provenance.surroundings(),
        "config": dict(config),
        "data": dataset.description,
        "measurements": rows,
        "summary": summary,
        "worth": _worth(summary),
    }
    writer.write_json(target / "parsing.json", results)
    files.write_atomically(target / "parsing.csv", estimators_report.to_csv(rows).encode())
    text = table(summary)
    files.write_atomically(target / "table.md", text.encode())
    _draw(shown, dataset.test.images[:_NUM_SHOWN], target)
    logging.info("results in %s\n%s", workdir, text)
    return results


def _train(config: Mapping[str, Any], folder: pathlib.Path) -> dict[str, Any]:
    """Trains a run if it is not finished; returns its evaluation."""
    file = folder / "evaluation.json"
    if file.exists():
        provenance.check_config(folder, config, ("data.cache_dir", "data.tfds_dir"))
        return json.loads(file.read_text(encoding="utf-8"))
    logging.info("%s", folder)
    return loop.run(config, str(folder))[0]


def _sentence(measured: Mapping[str, Any]) -> str:
    return (
        f"ELBO {measured['elbo']:.1f}, squared error {measured['squared_error']:.5f}, "
        f"{measured['num_steps']:.2f} steps"
    )


def _summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Model to set to measure to mean, deviation and number of seeds; None where unknown."""
    summary: dict[str, Any] = {}
    for row in rows:
        of_set = summary.setdefault(row["model"], {}).setdefault(row["set"], {})
        for name in _MEASURES:
            of_set.setdefault(name, []).append(row[name])
    for of_model in summary.values():
        for of_set in of_model.values():
            for name, values in of_set.items():
                of_set[name] = None if None in values else _mean(values)
    return summary


def _mean(values: Sequence[float]) -> dict[str, Any]:
    return {
        "mean": statistics.fmean(values),
        "sd": statistics.stdev(values) if len(values) > 1 else None,
        "num": len(values),
    }


def _worth(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What N steps, the first model, gain upon each other one: nats, and the errors' ratio."""
    first, *others = summary
    worth: dict[str, Any] = {}
    for other in others:
        worth[other] = {}
        for split in _SETS:
            ours, theirs = summary[first][split], summary[other][split]
            error = ours["squared_error"]["mean"] / theirs["squared_error"]["mean"]
            worth[other][split] = {
                "elbo_gained": ours["elbo"]["mean"] - theirs["elbo"]["mean"],
                "squared_error_ratio": error,
            }
    return worth


def table(summary: Mapping[str, Any]) -> str:
    """The models side by side, in Markdown; means and deviations over the seeds.

    Args:
      summary: as in `parsing.json`.
    """
    header = ["model", "set", "seeds", "ELBO (nats)", "IWAE (nats)", "squared error per pixel"]
    header += ["share of an empty canvas's (%)", "steps"]
    rows = [header, ["---"] * len(header)]
    for name, of_model in summary.items():
        for split, of_set in of_model.items():
            rows.append(
                [
                    *(name, split, str(of_set["elbo"]["num"])),
                    *(_spread(of_set["elbo"], 1), _spread(of_set["iwae"], 1)),
                    _spread(of_set["squared_error"], 5),
                    _spread(of_set["share_of_error"], 1, factor=100),
                    _spread(of_set["num_steps"], 2),
                ]
            )
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _spread(value: Mapping[str, Any] | None, digits: int, factor: float = 1.0) -> str:
    if value is None:
        return "-"
    mean = f"{factor * value['mean']:.{digits}f}"
    return mean if value["sd"] is None else f"{mean} ± {factor * value['sd']:.{digits}f}"


def _draw(models: Mapping[str, Model], images: np.ndarray, target: pathlib.Path) -> None:
    """The two figures of the same glyphs."""
    model = next(iter(models.values()))
    num_steps = model.air.num_steps
    # A network that stops earlier has the same parameters and draws the same parts: its canvas is
    # that of the first of them.
    step_by_step = {f"{n} of {num_steps}": with_steps(model, n) for n in range(1, num_steps)}
    step_by_step[f"{num_steps} of {num_steps}"] = model
    _draw_rows(step_by_step, images, num_steps, target / "step_by_step.png", title="steps")
    _draw_rows(models, images, num_steps, target / "reconstructions.png")


def _draw_rows(
    models: Mapping[str, TrainedModel],
    images: np.ndarray,
    num_steps: int,
    path: pathlib.Path,
    title: str = "",
) -> None:
    """A row of reconstructions and windows for each model, of at most `num_steps` steps."""
    reconstructions, windows, present = [], [], []
    for model in models.values():
        found = model.infer(images)
        assert isinstance(found, Objects)
        z_where = np.ones((len(images), num_steps, 3), np.float32)
        z_where[:, : found.z_where.shape[1]] = found.z_where
        reconstructions.append(found.reconstructions)
        windows.append(z_where)
        present.append(np.arange(num_steps) < found.counts[:, None])
    parts = (np.stack(part) for part in (reconstructions, windows, present))
    figures.save(figures.reconstruction_rows(images, list(models), *parts, title=title), path)


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m air_jax.experiments.parsing",
        description="Compares a model that takes glyphs apart with one that does not.",
    )
    parser.add_argument("--seeds", type=int, default=1, help="how many of each model, default 1")
    parser.add_argument(
        "--smoke", action="store_true", help="a try: one seed, few steps and images"
    )
    given, config = arguments.parse(parser, argv)
    if given.smoke:
        config = ablation.change(config, SMOKE)
    first = config["seed"]
    seeds = range(first, first + (1 if given.smoke else given.seeds))
    program.finish(lambda: run(config, given.workdir, seeds=seeds))


if __name__ == "__main__":
    main()
