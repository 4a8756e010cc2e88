"""What compositions do to objects that overlap, on runs of a few steps."""

import csv
import json

import numpy as np
import pytest

from air_jax.data.dataset import create_dataset
from air_jax.experiments import compare, occlusion, occlusion_report, runs
from air_jax.kinds import load_air


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The command with --smoke: its workdir and arguments."""
    workdir = tmp_path_factory.mktemp("occlusion")
    arguments = ["--config=configs/sprites.py", f"--workdir={workdir}", "--smoke"]
    arguments += ["--config.data.cache_dir=", "--config.data.image_size=30"]
    arguments += ["--config.data.sprite_size=(8, 14)", "--config.scene.window_size=12"]
    arguments += ["--config.inference.num_steps=3", "--config.inference.evidence=4"]
    arguments += ["--config.inference.encoder_hidden=(9,)", "--config.scene.decoder_hidden=(9,)"]
    # Otherwise none would have learned to use a step, and no object would be drawn.
    arguments += ["--config.inference.presence_logit=5.0", "--config.prior.start=0.5"]
    occlusion.main(arguments)
    return workdir, arguments


def test_every_composition_is_measured_by_overlap_and_drawn(finished):
    workdir, _ = finished
    results = json.loads((workdir / "occlusion.json").read_text())
    rows = results["measurements"]
    for composition in ("additive", "layered"):
        those = [row for row in rows if (row["composition"], row["seed"]) == (composition, 0)]
        assert those[0]["overlap"] == occlusion_report.ALL
        # Scenes of two or three sprites, a half of all.
        assert sum(row["num_images"] for row in those[1:]) == those[0]["num_images"] / 2
        file = workdir / composition / "seeds_0" / "evaluation.json"
        evaluation = json.loads(file.read_text())
        assert those[0]["count_accuracy"] == evaluation["count_accuracy"]
        for row in those[1:]:
            part = evaluation["by_overlap"][row["overlap"]]
            assert row["average_precision_50"] == part["average_precision_50"]
    with open(workdir / "occlusion.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(rows)
    assert (workdir / "table.md").read_text() == compare.table([workdir])
    for name in ("overlap", "objects"):
        assert (workdir / f"{name}.png").stat().st_size > 1000


def test_models_differ_in_composition_and_first_bias_alone(finished):
    workdir, _ = finished
    configs = [
        json.loads((workdir / name / "seeds_0" / "config.json").read_text())
        for name in ("additive", "layered")
    ]
    scenes = [config.pop("scene") for config in configs]
    assert configs[0] == configs[1]
    assert [scene.pop("composition") for scene in scenes] == ["additive", "layered"]
    assert [scene.pop("decoder_bias") for scene in scenes] == [-2.0, -0.7]
    assert scenes[0] == scenes[1]


def test_objects_of_a_sum_add_up_to_the_reconstruction(finished):
    workdir, _ = finished
    model = load_air(workdir / "additive" / "seeds_0")
    images = create_dataset(**model.config["data"]).test.images[:4]
    found, trace = model.infer(images), model.trace(images)
    is_object = np.arange(model.air.num_steps) < found.counts[:, None]
    assert is_object.any()
    total = (trace.objects * is_object[..., None, None, None]).sum(1)
    np.testing.assert_allclose(total, found.reconstructions, atol=1e-5)


def test_scenes_with_much_overlap_are_shown(finished):
    workdir, _ = finished
    config = json.loads((workdir / "occlusion.json").read_text())["config"]
    scenes = create_dataset(**config["data"]).test
    shown = occlusion.much_hidden(scenes)
    places = [np.flatnonzero((scenes.images == image).all((1, 2, 3)))[0] for image in shown]
    # Of those with 0.4 and more none is better than another; where they are few, the next follow.
    hidden = np.minimum(scenes.hidden.max(-1), 0.4)
    np.testing.assert_array_equal(np.sort(hidden[places]), np.sort(hidden)[-9:])


def test_finished_runs_are_reported_whichever_composition_is_asked_for(finished, monkeypatch):
    workdir, arguments = finished
    before = json.loads((workdir / "occlusion.json").read_text())

    def train_again(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(runs.loop, "run", train_again)
    occlusion.main([*arguments, "--only=layered"])
    assert json.loads((workdir / "occlusion.json").read_text())["summary"] == before["summary"]


def test_a_mean_is_over_the_seeds_that_have_the_measure():
    def row(accuracy, iou):
        measures = {"count_accuracy": accuracy, "average_precision_50": 0.5, "mean_iou": iou}
        place = {"composition": "additive", "overlap": "none", "num_images": 7}
        return {**place, **measures, "elbo": None}

    part = occlusion_report.summarise([row(0.5, 0.8), row(1.0, None)])["additive"]["none"]
    assert part["num_images"] == 7
    assert part["count_accuracy"] == {"mean": 0.75, "sd": pytest.approx(0.125**0.5), "num": 2}
    assert part["mean_iou"] == {"mean": 0.8, "sd": None, "num": 1}
    assert part["elbo"] is None


def test_scenes_without_overlap_are_refused(tmp_path, caplog):
    arguments = ["--config=configs/smoke.py", f"--workdir={tmp_path}", "--smoke"]
    with pytest.raises(SystemExit) as stopped:
        occlusion.main([*arguments, "--config.data.cache_dir="])
    assert stopped.value.code == 1
    assert "no objects of its test scenes overlap" in caplog.text
    assert not (tmp_path / "additive").exists()
