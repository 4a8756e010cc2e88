"""The benchmarks run and write what can be read; how fast anything is, is not for a test."""

import json
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from air_jax import export, main
from air_jax.train import TrainState
from benchmarks import inference, measure, scaling, time_to, train_step
from tests import tiny

ROOT = pathlib.Path(__file__).resolve().parent.parent


def run(name, *arguments):
    """Runs a benchmark's smoke form as a command; its result and what it printed."""
    out = pathlib.Path(arguments[arguments.index("--out") + 1])
    command = [sys.executable, f"benchmarks/{name}.py", "--smoke", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text()), done.stdout


def check_spread(spread):
    assert 0 < spread["low"] <= spread["median"] <= spread["high"]
    assert spread["repeats"] >= 3


def check_machine(machine):
    assert machine["backend"] == "cpu"
    assert machine["packages"]["jax"] == jax.__version__
    assert {"commit", "devices", "processor", "cores"} <= set(machine)


@pytest.mark.parametrize("num_seeds", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_train_step_measures_its_cases(tmp_path, num_seeds):
    out = str(tmp_path / "deep" / "train_step.json")
    written, printed = run("train_step", "--num-seeds", str(num_seeds), "--out", out)
    check_machine(written["machine"])
    assert "--num-seeds" in written["machine"]["arguments"]
    (result,) = written["results"]
    assert (result["estimator"], result["num_seeds"]) == ("enumerate", num_seeds)
    for name in ("steps_per_second", "images_per_second", "matrix_flops_per_second"):
        check_spread(result[name])
    steps_per_second = result["steps_per_second"]["median"]
    images = result["batch_size"] * num_seeds
    assert result["images_per_second"]["median"] == pytest.approx(images * steps_per_second)
    share = result["flops_per_step"] * steps_per_second
    share /= result["matrix_flops_per_second"]["median"]
    assert result["share_of_matrix_rate"] == pytest.approx(share)
    # The first layer alone, forwards and its gradient: 32 x 32 pixels to 64 units, at most 3 times.
    assert 2 * 2 * 1024 * 64 * images < result["flops_per_step"] < 1e8 * num_seeds
    assert result["compile_seconds"] > 0.1
    assert 1e8 < result["peak_memory"]["process"] < 1e11
    assert len(printed.strip().splitlines()) == 3  # header, rule and one row


def test_a_case_that_fails_is_a_row_with_the_reason():
    case = {"config": "configs/smoke.py", "estimator": "enumerate", "batch_size": 6, "num_seeds": 1}
    shared = {"steps_per_call": 1, "seconds": 0.1, "num_images": 8, "matrix_size": 8, "alone": "x"}
    # Six images do not divide over the four devices of the tests.
    result = train_step._run_case({**case, **shared}, limit=600)
    assert list(result) == ["skipped"]
    assert "batch of 6 does not divide" in result["skipped"]
    row = train_step._row({**case, **result})
    assert len(row) == len(train_step._HEADER)
    assert result["skipped"] in row
    assert "not done after" in train_step._run_case({**case, **shared}, limit=0.01)["skipped"]


def test_a_program_that_would_not_fit_is_not_run(monkeypatch):
    compiled = jax.jit(lambda x: x[:, None] * x).lower(jnp.ones(1000)).compile()
    monkeypatch.setattr(measure, "free_memory", lambda: 1000**2)  # of 4 MB
    with pytest.raises(train_step._TooLargeError, match=r"needs 0\.0 GB"):
        train_step._check_memory(compiled)
    monkeypatch.setattr(measure, "free_memory", lambda: 10**9)
    train_step._check_memory(compiled)


@pytest.mark.parametrize("num_devices", [1, 4])
def test_flops_are_those_of_one_step_over_all_devices(num_devices):
    def step(state, images, keys):
        flat = images.reshape(images.shape[0], -1)
        gradient = jax.lax.pmean((flat @ state.params).mean(0), "batch")
        return state, {"loss": gradient.sum()}

    state = tiny_state(np.ones((36, 4096), np.float32))
    positions = np.arange(16, dtype=np.int32).reshape(num_devices, -1)
    dataset = np.zeros((20, *tiny.images(1).shape[1:]), np.uint8)
    flops = train_step.step_flops(step, state, positions, dataset, jax.random.key(0))
    # 16 x 36 by 36 x 4096, a multiplication and an addition each; the rest is small.
    assert flops == pytest.approx(2 * 16 * 36 * 4096, rel=0.05)


def tiny_state(params):
    return TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state=(), statistics=())


