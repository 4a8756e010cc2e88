"""What the experiments on 3-D scenes have in common: other methods' scenes, times, pictures."""

import argparse
import functools
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from matplotlib.figure import Figure

from air_jax import figures, files, program, supervised, tables, writer
from air_jax.data.tabletop import Scenes3D
from air_jax.experiments import ablation, arguments, runs
from air_jax.inverse_graphics import Objects3D
from air_jax.models.scene3d import Scene3D, create_scene3d
from air_jax.supervised import SupervisedModel

TRUE = "the true scene"  # its name among the methods
_TIMED = 256  # images in a batch whose inference is timed
# Of a config's section, what a supervised network takes too.
_OPTIMIZER = ("learning_rate", "final_fraction", "clip_norm")
# What --smoke changes in a run with one object, beside what it changes in any: fewer rays.
SMOKE: dict[str, Any] = {**runs.SMOKE, "data.supersampling": 1}
# And with several.
TABLE_SMOKE: dict[str, Any] = {
    **SMOKE,
    "data.counts": [0, 1, 2],
    "inference.num_steps": 2,
    "exploration.hold": 10,
    "exploration.steps": 20,
}


def folder(name: str) -> str:
    """What holds the runs of something, of a workdir."""
    return name.replace(", ", "_").replace(" ", "_").lower()


def scene_model(config: Mapping[str, Any], scenes: Scenes3D) -> Scene3D:
    """The scene model of a config, by which what is not AIR renders too.

    Args:
      config: of AIR through a renderer.
      scenes: of whose images it is.
    """
    image = {"image_size": scenes.images.shape[1], "channels": scenes.images.shape[3]}
    return create_scene3d(config["scene"], **image)


@functools.partial(jax.jit, static_argnames="scene")
def _render(scene, identities, presence, poses, cameras):
    return scene.draw(identities, presence, poses, cameras)


def as_objects(
    scene: Scene3D,
    *,
    identities: np.ndarray,
    poses: np.ndarray,
    counts: np.ndarray | None = None,
    cameras: np.ndarray | None = None,
) -> Objects3D:
    """What something other than AIR found.

    Args:
      scene: what renders it.
      identities: int32 `[n, N]`; below 0 for objects that are not there, which come last.
      poses: `(x, y, yaw)`, `[n, N, 3]`.
      counts: how many of the objects are there, the first ones, int32 `[n]`; all if None.
      cameras: azimuth and elevation, radians, `[n, 2]`; the prior's mean if None.
    """
    if counts is None:
        counts = (identities >= 0).sum(-1).astype(np.int32)
    presence = (np.arange(identities.shape[1]) < counts[:, None]).astype(np.float32)
    if cameras is None:
        cameras = np.broadcast_to(scene.prior_camera().loc, (len(identities), 2))
    identities = identities.clip(min=0)
    return Objects3D(
        counts=counts,
        presence=presence,
        identities=identities,
        identity_probs=np.eye(scene.num_identities, dtype=np.float32)[identities],
        poses=poses,
        cameras=cameras,
        reconstructions=_render_all(scene, identities, presence, poses, cameras),
        elbo_terms={},
    )


def _render_all(scene: Scene3D, *leaves: np.ndarray, batch_size: int = 256) -> np.ndarray:
    parts = []
    for start in range(0, len(leaves[0]), batch_size):
        # Always of one size, or the last would be compiled again.
        chosen = np.arange(start, start + batch_size).clip(max=len(leaves[0]) - 1)
        parts.append(np.asarray(_render(scene, *(leaf[chosen] for leaf in leaves))))
    return np.concatenate(parts)[: len(leaves[0])]


def train_supervised(
    config: Mapping[str, Any],
    scenes: Scenes3D,
    *,
    scene: Scene3D,
    rotation: str,
    seed: int,
    order: str = "arbitrary",
) -> SupervisedModel:
    """Trains a supervised network on as many images and steps as AIR, with the same optimizer.

    Args:
      config: of AIR.
      scenes: images and what is in them.
      scene: what renders.
      rotation: see `models.supervised.Supervised`.
      seed: of the initialisation and of the batches.
      order: of the labels, see `supervised.create_labels`.
    """
    return supervised.train_supervised(
        scenes,
        scene=scene,
        inference=config["inference"],
        rotation=rotation,
        order=order,
        key=jax.random.key(seed),
        num_steps=config["train"]["num_steps"],
        batch_size=config["train"]["batch_size"],
        steps_per_call=config["train"]["steps_per_call"],
        **{name: config["optimizer"][name] for name in _OPTIMIZER},
    )


def seconds_per_image(function: Callable[[np.ndarray], Any], images: np.ndarray) -> float:
    """Median time of an image of a batch, without compilation.

    Args:
      function: of images.
      images: `[n, H, W, C]`, of which the first 256 are taken.
    """
    batch = images[:_TIMED]
    function(batch)
    durations = []
    for _ in range(5):
        began = time.perf_counter()
        function(batch)
        durations.append(time.perf_counter() - began)
    return float(np.median(durations)) / len(batch)


def pictures(images: np.ndarray, drawn: Mapping[str, np.ndarray]) -> Figure:
    """Scenes, and below them what each method makes of them.

    Args:
      images: uint8 `[n, H, W, 3]`.
      drawn: by method, `[m, H, W, 3]`, of the first ones; as many are shown as all have.
    """
    num_images = min(len(images), *map(len, drawn.values()))
    images = images[:num_images]
    drawn = {name: those[:num_images] for name, those in drawn.items()}
    nothing = np.zeros((len(drawn), num_images, 0, 3), np.float32)
    absent = np.zeros((len(drawn), num_images, 0), bool)
    return figures.reconstruction_rows(
        images, list(drawn), np.stack(list(drawn.values())), nothing, absent
    )


def write(
    target: pathlib.Path,
    name: str,
    results: Mapping[str, Any],
    *,
    line: Callable[[Mapping[str, Any]], dict[str, Any]],
    table: Callable[[Mapping[str, Any]], str],
) -> None:
    """Writes what was measured as JSON, CSV and a table.

    Args:
      target: folder of the experiment.
      name: of the experiment.
      results: all of it, `measurements` a list.
      line: of the experiment's report: a measurement as a line of the CSV.
      table: likewise: results as Markdown.
    """
    writer.write_json(target / f"{name}.json", results)
    lines = [line(row) for row in results["measurements"]]
    files.write_atomically(target / f"{name}.csv", tables.to_csv(lines).encode())
    text = table(results)
    files.write_atomically(target / "table.md", text.encode())
    logging.info("results in %s\n%s", target, text)


def command(
    run: Callable[..., Any],
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    *,
    choices: Sequence[str],
    of_what: str,
) -> None:
    """The command of an experiment on several objects.

    Args:
      run: the experiment: config, workdir, `seeds`, `num_processes`, and what `--only` chooses.
      parser: with its name and description.
      argv: the command line, None for that of the process.
      choices: of `--only`.
      of_what: the name of `run`'s argument for them.
    """
    runs.add_options(parser, seeds="100:102")
    parser.add_argument("--only", choices=choices, help=f"one of the {of_what}, by default both")
    parser.add_argument("--smoke", action="store_true", help="a try: one seed, few steps, images")
    given, config = arguments.parse(parser, argv)
    if given.smoke:
        config = ablation.change(config, TABLE_SMOKE)
    options: dict[str, Any] = {
        "seeds": range(1) if given.smoke else given.seeds,
        "num_processes": given.processes,
        of_what: [given.only] if given.only else list(choices),
    }
    program.finish(lambda: run(config, given.workdir, **options))
