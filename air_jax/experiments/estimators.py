"""Variance of every estimator's gradient, beside each other at the same parameters (paper, Sec. 5).

    python -m air_jax.experiments.estimators --config=configs/air.py --workdir=runs/estimators

One run is trained with `nvil`, whatever estimator the config names. At initialisation, early and
late in it every estimator draws gradients g_1, g_2, ... of one and the same batch, as many images
of each count, at the same parameters, each from noise of its own:

    variance   trace of the covariance of g: the sum over its components
    SNR        ||mean g|| / sqrt(variance), where ||mean g||^2 is freed of what noise adds to it

of the gradient of the batch's mean loss with respect to all parameters of the network, and, as the
mean over the images, of the gradient of an image's own loss with respect to its presence logits.
z_where and z_what are drawn too, so that no estimator is without variance: `variance_discrete` is
what is left with their noise held, the part that an estimator of the discrete choice can do
something about, and exactly 0 for `enumerate`. K samples cost K passes: the columns
`..._times_samples` compare at equal cost, since K draws of one sample could be averaged instead.
Table and figure do the same, with the SNR divided by sqrt(K).
`vimco` follows the gradient of another bound.

Moving means are those of other images at the same parameters. The same is measured for the images
of each count, and for networks of 1 to 5 steps with the same parameters, early in training: no
parameter depends on the number of steps.

The workdir gets estimators.json (everything), estimators.csv (one line per measurement), table.md
and estimators.png.
"""

import argparse
import functools
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from air_jax import (
    distributions,
    estimators,
    figures,
    gradient_noise,
    kinds,
    parallel,
    program,
    provenance,
    sections,
    tables,
)
from air_jax.data.dataset import create_dataset
from air_jax.data.scenes import Scenes
from air_jax.experiments import arguments, estimators_report
from air_jax.files import write_atomically
from air_jax.models.air import AIR, create_air
from air_jax.models.modules import Baseline
from air_jax.train import Params, create_air_training
from air_jax.writer import write_json

_OTHER_BATCHES = 12  # of which moving means are taken


class Contender(NamedTuple):
    """An estimator as it is measured; see `estimators.create_loss`."""

    estimator: str
    centring: str
    num_samples: int

    @property
    def label(self) -> str:
        """Its name in table and figure."""
        own = {"nvil": "moving_mean", "vimco": "leave_one_out", "enumerate": "none"}
        parts = [self.estimator]
        if self.centring not in ("none", own.get(self.estimator)):
            parts.append(self.centring.replace("_", " "))
        if self.num_samples > 1:
            parts.append(f"K = {self.num_samples}")
        return ", ".join(parts)


class Plan(NamedTuple):
    """What is measured.

    Attributes:
      early: training steps of the second stage, a multiple of `train.steps_per_call`.
      late: those of the third.
      num_draws: gradients of each measurement, an even number.
      images_per_count: images of the batch with each count.
      num_steps: lengths of the network beside its own, measured early in training.
      contenders: the estimators.
    """

    early: int = 300
    late: int = 2_000
    num_draws: int = 100
    images_per_count: int = 21
    num_steps: tuple[int, ...] = (1, 2, 3, 5)
    contenders: tuple[Contender, ...] = (
        Contender("reinforce", "none", 1),
        Contender("reinforce", "moving_mean", 1),
        Contender("reinforce", "leave_one_out", 4),
        Contender("nvil", "moving_mean", 1),
        Contender("nvil", "leave_one_out", 4),
        Contender("vimco", "leave_one_out", 4),
        Contender("enumerate", "none", 1),
    )

    def check(self, config: Mapping[str, Any]) -> None:
        """Raises ValueError if the plan does not fit a config."""
        options = config["train"]
        if not 0 < self.early < self.late <= options["num_steps"]:
            raise ValueError(
                f"early is {self.early} and late {self.late}; they must ascend from 1 to "
                f"train.num_steps, {options['num_steps']}."
            )
        for name in ("early", "late"):
            if getattr(self, name) % options["steps_per_call"]:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; it must be a multiple of "
                    f"train.steps_per_call, {options['steps_per_call']}."
                )
        if self.num_draws < 4 or self.num_draws % 2:
            raise ValueError(f"draws is {self.num_draws}; it must be even and at least 4.")
        if self.images_per_count < 1:
            raise ValueError(f"images is {self.images_per_count}; it must be at least 1.")


SMOKE = Plan(
    early=20,
    late=40,
    num_draws=8,
    images_per_count=2,
    num_steps=(1,),
    contenders=(Contender("nvil", "leave_one_out", 2), Contender("enumerate", "none", 1)),
)


