"""Whole runs of several seeds in one program: each is a run of its own."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import air_jax
from air_jax import export, loop, writer
from air_jax.interruption import Interrupted
from tests.loop_test import terminated_at_validation, tiny_config, without_time


@pytest.fixture(scope="module")
def two_seeds(tmp_path_factory):
    """A finished run of two seeds in one program, 3 and 4."""
    workdir = tmp_path_factory.mktemp("two")
    results = loop.run(tiny_config(estimator="nvil", seed=3, num_seeds=2), str(workdir))
    return workdir, results


def test_each_of_several_seeds_is_the_run_that_it_would_be_alone(two_seeds, tmp_path):
    workdir, results = two_seeds
    (alone,) = loop.run(tiny_config(estimator="nvil", seed=4), str(tmp_path))
    assert [result["seed"] for result in results] == [3, 4]
    assert results[1]["elbo"] == pytest.approx(alone["elbo"], rel=1e-3)
    assert results[0]["elbo"] != pytest.approx(alone["elbo"], rel=1e-3)
    for split in ("train", "validation"):
        together = without_time(writer.read_scalars(workdir / "seed_4", split))
        single = without_time(writer.read_scalars(tmp_path, split))
        assert len(together) == len(single) > 1
        for one, other in zip(together, single, strict=True):
            assert one.pop("split") == other.pop("split") == split
            assert one == pytest.approx(other, rel=1e-3, abs=1e-2)


def test_each_of_several_seeds_leaves_a_model_like_any_other(two_seeds):
    workdir, results = two_seeds
    images = np.zeros((2, 32, 32, 1), np.float32)
    counts = []
    for seed in (3, 4):
        model = air_jax.load(workdir / f"seed_{seed}")
        assert model.config["seed"] == seed
        counts.append(model.infer(images).count_probs)
        written = json.loads((workdir / f"seed_{seed}" / "evaluation.json").read_text())
        assert written["count_accuracy"] == results[seed - 3]["count_accuracy"]
        assert (workdir / f"seed_{seed}" / "figures" / "timeline.png").exists()
    assert np.abs(counts[0] - counts[1]).max() > 1e-4
    again = loop.evaluate_run(tiny_config(estimator="nvil", seed=3, num_seeds=2), str(workdir))
    assert [result["seed"] for result in again] == [3, 4]


def test_snapshots_are_the_models_of_their_steps(tmp_path):
    config = {"num_seeds": 2, "train__snapshot_every": 20, "train__num_steps": 40}
    loop.run(tiny_config(**config), str(tmp_path))
    for seed in ("seed_0", "seed_1"):
        folder = tmp_path / seed / "snapshots"
        assert sorted(path.name for path in folder.iterdir()) == ["step_000020", "step_000040"]
        early, late = (export.load_model(path) for path in sorted(folder.iterdir()))
        assert (early[1]["step"], late[1]["step"]) == (20, 40)
        chex.assert_trees_all_equal(late[0], export.load_model(tmp_path / seed)[0])
        with pytest.raises(AssertionError):
            chex.assert_trees_all_equal(early[0], late[0])


def test_several_seeds_resume_together_from_one_checkpoint(two_seeds, tmp_path):
    reference, expected = two_seeds
    config = tiny_config(estimator="nvil", seed=3, num_seeds=2, train__checkpoint_every=40)
    with terminated_at_validation(), pytest.raises(Interrupted, match="at step 20"):
        loop.run(config, str(tmp_path))
    results = loop.run(config, str(tmp_path))
    for seed, result, other in zip((3, 4), results, expected, strict=True):
        assert result["elbo"] == other["elbo"]
        folder = f"seed_{seed}"
        assert without_time(writer.read_scalars(tmp_path / folder)) == without_time(
            writer.read_scalars(reference / folder)
        )


def test_of_several_seeds_one_that_diverges_is_frozen_and_the_others_go_on(
    two_seeds, tmp_path, monkeypatch
):
    _, expected = two_seeds
    create = loop.kinds.create_training

    def diverging(config, **options):
        training = create(config, **options)

        def train_step(state, images, keys):
            return training.train_step(state, images, keys)

        def init(key):
            state = training.init(key)
            # The first weight of the seed 4 is not a number.
            bad = jnp.all(jax.random.key_data(key) == jax.random.key_data(bad_key))
            params = jax.tree.map(lambda leaf: jnp.where(bad, jnp.nan, leaf), state.params)
            return state.replace(params=params)

        return training._replace(train_step=train_step, init=init)

    bad_key = jax.random.split(jax.random.key(4), 3)[0]
    monkeypatch.setattr(loop.kinds, "create_training", diverging)
    results = loop.run(tiny_config(estimator="nvil", seed=3, num_seeds=2), str(tmp_path))
    assert [result.get("not_finite_at") for result in results] == [None, 0]
    assert [result["step"] for result in results] == [40, 0]
    assert results[0]["elbo"] == pytest.approx(expected[0]["elbo"], rel=1e-4)
