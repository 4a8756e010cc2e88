"""The reliability experiment on runs of a few steps: what it keeps, resumes and counts."""

import json
import shutil

import pytest

from air_jax import writer
from air_jax.experiments import reliability, runs
from air_jax.monitor import NonFiniteError
from tests.loop_test import tiny_config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Seeds 5, 6 and 7, two in one program and one on its own."""
    workdir = tmp_path_factory.mktemp("reliability")
    results = reliability.run(
        tiny_config(), str(workdir), seeds=range(5, 8), seeds_per_program=2, num_processes=1
    )
    return workdir, results


def test_every_seed_is_counted_and_drawn(finished):
    workdir, results = finished
    written = json.loads((workdir / "reliability.json").read_text())
    assert written["summary"]["num_seeds"] == 3
    assert set(written["summary"]["seeds"]) == {"5", "6", "7"}
    for seed in (5, 6, 7):
        folder = f"seeds_5_6/seed_{seed}" if seed < 7 else "seeds_7"
        evaluation = json.loads((workdir / folder / "evaluation.json").read_text())
        assert evaluation["seed"] == seed
        described = results["summary"]["seeds"][str(seed)]
        assert described["count_accuracy"] == evaluation["count_accuracy"]
    assert written["commit"] == results["commit"]
    assert "0 of 3" in (workdir / "table.md").read_text()
    for name in ("learning_curves", "scan_policy"):
        assert (workdir / f"{name}.png").stat().st_size > 1000


def test_finished_seeds_are_not_trained_again(finished, monkeypatch):
    workdir, results = finished

    def train_again(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(runs.loop, "run", train_again)
    again = reliability.run(
        tiny_config(), str(workdir), seeds=range(5, 8), seeds_per_program=2, num_processes=1
    )
    assert again["summary"] == results["summary"]


def test_mutual_information_is_drawn_of_the_seeds_that_found_both_digits(
    finished, tmp_path, monkeypatch
):
    workdir = tmp_path / "copy"
    shutil.copytree(finished[0], workdir)
    told = iter([0, 12, 9])  # scenes in which both digits were found, which a few steps do not do

    def policy(*_, **__):
        feature = {"fraction": 0.5, "null_95": 0.01}
        return {"num_scenes": next(told), "features": {"position": feature, "class": feature}}

    drawn = []
    draw = reliability.figures_runs.mutual_information
    monkeypatch.setattr(reliability.scan_policy, "scan_policy", policy)
    monkeypatch.setattr(
        reliability.figures_runs,
        "mutual_information",
        lambda *given, **options: drawn.append((given, options)) or draw(*given, **options),
    )
    results = reliability.run(
        tiny_config(), str(workdir), seeds=range(5, 8), seeds_per_program=2, num_processes=1
    )
    assert set(results["scan_policy"]) == {"5", "6", "7"}
    ((given, options),) = drawn
    assert options == {"seeds": [6, 7]}
    assert given == (["position", "class"], [[0.5, 0.5]] * 2, [[0.01, 0.01]] * 2)
    assert (workdir / "mutual_information.png").stat().st_size > 1000


def test_a_seed_that_diverges_has_failed_and_the_others_go_on(tmp_path, monkeypatch):
    train = runs.loop.run

    def diverging(config, folder):
        if config["seed"] == 0:
            raise NonFiniteError("loss not finite at step 3")
        return train(config, folder)

    monkeypatch.setattr(runs.loop, "run", diverging)
    results = reliability.run(
        tiny_config(), str(tmp_path), seeds=range(2), seeds_per_program=1, num_processes=1
    )
    assert results["summary"]["unfinished"] == [0]
    assert results["summary"]["seeds"]["0"]["count_accuracy"] == 0.0
    assert results["summary"]["seeds"]["1"]["finished"]


def test_processes_beside_each_other_do_what_one_does(finished, tmp_path):
    beside = reliability.run(
        tiny_config(), str(tmp_path), seeds=range(6, 8), seeds_per_program=1, num_processes=2
    )
    assert beside["summary"]["unfinished"] == []
    assert set(beside["summary"]["seeds"]) == {"6", "7"}
    for seed, folder in ((6, "seeds_5_6/seed_6"), (7, "seeds_7")):
        expected = writer.read_scalars(finished[0] / folder, "train")[0]
        found = writer.read_scalars(tmp_path / f"seeds_{seed}", "train")[0]
        # Steps enough to tell seeds apart, and few enough for rounding not to matter.
        assert found["elbo"] == pytest.approx(expected["elbo"], rel=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": range(0)}, "at least one of each"),
        ({"seeds_per_program": 0}, "at least one of each"),
        ({"num_processes": 10_000}, "do not fit"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(change, message, tmp_path):
    options = {"seeds": range(2), "seeds_per_program": 1, "num_processes": 1, **change}
    with pytest.raises(ValueError, match=message):
        reliability.run(tiny_config(), str(tmp_path), **options)


def test_the_command_reads_config_and_overrides(tmp_path, monkeypatch):
    called = {}
    monkeypatch.setattr(reliability, "run", lambda *given, **options: called.update(options))
    reliability.main(
        [
            # Overrides may come before the file.
            *("--config.seed=9", "--config=configs/smoke.py", f"--workdir={tmp_path}"),
            *("--seeds=3:9", "--seeds-per-program=2"),
        ]
    )
    assert called == {"seeds": range(3, 9), "seeds_per_program": 2, "num_processes": 1}
