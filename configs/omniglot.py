"""AIR on Omniglot: glyphs taken apart into parts that resemble strokes (paper, Sec. 3.1).

    python -m air_jax.main --config=configs/omniglot.py --workdir=runs/omniglot

Needs a prepared TFDS `omniglot`; without one the command says how to prepare it. Trained on 2,460
pictures of five alphabets, tested on 2,120 of three others. Nobody counted strokes, so that there
is an ELBO and a reconstruction error and no accuracy (`air_jax.experiments.parsing` compares both
with those of a single step). Not measured yet: the sizes below follow from those of the glyphs, the
prior's schedule is that of digits. A trial that was stopped after 390 steps drew nearly every glyph
in four parts, blurred and one upon another, its ELBO still rising (WORKSPACE.md).
"""

from configs import base


def get_config():
    """Up to four steps, windows smaller than a glyph and a narrow code."""
    config = base.get_config()
    config.estimator = "enumerate"
    config.data.source = "omniglot"
    config.data.counts = ()
    # Half of all glyphs are 29 of 50 pixels tall and wide or more. A window of 18 that hardly grows
    # holds a stroke or two, and a code of 10 numbers has no room for a whole glyph.
    config.scene.scale_prior = (2.8, 0.3)
    config.scene.window_size = 20
    config.scene.z_what_size = 10
    config.inference.num_steps = 4
    return config
