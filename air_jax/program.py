"""What all commands share: messages, and how they end."""

import logging as python_logging
import os
import pathlib
import sys
from collections.abc import Callable
from typing import NoReturn

import jax
from absl import logging

from air_jax.checkpoint import CheckpointError
from air_jax.interruption import Interrupted
from air_jax.monitor import NonFiniteError
from air_jax.parallel import keep_compiled


def log_plainly() -> None:
    """Shows this package's messages and everybody's warnings; orbax says a page a checkpoint."""
    package = str(pathlib.Path(__file__).parent)
    logging.use_absl_handler()
    handler = logging.get_absl_handler()
    handler.setFormatter(python_logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    handler.addFilter(
        lambda record: (
            record.levelno >= python_logging.WARNING or record.pathname.startswith(package)
        )
    )
    logging.set_verbosity(logging.INFO)


def finish(task: Callable[[], object]) -> None:
    """Does a program's task: errors that a user can mend end in a sentence and exit code 1.

    Among these is a task that is too large for the machine.

    An interruption ends in the code of its signal, as a shell gives it: 128 and its number.

    Args:
      task: what to do.
    """
    log_plainly()
    keep_compiled()
    try:
        task()
    except Interrupted as interrupted:
        logging.warning("%s", interrupted)
        sys.exit(128 + interrupted.signal)
    except (ValueError, OSError, CheckpointError, NonFiniteError) as error:
        logging.error("%s", error)
        _fail()
    except MemoryError as error:
        logging.error("out of memory (%s): choose smaller sizes or fewer images", error)
        _fail()
    except jax.errors.JaxRuntimeError as error:
        first_line = str(error).partition("\n")[0]
        if "RESOURCE_EXHAUSTED" not in first_line:
            raise
        logging.error("out of memory on the device (%s): choose smaller sizes", first_line)
        _fail()
    except KeyboardInterrupt:
        sys.exit(130)


def _fail() -> NoReturn:
    if jax.distributed.is_initialized():
        # JAX's own way out waits for the other processes, which wait for this one.
        logging.flush()
        os._exit(1)
    sys.exit(1)
