"""AIR through a renderer: scenes of one solid (paper, Sec. 3.2, figure 6, left).

python -m air_jax.main --config=configs/scene3d_object.py --workdir=runs/scene3d_object
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """One object whose identity, position and rotation are to be found from images alone."""
    common = base.get_config()
    config = ConfigDict()
    config.model = "air3d"
    for name in ("seed", "num_seeds", "num_samples", "centring", "baseline", "prior", "train"):
        config[name] = common[name]
    config.estimator = "nvil"

    # air_jax.data.tabletop.create_tabletop
    config.data = ConfigDict(
        {
            "catalogue": "solids",
            "counts": (1,),
            "repetition": False,
            "image_size": 32,
            "field_of_view": 34.0,
            "supersampling": 2,
            "extent": 1.2,
            "camera_range": (0.0, 0.0),
            "perturbation": 0.0,
            "num_train": 20_000,
            "num_validation": 1_000,
            "num_test": 2_000,
            "seed": 0,
        }
    )

    # air_jax.models.scene3d.Scene3D
    config.scene = ConfigDict(
        {
            "catalogue": "solids",
            "field_of_view": 34.0,
            "supersampling": 1,
            # Further out than objects stand, and still in the image (WORKSPACE.md).
            "reach": 1.4,
            "position_scale": 0.9,
            "camera_scale": (0.0, 0.0),
            "likelihood_scale": 0.1,
            "position_step": 0.06,  # half a pixel
            "angle_step": 9.0,
            # "finite_differences", the paper's, or "surface_motion", the ray caster's own.
            "gradient": "finite_differences",
        }
    )

    # air_jax.models.air3d.AIR3D
    config.inference = ConfigDict(
        {
            "variant": "air",
            "num_steps": 1,
            "fixed_count": True,
            "hidden_size": 256,
            "embedding_size": 256,
            "predictor_hidden": (200,),
            "patch_size": 4,
            "patch_features": 32,
            "presence_logit": 0.0,
            "yaw_scale": 0.4,
        }
    )

    # air_jax.train3d.create_exploration; with 1,000 steps one seed of two gave up
    # cylinders (WORKSPACE.md).
    config.exploration = ConfigDict({"start": 1.0, "hold": 0, "steps": 2_500})

    # air_jax.train.create_optimizer
    config.optimizer = ConfigDict(
        {
            "learning_rate": 5e-4,
            "baseline_learning_rate": 5e-3,
            "final_fraction": 0.01,
            "clip_norm": 1e5,
        }
    )
    config.prior.steps = 0
    config.train.num_steps, config.train.steps_per_call = 6_000, 50
    config.evaluation = ConfigDict({"iwae_images": 100, "iwae_samples": 100})
    return config.lock()
