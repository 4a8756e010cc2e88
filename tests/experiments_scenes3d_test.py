"""The comparison on scenes of one solid, in miniature, and what its table says."""

import csv
import json

import numpy as np
import pytest

from air_jax import pose_search, tables
from air_jax.experiments import contenders3d, scenes3d, scenes3d_report


def test_every_method_is_measured_and_written(tmp_path, monkeypatch):
    # Two validations, after 10 steps and 20, of identities by chance.
    monkeypatch.setitem(contenders3d.SMOKE, "train.evaluate_every", 10)
    monkeypatch.setattr(scenes3d_report, "KNOWN", 0.0)
    config = "--config=configs/scene3d_object.py"
    scenes3d.main([config, "--smoke", "--only", "AIR", f"--workdir={tmp_path}"])
    written = json.loads((tmp_path / "scenes3d.json").read_text())
    methods = ["AIR", "supervised, raw", "supervised, folded", "optimisation", "the true scene"]
    assert list(written["summary"]) == methods
    for row in written["measurements"]:
        assert 0 <= row["identity_accuracy"] <= 1 and row["reconstruction_error"] > 0
        assert row["method"] == methods[-1] or row["seconds_per_image"] > 0
        assert row.get("steps_to_identities") == (10 if row["method"] == "AIR" else None)
    curve = written["search"]["curve"]
    assert [point["iterations"] for point in curve] == [2, 4]
    lines = list(csv.DictReader((tmp_path / "scenes3d.csv").read_text().splitlines()))
    assert [line["method"] for line in lines] == methods
    text = (tmp_path / "table.md").read_text()
    assert all(f"| {name} | 1 |" in text for name in methods)
    assert (tmp_path / "scenes3d.png").stat().st_size > 1000
    assert str(tmp_path) not in json.dumps(written["config"])


def found(iterations, seconds, error):
    zeros = np.zeros(4)
    return pose_search.Found(iterations, seconds, zeros + error, zeros.astype(int), zeros)


def test_the_times_at_equal_error_are_compared():
    air = [{"method": "AIR", "reconstruction_error_few": 5.0, "seconds_per_image": 0.001}]
    search = [found(10, 2.0, 9.0), found(20, 4.0, 5.0), found(30, 6.0, 4.0)]
    told = scenes3d_report.against_time(search, air)
    assert [point["seconds_per_image"] for point in told["curve"]] == [0.5, 1.0, 1.5]
    assert told["equal_error"]["search_seconds_per_image"] == 1.0
    assert told["equal_error"]["times_faster"] == pytest.approx(1000)
    never = scenes3d_report.against_time(search[:1], air)["equal_error"]
    assert never["search_seconds_per_image"] is None and never["times_faster"] is None


def test_the_table_has_means_and_deviations():
    rotation = {"cube": {"median": 2.0, "raw_median": 90.0}}
    row = {"method": "AIR", "rotation": rotation, "reconstruction_error_per_model": {"cube": 3.0}}
    rows = [
        {**row, "seed": seed, "identity_accuracy": value, "reconstruction_error": 4.0}
        for seed, value in enumerate((0.98, 1.0))
    ]
    rows[1]["steps_to_identities"] = 400
    summary = scenes3d_report.summarise(rows)
    assert summary["AIR"]["identity_accuracy"] == tables.spread([0.98, 1.0])
    assert summary["AIR"]["cylinder_rotation"] is None
    text = scenes3d_report.table({"summary": summary})
    assert (
        "| AIR | 2 | 400 (1 of 2) | 99.00 ± 1.41 | - | 2.0 ± 0.0 | 90.0 ± 0.0 | - | 4.00 ± 0.00 |"
        in text
    )
