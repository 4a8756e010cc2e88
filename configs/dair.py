"""DAIR on multi-MNIST (paper, Sec. 3.1): about two minutes on two CPU cores.

    python -m air_jax.main --config=configs/dair.py --workdir=runs/dair

Expected count accuracy on the test scenes: 97.9 to 99.2 % with nvil, 98.4 to 99.2 % with enumerate
(20 seeds each; results/reliability/).
"""

from configs import base


def get_config():
    """The recurrence sees the error canvas, and so does the window."""
    config = base.get_config()
    config.inference.variant = "dair"
    config.inference.glimpse_source = "error"
    # A first window between two digits costs DAIR little, since a later object can mend what is
    # left. On a map of places there is no between (WORKSPACE.md).
    config.inference.place = "map"
    config.prior.start = 1e-9
    config.prior.end = 1e-5
    config.prior.steps = 1_800
    config.inference.presence_logit = 2.0
    config.inference.embedding_size = 512
    config.optimizer.learning_rate = 4e-4
    config.optimizer.baseline_learning_rate = 4e-3
    config.train.num_steps = 2_400
    return config
