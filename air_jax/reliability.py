"""One configuration over several seeds: how many get there, how far and how soon.

Every seed that was run counts, failed ones included. Pure functions of what runs leave: the
validation entries of `metrics.jsonl` and `evaluation.json`.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from air_jax import metrics, tables

BAR = 0.98
# Count accuracies on validation scenes to which the time is measured.
TIMED = (0.95, 0.98)
# Entries of an evaluation, beside count accuracy, that are summarised where there are any.
MEASURES = (
    *("elbo", "iwae_100", "elbo_iwae_images"),
    *("average_precision_50", "mean_iou", "share_matched"),
)


class SeedRun(NamedTuple):
    """What one seed left.

    Attributes:
      validation: entries with `step`, `seconds` and `count_accuracy`, ascending in step, as
        `writer.read_scalars(workdir, "validation")` gives them.
      evaluation: the test set after the last step, as in `evaluation.json`; None for a run that
        never got there, because it stopped at a loss that is not finite.
    """

    validation: Sequence[Mapping[str, Any]]
    evaluation: Mapping[str, Any] | None


def reliability(runs: Mapping[int, SeedRun], *, bar: float = BAR) -> dict[str, Any]:
    """Statistics over all seeds of one configuration.

    A seed succeeds if its count accuracy on the test set, after the last step, is at least the
    bar. A seed without an evaluation has failed, and enters the accuracies with that of its last
    validation, or 0 if it has none; in the other measures it is missing, and `num` says so.

    Args:
      runs: what each seed left, at least one.
      bar: count accuracy to be reached, in [0, 1].

    Returns:
      Plain numbers, JSON-able, None where there is nothing to tell: `bar`; `num_seeds`,
      `num_succeeded`, their `share` and its 95 % Wilson `interval`; `failed` and `unfinished`,
      seeds; `count_accuracy` and each of `MEASURES`: `mean`, `sd` (of a sample, from two values
      on), `min`, `max`, `num`; `time_to`, for each of `TIMED` as text: `num` of seeds that got
      there, and the median, least and greatest of their `steps` and `seconds`; `seeds`, the same
      of each seed.

    Raises:
      ValueError: if there is no run, or an evaluation without a count accuracy.
    """
    if not runs:
        raise ValueError("runs is empty; reliability is a matter of one seed at least")
    seeds = {seed: _describe(seed, run, bar) for seed, run in sorted(runs.items())}
    described = list(seeds.values())
    succeeded = sum(one["succeeded"] for one in described)
    measures = {
        name: _spread([one[name] for one in described if one[name] is not None])
        for name in ("count_accuracy", *MEASURES)
    }
    return {
        "bar": bar,
        "num_seeds": len(seeds),
        "num_succeeded": succeeded,
        "share": succeeded / len(seeds),
        "interval": list(metrics.wilson_interval(succeeded, len(seeds))),
        "failed": [seed for seed, one in seeds.items() if not one["succeeded"]],
        "unfinished": [seed for seed, one in seeds.items() if not one["finished"]],
        **measures,
        "time_to": {
            str(level): _times([one["time_to"][str(level)] for one in described]) for level in TIMED
        },
        "seeds": {str(seed): one for seed, one in seeds.items()},
    }


def time_to(
    validation: Sequence[Mapping[str, Any]], level: float, *, metric: str = "count_accuracy"
) -> dict[str, float] | None:
    """When validation first reached a level, and did so again the next time.

    Args:
      validation: entries with `step`, `seconds` and the accuracy, ascending in step; one without
        an accuracy, or with nan, counts as below.
      level: accuracy to be reached, in [0, 1].
      metric: which accuracy.

    Returns:
      `step` and `seconds`, of wall time with compilation, of the first of the first two entries
      in a row at the level or above; None if there are no such two.
    """
    reached = [entry.get(metric, math.nan) >= level for entry in validation]
    for entry, now, then in zip(validation, reached, reached[1:], strict=False):
        if now and then:
            return {"step": int(entry["step"]), "seconds": float(entry["seconds"])}
    return None


def table(configurations: Mapping[str, Mapping[str, Any]]) -> str:
    """Several configurations side by side, in Markdown.

    Args:
      configurations: what `reliability` gives, under the name that is to be shown; all with
        the same bar.

    Returns:
      A header and one row each, ending in a line break. Times are medians with their range, over
      the seeds that got there, which are counted where some did not. Beside the IWAE bound stands
      the mean ELBO of its images, which may be fewer.

    Raises:
      ValueError: if there is no configuration, or their bars differ.
    """
    bars = {result["bar"] for result in configurations.values()}
    if len(bars) != 1:
        raise ValueError(f"a table is of one bar and at least one configuration, got {bars}")
    (bar,) = bars
    header = [
        *("configuration", f"seeds at {_percent(bar)} % or more", "95 % interval (%)"),
        *("count accuracy (%), mean ± sd", "least to greatest", "ELBO (nats)", "IWAE-100 (nats)"),
        "AP at IoU 0.5",
        *(f"steps to {_percent(level)} %" for level in TIMED),
        *(f"seconds to {_percent(level)} %" for level in TIMED),
    ]
    rows = []
    for name, result in configurations.items():
        accuracy = result["count_accuracy"]
        low, high = (100 * end for end in result["interval"])
        times = [result["time_to"][str(level)] for level in TIMED]
        rows.append(
            [
                tables.cell(name),
                f"{result['num_succeeded']} of {result['num_seeds']}",
                f"{low:.0f}-{high:.0f}",
                tables.show(accuracy, 2, factor=100),
                f"{100 * accuracy['min']:.2f}-{100 * accuracy['max']:.2f}",
                tables.show(result["elbo"], 1),
                _bounds(result),
                tables.show(result["average_precision_50"], 3),
                *(_range(time, "steps", result["num_seeds"]) for time in times),
                *(_range(time, "seconds", result["num_seeds"]) for time in times),
            ]
        )
    return tables.markdown(header, rows)


def _bounds(result: Mapping[str, Any]) -> str:
    """The IWAE bound, and the ELBO of the same images where that was measured."""
    text, elbo = tables.show(result["iwae_100"], 1), result.get("elbo_iwae_images")
    return text if not elbo or elbo["mean"] is None else f"{text} (ELBO {elbo['mean']:.1f})"


def _describe(seed: int, run: SeedRun, bar: float) -> dict[str, Any]:
    if run.evaluation is None:
        measured = [_number(entry.get("count_accuracy")) for entry in run.validation]
        accuracy = next((value for value in reversed(measured) if value is not None), 0.0)
        evaluation: Mapping[str, Any] = {}
    else:
        evaluation = run.evaluation
        found = _number(evaluation.get("count_accuracy"))
        if found is None:
            raise ValueError(
                f"the evaluation of seed {seed} has no count accuracy; reliability needs scenes "
                "with known counts"
            )
        accuracy = found
    return {
        "finished": run.evaluation is not None,
        "succeeded": run.evaluation is not None and accuracy >= bar,
        "count_accuracy": accuracy,
        **{name: _number(evaluation.get(name)) for name in MEASURES},
        "time_to": {str(level): time_to(run.validation, level) for level in TIMED},
    }


def _number(value: Any) -> float | None:
    """A finite number, or None for what is missing, nan or infinite."""
    return float(value) if value is not None and math.isfinite(value) else None


def _spread(values: Sequence[float]) -> dict[str, Any]:
    known = tables.spread(values) if values else {"mean": None, "sd": None, "num": 0}
    return {**known, "min": min(values, default=None), "max": max(values, default=None)}


def _times(times: Sequence[Mapping[str, float] | None]) -> dict[str, Any]:
    arrived = [time for time in times if time is not None]
    summary: dict[str, Any] = {"num": len(arrived)}
    for name, key in (("steps", "step"), ("seconds", "seconds")):
        values = [time[key] for time in arrived]
        summary[name] = {
            "median": statistics.median(values) if values else None,
            "min": min(values, default=None),
            "max": max(values, default=None),
        }
    return summary


def _percent(share: float) -> str:
    return f"{100 * share:.4g}"


def _range(time: Mapping[str, Any], name: str, num_seeds: int) -> str:
    if not time["num"]:
        return "never"
    median, low, high = (f"{time[name][key]:,.0f}" for key in ("median", "min", "max"))
    text = median if low == high else f"{median} ({low}-{high})"
    return text if time["num"] == num_seeds else f"{text}, {time['num']} of {num_seeds}"
