"""The figure that compares representations by the labels that they need (paper, figure 5).

Plain arrays in, a `matplotlib.figure.Figure` out, as in `figures`, whose `save` writes these too.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import ArrayLike

from air_jax.charts import CURVE_COLOURS, check_shape, thousands

_MARKERS = "os^Dv*P"


def label_curves(
    sizes: Sequence[int],
    tasks: Mapping[str, Mapping[str, ArrayLike]],
    *,
    chance: Mapping[str, float],
) -> Figure:
    """Accuracy against the number of labelled images, one pair of axes for each task.

    Args:
      sizes: of the L labelled sets, ascending.
      tasks: title of each task to the curves of its representations: accuracies in [0, 1] of S
        seeds, `[S, L]`. All tasks have the same representations.
      chance: of each task, the accuracy of the most frequent class, a dotted line.

    Returns:
      Means in percent over a logarithmic axis, with error bars of one standard deviation over the
      seeds where there are two or more. Curves are set apart sideways, so that bars do not hide
      each other.

    Raises:
      ValueError: if a curve has not as many values as there are sizes, or there is no task.
    """
    if not tasks:
        raise ValueError("tasks is empty; a figure shows one at least")
    figure = Figure(
        figsize=(3.7 * len(tasks), 3.6), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    )
    grid = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    for i, (axes, (title, curves)) in enumerate(zip(grid, tasks.items(), strict=True)):
        for j, (label, values) in enumerate(curves.items()):
            percent = 100 * np.asarray(values, float)
            check_shape(label, percent, (len(percent), len(sizes)))
            deviation = percent.std(0, ddof=1) if len(percent) > 1 else None
            axes.errorbar(
                np.asarray(sizes) * 1.03 ** (j - (len(curves) - 1) / 2),
                percent.mean(0),
                yerr=deviation,
                color=CURVE_COLOURS[j % len(CURVE_COLOURS)],
                marker=_MARKERS[j % len(_MARKERS)],
                markersize=4,
                linewidth=1.3,
                capsize=2,
                label=label,
            )
        axes.axhline(100 * chance[title], color="0.45", linestyle=":", label="most frequent class")
        axes.set_xscale("log")
        axes.set_xticks(sizes, [thousands(size) for size in sizes])
        axes.minorticks_off()
        axes.set_ylim(0, 102)
        axes.grid(color="0.9", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("labelled images", fontsize=8)
        if i == 0:
            axes.set_ylabel("accuracy (%)", fontsize=8)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5, fontsize=8, frameon=False)
    return figure
