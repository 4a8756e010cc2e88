"""Runs that are broken and go on, and that the harness would see a promise that is not kept."""

import csv
import json
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest

from air_jax import checkpoint
from air_jax.experiments import faults, faults_report, inflict, processes, trials
from air_jax.experiments.processes import Ended, Left, differences

TEMPLATE = {"kernel": np.arange(1000, dtype=np.float32)}
KEPT = {"broken": [], "equal": True, "refusals": []}
LATER = [name for name in faults.FAULTS if name not in faults.SMOKE_FAULTS]


def test_a_run_that_gets_a_sigterm_and_one_that_is_killed_end_as_the_uninterrupted_one(
    tmp_path, monkeypatch
):
    # One device takes half the time of four.
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    faults.main(["--smoke", f"--workdir={tmp_path}"])  # raises where a promise is broken
    results = json.loads((tmp_path / "faults.json").read_text())
    assert [row["fault"] for row in results["trials"]] == ["sigterm", "sigkill"]
    assert all(row["equal"] and row["lost"] <= 40 for row in results["trials"])
    assert results["trials"][0]["exit"] in (-signal.SIGTERM, 128 + signal.SIGTERM)
    assert results["trials"][1]["exit"] == -signal.SIGKILL
    lines = list(csv.DictReader((tmp_path / "faults.csv").read_text().splitlines()))
    assert [line["broken"] for line in lines] == ["", ""]
    assert "| SIGKILL at a random moment | 1 |" in (tmp_path / "table.md").read_text()
    assert list((tmp_path / "trials").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", LATER)
def test_every_other_fault_keeps_the_promises(name, tmp_path):
    command = faults.create_command(faults.SMOKE)
    results = faults.run(command, str(tmp_path), kills=1, only=[name])
    (row,) = results["trials"]
    if "skipped" in row:
        pytest.skip(row["skipped"])
    assert row["equal"] and row["broken"] == []


def left(**changes):
    entries = {(step, "train"): {"step": step, "elbo": float(step)} for step in (20, 40, 60)}
    entries[20, "train"]["loss"] = float("nan")
    parts = {
        "state": {"kernel": np.float32([0.0, np.nan])},
        "scalars": entries,
        "evaluation": {"elbo": 1.0},
        "model": {"kernel": np.float32([0.0])},
    }
    return Left(**(parts | changes))


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, []),
        ({"state": {"kernel": np.float32([-0.0, np.nan])}}, ["state, kernel"]),
        ({"state": {}}, ["state, kernel"]),
        ({"model": {"kernel": np.float16([0.0])}}, ["model, kernel"]),
        ({"evaluation": {"elbo": 1.5}}, ["evaluation.json"]),
    ],
)
def test_bits_that_differ_are_found(changes, found):
    assert differences(left(**changes), left(), resumed_from=[0], log_every=20) == found


@pytest.mark.parametrize(
    ("resumed_from", "step", "found"),
    [
        # The mean of 20 to 40 begins at 30; no other may differ.
        (30, 40, []),
        (30, 60, ["metrics.jsonl, train entry of step 60"]),
        (20, 40, ["metrics.jsonl, train entry of step 40"]),
    ],
)
def test_only_the_mean_that_was_being_taken_may_differ(resumed_from, step, found):
    changed = left()
    changed.scalars[step, "train"]["elbo"] = -1.0
    assert differences(changed, left(), resumed_from=[resumed_from], log_every=20) == found
    del changed.scalars[step, "train"]
    missing = [f"metrics.jsonl, train entry of step {step}"]
    assert differences(changed, left(), resumed_from=[resumed_from], log_every=20) == missing


@pytest.fixture
def trial(tmp_path, monkeypatch):
    """A trial without a process: `trial.ends` is how the next one would end."""
    config = {"train": {"num_steps": 400, "log_every": 20, "checkpoint_every": 40}}
    setting = trials.Setting(processes.Command((), config), tmp_path, TEMPLATE, left())
    made = trials.Trial(setting, tmp_path / "trial", np.random.default_rng(0))

    class Stub:
        def __enter__(self):
            return SimpleNamespace(end=lambda: made.ends)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(made, "start", Stub)
    monkeypatch.setattr(processes, "read_left", lambda *_: left())
    return made


def test_a_damaged_checkpoint_that_passes_for_complete_is_seen(trial):
    folder = checkpoint.save(trial.checkpoints, 40, TEMPLATE)
    trial.stopped(Ended(-9, ""))
    assert (trial.row["broken"], trial.row["saved"], trial.row["stage"]) == ([], 40, "training")
    (folder / "state" / "_METADATA").write_bytes(b"")
    trial.stopped(Ended(-9, ""))
    assert "is damaged" in trial.row["broken"][0]


@pytest.mark.parametrize(
    ("exit_code", "reached", "resumed_from", "broken"),
    [
        (-9, 100, 60, []),
        (-9, 120, 60, ["60 steps lost, more than 40"]),
        (143, 60, 60, []),
        (143, 70, 60, ["10 steps lost, more than 0"]),
    ],
)
def test_steps_lost_beyond_what_is_promised_are_seen(
    trial, exit_code, reached, resumed_from, broken
):
    trial.row |= {"exit": exit_code, "reached": reached}
    trial.ends = Ended(0, f"12:00:00 resuming from step {resumed_from}\n")
    trial.resume()
    assert trial.row["broken"] == broken


def test_another_end_than_the_uninterrupted_one_is_seen(trial, monkeypatch):
    monkeypatch.setattr(processes, "read_left", lambda *_: left(evaluation={"elbo": 2.0}))
    trial.ends = Ended(0, "")
    trial.resume()
    assert trial.row["broken"] == ["not the uninterrupted run: evaluation.json"]
    assert trial.row["equal"] is False


