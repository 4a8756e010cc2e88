"""What `experiments.occlusion` measured: a row for each amount of overlap, a table, figures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from air_jax import figures, figures_runs, tables
from air_jax.charts import ordinal
from air_jax.inference import Model

MEASURES = ("count_accuracy", "average_precision_50", "mean_iou", "elbo")
ALL = "all scenes"


def rows(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for all test scenes and one for each amount of overlap.

    Args:
      evaluation: of a run, as in its `evaluation.json`.

    Returns:
      Of each `overlap`, `num_images` and `MEASURES`, None for what is not known.
    """
    parts = {ALL: evaluation, **evaluation["by_overlap"]}
    return [
        {
            "overlap": overlap,
            "num_images": part["num_images"],
            **{name: part.get(name) for name in MEASURES},
        }
        for overlap, part in parts.items()
    ]


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Composition to overlap to `num_images` and, of each measure, mean and deviation.

    Args:
      rows: of every composition and seed.
    """
    summary: dict[str, Any] = {}
    for row in rows:
        part = summary.setdefault(row["composition"], {}).setdefault(
            row["overlap"], {"num_images": row["num_images"], **{name: [] for name in MEASURES}}
        )
        for name in MEASURES:
            if row[name] is not None:
                part[name].append(row[name])
    for of_composition in summary.values():
        for part in of_composition.values():
            for name in MEASURES:
                part[name] = tables.spread(part[name]) if part[name] else None
    return summary


def table(results: Mapping[str, Any]) -> str:
    """Compositions and amounts of overlap one below the other, in Markdown.

    Seeds are those of the count accuracy; all scenes include those of one object and of none.

    Args:
      results: what `occlusion.run` returns.
    """
    header = ["composition", "hidden share of the most hidden object", "test scenes", "seeds"]
    header += ["count accuracy (%)", "AP at IoU 0.5", "mean IoU of matches", "ELBO (nats)"]
    lines = []
    for composition, parts in results["summary"].items():
        for overlap, part in parts.items():
            lines.append(
                [
                    *(composition, overlap, f"{part['num_images']:,}"),
                    str(part["count_accuracy"]["num"]),
                    tables.show(part["count_accuracy"], 2, factor=100),
                    tables.show(part["average_precision_50"], 3),
                    tables.show(part["mean_iou"], 3),
                    tables.show(part["elbo"], 1),
                ]
            )
    return tables.markdown(header, lines)


def figure(results: Mapping[str, Any]) -> Figure:
    """Count accuracy and average precision against overlap, a bar for each composition.

    Args:
      results: what `occlusion.run` returns.
    """
    summary = results["summary"]
    overlaps = [name for name in next(iter(summary.values())) if name != ALL]
    panels = {}
    for title, measure, factor in (
        ("count accuracy (%)", "count_accuracy", 100),
        ("average precision at IoU 0.5", "average_precision_50", 1),
    ):
        panels[title] = {
            composition: figures_runs.Bars(
                [factor * parts[name][measure]["mean"] for name in overlaps],
                [factor * (parts[name][measure]["sd"] or 0.0) for name in overlaps],
            )
            for composition, parts in summary.items()
        }
    return figures_runs.bars(overlaps, panels, xlabel="hidden share of the most hidden object")


def objects(models: Mapping[str, Model], images: np.ndarray) -> Figure:
    """Reconstructions of some scenes, and below each of them its objects one by one.

    Args:
      models: by composition.
      images: as the models take them, n of them.
    """
    labels, drawn, windows, present = [], [], [], []
    num_steps = max(model.air.num_steps for model in models.values())
    for composition, model in models.items():
        found, trace = model.infer(images), model.trace(images)
        z_where = np.ones((len(images), num_steps, 3), np.float32)
        z_where[:, : model.air.num_steps] = found.z_where
        is_object = np.arange(num_steps) < found.counts[:, None]
        shown = max(1, int(found.counts.max()))
        labels += [composition, *(ordinal(step + 1) for step in range(shown))]
        drawn.append(found.reconstructions)
        present.append(is_object)
        for step in range(shown):
            alone = is_object[:, step]
            drawn.append(np.where(alone[:, None, None, None], trace.objects[:, step], 0.0))
            present.append(is_object & (np.arange(num_steps) == step))
        windows += [z_where] * (shown + 1)
    parts = (np.stack(part) for part in (drawn, windows, present))
    return figures.reconstruction_rows(images, labels, *parts)
