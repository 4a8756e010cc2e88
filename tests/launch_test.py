"""What the launchers start, seen by a stand-in for the interpreter."""

import os
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
LOCAL = ROOT / "launch" / "local.sh"


@pytest.fixture
def launch(tmp_path):
    """Runs local.sh from a folder of its own; returns the process, with what it started."""
    stub = tmp_path / "python with a space"
    stub.write_text(
        "#!/bin/bash\n"
        'printf "%s\\n" "$PWD" "${JAX_PLATFORMS-unset}" "${XLA_FLAGS-unset}" "$PYTHONPATH" "$@"\n'
    )
    stub.chmod(0o755)
    names = ("CONFIG", "WORKDIR", "NUM_DEVICES", "JAX_PLATFORMS", "XLA_FLAGS", "PYTHONPATH")
    environment = {name: value for name, value in os.environ.items() if name not in names}

    def run(*arguments, **variables):
        return subprocess.run(
            [LOCAL, *arguments],
            cwd=tmp_path,
            env={**environment, "PYTHON": str(stub), **variables},
            capture_output=True,
            text=True,
        )

    return run


def test_local_trains_dair_on_the_machines_own_devices_by_default(launch, tmp_path):
    process = launch()
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines() == [
        str(tmp_path),
        "unset",
        "unset",
        str(ROOT),
        "-P",
        "-m",
        "air_jax.main",
        f"--config={ROOT}/configs/dair.py",
        f"--workdir={ROOT}/runs/dair",
    ]


def test_local_passes_variables_and_overrides_on_as_they_are(launch):
    overrides = ("--config.seed=3", "--config.data.path=my pictures")
    process = launch(*overrides, CONFIG="my configs/own.py", WORKDIR="my run", PYTHONPATH="/other")
    assert process.returncode == 0, process.stderr
    _, _, _, path, *arguments = process.stdout.splitlines()
    assert path == f"{ROOT}:/other"
    assert arguments[3:] == ["--config=my configs/own.py", "--workdir=my run", *overrides]


def test_local_names_the_workdir_after_the_config(launch):
    arguments = launch(CONFIG="elsewhere/own.py").stdout.splitlines()
    assert f"--workdir={ROOT}/runs/own" in arguments


def test_local_makes_fake_cpu_devices_and_keeps_other_xla_flags(launch):
    process = launch(NUM_DEVICES="2", XLA_FLAGS="--xla_cpu_enable_fast_math=false")
    _, platforms, flags, *_ = process.stdout.splitlines()
    assert platforms == "cpu"
    assert flags.split() == [
        "--xla_cpu_enable_fast_math=false",
        "--xla_force_host_platform_device_count=2",
    ]


@pytest.mark.parametrize("number", ["0", "two", "-1", "2 --other"])
def test_local_refuses_a_number_of_devices_that_is_none(launch, number):
    process = launch(NUM_DEVICES=number)
    assert process.returncode == 2
    assert process.stdout == ""
    assert f"NUM_DEVICES is '{number}'" in process.stderr


def test_local_ends_with_the_exit_code_of_the_run(launch, tmp_path):
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/bash\nexit 7\n")
    failing.chmod(0o755)
    assert launch(PYTHON=str(failing)).returncode == 7


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shell_scripts_pass_shellcheck():
    scripts = [ROOT / ".ci" / "run", *sorted((ROOT / "launch").glob("*.sh"))]
    process = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True)
    assert process.returncode == 0, process.stdout
