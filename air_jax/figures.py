"""The paper's figures, and pictures of what was found in a user's image.

Plain arrays in, a `matplotlib.figure.Figure` out. Figures are built without pyplot, which
would look for a display and keep every figure alive.
"""

import io
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike

from air_jax.charts import (
    PANEL_HEIGHT,
    chart,
    check_shape,
    draw_curve,
    draw_scan_policy,
    ordinal,
    plural,
    scan_policy_width,
    thousands,
)
from air_jax.files import replacing
from air_jax.models.spatial_transformer import window_box

DPI = 150
# Red, green and blue as in the paper's figure 3, bright enough to be seen on black. They differ
# in lightness as well as in hue, and each window bears its number, for the colour-blind.
STEP_COLOURS = ("#ff4136", "#3df08a", "#5c9dff", "#ffc233", "#ee82ee", "#e8e8e8")


def timeline(
    images: np.ndarray,
    steps: Sequence[int],
    reconstructions: np.ndarray,
    z_where: np.ndarray,
    z_pres: np.ndarray,
) -> Figure:
    """Reconstructions and attention windows as training goes on (the paper's figure 3, left).

    Args:
      images: as in `reconstruction_rows`.
      steps: training steps of the T milestones.
      reconstructions: of the same images at each milestone, `[T, M, S, S]`, `[..., 1]` or
        `[..., 3]`.
      z_where: `(s, t_x, t_y)` of each window, `[T, M, N, 3]`.
      z_pres: 1 where a window is in use, 0 elsewhere, `[T, M, N]`.

    Returns:
      A row of data, and below it one row per milestone.

    Raises:
      ValueError: if shapes disagree or the images are not square.
    """
    labels = [thousands(step) for step in steps]
    return reconstruction_rows(
        images, labels, reconstructions, z_where, z_pres, title="training step"
    )


def reconstruction_rows(
    images: np.ndarray,
    labels: Sequence[str],
    reconstructions: np.ndarray,
    z_where: np.ndarray,
    z_pres: np.ndarray,
    *,
    title: str = "",
) -> Figure:
    """Several models' reconstructions and attention windows of the same images.

    Args:
      images: the data, uint8 or float in [0, 1], `[M, S, S]`, `[M, S, S, 1]` or `[M, S, S, 3]`.
      labels: of the T rows.
      reconstructions: `[T, M, S, S]`, `[..., 1]` or `[..., 3]`.
      z_where: `(s, t_x, t_y)` of each window, `[T, M, N, 3]`.
      z_pres: 1 where a window is in use, 0 elsewhere, `[T, M, N]`.
      title: of the rows.

    Returns:
      A row of data, and below it one for each label.

    Raises:
      ValueError: if shapes disagree or the images are not square.
    """
    images, reconstructions = _without_channel(images, 3), _without_channel(reconstructions, 4)
    num_images, size = images.shape[:2]
    num_rows, num_steps = len(labels), np.shape(z_pres)[-1]
    colours = images.shape[3:]
    check_shape("images", images, (num_images, size, size, *((3,) if colours else ())))
    check_shape("reconstructions", reconstructions, (num_rows, *images.shape))
    check_shape("z_where", z_where, (num_rows, num_images, num_steps, 3))
    check_shape("z_pres", z_pres, (num_rows, num_images, num_steps))

    # Inches. Placed by hand: laying out a hundred axes automatically takes seconds.
    tile, pitch, top = 0.9, 0.96, 0.1
    # Room for the longest label beside the rows, and for the rows' title.
    left = max(0.85, 0.3 + 0.085 * max(len(label) for label in (*labels, "data")))
    width = max(left + num_images * pitch + 0.04, 3.4)
    columns, bottom = _legend_grid(num_steps, width)
    height = top + (num_rows + 1) * pitch + bottom
    figure = Figure(figsize=(width, height))

    def add_image(row: int, column: int, image: np.ndarray) -> Axes:
        x, y = left + column * pitch, height - top - row * pitch - tile
        axes = figure.add_axes((x / width, y / height, tile / width, tile / height))
        _show_image(axes, image)
        if column == 0:
            label = "data" if row == 0 else labels[row - 1]
            axes.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=10)
        return axes

    boxes = np.asarray(window_box(z_where, size))
    for column in range(num_images):
        add_image(0, column, images[column])
        for row in range(num_rows):
            axes = add_image(row + 1, column, reconstructions[row, column])
            for step in np.flatnonzero(np.asarray(z_pres)[row, column]):
                _draw_window(axes, boxes[row, column, step], int(step), linewidth=1.3, fontsize=6)
    middle_of_rows = (bottom + num_rows * pitch / 2) / height
    figure.supylabel(title, x=0.08 / width, y=middle_of_rows, fontsize=9)
    _add_legend(figure, num_steps, columns)
    return figure


