"""What the launchers start, seen by a stand-in for the interpreter."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

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


def stub(folder, name, script):
    """A program of this name that does what the script says."""
    path = folder / name
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)
    return path


def run_script(name, folder, *arguments, **variables):
    """Runs a launcher from a folder, whose programs come first."""
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", **variables}
    return subprocess.run(
        [ROOT / "launch" / name, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


_SHOW = (
    'echo "$JAX_COORDINATOR_ADDRESS $JAX_NUM_PROCESSES $JAX_PROCESS_ID '
    '${JAX_LOCAL_DEVICE_IDS-unset} $XLA_FLAGS $*"'
)


def test_local_processes_tells_each_process_who_it_is(tmp_path):
    python = stub(tmp_path, "python", _SHOW)
    variables = {"NUM_PROCESSES": "3", "PORT": "4321", "PYTHON": str(python), "XLA_FLAGS": "-x"}
    process = run_script("local_processes.sh", tmp_path, "--config.seed=3", **variables)
    assert process.returncode == 0, process.stderr
    command = "-P -m air_jax.main --distributed "
    command += f"--config={ROOT}/configs/dair.py --workdir={ROOT}/runs/dair --config.seed=3"
    assert sorted(process.stdout.splitlines()) == [
        f"localhost:4321 3 {i} {i} -x {command}" for i in range(3)
    ]


def test_local_processes_with_fake_devices_find_a_free_port(tmp_path):
    python = stub(tmp_path, "python", f'[ "$1" = -c ] && exec python3 "$@"\n{_SHOW}')
    process = run_script("local_processes.sh", tmp_path, NUM_DEVICES="2", PYTHON=str(python))
    assert process.returncode == 0, process.stderr
    first, second = sorted(process.stdout.splitlines())
    host, port = first.split()[0].split(":")
    assert host == "localhost" and 1024 < int(port) < 65536
    assert first.split()[0] == second.split()[0]
    assert "unset" in first and "device_count=2" in first


@pytest.mark.parametrize("name", ["NUM_PROCESSES", "NUM_DEVICES", "PORT"])
def test_local_processes_refuses_what_is_no_number(tmp_path, name):
    process = run_script("local_processes.sh", tmp_path, **{name: "two"})
    assert process.returncode == 2
    assert f"{name} is 'two'" in process.stderr


def test_local_processes_end_with_the_one_that_fails(tmp_path):
    python = stub(tmp_path, "python", "((JAX_PROCESS_ID == 1)) && exit 7\nexec sleep 100")
    process = run_script("local_processes.sh", tmp_path, PORT="4321", PYTHON=str(python))
    assert process.returncode == 7


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_local_processes_pass_signals_on_and_wait_for_the_checkpoint(tmp_path, number):
    script = "trap 'sleep 0.5; touch saved$JAX_PROCESS_ID; exit 143' TERM\ntouch up$JAX_PROCESS_ID"
    python = stub(tmp_path, "python", f"{script}\nwhile true; do sleep 0.1; done")
    # A shell cannot catch what was ignored when it began, as in the background of another one.
    command = ["env", "--default-signal=INT", ROOT / "launch" / "local_processes.sh"]
    environment = {**os.environ, "PORT": "4321", "PYTHON": str(python)}
    with subprocess.Popen(command, cwd=tmp_path, env=environment) as process:
        while not (tmp_path / "up0").exists() or not (tmp_path / "up1").exists():
            time.sleep(0.05)
        process.send_signal(number)
        try:
            assert process.wait(timeout=30) == 143
        finally:
            process.terminate()
    assert (tmp_path / "saved0").exists() and (tmp_path / "saved1").exists()


@pytest.fixture
def slurm(tmp_path):
    """A stand-in for SLURM: two tasks, one after the other, and a log of scontrol."""
    tasks = 'for i in 0 1; do SLURM_PROCID=$i SLURM_LOCALID=$i "${@:2}" || exit $?; done'
    stub(tmp_path, "srun", f'echo "srun $1"\n{tasks}')
    stub(tmp_path, "scontrol", 'echo "$*" >> scontrol.log; printf "node7\nnode8\n"')
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    stub(tmp_path / ".venv" / "bin", "python", f"{_SHOW}\nexit ${{CODE:-0}}")

    def run(*arguments, **variables):
        job = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_NODELIST": "node[7-8]"}
        job |= {"SLURM_JOB_ID": "40007", "SLURM_NTASKS": "2", "XLA_FLAGS": "-x"}
        process = run_script("slurm.sh", tmp_path, *arguments, **job, **variables)
        return process, (tmp_path / "scontrol.log").read_text().splitlines()

    return run


def test_slurm_starts_every_task_with_its_numbers(slurm, tmp_path):
    process, scontrol = slurm("--config.data.path=my pictures")
    assert process.returncode == 0, process.stderr
    assert scontrol == ["show hostnames node[7-8]"]
    command = f"-P -m air_jax.main --distributed --config={tmp_path}/configs/dair.py "
    command += f"--workdir={tmp_path}/runs/dair --config.data.path=my pictures"
    assert process.stdout.splitlines() == [
        "srun --kill-on-bad-exit=1",
        *(f"node7:12352 2 {i} {i} -x {command}" for i in range(2)),
    ]


def test_slurm_requeues_a_run_that_was_stopped_and_no_other(slurm):
    process, scontrol = slurm(CODE="143")
    assert process.returncode == 143
    assert scontrol[1:] == ["requeue 40007"]
    process, scontrol = slurm(CODE="1")
    assert process.returncode == 1
    assert scontrol[2:] == ["show hostnames node[7-8]"]


def test_tpu_pod_passes_arguments_through_the_remote_shell(tmp_path):
    # gcloud hands the command to a shell on every host; here that is this one.
    stub(tmp_path, "gcloud", 'echo "$1 $2 $3 $4 $5 $6 $7"; bash -c "${8#--command=}"')
    remote = tmp_path / "my repo"
    (remote / ".venv" / "bin").mkdir(parents=True)
    stub(remote / ".venv" / "bin", "python", 'printf "%s\n" "$PWD" "$@"')
    variables = {"TPU_NAME": "pod", "ZONE": "z", "WORKDIR": "/runs/a b", "REPO": str(remote)}
    process = run_script("tpu_pod.sh", tmp_path, "--config.data.path=it's", **variables)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines() == [
        "compute tpus tpu-vm ssh pod --zone=z --worker=all",
        str(remote),
        *("-m", "air_jax.main", "--distributed", "--config=configs/dair.py"),
        *("--workdir=/runs/a b", "--config.data.path=it's"),
    ]
    del variables["ZONE"]
    process = run_script("tpu_pod.sh", tmp_path, **variables)
    assert (process.returncode, "ZONE is not set" in process.stderr) == (2, True)


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
def test_gke_makes_a_job_with_a_pod_for_each_process(tmp_path):
    stub(tmp_path, "kubectl", "cat")
    variables = {"IMAGE": "registry/image", "CLAIM": "claim", "NUM_PROCESSES": "4"}
    process = run_script("gke.sh", tmp_path, "--config.data.path=a b", **variables)
    assert process.returncode == 0, process.stderr
    decoder, text = json.JSONDecoder(), process.stdout
    service, end = decoder.raw_decode(text)
    job, _ = decoder.raw_decode(text[end:].lstrip())
    assert (service["kind"], service["spec"]["clusterIP"]) == ("Service", "None")
    assert (job["spec"]["completions"], job["spec"]["parallelism"]) == (4, 4)
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"][-2:] == ["--workdir=/runs/dair", "--config.data.path=a b"]
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert environment["JAX_COORDINATOR_ADDRESS"] == "dair-0.dair:12345"
    assert environment["JAX_NUM_PROCESSES"] == "4"
    process = run_script("gke.sh", tmp_path, IMAGE="registry/image")
    assert (process.returncode, "CLAIM is not set" in process.stderr) == (2, True)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shell_scripts_pass_shellcheck():
    scripts = [ROOT / ".ci" / "run", *sorted((ROOT / "launch").glob("*.sh"))]
    process = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True)
    assert process.returncode == 0, process.stdout
