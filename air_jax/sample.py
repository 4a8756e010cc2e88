"""Draws scenes from a trained model's p(x, z).

    python -m air_jax.sample --checkpoint runs/dair --output drawn

writes

    drawn/samples.png    the scenes, in rows
    drawn/samples.npz    `images` float32 [n, H, W, C], not noisy; `counts`; the latents `z_where`
                         and `z_what` of every step, those beyond a scene's count not drawn; of a
                         model of 3-D scenes also `camera`

How many objects a scene has is given, or drawn from the prior on n that the model is judged with.
That one is seldom wanted: it makes objects dear, and most of its scenes are empty. What is drawn
unless told otherwise is the counts that the model was trained on, in turn. Without `--checkpoint`
the model is the one that comes with the package.
"""

import argparse
import io
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import chex
import jax
import numpy as np

from air_jax import files, kinds, overlay, pretrained, program
from air_jax.inference import Model
from air_jax.inverse_graphics import Model3D

_LARGEST = 10_000  # scenes
_AT_ONCE = 256
_SIDE = 160  # pixels of a scene in the picture, about
_MOST_IN_PICTURE = 100


def choose_counts(
    model: Model | Model3D, given: Sequence[int] | None, num_scenes: int, key: chex.PRNGKey
) -> np.ndarray:
    """Numbers of objects of scenes to be drawn, int32 `[num_scenes]`.

    Args:
      model: whose prior on n it is.
      given: these in turn; from the prior if None.
      num_scenes: how many.
      key: of the prior's draws.
    """
    if given is not None:
        return np.resize(np.asarray(given, np.int32), num_scenes)
    codes = model.prior.sample(seed=key, sample_shape=num_scenes)
    return np.asarray(codes).sum(-1).astype(np.int32)


def run(
    checkpoint: pathlib.Path,
    output: pathlib.Path,
    *,
    counts: Sequence[int] | str,
    num_scenes: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """Draws scenes and writes them.

    Args:
      checkpoint: a run's workdir, or its folder `model`.
      output: folder of the two files.
      counts: numbers of objects, in turn; "prior" for those that the prior draws, "trained" for
        those of training.
      num_scenes: how many.
      seed: of everything.

    Returns:
      The arrays that are written.

    Raises:
      ValueError: if a number is out of range, or the model draws no objects.
      CheckpointError: if there is no model, or it is damaged.
    """
    if not 1 <= num_scenes <= _LARGEST:
        raise ValueError(f"num is {num_scenes}; it must lie between 1 and {_LARGEST:,}.")
    model = kinds.load_objects(checkpoint)
    given = kinds.trained_counts(model) if counts == "trained" else counts
    key_counts, key_scenes = jax.random.split(jax.random.key(seed))
    chosen = choose_counts(model, None if isinstance(given, str) else given, num_scenes, key_counts)
    parts = [
        model.sample(chosen[start : start + _AT_ONCE], key=jax.random.fold_in(key_scenes, start))
        for start in range(0, num_scenes, _AT_ONCE)
    ]
    together = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    arrays = {"counts": chosen, **together._asdict()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    files.write_atomically(output / "samples.npz", buffer.getvalue())
    files.write_atomically(output / "samples.png", _picture(arrays["images"]))
    return arrays


def _picture(images: np.ndarray) -> bytes:
    """The first scenes in rows, as PNG."""
    shown = images[:_MOST_IN_PICTURE]
    factor = max(1, round(_SIDE / images.shape[1]))
    columns = int(np.ceil(np.sqrt(len(shown))))
    return overlay.to_png(overlay.grid([overlay.enlarge(x, factor) for x in shown], columns))


def _count(text: str) -> int | str:
    if text == "prior":
        return text
    if not re.fullmatch("[0-9]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of objects nor 'prior'")
    return int(text)


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m air_jax.sample",
        description="Draws scenes from a trained model, as a picture and as arrays.",
    )
    of_package = pretrained.path()
    add = parser.add_argument
    path: dict[str, Any] = {"type": pathlib.Path, "metavar": "DIR"}
    add("--checkpoint", **path, default=of_package, help="workdir of a run, or its folder model")
    add("--output", **path, required=True, help="folder of samples.png and samples.npz")
    add(
        "--counts",
        nargs="+",
        type=_count,
        metavar="N",
        help="objects in a scene, in turn, or 'prior'; default: those of the training scenes",
    )
    add("--num", type=int, default=16, metavar="N", help="scenes (16)")
    add("--seed", type=int, default=0, help="of everything that is drawn (0)")
    given = parser.parse_args(argv)
    counts = given.counts or "trained"
    if given.counts and "prior" in counts:
        if len(counts) > 1:
            parser.error("--counts takes numbers or 'prior', not both")
        counts = "prior"

    def draw() -> None:
        arrays = run(
            given.checkpoint, given.output, counts=counts, num_scenes=given.num, seed=given.seed
        )
        numbers, times = np.unique(arrays["counts"], return_counts=True)
        listed = ", ".join(f"{time} with {n}" for n, time in zip(numbers, times, strict=True))
        print(f"objects: {listed}; written: {given.output}/samples.png and samples.npz")

    program.finish(draw)


if __name__ == "__main__":
    main()
