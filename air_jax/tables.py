"""Means over seeds, and tables of them: Markdown for reading, CSV for other programs."""

import csv
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean and deviation over the seeds.

    Args:
      values: finite ones, at least one.

    Returns:
      `mean`, `sd` (of a sample; None for one value) and `num`, JSON-able.
    """
    return {
        "mean": statistics.fmean(values),
        "sd": statistics.stdev(values) if len(values) > 1 else None,
        "num": len(values),
    }


def summarise(
    lines: Sequence[Mapping[str, Any]], *, by: Sequence[str], measures: Sequence[str]
) -> dict[str, Any]:
    """Means and deviations over the lines that are alike in some columns.

    Args:
      lines: column to value, None for what is not known.
      by: columns, of text.
      measures: columns, of numbers.

    Returns:
      Nested by the values of `by`, in the order in which they occur; innermost each measure's
      `spread`, None where nothing is known.
    """
    if not by:
        known = {
            name: [line[name] for line in lines if line[name] is not None] for name in measures
        }
        return {name: spread(values) if values else None for name, values in known.items()}
    first, *others = by
    return {
        value: summarise(
            [line for line in lines if line[first] == value], by=others, measures=measures
        )
        for value in dict.fromkeys(line[first] for line in lines)
    }


def sentence(line: Mapping[str, Any], measures: Sequence[str]) -> str:
    """What of a line is known, for a terminal: everything else first, then the measures."""
    others = [str(value) for name, value in line.items() if name not in measures]
    known = [f"{name} {line[name]:.4g}" for name in measures if line[name] is not None]
    return f"{', '.join(others)}: {', '.join(known)}"


def show(value: Mapping[str, Any] | None, digits: int, factor: float = 1.0) -> str:
    """What `spread` gives as text, "mean ± sd", or "-" where there is nothing to tell.

    Args:
      value: with `mean` and `sd`, either of which may be None.
      digits: behind the point.
      factor: 100 for per cent.
    """
    if value is None or value["mean"] is None:
        return "-"
    mean = f"{factor * value['mean']:.{digits}f}"
    return mean if value["sd"] is None else f"{mean} ± {factor * value['sd']:.{digits}f}"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; every line, the last one too, ends in a line break.

    Args:
      header: names of the columns.
      rows: cells, as many in each as there are columns.
    """
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cell(text: str) -> str:
    """A name that a user chose, as a cell: what would end it is escaped."""
    return text.replace("|", r"\|")


def to_csv(rows: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None) -> str:
    """One line per row, below the names of the columns.

    Args:
      rows: column to value; at least one where no names are given.
      names: of the columns, those of the first row if None. What a row lacks is empty; what it has
        beyond names that were given is left out.

    Raises:
      ValueError: if no names are given and a row has more than the first.
    """
    text = io.StringIO()
    if names is None:
        lines = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    else:
        lines = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    lines.writeheader()
    lines.writerows(rows)
    return text.getvalue()
