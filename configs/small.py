"""A small DAIR, which the package ships: `air_jax/weights/digits`.

    python -m air_jax.main --config=configs/small.py --workdir=runs/small

Expected count accuracy on the test scenes: 98.8 % (TFDS digits, seed 0, which was used to choose
it); 644 kB. A quarter of an hour on a CPU core that other programs shared.
"""

from configs import dair


def get_config():
    """DAIR with narrow layers that sees patches, on digits of varying size."""
    config = dair.get_config()
    config.estimator = "enumerate"
    config.data.digit_scale = (0.8, 1.1)
    config.scene.window_size = 20
    config.scene.z_what_size = 20
    config.scene.decoder_hidden = (80,)
    config.scene.scale_prior = (2.1, 0.2)
    config.inference.hidden_size = 64
    config.inference.embedding_size = 32
    config.inference.predictor_hidden = (32,)
    config.inference.encoder_hidden = (64,)
    # Few units for the whole image are not enough to find a place by: patches are.
    config.inference.patch_size = 5
    config.inference.patch_features = 16
    config.inference.evidence = 32
    config.inference.presence_logit = 3.0
    # What such a decoder leaves over would pay for a second window: dear to the end.
    config.prior.start = 1e-9
    config.prior.end = 1e-11
    config.optimizer.learning_rate = 8e-4
    config.train.num_steps = 7_200
    return config
