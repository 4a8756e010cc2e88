"""The curves of a report: what is drawn over training, as plotly takes it."""

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from air_jax.charts import CURVE_COLOURS, plural
from air_jax.writer import rounded

Scalars = Sequence[Mapping[str, Any]]

_NATS = "nats per image"
_SHARE = "share of images"
# Title and unit of what a run logs, in the order of the charts; another name is its own title.
_KNOWN = {
    "elbo": ("ELBO", _NATS),
    "count_accuracy": ("Count accuracy", _SHARE),
    "log_p_x": ("log p(x | z)", _NATS),
    "kl": ("KL of z", _NATS),
    "kl_what": ("KL of z_what", _NATS),
    "kl_where": ("KL of z_where", _NATS),
    "log_p_pres": ("log p(z_pres)", _NATS),
    "log_q_pres": ("log q(z_pres)", _NATS),
    "num_objects": ("Objects drawn by q", "per image"),
    "loss": ("Loss", _NATS),
    "baseline_loss": ("Loss of the baseline", ""),
    "gradient_norm_model": ("Gradient norm of the model", ""),
    "gradient_norm_baseline": ("Gradient norm of the baseline", ""),
    "steps_per_second": ("Speed", "training steps per second"),
}
_NO_CURVES = frozenset({"step", "split", "seconds"})
_SPLITS = ("validation", "train")
_SPLIT_NAMES = {"validation": "validation", "train": "training"}
_PER_COUNT = re.compile(r"count_accuracy_n(\d+)")
_MOST_MARKERS = 40
# A constant share of 1 would have an axis from 0 to 2.
_OF_SHARES = {"tickformat": ".0%", "range": [-0.02, 1.02]}


class Curve(NamedTuple):
    """One line of a chart.

    Attributes:
      name: in the legend.
      steps: training steps, `[T]`.
      values: at these; None leaves a gap, `[T]`.
      colour: of `CURVE_COLOURS`.
      dashed: whether it is a mean over training batches rather than a measurement.
    """

    name: str
    steps: list[int]
    values: list[float | None]
    colour: str
    dashed: bool


class Chart(NamedTuple):
    """One chart.

    Attributes:
      title: what is drawn.
      unit: of the y axis; empty for none.
      curves: at least one.
    """

    title: str
    unit: str
    curves: list[Curve]


def of_run(scalars: Scalars) -> list[Chart]:
    """A run's curves, one chart for each quantity; count accuracy has those of each true count.

    Args:
      scalars: entries as `writer.read_scalars` gives them.
    """
    charts = []
    for name in _names(scalars):
        if _PER_COUNT.fullmatch(name):
            continue
        shown = [
            _curve(scalars, split, name, _SPLIT_NAMES[split], i) for i, split in enumerate(_SPLITS)
        ]
        if name == "count_accuracy":
            for i, other in enumerate(filter(_PER_COUNT.fullmatch, _names(scalars)), start=2):
                label = plural(int(other.removeprefix("count_accuracy_n")), "object")
                shown.append(_curve(scalars, "validation", other, label, i))
        charts.append(Chart(*_title(name), [curve for curve in shown if curve.steps]))
    return charts


def of_runs(runs: Sequence[tuple[str, Scalars]]) -> list[Chart]:
    """The curves of several runs over one another, one chart for each quantity.

    Args:
      runs: name and entries of each. Of a quantity that a run has both in validation and in
        training, the former is drawn.
    """
    charts = []
    for name in _names([entry for _, scalars in runs for entry in scalars]):
        curves = []
        for i, (label, scalars) in enumerate(runs):
            found = [
                _curve(scalars, split, name, f"{label} ({_SPLIT_NAMES[split]})", i)
                for split in _SPLITS
            ]
            curves += [curve for curve in found if curve.steps][:1]
        charts.append(Chart(*_title(name), curves))
    return charts


def as_plotly(chart: Chart) -> dict[str, Any]:
    """A chart as `Plotly.newPlot` takes it: `data` and `layout`, JSON-able."""
    axis = {"gridcolor": "#e5e5e5", "zeroline": False, "automargin": True}
    return {
        "data": [_trace(curve) for curve in chart.curves],
        "layout": {
            "xaxis": {**axis, "title": {"text": "training step"}, "rangemode": "tozero"},
            "yaxis": axis | (_OF_SHARES if chart.unit == _SHARE else {}),
            "hovermode": "x unified",
            "hoverlabel": {"namelength": -1},
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
            "showlegend": True,
            "margin": {"l": 10, "r": 10, "t": 10, "b": 10},
            "font": {"family": "system-ui, sans-serif", "size": 12, "color": "#222222"},
        },
    }


def _trace(curve: Curve) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(curve.steps) <= _MOST_MARKERS else "lines",
        # Plotly takes some tags in its texts, and entities for what is none.
        "name": html.escape(curve.name),
        "x": curve.steps,
        "y": curve.values,
        "line": {
            "color": curve.colour,
            "width": 1.2 if curve.dashed else 2,
            "dash": "dot" if curve.dashed else "solid",
        },
        "marker": {"size": 4 if curve.dashed else 6},
    }


def _curve(scalars: Scalars, split: str, name: str, label: str, index: int) -> Curve:
    points = [
        (entry["step"], entry[name])
        for entry in scalars
        if entry["split"] == split and isinstance(entry.get(name), int | float)
    ]
    return Curve(
        name=label,
        steps=[step for step, _ in points],
        values=rounded(value for _, value in points),
        colour=CURVE_COLOURS[index % len(CURVE_COLOURS)],
        dashed=split == "train",
    )


def _names(scalars: Scalars) -> list[str]:
    """What has a curve, the known first."""
    names = {
        name
        for entry in scalars
        if entry["split"] in _SPLITS
        for name, value in entry.items()
        if isinstance(value, int | float)
    }
    order = {name: place for place, name in enumerate(_KNOWN)}

    def place(name: str) -> tuple[int, str]:
        known = "count_accuracy" if _PER_COUNT.fullmatch(name) else name
        return order.get(known, len(order)), name

    return sorted(names - _NO_CURVES, key=place)


def _title(name: str) -> tuple[str, str]:
    per_count = _PER_COUNT.fullmatch(name)
    if per_count:
        return f"Count accuracy, {plural(int(per_count[1]), 'object')}", _SHARE
    return _KNOWN.get(name, (name, ""))
