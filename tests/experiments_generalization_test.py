"""Scenes with a count that training did not have, on runs of a few steps."""

import json
import pathlib

import jax
import numpy as np
import pytest

from air_jax import export, loop
from air_jax.experiments import generalization
from air_jax.kinds import load
from tests.loop_test import tiny_config


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """Seeds 5 and 6, trained on single digits, as `reliability` leaves them."""
    workdir = tmp_path_factory.mktemp("experiments") / "tiny"
    loop.run(tiny_config(seed=5, data__counts=(1,)), str(workdir / "seeds_5"))
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
        counts = generalization.with_steps(model, 4).infer(scenes.images).counts
        assert measured["unseen_with_num_steps"]["count_accuracy"] == np.mean(counts == 0)
        seen = generalization.scenes_with(model.config, [1], 20)
        counts = model.infer(seen.images).counts
        assert measured["seen"]["count_accuracy"] == np.mean(counts == seen.counts)
    accuracies = [seeds[seed]["unseen_with_num_steps"]["elbo"] for seed in seeds]
    summary = results["experiments"]["tiny"]["summary"]["unseen_with_num_steps"]["elbo"]
    assert summary["mean"] == pytest.approx(np.mean(accuracies))
    assert summary["sd"] == pytest.approx(np.std(accuracies, ddof=1))
    assert "| tiny | 2 | 1 |" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "reconstructions.png").stat().st_size > 1000


def test_more_steps_leave_the_first_ones_as_they_were(experiment):
    model = load(experiment / "seeds_5")
    longer = generalization.with_steps(model, 5)
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
