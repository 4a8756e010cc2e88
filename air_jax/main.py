"""Trains or evaluates: `python -m air_jax.main --config=configs/dair.py --workdir=runs/dair`."""

import json
import sys
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from air_jax import loop, parallel, program

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, e.g. configs/dair.py.")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run. One that was interrupted is resumed.", required=True
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "One of several processes that train together: see launch/."
)
_MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "What to do.")


class ConfigError(ValueError):
    """A config that cannot be read, or an override that it does not know."""


def read_config(arguments: list[str]) -> dict[str, Any]:
    """Reads a config as this program does, for other programs.

    Args:
      arguments: `--config=FILE` and overrides, `--config.KEY=VALUE`.

    Returns:
      The config as plain types.

    Raises:
      ConfigError: if there is no such file, or a key or value that it does not allow.
    """
    values = flags.FlagValues()
    argv = ["air_jax", *arguments]
    holder = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    try:
        values(argv)
        return _plain(holder.value)
    # A config file is a program: it can end in any error.
    except Exception as error:
        raise ConfigError(_described(error)) from error


def _plain(config: Any) -> dict[str, Any]:
    """A config as plain types."""
    try:
        return json.loads(config.to_json())
    # What stands for a file that could not be read raises at the first use.
    except Exception as error:
        raise ConfigError(_described(error)) from error


def _described(error: Exception) -> str:
    if isinstance(error, ConfigError | flags.Error):
        return str(error)
    return (
        "the config cannot be read, is no ConfigDict or lacks a key that was given "
        f"({type(error).__name__}: {error})"
    )


def main(argv: list[str]) -> None:
    """Runs one mode; errors that a user can mend end in a sentence and exit code 1."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}; overrides begin with --config.")
    program.finish(_run)


def _run() -> None:
    if _DISTRIBUTED.value:
        parallel.connect()
    devices = jax.local_devices()
    logging.info("%d device(s): %s; jax %s", len(devices), devices[0].device_kind, jax.__version__)
    if jax.process_count() > 1:
        place = (jax.process_index(), jax.process_count(), jax.device_count())
        logging.info("process %d of %d, which have %d devices", *place)
    mode = loop.run if _MODE.value == "train" else loop.evaluate_run
    mode(_plain(_CONFIG.value), _WORKDIR.value)


def entry_point() -> None:
    """Console script and `python -m air_jax.main`."""
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    """As absl does it, but that an error of the config, too, ends in a sentence."""
    try:
        return app.parse_flags_with_usage(argv)
    except Exception as error:  # see read_config
        sys.exit(f"error: {_described(error)}")


if __name__ == "__main__":
    entry_point()
