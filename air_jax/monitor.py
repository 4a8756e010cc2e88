"""What is seen of a run while it goes on: scalars, progress, divergence, collapse."""

import contextlib
import pathlib
import time
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from absl import logging

from air_jax import checkpoint, gallery, kinds, writer
from air_jax.collapse import Watch
from air_jax.data.scenes import Scenes
from air_jax.inference import Objects
from air_jax.seeds import Seed
from air_jax.train import TrainState, is_watched


class NonFiniteError(RuntimeError):
    """The loss or a gradient is no longer a number. Names the step."""


class Monitor(contextlib.AbstractContextManager["Monitor"]):
    """Watches the seeds of a run and writes down what it sees; a context manager.

    Args:
      seeds: one, or many in one program; each has a log of its own.
      validation: scenes that are not trained on.
      total_steps: length of the run.
      start_step: where it resumes, 0 for a new run.
      began: `time.monotonic()` when the run would have begun in one go.
      quiet: whether another process logs and validates, and this one only looks for divergence.
    """

    def __init__(
        self,
        seeds: Sequence[Seed],
        validation: Scenes,
        *,
        total_steps: int,
        start_step: int,
        began: float,
        quiet: bool = False,
    ):
        self._seeds = seeds
        self._validation = validation
        self._began = began
        self._logs = [
            writer.Writer(
                seed.folder,
                total_steps=total_steps,
                start_step=start_step,
                # One line for all of them.
                progress=None if seed is seeds[0] else "none",
            )
            for seed in ([] if quiet else seeds)
        ]
        self._kind = kinds.of(seeds[0].exported)
        self._watches: dict[int, Watch] = {}
        self._total_steps = total_steps
        self._diverged: set[int] = set()
        self._shown: dict[str, float] = {}

    def __exit__(self, *exception: object) -> None:
        """Closes the logs, also after an error."""
        for log in self._logs:
            log.close()

    def text(self, tag: str, text: str) -> None:
        """Shows a text (Markdown) in TensorBoard."""
        for log in self._logs:
            log.text(tag, text)

    def message(self, text: str) -> None:
        """Prints a line that stays."""
        for log in self._logs[:1]:
            log.message(text)

    def check_finite(
        self, metrics: Mapping[str, np.ndarray], first_step: int, checkpoints: pathlib.Path
    ) -> None:
        """Looks for loss and gradients that are not finite.

        Args:
          metrics: of the steps from `first_step` on, of all seeds.
          first_step: the first of them.
          checkpoints: folder of the run's checkpoints.

        Raises:
          NonFiniteError: if a run on its own diverged. Of many seeds, one that did was frozen by
            the train step: it is named in a warning, once.
        """
        for seed in self._seeds:
            if seed.number in self._diverged:
                continue
            watched = {name: seed.pick(metrics[name]) for name in metrics if is_watched(name)}
            bad = np.array([~np.isfinite(values) for values in watched.values()])
            if not bad.any():
                continue
            step = int(bad.any(0).argmax())
            names = [name for name, is_bad in zip(watched, bad[:, step], strict=True) if is_bad]
            what = f"{', '.join(names)} not finite at step {first_step + step}"
            if len(self._seeds) > 1:
                self._diverged.add(seed.number)
                logging.warning("seed %d: %s; it stays as it was.", seed.number, what)
                continue
            last = checkpoint.latest_step(checkpoints)
            raise NonFiniteError(
                f"{what}; the last good checkpoint is "
                f"{'none yet' if last is None else f'that of step {last}'}. A lower learning rate, "
                "in another --workdir, is the usual remedy."
            )

    def validate(self, step: int, state: TrainState) -> None:
        """Logs what the kind of model measures on the validation scenes: the ELBO, counts.

        Of the first scenes it keeps a milestone. A known collapse is named in a warning that says
        what to change.
        """
        if not self._logs:
            return
        state, scenes, accuracies = jax.device_get(state), self._validation, []
        for seed, log in zip(self._seeds, self._logs, strict=True):
            if seed.number in self._diverged:
                continue
            found = seed.model(state).infer(scenes.images)
            if isinstance(found, Objects):
                self._watch(seed, step, found, scenes)
            gallery.save_milestone(seed.folder, step, found, scenes)
            scalars = self._kind.validate(found, scenes)
            if "count_accuracy" in scalars:
                accuracies.append(100 * scalars["count_accuracy"])
            seconds = {"seconds": time.monotonic() - self._began}
            log.scalars(step, "validation", scalars | seconds)
        if len(accuracies) > 1:
            self._shown = {
                "count accuracy %, median": float(np.median(accuracies)),
                "worst": min(accuracies),
            }
        elif accuracies:
            self._shown = {"count accuracy %": accuracies[0]}

    def _watch(self, seed: Seed, step: int, objects: Objects, scenes: Scenes) -> None:
        watch = self._watches.get(seed.number, Watch(objects.presence.shape[-1], self._total_steps))
        watch, told = watch.update(step, objects.counts, scenes.counts)
        self._watches[seed.number] = watch
        if told:
            say = logging.warning if watch.collapse else logging.info
            say("%s%s", f"seed {seed.number}: " if len(self._seeds) > 1 else "", told)

    def log(
        self,
        step: int,
        pending: Sequence[Mapping[str, np.ndarray]],
        steps_per_second: float | None,
    ) -> None:
        """Logs means of training scalars and shows the progress.

        Args:
          step: training steps taken.
          pending: metrics of the calls since the last time, of all seeds.
          steps_per_second: of these calls; None if nothing was timed.
        """
        if not self._logs:
            return
        seconds = time.monotonic() - self._began
        speed = {} if steps_per_second is None else {"steps_per_second": steps_per_second}
        entries = []
        for seed, log in zip(self._seeds, self._logs, strict=True):
            means = {
                name: float(np.concatenate([seed.pick(call[name]) for call in pending]).mean())
                for name in pending[0]
            }
            if seed.number not in self._diverged:
                entries.append(means)
            log.scalars(step, "train", {**means, "seconds": seconds, **speed})
        median = {
            label: float(np.median([means[name] for means in entries]))
            for name, label in (("elbo", "ELBO"), ("num_objects", "objects"))
            if entries and name in entries[0]
        }
        self._logs[0].progress(step, {**median, **self._shown}, steps_per_second)
