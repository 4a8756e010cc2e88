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
"""

import math
import pathlib
import signal
import threading
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
from air_jax.evaluate import counting, evaluate
from air_jax.inference import Model, create_model
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


class Interrupted(Exception):
    """The process was asked to stop; the state is saved.

    Attributes:
      signal: number of the signal.
    """

    def __init__(self, number: int, step: int):
        super().__init__(
            f"stopped by {signal.Signals(number).name} at step {step}, checkpoint written; "
            "the same command resumes"
        )
        self.signal = number


class Options(NamedTuple):
    """The config's section `train`; intervals in steps, multiples of `steps_per_call`.

    Attributes:
      batch_size: images of a step, over all devices.
      num_steps: length of the run.
      steps_per_call: steps inside one compiled call.
      log_every: between entries of training scalars.
      evaluate_every: between validations.
      checkpoint_every: between checkpoints.
      validation_images: images of a validation, the first ones of the set.
    """

    batch_size: int
    num_steps: int
    steps_per_call: int
    log_every: int
    evaluate_every: int
    checkpoint_every: int
    validation_images: int

    def check(self) -> None:
        """Raises ValueError if an interval is not a positive multiple of `steps_per_call`."""
        for name in ("num_steps", "log_every", "evaluate_every", "checkpoint_every"):
            value = getattr(self, name)
            if value <= 0 or value % self.steps_per_call:
                raise ValueError(
                    f"train.{name} is {value}; it must be a positive multiple of "
                    f"train.steps_per_call, {self.steps_per_call}."
                )


class _Run(NamedTuple):
    """What stays the same while a run goes on.

    Attributes:
      folder: the workdir.
      options: intervals and sizes.
      exported: the config as it is exported with the model.
      dataset: all scenes.
      training: network, prior, train step, initial state.
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
        step = int(state.step)
        checkpoint.save(self.folder / "checkpoints", step, state)
        model = self.model(state)
        export.export_model(self.folder / "model", model.params, {**model.config, "step": step})


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
    started = time.monotonic()
    sections.check(config, loop_options=Options)
    folder, options = pathlib.Path(workdir), Options(**config["train"])
    options.check()
    parallel.batch_positions(options.batch_size, jax.local_device_count())
    provenance.check_resumable(folder / "config.json", config, allowed=_RESUMABLE)
    dataset = create_dataset(**config["data"])
    logging.info("data: %s", provenance.describe(dataset.description))
    provenance.record(folder, config, dataset.description)

    # Restore order: the state is built from the config, then replaced by the newest complete
    # checkpoint. Keys need no saving: those of a step are folded from the seed and the step.
    key_init, key_run, key_evaluation = jax.random.split(jax.random.key(config["seed"]), 3)
    names = ("estimator", "scene", "inference", "baseline", "prior", "optimizer")
    image = {"image_size": dataset.train.images.shape[1], "channels": dataset.train.images.shape[3]}
    training = create_air_training(
        **{name: config[name] for name in names},
        **image,
        num_train_steps=options.num_steps,
        key=key_init,
    )
    state, first_step = training.state, checkpoint.latest_step(folder / "checkpoints") or 0
    if first_step:
        state = checkpoint.restore(folder / "checkpoints", state, first_step)
        logging.info("resuming from step %d", first_step)

    this = _Run(folder, options, {**config, "image": image}, dataset, training, key_run)
    with (
        writer.Writer(folder, total_steps=options.num_steps, start_step=first_step) as log,
        _Signals() as signals,
    ):
        state = _train(this, parallel.replicate(state), log, signals)
    logging.info("trained; evaluating on the test set")
    model = this.model(state)
    results = {
        "step": int(state.step),
        **evaluate(model, dataset.test, key=key_evaluation, **config["evaluation"]),
        "seconds": time.monotonic() - started,
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
    started = time.monotonic()
    folder = pathlib.Path(workdir)
    params, exported = export.load_model(folder)
    provenance.check_resumable(folder / "config.json", config, allowed=_RESUMABLE)
    dataset = create_dataset(**config["data"])
    logging.info("data: %s", provenance.describe(dataset.description))
    _, _, key = jax.random.split(jax.random.key(config["seed"]), 3)
    section = {**config["evaluation"], "iwae_images": len(dataset.test.images)}
    results = {
        "step": exported["step"],
        **evaluate(create_model(exported, params), dataset.test, key=key, **section),
        "seconds": time.monotonic() - started,
    }
    writer.write_json(folder / "evaluation.json", results)
    logging.info("%s", summary(results))
    return results


def summary(results: Mapping[str, Any]) -> str:
    """The evaluation in a few lines for a terminal."""
    lines = [f"test set, {results['num_images']:,} images, step {results['step']:,}"]
    for name, text in (
        ("count_accuracy", "count accuracy        {:.2%}"),
        ("average_precision_50", "AP at IoU 0.5         {:.3f}"),
        ("mean_iou", "mean IoU of matches   {:.3f}"),
        ("share_matched", "objects matched       {:.2%}"),
        ("elbo", "ELBO                  {:.1f} nats per image"),
        ("iwae_100", "IWAE-100              {:.1f} nats per image"),
        ("seconds", "wall time             {:.0f} s"),
    ):
        if results.get(name) is not None:
            lines.append("  " + text.format(results[name]))
    for count, accuracy in results.get("count_accuracy_per_count", {}).items():
        lines.append(f"  count accuracy, n = {count}: {accuracy:.2%}")
    return "\n".join(lines)


def _train(this: _Run, state: TrainState, log: writer.Writer, signals: "_Signals") -> TrainState:
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
            shown = _validate(this.model(state), validation, step, log)
        if step % options.log_every == 0 or last:
            # The speed of the calls alone, without compilation, validation and checkpoints.
            speed = len(durations) * steps_per_call / sum(durations) if durations else None
            _log(step, pending, speed, shown, log)
            pending, durations = [], []
        if step in milestones:
            gallery.save_milestone(this.folder, step, this.model(state), validation)
        if step % options.checkpoint_every == 0 or last or signals.received:
            this.save(state)
        if signals.received and not last:
            raise Interrupted(signals.received, step)
    return state


def _log(
    step: int,
    pending: list[dict[str, np.ndarray]],
    steps_per_second: float | None,
    shown: Mapping[str, float],
    log: writer.Writer,
) -> None:
    """Logs the means of the steps since the last time."""
    means = {
        name: float(np.concatenate([metrics[name] for metrics in pending]).mean())
        for name in pending[0]
    }
    if steps_per_second is not None:
        means["steps_per_second"] = steps_per_second
    log.scalars(step, "train", means)
    progress = {"ELBO": means["elbo"], "objects": means["num_objects"], **shown}
    log.progress(step, progress, steps_per_second)


def _validate(model: Model, scenes: Scenes, step: int, log: writer.Writer) -> dict[str, float]:
    """Logs ELBO and, where counts are known, accuracy; returns what the progress line shows."""
    objects = model.infer(scenes.images)
    scalars = {name: float(values.mean()) for name, values in objects.elbo_terms.items()}
    shown = {}
    if (scenes.counts >= 0).all():
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
                f"in {folder / 'checkpoints'} stays. A lower learning rate is the usual remedy."
            )


class _Signals:
    """Notes SIGTERM and SIGINT while it is entered, so that the loop can stop between calls."""

    def __init__(self):
        self.received = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number, _):
        self.received = number
