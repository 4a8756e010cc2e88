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


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means and deviations over the seeds, see `tables.summarise`.

    Args:
      rows: all that were measured.
    """
    lines = [line(row) for row in rows]
    return tables.summarise(lines, by=["pictures", "trained"], measures=MEASURES)


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
