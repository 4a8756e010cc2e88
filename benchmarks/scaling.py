"""What several devices or processes cost, and what larger machines would bring, on paper.

    python benchmarks/scaling.py --out results/benchmarks/scaling.json

Measured: steps a second with 1, 2, 4 fake devices in one process and with as many processes of one
device, at the same global batch (strong scaling) and at the same batch for each device (weak). All
of them share this machine's cores: an ideal program would keep its images a second, and what it
loses is the cost of cutting the batch and of the collectives.

Read from the compiled program: the bytes that a step sends around. Estimated from these, by the
usual model of a ring all-reduce, is the efficiency of machines that are not at hand:

    step = step of one device + 2 (n - 1) (bytes / n / bandwidth + latency)

without any overlap, so that it is a lower bound for weak scaling. Strong scaling needs a step that
gets shorter with its batch; where it is latency that a step takes, it does not.
"""

import argparse
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from air_jax import main, parallel, tables
from air_jax.train import create_air_training
from air_jax.writer import write_json
from benchmarks import measure, train_step

_SMOKE = {"config": "configs/smoke.py", "devices": [1, 2], "batch_size": 4, "num_calls": 3}
_STEPS_PER_CALL = 5
_BYTES = {"f32": 4, "s32": 4, "u32": 4, "f16": 2, "bf16": 2, "pred": 1}
# Numbers of devices that are estimated.
_DEVICES = (2, 8, 16, 64, 256)


def all_reduce_bytes(program: str) -> int:
    """Bytes of all operands of the all-reduces in a compiled program's text, each counted once."""
    total = 0
    for line in program.splitlines():
        found = re.search(r"= (\(?.*?\)?) all-reduce(?:-start)?\(", line)
        if found:
            for kind, shape in re.findall(r"(\w+)\[([\d,]*)\]", found[1]):
                total += _BYTES[kind] * int(np.prod([int(n) for n in shape.split(",") if n]))
    return total


def efficiency(
    num_devices: int, *, step_seconds: float, num_bytes: int, bandwidth: float, latency: float
) -> float:
    """Share of n devices' images a second that they reach together, at one batch for each.

    Args:
      num_devices: n.
      step_seconds: of a step on one of them, nothing sent.
      num_bytes: that a step sums over the devices.
      bandwidth: of a device's link, bytes per second in each direction.
      latency: of a message, seconds.
    """
    ring = 2 * (num_devices - 1) * (num_bytes / num_devices / bandwidth + latency)
    return step_seconds / (step_seconds + ring)


def measure_case(*, config: str, estimator: str, batch_size: int, num_calls: int) -> dict[str, Any]:
    """Steps a second of this process's devices together with those of the others.

    Args:
      config: config file.
      estimator: one of `estimators.NAMES`.
      batch_size: global.
      num_calls: how often to repeat a call of a few steps, the same in every process.

    Returns:
      The measurement, JSON-able; rates per second.
    """
    jax.config.update("jax_enable_compilation_cache", False)
    settings = main.read_config([f"--config={config}"])
    arguments = train_step.training_arguments(settings, estimator)
    training = create_air_training(**arguments)
    run = parallel.pmap_steps(training.train_step, _STEPS_PER_CALL)
    key, mesh = jax.random.key(0), parallel.global_mesh()
    images = train_step.rectangles(1_000, arguments["image_size"])
    state = parallel.replicate(jax.device_get(training.init(key)), mesh)
    rest = (
        parallel.shard(parallel.own_positions(batch_size), mesh),
        parallel.replicate(images, mesh),
        parallel.replicate(key, mesh),
    )
    program = run.compile(state, *rest).as_text()
    taken = []
    for _ in range(num_calls + 1):
        began = time.perf_counter()
        state, _ = run(state, *rest)
        taken.append(time.perf_counter() - began)
    rate = measure.spread(taken[1:]).per(_STEPS_PER_CALL)  # the first call also sets things up
    return {
        "steps_per_second": rate._asdict(),
        "images_per_second": rate.median * batch_size,
        "all_reduce_bytes": all_reduce_bytes(program or ""),
        "machine": measure.machine(),
    }