def count_accuracy(
    steps: Sequence[int],
    accuracy: ArrayLike,
    per_count: Mapping[int, ArrayLike] | None = None,
    chance: float | None = None,
    bar: float | None = None,
) -> Figure:
    """Count accuracy over training (the paper's figure 3, above right).

    Args:
      steps: training steps of the T measurements.
      accuracy: share of images counted right, in [0, 1], `[T]`.
      per_count: the same among the images of each true count, `{count: [T]}`.
      chance: share that a guess gets right, a dashed line.
      bar: share to be reached, a dotted line.

    Returns:
      Curves in percent, with their last values in the legend.
    """
    figure, axes = chart(6.4, 3.4, "training step", "count accuracy (%)")
    curves = {"all images": accuracy}
    for count, values in sorted((per_count or {}).items()):
        curves[plural(count, "object")] = values
    for i, (label, values) in enumerate(curves.items()):
        percent = 100.0 * np.asarray(values, float)
        finite = percent[np.isfinite(percent)]
        if finite.size:
            label += f": {finite[-1]:.1f} %"
        draw_curve(axes, steps, percent, i, label)
    for share, style, name in ((chance, "--", "chance"), (bar, ":", "bar")):
        if share is not None:
            label = f"{name}: {100 * share:.4g} %"
            axes.axhline(100 * share, color="0.45", linestyle=style, label=label)
    axes.set_ylim(-2, 102)
    figure.legend(loc="outside right center", fontsize=8, frameon=False)
    return figure


def learning_curve(steps: Sequence[int], values: ArrayLike, ylabel: str) -> Figure:
    """One quantity over training.

    Args:
      steps: training steps of the T measurements.
      values: the quantity, `[T]`; nan leaves a gap.
      ylabel: its name and unit, such as "ELBO (nats per image)".
    """
    figure, axes = chart(5.2, 3.2, "training step", ylabel)
    draw_curve(axes, steps, np.asarray(values, float), 1, None)
    return figure


def scan_policy(z_where: np.ndarray, z_pres: np.ndarray, image_size: int) -> Figure:
    """Where each step of inference looks (the paper's figure 3, below right).

    Args:
      z_where: `(s, t_x, t_y)` of each window, `[M, N, 3]`.
      z_pres: 1 where a window is in use, 0 elsewhere, `[M, N]`.
      image_size: side of the images in pixels.

    Returns:
      A heat map of window centres for each step; those outside of the image are counted in the
      title, not in the map.
    """
    num_steps = np.shape(z_pres)[-1]
    figure = Figure(figsize=(scan_policy_width(num_steps), PANEL_HEIGHT))
    draw_scan_policy(figure, z_where, z_pres, image_size)
    return figure