@pytest.mark.parametrize(
    ("ended", "broken"),
    [
        (Ended(1, "12:00:00 resuming\n12:00:01 a/b is damaged. Delete it\nmore"), []),
        (Ended(0, "12:00:01 a/b is damaged. Delete it\n"), ["ended with 0"]),
        (Ended(1, "12:00:01 it is damaged. Delete it\n"), ["does not say 'a/b'"]),
        # What it needs was said of something else.
        (Ended(1, "12:00:01 a/b. Delete it\n12:00:02 no\n"), ["say 'a/b'", "say 'Delete'"]),
    ],
)
def test_a_refusal_without_file_or_remedy_is_seen(trial, ended, broken):
    trial.refused(ended, "a/b", "Delete")
    assert len(trial.row["broken"]) == len(broken)
    for part, whole in zip(broken, trial.row["broken"], strict=True):
        assert part in whole


def test_a_process_that_hangs_is_seen(trial):
    trial.stopped(Ended(None, "waiting"))
    assert trial.row["broken"] == ["hung: waiting"]


@pytest.mark.parametrize("seed", range(20))
def test_damage_is_never_none(tmp_path, seed):
    file = tmp_path / "file"
    for damage in (inflict.truncate, inflict.flip_bit):
        file.write_bytes(b"ab")
        damage(file, np.random.default_rng(seed))
        assert file.read_bytes() != b"ab"
    assert sum(a ^ b != 0 for a, b in zip(file.read_bytes(), b"ab", strict=True)) == 1


@pytest.mark.skipif(shutil.which("mount") is None, reason="there is no mount")
def test_a_small_disk_is_filled_but_for_what_is_left(tmp_path):
    try:
        with inflict._small_disk(tmp_path / "disk"):
            inflict._fill(tmp_path / "disk" / "filler", leave=2**20)
            assert shutil.disk_usage(tmp_path / "disk").free == 2**20
            inflict._fill(tmp_path / "disk" / "filler", leave=0)
            with pytest.raises(OSError, match="No space left on device"):
                (tmp_path / "disk" / "more").write_bytes(b"a")
    except trials.CannotBreak as error:
        pytest.skip(str(error))
    assert list((tmp_path / "disk").iterdir()) == []


def test_a_moment_that_is_always_missed_is_no_success(trial, monkeypatch):
    def miss(_):
        raise trials.NotHit

    monkeypatch.setitem(faults.FAULTS, "missed", faults.Fault("missed", 1, miss, {}))
    row = faults._try(trial.setting, "missed", 0, 0, trial.folder)
    assert row == {"broken": ["the moment was missed 5 times"]}


@pytest.mark.parametrize(
    ("commit", "tried"), [("abc", [0, 1, 2]), ("abc-dirty", [0, 0, 1, 2]), (None, [0, 0, 1, 2])]
)
def test_trials_of_the_same_code_are_kept(tmp_path, monkeypatch, commit, tried):
    numbers = []

    def attempt(setting, name, number, *_):
        numbers.append(number)
        return {"exit": -9, "reached": 9, "resumed_from": 9, "lost": 0, **KEPT}

    monkeypatch.setattr(faults.provenance, "surroundings", lambda: {"commit": commit})
    monkeypatch.setattr(faults, "_uninterrupted", lambda *_: None)
    monkeypatch.setattr(faults, "_try", attempt)
    command = faults.create_command({})
    for kills in (1, 3):
        results = faults.run(command, str(tmp_path), kills=kills, only=["sigkill"])
    assert numbers == tried
    assert [row["trial"] for row in results["trials"]] == [0, 1, 2]
    assert "| 3 of 3 | at most 0 |" in (tmp_path / "table.md").read_text()


def test_a_broken_promise_is_an_error_that_says_where(tmp_path, monkeypatch):
    monkeypatch.setattr(faults, "_uninterrupted", lambda *_: None)
    monkeypatch.setattr(faults, "_try", lambda *_: {**KEPT, "exit": -9, "broken": ["lost"]})
    with pytest.raises(ValueError, match=r"1 of 1 trials broke a promise.*faults.json"):
        faults.run(faults.create_command({}), str(tmp_path), kills=1, only=["sigkill"])
    (row,) = json.loads((tmp_path / "faults.json").read_text())["trials"]
    assert row["broken"] == ["lost"]


def test_no_kills_are_refused(tmp_path):
    with pytest.raises(ValueError, match="--kills is 0"):
        faults.run(processes.Command((), {}), str(tmp_path), kills=0)


def test_the_table_counts_endings_and_has_the_most_steps_lost():
    rows = [
        {**KEPT, "fault": "sigterm", "exit": 143, "lost": 0},
        {**KEPT, "fault": "sigterm", "exit": -15, "lost": 30},
        {**KEPT, "fault": "sigterm", "exit": 143, "lost": 0, "equal": False, "broken": ["no"]},
        {"fault": "disk_full", "skipped": "no mount"},
        {**KEPT, "fault": "file_size", "exit": 1, "lost": 40, "refusals": ["full"]},
    ]
    texts = {"sigterm": "TERM", "disk_full": "disk full", "file_size": "large files"}
    summary = faults_report.summarise(rows)
    assert faults_report.table({"summary": summary, "texts": texts}).splitlines()[2:] == [
        "| TERM | 3 | saved and stopped (2), ended by SIGTERM (1) | 0 | 2 of 3 | at most 30 | 1 |",
        "| disk full | 0 | skipped: no mount | - | - | - | - |",
        "| large files | 1 | refused (1) | 1 | 1 of 1 | at most 40 | 0 |",
    ]
