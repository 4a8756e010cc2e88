"""What `experiments.scenes3d` measured: means over seeds, a table."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from air_jax import pose_search, tables

KNOWN = 0.99  # accuracy of identities on validation scenes, to which AIR's steps are counted
MEASURES = (
    "steps_to_identities",
    "identity_accuracy",
    "position_error_pixels",
    "cube_rotation",
    "cube_rotation_raw",
    "cylinder_rotation",
    "reconstruction_error",
    "reconstruction_error_cube",
    "seconds_per_image",
)


def line(row: Mapping[str, Any]) -> dict[str, Any]:
    """A measurement as a line of the CSV: `method`, `seed` and `MEASURES`.

    Args:
      row: a method, a seed and what `evaluate3d.measure` gives.
    """
    rotation = row.get("rotation", {})
    flat = {
        **row,
        "cube_rotation": rotation.get("cube", {}).get("median"),
        "cube_rotation_raw": rotation.get("cube", {}).get("raw_median"),
        "cylinder_rotation": rotation.get("cylinder", {}).get("median"),
        "reconstruction_error_cube": row.get("reconstruction_error_per_model", {}).get("cube"),
    }
    return {name: flat.get(name) for name in ("method", "seed", *MEASURES)}


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means and deviations over the seeds, see `tables.summarise`.

    Args:
      rows: all that were measured.
    """
    lines = [line(row) for row in rows]
    return tables.summarise(lines, by=["method"], measures=MEASURES)


def against_time(
    search: Sequence[pose_search.Found], rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What the optimisation reaches in how much time, and when it is as good as AIR on its images.

    Args:
      search: its records, ascending.
      rows: of every method and seed.

    Returns:
      `curve`: iterations, seconds an image and mean squared error; `equal_error`: seconds an image
      until the first record whose mean error is at most that of AIR (None for never), and how many
      times AIR's time that is.
    """
    num_images = len(search[0].errors)
    curve = [
        {
            "iterations": found.iterations,
            "seconds_per_image": found.seconds / num_images,
            "reconstruction_error": float(found.errors.mean()),
            "reconstruction_error_median": float(np.median(found.errors)),
        }
        for found in search
    ]
    air = [row for row in rows if row["method"] == "AIR"]
    if not air:
        return {"curve": curve, "equal_error": None}
    error = float(np.mean([row["reconstruction_error_few"] for row in air]))
    seconds = float(np.median([row["seconds_per_image"] for row in air]))
    reached = [
        point["seconds_per_image"] for point in curve if point["reconstruction_error"] <= error
    ]
    equal = {
        "air_error": error,
        "air_seconds_per_image": seconds,
        "search_seconds_per_image": reached[0] if reached else None,
        "times_faster": reached[0] / seconds if reached else None,
    }
    return {"curve": curve, "equal_error": equal}


def table(results: Mapping[str, Any]) -> str:
    """Methods one below the other, in Markdown.

    Args:
      results: what `scenes3d.run` returns.
    """
    header = ["method", "seeds", "steps to 99 % of identities", "identity (%)", "position (pixels)"]
    header += ["cube's yaw modulo 90°", "cube's yaw raw", "cylinder's yaw", "squared error"]
    header += ["of cubes", "ms an image"]
    lines = []
    for name, summary in results["summary"].items():
        lines.append(
            [
                name,
                str(summary["reconstruction_error"]["num"]),
                _steps(summary),
                tables.show(summary["identity_accuracy"], 2, factor=100),
                tables.show(summary["position_error_pixels"], 2),
                tables.show(summary["cube_rotation"], 1),
                tables.show(summary["cube_rotation_raw"], 1),
                tables.show(summary["cylinder_rotation"], 1),
                tables.show(summary["reconstruction_error"], 2),
                tables.show(summary["reconstruction_error_cube"], 2),
                tables.show(summary["seconds_per_image"], 2, factor=1000),
            ]
        )
    return tables.markdown(header, lines)


def _steps(summary: Mapping[str, Any]) -> str:
    """The mean over the seeds that got there, and how many these are if not all."""
    steps, num_seeds = summary.get("steps_to_identities"), summary["reconstruction_error"]["num"]
    if steps is None or steps["num"] == num_seeds:
        return tables.show(steps, 0)
    return f"{tables.show(steps, 0)} ({steps['num']} of {num_seeds})"
