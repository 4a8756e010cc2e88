"""DAIR on sprites: coloured shapes that cover one another, 0 to 3 in an image. Not measured yet.

python -m air_jax.main --config=configs/sprites.py --workdir=runs/sprites
"""

from configs import dair


def get_config():
    """Three channels, larger windows and up to three objects."""
    config = dair.get_config()
    config.estimator = "enumerate"
    config.data.source = "sprites"
    config.data.counts = (0, 1, 2, 3)
    config.data.sprite_size = (12, 22)
    config.data.num_train = 30_000
    config.scene.scale_prior = (2.1, 0.2)  # windows of about 24 pixels
    config.inference.num_steps = 4
    return config
