"""What parsing is worth, on runs of a few steps and a made-up Omniglot."""

import csv
import json

import numpy as np
import pytest

from air_jax import sections
from air_jax.data.dataset import create_dataset
from air_jax.experiments import parsing, parsing_report, runs
from air_jax.kinds import load_air
from configs import omniglot
from tests import fake_tfds

MODELS = ("steps_2", "steps_1", "one_window")


def shipped():
    return json.loads(omniglot.get_config().to_json())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The command with --smoke: its workdir and arguments."""
    data_dir = tmp_path_factory.mktemp("tensorflow_datasets")
    fake_tfds.write_omniglot(data_dir)
    workdir = tmp_path_factory.mktemp("parsing")
    arguments = ["--config=configs/omniglot.py", f"--workdir={workdir}", "--smoke"]
    arguments += [f"--config.data.tfds_dir={data_dir}", "--config.data.image_size=32"]
    # Otherwise none would have learned to use a step, and all would be empty canvases.
    arguments += ["--config.inference.presence_logit=5.0", "--config.prior.start=0.5"]
    parsing.main(arguments)
    return workdir, arguments


def test_every_model_is_measured_on_both_sets_and_drawn(finished):
    workdir, _ = finished
    results = json.loads((workdir / "parsing.json").read_text())
    rows = results["measurements"]
    expected = [(name, 0, split) for name in MODELS for split in ("validation", "test")]
    assert [(row["model"], row["seed"], row["set"]) for row in rows] == expected
    for row in rows:
        assert np.isfinite([row["elbo"], row["squared_error"], row["log_p_x"]]).all()
        assert sum(row["images_per_num_steps"]) == row["num_images"]
        assert len(row["images_per_num_steps"]) == 1 + (2 if row["model"] == "steps_2" else 1)
        assert (row["iwae"] is None) == (row["set"] == "validation")
    with open(workdir / "parsing.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["elbo"]) for line in lines] == [row["elbo"] for row in rows]
    assert results["data"]["alphabets"]["test"] == ["Tagalog"]
    assert (workdir / "table.md").read_text().count("\n") == 2 + len(rows)
    for name in ("step_by_step", "reconstructions"):
        assert (workdir / f"{name}.png").stat().st_size > 1000


def test_errors_and_steps_are_those_of_the_model_that_was_kept(finished):
    workdir, _ = finished
    results = json.loads((workdir / "parsing.json").read_text())
    scenes = create_dataset(**{**results["config"]["data"]}).test
    row = next(row for row in results["measurements"] if row["set"] == "test")
    found = load_air(workdir / "steps_2" / "seeds_0").infer(scenes.images)
    errors = [
        np.mean((reconstruction - image / 255.0) ** 2)
        for reconstruction, image in zip(found.reconstructions, scenes.images, strict=True)
    ]
    assert row["squared_error"] == pytest.approx(np.mean(errors), rel=1e-4)
    empty = np.mean((scenes.images / 255.0) ** 2)
    assert row["share_of_error"] == pytest.approx(np.mean(errors) / empty, rel=1e-4)
    assert row["share_of_error"] != 1
    assert row["num_steps"] == pytest.approx(found.counts.mean())
    assert row["num_steps"] > 1


def test_finished_runs_are_not_trained_again_and_other_configs_are_refused(finished, monkeypatch):
    workdir, arguments = finished
    before = json.loads((workdir / "parsing.json").read_text())

    def train_again(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(runs.loop, "run", train_again)
    parsing.main(arguments)
    after = json.loads((workdir / "parsing.json").read_text())
    assert after["summary"] == before["summary"]
    changed = parsing.ablation.change(before["config"], {"prior.end": 0.2})
    with pytest.raises(ValueError, match=r"begun with another config.*\n.*prior.end"):
        parsing.run(changed, str(workdir), seeds=range(1))


def test_models_differ_in_their_steps_and_the_single_window_is_no_weaker():
    config = shipped()
    variants = parsing.variants(config)
    assert list(variants) == ["steps_4", "steps_1", "one_window"]
    for variant in variants.values():
        sections.check(variant)
    assert variants["steps_4"] == config
    one = variants["steps_1"]
    assert one["inference"].pop("num_steps") == 1
    assert one == {**config, "inference": one["inference"]}
    whole = variants["one_window"]
    assert whole["scene"]["z_what_size"] == 4 * config["scene"]["z_what_size"]
    assert whole["scene"]["window_size"] == config["data"]["image_size"]
    # The window holds a glyph of 42 of 50 pixels, less what its scale varies.
    assert 1 / whole["scene"]["scale_prior"][0] == pytest.approx(42 / 50, abs=0.01)


def test_what_would_compare_nothing_is_refused(tmp_path):
    config = shipped()
    single = parsing.ablation.change(config, {"inference.num_steps": 1})
    with pytest.raises(ValueError, match="num_steps is 1; it must be at least 2"):
        parsing.run(single, str(tmp_path), seeds=range(1))
    with pytest.raises(ValueError, match="at least one"):
        parsing.run(config, str(tmp_path), seeds=range(0))
    assert not any(tmp_path.iterdir())


def test_without_data_the_command_says_how_to_prepare_them(tmp_path, monkeypatch, caplog):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    workdir, data_dir = tmp_path / "workdir", tmp_path / "data"
    arguments = ["--config=configs/omniglot.py", f"--workdir={workdir}", "--smoke"]
    with pytest.raises(SystemExit) as exit:
        parsing.main([*arguments, f"--config.data.tfds_dir={data_dir}"])
    assert exit.value.code == 1
    assert f"--file_format=array_record --data_dir={data_dir}" in caplog.text
    assert not workdir.exists()


def test_worth_is_the_difference_of_bounds_and_the_ratio_of_errors():
    numbers = {  # ELBO and error of two seeds
        "steps_4": ((100.0, 0.01), (104.0, 0.03)),
        "steps_1": ((80.0, 0.04), (82.0, 0.06)),
        "one_window": ((101.0, 0.02), (101.0, 0.02)),
    }
    rows = [
        {
            **{"model": name, "seed": seed, "set": split, "elbo": elbo, "squared_error": error},
            **{"iwae": None if split == "validation" else elbo + 1, "num_steps": 2.5},
            "share_of_error": 0.5,
        }
        for name, seeds in numbers.items()
        for seed, (elbo, error) in enumerate(seeds)
        for split in ("validation", "test")
    ]
    summary = parsing_report.summarise(rows)
    elbo = summary["steps_4"]["test"]["elbo"]
    assert elbo == {"mean": 102.0, "sd": pytest.approx(8**0.5), "num": 2}
    assert summary["steps_4"]["validation"]["iwae"] is None
    worth = parsing_report.worth(summary)
    assert worth.keys() == {"steps_1", "one_window"}
    assert worth["steps_1"]["test"] == pytest.approx(
        {"elbo_gained": 21.0, "squared_error_ratio": 0.4}
    )
    assert worth["one_window"]["test"] == pytest.approx(
        {"elbo_gained": 1.0, "squared_error_ratio": 1.0}
    )
    table = parsing_report.table({"summary": summary})
    assert "| steps_4 | test | 2 | 102.0 ± 2.8 | 103.0 ± 2.8 | 0.02000 ± 0.01414 |" in table
    assert "| steps_4 | validation | 2 | 102.0 ± 2.8 | - |" in table