class _Batch(NamedTuple):
    """Images of G counts, `[G, b, H, W, C]`, and J further batches of them, `[J, G, b, ...]`."""

    counts: tuple[int, ...]
    images: jax.Array
    others: jax.Array


def run(config: Mapping[str, Any], workdir: str, plan: Plan) -> dict[str, Any]:
    """Trains, measures, and writes the results.

    Args:
      config: as in `configs/base.py`, as plain types.
      workdir: folder of the results, created if absent.
      plan: what to measure.

    Returns:
      What `estimators.json` holds.

    Raises:
      ValueError: if the config contradicts itself, the plan does not fit it, or the images' counts
        are unknown.
    """
    sections.check(config)
    kinds.require(config, "air")
    plan.check(config)
    dataset = create_dataset(**{**config["data"], "resident": True})
    key_init, key_run, key_draws = jax.random.split(jax.random.key(config["seed"]), 3)
    batch = _choose_batch(dataset.train, plan.images_per_count)
    snapshots = _train(config, dataset.train.images, (plan.early, plan.late), key_init, key_run)
    own = config["inference"]["num_steps"]
    jobs = [("initialisation", 0, own), ("early", plan.early, own), ("late", plan.late, own)]
    jobs += [("early", plan.early, length) for length in plan.num_steps if length != own]
    rows = []
    for contender in plan.contenders:
        meters: dict[int, _Meter] = {}
        for stage, step, num_steps in jobs:
            if num_steps not in meters:
                meters[num_steps] = _create_meter(config, contender, num_steps)
            spreads = meters[num_steps].measure(
                snapshots[step], step, batch, key_draws, plan.num_draws // 2
            )
            measurement = {"stage": stage, "step": step, "num_steps": num_steps}
            measurement |= {"label": contender.label, **contender._asdict()}
            rows += estimators_report.rows(measurement, batch.counts, spreads)
        logging.info("measured %s", contender.label)
    results = {
        **provenance.surroundings(),
        "config": {**config, "estimator": "nvil"},
        "data": {name: dataset.description[name] for name in ("source", "digest")},
        "draws": plan.num_draws,
        "images_per_count": plan.images_per_count,
        "measurements": rows,
    }
    folder = pathlib.Path(workdir)
    write_json(folder / "estimators.json", results)
    write_atomically(folder / "estimators.csv", tables.to_csv(rows).encode())
    figures.save(estimators_report.figure(rows, own), folder / "estimators.png")
    text = estimators_report.table(results)
    write_atomically(folder / "table.md", text.encode())
    logging.info("%d draws each\n%s", plan.num_draws, text)
    return results


def _choose_batch(scenes: Scenes, images_per_count: int) -> _Batch:
    """The first images of each count, and further ones in further batches."""
    counts = sorted(set(scenes.counts.tolist()))
    if counts[0] < 0:
        raise ValueError("the images' counts are unknown; this experiment composes its own scenes.")
    needed = (1 + _OTHER_BATCHES) * images_per_count
    places = []
    for count in counts:
        found = np.flatnonzero(scenes.counts == count)[:needed]
        if len(found) < needed:
            raise ValueError(
                f"there are {len(found)} images with {count} objects and {needed} are needed; "
                "raise data.num_train or lower images."
            )
        places.append(found.reshape(-1, images_per_count))
    images = jnp.asarray(scenes.images[np.stack(places, axis=1)], jnp.float32) / 255.0
    return _Batch(tuple(counts), images[0], images[1:])


def _train(
    config: Mapping[str, Any],
    images: np.ndarray,
    steps: Sequence[int],
    key_init: chex.PRNGKey,
    key_run: chex.PRNGKey,
) -> dict[int, Params]:
    """Parameters after 0 and after each of `steps` steps of one run with nvil."""
    options = config["train"]
    names = ("scene", "inference", "baseline", "prior", "optimizer")
    training = create_air_training(
        estimator="nvil",
        **{name: config[name] for name in names},
        num_train_steps=options["num_steps"],
        image_size=images.shape[1],
        channels=images.shape[3],
    )
    run_steps = parallel.pmap_steps(training.train_step, options["steps_per_call"])
    positions = parallel.batch_positions(options["batch_size"], jax.local_device_count())
    batches = (
        parallel.shard(positions),
        parallel.replicate(images),
        parallel.replicate(key_run),
    )
    state = parallel.replicate(training.init(key_init))
    snapshots = {0: jax.device_get(state.params)}
    for step in range(options["steps_per_call"], max(steps) + 1, options["steps_per_call"]):
        state, metrics = run_steps(state, *batches)
        if step in steps:
            snapshots[step] = jax.device_get(state.params)
            elbo = float(np.mean(metrics["elbo"]))
            if not np.isfinite(elbo):
                raise ValueError(f"training diverged before step {step}.")
            logging.info("step %d: ELBO %.1f", step, elbo)
    return snapshots


