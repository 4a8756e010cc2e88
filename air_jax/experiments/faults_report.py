"""What `experiments.faults` saw: a line for each trial, a table of faults and outcomes."""

import collections
import signal
from collections.abc import Mapping, Sequence
from typing import Any

from air_jax import tables

_COLUMNS = (
    *("fault", "trial", "stage", "step_drawn", "seconds_drawn", "exit", "reached", "saved"),
    *("resumed_from", "lost", "equal"),
)


def line(row: Mapping[str, Any]) -> dict[str, Any]:
    """A trial as a line of the CSV; what is not known of it is empty.

    Args:
      row: of a trial.
    """
    known = {name: row.get(name) for name in _COLUMNS}
    return {
        **known,
        "refusals": len(row.get("refusals", ())),
        "broken": "; ".join(row.get("broken", ())),
        "skipped": row.get("skipped"),
    }


def sentence(row: Mapping[str, Any]) -> str:
    """A trial, for a terminal.

    Args:
      row: of a trial.
    """
    start = f"{row['fault']}, {row['trial']}: "
    if "skipped" in row:
        return f"{start}skipped, {row['skipped']}"
    if row["broken"]:
        return f"{start}BROKEN, {'; '.join(row['broken'])}"
    return (
        f"{start}{_ending(row['exit'])} at step {row['reached']}, {len(row['refusals'])} refusals, "
        f"resumed from step {row['resumed_from']}, {row['lost']} steps lost, equal"
    )


def summarise(trials: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Fault to what came of it, in the order in which they were tried.

    Args:
      trials: rows of all trials.

    Returns:
      Of each fault `trials`, `skipped`, a reason or None, `endings`, how often the broken process
      ended how, `refusals`, `equal`, the runs that ended as the uninterrupted one, `lost`, the most
      steps, None if nothing is known, and `broken`, the trials that broke a promise.
    """
    summary = {}
    for name in dict.fromkeys(row["fault"] for row in trials):
        rows = [row for row in trials if row["fault"] == name]
        tried = [row for row in rows if "skipped" not in row]
        endings = collections.Counter(_ending(row["exit"]) for row in tried if "exit" in row)
        summary[name] = {
            "trials": len(tried),
            "skipped": next((row["skipped"] for row in rows if "skipped" in row), None),
            "endings": dict(endings.most_common()),
            "refusals": sum(len(row.get("refusals", ())) for row in tried),
            "equal": sum(row.get("equal", False) for row in tried),
            "lost": max((row["lost"] for row in tried if "lost" in row), default=None),
            "broken": sum(bool(row["broken"]) for row in tried),
        }
    return summary


def table(results: Mapping[str, Any]) -> str:
    """Faults and outcomes, in Markdown.

    Args:
      results: what `faults.run` returns.
    """
    header = ["fault", "trials", "the process", "refusals", "ended bit for bit", "steps lost"]
    header += ["promises broken"]
    rows = []
    for name, found in results["summary"].items():
        text = results["texts"][name]
        if not found["trials"]:
            rows.append([text, "0", f"skipped: {tables.cell(found['skipped'])}", *"----"])
            continue
        endings = [f"{ending} ({number})" for ending, number in found["endings"].items()]
        rows.append(
            [
                *(text, str(found["trials"]), ", ".join(endings), str(found["refusals"])),
                f"{found['equal']} of {found['trials']}",
                "-" if found["lost"] is None else f"at most {found['lost']}",
                str(found["broken"]),
            ]
        )
    return tables.markdown(header, rows)


def _ending(code: int | None) -> str:
    """How a process ended, from its exit code."""
    if code is None:
        return "hung"
    if code == 128 + signal.SIGTERM:
        return "saved and stopped"
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    return "refused" if code == 1 else f"exit code {code}"
