"""Several processes train as one: real ones, on this machine, with collectives between them."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from air_jax import checkpoint, kinds, main, parallel

ROOT = pathlib.Path(__file__).resolve().parent.parent
_SMALL = {
    "train.num_steps": 20,
    "train.steps_per_call": 5,
    "train.log_every": 5,
    "train.evaluate_every": 10,
    "train.checkpoint_every": 10,
    "train.validation_images": 8,
    "data.num_train": 64,
    "data.num_validation": 8,
    "data.num_test": 8,
    "evaluation.iwae_images": 0,
}


def arguments(changes):
    """Overrides of configs/smoke.py."""
    entries = {**_SMALL, **changes}
    return [f"--config.{name}={value}" for name, value in entries.items()]


def start(workdir, processes, devices, python=sys.executable, **changes):
    """A run in so many processes with so many devices each."""
    environment = {
        **os.environ,
        "CONFIG": str(ROOT / "configs" / "smoke.py"),
        "WORKDIR": str(workdir),
        "PYTHON": python,
        "NUM_PROCESSES": str(processes),
        "NUM_DEVICES": str(devices),
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "compiled"),
    }
    script = "local_processes.sh" if processes > 1 else "local.sh"
    return subprocess.Popen(
        [ROOT / "launch" / script, *arguments(changes)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return output


def last_state(workdir):
    """Every array of a run's last checkpoint by its name."""
    config = main.read_config([f"--config={ROOT}/configs/smoke.py", *arguments({})])
    training = kinds.create_training(
        config, image_size=config["data"]["image_size"], channels=1, freeze_non_finite=False
    )
    template = jax.eval_shape(training.init, jax.random.key(0))
    return checkpoint.restore(workdir / "checkpoints", template)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run in one process with four devices."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    finish(start(workdir, 1, 4))
    return workdir


@pytest.mark.parametrize("resident", [True, False])
def test_two_processes_with_two_devices_end_as_one_with_four(alone, resident, monkeypatch):
    """Whether the images are on every device, or each process reads its share from shards."""
    name = "resident" if resident else "streamed"
    workdir = alone.parent / name
    caches = alone.parent / f"{name}_caches"  # empty: both processes find no shards
    monkeypatch.setenv("XDG_CACHE_HOME", str(caches))
    output = finish(start(workdir, 2, 2, **{"data.resident": resident}))
    assert "process 1 of 2, which have 4 devices" in output
    assert len(list(caches.rglob("*.array_record"))) == (0 if resident else 1)
    expected, found = last_state(alone), last_state(workdir)
    assert int(found.step) == 20
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-4),
        found.params,
        expected.params,
    )
    # One of them writes: every scalar is there once.
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == len((alone / "metrics.jsonl").read_text().splitlines())


def test_processes_stop_together_and_one_with_other_devices_goes_on(alone):
    workdir = alone.parent / "stopped"
    process = start(workdir, 2, 2, **{"train.num_steps": 2_000})
    scalars = workdir / "metrics.jsonl"
    while not (scalars.exists() and scalars.stat().st_size):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 143, output
    step = checkpoint.latest_step(workdir / "checkpoints")
    assert output.count(f"stopped by SIGTERM at step {step}") == 2

    output = finish(start(workdir, 1, 2, **{"train.num_steps": step + 5}))
    assert f"resuming from step {step} with 2 device(s) after 4" in output
    assert int(last_state(workdir).step) == step + 5


def test_processes_with_different_configs_refuse_to_begin(tmp_path):
    wrapper = tmp_path / "python"
    wrapper.write_text(
        '#!/bin/bash\n[ "$1" = -c ] || set -- "$@" --config.seed=$JAX_PROCESS_ID\n'
        f'exec {sys.executable} "$@"\n'
    )
    wrapper.chmod(0o755)
    process = start(tmp_path / "run", 2, 2, python=str(wrapper))
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 1, output
    assert "process 1 has another config than process 0: start all of them" in output
    assert not (tmp_path / "run").exists()


def test_an_error_of_the_first_process_ends_the_others_at_once(tmp_path):
    # Only the first one looks at the folder.
    (tmp_path / "run").write_text("a file")
    process = start(tmp_path / "run", 2, 2)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 1, output
    assert "is a file: give a folder" in output


@pytest.mark.parametrize(
    "variables",
    [
        {"JAX_NUM_PROCESSES": "2"},
        {"JAX_COORDINATOR_ADDRESS": "localhost:1", "JAX_NUM_PROCESSES": "2"},
        {"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "two", "JAX_PROCESS_ID": "0"},
    ],
)
def test_half_of_the_variables_are_refused_with_all_of_them(monkeypatch, variables):
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"ADDRESS is .* JAX_PROCESS_ID is .* HOST:PORT"):
        parallel.connect()