class _Meter(NamedTuple):
    """An estimator on a network of some number of steps.

    Attributes:
      air: the network.
      contender: the estimator.
      gradients: compiled `(params, statistics, step, images, noise) -> (gradients, observed)` of
        groups of images, every leaf `[G, ...]`.
    """

    air: AIR
    contender: Contender
    gradients: Callable[..., Any]

    def measure(
        self, params: Params, step: int, batch: _Batch, key: chex.PRNGKey, num_pairs: int
    ) -> gradient_noise.Spreads:
        """Spreads `[G]` by name, those of the parameters `[G + 1]`: the whole batch's is last."""
        # The same noise for every estimator: folded in, since a key is split only once.
        key_others, key_continuous, key_discrete = (jax.random.fold_in(key, i) for i in range(3))
        draw = functools.partial(
            _draw_noise,
            shape=batch.images.shape[:2],
            air=self.air,
            num_samples=self.contender.num_samples,
        )
        statistics = estimators.initial_statistics(self.contender.estimator, self.air.num_steps)
        if self.contender.estimator != "enumerate":
            observed = []
            for i, images in enumerate(batch.others):
                noise = draw(key_others, i)
                observed.append(self.gradients(params, statistics, step, images, noise)[1])
            statistics = jax.tree.map(lambda *leaves: jnp.stack(leaves).mean((0, 1, 2)), *observed)

        def gradient(continuous, discrete):
            noise = draw(key_continuous, continuous)
            noise = noise._replace(pres=draw(key_discrete, discrete).pres)
            return self.gradients(params, statistics, step, batch.images, noise)[0]

        return gradient_noise.measure(gradient, num_pairs)


@functools.partial(jax.jit, static_argnames=("shape", "air", "num_samples"))
def _draw_noise(key, index, *, shape, air, num_samples):
    """The noise of one draw, leaves `[G, (K,) b, ...]`."""
    keys = jax.random.split(jax.random.fold_in(key, index), shape)
    return jax.vmap(lambda keys: estimators.draw_noise(keys, air, num_samples))(keys)


def _create_meter(config: Mapping[str, Any], contender: Contender, num_steps: int) -> _Meter:
    air = create_air(
        scene=config["scene"],
        inference={**config["inference"], "num_steps": num_steps},
        image_size=config["data"]["image_size"],
        channels=1,
    )
    baseline = {name: value for name, value in config["baseline"].items() if name != "decay"}
    surrogate = estimators.create_surrogate(
        contender.estimator,
        air=air,
        baseline=Baseline(**baseline),
        prior=distributions.create_prior(**config["prior"], num_steps=num_steps),
        num_samples=contender.num_samples,
        centring=contender.centring,
    )

    @jax.jit
    def gradients(params, statistics, step, images, noise):
        of_group = functools.partial(
            gradient_noise.presence_and_parameters, surrogate, params, statistics, step
        )
        presence, parameters, observed = jax.vmap(of_group)(images, noise)
        # Of the whole batch besides, whose groups are equally large.
        parameters = jax.tree.map(
            lambda leaf: jnp.concatenate([leaf, leaf.mean(0, keepdims=True)]), parameters
        )
        # Squared norms over a group shall be means over its images.
        presence = presence / math.sqrt(images.shape[1])
        return {"presence logits": presence, "parameters": parameters}, observed

    return _Meter(air, contender, gradients)


def main(argv: Sequence[str] | None = None) -> None:
    """The command, see the module."""
    plan = Plan()
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--draws", type=int, default=plan.num_draws, help="gradients a measurement")
    parser.add_argument("--early", type=int, default=plan.early, help="training steps")
    parser.add_argument("--late", type=int, default=plan.late, help="training steps")
    parser.add_argument(
        "--images", type=int, default=plan.images_per_count, help="images of each count"
    )
    parser.add_argument("--smoke", action="store_true", help="a try: few steps, draws and images")
    given, config = arguments.parse(parser, argv)
    plan = plan._replace(
        early=given.early,
        late=given.late,
        num_draws=given.draws,
        images_per_count=given.images,
    )
    program.finish(lambda: run(config, given.workdir, SMOKE if given.smoke else plan))


if __name__ == "__main__":
    main()
