"""AIR on pictures of another engine, in miniature, and what the table says."""

import csv
import json

import numpy as np
import pytest

from air_jax import tables
from air_jax.experiments import realism, realism_report
from air_jax.experiments.contenders3d import scene_model
from air_jax.kinds import create_dataset
from air_jax.render.mujoco import MujocoRenderer, RendererError
from air_jax.render.scene import CROCKERY, ORNATE_CROCKERY, View
from configs import scene3d_table


@pytest.fixture(scope="module")
def can_draw():
    try:
        MujocoRenderer(View(CROCKERY, 8, supersampling=1), num_workers=1).close()
    except (ImportError, RendererError) as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("can_draw")
def test_every_kind_of_pictures_is_measured_and_written(tmp_path):
    config = "--config=configs/scene3d_table.py"
    realism.main([config, "--smoke", "--only", "perturbed", f"--workdir={tmp_path}"])
    written = json.loads((tmp_path / "realism.json").read_text())
    assert list(written["summary"]) == list(realism.KINDS)
    for ways in written["summary"].values():
        assert list(ways) == ["perturbed"]
        assert 0 <= ways["perturbed"]["count_accuracy"]["mean"] <= 1
    trained = json.loads((tmp_path / "perturbed" / "seeds_0" / "config.json").read_text())
    assert trained["data"]["perturbation"] == realism.PERTURBATION
    assert written["data"]["perturbed"]["perturbation"] == realism.PERTURBATION
    assert "perturbation" not in written["data"]["as rendered"]
    lines = list(csv.DictReader((tmp_path / "realism.csv").read_text().splitlines()))
    assert len(lines) == 4
    assert "| MuJoCo | perturbed | 1 |" in (tmp_path / "table.md").read_text()
    for name in ("ray_caster", "mujoco", "mujoco_shadows_and_gloss", "mujoco_other_crockery"):
        assert (tmp_path / f"{name}.png").stat().st_size > 1000


@pytest.mark.usefixtures("can_draw")
def test_pictures_are_of_the_same_scenes_and_each_kind_is_farther_off():
    config = scene3d_table.get_config().to_dict()
    config["data"] |= {"num_train": 1, "num_validation": 1, "num_test": 16}
    test = create_dataset(config).test
    view = scene_model(config, test).view._replace(supersampling=2)
    images = [realism._draw(test, view, kind) for kind in realism.KINDS.values()]
    np.testing.assert_array_equal(images[0], test.images)
    off = [np.sqrt(np.square((one / 255.0) - test.images / 255.0).mean()) for one in images]
    assert 0 < off[1] < 0.03 < off[2] < off[3] < 0.2


def test_ornate_crockery_is_the_same_crockery():
    assert [model.name for model in ORNATE_CROCKERY] == [model.name for model in CROCKERY]
    for ornate, plain in zip(ORNATE_CROCKERY, CROCKERY, strict=True):
        assert ornate.parts != plain.parts


def test_other_catalogues_are_refused(tmp_path):
    config = scene3d_table.get_config()
    config.data.catalogue = config.scene.catalogue = "solids"
    with pytest.raises(ValueError, match="of 'crockery'"):
        realism.run(config.to_dict(), str(tmp_path), seeds=range(1))


def test_the_table_has_means_and_deviations():
    row = {"pictures": "MuJoCo", "trained": "perturbed", "camera_error": [1.0, 0.5]}
    rows = [
        {**row, "seed": seed, "count_accuracy": value} for seed, value in enumerate((0.98, 1.0))
    ]
    summary = realism_report.summarise(rows)
    assert summary["MuJoCo"]["perturbed"]["count_accuracy"] == tables.spread([0.98, 1.0])
    text = realism_report.table({"summary": summary})
    assert "| MuJoCo | perturbed | 2 | 99.0 ± 1.4 | - | - | 1.0 ± 0.0 | 0.5 ± 0.0 |" in text
