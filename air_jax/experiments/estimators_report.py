"""What `experiments.estimators` measured, as a table, as lines and as a figure."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from air_jax import figures_estimators, gradient_noise

ALL = "all"  # images of every count
_STAGES = ("initialisation", "early", "late")

Row = Mapping[str, Any]


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


def table(rows: Sequence[Row], num_steps: int) -> str:
    """The measurements of the whole batch at the network's own number of steps, as text.

    Args:
      rows: the measurements.
      num_steps: the network's own N.
    """
    columns = {
        "variance": "variance",
        "x K": "variance_times_samples",
        "of z_pres": "variance_discrete",
        " x K": "variance_discrete_times_samples",
        "SNR": "snr",
    }
    lines = []
    for stage in _STAGES:
        for name in ("presence logits", "parameters"):
            chosen = _select(
                rows, stage=stage, num_steps=num_steps, objects=ALL, with_respect_to=name
            )
            lines += ["", f"{stage} (step {chosen[0]['step']}), gradient w.r.t. {name}"]
            lines.append(" " * 30 + "".join(f"{column:>12}" for column in columns))
            for row in chosen:
                values = "".join(f"{row[key]:12.4g}" for key in columns.values())
                lines.append(f"  {row['label']:28}{values}")
    return "\n".join(lines)


def figure(rows: Sequence[Row], num_steps: int) -> Figure:
    """Variance at equal cost against training, the number of objects and the number of steps.

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
        ("presence logits", "variance_times_samples", "presence logits:\nvariance × K"),
        ("parameters", "variance_times_samples", "parameters:\nvariance × K"),
        (
            "parameters",
            "variance_discrete_times_samples",
            "parameters:\nvariance of z_pres alone × K",
        ),
    )
    panels = []
    for name, quantity, ylabel in quantities:
        for xlabel, against, conditions in sweeps:
            chosen = _select(rows, with_respect_to=name, **conditions)
            chosen = [row for row in chosen if against != "objects" or row["objects"] != ALL]
            chosen.sort(key=lambda row: row[against])
            curves: dict[str, list[float]] = {}
            for row in chosen:
                curves.setdefault(row["label"], []).append(row[quantity])
            ticks = sorted({row[against] for row in chosen})
            # In the order of the measurements, so that colours are the same everywhere.
            names = dict.fromkeys(row["label"] for row in rows)
            curves = {label: curves[label] for label in names}
            panels.append(figures_estimators.Panel(xlabel, ylabel, ticks, curves))
    return figures_estimators.variances(panels, num_columns=len(sweeps))
