"""Several reliability experiments side by side, as a table for reading or for a document.

    python -m air_jax.experiments.compare results/reliability/*
    python -m air_jax.experiments.compare results/reliability/* --insert README.md

`--insert` replaces what stands between `<!-- table NAME -->` and `<!-- end of table -->` in a
document, NAME being that of the folder that holds the experiments, so that no number in it is typed
by hand.
"""

import argparse
import json
import pathlib
import re
import sys
from collections.abc import Sequence

from air_jax import files, reliability


def table(folders: Sequence[pathlib.Path]) -> str:
    """The table of some experiments, in Markdown.

    Args:
      folders: with a `reliability.json` each; their names become the rows'.

    Raises:
      OSError: if a folder has no such file.
      ValueError: if one is not what `air_jax.experiments.reliability` writes.
    """
    summaries = {}
    for folder in folders:
        file = folder / "reliability.json"
        try:
            summaries[folder.name] = json.loads(file.read_text())["summary"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} holds no results of a reliability experiment") from error
    return reliability.table(summaries)


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
        description="Prints several reliability experiments as one table.",
    )
    parser.add_argument("folders", nargs="+", type=pathlib.Path, help="workdirs of experiments")
    parser.add_argument("--insert", type=pathlib.Path, metavar="DOCUMENT", help="put it in there")
    given = parser.parse_args(argv)
    try:
        text = table(given.folders)
        if given.insert:
            insert(given.insert, given.folders[0].resolve().parent.name, text)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
