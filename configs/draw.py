"""DRAW (Gregor et al., 2015) on multi-MNIST, which the paper compares AIR with (Sec. 3.1.1).

    python -m air_jax.main --config=configs/draw.py --workdir=runs/draw

It counts nothing. A quarter of an hour on one CPU core; ELBO on the test scenes 452, 497 and 519
nats (seeds 100 to 102, TFDS digits), still rising (results/extrapolation/).
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """The base config's data, intervals and evaluation; a model of its own."""
    shared = base.get_config()
    config = ConfigDict({"model": "draw", "seed": shared.seed, "num_seeds": shared.num_seeds})
    config.data = shared.data

    # air_jax.models.draw.DRAW
    config.draw = ConfigDict(
        {
            "num_steps": 40,  # as in the paper
            "read_size": 12,
            "write_size": 12,
            "hidden_size": 256,
            "z_size": 50,
            "canvas_bias": -2.0,  # as the decoder of AIR's base config
            "likelihood_scale": 0.3,  # AIR's: the bounds are of the same likelihood
        }
    )

    # air_jax.train.create_optimizer
    config.optimizer = ConfigDict(
        {"learning_rate": 1e-3, "final_fraction": 0.01, "clip_norm": 1_000.0}
    )

    # air_jax.loop
    config.train = shared.train
    # A step takes some twenty times as long as one of AIR's.
    config.train.num_steps, config.train.steps_per_call = 1_600, 50
    # air_jax.evaluate.evaluate
    config.evaluation = shared.evaluation
    return config.lock()
