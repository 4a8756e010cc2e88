"""Figures of several runs: of one configuration seed by seed, of several by their means.

Plain arrays in, a `matplotlib.figure.Figure` out, as in `figures`, whose `save` writes these too.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from air_jax.charts import (
    CURVE_COLOURS,
    PANEL_HEIGHT,
    chart,
    check_shape,
    draw_scan_policy,
    plural,
    scan_policy_width,
    show_training_steps,
)

_SUCCEEDED_COLOUR = "#56b4e9"
# Told apart without colour too. The colours leave out those of the median and the successes.
_FAILED_COLOURS = ("#d55e00", "#009e73", "#cc79a7", "#e69f00")
_FAILED_LINES = ("-", "--")
_MAX_NAMED = 8
_TITLE_HEIGHT = 0.35  # inches


def learning_curves(
    steps: Sequence[int],
    accuracies: ArrayLike,
    *,
    seeds: Sequence[int] | None = None,
    final: ArrayLike | None = None,
    bar: float = 0.98,
) -> Figure:
    """Count accuracy of every seed over training, failed ones named, and the median of all.

    A run that stopped holds its last accuracy in the median, as it does in `reliability`.

    Args:
      steps: training steps of the T measurements, the same for all seeds.
      accuracies: share of images counted right, in [0, 1], `[S, T]`; nan where a run has no
        measurement, as after it stopped.
      seeds: their names, `[S]`; 0..S - 1 if None.
      final: the accuracies that decide who failed and that the legend shows, such as those of the
        test set, `[S]`; nan for a run that stopped, which has failed, whatever it had reached.
        Those at the last step if None.
      bar: share to be reached, a dotted line.

    Returns:
      Curves in percent; that of a failed run which ends before the last step ends in a cross.

    Raises:
      ValueError: if shapes disagree or there is nothing to show.
    """
    percent = 100.0 * np.asarray(accuracies, float)
    num_seeds = len(percent)
    if not percent.size:
        raise ValueError("accuracies is empty; a figure of several runs shows one at least")
    check_shape("accuracies", percent, (num_seeds, len(steps)))
    seeds = range(num_seeds) if seeds is None else seeds
    check_shape("seeds", seeds, (num_seeds,))
    held = _hold_last(percent)
    decisive = percent[:, -1] / 100 if final is None else np.asarray(final, float)
    check_shape("final", decisive, (num_seeds,))
    succeeded = decisive >= bar  # not so for nan

    figure, axes = chart(6.8, 3.6, "training step", "count accuracy (%)")
    others = f"{succeeded.sum()} of {plural(num_seeds, 'seed')} at {100 * bar:.4g} % or more"
    for i in np.flatnonzero(succeeded).tolist():
        axes.plot(steps, percent[i], color=_SUCCEEDED_COLOUR, linewidth=1, label=others)
        others = "_"  # one entry for all
    failed = np.flatnonzero(~succeeded)
    for rank, i in enumerate(failed.tolist()):
        colour = _FAILED_COLOURS[rank % len(_FAILED_COLOURS)]
        line = _FAILED_LINES[rank // len(_FAILED_COLOURS) % len(_FAILED_LINES)]
        label = f"seed {seeds[i]}: {100 * decisive[i]:.1f} %"
        if not np.isfinite(decisive[i]):
            label = f"seed {seeds[i]}: stopped at {held[i, -1]:.1f} %"
        if rank >= _MAX_NAMED:
            colour, line = "0.7", "-"
            label = f"and {len(failed) - _MAX_NAMED} more failed" if rank == _MAX_NAMED else "_"
        axes.plot(steps, percent[i], color=colour, linestyle=line, linewidth=1.4, label=label)
        measured = np.flatnonzero(np.isfinite(percent[i]))
        if measured.size and measured[-1] < len(steps) - 1:
            end = int(measured[-1])
            axes.plot(steps[end], percent[i, end], "x", color=colour, markersize=7)
    median = np.median(held, axis=0)
    label = f"median of all: {median[-1]:.1f} %"
    axes.plot(steps, median, color=CURVE_COLOURS[0], linewidth=2.2, label=label)
    axes.axhline(100 * bar, color="0.45", linestyle=":", label=f"bar: {100 * bar:.4g} %")
    axes.set_ylim(-2, 102)
    show_training_steps(axes)
    figure.legend(loc="outside right center", fontsize=8, frameon=False)
    return figure


def scan_policies(
    z_where: np.ndarray,
    z_pres: np.ndarray,
    image_size: int,
    *,
    seeds: Sequence[int],
    accuracies: ArrayLike,
) -> Figure:
    """Where each step looks in each of several runs (the paper's figure 3, below right).

    Args:
      z_where: `(s, t_x, t_y)` of each window, `[S, M, N, 3]`.
      z_pres: 1 where a window is in use, 0 elsewhere, `[S, M, N]`.
      image_size: side of the images in pixels.
      seeds: names of the runs, `[S]`.
      accuracies: their count accuracies, in [0, 1], `[S]`, for the titles.

    Returns:
      A row of heat maps for each run, a column for each step.

    Raises:
      ValueError: if shapes disagree or there is no run.
    """
    z_where, z_pres = np.asarray(z_where), np.asarray(z_pres)
    num_runs = len(seeds)
    if not num_runs:
        raise ValueError("seeds is empty; a figure of several runs shows one at least")
    check_shape("z_pres", z_pres, (num_runs, *z_pres.shape[1:]))
    check_shape("z_where", z_where, (*z_pres.shape, 3))
    check_shape("accuracies", accuracies, (num_runs,))
    row = PANEL_HEIGHT + _TITLE_HEIGHT
    figure = Figure(figsize=(scan_policy_width(z_pres.shape[-1]), num_runs * row))
    parts = figure.subfigures(num_runs, 1, squeeze=False)[:, 0]
    for i, accuracy in enumerate(np.asarray(accuracies, float)):
        draw_scan_policy(parts[i], z_where[i], z_pres[i], image_size, height=row)
        title = f"seed {seeds[i]}: {100 * accuracy:.1f} % counted right"
        parts[i].suptitle(title, y=1 - 0.18 / row, fontsize=9, fontweight="bold")
    return figure


def mutual_information(
    features: Sequence[str],
    fractions: ArrayLike,
    null_95: ArrayLike,
    *,
    seeds: Sequence[int],
) -> Figure:
    """How much each feature tells about which object is attended first, seed by seed.

    Args:
      features: names of the F features.
      fractions: mutual information as a share of the entropy, adjusted for chance, `[S, F]`, as
        in `scan_policy.mutual_information`; nan where it was not measured.
      null_95: what 5 % of random orders exceed, likewise, `[S, F]`; a black line across each bar.
      seeds: names of the S runs.

    Returns:
      Bars in percent, grouped by feature.

    Raises:
      ValueError: if shapes disagree or there is no seed.
    """
    percent, null = 100 * np.asarray(fractions, float), 100 * np.asarray(null_95, float)
    num_seeds, num_features = len(seeds), len(features)
    if not num_seeds:
        raise ValueError("seeds is empty; a figure of several runs shows one at least")
    check_shape("fractions", percent, (num_seeds, num_features))
    check_shape("null_95", null, (num_seeds, num_features))
    figure, axes = chart(
        max(1.1 * num_features + 2.4, 5.0),
        3.6,
        "what is known of an object",
        "information on being first\n(% of its entropy, chance = 0)",
    )
    width = 0.8 / num_seeds
    for i, seed in enumerate(seeds):
        x = np.arange(num_features) + width * (i - (num_seeds - 1) / 2)
        measured = np.isfinite(percent[i])
        colour = CURVE_COLOURS[1 + i % (len(CURVE_COLOURS) - 1)]
        bars = x[measured], percent[i][measured]
        axes.bar(*bars, width=0.9 * width, color=colour, label=f"seed {seed}")
        known = measured & np.isfinite(null[i])
        axes.hlines(
            null[i][known],
            x[known] - width / 2,
            x[known] + width / 2,
            color="black",
            linewidth=1.5,
            label="95 % of random orders" if i == num_seeds - 1 else "_",
        )
    for feature in np.flatnonzero(~np.isfinite(percent).any(axis=0)).tolist():
        axes.text(feature, 3, "not measured", rotation=90, ha="center", color="0.4", fontsize=8)
    axes.axhline(0, color="0.3", linewidth=0.8)
    axes.set_xticks(range(num_features), [name.replace("_", "\n") for name in features])
    lowest = min(0.0, float(np.min(percent, initial=0.0, where=np.isfinite(percent))))
    axes.set(xlim=(-0.6, num_features - 0.4), ylim=(lowest - 2, 104))
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", fontsize=8, frameon=False)
    return figure


class Curve(NamedTuple):
    """A quantity over training, of several runs.

    Attributes:
      steps: training steps of the T measurements.
      values: `[S, T]`; nan where there is none.
    """

    steps: Sequence[int]
    values: np.ndarray


def mean_curves(panels: Mapping[str, Mapping[str, Curve]], *, title: str = "") -> Figure:
    """Means over the seeds with a band of one standard deviation, of several configurations.

    Args:
      panels: for each panel, by the name of its quantity, the configurations' curves by theirs. A
        configuration has the same colour in every panel, and none where all its values are nan.
      title: of the figure.

    Returns:
      Panels in rows of two, with one legend.

    Raises:
      ValueError: if there is nothing to show or a curve has not as many values as steps.
    """
    if not panels:
        raise ValueError("panels is empty; a figure shows one at least")
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    rows, columns = -(-len(panels) // 2), min(len(panels), 2)
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    figure = Figure(figsize=(4.2 * columns + 1.4, 3.1 * rows), layout=layout)
    handles: dict[str, Line2D] = {}
    for place, (quantity, panel) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, place + 1, xlabel="training step", ylabel=quantity)
        for name, curve in panel.items():
            values = np.asarray(curve.values, float)
            check_shape("values", values, (len(values), len(curve.steps)))
            known = np.isfinite(values).any(axis=0)
            if not known.any():
                continue
            steps, values = np.asarray(curve.steps)[known], values[:, known]
            mean, number = np.nanmean(values, axis=0), np.isfinite(values).sum(axis=0)
            squares = np.nansum((values - mean) ** 2, axis=0)
            deviation = np.sqrt(squares / np.maximum(number - 1, 1))
            colour = CURVE_COLOURS[names.index(name) % len(CURVE_COLOURS)]
            (line,) = axes.plot(steps, mean, color=colour, marker="o", markersize=3, linewidth=1.4)
            axes.fill_between(
                steps, mean - deviation, mean + deviation, color=colour, alpha=0.2, linewidth=0
            )
            handles.setdefault(name, line)
        show_training_steps(axes)
    if title:
        figure.suptitle(title, fontsize=10)
    figure.legend(
        list(handles.values()), list(handles), loc="outside right center", fontsize=8, frameon=False
    )
    return figure


class Bars(NamedTuple):
    """A quantity in some groups.

    Attributes:
      means: over the seeds, one for each group; nan for no bar.
      deviations: likewise.
    """

    means: Sequence[float]
    deviations: Sequence[float]


def bars(groups: Sequence[str], panels: Mapping[str, Mapping[str, Bars]], *, xlabel: str) -> Figure:
    """Means over the seeds with one standard deviation, side by side for each configuration.

    Args:
      groups: names of the G groups, from left to right.
      panels: for each panel, by the name of its quantity, the configurations' bars by theirs.
      xlabel: what tells the groups apart.

    Returns:
      Panels beside each other, with one legend.

    Raises:
      ValueError: if there is nothing to show, or not as many bars as groups.
    """
    if not panels or not all(panels.values()):
        raise ValueError("panels is empty, or one of them; a figure shows one bar at least")
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    figure = Figure(figsize=(4.2 * len(panels) + 1.2, 3.1), layout=layout)
    places = np.arange(len(groups))
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    width, named = 0.8 / len(names), set[str]()
    for i, (quantity, panel) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), i + 1, xlabel=xlabel, ylabel=quantity)
        for name, of_name in panel.items():
            check_shape(f"means of {name}", of_name.means, (len(groups),))
            check_shape(f"deviations of {name}", of_name.deviations, (len(groups),))
            j = names.index(name)
            axes.bar(
                places + width * (j - (len(names) - 1) / 2),
                of_name.means,
                width,
                yerr=of_name.deviations,
                capsize=2,
                color=CURVE_COLOURS[1 + j % (len(CURVE_COLOURS) - 1)],
                label=None if name in named else name,
            )
            named.add(name)
        axes.set_xticks(places, groups, fontsize=8)
        axes.grid(axis="y", color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", fontsize=8, frameon=False)
    return figure


def _hold_last(values: np.ndarray) -> np.ndarray:
    """Replaces each nan of a row by what came before it, 0 where nothing did; `[S, T]`."""
    held = np.zeros_like(values)
    before = np.zeros(len(values))
    for t in range(values.shape[1]):
        before = np.where(np.isfinite(values[:, t]), values[:, t], before)
        held[:, t] = before
    return held