def test_the_estimators_that_need_samples_get_them(monkeypatch):
    def create(*, estimator, scene, num_samples, num_train_steps, image_size, channels):
        pass

    monkeypatch.setattr(train_step, "create_air_training", create)
    config = {**main.read_config(["--config=configs/smoke.py"]), "num_samples": 1, "other": 2}
    vimco = train_step.training_arguments(config, "vimco")
    assert (vimco["estimator"], vimco["num_samples"]) == ("vimco", 4)
    nvil = train_step.training_arguments(config, "nvil")
    assert (nvil["estimator"], nvil["num_samples"]) == ("nvil", 1)
    create(**nvil)  # every argument, and no other


def test_inference_measures_random_and_trained_networks(tmp_path):
    config = main.read_config(["--config=configs/smoke.py"])
    models = inference.random_models(config)
    model = models["2 objects"]
    export.export_model(tmp_path / "run" / "model", jax.device_get(model.params), model.config)
    written, printed = run(
        *("inference", "--model", str(tmp_path / "run"), "--config", "configs/smoke.py"),
        *("--out", str(tmp_path / "inference.json")),
    )
    check_machine(written["machine"])
    results = {
        (row["parameters"], row["method"]): row for row in written["results"] if row["num_steps"]
    }
    # A trained network has one case; infer takes its N steps whatever the parameters.
    detected = {(case, method) for case in models for method in ("detect", "detect, N steps")}
    trained = {("trained", method) for method in inference.METHODS}
    assert set(results) == {("random", "infer")} | detected | trained
    for row in results.values():
        check_spread(row["seconds"])
        check_spread(row["images_per_second"])
        rate = row["batch_size"] / row["seconds"]["median"]
        assert row["images_per_second"]["median"] == pytest.approx(rate)
        assert row["compile_seconds"] > 0
    for case, count, steps in (("0 objects", 0, 1), ("2 objects", 2, 2), ("trained", 2, 2)):
        assert results[case, "detect"]["mean_count"] == count
        assert results[case, "detect"]["num_steps"] == steps
        assert results[case, "detect, N steps"]["num_steps"] == 2
    assert len(printed.strip().splitlines()) == 2 + len(results)


def test_streaming_is_compared_with_images_that_are_resident(tmp_path):
    written, printed = run("stream", "--out", str(tmp_path / "stream.json"))
    check_machine(written["machine"])
    for speed in (written["steps_per_second"][name] for name in ("resident", "streamed")):
        check_spread(speed)
    check_spread(written["streamed_over_resident_seconds"])
    check_spread(written["streamed_over_resident_cpu_seconds"])
    check_spread(written["read_seconds"])
    assert written["states_equal"] is True
    assert written["image_bytes"] == 2_000 * 32 * 32
    assert 0 < written["shard_bytes"] < written["image_bytes"]
    assert "states equal: True" in printed


def test_the_first_of_two_validations_is_timed_cold_and_compiled(tmp_path):
    written, printed = run("time_to", "--out", str(tmp_path / "time_to.json"))
    check_machine(written["machine"])
    cold, compiled = written["results"]
    assert [cold["programs"], compiled["programs"]] == ["cold", "compiled"]
    for result in (cold, compiled):
        # An accuracy of 0 is there with the first two validations, of which the first counts.
        assert (result["step"], result["seconds_after"]) == (20, 0.0)
        assert 0 < result["seconds_before"] < 60
        assert 0 < result["seconds"] < 600
    assert len(printed.strip().splitlines()) == 4


def test_a_run_that_ends_below_the_accuracy_leaves_what_it_compiled(tmp_path):
    config = ["--config=configs/smoke.py"]
    config += [f"--config.train.{name}=20" for name in ("num_steps", "evaluate_every")]
    config += [f"--config.train.{name}=20" for name in ("log_every", "checkpoint_every")]
    result = time_to.measure_run(config, accuracy=2.0, compiled=str(tmp_path), limit=600.0)
    assert re.search(r"not there after \d+ s; .*model and figures in", result["skipped"])
    assert result["machine"]["arguments"][0] == "--config=configs/smoke.py"
    assert list(tmp_path.iterdir())


