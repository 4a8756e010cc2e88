"""The host loop: calls of the compiled steps, logs, validation, checkpoints, resuming, stopping.

What a run leaves in its workdir:

    config.json        the whole config; resuming compares with it
    run.json           versions, commit, devices, data: one entry per start
    metrics.jsonl      scalars ("train", "validation"); also in tensorboard/
    checkpoints/       for resuming
    model/             params.safetensors + config.json, for `air_jax.load` and `air_jax.infer`
    snapshots/         step_000800, ...: the model as it was then, with `train.snapshot_every`
    milestones/        reconstructions of a few validation images as training went on
    evaluation.json    the test set, after the last step
    figures/

With `num_seeds` of 2 or more, independent runs in one program, every seed has a folder of its own,
`workdir/seed_N`, with all of this but the config, the record and the checkpoints, which they share:
`seed_N/model` is a model like any other.

Training scalars are means since the last entry, under the prior of their step; validation uses the
schedule's end. A run that is stopped between two entries begins its next mean where it resumes;
its state and every later entry are those of an uninterrupted run.
"""

import json
import math
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, NoReturn

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from air_jax import checkpoint, export, gallery, kinds, parallel, provenance, sections, writer
from air_jax.batches import Batches, create_batches
from air_jax.data.dataset import Dataset
from air_jax.data.scenes import Scenes
from air_jax.evaluate import summary
from air_jax.interruption import Interrupted, Signals
from air_jax.monitor import Monitor
from air_jax.sections import Options
from air_jax.seeds import Seed, create_seeds
from air_jax.train import TrainState
from air_jax.trained import TrainedModel

# Config entries that are of a machine: processes on several of them may have others.
_ELSEWHERE = ("data.cache_dir", "data.tfds_dir", "data.path")
# Config entries that a resumed run may change.
RESUMABLE: tuple[str, ...] = (
    *("train.num_steps", "train.log_every", "train.evaluate_every", "train.checkpoint_every"),
    *("train.snapshot_every", "train.steps_per_call"),
    *("data.resident", *_ELSEWHERE),
)


class _Run(NamedTuple):
    """What stays the same while a run goes on.

    Attributes:
      folder: the workdir.
      options: intervals and sizes.
      seeds: one, or many in one program.
      dataset: all scenes.
      train_step: of one seed.
      keys: base keys of the steps, with the seeds' axis where the state has one.
    """

    folder: pathlib.Path
    options: Options
    seeds: tuple[Seed, ...]
    dataset: Dataset
    train_step: Callable[..., Any]
    keys: chex.PRNGKey

    @property
    def checkpoints(self) -> pathlib.Path:
        return self.folder / "checkpoints"

    def save(self, step: int, state: TrainState) -> None:
        if parallel.is_first():
            checkpoint.save(self.checkpoints, step, state)
            self.export(state)

    def export(self, state: TrainState, name: str = "model") -> None:
        if not parallel.is_first():
            return
        state = jax.device_get(state)
        for seed in self.seeds:
            seed.export(state, name)


