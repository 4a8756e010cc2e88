"""What `experiments.tabletop` measured: means over seeds, a table, bars."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from air_jax import figures_runs, tables

MEASURES = (
    "count_accuracy",
    "identity_accuracy",
    "position_error_pixels",
    "azimuth_error",
    "elevation_error",
    "cup_rotation",
    "pan_rotation",
    "reconstruction_error",
    "seconds_per_image",
)


def line(row: Mapping[str, Any]) -> dict[str, Any]:
    """A measurement as a line of the CSV: `set`, `method`, `seed` and `MEASURES`.

    Args:
      row: a set of scenes, a method, a seed and what `evaluate3d.measure` gives.
    """
    rotation = row.get("rotation", {})
    flat = {
        **row,
        "azimuth_error": row["camera_error"][0],
        "elevation_error": row["camera_error"][1],
        "cup_rotation": rotation.get("cup", {}).get("median"),
        "pan_rotation": rotation.get("pan", {}).get("median"),
    }
    return {name: flat.get(name) for name in ("set", "method", "seed", *MEASURES)}


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means and deviations over the seeds, see `tables.summarise`.

    Args:
      rows: all that were measured.
    """
    lines = [line(row) for row in rows]
    return tables.summarise(lines, by=["set", "method"], measures=MEASURES)


def table(results: Mapping[str, Any]) -> str:
    """Methods one below the other, of one set of scenes and of the other, in Markdown.

    Args:
      results: what `tabletop.run` returns.
    """
    header = ["scenes", "method", "seeds", "count (%)", "identity (%)", "position (pixels)"]
    header += ["azimuth (°)", "elevation (°)", "cup's yaw (°)", "pan's yaw (°)", "squared error"]
    header += ["ms an image"]
    rows = []
    for of_set, methods in results["summary"].items():
        for method, summary in methods.items():
            rows.append(
                [
                    of_set,
                    method,
                    str(summary["reconstruction_error"]["num"]),
                    tables.show(summary["count_accuracy"], 2, factor=100),
                    tables.show(summary["identity_accuracy"], 1, factor=100),
                    tables.show(summary["position_error_pixels"], 2),
                    tables.show(summary["azimuth_error"], 1),
                    tables.show(summary["elevation_error"], 1),
                    tables.show(summary["cup_rotation"], 1),
                    tables.show(summary["pan_rotation"], 1),
                    tables.show(summary["reconstruction_error"], 2),
                    tables.show(summary["seconds_per_image"], 2, factor=1000),
                ]
            )
    return tables.markdown(header, rows)


def bars(summary: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Counts and reconstructions of every method on every set of scenes (figure 7, middle).

    Args:
      summary: what `summarise` gives.
    """
    # The true scene takes no time: nothing is inferred.
    methods = dict.fromkeys(
        name
        for of_set in summary.values()
        for name, measures in of_set.items()
        if measures["seconds_per_image"] is not None
    )
    quantities = {
        "count accuracy (%)": ("count_accuracy", 100.0),
        "squared error": ("reconstruction_error", 1.0),
    }
    panels = {
        quantity: {
            method: figures_runs.Bars(
                *zip(
                    *(_bar(of_set.get(method), measure, factor) for of_set in summary.values()),
                    strict=True,
                )
            )
            for method in methods
        }
        for quantity, (measure, factor) in quantities.items()
    }
    return figures_runs.bars(list(summary), panels, xlabel="scenes")


def _bar(summary: Mapping[str, Any] | None, measure: str, factor: float) -> tuple[float, float]:
    """Mean and deviation; not a number, no bar, where a method was not measured."""
    if summary is None or summary[measure] is None:
        return math.nan, math.nan
    spread = summary[measure]
    return factor * spread["mean"], factor * (spread["sd"] or 0.0)
