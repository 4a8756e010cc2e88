"""Every field there is, at the paper's values (Sec. 3, 3.1) or at measured ones.

Variants import this and override what differs. Each section is the argument list of one function.
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    """AIR on multi-MNIST with the paper's estimator."""
    config = ConfigDict()
    # "air", also for DAIR. "draw" has a config of its own, configs/draw.py.
    config.model = "air"
    config.seed = 0
    # Independent runs in one program, with seeds from the first one on: on an accelerator they cost
    # little more than one.
    config.num_seeds = 1
    # "nvil", the paper's score function with neural baselines; "enumerate", the exact expectation
    # over n; "reinforce", without a baseline network; "vimco", that of the IWAE bound.
    config.estimator = "nvil"
    # Passes over each image: their mean, or for "vimco" the K of its bound.
    config.num_samples = 1
    # What a score function's signal is centred by: "none", "moving_mean" over earlier batches or
    # "leave_one_out" over the other samples.
    config.centring = "moving_mean"

    # air_jax.data.dataset.create_dataset
    config.data = ConfigDict(
        {
            # "tfds", "embedded" or "auto" (digits), "sprites", "omniglot", "path" (your own)
            "source": "auto",
            "tfds_dir": "",  # TFDS's folder; "" for TFDS_DATA_DIR or TFDS's default
            "path": "",  # for source "path": a folder of pictures, an .npz or an .npy
            "invert": False,  # for source "path": dark objects on a light background
            # Where composed scenes are kept; None for the user's cache folder, "" for nowhere.
            "cache_dir": config_dict.placeholder(str),
            # Whether every device holds all training images. If not, they are read from shards in
            # cache_dir as they are drawn: the same run, for sets larger than a memory.
            "resident": True,
            "image_size": 50,
            "counts": (0, 1, 2),
            "digit_scale": (1.0, 1.0),
            "sprite_size": (),  # for source "sprites": least and greatest side, pixels
            "noise": 0.0,  # standard deviation of Gaussian noise upon the scenes
            "num_train": 60_000,
            "num_validation": 5_000,
            "num_test": 10_000,
            "seed": 0,
        }
    )

    # air_jax.models.scene2d.Scene2D
    config.scene = ConfigDict(
        {
            "window_size": 28,
            "z_what_size": 50,
            "decoder_hidden": (200,),
            "decoder_bias": -2.0,
            "scale_prior": (2.2, 0.2),  # windows of about 23 pixels for digits with 20 of ink
            "shift_prior": (0.0, 1.0),
            "likelihood_scale": 0.3,
            # "additive", the paper's sum, or "layered": later objects lie behind earlier ones.
            "composition": "additive",
        }
    )

    # air_jax.models.air.AIR
    config.inference = ConfigDict(
        {
            "variant": "air",
            "num_steps": 3,
            "hidden_size": 256,
            "embedding_size": 256,
            "predictor_hidden": (200,),
            "encoder_hidden": (200,),
            "glimpse_source": "image",
            "presence_logit": 0.0,
            "image_init_scale": 1 / 16,
            # Where the next object is: by "regression", or the peak of a "map" of places.
            "place": "regression",
            "place_grid": 16,
            "place_radius": 0.4,
            "place_span": 1.0,
            # Side of the patches whose features the embedding sees, in pixels; 0 for none.
            "patch_size": 0,
            "patch_features": 32,
            # Units of each patch's own evidence for an object there; 0 for none.
            "evidence": 0,
        }
    )

    # air_jax.models.modules.Baseline, and the decay of the gain's moving moments
    config.baseline = ConfigDict(
        {"hidden_size": 256, "embedding_size": 256, "image_init_scale": 1 / 16, "decay": 0.99}
    )

    # air_jax.distributions.create_prior: P(one more object), from dear to cheap. From 1e-9, AIR
    # with enumerate kept to one object in most runs; from 1e-6 in none (WORKSPACE.md).
    config.prior = ConfigDict({"name": "geometric", "start": 1e-6, "end": 1e-2, "steps": 2_000})

    # air_jax.train.create_optimizer
    config.optimizer = ConfigDict(
        {
            "learning_rate": 5e-4,
            "baseline_learning_rate": 5e-3,
            "final_fraction": 0.01,
            # Two to three times the usual norm: a guard against the rare 10,000. Short runs of five
            # seeds do without it as well (WORKSPACE.md).
            "clip_norm": 1_000.0,
        }
    )

    # air_jax.loop
    config.train = ConfigDict(
        {
            "batch_size": 64,
            "num_steps": 2_400,
            # Two seconds of a CPU; beside its steps a call costs an accelerator a millisecond.
            "steps_per_call": 100,
            "log_every": 100,
            "evaluate_every": 200,
            "checkpoint_every": 1_000,
            # Keeps the model of every so many steps, for figures over training; 0 for none.
            "snapshot_every": 0,
            "validation_images": 1_000,
        }
    )

    # air_jax.evaluate.evaluate
    config.evaluation = ConfigDict({"iwae_images": 1_000, "iwae_samples": 100})
    return config.lock()
