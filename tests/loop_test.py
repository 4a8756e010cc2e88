"""Whole runs, small: interruption, resuming, refusals, divergence, what is left in the workdir."""

import contextlib
import functools
import json
import os
import pathlib
import shutil
import signal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from air_jax import checkpoint, export, kinds, loop, sections, train, writer
from air_jax.interruption import Interrupted
from air_jax.monitor import Monitor, NonFiniteError
from configs import smoke


def tiny_config(**changes):
    """The smoke config, smaller still; `changes` are "section.key" overrides."""
    config = smoke.get_config()
    config.data.num_train = 64
    config.data.num_validation = 16
    config.data.num_test = 24
    config.train.update(
        batch_size=8,
        num_steps=40,
        steps_per_call=10,
        log_every=10,
        evaluate_every=20,
        checkpoint_every=20,
        validation_images=16,
    )
    config.evaluation.update(iwae_images=8, iwae_samples=5)
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return json.loads(config.to_json())


def without_time(entries):
    timed = ("steps_per_second", "seconds")
    return [
        {name: value for name, value in entry.items() if name not in timed} for entry in entries
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run with nvil, and the state it ended with."""
    workdir = tmp_path_factory.mktemp("finished")
    saved = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.checkpoint, "save", recording(saved))
        (results,) = loop.run(tiny_config(estimator="nvil"), str(workdir))
    return workdir, results, saved


def recording(saved):
    """`checkpoint.save` that also keeps the state by step."""
    save = checkpoint.save

    def wrapped(directory, step, tree, **options):
        saved[step] = jax.device_get(tree)
        return save(directory, step, tree, **options)

    return wrapped


@contextlib.contextmanager
def terminated_at_validation():
    """A run inside gets SIGTERM as it validates."""
    validate = Monitor.validate

    def validate_and_terminate(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return validate(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Monitor, "validate", validate_and_terminate)
        yield


def test_a_run_leaves_everything_it_promises(finished):
    workdir, results, _ = finished
    written = json.loads((workdir / "evaluation.json").read_text())
    for key in (
        *("count_accuracy", "elbo", "average_precision_50", "mean_iou", "step"),
        *("count_accuracy_per_count", "confusion_matrix", "iwae_5"),
    ):
        assert key in written
    assert written["step"] == results["step"] == 40
    assert written["num_images"] == 24
    for name in ("timeline", "count_accuracy", "elbo", "scan_policy", "confusion"):
        assert (workdir / "figures" / f"{name}.png").stat().st_size > 1000
    (start,) = json.loads((workdir / "run.json").read_text())
    assert start["data"]["source"] == "embedded"
    assert start["packages"].keys() >= {"jax", "flax", "optax", "distrax"}
    assert list((workdir / "tensorboard").iterdir())
    entry = writer.read_scalars(workdir, "train")[-1]
    assert entry.keys() >= {
        *("loss", "elbo", "log_p_x", "kl_where", "kl_what", "log_p_pres", "log_q_pres"),
        *("baseline_loss", "gradient_norm_model", "gradient_norm_baseline", "steps_per_second"),
    }
    assert "count_accuracy" in writer.read_scalars(workdir, "validation")[-1]


def test_an_interrupted_run_resumes_bit_for_bit(finished, tmp_path, monkeypatch):
    reference, _, uninterrupted = finished
    # No checkpoint is due before the end: the one at step 20 is the signal's.
    config, resumed = tiny_config(estimator="nvil", train__checkpoint_every=40), {}
    with (
        terminated_at_validation(),
        pytest.raises(Interrupted, match=r"SIGTERM at step 20.*resumes"),
    ):
        loop.run(config, str(tmp_path))
    assert checkpoint.latest_step(tmp_path / "checkpoints") == 20
    assert export.load_model(tmp_path)[1]["step"] == 20
    assert not (tmp_path / "evaluation.json").exists()

    monkeypatch.setattr(loop.checkpoint, "save", recording(resumed))
    (results,) = loop.run(config, str(tmp_path))
    assert results["step"] == 40
    chex.assert_trees_all_equal(resumed[40], uninterrupted[40])
    assert without_time(writer.read_scalars(tmp_path)) == without_time(
        writer.read_scalars(reference)
    )
    assert len(json.loads((tmp_path / "run.json").read_text())) == 2
    seconds = [entry["seconds"] for entry in writer.read_scalars(tmp_path, "train")]
    assert seconds == sorted(seconds)
    assert results["seconds"] > seconds[-1]


def test_a_run_that_goes_on_streamed_is_the_resident_one_bit_for_bit(
    finished, tmp_path, monkeypatch
):
    workdir, expected, resident = finished
    shutil.copytree(workdir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "00000040")
    streamed = {}
    monkeypatch.setattr(loop.checkpoint, "save", recording(streamed))
    config = tiny_config(estimator="nvil", data__resident=False)
    (results,) = loop.run(config, str(tmp_path / "run"))
    assert streamed.keys() == {40}
    chex.assert_trees_all_equal(streamed[40], resident[40])
    assert results | {"seconds": None} == expected | {"seconds": None}
    assert without_time(writer.read_scalars(tmp_path / "run")) == without_time(
        writer.read_scalars(workdir)
    )


def test_a_signal_while_the_last_step_is_saved_stops_the_run(finished, tmp_path, monkeypatch):
    shutil.copytree(finished[0], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "00000040")
    (tmp_path / "run" / "evaluation.json").unlink()

    def save_and_terminate(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop.checkpoint, "save", save_and_terminate)
    with pytest.raises(Interrupted, match="SIGTERM at step 40"):
        loop.run(tiny_config(estimator="nvil"), str(tmp_path / "run"))
    assert not (tmp_path / "run" / "evaluation.json").exists()


def test_calls_of_another_length_take_the_same_steps(finished, tmp_path, monkeypatch):
    *_, of_ten = finished
    config, of_twenty = tiny_config(estimator="nvil", train__steps_per_call=20), {}
    config["train"]["log_every"] = 20
    monkeypatch.setattr(loop.checkpoint, "save", recording(of_twenty))
    with terminated_at_validation(), pytest.raises(Interrupted, match="SIGTERM at step 20"):
        loop.run(config, str(tmp_path))
    chex.assert_trees_all_close(of_twenty[20], of_ten[20], rtol=1e-4, atol=1e-5)


def test_a_finished_run_evaluates_again_without_training(finished, monkeypatch):
    workdir, results, _ = finished
    monkeypatch.setattr(loop, "_train", None)
    (again,) = loop.evaluate_run(tiny_config(estimator="nvil"), str(workdir))
    assert again["iwae_num_images"] == 24
    for name in ("count_accuracy", "elbo", "average_precision_50", "step"):
        assert again[name] == pytest.approx(results[name], rel=1e-6)


def test_a_model_older_than_its_checkpoint_is_exported_again(finished, tmp_path):
    workdir, results, _ = finished
    shutil.copytree(workdir, tmp_path / "run")
    params, config = export.load_model(workdir)
    stale = jax.tree.map(lambda leaf: leaf * 0, params)
    export.export_model(tmp_path / "run" / "model", stale, {**config, "step": 20})
    (again,) = loop.run(tiny_config(estimator="nvil"), str(tmp_path / "run"))
    chex.assert_trees_all_equal(export.load_model(tmp_path / "run")[0], params)
    assert again["elbo"] == pytest.approx(results["elbo"], rel=1e-6)


def test_another_config_is_refused_with_the_differing_keys(finished):
    workdir, _, _ = finished
    config = tiny_config(estimator="nvil", prior__end=0.2, inference__hidden_size=17)
    with pytest.raises(ValueError, match=r"hidden_size: 64 there, 17 given\n  prior.end"):
        loop.run(config, str(workdir))
    with pytest.raises(ValueError, match=r"hidden_size: 64 there, 17 given\n  prior.end"):
        loop.evaluate_run(config, str(workdir))


def test_other_data_under_the_same_config_is_refused(finished, monkeypatch):
    workdir, _, _ = finished
    create = kinds.create_dataset

    def create_other(config):
        dataset = create(config)
        return dataset._replace(description={**dataset.description, "digest": "another"})

    monkeypatch.setattr(kinds, "create_dataset", create_other)
    for start in (loop.run, loop.evaluate_run):
        with pytest.raises(ValueError, match="begun with other data"):
            start(tiny_config(estimator="nvil"), str(workdir))


def test_a_start_that_failed_does_not_bind_the_next_one(tmp_path):
    with pytest.raises(ValueError, match="'relax'"):
        loop.run(tiny_config(estimator="relax"), str(tmp_path))
    assert not (tmp_path / "config.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train__steps_per_call": 30, "train__num_steps": 60}, "stopped at step 40, .* 30"),
        ({"train__num_steps": 20}, "stopped at step 40, .* up to train.num_steps, 20"),
    ],
)
def test_a_run_cannot_resume_between_calls_or_beyond_its_end(finished, change, message):
    workdir, _, _ = finished
    intervals = dict.fromkeys(("log_every", "evaluate_every", "checkpoint_every"))
    multiple = change.get("train__steps_per_call", 10)
    config = tiny_config(
        estimator="nvil", **change, **{f"train__{name}": multiple for name in intervals}
    )
    with pytest.raises(ValueError, match=message):
        loop.run(config, str(workdir))


@pytest.mark.parametrize("variant", ["air", "dair"])
def test_own_images_without_counts_train_and_are_evaluated(variant, tmp_path):
    rng = np.random.default_rng(0)
    images = np.zeros((40, 20, 24), np.uint8)
    images[:, 5:12, 6:14] = rng.integers(100, 255, (40, 7, 8))
    np.save(tmp_path / "photos.npy", images)
    config = tiny_config(
        data__source="path",
        data__path=str(tmp_path / "photos.npy"),
        inference__variant=variant,
        inference__glimpse_source="image",
    )
    (results,) = loop.run(config, str(tmp_path / "run"))
    assert results["count_accuracy"] is None
    assert results["average_precision_50"] is None
    assert np.isfinite([results["elbo"], results["iwae_5"]]).all()
    assert (tmp_path / "run" / "figures" / "timeline.png").exists()
    assert not (tmp_path / "run" / "figures" / "count_accuracy.png").exists()


@pytest.mark.parametrize("name", [n for n in sections.Options._fields if n != "snapshot_every"])
def test_sizes_that_are_not_positive_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match=f"train.{name} is 0; it must be at least 1"):
        loop.run(tiny_config(**{f"train__{name}": 0}), str(tmp_path))


INTERVALS = ["log_every", "evaluate_every", "checkpoint_every", "snapshot_every"]


def test_fewer_than_no_snapshots_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"train.snapshot_every is -10; it must be at least 0"):
        loop.run(tiny_config(train__snapshot_every=-10), str(tmp_path))


@pytest.mark.parametrize("name", ["num_steps", *INTERVALS])
def test_intervals_that_are_no_multiples_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match=f"train.{name} is 15; .* multiple of .* 10"):
        loop.run(tiny_config(**{f"train__{name}": 15}), str(tmp_path))


def test_a_batch_that_does_not_divide_is_refused(tmp_path):
    with pytest.raises(ValueError, match="batch of 6 does not divide over 4 devices"):
        loop.run(tiny_config(train__batch_size=6), str(tmp_path))


def test_divergence_names_the_step_and_leaves_the_last_good_checkpoint(
    tmp_path: pathlib.Path, monkeypatch
):
    create = train.create_optimizer

    @functools.wraps(create)  # its signature is that of the config's section
    def diverging(**options):
        optimizer = create(**options)

        def update(gradients, state, params):
            updates, state = optimizer.update(gradients, state, params)
            count = state.inner_states["model"].inner_state[1][0].count
            # The 25th update is infinite, so that the loss of step 25 is not a number.
            bad = jnp.where(count == 25, jnp.inf, 1.0)
            return jax.tree.map(lambda leaf: leaf * bad, updates), state

        return optimizer._replace(update=update)

    monkeypatch.setattr(train, "create_optimizer", diverging)
    with pytest.raises(NonFiniteError, match="not finite at step 25; .* of step 20"):
        loop.run(tiny_config(), str(tmp_path))
    assert checkpoint.latest_step(tmp_path / "checkpoints") == 20
