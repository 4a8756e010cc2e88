"""What `experiments.generalization` measured, as a table, as lines and as figures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging
from matplotlib.figure import Figure

from air_jax import figures, figures_runs, tables
from air_jax.data.scenes import Scenes
from air_jax.draw import Drawings
from air_jax.inference import Objects
from air_jax.trained import TrainedModel

MEASURES = ("count_accuracy", "elbo", "average_precision_50", "mean_iou", "objects_left_out")
SCENES = ("seen", "seen_with_num_steps", "unseen_with_num_steps")
_NUM_SHOWN = 9


def table(results: Mapping[str, Any]) -> str:
    """The experiments side by side, in Markdown; means and deviations over the seeds.

    Args:
      results: what `generalization.run` returns.
    """
    unseen, num_steps = results["unseen"], results["num_steps"]
    header = [
        *("experiment", "seeds", "trained on", "counts trained on (%)"),
        *(f"the same, N = {num_steps} (%)", f"{unseen} objects, N = {num_steps} (%)"),
        *(f"AP at IoU 0.5, {unseen} objects", f"left out of {unseen}"),
        *("ELBO, trained on (nats)", f"ELBO, {unseen} objects (nats)"),
        *("steps", "ms per image", "MFLOP per image"),
    ]
    rows = []
    for name, result in results["experiments"].items():
        summary = result["summary"]
        seen, longer = summary["seen"], summary["seen_with_num_steps"]
        new, effort = summary["unseen_with_num_steps"], result["effort"]
        flops = effort["flops_per_image"]
        rows.append(
            [
                tables.cell(name),
                str(len(result["seeds"])),
                ", ".join(map(str, result["trained_on"])),
                tables.show(seen["count_accuracy"], 2, factor=100),
                tables.show(longer["count_accuracy"], 2, factor=100),
                tables.show(new["count_accuracy"], 1, factor=100),
                tables.show(new["average_precision_50"], 3),
                tables.show(new["objects_left_out"], 2),
                tables.show(longer["elbo"], 1),
                tables.show(new["elbo"], 1),
                str(effort["num_steps"]),
                f"{1e3 * effort['seconds_per_image']:.2g}",
                "-" if flops is None else f"{flops / 1e6:.3g}",
            ]
        )
    return tables.markdown(header, rows)


def to_csv(results: Mapping[str, Any]) -> str:
    """Every measurement of every seed, one a line; `images` tells the last models from kept ones.

    Args:
      results: what `generalization.run` returns.
    """
    rows: list[dict[str, Any]] = []
    for name, result in results["experiments"].items():
        for number, seed in result["seeds"].items():
            last = {"step": result["step"], **{scenes: seed[scenes] for scenes in SCENES}}
            entries = [(results["curve_images"], entry) for entry in seed["curve"]]
            for num_images, entry in [*entries, (results["num_images"], last)]:
                row = {"experiment": name, "seed": number, "images": num_images}
                for scenes in SCENES:
                    if scenes in entry:
                        row |= {"step": entry["step"], "scenes": scenes}
                        rows.append({**row, **entry[scenes]})
    names = ("experiment", "seed", "step", "scenes", "images", *MEASURES)
    return tables.to_csv(rows, names)


def curves(results: Mapping[str, Any]) -> Figure | None:
    """Count accuracy and ELBO over training, on both kinds of scenes; None without kept models.

    Args:
      results: what `generalization.run` returns.
    """
    unseen, num_steps = results["unseen"], results["num_steps"]
    panels: dict[str, dict[str, figures_runs.Curve]] = {}
    for title, measure, scenes, factor in (
        (f"{unseen} objects:\ncount accuracy (%)", "count_accuracy", SCENES[2], 100),
        ("counts trained on:\ncount accuracy (%)", "count_accuracy", SCENES[1], 100),
        (f"{unseen} objects:\nELBO (nats)", "elbo", SCENES[2], 1),
        ("counts trained on:\nELBO (nats)", "elbo", SCENES[1], 1),
    ):
        panel = panels[title] = {}
        for name, result in results["experiments"].items():
            of_seeds = [
                {entry["step"]: entry[scenes][measure] for entry in seed["curve"]}
                for seed in result["seeds"].values()
            ]
            steps = sorted({step for values in of_seeds for step in values})
            values = [[seed.get(step) for step in steps] for seed in of_seeds]
            panel[name] = figures_runs.Curve(steps, factor * np.array(values, float))
    if not any(curve.steps for panel in panels.values() for curve in panel.values()):
        return None
    return figures_runs.mean_curves(panels, title=f"evaluated with N = {num_steps}")


def reconstructions(rows: Sequence[tuple[str, TrainedModel, Scenes]], num_steps: int) -> Figure:
    """Each experiment's reconstructions of the same scenes, with the windows.

    Args:
      rows: name, model and scenes of each experiment; one with other scenes than the first has is
        left out.
      num_steps: N of the models that find objects. Of DRAW's windows as many, of those with which
        it writes, evenly over its steps to the last.
    """
    images = rows[0][2].images[:_NUM_SHOWN]
    labels, drawn, windows, present = [], [], [], []
    for name, model, scenes in rows:
        if not np.array_equal(scenes.images[:_NUM_SHOWN], images):
            logging.warning("%s: its scenes are others, it is left out of the figure", name)
            continue
        found = model.infer(scenes.images[:_NUM_SHOWN])
        z_where = np.ones((len(images), num_steps, 3), np.float32)
        is_object = np.zeros((len(images), num_steps), bool)
        if isinstance(found, Objects):
            z_where = found.z_where
            is_object = np.arange(num_steps) < found.counts[:, None]
        elif isinstance(found, Drawings):
            num_drawn = found.write_windows.shape[1]
            shown = min(num_steps, num_drawn)
            places = np.linspace(num_drawn - 1, 0, shown, endpoint=False).round().astype(int)[::-1]
            size = images.shape[1]
            z_where[:, :shown] = _as_z_where(found.write_windows[:, places], size)
            is_object[:, :shown] = True
        labels.append(name)
        drawn.append(found.reconstructions)
        windows.append(z_where)
        present.append(is_object)
    return figures.reconstruction_rows(
        images, labels, *(np.stack(part) for part in (drawn, windows, present))
    )


def _as_z_where(boxes: np.ndarray, image_size: int) -> np.ndarray:
    """`(s, t_x, t_y)` of square windows `(x_min, y_min, x_max, y_max)` in pixels, `[..., 4]`."""
    low, high = (2 * boxes[..., part] / image_size - 1 for part in (slice(0, 2), slice(2, 4)))
    scale = 2 / (high - low)[..., :1]
    return np.concatenate([scale, -scale * (low + high) / 2], axis=-1)
