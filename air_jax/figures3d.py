"""Figures of 3-D scenes: seen from above, and which step finds what (paper, figure 7)."""

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from air_jax.charts import ordinal, plural
from air_jax.data.tabletop import Scenes3D
from air_jax.inverse_graphics import Objects3D
from air_jax.render.scene import Catalogue, View

_FOUND_COLOUR = "#d62728"
_TRUE_COLOUR = "0.35"
_MARKERS = "osD^vP"  # of the catalogue's models
_CAMERA_MARKER = "$c$"
_SHOWN = 2.2  # of the table, from its middle, units of length
AMONG_FIRST = 50  # scenes, of which some are shown from above
_CAMERA_AT = 1.8  # where a camera is drawn, from the middle


def from_above(scenes: Scenes3D, found: Objects3D, view: View, *, num_scenes: int) -> Figure:
    """True objects and cameras, and the inferred ones over them in red.

    A line leads from an object to where it is turned, where that can be told. Cameras are drawn at
    their azimuth, at the table's edge.

    Args:
      scenes: true.
      found: of the same scenes.
      view: of the images.
      num_scenes: how many are shown; those with most objects of the `AMONG_FIRST` first ones.

    Raises:
      ValueError: if there is no scene to show.
    """
    chosen = np.argsort(-scenes.counts[:AMONG_FIRST], kind="stable")[:num_scenes]
    if not len(chosen):
        raise ValueError("there is no scene to show")
    layout = ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.1)
    columns = math.ceil(len(chosen) / 2)
    figure = Figure(figsize=(2.6 * columns, 2.6 * math.ceil(len(chosen) / columns)), layout=layout)
    rows = math.ceil(len(chosen) / columns)
    for place, scene in enumerate(chosen):
        axes = figure.add_subplot(rows, columns, place + 1, aspect="equal")
        axes.set(xlim=(-_SHOWN, _SHOWN), ylim=(-_SHOWN, _SHOWN), xticks=[], yticks=[])
        present = scenes.identities[scene] >= 0
        _draw_scene(
            axes,
            scenes.identities[scene][present],
            scenes.poses[scene][present],
            scenes.cameras[scene],
            view.catalogue,
            colour=_TRUE_COLOUR,
            size=13,
        )
        count = found.counts[scene]
        _draw_scene(
            axes,
            found.identities[scene][:count],
            found.poses[scene][:count],
            found.cameras[scene],
            view.catalogue,
            colour=_FOUND_COLOUR,
            size=7,
        )
    symbols = {model.name: _marker(i) for i, model in enumerate(view.catalogue)}
    symbols["camera"] = _CAMERA_MARKER
    entries = [
        Line2D([], [], color="0.2", linestyle="", marker=marker, label=name)
        for name, marker in symbols.items()
    ]
    entries.append(Line2D([], [], color=_TRUE_COLOUR, linewidth=3, label="true"))
    entries.append(Line2D([], [], color=_FOUND_COLOUR, linewidth=3, label="found"))
    figure.legend(handles=entries, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return figure


def _draw_scene(
    axes: Axes,
    identities: np.ndarray,
    poses: np.ndarray,
    camera: np.ndarray,
    catalogue: Catalogue,
    *,
    colour: str,
    size: float,
) -> None:
    style: dict[str, Any] = {
        "color": colour,
        "markerfacecolor": "none",
        "markeredgewidth": 1.6,
        "linestyle": "",
    }
    for identity, (x, y, yaw) in zip(identities, poses, strict=True):
        axes.plot(x, y, marker=_marker(identity), markersize=size, **style)
        if catalogue[identity].fold:
            reach = 0.6
            ends = [x, x + reach * math.cos(yaw)], [y, y + reach * math.sin(yaw)]
            axes.plot(*ends, color=colour, linewidth=1.2)
    # At azimuth 0 it stands at negative y.
    x, y = _CAMERA_AT * math.sin(camera[0]), -_CAMERA_AT * math.cos(camera[0])
    axes.plot(x, y, marker=_CAMERA_MARKER, markersize=size, color=colour)


def policy(found: Objects3D, view: View) -> Figure:
    """Where each step puts its objects on the table, and which they are.

    Args:
      found: of many scenes.
      view: of the images.

    Returns:
      A heat map of places for each step, and below them how often it chose each model, per cent.
    """
    num_steps = found.identities.shape[1]
    names = [model.name for model in view.catalogue]
    layout = ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.05)
    figure = Figure(figsize=(2.7 * num_steps, 4.6), layout=layout)
    grid = figure.add_gridspec(2, num_steps, height_ratios=[3, 2])
    edges = np.linspace(-_SHOWN, _SHOWN, 26)
    shares = np.zeros((num_steps, len(names)))
    for step in range(num_steps):
        used = found.counts > step
        axes = figure.add_subplot(grid[0, step], aspect="equal")
        title = f"{ordinal(step + 1)} step\n{plural(int(used.sum()), 'object')}"
        axes.set_title(title, fontsize=9)
        axes.set(xlabel="x", xticks=[-2, 0, 2], yticks=[-2, 0, 2])
        axes.set_ylabel("y" if step == 0 else "")
        x, y = found.poses[used, step, :2].T
        counted = np.histogram2d(y, x, bins=(edges, edges))[0]
        axes.pcolormesh(edges, edges, counted, cmap="viridis", vmin=0, rasterized=True)
        if used.any():
            chosen = np.bincount(found.identities[used, step], minlength=len(names))
            shares[step] = 100 * chosen / chosen.sum()
        bars = figure.add_subplot(grid[1, step], ylim=(0, 100))
        colours = [_colour(view.catalogue, i) for i in range(len(names))]
        bars.bar(names, shares[step], color=colours, edgecolor="0.4")
        bars.tick_params(axis="x", labelsize=8)
        bars.set_ylabel("identity (%)" if step == 0 else "")
        bars.spines[["top", "right"]].set_visible(False)
    return figure


def _marker(identity: int) -> str:
    return _MARKERS[identity % len(_MARKERS)]


def _colour(catalogue: Catalogue, identity: int) -> tuple[float, float, float]:
    """The colour of a model's first part."""
    return to_rgb(catalogue[identity].parts[0].colour)
