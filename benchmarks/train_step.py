"""Speed and memory of the compiled train step, the one that runs use.

    python benchmarks/train_step.py --out results/train_step.json
    python benchmarks/train_step.py --configs configs/dair.py --estimators nvil --batch-sizes 64

Every case has a process of its own: its peak memory is its own, and one that fails is a line of the
table. `images/s` counts every seed's images. The FLOPs are XLA's count of one step of the program
as it is written, before it is optimised; their rate is given as a share of what the same process
reaches with a large float32 matrix product.
"""

import argparse
import fcntl
import inspect
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from air_jax import estimators, main, parallel, tables
from air_jax.train import TrainState, create_air_training
from air_jax.writer import write_json
from benchmarks import measure

# A single sample has no others to compare itself with.
_NUM_SAMPLES = {"vimco": 4}
_SMOKE = {
    "configs": ["configs/smoke.py"],
    "estimators": ["enumerate"],
    "batch_sizes": [8],
    "num_seeds": [1],
    "steps_per_call": 2,
    "seconds": 0.1,
    "num_images": 64,
    "matrix_size": 128,
}


class _TooLargeError(Exception):
    """The case needs more memory than there is."""


def training_arguments(config: Mapping[str, Any], estimator: str) -> dict[str, Any]:
    """The config as arguments of `create_air_training`, whatever scalars it takes."""
    accepted = inspect.signature(create_air_training).parameters
    arguments = {name: config[name] for name in config if name in accepted}
    if estimator in _NUM_SAMPLES and "num_samples" in accepted:
        arguments["num_samples"] = _NUM_SAMPLES[estimator]
    return arguments | {
        "estimator": estimator,
        "num_train_steps": config["train"]["num_steps"],
        "image_size": config["data"]["image_size"],
        "channels": 1,
    }


def _create(arguments: Mapping[str, Any], num_seeds: int, steps_per_call: int):
    """One seed's train step, the compiled steps of all seeds, and their state and keys."""
    many_seeds = num_seeds > 1
    training = create_air_training(**arguments, freeze_non_finite=many_seeds)
    run = parallel.pmap_steps(training.train_step, steps_per_call, many_seeds=many_seeds)
    if not many_seeds:
        key = jax.random.key(0)
        return training.train_step, run, training.init(key), key
    keys = jax.random.split(jax.random.key(0), num_seeds)
    return training.train_step, run, jax.vmap(training.init)(keys), keys


def rectangles(num_images: int, image_size: int) -> np.ndarray:
    """White rectangles on black, up to two an image, uint8 `[M, S, S, 1]`."""
    rng = np.random.default_rng(0)
    images = np.zeros((num_images, image_size, image_size, 1), np.uint8)
    pixels = np.arange(image_size)
    for _ in range(2):
        # Sides of 0 are images with fewer objects.
        low = rng.integers(0, image_size, (2, num_images, 1))
        inside = (pixels >= low) & (pixels < low + rng.integers(0, 20, (2, num_images, 1)))
        images[inside[0][:, :, None] & inside[1][:, None, :]] = 255
    return images


def step_flops(
    train_step: parallel.TrainStep, state: TrainState, positions, dataset, key
) -> float | None:
    """FLOPs of one step of one seed over all devices; None where XLA does not say.

    XLA counts the body of a loop once, however often it runs. And of the program before it is
    optimised: compilers put calls of libraries, whose FLOPs nobody counts, in the place of its
    matrix products.

    Args:
      train_step: over the mapped axis `parallel.AXIS_NAME`.
      state: of one seed; only its shapes are used, as of everything else.
      positions: int32 `[devices, b]`.
      dataset: uint8 `[M, H, W, C]`.
      key: the run's base key.
    """

    step = jax.vmap(
        parallel.scan_steps(train_step, 1),
        in_axes=(None, 0, None, None),
        axis_name=parallel.AXIS_NAME,
    )
    with parallel.on_host():  # a GPU's compiler does not count
        cost = jax.jit(step).lower(state, positions, dataset, key).cost_analysis()
    return None if cost is None else float(cost["flops"])


