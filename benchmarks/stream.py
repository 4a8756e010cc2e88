"""Train steps with the training images on every device, and read from shards as they are drawn.

    python benchmarks/stream.py --out results/benchmarks/stream.json

The same run in two ways, in one process: their calls take turns, so that whatever else the machine
does falls on both. CPU seconds are the process's own, of all its threads, however long it had to
wait for a core. After the last call both states are compared. `read` is what a call's images take
on their own, drawn, read and placed, with nothing ahead and nothing beside it.
"""

import argparse
import pathlib
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from air_jax import kinds, main, parallel, tables
from air_jax.batches import create_batches
from air_jax.data import stream
from air_jax.writer import write_json
from benchmarks import measure

_SMOKE = {
    **{"config": "configs/smoke.py", "estimator": "reinforce"},
    **{"batch_size": 8, "steps_per_call": 2, "calls": 3},
}


def measure_both(
    *, config: str, estimator: str, batch_size: int, steps_per_call: int, calls: int, folder: str
) -> dict[str, Any]:
    """Measures both ways.

    Args:
      config: config file.
      estimator: one of `estimators.NAMES`.
      batch_size: images of a step, over all devices.
      steps_per_call: steps inside one compiled call.
      calls: how often to repeat a call of each.
      folder: of the shards, which are written there.

    Returns:
      The measurements, JSON-able: steps per second, seconds, bytes.

    Raises:
      ValueError: if the batch does not divide over the devices.
    """
    settings = main.read_config([f"--config={config}", f"--config.estimator={estimator}"])
    images = kinds.create_dataset(settings).train.images
    began = time.perf_counter()
    path = pathlib.Path(folder) / "shards"
    with stream.writing(path) as write:
        write(images)
    written = time.perf_counter()
    shards = stream.open_shards(path)
    opened = time.perf_counter()

    image = {"image_size": images.shape[1], "channels": images.shape[3]}
    training = kinds.create_training(settings, **image, freeze_non_finite=False)
    key, positions = (
        jax.random.key(0),
        parallel.batch_positions(batch_size, jax.local_device_count()),
    )
    sizes = {"steps_per_call": steps_per_call, "num_steps": (calls + 1) * steps_per_call}
    ways = {
        "resident": create_batches(images, positions, key, **sizes),
        "streamed": create_batches(shards, positions, key, **sizes),
    }
    runs, states = {}, {}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in ways}
    for name, batches in ways.items():
        runs[name] = parallel.pmap_steps(
            training.train_step, steps_per_call, streamed=batches.streamed
        )
        states[name] = parallel.replicate(training.init(jax.random.key(1)))
    for call in range(calls + 1):
        # The order changes: what comes second may find the machine warmer.
        for name in list(ways)[:: 1 if call % 2 else -1]:
            began_call, began_cpu = time.perf_counter(), time.process_time()
            arguments = ways[name](call * steps_per_call)
            states[name], _ = runs[name](states[name], *arguments)
            seconds[name].append(time.perf_counter() - began_call)
            cpu_seconds[name].append(time.process_time() - began_cpu)
    ways["streamed"].__exit__()

    draw = parallel.draw_on_host(len(shards), key, positions, steps_per_call)

    def read_call(call: int) -> float:
        return measure.duration(lambda: parallel.shard(shards.read(draw(call * steps_per_call))))

    read = [read_call(call) for call in range(calls + 1)]
    # The first call compiles.
    speeds = {
        name: measure.spread(taken[1:]).per(steps_per_call) for name, taken in seconds.items()
    }

    def ratio(taken: dict[str, list[float]]) -> dict[str, Any]:
        pairs = zip(taken["resident"][1:], taken["streamed"][1:], strict=True)
        return measure.spread(streamed / resident for resident, streamed in pairs)._asdict()

    leaves = (jax.tree.leaves(jax.device_get(states[name])) for name in ways)
    return {
        "steps_per_second": {name: speed._asdict() for name, speed in speeds.items()},
        "streamed_over_resident_seconds": ratio(seconds),
        "streamed_over_resident_cpu_seconds": ratio(cpu_seconds),
        "read_seconds": measure.spread(read[1:])._asdict(),
        "states_equal": all(np.array_equal(a, b) for a, b in zip(*leaves, strict=True)),
        "write_seconds": written - began,
        "open_seconds": opened - written,
        "image_bytes": images.nbytes,
        "shard_bytes": sum(file.stat().st_size for file in path.iterdir()),
        "machine": measure.machine(),
    }


def benchmark(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Resident and streamed training images.")
    parser.add_argument("--config", default="configs/air.py")
    parser.add_argument("--estimator", default="nvil")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps-per-call", type=int, default=50)
    parser.add_argument("--calls", type=int, default=20, help="of each way")
    arguments = measure.parse(parser, argv, smoke=_SMOKE)
    names = ("config", "estimator", "batch_size", "steps_per_call", "calls")
    case = {name: getattr(arguments, name) for name in names}
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = measure_both(**case, folder=folder)
        except (ValueError, main.ConfigError) as error:
            sys.exit(str(error))
    machine = {
        **result.pop("machine"),
        "arguments": sys.argv[1:] if argv is None else list(argv),
    }
    if arguments.out:
        write_json(arguments.out, {"machine": machine, **case, **result})
    header = ("images", "steps/s [quartiles]")
    speeds = {name: measure.Spread(**one) for name, one in result["steps_per_second"].items()}
    print(tables.markdown(header, [[name, f"{speed:.3g}"] for name, speed in speeds.items()]))
    slower, dearer = (
        measure.Spread(**result[f"streamed_over_resident_{unit}"])
        for unit in ("seconds", "cpu_seconds")
    )
    read = measure.Spread(**result["read_seconds"])
    print(
        f"streamed / resident, call by call: {slower:.3f} of the seconds, {dearer:.3f} of the CPU "
        f"seconds\nreading a call's images: {read:.3g} s; states equal: {result['states_equal']}"
    )


if __name__ == "__main__":
    benchmark()
