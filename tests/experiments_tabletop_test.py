"""The comparison on crockery, in miniature, and what its table and figures say."""

import csv
import json

import numpy as np
import pytest

from air_jax import figures3d, tables
from air_jax.data.tabletop import create_tabletop
from air_jax.experiments import tabletop, tabletop_report
from air_jax.experiments.contenders3d import as_objects
from air_jax.inverse_graphics import Model3D
from air_jax.models.scene3d import create_scene3d
from configs import scene3d_table


def test_every_method_is_measured_and_written(tmp_path, monkeypatch):
    infer, refinements = Model3D.infer, []

    def infer_and_tell(self, images, **options):
        refinements.append((options.get("num_sweeps"), options.get("num_turns")))
        return infer(self, images, **options)

    monkeypatch.setattr(Model3D, "infer", infer_and_tell)
    config = "--config=configs/scene3d_table.py"
    tabletop.main([config, "--smoke", "--only", "each once", f"--workdir={tmp_path}"])
    written = json.loads((tmp_path / "tabletop.json").read_text())
    methods = ["DAIR", "DAIR, swept", "DAIR, swept and turned", "supervised, arbitrary"]
    methods += ["supervised, sorted", "supervised, slots", "the true scene"]
    assert {name: list(of_set) for name, of_set in written["summary"].items()} == {
        "each once": methods
    }
    for row in written["measurements"]:
        assert 0 <= row["count_accuracy"] <= 1 and row["reconstruction_error"] > 0
        if row["method"] == "the true scene":
            assert row["count_accuracy"] == row["identity_accuracy"] == 1
            assert row["position_error"] < 1e-4 and max(row["camera_error"]) < 1e-3
        else:
            assert row["seconds_per_image"] > 0
    assert refinements[-3:] == [(0, 1), (1, 1), (1, 24)]
    assert written["data"]["each once"]["repetition"] is False
    lines = list(csv.DictReader((tmp_path / "tabletop.csv").read_text().splitlines()))
    assert [(line["set"], line["method"]) for line in lines] == [
        ("each once", method) for method in methods
    ]
    text = (tmp_path / "table.md").read_text()
    assert all(f"| each once | {method} | 1 |" in text for method in methods)
    for name in ("bars", "each_once_scenes", "each_once_from_above", "each_once_policy"):
        assert (tmp_path / f"{name}.png").stat().st_size > 1000, name
    assert str(tmp_path) not in json.dumps(written["config"])


def test_counts_have_to_be_unknown(tmp_path):
    config = scene3d_table.get_config()
    config.inference.fixed_count = True
    with pytest.raises(ValueError, match="fixed_count"):
        tabletop.run(config.to_dict(), str(tmp_path), seeds=range(1))


def test_the_table_has_means_and_deviations():
    rows = [
        {
            "set": "each once",
            "method": "AIR",
            "seed": seed,
            "count_accuracy": value,
            "camera_error": [1.0, 0.5],
            "rotation": {"pan": {"median": 3.0}},
            "reconstruction_error": 4.0,
        }
        for seed, value in enumerate((0.98, 1.0))
    ]
    summary = tabletop_report.summarise(rows)
    assert summary["each once"]["AIR"]["count_accuracy"] == tables.spread([0.98, 1.0])
    assert summary["each once"]["AIR"]["cup_rotation"] is None
    text = tabletop_report.table({"summary": summary})
    assert "| each once | AIR | 2 | 99.00 ± 1.41 | - | - | 1.0 ± 0.0 | 0.5 ± 0.0 | - | 3.0" in text


def test_what_was_not_measured_has_no_bar():
    row = {"seed": 0, "camera_error": [1.0, 0.5], "count_accuracy": 0.9, "seconds_per_image": 1e-3}
    rows = [
        {**row, "set": of_set, "method": method, "reconstruction_error": error}
        for of_set, method, error in (("a", "x", 4.0), ("a", "y", 5.0), ("b", "x", 6.0))
    ]
    rows.append({**rows[0], "method": "the true scene", "seconds_per_image": None})
    figure = tabletop_report.bars(tabletop_report.summarise(rows))
    heights = [bar.get_height() for bar in figure.axes[1].patches]
    np.testing.assert_array_equal(heights, [4.0, 6.0, 5.0, np.nan])


@pytest.fixture(scope="module")
def scenes_and_found():
    config = scene3d_table.get_config().to_dict()
    sizes = {"num_train": 1, "num_validation": 1, "num_test": 20, "image_size": 8}
    scenes = create_tabletop(**{**config["data"], **sizes}).test
    scene = create_scene3d(config["scene"], image_size=8, channels=3)
    found = as_objects(
        scene, identities=scenes.identities, poses=scenes.poses, cameras=scenes.cameras
    )
    return scenes, found, scene.view


def test_true_and_found_scenes_lie_over_each_other(scenes_and_found):
    scenes, found, view = scenes_and_found
    figure = figures3d.from_above(scenes, found, view, num_scenes=4)
    panels = [axes for axes in figure.axes if axes.get_aspect() == 1]
    assert len(panels) == 4
    for axes in panels:
        places = [line.get_xydata() for line in axes.lines if len(line.get_xydata()) == 1]
        # Three true objects and their camera, and the same again: here both are the same.
        assert len(places) == 8
        np.testing.assert_allclose(places[:4], places[4:])
    with pytest.raises(ValueError, match="no scene"):
        figures3d.from_above(scenes, found, view, num_scenes=0)


def test_the_policy_shows_every_step_and_identity(scenes_and_found):
    scenes, found, view = scenes_and_found
    figure = figures3d.policy(found, view)
    maps, bars = figure.axes[::2], figure.axes[1::2]
    assert len(maps) == len(bars) == 3
    for step, (above, below) in enumerate(zip(maps, bars, strict=True)):
        used = scenes.counts > step
        assert above.get_title().endswith(f"{used.sum()} objects")
        assert above.collections[0].get_array().sum() == used.sum()
        shares = [bar.get_height() for bar in below.patches]
        here = np.bincount(scenes.identities[used, step], minlength=4) / used.sum()
        np.testing.assert_allclose(shares, 100 * here)