def _run_case(case: Mapping[str, Any], processes: int, devices: int) -> dict[str, Any]:
    """Measures a case in fresh processes; the first one's measurement."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    started = []
    for number in range(processes):
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
            "JAX_NUM_PROCESSES": str(processes),
            "JAX_PROCESS_ID": str(number),
        }
        command = [sys.executable, os.path.abspath(__file__), "--case", json.dumps(case)]
        started.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        )
    outputs = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise RuntimeError(f"{processes} processes with {devices} devices failed: {case}")
    return json.loads(outputs[0].splitlines()[-1])


def _cases(arguments: argparse.Namespace) -> Iterator[tuple[str, int, int, int]]:
    """Kind of scaling, processes, devices of each, global batch."""
    for scaling in ("strong", "weak"):
        for number in sorted({1, *arguments.devices}):
            batch_size = arguments.batch_size * (number if scaling == "weak" else 1)
            yield scaling, 1, number, batch_size
            if number > 1:
                yield scaling, number, 1, batch_size


def estimates(arguments: argparse.Namespace, num_bytes: int) -> list[dict[str, Any]]:
    """A row for each number of devices: weak scaling's efficiency over the machine's links."""
    rows = []
    for number in _DEVICES:
        inside = number <= arguments.devices_per_host
        bandwidth = arguments.bandwidth if inside else arguments.network_bandwidth
        share = efficiency(
            number,
            step_seconds=arguments.step_seconds,
            num_bytes=num_bytes,
            bandwidth=1e9 * bandwidth,
            latency=1e-6 * arguments.latency,
        )
        rows.append({"devices": number, "bandwidth": bandwidth, "efficiency": share})
    return rows


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Scaling over devices and processes.")
    parser.add_argument("--config", default="configs/air.py")
    parser.add_argument("--estimator", default="nvil")
    parser.add_argument("--devices", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--batch-size", type=int, default=64, help="strong; weak, of a device")
    parser.add_argument("--num-calls", type=int, default=6, help=f"of {_STEPS_PER_CALL} steps")
    parser.add_argument("--step-seconds", type=float, default=1 / 2607, help="of one accelerator")
    parser.add_argument("--devices-per-host", type=int, default=8)
    parser.add_argument("--bandwidth", type=float, default=300.0, help="GB/s within a host")
    parser.add_argument("--network-bandwidth", type=float, default=40.0, help="GB/s between hosts")
    parser.add_argument("--latency", type=float, default=2.0, help="of a message, microseconds")
    parser.add_argument("--case", help=argparse.SUPPRESS)  # one case, in this process
    return measure.parse(parser, argv, smoke=_SMOKE)


def benchmark(argv: Sequence[str] | None = None) -> None:
    """The command."""
    arguments = _parse(argv)
    if arguments.case:
        if os.environ["JAX_NUM_PROCESSES"] != "1":
            parallel.connect()
        print(json.dumps(measure_case(**json.loads(arguments.case))))
        return
    shared = {name: getattr(arguments, name) for name in ("config", "estimator", "num_calls")}
    settings = {name: value for name, value in vars(arguments).items() if name != "out"}
    rows: list[dict[str, Any]] = []
    for scaling, processes, devices, batch_size in _cases(arguments):
        result = _run_case({**shared, "batch_size": batch_size}, processes, devices)
        machine = result.pop("machine")
        place = {"scaling": scaling, "processes": processes, "devices": processes * devices}
        kept = result["images_per_second"] / (rows or [result])[0]["images_per_second"]
        rows.append({**place, "batch_size": batch_size, "kept": kept, **result})
        estimated = estimates(arguments, max(row["all_reduce_bytes"] for row in rows))
        if arguments.out:
            measured = {"machine": machine, "settings": settings}
            write_json(arguments.out, {**measured, "rows": rows, "estimates": estimated})
        print(" | ".join(_line(rows[-1])), file=sys.stderr)
    print(_table(rows), _estimates_table(estimated), sep="\n", end="")


def _line(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        *(row["scaling"], str(row["processes"]), str(row["devices"]), str(row["batch_size"])),
        f"{measure.Spread(**row['steps_per_second']):.3g}",
        f"{100 * row['kept']:.0f} %",
    )


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    header = ("scaling", "processes", "devices", "batch", "steps/s [quartiles]", "images/s kept")
    return tables.markdown(header, [_line(row) for row in rows])


def _estimates_table(rows: Sequence[Mapping[str, Any]]) -> str:
    header = ("devices", "GB/s of the slowest link", "efficiency, weak scaling")
    lines = [
        (str(row["devices"]), f"{row['bandwidth']:g}", f"{100 * row['efficiency']:.0f} %")
        for row in rows
    ]
    return tables.markdown(header, lines)


if __name__ == "__main__":
    benchmark()
