"""A small DAIR, which the package ships: `air_jax/weights/digits`.

python -m air_jax.main --config=configs/small.py --workdir=runs/small
"""

from configs import dair


def get_config():
    """DAIR with narrow layers and smaller windows, on digits of varying size."""
    config = dair.get_config()
    config.estimator = "enumerate"
    config.data.digit_scale = (0.8, 1.1)
    config.scene.window_size = 20
    config.scene.z_what_size = 20
    config.scene.decoder_hidden = (64,)
    config.scene.scale_prior = (2.3, 0.3)
    config.inference.hidden_size = 64
    config.inference.embedding_size = 24
    config.inference.predictor_hidden = (32,)
    config.inference.encoder_hidden = (64,)
    config.train.num_steps = 7_200
    return config
