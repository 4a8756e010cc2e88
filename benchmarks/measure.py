"""What the benchmarks share: arguments, timing, memory, the machine."""

import argparse
import os
import pathlib
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from air_jax import provenance


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, *, smoke: Mapping[str, Any]
) -> argparse.Namespace:
    """The arguments of a benchmark, with `--out` and `--smoke`, which all of them take.

    Args:
      parser: with the benchmark's own.
      argv: as `parse_args` takes it.
      smoke: defaults that `--smoke` puts in the place of the others.
    """
    parser.add_argument("--out", help="JSON file")
    parser.add_argument("--smoke", action="store_true", help="whether it works, in seconds")
    if parser.parse_known_args(argv)[0].smoke:
        parser.set_defaults(**smoke)
    return parser.parse_args(argv)


class Spread(NamedTuple):
    """Median and quartiles of repeated measurements.

    Attributes:
      median: of the repeats, in the unit of the measurement.
      low: first quartile.
      high: third quartile.
      repeats: how many there were.
    """

    median: float
    low: float
    high: float
    repeats: int

    def per(self, amount: float) -> "Spread":
        """The rate `amount / value`, of durations; its quartiles change places."""
        return Spread(amount / self.median, amount / self.high, amount / self.low, self.repeats)

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def spread(values: Iterable[float]) -> Spread:
    """Median and quartiles of some measurements, at least one."""
    values = np.asarray(list(values))
    low, median, high = np.percentile(values, [25, 50, 75])
    return Spread(float(median), float(low), float(high), len(values))


def duration(call: Callable[[], Any]) -> float:
    """Seconds that a call takes until its result has been computed."""
    began = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - began


def durations(call: Callable[[], Any], *, seconds: float, min_repeats: int = 3) -> Spread:
    """Calls again and again for `seconds`, at least `min_repeats` times.

    Args:
      call: compiled already, so that no repeat differs from the others.
      seconds: how long to go on.
      min_repeats: for calls that are longer than `seconds`.

    Returns:
      Seconds of a call.
    """
    taken: list[float] = []
    while sum(taken) < seconds or len(taken) < min_repeats:
        taken.append(duration(call))
    return spread(taken)


def matrix_rate(*, size: int, seconds: float) -> Spread:
    """The rate of this device's own float32 matrix product, FLOP per second.

    At the default precision, as the networks' products are: an accelerator may round the inputs.

    Args:
      size: of the square matrices.
      seconds: how long to measure.
    """
    matrix = jax.random.normal(jax.random.key(0), (size, size))
    multiply = jax.jit(jnp.matmul)
    duration(lambda: multiply(matrix, matrix))  # compiles
    return durations(lambda: multiply(matrix, matrix), seconds=seconds).per(2.0 * size**3)


def peak_memory() -> dict[str, int | None]:
    """The most memory so far, bytes: of the process, and of its first device where that counts."""
    unit = 1 if sys.platform == "darwin" else 1024
    statistics = jax.local_devices()[0].memory_stats() or {}
    return {
        "process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "device": statistics.get("peak_bytes_in_use"),
    }


def free_memory() -> int | None:
    """Bytes that a program may still take on the first device; None where nobody says."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in statistics:
        return statistics["bytes_limit"] - statistics["bytes_in_use"]
    try:
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    sizes = dict(line.split(":", 1) for line in lines)
    return int(sizes["MemAvailable"].split()[0]) * 1024


def machine() -> dict[str, Any]:
    """Where and with what this process runs; JSON-able."""
    return {
        **provenance.surroundings(),
        "processor": _processor(),
        "load_average": os.getloadavg()[0],  # of a machine that is busy, no number is to be kept
    }


def _processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
