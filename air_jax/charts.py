"""What figures of one run and figures of several are drawn with: axes, curves, heat maps, words."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter
from numpy.typing import ArrayLike

from air_jax.models.spatial_transformer import window_box

# For curves on white; the first is for the whole set (Okabe & Ito, 2008).
CURVE_COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
# Inches of a row of heat maps.
PANEL_WIDTH, PANEL_HEIGHT = 2.5, 3.5
_STEP_MAPS = ("Reds", "Greens", "Blues", "YlOrBr", "Purples", "Greys")


def chart(width: float, height: float, xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    """A figure, in inches, of one pair of axes, laid out so that nothing is cut off."""
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    figure = Figure(figsize=(width, height), layout=layout)
    return figure, figure.add_subplot(xlabel=xlabel, ylabel=ylabel)


def draw_curve(
    axes: Axes, steps: Sequence[int], values: np.ndarray, index: int, label: str | None
) -> None:
    """Draws a quantity over training.

    Args:
      axes: where; its x axis becomes one of training steps.
      steps: training steps of the T measurements.
      values: the quantity, `[T]`; nan leaves a gap.
      index: of the colour.
      label: in the legend, None for none.

    Raises:
      ValueError: if there are not as many values as steps.
    """
    check_shape("values", values, (len(steps),))
    colour = CURVE_COLOURS[index % len(CURVE_COLOURS)]
    # Few measurements are shown as such; a dense curve would drown in markers.
    marker = "o" if len(steps) <= 40 else None
    axes.plot(steps, values, color=colour, label=label, marker=marker, markersize=3, linewidth=1.4)
    show_training_steps(axes)


def show_training_steps(axes: Axes) -> None:
    """Makes the x axis one of training steps, on a light grid."""
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: thousands(step)))
    axes.grid(color="0.9", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)


def scan_policy_width(num_steps: int) -> float:
    """Width in inches of a row of heat maps, one for each step."""
    return 0.7 + PANEL_WIDTH * num_steps


def draw_scan_policy(
    figure: FigureBase,
    z_where: np.ndarray,
    z_pres: np.ndarray,
    image_size: int,
    height: float = PANEL_HEIGHT,
) -> None:
    """Draws a row of heat maps of window centres, one for each step.

    Args:
      figure: a figure or a part of one, `scan_policy_width(N)` inches wide.
      z_where: `(s, t_x, t_y)` of each window, `[M, N, 3]`.
      z_pres: 1 where a window is in use, 0 elsewhere, `[M, N]`.
      image_size: side of the images in pixels.
      height: of `figure`, inches; what exceeds `PANEL_HEIGHT` is left free above the row.

    Raises:
      ValueError: if shapes disagree.
    """
    present = np.asarray(z_pres) > 0
    num_steps = present.shape[-1]
    check_shape("z_where", z_where, (len(present), num_steps, 3))
    boxes = np.asarray(window_box(z_where, image_size))
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2

    # By hand, so that a panel without a colour scale is as large as the others.
    width, side = scan_policy_width(num_steps), 2.1
    edges = np.linspace(0, image_size, min(image_size, 25) + 1)
    for step in range(num_steps):
        corner = (0.65 + PANEL_WIDTH * step) / width, 0.95 / height
        axes = figure.add_axes((*corner, side / width, side / height))
        x, y = centres[present[:, step], step].T
        _show_heat_map(axes, x, y, edges, _STEP_MAPS[step % len(_STEP_MAPS)])
        outside = np.count_nonzero((np.minimum(x, y) < 0) | (np.maximum(x, y) > image_size))
        title = f"{ordinal(step + 1)} window\n{plural(len(x), 'object')}"
        axes.set_title(title + (f", {outside:,} outside" if outside else ""), fontsize=9)
        axes.set_ylabel("y (pixels)" if step == 0 else "", fontsize=8)


def check_shape(name: str, array: ArrayLike, expected: tuple[int, ...]) -> None:
    """Refuses an array of another shape with a ValueError that names it."""
    if np.shape(array) != expected:
        raise ValueError(f"{name} must have shape {expected}, got {np.shape(array)}")


def plural(number: int, noun: str) -> str:
    """1 object, 2 objects, 1,000 objects."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def thousands(step: float) -> str:
    """0, 500, 1k, 2.5k, 1.2M."""
    for unit, suffix in ((1e6, "M"), (1e3, "k")):
        if abs(step) >= unit:
            return f"{step / unit:.2f}".rstrip("0").rstrip(".") + suffix
    return f"{step:g}"


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th."""
    return str(number) + {1: "st", 2: "nd", 3: "rd"}.get(number, "th")


def _show_heat_map(
    axes: Axes, x: np.ndarray, y: np.ndarray, edges: np.ndarray, colours: str
) -> None:
    size = edges[-1]
    ticks = [0, size / 2, size]
    axes.set(xlim=(0, size), ylim=(size, 0), xticks=ticks, yticks=ticks)
    axes.tick_params(labelsize=7)
    axes.set_xlabel("x (pixels)", fontsize=8)
    if not len(x):
        axes.text(size / 2, size / 2, "never used", ha="center", va="center", color="0.4")
        return
    density = 100 * np.histogram2d(y, x, bins=(edges, edges))[0] / len(x)
    mesh = axes.pcolormesh(edges, edges, density, cmap=colours, vmin=0, rasterized=True)
    bar = axes.inset_axes((0.1, -0.27, 0.8, 0.05))
    axes.figure.colorbar(mesh, cax=bar, orientation="horizontal")
    bar.locator_params(nbins=4)
    bar.tick_params(labelsize=7)
    bar.set_xlabel(f"% of windows per {edges[1]:.3g} × {edges[1]:.3g} pixels", fontsize=7)
