"""What `experiments.estimators` measured, as a table, as lines and as a figure."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from air_jax import figures_estimators, gradient_noise, tables

ALL = "all"  # images of every count
Row = Mapping[str, Any]


def _or_nan(value: float | None) -> float:
    """A number that JSON may have lost: an SNR is infinite where nothing varies."""
    return math.nan if value is None else value


_STAGES = ("initialisation", "early", "late")
# Of a measurement, at equal cost; as they are called in a table.
_QUANTITIES: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "variance": lambda row: row["variance_times_samples"],
    "of z_pres": lambda row: row["variance_discrete_times_samples"],
    "SNR": lambda row: _or_nan(row["snr"]) / math.sqrt(row["num_samples"]),
}


def rows(
    measurement: Row, counts: Sequence[int], spreads: gradient_noise.Spreads
) -> list[dict[str, Any]]:
    """A row for the images of each count and one for all of them, with respect to each name.

    Args:
      measurement: what was measured: stage, step, number of steps, estimator, `num_samples` K.
      counts: numbers of objects, G of them.
      spreads: `[G + 1]`, those of the whole batch last, or `[G]` if the whole batch's are means
        over the groups.
    """
    found = []
    for name, spread in spreads.items():
        if len(spread.variance) == len(counts):
            error = np.sqrt(np.square(spread.error_discrete).sum()) / len(counts)
            whole = jax.tree.map(np.mean, spread)._replace(error_discrete=error)
            spread = jax.tree.map(np.append, spread, whole)
        snr = gradient_noise.signal_to_noise(spread)
        for i, objects in enumerate([*counts, ALL]):
            variance, discrete = float(spread.variance[i]), float(spread.variance_discrete[i])
            found.append(
                {
                    **measurement,
                    "objects": objects,
                    "with_respect_to": name,
                    "variance": variance,
                    "variance_times_samples": variance * measurement["num_samples"],
                    "variance_discrete": discrete,
                    "variance_discrete_times_samples": discrete * measurement["num_samples"],
                    "error_discrete": float(spread.error_discrete[i]),
                    "squared_mean": float(spread.squared_mean[i]),
                    "snr": float(snr[i]),
                }
            )
    return found


def _select(rows: Sequence[Row], **conditions: Any) -> list[Row]:
    return [row for row in rows if all(row[name] == value for name, value in conditions.items())]


def table(results: Mapping[str, Any]) -> str:
    """What was measured of the whole batch, at equal cost, in Markdown.

    Args:
      results: as in `estimators.json`, of which the networks with as many steps as were trained.
    """
    rows = _select(results["measurements"], objects=ALL)
    # Other lengths are measured at one stage only.
    (num_steps,) = {row["num_steps"] for row in _select(rows, stage=_STAGES[-1])}
    stages = {stage: _select(rows, stage=stage, num_steps=num_steps) for stage in _STAGES}
    header = ["gradient of", "estimator"]
    for name in _QUANTITIES:
        header += [f"{name}, step {chosen[0]['step']:,}" for chosen in stages.values()]
    lines = []
    for gradient in ("presence logits", "parameters"):
        for label in dict.fromkeys(row["label"] for row in rows):
            line = [gradient, label]
            for quantity in _QUANTITIES.values():
                for chosen in stages.values():
                    (row,) = _select(chosen, label=label, with_respect_to=gradient)
                    line.append(_number(quantity(row)))
            lines.append(line)
    return tables.markdown(header, lines)


def _number(value: float) -> str:
    """Three significant digits without an exponent; "-" for what is not finite."""
    if not math.isfinite(value):
        return "-"
    if value == 0:
        return "0"
    value = float(f"{value:.2e}")
    return f"{value:,.{max(2 - math.floor(math.log10(abs(value))), 0)}f}"


def figure(rows: Sequence[Row], num_steps: int) -> Figure:
    """Variance and SNR at equal cost against training, number of objects and number of steps.

    Args:
      rows: the measurements.
      num_steps: the network's own N.
    """
    sweeps: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("training step", "step", {"objects": ALL, "num_steps": num_steps}),
        ("objects in the image, early", "objects", {"stage": "early", "num_steps": num_steps}),
        ("steps of the network, early", "num_steps", {"stage": "early", "objects": ALL}),
    )
    quantities = (
        ("presence logits", "variance", "presence logits:\nvariance × K"),
        ("parameters", "variance", "parameters:\nvariance × K"),
        ("parameters", "of z_pres", "parameters:\nvariance of z_pres alone × K"),
        ("presence logits", "SNR", "presence logits:\nSNR / √K"),
        ("parameters", "SNR", "parameters:\nSNR / √K"),
    )
    panels = []
    for name, quantity, ylabel in quantities:
        for xlabel, against, conditions in sweeps:
            chosen = _select(rows, with_respect_to=name, **conditions)
            chosen = [row for row in chosen if against != "objects" or row["objects"] != ALL]
            chosen.sort(key=lambda row: row[against])
            curves: dict[str, list[float]] = {}
            for row in chosen:
                curves.setdefault(row["label"], []).append(_QUANTITIES[quantity](row))
            ticks = sorted({row[against] for row in chosen})
            # In the order of the measurements, so that colours are the same everywhere.
            names = dict.fromkeys(row["label"] for row in rows)
            curves = {label: curves[label] for label in names}
            panels.append(figures_estimators.Panel(xlabel, ylabel, ticks, curves))
    return figures_estimators.variances(panels, num_columns=len(sweeps))
