"""DAIR on sprites: coloured shapes that cover one another, 0 to 3 in an image.

    python -m air_jax.main --config=configs/sprites.py --workdir=runs/sprites

About ten minutes on one CPU core. Expected count accuracy on the test scenes: 94.7 to 95.8 % (3
seeds, with the first of which the prior was chosen). With layers in place of the paper's sum,
`--config.scene.composition=layered --config.scene.decoder_bias=-0.7`, it is 96.8 %.
`air_jax.experiments.occlusion` measures both by how much the shapes hide of each other
(results/occlusion/).
"""

from configs import dair


def get_config():
    """Three channels, windows of one size, a narrow code and up to three objects."""
    config = dair.get_config()
    config.estimator = "enumerate"
    config.data.source = "sprites"
    config.data.counts = (0, 1, 2, 3)
    config.data.image_size = 40
    config.data.sprite_size = (10, 18)
    config.data.num_train = 30_000
    # Windows of 18 pixels that hardly grow, and codes with room for one shape: otherwise one window
    # widens over two sprites that touch, and draws them both (WORKSPACE.md).
    config.scene.scale_prior = (2.2, 0.1)
    config.scene.window_size = 16
    config.scene.z_what_size = 8
    config.inference.num_steps = 4
    # A window of 18 pixels can be centred 15 from the middle, as a sprite of 10 can.
    config.inference.place_span = 1.7
    # What is left of a shape behind others is small, and has to be told from what a drawn one
    # leaves over, wherever it is (WORKSPACE.md has the measurement).
    config.inference.patch_size = 5
    config.inference.patch_features = 64
    config.inference.evidence = 32
    config.inference.encoder_hidden = (400,)
    config.scene.decoder_hidden = (400,)
    # A filled shape in three channels explains many hundred nats, a digit three hundred: dearer
    # too, and to the end, or they are spent on what a first window has drawn badly (WORKSPACE.md).
    config.prior.start = 1e-15
    config.prior.end = 1e-14
    config.optimizer.learning_rate = 8e-4
    config.optimizer.clip_norm = 5_000.0
    config.train.num_steps, config.train.steps_per_call = 3_000, 50
    return config