def _check_memory(compiled: Any) -> None:
    """Raises `_TooLargeError` where the program cannot be held; to try could end other programs."""
    needs, free = compiled.memory_analysis(), measure.free_memory()
    if needs is None or free is None:
        return
    size = needs.temp_size_in_bytes + needs.output_size_in_bytes - needs.alias_size_in_bytes
    if jax.default_backend() == "cpu":  # all devices share the memory
        size *= jax.local_device_count()
    if size > free:
        raise _TooLargeError(f"needs {size / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free")


def measure_case(
    *,
    config: str,
    estimator: str,
    batch_size: int,
    num_seeds: int,
    steps_per_call: int | None,
    seconds: float,
    num_images: int | None,
    matrix_size: int | None,
    alone: str,
) -> dict[str, Any]:
    """Measures one case in this process.

    Args:
      config: config file.
      estimator: one of `estimators.NAMES`.
      batch_size: images of a step of one seed, over all devices.
      num_seeds: independent runs in one program.
      steps_per_call: steps inside one compiled call; None for the config's.
      seconds: how long to repeat the call, three times at least.
      num_images: size of the training set; None for the config's.
      matrix_size: of the matrix product; None for one that suits the device.
      alone: a file that is locked by whoever is measuring: of cases that compile at the same time,
        one measures.

    Returns:
      The measurements, JSON-able; rates per second, memory in bytes.

    Raises:
      ValueError: if the batch does not divide over the devices, or a loss is not finite.
      _TooLargeError: if there is not enough memory for it.
    """
    jax.config.update("jax_enable_compilation_cache", False)  # or compiling would take no time
    settings = main.read_config([f"--config={config}"])
    devices = jax.local_device_count()
    positions = parallel.batch_positions(batch_size, devices)
    if matrix_size is None:
        matrix_size = 2048 if jax.default_backend() == "cpu" else 4096
    if steps_per_call is None:
        steps_per_call = settings["train"]["steps_per_call"]
    arguments = training_arguments(settings, estimator)
    train_step, run, state, key = _create(arguments, num_seeds, steps_per_call)
    dataset = rectangles(num_images or settings["data"]["num_train"], arguments["image_size"])
    one_seed = (state, key) if num_seeds == 1 else jax.tree.map(lambda x: x[0], (state, key))
    flops = step_flops(train_step, one_seed[0], positions, dataset, one_seed[1])

    state = parallel.replicate(state)
    rest = parallel.shard(positions), parallel.replicate(dataset), parallel.replicate(key)
    began = time.perf_counter()
    compiled = run.compile(state, *rest)
    compile_seconds = time.perf_counter() - began
    _check_memory(compiled)

    def call():
        nonlocal state  # donated
        state, metrics = run(state, *rest)
        return metrics

    with open(alone, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        matrix_rate = measure.matrix_rate(size=matrix_size, seconds=min(seconds, 3.0))
        if not np.isfinite(call()["loss"]).all():  # the first call also sets things up
            raise ValueError("the loss is not finite")
        call_seconds = measure.durations(call, seconds=seconds)
    steps_per_second = call_seconds.per(steps_per_call)
    # The devices of an accelerator are as many machines; those of a CPU are one.
    machines = 1 if jax.default_backend() == "cpu" else devices
    done = None if flops is None else flops * num_seeds * steps_per_second.median
    return {
        "num_samples": arguments.get("num_samples"),
        "steps_per_call": steps_per_call,
        "compile_seconds": compile_seconds,
        "steps_per_second": steps_per_second._asdict(),
        "images_per_second": call_seconds.per(steps_per_call * batch_size * num_seeds)._asdict(),
        "flops_per_step": None if flops is None else flops * num_seeds,
        "matrix_size": matrix_size,
        "matrix_flops_per_second": matrix_rate._asdict(),
        "share_of_matrix_rate": None if done is None else done / matrix_rate.median / machines,
        "peak_memory": measure.peak_memory(),
        "machine": measure.machine(),
    }


def _run_case(case: Mapping[str, Any], limit: float) -> dict[str, Any]:
    """Measures a case in a fresh process; what goes wrong there is `skipped`, with the reason."""
    command = [sys.executable, os.path.abspath(__file__), "--case", json.dumps(case)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"skipped": f"not done after {limit:g} s"}
    if done.returncode < 0:
        return {"skipped": f"ended by signal {-done.returncode} (9 is often a lack of memory)"}
    if done.returncode:
        return {"skipped": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


_HEADER: tuple[str, ...] = (
    *("config", "estimator", "batch", "seeds", "steps/s [quartiles]", "images/s"),
    *("compilation", "peak memory", "GFLOP a step", "of the matrix rate"),
)


def _row(result: Mapping[str, Any]) -> list[str]:
    row = [pathlib.Path(result["config"]).stem, result["estimator"]]
    row += [str(result["batch_size"]), str(result["num_seeds"])]
    if "skipped" in result:
        return [*row, result["skipped"], *[""] * (len(_HEADER) - len(row) - 1)]
    memory, flops, share = (
        result[name] for name in ("peak_memory", "flops_per_step", "share_of_matrix_rate")
    )
    return [
        *row,
        f"{measure.Spread(**result['steps_per_second']):.3g}",
        f"{result['images_per_second']['median']:,.0f}",
        f"{result['compile_seconds']:.1f} s",
        f"{(memory['process'] if memory['device'] is None else memory['device']) / 1e9:.2f} GB",
        "-" if flops is None else f"{flops / 1e9:.3g}",
        "-" if share is None else f"{100 * share:.1f} %",
    ]


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed and memory of the train step.")
    parser.add_argument("--configs", nargs="+", default=["configs/air.py", "configs/dair.py"])
    parser.add_argument("--estimators", nargs="+", default=list(estimators.NAMES))
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[64, 256, 1024, 4096])
    parser.add_argument("--num-seeds", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--steps-per-call", type=int, help="default: the config's")
    parser.add_argument("--seconds", type=float, default=10.0, help="of measuring a case")
    parser.add_argument("--processes", type=int, default=1, help="cases that compile at once")
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds of a whole case")
    parser.add_argument("--case", help=argparse.SUPPRESS)  # one case, in this process
    parser.set_defaults(num_images=None, matrix_size=None)
    return measure.parse(parser, argv, smoke=_SMOKE)


def benchmark(argv: Sequence[str] | None = None) -> None:
    """The command."""
    arguments = _parse(argv)
    if arguments.case:
        try:
            print(json.dumps(measure_case(**json.loads(arguments.case))))
        except (_TooLargeError, ValueError, main.ConfigError) as error:
            sys.exit(str(error))
        return
    names = ("steps_per_call", "seconds", "num_images", "matrix_size")
    shared = {name: getattr(arguments, name) for name in names}
    machine: dict[str, Any] = {}
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(arguments.processes) as pool:
        shared["alone"] = os.path.join(folder, "alone")
        # In this order the axes vary in the table, the last one fastest.
        cases = [
            {"config": config, "estimator": estimator, "batch_size": size, "num_seeds": seeds}
            for config in arguments.configs
            for estimator in arguments.estimators
            for size in arguments.batch_sizes
            for seeds in arguments.num_seeds
        ]
        measured = pool.map(lambda case: _run_case({**case, **shared}, arguments.limit), cases)
        for case, result in zip(cases, measured, strict=True):
            # The cases say what they ran on: this process leaves the devices to them.
            machine = result.pop("machine", machine)
            results.append({**case, **result})
            print(" | ".join(_row(results[-1])), file=sys.stderr)
            if arguments.out:
                started = {**machine, "arguments": sys.argv[1:] if argv is None else list(argv)}
                write_json(arguments.out, {"machine": started, "results": results})
    print(tables.markdown(_HEADER, [_row(result) for result in results]), end="")
    if all("skipped" in result for result in results):
        sys.exit(1)


if __name__ == "__main__":
    benchmark()
