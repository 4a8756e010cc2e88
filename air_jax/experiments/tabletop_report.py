"""What `experiments.tabletop` measured: means over seeds, a table, bars."""

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
TRUE = "the true scene"


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


def sentence(row: Mapping[str, Any]) -> str:
    """A measurement in a line for a terminal."""
    values = {name: value for name, value in line(row).items() if name in MEASURES}
    told = [f"{name} {value:.4g}" for name, value in values.items() if value is not None]
    return f"{row['method']}, seed {row['seed']}: {', '.join(told)}"


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Set to method to measure to mean and deviation over the seeds, None for what is not known.

    Args:
      rows: of every set, method and seed.
    """
    summary: dict[str, dict[str, Any]] = {}
    for of_set, method in dict.fromkeys((row["set"], row["method"]) for row in rows):
        lines = [line(row) for row in rows if (row["set"], row["method"]) == (of_set, method)]
        values = {
            measure: [row[measure] for row in lines if row[measure] is not None]
            for measure in MEASURES
        }
        summary.setdefault(of_set, {})[method] = {
            measure: tables.spread(found) if found else None for measure, found in values.items()
        }
    return summary


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
                    tables.show(summary["count_accuracy"], 1, factor=100),
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
    methods = dict.fromkeys(name for of_set in summary.values() for name in of_set if name != TRUE)
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
    """Mean and deviation; no height where a method was not measured."""
    if summary is None or summary[measure] is None:
        return 0.0, 0.0
    spread = summary[measure]
    return factor * spread["mean"], factor * (spread["sd"] or 0.0)
