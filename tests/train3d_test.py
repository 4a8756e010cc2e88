"""The loss through a renderer, exploration, several seeds in one program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from air_jax import control_variates, estimators, inverse_graphics, loop, train3d, writer
from air_jax.data.tabletop import create_tabletop
from air_jax.distributions import UnaryCode
from air_jax.experiments import ablation
from air_jax.models.air3d import create_air3d
from tests import tiny3d


def test_enumeration_is_for_one_object():
    config = tiny3d.config(estimator="enumerate", inference__num_steps=2)
    names = ("estimator", "scene", "inference", "baseline", "prior", "exploration", "optimizer")
    options = {name: config[name] for name in (*names, "num_samples", "centring")}
    with pytest.raises(ValueError, match="one object that is known to be there"):
        train3d.create_training(**options, num_train_steps=4, image_size=8, channels=3)


def test_enumeration_is_what_the_score_function_is_on_average():
    """Of one image: the mean gradient over many noises, within its standard errors."""
    config = tiny3d.config()
    air = create_air3d(
        scene=config["scene"], inference=config["inference"], image_size=8, channels=3
    )
    images = jnp.array(create_tabletop(**config["data"]).train.images[:1] / 255.0, jnp.float32)
    params = {"model": jax.jit(air.init)(jax.random.key(0), images, air.mean_noise(1))["params"]}
    prior = inverse_graphics.prior_over_counts(air, UnaryCode(jnp.zeros(1)))

    def gradients(surrogate):
        def one(key):
            noise = air.sample_noise(key[None])

            def loss(bias):
                changed = {**params["model"]["predict_what"]["Dense_1"], "bias": bias}
                what = {**params["model"]["predict_what"], "Dense_1": changed}
                given = {"model": {**params["model"], "predict_what": what}}
                return surrogate(given, moments, 0, images, noise).loss.sum()

            return jax.grad(loss)(params["model"]["predict_what"]["Dense_1"]["bias"])

        return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), 4_000)))

    moments = control_variates.initial_moments(1)
    score = estimators.create_surrogate(
        "reinforce", air=air, baseline=None, prior=lambda step: prior, centring="none"
    )
    sampled = gradients(score)
    exact = gradients(train3d._create_enumeration(air, lambda step: prior))
    errors = np.sqrt((sampled.var(0) + exact.var(0)) / len(sampled))
    difference = sampled.mean(0) - exact.mean(0)
    assert (np.abs(difference) < 4 * errors).all()
    assert (np.abs(exact.mean(0)) > 4 * errors).any()  # there is something to tell


def test_exploration_falls_from_its_start_to_zero():
    share = train3d.create_exploration(start=0.8, hold=0, steps=10)
    np.testing.assert_allclose([share(jnp.array(i)) for i in (0, 5, 10, 99)], [0.8, 0.4, 0, 0])
    held = train3d.create_exploration(start=0.8, hold=5, steps=10)
    np.testing.assert_allclose([held(jnp.array(i)) for i in (0, 5, 7.5, 10)], [0.8, 0.8, 0.4, 0])
    assert train3d.create_exploration(start=1.0, hold=0, steps=0)(jnp.array(0)) == 0
    for wrong, message in (
        ({"start": 1.5}, "start is 1.5"),
        ({"hold": 11}, "hold is 11"),
        ({"hold": -1}, "hold is -1"),
    ):
        with pytest.raises(ValueError, match=message):
            train3d.create_exploration(**{"start": 1.0, "hold": 0, "steps": 10, **wrong})


def test_several_seeds_are_the_runs_that_they_would_be_alone(tmp_path):
    """With exploration, whose renderings both branches of a condition have over seeds."""
    changes = {**tiny3d.TABLE, "inference.num_steps": 2, "data.counts": [0, 1, 2]}
    changes |= {"inference.variant": "dair", "exploration.steps": 3, "evaluation.iwae_images": 0}
    config = ablation.change(tiny3d.config(seed=3, scene__gradient="surface_motion"), changes)
    together = loop.run({**config, "num_seeds": 2}, str(tmp_path / "both"))
    (alone,) = loop.run({**config, "seed": 4}, str(tmp_path / "alone"))
    assert together[1]["elbo"] == pytest.approx(alone["elbo"], rel=1e-3)
    assert together[0]["elbo"] != pytest.approx(alone["elbo"], rel=1e-3)
    for one, other in zip(
        writer.read_scalars(tmp_path / "both" / "seed_4", "train"),
        writer.read_scalars(tmp_path / "alone", "train"),
        strict=True,
    ):
        assert one["elbo"] == pytest.approx(other["elbo"], rel=1e-3)
