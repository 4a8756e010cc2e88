"""Tables of experiments, for reading or for a document.

    python -m air_jax.experiments.compare results/reliability/*
    python -m air_jax.experiments.compare results/reliability/* --insert README.md
    python -m air_jax.experiments.compare results/extrapolation --insert README.md

Takes what any experiment has written: several reliability experiments side by side, or one of the
others. `--insert` replaces what stands between `<!-- table NAME -->` and `<!-- end of table -->` in
a document, so that no number in it is typed by hand; NAME is that of the experiment's folder, for
reliability experiments that of the folder which holds them.
"""

import argparse
import json
import pathlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from air_jax import files, reliability
from air_jax.experiments import (
    estimators_report,
    faults_report,
    generalization_report,
    occlusion_report,
    parsing_report,
    realism_report,
    representation_report,
    scenes3d_report,
    tabletop_report,
)

# What an experiment's results are called, and its own table of them.
_TABLES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "estimators.json": estimators_report.table,
    "faults.json": faults_report.table,
    "generalization.json": generalization_report.table,
    "occlusion.json": occlusion_report.table,
    "parsing.json": parsing_report.table,
    "representation.json": representation_report.table,
    "scenes3d.json": scenes3d_report.table,
    "realism.json": realism_report.table,
    "tabletop.json": tabletop_report.table,
}


def table(folders: Sequence[pathlib.Path]) -> str:
    """The table of some experiments, in Markdown.

    Args:
      folders: one of any experiment, or several with a `reliability.json` each, whose names become
        the rows'.

    Raises:
      OSError: if a folder has no results, or there are several of which one is not of reliability.
      ValueError: if a file of results is not what its experiment writes.
    """
    if len(folders) == 1:
        for name, of_results in _TABLES.items():
            if (folders[0] / name).exists():
                return _read(folders[0] / name, of_results)
    summaries = {folder.name: _read(folder / "reliability.json", _summary) for folder in folders}
    return reliability.table(summaries)


def _summary(results: Any) -> Any:
    reliability.table({"": results["summary"]})  # refuses what is none
    return results["summary"]


def _read(file: pathlib.Path, take: Callable[[Any], Any]) -> Any:
    try:
        return take(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is not what an experiment writes ({error!r})") from error


def table_name(folders: Sequence[pathlib.Path]) -> str:
    """What the table of some experiments is called in a document.

    Args:
      folders: as `table` takes them.
    """
    folder = folders[0].resolve()
    return (folder.parent if (folder / "reliability.json").exists() else folder).name


def insert(document: pathlib.Path, name: str, text: str) -> None:
    """Replaces the table of a document.

    Args:
      document: with the lines `<!-- table NAME -->` and, after it, `<!-- end of table -->`.
      name: which table, if it has several.
      text: the new one, ending in a line break.

    Raises:
      ValueError: if the document has no such place, or several.
    """
    old = document.read_text(encoding="utf-8")
    begin, end = f"<!-- table {name} -->\n", "<!-- end of table -->\n"
    pattern = re.compile(re.escape(begin) + "(?:(?!<!-- ).*\n)*" + re.escape(end))
    new, places = pattern.subn(lambda _: begin + text + end, old)
    if places != 1:
        raise ValueError(f"{document} has {places} places for the table {name!r}, not one")
    files.write_atomically(document, new.encode())


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m air_jax.experiments.compare",
        description="Prints the table of an experiment, or of several of reliability.",
    )
    parser.add_argument("folders", nargs="+", type=pathlib.Path, help="workdirs of experiments")
    parser.add_argument("--insert", type=pathlib.Path, metavar="DOCUMENT", help="put it in there")
    given = parser.parse_args(argv)
    try:
        text = table(given.folders)
        if given.insert:
            insert(given.insert, table_name(given.folders), text)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
