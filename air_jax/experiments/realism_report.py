"""What `experiments.realism` measured: means over seeds, a table."""

from collections.abc import Mapping, Sequence
from typing import Any

from air_jax import tables

MEASURES = (
    "count_accuracy",
    "identity_accuracy",
    "position_error_pixels",
    "azimuth_error",
    "elevation_error",
)


def line(row: Mapping[str, Any]) -> dict[str, Any]:
    """A measurement as a line of the CSV: `pictures`, `trained`, `seed` and `MEASURES`.

    Args:
      row: a kind of pictures, a way to train, a seed and what `evaluate3d.measure` gives.
    """
    azimuth, elevation = row["camera_error"]
    flat = {**row, "azimuth_error": azimuth, "elevation_error": elevation}
    return {name: flat.get(name) for name in ("pictures", "trained", "seed", *MEASURES)}


def sentence(row: Mapping[str, Any]) -> str:
    """A measurement in a line for a terminal."""
    values = {name: value for name, value in line(row).items() if name in MEASURES}
    told = [f"{name} {value:.4g}" for name, value in values.items() if value is not None]
    return f"{row['pictures']}, trained {row['trained']}, seed {row['seed']}: {', '.join(told)}"


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Kind of pictures to way to train to measure to mean and deviation over the seeds.

    Args:
      rows: of every kind, way and seed.
    """
    summary: dict[str, dict[str, Any]] = {}
    for pictures, trained in dict.fromkeys((row["pictures"], row["trained"]) for row in rows):
        lines = [
            line(row) for row in rows if (row["pictures"], row["trained"]) == (pictures, trained)
        ]
        values = {
            measure: [row[measure] for row in lines if row[measure] is not None]
            for measure in MEASURES
        }
        summary.setdefault(pictures, {})[trained] = {
            measure: tables.spread(found) if found else None for measure, found in values.items()
        }
    return summary


def table(results: Mapping[str, Any]) -> str:
    """Kinds of pictures one below the other, in Markdown.

    Args:
      results: what `realism.run` returns.
    """
    header = ["pictures", "trained", "seeds", "count (%)", "identity (%)", "position (pixels)"]
    header += ["azimuth (°)", "elevation (°)"]
    rows = [
        [
            pictures,
            trained,
            str(summary["count_accuracy"]["num"]),
            tables.show(summary["count_accuracy"], 1, factor=100),
            tables.show(summary["identity_accuracy"], 1, factor=100),
            tables.show(summary["position_error_pixels"], 2),
            tables.show(summary["azimuth_error"], 1),
            tables.show(summary["elevation_error"], 1),
        ]
        for pictures, ways in results["summary"].items()
        for trained, summary in ways.items()
    ]
    return tables.markdown(header, rows)
