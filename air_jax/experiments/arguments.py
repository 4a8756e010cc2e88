"""What the commands of all experiments have in common: config, overrides, workdir.

python -m air_jax.experiments.NAME --config=configs/air.py --config.seed=3 --workdir=runs/name
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from air_jax import main

Config = dict[str, Any]


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> tuple[argparse.Namespace, Config]:
    """Parses an experiment's own arguments and the config with its overrides.

    Args:
      parser: with the experiment's own arguments; `--config` and `--workdir` are added to it.
      argv: the command line without the program, None for that of the process.

    Returns:
      The arguments and the config as plain types. A mistake ends the program with exit code 2.
    """
    parser.add_argument("--workdir", required=True, help="folder of the experiment")
    # Only for --help: the flag library reads the config, as in air_jax.main.
    parser.add_argument_group("config").add_argument(
        "--config", metavar="FILE", help="config file; --config.KEY=VALUE overrides a value"
    )
    given = list(sys.argv[1:] if argv is None else argv)
    # The file first, wherever it was given: overrides need to know what they override.
    overrides = sorted(filter(_of_config, given), key=lambda item: item.startswith("--config."))
    arguments = parser.parse_args([item for item in given if item not in overrides])
    if not any(item.startswith("--config=") for item in overrides):
        parser.error("--config is required, for example --config=configs/air.py")
    try:
        return arguments, main.read_config(overrides)
    except main.ConfigError as error:
        parser.error(str(error))


def _of_config(item: str) -> bool:
    return item.startswith(("--config=", "--config."))
