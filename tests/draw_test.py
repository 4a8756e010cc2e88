"""DRAW through the same train step and loop as AIR: it learns, resumes, is exported, evaluated."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import air_jax
from air_jax import checkpoint, distributions, export, kinds, loop, parallel, writer
from air_jax.draw import DrawModel, create_draw_training
from air_jax.interruption import Interrupted
from configs import draw as draw_config
from tests.loop_test import recording, terminated_at_validation, without_time

SIZES = {"num_steps": 4, "read_size": 5, "write_size": 5, "hidden_size": 24, "z_size": 4}
DRAW = {**SIZES, "canvas_bias": -2.0, "likelihood_scale": 0.3}


def squares(num_images):
    """White squares of side 5 anywhere in 16x16, uint8."""
    corners = np.random.default_rng(0).integers(0, 12, (num_images, 2))
    images = np.zeros((num_images, 16, 16, 1), np.uint8)
    for image, (y, x) in zip(images, corners, strict=True):
        image[y : y + 5, x : x + 5] = 255
    return images


def test_it_learns_to_draw_what_no_single_canvas_fits():
    training = create_draw_training(
        draw=DRAW,
        optimizer={"learning_rate": 5e-3, "final_fraction": 0.1, "clip_norm": 1_000.0},
        num_train_steps=300,
        image_size=16,
        channels=1,
    )
    images = squares(512)
    run_steps = parallel.pmap_steps(training.train_step, 300)
    positions = parallel.batch_positions(32, jax.local_device_count())
    state, metrics = run_steps(
        parallel.replicate(training.init(jax.random.key(0))),
        parallel.shard(positions),
        parallel.replicate(images),
        parallel.replicate(jax.random.key(1)),
    )
    # The best that a model can do whose latents say nothing: the mean image.
    scaled = jnp.asarray(images, jnp.float32) / 255
    mean = jnp.broadcast_to(scaled.mean(0), scaled.shape)
    single_canvas = float(distributions.image_log_prob(scaled, mean, scale=0.3).mean())
    assert float(metrics["elbo"][-20:].mean()) > single_canvas + 20
    assert int(state.step) == 300


def tiny_config(**changes):
    """The shipped config, with few and small of everything; `changes` are "section__key"."""
    config = draw_config.get_config()
    config.data.update(source="embedded", image_size=32, counts=(0, 1), num_train=64)
    config.data.update(num_validation=16, num_test=24)
    config.draw.update(num_steps=3, read_size=4, write_size=4, hidden_size=8, z_size=3)
    config.train.update(batch_size=8, num_steps=20, steps_per_call=5, log_every=5)
    config.train.update(evaluate_every=10, checkpoint_every=10, validation_images=16)
    config.evaluation.update(iwae_images=8, iwae_samples=5)
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return json.loads(config.to_json())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, and the states it saved."""
    workdir = tmp_path_factory.mktemp("finished")
    saved = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.checkpoint, "save", recording(saved))
        (results,) = loop.run(tiny_config(), str(workdir))
    return workdir, results, saved


def test_a_run_leaves_everything_but_counts(finished):
    workdir, results, _ = finished
    written = json.loads((workdir / "evaluation.json").read_text())
    assert written["step"] == results["step"] == 20
    assert written["num_images"] == 24
    assert written["elbo"] == pytest.approx(written["log_p_x"] - written["kl"], rel=1e-5)
    assert written["iwae_5"] > written["elbo_iwae_images"]
    assert not {"count_accuracy", "average_precision_50"} & written.keys()
    drawn = {path.name for path in (workdir / "figures").iterdir()}
    assert drawn == {"timeline.png", "elbo.png"}
    assert writer.read_scalars(workdir, "train")[-1].keys() >= {
        *("loss", "elbo", "log_p_x", "kl", "gradient_norm_model", "steps_per_second")
    }
    validation = writer.read_scalars(workdir, "validation")[-1]
    assert validation.keys() == {"step", "split", "elbo", "log_p_x", "kl", "seconds"}


