"""The host loop: calls of the compiled steps, logs, validation, checkpoints, resuming, stopping.

What a run leaves in its workdir:

    config.json        the whole config; resuming compares with it
    run.json           versions, commit, devices, data: one entry per start
    metrics.jsonl      scalars ("train", "validation"); also in tensorboard/
    checkpoints/       for resuming
    model/             params.safetensors + config.json, for `air_jax.load` and `air_jax.infer`
    milestones/        reconstructions of a few validation images as training went on
    evaluation.json    the test set, after the last step
    figures/

Training scalars are means since the last entry, under the prior of their step; validation uses the
schedule's end. A run that is stopped between two entries begins its next mean where it resumes;
its state and every later entry are those of an uninterrupted run.
"""

import json
import math
import pathlib
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import chex
import jax
import numpy as np
from absl import logging

from air_jax import checkpoint, export, gallery, parallel, provenance, sections, writer
from air_jax.data.dataset import Dataset, create_dataset
from air_jax.data.scenes import Scenes
from air_jax.evaluate import counting, evaluate, summary
from air_jax.inference import Model, create_model
from air_jax.interruption import Interrupted, Signals
from air_jax.sections import Options
from air_jax.train import AIRTraining, TrainState, create_air_training

# Shares of the run after which its first images are reconstructed for the timeline.
_MILESTONES = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)
# Config entries that a resumed run may change.
_RESUMABLE = (
    *("train.num_steps", "train.log_every", "train.evaluate_every", "train.checkpoint_every"),
    *("train.steps_per_call", "data.cache_dir", "data.tfds_dir", "data.path"),
)


class NonFiniteError(RuntimeError):
    """The loss or a gradient is no longer a number. Names the step."""


class _Run(NamedTuple):
    """What stays the same while a run goes on.

    Attributes:
      folder: the workdir.
      options: intervals and sizes.
      exported: the config as it is exported with the model.
      dataset: all scenes.
      training: train step and initial state.
      key: base key of the steps.
    """

    folder: pathlib.Path
    options: Options
    exported: Mapping[str, Any]
    dataset: Dataset
    training: AIRTraining
    key: chex.PRNGKey

    def model(self, state: TrainState) -> Model:
        return create_model(self.exported, jax.device_get(state.params["model"]))

    def save(self, state: TrainState) -> None:
        checkpoint.save(self.folder / "checkpoints", int(state.step), state)
        self.export(state)

    def export(self, state: TrainState) -> None:
        model = self.model(state)
        config = {**model.config, "step": int(state.step)}
        export.export_model(self.folder / "model", model.params, config)


def run(config: Mapping[str, Any], workdir: str) -> dict[str, Any]:
    """Trains from the config, or goes on where the workdir stopped, and evaluates on the test set.

    Args:
      config: as in `configs/base.py`, as plain types.
      workdir: folder of the run, created if absent.

    Returns:
      The evaluation, as in `workdir/evaluation.json`.

    Raises:
      ValueError: if the config contradicts itself or the one the workdir was begun with.
      NonFiniteError: if training diverges; the last good checkpoint stays.
      Interrupted: after SIGTERM or SIGINT, once the state is saved.
      CheckpointError: if the checkpoint to resume from is damaged.
    """
    clock = time.monotonic()
    sections.check(config)
    folder, options = pathlib.Path(workdir), Options(**config["train"])
    first_step = checkpoint.latest_step(folder / "checkpoints") or 0
    options.check(first_step)
    parallel.batch_positions(options.batch_size, jax.local_device_count())
    if first_step:
        provenance.check_config(folder, config, _RESUMABLE)
    _warn(config)
    dataset = create_dataset(**config["data"])
    logging.info("data: %s", provenance.describe(dataset.description))
    if first_step:
        provenance.check_data(folder, dataset.description)

    # Restore order: the state is built from the config, then replaced by the newest complete
    # checkpoint. Keys need no saving: those of a step are folded from the seed and the step.
    key_init, key_run, key_evaluation = _keys(config)
    names = (
        *("estimator", "num_samples", "centring"),
        *("scene", "inference", "baseline", "prior", "optimizer"),
    )
    image = {"image_size": dataset.train.images.shape[1], "channels": dataset.train.images.shape[3]}
    training = create_air_training(
        **{name: config[name] for name in names},
        **image,
        num_train_steps=options.num_steps,
        key=key_init,
    )
    this = _Run(folder, options, {**config, "image": image}, dataset, training, key_run)
    state, seconds = training.state, 0.0
    if first_step:
        state = checkpoint.restore(folder / "checkpoints", state, first_step)
        # A run that was killed between the two left a model older than its checkpoint.
        this.export(state)
        seconds = _seconds_until(folder, first_step)
        logging.info("resuming from step %d", first_step)
    # Only now: a start that failed before must not bind the next one to its config.
    provenance.record(folder, config, dataset.description, resumed=first_step > 0)

    with (
        writer.Writer(folder, total_steps=options.num_steps, start_step=first_step) as log,
        Signals() as signals,
    ):
        log.text("config", f"```json\n{json.dumps(config, indent=2)}\n```")
        state = _train(this, parallel.replicate(state), log, signals, clock - seconds)
    logging.info("trained; evaluating on the test set")
    model = this.model(state)
    results = {
        "step": int(state.step),
        "data": {name: dataset.description[name] for name in ("source", "digest")},
        **evaluate(model, dataset.test, key=key_evaluation, **config["evaluation"]),
        "seconds": time.monotonic() - clock + seconds,
    }
    writer.write_json(folder / "evaluation.json", results)
    gallery.draw(folder, model, dataset.validation, results)
    logging.info("%s\nmodel and figures in %s", summary(results), folder)
    return results


