"""How soon a run counts: from the command to a count accuracy on validation scenes.

    python benchmarks/time_to.py --out results/benchmarks/time_to.json
    python benchmarks/time_to.py --configs configs/dair.py --estimators nvil --seeds 120

Every run is `python -m air_jax.main` as a user starts it, and is stopped once two validations in a
row are above; its time is that of the first of them (`reliability.time_to`). Every seed runs twice:
"cold", with an empty folder of compiled programs, and "compiled", with what the first has left
there. Scenes are composed beforehand, and read from the cache.
"""

import argparse
import contextlib
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from air_jax import kinds, main, reliability, tables, writer
from benchmarks import measure

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_POLL_SECONDS = 0.05
# What of the machine the runs alone see.
_OF_RUNS = ("backend", "devices", "num_devices", "num_processes")
_SMOKE = {
    **{"configs": ["configs/smoke.py"], "estimators": ["enumerate"], "seeds": [0]},
    **{"every": 20, "accuracy": 0.0},
}


def measure_run(
    arguments: Sequence[str], *, accuracy: float, compiled: str, limit: float
) -> dict[str, Any]:
    """Trains until a count accuracy is reached.

    Args:
      arguments: of `air_jax.main`, but for the workdir.
      accuracy: on the validation scenes, twice in a row, in [0, 1].
      compiled: folder of compiled programs.
      limit: seconds after which a run that is not there is ended.

    Returns:
      `step` and `seconds` of the first of the two validations, in wall time since the run began;
      `seconds_before`, from the command to that beginning; `seconds_after`, from the run's first
      validation, before which everything is compiled. Of a run that did not get there `skipped`,
      with the reason, instead. And `machine`, what the run recorded of it; empty if it did not come
      that far.
    """
    with tempfile.TemporaryDirectory() as folder:
        workdir, log = pathlib.Path(folder) / "run", pathlib.Path(folder) / "log"
        command = [sys.executable, "-m", "air_jax.main", *arguments, f"--workdir={workdir}"]
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": compiled}
        with open(log, "w") as output:
            began = time.monotonic()
            run = subprocess.Popen(
                command, cwd=_ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
            )
            try:
                result = _watch(run, workdir, accuracy=accuracy, began=began, limit=limit)
                if result is None:
                    result = {"skipped": _reason(log, time.monotonic() - began)}
            finally:
                run.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    run.wait(60)  # it saves
                run.kill()
                run.wait()
        record = workdir / "run.json"
        machine = json.loads(record.read_bytes())[0] if record.exists() else {}
    return {**result, "machine": machine}


def _reason(log: pathlib.Path, seconds: float) -> str:
    lines = log.read_text(errors="replace").split("\n")
    last = [line for line in lines if line.strip()][-1:] or ["nothing"]
    return f"not there after {seconds:.0f} s; the last that the run said: {last[0]}"


def _watch(
    run: subprocess.Popen, workdir: pathlib.Path, *, accuracy: float, began: float, limit: float
) -> dict[str, Any] | None:
    """Waits until the run is there; None if it ends before, or is not there in time."""
    while time.monotonic() < began + limit:
        ended = run.poll() is not None  # before it is read: its last entries count
        validation = writer.read_scalars(workdir, "validation")
        if reached := reliability.time_to(validation, accuracy):
            since_command = time.monotonic() - began
            return {
                **reached,
                "seconds_before": since_command - validation[-1]["seconds"],
                "seconds_after": reached["seconds"] - validation[0]["seconds"],
            }
        if ended:
            break
        time.sleep(_POLL_SECONDS)
    return None


def _median(values: Sequence[float], digits: int) -> str:
    """Median, and the range of more than one."""
    text = f"{statistics.median(values):,.{digits}f}"
    if len(values) == 1:
        return text
    return f"{text} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


_HEADER = (
    *("config", "estimator", "programs", "seeds", "steps"),
    *("seconds", "of which after the first validation", "seconds from the command"),
)


def _rows(results: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Medians over the seeds that got there, of every configuration."""
    cases: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for result in results:
        case = tuple(result[name] for name in ("config", "estimator", "programs"))
        cases.setdefault(case, []).append(result)
    rows = []
    for (config, *others), runs in cases.items():
        there = [run for run in runs if "skipped" not in run]
        row = [pathlib.Path(config).stem, *others, f"{len(there)} of {len(runs)}"]
        if there:
            totals = [run["seconds_before"] + run["seconds"] for run in there]
            row.append(_median([run["step"] for run in there], 0))
            for name in ("seconds", "seconds_after"):
                row.append(_median([run[name] for run in there], 1))
            row.append(_median(totals, 1))
        rows.append(row + [""] * (len(_HEADER) - len(row)))
    return rows


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time to a count accuracy.")
    parser.add_argument("--configs", nargs="+", default=["configs/air.py", "configs/dair.py"])
    parser.add_argument("--estimators", nargs="+", default=["enumerate", "nvil"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[120, 121, 122])
    parser.add_argument("--accuracy", type=float, default=reliability.BAR)
    parser.add_argument("--every", type=int, default=50, help="steps between validations")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds of a run")
    return measure.parse(parser, argv, smoke=_SMOKE)


def benchmark(argv: Sequence[str] | None = None) -> None:
    """The command."""
    arguments = _parse(argv)
    # The runs have the devices to themselves.
    jax.config.update("jax_platforms", "cpu")
    machine, results = measure.machine(), []
    for config, estimator in itertools.product(arguments.configs, arguments.estimators):
        options = [f"--config={config}", f"--config.estimator={estimator}"]
        for interval in ("steps_per_call", "evaluate_every"):
            options.append(f"--config.train.{interval}={arguments.every}")
        try:
            kinds.create_dataset(main.read_config(options))
        except (ValueError, OSError) as error:
            sys.exit(str(error))
        for seed in arguments.seeds:
            with tempfile.TemporaryDirectory() as compiled:
                for programs in ("cold", "compiled"):
                    result = measure_run(
                        [*options, f"--config.seed={seed}"],
                        accuracy=arguments.accuracy,
                        compiled=compiled,
                        limit=arguments.limit,
                    )
                    recorded = result.pop("machine")
                    machine |= {name: recorded[name] for name in _OF_RUNS if name in recorded}
                    case = {"config": config, "estimator": estimator, "seed": seed}
                    results.append({**case, "programs": programs, **result})
                    print(json.dumps(results[-1]), file=sys.stderr)
        if arguments.out:
            machine["arguments"] = sys.argv[1:] if argv is None else list(argv)
            written = {"accuracy": arguments.accuracy, "every": arguments.every}
            writer.write_json(arguments.out, {"machine": machine, **written, "results": results})
    print(tables.markdown(_HEADER, _rows(results)), end="")
    if all("skipped" in result for result in results):
        sys.exit(1)


if __name__ == "__main__":
    benchmark()
