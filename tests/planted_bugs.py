"""Plants the bugs of `tests/bugs.py` in a copy of the repository, each alone, and runs its tests.

    python -m tests.planted_bugs
    python -m tests.planted_bugs --only=enumerate

First the tests have to pass without a bug, then each has to fail with its own. What is printed is
the table of WORKSPACE.md, with the tests that did fail; the exit status is 1 if one did not. All
of it takes more than half an hour of one core, since most tests train a run.
"""

import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from tests.bugs import BUGS, SMALL, WHOLE, Bug

ROOT = pathlib.Path(__file__).resolve().parent.parent
# What the tests need of the repository.
COPIED = ("air_jax", "configs", "tests", "pyproject.toml")


def copy(folder: pathlib.Path) -> None:
    """Copies what the tests need to an empty folder."""
    for name in COPIED:
        copy_one = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy_one(ROOT / name, folder / name)


def planted(bug: Bug, text: str) -> str:
    """The text of the bug's file with the bug.

    Raises:
      ValueError: if it does not have the bug's text exactly once.
    """
    if text.count(bug.old) != 1:
        raise ValueError(
            f"{bug.file} has the text of the bug {bug.name!r} {text.count(bug.old)} times instead "
            f"of once: {bug.old!r}. Say in tests/bugs.py what the bug would look like now."
        )
    return text.replace(bug.old, bug.new)


def plant(bug: Bug, folder: pathlib.Path) -> None:
    """Plants a bug in a copy of the repository.

    Raises:
      ValueError: if the file does not have the bug's text exactly once.
    """
    path = folder / bug.file
    path.write_text(planted(bug, path.read_text("utf-8")), "utf-8")


def passes(tests: Sequence[str], folder: pathlib.Path) -> bool:
    """Whether all of some tests pass in a copy of the repository.

    Raises:
      RuntimeError: if they could not even be run.
    """
    process = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "slow or not slow", *tests],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    # 1: a test failed. Other codes are those of pytest that finds no test or cannot import it.
    if process.returncode not in (0, 1):
        raise RuntimeError(f"{' '.join(tests)} did not run:\n{process.stdout}{process.stderr}")
    return process.returncode == 0


def table(bugs: Sequence[Bug]) -> str:
    """The bugs and what catches them, Markdown."""
    rows = ["| bug | in | learning curve | other tests |", "| --- | --- | --- | --- |"]
    for bug in bugs:
        curves = [test for test in bug.caught_by if test.startswith((SMALL, WHOLE))]
        others = [test.removeprefix("tests/") for test in bug.caught_by if test not in curves]
        cells = (
            bug.name,
            f"`{bug.file.removeprefix('air_jax/')}`",
            ", ".join(f"`{test.split('[')[1][:-1]}`" for test in curves) or "-",
            ", ".join(f"`{test}`" for test in others) or "-",
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def main(argv: Sequence[str]) -> int:
    """Plants the bugs; 1 if a test that is to catch one passes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="TEXT", default="", help="bugs with this in their name")
    options = parser.parse_args(argv)
    chosen = [bug for bug in BUGS if options.only in bug.name]
    if not chosen:
        parser.error(f"no bug has {options.only!r} in its name")
    with tempfile.TemporaryDirectory() as folder:
        copy(pathlib.Path(folder))
        tests = sorted({test for bug in chosen for test in bug.caught_by})
        if not passes(tests, pathlib.Path(folder)):
            parser.error(f"of these tests one fails without a bug: {' '.join(tests)}")
    seen, missed = [], []
    for bug in chosen:
        with tempfile.TemporaryDirectory() as folder:
            copy(pathlib.Path(folder))
            plant(bug, pathlib.Path(folder))
            failed = [test for test in bug.caught_by if not passes([test], pathlib.Path(folder))]
        seen.append(bug._replace(caught_by=tuple(failed)))
        missed += [f"{bug.name}: {test}" for test in bug.caught_by if test not in failed]
        print(f"{bug.name}: {len(failed)} of {len(bug.caught_by)} tests fail", flush=True)
    print(f"\n{table(seen)}")
    if missed:
        print("passed with the bug:\n  " + "\n  ".join(missed))
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
