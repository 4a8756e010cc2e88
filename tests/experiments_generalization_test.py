"""Scenes with a count that training did not have, on runs of a few steps."""

import csv
import json
import pathlib

import jax
import numpy as np
import pytest

from air_jax import export, loop
from air_jax.experiments import generalization, generalization_report
from air_jax.kinds import load, with_steps
from air_jax.models.spatial_transformer import window_box
from tests.loop_test import tiny_config


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """Seeds 5 and 6, trained on single digits, as `reliability` leaves them."""
    workdir = tmp_path_factory.mktemp("experiments") / "tiny"
    loop.run(
        tiny_config(seed=5, data__counts=(1,), train__snapshot_every=20), str(workdir / "seeds_5")
    )
    # Another run need not be trained: other parameters will do.
    params, config = export.load_model(workdir / "seeds_5")
    params = jax.tree.map(lambda leaf: 1.5 * leaf, params)
    export.export_model(workdir / "seeds_6" / "model", params, {**config, "seed": 6})
    return workdir


def test_every_seed_is_measured_with_and_without_more_steps(experiment, tmp_path):
    results = generalization.run([experiment], str(tmp_path), unseen=0, num_steps=4, num_images=20)
    written = json.loads((tmp_path / "generalization.json").read_text())
    assert written["experiments"].keys() == {"tiny"}
    seeds = written["experiments"]["tiny"]["seeds"]
    assert seeds.keys() == {"5", "6"}
    for seed, measured in seeds.items():
        model = load(experiment / f"seeds_{seed}")
        scenes = generalization.scenes_with(model.config, [0], 20)
        np.testing.assert_array_equal(scenes.counts, 0)
        counts = with_steps(model, 4).infer(scenes.images).counts
        assert measured["unseen_with_num_steps"]["count_accuracy"] == np.mean(counts == 0)
        seen = generalization.scenes_with(model.config, [1], 20)
        counts = model.infer(seen.images).counts
        assert measured["seen"]["count_accuracy"] == np.mean(counts == seen.counts)
    accuracies = [seeds[seed]["unseen_with_num_steps"]["elbo"] for seed in seeds]
    summary = results["experiments"]["tiny"]["summary"]["unseen_with_num_steps"]["elbo"]
    assert summary["mean"] == pytest.approx(np.mean(accuracies))
    assert summary["sd"] == pytest.approx(np.std(accuracies, ddof=1))
    # Without digits nothing is left out; an empty reconstruction leaves out every digit.
    assert seeds["5"]["unseen_with_num_steps"]["num_left_out"][0] == 20
    assert sum(seeds["5"]["seen"]["num_left_out"]) == 20
    assert 0 <= seeds["5"]["seen"]["objects_left_out"] <= 1
    # Only seed 5 kept models, the last of which is its model.
    assert seeds["6"]["curve"] == []
    early, last = seeds["5"]["curve"]
    assert (early["step"], last["step"]) == (20, 40)
    assert last["unseen_with_num_steps"] == seeds["5"]["unseen_with_num_steps"]
    assert early["unseen_with_num_steps"]["elbo"] != last["unseen_with_num_steps"]["elbo"]
    assert (tmp_path / "curves.png").stat().st_size > 1000
    effort = written["experiments"]["tiny"]["effort"]
    assert effort["num_steps"] == 2
    assert min(effort["seconds_per_image"], effort["flops_per_image"]) > 0
    with open(tmp_path / "generalization.csv") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * 3 + 2 * 2
    (line,) = (
        line for line in lines if (line["seed"], line["scenes"]) == ("6", "unseen_with_num_steps")
    )
    assert float(line["elbo"]) == seeds["6"]["unseen_with_num_steps"]["elbo"]
    assert "| tiny | 2 | 1 |" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "reconstructions.png").stat().st_size > 1000


def test_more_steps_leave_the_first_ones_as_they_were(experiment):
    model = load(experiment / "seeds_5")
    longer = with_steps(model, 5)
    images = generalization.scenes_with(model.config, [1], 8).images
    few, many = model.infer(images), longer.infer(images)
    assert many.presence.shape == (8, 5)
    np.testing.assert_allclose(many.presence[:, :2], few.presence, rtol=1e-5)
    np.testing.assert_allclose(many.z_where[:, :2], few.z_where, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("unseen", "num_steps", "message"),
    [(1, 4, "1 is not unseen"), (3, 3, "at least 4, or a network that never stops")],
)
def test_what_would_prove_nothing_is_refused(experiment, tmp_path, unseen, num_steps, message):
    with pytest.raises(ValueError, match=message):
        generalization.run(
            [experiment], str(tmp_path), unseen=unseen, num_steps=num_steps, num_images=8
        )
    assert not any(tmp_path.iterdir())


def test_a_folder_without_models_is_named(tmp_path):
    with pytest.raises(ValueError, match="holds no trained model"):
        generalization.find_models(tmp_path)


def test_seeds_come_in_the_order_of_their_numbers(tmp_path):
    for name in ("seeds_9", "seeds_10", "seeds_100"):
        export.export_model(tmp_path / name / "model", {"a": np.zeros(1, np.float32)}, {})
    names = [folder.name for folder in generalization.find_models(pathlib.Path(tmp_path))]
    assert names == ["seeds_9", "seeds_10", "seeds_100"]


def test_the_smoke_form_measures_all_three_models(tmp_path):
    generalization.main(["--smoke", f"--workdir={tmp_path}"])
    written = json.loads((tmp_path / "generalization.json").read_text())
    assert written["experiments"].keys() == {"air", "dair", "draw"}
    for name, result in written["experiments"].items():
        assert result["seeds"].keys() == {"0", "1"}
        for seed in result["seeds"].values():
            assert [entry["step"] for entry in seed["curve"]] == [2, 4]
            accuracy = seed["unseen_with_num_steps"]["count_accuracy"]
            assert (accuracy is None) == (name == "draw")
            assert sum(seed["unseen_with_num_steps"]["num_left_out"]) == 8
    assert (tmp_path / "curves.png").stat().st_size > 1000


@pytest.mark.parametrize("argv", [["--workdir=x"], ["runs/air", "--smoke", "--workdir=x"]])
def test_experiments_or_smoke_are_given(argv):
    with pytest.raises(SystemExit):
        generalization.main(argv)


def test_windows_of_draw_are_drawn_where_they_are():
    boxes = np.array([[10.0, 20.0, 30.0, 40.0], [-5.0, 0.0, 55.0, 60.0]])
    z_where = generalization_report._as_z_where(boxes, 50)
    np.testing.assert_allclose(window_box(z_where, 50), boxes, rtol=1e-5, atol=1e-4)
