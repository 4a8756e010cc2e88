"""The ablation: its changes fit the shipped configs, and are what is run."""

import functools
import json

import pytest

from air_jax import sections
from air_jax.experiments import ablation
from configs import air, dair
from tests.loop_test import tiny_config

ALL = [(name, change) for changes in ablation.SETS.values() for name, change in changes.items()]


@pytest.mark.parametrize(("name", "changes"), ALL, ids=[name for name, _ in ALL])
@pytest.mark.parametrize("module", [air, dair])
def test_every_change_gives_another_valid_config(module, name, changes):
    config = json.loads(module.get_config().to_json())
    changed = ablation.change(config, changes)
    sections.check(changed)
    assert (changed == config) == (name == "as_shipped" or _changes_nothing(config, changes))


def _changes_nothing(config, changes):
    """Whether the config has these values already, as DAIR's presence logit."""

    def value(name):
        return functools.reduce(lambda section, key: section[key], name.split("."), config)

    return all(value(name) == changes[name] for name in changes)


@pytest.mark.parametrize("module", [air, dair])
def test_rates_of_other_batches_are_those_of_the_config_times_the_root(module):
    config = json.loads(module.get_config().to_json())
    for changes in ablation.BATCHES.values():
        changed = ablation.change(config, changes)
        ratio = (changed["train"]["batch_size"] / config["train"]["batch_size"]) ** 0.5
        for name in ("learning_rate", "baseline_learning_rate"):
            found = changed["optimizer"][name]
            assert found == pytest.approx(ratio * config["optimizer"][name])


def test_a_key_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="no prior.begin"):
        ablation.change(tiny_config(), {"prior.begin": 0.1})


def test_every_change_is_run_and_named(tmp_path, monkeypatch):
    summary = {"summary": None}
    seen = {}

    def run(config, workdir, **options):
        seen[workdir] = config["prior"]["start"], options
        summary["summary"] = ablation.compare.reliability.reliability(
            {0: ablation.compare.reliability.SeedRun([], {"count_accuracy": 0.5})}
        )
        (tmp_path / workdir.rsplit("/", 1)[-1]).mkdir()
        (tmp_path / workdir.rsplit("/", 1)[-1] / "reliability.json").write_text(json.dumps(summary))

    monkeypatch.setattr(ablation.reliability, "run", run)
    changes = {"first": {}, "second": {"prior.start": 0.25}}
    table = ablation.run(tiny_config(), str(tmp_path), changes=changes, seeds=range(3))
    start = tiny_config()["prior"]["start"]
    assert seen == {
        str(tmp_path / "first"): (start, {"seeds": range(3)}),
        str(tmp_path / "second"): (0.25, {"seeds": range(3)}),
    }
    assert "| first |" in table and "| second |" in table
    assert (tmp_path / "table.md").read_text() == table


def test_an_unknown_change_is_refused_with_the_valid_ones(tmp_path, capsys):
    arguments = ["--config=configs/air.py", f"--workdir={tmp_path}", "--set=scenes"]
    with pytest.raises(SystemExit):
        ablation.main([*arguments, "--only", "smaller"])
    assert "unknown smaller; scenes has half_size" in capsys.readouterr().err