def test_an_interrupted_run_resumes_bit_for_bit(finished, tmp_path, monkeypatch):
    reference, _, uninterrupted = finished
    # No checkpoint is due before the end: the one at step 10 is the signal's.
    config, resumed = tiny_config(train__checkpoint_every=20), {}
    with terminated_at_validation(), pytest.raises(Interrupted, match="SIGTERM at step 10"):
        loop.run(config, str(tmp_path))
    assert checkpoint.latest_step(tmp_path / "checkpoints") == 10
    monkeypatch.setattr(loop.checkpoint, "save", recording(resumed))
    loop.run(config, str(tmp_path))
    chex.assert_trees_all_equal(resumed[20], uninterrupted[20])
    assert without_time(writer.read_scalars(tmp_path)) == without_time(
        writer.read_scalars(reference)
    )


def test_a_finished_run_evaluates_again_on_all_images(finished):
    workdir, results, _ = finished
    (again,) = loop.evaluate_run(tiny_config(), str(workdir))
    assert again["iwae_num_images"] == 24
    assert again["elbo"] == pytest.approx(results["elbo"], rel=1e-6)


def test_each_of_two_seeds_is_the_run_that_it_would_be_alone(finished, tmp_path):
    _, alone, _ = finished
    results = loop.run(tiny_config(num_seeds=2), str(tmp_path))
    assert [result["seed"] for result in results] == [0, 1]
    assert results[0]["elbo"] == pytest.approx(alone["elbo"], rel=1e-3)
    first, second = (air_jax.load(tmp_path / f"seed_{seed}") for seed in (0, 1))
    assert second.config["seed"] == 1
    kernels = [model.params["predict_read"]["kernel"] for model in (first, second)]
    assert np.abs(kernels[0] - kernels[1]).max() > 0.01


@pytest.fixture(scope="module")
def model(finished):
    return air_jax.load(finished[0])


def test_the_exported_model_is_the_runs(finished, model):
    workdir, _, saved = finished
    assert isinstance(model, DrawModel)
    assert export.load_model(workdir)[1]["model"] == "draw"
    chex.assert_trees_all_equal(model.params, saved[20].params["model"])
    with pytest.raises(checkpoint.CheckpointError, match="'draw', which finds no objects"):
        kinds.load_air(workdir)


def test_inference_does_not_depend_on_batches(model):
    images = np.random.default_rng(0).integers(0, 256, (7, 32, 32), np.uint8)
    expected = model.infer(images)
    chex.assert_shape(expected.z, (7, 3, 3))
    chex.assert_shape([expected.read_windows, expected.write_windows], (7, 3, 4))
    chex.assert_shape(expected.reconstructions, (7, 32, 32, 1))
    found = model.infer(images, batch_size=4)  # the last one padded
    chex.assert_trees_all_close(found._asdict(), expected._asdict(), rtol=1e-4, atol=1e-4)
    key = jax.random.key(0)
    bounds = model.iwae(images, key=key, num_samples=5)
    np.testing.assert_allclose(
        model.iwae(images, key=key, num_samples=5, batch_size=4), bounds, rtol=1e-4
    )
    with pytest.raises(ValueError, match=r"takes \[n, 32, 32, 1\]"):
        model.infer(images[:, 1:])


def test_windows_are_in_pixels_and_steps_can_be_drawn(model):
    images = np.zeros((2, 32, 32, 1), np.float32)
    found, steps = model.infer(images), model.draw(images)
    chex.assert_shape(steps.canvases, (2, 3, 32, 32, 1))
    np.testing.assert_allclose(steps.canvas, found.reconstructions, atol=1e-5)
    # Four filters span three strides; the paper's pixel 1 is centred at 0.5 here.
    span = 3 * steps.write.stride[..., None]
    low, high = np.split(found.write_windows, 2, axis=-1)
    np.testing.assert_allclose(high - low, np.broadcast_to(span, low.shape), rtol=1e-4)
    np.testing.assert_allclose((high + low) / 2, steps.write.centre - 0.5, atol=1e-3)