def test_every_seed_runs_cold_and_with_what_it_compiled(tmp_path, monkeypatch):
    runs = []

    def measured(arguments, *, accuracy, compiled, limit):
        runs.append((arguments, accuracy, compiled))
        times = {"seconds": 3.0, "seconds_before": 1.0, "seconds_after": 2.0}
        return {**times, "step": 80, "machine": {"backend": "gpu"}}

    monkeypatch.setattr(time_to, "measure_run", measured)
    monkeypatch.setattr(time_to.kinds, "create_dataset", lambda config: None)
    out = tmp_path / "time_to.json"
    options = ["--configs", "configs/smoke.py", "--estimators", "nvil", "--seeds", "3", "4"]
    time_to.benchmark([*options, "--accuracy", "0.5", "--every", "40", "--out", str(out)])
    for arguments, accuracy, _ in runs:
        assert {"--config.estimator=nvil", "--config.train.evaluate_every=40"} <= set(arguments)
        assert accuracy == 0.5
    seeds = [arguments[-1] for arguments, *_ in runs]
    assert seeds == ["--config.seed=3"] * 2 + ["--config.seed=4"] * 2
    folders = [compiled for *_, compiled in runs]
    assert folders[0] == folders[1] != folders[2] == folders[3]
    written = json.loads(out.read_text())
    assert written["machine"]["backend"] == "gpu"
    assert [run["programs"] for run in written["results"]] == ["cold", "compiled"] * 2


@pytest.mark.parametrize(
    "config, limit, reason",
    [
        ("none.py", 60.0, "the run said: .*none.py"),
        ("smoke.py", 0.1, "the run said: nothing"),
    ],
)
def test_a_run_that_does_not_get_there_is_skipped(tmp_path, config, limit, reason):
    arguments = [f"--config=configs/{config}"]
    options = {"accuracy": 0.0, "compiled": str(tmp_path), "limit": limit}
    result = time_to.measure_run(arguments, **options)
    assert re.search(reason, result.pop("skipped"))
    assert result == {"machine": {}}


def test_times_are_medians_of_the_seeds_that_got_there():
    case = {"config": "configs/air.py", "estimator": "nvil", "programs": "cold"}

    def there(step, seconds):
        times = {"seconds": seconds, "seconds_after": 1.0, "seconds_before": 2.0}
        return {**case, "step": step, **times}

    results = [there(100, 30.0), {**case, "skipped": "why"}, there(300, 10.0), there(200, 20.0)]
    (row, other) = time_to._rows([*results, {**case, "programs": "compiled", "skipped": "why"}])
    assert row == [
        *("air", "nvil", "cold", "3 of 4", "200 (100 to 300)", "20.0 (10.0 to 30.0)"),
        *("1.0 (1.0 to 1.0)", "22.0 (12.0 to 32.0)"),
    ]
    assert other == ["air", "nvil", "compiled", "0 of 1", "", "", "", ""]


def test_a_spread_is_the_median_and_the_quartiles():
    spread = measure.spread([5.0, 1.0, 4.0, 2.0, 3.0])
    assert spread == measure.Spread(3.0, 2.0, 4.0, 5)
    assert spread.per(12.0) == measure.Spread(4.0, 3.0, 6.0, 5)
    assert f"{spread:.1f}" == "3.0 [2.0, 4.0]"


def test_short_calls_are_repeated_for_the_time_given_and_long_ones_three_times(monkeypatch):
    for taken, repeats in ((0.5, 4), (100.0, 3)):
        monkeypatch.setattr(measure, "duration", lambda call, taken=taken: taken)
        assert measure.durations(lambda: None, seconds=2.0).repeats == repeats


def test_all_reduces_are_counted_with_all_that_they_send():
    def summed(x, y):
        return jax.lax.psum((x, y), "i")

    program = jax.pmap(summed, axis_name="i").lower(
        np.ones((4, 3, 5), np.float32), np.ones((4, 7), np.int32)
    )
    assert scaling.all_reduce_bytes(program.compile().as_text()) == 4 * (3 * 5 + 7)


def test_efficiency_is_what_a_ring_leaves():
    link = {"step_seconds": 1.0, "num_bytes": 8, "bandwidth": 4.0, "latency": 0.25}
    assert scaling.efficiency(1, **link) == 1.0
    # Two messages of half the bytes each way: 2 (1 s + 0.25 s).
    assert scaling.efficiency(2, **link) == pytest.approx(1 / (1 + 2.5))
    # Six of a quarter.
    assert scaling.efficiency(4, **link) == pytest.approx(1 / (1 + 6 * 0.75))


@pytest.mark.slow
def test_scaling_measures_devices_and_processes(tmp_path, capsys):
    out = tmp_path / "scaling.json"
    scaling.benchmark(["--smoke", "--out", str(out)])
    written = json.loads(out.read_text())
    assert [(row["processes"], row["devices"]) for row in written["rows"]] == 2 * [
        *((1, 1), (1, 2), (2, 2))
    ]
    for row in written["rows"]:
        check_spread(row["steps_per_second"])
        # Of the program, which sums over its devices even where there is one.
        assert row["all_reduce_bytes"] == written["rows"][0]["all_reduce_bytes"] > 0
    assert "2 | 2 | 8" in capsys.readouterr().out
