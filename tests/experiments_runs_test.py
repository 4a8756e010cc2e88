"""Plans of many runs; what training them does is tested with the experiments that do."""

import json

import pytest

from air_jax.experiments import runs


def test_seeds_are_shared_out_over_programs(tmp_path):
    programs = runs.plan({"seed": 9, "model": "air"}, tmp_path, range(3, 8), seeds_per_program=2)
    assert [program.folder.name for program in programs] == ["seeds_3_4", "seeds_5_6", "seeds_7"]
    assert [program.config["seed"] for program in programs] == [3, 5, 7]
    assert [program.config["num_seeds"] for program in programs] == [2, 2, 1]
    assert programs[0].folder_of(4) == tmp_path / "seeds_3_4" / "seed_4"
    assert programs[2].folder_of(7) == tmp_path / "seeds_7"


def test_a_seed_that_was_frozen_is_finished_and_has_no_evaluation(tmp_path):
    (program,) = runs.plan({}, tmp_path, range(1))
    program.folder.mkdir()
    assert not program.finished and program.evaluation(0) is None
    file = program.folder / "evaluation.json"
    file.write_text(json.dumps({"not_finite_at": 3}))
    assert program.finished and program.evaluation(0) is None
    with pytest.raises(ValueError, match="seeds_0: this run diverged"):
        program.require_evaluation(0)
    file.write_text(json.dumps({"elbo": 2.0}))
    assert program.require_evaluation(0) == {"elbo": 2.0}


def test_a_finished_run_of_another_config_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(runs.loop, "run", lambda *_: pytest.fail("trained again"))
    config = {"data": {"tfds_dir": "here"}, "prior": {"end": 0.1}}
    (program,) = runs.plan(config, tmp_path, range(1))
    program.folder.mkdir()
    (program.folder / "evaluation.json").write_text("{}")
    (program.folder / "config.json").write_text(json.dumps(program.config))
    # Entries that configs have got since, and where the data lie, make no other run.
    added = {"inference": {"patch_size": 0}, "data": {"tfds_dir": "there"}}
    runs.train(runs.plan({**config, **added}, tmp_path, range(1)))
    with pytest.raises(ValueError, match="prior.end: 0.1 there, 0.2 given"):
        runs.train(runs.plan({**config, "prior": {"end": 0.2}}, tmp_path, range(1)))


def test_seeds_are_a_range_or_one():
    assert runs.seed_range("3:6") == range(3, 6)
    assert runs.seed_range("3") == range(3, 4)


@pytest.mark.parametrize(("seeds", "per_program"), [(range(0), 1), (range(2), 0)])
def test_nothing_to_run_is_refused(seeds, per_program, tmp_path):
    with pytest.raises(ValueError, match="at least one of each"):
        runs.plan({}, tmp_path, seeds, per_program)
    with pytest.raises(ValueError, match="at least one"):
        runs.train([], num_processes=0)