def run(config: Mapping[str, Any], workdir: str) -> list[dict[str, Any]]:
    """Trains from the config, or goes on where the workdir stopped, and evaluates on the test set.

    Args:
      config: as in `configs/base.py`, as plain types.
      workdir: folder of the run, created if absent.

    Returns:
      The evaluation of every seed, as in its `evaluation.json`; nothing in a process that is not
      the first of several.

    Raises:
      ValueError: if the config contradicts itself or the one the workdir was begun with, or
        processes have different ones.
      NonFiniteError: if training diverges; the last good checkpoint stays. Of many seeds, one that
        diverges is frozen as it was and marked in its evaluation; the others go on.
      Interrupted: after SIGTERM or SIGINT, once the state is saved.
      CheckpointError: if the checkpoint to resume from is damaged.
    """
    clock = time.monotonic()
    sections.check(config)
    parallel.check_agreement("config", provenance.essence(config, _ELSEWHERE))
    folder, options = pathlib.Path(workdir), Options(**config["train"])
    first_process = parallel.is_first()
    if first_process and folder.exists() and not folder.is_dir():
        raise NotADirectoryError(
            f"--workdir {folder} is a file: give a folder, which need not exist"
        )
    first_step = checkpoint.latest_step(folder / "checkpoints") or 0 if first_process else 0
    first_step = int(parallel.from_first(np.asarray(first_step)))
    options.check(first_step)
    positions = parallel.own_positions(options.batch_size)
    if first_step and first_process:
        provenance.check_config(folder, config, RESUMABLE)
    for warning in kinds.of(config).warnings(config):
        logging.warning("%s", warning)
    dataset = kinds.create_dataset(config)
    logging.info("data: %s", provenance.describe(dataset.description))
    if options.batch_size > len(dataset.train.images):
        logging.warning(
            "train.batch_size is %d and there are %d training images: batches are drawn with "
            "replacement, so that each holds some images more than once.",
            options.batch_size,
            len(dataset.train.images),
        )
    parallel.check_agreement("data set", provenance.essence(dataset.description, ("folder",)))
    if first_step and first_process:
        provenance.check_data(folder, dataset.description)

    # Restore order: the state is built from the config, then replaced by the newest complete
    # checkpoint. Keys need no saving: those of a step are folded from the seed and the step.
    image = {"image_size": dataset.train.images.shape[1], "channels": dataset.train.images.shape[3]}
    seeds = create_seeds({**config, "image": image}, folder)
    training = kinds.create_training(config, **image, freeze_non_finite=len(seeds) > 1)
    with parallel.on_host():
        keys = [seed.keys for seed in seeds]
        if len(seeds) > 1:
            state = jax.vmap(training.init)(_stack([key.init for key in keys]))
            run_keys = _stack([key.run for key in keys])
        else:
            state, run_keys = training.init(keys[0].init), keys[0].run
    this = _Run(folder, options, seeds, dataset, training.train_step, run_keys)
    seconds = 0.0
    if first_step:
        if first_process:
            state = checkpoint.restore(folder / "checkpoints", state, first_step)
            # A run that was killed between the two left a model older than its checkpoint.
            this.export(state)
            seconds = _seconds_until(seeds[0].folder, first_step)
        state = parallel.from_first(state)
        others = _other_devices(folder) if first_process else ""
        logging.info("resuming from step %d%s", first_step, others)
    # Only now: a start that failed before must not bind the next one to its config.
    if first_process:
        provenance.record(folder, config, dataset.description, resumed=first_step > 0)

    # A part of them: validation shall be short beside the training.
    validation = type(dataset.validation)(
        *(x[: options.validation_images] for x in dataset.validation)
    )
    monitor = Monitor(
        seeds,
        validation,
        total_steps=options.num_steps,
        start_step=first_step,
        began=clock - seconds,
        quiet=not first_process,
    )
    batches = create_batches(
        *(dataset.train.images, positions, run_keys),
        steps_per_call=options.steps_per_call,
        num_steps=options.num_steps,
    )
    with monitor, batches, Signals() as signals:
        monitor.text("config", f"```json\n{json.dumps(config, indent=2)}\n```")
        state = parallel.replicate(state, parallel.global_mesh())
        state = _train(this, state, first_step, batches, validation, monitor, signals)
    if not first_process:
        parallel.meet()
        return []
    logging.info("trained; evaluating on the test set")
    state = jax.device_get(state)
    everything = []
    for seed in seeds:
        model, step = seed.model(state), int(seed.pick(state.step))
        results = _evaluate(seed, model, step, options.num_steps, dataset, config["evaluation"])
        results["seconds"] = time.monotonic() - clock + seconds
        writer.write_json(seed.folder / "evaluation.json", results)
        if "not_finite_at" not in results:
            gallery.draw(seed.folder, model, dataset.validation, results)
        logging.info("%s\nmodel and figures in %s", summary(results), seed.folder)
        everything.append(results)
    parallel.meet()
    return everything


def _other_devices(folder: pathlib.Path) -> str:
    """What to say of a run that goes on with another number of devices than it had."""
    before, now = provenance.last_num_devices(folder), jax.device_count()
    if before in (None, now):
        return ""
    return f" with {now} device(s) after {before}: the global batch stays as it is"


def _stack(keys: Sequence[chex.PRNGKey]) -> chex.PRNGKey:
    """Keys as one array, `[K]`."""
    return jax.random.wrap_key_data(jnp.stack([jax.random.key_data(key) for key in keys]))


