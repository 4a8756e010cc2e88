"""The figures of a run, drawn from what it left in its workdir."""

import io
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from air_jax import figures, files, writer
from air_jax.data.scenes import Scenes
from air_jax.inference import Model, Objects
from air_jax.trained import Inference, TrainedModel

# Of a run, after which the timeline has a row; from dense to sparse, as learning goes.
SHARES = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)
_TIMELINE_IMAGES = 9
_POLICY_IMAGES = 2_000


def save_milestone(folder: pathlib.Path, step: int, found: Inference, scenes: Scenes) -> None:
    """Keeps what the model makes of a few images at this step, in `folder/milestones`.

    Args:
      folder: the workdir.
      step: training steps taken.
      found: what the model of that step says of the scenes.
      scenes: the first few are shown, the same ones at every milestone.
    """
    z_where, z_pres = windows(found)
    shown = slice(_TIMELINE_IMAGES)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        step=step,
        images=scenes.images[shown],
        reconstructions=found.reconstructions[shown],
        z_where=z_where[shown],
        z_pres=z_pres[shown],
    )
    files.write_atomically(folder / "milestones" / f"{step:08d}.npz", buffer.getvalue())


def draw(
    folder: pathlib.Path, model: TrainedModel, scenes: Scenes, results: Mapping[str, Any]
) -> None:
    """Draws the paper's figure 3 for this run, learning curve and confusion: `folder/figures`.

    Of a model without objects there are the reconstructions as training went on and the ELBO.

    Args:
      folder: the workdir, with its scalars and milestones.
      model: the trained model.
      scenes: validation scenes, for the scan policy.
      results: the evaluation.
    """
    target = folder / "figures"
    rows = timeline(folder)
    if rows is not None:
        figures.save(rows, target / "timeline.png")
    chance = 1 / (1 + model.air.num_steps) if isinstance(model, Model) else None
    _draw_curves(folder, target, chance)
    if "confusion_matrix" in results:
        figures.save(figures.confusion(results["confusion_matrix"]), target / "confusion.png")
    if isinstance(model, Model):
        looked = windows(model.infer(scenes.images[:_POLICY_IMAGES]))
        policy = figures.scan_policy(*looked, model.air.scene.image_size)
        figures.save(policy, target / "scan_policy.png")


def windows(found: Inference) -> tuple[np.ndarray, np.ndarray]:
    """The windows that a model used.

    Args:
      found: what it says about n images.

    Returns:
      z_where `[n, N, 3]` and z_pres `[n, N]`; N is 0 for a model without objects.
    """
    if not isinstance(found, Objects):
        num_images = len(found.reconstructions)
        return np.zeros((num_images, 0, 3), np.float32), np.zeros((num_images, 0), bool)
    return found.z_where, np.arange(found.z_where.shape[1]) < found.counts[:, None]


def read_milestones(folder: pathlib.Path) -> list[dict[str, np.ndarray]]:
    """What `save_milestone` kept in a workdir, by step, each with the arrays that it names.

    Raises:
      ValueError: if a file is damaged; names it.
    """
    entries = []
    for file in sorted((folder / "milestones").glob("*.npz")):
        try:
            # Opened here: of a file that it cannot read, NumPy leaves the closing to the collector.
            with open(file, "rb") as opened, np.load(opened, allow_pickle=False) as arrays:
                entries.append(dict(arrays))
        except Exception as error:  # damage to a zip file raises almost anything
            raise ValueError(f"{file} is damaged ({error!r}): remove it") from error
    return entries


def timeline(folder: pathlib.Path) -> Figure | None:
    """Reconstructions as training went on, of `read_milestones`; None where there are none."""
    entries = read_milestones(folder)
    if not entries:
        return None
    # Those that are nearest to the rows of the paper's figure.
    last = int(entries[-1]["step"])
    places = {
        min(range(len(entries)), key=lambda i: abs(int(entries[i]["step"]) - share * last))
        for share in SHARES
    }
    entries = [entries[place] for place in sorted(places)]
    steps = [int(entry["step"]) for entry in entries]
    rows = [
        np.stack([entry[name] for entry in entries])
        for name in ("reconstructions", "z_where", "z_pres")
    ]
    return figures.timeline(entries[0]["images"], steps, *rows)


def _draw_curves(folder: pathlib.Path, target: pathlib.Path, chance: float | None) -> None:
    entries = writer.read_scalars(folder, "validation")
    if not entries:
        return
    steps = [entry["step"] for entry in entries]
    curve = figures.learning_curve(
        steps, [entry["elbo"] for entry in entries], "ELBO, nats per image"
    )
    figures.save(curve, target / "elbo.png")
    if "count_accuracy" not in entries[0]:
        return
    prefix = "count_accuracy_n"
    per_count = {
        int(name.removeprefix(prefix)): [entry[name] for entry in entries]
        for name in entries[0]
        if name.startswith(prefix)
    }
    accuracy = figures.count_accuracy(
        steps,
        [entry["count_accuracy"] for entry in entries],
        per_count=per_count,
        chance=chance,
    )
    figures.save(accuracy, target / "count_accuracy.png")
