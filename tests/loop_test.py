"""Whole runs, small: interruption, resuming, refusals, divergence, what is left in the workdir."""

import json
import os
import pathlib
import signal

import chex
import jax
import jax.numpy as jnp
import pytest

from air_jax import checkpoint, loop, train, writer
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
    return [
        {name: value for name, value in entry.items() if name != "steps_per_second"}
        for entry in entries
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run with nvil, and the state it ended with."""
    workdir = tmp_path_factory.mktemp("finished")
    saved = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.checkpoint, "save", recording(saved))
        results = loop.run(tiny_config(estimator="nvil"), str(workdir))
    return workdir, results, saved


def recording(saved, after=None):
    """`checkpoint.save` that also keeps the state by step, and then calls `after(step)`."""
    save = checkpoint.save

    def wrapped(directory, step, tree, **options):
        path = save(directory, step, tree, **options)
        saved[step] = jax.device_get(tree)
        if after is not None:
            after(step)
        return path

    return wrapped


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
    config, resumed = tiny_config(estimator="nvil"), {}

    def terminate(step):
        if step == 20:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop.checkpoint, "save", recording(resumed, terminate))
    with pytest.raises(loop.Interrupted, match="SIGTERM at step 20.*resumes"):
        loop.run(config, str(tmp_path))
    assert checkpoint.latest_step(tmp_path / "checkpoints") == 20
    assert not (tmp_path / "evaluation.json").exists()
    results = loop.run(config, str(tmp_path))
    assert results["step"] == 40
    chex.assert_trees_all_equal(resumed[40], uninterrupted[40])
    assert without_time(writer.read_scalars(tmp_path)) == without_time(
        writer.read_scalars(reference)
    )
    assert len(json.loads((tmp_path / "run.json").read_text())) == 2


def test_a_finished_run_evaluates_again_without_training(finished, monkeypatch):
    workdir, results, _ = finished
    monkeypatch.setattr(train, "create_train_step", None)
    again = loop.evaluate_run(tiny_config(estimator="nvil"), str(workdir))
    assert again["iwae_num_images"] == 24
    for name in ("count_accuracy", "elbo", "average_precision_50", "step"):
        assert again[name] == pytest.approx(results[name], rel=1e-6)


def test_another_config_is_refused_with_the_differing_keys(finished):
    workdir, _, _ = finished
    config = tiny_config(estimator="nvil", prior__end=0.2, inference__hidden_size=17)
    with pytest.raises(ValueError, match=r"hidden_size: 64 there, 17 given\n  prior.end"):
        loop.run(config, str(workdir))


def test_more_steps_and_other_intervals_are_allowed(finished, tmp_path):
    workdir, _, _ = finished
    os.symlink(workdir / "config.json", tmp_path / "config.json")
    config = tiny_config(estimator="nvil", train__num_steps=80, train__log_every=40)
    loop.provenance.check_resumable(tmp_path / "config.json", config, allowed=loop._RESUMABLE)


def test_other_data_under_the_same_config_is_refused(finished):
    workdir, _, _ = finished
    with pytest.raises(ValueError, match="begun with other data"):
        loop.provenance.record(workdir, {}, {"source": "tfds", "folder": None})


@pytest.mark.parametrize("name", ["num_steps", "log_every", "evaluate_every", "checkpoint_every"])
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

    def diverging(**options):
        optimizer = create(**options)

        def update(gradients, state, params):
            updates, state = optimizer.update(gradients, state, params)
            count = state.inner_states["model"].inner_state[0].count
            # The 25th update is infinite, so that the loss of step 25 is not a number.
            bad = jnp.where(count == 25, jnp.inf, 1.0)
            return jax.tree.map(lambda leaf: leaf * bad, updates), state

        return optimizer._replace(update=update)

    monkeypatch.setattr(train, "create_optimizer", diverging)
    with pytest.raises(loop.NonFiniteError, match="loss.* not finite at step 25;"):
        loop.run(tiny_config(), str(tmp_path))
    assert checkpoint.latest_step(tmp_path / "checkpoints") == 20