def confusion(matrix: ArrayLike) -> Figure:
    """Confusion matrix of counts: each cell's images, and their share of the true count.

    Args:
      matrix: number of images, `[true, inferred]`, square.
    """
    matrix = np.asarray(matrix)
    num_counts = len(matrix)
    totals = matrix.sum(axis=1, keepdims=True)
    share = matrix / np.maximum(totals, 1)

    side = max(0.75 * num_counts + 1.2, 3.2)
    figure, axes = chart(side, side, "inferred number of objects", "true number of objects")
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for true, inferred in np.ndindex(matrix.shape):
        images = matrix[true, inferred]
        text = f"{images:,}\n{100 * share[true, inferred]:.1f} %" if images else "0"
        colour = "white" if share[true, inferred] > 0.5 else "black" if images else "0.6"
        axes.text(inferred, true, text, ha="center", va="center", color=colour, fontsize=8)
    axes.set(xticks=range(num_counts), yticks=range(num_counts))
    axes.tick_params(length=0)
    if totals.sum():
        right = 100 * np.trace(matrix) / totals.sum()
        axes.set_title(f"{right:.2f} % of {totals.sum():,} images counted right", fontsize=9)
    return figure


def annotated(
    image: np.ndarray, windows: ArrayLike, boxes: ArrayLike, num_objects: int, title: str
) -> Figure:
    """A picture with the objects found in it.

    Args:
      image: uint8 or float in [0, 1], `[H, W]`, `[H, W, 1]` or `[H, W, 3]`.
      windows: attention windows in pixels of this image, `[N, 4]`: x_min, y_min, x_max, y_max.
      boxes: boxes of the objects' ink, likewise, `[N, 4]`.
      num_objects: how many there are; the first so many windows and boxes are drawn.
      title: any text, such as the file's name; shortened to fit.

    Raises:
      ValueError: if shapes disagree.
    """
    image, windows, boxes = _without_channel(image, 2), np.asarray(windows), np.asarray(boxes)
    check_shape("windows", windows, (len(windows), 4))
    check_shape("boxes", boxes, windows.shape)
    if not 0 <= num_objects <= len(windows):
        raise ValueError(f"num_objects is {num_objects}, but there are {len(windows)} windows")

    # Inches; the longer side of the picture always has the same length.
    height, width = (4.8 * side / max(image.shape[:2]) for side in image.shape[:2])
    full_width = max(width, 2.8) + 0.2
    columns, legend_height = _legend_grid(num_objects + 1, full_width)
    full_height = height + 0.35 + legend_height
    figure = Figure(figsize=(full_width, full_height))
    corner = (0.5 - width / full_width / 2, legend_height / full_height)
    axes = figure.add_axes((*corner, width / full_width, height / full_height))
    _show_image(axes, image)
    for step in range(num_objects):
        _draw_window(axes, windows[step], step, linewidth=1.6, fontsize=9)
        _outline(axes, boxes[step], color=_step_colour(step), linewidth=0.9, linestyle="--")
    # A file's name is not a formula, however many dollar signs it has.
    title = _shortened(title, int(full_width / 0.085))
    figure.suptitle(title, y=1 - 0.1 / full_height, fontsize=9, parse_math=False)
    label = "ink" if num_objects else "no object found"
    last = Line2D([], [], color="0.4", lw=0.9, ls="--" if num_objects else "none", label=label)
    _add_legend(figure, num_objects, columns, last)
    return figure


