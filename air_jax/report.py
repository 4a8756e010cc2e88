"""One HTML file about one run, or about several compared.

    python -m air_jax.report --workdir runs/dair
    python -m air_jax.report --workdir runs/air --workdir runs/dair --output compared.html

It holds config and versions, interactive curves, the count confusion, reconstructions, windows, the
scan policy, and the scenes at which the model failed; of a model of 3-D scenes these from above and
each step's objects; and of several runs their curves over one another, a table of their final
figures and the entries in which they differ. Everything is in the file, which opens without a
network. The curves are plotly's: `pip install "air_jax[report]"`.
"""

import argparse
import functools
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from air_jax import kinds, program, report_page, report_run
from air_jax.data.dataset import Dataset
from air_jax.files import write_atomically


def run(workdirs: Sequence[Path], output: Path | None, *, num_images: int) -> Path:
    """Writes the report.

    Args:
      workdirs: of runs, at least one; one whose program trained several seeds counts as several.
      output: the file; None for `report.html` in the first workdir.
      num_images: test scenes that each model looks at.

    Returns:
      The file.

    Raises:
      ValueError: if a folder is no workdir, `output` is one, or plotly is not installed.
      OSError: if the file cannot be written.
    """
    output = workdirs[0] / "report.html" if output is None else output
    if output.is_dir():
        raise ValueError(f"--output {output} is a folder: give the file to write")
    plotly = _plotly()
    found = [run for workdir in workdirs for run in report_run.find(workdir)]
    names = name_apart([run.folder for run in found])
    create_dataset = _remembering(kinds.create_dataset)
    runs = []
    for one, name in zip(found, names, strict=True):
        logging.info("looking at %s", one.folder)
        runs.append(
            report_run.read(one, name, num_images=num_images, create_dataset=create_dataset)
        )
    written = f"Written on {time.strftime('%Y-%m-%d')} by air_jax."
    page = report_page.page(runs, written, plotly).encode("utf-8", "replace")
    write_atomically(output, page)
    size, script = len(page) / 1e6, len(plotly) / 1e6
    logging.info("written: %s, %.1f MB, of which plotly is %.1f MB", output, size, script)
    return output


def name_apart(folders: Sequence[Path]) -> list[str]:
    """The shortest names, of the last parts of their paths, by which folders differ.

    Args:
      folders: of the runs.
    """
    parts = [folder.absolute().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(set(parts)):
            break
    return names


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ValueError(
            'plotly is not installed, which draws the curves: pip install "air_jax[report]"'
        ) from error
    return get_plotlyjs()


def _remembering(
    create_dataset: Callable[[dict[str, Any]], Dataset],
) -> Callable[[dict[str, Any]], Dataset]:
    """Makes the same data once only: runs that are compared often share them."""

    @functools.lru_cache(maxsize=1)
    def create(text: str) -> Dataset:
        return create_dataset(json.loads(text))

    return lambda config: create(
        json.dumps({"model": config.get("model", "air"), "data": config["data"]}, sort_keys=True)
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m air_jax.report",
        description="Writes one HTML file about a run, or about several compared.",
    )
    add = parser.add_argument
    add("--workdir", action="append", required=True, metavar="DIR", help="of a run; repeatable")
    add("--output", metavar="FILE", help="default DIR/report.html, in the first workdir")
    add("--images", type=int, default=2_000, metavar="N", help="test scenes looked at (2000)")
    given = parser.parse_args(argv)
    if given.images < 1:
        parser.error(f"--images is {given.images}; it must be at least 1")
    workdirs = [Path(os.path.expanduser(workdir)) for workdir in given.workdir]
    output = Path(os.path.expanduser(given.output)) if given.output else None
    program.finish(lambda: run(workdirs, output, num_images=given.images))


if __name__ == "__main__":
    main()