def evaluate_run(config: Mapping[str, Any], workdir: str) -> dict[str, Any]:
    """Evaluates a run's exported model on the test set, every image in the IWAE bound.

    Args:
      config: the run's.
      workdir: folder of the run.

    Returns:
      The evaluation, as written to `workdir/evaluation.json`.

    Raises:
      CheckpointError: if the workdir holds no model or a damaged one.
      ValueError: if the config is not the one the workdir was begun with.
    """
    folder = pathlib.Path(workdir)
    sections.check(config)
    params, exported = export.load_model(folder / "model")
    provenance.check_config(folder, config, _RESUMABLE)
    dataset = create_dataset(**config["data"])
    logging.info("data: %s", provenance.describe(dataset.description))
    provenance.check_data(folder, dataset.description)
    options = {**config["evaluation"], "iwae_images": len(dataset.test.images)}
    *_, key = _keys(config)
    results = {
        "step": exported["step"],
        "data": {name: dataset.description[name] for name in ("source", "digest")},
        **evaluate(create_model(exported, params), dataset.test, key=key, **options),
        "seconds": None,
    }
    writer.write_json(folder / "evaluation.json", results)
    logging.info("%s", summary(results))
    return results


def _keys(config: Mapping[str, Any]) -> tuple[chex.PRNGKey, chex.PRNGKey, chex.PRNGKey]:
    """Keys of the initial parameters, the steps and the evaluation."""
    key_init, key_run, key_evaluation = jax.random.split(jax.random.key(config["seed"]), 3)
    return key_init, key_run, key_evaluation


def _warn(config: Mapping[str, Any]) -> None:
    """Says what is allowed and yet seldom meant."""
    if config["prior"]["steps"] > config["train"]["num_steps"]:
        logging.warning(
            "prior.steps is %d and train.num_steps %d: the model will be judged with a prior that "
            "it was never trained with.",
            config["prior"]["steps"],
            config["train"]["num_steps"],
        )
    if config["data"]["source"] != "path" and (
        max(config["data"]["counts"], default=0) > config["inference"]["num_steps"]
    ):
        logging.warning(
            "scenes hold up to %d objects and the network takes %d steps (inference.num_steps).",
            max(config["data"]["counts"]),
            config["inference"]["num_steps"],
        )


def _seconds_until(folder: pathlib.Path, step: int) -> float:
    """Wall time that earlier starts spent up to a step."""
    entries = writer.read_scalars(folder, "train")
    return max((entry["seconds"] for entry in entries if entry["step"] <= step), default=0.0)