def side_by_side(images: Mapping[str, np.ndarray], title: str) -> Figure:
    """A few images of one size in a row.

    Args:
      images: by what stands above them; uint8 or float in [0, 1], `[H, W]` or `[H, W, 3]`.
      title: any text; shortened to fit.
    """
    figure = Figure(figsize=(2.6 * len(images), 3.1))
    for place, (label, image) in enumerate(images.items(), start=1):
        axes = figure.add_subplot(1, len(images), place)
        _show_image(axes, _without_channel(np.asarray(image), 2))
        axes.set_title(label, fontsize=9)
    figure.suptitle(_shortened(title, 26 * len(images)), fontsize=9, parse_math=False)
    return figure


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes a figure; a reader finds the old file or the new one, never half.

    Args:
      figure: what to write.
      path: its file; the suffix is the format (.png, .pdf, .svg), folders are created.

    Raises:
      ValueError: if the suffix is missing or not a format.
    """
    path = Path(path)
    with replacing(path) as file:
        _write(figure, file, format=path.suffix[1:], dpi=DPI)


def to_png(figure: Figure, dpi: int = DPI) -> bytes:
    """A figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    _write(figure, buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def _write(figure: Figure, file: IO[bytes], **options: Any) -> None:
    with warnings.catch_warnings():
        # A user's file name may have letters that the font lacks; they show as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(file, **options)


def _without_channel(images: ArrayLike, rank: int) -> np.ndarray:
    images = np.asarray(images)
    return images[..., 0] if images.ndim == rank + 1 and images.shape[-1] == 1 else images


def _show_image(axes: Axes, image: np.ndarray) -> None:
    """Shows an image in pixel-edge coordinates, in which boxes can be drawn as they are."""
    height, width = image.shape[:2]
    white = 255 if image.dtype == np.uint8 else 1.0
    axes.imshow(image.clip(0, white), "gray", vmin=0, vmax=white, extent=(0, width, height, 0))
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _step_colour(step: int) -> str:
    return STEP_COLOURS[step % len(STEP_COLOURS)]


def _outline(axes: Axes, box: np.ndarray, **style: Any) -> None:
    x_min, y_min, x_max, y_max = (float(edge) for edge in box)
    axes.add_patch(Rectangle((x_min, y_min), x_max - x_min, y_max - y_min, fill=False, **style))


def _draw_window(axes: Axes, box: np.ndarray, step: int, linewidth: float, fontsize: int) -> None:
    """Draws a window's border, with its number in a corner of the part that is visible."""
    _outline(axes, box, color=_step_colour(step), linewidth=linewidth)
    (_, width), (height, _) = axes.get_xlim(), axes.get_ylim()
    # Each step has a corner of its own, so that numbers of coinciding windows stay legible. A
    # tenth of the side is about a number's size: none leaves the picture.
    at_right, at_bottom = step % 2, step // 2 % 2
    x = np.clip(box[2], 0.1 * width, width) if at_right else np.clip(box[0], 0, 0.9 * width)
    y = np.clip(box[3], 0.1 * height, height) if at_bottom else np.clip(box[1], 0, 0.9 * height)
    inset = 0.35 * fontsize
    axes.annotate(
        str(step + 1),
        (x, y),
        xytext=(inset * (1 - 2 * at_right), inset * (2 * at_bottom - 1)),
        textcoords="offset points",
        ha=("left", "right")[at_right],
        va=("top", "bottom")[at_bottom],
        color=_step_colour(step),
        fontsize=fontsize,
        fontweight="bold",
        path_effects=[withStroke(linewidth=1.5, foreground="black")],
    )


def _legend_grid(num_entries: int, width: float) -> tuple[int, float]:
    """Columns, and height in inches, of a legend in a figure `width` inches wide."""
    columns = int(width / 1.1)
    return columns, 0.12 + 0.2 * math.ceil(num_entries / columns)


def _add_legend(figure: Figure, num_windows: int, columns: int, *others: Line2D) -> None:
    handles = [
        Line2D([], [], color=_step_colour(i), linewidth=2.5, label=f"{ordinal(i + 1)} window")
        for i in range(num_windows)
    ]
    style: dict[str, Any] = {"fontsize": 8, "frameon": False, "columnspacing": 1.2}
    style |= {"loc": "lower center", "borderaxespad": 0.2}
    figure.legend(handles=[*handles, *others], ncols=columns, **style)


def _shortened(text: str, length: int) -> str:
    """One line of at most `length` characters, without its middle where it is longer."""
    text = " ".join(text.split())
    if len(text) <= length:
        return text
    return f"{text[: (length - 1) // 2]}…{text[-(length // 2) :]}"
