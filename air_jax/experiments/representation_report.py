"""What `experiments.representation` measured: means, labels needed, tables, lines, a figure."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from air_jax import figures_representation, tables

LEVEL = 0.9
_TITLES = {"sum": "sum of the two digits", "ascending": "ascending from left to right?"}

Row = Mapping[str, Any]


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Means over the seeds.

    Args:
      rows: one for each representation, task, number of labels and seed, with `test` accuracies
        in [0, 1].

    Returns:
      Of each representation, of each task: `accuracy`, by number of labels as text, each with
      `mean`, `sd` (None for one seed) and `num`; `labels_needed`, see there.
    """
    summary: dict[str, Any] = {}
    for name in dict.fromkeys(row["representation"] for row in rows):
        summary[name] = {}
        for task in dict.fromkeys(row["task"] for row in rows):
            accuracies = _accuracies(rows, name, task)
            means = {size: statistics.fmean(values) for size, values in accuracies.items()}
            summary[name][task] = {
                "accuracy": {
                    str(size): tables.spread(values) for size, values in accuracies.items()
                },
                "labels_needed": labels_needed(list(means), list(means.values())),
            }
    return summary


def _accuracies(rows: Sequence[Row], name: str, task: str) -> dict[int, list[float]]:
    """Test accuracies of all seeds, by number of labels in ascending order."""
    chosen = [row for row in rows if row["representation"] == name and row["task"] == task]
    sizes = sorted({row["labels"] for row in chosen})
    return {size: [row["test"] for row in chosen if row["labels"] == size] for size in sizes}


def labels_needed(
    sizes: Sequence[int], accuracies: Sequence[float], level: float = LEVEL
) -> float | None:
    """Labels at which a curve first crosses a level, on a straight line over their logarithm.

    Args:
      sizes: of the labelled sets, ascending.
      accuracies: at each of them.
      level: to be reached.

    Returns:
      The least size where the curve begins above the level; None if it never gets there.
    """
    for i, accuracy in enumerate(accuracies):
        if accuracy >= level:
            if i == 0:
                return float(sizes[0])
            share = (level - accuracies[i - 1]) / (accuracy - accuracies[i - 1])
            low, high = math.log(sizes[i - 1]), math.log(sizes[i])
            return math.exp(low + share * (high - low))
    return None


def table(results: Mapping[str, Any]) -> str:
    """The representations side by side, and all accuracies below, in Markdown.

    Args:
      results: what `experiments.representation.run` returns.
    """
    summary, errors = results["summary"], results["reconstruction_error"]
    sizes = sorted({row["labels"] for row in results["measurements"]})
    tasks = list(next(iter(summary.values())))
    header = ["representation", "numbers in the code", "squared error of an image"]
    for task in tasks:
        header += [f"{task}: labels to {100 * LEVEL:.0f} %", f"{task}: all {sizes[-1]:,} (%)"]
    rows = []
    for name, found in summary.items():
        row = [name, _lengths(results["code_sizes"][name]), tables.show(errors[name], 2)]
        for task in tasks:
            row.append(_labels(found[task]["labels_needed"], sizes))
            row.append(tables.show(found[task]["accuracy"][str(sizes[-1])], 1, 100))
        rows.append(row)
    needed = tables.markdown(header, rows)
    rows = []
    for task in tasks:
        for size in sizes:
            accuracies = [found[task]["accuracy"][str(size)] for found in summary.values()]
            rows.append([task, f"{size:,}", *(tables.show(value, 1, 100) for value in accuracies)])
    return needed + "\n" + tables.markdown(["task", "labels", *summary], rows)


def _lengths(sizes: Sequence[int] | None) -> str:
    return "pixels" if sizes is None else " or ".join(map(str, sizes))


def _labels(needed: float | None, sizes: Sequence[int]) -> str:
    if needed is None:
        return "never"
    # Between two sizes it is a reading of the curve: two digits.
    digits = 1 - math.floor(math.log10(needed))
    return f"≤ {sizes[0]:,}" if needed == sizes[0] else f"{round(needed, digits):,.0f}"


def figure(rows: Sequence[Row], chance: Mapping[str, float]) -> Figure:
    """Accuracy against labels, as the paper's figure 5.

    Args:
      rows: the measurements.
      chance: accuracy of the most frequent class in each task.
    """
    sizes = sorted({row["labels"] for row in rows})
    curves: dict[str, dict[str, list[list[float]]]] = {}
    for task in dict.fromkeys(row["task"] for row in rows):
        curves[_TITLES[task]] = {
            # Seeds stand in one order at every size.
            name: [list(seed) for seed in zip(*_accuracies(rows, name, task).values(), strict=True)]
            for name in dict.fromkeys(row["representation"] for row in rows)
        }
    return figures_representation.label_curves(
        sizes, curves, chance={_TITLES[task]: value for task, value in chance.items()}
    )
