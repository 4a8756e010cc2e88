"""DAIR on Omniglot: glyphs taken apart into parts that resemble strokes (paper, Sec. 3.1).

    python -m air_jax.main --config=configs/omniglot.py --workdir=runs/omniglot

Needs a prepared TFDS `omniglot`; without one the command says how to prepare it. Trained on 2,460
pictures of five alphabets, tested on 2,120 of three others; about three minutes on two CPU cores.
Nobody counted strokes, so that there is an ELBO and a reconstruction error and no accuracy:
804 ± 39 nats on the test set, 441 more than with a single step (`air_jax.experiments.parsing`, two
seeds each; results/parsing/).
"""

from configs import dair


def get_config():
    """Up to four steps, windows smaller than a glyph, a narrow code and a sharper likelihood."""
    config = dair.get_config()
    config.estimator = "enumerate"
    config.data.source = "omniglot"
    config.data.counts = ()
    # Half of all glyphs are 29 of 50 pixels tall and wide or more. A window of 18 that hardly grows
    # holds a stroke or two, and a code of 10 numbers has no room for a whole glyph.
    config.scene.scale_prior = (2.8, 0.3)
    config.scene.window_size = 20
    config.scene.z_what_size = 10
    # With 0.3, and AIR's recurrence, parts were blurred and lay one upon another (WORKSPACE.md).
    config.scene.likelihood_scale = 0.2
    config.inference.num_steps = 4
    return config
