"""Configs of renderers' scenes that run in seconds."""

from air_jax.experiments import ablation
from air_jax.models.scene3d import Scene3D, create_scene3d
from configs import scene3d_object

_SIZES = {
    "data.image_size": 8,
    "data.supersampling": 1,
    "data.num_train": 16,
    "data.num_validation": 4,
    "data.num_test": 6,
    "inference.hidden_size": 5,
    "inference.embedding_size": 5,
    "inference.predictor_hidden": (4,),
    "inference.patch_features": 3,
    "baseline.hidden_size": 4,
    "baseline.embedding_size": 4,
    "train.batch_size": 4,
    "train.num_steps": 4,
    "train.steps_per_call": 2,
    "train.log_every": 2,
    "train.evaluate_every": 4,
    "train.checkpoint_every": 4,
    "train.validation_images": 4,
    "evaluation.iwae_images": 2,
    "evaluation.iwae_samples": 3,
}


def config(**changes):
    """Of one solid on 8x8 images, with changes by name, `__` for a dot."""
    named = {name.replace("__", "."): value for name, value in changes.items()}
    return ablation.change(scene3d_object.get_config().to_dict(), {**_SIZES, **named})


# Changes that turn it into crockery on a table.
TABLE = {
    "data.catalogue": "crockery",
    "data.counts": [0, 1, 2, 3],
    "data.camera_range": [25.0, 8.0],
    "data.extent": 1.1,
    "scene.catalogue": "crockery",
    "scene.camera_scale": [14.4, 4.6],
    "scene.reach": 1.5,
    "inference.num_steps": 3,
    "inference.fixed_count": False,
}


def scene_model(of_config) -> Scene3D:
    """A config's scene model, on 8x8 images."""
    return create_scene3d(of_config["scene"], image_size=8, channels=3)