def evaluate_run(config: Mapping[str, Any], workdir: str) -> list[dict[str, Any]]:
    """Evaluates a run's exported models on the test set, every image in the IWAE bound.

    Args:
      config: the run's.
      workdir: folder of the run.

    Returns:
      The evaluation of every seed, as written to its `evaluation.json`.

    Raises:
      CheckpointError: if the workdir holds no model or a damaged one.
      ValueError: if the config is not the one the workdir was begun with.
    """
    if not parallel.is_first():
        parallel.meet()
        return []
    folder = pathlib.Path(workdir)
    sections.check(config)
    seeds = create_seeds(config, folder)
    models = [export.load_model(seed.folder / "model") for seed in seeds]
    provenance.check_config(folder, config, RESUMABLE)
    dataset = kinds.create_dataset(config)
    logging.info("data: %s", provenance.describe(dataset.description))
    provenance.check_data(folder, dataset.description)
    options = {**config["evaluation"], "iwae_images": len(dataset.test.images)}
    reached = max(exported["step"] for _, exported in models)
    everything = []
    for seed, (params, exported) in zip(seeds, models, strict=True):
        model = kinds.create_model(exported, params)
        results = _evaluate(seed, model, exported["step"], reached, dataset, options)
        results["seconds"] = None
        writer.write_json(seed.folder / "evaluation.json", results)
        logging.info("%s", summary(results))
        everything.append(results)
    parallel.meet()
    return everything


def _evaluate(
    seed: Seed,
    model: TrainedModel,
    step: int,
    reached: int,
    dataset: Dataset,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """What a seed's model is worth on the test set: nothing, if it was frozen before `reached`."""
    results = {
        "seed": seed.number,
        "step": step,
        "data": {name: dataset.description[name] for name in ("source", "digest")},
    }
    if step < reached:
        return {**results, "not_finite_at": step}
    evaluate = kinds.of(model.config).evaluate
    return {**results, **evaluate(model, dataset.test, key=seed.keys.evaluation, **options)}


def _seconds_until(folder: pathlib.Path, step: int) -> float:
    """Wall time that earlier starts spent up to a step."""
    entries = writer.read_scalars(folder, "train")
    times = [entry.get("seconds") for entry in entries if entry["step"] <= step]
    return max((time for time in times if isinstance(time, int | float)), default=0.0)


def _train(
    this: _Run,
    state: TrainState,
    step: int,
    batches: Batches,
    validation: Scenes,
    monitor: Monitor,
    signals: Signals,
) -> TrainState:
    """Runs the steps that are left."""
    options = this.options
    num_steps, steps_per_call = options.num_steps, options.steps_per_call
    run_steps = parallel.pmap_steps(
        *(this.train_step, steps_per_call),
        many_seeds=len(this.seeds) > 1,
        streamed=batches.streamed,
    )
    milestones = {
        steps_per_call * math.ceil(share * num_steps / steps_per_call) for share in gallery.SHARES
    }

    def save_milestones() -> None:
        for seed in this.seeds if parallel.is_first() else ():
            # All images, as validation does: another shape would be compiled for a few.
            found = seed.model(state).infer(validation.images)
            gallery.save_milestone(seed.folder, step, found, validation)

    if step == num_steps:
        return state
    called, arguments = time.monotonic(), batches(step)
    # While the steps compile, so does what the first milestone and all validations take.
    with ThreadPoolExecutor(1) as pool:
        compiling = pool.submit(run_steps.compile, state, *arguments)
        if step == 0:
            save_milestones()
        compiling.result()
    pending: list[dict[str, np.ndarray]] = []
    durations: list[float] = []
    compiled = False
    while step < num_steps:
        if compiled:
            called, arguments = time.monotonic(), batches(step)
        state, metrics = run_steps(state, *arguments)
        duration = time.monotonic() - called
        monitor.check_finite(metrics, step, this.checkpoints)
        pending.append(metrics)
        step += steps_per_call
        last = step == num_steps
        if compiled:
            durations.append(duration)
        else:
            monitor.message(f"compiled and took {steps_per_call} steps in {duration:.1f} s")
            compiled = True

        if step % options.evaluate_every == 0 or last:
            monitor.validate(step, state)  # keeps a milestone
        elif step in milestones:
            save_milestones()
        if step % options.log_every == 0 or last:
            # The speed of the calls alone, without compilation, validation and checkpoints.
            speed = len(durations) * steps_per_call / sum(durations) if durations else None
            monitor.log(step, pending, speed)
            pending, durations = [], []
        if options.snapshot_every and step % options.snapshot_every == 0:
            this.export(state, f"snapshots/step_{step:06d}")
        # A scheduler's signal reaches several processes at different calls.
        received = parallel.greatest(signals.received)
        if step % options.checkpoint_every == 0 or last or received:
            this.save(step, state)
        if received:
            _interrupt(received, step)
    # One that came while the last step was saved.
    if received := parallel.greatest(signals.received):
        _interrupt(received, step)
    return state


def _interrupt(received: int, step: int) -> NoReturn:
    """Ends the run, once the first process has written what it had to."""
    parallel.meet()
    raise Interrupted(received, step)
