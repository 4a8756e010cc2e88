"""Figures that compare gradient estimators.

Plain arrays in, a `matplotlib.figure.Figure` out, as in `figures`, whose `save` writes these too.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import ArrayLike

from air_jax.charts import CURVE_COLOURS, check_shape, thousands

_MARKERS = "os^Dv*P"


class Panel(NamedTuple):
    """One pair of axes.

    Attributes:
      xlabel: what is varied.
      ylabel: what is shown, on a logarithmic scale.
      ticks: its T values, at equal distances.
      curves: T values of each estimator; those that are not positive are left out.
    """

    xlabel: str
    ylabel: str
    ticks: Sequence[float]
    curves: Mapping[str, ArrayLike]


def variances(panels: Sequence[Panel], *, num_columns: int) -> Figure:
    """A grid of panels with one legend; each estimator has its colour and marker.

    Args:
      panels: row by row, all with the same estimators.
      num_columns: panels in a row; the first shows the label of the y axis.

    Raises:
      ValueError: if a curve has not as many values as there are ticks, or rows are not full.
    """
    if not panels or len(panels) % num_columns:
        raise ValueError(f"{len(panels)} panels do not fill rows of {num_columns}.")
    num_rows = len(panels) // num_columns
    figure = Figure(
        figsize=(3.1 * num_columns, 2.5 * num_rows + 0.7),
        layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08),
    )
    grid = figure.subplots(num_rows, num_columns, sharey="row", squeeze=False)
    for i, (axes, panel) in enumerate(zip(grid.ravel(), panels, strict=True)):
        places = np.arange(len(panel.ticks))
        for j, (label, values) in enumerate(panel.curves.items()):
            check_shape(label, values, (len(places),))
            values = np.asarray(values, float)
            axes.plot(
                places,
                np.where(values > 0, values, np.nan),
                color=CURVE_COLOURS[j % len(CURVE_COLOURS)],
                marker=_MARKERS[j % len(_MARKERS)],
                markersize=4,
                linewidth=1.3,
                label=label,
            )
        axes.set_yscale("log")
        axes.set_xticks(places, [thousands(tick) for tick in panel.ticks])
        axes.set_xlim(-0.3, len(places) - 0.7)
        axes.grid(color="0.9", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.set_xlabel(panel.xlabel, fontsize=8)
        if i % num_columns == 0:
            axes.set_ylabel(panel.ylabel, fontsize=8)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    return figure