def _train(
    this: _Run, state: TrainState, log: writer.Writer, signals: Signals, began: float
) -> TrainState:
    """Runs the steps that are left; `began` is when the run would have begun in one go."""
    options = this.options
    num_steps, steps_per_call = options.num_steps, options.steps_per_call
    run_steps = parallel.pmap_steps(this.training.train_step, steps_per_call)
    positions = parallel.batch_positions(options.batch_size, jax.local_device_count())
    arguments = (
        parallel.shard(positions),
        parallel.replicate(this.dataset.train.images),
        parallel.replicate(this.key),
    )
    # A part of it: validation shall be short beside the training.
    validation = Scenes(*(x[: options.validation_images] for x in this.dataset.validation))
    milestones = {
        steps_per_call * math.ceil(share * num_steps / steps_per_call) for share in _MILESTONES
    }
    step = int(state.step)
    if step == 0:
        gallery.save_milestone(this.folder, step, this.model(state), validation)
    shown: dict[str, float] = {}
    pending: list[dict[str, np.ndarray]] = []
    durations: list[float] = []
    compiled = False
    while step < num_steps:
        called = time.monotonic()
        state, metrics = run_steps(state, *arguments)
        metrics = jax.device_get(metrics)
        duration = time.monotonic() - called
        _check_finite(metrics, step, this.folder)
        pending.append(metrics)
        step += steps_per_call
        last = step == num_steps
        if compiled:
            durations.append(duration)
        else:
            log.message(f"compiled and took {steps_per_call} steps in {duration:.1f} s")
            compiled = True

        if step % options.evaluate_every == 0 or last:
            shown = _validate(this.model(state), validation, step, began, log)
        if step % options.log_every == 0 or last:
            # The speed of the calls alone, without compilation, validation and checkpoints.
            speed = len(durations) * steps_per_call / sum(durations) if durations else None
            _log(step, pending, speed, began, shown, log)
            pending, durations = [], []
        if step in milestones:
            gallery.save_milestone(this.folder, step, this.model(state), validation)
        if step % options.checkpoint_every == 0 or last or signals.received:
            this.save(state)
        if signals.received:
            raise Interrupted(signals.received, step)
    return state


def _log(
    step: int,
    pending: list[dict[str, np.ndarray]],
    steps_per_second: float | None,
    began: float,
    shown: Mapping[str, float],
    log: writer.Writer,
) -> None:
    """Logs the means of the steps since the last time."""
    means = {
        name: float(np.concatenate([metrics[name] for metrics in pending]).mean())
        for name in pending[0]
    }
    means["seconds"] = time.monotonic() - began
    if steps_per_second is not None:
        means["steps_per_second"] = steps_per_second
    log.scalars(step, "train", means)
    progress = {"ELBO": means["elbo"], "objects": means["num_objects"], **shown}
    log.progress(step, progress, steps_per_second)


def _validate(
    model: Model, scenes: Scenes, step: int, began: float, log: writer.Writer
) -> dict[str, float]:
    """Logs ELBO and, where counts are known, accuracy; returns what the progress line shows."""
    objects = model.infer(scenes.images)
    scalars = {name: float(values.mean()) for name, values in objects.elbo_terms.items()}
    scalars["seconds"] = time.monotonic() - began
    shown = {}
    if (scenes.counts >= 0).any():
        results = counting(objects, scenes.counts)
        scalars["count_accuracy"] = results["count_accuracy"]
        for count, accuracy in results["count_accuracy_per_count"].items():
            scalars[f"count_accuracy_n{count}"] = accuracy
        shown["count accuracy %"] = 100 * results["count_accuracy"]
    log.scalars(step, "validation", scalars)
    return shown


def _check_finite(metrics: Mapping[str, np.ndarray], first_step: int, folder: pathlib.Path) -> None:
    watched = [name for name in metrics if name == "loss" or name.startswith("gradient_norm")]
    for i in range(len(metrics["loss"])):
        bad = [name for name in watched if not np.isfinite(metrics[name][i])]
        if bad:
            raise NonFiniteError(
                f"{', '.join(bad)} not finite at step {first_step + i}; the last good checkpoint "
                f"is {_last_checkpoint(folder)}. A lower learning rate, in another --workdir, is "
                "the usual remedy."
            )


def _last_checkpoint(folder: pathlib.Path) -> str:
    step = checkpoint.latest_step(folder / "checkpoints")
    return "none yet" if step is None else f"that of step {step}"
